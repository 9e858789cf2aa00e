"""What all screens share: status line, names of the screens, keys, being shown views, and the filter of a list."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from textual import actions, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from embedtui.tui.actions import ACTIONS, READONLY, footer
from embedtui.tui.engine import Engine
from embedtui.tui.tour import hint_of, tour_line
from embedtui.tui.view import View
from embedtui.tui.widgets import chrome
from embedtui.tui.widgets.chrome import Key
from embedtui.tui.widgets.listing import Listing
from embedtui.tui.widgets.panel import Panel

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard

T = TypeVar("T")

_TYPING: tuple[Key, ...] = (
    Key("Enter", "To the list", "app.simulate_key('enter')"),
    Key("Esc", "Clear", "app.simulate_key('escape')"),
    Key("F1", "Help", "app.perform('help')"),
    Key("^q", "Quit", "app.perform('quit')"),
)
_OWN_KEYS, _ALL_KEYS = 3, 6
"""Keys of the screen itself, and all keys, that fit into a footer of 80 columns beside rollback: they come first."""


class DashboardScreen(Screen[None]):
    """One of the numbered screens."""

    NAME: ClassVar[str] = ""
    KEYS: ClassVar[tuple[str, ...]] = ()
    """Own actions as bound, most important first, that deserve a place in the footer."""

    ALLOW_IN_MAXIMIZED_VIEW = "#footer"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("z", "zoom", "Zoom", show=False, tooltip="The part with the focus on the whole screen, and back."),
        Binding("enter", "open", "Open", show=False, tooltip="More of what is marked, where there is more."),
    ]
    NOTHING = ""
    """A refusal that means that there is nothing for a key to do: then the footer does not offer it."""

    def __init__(self) -> None:
        """Nothing is styled yet."""
        super().__init__()
        self._styled_for: tuple[object, ...] = ()

    @property
    def dashboard(self) -> Dashboard:
        """The app, by its type."""
        return cast("Dashboard", self.app)

    def compose(self) -> ComposeResult:
        """Lay out header, names of the screens, the screen's own widgets, footer."""
        yield Panel(chrome.header, id="header")
        yield Panel(
            lambda view, width, _: chrome.rail(self.NAME, view.snapshot.faulty if view.snapshot else 0, width),
            id="rail",
        )
        yield from self.body()
        yield Panel(tour_line, id="tour")
        yield Panel(lambda view, width, _: chrome.footer(view, self.keys(view), width), id="footer")

    def body(self) -> ComposeResult:
        """The screen's own widgets."""
        yield Widget()

    def show(self, view: View) -> None:
        """Show ``view`` on every panel; a screen with more than panels extends this."""
        self.set_class(view.stale, "-stale")
        self.set_class(hint_of(view) is not None, "-tour")
        for panel in self.query(Panel):
            panel.show(view)

    def opened(self) -> None:
        """The screen was brought to the front: fetch what it needs."""

    def settings_changed(self) -> None:
        """Another setting is in force."""

    def ask_engine(self, work: Callable[[Engine], T], reply: Callable[[T], Message], key: Hashable = None) -> None:
        """Have something read; ``reply`` of it comes as a message to this screen."""
        self.dashboard.bridge.read(work, reply, self.post_message, key)

    def keys(self, view: View) -> tuple[Key, ...]:
        """The keys of the footer: the screen's first, what the state suggests, more of both, help and quit last.

        As many as have room are shown. While a field has the focus they would be typed: then it has the keys that leave
        the field.
        """
        if isinstance(self.focused, Input):
            return _TYPING
        bound = [each for bindings in self._bindings.key_to_bindings.values() for each in bindings]
        own = [each for each in bound if each.show or each.action in self.KEYS]
        own.sort(key=lambda each: self.KEYS.index(each.action) if each.action in self.KEYS else len(self.KEYS))
        refused = {each.action: self.refusal(actions.parse(each.action)[1]) for each in own}
        ended = view.phase.ended
        # what never does anything here, or no more, takes no room
        pointless = {READONLY, *([self.NOTHING] if self.NOTHING else [])}
        own = [each for each in own if refused[each.action] not in pointless and not (ended and refused[each.action])]
        keys = [
            Key(each.key_display or each.key, each.description, f"screen.{each.action}", not refused[each.action])
            for each in own
        ]
        suggested = [
            Key(each.key_text, each.label_now(view), f"app.perform('{each.name}')", not each.refusal(view))
            for each in (ACTIONS[name] for name in footer(view))
        ]
        suggested, ways_out = suggested[:-2], suggested[-2:]
        first, room = keys[:_OWN_KEYS], _ALL_KEYS - 2 - len(keys[:_OWN_KEYS])
        return (*first, *suggested[:room], *keys[_OWN_KEYS:], *suggested[room:], *ways_out)

    def refusal(self, _action: str) -> str:
        """Why one of the screen's own actions is impossible now; empty where it is possible."""
        return ""

    def action_zoom(self) -> None:
        """Give the part that has the focus the whole screen, or take it back."""
        if self.maximized is not None:
            self.minimize()
        elif self.focused is not None:
            self.maximize(self.focused, container=False)
        else:
            self.dashboard.say("No part has the focus: Tab gives it to the next.", title="Zoom", severity="warning")

    def action_open(self) -> None:
        """Enter, where the part with the focus does nothing by it: say what helps."""
        self.dashboard.say("Enter opens nothing here; ? lists the keys.")

    def refuse(self, action: str, title: str = "") -> bool:
        """Whether ``action`` is impossible now; then it is said why."""
        reason = self.refusal(action)
        if reason:
            self.dashboard.say(reason, title=title, severity="warning")
        return bool(reason)

    def on_mount(self) -> None:
        """Show what is known."""
        self.show(self.dashboard.view)

    def update_node_styles(self, animate: bool = True) -> None:
        """Apply styles anew only where the look differs.

        Textual does so, and so paints every widget anew, whenever a screen comes to the front: two thirds of the CPU
        time between a key and its screen.
        """
        look = (self.dashboard.theme, self.dashboard.app_focus, self.size, self.classes, frozenset(self.pseudo_classes))
        if look != self._styled_for:
            self._styled_for = look
            super().update_node_styles(animate)

    def on_descendant_focus(self) -> None:
        """Show the keys that now mean something."""
        self.query_one("#footer", Panel).show(self.dashboard.view)

    def on_screen_resume(self) -> None:
        """Show what happened meanwhile."""
        self.show(self.dashboard.view)
        self.opened()


