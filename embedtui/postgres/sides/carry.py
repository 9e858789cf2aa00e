"""Vectors of a table that was pushed aside, carried to the one that has its name now: by key and fingerprint."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import sql

from embedtui.model import Migration, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import blocks_sql, relation
from embedtui.postgres.sides.layout import fingerprint_sql, new_side, scope_sql
from embedtui.postgres.sides.own_writes import own_write
from embedtui.postgres.state.shards import page_ranges
from embedtui.postgres.values import same_key_sql

BLOCKS = 256
"""Pages of the new table that one transaction looks at."""

_CARRY = """
WITH found AS MATERIALIZED (
    SELECT t.ctid AS tid, embedtui_former.{embedding} AS embedding, embedtui_former.{source} AS source
      FROM {leaf} t JOIN {former} embedtui_former ON {same_key}
     WHERE {in_blocks} AND {in_scope} AND t.{embedding} IS NULL
       AND embedtui_former.{embedding} IS NOT NULL AND embedtui_former.{model} = {number}
       AND embedtui_former.{source} = {fingerprint}
       FOR NO KEY UPDATE OF t SKIP LOCKED)
UPDATE {leaf} t SET {embedding} = l.embedding, {model} = {number}, {source} = l.source
  FROM found l WHERE t.ctid = l.tid
"""


def carry(conn: Connection, migration: Migration, former: TableName) -> Iterator[int]:
    """Give rows of the migration's table the new vectors that rows of ``former`` have for the same key and content.

    Placement ``column``. A row that has a vector keeps it. Yields how many after each short transaction.
    """
    side = new_side(migration)
    for leaf, first, last in page_ranges(conn, migration.table_oid, BLOCKS):
        statement = sql.SQL(_CARRY).format(
            leaf=relation(leaf),
            former=relation(former),
            same_key=same_key_sql(migration, "embedtui_former", "t"),
            embedding=sql.Identifier(side.embedding),
            model=sql.Identifier(side.model),
            source=sql.Identifier(side.source),
            number=sql.Literal(migration.new_model.id),
            in_scope=scope_sql(migration, "t"),
            fingerprint=fingerprint_sql(migration, "t"),
            in_blocks=blocks_sql("t", first, last),
        )
        with conn.transaction():
            with own_write(conn, migration):
                count = conn.execute(statement, prepare=False).rowcount
            yield count
