"""What the reader shows: the whole query, a document of each side, where they stand, what neither side found."""

from __future__ import annotations

import re

from textual.content import Content, Span

from embedtui.model import QueryComparison, RankedRow, Side
from embedtui.tui import draw, safe
from embedtui.tui.blind import Blind
from embedtui.tui.panels.comparison import MARKED, VERDICTS, changed, said_to, text_of, words_of
from embedtui.tui.widgets.rankings import BRIDGED, GLYPHS, MISSED, STYLES, TIE

VERDICT_KEYS = {
    "n": "new",
    "o": "old",
    "s": "same",
    "b": "bad",
    "less_than_sign": "left",
    "greater_than_sign": "right",
}


def question(query: QueryComparison, blind: Blind) -> Content:
    """The query in full, and the verdict with its note."""
    parts: list[draw.Part] = [(safe.block(query.text), "bold")]
    if query.verdict and not blind.on:
        glyph, word, style = VERDICTS[query.verdict]
        parts += [f"\n{glyph} ", (word, style), (said_to(query), "$muted")]
    elif query.query_id in blind.given:
        parts.append(("\n● decided", "$muted"))
    return draw.line(*parts)


def rows_of(query: QueryComparison, side: Side) -> tuple[RankedRow, ...]:
    """What ``side`` found; the bridge, where it alone searched the old one."""
    if side is Side.NEW:
        return query.new
    return query.bridged if query.only_bridged else query.old


def row_at(query: QueryComparison, side: Side, rank: int) -> RankedRow | None:
    """What ``side`` has at ``rank``; None below its last."""
    rows = rows_of(query, side)
    return rows[rank - 1] if rank <= len(rows) else None


def text_at(query: QueryComparison, side: Side, rank: int) -> str | None:
    """Its title and text; None where there is no such row, or it was deleted."""
    row = row_at(query, side, rank)
    return None if row is None or row.deleted else text_of(row)


def document(query: QueryComparison, text: str | None, other: str | None) -> Content:
    """A text with the query's words underlined, and those that the other text has, too, in colour."""
    if text is None:
        return Content.styled("Nothing here: no such rank, or the row was deleted.", "$muted")
    plain = text
    asked, shared = words_of(query.text), words_of(other or "")
    spans = []
    for each in re.finditer(r"\w+", plain):
        word = each[0].casefold()
        if word in asked:
            spans.append(Span(each.start(), each.end(), "bold underline"))
        elif len(word) > MARKED and word in shared and text != other:
            spans.append(Span(each.start(), each.end(), "$primary"))
    return Content(plain or "(empty)", spans)


def place(query: QueryComparison, side: Side, rank: int) -> Content:
    """Side, rank, key, whether it was judged relevant, and its distance with the gap to the one before."""
    row = row_at(query, side, rank)
    old = BRIDGED if query.only_bridged else Side.OLD.value
    name, other = (old, Side.NEW.value) if side is Side.OLD else (Side.NEW.value, old)
    head = (f"{GLYPHS[name]} {rank}", f"bold {STYLES[name]}")
    if row is None:
        return draw.line(head, ("  nothing found", "$muted"))
    before = row_at(query, side, rank - 1) if rank > 1 else None
    gap = "" if before is None else f" +{row.distance - before.distance:.3f}"
    if before is not None and abs(row.distance - before.distance) < TIE:
        gap = f" tie with {before.rank}"
    elsewhere = f", {other} {row.other_rank}" if row.other_rank is not None else f", not {other}"
    return draw.line(
        head,
        ("  ★" if row.key in query.relevant else "", "$success"),
        (f"  {MISSED}" if row.missed else "", "bold $error"),
        f"  {safe.line(', '.join(row.key), 40)}",
        (f" at {row.distance:.3f}{gap}{elsewhere}", "$muted"),
        (f"  {changed(row)}" if changed(row) else "", "bold $warning"),
    )


def found_by_neither(query: QueryComparison, width: int) -> Content:
    """Keys judged relevant that stand in neither ranking; empty where there are none."""
    found = {row.key for row in (*query.old, *query.bridged, *query.new)}
    missing = [", ".join(key) for key in query.relevant if key not in found]
    if not missing:
        return Content("")
    told = f"★ {len(missing)} judged relevant, found by neither: {'; '.join(safe.line(each, 40) for each in missing)}"
    return draw.cut(draw.line((told, "$warning")), width)
