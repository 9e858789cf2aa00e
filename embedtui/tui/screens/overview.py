"""Overview: where the migration stands, whether it is safe, and what to do next."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Container

from embedtui.tui import panels
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.view import View
from embedtui.tui.widgets.panel import Panel


class OverviewScreen(DashboardScreen):
    """Panels only: everything is a function of the view."""

    NAME = "overview"

    def body(self) -> ComposeResult:
        """The journey, the next action, and a board of panels."""
        yield Panel(panels.journey, id="journey")
        yield Panel(panels.advice, id="advice")
        with Container(id="board"):
            yield Panel(panels.backfill, title="Backfill", id="backfill", classes="box")
            yield Panel(panels.route, title="Route and rollback", id="route", classes="box")
            yield Panel(panels.index, title="Index", id="index", classes="box")
            yield Panel(panels.holds, title="Waiting for", id="holds", classes="box")
            yield Panel(panels.sync, title="Sync", id="sync", classes="box")
            yield Panel(panels.faults, title="Faults", id="faultbox", classes="box")
            yield Panel(panels.workers, title="Workers", id="workerbox", classes="box")
            yield Panel(panels.feed, title="Events", id="feed", classes="box")

    def show(self, view: View) -> None:
        """The first panel is about what is watched now."""
        super().show(view)
        title = "Rows and searches" if panels.serving(view) else "Backfill"
        box = self.query_one("#backfill")
        if str(box.border_title) != title:
            box.border_title = title
