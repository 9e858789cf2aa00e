"""What the steps of a cleanup and of an abort share: alone, holding the route, and told when that was taken back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from embedtui.errors import Refused
from embedtui.formatting import duration
from embedtui.model import Migration, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.locks import CLEANUP_CLASS
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.ending import remember, rows_sql
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.pointer import held, hold_route, read_route

TOLD = 5.0
"""Seconds between two lines of progress."""
_SHORT_WAIT = "SET LOCAL lock_timeout = '500ms'"


class Told:
    """Says every few seconds how far something got, how fast it goes and how long it still takes."""

    def __init__(self, say: Callable[[str], None], what: str, total: int, done: int = 0) -> None:
        """Nothing is said yet; ``total`` 0 is unknown, ``done`` what was done before."""
        self._say, self._what, self._total = say, what, total
        self._at, self._done = time.monotonic(), done

    def now(self, done: int) -> None:
        """So much is done."""
        passed = time.monotonic() - self._at
        if passed < TOLD:
            return
        rate = (done - self._done) / passed
        of = f" of {self._total:,}" if self._total >= done else ""
        left = f", {duration((self._total - done) / rate)} left" if of and rate > 0 else ""
        self._say(f"{done:,}{of} {self._what}, {rate:,.0f} a second{left}")
        self._at, self._done = time.monotonic(), done


def finish(conn: Connection, migration: Migration, act: str) -> None:
    """Remove embedtui's working rows; the log stays."""
    with unbounded(conn):
        for statement in rows_sql(migration):
            conn.execute(statement)
        remember(conn, migration, {"finished": True})
        add_audit(conn, migration.id, act, "finished")


def require_name(migration: Migration, typed_name: str) -> None:
    """Refuse where the typed name is not the table's."""
    if typed_name not in (migration.table.name, str(migration.table)):
        raise Refused(f"The typed name is not the table's: {migration.table}.", hint="Type it exactly.")


@contextmanager
def alone(conn: Connection, migration: Migration) -> Iterator[None]:
    """Inside, no other process cleans up or aborts the migration."""
    key = (CLEANUP_CLASS, migration.id)
    if conn.execute("SELECT pg_try_advisory_lock(%s, %s)", key).fetchone() != (True,):
        raise Refused("Another process is cleaning up or aborting this migration.", hint="Let it finish.")
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute("SELECT pg_advisory_unlock(%s, %s)", key)


@contextmanager
def holding(conn: Connection, migration: Migration, ending: str, epoch: int | None) -> Iterator[None]:
    """A transaction that holds the route for cleanup or abort; short, since a rollback may wait for it."""
    with conn.transaction():
        conn.execute(_SHORT_WAIT)
        hold_route(conn, migration, ending, expect_epoch=epoch)
        yield


@contextmanager
def taken_back(conn: Connection, migration: Migration, ending: str) -> Iterator[None]:
    """Tell a mover of the pointer that took the act back from a fault."""
    try:
        yield
    except psycopg.errors.ObjectNotInPrerequisiteState:
        require_held(conn, migration, ending)
        raise


def require_held(conn: Connection, migration: Migration, ending: str) -> None:
    """Raises Refused where a mover of the pointer has taken back what was begun."""
    if not held(conn, migration, ending):
        route = read_route(conn, migration.name)
        what = f"rolled back by {route.changed_by}" if route.active is Side.OLD else f"moved by {route.changed_by}"
        raise Refused(
            f"The pointer was {what} meanwhile: the {ending} is cancelled, and nothing was dropped.",
            hint="Look again; it begins anew if you still want it.",
        )


def present(conn: Connection, migration: Migration) -> Migration:
    """The migration as it is now: a cutover by exchanged names changes what its columns are called."""
    now = load_migration(conn, migration.name)
    return now if now is not None and now.id == migration.id else migration


@contextmanager
def unbounded(conn: Connection) -> Iterator[None]:
    """A transaction without a statement_timeout, for what reads the whole table."""
    with conn.transaction():
        # SET and not set_config(): a query would fix the isolation level
        conn.execute("SET LOCAL statement_timeout = 0")
        yield
