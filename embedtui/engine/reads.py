"""What is read of a migration: its state, plan, faults and log, what stands against an action, and exact SQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Unpack

from embedtui.config import Settings
from embedtui.engine import settings_in_force
from embedtui.engine.access import Access
from embedtui.engine.blockers import blockers_of
from embedtui.engine.bridge.old_model import OldModel
from embedtui.engine.cleanup.choice import Kept, choice_of
from embedtui.engine.cleanup.notices import cleanup_notices, decided
from embedtui.engine.cleanup.statements import cleanup_statements
from embedtui.engine.cutover.blockers import cutover_notices
from embedtui.engine.cutover.how import HowTo, read_how
from embedtui.engine.ending import what_adopting_takes
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.validate import queries as queries_module
from embedtui.engine.validate import report
from embedtui.engine.validate.evaluation import remembered, with_verdicts
from embedtui.errors import Refused
from embedtui.model import (
    AuditEntry,
    Blocker,
    Check,
    Command,
    Comparison,
    EventSink,
    FaultRow,
    FaultState,
    Key,
    Migration,
    Plan,
    QueryInput,
    SettingsInForce,
    Snapshot,
)
from embedtui.model.lifecycle import as_stored, possible, refusal
from embedtui.postgres.sides.texts import row_texts, text_length
from embedtui.postgres.state.audit import read_audit
from embedtui.postgres.state.queries import StoredQuery, load_queries
from embedtui.postgres.state.steering import read_faults
from embedtui.postgres.state.workers import read_workers
from embedtui.providers.patience import Asking


class Reads:
    """What is read of one migration, from one process; it changes nothing."""

    def __init__(
        self,
        dsn: str,
        name: str | None = None,
        settings: Settings | None = None,
        on_event: EventSink | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            dsn: connection string of the primary server.
            name: the migration's name; None is the only (or newest) one.
            settings: needed to plan and to begin, and for what acts on this machine: endpoints, keys' variables, hook,
                files. The database has the rest of a migration that is under way.
            on_event: receives events from engine threads; must return at once.
            environ: where the providers' keys are looked up; default the settings', else the process's.
        """
        self._at = Access(dsn, name, settings, on_event, environ)

    @property
    def dsn(self) -> str:
        """Connection string of the primary server."""
        return self._at.dsn

    @property
    def settings(self) -> Settings | None:
        """This machine's settings."""
        return self._at.settings

    def close(self, *, detach: bool = False) -> None:
        """Close the connections this object keeps; running commands are stopped through their own signal.

        ``detach``: work that can outlive this process (``outlives``) goes on.
        """
        del detach  # without a process of its own there is nothing to leave behind
        self._at.close()

    def migration(self) -> Migration | None:
        """The migration as stored, with what this machine's settings say of it; None where none was begun."""
        return self._at.migration()

    def require(self) -> Migration:
        """The migration as stored.

        Raises:
            Refused: none was begun.
        """
        return self._at.require()

    def snapshot(self) -> Snapshot:
        """The state as of now; a few cheap statements."""
        return self._at.snapshot()

    def audit(self, limit: int = 200) -> tuple[AuditEntry, ...]:
        """The audit log, newest first."""
        migration = self.migration()
        return self._at.read(lambda conn: read_audit(conn, migration.id, limit)) if migration else ()

    def faults(
        self, limit: int = 200, offset: int = 0, reason: str | None = None, state: FaultState | None = None
    ) -> tuple[FaultRow, ...]:
        """Faulty rows, oldest first, of one reason or state where given."""
        migration = self.require()
        return self._at.read(lambda conn: read_faults(conn, migration.id, limit, offset, reason, state))

    def row_text(self, key: Key) -> str | None:
        """The beginning of the text that is embedded of a row; None where it is gone."""
        migration = self.require()
        return self._at.read(lambda conn: row_texts(conn, migration, [key])).get(key)

    def row_length(self, key: Key) -> int | None:
        """Characters of the text that is embedded of a row; None where it is gone."""
        migration = self.require()
        return self._at.read(lambda conn: text_length(conn, migration, key))

    def plan(
        self,
        *,
        check_provider: bool = False,
        say: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
    ) -> Plan:
        """What a migration would do, by what the settings say by now where none is under way; read-only.

        ``check_provider``: ask the models, too, which costs a fraction of a cent; see ``embedtui plan``. ``say`` is
        told who does not answer while that lasts, ``stop`` ends it.

        Raises:
            EmbedtuiError: the settings, the table or the server cannot serve.
        """
        if self.settings is None:
            raise Refused("No settings are given.", hint="Make them with `embedtui init`.")
        if (migration := self.migration()) is None or migration.phase.ended:
            self._at.reread()
        asking = Asking(say, stop or threading.Event())
        with self._at.open("plan", read_only=True) as conn:
            return make_plan(conn, self.settings, check_provider=check_provider, asking=asking)

    def settings_in_force(self) -> SettingsInForce:
        """All settings as they are in force here, with where each came from and which may be changed now."""
        return settings_in_force.settings_in_force(self._at)

    def last_comparison(self) -> Comparison | None:
        """The newest recorded comparison with its rankings; None where there is none."""
        migration = self.require()
        return self._at.read(lambda conn: remembered(conn, migration))

    def kept_queries(self) -> tuple[StoredQuery, ...]:
        """The queries that are kept, oldest first."""
        migration = self.require()
        return self._at.read(lambda conn: load_queries(conn, migration))

    def queries_of(self, given: str) -> tuple[QueryInput, ...]:
        """Queries of a file that ``given`` names, of a statement over a query log, or ``given`` itself, one a line.

        Raises:
            SettingsError: there are none, or they cannot be read.
        """
        return self._at.read(lambda conn: queries_module.given(conn, given))

    def written_down(self, comparison: Comparison, kind: str) -> str:
        """``comparison`` as ``csv`` or ``html``, see :mod:`embedtui.engine.validate.report`."""
        return report.to_csv(comparison) if kind == "csv" else report.to_html(comparison, self.require())

    def with_verdicts(self, comparison: Comparison) -> Comparison:
        """``comparison`` with the operators' present verdicts, summed up."""
        return self._at.read(lambda conn: with_verdicts(conn, comparison))

    def blockers(
        self,
        action: str,
        percent: int = 100,
        *,
        thorough: bool = False,
        **choice: Unpack[Kept],
    ) -> tuple[Blocker, ...]:
        """Why an action is impossible now and what would help; empty where it is possible.

        Args:
            action: a :class:`embedtui.model.Command`: ``run``, ``index``, ``cutover``, ``rollback``, ``cleanup``, …
            percent: share of the keys a cutover would move.
            thorough: of a cleanup: also read the table for rows that would lose their only vector.
            choice: of a cleanup, as in :meth:`cleanup`.
        """
        command, snapshot = Command(action), as_stored(self.migration())
        if snapshot.migration is None:
            blocker = refusal(command, snapshot)
            return (blocker,) if blocker else ()
        # what is asked of a provider is asked before a connection is opened
        old = self._at.ask_old_model(snapshot.migration) if command is Command.BRIDGE else OldModel()
        with self._at.open("gate") as conn:
            snapshot = replace(snapshot, workers=read_workers(conn, snapshot.migration.id, ()))
            found = blockers_of(conn, command, snapshot, percent, choice_of(choice), thorough=thorough, old=old)
        return tuple(replace(each, remedies=possible(each.remedies, snapshot)) for each in found)

    def ask_old_model(self) -> str:
        """Why the old model is taken for dead, empty where it is not; asks it by one short request.

        What is heard counts for this object's snapshots from then on.
        """
        migration = self.require()
        before, found = self._at.old_gone(migration), self._at.ask_old_model(migration).gone
        if found and not before:
            self._at.note(f"The old model is dead: {found}")
        return found

    def notices(self) -> tuple[Check, ...]:
        """What an operator should know before the cutover, though it blocks nothing."""
        migration = self._at.require()
        return self._at.write(lambda conn: cutover_notices(conn, migration), name="gate")

    def how(self) -> HowTo:
        """How the table's applications are switched, of a migration that has not begun, too."""
        return read_how(self._at)

    def cleanup_notices(self, **choice: Unpack[Kept]) -> tuple[Check, ...]:
        """Who was heard from, what a cleanup does and what breaks by it; arguments as in :meth:`cleanup`."""
        migration, kept = self._at.require(), choice_of(choice)
        return self._at.write(lambda conn: cleanup_notices(conn, migration, kept), name="cleanup")

    def cleanup_choice(self, **choice: Unpack[Kept]) -> Kept:
        """The choice with what was left open, as it is decided now: what is shown by it is what is run by it."""
        migration, kept = self._at.require(), choice_of(choice)
        found = self._at.write(lambda conn: decided(conn, migration, kept), name="cleanup")
        return {**choice, "rename": found.rename, "fold": found.fold, "keep_old": found.keep_old}

    def cleanup_sql(self, **choice: Unpack[Kept]) -> tuple[str, ...]:
        """The exact SQL that a cleanup would run, in order; arguments as in :meth:`cleanup`."""
        migration = self.require()
        kept = choice_of(choice)
        steps = self._at.write(lambda conn: cleanup_statements(conn, migration, kept), name="cleanup")
        return tuple(statement for step in steps for statement in step.statements)

    def adopt_sql(self) -> tuple[str, ...]:
        """The exact SQL that :meth:`adopt` would run, but for vectors that it carries over in batches."""
        return what_adopting_takes(self._at)
