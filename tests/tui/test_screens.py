"""What screens do with what they are shown: lists keep their place, fields say how they are left."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from textual.events import Key
from textual.pilot import Pilot
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Button, Input, Static

from embedtui.cli.setup import _print_plan
from embedtui.errors import Interrupted
from embedtui.model import Blocker, Check, Condition, Hold, Noted, Phase, Plan, Snapshot
from embedtui.tui import preferences
from embedtui.tui.actions import SCREENS
from embedtui.tui.app import Dashboard
from embedtui.tui.dialogs import CutoverDialog, LimitsDialog, NameDialog, PrepareDialog, WaitingDialog
from embedtui.tui.dialogs.base import Answer, NamedDialog
from embedtui.tui.dialogs.faults import DecideDialog
from embedtui.tui.messages import EngineReported, SnapshotTaken
from embedtui.tui.palette import ActionsProvider
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.screens.compare import CompareScreen
from embedtui.tui.screens.help import HelpScreen
from embedtui.tui.screens.plan import PlanScreen
from embedtui.tui.screens.workers import WorkersScreen
from embedtui.tui.tour import Tour
from embedtui.tui.widgets.listing import Listing
from embedtui.tui.widgets.panel import Panel
from embedtui.tui.widgets.sheet import Sheet
from tests.tui import states
from tests.tui.conftest import Open, front, painting, picture, present, said, until
from tests.tui.standin import StandIn


async def test_the_log_follows_also_behind_a_dialog(shown: Open) -> None:
    """What happens while a dialog is open is on the screen when it closes."""
    async with shown(states.RUNNING) as (app, pilot, _):
        await pilot.press("6")
        listing = app.screen.query_one("#log", Listing)
        await until(pilot, lambda: listing.count == len(states.AUDIT))
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, LimitsDialog))
        for number in range(40):
            app.post_message(EngineReported(Noted(states.NOW, f"Note {number}")))
        await pilot.pause()
        await pilot.press("escape")
        await until(pilot, lambda: listing.count == len(states.AUDIT) + 40)
        await until(pilot, lambda: listing.scroll_offset.y + listing.size.height >= listing.count)
        assert "Note 39" in app.export_screenshot().replace("&#160;", " ")
        app.post_message(EngineReported(Noted(states.NOW, "word " * 30 + "end")))
        await until(pilot, lambda: listing.count == len(states.AUDIT) + 41)
        await until(pilot, lambda: "word end" in picture(app))  # the line under the cursor is read whole


async def test_enter_says_the_headline_in_full(shown: Open) -> None:
    failed = Hold("failure", "401: wrong key. " * 9 + "Put a valid key into THE_KEY.")
    async with shown(replace(states.RUNNING, condition=Condition.FAILED, reasons=(failed,))) as (app, pilot, _):
        await pilot.press("enter")
        await until(pilot, lambda: failed.detail in said(app))


async def answered(app: Dashboard, pilot: Pilot[None]) -> None:
    """Waits until the database was read, or could not be."""
    await until(pilot, lambda: app.link.problem or app.snapshot)


def footer(app: Dashboard) -> str:
    return str(app.screen.query_one("#footer", Panel).render())


async def test_a_burst_of_keys_keeps_its_spaces(shown: Open) -> None:
    """A table's name may have some; a slow line delivers all of it before the focus has moved to the field."""
    async with shown(states.READY) as (app, pilot, _):
        await pilot.press("3", "x")
        await until(pilot, lambda: isinstance(app.screen, CutoverDialog))
        for character in " Doc Chunks":
            app.post_message(Key("space" if character == " " else character, character))
        field = app.screen.query_one("#typed", Input)
        await until(pilot, lambda: field.value.endswith("s"))
        assert field.value == "Doc Chunks"


