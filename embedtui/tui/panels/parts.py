"""What several panels share."""

from __future__ import annotations

from rich.cells import cell_len
from textual.content import Content

from embedtui.tui import draw
from embedtui.tui.view import View


def clipped(rows: list[Content], height: int) -> Content:
    """``rows`` on ``height`` lines; the last one says how many more there are."""
    if len(rows) > height > 0:
        rows = [*rows[: height - 1], draw.line((f"… {len(rows) - height + 1} more lines", "$muted"))]
    return draw.lines(rows)


def briefly(doing: str, width: int) -> str:
    """What a worker does, as much of it as fits: what it does first goes last, and nothing is half said."""
    shown = draw.cut(Content(doing), width).plain
    if not shown.endswith("…"):
        return shown
    words = shown[:-1].split()
    while len(words) > 1 and (words[-1] in _LEADING or words[-1] not in doing.split()):
        words.pop()
    return " ".join(words).rstrip(":,") if words and words[0] in doing.split() else shown


def shortened(host: str, width: int) -> str:
    """The name of a host where a line has ``width`` cells: what it does matters more than all of it."""
    return draw.middle(host, min(cell_len(host), max(9, width // 4)))


_LEADING = ("of", "for", "the", "a", "both", "in", "is")
"""Words that lead to another: none is the last that is said."""


def loading(view: View) -> Content:
    """What is shown before the first reading."""
    reached = not view.link.problem or view.link.ours
    return draw.line(("◌ not read yet" if reached else "◌ no database", "$muted"))
