"""Abort: everything is taken back to before ``prepare``; rerunnable at any point."""

from __future__ import annotations

import threading
from collections.abc import Callable

from embedtui.engine.cleanup import traces
from embedtui.engine.cleanup.blockers import abort_blockers
from embedtui.engine.cleanup.choice import CleanupStep
from embedtui.engine.cleanup.statements import abort_statements, remove_sql
from embedtui.engine.cleanup.steps import alone, finish, holding, present, require_name, taken_back
from embedtui.engine.overrides import pass_blockers
from embedtui.errors import Interrupted
from embedtui.formatting import counted
from embedtui.model import Migration
from embedtui.model.lifecycle import QUEUE_COUNTED
from embedtui.postgres.connect import Connection, is_ours
from embedtui.postgres.ddl import run_ddl
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import new_side
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.ending import begin_record
from embedtui.postgres.state.migrations import hold_workers
from embedtui.postgres.state.pointer import require_unmoved, route_epoch
from embedtui.postgres.state.stale import count_marked


def abort(
    conn: Connection,
    migration: Migration,
    *,
    typed_name: str,
    seen: int | None = None,
    stop: threading.Event,
    on_step: Callable[[CleanupStep], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> str:
    """Take everything back to before ``prepare``: triggers, new columns or side table, index; a rerun completes it.

    Also where the table has another name, was made again or restored since: what it carries of ours is looked up. Gives
    what was done, and what is left, in a sentence or two.

    ``seen`` is the pointer's epoch that it was decided on.

    Raises Refused (production reads the new side, something depends on it, or another process is at it), LockTimeout,
    Interrupted.
    """
    require_name(migration, typed_name)
    on_step = on_step or (lambda _: None)
    removed = traces.find(conn, migration)
    bridged = count_marked(conn, migration.id, QUEUE_COUNTED).bridged
    with alone(conn, migration):
        epoch = route_epoch(conn, migration)  # before what it is decided on
        migration = present(conn, migration)
        require_unmoved(conn, migration.name, epoch, seen)
        pass_blockers(abort_blockers(conn, migration), {})
        for step in abort_statements(conn, migration):
            if stop.is_set():
                raise Interrupted(f"Stopped before the step {step.name!r}.", hint="Run it again to complete it.")
            on_step(step)
            if step.name == "begin":
                with holding(conn, migration, "abort", epoch):
                    begin_record(conn, migration, {"aborting": True})
                    hold_workers(conn, migration.id)
                    add_audit(conn, migration.id, "abort", "begun")
            elif step.name == "remove":
                _cancel_own_build(conn, migration)
                with taken_back(conn, migration, "abort"):
                    run_ddl(
                        conn,
                        remove_sql(conn, migration),
                        migration=migration.id,
                        stop=stop,
                        on_wait=on_wait,
                        relations=[each.table for each in removed],
                    )
            else:
                finish(conn, migration, "abort")
        done = traces.outcome(conn, migration, removed)
        if bridged:
            done += f" The old vectors of {counted(bridged, 'row', 'rows')} are a bridge's."
        add_audit(conn, migration.id, "abort", done)
    return done


def _cancel_own_build(conn: Connection, migration: Migration) -> None:
    """An index build of ours would hold up the removal of what it builds for as long as it takes."""
    conn.execute(
        "SELECT pg_cancel_backend(p.pid) FROM pg_stat_progress_create_index p JOIN pg_stat_activity a USING (pid)"
        f" WHERE {is_ours('a')} AND p.relid = to_regclass(%s)",
        (relation(new_side(migration).table).as_string(conn),),
    )
