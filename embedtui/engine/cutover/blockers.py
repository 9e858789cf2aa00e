"""Why reads cannot move now, to the new side or back; and what to know before they do."""

from __future__ import annotations

from psycopg import errors

from embedtui.engine.cutover.how import how_check
from embedtui.engine.cutover.search_path import search_path_blockers
from embedtui.engine.cutover.strategies import (
    LIMITS,
    cutover_settings,
    rename_blockers,
    settings_blockers,
    unsaid_blockers,
)
from embedtui.errors import Remedy
from embedtui.formatting import counted, duration
from embedtui.model import (
    Blocker,
    Check,
    Command,
    EvaluationStatus,
    FaultState,
    IndexMethod,
    Migration,
    PlacementKind,
    Side,
)
from embedtui.model.lifecycle import as_stored, old_side_dropped, refusal
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.connect import Connection
from embedtui.postgres.indexes import index_status, is_cold
from embedtui.postgres.names import shown, shown_column
from embedtui.postgres.sides import routed_view
from embedtui.postgres.sides.own_writes import look
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.state.audit import TRY_SECONDS, old_side_refused
from embedtui.postgres.state.faults import count_faulty
from embedtui.postgres.state.listeners import going_by_view
from embedtui.postgres.state.migrations import total_rows
from embedtui.postgres.state.pointer import bridge_in_force, read_status
from embedtui.postgres.state.queue import read_backlog, waiting_keys
from embedtui.postgres.state.route_side import side_present
from embedtui.postgres.state.workers import count_live_workers

_CHECK_MS = 3_000
"""For the scan that looks for rows without a current vector; where it takes longer, the gate's own count serves."""
LAG_TOLERATED = 60.0
"""Seconds that the oldest change may wait for the sync when the cutover begins …"""
LAG_TOLERATED_IDLE = 5.0
"""… and where nobody works the queue off: it is then no matter of seconds any more."""
BACKLOG_REFUSED = 10_000
"""So many waiting changes block the cutover however young they are; they are counted no further."""
ROWS_COUNTED = 10_000
"""Rows without a current vector are counted so far beyond those tolerated, then said as "or more"."""
MISSING_TOLERATED = 0.001
"""Share of the rows that may lack a current vector beside those in the queue, as in the gate."""


def cutover_blockers(
    conn: Connection, migration: Migration, gate: EvaluationStatus | None, percent: int = 100
) -> tuple[Blocker, ...]:
    """Why reads cannot move to the new side now, each with what would release it; empty where they can.

    Args:
        conn: an idle connection in autocommit.
        migration: as stored now.
        gate: the newest evaluation; None where there is none.
        percent: share of keys to move.
    """
    if blocker := refusal(Command.CUTOVER, as_stored(migration, read_status(conn, migration))):
        return (blocker,)
    settings = cutover_settings(migration)
    found = [*unsaid_blockers(migration), *settings_blockers(settings, percent), *_gate(gate)]
    found += [*_sync(conn, migration), *_faults(conn, migration)]
    if not any(blocker.name == "sync" for blocker in found):
        found += _coverage(conn, migration) or ()
    if migration.index_method is not IndexMethod.NONE:
        status = index_status(conn, migration)
        if not status.exists:
            message = "The new side has no index: every search would read all of it."
            found.append(Blocker("index", message, "Build it.", True, (Remedy.RUN,)))
        elif not status.valid:
            message = f"Index {status.name} is not valid: searches do not use it."
            found.append(Blocker("index", message, "Build it again.", True, (Remedy.RUN,)))
    found += [*_not_null(conn, migration), *_old_side(conn, migration)]
    if settings.strategy == "rename":
        found += rename_blockers(conn, migration, settings)
    found += _views(conn, migration)
    if settings.strategy == "search_path":
        found += search_path_blockers(conn, migration, settings)
    return tuple(found)


def _views(conn: Connection, migration: Migration) -> list[Blocker]:
    """Services that go by the routed view, and would fail without it; by a side table they stay on the old side."""
    if migration.placement is not PlacementKind.COLUMN:
        return []
    going = going_by_view(conn, migration.name)
    if not going:
        return []
    there = routed_view.find(conn, migration)
    if there is not None:
        # names that were exchanged are none to compare it by
        if cutover_settings(migration).strategy == "rename" or routed_view.current(conn, migration, there):
            return []
        message = f"The routed view {there}, by which {going} goes, is behind the table's columns or grants."
        return [Blocker("routed_view", message, "Bring it up to date: embedtui view", True)]
    message = f"{going} finds the new side by the routed view, which is not there: every search would fail."
    wrong = routed_view.obstacle(conn, migration)
    hint = f"{wrong[0]} {wrong[1]} Or end what goes by it." if wrong else "Make it: embedtui view"
    return [Blocker("routed_view", message, hint)]


def _gate(gate: EvaluationStatus | None) -> list[Blocker]:
    if gate is None:
        message = "No comparison has been recorded."
    elif not gate.valid:
        message = f"The evaluation is void: {gate.why_void}"
    elif gate.verdict != "PASS":
        message = f"The gate says {gate.verdict}."
    else:
        return []
    return [Blocker("gate", message, "Give a reason to override, or compare.", True, (Remedy.COMPARE,))]


