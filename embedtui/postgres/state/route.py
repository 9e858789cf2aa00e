"""The pointer: one row a route name, moved by compare-and-set on its epoch and told to every listener.

Rights an application role needs to route and search (nothing on the tables behind)::

    GRANT USAGE ON SCHEMA embedtui TO app;
    GRANT SELECT ON embedtui.route_side TO app;
    GRANT SELECT, INSERT, UPDATE, DELETE ON embedtui.listener TO app;  -- only for Routers that report themselves

EXECUTE on ``embedtui.route``, ``embedtui.search`` and ``embedtui.side_for`` is PUBLIC's by default. The functions run
with the caller's rights, so the role also needs SELECT on the searched table and, where there is one, on the side table
(and INSERT and UPDATE there to write vectors with ``put``).
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from embedtui.errors import DatabaseError, Refused
from embedtui.model import Flip, ListenerStatus, Migration, Remedy, Side
from embedtui.postgres.connect import Connection

CHANNEL = "embedtui_route"
"""NOTIFY channel. The payload is a JSON object: ``name``, and where nothing but the pointer moved also ``migration``,
``epoch``, ``active`` and ``canary``, so that a listener who knows the epoch before can follow without a query."""

LISTENER_ALIVE_SECONDS = 15.0
"""A listener not heard from for so long is no longer counted (Routers report every two seconds)."""

_LISTENER_KEPT = "1 hour"

_MOVE = """
WITH moved AS (
    UPDATE embedtui.route
    SET epoch = epoch + 1, active = %(active)s, canary = %(canary)s, changed_at = clock_timestamp(),
        changed_by = %(by)s, pending = NULL,
        first_cutover_at = CASE WHEN %(active)s = 'new' THEN coalesce(first_cutover_at, clock_timestamp())
                                ELSE first_cutover_at END
    WHERE name = %(name)s AND (%(expect)s::bigint IS NULL OR epoch = %(expect)s)
      AND (active, canary) IS DISTINCT FROM (%(active)s, %(canary)s)
    RETURNING name, migration, epoch, active, canary
)
SELECT epoch, pg_notify(%(channel)s, to_json(moved)::text) FROM moved
"""


@dataclass(frozen=True, slots=True)
class RouteRow:
    """The pointer as stored."""

    name: str
    migration: int
    epoch: int
    active: Side
    canary: int
    changed_at: datetime
    changed_by: str
    first_cutover_at: datetime | None
    """When the new side first served every read; kept through rollbacks."""
    pending: dict[str, Any] | None
    """A postponed cutover."""


def bucket(key: str) -> int:
    """The key's place in the canary, 0..99: the first four bytes of its SHA-256, big-endian, modulo 100.

    The same as in SQL (``embedtui.side_for``), so that all languages agree. A key reads the new side while its bucket
    is below the canary's percentage; a growing canary therefore keeps the keys it has.
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100


def install_functions(conn: Connection) -> None:
    """Create or replace the view and functions of ``route.sql``; a rerun changes nothing.

    Raises:
        DatabaseError: the database has no pgvector.
    """
    row = conn.execute(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'"
    ).fetchone()
    if row is None:
        raise DatabaseError("The database has no pgvector extension.", hint="As a superuser: CREATE EXTENSION vector;")
    text = resources.files("embedtui.postgres.state").joinpath("route.sql").read_text("utf-8")
    with conn.transaction():
        conn.execute(text.replace("{vector}", sql.Identifier(row[0]).as_string(conn)))


def create_route(conn: Connection, migration: Migration) -> RouteRow:
    """The migration's route: made on the old side, taken over from an ended migration, or left alone where it is."""
    with conn.transaction():
        row = conn.execute(
            "INSERT INTO embedtui.route (name, migration) VALUES (%(name)s, %(migration)s)"
            " ON CONFLICT (name) DO UPDATE SET migration = excluded.migration, epoch = route.epoch + 1, active = 'old',"
            " canary = 0, changed_at = clock_timestamp(), changed_by = '', first_cutover_at = NULL, pending = NULL"
            " WHERE route.migration <> excluded.migration RETURNING name",
            {"name": migration.name, "migration": migration.id},
        ).fetchone()
        if row is not None:
            _notify(conn, migration.name)
    return read_route(conn, migration.name)