async def test_while_typing_the_footer_has_the_keys_that_leave_the_field(shown: Open) -> None:
    """The others would be typed; those of the screen are back afterwards."""
    async with shown(states.RUNNING) as (app, pilot, _):
        await pilot.press("6")
        await until(pilot, lambda: "f Follow" in footer(app))
        await pilot.press("slash")
        await until(pilot, lambda: "Esc Clear" in footer(app))
        assert "f Follow" not in footer(app)
        assert "F9" in footer(app)
        await pilot.press("f", "enter")
        await until(pilot, lambda: "f Follow" in footer(app))
        assert app.screen.query_one("#filter", Input).value == "f"


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize(
    ("screen", "first", "more"),
    [
        ("2", ("n New better", "o Old better", "s Same"), ("a Ask", "L Load")),
        ("4", ("e Retry", "s Skip", "h Shorten"), ("/ Filter", "w Order")),
        ("5", ("Q Stop", "w Order", "y Copy"), ("c Compare",)),
    ],
)
async def test_the_footer_has_as_many_keys_as_it_has_room_for(
    shown: Open, screen: str, first: tuple[str, ...], more: tuple[str, ...], width: int
) -> None:
    """The more important ones come first, and rollback, help and quit keep their place."""
    async with shown(replace(states.RUNNING, evaluation=states.EVALUATION, faults=states.FAULTS), (width, 24)) as (
        app,
        pilot,
        _,
    ):
        await pilot.press(screen)
        await until(pilot, lambda: first[0] in footer(app))
        told = footer(app)
        places = [told.find(each) for each in (*first, *more)]
        assert all(place > 0 for place in places if width == 160)
        there = [place for place in places if place > 0]
        assert there == sorted(there) and len(there) >= 3, told
        assert told.index("? Help") < told.index("q Quit") < told.index("F9") and max(there) < told.index("? Help")


async def test_where_nothing_is_listed_the_footer_has_what_brings_something(shown: Open) -> None:
    async with shown(states.FRESH, (80, 24)) as (app, pilot, _):
        await pilot.press("2")
        await until(pilot, lambda: "a Ask" in footer(app))
        assert "L Load" in footer(app) and "Filter" not in footer(app)
        await pilot.press("4")
        await until(pilot, lambda: "Order" not in footer(app) and "Ask" not in footer(app))


async def test_help_begins_with_the_part_that_has_the_focus(shown: Open) -> None:
    async with shown(states.READY) as (app, pilot, _):
        await pilot.press("4", "question_mark")
        first, second, *_ = str(app.screen.query_one("#help-text", Static).content).splitlines()
        assert first == "Reasons"
        assert "PgDn ^f Page down" in second
        await pilot.press("escape", "7", "question_mark")
        first, second, *_ = str(app.screen.query_one("#help-text", Static).content).splitlines()
        assert first == "Checks"
        assert "↓ Scroll down" in second


async def test_the_palette_has_what_is_sensible_first_and_what_is_impossible_last(shown: Open) -> None:
    async with shown(states.READY) as (app, _, __):
        entries = [name for name, _, _ in ActionsProvider(app.screen).entries()]
        assert entries[0].startswith(("Cut over", "Pause", "Compare"))
        impossible = [text.startswith("not now: ") for _, _, text in ActionsProvider(app.screen).entries()]
        assert impossible == sorted(impossible)
        assert any(impossible)


async def test_a_postponed_cutover_can_be_taken_back_from_anywhere(shown: Open) -> None:
    """Its key is in the footer while there is something to take back, and refused with a reason otherwise."""
    async with shown(states.READY) as (app, pilot, engine):
        await pilot.press("Z")
        assert "No cutover is postponed" in said(app)
        pending = replace(states.READY, route=replace(states.READY.route, pending="100 % when the queue is empty"))
        app.post_message(SnapshotTaken(pending))
        await until(pilot, lambda: "Z Call off" in footer(app))
        assert "postponed: 100 %" in str(app.screen.query_one("#route", Panel).render())
        await pilot.press("Z")
        await until(pilot, lambda: "cancel_postponed" in engine.calls)


