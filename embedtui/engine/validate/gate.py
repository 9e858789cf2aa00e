"""The gate of the cutover: what has to hold before the new side may serve, each check with a result and a reason."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

import psycopg

from embedtui.config import GateSettings
from embedtui.engine.validate.catching_up import NOT_WAITED, Caught
from embedtui.engine.validate.evaluation import record, thresholds_of, with_verdicts
from embedtui.engine.validate.run import Connect
from embedtui.formatting import counted, percent
from embedtui.model import (
    BridgedMeasures,
    Check,
    Comparison,
    IndexMethod,
    Interval,
    Measures,
    Migration,
    Remedy,
    Side,
    VerifyReport,
)
from embedtui.model.evaluation import EXACT, MIN_JUDGED
from embedtui.postgres.connect import Connection
from embedtui.postgres.indexes import filters, missing, used_by_search
from embedtui.postgres.indexes.existing import approximate_index
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.evaluations import read_judged_by, read_verdicts_counted
from embedtui.postgres.state.queue import count_rows_waiting
from embedtui.postgres.state.verdicts import movement_of_verdicts

DEFAULTS = GateSettings()

CHANCE_OVERLAP = 0.03
"""Unjudged: below this hardly any result is kept. Vectors in the wrong order, or of the wrong text, look like that; on
the demo's corpus even a poor model and a good one share 5 to 9 %."""
MIN_VERDICTS = 10
"""Verdicts for one side or the other from which they decide: with ten, 9 to 1 is the first split that the sign test
finds significant (p = 0.02)."""
LATENCY_FLOOR_MS = 20.0
"""A p95 up to this is fine whatever the old one's was: at a few milliseconds the factor measures noise."""
UNUSED_INDEX = "If it is not small: ANALYZE it, or lower random_page_cost, or hnsw.ef_search where that was raised."
EXPLAINED = 20
"""Partial indexes whose use is looked at: they differ in nothing but their condition."""
MIN_COVERAGE = 0.999
"""Share of rows with content that have a new vector or wait in the queue for one: an application that inserts all the
time always has some of these, and ``MAX_STALE`` bounds them."""
MAX_STALE = 0.01
"""Share of rows whose new vector is of earlier content, or that wait in the queue; change capture catches up with these
all the time."""
MAX_FAULTY = 0.001
"""Share of rows with an undecided fault: these would vanish from the results."""


class Quality(StrEnum):
    """What the judgments say of the new model."""

    BETTER = "better"
    NOT_WORSE = "not worse"
    WORSE = "worse"
    UNCERTAIN = "uncertain"
    UNJUDGED = "unjudged"


def decide_gate(
    connect: Connect,
    migration: Migration,
    comparison: Comparison,
    thresholds: GateSettings = DEFAULTS,
    caught: Caught = NOT_WAITED,
) -> Comparison:
    """Run all checks on a comparison and record it; returned with checks, verdict and id.

    ``caught``: who works off the queue, and whether only what came in since is in it.

    One that is recorded already is not recorded again unless checks came out differently, operators' verdicts were
    given or taken back since, or other settings judge it.
    """
    with connect() as conn:
        verdicts = movement_of_verdicts(conn, migration.id)
        comparison = with_verdicts(conn, comparison)
        checks = judge(conn, migration, comparison, thresholds, caught)
        verdict = verdict_of(checks)
        same = [(check.name, check.result) for check in checks] == [(c.name, c.result) for c in comparison.checks]
        known = comparison.evaluation_id
        same = same and verdict == comparison.verdict
        if known is not None and same and _decided_by(conn, known, thresholds, verdicts):
            return replace(comparison, checks=checks)
        judged = record(conn, migration, replace(comparison, checks=checks, verdict=verdict), thresholds, verdicts)
        reasons = ", ".join(check.name for check in checks if check.result not in ("pass", "warn"))
        add_audit(
            conn,
            migration.id,
            "evaluation",
            f"{verdict}, {counted(judged.measures.queries, 'query', 'queries')}; {reasons}".strip("; "),
        )
        return judged


def _decided_by(conn: Connection, evaluation: int, thresholds: GateSettings, verdicts: str) -> bool:
    """Whether an evaluation was judged by these, or does not say by which, and counts these verdicts."""
    by = read_judged_by(conn, evaluation)
    return by in (None, thresholds_of(thresholds)) and read_verdicts_counted(conn, evaluation) == verdicts


def verdict_of(checks: tuple[Check, ...]) -> str:
    """FAIL where any check fails, INCONCLUSIVE where any could not tell, else PASS (warnings pass)."""
    results = {check.result for check in checks}
    if "fail" in results:
        return "FAIL"
    return "INCONCLUSIVE" if results - {"pass", "warn"} else "PASS"


