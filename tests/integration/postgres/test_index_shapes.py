"""Indexes on the old column as applications have them: how a search is served by each, and which serve none."""

from __future__ import annotations

import threading
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from embedtui.config import IndexSettings
from embedtui.engine.validate import gate
from embedtui.engine.validate.compare import compare
from embedtui.engine.validate.run import CompareOptions, Run
from embedtui.model import Distance, EmbeddingModel, IndexMethod, PlacementKind, Side
from embedtui.postgres import indexes
from embedtui.postgres.catalog.vectors import vector_indexes, why_unserved
from embedtui.postgres.connect import Connection
from embedtui.postgres.indexes.existing import approximate_index, search_type
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import new_side
from embedtui.router import Router
from embedtui.router.sql import SideSql
from tests.kits.comparing import connector, execute, make_table, random_sides, random_table, row_queries
from tests.kits.cutover_kit import flip, make, vector
from tests.kits.support import connect

BOTH = pytest.mark.parametrize("placement", list(PlacementKind))
QUICK = IndexSettings(m=4, ef_construction=8)

DISKANN = """CREATE ACCESS METHOD diskann TYPE INDEX HANDLER hnswhandler;
CREATE OPERATOR CLASS nearest FOR TYPE vector USING diskann AS OPERATOR 1 <=> (vector, vector) FOR ORDER BY float_ops,
    FUNCTION 1 vector_negative_inner_product(vector, vector), FUNCTION 2 vector_norm(vector);
CREATE INDEX shaped ON documents USING diskann (embedding nearest)"""

UNTYPED = "ALTER TABLE documents ALTER embedding TYPE vector;"

SERVED = {
    "cast to halfvec": ("CREATE INDEX shaped ON documents USING hnsw ((embedding::halfvec(8)) halfvec_cosine_ops)",
                        "halfvec"),
    "written otherwise": ("CREATE INDEX shaped ON documents USING ivfflat ((CAST(embedding AS halfvec(8))) "
                          "halfvec_cosine_ops) WITH (lists = 2)", "halfvec"),
    "untyped": (UNTYPED + "CREATE INDEX shaped ON documents USING hnsw ((embedding::vector(8)) vector_cosine_ops)",
                "vector"),
    "untyped to halfvec": (UNTYPED + "CREATE INDEX shaped ON documents USING hnsw ((embedding::halfvec(8)) "
                           "halfvec_cosine_ops)", "halfvec"),
    "another method": (DISKANN, ""),
    "beside a partial one": ("CREATE INDEX part ON documents USING hnsw (embedding vector_cosine_ops) WHERE id < 9;"
                             "CREATE INDEX shaped ON documents USING hnsw ((embedding::halfvec(8)) "
                             "halfvec_cosine_ops)", "halfvec"),
    "beside another distance": ("CREATE INDEX other ON documents USING hnsw (embedding vector_l2_ops); CREATE INDEX "
                                "shaped ON documents USING hnsw ((embedding::halfvec(8)) halfvec_cosine_ops)",
                                "halfvec"),
}  # fmt: skip


def plan_of(conn: Connection, statement: str, values: object) -> str:
    with conn.transaction():
        conn.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")  # so small a table is read whole
        cursor = psycopg.ClientCursor(conn)
        return "\n".join(line for (line,) in cursor.execute("EXPLAIN " + statement, values))  # type: ignore[arg-type]


