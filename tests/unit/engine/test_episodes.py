"""What held the work up is told once when it lasts and once when it is over, however often it flickers."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest

from embedtui.engine.backfill.episodes import SETTLED_SECONDS, Episodes


class Clock:
    """Time as it is told to pass."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_flickering_hold_is_one_episode_of_two_lines() -> None:
    clock = Clock()
    episodes, lines = Episodes(clock), []
    for _ in range(40):
        episodes.begin("wal_rate", "2 GB a minute")
        clock.now += 5
        lines += episodes.due()
        episodes.end("wal_rate")
        clock.now += 5
        lines += episodes.due()
    clock.now += SETTLED_SECONDS
    lines += episodes.due()
    assert [(act, name) for act, name, _ in lines] == [("held", "wal_rate"), ("over", "wal_rate")]
    assert "6 m" in lines[1][2] and "40 times" in lines[1][2]
    assert episodes.due(leaving=True) == []


@pytest.mark.parametrize(("name", "lines"), [("database", 1), ("wal_rate", 0)])
def test_a_moment_is_told_of_what_is_lost_and_not_of_our_own_pace(name: str, lines: int) -> None:
    clock = Clock()
    episodes = Episodes(clock)
    episodes.begin(name, "away")
    clock.now += 1
    episodes.end(name)
    assert episodes.due() == []
    clock.now += SETTLED_SECONDS
    assert len(episodes.due()) == lines


def test_faults_are_counted_by_their_codes(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    episodes = Episodes(clock)
    with caplog.at_level(logging.WARNING, "embedtui"):
        for code in ("429", "500", "429", "429"):
            episodes.met("provider", code)
            clock.now += 2
        assert [act for act, _, _ in episodes.due()] == ["held"]
        ((act, _, said),) = episodes.due(leaving=True)
    assert (act == "over" and "3 × 429, 1 × 500" in said and "6.0 s" in said) or "6 s" in said
    assert len(caplog.records) == 2


def test_what_lasts_as_its_worker_ends_is_said_not_to_be_over() -> None:
    clock = Clock()
    episodes = Episodes(clock)
    episodes.begin("spend_cap", "reached")
    clock.now += 5
    episodes.due()
    ((_, _, said),) = episodes.due(leaving=True)
    assert said.startswith("not over")


@pytest.mark.parametrize(("name", "told"), [("database", 4), ("provider", 4), ("wal_rate", 2)])
def test_each_outage_is_told_with_its_own_begin_end_and_length(name: str, told: int) -> None:
    clock = Clock()
    episodes, lines = Episodes(clock), []
    for away, back in ((20, 8), (10, 40)):
        episodes.begin(name, "away")
        for _ in range(away):
            clock.now += 1
            lines += episodes.due()
        episodes.end(name)
        for _ in range(back):
            clock.now += 1
            lines += episodes.due()
    assert [act for act, _, _ in lines] == ["held", "over"] * (told // 2)
    if told == 4:
        assert lines[1][2].startswith("20 s, from") and lines[3][2].startswith("10 s, from")
        assert "times" not in lines[1][2]


def test_an_outage_whose_end_nobody_could_tell_before_the_next_is_told_after_it() -> None:
    """While the database is away there is nobody to tell."""
    clock = Clock()
    episodes = Episodes(clock)
    for _ in range(2):
        episodes.begin("database", "away")
        clock.now += 10
        episodes.end("database")
        clock.now += 6
    assert [(act, said.partition(",")[0]) for act, _, said in episodes.due()] == [("over", "10 s")] * 2


def test_what_is_met_while_the_provider_is_held_does_not_end_it() -> None:
    clock = Clock()
    episodes, lines = Episodes(clock), []
    for second in range(120):
        if second == 1:
            episodes.begin("provider", "")
        if second % 40 == 0:
            episodes.met("provider", "503")
        clock.now += 1
        lines += episodes.due()
    episodes.end("provider")
    clock.now += 6
    lines += episodes.due()
    assert [act for act, _, _ in lines] == ["held", "over"] and "3 × 503" in lines[1][2]


def test_a_request_that_timed_out_had_begun_when_it_was_sent() -> None:
    clock = Clock()
    episodes = Episodes(clock)
    for _ in range(2):  # sent together
        episodes.met("provider", "timeout", 60.0)
    clock.now += SETTLED_SECONDS
    ((act, _, said),) = episodes.due()
    assert act == "over" and said.startswith("1 m 00 s, from") and said.endswith("2 × timeout")


def test_what_still_holds_as_the_work_stops_does_not_say_that_the_worker_ended() -> None:
    clock = Clock()
    episodes = Episodes(clock)
    episodes.begin("rate", "", datetime.now(UTC) - timedelta(seconds=10))
    assert [act for act, _, _ in episodes.due()] == ["held"]
    ((_, _, said),) = episodes.due(leaving=True)
    assert said.startswith("not over when the work stopped here; 10") and "worker" not in said
