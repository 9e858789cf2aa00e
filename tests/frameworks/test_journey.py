"""The whole way with tables that real libraries made, while rows are written as the library writes them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

from embedtui.config import load_settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.presets.checks import text_sql
from embedtui.model import Check, Phase, Side
from embedtui.postgres.catalog.inspect import inspect_table
from embedtui.postgres.names import relation
from tests.frameworks.test_live_journey import Writing
from tests.frameworks.test_presets import MADE_BY, NAMES, TABLES, load
from tests.kits.cli_kit import InProcess
from tests.kits.support import NEW, OLD, connect, settings_for, vector_literal

NEW_TEXTS = ("Bread is baked at five.", "The library closes at noon on Sundays.")

Initialised = Callable[..., tuple[Engine, dict[str, Check]]]


def written_again(name: str, text: str, former: str, key: str) -> str:
    """The library's own INSERT of a row, with another key and text."""
    recorded = (TABLES / f"{name}.sql").read_text()
    statement = next(
        each for each in re.findall(r"^INSERT INTO .*?\);$", recorded, re.MULTILINE | re.DOTALL) if former in each
    )
    old_key = re.search(r'"key": \["([^"]+)"\], "text": "(?:[^"]*\\n\\n)?' + re.escape(former), recorded)
    assert old_key is not None
    return statement.replace(former, text).replace(f"'{old_key[1]}'", f"'{key}'", 1)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("langchain_pgvector", "11111111-1111-4111-8111-11111111111"),
        ("langchain_pgvectorstore", "11111111-1111-4111-8111-11111111111"),
        ("mem0", "11111111-1111-4111-8111-11111111111"),
        ("haystack", "another-"),
        ("agno", "another-"),
        ("llama_index", "90"),
    ],
)
def test_a_librarys_table_goes_the_whole_way(database: str, initialised: Initialised, name: str, key: str) -> None:
    preset = NAMES[str(MADE_BY[name])]
    with connect(database) as conn:
        recorded = load(conn, name)
        facts = inspect_table(conn, recorded.table, None)
        table = relation(facts.table).as_string(conn)
        told = ["--table", recorded.table, "--placement", "column"]
        text_of = preset.content[0] if preset.content else text_sql(facts, preset)
        if preset.function:
            conn.execute(preset.function.replace("{schema}", "public"))  # type: ignore[arg-type]
            told += ["--content-sql", text_of]
        # as if the old model had made them: the recorder numbered its texts
        for found, text in recorded.texts.items():
            vector = vector_literal(hash_model(8)([text], None)[0])
            conn.execute(
                sql.SQL("UPDATE {} SET {} = {} WHERE {}::text = {}").format(
                    relation(facts.table),
                    sql.Identifier(preset.vector),
                    vector,
                    sql.Identifier(preset.key[0]),
                    found[0],
                )
            )
    engine, checks = initialised(*told)
    proof = checks["proof"]
    # of LlamaIndex's five texts one cannot be made
    assert (proof.result, "4 of 5" in proof.detail) == (("warn", True) if name == "llama_index" else ("pass", False))

    def write(text: str, place: int) -> None:
        with psycopg.connect(database, autocommit=True) as application:
            application.execute(written_again(name, text, "Refunds are paid within five days.", f"{key}{place}"))  # type: ignore[arg-type]

    def all_new() -> bool:
        with psycopg.connect(database) as reading:
            query = f'SELECT {text_of}, "{migration.new_column}"::real[] FROM {table}'
            rows = reading.execute(query).fetchall()  # type: ignore[arg-type]
        return all(
            vector is not None and np.allclose(vector, hash_model(16)([text], None)[0], atol=1e-5)
            for text, vector in rows
        )

    migration = engine.prepare()
    write(NEW_TEXTS[0], 1)
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    assert all_new()
    engine.compare()
    passed = {"gate": "a few rows"}
    if name == "langchain_pgvectorstore":  # whose column is NOT NULL: it always writes both columns, or the old one
        passed["not_null"] = "the library writes the old column"
    engine.cutover(override=passed)
    write(NEW_TEXTS[1], 2)
    engine.run(threading.Event())
    assert all_new()
    engine.rollback()
    assert engine.snapshot().route.active is Side.OLD
    engine.cutover(override=passed)
    assert all_new()
    engine.cleanup(recorded.table, override=ENDING)
    with connect(database) as conn:
        rows = conn.execute(f'SELECT {text_of}, "{preset.vector}"::real[] FROM {table}').fetchall()  # type: ignore[arg-type]
    engine.close()
    assert len(rows) > 4
    _right(rows)


def _right(rows: Sequence[tuple[Any, ...]]) -> None:
    for text, vector in rows:
        np.testing.assert_allclose(vector, hash_model(16)([text], None)[0], atol=1e-5)


