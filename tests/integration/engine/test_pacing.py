"""Pacing: budgets, cap, concurrency and breaker; the finders in simulated time, the shared row on a real PostgreSQL."""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from embedtui.demo.database import EmbeddedServer
from embedtui.engine.backfill import pacing
from embedtui.engine.backfill import tempo as tempos
from embedtui.engine.backfill.backoff import Backoff
from embedtui.engine.backfill.budget import FORGOTTEN_SECONDS, Budget
from embedtui.engine.backfill.pacing import BURST_SECONDS, Pacer, in_line
from embedtui.engine.backfill.packing import UNCALIBRATED
from embedtui.engine.backfill.rate_learning import ConcurrencyFinder, RateLearner
from embedtui.errors import DatabaseError, EmbedtuiError, Interrupted
from embedtui.model import (
    EmbeddingModel,
    FaultClass,
)
from embedtui.postgres.state.migrations import create_migration
from embedtui.postgres.state.pace import exchange, unblock
from embedtui.postgres.state.schema import install
from embedtui.providers import ProviderFault, RateLimits
from tests.kits.samples import sample_migration
from tests.kits.support import connect, wait_for

# ---------------------------------------------------------------------------------------- rates, in simulated time


def test_a_known_limit_is_used_in_full() -> None:
    learner = RateLearner()
    assert learner.rate is None
    learner.limit(6000)
    assert learner.rate == 6000
    learner.limit(9000)
    learner.pressed(1)
    assert learner.rate == 9000
    learner.limit(None)
    assert learner.rate is None


def test_a_rejection_takes_a_little_off_a_known_limit_and_it_recovers_under_pressure_only() -> None:
    learner = RateLearner()
    learner.limit(1000)
    learner.rejected(10, 0)
    learner.rejected(10.5, 0)  # in flight together with the first: the same event
    assert learner.rate == pytest.approx(950)
    learner.pressed(1000)  # at most a second's growth: nobody was waiting before
    assert learner.rate == pytest.approx(951, abs=0.1)
    for second in range(1001, 1100):
        learner.pressed(second)
    assert learner.rate == 1000
    for second in range(2000, 3000, 2):
        learner.rejected(second, 0)
    assert learner.rate == pytest.approx(50)


@pytest.mark.parametrize("burst", [5, 60])
@pytest.mark.parametrize("limit", [100_000, 6_000_000])
def test_an_unknown_limit_is_measured_from_rejections(limit: int, burst: int) -> None:
    """A simulated server that only ever says 429: its quota is used, and hardly a request is rejected."""
    learner = RateLearner()
    size = limit / 600  # ten requests a second would be the limit
    level, capacity = limit * burst / 60, limit * burst / 60
    ours, accepted, sent, rejected, blocked = 0.0, 0.0, 0, 0, 0.0
    measured_from = (0.0, 0, 0)
    learner.observed(0, 0)
    step, end, warm = 0.02, 1800, 600
    for tick in range(int(end / step)):
        now = tick * step
        if now == warm:
            measured_from = (accepted, sent, rejected)
        level = min(capacity, level + limit / 60 * step)
        ours = min(ours + (learner.rate or limit * 4) / 60 * step, size * 2)
        if now < blocked:
            continue
        if ours < size:
            learner.pressed(now)
            continue
        ours -= size
        sent += 1
        if level >= size:
            level -= size
            accepted += size
        else:
            rejected += 1
            learner.rejected(now, accepted)
            blocked = now + 0.75
    used = (accepted - measured_from[0]) / (limit / 60 * (end - warm))
    assert used >= 0.95
    assert (rejected - measured_from[2]) / (sent - measured_from[1]) <= 0.01


class Quota:
    """A server with a bucket of requests, which says 429 and nothing else, and one process that always has work."""

    def __init__(self, per_minute: float, burst: float) -> None:
        self.learner = RateLearner()
        self.learner.observed(0, 0)
        self.per_minute, self.burst = per_minute, burst
        self.now = self.accepted = self.ours = self.level = self.blocked = 0.0
        self.rejected = self.sent = 0

    def run(self, seconds: float, until: float = math.inf) -> float:
        """Work so long, or until the pace is ``until``; the seconds that took."""
        began, step = self.now, 0.02
        while self.now < began + seconds and (self.learner.rate or 0) < until:
            self.now += step
            self.level = min(self.per_minute * self.burst / 60, self.level + self.per_minute / 60 * step)
            rate = self.learner.rate or 1e4
            self.ours = min(self.ours + rate / 60 * step, max(2.0, rate / 30))
            if self.now < self.blocked:
                continue
            while self.ours >= 1 and self.now >= self.blocked:
                self.ours, self.sent = self.ours - 1, self.sent + 1
                if self.level >= 1:
                    self.level, self.accepted = self.level - 1, self.accepted + 1
                else:
                    self.rejected += 1
                    self.learner.rejected(self.now, self.accepted)
                    self.blocked = self.now + 0.75
            self.learner.pressed(self.now)
        return self.now - began


