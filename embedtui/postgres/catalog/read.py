"""Rows of catalog queries by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from psycopg import Connection, sql
from psycopg.rows import dict_row


def read_all(
    conn: Connection[Any], query: LiteralString | sql.Composed, params: Mapping[str, object] | Sequence[object] = ()
) -> list[dict[str, Any]]:
    """All rows of a query, by column name."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, params or None).fetchall()


def read_first(
    conn: Connection[Any], query: LiteralString | sql.Composed, params: Mapping[str, object] | Sequence[object] = ()
) -> dict[str, Any] | None:
    """The first row of a query, by column name; None without any."""
    rows = read_all(conn, query, params)
    return rows[0] if rows else None


def read_one(
    conn: Connection[Any], query: LiteralString, params: Mapping[str, object] | Sequence[object] = ()
) -> dict[str, Any]:
    """The row of a query that has exactly one, by column name."""
    return read_all(conn, query, params)[0]
