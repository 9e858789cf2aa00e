"""Two rankings side by side: what both sides found, what moved, entered and left."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from embedtui.model import QueryComparison, RankedRow, Side
from embedtui.tui import draw, safe, theme


def move(row: RankedRow, side: Side) -> tuple[str, str, str]:
    """Glyph, word and colour of what happened to a row between the rankings."""
    if row.other_rank is None:
        return ("+", "entered", "bold $new") if side is Side.NEW else ("−", "left", "bold $old")
    if row.other_rank == row.rank:
        return "=", "same", "$muted"
    before, after = (row.other_rank, row.rank) if side is Side.NEW else (row.rank, row.other_rank)
    return ("↑", f"up {before - after}", "$success") if after < before else ("↓", f"down {after - before}", "$warning")


_SHORT = {"entered": "in", "left": "out"}


class Rankings(Widget, can_focus=True):
    """The rankings of one query, with a cursor over both."""

    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "step(-1)", "Up", show=False),
        Binding("down,j", "step(1)", "Down", show=False),
        Binding("left,h", "side('old')", "Old side", show=False),
        Binding("right", "side('new')", "New side", show=False),
    ]

    class Pointed(Message):
        """The cursor is on another document."""

        def __init__(self, row: RankedRow | None, side: Side) -> None:
            super().__init__()
            self.row = row
            self.side = side

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._query: QueryComparison | None = None
        self._models = ("", "")
        self._side = Side.NEW
        self._at = 0

    @property
    def pointed(self) -> tuple[RankedRow | None, Side]:
        """The row under the cursor, and its side."""
        rows = self._rows(self._side)
        return (rows[self._at] if self._at < len(rows) else None), self._side

    def show_query(self, query: QueryComparison | None, models: tuple[str, str]) -> None:
        """Shows the rankings of ``query``; ``models`` are the names of old and new model."""
        if query is not None and self._query is not None and query.query_id != self._query.query_id:
            self._at = 0
        self._query, self._models = query, models
        self.refresh()
        self._tell()

    def _rows(self, side: Side) -> tuple[RankedRow, ...]:
        if self._query is None:
            return ()
        return self._query.new if side is Side.NEW else self._query.old

    def _tell(self) -> None:
        row, side = self.pointed
        self.post_message(self.Pointed(row, side))

    def action_step(self, step: int) -> None:
        """Moves the cursor on its side."""
        at = max(0, min(self._at + step, len(self._rows(self._side)) - 1))
        if at != self._at:
            self._at = at
            self.refresh()
            self._tell()

    def action_side(self, side: str) -> None:
        """Moves the cursor to the other side, onto the same document where it is there."""
        wanted = Side(side)
        if wanted is self._side:
            return
        row, _ = self.pointed
        self._side = wanted
        if row is not None and row.other_rank is not None:
            self._at = row.other_rank - 1
        self._at = max(0, min(self._at, len(self._rows(wanted)) - 1))
        self.refresh()
        self._tell()

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset_capture(self)
        self._side = Side.OLD if offset.x < self.content_size.width // 2 else Side.NEW
        at = offset.y - 1
        if 0 <= at < len(self._rows(self._side)):
            self._at = at
        self.refresh()
        self._tell()

    def render(self) -> Content:
        width, height = self.content_size
        if self._query is None:
            return Content("")
        half = (width - 3) // 2
        heads = [
            draw.line(
                (f"{theme.SIDE_GLYPH[side]} {side}", f"bold {theme.SIDE_STYLE[side]}"),
                (f"  {safe.line(name)}", "$muted"),
            )
            for side, name in zip((Side.OLD, Side.NEW), self._models, strict=True)
        ]
        rows = [self._pair(heads[0], heads[1], half)]
        depth = max(len(self._query.old), len(self._query.new))
        room = max(1, height - 1)
        first = max(0, min(self._at - room + 1, depth - room)) if depth > room else 0
        pointed, _ = self.pointed
        for index in range(first, min(depth, first + room)):
            old = self._row(self._query.old, index, Side.OLD, half, pointed)
            new = self._row(self._query.new, index, Side.NEW, half, pointed)
            rows.append(self._pair(old, new, half))
        return draw.lines(rows, height)

    @staticmethod
    def _pair(old: Content, new: Content, half: int) -> Content:
        old = draw.cut(old, half)
        return draw.line(old.pad_right(half - old.cell_length), (" │ ", "$faint"), draw.cut(new, half))

    def _row(
        self, rows: tuple[RankedRow, ...], index: int, side: Side, width: int, pointed: RankedRow | None
    ) -> Content:
        if index >= len(rows):
            return Content("")
        row = rows[index]
        glyph, word, style = move(row, side)
        judged = self._query is not None and row.key in self._query.relevant
        parts: list[draw.Part] = [(f"{row.rank:>2} ", "$muted")]
        if self._query is not None and self._query.relevant:
            parts.append(("★ " if judged else "  ", "bold $success"))
        if width < 44:
            word = _SHORT.get(word, word.replace("down", "dn"))
        parts.append((f"{glyph} {draw.fit(word, 8 if width >= 44 else 5)}", style))
        if width >= 46:
            parts.append((f"{row.distance:.3f} ", "$muted"))
        lead = draw.line(*parts)
        text = draw.fit(safe.line(row.text) or "(empty)", width - lead.cell_length)
        shared_pointed = pointed is not None and row.key == pointed.key
        content = draw.line(lead, (text, "bold" if judged else ""))
        if shared_pointed:
            here = side is self._side
            style = "$block-cursor-background" if self.has_focus and here else "$block-cursor-blurred-background"
            content = content.stylize_before(f"bold on {style}" if here else f"on {style}")
        return content
