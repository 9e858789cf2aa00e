"""The nearest-neighbour query of either side, as one SELECT that an index can serve and a DBA can read."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from embedtui.model import Migration, PlacementKind, Side, TableName
from embedtui.postgres.catalog.server import version_tuple
from embedtui.postgres.names import escaped, key_equals_sql, key_sql, quoted
from embedtui.postgres.sides.layout import scope_sql, vector_kind
from embedtui.postgres.values import equal_sql

_SIDE = "embedtui_side"
"""Alias of the side table; its columns are renamed, so that a filter's bare names mean the user's table."""

# An uncorrelated subquery is evaluated once, before the scan below it starts: no SET, no second round trip.
_SCAN_ITERATIVELY = sql.SQL(
    "(SELECT pg_catalog.set_config('hnsw.iterative_scan', {}, true)"
    " OPERATOR(pg_catalog.||) pg_catalog.set_config('ivfflat.iterative_scan', 'relaxed_order', true)) IS NOT NULL"
)


def scan_of(pgvector: str, *, filtered: bool) -> str:
    """``iterative_scan`` of a search where nothing is said: strict where there is a filter, else the session's.

    A filtered index scan stops too early otherwise. ``pgvector`` is the extension's version: 0.8 or later can.
    """
    return "strict_order" if filtered and version_tuple(pgvector) >= (0, 8) else ""


def vector_type(migration: Migration, side: Side, cast_to: str = "") -> sql.Composed:
    """The side's vector type, or another, with the side's dimensions, qualified with the schema pgvector lives in."""
    model = migration.old_model if side is Side.OLD else migration.new_model
    kind = quoted(migration.vector_schema, cast_to or vector_kind(migration, side))
    return sql.SQL("{}({})").format(kind, sql.Literal(model.dimensions))


def search_sql(
    migration: Migration,
    side: Side,
    *,
    columns: Sequence[str] = (),
    where: sql.Composable | None = None,
    exact: bool = False,
    without_key: bool = False,
    iterative_scan: str = "",
    cast_to: str = "",
) -> sql.Composed:
    """Nearest rows of one side: ``key text[]``, ``distance float8`` and the requested ``columns``, nearest first.

    Bound parameters: ``%(vector)s`` (pgvector's text form, ``[1,2,…]``, of the side's dimensions), ``%(k)s`` (rows)
    and with ``without_key`` also ``%(key)s`` (``text[]``: the row left out of its own neighbours). Rows without a
    vector, and those out of the migration's scope, are left out.

    Args:
        migration: the migration as stored.
        side: which side's vectors to search. The old side is always the table's old column; the new side is the new
            column, or the side table joined by the key.
        columns: columns of the user's table to return as well.
        where: a trusted filter on the user's table, evaluated inside the search; bare column names mean that table.
        exact: read every vector and never an approximate index; ties are then broken by key.
        without_key: leave out the row whose key is bound as ``key``: a row that is itself the query.
        iterative_scan: ``strict_order`` or ``relaxed_order`` makes a filtered index scan go on until ``k`` rows pass
            (pgvector 0.8 or later; ivfflat knows the relaxed order only), for the present transaction; empty leaves
            the session's setting.
        cast_to: the type, ``vector`` or ``halfvec``, that the side's index casts its vectors to (see
            :func:`embedtui.postgres.indexes.existing.search_type`); empty searches the column itself.
    """
    vector, source = _vector_and_source(migration, side)
    distance = _distance(migration, side, vector, cast_to)
    conditions: list[sql.Composable] = [sql.SQL("{} IS NOT NULL").format(vector)]
    if migration.scope is not None:  # first: vectors of other rows may have another size
        conditions.insert(0, escaped(scope_sql(migration, migration.table.schema, migration.table.name)))
    if without_key:
        conditions.append(sql.SQL("NOT ({})").format(key_equals_sql(migration)))
    if where is not None:
        conditions.append(sql.SQL("({})").format(where))
    if iterative_scan:
        conditions.append(_SCAN_ITERATIVELY.format(sql.Literal(iterative_scan)))
    key = escaped(key_sql(migration, migration.table.schema, migration.table.name))
    outputs = [sql.SQL("{} AS key").format(key), sql.SQL("{} AS distance").format(distance)]
    return sql.SQL(
        "SELECT {outputs}\nFROM {source}\nWHERE {conditions}\nORDER BY {order}\nLIMIT CAST({k} AS pg_catalog.int8)"
    ).format(
        outputs=sql.SQL(", ").join([*outputs, *(_column(migration.table, name) for name in columns)]),
        source=source,
        conditions=sql.SQL(" AND ").join(conditions),
        # An index serves the bare operator only; "+ 0" puts it out of every index's reach without a SET.
        order=sql.SQL("{} OPERATOR(pg_catalog.+) 0, {}").format(distance, key) if exact else distance,
        k=sql.Placeholder("k"),
    )


def _distance(migration: Migration, side: Side, vector: sql.Composable, cast_to: str) -> sql.Composed:
    kind = vector_type(migration, side, cast_to)
    return sql.SQL("({} OPERATOR({}.{}) CAST({} AS {}))").format(
        sql.SQL("CAST({} AS {})").format(vector, kind) if cast_to else vector,
        quoted(migration.vector_schema),
        sql.SQL(migration.distance.operator),
        sql.Placeholder("vector"),
        kind,
    )


def _vector_and_source(migration: Migration, side: Side) -> tuple[sql.Composable, sql.Composable]:
    """The side's vector and the FROM item it is found in, where bare names mean the user's table."""
    table = migration.table
    source: sql.Composable = quoted(table.schema, table.name)
    if side is Side.OLD or migration.placement is PlacementKind.COLUMN:
        return _column(table, migration.old_column if side is Side.OLD else migration.new_column), source
    keys = [quoted(f"embedtui_key_{number}") for number in range(1, len(migration.key_columns) + 1)]
    joined = sql.SQL("{table} JOIN (SELECT {keys}, {vector} AS embedtui_vector FROM {side}) AS {alias} ON {on}").format(
        table=source,
        keys=sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(quoted(name), key) for name, key in zip(migration.key_columns, keys, strict=True)
        ),
        vector=quoted(migration.new_column),
        side=quoted(migration.new_table.schema, migration.new_table.name),
        alias=quoted(_SIDE),
        on=sql.SQL(" AND ").join(
            equal_sql(migration, name, sql.SQL("{}.{}").format(quoted(_SIDE), key), _column(table, name))
            for name, key in zip(migration.key_columns, keys, strict=True)
        ),
    )
    return quoted(_SIDE, "embedtui_vector"), joined


def _column(table: TableName, name: str) -> sql.Identifier:
    return quoted(table.schema, table.name, name)