ENDING = dict.fromkeys(("gate", "soak", "listeners", "not_null"), "test")
FORMER = "Refunds are paid within five days."
PUBLISHED = {
    "dify": "",
    "flowise": "",
    "kernel_memory": "d=1//p=1",
    "mastra": "a1",
    "n8n": "",
    "open_webui": "a",
    "semantic_kernel": "info1",
    "spring_ai": "",
    "supabase": "",
}
"""The row's key in the published file, where the database does not make it."""
FOLDED = ("flowise", "kernel_memory", "supabase")
"""By a side table, which the cleanup makes a column of the library's table."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_table_goes_the_whole_way(database: str, initialised: Initialised, name: str) -> None:
    """By the file's own statement, with the old model's vector of another text; of Open WebUI one collection."""
    preset = NAMES[str(MADE_BY[name])]
    recorded_text = (TABLES / f"{name}.sql").read_text()
    [statement] = re.findall(r"^INSERT INTO .*?\);$", recorded_text, re.MULTILINE | re.DOTALL)
    statement = statement.split("),\n")[0] + (")" if "),\n" in statement else "")
    scope, others = ("collection_name = 'file-1'", "collection_name <> 'file-1'") if preset.scope else (None, "false")

    def write(text: str) -> None:
        key = f"{PUBLISHED[name]}{re.sub('[^0-9]', '', text)}"
        again = statement.replace(FORMER, text).replace(f"'{PUBLISHED[name]}'", f"'{key}'", 1)
        again = re.sub(r"'\[[\d,]+\]'", f"'{vector_literal(hash_model(8)([text], None)[0])}'", again)
        with psycopg.connect(database, autocommit=True) as application:
            application.execute(again)  # type: ignore[arg-type]

    with connect(database) as conn:
        recorded = load(conn, name)
        conn.execute(f"DELETE FROM {recorded.table} WHERE NOT ({others})")  # type: ignore[arg-type]
        for number in range(3):
            write(f"Text -{number}- from before.".replace("-", "00"))
        facts = inspect_table(conn, recorded.table, None)
        table, text_of = relation(facts.table).as_string(conn), preset.content_sql or f'"{preset.content[0]}"'
        columns = ", ".join(f'"{column.name}"' for column in facts.columns)
        rest = f"SELECT ctid, xmin, ROW({columns})::text FROM {table} WHERE {others} ORDER BY 1"
        before = conn.execute(rest).fetchall()  # type: ignore[arg-type]
    placement = "table" if name in FOLDED else "column"
    told = ["--table", recorded.table, "--placement", placement, *(["--where", scope] if scope else [])]
    with closing(initialised(*told)[0]) as engine:
        written = _whole_way(engine, write)
        engine.cleanup(facts.table.name, override=ENDING, **({"keep_old": True, "rename": False} if scope else {}))
        column = engine.require().new_column if scope else preset.vector
    with connect(database) as conn:
        query = f'SELECT {text_of}, "{column}"::real[] FROM {table} WHERE NOT ({others})'
        rows = conn.execute(query).fetchall()  # type: ignore[arg-type]
        assert conn.execute(rest).fetchall() == before  # type: ignore[arg-type]
    assert len(rows) == written + 3 > 10
    _right(rows)


@pytest.fixture
def initialised(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Initialised:
    """An engine by the file that `init` writes, whose plan finds nothing in the way."""

    def make(*told: str) -> tuple[Engine, dict[str, Check]]:
        environ = {"DATABASE_URL": database, "OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}
        shell = InProcess(tmp_path, environ, monkeypatch, capsys)
        done = shell("init", "--old-model", OLD, "--new-model", NEW, "--dimensions", "16", *told)
        assert done.code == 0, done.err
        settings = load_settings({}, environ=environ, cwd=tmp_path)
        with connect(database, read_only=True) as conn:
            checks = {check.name: check for check in make_plan(conn, settings, check_provider=True).checks}
        assert "fail" not in {check.result for check in checks.values()}, checks
        return Engine(database, settings=settings), checks

    return make


def _whole_way(engine: Engine, write: Callable[[str], object]) -> int:
    """Run, compare, switch, back and again, beside an application that writes; the number of texts that it wrote."""
    with Writing(write) as writing:
        engine.run(threading.Event())
        engine.compare()
        for act in (lambda: engine.cutover(override=ENDING), engine.rollback, lambda: engine.cutover(override=ENDING)):
            writing.some_more()
            assert engine.run(threading.Event()).phase.value in ("validate", "soak")
            act()
        writing.some_more()
    engine.run(threading.Event())
    assert not writing.failed
    return writing.count


RAILS = """
CREATE TABLE articles (id bigserial PRIMARY KEY, title character varying, body text, embedding vector(8),
    created_at timestamp(6) without time zone NOT NULL, updated_at timestamp(6) without time zone NOT NULL);
