"""Rankings put together: measures per query and over all, and what could not be known."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from embedtui.engine.validate import measures
from embedtui.engine.validate.measures import mean
from embedtui.engine.validate.ranking import SearchedQuery, rank
from embedtui.engine.validate.run import Queries, Run
from embedtui.engine.validate.searching import Searched
from embedtui.errors import NotClean
from embedtui.formatting import counted
from embedtui.model import (
    Comparison,
    Distance,
    IndexMethod,
    Interval,
    Key,
    Measures,
    Migration,
    QueryComparison,
    SeenState,
    Side,
)
from embedtui.postgres.catalog.vectors import is_unit
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.both import count_gone, fingerprints, vector_lengths
from embedtui.postgres.sides.hits import read_hits
from embedtui.postgres.state.evaluations import read_judged_rows
from embedtui.postgres.state.queries import StoredQuery

LENGTHS = 1000
"""New vectors whose length is looked at, where the distance weighs it."""

LOW_OVERLAP = 0.3
"""Below this overlap@k a query counts as low: fewer than three of ten results kept."""

_Judged = defaultdict[str, list[float]]
"""A figure of each judged query, in their order, by its name."""


def put_together(
    conn: Connection, run: Run, seen: SeenState, asked: Queries, searched: Searched, unknown: Sequence[str]
) -> Comparison:
    """The comparison that the searches came to, not recorded yet.

    Args:
        conn: connection to the primary, for the rows' texts.
        run: what was compared, and how.
        seen: the state of the table that was searched.
        asked: the queries.
        searched: what was found.
        unknown: what could not be had so far.

    Raises:
        NotClean: not one search came back in time.
    """
    k = run.options.k
    basis = "exact" if len(searched.exact) == len(asked) else "served"
    rankings = searched.exact if basis == "exact" else searched.served
    if not rankings:
        raise NotClean("Not one search came back in time.", hint="Allow more time, or compare on a replica.")
    shown = {key for found in rankings.values() for side in Side for key, _ in found[side][:k]}
    hits = read_hits(conn, run.migration, sorted(shown))
    recalls = {side: searched.index_recalls(side, k) for side in searched.indexes}
    made: list[QueryComparison] = []
    judged: _Judged = defaultdict(list)
    for position in sorted(rankings):
        query = asked.queries[position]
        keys = {side: [key for key, _ in rankings[position][side]] for side in Side}
        served = {side: [key for key, _ in found] for side, found in searched.served.get(position, {}).items()}
        missed: dict[Side, set[Key]] = {}
        for side, of_side in recalls.items():
            if basis == "exact" and of_side.get(position, 1.0) < 1:
                missed[side] = set(keys[side][:k]) - set(served[side])
        found = SearchedQuery(
            query=query,
            rankings=rankings[position],
            missed=missed,
            ndcg=_judge(query, keys, served, judged),
            index_recall=recalls.get(Side.NEW, {}).get(position),
        )
        made.append(rank(found, hits, k))
    kept, moved = _judged_rows(conn, run.migration, [asked.queries[position] for position in rankings])
    told = (
        *((f"{moved} they were first counted: nDCG, recall and MRR move by that.",) if moved else ()),
        *unknown,
        *searched.unknown,
        *_unknown(conn, run, seen, [asked.queries[position] for position in rankings], bool(judged), searched),
    )
    return Comparison(
        k=k,
        queries=tuple(sorted(made, key=lambda query: (query.overlap, query.rbo, query.query_id))),
        measures=replace(_figures(made, judged, searched, recalls, k, basis, told), judged_moved=moved),
        partial=seen.one_sided > 0,
        seen=seen,
        judged_rows=kept,
    )


def _judged_rows(
    conn: Connection, migration: Migration, compared: Sequence[StoredQuery]
) -> tuple[tuple[tuple[Key, int, int], ...], str]:
    """The judged rows as first counted, and how many have been edited or deleted since; judged anew they count anew."""
    gains: dict[Key, list[tuple[int, float]]] = defaultdict(list)
    for query in compared:
        for key, gain in query.query.relevant:
            if gain > 0:
                gains[key].append((query.id, gain))
    if not gains:
        return (), ""
    before, now = read_judged_rows(conn, migration.id), fingerprints(conn, migration, gains)
    kept = []
    edited = deleted = 0
    for key, judgments in gains.items():
        stamp = zlib.crc32(repr(sorted(judgments)).encode())
        then = before[key][0] if key in before and before[key][1] == stamp else now.get(key)
        if then is None:  # it was never there
            continue
        kept.append((key, then, stamp))
        edited += now.get(key, then) != then
        deleted += key not in now
    parts = [(number, what) for number, what in ((edited, "edited"), (deleted, "deleted")) if number]
    if not parts:
        return tuple(sorted(kept)), ""
    (number, what), *more = parts
    also = "".join(f", {number:,} {what}" for number, what in more)
    return tuple(sorted(kept)), f"{counted(number, 'judged row', 'judged rows')} {what}{also} since"


def _judge(
    query: StoredQuery,
    keys: Mapping[Side, Sequence[Key]],
    served: Mapping[Side, Sequence[Key]],
    judged: _Judged,
) -> dict[Side, float | None]:
    """Each ranking's nDCG where the query has judgments; all its judged figures are added to ``judged``."""
    gains = dict(query.query.relevant)
    if not any(gain > 0 for gain in gains.values()):
        return {}
    ndcg: dict[Side, float | None] = {}
    for side in Side:
        ndcg[side] = figure = measures.ndcg(keys[side], gains)
        judged[f"ndcg_{side}"].append(figure)
        judged[f"recall_{side}"].append(measures.recall(keys[side], gains))
        judged[f"mrr_{side}"].append(measures.reciprocal_rank(keys[side], gains))
    if served:
        for side in Side:
            judged[f"served_{side}"].append(measures.ndcg(served[side], gains))
    return ndcg


