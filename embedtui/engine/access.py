"""A migration as one process reaches it: connections, its own settings, and who hears its events."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import psycopg

from embedtui.config import Settings
from embedtui.engine.backfill.job import now
from embedtui.engine.bridge.old_model import OldModel, ask_model, known_gone
from embedtui.engine.counting import Counter
from embedtui.engine.local_settings import as_set_here, differences
from embedtui.engine.overrides import refuse
from embedtui.engine.snapshot import RateMeter, read_snapshot, with_advice
from embedtui.engine.validate.evaluation import current_evaluation
from embedtui.errors import EmbedtuiError, Refused
from embedtui.known import retirement
from embedtui.model import Command, EvaluationStatus, Event, EventSink, Migration, Noted, Remedy, Snapshot
from embedtui.model.lifecycle import as_stored, ended, refusal
from embedtui.postgres.connect import Connection, Link, connect, lost, translate
from embedtui.postgres.state.audit import LOST_SECONDS, add_audit_once, note_lost_workers, tell_old_dead
from embedtui.postgres.state.migrations import load_migration, may_store_settings, store_settings
from embedtui.postgres.state.models import LIMITED_BY, forget_learnt
from embedtui.postgres.state.steering import set_pace
from embedtui.redaction import remember, secrets_of

T = TypeVar("T")


class Access:
    """What every room of the engine works with; safe to use from any thread."""

    def __init__(
        self,
        dsn: str,
        name: str | None,
        settings: Settings | None,
        on_event: EventSink | None,
        environ: Mapping[str, str] | None,
    ) -> None:
        """Nothing is opened yet; arguments as those of :class:`embedtui.engine.Engine`."""
        self.dsn = dsn
        self.settings = settings
        self.name = name or (settings.name if settings else None)
        self.on_event = on_event
        self.environ = environ if environ is not None else (settings.environ if settings else os.environ)
        self.own_pids = {os.getpid()}
        """Processes of this host that work for this object."""
        self._meter = RateMeter()
        self._old_said: str | None = None
        """What the old model said last, where it is for that taken to be dead."""
        self._noted: set[int] = set()
        """Workers that were found gone."""
        self.notes_lost = False
        """Whether looking at the state may tell the audit log of them."""
        self._counter = Counter(dsn)
        self._reads = Link(dsn, "screen", statement_timeout_ms=10_000)
        self._reads_lock = threading.Lock()

    def close(self) -> None:
        """Close the kept connection, and end what counts."""
        self._counter.close()
        with self._reads_lock:
            self._reads.drop()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run a short read on the kept connection; one retry where it had gone stale."""
        with self._reads_lock:
            for attempt in (1, 2):
                try:
                    return work(self._reads.get())
                except (psycopg.Error, EmbedtuiError) as error:
                    if not lost(error) or attempt == 2:
                        raise translate(error, dsn=self.dsn) from error
                    self._reads.drop()
            raise AssertionError("unreachable")

    def write(self, work: Callable[[Connection], T], *, name: str = "act") -> T:
        """Run an act on a connection of its own, so that nothing else can hold it up."""
        with self.open(name) as conn:
            return work(conn)

    def migration(self) -> Migration | None:
        """The migration as stored, with what this machine's settings say of it; None where none was begun."""
        stored = self.read(lambda conn: load_migration(conn, self.name))
        return None if stored is None else self.here(stored)

    def here(self, stored: Migration) -> Migration:
        """A loaded migration with what this machine's settings say of it."""
        return as_set_here(stored, self.settings, self.environ)

    def require(self) -> Migration:
        """The migration as stored.

        Raises:
            Refused: none was begun.
        """
        migration = self.migration()
        if migration is None:
            called = f" called {self.name}" if self.name else ""
            raise Refused(f"No migration{called} has begun in this database.", hint="Start it.", remedies=(Remedy.RUN,))
        return migration

    def progress(self) -> tuple[int, int | None, int]:
        """Rows done, rows in all (None: unknown), and workers alive."""
        now = self.snapshot()
        return now.backfill.rows, now.backfill.total, sum(worker.alive for worker in now.workers)

    def allowed(self, command: Command) -> Migration:
        """The migration, whose state allows ``command``.

        Raises:
            Refused: it does not, or none was begun.
        """
        migration = self.require()
        refuse(refusal(command, as_stored(migration)))
        return migration

    def under_way(self) -> Migration:
        """The migration, which has not ended.

        Raises:
            Refused: it has, or none was begun.
        """
        migration = self.require()
        refuse(ended(as_stored(migration)))
        return migration

    @contextlib.contextmanager
    def open(self, name: str, **options: Any) -> Iterator[Connection]:
        """A connection of its own; what psycopg raises becomes one of our errors.

        ``options`` are those of :func:`embedtui.postgres.connect.connect`.
        """
        try:
            with connect(self.dsn, name=name, **options) as conn:
                yield conn
        except psycopg.Error as error:
            raise translate(error, dsn=self.dsn) from error

    def connector(self, name: str) -> Callable[[], Connection]:
        """Opens connections for work that takes longer than a screen waits."""
        return connector(self.dsn, name)

    def snapshot(self, *, recount: bool = False) -> Snapshot:
        """The state as of now; a few cheap statements. ``recount``: no count of the rows from before is good enough."""
        if recount:
            self._counter.renew()

        def evaluation(conn: Connection, stored: Migration) -> EvaluationStatus | None:
            return current_evaluation(conn, self.here(stored))  # by the gate that a cutover from here would ask

        found = self.read(
            lambda conn: read_snapshot(conn, self.name, self._meter, evaluation, self.own_pids, self._counter.count)
        )
        if found.migration is None:
            return found
        if self.notes_lost:
            self._note_lost(found.migration.id, found)
        here = self.here(found.migration)
        ends = [retirement(model.provider, model.name) for model in (here.old_model, here.new_model)]
        notices = tuple(str(each) for each in ends if each is not None and each.near())
        gone = self.old_gone(here, found.old_gone)
        found = replace(found, migration=here, notices=() if here.phase.ended else notices, old_gone=gone)
        return with_advice(found)

    def _note_lost(self, migration_id: int, seen: Snapshot) -> None:
        """Have the log say that a worker is gone: nobody else may come for hours."""
        silent = {each.id for each in seen.workers if not each.alive and each.heartbeat_seconds > LOST_SECONDS}
        if not silent <= self._noted:
            self._noted |= silent
            with contextlib.suppress(EmbedtuiError):  # who may only watch writes nothing
                self.read(lambda conn: note_lost_workers(conn, migration_id))

    def old_gone(self, migration: Migration, told: str = "") -> str:
        """Why the old model is taken for dead, by what is known and what it said last; empty where it is not.

        ``told``: what it said to another process, which counts until it is asked here.
        """
        heard = told if self._old_said is None else self._old_said
        return "" if migration.phase.ended else known_gone(migration.old_model) or heard

    def ask_old_model(self, migration: Migration) -> OldModel:
        """Whether the old model answers, by one short request; what is heard counts for the snapshots to come.

        News is kept for every other process; who may only watch keeps it for itself.
        """
        found = ask_model(migration.old_model, self.environ)
        if not found.unknown:  # what cannot be told takes nothing back
            news, self._old_said = found.gone != self._old_said, found.gone
            if news and not known_gone(migration.old_model):
                with contextlib.suppress(EmbedtuiError):
                    self.write(lambda conn: tell_old_dead(conn, migration.id, found.gone))
        return found

    def reread(self) -> None:
        """Take over what the settings say now, where they can be read anew.

        Raises:
            SettingsError: one is unknown or wrong; all stay as they were.
        """
        if self.settings is None or self.settings.again is None:
            return
        found = self.settings.again(self.environ)
        remember(*secrets_of(found.environ, found.secret_variables))
        self.settings, self.environ = found, found.environ

    def to_begin_by(self) -> Settings | None:
        """The settings, where they say what to migrate; None: a migration goes on as it was begun."""
        if self.settings is not None and self.settings.table is None and self.migration() is not None:
            return None
        return self.settings

    def say_differences(self, before: Callable[[], None] = lambda: None) -> None:
        """What is set here otherwise than stored counts from now on; said, audited, and stored where we may.

        ``before`` is called first where there is anything.
        """

        def work(conn: Connection) -> str:
            stored = load_migration(conn, self.name)
            if stored is None:
                return ""
            here = self.here(stored)
            changed = differences(stored, here)
            found = "; ".join(map(str, changed))
            if found:
                with conn.transaction():
                    news = add_audit_once(conn, stored.id, "settings", found)
                    if news and any(each.path.rpartition(".")[2] in LIMITED_BY for each in changed):
                        forget_learnt(conn, here.old_model, here.new_model)
                    if may_store_settings(conn):
                        store_settings(conn, here)
                        # what operators have set since counts until the settings say something new
                        for path, value in ((each.path, each.here) for each in changed):
                            if path.startswith("pacing."):
                                set_pace(conn, stored.id, path.removeprefix("pacing."), value)
            return found

        stored = self.read(lambda conn: load_migration(conn, self.name))
        if stored is None:
            return
        here = self.here(stored)
        if differences(stored, here):
            before()
            if found := self.write(work):
                self.emit(Noted(now(), f"Settings: {found}"))
        for path, value in here.unsaid.items():
            self.emit(Noted(now(), f"Only the database says {path} = {value}: it is not followed here."))

    def emit(self, event: Event) -> None:
        """Hand an event to who listens."""
        if self.on_event is not None:
            self.on_event(event)

    def note(self, text: str) -> None:
        """Say something in passing."""
        self.emit(Noted(now(), text))

    def say_waiting(self, text: str) -> None:
        """Say what is waited for."""
        self.note(f"{text[:1].upper()}{text[1:]}")


def connector(dsn: str, name: str) -> Callable[[], Connection]:
    """Opens connections for work that takes longer than a screen waits."""
    return lambda: connect(dsn, name=name, statement_timeout_ms=600_000)