CREATE INDEX index_articles_on_embedding ON articles USING hnsw (embedding vector_cosine_ops);
"""
"""As `create_table :articles` of Rails 8 makes it, with neighbor's `t.vector :embedding, limit: 8`."""
OWN_COLUMNS = {
    "django": (
        "library_article",
        'INSERT INTO "library_article" ("title", "body", "embedding") VALUES (%(title)s, %(body)s, %(old)s)'
        ' RETURNING "library_article"."id"',
        # save() writes every column as it was read, the vector of the former text among them
        'UPDATE "library_article" SET "title" = %(title)s, "body" = %(body)s, "embedding" = %(old)s'
        ' WHERE "library_article"."id" = %(id)s',
    ),
    "rails": (
        "articles",
        'INSERT INTO "articles" ("title", "body", "embedding", "created_at", "updated_at")'
        ' VALUES (%(title)s, %(body)s, %(old)s, now(), now()) RETURNING "id"',
        # only what changed: an embedding made in a callback before the row is saved
        'UPDATE "articles" SET "body" = %(body)s, "embedding" = %(old)s, "updated_at" = now()'
        ' WHERE "articles"."id" = %(id)s',
    ),
}
"""The statements that a mapper sends (Django 5.2, Rails 8)."""


@pytest.mark.parametrize("name", OWN_COLUMNS)
def test_a_mappers_table_goes_the_whole_way(database: str, initialised: Initialised, name: str) -> None:
    """Title and body are embedded, one under the other; each third row is written again later."""
    table, insert, update = OWN_COLUMNS[name]
    known: list[int] = []

    def write(text: str) -> None:
        values = {"title": f"About {text[4:12]}", "body": text}
        with psycopg.connect(database, autocommit=True) as application:
            for statement in [insert, update] if len(known) % 3 == 0 else [insert]:
                if statement == update:
                    values["body"] += " It was edited."
                whole = f"{values['title']}\n{values['body']}"
                values["old"] = vector_literal(hash_model(8)([whole], None)[0])
                row = application.execute(statement, {**values, "id": known[-1] if known else 0})  # type: ignore[arg-type]
                if statement == insert:
                    [number] = row.fetchone() or [0]
                    known.append(number)

    with connect(database) as conn:
        if name == "rails":
            conn.execute(RAILS)
        else:
            load(conn, name)
            conn.execute("DELETE FROM library_article")
        for number in range(4):
            write(f"The {number}th text from before.")
    told = ["--table", table, "--content", "title", "--content", "body", "--placement", "column"]
    with closing(initialised(*told)[0]) as engine:
        written = _whole_way(engine, write)
        engine.cleanup(table, override=ENDING)
    with connect(database) as conn:
        rows = conn.execute(f"SELECT title || E'\\n' || body, embedding::real[] FROM {table}".encode()).fetchall()
    assert len(rows) == written + 4 > 10 and any("edited" in text for text, _ in rows)
    _right(rows)


LANGGRAPH_PUT = """
WITH item AS (
    INSERT INTO store (prefix, key, value) VALUES ('memories.ada', %(key)s, jsonb_build_object('text', %(text)s::text))
    ON CONFLICT (prefix, key) DO UPDATE SET value = EXCLUDED.value RETURNING prefix, key)
INSERT INTO store_vectors (prefix, key, field_name, embedding) SELECT prefix, key, 'text', %(vector)s FROM item
ON CONFLICT (prefix, key, field_name) DO UPDATE SET embedding = EXCLUDED.embedding
"""


def test_a_field_of_langgraphs_store_goes_the_whole_way(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """Its texts are in another table; another field of the items stays as it is. The side table is folded."""

    def put(number: int) -> None:
        text = f"A memory, {number}."
        values = {"key": f"m{number}", "text": text, "vector": vector_literal(hash_model(8)([text], None)[0])}
        with psycopg.connect(database, autocommit=True) as application:
            application.execute(LANGGRAPH_PUT, values)

    columns = "ctid, xmin, ROW(prefix, key, field_name, embedding, created_at, updated_at)::text"
    others = f"SELECT {columns} FROM store_vectors WHERE field_name <> 'text' ORDER BY 1"
    with connect(database) as conn:
        load(conn, "langgraph")
        conn.execute("DELETE FROM store_vectors")
        put(1)
        conn.execute("INSERT INTO store_vectors SELECT prefix, key, 'title', '[1,0,0,0,0,0,0,0]' FROM store")
        before = conn.execute(others).fetchall()
    flags = {"table": "store_vectors", "placement": "table", "accept": [], "content_from": "store"}
    flags |= {"content_sql": "value ->> 'text'", "scope": "field_name = 'text'"}
    settings = settings_for(database, api, tmp_path, flags)
    with connect(database, read_only=True) as conn:
        checks = make_plan(conn, settings, check_provider=True).checks
    assert [check for check in checks if check.result == "fail"] == []
    with closing(Engine(database, settings=settings)) as engine:
        engine.run(threading.Event())
        engine.compare()
        for turn, act in enumerate((engine.cutover, engine.rollback, engine.cutover), 2):
            put(turn)
            put(1)
            engine.run(threading.Event())
            act(**({} if act == engine.rollback else {"override": ENDING}))
        engine.run(threading.Event())
        engine.cleanup("store_vectors", override=ENDING, keep_old=True, rename=False, fold=True)
        column = engine.require().new_column
    with connect(database) as conn:
        query = f"""SELECT value ->> 'text', "{column}"::real[] FROM store JOIN store_vectors v USING (prefix, key)"""
        rows = conn.execute(f"{query} WHERE field_name = 'text'").fetchall()
        assert conn.execute(others).fetchall() == before and len(before) == 4
    assert len(rows) == 4
    _right(rows)
