"""Reading all that a screen shows: a few cheap statements, no scan of the user's table."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from embedtui.engine.backfill.backfill import ALIVE
from embedtui.engine.backfill.throttle import xmin_holder
from embedtui.model import (
    BackfillStatus,
    Condition,
    EvaluationStatus,
    FaultClass,
    FaultGroup,
    FaultState,
    Hold,
    Migration,
    Phase,
    PlacementKind,
    RollbackStatus,
    RouteStatus,
    Side,
    Snapshot,
    SyncStatus,
    ThreadStatus,
    WorkerStatus,
)
from embedtui.model.lifecycle import QUEUE_COUNTED, changes_waiting, next_action
from embedtui.postgres.connect import Connection, host_name
from embedtui.postgres.indexes import index_status
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.route import read_listeners, read_status

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
    as_of = _one(conn, "SELECT now()")
    migration = load_migration(conn, name)
    if migration is None:
        return _with_advice(Snapshot(as_of=as_of))
    workers = _workers(conn, migration, own_pids)
    alive = any(worker.alive for worker in workers)
    reasons = _holds(conn, migration)
    sync = _sync(conn, migration)
    backfill = _backfill(conn, migration, meter, sync.queued)
    route = replace(read_status(conn, migration), listeners=read_listeners(conn, migration.name))
    snapshot = Snapshot(
        as_of=as_of,
        migration=migration,
        phase=migration.phase,
        condition=_condition(migration, alive, reasons),
        reasons=_reasons(migration, reasons),
        backfill=backfill,
        index=index_status(conn, migration),
        sync=sync,
        faults=_faults(conn, migration),
        route=route,
        evaluation=evaluation(conn, migration),
        workers=workers,
        soak_seconds=_soak(route, as_of) if route.active is Side.NEW and not migration.phase.ended else None,
    )
    return _with_advice(replace(snapshot, rollback=_rollback(conn, snapshot)))


def _with_advice(snapshot: Snapshot) -> Snapshot:
    act, why = next_action(snapshot)
    return replace(snapshot, next_act=act, next_why=why)


def _one(conn: Connection, query: str, *parameters: object) -> datetime:
    row = conn.execute(query, parameters).fetchone()
    assert row is not None
    result: datetime = row[0]
    return result


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


def _workers(conn: Connection, migration: Migration, own_pids: Collection[int]) -> tuple[WorkerStatus, ...]:
    rows = conn.execute(
        "SELECT w.id, w.host, w.pid, w.doing, w.since, w.heartbeat, extract(epoch FROM now() - w.heartbeat)::float8,"
        f" w.rows, w.threads, w.stopped_at IS NULL AND {ALIVE.format('w.id')}, w.stop_wanted"
        # one that was killed stays on the list for a while: somebody may look for it
        " FROM embedtui.worker w WHERE migration = %s AND stopped_at IS NULL"
        " AND heartbeat > now() - interval '10 minutes' ORDER BY w.id DESC LIMIT 50",
        [migration.id],
    )
    here = host_name()
    return tuple(
        WorkerStatus(
            id=number,
            host=host,
            pid=pid,
            doing=f"stopping: {doing}" if stop else doing,
            since=since,
            heartbeat_seconds=max(0.0, silent),
            alive=alive,
            rows=count,
            threads=_threads(threads, beat),
            own=host == here and pid in own_pids,
        )
        for number, host, pid, doing, since, beat, silent, count, threads, alive, stop in rows
    )


def _holds(conn: Connection, migration: Migration) -> tuple[Hold, ...]:
    rows = conn.execute(
        "SELECT w.holds FROM embedtui.worker w"
        f" WHERE w.migration = %s AND w.stopped_at IS NULL AND {ALIVE.format('w.id')}",
        [migration.id],
    )
    found: dict[str, Hold] = {}
    for (holds,) in rows:
        for hold in _stored_holds(holds):
            known = found.get(hold.name)
            if known is None or (hold.since or _EVER) < (known.since or _EVER):
                found[hold.name] = hold
    return tuple(found[name] for name in sorted(found))


_EVER = datetime.max.replace(tzinfo=UTC)


def _stored_holds(value: object) -> tuple[Hold, ...]:
    """A worker's holds; one that wrote something else is its own affair and ends no screen."""
    try:
        return tuple(
            Hold(str(each["name"]), str(each["detail"]), each["since"] and datetime.fromisoformat(each["since"]))
            for each in value  # type: ignore[attr-defined]
        )
    except (TypeError, ValueError, KeyError):
        return ()


def _threads(value: object, beat: datetime) -> tuple[ThreadStatus, ...]:
    """A worker's threads, likewise."""
    try:
        return tuple(
            ThreadStatus(str(name), str(what), beat - timedelta(seconds=age))
            for name, what, age in value  # type: ignore[attr-defined]
        )
    except (TypeError, ValueError, OverflowError):
        return ()


