"""Rows that have both an old and a new vector: what a comparison is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from embedtui.arrays import np
from embedtui.model import Key, Migration, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import key_join_sql, key_sql, keys_sql, relation
from embedtui.postgres.sides.layout import (
    content_sql,
    fingerprint_sql,
    has_content_sql,
    new_side,
    scope_sql,
    vector_kind,
    vectors_at,
)
from embedtui.postgres.state.queries import Vector
from embedtui.postgres.values import equal_sql, key_types, text_sql, value_sql

_SIDE = "embedtui_side"


def both_sides_sql(migration: Migration) -> sql.Composed:
    """FROM item with both sides; bare column names mean the user's table, which keeps its own name.

    A side table is joined as ``embedtui_side`` with its columns renamed; rows without a new vector are kept.
    """
    side = new_side(migration)
    if side.table == migration.table:
        return sql.SQL("{}").format(relation(migration.table))
    keys = [(name, f"embedtui_key_{number}") for number, name in enumerate(migration.key_columns, 1)]
    return sql.SQL(
        "{table} LEFT JOIN (SELECT {keys}, {vector} AS embedtui_vector, xmin AS embedtui_xmin FROM {side}) AS {alias}"
        " ON {match}"
    ).format(
        table=relation(migration.table),
        keys=sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(sql.Identifier(name), sql.Identifier(alias)) for name, alias in keys
        ),
        vector=sql.Identifier(side.embedding),
        side=relation(side.table),
        alias=sql.Identifier(_SIDE),
        match=sql.SQL(" AND ").join(
            equal_sql(migration, name, sql.Identifier(_SIDE, alias), sql.Identifier(migration.table.name, name))
            for name, alias in keys
        ),
    )


def vector_column(migration: Migration, side: Side) -> sql.Identifier:
    """A side's vector in :func:`both_sides_sql`."""
    table, column = vectors_at(migration, side)
    if table != migration.table:
        return sql.Identifier(_SIDE, "embedtui_vector")
    return sql.Identifier(table.name, column)


def vector_bytes_sql(migration: Migration, side: Side) -> sql.Composed:
    """A side's vector in :func:`both_sides_sql` as bytea, in pgvector's binary form."""
    send = sql.Identifier(migration.vector_schema, f"{vector_kind(migration, side)}_send")
    return sql.SQL("{}({})").format(send, vector_column(migration, side))


def vector_number(migration: Migration, side: Side, cast_to: str = "") -> np.dtype[Any]:
    """Type of the numbers in :func:`vector_bytes_sql`, or in a cast; they begin after four bytes of head."""
    return np.dtype(">f2" if (cast_to or vector_kind(migration, side)) == "halfvec" else ">f4")


def vector_lengths(conn: Connection, migration: Migration, side: Side, limit: int) -> tuple[float, float] | None:
    """Least and greatest length (L2 norm) of the first ``limit`` vectors of a side; None where it has none."""
    table, column = vectors_at(migration, side)
    norm = "l2_norm" if vector_kind(migration, side) == "halfvec" else "vector_norm"
    row = conn.execute(
        sql.SQL(
            "SELECT min(length), max(length) FROM"
            " (SELECT {norm}({column}) AS length FROM {table} WHERE {column} IS NOT NULL LIMIT {limit}) v"
        ).format(
            norm=sql.Identifier(migration.vector_schema, norm),
            column=sql.Identifier(column),
            table=relation(table),
            limit=sql.Literal(limit),
        )
    ).fetchone()
    return (row[0], row[1]) if row is not None and row[0] is not None else None


def both_present_sql(migration: Migration) -> sql.Composed:
    """Condition over :func:`both_sides_sql`: a row of the scope has both vectors."""
    return sql.SQL("{} AND {} IS NOT NULL AND {} IS NOT NULL").format(
        scope_sql(migration, migration.table.name),
        vector_column(migration, Side.OLD),
        vector_column(migration, Side.NEW),
    )


