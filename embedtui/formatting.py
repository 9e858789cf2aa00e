"""One way to show counts, money, time and bytes, for every layer that speaks to people."""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

UNKNOWN = "unknown"


def counted(number: int, one: str, many: str) -> str:
    """A count with the words that go with it: ``1 row has``, ``2,000 rows have``."""
    return f"{number:,} {one if number == 1 else many}"


def number(value: float | None, *, unknown: str = UNKNOWN) -> str:
    """A count with thousands marked."""
    return unknown if value is None else f"{value:,.0f}"


def limit(value: float | None) -> str:
    """A limit in full; fractions, too, for one a minute may be a lot."""
    return "none" if value is None else f"{value:,.10g}"


def money(value: float | None, *, unknown: str = UNKNOWN) -> str:
    """US dollars; small amounts keep four digits, because a job often costs cents; big ones need no cents."""
    if value is None:
        return unknown
    if 0 < value < 0.0001:
        return "under $0.0001"
    if value >= 1000:
        return f"${value:,.0f}"
    return f"${value:,.2f}" if value == 0 or value >= 1 else f"${value:.4f}"


def duration(seconds: float | None, *, unknown: str = UNKNOWN, exact: bool = False) -> str:
    """Seconds as the two largest units: ``48 s``, ``2 m 05 s``, ``3 h 20 m``, ``4 d 2 h``.

    ``exact`` is for a sentence that compares, where nothing ticks: ``0.4 s``, and ``7 d`` without hours.
    """
    if seconds is None:
        return unknown
    if exact and seconds < 10:
        return f"{round(seconds, 1):g} s"
    whole = max(0, int(seconds + 0.5))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        first, second = f"{whole // 60} m", f"{whole % 60:02d} s"
    elif whole < 86_400:
        first, second = f"{whole // 3600} h", f"{whole % 3600 // 60:02d} m"
    else:
        first, second = f"{whole // 86_400} d", f"{whole % 86_400 // 3600} h"
    return first if exact and int(second[:-2]) == 0 else f"{first} {second}"


def percent(share: float | None, digits: int = 0, *, unknown: str = UNKNOWN, exact: bool = False) -> str:
    """A share 0..1 as a percentage, rounded; never says 100 before all is done. ``exact``: ``97 %``, not ``97.0 %``."""
    if share is None:
        return unknown
    if share < 1:
        step = 10 ** (digits + 2)
        # A hair more, because 0.285 is 0.2849… in binary; half a percent is rounded up, as people do.
        share = min(math.floor(share * step + 0.5 + 1e-6) / step, 1 - 1 / step)
    shown = f"{share * 100:.{digits}f}"
    return f"{float(shown):g} %" if exact else f"{shown} %"


def size(value: float | None, *, unknown: str = UNKNOWN) -> str:
    """Bytes in powers of 1,024, with PostgreSQL's units."""
    if value is None:
        return unknown
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"


def sentences(*parts: str) -> str:
    """``parts`` in a line, each ended by a full stop where it has no end of its own before another one."""
    told = [each for each in map(str.strip, parts) if each]
    return " ".join([*(each if each[-1] in ".!?:;…" else f"{each}." for each in told[:-1]), *told[-1:]])


def with_remedies(text: str, remedies: Sequence[str]) -> str:
    """A hint with what does it, in the words of whoever speaks: "Build it again: `embedtui run`."."""
    if not remedies:
        return text
    how = ", then ".join(remedies)
    return f"{text.rstrip('.')}: {how}." if text else f"{how}."


def called() -> str:
    """How to call this program so that a printed command runs as it stands.

    By its name where the shell finds this very program under it, else by the path that it was called by.
    """
    own, found = Path(sys.argv[0]), shutil.which("embedtui")
    if own.name != "embedtui" or (found is not None and own.exists() and own.samefile(found)):
        return "embedtui"
    return shlex.quote(sys.argv[0])