async def test_the_index_is_held_back_and_let_go_by_key(shown: Open) -> None:
    async with shown(states.RUNNING) as (app, pilot, engine):
        await pilot.press("I")
        await until(pilot, lambda: "hold_index True" in engine.calls)
        held = replace(states.RUNNING, migration=replace(states.MIGRATION, index_held=True))
        app.post_message(SnapshotTaken(held))
        await until(pilot, lambda: "held back" in str(app.screen.query_one("#index", Panel).render()))
        await pilot.press("I")
        await until(pilot, lambda: "hold_index False" in engine.calls)
        app.post_message(SnapshotTaken(replace(held, phase=Phase.INDEX)))
        await until(pilot, lambda: "i  Build index" in str(app.screen.query_one("#advice", Panel).render()))
        app.post_message(SnapshotTaken(states.READY))
        await until(pilot, lambda: app.snapshot is states.READY)
        await pilot.press("I")
        assert "no index any more" in said(app)


async def test_the_mouse_does_what_keys_do(shown: Open) -> None:
    async with shown(states.READY, (100, 30)) as (app, pilot, _):

        async def click(panel: str, text: str) -> None:
            shown_text = str(app.screen.query_one(panel, Panel).render())
            await pilot.click(panel, offset=(shown_text.index(text) + 1, 0))

        await click("#rail", "4 Faults")
        await until(pilot, lambda: app.current_mode == "faults")
        await click("#rail", "1 Overview")
        await until(pilot, lambda: app.current_mode == "overview")
        await click("#footer", "Cut over")
        await until(pilot, lambda: isinstance(app.screen, CutoverDialog))


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [("x", states.READY, states.CANARY), ("K", states.CUT_OVER, replace(states.CUT_OVER, route=states.CANARY.route))],
)
async def test_a_dialog_acts_on_what_it_showed(shown: Open, key: str, before: Snapshot, after: Snapshot) -> None:
    """Another terminal moves the pointer while it is open: then nothing is done, and it is asked again."""
    async with shown(before) as (app, pilot, engine):
        await pilot.press(key)
        await until(pilot, lambda: isinstance(app.screen, NamedDialog))
        await present(app, pilot, after)
        await until(pilot, lambda: "moved the pointer meanwhile" in picture(app))
        app.screen.query_one("#typed", Input).value = "documents"
        asked = app.screen
        await pilot.press("tab", "enter")
        await until(pilot, lambda: app.screen is not asked)
        await until(pilot, lambda: "moved the pointer meanwhile" in said(app))
        assert not [call for call in engine.calls if call.startswith(("cutover", "cleanup"))]


@pytest.mark.parametrize(("key", "before"), [("x", states.CANARY), ("K", states.CUT_OVER)])
@pytest.mark.parametrize("asked", [True, False])
async def test_a_rollback_closes_the_dialog_that_is_about_the_pointer(
    shown: Open, key: str, before: Snapshot, asked: bool
) -> None:
    """Once it is open, and while what it has to say is still asked for."""
    async with shown(before) as (app, pilot, engine):
        answered = threading.Event()
        blockers = engine.blockers
        engine.blockers = lambda *given, **kept: (asked or answered.wait(), blockers(*given, **kept))[1]  # type: ignore[method-assign]
        await pilot.press(key)
        await until(pilot, lambda: isinstance(app.screen, NamedDialog if asked else WaitingDialog))
        await pilot.press("f9")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
        answered.set()
        await until(pilot, lambda: "nothing was done: the pointer moved" in said(app) and "Rolled back" in said(app))
        await pilot.pause(0.2)
        assert isinstance(app.screen, DashboardScreen)


async def test_a_rollback_leaves_other_dialogs(shown: Open) -> None:
    async with shown(states.CUT_OVER) as (app, pilot, _):
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, LimitsDialog))
        await pilot.press("f9")
        await until(pilot, lambda: "Rolled back" in said(app))
        assert isinstance(app.screen, LimitsDialog)


