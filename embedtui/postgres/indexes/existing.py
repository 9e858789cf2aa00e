"""The approximate indexes that are there, of a table and of its partitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedtui.model import Migration, Side, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import new_side

_TREE = """
WITH RECURSIVE tree AS (
    SELECT oid, 0::oid AS parent, relkind, relname, relnamespace, 0 AS level
    FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)
    UNION ALL
    SELECT c.oid, tree.oid, c.relkind, c.relname, c.relnamespace, tree.level + 1
    FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE tree.relkind = 'p'
)
SELECT tree.oid::int8, tree.parent::int8, n.nspname, tree.relname, tree.relkind <> 'p' AS leaf
FROM tree JOIN pg_catalog.pg_namespace n ON n.oid = tree.relnamespace ORDER BY level, relname
"""

_INDEXES = """
SELECT x.indrelid::int8, x.indexrelid::int8, n.nspname, i.relname, x.indisvalid, m.amname, o.opcname,
       coalesce(i.reloptions, '{}'), i.relispartition
FROM pg_catalog.pg_index x
JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
JOIN pg_catalog.pg_am m ON m.oid = i.relam
JOIN pg_catalog.pg_opclass o ON o.oid = x.indclass[0]
JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
WHERE x.indrelid = ANY (%s::int8[]::oid[]) AND a.attname = %s AND m.amname IN ('hnsw', 'ivfflat')
  AND x.indpred IS NULL AND NOT a.attisdropped
ORDER BY x.indisvalid DESC, x.indexrelid
"""


@dataclass(frozen=True, slots=True)
class Part:
    """A table, or a partition at any depth."""

    oid: int
    parent: int
    """0 for the table itself."""
    table: TableName
    leaf: bool


@dataclass(frozen=True, slots=True)
class ExistingIndex:
    """An approximate index as it is in the catalog."""

    oid: int
    schema: str
    name: str
    valid: bool
    method: str
    opclass: str
    options: tuple[tuple[str, str], ...]
    attached: bool
    """It is part of a partitioned table's index."""


def regclass_name(conn: Connection, table: TableName) -> str:
    """The name as ``to_regclass`` reads it."""
    return relation(table).as_string(conn)


def tree_of(conn: Connection, table: TableName) -> list[Part]:
    """A table and its partitions, parents first; empty where there is no such table."""
    rows = conn.execute(_TREE, (regclass_name(conn, table),)).fetchall()
    return [Part(oid, parent, TableName(schema, name), leaf) for oid, parent, schema, name, leaf in rows]


def oids_of(conn: Connection, table: TableName) -> list[int]:
    """Oids of a table and its partitions."""
    return [part.oid for part in tree_of(conn, table)]


def indexes_of(conn: Connection, oids: Sequence[int], column: str) -> dict[int, list[ExistingIndex]]:
    """Approximate indexes on a column by relation, valid ones first; no relation is opened, so nothing can wait."""
    found: dict[int, list[ExistingIndex]] = {oid: [] for oid in oids}
    for table, oid, schema, name, valid, method, opclass, options, attached in conn.execute(
        _INDEXES, (list(oids), column)
    ).fetchall():
        pairs = tuple((key, value) for key, _, value in (option.partition("=") for option in options))
        found[table].append(ExistingIndex(oid, schema, name, valid, method, opclass, pairs, attached))
    return found


def _on_table(conn: Connection, table: TableName, column: str) -> list[ExistingIndex]:
    tree = tree_of(conn, table)
    return indexes_of(conn, [tree[0].oid], column)[tree[0].oid] if tree else []


def old_indexes(conn: Connection, migration: Migration) -> list[ExistingIndex]:
    """The old side's approximate indexes."""
    return _on_table(conn, migration.table, migration.old_column)


def new_indexes(conn: Connection, migration: Migration) -> list[ExistingIndex]:
    """The new side's approximate indexes."""
    side = new_side(migration)
    return _on_table(conn, side.table, side.embedding)


def partition_indexes(conn: Connection, table: TableName, column: str) -> dict[int, TableName]:
    """The first approximate index on a column, of the table and of each partition, by the relation's oid."""
    found = indexes_of(conn, oids_of(conn, table), column)
    return {oid: TableName(indexes[0].schema, indexes[0].name) for oid, indexes in found.items() if indexes}


@dataclass(frozen=True, slots=True)
class ApproximateIndex:
    """An hnsw or ivfflat index on a side's vectors."""

    oid: int
    name: str
    method: str
    valid: bool
    lists: int | None
    """Of ivfflat."""
    identity: str
    """Changes when it is dropped, built again or becomes invalid."""


def approximate_index(conn: Connection, migration: Migration, side: Side) -> ApproximateIndex | None:
    """The approximate index on a side's vector column; a valid one before an invalid one, then the newest."""
    found = new_side(migration)
    table, column = (migration.table, migration.old_column) if side is Side.OLD else (found.table, found.embedding)
    row = conn.execute(
        """
        SELECT c.oid::bigint, c.relname, am.amname, i.indisvalid,
               (SELECT option_value::int FROM pg_catalog.pg_options_to_table(c.reloptions)
                WHERE option_name = 'lists'),
               c.oid::text || ':' || i.indisvalid::int || ':' || coalesce(
                   pg_catalog.pg_relation_filenode(c.oid)::text,
                   (SELECT pg_catalog.string_agg(pg_catalog.pg_relation_filenode(p.relid)::text, ',' ORDER BY p.relid)
                    FROM pg_catalog.pg_partition_tree(c.oid) p), '')
        FROM pg_catalog.pg_class t JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
        JOIN pg_catalog.pg_index i ON i.indrelid = t.oid JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        JOIN pg_catalog.pg_am am ON am.oid = c.relam
        JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
        WHERE n.nspname = %s AND t.relname = %s AND a.attname = %s AND am.amname IN ('hnsw', 'ivfflat')
        ORDER BY i.indisvalid DESC, c.oid DESC LIMIT 1
        """,
        [table.schema, table.name, column],
    ).fetchone()
    return ApproximateIndex(*row) if row is not None else None
