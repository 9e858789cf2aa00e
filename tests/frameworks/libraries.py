"""The real libraries at work on a database: each makes its tables by itself and adds a few texts, and more if asked.

None of them is needed by the suite; ``record.py`` keeps what they issued, and ``test_libraries.py`` runs those that are
installed. Each gives its table, and what adds one more text as the library does. A text that spans lines, one with
metadata and two collections are among what is added, where a library knows such.
"""

# mypy: ignore-errors

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence

import psycopg
from psycopg.conninfo import conninfo_to_dict

DIMENSIONS = 8

TEXTS = (
    "Refunds are paid within five days.",
    "Water the ficus\nonce a week, never more.",
    "The night train leaves at 22:04 from platform 7.",
)
MORE = ("Elections are held in May.", "The bridge opens on Friday.")
DETAILS = ({"title": "Refunds", "page": 1}, {"title": "Plants", "page": 2}, {"title": "Trains", "page": 3})

Embed = Callable[[Sequence[str]], list[list[float]]]
"""Vectors of texts, and no two alike."""

Made = tuple[str, Callable[[str], object]]
"""The table, and what adds a text to it."""


def url_of(dsn: str, driver: str) -> str:
    """A DSN as SQLAlchemy writes it."""
    parts = conninfo_to_dict(dsn)
    user, password = parts.get("user", "postgres"), parts.get("password", "")
    place = f"host={parts['host']}&port={parts.get('port', 5432)}"
    return f"postgresql+{driver}://{user}{':' + password if password else ''}@/{parts['dbname']}?{place}"


