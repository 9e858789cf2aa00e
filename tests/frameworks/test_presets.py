"""Frameworks' tables, as the real libraries made them or as their makers publish them: known, and with their texts."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from embedtui.engine.plan.draft import resolve
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.presets import Preset, frameworks_of, recognise
from embedtui.engine.plan.presets.checks import text_sql
from embedtui.engine.plan.presets.frameworks import FRAMEWORKS
from embedtui.errors import TableError
from embedtui.model import Check, PlacementKind
from embedtui.postgres.catalog.inspect import inspect_table
from embedtui.postgres.connect import Connection
from embedtui.postgres.expressions import row_sql
from embedtui.postgres.names import relation
from embedtui.postgres.sides.texts import first_texts
from tests.kits.cli_kit import InProcess
from tests.kits.support import connect
from tests.kits.tables import settings_of

TABLES = Path(__file__).parent / "tables"

MADE_BY = {
    "agno": "agno PgVector",
    "dify": "Dify",
    "django": None,
    "flowise": "Flowise, or LangChain.js TypeORMVectorStore",
    "haystack": "Haystack PgvectorDocumentStore",
    "kernel_memory": "Kernel Memory",
    "langchain_pgvector": "LangChain PGVector",
    "langchain_pgvectorstore": "LangChain PGVectorStore",
    "langgraph": "LangGraph PostgresStore",
    "llama_index": "LlamaIndex PGVectorStore",
    "mastra": "Mastra PgVector",
    "mem0": "mem0",
    "n8n": "n8n, or LangChain.js PGVectorStore",
    "open_webui": "Open WebUI",
    "open_webui_encrypted": "Open WebUI, encrypted",
    "semantic_kernel": "Semantic Kernel PostgresMemoryStore",
    "spring_ai": "Spring AI PgVectorStore",
    "supabase": "Supabase, or LangChain's SupabaseVectorStore",
}
"""The framework of each file in ``tables``; None where a framework leaves the columns to the application."""

NAMES = {preset.name: preset for preset in FRAMEWORKS}


@dataclass(frozen=True)
class Recorded:
    """A file of ``tables``."""

    table: str
    texts: dict[tuple[str, ...], str]
    """What the library had embedded, by the row's key; empty for a published statement."""


def load(conn: Connection, name: str) -> Recorded:
    """Make a framework's table, with its rows."""
    text = (TABLES / f"{name}.sql").read_text()
    for statement in re.split(r";\n", "\n".join(line for line in text.splitlines() if not line.startswith("-- "))):
        if statement.strip() and "$$" not in statement:
            conn.execute(statement.replace("CONCURRENTLY ", ""))  # type: ignore[arg-type]
    told = [json.loads(line) for line in re.findall(r"^-- embedded: (.*)$", text, re.MULTILINE)]
    table = re.search(r"^-- table: (.*)$", text, re.MULTILINE)
    assert table is not None
    return Recorded(table[1], {tuple(each["key"]): each["text"] for each in told})


def texts_of(conn: Connection, recorded: Recorded, preset: Preset) -> dict[tuple[str, ...], str]:
    """The texts as the preset has them, but for rows of which it says that they cannot be made."""
    facts = inspect_table(conn, recorded.table, None)
    if preset.function:
        conn.execute(preset.function.replace("{schema}", "public"))  # type: ignore[arg-type]
    if preset.texts_in:
        text = resolve(conn, settings_of(Path(), {"table": recorded.table})).text
        assert text is not None
        expression = row_sql(text, sql.Identifier(facts.table.name)).as_string(conn)
    else:
        expression = text_sql(facts, preset) if preset.content_sql else sql.Identifier(*preset.content).as_string(conn)
    unlike = f"NOT ({preset.unlike})" if preset.unlike else "true"
    keys = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in preset.key)
    rows = conn.execute(
        sql.SQL("SELECT ARRAY[{}], {} FROM {} WHERE {}").format(
            keys, sql.SQL(expression), relation(facts.table), sql.SQL(unlike)
        )
    )
    return {tuple(key): text for key, text in rows}


def checks_of(dsn: str, table: str, **flags: Any) -> dict[str, Check]:
    with connect(dsn, read_only=True) as conn:
        flags = {"table": table, "new_model__key_variable": "", "new_model__base_url": "http://127.0.0.1:9", **flags}
        return {check.name: check for check in make_plan(conn, settings_of(Path(), flags)).checks}


