"""The third side of a comparison: what the new model's queries find in the old column, through the bridge that serves.

Real queries only: a row of the table may be one that the map was fitted on, and the fit has figures of rows held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from embedtui.arrays import np
from embedtui.engine.validate import measures
from embedtui.engine.validate.ranking import SearchedQuery, rank, ranked
from embedtui.engine.validate.run import JUDGED_DEPTH, Queries, Run
from embedtui.engine.validate.searching import Rankings
from embedtui.model import BridgedMeasures, Comparison, Key, Migration, QueryComparison, RankedRow, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.hits import Hit, read_hits
from embedtui.postgres.state.bridges import load_map
from embedtui.postgres.state.pointer import read_status
from embedtui.postgres.state.queries import StoredQuery, load_vectors


@dataclass(frozen=True, slots=True)
class Bridged:
    """Queries that are searched through a map; their vectors on the old side are mapped ones."""

    version: int
    asked: Queries
    only: frozenset[int]
    """Those of which no vector of the old model is known: ids."""


def served_bridge(conn: Connection, migration: Migration) -> int | None:
    """Version of the map that searches of the old side go through; None where they do not."""
    route = read_status(conn, migration)
    return route.bridge if route.bridging else None


def bridged_queries(
    conn: Connection, run: Run, asked: Sequence[StoredQuery], usable: Queries, version: int
) -> Bridged | None:
    """The real queries with their mapped vectors; None where there are none, or the map is not kept."""
    migration = run.migration
    real = [query for query in asked if query.query.row is None]
    new = load_vectors(conn, migration.new_model.id, [query.id for query in real])
    real = [query for query in real if query.id in new]
    found = load_map(conn, version, migration.vector_schema)
    if not real or found is None:
        return None
    straight = np.stack([new[query.id] for query in real])
    known = {query.id for query in usable.queries}
    return Bridged(
        version,
        Queries(tuple(real), {Side.OLD: found(straight), Side.NEW: straight}),
        frozenset(query.id for query in real if query.id not in known),
    )


def add_bridged(
    conn: Connection, run: Run, comparison: Comparison, bridged: Bridged, rankings: Rankings, searched: str
) -> Comparison:
    """The comparison with its third side: at queries that have an old one, and as queries that have no other.

    ``searched``: how they were, in words.
    """
    k = comparison.k
    shown = {key for found in rankings.values() for side in Side for key, _ in found[side][:k]}
    hits = read_hits(conn, run.migration, sorted(shown))
    made = {query.query_id: query for query in comparison.queries}
    unknown = f"{run.migration.old_model.called} made no vector of it"
    judged: list[tuple[float, float]] = []
    told: list[QueryComparison] = []
    for position, query in enumerate(bridged.asked.queries):
        if position not in rankings:
            continue
        found = rankings[position]
        gains = dict(query.query.relevant)
        ndcg: float | None = None
        new: float | None = None
        if any(gain > 0 for gain in gains.values()):
            ndcg, new = (measures.ndcg([key for key, _ in found[side]], gains, JUDGED_DEPTH) for side in Side)
            judged.append((ndcg, new))
        beside = rank(SearchedQuery(query, found, ndcg={Side.NEW: new}), hits, k)
        told.append(beside)
        if query.id in made:
            made[query.id] = replace(made[query.id], bridged=beside.old, ndcg_bridged=ndcg)
        elif query.id in bridged.only:
            made[query.id] = replace(beside, old=(), bridged=beside.old, old_unknown=unknown, ndcg_bridged=ndcg)
    if not told:
        return comparison
    shared = [
        measures.overlap(_keys(query.old), _keys(query.bridged), k)
        for query in made.values()
        if query.bridged and not query.old_unknown
    ]
    differences = [new - old for old, new in judged]
    found_all = BridgedMeasures(
        version=bridged.version,
        queries=len(told),
        searched=searched,
        only=sum(query.query_id in bridged.only for query in told),
        overlap_old=measures.bootstrap(shared),
        overlap_new=measures.bootstrap([query.overlap for query in told]),
        judged=len(judged),
        ndcg=measures.bootstrap([old for old, _ in judged]),
        ndcg_new=measures.bootstrap([new for _, new in judged]),
        ndcg_difference=measures.bootstrap(differences),
        p_value=measures.randomisation_test(differences),
    )
    return replace(
        comparison,
        queries=tuple(sorted(made.values(), key=lambda query: (query.overlap, query.rbo, query.query_id))),
        measures=replace(comparison.measures, bridged=found_all),
    )


def _keys(rows: Sequence[RankedRow]) -> list[Key]:
    return [row.key for row in rows]


def packed(query: QueryComparison) -> dict[str, object]:
    """What an evaluation keeps of a query's third side."""
    if not query.bridged:
        return {}
    return {
        "bridged": [[row.key, row.distance] for row in query.bridged],
        "ndcg_bridged": query.ndcg_bridged,
        "old_unknown": query.old_unknown,
    }


def unpacked(
    query: QueryComparison, entry: Mapping[str, object], hits: Mapping[Key, Hit], compared: Mapping[Key, int]
) -> QueryComparison:
    """The query with its third side as :func:`packed` kept it."""
    kept = entry.get("bridged")
    if not isinstance(kept, list):
        return query
    places = {row.key: row.rank for row in query.new}
    rows = tuple(
        ranked(key, number, distance, hits, compared, other_rank=places.get(key))
        for number, (key, distance) in enumerate(((tuple(parts), distance) for parts, distance in kept), 1)
    )
    ndcg, unknown = entry.get("ndcg_bridged"), entry.get("old_unknown")
    query = replace(query, bridged=rows, ndcg_bridged=ndcg if isinstance(ndcg, float) else None)
    if not unknown:
        return query
    # what it has beside the new side is the bridge
    of = {row.key: row.rank for row in rows}
    return replace(
        query,
        old_unknown=str(unknown),
        new=tuple(replace(row, other_rank=of.get(row.key)) for row in query.new),
        overlap=measures.overlap(_keys(rows), _keys(query.new), max(len(rows), len(query.new), 1)),
        rbo=measures.rbo(_keys(rows), _keys(query.new)),
        top1_kept=measures.top1_kept(_keys(rows), _keys(query.new)),
    )
