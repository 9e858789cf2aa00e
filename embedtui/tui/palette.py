"""The command palette's acts: those possible now first, the others with the reason why not."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from embedtui.tui import acts

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard


class ActsProvider(Provider):
    """Acts and screens by name."""

    def _entries(self) -> list[tuple[str, str, str]]:
        """(name shown, action, help): what is sensible next, what is possible, screens, and what is not possible."""
        view = cast("Dashboard", self.app).view
        sensible = acts.footer(view)
        possible: list[tuple[str, str, str]] = []
        refused: list[tuple[str, str, str]] = []
        for act in sorted(acts.ACTS.values(), key=lambda act: act.name not in sensible[:-2]):
            if act.name == "palette":
                continue
            reason = acts.refusal(act.name, view)
            name = f"{acts.label(act.name, view)}  ({act.key_text})"
            (refused if reason else possible).append(
                (name, f"app.act('{act.name}')", f"not now: {reason}" if reason else act.doc)
            )
        screens = [
            (f"Go to {title}  ({key})", f"app.goto('{name}')", "Screen") for name, (key, title) in acts.SCREENS.items()
        ]
        return possible + screens + refused

    async def discover(self) -> Hits:
        for name, action, text in self._entries():
            yield DiscoveryHit(name, partial(self.app.run_action, action), help=text)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for name, action, text in self._entries():
            score = matcher.match(name)
            if score > 0:
                yield Hit(score, matcher.highlight(name), partial(self.app.run_action, action), help=text)
