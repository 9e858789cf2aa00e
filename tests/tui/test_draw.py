"""Bars and charts keep their size."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from embedtui.tui import draw


@pytest.mark.parametrize("share", [None, 0.0, 0.001, 0.5, 0.9999, 1.0, 1.64])
def test_a_bar_keeps_its_width_and_is_full_only_at_the_end(share: float | None) -> None:
    bar = draw.bar(share, 20, "$new").plain
    assert cell_len(bar) == 20
    assert (bar == "━" * 20) == (share is not None and share >= 1)


def test_a_chart_has_its_size_whatever_the_values() -> None:
    for values in ([], [0.0], [1.0, 5.0, 2.0], [3.0] * 500):
        rows = draw.chart(values, 30, 4, "$new")
        assert [cell_len(row.plain) for row in rows] == [30] * 4
