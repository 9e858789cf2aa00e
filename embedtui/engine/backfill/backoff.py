"""Stops all but a probe while the provider is in trouble, and says for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from embedtui.chance import chance
from embedtui.engine.backfill.obstacle import KNOB_SECONDS, Obstacle
from embedtui.formatting import sentences
from embedtui.postgres.state.pace import Pace
from embedtui.providers import ProviderFault
from embedtui.providers.http_errors import LONGEST_WAIT

FAILURES_TO_OPEN = 3
"""Provider faults in a row, with no success in between, that stop all but a probe."""
LONGEST_BACKOFF = 30.0
LONGEST_UNTOLD = 8.0
"""After a 429 that does not say for how long: one request in so many seconds finds out soon that a limit was lifted."""
LONGEST_UNREACHED = 4.0
"""Where there was no connection: it may be one machine's network, or settings, and holds up the others no longer."""
SHORTEST_WAITS = (0.05, 1.0)
"""Who is told to come back at once, and fails again, waits at least so long: the first, doubling up to the second."""


@dataclass(frozen=True, slots=True)
class Block:
    """For how long nobody may ask the provider, from the moment it was found."""

    seconds: float
    why: str
    probed: bool
    """A probe found it."""


class Backoff:
    """What one process knows of the provider's trouble, and has not told the others; guarded by its pacer's lock."""

    def __init__(self) -> None:
        self.until: float | None = None
        """By our clock; past: half open, one request may probe."""
        self.probing = False
        self.block: Block | None = None
        """Not yet told to the row."""
        self.clear = False
        """The end of a block is not yet told to the row."""
        self.blocks = 0
        """In a row; each waits longer."""
        self._began_at = -math.inf
        self._why = ""
        self._failures = 0

    @property
    def open(self) -> bool:
        """Requests are held back, but for a probe."""
        return self.until is not None

    def well(self, *, probe: bool) -> None:
        """Tell that the provider answered a request, or the probe."""
        self._failures = 0
        if probe:
            self.blocks = 0
            self.clear, self.block = True, None
            self.until, self.probing = None, False
        elif self.until is None:
            self.blocks = 0

    def trouble(self, fault: ProviderFault, now: float, *, began: float, probe: bool) -> None:
        """Tell of a fault of the provider, at a request (the probe?) that ``began`` then."""
        self._failures += 1
        old_news = began < self._began_at  # asked before the present block began
        if fault.retry_after is not None:
            first, longest = SHORTEST_WAITS
            least = min(longest, first * 2.0 ** min(self.blocks, 10))
            wait = min(max(fault.retry_after, least), LONGEST_WAIT) * (1 + 0.1 * chance.random())
        elif old_news and self.open:
            return
        elif fault.code == "429" or probe or self._failures >= FAILURES_TO_OPEN:
            longest = {"429": LONGEST_UNTOLD, "connection": LONGEST_UNREACHED}.get(fault.code, LONGEST_BACKOFF)
            wait = min(longest, 2.0 ** min(self.blocks, 10)) * (0.5 + chance.random() / 2)
        else:
            return
        if not old_news:
            self.blocks += 1
            self._began_at = now
        why = fault.reason if fault.reason.startswith(fault.code) else f"{fault.code}: {fault.reason}"
        self.until = max(self.until or 0.0 if not probe else 0.0, now + wait)
        self._why = why
        self.block = Block(max(wait, self.block.seconds if self.block else 0.0), why, probe)
        self.clear = False

    def take_news(self) -> tuple[Block | None, bool]:
        """What the row is to be told now: a block, or (True) that there is none any more."""
        news = self.block, self.clear
        self.block, self.clear = None, False
        return news

    def put_back(self, block: Block | None, clear: bool) -> None:
        """They could not be told: they go with the next ones, unless there are newer ones."""
        self.block = self.block or block
        self.clear = (self.clear or clear) and self.block is None

    def merge(self, now: float, pace: Pace) -> None:
        """Take over what the row says, but for what is newer here."""
        if self.block is not None or self.clear:
            return
        if pace.claimed:
            self.probing = True
        elif not self.probing:
            self.until = None if pace.blocked is None else now + pace.blocked
            self._why = pace.blocked_why

    def obstacle(self, wait: float) -> Obstacle:
        """The block, with ``wait`` seconds left of it."""
        name = "rate" if self._why.startswith("429") else "provider"
        if self.probing or wait <= 0:
            return Obstacle(name, sentences(self._why, "Asking again now."), KNOB_SECONDS)
        until = datetime.now(UTC) + timedelta(seconds=wait)
        return Obstacle(name, sentences(self._why, f"Next try at {until:%H:%M:%S} UTC."), wait)
