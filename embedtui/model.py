"""The words of a migration as frozen dataclasses and enums; every layer speaks these and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from embedtui.formatting import with_remedies

Key = tuple[str, ...]
"""A row's key: its key columns' values in PostgreSQL's text form, in the order of the key."""


class Phase(StrEnum):
    """Where a migration stands. Order is the order of the journey."""

    PLAN = "plan"
    PREPARE = "prepare"
    BACKFILL = "backfill"
    INDEX = "index"
    VALIDATE = "validate"
    CUTOVER = "cutover"
    SOAK = "soak"
    CLEANUP = "cleanup"
    DONE = "done"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen in this migration."""
        return self in (Phase.DONE, Phase.ABORTED)


class Condition(StrEnum):
    """How the present phase fares; each but RUNNING and IDLE carries reasons."""

    IDLE = "idle"
    """No worker process is at work on it."""
    RUNNING = "running"
    PAUSED = "paused"
    THROTTLED = "throttled"
    FAILED = "failed"


class Side(StrEnum):
    """The two sides of a migration."""

    OLD = "old"
    NEW = "new"

    @property
    def other(self) -> Side:
        """The opposite side."""
        return Side.NEW if self is Side.OLD else Side.OLD


class PlacementKind(StrEnum):
    """Where new vectors live: a column beside the old one, or a side table."""

    COLUMN = "column"
    TABLE = "table"


class Distance(StrEnum):
    """Distance of a search; value is the stem of pgvector's operator class."""

    COSINE = "cosine"
    L2 = "l2"
    INNER_PRODUCT = "ip"

    @property
    def operator(self) -> str:
        """pgvector's operator."""
        return {"cosine": "<=>", "l2": "<->", "ip": "<#>"}[self.value]


class IndexMethod(StrEnum):
    """Approximate index built on the new side."""

    HNSW = "hnsw"
    IVFFLAT = "ivfflat"
    NONE = "none"


class FaultClass(StrEnum):
    """Whose fault it is, which decides what happens (invariant 4)."""

    CONFIGURATION = "configuration"
    """Bad key, unknown model, exhausted account, wrong dimensions: pauses the run at once."""
    PROVIDER = "provider"
    """429, 5xx, time-outs, broken replies: backs off and goes on by itself."""
    ROW = "row"
    """This text is rejected: isolated, recorded, others go on."""


class FaultState(StrEnum):
    """What was decided about a faulty row."""

    OPEN = "open"
    RETRY = "retry"
    TRUNCATE = "truncate"
    SKIPPED = "skipped"


class Remedy(StrEnum):
    """An action that mends something; each face says it in its own words, a command or a key."""

    RUN = "run"
    FOLLOW = "run --follow"
    """A worker that stays and keeps the sides in sync."""
    COMPARE = "compare"
    VERIFY = "verify"
    SAMPLE = "verify --sample"
    """Some rows are embedded again and compared."""
    REPAIR = "verify --repair"
    """What is wrong is queued to be embedded again."""
    ROLLBACK = "rollback"
    CLEANUP = "cleanup"
    ABORT = "abort"

    @property
    def command(self) -> str:
        """Its command, marked as one in a sentence."""
        return f"`embedtui {self.value}`"


UNNAMED = "unknown"
"""Name of an old model that nobody knows; it counts as retired."""


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """An embedding model and how to reach it. The secret itself is never held here, only its variable's name."""

    name: str
    dimensions: int
    provider: str = "openai"
    base_url: str | None = None
    """None: the provider's own endpoint."""
    key_variable: str = "OPENAI_API_KEY"
    document_prefix: str = ""
    query_prefix: str = ""
    max_inputs: int = 2048
    """Inputs per request (OpenAI: 2,048; Gemini's compatible endpoint: 100)."""
    max_tokens: int = 300_000
    """Tokens per request, all inputs together."""
    max_input_tokens: int = 8192
    """Tokens of one input."""
    price_per_million: float | None = None
    """Money per million tokens; None where unknown, and then cost is unknown."""
    send_dimensions: bool = True
    """Whether the request carries ``dimensions`` (models that cannot shorten reject it)."""
    retired: bool = False
    """The provider no longer answers for it."""
    id: int | None = None
    """Id in embedtui.model once registered."""

    @property
    def called(self) -> str:
        """Its name in a sentence."""
        return self.name if self.name != UNNAMED else "the unnamed old model"


