"""What all screens share: status line, names of the screens, keys, and being shown views."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from embedtui.tui import acts
from embedtui.tui.view import View
from embedtui.tui.widgets import chrome
from embedtui.tui.widgets.panel import Panel

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard

Key = tuple[str, str, str, bool]
"""(key as written, label, action, possible) for the footer."""

_TYPING: tuple[Key, ...] = (
    ("Enter", "To the list", "app.simulate_key('enter')", True),
    ("Esc", "Clear", "app.simulate_key('escape')", True),
    ("F1", "Help", "app.act('help')", True),
    ("^q", "Quit", "app.act('quit')", True),
)


class DashboardScreen(Screen[None]):
    """One of the numbered screens."""

    NAME: ClassVar[str] = ""
    KEYS: ClassVar[tuple[str, ...]] = ()
    """Names of own actions, most important first, that deserve a place in the footer."""

    def __init__(self) -> None:
        super().__init__()
        self._styled_for: tuple[object, ...] = ()

    @property
    def dashboard(self) -> Dashboard:
        """The app, by its type."""
        return cast("Dashboard", self.app)

    def compose(self) -> ComposeResult:
        yield Panel(chrome.header, id="header")
        yield Panel(
            lambda view, width, _: chrome.rail(self.NAME, view.snapshot.faulty if view.snapshot else 0, width),
            id="rail",
        )
        yield from self.body()
        yield Panel(lambda view, width, _: chrome.footer(view, self.keys(view), width), id="footer")

    def body(self) -> ComposeResult:
        """The screen's own widgets."""
        yield Widget()

    def show(self, view: View) -> None:
        """Shows ``view`` on every panel; a screen with more than panels extends this."""
        self.set_class(view.stale, "-stale")
        for panel in self.query(Panel):
            panel.show(view)

    def receive(self, topic: str, payload: object) -> None:
        """Something fetched or done arrived; screens that care override this."""

    def opened(self) -> None:
        """The screen was brought to the front; fetches what it needs."""

    def keys(self, view: View) -> tuple[Key, ...]:
        """At most six keys for the footer: the screen's own first, then what the state suggests, help and quit last.

        While a field has the focus they would be typed: then it has the keys that leave the field.
        """
        if isinstance(self.focused, Input):
            return _TYPING
        own = []
        for binding in self._bindings.key_to_bindings.values():
            own += [each for each in binding if each.show]
        own.sort(key=lambda each: self.KEYS.index(each.action) if each.action in self.KEYS else 99)
        if view.readonly:  # what never does anything here takes no room
            own = [each for each in own if self.refusal(each.action) != acts.READONLY]
        keys: list[Key] = [
            (each.key_display or each.key, each.description, f"screen.{each.action}", not self.refusal(each.action))
            for each in own[:3]
        ]
        names = acts.footer(view)
        room = 6 - len(keys) - 2
        keys += [self._act(name, view) for name in names[:-2][:room]]
        return (*keys, *(self._act(name, view) for name in names[-2:]))

    def refusal(self, action: str) -> str:
        """Why one of the screen's own actions is impossible now; empty where it is possible."""
        return ""

    @staticmethod
    def _act(name: str, view: View) -> Key:
        act = acts.ACTS[name]
        return act.key_text, acts.label(name, view), f"app.act('{name}')", not acts.refusal(name, view)

    def on_mount(self) -> None:
        self.show(self.dashboard.view)

    def update_node_styles(self, animate: bool = True) -> None:
        """Textual applies every style anew, and so paints every widget anew, whenever a screen comes to the front.

        Only what differs is worth that: it is two thirds of the CPU time between a key and its screen.
        """
        look = (self.dashboard.theme, self.dashboard.app_focus, self.size, self.classes, frozenset(self.pseudo_classes))
        if look != self._styled_for:
            self._styled_for = look
            super().update_node_styles(animate)

    def on_descendant_focus(self) -> None:
        self.query_one("#footer", Panel).show(self.dashboard.view)

    def on_screen_resume(self) -> None:
        self.show(self.dashboard.view)
        self.opened()
