"""Applications of real libraries, as ``applications.py`` has them: each through the integration that its page names.

Without a ``Routing`` each is the library alone, with the new model: as an application that was never told.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import openai
import psycopg

from embedtui.integrations import Routing
from tests.kits.applications import (
    SIZE,
    TEXTS,
    Application,
    Dify,
    EmbedOld,
    Found,
    N8n,
    OpenWebUi,
    Plain,
    SpringAi,
    Supabase,
    url_of,
)  # fmt: skip
from tests.kits.support import NEW


class SqlAlchemy(Application):
    """The ORM, with pgvector's own type."""

    table, needs = "notes", ("sqlalchemy", "pgvector.sqlalchemy")

    @staticmethod
    def model() -> Any:
        from pgvector.sqlalchemy import Vector
        from sqlalchemy import BigInteger, Text
        from sqlalchemy.orm import DeclarativeBase, mapped_column

        class Base(DeclarativeBase):
            pass

        class Note(Base):
            __tablename__ = "notes"
            id = mapped_column(BigInteger, primary_key=True)
            content = mapped_column(Text)
            embedding = mapped_column(Vector())

        return Note

    @classmethod
    def seed(cls, dsn: str, embed: EmbedOld) -> None:  # type: ignore[override]
        from sqlalchemy import create_engine
        from sqlalchemy.orm import Session

        note, engine = cls.model(), create_engine(url_of(dsn, "psycopg"))
        note.metadata.create_all(engine)
        with Session(engine) as session:
            for text, vector in zip(TEXTS, embed(TEXTS), strict=True):
                session.add(note(content=text, embedding=vector))
            session.commit()
        engine.dispose()

    def __init__(self, dsn: str, routing: Routing | None, client: openai.OpenAI) -> None:
        from sqlalchemy import create_engine

        from embedtui.integrations.sqlalchemy import follow

        super().__init__(dsn, routing, client)
        self.note, self.engine = self.model(), create_engine(url_of(dsn, "psycopg"), pool_size=2)
        if routing is not None:
            follow(self.engine, routing)

    def add(self, text: str) -> None:
        from sqlalchemy.orm import Session

        with Session(self.engine) as session:
            session.add(self.note(content=text, embedding=self.embed([text], documents=True)[0]))
            session.commit()

    def nearest(self, text: str) -> Found:
        from sqlalchemy import select
        from sqlalchemy.orm import Session

        with Session(self.engine) as session:
            distance = self.note.embedding.cosine_distance(self.embed([text])[0])
            row = session.execute(select(self.note, distance.label("d")).order_by("d").limit(1)).one()
            return row[0].content, row[1]

    def close(self) -> None:
        self.engine.dispose()


class Django(Application):
    """Its ORM, with a connection for each thread."""

    table, needs = "journal_entry", ("django", "pgvector.django")

    @staticmethod
    def model() -> Any:
        from django.apps import apps
        from django.db import models
        from pgvector.django import VectorField

        if ("journal", "entry") in {(m._meta.app_label, m._meta.model_name) for m in apps.get_models()}:
            return apps.get_model("journal", "entry")
        if known := apps.all_models["journal"].get("entry"):
            return known

        class Entry(models.Model):
            content = models.TextField()
            embedding = VectorField(null=True)

            class Meta:
                app_label = "journal"

        return Entry

    @classmethod
    def seed(cls, dsn: str, embed: EmbedOld) -> None:  # type: ignore[override]
        from tests.kits.django_kit import alias_of

        alias = alias_of(dsn)
        from django.db import connections

        entry = cls.model()
        with connections[alias].schema_editor() as editor:
            editor.create_model(entry)
        for text, vector in zip(TEXTS, embed(TEXTS), strict=True):
            entry.objects.using(alias).create(content=text, embedding=vector)
        connections[alias].close()

    def __init__(self, dsn: str, routing: Routing | None, client: openai.OpenAI) -> None:
        from tests.kits.django_kit import alias_of

        super().__init__(dsn, routing, client)
        self.alias = alias_of(dsn)
        from embedtui.integrations.django import follow

        if routing is not None:
            follow(self.alias, routing)
        self.entry = self.model()

    def add(self, text: str) -> None:
        vector = self.embed([text], documents=True)[0]
        self.entry.objects.using(self.alias).create(content=text, embedding=vector)

    def nearest(self, text: str) -> Found:
        from pgvector.django import CosineDistance

        found = self.entry.objects.using(self.alias).annotate(d=CosineDistance("embedding", self.embed([text])[0]))
        row = found.order_by("d").first()
        return row.content, row.d

    def leave(self) -> None:
        from django.db import connections

        connections[self.alias].close()


