"""Reading all that a screen shows: a few cheap statements, no scan of the user's table."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime

from psycopg import errors

from embedtui.engine.backfill.database_throttle import xmin_holder
from embedtui.engine.backfill.job import OF_THE_PROVIDER, STARTING
from embedtui.formatting import counted
from embedtui.model import (
    BackfillStatus,
    BatchStatus,
    Condition,
    EvaluationStatus,
    FaultState,
    Hold,
    Migration,
    Phase,
    PlacementKind,
    RollbackStatus,
    RouteStatus,
    Side,
    Snapshot,
    Spent,
    SyncStatus,
    WorkerStatus,
)
from embedtui.model.lifecycle import QUEUE_COUNTED, changes_waiting, next_action
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import read_waits
from embedtui.postgres.dsn import demo
from embedtui.postgres.indexes import index_status, lost_old_index
from embedtui.postgres.joined import rows_sql
from embedtui.postgres.sides.census import Census
from embedtui.postgres.state.audit import old_side_refused, read_audit, why_old_dead, why_old_lost
from embedtui.postgres.state.batches import read_batches
from embedtui.postgres.state.bridges import newest_fit
from embedtui.postgres.state.faults import count_faulty, count_open, count_unwritable, group_faults
from embedtui.postgres.state.listeners import read_listeners
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.pointer import read_status
from embedtui.postgres.state.progress import Progress, read_progress
from embedtui.postgres.state.queue import count_old_waiting, count_rows_of_texts, read_backlog
from embedtui.postgres.state.stale import count_marked
from embedtui.postgres.state.workers import read_holds, read_workers

HOT_SHARE_EXPLAINED = 0.5
"""Below this HOT share the holder of the xmin horizon is looked for."""
RATE_SECONDS = 20.0
"""The rate is that of the last so many seconds …"""
RATE_WITHHELD_SECONDS = 3.0
"""… and withheld until there are this many."""

ETA_SECONDS = 120.0
"""The time to the end is told by the rate of the last so many seconds of work …"""
ETA_WITHHELD_SECONDS = 20.0
"""… and withheld until there are this many …"""
SETTLING_SECONDS = 5.0
"""… after so many at first that do not count: then goes what the limits have saved up."""

TREND_SECONDS = (10.0, 30.0)
"""A queue that grew for as long as the first is said to grow; longer ago than the second does not count."""
TREND_ENTRIES = 10
"""Fewer come and go in any batch."""

BEFORE_INDEX = (Phase.PLAN, Phase.PREPARE, Phase.BACKFILL)
COUNTED = (Phase.INDEX, Phase.VALIDATE, Phase.CUTOVER, Phase.SOAK, Phase.CLEANUP)
"""Phases in which the table's rows are counted; before, a count would take from the backfill what it shows."""
LOG_LINES = 40
"""Of the audit log, in a snapshot: more than half a second brings."""
USUAL_PORT = 5432


