"""The statements that make the new side's index; a partitioned table's is made leaf by leaf and attached."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg import sql

from embedtui.config import IndexSettings
from embedtui.errors import Refused
from embedtui.model import IndexMethod, Migration, Side, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement
from embedtui.postgres.indexes.existing import (
    ExistingIndex,
    Part,
    indexes_of,
    oids_of,
    regclass_name,
    search_type,
    tree_of,
)
from embedtui.postgres.indexes.options import MAX_DIMENSIONS, ivfflat_lists
from embedtui.postgres.indexes.shapes import Shape, predicates_of, shapes_of
from embedtui.postgres.names import fitted, relation
from embedtui.postgres.sides.layout import new_side

_DEFAULTS = {IndexMethod.HNSW: {"m": "16", "ef_construction": "64"}, IndexMethod.IVFFLAT: {"lists": "100"}}


@dataclass(frozen=True, slots=True)
class Target:
    """One relation of the new side's tree that is to have the index."""

    oid: int
    table: TableName
    leaf: bool
    name: str
    parent_index: TableName | None
    shape: Shape

    @property
    def index(self) -> TableName:
        """The index's qualified name: an index lives in its table's schema."""
        return TableName(self.table.schema, self.name)


def _others(conn: Connection, index: TableName, table: TableName) -> bool:
    """Whether an index of another table has this name."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_index WHERE indexrelid = to_regclass(%s)"
        " AND indrelid IS DISTINCT FROM to_regclass(%s))",
        (regclass_name(conn, index), regclass_name(conn, table)),
    ).fetchone()
    return row == (True,)


def _version_after(name: str, taken: Callable[[str], bool]) -> str:
    """``X_v2`` for an index called X, ``X_v3`` for ``X_v2``; the next version that is no other index's name."""
    stem, _, number = name.rpartition("_v")
    stem, version = (stem, int(number) + 1) if stem and number.isdecimal() else (name, 2)
    while taken(fitted(f"{stem}_v{version}")):
        version += 1
    return fitted(f"{stem}_v{version}")


def _free(name: str, taken: Callable[[str], bool]) -> str:
    found = fitted(name)
    for number in itertools.count(1):
        if not taken(found):
            break
        found = fitted(f"{name}{number}")
    return found


def missing(conn: Connection, migration: Migration) -> list[Target]:
    """What :func:`targets_of` says and no valid index is there for."""
    targets = targets_of(conn, migration)
    found = indexes_of(conn, [target.oid for target in targets], new_side(migration).embedding)
    return [t for t in targets if not any(index.valid and index.name == t.name for index in found[t.oid])]


def _names_beside(conn: Connection, oids: Sequence[int], ours: Sequence[ExistingIndex]) -> list[str]:
    """Names of these relations' approximate indexes on other columns: the old one, another migration's."""
    rows = conn.execute(
        "SELECT i.relname FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid"
        " JOIN pg_catalog.pg_opclass o ON o.oid = x.indclass[0]"
        " WHERE x.indrelid = ANY (%s::int8[]::oid[]) AND i.oid <> ALL (%s::int8[]::oid[])"
        " AND EXISTS (SELECT FROM pg_catalog.pg_amop s WHERE s.amopfamily = o.opcfamily AND s.amoppurpose = 'o')",
        (list(oids), [index.oid for index in ours]),
    )
    return [name for (name,) in rows]


def create_sql(conn: Connection, migration: Migration, options: IndexSettings) -> tuple[Statement, ...]:
    """The statements that make the index, in order; a partitioned table's is made leaf by leaf and attached.

    Empty for method ``none``.

    Raises:
        Refused: more dimensions than the type's indexes take.
    """
    if options.method is IndexMethod.NONE:
        return ()
    statements: list[Statement] = []
    for target in targets_of(conn, migration):
        statements.append(create_statement(conn, migration, options, target))
        if target.parent_index is not None:
            statements.append(attach_statement(target))
    return tuple(statements)


def targets_of(conn: Connection, migration: Migration) -> list[Target]:
    """Every relation that needs an index; one that is there lends its name, so that a rerun finds its own."""
    side = new_side(migration)
    # a side table that is still to come is shown by the plan
    tree = tree_of(conn, side.table) or [Part(0, 0, side.table, True)]
    existing = indexes_of(conn, [part.oid for part in tree], side.embedding)
    every = [index for found in existing.values() for index in found]
    predicates = predicates_of(conn, migration, every)
    # the old index may be called as the side table is, without the suffix
    taken = {side.table.name, *_names_beside(conn, [*oids_of(conn, migration.table), *existing], every)}

    def is_taken(name: str) -> bool:
        """Also by another table's index: such as that of a side table that is folded."""
        return name in taken or _others(conn, TableName(side.table.schema, name), side.table)

    targets: list[Target] = []
    for shape in shapes_of(conn, migration).made:
        of_shape: dict[int, Target] = {}
        for part in tree:
            begins = part.oid == shape.relation or (not shape.relation and not part.parent)
            above = None if begins else of_shape.get(part.parent)
            if not begins and above is None:
                continue
            if not begins:
                wanted = fitted(f"{part.table.name}_{side.embedding}_idx")
                if shape.predicate:
                    wanted = _free(f"{part.table.name}_{of_shape[next(iter(of_shape))].name}", taken.__contains__)
            elif shape.name:
                wanted = _version_after(shape.name, is_taken)
            else:
                wanted = _free(f"{side.table.name}_{side.embedding}_idx", is_taken)
            present = [
                index.name
                for index in existing[part.oid]
                if index.method in list(IndexMethod) and predicates.get(index.oid, "") == shape.predicate
            ]
            name = wanted if not present or wanted in present else present[0]
            above_index = above.index if above is not None else None
            of_shape[part.oid] = Target(part.oid, part.table, part.leaf, name, above_index, shape)
            taken.add(name)
        targets += of_shape.values()
    return targets


