"""Keys against the real engine on a real database: what an operator presses is what happens there."""

from __future__ import annotations

import ast
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
from textual.pilot import Pilot
from textual.widgets import Button, Input, OptionList, Static, TextArea

from embedtui.demo.api import LoopbackServer
from embedtui.demo.database import EmbeddedServer
from embedtui.engine import Engine, SubprocessEngine
from embedtui.model import Comparison, Condition, Phase, QueryInput, Side, Snapshot
from embedtui.postgres.connect import connect
from embedtui.tui.actions import ACTIONS, SCREENS
from embedtui.tui.app import Dashboard
from embedtui.tui.dialogs import (
    CutoverDialog,
    LimitsDialog,
    NameDialog,
    PrepareDialog,
    PromptDialog,
    QueriesDialog,
    ReportDialog,
    StopDialog,
    VerifyDialog,
)
from embedtui.tui.dialogs.faults import DecideDialog
from embedtui.tui.engine_threads import Task
from embedtui.tui.messages import Compared
from embedtui.tui.run import farewell
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.screens.compare import CompareScreen
from embedtui.tui.screens.faults import FaultsScreen
from embedtui.tui.screens.help import HelpScreen
from embedtui.tui.screens.log import LogScreen
from embedtui.tui.screens.plan import PlanScreen
from embedtui.tui.screens.reader import ReaderScreen
from embedtui.tui.screens.settings import SettingsScreen
from embedtui.tui.screens.workers import WorkersScreen
from embedtui.tui.widgets.panel import Panel
from tests.kits.support import NEW, OLD, make_documents, settings_for
from tests.tui.conftest import front, picture, said, until

ROWS = 300


@asynccontextmanager
async def dashboard(
    database: str, api: LoopbackServer, folder: Path, *, size: tuple[int, int] = (100, 30), readonly: bool = False
) -> AsyncIterator[tuple[Dashboard, Pilot[None]]]:
    settings = settings_for(database, api, folder)
    app = Dashboard(
        lambda sink: Engine(database, settings=settings, on_event=sink), readonly=readonly, remember=False, interval=0.1
    )
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        yield app, pilot


async def ready(app: Dashboard, pilot: Pilot[None]) -> None:
    """Runs the migration by its key until it can be validated."""
    await begin(app, pilot)
    await until(pilot, lambda: seen(app).phase is Phase.VALIDATE, 60)


async def begin(app: Dashboard, pilot: Pilot[None]) -> None:
    """Presses the key for the work, and agrees to what it says it will do to the table."""
    await pilot.press("r")
    await until(pilot, lambda: isinstance(app.screen, PrepareDialog))
    await pilot.press("tab", "enter")
    await until(pilot, lambda: app.view.running)


async def type_text(pilot: Pilot[None], text: str) -> None:
    # a screen is in front before it has given the focus to anything, and what is typed until then goes nowhere
    await until(pilot, lambda: pilot.app.focused is not None)
    await pilot.press(*(("space" if character == " " else character) for character in text))


def seen(app: Dashboard) -> Snapshot:
    assert app.snapshot is not None
    return app.snapshot


def compared(app: Dashboard) -> Comparison:
    assert app.comparison is not None
    return app.comparison


def route(database: str) -> tuple[str, int]:
    with psycopg.connect(database) as conn:
        row = conn.execute("SELECT active, canary FROM embedtui.route").fetchone()
    assert row is not None
    return row


