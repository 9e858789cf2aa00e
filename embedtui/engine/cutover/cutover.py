"""Cutover and rollback: the pointer moved on a connection of its own, audited, with all that must hold before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg import errors, sql

from embedtui.config import CutoverSettings
from embedtui.engine.cutover.strategies import (
    LIMITS,
    cutover_settings,
    rename_blockers,
    rename_sql,
    settings_blockers,
    tell_services,
    unsaid_blockers,
)
from embedtui.engine.overrides import Overrides, audited, pass_blockers
from embedtui.errors import EmbedtuiError, Refused
from embedtui.formatting import counted, duration
from embedtui.model import Blocker, Check, EvaluationStatus, Flip, IndexMethod, Migration, Phase, Remedy, Side
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.connect import Connection, connect, host_name, operator_name, translate
from embedtui.postgres.ddl import run_ddl
from embedtui.postgres.indexes import index_status, is_cold, prewarm
from embedtui.postgres.names import shown, shown_column
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.route import (
    RouteRow,
    follow_pointer,
    forget_listeners,
    held,
    may_move_route,
    move_route,
    read_listeners,
    read_route,
    release_route,
    set_pending,
)
from embedtui.redaction import redact

# A flip waits for nobody: beyond this something is wrong, and the operator is better told.
_STATEMENT_MS = 5_000
_LOCK_MS = 2_000
_PHASE_LOCK = "500ms"
_CHECK_MS = 3_000
"""For the scan that looks for rows without a current vector; where it takes longer, the gate's own count serves."""

LAG_TOLERATED = 60.0
"""Seconds that the oldest change may wait for the sync when the cutover begins."""
LAG_NONE = 2.0
"""Younger changes than this do not hold up a postponed flip: in a busy table the queue is never empty."""
QUEUE_COUNTED = 10_000
ROWS_COUNTED = 10_000
"""Rows without a current vector are counted so far beyond those tolerated, then said as "or more"."""
MISSING_TOLERATED = 0.001
"""Share of the rows that may lack a current vector beside those in the queue, as in the gate."""


# ----------------------------------------------------------------------------------------------------- blockers


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
    if held(conn, migration, "abort"):
        return (Blocker("phase", "The migration is being aborted.", "Complete that.", remedies=(Remedy.ABORT,)),)
    # a phase of cleanup with the old side in charge is that of one taken back
    if migration.phase not in (Phase.VALIDATE, Phase.CUTOVER, Phase.SOAK, Phase.CLEANUP):
        message = f"The migration is in phase {migration.phase}; a cutover needs validate."
        return (Blocker("phase", message, remedies=() if migration.phase.ended else (Remedy.RUN,)),)
    settings = cutover_settings(migration)
    found = [*unsaid_blockers(migration), *settings_blockers(settings, percent), *_gate(gate)]
    found += [*_sync(conn, migration), *_faults(conn, migration)]
    if not any(blocker.name == "sync" for blocker in found):
        found += _coverage(conn, migration)
    if migration.index_method is not IndexMethod.NONE:
        status = index_status(conn, migration)
        if not status.exists:
            message = "The new side has no index: every search would read all of it."
            found.append(Blocker("index", message, "Build it.", True, (Remedy.RUN,)))
        elif not status.valid:
            message = f"Index {status.name} is not valid: searches do not use it."
            found.append(Blocker("index", message, "Build it again.", True, (Remedy.RUN,)))
    found += _not_null(conn, migration)
    if settings.strategy == "rename":
        found += rename_blockers(conn, migration, settings)
    return tuple(found)


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


