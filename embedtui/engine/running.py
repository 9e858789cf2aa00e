"""The work: prepare, backfill, index, and what interrupts it (a lost database, a pause, the application's DDL)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

from embedtui.engine.access import Access
from embedtui.engine.backfill.embedding import ConfigurationFault
from embedtui.engine.backfill.episodes import Episodes
from embedtui.engine.backfill.job import STARTING, Job, now
from embedtui.engine.backfill.stages import Stages
from embedtui.engine.backfill.worker import Worker
from embedtui.engine.local_settings import require_said
from embedtui.engine.overrides import refuse
from embedtui.engine.plan.existing import migration_name
from embedtui.engine.plan.start import require_same, require_startable
from embedtui.engine.prepare import begin, keep_capture, prepare, upgrade
from embedtui.engine.provider_check import ProviderCheck
from embedtui.engine.resilience import FIRST_WAIT, LONGEST_WAIT, with_database
from embedtui.engine.rights import follow_rights
from embedtui.engine.steering import resume
from embedtui.engine.table_changes import TableChange, same_names, table_change
from embedtui.engine.table_changes import follow as follow_table
from embedtui.engine.table_changes import remember as remember_columns
from embedtui.engine.view import follow_table as follow_view
from embedtui.engine.worker_failure import ended_by, pause_for
from embedtui.errors import (
    DatabaseError,
    DatabaseLost,
    DatabaseUnreachable,
    EmbedtuiError,
    Interrupted,
    Locked,
    Refused,
    TableChanged,
    TableError,
)
from embedtui.model import Command, Condition, Failed, FaultClass, Migration, Noted, Phase, PhaseChanged, Snapshot
from embedtui.model.lifecycle import as_stored, refusal
from embedtui.model.snapshot import TO_BE_RESUMED
from embedtui.postgres.connect import Connection, Link, connect
from embedtui.postgres.state.audit import add_audit, read_audit
from embedtui.postgres.state.migrations import load_migration, set_condition
from embedtui.postgres.state.pointer import read_status
from embedtui.postgres.state.spending import add_tokens
from embedtui.postgres.state.workers import count_live_workers
from embedtui.providers.patience import Asking

T = TypeVar("T")


class Runner:
    """The work on one migration in this process."""

    def __init__(self, at: Access) -> None:
        self._at = at
        self._reload, self._episodes = False, Episodes()
        """The settings are to be read again before the work goes on."""
        self._reloads: int | None = None
        """How often that had been asked for when they were read."""
        self._rows = 0
        """Written by this process so far: a round that begins anew goes on counting."""
        self._check: ProviderCheck | None = None  # None: nothing is sent

    def run(
        self, stop: threading.Event, *, until: float | None = None, follow: bool = False, again: bool = True
    ) -> Snapshot:
        """See :meth:`embedtui.engine.Engine.run`."""
        migration, self._check = self._start(stop, follow, again)
        try:
            return self._work(stop, until, follow)
        except Exception as error:
            if error is not self._check.error and not isinstance(error, Interrupted):
                ended_by(self._at, migration, error)
            raise
        finally:
            self._check.give_up()

    def start(self, stop: threading.Event) -> Migration:
        """All that comes before the work, and the migration prepared: it may go on, and its provider answers."""
        migration, self._check = self._start(stop, follow=False, again=True)
        self._check.wait(stop)
        return migration

    def _start(self, stop: threading.Event, follow: bool, again: bool) -> tuple[Migration, ProviderCheck]:
        """The same, with the provider still being asked: what only its answer lets be changed has waited for it."""
        with self._reached("prepare") as link:
            self._ride_out(link, upgrade, stop)
            proof = self._ride_out(link, lambda conn: self._require_startable(conn, stop), stop)
            migration = self._begin(link, stop, proof)
            self._reloads = migration.run_state.reloads
            lifts = again and migration.condition is Condition.FAILED
            if lifts:
                self._at.reread()
                self._ride_out(link, self._require_same, stop)
            elif not follow:
                self._ride_out(link, lambda conn: _require_unpaused(conn, migration), stop)
            elif migration.desired == "pause":
                self._reload = True
                self._ride_out(link, lambda _: self._wait_for_resume(stop), stop)
                migration = self._ride_out(link, lambda _: self._at.require(), stop)
            refuse(refusal(Command.RUN, as_stored(migration)))
            require_said(migration, "new_model.")
            others = self._ride_out(link, lambda conn: count_live_workers(conn, migration.id), stop)
            check = ProviderCheck(self._at, migration, others=others > 0)
            try:
                migration = self._prepare(link, migration, stop)
                self._ride_out(link, lambda _: self._at.say_differences(lambda: check.wait(stop)), stop)
                if migration.desired == "pause" and lifts:  # by ourselves, for what had failed
                    check.wait(stop)
                    self._ride_out(link, lambda _: resume(self._at), stop)
                elif migration.desired == "run" and migration.condition is Condition.FAILED:
                    check.wait(stop)
                    self._ride_out(link, lambda conn: set_condition(conn, migration.id, Condition.IDLE), stop)
            except BaseException:
                check.give_up()
                raise
        return migration, check

    def _work(self, stop: threading.Event, until: float | None, follow: bool) -> Snapshot:
        """Rounds of work until nothing is left; a database that is lost anywhere in one begins the next.

        What is done is stored, so that a round goes on from there.
        """
        wait = FIRST_WAIT
        while True:
            try:
                if self._round(self._at.require(), stop, until, follow):
                    return self._at.snapshot(recount=True)
            except (DatabaseLost, Locked) as error:
                self._at.emit(Noted(now(), f"Waiting for the database: {error.message}"))
                if stop.wait(wait):
                    raise Interrupted("Stopped while waiting for the database.", hint="Run again to go on.") from error
                wait = min(wait * 2, LONGEST_WAIT)

    def _round(self, migration: Migration, stop: threading.Event, until: float | None, follow: bool) -> bool:
        """Whether that was the last round."""
        epoch = None
        try:
            self._read_again(stop)
            migration = self._follow_table(stop)
            epoch = self._epoch(migration)
            self._run_once(migration, stop, until, follow)
        except (DatabaseLost, Locked):
            raise
        except (ConfigurationFault, DatabaseError, TableError) as error:
            if self._check is not None and isinstance(error, ConfigurationFault):
                self._check.wait(stop)  # what only this process lacks pauses nobody
            fault = error if isinstance(error, ConfigurationFault) else self._table_changed(migration, error, epoch)
            if fault is None:  # safe to go on with
                return False
            pause_for(self._at, migration, fault)
            if not follow:
                raise fault from error
            if not self._wait_for_resume(stop):
                return True
            self._reload = True
        return not self._reload

    def _read_again(self, stop: threading.Event) -> None:
        """Go on by what the settings say now, where that was asked for and they still describe this migration."""
        asked = self._at.require().run_state.reloads
        if not self._reload and asked == self._reloads:
            return
        before = self._at.settings, self._at.environ
        link = Link(self._at.dsn, "prepare")
        try:
            self._at.reread()
            self._ride_out(link, self._require_same, stop)
            self._ride_out(link, lambda _: self._at.say_differences(), stop)
        except Interrupted:
            raise
        except EmbedtuiError as error:
            self._at.settings, self._at.environ = before
            said = f"The settings stay as they were: {error.message}"
            self._at.emit(Failed(now(), said, FaultClass.CONFIGURATION, error.hint))
            self._ride_out(link, lambda conn: add_audit(conn, self._at.require().id, "settings", said), stop)
        finally:
            link.drop()
        self._reload, self._reloads = False, asked

    def prepare(self, stop: threading.Event | None = None) -> Migration:
        """See :meth:`embedtui.engine.Engine.prepare`."""
        stop = stop or threading.Event()
        with self._reached("prepare") as link:
            self._ride_out(link, upgrade, stop)
            return self._prepare(link, self._begin(link, stop), stop)

    def _begin(self, link: Link, stop: threading.Event, proof: int = 0) -> Migration:
        def begun(conn: Connection) -> Migration:
            settings = self._at.to_begin_by()
            if settings is not None:
                self._at.name = begin(conn, self._at.dsn, settings).name
            migration = self._at.require()
            self._at.name = migration.name
            add_tokens(conn, migration.id, "proof_tokens", proof)
            return migration

        return self._ride_out(link, begun, stop)

    def _prepare(self, link: Link, migration: Migration, stop: threading.Event) -> Migration:
        if migration.phase is not Phase.PREPARE:
            return migration
        self._at.emit(PhaseChanged(now(), "Preparing", Phase.PREPARE))
        with self.at_work(migration, stop, "preparing") as job:
            job.with_database(link, lambda conn: prepare(conn, migration, job.stop, self._at.say_waiting))
        self._at.emit(PhaseChanged(now(), "Phase: backfill", Phase.BACKFILL))
        return self._ride_out(link, lambda _: self._at.require(), stop)

    @contextlib.contextmanager
    def _reached(self, name: str) -> Iterator[Link]:
        """A connection for the start of the work. A database that cannot be reached at first is said at once."""
        link = Link(self._at.dsn, name)
        try:
            try:
                link.get()
            except DatabaseUnreachable:
                raise
            except DatabaseLost:  # it was reached, and cut the session
                pass
            yield link
        finally:
            link.drop()

    def _ride_out(self, link: Link, work: Callable[[Connection], T], stop: threading.Event) -> T:
        """Run ``work`` as the later stages do: a lost session or a lock only delays it."""
        return with_database(
            link,
            work,
            stop=stop,
            on_lost=lambda message: self._at.emit(Noted(now(), f"Waiting for the database: {message}")),
            on_back=lambda: self._at.emit(Noted(now(), "The database answers.")),
        )

    def _follow_table(self, stop: threading.Event) -> Migration:
        """The migration as stored, brought in line with what the application's DDL did to its table.

        Raises:
            TableChanged: nothing is left that it could go on with.
        """

        def work(conn: Connection) -> None:
            migration, change = self._look_at_table()
            if change is None:
                remember_columns(conn, migration)
            else:
                follow_table(conn, migration, change, stop, self._at.say_waiting)
                self._at.emit(Noted(now(), f"Going on: {'; '.join(change.what)}"))
            keep_capture(conn, self._at.require(), stop, self._at.say_waiting)
            for keep in (follow_rights, follow_view):
                if said := keep(conn, self._at.require(), stop, self._at.say_waiting):
                    self._at.emit(Noted(now(), said))

        link = Link(self._at.dsn, "prepare")
        try:
            self._ride_out(link, work, stop)
            return self._ride_out(link, lambda _: self._at.require(), stop)
        finally:
            link.drop()

    def _look_at_table(self) -> tuple[Migration, TableChange | None]:
        """The migration as stored and what the application did to its table, with no exchange of names between."""
        while True:
            migration = self._at.require()
            epoch = self._epoch(migration)
            change = self._at.read(partial(table_change, migration=migration))
            if change is None or (same_names(migration, self._at.require()) and self._epoch(migration) == epoch):
                return migration, change

    def _epoch(self, migration: Migration) -> int:
        return self._at.read(lambda conn: read_status(conn, migration)).epoch

    def _table_changed(self, worked: Migration, error: EmbedtuiError, epoch: int | None) -> TableChanged | None:
        """What the application did to the table, where that is what ended the work; None: it is safe to go on with.

        So it is where the pointer moved since ``epoch``: names may have been exchanged, and back again.

        Raises the error itself where the table is as it was.
        """
        try:
            migration, change = self._look_at_table()
            moved = epoch is not None and self._epoch(migration) != epoch
        except DatabaseLost:  # it went away with what failed, which is the thing to tell
            raise error from None
        if change is None:
            if same_names(worked, migration) and not moved:
                raise error
            return None  # another process went on with it already
        return None if change.safe else change.error()

    @contextlib.contextmanager
    def at_work(
        self, migration: Migration, stop: threading.Event, doing: str, *, reloads: bool = False, role: str = ""
    ) -> Iterator[Job]:
        """Inside, this process is a worker that everybody sees and can stop, by ``job.stop``; ``role``: for the log.

        ``reloads``: it also ends when the settings are to be read again, for the caller to go on by them.
        """
        job = Job(self._at.dsn, migration, self._at.on_event, rows=self._rows)
        job.episodes, job.reloads = self._episodes, job.reloads if self._reloads is None else self._reloads
        try:
            with Worker(job, stop, role or doing), nullcontext() if reloads else job.undisturbed():
                job.doing(doing)
                yield job
        except Interrupted:
            if job.pending_failure is None and (stop.is_set() or not job.reloading):
                raise
        finally:
            self._reload |= job.reloading
            self._rows = job.rows
        if job.pending_failure is not None:
            raise job.pending_failure

    def _wait_for_resume(self, stop: threading.Event) -> bool:
        """Wait until somebody resumes; False: the migration has ended meanwhile."""
        migration = self._at.require()
        while migration.desired == "pause" and not migration.phase.ended:
            with self.at_work(migration, stop, TO_BE_RESUMED, reloads=True) as job:
                while migration.desired == "pause" and not migration.phase.ended:
                    if job.stop.wait(0.5):
                        raise Interrupted("Stopped.", hint="Run again to go on.")
                    with contextlib.suppress(DatabaseLost):  # the worker says so
                        migration = self._at.require()
            self._read_again(stop)
        return not migration.phase.ended

    def _require_startable(self, conn: Connection, stop: threading.Event) -> int:
        """Say what stands in the way of a new migration before anything is made; the tokens that its proof took."""
        settings = self._at.to_begin_by()
        known = None if settings is None else load_migration(conn, migration_name(conn, settings))
        if settings is None or (known is not None and not known.phase.ended):
            return 0
        with connect(self._at.dsn, name="check", read_only=True) as reading:
            return require_startable(reading, settings, Asking(self._at.note, stop))

    def _require_same(self, conn: Connection) -> None:
        """The settings still say what is migrated here, and how its model is reached."""
        settings, stored = self._at.to_begin_by(), load_migration(conn, self._at.name)
        if stored is None or stored.phase.ended:
            return
        if settings is not None:
            if settings.name not in (None, stored.name):
                raise Refused(f"The settings are now of {settings.name}.", hint="Stop this worker, and run it anew.")
            require_same(conn, stored, settings)
        require_said(self._at.here(stored), "new_model.")

    def _run_once(self, migration: Migration, stop: threading.Event, until: float | None, follow: bool) -> None:
        with self.at_work(migration, stop, STARTING, reloads=True, role=_role(until, follow)) as job:
            if self._check is not None:
                job.await_first = self._check.wait
            Stages(job, environ=self._at.environ, read_progress=self._at.progress, until=until, follow=follow).run()


def _role(until: float | None, follow: bool) -> str:
    return "run" + (f" until {until:g} %" if until is not None else "") + (", and follow" if follow else "")


def _require_unpaused(conn: Connection, migration: Migration) -> None:
    if migration.phase.ended or migration.desired == "run":
        return
    if migration.condition is not Condition.FAILED:
        last = next((entry for entry in read_audit(conn, migration.id, 1000) if entry.act == "pause"), None)
        who = f" by {last.who} on {last.host}, {last.at:%Y-%m-%d %H:%M %Z}" if last else ""
        raise Refused(
            f"The migration of {migration.table} was paused{who}: {migration.reason}.",
            hint="`embedtui resume` lifts that; a run does not. `embedtui run --follow` waits for it.",
        )