async def test_the_plan_is_read_anew_once_the_migration_has_moved_on(shown: Open) -> None:
    async with shown(states.READY) as (app, pilot, engine):
        for reads, state in ((1, states.READY), (1, states.READY), (2, states.CUT_OVER)):
            await present(app, pilot, state)
            await pilot.press("7")
            await until(pilot, lambda: isinstance(app.screen, PlanScreen) and app.screen.plan is not None)
            await until(pilot, lambda reads=reads: engine.calls.count("plan") == reads)
            await pilot.press("1")
            await until(pilot, lambda: app.current_mode == "overview")


async def test_a_migration_that_is_done_is_planned_no_more_until_somebody_asks(shown: Open) -> None:
    """What its settings would meet on the table now are another one's checks, and most of them fail."""
    async with shown(states.DONE) as (app, pilot, engine):
        await pilot.press("7")
        await until(pilot, lambda: "This migration is done: nothing is left to plan" in picture(app))
        assert "plan" not in engine.calls
        await pilot.press("r")
        await until(pilot, lambda: "is done" in said(app))
        await pilot.press("n")
        await until(pilot, lambda: "another one" in picture(app) and "nothing is left" not in picture(app))
        await until(pilot, lambda: "r Run" in picture(app))
        assert engine.calls == ["plan"]
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, PrepareDialog))
        assert "run" not in engine.calls, "it is asked first"
        app.screen.query_one("#go", Button).press()
        await until(pilot, lambda: "run" in engine.calls)


async def test_a_model_that_does_not_answer_a_plan_is_named_and_left(
    shown: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[bool] = []

    def plan(
        _: StandIn,
        *,
        check_provider: bool = False,
        say: Callable[[str], None] = print,
        stop: threading.Event | None = None,
    ) -> Plan:
        if not check_provider:
            return states.PLAN
        say("small at http://127.0.0.1:8123/v1 does not answer since 03:12:44 UTC; given up after 20 s.")
        left.append(stop is not None and stop.wait(30))
        raise Interrupted("Stopped while a provider was asked.")

    monkeypatch.setattr(StandIn, "plan", plan)
    async with shown(states.READY) as (app, pilot, _):
        await pilot.press("7")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen) and app.screen.plan is not None)
        await pilot.press("a")
        await until(pilot, lambda: "does not answer since 03:12:44" in picture(app))
        assert "Esc stops" in picture(app)
        await pilot.press("escape")
        await until(pilot, lambda: left)
        await until(pilot, lambda: "does not answer" not in picture(app))
        assert left == [True]


async def test_what_is_copied_is_a_file_too(shown: Open, remembered: Path) -> None:
    async with shown(states.READY) as (app, pilot, _):
        await pilot.press("7")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen) and app.screen.plan is not None)
        await pilot.press("y")
        kept = (remembered / "exports" / "plan.sql").read_text("utf-8")
        assert app.clipboard == kept
        assert "CREATE INDEX CONCURRENTLY" in kept
        assert "plan.sql" in said(app)


