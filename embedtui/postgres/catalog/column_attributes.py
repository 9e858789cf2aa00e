"""What a column has beside its name and type, taken over by the one that takes its place."""

from __future__ import annotations

from psycopg import sql

from embedtui.model import Migration, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement
from embedtui.postgres.names import relation

_COLUMN = """
SELECT a.attstorage::text, a.attstorage = t.typstorage, a.attcompression::text, coalesce(a.attstattarget, -1)::int,
       coalesce(a.attoptions, '{}'), pg_catalog.pg_get_expr(d.adbin, d.adrelid),
       pg_catalog.col_description(a.attrelid, a.attnum)
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
 WHERE a.attrelid = %s AND a.attname = %s AND NOT a.attisdropped
"""

_STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}
_COMPRESSION = {"p": "pglz", "l": "lz4"}


def storage_sql(conn: Connection, migration: Migration) -> list[Statement]:
    """How the new column stores its values, as the old one does; of effect on what is written from then on.

    PLAIN keeps a value in its page: one that is longer than the old ones may not fit there.
    """
    row = conn.execute(_COLUMN, [migration.table_oid, migration.old_column]).fetchone()
    if row is None:
        return []
    storage, usual, compression, *_ = row
    longer = migration.new_model.dimensions > migration.old_model.dimensions
    found: list[Statement] = []
    if not usual and not (storage == "p" and longer):
        found.append(_alter(migration, sql.SQL("SET STORAGE {}").format(sql.SQL(_STORAGE[storage]))))
    if compression in _COMPRESSION:
        found.append(_alter(migration, sql.SQL("SET COMPRESSION {}").format(sql.SQL(_COMPRESSION[compression]))))
    return found


def take_over_sql(conn: Connection, migration: Migration) -> list[Statement]:
    """Storage, statistics target and options, default and comment of the old column, for the new one."""
    row = conn.execute(_COLUMN, [migration.table_oid, migration.old_column]).fetchone()
    if row is None:
        return []
    *_, target, options, default, comment = row
    found = storage_sql(conn, migration)
    if target != -1:
        found.append(_alter(migration, sql.SQL("SET STATISTICS {}").format(sql.Literal(target))))
    for option in options:
        name, _, value = option.partition("=")
        setting = sql.SQL("SET ({} = {})").format(sql.Identifier(name), sql.Literal(value))
        found.append(_alter(migration, setting))
    if default is not None and fits(migration):
        found.append(_alter(migration, sql.SQL("SET DEFAULT {}").format(sql.SQL(default))))
    if comment is not None:
        column = sql.Identifier(migration.table.schema, migration.table.name, migration.new_column)
        found.append(sql.SQL("COMMENT ON COLUMN {} IS {}").format(column, sql.Literal(comment)))
    return found


def fits(migration: Migration) -> bool:
    """Whether a value of the old column, such as its default, is one of the new one."""
    same = migration.old_model.dimensions == migration.new_model.dimensions
    return same and migration.old_vector_type == migration.vector_type


def default_of(conn: Connection, migration: Migration) -> str | None:
    """The old column's default as SQL; None where it has none."""
    row = conn.execute(_COLUMN, [migration.table_oid, migration.old_column]).fetchone()
    return None if row is None else row[5]


def index_comment_sql(conn: Connection, old: TableName, new: TableName) -> list[Statement]:
    """The old index's comment on the new one; empty where it has none."""
    row = conn.execute(
        "SELECT pg_catalog.obj_description(to_regclass(%s)::oid, 'pg_class')", [relation(old).as_string(conn)]
    ).fetchone()
    if row is None or row[0] is None:
        return []
    return [sql.SQL("COMMENT ON INDEX {} IS {}").format(relation(new), sql.Literal(row[0]))]


def _alter(migration: Migration, what: sql.Composable) -> sql.Composed:
    column = sql.Identifier(migration.new_column)
    return sql.SQL("ALTER TABLE {} ALTER COLUMN {} {}").format(relation(migration.table), column, what)
