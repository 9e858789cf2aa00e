"""How fast requests are answered, for people: the pace of the last seconds, and since when there are but refusals."""

from __future__ import annotations

import math
from collections import deque
from datetime import UTC, datetime

from embedtui.engine.backfill.budget import Budget

STALL_SECONDS = 1.0
"""Nothing but 429s for so long is a stall; among answers a 429 is how a limit is found."""
SILENT_SECONDS = 10.0
"""Requests in flight, and no reply to any for so long, is a provider that hangs …"""
SILENT_FACTOR = 3.0
"""… unless the last reply took more than a third of that."""
FORGOTTEN_SECONDS = 60.0
"""A time-out so long before the next request is none of its trouble."""
RECENT_SECONDS = 10.0
"""What was answered in so long is the pace now."""


class Tempo:
    """Of one process's requests; guarded by whoever has it."""

    def __init__(self) -> None:
        self.refused_since: tuple[float, datetime] | None = None
        """When the first 429 came after which nothing has been answered."""
        self._answered: deque[tuple[float, int]] = deque()
        """When, and how many tokens each: of the last RECENT_SECONDS."""
        self._silent: tuple[float, datetime] | None = None
        """Since when there are requests in flight, and no reply."""
        self._timed_out_at = -math.inf
        self._took = 0.0
        """Seconds that the last reply took."""

    def sent(self, now: float) -> None:
        """A request goes."""
        self._silent = self._silent or (now, datetime.now(UTC))

    def replied(self, now: float, began: float, *, timeout: bool) -> None:
        """A request that ``began`` then had a reply, whatever it said; or (``timeout``) none in time."""
        if timeout:
            self._timed_out_at = now
        else:
            self._silent, self._took = (now, datetime.now(UTC)), now - began

    def rests(self, now: float) -> None:
        """No request is in flight any more; one that timed out is sent again."""
        if now - self._timed_out_at > FORGOTTEN_SECONDS or self._silent is None or self._silent[0] > self._timed_out_at:
            self._silent = None

    def silence(self, now: float) -> tuple[float, datetime] | None:
        """For how long, and since when, no reply has come, where that is long."""
        if self._silent is None or (seconds := now - self._silent[0]) < max(SILENT_SECONDS, SILENT_FACTOR * self._took):
            return None
        return seconds, self._silent[1]

    def answered(self, now: float, tokens: int) -> None:
        """A request succeeded."""
        self.refused_since = None
        self._answered.append((now, tokens))
        self._forget(now)

    def refused(self, now: float) -> None:
        """A request was answered by a 429."""
        self.refused_since = self.refused_since or (now, datetime.now(UTC))

    def moves(self, now: float) -> bool:
        """Whether anything was answered of late."""
        self._forget(now)
        return bool(self._answered)

    def _forget(self, now: float) -> None:
        while self._answered and now - self._answered[0][0] > RECENT_SECONDS:
            self._answered.popleft()

    def said(self, now: float, budget: Budget) -> str:
        """The pace as it is, and as it was found to be allowed."""
        self._forget(now)
        each = 60 / RECENT_SECONDS
        tokens = sum(count for _, count in self._answered) * each
        found = [
            f"{learner.rate:,.0f} {unit}"
            for learner, unit in ((budget.requests, "requests"), (budget.tokens, "tokens"))
            if learner.rate is not None
        ]
        is_now = f"Now {len(self._answered) * each:,.0f} requests and {tokens:,.0f} tokens a minute"
        said = f"found: {' and '.join(found)}" if found else "no limit found yet"
        return f"{is_now}; {said}."
