"""The new side's index built CONCURRENTLY beside production, watched, and rebuilt where it broke."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from embedtui.config import IndexSettings
from embedtui.errors import DatabaseError, Interrupted
from embedtui.model import IndexMethod, IndexStatus, Migration, TableName
from embedtui.postgres import locks
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import cancelled_by, run_ddl, session
from embedtui.postgres.indexes.existing import ExistingIndex, indexes_of, oids_of
from embedtui.postgres.indexes.statements import (
    Target,
    attach_statement,
    create_statement,
    require_equal,
    require_free,
    targets_of,
)
from embedtui.postgres.indexes.status import index_status
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import new_side
from embedtui.redaction import redact

POLL = 0.5
"""Seconds between two looks at a running build."""

DROP_SECONDS = 5
"""Most that an interrupted build spends on removing its leftover; what stays is rebuilt by the next run."""


@dataclass(frozen=True, slots=True)
class IndexBuild:
    """What a call of :func:`build` came to."""

    name: str
    """Of the index; of several, of the first with how many more there are."""
    built: bool
    """False where valid equal indexes were there already, or none is wanted."""
    seconds: float
    size_bytes: int
    notices: tuple[str, ...] = ()
    """What the server said, e.g. that the graph no longer fits into maintenance_work_mem."""


def build(
    connect: Callable[[], Connection],
    migration: Migration,
    options: IndexSettings,
    stop: threading.Event,
    on_progress: Callable[[IndexStatus], None] | None = None,
    on_begin: Callable[[str], None] | None = None,
) -> IndexBuild:
    """Make the index and return when it is valid; blocks for as long as that takes.

    A valid equal index is kept, an INVALID leftover is dropped and built anew. Where another process builds it, it is
    waited for and watched, and taken over from if it dies.

    Args:
        connect: opens a direct connection in autocommit; two are used.
        migration: the migration as stored.
        options: how to build.
        stop: set it to cancel the build; its leftover is dropped where that takes no longer than ``DROP_SECONDS``.
        on_progress: called about twice a second from a thread of its own.
        on_begin: called with an index's name before each CREATE INDEX that takes long.

    Raises:
        Interrupted: ``stop`` was set.
        Refused: an index of that name is another one.
        LockTimeout: a lock was not to be had.
        psycopg.Error: as the database says.
    """
    began = time.monotonic()
    if options.method is IndexMethod.NONE:
        return IndexBuild("", False, 0.0, 0)
    notices: list[str] = []
    with connect() as conn, connect() as watch:
        conn.add_notice_handler(lambda notice: notices.append(redact(notice.message_primary or "")))
        builder = _Builder(conn, watch, migration, options, stop, on_progress or _ignore, on_begin or _ignore)
        built = builder.run()
        side = new_side(migration)
        status = index_status(conn, migration)
        if not status.valid:
            raise DatabaseError("The index did not become valid.", hint="Run it again: what is invalid is rebuilt.")
        row = conn.execute(
            "SELECT sum(pg_relation_size(oid::oid::regclass))::int8 FROM unnest(%s::int8[]) AS oid",
            (
                [
                    index.oid
                    for found in indexes_of(conn, oids_of(conn, side.table), side.embedding).values()
                    for index in found
                ],
            ),
        ).fetchone()
    return IndexBuild(status.name, built, time.monotonic() - began, row[0] if row else 0, tuple(notices))


def _ignore(_: object) -> None:
    pass


class _Builder:
    """One build: a connection that builds and one that watches."""

    def __init__(
        self,
        conn: Connection,
        watch: Connection,
        migration: Migration,
        options: IndexSettings,
        stop: threading.Event,
        on_progress: Callable[[IndexStatus], None],
        on_begin: Callable[[str], None],
    ) -> None:
        self._conn = conn
        self._watch = watch
        self._migration = migration
        self._options = options
        self._stop = stop
        self._on_progress = on_progress
        self._on_begin = on_begin

    def run(self) -> bool:
        """Make every index of the tree valid; True where one had to be built."""
        # With a time-out beside one open writer CIC fails and leaves an INVALID index: it is watched instead.
        self._set("lock_timeout", "0")
        self._set("statement_timeout", "0")
        if self._conn.info.server_version >= 170000:
            self._set("transaction_timeout", "0")
        if self._options.maintenance_work_mem is not None:
            self._set("maintenance_work_mem", self._options.maintenance_work_mem)
        if self._options.parallel_workers is not None:
            self._set("max_parallel_maintenance_workers", str(self._options.parallel_workers))
        self._become_builder()
        try:
            targets = targets_of(self._conn, self._migration)
            # read once: nobody else builds meanwhile
            side = new_side(self._migration)
            existing = indexes_of(self._conn, oids_of(self._conn, side.table), side.embedding)
            built = [self._ensure(target, existing[target.oid]) for target in targets]
            self._drop_leftovers({target.index for target in targets}, existing)
        finally:
            if not self._conn.closed:
                locks.release_index_build(self._conn, self._migration.id)
        self._on_progress(index_status(self._watch, self._migration))
        return any(built)

    def _set(self, name: str, value: str) -> None:
        self._conn.execute("SELECT set_config(%s, %s, false)", (name, value))

    def _become_builder(self) -> None:
        """Take the build's advisory lock; until it is free, watch whoever builds.

        Polled: a session that waited for the lock inside a statement would have a snapshot that the build waits for.
        A build by hand is waited for too: dropping its index as a leftover would undo somebody's work.
        """
        while True:
            ours = locks.try_index_build(self._conn, self._migration.id)
            status = index_status(self._watch, self._migration)
            if ours:
                if not status.phase:
                    return
                locks.release_index_build(self._conn, self._migration.id)
            self._on_progress(status)
            if self._stop.wait(POLL):
                raise Interrupted("Stopped watching the index; the process that builds it goes on.")

    def _ensure(self, target: Target, existing: Sequence[ExistingIndex]) -> bool:
        """Make one relation's index valid, and part of its parent's; True where it had to be built."""
        conn = self._conn
        found = next((index for index in existing if index.name == target.name), None)
        if found is not None and target.leaf and not found.valid:
            with self._watched():
                self._drop(target.index)
            found = None
        if found is not None:
            require_equal(conn, self._migration, self._options, target, found)
        else:
            require_free(conn, target)
            create = create_statement(conn, self._migration, self._options, target)
            if target.leaf:
                self._create_concurrently(create, target)
            else:
                run_ddl(
                    conn,
                    [create],
                    migration=self._migration.id,
                    stop=self._stop,
                    relations=[target.table],
                    blocks_reads=False,
                )
        if target.parent_index is not None and (found is None or not found.attached):
            run_ddl(
                conn,
                [attach_statement(target)],
                migration=self._migration.id,
                stop=self._stop,
                relations=[target.parent_index],
            )
        return found is None and target.leaf

    def _drop_leftovers(self, wanted: Container[TableName], existing: Mapping[int, Sequence[ExistingIndex]]) -> None:
        """Drop what a build left of a partial index whose old one is gone by now; what is valid stays."""
        for index in (index for found in existing.values() for index in found):
            name = TableName(index.schema, index.name)
            if index.partial and not (index.valid or index.attached or name in wanted):
                with self._watched():
                    self._drop(name)

    def _create_concurrently(self, create: sql.Composed, target: Target) -> None:
        self._on_begin(target.name)
        try:
            with self._watched():
                self._conn.execute(create)
        except (psycopg.Error, Interrupted):
            if not self._conn.closed:
                # bounded, since it waits for old transactions as well; no longer watched, so not cancelled again
                self._set("statement_timeout", f"{DROP_SECONDS}s")
                try:
                    self._drop(target.index)
                except psycopg.Error:
                    pass
            raise

    def _drop(self, index: TableName) -> None:
        self._conn.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(relation(index)))

    def _watched(self) -> AbstractContextManager[None]:
        return cancelled_by(self._conn, self._stop, lambda: self._on_progress(self._status_with_blockers()), every=POLL)

    def _status_with_blockers(self) -> IndexStatus:
        """The status, and before the server reports progress whose lock the statement waits for."""
        status = index_status(self._watch, self._migration)
        if status.waiting_for:
            return status
        blockers = self._watch.execute(
            "SELECT unnest(pg_catalog.pg_blocking_pids(%s))", (self._conn.info.backend_pid,)
        ).fetchall()
        return replace(status, waiting_for="; ".join(str(session(self._watch, pid)) for (pid,) in blockers[:3]))
