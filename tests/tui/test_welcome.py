"""The choice before there is anything to show: what leads to it, and what becomes of the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import pytest
from textual.pilot import Pilot

import embedtui.tui
from embedtui.cli import show as cli
from embedtui.cli.main import run_command
from embedtui.config import load_settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.engine.setup import Setup
from embedtui.errors import EmbedtuiError
from embedtui.model import FoundTable, Proposal
from embedtui.tui import Choice
from embedtui.tui.panels.setup import table_line
from embedtui.tui.welcome import Welcome
from tests.kits.support import NEW, OLD, make_documents, settings_for
from tests.tui.conftest import until

Answer = Callable[[Setup | None], Choice | None]
OPENED = 77


class Screens:
    """Stands for the two screens: answers the welcome, and notes what the dashboard would open."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.welcomed: list[tuple[Setup | None, EmbedtuiError | None]] = []
        self.opens: list[str] = []

    def welcome(self, setup: Setup | None, *, problem: EmbedtuiError | None = None) -> Choice | None:
        self.welcomed.append((setup, problem))
        return self.answers.pop(0)(setup)

    def dashboard(self, _open_engine: object, *, opens: str, **_: object) -> int:
        self.opens.append(opens)
        return OPENED


@pytest.fixture
def screens(monkeypatch: pytest.MonkeyPatch) -> Screens:
    stand_in = Screens()
    monkeypatch.setattr(embedtui.tui, "run_welcome", stand_in.welcome)
    monkeypatch.setattr(embedtui.tui, "run_dashboard", stand_in.dashboard)
    return stand_in


def bare(folder: Path, monkeypatch: pytest.MonkeyPatch, dsn: str = "", *flags: str) -> int:
    """`embedtui` in ``folder``, on a terminal."""
    monkeypatch.chdir(folder)
    for name, value in {"DATABASE_URL": dsn, "XDG_CONFIG_HOME": str(folder), "TEXTUAL_DRIVER": "none"}.items():
        monkeypatch.setenv(name, value)
    return run_command(list(flags))


def leave(_setup: Setup | None) -> None:
    return None


def write(**values: str) -> Answer:
    """Sets up, as the dialogs do."""

    def answer(setup: Setup | None) -> Choice:
        assert setup is not None
        setup.write({name.replace("__", "."): value for name, value in values.items()})
        return Choice()

    return answer


