"""Set-up on the screen, against a real database: from an empty folder to a settings file that a plan is made by."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input, Select

from embedtui.config import Settings, load_settings
from embedtui.engine import Engine
from embedtui.engine.setup import Setup
from embedtui.tui import Choice
from embedtui.tui.dialogs.setup import ModelsDialog, ProvidersDialog, SetupDialog, SourceDialog, TargetDialog, WayDialog
from embedtui.tui.welcome import Welcome
from tests.kits.support import make_documents
from tests.tui.conftest import front, picture, said, until


@asynccontextmanager
async def welcome(
    database: str, folder: Path, environ: Mapping[str, str] | None = None, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[tuple[Welcome, Pilot[Choice]]]:
    """The welcome screen in an empty folder, with its tables found."""
    settings = load_settings(environ={"DATABASE_URL": database, **(environ or {})}, cwd=folder)
    app = Welcome(Setup(settings, folder / "embedtui.toml"))
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.tables)
        yield app, pilot


def table(database: str) -> None:
    """No framework's table, with two texts, of which neither is the obvious one, and two tenants."""
    make_documents(database, 6)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("ALTER TABLE documents DROP metadata, ADD title text, ADD tenant int")
        conn.execute("UPDATE documents SET title = 'Title ' || id, tenant = id % 2")


async def step(pilot: Pilot[Choice], kind: type[Screen[None]]) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))
    await until(pilot, lambda: pilot.app.focused is not None)


async def fill(pilot: Pilot[Choice], name: str, text: str) -> None:
    pilot.app.screen.query_one(f"#{name}", Input).value = text
    await pilot.pause()


async def go(pilot: Pilot[Choice], kind: type[Screen[None]]) -> None:
    await pilot.press("enter")
    await step(pilot, kind)


async def test_a_table_is_set_up_by_keys_and_written(database: str, tmp_path: Path) -> None:
    table(database)
    async with welcome(database, tmp_path, {"VOYAGE_API_KEY": "k"}) as (app, pilot):
        await pilot.press("enter")
        await step(pilot, SourceDialog)
        # what init would ask is asked, and nothing goes on without it
        await until(pilot, lambda: "2 text columns: content, title" in picture(app))
        await pilot.press("enter")
        await until(pilot, lambda: not front(app, SourceDialog)._looking)
        assert isinstance(app.screen, SourceDialog)
        await fill(pilot, "content", "title, content")
        await fill(pilot, "scope", "tenant = 1")
        await pilot.press("tab")
        await until(pilot, lambda: "Title 1 ⏎ document number 1" in " ".join(picture(app).split()))
        assert "Title 2" not in picture(app)
        # a wrong column is refused as by init, and the field can be mended
        await fill(pilot, "content", "titel")
        await pilot.press("enter")
        await until(pilot, lambda: "did you mean title?" in picture(app))
        await fill(pilot, "content", "title, content")
        await go(pilot, TargetDialog)

        await until(pilot, lambda: "OPENAI_API_KEY is not set" in picture(app))
        assert app.screen.query_one("#new_model-name", Input).value == "text-embedding-3-large"
        # Escape goes back one step, and what was typed is there
        await pilot.press("escape")
        await step(pilot, SourceDialog)
        assert app.screen.query_one("#scope", Input).value == "tenant = 1"
        await go(pilot, TargetDialog)
        await pilot.press("down")
        await step(pilot, ModelsDialog)
        names = ModelsDialog.NAMES  # the cursor is on the one that the field has
        await pilot.press(*(["down"] * (names.index("voyage-4") - names.index("text-embedding-3-large"))), "enter")
        await until(pilot, lambda: "VOYAGE_API_KEY is set" in picture(app))
        assert app.screen.query_one("#new_model-base_url", Input).placeholder == "https://api.voyageai.com/v1"
        await fill(pilot, "new_model-dimensions", "99999")
        await pilot.press("enter")
        await until(pilot, lambda: "must be a whole number" in picture(app))
        await fill(pilot, "new_model-dimensions", "512")
        await go(pilot, WayDialog)

        app.screen.query_one("#placement", Select).value = "table"
        app.screen.query_one("#cutover-strategy", Select).value = "env_file"
        await until(pilot, lambda: "File it writes" in picture(app))
        await fill(pilot, "cutover-env_file", "/tmp/search.env")
        await until(pilot, lambda: "embedtui.toml is written" in " ".join(picture(app).split()))
        assert not (tmp_path / "embedtui.toml").exists()
        app.screen.query_one("#cutover-env_file", Input).focus()
        await pilot.press("enter")
        await until(pilot, lambda: app.return_value is not None)
    assert app.return_value == Choice()
    written = load(database, tmp_path)
    assert written.content == ("title", "content")
    assert written.scope == "tenant = 1"
    assert (written.new_model.name, written.new_model.dimensions) == ("voyage-4", 512)
    assert written.new_model.complete("new").provider == "voyage"
    assert (str(written.placement), written.cutover.strategy) == ("table", "env_file")
    assert "VOYAGE" not in (tmp_path / "embedtui.toml").read_text().split("# key_variable")[0].split("[old_model]")[0]
    engine = Engine(database, settings=written)
    plan = engine.plan()
    engine.close()
    assert (plan.rows, str(plan.placement)) == (3, "table")


