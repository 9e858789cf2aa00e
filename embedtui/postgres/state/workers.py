"""Worker processes, what they do and what is wanted of them: table ``worker``."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg import sql
from psycopg.types.json import Jsonb

from embedtui.model import Hold, ThreadStatus, WorkerStatus
from embedtui.postgres.connect import Connection, host_name, operator_name
from embedtui.postgres.locks import ALIVE
from embedtui.postgres.state.counters import LATELY

CHANNEL = "embedtui_worker"
"""NOTIFY channel: what is wanted of a migration's workers has changed. The payload is the migration's id."""
_LIVES = f"w.stopped_at IS NULL AND {ALIVE.format('w.id')}"
_EVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operators want of a worker."""

    paused: bool = False
    index_held: bool = False
    """The index is not to be built yet."""
    stop: bool = False
    """This worker is to end."""
    throttle: object = None
    """Limits of the throttle as stored now."""
    reloads: int | None = None
    """How often all were asked so far to read their settings again; None: not read."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker tells about once a second."""

    rows: int
    """Written so far."""
    doing: str
    threads: Sequence[ThreadStatus]
    holds: Sequence[Hold]
    in_flight: int = 0
    """Requests on the wire."""


def register_worker(conn: Connection, migration_id: int) -> int:
    """Enter this process as a worker; its id."""
    row = conn.execute(
        "INSERT INTO embedtui.worker (migration, host, pid, operator) VALUES (%s, %s, %s, %s) RETURNING id",
        [migration_id, host_name(), os.getpid(), operator_name()],
    ).fetchone()
    assert row is not None
    return int(row[0])


def beat(conn: Connection, migration_id: int, worker: int | None, told: Heartbeat) -> Wanted:
    """Store what the worker tells, and read what the operators want of it."""
    now = datetime.now(UTC)
    row = conn.execute(
        "WITH beat AS (UPDATE embedtui.worker SET heartbeat = now(), rows = %(rows)s, threads = %(threads)s,"
        " holds = %(holds)s, in_flight = %(in_flight)s,"
        " since = CASE WHEN doing = %(doing)s THEN since ELSE now() END, doing = %(doing)s WHERE id = %(worker)s"
        " RETURNING stop_wanted)"
        " SELECT desired = 'pause', coalesce((settings->>'index_held')::boolean, false),"
        " coalesce((SELECT stop_wanted FROM beat), false), settings->'throttle',"
        " coalesce((settings->>'reloads')::integer, 0)"
        " FROM embedtui.migration WHERE id = %(migration)s",
        {
            "rows": told.rows,
            # ages and not times: hosts' clocks differ, and the database's is what the screens count from
            "threads": Jsonb([[each.name, each.doing, (now - each.since).total_seconds()] for each in told.threads]),
            "holds": Jsonb(
                [
                    {"name": hold.name, "detail": hold.detail, "since": hold.since and hold.since.isoformat()}
                    for hold in told.holds
                ]
            ),
            "in_flight": told.in_flight,
            "doing": told.doing,
            "worker": worker,
            "migration": migration_id,
        },
    ).fetchone()
    return Wanted(*row) if row is not None else Wanted(paused=True)


def listen(conn: Connection) -> None:
    """Have this session told by :func:`tell_workers`."""
    conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))


def tell_workers(conn: Connection, migration_id: int) -> None:
    """Have the migration's workers look, once this is committed, what is wanted of them; a heartbeat tells it later."""
    conn.execute(sql.SQL("NOTIFY {}, {}").format(sql.Identifier(CHANNEL), sql.Literal(str(migration_id))))


def end_worker(conn: Connection, worker: int | None, rows: int) -> None:
    """Record that the worker ended by itself, having written so many rows."""
    conn.execute(
        "UPDATE embedtui.worker SET stopped_at = now(), heartbeat = now(), rows = %s, doing = '',"
        " threads = '[]', holds = '[]', in_flight = 0 WHERE id = %s",
        [rows, worker],
    )


def count_live_workers(conn: Connection, migration_id: int) -> int:
    """Workers of the migration whose processes live."""
    row = conn.execute(
        f"SELECT count(*) FROM embedtui.worker w WHERE w.migration = %s AND {_LIVES}", [migration_id]
    ).fetchone()
    assert row is not None
    return int(row[0])


def live_workers(conn: Connection, migration_id: int) -> list[tuple[str, int]]:
    """Host and process id of each worker of the migration that lives."""
    return conn.execute(
        f"SELECT w.host, w.pid FROM embedtui.worker w WHERE w.migration = %s AND {_LIVES} ORDER BY w.id",
        [migration_id],
    ).fetchall()


def read_workers(conn: Connection, migration_id: int, own_pids: Collection[int]) -> tuple[WorkerStatus, ...]:
    """The newest workers that have not ended; those on this host with one of ``own_pids`` are ours."""
    rows = conn.execute(
        "SELECT w.id, w.host, w.pid, w.doing, w.since, w.heartbeat, extract(epoch FROM now() - w.heartbeat)::float8,"
        f" w.rows, w.threads, {_LIVES}, w.stop_wanted, w.in_flight"
        # one that was killed stays on the list for a while, or until another came after it: somebody may look for it
        " FROM embedtui.worker w WHERE migration = %s AND stopped_at IS NULL"
        f" AND ({ALIVE.format('w.id')} OR NOT EXISTS (SELECT FROM embedtui.worker later"
        "  WHERE later.migration = w.migration AND later.started_at > w.heartbeat + interval '5 s'))"
        f" AND {LATELY.format('heartbeat', 'now()', '600')} ORDER BY w.id DESC LIMIT 50",
        [migration_id],
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
            threads=_threads(threads, heartbeat),
            own=host == here and pid in own_pids,
            in_flight=flight,
        )
        for number, host, pid, doing, since, heartbeat, silent, count, threads, alive, stop, flight in rows
    )


def read_holds(conn: Connection, migration_id: int) -> tuple[Hold, ...]:
    """What holds any live worker, by name; of several with one name the oldest."""
    rows = conn.execute(f"SELECT w.holds FROM embedtui.worker w WHERE w.migration = %s AND {_LIVES}", [migration_id])
    found: dict[str, Hold] = {}
    for (holds,) in rows:
        for hold in _holds(holds):
            known = found.get(hold.name)
            if known is None or (hold.since or _EVER) < (known.since or _EVER):
                found[hold.name] = hold
    return tuple(found[name] for name in sorted(found))


def _holds(value: object) -> tuple[Hold, ...]:
    """A worker's holds; none where it wrote something else: no worker can end a screen."""
    try:
        return tuple(
            Hold(str(each["name"]), str(each["detail"]), each["since"] and datetime.fromisoformat(each["since"]))
            for each in value  # type: ignore[attr-defined]
        )
    except (TypeError, ValueError, KeyError):
        return ()


def _threads(value: object, heartbeat: datetime) -> tuple[ThreadStatus, ...]:
    """A worker's threads, likewise."""
    try:
        return tuple(
            ThreadStatus(str(name), str(what), heartbeat - timedelta(seconds=age))
            for name, what, age in value  # type: ignore[attr-defined]
        )
    except (TypeError, ValueError, OverflowError):
        return ()
