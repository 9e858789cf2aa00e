"""Counts, money, time and bytes read alike wherever they are said."""

from __future__ import annotations

import pytest

from embedtui import errors, formatting
from embedtui.tui import figures


@pytest.mark.parametrize(
    ("seconds", "live", "exact"),
    [
        (0, "0 s", "0 s"),
        (0.42, "0 s", "0.4 s"),
        (1.04, "1 s", "1 s"),
        (9.96, "10 s", "10 s"),
        (59.6, "1 m 00 s", "1 m"),
        (75.4, "1 m 15 s", "1 m 15 s"),
        (720, "12 m 00 s", "12 m"),
        (12_600, "3 h 30 m", "3 h 30 m"),
        (7300, "2 h 01 m", "2 h 01 m"),
        (604_800, "7 d 0 h", "7 d"),
        (None, "unknown", "unknown"),
    ],
)
def test_durations(seconds: float | None, live: str, exact: str) -> None:
    assert formatting.duration(seconds) == live
    assert formatting.duration(seconds, exact=True) == exact


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (None, "unknown"),
        (0, "$0.00"),
        (0.00004, "under $0.0001"),
        (0.0123, "$0.0123"),
        (1, "$1.00"),
        (12.3456, "$12.35"),
        (1234.5, "$1,234"),
    ],
)
def test_money(amount: float | None, said: str) -> None:
    assert formatting.money(amount) == said


@pytest.mark.parametrize(
    ("bytes_", "said"),
    [(0, "0 B"), (900, "900 B"), (2048, "2.0 kB"), (150_000_000, "143 MB"), (5 * 1024**4, "5.0 TB"), (None, "unknown")],
)
def test_sizes(bytes_: float | None, said: str) -> None:
    assert formatting.size(bytes_) == said


@pytest.mark.parametrize("name", ["number", "money", "percent", "duration"])
@pytest.mark.parametrize("value", [0, 0.0004, 0.57, 0.99999, 1, 59.6, 31_500, 3_000_000])
def test_the_screen_says_what_the_command_line_says(name: str, value: float) -> None:
    assert getattr(figures, name)(value) == getattr(formatting, name)(value)
    assert getattr(figures, name)(None) == "—"


def test_a_share_is_never_rounded_up_to_all() -> None:
    assert formatting.percent(0.99999) == "99 %"
    assert formatting.percent(0.99999, 1) == "99.9 %"
    assert formatting.percent(0.739) == "74 %"
    assert formatting.percent(0.0349, 1) == "3.5 %"
    assert formatting.percent(0.005) == "1 %"
    assert formatting.percent(0.0) == "0 %"
    assert formatting.percent(1.0) == "100 %"
    assert formatting.percent(1.0, 1) == "100.0 %"
    assert formatting.percent(1.0, 1, exact=True) == "100 %"
    assert formatting.percent(0.99999, 1, exact=True) == "99.9 %"
    assert formatting.percent(0.97, 1, exact=True) == "97 %"


def test_a_hint_names_its_remedies_in_order() -> None:
    assert formatting.with_remedies("Queue them.", ["`a`", "`b`"]) == "Queue them: `a`, then `b`."
    assert formatting.with_remedies("", ["`a`"]) == "`a`."
    assert formatting.with_remedies("Wait.", ()) == "Wait."


def test_sentences_are_never_run_together() -> None:
    assert formatting.sentences("401: No such key", "Put one in.") == "401: No such key. Put one in."
    assert formatting.sentences("Lost.", "", "Wait") == "Lost. Wait"
    assert formatting.sentences("", "") == formatting.sentences() == ""
    assert str(errors.Refused("401: No such key", hint="Put one in.")) == "401: No such key. Put one in."
