"""Cutover: may it be, what stands in the way and what releases it, what will happen, and the way back."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content

from embedtui.model import Blocker, Check, Comparison, PlacementKind, Side
from embedtui.tui import acts, draw, panels, safe, theme
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.view import View
from embedtui.tui.widgets.panel import Panel
from embedtui.tui.widgets.sheet import Sheet


class CutoverScreen(DashboardScreen):
    """The gate and the pointer."""

    NAME = "cutover"
    AUTO_FOCUS = "#gate"
    KEYS = ("share",)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "share", "Share", tooltip="Let a share of reads use the new side first."),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._blockers: tuple[Blocker, ...] | None = None
        self._notices: tuple[Check, ...] = ()
        self._after = False
        self._beat = 0

    def body(self) -> ComposeResult:
        yield Panel(panels.advice, id="advice")
        with Container(id="gateboard"):
            yield Panel(panels.route, title="Route and rollback", id="route", classes="box")
            yield Sheet(self._happens, title="What a cutover does", id="happens", classes="box")
            yield Sheet(self._gate, title="Gate", id="gate", classes="box")
            yield Sheet(self._way, title="In the way", id="blockers", classes="box")

    def opened(self) -> None:
        self._fetch()

    def show(self, view: View) -> None:
        super().show(view)
        after = view.snapshot is not None and view.snapshot.route.active is Side.NEW
        if after != self._after:
            self._after = after
            self.query_one("#happens").border_title = "What can be done now" if after else "What a cutover does"
            self.query_one("#blockers").border_title = "In the way of a cleanup" if after else "In the way"
            self._blockers = None  # they were those of the other act
            self._fetch()
        for sheet in self.query(Sheet):
            sheet.repaint()
        # Blockers are read every few seconds only: each reading asks the database several questions.
        self._beat += 1
        if self._beat % 6 == 0 and view.link.up:
            self._fetch()

    def _fetch(self) -> None:
        snapshot = self.dashboard.snapshot
        if snapshot is None or snapshot.migration is None or snapshot.phase.ended:
            return
        act = "cleanup" if snapshot.route.active is Side.NEW else "cutover"
        self.dashboard.bridge.fetch("blockers", lambda engine: engine.blockers(act))
        self.dashboard.bridge.fetch("notices", lambda engine: engine.notices())
        if self.dashboard.comparison is None and snapshot.evaluation is not None:
            self.dashboard.bridge.fetch("last comparison", lambda engine: engine.last_comparison())

    def receive(self, topic: str, payload: object) -> None:
        if topic == "blockers" and isinstance(payload, tuple):
            self._blockers = payload
            self.query_one("#blockers", Sheet).repaint()
        elif topic == "notices" and isinstance(payload, tuple):
            self._notices = payload
            self.query_one("#happens", Sheet).repaint()
        elif topic == "last comparison" and isinstance(payload, Comparison):
            self.dashboard.comparison = payload
            self.query_one("#gate", Sheet).repaint()
        elif topic in ("cutover", "rollback", "compare"):
            self._fetch()

    def refusal(self, action: str) -> str:
        return acts.refusal("cutover", self.dashboard.view)

    def action_share(self) -> None:
        """Opens the cutover dialog with a small share filled in."""
        reason = self.refusal("share")
        if reason:
            self.dashboard.say(reason, severity="warning")
            return

        self.dashboard.ask_cutover(10)

    def _gate(self, width: int) -> Content:
        comparison = self.dashboard.comparison
        if comparison is None:
            snapshot = self.dashboard.snapshot
            known = snapshot is not None and snapshot.evaluation is not None
            text = "◌ reading the last comparison …" if known else "○ c compares both sides; its checks appear here."
            return draw.lines(draw.wrapped(text, width, "$muted"))
        checks = sorted(comparison.checks, key=lambda check: check.result == "pass")
        left = sum(check.result != "pass" for check in checks)
        if left:
            head = draw.line((f"! {left} of {len(checks)} checks to look at", "bold $warning"))
        else:
            head = draw.line((f"✓ all {len(checks)} checks passed", "bold $success"))
        at = f"{'compared ' if width >= 50 else ''}at {draw.clock(comparison.at)}" if comparison.at is not None else ""
        rows = [draw.row(head, draw.line((at, "$muted")), width)]
        for check in checks:
            rows += check_lines(check, width)
        return draw.lines(rows)

    def _way(self, width: int) -> Content:
        view = self.dashboard.view
        if view.snapshot is None or view.snapshot.migration is None:
            return draw.line(("No migration yet.", "$muted"))
        if view.phase.ended:
            return draw.line((f"This migration is {view.phase}: the pointer stays where it is.", "$muted"))
        if self._blockers is None:
            return draw.line(("◌ asking the database …", "$muted"))
        if not self._blockers:
            return draw.line(("✓ nothing is in the way", "bold $success"))
        rows: list[Content] = []
        for blocker in self._blockers:
            style = "$warning" if blocker.overridable else "$error"
            rows += [
                draw.line((("! " if blocker.overridable else "✗ ") if not i else "  ", style), each)
                for i, each in enumerate(draw.wrapped(safe.line(blocker.message), width - 2, "bold", 3))
            ]
            release = acts.keyed(safe.line(blocker.release))
            if release:
                rows += [
                    draw.line("  ", ("→ " if not i else "  ", "$muted"), each)
                    for i, each in enumerate(draw.wrapped(release, width - 4, "$muted", 3))
                ]
            if blocker.overridable and "override" not in release:
                rows.append(draw.line(("  → or override it with a reason", "$muted")))
        return draw.lines(rows)

    def _happens(self, width: int) -> Content:
        snapshot = self.dashboard.snapshot
        if snapshot is None or snapshot.migration is None:
            return draw.line(("Nothing to cut over yet.", "$muted"))
        m = snapshot.migration
        where = f"{m.new_table}.{m.new_column}" if m.placement is PlacementKind.TABLE else m.new_column
        rows: list[Content] = []
        steps: tuple[tuple[str, str], ...]
        if snapshot.route.active is Side.NEW:
            steps = (
                ("F9", f"moves all reads back to {m.old_column} ({m.old_model.name}) at once"),
                ("", "both sides are kept current while their models answer"),
                ("K", f"drops {m.old_column} for good, when you are sure"),
            )
        else:
            n = len(snapshot.route.listeners)
            steps = (
                ("1", f"one row is changed: searches use {where} with {m.new_model.name}"),
                (
                    "2",
                    f"{n} Router{'s' if n != 1 else ''} hear{'s' if n == 1 else ''} of it, mostly within milliseconds"
                    if n
                    else "services with a Router hear of it; none has been heard from",
                ),
                (
                    "3",
                    f"{m.old_column} stays and is kept current"
                    if not m.old_model.retired
                    else f"{m.old_column} stays but ages: {m.old_model.called} no longer answers",
                ),
                ("F9", "takes it all back, at once"),
            )
        for key, text in steps:
            for i, each in enumerate(draw.wrapped(safe.line(text), width - 4, "", 3)):
                rows.append(draw.line((draw.fit(key if not i else "", 4), "bold $primary"), each))
        for notice in self._notices:
            rows += check_lines(notice, width)
        return draw.lines(rows)


def check_lines(check: Check, width: int, limit: int = 3) -> list[Content]:
    """A check: glyph, word, name, and what it found, on at most ``limit`` lines each."""
    glyph, word, style = theme.RESULT.get(check.result, theme.RESULT["unknown"])
    head = draw.line((f"{glyph} {draw.fit(word, 8)}", f"bold {style}"), (safe.line(check.name), "bold"))
    rows = [draw.cut(head, width)]
    rows += [draw.line("  ", each) for each in draw.wrapped(safe.line(check.detail), width - 2, "$muted", limit)]
    if check.hint and check.result != "pass":
        rows += [
            draw.line("  ", ("→ " if not i else "  ", style), each)
            for i, each in enumerate(draw.wrapped(acts.keyed(safe.line(check.hint)), width - 4, "", limit))
        ]
    return rows