def test_without_a_database_only_the_demo_is_offered(
    screens: Screens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screens.answers = [leave, lambda _: Choice(demo=True), lambda _: Choice(demo=True, dead=True)]
    assert bare(tmp_path, monkeypatch) == 0
    setup, problem = screens.welcomed[0]
    assert setup is None
    assert problem is not None and "No database is named" in problem.message
    monkeypatch.setattr(cli, "_demo", lambda *, dead: 43 if dead else 42)
    assert bare(tmp_path, monkeypatch) == 42
    assert bare(tmp_path, monkeypatch) == 43


def test_what_is_set_up_opens_on_its_plan(
    screens: Screens, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_documents(database, 3)
    chosen = {"table": "documents", "new_model__name": "m", "new_model__dimensions": "16", "scope": "id > 1"}
    screens.answers = [write(**chosen)]
    assert bare(tmp_path, monkeypatch, database) == OPENED
    assert screens.welcomed[0][1] is None
    written = load_settings(config=tmp_path / "embedtui.toml")
    assert (written.table, written.scope, written.new_model.name) == ("documents", "id > 1", "m")
    assert (written.content, written.old_column) == (("content",), "embedding")
    # the next start opens the dashboard at once, at what matters now
    assert bare(tmp_path, monkeypatch, database) == OPENED
    assert len(screens.welcomed) == 1
    assert screens.opens == ["plan", "overview"]


def test_a_misspelt_table_is_said_to_be_that_and_can_be_chosen_anew(
    screens: Screens, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_documents(database, 3)
    file = tmp_path / "embedtui.toml"
    said = '# ours\ntable = "documnets"  # the big one\n[new_model]\nname = "m"\ndimensions = 16\n'
    file.write_text(said)
    screens.answers = [leave, write(table="documents", schema="")]
    assert bare(tmp_path, monkeypatch, database) == 0
    assert file.read_text() == said
    problem = screens.welcomed[0][1]
    assert problem is not None
    assert problem.message == 'no table "documnets"; did you mean documents?'
    assert "embedtui.toml" in problem.hint
    assert bare(tmp_path, monkeypatch, database) == OPENED
    assert file.read_text().startswith('# ours\ntable = "documents"  # the big one\n')
    # who only watches is asked nothing
    file.write_text(said)
    assert bare(tmp_path, monkeypatch, database, "--readonly") == OPENED
    assert len(screens.welcomed) == 2


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("tabel = 'x'\n", "tabel (embedtui.toml): no such setting; did you mean table?"),
        ("table = \n", "embedtui.toml is not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_kept_and_written_anew(
    screens: Screens, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, problem: str
) -> None:
    make_documents(database, 3)
    (tmp_path / "embedtui.toml").write_text(said)
    (tmp_path / "embedtui.toml.before").write_text("older")
    screens.answers = [leave, write(table="documents", new_model__name="m", new_model__dimensions="16")]
    assert bare(tmp_path, monkeypatch, database) == 0
    found = screens.welcomed[0][1]
    assert found is not None and problem in found.message
    assert (tmp_path / "embedtui.toml").read_text() == said
    assert bare(tmp_path, monkeypatch, database) == OPENED
    assert load_settings(config=tmp_path / "embedtui.toml").table == "documents"
    assert (tmp_path / "embedtui.toml.before1").read_text() == said
    assert (tmp_path / "embedtui.toml.before").read_text() == "older"


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
    assert bare(tmp_path, monkeypatch, database, "--readonly") == OPENED
    assert not screens.welcomed


class OneTable:
    """Set-up of one table that nobody chooses."""

    def tables(self) -> tuple[FoundTable, ...]:
        return (FoundTable("documents", "embedding", "vector(8)", 3),)

    def look(self, values: Mapping[str, str], *, whole: bool) -> Proposal:
        raise AssertionError("not chosen")

    def write(self, values: Mapping[str, str]) -> None:
        raise AssertionError("not chosen")


async def test_the_screen_gives_the_answer_by_keys() -> None:
    """d is the demo, s its worst day, q and Escape leave."""

    async def asked(*keys: str) -> Choice | None:
        app = Welcome(OneTable())
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: app.tables)
            await press(pilot, *keys)
        return app.return_value

    async def press(pilot: Pilot[Choice], *keys: str) -> None:
        for key in keys:
            await pilot.press(key)
            await pilot.pause()

    assert await asked("d") == Choice(demo=True)
    assert await asked("down", "enter") == Choice(demo=True)
    assert await asked("s") == await asked("down", "down", "enter") == Choice(demo=True, dead=True)
    assert await asked("q") is None
    assert await asked("ctrl+c", "escape") is None
    assert await asked("ctrl+q") is None


def test_a_frameworks_table_is_offered_with_its_maker(database: str, tmp_path: Path) -> None:
    recorded = (Path(__file__).parents[1] / "frameworks" / "tables" / "spring_ai.sql").read_text()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("CREATE TABLE plain (id int PRIMARY KEY, body text, v vector(3))")
        conn.execute(recorded.split("INSERT")[0])  # type: ignore[arg-type]
    settings = load_settings(environ={"DATABASE_URL": database}, cwd=tmp_path)
    tables = Setup(settings, tmp_path / "embedtui.toml").tables()
    assert {table.name: table.made_by for table in tables} == {
        "plain": "",
        "vector_store": "Spring AI PgVectorStore",
    }
    found = FoundTable("vector_store", "embedding", "vector(8)", 3, "Spring AI PgVectorStore")
    assert table_line(found, 100).plain.endswith("Spring AI PgVectorStore, 3 rows")