def judge(
    conn: Connection,
    migration: Migration,
    comparison: Comparison,
    thresholds: GateSettings = DEFAULTS,
    caught: Caught = NOT_WAITED,
) -> tuple[Check, ...]:
    """All checks, in the order in which an operator would mend them. Scans the table once, without its vectors."""
    try:
        with conn.transaction():
            # the rows and the queue as of one instant, else a row embedded in between would be in neither
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            placement = make_placement(migration)
            counts = placement.count(conn)
            stays = caught.what_stays(conn, placement, counts)
            queued = count_rows_waiting(conn, migration.id)
        state = [
            _coverage(counts, queued),
            _freshness(stays, queued, caught),
            _faults(counts),
        ]
    except psycopg.errors.QueryCanceled:
        why = "Counting the rows took longer than the statement time-out."
        state = [Check(name, "unknown", why) for name in ("coverage", "freshness", "faults")]
    figures, index = comparison.measures, _index(conn, migration)
    return (
        *state,
        index,
        _enough(figures, thresholds),
        _quality(figures, thresholds),
        _index_loss(migration, figures, thresholds),
        _latency(figures, thresholds, whole=index.result == "warn"),
    )


# ------------------------------------------------------------------------------------------------- the table's state


def _coverage(counts: VerifyReport, queued: int) -> Check:
    filled = counts.rows - counts.empty
    if filled == 0:
        return Check("coverage", "fail", "No row has anything to embed.")
    without = counts.missing + counts.faulty + counts.skipped
    awaited = min(counts.missing, queued)
    share = 1 - without / filled
    done = filled - without
    detail = f"{done:,} of {counted(filled, 'row', 'rows')} with content {'has' if done == 1 else 'have'} a new vector"
    detail += f" ({percent(share, 1, exact=True)})."
    if awaited:
        detail += f" {counted(queued, 'change waits', 'changes wait')} to be embedded."
    if counts.skipped:
        detail += f" {counted(counts.skipped, 'was', 'were')} skipped on purpose."
    if 1 - (without - awaited - counts.skipped) / filled < MIN_COVERAGE:
        return Check("coverage", "fail", detail, "Let the backfill run to its end.", (Remedy.RUN,))
    return Check("coverage", "warn" if counts.skipped else "pass", detail)


def _freshness(counts: VerifyReport, queued: int, caught: Caught) -> Check:
    filled = max(1, counts.rows - counts.empty)
    detail = (
        f"{counted(counts.stale, 'vector is', 'vectors are')} of earlier content,"
        f" {counted(queued, 'change waits', 'changes wait')} to be embedded."
    )
    if counts.wrong_model:
        wrong = counted(counts.wrong_model, "new vector was", "new vectors were")
        detail = f"{wrong} made by another model. {detail}"
        return Check("freshness", "fail", detail, "Queue them.", (Remedy.REPAIR,))
    if queued and caught.up:
        detail += f" They came within the last seconds, and {caught.worker} embeds them."
    if max(counts.stale, 0 if caught.up else queued) / filled > MAX_STALE:
        if caught.worker:
            return Check("freshness", "fail", detail, f"{caught.worker} is at it: compare again in a while.")
        return Check("freshness", "fail", detail, "Let sync catch up.", (Remedy.RUN,))
    if counts.unverified:
        detail += f" {counts.unverified:,} came from the application without a stamp."
        return Check("freshness", "warn", detail, "Check some of them.", (Remedy.SAMPLE,))
    return Check("freshness", "pass", detail)


def _faults(counts: VerifyReport) -> Check:
    if not counts.faulty:
        return Check("faults", "pass", "No row has an undecided fault.")
    detail = f"{counted(counts.faulty, 'row has', 'rows have')} an undecided fault and would vanish from the results."
    share = counts.faulty / max(1, counts.rows - counts.empty)
    return Check("faults", "fail" if share > MAX_FAULTY else "warn", detail, "Retry, shorten or skip them.")


def _index(conn: Connection, migration: Migration) -> Check:
    if migration.index_method is IndexMethod.NONE:
        return Check("index", "pass", "No approximate index is wanted: searches are exact.")
    index = approximate_index(conn, migration, Side.NEW)
    if index is None:
        return Check("index", "fail", "The new side has no approximate index.", "Build it.", (Remedy.RUN,))
    if not index.valid:
        why = f"{index.name} is invalid: its build failed."
        return Check("index", "fail", why, "Build it again.", (Remedy.RUN,))
    for target in missing(conn, migration):
        if target.shape.predicate:
            why = f"The old side has an index of the rows where {target.shape.predicate}, the new side has none."
            return Check("index", "fail", why, f"Build it, {target.name}: `embedtui index`.")
    wheres = filters(conn, migration)
    uses = [used_by_search(conn, migration, Side.NEW, where) for where in wheres[:EXPLAINED]]
    use = next((each for each in uses if not each.usable), next((each for each in uses if not each.used), uses[0]))
    if len(uses) > 1 and use.used:
        detail = (
            f"{len(wheres):,} indexes, {index.name} and others, are valid, and EXPLAIN shows that searches by their"
        )
        return Check("index", "pass", f"{detail} conditions use them.")
    if use.used:
        return Check("index", "pass", f"{index.name} is valid, and EXPLAIN shows that searches use it.")
    if use.usable:
        detail = (
            f"{index.name} is valid, but the planner would rather read the whole table, as it does with small ones."
        )
        return Check("index", "warn", detail, UNUSED_INDEX)
    return Check(
        "index", "fail", f"{index.name} is valid, but no search can use it.", "Check its operator class and type."
    )