class RateMeter:
    """Rate from the recent past of a counter; None until it is known."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()
        self._held = False
        self.queue = Trend(clock)
        self.work = WorkRate(clock)

    def add(self, count: int, *, held: bool = False) -> float | None:
        """Add a reading; the rate per second over the window, None while unknown or at rest.

        The time in which the work was ``held`` is no measure of what comes after it; nor is what came before a
        measure of a hold in which nothing comes any more.
        """
        now = self._clock()
        if self._samples and (count < self._samples[-1][1] or (self._held and not held)):
            self._samples.clear()
        self._held = held
        self._samples.append((now, count))
        while self._samples and now - self._samples[0][0] > RATE_SECONDS:
            self._samples.popleft()
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        stands = held and all(each == last for at, each in self._samples if now - at <= RATE_WITHHELD_SECONDS)
        if ended - began < RATE_WITHHELD_SECONDS or last == first or stands:
            return None
        return (last - first) / (ended - began)


class WorkRate:
    """Rows in a second of work: what stands still is not counted, so that it tells what follows, and moves slowly."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int, int]] = deque()
        """Seconds worked, rows, requests."""
        self._worked, self._read_at = 0.0, clock()
        self._settling = SETTLING_SECONDS
        """Seconds of work until what is done counts."""
        self._last, self._skipped = (0, 0), (0, 0)
        """Rows and requests: as last read, and those that do not count."""

    def add(self, count: int, *, working: bool, resting: bool = False, requests: int = 0) -> float | None:
        """Add a reading; the rate over the window, None while unknown; what comes after a rest has to settle."""
        now = self._clock()
        passed, self._read_at = now - self._read_at, now
        (rows, asked), self._last = self._last, (count, requests)
        if count < rows:
            self._samples.clear()
        if resting:
            self._settling = SETTLING_SECONDS
        if self._settling > 0 or not self._samples:
            self._skipped = self._skipped[0] + count - rows, self._skipped[1] + requests - asked
            self._settling -= passed if working else 0.0
        else:
            self._worked += passed if working else 0.0
        if working or not self._samples:
            self._samples.append((self._worked, count - self._skipped[0], requests - self._skipped[1]))
        while self._worked - self._samples[0][0] > ETA_SECONDS:
            self._samples.popleft()
        (began, first, _), (ended, last, _) = self._samples[0], self._samples[-1]
        return (last - first) / (ended - began) if ended - began >= ETA_WITHHELD_SECONDS else None

    @property
    def rows_per_request(self) -> float | None:
        """Over the window, edits' requests among them; None while unknown."""
        if not self._samples or (asked := self._samples[-1][2] - self._samples[0][2]) <= 0:
            return None
        return (self._samples[-1][1] - self._samples[0][1]) / asked


class Trend:
    """Whether a queue grows: over some seconds it became longer, and its oldest entry waits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def grows(self, count: int, oldest_seconds: float | None) -> bool:
        """Add a reading; whether it is the longest of the last seconds and much longer than it was."""
        now = self._clock()
        self._samples.append((now, count))
        while now - self._samples[0][0] > TREND_SECONDS[1]:
            self._samples.popleft()
        began, least = self._samples[0]
        longest = max(each for _, each in self._samples)
        slow = (oldest_seconds or 0.0) >= TREND_SECONDS[0] and now - began >= TREND_SECONDS[0]
        return slow and count == longest and count - least >= TREND_ENTRIES


EvaluationReader = Callable[[Connection, Migration], EvaluationStatus | None]
CensusReader = Callable[[Migration, object], Census | None]
"""Gives the newest count of both sides' rows, of a migration that moved as its second argument says."""


def read_snapshot(
    conn: Connection,
    name: str | None,
    meter: RateMeter,
    evaluation: EvaluationReader,
    own_pids: Collection[int],
    count: CensusReader = lambda *_: None,
) -> Snapshot:
    """The state of the migration called ``name`` as of now; workers with one of ``own_pids`` on this host are ours."""
    as_of = _database_time(conn)
    migration = load_migration(conn, name)
    if migration is None:
        return with_advice(Snapshot(as_of=as_of, server=_server(conn), demo=demo(conn.info.dsn)))
    workers = read_workers(conn, migration.id, own_pids)
    alive = any(worker.alive for worker in workers)
    holds = read_holds(conn, migration.id)
    queued, oldest = read_backlog(conn, migration.id, QUEUE_COUNTED)
    progress = read_progress(conn, migration.id)
    route = replace(read_status(conn, migration), listeners=read_listeners(conn, migration.name))
    waiting = _old_waiting(conn, migration, route, queued)
    census = count(migration, (waiting, queued, progress.synced, route.epoch)) if migration.phase in COUNTED else None
    condition = _condition(migration, alive, holds)
    snapshot = Snapshot(
        as_of=as_of,
        server=_server(conn),
        demo=demo(conn.info.dsn),
        log=read_audit(conn, migration.id, LOG_LINES, own_pids)[::-1],
        migration=migration,
        phase=migration.phase,
        condition=condition,
        reasons=(*_reasons(migration, condition, holds), *read_waits(conn, migration.id, migration.table_oid)),
        backfill=_backfill(conn, migration, progress, meter, queued, workers, holds, census),
        batch=_batch(conn, migration),
        index=index_status(conn, migration),
        old_index_lost=lost_old_index(conn, migration),
        sync=SyncStatus(queued, oldest, progress.synced, _grows(meter, queued, oldest, workers)),
        faults=group_faults(conn, migration.id),
        open_faults=count_open(conn, migration.id),
        route=route,
        bridge=newest_fit(conn, migration.id),
        evaluation=evaluation(conn, migration),
        workers=workers,
        soak_seconds=_soak_seconds(migration, route, as_of),
        old_refused="" if migration.phase.ended else old_side_refused(conn, migration.id),
        old_gone="" if migration.phase.ended else why_old_dead(conn, migration.id),
    )
    return with_advice(replace(snapshot, rollback=_rollback(conn, snapshot, waiting, census)))


