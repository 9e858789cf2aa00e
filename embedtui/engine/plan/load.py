"""Checks of what a migration takes of the server: memory, disk, heap, and what its DDL would wait for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from embedtui.engine.plan.draft import Draft
from embedtui.engine.plan.estimates import TextEstimate
from embedtui.engine.plan.server import shared_memory_check
from embedtui.engine.plan.statements import index_options
from embedtui.formatting import counted, duration, size
from embedtui.model import Check, IndexMethod, Migration, PlacementKind
from embedtui.postgres import indexes
from embedtui.postgres.catalog.server import long_transactions, size_in_bytes
from embedtui.postgres.names import shown

LONG_TRANSACTION_SECONDS = 600
"""Older than any request of an application: what is open for so long was forgotten, or is a dump."""

TOAST_BYTES = 2000
"""A row up to about this size lies in its heap page as a whole; of a longer one the longest values lie elsewhere."""


def load_checks(conn: Connection[Any], draft: Draft, migration: Migration, estimate: TextEstimate) -> Iterator[Check]:
    """Memory and disk of the new side, and open transactions that its DDL would wait for."""
    server = draft.server
    rows = estimate.rows - estimate.empty
    width = 2 if migration.vector_type == "halfvec" else 4
    vectors = rows * (migration.new_model.dimensions * width + 8)
    yield from _check_memory(conn, draft, migration, rows)
    yield from shared_memory_check(conn, migration)
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


def _check_memory(conn: Connection[Any], draft: Draft, migration: Migration, rows: int) -> Iterator[Check]:
    server = draft.server
    if migration.index_method is not IndexMethod.NONE:
        options = index_options(migration)
        hnsw = migration.index_method is IndexMethod.HNSW
        if hnsw:
            memory = indexes.forecast(rows, migration.new_model.dimensions, options.m, migration.vector_type)
        else:
            lists = options.lists or indexes.ivfflat_lists(rows)
            memory = indexes.ivfflat_forecast(rows, migration.new_model.dimensions, lists, migration.vector_type)
        allowed = server.maintenance_work_mem
        if options.maintenance_work_mem is not None:
            allowed = size_in_bytes(conn, options.maintenance_work_mem)
        if memory > allowed:
            yield Check(
                "index memory",
                "warn",
                f"The {'HNSW' if hnsw else 'ivfflat'} build wants about {size(memory)}; maintenance_work_mem is "
                f"{size(allowed)}, beyond which it {'slows to a crawl' if hnsw else 'fails'}.",
                "Raise it for the build, if the server has the memory: "
                f'index.maintenance_work_mem = "{math.ceil(memory / 2**20)}MB".',
            )
        else:
            yield Check("index memory", "pass", f"about {size(memory)} for the {'HNSW' if hnsw else 'ivfflat'} build")


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