async def test_the_whole_journey_by_keys(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """Run, compare, judge, cut over with a reason, roll back while typing and in a dialog, cut over again, clean up."""
    make_documents(database, ROWS, index=True)
    async with dashboard(database, api, tmp_path) as (app, pilot):
        # before there is a migration, everything but running is refused with a reason
        await pilot.press("x")
        assert "Start it: r (Run)" in said(app)
        await ready(app, pilot)
        assert app.view.running

        await pilot.press("c")
        await until(pilot, lambda: app.comparison is not None, 60)
        assert app.current_mode == "compare"
        first = compared(app).queries[0]
        await pilot.press("n")
        with connect(database, name="test") as conn:
            await until(pilot, lambda: conn.execute("SELECT count(*) FROM embedtui.verdict").fetchone() == (1,))
        assert compared(app).queries[0].query_id == first.query_id
        assert compared(app).queries[0].verdict == "new"
        # its note, once the cursor is on it again; and the sums follow
        await pilot.press("up", "e")
        await until(pilot, lambda: isinstance(app.screen, PromptDialog))
        await type_text(pilot, "finds the manual")
        await pilot.press("enter")
        with connect(database, name="test") as conn:
            kept = "SELECT verdict, note, query FROM embedtui.verdict"
            await until(pilot, lambda: conn.execute(kept).fetchall() == [("new", "finds the manual", first.query_id)])
        await until(pilot, lambda: compared(app).measures.wins_new == 1)

        def listed() -> list[str]:
            return [query.text for query in front(app, CompareScreen).shown]

        by_overlap = listed()
        await pilot.press("w", "w")
        assert listed() == sorted(by_overlap, key=str.casefold)
        await pilot.press("w")
        assert listed() == by_overlap

        # an own query, asked while the comparison is open, and left again
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, PromptDialog))
        await type_text(pilot, "number 7")
        await pilot.press("enter")
        await until(pilot, lambda: "ask" not in app.view.busy and front(app, CompareScreen).asked)
        await pilot.press("escape")
        assert app.preferences.queries == ("number 7",)

        # the dialog: Cancel is focused, Enter is harmless, only the whole name and a reason release the button
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, CutoverDialog))
        assert isinstance(app.focused, Button)
        assert app.focused.id == "cancel"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
        assert route(database) == ("old", 0)

        # typed ahead of the dialog: for it, and for nothing else
        await pilot.press("x", *"docum")
        await until(pilot, lambda: isinstance(app.screen, CutoverDialog))
        await until(pilot, lambda: "docum" in [field.value for field in app.screen.query(Input)])
        await type_text(pilot, "ent")
        await pilot.press("enter")
        assert isinstance(app.screen, CutoverDialog)
        assert "not the table's name" in str(app.screen.query_one(".dialog").border_subtitle)
        await type_text(pilot, "s")
        for field in app.screen.query("#override").results(Input):
            field.focus()
            await type_text(pilot, "so ordered")
        await pilot.press("enter")
        await until(pilot, lambda: seen(app).route.active is Side.NEW)
        assert route(database)[0] == "new"

        # rollback while an input has the focus
        await pilot.press("6", "slash")
        assert isinstance(app.focused, Input)
        await pilot.press("f9")
        await until(pilot, lambda: route(database)[0] == "old")
        await until(pilot, lambda: "rollback" not in app.view.busy)
        await pilot.press("escape")
        # pressed again it is a no-op that says so
        await pilot.press("f9")
        await until(pilot, lambda: "nothing to roll back" in said(app))

        # a share of reads first, and a rollback from inside a dialog
        await pilot.press("3", "s")
        await until(pilot, lambda: isinstance(app.screen, CutoverDialog))
        assert app.focused is app.screen.query_one("#percent", Input) and app.focused.value == "10"
        await pilot.press("tab")
        await type_text(pilot, "documents")
        for field in app.screen.query("#override").results(Input):
            field.focus()
            await type_text(pilot, "a few")
        await pilot.press("enter")
        await until(pilot, lambda: route(database) == ("old", 10))
        await until(pilot, lambda: app.view.new_reads)
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, LimitsDialog))
        await pilot.press("f9")
        await until(pilot, lambda: route(database) == ("old", 0))
        await pilot.press("escape")

        # the log has it all, with names
        await pilot.press("6")
        await until(
            pilot, lambda: isinstance(app.screen, LogScreen) and any("rollback" in e.text for e in app.screen.entries)
        )


async def test_cleanup_shows_its_sql_and_asks_for_the_name(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, ROWS)
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await ready(app, pilot)
        await pilot.press("K")
        assert "Cut over first" in said(app)
        app.bridge.do(Task("cutover", lambda engine, _: engine.cutover(override={"gate": "test"})))
        await until(pilot, lambda: seen(app).route.active is Side.NEW)
        await pilot.press("K")
        await until(pilot, lambda: isinstance(app.screen, NameDialog))
        assert "DROP COLUMN" in str(front(app, NameDialog).sql)
        await type_text(pilot, "documents")
        await pilot.press("enter")
        assert app.focused is app.screen.query_one("#override", Input), "Enter goes to what is missing"
        await type_text(pilot, "seen enough")
        assert "RENAME" in str(front(app, NameDialog).sql)
        await pilot.press("tab")
        await type_text(pilot, "old_vectors")
        await pilot.press("tab", "space")
        assert "old_vectors" in str(front(app, NameDialog).sql)
        assert "RENAME" not in str(front(app, NameDialog).sql)
        app.screen.query_one("#override", Input).focus()
        await pilot.press("enter")
        await until(pilot, lambda: seen(app).phase is Phase.DONE, 60)
        with psycopg.connect(database) as conn:
            assert conn.execute("SELECT count(*) FROM old_vectors").fetchone() == (ROWS,)
            conn.execute("SELECT embedding_v2 FROM documents")
        await pilot.press("p")
        assert "is done" in said(app)


