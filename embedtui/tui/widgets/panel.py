"""A titled box whose content is a pure function of the view and its size; repaints only when the picture changes."""

from __future__ import annotations

from collections.abc import Callable

from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from embedtui.tui.view import View

Paint = Callable[[View, int, int], Content]
"""Paints a view on (width, height) cells."""


class Panel(Widget):
    """Shows ``paint(view, width, height)``."""

    def __init__(self, paint: Paint, *, title: str = "", id: str | None = None, classes: str | None = None) -> None:
        """Show what ``paint`` paints of a view."""
        super().__init__(id=id, classes=classes)
        # Parts that can be clicked have their own look; Textual would underline and recolour them.
        self.auto_links = False
        self.border_title = title or None
        self._paint = paint
        self._view = View()
        self._shown: tuple[Size, Content] | None = None

    def show(self, view: View) -> None:
        """Show ``view``, if that changes the picture."""
        self._view = view
        size = self.content_size
        if not size:  # hidden: what it showed before must not come back with it
            self._shown = None
        if self._shown is None:
            return
        content = self._paint(view, size.width, size.height)
        shown_size, shown = self._shown
        if size != shown_size or not content.is_same(shown):
            self._shown = (size, content)
            self.refresh()

    def render(self) -> Content:
        """The picture for the present size."""
        size = self.content_size
        if self._shown is None or self._shown[0] != size:
            self._shown = (size, self._paint(self._view, size.width, size.height))
        return self._shown[1]
