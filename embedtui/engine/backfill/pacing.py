"""Decides when the next request may go: budgets, spend cap, concurrency and outages, shared by all worker processes."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg

from embedtui.engine.backfill.adapt import ConcurrencyFinder, RateLearner
from embedtui.engine.backfill.packing import UNCALIBRATED
from embedtui.errors import DatabaseError, Interrupted
from embedtui.formatting import money
from embedtui.model import FaultClass, Hold, Migration
from embedtui.postgres.connect import Connection, Link, lost, retryable, translate
from embedtui.providers import ProviderFault, RateLimits
from embedtui.providers.faults import LONGEST_WAIT

SYNC_SECONDS = 0.05
"""At least this long between two statements of a process: at most 20 a second."""
KNOB_SECONDS = 1.0
"""At most this long until a changed knob, or another process's news, is seen by a waiting thread."""
POLL_SECONDS = 0.1
"""How soon a waiting thread sees its stop signal."""
PREFETCH_SECONDS = 0.25
"""How much of its recent use a process takes from the shared budget ahead of need."""
BURST_SECONDS = 2.0
"""How much of a minute's budget the shared bucket saves up while nobody asks."""
FAILURES_TO_OPEN = 3
"""Provider faults in a row, with no success in between, that stop all but a probe."""
LONGEST_BACKOFF = 60.0
SHORTEST_WAITS = (0.05, 1.0)
"""Who is told to come back at once, and fails again, waits at least so long: the first, doubling up to the second."""
RATIOS = (0.25, 32.0)
"""Characters per token that can be true of a whole batch: a byte each, to long runs of blanks. A count far outside,
by a server that cuts texts silently or means harm, would make requests without end."""
PROBE_SECONDS = 20.0
"""For how long a process may take over the probe; then another tries, for it may have been killed."""
ESTIMATE_MARGIN = 1.1
"""A request reserves this much more than its calibrated estimate, so that the spend cap holds."""
NOTICEABLE_SECONDS = 1.0
"""Waiting for a budget is named as a hold after this long: shorter waits are what pacing is."""
UNREFUNDED = frozenset({"timeout", "bad_reply", "bad_vector", "dimensions"})
"""Faults that the provider may have charged for: their estimate stays spent."""

# One statement does it all, so that processes cannot interleave: settle what was used beyond the lease, refill the
# buckets by the database's clock, lease what is asked within budget and cap (negative: give back), publish or clear a
# block, and read the knobs. `held` locks the row first; `asked` reads the clock only after that.
_SYNC = """
WITH held AS MATERIALIZED (
    SELECT * FROM embedtui.pace WHERE migration = %(migration)s FOR UPDATE
), asked AS MATERIALIZED (
    SELECT timed.*, greatest(0, extract(epoch FROM now - filled_at))::float8 AS seconds
    FROM (SELECT held.*, clock_timestamp() AS now FROM held OFFSET 0) AS timed
), filled AS MATERIALIZED (
    SELECT asked.*,
        least(%(token_rate)s::float8 * %(burst)s / 60, token_level + seconds * %(token_rate)s::float8 / 60)
            - %(settle)s AS tokens_there,
        least(CASE WHEN %(request_rate)s::float8 IS NOT NULL
                   THEN greatest(1, %(request_rate)s::float8 * %(burst)s / 60) END,
              request_level + seconds * %(request_rate)s::float8 / 60) AS requests_there,
        CASE WHEN spend_cap IS NULL OR %(price)s::float8 = 0 THEN NULL
             -- without a price nothing may be spent
             ELSE greatest(0, coalesce(floor(spend_cap * 1e6 / %(price)s::float8) - spent_tokens - %(settle)s, 0)) END
            AS tokens_left
    FROM asked
), granted AS MATERIALIZED (
    SELECT filled.*,
        -- no greatest(0, NULL): that would be 0, and NULL means unlimited
        floor(least(%(tokens)s::float8, CASE WHEN tokens_there < 0 THEN 0 ELSE tokens_there END, tokens_left))
            AS tokens,
        floor(least(%(requests)s::float8, CASE WHEN requests_there < 0 THEN 0 ELSE requests_there END)) AS leases
    FROM filled
)
UPDATE embedtui.pace AS p SET
    token_level = CASE WHEN %(rejected)s > 0 THEN 0 ELSE coalesce(tokens_there - tokens, 0) END,
    request_level = CASE WHEN %(rejected)s > 0 THEN 0 ELSE coalesce(requests_there - leases, 0) END,
    filled_at = now,
    spent_tokens = p.spent_tokens + tokens::bigint + %(settle)s,
    requests = p.requests + leases::bigint,
    rejected = p.rejected + %(rejected)s,
    concurrency = %(concurrency)s,
    characters_per_token = CASE WHEN %(ratio)s::float8 IS NULL THEN p.characters_per_token
        ELSE coalesce(p.characters_per_token * 0.7 + %(ratio)s::float8 * 0.3, %(ratio)s::float8) END,
    blocked_until = CASE
        WHEN %(block)s::float8 IS NOT NULL  -- a failed probe's block replaces its own claim
            THEN greatest(CASE WHEN NOT %(probed)s THEN p.blocked_until END,
                          now + make_interval(secs => %(block)s::float8))
        WHEN %(clear)s THEN NULL
        WHEN %(claim)s AND p.blocked_until <= now THEN now + make_interval(secs => %(probe)s::float8)
        ELSE p.blocked_until END,
    blocked_why = CASE
        WHEN %(block)s::float8 IS NOT NULL THEN %(why)s
        WHEN %(clear)s THEN ''
        ELSE p.blocked_why END
FROM granted AS g WHERE p.migration = g.migration
RETURNING tokens, leases, p.tokens_per_minute, p.requests_per_minute, p.max_concurrency, p.spend_cap, p.spent_tokens,
    p.requests, p.rejected, p.characters_per_token, extract(epoch FROM p.blocked_until - now)::float8, p.blocked_why,
    %(claim)s AND g.blocked_until <= now AS claimed
"""


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """Why the first in line may not go yet."""

    name: str
    """Name of the hold; "" for the limit of requests in flight, which is no hold."""
    detail: str
    wait: float
    """Seconds after which looking again makes sense."""


