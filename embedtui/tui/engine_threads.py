"""The only place where threads meet Textual: runs the engine's calls on own threads and posts what came of them."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from textual.message import Message

from embedtui.errors import Blocked
from embedtui.model import Event, Progressed
from embedtui.tui.engine import Engine, OpenEngine, Progress
from embedtui.tui.messages import (
    EngineReported,
    ReadFailed,
    SnapshotFailed,
    SnapshotTaken,
    TaskAdvanced,
    TaskDone,
    TaskFailed,
    TaskStarted,
)
from embedtui.tui.view import Trouble

POLL_SECONDS = 0.5
"""Two readings a second: as lively as a progress bar needs, and cheap for the database."""
RETRY_SECONDS = (0.5, 1.0, 2.0)
"""Waits between attempts to reach a lost database; the last one repeats."""
QUIT_PATIENCE = 0.4
"""Seconds that quitting waits for threads, all together. They are daemons: what is left dies with the process."""
PROGRESS_SECONDS = 0.2
"""Between two messages about the progress of a task or of the engine: five a second are as many as an eye follows."""

T = TypeVar("T")
Post = Callable[[Message], object]
"""Gives a message to whom it is for; thread-safe, as Textual's ``post_message`` is."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a task's work is given beside the engine."""

    stop: threading.Event
    """Is set when the work has to end."""
    progress: Progress


@dataclass(frozen=True, slots=True)
class Task(Generic[T]):
    """A call of the engine that changes something, and what to say of it."""

    name: str
    """What it is busy with meanwhile, see ``View.busy``."""
    work: Callable[[Engine, Call], T]
    done: str | Callable[[T], str] = ""
    """What it did, in one sentence; empty where the screen itself shows it."""
    started: str = ""
    """Said when it begins."""
    result: Callable[[T], Message] | None = None
    """Makes the message that says what happened …"""
    to: Post | None = None
    """… to whom; None is the app."""
    blocked: Message | None = None
    """For the app, where something stands against it that a reason may pass."""


class Bridge:
    """Runs engine calls for one app.

    Threads: polling, reading, rollback, what is done in turn, the run, and one for each other task under way.

    No lock is held while posting or calling the engine.
    """

    def __init__(self, open_engine: OpenEngine, post: Post, *, interval: float = POLL_SECONDS) -> None:
        """Start nothing yet. ``post`` gives messages to the app, ``interval`` is the seconds between snapshots."""
        self._open = open_engine
        self._app = post
        self.interval = interval
        self._closing = threading.Event()
        self._stop_work = threading.Event()
        self._opened = threading.Event()
        self._wake = threading.Event()
        self._engine: Engine | None = None
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._wanted: dict[Hashable, Callable[[Engine], tuple[Message, Post]]] = {}
        self._reading = False
        self._read = threading.Event()
        self._urgent: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self._turns: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self._last_progress = 0.0
        self._run_thread: threading.Thread | None = None

    def start(self) -> None:
        """Start polling; the first snapshot opens the engine."""
        for name, body in (
            ("poll", self._poll),
            ("read", self._reader),
            ("urgent", self._urgently),
            ("turns", self._in_turn),
        ):
            self._spawn(name, body)

    def refresh(self) -> None:
        """Read a snapshot now instead of at the next beat."""
        self._wake.set()

    def do(self, task: Task[Any]) -> None:
        """Do ``task`` on its own thread; ends in :class:`TaskDone` or :class:`TaskFailed`."""
        self._announce(task)
        self._spawn(f"task-{task.name}", lambda: self._do(task, self._closing))

    def do_urgently(self, task: Task[Any]) -> None:
        """Do ``task`` on a thread that waits from the start, so that busy threads cannot keep it from running.

        What is asked while one is under way means that one.
        """
        self._urgent.put(task)

    def do_in_turn(self, task: Task[Any]) -> None:
        """Do ``task`` once those asked for before it in this way are done: the database gets them in their order."""
        self._announce(task)
        self._turns.put(task)

    def run(self, task: Task[Any]) -> None:
        """Do the migration's work in this process: as :meth:`do`, and it may outlive the terminal."""
        if self.running:
            return
        self._stop_work.clear()
        self._announce(task)
        self._run_thread = self._spawn(task.name, lambda: self._do(task, self._stop_work))

    @property
    def running(self) -> bool:
        """Whether the work is under way in this process."""
        return self._run_thread is not None and self._run_thread.is_alive()

    @property
    def detachable(self) -> bool:
        """Whether the work under way can go on without this terminal."""
        return self.running and self._engine is not None and self._engine.outlives

    def read(self, work: Callable[[Engine], T], reply: Callable[[T], Message], to: Post, key: Hashable = None) -> None:
        """Read something, and give ``reply`` of it ``to`` who asked; or :class:`ReadFailed`.

        A newer request of the same ``key``, by default the reply's, replaces a waiting one.
        """
        key = key or reply

        def read(engine: Engine) -> tuple[Message, Post]:
            try:
                return reply(work(engine)), to
            except Exception as error:  # noqa: BLE001 (the screen shows it)
                return ReadFailed(key, Trouble.of(error)), to

        with self._lock:
            self._wanted[key] = read
        self._read.set()

    @property
    def reading(self) -> bool:
        """Whether something that a screen asked for has not arrived yet."""
        with self._lock:
            return bool(self._wanted) or self._reading

    def close(self, patience: float = QUIT_PATIENCE, *, detach: bool = False) -> None:
        """Stop all threads and close the engine; returns within about ``patience`` seconds whatever they do.

        ``detach``: work that can do without this terminal goes on.
        """
        detach = detach and self.detachable
        self._closing.set()
        if not detach:
            self._stop_work.set()
        for event in (self._wake, self._read, self._opened):
            event.set()
        self._urgent.put(None)
        self._turns.put(None)
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

    def _post(self, message: Message, to: Post | None = None) -> None:
        if not self._closing.is_set():
            # The loop may close between the check and the call; then nobody is left to tell.
            with contextlib.suppress(RuntimeError):
                (to or self._app)(message)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Progressed):
            now = time.monotonic()
            if now - self._last_progress < PROGRESS_SECONDS:
                return
            self._last_progress = now
        self._post(EngineReported(event))

    def _close_engine(self, detach: bool) -> None:
        if self._engine is not None:
            with contextlib.suppress(Exception):
                self._engine.close(detach=detach)

    def _ready(self) -> Engine | None:
        self._opened.wait()
        return None if self._closing.is_set() else self._engine

    def _announce(self, task: Task[Any]) -> None:
        self._post(TaskStarted(task.name, task.started))

    def _do(self, task: Task[Any], stop: threading.Event) -> None:
        engine = self._ready()
        if engine is None:
            return
        try:
            result = task.work(engine, Call(stop, self._progress(task.name)))
        except Exception as error:  # noqa: BLE001 (the screen shows it)
            self._post(TaskFailed(task.name, Trouble.of(error)))
            if isinstance(error, Blocked) and task.blocked is not None:
                self._post(task.blocked)
        else:
            if task.result is not None:
                self._post(task.result(result), task.to)
            self._post(TaskDone(task.name, task.done if isinstance(task.done, str) else task.done(result)))
        self.refresh()

    def _progress(self, name: str) -> Progress:
        """Posts progress in measure, and the last step always."""
        last = 0.0

        def report(step: str, done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if done >= total or now - last >= PROGRESS_SECONDS:
                last = now
                self._post(TaskAdvanced(name, step, done, total))

        return report

    def _poll(self) -> None:
        attempts = 0
        lost: tuple[datetime, float] | None = None
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                if self._engine is None:
                    self._engine = self._open(self._on_event)
                    self._opened.set()
                message: Message = SnapshotTaken(self._engine.snapshot())
                attempts, lost = 0, None
                pause = max(0.05, self.interval - (time.monotonic() - began))
            except Exception as error:  # noqa: BLE001 (the screen shows it, and it is tried again)
                lost = lost or (datetime.now().astimezone(), began)
                pause = RETRY_SECONDS[min(attempts, len(RETRY_SECONDS) - 1)]
                attempts += 1
                message = SnapshotFailed(Trouble.of(error), lost[0], time.monotonic() - lost[1], attempts)
            self._post(message)
            self._wake.wait(pause)
            self._wake.clear()

    def _reader(self) -> None:
        while True:
            self._read.wait()
            self._read.clear()
            engine = self._ready()
            if engine is None:
                return
            with self._lock:
                wanted, self._wanted, self._reading = self._wanted, {}, True
            for read in wanted.values():
                if self._closing.is_set():
                    return
                self._post(*read(engine))
            with self._lock:
                self._reading = False

    def _in_turn(self) -> None:
        while (task := self._turns.get()) is not None:
            self._do(task, self._closing)

    def _urgently(self) -> None:
        while (task := self._urgent.get()) is not None:
            self._announce(task)
            self._do(task, self._closing)
            with contextlib.suppress(queue.Empty):
                while True:
                    if self._urgent.get_nowait() is None:
                        return