@settings(max_examples=12, deadline=None)
@example(before=20.0, factor=2.0, burst=60.0, minutes=6)
@given(
    before=st.floats(20, 600), factor=st.floats(1.5, 100), burst=st.sampled_from((5.0, 60.0)), minutes=st.integers(2, 6)
)
def test_a_limit_that_is_lifted_is_found_again_within_a_minute(
    before: float, factor: float, burst: float, minutes: int
) -> None:
    quota = Quota(before, burst)
    quota.run(minutes * 60)
    for _ in range(60):  # at a slow limit it is at times above it, until it is refused once more
        if (quota.learner.rate or math.inf) <= 1.5 * before:
            break
        quota.run(1)
    assert (quota.learner.rate or math.inf) <= 1.5 * before
    quota.per_minute = before * factor
    assert quota.run(90, until=0.9 * before * factor) <= 60


def test_a_limit_that_stands_is_not_run_into_more_often_for_that() -> None:
    quota = Quota(300, 5)
    quota.run(300)
    sent, rejected = quota.sent, quota.rejected
    quota.run(900)
    assert (quota.rejected - rejected) / (quota.sent - sent) <= 0.015


def test_a_known_limit_comes_back_within_a_minute_however_low_rejections_brought_it() -> None:
    learner = RateLearner()
    learner.limit(1000)
    for second in range(0, 400, 2):
        learner.rejected(second, 0)
    assert learner.rate == pytest.approx(50)
    for tick in range(4000, 4600):
        learner.pressed(tick / 10)
    assert learner.rate == 1000


# ------------------------------------------------------------------------------------ concurrency, in simulated time


def drive(finder: ConcurrencyFinder, seconds: float, useful: int, now: float = 0.0) -> float:
    """A provider with 0.2 s a request that serves up to ``useful`` requests at once; returns the time at the end."""
    end = now + seconds
    while now < end:
        finder.wanted()
        now += 0.2 / min(finder.limit, useful)
        finder.finished(now, 1000)
    return now


@pytest.mark.parametrize(("useful", "low", "high"), [(64, 32, 32), (12, 9, 13), (4, 4, 4), (1, 4, 4)])
def test_concurrency_grows_while_throughput_does(useful: int, low: int, high: int) -> None:
    finder = ConcurrencyFinder()
    finder.maximum = 32
    now = drive(finder, 60, useful)
    seen = set()
    for _ in range(100):  # a trial beyond is taken back
        now = drive(finder, 0.5, useful, now)
        seen.add(finder.limit)
    assert low <= min(seen) <= high
    assert max(seen) <= 32


def test_the_first_request_goes_alone() -> None:
    finder = ConcurrencyFinder()
    assert finder.limit == 1
    finder.finished(1.0, 10)
    assert finder.limit == 4


def test_concurrency_shrinks_in_trouble_and_comes_back() -> None:
    finder = ConcurrencyFinder()
    finder.maximum = 16
    now = drive(finder, 60, 100)
    assert finder.limit == 16
    for late in range(5):
        finder.trouble(now + late / 10)
    assert finder.limit == 11
    finder.trouble(now + 1.5)
    assert finder.limit == 7
    now = drive(finder, 60, 100, now + 2)
    assert finder.limit == 16
    finder.maximum = 3
    assert finder.limit == 3


def test_a_429_is_about_the_rate_and_leaves_a_working_concurrency() -> None:
    finder = ConcurrencyFinder()
    finder.maximum = 16
    finder.finished(0, 1)
    for second in range(10):
        finder.trouble(float(second), limited=True)
    assert finder.limit == 4
    for second in range(10, 20):
        finder.trouble(float(second))
    assert finder.limit == 1


def test_a_window_short_of_budget_says_nothing_about_concurrency() -> None:
    finder = ConcurrencyFinder()
    finder.maximum = 16
    now = drive(finder, 2.5, 100)
    trial = finder.limit
    assert trial > 4
    for _ in range(100):  # the budget binds: no more throughput, yet no verdict
        now += 0.2
        finder.wanted()
        finder.starved()
        finder.finished(now, 1000)
    assert finder.limit >= trial


def test_concurrency_nobody_asks_for_does_not_grow() -> None:
    finder = ConcurrencyFinder()
    finder.maximum = 32
    for tick in range(1000):
        finder.finished(tick / 10, 1000)
    assert finder.limit == 4


# ----------------------------------------------------------------------------------------------------- the shared row