def _grows(meter: RateMeter, queued: int, oldest: float | None, workers: Sequence[WorkerStatus]) -> bool:
    """Whether the queue grows, and not because a worker has but begun."""
    begins = any(each.alive and each.doing == STARTING for each in workers)
    return meter.queue.grows(queued, oldest) and not begins


def with_advice(snapshot: Snapshot) -> Snapshot:
    """The snapshot with the next sensible act."""
    act, why = next_action(snapshot)
    return replace(snapshot, next_act=act, next_why=why)


def _database_time(conn: Connection) -> datetime:
    result: datetime = conn.execute("SELECT now()").fetchall()[0][0]
    return result


def _soak_seconds(migration: Migration, route: RouteStatus, as_of: datetime) -> float | None:
    if route.active is Side.OLD or route.changed_at is None or migration.phase.ended:
        return None
    return max(0.0, (as_of - route.changed_at).total_seconds())


def _condition(migration: Migration, alive: bool, holds: tuple[Hold, ...]) -> Condition:
    if migration.desired == "pause":
        return Condition.FAILED if migration.condition is Condition.FAILED else Condition.PAUSED
    if not alive:
        return Condition.FAILED if migration.condition is Condition.FAILED else Condition.IDLE
    return Condition.THROTTLED if any(hold.stops for hold in holds) else Condition.RUNNING


def _reasons(migration: Migration, condition: Condition, holds: tuple[Hold, ...]) -> tuple[Hold, ...]:
    failed = condition is Condition.FAILED
    if migration.desired == "pause" or failed:
        name = "failure" if failed else "operator"
        return (Hold(name, migration.reason), *holds)
    return holds


def _backfill(
    conn: Connection,
    migration: Migration,
    progress: Progress,
    meter: RateMeter,
    queued: int,
    workers: Sequence[WorkerStatus],
    holds: Sequence[Hold],
    census: Census | None,
) -> BackfillStatus:
    running = migration.phase is Phase.BACKFILL
    total, rows, tokens, planned = progress.total_rows, progress.rows, progress.tokens, False
    if census is not None:
        total, rows = census.rows, census.rows - census.without_new
    elif total is not None:
        # Rows that came since the count are not in it; the final sweep saw that none is left but those queued
        # or faulty. Of one that was given up there are none.
        under_way = migration.phase in BEFORE_INDEX or migration.phase is Phase.ABORTED
        faulty = 0 if under_way else count_faulty(conn, migration.id, tuple(FaultState))
        rows, planned = (min(rows, total), False) if under_way else (max(0, total - queued - faulty), True)
    resting = migration.desired == "pause" or not any(worker.alive for worker in workers)
    held = resting or any(hold.stops for hold in holds)
    rate = meter.add(rows, held=held) if running else None
    if resting:
        rate = None
    lasting = _lasting(progress, meter, rows, holds, resting=resting) if running else None
    if lasting and rate and not held:
        lasting = min(lasting, rate)  # it slowed down: neither is to contradict the other
    spent = migration.new_model.cost(tokens, batch=progress.batch_tokens)
    ahead = migration.phase in BEFORE_INDEX  # of what is done there is nothing to guess
    estimate = None
    edits = migration.new_model.cost(progress.synced_tokens)  # they follow the application, not the rows that are done
    backfilled = rows - progress.synced_first
    if ahead and spent is not None and edits is not None and backfilled > 0 and total:
        estimate = spent + (spent - edits) / backfilled * (total - rows)
    share = progress.hot_updates / progress.updates if progress.updates else None
    suffers = running and share is not None and share < HOT_SHARE_EXPLAINED
    return BackfillStatus(
        rows=rows,
        total=total,
        counted_age=census.age if census is not None else 0.0,
        planned=planned,
        rate=rate,
        eta_seconds=(total - rows) / lasting if lasting and total is not None else None,
        tokens=tokens,
        spent=spent,
        parts=_parts(migration, progress, spent),
        estimate=estimate,
        cap=progress.spend_cap,
        hot_share=share if migration.placement is PlacementKind.COLUMN else None,
        hot_holder=xmin_holder(conn) if suffers else "",
        shards_done=progress.shards_done,
        shards=progress.shards,
        concurrency=progress.concurrency if running else None,
        max_concurrency=progress.max_concurrency,
        in_flight=sum(worker.in_flight for worker in workers if worker.alive) if running else None,
        requests_per_minute=progress.requests_per_minute,
        tokens_per_minute=progress.tokens_per_minute,
    )