class PlaceGivenUp(Exception):
    """A request that was waiting for its turn when the work was held: it is not to be sent."""


class _Ticket:
    """One thread's place in the line."""

    __slots__ = ("need", "turn")

    def __init__(self, need: int, lock: threading.RLock) -> None:
        self.need = need
        self.turn = threading.Condition(lock)
        """Its own, so that news wake the first in line only: with many threads, waking all takes their interpreter."""


class Slot:
    """Permission for one request; ends with exactly one of ``done`` and ``failed``."""

    __slots__ = ("_began", "_characters", "_pacer", "_probe", "_reserved", "_settled")

    def __init__(self, pacer: Pacer, characters: int, reserved: int, probe: bool, began: float) -> None:
        self._pacer = pacer
        self._characters = characters
        self._reserved = reserved
        self._probe = probe
        self._began = began
        self._settled = False

    def done(self, tokens: int, limits: RateLimits | None, seconds: float, *, measured: bool = True) -> None:
        """The request succeeded and took ``tokens`` (``measured``: by the provider's own count) and ``seconds``."""
        if not self._settled:
            self._settled = True
            self._pacer._done(self, tokens, limits, seconds, measured)

    def failed(self, fault: ProviderFault) -> None:
        """The request failed; what is the provider's fault slows all workers down."""
        if not self._settled:
            self._settled = True
            self._pacer._failed(self, fault)


