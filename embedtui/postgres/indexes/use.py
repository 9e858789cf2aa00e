"""Whether searches go through an index, and the first searches of a cold one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from embedtui.arrays import np
from embedtui.model import Migration, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.indexes.existing import indexes_of, new_indexes, oids_of, search_type
from embedtui.postgres.indexes.shapes import predicates_of
from embedtui.postgres.names import escaped, relation, vector_text
from embedtui.postgres.sides.layout import new_side, vectors_at
from embedtui.postgres.sides.search import search_sql

WARM_SEARCHES = 10
"""An index that was searched less often is cold; so many searches warm it …"""

WARM_SECONDS = 5.0
"""… and are given so long, even where each has to read from a slow disk."""


@dataclass(frozen=True, slots=True)
class SearchUse:
    """Whether the planner serves a side's search from its approximate index."""

    used: bool
    usable: bool
    """Chosen at least when reading the whole table is ruled out: on small tables that is the cheaper plan."""
    index: str
    """Name of the index in the plan; empty where none."""


def used_by_search(
    conn: Connection, migration: Migration, side: Side, where: sql.Composable | None = None
) -> SearchUse:
    """Asks the planner (EXPLAIN) whether a nearest-neighbour search of a side goes through its approximate index.

    ``where`` is the search's filter, as :func:`search_sql` takes it; by it, a partial index may serve.
    """
    table, column = vectors_at(migration, side)
    dimensions = (migration.old_model if side is Side.OLD else migration.new_model).dimensions
    by_relation = indexes_of(conn, oids_of(conn, table), column)
    names = {index.name for found in by_relation.values() for index in found}
    probe = np.eye(1, dimensions, dtype=np.float32)
    statement = sql.SQL("EXPLAIN (FORMAT JSON) {}").format(
        search_sql(migration, side, where=where, cast_to=search_type(conn, migration, side))
    )
    plans: list[str] = []
    with conn.transaction(), psycopg.ClientCursor(conn) as cursor:
        for ruled_out in ("off", "on"):
            # a sort of everything read is what an ordered index scan saves
            cursor.execute("SET LOCAL enable_seqscan = on; SET LOCAL enable_sort = on")
            if ruled_out == "on":
                cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
            row = cursor.execute(statement, {"vector": vector_text(probe[0]), "k": 10}).fetchone()
            assert row is not None
            plans.append(next((name for name in _index_names(row[0]) if name in names), ""))
    return SearchUse(used=bool(plans[0]), usable=bool(plans[1]), index=plans[0] or plans[1])


def _index_names(plan: Any) -> Iterator[str]:
    """Index names anywhere in an EXPLAIN document."""
    if isinstance(plan, list):
        for part in plan:
            yield from _index_names(part)
    elif isinstance(plan, dict):
        if "Index Name" in plan:
            yield plan["Index Name"]
        for part in plan.values():
            yield from _index_names(part)


def filters(conn: Connection, migration: Migration) -> list[sql.Composable | None]:
    """Filters by which searches of the new side go by one of its indexes each; None: none is needed."""
    found = new_indexes(conn, migration)
    texts: dict[str, None] = {}
    if any(not index.partial for index in found) or not found:
        return [None]
    for text in predicates_of(conn, migration, found).values():
        texts.setdefault(text)
    return [escaped(sql.SQL(text)) for text in texts]


def is_cold(conn: Connection, migration: Migration) -> bool:
    """Whether the new side has an index that was hardly ever searched on this server."""
    side = new_side(migration)
    oids = [
        index.oid for found in indexes_of(conn, oids_of(conn, side.table), side.embedding).values() for index in found
    ]
    row = conn.execute(
        "SELECT sum(idx_scan) FROM pg_catalog.pg_stat_all_indexes WHERE indexrelid = ANY (%s::int8[]::oid[])", (oids,)
    ).fetchone()
    return row is not None and row[0] is not None and row[0] < WARM_SEARCHES


def prewarm(conn: Connection, migration: Migration, *, seconds: float = WARM_SECONDS) -> int:
    """Search the new side by some of its own vectors, so that not production is the first to read it from disk.

    Returns how many searches ended within ``seconds``, WARM_SEARCHES at most. It is a favour: nothing fails by it.
    """
    deadline = time.monotonic() + seconds
    side = new_side(migration)
    done = 0
    try:
        cast_to = search_type(conn, migration, Side.NEW)
        statements = [
            search_sql(migration, Side.NEW, where=where, cast_to=cast_to) for where in filters(conn, migration)
        ]
        known = conn.execute(
            "SELECT sum(pg_relation_size(o::oid)) / current_setting('block_size')::int FROM unnest(%s::int8[]) AS o",
            (oids_of(conn, side.table),),
        ).fetchone()
        pages = float(known[0] or 0) if known else 0.0
        # from a few pages all over the table, not all from the first of these
        vectors = _within(
            conn,
            deadline,
            sql.SQL(
                "SELECT {column}::text FROM (SELECT {column} FROM {table} TABLESAMPLE SYSTEM ({percent})"
                " WHERE {column} IS NOT NULL ORDER BY random() LIMIT {n}) v"
            ).format(
                column=sql.Identifier(side.embedding),
                table=relation(side.table),
                percent=sql.Literal(min(100.0, 100 * 10 * WARM_SEARCHES / max(1.0, pages))),
                n=sql.Literal(WARM_SEARCHES),
            ),
        )
        for (vector,) in vectors:
            if time.monotonic() >= deadline:
                break
            _within(conn, deadline, statements[done % len(statements)], {"vector": vector, "k": 10})
            done += 1
    except psycopg.Error:
        pass  # a slow disk, a lock: what was read is read
    return done


def _within(
    conn: Connection, deadline: float, query: sql.Composed, parameters: dict[str, object] | None = None
) -> list[tuple[Any, ...]]:
    """The rows of a query that is cancelled at the deadline."""
    with conn.transaction():
        left = max(1, int((deadline - time.monotonic()) * 1000))
        conn.execute("SELECT set_config('statement_timeout', %s, true)", (f"{left}ms",))
        return conn.execute(query, parameters).fetchall()
