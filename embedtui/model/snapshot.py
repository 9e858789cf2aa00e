"""What a screen shows, read in one go."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from embedtui.errors import Remedy
from embedtui.formatting import counted, duration, with_remedies
from embedtui.model.audit import AuditEntry
from embedtui.model.batch import BatchStatus
from embedtui.model.bridge import DOING, BridgeFit, in_words
from embedtui.model.evaluation import EXACT
from embedtui.model.faults import FaultGroup, FaultState
from embedtui.model.migration import Migration
from embedtui.model.plan import Check
from embedtui.model.route import RollbackStatus, RouteStatus
from embedtui.model.words import Condition, IndexMethod, Phase, Side

LATE_SECONDS = 60.0
"""A change that waits longer is worth a warning: the sync normally takes seconds."""
OLD_COUNT_SECONDS = 30.0
"""A count of rows that is older is shown with its age."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one part of a migration took of its models."""

    what: str
    """``new model`` (backfill, batch jobs, edits), ``old side`` (kept current), ``questions and checks`` (queries of
    comparisons, rows that ``verify`` embedded again; of both models), ``proof`` (of the old model, before the first
    run)."""
    tokens: int
    money: float | None
    """Of those that have a price; None where none has one."""
    unpriced: int = 0
    """Tokens of a model whose price is not known."""


@dataclass(frozen=True, slots=True)
class BackfillStatus:
    """Progress of the backfill. Unknown is None."""

    rows: int = 0
    """Planned rows that have their new vector, whether the backfill or sync made it, never more than ``total``; once
    the backfill is done, all that have theirs."""
    total: int | None = None
    """Rows with something to embed, counted when the shards were planned; from then on by the census, where there is
    one."""
    counted_age: float = 0.0
    """Seconds since that census."""
    planned: bool = False
    """After the backfill, without a census: both figures are by the plan's count, and lack rows that came since."""
    rate: float | None = None
    """Rows per second, from the last seconds; None until measured."""
    eta_seconds: float | None = None
    tokens: int = 0
    spent: float | None = None
    """Money that the new model took so far for stored vectors, None where the price is unknown."""
    parts: tuple[Spent, ...] = ()
    """What the whole migration took, by part, the new model's as above first; those that took nothing are left out."""
    estimate: float | None = None
    """Money the whole job is expected to take."""
    cap: float | None = None
    """Spend cap: of what the new model takes for vectors that are to be stored, and ``verify`` to look at them."""
    hot_share: float | None = None
    """HOT updates / updates, 0..1; None for side tables."""
    hot_holder: str = ""
    """What holds the xmin horizon when the HOT share suffers."""
    shards_done: int = 0
    shards: int = 0
    concurrency: int | None = None
    """Requests in flight allowed at present: a limit, and no count."""
    max_concurrency: int | None = None
    """The operators' limit of these."""
    in_flight: int | None = None
    """Requests on the wire, of all workers; None where none is at work on it."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    @property
    def spent_in_all(self) -> float | None:
        """Money of all parts, as far as prices are known."""
        known = [part.money for part in self.parts if part.money is not None]
        return sum(known) if known else self.spent

    @property
    def old_tokens(self) -> int:
        """Of the old model, for keeping its side current: in no other part."""
        return sum(part.tokens for part in self.parts if part.what == "old side")

    @property
    def unpriced(self) -> int:
        """Tokens of any part whose price is not known."""
        return sum(part.unpriced for part in self.parts)


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
    """Changes worked off so far; what a row's entries of one moment tell is one."""
    growing: bool = False
    """More come than are worked off, for some seconds."""


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
    near_void: str = ""
    """How near it is to be void by the changes since; empty while it is far from that, or void."""
    judged_old: float | None = None
    """nDCG@10 of the old side where judgments exist, as ``searched``."""
    judged_new: float | None = None
    judged_moved: str = ""
    """How many judged rows have been edited or deleted since their judgments were first counted; empty where none."""
    judged_served: float | None = None
    """That of the new side as its index serves it; None where that was not measured."""
    searched: str = EXACT
    """How both sides were searched for overlap and nDCG."""
    latency_old_ms: tuple[float, float] | None = None
    """(p50, p95) of its searches as served; None where that was not measured."""
    latency_new_ms: tuple[float, float] | None = None
    verdicts_since: int | None = None
    """Operators' verdicts that the gate is yet to count; 0: some were taken back. None: it counts all, or judgments."""
    checks: tuple[Check, ...] = ()
    """Those of the gate that did not pass, the worst first."""
    verdicts: str = ""
    """Changes with any operator's verdict, given or taken back; empty where this role reads none."""


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
    in_flight: int = 0
    """Requests on the wire when it was last heard from."""

    @property
    def rests(self) -> bool:
        """It has stopped for a pause, and waits for its end."""
        return self.doing in (PAUSED, TO_BE_RESUMED)