class Pacer:
    """Paces one process's requests for one migration; thread-safe, and fair within the process.

    Several processes share the migration's row in embedtui.pace: its buckets, its spend and its block. Tokens and
    requests are leased from it in small slices; what a process that was killed had leased stays counted as spent.
    """

    def __init__(
        self,
        dsn: str,
        migration: Migration,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._migration = migration.id
        self._price = migration.new_model.price_per_million
        self._clock, self._chance = clock, chance
        self._link = Link(dsn, "pace")
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # all below is guarded by _changed
        self._line: deque[_Ticket] = deque()
        self._in_flight = 0
        self._reserved = 0
        """Tokens of the requests in flight."""
        self._pool_tokens = 0
        self._pool_requests = 0
        self._finder = ConcurrencyFinder(start=16)
        self._tokens, self._requests = RateLearner(), RateLearner()
        self._told = RateLimits()
        self._operator: tuple[float | None, float | None] = (None, None)
        self._cap: float | None = None
        self._spent = 0
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
        self._rejected_by_requests: bool | None = None
        self._block: tuple[float, str, bool] | None = None
        """Seconds, reason, and whether a probe found it: a block not yet told to the row."""
        self._clear = False
        self._blocked_until: float | None = None
        """By our clock; past: half open, one request may probe."""
        self._blocked_at = -math.inf
        self._blocked_why = ""
        self._probing = False
        self._failures = 0
        self._blocks = 0
        self._knows_row = False
        self._synced_at = -math.inf
        self._syncing = False
        self._lost_until = -math.inf
        self._obstacle: tuple[_Obstacle, float, datetime] | None = None
        """What the first in line waits for, and since when."""

    # -------------------------------------------------------------------------------------------------- readings

    @property
    def characters_per_token(self) -> float:
        """Calibrated from the provider's counts; a cautious guess until then."""
        return self._ratio or UNCALIBRATED

    @property
    def concurrency(self) -> int:
        """Requests that this process may have in flight now."""
        with self._changed:
            return self._finder.limit

    @property
    def max_concurrency(self) -> int:
        """The operator's limit for it, as last read from the row (read now, if never before)."""
        with self._changed:
            if not self._knows_row:
                try:
                    self._sync()
                except psycopg.Error as error:
                    raise translate(error) from error
            return self._finder.maximum

    @property
    def spent_tokens(self) -> int:
        """Tokens spent by all processes, those leased for requests in flight included, as last read."""
        with self._changed:
            return self._spent

    @property
    def hold(self) -> Hold | None:
        """What requests wait for now: ``provider``, ``rate``, ``spend_cap``, or ``database``; None: they go."""
        with self._changed:
            if self._obstacle is None or not self._line:
                return None
            obstacle, began, since = self._obstacle
            brief = obstacle.name == "rate" and not self._blocked and self._clock() - began < NOTICEABLE_SECONDS
            return None if brief or not obstacle.name else Hold(obstacle.name, obstacle.detail, since)

    @property
    def _blocked(self) -> bool:
        return self._blocked_until is not None

    def budget(self) -> tuple[float | None, float | None]:
        """(tokens, requests) a minute that are used at present; None: not limited."""
        with self._changed:
            return self._tokens.rate, self._requests.rate

    # ----------------------------------------------------------------------------------------------------- slots

    @contextmanager
    def slot(
        self,
        characters: int,
        inputs: int,
        stop: threading.Event,
        *,
        urgent: bool = False,
        held: Callable[[], bool] = lambda: False,
    ) -> Iterator[Slot]:
        """Wait until a request of ``inputs`` distinct texts with ``characters`` in all may go; then hold its place.

        An ``urgent`` one goes before those that wait: one request of the sync for every round of the backfill's.

        Once ``held`` says so, it waits no longer. No transaction is open while it waits. A slot left without ``done``
        or ``failed`` gives back what it reserved.

        Raises:
            Interrupted: ``stop`` was set meanwhile.
            PlaceGivenUp: ``held``; it has to ask again.
            DatabaseError: the pace row cannot be used; a lost connection is waited out.
        """
        slot = self._enter(characters, inputs, stop, urgent, held)
        try:
            yield slot
        finally:
            with self._changed:
                self._in_flight -= 1
                self._reserved -= slot._reserved
                if not slot._settled:
                    self._pool_tokens += slot._reserved
                    self._pool_requests += 1
                if slot._probe:
                    self._probing = False
                self._changed.notify_all()

    def _enter(
        self, characters: int, inputs: int, stop: threading.Event, urgent: bool, held: Callable[[], bool]
    ) -> Slot:
        with self._changed:
            ticket = _Ticket(self._reserve(characters, inputs), self._lock)
            if urgent:
                self._line.appendleft(ticket)
            else:
                self._line.append(ticket)
            try:
                while True:
                    if stop.is_set():
                        raise Interrupted(
                            "Stopped while waiting for the provider's budget.", hint="Run again to go on."
                        )
                    if held():
                        raise PlaceGivenUp
                    if self._line[0] is not ticket:
                        ticket.turn.wait(POLL_SECONDS)
                        continue
                    ticket.need = self._reserve(characters, inputs)
                    obstacle = self._look(ticket)
                    if obstacle is None:
                        return self._grant(ticket, characters)
                    if self._obstacle is None or self._obstacle[0].name != obstacle.name:
                        self._obstacle = (obstacle, self._clock(), datetime.now(UTC))
                    else:
                        self._obstacle = (obstacle, *self._obstacle[1:])
                    self._changed.wait(min(max(obstacle.wait, 0.001), POLL_SECONDS))
            finally:
                self._line.remove(ticket)
                if self._line:
                    self._line[0].turn.notify()
                self._changed.notify_all()

    def _reserve(self, characters: int, inputs: int) -> int:
        margin = 1.0 if self._ratio is None else ESTIMATE_MARGIN
        return math.ceil(characters / self.characters_per_token * margin) + inputs

    def _grant(self, ticket: _Ticket, characters: int) -> Slot:
        self._obstacle = None
        self._pool_tokens -= ticket.need
        self._pool_requests -= 1
        self._drawn = (self._drawn[0] + ticket.need, self._drawn[1] + 1)
        self._in_flight += 1
        self._reserved += ticket.need
        probe = self._blocked
        self._probing = self._probing or probe
        return Slot(self, characters, ticket.need, probe, self._clock())

    def _look(self, ticket: _Ticket) -> _Obstacle | None:
        """What keeps the first in line; None: it may go. Syncs with the row where that is due."""
        now = self._clock()
        if self._syncing:
            return _Obstacle(*self._present(), wait=SYNC_SECONDS)
        if now < self._lost_until:
            return self._lost()
        if self._in_flight >= self._finder.limit:
            self._finder.wanted()
            if now - self._synced_at >= KNOB_SECONDS:
                return self._try_sync() or _Obstacle("", "", 0.0)
            return _Obstacle("", "", KNOB_SECONDS)
        news = self._block is not None or self._clear
        due = now - self._synced_at >= KNOB_SECONDS or news
        if due or self._short(ticket):
            too_soon = SYNC_SECONDS - (now - self._synced_at)
            if too_soon > 0 and not (news and self._block is not None):
                return _Obstacle(*self._present(), wait=too_soon)
            failed = self._try_sync()
            if failed is not None:
                return failed
            now = self._clock()
        if self._blocked_until is not None:
            if self._probing or now < self._blocked_until:
                return self._outage(self._blocked_until - now)
            if not self._short(ticket):
                # half open: whoever wins the row's block sends the one probe
                failed = self._try_sync(claim=True)
                if failed is not None or self._blocked_until is None:
                    return failed
                if not self._probing:
                    return self._outage(self._blocked_until - self._clock())
        return self._shortage(ticket) if self._short(ticket) else None

    def _short(self, ticket: _Ticket) -> bool:
        return self._pool_tokens < ticket.need or self._pool_requests < 1

    def _present(self) -> tuple[str, str]:
        return ("", "") if self._obstacle is None else (self._obstacle[0].name, self._obstacle[0].detail)

    def _outage(self, wait: float) -> _Obstacle:
        name = "rate" if self._blocked_why.startswith("429") else "provider"
        if self._probing or wait <= 0:
            return _Obstacle(name, f"{self._blocked_why} Asking again now.", KNOB_SECONDS)
        until = datetime.now(UTC) + timedelta(seconds=wait)
        return _Obstacle(name, f"{self._blocked_why} Next try at {until:%H:%M:%S} UTC.", wait)

    def _shortage(self, ticket: _Ticket) -> _Obstacle:
        missing = ticket.need - self._pool_tokens
        if self._cap is not None and self._price != 0 and missing > 0:
            if self._price is None:
                return _Obstacle("spend_cap", "A spend cap needs the model's price per million tokens.", KNOB_SECONDS)
            if self._cap * 1e6 / self._price - self._spent < missing:
                spent = self._spent * self._price / 1e6
                return _Obstacle(
                    "spend_cap", f"{money(spent)} of {money(self._cap)} is spent or reserved.", KNOB_SECONDS
                )
        now = self._clock()
        self._finder.starved()
        waits = [(0.0, "the provider's budget")]
        for learner, lack, unit in (
            (self._tokens, missing, "tokens"),
            (self._requests, 1 - self._pool_requests, "requests"),
        ):
            if lack > 0:
                learner.pressed(now)
                if learner.rate is not None:
                    waits.append((lack * 60 / learner.rate, f"{learner.rate:,.0f} {unit} a minute"))
        wait, why = max(waits)
        return _Obstacle("rate", f"The pace is {why}." if wait else "Asking for budget.", max(wait, SYNC_SECONDS))

    # ------------------------------------------------------------------------------------------------- outcomes

    def _done(self, slot: Slot, tokens: int, limits: RateLimits | None, seconds: float, measured: bool) -> None:
        with self._changed:
            self._pool_tokens += slot._reserved - tokens
            if measured and tokens > 0:
                self._sample = (self._sample[0] + slot._characters, self._sample[1] + tokens)
                if self._ratio is None:
                    self._ratio = _plausible(slot._characters / tokens)
            self._learn(limits)
            self._finder.finished(self._clock(), tokens, seconds)
            self._well(slot)
            self._changed.notify_all()

    def _failed(self, slot: Slot, fault: ProviderFault) -> None:
        with self._changed:
            now = self._clock()
            if fault.code not in UNREFUNDED:
                self._pool_tokens += slot._reserved
            self._learn(fault.limits)
            if fault.fault_class is not FaultClass.PROVIDER:
                self._well(slot)  # the provider is alive and answered
            else:
                self._trouble(slot, fault, now)
            self._changed.notify_all()

    def _well(self, slot: Slot) -> None:
        self._failures = 0
        if slot._probe:
            self._blocks = 0
            self._clear, self._block = True, None
            self._blocked_until, self._probing = None, False
        elif self._blocked_until is None:
            self._blocks = 0

    def _trouble(self, slot: Slot, fault: ProviderFault, now: float) -> None:
        limited = fault.code == "429"
        if limited:
            self._rejections += 1
            self._rejected_by_requests = _about_requests(fault)
        if limited or fault.code == "timeout":
            self._finder.trouble(now, limited=limited)
        self._failures += 1
        old_news = slot._began < self._blocked_at  # asked before the present block began
        if fault.retry_after is not None:
            first, longest = SHORTEST_WAITS
            least = min(longest, first * 2.0 ** min(self._blocks, 10))
            wait = min(max(fault.retry_after, least), LONGEST_WAIT) * (1 + 0.1 * self._chance())
        elif old_news and self._blocked:
            return
        elif limited or slot._probe or self._failures >= FAILURES_TO_OPEN:
            wait = min(LONGEST_BACKOFF, 2.0 ** min(self._blocks, 10)) * (0.5 + self._chance() / 2)
        else:
            return
        if not old_news:
            self._blocks += 1
            self._blocked_at = now
        why = fault.reason if fault.reason.startswith(fault.code) else f"{fault.code}: {fault.reason}"
        self._blocked_until = max(self._blocked_until or 0.0 if not slot._probe else 0.0, now + wait)
        self._blocked_why = why
        self._block = (max(wait, self._block[0] if self._block else 0.0), why, slot._probe)
        self._clear = False

    def _learn(self, limits: RateLimits | None) -> None:
        if limits is None:
            return
        self._told = RateLimits(
            limit_tokens=limits.limit_tokens or self._told.limit_tokens,
            limit_requests=limits.limit_requests or self._told.limit_requests,
        )
        self._apply_limits()

    def _apply_limits(self) -> None:
        tokens, requests = self._operator
        self._tokens.limit(tokens or self._told.limit_tokens)
        self._requests.limit(requests or self._told.limit_requests)

    # ------------------------------------------------------------------------------------------------ the shared row

    def _try_sync(self, *, claim: bool = False) -> _Obstacle | None:
        """Sync; a lost connection is an obstacle, to be looked at again."""
        try:
            self._sync(claim=claim)
        except psycopg.Error as error:
            if not retryable(error):
                self._link.drop()
                if not lost(error):
                    raise translate(error) from error
        except DatabaseError as error:
            self._link.drop()
            if not lost(error):
                raise
        else:
            return None
        self._lost_until = self._clock() + KNOB_SECONDS
        return self._lost()

    def _lost(self) -> _Obstacle:
        return _Obstacle("database", "The database is lost; trying again.", KNOB_SECONDS)

    def _sync(self, *, claim: bool = False, giving_back: bool = False) -> None:
        """One statement; called with the lock held, which is let go while it runs."""
        while self._syncing:
            self._changed.wait(POLL_SECONDS)
        self._syncing = True
        now = self._clock()
        elapsed = now - self._synced_at
        if math.isfinite(elapsed) and elapsed > 0:
            weight = min(1.0, elapsed / KNOB_SECONDS)
            tokens_used, requests_used = (
                use + weight * (drawn / elapsed - use) for use, drawn in zip(self._use, self._drawn, strict=True)
            )
            self._use, self._drawn = (tokens_used, requests_used), (0, 0)
        # what was used beyond the lease is spent already, whatever the budget says
        settle, self._pool_tokens = max(0, -self._pool_tokens), max(0, self._pool_tokens)
        tokens_ahead, requests_ahead = (math.ceil(use * PREFETCH_SECONDS) for use in self._use)
        waiting = list(self._line)[: max(1, self._finder.limit - self._in_flight)]
        want_tokens = sum(ticket.need for ticket in waiting) + tokens_ahead - self._pool_tokens
        want_requests = len(waiting) + requests_ahead - self._pool_requests
        # nothing is asked for by the first look, which reads the knobs, nor with the news of a 429: the provider's
        # bucket is empty then, so ours has to be
        if giving_back or self._rejections or not self._knows_row:
            want_tokens, want_requests = -self._pool_tokens, -self._pool_requests
        characters, counted = self._sample
        rejected, block, clear, by_requests = self._rejections, self._block, self._clear, self._rejected_by_requests
        parameters: dict[str, object] = {
            "migration": self._migration,
            "token_rate": self._tokens.rate,
            "request_rate": self._requests.rate,
            "burst": BURST_SECONDS,
            "price": self._price,
            "settle": settle,
            "tokens": want_tokens,
            "requests": want_requests,
            "rejected": rejected,
            "concurrency": self._finder.limit,
            "ratio": _plausible(characters / counted) if counted and characters else None,
            "block": None if block is None else block[0],
            "why": "" if block is None else block[1],
            "probed": block is not None and block[2],
            "clear": clear,
            "claim": claim,
            "probe": PROBE_SECONDS,
        }
        self._sample = (0, 0)
        self._rejections, self._block, self._clear = 0, None, False
        self._changed.release()
        row = None
        try:
            row = self._execute(parameters)
        finally:
            self._changed.acquire()
            self._syncing = False
            self._synced_at = self._clock()
            if row is None:  # it goes into the next one
                self._pool_tokens -= settle
                self._rejections += rejected
                self._block = self._block or block
                self._clear = (self._clear or clear) and self._block is None
            self._changed.notify_all()
        self._merge(row, rejected, by_requests)

    def _execute(self, parameters: dict[str, object]) -> tuple[object, ...]:
        conn: Connection = self._link.get()
        row = conn.execute(_SYNC, parameters).fetchone()
        if row is None:
            raise DatabaseError("The migration's pace is gone.", hint="Was the migration aborted?")
        return tuple(row)

    def _merge(self, row: tuple[object, ...], rejected: int, by_requests: bool | None) -> None:
        """Take over what the row says."""
        self._knows_row = True
        now = self._clock()
        (tokens, leases, *knobs, concurrency, cap, spent, requests, total, ratio, blocked, why, claimed) = row
        self._pool_tokens += _whole(tokens)
        self._pool_requests += _whole(leases)
        self._operator = (_maybe(knobs[0]), _maybe(knobs[1]))
        self._apply_limits()
        self._finder.maximum = max(1, _whole(concurrency))
        self._cap, self._spent, self._ratio = _maybe(cap), _whole(spent), _maybe(ratio) or self._ratio
        # what was accepted: neither what is only leased nor what is still in flight
        accepted_tokens = self._spent - self._pool_tokens - self._reserved
        accepted_requests = _whole(requests) - _whole(total) - self._pool_requests - self._in_flight
        self._tokens.observed(now, accepted_tokens)
        self._requests.observed(now, accepted_requests)
        # 429s of other processes are news about the same budget
        if rejected or (self._rejected_total is not None and _whole(total) > self._rejected_total):
            if by_requests is not True:
                self._tokens.rejected(now, accepted_tokens)
            if by_requests is not False:
                self._requests.rejected(now, accepted_requests)
        self._rejected_total = _whole(total)
        if self._block is not None or self._clear:
            return  # newer than what the row knows
        remaining = _maybe(blocked)
        if claimed:
            self._probing = True
        elif not self._probing:
            self._blocked_until = None if remaining is None else now + remaining
            self._blocked_why = str(why)

    def close(self) -> None:
        """Give back what was leased and not used, and close the connection."""
        with self._changed:
            with suppress(DatabaseError, psycopg.Error):
                if self._knows_row:
                    self._sync(giving_back=True)
            self._link.drop()


def unblock(conn: Connection, migration_id: int) -> None:
    """End a backoff or a long Retry-After for all processes, at an operator's word; seen within KNOB_SECONDS."""
    conn.execute("UPDATE embedtui.pace SET blocked_until = NULL, blocked_why = '' WHERE migration = %s", [migration_id])


def _about_requests(fault: ProviderFault) -> bool | None:
    """Whether a 429 is about requests (True) or tokens (False); None: it does not say."""
    reason = fault.reason
    if "TPM" in reason or "tokens per min" in reason:
        return False
    return True if "RPM" in reason or "requests per min" in reason else None


def _plausible(ratio: float) -> float:
    least, most = RATIOS
    return min(max(ratio, least), most)


def _whole(value: object) -> int:
    return int(value)  # type: ignore[call-overload, no-any-return]


def _maybe(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]
