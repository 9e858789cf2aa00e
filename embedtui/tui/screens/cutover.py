"""Cutover: may it be, what stands in the way and what releases it, what will happen, and the way back."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content

from embedtui.model import Blocker, Check, Side
from embedtui.tui import draw, panels
from embedtui.tui.actions.route import Cutover
from embedtui.tui.messages import BlockersRead, Compared, ComparisonRead, NoticesRead, PointerMoved
from embedtui.tui.panels.gate import blocker_lines, gate, happens
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.view import View
from embedtui.tui.widgets.panel import Panel
from embedtui.tui.widgets.sheet import Sheet

CANARY = Cutover(percent=10)
"""A share that shows within minutes whether anything is wrong, and harms few."""
_SNAPSHOTS = 6
"""Snapshots between two readings of blockers: each reading asks the database several questions."""


class CutoverScreen(DashboardScreen):
    """The gate and the pointer."""

    NAME = "cutover"
    AUTO_FOCUS = "#gate"
    KEYS = ("share",)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "share", "Share", tooltip="Let a share of the keys use the new side first."),
    ]

    def __init__(self) -> None:
        """Nothing is read yet."""
        super().__init__()
        self._blockers: tuple[Blocker, ...] | None = None
        self._notices: tuple[Check, ...] = ()
        self._after = False
        self._shown = 0
        self._newest = 0
        """Id of the newest line of the log when that was last asked."""

    def body(self) -> ComposeResult:
        """The next action, and four boxes."""
        yield Panel(panels.advice, id="advice")
        with Container(id="gateboard"):
            yield Panel(panels.route, title="Route and rollback", id="route", classes="box")
            yield Sheet(self._happens, title="What a cutover does", id="happens", classes="box")
            yield Sheet(self._gate, title="Gate", id="gate", classes="box")
            yield Sheet(self._in_the_way, title="In the way", id="blockers", classes="box")

    def opened(self) -> None:
        """Read what stands in the way."""
        self._fetch()

    def show(self, view: View) -> None:
        """Show the state; after the cutover it is about the cleanup."""
        super().show(view)
        after = view.snapshot is not None and view.snapshot.route.active is Side.NEW
        if after != self._after:
            self._after = after
            self.query_one("#happens").border_title = "What can be done now" if after else "What a cutover does"
            self.query_one("#blockers").border_title = "In the way of a cleanup" if after else "In the way"
            self._blockers = None  # they were those of the other action
            self._fetch()
        self._repaint()
        self._shown += 1
        newest = view.snapshot.log[-1].id if view.snapshot and view.snapshot.log else 0
        if view.link.up and (newest != self._newest or self._shown % _SNAPSHOTS == 0):
            self._newest = newest  # what anybody did may be in the way, or no longer
            self._fetch()

    def _repaint(self) -> None:
        for sheet in self.query(Sheet):
            sheet.repaint()

    def _fetch(self) -> None:
        snapshot = self.dashboard.snapshot
        if snapshot is None or snapshot.migration is None or snapshot.phase.ended:
            return
        action = "cleanup" if snapshot.route.active is Side.NEW else "cutover"
        self.ask_engine(lambda engine: engine.blockers(action), BlockersRead)
        self.ask_engine(lambda engine: engine.notices(), NoticesRead)
        self.dashboard.read_comparison()

    def on_blockers_read(self, message: BlockersRead) -> None:
        """Show them."""
        self._blockers = message.blockers
        self._repaint()

    def on_notices_read(self, message: NoticesRead) -> None:
        """Show them."""
        self._notices = message.notices
        self._repaint()

    def on_comparison_read(self, _message: ComparisonRead) -> None:
        """Show its checks."""
        self._repaint()

    def on_compared(self, _message: Compared) -> None:
        """What stands in the way may be another."""
        self._fetch()

    def on_pointer_moved(self, _message: PointerMoved) -> None:
        """What stands in the way may be another."""
        self._fetch()

    def refusal(self, _action: str) -> str:
        """A share is a cutover."""
        return CANARY.refusal(self.dashboard.view)

    def action_share(self) -> None:
        """Open the cutover's dialog with a small share filled in."""
        CANARY.perform(self.dashboard)

    def _gate(self, width: int) -> Content:
        comparison, snapshot = self.dashboard.comparison, self.dashboard.snapshot
        if comparison is not None:
            return draw.lines(gate(comparison, self.dashboard.view, width))
        known = snapshot is not None and snapshot.evaluation is not None
        text = "◌ reading the last comparison …" if known else "○ c compares both sides; its checks appear here."
        return draw.lines(draw.wrapped(text, width, "$muted"))

    def _in_the_way(self, width: int) -> Content:
        view = self.dashboard.view
        if view.snapshot is None or view.snapshot.migration is None:
            return draw.line(("No migration yet.", "$muted"))
        if view.phase.ended:
            return draw.line((f"This migration is {view.phase}: the pointer stays where it is.", "$muted"))
        if self._blockers is None:
            return draw.line(("◌ asking the database …", "$muted"))
        if not self._blockers and not view.snapshot.followed:
            said = "! nothing is in the way, but nobody is heard to follow: see what a cutover does"
            return draw.lines(draw.wrapped(said, width, "bold $warning", 2))
        if not self._blockers:
            return draw.line(("✓ nothing is in the way", "bold $success"))
        return draw.lines(line for blocker in self._blockers for line in blocker_lines(blocker, width))

    def _happens(self, width: int) -> Content:
        return happens(self.dashboard.view, self._notices, width)
