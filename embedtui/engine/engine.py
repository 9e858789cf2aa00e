"""The facade: commands down, snapshots and events up; synchronous, and safe to call from any thread."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

import psycopg
from psycopg import sql

from embedtui.config import Settings
from embedtui.engine.backfill.embedding import ConfigurationFault
from embedtui.engine.backfill.job import Job, now
from embedtui.engine.backfill.pacing import Pacer, unblock
from embedtui.engine.backfill.stages import Stages, make_row_embedder
from embedtui.engine.backfill.throttle import Throttle
from embedtui.engine.backfill.worker import Worker
from embedtui.engine.cleanup import cleanup as cleanups
from embedtui.engine.cutover import cutover as cutovers
from embedtui.engine.local import as_set_here, differences, require_said
from embedtui.engine.overrides import Overrides
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.start import require_startable
from embedtui.engine.plan.statements import index_options
from embedtui.engine.prepare import begin, prepare, upgrade
from embedtui.engine.resilience import with_database
from embedtui.engine.snapshot import RateMeter, read_snapshot
from embedtui.engine.table_changes import follow as follow_table
from embedtui.engine.table_changes import remember as remember_columns
from embedtui.engine.table_changes import same_names, table_change
from embedtui.engine.validate import queries as queries_module
from embedtui.engine.validate.compare import ad_hoc, compare
from embedtui.engine.validate.evaluation import current_evaluation, remembered, with_verdicts
from embedtui.engine.validate.gate import decide_gate
from embedtui.engine.validate.run import CompareOptions
from embedtui.engine.validate.verify import count_rows, sample_rows
from embedtui.errors import (
    DatabaseError,
    DatabaseLost,
    EmbedtuiError,
    Interrupted,
    ProviderError,
    Refused,
    TableChanged,
    TableError,
)
from embedtui.formatting import counted
from embedtui.model import (
    AuditEntry,
    Blocker,
    Check,
    Comparison,
    Condition,
    Event,
    EventSink,
    Failed,
    FaultClass,
    FaultRow,
    FaultState,
    Flip,
    IndexMethod,
    IndexStatus,
    Key,
    Migration,
    Noted,
    Phase,
    PhaseChanged,
    Plan,
    QueryComparison,
    QueryInput,
    Remedy,
    RouteFlipped,
    Side,
    Snapshot,
    VerifyReport,
)
from embedtui.postgres import indexes
from embedtui.postgres.connect import Connection, Link, connect, lost, translate
from embedtui.postgres.locks import ALIVE
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.state.audit import add_audit, add_audit_once, read_audit
from embedtui.postgres.state.migrations import (
    load_migration,
    may_store_settings,
    set_condition,
    set_desired,
    set_index_held,
    store_settings,
)
from embedtui.postgres.state.queue import queue_keys
from embedtui.providers import Embedder, ProviderFault, endpoint, make_embedder
from embedtui.providers.start import NO_API, first_answer

T = TypeVar("T")

REPAIR_LIMIT = 100_000
"""Rows that ``verify --repair`` queues at a time."""


_NO_MIGRATION = Blocker("no migration", "Nothing is migrated yet.", "Start it.", remedies=(Remedy.RUN,))


def connector(dsn: str, name: str) -> Callable[[], Connection]:
    """Opens connections for work that takes longer than a screen waits."""
    return lambda: connect(dsn, name=name, statement_timeout_ms=600_000)


class Engine:
    """One migration, as seen from one process. Several may work on it, on several hosts."""

    outlives = False
    """Whether the work of :meth:`run` can go on without this process."""

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
        self.dsn = dsn
        self.settings = settings
        self._name = name or (settings.name if settings else None)
        self._on_event = on_event
        self._environ = environ if environ is not None else (settings.environ if settings else os.environ)
        self._meter = RateMeter()
        self._reads = Link(dsn, "screen", statement_timeout_ms=10_000)
        self._reads_lock = threading.Lock()
        self._own_pids = {os.getpid()}
        """Processes of this host that work for this object."""

    def close(self, *, detach: bool = False) -> None:
        """Close the connections this object keeps; running commands are stopped through their own signal.

        ``detach``: work that can outlive this process (``outlives``) goes on.
        """
        with self._reads_lock:
            self._reads.drop()

    # ------------------------------------------------------------------------------------------------------ reads

    def _read(self, work: Callable[[Connection], T]) -> T:
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

    def _write(self, work: Callable[[Connection], T], *, name: str = "act") -> T:
        """Run an act on a connection of its own, so that nothing else can hold it up."""
        try:
            with connect(self.dsn, name=name) as conn:
                return work(conn)
        except psycopg.Error as error:
            raise translate(error, dsn=self.dsn) from error

    def migration(self) -> Migration | None:
        """The migration as stored, with what this machine's settings say of it; None where none was begun."""
        stored = self._read(lambda conn: load_migration(conn, self._name))
        return None if stored is None else self._here(stored)

    def _here(self, stored: Migration) -> Migration:
        return as_set_here(stored, self.settings, self._environ)

    def require(self) -> Migration:
        """The migration as stored.

        Raises:
            Refused: none was begun.
        """
        migration = self.migration()
        if migration is None:
            called = f" called {self._name}" if self._name else ""
            raise Refused(f"No migration{called} has begun in this database.", hint="Start it.", remedies=(Remedy.RUN,))
        return migration

    def snapshot(self) -> Snapshot:
        """The state as of now; a few cheap statements."""
        found = self._read(
            lambda conn: read_snapshot(conn, self._name, self._meter, current_evaluation, self._own_pids)
        )
        return found if found.migration is None else replace(found, migration=self._here(found.migration))

    def audit(self, limit: int = 200) -> tuple[AuditEntry, ...]:
        """The audit log, newest first."""
        migration = self.migration()
        return self._read(lambda conn: read_audit(conn, migration.id, limit)) if migration else ()

    def faults(
        self, limit: int = 200, offset: int = 0, reason: str | None = None, state: FaultState | None = None
    ) -> tuple[FaultRow, ...]:
        """Faulty rows, oldest first, of one reason or state where given."""
        migration = self.require()
        return self._read(
            lambda conn: tuple(
                FaultRow(number, tuple(key), Side(side), FaultClass(kind), why, attempts, FaultState(now_is), seen)
                for number, key, side, kind, why, attempts, now_is, seen in conn.execute(
                    "SELECT id, key, side, class, reason, attempts, state, last_seen FROM embedtui.fault"
                    " WHERE migration = %(m)s AND (%(r)s::text IS NULL OR reason = %(r)s)"
                    " AND (%(s)s::text IS NULL OR state = %(s)s) ORDER BY id LIMIT %(n)s OFFSET %(o)s",
                    {"m": migration.id, "r": reason, "s": state and state.value, "n": limit, "o": offset},
                )
            )
        )

    def plan(self) -> Plan:
        """What a migration would do; read-only.

        Raises:
            EmbedtuiError: the settings, the table or the server cannot serve.
        """
        settings = self._require_settings()
        try:
            with connect(self.dsn, name="plan", read_only=True) as conn:
                return make_plan(conn, settings)
        except psycopg.Error as error:
            raise translate(error, dsn=self.dsn) from error

    def _require_settings(self) -> Settings:
        if self.settings is None:
            raise Refused("No settings are given.", hint="Make them with `embedtui init`.")
        return self.settings

    def _to_begin_by(self) -> Settings | None:
        """The settings, where they say what to migrate; None: a migration goes on as it was begun."""
        if self.settings is not None and self.settings.table is None and self.migration() is not None:
            return None
        return self.settings

    # ----------------------------------------------------------------------------------------------- small commands

    def pause(self, reason: str = "") -> None:
        """Hold the work everywhere until ``resume``; requests in flight are finished and stored."""
        migration = self._live()

        def work(conn: Connection) -> None:
            with conn.transaction():
                set_condition(conn, migration.id, Condition.IDLE)  # what had failed is now an operator's to lift
                set_desired(conn, migration.id, "pause", reason or "paused by the operator")

        self._write(work)

    def resume(self) -> None:
        """Let the work go on, everywhere."""
        migration = self._live()
        self._write(lambda conn: self._resume(conn, migration))

    def _resume(self, conn: Connection, migration: Migration) -> None:
        with conn.transaction():
            set_desired(conn, migration.id, "run")
            set_condition(conn, migration.id, Condition.IDLE)
            unblock(conn, migration.id)

    def stop_workers(self, ids: Sequence[int] | None = None) -> int:
        """Ask worker processes (None: all), wherever they run, to stop cleanly; how many were asked.

        Each hears it within about a second, finishes its requests in flight, stores them and ends.
        """
        migration = self.require()

        def work(conn: Connection) -> int:
            with conn.transaction():
                asked = conn.execute(
                    "UPDATE embedtui.worker w SET stop_wanted = true WHERE migration = %s AND stopped_at IS NULL"
                    f" AND {ALIVE.format('w.id')} AND (%s::integer[] IS NULL OR id = ANY (%s)) RETURNING host, pid",
                    [migration.id, *[list(ids) if ids is not None else None] * 2],
                ).fetchall()
                if asked:
                    add_audit(conn, migration.id, "stop", ", ".join(f"{host}:{pid}" for host, pid in asked))
            return len(asked)

        return self._write(work)

    def _live(self) -> Migration:
        migration = self.require()
        if migration.phase.ended:
            raise Refused(f"The migration of {migration.table} is {migration.phase}.")
        return migration

    def set_pace(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrency: int | None = None,
        spend_cap: float | None = None,
    ) -> None:
        """Change the pace of all workers while they run; None leaves a knob as it is, 0 takes the limit away."""
        migration = self._live()
        knobs: dict[str, float | int | None] = {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "max_concurrency": max_concurrency,
            "spend_cap": spend_cap,
        }
        changed = {name: value for name, value in knobs.items() if value is not None}
        if any(value < 0 for value in changed.values() if value is not None) or changed.get("max_concurrency") == 0:
            raise Refused("A pace cannot be negative, and concurrency has to be at least 1.")

        def work(conn: Connection) -> None:
            with conn.transaction():
                for name, value in changed.items():
                    conn.execute(
                        sql.SQL("UPDATE embedtui.pace SET {} = %s WHERE migration = %s").format(sql.Identifier(name)),
                        [value or None, migration.id],
                    )
                add_audit(conn, migration.id, "pace", ", ".join(f"{name} {value}" for name, value in changed.items()))

        if changed:
            self._write(work)

    def retry_faults(self, ids: Sequence[int] | None = None) -> int:
        """Embed faulty rows again; how many."""
        return self._decide_faults(ids, FaultState.RETRY)

    def truncate_faults(self, ids: Sequence[int] | None = None) -> int:
        """Embed faulty rows again, their texts cut to what the model takes; how many."""
        return self._decide_faults(ids, FaultState.TRUNCATE)

    def skip_faults(self, ids: Sequence[int] | None = None) -> int:
        """Leave faulty rows without a new vector; how many."""
        return self._decide_faults(ids, FaultState.SKIPPED)

    def _decide_faults(self, ids: Sequence[int] | None, state: FaultState) -> int:
        migration = self._live()

        def work(conn: Connection) -> int:
            with conn.transaction():
                rows = conn.execute(
                    "UPDATE embedtui.fault SET state = %(s)s WHERE migration = %(m)s"
                    " AND (%(ids)s::bigint[] IS NULL AND state = 'open' OR id = ANY (%(ids)s)) RETURNING key",
                    {"s": state.value, "m": migration.id, "ids": list(ids) if ids is not None else None},
                ).fetchall()
                if state is not FaultState.SKIPPED:
                    queue_keys(conn, migration.id, [tuple(key) for (key,) in rows])
                add_audit(conn, migration.id, f"faults {state}", counted(len(rows), "row", "rows"))
            return len(rows)

        return self._write(work)

    # -------------------------------------------------------------------------------------------------------- work

    def prepare(self, stop: threading.Event | None = None) -> Migration:
        """Phase ``prepare`` alone; a no-op where it is done."""
        with self._reached("prepare") as link:
            return self._prepare(link, stop or threading.Event())

    def _prepare(self, link: Link, stop: threading.Event) -> Migration:
        def begun(conn: Connection) -> Migration:
            upgrade(conn)
            settings = self._to_begin_by()
            return begin(conn, self.dsn, settings) if settings is not None else self.require()

        migration = self._ride_out(link, begun, stop)
        self._name = migration.name
        if migration.phase is Phase.PREPARE:
            self._emit(PhaseChanged(now(), "Preparing", Phase.PREPARE))
            with self._at_work(migration, stop, "preparing") as job:
                with_database(
                    link,
                    lambda conn: prepare(conn, migration, job.stop, self._say_waiting),
                    stop=job.stop,
                    on_lost=lambda message: job.hold("database", message),
                    on_back=lambda: job.release("database"),
                )
            self._emit(PhaseChanged(now(), "Phase: backfill", Phase.BACKFILL))
        return self._ride_out(link, lambda conn: self.require(), stop)

    @contextlib.contextmanager
    def _reached(self, name: str) -> Iterator[Link]:
        """A connection for the start of the work. A database that cannot be reached at first is said at once."""
        link = Link(self.dsn, name)
        try:
            try:
                link.get()
            except DatabaseLost as error:
                if getattr(error.__context__, "sqlstate", None) is None:
                    raise
                # it was reached, and cut the session
            yield link
        finally:
            link.drop()

    def _ride_out(self, link: Link, work: Callable[[Connection], T], stop: threading.Event) -> T:
        """Run ``work`` as the later stages do: a lost session or a lock only delays it."""
        return with_database(
            link,
            work,
            stop=stop,
            on_lost=lambda message: self._emit(Noted(now(), f"Waiting for the database: {message}")),
            on_back=lambda: self._emit(Noted(now(), "The database answers.")),
        )

    def run(self, stop: threading.Event, *, until: float | None = None, follow: bool = False) -> Snapshot:
        """Prepare, backfill, index; blocks. Goes on where it was left; other processes may work beside it.

        Args:
            stop: set it to stop; what is paid for is stored, and the next run goes on.
            until: stop once this share of the rows is done, in percent.
            follow: go on keeping both sides current until stopped, and wait out a pause or a wrong setting.

        Raises:
            Interrupted: stopped.
            Refused: the settings describe another migration than the one under way, it has ended, or an operator paused
                it (without ``follow``, which waits for ``resume``).
            TableChanged: the application's DDL left nothing that the migration could go on with.
            ProviderError: the provider refuses us as configured (without ``follow``, or before anything has begun).
            EmbedtuiError: anything else that waiting does not mend.
        """
        with self._reached("prepare") as link:
            self._ride_out(link, upgrade, stop)
            self._ride_out(link, lambda conn: self._require_startable(), stop)
            if not follow:
                self._ride_out(link, self._require_unpaused, stop)
            migration = self._prepare(link, stop)
            if migration.phase.ended:
                raise Refused(f"The migration of {migration.table} is {migration.phase}.")
            require_said(migration, "new_model.")
            self._ride_out(link, lambda conn: self._require_provider(migration, stop), stop)
            self._ride_out(link, lambda conn: self._say_differences(), stop)
            if migration.desired == "pause" and not follow:  # by ourselves, for what had failed
                self._ride_out(link, lambda conn: self.resume(), stop)
        while True:
            try:
                migration = self._follow_table(stop)
                self._run_once(migration, stop, until, follow)
                return self.snapshot()
            except (ConfigurationFault, DatabaseError, TableError) as error:
                fault = error if isinstance(error, ConfigurationFault) else self._table_changed(migration, error)
                if fault is None:  # safe to go on with
                    continue
                self._pause_for(migration, fault)
                if not follow:
                    raise fault from error
                if not self._wait_for_mend(stop):
                    return self.snapshot()

    def _require_unpaused(self, conn: Connection) -> None:
        migration = load_migration(conn, self._name)
        if migration is None or migration.phase.ended or migration.desired == "run":
            return
        if migration.condition is not Condition.FAILED:
            last = next((entry for entry in read_audit(conn, migration.id, 1000) if entry.act == "pause"), None)
            who = f" by {last.who} on {last.host}, {last.at:%Y-%m-%d %H:%M %Z}" if last else ""
            raise Refused(
                f"The migration of {migration.table} was paused{who}: {migration.reason}.",
                hint="`embedtui resume` lifts that; a run does not. `embedtui run --follow` waits for it.",
            )

    def _follow_table(self, stop: threading.Event) -> Migration:
        """The migration as stored, brought in line with what the application's DDL did to its table.

        Raises:
            TableChanged: nothing is left that it could go on with.
        """

        def work(conn: Connection) -> None:
            migration = self.require()
            change = table_change(conn, migration)
            if change is None:
                remember_columns(conn, migration)
            else:
                follow_table(conn, migration, change, stop, self._say_waiting)
                self._emit(Noted(now(), f"Going on: {'; '.join(change.what)}"))

        link = Link(self.dsn, "prepare")
        try:
            self._ride_out(link, work, stop)
            return self._ride_out(link, lambda conn: self.require(), stop)
        finally:
            link.drop()

    def _table_changed(self, worked: Migration, error: EmbedtuiError) -> TableChanged | None:
        """What the application did to the table, where that is what ended the work; None: it is safe to go on with.

        Raises the error itself where the table is as it was.
        """
        migration = self.require()
        change = self._read(lambda conn: table_change(conn, migration))
        if change is None:
            if same_names(worked, migration):
                raise error
            return None  # another process went on with it already
        return None if change.safe else change.error()

    @contextlib.contextmanager
    def _at_work(self, migration: Migration, stop: threading.Event, doing: str) -> Iterator[Job]:
        """Inside, this process is a worker that everybody sees and can stop, through ``job.stop``."""
        job = Job(self.dsn, migration, self._on_event)
        try:
            with Worker(job, stop, Throttle.of(migration)):
                job.doing(doing)
                yield job
        except Interrupted:
            if job.pending_failure is None:
                raise
        if job.pending_failure is not None:
            raise job.pending_failure

    def _wait_for_mend(self, stop: threading.Event) -> bool:
        """Wait until somebody resumes; False: the migration has ended meanwhile."""
        migration = self.require()
        with self._at_work(migration, stop, "waiting to be resumed") as job:
            while migration.desired == "pause" and not migration.phase.ended:
                if job.stop.wait(0.5):
                    raise Interrupted("Stopped.", hint="Run again to go on.")
                with contextlib.suppress(DatabaseLost):  # the worker says so
                    migration = self.require()
        return not migration.phase.ended

    def _require_startable(self) -> None:
        """Whoever starts it, a wrong key or another migration's settings are said before anything is changed."""
        settings = self._to_begin_by()
        if settings is not None:
            with connect(self.dsn, name="check", read_only=True) as conn:
                require_startable(conn, settings)

    def _say_differences(self) -> None:
        """What is set here otherwise than stored counts from now on; said, audited, and stored where we may."""

        def work(conn: Connection) -> str:
            stored = load_migration(conn, self._name)
            if stored is None:
                return ""
            here = self._here(stored)
            found = "; ".join(map(str, differences(stored, here)))
            if found:
                with conn.transaction():
                    add_audit_once(conn, stored.id, "settings", found)
                    if may_store_settings(conn):
                        store_settings(conn, here)
            return found

        found = self._write(work)
        if found:
            self._emit(Noted(now(), f"Settings: {found}"))
        for path, value in self.require().unsaid.items():
            self._emit(Noted(now(), f"Only the database says {path} = {value}: it is not followed here."))

    def _require_provider(self, migration: Migration, stop: threading.Event) -> None:
        """A key that this process lacks, or has wrong while others work, is its own affair and pauses nobody.

        Nor does an endpoint that answers, and not with embeddings; what may pass is for the work to wait out.
        """
        others = any(worker.alive for worker in self.snapshot().workers)

        def say(fault: ProviderFault) -> None:
            if fault.fault_class is FaultClass.PROVIDER:
                self._emit(Failed(now(), f"Provider: {fault.reason}", fault.fault_class, fault.hint))

        asked = False
        try:
            endpoint(migration.new_model, self._environ)
            with closing(make_embedder(migration.new_model, timeout=20, environ=self._environ)) as embedder:
                asked = True
                first_answer(embedder, migration.new_model, stop=stop, on_fault=say)
        except ProviderFault as fault:
            own = others or not asked or fault.code in NO_API
            if own and fault.fault_class is FaultClass.CONFIGURATION:
                raise ProviderError(fault.reason, hint=fault.hint) from None

    def _pause_for(self, migration: Migration, fault: EmbedtuiError) -> None:
        def work(conn: Connection) -> None:
            with conn.transaction():
                set_desired(conn, migration.id, "pause", str(fault))
                set_condition(conn, migration.id, Condition.FAILED, str(fault))

        self._write(work)
        self._emit(Failed(now(), fault.message, FaultClass.CONFIGURATION, fault.hint))

    def _emit(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _progress(self) -> tuple[int, int | None, int]:
        now = self.snapshot()
        return now.backfill.rows, now.backfill.total, sum(worker.alive for worker in now.workers)

    def _run_once(self, migration: Migration, stop: threading.Event, until: float | None, follow: bool) -> None:
        with self._at_work(migration, stop, "starting") as job:
            Stages(
                job,
                environ=self._environ,
                read_progress=self._progress,
                until=until,
                follow=follow,
            ).run()

    # ----------------------------------------------------------------------------------------------------- evidence

    def compare(
        self,
        queries: Sequence[QueryInput] | None = None,
        *,
        k: int = 10,
        where: str | None = None,
        source: str = "",
        again: bool = False,
        replica_dsn: str | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Comparison:
        """Compare both sides over ``queries`` (None: those kept, else rows of the table), decide the gate, record both.

        ``where`` is the application's own filter, trusted SQL (None: that of the settings).

        Raises:
            NotClean: no row has both vectors.
            ProviderError: the new model does not answer.
            Interrupted: ``stop`` was set.
        """
        migration = self._live()
        try:
            with self._query_embedders(migration) as embedders:
                comparison = compare(
                    self._connect("compare"),
                    migration,
                    queries,
                    CompareOptions(k=k, where=_filter(migration, where), source=source, again=again),
                    embedders=embedders,
                    replica=connector(replica_dsn, "compare") if replica_dsn else None,
                    progress=progress,
                    stop=stop,
                )
            return decide_gate(self._connect("gate"), migration, comparison, migration.stored.gate)
        except psycopg.Error as error:
            raise translate(error, dsn=self.dsn) from error

    def last_comparison(self) -> Comparison | None:
        """The newest recorded comparison with its rankings; None where there is none."""
        migration = self.require()
        return self._read(lambda conn: remembered(conn, migration))

    def with_verdicts(self, comparison: Comparison) -> Comparison:
        """``comparison`` with the operators' present verdicts, summed up."""
        return self._read(lambda conn: with_verdicts(conn, comparison))

    def search_both(self, text: str, *, k: int = 10, where: str | None = None) -> QueryComparison:
        """Both sides' results of a typed query, ``where`` as in :meth:`compare`."""
        migration = self._live()
        try:
            with self._query_embedders(migration) as embedders:
                return ad_hoc(
                    self._connect("compare"),
                    migration,
                    text,
                    k=k,
                    embedders=embedders,
                    where=_filter(migration, where),
                )
        except ProviderFault as fault:
            raise ProviderError(fault.reason, hint=fault.hint) from None
        except psycopg.Error as error:
            raise translate(error, dsn=self.dsn) from error

    def decide(self, query_id: int, verdict: str, note: str | None = None) -> None:
        """Keep the operator's verdict on a query: ``new``, ``old``, ``same`` or ``bad``; note None keeps its own."""
        self._write(lambda conn: queries_module.decide(conn, query_id, verdict, note))

    @contextlib.contextmanager
    def _query_embedders(self, migration: Migration) -> Iterator[dict[Side, Embedder | None]]:
        found: dict[Side, Embedder | None] = {}
        require_said(migration, "new_model.")
        with contextlib.ExitStack() as opened:
            for side, model in ((Side.OLD, migration.old_model), (Side.NEW, migration.new_model)):
                try:
                    embedder = None if model.retired else make_embedder(model, environ=self._environ)
                except ProviderFault as fault:
                    if side is Side.NEW:
                        raise ProviderError(fault.reason, hint=fault.hint) from None
                    embedder = None
                if embedder is not None:
                    opened.callback(embedder.close)
                found[side] = embedder
            yield found

    def _connect(self, name: str) -> Callable[[], Connection]:
        return connector(self.dsn, name)

    # -------------------------------------------------------------------------------------------------------- proof

    def verify(self, *, sample: int = 0, repair: bool = False, stop: threading.Event | None = None) -> VerifyReport:
        """Scan every row; embed ``sample`` random rows again and compare; queue what is wrong where ``repair``.

        Raises:
            ProviderError: the provider refuses us (only with ``sample``).
            Refused: the migration has ended, and with it what tells a vector's model and content.
        """
        migration = self._live()
        placement = make_placement(migration)
        stop = stop or threading.Event()
        wrong: tuple[Key, ...] = ()
        try:
            with connect(self.dsn, name="verify", statement_timeout_ms=0) as conn:
                placement.forget_gone(conn)
                report = count_rows(conn, placement)
                if sample:
                    require_said(migration, "new_model.")
                    job = Job(self.dsn, migration, self._on_event)
                    with (
                        closing(Pacer(self.dsn, migration)) as pacer,
                        closing(make_row_embedder(migration.new_model, self._environ, pacer, job)) as embedder,
                    ):
                        compared, wrong = sample_rows(conn, placement, embedder, sample, stop)
                    report = replace(report, sampled=compared, mismatched=len(wrong))
                if repair:
                    keys = list(dict.fromkeys([*placement.sweep(conn, REPAIR_LIMIT), *wrong]))
                    with conn.transaction():
                        placement.forget_source(conn, list(wrong))
                        queue_keys(conn, migration.id, keys)
                        add_audit(conn, migration.id, "repair", f"{counted(len(keys), 'row', 'rows')} queued")
                add_audit(conn, migration.id, "verify", "clean" if report.clean else "not clean")
                return report
        except psycopg.Error as error:
            raise translate(error, dsn=self.dsn) from error

    # ------------------------------------------------------------------------------------------------------- switch

    def blockers(self, action: str, percent: int = 100, *, thorough: bool = False) -> tuple[Blocker, ...]:
        """Why an act is impossible now and what would release it; empty where it is possible.

        Args:
            action: ``run``, ``index``, ``cutover``, ``rollback``, ``cleanup`` or ``abort``.
            percent: share of the keys a cutover would move.
            thorough: of a cleanup: also read the table for rows that would lose their only vector.
        """
        migration = self.migration()
        if migration is None:
            return () if action == "run" else (_NO_MIGRATION,)
        if migration.phase.ended:
            return (Blocker("ended", f"The migration of {migration.table} is {migration.phase}."),)
        try:
            with connect(self.dsn, name="gate") as conn:
                if action == "cutover":
                    return cutovers.cutover_blockers(conn, migration, current_evaluation(conn, migration), percent)
                if action == "rollback":
                    return cutovers.rollback_blockers(conn, migration)
                if action == "cleanup":
                    return cleanups.cleanup_blockers(conn, migration, cleanups.CleanupChoice(), thorough=thorough)
                if action == "abort":
                    return cleanups.abort_blockers(conn, migration)
        except psycopg.Error as error:
            raise translate(error, dsn=self.dsn) from error
        return ()

    def notices(self) -> tuple[Check, ...]:
        """What an operator should know before the cutover, though it blocks nothing."""
        migration = self._live()
        return self._write(lambda conn: cutovers.cutover_notices(conn, migration), name="gate")

    def cutover(
        self,
        percent: int = 100,
        *,
        override: Overrides = MappingProxyType({}),
        stop: threading.Event | None = None,
    ) -> Flip:
        """Move ``percent`` of the keys' reads, or all, to the new side; a repeat is a no-op.

        Raises:
            Refused: something blocks it that ``override`` does not pass (reasons by blocker), or another was first.
        """
        migration = self._live()
        self._say_differences()
        gate = self._read(lambda conn: current_evaluation(conn, migration))
        flip = cutovers.cutover(
            self.dsn, migration, percent, gate=gate, override=override, stop=stop, on_wait=self._say_waiting
        )
        return self._flipped(flip)

    def rollback(self, *, stop: threading.Event | None = None) -> Flip:
        """Move all reads back to the old side, at once, on a connection of its own; a repeat is a no-op."""
        with connect(self.dsn, name="rollback") as conn:
            migration = load_migration(conn, self._name)
        if migration is None:
            raise Refused("No migration has begun in this database.", hint="Start it.", remedies=(Remedy.RUN,))
        here = self._here(migration)
        return self._flipped(cutovers.rollback(self.dsn, here, stop=stop, on_wait=self._say_waiting))

    def postpone(self, percent: int = 100, *, override: Overrides = MappingProxyType({})) -> None:
        """Cut over by itself once the sync queue is empty; a worker has to be running."""
        migration = self._live()
        self._say_differences()
        gate = self._read(lambda conn: current_evaluation(conn, migration))
        cutovers.postpone(self.dsn, migration, percent, gate=gate, override=override)

    def cancel_postponed(self) -> bool:
        """Take a postponed cutover back; False where there is none."""
        return cutovers.cancel_postponed(self.dsn, self._live())

    def _say_waiting(self, text: str) -> None:
        self._emit(Noted(now(), f"{text[:1].upper()}{text[1:]}"))

    def _flipped(self, flip: Flip) -> Flip:
        text = f"The {flip.active} side serves" + (f", {flip.canary} % canary" if flip.canary not in (0, 100) else "")
        if flip.changed:
            self._emit(RouteFlipped(now(), text, flip.active, flip.canary, flip.epoch, flip.milliseconds))
        return flip

    def hold_index(self, held: bool = True) -> None:
        """Keep the workers from building the index, and take back a build under way; or let them."""
        migration = self._live()
        if held and migration.index_method is IndexMethod.NONE:
            raise Refused("This migration is set to have no index.")
        if held and migration.phase not in (Phase.PREPARE, Phase.BACKFILL, Phase.INDEX):
            raise Refused(f"The migration is in phase {migration.phase}: the workers build no index any more.")
        if held != migration.index_held:
            self._write(lambda conn: set_index_held(conn, migration.id, held))

    def build_index(self, stop: threading.Event | None = None) -> IndexStatus:
        """Build the new side's index now, whatever the phase, and also where it was held; blocks until it is valid.

        Raises:
            Interrupted: ``stop`` was set; the build is cancelled.
        """
        migration = self._live()
        if migration.phase in (Phase.PLAN, Phase.PREPARE):
            raise Refused("There is no new side to index yet.", hint="Run the migration first.")
        self.hold_index(False)
        try:
            indexes.build(
                lambda: connect(self.dsn, name="index", statement_timeout_ms=0, lock_timeout_ms=0),
                migration,
                index_options(migration),
                stop or threading.Event(),
                None,
            )
        except psycopg.Error as error:
            raise translate(error, dsn=self.dsn) from error
        return self._read(lambda conn: indexes.index_status(conn, migration))

    # ------------------------------------------------------------------------------------------------------ the end

    def cleanup_sql(
        self,
        *,
        rename: bool = True,
        archive: str | None = None,
        keep_old: bool = False,
        keep_provenance: bool = False,
    ) -> tuple[str, ...]:
        """The exact SQL that a cleanup would run, in order; arguments as in :meth:`cleanup`."""
        migration = self.require()
        choice = _choice(rename, archive, keep_old, keep_provenance)
        steps = self._write(lambda conn: cleanups.cleanup_statements(conn, migration, choice), name="cleanup")
        return tuple(statement for step in steps for statement in step.statements)

    def cleanup(
        self,
        typed_name: str,
        *,
        rename: bool = True,
        override: Overrides = MappingProxyType({}),
        archive: str | None = None,
        keep_old: bool = False,
        keep_provenance: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        """Drop the old side and finish; run again after an interruption, it completes what was begun.

        Args:
            typed_name: has to be the table's name.
            rename: the new column and its index take the old one's names.
            override: reasons by blocker, ``{"soak": "…"}``; with the number of rows where any would lose their only
                vector, ``{"coverage:73": "…"}``; audited.
            archive: a table or file that keeps the old vectors.
            keep_old: leave the old column and its index; only embedtui's own traces go.
            keep_provenance: leave the columns that say of each new vector its model and the content's fingerprint.
            stop: set it to interrupt between steps.

        Raises:
            Refused: something stands against it, or the name is another.
        """
        migration = self.require()

        def work(conn: Connection) -> None:
            cleanups.cleanup(
                conn,
                migration,
                _choice(rename, archive, keep_old, keep_provenance),
                typed_name=typed_name,
                stop=stop or threading.Event(),
                override=override,
                on_step=lambda step: self._emit(Noted(now(), f"Cleanup: {step.name}: {step.detail}")),
                on_wait=self._say_waiting,
            )

        self._write(work, name="cleanup")
        self._emit(PhaseChanged(now(), "Done", Phase.DONE))

    def abort(self, typed_name: str, *, stop: threading.Event | None = None) -> str:
        """Take everything back to before ``prepare``; gives what was done, and what is left, in a sentence or two.

        Raises:
            Refused: production reads the new side, something depends on it, or the name is another.
        """
        migration = self.require()

        def work(conn: Connection) -> str:
            return cleanups.abort(
                conn,
                migration,
                typed_name=typed_name,
                stop=stop or threading.Event(),
                on_step=lambda step: self._emit(Noted(now(), f"Abort: {step.name}: {step.detail}")),
                on_wait=self._say_waiting,
            )

        done = self._write(work, name="abort")
        self._emit(PhaseChanged(now(), f"Aborted. {done}", Phase.ABORTED))
        return done


def _choice(rename: bool, archive: str | None, keep_old: bool, keep_provenance: bool) -> cleanups.CleanupChoice:
    return cleanups.CleanupChoice(
        rename=rename,
        keep_old=keep_old,
        keep_provenance=keep_provenance,
        archive=cleanups.archive_target(archive) if archive is not None else None,
    )


def _filter(migration: Migration, where: str | None) -> str:
    """Raises Refused: only the database has one, and SQL of others does not run with our rights."""
    if where is None:
        require_said(migration, "gate.where")
        return migration.stored.gate.where
    return where
