"""Figures are honest and short; bars and charts keep their size."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from embedtui.tui import draw


@pytest.mark.parametrize(
    ("share", "shown"),
    [(None, "—"), (0.0, "0 %"), (0.9999, "99 %"), (1.0, "100 %"), (0.57, "57 %"), (0.29, "29 %")],
)
def test_a_percentage_says_100_only_when_all_is_done(share: float | None, shown: str) -> None:
    assert draw.percent(share) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "—"), (0, "0 s"), (59.6, "1 m 00 s"), (125, "2 m 05 s"), (12_000, "3 h 20 m"), (180_000, "2 d 2 h")],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert draw.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "—"), (0, "$0.00"), (0.0453, "$0.0453"), (1234.56, "$1,235"), (12.5, "$12.50")]
)
def test_money(value: float | None, shown: str) -> None:
    assert draw.money(value) == shown


@pytest.mark.parametrize("share", [None, 0.0, 0.001, 0.5, 0.9999, 1.0, 1.64])
def test_a_bar_keeps_its_width_and_is_full_only_at_the_end(share: float | None) -> None:
    bar = draw.bar(share, 20, "$new").plain
    assert cell_len(bar) == 20
    assert (bar == "━" * 20) == (share is not None and share >= 1)


def test_a_chart_has_its_size_whatever_the_values() -> None:
    for values in ([], [0.0], [1.0, 5.0, 2.0], [3.0] * 500):
        rows = draw.chart(values, 30, 4, "$new")
        assert [cell_len(row.plain) for row in rows] == [30] * 4
