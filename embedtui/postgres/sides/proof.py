"""Stored rows as evidence: their text as it is embedded, and the old vector beside it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psycopg
from psycopg import sql

from embedtui.arrays import np
from embedtui.model import Key, Migration, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import key_sql, relation
from embedtui.postgres.sides.both import vector_number
from embedtui.postgres.sides.layout import content_sql, has_content_sql, scope_sql
from embedtui.postgres.state.queries import Vector

PAGES = 1000
"""Pages of the table that a sample is drawn from: some megabytes to read, and many more rows than it takes."""


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row with a text and an old vector."""

    key: Key
    text: str
    vector: Vector
    """float32, of the old model's dimensions."""


def stored_rows(conn: Connection, migration: Migration, limit: int, longest: int) -> list[StoredRow]:
    """Up to ``limit`` rows, drawn at random over the table, with a text of at most ``longest`` bytes and a vector.

    Vectors of zeros, and those of another size than the old model's, are left out.
    """
    share = _percent(conn, migration, PAGES)
    found = _draw(conn, migration, limit, longest, share)
    if len(found) < limit and share < 100:  # few rows have a vector
        found = _draw(conn, migration, limit, longest, min(100.0, 20 * share))
    if len(found) < limit and share < 5 and migration.scope is not None:  # few rows are in the scope: by its own index
        with contextlib.suppress(psycopg.errors.QueryCanceled):
            found = _draw(conn, migration, limit, longest, None)
    return found


def _percent(conn: Connection, migration: Migration, pages: int) -> float:
    """Share of the table's pages, 0..100, that makes ``pages`` of them."""
    row = conn.execute(
        "SELECT sum(pg_relation_size(relid)) / current_setting('block_size')::int FROM"
        " (SELECT %(t)s::oid AS relid UNION SELECT relid FROM pg_partition_tree(%(t)s::oid)) parts",
        {"t": migration.table_oid},
    ).fetchone()
    there = float(row[0] or 0) if row else 0.0
    return 100.0 if there <= pages else 100 * pages / there


def _draw(conn: Connection, migration: Migration, limit: int, longest: int, percent: float | None) -> list[StoredRow]:
    # the rows are drawn before their texts and vectors are read, which may lie elsewhere (TOAST)
    columns = dict.fromkeys([*migration.key_columns, *migration.content_columns, migration.old_column])
    drawn = sql.SQL("{} AS t").format(relation(migration.table))
    if percent is not None:
        drawn += sql.SQL(" TABLESAMPLE SYSTEM ({})").format(sql.Literal(round(percent, 6)))
    rows = conn.execute(
        sql.SQL(
            "SELECT {key}, {content}, {send}({vector})"
            " FROM (SELECT {columns} FROM {drawn}"
            " WHERE {scope} AND {old} IS NOT NULL{order} LIMIT {limit}) AS t"
            " WHERE {has_content} AND octet_length({content}) <= {longest}"
        ).format(
            key=key_sql(migration, "t"),
            content=content_sql(migration, "t"),
            send=sql.Identifier(migration.vector_schema, f"{migration.old_vector_type}_send"),
            vector=sql.Identifier("t", migration.old_column),
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            drawn=drawn,
            # sorting would read all of the scope
            order=sql.SQL("" if percent is None else " ORDER BY random()"),
            scope=scope_sql(migration, "t"),
            old=sql.Identifier(migration.old_column),
            has_content=has_content_sql(migration, "t"),
            limit=sql.Literal(limit),
            longest=sql.Literal(longest),
        ),
        binary=True,
    ).fetchall()
    number = vector_number(migration, Side.OLD)
    found = [
        StoredRow(tuple(key), text, np.frombuffer(raw, number, offset=4).astype(np.float32)) for key, text, raw in rows
    ]
    return [row for row in found if row.vector.size == migration.old_model.dimensions and row.vector.any()]
