"""What a migration asks of the server beside the table: routines that may be executed, shared memory of the build."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from embedtui.config import Settings
from embedtui.engine.plan.draft import Draft
from embedtui.engine.plan.statements import index_options
from embedtui.formatting import size
from embedtui.model import Check, IndexMethod, Migration
from embedtui.postgres.catalog.server import NEEDED, build_memory, forbidden_routines, version_tuple
from embedtui.postgres.names import shown_column

PARALLEL_HNSW = (0, 6)
"""pgvector builds HNSW with parallel workers from here on."""

MEASURES = {
    "throttle.max_replica_lag_seconds": ("pg_current_wal_lsn()", "pg_stat_get_wal_senders()"),
    "throttle.max_wal_mb_per_second": ("pg_current_wal_lsn()",),
    "throttle.max_lock_waits": ("pg_lock_status()", "pg_blocking_pids(integer)"),
}
"""Routines that a hold is measured by."""


def routine_checks(conn: Connection[Any], draft: Draft, settings: Settings) -> Iterator[Check]:
    """Routines of the catalog that this role may not execute: those that nothing goes without, and measures."""
    role = shown_column(draft.server.role)
    missing = forbidden_routines(conn, NEEDED)
    if missing:
        grants = " ".join(f"GRANT EXECUTE ON FUNCTION pg_catalog.{name} TO {role};" for name in missing)
        yield Check("routines", "fail", f"Role {role} may not execute {', '.join(missing)}.", grants)
    unmeasured = [
        name.removeprefix("throttle.")
        for name, routines in MEASURES.items()
        if getattr(settings.throttle, name.removeprefix("throttle.")) is not None and forbidden_routines(conn, routines)
    ]
    if unmeasured:
        lacking = forbidden_routines(conn, {each for routines in MEASURES.values() for each in routines})
        yield Check(
            "measures",
            "unknown",
            f"Not to be measured here, so nothing is held for it: {', '.join(unmeasured)}"
            f" ({role} may not execute {', '.join(lacking)}).",
        )


def shared_memory_check(conn: Connection[Any], migration: Migration) -> Iterator[Check]:
    """A parallel HNSW build takes all of maintenance_work_mem as one segment of shared memory."""
    options = index_options(migration)
    server = build_memory(conn, options.maintenance_work_mem)
    workers = server.workers if options.parallel_workers is None else options.parallel_workers
    if migration.index_method is not IndexMethod.HNSW or not workers:
        return
    if version_tuple(server.vector_version) >= PARALLEL_HNSW:
        yield from _shared_memory(server.allowed, server.shared, server.shared_size)


def _shared_memory(allowed: int, kind: str, found: int | None) -> Iterator[Check]:
    if kind != "posix":  # mmap is files beside the data, sysv is the kernel's
        return
    less = "; where it does not fit, the index is built without parallel workers"
    hint = "A container's is often 64 MB: docker run --shm-size, or index.parallel_workers = 0."
    if found is None:
        detail = f"A parallel HNSW build takes {size(allowed)} of /dev/shm at once; nobody tells its size{less}."
        yield Check("shared memory", "unknown", detail, hint)
    elif found < allowed:
        detail = f"A parallel HNSW build takes {size(allowed)} of /dev/shm at once, which has {size(found)}{less}."
        yield Check("shared memory", "warn", detail, hint)
    else:
        detail = f"/dev/shm has {size(found)}, a parallel HNSW build takes {size(allowed)} of it"
        yield Check("shared memory", "pass", detail)
