"""The rate limits of the loopback API, and its x-ratelimit headers."""

from __future__ import annotations

import math
import threading
import time

from embedtui.demo.api.protocol import Refusal


class _Bucket:
    """One rate limit: a bucket that holds a minute's worth and refills steadily. Callers hold its Budgets' lock."""

    def __init__(self, per_minute: float, burst_seconds: float) -> None:
        self.per_minute = per_minute
        self.capacity = per_minute * burst_seconds / 60
        self.level = self.capacity
        self._at = time.monotonic()

    def refill(self) -> None:
        now = time.monotonic()
        self.level = min(self.capacity, self.level + (now - self._at) * self.per_minute / 60)
        self._at = now

    def wait(self, amount: float) -> float:
        """Seconds until ``amount`` fits; 0 where it fits now. More than the bucket holds fits when it is full."""
        return max(0.0, (min(amount, self.capacity) - self.level) * 60 / self.per_minute)

    @property
    def reset(self) -> float:
        return (self.capacity - self.level) * 60 / self.per_minute


class Budgets:
    """Requests and tokens per minute, each a bucket (None: unlimited); thread-safe."""

    def __init__(self, burst_seconds: float) -> None:
        self._burst_seconds = burst_seconds
        self._lock = threading.Lock()
        self._tokens: _Bucket | None = None
        self._requests: _Bucket | None = None

    def set(self, *, tokens_per_minute: float | None, requests_per_minute: float | None) -> None:
        """Enforce other budgets from now on, with full buckets."""
        with self._lock:
            self._tokens = _Bucket(tokens_per_minute, self._burst_seconds) if tokens_per_minute else None
            self._requests = _Bucket(requests_per_minute, self._burst_seconds) if requests_per_minute else None

    def take(self, model: str, tokens: int, *, with_headers: bool) -> dict[str, str]:
        """Charge the buckets for one request and return the rate headers; raises a 429 Refusal where one is too low."""
        headers: dict[str, str] = {}
        with self._lock:
            wants = [
                ("requests", "RPM", self._requests, 1.0),
                ("tokens", "TPM", self._tokens, float(tokens)),
            ]
            short: tuple[str, str, _Bucket, float, float] | None = None
            for name, unit, bucket, amount in wants:
                if bucket is None:
                    continue
                bucket.refill()
                wait = bucket.wait(amount)
                if wait > 0 and (short is None or wait > short[4]):
                    short = (name, unit, bucket, amount, wait)
            for name, _, bucket, amount in wants:
                if bucket is None:
                    continue
                if short is None:
                    bucket.level -= amount
                headers[f"x-ratelimit-limit-{name}"] = f"{bucket.per_minute:.0f}"
                headers[f"x-ratelimit-remaining-{name}"] = f"{max(0.0, bucket.level):.0f}"
                headers[f"x-ratelimit-reset-{name}"] = format_reset(bucket.reset)
        if not with_headers:
            headers = {}
        if short is None:
            return headers
        name, unit, bucket, amount, wait = short
        if with_headers:
            headers["retry-after"] = str(math.ceil(wait))
            headers["retry-after-ms"] = str(math.ceil(wait * 1000))
        raise Refusal(
            429,
            f"Rate limit reached for {model} in organization org-loopback on {name} per min ({unit}): "
            f"Limit {bucket.per_minute:.0f}, Used {bucket.capacity - bucket.level:.0f}, Requested {amount:.0f}. "
            f"Please try again in {format_reset(wait)}.",
            kind=name,
            code="rate_limit_exceeded",
            headers=headers,
        )


def format_reset(seconds: float) -> str:
    """A duration as OpenAI's reset headers write it: ``12ms``, ``1s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