def load(database: str, folder: Path) -> Settings:
    return load_settings(environ={"DATABASE_URL": database}, cwd=folder)


async def test_a_provider_an_endpoint_and_a_variable_of_ones_own(database: str, tmp_path: Path) -> None:
    make_documents(database, 3)
    async with welcome(database, tmp_path, size=(160, 45)) as (app, pilot):
        await pilot.press("enter")
        await step(pilot, SourceDialog)
        await go(pilot, TargetDialog)
        assert app.screen.query_one("#new_model-dimensions", Input).value
        await fill(pilot, "new_model-name", "house-model")
        assert app.screen.query_one("#new_model-dimensions", Input).value == "", "it was another model's"
        await fill(pilot, "new_model-dimensions", "16")
        app.screen.query_one("#new_model-provider", Input).focus()
        await pilot.press("down")
        await step(pilot, ProvidersDialog)
        await pilot.press("enter")
        await step(pilot, TargetDialog)
        await fill(pilot, "new_model-base_url", "https://user:pw@models.example/v1")
        await pilot.press("enter")
        await until(pilot, lambda: "this looks like a secret" in picture(app))
        await fill(pilot, "new_model-base_url", "https://models.example/v1")
        # the name of a variable, never a key
        await fill(pilot, "new_model-key_variable", "sk-abcdefgh12345678")
        await pilot.press("enter")
        await until(pilot, lambda: "environment variable, never" in picture(app))
        await fill(pilot, "new_model-key_variable", "HOUSE_KEY")
        await pilot.press("tab")
        await until(pilot, lambda: "HOUSE_KEY is not set" in picture(app))
        await go(pilot, WayDialog)
        app.screen.query_one("#placement").focus()
        await pilot.click("#go")
        await until(pilot, lambda: app.return_value is not None)
    model = load(database, tmp_path).new_model
    assert (model.name, model.provider, model.base_url, model.key_variable) == (
        "house-model", "openai", "https://models.example/v1", "HOUSE_KEY",
    )  # fmt: skip
    assert "sk-abc" not in (tmp_path / "embedtui.toml").read_text()


async def test_what_the_environment_says_cannot_be_typed_over(database: str, tmp_path: Path) -> None:
    make_documents(database, 3)
    environ = {"EMBED_MODEL": "from-env", "EMBED_DIMENSIONS": "16"}
    async with welcome(database, tmp_path, environ) as (app, pilot):
        await pilot.press("enter")
        await step(pilot, SourceDialog)
        await go(pilot, TargetDialog)
        assert app.screen.query_one("#new_model-name", Input).disabled
        assert app.screen.query_one("#new_model-name", Input).value == "from-env"
        await until(pilot, lambda: "EMBED_MODEL" in picture(app))


