"""Cleanup: the old side is dropped and the migration done; rerunnable at any point."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import MappingProxyType

import psycopg

from embedtui.engine.cleanup.archive import store_archive
from embedtui.engine.cleanup.blockers import cleanup_blockers
from embedtui.engine.cleanup.choice import (
    CleanupChoice,
    CleanupStep,
    confirmed_choice,
    final_column,
    named_as_before,
    restores_not_null,
)
from embedtui.engine.cleanup.statements import cleanup_statements, contract_sql, set_not_null_sql, validate_sql
from embedtui.engine.cleanup.steps import (
    alone,
    finish,
    holding,
    present,
    require_held,
    require_name,
    taken_back,
    unbounded,
)
from embedtui.engine.overrides import Overrides, audited, pass_blockers
from embedtui.errors import Interrupted, LockTimeout, NotClean, Refused, Remedy
from embedtui.model import Migration, Phase, RollbackStatus
from embedtui.model.lifecycle import QUEUE_COUNTED
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import cancelled_by, run_ddl
from embedtui.postgres.joined import as_called_now
from embedtui.postgres.sides import capture
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.ending import QUEUE_FULL, Ending, begin_cleanup, begin_record, read_ending
from embedtui.postgres.state.faults import count_faulty
from embedtui.postgres.state.route import route_epoch
from embedtui.postgres.state.stale import count_marked

DRAIN_PATIENCE = 60.0
"""Seconds in which the workers may bring the queue to zero, before the cleanup is refused."""


def cleanup(
    conn: Connection,
    migration: Migration,
    choice: CleanupChoice,
    *,
    typed_name: str,
    stop: threading.Event,
    override: Overrides = MappingProxyType({}),
    on_step: Callable[[CleanupStep], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> None:
    """Drop the old side as chosen; a rerun after any interruption completes what was begun, as it was chosen then.

    ``conn`` is in autocommit. ``typed_name`` has to be the table's name. ``override`` has a reason for each blocker
    that it passes, and is audited. ``on_step`` is called before each step. A no-op once finished.

    From its first step until the drop a rollback takes it back, at once; the drop fails where the pointer has moved.

    Raises Refused (blocked, taken back, or another process is at it), LockTimeout, Interrupted, NotClean (a row without
    a vector came in under a column that was NOT NULL), DatabaseError (the archive does not hold what was counted).
    """
    require_name(migration, typed_name)
    on_step = on_step or (lambda _: None)
    with alone(conn, migration):
        state = read_ending(conn, migration)
        if state.has("aborting") or state.phase is Phase.ABORTED:
            raise Refused("The migration is being aborted.", hint="Complete that.", remedies=(Remedy.ABORT,))
        if state.phase is Phase.DONE and not state.begun:
            return
        if not state.begun:
            epoch = route_epoch(conn, migration)  # before what it is decided on
            migration = present(conn, migration)
            with cancelled_by(conn, stop):
                blockers = cleanup_blockers(conn, migration, choice, thorough=True)
            passed = pass_blockers(blockers, override)
            on_step(CleanupStep("begin", "phase cleanup; workers bring the queue to zero"))
            _begin(conn, migration, choice, passed, epoch)
            state = read_ending(conn, migration)
        migration = present(conn, migration)
        if not state.begun:  # a rollback was here since
            require_held(conn, migration, "cleanup")
        choice = confirmed_choice(state, choice)
        for step in cleanup_statements(conn, migration, choice):
            if stop.is_set():
                raise Interrupted(f"Stopped before the step {step.name!r}.", hint="Run it again to complete it.")
            on_step(step)
            if step.name in ("begin", "archive", "contract"):  # begun already, unless a rollback was here since
                require_held(conn, migration, "cleanup")
            if step.name == "archive":
                store_archive(conn, migration, choice, stop)
            elif step.name == "contract":
                _contract(conn, migration, choice, state, stop, on_wait)
            elif step.name == "not null":
                _not_null(conn, migration, stop, on_wait)
            elif step.name == "finish":
                finish(conn, migration, "cleanup")


def _begin(conn: Connection, migration: Migration, choice: CleanupChoice, passed: Overrides, epoch: int | None) -> None:
    facts = inspect_oid(conn, migration.table_oid)
    names = {token.partition(":")[0] for token in passed}
    queued = [int(token.partition(":")[2]) for token in passed if token.startswith("queue:")]
    record = {
        "rename": choice.rename,
        "keep_old": choice.keep_old,
        "keep_provenance": choice.keep_provenance,
        "archive": choice.archive_record,
        "not_null": restores_not_null(migration, choice, facts) and "not_null" not in names,
        "queued": sum(queued),
        "faulty": count_faulty(conn, migration.id),
    }
    what = (
        "keep both sides"
        if choice.keep_old
        else "the old name"
        if named_as_before(migration, choice)
        else "the new name"
    )
    detail = f"begun: {what}" + (f", archive to {choice.archive}" if choice.archive is not None else "")
    marked = count_marked(conn, migration.id, QUEUE_COUNTED)
    left = RollbackStatus(None, marked.stale, "", marked.bridged, marked.missing).found
    detail += (f", old side: {left}" if left else "") + audited(passed)
    with holding(conn, migration, "cleanup", epoch):
        begin_record(conn, migration, record)
        begin_cleanup(conn, migration.id)
        add_audit(conn, migration.id, "cleanup", detail)


def _contract(
    conn: Connection,
    migration: Migration,
    choice: CleanupChoice,
    state: Ending,
    stop: threading.Event,
    on_wait: Callable[[str], None] | None,
) -> None:
    waited = 0.0
    while True:
        statements = contract_sql(conn, migration, choice, state.has("not_null"), state.left)
        try:
            with taken_back(conn, migration, "cleanup"):
                run_ddl(
                    conn,
                    statements,
                    stop=stop,
                    on_wait=on_wait,
                    relations=capture.tables(as_called_now(conn, migration)),
                    check=lambda: require_held(conn, migration, "cleanup"),
                )
        except psycopg.errors.ObjectInUse as error:
            if error.sqlstate != QUEUE_FULL or waited >= DRAIN_PATIENCE:
                raise LockTimeout(
                    "Changes kept waiting for their new vectors; the old side was not dropped.",
                    hint="Let a worker catch up (`embedtui faults` lists what was rejected), and clean up again.",
                    remedies=(Remedy.FOLLOW, Remedy.CLEANUP),
                ) from None
            if on_wait is not None:
                on_wait("waiting for the queue to be empty")
            if stop.wait(1.0):
                raise Interrupted("Stopped before the old side was dropped.", hint="Run it again.") from None
            waited += 1.0
        else:
            return


def _not_null(
    conn: Connection, migration: Migration, stop: threading.Event, on_wait: Callable[[str], None] | None
) -> None:
    """Make the column NOT NULL again: a scan that blocks neither reads nor writes, then a moment's lock."""
    try:
        with cancelled_by(conn, stop), unbounded(conn):
            conn.execute(validate_sql(migration))
    except psycopg.errors.CheckViolation:
        raise NotClean(
            f"{final_column(migration)} was NOT NULL, and rows without a vector have come in meanwhile.",
            hint="Fill them, then run the cleanup again: all else is done.",
        ) from None
    run_ddl(conn, set_not_null_sql(migration), stop=stop, on_wait=on_wait, relations=[migration.table])