class LangChain(Application):
    """``PGVector`` of langchain-postgres."""

    table, content, needs = "langchain_pg_embedding", "document", ("langchain_postgres", "sqlalchemy")

    def __init__(self, dsn: str, routing: Routing | None, client: openai.OpenAI) -> None:
        from langchain_postgres import PGVector
        from sqlalchemy import create_engine

        from embedtui.integrations.langchain import RoutedEmbeddings
        from embedtui.integrations.sqlalchemy import follow

        super().__init__(dsn, routing, client)
        self.engine = create_engine(url_of(dsn, "psycopg"))
        embeddings = _langchain_model(client, NEW)
        if routing is not None:
            follow(self.engine, routing)
            embeddings = RoutedEmbeddings(routing, lambda route: _langchain_model(client, route.model))
        self.store = PGVector(embeddings, connection=self.engine, collection_name="docs", create_extension=False)

    @staticmethod
    def seed(dsn: str, embed: EmbedOld) -> None:
        from langchain_postgres import PGVector
        from sqlalchemy import create_engine

        engine = create_engine(url_of(dsn, "psycopg"))
        store = PGVector(_embeddings(embed), connection=engine, collection_name="docs", create_extension=False)
        store.add_texts(TEXTS, metadatas=[{"lang": "en"}] * len(TEXTS))
        engine.dispose()

    def add(self, text: str) -> None:
        self.store.add_texts([text], metadatas=[{"lang": "en"}])

    def nearest(self, text: str) -> Found:
        [(document, distance)] = self.store.similarity_search_with_score(text, k=1, filter={"lang": "en"})
        return document.page_content, distance

    def close(self) -> None:
        self.engine.dispose()


class LangChainStore(Application):
    """``PGVectorStore``, which writes its schema into every statement."""

    table, needs = "handbook", ("langchain_postgres",)

    def __init__(self, dsn: str, routing: Routing | None, client: openai.OpenAI) -> None:
        from langchain_postgres import PGEngine, PGVectorStore

        from embedtui.integrations.langchain import RoutedEmbeddings, RoutedStore

        super().__init__(dsn, routing, client)
        self.engine = PGEngine.from_connection_string(url_of(dsn, "psycopg"))
        if routing is None:
            self.store: Any = PGVectorStore.create_sync(self.engine, _langchain_model(client, NEW), "handbook")
            return
        embeddings = RoutedEmbeddings(routing, lambda route: _langchain_model(client, route.model))
        self.store = RoutedStore(
            routing, lambda schema: PGVectorStore.create_sync(self.engine, embeddings, "handbook", schema_name=schema)
        )

    @classmethod
    def seed(cls, dsn: str, embed: EmbedOld) -> None:  # type: ignore[override]
        from langchain_postgres import PGEngine, PGVectorStore

        engine = PGEngine.from_connection_string(url_of(dsn, "psycopg"))
        engine.init_vectorstore_table("handbook", SIZE)
        PGVectorStore.create_sync(engine, _embeddings(embed), "handbook").add_texts(TEXTS)
        engine._run_as_sync(engine.close())
        with psycopg.connect(dsn) as conn:
            conn.execute("ALTER TABLE handbook ALTER embedding DROP NOT NULL")

    def add(self, text: str) -> None:
        self.store.add_texts([text])

    def nearest(self, text: str) -> Found:
        [(document, distance)] = self.store.similarity_search_with_score(text, k=1)
        return document.page_content, distance

    def close(self) -> None:
        self.engine._run_as_sync(self.engine.close())


