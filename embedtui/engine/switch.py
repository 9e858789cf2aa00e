"""The acts that move the pointer, and the index they need, with what they say while they wait."""

from __future__ import annotations

import threading
from types import MappingProxyType

import psycopg

from embedtui.engine.access import Access
from embedtui.engine.backfill.job import now
from embedtui.engine.cutover import cutover as cutovers
from embedtui.engine.overrides import Overrides, refuse
from embedtui.engine.plan.statements import index_options
from embedtui.engine.validate.evaluation import current_evaluation
from embedtui.errors import DatabaseError
from embedtui.model import Command, Flip, IndexStatus, Noted, RouteFlipped
from embedtui.model.lifecycle import as_stored, refusal
from embedtui.postgres import indexes
from embedtui.postgres.connect import connect, translate
from embedtui.postgres.state.migrations import load_migration, set_index_held


def cutover(
    at: Access,
    percent: int = 100,
    *,
    override: Overrides = MappingProxyType({}),
    seen: int | None = None,
    stop: threading.Event | None = None,
) -> Flip:
    """Move ``percent`` of the keys' reads, or all, to the new side; see :meth:`embedtui.engine.Engine.cutover`.

    Raises:
        Refused: something blocks it that ``override`` does not pass (reasons by blocker), or another was first.
    """
    migration = at.under_way()
    at.say_differences()
    gate = at.read(lambda conn: current_evaluation(conn, migration))
    caller = _caller(at, stop)
    flip = cutovers.cutover(at.dsn, migration, percent, gate=gate, override=override, seen=seen, caller=caller)
    return _flipped(at, flip)


def rollback(at: Access, *, stop: threading.Event | None = None) -> Flip:
    """Move all reads back to the old side, at once, on a connection of its own; a repeat is a no-op."""
    try:
        with connect(at.dsn, name="rollback") as conn:
            migration = load_migration(conn, at.name)
    except (psycopg.Error, DatabaseError) as raised:
        error = translate(raised, dsn=at.dsn)
        said = f"Nothing was moved: {error.message}"
        raise type(error)(said, hint=error.prose, remedies=error.remedies) from raised
    refuse(refusal(Command.ROLLBACK, as_stored(migration)))
    assert migration is not None
    here = at.here(migration)
    return _flipped(at, cutovers.rollback(at.dsn, here, caller=_caller(at, stop)))


def postpone(
    at: Access, percent: int = 100, *, override: Overrides = MappingProxyType({}), seen: int | None = None
) -> None:
    """Cut over by itself once the sync queue is empty; a worker has to be running."""
    migration = at.under_way()
    at.say_differences()
    gate = at.read(lambda conn: current_evaluation(conn, migration))
    cutovers.postpone(at.dsn, migration, percent, gate=gate, override=override, seen=seen)


def _caller(at: Access, stop: threading.Event | None) -> cutovers.Caller:
    return cutovers.Caller(stop=stop, on_wait=at.say_waiting)


def _flipped(at: Access, flip: Flip) -> Flip:
    text = f"The {flip.active} side serves" + (f", {flip.canary} % canary" if flip.canary not in (0, 100) else "")
    if flip.changed:
        at.emit(RouteFlipped(now(), text, flip.active, flip.canary, flip.epoch, flip.milliseconds))
        if flip.left:
            at.emit(Noted(now(), flip.left))
    return flip


def hold_index(at: Access, held: bool = True) -> None:
    """Keep the workers from building the index, and take back a build under way; or let them."""
    migration = at.allowed(Command.HOLD_INDEX) if held else at.under_way()
    if held != migration.index_held:
        at.write(lambda conn: set_index_held(conn, migration.id, held))


def build_index(at: Access, stop: threading.Event | None = None) -> IndexStatus:
    """Build the new side's index now, whatever the phase, and also where it was held; blocks until it is valid.

    Raises:
        Interrupted: ``stop`` was set; the build is cancelled.
    """
    migration = at.allowed(Command.INDEX)
    hold_index(at, False)
    try:
        indexes.build(
            lambda: connect(at.dsn, name="index", statement_timeout_ms=0, lock_timeout_ms=0),
            migration,
            index_options(migration),
            stop or threading.Event(),
            None,
        )
    except psycopg.Error as error:
        raise translate(error, dsn=at.dsn) from error
    return at.read(lambda conn: indexes.index_status(conn, migration))
