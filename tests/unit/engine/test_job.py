"""What the threads of a worker process share: later readings win, the first failure stays, holds are told once."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedtui.engine.backfill import job as module
from embedtui.engine.backfill.job import PACER_HOLDS, Job
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.model import (
    Event,
    Held,
    Hold,
)
from embedtui.postgres.state.workers import Wanted
from tests.kits.samples import sample_migration


def make_job(events: list[Event] | None = None) -> Job:
    return Job("", sample_migration(), events.append if events is not None else None)


def test_a_reading_that_was_under_way_does_not_undo_a_later_one() -> None:
    """A heartbeat that read the held index before it was released arrives after the stage has read the release."""
    job = make_job()
    heartbeat = time.monotonic()
    job.heed(Wanted(index_held=False), time.monotonic())
    job.heed(Wanted(index_held=True), heartbeat)
    assert not job.wanted.index_held
    job.heed(Wanted(index_held=True), time.monotonic())
    assert job.wanted.index_held, "held again since"


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), min_size=1, max_size=12))
def test_what_counts_was_read_after_all_that_had_been_taken_over(readings: list[tuple[int, int]]) -> None:
    """Readings are (begin, duration), and arrive as they end."""
    job = make_job()
    accepted_until = -1
    arrivals = sorted((began + took, began) for began, took in readings)
    with pytest.MonkeyPatch.context() as patch:
        for number, (arrived, began) in enumerate(arrivals):
            patch.setattr(module.time, "monotonic", lambda arrived=arrived: float(arrived))
            reading = Wanted(paused=number % 2 == 0, index_held=number % 3 == 0)
            before = job.wanted
            job.heed(reading, float(began))
            overtaken = began < max(accepted_until, 0)
            assert job.wanted == (before if overtaken else reading)
            if not overtaken:
                accepted_until = arrived


def test_who_is_asked_to_stop_stops_with_all_its_stages() -> None:
    job = make_job()
    before = job.child_stop()
    job.heed(Wanted(stop=True), time.monotonic())
    assert job.stop.is_set()
    assert before.is_set()
    assert job.child_stop().is_set(), "also one that begins later"


def test_the_first_failure_is_the_one_that_is_told() -> None:
    job = make_job()
    first = EmbedtuiError("The first.")
    job.fail(first)
    job.fail(EmbedtuiError("What came of it."))
    assert job.pending_failure is first
    assert job.stop.is_set()


def test_a_hold_is_told_once_and_counts_from_its_beginning() -> None:
    events: list[Event] = []
    job = make_job(events)
    job.hold("replica_lag", "3 s behind")
    (before,) = job.holds
    job.hold("replica_lag", "9 s behind")
    assert [(hold.detail, hold.since) for hold in job.holds] == [("9 s behind", before.since)]
    job.replace_holds(("replica_lag", "wal_rate"), [Hold("wal_rate", "much")])
    assert [hold.name for hold in job.holds] == ["wal_rate"]
    job.release("wal_rate", "replica_lag")
    assert [len(event.holds) for event in events if isinstance(event, Held)] == [1, 0, 1, 0]


def test_a_limit_that_comes_and_goes_is_told_once() -> None:
    events: list[Event] = []
    job = make_job(events)
    first, second = "Runs at the limit of 250,000 tokens a minute.", "Runs at the limit of 60 requests a minute."
    for detail in (first, first, second, first, second):
        job.hold("pace", detail)
        assert [hold.detail for hold in job.holds] == [detail]
        job.release("pace")
    assert job.holds == () and [event.text for event in events] == [first, second]
    job.hold("pace", first)
    job.hold("provider", "away")
    job.release("pace", "provider")
    assert [event.text.partition(" ")[0] for event in events[2:]] == ["Held:", "Provider"]


@pytest.mark.parametrize("name", [*PACER_HOLDS, "index"])
def test_what_is_waited_for_elsewhere_holds_nobody_up(name: str) -> None:
    job = make_job()
    job.hold(name, "")
    assert [hold.name for hold in job.holds] == [name]
    stop = threading.Event()
    stop.set()
    job.wait_while_held(stop)  # raises where it would wait


@pytest.mark.parametrize("paused", [True, False])
def test_a_pause_or_a_hold_is_waited_out_or_stopped(paused: bool) -> None:
    job = make_job()
    job.heed(Wanted(paused=paused), time.monotonic())
    if not paused:
        job.hold("database", "away")
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        job.wait_while_held(stop)
    job.heed(Wanted(), time.monotonic())
    job.release("database")
    job.wait_while_held(stop)


def test_rows_of_all_threads_are_counted() -> None:
    job = make_job()
    threads = [threading.Thread(target=lambda: [job.add_rows(1) for _ in range(1000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert job.rows == 8000


def test_a_thread_that_has_ended_does_nothing() -> None:
    job = make_job()
    thread = threading.Thread(target=lambda: job.doing("embedding"), name="embed-01")
    thread.start()
    thread.join()
    job.doing("starting")
    assert [each.doing for each in job.activity()] == ["starting"]
    job.idle()
    assert job.activity() == ()
