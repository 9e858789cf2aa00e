"""Why searches cannot go through a bridge."""

from __future__ import annotations

from embedtui.engine.bridge.old_model import OldModel
from embedtui.engine.cutover.strategies import cutover_settings
from embedtui.model import Blocker, Command, Migration
from embedtui.model.lifecycle import as_stored, refusal
from embedtui.postgres.connect import Connection
from embedtui.postgres.state.pointer import may_move_route, read_status


def bridge_blockers(conn: Connection, migration: Migration, old: OldModel) -> tuple[Blocker, ...]:
    """Why searches cannot go through a bridge now, as far as is known before it is fitted; empty where they can.

    ``old`` is what is known of the old model.
    """
    if blocker := refusal(Command.BRIDGE, as_stored(migration, read_status(conn, migration))):
        return (blocker,)
    if not may_move_route(conn):
        return (Blocker("role", "This role may not move the pointer.", "Bridge as the operator's role."),)
    found = []
    if not old.gone:
        answers = f"whether it answers cannot be told ({old.unknown})" if old.unknown else "it answers"
        message = (
            f"{migration.old_model.called} is not said to be retired, and {answers}: while it does, its own queries"
            " find more."
        )
        found.append(Blocker("old_model", message, "Say so where it is: --old-retired.", True))
    strategy = cutover_settings(migration).strategy
    if strategy != "pointer":
        message = f"By strategy {strategy} services do not follow the pointer, and with it the bridge."
        found.append(Blocker("strategy", message, "Set strategy = pointer, or search by embedtui.search().", True))
    return tuple(found)
