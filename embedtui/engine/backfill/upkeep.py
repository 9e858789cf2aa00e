"""Keeps the capture of changes whole: follows the table, mends the triggers, scans for what they did not tell."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import psycopg
from psycopg import sql

from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.partitions import queue_unseen
from embedtui.engine.rights import follow_rights
from embedtui.engine.table_changes import follow, same_names, table_change
from embedtui.errors import DatabaseError, TableChanged
from embedtui.model import Key
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import run_ddl
from embedtui.postgres.joined import rows_sql
from embedtui.postgres.locks import cleaning_up
from embedtui.postgres.sides import capture, rights
from embedtui.postgres.sides.layout import follows_by_foreign_key
from embedtui.postgres.sides.protocol import QueuedRow
from embedtui.postgres.sides.side_table import TablePlacement
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.migrations import load_migration, still_called_sql
from embedtui.postgres.state.queue import (
    Entry,
    TextEntry,
    forget_entries,
    forget_texts,
    next_texts,
    queue_keys,
    queue_rows_of_texts,
)

T = TypeVar("T")

SCANNED = ("index", "validate", "cutover", "soak")
"""Phases with scans for changes: before them the final sweep finds all, after them nothing is maintained."""
SCAN_LIMIT = 5_000
"""Rows that one scan queues."""
SCAN_SHARE = 20.0
"""Between two scans passes this many times what one took, so that they cost a twentieth of the time."""
TEXTS = 256
"""Texts in another table whose rows are queued at a time …"""
ROWS_OF_A_TEXT = 500
"""… up to so many of each; …"""
ROWS_AT_ONCE = 20_000
"""… of one that has more, so many at a time from then on: each time all of them are found and sorted."""
MEND_PATIENCE = 20.0
"""Seconds to wait for the lock that installing change capture takes."""


class Database(Protocol):
    """Runs work on the sync's connection; a lost one is waited out."""

    def __call__(self, work: Callable[[Connection], T], /) -> T:
        """What the work returned."""


