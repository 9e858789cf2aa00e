"""Rankings side by side: what the sides found, what moved, entered and left; the bridge's between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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


def tied(row: RankedRow, rows: Sequence[RankedRow], others: Sequence[RankedRow]) -> bool:
    """Whether only the order among equal distances differs: where both sides may have it at the same rank.

    ``rows`` is the ranking that ``row`` is of, ``others`` the other one.
    """
    there = next((each for each in others if each.key == row.key), None)
    if there is None:
        return False
    here, elsewhere = _ranks(row, rows), _ranks(there, others)
    return len(here) + len(elsewhere) > 2 and bool(set(here) & set(elsewhere))


def _ranks(row: RankedRow, rows: Sequence[RankedRow]) -> list[int]:
    """The ranks that a row may as well have: those of all rows at its distance."""
    return [each.rank for each in rows if abs(each.distance - row.distance) < TIE]


TIE = 1e-9
"""Distances closer than this are equal."""
BRIDGED = "bridged"
GLYPHS = {"old": theme.SIDE_GLYPH[Side.OLD], BRIDGED: "◈", "new": theme.SIDE_GLYPH[Side.NEW]}
STYLES = {"old": theme.SIDE_STYLE[Side.OLD], BRIDGED: "$warning", "new": theme.SIDE_STYLE[Side.NEW]}
KEY = 8
"""Cells that a key takes at most in a ranking: the beginning of a UUID tells it."""
TITLE = 400
"""Characters of a title that are looked at: its end is shown, too."""
SPELLED = 54
"""Cells from which a move is told by whole words; on fewer a document's own are worth more."""
WIDE = 84
"""Cells that three rankings take; on fewer the bridge's and the old one's take turns."""
MISSED = "!"
"""Marks a result of exact search that the index, as searches are served, did not give."""
_SHORT = {"entered": "in", "left": "out"}
_BETWEEN = (" │ ", "$faint")


