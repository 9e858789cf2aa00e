"""Decides when the next request may go: budgets, spend cap, concurrency and outages, shared by all worker processes."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import psycopg

from embedtui.engine.backfill.backoff import Backoff, Block
from embedtui.engine.backfill.budget import Budget, Claim
from embedtui.engine.backfill.obstacle import KNOB_SECONDS, SYNC_SECONDS, Obstacle
from embedtui.engine.backfill.rate_learning import ConcurrencyFinder
from embedtui.engine.backfill.tempo import STALL_SECONDS, Tempo
from embedtui.errors import DatabaseError, Interrupted
from embedtui.model import FaultClass, Hold, Migration
from embedtui.model.snapshot import PACE
from embedtui.postgres.connect import Link, lost, retryable, translate
from embedtui.postgres.state.pace import PaceNews, exchange
from embedtui.providers import ProviderFault, RateLimits

POLL_SECONDS = 0.1
"""How soon a waiting thread sees its stop signal."""
BURST_SECONDS = 2.0
"""How much of a minute's budget the shared bucket saves up while nobody asks; at least what the next request needs."""
PROBE_SECONDS = 20.0
"""For how long a process may take over the probe; then another tries, for it may have been killed."""
NOTICEABLE_SECONDS = 1.5
"""Waiting for a budget is named as a hold after this long: shorter waits are what pacing is."""
UNREFUNDED = frozenset({"timeout", "bad_reply", "bad_vector", "dimensions"})
"""Faults that the provider may have charged for: their estimate stays spent."""


_LOST = Obstacle("database", "The database is lost; trying again.", KNOB_SECONDS)


class PlaceGivenUp(Exception):
    """A request that was waiting for its turn when the work was held: it is not to be sent."""


