"""The whole way with tables that real libraries made, while rows are written as the library writes them.

From before `init` until after the cleanup an application adds, edits, writes anew and deletes rows, by recorded or
published statements that know the table alone; from `prepare` on it follows the route by the routed view. At the end
each row has the new model's vector of its text, and no row of another collection has been written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from embedtui.config import Settings, load_settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.cleanup import fold
from embedtui.engine.engine import Engine
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.presets.checks import text_sql
from embedtui.engine.plan.presets.frameworks import LANGGRAPH_TEXT
from embedtui.errors import LockTimeout
from embedtui.integrations import Routing
from embedtui.integrations.routing import move
from embedtui.model import Check, Phase, Side
from embedtui.postgres.catalog.inspect import inspect_table
from embedtui.postgres.names import relation
from embedtui.router import Router
from tests.frameworks.test_live_journey import Writing
from tests.frameworks.test_presets import MADE_BY, NAMES, TABLES, load
from tests.kits.cli_kit import InProcess
from tests.kits.support import NEW, OLD, connect, following, vector_literal, wait_for

MODELS = {OLD: hash_model(8), NEW: hash_model(16)}
FORMER = "Refunds are paid within five days."
ENDING = dict.fromkeys(("gate", "soak", "listeners", "not_null", "queue", "sync"), "test")

Initialised = Callable[[list[str]], tuple[Settings, dict[str, Check]]]
Statements = Callable[[str, str, int], list[str]]
"""What the application sends for a text, as the vector's model has it embedded, and its number."""


@dataclass
class Application:
    """Adds a text; every third it writes anew or edits, every fifth it deletes."""

    dsn: str
    statements: Statements
    embedded: Callable[[str], str] = str
    """The text that the library has embedded of a text that it is given."""
    schema: str = "public"
    routing: Routing | None = None
    texts: list[str] = field(default_factory=list)

    def __call__(self, text: str) -> None:
        number = len(self.texts)
        with self.routing.use() if self.routing is not None else nullcontext() as route, psycopg.connect(
            self.dsn, options=f"-c search_path={self.schema},public"
        ) as conn:  # fmt: skip
            if self.routing is not None:
                move([self.routing], f"{self.schema}, public", lambda query: conn.execute(query).fetchone())
            model = OLD if route is None else route.model
            vector = vector_literal(MODELS[model]([self.embedded(text)], None)[0])
            for statement in self.statements(text, vector, number):
                conn.execute(statement.encode())
        self.texts.append(text)


def inserts(name: str) -> tuple[str, str]:
    """The library's INSERT of one row, and the key's value in it; empty where the database makes that."""
    recorded = (TABLES / f"{name}.sql").read_text()
    found = re.findall(r"^INSERT INTO .*?\);$", recorded, re.MULTILINE | re.DOTALL)
    statement = (
        next(each for each in found if FORMER in each).split("),\n")[0].removesuffix(";").removesuffix(")") + ")"
    )
    statement = re.sub(r"^INSERT INTO (public|ai)\.", "INSERT INTO ", statement)
    key = re.search(r'"key": \["([^"]+)"\], "text": "(?:[^"]*\\n\\n)?' + re.escape(FORMER), recorded)
    return statement, key[1] if key is not None else PUBLISHED.get(name, "")


def of_file(name: str, text_of: str, edited: str) -> Statements:
    """By the file's own INSERT; ``edited`` is (column, type) that has the text in it."""
    insert, former_key = inserts(name)
    table = re.match(r"INSERT INTO (\S+)", insert)
    assert table is not None
    preset = NAMES[str(MADE_BY[name])]

    def row(text: str, vector: str, number: int) -> str:
        again = insert.replace(FORMER, text)
        if former_key:
            again = again.replace(f"'{former_key}'", f"'{NEXT.get(name, '{0}{1}').format(former_key, number)}'", 1)
        return re.sub(r"'\[[\d,]+\]'", f"'{vector}'", again)

    def statements(text: str, vector: str, number: int) -> list[str]:
        where = f"WHERE {text_of} LIKE '%{text}'"
        if number % 5 == 4:
            return [row(text, vector, number), f"DELETE FROM {table[1]} {where}"]
        if number % 3 == 1:  # its former text, and its vector of that, are gone
            edit = f"{edited} = replace({edited}::text, 'A draft of it.', '{text}')::{KINDS.get(name, 'text')}"
            draft = f"WHERE {text_of} LIKE '%A draft of it.'"
            update = f"UPDATE {table[1]} SET {edit}, \"{preset.vector}\" = '{vector}' {draft}"
            return [row("A draft of it.", vector, number), update]
        if number % 3 == 2:
            return [row(text, vector, number), f"DELETE FROM {table[1]} {where}", row(text, vector, number)]
        return [row(text, vector, number)]

    return statements


