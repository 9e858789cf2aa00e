"""An old vector written as upkeep writes it, for who rolls it back: whether the database lets us."""

from __future__ import annotations

from psycopg import sql

from embedtui.arrays import np
from embedtui.model import Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import key_sql, relation
from embedtui.postgres.sides.layout import scope_sql
from embedtui.postgres.sides.protocol import Placement


def write_sample(conn: Connection, placement: Placement) -> bool:
    """Write another old vector to a row that has one, in the caller's transaction; False where there was none."""
    migration = placement.migration
    query = sql.SQL(
        "SELECT {key} FROM {table} t WHERE {in_scope} AND t.{old} IS NOT NULL LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED"
    ).format(
        key=key_sql(migration, "t"),
        table=relation(migration.table),
        in_scope=scope_sql(migration, "t"),
        old=sql.Identifier(migration.old_column),
    )
    found = conn.execute(query, prepare=False).fetchone()
    if found is None:
        return False
    rows = [each.row for each in placement.read_keys(conn, [tuple(found[0])])]
    size = migration.old_model.dimensions
    vectors = np.full((len(rows), size), size**-0.5, dtype=np.float32)
    if migration.old_vector_type == "halfvec":
        vectors = vectors.astype(np.float16)
    return bool(placement.replace(conn, rows, vectors, Side.OLD))
