"""Applications that have never heard of embedtui: psycopg alone, and with the statements that products publish.

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
from embedtui.integrations.routing import move
from tests.kits.support import NEW

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
    texts_in: ClassVar[str] = ""
    """The other table that has the texts; ``content`` is SQL over its rows then."""
    key: ClassVar[str] = ""
    """Columns by which that is joined."""
    needs: ClassVar[Sequence[str]] = ()
    """Modules that have to be installed."""
    prepares_all = True
    """Its driver also prepares SELECT * and RETURNING *, which a new column of the table breaks."""
    prepared: ClassVar[str] = ""
    """SQL of the operator once the view is there."""

    def __init__(self, dsn: str, routing: Routing | None, client: openai.OpenAI) -> None:
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
        """Vectors of the model of this context's route, kept for the statements that follow; without one of the new."""
        model = self.routing.take(documents=documents).model if self.routing is not None else NEW
        reply = self.client.embeddings.create(model=model, input=texts, dimensions=SIZE)
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

    def __init__(self, dsn: str, routing: Routing | None, client: openai.OpenAI) -> None:
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
        assert self.routing is not None
        move([self.routing], "public", lambda query: self.own.conn.execute(query).fetchone())
        schema = self.routing.choose("public", self.routing.schema)
        prepare = None if self.prepares_all or "*" not in statement else False
        text = self.routing.tagged(statement.replace("{schema}", schema))
        return self.own.conn.execute(text, values, prepare=prepare)  # type: ignore[no-any-return]

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