class Kit:
    """A migration's pace row, and pacers on it that are closed at the end."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.conn = connect(dsn, name="test")
        install(self.conn)
        model = EmbeddingModel("m", 8, price_per_million=1e6)  # a token costs one
        self.migration = create_migration(self.conn, sample_migration(old_model=model, new_model=model))
        self.pacers: list[Pacer] = []
        self.stop = threading.Event()

    def pacer(self, **changes: Any) -> Pacer:
        model = replace(self.migration.new_model, **changes)
        self.pacers.append(Pacer(self.dsn, replace(self.migration, new_model=model)))
        return self.pacers[-1]

    def row(self, column: str) -> Any:
        found = self.conn.execute(f"SELECT {column} FROM embedtui.pace").fetchone()
        assert found is not None
        return found[0]

    def set(self, assignment: str) -> None:
        self.conn.execute(f"UPDATE embedtui.pace SET {assignment}")

    def request(self, pacer: Pacer, tokens: int = 100, *, limits: RateLimits | None = None) -> None:
        """A request that succeeds, of texts of four characters a token."""
        with pacer.slot(tokens * 4, 1, self.stop) as slot:
            slot.done(tokens, limits, 0.1)

    def fail(self, pacer: Pacer, fault: ProviderFault, tokens: int = 100) -> None:
        with pacer.slot(tokens * 4, 1, self.stop) as slot:
            slot.failed(fault)

    def close(self) -> None:
        self.stop.set()
        for pacer in self.pacers:
            pacer.close()
        self.conn.close()


@pytest.fixture
def kit(database: str) -> Iterator[Kit]:
    made = Kit(database)
    yield made
    made.close()


class Waiter:
    """A thread that wants one slot, holds it until told, and then ends as told."""

    def __init__(self, kit: Kit, pacer: Pacer, tokens: int = 100, *, urgent: bool = False) -> None:
        self.entered, self.leave, self.interrupted = threading.Event(), threading.Event(), False
        self.fault: ProviderFault | None = None

        def run() -> None:
            try:
                with pacer.slot(tokens * 4, 1, kit.stop, urgent=urgent) as slot:
                    self.entered.set()
                    self.leave.wait(60)
                    if self.fault is None:
                        slot.done(tokens, None, 0.1)
                    else:
                        slot.failed(self.fault)
            except Interrupted:
                self.interrupted = True

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def end(self) -> None:
        self.leave.set()
        self.thread.join()


def provider_fault(code: str = "503", retry_after: float | None = None) -> ProviderFault:
    return ProviderFault(FaultClass.PROVIDER, code, f"{code}: trouble.", retry_after=retry_after)


def test_edits_do_not_take_every_request_where_these_are_scarce(kit: Kit) -> None:
    kit.set("max_concurrency = 1")
    pacer = kit.pacer()
    kit.request(pacer)  # the row is known

    def waiting(number: int, *, urgent: bool = False) -> Waiter:
        made = Waiter(kit, pacer, urgent=urgent)
        wait_for(lambda: len(pacer._line) == number, "it waits")
        return made

    first = Waiter(kit, pacer)
    wait_for(first.entered.is_set, "the first goes")
    one, two = waiting(1), waiting(2)
    edit = waiting(3, urgent=True)
    first.end()
    wait_for(edit.entered.is_set, "an edit goes before what waits")
    again = waiting(3, urgent=True)
    edit.end()
    wait_for(one.entered.is_set, "then one that waits")
    assert not again.entered.is_set()
    one.end()
    wait_for(again.entered.is_set, "then the next edit")
    assert not two.entered.is_set()
    again.end()
    two.end()


def test_what_is_spent_is_what_the_provider_counted(kit: Kit) -> None:
    pacer = kit.pacer()
    for tokens in (100, 250, 7):
        kit.request(pacer, tokens)
    with pacer.slot(4000, 1, kit.stop):
        pass  # left without a word: as if never asked
    pacer.close()
    assert kit.row("spent_tokens") == 357
    assert kit.row("requests") == 3
    assert kit.row("rejected") == 0
    assert kit.row("blocked_until") is None


def test_many_threads_of_many_processes_lose_no_token(kit: Kit) -> None:
    kit.set("max_concurrency = 16")
    pacers = [kit.pacer() for _ in range(3)]

    def work(pacer: Pacer, seed: int) -> None:
        for number in range(30):
            kit.request(pacer, 10 + (seed * 7 + number) % 90)

    threads = [threading.Thread(target=work, args=(pacers[n % 3], n)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pacer in pacers:
        pacer.close()
    assert kit.row("spent_tokens") == sum(10 + (seed * 7 + n) % 90 for seed in range(12) for n in range(30))
    assert kit.row("requests") == 12 * 30


def test_characters_per_token_are_calibrated_and_shared(kit: Kit) -> None:
    first, second = kit.pacer(), kit.pacer()
    assert first.characters_per_token == UNCALIBRATED
    with first.slot(5000, 10, kit.stop) as slot:
        slot.done(1000, None, 0.1)
    assert first.characters_per_token == 5
    with first.slot(5000, 10, kit.stop) as slot:
        slot.done(9999, None, 0.1, measured=False)
    first.close()
    assert kit.row("characters_per_token") == 5
    kit.request(second)
    assert second.characters_per_token == 5


def test_the_budget_is_shared_and_kept(kit: Kit) -> None:
    """Whatever the interleaving, all processes together never get more than the rate and the burst allow."""
    kit.set("tokens_per_minute = 60000, max_concurrency = 8")
    began = time.monotonic()
    pacers = [kit.pacer(), kit.pacer()]
    granted: list[int] = []
    ended = threading.Event()

    def work(pacer: Pacer) -> None:
        while not ended.is_set():
            kit.request(pacer, 50)
            granted.append(50)

    threads = [threading.Thread(target=work, args=(pacer,)) for pacer in pacers for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(granted) >= 60)
    ended.set()
    for thread in threads:
        thread.join()
    # the pacers read the knob before they grant anything, so nothing went out unpaced
    assert sum(granted) <= 1000 * (time.monotonic() - began + BURST_SECONDS)
    assert pacers[0]._budget.tokens.rate == 60000


def test_requests_are_paced_too(kit: Kit) -> None:
    kit.set("requests_per_minute = 1200")
    pacer = kit.pacer()
    began = time.monotonic()
    for _ in range(30):
        kit.request(pacer)
    assert kit.row("requests") >= 30
    assert kit.row("requests") <= 20 * (time.monotonic() - began + BURST_SECONDS)


def test_limits_are_learnt_from_headers_unless_the_operator_set_them(kit: Kit) -> None:
    pacer = kit.pacer()
    kit.request(pacer, limits=RateLimits(limit_tokens=5_000_000, limit_requests=3000))
    budget = pacer._budget
    assert (budget.tokens.rate, budget.requests.rate) == (5_000_000, 3000)
    kit.set("tokens_per_minute = 700000")
    pacer._synced_at = float("-inf")  # as if a second had passed
    kit.request(pacer, limits=RateLimits(limit_tokens=5_000_000))
    assert (budget.tokens.rate, budget.requests.rate) == (700_000, 3000)


def test_a_limit_that_no_reply_tells_any_more_is_forgotten() -> None:
    budget = Budget(None)
    budget.learn(RateLimits(limit_requests=30), 100.0)
    budget.learn(None, 101.0)
    assert budget.requests.rate == 30, "one reply without a word of it"
    budget.learn(RateLimits(limit_requests=30), 115.0)
    budget.learn(None, 115.0 + FORGOTTEN_SECONDS)
    assert budget.requests.rate == 30
    budget.learn(None, 115.5 + FORGOTTEN_SECONDS)
    assert budget.requests.rate is None
    budget.learn(RateLimits(limit_requests=600), 200.0)
    assert budget.requests.rate == 600


@pytest.mark.parametrize(("code", "longest"), [("connection", 4.0), ("429", 8.0), ("503", 30.0), ("timeout", 30.0)])
def test_however_long_an_outage_lasts_its_end_is_found_soon(code: str, longest: float) -> None:
    backoff, now = Backoff(), 0.0
    for _ in range(12):
        backoff.trouble(provider_fault(code), now, began=now, probe=True)
        assert backoff.until is not None and 0 < backoff.until - now <= longest
        assert backoff.block is not None and backoff.block.seconds <= longest
        backoff.take_news()
        now = backoff.until
    backoff.trouble(provider_fault(code, retry_after=900), now, began=now, probe=True)
    assert backoff.until is not None and backoff.until - now >= 900, "what it asks for is kept to"


def test_a_request_larger_than_the_burst_gets_its_turn(kit: Kit) -> None:
    kit.set("tokens_per_minute = 60000")
    pacer = kit.pacer()
    kit.request(pacer, 3000)
    pacer.close()
    assert kit.row("spent_tokens") == 3000


def pass_time(kit: Kit, seconds: float) -> None:
    """As if so long had passed for the row."""
    kit.set(f"filled_at = filled_at - make_interval(secs => {seconds})")


class Storm:
    """One process's budget on the real row, in simulated time, at a provider that does as told."""

    def __init__(self, kit: Kit) -> None:
        self.kit, self.budget = kit, Budget(1e6)
        self.now, self.synced_at, self.charged = 0.0, -math.inf, 0

    def pass_(self, seconds: float) -> None:
        self.now += seconds
        pass_time(self.kit, seconds)

    def sync(self, *needs: int, give_back: bool = False) -> None:
        nothing = give_back or math.isinf(self.synced_at)
        asked = self.budget.claim(self.now - self.synced_at, needs, give_back=nothing)
        news = pacing._news(self.budget, asked, None, 16, clear=False, claim=False)
        pace = exchange(self.kit.conn, self.kit.migration.id, news)
        assert pace is not None
        self.synced_at = self.now
        self.budget.merge(self.now, pace, asked)

    def let_go(self, need: int) -> float:
        """Wait until a request of so many tokens may go; the seconds that took."""
        began = self.now
        self.sync(need)
        self.sync(need)  # the first may have told of a 429, or read the knobs
        while self.budget.short(need):
            assert self.now - began < 300, f"held for ever, at {self.budget.tokens.rate} tokens a minute"
            self.budget.too_slow(need, self.now)
            self.pass_(0.5)
            self.sync(need)
        self.budget.reserve(need)
        return self.now - began

    def do(self, act: str, tokens: int, seconds: float) -> None:
        if act == "rest":
            self.pass_(seconds * 60)
            return
        need = self.budget.estimate(tokens * 4, 1)
        self.let_go(need)
        self.pass_(min(seconds, 2.0))
        if act == "answered":
            self.budget.used(need, tokens * 4, tokens, measured=True)
            self.charged += tokens
        elif act == "timeout":
            self.charged += need
        else:
            self.budget.refund(need)
        self.budget.release(need, self.now, unused=False)
        if act == "429":
            about = ("TPM", "RPM", "")[tokens % 3]
            self.budget.rejected(ProviderFault(FaultClass.PROVIDER, "429", f"429: {about}."))
            self.sync(1)
            self.pass_(seconds)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(acts=[("answered", 30, 1.0), ("rest", 1, 180.0), ("429", 30, 0.1), ("answered", 30, 1.0)], need=40_000)
