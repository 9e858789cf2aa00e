"""Names and types of the new side, and what of a source row is embedded: its content and its fingerprint."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from embedtui.model import Migration, PlacementKind, Side, TableName
from embedtui.postgres.expressions import row_sql
from embedtui.postgres.values import content_types, text_sql

BYTES = sql.SQL('pg_catalog."C"')
"""The collation under which texts are equal where their bytes are."""


@dataclass(frozen=True, slots=True)
class NewSide:
    """Where the new side's vectors are found."""

    table: TableName
    embedding: str
    model: str
    source: str


def new_side(migration: Migration) -> NewSide:
    """Names of the new side's table and columns."""
    if migration.placement is PlacementKind.COLUMN:
        column = migration.new_column
        return NewSide(migration.table, column, f"{column}_model", f"{column}_source")
    return NewSide(migration.new_table, migration.new_column, "model", "source")


def vectors_at(migration: Migration, side: Side) -> tuple[TableName, str]:
    """Table and column of a side's vectors."""
    if side is Side.OLD:
        return migration.table, migration.old_column
    found = new_side(migration)
    return found.table, found.embedding


def vector_kind(migration: Migration, side: Side) -> str:
    """``vector`` or ``halfvec``."""
    return migration.old_vector_type if side is Side.OLD else migration.vector_type


def follows_by_foreign_key(migration: Migration) -> bool:
    """Whether deletes and key changes reach the side table by a foreign key (else by triggers)."""
    return migration.placement is PlacementKind.TABLE and migration.stored.foreign_key


def vector_sql_type(migration: Migration) -> sql.Composed:
    """Type of the new side with its dimensions, qualified by pgvector's schema."""
    return sql.SQL("{}({})").format(
        sql.Identifier(migration.vector_schema, migration.vector_type), sql.Literal(migration.new_model.dimensions)
    )


def fingerprint_sql(migration: Migration, alias: str) -> sql.Composed:
    """Fingerprint (bigint) of the content of the row called ``alias``: method 1, over the columns' text forms.

    Of their bytes: a nondeterministic collation gives texts that it takes for equal the same hash.
    """
    if migration.content is not None:
        text = sql.SQL("({})::pg_catalog.text COLLATE {}").format(content_sql(migration, alias), BYTES)
        return sql.SQL("pg_catalog.hash_record_extended(ROW({}), 0)").format(text)
    columns = sql.SQL(", ").join(
        sql.SQL("{} COLLATE {}").format(text_sql(sql.Identifier(alias, name), kind), BYTES)
        for name, kind in content_types(migration).items()
    )
    return sql.SQL("pg_catalog.hash_record_extended(ROW({}), 0)").format(columns)


def content_sql(migration: Migration, alias: str) -> sql.Composed:
    """The text to embed: that of the expression, or content columns one under the other, NULLs left out."""
    if migration.content is not None:
        return sql.SQL("({})::pg_catalog.text").format(row_sql(migration.content, sql.Identifier(alias)))
    columns = sql.SQL(", ").join(
        text_sql(sql.Identifier(alias, name), kind) for name, kind in content_types(migration).items()
    )
    return sql.SQL("pg_catalog.concat_ws(E'\\n', {})").format(columns)


def has_content_sql(migration: Migration, alias: str) -> sql.Composed:
    """True where there is something to embed: any character that is not white space. False, too, where it is NULL."""
    # the database's own collation: a column's may know no regular expressions, and several make none
    return sql.SQL("(({} COLLATE pg_catalog.\"default\" OPERATOR(pg_catalog.~) '\\S') IS TRUE)").format(
        content_sql(migration, alias)
    )


def scope_sql(migration: Migration, *row: str) -> sql.Composed:
    """True for rows that are migrated; of the row called ``row``: an alias, or schema and table."""
    if migration.scope is None:
        return sql.SQL("TRUE").format()
    return sql.SQL("({})").format(row_sql(migration.scope, sql.Identifier(*row)))
