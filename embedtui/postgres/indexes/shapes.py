"""The shape of the old side's indexes, which the new side's take over: of all rows, or one for each tenant's rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from embedtui.model import Migration, PlacementKind, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.expressions import excluded
from embedtui.postgres.indexes.existing import ExistingIndex, indexes_of, tree_of
from embedtui.postgres.names import relation, shown_column
from embedtui.postgres.sides.layout import new_side, scope_sql

_PARTIAL = r"""
SELECT x.indexrelid::int8, pg_catalog.pg_get_expr(x.indpred, x.indrelid), nullif(c.reltuples, -1)::int8,
       ARRAY(SELECT a.attname::text FROM pg_catalog.regexp_matches(x.indpred::text, ':varattno (\d+)', 'g') AS m
             JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = m[1]::int2)
FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class c ON c.oid = x.indexrelid
WHERE x.indexrelid = ANY (%s::int8[]::oid[]) AND x.indpred IS NOT NULL
"""

_EQUALS = re.compile(r"""\((\w+|"(?:[^"]|"")+") = (?:'(?:[^']|'')*'|-?[\d.]+|\(-[\d.]+\))(?:::[\w. ]+)?\)""")


@dataclass(frozen=True, slots=True)
class Shape:
    """An index that the new side is to have: on a relation, and on the partitions below it."""

    relation: int
    """Oid; of the user's table and its partitions, but where the new side is a side table."""
    name: str
    """Of the old index that it follows; empty where none tells."""
    cast_to: str
    """The type that the old index casts the column to; empty where it is on the column itself."""
    predicate: str = ""
    """Of the rows that it is of, as PostgreSQL writes it; empty: all."""
    rows: int | None = None
    """Entries of the old index, by the planner's count; of partial ones, where known."""


@dataclass(frozen=True, slots=True)
class Unmade:
    """An old index whose shape the new side cannot have."""

    name: str
    predicate: str
    why: str


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the new side's indexes are to be."""

    made: tuple[Shape, ...]
    unmade: tuple[Unmade, ...] = ()
    """What is left to an index of all rows instead."""

    @property
    def partial(self) -> tuple[Shape, ...]:
        """Those of some rows."""
        return tuple(shape for shape in self.made if shape.predicate)


@dataclass(frozen=True, slots=True)
class _Partial:
    predicate: str
    rows: int | None
    columns: tuple[str, ...]
    """That the predicate reads, each as often as it does."""


def shapes_of(conn: Connection, migration: Migration) -> Shapes:
    """What the new side's indexes are to be, by the old side's as they are now.

    One of all rows where the old side has such a one, or none that is of use; and the partial ones that order by the
    migration's distance, but for those whose rows are all of the scope's (an index of the whole new column has the same
    entries then) or none of them.
    """
    tree = tree_of(conn, migration.table)
    by_relation = indexes_of(conn, [part.oid for part in tree], migration.old_column)
    old = {
        part.oid: [
            each for each in by_relation[part.oid] if each.operator == migration.distance.operator and each.valid
        ]
        for part in tree
    }
    found = _partial_of(conn, [each.oid for indexes in old.values() for each in indexes if each.partial])
    whole = any(not index.partial for indexes in old.values() for index in indexes)
    root = tree[0].oid if tree and new_side(migration).table == migration.table else 0
    first = next((index for part in tree[:1] for index in by_relation[part.oid] if not index.partial), None)
    all_rows = Shape(root, first.name if first is not None else "", "")
    made: list[Shape] = []
    unmade: list[Unmade] = []
    for part in tree:
        for index in old[part.oid]:
            if index.attached or index.oid not in found:
                continue
            shape = _shape(conn, migration, part.oid, index, found[index.oid])
            if isinstance(shape, Unmade):
                unmade.append(shape)
            elif shape is not None and not shape.predicate:
                whole, all_rows = True, replace(all_rows, name=all_rows.name or shape.name)
            elif shape is not None and not any(_same(shape, each) for each in made):
                made.append(shape)
    if whole or unmade or not made:
        made.insert(0, all_rows)
    return Shapes(tuple(made), tuple(unmade))


def _same(one: Shape, other: Shape) -> bool:
    return (one.relation, one.predicate) == (other.relation, other.predicate)


