"""Vector stores that name their schema themselves: one for each side, taken by the route of the request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.errors import SettingsError
from embedtui.integrations import Routing
from embedtui.router import Router
from tests.frameworks.libraries import url_of
from tests.integration.integrations.test_follow import MODELS, OVERRIDE, SIZE, Site
from tests.kits.support import NEW, OLD, settings_for, wait_for

TEXTS = [f"document number {n}" for n in range(1, 21)]


class Library:
    """A store as its library has it, made over for both sides."""

    def nearest(self, text: str) -> str:
        raise NotImplementedError

    def add(self, texts: list[str]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


def vectors(model: str, texts: list[str]) -> list[list[float]]:
    return [vector.tolist() for vector in MODELS[model](texts, None)]


class LangChain(Library):
    """The real PGVectorStore; without a routing its table is made, by the old model."""

    def __init__(self, dsn: str, routing: Routing | None) -> None:
        from langchain_core.embeddings import Embeddings
        from langchain_postgres import PGEngine, PGVectorStore

        from embedtui.integrations.langchain import RoutedEmbeddings, RoutedStore

        class OfModel(Embeddings):
            def __init__(self, model: str) -> None:
                self.model = model

            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return vectors(self.model, texts)

            def embed_query(self, text: str) -> list[float]:
                return self.embed_documents([text])[0]

        self.engine = engine = PGEngine.from_connection_string(url_of(dsn, "psycopg"))
        if routing is None:
            engine.init_vectorstore_table("handbook", SIZE)
            PGVectorStore.create_sync(engine, OfModel(OLD), "handbook").add_texts(TEXTS)
            return
        embeddings = RoutedEmbeddings(routing, lambda route: OfModel(route.model))
        self.store = RoutedStore(
            routing, lambda schema: PGVectorStore.create_sync(engine, embeddings, "handbook", schema_name=schema)
        )
        self.retriever = self.store.as_retriever(search_kwargs={"k": 1})

    def nearest(self, text: str) -> str:
        [by_store] = self.store.similarity_search(text, k=1)
        [by_retriever] = self.retriever.invoke(text)
        [later] = asyncio.run(self.retriever.ainvoke(text))
        assert by_store.page_content == by_retriever.page_content == later.page_content
        return by_store.page_content

    def add(self, texts: list[str]) -> None:
        assert len(self.store.add_texts(texts)) == len(texts)

    def close(self) -> None:
        self.engine._run_as_sync(self.engine.close())


class LlamaIndex(Library):
    """The real PGVectorStore of LlamaIndex, under an index."""

    def __init__(self, dsn: str, routing: Routing | None) -> None:
        from llama_index.core import StorageContext, VectorStoreIndex
        from llama_index.core.embeddings import BaseEmbedding
        from llama_index.core.schema import TextNode
        from llama_index.vector_stores.postgres import PGVectorStore

        from embedtui.integrations.llama_index import RoutedEmbedding, RoutedVectorStore

        class OfModel(BaseEmbedding):
            def _get_query_embedding(self, query: str) -> list[float]:
                return vectors(self.model_name, [query])[0]

            async def _aget_query_embedding(self, query: str) -> list[float]:
                return self._get_query_embedding(query)

            def _get_text_embedding(self, text: str) -> list[float]:
                return self._get_query_embedding(text)

        def store(schema: str) -> Any:
            return PGVectorStore.from_params(
                connection_string=url_of(dsn, "psycopg2"),
                async_connection_string=url_of(dsn, "asyncpg"),
                schema_name=schema,
                table_name="handbook",
                embed_dim=SIZE,
                perform_setup=routing is None,
            )

        self.node = TextNode
        if routing is None:
            storage = StorageContext.from_defaults(vector_store=store("public"))
            nodes = [TextNode(text=text) for text in TEXTS]
            VectorStoreIndex(nodes, storage_context=storage, embed_model=OfModel(model_name=OLD))
            return
        self.index = VectorStoreIndex.from_vector_store(
            RoutedVectorStore(routing, store),
            embed_model=RoutedEmbedding(routing, lambda route: OfModel(model_name=route.model)),
        )
        self.retriever = self.index.as_retriever(similarity_top_k=1)

    def nearest(self, text: str) -> str:
        [now] = self.retriever.retrieve(text)
        return now.node.text

    def add(self, texts: list[str]) -> None:
        self.index.insert_nodes([self.node(text=text) for text in texts])


@pytest.mark.filterwarnings("ignore")  # what a library leaves open is its own affair
@pytest.mark.parametrize(
    ("make", "library", "table", "content", "vector"),
    [
        (LangChain, "langchain_postgres", "handbook", "content", "embedding"),
        (LlamaIndex, "llama_index.vector_stores.postgres", "data_handbook", "text", "embedding"),
    ],
    ids=["LangChain", "LlamaIndex"],
)
def test_each_call_takes_the_store_of_its_side(
    database: str,
    tmp_path: Path,
    make: Callable[[str, Routing | None], Library],
    library: str,
    table: str,
    content: str,
    vector: str,
) -> None:
    pytest.importorskip(library)
    make(database, None).close()
    with psycopg.connect(database) as conn:  # as the plan says where one side may be written alone
        conn.execute(f"ALTER TABLE {table} ALTER {vector} DROP NOT NULL")
    flags = {"table": table, "content": [content], "name": "documents", "view": True}
    with LoopbackServer(MODELS) as api:
        settings = settings_for(database, api, tmp_path, flags, EMBED_DIMENSIONS=str(SIZE))
        with closing(Engine(database, None, settings)) as engine:
            engine.run(threading.Event())
            with Router(database) as router:
                _searches_and_writes(database, engine, router, make, (table, content, vector))


def _searches_and_writes(
    dsn: str, engine: Engine, router: Router, make: Callable[..., Library], names: tuple[str, str, str]
) -> None:
    table, content, vector = names
    routing = Routing(router, "documents")
    library = make(dsn, routing)
    for act, model in (("stay", OLD), ("cutover", NEW), ("rollback", OLD), ("cutover", NEW)):
        if act != "stay":
            flip = engine.rollback() if act == "rollback" else engine.cutover(override=OVERRIDE)
            wait_for(lambda epoch=flip.epoch: router.route("documents").epoch >= epoch)
        added = [f"added after {act}, {n} {model}" for n in range(23)]
        library.add(added)
        for text in (*TEXTS[:3], *added[:3]):
            assert library.nearest(text) == text, act
            with routing.use():
                assert library.nearest(text) == text, act
        column = vector if model == OLD else f"{vector}_v2"
        with psycopg.connect(dsn) as conn:
            stored = conn.execute(
                f"SELECT {content}, {column}::real[] FROM {table} WHERE {content} LIKE %s", [f"added after {act},%"]
            ).fetchall()
        assert len(stored) >= 23
        for text, found in stored:
            if text.endswith(model):
                np.testing.assert_allclose(found, MODELS[model]([text], None)[0], atol=1e-5)
    library.close()


def test_batches_of_one_call_are_of_one_model_and_a_cache_is_refused(database: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_index.core")
    from llama_index.core.embeddings import BaseEmbedding

    from embedtui.integrations.llama_index import RoutedEmbedding

    made: list[str] = []
    with LoopbackServer(MODELS) as api:
        site = Site(database, api, tmp_path)

        class OfModel(BaseEmbedding):
            def _get_query_embedding(self, query: str) -> list[float]:
                made.append(self.model_name)
                if len(made) % 4 == 1:  # amid the batches of a call
                    (site.flip if self.model_name == OLD else site.back)()
                return vectors(self.model_name, [query])[0]

            async def _aget_query_embedding(self, query: str) -> list[float]:
                return self._get_query_embedding(query)

            _get_text_embedding = _get_query_embedding

        embedding = RoutedEmbedding(site.routing, lambda route: OfModel(model_name=route.model), embed_batch_size=1)
        texts, model = TEXTS[:4], OLD
        for call in (
            lambda: embedding.get_text_embedding_batch(texts),
            lambda: asyncio.run(embedding.aget_text_embedding_batch(texts)),
            lambda: embedding.get_agg_embedding_from_queries(texts),
            lambda: asyncio.run(embedding.aget_agg_embedding_from_queries(texts)),
        ):
            made.clear()
            call()
            assert made == [model] * 4
            model = NEW if model == OLD else OLD
        with site.routing.use() as route:
            made.append("")  # no flip
            embedding.get_text_embedding_batch(texts)
            assert site.routing.take() is route
        with pytest.raises(SettingsError, match="knows no models"):
            RoutedEmbedding(site.routing, lambda _route: OfModel(), embeddings_cache=object())
        site.close()