def _parts(migration: Migration, progress: Progress, spent: float | None) -> tuple[Spent, ...]:
    """What the migration took of its models, by part."""
    old, new = migration.old_model, migration.new_model
    questions = ((new, progress.asked_new), (old, progress.asked_old))
    parts = [Spent("new model", progress.tokens, spent, 0 if spent is not None else progress.tokens)]
    for what, took in (
        ("old side", ((old, progress.old_tokens),)),
        ("questions and checks", questions),
        ("proof", ((old, progress.proof_tokens),)),
    ):
        priced = [cost for model, tokens in took if tokens and (cost := model.cost(tokens)) is not None]
        unpriced = sum(tokens for model, tokens in took if model.cost(tokens) is None)
        parts.append(Spent(what, sum(tokens for _, tokens in took), sum(priced) if priced else None, unpriced))
    return tuple(part for part in parts if part.tokens)


def _lasting(progress: Progress, meter: RateMeter, rows: int, holds: Sequence[Hold], *, resting: bool) -> float | None:
    """Rows a second that the rest may be expected to take; None while unknown, or where it stands.

    The provider's limits are how fast it may go; all else that holds the work is no part of its rate.
    """
    stands = resting or any(hold.stops and hold.name not in OF_THE_PROVIDER for hold in holds)
    rate = meter.work.add(rows, working=not stands, resting=resting, requests=progress.requests)
    if not rate or stands:
        return None
    # what was saved up is soon used
    limits = [rate]
    if progress.tokens_per_minute and rows and progress.tokens:
        limits.append(progress.tokens_per_minute / 60 * rows / progress.tokens)
    if progress.requests_per_minute and (each := meter.work.rows_per_request):
        limits.append(progress.requests_per_minute / 60 * each)
    return min(limits)


def _batch(conn: Connection, migration: Migration) -> BatchStatus:
    found, model = read_batches(conn, migration.id), migration.new_model
    spent, live = (
        None if price is None else found.tokens * price / 1e6
        for price in (model.batch_price_per_million, model.price_per_million)
    )
    return replace(found, spent=spent, live=live)


def _server(conn: Connection) -> str:
    """Which database the screen is about, and where it is."""
    info = conn.info
    if folder := demo(info.dsn):
        return f"a demo at {folder}"
    host = "this host" if info.host.startswith("/") else info.host
    return f"{info.dbname} at {host}" + (f":{info.port}" if info.port != USUAL_PORT else "")


