"""Texts of source rows: how many there are, how long they are, and what stands in given rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from embedtui.model import Key, Migration
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import key_join_sql, keys_sql, relation
from embedtui.postgres.sides.layout import content_sql, has_content_sql, scope_sql

TEXT = 2000
"""Characters of a result's content that are read: what a screen or a report shows of it."""


@dataclass(frozen=True, slots=True)
class TextCounts:
    """Rows of a table, or of a sample of it, by their texts."""

    rows: int
    empty: int
    """Rows with nothing to embed."""
    bytes: int
    """UTF-8 bytes of the texts to embed."""
    long: int
    """Rows with a text of more bytes than was asked."""


def count_texts(conn: Connection, migration: Migration, long: int, sample_percent: float | None = None) -> TextCounts:
    """Count rows and their texts.

    Args:
        conn: any connection.
        migration: the migration, stored or not.
        long: bytes above which a text counts as long.
        sample_percent: share of the table's blocks to read, 0..100; None reads all of it.
    """
    row = conn.execute(
        sql.SQL(
            "SELECT count(*), count(*) FILTER (WHERE NOT {has}),"
            " coalesce(sum(octet_length({text})) FILTER (WHERE {has}), 0)::int8,"
            " count(*) FILTER (WHERE {has} AND octet_length({text}) > {limit})"
            " FROM {table} AS t{sample} WHERE {scope}"
        ).format(
            has=has_content_sql(migration, "t"),
            text=content_sql(migration, "t"),
            limit=sql.Literal(long),
            table=relation(migration.table),
            scope=scope_sql(migration, "t"),
            sample=sql.SQL("" if sample_percent is None else f" TABLESAMPLE SYSTEM ({sample_percent:.6f})"),
        )
    ).fetchone()
    assert row is not None
    return TextCounts(*row)


def row_texts(conn: Connection, migration: Migration, keys: Sequence[Key]) -> dict[Key, str]:
    """The first characters (:data:`TEXT`) of these rows' content, in one statement; rows that are gone are absent."""
    alias = migration.table.name
    rows = conn.execute(
        sql.SQL(
            "SELECT embedtui_k.key, pg_catalog.left({content}, {length}) FROM {keys} JOIN {table} ON {match}"
        ).format(
            content=content_sql(migration, alias),
            length=sql.Literal(TEXT),
            keys=keys_sql(keys),
            table=relation(migration.table),
            match=key_join_sql(migration, alias, sql.SQL("embedtui_k.key")),
        )
    )
    return {tuple(key): text for key, text in rows}


def text_length(conn: Connection, migration: Migration, key: Key) -> int | None:
    """Characters of a row's content; None where the row is gone, or has none."""
    alias = migration.table.name
    row = conn.execute(
        sql.SQL("SELECT pg_catalog.length({content}) FROM {keys} JOIN {table} ON {match}").format(
            content=content_sql(migration, alias),
            keys=keys_sql([key]),
            table=relation(migration.table),
            match=key_join_sql(migration, alias, sql.SQL("embedtui_k.key")),
        )
    ).fetchone()
    return row[0] if row is not None else None


def first_texts(conn: Connection, migration: Migration, limit: int) -> list[str]:
    """The beginnings (:data:`TEXT`) of the first rows' texts, as they come; rows with nothing to embed left out."""
    rows = conn.execute(
        sql.SQL(
            "SELECT pg_catalog.left({content}, {length}) FROM {table} AS t WHERE {scope} AND {has} LIMIT {limit}"
        ).format(
            scope=scope_sql(migration, "t"),
            content=content_sql(migration, "t"),
            length=sql.Literal(TEXT),
            table=relation(migration.table),
            has=has_content_sql(migration, "t"),
            limit=sql.Literal(limit),
        )
    )
    return [text for (text,) in rows]
