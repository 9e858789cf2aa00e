"""The pointer: one row a route name, moved by compare-and-set on its epoch and told to every listener.

What an application role needs to route and search (nothing on the tables behind) is in ``privileges.RIGHTS``. The
functions run with the caller's rights, so the role also needs SELECT on the searched table and, where there is one, on
the side table (and INSERT and UPDATE there to write vectors with ``put``).
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
from embedtui.model import Flip, Migration, Remedy, RouteStatus, Side
from embedtui.model.bridge import from_data
from embedtui.postgres.catalog.vectors import SEARCH_TYPE
from embedtui.postgres.connect import Connection, host_name, operator_name

CHANNEL = "embedtui_route"
"""NOTIFY channel. The payload is a JSON object: ``name``, and where nothing but the pointer moved also ``migration``,
``epoch``, ``active`` and ``canary``, so that a listener who knows the epoch before can follow without a query."""

CANCELLED = "55000"
"""SQLSTATE (object_not_in_prerequisite_state) of a transaction whose part in the pointer is not as it has to be."""

ENDS_ON = {"cleanup": (Side.NEW, 100), "abort": (Side.OLD, 0)}
"""What ends a migration takes one side away: the pointer has to be wholly on the other."""

_MOVE = """
UPDATE embedtui.route r
SET epoch = epoch + 1, active = {active}, canary = {canary}, changed_at = clock_timestamp(), changed_by = {by},
    pending = NULL, ending = NULL,
    first_cutover_at = CASE WHEN {active} = 'new' THEN coalesce(first_cutover_at, clock_timestamp())
                            ELSE first_cutover_at END
WHERE name = {name} AND ({expect}::bigint IS NULL OR epoch = {expect}::bigint)
  AND (active, canary) IS DISTINCT FROM ({active}, {canary})
  AND ({postponed}::text IS NULL OR pending ->> 'at' = {postponed}::text)
  -- a rollback takes back a cleanup that has dropped nothing; else nothing moves while a side is being taken away
  AND (ending IS NULL OR (ending, {active}, {canary}) = ('cleanup', 'old', 0))
  -- nor, ever, to a side that is gone
  AND NOT EXISTS (SELECT FROM embedtui.route_side s WHERE s.name = r.name AND NOT s.present
                  AND (s.side = {active} OR s.side = 'new' AND {canary} > 0))"""

_OR_FAIL = """BEGIN {statement};
IF NOT FOUND{unless} THEN RAISE EXCEPTION {why} USING ERRCODE = {state}; END IF; END"""


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
    ending: str | None = None
    """``cleanup`` or ``abort``, from its first step until its drop."""


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
        text = text.replace("{search_type}", SEARCH_TYPE)
        conn.execute(text.replace("{vector}", sql.Identifier(row[0]).as_string(conn)))


def create_route(conn: Connection, migration: Migration) -> RouteRow:
    """The migration's route: made on the old side, taken over from an ended migration, or left alone where it is."""
    with conn.transaction():
        row = conn.execute(
            "INSERT INTO embedtui.route (name, migration) VALUES (%(name)s, %(migration)s)"
            " ON CONFLICT (name) DO UPDATE SET migration = excluded.migration, epoch = route.epoch + 1, active = 'old',"
            " canary = 0, changed_at = clock_timestamp(), changed_by = '', first_cutover_at = NULL, pending = NULL,"
            " ending = NULL, bridge = NULL, bridging = false"
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
        "SELECT name, migration, epoch, active, canary, changed_at, changed_by, first_cutover_at, pending, ending"
        " FROM embedtui.route WHERE name = %s",
        [name],
    ).fetchone()
    if row is None:
        raise Refused(f"There is no route {name!r} yet.", hint="Make it.", remedies=(Remedy.RUN,))
    stored, migration, epoch, active, *rest = row
    return RouteRow(stored, migration, epoch, Side(active), *rest)