def _unknown(
    conn: Connection, run: Run, seen: SeenState, compared: Sequence[StoredQuery], judged: bool, searched: Searched
) -> Iterable[str]:
    migration = run.migration
    if not judged:
        yield "Which model is better, by judged rows: no query names any. Overlap says what changed, not for the worse."
    else:
        relevant = {key for query in compared for key, gain in query.query.relevant if gain > 0}
        if gone := count_gone(conn, migration, relevant):
            rows = counted(gone, "judged row is", "judged rows are")
            yield f"{rows} not in {migration.table}: not found, on both sides."
    if seen.one_sided:
        has = "has" if seen.one_sided == 1 else "have"
        rows = counted(seen.rows, "row", "rows")
        yield f"{seen.one_sided:,} of {rows} {has} one vector only: left out, on both sides."
    if migration.distance is not Distance.COSINE:
        lengths = vector_lengths(conn, migration, Side.NEW, LENGTHS)
        if lengths is not None and not is_unit(*lengths):
            yield (
                f"What the new model alone changes: its vectors are {lengths[0]:.3g} to {lengths[1]:.3g} long, and"
                f" distance {migration.distance.value} puts long ones first, whatever they mean; cosine would not."
            )
    built = Side.NEW in searched.indexes or Side.NEW in searched.unserved
    if not built and migration.index_method is not IndexMethod.NONE:
        yield "What an approximate index will lose, and its latency: the new side has none that is valid."


def _figures(
    made: Sequence[QueryComparison],
    judged: Mapping[str, list[float]],
    searched: Searched,
    recalls: Mapping[Side, Mapping[int, float]],
    k: int,
    basis: str,
    unknown: tuple[str, ...],
) -> Measures:
    overlaps = [query.overlap for query in made]
    differences = [new - old for old, new in zip(judged.get("ndcg_old", ()), judged.get("ndcg_new", ()), strict=True)]
    served = {side: judged.get(f"served_{side}", ()) for side in Side}
    if Side.NEW not in recalls or len(served[Side.NEW]) != len(differences):
        served = dict.fromkeys(Side, ())
    models = [
        measures.overlap([key for key, _ in found[Side.OLD]], [key for key, _ in found[Side.NEW]], k)
        for found in searched.exact.values()
    ]
    return Measures(
        queries=len(made),
        k=k,
        overlap=_interval(overlaps),
        rbo=_interval([query.rbo for query in made]),
        top1_kept=sum(query.top1_kept for query in made) / len(made),
        low_overlap=sum(overlap < LOW_OVERLAP for overlap in overlaps),
        histogram=measures.histogram(overlaps),
        judged=len(differences),
        ndcg_old=measures.bootstrap(judged.get("ndcg_old", ())),
        ndcg_new=measures.bootstrap(judged.get("ndcg_new", ())),
        ndcg_difference=measures.bootstrap(differences),
        recall_old=measures.bootstrap(judged.get("recall_old", ())),
        recall_new=measures.bootstrap(judged.get("recall_new", ())),
        mrr_old=measures.bootstrap(judged.get("mrr_old", ())),
        mrr_new=measures.bootstrap(judged.get("mrr_new", ())),
        p_value=measures.randomisation_test(differences),
        model_overlap=mean(models),
        index_recall=mean(recalls.get(Side.NEW, {}).values()),
        index_recall_old=mean(recalls.get(Side.OLD, {}).values()),
        basis=basis,
        exact_queries=len(searched.exact),
        ndcg_served=measures.bootstrap(served[Side.NEW]),
        ndcg_served_old=measures.bootstrap(served[Side.OLD]),
        sweep=searched.sweep,
        latency_old_ms=_latency(searched, Side.OLD),
        latency_new_ms=_latency(searched, Side.NEW),
        unknown=unknown,
    )


def _interval(values: Sequence[float]) -> Interval:
    found = measures.bootstrap(values)
    assert found is not None, "there is at least one query"
    return found


def _latency(searched: Searched, side: Side) -> tuple[float, float] | None:
    milliseconds = searched.milliseconds[side]
    if not milliseconds or side in searched.unserved:
        return None
    return measures.percentile(milliseconds, 50), measures.percentile(milliseconds, 95)
