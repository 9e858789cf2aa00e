"""Hand-made snapshots and comparisons: one for each state that a screen has to show well. The clock stands still."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from embedtui.model import (
    AuditEntry,
    BackfillStatus,
    BatchJobStatus,
    BatchOffer,
    BatchStatus,
    Blocker,
    BridgedMeasures,
    Check,
    Comparison,
    Condition,
    EmbeddingModel,
    EvaluationStatus,
    FaultClass,
    FaultGroup,
    FaultRow,
    FaultState,
    Hold,
    IndexMethod,
    IndexStatus,
    Interval,
    ListenerStatus,
    Measures,
    Phase,
    PlacementKind,
    Plan,
    QueryComparison,
    RankedRow,
    Remedy,
    RollbackStatus,
    RouteStatus,
    Side,
    Snapshot,
    SyncStatus,
    TableName,
    ThreadStatus,
    WorkerStatus,
)
from embedtui.model.bridge import BridgeFigures, BridgeFit, BridgePoint, BridgeQueries, BridgeStatus
from tests.kits.samples import sample_migration

NOW = datetime(2026, 3, 14, 3, 12, 44, tzinfo=UTC)


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


OLD = EmbeddingModel("text-embedding-004", 768, retired=False, price_per_million=0.10, id=1)
NEW = EmbeddingModel("text-embedding-3-large", 768, price_per_million=0.13, id=2)

MIGRATION = sample_migration(content_columns=("title", "body"), old_model=OLD, new_model=NEW)

WORKERS = (
    WorkerStatus(
        1, "ops-1", 41_207, "embedding", ago(minutes=7), 0.8, True, rows=218_400, own=True,
        threads=(
            ThreadStatus("embed-1", "embedding 412 rows", ago(seconds=1)),
            ThreadStatus("embed-2", "embedding 398 rows", ago(seconds=2)),
            ThreadStatus("embed-3", "writing 405 rows", ago(seconds=0)),
            ThreadStatus("embed-4", "waiting for rows", ago(seconds=4)),
            ThreadStatus("sync", "waiting for changes", ago(seconds=3)),
        ),
    ),
    WorkerStatus(2, "batch-3", 1_188, "embedding", ago(minutes=6), 1.4, True, rows=97_120,
                 threads=(ThreadStatus("embed-1", "embedding 405 rows", ago(minutes=3)),
                          ThreadStatus("embed-2", "writing 380 rows", ago(seconds=1)))),
    WorkerStatus(3, "batch-4", 902, "embedding", ago(minutes=6), 94.0, False, rows=12_000),
)  # fmt: skip

AUDIT = tuple(
    AuditEntry(ago(minutes=60 - i * 4), who, "ops-1", act, detail, "ops", i + 1, 41_207, who == "anna")
    for i, (who, act, detail) in enumerate(
        (
            ("anna", "prepare", "column embedding_v2, 3 triggers, 1,000 shards"),
            ("anna", "run", "backfill started with 6 requests in flight"),
            ("ben", "set_pace", "max_concurrency 4 → 6"),
            ("anna", "pause", "replica lag"),
            ("anna", "resume", ""),
            ("anna", "skip_faults", "12 rows: content filter"),
            ("ben", "compare", "60 queries: PASS"),
            ("anna", "cutover", "10 %, epoch 2"),
            ("anna", "cutover", "100 %, epoch 3"),
        )
    )
)

LISTENERS = (
    ListenerStatus("api-1", 311, "search-api", 3, 18_201, 0, 0.4, 11.0),
    ListenerStatus("api-2", 298, "search-api", 3, 17_990, 0, 0.7, 14.0),
    ListenerStatus("cron-1", 77, "digest", 3, 120, 0, 2.0, 36.0),
)

BACKFILL = BackfillStatus(
    rows=327_520, total=520_000, rate=1_284.0, eta_seconds=150.0, tokens=61_300_000, spent=7.97, estimate=12.66, cap=20.0,  # noqa: E501
    hot_share=0.86, shards_done=630, shards=1_000, concurrency=6, max_concurrency=6, in_flight=6, requests_per_minute=3_000, tokens_per_minute=5_000_000,  # noqa: E501
)  # fmt: skip

FRESH = Snapshot(
    NOW,
    server="shop at db-1",
    next_act="run",
    next_why="Reads the plan first; prepare then adds a column and triggers within short locks.",
)

RUNNING = Snapshot(
    NOW, MIGRATION, Phase.BACKFILL, Condition.RUNNING,
    backfill=BACKFILL,
    sync=SyncStatus(12, 3.4, 4_210),
    route=RouteStatus(epoch=1, listeners=tuple(replace(each, epoch=1, flip_ms=None) for each in LISTENERS)),
    workers=WORKERS[:2], server="shop at db-1", log=AUDIT,
    next_act="", next_why="520,000 rows, about two and a half minutes to go.",
)  # fmt: skip

THROTTLED = replace(
    RUNNING,
    condition=Condition.THROTTLED,
    reasons=(
        Hold("provider", "429 from text-embedding-3-large: tokens per minute used up, goes on in 21 s", ago(seconds=9)),
        Hold("long_transactions", "pid 2213 of “nightly-report”, open for 48 m", ago(minutes=4)),
    ),
    backfill=replace(BACKFILL, rate=212.0, eta_seconds=908.0, hot_share=0.31, hot_holder="pid 2213 “nightly-report”"),
    next_why="Held; it goes on by itself.",
)

FAULTS = (
    FaultGroup(FaultClass.ROW, "400 input is longer than 8,192 tokens", 214),
    FaultGroup(FaultClass.ROW, "400 input was rejected by the content filter", 12),
    FaultGroup(FaultClass.ROW, "400 input is longer than 8,192 tokens", 40, FaultState.TRUNCATE),
    FaultGroup(FaultClass.PROVIDER, "bad reply: 3 vectors for 4 inputs", 4, FaultState.RETRY),
)

FAULTED = replace(
    RUNNING,
    migration=replace(MIGRATION, desired="pause", condition=Condition.FAILED),
    condition=Condition.FAILED,
    reasons=(Hold("provider", "401 from text-embedding-3-large: OPENAI_API_KEY is not accepted", ago(seconds=40)),),
    faults=FAULTS,
    backfill=replace(BACKFILL, rate=None, eta_seconds=None),
    workers=WORKERS,
    next_act="faults",
    next_why="226 rows wait for a decision; the provider refuses the key: set OPENAI_API_KEY, then run.",
)

PAUSED = replace(
    RUNNING,
    migration=replace(MIGRATION, desired="pause", condition=Condition.PAUSED),
    condition=Condition.PAUSED,
    reasons=(Hold("operator", "paused by anna at 03:02", ago(minutes=10)),),
    backfill=replace(BACKFILL, rate=None, eta_seconds=None),
    next_act="resume",
    next_why="Paused by anna; nothing paid for is lost.",
)

INDEXING = replace(
    RUNNING,
    phase=Phase.INDEX,
    backfill=replace(BACKFILL, rows=520_000, rate=None, eta_seconds=None, spent=12.61, tokens=97_000_000, shards_done=1_000),  # noqa: E501
    index=IndexStatus(
        "documents_embedding_v2_idx", IndexMethod.HNSW, True, False, "building index: loading tuples", 18_400, 41_000,
        "pid 2213 “nightly-report”",
    ),
    next_why="The index is being built; reads and writes go on.",
)  # fmt: skip

EVALUATION = EvaluationStatus(
    4,
    ago(minutes=3),
    60,
    0.47,
    14,
    "PASS",
    True,
    judged_old=0.412,
    judged_new=0.587,
    latency_old_ms=(2.1, 4.8),
    latency_new_ms=(2.3, 5.2),
)

READY = replace(
    INDEXING,
    phase=Phase.VALIDATE,
    condition=Condition.IDLE,
    backfill=replace(INDEXING.backfill),
    index=IndexStatus("documents_embedding_v2_idx", IndexMethod.HNSW, True, True),
    sync=SyncStatus(0, None, 6_002),
    evaluation=EVALUATION,
    next_act="cutover",
    next_why="The gate is passed: nDCG 0.41 → 0.59 on 60 judged queries.",
)

CANARY = replace(
    READY,
    phase=Phase.CUTOVER,
    condition=Condition.RUNNING,
    route=RouteStatus(Side.OLD, 10, 2, ago(minutes=12), "anna", tuple(
        replace(each, epoch=2, searches_new=each.searches_old // 9) for each in LISTENERS)),
    rollback=RollbackStatus(True, missing=0, rows=520_000),
    next_act="cutover",
    next_why="10 % of the keys read the new side: watch them, then move the rest.",
)  # fmt: skip

CUT_OVER = replace(
    CANARY,
    phase=Phase.SOAK,
    route=RouteStatus(Side.NEW, 0, 3, ago(minutes=4), "anna", tuple(
        replace(each, searches_new=4_100) for each in LISTENERS)),
    rollback=RollbackStatus(True, missing=0, rows=520_000),
    soak_seconds=252,
    next_act="",
    next_why="Let it soak; a rollback is fresh and one key away.",
)  # fmt: skip

STALE = replace(
    CUT_OVER,
    migration=replace(MIGRATION, old_model=replace(OLD, retired=True)),
    rollback=RollbackStatus(False, 1_204, "text-embedding-004 no longer answers", missing=73, rows=520_000),
    sync=SyncStatus(310, 95.0, 7_020),
    soak_seconds=93_600,
    next_act="cleanup",
    next_why="It has soaked for a day; a rollback would find 1,204 rows stale.",
)

DONE = replace(
    STALE,
    phase=Phase.DONE,
    condition=Condition.IDLE,
    migration=replace(MIGRATION, phase=Phase.DONE, settings={**MIGRATION.settings, "gone": "old"}),
    sync=SyncStatus(0, None, 7_330),
    rollback=RollbackStatus(None),
    workers=(),
    soak_seconds=None,
    next_act="",
    next_why="Finished; log and registry stay.",
)

BATCH = replace(
    RUNNING,
    backfill=replace(BACKFILL, rate=None, eta_seconds=None, in_flight=None),
    batch=BatchStatus(
        (
            BatchJobStatus(4, "batch_6a1f", "in_progress", 50_000, 400, 100, 7_200.0),
            BatchJobStatus(5, "batch_6a20", "validating", 12_000, 100, 50, 3_600.0),
        ),
        3, 40_000, 4_000_000, 0.26, 0.52,
    ),
)  # fmt: skip
RATE_LIMITED = replace(
    RUNNING,
    condition=Condition.THROTTLED,
    reasons=(
        Hold(
            "rate",
            "429: Rate limit reached. Next try at 03:12:52 UTC."
            " Now 2,412 requests and 4,012,345 tokens a minute; found: 2,998 requests and 4,950,000 tokens.",
            ago(seconds=4),
        ),
    ),
)
_FOUND = Interval(0.87, 0.83, 0.9)
BRIDGED = replace(
    RUNNING,
    migration=replace(MIGRATION, old_model=replace(OLD, retired=True)),
    route=replace(
        RUNNING.route,
        epoch=2,
        bridging=True,
        bridge=1,
        bridge_found=BridgeStatus("ridge", 0.3, 3_000, BridgeFigures(_FOUND, _FOUND, _FOUND, 212, 1_000)),
    ),
    notices=("text-embedding-004 was shut down on 2026-01-14 (ai.google.dev/gemini-api/docs/deprecations).",),
)

DEAD = replace(
    RUNNING,
    old_gone="text-embedding-004 no longer answers (404)",
    next_act="bridge",
    next_why="text-embedding-004 no longer answers (404).",
)
BRIDGING = replace(
    DEAD,
    next_act="wait",
    workers=(
        *WORKERS[:2],
        WorkerStatus(4, "ops-1", 41_300, "bridge: embedding the sample, 640 of 2,304 rows", ago(seconds=9), 0.2, True),
    ),
)


def _held_out(first: float, ten: float, neighbours: float) -> BridgeFigures:
    spans = (Interval(mean, mean - 0.03, min(1.0, mean + 0.02)) for mean in (first, ten, neighbours))
    return BridgeFigures(*spans, 300, 1_000)


FOUND = BridgeStatus(
    "ridge", 0.3, 2_304, _held_out(0.81, 0.96, 0.64),
    (BridgePoint(414, _held_out(0.42, 0.71, 0.38)), BridgePoint(829, _held_out(0.66, 0.88, 0.52)),
     BridgePoint(1_659, _held_out(0.81, 0.96, 0.64))),
    {"orthogonal": _held_out(0.77, 0.95, 0.61), "identity": _held_out(0.03, 0.03, 0.01),
     "shuffled": _held_out(0.03, 0.04, 0.01)},
    queries=BridgeQueries(212, 180, Interval(0.62, 0.57, 0.66), 212, Interval(0.41, 0.36, 0.46), 180,
                          Interval(0.47, 0.42, 0.52), Interval(0.42, 0.37, 0.47)),
)  # fmt: skip
BRIDGE_REFUSED = replace(
    DEAD,
    bridge=BridgeFit(
        1, ago(seconds=40),
        replace(
            FOUND, figures=_held_out(0.22, 0.41, 0.19), others={"shuffled": _held_out(0.03, 0.04, 0.01)},
            curve=(BridgePoint(414, _held_out(0.09, 0.19, 0.07)), BridgePoint(829, _held_out(0.15, 0.3, 0.12)),
                   BridgePoint(1_659, _held_out(0.22, 0.41, 0.19))), queries=BridgeQueries(60),
            refused="Of 300 rows held out 41 % find themselves among the first ten of 1,000; below 75 % a bridged"
            " search is not worth serving. The text behind the old vectors may be another one, or more rows may help.",
        ),
    ),
)  # fmt: skip
BRIDGE_ON = replace(
    DEAD,
    next_act="wait",
    route=replace(RUNNING.route, epoch=2, bridging=True, bridge=1, bridge_found=FOUND),
    bridge=BridgeFit(1, ago(seconds=40), FOUND),
)

STATES = {
    "fresh": FRESH,
    "running": RUNNING,
    "throttled": THROTTLED,
    "cold": replace(RUNNING, backfill=replace(BACKFILL, hot_share=0.48, hot_holder="")),
    "rate-limited": RATE_LIMITED,
    "batch": BATCH,
    "bridged": BRIDGED,
    "dead": DEAD,
    "bridging": BRIDGING,
    "faulted": FAULTED,
    "paused": PAUSED,
    "indexing": INDEXING,
    "ready": READY,
    "canary": CANARY,
    "cut-over": CUT_OVER,
    "stale": STALE,
    "done": DONE,
}
WORDY = {
    **STATES,
    "begun": replace(RUNNING, backfill=replace(BACKFILL, rate=28.0, eta_seconds=None)),
    "slower": replace(RUNNING, backfill=replace(BACKFILL, rate=1_284.0, eta_seconds=86_000.0)),
}
"""With those that have their pictures' layout, and longer words in it."""

