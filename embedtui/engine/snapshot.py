"""Reading all that a screen shows: a few cheap statements, no scan of the user's table."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime

from embedtui.engine.backfill.throttle import xmin_holder
from embedtui.model import (
    BackfillStatus,
    BatchStatus,
    Condition,
    EvaluationStatus,
    Hold,
    Migration,
    Phase,
    PlacementKind,
    RollbackStatus,
    RouteStatus,
    Side,
    Snapshot,
    SyncStatus,
    WorkerStatus,
)
from embedtui.model.lifecycle import QUEUE_COUNTED, changes_waiting, next_action
from embedtui.postgres.connect import Connection
from embedtui.postgres.indexes import index_status
from embedtui.postgres.joined import rows_sql
from embedtui.postgres.state.batches import read_batches
from embedtui.postgres.state.bridges import newest_fit
from embedtui.postgres.state.faults import group_faults
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.progress import Progress, read_progress
from embedtui.postgres.state.queue import count_old_waiting, count_rows_of_texts, read_backlog
from embedtui.postgres.state.route import read_listeners, read_status
from embedtui.postgres.state.stale import count_marked
from embedtui.postgres.state.workers import read_holds, read_workers

HOT_SHARE_EXPLAINED = 0.5
"""Below this HOT share the holder of the xmin horizon is looked for."""
RATE_SECONDS = 20.0
"""The rate is that of the last so many seconds …"""
RATE_WITHHELD_SECONDS = 3.0
"""… and withheld until there are this many."""

BEFORE_INDEX = (Phase.PLAN, Phase.PREPARE, Phase.BACKFILL)


class RateMeter:
    """Rate from the recent past of a counter; None until it is known."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, count: int) -> float | None:
        """Add a reading; the rate per second over the window, None while unknown or at rest."""
        now = self._clock()
        if self._samples and count < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now, count))
        while self._samples and now - self._samples[0][0] > RATE_SECONDS:
            self._samples.popleft()
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        if ended - began < RATE_WITHHELD_SECONDS or last == first:
            return None
        return (last - first) / (ended - began)


EvaluationReader = Callable[[Connection, Migration], EvaluationStatus | None]


def read_snapshot(
    conn: Connection, name: str | None, meter: RateMeter, evaluation: EvaluationReader, own_pids: Collection[int]
) -> Snapshot:
    """The state of the migration called ``name`` as of now; workers with one of ``own_pids`` on this host are ours."""
    as_of = _database_time(conn)
    migration = load_migration(conn, name)
    if migration is None:
        return with_advice(Snapshot(as_of=as_of))
    workers = read_workers(conn, migration.id, own_pids)
    alive = any(worker.alive for worker in workers)
    holds = read_holds(conn, migration.id)
    queued, oldest = read_backlog(conn, migration.id, QUEUE_COUNTED)
    progress = read_progress(conn, migration.id)
    route = replace(read_status(conn, migration), listeners=read_listeners(conn, migration.name))
    snapshot = Snapshot(
        as_of=as_of,
        migration=migration,
        phase=migration.phase,
        condition=_condition(migration, alive, holds),
        reasons=_reasons(migration, holds),
        backfill=_backfill(conn, migration, progress, meter, queued, workers),
        batch=_batch(conn, migration),
        index=index_status(conn, migration),
        sync=SyncStatus(queued, oldest, progress.synced),
        faults=group_faults(conn, migration.id),
        route=route,
        bridge=newest_fit(conn, migration.id),
        evaluation=evaluation(conn, migration),
        workers=workers,
        soak_seconds=_soak_seconds(migration, route, as_of),
    )
    return with_advice(replace(snapshot, rollback=_rollback(conn, snapshot)))


def with_advice(snapshot: Snapshot) -> Snapshot:
    """The snapshot with the next sensible act."""
    act, why = next_action(snapshot)
    return replace(snapshot, next_act=act, next_why=why)


def _database_time(conn: Connection) -> datetime:
    row = conn.execute("SELECT now()").fetchone()
    assert row is not None
    result: datetime = row[0]
    return result


def _soak_seconds(migration: Migration, route: RouteStatus, as_of: datetime) -> float | None:
    if route.active is Side.OLD or route.changed_at is None or migration.phase.ended:
        return None
    return max(0.0, (as_of - route.changed_at).total_seconds())