@dataclass(frozen=True, slots=True)
class TableName:
    """A schema-qualified relation."""

    schema: str
    name: str

    def __str__(self) -> str:
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration as stored in embedtui.migration; everything a worker on another host needs but the secrets."""

    id: int
    name: str
    """Route name; the table's own name unless configured."""
    table: TableName
    table_oid: int
    key_columns: tuple[str, ...]
    key_types: tuple[str, ...]
    """SQL types of the key columns as format_type prints them."""
    content_columns: tuple[str, ...]
    placement: PlacementKind
    old_column: str
    old_model: EmbeddingModel
    new_model: EmbeddingModel
    new_table: TableName
    """The table itself for placement ``column``."""
    new_column: str
    vector_schema: str
    """Schema of the pgvector extension."""
    vector_type: str
    """``vector`` or ``halfvec``, of the new side."""
    old_vector_type: str
    distance: Distance
    index_method: IndexMethod
    phase: Phase
    condition: Condition
    reason: str
    desired: str
    """``run`` or ``pause``: what the operators want."""
    settings: dict[str, object] = field(default_factory=dict)
    index_held: bool = False
    """The operators do not want the workers to build the index yet."""
    phase_at: datetime | None = None
    created_at: datetime | None = None


# ---------------------------------------------------------------------------------------------------- snapshot


@dataclass(frozen=True, slots=True)
class BackfillStatus:
    """Progress of the backfill. Unknown is None."""

    rows: int = 0
    """Rows that have their new vector, never more than ``total``."""
    total: int | None = None
    """Rows with something to embed, counted when the shards were planned."""
    rate: float | None = None
    """Rows per second, from the last seconds; None until measured."""
    eta_seconds: float | None = None
    tokens: int = 0
    spent: float | None = None
    """Money spent so far, None where the price is unknown."""
    estimate: float | None = None
    """Money the whole job is expected to take."""
    cap: float | None = None
    """Spend cap."""
    hot_share: float | None = None
    """HOT updates / updates, 0..1; None for side tables."""
    hot_holder: str = ""
    """What holds the xmin horizon when the HOT share suffers."""
    shards_done: int = 0
    shards: int = 0
    concurrency: int | None = None
    """Requests in flight allowed at present."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """The new side's approximate index."""

    name: str = ""
    method: IndexMethod = IndexMethod.NONE
    exists: bool = False
    valid: bool = False
    phase: str = ""
    """Phase of pg_stat_progress_create_index while building."""
    done: int | None = None
    total: int | None = None
    """Blocks."""
    waiting_for: str = ""
    """Old transactions that hold the build."""


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """Change capture: what waits to be embedded again."""

    queued: int = 0
    oldest_seconds: float | None = None
    synced: int = 0
    """Queue entries worked off so far."""