def _lag(conn: Connection, migration: Migration) -> tuple[int, float]:
    """Changes that wait for the sync (at most QUEUE_COUNTED are counted), and the age of the oldest in seconds."""
    row = conn.execute(
        "SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - at)), 0)::float8 FROM"
        " (SELECT at FROM embedtui.queue WHERE migration = %s ORDER BY id LIMIT %s) q",
        [migration.id, QUEUE_COUNTED],
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _sync(conn: Connection, migration: Migration) -> list[Blocker]:
    waiting, oldest = _lag(conn, migration)
    if waiting < QUEUE_COUNTED and oldest <= LAG_TOLERATED:
        return []
    changes = (
        f"{waiting:,} or more changes wait"
        if waiting >= QUEUE_COUNTED
        else counted(waiting, "change waits", "changes wait")
    )
    return [
        Blocker(
            "sync",
            f"{changes} for the new side, the oldest for {duration(oldest, exact=True)}.",
            "Postpone the cutover until the queue is empty, or keep a worker going.",
            True,
            (Remedy.FOLLOW,),
        )
    ]


def _faults(conn: Connection, migration: Migration) -> list[Blocker]:
    row = conn.execute(
        "SELECT count(*) FROM embedtui.fault WHERE migration = %s AND side = 'new' AND state = 'open'", [migration.id]
    ).fetchone()
    if not row or not row[0]:
        return []
    message = f"{counted(row[0], 'row', 'rows')} could not be embedded: the new side does not find what is in it."
    return [Blocker("faults", message, "Retry, truncate or skip them.", True)]


def _coverage(conn: Connection, migration: Migration) -> list[Blocker]:
    row = conn.execute(
        "SELECT coalesce(total_rows, 0) FROM embedtui.migration WHERE id = %s", [migration.id]
    ).fetchone()
    allowed = int((row[0] if row else 0) * MISSING_TOLERATED)
    waiting, _ = _lag(conn, migration)
    try:
        with conn.transaction():
            conn.execute("SELECT set_config('statement_timeout', %s, true)", [f"{_CHECK_MS}ms"])
            limit = allowed + waiting + ROWS_COUNTED
            behind = {tuple(key) for key in make_placement(migration).sweep(conn, limit)}
            more = len(behind) == limit
            queued = conn.execute("SELECT key FROM embedtui.queue WHERE migration = %s", [migration.id])
            behind -= {tuple(key) for (key,) in queued}
    except errors.QueryCanceled:
        return []
    if len(behind) <= allowed:
        return []
    rows = f"{len(behind):,} rows or more have" if more else counted(len(behind), "row has", "rows have")
    message = f"{rows} no current new vector, and none is on its way."
    return [Blocker("coverage", message, "Queue them, and have them embedded.", True, (Remedy.REPAIR, Remedy.RUN))]


def _not_null(conn: Connection, migration: Migration) -> list[Blocker]:
    column = inspect_oid(conn, migration.table_oid).column(migration.old_column)
    if column is None or not column.not_null:
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
    if migration.old_model.retired:
        found.append(
            Check(
                "old_model",
                "warn",
                f"{migration.old_model.called} no longer answers: rows edited after the cutover age on its side.",
            )
        )
    limit = LIMITS[cutover_settings(migration).strategy]
    if limit:
        found.append(Check("strategy", "warn", limit))
    elif not read_listeners(conn, migration.name):
        found.append(
            Check("listeners", "warn", "No Router has been heard from: nothing seems to follow this route by Router.")
        )
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
    row = conn.execute(
        "SELECT present FROM embedtui.route_side WHERE name = %s AND side = 'old' AND migration = %s",
        [migration.name, migration.id],
    ).fetchone()
    unsaid = unsaid_blockers(migration)
    if unsaid:  # half a rollback, with services that were not told, is worse than one that a line of settings mends
        return unsaid
    if row is None:
        return (Blocker("route", "There is no route yet: the old side serves."),)
    if not row[0]:
        column = f"column {shown_column(migration.old_column)} of {shown(migration.table)}"
        why = f"The old side, {column}, has been dropped by the cleanup."
        return (Blocker("cleaned", why, "Complete the cleanup: `embedtui cleanup`. An archive may hold the vectors."),)
    if migration.phase is Phase.ABORTED:
        return (Blocker("phase", "The migration was aborted: the old side serves."),)
    return ()


# --------------------------------------------------------------------------------------------------------- acts


def cutover(
    dsn: str,
    migration: Migration,
    percent: int = 100,
    *,
    gate: EvaluationStatus | None,
    override: Overrides = MappingProxyType({}),
    who: str | None = None,
    host: str | None = None,
    postponed: str = "",
    stop: threading.Event | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Flip:
    """Move ``percent`` of the keys' reads, or all, to the new side; a repeat is a no-op.

    Args:
        dsn: the primary server.
        migration: which one; its present state is read anew.
        percent: 1..99 is a canary while the old side stays active; 100 moves everything; 0 is a rollback.
        gate: the newest evaluation.
        override: reasons for the blockers to pass, by name; audited.
        who: operator, by default this process's.
        host: by default this host.
        postponed: when it was postponed; it is done only while that stands.
        stop: ends the waiting for a lock (strategy ``rename`` only).
        on_wait: told what is waited for (strategy ``rename`` only).

    Raises:
        Refused: something blocks it, or another operator moved the pointer at the same time.
        HookFailed: the hook failed; the flip has been undone.
        EmbedtuiError: anything else; nothing has been moved.
    """
    if not 0 <= percent <= 100:
        raise Refused(f"{percent} % is not a share of 0 to 100.")
    if percent == 0:
        return rollback(dsn, migration, who=who, host=host, stop=stop, on_wait=on_wait)
    who, host = who or operator_name(), host or host_name()
    side = Side.NEW if percent == 100 else Side.OLD
    try:
        with connect(dsn, name="check") as conn:
            before, migration = _seen(conn, migration)
            if (before.active, before.canary) == (side, percent):
                follow_pointer(conn, migration.id)
                return Flip(side, percent, before.epoch, 0.0, False)
            if before.active is Side.NEW:
                raise Refused("The new side serves every read already.", hint="Roll back first, then set a canary.")
            passed = pass_blockers(cutover_blockers(conn, migration, gate, percent), override)
            forget_listeners(conn)
            if is_cold(conn, migration):
                prewarm(conn, migration)
        act = "cutover" if percent == 100 else "canary"
        detail = f"{percent} % of the keys read the new side{audited(passed)}"
        switch = _Switch(dsn, migration, cutover_settings(migration), who, host, stop, on_wait, postponed)
        flip = switch.move(before, side, percent, act, detail)
        try:
            tell_services(migration, side, switch.settings, act)
        except BaseException as error:
            switch.undo(flip, before, error)
            raise
        return flip
    except psycopg.Error as error:
        raise translate(error, dsn=dsn) from error


def rollback(
    dsn: str,
    migration: Migration,
    *,
    who: str | None = None,
    host: str | None = None,
    stop: threading.Event | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Flip:
    """Move all reads back to the old side, at once and whatever else goes on; a repeat is a no-op.

    Arguments as in :func:`cutover`. No check but that there is an old side.

    Raises:
        Refused: the old side is gone, or another operator moved the pointer at the same time.
        HookFailed: the hook failed; the pointer stays on the old side, but services may not know.
        EmbedtuiError: anything else.
    """
    who, host = who or operator_name(), host or host_name()
    try:
        with _own(dsn) as conn:
            before, migration = _seen(conn, migration)
            for blocker in rollback_blockers(conn, migration):
                raise Refused(blocker.message, hint=blocker.hint)
            settings = cutover_settings(migration)
            switch = _Switch(dsn, migration, settings, who, host, stop, on_wait)
            if before.ending == "cleanup" and settings.strategy == "rename":
                # exchanging names takes a lock that the cleanup waits for, too: it has to give up first
                before = release_route(conn, before, who=who, host=host)
                follow_pointer(conn, migration.id)
            flip = switch.move(before, Side.OLD, 0, "rollback", "all reads are on the old side", conn)
        if flip.changed:
            tell_services(migration, Side.OLD, settings, "rollback")
        return flip
    except psycopg.Error as error:
        raise translate(error, dsn=dsn) from error


def postpone(
    dsn: str,
    migration: Migration,
    percent: int,
    *,
    gate: EvaluationStatus | None,
    override: Overrides = MappingProxyType({}),
) -> None:
    """Cut over by itself once the sync queue is empty; all other blockers have to be released (or passed) now.

    :func:`flip_if_due` is what does it, called by the workers whose role may move the pointer. Any other flip takes it
    back.

    Raises:
        Refused: something else than the queue blocks it, or the new side serves already.
    """
    try:
        with connect(dsn, name="act") as conn:
            before, migration = _seen(conn, migration)
            if before.active is Side.NEW:
                raise Refused("The new side serves every read already.")
            blockers = cutover_blockers(conn, migration, gate, percent)
            passed = pass_blockers([blocker for blocker in blockers if blocker.name != "sync"], override)
            pending: dict[str, Any] = {
                "percent": percent,
                "override": dict(override),
                "who": operator_name(),
                "host": host_name(),
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "why": f"{percent} % when the queue is empty",
            }
            with conn.transaction():
                if not set_pending(conn, migration.name, pending, expect_epoch=before.epoch):
                    raise Refused("The pointer was moved meanwhile.", hint="Look again.")
                add_audit(conn, migration.id, "postpone", pending["why"] + audited(passed))
    except psycopg.Error as error:
        raise translate(error, dsn=dsn) from error


def cancel_postponed(dsn: str, migration: Migration) -> bool:
    """Take a postponed cutover back; False where there is none."""
    try:
        with connect(dsn, name="act") as conn:
            with conn.transaction():
                taken_back = set_pending(conn, migration.name, None)
                if taken_back:
                    add_audit(conn, migration.id, "cancel", "the postponed cutover")
            return taken_back
    except psycopg.Error as error:
        raise translate(error, dsn=dsn) from error


def flip_if_due(dsn: str, migration: Migration, gate: EvaluationStatus | None) -> Flip | None:
    """Carry out a postponed cutover whose queue is empty (no change older than LAG_NONE waits); None where it waits.

    Cheap where nothing is postponed. What blocks it now is written into the postponement, for the screens.
    """
    try:
        with connect(dsn, name="act") as conn:
            follow_pointer(conn, migration.id)  # whoever moved it may have been killed before the phase was set
            pending = read_route(conn, migration.name).pending
            # what a worker's role may not do is left to a worker of an operator's role
            if pending is None or not may_move_route(conn) or _lag(conn, migration)[1] > LAG_NONE:
                return None
        try:
            return cutover(
                dsn,
                migration,
                pending["percent"],
                gate=gate,
                override=pending["override"] or {},
                who=pending["who"],
                host=pending["host"],
                postponed=pending["at"],
            )
        except Refused as refused:
            why = f"{pending['percent']} % waits: {refused.message}"
            with connect(dsn, name="act") as conn:
                if why != pending["why"]:
                    set_pending(conn, migration.name, pending | {"why": why}, instead_of=pending["at"])
            return None
    except psycopg.Error as error:
        raise translate(error, dsn=dsn) from error


# ------------------------------------------------------------------------------------------------------ helpers


def _seen(conn: Connection, migration: Migration) -> tuple[RouteRow, Migration]:
    """The pointer, then the migration as it is now: whatever is read after the pointer, its epoch stands for."""
    before = read_route(conn, migration.name)
    return before, _present(conn, migration)


def _own(dsn: str) -> Connection:
    """A fresh connection for nothing but a flip."""
    return connect(dsn, name="flip", statement_timeout_ms=_STATEMENT_MS, lock_timeout_ms=_LOCK_MS, connect_timeout=5)


def _present(conn: Connection, migration: Migration) -> Migration:
    now = load_migration(conn, migration.name)
    if now is None or now.id != migration.id:
        raise Refused(f"Migration {migration.name} is no longer the present one.", hint="Look again.")
    # how it is switched, and with what models, is for the caller's settings to say: never what has just been read
    return replace(
        now,
        old_model=migration.old_model,
        new_model=migration.new_model,
        settings=now.settings | {"cutover": migration.settings.get("cutover", {})},
        unsaid=migration.unsaid,
    )


class _Switch:
    """One flip by one operator, in the way of the migration's strategy."""

    def __init__(
        self,
        dsn: str,
        migration: Migration,
        settings: CutoverSettings,
        who: str,
        host: str,
        stop: threading.Event | None,
        on_wait: Callable[[str], None] | None,
        postponed: str = "",
    ) -> None:
        self.postponed = postponed
        self.dsn, self.migration, self.settings = dsn, migration, settings
        self.who, self.host, self.stop, self.on_wait = who, host, stop, on_wait

    def move(
        self, before: RouteRow, side: Side, canary: int, act: str, detail: str, conn: Connection | None = None
    ) -> Flip:
        """Move pointer, audit and phase together; the milliseconds are those of the transaction, commit included."""
        if conn is None:
            with _own(self.dsn) as own:
                return self.move(before, side, canary, act, detail, own)
        exchanged = self.settings.strategy == "rename" and before.active is not side
        if exchanged:
            return self._exchange(conn, before, side, act, detail)
        started = time.perf_counter()
        phase_done = True
        with conn.transaction():
            flip = move_route(
                conn,
                self.migration.name,
                expect_epoch=before.epoch,
                active=side,
                canary=canary,
                who=self.who,
                host=self.host,
                postponed=self.postponed,
            )
            if flip.changed:
                conn.execute(self._audit_sql(act, detail))
            phase_done = self._set_phase(conn)
        flip = replace(flip, milliseconds=(time.perf_counter() - started) * 1000)
        if not phase_done:  # a worker held the migration's row; the pointer did not wait for it
            self._set_phase(conn)
        return flip

    def _audit_sql(self, act: str, detail: str) -> sql.Composed:
        return sql.SQL(
            "INSERT INTO embedtui.audit (migration, who, host, act, detail) VALUES ({}, {}, {}, {}, {})"
        ).format(*map(sql.Literal, (self.migration.id, self.who, self.host, act, redact(detail))))

    def _set_phase(self, conn: Connection) -> bool:
        """Bring the phase in line with the pointer; False where the migration's row was locked for too long."""
        try:
            with conn.transaction():
                conn.execute("SELECT set_config('lock_timeout', %s, true)", [_PHASE_LOCK])
                follow_pointer(conn, self.migration.id)
        except errors.LockNotAvailable:
            return False
        return True

    def _exchange(self, conn: Connection, before: RouteRow, side: Side, act: str, detail: str) -> Flip:
        for blocker in rename_blockers(conn, self.migration, self.settings):
            if not blocker.overridable:
                raise Refused(blocker.message, hint=blocker.hint, remedies=blocker.remedies)
        statements = rename_sql(conn, self.migration, side, epoch=before.epoch, changed_by=f"{self.who}@{self.host}")
        started = time.perf_counter()
        try:
            run_ddl(
                conn,
                [*statements, self._audit_sql(act, f"{detail}; column and index names exchanged")],
                stop=self.stop or threading.Event(),
                on_wait=self.on_wait,
                relations=[self.migration.table],
            )
        except errors.ObjectNotInPrerequisiteState:
            now = read_route(conn, self.migration.name)
            raise Refused(f"{now.changed_by or 'Somebody'} moved the route meanwhile.", hint="Look again.") from None
        taken = (time.perf_counter() - started) * 1000
        return Flip(side, 100 if side is Side.NEW else 0, before.epoch + 1, taken, True)

    def undo(self, flip: Flip, before: RouteRow, why: BaseException) -> None:
        """Take a flip back whose hook or file failed."""
        if not flip.changed:
            return
        try:
            with _own(self.dsn) as conn:
                now, migration = _seen(conn, self.migration)
                if now.epoch != flip.epoch:  # another operator was here since: theirs stands
                    return
                _Switch(self.dsn, migration, self.settings, self.who, self.host, self.stop, self.on_wait).move(
                    now,
                    before.active,
                    before.canary,
                    "undo",
                    f"the services were not told: {getattr(why, 'message', type(why).__name__)}",
                    conn,
                )
        except (psycopg.Error, EmbedtuiError) as error:
            raise EmbedtuiError(
                f"{why} The flip could not be undone either: {translate(error).message}",
                hint="Roll back once the database answers.",
            ) from why