def read_status(conn: Connection, migration: Migration) -> RouteStatus:
    """The migration's pointer as screens show it, without listeners; on the old side where there is none yet."""
    row = conn.execute(
        "SELECT active, canary, epoch, changed_at, changed_by, pending, ending, bridging, bridge,"
        " (SELECT figures FROM embedtui.bridge b WHERE b.id = bridge) FROM embedtui.route WHERE migration = %s",
        [migration.id],
    ).fetchone()
    if row is None:
        return RouteStatus()
    active, canary, epoch, changed_at, changed_by, pending, ending, bridging, bridge, found = row
    waits = str(pending.get("why") or pending.get("when") or pending) if pending else ""
    return RouteStatus(
        Side(active),
        canary,
        epoch,
        changed_at,
        changed_by,
        pending=waits,
        ending=ending,
        bridging=bridging,
        bridge=bridge,
        bridge_found=None if found is None else from_data(found),
    )


def seconds_on_side(conn: Connection, migration: Migration) -> int:
    """How long the pointer has been where it is, by the server's clock."""
    row = conn.execute(
        "SELECT extract(epoch FROM clock_timestamp() - changed_at)::int8 FROM embedtui.route WHERE migration = %s",
        [migration.id],
    ).fetchone()
    return int(row[0]) if row else 0


def reads_ever_moved(conn: Connection, migration_id: int) -> bool:
    """Whether reads are on the new side or once were, if only a share of them; a rollback leaves that so."""
    row = conn.execute(
        "SELECT active = 'new' OR changed_by <> '' FROM embedtui.route WHERE migration = %s", [migration_id]
    ).fetchone()
    return bool(row and row[0])


def bridge_in_force(conn: Connection, migration_id: int) -> int | None:
    """Version of the map by which the old side serves, or would after a rollback; None where it is off."""
    row = conn.execute("SELECT bridge FROM embedtui.route WHERE migration = %s AND bridging", [migration_id]).fetchone()
    return row[0] if row else None


def route_epoch(conn: Connection, migration: Migration) -> int | None:
    """The pointer's epoch; None where there is no route yet."""
    row = conn.execute(
        "SELECT epoch FROM embedtui.route WHERE name = %s AND migration = %s", (migration.name, migration.id)
    ).fetchone()
    return int(row[0]) if row else None


