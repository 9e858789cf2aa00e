"""A migration of table ``documents`` as it could be stored, for what looks at a few of its fields."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from embedtui.model import Condition, Distance, EmbeddingModel, IndexMethod, Migration, Phase, PlacementKind, TableName

DOCUMENTS = TableName("public", "documents")


def sample_migration(table: TableName = DOCUMENTS, **changes: Any) -> Migration:
    """A running backfill of ``table``, whose new vectors have a column beside the old ones; with ``changes``."""
    migration = Migration(
        id=1,
        name=table.name,
        table=table,
        table_oid=0,
        key_columns=("id",),
        key_types=("bigint",),
        content_columns=("content",),
        placement=PlacementKind.COLUMN,
        old_column="embedding",
        old_model=EmbeddingModel("old", 8),
        new_model=EmbeddingModel("new", 8),
        new_table=table,
        new_column="embedding_v2",
        vector_schema="public",
        vector_type="vector",
        old_vector_type="vector",
        distance=Distance.COSINE,
        index_method=IndexMethod.HNSW,
        phase=Phase.BACKFILL,
        condition=Condition.RUNNING,
        reason="",
        desired="run",
    )
    return replace(migration, **changes)
