"""Direct SQL of either side: the right vectors, by index where it should be, exact where it must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embedtui.model import Migration, PlacementKind, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.search import search_sql
from tests.kits.cutover_kit import key_values, make, vector
from tests.kits.support import connect

BOTH = pytest.mark.parametrize("placement", list(PlacementKind))


def ask(
    conn: Connection, migration: Migration, side: Side, query: Sequence[float], k: int = 3, **options: Any
) -> list[Any]:
    key = options.pop("key", None)
    parameters = {"vector": str(list(query)), "k": k} | ({"key": list(key)} if key else {})
    return conn.execute(search_sql(migration, side, **options), parameters).fetchall()


def explain(conn: Connection, migration: Migration, side: Side, **options: Any) -> str:
    query = sql.SQL("EXPLAIN ") + search_sql(migration, side, **options)
    return "\n".join(line for (line,) in conn.execute(query, {"vector": str(vector(3)), "k": 10, "key": ["1"]}))


@BOTH
def test_each_side_finds_its_own_nearest(database: str, placement: PlacementKind) -> None:
    migration = make(database, placement, rows=8)
    with connect(database, name="test") as conn:
        old = ask(conn, migration, Side.OLD, vector(4), columns=["content", "lang"])
        new = ask(conn, migration, Side.NEW, vector(4), columns=["content"])
    assert old[0][0] == ["4"]
    assert old[0][2:] == ("text 4", "de")
    assert new[0][0] == ["3"]
    assert new[0][2:] == ("text 3",)
    assert old[0][1] == pytest.approx(0, abs=1e-6)
    assert [row[1] for row in old] == sorted(row[1] for row in old)


@BOTH
@pytest.mark.parametrize("side", list(Side))
def test_index_serves_the_search_and_stays_out_of_the_exact_one(
    database: str, placement: PlacementKind, side: Side
) -> None:
    migration = make(database, placement, rows=300)
    index = "idx_documents_embedding" + ("_v2" if side is Side.NEW else "")
    with connect(database, name="test") as conn:
        conn.execute("SET enable_seqscan = off; SET enable_sort = off")  # else so small a table is read whole
        for options in (
            {},
            {"where": sql.SQL("lang = 'en'"), "columns": ["content"]},
            {"without_key": True},
            {"where": sql.SQL("lang = 'en'"), "iterative_scan": "strict_order"},
        ):
            assert f"Index Scan using {index} " in explain(conn, migration, side, **options), options
        assert "idx_documents" not in explain(conn, migration, side, exact=True)
        # a prepared statement's generic plan must not lose the index either
        query = search_sql(migration, side)
        for _ in range(12):
            conn.execute(query, {"vector": str(vector(3)), "k": 10}, prepare=True).fetchall()
        prepared = conn.execute(
            "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT ARRAY%'"
        ).fetchone()
        assert prepared is not None
        plan = conn.execute(f"EXPLAIN EXECUTE \"{prepared[0]}\"('{vector(3)}', 10)").fetchall()
        assert index in str(plan)


@BOTH
def test_exact_and_index_agree_on_a_small_table(database: str, placement: PlacementKind) -> None:
    migration = make(database, placement, rows=30)
    with connect(database, name="test") as conn:
        exact = ask(conn, migration, Side.NEW, [n + 0.5 for n in range(8)], k=10, exact=True)
        conn.execute("SET enable_seqscan = off")
        by_index = ask(conn, migration, Side.NEW, [n + 0.5 for n in range(8)], k=10)
    assert {tuple(row[0]) for row in exact[:5]} <= {tuple(row[0]) for row in by_index}


@BOTH
def test_rows_without_a_vector_are_left_out(database: str, placement: PlacementKind) -> None:
    migration = make(database, placement, rows=6)
    with connect(database, name="test") as conn:
        conn.execute("INSERT INTO documents (id, content) VALUES (99, 'no vector yet')")
        for side in Side:
            for exact in (True, False):
                keys = [row[0] for row in ask(conn, migration, side, vector(1), k=50, exact=exact)]
                assert len(keys) == 6
                assert ["99"] not in keys


@BOTH
def test_filter_means_the_users_table_and_is_applied_inside(database: str, placement: PlacementKind) -> None:
    migration = make(database, placement, rows=400)
    with connect(database, name="test") as conn:
        conn.execute("SET enable_seqscan = off")
        conn.execute("SET enable_sort = off")
        # "id" and "content" would be ambiguous between the table and its side table without care
        where = sql.SQL("id > 390 AND documents.content LIKE 'text%%'")
        for side in Side:
            plain = ask(conn, migration, side, vector(1), k=5, where=where, iterative_scan="strict_order")
            assert len(plain) == 5, "an index scan stops too early without iterative scan"
            assert all(int(row[0][0]) > 390 for row in plain)
        assert conn.execute("SHOW hnsw.iterative_scan").fetchone() == ("off",), "outlives its statement"


@BOTH
def test_a_row_is_left_out_of_its_own_neighbours(database: str, placement: PlacementKind) -> None:
    migration = make(database, placement, rows=8)
    with connect(database, name="test") as conn:
        rows = ask(conn, migration, Side.OLD, vector(4), k=8, without_key=True, key=("4",))
    assert len(rows) == 7
    assert all(row[0] != ["4"] for row in rows)


@BOTH
def test_quoted_names_composite_keys_and_a_schema_of_its_own_for_pgvector(
    empty_database: str, placement: PlacementKind
) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute('CREATE SCHEMA "Vector Things"')
        conn.execute('CREATE EXTENSION vector SCHEMA "Vector Things"')
        conn.execute('CREATE SCHEMA "My Schema"')
    migration = make(
        empty_database,
        placement,
        rows=8,
        key=(("Tenant Id", "uuid"), ("no", "integer")),
        table='My "Docs" 100%',
        schema_name="My Schema",
        vector_schema="Vector Things",
    )
    with connect(empty_database, name="test") as conn:
        conn.execute("SET search_path = pg_catalog")
        for side, number in ((Side.OLD, 4), (Side.NEW, 3)):
            rows = ask(conn, migration, side, vector(4), k=2)
            assert tuple(rows[0][0]) == key_values(migration, number)
            assert len(ask(conn, migration, side, vector(4), k=50, without_key=True, key=rows[0][0])) == 7


def test_a_vector_of_the_wrong_length_is_an_error(database: str) -> None:
    migration = make(database, rows=3)
    with connect(database, name="test") as conn, pytest.raises(psycopg.errors.DataException, match="expected 8"):
        ask(conn, migration, Side.OLD, [1.0, 2.0])