@given(
    acts=st.lists(
        st.tuples(
            st.sampled_from(("answered", "answered", "429", "429", "503", "timeout", "rest")),
            st.integers(1, 20_000),
            st.floats(0.05, 8.0),
        ),
        min_size=3,
        max_size=40,
    ),
    need=st.integers(1, 300_000),
)
def test_no_storm_leaves_a_hold_behind_that_does_not_end(
    kit: Kit, acts: list[tuple[str, int, float]], need: int
) -> None:
    """Whatever came before: a request goes within minutes, at once after a rest that refilled it, no token is lost."""
    kit.set("token_level = 0, request_level = 0, spent_tokens = 0, requests = 0, rejected = 0, filled_at = now()")
    storm = Storm(kit)
    for act in acts:
        storm.do(*act)
    assert storm.let_go(need) <= 90, "a limit that was learnt is found to be lifted within a minute and a half"
    storm.budget.release(need, storm.now, unused=True)
    storm.sync(give_back=True)
    assert storm.budget.in_flight == 0
    assert kit.row("spent_tokens") == pytest.approx(storm.charged, abs=1)
    rate = storm.budget.tokens.rate
    if rate is not None:
        storm.pass_(need * 60 / rate + 60)
        assert storm.let_go(need) == 0, "it was refilled meanwhile"


