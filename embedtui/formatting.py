"""Words that agree with a count, for every layer that speaks to people."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def counted(number: int, one: str, many: str) -> str:
    """A count with the words that go with it: ``1 row has``, ``2,000 rows have``."""
    return f"{number:,} {one if number == 1 else many}"


def with_remedies(text: str, remedies: Sequence[str]) -> str:
    """A hint and, in the words of whoever speaks, what does it: ``Build it again: `embedtui run`.``"""
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
