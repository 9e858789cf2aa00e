"""The frameworks: a new one goes here, its table into ``tests/frameworks/tables``, its line into docs/frameworks.md."""

from __future__ import annotations

from embedtui.engine.plan.presets.preset import Preset

_VECTOR = ("vector", "halfvec")
_TEXT = ("text", "varchar")

LLAMA_INDEX_TEXT = r"""CREATE FUNCTION {schema}.llama_index_text(text text, metadata json) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
SELECT CASE WHEN m.lines <> '' THEN btrim(replace(replace(n.node ->> 'text_template', '{metadata_str}', m.lines),
                                                  '{content}', text), E' \t\r\n') ELSE text END
FROM (SELECT (metadata ->> '_node_content')::json AS node) n, LATERAL (
    SELECT btrim(string_agg(
               replace(replace(coalesce(n.node ->> 'metadata_template', '{key}: {value}'), '{key}', e.key), '{value}',
                       CASE json_typeof(e.value) WHEN 'boolean' THEN initcap(e.value::text) WHEN 'null' THEN 'None'
                       ELSE e.value #>> '{}' END),
               coalesce(n.node ->> 'metadata_separator', n.node ->> 'metadata_seperator', E'\n') ORDER BY e.place),
           E' \t\r\n') AS lines
    FROM json_each(n.node -> 'metadata') WITH ORDINALITY AS e (key, value, place)
    WHERE NOT coalesce((n.node ->> 'excluded_embed_metadata_keys')::jsonb ? e.key, false)
) m
$$"""

LANGGRAPH_TEXT = r"""CREATE FUNCTION {schema}.langgraph_text(value jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE jsonb_typeof(value)
        WHEN 'object' THEN '{' || coalesce((
            SELECT string_agg(to_json(e.key)::text || ': ' || {schema}.langgraph_text(e.value), ', '
                              ORDER BY e.key COLLATE "C") FROM jsonb_each(value) e), '') || '}'
        WHEN 'array' THEN '[' || coalesce((
            SELECT string_agg({schema}.langgraph_text(e.value), ', ' ORDER BY e.place)
            FROM jsonb_array_elements(value) WITH ORDINALITY e (value, place)), '') || ']'
        ELSE value::text END;
END
$$"""
"""JSON with sorted keys, as ``json.dumps(…, sort_keys=True, ensure_ascii=False)`` writes it."""

