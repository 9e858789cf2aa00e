"""Recorded evaluations: what was measured, the state it saw, and whether that still stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from psycopg import sql

from embedtui.engine.validate.bridged import packed, unpacked
from embedtui.engine.validate.ranking import SearchedQuery, rank
from embedtui.formatting import counted, percent
from embedtui.model import (
    BridgedMeasures,
    Check,
    Comparison,
    EvaluationStatus,
    GateSettings,
    Interval,
    Measures,
    Migration,
    QueryComparison,
    Remedy,
    SeenState,
    Side,
    SweepPoint,
)
from embedtui.model.evaluation import EXACT, MIN_JUDGED, sign_test
from embedtui.model.plan import worst_first
from embedtui.postgres.connect import Connection, operator_name
from embedtui.postgres.indexes.existing import approximate_index
from embedtui.postgres.sides.both import count_rows
from embedtui.postgres.sides.hits import read_hits
from embedtui.postgres.state.evaluations import (
    EvaluationSummary,
    NewEvaluation,
    add_evaluation,
    newest_evaluation,
    newest_summary,
)
from embedtui.postgres.state.movement import read_movement
from embedtui.postgres.state.queries import StoredQuery, load_queries
from embedtui.postgres.state.verdicts import count_verdicts_since, load_verdicts, movement_of_verdicts

NEAR_SHARE = 0.8
"""Of the changes that an evaluation bears, from which it is said that it will soon be void."""


def observe(
    conn: Connection, migration: Migration, *, where: sql.Composable | None = None, request: str, bridge: int = 0
) -> SeenState:
    """The state a comparison is about to see. Reads the whole table once, without its vectors (200,000 rows: 0.1 s).

    Where even that takes longer than the statement time-out, the planner's estimate stands for the counts, and the
    digest is 0: then nothing is taken for unchanged.
    """
    now = read_movement(conn, migration, after=None, at_most=0)
    index = approximate_index(conn, migration, Side.NEW)
    counted = count_rows(conn, migration, where)
    return SeenState(
        rows=counted.rows,
        both=counted.both,
        one_sided=counted.one_sided,
        digest=counted.digest,
        heaps=now.heaps,
        old_model=migration.old_model.id or 0,
        new_model=migration.new_model.id or 0,
        index=index.name if index is not None else "",
        index_identity=index.identity if index is not None else "",
        inserted=now.inserted,
        updated=now.updated,
        deleted=now.deleted,
        captured=now.captured,
        queue_position=now.queue_position,
        synced=now.synced,
        backfilled=now.backfilled,
        request=request,
        bridge=bridge,
    )


def thresholds_of(gate: GateSettings) -> dict[str, Any]:
    """What a verdict is made by; not how long it stands, nor what was searched."""
    return {name: value for name, value in asdict(gate).items() if name not in ("max_drift", "where")}


def record(
    conn: Connection, migration: Migration, comparison: Comparison, gate: GateSettings, verdicts: str
) -> Comparison:
    """Append a comparison, judged by ``gate``, to embedtui.evaluation; returned with its id and time.

    ``verdicts``: where the operators' verdicts stood that it counts.
    """
    assert comparison.seen is not None
    figures = comparison.measures
    summary = {
        "overlap": figures.overlap.mean,
        "low_overlap": figures.low_overlap,
        "ndcg_old": figures.ndcg_old.mean if figures.ndcg_old is not None else None,
        "ndcg_new": figures.ndcg_new.mean if figures.ndcg_new is not None else None,
        "ndcg_served": figures.ndcg_served.mean if figures.ndcg_served is not None else None,
        "searched": figures.searched,
        "latency_old_ms": figures.latency_old_ms,
        "latency_new_ms": figures.latency_new_ms,
        "judged": figures.judged,
        "judged_moved": figures.judged_moved,
        "verdicts": verdicts,
    }
    number, at = add_evaluation(
        conn,
        NewEvaluation(
            migration=migration.id,
            who=operator_name(),
            k=comparison.k,
            queries=figures.queries,
            measures={
                "measures": asdict(figures),
                "rankings": [_packed(query) for query in comparison.queries],
                "contents": _contents(comparison),
                "partial": comparison.partial,
                "where": comparison.where,
            },
            checks=[asdict(check) for check in comparison.checks],
            verdict=comparison.verdict,
            state={"seen": asdict(comparison.seen), "summary": summary, "judged_by": thresholds_of(gate)}
            | ({"judged_rows": comparison.judged_rows} if comparison.judged_rows else {})
            | {"void_share": gate.max_drift},  # earlier versions read it
        ),
    )
    return replace(comparison, evaluation_id=number, at=at)


def remembered(conn: Connection, migration: Migration, unchanged: SeenState | None = None) -> Comparison | None:
    """The newest recorded comparison with its rankings, the texts as they are now, and the verdicts given since.

    Args:
        conn: connection in autocommit.
        migration: the migration as stored.
        unchanged: only if it was asked the same of the same state.
    """
    if unchanged is None:
        stored = newest_evaluation(conn, migration.id)
    else:
        stored = newest_evaluation(conn, migration.id, digest=unchanged.digest, request=unchanged.request)
    if stored is None:
        return None
    seen = SeenState(**stored.seen)
    if unchanged is not None and (unchanged.digest == 0 or _essence(seen) != _essence(unchanged)):
        return None
    kept = stored.measures
    queries = {query.id: query for query in load_queries(conn, migration, [entry["id"] for entry in kept["rankings"]])}
    entries = [entry for entry in kept["rankings"] if entry["id"] in queries]
    found = [(_searched(queries[entry["id"]], entry), entry) for entry in entries]
    shown = {tuple(place[0]) for entry in kept["rankings"] for side in _SHOWN if side in entry for place in entry[side]}
    hits = read_hits(conn, migration, sorted(shown))
    # recorded by an earlier version, contents have no fingerprints: what was edited is not known
    compared = {tuple(key): fingerprint for key, fingerprint in kept.get("contents", ())}
    comparison = Comparison(
        k=stored.k,
        queries=tuple(unpacked(rank(query, hits, stored.k, compared), entry, hits, compared) for query, entry in found),
        measures=_unpacked(kept["measures"]),
        partial=kept["partial"],
        evaluation_id=stored.id,
        verdict=stored.verdict,
        checks=tuple(_check(check) for check in stored.checks),
        at=stored.at,
        seen=seen,
        where=kept["where"],
        forgotten=len(kept["rankings"]) - len(entries),
    )
    return with_verdicts(conn, comparison)


def _check(kept: Mapping[str, Any]) -> Check:
    """A check as recorded; earlier versions called its hint ``mend``."""
    remedies = tuple(map(Remedy, kept.get("remedies", ())))
    return Check(kept["name"], kept["result"], kept["detail"], kept.get("hint", kept.get("mend", "")), remedies)


def _essence(seen: SeenState) -> tuple[object, ...]:
    """What has to be equal for a comparison to come out the same; the server's counters lag and are left out."""
    return seen.digest, seen.request, seen.heaps, seen.index_identity, seen.old_model, seen.new_model, seen.bridge


