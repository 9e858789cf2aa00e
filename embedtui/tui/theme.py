"""The look: a dark, a light and a 16-colour theme, and the words that every colour stands for."""

from __future__ import annotations

import os
from typing import Any

from textual.app import App
from textual.theme import Theme

from embedtui.model import Condition, Side

# Variables of our own beside Textual's: `old` and `new` are the two sides and mean nothing else anywhere,
# `muted` is for labels, `faint` for rules and what is yet to come.
DARK = Theme(
    name="embedtui-dark",
    dark=True,
    primary="#8fb0f5",
    secondary="#7d8ca3",
    accent="#8fb0f5",
    success="#8ed081",
    warning="#ff9d57",
    error="#ff6f7d",
    foreground="#d7dde6",
    background="#11151b",
    surface="#161b23",
    panel="#1e2530",
    variables={
        "old": "#e3bf6b",
        "new": "#41cfc0",
        "muted": "#8d98a8",
        "faint": "#465163",
        "border": "#2f3947",
        "border-blurred": "#2f3947",
        "block-cursor-background": "#2a3648",
        "block-cursor-foreground": "#f1f4f8",
        "block-cursor-text-style": "bold",
        "block-cursor-blurred-background": "#1e2530",
        "block-cursor-blurred-foreground": "#d7dde6",
        "block-hover-background": "#1e2530",
        "input-selection-background": "#8fb0f5 30%",
        "scrollbar": "#323c4b",
        "scrollbar-hover": "#465163",
        "scrollbar-active": "#8fb0f5",
        "scrollbar-background": "#11151b",
        "scrollbar-background-hover": "#11151b",
        "scrollbar-background-active": "#11151b",
        "scrollbar-corner-color": "#11151b",
    },
)

LIGHT = Theme(
    name="embedtui-light",
    dark=False,
    primary="#2f55b5",
    secondary="#5b6674",
    accent="#2f55b5",
    success="#2f7a1f",
    warning="#b04a00",
    error="#b4203a",
    foreground="#20262e",
    background="#faf9f6",
    surface="#f3f1ec",
    panel="#e9e6de",
    variables={
        "old": "#8a6100",
        "new": "#00756a",
        "muted": "#5a6470",
        "faint": "#b3b4ae",
        "border": "#d4d1c8",
        "border-blurred": "#d4d1c8",
        "block-cursor-background": "#d8e0f3",
        "block-cursor-foreground": "#141a22",
        "block-cursor-text-style": "bold",
        "block-cursor-blurred-background": "#e9e6de",
        "block-cursor-blurred-foreground": "#20262e",
        "block-hover-background": "#efece5",
        "input-selection-background": "#2f55b5 25%",
        "scrollbar": "#c9c6bd",
        "scrollbar-hover": "#b3b4ae",
        "scrollbar-active": "#2f55b5",
        "scrollbar-background": "#faf9f6",
        "scrollbar-background-hover": "#faf9f6",
        "scrollbar-background-active": "#faf9f6",
        "scrollbar-corner-color": "#faf9f6",
    },
)

# For terminals of 16 colours: the terminal's own palette and background, so light and dark ones both stay legible.
PLAIN = Theme(
    name="embedtui-16",
    ansi=True,
    dark=True,
    primary="ansi_blue",
    secondary="ansi_default",
    accent="ansi_blue",
    success="ansi_green",
    warning="ansi_magenta",
    error="ansi_red",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    variables={
        "ansi-background": "ansi_black",
        "ansi-foreground": "ansi_white",
        "old": "ansi_yellow",
        "new": "ansi_cyan",
        "muted": "ansi_default",
        "faint": "ansi_bright_black",
        "border": "ansi_bright_black",
        "border-blurred": "ansi_bright_black",
        "block-cursor-background": "ansi_blue",
        "block-cursor-foreground": "ansi_bright_white",
        "block-cursor-text-style": "bold",
        "block-cursor-blurred-background": "ansi_default",
        "block-cursor-blurred-foreground": "ansi_default",
        "input-cursor-background": "ansi_default",
        "input-cursor-foreground": "ansi_black",
        "input-selection-background": "ansi_blue",
        "scrollbar": "ansi_bright_black",
        "scrollbar-hover": "ansi_bright_black",
        "scrollbar-active": "ansi_blue",
        "scrollbar-background": "ansi_default",
        "scrollbar-background-hover": "ansi_default",
        "scrollbar-background-active": "ansi_default",
        "scrollbar-corner-color": "ansi_default",
    },
)

THEMES = (DARK, LIGHT, PLAIN)

DEFAULTS = {name: DARK.variables[name] for name in ("old", "new", "muted", "faint")}
"""What our variables are while one of Textual's own themes is chosen."""


def native_colors() -> bool | None:
    """``ansi_color`` of an app: under NO_COLOR the terminal's own foreground and background, and no greys of ours.

    Textual would turn every colour into a grey instead, and the terminal's default ones into black on black.
    """
    return True if "NO_COLOR" in os.environ else None


def first(app: App[Any], remembered: str) -> str:
    """The theme to begin with: the remembered one, where the terminal can show it."""
    if app.no_color:
        return PLAIN.name
    if remembered in app.available_themes:
        return remembered
    few = app.console.color_system == "standard" and not app.is_headless
    return PLAIN.name if few else DARK.name


SIDE_GLYPH = {Side.OLD: "◇", Side.NEW: "◆"}
SIDE_STYLE = {Side.OLD: "$old", Side.NEW: "$new"}

CONDITION = {
    Condition.IDLE: ("○", "idle", "$muted"),
    Condition.RUNNING: ("●", "running", "$success"),
    Condition.PAUSED: ("‖", "paused", "$warning"),
    Condition.THROTTLED: ("◐", "throttled", "$warning"),
    Condition.FAILED: ("✗", "failed", "$error"),
}
"""Glyph, word and colour of a condition: never one without the others."""

RESULT = {
    "pass": ("✓", "pass", "$success"),
    "warn": ("!", "warn", "$warning"),
    "fail": ("✗", "fail", "$error"),
    "inconclusive": ("?", "open", "$warning"),
    "unknown": ("?", "unknown", "$muted"),
}
"""Glyph, word and colour of a check's result."""
