"""Starts the dashboard for the command line and the demo, and leaves without waiting for busy threads."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

from embedtui.errors import ExitCode
from embedtui.tui.app import QUIT_SIGNALS, Dashboard
from embedtui.tui.bridge import OpenEngine


def run_dashboard(
    open_engine: OpenEngine, *, readonly: bool = False, autostart: bool = False, again: str = "embedtui run --follow"
) -> int:
    """Shows the dashboard until the operator leaves; returns an exit code.

    ``open_engine(on_event)`` makes the engine; it is called on a thread of its own, may block, and is called again
    while it fails. The engine is closed on leaving. ``autostart`` begins the work at once, ``readonly`` only watches,
    ``again`` is the command that goes on with the work.
    """
    app = Dashboard(open_engine, readonly=readonly, autostart=autostart, again=again)
    with _signals_kept():
        app.run()
    if app.farewell:
        sys.stderr.write(f"{app.farewell}\n")
    return app.return_code or ExitCode.OK


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
