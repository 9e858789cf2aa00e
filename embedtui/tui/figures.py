"""Figures as the screen shows them: as everywhere, but a dash for what nobody knows, and short ones for few cells."""

from __future__ import annotations

import functools

from embedtui import formatting

UNKNOWN = "—"
"""Stands for a figure that nobody knows."""

number = functools.partial(formatting.number, unknown=UNKNOWN)
money = functools.partial(formatting.money, unknown=UNKNOWN)
duration = functools.partial(formatting.duration, unknown=UNKNOWN)
percent = functools.partial(formatting.percent, unknown=UNKNOWN)


def rate(value: float | None) -> str:
    """Rows per second."""
    if value is None:
        return UNKNOWN
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def short(value: float | None) -> str:
    """A count on few cells: 812, 31.5k, 4.2M."""
    if value is None:
        return UNKNOWN
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            scaled = value / (1e3 if letter == "k" else size)
            return f"{scaled:.0f}{letter}" if scaled >= 100 else f"{scaled:.1f}{letter}"
    return f"{value:,.0f}"