async def test_abort_takes_everything_back(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, ROWS)
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await ready(app, pilot)
        await pilot.press("A")
        await until(pilot, lambda: isinstance(app.screen, NameDialog))
        await type_text(pilot, "documents")
        await pilot.press("enter")
        await until(pilot, lambda: seen(app).phase is Phase.ABORTED, 60)


async def test_pace_and_pause_by_keys(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 10 * ROWS, text="row {n} " + "x" * 600)
    async with dashboard(database, api, tmp_path) as (app, pilot):

        def pace(column: str) -> object:
            with psycopg.connect(database) as conn:
                row = conn.execute(f"SELECT {column} FROM embedtui.pace").fetchone()
            return row and row[0]

        async def paced(column: str, wanted: int) -> None:
            await until(pilot, lambda: pace(column) == wanted)

        api.latency = 3.0  # the backfill stays under way meanwhile
        await begin(app, pilot)
        await until(pilot, lambda: seen(app).backfill.concurrency is not None)
        # held first: until it is let go the index cannot be past, however slow the machine
        await pilot.press("I")
        await until(pilot, lambda: app.view.index_held and "hold" not in app.view.busy)
        before = seen(app).backfill.max_concurrency or 0
        await pilot.press(*["plus"] * 5, "minus")
        await paced("max_concurrency", before + 4)
        await until(pilot, lambda: "pace" not in app.view.busy)
        await pilot.press("I")
        await until(pilot, lambda: not app.view.index_held and "hold" not in app.view.busy)
        api.latency = 0.0
        await until(pilot, lambda: seen(app).phase is Phase.VALIDATE, 60)
        await pilot.press("plus", "plus", "plus")
        await until(pilot, lambda: "Only a backfill" in said(app))
        assert said(app).count("Only a backfill") == 1, "the same is said once at a time"

        await pilot.press("p")
        await until(pilot, lambda: seen(app).condition is Condition.PAUSED)
        await pilot.press("p")
        await until(pilot, lambda: seen(app).condition is not Condition.PAUSED)
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, LimitsDialog))
        await type_text(pilot, "120")
        app.screen.query_one("#spend_cap", Input).focus()
        await type_text(pilot, "7.5")
        await pilot.press("enter")
        await until(pilot, lambda: (pace("requests_per_minute"), pace("spend_cap")) == (120, 7.5))


async def test_verify_index_plan_theme_help_and_palette(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, ROWS)
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await pilot.press("7")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen) and app.screen.plan is not None)
        await pilot.press("y")
        assert "CREATE INDEX CONCURRENTLY" in (tmp_path / "exports" / "plan.sql").read_text("utf-8")
        await pilot.press("i")
        assert "Start it: r (Run)" in said(app)
        await ready(app, pilot)
        await pilot.press("i")
        assert "there and valid" in said(app)
        await pilot.press("v")
        await until(pilot, lambda: isinstance(app.screen, VerifyDialog))
        await type_text(pilot, "5")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ReportDialog))
        assert front(app, ReportDialog).report.sampled == 5
        await pilot.press("escape", "t")
        assert app.theme == "embedtui-light"
        for key, back in (("question_mark", "escape"), ("f1", "q")):
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, HelpScreen))
            await pilot.press(back)
            await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
        await pilot.press("ctrl+p")
        await until(pilot, lambda: not isinstance(app.screen, DashboardScreen))
        await type_text(pilot, "faults")
        found = app.screen.query_one(OptionList)
        await until(pilot, lambda: found.highlighted_option and "Faults" in str(found.highlighted_option.prompt))
        await pilot.press("enter")
        await until(pilot, lambda: app.current_mode == "faults")


