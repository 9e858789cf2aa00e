"""Cutover and rollback: the pointer moved on a connection of its own, audited, with all that must hold before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg import errors, sql

from embedtui.config import CutoverSettings
from embedtui.engine.cutover.blockers import BACKLOG_REFUSED, cutover_blockers, rollback_blockers
from embedtui.engine.cutover.search_path import left_on, move_roles
from embedtui.engine.cutover.strategies import cutover_settings, rename_blockers, rename_sql, tell_services
from embedtui.engine.overrides import Overrides, audited, helped_now, pass_blockers, refuse
from embedtui.errors import EmbedtuiError, Refused
from embedtui.model import Blocker, EvaluationStatus, Flip, Migration, Side
from embedtui.postgres.connect import Connection, connect, host_name, operator_name, translate
from embedtui.postgres.ddl import run_ddl
from embedtui.postgres.indexes import is_cold, prewarm
from embedtui.postgres.sides import routed_view
from embedtui.postgres.state.audit import add_audit, audit_sql
from embedtui.postgres.state.listeners import forget_listeners
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.pointer import (
    RouteRow,
    follow_pointer,
    may_move_route,
    move_route,
    read_route,
    release_route,
    require_unmoved,
    set_pending,
)
from embedtui.postgres.state.queue import read_backlog

# A flip waits for nobody: beyond this something is wrong, and the operator is better told.
_STATEMENT_MS = 5_000
_LOCK_MS = 2_000
_PHASE_LOCK = "500ms"

LAG_NONE = 2.0
"""Younger changes than this do not hold up a postponed flip: in a busy table the queue is never empty."""


@dataclass(frozen=True)
class Caller:
    """Who asks for a move of the pointer, and what he hears while strategy ``rename`` waits for a lock."""

    who: str = field(default_factory=operator_name)
    host: str = field(default_factory=host_name)
    stop: threading.Event | None = None
    """Ends the waiting."""
    on_wait: Callable[[str], None] | None = None
    """Told what is waited for."""


def cutover(
    dsn: str,
    migration: Migration,
    percent: int = 100,
    *,
    gate: EvaluationStatus | None,
    override: Overrides = MappingProxyType({}),
    seen: int | None = None,
    postponed: str = "",
    caller: Caller | None = None,
) -> Flip:
    """Move ``percent`` of the keys' reads, or all, to the new side; a repeat is a no-op.

    Args:
        dsn: the primary server.
        migration: which one; its present state is read anew.
        percent: 1..99 is a canary while the old side stays active; 100 moves everything; 0 is a rollback.
        gate: the newest evaluation.
        override: reasons for the blockers to pass, by name; audited.
        seen: the epoch on which the operator decided; None: whatever it is now.
        postponed: when it was postponed; it is done only while that stands.
        caller: who asks, by default this process's operator.

    Raises:
        Refused: something blocks it, or another operator moved the pointer at the same time.
        HookFailed: the hook failed; the flip has been undone.
        EmbedtuiError: anything else; nothing has been moved.
    """
    if not 0 <= percent <= 100:
        raise Refused(f"{percent} % is not a share of 0 to 100.")
    if percent == 0:
        return rollback(dsn, migration, caller=caller)
    side = Side.NEW if percent == 100 else Side.OLD
    try:
        with connect(dsn, name="check") as conn:
            before, migration = _seen(conn, migration)
            if (before.active, before.canary) == (side, percent):
                follow_pointer(conn, migration.id)
                return Flip(side, percent, before.epoch, 0.0, False)
            require_unmoved(conn, migration.name, before.epoch, seen)
            if before.active is Side.NEW:
                raise Refused("The new side serves every read already.", hint="Roll back first, then set a canary.")
            viewed = routed_view.find(conn, migration) is not None
            passed = _passed(conn, migration, cutover_blockers(conn, migration, gate, percent), override)
            forget_listeners(conn)
            if is_cold(conn, migration):
                prewarm(conn, migration)
        act = "cutover" if percent == 100 else "canary"
        detail = f"{percent} % of the keys read the new side{audited(passed)}"
        switch = _Switch(dsn, migration, cutover_settings(migration), caller or Caller(), postponed, viewed)
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
    caller: Caller | None = None,
) -> Flip:
    """Move all reads back to the old side, at once and whatever else goes on; a repeat is a no-op.

    Arguments as in :func:`cutover`. No check but that there is an old side.

    Raises:
        Refused: the old side is gone, or another operator moved the pointer at the same time.
        HookFailed: the hook failed; the pointer stays on the old side, but services may not know.
        EmbedtuiError: anything else.
    """
    try:
        with _own(dsn) as conn:
            before, migration = _seen(conn, migration)
            for blocker in rollback_blockers(conn, migration):
                refuse(blocker)
            settings = cutover_settings(migration)
            switch = _Switch(dsn, migration, settings, caller or Caller())
            if before.ending == "cleanup" and settings.strategy == "rename":
                # exchanging names takes a lock that the cleanup waits for, too: it has to give up first
                before = release_route(conn, before, who=switch.caller.who, host=switch.caller.host)
                follow_pointer(conn, migration.id)
            flip = switch.move(before, Side.OLD, 0, "rollback", "all reads are on the old side", conn)
        if flip.changed:
            tell_services(migration, Side.OLD, settings, "rollback")
        return flip
    except psycopg.Error as error:
        raise translate(error, dsn=dsn) from error


def _passed(conn: Connection, migration: Migration, blockers: Sequence[Blocker], override: Overrides) -> dict[str, str]:
    return pass_blockers(helped_now(conn, migration, blockers), override)


def postpone(
    dsn: str,
    migration: Migration,
    percent: int,
    *,
    gate: EvaluationStatus | None,
    override: Overrides = MappingProxyType({}),
    seen: int | None = None,
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
            require_unmoved(conn, migration.name, before.epoch, seen)
            if before.active is Side.NEW:
                raise Refused("The new side serves every read already.")
            blockers = cutover_blockers(conn, migration, gate, percent)
            passed = _passed(conn, migration, [each for each in blockers if each.name != "sync"], override)
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
            if pending is None or not may_move_route(conn):
                return None
            _, oldest = read_backlog(conn, migration.id, BACKLOG_REFUSED)
            if (oldest or 0.0) > LAG_NONE:
                return None
        try:
            return cutover(
                dsn,
                migration,
                pending["percent"],
                gate=gate,
                override=pending["override"] or {},
                postponed=pending["at"],
                caller=Caller(pending["who"], pending["host"]),
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


@dataclass(frozen=True)
class _Switch:
    """One flip by one operator, in the way of the migration's strategy."""

    dsn: str
    migration: Migration
    settings: CutoverSettings
    caller: Caller
    postponed: str = ""
    viewed: bool = False
    """There was a routed view as the move was decided."""

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
                who=self.caller.who,
                host=self.caller.host,
                postponed=self.postponed,
            )
            if flip.changed:
                # the pointer's row is held by now, which its drop waits for
                if self.viewed and routed_view.find(conn, self.migration) is None:
                    raise Refused("The routed view was dropped meanwhile.", hint="Look again: embedtui view")
                if self.settings.strategy == "search_path":
                    moved = move_roles(conn, self.migration, self.settings, side)
                    detail += f"; {moved}" if moved else ""
                conn.execute(self._audit_sql(act, detail))
            phase_done = self._set_phase(conn)
        flip = replace(flip, milliseconds=(time.perf_counter() - started) * 1000)
        if not phase_done:  # a worker held the migration's row; the pointer did not wait for it
            self._set_phase(conn)
        return replace(flip, left=self._left(conn, side)) if flip.changed else flip

    def _left(self, conn: Connection, side: Side) -> str:
        try:
            return left_on(conn, self.migration, self.settings, side)
        except psycopg.Error:  # what is moved is moved
            return ""

    def _audit_sql(self, act: str, detail: str) -> sql.Composed:
        return audit_sql(self.migration.id, act, detail, who=self.caller.who, host=self.caller.host)

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
                refuse(blocker)
        statements = rename_sql(
            conn, self.migration, side, epoch=before.epoch, changed_by=f"{self.caller.who}@{self.caller.host}"
        )
        started = time.perf_counter()
        try:
            run_ddl(
                conn,
                [*statements, self._audit_sql(act, f"{detail}; column and index names exchanged")],
                migration=self.migration.id,
                stop=self.caller.stop or threading.Event(),
                on_wait=self.caller.on_wait,
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
                replace(self, migration=migration, postponed="", viewed=False).move(
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