class Upkeep:
    """What a migration's sync does beside the queue; used by its thread alone."""

    def __init__(self, job: Job, database: Database) -> None:
        self._job, self._database = job, database
        self._scan_at = 0.0
        self.ending = False
        """A cleanup waits for what is queued: no row is put off."""
        self._rights = ""
        """What was granted on the table and the new side, as last looked at."""
        self._keys_per_read = sys.maxsize
        """Made smaller by the statement time-out, and kept, as the backfill's."""
        self._mended_fault = 0
        """Newest fault of change capture after which it was installed anew."""
        self._capture_broken = ""
        """Why changes could not be captured, as last said."""

    def look_for_partitions(self, conn: Connection) -> None:
        """Queue the rows of partitions attached since, which no trigger told of."""
        phase = capture.state(conn, self._job.migration).phase
        if phase in SCANNED:
            while queue_unseen(conn, self._job.placement) and not self._job.stop.is_set():
                pass

    def require_table(self, conn: Connection) -> None:
        """Follow what the application's DDL changed of the table, in place.

        Raises:
            TableChanged: it has to be begun anew with the changed table, here or where another process did so.
        """
        migration = load_migration(conn, self._job.migration.name)
        if migration is None or migration.phase.ended:
            return
        if not same_names(migration, self._job.migration):
            raise TableChanged(f"Table {migration.table} changed.", hint="Another process went on with that.")
        change = table_change(conn, migration)
        if change is None:
            return
        if not change.in_place:
            raise change.error()
        follow(conn, migration, change, self._job.stop)
        self._job.note(f"Gone on with: {'; '.join(change.what)}")

    def follow_rights(self, conn: Connection) -> None:
        """Have the new side follow what was granted on, or revoked from, the table since; said where it cannot."""
        present = rights.digest(conn, self._job.migration)
        migration = load_migration(conn, self._job.migration.name) if present != self._rights else None
        if migration is None:
            return
        said = follow_rights(conn, migration, self._job.stop)
        if said:
            self._job.note(said)
        self._rights = rights.digest(conn, self._job.migration)

    def sound(self, conn: Connection, entries: Sequence[Entry]) -> list[Entry]:
        """These entries without those that name no row, in whose place a scan is asked for."""
        migration = self._job.migration
        parts = len(migration.key_columns)
        torn = [entry.id for entry in entries if entry.kind != "t" and not entry.names_a_row(parts)]
        if torn:
            with conn.transaction():
                capture.add_fault(conn, migration, "a key in the queue names no row")
                forget_entries(conn, migration.id, torn)
        return [entry for entry in entries if entry.id not in torn]

    def sound_texts(self, conn: Connection) -> None:
        """Ask for a scan in the place of texts in another table where there is none: other roles may write here too."""
        migration = self._job.migration
        if migration.text_table is None:
            with conn.transaction():
                if forget_texts(conn, migration.id):
                    capture.add_fault(conn, migration, "the queue names a text in another table, and there is none")

    def expand_texts(self, conn: Connection) -> int:
        """Queue rows in the place of texts in another table that are other ones now; the number of texts looked at.

        The application's statement queued one entry a text. One with many rows is queued part by part, by itself.
        """
        migration = self._job.migration
        other = migration.text_table
        texts = next_texts(conn, migration.id, TEXTS) if other is not None else []
        if other is None or not texts:
            return 0
        limit = ROWS_OF_A_TEXT
        if texts[0].after:
            texts, limit = texts[:1], ROWS_AT_ONCE
        self._queue_rows(conn, texts, rows_sql(migration, other), limit)
        return len(texts)

    def _queue_rows(self, conn: Connection, texts: Sequence[TextEntry], rows: sql.Composable, limit: int) -> None:
        migration = self._job.migration
        try:
            with conn.transaction():
                queue_rows_of_texts(conn, migration.id, texts, rows, limit)
        except psycopg.DataError as error:
            if len(texts) == 1:
                with conn.transaction():
                    capture.add_fault(conn, migration, f"a text's key reads as none: {error.diag.message_primary}")
                    forget_entries(conn, migration.id, [texts[0].id])
                return
            for text in texts:
                self._queue_rows(conn, [text], rows, limit)

    def read_keys(self, conn: Connection, keys: Sequence[Key]) -> list[QueuedRow]:
        """The rows with these keys; one that the server cannot read is left to a scan and stops no other.

        What the statement time-out cuts is read in smaller parts, then and later.
        """
        if len(keys) > self._keys_per_read:
            most = self._keys_per_read
            return [*self.read_keys(conn, keys[:most]), *self.read_keys(conn, keys[most:])]
        half = len(keys) // 2
        try:
            with conn.transaction():
                return self._job.placement.read_keys(conn, keys)
        except psycopg.DataError as error:
            if len(keys) == 1:
                capture.add_fault(conn, self._job.migration, f"a key reads as none: {error.diag.message_primary}")
                return []
        except (psycopg.errors.QueryCanceled, psycopg.errors.OutOfMemory):
            if len(keys) == 1:
                raise
            self._keys_per_read = half
        return [*self.read_keys(conn, keys[:half]), *self.read_keys(conn, keys[half:])]

    def scan(self) -> int:
        """Find by their fingerprints what no trigger told of: there are none, they were taken away, or they failed.

        The number of rows queued.
        """
        migration = self._job.migration
        now = self._database(lambda conn: capture.state(conn, migration))
        phases = [*SCANNED]
        self.ending = False
        if now.phase == "cleanup":
            self.ending = self._database(lambda conn: cleaning_up(conn, migration.id))
            phases += [] if self.ending else ["cleanup"]  # one that was killed has taken capture off
        if now.phase not in ("backfill", *phases) or time.monotonic() < self._scan_at:
            return 0
        if migration.stored.by_triggers:
            if now.installed and not now.faults:
                return 0
            self._mend_capture(now)
        if now.phase not in phases:
            return 0
        began = time.monotonic()
        keys = self._database(lambda conn: self._job.placement.sweep(conn, SCAN_LIMIT))
        if isinstance(self._job.placement, TablePlacement) and not follows_by_foreign_key(migration):
            self._database(self._job.placement.remove_orphans)
        self._database(lambda conn: self._queue_scanned(conn, keys, now.faults if len(keys) < SCAN_LIMIT else ()))
        self._scan_at = time.monotonic() + SCAN_SHARE * (time.monotonic() - began)
        return len(keys)

    def _queue_scanned(self, conn: Connection, keys: Sequence[Key], settled: Sequence[int]) -> None:
        with conn.transaction():
            queue_keys(conn, self._job.migration.id, keys, "s")
            capture.forget_faults(conn, settled)

    def _mend_capture(self, now: capture.CaptureState) -> None:
        """Install change capture anew; where this role may not, the scan stands in for it.

        After a fault, too: a session that has seen a column's former type fails until the function is another.

        Raises:
            TableChanged: names were exchanged since this process read them; capture has the new ones.
        """
        table = self._job.migration.table
        newest = max(now.faults, default=0)
        if now.installed and newest <= self._mended_fault:
            return
        why = f"could not follow: {now.reason}" if now.installed else "was taken off, or is outdated"
        make = capture.functions_sql if now.installed else capture.install_sql

        def install(conn: Connection) -> None:
            migration = self._job.migration
            statements = [still_called_sql(migration), *make(migration, capture.attaching_roles(conn, migration))]
            try:
                run_ddl(
                    conn,
                    statements,
                    migration=migration.id,
                    stop=self._job.stop,
                    relations=capture.tables(migration),
                    patience=MEND_PATIENCE,
                )
            except psycopg.errors.ObjectNotInPrerequisiteState:
                raise TableChanged(f"Table {table} changed.", hint="Another process went on with that.") from None
            add_audit(conn, migration.id, "capture", f"{why}; installed anew")

        try:
            self._database(install)
        except TableChanged:
            raise
        except DatabaseError as error:
            if why != self._capture_broken:
                self._job.failed(
                    f"Change capture of {table} {why}: changes are scanned for. {error.message}", hint=error.hint
                )
            self._capture_broken = why
        else:
            self._capture_broken = ""
            self._mended_fault = newest
            self._job.failed(
                f"Change capture of {table} {why}. It was installed anew; what changed meanwhile is scanned for."
            )