# ------------------------------------------------------------------------------------------------ comparison

_TITLES = (
    "How to rotate the signing keys of the gateway",
    "Runbook: replica lag above one minute",
    "Refunds for orders that were split between two warehouses",
    "Changing the e-mail address of an account",
    "Why search results differ between two requests",
    "Postmortem of the outage in November",
    "Vacuum, bloat and what to do about both",
    "Export of all personal data on request",
    "Rate limits of the public API",
    "Setting up the staging database from a backup",
    "Invoices in another currency",
    "Two-factor codes do not arrive",
    "Migrating the queue to a new cluster",
    "Holiday schedule of the support desk",
    "Which ports the agents need",
    "The difference between archive and delete",
)
_OTHERS = (
    "Standby falls behind: what to check first",
    "Double charges and how to reverse them",
    "Signing in when the phone is lost",
    "Requests for erasure and access under the GDPR",
    "Deploys and flags of the last day",
    "Restoring one table from last night",
    "Dead rows and table size",
    "Firewall rules by region",
    "When the API answers 429",
)
_BODY = (
    " — first look at the dashboard of the service and note when it began. Most of the time the cause is a change "
    "of the last hour; the change log is linked from every panel. If nothing changed, compare with the week before."
)


def _ranking(seed: int, kept: int, k: int = 10) -> tuple[tuple[RankedRow, ...], tuple[RankedRow, ...]]:
    order = [(seed * 7 + i * 5) % len(_TITLES) for i in range(len(_TITLES))]
    order = list(dict.fromkeys(order)) + [i for i in range(len(_TITLES)) if i not in order]
    old = order[:k]
    new = ([*old[2:kept], *old[: min(2, kept)]] if kept > 2 else old[:kept]) + [
        100 + (seed + i) % len(_OTHERS) for i in range(k - kept)
    ]
    rows = []
    for mine, other in ((old, new), (new, old)):
        rows.append(
            tuple(
                RankedRow(
                    (str(4_000 + doc),), rank, 0.11 + rank * 0.021 + seed * 0.003,
                    (_TITLES[doc] if doc < 100 else _OTHERS[doc % 100 % len(_OTHERS)]) + _BODY,
                    other.index(doc) + 1 if doc in other else None,
                )
                for rank, doc in enumerate(mine, 1)
            )
        )  # fmt: skip
    return rows[0], rows[1]


