"""Riding out a lost database: try again with backoff, say why, lose nothing."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

import psycopg

from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.logs import unexpected
from embedtui.postgres.connect import Connection, Link, exhausted, lost, retryable, translate

T = TypeVar("T")

FIRST_WAIT = 0.2
LONGEST_WAIT = 5.0
TOLD_AFTER = 3
"""Failures in a row of a statement that may be repeated (lock time-outs, cancelled) after which that is said."""


def with_database(
    link: Link,
    work: Callable[[Connection], T],
    *,
    stop: threading.Event,
    on_lost: Callable[[str], None] | None = None,
    on_back: Callable[[], None] | None = None,
    longest_wait: float = LONGEST_WAIT,
) -> T:
    """Run ``work`` on the link's connection; while the database is away, wait and run it again from its start.

    ``work`` has to be safe to repeat: one transaction, or reads. Waiting happens with no transaction open.

    Raises:
        Interrupted: ``stop`` was set while waiting.
        EmbedtuiError: anything that waiting does not cure.
    """
    wait = FIRST_WAIT
    away = False
    failures = 0
    while True:
        try:
            result = work(link.get())
        except (psycopg.Error, EmbedtuiError) as error:
            if not (lost(error) or retryable(error)):
                raise translate(error) from error
            failures += 1
            if lost(error) and not exhausted(error):
                link.drop()
            if lost(error) or failures >= TOLD_AFTER:
                away = True
                if on_lost is not None:
                    on_lost(translate(error).message)
        else:
            if away and on_back is not None:
                on_back()
            return result
        if stop.wait(wait * random.uniform(0.5, 1.0)):
            raise Interrupted("Stopped while waiting for the database.", hint="Run again to go on.")
        wait = min(wait * 2, longest_wait)


def fatal(error: BaseException) -> EmbedtuiError:
    """Any exception as one of ours, for a thread that has to hand its failure to another; its traceback is logged."""
    if isinstance(error, EmbedtuiError):
        return error
    found = unexpected(error)
    return translate(error) if isinstance(error, psycopg.Error) else found
