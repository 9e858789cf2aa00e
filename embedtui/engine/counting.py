"""Counting the rows of both sides beside the snapshots: now and then, never for long, and never in a screen's way."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace

import psycopg

from embedtui.errors import EmbedtuiError
from embedtui.model import Migration
from embedtui.postgres.connect import Connection, connect
from embedtui.postgres.sides.census import Census, take_census

AT_REST = (2.0, 50.0)
"""Seconds between two counts while nothing is seen to move, and how many times the last one's own time at least …"""
MOVED = (0.3, 10.0)
"""… and once something moved."""
COUNT_MS = 10_000
"""A table that takes longer is not counted, and is tried again …"""
GIVEN_UP_SECONDS = 120.0
"""… so much later, as is one that may not be read."""
AGAIN_SECONDS = 2.0
"""After any other failure, a lock on the table above all, it is tried again so soon; the last count stays meanwhile."""
CLOSE_SECONDS = 1.0
FIRST_SECONDS = 1.0
"""The first snapshot waits so long for the first count."""


class Counter:
    """Keeps the newest count of a migration's sides, which a thread of its own takes."""

    def __init__(self, dsn: str) -> None:
        """Nothing is counted yet."""
        self._dsn = dsn
        self._lock = threading.Lock()
        self._migration: int | None = None
        self._found: Census | None = None
        self._counted_at = 0.0
        self._seen: object = None
        self._earliest = self._due = 0.0
        self._thread: threading.Thread | None = None
        self._conn: Connection | None = None
        """While it counts."""
        self._closed = False

    def count(self, migration: Migration, seen: object) -> Census | None:
        """The newest count that could be taken, with its age; None where there is none.

        ``seen``: what is known of the rows' movements; where it differs from the last, a new count is due sooner.
        """
        with self._lock:
            if self._migration != migration.id:
                self._migration, self._found, self._thread, self._due = migration.id, None, None, 0.0
            first = self._thread is None
            now = time.monotonic()
            due = now >= self._due or (now >= self._earliest and seen != self._seen)
            if self._closed:
                return self._aged()
            if first or (due and not self._thread.is_alive()):  # type: ignore[union-attr]
                self._seen = seen
                self._thread = threading.Thread(
                    target=self._count, args=(migration,), name="embedtui-census", daemon=True
                )
                self._thread.start()
            thread = self._thread
        if first and thread is not None:
            thread.join(FIRST_SECONDS)
        with self._lock:
            return self._aged()

    def _aged(self) -> Census | None:
        return self._found and replace(self._found, age=time.monotonic() - self._counted_at)

    def renew(self) -> None:
        """What was counted so far is of before; the next snapshot waits for a new count, as the first did."""
        with self._lock:
            self._migration = None

    def close(self) -> None:
        """Break off a count under way."""
        with self._lock:
            self._closed, conn, thread = True, self._conn, self._thread
        if conn is not None:
            with contextlib.suppress(psycopg.Error):
                conn.cancel_safe(timeout=CLOSE_SECONDS)
        if thread is not None:
            thread.join(CLOSE_SECONDS)

    def _count(self, migration: Migration) -> None:
        began = time.monotonic()
        found: Census | None = None
        try:
            with connect(self._dsn, name="census", statement_timeout_ms=COUNT_MS) as conn:
                with self._lock:
                    self._conn, closed = conn, self._closed
                try:
                    found = None if closed else take_census(conn, migration)
                finally:
                    self._conn = None
        except (psycopg.errors.QueryCanceled, psycopg.errors.InsufficientPrivilege):
            sooner = later = GIVEN_UP_SECONDS
        except (psycopg.Error, EmbedtuiError):  # the table is locked or being changed, or the database is away
            sooner = later = AGAIN_SECONDS
        else:
            took = time.monotonic() - began
            sooner, later = (max(least, times * took) for least, times in (MOVED, AT_REST))
        with self._lock:
            if self._thread is threading.current_thread():  # nobody asked for a newer count
                if found is not None:
                    self._found, self._counted_at = found, began
                self._earliest, self._due = time.monotonic() + sooner, time.monotonic() + later
