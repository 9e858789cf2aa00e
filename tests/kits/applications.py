"""Applications that have never heard of embedtui: real libraries, and psycopg with the statements of products.

Each knows its table alone. What ties it to the route is what docs/applications.md says, and no more.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import importlib.util
import re
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import openai
import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from embedtui.integrations import Routing

SIZE = 16
TEXTS = [f"document number {n}" for n in range(1, 31)]

Found = tuple[str, float]
"""The nearest row's text, and its distance."""
EmbedOld = Callable[[list[str]], list[list[float]]]

TABLES = Path(__file__).parents[1] / "frameworks" / "tables"


class Application:
    """What the harness asks of one: the framework is its affair."""

    table: ClassVar[str]
    content: ClassVar[str] = "content"
    """The text's column."""
    vector: ClassVar[str] = "embedding"
    needs: ClassVar[Sequence[str]] = ()
    """Modules that have to be installed."""
    prepared: ClassVar[str] = ""
    """SQL of the operator once the view is there."""

    def __init__(self, dsn: str, routing: Routing, client: openai.OpenAI) -> None:
        self.dsn, self.routing, self.client = dsn, routing, client

    @staticmethod
    def seed(dsn: str, embed: EmbedOld) -> None:
        """The table with ``TEXTS``, as it was before anybody thought of another model."""
        raise NotImplementedError

    def add(self, text: str) -> None:
        raise NotImplementedError

    def nearest(self, text: str) -> Found:
        raise NotImplementedError

    def leave(self) -> None:
        """A thread of the application ends."""

    def close(self) -> None:
        pass

    def embed(self, texts: list[str], *, documents: bool = False) -> list[list[float]]:
        """Vectors of the model of this context's route, which is kept for the statements that follow."""
        route = self.routing.take(documents=documents)
        reply = self.client.embeddings.create(model=route.model, input=texts, dimensions=route.dimensions)
        return [each.embedding for each in reply.data]


