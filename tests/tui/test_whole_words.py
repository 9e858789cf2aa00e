"""The whole screen, every dialog in its longest form: no word of ours is cut, no label touches its field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label

from embedtui.model import Blocker, Side, TableName, ThreadStatus, WorkerStatus
from embedtui.tui.actions import SCREENS
from embedtui.tui.app import Dashboard
from embedtui.tui.dialogs import Either, ForgetDialog, NameDialog, PromptDialog, QueriesDialog
from embedtui.tui.dialogs.base import Answer
from embedtui.tui.dialogs.cutover import CutoverDialog
from embedtui.tui.dialogs.faults import DecideDialog
from embedtui.tui.dialogs.limits import LimitsDialog
from embedtui.tui.dialogs.prepare import PrepareDialog
from embedtui.tui.dialogs.prompts import StopDialog
from embedtui.tui.dialogs.verify import VerifyDialog
from embedtui.tui.screens.help import HelpScreen
from embedtui.tui.screens.settings import SettingsScreen
from embedtui.tui.view import Link, Trouble, View
from embedtui.tui.widgets.panel import Panel
from tests.tui import states
from tests.tui.conftest import Open, picture, present, until
from tests.tui.engine_words import LEAF, doings
from tests.tui.standin import StandIn
from tests.tui.test_fitting import cut_words, foreign
from tests.tui.test_screens import toasts

TAKES = "text-embedding-3-large takes 8,192 tokens."
LONG_NAME = "customer_support_articles_and_answers_2026"
SIZES = pytest.mark.parametrize("size", [(80, 24), (160, 45)], ids=lambda size: f"{size[0]}x{size[1]}")
TABLE = replace(
    states.READY,
    migration=replace(states.MIGRATION, table=TableName("public", LONG_NAME), name=LONG_NAME),
)
VIEW = View(TABLE, Link(up=True))
IN_THE_WAY = (
    *states.BLOCKERS[:1],
    Blocker("soak", "It has soaked for 4 minutes, and 7 days are asked for.", "Wait until 2026-12-05.", True),
    Blocker("coverage", "73 rows have no new vector and would lose their only one.", "Run.", True, rows=73),
)
SQL = tuple(f"ALTER TABLE public.{LONG_NAME} DROP COLUMN IF EXISTS embedding_{number}" for number in range(9))
SAID = ("Routers: 3 were heard from, all current.", "names: embedding_v2 is kept, search-api names it.") * 3
EITHER = Either(
    "rename",
    "The new column takes the old one's name",
    True,
    {True: SQL, False: SQL},
    {True: SAID, False: SAID},
    {True: IN_THE_WAY, False: IN_THE_WAY},
)
GOOD = "Drops the old side for good. "
DIALOGS: dict[str, Callable[[], ModalScreen[object]]] = {
    "cutover": lambda: CutoverDialog(VIEW, 100, IN_THE_WAY),  # type: ignore[dict-item, return-value]
    "canary": lambda: CutoverDialog(VIEW, 10),  # type: ignore[dict-item, return-value]
    "cleanup": lambda: NameDialog("Clean up", "Drops the old side for good. " * 3, LONG_NAME, either=EITHER),
    "abort": lambda: NameDialog("Abort", "The new side is dropped.", LONG_NAME, (), states.BLOCKERS[:1]),
    "limits": lambda: LimitsDialog(VIEW),
    "verify": lambda: VerifyDialog(VIEW),
    "prepare": lambda: PrepareDialog(states.PLAN),
    "queries": QueriesDialog,
    "forget": lambda: ForgetDialog("how do I rotate the signing keys of the payment gateway without a restart"),
    "note": lambda: PromptDialog("Note", "◆ new better: “the pager woke me”", "", optional=True),
    "stop": lambda: StopDialog("worker-7.eu-central-1.internal:41300", "backfill: shard 12 of 1,000", 0),
    "skip": lambda: DecideDialog("skip", "226 rows: each", tuple(Side), TAKES, "400: too long"),
    "shorten": lambda: DecideDialog("truncate", "row 90017", (Side.OLD,), TAKES, "400: too long. " * 9),
}


@SIZES
async def test_a_dialog_shows_what_it_asks_and_what_it_does(shown: Open, size: tuple[int, int]) -> None:
    async with shown(TABLE, size) as (app, pilot, _):
        for name, make in DIALOGS.items():
            dialog = make()
            app.push_screen(dialog)
            await until(pilot, lambda dialog=dialog: app.screen is dialog and bool(dialog.query(Button)))
            await pilot.pause()
            box = dialog.query_one(".dialog")
            for each in (button for button in dialog.query(Button) if button.display):
                assert box.region.contains_region(each.region), f"{name}: {each.id} is out of sight"
            for label in dialog.query(".field Label").results(Label):
                told = str(label.render())
                assert len(told) < label.region.width or label.region.height > 1, f"{name}: {told} touches its field"
            for field in dialog.query(Input):
                assert field.region.width >= 16, f"{name}: {field.id} is {field.region.width} wide"
            for inner in dialog.query(".sql"):
                assert inner.region.height >= 6 or inner.max_scroll_y == 0, f"{name}: many lines on two"
            cut = cut_words(picture(app), " ".join([*foreign(TABLE), *SQL]))
            assert not cut, f"{name}: {cut}"
            app.pop_screen()
            await until(pilot, lambda dialog=dialog: app.screen is not dialog)


async def test_a_dialog_is_as_high_as_what_it_says_and_says_where_sql_scrolls(shown: Open) -> None:
    few = replace(EITHER, statements={True: SQL[:3], False: SQL[:3]}, notices={True: SAID[:2], False: SAID[:2]})
    for size, either, head in (((160, 45), few, "The SQL:"), ((160, 45), EITHER, "it scrolls")):
        async with shown(states.READY, size) as (app, pilot, _):
            dialog = NameDialog("Clean up", "Drops the old side.", "documents", either=either)
            app.push_screen(dialog)
            await until(pilot, lambda head=head: head in picture(app))
            assert "3 were heard from" in picture(app) and "-- " not in picture(app)
    async with shown(states.READY, (160, 45)) as (app, pilot, _):
        low = CutoverDialog(VIEW, 100, ())
        app.push_screen(low)
        await until(pilot, lambda: low.query(Button) and low.query_one("#go").region.height)
        assert low.query_one(".dialog").region.height < 20


THEIRS = " ".join(
    [*foreign(states.COMPARISON), *foreign(states.PLAN), *foreign(states.FAULT_ROWS), *foreign(states.BLOCKERS)]
)
"""What the screens show beside the snapshot: documents, queries, SQL, reasons."""


@SIZES
async def test_no_screen_cuts_a_word_of_its_own_in_any_state(shown: Open, size: tuple[int, int]) -> None:
    wrong: dict[tuple[str, str], list[str]] = {}
    async with shown(states.FRESH, size) as (app, pilot, engine):
        app.rates.extend(range(60))
        for state, snapshot in states.WORDY.items():
            engine.shown = snapshot
            await present(app, pilot, snapshot)
            for screen in SCREENS:
                app.goto(screen)
                await until(pilot, lambda: not app.bridge.reading)
                await pilot.pause()
                theirs = " ".join([THEIRS, *foreign(snapshot), *foreign(engine.audit()), *foreign(app.events)])
                if found := cut_words(picture(app), theirs):
                    wrong[state, screen] = found
    assert not wrong, "\n".join(f"{where}: {each}" for where, found in wrong.items() for each in found)


async def test_what_a_silent_worker_did_is_told_as_past(shown: Open) -> None:
    silent = replace(states.WORKERS[0], alive=False, heartbeat_seconds=24.0)
    async with shown(states.RUNNING) as (app, pilot, _):
        app.goto("workers")
        await present(app, pilot, replace(states.RUNNING, workers=(silent,)))
        said = picture(app)
        assert "was embedding 412 rows" in said and "was waiting for changes" in said
        await present(app, pilot, states.RUNNING)
        assert "was embedding" not in picture(app)


@SIZES
async def test_workers_says_nothing_by_half(shown: Open, size: tuple[int, int]) -> None:
    """Neither of a process nor of a thread, in the engine's own words."""
    host = "ip-10-0-12-17.eu-central-1.compute.internal"
    async with shown(states.RUNNING, size) as (app, pilot, _):
        app.goto("workers")
        for doing in doings():
            threads = tuple(ThreadStatus(f"embedtui-{each}", doing, states.NOW) for each in ("read", "embed-12"))
            at_work = WorkerStatus(1, host, 41_207, doing, states.NOW, 0.8, True, rows=5_218_400, threads=threads)
            await present(app, pilot, replace(states.RUNNING, workers=(at_work, replace(at_work, id=2, own=True))))
            await pilot.pause()
            assert not (cut := cut_words(picture(app), f"{host} {LEAF}")), cut
            assert picture(app).count(doing.split()[0].rstrip(":")) >= 6, doing


