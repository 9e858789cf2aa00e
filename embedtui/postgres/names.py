"""SQL text made of names: quoting, keys and their joins, vector literals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from embedtui.model import Migration, TableName

if TYPE_CHECKING:  # the Router imports this module, and searching needs no numpy
    import numpy as np
    from numpy.typing import NDArray


def relation(name: TableName) -> sql.Identifier:
    """A quoted, qualified relation."""
    return sql.Identifier(name.schema, name.name)


def key_sql(migration: Migration, alias: str) -> sql.Composed:
    """The row's key as text[]."""
    parts = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(alias, name)) for name in migration.key_columns
    )
    return sql.SQL("ARRAY[{}]").format(parts)


def key_join_sql(migration: Migration, alias: str, key: sql.Composable) -> sql.Composed:
    """Condition that the row called ``alias`` has the key ``key`` (a text[] expression); can use the key's index."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = ({})[{}]::{}").format(
            sql.Identifier(alias, name),
            key,
            sql.Literal(position),
            sql.SQL(kind),
        )
        for position, (name, kind) in enumerate(zip(migration.key_columns, migration.key_types, strict=True), 1)
    )


def same_key_sql(migration: Migration, left: str, right: str) -> sql.Composed:
    """Condition that the rows called ``left`` and ``right``, both with the key's columns, have the same key."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, name), sql.Identifier(right, name))
        for name in migration.key_columns
    )


def vector_text(vector: NDArray[np.float32]) -> str:
    """Write a vector in pgvector's text form: ``[1.0,2.0]``."""
    return f"[{','.join(map(repr, vector.tolist()))}]"
