"""One worker process's presence in the database: registration, heartbeat, leases, throttle, what operators want."""

from __future__ import annotations

import logging
import os
import re
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

import psycopg

from embedtui.engine.backfill.database_throttle import NAMES, Throttle
from embedtui.engine.backfill.job import LOCK, PACER_HOLDS, STARTING, Job
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.formatting import counted, duration
from embedtui.model import Hold, ThreadStatus, hold_word
from embedtui.model.settings import StoredSettings
from embedtui.model.snapshot import PAUSED
from embedtui.postgres.blocking import name_blocker
from embedtui.postgres.connect import Connection, host_name, lost, operator_name
from embedtui.postgres.locks import announce_worker
from embedtui.postgres.notifications import hear, hear_waiting
from embedtui.postgres.state.audit import add_episode, note_lost_workers
from embedtui.postgres.state.pace import read_knobs
from embedtui.postgres.state.shards import renew_leases, return_all_shards
from embedtui.postgres.state.workers import Heartbeat, beat, end_worker, listen, register_worker

BEAT_SECONDS = 1.0
BEATS_PER_RENEWAL = 5
"""Heartbeats from one renewal of the leases to the next; a lease lasts six times as long."""
LOOK_SECONDS = 0.1
"""Between looks at the stop signal, and at least from one heartbeat that a notification asks for to the next."""

LOCKED_SECONDS = {False: 1.0, True: 0.2}
"""A statement that waits so long for a lock is held up; sooner where one was refused before (key)."""

_EMBEDS = re.compile("^embedding")
_STANDS = re.compile("^(embedding|reading|claiming|syncing|waiting for (rows|replies|changes|what)).*")
"""What a thread last began, where it does not go on while the work is paused."""

_log = logging.getLogger("embedtui")


def _in_a_word(threads: Sequence[ThreadStatus]) -> str:
    """What a process does: what its main thread does, or while that waits for the others, what most of those do."""
    main = next((each.doing for each in threads if each.name == "MainThread"), "")
    if main and not main.startswith("waiting: "):
        return main
    others = [each.doing for each in threads if each.name != "MainThread"]
    at_work = [each for each in others if not each.startswith("waiting")] or others
    if not at_work:
        return main or "idle"
    most = Counter(each.split()[0] for each in at_work).most_common(1)[0][0]
    return next(each for each in at_work if each.split()[0] == most)


