"""Faulty rows, and whose fault it was."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from embedtui.model.migration import Key
from embedtui.model.words import Side

CUT_SHARE = 0.8
"""Of the characters that a model's tokens hold on average: so much of a text that is too long is sent when it is to be
truncated, and so much of that at each further try."""

NUMBERS = "(^[0-9][0-9][0-9]:)|[0-9]+"
"""Expression for Python and PostgreSQL: with ``\\1`` in its place, a reason is one whatever the numbers in a provider's
words, which are each row's own; the status that it begins with stays."""


class FaultClass(StrEnum):
    """Whose fault it is, which decides what happens (invariant 4)."""

    CONFIGURATION = "configuration"
    """Bad key, unknown model, exhausted account, wrong dimensions: pauses the run at once."""
    PROVIDER = "provider"
    """429, 5xx, time-outs, broken replies: backs off and goes on by itself."""
    ROW = "row"
    """This text is rejected: isolated, recorded, others go on."""


class FaultState(StrEnum):
    """What was decided about a faulty row."""

    OPEN = "open"
    RETRY = "retry"
    TRUNCATE = "truncate"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class FaultGroup:
    """Faulty rows that share class, state and reason, but for the numbers in it."""

    fault_class: FaultClass
    reason: str
    """One of theirs."""
    count: int
    state: FaultState = FaultState.OPEN
    old: int = 0
    """Of these, those of the old side."""
    both: int = 0
    """Rows that are counted for either side."""

    @property
    def identity(self) -> tuple[str, FaultState]:
        """What stays the same while rows come and go."""
        return re.sub(NUMBERS, r"\1", self.reason), self.state

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.count - self.both

    @property
    def sides(self) -> tuple[Side, ...]:
        """Sides that lack a vector."""
        return tuple(side for side, count in ((Side.NEW, self.count - self.old), (Side.OLD, self.old)) if count)


@dataclass(frozen=True, slots=True)
class FaultRow:
    """One faulty row."""

    id: int
    key: Key
    side: Side
    fault_class: FaultClass
    reason: str
    attempts: int
    state: FaultState
    last_seen: datetime
