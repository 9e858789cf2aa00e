"""Tables with both sides' vectors, written directly, for the tests and benchmarks of comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from embedtui.engine.validate import queries
from embedtui.engine.validate.compare import compare
from embedtui.engine.validate.gate import decide_gate
from embedtui.model import (
    Comparison,
    Condition,
    Distance,
    EmbeddingModel,
    IndexMethod,
    Migration,
    Phase,
    PlacementKind,
    QueryInput,
    TableName,
)
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import fingerprint_sql, new_side
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.state.migrations import create_migration
from embedtui.postgres.state.schema import install
from tests.kits.samples import sample_migration
from tests.kits.support import connect

Vectors = NDArray[np.float32]

ROWS, OLD, NEW = 400, 12, 16


def connector(dsn: str) -> Callable[[], Connection]:
    return lambda: connect(dsn, name="compare")


def unit(vectors: NDArray[np.floating]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def models(old: Vectors, new: Vectors) -> tuple[EmbeddingModel, EmbeddingModel]:
    return (
        EmbeddingModel("old-model", old.shape[1], base_url="http://127.0.0.1:9/v1"),
        EmbeddingModel("new-model", new.shape[1], base_url="http://127.0.0.1:9/v1"),
    )


def make_table(
    dsn: str,
    texts: Sequence[str],
    old: Vectors,
    new: Vectors,
    *,
    keys: Sequence[str] | None = None,
    old_model: EmbeddingModel | None = None,
    new_model: EmbeddingModel | None = None,
    placement: PlacementKind = PlacementKind.COLUMN,
    distance: Distance = Distance.COSINE,
    halfvec: bool = False,
    filled: int | None = None,
    index: str = "hnsw",
) -> Migration:
    """Table ``docs`` (key column ``id``, text; number ``category`` = position % 3) with both sides, and its migration.

    ``filled``: only so many rows have their new vector. ``index``: options of the new side's index, ``hnsw`` or
    ``ivfflat WITH (…)``; empty for none. The old side always has an hnsw index.
    """
    keys = keys or [str(number) for number in range(len(texts))]
    default_old, default_new = models(old, new)
    kind = "halfvec" if halfvec else "vector"
    with connect(dsn, name="test") as conn:
        install(conn)
        conn.execute(
            sql.SQL(
                "CREATE TABLE docs (id text PRIMARY KEY, category integer NOT NULL, content text, embedding vector({}))"
            ).format(sql.Literal(old.shape[1]))
        )
        with conn.cursor().copy("COPY docs (id, category, content, embedding) FROM STDIN") as copy:
            for number, (key, text, vector) in enumerate(zip(keys, texts, old, strict=True)):
                copy.write_row((key, number % 3, text, literal(vector)))
        oid = conn.execute("SELECT 'docs'::regclass::oid").fetchone()
        assert oid is not None
        side_table = TableName("public", "docs_embedding_v2")
        migration = create_migration(
            conn,
            sample_migration(
                TableName("public", "docs"),
                table_oid=oid[0],
                key_types=("text",),
                placement=placement,
                old_model=old_model or default_old,
                new_model=new_model or default_new,
                new_table=TableName("public", "docs") if placement is PlacementKind.COLUMN else side_table,
                new_column="embedding_v2" if placement is PlacementKind.COLUMN else "embedding",
                vector_type=kind,
                distance=distance,
                index_method=IndexMethod(index.split()[0]) if index else IndexMethod.NONE,
                phase=Phase.VALIDATE,
                condition=Condition.IDLE,
            ),
        )
        for statement in make_placement(migration).prepare_sql():
            conn.execute(statement)
        write_new(conn, migration, keys[:filled], new[:filled])
        operators = f"{{}}_{distance.value}_ops"
        conn.execute(f"CREATE INDEX docs_old ON docs USING hnsw (embedding {operators.format('vector')})")
        if index:
            build_index(conn, migration, index)
        conn.execute("ANALYZE")
    return migration


def build_index(conn: Connection, migration: Migration, index: str) -> None:
    """The new side's index, after dropping an earlier one."""
    method, _, options = index.partition(" ")
    side = new_side(migration)
    conn.execute("DROP INDEX IF EXISTS docs_new")
    conn.execute(
        sql.SQL("CREATE INDEX docs_new ON {} USING {} ({} {}) {}").format(
            relation(side.table),
            sql.SQL(method),
            sql.Identifier(side.embedding),
            sql.SQL(f"{migration.vector_type}_{migration.distance.value}_ops"),
            sql.SQL(options),
        )
    )


def write_new(conn: Connection, migration: Migration, keys: Sequence[str], vectors: Vectors) -> None:
    """Fill the new side as the backfill would, stamped with model and fingerprint."""
    side = new_side(migration)
    with conn.transaction():
        conn.execute("CREATE TEMP TABLE given (id text PRIMARY KEY, embedding vector) ON COMMIT DROP")
        with conn.cursor().copy("COPY given FROM STDIN") as copy:
            for key, vector in zip(keys, vectors, strict=True):
                copy.write_row((key, literal(vector)))
        names = {
            "side": relation(side.table),
            "embedding": sql.Identifier(side.embedding),
            "model_column": sql.Identifier(side.model),
            "source": sql.Identifier(side.source),
            "kind": sql.SQL(migration.vector_type),
            "model": sql.Literal(migration.new_model.id),
            "fingerprint": fingerprint_sql(migration, "docs"),
        }
        if migration.placement is PlacementKind.COLUMN:
            statement = (
                "UPDATE docs SET {embedding} = g.embedding::{kind}, {model_column} = {model}, {source} = {fingerprint}"
                " FROM given g WHERE g.id = docs.id"
            )
        else:
            statement = (
                "INSERT INTO {side} (id, {embedding}, {model_column}, {source})"
                " SELECT docs.id, g.embedding::{kind}, {model}, {fingerprint} FROM docs JOIN given g USING (id)"
            )
        conn.execute(sql.SQL(statement).format(**names))


def literal(vector: Vectors) -> str:
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def execute(dsn: str, statement: str) -> None:
    """Run a statement on a connection of its own; closing it makes the server's counters current."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statement)


def random_sides(seed: int = 1, rows: int = ROWS) -> tuple[Vectors, Vectors]:
    """Two models' vectors of the same hidden meanings: alike, not equal."""
    draw = np.random.default_rng(seed)
    meaning = draw.normal(size=(rows, 6))
    old = meaning @ draw.normal(size=(6, OLD)) + 0.5 * draw.normal(size=(rows, OLD))
    new = meaning @ draw.normal(size=(6, NEW)) + 0.5 * draw.normal(size=(rows, NEW))
    return unit(old), unit(new)


def random_table(dsn: str, **options: Any) -> Migration:
    old, new = random_sides()
    return make_table(dsn, [f"text {number}" for number in range(ROWS)], old, new, **options)


def row_queries(dsn: str, migration: Migration, count: int = 40) -> tuple[QueryInput, ...]:
    with connect(dsn, name="test") as conn:
        return queries.from_rows(conn, migration, count)


def small(dsn: str, **options: object) -> Migration:
    draw = np.random.default_rng(6)
    return make_table(
        dsn,
        [f"text {number}" for number in range(200)],
        unit(draw.normal(size=(200, 5))),
        unit(draw.normal(size=(200, 5))),
        **options,  # type: ignore[arg-type]
    )


def rows_compared(dsn: str, migration: Migration) -> Comparison:
    with connect(dsn, name="test") as conn:
        asked = queries.from_rows(conn, migration, 40)
    return decide_gate(connector(dsn), migration, compare(connector(dsn), migration, asked))