async def confirm(app: Dashboard, pilot: Pilot[None]) -> None:
    """Goes on from the harmless button, once the dialog has given it the focus."""
    for name, key in (("cancel", "tab"), ("go", "enter")):
        await until(pilot, lambda name=name: app.focused is not None and app.focused.id == name)  # type: ignore[misc]
        await pilot.press(key)


async def test_faults_are_decided_one_and_all(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, ROWS)
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await ready(app, pilot)
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(
                # of the old side: those of rows with a fresh new vector are soon forgotten
                "INSERT INTO embedtui.fault (migration, key, side, class, reason) SELECT m.id, ARRAY[n::text], 'old',"
                " 'row', CASE WHEN n <= 250 THEN 'too long' ELSE 'refused [/] \x1b[31m' END"
                " FROM embedtui.migration m, generate_series(1, 260) n"
            )

            def states() -> dict[str, int]:
                return dict(conn.execute("SELECT state, count(*) FROM embedtui.fault GROUP BY 1").fetchall())

            await pilot.press("4")
            screen = app.screen
            assert isinstance(screen, FaultsScreen)
            await until(pilot, lambda: [group.count for group in screen.groups] == [250, 10])
            await pilot.press("w")
            assert [group.reason[:3] for group in screen.groups] == ["ref", "too"]
            await pilot.press("w")
            assert [group.reason[:3] for group in screen.groups] == ["too", "ref"]
            await pilot.press("tab", "end")
            await until(pilot, lambda: screen.row(249) is not None)
            await until(pilot, lambda: "document number 250" in picture(app) and "19 characters" in picture(app))
            await pilot.press("h")
            await until(pilot, lambda: isinstance(app.screen, DecideDialog))
            assert "Row 250 is embedded" in picture(app)
            assert isinstance(app.screen, DecideDialog) and "It has 19 characters now." in app.screen._says
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is screen)
            await pilot.press("s")
            await until(pilot, lambda: isinstance(app.screen, DecideDialog))
            await pilot.press("enter")  # Cancel is focused
            await until(pilot, lambda: app.screen is screen)
            assert states() == {"open": 260}
            await pilot.press("s")
            await until(pilot, lambda: isinstance(app.screen, DecideDialog))
            await confirm(app, pilot)
            await until(pilot, lambda: states() == {"open": 259, "skipped": 1})
            await until(pilot, lambda: any(group.count == 249 for group in screen.groups))
            screen.query_one("#groups").focus()
            await pilot.press("home")
            await until(pilot, lambda: app.focused is not None and app.focused.id == "groups")
            await pilot.press("s")
            await until(pilot, lambda: isinstance(app.screen, DecideDialog))
            await confirm(app, pilot)
            await until(pilot, lambda: states() == {"open": 10, "skipped": 250})


async def test_readonly_changes_nothing(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, ROWS)
    async with dashboard(database, api, tmp_path, readonly=True) as (app, pilot):
        await pilot.press("r", "f9", "A", "p")
        assert said(app).count("only watches") == 4
        assert not app.view.running
        for key in "12345":
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
            offered = {key.label for key in front(app, DashboardScreen).keys(app.view)}
            assert not offered & {"Run", "Stop", "Share", "Retry", "Skip", "New better", "Compare"}, offered
            assert {"Help", "Quit"} <= offered
        with psycopg.connect(database) as conn:
            assert conn.execute("SELECT to_regnamespace('embedtui')").fetchone() == (None,)


async def test_a_lost_database_is_shown_and_found_again(
    database: str, api: LoopbackServer, tmp_path: Path, server: EmbeddedServer
) -> None:
    make_documents(database, ROWS)
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await ready(app, pilot)
        name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            await until(pilot, lambda: app.view.stale)
            assert app.screen.has_class("-stale")
            assert app.snapshot is not None, "the last known state stays"
            await pilot.press("p")
            assert "out of reach" in said(app)
            await pilot.press("f9")
            await until(pilot, lambda: "Nothing was moved: " in said(app))
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await until(pilot, lambda: app.link.up)
        assert not app.screen.has_class("-stale")


