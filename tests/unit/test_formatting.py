"""Figures are honest and short, and read alike on the screen and on the command line."""

from __future__ import annotations

import pytest

from embedtui import formatting
from embedtui.cli import output


@pytest.mark.parametrize(
    ("share", "shown"),
    [(None, "—"), (0.0, "0 %"), (0.9999, "99 %"), (1.0, "100 %"), (0.57, "57 %"), (0.29, "29 %")],
)
def test_a_percentage_says_100_only_when_all_is_done(share: float | None, shown: str) -> None:
    assert formatting.percent(share) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "—"), (0, "0 s"), (59.6, "1 m 00 s"), (125, "2 m 05 s"), (12_000, "3 h 20 m"), (180_000, "2 d 2 h")],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert formatting.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "—"), (0, "$0.00"), (0.0453, "$0.0453"), (0.00001, "under $0.0001"), (1234.56, "$1,235"), (12.5, "$12.50")],
)
def test_money(value: float | None, shown: str) -> None:
    assert formatting.money(value) == shown


def test_an_unknown_figure_is_a_word_on_the_command_line_and_a_dash_on_the_screen() -> None:
    for on_screen, printed in (
        (formatting.number, output.number),
        (formatting.money, output.money),
        (formatting.duration, output.seconds),
    ):
        assert (on_screen(None), printed(None)) == ("—", "unknown")
        assert on_screen(1234.5) == printed(1234.5)


def test_a_hint_names_its_remedies_in_order() -> None:
    assert formatting.with_remedies("Queue them.", ["`a`", "`b`"]) == "Queue them: `a`, then `b`."
    assert formatting.with_remedies("", ["`a`"]) == "`a`."
    assert formatting.with_remedies("Wait.", ()) == "Wait."