class _Ticket:
    """One thread's place in the line."""

    __slots__ = ("need", "thread", "turn", "urgent")

    def __init__(self, need: int, lock: threading.RLock, urgent: bool) -> None:
        self.need, self.urgent, self.thread = need, urgent, threading.current_thread().name
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

    def __init__(self, dsn: str, migration: Migration) -> None:
        self._migration = migration.id
        self._link = Link(dsn, "pace")
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # all below is guarded by _changed
        self._line: deque[_Ticket] = deque()
        self._urgent_went = False
        """The last that went was an urgent one."""
        self._budget = Budget(migration.new_model.price_per_million)
        self._backoff = Backoff()
        self._finder = ConcurrencyFinder(start=16)
        self._knows_row = False
        self._synced_at = self._synced_before = -math.inf
        """By our clock: the last statement, and the one before it."""
        self._syncing = False
        self._lost_until = -math.inf
        self._obstacle: tuple[Obstacle, float, datetime] | None = None
        """What the first in line waits for, and since when."""
        self._paced: tuple[Obstacle, float, datetime] | None = None
        """What the last one had waited for, where that was a pace so slow that it is worth a word."""
        self._tempo = Tempo(migration.new_model.timeout_seconds)

    # -------------------------------------------------------------------------------------------------- readings

    @property
    def characters_per_token(self) -> float:
        """Calibrated from the provider's counts; a cautious guess until then."""
        return self._budget.characters_per_token

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
            return self._budget.spent

    @property
    def hold(self) -> Hold | None:
        """What requests wait for now: ``provider``, ``rate``, ``pace``, ``spend_cap``, ``database``; None: they go."""
        with self._changed:
            now = time.monotonic()
            waits = self._obstacle if self._line else None
            silent = self._tempo.hold(now, self._budget.in_flight)
            if silent is not None and (waits is None or waits[0].name in ("", PACE, "rate", "provider")):
                return silent
            if self._tempo.refused_since is not None and (self._line or self._budget.in_flight):
                return _stalled(now, *self._tempo.refused_since, self._tempo, self._backoff, self._budget)
            if waits is None:
                return None
            obstacle, began, since = waits
            if not obstacle.name or (obstacle.name == PACE and now - began < NOTICEABLE_SECONDS):
                return None
            stands = obstacle.limit and not self._budget.in_flight and not self._tempo.moves(now)
            return Hold(obstacle.name, f"Waits for {obstacle.limit}." if stands else obstacle.detail, since)

    @property
    def in_flight(self) -> int:
        """Requests of this process that are on the wire."""
        with self._changed:
            return self._budget.in_flight

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

        An ``urgent`` one goes before those that wait, but for one of them after each urgent one: where requests are
        scarce, edits would take them all, a text or two in each.

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
                self._budget.release(slot._reserved, time.monotonic(), unused=not slot._settled)
                self._tempo.ended(time.monotonic(), self._budget.in_flight)
                if slot._probe:
                    self._backoff.probing = False
                self._changed.notify_all()

    def _enter(
        self, characters: int, inputs: int, stop: threading.Event, urgent: bool, held: Callable[[], bool]
    ) -> Slot:
        with self._changed:
            ticket = _Ticket(self._budget.estimate(characters, inputs), self._lock, urgent)
            self._obstacle = self._obstacle if self._line else None  # else that wait is over, and this is another
            self._line.insert(int(self._urgent_went) if urgent else len(self._line), ticket)
            try:
                while True:
                    if stop.is_set():
                        raise Interrupted("Stopped while waiting for the provider.", hint="Run again to go on.")
                    if held():
                        raise PlaceGivenUp
                    if self._line[0] is not ticket:
                        ticket.turn.wait(POLL_SECONDS)
                        continue
                    ticket.need = self._budget.estimate(characters, inputs)
                    obstacle = self._look(ticket)
                    if obstacle is None:
                        return self._grant(ticket, characters)
                    paced = self._paced if self._tempo.moves(time.monotonic()) else None  # else it is long ago
                    self._obstacle = (obstacle, *_since(obstacle.name, self._obstacle, paced))
                    if obstacle.name:
                        self._paced = None
                    self._changed.wait(min(max(obstacle.wait, 0.001), POLL_SECONDS))
            finally:
                self._line.remove(ticket)
                if self._line:
                    self._line[0].turn.notify()
                self._changed.notify_all()

    def _grant(self, ticket: _Ticket, characters: int) -> Slot:
        # the next one waits for the same slow pace, which is no news
        long = self._obstacle is not None and time.monotonic() - self._obstacle[1] >= NOTICEABLE_SECONDS
        self._paced = self._obstacle if long and self._obstacle and self._obstacle[0].name == PACE else None
        self._obstacle = None
        self._budget.reserve(ticket.need)
        self._urgent_went = ticket.urgent
        began = time.monotonic()
        self._tempo.sent(began, self._budget.in_flight)
        probe = self._backoff.open
        self._backoff.probing = self._backoff.probing or probe
        return Slot(self, characters, ticket.need, probe, began)

    def _look(self, ticket: _Ticket) -> Obstacle | None:
        """What keeps the first in line; None: it may go. Syncs with the row where that is due."""
        now = time.monotonic()
        if self._syncing:
            return Obstacle(*self._present(), wait=SYNC_SECONDS)
        if now < self._lost_until:
            return _LOST
        if self._budget.in_flight >= self._finder.limit:
            self._finder.wanted()
            if now - self._synced_at >= KNOB_SECONDS:
                return self._try_sync() or Obstacle("", "", 0.0)
            return Obstacle("", "", KNOB_SECONDS)
        news = self._backoff.block is not None or self._backoff.clear
        due = now - self._synced_at >= KNOB_SECONDS or news
        if due or self._budget.short(ticket.need):
            # two may come together: the first in line asks for itself, the next for all that came meanwhile
            too_soon = 2 * SYNC_SECONDS - (now - self._synced_before)
            if too_soon > 0 and self._backoff.block is None:
                return Obstacle(*self._present(), wait=too_soon)
            failed = self._try_sync()
            if failed is not None:
                return failed
            now = time.monotonic()
        backoff = self._backoff
        if backoff.until is not None:
            if backoff.probing or now < backoff.until:
                return backoff.obstacle(backoff.until - now)
            if not self._budget.short(ticket.need):
                # half open: whoever wins the row's block sends the one probe
                failed = self._try_sync(claim=True)
                if failed is not None or backoff.until is None:
                    return failed
                if not backoff.probing:
                    return backoff.obstacle(backoff.until - time.monotonic())
        if not self._budget.short(ticket.need):
            return None
        capped = self._budget.over_cap(ticket.need)
        if capped is None:
            self._finder.starved()
        return capped or self._budget.too_slow(ticket.need, time.monotonic())

    def _present(self) -> tuple[str, str]:
        return ("", "") if self._obstacle is None else (self._obstacle[0].name, self._obstacle[0].detail)

    # ------------------------------------------------------------------------------------------------- outcomes

    def _done(self, slot: Slot, tokens: int, limits: RateLimits | None, seconds: float, measured: bool) -> None:
        with self._changed:
            self._budget.used(slot._reserved, slot._characters, tokens, measured=measured)
            now = time.monotonic()
            self._budget.learn(limits, now)
            self._finder.finished(now, tokens, seconds)
            self._tempo.answered(now, tokens, slot._began)
            self._backoff.well(probe=slot._probe)
            self._changed.notify_all()

    def _failed(self, slot: Slot, fault: ProviderFault) -> None:
        with self._changed:
            now = time.monotonic()
            self._tempo.replied(now, slot._began, timeout=fault.code == "timeout")
            if fault.code not in UNREFUNDED:
                self._budget.refund(slot._reserved)
            if fault.limits is not None:
                self._budget.learn(fault.limits, now)
            if fault.fault_class is not FaultClass.PROVIDER:
                self._backoff.well(probe=slot._probe)  # the provider is alive and answered
            else:
                limited = fault.code == "429"
                if limited:
                    self._budget.rejected(fault)
                    self._tempo.refused(now)
                if limited or fault.code == "timeout":
                    self._finder.trouble(now, limited=limited)
                self._backoff.trouble(fault, now, began=slot._began, probe=slot._probe)
            self._changed.notify_all()

    # ------------------------------------------------------------------------------------------------ the shared row

    def _try_sync(self, *, claim: bool = False) -> Obstacle | None:
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
        self._lost_until = time.monotonic() + KNOB_SECONDS
        return _LOST

    def _sync(self, *, claim: bool = False, giving_back: bool = False) -> None:
        """One statement; called with the lock held, which is let go while it runs."""
        while self._syncing:
            self._changed.wait(POLL_SECONDS)
        self._syncing = True
        needs = [ticket.need for ticket in self._line][: max(1, self._finder.limit - self._budget.in_flight)]
        # nothing is asked for by the first look, which reads the knobs
        nothing = giving_back or not self._knows_row
        asked = self._budget.claim(time.monotonic() - self._synced_at, needs, give_back=nothing)
        block, clear = self._backoff.take_news()
        news = _news(self._budget, asked, block, self._finder.limit, clear=clear, claim=claim)
        self._changed.release()
        pace = None
        try:
            pace = exchange(self._link.get(), self._migration, news)
        finally:
            self._changed.acquire()
            self._syncing = False
            self._synced_before, self._synced_at = self._synced_at, time.monotonic()
            if pace is None:
                self._budget.put_back(asked)
                self._backoff.put_back(block, clear)
            self._changed.notify_all()
        if pace is None:
            raise DatabaseError("The migration's pace is gone.", hint="Was the migration aborted?")
        self._knows_row = True
        self._finder.maximum = max(1, pace.max_concurrency)
        self._budget.merge(self._synced_at, pace, asked)
        self._backoff.merge(self._synced_at, pace)

    def close(self) -> None:
        """Give back what was leased and not used, and close the connection."""
        with self._changed:
            with suppress(DatabaseError, psycopg.Error):
                if self._knows_row:
                    self._sync(giving_back=True)
            self._link.drop()