async def test_the_next_session_looks_like_this_one_and_begins_at_what_matters(remembered: Path) -> None:
    """The theme is kept at once, not on a clean leave; a broken file is as good as none."""
    for expected in ("first", "kept", "broken"):
        app = Dashboard(lambda _: StandIn(states.READY), interval=3600)
        async with app.run_test(size=(80, 24)) as pilot:
            await answered(app, pilot)
            assert app.current_mode == "overview"
            if expected == "kept":
                assert app.theme == "embedtui-light"
                (remembered / "session.json").write_text("{broken", "utf-8")
                continue
            await pilot.press("4", "t")
            kept = preferences.load()
            assert kept.theme == "embedtui-light"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preferences.write_file(tmp_path / "kept", "before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        preferences.write_file(tmp_path / "kept", "after")
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text("utf-8") == "before"


async def test_reasons_are_filtered_by_their_words(shown: Open) -> None:
    async with shown(states.FAULTED) as (app, pilot, _):
        await pilot.press("4", "slash", *"content")
        groups = app.screen.query_one("#groups", Listing)
        await until(pilot, lambda: groups.count == 1)
        await until(pilot, lambda: app.screen.query_one("#fault-rows", Listing).count == 12)
        await pilot.press("x", "x")
        await until(pilot, lambda: groups.count == 0 and "Esc clears" in groups.empty)
        await pilot.press("escape")
        await until(pilot, lambda: groups.count == len(states.FAULTS) and groups.has_focus)


async def test_a_decision_is_of_the_reason_that_was_read(shown: Open) -> None:
    """Reasons are listed by their numbers, which change meanwhile: the cursor stays, and the dialog names it."""
    long, content, *others = states.FAULTS
    async with shown(states.FAULTED) as (app, pilot, _):
        await pilot.press("4")
        groups = app.screen.query_one("#groups", Listing)
        await until(pilot, lambda: groups.count == len(states.FAULTS) and groups.cursor == 0)
        more = (replace(content, count=900), long, *others)
        await present(app, pilot, replace(states.FAULTED, faults=more))
        await until(pilot, lambda: groups.cursor == 1)
        await pilot.press("h")
        await until(pilot, lambda: isinstance(app.screen, DecideDialog))
        assert long.reason in picture(app) and content.reason not in "".join(
            str(each.render()) for each in app.screen.query(Static)
        )


async def test_workers_are_ordered_and_copied(shown: Open, remembered: Path) -> None:
    busiest = replace(states.WORKERS[1], rows=900_000)
    async with shown(replace(states.FAULTED, workers=(states.WORKERS[0], busiest))) as (app, pilot, _):

        def hosts() -> list[str]:
            return list(dict.fromkeys(worker.host for worker, _, _ in front(app, WorkersScreen).lines))

        await pilot.press("5")
        await until(pilot, lambda: hosts() == ["ops-1", "batch-3"])
        await pilot.press("w")
        assert hosts() == ["batch-3", "ops-1"]
        await pilot.press("y")
        kept = (remembered / "exports" / "workers.tsv").read_text("utf-8").splitlines()
        assert kept[0].split("\t")[:2] == ["batch-3", "1188"]
        assert "embedding 405 rows" in kept[1]
        hostile = replace(busiest, host="[/]\x1b[31m")
        await present(app, pilot, replace(states.FAULTED, workers=(hostile,)))
        await until(pilot, lambda: hosts() == [hostile.host])
        await pilot.press("home", "enter")
        await until(pilot, lambda: "[/]·[31m:1188 · " in said(app))


async def test_every_screen_says_something_before_anything_is_known() -> None:
    """Neither a database that was never reached nor one without a migration leaves a screen, or a list on it, blank."""

    def unreachable(_: object) -> StandIn:
        raise OSError("refused")

    for open_engine in (unreachable, lambda _: StandIn(states.FRESH)):
        app = Dashboard(open_engine, remember=False, interval=3600)
        async with app.run_test(size=(80, 24)) as pilot:
            await answered(app, pilot)
            for name in SCREENS:
                app.goto(name)
                await pilot.pause()
                assert app.current_mode == name
                lists = [each for each in app.screen.query(Listing) if not each.count]
                assert all(each.empty for each in lists), name
                body = [each for each in app.screen.query(Panel) if each.id not in ("header", "rail", "footer")]
                said = [each.empty for each in lists] + [str(each.render()) for each in body]
                said += [str(each.query_one(Static).content) for each in app.screen.query(Sheet)]
                assert any(each.strip() for each in said), name


async def test_rows_that_would_lose_their_only_vector_are_typed_by_their_number(shown: Open) -> None:
    """A reason passes what the dialog shows, each by its own name; the count is typed, and not part of a reason."""
    soak = Blocker("soak", "The new side has served for 1 h of 7 days.", overridable=True)
    coverage = Blocker("coverage", "73 rows have an old vector and no new one.", overridable=True, rows=73)
    async with shown(states.CUT_OVER, (120, 40)) as (app, pilot, engine):
        engine.blocked = (soak, coverage)
        given: list[dict[str, str]] = []
        engine.cleanup = lambda name, **options: given.append(dict(options["override"]))
        await pilot.press("K")
        await until(pilot, lambda: isinstance(app.screen, NameDialog))
        app.screen.query_one("#typed", Input).value = app.view.table
        app.screen.query_one("#override", Input).value = "so ordered"
        await pilot.pause()
        assert app.screen.query_one("#go", Button).disabled
        app.screen.query_one("#typed", Input).focus()
        await pilot.press("enter")
        assert app.focused is app.screen.query_one("#rows-coverage-73", Input), "Enter goes to what is missing"
        await pilot.press("7", "4")
        assert app.screen.query_one("#go", Button).disabled
        await pilot.press("backspace", "3", "enter")
        await until(pilot, lambda: given)
        assert given == [{"soak": "so ordered", "coverage:73": "so ordered"}]


async def test_an_obstacle_whose_count_moves_on_is_asked_for_once(shown: Open) -> None:
    """Both choices and the table are looked at one after the other, and the application writes meanwhile."""
    async with shown(states.CUT_OVER, (120, 40)) as (app, pilot, engine):
        counts = itertools.count(1)
        engine.blockers = lambda *_, **__: (  # type: ignore[method-assign]
            Blocker("queue", "Changes still wait for their new vectors.", overridable=True, rows=next(counts)),
        )
        await pilot.press("K")
        await until(pilot, lambda: isinstance(app.screen, NameDialog) and len(app.screen.query(".override")) == 2)
        assert len(app.screen.query(".obstacle")) == 1


async def test_what_was_asked_for_is_said_to_be_under_way_at_once(shown: Open) -> None:
    """On whatever screen, while the database has not answered yet."""
    async with shown(states.CUT_OVER, (80, 24)) as (app, pilot, engine):
        answered = threading.Event()
        rollback, compare = engine.rollback, engine.compare
        engine.rollback = lambda: (answered.wait(), rollback())[1]  # type: ignore[method-assign]
        engine.compare = lambda *_, **__: (answered.wait(), compare())[1]  # type: ignore[method-assign]
        await pilot.press("f9")
        await until(pilot, lambda: "◌ rolling back …" in picture(app))
        await pilot.press("c")
        await until(pilot, lambda: app.current_mode == "compare" and "comparing" in picture(app))
        answered.set()
        await until(pilot, lambda: "◌ rolling" not in picture(app))


async def test_what_stands_behind_a_dialog_goes_on(shown: Open) -> None:
    """Behind the help, too, in which nothing moves."""
    async with shown(states.RUNNING, (160, 45)) as (app, pilot, _):
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        painted = await painting(app, pilot)
        await present(app, pilot, replace(states.RUNNING, backfill=replace(states.BACKFILL, rows=400_000)))
        await until(pilot, lambda: painted)


async def test_what_is_said_covers_neither_panels_nor_buttons() -> None:
    app = Dashboard(lambda _: StandIn(states.READY), remember=False, interval=3600)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        app.say("The pointer is there already: nothing changed.")
        await until(pilot, lambda: any(toast.region.height for toast in toasts(app)))
        (toast,) = toasts(app)
        assert (toast.region.bottom, toast.region.height) == (23, 1), "above the keys"
        assert (toast.region.x, toast.region.right) == (0, 80), "no half of a line beside it"
        app.say("An act of somebody else's, with a reason. " * 90, title="somebody@" + "host" * 90)
        await until(pilot, lambda: any(toast.region.height > 1 for toast in toasts(app)))
        assert min(toast.region.y for toast in toasts(app)) > app.screen.query_one("#advice").region.bottom + 2
        assert max(toast.region.bottom for toast in toasts(app)) == 23


def toasts(app: Dashboard) -> list[Widget]:
    return [each for each in app.screen.walk_children(Widget) if type(each).__name__ == "Toast"]


async def test_the_command_for_a_second_terminal_is_in_the_help(shown: Open, remembered: Path) -> None:
    async with shown(states.RUNNING, (80, 24)) as (app, pilot, _):
        app.elsewhere = 'DATABASE_URL="postgresql://postgres@/demo?host=/x" embedtui status --watch'
        app.about = "5,000 documents, kept in /x/demo."
        await pilot.press("question_mark")
        await until(pilot, lambda: "From a second terminal" in picture(app) and "demo?host=/x" in picture(app))
        assert "5,000 documents, kept in /x/demo." in picture(app)
        await pilot.press("y")
        file = remembered / "exports" / "second-terminal.sh"
        await until(pilot, file.is_file)
        assert file.read_text("utf-8") == app.elsewhere


async def test_enter_in_a_dialogs_sql_goes_to_what_is_missing_and_then_on(shown: Open) -> None:
    async with shown(states.CUT_OVER, (80, 24)) as (app, pilot, engine):
        engine.cleanup_sql = lambda **_: tuple(f"DROP INDEX idx_{n}" for n in range(30))  # type: ignore[method-assign]
        await pilot.press("K")
        await until(pilot, lambda: isinstance(app.screen, NameDialog) and bool(app.screen.focused))
        sql, go = app.screen.query_one(".sql"), app.screen.query_one("#go", Answer)
        plain = sql.styles.border_left
        sql.focus()
        await until(pilot, lambda: app.screen.focused is sql and sql.styles.border_left != plain)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.focused is app.screen.query_one("#typed"))
        await pilot.press(*"documents")
        sql.focus()
        await until(pilot, lambda: go.entered and not go.disabled)
        await pilot.press("enter")
        await until(pilot, lambda: any(call.startswith("cleanup") for call in engine.calls))