FRAMEWORKS: tuple[Preset, ...] = (
    Preset(
        name="LangChain PGVector",
        columns={
            "id": (*_TEXT, "uuid"),
            "collection_id": ("uuid",),
            "embedding": _VECTOR,
            "document": _TEXT,
            "cmetadata": ("json", "jsonb"),
        },
        key=("id",),
        vector="embedding",
        content=("document",),
        scope="collection_id",
        scope_names=("langchain_pg_collection", "uuid", "name"),
        embeds="the document as it stands, without its metadata",
        source="https://github.com/langchain-ai/langchain-postgres/blob/main/langchain_postgres/vectorstores.py",
        caution="Its collections share the table, and may be of several models.",
    ),
    Preset(
        name="LangChain PGVectorStore",
        columns={"langchain_id": ("uuid", *_TEXT, "int4", "int8"), "content": _TEXT, "embedding": _VECTOR},
        key=("langchain_id",),
        vector="embedding",
        content=("content",),
        embeds="the content as it stands, without its metadata columns",
        source="https://github.com/langchain-ai/langchain-postgres/blob/main/langchain_postgres/v2/async_vectorstore.py",
    ),
    Preset(
        name="LlamaIndex PGVectorStore",
        columns={
            "id": ("int8",),
            "text": _TEXT,
            "metadata_": ("json", "jsonb"),
            "node_id": _TEXT,
            "embedding": _VECTOR,
        },
        key=("id",),
        vector="embedding",
        content_sql="{schema}.llama_index_text(text, metadata_::json)",
        function=LLAMA_INDEX_TEXT,
        unlike="EXISTS (SELECT FROM json_each((metadata_ ->> '_node_content')::json -> 'metadata') e"
        " WHERE json_typeof(e.value) IN ('array', 'object'))",
        embeds="the text with the node's metadata before it (MetadataMode.EMBED), less the keys that the node excludes",
        source="https://docs.llamaindex.ai/en/stable/module_guides/loading/documents_and_nodes/usage_documents/",
        caution="Its OpenAIEmbedding sends line breaks as blanks; floats are written as JSON writes them.",
    ),
    Preset(
        name="Haystack PgvectorDocumentStore",
        columns={
            "id": _TEXT,
            "embedding": _VECTOR,
            "content": _TEXT,
            "blob_data": ("bytea",),
            "meta": ("jsonb",),
            "blob_mime_type": _TEXT,
        },
        key=("id",),
        vector="embedding",
        content=("content",),
        embeds="the content, after the fields of meta that the embedder's meta_fields_to_embed names (by default none)",
        source="https://docs.haystack.deepset.ai/docs/openaidocumentembedder",
        caution="The pipeline's prefix, suffix and meta_fields_to_embed stand in no table: the proof tells of them.",
    ),
    Preset(
        name="mem0",
        columns={"id": ("uuid",), "vector": _VECTOR, "payload": ("jsonb",)},
        key=("id",),
        vector="vector",
        content_sql="payload ->> 'data'",
        embeds="the memory, payload ->> 'data'",
        source="https://github.com/mem0ai/mem0/blob/main/mem0/memory/main.py",
        caution="Its embedders of OpenAI, Azure and Gemini send line breaks as blanks: replace(…, E'\\n', ' ').",
    ),
    Preset(
        name="agno PgVector",
        columns={
            "id": _TEXT,
            "name": _TEXT,
            "meta_data": ("jsonb",),
            "filters": ("jsonb",),
            "content": _TEXT,
            "embedding": _VECTOR,
            "content_hash": _TEXT,
        },
        key=("id",),
        vector="embedding",
        content=("content",),
        embeds="the content as it stands",
        source="https://github.com/agno-agi/agno/blob/main/libs/agno/agno/knowledge/document/base.py",
    ),
    Preset(
        name="LangGraph PostgresStore",
        columns={"prefix": _TEXT, "key": _TEXT, "field_name": _TEXT, "embedding": _VECTOR},
        key=("prefix", "key", "field_name"),
        vector="embedding",
        texts_in=("store", "value"),
        field="field_name",
        function=LANGGRAPH_TEXT,
        embeds="of store.value, in the table beside it, what field_name says: a field's text, or the item as JSON ($)",
        source="https://github.com/langchain-ai/langgraph/blob/main/libs/checkpoint-postgres/langgraph/store/postgres/base.py",
    ),
    Preset(
        name="Spring AI PgVectorStore",
        columns={
            "id": ("uuid", "text", "int4", "int8"),
            "content": ("text",),
            "metadata": ("json",),
            "embedding": _VECTOR,
        },
        key=("id",),
        vector="embedding",
        content=("content",),
        embeds="the content; where the application's EmbeddingModel has a MetadataMode, metadata before it",
        source="https://docs.spring.io/spring-ai/reference/api/vectordbs/pgvector.html",
        caution="Whether metadata is embedded stands in no table: the proof tells of it.",
    ),
    Preset(
        name="Dify",
        columns={"id": ("uuid",), "text": ("text",), "meta": ("jsonb",), "embedding": _VECTOR},
        key=("id",),
        vector="embedding",
        content=("text",),
        table="^embedding_",
        embeds="the segment's text as it stands",
        source="https://github.com/langgenius/dify (api/core/rag/datasource/vdb/pgvector/pgvector.py)",
        caution="Each knowledge base has a table and a model of its own, and its dataset row names the model, too.",
    ),
    Preset(
        name="Open WebUI",
        columns={
            "id": ("text",),
            "vector": _VECTOR,
            "collection_name": ("text",),
            "text": ("text",),
            "vmetadata": ("jsonb",),
        },
        key=("id",),
        vector="vector",
        content=("text",),
        scope="collection_name",
        embeds="the chunk's text, after RAG_EMBEDDING_CONTENT_PREFIX",
        source="https://github.com/open-webui/open-webui/blob/main/backend/open_webui/retrieval/vector/dbs/pgvector.py",
        pads=True,
        caution="It pads vectors with zeros, or cuts them, to PGVECTOR_INITIALIZE_MAX_VECTOR_LENGTH: pad_to does the"
        " same for models of fewer dimensions. A new model of more makes a larger column: set that variable to it.",
    ),
    Preset(
        name="Open WebUI, encrypted",
        columns={
            "id": ("text",),
            "vector": _VECTOR,
            "collection_name": ("text",),
            "text": ("bytea",),
            "vmetadata": ("bytea",),
        },
        key=("id",),
        vector="vector",
        embeds="the chunk's text, which the table has encrypted (PGVECTOR_PGCRYPTO)",
        source="https://github.com/open-webui/open-webui/blob/main/backend/open_webui/retrieval/vector/dbs/pgvector.py",
        refused="Its texts are encrypted with a key that embedtui must not have in a statement. Let Open WebUI make"
        " them anew: Admin Settings, Documents, Reindex.",
    ),
    Preset(
        name="n8n, or LangChain.js PGVectorStore",
        columns={"id": ("uuid",), "text": ("text",), "metadata": ("jsonb",), "embedding": _VECTOR},
        key=("id",),
        vector="embedding",
        content=("text",),
        embeds="the text as it stands, without its metadata",
        source="https://github.com/langchain-ai/langchainjs/blob/main/libs/langchain-community/src/vectorstores/pgvector.ts",
    ),
    Preset(
        name="Flowise, or LangChain.js TypeORMVectorStore",
        columns={"id": ("uuid",), "pageContent": _TEXT, "metadata": ("jsonb",), "embedding": _VECTOR},
        key=("id",),
        vector="embedding",
        content=("pageContent",),
        embeds="pageContent as it stands, without its metadata",
        source="https://github.com/FlowiseAI/Flowise/blob/main/packages/components/nodes/vectorstores/Postgres/driver/TypeORM.ts",
    ),
    Preset(
        name="Supabase, or LangChain's SupabaseVectorStore",
        columns={"id": ("int8", "uuid"), "content": ("text",), "metadata": ("jsonb",), "embedding": _VECTOR},
        key=("id",),
        vector="embedding",
        content=("content",),
        embeds="the content as it stands",
        source="https://supabase.com/docs/guides/ai/langchain",
        caution="Its function match_documents names the vector's size: make it anew for the new column.",
    ),
    Preset(
        name="Kernel Memory",
        columns={
            "id": ("text",),
            "embedding": _VECTOR,
            "tags": ("_text",),
            "content": ("text",),
            "payload": ("jsonb",),
        },
        key=("id",),
        vector="embedding",
        content=("content",),
        embeds="the partition's text, which is the content",
        source="https://github.com/microsoft/kernel-memory/tree/main/extensions/Postgres",
    ),
    Preset(
        name="Semantic Kernel PostgresMemoryStore",
        columns={"key": ("text",), "metadata": ("jsonb",), "embedding": _VECTOR, "timestamp": ("timestamptz",)},
        key=("key",),
        vector="embedding",
        content_sql="metadata ->> 'text'",
        embeds="the text of SaveInformationAsync, metadata ->> 'text'",
        source="https://github.com/microsoft/semantic-kernel/tree/main/dotnet/src",
        caution="Entries of SaveReferenceAsync have another text embedded than they keep; the newer connectors make"
        " tables of the application's own columns.",
    ),
    Preset(
        name="Mastra PgVector",
        columns={"id": ("int4",), "vector_id": ("text",), "embedding": _VECTOR, "metadata": ("jsonb",)},
        key=("id",),
        vector="embedding",
        content_sql="metadata ->> 'text'",
        embeds="what the application gave it; by its documentation the chunk's text, kept as metadata ->> 'text'",
        source="https://mastra.ai/docs/examples/rag/upsert/upsert-embeddings",
        caution="It keeps no text of its own: look whether the metadata has it.",
    ),
)
"""Known frameworks; where several fit, the one with most columns is taken."""
