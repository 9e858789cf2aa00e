"""How an application of each framework is switched: data, ready to copy, with the migration's own names filled in.

``{name}`` and the like are put in by :func:`lines_of`. What "asks the route" follows every flip at once, with model and
column together; the rest is labelled with what it cannot promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Way:
    """One way, as an operator reads it."""

    title: str
    strategy: str
    """The strategy that serves it."""
    view: bool
    """It needs the routed view."""
    lines: tuple[tuple[str, str], ...]
    """(where it goes, what stands there)."""
    caution: str = ""


_ROUTING = """\
from embedtui import Router
from embedtui.integrations import Routing

routing = Routing(Router(DATABASE_URL, application_name="search"), {routing})
"""

_FOLLOW = """\
from embedtui.integrations.sqlalchemy import follow

{engine}follow(engine, routing)  # the application's own engine, of create_engine()
"""

_ENGINE = """\
from sqlalchemy import create_engine

# an engine of its own for the rows where {scope}:
# what reads or writes others keeps the engine that it has, which does not follow
engine = create_engine(SQLALCHEMY_URL)
"""

_ROLE = (
    "embedtui.toml",
    """\
view = true

[cutover]
strategy = "search_path"
roles = ["{role}"]
# hook = "…"   its command gets EMBED_MODEL and EMBED_DIMENSIONS: switch the model, renew the pool
""",
)

_TOGETHER = (
    "Its model has to be switched in the same moment: stop it, cut over, switch its model, start it;"
    " or have a hook do it."
)


def _python(extra: str, *parts: str) -> tuple[tuple[str, str], ...]:
    return (("shell", f'pip install "embedtui[{extra}]"\n'), ("Python, at start-up", "".join((_ROUTING, "\n", *parts))))


ROUTER = Way(
    "the Router: it asks the route",
    "pointer",
    False,
    (
        (
            "Python",
            """\
from embedtui import Router

router = Router(DATABASE_URL, application_name="search")
route = router.route({name!r}, key=user_id)
vector = embed(route.model, route.dimensions, route.query_prefix + question)
hits = route.search(conn, vector, k=10)
""",
        ),
    ),
)

SQL = Way(
    "SQL, in any language: it asks the route",
    "pointer",
    False,
    (
        (
            "SQL",
            """\
SELECT * FROM embedtui.route({table_literal});  -- which model to ask
SELECT key, distance FROM embedtui.search({table_literal}, $1, $2::text, 10);  -- $1 that model, $2 its vector
""",
        ),
    ),
)

SQLALCHEMY = Way(
    "SQLAlchemy through the routed view: it asks the route",
    "pointer",
    True,
    (
        *_python("sqlalchemy", _FOLLOW),
        (
            "Python, in a request",
            """\
with routing.use(key=user_id) as route:
    vector = routing.fit(route, embed(route.model, route.dimensions, route.query_prefix + question))
    ...  # the query as it is
""",
        ),
    ),
    "A column declared Vector(n) has to be Vector() where the sizes differ; a __table_args__ schema is not moved.",
)

DJANGO = Way(
    "Django through the routed view: it asks the route",
    "pointer",
    True,
    (
        ("shell", 'pip install "embedtui[django]"\n'),
        (
            "Python, AppConfig.ready()",
            _ROUTING + "\nfrom embedtui.integrations.django import follow\n\n{django}\n",
        ),
        ("Python, in a request", "with routing.use(key=user_id) as route:\n    ...  # embed and query\n"),
    ),
    "A VectorField is declared without dimensions where the sizes differ.",
)

ROLE = Way(
    "its role's search path, and the routed view: not at once",
    "search_path",
    True,
    (_ROLE,),
    _TOGETHER,
)

OWN: tuple[Way, ...] = (ROUTER, SQLALCHEMY, DJANGO, SQL, ROLE)
"""Of a table that no known framework made: whatever the application is."""


def _product(title: str, *lines: tuple[str, str], caution: str = "") -> Way:
    return Way(
        f"{title}: its role's search path, and the routed view: not at once",
        "search_path",
        True,
        (_ROLE, *lines),
        f"{_TOGETHER} {caution}".strip(),
    )


def _exchange(title: str, why: str, *lines: tuple[str, str], caution: str = "") -> Way:
    """One that no view serves."""
    text = (
        '[cutover]\nstrategy = "rename"\n# hook = "…"   gets EMBED_MODEL, EMBED_DIMENSIONS: switch the model, restart\n'
    )
    return Way(
        f"{title}: exchanged names, and a switch of its model: not at once ({why})",
        "rename",
        False,
        (("embedtui.toml", text), *lines),
        f"{_TOGETHER} {caution}".strip(),
    )


WAYS: Mapping[str, tuple[Way, ...]] = {
    "LangChain PGVector": (
        Way(
            "LangChain PGVector through the routed view: it asks the route",
            "pointer",
            True,
            _python(
                "langchain",
                """\