# ------------------------------------------------------------------------------------------------ the comparison


def _enough(figures: Measures, thresholds: GateSettings) -> Check:
    detail = f"{counted(figures.queries, 'query', 'queries')} compared, {figures.judged:,} of them judged."
    only = figures.bridged.only if figures.bridged is not None else 0
    if only:
        detail += f" {counted(only, 'more is', 'more are')} beside the bridge alone."
    if figures.queries + only < thresholds.min_queries:
        return Check("queries", "inconclusive", detail, f"Compare at least {thresholds.min_queries}.")
    return Check("queries", "pass", detail)


def quality(figures: Measures | BridgedMeasures, margin: float = DEFAULTS.ndcg_margin) -> Quality:
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


def _quality(figures: Measures, thresholds: GateSettings) -> Check:
    found = quality(figures, thresholds.ndcg_margin)
    if figures.judged < MIN_JUDGED and figures.bridged is not None and figures.bridged.judged >= MIN_JUDGED:
        return _beside_the_bridge(figures, figures.bridged, thresholds)
    if found is Quality.UNJUDGED:
        return _unjudged(figures, thresholds)
    assert figures.ndcg_difference is not None
    detail = (
        f"nDCG@10 {_mean(figures.ndcg_old)} → {_mean(figures.ndcg_new)} {figures.searched}"
        f" ({_signed(figures.ndcg_difference)}, p = {figures.p_value:.4f},"
        f" {counted(figures.judged, 'judged query', 'judged queries')}"
        f"{f'; {figures.judged_moved}' if figures.judged_moved else ''})."
    )
    if found is Quality.WORSE:
        return Check(
            "quality", "fail", f"The new model is worse: {detail}", "Check the model, its prefixes, its order."
        )
    if figures.judged < MIN_JUDGED:
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


def _beside_the_bridge(figures: Measures, bridged: BridgedMeasures, thresholds: GateSettings) -> Check:
    """The new side beside what serves, which is not the old model: never more than a warning speaks for it."""
    found = quality(bridged, thresholds.ndcg_margin)
    assert bridged.ndcg_difference is not None, "there are judged queries"
    said = {
        Quality.BETTER: ("warn", "The new model is better than the bridge"),
        Quality.NOT_WORSE: ("warn", "Not worse than the bridge"),
        Quality.WORSE: ("fail", "The new model is worse than even the bridge"),
        Quality.UNCERTAIN: ("inconclusive", "Whether worse than the bridge cannot be told"),
    }
    result, words = said[found]
    queries = counted(bridged.judged, "judged query", "judged queries")
    detail = (
        f"{words} (version {bridged.version}), and the old model cannot be asked: nDCG@10 bridged"
        f" {_mean(bridged.ndcg)} → {_mean(bridged.ndcg_new)} ({_signed(bridged.ndcg_difference)},"
        f" p = {bridged.p_value:.4f}, {queries}). Mean overlap with the old model, by rows and its log:"
        f" {figures.overlap.mean:.2f}."
    )
    hint = "Check the model, its prefixes, its order." if result == "fail" else "Judge more queries."
    return Check("quality", result, detail, "" if result == "warn" else hint)


def _unjudged(figures: Measures, thresholds: GateSettings) -> Check:
    overlap = f"Mean overlap {figures.overlap.mean:.2f}"
    decided = figures.wins_new + figures.wins_old
    if decided >= MIN_VERDICTS and figures.verdict_p is not None:
        verdicts = (
            f"{counted(figures.wins_new, 'verdict', 'verdicts')} for the new side, {figures.wins_old:,} for the old"
            f" (sign test p = {figures.verdict_p:.3f}). {overlap}."
        )
        if figures.wins_old > figures.wins_new:
            told = figures.verdict_p < 0.05
            return Check("quality", "fail" if told else "inconclusive", verdicts, "Look at the queries it lost.")
        return Check("quality", "pass" if figures.verdict_p < 0.05 else "warn", verdicts)
    hint = (
        f"Judge queries, or give {MIN_VERDICTS} verdicts for new or old ({decided:,} on these queries; same and both"
        " bad do not count), and compare again."
    )
    if figures.overlap.mean < CHANCE_OVERLAP:
        detail = f"{overlap}: the results have almost nothing in common, which two working models do not do."
        return Check("quality", "fail", detail, "Check that vectors and rows belong together. " + hint)
    better = "different; without judgments nothing here knows whether for better or worse"
    detail = f"{overlap}: {better if figures.overlap.mean < 1 else 'both sides find the same rows'}."
    return Check("quality", "warn" if figures.overlap.mean >= thresholds.min_overlap else "inconclusive", detail, hint)


