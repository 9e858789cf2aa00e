"""The gate of the cutover: what has to hold before the new side may serve, each check with a result and a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import psycopg

from embedtui.engine.validate.compare import Connect
from embedtui.engine.validate.evaluation import (
    VOID_SHARE,
    approximate_index,
    record,
    with_verdicts,
)
from embedtui.formatting import counted
from embedtui.model import Check, Comparison, IndexMethod, Interval, Measures, Migration, Remedy, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.indexes import used_by_search
from embedtui.postgres.sides.placement import SideCounts, make_placement
from embedtui.postgres.state.migrations import add_audit

NDCG_MARGIN = 0.02
"""See :attr:`GateThresholds.ndcg_margin`."""


@dataclass(frozen=True, slots=True)
class GateThresholds:
    """What the cutover asks for. The defaults suit a table that serves people; each says why it is what it is."""

    min_queries: int = 30
    """Fewer are inconclusive: the bootstrap interval of so few is itself too narrow to be trusted."""
    min_judged: int = 30
    """Judged queries from which judgments decide; with fewer, overlap and verdicts do."""
    ndcg_margin: float = NDCG_MARGIN
    """Judged: the new side may be worse by this much in nDCG@10. It is one relevant row moving from the first place to
    the second in one query of twenty; a smaller difference takes thousands of judged queries to be sure of."""
    min_overlap: float = 0.5
    """Unjudged: a mean overlap of the top 10 below this asks for verdicts. Two equally good models shared 46 % on a
    public set, so it says nothing against the new one: it says that somebody has to look."""
    chance_overlap: float = 0.03
    """Unjudged: below this hardly any result is kept. Vectors in the wrong order, or made of the wrong text, look like
    that; on the demo's corpus even a poor model and a good one share 5 to 9 %."""
    min_verdicts: int = 10
    """Verdicts for one side or the other from which they decide: with ten, 9 to 1 is the first split that the sign test
    finds significant (p = 0.02)."""
    min_index_recall: float = 0.95
    """Of the new index against exact search: below this, one result in twenty that the model found is lost."""
    max_latency_factor: float = 2.0
    """p95 of the new side may be this many times the old one's: more dimensions take time, but not more."""
    latency_floor_ms: float = 20.0
    """A p95 up to this is fine whatever the old one's was: at a few milliseconds the factor measures noise."""
    min_coverage: float = 0.999
    """Share of rows with content that have a new vector or wait in the queue for one: an application that inserts all
    the time always has some of these, and ``max_stale`` bounds them."""
    max_stale: float = 0.01
    """Share of rows whose new vector is of earlier content, or that wait in the queue; change capture catches up with
    these all the time."""
    max_faulty: float = 0.001
    """Share of rows with an undecided fault: these would vanish from the results."""
    max_drift: float = VOID_SHARE
    """Share of rows that may change before the evaluation is void."""


class Quality(StrEnum):
    """What the judgments say of the new model."""

    BETTER = "better"
    NOT_WORSE = "not worse"
    WORSE = "worse"
    UNCERTAIN = "uncertain"
    UNJUDGED = "unjudged"


def decide_gate(
    connect: Connect, migration: Migration, comparison: Comparison, thresholds: GateThresholds = GateThresholds()
) -> Comparison:
    """Run all checks on a comparison and record it; returned with checks, verdict and id.

    One that is recorded already is not recorded again unless checks or verdicts came out differently.
    """
    with connect() as conn:
        comparison = with_verdicts(conn, comparison)
        checks = judge(conn, migration, comparison, thresholds)
        verdict = verdict_of(checks)
        same = [(check.name, check.result) for check in checks] == [(c.name, c.result) for c in comparison.checks]
        if comparison.evaluation_id is not None and same and verdict == comparison.verdict:
            return replace(comparison, checks=checks)
        judged = record(conn, migration, replace(comparison, checks=checks, verdict=verdict), thresholds.max_drift)
        reasons = ", ".join(check.name for check in checks if check.result not in ("pass", "warn"))
        add_audit(
            conn,
            migration.id,
            "evaluation",
            f"{verdict}, {counted(judged.measures.queries, 'query', 'queries')}; {reasons}".strip("; "),
        )
        return judged


