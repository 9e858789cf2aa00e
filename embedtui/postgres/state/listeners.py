"""Routers as they report themselves: table ``listener``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from uuid import UUID

from embedtui.model import ListenerStatus, Migration
from embedtui.postgres.connect import Connection
from embedtui.postgres.state.counters import LATELY

LISTENER_ALIVE_SECONDS = 15.0
"""A listener not heard from for so long is no longer counted (Routers report every two seconds)."""
_KEPT = "1 hour"

_REPORT = """
INSERT INTO embedtui.listener AS l
    (id, name, host, pid, application, epoch, epoch_seen_at, searches_old, searches_new, by_view, latency_ms)
VALUES (%(id)s, %(name)s, %(host)s, %(pid)s, %(application)s, %(epoch)s,
        pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => %(ago)s), %(old)s, %(new)s,
        %(by_view)s, %(latency_ms)s::pg_catalog.float4[])
ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, heartbeat = pg_catalog.clock_timestamp(),
    epoch_seen_at = CASE WHEN l.epoch OPERATOR(pg_catalog.=) excluded.epoch
                    THEN l.epoch_seen_at ELSE excluded.epoch_seen_at END,
    searches_old = excluded.searches_old, searches_new = excluded.searches_new, by_view = excluded.by_view,
    latency_ms = excluded.latency_ms
"""


@dataclass(frozen=True, slots=True)
class ListenerReport:
    """What a Router tells of one route."""

    id: UUID
    """Of this Router and route."""
    name: str
    """The route's."""
    host: str
    pid: int
    application: str
    epoch: int
    ago: float
    """Seconds since that epoch was first seen."""
    old: int
    """Searches of the old side."""
    new: int
    by_view: bool = False
    """It finds the new side by the routed view alone."""
    latency_ms: list[float | None] = field(default_factory=lambda: [None] * 4)
    """p50 and p95 of its last searches, of the old side and of the new one."""


def report_listener(conn: Connection, report: ListenerReport) -> None:
    """Store what a Router tells; this is its sign of life, too."""
    conn.execute(_REPORT, asdict(report))


def remove_listeners(conn: Connection, ids: Sequence[UUID]) -> None:
    """A Router that ends: it is heard from no more, and that it was is kept."""
    conn.execute(
        "UPDATE embedtui.listener SET heartbeat = pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)"
        " pg_catalog.make_interval(secs => %s) WHERE id OPERATOR(pg_catalog.=) ANY (%s)",
        [LISTENER_ALIVE_SECONDS, list(ids)],
    )


def ever_heard(conn: Connection, migration: Migration) -> bool:
    """Whether any Router has followed this migration's route."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM embedtui.listener l, embedtui.migration m WHERE m.id = %s AND l.name = %s"
        " AND greatest(l.started_at, l.heartbeat) >= m.created_at)",
        [migration.id, migration.name],
    ).fetchone()
    return row == (True,)


@dataclass(frozen=True, slots=True)
class Heard:
    """What the Routers of one application told, those that ended of late included."""

    application: str
    """Or its host."""
    searches_new: int
    since: datetime
    """When the first of them, or the migration, began."""


def heard_from(conn: Connection, migration: Migration) -> tuple[Heard, ...]:
    """Applications whose Routers follow this migration's route, or did of late, those that searched most first."""
    rows = conn.execute(
        "SELECT coalesce(nullif(l.application, ''), l.host), sum(l.searches_new)::bigint,"
        " greatest(min(l.started_at), min(m.created_at))"
        " FROM embedtui.listener l, embedtui.migration m WHERE m.id = %s AND l.name = %s"
        " AND greatest(l.started_at, l.heartbeat) >= m.created_at GROUP BY 1 ORDER BY 2 DESC, 1",
        [migration.id, migration.name],
    )
    return tuple(Heard(*row) for row in rows)


def forget_listeners(conn: Connection) -> None:
    """Remove the rows of Routers that are long gone, but for each route's last one."""
    conn.execute(
        "DELETE FROM embedtui.listener l WHERE heartbeat < clock_timestamp() - %s::interval"
        " AND EXISTS (SELECT FROM embedtui.listener o WHERE o.name = l.name"
        " AND (o.heartbeat, o.id) > (l.heartbeat, l.id))",
        [_KEPT],
    )


def read_listeners(conn: Connection, name: str) -> tuple[ListenerStatus, ...]:
    """Routers heard from lately, with how long the last flip took to reach those that were there to see it."""
    rows = conn.execute(
        "SELECT l.host, l.pid, l.application, l.epoch, l.searches_old, l.searches_new,"
        " extract(epoch FROM clock_timestamp() - l.heartbeat)::float8,"
        " CASE WHEN l.epoch = r.epoch AND l.started_at < r.changed_at"
        " THEN greatest(0, extract(epoch FROM l.epoch_seen_at - r.changed_at)::float8 * 1000) END, l.by_view,"
        " l.latency_ms::float8[]"
        " FROM embedtui.listener l JOIN embedtui.route r USING (name)"
        f" WHERE name = %s AND {LATELY.format('l.heartbeat', 'clock_timestamp()', '%s')}"
        " ORDER BY l.application, l.host, l.pid, l.id",
        [name, LISTENER_ALIVE_SECONDS],
    )
    return tuple(ListenerStatus(*row, *(_pair(latency, side) for side in range(2))) for *row, latency in rows)


def _pair(latency: list[float | None] | None, side: int) -> tuple[float, float] | None:
    p50, p95 = latency[2 * side : 2 * side + 2] if latency else (None, None)
    return None if p50 is None or p95 is None else (p50, p95)


def going_by_view(conn: Connection, name: str) -> str:
    """Services heard from lately that find the new side by the routed view alone; empty where there are none."""
    return ", ".join(sorted({each.application or each.host for each in read_listeners(conn, name) if each.by_view}))