def _backfill(conn: Connection, migration: Migration, meter: RateMeter, queued: int) -> BackfillStatus:
    row = conn.execute(
        "SELECT m.total_rows, coalesce(s.rows, 0), coalesce(s.updates, 0), coalesce(s.hot, 0), coalesce(s.done, 0),"
        " coalesce(s.count, 0),"
        " coalesce(s.tokens, 0) + m.synced_tokens, p.spend_cap, p.concurrency, p.requests_per_minute,"
        " p.tokens_per_minute, p.characters_per_token"
        " FROM embedtui.migration m LEFT JOIN embedtui.pace p ON p.migration = m.id"
        " LEFT JOIN (SELECT migration, sum(rows)::bigint AS rows, sum(updates)::bigint AS updates,"
        "   sum(tokens)::bigint AS tokens,"
        "   sum(hot_updates)::bigint AS hot, count(*) FILTER (WHERE state = 'done') AS done, count(*) AS count"
        "   FROM embedtui.shard GROUP BY migration) s ON s.migration = m.id WHERE m.id = %s",
        [migration.id],
    ).fetchone()
    assert row is not None
    total, rows, updates, hot, done, shards, tokens, cap, concurrency, requests, per_minute, _ = row
    if total is not None:
        # Rows that sync embeds are not in the shards; the final sweep saw that none but the queued ones are left.
        rows = min(rows, total) if migration.phase in BEFORE_INDEX else max(0, total - queued)
    rate = meter.add(rows) if migration.phase is Phase.BACKFILL else None
    price = migration.new_model.price_per_million
    spent = tokens * price / 1e6 if price is not None else None
    estimate = spent / rows * total if spent is not None and rows and total else None
    share = hot / updates if updates else None
    holder = ""
    if share is not None and share < HOT_SHARE_EXPLAINED and migration.phase is Phase.BACKFILL:
        holder = xmin_holder(conn)
    return BackfillStatus(
        rows=rows,
        total=total,
        rate=rate,
        eta_seconds=(total - rows) / rate if rate and total is not None else None,
        tokens=tokens or 0,
        spent=spent,
        estimate=estimate,
        cap=cap,
        hot_share=share if migration.placement is PlacementKind.COLUMN else None,
        hot_holder=holder,
        shards_done=done,
        shards=shards,
        concurrency=concurrency if migration.phase is Phase.BACKFILL else None,
        requests_per_minute=requests,
        tokens_per_minute=per_minute,
    )


def _sync(conn: Connection, migration: Migration) -> SyncStatus:
    row = conn.execute(
        "SELECT count(*), extract(epoch FROM now() - min(at))::float8,"
        " (SELECT synced FROM embedtui.migration WHERE id = %(m)s)"
        " FROM (SELECT at FROM embedtui.queue WHERE migration = %(m)s ORDER BY id LIMIT %(n)s) q",
        {"m": migration.id, "n": QUEUE_COUNTED},
    ).fetchone()
    assert row is not None
    queued, oldest, synced = row
    return SyncStatus(queued, max(0.0, oldest) if oldest is not None else None, synced)


def _faults(conn: Connection, migration: Migration) -> tuple[FaultGroup, ...]:
    rows = conn.execute(
        "SELECT class, reason, count(*), state FROM embedtui.fault WHERE migration = %s"
        " GROUP BY class, reason, state ORDER BY count(*) DESC LIMIT 100",
        [migration.id],
    )
    return tuple(
        FaultGroup(FaultClass(fault_class), reason, count, FaultState(state))
        for fault_class, reason, count, state in rows
    )


def _soak(route: RouteStatus, as_of: datetime) -> float | None:
    return max(0.0, (as_of - route.changed_at).total_seconds()) if route.changed_at else None


def _rollback(conn: Connection, snapshot: Snapshot) -> RollbackStatus:
    """Honest about the old side: what waits in the queue, and what its dead model can no longer embed."""
    migration = snapshot.migration
    assert migration is not None
    if migration.phase is Phase.DONE:
        gone = migration.run_state.gone is Side.OLD
        return RollbackStatus(None, 0, "the old side is gone" if gone else "nothing keeps the old side current")
    if not migration.stored.by_triggers:
        return RollbackStatus(None, 0, "unknown: no change capture")
    row = conn.execute(
        "SELECT count(*) FROM (SELECT FROM embedtui.stale WHERE migration = %s LIMIT %s) x",
        [migration.id, QUEUE_COUNTED],
    ).fetchone()
    stale = int(row[0]) if row else 0
    if snapshot.route.active is Side.OLD:
        if stale:
            return RollbackStatus(False, stale, f"{migration.old_model.name} did not answer while the new side served")
        why = f"nothing to roll back yet; {migration.old_model.called} is retired: later edits would be stale"
        return RollbackStatus(True, 0, why if migration.old_model.retired else "")
    waiting = snapshot.sync.queued
    if not stale and not waiting:
        return RollbackStatus(True)
    reasons = []
    if stale:
        dead = "is retired" if migration.old_model.retired else "does not answer"
        reasons.append(f"{migration.old_model.called} {dead}")
    if waiting:
        reasons.append(f"{changes_waiting(waiting)} to be synced")
    return RollbackStatus(False, stale + waiting, "; ".join(reasons))