PUBLISHED = {"kernel_memory": "d=1//p=1", "mastra": "a1", "open_webui": "a", "semantic_kernel": "info1"}
"""The row's key in the published file, where the database does not make it."""
UUID = "11111111-1111-4111-8111-{1:012}"
NEXT = {"langchain_pgvector": UUID, "langchain_pgvectorstore": UUID, "mem0": UUID, "llama_index": "9{1:04}"}
"""The key of the row of a number, where it is none of texts."""
KINDS = {"mem0": "jsonb", "semantic_kernel": "jsonb", "mastra": "jsonb"}
"""The type of the column that has the text."""
FOLDED = ("flowise", "kernel_memory", "supabase")
"""By a side table, which the cleanup makes a column of the library's table."""
LIBRARIES = ("agno", "haystack", "langchain_pgvector", "langchain_pgvectorstore", "llama_index", "mem0")
FILES = (
    *LIBRARIES, "dify", "flowise", "kernel_memory", "mastra", "n8n", "open_webui", "semantic_kernel", "spring_ai",
    "supabase",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_frameworks_table_goes_the_whole_way(
    name: str, database: str, initialised: Initialised, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of LangChain's PGVector and of Open WebUI one collection."""
    monkeypatch.setattr(fold, "REQUEST", 1.0)
    preset = NAMES[str(MADE_BY[name])]
    scope = {"open_webui": "collection_name = 'file-1'"}.get(name)
    with connect(database) as conn:
        recorded = load(conn, name)
        facts = inspect_table(conn, recorded.table, None)
        table = relation(facts.table).as_string(conn)
        placement = "table" if name in FOLDED else "column"
        told = ["--table", recorded.table, "--placement", placement, "--view"]
        text_of = f'"{preset.content[0]}"' if preset.content else text_sql(facts, preset)
        if preset.function:
            conn.execute(preset.function.replace("{schema}", "public"))  # type: ignore[arg-type]
            told += ["--content-sql", text_of]
        if name == "langchain_pgvector":
            scope = "collection_id = '1b9e3638-ac83-46f6-8f5a-c7ac724ec0a0'"
        if name in ("dify", "langchain_pgvectorstore"):  # as the cutover asks for
            conn.execute(f"ALTER TABLE {table} ALTER embedding DROP NOT NULL")  # type: ignore[arg-type]
        # as if the old model had made them: the recorder numbered its texts
        for (text,) in conn.execute(f"SELECT {text_of} FROM {table}").fetchall():  # type: ignore[arg-type]
            vector = vector_literal(MODELS[OLD]([text], None)[0])
            conn.execute(f'UPDATE {table} SET "{preset.vector}" = %s WHERE {text_of} = %s', [vector, text])  # type: ignore[arg-type]
        others = f"NOT ({scope})" if scope else "false"
        columns = ", ".join(f'"{column.name}"' for column in facts.columns)
        rest = f"SELECT ctid, xmin, ROW({columns})::text FROM {table} WHERE {others} ORDER BY 1"
        before = conn.execute(rest).fetchall()  # type: ignore[arg-type]
        assert bool(before) == bool(scope)
    told += ["--where", scope] if scope else []
    whole = next((text for text in recorded.texts.values() if FORMER in text), FORMER)
    edited = {"mem0": "payload", "llama_index": "text"}.get(name, "metadata" if name in KINDS else text_of)
    application = Application(
        database, of_file(name, text_of, edited), lambda text: whole.replace(FORMER, text), facts.table.schema
    )
    ending: dict[str, Any] = {"keep_old": True, "rename": False} if scope else {}
    column = whole_way(application, initialised, told, facts.table.name, **ending)
    query = f'SELECT {text_of}, "{column if scope else preset.vector}"::real[] FROM {table} WHERE NOT ({others})'
    with connect(database) as conn:
        rows = conn.execute(query.encode()).fetchall()
        assert conn.execute(rest.encode()).fetchall() == before
    all_new(rows, {application.embedded(text) for text in kept(application)})


def kept(application: Application) -> list[str]:
    return [text for number, text in enumerate(application.texts) if number % 5 != 4]


def all_new(rows: list[tuple[Any, ...]], written: set[str]) -> None:
    """Every row has the new model's vector of its text, and all that was written is there."""
    assert written <= {text for text, _ in rows} and len(written) > 10
    assert len(rows) < len(written) + 10, "what was deleted is gone"
    for text, vector in rows:
        np.testing.assert_allclose(vector, MODELS[NEW]([text], None)[0], atol=1e-5)


def whole_way(application: Application, initialised: Initialised, told: list[str], typed: str, **ending: Any) -> str:
    """All acts, beside the application; gives the column with the new vectors before the cleanup."""
    with Writing(application) as writing:
        settings, checks = initialised(told)
        # of LlamaIndex's recorded texts one cannot be made, which is seen where it is drawn
        assert checks["proof"].result in ("pass", "warn" if "data_handbook" in told else "pass"), checks["proof"]
        with closing(Engine(application.dsn, settings=settings)) as engine, ExitStack() as stack:
            column = engine.prepare().new_column
            router = stack.enter_context(Router(application.dsn))
            application.routing = Routing(router, engine.require().name)
            writing.some_more()
            with following(engine):
                wait_for(lambda: engine.require().phase is Phase.VALIDATE, "no index")
                writing.some_more()
                engine.compare()
                for act in (lambda: engine.cutover(override=ENDING), engine.rollback):
                    act()
                    writing.some_more()
                engine.cutover(override=ENDING)
                writing.some_more()
                while engine.require().phase is not Phase.DONE:
                    try:
                        engine.cleanup(typed, override=ENDING, **ending)
                    except LockTimeout:  # somebody always holds a lock: again, as an operator would
                        continue
                wait_for(lambda: application.routing is not None and application.routing.route.side is Side.NEW)
                writing.some_more()
    assert not writing.failed
    return column


@pytest.fixture
def initialised(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Initialised:
    """The settings of the file that `init` writes, with the checks of a plan that finds nothing in the way."""

    def make(told: list[str]) -> tuple[Settings, dict[str, Check]]:
        environ = {"DATABASE_URL": database, "OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}
        shell = InProcess(tmp_path, environ, monkeypatch, capsys)
        done = shell("init", "--old-model", OLD, "--new-model", NEW, "--dimensions", "16", *told)
        assert done.code == 0, done.err
        settings = load_settings({}, environ=environ, cwd=tmp_path)
        with connect(database, read_only=True) as conn:
            checks = {check.name: check for check in make_plan(conn, settings, check_provider=True).checks}
        assert "fail" not in {check.result for check in checks.values()}, checks
        return settings, checks

    return make


RAILS = """
CREATE TABLE articles (id bigserial PRIMARY KEY, title character varying, body text, embedding vector(8),
    created_at timestamp(6) without time zone NOT NULL, updated_at timestamp(6) without time zone NOT NULL);
CREATE INDEX index_articles_on_embedding ON articles USING hnsw (embedding vector_cosine_ops);
"""
"""As `create_table :articles` of Rails 8 makes it, with neighbor's `t.vector :embedding, limit: 8`."""
OWN_COLUMNS = {
    "django": (
        "library_article",
        'INSERT INTO "library_article" ("title", "body", "embedding") VALUES (\'About it\', \'{text}\', \'{vector}\')'
        ' RETURNING "library_article"."id"',
        # save() writes every column as it was read
        'UPDATE "library_article" SET "title" = \'About it\', "body" = \'{text}\', "embedding" = \'{vector}\''
        ' WHERE "library_article"."body" = \'{draft}\'',
    ),
    "rails": (
        "articles",
        'INSERT INTO "articles" ("title", "body", "embedding", "created_at", "updated_at")'
        " VALUES ('About it', '{text}', '{vector}', now(), now()) RETURNING \"id\"",
        # only what changed: an embedding made in a callback before the row is saved
        'UPDATE "articles" SET "body" = \'{text}\', "embedding" = \'{vector}\', "updated_at" = now()'
        ' WHERE "articles"."body" = \'{draft}\'',
    ),
}
"""The statements that a mapper sends (Django 5.2, Rails 8)."""


@pytest.mark.parametrize("name", OWN_COLUMNS)
def test_a_mappers_table_goes_the_whole_way(name: str, database: str, initialised: Initialised) -> None:
    """Title and body are embedded, one under the other."""
    table, insert, update = OWN_COLUMNS[name]

    def statements(text: str, vector: str, number: int) -> list[str]:
        if number % 5 == 4:
            return [insert.format(text=text, vector=vector), f"DELETE FROM {table} WHERE body = '{text}'"]
        if number % 3:
            return [insert.format(text=text, vector=vector)]
        # a draft that is saved again, with the vector of its last text
        draft = f"A draft, {number}."
        return [insert.format(text=draft, vector=vector), update.format(text=text, vector=vector, draft=draft)]

    application = Application(database, statements, lambda text: f"About it\n{text}")
    with connect(database) as conn:
        if name == "rails":
            conn.execute(RAILS)
        else:
            load(conn, name)
            conn.execute("DELETE FROM library_article")
    for number in range(4):
        application(f"The text {number} from before.")
    told = ["--table", table, "--content", "title", "--content", "body", "--placement", "column", "--view"]
    whole_way(application, initialised, told, table)
    with connect(database) as conn:
        rows = conn.execute(f"SELECT title || E'\\n' || body, embedding::real[] FROM {table}".encode()).fetchall()
    all_new(rows, {application.embedded(text) for text in kept(application)})


LANGGRAPH_PUT = """
WITH item AS (
    INSERT INTO store (prefix, key, value) VALUES ('memories.ada', '{key}', '{value}')
    ON CONFLICT (prefix, key) DO UPDATE SET value = EXCLUDED.value RETURNING prefix, key)
INSERT INTO store_vectors (prefix, key, field_name, embedding) SELECT prefix, key, '{field}', '{vector}' FROM item
ON CONFLICT (prefix, key, field_name) DO UPDATE SET embedding = EXCLUDED.embedding
"""


@pytest.mark.parametrize("field", ["text", "of.text", "$"])
@pytest.mark.variants(1)
def test_a_store_of_langgraphs_goes_the_whole_way(field: str, database: str, initialised: Initialised) -> None:
    """Its texts are in another table: of a field, or the whole item as JSON, which a function makes."""

    def value(text: str) -> object:
        return {"text": text} if field == "text" else {"of": {"text": text}, "b": [1, {"é": "ü\t"}], "aa": None}

    def embedded(text: str) -> str:
        return json.dumps(value(text), sort_keys=True, ensure_ascii=False) if field == "$" else text

    def put(text: str, vector: str, key: int) -> str:
        return LANGGRAPH_PUT.format(key=f"m{key}", value=json.dumps(value(text)), vector=vector, field=field)

    def statements(text: str, vector: str, number: int) -> list[str]:
        if number % 5 == 4:
            return [put(text, vector, number), f"DELETE FROM store WHERE key = 'm{number}'"]
        return [*([put("A draft.", vector, number)] if number % 3 else []), put(text, vector, number)]

    application = Application(database, statements, embedded)
    with connect(database) as conn:
        load(conn, "langgraph")
        conn.execute("DELETE FROM store")
    for number in range(4):
        application(f"The text {number} from before.")
    told = ["--table", "store_vectors", "--placement", "column"]
    if field == "$":
        with pytest.raises(AssertionError, match="CREATE FUNCTION public"):
            initialised(told)
        with connect(database) as conn:
            conn.execute(LANGGRAPH_TEXT.replace("{schema}", "public"))  # type: ignore[arg-type]
    whole_way(application, initialised, told, "store_vectors")
    with connect(database) as conn:
        rows = conn.execute(
            "SELECT value, embedding::real[] FROM store JOIN store_vectors USING (prefix, key)"
        ).fetchall()
    made = [(embedded(row.get("of", row)["text"]), vector) for row, vector in rows]
    all_new(made, {embedded(text) for text in kept(application)})
