"""The text of one document in a box: scrolls, and paints by the line, so that the next document is there at once."""

from __future__ import annotations

from textual.content import Content
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual


class Document(ScrollView, can_focus=True):
    """Shows a text, wrapped between words."""

    ALLOW_SELECT = False

    def __init__(self, *, title: str = "", id: str | None = None, classes: str | None = None) -> None:
        """Show nothing yet."""
        super().__init__(id=id, classes=classes)
        self.border_title = title or None
        self._text = Content("")
        self._strips: list[Strip] = []

    @property
    def text(self) -> Content:
        """What is shown, with its marks."""
        return self._text

    def show(self, text: Content, title: Content) -> None:
        """Show another text from its beginning."""
        self._text = text
        self.border_title = title
        self._wrap()
        self.scroll_home(animate=False, immediate=True)

    def _wrap(self) -> None:
        # One cell stays free, so that a scrollbar that comes or goes does not break the lines anew.
        width = self.size.width - 1
        self._strips = Visual.to_strips(self, self._text, width, None, self.visual_style) if width > 0 else []
        self.virtual_size = Size(max(0, width), len(self._strips))
        self.refresh()

    def notify_style_update(self) -> None:
        """Colours are part of the strips."""
        self._wrap()
        super().notify_style_update()

    def on_resize(self) -> None:
        """Break the lines anew."""
        self._wrap()

    def render_line(self, y: int) -> Strip:
        """One line of the text."""
        width, style = self.scrollable_content_region.width, self.visual_style.rich_style
        index = self.scroll_offset.y + y
        if index >= len(self._strips):
            return Strip.blank(width, style)
        return self._strips[index].adjust_cell_length(width, style)
