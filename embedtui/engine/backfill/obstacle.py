"""What keeps a request waiting, and when to look again."""

from __future__ import annotations

from dataclasses import dataclass

SYNC_SECONDS = 0.05
"""At least this long between two statements of a process, on the average of three: at most 20 a second."""
KNOB_SECONDS = 1.0
"""At most this long until a changed knob, or another process's news, is seen by a waiting thread."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why the first in line may not go yet."""

    name: str
    """Name of the hold; "" for the limit of requests in flight, which is no hold."""
    detail: str
    wait: float
    """Seconds after which looking again makes sense."""
    limit: str = ""
    """The rate that it waits for, where it is one, as in "the limit of 60 requests a minute"."""
