"""A list of one-line rows that paints only the rows on screen, so a hundred thousand scroll like ten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from textual import events
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Size
from textual.message import Message
from textual.reactive import var
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.style import Style
from textual.visual import Visual

from embedtui.tui import draw

T = TypeVar("T")
PaintRow = Callable[[int, int], Content | None]
"""Paints row number ``index`` on ``width`` cells; None while the row is not known yet."""


class Listing(ScrollView, can_focus=True):
    """Rows by number with a cursor. The rows' data stays with the owner; this asks for a picture of each."""

    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", show=False),
        Binding("home,g", "first", "First", show=False),
        Binding("end,G", "last", "Last", show=False),
        Binding("enter", "choose", "Choose", show=False),
    ]

    @dataclass
    class Moved(Message):
        """The cursor is on another row."""

        listing: Listing
        index: int

        @property
        def control(self) -> Listing:
            """The list, for selectors."""
            return self.listing

        def can_replace(self, message: Message) -> bool:
            """Only where it is last matters."""
            return isinstance(message, Listing.Moved) and message.listing is self.listing

    @dataclass
    class Chosen(Message):
        """Enter, or a second click, on a row."""

        listing: Listing
        index: int

        @property
        def control(self) -> Listing:
            """The list, for selectors."""
            return self.listing

    cursor: var[int] = var(0)

    def __init__(
        self, paint: PaintRow, *, empty: str = "", title: str = "", id: str | None = None, classes: str | None = None
    ) -> None:
        """Show rows that ``paint`` paints, none yet; ``empty`` is said meanwhile."""
        super().__init__(id=id, classes=classes)
        self.border_title = title or None
        self._paint = paint
        self._count = 0
        self._empty = empty
        self._strips: dict[tuple[int, int, bool, bool], Strip] = {}

    @property
    def empty(self) -> str:
        """What is said where there are no rows."""
        return self._empty

    @empty.setter
    def empty(self, text: str) -> None:
        if text != self._empty:
            self._empty = text
            self.refresh()

    @property
    def count(self) -> int:
        """Number of rows."""
        return self._count

    def reset(self, count: int, cursor: int | None = None) -> None:
        """Have ``count`` rows from now on, whose pictures may have changed."""
        self._strips.clear()
        self._count = count
        self.virtual_size = Size(self.scrollable_content_region.width, count)
        self.cursor = max(0, min(self.cursor if cursor is None else cursor, count - 1))
        self.refresh()

    def update_rows(self, before: Sequence[T], now: Sequence[T], *identities: Callable[[T], object]) -> None:
        """Repaint what differs between the rows' data ``before`` and ``now``.

        The cursor stays with its row as the first of ``identities`` knows it again that can, else on its line.
        """
        marked = before[self.cursor] if self.cursor < len(before) else None
        if len(before) != self._count or len(now) != self._count:
            self.reset(len(now))
        else:
            for index, (old, new) in enumerate(zip(before, now, strict=True)):
                if old != new:
                    self.repaint(index)
        if marked is None:
            return
        for identity in identities:
            found = [identity(each) for each in now]
            if (wanted := identity(marked)) in found:
                self.cursor = found.index(wanted)
                return

    def repaint(self, index: int) -> None:
        """Paint one row anew."""
        self._strips = {key: strip for key, strip in self._strips.items() if key[0] != index}
        self.refresh_line(index)

    def validate_cursor(self, cursor: int) -> int:
        """Keep it on a row."""
        return max(0, min(cursor, self._count - 1))

    def watch_cursor(self, before: int, now: int) -> None:
        """Show it, and say so."""
        if before == now:
            return
        self.refresh_line(before)
        self.refresh_line(now)
        self._follow()
        self.post_message(self.Moved(self, now))

    def action_move(self, step: int) -> None:
        """Move the cursor by ``step`` rows."""
        self.cursor += step

    def action_page(self, step: int) -> None:
        """Move the cursor by a page."""
        self.cursor += step * max(1, self.scrollable_content_region.height - 1)

    def action_first(self) -> None:
        """Move the cursor to the first row."""
        self.cursor = 0

    def action_last(self) -> None:
        """Move the cursor to the last row."""
        self.cursor = self._count - 1

    def action_choose(self) -> None:
        """Choose the row under the cursor; without one Enter is the screen's."""
        if not self._count:
            raise SkipAction
        self.post_message(self.Chosen(self, self.cursor))

    def render_line(self, y: int) -> Strip:
        """The row on line ``y`` of the screen."""
        width = self.scrollable_content_region.width
        index = self.scroll_offset.y + y
        base = self.visual_style
        if index >= self._count:
            said = [] if self._count else draw.wrapped(self.empty, width - 4, "$muted", limit=6)
            # a line is left free above it where there is room for that
            line = y - (len(said) < self.scrollable_content_region.height)
            if not 0 <= line < len(said):
                return Strip.blank(width, base.rich_style)
            return self._strip(draw.line("  ", said[line]), width, base)
        chosen = index == self.cursor
        key = (index, width, chosen, self.has_focus)
        strip = self._strips.get(key)
        if strip is None:
            # Two cells for the mark, and one between the row and the scrollbar.
            content = self._paint(index, width - 3)
            known = content is not None
            if chosen:
                content = self._under_cursor(content or Content("…"), width)
            else:
                content = Content("  ") + (content or Content.styled("…", "$faint"))
            strip = self._strip(content, width, base)
            if known:
                if len(self._strips) > 2000:
                    self._strips.clear()
                self._strips[key] = strip
        return strip

    def _under_cursor(self, content: Content, width: int) -> Content:
        if not self.has_focus:
            mark, style = ("▌", "$faint"), "on $block-cursor-blurred-background"
        elif self.app.native_ansi_color:
            # Of 16 colours, hardly any two can be told apart in front of each other.
            content, mark, style = (
                Content(content.plain),
                ("▌", ""),
                "bold $block-cursor-foreground on $block-cursor-background",
            )
        else:
            mark, style = ("▌", "$primary"), "on $block-cursor-background"
        return (Content.styled(*mark) + Content(" ") + content).pad_right(width).stylize_before(style)

    def _strip(self, content: Content, width: int, base: Style) -> Strip:
        strips = Visual.to_strips(self, content.truncate(width, pad=True), width, 1, base)
        return strips[0] if strips else Strip.blank(width)

    def notify_style_update(self) -> None:
        """Colours are part of the strips."""
        self._strips.clear()
        super().notify_style_update()

    def on_resize(self) -> None:
        """Paint for the new width; the cursor stays in sight."""
        self._strips.clear()
        self.virtual_size = Size(self.scrollable_content_region.width, self._count)
        self._follow()

    def on_focus(self) -> None:
        """The cursor looks different then."""
        self.refresh_line(self.cursor)

    def on_blur(self) -> None:
        """The cursor looks different then."""
        self.refresh_line(self.cursor)

    def on_click(self, event: events.Click) -> None:
        """Move the cursor; a second click chooses."""
        index = self.scroll_offset.y + event.get_content_offset_capture(self).y
        if 0 <= index < self._count:
            event.stop()
            again = index == self.cursor
            self.cursor = index
            if again and event.chain > 1:
                self.action_choose()

    def _follow(self) -> None:
        height = self.scrollable_content_region.height
        if not height:
            return
        top = self.scroll_offset.y
        # At once, because behind a dialog there is no next refresh; and by force, because rows that have just come may
        # not have their scrollbar yet.
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True, force=True)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False, immediate=True, force=True)