def test_every_framework_has_a_table_and_a_place_in_the_docs() -> None:
    assert {path.stem for path in TABLES.glob("*.sql")} == set(MADE_BY)
    assert set(filter(None, MADE_BY.values())) == set(NAMES)
    docs = (Path(__file__).parents[2] / "docs" / "frameworks.md").read_text()
    for preset in FRAMEWORKS:
        assert preset.name in docs, preset.name


@pytest.mark.parametrize("name", MADE_BY)
def test_a_framework_is_known_by_its_columns(conn: Connection, name: str) -> None:
    recorded = load(conn, name)
    facts = inspect_table(conn, recorded.table, None)
    found = recognise(facts)
    assert (found.name if found else None) == MADE_BY[name]
    assert frameworks_of(conn, [facts.table]).get(facts.table) == MADE_BY[name]
    if found is not None:
        assert facts.keys[0].columns == found.key
        assert [column.name for column in facts.vector_columns] == [found.vector]


@pytest.mark.parametrize(
    "name", ["agno", "haystack", "langchain_pgvector", "langchain_pgvectorstore", "llama_index", "mem0"]
)
def test_a_text_is_what_the_library_had_embedded(conn: Connection, name: str) -> None:
    recorded = load(conn, name)
    preset = NAMES[str(MADE_BY[name])]
    made = texts_of(conn, recorded, preset)
    assert len(made) >= 3
    assert made == {key: text for key, text in recorded.texts.items() if key in made}
    left_out = set(recorded.texts) - set(made)
    assert len(left_out) == (1 if name == "llama_index" else 0)


@pytest.mark.parametrize("name", [name for name, made_by in MADE_BY.items() if made_by and NAMES[made_by].content])
def test_what_a_framework_embeds_is_proposed(conn: Connection, database: str, name: str) -> None:
    recorded = load(conn, name)
    preset = NAMES[str(MADE_BY[name])]
    draft = resolve(conn, settings_of(Path(), {"table": recorded.table}))
    assert (draft.content, draft.old_column, draft.key.columns) == (preset.content, preset.vector, preset.key)
    check = checks_of(database, recorded.table)["framework"]
    assert f"looks like {preset.name}" in check.detail
    assert preset.embeds in check.detail
    assert check.result == ("warn" if preset.caution else "pass")


@pytest.mark.parametrize("name", ["mastra", "mem0", "semantic_kernel"])
def test_a_text_that_is_no_column_is_proposed_as_sql(conn: Connection, name: str) -> None:
    recorded = load(conn, name)
    preset = NAMES[str(MADE_BY[name])]
    draft = resolve(conn, settings_of(Path(), {"table": recorded.table}))
    assert draft.text is not None
    assert draft.text.given == preset.content_sql
    made = first_texts(conn, draft.migration(PlacementKind.COLUMN), 1000)
    assert sorted(made) == sorted(recorded.texts.values() or ["Refunds are paid within five days."])
    # where no row has such a text, it is not guessed
    json_column = preset.content_sql.split()[0]
    conn.execute(f"UPDATE {relation(draft.facts.table).as_string(conn)} SET {json_column} = '{{}}'")  # type: ignore[arg-type]
    with pytest.raises(TableError, match=re.escape(preset.embeds)):
        resolve(conn, settings_of(Path(), {"table": recorded.table}))


def test_a_text_that_needs_a_function_is_refused_with_it(conn: Connection, database: str) -> None:
    recorded = load(conn, "llama_index")
    with pytest.raises(TableError) as refusal:
        resolve(conn, settings_of(Path(), {"table": recorded.table}))
    # the function of the hint, as it stands there, and the setting
    hint = refusal.value.hint or ""
    function = re.search(r"CREATE FUNCTION .*?\$\$.*?\$\$", hint, re.DOTALL)
    assert function is not None
    conn.execute(function[0])  # type: ignore[arg-type]
    said = re.search(r"--content-sql ('[^']*'(?:\"'\"'[^']*')*)", hint) or re.search(r"--content-sql (\S+)", hint)
    assert said is not None
    [expression] = shlex.split(said[1])
    flags = {"table": recorded.table, "content_sql": expression}
    draft = resolve(conn, settings_of(Path(), flags))
    assert draft.text is not None
    assert draft.text.given == expression
    made = set(first_texts(conn, draft.migration(PlacementKind.COLUMN), 1000))
    assert made >= {text for text in recorded.texts.values() if "Spree" not in text}
    assert "Of 1 row among" in checks_of(database, **flags)["framework"].detail