async def test_hostile_documents_stay_text(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 40, text="[red]{n}[/] [/nothing] \x1b[2J \u202e boo [@click=app.quit]x[/]")
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await ready(app, pilot)
        query = QueryInput("[/] boo \x1b]0;x\x07")
        app.bridge.do(Task("compare", lambda engine, _: engine.compare([query]), result=Compared))
        await until(pilot, lambda: app.comparison is not None, 60)
        await pilot.press("2", "tab", "down", "left")
        await until(pilot, lambda: "[red]" in app.export_screenshot().replace("&#91;", "["))
        picture = app.export_screenshot()
        assert "\x1b" not in picture
        assert "\u202e" not in picture


def given(conn: psycopg.Connection[Any], verdict: str) -> bool:
    found = conn.execute("SELECT count(*) FROM embedtui.verdict WHERE verdict = %s", [verdict])
    return found.fetchone() == (1,)


def decided(conn: psycopg.Connection[Any], query: int, verdict: str) -> bool:
    return conn.execute("SELECT verdict FROM embedtui.verdict WHERE query = %s", [query]).fetchone() == (verdict,)


async def test_the_keys_of_the_other_screens(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """Verdicts and filters, the log's and the plan's keys, workers and their threads, copies that are files too."""
    make_documents(database, ROWS, index=True)
    exports = tmp_path / "exports"
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await pilot.press("7")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen) and app.screen.plan is not None)
        first = front(app, PlanScreen).plan
        await pilot.press("n")
        await until(pilot, lambda: front(app, PlanScreen).plan is not first)
        again = front(app, PlanScreen).plan
        asked = api.requests
        await pilot.press("a")
        await until(pilot, lambda: front(app, PlanScreen).plan is not again)
        assert api.requests > asked, "the provider was not asked"
        await ready(app, pilot)

        await pilot.press("5")
        screen = app.screen
        assert isinstance(screen, WorkersScreen)
        await until(pilot, lambda: any(thread is not None and "since" in since for _, thread, since in screen.lines))

        await pilot.press("c")
        await until(pilot, lambda: app.comparison is not None, 60)
        with connect(database, name="test") as conn:
            for key, verdict in (("o", "old"), ("s", "same"), ("b", "bad"), ("n", "new")):
                await pilot.press(key)
                await until(pilot, functools.partial(given, conn, verdict))
                await until(pilot, lambda: "decide" not in app.view.busy)
        await pilot.press("m")
        assert app.screen.has_class("-figures")
        await pilot.press("m", "1", "2")
        assert not app.screen.has_class("-figures")
        every = len(compared(app).queries)

        def listed() -> int:
            return len(front(app, CompareScreen).shown)

        await pilot.press("u")
        await until(pilot, lambda: listed() == every - 4)
        await pilot.press("u")
        await until(pilot, lambda: listed() == every)
        await pilot.press("slash")
        await type_text(pilot, compared(app).queries[-1].text[:40])
        await until(pilot, lambda: listed() < every)
        await pilot.press("enter", "y", "escape")
        await until(pilot, lambda: any(exports.glob("*")))

        await pilot.press("E")
        await until(pilot, lambda: len(list(exports.glob("comparison-*"))) == 2)
        (page,) = exports.glob("*.html")
        assert compared(app).queries[0].text[:40] in page.read_text("utf-8")
        await pilot.press("z", "z", "V", "home")
        screen = front(app, CompareScreen)
        with connect(database, name="test") as conn:
            for key in ("<", ">"):
                chosen = screen.chosen_query
                assert chosen is not None
                meant = screen.blind.sides(chosen)[key == ">"].value
                await pilot.press(key)
                await until(pilot, functools.partial(decided, conn, chosen.query_id, meant))
                await until(pilot, lambda: "decide" not in app.view.busy)
        await pilot.press("V", "f")
        assert isinstance(app.screen, ReaderScreen)
        await pilot.press("escape", "L")
        await until(pilot, lambda: isinstance(app.screen, QueriesDialog))
        app.screen.query_one(TextArea).load_text("SELECT text FROM nowhere")
        await pilot.click("#go")
        await until(pilot, lambda: "nowhere" in said(app))
        await pilot.press("L")
        await until(pilot, lambda: isinstance(app.screen, QueriesDialog))
        assert app.screen.query_one(TextArea).text == "SELECT text FROM nowhere", "to be mended"
        app.screen.query_one(TextArea).load_text("VALUES ('turning tides'), ('the moon')")
        before = len(compared(app).queries)
        await pilot.click("#go")
        await until(pilot, lambda: len(compared(app).queries) == before + 2, 60)

        await pilot.press("R")
        await until(pilot, lambda: "settings again" in said(app))
        await pilot.press("6")
        log = app.screen
        assert isinstance(log, LogScreen)
        await until(pilot, lambda: any("evaluation" in entry.text for entry in log.entries))
        await pilot.press("f")
        assert not log.following
        await pilot.press("f", "e")
        await until(pilot, (exports / "log.tsv").is_file)
        assert "evaluation" in (exports / "log.tsv").read_text("utf-8")


