"""SQL for times and counters of the state that other roles may write, within the bounds of the schema's checks."""

from __future__ import annotations

LATELY = "{0} BETWEEN {1} - make_interval(secs => {2}) AND {1} + interval '1 minute'"
"""The time {0} is no more than {2} seconds before {1}, and none that anybody has yet to see."""


def added(column: str, value: str = "%s", *, digits: int = 15) -> str:
    """The column with ``value`` added, up to what its check takes: a counter that is full ends no work."""
    return f"least(greatest({column}::numeric + {value}, -1e{digits}), 1e{digits})"
