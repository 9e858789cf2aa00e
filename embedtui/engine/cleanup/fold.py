"""The fold: a side table's vectors become a column of their table, paced and beside the work, then get their index."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from embedtui.engine.backfill.database_throttle import Throttle
from embedtui.engine.cleanup.notices import routers_behind
from embedtui.engine.cleanup.statements import exchange_sql
from embedtui.engine.cleanup.steps import TOLD, Told, require_held, taken_back
from embedtui.engine.plan.statements import index_options
from embedtui.errors import Interrupted, LockTimeout
from embedtui.formatting import counted
from embedtui.model import IndexStatus, Migration, TableName
from embedtui.postgres import indexes
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement, run_ddl
from embedtui.postgres.joined import as_called_now
from embedtui.postgres.sides import capture, routed_view
from embedtui.postgres.sides.fold import Fold, column_for, functions_of, prepare_sql, queued_as
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.ending import QUEUE_FULL
from embedtui.postgres.state.listeners import ever_heard
from embedtui.postgres.state.migrations import store_setting, total_rows
from embedtui.postgres.state.queue import forget_entries, next_entries, queue_keys

REST = 1.0
"""Pause after each transaction, in times of what it took: half of the time is the application's."""
LOOK = 1.0
"""Seconds between two looks at what production suffers from."""
BATCH = 500
PATIENCE = 60.0
"""Seconds that rows may stay locked by the application."""
REQUEST = 10.0
"""Seconds that an application's request may take from its look at the route to its last statement."""


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
        self._ddl(
            prepare_sql(self.conn, self.migration, self._fold.column), [self.migration.table, self.migration.new_table]
        )
        capture.close_functions(self.conn, self.migration, functions_of(self.conn, self.migration))
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

    def exchange(self) -> None:
        """Make the column the new side: the side table goes, the routed view is there if one is asked for.

        Raises:
            Refused: a rollback took the cleanup back, or the routed view cannot be made.
            Interrupted, LockTimeout: as :func:`~embedtui.postgres.ddl.run_ddl`.
        """
        if self.migration.stored.view:
            there = routed_view.find(self.conn, self.migration)
            self._ddl(routed_view.make_sql(self.conn, self.into), [there.name] if there is not None else [])
        tables = [*capture.tables(as_called_now(self.conn, self.migration)), self.migration.new_table]
        while True:
            self.catch_up()
            try:
                with taken_back(self.conn, self.migration, "cleanup"):
                    self._ddl(exchange_sql(self.conn, self.migration, self._fold.column), tables)
            except psycopg.errors.ObjectInUse as error:
                if error.sqlstate != QUEUE_FULL:
                    raise
            else:
                return

    def _ddl(self, statements: Sequence[Statement], relations: Sequence[TableName]) -> None:
        run_ddl(
            self.conn,
            statements,
            migration=self.migration.id,
            stop=self.stop,
            on_wait=self.say,
            relations=relations,
            check=self._require_held,
        )


def wait_for_followers(
    conn: Connection, migration: Migration, stop: threading.Event, say: Callable[[str], None]
) -> None:
    """After the exchange: until every Router knows of the column, and what began by its former word is over.

    A library that finds the routed view by its Router has read the old column until then, by the name that the new one
    is about to take.

    Raises:
        Refused: a rollback took the cleanup back.
        Interrupted: ``stop`` was set.
    """
    rest = REQUEST if ever_heard(conn, migration) and routed_view.find(conn, migration) is not None else 0.0
    since, told = time.monotonic(), 0.0
    while True:
        behind, now = routers_behind(conn, migration), time.monotonic()
        since = now if behind else since
        if not behind and now - since >= rest:
            return
        require_held(conn, migration, "cleanup")
        if now - told >= TOLD:
            told = now
            late = counted(behind, "Router has", "Routers have")
            say(f"{late} not heard of the fold yet" if behind else "waiting for requests that began before the fold")
        if stop.wait(LOOK / 5):
            raise Interrupted("Stopped before the old side was dropped.", hint="Run it again: it goes on.")