class Rankings(Widget, can_focus=True):
    """The rankings of one query, with a cursor over all: old and new, and the bridge's where there is one."""

    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "step(-1)", "Up", show=False),
        Binding("down,j", "step(1)", "Down", show=False),
        Binding("left,h", "across(-1)", "Side to the left", show=False),
        Binding("right", "across(1)", "Side to the right", show=False),
    ]

    @dataclass
    class Pointed(Message):
        """The cursor is on another document."""

        row: RankedRow | None

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        """Show no query yet."""
        super().__init__(id=id, classes=classes)
        self._query: QueryComparison | None = None
        self._models, self._how = ("", ""), "exact"
        self._blind = Blind()
        self._column = "new"
        self._at = 0
        self.through = False
        """Whether the bridge's ranking stands where the old one does, where there is no room for both."""

    @property
    def pointed(self) -> RankedRow | None:
        """The row under the cursor."""
        rows = self._rows(self._column)
        return rows[self._at] if self._at < len(rows) else None

    @property
    def columns(self) -> tuple[str, ...]:
        """The rankings that are shown, from the left."""
        query = self._query
        if query is not None and self._blind.on:  # two of them, in an order that tells nothing
            old = BRIDGED if query.only_bridged else "old"
            return tuple("new" if side is Side.NEW else old for side in self._blind.sides(query))
        if query is None or not query.bridged:
            return "old", "new"
        if query.old_unknown:
            return BRIDGED, "new"
        if self.content_size.width >= WIDE:
            return "old", BRIDGED, "new"
        return (BRIDGED if self.through else "old"), "new"

    def turn(self) -> None:
        """Show the bridge's ranking instead of the old one, or the old one again."""
        self.through = not self.through
        self._stay()

    @property
    def rank(self) -> int:
        """The rank under the cursor, from 1."""
        return self._at + 1

    def show_query(
        self, query: QueryComparison | None, models: tuple[str, str], blind: Blind, how: str = "exact"
    ) -> None:
        """Show the rankings of ``query``; ``models`` are the names of old and new model, ``how`` it was searched."""
        self._blind, self._how = blind, how
        if query is not None and self._query is not None and query.query_id != self._query.query_id:
            self._at = 0
        self._query, self._models = query, models
        if self._column not in self.columns:
            self._column = "new"
        self.refresh()

    def _rows(self, column: str) -> tuple[RankedRow, ...]:
        if self._query is None:
            return ()
        rows = {"old": self._query.old, BRIDGED: self._query.bridged, "new": self._query.new}[column]
        if column != "new" or "old" in self.columns:
            return rows
        ranks = {row.key: row.rank for row in self._query.bridged}
        return tuple(replace(row, other_rank=ranks.get(row.key)) for row in rows)

    def _stay(self) -> None:
        """The cursor on a ranking that is shown, and on a row of it."""
        if self._column not in self.columns:
            self._column = self.columns[0]
        self._at = max(0, min(self._at, len(self._rows(self._column)) - 1))
        self.refresh()
        self._tell()

    def _tell(self) -> None:
        self.post_message(self.Pointed(self.pointed))

    def action_step(self, step: int) -> None:
        """Move the cursor on its side."""
        at = max(0, min(self._at + step, len(self._rows(self._column)) - 1))
        if at != self._at:
            self._at = at
            self.refresh()
            self._tell()

    def action_across(self, step: int) -> None:
        """Move the cursor to the next ranking, onto the same document where it is there."""
        columns = self.columns
        place = columns.index(self._column) + step if self._column in columns else 0
        if not 0 <= place < len(columns):
            return
        row = self.pointed
        self._column = columns[place]
        if row is not None:
            same = (at for at, each in enumerate(self._rows(self._column)) if each.key == row.key)
            self._at = next(same, self._at)
        self._stay()

    def on_focus(self) -> None:
        """The cursor looks different then."""
        self.refresh()

    def on_blur(self) -> None:
        """The cursor looks different then."""
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """Move the cursor."""
        offset = event.get_content_offset_capture(self)
        columns = self.columns
        self._column = columns[min(len(columns) - 1, offset.x * len(columns) // max(1, self.content_size.width))]
        at = offset.y - 1
        if 0 <= at < len(self._rows(self._column)):
            self._at = at
        self._stay()

    def render(self) -> Content:
        """The rankings, as much as fits around the cursor."""
        width, height = self.content_size
        if self._query is None:
            return Content("")
        columns = self.columns
        cells = (width - 3 * (len(columns) - 1)) // len(columns)
        # through the bridge a question is embedded with the new model
        models = {"old": self._models[0], BRIDGED: self._models[1], "new": self._models[1]}
        heads = []
        for name in columns:
            head = draw.line(
                (f"{GLYPHS[name]} {name}", f"bold {STYLES[name]}"),
                (f", {self._how}", "$muted"),
                (f"  {safe.line(models[name])}", "$muted"),
            )
            head = draw.fitting(cells, draw.line(head, ("  rank, move, distance", "$muted")), head)
            if self._blind.on:
                head = draw.line(("left" if name == columns[0] else "right", "bold"))
            head = draw.cut(head, cells)
            heads.append(head if name == columns[-1] else head.pad_right(cells - head.cell_length))
        rows = [_beside(heads)]
        depth = max(1, *(len(self._rows(name)) for name in columns))
        room = max(1, height - 1)
        first = max(0, min(self._at - room + 1, depth - room)) if depth > room else 0
        shown = range(first, min(depth, first + room))
        rows += [_beside([draw.line(*self._row(name, index, cells)) for name in columns]) for index in shown]
        return draw.lines(rows, height)

    def _row(self, column: str, index: int, width: int) -> list[draw.Part]:
        """A result on exactly ``width`` cells."""
        rows = self._rows(column)
        if self._query is None or index >= len(rows):
            unknown = safe.line(self._query.old_unknown) if self._query is not None and column == "old" else ""
            return [(draw.fit("" if index else unknown or "nothing found", width), "$muted")]
        row, roomy = rows[index], width >= 44
        others = self._rows("new" if column != "new" else "old" if "old" in self.columns else BRIDGED)
        glyph, word, style = move(row, Side.NEW if column == "new" else Side.OLD)
        if tied(row, rows, others):
            glyph, word, style = "=", "tied", "$muted"
        told = bool(self._query.relevant) and not self._blind.on  # what was judged before must not sway a verdict
        judged = told and row.key in self._query.relevant
        spelled = width >= SPELLED
        if not spelled:
            word = _SHORT.get(word, word.replace("down", "dn"))
        parts = [(f"{row.rank:>2} ", "$muted")]
        if told:
            parts.append(("★ " if judged else "  ", "bold $success"))
        if missed(self._query) and not self._blind.on:
            parts.append((f"{MISSED} " if row.missed else "  ", "bold $error"))
        if not self._blind.on:  # what moved up would tell the sides
            parts.append((f"{glyph} {draw.fit(word, 8 if spelled else 5)}", style))
        if width >= 32 and not self._blind.on:
            parts.append((draw.fit(score(row.distance, 5 if roomy else 4), 6 if roomy else 5), "$muted"))
        if roomy:
            longest = max(cell_len(safe.line(", ".join(each.key), KEY + 1)) for each in rows)
            parts.append((draw.fit(safe.line(", ".join(row.key), 2 * KEY), min(KEY, longest)) + " ", "$muted"))
        left = width - sum(cell_len(text) for text, _ in parts)
        if not roomy and any(each.key != row.key and alike(row, each, left) for each in rows):
            # the key tells them apart, which stands there anyway where there is more room
            key = safe.line(", ".join(row.key), 200)
            parts.append((draw.middle(key, min(2 * KEY, left // 2, cell_len(key))) + " ", "$muted"))
            left -= cell_len(parts[-1][0])
        parts += said_of(row, left, "bold" if judged else "", roomy=roomy)
        pointed = self.pointed
        if pointed is None or pointed.key != row.key:
            return [*parts]
        here = column == self._column
        lit = "$block-cursor-background" if self.has_focus and here else "$block-cursor-blurred-background"
        return [(text, f"{'bold ' if here else ''}{style} on {lit}") for text, style in parts]


def missed(query: QueryComparison) -> bool:
    """Whether an index did not give what exact search found."""
    return any(row.missed for row in (*query.old, *query.new))


def alike(row: RankedRow, other: RankedRow, width: int) -> bool:
    """Whether two results look the same on ``width`` cells."""
    if row.title or other.title:
        return row.title == other.title
    letters = width - 1 if row.text[:width].isascii() else (width - 1) // 2
    return row.text[:letters] == other.text[:letters]


def said_of(row: RankedRow, width: int, style: str, *, roomy: bool) -> list[tuple[str, str]]:
    """What a result is, on exactly ``width`` cells: deleted or edited since, its title, its text."""
    if row.deleted:
        return [(draw.fit("(deleted)", width), "$warning")]
    # Twice as many characters as cells leave room for those that take none.
    parts: list[tuple[str, str]] = [("(edited) " if roomy else "~ ", "$warning")] if row.edited else []
    if row.title:
        room = width - sum(cell_len(text) for text, _ in parts)
        title = safe.line(row.title, TITLE)
        parts.append((title if cell_len(title) + 2 <= room else draw.middle(title, room), style or "$primary"))
        parts.append(("  ", ""))
    left = width - sum(cell_len(text) for text, _ in parts)
    if left > 0:
        text = safe.line(row.text, 4 * width).removeprefix(safe.line(row.title or "", 2 * width)).lstrip()
        parts.append((draw.fit(text or ("" if row.title else "(empty)"), left), "$muted" if row.title else style))
    elif left < 0 and parts:  # the title took all, but for the blanks after it
        parts.pop()
    return parts


def _beside(parts: Sequence[Content]) -> Content:
    """Parts of a line with a rule between them."""
    return draw.line(*[each for part in parts for each in (_BETWEEN, part)][1:])


def score(distance: float, cells: int) -> str:
    """A distance with as many decimals as fit on ``cells``, three at most."""
    texts = [f"{distance:.{digits}f}" for digits in (3, 2, 1, 0)]
    return next((text for text in texts if len(text) <= cells), texts[-1])