@dataclass(frozen=True, slots=True)
class FaultGroup:
    """Faulty rows that share class, state and reason."""

    fault_class: FaultClass
    reason: str
    count: int
    state: FaultState = FaultState.OPEN


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One faulty row."""

    id: int
    key: Key
    side: Side
    fault_class: FaultClass
    reason: str
    attempts: int
    state: FaultState
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    """One Router heard from."""

    host: str
    pid: int
    application: str
    epoch: int
    searches_old: int
    searches_new: int
    seen_seconds: float
    """Seconds since it was heard from."""
    flip_ms: float | None = None
    """How long the last flip took to reach it."""


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """The pointer: which side serves."""

    active: Side = Side.OLD
    canary: int = 0
    """Percent of keys that read the new side while ``active`` is old (0..100)."""
    epoch: int = 0
    changed_at: datetime | None = None
    changed_by: str = ""
    listeners: tuple[ListenerStatus, ...] = ()
    pending: str = ""
    """A postponed cutover and what it waits for."""


@dataclass(frozen=True, slots=True)
class RollbackStatus:
    """Whether a rollback would find the old side current."""

    fresh: bool | None = None
    """None: unknown (no change capture)."""
    stale: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class EvaluationStatus:
    """Summary of the newest recorded evaluation."""

    id: int
    at: datetime
    queries: int
    mean_overlap: float
    low_overlap: int
    """Queries whose overlap@k is below the low threshold."""
    verdict: str
    """PASS, FAIL or INCONCLUSIVE."""
    valid: bool
    """Still about the present state."""
    why_void: str = ""
    judged_old: float | None = None
    """nDCG@10 of the old side where judgments exist."""
    judged_new: float | None = None


@dataclass(frozen=True, slots=True)
class ThreadStatus:
    """A thread of a worker process."""

    name: str
    doing: str
    since: datetime


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker process, with what each of its threads does."""

    id: int
    host: str
    pid: int
    doing: str
    since: datetime
    heartbeat_seconds: float
    """Seconds since it was last heard from."""
    alive: bool
    rows: int = 0
    threads: tuple[ThreadStatus, ...] = ()
    own: bool = False
    """This very process."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A named reason that holds the backfill."""

    name: str
    """Why, e.g. ``replica_lag``, ``probe_latency``, ``lock_waits``, ``long_transactions``, ``autovacuum``,
    ``wal_rate``, ``provider``, ``spend_cap``, ``database``, ``operator``."""
    detail: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Blocker:
    """Why an act is impossible now, and what would release it."""

    name: str
    message: str
    release: str = ""
    overridable: bool = False
    """Whether an override with a reason may pass it."""
    remedies: tuple[Remedy, ...] = ()
    """Actions that release it, in their order."""

    @property
    def advice(self) -> str:
        """What would release it, as the command line says it."""
        return with_remedies(self.release, [remedy.command for remedy in self.remedies])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a screen shows, read in one go; a screen is a pure function of it."""

    as_of: datetime
    migration: Migration | None = None
    """None: no migration exists for the configured table yet."""
    phase: Phase = Phase.PLAN
    condition: Condition = Condition.IDLE
    reasons: tuple[Hold, ...] = ()
    backfill: BackfillStatus = BackfillStatus()
    index: IndexStatus = IndexStatus()
    sync: SyncStatus = SyncStatus()
    faults: tuple[FaultGroup, ...] = ()
    route: RouteStatus = RouteStatus()
    rollback: RollbackStatus = RollbackStatus()
    evaluation: EvaluationStatus | None = None
    workers: tuple[WorkerStatus, ...] = ()
    soak_seconds: float | None = None
    """Seconds since the cutover, while the new side serves."""
    next_act: str = ""
    """The next sensible act, e.g. ``run``, ``compare``, ``cutover``, ``cleanup``."""
    next_why: str = ""

    @property
    def faulty(self) -> int:
        """Rows with an open fault."""
        return sum(group.count for group in self.faults if group.state is FaultState.OPEN)


# ------------------------------------------------------------------------------------------------------ events


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; handed to a callback that must not block."""

    at: datetime
    text: str
    """One plain line for a log."""


@dataclass(frozen=True, slots=True)
class PhaseChanged(Event):
    """The migration entered another phase."""

    phase: Phase = Phase.PLAN


