"""Riding out a lost database: try again with backoff, say why, lose nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg
from psycopg import errors

from embedtui.chance import chance
from embedtui.errors import DatabaseError, EmbedtuiError, Interrupted, Locked
from embedtui.formatting import duration
from embedtui.logs import unexpected
from embedtui.postgres.connect import Connection, Link, exhausted, lost, retryable, short_of_memory, translate

T = TypeVar("T")

FIRST_WAIT = 0.2
LONGEST_WAIT = 5.0
TOLD_AFTER = 3
"""Failures in a row of a statement that may be repeated (lock time-outs, cancelled) after which that is said."""
LOST_TOLD_AFTER = 2
"""The same of a lost connection: one that was cut is there again at the first retry, and that is no outage."""

MEMORY_TRIES = 4
"""Times in a row that the server may have too little memory for a statement: another may have had it just then."""


def with_database(
    link: Link,
    work: Callable[[Connection], T],
    *,
    stop: threading.Event,
    on_lost: Callable[[str], None],
    on_back: Callable[[], None] | None = None,
    on_locked: Callable[[], None] | None = None,
    longest_wait: float = LONGEST_WAIT,
) -> T:
    """Run ``work`` on the link's connection; while the database is away, wait and run it again from its start.

    A lost server, a full disk and somebody else's locks are waited for without end. What the server can do no better
    next time is not: a statement cut by its time-out gets a longer one, one for which memory was short goes without
    parallel workers, and where that does not help either the error is raised.

    ``on_lost`` says that it is waited for, ``on_locked`` is called each time that a lock was not to be had.

    ``work`` has to be safe to repeat: one transaction, or reads. Waiting happens with no transaction open.

    Raises:
        Interrupted: ``stop`` was set while waiting.
        EmbedtuiError: anything that waiting does not cure.
    """
    wait = FIRST_WAIT
    away = False
    failures = short = 0
    while True:
        began = time.monotonic()
        try:
            result = work(link.get())
        except (psycopg.Error, EmbedtuiError) as error:
            if short_of_memory(error) and short < MEMORY_TRIES:
                short += 1
                link.work_alone()
            elif not (lost(error) or retryable(error)):
                raise translate(error) from error
            _require_time(link, error, time.monotonic() - began)
            failures += 1
            if on_locked is not None and isinstance(error, Locked | errors.LockNotAvailable):
                on_locked()
            cut = lost(error) and not exhausted(error)
            if cut:
                link.drop()
            if failures >= (LOST_TOLD_AFTER if cut else 1 if lost(error) else TOLD_AFTER):
                away = True
                on_lost(translate(error).message)
        else:
            if away and on_back is not None:
                on_back()
            return result
        if stop.wait(wait * chance.uniform(0.5, 1.0)):
            raise Interrupted("Stopped while waiting for the database.", hint="Run again to go on.")
        wait = min(wait * 2, longest_wait)


def _require_time(link: Link, error: BaseException, took: float) -> None:
    """Give a statement that its time-out cut a longer one; a cancel by somebody else comes sooner."""
    allowed = link.statement_timeout_ms / 1000
    if isinstance(error, errors.QueryCanceled) and 0 < allowed <= took and not link.allow_longer():
        raise DatabaseError(
            f"The server did not get a statement done in {duration(allowed, exact=True)}.",
            hint="Look for what slows it down (pg_stat_activity, a missing ANALYZE), then run again.",
        ) from error


def fatal(error: BaseException) -> EmbedtuiError:
    """Any exception as one of ours, for a thread that has to hand its failure to another; its traceback is logged."""
    if isinstance(error, EmbedtuiError):
        return error
    found = unexpected(error)
    return translate(error) if isinstance(error, psycopg.Error) else found