def index_type(conn: Connection, migration: Migration, shape: Shape) -> str:
    """The type that a new index is on: the column's, or another as a cast of it.

    A cast where the old side's index is on one, so that the application's statement is served by the new one, too; and
    where the index takes fewer than the column's dimensions.
    """
    cast = shape.cast_to if shape.predicate else search_type(conn, migration, Side.OLD)
    kind = cast if cast not in ("", migration.old_vector_type) else migration.vector_type
    return kind if migration.new_model.dimensions <= MAX_DIMENSIONS[kind] else "halfvec"


def _opclass(migration: Migration, kind: str) -> str:
    return f"{kind}_{migration.distance.value}_ops"


def _storage(conn: Connection, migration: Migration, options: IndexSettings, target: Target) -> dict[str, str]:
    if options.method is IndexMethod.HNSW:
        # what is pgvector's default is left to it, as the old index mostly does
        wanted = {"m": str(options.m), "ef_construction": str(options.ef_construction)}
        return dict(wanted.items() - _DEFAULTS[IndexMethod.HNSW].items())
    rows = target.shape.rows if target.shape.predicate else None
    if rows is None:
        rows = _rows(conn, target.table if target.oid else migration.table)
    return {"lists": str(options.lists or ivfflat_lists(rows))}


def _rows(conn: Connection, table: TableName) -> int:
    """The planner's count, or a real one where there is none yet."""
    row = conn.execute(
        "SELECT reltuples::int8 FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)", (regclass_name(conn, table),)
    ).fetchone()
    if row is None or row[0] < 0:
        row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(relation(table))).fetchone()
    return int(row[0]) if row else 0


def create_statement(conn: Connection, migration: Migration, options: IndexSettings, target: Target) -> sql.Composed:
    """CREATE INDEX on one relation: CONCURRENTLY on a leaf, ON ONLY above.

    Raises:
        Refused: more dimensions than the type's indexes take.
    """
    kind = index_type(conn, migration, target.shape)
    limit = MAX_DIMENSIONS[kind]
    if migration.new_model.dimensions > limit:
        raise Refused(
            f"pgvector indexes {kind} up to {limit:,} dimensions,"
            f" and {migration.new_model.name} has {migration.new_model.dimensions:,}.",
            hint="Use fewer dimensions, or search without an index.",
        )
    column: sql.Composable = sql.Identifier(new_side(migration).embedding)
    if kind != migration.vector_type:
        column = sql.SQL("(CAST({} AS {}({})))").format(
            column, sql.Identifier(migration.vector_schema, kind), sql.Literal(migration.new_model.dimensions)
        )
    storage = [
        sql.SQL("{} = {}").format(sql.Identifier(key), sql.SQL(value))
        for key, value in sorted(_storage(conn, migration, options, target).items(), reverse=True)
    ]
    return sql.SQL(
        "CREATE INDEX {how}{name} ON {only}{table} USING {method} ({column} {opclass}){with_}{where}"
    ).format(
        how=sql.SQL("CONCURRENTLY " if target.leaf else ""),
        name=sql.Identifier(target.name),
        only=sql.SQL("" if target.leaf else "ONLY "),
        table=relation(target.table),
        method=sql.SQL(options.method.value),
        column=column,
        opclass=sql.Identifier(migration.vector_schema, _opclass(migration, kind)),
        with_=sql.SQL(" WITH ({})").format(sql.SQL(", ").join(storage)) if storage else sql.SQL(""),
        where=sql.SQL(f" WHERE {target.shape.predicate}" if target.shape.predicate else ""),
    )


def attach_statement(target: Target) -> sql.Composed:
    """Make a partition's index part of its parent's."""
    assert target.parent_index is not None
    return sql.SQL("ALTER INDEX {} ATTACH PARTITION {}").format(relation(target.parent_index), relation(target.index))


def require_equal(
    conn: Connection, migration: Migration, options: IndexSettings, target: Target, found: ExistingIndex
) -> None:
    """Refuse an index of our name that is not the one asked for.

    Raises:
        Refused: it differs; says in what.
    """
    defaults = _DEFAULTS[options.method]
    # the old side's index, and with it what the new one is on, may be another since the build
    opclass = _opclass(migration, found.cast_to or migration.vector_type)
    has = {"method": found.method, "opclass": found.opclass, **_DEFAULTS.get(options.method, {})}
    has |= dict(found.options) | {"condition": predicates_of(conn, migration, [found]).get(found.oid, "none")}
    wants = {"method": options.method.value, "opclass": opclass, **defaults}
    wants["condition"] = target.shape.predicate or "none"
    if options.method is IndexMethod.HNSW:
        wants |= {"m": str(options.m), "ef_construction": str(options.ef_construction)}
    else:
        # the number of rows, and with it the derived number of lists, moves on after the build
        wants["lists"] = str(options.lists) if options.lists is not None else has.get("lists", "")
    other = [f"{key} {has.get(key, 'none')}, not {value}" for key, value in wants.items() if has.get(key) != value]
    if other:
        raise Refused(f"Index {found.name} exists with {'; '.join(other)}.", hint="Drop it, or ask for what is there.")


def require_free(conn: Connection, target: Target) -> None:
    """Refuse a name that belongs to something else.

    Raises:
        Refused: it does.
    """
    row = conn.execute("SELECT to_regclass(%s) IS NULL", (regclass_name(conn, target.index),)).fetchone()
    if row != (True,):
        raise Refused(
            f"{target.index} exists and is not an index of the new vectors.", hint="Rename or drop it, then run again."
        )