class FilteredScreen(DashboardScreen):
    """A screen with a list and a filter over it."""

    LIST: ClassVar[str] = ""
    """Selector of the list."""

    def __init__(self) -> None:
        """Everything is listed."""
        super().__init__()
        self.words: tuple[str, ...] = ()
        """The filter's words, casefolded."""

    @property
    def listing(self) -> Listing:
        """The list that is filtered."""
        return self.query_one(self.LIST, Listing)

    def matches(self, text: str) -> bool:
        """Whether a row with ``text`` is listed: it contains all words of the filter."""
        folded = text.casefold()
        return all(word in folded for word in self.words)

    def filter_field(self) -> Input:
        """The field; hidden until it is opened."""
        return Input(placeholder="filter", id="filter", compact=True)

    @property
    def filtered(self) -> bool:
        """Whether a filter is open, or holds words."""
        return bool(self.words) or self.query_one("#filter").has_class("-open")

    def filter_changed(self) -> None:
        """List anew what matches."""

    def action_filter(self) -> None:
        """Open the filter."""
        field = self.query_one("#filter", Input)
        field.add_class("-open")
        field.focus()

    def action_leave_filter(self) -> None:
        """Close and clear the filter."""
        field = self.query_one("#filter", Input)
        field.value = ""
        field.remove_class("-open")
        self.listing.focus()

    @on(Input.Changed, "#filter")
    def _typed(self, event: Input.Changed) -> None:
        self.words = tuple(event.value.casefold().split())
        self.filter_changed()

    @on(Input.Submitted, "#filter")
    def _entered(self) -> None:
        self.listing.focus()