async def test_faults_are_tried_again_and_shortened(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, ROWS)
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await ready(app, pilot)
    # The next terminal only looks on: what is decided stays as it is, for the test to see.
    async with dashboard(database, api, tmp_path) as (app, pilot):
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(
                "INSERT INTO embedtui.fault (migration, key, class, reason)"
                " SELECT m.id, ARRAY[n::text], 'row', 'too long' FROM embedtui.migration m, generate_series(1, 3) n"
            )

            def states() -> dict[str, int]:
                return dict(conn.execute("SELECT state, count(*) FROM embedtui.fault GROUP BY 1").fetchall())

            await pilot.press("4")
            screen = app.screen
            assert isinstance(screen, FaultsScreen)
            await until(pilot, lambda: [group.count for group in screen.groups] == [3])
            await pilot.press("tab")
            await until(pilot, lambda: screen.row(0) is not None)
            await pilot.press("y", "h")
            await until(pilot, lambda: isinstance(app.screen, DecideDialog))
            await pilot.press("tab", "enter")
            assert (tmp_path / "exports" / "faults.tsv").read_text("utf-8").count("too long") == 3
            await until(pilot, lambda: states() == {"open": 2, "truncate": 1})
            await until(pilot, lambda: "1 row to be embedded shortened." in said(app))
            acts = conn.execute("SELECT act FROM embedtui.audit WHERE act LIKE 'faults %'").fetchall()
            assert acts == [("faults shorten",)]
            await until(pilot, lambda: [group.count for group in screen.groups] == [2, 1])
            screen.query_one("#groups").focus()
            await pilot.press("home", "e")
            await until(pilot, lambda: states() == {"retry": 2, "truncate": 1})


async def test_what_is_asked_of_faults_names_the_side_and_counts_rows(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, ROWS)
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await ready(app, pilot)
    async with dashboard(database, api, tmp_path) as (app, pilot):
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(
                "INSERT INTO embedtui.fault (migration, key, side, class, reason) SELECT m.id, ARRAY[k], s, 'row', r"
                " FROM embedtui.migration m, (VALUES ('7', 'new', 'too long'), ('7', 'old', 'too long'),"
                " ('8', 'old', 'refused')) f (k, s, r)"
            )
        await pilot.press("4")
        screen = app.screen
        assert isinstance(screen, FaultsScreen)
        await until(pilot, lambda: [group.count for group in screen.groups] == [2, 1])

        async def asked(*keys: str) -> str:
            await pilot.press(*keys)
            await until(pilot, lambda: isinstance(app.screen, DecideDialog))
            text = " ".join(str(each.render()) for each in app.screen.query(Static))
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is screen)
            return text

        both = await asked("home", "h")
        assert "1 row: each" in both and f"{OLD} takes" in both and f"{NEW} takes" in both
        only = await asked("down", "h")
        assert f"{OLD} takes" in only and NEW not in only
        skipped = await asked("s")
        assert "after a rollback" in skipped and "new" not in skipped
        assert "new side" in await asked("home", "s")


async def test_a_cutover_is_postponed_and_taken_back(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """While changes wait, the dialog offers to cut over once they are in; z takes that back."""
    make_documents(database, ROWS, index=True)
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await ready(app, pilot)
    # The next terminal only looks on: nobody works the changes off.
    async with dashboard(database, api, tmp_path) as (app, pilot):
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("UPDATE documents SET content = 'edited meanwhile' WHERE id <= 50")
            conn.execute("UPDATE embedtui.queue SET at = at - interval '5 minutes'")
        await until(pilot, lambda: seen(app).sync.queued)
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, CutoverDialog))
        await type_text(pilot, "documents")
        for field in app.screen.query("#override").results(Input):
            field.focus()
            await type_text(pilot, "so ordered")
        app.screen.query_one("#postpone", Button).press()
        await until(pilot, lambda: seen(app).route.pending)
        assert route(database) == ("old", 0)
        await pilot.press("Z")
        await until(pilot, lambda: not seen(app).route.pending)
        assert "is cancelled" in said(app)