@SIZES
async def test_a_message_covers_nothing_of_what_is_open_and_stays_where_it_was(size: tuple[int, int]) -> None:
    opened = {**DIALOGS, "help": lambda: HelpScreen(None), "settings": SettingsScreen}
    app = Dashboard(lambda _: StandIn(TABLE), remember=False, interval=3600)
    async with app.run_test(size=size, notifications=True) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        for name, make in opened.items():
            app.clear_notifications()
            app.say("said before")
            await until(pilot, lambda: any(each.region.height for each in toasts(app)))
            bottom = max(each.region.bottom for each in toasts(app))
            app.push_screen(dialog := make())
            await until(pilot, lambda dialog=dialog: app.screen is dialog and bool(dialog.query(".dialog")))
            app.trouble(Trouble("Table", "It is another one's. " * 9, "Look at it."))
            await until(pilot, lambda: any(each.region.height > 2 for each in toasts(app)))
            await pilot.pause()
            box = dialog.query_one(".dialog")
            assert not any(box.region.overlaps(each.region) for each in toasts(app)), name
            assert max(each.region.bottom for each in toasts(app)) == bottom, name
            for each in (button for button in dialog.query(Button) if button.display):
                assert box.region.contains_region(each.region), f"{name}: {each.id} is out of sight"
            app.pop_screen()
            await until(pilot, lambda dialog=dialog: app.screen is not dialog)


