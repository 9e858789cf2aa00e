"""How counts, money, time and commands are written, for every layer that speaks to people."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

UNKNOWN = "—"
"""Stands for a figure that nobody knows."""


def number(value: float | None) -> str:
    """A count with thousands marked."""
    return UNKNOWN if value is None else f"{value:,.0f}"


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


def money(value: float | None) -> str:
    """An amount; small ones keep four digits, because an embedding job often costs cents; big ones need no cents."""
    if value is None:
        return UNKNOWN
    if value >= 1000:
        return f"${value:,.0f}"
    if value == 0 or value >= 10:
        return f"${value:,.2f}"
    if value >= 1:
        return f"${value:,.2f}"
    return f"${value:.4f}" if value >= 0.0001 else "under $0.0001"


def percent(share: float | None, digits: int = 0) -> str:
    """A share 0..1 as a percentage; never says 100 before all is done."""
    if share is None:
        return UNKNOWN
    if share < 1:
        step = 10 ** (digits + 2)
        # A hair more, because 0.57 is 0.5699… in binary.
        share = min(int(share * step + 1e-6) / step, 1 - 1 / step)
    return f"{share * 100:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """Seconds as the two largest units: 48 s, 2 m 05 s, 3 h 20 m, 4 d 2 h."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, int(seconds + 0.5))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def counted(number: int, one: str, many: str) -> str:
    """A count with the words that go with it: ``1 row has``, ``2,000 rows have``."""
    return f"{number:,} {one if number == 1 else many}"


def with_remedies(text: str, remedies: Sequence[str]) -> str:
    """A hint with what does it, in the words of whoever speaks: "Build it again: `embedtui run`."."""
    if not remedies:
        return text
    how = ", then ".join(remedies)
    return f"{text.rstrip('.')}: {how}." if text else f"{how}."


def called() -> str:
    """How to call this program so that a printed command runs as it stands: by its name where the shell finds this
    very program under it, else by the path that it was called by."""
    own, found = Path(sys.argv[0]), shutil.which("embedtui")
    if own.name != "embedtui" or (found is not None and own.exists() and own.samefile(found)):
        return "embedtui"
    return shlex.quote(sys.argv[0])