def verdict_of(checks: tuple[Check, ...]) -> str:
    """FAIL where any check fails, INCONCLUSIVE where any could not tell, else PASS (warnings pass)."""
    results = {check.result for check in checks}
    if "fail" in results:
        return "FAIL"
    return "INCONCLUSIVE" if results - {"pass", "warn"} else "PASS"


def judge(
    conn: Connection, migration: Migration, comparison: Comparison, thresholds: GateThresholds = GateThresholds()
) -> tuple[Check, ...]:
    """All checks, in the order in which an operator would mend them. Scans the table once, without its vectors."""
    try:
        with conn.transaction():
            # the rows and the queue as of one instant, else a row embedded in between would be in neither
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            counts = make_placement(migration).count(conn)
            queued = _queued(conn, migration)
        state = [
            _coverage(counts, queued, thresholds),
            _freshness(counts, queued, thresholds),
            _faults(counts, thresholds),
        ]
    except psycopg.errors.QueryCanceled:
        why = "Counting the rows took longer than the statement time-out."
        state = [Check(name, "unknown", why) for name in ("coverage", "freshness", "faults")]
    figures = comparison.measures
    return (
        *state,
        _index(conn, migration),
        _enough(figures, thresholds),
        _quality(figures, thresholds),
        _index_loss(migration, figures, thresholds),
        _latency(figures, thresholds),
    )


# ------------------------------------------------------------------------------------------------- the table's state


def _queued(conn: Connection, migration: Migration) -> int:
    """Rows whose change waits to be embedded."""
    query = "SELECT count(DISTINCT key) FROM embedtui.queue WHERE migration = %s AND kind <> 'd'"
    row = conn.execute(query, [migration.id]).fetchone()
    assert row is not None
    return int(row[0])


def _coverage(counts: SideCounts, queued: int, thresholds: GateThresholds) -> Check:
    filled = counts.rows - counts.empty
    if filled == 0:
        return Check("coverage", "fail", "No row has anything to embed.")
    without = counts.missing + counts.faulty + counts.skipped
    awaited = min(counts.missing, queued)
    share = 1 - without / filled
    done = filled - without
    detail = f"{done:,} of {counted(filled, 'row', 'rows')} with content {'has' if done == 1 else 'have'} a new vector"
    detail += f" ({_percent(share)})."
    if awaited:
        detail += f" {counted(awaited, 'just written waits', 'just written wait')} for one."
    if counts.skipped:
        detail += f" {counted(counts.skipped, 'was', 'were')} skipped on purpose."
    if 1 - (without - awaited - counts.skipped) / filled < thresholds.min_coverage:
        return Check("coverage", "fail", detail, "Let the backfill run to its end.", (Remedy.RUN,))
    return Check("coverage", "warn" if counts.skipped else "pass", detail)


def _freshness(counts: SideCounts, queued: int, thresholds: GateThresholds) -> Check:
    filled = max(1, counts.rows - counts.empty)
    detail = (
        f"{counted(counts.stale, 'vector is', 'vectors are')} of earlier content,"
        f" {counted(queued, 'change waits', 'changes wait')} to be embedded."
    )
    if counts.wrong_model:
        wrong = counted(counts.wrong_model, "new vector was", "new vectors were")
        detail = f"{wrong} made by another model. {detail}"
        return Check("freshness", "fail", detail, "Queue them.", (Remedy.REPAIR,))
    if max(counts.stale, queued) / filled > thresholds.max_stale:
        return Check("freshness", "fail", detail, "Let sync catch up.", (Remedy.RUN,))
    if counts.unverified:
        detail += f" {counts.unverified:,} came from the application without a stamp."
        return Check("freshness", "warn", detail, "Check some of them.", (Remedy.SAMPLE,))
    return Check("freshness", "pass", detail)


