"""`content` that names no column of the table: a column of another one, or SQL over a row."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from embedtui.config import load_settings
from embedtui.config.values import names
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.engine.grants import grants
from embedtui.engine.plan.draft import Draft, resolve
from embedtui.engine.plan.start import require_startable
from embedtui.engine.setup import Setup
from embedtui.errors import Refused, SettingsError, TableError
from embedtui.postgres.state.privileges import Role
from tests.kits.cli_kit import InProcess
from tests.kits.support import connect
from tests.kits.tables import settings_of

TABLES = """
CREATE TABLE chunk (no bigint PRIMARY KEY, text text, "Odd Title" text, lang text);
CREATE TABLE note (no bigint PRIMARY KEY, said text);
CREATE TABLE chunk_vector (no bigint PRIMARY KEY REFERENCES chunk, first bigint REFERENCES note,
    second bigint REFERENCES note, title text, body text, vec vector(3));
INSERT INTO chunk VALUES (1, 'a text', 'odd', 'en');
INSERT INTO chunk_vector VALUES (1, NULL, NULL, 'Title', 'body', '[1,0,0]');
"""


@pytest.fixture
def tables(database: str) -> str:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TABLES)
    return database


def drafted(dsn: str, *content: str, **flags: object) -> Draft:
    given = {"table": "chunk_vector", "content": content, "new_model__key_variable": "", **flags}
    with connect(dsn, read_only=True) as conn:
        return resolve(conn, settings_of(Path(), given))


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        (["chunk.text"], ("text",)),
        (["public.chunk.text", "public.chunk.lang"], ("text", "lang")),
        (['chunk."Odd Title"'], ("Odd Title",)),
    ],
)
def test_a_column_of_the_table_that_a_foreign_key_leads_to(tables: str, content: list[str], columns: tuple) -> None:  # type: ignore[type-arg]
    draft = drafted(tables, *content)
    assert draft.elsewhere is not None and draft.elsewhere.facts.table.name == "chunk"
    assert draft.elsewhere.expression.elsewhere is not None
    assert draft.elsewhere.expression.elsewhere.columns == columns
    said = drafted(tables, *columns, content_from="chunk")
    assert draft.text == said.text
    assert drafted(tables, *content, content_from="chunk").text == said.text


@pytest.mark.parametrize(
    ("content", "sql"),
    [
        (["'# ' || title || body"], "'# ' || title || body"),
        (["concat_ws(' ', title, body)"], "concat_ws(' ', title, body)"),
        (["title", "lower(body)"], "concat_ws(E'\\n', title, lower(body))"),
        (["lower(chunk_vector.title)"], None),
        (["chunk_vector.title"], ""),
    ],
)
def test_sql_over_a_row(tables: str, content: list[str], sql: str | None) -> None:
    if sql is None:
        with pytest.raises(TableError, match="no SQL that makes a text of its rows"):
            drafted(tables, *content)
    elif sql:
        assert drafted(tables, *content).text == drafted(tables, content_sql=sql).text
    else:
        assert drafted(tables, *content).content == ("title",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (["note.said"], '2 foreign keys of chunk_vector refer to "note"'),
        (["chunks.text"], 'no column "chunks.text" in chunk_vector. chunk_vector has no foreign key to "chunks"'),
        (["chunk.txt"], "no column txt in chunk"),
        (["chunk.text", "title"], "no SQL that makes a text of its rows"),
        (["title", "boddy"], "did you mean body?"),
        (["length(title)"], "it is integer, not a text"),
    ],
)
def test_what_can_be_told_in_no_way_is_refused(tables: str, content: list[str], said: str) -> None:
    with pytest.raises(TableError) as refused:
        drafted(tables, *content)
    assert said in refused.value.message


def test_a_column_of_that_very_name_comes_first(tables: str) -> None:
    with psycopg.connect(tables, autocommit=True) as conn:
        conn.execute('ALTER TABLE chunk_vector ADD "chunk.text" text, ADD "title || body" text')
    assert drafted(tables, "chunk.text", "title || body").content == ("chunk.text", "title || body")


@pytest.mark.parametrize("content", ["chunk.text", "title || ', ' || body"])
def test_init_writes_what_it_means_and_a_run_goes_on_with_either(
    tables: str, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = InProcess(tmp_path, {"DATABASE_URL": tables}, monkeypatch, capsys)
    flags = ["--table", "chunk_vector", "--content", content]
    model = ["--new-model", "m", "--dimensions", "4", "--base-url", "http://127.0.0.1:9"]
    assert run("init", *flags, *model).code == 0
    file = tmp_path / "embedtui.toml"
    written = file.read_text()
    settings = load_settings(environ={"DATABASE_URL": tables}, cwd=tmp_path)
    sql = None if content == "chunk.text" else content
    assert settings.content_sql == sql and settings.content == (() if sql else ("text",))
    assert settings.content_from == (None if sql else "public.chunk")
    # a file that says it as it is typed, and set-up over it
    file.write_text("\n".join(line for line in written.splitlines() if not line.startswith("content")))
    file.write_text(f'content = ["{content}"]\n' + file.read_text())
    typed = load_settings(environ={"DATABASE_URL": tables}, cwd=tmp_path)
    setup = Setup(typed, file)
    proposal = setup.look({"table": "chunk_vector", "content": content}, whole=True)
    assert proposal.refused is None
    assert proposal.values.get("content_sql") == sql and ("content" in proposal.values) != bool(sql)
    fields = {path: proposal.values.get(path, "") for path in ("content", "content_sql", "content_from")}
    again = setup.look(fields, whole=True)
    assert again.refused is None and again.texts == proposal.texts
    with LoopbackServer({"m": hash_model(4)}) as api, connect(tables, read_only=True) as reading:
        known = {"OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}
        given = typed.with_values({"accept": ["proof"], "new_model.base_url": api.base_url}, "t")
        given = replace(given, environ={**given.environ, **known})
        assert grants(given, {Role.OPERATOR: "postgres"}).statements
        with closing(Engine(tables, settings=given)) as engine:
            engine.prepare()
        require_startable(reading, typed)
        require_startable(reading, settings)
        with pytest.raises((Refused, SettingsError)):
            require_startable(reading, typed.with_values({"content": ["upper(title)"]}, "t"))
    setup.write({"table": "chunk_vector", "content": content})
    assert load_settings(environ={"DATABASE_URL": tables}, cwd=tmp_path).content_sql == sql


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("title, body", ("title", "body")),
        ("concat_ws(', ', a, b), c", ("concat_ws(', ', a, b)", "c")),
        ("a || ',' || b", ("a || ',' || b",)),
        ('"a, b",c', ('"a, b"', "c")),
        ("it's,b", ("it's", "b")),
        ("a(,b", ("a(", "b")),
    ],
)
def test_commas_within_sql_divide_nothing(text: str, parts: tuple[str, ...]) -> None:
    assert names(text) == parts
