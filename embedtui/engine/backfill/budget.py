"""What a process has leased of the shared budget, what it needs, and what it has learnt of the provider's limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from embedtui.engine.backfill.obstacle import KNOB_SECONDS, SYNC_SECONDS, Obstacle
from embedtui.engine.backfill.packing import UNCALIBRATED
from embedtui.engine.backfill.rate_learning import RateLearner
from embedtui.formatting import money
from embedtui.model.snapshot import PACE
from embedtui.postgres.state.pace import Pace
from embedtui.providers import ProviderFault, RateLimits

PREFETCH_SECONDS = 0.25
"""How much of its recent use a process takes from the shared budget ahead of need."""
RATIOS = (0.25, 32.0)
"""Characters per token that can be true of a whole batch: a byte each, to long runs of blanks. A count far outside,
by a server that cuts texts silently or means harm, would make requests without end."""
ESTIMATE_MARGIN = 1.1
"""A request reserves this much more than its calibrated estimate, so that the spend cap holds."""

FORGOTTEN_SECONDS = 20.0
"""Replies that carry no limit for so long say that there is none any more; a single one is only short of words."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What is asked of the row, and told to it."""

    settle: int
    """Tokens used beyond the lease."""
    need: int
    """Tokens of the request that is next."""
    tokens: int
    """Wanted; negative: given back."""
    requests: int
    rejected: int
    by_requests: bool | None
    """Whether the last 429 was about requests (True) or tokens (False); None: it did not say."""
    ratio: float | None


