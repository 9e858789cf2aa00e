"""Finds out what the provider allows: rates from headers and 429s, concurrency from throughput. Time is passed in."""

from __future__ import annotations

import math

MERGE_SECONDS = 1.0
"""Rejections within this time are one event: the requests were in flight together."""
DECREASE = 0.95
"""Factor on a known limit at a rejection."""
FLOOR = 0.05
"""Share of a known limit that rejections can bring it down to."""
MEASURE_SECONDS = 3.0
"""Between two rejections at least this long, what was accepted measures the limit."""
GROWTH = 0.001
"""Growth a second towards the limit, or in search of it: 6 % a minute."""
SLOW_SECONDS = 1.5
"""A first reply that takes longer is by a server that may work on one request at a time: many would wait in its queue
until they time out, and be computed all the same."""
LIFTED_SECONDS, RAMP_SECONDS = 15.0, 5.0
"""Without a rejection for the first of these, under pressure, the limit may have been lifted: growth then rises
e-fold in the second, so that a hundred times the pace is found within a minute. At a limit that stands a rejection
comes before that, for growth until then is 1.5 %."""
MOST_GROWTH = 1.0
"""Growth a second at most: a doubling."""
SEARCH_GROWTH = 0.05
"""Growth a second as long as only one rejection has been met."""


class RateLearner:
    """One budget per minute, of tokens or of requests.

    A known limit (the operator's, or the provider's headers) is used in full; rejections take a little off it, and it
    recovers. Where none is known it is measured: at each 429 the provider's bucket is empty, so what it accepted
    between two of them is what it refills.
    """

    def __init__(self) -> None:
        self._limit: float | None = None
        self._rate: float | None = None
        self._pressed_at = 0.0
        self._first: tuple[float, float] | None = None
        self._mark: tuple[float, float] | None = None
        self._idle = 0.0
        """Seconds of rest since the mark."""
        self._pressure = 0.0
        """Seconds of pressure since the last rejection."""
        self._measured = False

    def limit(self, per_minute: float | None) -> None:
        """Take a known limit over; None: it is not known, or no more."""
        if per_minute != self._limit:
            self._limit = self._rate = per_minute
            self._measured = False

    def observed(self, now: float, total: float) -> None:
        """Tell the running total of what the provider accepted, as the beginning to measure from."""
        if self._first is None:
            self._first = (now, total)

    def rested(self, seconds: float) -> None:
        """Tell that there was nothing to send for so long: that is no measure of what may be sent."""
        if self._first is not None and seconds > MEASURE_SECONDS:
            self._idle += seconds

    def rejected(self, now: float, total: float) -> None:
        """The provider said 429 after accepting ``total`` in all."""
        if self._mark is not None and now - self._mark[0] < MERGE_SECONDS:
            return
        rate = self._rate
        since, before = self._mark or self._first or (now - MERGE_SECONDS, total)
        total = max(total, before)
        since, self._idle = since + self._idle, 0.0
        if total <= before and self._limit is None:
            # Nothing was accepted, so nothing was measured: somebody else uses the budget, or it is an outage. The
            # backoff waits for that; a rate learnt from it would be next to nothing, and last.
            self._mark = (now, total)
            return
        throughput = (total - before) * 60 / max(now - since, MERGE_SECONDS)
        if self._limit is not None and rate is not None:
            rate = max(rate * DECREASE, self._limit * FLOOR)
        elif rate is None:
            # what came before was helped by a bucket that was full
            rate = throughput / 2
        elif now - since < MEASURE_SECONDS:
            rate *= 0.8
        else:
            self._measured = True
            rate = max(rate / 2, min(rate * 0.99, throughput * 0.98))
        self._rate = max(rate, 1.0)
        self._mark, self._pressed_at, self._pressure = (now, total), now, 0.0

    def pressed(self, now: float) -> None:
        """Tell that a request waits for this budget; it grows only then, not in idle or blocked times."""
        if self._rate is not None:
            growth = GROWTH if self._measured or self._limit is not None else SEARCH_GROWTH
            seconds = min(1.0, max(0.0, now - self._pressed_at))
            self._pressure += seconds
            if self._pressure > LIFTED_SECONDS:
                ramp = GROWTH * math.exp(min(20.0, (self._pressure - LIFTED_SECONDS) / RAMP_SECONDS))
                growth = min(MOST_GROWTH, max(growth, ramp))
            self._rate *= (1 + growth) ** seconds
            if self._limit is not None:
                self._rate = min(self._rate, self._limit)
        self._pressed_at = now

    @property
    def rate(self) -> float | None:
        """What may be sent a minute at present; None: nothing is known to limit it."""
        return self._rate


class ConcurrencyFinder:
    """Requests in flight: grows while throughput grows with it, shrinks when the provider is in trouble.

    Until a first request has succeeded it is one, so that a bad key costs one request.
    """

    def __init__(self, start: int = 4) -> None:
        self.maximum = start
        self._start = start
        self._limit = 1
        self._proven = False
        self._window = (0.0, 0, 0)
        """Start, requests, tokens."""
        self._wanted = self._starved = False
        self._before: tuple[int, float] | None = None
        """Limit and throughput before the last growth."""
        self._hold_until = 0.0
        self._trouble_at = -math.inf

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return max(1, min(self._limit, self.maximum))

    def wanted(self) -> None:
        """Tell that a request waited only because of the limit."""
        self._wanted = True

    def starved(self) -> None:
        """Tell that a request waited for a budget: this window's throughput says nothing about concurrency."""
        self._starved = True

    def finished(self, now: float, tokens: int, seconds: float = 0.0) -> None:
        """Tell that a request ended well, after so many ``seconds``."""
        if not self._proven:
            self._proven = True
            self._limit = self._start if seconds < SLOW_SECONDS else 1
            self._window = (now, 0, 0)
            return
        began, requests, sum_tokens = self._window
        self._window = (began, requests + 1, sum_tokens + tokens)
        if now - began >= 1.0 and requests + 1 >= 2 * self.limit:
            self._judge(now, (sum_tokens + tokens) / (now - began))
            self._window, self._wanted, self._starved = (now, 0, 0), False, False

    def _judge(self, now: float, throughput: float) -> None:
        if self._starved:
            self._before = None
            return
        if self._before is not None:
            limit, before = self._before
            # a third of what growth would give at best is worth having; less is noise, or another bottleneck
            if throughput < before * (1 + (self.limit / limit - 1) / 3):
                self._limit, self._before = limit, None
                self._hold_until = now + 20
                return
        if self._wanted and now >= self._hold_until and self.limit < self.maximum:
            self._before = (self.limit, throughput)
            self._limit = min(self.maximum, max(self.limit + 1, self.limit * 3 // 2))
        else:
            self._before = None

    def trouble(self, now: float, *, limited: bool = False) -> None:
        """Tell of a time-out or (``limited``) a 429; those of one second count once.

        A 429 is mostly about the rate, which is learnt; so it does not bring concurrency below its start.
        """
        if now - self._trouble_at < MERGE_SECONDS:
            return
        self._trouble_at = now
        floor = min(self._start, self.limit) if limited else 1
        self._limit = max(floor, self.limit * 7 // 10)
        self._before, self._wanted = None, False
        self._hold_until = now + 5
        self._window = (now, 0, 0)
