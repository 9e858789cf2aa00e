"""The index as a stage of the work: held back, built, tried again with less, and given up with what to do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import psycopg
from psycopg import errors

from embedtui.config import IndexSettings
from embedtui.engine.backfill.job import IDLE_SECONDS, Job, now
from embedtui.engine.plan.statements import index_options
from embedtui.errors import DatabaseError, EmbedtuiError, Interrupted
from embedtui.formatting import percent
from embedtui.model import IndexMethod, IndexStatus, Migration, Phase, Progressed
from embedtui.postgres import indexes
from embedtui.postgres.catalog.server import build_memory
from embedtui.postgres.connect import Connection, Link, connect, exhausted, lost, retryable, short_of_memory, translate
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.migrations import load_migration, set_index_held
from embedtui.postgres.state.workers import Wanted

TRIES = 3
"""Times that one index is begun and broken off by the server. Each may take hours, and all of the server's sessions
along: a process that the kernel ends for want of memory restarts the server."""
LEAST_MEMORY = 16 << 20
"""Less is not tried: a build that crawls for days is no mend."""
LESS = 4
"""A try after one without parallel workers takes so many times less memory."""

GIVEN_UP = (
    "See the server's log for why (out of memory?). Give the server more memory, or set index.maintenance_work_mem and"
    " index.parallel_workers lower"
)


class IndexStage:
    """Builds the index of one migration, on the run's main thread."""

    def __init__(self, job: Job, link: Link, *, lasting: bool, why_stopped: Callable[[], EmbedtuiError]) -> None:
        """``lasting``: the run stays, so that a build given up is held until an operator asks for it again."""
        self._job, self._link, self._lasting, self._why_stopped = job, link, lasting, why_stopped
        self._tries: Counter[str] = Counter()
        """How often each index was begun and broken off."""
        self._begun = ""
        """The index whose CREATE INDEX is under way."""
        self._options: IndexSettings | None = None
        """With less than the settings ask for, once that was too much."""
        self._given_up = ""
        """Why this run does not try again unasked."""
        self._waits_for_owner = False
        """This role may neither build it nor hold it back."""

    def run(self) -> None:
        """Build the index, unless none is wanted; with holds and pauses obeyed.

        Raises:
            Interrupted: the job was stopped.
            DatabaseError: the server cannot build it as things are.
        """
        migration = self._job.migration
        if migration.index_method is IndexMethod.NONE:
            return
        done = None
        while done is None:
            if not self._await_release():
                return
            try:
                done = self._build(migration)
            except DatabaseError as error:
                if not self._lasting:
                    raise
                self._hold_back(error)
        if done.built:
            text = f"{done.name} built in {done.seconds:.1f} s"
            self._job.with_database(self._link, lambda conn: add_audit(conn, migration.id, "index", text))
        for notice in done.notices:
            self._job.note(notice)

    def _hold_back(self, error: DatabaseError) -> None:
        """Who follows goes on with sync: an operator looks, mends and releases the index."""
        migration = self._job.migration

        def hold(conn: Connection) -> None:
            with conn.transaction():
                try:
                    with conn.transaction():
                        set_index_held(conn, migration.id, True)
                except errors.InsufficientPrivilege:
                    self._waits_for_owner = True
                add_audit(conn, migration.id, "index failed", error.message)

        self._job.with_database(self._link, hold)
        self._job.failed(f"The index is held back: {error.message}", hint=f"{error.hint} Then: embedtui index.")
        self._given_up = error.message
        self._tries.clear()
        self._options = None

    def _await_release(self) -> bool:
        """Wait while the operators hold the index back; sync goes on meanwhile. Whether it is still to be built."""
        while True:
            began = time.monotonic()
            present = self._job.with_database(self._link, lambda conn: load_migration(conn, self._job.migration.name))
            assert present is not None
            self._job.heed(Wanted(paused=present.desired == "pause", index_held=present.index_held), began)
            held = self._job.wanted.index_held
            if not held and self._waits_for_owner:
                held = not self._job.with_database(self._link, self._is_valid)
            if not held or present.phase is not Phase.INDEX:
                break
            self._job.doing("index held back")
            self._job.hold("index", self._given_up or "an operator holds it back")
            if self._job.stop.wait(IDLE_SECONDS):
                break
        self._job.release("index")
        self._given_up = ""
        if self._job.stop.is_set():
            raise self._why_stopped()
        return present.phase is Phase.INDEX

    def _is_valid(self, conn: Connection) -> bool:
        return indexes.index_status(conn, self._job.migration).valid

    def _build(self, migration: Migration) -> indexes.IndexBuild | None:
        """Build the index; None where an operator held it back meanwhile, and the build was cancelled."""
        self._job.doing("building the index")
        stop = self._job.child_stop()

        def progress(status: IndexStatus) -> None:
            share = f" {percent(status.done / status.total)}" if status.done is not None and status.total else ""
            waiting = f", waiting for {status.waiting_for}" if status.waiting_for else ""
            self._job.doing(f"index: {status.phase}{share}{waiting}")
            self._job.emit(Progressed(now(), f"Index: {status.phase}{share}{waiting}", status.done or 0, status.total))
            if self._job.wanted.index_held:
                stop.set()

        def build(conn: Connection) -> indexes.IndexBuild:
            while True:
                self._begun = ""
                options = self._options or index_options(migration)
                try:
                    return indexes.build(
                        lambda: connect(self._job.dsn, name="index", statement_timeout_ms=0, lock_timeout_ms=0),
                        migration,
                        options,
                        stop,
                        progress,
                        self._begins,
                    )
                except psycopg.Error as error:
                    if not self._again(conn, error, options):
                        raise

        try:
            with self._job.undisturbed():  # it may have taken hours
                return self._job.with_database(self._link, build)
        except Interrupted:
            if self._job.stop.is_set():
                raise
            return None

    def _begins(self, name: str) -> None:
        self._begun = name

    # ------------------------------------------------------------------------------------------ what went wrong

    def _again(self, conn: Connection, error: psycopg.Error, options: IndexSettings) -> bool:
        """Whether to build at once with less; False leaves the error to be waited out, or raised.

        Raises:
            DatabaseError: it has been tried often enough.
        """
        if not self._begun:
            return False
        if short_of_memory(error):
            self._options = _less(options, build_memory(conn, options.maintenance_work_mem).allowed)
            if self._options is None:
                raise translate(error) from error
            self._say_less(error, self._options)
            return True
        # a full disk, and a server that was told to stop, say nothing of the build
        patient = exhausted(error) or isinstance(error, errors.AdminShutdown | errors.CannotConnectNow)
        if patient or not (lost(error) or retryable(error)):
            return False
        self._tries[self._begun] += 1
        if self._tries[self._begun] >= TRIES:
            raise DatabaseError(
                f"Building {self._begun} was broken off {TRIES} times: {translate(error).message}", hint=f"{GIVEN_UP}."
            ) from error
        if lost(error):  # the process that built it may have been ended for want of memory
            self._options = replace(options, parallel_workers=0)
            self._say_less(error, self._options)
        return False

    def _say_less(self, error: psycopg.Error, options: IndexSettings) -> None:
        memory = f", maintenance_work_mem = {options.maintenance_work_mem}" if options.maintenance_work_mem else ""
        self._job.failed(
            f"{translate(error).message.rstrip('.')}. The index is built again with"
            f" {options.parallel_workers} parallel workers{memory}."
        )


def _less(options: IndexSettings, memory: int) -> IndexSettings | None:
    """What to try after a build for which ``memory`` bytes were too much; None where there is nothing less.

    First no parallel workers: they need the whole graph in shared memory, of which a server may have next to none,
    and one process does not.
    """
    if options.parallel_workers != 0:
        return replace(options, parallel_workers=0)
    if memory // LESS < LEAST_MEMORY:
        return None
    return replace(options, maintenance_work_mem=f"{memory // LESS >> 20}MB")