_QUERIES = (
    ("the pager woke me, standby is behind", 1, "new"),
    ("customer paid twice", 2, ""),
    ("how do I get into my account without my phone", 2, "new"),
    ("gdpr request", 3, "same"),
    ("what changed before the outage", 4, ""),
    ("restore yesterday's backup on staging", 4, "old"),
    ("table is ten times as big as its rows", 5, ""),
    ("firewall for the agents", 6, ""),
    ("429 from your api", 7, ""),
    ("invoice in swiss francs", 8, ""),
    ("who works on easter monday", 9, ""),
    ("archive or delete", 10, "same"),
)


def _query(number: int, text: str, kept: int, verdict: str) -> QueryComparison:
    old, new = _ranking(number, kept)
    relevant = (new[0].key, old[min(3, len(old) - 1)].key)
    return QueryComparison(
        number, text, old, new, kept / 10, kept / 12, old[0].key == new[0].key, relevant, 0.31, 0.52, verdict
    )


def _moved_on(query: QueryComparison) -> QueryComparison:
    """The query with a row of each side that is not what it was when it was compared."""
    old, new = list(query.old), list(query.new)
    old[4] = replace(old[4], deleted=True, text="")
    new[3] = replace(new[3], edited=True, title="How to rotate")
    return replace(query, old=tuple(old), new=tuple(new))


