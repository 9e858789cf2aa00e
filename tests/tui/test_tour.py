"""The guided tour: five hints that go on by themselves, fit the smallest screen, and can be skipped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embedtui.model import Side, Snapshot
from embedtui.tui.tour import HINTS, Tour, tour_line
from embedtui.tui.view import View
from tests.tui import states
from tests.tui.conftest import Open, picture, present, said, until


def test_what_is_done_leads_on_whoever_did_it() -> None:
    tour = Tour()

    def at(snapshot: Snapshot, screen: str = "overview") -> int:
        tour.follow(View(snapshot), screen)
        return tour.at

    assert at(states.RUNNING) == 0
    assert at(states.RUNNING, "compare") == at(states.RUNNING) == 0, "looked at before there is anything"
    assert at(replace(states.READY, evaluation=None)) == 1
    assert at(states.READY) == 2
    assert at(states.READY, "compare") == 2, "being read"
    assert at(states.READY) == 3
    assert at(states.CUT_OVER) == 4
    back = replace(states.CUT_OVER, route=replace(states.CUT_OVER.route, active=Side.OLD, canary=0))
    assert at(back) == len(HINTS) == 5
    assert tour.hint is None


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_hint_fits(width: int) -> None:
    for number, hint in enumerate(HINTS):
        told = tour_line(View(tour=number), width).plain
        assert hint.text in told and "…" not in told and told.rstrip().endswith("T next")
        assert width < 160 or hint.more in told
    assert not tour_line(View(), width).plain


async def test_t_skips_hint_by_hint(shown: Open) -> None:
    async with shown(states.RUNNING, (80, 24)) as (app, pilot, _):
        assert "Hint" not in picture(app)
        await pilot.press("T")
        assert "no tour here" in said(app)
        app.tour = Tour()
        app.show()
        for number, hint in enumerate(HINTS, 1):
            await until(pilot, lambda hint=hint: hint.text in picture(app))
            assert f"Hint {number}/5" in picture(app)
            await pilot.press("T")
        await until(pilot, lambda: "Hint" not in picture(app))
        assert "That was the tour" in said(app)


async def test_the_tour_follows_what_is_done(shown: Open) -> None:
    async with shown(states.RUNNING, (80, 24)) as (app, pilot, _):
        app.tour = Tour()
        await present(app, pilot, states.READY)
        await until(pilot, lambda: HINTS[2].text in picture(app))
        await pilot.press("2")
        await until(pilot, lambda: app.current_mode == "compare")
        app.show()  # as with every snapshot
        await until(pilot, lambda: HINTS[2].text in picture(app))
        await pilot.press("1")
        await until(pilot, lambda: app.current_mode == "overview")
        app.show()
        await until(pilot, lambda: HINTS[3].text in picture(app))
