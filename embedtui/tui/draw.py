"""Small pure helpers that turn values into styled text; unknown values stay visibly unknown."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.cells import cell_len, set_cell_size
from textual.content import Content
from textual.style import Style

from embedtui.tui import figures

_WORD = 14
"""Cells of a word, at most; what is longer is somebody's name of something."""
_SPARKS = "▁▂▃▄▅▆▇█"

Part = Content | str | tuple[str, str]
"""A piece of a line: content, plain text, or (plain text, style)."""


def line(*parts: Part) -> Content:
    """One line from parts; no part is read as markup."""
    return Content.assemble(*(Content(part) if isinstance(part, str) else part for part in parts))


def lines(rows: Iterable[Content], height: int | None = None) -> Content:
    """Rows one below the other, cut to ``height``."""
    kept = list(rows)
    return Content("\n").join(kept if height is None else kept[: max(0, height)])


def row(left: Content, right: Content, width: int) -> Content:
    """``left`` and, flush right where there is room, ``right``; ``left`` is cut first."""
    room = width - right.cell_length
    if right.cell_length == 0 or room < 4:
        return cut(left, width)
    left = cut(left, room - 1)
    return Content.assemble(left, " " * (room - left.cell_length), right)


def cut(content: Content, width: int) -> Content:
    """``content`` on at most ``width`` cells, with an ellipsis where something was cut off: between words.

    What is longer than a word, or begins a column, is cut itself.
    """
    if content.cell_length <= width:
        return content
    if width < 2:
        return content.truncate(max(0, width), ellipsis=True)
    kept = content.truncate(width - 1)
    text = kept.plain
    end = text.rfind(" ")
    in_a_word = len(text) - end <= _WORD and not content.plain[len(text)].isspace()
    if in_a_word and end > 0 and text[end - 1] != " ":
        kept = kept[:end]
    return kept.rstrip().append("…")


def fitting(width: int, *choices: Content) -> Content:
    """The first of ``choices``, which say ever less, that has room; the last one is cut."""
    return next((each for each in choices if each.cell_length <= width), cut(choices[-1], width))


def whole(text: str, width: int) -> str:
    """As much of ``text`` as fits on one line and ends where a person would pause: a sentence, else a clause."""
    if cell_len(text) <= width:
        return text
    for ends in (". ", "; ", ": ", ", "):
        at = text.rfind(ends, 0, width)
        if at > 0 and cell_len(text[: at + 1]) <= width:
            return text[: at + (ends == ". ")]
    return cut(Content(text), width).plain


def fit(text: str, width: int) -> str:
    """``text`` on exactly ``width`` cells: cut with an ellipsis, or filled with spaces."""
    if width <= 0:
        return ""
    return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def middle(text: str, width: int) -> str:
    """``text`` on exactly ``width`` cells, cut in the middle: names differ at their ends."""
    if cell_len(text) <= width or width < 5:
        return fit(text, width)
    tail = text[-((width - 1) // 2) :]
    while cell_len(tail) > (width - 1) // 2:  # some letters take two cells
        tail = tail[1:]
    return set_cell_size(text, width - 1 - cell_len(tail)) + "…" + tail


def field(name: str, *parts: Part, width: int = 9) -> Content:
    """A label in the muted colour, then its value."""
    return line((fit(name, width), "$muted"), *parts)


def link(text: str, style: str, action: str) -> Content:
    """Text that does ``action`` when it is clicked."""
    return Content.styled(text, style).stylize(Style.from_meta({"@click": action}))


def wrapped(text: str, width: int, style: str = "", limit: int = 3) -> list[Content]:
    """``text`` broken between words on at most ``limit`` lines of ``width`` cells."""
    if width <= 0:
        return []
    broken = [each.rstrip() for each in Content.styled(text, style).wrap(width)]
    if len(broken) > limit:
        last = broken[limit - 1]
        last = last.append_text("…", style) if last.cell_length < width else cut(last.append(" …"), width)
        broken = [*broken[: limit - 1], last]
    return broken


def told(text: str, width: int, style: str, limit: int, mend: str = "") -> list[Content]:
    """As :func:`wrapped`; of what is too long the middle goes: its end, ``mend`` or the last sentence, says what to do.

    Where not even a given ``mend`` has room, its last clauses go.
    """
    rows = wrapped(text, width, style, limit + 1)
    if len(rows) <= limit:
        return rows
    if mend:
        cause = text.removesuffix(mend)
        while len(wrapped(mend, width, style, limit + 1)) > limit and (end := max(map(mend.rfind, (". ", "; ")))) > 0:
            mend = f"{mend[:end]}."
    else:
        cause, dot, mend = text.rstrip(". ").rpartition(". ")
        mend += text[len(text.rstrip(". ")) :].strip()
        if not dot:
            return wrapped(text, width, style, limit)
    words = cause.split()
    while words:
        words.pop()
        rows = wrapped(f"{' '.join(words).rstrip('.,:; ')}… {mend}", width, style, limit + 1)
        if len(rows) <= limit and words:
            return rows
    return wrapped(mend, width, style, limit)


def clock(at: datetime | None) -> str:
    """Time of day as the database gave it, in the operator's zone where it carries one."""
    return figures.UNKNOWN if at is None else at.strftime("%H:%M:%S")


def when(at: datetime | None, now: datetime | None) -> str:
    """As :func:`clock`, with the day where that is another than ``now``'s."""
    if at is None or now is None or at.date() == now.astimezone(at.tzinfo).date():
        return clock(at)
    return f"{at:%d.%m. %H:%M}"


def bar(share: float | None, width: int, style: str) -> Content:
    """A bar of ``width`` cells. Done and open parts differ in glyph, not only in colour."""
    if width <= 0:
        return Content("")
    if share is None:
        return line(("╌" * width, "$faint"))
    halves = int(max(0.0, min(1.0, share)) * width * 2)
    if share < 1:
        halves = min(halves, width * 2 - 1)
    full, half = divmod(halves, 2)
    return line(("━" * full + ("╸" if half else ""), style), ("─" * (width - full - half), "$faint"))


def sparkline(values: Sequence[float], width: int, style: str) -> Content:
    """The last ``width`` values as one line of eight levels, from zero up; padded on the left."""
    shown = list(values[-width:]) if width > 0 else []
    top = max(shown, default=0.0)
    glyphs = "".join(_SPARKS[min(7, int(value / top * 7.999))] if top > 0 else _SPARKS[0] for value in shown)
    return line((" " * (width - len(glyphs)), ""), (glyphs, style))


def chart(values: Sequence[float], width: int, height: int, style: str, *, top: float | None = None) -> list[Content]:
    """The last ``width`` values as columns on ``height`` lines, from zero up to ``top`` (None: the highest)."""
    shown = list(values[-width:])
    top = max(shown, default=0.0) if top is None else top
    filled = [int(value / top * height * 8 + 0.5) if top > 0 else 0 for value in shown]
    rows = []
    for level in range(height - 1, -1, -1):
        cells = []
        for eighths in filled:
            # The bottom line shows something for every reading, so that a gap means no reading.
            here = max(1, eighths - level * 8) if level == 0 else eighths - level * 8
            cells.append(0 if here <= 0 else min(here, 9))
        parts: list[Part] = [" " * (width - len(shown))]
        # The crest is bright and what is under it dim: a quiet picture at any height.
        for dim, run in itertools.groupby(cells, key=lambda cell: cell > 8):
            text = "".join(" " if cell == 0 else _SPARKS[min(cell, 8) - 1] for cell in run)
            parts.append((text, f"{style} 40%" if dim else style))
        rows.append(line(*parts))
    return rows