@pytest.mark.parametrize(("ddl", "cast_to"), list(SERVED.values()), ids=list(SERVED))
def test_every_search_of_the_old_side_goes_by_its_index(database: str, ddl: str, cast_to: str) -> None:
    migration = make(database, rows=300, index=False)
    execute(database, ddl)
    values = {"vector": str(vector(3)), "k": 3}
    with connect(database) as conn:
        conn.execute("ANALYZE")
        assert search_type(conn, migration, Side.OLD) == cast_to
        use = indexes.used_by_search(conn, migration, Side.OLD)
        assert (use.usable, use.index) == (True, "shaped")
        found = approximate_index(conn, migration, Side.OLD)
        assert found is not None
        assert found.name == "shaped"
        with Router(database) as router:
            route = router.route("documents")
            assert "Index Scan using shaped" in plan_of(conn, route.search_sql(style="pyformat"), values)
            filtered = route.search_sql(style="pyformat", where="lang = 'en'")
            assert "Index Scan using shaped" in plan_of(conn, filtered, values)
            assert route.search(conn, vector(3), 1)[0].key == ("3",)
        text = conn.execute("SELECT embedtui.search_statement('documents', 'old-model', 8, NULL)").fetchone()
        assert text is not None
        inlined = text[0].replace("$1", f"'{vector(3)}'").replace("$2", "3").replace("%", "%%")
        assert "Index Scan using shaped" in plan_of(conn, inlined, {})
        nearest = conn.execute("SELECT key FROM embedtui.search('documents', 'old-model', %s, 1)", [str(vector(3))])
        assert nearest.fetchone() == ("3",)


