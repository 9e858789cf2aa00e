"""Every screen in every state that matters, cell by cell, as text in ``snapshots/``.

``UPDATE_SNAPSHOTS=1 pytest tests/tui/test_snapshots.py`` writes them anew; read the diff before committing it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input

from embedtui.errors import SettingsError, TableError
from embedtui.model import (
    Blocker,
    Event,
    Failed,
    FaultClass,
    FoundTable,
    Held,
    Noted,
    Phase,
    PhaseChanged,
    Proposal,
    RouteFlipped,
    Side,
)
from embedtui.tui.actions import SCREENS
from embedtui.tui.app import Dashboard
from embedtui.tui.dialogs.bridging import BridgeDialog
from embedtui.tui.dialogs.settings import SettingDialog
from embedtui.tui.dialogs.setup import ModelsDialog, SourceDialog, TargetDialog, WayDialog
from embedtui.tui.messages import EngineReported, SnapshotFailed
from embedtui.tui.screens.compare import CompareScreen
from embedtui.tui.screens.settings import SettingsScreen
from embedtui.tui.view import Trouble
from embedtui.tui.welcome import Welcome
from tests.tui import states
from tests.tui.cells import check_cells
from tests.tui.conftest import Open, front, picture, present, until
from tests.tui.setup_states import PROPOSAL

SMALL, LARGE = (80, 24), (160, 45)
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=lambda size: f"{size[0]}x{size[1]}")

EVENTS: tuple[Event, ...] = (
    PhaseChanged(states.ago(minutes=7), "Phase: backfill", Phase.BACKFILL),
    Held(states.ago(minutes=4), "Held by long_transactions: pid 2213", states.THROTTLED.reasons),
    Held(states.ago(minutes=3), "Going on"),
    Noted(states.ago(minutes=2), "Concurrency 4 → 6"),
    Failed(
        *(states.ago(seconds=50), "3 rows are rejected: input is longer than 8,192 tokens", FaultClass.ROW),
        hint="Decide on Faults.",
    ),
    RouteFlipped(states.ago(seconds=9), "The new side serves 10 %", Side.OLD, 10, 2, 3.1),
)


RATES = tuple(900 + 300 * math.sin(i / 7) + i * 37 % 90 for i in range(120))


async def settle(app: Dashboard, pilot: Pilot[None]) -> None:
    """Gives the frozen app a past, and lets everything asked for arrive."""
    app.rates.extend(RATES)
    app.events.extend(EVENTS)
    app.show()
    app.hand_on(EngineReported(EVENTS[-1]))
    await quiet(pilot)


async def quiet(pilot: Pilot[None]) -> None:
    """Waits until the reading thread has nothing more to bring."""
    app = pilot.app
    assert isinstance(app, Dashboard)
    for _ in range(3):
        await until(pilot, lambda: not app.bridge.reading)
        await pilot.pause(0.02)


@SIZES
async def test_overview(shown: Open, size: tuple[int, int], tmp_path: Path) -> None:
    """One app goes through all states: what a state leaves behind would show in the next one's picture."""
    async with shown(states.FRESH, size) as (app, pilot, _):
        await settle(app, pilot)
        for state, snapshot in states.STATES.items():
            await present(app, pilot, snapshot)
            app.rates.clear()
            app.rates.extend(RATES)
            app.show()
            await pilot.pause()
            check_cells(app, f"overview-{state}-{size[0]}x{size[1]}", tmp_path)


