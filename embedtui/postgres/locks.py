"""Every advisory lock that embedtui takes, and what a held one tells: whether a worker is alive.

PostgreSQL keeps keys of one bigint and keys of two integers apart, so a number may stand in both lists. The numbers are
part of the protocol between processes of different versions: never change one, never use one twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql

from embedtui.postgres.connect import Connection

# Keys of one bigint, for a whole database.

INSTALL = 0x656D6274
"""One process at a time installs or upgrades the schema ``embedtui``."""

FUNCTIONS = 0x656D7072
"""One process at a time replaces the schema's functions: CREATE OR REPLACE is not safe against itself."""

# Classes of keys of two integers; the second one is the migration's id, for workers the worker's.

PREPARE_CLASS = 0x656D7072
"""One process at a time prepares a migration."""

WORKER_CLASS = 0x656D
"""Held by a worker as long as it lives: see :data:`ALIVE`."""

SHARDS_CLASS = 0x656E
"""One process at a time plans a migration's shards."""

SYNC_CLASS = 0x6571
"""One process at a time syncs a migration."""

CLEANUP_CLASS = 0x656D636C
"""One process at a time cleans up or aborts a migration."""

VIEW_CLASS = 0x6577
"""One process at a time makes, changes or drops a migration's routed view."""

AWAITING_CLASS = 0x6578
"""Shared, by a session that waits for others so that it can change a migration's tables."""

AWAITED_CLASS = 0x6579
"""Shared, by the same session, for each that it waits for: the second number is that one's process id."""

ALIVE = (
    f"EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.classid = {WORKER_CLASS}"
    " AND l.objid = {0}::oid AND l.objsubid = 2 AND l.granted"
    " AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))"
)
"""SQL: the worker whose id is {0} holds its advisory lock, so its process lives.

The one definition of "alive". A heartbeat would call a worker dead that a full disk or a long statement keeps silent,
and alive one that was killed a moment ago.
"""


def announce_worker(conn: Connection, worker_id: int) -> None:
    """Tell every other process, as long as this session lives, that the worker does."""
    conn.execute("SELECT pg_catalog.pg_advisory_lock(%s, %s)", [WORKER_CLASS, worker_id])


def lock_schema(conn: Connection) -> None:
    """Wait, in a transaction and until its end, until no other process installs or upgrades the schema."""
    conn.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [INSTALL])


def lock_functions(conn: Connection) -> None:
    """Wait, in a transaction and until its end, until no other process replaces the schema's functions."""
    conn.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [FUNCTIONS])


def lock_shards(conn: Connection, migration_id: int) -> None:
    """Wait, in a transaction and until its end, until no other process plans the migration's shards."""
    conn.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s, %s)", [SHARDS_CLASS, migration_id])


def try_prepare(conn: Connection, migration_id: int) -> bool:
    """Become the one session that prepares the migration; False while another one does. Never waits."""
    row = conn.execute("SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", [PREPARE_CLASS, migration_id]).fetchone()
    return row == (True,)


def release_prepare(conn: Connection, migration_id: int) -> None:
    """Let another session prepare the migration."""
    conn.execute("SELECT pg_catalog.pg_advisory_unlock(%s, %s)", [PREPARE_CLASS, migration_id])


def try_sync(conn: Connection, migration_id: int) -> bool:
    """Become or stay the one session that syncs a migration; False while another one does. Never waits."""
    row = conn.execute(
        "SELECT pg_catalog.pg_try_advisory_lock(%(c)s, %(m)s) FROM (SELECT 1) x WHERE NOT EXISTS"
        " (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND classid = %(c)s AND objid = %(m)s"
        "  AND objsubid = 2 AND granted AND pid = pg_backend_pid()"
        "  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))",
        {"c": SYNC_CLASS, "m": migration_id},
    ).fetchone()
    return row is None or row == (True,)