def with_verdicts(conn: Connection, comparison: Comparison) -> Comparison:
    """The comparison with the operators' present verdicts, and their sums."""
    given = load_verdicts(conn, [query.query_id for query in comparison.queries])
    own = operator_name()
    queries = tuple(
        replace(query, verdict=found.verdict, note=found.note or "", verdict_by="" if found.who == own else found.who)
        if (found := given.get(query.query_id)) is not None
        else replace(query, verdict="", note="", verdict_by="")
        for query in comparison.queries
    )
    # where the bridge stood in for the old model, nothing was said of that
    judged = [query for query in queries if not query.old_unknown]
    wins = {verdict: sum(query.verdict == verdict for query in judged) for verdict in ("new", "old")}
    figures = replace(
        comparison.measures,
        wins_new=wins["new"],
        wins_old=wins["old"],
        verdict_p=sign_test(wins["new"], wins["old"]),
    )
    return replace(comparison, queries=queries, measures=figures)


def _packed(query: QueryComparison) -> dict[str, object]:
    return {
        "id": query.query_id,
        "old": [[row.key, row.distance, row.missed] for row in query.old],
        "new": [[row.key, row.distance, row.missed] for row in query.new],
        "ndcg_old": query.ndcg_old,
        "ndcg_new": query.ndcg_new,
        "index_recall": query.index_recall,
        **packed(query),
    }