UNSERVED = {
    "one for each tenant": (
        "CREATE INDEX en ON documents USING hnsw (embedding vector_cosine_ops) WHERE lang = 'en';"
        "CREATE INDEX de ON documents USING hnsw ((embedding::halfvec(8)) halfvec_cosine_ops) WHERE lang = 'de'",
        "index de is of the rows where (lang = 'de'::text) only, and 1 more like it"),
    "an expression that is no cast": (
        "CREATE INDEX cut ON documents USING hnsw ((subvector(embedding, 1, 4)::vector(4)) vector_cosine_ops)",
        "index cut is on ("),
    "a cast of what is no column": (
        "CREATE INDEX long ON documents USING hnsw ((l2_normalize(embedding)::halfvec(8)) halfvec_cosine_ops)",
        "index long is on ("),
    "invalid": (
        "CREATE INDEX broken ON documents USING hnsw (embedding vector_cosine_ops);"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass", "index broken is invalid"),
    "of another distance": ("CREATE INDEX other ON documents USING hnsw (embedding vector_l2_ops)", None),
    "none": ("SELECT 1", None),
}  # fmt: skip


@pytest.mark.parametrize(("ddl", "why"), list(UNSERVED.values()), ids=list(UNSERVED))
def test_what_serves_no_search_of_the_whole_table_is_taken_for_none(database: str, ddl: str, why: str | None) -> None:
    migration = make(database, rows=60, index=False)
    execute(database, ddl)
    with connect(database) as conn:
        assert search_type(conn, migration, Side.OLD) == ""
        assert approximate_index(conn, migration, Side.OLD) is None
        assert not indexes.used_by_search(conn, migration, Side.OLD).usable
        found = why_unserved(vector_indexes(conn, migration.table_oid, "embedding"), Distance.COSINE)
        assert (found is None) == (why is None)
        assert found is None or found.startswith(str(why))


def test_partitions_with_indexes_of_their_own_are_searched_by_them(database: str) -> None:
    migration = make(database, rows=0, index=False)
    execute(
        database,
        """DROP TABLE documents;
        CREATE TABLE documents (id bigint PRIMARY KEY, content text, lang text, embedding vector(8))
            PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF documents FOR VALUES FROM (0) TO (100);
        CREATE TABLE high (embedding vector(8), lang text, content text, id bigint NOT NULL);
        ALTER TABLE documents ATTACH PARTITION high FOR VALUES FROM (100) TO (900);
        INSERT INTO documents SELECT i, 't', 'en', ARRAY(SELECT random() + 0 * i FROM generate_series(1, 8))::vector
            FROM generate_series(1, 300) i;
        CREATE INDEX of_low ON low USING hnsw ((embedding::halfvec(8)) halfvec_cosine_ops);
        CREATE INDEX of_high ON high USING hnsw ((embedding::halfvec(8)) halfvec_cosine_ops); ANALYZE""",
    )
    with connect(database) as conn:
        assert search_type(conn, migration, Side.OLD) == "halfvec"
        assert indexes.used_by_search(conn, migration, Side.OLD).usable
        with Router(database) as router:
            text = router.route("documents").search_sql(style="pyformat")
        plan = plan_of(conn, text, {"vector": str(vector(3)), "k": 3})
        assert "of_low" in plan
        assert "of_high" in plan
        found = approximate_index(conn, migration, Side.OLD)
        assert found is not None


@BOTH
def test_the_new_index_has_the_shape_of_the_old_one(database: str, placement: PlacementKind) -> None:
    migration = make(database, placement, rows=300, index=False)
    execute(database, "CREATE INDEX mine ON documents USING hnsw ((embedding::halfvec(8)) halfvec_cosine_ops)")
    opener = connector(database)
    built = indexes.build(opener, migration, QUICK, threading.Event())
    assert (built.name, built.built) == ("mine_v2", True)
    with connect(database) as conn:
        conn.execute("ANALYZE")
        assert search_type(conn, migration, Side.NEW) == "halfvec"
        assert indexes.index_status(conn, migration).valid
        use = indexes.used_by_search(conn, migration, Side.NEW)
        assert (use.usable, use.index) == (True, "mine_v2")
        assert gate._index(conn, migration).result in ("pass", "warn")
        # the statement of the application itself, the new column under the old one's name in its place
        side = new_side(migration)
        as_before = sql.SQL("SELECT 1 FROM {} ORDER BY {}::halfvec(8) <=> %(vector)s::halfvec(8) LIMIT 3").format(
            relation(side.table), sql.Identifier(side.embedding)
        )
        assert "mine_v2" in plan_of(conn, as_before.as_string(conn), {"vector": str(vector(3))})
        with Router(database) as router:
            flip(database, "documents", "new")
            route = router.route("documents", model="new-model")
            text = route.search_sql(style="pyformat")
            assert "mine_v2" in plan_of(conn, text, {"vector": str(vector(3)), "k": 3})
            assert route.search(conn, vector(4), 1)[0].key == ("3",)
        # a rerun knows it, though the old index has changed since
        assert not indexes.build(opener, migration, QUICK, threading.Event()).built
        conn.execute("DROP INDEX mine; CREATE INDEX mine ON documents USING hnsw (embedding vector_cosine_ops)")
        assert not indexes.build(opener, migration, QUICK, threading.Event()).built
        assert indexes.prewarm(conn, migration) > 0


@pytest.mark.parametrize(
    ("old", "new_type", "dimensions", "on"),
    [
        ("CREATE INDEX a ON documents USING hnsw (embedding vector_cosine_ops)", "vector", 8, "vector_cosine_ops"),
        ("CREATE INDEX a ON documents USING hnsw (embedding vector_cosine_ops)", "vector", 2500,
         '((CAST("embedding_v2" AS "public"."halfvec"(2500))) "public"."halfvec_cosine_ops")'),
        ("CREATE INDEX a ON documents USING hnsw ((embedding::halfvec(8)) halfvec_cosine_ops)", "halfvec", 8,
         '("embedding_v2" "public"."halfvec_cosine_ops")'),
        (UNTYPED + "CREATE INDEX a ON documents USING hnsw ((embedding::vector(8)) vector_cosine_ops)", "vector", 8,
         '("embedding_v2" "public"."vector_cosine_ops")'),
        (UNTYPED + "CREATE INDEX a ON documents USING hnsw ((embedding::vector(8)) vector_cosine_ops)", "halfvec", 3072,
         '("embedding_v2" "public"."halfvec_cosine_ops")'),
    ],
)  # fmt: skip
def test_the_new_index_is_on_a_cast_only_where_that_is_sound(
    database: str, old: str, new_type: str, dimensions: int, on: str
) -> None:
    migration = make(database, rows=0, index=False)
    execute(database, old)
    migration = replace(migration, vector_type=new_type, new_model=EmbeddingModel("m", dimensions, id=2))
    with connect(database) as conn:
        (statement,) = indexes.create_sql(conn, migration, IndexSettings(IndexMethod.HNSW))
        assert on in statement.as_string(conn)


@pytest.mark.parametrize("exact_bytes", [0, 2 << 30])
def test_a_comparison_searches_by_the_index_and_is_exact_as_it_is(database: str, exact_bytes: int) -> None:
    migration = random_table(database)
    execute(
        database,
        "DROP INDEX docs_old; CREATE INDEX mine ON docs USING hnsw ((embedding::halfvec(12)) halfvec_cosine_ops)",
    )
    made = compare(
        connector(database), migration, row_queries(database, migration), CompareOptions(exact_bytes=exact_bytes)
    )
    assert made.measures.exact_queries == 40
    # by the distances of the column itself, rounding would be taken for loss, or loss for rounding
    assert made.measures.index_recall_old is not None
    assert made.measures.index_recall_old > 0.99
    assert made.measures.latency_old_ms is not None
    with connect(database) as conn:
        scans = conn.execute("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'mine'").fetchone()
        assert scans is not None


def test_a_latency_that_the_application_does_not_see_is_none(database: str) -> None:
    migration = random_table(database)
    execute(
        database,
        "DROP INDEX docs_old; CREATE INDEX one ON docs USING hnsw (embedding vector_cosine_ops) WHERE category = 1",
    )
    asked = row_queries(database, migration)
    whole = compare(connector(database), migration, asked)
    assert whole.measures.latency_old_ms is None
    assert whole.measures.latency_new_ms is not None
    assert whole.measures.index_recall_old is None
    assert any("index one is of the rows where (category = 1) only" in line for line in whole.measures.unknown)
    check = next(
        each for each in gate.decide_gate(connector(database), migration, whole).checks if each.name == "latency"
    )
    assert "the old side's is not known" in check.detail
    # by the application's own filter it serves
    tenant = compare(connector(database), migration, asked, CompareOptions(where="category = 1"))
    assert tenant.measures.latency_old_ms is not None
    other = compare(connector(database), migration, asked, CompareOptions(where="category = 2"))
    assert other.measures.latency_old_ms is None


@pytest.mark.parametrize(
    ("distance", "factor", "said"), [("ip", 0.5, True), ("ip", 1.0, False), ("cosine", 0.5, False)]
)
def test_lengths_that_the_distance_weighs_are_said(database: str, distance: str, factor: float, said: bool) -> None:
    old, new = random_sides(rows=60)
    texts = [f"text {number}" for number in range(60)]
    migration = make_table(database, texts, old, factor * new, distance=Distance(distance))
    made = compare(connector(database), migration, row_queries(database, migration))
    assert any("vectors are 0.5 to 0.5 long" in line for line in made.measures.unknown) == said


@BOTH
@pytest.mark.parametrize("where", ["", "lang = 'en'", "content LIKE 'te%'"])
def test_a_comparison_asks_what_the_router_asks(database: str, placement: PlacementKind, where: str) -> None:
    migration = make(database, placement, rows=5, index=False)
    execute(database, "CREATE INDEX mine ON documents USING hnsw ((embedding::halfvec(8)) halfvec_cosine_ops)")
    with connect(database) as conn:
        version = conn.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        assert version is not None
        run = Run(migration, CompareOptions(where=where), print, threading.Event()).prepared(conn)
        for side in Side:
            asked = run.statement(side)
            routed = SideSql(migration, side, version[0], True, None, search_type(conn, migration, side))
            assert asked.as_string(conn) == routed.search((), where.replace("%", "%%"), None)
            assert ("strict_order" in asked.as_string(conn)) == bool(where)