@contextmanager
def alone_at_view(conn: Connection, migration_id: int) -> Iterator[bool]:
    """Whether no other process makes or drops the routed view until this ends."""
    key = [VIEW_CLASS, migration_id]
    mine = conn.execute("SELECT pg_catalog.pg_try_advisory_lock(%s, %s)", key).fetchone() == (True,)
    try:
        yield mine
    finally:
        if mine and not conn.closed:
            conn.execute("SELECT pg_catalog.pg_advisory_unlock(%s, %s)", key)


def cleaning_up(conn: Connection, migration_id: int) -> bool:
    """Whether a process that cleans the migration up, or aborts it, lives."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND classid = %s AND objid = %s"
        " AND objsubid = 2 AND granted"
        " AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))",
        [CLEANUP_CLASS, migration_id],
    ).fetchone()
    return row == (True,)


@contextmanager
def awaiting(conn: Connection, migration_id: int | None) -> Iterator[Callable[[Iterable[int]], None]]:
    """What it gives tells every other process for which sessions this one waits now, until this ends or dies.

    By locks, which go with the session and need no transaction; ``migration_id`` None tells nobody.
    """
    told: set[tuple[int, int]] = set()

    def tell(pids: Iterable[int]) -> None:
        nonlocal told
        wanted = {(AWAITED_CLASS, pid) for pid in pids} if migration_id is not None else set()
        wanted |= {(AWAITING_CLASS, migration_id)} if wanted and migration_id is not None else set()
        for key in told - wanted:
            conn.execute("SELECT pg_catalog.pg_advisory_unlock_shared(%s, %s)", key)
        told &= wanted
        for key in wanted - told:  # any role may have it for itself: then that is not told, and nothing waits for it
            if conn.execute("SELECT pg_catalog.pg_try_advisory_lock_shared(%s, %s)", key).fetchone() == (True,):
                told.add(key)

    try:
        yield tell
    finally:
        with suppress(psycopg.Error):  # a lost session's locks are gone
            tell(())


def read_awaited(conn: Connection, migration_id: int, table_oid: int) -> list[tuple[str, list[int]]]:
    """Sessions that wait so for the migration: application name, and process ids of those that it waits for.

    Any role may take such locks; only those who have the rights of the table's owner are believed.
    """
    return conn.execute(
        "SELECT a.application_name, array_agg(awaited.objid::bigint ORDER BY awaited.objid)"
        " FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_locks awaited USING (pid, locktype, database)"
        " JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid"
        " WHERE l.locktype = 'advisory' AND l.classid = %s AND l.objid = %s::bigint::oid AND l.objsubid = 2"
        " AND awaited.classid = %s AND awaited.objsubid = 2 AND awaited.objid::bigint < 2147483648"
        " AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
        " AND EXISTS (SELECT FROM pg_catalog.pg_class c"
        "             WHERE c.oid = %s AND pg_catalog.pg_has_role(a.usesysid, c.relowner, 'MEMBER'))"
        " GROUP BY l.pid, 1 ORDER BY l.pid",
        [AWAITING_CLASS, migration_id, AWAITED_CLASS, table_oid],
    ).fetchall()


def try_index_build(conn: Connection, migration_id: int) -> bool:
    """Become the one session that builds a migration's index; False while another one does. Never waits."""
    row = conn.execute(
        sql.SQL("SELECT pg_catalog.pg_try_advisory_lock({})").format(_INDEX_KEY), (_index_key(migration_id),)
    ).fetchone()
    return row == (True,)


def release_index_build(conn: Connection, migration_id: int) -> None:
    """Let another session build the index."""
    conn.execute(sql.SQL("SELECT pg_catalog.pg_advisory_unlock({})").format(_INDEX_KEY), (_index_key(migration_id),))


_INDEX_KEY = sql.SQL("pg_catalog.hashtextextended(%s, 0)")


def _index_key(migration_id: int) -> str:
    return f"embedtui.index.{migration_id}"