def _faults(counts: SideCounts, thresholds: GateThresholds) -> Check:
    if not counts.faulty:
        return Check("faults", "pass", "No row has an undecided fault.")
    detail = f"{counted(counts.faulty, 'row has', 'rows have')} an undecided fault and would vanish from the results."
    share = counts.faulty / max(1, counts.rows - counts.empty)
    return Check("faults", "fail" if share > thresholds.max_faulty else "warn", detail, "Retry, truncate or skip them.")


def _index(conn: Connection, migration: Migration) -> Check:
    if migration.index_method is IndexMethod.NONE:
        return Check("index", "pass", "No approximate index is wanted: searches are exact.")
    index = approximate_index(conn, migration, Side.NEW)
    if index is None:
        return Check("index", "fail", "The new side has no approximate index.", "Build it.", (Remedy.RUN,))
    if not index.valid:
        why = f"{index.name} is invalid: its build failed."
        return Check("index", "fail", why, "Build it again.", (Remedy.RUN,))
    use = used_by_search(conn, migration, Side.NEW)
    if use.used:
        return Check("index", "pass", f"{index.name} is valid, and EXPLAIN shows that searches use it.")
    if use.usable:
        detail = (
            f"{index.name} is valid, but the planner would rather read the whole table, as it does with small ones."
        )
        return Check("index", "warn", detail, "ANALYZE the table if it is not small.")
    return Check(
        "index", "fail", f"{index.name} is valid, but no search can use it.", "Check its operator class and type."
    )


# ------------------------------------------------------------------------------------------------ the comparison


def _enough(figures: Measures, thresholds: GateThresholds) -> Check:
    detail = f"{counted(figures.queries, 'query', 'queries')} compared, {figures.judged:,} of them judged."
    if figures.queries < thresholds.min_queries:
        return Check("queries", "inconclusive", detail, f"Compare at least {thresholds.min_queries}.")
    return Check("queries", "pass", detail)


def quality(figures: Measures, margin: float = NDCG_MARGIN) -> Quality:
    """What the judgments say: by the paired interval of the nDCG@10 difference, against ``margin``.

    Better: the whole interval is above 0. Not worse: it is above -margin (non-inferiority). Worse: it is below 0 and
    the mean below -margin.
    """
    difference = figures.ndcg_difference
    if difference is None:
        return Quality.UNJUDGED
    if difference.low > 0:
        return Quality.BETTER
    if difference.low >= -margin:
        return Quality.NOT_WORSE
    if difference.high < 0 and difference.mean < -margin:
        return Quality.WORSE
    return Quality.UNCERTAIN


def _quality(figures: Measures, thresholds: GateThresholds) -> Check:
    found = quality(figures, thresholds.ndcg_margin)
    if found is Quality.UNJUDGED:
        return _unjudged(figures, thresholds)
    assert figures.ndcg_difference is not None
    detail = (
        f"nDCG@10 {_mean(figures.ndcg_old)} → {_mean(figures.ndcg_new)}"
        f" ({_signed(figures.ndcg_difference)}, p = {figures.p_value:.4f},"
        f" {counted(figures.judged, 'judged query', 'judged queries')})."
    )
    if found is Quality.WORSE:
        return Check(
            "quality", "fail", f"The new model is worse: {detail}", "Check the model, its prefixes, its order."
        )
    if figures.judged < thresholds.min_judged:
        rest = _unjudged(figures, thresholds)
        return replace(rest, detail=f"Too few judgments to decide ({detail.rstrip('.')}). {rest.detail}")
    match found:
        case Quality.BETTER:
            return Check("quality", "pass", f"The new model is better: {detail}")
        case Quality.NOT_WORSE:
            changed = f"{100 * (1 - figures.overlap.mean):.0f} % of the results differ"
            return Check("quality", "pass", f"Different, not worse: {changed}, {detail}")
    return Check(
        "quality",
        "inconclusive",
        f"Different; whether worse by more than {thresholds.ndcg_margin:g} cannot be told: {detail}",
        "Judge more queries.",
    )