def move_route(
    conn: Connection,
    name: str,
    *,
    expect_epoch: int | None,
    active: Side,
    canary: int,
    who: str,
    host: str,
    postponed: str = "",
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
        postponed: when the move was postponed; it is made only while that stands.

    Returns:
        the move, with the milliseconds it took (less the commit, where it is part of the caller's transaction).

    Raises:
        Refused: another operator moved it since ``expect_epoch``, the side is gone or about to go, or there is no such
            route.
    """
    started = time.perf_counter()
    move = _move(name, expect_epoch, active, canary, f"{who}@{host}", postponed)
    row = conn.execute(
        sql.SQL(
            "WITH moved AS ({} RETURNING name, migration, epoch, active, canary)"
            " SELECT epoch, pg_notify({}, to_json(moved)::text) FROM moved"
        ).format(move, sql.Literal(CHANNEL))
    ).fetchone()
    epoch, changed = (row[0], True) if row is not None else (0, False)
    if not changed:
        now = read_route(conn, name)
        if (now.active, now.canary) != (active, canary):
            raise _refusal(now, expect_epoch)
        epoch = now.epoch
    return Flip(active, canary, epoch, (time.perf_counter() - started) * 1000, changed)


def _move(name: str, expect: int | None, active: Side, canary: int, by: str, postponed: str = "") -> sql.Composed:
    values = {"name": name, "expect": expect, "active": active.value, "canary": canary, "by": by}
    literals = {key: sql.Literal(value) for key, value in values.items()}
    return sql.SQL(_MOVE).format(**literals, postponed=sql.Literal(postponed or None))


def require_unmoved(conn: Connection, name: str, epoch: int | None, seen: int | None) -> None:
    """Raises Refused: the pointer's ``epoch`` is another than the one an operator had seen (None: whichever)."""
    if seen is not None and epoch != seen:
        raise _refusal(read_route(conn, name), seen)


def _refusal(now: RouteRow, expected: int | None) -> Refused:
    if now.epoch != expected and expected is not None:
        where = f"it is on the {now.active} side, {now.canary} % canary."
        moved = f"{now.changed_by or 'Somebody'} moved route {now.name!r} meanwhile: {where}"
        return Refused(moved, hint="Look again, then repeat if you still want it.")
    if now.ending == "abort":
        return Refused("The migration is being aborted.", hint="Complete that: `embedtui abort`.")
    if now.ending == "cleanup":
        return Refused("The old side is being cleaned up.", hint="Take that back first: `embedtui rollback`.")
    return Refused("What was postponed was taken back, or the side is gone.", hint="Look again.")


def move_in_ddl(name: str, *, expect_epoch: int, active: Side, by: str) -> tuple[sql.Composed, ...]:
    """As :func:`move_route`, wholly to one side, for the transaction that also changes names: listeners read anew.

    The transaction fails with SQLSTATE ``CANCELLED`` where the pointer does not move.
    """
    move = _move(name, expect_epoch, active, 100 if active is Side.NEW else 0, by)
    return or_fail(move, "the route was moved meanwhile"), _notify_sql(name)


def hold_route(conn: Connection, migration: Migration, ending: str, *, expect_epoch: int | None) -> None:
    """Begin to end the migration: from here on the pointer does not move to the side that ``ending`` takes away.

    A rollback takes a held ``cleanup`` back, see :func:`move_route`. Part of the caller's transaction.

    Args:
        conn: in a transaction.
        migration: whose route.
        ending: ``cleanup`` (takes the old side) or ``abort`` (takes the new one).
        expect_epoch: the epoch it was decided on; None where there was no route.

    Raises:
        Refused: the pointer has moved, or is not wholly on the other side.
    """
    active, canary = ENDS_ON[ending]
    held = conn.execute(
        "UPDATE embedtui.route SET ending = %(ending)s, pending = NULL WHERE name = %(name)s AND migration = %(m)s"
        " AND epoch = %(expect)s AND (active, canary) = (%(active)s, %(canary)s)"
        " AND coalesce(ending, %(ending)s) = %(ending)s AND NOT (bridging AND active = 'old')",
        {
            "ending": ending,
            "name": migration.name,
            "m": migration.id,
            "expect": expect_epoch,
            "active": active.value,
            "canary": canary,
        },
    )
    if not held.rowcount and expect_epoch is not None:
        raise _refusal(read_route(conn, migration.name), expect_epoch)


def release_route(conn: Connection, before: RouteRow, *, who: str, host: str) -> RouteRow:
    """Take a held cleanup back without moving the pointer; the route as it is then.

    Raises:
        Refused: the pointer has moved, or the side is gone already.
    """
    row = conn.execute(
        "UPDATE embedtui.route SET ending = NULL, epoch = epoch + 1, changed_by = %s"
        " WHERE name = %s AND epoch = %s AND ending = 'cleanup' RETURNING epoch",
        [f"{who}@{host}", before.name, before.epoch],
    ).fetchone()
    if row is None:
        raise _refusal(read_route(conn, before.name), before.epoch)
    _notify(conn, before.name)
    return read_route(conn, before.name)


def held(conn: Connection, migration: Migration, ending: str) -> bool:
    """Whether ``ending`` has begun and was not taken back; False where there is no route."""
    row = conn.execute(
        "SELECT ending IS NOT DISTINCT FROM %s FROM embedtui.route WHERE name = %s AND migration = %s",
        [ending, migration.name, migration.id],
    ).fetchone()
    return row is not None and bool(row[0])


def end_in_ddl(migration: Migration, ending: str, *, goes_on: bool = False) -> tuple[sql.Composed, ...]:
    """The last word of the transaction that takes a side away: it fails unless all reads are on the other side.

    It fails with SQLSTATE ``CANCELLED``. Put it after all that waits for locks: it locks the pointer's row, and a
    rollback must never wait for more than the commit. ``goes_on``: of one before that, which only changes what a side
    is called.
    """
    active, canary = ENDS_ON[ending]
    ended = ", changed_at = clock_timestamp(), pending = NULL, ending = NULL, bridging = false"
    update = sql.SQL(
        "UPDATE embedtui.route SET epoch = epoch + 1{ended}"
        " WHERE name = {name} AND migration = {migration} AND (ending, active, canary) = ({ending}, {active}, {canary})"
    ).format(
        ended=sql.SQL("" if goes_on else ended),
        name=sql.Literal(migration.name),
        migration=sql.Literal(migration.id),
        ending=sql.Literal(ending),
        active=sql.Literal(active.value),
        canary=sql.Literal(canary),
    )
    # an abort may come before there is a route
    no_route = sql.SQL(" AND ({} OR EXISTS (SELECT FROM embedtui.route WHERE name = {} AND migration = {}))").format(
        sql.Literal(ending == "cleanup"), sql.Literal(migration.name), sql.Literal(migration.id)
    )
    return or_fail(update, f"the {ending} was taken back", no_route), _notify_sql(migration.name)


def or_fail(statement: sql.Composed, why: str, unless: sql.Composable | None = None) -> sql.Composed:
    """Fails the transaction with SQLSTATE ``CANCELLED`` where the statement finds nothing."""
    body = sql.SQL(_OR_FAIL).format(
        statement=statement, unless=unless or sql.SQL(""), why=sql.Literal(why), state=sql.Literal(CANCELLED)
    )
    return sql.SQL("DO {}").format(sql.Literal(body.as_string(None)))


def follow_pointer(conn: Connection, migration_id: int) -> bool:
    """Bring a migration's phase in line with its pointer, as far as it is past the index; whether that changed it."""
    return bool(conn.execute(follow_pointer_sql(migration_id)).rowcount)


def follow_pointer_sql(migration_id: int) -> sql.Composed:
    """As :func:`follow_pointer`, one statement, for the transaction that moves the pointer; audited."""
    return sql.SQL(
        "WITH moved AS (UPDATE embedtui.migration m SET phase = w.phase, phase_at = now() FROM (SELECT migration, CASE"
        " WHEN ending = 'cleanup' THEN 'cleanup' WHEN active = 'new' THEN 'soak' WHEN canary > 0 THEN 'cutover'"
        " ELSE 'validate' END AS phase FROM embedtui.route) w"
        " WHERE m.id = {} AND w.migration = m.id AND m.phase <> w.phase"
        " AND m.phase IN ('validate', 'cutover', 'soak', 'cleanup') RETURNING m.id, m.phase)"
        " INSERT INTO embedtui.audit (migration, who, host, act, detail) SELECT id, {}, {}, 'phase', phase FROM moved"
    ).format(*map(sql.Literal, (migration_id, operator_name(), host_name())))


def may_move_route(conn: Connection) -> bool:
    """Whether this role may move the pointer: an operator's, never a worker's."""
    row = conn.execute("SELECT has_column_privilege('embedtui.route', 'active', 'UPDATE')").fetchone()
    return bool(row and row[0])


def touch_in_ddl(migration: Migration) -> tuple[sql.Composed, ...]:
    """Tell all listeners to read the route again: for a transaction that renames what a side is called.

    The time of the last flip stays.
    """
    told = sql.SQL("UPDATE embedtui.route SET epoch = epoch + 1 WHERE migration = {}").format(sql.Literal(migration.id))
    return told, _notify_sql(migration.name)


def set_pending(
    conn: Connection,
    name: str,
    pending: dict[str, Any] | None,
    *,
    instead_of: str = "",
    expect_epoch: int | None = None,
) -> bool:
    """Store or (None) take back a postponed cutover; False where there was nothing to take back, or no room for it.

    ``instead_of``: only while the one postponed at that time stands. ``expect_epoch``: as in :func:`move_route`.
    """
    return bool(
        conn.execute(
            "UPDATE embedtui.route SET pending = %(new)s WHERE name = %(name)s"
            " AND (%(at)s = '' OR pending ->> 'at' = %(at)s) AND (%(expect)s::bigint IS NULL OR epoch = %(expect)s)"
            " AND CASE WHEN %(new)s::jsonb IS NULL THEN pending IS NOT NULL"
            " ELSE active = 'old' AND ending IS NULL END",
            {
                "new": None if pending is None else Jsonb(pending),
                "name": name,
                "at": instead_of,
                "expect": expect_epoch,
            },
        ).rowcount
    )


def _notify(conn: Connection, name: str) -> None:
    conn.execute(_notify_sql(name))


def _notify_sql(name: str) -> sql.Composed:
    return sql.SQL("SELECT pg_notify({}, json_build_object('name', {}::text)::text)").format(
        sql.Literal(CHANNEL), sql.Literal(name)
    )