def row_vectors(conn: Connection, migration: Migration, keys: Sequence[Key]) -> dict[Key, dict[Side, Vector]]:
    """Both vectors of rows; rows that are gone or lack one are absent."""
    rows = conn.execute(
        sql.SQL("SELECT embedtui_k.key, {old}, {new} FROM {both} JOIN {keys} ON {match} WHERE {present}").format(
            old=vector_bytes_sql(migration, Side.OLD),
            new=vector_bytes_sql(migration, Side.NEW),
            keys=keys_sql(keys),
            both=both_sides_sql(migration),
            match=key_join_sql(migration, migration.table.name, sql.SQL("embedtui_k.key")),
            present=both_present_sql(migration),
        ),
        binary=True,
    )
    sides = ((Side.OLD, migration.old_model.dimensions), (Side.NEW, migration.new_model.dimensions))
    found: dict[Key, dict[Side, Vector]] = {}
    for key, *data in rows:
        pair = {
            side: np.frombuffer(raw, vector_number(migration, side), offset=4).astype(np.float32)
            for (side, _), raw in zip(sides, data, strict=True)
        }
        # a column declared without dimensions may hold vectors of others
        if all(len(pair[side]) == dimensions for side, dimensions in sides):
            found[tuple(key)] = pair
    return found


