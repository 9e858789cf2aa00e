"""What is on the screen as text that a diff can show: every character, and every style as runs of cells."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from rich.color import Color as RichColor
from rich.style import Style
from textual.app import App
from textual.color import Color, ColorParseError

FOLDER = Path(__file__).parents[2] / "snapshots"
NAMED = (
    "foreground", "background", "primary", "success", "warning", "error", "old", "new", "muted", "faint", "border",
    "surface", "panel", "block-cursor-background", "block-cursor-foreground", "scrollbar", "scrollbar-active",
)  # fmt: skip
"""Theme variables that a style is told by; any other colour is told by its value."""
ATTRIBUTES = {"bold": "b", "dim": "d", "italic": "i", "underline": "u", "reverse": "r", "strike": "s"}

Run = tuple[str, int]
"""(style, cells)"""


def check_cells(app: App[Any], name: str, tmp_path: Path) -> None:
    """Compares the screen with ``snapshots/<name>.txt``; ``UPDATE_SNAPSHOTS=1`` writes it instead."""
    picture, kept = cells(app), FOLDER / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        kept.write_text(picture, "utf-8")
        return
    assert kept.is_file(), f"no snapshot {name}; UPDATE_SNAPSHOTS=1 writes it"
    if kept.read_text("utf-8") != picture:
        actual = tmp_path / f"{name}.txt"
        actual.write_text(picture, "utf-8")
        pytest.fail(f"{name} looks different: diff {kept} {actual}; UPDATE_SNAPSHOTS=1 accepts it")


def cells(app: App[Any]) -> str:
    """The screen with all that lies over it: its lines, then the runs of styles of each.

    The last run goes on to the line's end; lines of plain text alone are left out.
    """
    update: Any = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)
    colours = _colours(app)
    texts, styles = [], []
    for parts in update.strips:
        segments = [(part.text, part.cell_length, part.style) for strip in parts for part in strip if not part.control]
        texts.append("".join(text for text, _, _ in segments).rstrip())
        *runs, (last, _) = _runs(segments, colours)
        styles.append(" ".join([*(f"{style} {count}" for style, count in runs), last]))
    numbered, number = [], 0
    for line, same in itertools.groupby(styles):
        first, number = number + 1, number + len(list(same))
        if line != ".":
            numbered.append(f"{first if first == number else f'{first}-{number}'}: {line}")
    return "\n".join([*texts, f"── styles of {app.theme}, {app.size.width}x{app.size.height} ──", *numbered, ""])


def _colours(app: App[Any]) -> dict[str, str]:
    """Names of the theme's colours by their value."""
    names: dict[str, str] = {}
    for name in NAMED:
        try:
            names.setdefault(Color.parse(app.theme_variables[name]).hex.lower(), name)
        except (KeyError, ColorParseError):  # a default of the terminal's own
            continue
    return names


def _runs(segments: list[tuple[str, int, Style | None]], colours: dict[str, str]) -> list[Run]:
    """Runs of one style; blanks belong to the run before them where they look the same."""
    told: list[Run] = []
    backgrounds: list[str] = []
    for text, count, style in segments:
        background = _colour(style.bgcolor if style else None, colours, "background")
        shown = _style(style, colours, blank=not text.strip())
        blank = not text.strip() and "+" not in shown
        if told and (told[-1][0] == shown or (blank and backgrounds[-1] == background and "+" not in told[-1][0])):
            told[-1] = (told[-1][0], told[-1][1] + count)
        else:
            told.append((shown, count))
            backgrounds.append(background)
    return told


def _style(style: Style | None, colours: dict[str, str], *, blank: bool) -> str:
    """``muted/panel+b``: colour, background where it is not the screen's, attributes; ``.`` is plain text."""
    if style is None:
        return "."
    attributes = [name for name in ATTRIBUTES if getattr(style, name)]
    if blank:  # of a blank only this can be seen
        attributes = [name for name in attributes if name in ("underline", "reverse", "strike")]
    colour = "" if blank and not attributes else _colour(style.color, colours, "foreground")
    background = _colour(style.bgcolor, colours, "background")
    letters = "".join(ATTRIBUTES[name] for name in attributes)
    told = colour + (f"/{background}" if background else "") + (f"+{letters}" if letters else "")
    return told or "."


def _colour(colour: RichColor | None, colours: dict[str, str], usual: str) -> str:
    if colour is None or colour.is_default:
        return ""
    name = colours.get(colour.triplet.hex.lower(), colour.triplet.hex) if colour.triplet else colour.name
    return "" if name == usual else name