QUERIES = tuple(_query(i, *each) for i, each in enumerate(_QUERIES, 1))
QUERIES = tuple(_moved_on(each) if each.query_id == 3 else each for each in QUERIES)

MEASURES = Measures(
    queries=60, k=10, overlap=Interval(0.47, 0.42, 0.52), rbo=Interval(0.51, 0.46, 0.56), top1_kept=0.38, low_overlap=14,  # noqa: E501
    histogram=(1, 5, 8, 9, 11, 9, 7, 5, 3, 2), judged=60, ndcg_old=Interval(0.412, 0.36, 0.46),
    ndcg_new=Interval(0.587, 0.54, 0.63), ndcg_difference=Interval(0.175, 0.11, 0.24),
    recall_old=Interval(0.52, 0.47, 0.57), recall_new=Interval(0.71, 0.66, 0.76),
    mrr_old=Interval(0.44, 0.39, 0.49), mrr_new=Interval(0.61, 0.56, 0.66), p_value=0.001, model_overlap=0.48,
    index_recall=0.98, latency_old_ms=(2.1, 4.8), latency_new_ms=(2.3, 5.2), wins_new=2, wins_old=1, verdict_p=1.0,
)  # fmt: skip


def _through(query: QueryComparison) -> QueryComparison:
    """The query with what a bridge finds of it: most of the old results, moved by one; of the third, it alone."""
    old = (*query.old[1:4], query.old[0], *query.old[5:])
    ranks = {row.key: row.rank for row in query.new}
    rows = tuple(
        replace(row, rank=rank, distance=row.distance + 0.02, other_rank=ranks.get(row.key))
        for rank, row in enumerate(old, 1)
    )
    query = replace(query, bridged=rows, ndcg_bridged=0.28)
    return (
        query
        if query.query_id != 3
        else replace(query, old=(), old_unknown="text-embedding-004 made no vector of it", ndcg_old=None)
    )


