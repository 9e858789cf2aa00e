"""How many rows a migration's sides hold: counted in one scan that reads no vector."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from embedtui.model import Migration, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import key_sql
from embedtui.postgres.sides.both import both_sides_sql, vector_column
from embedtui.postgres.sides.layout import has_content_sql, scope_sql


@dataclass(frozen=True, slots=True)
class Census:
    """Rows with something to embed, by the vectors that they lack."""

    rows: int
    without_new: int
    without_old: int
    awaited: int
    """Of these, how many wait in the queue."""
    age: float = 0.0
    """Seconds since it was taken."""


def take_census(conn: Connection, migration: Migration) -> Census:
    """Count in one scan (200,000 rows: 0.1 s); text is read only of rows that lack a vector."""
    table = migration.table.name
    awaited = sql.SQL("{} IN (SELECT key FROM embedtui.queue WHERE migration = {})").format(
        key_sql(migration, table), sql.Literal(migration.id)
    )
    row = conn.execute(
        sql.SQL(
            "SELECT count(*), count(*) FILTER (WHERE no_new), count(*) FILTER (WHERE no_old),"
            " count(*) FILTER (WHERE awaited) FROM ("
            "SELECT {new} IS NULL AS no_new, {old} IS NULL AS no_old,"
            " CASE WHEN {old} IS NULL THEN {awaited} END AS awaited,"
            " CASE WHEN {new} IS NULL OR {old} IS NULL THEN {has_content} ELSE true END AS has_content"
            " FROM {sides} WHERE {scope}) AS counted WHERE has_content"
        ).format(
            new=vector_column(migration, Side.NEW),
            old=vector_column(migration, Side.OLD),
            awaited=awaited,
            has_content=has_content_sql(migration, table),
            sides=both_sides_sql(migration),
            scope=scope_sql(migration, table),
        )
    ).fetchone()
    assert row is not None
    return Census(*row)
