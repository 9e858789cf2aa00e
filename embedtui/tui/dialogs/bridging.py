"""The bridge's sheet: what serves, how far it is, what was found; on, off, measured, or on with a reason."""

from __future__ import annotations

from collections.abc import Callable

from textual import on
from textual.app import ComposeResult
from textual.widgets import Button, Input, Static

from embedtui.model import Blocker
from embedtui.tui import draw
from embedtui.tui.actions.bridging import BridgeOrder
from embedtui.tui.dialogs.base import Answer, Dialog, field
from embedtui.tui.messages import BlockersRead
from embedtui.tui.panels.bridging import bridge_lines
from embedtui.tui.panels.gate import blocker_lines
from embedtui.tui.view import View

REPAINT_SECONDS = 0.5
"""As often as a snapshot is read."""


class BridgeDialog(Dialog[None]):
    """Stays open while it works; closing it ends nothing."""

    CANCEL = "Close"
    TYPED = ".-asked Input"
    SUBMIT = "#on"

    def __init__(self, view: Callable[[], View], order: Callable[[BridgeOrder], object]) -> None:
        """``view`` gives what is to be shown, ``order`` takes what the operator wants."""
        super().__init__("Bridge")
        self._view, self._order = view, order
        self._blockers: tuple[Blocker, ...] | None = None
        self._old_gone: str | None = None
        """What was known of the old model when the engine was asked what stands against it."""

    def body(self) -> ComposeResult:
        """The figures, what stands against it, and a field for a reason."""
        yield Static(id="bridge-found")
        yield Static(id="bridge-blockers")
        reason = Input(id="override", placeholder="kept in the log", compact=True, select_on_focus=False)
        yield from field("Reason to override", reason)

    def buttons(self) -> ComposeResult:
        """Which of them are there goes by the state."""
        yield Answer("Measure", id="measure")
        yield Answer("Turn on", "primary", id="on")
        yield Answer("Turn off", "warning", id="off")

    def on_mount(self) -> None:
        """Show what is known, and have the old model asked."""
        self.set_interval(REPAINT_SECONDS, self._repaint)
        self._repaint()

    def on_blockers_read(self, message: BlockersRead) -> None:
        """Show what stands against it."""
        self._blockers = message.blockers
        self._repaint()

    @on(Input.Changed)
    def typed(self) -> None:
        """A reason may be there now, or no longer."""
        self._repaint()

    @property
    def _in_the_way(self) -> tuple[Blocker, ...]:
        """What the engine said, and a bound that the newest map was refused by."""
        snapshot = self._view().snapshot
        fit = snapshot.bridge if snapshot is not None else None
        refused = fit.status.refused if fit is not None else ""
        bound = (Blocker("bound", refused, overridable=True),) if refused else ()
        return (*(self._blockers or ()), *bound)

    def _repaint(self) -> None:
        view = self._view()
        snapshot = view.snapshot
        if snapshot is None or not self.is_attached:
            return
        if snapshot.old_gone != self._old_gone:  # it may die while this is open
            self._old_gone = snapshot.old_gone
            self.app.bridge.read(lambda engine: engine.blockers("bridge"), BlockersRead, self.post_message)  # type: ignore[attr-defined]
        width = max(20, self.query_one("#bridge-found").size.width or 70)
        self.query_one("#bridge-found", Static).update(draw.lines(bridge_lines(view, width)))
        bridging, busy = snapshot.route.bridging, bool(view.bridge_work)
        blockers = () if bridging else self._in_the_way
        self.query_one("#bridge-blockers", Static).update(
            draw.lines(line for each in blockers if each.name != "bound" for line in blocker_lines(each, width))
        )
        barred = any(not each.overridable for each in blockers)
        reason = self.query_one("#override", Input)
        # a field that goes while somebody types in it would lose what is typed
        asked = bool(blockers) and not barred and not busy
        self.query_one(".field").set_class(asked or (reason.has_focus and bool(reason.value)), "-asked")
        lacks = bool(blockers) and not reason.value.strip()
        for name, shown, usable in (
            ("measure", not busy, True),
            ("on", not bridging and not busy, not barred and not lacks and self._blockers is not None),
            ("off", bridging, True),
        ):
            button = self.query_one(f"#{name}", Button)
            button.display, button.disabled = shown, not usable

    @on(Button.Pressed, "#measure")
    def measured(self) -> None:
        """Fit and measure; nothing that is searched changes."""
        self._give(BridgeOrder())

    @on(Button.Pressed, "#on")
    @on(Input.Submitted)
    def turned_on(self) -> None:
        """Have searches go through it."""
        if not self.query_one("#on", Button).disabled:
            reason = self.query_one("#override", Input).value.strip()
            self._give(BridgeOrder(serve=True, override={each.token: reason for each in self._in_the_way}))

    @on(Button.Pressed, "#off")
    def turned_off(self) -> None:
        """Have searches take the old model's vectors again."""
        self._give(BridgeOrder(off=True))

    def _give(self, order: BridgeOrder) -> None:
        self._order(order)
        self.query_one("#cancel", Button).focus()
        self.call_later(self._repaint)
