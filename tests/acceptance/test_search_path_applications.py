"""Applications that know only a search path: three threads write and search through a whole migration.

No operation fails, and none finds by a vector of the other model: both models have the same size, so that a mix would
raise no error, and a text's nearest row is its own at distance 0 only where model and side belong together.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.errors import Interrupted, LockTimeout
from embedtui.integrations import Routing
from embedtui.model import Phase
from embedtui.router import Router
from tests.kits.support import NEW, OLD, settings_for, wait_for

SIZE, TEXTS = 16, [f"document number {n}" for n in range(1, 31)]
OVERRIDE = dict.fromkeys(("gate", "sync", "soak", "listeners", "queue", "coverage"), "test")
FLIPS = 6

Found = tuple[str, float]
"""The nearest row's text, and its distance."""


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({OLD: hash_model(SIZE, "old"), NEW: hash_model(SIZE, "new")}) as running:
        yield running


class Application:
    """What the harness asks of one: the framework is its affair."""

    table: str
    content: str

    def add(self, text: str) -> None:
        raise NotImplementedError

    def nearest(self, text: str) -> Found:
        raise NotImplementedError

    def close(self) -> None:
        pass


def embedder(client: openai.OpenAI) -> Callable[[Any, list[str]], list[list[float]]]:
    def embed(route: Any, texts: list[str]) -> list[list[float]]:
        reply = client.embeddings.create(model=route.model, input=texts, dimensions=route.dimensions)
        return [each.embedding for each in reply.data]

    return embed


# --------------------------------------------------------------------------------------------------- applications


class Plain(Application):
    """psycopg alone: the twin of all frameworks, with prepared statements as they come."""

    table, content = "documents", "content"

    def __init__(self, dsn: str, routing: Routing, client: openai.OpenAI) -> None:
        self.dsn, self.routing, self.embed, self.own = dsn, routing, embedder(client), threading.local()
        self.open: list[psycopg.Connection[Any]] = []

    @staticmethod
    def seed(dsn: str, embed: Callable[[list[str]], list[list[float]]]) -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(
                "CREATE TABLE documents (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, content text,"
                f" embedding vector({SIZE}))"
            )
            for text, vector in zip(TEXTS, embed(TEXTS), strict=True):
                conn.execute("INSERT INTO documents (content, embedding) VALUES (%s, %s)", [text, str(vector)])

    def _run(self, statement: str, values: list[object]) -> Any:
        if not hasattr(self.own, "conn"):
            self.own.conn = psycopg.connect(self.dsn, autocommit=True)
            self.open.append(self.own.conn)
        path = self.routing.search_path("public")
        self.own.conn.execute("SELECT set_config('search_path', %s, false)", [path])
        return self.own.conn.execute(self.routing.tagged(statement), values)

    def add(self, text: str) -> None:
        [vector] = self.embed(self.routing.take(), [text])
        self._run("INSERT INTO documents (content, embedding) VALUES (%s, %s) RETURNING *", [text, str(vector)])

    def nearest(self, text: str) -> Found:
        [vector] = self.embed(self.routing.take(), [text])
        query = "SELECT *, embedding <=> %s FROM documents ORDER BY embedding <=> %s LIMIT 1"
        row = self._run(query, [str(vector)] * 2).fetchone()
        return row[1], row[-1]

    def close(self) -> None:
        for conn in self.open:
            conn.close()


