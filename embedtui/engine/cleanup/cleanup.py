"""Cleanup: the old side is dropped and the migration done; rerunnable at any point."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import psycopg

from embedtui.engine.cleanup.archive import store_archive
from embedtui.engine.cleanup.blockers import archive_blockers, cleanup_blockers
from embedtui.engine.cleanup.choice import (
    CleanupChoice,
    CleanupStep,
    confirmed_choice,
    final_column,
    named_as_before,
    restores_not_null,
    stored_choice,
)
from embedtui.engine.cleanup.fold import Folding, wait_for_followers
from embedtui.engine.cleanup.notices import decided
from embedtui.engine.cleanup.settle import put_back, settle
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
from embedtui.engine.overrides import Overrides, audited, helped_now, pass_blockers, refuse
from embedtui.errors import Interrupted, NotClean, Refused, Remedy
from embedtui.model import Migration, Phase, RollbackStatus, TableName
from embedtui.model.lifecycle import QUEUE_COUNTED
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement, cancelled_by, run_ddl
from embedtui.postgres.joined import as_called_now
from embedtui.postgres.sides import capture
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.ending import QUEUE_FULL, Ending, begin_cleanup, begin_record, read_ending, remember
from embedtui.postgres.state.faults import count_faulty
from embedtui.postgres.state.pointer import require_unmoved, route_epoch
from embedtui.postgres.state.stale import count_marked


def cleanup(
    conn: Connection,
    migration: Migration,
    choice: CleanupChoice,
    *,
    typed_name: str,
    stop: threading.Event,
    override: Overrides = MappingProxyType({}),
    seen: int | None = None,
    on_step: Callable[[CleanupStep], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
    connect: Callable[[], Connection] | None = None,
) -> None:
    """Drop the old side as chosen; a rerun after any interruption completes what was begun, as it was chosen then.

    ``conn`` is in autocommit. ``typed_name`` has to be the table's name. ``override`` has a reason for each blocker
    that it passes, and is audited. ``seen``: the epoch that it was decided on. ``on_step`` is called before each step.
    ``connect`` opens the connections of an index build, which a fold needs. A no-op once finished.

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
            require_unmoved(conn, migration.name, epoch, seen)
            migration = present(conn, migration)
            choice = decided(conn, migration, choice)
            with cancelled_by(conn, stop):
                blockers = cleanup_blockers(conn, migration, choice, thorough=True)
            passed = pass_blockers(helped_now(conn, migration, blockers), override)
            on_step(CleanupStep("begin", "phase cleanup; a rollback takes it back until the drop"))
            _begin(conn, migration, choice, passed, epoch)
            state = read_ending(conn, migration)
        elif choice.archive_record not in (None, state.record["archive"]):
            _archive_elsewhere(conn, migration, choice, state)
            state = read_ending(conn, migration)
        migration = present(conn, migration)
        if not state.begun:  # a rollback was here since
            require_held(conn, migration, "cleanup")
        work = _Work(conn, migration, confirmed_choice(state, choice), stop, on_wait or (lambda _: None), connect)
        with put_back(conn, migration):
            for step in cleanup_statements(conn, migration, work.choice):
                if stop.is_set():
                    raise Interrupted(f"Stopped before the step {step.name!r}.", hint="Run it again to complete it.")
                on_step(step)
                work.do(step.name)


def _begin(conn: Connection, migration: Migration, choice: CleanupChoice, passed: Overrides, epoch: int | None) -> None:
    facts = inspect_oid(conn, migration.table_oid)
    names = {token.partition(":")[0] for token in passed}
    queued, uncovered = (
        [int(token.partition(":")[2]) for token in passed if token.startswith(f"{name}:")]
        for name in ("queue", "coverage")
    )
    record = {
        "rename": choice.rename,
        "fold": choice.fold,
        "keep_old": choice.keep_old,
        "keep_provenance": choice.keep_provenance,
        "archive": choice.archive_record,
        "not_null": restores_not_null(migration, choice, facts) and "not_null" not in names,
        "queued": sum(queued),
        "uncovered": sum(uncovered),
        "faulty": count_faulty(conn, migration.id),
    }
    what = (
        "keep both sides"
        if choice.keep_old
        else "the old name"
        if named_as_before(migration, choice)
        else "the new name"
    )
    marked = count_marked(conn, migration.id, QUEUE_COUNTED)
    left = RollbackStatus(None, marked.stale, "", marked.bridged, marked.missing).found
    detail = "".join(
        (
            f"begun: {'folded, ' if choice.fold else ''}{what}",
            f", archive to {choice.archive}" if choice.archive is not None else "",
            f", old side: {left}" if left else "",
            audited(passed),
        )
    )
    with holding(conn, migration, "cleanup", epoch):
        begin_record(conn, migration, record)
        begin_cleanup(conn, migration.id)
        add_audit(conn, migration.id, "cleanup", detail)


