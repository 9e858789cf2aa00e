"""What is typed is never lost, whatever a dialog does meanwhile; and it goes to the first field."""

from __future__ import annotations

import asyncio
import threading

import pytest
from textual import events
from textual.widgets import Button, Checkbox, Input

from embedtui.model import Blocker
from embedtui.tui.dialogs import CutoverDialog, Either, NamedAnswer, NameDialog, WaitingDialog
from embedtui.tui.dialogs.base import Digits
from embedtui.tui.dialogs.bridging import BridgeDialog
from tests.tui import states
from tests.tui.conftest import Open, front, picture, present, said, until
from tests.tui.test_whole_words import DIALOGS


@pytest.mark.parametrize("lag", [0, 3, 6, 9])
async def test_what_is_typed_while_a_dialog_comes_is_never_lost(shown: Open, lag: int) -> None:
    """Before it, at the very moment it takes its place, and while it has given the focus to nothing yet."""
    async with shown(states.CUT_OVER, (80, 24)) as (app, pilot, engine):
        looked = threading.Event()
        blockers = engine.blockers

        def slowly(*names: object, **how: object) -> tuple[Blocker, ...]:
            looked.wait()
            return blockers(*names, **how)

        engine.blockers = slowly  # type: ignore[method-assign]
        await pilot.press("K")
        await until(pilot, lambda: isinstance(app.screen, WaitingDialog))
        await pilot.press("x", "backspace")
        for number, letter in enumerate("documents"):
            if number == lag:
                looked.set()
            app.post_message(events.Key(letter, letter))
            await asyncio.sleep(0)
        looked.set()
        await until(pilot, lambda: isinstance(app.screen, NameDialog))
        await until(pilot, lambda: len(app.screen.query_one("#typed", Input).value) == len("documents"))
        assert app.screen.query_one("#typed", Input).value == "documents"


