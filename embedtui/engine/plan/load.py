"""Checks of what a migration takes of the server: memory, disk, heap, and what its DDL would wait for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from embedtui.config import IndexSettings
from embedtui.engine.plan.draft import Draft
from embedtui.engine.plan.estimates import TextEstimate
from embedtui.engine.plan.statements import index_options
from embedtui.formatting import counted, duration, size
from embedtui.model import Check, IndexMethod, Migration, PlacementKind
from embedtui.postgres import indexes
from embedtui.postgres.catalog.server import BuildMemory, build_memory, long_transactions, version_tuple
from embedtui.postgres.names import shown

LONG_TRANSACTION_SECONDS = 600
"""Older than any request of an application: what is open for so long was forgotten, or is a dump."""

PARALLEL_HNSW = (0, 6)
"""pgvector builds HNSW with parallel workers from here on."""

TOAST_BYTES = 2000
"""A row up to about this size lies in its heap page as a whole; of a longer one the longest values lie elsewhere."""


def load_checks(conn: Connection[Any], draft: Draft, migration: Migration, estimate: TextEstimate) -> Iterator[Check]:
    """Memory and disk of the new side, and open transactions that its DDL would wait for."""
    server = draft.server
    rows = estimate.rows - estimate.empty
    width = 2 if migration.vector_type == "halfvec" else 4
    vectors = rows * (migration.new_model.dimensions * width + 8)
    if migration.index_method is not IndexMethod.NONE:
        options = index_options(migration)
        memory = build_memory(conn, options.maintenance_work_mem)
        yield _check_memory(conn, memory.allowed, migration, options, rows)
        yield from _check_shared_memory(memory, draft, migration, options)
    yield from _check_heap(draft, migration, rows, vectors)
    yield Check(
        "disk",
        "unknown",
        f"The new vectors take about {size(vectors)}, an HNSW index on them about as much again; "
        "the server does not say what is free.",
    )
    if server.prepared_transactions:
        yield Check(
            "prepared transactions",
            "warn",
            f"{counted(server.prepared_transactions, 'prepared transaction holds', 'prepared transactions hold')} back"
            " pruning and the index build.",
            "See pg_prepared_xacts; COMMIT PREPARED or ROLLBACK PREPARED what is there.",
        )
    transactions, oldest = long_transactions(conn, LONG_TRANSACTION_SECONDS)
    if transactions:
        yield Check(
            "long transactions",
            "warn",
            f"{transactions} open for up to {duration(oldest, exact=True)}:"
            " DDL and the index build wait until they end.",
            "Look for `idle in transaction` in pg_stat_activity.",
        )


def _check_memory(
    conn: Connection[Any], allowed: int, migration: Migration, options: IndexSettings, rows: int
) -> Check:
    shapes = indexes.shapes_of(conn, migration).made
    known = [rows if shape.rows is None else shape.rows for shape in shapes]
    rows = max(known)
    each = f", the biggest of {len(shapes):,} ({rows:,} rows)" if len(shapes) > 1 else ""
    dimensions, kind = migration.new_model.dimensions, migration.vector_type
    if migration.index_method is IndexMethod.HNSW:
        build, beyond = "HNSW build", "slows to a crawl"
        memory = indexes.forecast(rows, dimensions, options.m, kind)
    else:
        build, beyond = "ivfflat build", "fails"
        memory = indexes.ivfflat_forecast(rows, dimensions, options.lists or indexes.ivfflat_lists(rows), kind)
    if memory <= allowed:
        return Check("index memory", "pass", f"about {size(memory)} for the {build}{each}")
    return Check(
        "index memory",
        "warn",
        f"The {build}{each} wants about {size(memory)}; maintenance_work_mem is {size(allowed)}, beyond which it"
        f" {beyond}.",
        "Raise it for the build, if the server has the memory: "
        f'index.maintenance_work_mem = "{math.ceil(memory / 2**20)}MB".',
    )


def _check_shared_memory(
    memory: BuildMemory, draft: Draft, migration: Migration, options: IndexSettings
) -> Iterator[Check]:
    """A parallel HNSW build takes all of maintenance_work_mem as one segment of shared memory."""
    workers = memory.workers if options.parallel_workers is None else options.parallel_workers
    parallel = workers and version_tuple(draft.server.vector_version or "0") >= PARALLEL_HNSW
    if migration.index_method is not IndexMethod.HNSW or not parallel:
        return
    if memory.shared != "posix":  # mmap is files beside the data, sysv is the kernel's
        return
    less = "; where it does not fit, the index is built without parallel workers"
    hint = "A container's is often 64 MB: docker run --shm-size, or index.parallel_workers = 0."
    takes = f"A parallel HNSW build takes {size(memory.allowed)} of /dev/shm at once"
    if memory.shared_size is None:
        yield Check("shared memory", "unknown", f"{takes}; nobody tells its size{less}.", hint)
    elif memory.shared_size < memory.allowed:
        yield Check("shared memory", "warn", f"{takes}, which has {size(memory.shared_size)}{less}.", hint)
    else:
        detail = f"/dev/shm has {size(memory.shared_size)}, a parallel HNSW build takes {size(memory.allowed)} of it"
        yield Check("shared memory", "pass", detail)


def _check_heap(draft: Draft, migration: Migration, rows: int, vectors: int) -> Iterator[Check]:
    """Whether the new vectors stay within the rows, and make every scan of the table longer."""
    facts = draft.facts
    if migration.placement is not PlacementKind.COLUMN or not rows or not facts.rows:
        return
    row, vector = facts.heap_bytes / facts.rows, vectors / rows
    if row + vector <= TOAST_BYTES and vector > row:
        yield Check(
            "heap",
            "warn",
            f"The new vectors ({size(round(vector))} each) lie in the rows of {shown(facts.table)} themselves: its heap"
            f" grows from {size(facts.heap_bytes)} to about {size(facts.heap_bytes + vectors)}, and each scan with it.",
            "Placement table keeps them apart.",
        )