def test_what_cannot_be_moved_is_refused_with_what_can_be_done(conn: Connection) -> None:
    recorded = load(conn, "open_webui_encrypted")
    with pytest.raises(TableError) as refusal:
        resolve(conn, settings_of(Path(), {"table": recorded.table}))
    assert "Its texts are encrypted" in str(refusal.value.hint)


FIELDS = {
    'it\'s, "odd"': ({'it\'s, "odd"': "one"}, "one"),
    "size": ({"size": 1.50}, "1.50"),
    "list": ({"list": ["b", "a"]}, "CREATE FUNCTION public.langgraph_text"),
    "yes": ({"yes": True}, "LangGraph write them anew"),
    "gone": ({"text": "one"}, "LangGraph write them anew"),
    "tags[*].0": ({"tags": ["a", "b"]}, "LangGraph write them anew"),
    "$": ({"text": "one"}, "CREATE FUNCTION public.langgraph_text"),
}
"""By the path: an item, and its text or what is said instead."""


@pytest.mark.parametrize("field", FIELDS)
def test_what_langgraph_embeds_is_read_from_its_rows(conn: Connection, field: str) -> None:
    value, expected = FIELDS[field]
    recorded = load(conn, "langgraph")
    conn.execute("DELETE FROM store")
    conn.execute("INSERT INTO store VALUES ('p', 'k', %s)", [json.dumps(value).replace("1.5", "1.50")])
    conn.execute("INSERT INTO store_vectors VALUES ('p', 'k', %s, '[1,1,1,1,1,1,1,1]')", [field])
    try:
        draft = resolve(conn, settings_of(Path(), {"table": recorded.table}))
        assert first_texts(conn, draft.migration(PlacementKind.COLUMN), 10) == [expected]
    except TableError as refusal:
        assert expected in str(refusal.hint)


def test_several_fields_of_langgraphs_are_searched_together(conn: Connection) -> None:
    recorded = load(conn, "langgraph")
    conn.execute("INSERT INTO store_vectors SELECT prefix, key, 'title', embedding FROM store_vectors")
    with pytest.raises(TableError) as refusal:
        resolve(conn, settings_of(Path(), {"table": recorded.table}))
    assert "several fields (text, title)" in str(refusal.value.hint)
    scoped = settings_of(Path(), {"table": recorded.table, "scope": "field_name = 'text'"})
    draft = resolve(conn, scoped)
    texts = first_texts(conn, draft.migration(PlacementKind.COLUMN), 10)
    assert sorted(texts) == sorted(recorded.texts.values())


@pytest.mark.parametrize(
    ("name", "column"), [("langchain_pgvector", "collection_id"), ("open_webui", "collection_name")]
)
def test_collections_that_share_a_table_are_named(conn: Connection, database: str, name: str, column: str) -> None:
    recorded = load(conn, name)
    check = checks_of(database, recorded.table)["collections"]
    assert check.result == "warn"
    assert f"{column} has 2 or more values" in check.detail
    assert ("handbook: 1b9e3638" in check.detail) == (name == "langchain_pgvector"), "people know them by name"
    if name == "langchain_pgvector":  # another make's table may have that name
        conn.execute("ALTER TABLE langchain_pg_collection RENAME name TO title")
        assert "handbook" not in checks_of(database, recorded.table)["collections"].detail
    table, kept = conn.execute("SELECT %s::regclass::text, 1", [recorded.table]).fetchone() or ("", 0)
    conn.execute(f"DELETE FROM {table} WHERE {column} <> (SELECT {column} FROM {table} ORDER BY 1 LIMIT {kept})")  # type: ignore[arg-type]
    assert "collections" not in checks_of(database, recorded.table)


