"""Writes that the database refuses: to the old side for whatever reason, to the new one by a row's constraint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg

from embedtui.errors import EmbedtuiError
from embedtui.postgres.connect import Connection, exhausted, translate

TRIES = 16
"""Refusals, with nothing accepted, after which the side itself is refused, and not one of its rows: more than it takes
to find one row of a batch."""


class Unwritable(Exception):
    """The database refuses to write a vector, for a reason that is not its own health."""

    def __init__(self, error: EmbedtuiError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def refusing(conn: Connection) -> Iterator[None]:
    """Around a transaction that writes old vectors: what fails in it, in a session that is well, is `Unwritable`.

    Whatever its code says: a lock that a trigger waits for or a server that it calls is no reason to wait here.
    A lock on the table itself is: no row of it is edited either while writes are locked out.
    """
    try:
        yield
    except psycopg.Error as error:
        locked = isinstance(error, psycopg.errors.LockNotAvailable) and not error.diag.context
        if conn.closed or conn.broken or error.sqlstate is None or exhausted(error) or locked:
            raise
        raise Unwritable(translate(error)) from error


@contextlib.contextmanager
def refusing_rows() -> Iterator[None]:
    """Around a transaction that writes new vectors: a constraint that a row breaks is `Unwritable`.

    A CHECK that is NOT VALID is looked at again with every write of a row.
    """
    try:
        yield
    except psycopg.IntegrityError as error:
        raise Unwritable(translate(error)) from error


def each_row(count: int, write: Callable[[slice], object]) -> dict[int, Unwritable]:
    """Write so many rows, by halves where one breaks a constraint; those that do, by their place.

    Raises EmbedtuiError: whatever is tried is refused.
    """
    found = by_halves(count, write)
    if found.last is not None and not found.accepted and len(found.refused) < count:
        raise found.last.error
    return found.refused


@dataclass(frozen=True, slots=True)
class Halved:
    """What came of writing a batch."""

    accepted: bool
    """Some of it was."""
    refused: dict[int, Unwritable]
    """Rows that were refused on their own, by their place."""
    last: Unwritable | None = None


def by_halves(count: int, write: Callable[[slice], object]) -> Halved:
    """Write so many rows at once, and by halves what is refused; given up after ``TRIES`` with nothing accepted."""
    refused: dict[int, Unwritable] = {}
    last: Unwritable | None = None
    accepted, tries, parts = False, 0, [slice(0, count)]
    while parts and (accepted or tries < TRIES):
        part = parts.pop()
        try:
            write(part)
        except Unwritable as error:
            tries, last = tries + 1, error
            middle = (part.start + part.stop) // 2
            if middle == part.start:
                refused[middle] = error
            else:
                parts += [slice(middle, part.stop), slice(part.start, middle)]
        else:
            accepted = True
    return Halved(accepted, refused, last)
