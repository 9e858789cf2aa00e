"""The settings in force: where each is from, which may be changed, and what a change does to file and workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from embedtui.config import load_settings
from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.errors import DatabaseLost, EmbedtuiError, Refused, SettingsError
from embedtui.model import SettingLine
from tests.kits.support import NEW, following, make_documents, wait_for

FILE = """# ours
table = "documents"
accept = ["proof"]
[old_model]
name = "old-model"
[pacing]
max_concurrency = 3  # enough
"""


@pytest.fixture
def engine(database: str, api: LoopbackServer, tmp_path: Path) -> Iterator[Engine]:
    make_documents(database, 20)
    (tmp_path / "embedtui.toml").write_text(FILE)
    environ = {
        "DATABASE_URL": database, "OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url, "EMBED_MODEL": NEW,
        "EMBED_DIMENSIONS": "16",
    }  # fmt: skip
    settings = load_settings({"distance": "cosine"}, environ=environ, cwd=tmp_path)
    with closing(Engine(database, settings=settings)) as found:
        yield found


def lines(engine: Engine) -> Mapping[str, SettingLine]:
    return {line.path: line for line in engine.settings_in_force().lines}


def change(engine: Engine, path: str, given: str) -> str:
    return engine.change_setting(path, given, engine.settings_in_force().seen)


def text(folder: Path) -> str:
    return (folder / "embedtui.toml").read_text()


def test_each_says_where_it_is_from_before_and_after_the_beginning(engine: Engine) -> None:
    before = lines(engine)
    origins = {path: (line.value, line.origin) for path, line in before.items()}
    assert origins["table"] == ("documents", "embedtui.toml")
    assert origins["new_model.name"] == (NEW, "EMBED_MODEL")
    assert origins["distance"] == ("cosine", "--distance")
    assert origins["scope"] == ("", "default")
    assert not before["scope"].fixed and not before["table"].fixed
    assert "EMBED_MODEL" in before["new_model.name"].fixed and "--distance" in before["distance"].fixed
    assert before["notify"].later

    engine.prepare()
    engine.set_pace(spend_cap=7)
    after = lines(engine)
    assert (after["placement"].value, after["placement"].origin) == ("column", "database")
    assert (after["pacing.spend_cap"].value, after["pacing.spend_cap"].origin) == ("7", "database")
    assert (after["pacing.max_concurrency"].value, after["pacing.max_concurrency"].origin) == ("3", "embedtui.toml")
    assert after["new_model.max_inputs"].origin == "default"
    identity = ("table", "scope", "content", "placement", "old_model.name", "index.method")
    assert all(after[path].fixed for path in identity)
    live = ("new_model.timeout_seconds", "new_model.key_variable", "pacing.spend_cap", "gate.where", "index.m")
    assert not any(after[path].fixed for path in live)


def test_before_the_beginning_all_can_be_changed_and_the_plan_goes_by_it(engine: Engine, tmp_path: Path) -> None:
    assert engine.plan().rows == 20
    assert change(engine, "scope", "id > 15") == "scope = id > 15, in embedtui.toml: in force here."
    assert engine.plan().rows == 5
    with pytest.raises(SettingsError, match="no_such"):
        change(engine, "scope", "no_such = 1")
    assert engine.plan().rows == 5
    change(engine, "scope", "")
    assert engine.plan().rows == 20
    assert text(tmp_path).split() == FILE.split()


def test_another_table_or_name_is_what_begins(engine: Engine, database: str) -> None:
    make_documents(database, 3, table="papers")
    with pytest.raises(SettingsError, match="did you mean papers"):
        change(engine, "table", "paper")
    change(engine, "table", "papers")
    assert engine.plan().rows == 3
    change(engine, "name", "search")
    assert engine.snapshot().migration is None
    engine.prepare()
    begun = engine.snapshot().migration
    assert begun is not None
    assert (begun.name, begun.table.name) == ("search", "papers")
    assert lines(engine)["name"].fixed


def test_a_worker_takes_a_change_while_it_works(engine: Engine, database: str, tmp_path: Path) -> None:
    with following(engine), closing(Engine(database, settings=engine.settings)) as screen:
        wait_for(lambda: screen.snapshot().phase == "validate")
        said = change(screen, "new_model.timeout_seconds", "17")
        assert said == "new_model.timeout_seconds = 17, in embedtui.toml: 1 worker reads it now."
        stored = "SELECT count(*) FROM embedtui.audit WHERE act = 'settings' AND detail LIKE '%timeout_seconds is 17%'"
        with psycopg.connect(database, autocommit=True) as conn:
            wait_for(lambda: conn.execute(stored).fetchone() == (1,))
        engine.set_pace(max_concurrency=9)
        assert lines(screen)["pacing.max_concurrency"].value == "9"
        change(screen, "pacing.max_concurrency", "4")
        assert lines(screen)["pacing.max_concurrency"].value == "4"
    assert "max_concurrency = 4  # enough" in text(tmp_path)
    assert text(tmp_path).startswith("# ours\n")


@pytest.mark.parametrize(
    ("path", "given", "error", "said"),
    [
        ("pacing.max_concurrency", "0", SettingsError, "must be a whole number from 1 to 256"),
        ("pacing.spend_cap", "free", SettingsError, "must be a number"),
        ("scope", "id > 3", Refused, "part of what is migrated"),
        ("new_model.name", "other", Refused, "EMBED_MODEL says it"),
        ("new_model.key_variable", "sk-abcdefgh12345678", SettingsError, "never the secret itself"),
        ("throttle.probe_query", "postgresql://u:pw@h/d", SettingsError, "looks like a secret"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    engine: Engine, tmp_path: Path, path: str, given: str, error: type[EmbedtuiError], said: str
) -> None:
    engine.prepare()
    with pytest.raises(error, match=said) as found:
        change(engine, path, given)
    assert "abcdefgh" not in str(found.value) and "pw@" not in str(found.value)
    assert text(tmp_path) == FILE


def test_a_file_that_changed_meanwhile_is_shown_and_not_written_over(engine: Engine, tmp_path: Path) -> None:
    seen = engine.settings_in_force().seen
    (tmp_path / "embedtui.toml").write_text(FILE + "spend_cap = 8\n")
    assert lines(engine)["pacing.spend_cap"].written == "8"
    with pytest.raises(Refused, match="changed by somebody else"):
        engine.change_setting("pacing.spend_cap", "5", seen)
    assert "spend_cap = 8" in text(tmp_path)
    change(engine, "pacing.requests_per_minute", "60")  # looked at anew
    assert lines(engine)["pacing.spend_cap"].value == "8"
    (tmp_path / "embedtui.toml").write_text("nonsense = 1\n")
    found = engine.settings_in_force()
    assert "no such setting" in found.problem
    with pytest.raises(SettingsError, match="no such setting"):
        engine.change_setting("pacing.spend_cap", "5", found.seen)


def test_what_a_field_would_spoil_is_left_to_the_file(engine: Engine, tmp_path: Path) -> None:
    hook = """hook = "curl -H 'Authorization: Bearer abcdefgh12345678' http://deploy"\n"""
    (tmp_path / "embedtui.toml").write_text(f'{FILE}[cutover]\n{hook}[gate]\nwhere = """a\nAND b"""\n')
    change(engine, "pacing.spend_cap", "5")
    found = lines(engine)
    assert "abcdefgh" not in found["cutover.hook"].value
    assert "not shown" in found["cutover.hook"].fixed
    assert "several lines" in found["gate.where"].fixed


def test_with_the_database_away_the_files_are_shown_and_nothing_is_written(engine: Engine, tmp_path: Path) -> None:
    settings = engine.settings
    with closing(Engine("postgresql://nobody@127.0.0.1:1/none", settings=settings)) as away:
        found = away.settings_in_force()
        assert "not shown" in found.problem
        assert {line.path: line.value for line in found.lines}["pacing.max_concurrency"] == "3"
        with pytest.raises(DatabaseLost):
            away.change_setting("pacing.max_concurrency", "4", found.seen)
    assert text(tmp_path) == FILE


def test_settings_of_no_file_are_shown_and_say_so(database: str, api: LoopbackServer) -> None:
    from embedtui.config import ModelSettings, Settings

    make_documents(database, 3)
    made = Settings(table="documents", new_model=ModelSettings(name=NEW, dimensions=16))
    with closing(Engine(database, settings=made)) as engine:
        found = engine.settings_in_force()
        assert found.file == ""
        assert all(line.fixed for line in found.lines)
        with pytest.raises(Refused, match="no file"):
            engine.change_setting("pacing.spend_cap", "5", found.seen)