class Budget:
    """What a process may still use, and the rates it may lease more at; guarded by its pacer's lock."""

    def __init__(self, price: float | None) -> None:
        self.price = price
        """Per million tokens."""
        self.tokens, self.requests = RateLearner(), RateLearner()
        self.spent = 0
        """Tokens of all processes, those leased included."""
        self.in_flight = 0
        self._reserved = 0
        """Tokens of the requests in flight."""
        self._pool_tokens = 0
        self._pool_requests = 0
        self._busy_at = 0.0
        """When a request was last over, or one last asked of the row."""
        self._told, self._told_at = RateLimits(), 0.0
        self._operator: tuple[float | None, float | None] = (None, None)
        self._cap: float | None = None
        self._ratio: float | None = None
        self._sample = (0, 0)
        """Characters and tokens of replies not yet told to the row."""
        self._drawn = (0, 0)
        """Tokens and requests let go since the last sync."""
        self._use = (0.0, 0.0)
        """Tokens and requests a second, of late."""
        self._rejections = 0
        """429s not yet told to the row."""
        self._rejected_total: int | None = None
        self._by_requests: bool | None = None

    @property
    def characters_per_token(self) -> float:
        """Calibrated from the provider's counts; a cautious guess until then."""
        return self._ratio or UNCALIBRATED

    def estimate(self, characters: int, inputs: int) -> int:
        """Tokens to reserve for a request."""
        margin = 1.0 if self._ratio is None else ESTIMATE_MARGIN
        return math.ceil(characters / self.characters_per_token * margin) + inputs

    def short(self, need: int) -> bool:
        """Whether more has to be leased for a request of so many tokens."""
        return self._pool_tokens < need or self._pool_requests < 1

    # ------------------------------------------------------------------------------------------------- one request

    def reserve(self, need: int) -> None:
        """Let a request go."""
        self._pool_tokens -= need
        self._pool_requests -= 1
        self._drawn = (self._drawn[0] + need, self._drawn[1] + 1)
        self.in_flight += 1
        self._reserved += need

    def release(self, reserved: int, now: float, *, unused: bool) -> None:
        """A request is over; ``unused``: it was never sent."""
        self.in_flight -= 1
        self._busy_at = now
        self._reserved -= reserved
        if unused:
            self._pool_tokens += reserved
            self._pool_requests += 1

    def used(self, reserved: int, characters: int, tokens: int, *, measured: bool) -> None:
        """A request took ``tokens``; ``measured``: by the provider's own count."""
        self._pool_tokens += reserved - tokens
        if measured and tokens > 0:
            self._sample = (self._sample[0] + characters, self._sample[1] + tokens)
            if self._ratio is None:
                self._ratio = _plausible(characters / tokens)

    def refund(self, reserved: int) -> None:
        """A request failed, and was not charged for."""
        self._pool_tokens += reserved

    def rejected(self, fault: ProviderFault) -> None:
        """The provider said 429."""
        self._rejections += 1
        self._by_requests = _about_requests(fault)

    def learn(self, limits: RateLimits | None, now: float) -> None:
        """Take over what a reply's headers say of the provider's limits; None: it had none."""
        if limits is None:
            if now - self._told_at > FORGOTTEN_SECONDS and self._told != RateLimits():
                self._told = RateLimits()
                self._apply_limits()
            return
        self._told_at = now
        self._told = RateLimits(
            limit_tokens=limits.limit_tokens or self._told.limit_tokens,
            limit_requests=limits.limit_requests or self._told.limit_requests,
        )
        self._apply_limits()

    def _apply_limits(self) -> None:
        tokens, requests = self._operator
        self.tokens.limit(tokens or self._told.limit_tokens)
        self.requests.limit(requests or self._told.limit_requests)

    # ---------------------------------------------------------------------------------------------------- obstacles

    def over_cap(self, need: int) -> Obstacle | None:
        """Why the spend cap does not let a request of so many tokens go; None: it does."""
        missing = need - self._pool_tokens
        if self._cap is None or self.price == 0 or missing <= 0:
            return None
        if self.price is None:
            return Obstacle("spend_cap", "A spend cap needs the model's price per million tokens.", KNOB_SECONDS)
        if self._cap * 1e6 / self.price - self.spent >= missing:
            return None
        spent = self.spent * self.price / 1e6
        return Obstacle("spend_cap", f"{money(spent)} of {money(self._cap)} is spent or reserved.", KNOB_SECONDS)

    def too_slow(self, need: int, now: float) -> Obstacle:
        """Which rate a request of so many tokens waits for."""
        waits = [(0.0, "the provider's budget")]
        for learner, lack, unit in (
            (self.tokens, need - self._pool_tokens, "tokens"),
            (self.requests, 1 - self._pool_requests, "requests"),
        ):
            if lack > 0:
                learner.pressed(now)
                if learner.rate is not None:
                    waits.append((lack * 60 / learner.rate, f"the limit of {learner.rate:,.0f} {unit} a minute"))
        wait, why = max(waits)
        if not wait:
            return Obstacle(PACE, "Asking for budget.", SYNC_SECONDS)
        return Obstacle(PACE, f"Runs at {why}.", max(wait, SYNC_SECONDS), why)

    # ------------------------------------------------------------------------------------------------ the shared row

    def claim(self, elapsed: float, needs: Sequence[int], *, give_back: bool) -> Claim:
        """What to ask of the row, ``elapsed`` seconds after the last time, for requests with these needs of tokens."""
        if math.isfinite(elapsed) and elapsed > 0:
            weight = min(1.0, elapsed / KNOB_SECONDS)
            tokens_used, requests_used = (
                use + weight * (drawn / elapsed - use) for use, drawn in zip(self._use, self._drawn, strict=True)
            )
            self._use, self._drawn = (tokens_used, requests_used), (0, 0)
        # what was used beyond the lease is spent already, whatever the budget says
        settle, self._pool_tokens = max(0, -self._pool_tokens), max(0, self._pool_tokens)
        tokens_ahead, requests_ahead = (math.ceil(use * PREFETCH_SECONDS) for use in self._use)
        tokens = sum(needs) + tokens_ahead - self._pool_tokens
        requests = len(needs) + requests_ahead - self._pool_requests
        # nothing is asked for with the news of a 429: the provider's bucket is empty then, so ours has to be
        if give_back or self._rejections:
            tokens, requests = -self._pool_tokens, -self._pool_requests
        characters, counted = self._sample
        ratio = _plausible(characters / counted) if counted and characters else None
        claim = Claim(settle, next(iter(needs), 0), tokens, requests, self._rejections, self._by_requests, ratio)
        self._sample, self._rejections = (0, 0), 0
        return claim

    def put_back(self, claim: Claim) -> None:
        """It could not be told: it goes into the next one."""
        self._pool_tokens -= claim.settle
        self._rejections += claim.rejected

    def merge(self, now: float, pace: Pace, claim: Claim) -> None:
        """Take over what the row says, and granted."""
        self._pool_tokens += pace.tokens
        self._pool_requests += pace.leases
        self._operator = (pace.tokens_per_minute, pace.requests_per_minute)
        self._apply_limits()
        self._cap, self.spent = pace.spend_cap, pace.spent_tokens
        self._ratio = pace.characters_per_token or self._ratio
        # what was accepted: neither what is only leased nor what is still in flight
        accepted_tokens = self.spent - self._pool_tokens - self._reserved
        accepted_requests = pace.requests - pace.rejected - self._pool_requests - self.in_flight
        if not self.in_flight:  # who waits in line comes here every second: else there was nothing to send
            self.tokens.rested(now - self._busy_at)
            self.requests.rested(now - self._busy_at)
        self._busy_at = now
        self.tokens.observed(now, accepted_tokens)
        self.requests.observed(now, accepted_requests)
        # 429s of other processes are news about the same budget
        if claim.rejected or (self._rejected_total is not None and pace.rejected > self._rejected_total):
            if claim.by_requests is not True:
                self.tokens.rejected(now, accepted_tokens)
            if claim.by_requests is not False:
                self.requests.rejected(now, accepted_requests)
        self._rejected_total = pace.rejected


def _about_requests(fault: ProviderFault) -> bool | None:
    """Whether a 429 is about requests (True) or tokens (False); None: it does not say."""
    reason = fault.reason
    if "TPM" in reason or "tokens per min" in reason:
        return False
    return True if "RPM" in reason or "requests per min" in reason else None


def _plausible(ratio: float) -> float:
    least, most = RATIOS
    return min(max(ratio, least), most)
