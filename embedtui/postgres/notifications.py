"""Notifications as they arrive. Whoever may connect may send any: to any channel, as many, with whatever in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg import Connection
from psycopg.pq.misc import PGnotify


def hear(conn: Connection[Any], take: Callable[[str], object]) -> None:
    """Give ``take`` the payload of each that arrives from now on, also while a statement runs."""

    def heard(notify: PGnotify) -> None:
        take(_payload(notify))

    conn.pgconn.notify_handler = heard  # psycopg's own fails of what is no text


def hear_waiting(conn: Connection[Any], take: Callable[[str], object]) -> None:
    """Give ``take`` those that have arrived since the last statement."""
    # Below psycopg's own generator, which gives the interpreter away to other threads once more.
    conn.pgconn.consume_input()
    while notify := conn.pgconn.notifies():
        take(_payload(notify))


def _payload(notify: PGnotify) -> str:
    return notify.extra.decode(errors="replace")
