"""What is about to be so is said before it is: where a rollback lands, and that evidence will soon be void."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embedtui.cli.work import _status_lines
from embedtui.engine.snapshot import with_advice
from embedtui.model import Snapshot
from embedtui.tui import old_model, panels
from embedtui.tui.dialogs import CutoverDialog
from embedtui.tui.panels.gate import gate, happens
from embedtui.tui.view import Link, View
from tests.tui import states
from tests.tui.conftest import Open, picture, said, until

UP = Link(up=True)
ROUTE = states.CUT_OVER.route
OVER = replace(states.CUT_OVER, route=replace(ROUTE, bridging=True, bridge=1, bridge_found=states.FOUND))
GONE = replace(states.CUT_OVER, old_gone=states.DEAD.old_gone)
BRIDGE, FAILS = "onto the bridge, which finds 62 %", "where searches fail: the old model no longer answers"


@pytest.mark.parametrize(("state", "lands"), [(OVER, BRIDGE), (GONE, FAILS), (states.CUT_OVER, "")])
def test_the_soak_says_where_a_rollback_lands(state: Snapshot, lands: str) -> None:
    state = with_advice(state)
    printed = "\n".join(_status_lines(state))
    view = View(state, UP)
    places = (panels.advice(view, 150, 3), panels.route(view, 100, 12), happens(view, (), 150))
    for text in (*(each.plain for each in places), printed, state.next_why):
        assert (lands or "onto the bridge") in " ".join(text.split()) or not lands
        assert lands or (FAILS not in text and BRIDGE not in text)


async def test_the_dialog_and_the_rollback_itself_say_it(shown: Open) -> None:
    route = replace(OVER.route, active=states.CANARY.route.active, canary=10)
    async with shown(replace(states.CANARY, route=route)) as (app, pilot, _):
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, CutoverDialog))
        await until(pilot, lambda: "onto the bridge" in picture(app))
        await pilot.press("escape", "f9")
        brief = f"Rolled back {BRIDGE.partition(', ')[0]}. The old side serves all reads"
        await until(pilot, lambda: brief in " ".join(said(app).split()))


@pytest.mark.parametrize("width", [38, 76])
def test_evidence_that_will_soon_be_void_says_so(width: int) -> None:
    near = "8 changes to 200 rows since (4 % of the 5 % that it bears): it will soon be void"
    state = with_advice(replace(states.READY, evaluation=replace(states.EVALUATION, near_void=near)))
    view = View(state, UP)
    shown = panels.route(view, width, 14).plain, "\n".join(each.plain for each in gate(states.COMPARISON, view, width))
    for text in (*shown, state.next_why, "\n".join(_status_lines(state))):
        assert near in " ".join(text.split())


@pytest.mark.parametrize("gone", ["", states.DEAD.old_gone])
def test_the_old_model_is_asked_again_also_where_it_is_taken_for_dead(
    gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_model, "ASK_SECONDS", 0.0)
    view = View(replace(states.RUNNING, old_gone=gone), UP)
    watch = old_model.OldModelWatch()
    assert watch.due(view) and not watch.due(replace(view, readonly=True))
    served = replace(states.READY, old_gone=gone)
    assert watch.due(View(served, UP)) == bool(gone), "later it is asked only to hear that it is back"