def _condition(migration: Migration, alive: bool, holds: tuple[Hold, ...]) -> Condition:
    if migration.desired == "pause":
        return Condition.FAILED if migration.condition is Condition.FAILED else Condition.PAUSED
    if not alive:
        return Condition.IDLE
    return Condition.THROTTLED if holds else Condition.RUNNING


def _reasons(migration: Migration, holds: tuple[Hold, ...]) -> tuple[Hold, ...]:
    if migration.desired == "pause":
        name = "failure" if migration.condition is Condition.FAILED else "operator"
        return (Hold(name, migration.reason), *holds)
    return holds


def _backfill(
    conn: Connection,
    migration: Migration,
    progress: Progress,
    meter: RateMeter,
    queued: int,
    workers: Sequence[WorkerStatus],
) -> BackfillStatus:
    running = migration.phase is Phase.BACKFILL
    total, rows, tokens = progress.total_rows, progress.rows, progress.tokens
    if total is not None:
        # Rows that sync embeds are not in the shards; the final sweep saw that none but the queued ones are left.
        # Of one that was given up there are none.
        counted = migration.phase in BEFORE_INDEX or migration.phase is Phase.ABORTED
        rows = min(rows, total) if counted else max(0, total - queued)
    rate = meter.add(rows) if running else None
    price = migration.new_model.price_per_million
    less = migration.new_model.batch_price_per_million
    spent = None
    if price is not None and less is not None:
        spent = ((tokens - progress.batch_tokens) * price + progress.batch_tokens * less) / 1e6
    estimate = spent / rows * total if spent is not None and rows and total else None
    share = progress.hot_updates / progress.updates if progress.updates else None
    holder = ""
    if share is not None and share < HOT_SHARE_EXPLAINED and migration.phase is Phase.BACKFILL:
        holder = xmin_holder(conn)
    return BackfillStatus(
        rows=rows,
        total=total,
        rate=rate,
        eta_seconds=(total - rows) / rate if rate and total is not None else None,
        tokens=tokens,
        spent=spent,
        estimate=estimate,
        cap=progress.spend_cap,
        hot_share=share if migration.placement is PlacementKind.COLUMN else None,
        hot_holder=holder,
        shards_done=progress.shards_done,
        shards=progress.shards,
        concurrency=progress.concurrency if running else None,
        in_flight=sum(worker.in_flight for worker in workers if worker.alive) if running else None,
        requests_per_minute=progress.requests_per_minute,
        tokens_per_minute=progress.tokens_per_minute,
    )


def _batch(conn: Connection, migration: Migration) -> BatchStatus:
    found, model = read_batches(conn, migration.id), migration.new_model
    spent, live = (
        None if price is None else found.tokens * price / 1e6
        for price in (model.batch_price_per_million, model.price_per_million)
    )
    return replace(found, spent=spent, live=live)


def _rollback(conn: Connection, snapshot: Snapshot) -> RollbackStatus:
    """Honest about the old side: what waits in the queue, and what its dead model can no longer embed."""
    migration = snapshot.migration
    assert migration is not None
    if migration.phase is Phase.DONE:
        gone = migration.run_state.gone is Side.OLD
        return RollbackStatus(None, 0, "the old side is gone" if gone else "nothing keeps the old side current")
    if not migration.stored.by_triggers:
        return RollbackStatus(None, 0, "unknown: no change capture")
    marked, bridging = count_marked(conn, migration.id, QUEUE_COUNTED), snapshot.route.bridging
    waiting = 0
    if snapshot.route.active is Side.NEW:
        waiting = count_old_waiting(conn, migration.id, QUEUE_COUNTED)
        if migration.text_table is not None:
            texts = rows_sql(migration, migration.text_table)
            waiting += count_rows_of_texts(conn, migration.id, texts, QUEUE_COUNTED)
    reasons = []
    if marked.stale or marked.bridged:
        late = "does not answer" if snapshot.route.active is Side.NEW else "did not answer"
        reasons.append(f"{migration.old_model.called} {'is retired' if migration.old_model.retired else late}")
    if waiting:
        reasons.append(f"{changes_waiting(waiting)} to be synced")
    fresh = not (waiting or marked.stale or marked.bridged or marked.missing)
    if fresh and snapshot.route.active is Side.OLD and migration.old_model.retired:
        later = "later edits would be stale" if not bridging else "later edits get vectors by the bridge"
        reasons.append(f"nothing to roll back yet; {migration.old_model.called} is retired: {later}")
    return RollbackStatus(
        fresh, marked.stale + waiting, "; ".join(reasons), marked.bridged, marked.missing, snapshot.backfill.total
    )