class Worker:
    """Context in which a process works on a migration; its thread beats once a second, and when it is told to look.

    While it is entered, an advisory lock tells every other process that this one lives: a killed worker's shards are
    free after a few seconds, not when their lease runs out.
    """

    def __init__(self, job: Job, stop: threading.Event, role: str) -> None:
        """``role``: what it is for, as the log file has it."""
        self._role, self._began = role, time.monotonic()
        self._job, self._outer, self._throttle = job, stop, Throttle.of(job.migration)
        self._link = job.link("worker", statement_timeout_ms=10_000)
        self._link.on_open = self._announce
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._ended = threading.Event()
        self._told_end, self._hears_end = socket.socketpair()
        """By which the thread's wait ends."""
        self._conn: Connection | None = None
        self._told = False
        """Something else is wanted of the workers since the last heartbeat."""
        self._locked = ""
        """Who locks this process out, as last seen."""
        self._limits: object = None
        """Limits of the throttle as last stored."""
        self._untold: list[tuple[str, str, str]] = []
        """Lines on their way to the audit log."""
        self._who = "", 0
        """The database's role that it works as, and its threads that embed."""

    def __enter__(self) -> Worker:
        try:
            self._job.with_database(self._link, self._register, self._outer)
        except BaseException:
            self._close()
            raise
        self._log_begin()
        self._thread.start()
        threading.Thread(target=self._pass_on_stop, name="stop", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._told_end.send(b".")
        self._thread.join()
        try:
            self._sign_off(self._link.get())
        except (EmbedtuiError, psycopg.Error):
            pass  # the leases run out and the lock is gone without us, too
        self._close()
        self._log_end(error)

    def _log_begin(self) -> None:
        migration, (user, threads) = self._job.migration, self._who
        _log.info(
            "worker %s begins: pid %d on %s, %s as role %s: %s; %s: %s to %s, placement %s, phase %s; %s",
            self._job.worker_id, os.getpid(), host_name(), operator_name(), user, self._role, migration.table,
            migration.old_model.name, migration.new_model.name, migration.placement, migration.phase,
            counted(threads, "thread", "threads"),
        )  # fmt: skip

    def _log_end(self, error: BaseException | None) -> None:
        how = "done" if error is None else "reads its settings again" if self._goes_on else "stopped"
        if self._job.pending_failure is not None or not isinstance(error, Interrupted | None):
            how = "by an error"
        lasted = duration(time.monotonic() - self._began)
        written = counted(self._job.rows, "row", "rows")
        _log.info(
            "worker %s ends (%s): pid %d on %s, after %s, %s written by this run",
            self._job.worker_id, how, os.getpid(), host_name(), lasted, written,
        )  # fmt: skip

    def _close(self) -> None:
        self._link.drop()
        self._told_end.close()
        self._hears_end.close()

    # ---------------------------------------------------------------------------------------------------- database

    def _announce(self, conn: Connection) -> None:
        if self._job.worker_id is not None:
            announce_worker(conn, self._job.worker_id)
            hear(conn, self._hear)
            listen(conn)
            self._conn = conn

    def _register(self, conn: Connection) -> None:
        if self._job.worker_id is None:
            self._job.registered(register_worker(conn, self._job.migration.id))
            self._announce(conn)
        knobs = read_knobs(conn, self._job.migration.id)
        self._who = conn.info.user, knobs.max_concurrency if knobs is not None else 0
        # before anything is sent: what is paused stays so
        began = time.monotonic()
        told = Heartbeat(self._job.rows, STARTING, (), self._job.holds)
        self._job.heed(beat(conn, self._job.migration.id, self._job.worker_id, told), began)

    @property
    def _goes_on(self) -> bool:
        """It ends to read its settings again."""
        return self._job.reloading and self._job.pending_failure is None and not self._outer.is_set()

    def _sign_off(self, conn: Connection) -> None:
        with conn.transaction():
            return_all_shards(conn, self._job.worker_id)
            end_worker(conn, self._job.worker_id, self._job.rows)
        if self._goes_on:
            self._job.episodes.pause()
        self._tell_episodes(conn, leaving=not self._goes_on)
        note_lost_workers(conn, self._job.migration.id)

    def _run(self) -> None:
        told_at = due = 0.0
        beats = 0
        while not self._ended.is_set():
            now = time.monotonic()
            looks = self._job.sessions.locked_out() and not self._locked
            if now >= due or ((self._told or looks) and now >= told_at + LOOK_SECONDS):
                if now < due:
                    told_at, work = now, self._tell
                else:
                    due = now + BEAT_SECONDS
                    beats += 1
                    work = self._beat_and_renew if beats % BEATS_PER_RENEWAL == 0 else self._beat
                self._told = False
                try:
                    self._job.with_database(
                        self._link,
                        work,
                        self._ended if self._job.stop.is_set() else self._job.stop,
                        # the lock has to be held again before others take it that this process died
                        longest_wait=BEAT_SECONDS,
                    )
                except EmbedtuiError as error:
                    if not self._job.stop.is_set() and not self._ended.is_set():
                        self._job.fail(error)
                        return
            self._wait()

    def _pass_on_stop(self) -> None:
        """Have the work stop once the process is told to: the thread that beats may be waiting for the database."""
        while not self._ended.wait(LOOK_SECONDS):
            if self._outer.is_set():
                self._job.halt()
                return

    def _wait(self) -> None:
        """A moment, or until something else is wanted of the workers."""
        conn = self._conn
        if self._told or conn is None or conn.closed:
            self._ended.wait(LOOK_SECONDS)
            return
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(conn, selectors.EVENT_READ)
                selector.register(self._hears_end, selectors.EVENT_READ)
                selector.select(LOOK_SECONDS)
            hear_waiting(conn, self._hear)
        except psycopg.Error:  # a heartbeat opens another, and announces this worker there
            self._conn, self._told = None, True

    def _hear(self, payload: str) -> None:
        self._told |= payload == str(self._job.migration.id)

    def _beat(self, conn: Connection) -> None:
        self._job.replace_holds(NAMES, self._throttle.check(conn))
        for text in self._throttle.news():
            self._job.note(text)
        self._job.replace_holds(PACER_HOLDS, self._pacer_holds())
        self._tell(conn)

    def _look_who_locks(self, conn: Connection) -> None:
        """Name who has the lock that our statements wait for; each waits a while only, so that one may not be seen."""
        tried = self._job.sessions.locked_out()
        try:
            seen = name_blocker(conn, self._job.sessions.pids(), LOCKED_SECONDS[tried])
        except psycopg.Error as error:
            if lost(error):
                raise
            seen = ""  # by a right that was taken from PUBLIC, or a managed server's word: nobody is named
        self._locked = seen or (self._locked if tried else "")
        self._job.replace_holds([LOCK], [Hold(LOCK, self._locked)] if self._locked else [])

    def _tell(self, conn: Connection) -> None:
        self._look_who_locks(conn)
        threads = self._activity()
        doing = _in_a_word(threads)
        began = time.monotonic()
        told = Heartbeat(self._job.rows, doing, threads, self._job.holds, self._job.in_flight())
        wanted = beat(conn, self._job.migration.id, self._job.worker_id, told)
        self._job.heed(wanted, began)
        self._tell_episodes(conn)
        if wanted.throttle != self._limits:
            if self._limits is not None:  # an operator changed them
                self._throttle.adopt(StoredSettings.of({"throttle": wanted.throttle}).throttle)
            self._limits = wanted.throttle

    def _activity(self) -> tuple[ThreadStatus, ...]:
        """What each thread does; nothing is embedded in line, in a pause, or while the provider is waited for."""
        threads, hold = self._job.activity(), self._job.pacer_hold()
        waits = self._job.held or (hold is not None and hold.stops)
        if not waits or self._job.in_flight():
            waiting = self._job.waiting()
            return tuple(replace(each, doing=waiting.get(each.name, each.doing)) for each in threads)
        paused = self._job.wanted.paused
        asks, said = (_STANDS, PAUSED) if paused else (_EMBEDS, "waiting to embed")
        return tuple(replace(each, doing=asks.sub(said, each.doing)) for each in threads)

    def _beat_and_renew(self, conn: Connection) -> None:
        self._beat(conn)
        renew_leases(conn, self._job.worker_id)
        for line in note_lost_workers(conn, self._job.migration.id):
            _log.warning("%s", line)

    def _tell_episodes(self, conn: Connection, *, leaving: bool = False) -> None:
        self._untold += self._job.episodes.due(leaving=leaving)
        while self._untold:  # what a lost connection cuts off is told by the next beat
            act, name, detail = self._untold[0]
            add_episode(conn, self._job.migration.id, act, hold_word(name), detail)
            del self._untold[0]

    def _pacer_holds(self) -> list[Hold]:
        waits = self._job.pacer_hold()
        if waits is None or waits.name not in PACER_HOLDS:
            return []
        return [waits]
