"""Starts the dashboard for the command line and the demo, and leaves without waiting for busy threads."""

from __future__ import annotations

from embedtui.errors import ExitCode
from embedtui.tui.app import Dashboard
from embedtui.tui.bridge import OpenEngine


def run_dashboard(open_engine: OpenEngine, *, readonly: bool = False, autostart: bool = False) -> int:
    """Shows the dashboard until the operator leaves; returns an exit code.

    ``open_engine(on_event)`` makes the engine; it is called on a thread of its own, may block, and is called again
    while it fails. The engine is closed on leaving. ``autostart`` begins the work at once, ``readonly`` only watches.
    """
    app = Dashboard(open_engine, readonly=readonly, autostart=autostart)
    app.run()
    return app.return_code or ExitCode.OK
