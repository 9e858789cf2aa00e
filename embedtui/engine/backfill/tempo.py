"""How fast requests are answered, for people: the pace of the last seconds, and since when there are but refusals."""

from __future__ import annotations

import math
from collections import deque
from datetime import UTC, datetime

from embedtui.engine.backfill.budget import Budget
from embedtui.formatting import counted, duration
from embedtui.model import Hold

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

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.refused_since: tuple[float, datetime] | None = None
        """When the first 429 came after which nothing has been answered."""
        self._answered: deque[tuple[float, int]] = deque()
        """When, and how many tokens each: of the last RECENT_SECONDS."""
        self._silent: tuple[float, datetime] | None = None
        """Since when there are requests in flight, and no reply."""
        self._timed_out_at = -math.inf
        self._took = 0.0
        """Seconds that the last reply took."""

    def sent(self, now: float, in_flight: int) -> None:
        """A request goes, and is one of so many."""
        if in_flight == 1:
            self.ended(now, 0)
        self._silent = self._silent or (now, datetime.now(UTC))

    def replied(self, now: float, began: float, *, timeout: bool) -> None:
        """A request that ``began`` then had a reply, whatever it said; or (``timeout``) none in time."""
        if timeout:
            self._timed_out_at = now
        else:
            self._silent, self._took = (now, datetime.now(UTC)), now - began

    def ended(self, now: float, in_flight: int) -> None:
        """A request is over, and so many are left; where none is, one that timed out is to be sent again."""
        again = now - self._timed_out_at <= FORGOTTEN_SECONDS
        if not in_flight and not (again and self._silent is not None and self._silent[0] <= self._timed_out_at):
            self._silent = None

    def hold(self, now: float, in_flight: int) -> Hold | None:
        """That so many requests have had no reply for long, if so."""
        if not in_flight or self._silent is None:
            return None
        began, since = self._silent
        seconds = now - began
        if seconds < max(SILENT_SECONDS, SILENT_FACTOR * self._took):
            return None
        flight = f"{counted(in_flight, 'request', 'requests')} unanswered"
        return Hold("provider", f"{flight}; no reply for {duration(seconds)} (time-out {self._timeout:g} s).", since)

    def answered(self, now: float, tokens: int, began: float) -> None:
        """A request that ``began`` then succeeded."""
        self.replied(now, began, timeout=False)
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
