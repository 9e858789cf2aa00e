"""Words that agree with a count, for every layer that speaks to people."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def counted(number: int, one: str, many: str) -> str:
    """A count with the words that go with it: ``1 row has``, ``2,000 rows have``."""
    return f"{number:,} {one if number == 1 else many}"


def called() -> str:
    """How to call this program so that a printed command runs as it stands.

    By its name where the shell finds this very program under it, else by the path that it was called by.
    """
    own, found = Path(sys.argv[0]), shutil.which("embedtui")
    if own.name != "embedtui" or (found is not None and own.exists() and own.samefile(found)):
        return "embedtui"
    return shlex.quote(sys.argv[0])


def readable_bytes(size: float) -> str:
    """A size as people say it, in powers of 1,024."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"
