"""The command palette's actions: those possible now first, the others with the reason why not."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from embedtui.tui.actions import ACTIONS, SCREENS, footer

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard


class ActionsProvider(Provider):
    """Actions and screens by name."""

    def entries(self) -> list[tuple[str, str, str]]:
        """(name shown, action, help): what is sensible next, what is possible, screens, and what is not possible."""
        view = cast("Dashboard", self.app).view
        sensible = footer(view)[:-2]
        possible: list[tuple[str, str, str]] = []
        refused: list[tuple[str, str, str]] = []
        for action in sorted(ACTIONS.values(), key=lambda each: each.name not in sensible):
            if action.name == "palette":
                continue
            reason = action.refusal(view)
            (refused if reason else possible).append(
                (
                    f"{action.label_now(view)}  ({action.key_text})",
                    f"app.perform('{action.name}')",
                    f"not now: {reason}" if reason else action.help,
                )
            )
        screens = [
            (f"Go to {title}  ({key})", f"app.goto('{name}')", "Screen") for name, (key, title) in SCREENS.items()
        ]
        return possible + screens + refused

    async def discover(self) -> Hits:
        """Everything, before anything is typed."""
        for name, action, text in self.entries():
            yield DiscoveryHit(name, partial(self.app.run_action, action), help=text)

    async def search(self, query: str) -> Hits:
        """What fits ``query``."""
        matcher = self.matcher(query)
        for name, action, text in self.entries():
            score = matcher.match(name)
            if score > 0:
                yield Hit(score, matcher.highlight(name), partial(self.app.run_action, action), help=text)