CHECKS = (
    Check("Every row embedded", "pass", "520,000 of 520,000 rows, 0 stale"),
    Check("Index valid", "pass", "documents_embedding_v2_idx, recall 98 % of exact"),
    Check("Enough queries", "pass", "60 queries, at least 30 are asked for"),
    Check("Quality", "pass", "nDCG 0.412 → 0.587, difference +0.11 to +0.24"),
    Check("Latency", "warn", "p95 5.2 ms, was 4.8 ms", "Raise hnsw.ef_search only if recall needs it."),
    Check("Verdicts", "inconclusive", "3 of 12 low-overlap queries are judged by eye", "Judge the rest on Compare."),
)

COMPARISON = Comparison(10, QUERIES, MEASURES, evaluation_id=4, verdict="PASS", checks=CHECKS)

COMPARISON_BRIDGED = replace(
    COMPARISON,
    queries=tuple(map(_through, QUERIES)),
    measures=replace(
        MEASURES,
        bridged=BridgedMeasures(
            2, 60, 4, Interval(0.71, 0.66, 0.76), Interval(0.45, 0.4, 0.5), 60, Interval(0.371, 0.32, 0.42),
            Interval(0.587, 0.54, 0.63), Interval(0.216, 0.15, 0.28), 0.001,
        ),
    ),
)  # fmt: skip