from embedtui.integrations.langchain import RoutedEmbeddings
from embedtui.integrations.sqlalchemy import follow

{engine}follow(engine, routing)  # the SQLAlchemy engine of the store
embeddings = RoutedEmbeddings(
    routing, lambda route: OpenAIEmbeddings(model=route.model, dimensions=route.requested_dimensions)
)
store = PGVector(embeddings, connection=engine, collection_name=COLLECTION)
""",
            ),
            "Leave embedding_length out where the sizes differ.",
        ),
    ),
    "LangChain PGVectorStore": (
        Way(
            "LangChain PGVectorStore, one for each side under one name: it asks the route",
            "pointer",
            True,
            (
                *_python(
                    "langchain",
                    """\
from embedtui.integrations.langchain import RoutedEmbeddings, RoutedStore

embeddings = RoutedEmbeddings(
    routing, lambda route: OpenAIEmbeddings(model=route.model, dimensions=route.requested_dimensions)
)
store = RoutedStore(
    routing,
    lambda schema: PGVectorStore.create_sync(engine, embeddings, {table!r}, schema_name=schema),
    schema={schema!r},
)
""",
                ),
                ("SQL, before the cutover", "ALTER TABLE {table_sql} ALTER COLUMN {column} DROP NOT NULL;\n"),
            ),
        ),
    ),
    "LlamaIndex PGVectorStore": (
        Way(
            "LlamaIndex PGVectorStore, one for each side under one name: it asks the route",
            "pointer",
            True,
            _python(
                "llama-index",
                """\
from embedtui.integrations.llama_index import RoutedEmbedding, RoutedVectorStore

embed_model = RoutedEmbedding(
    routing, lambda route: OpenAIEmbedding(model=route.model, dimensions=route.requested_dimensions)
)
store = RoutedVectorStore(
    routing,
    lambda schema: PGVectorStore.from_params(**OPTIONS, schema_name=schema, perform_setup=False),
    schema={schema!r},
)
index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
""",
            ),
        ),
    ),
    "LangGraph PostgresStore": (
        Way(
            "LangGraph PostgresStore through the routed view: it asks the route",
            "pointer",
            True,
            _python(
                "langgraph",
                """\
from embedtui.integrations.langgraph import RoutedEmbeddings, RoutedStore

embeddings = RoutedEmbeddings(
    routing, lambda route: OpenAIEmbeddings(model=route.model, dimensions=route.requested_dimensions)
)
pool = ConnectionPool(DATABASE_URL, kwargs=dict(autocommit=True, row_factory=dict_row))
index = dict(dims={new_dimensions}, embed=embeddings, fields=FIELDS)
store = RoutedStore(routing, pool, lambda conn: PostgresStore(conn, index=index))  # graph.compile(store=store)
""",
            ),
        ),
    ),
    # its columns are those of many a table
    "Supabase, or LangChain's SupabaseVectorStore": (
        *OWN,
        Way(
            "Supabase: the routed view's schema, with a match_documents of its own: each request chooses",
            "pointer",
            True,
            (
                ("embedtui.toml", "view = true\n"),
                (
                    "SQL, once the view is there (then expose schema {view_schema} in the API's settings)",
                    """\
CREATE FUNCTION {view_schema}.match_documents(
  query_embedding {vector}({new_dimensions}), match_count int DEFAULT null, filter jsonb DEFAULT '{{}}'
) RETURNS TABLE (id bigint, content text, metadata jsonb, similarity float)
LANGUAGE sql STABLE SET search_path = {view_schema}, {vector_schema}, pg_catalog, pg_temp AS $$
  SELECT d.id, d.content, d.metadata, 1 - (d.{column} <=> query_embedding)
  FROM {view} d WHERE d.metadata @> filter ORDER BY d.{column} <=> query_embedding LIMIT match_count