def _since(name: str, *known: tuple[Obstacle, float, datetime] | None) -> tuple[float, datetime]:
    """Since when that is waited for: since one of those known, if it is of this name, else from now."""
    begun = (each[1:] for each in known if each is not None and each[0].name == name)
    return next(begun, (time.monotonic(), datetime.now(UTC)))


def _stalled(now: float, began: float, since: datetime, tempo: Tempo, backoff: Backoff, budget: Budget) -> Hold | None:
    """The hold while there have been but refusals since then; None where that is not long."""
    if now - began < STALL_SECONDS:
        return None
    block = backoff.obstacle(backoff.until - now) if backoff.until is not None else None
    if block is not None and block.name != "rate":  # a limit no more: now it is an outage
        return Hold(block.name, block.detail, since)
    why = block.detail if block is not None else ""
    return Hold("rate", f"{why} {tempo.said(now, budget)}".strip(), since)


def _news(budget: Budget, asked: Claim, block: Block | None, concurrency: int, *, clear: bool, claim: bool) -> PaceNews:
    """What a process tells of itself, and asks for, when it looks at the row."""
    return PaceNews(
        token_rate=budget.tokens.rate,
        request_rate=budget.requests.rate,
        burst=BURST_SECONDS,
        need=asked.need,
        price=budget.price,
        settle=asked.settle,
        tokens=asked.tokens,
        requests=asked.requests,
        rejected=asked.rejected,
        concurrency=concurrency,
        ratio=asked.ratio,
        block=block.seconds if block else None,
        why=block.why if block else "",
        probed=block is not None and block.probed,
        clear=clear,
        claim=claim,
        probe=PROBE_SECONDS,
    )


def in_line(pacer: Pacer) -> dict[str, str]:
    """By thread, what it waits for before its request may go, as a person would say it."""
    with pacer._lock:
        if pacer._obstacle is None:  # whoever came first is about to look
            return {}
        what = pacer._obstacle[0].limit or "its turn"
        return {ticket.thread: f"waiting for {what}" for ticket in pacer._line}