def count_both(conn: Connection, migration: Migration, keys: Sequence[Key]) -> int:
    """How many of these rows have both vectors; none is read."""
    row = conn.execute(
        sql.SQL("SELECT count(*) FROM {both} JOIN {keys} ON {match} WHERE {present}").format(
            keys=keys_sql(keys),
            both=both_sides_sql(migration),
            match=key_join_sql(migration, migration.table.name, sql.SQL("embedtui_k.key")),
            present=both_present_sql(migration),
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


def draw_rows(conn: Connection, migration: Migration, count: int, characters: int) -> list[tuple[Key, str]]:
    """Key and first characters of the content of rows that have both vectors, drawn by their keys' hash.

    The same rows are drawn again as long as they exist.
    """
    alias = migration.table.name
    drawn = conn.execute(
        sql.SQL(
            "SELECT {key}, pg_catalog.left({content}, {length}) FROM {both}"
            " WHERE {present} AND {has_content} ORDER BY pg_catalog.hashtextextended(({key})::text, 5), 1 LIMIT {count}"
        ).format(
            key=key_sql(migration, alias),
            content=content_sql(migration, alias),
            has_content=has_content_sql(migration, alias),
            length=sql.Literal(characters),
            both=both_sides_sql(migration),
            present=both_present_sql(migration),
            count=sql.Literal(count),
        )
    )
    return [(tuple(key), text) for key, text in drawn]


@dataclass(frozen=True, slots=True)
class CountedRows:
    """Rows of a table by the vectors they have."""

    rows: int
    """With something to embed."""
    both: int
    one_sided: int
    digest: int
    """Changes with any write to any row; 0 where it could not be had."""


def count_rows(conn: Connection, migration: Migration, where: sql.Composable | None) -> CountedRows:
    """Count a table's rows in one scan that reads no vector (200,000 rows: 0.1 s), and text only of those without one.

    Where that takes longer than the statement time-out, the planner's estimate stands for the counts.
    """
    old, new = vector_column(migration, Side.OLD), vector_column(migration, Side.NEW)
    table = migration.table.name
    versions = [sql.Identifier(table, "tableoid"), sql.Identifier(table, "ctid"), sql.Identifier(table, "xmin")]
    if new_side(migration).table != migration.table:
        versions.append(sql.Identifier("embedtui_xmin"))
    query = sql.SQL(
        "SELECT count(*) FILTER (WHERE CASE WHEN {new} IS NULL THEN {filled} ELSE true END),"
        " count(*) FILTER (WHERE {both}), count(*) FILTER (WHERE ({old} IS NULL) <> ({new} IS NULL)),"
        " coalesce(pg_catalog.bit_xor(pg_catalog.hash_record_extended(ROW({versions}), 0)), 0)"
        " FROM {sides} WHERE {scope}{where}"
    ).format(
        both=both_present_sql(migration),
        filled=has_content_sql(migration, table),
        old=old,
        new=new,
        versions=sql.SQL(", ").join(versions),
        sides=both_sides_sql(migration),
        scope=scope_sql(migration, table),
        where=sql.SQL(" AND ({})").format(where) if where is not None else sql.SQL(""),
    )
    try:
        row = conn.execute(query).fetchone()
    except psycopg.errors.QueryCanceled:
        row = conn.execute(
            "SELECT greatest(reltuples, 0)::bigint, greatest(reltuples, 0)::bigint, 0, 0 FROM pg_catalog.pg_class"
            " WHERE oid = %s",
            [migration.table_oid],
        ).fetchone()
    assert row is not None
    return CountedRows(*row)


def table_bytes(conn: Connection, migration: Migration) -> int:
    """Bytes of the table and of the side table, TOAST included, indexes not."""
    row = conn.execute(
        """
        SELECT coalesce(sum(pg_catalog.pg_table_size(relid)), 0)::bigint
        FROM (SELECT relid FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass)
              UNION SELECT %(table)s::oid::regclass UNION SELECT pg_catalog.to_regclass(%(side)s)) x
        """,
        {"table": migration.table_oid, "side": relation(new_side(migration).table).as_string(conn)},
    ).fetchone()
    assert row is not None
    return int(row[0])


def other_present_sql(migration: Migration, side: Side) -> sql.Composable:
    """Condition on the user's table, inside a search of ``side``: the row has the other side's vector too."""
    found, table = new_side(migration), migration.table
    if side is Side.NEW:
        return sql.SQL("{} IS NOT NULL").format(sql.Identifier(table.schema, table.name, migration.old_column))
    if found.table == table:
        return sql.SQL("{} IS NOT NULL").format(sql.Identifier(table.schema, table.name, found.embedding))
    return sql.SQL("EXISTS (SELECT FROM {} AS embedtui_other WHERE {})").format(
        relation(found.table),
        sql.SQL(" AND ").join(
            equal_sql(
                migration,
                name,
                sql.Identifier("embedtui_other", name),
                sql.Identifier(table.schema, table.name, name),
            )
            for name in migration.key_columns
        ),
    )


def count_gone(conn: Connection, migration: Migration, keys: Iterable[Key]) -> int:
    """How many of these keys no row of the table has."""
    alias = migration.table.name
    row = conn.execute(
        sql.SQL("SELECT count(*) FROM {keys} WHERE NOT EXISTS (SELECT FROM {table} WHERE {match})").format(
            keys=keys_sql(keys),
            table=relation(migration.table),
            match=key_join_sql(migration, alias, sql.SQL("embedtui_k.key")),
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


def fingerprints(conn: Connection, migration: Migration, keys: Iterable[Key]) -> dict[Key, int]:
    """Fingerprint of the content of each row that has one of these keys."""
    alias = migration.table.name
    rows = conn.execute(
        sql.SQL("SELECT embedtui_k.key, {fingerprint} FROM {keys} JOIN {table} ON {match}").format(
            fingerprint=fingerprint_sql(migration, alias),
            keys=keys_sql(keys),
            table=relation(migration.table),
            match=key_join_sql(migration, alias, sql.SQL("embedtui_k.key")),
        )
    )
    return {tuple(key): fingerprint for key, fingerprint in rows}


def keys_as_stored(conn: Connection, migration: Migration, keys: Sequence[Key]) -> dict[Key, Key]:
    """Each key as the table writes it: results are told by their keys' text, and a uuid has several.

    Raises:
        psycopg.DataError: a key is none of the key's types.
    """
    parts = sql.SQL(", ").join(
        text_sql(
            sql.SQL("({})").format(value_sql(migration, name, sql.SQL("embedtui_k.key[{}]").format(position))), kind
        )
        for position, (name, kind) in enumerate(key_types(migration).items(), 1)
    )
    query = sql.SQL("SELECT embedtui_k.key, ARRAY[{}] FROM {}").format(parts, keys_sql(keys))
    rows = conn.execute(query).fetchall()
    return {tuple(key): tuple(stored) for key, stored in rows}