def installed(kind: type[Application]) -> str:
    """What is missing; empty where nothing is."""

    def there(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            return False

    return ", ".join(name for name in kind.needs if not there(name))


def url_of(dsn: str, driver: str) -> str:
    """A DSN as SQLAlchemy writes it."""
    parts = conninfo_to_dict(dsn)
    place = f"host={parts['host']}&port={parts.get('port', 5432)}"
    return f"postgresql+{driver}://{parts.get('user', 'postgres')}@/{parts['dbname']}?{place}"


# ------------------------------------------------------------------------------------- psycopg, and its products


class Plain(Application):
    """psycopg alone, with prepared statements as they come."""

    table = "documents"
    insert = "INSERT INTO documents (content, embedding) VALUES (%(text)s, %(vector)s) RETURNING *"
    search = (
        "SELECT *, content AS text, embedding <=> %(vector)s AS distance FROM documents"
        " ORDER BY embedding <=> %(vector)s LIMIT 1"
    )
    similarity = False
    """The search gives 1 - distance."""

    def __init__(self, dsn: str, routing: Routing, client: openai.OpenAI) -> None:
        super().__init__(dsn, routing, client)
        self.own = threading.local()
        self.open: list[psycopg.Connection[Any]] = []

    @classmethod
    def seed(cls, dsn: str, embed: EmbedOld) -> None:  # type: ignore[override]
        with psycopg.connect(dsn, autocommit=True) as conn:
            cls.make(conn)
            for text, vector in zip(TEXTS, embed(TEXTS), strict=True):
                conn.execute(cls.insert.replace("{schema}", "public"), cls.values(text, vector))  # type: ignore[arg-type]

    @classmethod
    def make(cls, conn: psycopg.Connection[Any]) -> None:
        conn.execute(
            "CREATE TABLE documents (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, content text,"
            f" embedding vector({SIZE}))"
        )

    @classmethod
    def values(cls, text: str, vector: list[float]) -> dict[str, object]:
        return {"text": text, "vector": str(vector), "id": uuid.uuid4(), "meta": Jsonb({"lang": "en"})}

    def run(self, statement: str, values: dict[str, object]) -> psycopg.Cursor[Any]:
        if not hasattr(self.own, "conn"):
            self.own.conn = psycopg.connect(self.dsn, autocommit=True)
            self.open.append(self.own.conn)
        path = self.routing.search_path("public")
        self.own.conn.execute("SELECT set_config('search_path', %s, false)", [path])
        schema = self.routing.choose("public", self.routing.schema)
        return self.own.conn.execute(self.routing.tagged(statement.replace("{schema}", schema)), values)  # type: ignore[no-any-return]

    def add(self, text: str) -> None:
        [vector] = self.embed([text], documents=True)
        self.run(self.insert, self.values(text, vector))

    def nearest(self, text: str) -> Found:
        [vector] = self.embed([text])
        cursor = self.run(self.search, self.values(text, vector))
        names = [column.name for column in cursor.description or ()]
        row = dict(zip(names, cursor.fetchone() or (), strict=True))
        return row["text"], 1 - row["distance"] if self.similarity else row["distance"]

    def close(self) -> None:
        for conn in self.open:
            conn.close()


class Published(Plain):
    """A product, by the table and the statements that it publishes."""

    file: ClassVar[str]

    @classmethod
    def make(cls, conn: psycopg.Connection[Any]) -> None:
        recorded = (TABLES / f"{cls.file}.sql").read_text()
        recorded = re.sub(r"--.*", "", recorded).replace("vector(8)", f"vector({SIZE})")
        recorded = re.sub(r"VECTOR\(8\)", f"vector({SIZE})", recorded)
        for statement in re.findall(r"create [^$;]*?(?:\$\$.*?\$\$)?;", recorded, re.DOTALL | re.IGNORECASE):
            conn.execute(statement)
        # as the plan says where one side may be written alone
        conn.execute(f"ALTER TABLE {cls.table} ALTER {cls.vector} DROP NOT NULL")  # type: ignore[arg-type]


class Supabase(Published):
    """``rpc('match_documents')``, in the schema that the request names."""

    file = "supabase"
    insert = "INSERT INTO {schema}.documents (content, metadata, embedding) VALUES (%(text)s, %(meta)s, %(vector)s)"
    search = (
        "SELECT content AS text, similarity AS distance FROM {schema}.match_documents(%(vector)s::vector, 1,"
        ' \'{"lang": "en"}\')'
    )
    similarity = True
    prepared = "supabase"  # its function in the view's schema, as `cutover --how` prints it


class SpringAi(Published):
    file, table = "spring_ai", "vector_store"
    insert = (
        "INSERT INTO {schema}.vector_store (id, content, metadata, embedding)"
        " VALUES (%(id)s, %(text)s, %(meta)s::jsonb, %(vector)s) ON CONFLICT (id) DO UPDATE"
        " SET content = %(text)s, metadata = %(meta)s::jsonb, embedding = %(vector)s"
    )
    search = (
        "SELECT *, content AS text, embedding <=> %(vector)s AS distance FROM {schema}.vector_store"
        " WHERE embedding <=> %(vector)s < 0.9 AND metadata::jsonb @@ '$.lang == \"en\"'::jsonpath"
        " ORDER BY distance LIMIT 1"
    )


class Dify(Published):
    file, table, content = "dify", "embedding_vector_index_5f1c_node", "text"
    insert = (
        "INSERT INTO embedding_vector_index_5f1c_node (id, text, meta, embedding)"
        " VALUES (%(id)s, %(text)s, %(meta)s, %(vector)s)"
    )
    search = (
        "SELECT meta, text, embedding <=> %(vector)s AS distance FROM embedding_vector_index_5f1c_node"
        " ORDER BY distance LIMIT 1"
    )


class OpenWebUi(Published):
    file, table, content, vector = "open_webui", "document_chunk", "text", "vector"
    insert = (
        "INSERT INTO document_chunk (id, vector, collection_name, text, vmetadata)"
        " VALUES (%(id)s::text, %(vector)s, 'file-1', %(text)s, %(meta)s) ON CONFLICT (id) DO NOTHING"
    )
    search = (
        "SELECT q.qid, r.* FROM (VALUES (0, %(vector)s::vector)) AS q (qid, asked) JOIN LATERAL"
        " (SELECT id, text, vmetadata, vector <=> q.asked AS distance FROM document_chunk"
        "  WHERE collection_name = 'file-1' ORDER BY vector <=> q.asked LIMIT 1) AS r ON true"
        " ORDER BY q.qid, r.distance"
    )


class N8n(Published):
    file, table, content = "n8n", "n8n_vectors", "text"
    insert = 'INSERT INTO n8n_vectors ("text", "embedding", "metadata") VALUES (%(text)s, %(vector)s, %(meta)s)'
    search = (
        "SELECT *, \"embedding\" <=> %(vector)s AS distance FROM n8n_vectors WHERE metadata->>'lang' = 'en'"
        " ORDER BY distance ASC LIMIT 1"
    )


# --------------------------------------------------------------------------------------------------- real libraries


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

    def __init__(self, dsn: str, routing: Routing, client: openai.OpenAI) -> None:
        from sqlalchemy import create_engine

        from embedtui.integrations.sqlalchemy import follow

        super().__init__(dsn, routing, client)
        self.note, self.engine = self.model(), create_engine(url_of(dsn, "psycopg"), pool_size=2)
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

    def __init__(self, dsn: str, routing: Routing, client: openai.OpenAI) -> None:
        from tests.kits.django_kit import alias_of

        super().__init__(dsn, routing, client)
        self.alias = alias_of(dsn)
        from embedtui.integrations.django import follow

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

    def __init__(self, dsn: str, routing: Routing, client: openai.OpenAI) -> None:
        from langchain_postgres import PGVector
        from sqlalchemy import create_engine

        from embedtui.integrations.langchain import RoutedEmbeddings
        from embedtui.integrations.sqlalchemy import follow

        super().__init__(dsn, routing, client)
        self.engine = create_engine(url_of(dsn, "psycopg"))
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

    def __init__(self, dsn: str, routing: Routing, client: openai.OpenAI) -> None:
        from langchain_postgres import PGEngine, PGVectorStore

        from embedtui.integrations.langchain import RoutedEmbeddings, RoutedStore

        super().__init__(dsn, routing, client)
        self.engine = PGEngine.from_connection_string(url_of(dsn, "psycopg"))
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

    def __init__(self, dsn: str, routing: Routing, client: openai.OpenAI) -> None:
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

        self.index = VectorStoreIndex.from_vector_store(
            RoutedVectorStore(routing, make),
            embed_model=RoutedEmbedding(routing, lambda route: OfModel(model_name=route.model)),
        )

    def add(self, text: str) -> None:
        from llama_index.core.schema import TextNode

        self.index.insert_nodes([TextNode(text=text)])

    def nearest(self, text: str) -> Found:
        [found] = self.index.as_retriever(similarity_top_k=1).retrieve(text)
        return found.node.text, 1 - found.score

    def close(self) -> None:
        for store in self.made:
            store._engine.dispose()


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
    Plain, SqlAlchemy, Django, LangChain, LangChainStore, LlamaIndex, Supabase, SpringAi, Dify, OpenWebUi, N8n,
)  # fmt: skip