class LlamaIndex(Application):
    """Its ``PGVectorStore`` under an index and a retriever."""

    table, content = "data_handbook", "text"
    needs = ("llama_index.core", "llama_index.vector_stores.postgres")

    @staticmethod
    def store(dsn: str, schema: str, *, setup: bool) -> Any:
        from llama_index.vector_stores.postgres import PGVectorStore

        store = PGVectorStore.from_params(
            connection_string=url_of(dsn, "psycopg2"),
            async_connection_string=url_of(dsn, "asyncpg"),
            schema_name=schema,
            table_name="handbook",
            embed_dim=SIZE,
            perform_setup=setup,
        )
        store._initialize()
        return store

    @classmethod
    def seed(cls, dsn: str, embed: EmbedOld) -> None:  # type: ignore[override]
        from llama_index.core.schema import TextNode

        store = cls.store(dsn, "public", setup=True)
        store.add([TextNode(text=t, embedding=v) for t, v in zip(TEXTS, embed(TEXTS), strict=True)])
        store._engine.dispose()

    def __init__(self, dsn: str, routing: Routing | None, client: openai.OpenAI) -> None:
        from llama_index.core import VectorStoreIndex
        from llama_index.core.embeddings import BaseEmbedding

        from embedtui.integrations.llama_index import RoutedEmbedding, RoutedVectorStore

        class OfModel(BaseEmbedding):
            def _get_query_embedding(self, query: str) -> list[float]:
                return client.embeddings.create(model=self.model_name, input=[query]).data[0].embedding

            async def _aget_query_embedding(self, query: str) -> list[float]:
                return self._get_query_embedding(query)

            def _get_text_embedding(self, text: str) -> list[float]:
                return self._get_query_embedding(text)

        super().__init__(dsn, routing, client)
        self.made: list[Any] = []

        def make(schema: str) -> Any:
            self.made.append(self.store(dsn, schema, setup=False))
            return self.made[-1]

        if routing is None:
            store, embedding = make("public"), OfModel(model_name=NEW)
        else:
            store = RoutedVectorStore(routing, make)
            embedding = RoutedEmbedding(routing, lambda route: OfModel(model_name=route.model))
        self.index = VectorStoreIndex.from_vector_store(store, embed_model=embedding)

    def add(self, text: str) -> None:
        from llama_index.core.schema import TextNode

        self.index.insert_nodes([TextNode(text=text)])

    def nearest(self, text: str) -> Found:
        [found] = self.index.as_retriever(similarity_top_k=1).retrieve(text)
        return found.node.text, 1 - found.score

    def close(self) -> None:
        for store in self.made:
            store._engine.dispose()


class LangGraph(Application):
    """``PostgresStore`` of langgraph-checkpoint-postgres: texts in one table, vectors in another."""

    table, content, texts_in, key = "store_vectors", "value ->> 'text'", "store", "prefix, key"
    needs = ("langgraph.store.postgres", "psycopg_pool")

    @staticmethod
    def index(embeddings: Any) -> Any:
        return {"dims": SIZE, "embed": embeddings, "fields": ["text"]}

    @classmethod
    def seed(cls, dsn: str, embed: EmbedOld) -> None:  # type: ignore[override]
        from langgraph.store.postgres import PostgresStore

        with PostgresStore.from_conn_string(dsn, index=cls.index(_embeddings(embed))) as store:
            store.setup()
            for number, text in enumerate(TEXTS):
                store.put(("memories", "ada"), f"{number}", {"text": text})

    def __init__(self, dsn: str, routing: Routing | None, client: openai.OpenAI) -> None:
        from langgraph.store.postgres import PostgresStore
        from psycopg.rows import dict_row
        from psycopg_pool import ConnectionPool

        from embedtui.integrations.langgraph import RoutedEmbeddings, RoutedStore

        super().__init__(dsn, routing, client)
        self.pool = ConnectionPool(dsn, kwargs={"autocommit": True, "row_factory": dict_row}, open=True)
        if routing is None:
            self.store: Any = PostgresStore(self.pool, index=self.index(_langchain_model(client, NEW)))
            return
        embeddings = RoutedEmbeddings(routing, lambda route: _langchain_model(client, route.model))
        self.store = RoutedStore(routing, self.pool, lambda conn: PostgresStore(conn, index=self.index(embeddings)))

    def add(self, text: str) -> None:
        self.store.put(("memories", "ada"), text, {"text": text})

    def nearest(self, text: str) -> Found:
        [found] = self.store.search(("memories",), query=text, limit=1)
        return found.value["text"], 1 - found.score

    def close(self) -> None:
        self.pool.close()


def _embeddings(embed: EmbedOld) -> Any:
    from langchain_core.embeddings import Embeddings

    class Given(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return embed(texts)

        def embed_query(self, text: str) -> list[float]:
            return embed([text])[0]

    return Given()


def _langchain_model(client: openai.OpenAI, model: str) -> Any:
    return _embeddings(
        lambda texts: [each.embedding for each in client.embeddings.create(model=model, input=texts).data]
    )


APPLICATIONS: tuple[type[Application], ...] = (
    Plain, SqlAlchemy, Django, LangChain, LangChainStore, LlamaIndex, LangGraph, Supabase, SpringAi,
    Dify, OpenWebUi, N8n,
)  # fmt: skip