def _unjudged(figures: Measures, thresholds: GateThresholds) -> Check:
    overlap = f"Mean overlap {figures.overlap.mean:.2f}"
    decided = figures.wins_new + figures.wins_old
    if decided >= thresholds.min_verdicts and figures.verdict_p is not None:
        verdicts = (
            f"{counted(figures.wins_new, 'verdict', 'verdicts')} for the new side, {figures.wins_old:,} for the old"
            f" (sign test p = {figures.verdict_p:.3f}). {overlap}."
        )
        if figures.wins_old > figures.wins_new:
            told = figures.verdict_p < 0.05
            return Check("quality", "fail" if told else "inconclusive", verdicts, "Look at the queries it lost.")
        return Check("quality", "pass" if figures.verdict_p < 0.05 else "warn", verdicts)
    mend = f"Judge queries, or give at least {thresholds.min_verdicts} verdicts."
    if figures.overlap.mean < thresholds.chance_overlap:
        detail = f"{overlap}: the results have almost nothing in common, which two working models do not do."
        return Check("quality", "fail", detail, "Check that vectors and rows belong together. " + mend)
    detail = f"{overlap}: different; without judgments nothing here knows whether for better or worse."
    return Check("quality", "warn" if figures.overlap.mean >= thresholds.min_overlap else "inconclusive", detail, mend)


def _index_loss(migration: Migration, figures: Measures, thresholds: GateThresholds) -> Check:
    recall, least = figures.index_recall, thresholds.min_index_recall
    if migration.index_method is IndexMethod.NONE:
        return Check("index loss", "pass", "Searches are exact: nothing is lost.")
    if recall is None:
        return Check(
            "index loss", "inconclusive", "Not measured: no valid index, or no exact search to hold it against."
        )
    detail = f"As served, searches find {_percent(recall)} of the exact top {figures.k}"
    if figures.ndcg_served is not None and figures.ndcg_new is not None and figures.basis == "exact":
        detail += f"; nDCG@10 {_mean(figures.ndcg_new)} exact, {_mean(figures.ndcg_served)} as served"
    if recall >= least:
        return Check("index loss", "pass", detail + ".")
    if figures.index_recall_old is not None and recall >= figures.index_recall_old:
        return Check("index loss", "warn", f"{detail}; on the old side {_percent(figures.index_recall_old)}.")
    enough = next((point for point in figures.sweep if point.recall >= least), None)
    mend = (
        f"{enough.setting} = {enough.value} finds {_percent(enough.recall)} at a p95 of {enough.p95_ms:.1f} ms."
        if enough is not None
        else "Build the index again, on the full table."
    )
    return Check("index loss", "fail", f"{detail}: this loss is the index's, not the model's.", mend)


def _latency(figures: Measures, thresholds: GateThresholds) -> Check:
    if figures.latency_old_ms is None or figures.latency_new_ms is None:
        return Check("latency", "unknown", "Not measured.")
    (old_p50, old), (new_p50, new) = figures.latency_old_ms, figures.latency_new_ms
    detail = f"p50 {old_p50:.1f} → {new_p50:.1f} ms, p95 {old:.1f} → {new:.1f} ms."
    if new <= max(thresholds.max_latency_factor * old, thresholds.latency_floor_ms):
        return Check("latency", "pass", detail)
    return Check(
        "latency",
        "fail",
        f"{detail} More than {thresholds.max_latency_factor:g} times the old side's.",
        "Warm the index up, or store halfvec or fewer dimensions.",
    )


def _mean(interval: Interval | None) -> str:
    return "unknown" if interval is None else f"{interval.mean:.4f}"


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.4f}, 95 % interval {interval.low:+.4f} to {interval.high:+.4f}"


def _percent(share: float) -> str:
    """Never rounded up to 100 %."""
    return f"{int(share * 1000) / 10:g} %"