def _archive_elsewhere(conn: Connection, migration: Migration, choice: CleanupChoice, state: Ending) -> None:
    """Another archive than the one it began with, which could not be made, say; nothing may be in that one yet."""
    if state.has("archive_oid") or state.has("archived") or state.has("contracted"):
        raise Refused(
            f"The cleanup that was begun archives otherwise: {stored_choice(state.record).archive or 'nothing'}.",
            hint="Run it again without --archive"
            + ("." if state.has("contracted") else "; or take it back first, by a rollback."),
        )
    for blocker in archive_blockers(conn, choice.archive):
        refuse(blocker)
    with conn.transaction():
        remember(conn, migration, {"archive": choice.archive_record})
        add_audit(conn, migration.id, "cleanup", f"archive to {choice.archive}")


@dataclass(slots=True)
class _Work:
    """The steps of a cleanup that has begun; each can be repeated."""

    conn: Connection
    migration: Migration
    choice: CleanupChoice
    stop: threading.Event
    say: Callable[[str], None]
    connect: Callable[[], Connection] | None
    left: Mapping[str, int] = field(default_factory=dict, init=False)
    """What the drop may leave, once it is settled."""

    def do(self, name: str) -> None:
        """One step."""
        if name not in ("not null", "finish"):  # begun already, unless a rollback was here since
            require_held(self.conn, self.migration, "cleanup")
        if name == "archive":
            store_archive(self.conn, self.migration, self.choice, self.stop, self.say)
        elif name == "fold":
            self._folding().copy()
        elif name == "index":
            assert self.connect is not None, "a fold needs connections to build its index"
            self._folding().index(self.connect)
        elif name == "exchange":
            self._folding().exchange()
            self.migration = present(self.conn, self.migration)
        elif name == "settle":
            if read_ending(self.conn, self.migration).has("folded"):
                wait_for_followers(self.conn, self.migration, self.stop, self.say)
            self._settle()
        elif name == "contract":
            self._contract()
        elif name == "not null":
            self._not_null()
        elif name == "finish":
            finish(self.conn, self.migration, "cleanup")

    def _folding(self) -> Folding:
        return Folding(self.conn, self.migration, self.stop, self.say)

    def _settle(self) -> None:
        accepted = read_ending(self.conn, self.migration).left
        self.left = settle(self.conn, self.migration, accepted, self.stop, self.say)

    def _contract(self) -> None:
        tables = capture.tables(as_called_now(self.conn, self.migration))
        while True:
            state = read_ending(self.conn, self.migration)
            statements = contract_sql(self.conn, self.migration, self.choice, state.has("not_null"), self.left)
            try:
                with taken_back(self.conn, self.migration, "cleanup"):
                    self._ddl(statements, tables, lambda: require_held(self.conn, self.migration, "cleanup"))
            except psycopg.errors.ObjectInUse as error:
                if error.sqlstate != QUEUE_FULL:
                    raise
                self._settle()  # somebody queued rows meanwhile, or a text was rejected
            else:
                return

    def _not_null(self) -> None:
        """Make the column NOT NULL again: a scan that blocks neither reads nor writes, then a moment's lock."""
        try:
            with cancelled_by(self.conn, self.stop), unbounded(self.conn):
                self.conn.execute(validate_sql(self.migration))
        except psycopg.errors.CheckViolation:
            raise NotClean(
                f"{final_column(self.migration)} was NOT NULL, and rows without a vector have come in meanwhile.",
                hint="Fill them, then run the cleanup again: all else is done.",
            ) from None
        self._ddl(set_not_null_sql(self.migration), [self.migration.table])

    def _ddl(
        self, statements: Sequence[Statement], relations: Sequence[TableName], check: Callable[[], None] | None = None
    ) -> None:
        run_ddl(
            self.conn,
            statements,
            migration=self.migration.id,
            stop=self.stop,
            on_wait=self.say,
            relations=relations,
            check=check,
        )
