"""Both vectors of every row in one binary COPY; a row is known by its place until its key is asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import psycopg
from psycopg import sql

from embedtui.arrays import np, npt
from embedtui.model import Key, Migration, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import key_sql
from embedtui.postgres.sides.both import both_present_sql, both_sides_sql, vector_column, vector_number
from embedtui.postgres.sides.search import vector_type

# A block of vectors in memory, both sides together.
_BLOCK_BYTES = 16 << 20


def row_record(migration: Migration, casts: Mapping[Side, str]) -> np.dtype[np.void]:
    """A row of the binary COPY: tableoid, ctid, old and new vector; all fields have a fixed width.

    ``casts``: the type that each side's vectors are read as, where it is not the column's.
    """
    parts: list[tuple[str, object] | tuple[str, object, tuple[int]]] = [
        ("fields", ">i2"),
        *(("leaf_length", ">i4"), ("leaf", ">u4")),
        *(("tid_length", ">i4"), ("block", ">u4"), ("offset", ">u2")),
    ]
    for side, model in ((Side.OLD, migration.old_model), (Side.NEW, migration.new_model)):
        parts += [(f"{side}_length", ">i4"), (f"{side}_head", "V4")]
        parts.append((side.value, vector_number(migration, side, casts.get(side, "")), (model.dimensions,)))
    return np.dtype(parts)


def copy_sql(
    conn: Connection, migration: Migration, where: sql.Composable | None, casts: Mapping[Side, str]
) -> sql.Composed:
    """The COPY that gives :func:`row_record` for every row with both vectors, those that pass ``where``."""
    table = migration.table.name
    conditions: list[sql.Composable] = [both_present_sql(migration)]
    declared = conn.execute(
        "SELECT atttypmod FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attname = %s",
        [migration.table_oid, migration.old_column],
    ).fetchone()
    if declared is None or declared[0] != migration.old_model.dimensions:
        # a column declared without dimensions may hold vectors of others; asking each costs a detoasting
        conditions.append(
            sql.SQL("{}({}) = {}").format(
                sql.Identifier(migration.vector_schema, "vector_dims"),
                vector_column(migration, Side.OLD),
                sql.Literal(migration.old_model.dimensions),
            )
        )
    if where is not None:
        conditions.append(sql.SQL("({})").format(where))
    return sql.SQL("COPY (SELECT {}, {}, {}, {} FROM {} WHERE {}) TO STDOUT (FORMAT BINARY)").format(
        sql.Identifier(table, "tableoid"),
        sql.Identifier(table, "ctid"),
        *(_read_as(migration, side, casts.get(side, "")) for side in Side),
        both_sides_sql(migration),
        sql.SQL(" AND ").join(conditions),
    )


def _read_as(migration: Migration, side: Side, cast_to: str) -> sql.Composable:
    column = vector_column(migration, side)
    return sql.SQL("CAST({} AS {})").format(column, vector_type(migration, side, cast_to)) if cast_to else column


def read_records(copy: psycopg.Copy, record: np.dtype[np.void]) -> Iterator[npt.NDArray[np.void]]:
    """Rows of a binary COPY in blocks; it begins with 19 bytes of head and ends with 2 of tail."""
    size = max(1, _BLOCK_BYTES // record.itemsize) * record.itemsize
    pending, head = bytearray(), 19
    for data in copy:
        pending += data
        if len(pending) >= head + size:
            yield np.frombuffer(bytes(pending[head : head + size]), record)
            del pending[: head + size]
            head = 0
    rest = max(0, len(pending) - head) // record.itemsize * record.itemsize
    if rest:
        yield np.frombuffer(bytes(pending[head : head + rest]), record)


def places_of(block: npt.NDArray[np.void], leaves: dict[int, int]) -> npt.NDArray[np.uint64]:
    """Place of each row as one number: leaf (numbered as met) << 48 | block << 16 | offset."""
    places = block["block"].astype(np.uint64) * np.uint64(1 << 16) + block["offset"].astype(np.uint64)
    for leaf in np.unique(block["leaf"]).tolist():
        number = leaves.setdefault(leaf, len(leaves))
        places[block["leaf"] == leaf] += np.uint64(number << 48)
    return places


def keys_of(conn: Connection, migration: Migration, leaves: Mapping[int, int], places: Iterable[int]) -> dict[int, Key]:
    """Key of the row at each place; true only within the snapshot that the places were read in."""
    by_leaf: dict[int, list[int]] = defaultdict(list)
    for place in places:
        by_leaf[place >> 48].append(place)
    found: dict[int, Key] = {}
    for oid, number in leaves.items():
        row = conn.execute("SELECT %s::oid::regclass::text", [oid]).fetchone()
        assert row is not None
        tids = {f"({place >> 16 & 0xFFFFFFFF},{place & 0xFFFF})": place for place in by_leaf[number]}
        rows = conn.execute(
            sql.SQL("SELECT r.ctid::text, {} FROM ONLY {} r WHERE r.ctid = ANY ({}::tid[])").format(
                key_sql(migration, "r"),
                sql.SQL(row[0]),  # printed by regclass, which quotes what needs it
                sql.Literal(list(tids)),  # a parameter would make a placeholder of a % in a name
            )
        )
        found |= {tids[tid]: tuple(key) for tid, key in rows}
    return found