def _shape(
    conn: Connection, migration: Migration, oid: int, index: ExistingIndex, found: _Partial
) -> Shape | Unmade | None:
    """The new index for a partial one, of all rows where that is as good; None where none is needed."""
    column, name = migration.old_column, shown_column(index.name)
    parts = conjuncts(found.predicate)
    rest = _of_the_row(migration, parts)
    if found.columns.count(column) > len(parts) - len(rest):
        return Unmade(name, found.predicate, f"its condition is on {shown_column(column)} itself")
    predicate = _joined(rest)
    if migration.scope is not None:
        table, condition = relation(migration.table), sql.SQL(predicate)
        scope = scope_sql(migration, migration.table.schema, migration.table.name)
        if excluded(conn, table, scope, condition):
            return None
        if excluded(conn, table, scope, sql.SQL("NOT ({})").format(condition)):
            return Shape(oid, index.name, index.cast_to)
    if migration.placement is PlacementKind.TABLE:
        keys = {text for key in migration.key_columns for text in _written(key)}
        matches = [_EQUALS.fullmatch(part) for part in rest]
        if not all(match is not None and match[1] in keys for match in matches):
            return Unmade(name, found.predicate, "a side table has no column but the key, which a search joins by =")
        oid = 0
    return Shape(oid, index.name, index.cast_to, predicate, found.rows)


def _written(column: str) -> tuple[str, str]:
    """The two ways in which PostgreSQL may write a column's name."""
    return shown_column(column), sql.Identifier(column).as_string(None)


def _of_the_row(migration: Migration, parts: Sequence[str]) -> list[str]:
    """Parts of a predicate but that a vector is not NULL: an index holds no NULLs."""
    columns = migration.old_column, new_side(migration).embedding
    filled = [f"({name} IS NOT NULL)" for column in columns for name in _written(column)]
    return [part for part in parts if part not in filled]


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"({' AND '.join(parts)})"


def _partial_of(conn: Connection, oids: Sequence[int]) -> dict[int, _Partial]:
    """Of partial indexes; reading a predicate waits for DDL on its table."""
    if not oids:
        return {}
    return {oid: _Partial(text, rows, tuple(columns)) for oid, text, rows, columns in conn.execute(_PARTIAL, (oids,))}


def predicates_of(conn: Connection, migration: Migration, indexes: Iterable[ExistingIndex]) -> dict[int, str]:
    """The predicate of each index that is of some rows only, by its oid; without that the vector is not NULL."""
    found = _partial_of(conn, [index.oid for index in indexes if index.partial])
    return {oid: _joined(_of_the_row(migration, conjuncts(each.predicate))) for oid, each in found.items()}


def conjuncts(predicate: str) -> list[str]:
    """The parts of a predicate that AND joins, as PostgreSQL writes it."""
    if not predicate.startswith("(("):
        return [predicate]
    parts: list[str] = []
    begin = 1
    for depth, position, closes in _brackets(predicate):
        if closes and depth == 1:
            parts.append(predicate[begin : position + 1])
            joint = predicate[position + 1 :]
            if joint == ")":
                return parts
            if not joint.startswith(" AND ("):
                break
            begin = position + len(" AND (")
    return [predicate]


def _brackets(text: str) -> Iterator[tuple[int, int, bool]]:
    """(depth outside of it, position, whether it closes) of each bracket that stands in no string and no name."""
    depth, quote = 0, ""
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "(":
            yield depth, position, False
            depth += 1
        elif character == ")":
            depth -= 1
            yield depth, position, True


def pairs_of(conn: Connection, migration: Migration) -> list[tuple[TableName, TableName]]:
    """(new index, old index) of the same shape, of the table and of its partitions; for placement ``column``."""
    tree = tree_of(conn, migration.table)
    oids = [part.oid for part in tree]
    old = indexes_of(conn, oids, migration.old_column)
    new = indexes_of(conn, oids, new_side(migration).embedding)
    every = [index for found in (*old.values(), *new.values()) for index in found]
    texts = predicates_of(conn, migration, every)
    pairs = []
    for oid in oids:
        left = list(old[oid])
        for index in new[oid]:
            same = [each for each in left if texts.get(each.oid, "") == texts.get(index.oid, "")]
            same.sort(key=lambda each: (not each.valid, each.operator != index.operator))
            if same:
                left.remove(same[0])
                pairs.append((TableName(index.schema, index.name), TableName(same[0].schema, same[0].name)))
    return pairs
