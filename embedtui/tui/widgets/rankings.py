"""Two rankings side by side: what both sides found, what moved, entered and left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widget import Widget

from embedtui.model import QueryComparison, RankedRow, Side
from embedtui.tui import draw, safe, theme
from embedtui.tui.blind import Blind


def move(row: RankedRow, side: Side) -> tuple[str, str, str]:
    """Glyph, word and colour of what happened to a row between the rankings."""
    if row.other_rank is None:
        return ("+", "entered", "bold $new") if side is Side.NEW else ("−", "left", "bold $old")
    if row.other_rank == row.rank:
        return "=", "same", "$muted"
    before, after = (row.other_rank, row.rank) if side is Side.NEW else (row.rank, row.other_rank)
    return ("↑", f"up {before - after}", "$success") if after < before else ("↓", f"down {after - before}", "$warning")


_SHORT = {"entered": "in", "left": "out"}
_BETWEEN = (" │ ", "$faint")


class Rankings(Widget, can_focus=True):
    """The rankings of one query, with a cursor over both."""

    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "step(-1)", "Up", show=False),
        Binding("down,j", "step(1)", "Down", show=False),
        Binding("left,h", "side('left')", "Left side", show=False),
        Binding("right", "side('right')", "Right side", show=False),
    ]

    @dataclass
    class Pointed(Message):
        """The cursor is on another document."""

        row: RankedRow | None
        side: Side

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        """Show no query yet."""
        super().__init__(id=id, classes=classes)
        self._query: QueryComparison | None = None
        self._models = ("", "")
        self._blind = Blind()
        self._side = Side.NEW
        self._at = 0

    @property
    def pointed(self) -> tuple[RankedRow | None, Side]:
        """The row under the cursor, and its side."""
        rows = self._rows(self._side)
        return (rows[self._at] if self._at < len(rows) else None), self._side

    @property
    def rank(self) -> int:
        """The rank under the cursor, from 1."""
        return self._at + 1

    @property
    def _sides(self) -> tuple[Side, Side]:
        """From left to right."""
        return self._blind.sides(self._query) if self._query is not None else (Side.OLD, Side.NEW)

    def show_query(self, query: QueryComparison | None, models: tuple[str, str], blind: Blind) -> None:
        """Show the rankings of ``query``; ``models`` are the names of old and new model."""
        self._blind = blind
        if query is not None and self._query is not None and query.query_id != self._query.query_id:
            self._at = 0
        self._query, self._models = query, models
        self.refresh()

    def _rows(self, side: Side) -> tuple[RankedRow, ...]:
        if self._query is None:
            return ()
        return self._query.new if side is Side.NEW else self._query.old

    def _tell(self) -> None:
        row, side = self.pointed
        self.post_message(self.Pointed(row, side))

    def action_step(self, step: int) -> None:
        """Move the cursor on its side."""
        at = max(0, min(self._at + step, len(self._rows(self._side)) - 1))
        if at != self._at:
            self._at = at
            self.refresh()
            self._tell()

    def action_side(self, side: str) -> None:
        """Move the cursor to the other side, onto the same document where it is there."""
        wanted = self._sides[side == "right"]
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
        """The cursor looks different then."""
        self.refresh()

    def on_blur(self) -> None:
        """The cursor looks different then."""
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """Move the cursor."""
        offset = event.get_content_offset_capture(self)
        self._side = self._sides[offset.x >= self.content_size.width // 2]
        at = offset.y - 1
        if 0 <= at < len(self._rows(self._side)):
            self._at = at
        self.refresh()
        self._tell()

    def render(self) -> Content:
        """Both rankings, as much as fits around the cursor."""
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
        if self._blind.on:
            heads = [draw.line((word, "bold")) for word in ("left", "right")]
        old, new = (draw.cut(head, half) for head in heads)
        rows = [draw.line(old.pad_right(half - old.cell_length), _BETWEEN, new)]
        depth = max(len(self._query.old), len(self._query.new), 1)
        room = max(1, height - 1)
        first = max(0, min(self._at - room + 1, depth - room)) if depth > room else 0
        for index in range(first, min(depth, first + room)):
            left_row, right_row = (self._row(side, index, half) for side in self._sides)
            rows.append(draw.line(*left_row, _BETWEEN, *right_row))
        return draw.lines(rows, height)

    def _row(self, side: Side, index: int, width: int) -> list[draw.Part]:
        """A result on exactly ``width`` cells."""
        rows = self._rows(side)
        if self._query is None or index >= len(rows):
            unknown = safe.line(self._query.old_unknown) if self._query is not None and side is Side.OLD else ""
            return [(draw.fit("" if index else unknown or "nothing found", width), "$muted")]
        row, roomy = rows[index], width >= 44
        glyph, word, style = move(row, side)
        judged = row.key in self._query.relevant
        if not roomy:
            word = _SHORT.get(word, word.replace("down", "dn"))
        parts = [(f"{row.rank:>2} ", "$muted")]
        if self._query.relevant:
            parts.append(("★ " if judged else "  ", "bold $success"))
        if not self._blind.on:  # what moved up would tell the sides
            parts.append((f"{glyph} {draw.fit(word, 8 if roomy else 5)}", style))
        if width >= 32 and not self._blind.on:
            parts.append((draw.fit(score(row.distance, 5 if roomy else 4), 6 if roomy else 5), "$muted"))
        left = width - sum(cell_len(text) for text, _ in parts)
        text = "(deleted)" if row.deleted else safe.line(row.text, 2 * width) or "(empty)"
        # Twice as many characters as cells leave room for those that take none.
        parts.append((draw.fit(text, left), "bold" if judged else ""))
        pointed, at = self.pointed
        if pointed is None or pointed.key != row.key:
            return [*parts]
        here = side is at
        lit = "$block-cursor-background" if self.has_focus and here else "$block-cursor-blurred-background"
        return [(text, f"{'bold ' if here else ''}{style} on {lit}") for text, style in parts]


def score(distance: float, cells: int) -> str:
    """A distance with as many decimals as fit on ``cells``, three at most."""
    texts = [f"{distance:.{digits}f}" for digits in (3, 2, 1, 0)]
    return next((text for text in texts if len(text) <= cells), texts[-1])
