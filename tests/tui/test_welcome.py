"""The choice before there is anything to show: what leads to it, and what becomes of the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import psycopg
import pytest
from textual.pilot import Pilot
from textual.widgets import Input

import embedtui.tui
from embedtui.cli import show as cli
from embedtui.config import load_settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.tui import Choice, TableChoice
from embedtui.tui.welcome import ModelDialog, Welcome
from tests.kits.support import NEW, OLD, make_documents, settings_for
from tests.tui.conftest import until

Found = Sequence[TableChoice]
OPENED = 77


class Screens:
    """Stands for the two screens: answers the welcome, and notes what the dashboard would open."""

    def __init__(self, *answers: Choice | None) -> None:
        self.answers = list(answers)
        self.welcomed: list[tuple[Found | None, str]] = []
        self.engines: list[Callable[..., Engine]] = []

    def welcome(self, find: Callable[[], Found] | None, *, problem: str = "", **_: object) -> Choice | None:
        self.welcomed.append((tuple(find()) if find else None, problem))
        return self.answers.pop(0)

    def dashboard(self, open_engine: Callable[..., Engine], **_: object) -> int:
        self.engines.append(open_engine)
        return OPENED


@pytest.fixture
def screens(monkeypatch: pytest.MonkeyPatch) -> Screens:
    stand_in = Screens()
    monkeypatch.setattr(embedtui.tui, "run_welcome", stand_in.welcome)
    monkeypatch.setattr(embedtui.tui, "run_dashboard", stand_in.dashboard)
    return stand_in


def bare(folder: Path, monkeypatch: pytest.MonkeyPatch, dsn: str = "", *, readonly: bool = False) -> int:
    """`embedtui` in ``folder``."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return cli.show(load_settings(), readonly=readonly, config=None)


def test_without_a_database_only_the_demo_is_offered(
    screens: Screens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screens.answers = [None, Choice(demo=True), Choice(demo=True, dead=True)]
    assert bare(tmp_path, monkeypatch) == 0
    assert screens.welcomed[0][0] is None
    assert "No database is named" in screens.welcomed[0][1]
    monkeypatch.setattr(cli, "_demo", lambda *, dead: 43 if dead else 42)
    assert bare(tmp_path, monkeypatch) == 42
    assert bare(tmp_path, monkeypatch) == 43


def test_a_chosen_table_is_configured_and_opened(
    screens: Screens, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_documents(database, 3)
    answer = Choice(
        table="documents", column="embedding", model="text-embedding-3-large", dimensions=16, old_model="ada-2"
    )
    screens.answers = [Choice(table="no_such_table", column="x", model="m", dimensions=16), answer]
    assert bare(tmp_path, monkeypatch, database) == OPENED
    found, problem = screens.welcomed[0]
    assert found is not None
    assert [(each.name, each.column) for each in found] == [("documents", "embedding")]
    assert problem == ""
    assert "no_such_table" in screens.welcomed[1][1], "what could not be is said, and asked again"
    written = load_settings(config=tmp_path / "embedtui.toml")
    assert written.old_model.name == "ada-2"
    assert (written.table, written.new_model.name, written.new_model.dimensions) == (
        "documents",
        "text-embedding-3-large",
        16,
    )
    # the next start opens the dashboard at once
    assert bare(tmp_path, monkeypatch, database) == OPENED
    assert len(screens.welcomed) == 2


def test_what_exists_is_shown_at_once(
    screens: Screens, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_documents(database, 3)
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}) as api:
        engine = Engine(database, settings=settings_for(database, api, tmp_path))
        engine.prepare()
        engine.close()
    assert bare(tmp_path, monkeypatch, database) == OPENED
    # nor is anybody asked where the database cannot be: the dashboard waits for it
    assert bare(tmp_path, monkeypatch, "postgresql://nobody@127.0.0.1:1/none") == OPENED
    assert bare(tmp_path, monkeypatch, database, readonly=True) == OPENED
    assert not screens.welcomed


async def test_the_screen_gives_the_answer_by_keys() -> None:
    """Enter chooses, the model is asked for, Escape goes back; d is the demo."""

    async def asked(*keys: str) -> Choice | None:
        app = Welcome(lambda: (TableChoice("documents", "embedding", "vector(8)", 3),))
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: app.tables)
            await press(pilot, *keys)
        return app.return_value

    async def press(pilot: Pilot[Choice], *keys: str) -> None:
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
            if isinstance(pilot.app.screen, ModelDialog) and key == "tab":
                assert isinstance(pilot.app.focused, Input)

    assert await asked("d") == Choice(demo=True)
    assert await asked("down", "enter") == Choice(demo=True)
    assert await asked("s") == await asked("down", "down", "enter") == Choice(demo=True, dead=True)
    assert await asked("q") is None
    assert await asked("enter", "escape", "escape") is None
    known = await asked("enter", "tab", "tab", *"ada-2", "enter")
    assert known is not None
    assert known.old_model == "ada-2"
    chosen = await asked("enter", "enter")
    assert chosen == Choice(table="documents", column="embedding", model="text-embedding-3-large", dimensions=768)


def test_a_frameworks_table_is_offered_with_its_maker(database: str, tmp_path: Path) -> None:
    recorded = (Path(__file__).parents[1] / "frameworks" / "tables" / "spring_ai.sql").read_text()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("CREATE TABLE plain (id int PRIMARY KEY, body text, v vector(3))")
        conn.execute(recorded.split("INSERT")[0])  # type: ignore[arg-type]
    settings = load_settings(environ={"DATABASE_URL": database}, cwd=tmp_path)
    made_by = {table.name: table.made_by for table in cli._tables(settings)}
    assert made_by == {"plain": "", "vector_store": "Spring AI PgVectorStore"}
    painted = Welcome(None)
    painted.tables = (TableChoice("vector_store", "embedding", "vector(8)", 3, "Spring AI PgVectorStore"),)
    line = painted._paint(0, 100)
    assert line is not None
    assert line.plain.endswith("Spring AI PgVectorStore, 3 rows")
