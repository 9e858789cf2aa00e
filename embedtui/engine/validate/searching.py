"""The searches of a comparison: exact, as served, and with the index looking at more."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from embedtui.arrays import np
from embedtui.engine.validate import measures
from embedtui.engine.validate.exact import Ranking, read_nearest
from embedtui.engine.validate.measures import mean
from embedtui.engine.validate.run import Queries, Run, count_queries
from embedtui.formatting import counted
from embedtui.model import Side, SweepPoint
from embedtui.model.evaluation import EXACT, SERVED
from embedtui.postgres.catalog.vectors import vector_indexes, why_unserved
from embedtui.postgres.connect import Connection
from embedtui.postgres.indexes import used_by_search
from embedtui.postgres.indexes.existing import ApproximateIndex, approximate_index, tree_of
from embedtui.postgres.names import escaped, vector_text
from embedtui.postgres.sides.both import table_bytes
from embedtui.postgres.sides.layout import vectors_at

EXACT_SAMPLE = 50
"""Queries of that sample."""

SWEEP_BELOW = 0.95
"""Index recall below which the index's setting is swept."""

SWEEP_QUERIES = 50
"""Most queries that are searched again at each setting."""

SERVED_ENOUGH = 100
"""Queries whose served results tell an index's recall well enough where exact ones are known: a thousand places."""

SERVED_SECONDS = 4.0
"""After these no more than that are searched as served."""

Rankings = dict[int, dict[Side, Ranking]]
"""Rankings of each side by the query's position."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What the searches of a comparison found."""

    exact: Rankings
    served: Rankings
    milliseconds: Mapping[Side, Sequence[float]]
    """Of each search as served."""
    indexes: Mapping[Side, ApproximateIndex]
    """The valid ones that served."""
    sweep: tuple[SweepPoint, ...]
    unknown: tuple[str, ...]
    """What could not be searched, and why."""
    unserved: Mapping[Side, str] = field(default_factory=dict)
    """Why a side was read whole, though it has an index that the application may search by."""

    def index_recalls(self, side: Side, k: int) -> dict[int, float]:
        """Share of the exact top ``k`` that the side's index returned, by position of a query that has both."""
        return _index_recalls(self.exact, self.served, side, k)


def search_all(conn: Connection, run: Run, asked: Queries, *, both: bool) -> Searched:
    """Search all queries exactly and as served, and sweep the new side's index where it loses results.

    Args:
        conn: connection in autocommit, to the primary or a replica.
        run: what is compared, and how.
        asked: the queries with their vectors.
        both: search only rows that have both vectors.

    Raises:
        Interrupted: the run was stopped.
    """
    unknown: list[str] = []
    run = run.prepared(conn)
    exact = _exact_rankings(conn, run, asked, unknown)
    unserved = {side: why for side in Side if (why := _unserved(conn, run, side)) is not None}
    indexes = {
        side: index
        for side in Side
        if side not in unserved and (index := approximate_index(conn, run.migration, side)) is not None and index.valid
    }
    served, taken = _served_rankings(conn, run, asked, both=both, all_exact=len(exact) == len(asked))
    if len(served) < len(asked):
        left, known = len(asked) - len(served), counted(len(served), "was", "were")
        unknown.append(f"What is served for {left:,} of {count_queries(asked)}: {known} searched as served.")
    for side, why in unserved.items():
        unknown.append(
            f"The {side} side's latency, and what its index loses: {why}, so that each search of it read the whole"
            " table."
        )
    sweep = _sweep_index(conn, run, asked, exact, served, indexes.get(Side.NEW))
    return Searched(exact, served, taken, indexes, sweep, tuple(unknown), unserved)


def search_bridged(conn: Connection, run: Run, asked: Queries, *, both: bool) -> tuple[Rankings, str]:
    """Both sides' rankings of queries whose vectors of the old side are mapped ones: exact, else as served; and which.

    Raises:
        Interrupted: the run was stopped.
    """
    run = run.prepared(conn)
    exact = _exact_rankings(conn, run, asked, [])
    if len(exact) == len(asked):
        return exact, EXACT
    return _served_rankings(conn, run, asked, both=both, all_exact=False)[0], SERVED


def _unserved(conn: Connection, run: Run, side: Side) -> str | None:
    """Why no search of this comparison can go by the side's index, where it has one."""
    migration = run.migration
    table, column = vectors_at(migration, side)
    root = tree_of(conn, table)[:1]
    why = why_unserved(vector_indexes(conn, root[0].oid, column), migration.distance) if root else None
    if why is None or (run.where is None and migration.scope is None):
        return why
    # what filter and scope imply is the planner's to say
    where = escaped(run.where) if run.where is not None else None
    return None if used_by_search(conn, migration, side, where).usable else why


def _exact_rankings(conn: Connection, run: Run, asked: Queries, unknown: list[str]) -> Rankings:
    """Exact rankings by position of the query; positions without one ran out of time or were not in the sample.

    A table of moderate size is read once, and all queries of both sides are answered by matrix products: 300 queries
    cost about as much as one. Beyond that a sample of queries is searched by the server, one after the other.
    """
    try:
        if table_bytes(conn, run.migration) <= run.options.exact_bytes:
            read = read_nearest(
                conn,
                run.migration,
                asked.vectors,
                depth=run.depth,
                leave_out=[query.query.row for query in asked.queries],
                where=run.where,
                casts=run.casts,
                timeout=run.options.exact_timeout,
                step=lambda rows: run.step("reading vectors", rows, rows),
            )
            return dict(enumerate(read))
        found: Rankings = _exact_by_searching(conn, run, asked)
    except psycopg.errors.QueryCanceled:
        found = {}
    if len(found) < len(asked):
        unknown.append(
            f"Exact results of {len(asked) - len(found):,} of {count_queries(asked)}: the table is too big for more"
            f" within {run.options.exact_timeout:g} s. Figures are made of what the searches serve."
        )
    return found


