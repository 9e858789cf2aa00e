"""The work in a process of its own: threads that embed never share an interpreter with the screen.

Beside an ingest at full speed in the same process 5 % of the keys took more than 73 to 104 ms to be on the screen,
beside one in another process 36 to 50 (`benchmarks.screen`). And so the work outlives its terminal.
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
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from typing import Any, BinaryIO

from embedtui import logs
from embedtui.config import Settings
from embedtui.engine.engine import Engine
from embedtui.errors import EmbedtuiError, Interrupted, ProviderError
from embedtui.model import Event, EventSink, Progressed, Snapshot
from embedtui.providers import ProviderFault
from embedtui.redaction import redact, remember, secrets_of

LOOK_SECONDS = 0.1
"""Between looks at the stop signal."""
HEARD_SECONDS = 60.0
"""How long the last word waits for a reader that is suspended."""
LAST_WORDS = 2000
"""Bytes of what a process that died had written to stderr."""
STOP = "stop"
_ENTRY = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from embedtui.engine.process import serve; serve(int(sys.argv[1]), sys.argv[2])"
)


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
    """The work's end: well, or by an error."""

    error: EmbedtuiError | None = None

    @classmethod
    def by(cls, error: Exception) -> Ended:
        """The end that ``error`` brought."""
        if isinstance(error, ProviderFault):  # holds more than an error that travels
            error = ProviderError(error.reason, hint=error.hint)
        if isinstance(error, EmbedtuiError):
            return cls(error)
        return cls(logs.unexpected(error))


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
        self._closed = False
        self._pipe: Pipe | None = None
        self._pipe_lock = threading.Lock()
        """The order, the stop and closing exclude each other: no work begins that nobody could stop."""

    def close(self, *, detach: bool = False) -> None:
        """As :meth:`Engine.close`; work under way is told to stop, unless it is detached. Waits for nothing."""
        with self._pipe_lock:
            self._closed = True
        if not (detach and self.outlives):
            self._tell_stop()
        super().close()

    def run(self, stop: threading.Event, *, until: float | None = None, follow: bool = False) -> Snapshot:
        """As :meth:`Engine.run`; stopping lets requests in flight end and be stored.

        Raises:
            EmbedtuiError: as :meth:`Engine.run`, or the work's process died.
        """
        settings = replace(self.settings, environ={}) if self.settings is not None else None
        order = Order(self.dsn, self._at.name, settings, dict(self._at.environ), until, follow, self.outlives)
        ours, theirs = multiprocessing.Pipe()
        # Its stderr is a file: the screen must not be written over, and a dead process leaves its last words there.
        with ours, tempfile.TemporaryFile() as said:
            with theirs:
                process = _start(theirs, said)
            self._at.own_pids.add(process.pid)
            try:
                with self._pipe_lock:
                    if stop.is_set() or self._closed:
                        raise Interrupted("Stopped.", hint="Run again to go on.")
                    ours.send(order)
                    self._pipe = ours
                ended = self._follow(ours, stop)
            except (EOFError, OSError):
                ended = Ended(_died(process, said))
            except BaseException:
                process.terminate()
                raise
            finally:
                with self._pipe_lock:
                    self._pipe = None
                self._at.own_pids.discard(process.pid)
                process.wait()
        if ended.error is not None:
            raise ended.error
        return self.snapshot()

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
                self._at.emit(message)

    def _tell_stop(self) -> None:
        with self._pipe_lock, contextlib.suppress(OSError):
            if self._pipe is not None:
                self._pipe.send(STOP)


def _start(pipe: Pipe, stderr: BinaryIO) -> subprocess.Popen[bytes]:
    """A new interpreter in a session of its own: no signal of the terminal reaches it."""
    # Modules are found where we found ours; by arguments, for a variable would reach the operator's hooks as well.
    return subprocess.Popen(
        [sys.executable, "-c", _ENTRY, str(pipe.fileno()), str(logs.current_file() or ""), *sys.path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        pass_fds=[pipe.fileno()],
        start_new_session=True,
    )


def _died(process: subprocess.Popen[bytes], said: BinaryIO) -> EmbedtuiError:
    code = process.wait()
    said.seek(max(0, said.seek(0, os.SEEK_END) - LAST_WORDS))
    words = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    last = f": {redact(words[-1])}" if words else ""
    return EmbedtuiError(f"The work's process was ended {how}{last}", hint="Run it again: what is paid for is stored.")


# --------------------------------------------------------------------------------------------- in the new process


def serve(descriptor: int, log_file: str = "") -> None:
    """Carries out the order that comes through the pipe ``descriptor``; logs where the other side does."""
    if log_file:
        logs.start(log_file)
    pipe = Pipe(descriptor)
    order: Order = pipe.recv()
    remember(
        *secrets_of(
            {**order.environ, "DATABASE_URL": order.dsn}, order.settings.secret_variables if order.settings else ()
        )
    )
    stop = threading.Event()
    # A handler may not set an event that its own thread waits for; a queue of this kind is made for it.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: signals.put(number))
    speaker = _Speaker(pipe)
    for body in (lambda: _obey(signals, stop), lambda: _listen(pipe, order, stop)):
        threading.Thread(target=body, daemon=True).start()
    settings = replace(order.settings, environ=order.environ) if order.settings is not None else None
    engine = Engine(order.dsn, order.name, settings, speaker.tell, order.environ)
    try:
        engine.run(stop, until=order.until, follow=order.follow)
        ended = Ended()
    except Exception as error:
        ended = Ended.by(error)
    finally:
        engine.close()
    speaker.end(ended)


def _obey(signals: queue.SimpleQueue[int], stop: threading.Event) -> None:
    """The first signal stops cleanly, the second at once."""
    signals.get()
    stop.set()
    os._exit(128 + signals.get())


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
        self._thread.join(HEARD_SECONDS)

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: the database knows all that matters
            while True:
                message = self._said.get()
                self._pipe.send(message)
                if isinstance(message, Ended):
                    return
        while not isinstance(self._said.get(), Ended):
            pass
