"""What the server, its settings and our role allow; read-only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from psycopg import Connection, Error

from embedtui.errors import DatabaseError
from embedtui.postgres.catalog.facts import ServerFacts
from embedtui.postgres.catalog.read import read_one

MINIMUM_SERVER = 140000
"""PostgreSQL 14: ``hash_record_extended``, pg_stat_progress_copy and the psycopg features that we rely on."""

_SERVER = """
SELECT current_setting('server_version_num')::int AS version,
       current_setting('server_version') AS version_text,
       current_database()::text AS database,
       current_user::text AS role,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
       pg_is_in_recovery() AS standby,
       pg_is_in_recovery() OR (SELECT reset_val = 'on' FROM pg_settings
                                WHERE name = 'default_transaction_read_only') AS read_only,
       pg_backend_pid() AS pid,
       pg_has_role('pg_read_all_stats', 'USAGE') AS reads_all_stats,
       coalesce((SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = 'embedtui'),
                has_database_privilege(current_database(), 'CREATE')) AS may_create_schema,
       EXISTS (SELECT FROM pg_namespace WHERE nspname = 'embedtui') AS state_schema,
       (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector_version,
       (SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
         WHERE e.extname = 'vector') AS vector_schema,
       EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') AS vector_available,
       pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers,
       (SELECT count(*)::int FROM pg_prepared_xacts WHERE database = current_database()) AS prepared_transactions
"""

NEEDED = (
    "hash_record_extended(record, bigint)",
    "hashtextextended(text, bigint)",
    "pg_advisory_xact_lock(integer, integer)",
    "pg_try_advisory_lock(integer, integer)",
    "pg_try_advisory_lock(bigint)",
    "pg_advisory_unlock(bigint)",
    "pg_notify(text, text)",
)
"""Routines without which nothing goes; a hardened database may have taken EXECUTE from PUBLIC."""


def server_facts(conn: Connection[Any]) -> ServerFacts:
    """Read the facts of the server behind ``conn``.

    A pooler gives itself away by the process id: PgBouncer and its like hand out a cancel key of their own, so that the
    id told at connection differs from ``pg_backend_pid()``.
    """
    row = read_one(conn, _SERVER)
    pid = row.pop("pid")
    told = conn.info.backend_pid
    return ServerFacts(pooled=bool(told) and told != pid, **row)


def refused_calls(conn: Connection[Any], calls: Iterable[str]) -> dict[str, str]:
    """Those calls of the catalog's routines that the server refuses, and how: by a right, or as Aurora does, by a word.

    Each is made, in a savepoint: what a managed server answers, only the call tells.
    """
    refused = {}
    for call in dict.fromkeys(calls):
        try:
            with conn.transaction():
                conn.execute(f"SELECT FROM pg_catalog.{call}".encode())
        except Error as error:
            refused[call] = error.diag.message_primary or type(error).__name__
    return refused


def vector_version(conn: Connection[Any]) -> str:
    """Version of pgvector; empty where there is none."""
    row = conn.execute("SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector'").fetchone()
    return str(row[0]) if row is not None else ""


def require_server(facts: ServerFacts) -> str:
    """Refuse a server that cannot be worked with; return the schema of pgvector.

    Raises:
        DatabaseError: older than PostgreSQL 14, or without pgvector.
    """
    if facts.version < MINIMUM_SERVER:
        raise DatabaseError(
            f"PostgreSQL {facts.version_text} is too old.", hint="embedtui needs PostgreSQL 14 or newer."
        )
    if facts.vector_schema is None:
        if facts.vector_available:
            hint = "Create it as a privileged role: CREATE EXTENSION vector;"
        else:
            hint = "Install pgvector on the server (github.com/pgvector/pgvector), then: CREATE EXTENSION vector;"
        raise DatabaseError(f"pgvector is not in database {facts.database}.", hint=hint)
    return facts.vector_schema


def version_tuple(version: str) -> tuple[int, ...]:
    """``0.8.5`` as (0, 8, 5), for comparing."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


@dataclass(frozen=True, slots=True)
class BuildMemory:
    """What the server gives an index build. Sizes in bytes."""

    allowed: int
    """``maintenance_work_mem``, as wanted or the server's."""
    workers: int
    """``max_parallel_maintenance_workers``."""
    shared: str
    """``dynamic_shared_memory_type``: posix is /dev/shm."""
    may_read_files: bool
    shared_size: int | None = None
    """Of /dev/shm; None where this role may not look."""


_BUILD = """
SELECT pg_size_bytes(coalesce(%s, current_setting('maintenance_work_mem'))) AS allowed,
       current_setting('max_parallel_maintenance_workers')::int AS workers,
       current_setting('dynamic_shared_memory_type') AS shared,
       pg_has_role('pg_read_server_files', 'USAGE')
           AND has_function_privilege('pg_read_file(text,bigint,bigint,boolean)', 'EXECUTE') AS may_read_files
"""


def build_memory(conn: Connection[Any], wanted: str | None) -> BuildMemory:
    """What an index build gets, with ``wanted`` as its maintenance_work_mem (None: the server's)."""
    found = BuildMemory(**read_one(conn, _BUILD, [wanted]))
    if found.shared != "posix" or not found.may_read_files:
        return found
    try:
        with conn.transaction():
            row = conn.execute("SELECT pg_read_file('/proc/self/mounts', 0, 1000000, true)").fetchone()
    except Error:  # another operating system, or a sandbox
        return found
    return replace(found, shared_size=_mounted_size((row and row[0]) or "", "/dev/shm"))


def _mounted_size(mounts: str, folder: str) -> int | None:
    """Size of a memory file system as its mount options have it; the last mount of a folder is the one seen."""
    options = [fields[3] for fields in map(str.split, mounts.splitlines()) if len(fields) > 3 and fields[1] == folder]
    found = re.search(r"\bsize=(\d+)k\b", options[-1]) if options else None
    return int(found[1]) * 1024 if found else None


def forbidden_routines(conn: Connection[Any], names: Iterable[str]) -> list[str]:
    """Those of the catalog's routines, written as ``name(types)``, that are missing or not this role's to execute."""
    rows = conn.execute(
        "SELECT name FROM unnest(%s::text[]) AS name"
        " WHERE NOT coalesce(has_function_privilege(to_regprocedure('pg_catalog.' || name)::oid, 'EXECUTE'), false)"
        " ORDER BY name",
        [sorted(names)],
    )
    return [name for (name,) in rows]


def long_transactions(conn: Connection[Any], seconds: float) -> tuple[int, int]:
    """How many transactions of others are open for longer than that, and the age of the oldest in seconds."""
    row = conn.execute(
        "SELECT count(*), coalesce(max(extract(epoch FROM now() - xact_start)), 0)::int FROM pg_stat_activity"
        " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        " AND xact_start < now() - make_interval(secs => %s)",
        [seconds],
    ).fetchone()
    assert row is not None
    return row[0], row[1]