def _contents(comparison: Comparison) -> list[list[object]]:
    """Keys of all results, with the fingerprint of the content that was compared."""
    rows = (row for query in comparison.queries for side in (query.old, query.bridged, query.new) for row in side)
    known = {row.key: row.fingerprint for row in rows if row.fingerprint is not None}
    return [[list(key), fingerprint] for key, fingerprint in sorted(known.items())]


def _searched(query: StoredQuery, entry: Mapping[str, Any]) -> SearchedQuery:
    """A ranking as :func:`_packed` kept it."""
    return SearchedQuery(
        query=query,
        rankings={side: [(tuple(key), distance) for key, distance, _ in entry[side.value]] for side in Side},
        missed={side: {tuple(key) for key, _, missed in entry[side.value] if missed} for side in Side},
        ndcg={Side.OLD: entry["ndcg_old"], Side.NEW: entry["ndcg_new"]},
        index_recall=entry["index_recall"],
    )


_SHOWN = ("old", "bridged", "new")
_INTERVALS = (
    *("overlap", "rbo", "ndcg_old", "ndcg_new", "ndcg_difference", "ndcg_served", "ndcg_served_old"),
    *("recall_old", "recall_new", "mrr_old", "mrr_new"),
)


def _unpacked(kept: Mapping[str, Any]) -> Measures:
    values = {field.name: kept[field.name] for field in fields(Measures) if field.name in kept}
    for name in _INTERVALS:
        figure = values.get(name)
        # recorded by an earlier version, recall and MRR had no interval: they are unknown until compared again
        values[name] = Interval(**figure) if isinstance(figure, Mapping) else None
    for name in ("histogram", "latency_old_ms", "latency_new_ms", "unknown"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    values["sweep"] = tuple(SweepPoint(**point) for point in values.get("sweep", ()))
    if isinstance(bridged := values.get("bridged"), Mapping):
        figures: dict[str, Any] = {
            name: Interval(**each) if isinstance(each, Mapping) else each for name, each in bridged.items()
        }
        values["bridged"] = BridgedMeasures(**figures)
    return Measures(**values)


def current_evaluation(conn: Connection, migration: Migration) -> EvaluationStatus | None:
    """The newest evaluation and whether it is still about the present state; None if there is none.

    Cheap enough for every snapshot: counters, catalog and the tail of the queue, never the table.
    """
    newest = newest_summary(conn, migration.id)
    if newest is None:
        return None
    # once it has ended nothing is decided by it any more, and the cleanup itself has changed the table
    ended = migration.phase.ended
    seen = SeenState(**newest.seen)
    verdicts = movement_of_verdicts(conn, migration.id)
    why, near = ("", "") if ended else _why_void(conn, migration, seen)
    why = why if ended else why or _judged_otherwise(migration, newest.judged_by)
    return EvaluationStatus(
        id=newest.id,
        at=newest.at,
        queries=newest.queries,
        mean_overlap=newest.summary["overlap"],
        low_overlap=newest.summary["low_overlap"],
        verdict=newest.verdict,
        valid=not why,
        why_void=why,
        near_void="" if why else near,
        judged_old=newest.summary["ndcg_old"],
        judged_new=newest.summary["ndcg_new"],
        # recorded by an earlier version, the summary has none of these
        judged_served=newest.summary.get("ndcg_served"),
        judged_moved=newest.summary.get("judged_moved", ""),
        searched=newest.summary.get("searched", EXACT),
        latency_old_ms=_pair(newest.summary.get("latency_old_ms")),
        latency_new_ms=_pair(newest.summary.get("latency_new_ms")),
        verdicts_since=None if ended else _verdicts_since(conn, migration, newest, verdicts),
        checks=tuple(check for check in worst_first(map(_check, newest.checks)) if check.result != "pass"),
        verdicts=verdicts,
    )


def _verdicts_since(conn: Connection, migration: Migration, newest: EvaluationSummary, now: str) -> int | None:
    """Verdicts that the gate has not counted and, for want of judgments, would; recorded earlier, that is not known."""
    counted_to, judged = newest.summary.get("verdicts"), newest.summary.get("judged", MIN_JUDGED)
    if judged >= MIN_JUDGED or not now or counted_to == now:
        return None
    return count_verdicts_since(conn, migration.id, newest.at)


def _pair(kept: Sequence[float] | None) -> tuple[float, float] | None:
    return (kept[0], kept[1]) if kept else None


def _judged_otherwise(migration: Migration, judged_by: Mapping[str, Any] | None) -> str:
    """Which settings of the gate are others than those of the verdict; empty where none is, or nobody knows."""
    now = thresholds_of(migration.stored.gate)
    then = {**now, **(judged_by or {})}
    said = ", ".join(f"{name} {then[name]:g}, now {now[name]:g}" for name in now if then[name] != now[name])
    return f"it was judged by other settings of the gate ({said})" if said else ""


def _why_void(conn: Connection, migration: Migration, seen: SeenState) -> tuple[str, str]:
    """Why it is void, and how near it is to that by changes.

    The first is empty while no more were made than the gate's present ``max_drift`` allows, the second below
    ``NEAR_SHARE`` of these.

    A row that changed twice may count twice. Which rows changed only a scan would tell, so this is what may have moved
    at most.
    """
    if (seen.old_model, seen.new_model) != (migration.old_model.id, migration.new_model.id):
        return "it compared other models", ""
    share = migration.stored.gate.max_drift
    allowed = int(share * seen.rows)
    now = read_movement(conn, migration, after=seen.queue_position, at_most=allowed + 1)
    if now.heaps != seen.heaps:
        return "the table was truncated or rewritten since", ""
    index = approximate_index(conn, migration, Side.NEW)
    if (index.identity if index is not None else "") != seen.index_identity:
        if index is None:
            return f"the index {seen.index} it saw is gone", ""
        return ("the new index was built since" if index.valid else "the new index is invalid"), ""
    # with a scope most of what the server counts may be other rows: those of its own that come are captured
    of_scope = migration.scope is not None and seen.captured
    inserted, deleted = now.inserted - seen.inserted, now.deleted - seen.deleted
    updated = 0 if seen.captured else now.updated - seen.updated
    if min(inserted, deleted, updated) < 0:
        return "the server's write counters were reset (a crash?), so how far the table moved is unknown", ""
    captured = now.queued_after + max(0, now.synced - seen.synced)
    written = max((0 if of_scope else inserted) + deleted + updated, captured)
    ours = now.backfilled - seen.backfilled
    moved = max(written, ours)
    found, limit = percent(moved / max(1, seen.rows), 1, exact=True), percent(share, 1, exact=True)
    made = f"{counted(moved, 'change', 'changes')} to {counted(seen.rows, 'row', 'rows')} since ({found}"
    if ours > written:  # the backfill's own: the application's are fewer
        made = f"{moved:,} of {counted(seen.rows, 'row', 'rows')} backfilled since ({found}"
    if moved > allowed:
        least = "at least " if moved == captured and now.queued_after > allowed else ""  # counted up to a bound
        return f"{least}{made}, more than {limit})", ""
    near = moved and moved >= NEAR_SHARE * allowed
    return "", f"{made} of the {limit} that it bears): it will soon be void" if near else ""