def test_a_table_of_the_applications_own_is_asked_for(conn: Connection) -> None:
    recorded = load(conn, "django")
    with pytest.raises(TableError, match="2 text columns: title, body"):
        resolve(conn, settings_of(Path(), {"table": recorded.table}))


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE TABLE n8n_vectors (id bigint PRIMARY KEY, text text, metadata jsonb, embedding vector(3))",
        "CREATE TABLE chunks (id uuid PRIMARY KEY, text text, meta jsonb, embedding vector(3))",  # no name of Dify's
        "CREATE TABLE mem0 (id uuid UNIQUE, vector vector(3), payload jsonb)",  # no key
        "CREATE TABLE t (id uuid PRIMARY KEY, content varchar, metadata hstore, embedding vector(3))",
    ],
)
def test_a_likeness_is_no_framework(conn: Connection, ddl: str) -> None:
    conn.execute(ddl.replace("hstore", "text"))  # type: ignore[arg-type]
    assert recognise(inspect_table(conn, ddl.split()[2], None)) is None


def test_a_set_content_is_kept_and_compared(conn: Connection, database: str) -> None:
    recorded = load(conn, "langchain_pgvectorstore")
    flags = {"table": recorded.table, "content": ("title", "content")}
    assert resolve(conn, settings_of(Path(), flags)).content == ("title", "content")
    check = checks_of(database, recorded.table, content=("title", "content"))["framework"]
    assert check.result == "warn"
    assert "The settings say title, content" in check.detail
    conn.execute("ALTER TABLE handbook ADD other vector(5)")
    assert resolve(conn, settings_of(Path(), {"table": recorded.table})).old_column == "embedding"


def test_init_writes_what_it_proposes_and_says_why(
    conn: Connection,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load(conn, "open_webui")
    load(conn, "mem0")
    shell = InProcess(tmp_path, {"DATABASE_URL": database}, monkeypatch, capsys)
    model = ("--new-model", "text-embedding-3-large", "--dimensions", "256")
    done = shell("init", "--table", "document_chunk", *model)
    assert "made by  Open WebUI, which embeds the chunk's text" in done.out
    assert "PGVECTOR_INITIALIZE_MAX_VECTOR_LENGTH" in done.err
    assert 'content = ["text"]' in (tmp_path / "embedtui.toml").read_text()
    (tmp_path / "embedtui.toml").unlink()
    assert shell("init", "--table", "mem0", *model).code == 0
    assert "content_sql = \"payload ->> 'data'\"" in (tmp_path / "embedtui.toml").read_text()


@pytest.mark.parametrize(
    ("flags", "old", "new"),
    [
        ({"new_model__dimensions": 6, "old_model__name": "m"}, (8, 4), (8, 6)),
        ({"new_model__dimensions": 6}, (8, None), (8, 6)),
        ({"new_model__dimensions": 8, "old_model__name": "m", "old_model__dimensions": 5}, (8, 5), (8, None)),
        ({"new_model__dimensions": 16}, (8, None), (16, None)),
        ({"new_model__dimensions": 6, "new_model__pad_to": False}, (8, None), (6, None)),
        ({"new_model__dimensions": 6, "new_model__pad_to": 7}, (8, None), (7, 6)),
    ],
)
def test_a_framework_that_pads_is_padded_for(
    conn: Connection, tmp_path: Path, flags: dict[str, Any], old: tuple[int, int | None], new: tuple[int, int | None]
) -> None:
    load(conn, "open_webui")
    draft = resolve(conn, settings_of(tmp_path, {"table": "document_chunk", "new_model__name": "n", **flags}))
    assert (draft.old_model.dimensions, draft.old_model.given) == old
    assert (draft.new_model.dimensions, draft.new_model.given) == new


def test_init_writes_what_pads(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(database) as conn:
        load(conn, "open_webui")
    shell = InProcess(tmp_path, {"DATABASE_URL": database}, monkeypatch, capsys)
    models = ("--old-model", "m", "--new-model", "n", "--dimensions", "6")
    assert shell("init", "--table", "document_chunk", *models).code == 0
    text = (tmp_path / "embedtui.toml").read_text()
    assert re.search(r"^dimensions = 4 .*\npad_to = 8 ", text, re.MULTILINE)
    assert re.search(r"^dimensions = 6 .*\npad_to = 8 ", text, re.MULTILINE)
