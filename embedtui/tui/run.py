"""Starts the dashboard for the command line and the demo, and leaves without waiting for busy threads."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
from collections.abc import Iterator

from embedtui.errors import ExitCode
from embedtui.tui.app import QUIT_SIGNALS, Dashboard
from embedtui.tui.bridge import OpenEngine

TURN_SECONDS = 0.0005
"""How long a thread of the engine may keep the event loop waiting for the interpreter (Python's default is 5 ms). A key
takes several turns beside busy threads, and waits this long for each."""
LOADED_SECONDS = 10.0
"""By then the engine, too, has loaded the modules it needs."""


def run_dashboard(
    open_engine: OpenEngine, *, readonly: bool = False, autostart: bool = False, again: str = "embedtui run --follow"
) -> int:
    """Shows the dashboard until the operator leaves; returns an exit code.

    ``open_engine(on_event)`` makes the engine; it is called on a thread of its own, may block, and is called again
    while it fails. The engine is closed on leaving. ``autostart`` begins the work at once, ``readonly`` only watches,
    ``again`` is the command that goes on with the work.
    """
    app = Dashboard(open_engine, readonly=readonly, autostart=autostart, again=again)
    with _signals_kept(), responsive():
        try:
            app.run()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # see the dashboard's hang-up
    if app.farewell:
        sys.stderr.write(f"{app.farewell}\n")
    return app.return_code or ExitCode.OK


@contextlib.contextmanager
def responsive() -> Iterator[None]:
    """Sets the interpreter up for a screen beside busy threads.

    Turns are short, and the garbage collector no longer looks at what is loaded: its full passes, which the replies'
    many objects bring about, stop every thread for 0.1 s otherwise. It never looks at it again, so leaving is quick.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN_SECONDS)
    gc.freeze()
    again = threading.Timer(LOADED_SECONDS, gc.freeze)
    again.daemon = True
    again.start()
    try:
        yield
    finally:
        again.cancel()
        sys.setswitchinterval(before)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """The event loop leaves the signals it took at their defaults; the caller gets its own handlers back."""
    numbers = [getattr(signal, name) for name in QUIT_SIGNALS if hasattr(signal, name)]
    kept = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in kept.items():
            if handler is not None:
                signal.signal(number, handler)
