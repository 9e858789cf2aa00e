"""Why an action is impossible now: what the state forbids, then what the database has to say to it."""

from __future__ import annotations

from embedtui.engine.bridge.blockers import bridge_blockers
from embedtui.engine.bridge.old_model import OldModel
from embedtui.engine.cleanup.blockers import abort_blockers, cleanup_blockers
from embedtui.engine.cleanup.choice import CleanupChoice
from embedtui.engine.cutover.blockers import cutover_blockers, rollback_blockers
from embedtui.engine.validate.evaluation import current_evaluation
from embedtui.model import Blocker, Command, Condition, Migration, Snapshot
from embedtui.model.lifecycle import refusal, unneeded
from embedtui.postgres.connect import Connection


def blockers_of(
    conn: Connection,
    command: Command,
    snapshot: Snapshot,
    percent: int,
    choice: CleanupChoice,
    *,
    thorough: bool,
    old: OldModel,
) -> tuple[Blocker, ...]:
    """As :meth:`embedtui.engine.Engine.blockers`, of a migration that there is; ``old`` is for a bridge."""
    migration = snapshot.migration
    assert migration is not None
    if migration.phase.ended and (found := unneeded(command, snapshot)):
        return (found,)
    if command is Command.CUTOVER:
        return cutover_blockers(conn, migration, current_evaluation(conn, migration), percent)
    if command is Command.ROLLBACK:
        return rollback_blockers(conn, migration)
    if command is Command.BRIDGE:
        return bridge_blockers(conn, migration, old)
    if command is Command.CLEANUP:
        return cleanup_blockers(conn, migration, choice, thorough=thorough)
    if command is Command.ABORT:
        return abort_blockers(conn, migration)
    if command is Command.RUN:
        return _run_blockers(migration)
    blocker = unneeded(command, snapshot) if command is Command.INDEX else refusal(command, snapshot)
    return (blocker,) if blocker else ()


def _run_blockers(migration: Migration) -> tuple[Blocker, ...]:
    """A pause by an operator is his to lift; what failed by itself is tried again by the next run."""
    if migration.desired != "pause" or migration.condition is Condition.FAILED:
        return ()
    message = f"The migration of {migration.table} is paused: {migration.reason}."
    return (Blocker("paused", message, "Lift that: `embedtui resume`."),)