@dataclass(frozen=True, slots=True)
class Progressed(Event):
    """Work advanced; may be coalesced."""

    rows: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Held(Event):
    """The work is held, or no longer (``holds`` empty)."""

    holds: tuple[Hold, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """Something failed that the operator has to know; never coalesced."""

    fault_class: FaultClass | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class RouteFlipped(Event):
    """The pointer moved."""

    active: Side = Side.OLD
    canary: int = 0
    epoch: int = 0
    milliseconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Noted(Event):
    """An act or fact worth a line in the log."""


EventSink = Callable[[Event], None]
"""Receives events from engine threads; must return at once and is never called under a lock."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the append-only audit log."""

    at: datetime
    who: str
    host: str
    act: str
    detail: str


# ----------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True, slots=True)
class Check:
    """A check with its result and a reason: of the plan or of the gate."""

    name: str
    result: str
    """``pass``, ``warn``, ``fail`` or ``unknown``; for the gate also ``inconclusive``."""
    detail: str
    mend: str = ""
    remedies: tuple[Remedy, ...] = ()
    """Actions that mend it, in their order."""

    @property
    def advice(self) -> str:
        """What mends it, as the command line says it."""
        return with_remedies(self.mend, [remedy.command for remedy in self.remedies])


@dataclass(frozen=True, slots=True)
class Plan:
    """What a migration would do, found read-only."""

    table: TableName
    rows: int
    empty_rows: int
    """Rows with nothing to embed."""
    estimated_tokens: int | None
    estimated_cost: float | None
    estimated_seconds: float | None
    placement: PlacementKind
    placement_why: str
    checks: tuple[Check, ...]
    statements: tuple[str, ...]
    """The exact SQL prepare and index would run, in order."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A move of the pointer."""

    active: Side
    canary: int
    epoch: int
    milliseconds: float
    changed: bool
    """False where the pointer was there already (a repeat is a no-op)."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Full scan of a migration's rows (counts of rows)."""

    rows: int
    empty: int
    """Rows with nothing to embed: NULL or blank content."""
    embedded: int
    missing: int
    stale: int
    """The vector's fingerprint is not the content's."""
    wrong_model: int
    unverified: int
    """A vector without provenance (the application wrote it unstamped)."""
    faulty: int
    skipped: int
    """Rows whose fault the operator decided to skip."""
    orphaned: int
    """Side-table rows without a source row."""
    sampled: int = 0
    mismatched: int = 0
    """Sampled rows whose re-embedded vector disagrees (cosine < 0.99)."""
    index_valid: bool | None = None
    queued: int = 0

    @property
    def clean(self) -> bool:
        """Whether every row that can have a right vector has it."""
        return not (self.missing or self.stale or self.wrong_model or self.faulty or self.orphaned or self.mismatched)

    @property
    def in_hand(self) -> bool:
        """Whether what is queued may well be all that is wrong: edits not embedded yet."""
        other = self.wrong_model or self.faulty or self.orphaned or self.mismatched
        return not self.clean and not other and self.missing + self.stale <= self.queued


# -------------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True, slots=True)
class RankedRow:
    """One result of a search."""

    key: Key
    rank: int
    """From 1."""
    distance: float
    text: str
    """Content of the row, untrusted: show as plain text."""
    other_rank: int | None = None
    """Rank on the other side's top-k; None where it entered (new side) or left (old side)."""
    missed: bool = False
    """An exact result that the side's index did not return."""


@dataclass(frozen=True, slots=True)
class QueryComparison:
    """Old and new top-k of one query."""

    query_id: int
    text: str
    old: tuple[RankedRow, ...]
    new: tuple[RankedRow, ...]
    overlap: float
    """Shared keys / k, 0..1."""
    rbo: float
    top1_kept: bool
    relevant: tuple[Key, ...] = ()
    """Keys judged relevant, where judgments exist."""
    ndcg_old: float | None = None
    ndcg_new: float | None = None
    verdict: str = ""
    """``new``, ``old``, ``same``, ``bad`` or empty: the operator's."""
    note: str = ""
    """The operator's note to the verdict."""
    row: Key | None = None
    """Set where a row of the table is the query."""
    index_recall: float | None = None
    """Share of the exact new top-k that the new side's index returned; None where not measured."""
    old_unknown: str = ""
    """Why the old side could not be searched; empty where it was."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One setting of the new side's index: what it finds and what it takes."""

    setting: str
    """``hnsw.ef_search`` or ``ivfflat.probes``."""
    value: int
    recall: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class SeenState:
    """What a comparison saw of the table: enough to tell later, without a scan, whether it has moved."""

    rows: int
    """Rows, those with nothing to embed included."""
    both: int
    """Rows with an old and a new vector: those that were compared."""
    one_sided: int
    """Rows with one vector only: left out."""
    digest: int
    """Changes with any write to any row."""
    heaps: str
    """Changes when the table is truncated or rewritten."""
    old_model: int
    new_model: int
    index: str
    """Name of the new side's approximate index, empty without one."""
    index_identity: str
    """Changes when that index is dropped, built again or becomes invalid."""
    inserted: int
    """The server's counters of the table."""
    updated: int
    deleted: int
    captured: bool
    """Change capture was installed: the queue then tells updates better than the counters."""
    queue_position: int
    synced: int
    backfilled: int
    """Rows written by the backfill."""
    request: str
    """Digest of what was asked: queries, judgments, k, filter."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Figures over all queries of a comparison; None where unknown."""

    queries: int
    k: int
    overlap: Interval
    rbo: Interval
    top1_kept: float
    low_overlap: int
    histogram: tuple[int, ...]
    """Counts of overlap@k in ten bins from 0 to 1."""
    judged: int = 0
    """Queries with judgments."""
    ndcg_old: Interval | None = None
    ndcg_new: Interval | None = None
    ndcg_difference: Interval | None = None
    recall_old: Interval | None = None
    recall_new: Interval | None = None
    mrr_old: Interval | None = None
    mrr_new: Interval | None = None
    p_value: float | None = None
    """Paired randomisation test on nDCG."""
    model_overlap: float | None = None
    """Exact old against exact new: what the model changed."""
    index_recall: float | None = None
    """Exact new against index new: what the index lost."""
    index_recall_old: float | None = None
    """Exact old against index old."""
    basis: str = "exact"
    """What rankings and figures were made of: ``exact`` search, or ``served`` where that could not be had."""
    exact_queries: int = 0
    """Queries for which exact search was made."""
    ndcg_served: Interval | None = None
    """nDCG@10 of the new side as its index serves it; what it is below ``ndcg_new`` is the index's loss. None where
    not all judged queries were searched as served."""
    sweep: tuple[SweepPoint, ...] = ()
    """Recall against latency of the new side's index, made when the index is the culprit."""
    latency_old_ms: tuple[float, float] | None = None
    """(p50, p95)"""
    latency_new_ms: tuple[float, float] | None = None
    wins_new: int = 0
    """Operators' verdicts."""
    wins_old: int = 0
    verdict_p: float | None = None
    """Two-sided sign test on the verdicts."""
    unknown: tuple[str, ...] = ()
    """What could not be known, and why."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison as made: every query's two rankings, and the figures. Lowest overlap first."""

    k: int
    queries: tuple[QueryComparison, ...]
    measures: Measures
    partial: bool = False
    """Made before every row had both vectors."""
    evaluation_id: int | None = None
    verdict: str = ""
    checks: tuple[Check, ...] = ()
    at: datetime | None = None
    seen: SeenState | None = None
    where: str = ""
    """The application's filter, as given."""


@dataclass(frozen=True, slots=True)
class QueryInput:
    """A query to compare with."""

    text: str
    relevant: tuple[tuple[Key, float], ...] = ()
    """(key, gain)"""
    row: Key | None = None
    """Set where a row of the table is the query: its own vectors serve, itself left out."""
    vector: tuple[float, ...] = ()
    """The old model's vector where the query log kept it."""