async def test_the_work_goes_on_without_its_terminal(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """D leaves it at work; the next terminal finds it, and stops it by Q among the workers."""
    make_documents(database, ROWS)
    api.latency = 0.2
    settings = settings_for(database, api, tmp_path, {"new_model.max_inputs": 10})
    app = Dashboard(
        lambda sink: SubprocessEngine(database, settings=settings, on_event=sink, outlives=True),
        remember=False,
        interval=0.1,
    )
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        await pilot.press("D")
        assert "leave with q" in said(app)
        await begin(app, pilot)
        await until(pilot, lambda: seen(app).backfill.rows > 20)
        await until(pilot, lambda: app.view.detachable)
        assert [worker.own for worker in seen(app).workers] == [True]
        await pilot.press("D")
    assert farewell(app, "embedtui run").startswith("The work goes on")
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await until(pilot, lambda: seen(app).phase is Phase.VALIDATE, 60)
        assert seen(app).backfill.rows == ROWS
        assert [(worker.alive, worker.own) for worker in seen(app).workers] == [(True, False)]
        left = seen(app).workers[0]
        assert farewell(app, "embedtui run") == f"{left.host}:{left.pid} still works; `embedtui stop` ends it."
        await pilot.press("5", "Q")
        await until(pilot, lambda: isinstance(app.screen, StopDialog))
        await pilot.press("Q", "enter")  # Cancel is focused
        await until(pilot, lambda: isinstance(app.screen, WorkersScreen))
        assert seen(app).workers[0].alive
        await pilot.press("Q")
        await until(pilot, lambda: isinstance(app.screen, StopDialog))
        await pilot.press("tab", "enter")
        await until(pilot, lambda: not seen(app).workers, 60)
        assert "stops; requests in flight are stored" in said(app)
        await pilot.press("Q")
        assert "No process at work" in said(app)
        # nobody keeps the new side current any more: that comes before all else
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("UPDATE documents SET content = 'edited' WHERE id = 1")
            conn.execute("UPDATE embedtui.queue SET at = at - interval '6 seconds'")
        await until(pilot, lambda: seen(app).next_act == "run")
        await pilot.press("ctrl+c")
        assert "q quits" in said(app)
        await pilot.press("S")
        await until(pilot, lambda: isinstance(app.screen, SettingsScreen) and app.screen.lines)
        assert {each.path: each.origin for each in front(app, SettingsScreen).lines}["table"] == "--table"
        await pilot.press("escape")


def test_every_key_is_pressed_here() -> None:
    """Against the real engine: the keys of all acts, of all screens, and those of each screen's own."""
    tree = ast.parse(Path(__file__).read_text("utf-8"))
    pressed = {
        constant.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "press"
        for constant in ast.walk(call)
        if isinstance(constant, ast.Constant)
    }
    pressed |= {
        "plus",
        "minus",
        "o",
        "b",
        "question_mark",
        "f1",
        "less_than_sign",
        "greater_than_sign",
    }  # in loops
    pressed |= {"B", "d", "backspace", "delete"}  # in test_bridging.py and test_compare.py
    keys = {action.key for action in ACTIONS.values()} | {key for key, _ in SCREENS.values()}
    for factory in Dashboard.MODES.values():
        keys |= set(factory()._bindings.key_to_bindings) - {"tab", "shift+tab", "ctrl+c", "super+c"}
    assert keys - pressed <= {"q"}, "leaving is tested in a real terminal"


async def test_a_beginning_is_seen_at_once_with_whom_it_waits_for(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, ROWS)
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await pilot.press("7")
        await until(pilot, lambda: app.current_mode == "plan")
        with psycopg.connect(database) as other:
            other.execute("UPDATE documents SET content = content WHERE id = 1")
            await begin(app, pilot)
            await until(pilot, lambda: app.current_mode == "overview")
            advice = app.screen.query_one("#advice", Panel)
            await until(pilot, lambda: f"{other.info.backend_pid}" in str(advice.render()), 60)
            assert seen(app).phase in (Phase.PLAN, Phase.PREPARE)
        await until(pilot, lambda: seen(app).phase is Phase.VALIDATE, 60)
