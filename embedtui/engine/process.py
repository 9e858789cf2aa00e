"""The work in a process of its own: threads that embed never share an interpreter with the screen.

Beside an ingest at full speed in the same process 5 % of the keys took more than 73 to 104 ms to be on the screen,
beside one in another process 36 to 50 (`benchmarks.screen`). And so the work outlives its terminal.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from types import MappingProxyType
from typing import Any, BinaryIO

from embedtui import logs
from embedtui.config import Settings
from embedtui.engine.engine import Engine
from embedtui.engine.overrides import Overrides
from embedtui.errors import EmbedtuiError, Interrupted, ProviderError
from embedtui.model import Event, EventSink, Progressed, QueryInput, Snapshot
from embedtui.model.bridge import BridgeReport
from embedtui.providers import ProviderFault
from embedtui.redaction import redact, remember, secrets_of

LOOK_SECONDS = 0.1
"""Between looks at the stop signal."""
RESULT_SECONDS = 60.0
"""How long the result waits for a reader that is suspended."""
STDERR_SHOWN = 2000
"""Bytes of what a process that died had written to stderr."""
AFTER_DEATH = "what was answered is stored, and only the requests in flight are paid for again"
"""What a process that was killed leaves behind."""
STOP = "stop"
_ENTRY = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from embedtui.engine.process import serve; serve(int(sys.argv[1]), sys.argv[2])"
)


@dataclass(frozen=True, slots=True)
class WorkRequest:
    """What the process is to do; holds secrets, so it goes through a pipe and never into the process list."""

    dsn: str
    name: str | None
    settings: Settings | None
    environ: Mapping[str, str]
    outlives: bool
    """Whether the work goes on when the process that asked for it is gone without a word."""
    until: float | None = None
    follow: bool = False
    again: bool | None = None
    bridge: BridgeOrder | None = None
    """A bridge, instead of the run."""


@dataclass(frozen=True, slots=True)
class BridgeOrder:
    """Arguments of :meth:`Engine.bridge`."""

    rows: int | None
    serve: bool
    override: dict[str, str]
    queries: tuple[QueryInput, ...]


@dataclass(frozen=True, slots=True)
class WorkResult:
    """How the work ended: well, or by an error."""

    error: EmbedtuiError | None = None
    report: BridgeReport | None = None
    """Of a bridge."""

    @classmethod
    def of(cls, error: Exception) -> WorkResult:
        """The result of work that ``error`` ended."""
        if isinstance(error, ProviderFault):  # holds more than an error that travels
            error = ProviderError(error.reason, hint=error.hint)
        if isinstance(error, EmbedtuiError):
            return cls(error)
        return cls(logs.unexpected(error))


class SubprocessEngine(Engine):
    """An engine whose :meth:`run` and :meth:`bridge` work in processes of their own; all else is done here."""

    def __init__(
        self,
        dsn: str,
        name: str | None = None,
        settings: Settings | None = None,
        on_event: EventSink | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        outlives: bool = False,
        notes_lost: bool = True,
    ) -> None:
        """As :class:`Engine`.

        ``outlives``: the work goes on when this process ends without stopping it. ``notes_lost``: a snapshot that finds
        a worker gone tells the audit log, once, where this role may.
        """
        super().__init__(dsn, name, settings, on_event, environ)
        self.outlives, self._at.notes_lost = outlives, notes_lost
        self._closed = False
        self._pipes: set[Pipe] = set()
        self._pipe_lock = threading.Lock()
        """The request, the stop and closing exclude each other: no work begins that nobody could stop."""

    def close(self, *, detach: bool = False) -> None:
        """As :meth:`Engine.close`; work under way is told to stop, unless it is detached. Waits for nothing."""
        with self._pipe_lock:
            self._closed = True
        if not (detach and self.outlives):
            for pipe in tuple(self._pipes):
                self._tell_stop(pipe)
        super().close()

    def run(
        self, stop: threading.Event, *, until: float | None = None, follow: bool = False, again: bool | None = None
    ) -> Snapshot:
        """As :meth:`Engine.run`; stopping lets requests in flight end and be stored.

        Raises:
            EmbedtuiError: as :meth:`Engine.run`, or the work's process died.
        """
        self._apart(replace(self._request(), until=until, follow=follow, again=again), stop)
        return self._at.snapshot(recount=True)

    def bridge(
        self,
        *,
        rows: int | None = None,
        serve: bool = True,
        override: Overrides = MappingProxyType({}),
        queries: Sequence[QueryInput] = (),
        stop: threading.Event | None = None,
    ) -> BridgeReport:
        """As :meth:`Engine.bridge`; stopped or killed as :meth:`run`."""
        order = BridgeOrder(rows, serve, dict(override), tuple(queries))
        report = self._apart(replace(self._request(), bridge=order), stop or threading.Event()).report
        assert report is not None
        return report

    def _request(self) -> WorkRequest:
        settings = replace(self.settings, environ={}) if self.settings is not None else None
        environ = copy(self._at.environ) if isinstance(self._at.environ, dict) else dict(self._at.environ)
        return WorkRequest(self.dsn, self._at.name, settings, environ, self.outlives)

    def _apart(self, request: WorkRequest, stop: threading.Event) -> WorkResult:
        """Have a process of its own do the work; its error is raised here."""
        ours, theirs = multiprocessing.Pipe()
        # Its stderr is a file: the screen must not be written over, and a process that dies leaves its traceback there.
        with ours, tempfile.TemporaryFile() as stderr:
            with theirs:
                process = _start(theirs, stderr)
            self._at.own_pids.add(process.pid)
            try:
                with self._pipe_lock:
                    if stop.is_set() or self._closed:
                        raise Interrupted("Stopped.", hint="Run again to go on.")
                    ours.send(request)
                    self._pipes.add(ours)
                result = self._follow(ours, stop)
            except (EOFError, OSError):
                result = WorkResult(_died(process, stderr))
            except BaseException:
                process.terminate()
                raise
            finally:
                with self._pipe_lock:
                    self._pipes.discard(ours)
                self._at.own_pids.discard(process.pid)
                process.wait()
        if result.error is not None:
            raise result.error
        return result

    def _follow(self, pipe: Pipe, stop: threading.Event) -> WorkResult:
        """Pass events on and the stop signal down, until the work has ended."""
        told = False
        while True:
            if stop.is_set() and not told:
                self._tell_stop(pipe)
                told = True
            if pipe.poll(LOOK_SECONDS):
                message = pipe.recv()
                if isinstance(message, WorkResult):
                    return message
                self._at.emit(message)

    def _tell_stop(self, pipe: Pipe) -> None:
        with self._pipe_lock, contextlib.suppress(OSError):
            if pipe in self._pipes:
                pipe.send(STOP)


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


def _died(process: subprocess.Popen[bytes], stderr: BinaryIO) -> EmbedtuiError:
    code = process.wait()
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - STDERR_SHOWN))
    lines = [line for line in stderr.read().decode(errors="replace").splitlines() if line.strip()]
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    last = f": {redact(lines[-1])}" if lines else ""
    logging.getLogger("embedtui").error("the work's process %s was ended %s%s", process.pid, how, last)
    return EmbedtuiError(f"The work's process was ended {how}{last}", hint=f"Run it again: {AFTER_DEATH}.")


# --------------------------------------------------------------------------------------------- in the new process


def serve(descriptor: int, log_file: str = "") -> None:
    """Do the work that is asked for through the pipe ``descriptor``; log where the other side does."""
    if log_file:
        logs.start(log_file)
    pipe = Pipe(descriptor)
    request: WorkRequest = pipe.recv()
    variables = request.settings.secret_variables if request.settings else ()
    remember(*secrets_of({**request.environ, "DATABASE_URL": request.dsn}, variables))
    stop = threading.Event()
    # A handler may not set an event that its own thread waits for; a queue of this kind is made for it.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: signals.put(number))
    sender = _EventSender(pipe)
    for body in (lambda: _handle_signals(signals, stop), lambda: _watch_pipe(pipe, request, stop)):
        threading.Thread(target=body, daemon=True).start()
    settings = replace(request.settings, environ=request.environ) if request.settings is not None else None
    engine = Engine(request.dsn, request.name, settings, sender.tell, request.environ)
    try:
        result = _work(engine, request, stop)
    except Exception as error:  # noqa: BLE001 - the other side raises it
        result = WorkResult.of(error)
    finally:
        engine.close()
    sender.end(result)


def _work(engine: Engine, request: WorkRequest, stop: threading.Event) -> WorkResult:
    if (order := request.bridge) is not None:
        report = engine.bridge(
            rows=order.rows, serve=order.serve, override=order.override, queries=order.queries, stop=stop
        )
        return WorkResult(report=report)
    engine.run(stop, until=request.until, follow=request.follow, again=request.again)
    return WorkResult()


def _handle_signals(signals: queue.SimpleQueue[int], stop: threading.Event) -> None:
    """Stop cleanly at the first signal, at once at the second."""
    signals.get()
    stop.set()
    os._exit(128 + signals.get())


def _watch_pipe(pipe: Pipe, request: WorkRequest, stop: threading.Event) -> None:
    """Stop when the other side says so, or is gone."""
    try:
        while pipe.recv() != STOP:
            pass
    except (EOFError, OSError):
        if request.outlives:
            return
    stop.set()


class _EventSender:
    """A thread that sends what the engine tells: a reader that is suspended never holds the work up."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="events", daemon=True)
        self._thread.start()

    def tell(self, event: Event) -> None:
        """Queue an event; progress only while nothing else waits."""
        if not isinstance(event, Progressed) or self._waiting.empty():
            self._waiting.put(event)

    def end(self, result: WorkResult) -> None:
        """Send the result after all that waits, and wait a little for it to be read."""
        self._waiting.put(result)
        self._thread.join(RESULT_SECONDS)

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: the database knows all that matters
            while True:
                message = self._waiting.get()
                self._pipe.send(message)
                if isinstance(message, WorkResult):
                    return
        while not isinstance(self._waiting.get(), WorkResult):
            pass
