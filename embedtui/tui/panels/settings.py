"""The settings in force, a line each, and what may be done with one."""

from __future__ import annotations

from textual.content import Content

from embedtui.model import SettingLine
from embedtui.tui import draw, safe

UNSET = "—"
_NAME, _ORIGIN = 33, 20
"""Cells: the longest name of a setting, and of where it is from, with a blank."""
_LINES = 6


def mark(line: SettingLine) -> draw.Part:
    """Whether it may be changed here now."""
    if line.fixed:
        return ("· ", "$faint")
    return ("↻ ", "$warning") if line.later else ("✎ ", "$primary")


def setting_line(line: SettingLine, width: int) -> Content:
    """A setting in the list: name, value, and where that is from; the value is cut first."""
    origin = safe.line(line.origin)
    right = draw.cut(draw.line((origin, "$muted")), _ORIGIN)
    name = draw.line(mark(line), (draw.fit(safe.line(line.path), _NAME), "" if not line.fixed else "$muted"), " ")
    given = line.value != "" and line.origin != "default"
    value = draw.line((safe.line(line.value) or UNSET, "bold" if given else "$muted"))
    if line.written is not None:
        value = draw.line(
            value, ("  ! ", "bold $warning"), (f"the file: {safe.line(line.written) or UNSET}", "$warning")
        )
    return draw.row(draw.line(name, value), right, width)


def setting_detail(line: SettingLine, width: int, *, readonly: bool = False) -> list[Content]:
    """What a setting is, and what may be done with it."""
    rows = draw.wrapped(f"{safe.line(line.value) or UNSET}", width, "bold", 2)
    rows += draw.wrapped(safe.line(line.comment), width, "", _LINES)
    if line.written is not None:
        text = f"The file says {safe.line(line.written) or 'nothing'} by now; R takes it."
        rows += draw.wrapped(text, width, "$warning", _LINES)
    if line.fixed:
        rows += draw.wrapped(f"Not to be changed here: {safe.line(line.fixed)}", width, "$muted", _LINES)
    elif readonly:
        pass
    elif line.later:
        rows += draw.wrapped("Enter changes it in the file; it counts from the next start on.", width, "$muted", _LINES)
    else:
        rows += draw.wrapped("Enter changes it in the file, and all workers read it.", width, "$muted", _LINES)
    return rows
