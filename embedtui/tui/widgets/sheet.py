"""A titled box of text that may be longer than the box: scrolls, and paints again only when the picture changes."""

from __future__ import annotations

from collections.abc import Callable

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

PaintText = Callable[[int], Content]
"""Paints text on so many cells of width; as many lines as it takes."""


class Sheet(VerticalScroll, can_focus=True):
    """Shows ``paint(width)``."""

    ALLOW_MAXIMIZE = True  # containers that scroll do not, unless they say so

    def __init__(self, paint: PaintText, *, title: str = "", id: str | None = None, classes: str | None = None) -> None:
        """Show what ``paint`` paints."""
        super().__init__(id=id, classes=classes)
        self.border_title = title or None
        self._paint = paint
        self._shown: Content | None = None

    def compose(self) -> ComposeResult:
        """Lay out one text."""
        yield Static(markup=False)

    def repaint(self) -> None:
        """Paint anew, if that changes the picture."""
        # One cell stays free, so that a scrollbar that comes or goes does not break the lines anew.
        width = self.size.width - 1
        if width <= 0:
            return
        content = self._paint(width)
        if self._shown is None or not content.is_same(self._shown):
            self._shown = content
            self.query_one(Static).update(content)

    def on_resize(self) -> None:
        """Paint for the new width."""
        self.repaint()
