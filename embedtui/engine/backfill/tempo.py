"""How fast requests are answered, for people: the pace of the last seconds, and since when there are but refusals."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime

from embedtui.engine.backfill.budget import Budget

STALL_SECONDS = 1.0
"""Nothing but 429s for so long is a stall; among answers a 429 is how a limit is found."""
RECENT_SECONDS = 10.0
"""What was answered in so long is the pace now."""


class Tempo:
    """Of one process's requests; guarded by whoever has it."""

    def __init__(self) -> None:
        self.refused_since: tuple[float, datetime] | None = None
        """When the first 429 came after which nothing has been answered."""
        self._answered: deque[tuple[float, int]] = deque()
        """When, and how many tokens each: of the last RECENT_SECONDS."""

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
