"""What several panels share."""

from __future__ import annotations

from textual.content import Content

from embedtui.tui import draw
from embedtui.tui.view import View


def clipped(rows: list[Content], height: int) -> Content:
    """``rows`` on ``height`` lines; the last one says how many more there are."""
    if len(rows) > height > 0:
        rows = [*rows[: height - 1], draw.line((f"… {len(rows) - height + 1} more lines", "$muted"))]
    return draw.lines(rows)


def loading(view: View) -> Content:
    """What is shown before the first reading."""
    reached = not view.link.problem or view.link.ours
    return draw.line(("◌ not read yet" if reached else "◌ no database", "$muted"))