@pytest.mark.parametrize("trouble", ["changed", "folder"])
async def test_a_file_that_cannot_be_written_keeps_the_choice(database: str, tmp_path: Path, trouble: str) -> None:
    make_documents(database, 3)
    folder = tmp_path / "in"
    folder.mkdir()
    async with welcome(database, folder) as (app, pilot):
        await pilot.press("enter")
        await step(pilot, SourceDialog)
        await go(pilot, TargetDialog)
        await go(pilot, WayDialog)
        if trouble == "changed":
            (folder / "embedtui.toml").write_text("# somebody else's\n")
        else:
            folder.rmdir()
            folder.write_text("no folder")
        await pilot.click("#go")
        word = "changed by somebody else" if trouble == "changed" else "cannot be"
        await until(pilot, lambda: word in " ".join(picture(app).split()))
        assert isinstance(app.screen, WayDialog)
        if trouble == "changed":
            assert (folder / "embedtui.toml").read_text() == "# somebody else's\n"
        await pilot.press("escape", "escape", "escape", "escape")
    assert app.return_value is None


async def test_a_database_that_dies_meanwhile_is_said_and_the_choice_kept(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_documents(database, 3)
    async with welcome(database, tmp_path) as (app, pilot):
        await pilot.press("enter")
        await step(pilot, SourceDialog)
        await fill(pilot, "scope", "id > 1")
        assert app._setup is not None
        settings = app._setup._settings  # type: ignore[attr-defined]
        gone = {**settings.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
        monkeypatch.setattr(app._setup, "_settings", load_settings(environ=gone, cwd=tmp_path))
        await pilot.press("enter")
        await until(pilot, lambda: "127.0.0.1" in picture(app))
        assert isinstance(app.screen, SourceDialog)
        monkeypatch.setattr(app._setup, "_settings", settings)  # it is back: the same key goes on
        await go(pilot, TargetDialog)
        assert front(app, TargetDialog).values["scope"] == "id > 1"


async def test_ctrl_c_says_how_to_leave(database: str, tmp_path: Path) -> None:
    make_documents(database, 3)
    async with welcome(database, tmp_path) as (app, pilot):
        await pilot.press("enter")
        await step(pilot, SourceDialog)
        await pilot.press("shift+tab")  # off the fields, where it copies
        await pilot.press("ctrl+c")
        await until(pilot, lambda: "Nothing is written" in said(app))
        assert isinstance(app.screen, SetupDialog)
    assert list(tmp_path.glob("*.toml")) == []


async def test_the_old_models_endpoint_is_asked_for_beside_a_gateway(database: str, tmp_path: Path) -> None:
    """Its texts and the gateway's key would go to the provider by nobody's word."""
    make_documents(database, 3)
    async with welcome(database, tmp_path) as (app, pilot):
        await pilot.press("enter")
        await step(pilot, SourceDialog)
        await fill(pilot, "old_model-name", "text-embedding-3-small")
        await go(pilot, TargetDialog)
        await fill(pilot, "new_model-base_url", "https://gateway.example/v1")
        await pilot.press("enter")
        told = "nothing says where text-embedding-3-small is asked"
        await until(pilot, lambda: told in " ".join(picture(app).replace("│", " ").split()))
        assert isinstance(app.screen, TargetDialog)
        await fill(pilot, "new_model-key_variable", "GATEWAY_KEY")
        await fill(pilot, "old_model-base_url", "https://gateway.example/v1")
        await until(pilot, lambda: "nothing says where" not in picture(app))
        assert app.screen.query_one("#old_model-key_variable", Input).placeholder == "GATEWAY_KEY"
        await go(pilot, WayDialog)
        assert app.focused is app.screen.query_one("#go"), "Enter goes on here, too"
        await pilot.press("enter")
        await until(pilot, lambda: app.return_value is not None)
    written = load(database, tmp_path)
    assert written.old_model.base_url == written.new_model.base_url == "https://gateway.example/v1"
    assert written.old_model.key_variable == written.new_model.key_variable == "GATEWAY_KEY"
