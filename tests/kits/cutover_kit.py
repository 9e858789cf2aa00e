"""A small migrated table whose vectors say which side they belong to; shared by the tests of routing and cutover."""

from __future__ import annotations

import random

from psycopg import sql

from embedtui.model import Condition, EmbeddingModel, Migration, Phase, PlacementKind, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import quoted
from embedtui.postgres.state import migrations as state
from embedtui.postgres.state import pointer, schema
from tests.kits.samples import sample_migration
from tests.kits.support import connect

DIMENSIONS = 8


def vector(position: int, dimensions: int = DIMENSIONS) -> list[float]:
    """A direction of its own for each position, so that row ``position`` is nearest to it."""
    generator = random.Random(position)
    return [round(generator.gauss(), 6) for _ in range(dimensions)]


def make(
    dsn: str,
    placement: PlacementKind = PlacementKind.COLUMN,
    *,
    rows: int = 40,
    key: tuple[tuple[str, str], ...] = (("id", "bigint"),),
    table: str = "documents",
    schema_name: str = "public",
    vector_schema: str = "public",
    index: bool = True,
    phase: Phase = Phase.VALIDATE,
    old_model: EmbeddingModel | None = None,
    new_model: EmbeddingModel | None = None,
    settings: dict[str, object] | None = None,
) -> Migration:
    """A table with both sides filled: row n has the old vector ``vector(n)`` and the new one ``vector(n + 1)``.

    So a query ``vector(n)`` finds row n on the old side and row n - 1 on the new one: the result tells the side.
    """
    old = old_model or EmbeddingModel("old-model", DIMENSIONS, query_prefix="q: ", document_prefix="d: ")
    new = new_model or EmbeddingModel("new-model", DIMENSIONS)
    column = placement is PlacementKind.COLUMN
    side = f"{table}_embedding_v2"
    names = {
        "table": sql.Identifier(schema_name, table),
        "side": sql.Identifier(schema_name, side),
        "type": sql.Identifier(vector_schema, "vector"),
        "ops": sql.Identifier(vector_schema, "vector_cosine_ops"),
        "old_size": sql.Literal(old.dimensions),
        "new_size": sql.Literal(new.dimensions),
        "keys": sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(t)) for n, t in key),
        "key_names": sql.SQL(", ").join(sql.Identifier(n) for n, _ in key),
        "index_old": sql.Identifier(f"idx_{table}_embedding"),
        "index_new": sql.Identifier(f"idx_{table}_embedding_v2"),
    }

    def run(conn: Connection, text: str) -> None:
        conn.execute(sql.SQL(text).format(**names))

    with connect(dsn, name="test") as conn:
        run(
            conn,
            "CREATE TABLE {table} ({keys}, content text, lang text, embedding {type}({old_size}),"
            + (
                " embedding_v2 {type}({new_size}), embedding_v2_model integer, embedding_v2_source bigint,"
                if column
                else ""
            )
            + " PRIMARY KEY ({key_names}))",
        )
        if not column:
            run(
                conn,
                "CREATE TABLE {side} ({keys}, embedding {type}({new_size}) NOT NULL, model integer NOT NULL,"
                " source bigint NOT NULL, PRIMARY KEY ({key_names}),"
                " FOREIGN KEY ({key_names}) REFERENCES {table} ON DELETE CASCADE ON UPDATE CASCADE)",
            )
        schema.install(conn)
        pointer.install_functions(conn)
        row = conn.execute("SELECT %s::regclass::oid", [names["table"].as_string(conn)]).fetchone()
        assert row is not None
        migration = state.create_migration(
            conn,
            sample_migration(
                TableName(schema_name, table),
                table_oid=row[0],
                key_columns=tuple(n for n, _ in key),
                key_types=tuple(t for _, t in key),
                placement=placement,
                old_model=old,
                new_model=new,
                new_table=TableName(schema_name, table if column else side),
                new_column="embedding_v2" if column else "embedding",
                vector_schema=vector_schema,
                phase=phase,
                condition=Condition.IDLE,
                settings=settings or {},
            ),
        )
        fill(conn, migration, rows)
        if index:
            run(conn, "CREATE INDEX {index_old} ON {table} USING hnsw (embedding {ops})")
            target = "{table} USING hnsw (embedding_v2 {ops})" if column else "{side} USING hnsw (embedding {ops})"
            run(conn, "CREATE INDEX {index_new} ON " + target)
        conn.execute("ANALYZE")
        pointer.create_route(conn, migration)
    return migration


def key_values(migration: Migration, number: int) -> tuple[str, ...]:
    """The key of row ``number``: its number in each key column."""
    return tuple(
        f"00000000-0000-0000-0000-{number:012d}" if kind == "uuid" else str(number) for kind in migration.key_types
    )


def fill(conn: Connection, migration: Migration, rows: int) -> None:
    """Insert rows 1..``rows`` with both vectors, stamped."""
    column = migration.placement is PlacementKind.COLUMN
    table = quoted(migration.table.schema, migration.table.name)
    keys = sql.SQL(", ").join(map(quoted, migration.key_columns))
    values = sql.SQL(", ").join(sql.SQL("%s::{}").format(sql.SQL(kind)) for kind in migration.key_types)
    fingerprint = "pg_catalog.hash_record_extended(ROW(content::text), 0)"
    new = str(migration.new_model.id)
    with conn.transaction(), conn.cursor() as cursor:
        for n in range(1, rows + 1):
            old_vector = str(vector(n, migration.old_model.dimensions))
            new_vector = str(vector(n + 1, migration.new_model.dimensions))
            key = key_values(migration, n)
            cursor.execute(
                sql.SQL("INSERT INTO {} ({}, content, lang, embedding) VALUES ({}, %s, %s, %s)").format(
                    table, keys, values
                ),
                [*key, f"text {n}", "en" if n % 2 else "de", old_vector],
            )
            if not column:
                cursor.execute(
                    sql.SQL(
                        "INSERT INTO {} ({}, embedding, model, source) SELECT {}, %s, {}, {} FROM {} WHERE ({}) = ({})"
                    ).format(
                        quoted(migration.new_table.schema, migration.new_table.name),
                        keys,
                        keys,
                        sql.SQL(new),
                        sql.SQL(fingerprint),
                        table,
                        keys,
                        values,
                    ),
                    [new_vector, *key],
                )
            else:
                cursor.execute(
                    sql.SQL(
                        "UPDATE {} SET embedding_v2 = %s, embedding_v2_model = {}, embedding_v2_source = {}"
                        " WHERE ({}) = ({})"
                    ).format(table, sql.SQL(new), sql.SQL(fingerprint), keys, values),
                    [new_vector, *key],
                )


def flip(dsn: str, name: str, side: str, canary: int | None = None) -> int:
    """Move the pointer; returns the epoch."""
    from embedtui.model import Side

    with connect(dsn, name="flip", lock_timeout_ms=1000) as conn:
        share = (100 if side == "new" else 0) if canary is None else canary
        return pointer.move_route(
            conn, name, expect_epoch=None, active=Side(side), canary=share, who="test", host="here"
        ).epoch