@pytest.mark.parametrize("act", ["rest", "reply"])
def test_a_limit_is_not_learnt_from_a_rest(kit: Kit, act: str) -> None:
    """The first 429 after hours with an edit now and then: they say nothing of what the provider takes."""
    storm = Storm(kit)
    storm.do("answered", 100, 1.0)
    if act == "rest":
        storm.do("rest", 1, 180.0)
    for _ in range(10):
        storm.do("answered", 2000, 1.0)
    if act == "reply":  # a provider that takes long for each is no rest
        storm.let_go(100)
        storm.pass_(60)
        storm.sync(1)
        storm.budget.release(100, storm.now, unused=False)
    storm.do("429", 2000, 1.0)
    rate = storm.budget.tokens.rate
    assert rate == pytest.approx(20_000 / (12 if act == "rest" else 72) * 60 / 2, rel=0.2)


def test_a_limit_below_a_token_in_the_burst_still_lets_requests_go(kit: Kit) -> None:
    kit.set("tokens_per_minute = 20")
    pacer = kit.pacer()
    waiter = Waiter(kit, pacer, 10)
    wait_for(lambda: pacer.hold is not None)
    pass_time(kit, 60)
    assert waiter.entered.wait(20)
    waiter.end()


def held(pacer: Pacer) -> datetime:
    """Since when requests wait, once that is told."""
    wait_for(lambda: pacer.hold)
    hold = pacer.hold
    assert hold is not None and hold.since is not None
    return hold.since