def _exact_by_searching(conn: Connection, run: Run, asked: Queries) -> Rankings:
    count = min(EXACT_SAMPLE, len(asked))
    positions = [number * len(asked) // count for number in range(count)]
    found: Rankings = {}
    until = time.monotonic() + run.options.exact_timeout
    for done, position in enumerate(positions):
        run.step("exact search", done, count)
        left = until - time.monotonic()
        if left <= 0:
            break
        try:
            with conn.transaction():
                conn.execute("SELECT set_config('statement_timeout', %s, true)", [f"{max(1, int(left * 1000))}ms"])
                found[position] = {
                    side: _search(conn, run, side, asked, position, exact=True, both=True)[0] for side in Side
                }
        except psycopg.errors.QueryCanceled:
            break
    return found


def _search(
    conn: Connection, run: Run, side: Side, asked: Queries, position: int, *, exact: bool = False, both: bool
) -> tuple[Ranking, float]:
    """One search as the application makes it, and its milliseconds; ``both``: only rows that have both vectors."""
    row, vector = asked.queries[position].query.row, asked.vectors[side][position]
    statement = run.statement(side, both=both, exact=exact, without_key=row is not None)
    values: dict[str, object] = {"vector": vector_text(vector), "k": run.depth}
    if row is not None:
        values["key"] = list(row)
    began = time.perf_counter()
    rows = conn.execute(statement, values).fetchall()
    milliseconds = 1000 * (time.perf_counter() - began)
    # the cosine distance to a zero vector is NaN: sorted last, and nobody's neighbour
    return [(tuple(key), distance) for key, distance in rows if distance == distance], milliseconds


def _served_rankings(
    conn: Connection, run: Run, asked: Queries, *, both: bool, all_exact: bool
) -> tuple[Rankings, dict[Side, list[float]]]:
    """Rankings as served and milliseconds of each search: both sides in turn, on one connection.

    Where exact rankings are there for all queries, a sample tells what the index loses and how long searches take: at
    least :data:`SERVED_ENOUGH` queries, and as many more as :data:`SERVED_SECONDS` allow.
    """
    found: Rankings = {}
    taken: dict[Side, list[float]] = {side: [] for side in Side}
    # in an order of their own, so that a sample is one of all queries
    order = np.random.default_rng(measures.SEED).permutation(len(asked)).tolist()
    began = time.monotonic()
    try:
        # the first searches of a connection plan, and read what later ones find in memory
        for position in order[:5]:
            for side in Side:
                _search(conn, run, side, asked, position, both=both)
        for done, position in enumerate(order):
            run.step("searching as served", done, len(asked))
            spent = time.monotonic() - began
            if spent > run.options.exact_timeout or (all_exact and done >= SERVED_ENOUGH and spent > SERVED_SECONDS):
                break
            searched = {side: _search(conn, run, side, asked, position, both=both) for side in Side}
            found[position] = {side: ranking for side, (ranking, _) in searched.items()}
            for side, (_, milliseconds) in searched.items():
                taken[side].append(milliseconds)
    except psycopg.errors.QueryCanceled:
        pass
    return found, taken


def _sweep_index(
    conn: Connection, run: Run, asked: Queries, exact: Rankings, served: Rankings, index: ApproximateIndex | None
) -> tuple[SweepPoint, ...]:
    """Recall against latency of the new side's index as it looks at more; made where it loses results."""
    recall = mean(_index_recalls(exact, served, Side.NEW, run.options.k).values())
    if index is None or recall is None or recall >= SWEEP_BELOW:
        return ()
    positions = sorted(exact)[:: max(1, len(exact) // SWEEP_QUERIES)][:SWEEP_QUERIES]
    if index.method == "hnsw":
        setting, values = "hnsw.ef_search", [40, 80, 160, 320, 640, 1000]  # pgvector's default and limit
    else:
        lists = index.lists or 100  # pgvector's default
        setting, values = "ivfflat.probes", [1 << n for n in range(15) if 1 << n < lists] + [lists]
    points: list[SweepPoint] = []
    try:
        for done, value in enumerate(values):
            conn.execute("SELECT set_config(%s, %s, false)", [setting, str(value)])
            found: Rankings = {}
            taken = []
            for position in positions:
                run.step(f"trying {setting}", done, len(values))
                ranking, milliseconds = _search(conn, run, Side.NEW, asked, position, both=False)
                taken.append(milliseconds)
                found[position] = {Side.NEW: ranking}
            reached = mean(_index_recalls(exact, found, Side.NEW, run.options.k).values()) or 0.0
            points.append(
                SweepPoint(setting, value, reached, measures.percentile(taken, 50), measures.percentile(taken, 95))
            )
            if reached >= 0.99:
                break
    finally:
        if not conn.broken:
            conn.execute(sql.SQL("RESET {}").format(sql.SQL(setting)))
    return tuple(points)


def _index_recalls(exact: Rankings, served: Rankings, side: Side, k: int) -> dict[int, float]:
    return {
        position: measures.index_recall(
            [distance for _, distance in exact[position][side]],
            [distance for _, distance in served[position][side]],
            k,
        )
        for position in sorted(exact)
        if position in served
    }