def _sync(conn: Connection, migration: Migration) -> list[Blocker]:
    waiting, oldest = read_backlog(conn, migration.id, BACKLOG_REFUSED)
    idle, tolerated = "", LAG_TOLERATED_IDLE
    if migration.desired == "pause":
        idle = ", and the work is paused"
    elif waiting and not count_live_workers(conn, migration.id):
        idle = ", and no worker is at work"
    else:
        tolerated = LAG_TOLERATED
    if waiting < BACKLOG_REFUSED and (oldest or 0.0) <= tolerated:
        return []
    changes = (
        f"{waiting:,} or more changes wait"
        if waiting >= BACKLOG_REFUSED
        else counted(waiting, "change waits", "changes wait")
    )
    return [
        Blocker(
            "sync",
            f"{changes} for the new side, the oldest for {duration(oldest, exact=True)}{idle}.",
            "Postpone the cutover until the queue is empty, or keep a worker going.",
            True,
            (Remedy.FOLLOW,),
        )
    ]


def _faults(conn: Connection, migration: Migration) -> list[Blocker]:
    faulty = count_faulty(conn, migration.id, (FaultState.OPEN,))
    if not faulty:
        return []
    message = f"{counted(faulty, 'row', 'rows')} could not be embedded: the new side does not find what is in it."
    return [Blocker("faults", message, "Retry, shorten or skip them.", True)]


def _coverage(conn: Connection, migration: Migration) -> list[Blocker] | None:
    """Rows that no search of the new side would find; None where looking takes too long."""
    allowed = int(total_rows(conn, migration.id) * MISSING_TOLERATED)
    waiting, _ = read_backlog(conn, migration.id, BACKLOG_REFUSED)
    try:
        with conn.transaction():
            conn.execute("SELECT set_config('statement_timeout', %s, true)", [f"{_CHECK_MS}ms"])
            limit = allowed + waiting + ROWS_COUNTED
            behind = {tuple(key) for key in make_placement(migration).sweep(conn, limit)}
            more = len(behind) == limit
            behind -= waiting_keys(conn, migration.id)
    except errors.QueryCanceled:
        return None
    if len(behind) <= allowed:
        return []
    rows = f"{len(behind):,} rows or more have" if more else counted(len(behind), "row has", "rows have")
    message = f"{rows} no current new vector, and none is on its way."
    return [Blocker("coverage", message, "Queue them, and have them embedded.", True, (Remedy.REPAIR, Remedy.RUN))]


def _old_side(conn: Connection, migration: Migration) -> list[Blocker]:
    """What a worker has found out by trying it, or met."""
    why = old_side_refused(conn, migration.id)
    if not why:
        return []
    message = f"The database refuses to write old vectors: rows edited after the cutover would age there. {why}"
    hint = f"Mend that; a worker tries it again within {TRY_SECONDS:g} s. Or override it, and go without."
    return [Blocker("old_side", message, hint, True)]


def _not_null(conn: Connection, migration: Migration) -> list[Blocker]:
    column = inspect_oid(conn, migration.table_oid).column(migration.old_column)
    if column is None or not column.not_null or column.has_default:
        return []
    column_name = shown_column(migration.old_column)
    return [
        Blocker(
            "not_null",
            f"{column_name} is NOT NULL: an INSERT that brings the new vector alone would fail.",
            f"ALTER TABLE {shown(migration.table)} ALTER COLUMN {column_name} DROP NOT NULL; or override it where the"
            " application writes both or neither.",
            True,
        )
    ]


def cutover_notices(conn: Connection, migration: Migration) -> tuple[Check, ...]:
    """What an operator should know before the cutover, though it blocks nothing."""
    found = []
    if migration.old_model.unasked:
        bridged = bridge_in_force(conn, migration.id) is not None
        later = "get old vectors by the bridge" if bridged else "age on its side"
        message = f"{migration.old_model.called} {migration.old_model.unasked}: rows edited after the cutover {later}."
        found.append(Check("old_model", "warn", message))
    elif trigger := look(conn, migration).reaching_out:
        message = (
            f"Not known whether old vectors can be kept current after the cutover: that fires trigger"
            f" {shown_column(trigger)}, which may reach out of this database, and was not tried."
        )
        found.append(Check("old_side", "unknown", message, "Where it fails, the old side ages, and that is said."))
    if _coverage(conn, migration) is None:
        found.append(
            Check(
                "coverage",
                "unknown",
                f"Not known how many rows have no current new vector: the look takes over {_CHECK_MS / 1000:g} s.",
                "The gate counted them at its evaluation; a scan of every row counts them now.",
                (Remedy.VERIFY,),
            )
        )
    limit = LIMITS[cutover_settings(migration).strategy]
    if limit:
        found.append(Check("strategy", "warn", limit))
    found.append(how_check(conn, migration))
    if is_cold(conn, migration):
        found.append(
            Check(
                "index_warmth",
                "warn",
                "The new index has hardly been searched: the first searches would read it from disk.",
                "The cutover searches it a few times first, a comparison more often.",
                (Remedy.COMPARE,),
            )
        )
    return tuple(found)


def rollback_blockers(conn: Connection, migration: Migration) -> tuple[Blocker, ...]:
    """Why reads cannot move back to the old side; empty where they can."""
    present = side_present(conn, migration, Side.OLD)
    unsaid = unsaid_blockers(migration)
    if unsaid:  # half a rollback, with services that were not told, is worse than one that a line of settings mends
        return unsaid
    if present is None:
        return (Blocker("route", "There is no route yet: the old side serves."),)
    if not present:
        return (old_side_dropped(as_stored(migration)),)
    blocker = refusal(Command.ROLLBACK, as_stored(migration))
    return (blocker,) if blocker else ()
