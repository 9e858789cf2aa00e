"""New vectors of rows whose content is known: what a bridge makes old vectors of."""

from __future__ import annotations

import json
from collections.abc import Sequence

from psycopg import sql

from embedtui.arrays import np
from embedtui.model import Migration, PlacementKind, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import key_join_sql, key_sql, relation
from embedtui.postgres.sides.both import vector_number
from embedtui.postgres.sides.layout import new_side, scope_sql
from embedtui.postgres.sides.protocol import SourceRow, Vectors
from embedtui.postgres.sides.shared import digest_sql
from embedtui.postgres.values import same_key_sql

_FIND = """
SELECT b.number, {send}({embedding})
FROM (SELECT e.number::integer - 1 AS number, (e.value ->> 1)::bigint AS source, e.value ->> 2 AS digest,
             ARRAY(SELECT pg_catalog.jsonb_array_elements_text(e.value -> 0)) AS key
      FROM pg_catalog.jsonb_array_elements({rows}::jsonb) WITH ORDINALITY e (value, number)) b
JOIN {table} t ON {key_join} AND {in_scope}{join}
WHERE {embedding} IS NOT NULL
  AND CASE WHEN {source} IS NULL THEN {digest} = b.digest AND NOT EXISTS (
               SELECT FROM embedtui.fault f WHERE f.migration = {migration} AND f.side = 'new' AND f.key = {key})
           ELSE {source} = b.source AND {model_column} = {model} END
"""


def new_vectors(conn: Connection, migration: Migration, rows: Sequence[SourceRow]) -> tuple[list[SourceRow], Vectors]:
    """Those of rows read by ``read_keys`` whose new vector is of the content read there, and these vectors.

    One without a stamp has to have the row's ``new_digest``, and the row no fault.
    """
    side, row, join = new_side(migration), "t", sql.SQL("").format()
    if migration.placement is PlacementKind.TABLE:
        row, join = "s", sql.SQL(" JOIN {} s ON {}").format(relation(side.table), same_key_sql(migration, "s", "t"))
    embedding = sql.Identifier(row, side.embedding)
    query = sql.SQL(_FIND).format(
        send=sql.Identifier(migration.vector_schema, f"{migration.vector_type}_send"),
        embedding=embedding,
        rows=sql.Literal(json.dumps([[list(each.key), str(each.source), each.new_digest] for each in rows])),
        table=relation(migration.table),
        key_join=key_join_sql(migration, "t", sql.SQL("b.key")),
        in_scope=scope_sql(migration, "t"),
        join=join,
        source=sql.Identifier(row, side.source),
        digest=digest_sql(migration, embedding, migration.vector_type),
        migration=sql.Literal(migration.id),
        key=key_sql(migration, "t"),
        model_column=sql.Identifier(row, side.model),
        model=sql.Literal(migration.new_model.id),
    )
    number = vector_number(migration, Side.NEW)
    found = [
        (rows[place], np.frombuffer(raw, number, offset=4).astype(np.float32))
        for place, raw in conn.execute(query, binary=True)
    ]
    vectors = [vector for _, vector in found]
    empty = np.empty((0, migration.new_model.dimensions), np.float32)
    return [each for each, _ in found], np.stack(vectors) if vectors else empty