def test_a_wait_of_long_ago_is_none_of_the_present_one(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.set("tokens_per_minute = 600")
    pacer = kit.pacer()
    stop, given_up = threading.Event(), threading.Event()

    def wait() -> None:
        with contextlib.suppress(Interrupted), pacer.slot(4000, 1, stop):
            pass
        given_up.set()

    threading.Thread(target=wait).start()
    held(pacer)
    stop.set()
    assert given_up.wait(20)
    later = datetime.now(UTC)
    waiter = Waiter(kit, pacer, 2000)
    assert held(pacer) >= later, "the former was given up"
    pass_time(kit, 300)
    assert waiter.entered.wait(20)
    waiter.end()
    monkeypatch.setattr(tempos, "RECENT_SECONDS", -1.0)
    later = datetime.now(UTC)
    waiter = Waiter(kit, pacer, 4000)
    assert held(pacer) >= later, "the former ended, long ago"
    pass_time(kit, 600)
    waiter.end()


def test_stop_ends_a_wait_and_no_transaction_is_open_during_it(kit: Kit) -> None:
    kit.set("tokens_per_minute = 1")
    pacer = kit.pacer()
    waiter = Waiter(kit, pacer)
    wait_for(lambda: pacer.hold is not None)
    hold = pacer.hold
    assert hold is not None
    assert (hold.name, hold.detail) == ("pace", "Waits for the limit of 1 tokens a minute.")
    assert in_line(pacer) == {waiter.thread.name: "waiting for the limit of 1 tokens a minute"}
    states = kit.conn.execute(
        "SELECT DISTINCT xact_start IS NULL OR state <> 'idle in transaction' FROM pg_stat_activity"
        " WHERE application_name = 'embedtui/pace'"
    ).fetchall()
    assert states == [(True,)]
    kit.stop.set()
    waiter.thread.join()
    assert waiter.interrupted
    assert not waiter.entered.is_set()
    assert pacer.hold is None


def test_knobs_turn_while_it_runs(kit: Kit) -> None:
    kit.set("tokens_per_minute = 1, max_concurrency = 6")
    pacer = kit.pacer()
    waiter = Waiter(kit, pacer)
    assert pacer.max_concurrency == 6
    kit.set("tokens_per_minute = NULL, max_concurrency = 2")
    wait_for(waiter.entered.is_set)
    assert pacer.max_concurrency == 2
    waiter.end()
    assert pacer.concurrency == 2


# ------------------------------------------------------------------------------------------------------- spend cap


def test_the_spend_cap_holds_is_named_survives_and_can_be_raised(kit: Kit) -> None:
    kit.set("spend_cap = 1000, characters_per_token = 4, max_concurrency = 8")
    spent: list[int] = []

    def work(pacer: Pacer) -> None:
        try:
            while True:
                kit.request(pacer, 90)
                spent.append(90)
        except Interrupted:
            pass

    pacers = [kit.pacer(), kit.pacer()]
    threads = [threading.Thread(target=work, args=(pacer,)) for pacer in pacers for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: all(pacer.hold is not None and pacer.hold.name == "spend_cap" for pacer in pacers))
    kit.stop.set()
    for thread in threads:
        thread.join()
    assert 600 <= sum(spent) <= 1000
    for pacer in pacers:
        pacer.close()
    assert kit.row("spent_tokens") == sum(spent)

    kit.stop.clear()
    again = kit.pacer()  # as after a restart
    waiter = Waiter(kit, again, 500)
    wait_for(lambda: again.hold is not None)
    hold = again.hold
    assert hold is not None
    assert hold.name == "spend_cap"
    assert f"${sum(spent)}.00 of $1,000" in hold.detail
    assert not waiter.entered.is_set()
    kit.set("spend_cap = 2000")
    wait_for(waiter.entered.is_set)
    waiter.end()


def test_without_a_price_a_cap_lets_nothing_through(kit: Kit) -> None:
    kit.set("spend_cap = 1000")
    pacer = kit.pacer(price_per_million=None)
    waiter = Waiter(kit, pacer)
    wait_for(lambda: pacer.hold is not None)
    hold = pacer.hold
    assert hold is not None
    assert hold.name == "spend_cap"
    assert "price" in hold.detail
    kit.stop.set()
    waiter.thread.join()
    assert waiter.interrupted


def test_a_free_model_needs_no_cap(kit: Kit) -> None:
    kit.set("spend_cap = 1")
    kit.request(kit.pacer(price_per_million=0.0), 5000)
    assert kit.row("requests") == 1


@pytest.mark.parametrize(
    ("fault", "spent"),
    [
        (provider_fault("503"), 0),
        (provider_fault("429"), 0),
        (provider_fault("timeout"), 133 + 1),
        (provider_fault("bad_reply"), 133 + 1),
        (ProviderFault(FaultClass.ROW, "400", "400: rejected"), 0),
        (ProviderFault(FaultClass.CONFIGURATION, "401", "401: bad key"), 0),
    ],
)
def test_what_a_failed_request_may_have_cost_stays_spent(kit: Kit, fault: ProviderFault, spent: int) -> None:
    pacer = kit.pacer()
    kit.fail(pacer, fault)
    pacer.close()
    # uncalibrated: 400 characters at three a token, and one for the input
    assert kit.row("spent_tokens") == (0 if spent == 0 else -(-400 // 3) + 1)
    assert kit.row("requests") == 1
    assert kit.row("rejected") == (1 if fault.code == "429" else 0)


# --------------------------------------------------------------------------------------------------- outages


def test_retry_after_is_kept_by_every_process_however_long(kit: Kit) -> None:
    first, second = kit.pacer(), kit.pacer()
    kit.request(first)
    kit.request(second)
    kit.fail(first, provider_fault("429", retry_after=3600))
    waiters = [Waiter(kit, first), Waiter(kit, second)]
    wait_for(lambda: first.hold is not None and second.hold is not None)
    for pacer in (first, second):
        assert pacer.hold is not None
        assert pacer.hold.name == "rate" and "429: trouble" in pacer.hold.detail
    assert kit.row("blocked_until BETWEEN now() + '59 min' AND now() + '70 min'")
    assert not any(waiter.entered.is_set() for waiter in waiters)
    # an operator who knows better
    unblock(kit.conn, kit.migration.id)
    wait_for(lambda: all(waiter.entered.is_set() for waiter in waiters))
    for waiter in waiters:
        waiter.end()
    assert first.hold is None


def test_faults_in_a_row_open_the_breaker_single_ones_do_not(kit: Kit) -> None:
    pacer = kit.pacer()
    for _ in range(3):
        kit.fail(pacer, provider_fault())
        kit.fail(pacer, provider_fault())
        kit.request(pacer)
    assert kit.row("blocked_until") is None
    kit.fail(pacer, provider_fault())
    kit.fail(pacer, provider_fault())
    kit.fail(pacer, provider_fault("timeout"))
    waiter = Waiter(kit, pacer)
    wait_for(lambda: kit.row("blocked_until") is not None)
    hold = pacer.hold
    assert hold is None or hold.name == "provider"  # None: the probe is on its way already
    wait_for(waiter.entered.is_set)
    waiter.end()
    kit.request(pacer)
    assert kit.row("blocked_until") is None


def blocked(kit: Kit, pacers: list[Pacer]) -> list[Waiter]:
    """Four threads of each pacer behind an open breaker."""
    for pacer in pacers:
        kit.request(pacer)
    kit.fail(pacers[0], provider_fault("503", retry_after=3600))
    waiters = [Waiter(kit, pacer) for pacer in pacers for _ in range(4)]
    wait_for(lambda: all(pacer.hold is not None and pacer.hold.name == "provider" for pacer in pacers))
    return waiters


def test_one_probe_of_all_processes_closes_the_breaker(kit: Kit) -> None:
    pacers = [kit.pacer(), kit.pacer()]
    waiters = blocked(kit, pacers)
    kit.set("blocked_until = clock_timestamp()")
    wait_for(lambda: any(waiter.entered.is_set() for waiter in waiters))
    # each pacer has looked at the row since
    requests = kit.row("(SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'pace')")
    wait_for(lambda: kit.row("(SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'pace')") >= requests + 4)
    assert sum(waiter.entered.is_set() for waiter in waiters) == 1
    for waiter in waiters:
        waiter.leave.set()
    wait_for(lambda: all(waiter.entered.is_set() for waiter in waiters))
    for waiter in waiters:
        waiter.end()
    for pacer in pacers:
        pacer.close()
    assert kit.row("blocked_until") is None
    assert kit.row("blocked_why") == ""


def test_a_failed_probe_blocks_for_longer_and_lets_nobody_else_through(kit: Kit) -> None:
    pacers = [kit.pacer(), kit.pacer()]
    waiters = blocked(kit, pacers)
    kit.set("blocked_until = clock_timestamp()")
    wait_for(lambda: any(waiter.entered.is_set() for waiter in waiters))
    (probe,) = (waiter for waiter in waiters if waiter.entered.is_set())
    probe.fault = provider_fault("503", retry_after=30)
    probe.end()
    # its own block, neither the claim's (90 s) nor the one before
    wait_for(lambda: kit.row("blocked_until BETWEEN now() + '10 s' AND now() + '40 s'"))
    assert sum(waiter.entered.is_set() for waiter in waiters) == 1
    kit.stop.set()
    for waiter in waiters:
        waiter.end()


def test_a_dead_provider_costs_a_handful_of_requests(kit: Kit) -> None:
    """Everything fails while the breaker's backoff passes five times over; the number of requests stays small."""
    kit.set("max_concurrency = 8")
    pacer = kit.pacer()
    kit.request(pacer)
    failed = 0
    for _ in range(8):
        kit.fail(pacer, provider_fault())
        failed += 1
        if pacer._backoff.until is not None:
            break
    assert failed == 3
    for _ in range(4):
        waiter = Waiter(kit, pacer)
        wait_for(lambda: kit.row("blocked_until") is not None)
        kit.set("blocked_until = clock_timestamp()")
        waiter.fault = provider_fault()
        wait_for(waiter.entered.is_set)
        waiter.end()
        failed += 1
        assert pacer._backoff.until is not None
    assert failed == 7
    assert pacer._backoff.blocks == 5


def test_the_first_request_goes_alone_so_a_bad_key_costs_one(kit: Kit) -> None:
    kit.set("max_concurrency = 8")
    pacer = kit.pacer()
    waiters = [Waiter(kit, pacer) for _ in range(6)]
    wait_for(lambda: any(waiter.entered.is_set() for waiter in waiters))
    statements = "(SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'pace')"
    before = kit.row(statements)
    wait_for(lambda: kit.row(statements) > before + 1)
    (first,) = (waiter for waiter in waiters if waiter.entered.is_set())
    first.end()
    wait_for(lambda: all(waiter.entered.is_set() for waiter in waiters))
    for waiter in waiters:
        waiter.leave.set()
    for waiter in waiters:
        waiter.end()


@pytest.mark.parametrize("fault_class", [FaultClass.ROW, FaultClass.CONFIGURATION])
def test_other_classes_block_nobody(kit: Kit, fault_class: FaultClass) -> None:
    pacer = kit.pacer()
    for _ in range(5):
        kit.fail(pacer, ProviderFault(fault_class, "400", "400: no"))
    kit.request(pacer)
    assert kit.row("blocked_until") is None


# ---------------------------------------------------------------------------------------------------- the database


def test_a_lost_connection_is_waited_out(kit: Kit) -> None:
    pacer = kit.pacer()
    kit.request(pacer)
    kit.conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'embedtui/pace'")
    for _ in range(3):
        kit.request(pacer, 5000)  # more than is leased ahead
    pacer.close()
    assert kit.row("spent_tokens") == 15_100


def test_a_dead_database_is_named_and_waited_for() -> None:
    with tempfile.TemporaryDirectory(prefix="embedtui-test-") as folder, EmbeddedServer(Path(folder) / "pg") as server:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
        kit = Kit(server.dsn("postgres"))
        pacer = kit.pacer()
        kit.request(pacer)
        server.crash()
        waiter = Waiter(kit, pacer, 5000)  # more than is leased ahead
        wait_for(lambda: pacer.hold is not None)
        hold = pacer.hold
        assert hold is not None
        assert hold.name == "database"
        server.start()
        wait_for(waiter.entered.is_set)
        waiter.end()
        pacer.close()
        kit.conn.close()
        kit.conn = connect(kit.dsn, name="test")
        assert kit.row("spent_tokens") == 5100
        kit.close()


def test_a_missing_row_is_an_error(kit: Kit) -> None:
    kit.conn.execute("DELETE FROM embedtui.pace")
    with pytest.raises(DatabaseError, match="pace"):
        kit.request(kit.pacer())


def test_a_missing_table_is_an_error(kit: Kit) -> None:
    kit.conn.execute("ALTER TABLE embedtui.pace RENAME TO pace_gone")
    with pytest.raises(EmbedtuiError, match="prepared"):
        kit.request(kit.pacer())


def test_a_stall_by_429_is_shown_with_the_pace_now_and_the_pace_found(kit: Kit) -> None:
    kit.set("requests_per_minute = 1200")
    pacer = kit.pacer()
    for _ in range(3):
        kit.request(pacer, 100)
    waiter = Waiter(kit, pacer)
    waiter.entered.wait(30)
    assert pacer.in_flight == 1, "on the wire, whatever is allowed"
    waiter.fault = provider_fault("429")
    waiter.end()
    again = Waiter(kit, pacer)  # a probe is on the wire, and others wait behind it
    try:
        wait_for(lambda: pacer.hold is not None)
        hold = pacer.hold
        assert hold is not None and hold.name == "rate"
        assert re.search(r" Now \d+ requests and \d[\d,]* tokens a minute; found: 1,\d{3} requests", hold.detail)
        assert (datetime.now(UTC) - hold.since).total_seconds() < 30 if hold.since else False
        again.fault = provider_fault("503")
        again.end()
        again = Waiter(kit, pacer)
        wait_for(lambda: pacer.hold is not None and pacer.hold.name == "provider")
    finally:
        again.end()
    assert pacer.hold is None, "answered: no stall any more"
    assert pacer.in_flight == 0


def test_a_pace_so_slow_that_each_waits_is_one_hold_and_not_many(kit: Kit) -> None:
    kit.set("requests_per_minute = 25")
    pacer, done = kit.pacer(), threading.Event()
    answered: list[int] = []

    def feed() -> None:
        with contextlib.suppress(Interrupted):
            while not done.is_set():
                kit.request(pacer)
                answered.append(1)

    feeders = [threading.Thread(target=feed) for _ in range(2)]
    for feeder in feeders:
        feeder.start()
    try:
        wait_for(lambda: pacer.hold)
        first = pacer.hold
        many = len(answered) + 3
        wait_for(lambda: len(answered) >= many and pacer.hold)
        later = pacer.hold
        assert first is not None and later is not None
        assert (later.name, later.since) == ("pace", first.since)
    finally:
        done.set()
        kit.stop.set()
        for feeder in feeders:
            feeder.join()


def test_a_429_among_answers_is_no_stall(kit: Kit) -> None:
    pacer = kit.pacer()
    kit.request(pacer)
    kit.fail(pacer, provider_fault("429", retry_after=0.0))
    assert pacer.hold is None, "none waits, nothing is on the wire"
    kit.request(pacer)
    waiter = Waiter(kit, pacer)
    waiter.entered.wait(30)
    assert pacer.hold is None
    waiter.end()


# ------------------------------------------------------------------------------------------------ a provider that hangs


def test_requests_without_any_reply_are_named_until_there_is_one(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempos, "SILENT_SECONDS", 0.4)
    pacer = kit.pacer()
    kit.request(pacer)  # the row is known
    first, second = Waiter(kit, pacer), Waiter(kit, pacer)
    began = datetime.now(UTC)
    assert first.entered.wait(5) and second.entered.wait(5)
    assert pacer.hold is None, "a request takes its time"
    wait_for(lambda: pacer.hold is not None, "it is named")
    held = pacer.hold
    assert held is not None and held.name == "provider" and held.since is not None
    assert abs((held.since - began).total_seconds()) < 0.3, "since they were sent"
    assert re.fullmatch(r"2 requests unanswered; no reply for \d+ s \(time-out 60 s\)\.", held.detail), held.detail
    first.fault = provider_fault("timeout")
    first.end()
    held = pacer.hold
    assert held is not None and held.detail.startswith("1 request unanswered"), "a time-out is no reply"
    third = Waiter(kit, pacer)
    assert third.entered.wait(5)
    second.end()
    assert pacer.hold is None, "a reply ends it at once, whoever else still waits"
    third.end()
    time.sleep(0.5)
    fourth = Waiter(kit, pacer)
    assert fourth.entered.wait(5)
    assert pacer.hold is None, "nothing was in flight meanwhile"
    fourth.end()


def test_a_provider_that_takes_long_for_each_reply_does_not_hang() -> None:
    tempo, now = tempos.Tempo(60), 0.0

    def times_out() -> None:
        tempo.replied(now, now - 60, timeout=True)
        tempo.ended(now, 0)

    for _ in range(3):
        tempo.sent(now, 1)
        now += 9
        assert tempo.hold(now, 1) is None
        tempo.answered(now, 10, now - 9)
        tempo.ended(now, 0)
    tempo.sent(now, 1)
    assert tempo.hold(now + 26, 1) is None and tempo.hold(now + 28, 1) is not None
    for _ in range(2):  # one time-out after the other
        now += 60
        times_out()
        tempo.sent(now, 1)
    found = tempo.hold(now, 1)
    assert found is not None and "no reply for 2 m 00 s" in found.detail
    times_out()
    tempo.sent(now + 3600, 1)
    assert tempo.hold(now + 3601, 1) is None, "a pause of an hour is no hour without a reply"