@pytest.mark.parametrize("count", [1, 2])
async def test_what_a_dialog_wants_typed_is_in_sight_beside_whatever_it_would_run(shown: Open, count: int) -> None:
    """Also on a small terminal, and with long SQL: that scrolls."""
    against = tuple(Blocker(f"check {n}", "Something stands against it.", overridable=True) for n in range(count))
    async with shown(states.CUT_OVER, (80, 24)) as (app, pilot, engine):
        engine.blocked = against
        engine.cleanup_sql = lambda **_: tuple(f"DROP INDEX idx_{n}" for n in range(30))  # type: ignore[method-assign]
        notice = Check("names", "warn", "The names stay, and here is why, at some length. " * 3)
        engine.cleanup_notices = lambda **_: (notice,)  # type: ignore[method-assign]
        await pilot.press("K")
        await until(pilot, lambda: isinstance(app.screen, NameDialog))
        box = app.screen.query_one(".dialog")
        await until(pilot, lambda: box.size.height)
        buttons = app.screen.query_one(".buttons").region
        for field in app.screen.query(Input):
            assert box.region.y < field.region.y < buttons.y, field.id


async def test_what_the_plan_does_is_said_at_once_and_where_it_cannot_scroll_away(shown: Open) -> None:
    answers = threading.Event()
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        plan = engine.plan
        engine.plan = lambda **_: answers.wait(60) and plan()  # type: ignore[method-assign]
        answers.set()
        await pilot.press("7")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen) and app.screen.plan is not None)
        answers.clear()
        await pilot.press("end")
        for key, said_of_it in (("a", "asking the models"), ("n", "reading the table")):
            await pilot.press(key)
            assert said_of_it in str(app.screen.query_one("#plan-line", Panel).render())
            answers.set()
            await until(pilot, lambda: "◌" not in picture(app))
            answers.clear()