async def test_a_dialog_shows_what_enter_does(shown: Open) -> None:
    """Wherever its focus is: the marked button is the one that is pressed, and none is where none would be."""
    async with shown(TABLE, (80, 24)) as (app, pilot, _):
        for name, make in DIALOGS.items():
            app.push_screen(dialog := make())
            await until(pilot, lambda dialog=dialog: app.screen is dialog and bool(dialog.query(Button)))
            for stop in dialog.focus_chain:
                dialog.set_focus(stop)
                await pilot.pause()
                marked = [each for each in dialog.query(Answer) if each.entered]
                submits = isinstance(stop, dialog.SUBMITS)
                wanted = [dialog.query_one("#go", Answer)] if submits else [stop]
                assert marked == (wanted if submits or isinstance(stop, Button) else []), f"{name}: {stop}"
                if marked and not marked[0].disabled:
                    assert picture(app).count(f"⏎ {marked[0].label}") == 1, f"{name}: {stop}"
            app.pop_screen()
            await until(pilot, lambda dialog=dialog: app.screen is not dialog)


LOUD = ("read", "ask", "load", "copy", "export", "verdict", "note", "stop", "decide", "share", "bridged", "open")
"""Actions that do something, or say why not; the others change what is listed."""


async def test_a_key_that_is_refused_says_why(shown: Open) -> None:
    """Every key of every screen, in a state in which next to nothing may be done."""
    async with shown(replace(states.FRESH, migration=None), (80, 24)) as (app, pilot, engine):
        for screen in SCREENS:
            app.goto(screen)
            await until(pilot, lambda: not app.bridge.reading)
            own = app.screen._bindings.key_to_bindings.items()
            offered = [key for key, bindings in own if any(each.action.startswith(LOUD) for each in bindings)]
            for key in ["enter", *offered]:
                app.clear_notifications()
                calls = len(engine.calls)
                await pilot.press(key)
                await pilot.pause()
                answered = app._notifications or isinstance(app.screen, ModalScreen) or len(engine.calls) > calls
                assert answered, f"{key} on {screen} says nothing"
                if isinstance(app.screen, ModalScreen):
                    await pilot.press("escape")


_LONG = "429: Rate limit reached for text-embedding-3-large in organization org-4f1 on tokens per min. "


@SIZES
@pytest.mark.parametrize("cause", ["", "429: Rate limit reached. ", _LONG], ids=["none", "short", "long"])
async def test_what_a_hold_says_of_its_end_is_shown_whole(shown: Open, size: tuple[int, int], cause: str) -> None:
    """When it is tried again, and every figure of the pace; of what the provider said as much as has room."""
    rate = states.RATE_LIMITED.reasons[0]
    assert rate.cause == "429: Rate limit reached." and rate.outlook.startswith("Next try at ")
    for outlook in (rate.outlook, "Asking again now.", "Next try at 03:12:52 UTC."):
        hold = replace(rate, detail=f"{cause}{outlook}")
        async with shown(states.FRESH, size) as (app, pilot, _):
            await present(app, pilot, replace(states.RATE_LIMITED, reasons=(hold,)))
            await pilot.pause()
            box = app.screen.query_one("#holds", Panel)
            said = " ".join(str(box.render()).split())
            assert outlook in said and (not cause or "429" in said), said
            assert len(str(box.render()).splitlines()) <= box.content_size.height
