"""The statements that make the new side's index; a partitioned table's is made leaf by leaf and attached."""

from __future__ import annotations

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
    old_indexes,
    regclass_name,
    search_type,
    tree_of,
)
from embedtui.postgres.indexes.options import MAX_DIMENSIONS, ivfflat_lists
from embedtui.postgres.names import fitted, relation, suffixed
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

    @property
    def index(self) -> TableName:
        """The index's qualified name: an index lives in its table's schema."""
        return TableName(self.table.schema, self.name)


def index_name(conn: Connection, migration: Migration) -> str:
    """Name for the new side's index: ``X_v2`` where the old side's is called X, else ``<table>_<column>_idx``."""
    side = new_side(migration)
    old = old_indexes(conn, migration)
    if old:
        stem, _, number = old[0].name.rpartition("_v")
        name = f"{stem}_v{int(number) + 1}" if stem and number.isdecimal() else f"{old[0].name}_v2"
    else:
        name = f"{side.table.name}_{side.embedding}_idx"
    if name == side.table.name:  # the old index may be called as the side table is, without the suffix
        name += "_idx"
    name = fitted(name)
    tried = 2
    while _others(conn, TableName(side.table.schema, name), side.table):  # such as a side table's that is folded
        tried += 1
        name = suffixed(name.removesuffix(f"_v{tried - 1}"), f"_v{tried}")
    return name


def _others(conn: Connection, index: TableName, table: TableName) -> bool:
    """Whether an index of another table has this name."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_index WHERE indexrelid = to_regclass(%s)"
        " AND indrelid IS DISTINCT FROM to_regclass(%s))",
        (regclass_name(conn, index), regclass_name(conn, table)),
    ).fetchone()
    return row == (True,)


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
    """Every relation that needs the index; an existing index on it lends its name, so that a rerun finds its own."""
    side = new_side(migration)
    root_name = index_name(conn, migration)
    # a side table that is still to come is shown by the plan
    tree = tree_of(conn, side.table) or [Part(0, 0, side.table, True)]
    existing = indexes_of(conn, [part.oid for part in tree], side.embedding)
    targets: dict[int, Target] = {}
    for part in tree:
        wanted = root_name if not part.parent else fitted(f"{part.table.name}_{side.embedding}_idx")
        present = [index.name for index in existing[part.oid] if index.method in list(IndexMethod)]
        name = wanted if not present or wanted in present else present[0]
        above = targets[part.parent].index if part.parent else None
        targets[part.oid] = Target(part.oid, part.table, part.leaf, name, above)
    return list(targets.values())


def index_type(conn: Connection, migration: Migration) -> str:
    """The type that the new side's index is on: the column's, or another as a cast of it.

    A cast where the old side's index is on one, so that the application's statement is served by the new one, too; and
    where the index takes fewer than the column's dimensions.
    """
    cast = search_type(conn, migration, Side.OLD)
    kind = cast if cast not in ("", migration.old_vector_type) else migration.vector_type
    return kind if migration.new_model.dimensions <= MAX_DIMENSIONS[kind] else "halfvec"


def _opclass(migration: Migration, kind: str) -> str:
    return f"{kind}_{migration.distance.value}_ops"


def _storage(conn: Connection, migration: Migration, options: IndexSettings, target: Target) -> dict[str, str]:
    if options.method is IndexMethod.HNSW:
        return {"m": str(options.m), "ef_construction": str(options.ef_construction)}
    return {"lists": str(options.lists or ivfflat_lists(_rows(conn, target.table if target.oid else migration.table)))}


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
    kind = index_type(conn, migration)
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
    return sql.SQL(
        "CREATE INDEX {how}{name} ON {only}{table} USING {method} ({column} {opclass}) WITH ({with_})"
    ).format(
        how=sql.SQL("CONCURRENTLY " if target.leaf else ""),
        name=sql.Identifier(target.name),
        only=sql.SQL("" if target.leaf else "ONLY "),
        table=relation(target.table),
        method=sql.SQL(options.method.value),
        column=column,
        opclass=sql.Identifier(migration.vector_schema, _opclass(migration, kind)),
        with_=sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(key), sql.SQL(value))
            for key, value in _storage(conn, migration, options, target).items()
        ),
    )


def attach_statement(target: Target) -> sql.Composed:
    """Make a partition's index part of its parent's."""
    assert target.parent_index is not None
    return sql.SQL("ALTER INDEX {} ATTACH PARTITION {}").format(relation(target.parent_index), relation(target.index))


def require_equal(migration: Migration, options: IndexSettings, found: ExistingIndex) -> None:
    """Refuse an index of our name that is not the one asked for.

    Raises:
        Refused: it differs; says in what.
    """
    defaults = _DEFAULTS[options.method]
    # the old side's index, and with it what the new one is on, may be another since the build
    opclass = _opclass(migration, found.cast_to or migration.vector_type)
    has = {"method": found.method, "opclass": found.opclass, **_DEFAULTS.get(options.method, {})}
    has |= dict(found.options)
    wants = {"method": options.method.value, "opclass": opclass, **defaults}
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
