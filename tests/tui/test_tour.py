"""The guided tour: seven hints that go on by themselves, fit the smallest screen, and can be skipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from embedtui.model import Condition, Side, Snapshot
from embedtui.tui import panels
from embedtui.tui.app import Dashboard
from embedtui.tui.preferences import load
from embedtui.tui.tour import HINTS, SHUTDOWN, Tour, tour_line
from embedtui.tui.view import View
from tests.tui import states
from tests.tui.conftest import Open, picture, present, said, until
from tests.tui.standin import StandIn

BACK = replace(states.CUT_OVER, route=replace(states.CUT_OVER.route, active=Side.OLD, canary=0))
WHEN = (
    *(states.RUNNING, replace(states.READY, evaluation=None), states.READY, states.READY),
    *(states.CUT_OVER, BACK, states.CUT_OVER),
)
"""A state in which each hint is true."""


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
    assert at(BACK) == 5
    assert at(states.CANARY) == 5, "a share is not all"
    assert at(states.CUT_OVER) == 6
    assert at(BACK) == 6
    assert at(states.DONE) == len(HINTS) == 7
    assert tour.hint is None


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_hint_fits(width: int) -> None:
    for number, (hint, snapshot) in enumerate(zip(HINTS, WHEN, strict=True)):
        told = tour_line(View(snapshot, tour=Tour(number)), width).plain
        assert hint.text in told and "…" not in told and told.rstrip().endswith("T next")
        assert width < 160 or hint.more in told
        assert not tour_line(View(states.DONE, tour=Tour(number)), width).plain, "only while it is true"
    assert not tour_line(View(), width).plain


def test_it_begins_with_what_is_next_and_ends_with_the_migration() -> None:
    for snapshot, at in ((states.READY, 2), (states.CUT_OVER, 4), (states.DONE, len(HINTS))):
        tour = Tour()
        tour.follow(View(snapshot), "overview")
        assert tour.at == at, snapshot.phase


async def test_once_it_ended_it_stays_so(remembered: Path) -> None:
    engine = StandIn(states.DONE)
    app = Dashboard(lambda _: engine, interval=3600)
    app.tour, app.anew = Tour(), "embedtui demo --reset"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "--reset begins anew" in said(app))
        assert app.tour is None and "Hint" not in picture(app)
    assert load().toured and load().with_query("a").toured


async def test_t_skips_hint_by_hint(shown: Open) -> None:
    async with shown(states.RUNNING, (80, 24)) as (app, pilot, _):
        assert "Hint" not in picture(app)
        await pilot.press("T")
        assert "no tour here" in said(app)
        app.tour = Tour()
        app.show()
        for number, hint in enumerate(HINTS, 1):
            if WHEN[number - 1] is BACK:
                continue  # who takes nothing back has nothing to do again
            await present(app, pilot, WHEN[number - 1])
            await until(pilot, lambda hint=hint: hint.text in picture(app))
            assert f"Hint {number}/7" in picture(app)
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


async def test_the_plan_of_a_done_migration_says_that_it_is_done(shown: Open) -> None:
    async with shown(states.DONE, (100, 30)) as (app, pilot, _):
        await pilot.press("7")
        await until(pilot, lambda: "✓ done" in picture(app))
        assert "in the way" not in picture(app)


def test_the_shutdown_has_a_tour_of_its_own() -> None:
    calm = replace(states.DEAD, old_gone="", notices=())
    tour = Tour(hints=SHUTDOWN)
    shown = []
    for snapshot in (calm, states.DEAD, states.BRIDGE_ON, replace(states.READY, evaluation=None), states.READY):
        tour.follow(View(snapshot), "overview")
        shown.append(tour.at)
        for width in (80, 160):
            told = tour_line(View(snapshot, tour=tour), width).plain
            assert SHUTDOWN[tour.at].text in told and "…" not in told and f"Hint {tour.at + 1}/6" in told
    assert shown == [0, 1, 2, 3, 4]
    tour.follow(View(states.CUT_OVER), "overview")
    assert tour.hint is None


async def test_the_other_tour_is_not_taken_for_seen_by_it(remembered: Path) -> None:
    app = Dashboard(lambda _: StandIn(states.DEAD), interval=3600)
    app.tour = Tour(hints=SHUTDOWN)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Hint 2/6" in picture(app))
        for _ in SHUTDOWN:
            await pilot.press("T")
        assert app.tour is None and not load().toured


def test_what_is_waited_for_is_said_where_nobody_works() -> None:
    idle = replace(states.RUNNING, condition=Condition.IDLE, workers=(), next_act="wait", next_why="It dies soon.")
    told = panels.advice(View(idle), 100, 1).plain
    assert told.startswith("◌ Waiting") and "It dies soon." in told