PAUSED, TO_BE_RESUMED = "paused", "waiting to be resumed"
"""What a worker says that it does while all is paused: within its work, and before it began."""
PACE = "pace"
"""Name of the hold for the limits of requests and tokens a minute: the work goes on, as fast as it may."""
LOCKED_ROWS = "locked_rows"
"""The same for changed rows that somebody keeps locked: the work goes on without them."""
CHANGE = "change"
"""The same for a change of the tables (a cleanup's, an abort's, a cutover's) that waits for others' transactions."""
GOES_ON = (PACE, LOCKED_ROWS, CHANGE)
"""Holds that stop nothing."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A named reason that holds the backfill."""

    name: str
    """Why, e.g. ``replica_lag``, ``probe_latency``, ``lock_waits``, ``long_transactions``, ``autovacuum``,
    ``wal_rate``, ``provider``, ``spend_cap``, ``database``, ``lock``, ``operator``; ``pace`` where it goes on at a
    limit, ``locked_rows`` where it goes on without rows that somebody keeps locked, ``change`` while a change of the
    tables waits for others."""
    detail: str
    since: datetime | None = None

    @property
    def stops(self) -> bool:
        """Whether the work stands still for it: at a limit it goes on, and without rows that are locked."""
        return self.name not in GOES_ON

    @property
    def cause(self) -> str:
        """``detail`` without its outlook: what was answered, or is in the way."""
        return self.detail.removesuffix(self.outlook).rstrip()

    @property
    def outlook(self) -> str:
        """The end of ``detail`` that says when it is tried again, and at what pace; empty where nothing does."""
        found = _OUTLOOK.search(self.detail)
        return found[0] if found is not None else ""