BLOCKERS = (
    Blocker("evaluation", "No evaluation fits the present state.", "Compare both sides.", True, (Remedy.COMPARE,)),
    Blocker(
        "index",
        "The new side has no valid index: searches would read the whole table.",
        "Build it.",
        remedies=(Remedy.RUN,),
    ),
)

FAULT_ROWS = tuple(
    FaultRow(
        i,
        (str(90_000 + i * 17),),
        Side.NEW,
        group.fault_class,
        group.reason,
        1 + i % 3,
        group.state,
        ago(seconds=i * 13),
    )
    for i, group in enumerate(each for each in FAULTS for _ in range(min(each.count, 30)))
)

PLAN = Plan(
    TableName("public", "documents"), 520_340, 340, 97_400_000, 12.66, 412.0, PlacementKind.COLUMN,
    "no row triggers, no logical subscriber, and the heap has room: side by side is simplest",
    (
        Check("Server", "pass", "PostgreSQL 18.4, pgvector 0.8.5"),
        Check("Rights", "pass", "owner of documents, may create schema embedtui"),
        Check("Old column", "warn", "embedding is NOT NULL: rows inserted after the cutover need both vectors",
              "ALTER TABLE documents ALTER COLUMN embedding DROP NOT NULL"),
        Check("Disk", "unknown", "free space cannot be read from here", "About 2.1 GB for vectors, 2.6 GB for the index."),  # noqa: E501
        Check("Memory", "warn", "the index needs 2.4 GB, maintenance_work_mem is 64 MB", "SET maintenance_work_mem = '3GB'"),  # noqa: E501
    ),
    (
        "ALTER TABLE public.documents ADD COLUMN embedding_v2 public.vector(768), ADD COLUMN embedding_v2_model integer, ADD COLUMN embedding_v2_source bigint",  # noqa: E501
        "CREATE TRIGGER embedtui_1_update AFTER UPDATE ON public.documents FOR EACH ROW WHEN (OLD.title IS DISTINCT FROM NEW.title OR OLD.body IS DISTINCT FROM NEW.body) EXECUTE FUNCTION embedtui.capture_1()",  # noqa: E501
        "CREATE INDEX CONCURRENTLY documents_embedding_v2_idx ON public.documents USING hnsw (embedding_v2 public.vector_cosine_ops)",  # noqa: E501
    ),
    batch=BatchOffer(6.33, 86_400.0, 2, False),
)  # fmt: skip
