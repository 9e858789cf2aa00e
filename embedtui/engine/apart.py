"""The work in a process of its own: threads that embed never share an interpreter with the screen.

Beside an ingest at full speed in the same process a key was on the screen after up to 150 ms, beside one in another
process after less than 50 (`benchmarks.screen`). And so the work outlives its terminal.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, BinaryIO

from embedtui.config import Settings
from embedtui.engine.engine import Engine
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.model import Event, EventSink, Progressed, Snapshot
from embedtui.postgres.connect import redact

LOOK_SECONDS = 0.1
"""Between looks at the stop signal."""
LAST_WORDS = 2000
"""Bytes of what a process that died had written to stderr."""
STOP = "stop"
_ENTRY = "import sys; sys.path[:] = sys.argv[2:]; from embedtui.engine.apart import serve; serve(int(sys.argv[1]))"


@dataclass(frozen=True, slots=True)
class Order:
    """What the process is to do; holds secrets, so it goes through a pipe and never into the process list."""

    dsn: str
    name: str | None
    settings: Settings | None
    environ: Mapping[str, str]
    until: float | None
    follow: bool
    outlives: bool
    """Whether the work goes on when the process that ordered it is gone without a word."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The work's end, as the other side tells it; all empty when it ended well."""

    title: str = ""
    message: str = ""
    hint: str = ""
    exit_code: int = 0
    interrupted: bool = False

    @classmethod
    def by(cls, error: Exception) -> Ended:
        """The end that ``error`` brought."""
        if isinstance(error, EmbedtuiError):
            interrupted = isinstance(error, Interrupted)
            return cls(error.title, error.message, error.hint, int(error.exit_code), interrupted)
        text = redact(f"{type(error).__name__}: {error}".splitlines()[0])
        return cls("Unexpected", text, "Please report this.", int(EmbedtuiError.exit_code))


class WorkFailed(EmbedtuiError):
    """The work ended with an error in its own process."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.message, hint=ended.hint)
        self.title = ended.title
        self.exit_code = type(self.exit_code)(ended.exit_code)


class EngineApart(Engine):
    """An engine whose :meth:`run` works in a process of its own; all else is done here."""

    def __init__(
        self,
        dsn: str,
        name: str | None = None,
        settings: Settings | None = None,
        on_event: EventSink | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        outlives: bool = False,
    ) -> None:
        """As :class:`Engine`; with ``outlives`` the work goes on when this process ends without stopping it."""
        super().__init__(dsn, name, settings, on_event, environ)
        self.outlives = outlives
        self._pipe: Pipe | None = None
        self._pipe_lock = threading.Lock()
        self._detached = False

    def detach(self) -> None:
        """Let the work go on when this process ends, where it may (``outlives``)."""
        self._detached = self.outlives

    def close(self) -> None:
        """As :meth:`Engine.close`; work under way is told to stop, unless it was detached. Waits for nothing."""
        self._tell_stop()
        super().close()

    def _tell_stop(self) -> None:
        with self._pipe_lock, contextlib.suppress(OSError):
            if self._pipe is not None and not self._detached:
                self._pipe.send(STOP)

    def run(self, stop: threading.Event, *, until: float | None = None, follow: bool = False) -> Snapshot:
        """As :meth:`Engine.run`; stopping lets requests in flight end and be stored.

        Raises:
            Interrupted: stopped.
            WorkFailed: what ended the work, or that its process died.
        """
        settings = self.settings
        order = Order(self.dsn, self._name, settings, dict(self._environ), until, follow, self.outlives)
        ours, theirs = multiprocessing.Pipe()
        # Its stderr is a file: the screen must not be written over, and a dead process leaves its last words there.
        with ours, tempfile.TemporaryFile() as said:
            with theirs:
                process = _start(theirs, said)
            self._own_pids.add(process.pid)
            try:
                ours.send(order)
                self._pipe = ours
                ended = self._follow(ours, stop)
            except (EOFError, OSError):
                ended = _died(process, said)
            finally:
                with self._pipe_lock:
                    self._pipe = None
                self._own_pids.discard(process.pid)
            process.wait()
            if not ended.message:
                return self.snapshot()
            raise Interrupted(ended.message, hint=ended.hint) if ended.interrupted else WorkFailed(ended)

    def _follow(self, pipe: Pipe, stop: threading.Event) -> Ended:
        """Passes events on and the stop signal down, until the work has ended."""
        told = False
        while True:
            if stop.is_set() and not told:
                self._tell_stop()
                told = True
            if pipe.poll(LOOK_SECONDS):
                message = pipe.recv()
                if isinstance(message, Ended):
                    return message
                self._emit(message)


def _start(pipe: Pipe, stderr: BinaryIO) -> subprocess.Popen[bytes]:
    """A new interpreter in a session of its own: no signal of the terminal reaches it."""
    # Modules are found where we found ours; by arguments, for a variable would reach the operator's hooks as well.
    return subprocess.Popen(
        [sys.executable, "-c", _ENTRY, str(pipe.fileno()), *sys.path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        pass_fds=[pipe.fileno()],
        start_new_session=True,
    )


def _died(process: subprocess.Popen[bytes], said: BinaryIO) -> Ended:
    code = process.wait()
    said.seek(max(0, said.seek(0, os.SEEK_END) - LAST_WORDS))
    words = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    last = f": {redact(words[-1])}" if words else ""
    return Ended("Worker", f"The work's process was ended {how}{last}", "Run it again: what is paid for is stored.", 1)


# --------------------------------------------------------------------------------------------- in the new process


def serve(descriptor: int) -> None:
    """Carries out the order that comes through the pipe ``descriptor``."""
    pipe = Pipe(descriptor)
    order: Order = pipe.recv()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    signal.signal(signal.SIGINT, lambda number, frame: stop.set())
    speaker = _Speaker(pipe)
    threading.Thread(target=_listen, args=(pipe, order, stop), name="orders", daemon=True).start()
    engine = Engine(order.dsn, order.name, order.settings, speaker.tell, order.environ)
    try:
        engine.run(stop, until=order.until, follow=order.follow)
        ended = Ended()
    except Exception as error:
        ended = Ended.by(error)
    finally:
        engine.close()
    speaker.end(ended)


def _listen(pipe: Pipe, order: Order, stop: threading.Event) -> None:
    try:
        while pipe.recv() != STOP:
            pass
    except (EOFError, OSError):
        if order.outlives:
            return
    stop.set()


class _Speaker:
    """Sends what the engine tells from a thread of its own: a reader that is suspended never holds the work up."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="events", daemon=True)
        self._thread.start()

    def tell(self, event: Event) -> None:
        """Queues an event; progress only while nothing else waits."""
        if not isinstance(event, Progressed) or self._said.empty():
            self._said.put(event)

    def end(self, ended: Ended) -> None:
        """Says the last word, and waits a little for it to be heard."""
        self._said.put(ended)
        self._thread.join(1.0)

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: the database knows all that matters
            while True:
                message = self._said.get()
                self._pipe.send(message)
                if isinstance(message, Ended):
                    return
        while not isinstance(self._said.get(), Ended):
            pass
