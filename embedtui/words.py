"""Words that agree with a count, for every layer that speaks to people."""

from __future__ import annotations


def counted(number: int, one: str, many: str) -> str:
    """A count with the words that go with it: ``1 row has``, ``2,000 rows have``."""
    return f"{number:,} {one if number == 1 else many}"