async def test_what_is_in_the_way_comes_first_on_the_plan_and_is_named(
    shown: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ["pass", "unknown", "warn", "fail", "unknown", "warn", "pass"]
    checks = tuple(Check(f"check{at}", result, "Said.") for at, result in enumerate(results))
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        engine.plan = lambda **_: replace(states.PLAN, checks=checks)  # type: ignore[method-assign]
        await pilot.press("7")
        await until(pilot, lambda: "check3" in picture(app))
        assert "✗ 1 check in the way: check3" in str(app.screen.query_one("#plan-line", Panel).render())
        assert isinstance(app.screen, PlanScreen)
        plan = app.screen.plan
        assert plan is not None
        read = app.screen._checks(70).plain
    _print_plan(plan, asked=True)
    for told in (read, capsys.readouterr().out):
        assert re.findall(r"check(\d)", told) == list("3251406")


@pytest.mark.parametrize(("others", "said_of_them"), [(0, "Nobody works then"), (1, "Others go on")])
async def test_what_becomes_of_the_work_is_said_before_a_worker_is_stopped(
    shown: Open, others: int, said_of_them: str
) -> None:
    first = next(each for each in states.RUNNING.workers if each.alive)
    workers = (first, *(replace(first, id=first.id - n, pid=n) for n in range(1, others + 1)))
    dead = replace(first, id=first.id + 1, alive=False)
    async with shown(replace(states.RUNNING, workers=(*workers, dead))) as (app, pilot, _):
        await pilot.press("5", "Q")
        await until(pilot, lambda: said_of_them in picture(app))


async def test_the_palette_has_every_action_and_brings_its_screen_to_the_front(shown: Open) -> None:
    async with shown(states.READY) as (app, pilot, _):
        names = {name for name, _, _ in ActionsProvider(app.screen).entries()}
        for mode, (_, title) in SCREENS.items():
            own = [each for several in app.MODES[mode]()._bindings.key_to_bindings.values() for each in several]
            wanted = {each.description for each in own if each.tooltip and each.description not in ("Zoom", "Open")}
            assert wanted <= {name.removeprefix(f"{title}: ").rpartition("  (")[0] for name in names}, mode
        await pilot.press("ctrl+p")
        await pilot.pause()
        await pilot.press(*"blind")
        await until(pilot, lambda: "Compare: Blind" in picture(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen) and app.screen.blind.on)


@pytest.mark.parametrize("key", "1456")
async def test_a_screen_that_comes_back_is_laid_out_once(
    shown: Open, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has changed meanwhile; a second layout would come before its first picture."""
    laid_out: list[Screen[object]] = []
    lay_out = Screen._refresh_layout

    def count(self: Screen[object], *arguments: object, **options: object) -> None:
        laid_out.append(self)
        lay_out(self, *arguments, **options)  # type: ignore[arg-type]

    async with shown(states.RUNNING, (160, 45)) as (app, pilot, _):
        for each in (key, "7", key, "7"):
            await pilot.press(each)
            await painting(app, pilot)
        monkeypatch.setattr(Screen, "_refresh_layout", count)
        await pilot.press(key)
        await painting(app, pilot)
        assert laid_out == [app.screen]


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
async def test_a_message_leaves_the_hint_free_and_is_said_once_beside_a_dialog(size: tuple[int, int]) -> None:
    app = Dashboard(lambda _: StandIn(states.RUNNING), remember=False, interval=3600)
    async with app.run_test(size=size, notifications=True) as pilot:
        app.tour = Tour()
        await until(pilot, lambda: app.snapshot is not None)
        app.say("Sent to the clipboard")
        app.show()
        await until(pilot, lambda: any(toast.region.height for toast in toasts(app)))
        (toast,) = toasts(app)
        assert app.screen.query_one("#tour").region.height == 1
        assert toast.region.bottom == app.screen.query_one("#tour").region.y
        assert "Hint 1/7" in picture(app) and "Sent to the clipboard" in picture(app)
        for key in ("v", "question_mark"):
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, ModalScreen) and toasts(app))
            await pilot.pause(0.1)
            assert picture(app).count("Sent to the clipboard") == 1
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(app.screen, ModalScreen))
            await until(pilot, lambda: picture(app).count("Sent to the clipboard") == 1)