async def test_a_name_is_asked_for_first_and_typing_goes_there(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        for key, kind in (("x", CutoverDialog), ("A", NameDialog)):
            await pilot.press(key)
            await until(pilot, lambda kind=kind: isinstance(app.screen, kind))
            await until(pilot, lambda: app.focused is app.screen.query_one("#cancel"))
            first = next(iter(app.screen.query(Input)))
            assert first.id == "typed"
            app.post_message(events.Paste("10"))
            await until(pilot, lambda first=first: first.value == "10" and app.focused is first)
            await pilot.press("escape")


async def test_obstacles_follow_a_choice_and_a_reason_that_is_missing_is_asked_for(shown: Open) -> None:
    soak, fold = (Blocker(name, f"{name} is in the way.", "Wait.", overridable=True) for name in ("soak", "fold"))
    said = {True: ("said",), False: ("said",)}
    either = Either("fold", "Fold", False, said, said, {False: (soak,), True: (soak, fold)})
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        answers: list[object] = []
        app.push_screen(NameDialog("Clean up", "Text.", "documents", either=either), answers.append)
        await until(pilot, lambda: isinstance(app.screen, NameDialog))
        app.screen.query_one("#typed", Input).value = "documents"
        await until(pilot, lambda: app.focused is app.screen.query_one("#cancel"))
        app.screen.query_one("#typed", Input).focus()
        await pilot.press("enter")
        await until(pilot, lambda: "A reason is needed" in str(app.screen.query_one(".dialog").border_subtitle))
        await until(pilot, lambda: app.focused is app.screen.query_one("#override"))
        await pilot.press("y", "e", "s")
        assert len(app.screen.query(".obstacle")) == 1
        app.screen.query_one("#fold", Checkbox).value = True
        await until(pilot, lambda: len(app.screen.query(".obstacle")) == 2)
        assert app.screen.query_one("#override", Input).value == "yes"
        await until(pilot, lambda: not app.screen.query_one("#go", Button).disabled)
        app.screen.query_one("#go", Button).press()
        await until(pilot, lambda: bool(answers))
        assert answers == [NamedAnswer("documents", {"soak": "yes", "fold": "yes"}, ("fold", True))]


async def test_a_reason_that_is_being_typed_stays_while_the_sheet_changes(shown: Open) -> None:
    async with shown(states.BRIDGE_REFUSED, (80, 24)) as (app, pilot, _):
        await pilot.press("B")
        await until(pilot, lambda: isinstance(app.screen, BridgeDialog))
        sheet = front(app, BridgeDialog)
        await until(pilot, lambda: sheet.query_one(".field").display)
        await pilot.press(*"seen")
        await present(app, pilot, states.BRIDGING)  # what stood against it is gone, and it is at work
        sheet._repaint()
        await pilot.press(*"it")
        await until(pilot, lambda: sheet.query_one("#override", Input).value == "seenit")


async def test_ctrl_c_names_only_what_can_be_done(shown: Open) -> None:
    async with shown(states.RUNNING, (80, 24)) as (app, pilot, engine):
        await pilot.press("ctrl+c")
        assert said(app) == "q quits."
        engine.outlives = True
        await pilot.press("r")
        await until(pilot, lambda: app.bridge.detachable)
        await pilot.press("ctrl+c")
        assert "D leaves the work running" in said(app)


async def test_a_burst_over_a_choice_loses_no_character(shown: Open) -> None:
    """A slow line: the choice is ticked, and the reason typed on, before the sheet has followed the choice."""
    soak, fold = (Blocker(name, f"{name} is in the way.", "Wait.", overridable=True) for name in ("soak", "fold"))
    rows = Blocker("not_null", "7 rows have no new vector.", "Fill them.", overridable=True, rows=7)
    said = {True: ("said",), False: ("said",)}
    either = Either("fold", "Fold", False, said, said, {False: (soak,), True: (soak, fold, rows)})
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        answers: list[object] = []
        app.push_screen(NameDialog("Clean up", "Text.", "documents", either=either), answers.append)
        await until(pilot, lambda: isinstance(app.screen, NameDialog) and bool(app.screen.query("#override")))
        app.screen.query_one("#typed", Input).value = "documents"
        reason = app.screen.query_one("#override", Input)
        reason.focus()
        await until(pilot, lambda: app.focused is reason)
        for text in ("agreed", " with", " all"):
            app.screen.query_one("#fold", Checkbox).toggle()
            for each in text:
                app.post_message(events.Key("space" if each == " " else each, each))
        await until(pilot, lambda: len(app.screen.query(".obstacle")) == 3 and reason.value == "agreed with all")
        assert app.focused is reason
        count = app.screen.query_one("#rows-not_null-7", Input)
        count.value = "7"
        await until(pilot, lambda: not app.screen.query_one("#go", Button).disabled)
        app.screen.query_one("#fold", Checkbox).toggle()
        await until(pilot, lambda: len(app.screen.query(".obstacle")) == 1)
        assert not count.parent.display and count.value == "7"  # type: ignore[union-attr]
        app.screen.query_one("#go", Button).press()
        await until(pilot, lambda: bool(answers))
        assert answers == [NamedAnswer("documents", {"soak": "agreed with all"}, ("fold", False))]


async def test_rows_at_stake_are_those_of_the_choice_that_is_made(shown: Open) -> None:
    at_stake = Blocker("not_null", "7 rows have no new vector.", "Fill them.", overridable=True, rows=7)
    async with shown(states.CUT_OVER, (80, 24)) as (app, pilot, engine):
        asked: list[object] = []

        def blockers(*_: object, rename: bool | None = None, thorough: bool = False, **__: object) -> object:
            asked.append(thorough)
            return (at_stake,) if rename and thorough else ()

        engine.blockers = blockers  # type: ignore[assignment, method-assign]
        await pilot.press("K")
        await until(pilot, lambda: isinstance(app.screen, NameDialog))
        tick = app.screen.query_one("#rename", Checkbox)
        for _ in range(2):
            wanted = 1 if tick.value else 0
            await until(pilot, lambda wanted=wanted: len(app.screen.query(".obstacle")) == wanted)
            tick.toggle()
        assert asked == [True, True], "the table is read once for each choice"


RESTRICTED = ("cutover", "canary", "limits", "verify")


@pytest.mark.parametrize("size", [(80, 24), (160, 45)], ids=str)
async def test_a_field_that_takes_no_letters_says_what_it_takes(shown: Open, size: tuple[int, int]) -> None:
    """And no field takes a part of what is typed in silence: each that is restricted is of this kind."""
    seen = set()
    async with shown(states.READY, size) as (app, pilot, _):
        for name, make in DIALOGS.items():
            app.push_screen(dialog := make())
            await until(pilot, lambda dialog=dialog: app.screen is dialog and bool(dialog.query(Button)))
            for each in dialog.query(Input):
                if each.type == "text" and not each.max_length and each.restrict is None:
                    continue
                assert isinstance(each, Digits), f"{name}: {each.id}"
                seen.add(name)
                before = each.value
                each.focus()
                await until(pilot, lambda each=each: each.has_focus)
                assert each.takes.region.width >= len(str(each.takes.render())), f"{name}: {each.id} is cut"
                await pilot.press("x")
                assert each.value == before and each.takes.has_class("-refused"), f"{name}: {each.id}"
                assert str(each.takes.render()) in picture(app)
                await pilot.press("1")
                assert not each.takes.has_class("-refused")
            app.pop_screen()
            await until(pilot, lambda dialog=dialog: app.screen is not dialog)
    assert seen == set(RESTRICTED)


WRONG = [
    *(("canary", "#percent", value) for value in ("0", "101", "-1", "")),
    ("limits", "#max_concurrency", "0"), ("limits", "#max_concurrency", "-1"), ("limits", "#spend_cap", "-1"),
    ("verify", "#sample", "-1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field", "wrong"), WRONG)
async def test_enter_says_which_number_is_none(shown: Open, name: str, field: str, wrong: str) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        app.push_screen(dialog := DIALOGS[name]())
        await until(pilot, lambda: app.screen is dialog and bool(dialog.query(Button)))
        digits = dialog.query_one(field, Digits)
        digits.value = wrong
        dialog.query_one(Input).focus()
        await pilot.press("enter")
        await until(pilot, lambda: digits.takes.has_class("-refused") and digits.has_focus)
        assert app.screen is dialog
