"""The approximate indexes that are there, of a table and of its partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embedtui.model import IndexMethod, Migration, Phase, Side, TableName
from embedtui.postgres.catalog.vectors import SEARCH_TYPE, SERVING
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import new_side, vectors_at

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

_INDEXES = f"""
SELECT x.indrelid::int8, x.indexrelid::int8, n.nspname, i.relname, x.indisvalid, m.amname, x.opcname, x.operator,
       x.cast_to, NOT x.whole, coalesce(i.reloptions, '{{}}'), i.relispartition
FROM ({SERVING} WHERE x.indrelid = ANY (%s::int8[]::oid[])) x
JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
JOIN pg_catalog.pg_am m ON m.oid = i.relam
WHERE x.column_name = %s AND x.operator IS NOT NULL AND x.cast_to IS NOT NULL
ORDER BY x.whole DESC, x.indisvalid DESC, x.cast_to, x.indexrelid
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
    """``hnsw``, ``ivfflat``, or another extension's: ``diskann``, ``vchordrq``."""
    opclass: str
    operator: str
    """That it orders by: ``<=>``, ``<->`` or ``<#>``."""
    cast_to: str
    """The type that it casts the column to, ``vector`` or ``halfvec``; empty where it is on the column itself."""
    partial: bool
    """It is of some rows only."""
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
    """Approximate indexes on a column by relation: whole ones first, of these valid ones.

    No relation is opened, so nothing can wait.
    """
    found: dict[int, list[ExistingIndex]] = {oid: [] for oid in oids}
    for table, *index, options, attached in conn.execute(_INDEXES, (list(oids), column)).fetchall():
        pairs = tuple((key, value) for key, _, value in (option.partition("=") for option in options))
        found[table].append(ExistingIndex(*(*index, pairs, attached)))
    return found


def search_type(conn: Connection, migration: Migration, side: Side) -> str:
    """What a search of a side has to cast its vectors to, ``vector`` or ``halfvec``, so that its index serves.

    Empty where the index is on the column itself, or there is none.
    """
    table, column = vectors_at(migration, side)
    row = conn.execute(
        f"SELECT ({SEARCH_TYPE}) FROM (SELECT to_regclass(%s)::oid, %s::name, %s::text)"
        " AS served (of_table, of_column, of_operator)",
        (regclass_name(conn, table), column, migration.distance.operator),
    ).fetchone()
    return row[0] or "" if row is not None else ""


def new_indexes(conn: Connection, migration: Migration) -> list[ExistingIndex]:
    """The new side's approximate indexes, whole ones first: of the table, and partial ones of partitions."""
    side = new_side(migration)
    tree = tree_of(conn, side.table)
    return ours(tree, indexes_of(conn, [part.oid for part in tree], side.embedding))


def ours(tree: Sequence[Part], found: Mapping[int, Sequence[ExistingIndex]]) -> list[ExistingIndex]:
    """As :func:`new_indexes`, of those that were found."""
    return [
        index
        for part in tree
        for index in found[part.oid]
        if index.method in list(IndexMethod) and not index.attached and (index.partial or not part.parent)
    ]


def serving_indexes(conn: Connection, migration: Migration) -> list[ExistingIndex]:
    """Valid indexes of the old side that order by the migration's distance: of the table first, then of partitions."""
    oids = oids_of(conn, migration.table)
    by_relation = indexes_of(conn, oids, migration.old_column)
    every = [index for oid in oids for index in by_relation[oid]]
    return [
        index for index in every if index.valid and not index.partial and index.operator == migration.distance.operator
    ]


def known_old_indexes(conn: Connection, migration: Migration) -> list[tuple[int, str, bool]]:
    """The valid indexes by which the old side is searched now, as :class:`KnownIndex` has them."""
    found = indexes_of(conn, oids_of(conn, migration.table), migration.old_column)
    operator = migration.distance.operator
    return [
        (oid, index.name, index.partial)
        for oid, indexes in found.items()
        for index in indexes
        if index.valid and index.operator == operator and not index.attached
    ]


def lost_old_index(conn: Connection, migration: Migration) -> str:
    """Which index the old side's searches go without since the migration began; empty where none does.

    One look-up while all is well. One under another name, or a whole one for partial ones, is as good.
    """
    known = migration.run_state.old_indexes
    going = migration.phase.ended or migration.phase is Phase.CLEANUP or migration.run_state.gone is Side.OLD
    if not known or going:
        return ""
    found = indexes_of(conn, sorted({each.relation for each in known}), migration.old_column)
    for each in known:
        serving = [one for one in found[each.relation] if one.valid and one.operator == migration.distance.operator]
        alike = sum(other.partial and other.relation == each.relation for other in known)
        if any(not one.partial for one in serving) or (each.partial and len(serving) >= alike):
            continue
        names = {one.name: one.valid for one in found[each.relation]}
        if names.get(each.name):
            continue
        if conn.execute("SELECT FROM pg_catalog.pg_class WHERE oid = %s", (each.relation,)).fetchone() is not None:
            return f"index {each.name} is {'invalid' if each.name in names else 'gone'}"
    return ""


@dataclass(frozen=True, slots=True)
class ApproximateIndex:
    """The approximate index on a side's vectors."""

    oid: int
    name: str
    method: str
    valid: bool
    lists: int | None
    """Of ivfflat."""
    identity: str
    """Changes when it is dropped, built again or becomes invalid."""


_IDENTITY = """
SELECT pg_catalog.string_agg(c.oid::text || ':' || i.indisvalid::int || ':' || coalesce(
           pg_catalog.pg_relation_filenode(c.oid)::text,
           (SELECT pg_catalog.string_agg(pg_catalog.pg_relation_filenode(p.relid)::text, ',' ORDER BY p.relid)
            FROM pg_catalog.pg_partition_tree(c.oid) p), ''), ' ' ORDER BY c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid WHERE c.oid = ANY (%s::int8[]::oid[])
"""


def approximate_index(conn: Connection, migration: Migration, side: Side) -> ApproximateIndex | None:
    """A side's approximate index: a valid one before an invalid one, then the newest.

    The old side's is one that serves its searches, if only of partitions. Of several partial ones of the new side it
    is one that is not valid, if there is any.
    """
    every = serving_indexes(conn, migration)[:1] if side is Side.OLD else new_indexes(conn, migration)
    partial = [each for each in every if each.partial]
    index = max((each for each in every if not each.partial), key=lambda each: (each.valid, each.oid), default=None)
    # of partial ones each is needed: one that is not valid tells
    index = index or min(partial, key=lambda each: (each.valid, each.oid), default=None)
    if index is None:
        return None
    oids = {index.oid, *(each.oid for each in partial)}
    row = conn.execute(_IDENTITY, [list(oids)]).fetchone()
    if row is None or row[0] is None:
        return None
    lists = dict(index.options).get("lists")
    return ApproximateIndex(index.oid, index.name, index.method, index.valid, int(lists) if lists else None, row[0])