$$;
""",
                ),
                (
                    "JavaScript, in a request",
                    """\
const {{ data: [route] }} = await sql`SELECT side, model FROM embedtui.route({table_literal})`
const client = route.side === 'new' ? supabase.schema({view_schema_js}) : supabase
const {{ data }} = await client.rpc('match_documents', {{ query_embedding: await embed(route.model, question) }})
""",
                ),
            ),
            "The function at the table has the old size in its signature, and stays for the old side.",
        ),
    ),
    "n8n, or LangChain.js PGVectorStore": (
        _product("n8n", ("the Embeddings node, or the code", "model = {new_model}\n")),
    ),
    "Flowise, or LangChain.js TypeORMVectorStore": (
        _product("Flowise", ("the Embeddings node, or the code", "model = {new_model}\n")),
    ),
    "mem0": (
        _product(
            "mem0",
            (
                "Python, Memory.from_config",
                '"embedder": {{"config": {{"model": "{new_model}", "embedding_dims": {new_dimensions}}}}}\n',
            ),
        ),
    ),
    "Spring AI PgVectorStore": (
        Way(
            "Spring AI: it names its schema, so that no search path moves it: its settings, and a restart",
            "hook",
            True,
            (
                (
                    "embedtui.toml",
                    'view = true\n\n[cutover]\nstrategy = "hook"\nhook = "…"  # writes what follows, restarts\n',
                ),
                (
                    "application.properties",
                    """\
spring.ai.vectorstore.pgvector.schema-name={view_schema}
spring.ai.vectorstore.pgvector.initialize-schema=false
spring.ai.openai.embedding.options.model={new_model}
spring.ai.openai.embedding.options.dimensions={new_dimensions}
""",
                ),
            ),
            "Not at once: instances that have not restarted serve the old side, with its model.",
        ),
    ),
    "Dify": (
        _exchange(
            "Dify",
            "it makes indexes where it finds none, which a view takes none of",
            (
                "SQL, in Dify's own database",
                "UPDATE datasets SET embedding_model = '{new_model}' WHERE id = '…';"
                "  -- back: '{old_model}'; and its embedding_model_provider\n",
            ),
            caution="Changing the model on Dify's page indexes everything anew instead.",
        ),
    ),
    "Open WebUI": (
        _exchange(
            "Open WebUI",
            "it makes indexes at its start, which a view takes none of",
            (
                "environment",
                "RAG_EMBEDDING_MODEL={new_model}\nPGVECTOR_INITIALIZE_MAX_VECTOR_LENGTH={new_dimensions}\n",
            ),
        ),
    ),
    "Haystack PgvectorDocumentStore": (
        _exchange(
            "Haystack",
            "it makes an index where it finds none, which a view takes none of",
            ("Python", "PgvectorDocumentStore(embedding_dimension={new_dimensions})  # and the embedder's model\n"),
        ),
    ),
    "agno PgVector": (
        _exchange(
            "agno", "it names its schema", ("Python", 'OpenAIEmbedder(id="{new_model}", dimensions={new_dimensions})\n')
        ),
    ),
    "Mastra PgVector": (
        _exchange("Mastra", "it makes its index anew", ("TypeScript, where it embeds", "model: '{new_model}'\n")),
    ),
    "Kernel Memory": (
        _exchange("Kernel Memory", "it names its schema", ("configuration", "the embedding model {new_model}\n")),
    ),
    "Semantic Kernel PostgresMemoryStore": (
        _exchange("Semantic Kernel", "it names its schema", ("code", "the embedding model {new_model}\n")),
    ),
}
"""By the preset's name; the first is the one to take. Frameworks that ``refused`` has are not moved at all."""


def ways_of(framework: str | None) -> tuple[Way, ...]:
    """The ways of an application whose table a framework made; None: of its own."""
    return WAYS.get(framework or "", OWN)


def alone(scope: str) -> dict[str, str]:
    """What the lines say of a connection: by the view of a scope other rows are neither found nor written."""
    if not scope:
        return {"engine": "", "django": 'follow("default", routing)'}
    alias = f"# an alias of its own in DATABASES, for the rows where {scope}"
    return {"engine": _ENGINE.format(scope=scope), "django": f'{alias}\nfollow("scoped", routing)'}


def lines_of(way: Way, names: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """The way's lines with a migration's names in them."""
    return tuple((place.format(**names), text.format(**names)) for place, text in way.lines)