def langchain_pgvector(dsn: str, embed: Embed) -> Made:
    from langchain_core.embeddings import Embeddings
    from langchain_postgres import PGVector

    class Ours(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return embed(texts)

        def embed_query(self, text: str) -> list[float]:
            return embed([text])[0]

    for collection, texts, details in (("news", MORE, DETAILS[:2]), ("handbook", TEXTS, DETAILS)):
        store = PGVector(Ours(), collection_name=collection, connection=url_of(dsn, "psycopg"))
        store.add_texts(texts, list(details))
    return "langchain_pg_embedding", lambda text: store.add_texts([text], [DETAILS[0]])


def langchain_pgvectorstore(dsn: str, embed: Embed) -> Made:
    from langchain_core.embeddings import Embeddings
    from langchain_postgres import Column, PGEngine, PGVectorStore

    class Ours(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return embed(texts)

        def embed_query(self, text: str) -> list[float]:
            return embed([text])[0]

    engine = PGEngine.from_connection_string(url_of(dsn, "psycopg"))
    engine.init_vectorstore_table("handbook", DIMENSIONS, metadata_columns=[Column("title", "text")])
    store = PGVectorStore.create_sync(engine, Ours(), "handbook", metadata_columns=["title"])
    store.add_texts(list(TEXTS), [dict(details) for details in DETAILS])
    return "handbook", lambda text: store.add_texts([text], [dict(DETAILS[0])])


def llama_index(dsn: str, embed: Embed) -> Made:
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.postgres import PGVectorStore

    class Ours(BaseEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return embed([query])[0]

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return embed([query])[0]

        def _get_text_embedding(self, text: str) -> list[float]:
            return embed([text])[0]

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return embed(texts)

    store = PGVectorStore.from_params(
        connection_string=url_of(dsn, "psycopg2"),
        async_connection_string=url_of(dsn, "asyncpg"),
        table_name="handbook",
        embed_dim=DIMENSIONS,
        hnsw_kwargs={"hnsw_m": 16, "hnsw_ef_construction": 64, "hnsw_ef_search": 40},
    )
    nodes = [
        TextNode(text=text, metadata={**details, "draft": False, "from": None}, excluded_embed_metadata_keys=["page"])
        for text, details in zip(TEXTS, DETAILS, strict=True)
    ]
    nodes.append(TextNode(text=MORE[0]))
    nodes.append(TextNode(text=MORE[1], metadata={"rivers": ["Spree", "Havel"]}))
    index = VectorStoreIndex(
        nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=Ours()
    )
    return "data_handbook", lambda text: index.insert_nodes([TextNode(text=text, metadata=dict(DETAILS[0]))])


def haystack(dsn: str, embed: Embed) -> Made:
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder
    from haystack.utils import Secret
    from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

    store = PgvectorDocumentStore(
        connection_string=Secret.from_token(dsn), embedding_dimension=DIMENSIONS, search_strategy="hnsw"
    )

    def write(documents: list[Document]) -> None:
        prepared = OpenAIDocumentEmbedder(api_key=Secret.from_token("none"))._prepare_texts_to_embed(documents)
        vectors = dict(zip(prepared, embed(list(prepared.values())), strict=True))
        store.write_documents(
            [Document(id=one.id, content=one.content, meta=one.meta, embedding=vectors[one.id]) for one in documents]
        )

    write([Document(content=text, meta=dict(details)) for text, details in zip(TEXTS, DETAILS, strict=True)])
    return "haystack_documents", lambda text: write([Document(content=text, meta=dict(DETAILS[0]))])


def mem0(dsn: str, embed: Embed) -> Made:
    os.environ.update(MEM0_TELEMETRY="False", OPENAI_API_KEY="none")
    from mem0 import Memory

    class Ours:
        def embed(self, text: str, _action: str | None = None) -> list[float]:
            return embed([text])[0]

        def embed_batch(self, texts: list[str], _action: str | None = None) -> list[list[float]]:
            return embed(texts)

    memory = Memory.from_config(
        {
            "vector_store": {
                "provider": "pgvector",
                "config": {"connection_string": dsn, "collection_name": "mem0", "embedding_model_dims": DIMENSIONS,
                           "hnsw": True},
            }
        }
    )  # fmt: skip
    memory.embedding_model = Ours()
    for text, user in zip(TEXTS, ("ada", "ada", "bob"), strict=True):
        memory.add(text, user_id=user, infer=False)
    return "mem0", lambda text: memory.add(text, user_id="ada", infer=False)


def agno(dsn: str, embed: Embed) -> Made:
    from agno.knowledge.document import Document
    from agno.knowledge.embedder.base import Embedder
    from agno.vectordb.pgvector import PgVector
    from sqlalchemy import create_engine

    class Ours(Embedder):
        def get_embedding(self, text: str) -> list[float]:
            return embed([text])[0]

        def get_embedding_and_usage(self, text: str) -> tuple[list[float], None]:
            return embed([text])[0], None

    store = PgVector(
        "recipes", schema="ai", db_engine=create_engine(url_of(dsn, "psycopg")), embedder=Ours(dimensions=DIMENSIONS)
    )
    store.create()
    hashes = itertools.count()

    def add(text: str, details: dict[str, object] = DETAILS[0]) -> None:
        document = Document(content=text, name=details["title"], meta_data=dict(details))
        store.insert(f"hash-{next(hashes)}", [document])

    for text, details in zip(TEXTS, DETAILS, strict=True):
        add(text, details)
    return "ai.recipes", add


def django(dsn: str, embed: Embed) -> Made:
    from tests.kits.django_kit import alias_of

    alias = alias_of(dsn)
    from django.db import connections, models
    from pgvector.django import HnswIndex, VectorField

    class Article(models.Model):
        title = models.CharField(max_length=200)
        body = models.TextField()
        embedding = VectorField(dimensions=DIMENSIONS, null=True)

        class Meta:
            app_label = "library"
            indexes = [HnswIndex(name="article_embedding", fields=["embedding"], opclasses=["vector_cosine_ops"])]

    with connections[alias].schema_editor() as editor:
        editor.create_model(Article)

    def add(text: str, details: dict[str, object] = DETAILS[0]) -> None:
        Article.objects.using(alias).create(title=details["title"], body=text, embedding=embed([text])[0])
        connections[alias].close()  # each thread has one of its own

    for text, details in zip(TEXTS, DETAILS, strict=True):
        add(text, details)
    return "library_article", add


def langgraph(dsn: str, embed: Embed) -> Made:
    from langgraph.store.postgres import PostgresStore

    index = {"dims": DIMENSIONS, "embed": lambda texts: embed(list(texts)), "fields": ["text"]}

    def put(key: str, text: str) -> None:
        with PostgresStore.from_conn_string(dsn, index=index) as store:
            store.put(("memories", "ada"), key, {"text": text})

    with PostgresStore.from_conn_string(dsn, index=index) as store:
        store.setup()
    for number, text in enumerate(TEXTS):
        put(f"note-{number}", text)
    return "store_vectors", lambda text: put(text, text)


LIBRARIES: dict[str, tuple[str, Callable[[str, Embed], Made]]] = {
    "langchain_pgvector": ("langchain-postgres", langchain_pgvector),
    "langchain_pgvectorstore": ("langchain-postgres", langchain_pgvectorstore),
    "llama_index": ("llama-index-vector-stores-postgres", llama_index),
    "haystack": ("pgvector-haystack", haystack),
    "mem0": ("mem0ai", mem0),
    "agno": ("agno", agno),
    "django": ("pgvector", django),
    "langgraph": ("langgraph-checkpoint-postgres", langgraph),
}
"""By the name of the recorded file: the distribution whose version counts, and the library at work."""


class Recorder:
    """Embeds by numbering, and keeps what it was asked."""

    def __init__(self) -> None:
        """Nothing asked yet."""
        self.texts: dict[str, str] = {}
        """Text by its vector's first number."""

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors whose first numbers tell the texts."""
        vectors = []
        for text in texts:
            number = len(self.texts) + 1
            self.texts[str(number)] = text
            vectors.append([float(number), *[1.0] * (DIMENSIONS - 1)])
        return vectors


def watch(dsn: str) -> None:
    """Keep every statement that makes or changes an object of the database, as it was sent."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            """CREATE EXTENSION IF NOT EXISTS vector;
            CREATE SCHEMA watching; CREATE TABLE watching.issued (id bigserial PRIMARY KEY, statement text);
            CREATE FUNCTION watching.keep() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS
            $$ BEGIN INSERT INTO watching.issued (statement) VALUES (current_query()); END $$;
            CREATE EVENT TRIGGER watching ON ddl_command_end EXECUTE FUNCTION watching.keep()"""
        )


def issued(dsn: str) -> list[str]:
    """The statements kept, each once."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        rows = conn.execute("SELECT statement FROM watching.issued ORDER BY id").fetchall()
    return list(dict.fromkeys(statement.strip().rstrip(";") for (statement,) in rows))