def _index_loss(migration: Migration, figures: Measures, thresholds: GateSettings) -> Check:
    recall, least = figures.index_recall, thresholds.min_index_recall
    if migration.index_method is IndexMethod.NONE:
        return Check("index loss", "pass", "Searches are exact: nothing is lost.")
    if recall is None:
        return Check(
            "index loss",
            "inconclusive",
            "Not measured: no valid index, none that these searches go by, or no exact search to hold it against.",
            "Where the indexes are of some rows each, compare by the application's filter: gate.where.",
        )
    detail = f"As served, searches find {percent(recall, 1, exact=True)} of the exact top {figures.k}"
    if figures.ndcg_served is not None and figures.ndcg_new is not None and figures.searched == EXACT:
        detail += f"; nDCG@10 {_mean(figures.ndcg_new)} exact, {_mean(figures.ndcg_served)} as served"
    if recall >= least:
        return Check("index loss", "pass", detail + ".")
    if figures.index_recall_old is not None and recall >= figures.index_recall_old:
        return Check(
            "index loss", "warn", f"{detail}; on the old side {percent(figures.index_recall_old, 1, exact=True)}."
        )
    hint = _setting_hint(figures, thresholds)
    return Check("index loss", "fail", f"{detail}: this loss is the index's, not the model's.", hint)


def _setting_hint(figures: Measures, thresholds: GateSettings) -> str:
    """The index setting that would pass both checks, and where it is set; or that none of those tried does."""
    least, limit = thresholds.min_index_recall, _slowest(figures, thresholds)
    finds = [point for point in figures.sweep if point.recall >= least]
    if not finds:
        return "Build the index again, on the full table."
    fast = [point for point in finds if limit is None or point.p95_ms <= limit]
    # the sweep asks fewer queries than the gate: one just at the bound may well fail it
    safe = next((point for point in fast if point.recall >= (1 + least) / 2), fast[-1] if fast else finds[-1])
    found = (
        f"{safe.setting} = {safe.value} finds {percent(safe.recall, 1, exact=True)} at a p95 of {safe.p95_ms:.1f} ms"
    )
    if fast:
        where = f"ALTER ROLE … SET {safe.setting} = {safe.value}"
        return f"{found}: set it for the roles that search and compare ({where}), and compare again."
    return f"{found}, above the limit of {limit:.1f} ms: build the index with other options (settings: [index])."


def _slowest(figures: Measures, thresholds: GateSettings) -> float | None:
    """The p95 that passes, in ms; None where the old side's is not known."""
    old = figures.latency_old_ms
    return None if old is None else max(thresholds.max_latency_factor * old[1], LATENCY_FLOOR_MS)


def _latency(figures: Measures, thresholds: GateSettings, *, whole: bool = False) -> Check:
    """``whole``: the planner would rather read the whole table than the index."""
    if figures.latency_new_ms is None:
        return Check("latency", "unknown", "Not measured.")
    if figures.latency_old_ms is None:
        p50, p95 = figures.latency_new_ms
        detail = f"New side p50 {p50:.1f} ms, p95 {p95:.1f} ms; the old side's is not known, as the comparison says."
        hint = "Hold it against what the application measures today."
        return Check("latency", "pass" if p95 <= LATENCY_FLOOR_MS else "warn", detail, hint)
    (old_p50, old), (new_p50, new) = figures.latency_old_ms, figures.latency_new_ms
    detail = f"p50 {old_p50:.1f} → {new_p50:.1f} ms, p95 {old:.1f} → {new:.1f} ms."
    limit = _slowest(figures, thresholds)
    assert limit is not None, "the old side's is known"
    if new <= limit:
        return Check("latency", "pass", detail)
    return Check(
        "latency",
        "fail",
        f"{detail} More than {thresholds.max_latency_factor:g} times the old side's.",
        f"The index is not used. {UNUSED_INDEX}"
        if whole
        else "Warm the index up, or store halfvec or fewer dimensions.",
    )


def _mean(interval: Interval | None) -> str:
    return "unknown" if interval is None else f"{interval.mean:.4f}"


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.4f}, 95 % interval {interval.low:+.4f} to {interval.high:+.4f}"