_OUTLOOK = re.compile(r"(?:^|(?<= ))(?:Next try at |Asking again now\.|Now [\d,]+ requests ).*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Blocker:
    """Why an act is impossible now, and what would release it."""

    name: str
    message: str
    hint: str = ""
    overridable: bool = False
    """Whether an override with a reason may pass it."""
    remedies: tuple[Remedy, ...] = ()
    """Actions that release it, in their order."""
    rows: int | None = None
    """Rows that would lose what cannot be had back: an override of it has to give their number."""

    @property
    def advice(self) -> str:
        """What would release it, as the command line says it."""
        return with_remedies(self.hint, [remedy.command for remedy in self.remedies])

    @property
    def token(self) -> str:
        """What an override names to pass this, and nothing else."""
        return self.name if self.rows is None else f"{self.name}:{self.rows}"


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
    """The hundred most frequent; a row whose sides have their own reasons is in two."""
    open_faults: int | None = None
    """Rows with an open fault, each once; None: as their reasons count them."""
    route: RouteStatus = field(default_factory=RouteStatus)
    rollback: RollbackStatus = field(default_factory=RollbackStatus)
    evaluation: EvaluationStatus | None = None
    workers: tuple[WorkerStatus, ...] = ()
    soak_seconds: float | None = None
    """Seconds since the cutover, while the new side serves."""
    notices: tuple[str, ...] = ()
    """What is worth knowing of the models, e.g. when one is shut down."""
    next_act: str = ""
    """The next sensible act, e.g. ``run``, ``compare``, ``cutover``, ``cleanup``."""
    next_why: str = ""
    old_refused: str = ""
    """Why the database accepts no old vectors: rows that are written age there. Empty where it does."""
    old_index_lost: str = ""
    """Which index the old side's searches go without that they had when the migration began; empty where none does."""
    old_gone: str = ""
    """Why the old model is taken for dead: by the operator's word, the calendar, or its own answer; empty where it is
    not."""
    bridge: BridgeFit | None = None
    """The newest map that was fitted, whatever became of it."""
    log: tuple[AuditEntry, ...] = ()
    """The newest lines of the audit log, oldest first: what anybody did."""
    server: str = ""
    """Database and host, as in ``shop at db-1``; ``a demo at <folder>`` where a demo made it."""
    demo: str = ""
    """The folder of that demo."""
    batch: BatchStatus = field(default_factory=BatchStatus)
    """Of the backfill, where it goes by batch jobs."""

    @property
    def bridge_work(self) -> str:
        """What a worker does for a bridge now; empty where none does."""
        alive = [worker for worker in self.workers if worker.alive]
        doing = [thread.doing for worker in alive for thread in worker.threads] + [worker.doing for worker in alive]
        return next((each.removeprefix(DOING) for each in doing if each.startswith(DOING)), "")

    @property
    def followed(self) -> bool:
        """Whether a cutover is known to move anybody's reads: a Router was heard from, or the strategy moves names."""
        migration = self.migration
        return bool(self.route.listeners) or (migration is not None and migration.stored.cutover.strategy != "pointer")

    @property
    def died(self) -> WorkerStatus | None:
        """The last worker, where it ended without a word and nobody has taken its place."""
        if not self.workers or any(worker.alive for worker in self.workers):
            return None
        return max(self.workers, key=lambda worker: worker.id)

    @property
    def counts(self) -> str:
        """What the rows of ``backfill`` are."""
        old = self.backfill.counted_age >= OLD_COUNT_SECONDS
        ago = f", counted {duration(self.backfill.counted_age)} ago" if old else ""
        return "planned rows" if self.phase is Phase.BACKFILL or self.backfill.planned else f"rows{ago}"

    @property
    def about(self) -> str:
        """Stands before the total of ``backfill`` where it is no count of what is there now."""
        return "~" if self.backfill.planned else ""

    @property
    def unanswered(self) -> bool:
        """Whether searches need a model that is dead."""
        return bool(self.old_gone) and self.old_serves and not self.route.bridging and not self.phase.ended

    @property
    def old_serves(self) -> bool:
        """Whether any read is served by the old side."""
        return self.route.active is Side.OLD and self.route.canary < 100

    @property
    def lands(self) -> str:
        """Where a rollback lands, if not on searches by the old model; empty where it does."""
        found = self.route.bridge_found
        if self.route.bridging:
            return "onto the bridge" + (f", which {in_words(found)}" if found is not None else "")
        return "where searches fail: the old model no longer answers" if self.old_gone else ""

    @property
    def new_index_lost(self) -> str:
        """Which index the new side's searches go without, while it serves any; empty where none does."""
        wanted = self.migration is not None and self.migration.index_method is not IndexMethod.NONE
        due = self.phase in (Phase.VALIDATE, Phase.CUTOVER, Phase.SOAK, Phase.CLEANUP)
        if not (wanted and due and self.new_reads) or self.index.valid or self.index.phase:
            return ""
        return f"index {self.index.name} is invalid" if self.index.exists else "its index is gone"

    @property
    def new_reads(self) -> bool:
        """Whether any read is served by the new side: what a rollback would take back."""
        return self.route.active is Side.NEW or self.route.canary > 0

    @property
    def served_behind(self) -> int:
        """Rows that the old side, once reads were moved, serves stale or not at all; 0 while all are on the way.

        Until then they are the application's own matter.
        """
        behind, moved = self.rollback.stale + self.rollback.missing, bool(self.route.changed_by)
        serves = moved and self.route.active is Side.OLD and self.rollback.fresh is False and not self.phase.ended
        return behind if serves and (behind > self.sync.queued or self.late) else 0

    @property
    def rollback_behind(self) -> int:
        """Rows that a rollback would find stale or missing, while the new side serves; 0 while all are on the way."""
        found, serves = self.rollback, self.route.active is Side.NEW and not self.phase.ended
        return 0 if not serves or found.fresh is not False or self.fresh_but_for else found.stale + found.missing

    @property
    def late(self) -> bool:
        """Whether a change waits longer than one normally does."""
        return (self.sync.oldest_seconds or 0) >= LATE_SECONDS

    @property
    def fresh_but_for(self) -> int:
        """Rows that alone keep the old side from being fresh, and are on the way; 0 where that is not so.

        A live table always has a change or two on the way: no reason for an alarm.
        """
        found = self.rollback
        behind = found.missing or found.bridged or found.stale > self.sync.queued or self.late
        return 0 if behind or found.fresh is not False else found.stale

    @property
    def faulty(self) -> int:
        """Rows with an open fault, each once: its two sides may have their own reasons."""
        return self.open_faults if self.open_faults is not None else self._open_by_reason

    @property
    def _open_by_reason(self) -> int:
        return sum(group.rows for group in self.faults if group.state is FaultState.OPEN)

    @property
    def faulty_in_all(self) -> str:
        """How many rows have the open faults, where their reasons' counts do not add up to that; else empty."""
        return f"{counted(self.faulty, 'row', 'rows')} in all" if self.faulty != self._open_by_reason else ""