@pytest.mark.parametrize("size", [(100, 30), (240, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
async def test_overview_at_other_sizes(shown: Open, size: tuple[int, int], tmp_path: Path) -> None:
    async with shown(states.THROTTLED, size) as (app, pilot, _):
        await settle(app, pilot)
        check_cells(app, f"overview-throttled-{size[0]}x{size[1]}", tmp_path)


@pytest.mark.parametrize("theme", ["embedtui-light", "embedtui-16"])
async def test_overview_in_other_themes(shown: Open, theme: str, tmp_path: Path) -> None:
    async with shown(states.FRESH, (100, 30), theme) as (app, pilot, _):
        await settle(app, pilot)
        for state, snapshot in states.STATES.items():
            await present(app, pilot, snapshot)
            app.rates.clear()
            app.rates.extend(RATES)
            app.show()
            await pilot.pause()
            check_cells(app, f"overview-{state}-{theme}", tmp_path)


@SIZES
async def test_lost_database(shown: Open, size: tuple[int, int], tmp_path: Path) -> None:
    """The last known state recedes, on every screen; since when and what happens now is on top."""
    async with shown(states.FAULTED, size) as (app, pilot, _):
        await settle(app, pilot)
        for screen in SCREENS:
            app.goto(screen)
            await pilot.pause()
            await quiet(pilot)
        trouble = Trouble("Database lost", "The server closed the connection.", "Trying again by itself.")
        app.post_message(SnapshotFailed(trouble, states.NOW, 42.0, 9))
        await until(pilot, lambda: app.view.stale)
        for screen in SCREENS:
            app.goto(screen)
            await pilot.pause()
            check_cells(app, f"{screen}-lost-{size[0]}x{size[1]}", tmp_path)


@pytest.mark.parametrize(
    ("size", "theme"),
    [((100, 30), "embedtui-dark"), ((240, 60), "embedtui-dark"), ((160, 45), "embedtui-light"), (SMALL, "embedtui-16")],
    ids=["100x30", "240x60", "light", "16"],
)
@pytest.mark.variants(4)
async def test_every_screen_at_other_sizes_and_in_other_themes(
    shown: Open, size: tuple[int, int], theme: str, tmp_path: Path
) -> None:
    snapshot = replace(states.READY, faults=states.FAULTS, workers=states.WORKERS)
    async with shown(snapshot, size, theme) as (app, pilot, _):
        app.comparison = states.COMPARISON
        await settle(app, pilot)
        for screen in SCREENS:
            app.goto(screen)
            await pilot.pause()
            await quiet(pilot)
            check_cells(app, f"{screen}-{theme.removeprefix('embedtui-')}-{size[0]}x{size[1]}", tmp_path)


async def test_never_connected(tmp_path: Path) -> None:
    """Before the first snapshot there is a designed screen too."""
    app = Dashboard(lambda _: (_ for _ in ()).throw(OSError("refused")), remember=False, interval=3600)
    async with app.run_test(size=SMALL) as pilot:
        trouble = Trouble("Database", "Nobody answers at db.example:5432.", "Check DATABASE_URL.")
        await until(pilot, lambda: app.link.problem)
        app.bridge.close()
        app.post_message(SnapshotFailed(trouble, states.NOW, 7.0, 4))
        await until(pilot, lambda: app.link.attempts == 4)
        check_cells(app, "overview-unreachable-80x24", tmp_path)


@SIZES
async def test_compare(shown: Open, size: tuple[int, int], tmp_path: Path) -> None:
    async with shown(states.READY, size) as (app, pilot, _):
        await settle(app, pilot)
        await pilot.press("2")
        await until(pilot, lambda: app.comparison is not None)
        await pilot.press("down", "down", "tab", "down")
        await quiet(pilot)
        check_cells(app, f"compare-{size[0]}x{size[1]}", tmp_path)


@SIZES
async def test_compare_through_a_bridge(shown: Open, size: tuple[int, int], tmp_path: Path) -> None:
    """Three rankings where there is room, else the bridge's and the old one's in turns; one alone; all figures."""
    async with shown(states.READY, size) as (app, pilot, engine):
        app.comparison = engine.comparison = states.COMPARISON_BRIDGED
        await settle(app, pilot)
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))
        await quiet(pilot)
        await pilot.press("d", "tab", "left", "down")
        await quiet(pilot)
        check_cells(app, f"compare-bridged-{size[0]}x{size[1]}", tmp_path)
        await pilot.press("shift+tab", "down", "down")
        await quiet(pilot)
        check_cells(app, f"compare-bridged-alone-{size[0]}x{size[1]}", tmp_path)
        await pilot.press("m")
        await quiet(pilot)
        check_cells(app, f"compare-bridged-figures-{size[0]}x{size[1]}", tmp_path)


@SIZES
async def test_cutover(shown: Open, size: tuple[int, int], tmp_path: Path) -> None:
    async with shown(states.READY, size) as (app, pilot, _):
        app.comparison = states.COMPARISON
        await settle(app, pilot)
        await pilot.press("3")
        for state in ("ready", "canary", "cut-over"):
            await present(app, pilot, states.STATES[state])
            await quiet(pilot)
            check_cells(app, f"cutover-{state}-{size[0]}x{size[1]}", tmp_path)


@SIZES
async def test_blocked_cutover(shown: Open, size: tuple[int, int], tmp_path: Path) -> None:
    """What is in the way is named, with what would release it."""
    snapshot = replace(states.READY, evaluation=None, next_act="compare", next_why="Compare old and new first.")
    async with shown(snapshot, size) as (app, pilot, engine):
        engine.blocked = states.BLOCKERS
        await settle(app, pilot)
        await pilot.press("3")
        await quiet(pilot)
        check_cells(app, f"cutover-blocked-{size[0]}x{size[1]}", tmp_path)


@SIZES
async def test_other_screens(shown: Open, size: tuple[int, int], tmp_path: Path) -> None:
    async with shown(states.FAULTED, size) as (app, pilot, _):
        await settle(app, pilot)
        for screen in ("faults", "workers", "log", "plan"):
            app.goto(screen)
            await pilot.pause()
            await quiet(pilot)
            check_cells(app, f"{screen}-{size[0]}x{size[1]}", tmp_path)


async def test_empty_screens(shown: Open, tmp_path: Path) -> None:
    """A screen with nothing to show says so, and what to do."""
    async with shown(states.FRESH) as (app, pilot, _):
        for screen in ("compare", "cutover", "faults", "workers", "log"):
            app.goto(screen)
            await pilot.pause()
            await quiet(pilot)
            check_cells(app, f"{screen}-empty-80x24", tmp_path)


async def test_dialogs(shown: Open, tmp_path: Path) -> None:
    async with shown(replace(states.READY, evaluation=None)) as (app, pilot, _):
        await settle(app, pilot)
        for key, name in (("x", "cutover"), ("l", "limits"), ("A", "abort"), ("question_mark", "help")):
            await pilot.press(key)
            await quiet(pilot)
            for field in app.screen.query("Input"):
                field.cursor_blink = False  # type: ignore[attr-defined]
            await pilot.pause()
            check_cells(app, f"dialog-{name}-80x24", tmp_path)
            await pilot.press("escape")


@SIZES
async def test_the_bridge(shown: Open, size: tuple[int, int], tmp_path: Path) -> None:
    """Its sheet in every state: nothing found yet, at work, refused with a field for a reason, and serving."""
    held = Blocker("strategy", "By strategy env_file services do not follow the pointer.", "Set pointer.", True)
    async with shown(states.RUNNING, size) as (app, pilot, engine):
        await settle(app, pilot)
        for name, snapshot, blocked in (
            ("none", states.RUNNING, (held,)),
            ("working", states.BRIDGING, ()),
            ("refused", states.BRIDGE_REFUSED, ()),
            ("serving", states.BRIDGE_ON, ()),
        ):
            engine.blocked = blocked
            await present(app, pilot, snapshot)
            await pilot.press("B")
            await until(pilot, lambda: isinstance(app.screen, BridgeDialog))
            await quiet(pilot)
            app.screen.query_one("#override", Input).cursor_blink = False
            front(app, BridgeDialog)._repaint()
            await pilot.pause()
            check_cells(app, f"bridge-{name}-{size[0]}x{size[1]}", tmp_path)
            await pilot.press("escape")
        assert engine.calls == [], "looking changes nothing"


class FrozenSetup:
    """Set-up of one table, as far as it is looked at."""

    def tables(self) -> tuple[FoundTable, ...]:
        return (
            FoundTable("documents", "embedding", "vector(768)", 520_340),
            FoundTable('app."My Docs"', "vec", "halfvec(3072)", None, "Spring AI PgVectorStore"),
        )

    def look(self, values: Mapping[str, str], *, whole: bool) -> Proposal:
        return PROPOSAL if whole else replace(PROPOSAL, new="")

    def write(self, values: Mapping[str, str]) -> None:
        raise SettingsError("embedtui.toml was changed by somebody else meanwhile; nothing is written.")


@SIZES
async def test_welcome(size: tuple[int, int], tmp_path: Path) -> None:
    """The list, each dialog of set-up, its lists, and what is refused."""
    app = Welcome(FrozenSetup(), problem=TableError('no table "documnets"; did you mean documents?', hint="Setting."))
    async with app.run_test(size=size) as pilot:

        async def shot(kind: type[Screen[Any]] | None, name: str, *keys: str) -> None:
            await pilot.press(*keys)
            if kind is not None:
                await until(pilot, lambda: isinstance(app.screen, kind) and app.focused is not None)
            for field in app.screen.query(Input):
                field.cursor_blink = False
            await pilot.pause(0.05)
            check_cells(app, f"welcome{name}-{size[0]}x{size[1]}", tmp_path)

        await until(pilot, lambda: app.tables)
        app.theme = "embedtui-dark"
        await shot(None, "")
        await shot(SourceDialog, "-source", "enter")
        await shot(TargetDialog, "-target", "enter")
        await shot(ModelsDialog, "-models", "down")
        await pilot.press("escape")
        await shot(WayDialog, "-way", "enter")
        await pilot.press("enter")
        await until(pilot, lambda: "somebody" in picture(app))
        await until(pilot, lambda: not app.screen.query("Button.-active"))  # it is shown pressed for a moment
        await shot(None, "-refused")


@SIZES
async def test_settings(shown: Open, size: tuple[int, int], tmp_path: Path) -> None:
    async with shown(states.RUNNING, size) as (app, pilot, _):
        await settle(app, pilot)
        await pilot.press("S")
        await until(pilot, lambda: isinstance(app.screen, SettingsScreen) and front(app, SettingsScreen).lines)
        await pilot.press("down", "down")
        await quiet(pilot)
        check_cells(app, f"settings-{size[0]}x{size[1]}", tmp_path)
        await pilot.press("end", "enter")
        await until(pilot, lambda: isinstance(app.screen, SettingDialog) and app.focused is not None)
        app.screen.query_one(Input).cursor_blink = False
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: "must be" in picture(app))
        check_cells(app, f"setting-{size[0]}x{size[1]}", tmp_path)