def _rollback(conn: Connection, snapshot: Snapshot, waiting: int, census: Census | None) -> RollbackStatus:
    """Honest about the old side: rows without a vector there, with one of earlier content, and what nobody knows."""
    migration = snapshot.migration
    assert migration is not None
    if migration.phase is Phase.DONE:
        gone = migration.run_state.gone is Side.OLD
        return RollbackStatus(None, 0, "the old side is gone" if gone else "nothing keeps the old side current")
    rows, without = (census.rows, census.without_old) if census is not None else (None, None)
    if not migration.stored.by_triggers:
        return RollbackStatus(None, 0, "no change capture", missing=without or 0, rows=rows)
    marked, bridging = count_marked(conn, migration.id, QUEUE_COUNTED), snapshot.route.bridging
    missing = marked.missing if without is None else without
    moved = _ever_moved(snapshot.route)
    reasons = []
    if marked.stale or marked.bridged:
        reasons.append(_why_behind(conn, snapshot, migration))
    # before reads first move the sync notes which old vectors a change left behind: until then nobody knows of it
    if moved and waiting:  # not all that wait: not those of rows that are noted already
        reasons.append(f"{counted(waiting, 'old vector is', 'old vectors are')} due")
    elif not moved and snapshot.sync.queued:
        reasons.insert(0, f"{changes_waiting(snapshot.sync.queued)} to be synced")
    fresh: bool | None = not (waiting or marked.stale or marked.bridged or marked.missing or (moved and missing))
    if fresh and moved and census is None:
        fresh = None
        reasons.append("rows without an old vector are not counted here")
    if fresh and snapshot.route.active is Side.OLD and migration.old_model.unasked:
        later = "later edits would be stale" if not bridging else "later edits get vectors by the bridge"
        reasons.append(f"nothing to roll back yet; {migration.old_model.called} {migration.old_model.unasked}: {later}")
    # a row that waits without an old vector is missing, and not stale
    stale = marked.stale + max(0, waiting - (census.awaited if census is not None else 0))
    return RollbackStatus(fresh, stale, "; ".join(reasons), marked.bridged, missing if moved else marked.missing, rows)


def _why_behind(conn: Connection, snapshot: Snapshot, migration: Migration) -> str:
    """Why rows are noted as without the old model's vector of their content.

    The model is to blame where a call to it failed, or where it refused their texts.
    """
    called = migration.old_model.called
    if migration.old_model.unasked:
        return f"{called} {migration.old_model.unasked}"
    if not snapshot.route.changed_by:  # until reads first move, the old side is the application's
        since = f" since {migration.created_at:%Y-%m-%d %H:%M} UTC" if migration.created_at else ""
        return f"edited{since}, and the old vector left as it was; what was edited before is not known"
    if not any(worker.alive for worker in snapshot.workers):
        return f"{called} was not asked: no worker is at work"
    if snapshot.old_refused:
        return f"the database refuses old vectors: {snapshot.old_refused}"
    if lost := why_old_lost(conn, migration.id):
        return f"{called} answers 429, over its limits" if "429" in lost else f"{called} does not answer"
    if unwritable := count_unwritable(conn, migration.id):
        return f"the database refuses the old vector of {counted(unwritable, 'row', 'rows')}: see the faults"
    refused = count_faulty(conn, migration.id, tuple(FaultState), Side.OLD)
    if refused:
        return f"{called} refuses {counted(refused, 'text', 'texts')}"
    return f"{called} is still to embed them"


def _ever_moved(route: RouteStatus) -> bool:
    """Whether reads are on the new side or once were, if only a share of them: the old side is ours to keep since."""
    return route.active is Side.NEW or bool(route.changed_by)


def _old_waiting(conn: Connection, migration: Migration, route: RouteStatus, queued: int) -> int:
    """Rows in the queue whose old vector is due: none before reads first moved."""
    if migration.phase.ended or not _ever_moved(route):
        return 0
    try:
        waiting = count_old_waiting(conn, migration.id, QUEUE_COUNTED)
    except errors.InsufficientPrivilege:  # who only watches does not see which rows wait
        return queued
    if migration.text_table is not None:
        waiting += count_rows_of_texts(conn, migration.id, rows_sql(migration, migration.text_table), QUEUE_COUNTED)
    return waiting