def read_route(conn: Connection, name: str) -> RouteRow:
    """The pointer called ``name``.

    Raises:
        Refused: there is none yet.
    """
    row = conn.execute(
        "SELECT name, migration, epoch, active, canary, changed_at, changed_by, first_cutover_at, pending"
        " FROM embedtui.route WHERE name = %s",
        [name],
    ).fetchone()
    if row is None:
        raise Refused(f"There is no route {name!r} yet.", hint="Make it.", remedies=(Remedy.RUN,))
    stored, migration, epoch, active, *rest = row
    return RouteRow(stored, migration, epoch, Side(active), *rest)


def move_route(
    conn: Connection,
    name: str,
    *,
    expect_epoch: int | None,
    active: Side,
    canary: int,
    who: str,
    host: str,
) -> Flip:
    """Move the pointer in one statement and tell all listeners; a pointer that is there already is left alone.

    Args:
        conn: a connection of its own with short time-outs, never one that a backfill uses.
        name: the route.
        expect_epoch: the epoch the decision was made on; None moves it whatever happened meanwhile.
        active: the side that serves.
        canary: percent of keys that read the new side while the old one is active; 100 with the new one active.
        who: operator, for other operators to see.
        host: the operator's host.

    Returns:
        the move, with the milliseconds it took (less the commit, where it is part of the caller's transaction).

    Raises:
        Refused: another operator moved it since ``expect_epoch``, or there is no such route.
    """
    started = time.perf_counter()
    row = conn.execute(
        _MOVE,
        {
            "name": name,
            "active": active.value,
            "canary": canary,
            "by": f"{who}@{host}",
            "expect": expect_epoch,
            "channel": CHANNEL,
        },
    ).fetchone()
    epoch, changed = (row[0], True) if row is not None else (0, False)
    if not changed:
        now = read_route(conn, name)
        if (now.active, now.canary) != (active, canary):
            raise Refused(
                f"{now.changed_by or 'Somebody'} moved route {name!r} meanwhile: it is on the {now.active} side,"
                f" {now.canary} % canary.",
                hint="Look again, then repeat if you still want it.",
            )
        epoch = now.epoch
    return Flip(active, canary, epoch, (time.perf_counter() - started) * 1000, changed)


def touch_route(conn: Connection, name: str) -> None:
    """Tell all listeners to read the route again: call it in the transaction that renames or drops a side."""
    conn.execute("UPDATE embedtui.route SET epoch = epoch + 1, changed_at = clock_timestamp() WHERE name = %s", [name])
    _notify(conn, name)


def set_pending(conn: Connection, name: str, pending: dict[str, Any] | None) -> None:
    """Store or (None) take back a postponed cutover."""
    conn.execute(
        "UPDATE embedtui.route SET pending = %s WHERE name = %s", [None if pending is None else Jsonb(pending), name]
    )


def read_listeners(conn: Connection, name: str) -> tuple[ListenerStatus, ...]:
    """Routers heard from lately, with how long the last flip took to reach those that were there to see it."""
    rows = conn.execute(
        "SELECT l.host, l.pid, l.application, l.epoch, l.searches_old, l.searches_new,"
        " extract(epoch FROM clock_timestamp() - l.heartbeat)::float8,"
        " CASE WHEN l.epoch = r.epoch AND l.started_at < r.changed_at"
        " THEN greatest(0, extract(epoch FROM l.epoch_seen_at - r.changed_at)::float8 * 1000) END"
        " FROM embedtui.listener l JOIN embedtui.route r USING (name)"
        " WHERE name = %s AND l.heartbeat > clock_timestamp() - make_interval(secs => %s)"
        " ORDER BY l.application, l.host, l.pid, l.id",
        [name, LISTENER_ALIVE_SECONDS],
    )
    return tuple(ListenerStatus(*row) for row in rows)


def forget_listeners(conn: Connection) -> None:
    """Remove the rows of Routers that ended without saying so."""
    conn.execute("DELETE FROM embedtui.listener WHERE heartbeat < clock_timestamp() - %s::interval", [_LISTENER_KEPT])


def _notify(conn: Connection, name: str) -> None:
    conn.execute("SELECT pg_notify(%s, json_build_object('name', %s::text)::text)", [CHANNEL, name])