class LangChain(Application):
    """The real langchain-postgres."""

    table, content = "langchain_pg_embedding", "document"

    def __init__(self, dsn: str, routing: Routing, client: openai.OpenAI) -> None:
        from langchain_postgres import PGVector
        from sqlalchemy import create_engine

        from embedtui.integrations.langchain import RoutedEmbeddings
        from embedtui.integrations.sqlalchemy import follow

        self.engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
        follow(self.engine, routing)
        embeddings = RoutedEmbeddings(routing, lambda route: _of_model(client, route.model))
        self.store = PGVector(embeddings, connection=self.engine, collection_name="docs", create_extension=False)

    @staticmethod
    def seed(dsn: str, embed: Callable[[list[str]], list[list[float]]]) -> None:
        from langchain_core.embeddings import Embeddings
        from langchain_postgres import PGVector
        from sqlalchemy import create_engine

        class Before(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return embed(texts)

            def embed_query(self, text: str) -> list[float]:
                return embed([text])[0]

        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
        store = PGVector(Before(), connection=engine, collection_name="docs", create_extension=False)
        store.add_texts(TEXTS, metadatas=[{"lang": "en"}] * len(TEXTS))
        engine.dispose()

    def add(self, text: str) -> None:
        self.store.add_texts([text], metadatas=[{"lang": "en"}])

    def nearest(self, text: str) -> Found:
        [(document, distance)] = self.store.similarity_search_with_score(text, k=1, filter={"lang": "en"})
        return document.page_content, distance

    def close(self) -> None:
        self.engine.dispose()


def _of_model(client: openai.OpenAI, model: str) -> Any:
    from langchain_core.embeddings import Embeddings

    class OfModel(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [each.embedding for each in client.embeddings.create(model=model, input=texts).data]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    return OfModel()


APPLICATIONS = {Plain: (), LangChain: ("langchain_postgres", "sqlalchemy")}


# -------------------------------------------------------------------------------------------------------- harness


class Traffic:
    """Three threads: one request after the other, each with a key of its own, or none."""

    def __init__(self, application: Application, routing: Routing) -> None:
        self.application, self.routing = application, routing
        self.stop, self.failed, self.done = threading.Event(), [], [0, 0, 0]
        self.threads = [threading.Thread(target=self._work, args=(number,)) for number in range(3)]

    def _work(self, number: int) -> None:
        turn = 0
        while not self.stop.wait(0.05):
            turn += 1
            try:
                if number == 0:  # no block: each embedding takes the route anew
                    self._search(TEXTS[turn % len(TEXTS)])
                else:
                    with self.routing.use(key=f"user {number} {turn}"):
                        self._search(TEXTS[turn % len(TEXTS)])
                        if turn % 8 == 0:
                            self.application.add(f"added by {number}, {turn}")
                            self._search(f"added by {number}, {turn}")
                self.done[number] += 1
            except Exception as error:
                self.failed.append(f"{number} {turn}: {type(error).__name__}: {error}"[:400])

    def _search(self, text: str) -> None:
        found, distance = self.application.nearest(text)
        if found != text or distance > 1e-4:
            self.failed.append(f"{text!r} found {found!r} at {distance}")

    def __enter__(self) -> Traffic:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def some_more(self) -> None:
        before = list(self.done)
        wait_for(lambda: self.failed or all(now > then for now, then in zip(self.done, before, strict=True)))
        assert not self.failed


@pytest.mark.parametrize("kind", APPLICATIONS, ids=lambda kind: kind.__name__)
def test_a_whole_migration_under_an_application(
    kind: Any, database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in APPLICATIONS[kind]:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    client = openai.OpenAI(base_url=api.base_url, api_key=api.key)

    def with_old(texts: list[str]) -> list[list[float]]:
        return [each.embedding for each in client.embeddings.create(model=OLD, input=texts).data]

    kind.seed(database, with_old)
    flags = {"table": kind.table, "content": [kind.content], "name": "documents", "view": True}
    settings = settings_for(database, api, tmp_path, flags, EMBED_DIMENSIONS=str(SIZE))
    engine, stop = Engine(database, None, settings), threading.Event()
    engine.prepare()
    ended: list[Exception] = []
    following = threading.Thread(target=_follow, args=(engine, stop, ended))
    with Router(database) as router:
        routing = Routing(router, "documents")
        application = kind(database, routing, client)
        with Traffic(application, routing) as traffic:
            traffic.some_more()
            following.start()
            wait_for(lambda: engine.require().phase is Phase.VALIDATE, "no index")
            for flip in range(FLIPS):
                engine.cutover(30 if flip % 3 == 0 else 100, override=OVERRIDE)
                traffic.some_more()
                if flip < FLIPS - 1:
                    engine.rollback()
                    traffic.some_more()
            _clean_up(engine, kind.table)
            for _ in range(3):
                traffic.some_more()
        application.close()
    stop.set()
    following.join()
    engine.close()
    client.close()
    assert not traffic.failed and not ended


def _follow(engine: Engine, stop: threading.Event, ended: list[Exception]) -> None:
    try:
        engine.run(stop, follow=True)
    except Interrupted:
        pass
    except Exception as error:
        ended.append(error)


def _clean_up(engine: Engine, table: str) -> None:
    """As an operator would where somebody always holds a lock: again. Nothing is refused."""
    end = time.monotonic() + 120
    while engine.require().phase is not Phase.DONE:
        assert time.monotonic() < end
        with contextlib.suppress(LockTimeout):
            engine.cleanup(table, override=OVERRIDE)
