"""Overview: where the migration stands, whether it is safe, and what to do next."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Container

from embedtui.model import hold_word
from embedtui.tui import panels
from embedtui.tui.actions import next_action
from embedtui.tui.panels.alerts import alert
from embedtui.tui.panels.progress import EMBEDDED
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.view import View
from embedtui.tui.widgets.panel import Panel

_ENDLESS = 10_000
"""Cells in which every headline has room."""


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

    def on_resize(self) -> None:
        """What is too long for the headline's line hangs on its width."""
        self.show(self.dashboard.view)

    def show(self, view: View) -> None:
        """The first panel is about what is watched now."""
        super().show(view)
        title = "Rows and searches" if panels.serving(view) else "Backfill"
        # what is wrong, and what to do about it, is read whole
        found = alert(view.snapshot)
        gate = view.snapshot.evaluation if view.snapshot is not None else None
        failed = found is None and gate is not None and gate.verdict == "FAIL" and next_action(view)[0] == "compare"
        wrong = bool(view.link.problem) or failed or (found is not None and found.style == "$error")
        self.set_class(wrong and panels.advice(view, _ENDLESS, 1).cell_length > self.size.width - 2, "-alarm")
        held = view.snapshot.reasons if view.snapshot is not None and not view.stale else ()
        self.set_class(not wrong and panels.crowded(held, self.query_one("#holds").content_size.width), "-held")
        # no chart: the log has the room
        self.set_class(not panels.serving(view) and (len(view.rates) < 2 or view.phase in EMBEDDED), "-quiet")
        box = self.query_one("#backfill")
        if str(box.border_title) != title:
            box.border_title = title

    def action_open(self) -> None:
        """Enter says what is wrong in full."""
        view = self.dashboard.view
        if view.stale:
            self.dashboard.say(f"{view.link.problem} {view.link.hint}".strip(), severity="error")
        elif (found := alert(view.snapshot)) is not None:
            self.dashboard.say(
                f"{found.why[:1].upper()}{found.why[1:]}",
                title=found.word,
                severity="error" if found.style == "$error" else "warning",
            )
        elif view.snapshot is not None and view.snapshot.reasons:
            held = (f"{hold_word(each.name)}: {each.detail}" for each in view.snapshot.reasons)
            self.dashboard.say(" ".join(held), title="Waiting for")
        else:
            super().action_open()
