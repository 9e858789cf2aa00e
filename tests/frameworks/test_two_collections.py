"""One table, two collections, one of them moved: the application of both goes on, and nothing of the other changes.

By LangChain's PGVector where it is installed, and always by its statements alone.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest

from embedtui.config import load_settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.engine.setup import Setup
from embedtui.integrations import Routing
from embedtui.model import Phase, Side
from embedtui.router import Router
from tests.kits.applications import SIZE, TEXTS, Application, EmbedOld, Found, Plain, installed, url_of
from tests.kits.cli_kit import InProcess
from tests.kits.library_applications import LangChain, _embeddings
from tests.kits.support import NEW, OLD, following, wait_for
from tests.kits.traffic import Traffic, unfound

MODELS = {OLD: hash_model(SIZE, "old"), NEW: hash_model(SIZE, "new")}
OVERRIDE = dict.fromkeys(("gate", "sync", "soak", "listeners", "queue", "coverage"), "test")
ROWS = (
    "SELECT e.id::text, e.document, e.embedding::text, e.cmetadata FROM langchain_pg_embedding e"
    " JOIN langchain_pg_collection c ON c.uuid = e.collection_id WHERE c.name = %s AND document LIKE 'document%%'"
    " ORDER BY 1"
)


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS) as running:
        yield running


class Statements(Plain):
    """What PGVector sends, without it; ``docs`` is the collection that is moved."""

    table, content = "langchain_pg_embedding", "document"
    insert = (
        "INSERT INTO langchain_pg_embedding (id, collection_id, embedding, document, cmetadata) VALUES (%(id)s::text,"
        " (SELECT uuid FROM langchain_pg_collection WHERE name = 'docs'), %(vector)s, %(text)s, %(meta)s)"
        " ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding, document = excluded.document,"
        " cmetadata = excluded.cmetadata"
    )
    search = (
        "SELECT e.document AS text, e.embedding <=> %(vector)s AS distance FROM langchain_pg_embedding e"
        " JOIN langchain_pg_collection c ON e.collection_id = c.uuid WHERE e.collection_id ="
        " (SELECT uuid FROM langchain_pg_collection WHERE name = 'docs') ORDER BY distance LIMIT 1"
    )

    @classmethod
    def make(cls, conn: psycopg.Connection[Any]) -> None:
        conn.execute(
            "CREATE TABLE langchain_pg_collection (uuid uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar NOT"
            " NULL UNIQUE, cmetadata json); CREATE TABLE langchain_pg_embedding (id varchar PRIMARY KEY, collection_id"
            " uuid REFERENCES langchain_pg_collection (uuid) ON DELETE CASCADE, embedding vector, document varchar,"
            " cmetadata jsonb); INSERT INTO langchain_pg_collection (name) VALUES ('docs'), ('others')"
        )


class OtherStatements:
    """The other collection, as the application has always had it: its own connection, the old model, no route."""

    def __init__(self, dsn: str, embed: EmbedOld) -> None:
        self.embed, self.conn = embed, psycopg.connect(dsn, autocommit=True)

    def add(self, text: str) -> None:
        self.conn.execute(Statements.insert.replace("'docs'", "'others'"), Plain.values(text, self.embed([text])[0]))

    def nearest(self, text: str) -> Found:
        asked = Plain.values(text, self.embed([text])[0])
        row = self.conn.execute(Statements.search.replace("'docs'", "'others'"), asked).fetchone()
        assert row is not None
        return row[0], row[1]

    def close(self) -> None:
        self.conn.close()


class OtherStore:
    """The same by PGVector, on an engine that does not follow."""

    def __init__(self, dsn: str, embed: EmbedOld) -> None:
        from langchain_postgres import PGVector
        from sqlalchemy import create_engine

        self.engine = create_engine(url_of(dsn, "psycopg"))
        self.store = PGVector(
            _embeddings(embed), connection=self.engine, collection_name="others", create_extension=False
        )

    def add(self, text: str) -> None:
        self.store.add_texts([text])

    def nearest(self, text: str) -> Found:
        [(document, distance)] = self.store.similarity_search_with_score(text, k=1)
        return document.page_content, distance

    def close(self) -> None:
        self.engine.dispose()


def requests(said: str, store: Any, routing: Routing | None = None) -> Callable[[int], str]:
    """What is asked for is found, by its own model; every fourth time a text of now, which goes by the same route."""

    def one(turn: int) -> str:
        with routing.use() if routing is not None else nullcontext():
            text = f"{said} {turn}" if turn % 4 == 0 else f"document number {turn % 30 + 1}"
            if turn % 4 == 0:
                store.add(text)
            return unfound(store, text)

    return one


@pytest.mark.filterwarnings("ignore")  # what a library leaves open is its own affair
@pytest.mark.parametrize(("kind", "other"), [(Statements, OtherStatements), (LangChain, OtherStore)])
def test_one_collection_is_moved_and_the_other_is_not(
    kind: type[Application], other: Callable[[str, EmbedOld], Any], database: str, api: LoopbackServer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if missing := installed(kind):
        pytest.skip(f"{missing} is not installed")
    with ExitStack() as open_still:
        client = open_still.enter_context(openai.OpenAI(base_url=api.base_url, api_key=api.key))

        def with_old(texts: list[str]) -> list[list[float]]:
            return [each.embedding for each in client.embeddings.create(model=OLD, input=texts).data]

        def rows() -> list[Any]:
            with psycopg.connect(database) as conn:
                return conn.execute(ROWS, ["others"]).fetchall()

        kind.seed(database, with_old)
        left = open_still.enter_context(closing(other(database, with_old)))
        for text in TEXTS:
            left.add(text)
        before = rows()
        with psycopg.connect(database) as conn:
            found = conn.execute("SELECT uuid FROM langchain_pg_collection WHERE name = 'docs'").fetchone()
        environ = {"DATABASE_URL": database, "OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}
        shell = InProcess(tmp_path, environ, monkeypatch, capsys)
        models = ("--old-model", OLD, "--new-model", NEW, "--dimensions", str(SIZE), "--placement", "column")
        scope = f"collection_id = '{found[0] if found else ''}'"
        said = shell("init", "--table", kind.table, *models, "--where", scope)
        assert "by a routed view (view = true), of these rows alone" in said.out
        lines = shell("cutover", "--how").out
        assert f"# an engine of its own for the rows where {scope}" in lines and "create_engine(" in lines
        assert "as things stand" not in lines

        settings = load_settings({}, environ=environ, cwd=tmp_path)
        proposed = Setup(settings, tmp_path / "embedtui.toml").look({}, whole=True)
        assert proposed.view.startswith("LangChain PGVector follows by a routed view, which has these rows alone")
        engine = open_still.enter_context(closing(Engine(database, None, settings)))
        engine.prepare()
        routing = Routing(open_still.enter_context(Router(database)), kind.table)
        moved = open_still.enter_context(closing(kind(database, routing, client)))
        with following(engine), Traffic(requests("of docs", moved, routing), requests("of others", left)) as traffic:
            wait_for(lambda: engine.require().phase is Phase.VALIDATE, "no index")
            for act in (engine.cutover, engine.rollback, engine.cutover):
                act(**({} if act == engine.rollback else {"override": OVERRIDE}))
                traffic.some_more(5)
            engine.cleanup(kind.table, keep_old=True, override=OVERRIDE)
            traffic.some_more(5)
            assert routing.route.side is Side.NEW
        assert rows() == before
        again = Routing(open_still.enter_context(Router(database)), kind.table)  # an application that starts now
        late = open_still.enter_context(closing(kind(database, again, client)))
        with Traffic(requests("of docs, later", late, again), requests("of others, later", left)) as traffic:
            traffic.some_more(5)
        assert rows() == before
        with psycopg.connect(database) as conn:
            wrong = f"SELECT count(*) FROM langchain_pg_embedding WHERE (embedding_v2 IS NOT NULL) <> ({scope})"
            assert conn.execute(wrong).fetchone() == (0,)  # type: ignore[arg-type]
