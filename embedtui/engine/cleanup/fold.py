"""The fold: a side table's vectors become a column of their table, paced and beside the work, then get their index."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from embedtui.engine.backfill.throttle import Throttle
from embedtui.engine.cleanup.steps import TOLD, Told, require_held
from embedtui.engine.plan.statements import index_options
from embedtui.errors import Interrupted, LockTimeout
from embedtui.formatting import counted
from embedtui.model import IndexStatus, Migration
from embedtui.postgres import indexes
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import run_ddl
from embedtui.postgres.sides import capture
from embedtui.postgres.sides.fold import Fold, close_function, column_for, prepare_sql, queued_as
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.migrations import store_setting, total_rows
from embedtui.postgres.state.queue import forget_entries, next_entries, queue_keys

REST = 1.0
"""Pause after each transaction, in times of what it took: half of the time is the application's."""
LOOK = 1.0
"""Seconds between two looks at what production suffers from."""
BATCH = 500
PATIENCE = 60.0
"""Seconds that rows may stay locked by the application."""


@dataclass
class Folding:
    """A fold at work; each of its parts can be repeated."""

    conn: Connection
    migration: Migration
    stop: threading.Event
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        """Nothing is changed yet."""
        self._fold = Fold(self.migration, column_for(self.conn, self.migration))
        self._throttle = Throttle.of(self.migration)
        self._look_at = 0.0

    @property
    def into(self) -> Migration:
        """The migration as it is after the fold."""
        return self._fold.into

    def copy(self) -> None:
        """Make the column, have changes of the side table told, and copy what differs.

        Raises:
            Refused: a rollback took the cleanup back.
            Interrupted, LockTimeout: as :func:`~embedtui.postgres.ddl.run_ddl`.
        """
        store_setting(self.conn, self.migration.id, "fold", self._fold.column)  # an abort has to find it
        run_ddl(
            self.conn,
            prepare_sql(self.conn, self.migration, self._fold.column),
            stop=self.stop,
            on_wait=self.say,
            relations=[self.migration.table, self.migration.new_table],
            check=self._require_held,
        )
        close_function(self.conn, self.migration)
        copied = self._compare()
        self.catch_up()
        rows = counted(copied, "vector", "vectors")
        add_audit(self.conn, self.migration.id, "fold", f"{rows} copied to column {self._fold.column}")

    def _require_held(self) -> None:
        require_held(self.conn, self.migration, "cleanup")
        if self.stop.is_set():
            raise Interrupted("Stopped while the side table is folded.", hint="Run it again: it goes on.")

    def _compare(self) -> int:
        """One pass over the table; rows that the application has locked are queued."""
        told = Told(self.say, "vectors folded", total_rows(self.conn, self.migration.id))
        copied = 0
        for leaf, first, last in self._fold.ranges(self.conn):
            self._pace(0.0)
            for keys in self._fold.differing(self.conn, leaf, first, last):
                began = time.monotonic()
                done = self._fold.copy(self.conn, keys, leaf)
                locked = [key for key in keys if key not in done]
                queue_keys(self.conn, queued_as(self.migration), locked, "u")
                copied += len(done)
                told.now(copied)
                self._pace(REST * (time.monotonic() - began))
        return copied

    def _pace(self, rest: float) -> None:
        """Rest, and wait while production suffers."""
        self.stop.wait(rest)
        self._require_held()
        if time.monotonic() < self._look_at:
            return
        while holds := self._throttle.check(self.conn):
            self.say(f"the fold waits: {holds[0].detail}")
            self.stop.wait(TOLD)
            self._require_held()
        self._look_at = time.monotonic() + LOOK

    def catch_up(self) -> None:
        """Copy what was written to the side table since; returns once nothing is queued.

        Raises:
            LockTimeout: the application keeps rows locked.
        """
        number, got_on = queued_as(self.migration), time.monotonic()
        while True:
            if capture.faulty(self.conn, number):  # a change that the trigger could not tell
                capture.forget_faults(self.conn, capture.faults(self.conn, number))
                self._compare()
            entries = next_entries(self.conn, number, 0, BATCH)
            if not entries:
                return
            keys = {entry.key for entry in entries}
            done = self._fold.copy(self.conn, keys)
            done |= keys - done - self._fold.existing(self.conn, keys - done)
            forget_entries(self.conn, number, [entry.id for entry in entries if entry.key in done])
            if done:
                got_on = time.monotonic()
            elif time.monotonic() - got_on > PATIENCE:
                key = ", ".join(next(iter(keys)))
                raise LockTimeout(
                    f"{counted(len(keys), 'row is', 'rows are')} kept locked by the application, e.g. {key}.",
                    hint="End that transaction, then clean up again: what is folded stays.",
                )
            self._pace(0.0 if done else 0.2)

    def index(self, connect: Callable[[], Connection]) -> None:
        """Build the column's index CONCURRENTLY, as the side table's is."""
        told = 0.0

        def show(status: IndexStatus) -> None:
            nonlocal told
            if status.phase and time.monotonic() - told >= TOLD:
                told = time.monotonic()
                done = f" {status.done:,} of {status.total:,} blocks" if status.done and status.total else ""
                wait = f", waiting for {status.waiting_for}" if status.waiting_for else ""
                self.say(f"index: {status.phase}{done}{wait}")

        indexes.build(connect, self.into, index_options(self.migration), self.stop, show)
