"""The sheet of settings against the real engine, and settings that are wrong from the start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input

from embedtui.cli.show import _anew
from embedtui.config import load_settings
from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.engine.plan.existing import meant_migration
from embedtui.model import EventSink
from embedtui.tui.app import Dashboard
from embedtui.tui.dialogs.settings import SettingDialog
from embedtui.tui.screens.plan import PlanScreen
from embedtui.tui.screens.settings import SettingsScreen
from tests.kits.support import NEW, make_documents
from tests.tui.conftest import front, picture, said, until

FILE = 'table = "documents"\naccept = ["proof"]\n[pacing]\nmax_concurrency = 3  # enough\n'


@asynccontextmanager
async def dashboard(
    database: str, api: LoopbackServer, folder: Path, file: str = FILE, *, readonly: bool = False, opens: str = "plan"
) -> AsyncIterator[tuple[Dashboard, Pilot[None]]]:
    """As `embedtui` opens it in a folder with that settings file."""
    (folder / "embedtui.toml").write_text(file)
    environ = {
        "DATABASE_URL": database, "OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url, "EMBED_MODEL": NEW,
        "EMBED_DIMENSIONS": "16",
    }  # fmt: skip
    settings = load_settings(environ=environ, cwd=folder)

    def opened(sink: EventSink) -> Engine:
        now = _anew(settings)
        return Engine(database, meant_migration(now), now, sink)

    app = Dashboard(opened, readonly=readonly, remember=False, interval=0.1, opens=opens)
    async with app.run_test(size=(80, 24)) as pilot:
        yield app, pilot


async def choose(app: Dashboard, pilot: Pilot[None], path: str) -> None:
    """Opens the sheet, and brings the cursor to a setting."""
    if not isinstance(app.screen, SettingsScreen):
        await pilot.press("S")
    await until(pilot, lambda: isinstance(app.screen, SettingsScreen) and front(app, SettingsScreen).lines)
    await pilot.press("slash")
    app.screen.query_one("#filter", Input).value = path
    await pilot.press("enter")
    await until(pilot, lambda: [each.path for each in front(app, SettingsScreen).lines][:1] == [path])


async def enter(app: Dashboard, pilot: Pilot[None], value: str) -> None:
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(app.screen, SettingDialog))
    app.screen.query_one("#value", Input).value = value
    await pilot.press("enter")


async def test_a_setting_is_seen_refused_mended_and_written(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 20)
    file = tmp_path / "embedtui.toml"
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, PlanScreen) and app.screen.plan is not None)
        await choose(app, pilot, "scope")
        await enter(app, pilot, "no_such = 1")
        await until(pilot, lambda: "no_such" in picture(app).split("Value")[1].partition("✗")[2])
        assert file.read_text() == FILE
        app.screen.query_one("#value", Input).value = "id > 15"
        await pilot.press("enter")
        await until(pilot, lambda: "✓ scope = id > 15" in picture(app))
        # Escape leaves the filter, then the sheet
        await pilot.press("escape", "escape")
        await until(pilot, lambda: isinstance(app.screen, PlanScreen))
        await until(pilot, lambda: front(app, PlanScreen).plan is not None and front(app, PlanScreen).plan.rows == 5)  # type: ignore[union-attr]

        await choose(app, pilot, "pacing.max_concurrency")
        assert "embedtui.toml" in picture(app)
        await enter(app, pilot, "0")
        await until(pilot, lambda: "must be a whole number" in picture(app))
        assert file.read_text().endswith("max_concurrency = 3  # enough\n")
        app.screen.query_one("#value", Input).value = "5"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, SettingsScreen))
        assert file.read_text().endswith("max_concurrency = 5  # enough\n")

        # what the environment says is not typed over
        await pilot.press("escape")
        await choose(app, pilot, "new_model.name")
        await pilot.press("enter")
        await until(pilot, lambda: "EMBED_MODEL says it" in said(app))
        assert "Enter changes" not in picture(app)
        assert isinstance(app.screen, SettingsScreen)

        # somebody else was there meanwhile: said, and what they wrote is kept and shown
        await pilot.press("escape")
        await choose(app, pilot, "pacing.spend_cap")
        file.write_text(file.read_text() + "spend_cap = 8\n")
        await enter(app, pilot, "5")
        await until(pilot, lambda: "changed by somebody else" in " ".join(picture(app).replace("│", " ").split()))
        await pilot.press("escape")
        await until(pilot, lambda: "R takes it" in picture(app))
        assert file.read_text().endswith("spend_cap = 8\n")


async def test_who_only_watches_sees_them_and_changes_nothing(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 3)
    async with dashboard(database, api, tmp_path, readonly=True) as (app, pilot):
        await until(pilot, lambda: app.snapshot is not None)
        await choose(app, pilot, "pacing.max_concurrency")
        await pilot.press("enter")
        await until(pilot, lambda: "Read-only" in said(app))
        assert isinstance(app.screen, SettingsScreen)


async def test_a_misspelt_table_is_no_lost_database_and_opens_once_it_is_mended(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 3)
    wrong = FILE.replace('"documents"', '"documnets"')
    async with dashboard(database, api, tmp_path, wrong, opens="overview") as (app, pilot):
        await until(pilot, lambda: app.link.problem)
        shown = picture(app)
        assert "wrong settings" in shown
        assert "did you mean documents?" in shown
        assert "no database" not in shown and "lost" not in shown
        await pilot.press("r")
        await until(pilot, lambda: "did you mean documents?" in said(app))
        (tmp_path / "embedtui.toml").write_text(FILE)
        await until(pilot, lambda: app.snapshot is not None)
        assert "wrong settings" not in picture(app)


async def test_the_filter_means_names_first(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 3)
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await choose(app, pilot, "old_model.base_url")
        app.screen.query_one("#filter", Input).value = "base_url"
        await until(pilot, lambda: len(front(app, SettingsScreen).lines) == 2)
        app.screen.query_one("#filter", Input).value = "database_url"
        await until(pilot, lambda: [each.path for each in front(app, SettingsScreen).lines] == ["database_variable"])
        assert "Esc clears the filter" in str(app.screen.query_one(".sheet").border_subtitle)
