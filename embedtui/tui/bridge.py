"""The only place where threads meet Textual: runs the engine's calls on own threads and posts what came of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from textual.message import Message

from embedtui.errors import EmbedtuiError
from embedtui.logs import unexpected
from embedtui.model import (
    AuditEntry,
    Blocker,
    Check,
    Comparison,
    Event,
    EventSink,
    FaultRow,
    FaultState,
    Flip,
    Plan,
    Progressed,
    QueryComparison,
    QueryInput,
    Snapshot,
    VerifyReport,
)

POLL_SECONDS = 0.5
"""Two readings a second: as lively as a progress bar needs, and cheap for the database."""
RETRY_SECONDS = (0.5, 1.0, 2.0)
"""Waits between attempts to reach a lost database; the last one repeats."""
QUIT_PATIENCE = 0.4
"""Seconds that quitting waits for threads, all together. They are daemons: what is left dies with the process."""


class Engine(Protocol):
    """What the screen needs of an engine; every call may block and is made on the bridge's threads only."""

    @property
    def outlives(self) -> bool: ...
    def snapshot(self) -> Snapshot: ...
    def plan(self) -> Plan: ...
    def run(self, stop: threading.Event, *, until: float | None = None, follow: bool = False) -> object: ...
    def pause(self, reason: str = "") -> object: ...
    def resume(self) -> object: ...
    def stop_workers(self, ids: Sequence[int] | None = None) -> int: ...
    def set_pace(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrency: int | None = None,
        spend_cap: float | None = None,
    ) -> object: ...
    def hold_index(self, held: bool = True) -> object: ...
    def build_index(self, stop: threading.Event) -> object: ...
    def compare(
        self,
        queries: Sequence[QueryInput] | None = None,
        *,
        k: int = 10,
        progress: Callable[[str, int, int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Comparison: ...
    def last_comparison(self) -> Comparison | None: ...
    def with_verdicts(self, comparison: Comparison) -> Comparison: ...
    def search_both(self, text: str, *, k: int = 10) -> QueryComparison: ...
    def decide(self, query_id: int, verdict: str, note: str = "") -> object: ...
    def cutover(self, percent: int = 100, *, override: Mapping[str, str] = ...) -> Flip: ...
    def rollback(self) -> Flip: ...
    def blockers(self, action: str, percent: int = 100, *, thorough: bool = False) -> tuple[Blocker, ...]: ...
    def notices(self) -> tuple[Check, ...]: ...
    def postpone(self, percent: int = 100, *, override: Mapping[str, str] = ...) -> object: ...
    def cancel_postponed(self) -> bool: ...
    def cleanup(
        self,
        typed_name: str,
        *,
        rename: bool = True,
        override: Mapping[str, str] = ...,
        archive: str | None = None,
        stop: threading.Event | None = None,
    ) -> None: ...
    def cleanup_sql(self, *, rename: bool = True) -> tuple[str, ...]: ...
    def abort(self, typed_name: str) -> object: ...
    def verify(self, *, sample: int = 0, repair: bool = False, stop: threading.Event | None = None) -> VerifyReport: ...
    def faults(
        self, limit: int = 200, offset: int = 0, reason: str | None = None, state: FaultState | None = None
    ) -> tuple[FaultRow, ...]: ...
    def retry_faults(self, ids: Sequence[int] | None = None) -> int: ...
    def skip_faults(self, ids: Sequence[int] | None = None) -> int: ...
    def truncate_faults(self, ids: Sequence[int] | None = None) -> int: ...
    def audit(self, limit: int = 200) -> tuple[AuditEntry, ...]: ...
    def close(self, *, detach: bool = False) -> None: ...


OpenEngine = Callable[[EventSink], Engine]
"""Makes the engine; may block and may fail (then it is tried again), so the bridge calls it on its own thread."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error as the screen shows it."""

    title: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Trouble:
        """The trouble that ``error`` means; an unexpected one is logged with its traceback."""
        if isinstance(error, EmbedtuiError):
            return cls(error.title, error.message, error.hint)
        found = unexpected(error)
        return cls("Unexpected", found.message, found.hint)


# ----------------------------------------------------------------------------------------------------- messages


class SnapshotTaken(Message):
    """A reading succeeded. A newer one replaces an older one that has not been handled."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, SnapshotTaken | SnapshotFailed)


class SnapshotFailed(Message):
    """A reading, or opening the engine, failed."""

    def __init__(self, trouble: Trouble, since: datetime, seconds: float, attempts: int) -> None:
        super().__init__()
        self.trouble = trouble
        self.since = since
        self.seconds = seconds
        self.attempts = attempts

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, SnapshotTaken | SnapshotFailed)


class EngineSpoke(Message):
    """The engine told something. Only progress may be replaced by newer progress."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event

    def can_replace(self, message: Message) -> bool:
        return (
            isinstance(message, EngineSpoke)
            and isinstance(message.event, Progressed)
            and isinstance(self.event, Progressed)
        )


class ActStarted(Message):
    """An act began on its own thread."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class ActDone(Message):
    """An act ended well."""

    def __init__(self, name: str, result: object) -> None:
        super().__init__()
        self.name = name
        self.result = result


class ActFailed(Message):
    """An act was refused or failed."""

    def __init__(self, name: str, trouble: Trouble) -> None:
        super().__init__()
        self.name = name
        self.trouble = trouble


class ActAdvanced(Message):
    """A long act got on; the newest replaces older ones."""

    def __init__(self, name: str, step: str, done: int, total: int) -> None:
        super().__init__()
        self.name = name
        self.step = step
        self.done = done
        self.total = total

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, ActAdvanced) and message.name == self.name


class Fetched(Message):
    """A reading that a screen asked for arrived."""

    def __init__(self, topic: str, payload: object) -> None:
        super().__init__()
        self.topic = topic
        self.payload = payload


class FetchFailed(Message):
    """A reading that a screen asked for failed."""

    def __init__(self, topic: str, trouble: Trouble) -> None:
        super().__init__()
        self.topic = topic
        self.trouble = trouble


# ------------------------------------------------------------------------------------------------------- bridge


class Bridge:
    """Runs engine calls for one app. Threads: polling, reading, rollback, the run, and one for each act under way.

    ``post`` must be thread-safe (Textual's ``post_message`` is). No lock is held while posting or calling the engine.
    """

    def __init__(
        self, open_engine: OpenEngine, post: Callable[[Message], bool], *, interval: float = POLL_SECONDS
    ) -> None:
        self._open = open_engine
        self._post_message = post
        self._interval = interval
        self._closing = threading.Event()
        self._stop_work = threading.Event()
        self._opened = threading.Event()
        self._wake = threading.Event()
        self._engine: Engine | None = None
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._wanted: dict[str, Callable[[Engine], object]] = {}
        self._at_work = False
        self._read = threading.Event()
        self._roll = threading.Event()
        self._last_progress = 0.0
        self._run_thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts polling; the first snapshot opens the engine."""
        for name, body in (("poll", self._poll), ("read", self._reader), ("rollback", self._roller)):
            self._spawn(name, body)

    def poke(self) -> None:
        """Reads a snapshot now instead of at the next beat."""
        self._wake.set()

    def act(self, name: str, work: Callable[[Engine, threading.Event], object]) -> None:
        """Does ``work(engine, stop)`` on its own thread; ends in :class:`ActDone` or :class:`ActFailed`."""
        self._post(ActStarted(name))
        self._spawn(f"act-{name}", lambda: self._do(name, lambda engine: work(engine, self._closing)))

    def rollback(self) -> None:
        """Moves the pointer back. Its thread waits from the start, so busy threads cannot keep it from running."""
        self._roll.set()

    def run(self) -> None:
        """Starts the migration's work in this process; ends in :class:`ActDone` or :class:`ActFailed` named ``run``."""
        if self.running:
            return
        self._stop_work.clear()
        self._post(ActStarted("run"))
        self._run_thread = self._spawn(
            "run", lambda: self._do("run", lambda engine: engine.run(self._stop_work, follow=True))
        )

    @property
    def running(self) -> bool:
        """Whether the work is under way in this process."""
        return self._run_thread is not None and self._run_thread.is_alive()

    @property
    def detachable(self) -> bool:
        """Whether the work under way can go on without this terminal."""
        return self.running and self._engine is not None and self._engine.outlives

    def advance(self, name: str) -> Callable[[str, int, int], None]:
        """A progress callback that posts :class:`ActAdvanced` at most five times a second, and the last step always."""
        last = 0.0

        def report(step: str, done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if done >= total or now - last >= 0.2:
                last = now
                self._post(ActAdvanced(name, step, done, total))

        return report

    def fetch(self, topic: str, work: Callable[[Engine], object]) -> None:
        """Reads for a screen; a newer request of the same topic replaces a waiting one."""
        with self._lock:
            self._wanted[topic] = work
        self._read.set()

    @property
    def reading(self) -> bool:
        """Whether something that a screen asked for has not arrived yet."""
        with self._lock:
            return bool(self._wanted) or self._at_work

    def close(self, patience: float = QUIT_PATIENCE, *, detach: bool = False) -> None:
        """Stops all threads and closes the engine; returns within about ``patience`` seconds whatever they do.

        ``detach``: work that can do without this terminal goes on.
        """
        detach = detach and self.detachable
        self._closing.set()
        if not detach:
            self._stop_work.set()
        for event in (self._wake, self._read, self._roll, self._opened):
            event.set()
        deadline = time.monotonic() + patience
        with self._lock:
            threads = self._threads - ({self._run_thread} if detach else set())
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._engine is not None:
            closer = threading.Thread(target=self._close_engine, args=(detach,), name="embedtui-close", daemon=True)
            closer.start()
            closer.join(max(0.1, deadline - time.monotonic()))

    # ------------------------------------------------------------------------------------------------- threads

    def _spawn(self, name: str, body: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                body()
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=guarded, name=f"embedtui-{name}", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()
        return thread

    def _post(self, message: Message) -> None:
        if not self._closing.is_set():
            # The loop may close between the check and the call; then nobody is left to tell.
            with contextlib.suppress(RuntimeError):
                self._post_message(message)

    def _heard(self, event: Event) -> None:
        if isinstance(event, Progressed):
            now = time.monotonic()
            if now - self._last_progress < 0.25:
                return
            self._last_progress = now
        self._post(EngineSpoke(event))

    def _close_engine(self, detach: bool) -> None:
        if self._engine is not None:
            with contextlib.suppress(Exception):
                self._engine.close(detach=detach)

    def _ready(self) -> Engine | None:
        self._opened.wait()
        return None if self._closing.is_set() else self._engine

    def _do(self, name: str, work: Callable[[Engine], object]) -> None:
        engine = self._ready()
        if engine is None:
            return
        try:
            result = work(engine)
        except Exception as error:
            self._post(ActFailed(name, Trouble.of(error)))
        else:
            self._post(ActDone(name, result))
        self.poke()

    def _poll(self) -> None:
        attempts = 0
        lost: tuple[datetime, float] | None = None
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                if self._engine is None:
                    self._engine = self._open(self._heard)
                    self._opened.set()
                message: Message = SnapshotTaken(self._engine.snapshot())
                attempts, lost = 0, None
                pause = max(0.05, self._interval - (time.monotonic() - began))
            except Exception as error:
                lost = lost or (datetime.now().astimezone(), began)
                pause = RETRY_SECONDS[min(attempts, len(RETRY_SECONDS) - 1)]
                attempts += 1
                message = SnapshotFailed(Trouble.of(error), lost[0], time.monotonic() - lost[1], attempts)
            self._post(message)
            self._wake.wait(pause)
            self._wake.clear()

    def _reader(self) -> None:
        while engine := self._next(self._read):
            with self._lock:
                wanted, self._wanted, self._at_work = self._wanted, {}, True
            for topic, work in wanted.items():
                if self._closing.is_set():
                    return
                try:
                    self._post(Fetched(topic, work(engine)))
                except Exception as error:
                    self._post(FetchFailed(topic, Trouble.of(error)))
            with self._lock:
                self._at_work = False

    def _roller(self) -> None:
        while self._next(self._roll):
            self._post(ActStarted("rollback"))
            self._do("rollback", lambda engine: engine.rollback())
            # Presses while it was under way meant this one rollback.
            self._roll.clear()

    def _next(self, signal: threading.Event) -> Engine | None:
        signal.wait()
        signal.clear()
        return self._ready()
