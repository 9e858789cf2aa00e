"""The command palette's actions: those possible now first, the others with the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from embedtui.tui.actions import ACTIONS, SCREENS, footer
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.screens.help import key_text

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard

Entry = tuple[str, Callable[[], Any], str]
"""Name shown, what is done, help."""


class ActionsProvider(Provider):
    """Actions and screens by name."""

    def entries(self) -> list[Entry]:
        """What is sensible next, what is possible, what screens have keys for, screens, and what is not possible."""
        view = self._dashboard.view
        sensible = footer(view)[:-2]
        possible: list[Entry] = []
        refused: list[Entry] = []
        for action in sorted(ACTIONS.values(), key=lambda each: each.name not in sensible):
            if action.name == "palette":
                continue
            reason = action.refusal(view)
            (refused if reason else possible).append(
                (
                    f"{action.label_now(view)}  ({action.key_text})",
                    partial(self.app.run_action, f"app.perform('{action.name}')"),
                    f"not now: {reason}" if reason else action.help,
                )
            )
        screens = [
            (f"Go to {title}  ({key})", partial(self._dashboard.goto, name), "Screen")
            for name, (key, title) in SCREENS.items()
        ]
        return [*possible, *self._of_screens(), *screens, *refused]

    @property
    def _dashboard(self) -> Dashboard:
        return cast("Dashboard", self.app)

    def _of_screens(self) -> Iterator[Entry]:
        """The screens' own actions, of the one in front first; another one is brought to the front for its."""
        front, everywhere = self._dashboard.current_mode, DashboardScreen._merge_bindings().key_to_bindings
        for name in sorted(SCREENS, key=lambda each: each != front):
            screen = cast("type[DashboardScreen]", self._dashboard.MODES[name])
            for key, bindings in screen._merge_bindings().key_to_bindings.items():
                for binding in bindings:
                    if binding.tooltip and (name == front or key not in everywhere):
                        shown = f"{SCREENS[name][1]}: {binding.description}  ({key_text(binding.key_display or key)})"
                        yield shown, partial(self._do_there, name, binding.action), binding.tooltip

    def _do_there(self, name: str, action: str) -> None:
        app = self._dashboard
        app.goto(name)
        app.call_after_refresh(lambda: app.screen.run_action(action))

    async def discover(self) -> Hits:
        """Everything, before anything is typed."""
        for name, action, text in self.entries():
            yield DiscoveryHit(name, action, help=text)

    async def search(self, query: str) -> Hits:
        """What fits ``query``."""
        matcher = self.matcher(query)
        for name, action, text in self.entries():
            score = matcher.match(name)
            if score > 0:
                yield Hit(score, matcher.highlight(name), action, help=text)
