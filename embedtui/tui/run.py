"""Starts the dashboard for the command line and the demo, and leaves without waiting for busy threads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Literal

from embedtui import formatting
from embedtui.errors import ExitCode
from embedtui.model import Phase, Snapshot
from embedtui.tui import figures, safe
from embedtui.tui.app import Dashboard
from embedtui.tui.engine import OpenEngine
from embedtui.tui.smooth import responsive
from embedtui.tui.terminal import signals_restored
from embedtui.tui.tour import SHUTDOWN, Tour

_NAMED = 3
"""Workers that are named one by one."""


def run_dashboard(
    open_engine: OpenEngine,
    *,
    readonly: bool = False,
    autostart: bool = False,
    notify: bool = True,
    again: str = "embedtui run --follow",
    elsewhere: str = "",
    about: str = "",
    opens: str = "overview",
    tour: Literal["", "migration", "shutdown"] = "",
    anew: str = "",
    warning: str = "",
) -> int:
    """Show the dashboard until the operator leaves; returns an exit code.

    ``open_engine(on_event)`` makes the engine; it is called on a thread of its own, may block, and is called again
    while it fails. The engine is closed on leaving. ``autostart`` begins the work at once, ``readonly`` only watches,
    ``notify`` rings the bell when somebody is needed, ``again`` is the command that goes on with the work,
    ``elsewhere`` the one that shows it in another terminal, where that is not plain, ``about`` what a demo has made,
    and ``opens`` the screen that is shown first; ``tour`` leads through a first migration, until it ended once, or
    through a shutdown; ``anew`` is the command that begins a demo anew, ``warning`` what is said of its database as it
    opens.
    """
    app = Dashboard(open_engine, readonly=readonly, autostart=autostart, notify=notify, opens=opens)
    app.elsewhere, app.about, app.warning = elsewhere, about, warning
    app.anew = anew
    if tour == "shutdown":
        app.tour = Tour(hints=SHUTDOWN)
    elif tour and not app.preferences.toured:
        app.tour = Tour()
    with signals_restored(), responsive():
        app.run()
    said = farewell(app, again)
    if said:
        sys.stderr.write(f"{said}\n")
    return app.return_code or ExitCode.OK


def farewell(app: Dashboard, again: str) -> str:
    """What is worth saying on the terminal after leaving; empty where nothing was, or is, under way."""
    snapshot = app.snapshot
    if app.detached:
        own = next((worker.pid for worker in snapshot.workers if worker.own), None) if snapshot else None
        named = f" as process {own}" if own else ""
        return f"The work goes on{named}. Watch it: {formatting.called()}. End it: {formatting.called()} stop"
    if snapshot is None or snapshot.phase.ended or snapshot.migration is None:
        return ""
    lines = [_of_ours(snapshot, again)] if app.worked else []
    return "\n".join([*lines, *([] if app.readonly else _of_others(snapshot))])


def _of_ours(snapshot: Snapshot, again: str) -> str:
    status = snapshot.backfill
    if snapshot.phase is Phase.BACKFILL and status.total:
        done = f"{figures.number(status.rows)} of {figures.number(status.total)}"
        return f"Stopped with {done} rows done. Go on: {again}"
    return f"This terminal no longer keeps the sides in sync. Go on: {again}"


def _of_others(snapshot: Snapshot) -> Iterator[str]:
    others = [each for each in snapshot.workers if each.alive and not each.own]
    if others:
        named = ", ".join(f"{safe.line(each.host)}:{each.pid}" for each in others[:_NAMED])
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        works, them = ("works", "it") if len(others) == 1 else ("work", "them")
        yield f"{named}{more} still {works}; `{formatting.called()} stop` ends {them}."
