"""One index for each tenant on the old side: the new side gets the same, each found by the searches that it is for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from embedtui.config import IndexSettings
from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.engine.cleanup.choice import CleanupChoice
from embedtui.engine.cleanup.statements import cleanup_statements
from embedtui.engine.cutover.strategies import rename_sql
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.vectors import _check_shapes
from embedtui.engine.validate import gate
from embedtui.engine.validate.compare import compare
from embedtui.engine.validate.run import CompareOptions
from embedtui.errors import Interrupted
from embedtui.model import IndexMethod, IndexStatus, Migration, PlacementKind, RowExpression, Side
from embedtui.postgres import indexes
from embedtui.postgres.connect import Connection
from embedtui.postgres.expressions import parse
from embedtui.postgres.indexes.existing import approximate_index, search_type
from embedtui.postgres.indexes.shapes import conjuncts
from embedtui.router import Router
from tests.kits.comparing import connector, execute, random_table, row_queries
from tests.kits.cutover_kit import flip, make, vector
from tests.kits.support import connect, make_documents, settings_for

QUICK = IndexSettings(m=4, ef_construction=8)
TENANTS = """
CREATE INDEX of_en ON documents USING hnsw (embedding vector_cosine_ops) WHERE lang = 'en';
CREATE INDEX of_de ON documents USING hnsw (embedding vector_cosine_ops) WHERE lang = 'de' AND embedding IS NOT NULL;
CREATE INDEX far ON documents USING hnsw (embedding vector_l2_ops) WHERE id > 3
"""
CASTS = """
CREATE INDEX of_en ON documents USING hnsw ((embedding::halfvec(8)) halfvec_cosine_ops) WHERE lang IN ('en', 'fr');
CREATE INDEX of_de ON documents USING hnsw ((embedding::halfvec(8)) halfvec_cosine_ops) WHERE NOT lang IN ('en', 'fr')
"""
PARTITIONED = """
DROP TABLE documents;
CREATE TABLE documents (id bigint PRIMARY KEY, content text, lang text, embedding vector(8), embedding_v2 vector(8))
    PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF documents FOR VALUES FROM (0) TO (100);
CREATE TABLE high (embedding vector(8), embedding_v2 vector(8), lang text, content text, id bigint NOT NULL);
ALTER TABLE documents ATTACH PARTITION high FOR VALUES FROM (100) TO (900);
INSERT INTO documents SELECT i, 't', CASE i % 2 WHEN 0 THEN 'en' ELSE 'de' END, v, v FROM (
    SELECT i, ARRAY(SELECT random() + 0 * i FROM generate_series(1, 8))::vector v FROM generate_series(1, 300) i) s;
CREATE INDEX of_en ON documents USING hnsw (embedding vector_cosine_ops) WHERE lang = 'en';
CREATE INDEX of_high ON high USING hnsw (embedding vector_cosine_ops) WHERE lang = 'de';
ANALYZE
"""


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with connect(database) as conn:
        yield conn


def tenants(database: str, ddl: str = TENANTS) -> Migration:
    migration = make(database, rows=120, index=False)
    execute(database, ddl)
    execute(database, "ANALYZE")
    return migration


def definitions(conn: Connection, column: str = "embedding_v2") -> dict[str, str]:
    """Each index on the column by its name: what it is on, and of which rows."""
    rows = conn.execute(
        "SELECT indexname, regexp_replace(indexdef, '^.* USING ', '') FROM pg_indexes"
        " WHERE indexdef ~ ('\\m' || %s || '\\M') ORDER BY 1",
        [column],
    ).fetchall()
    return {name: text.replace(" WITH (m='4', ef_construction='8')", "") for name, text in rows}


def scope(conn: Connection, migration: Migration, given: str) -> Migration:
    found: RowExpression = parse(conn, migration.table, given, setting="scope", condition=True)
    return replace(migration, scope=found)


def used(conn: Connection, text: str, values: object) -> str:
    with conn.transaction():
        conn.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")  # so small a table is read whole
        rows = psycopg.ClientCursor(conn).execute("EXPLAIN " + text, values)  # type: ignore[arg-type]
        return "\n".join(line for (line,) in rows)


def test_each_is_made_where_the_old_side_has_one(database: str, conn: Connection) -> None:
    migration = tenants(database)
    done = indexes.build(connector(database), migration, QUICK, threading.Event())
    assert done.built
    assert done.name == "of_en_v2 and 1 more"
    assert definitions(conn) == {
        "of_de_v2": "hnsw (embedding_v2 vector_cosine_ops) WHERE (lang = 'de'::text)",
        "of_en_v2": "hnsw (embedding_v2 vector_cosine_ops) WHERE (lang = 'en'::text)",
    }
    status = indexes.index_status(conn, migration)
    assert (status.exists, status.valid) == (True, True)
    assert not indexes.build(connector(database), migration, QUICK, threading.Event()).built
    assert indexes.prewarm(conn, migration) > 0
    assert gate._index(conn, migration).result in ("pass", "warn")


@pytest.mark.parametrize("ddl", [TENANTS, CASTS], ids=["columns", "casts"])
def test_a_search_with_the_tenants_filter_goes_by_its_index(database: str, conn: Connection, ddl: str) -> None:
    migration = tenants(database, ddl)
    indexes.build(connector(database), migration, QUICK, threading.Event())
    assert search_type(conn, migration, Side.OLD) == search_type(conn, migration, Side.NEW)
    values = {"vector": str(vector(3)), "k": 3}
    with Router(database) as router:
        for side, suffix in ((Side.OLD, ""), (Side.NEW, "_v2")):
            flip(database, "documents", side.value)
            route = router.route("documents", model=f"{side}-model")
            assert route.side is side
            for lang, name in (("en", "of_en"), ("de", "of_de")):
                filtered = used(conn, route.search_sql(style="pyformat", where=f"lang = '{lang}'"), values)
                assert f"Index Scan using {name}{suffix} " in filtered
            whole = used(conn, route.search_sql(style="pyformat"), values)
            assert "of_" not in whole
            found = route.search(conn, vector(4), 5, where="lang = %(lang)s", params={"lang": "de"})
            assert found[0].key == (("4",) if side is Side.OLD else ("2",)) or side is Side.NEW
            assert {int(hit.key[0]) % 2 for hit in found} == {0}


def test_the_scope_decides_which_are_made(database: str, conn: Connection) -> None:
    migration = tenants(database)
    # of the scope's rows alone the new column has vectors: an index of it all holds the same
    one = scope(conn, migration, "lang = 'en'")
    assert [(each.name, each.predicate) for each in indexes.shapes_of(conn, one).made] == [("of_en", "")]
    assert search_type(conn, one, Side.OLD) == ""
    assert indexes.used_by_search(conn, one, Side.OLD).index == "of_en"
    indexes.build(connector(database), one, QUICK, threading.Event())
    assert definitions(conn) == {"of_en_v2": "hnsw (embedding_v2 vector_cosine_ops)"}
    assert indexes.used_by_search(conn, one, Side.NEW).index == "of_en_v2"
    conn.execute("DROP INDEX of_en_v2")
    none = scope(conn, migration, "lang = 'fr'")
    assert [(each.name, each.predicate) for each in indexes.shapes_of(conn, none).made] == [("", "")]
    both = scope(conn, migration, "id < 50")
    assert [each.name for each in indexes.shapes_of(conn, both).made] == ["of_en", "of_de"]


def test_a_build_goes_on_where_it_stopped(database: str, conn: Connection) -> None:
    migration = tenants(database)
    opener, stop, begun = connector(database), threading.Event(), list[str]()

    def on_begin(name: str) -> None:
        begun.append(name)
        if len(begun) == 2:
            stop.set()

    seen: list[IndexStatus] = []
    with psycopg.connect(database) as shop:
        shop.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")

        def on_progress(status: IndexStatus) -> None:
            seen.append(status)

        with pytest.raises(Interrupted):
            indexes.build(opener, migration, QUICK, stop, on_progress, on_begin)
    assert list(definitions(conn)) == ["of_en_v2"]
    assert [each.name for each in indexes.missing(conn, migration)] == ["of_de_v2"]
    assert gate._index(conn, migration).result == "fail"
    begun.clear()
    oid = conn.execute("SELECT 'of_en_v2'::regclass::oid").fetchone()
    assert indexes.build(opener, migration, QUICK, threading.Event(), None, begun.append).built
    assert begun == ["of_de_v2"]
    assert conn.execute("SELECT 'of_en_v2'::regclass::oid").fetchone() == oid


def test_the_one_that_is_built_is_named(database: str) -> None:
    migration = tenants(database)
    seen: list[str] = []
    with psycopg.connect(database, application_name="shop") as shop:

        def on_begin(_name: str) -> None:
            shop.execute("UPDATE documents SET content = 'x' WHERE id = 1")

        def on_progress(status: IndexStatus) -> None:
            if status.waiting_for:
                seen.append(status.phase)
                shop.rollback()

        indexes.build(connector(database), migration, QUICK, threading.Event(), on_progress, on_begin)
    assert seen[0] == "waiting for writers before build"
    assert "of_de_v2, 1 ready: waiting for writers before build" in seen


def test_an_invalid_one_of_them_is_built_again(database: str, conn: Connection) -> None:
    migration = tenants(database)
    opener, begun = connector(database), list[str]()
    indexes.build(opener, migration, QUICK, threading.Event())
    seen = approximate_index(conn, migration, Side.NEW)
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'of_en_v2'::regclass")
    assert not indexes.index_status(conn, migration).valid
    found = approximate_index(conn, migration, Side.NEW)
    assert found is not None
    assert (found.name, found.valid) == ("of_en_v2", False)
    assert seen is not None
    assert found.identity != seen.identity
    assert indexes.build(opener, migration, QUICK, threading.Event(), None, begun.append).built
    assert begun == ["of_en_v2"]
    assert indexes.index_status(conn, migration).valid


def test_what_is_left_of_one_whose_old_index_is_gone_is_dropped(database: str, conn: Connection) -> None:
    migration = tenants(database)
    indexes.build(connector(database), migration, QUICK, threading.Event())
    conn.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'of_en_v2'::regclass; DROP INDEX of_en, of_de"
    )
    conn.execute("CREATE INDEX of_de ON documents USING hnsw (embedding vector_cosine_ops) WHERE lang = 'de'")
    assert not indexes.build(connector(database), migration, QUICK, threading.Event()).built
    assert list(definitions(conn)) == ["of_de_v2"]
    assert indexes.index_status(conn, migration).valid
    conn.execute("DROP INDEX of_de; CREATE INDEX mine ON documents USING hnsw (embedding vector_cosine_ops)")
    indexes.build(connector(database), migration, QUICK, threading.Event())
    assert list(definitions(conn)) == ["mine_v2", "of_de_v2"]


def test_of_partitions_each_has_its_own(database: str, conn: Connection) -> None:
    migration = make(database, rows=0, index=False)
    execute(database, PARTITIONED)
    made = indexes.build(connector(database), migration, QUICK, threading.Event())
    assert made.built
    found = conn.execute(
        "SELECT indrelid::regclass::text, indexrelid::regclass::text, pg_get_expr(indpred, indrelid), indisvalid"
        " FROM pg_index WHERE indexrelid::regclass::text LIKE '%%v2%%' ORDER BY 1, 2"
    ).fetchall()
    assert found == [
        ("documents", "of_en_v2", "(lang = 'en'::text)", True),
        ("high", "high_of_en_v2", "(lang = 'en'::text)", True),
        ("high", "of_high_v2", "(lang = 'de'::text)", True),
        ("low", "low_of_en_v2", "(lang = 'en'::text)", True),
    ]
    assert not indexes.build(connector(database), migration, QUICK, threading.Event()).built
    pairs = {(new.name, old.name) for new, old in indexes.pairs_of(conn, migration)}
    assert pairs == {
        ("of_en_v2", "of_en"), ("of_high_v2", "of_high"),
        ("high_of_en_v2", "high_embedding_idx"), ("low_of_en_v2", "low_embedding_idx"),
    }  # fmt: skip
    # one dropped by hand is built and attached again
    conn.execute("DROP INDEX of_en_v2")
    assert {each.name for each in indexes.missing(conn, migration)} == {"of_en_v2", "high_of_en_v2", "low_of_en_v2"}


def test_cleanup_and_rename_give_each_its_name(database: str, conn: Connection) -> None:
    migration = tenants(database)
    indexes.build(connector(database), migration, QUICK, threading.Event())
    before = definitions(conn, "embedding")
    with conn.transaction():
        for statement in rename_sql(conn, migration, Side.NEW, epoch=1, changed_by="test"):
            if statement.as_string(conn).startswith("ALTER"):
                conn.execute(statement)
    renamed = definitions(conn, "embedding")
    assert renamed["of_en"] == before["of_en"]
    assert definitions(conn, "embedding_v2")["of_en_v2"] == before["of_en"].replace("embedding ", "embedding_v2 ")
    steps = cleanup_statements(conn, migration, CleanupChoice())
    (contract,) = [step for step in steps if step.name == "contract"]
    assert 'ALTER INDEX "public"."of_de_v2" RENAME TO "of_de"' in contract.statements
    assert 'ALTER INDEX "public"."of_en_v2" RENAME TO "of_en"' in contract.statements


def test_a_comparison_says_what_it_cannot_know_and_how_to_ask(database: str) -> None:
    migration = random_table(database)
    execute(
        database,
        "DROP INDEX docs_old, docs_new; ALTER TABLE docs ALTER category SET STATISTICS 10;"
        "CREATE INDEX one ON docs USING hnsw (embedding vector_cosine_ops) WHERE category = 1;"
        "CREATE INDEX two ON docs USING hnsw (embedding vector_cosine_ops) WHERE category = 2; ANALYZE",
    )
    indexes.build(connector(database), migration, QUICK, threading.Event())
    asked = row_queries(database, migration)
    whole = compare(connector(database), migration, asked)
    figures = whole.measures
    assert (figures.latency_old_ms, figures.latency_new_ms, figures.index_recall) == (None, None, None)
    assert [line for line in figures.unknown if "category = 1" in line and "The new side's latency" in line]
    checks = {each.name: each for each in gate.decide_gate(connector(database), migration, whole).checks}
    assert checks["index loss"].result == "inconclusive"
    assert "gate.where" in checks["index loss"].hint
    tenant = compare(connector(database), migration, asked, CompareOptions(where="category = 2"))
    assert tenant.measures.index_recall is not None
    assert tenant.measures.latency_new_ms is not None


def test_a_side_table_takes_over_what_its_key_tells(database: str, conn: Connection) -> None:
    key = (("tenant", "integer"), ("id", "bigint"))
    migration = make(database, PlacementKind.TABLE, rows=60, key=key, index=False)
    execute(
        database,
        "CREATE INDEX of_seven ON documents USING hnsw (embedding vector_cosine_ops) WHERE tenant = 7;"
        "CREATE INDEX of_nine ON documents USING hnsw (embedding vector_cosine_ops) WHERE tenant = 9; ANALYZE",
    )
    assert indexes.shapes_of(conn, migration).unmade == ()
    indexes.build(connector(database), migration, QUICK, threading.Event())
    assert [name for name in definitions(conn, "embedding") if name.endswith("_v2")] == ["of_nine_v2", "of_seven_v2"]
    use = indexes.used_by_search(conn, migration, Side.NEW, sql.SQL("tenant = 9"))
    assert (use.usable, use.index) == (True, "of_nine_v2")
    # what the side table does not know, or no join brings there
    for condition in ("lang = 'en'", "tenant < 9", "tenant = id"):
        conn.execute("DROP INDEX of_seven")
        execute(
            database, f"CREATE INDEX of_seven ON documents USING hnsw (embedding vector_cosine_ops) WHERE {condition}"
        )
        shapes = indexes.shapes_of(conn, migration)
        assert [each.name for each in shapes.unmade] == ["of_seven"]
        assert [(each.name, each.predicate) for each in shapes.made] == [("", ""), ("of_nine", "(tenant = 9)")]
        (warned, _) = list(_check_shapes(conn, migration))
        assert warned.result == "warn"
        assert "of_seven where" in warned.detail


def test_a_condition_on_the_old_vector_is_left_to_an_index_of_all(database: str, conn: Connection) -> None:
    migration = tenants(
        database,
        "CREATE INDEX one ON documents USING hnsw (embedding vector_cosine_ops) WHERE vector_norm(embedding) > 1 "
        "AND embedding IS NOT NULL",
    )
    shapes = indexes.shapes_of(conn, migration)
    assert [each.predicate for each in shapes.made] == [""]
    assert "embedding itself" in shapes.unmade[0].why
    # that it is there is no condition: no index holds a NULL
    execute(
        database,
        "DROP INDEX one; CREATE INDEX one ON documents USING hnsw (embedding vector_cosine_ops)"
        " WHERE embedding IS NOT NULL",
    )
    assert indexes.used_by_search(conn, migration, Side.OLD).usable
    assert approximate_index(conn, migration, Side.OLD) is not None
    assert [each.name for each in indexes.targets_of(conn, migration)] == ["one_v2"]
    assert indexes.shapes_of(conn, migration).unmade == ()


def test_a_whole_one_beside_partial_ones_is_made_too(database: str, conn: Connection) -> None:
    migration = tenants(database, TENANTS + "; CREATE INDEX mine ON documents USING hnsw (embedding vector_cosine_ops)")
    indexes.build(connector(database), migration, QUICK, threading.Event())
    assert sorted(definitions(conn)) == ["mine_v2", "of_de_v2", "of_en_v2"]
    found = approximate_index(conn, migration, Side.NEW)
    assert found is not None
    assert found.name == "mine_v2"


def test_names_that_others_have_are_not_taken(database: str, conn: Connection) -> None:
    long = "x" * 63
    migration = tenants(
        database,
        f"CREATE INDEX docs ON documents USING hnsw (embedding vector_cosine_ops) WHERE id = 1;"
        f"CREATE INDEX docs_v2 ON documents USING hnsw (embedding vector_cosine_ops) WHERE id = 2;"
        f"CREATE INDEX {long} ON documents USING hnsw (embedding vector_cosine_ops) WHERE id = 3",
    )
    names = [each.name for each in indexes.targets_of(conn, migration)]
    assert len(set(names)) == 3
    assert not {"docs", "docs_v2", long} & set(names)
    indexes.build(connector(database), migration, QUICK, threading.Event())
    assert indexes.missing(conn, migration) == []


def test_two_scopes_of_one_table_have_an_index_each(database: str, conn: Connection) -> None:
    migration = tenants(database, "CREATE INDEX mine ON documents USING hnsw (embedding vector_cosine_ops)")
    one = scope(conn, migration, "lang = 'en'")
    conn.execute("ALTER TABLE documents ADD embedding_v3 vector(8); UPDATE documents SET embedding_v3 = embedding")
    other = replace(scope(conn, migration, "lang = 'de'"), new_column="embedding_v3", id=migration.id + 1)
    assert indexes.build(connector(database), one, QUICK, threading.Event()).name == "mine_v2"
    assert indexes.build(connector(database), other, QUICK, threading.Event()).name == "mine_v3"


def test_ivfflat_lists_are_by_the_rows_of_each(database: str, conn: Connection) -> None:
    migration = replace(tenants(database), index_method=IndexMethod.IVFFLAT)
    conn.execute("UPDATE pg_class SET reltuples = 7000 WHERE relname = 'of_en'")
    texts = [each.as_string(conn) for each in indexes.create_sql(conn, migration, IndexSettings(IndexMethod.IVFFLAT))]
    assert [text.split("WITH ")[1] for text in texts] == [
        "(\"lists\" = 7) WHERE (lang = 'en'::text)",
        "(\"lists\" = 1) WHERE (lang = 'de'::text)",
    ]


@pytest.mark.parametrize(
    ("predicate", "parts"),
    [
        ("(a = 1)", ["(a = 1)"]),
        ("((a = 1) AND (b IS NOT NULL))", ["(a = 1)", "(b IS NOT NULL)"]),
        ("((a = 1) AND ((b = 2) OR c) AND (d = ')'::text))", ["(a = 1)", "((b = 2) OR c)", "(d = ')'::text)"]),
        ("((a = 1) OR ((b = 2) AND (c = 3)))", ["((a = 1) OR ((b = 2) AND (c = 3)))"]),
        ("((kind)::text = 'a''(b'::text)", ["((kind)::text = 'a''(b'::text)"]),
        ("((\"a)\" = 1) AND flag)", ["((\"a)\" = 1) AND flag)"]),
        ("flag", ["flag"]),
    ],
)  # fmt: skip
def test_what_and_joins(predicate: str, parts: list[str]) -> None:
    assert conjuncts(predicate) == parts


def test_the_whole_way_of_a_table_with_an_index_for_each_tenant(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 200)
    execute(
        database,
        "ALTER TABLE documents ADD tenant int; UPDATE documents SET tenant = id % 3;"
        "CREATE INDEX of_none ON documents USING hnsw (embedding vector_cosine_ops) WHERE tenant = 0;"
        "CREATE INDEX of_one ON documents USING hnsw (embedding vector_cosine_ops) WHERE tenant = 1; ANALYZE documents",
    )
    settings = settings_for(database, api, tmp_path, {"placement": "column", "gate.where": "tenant = 1"})
    with connect(database, read_only=True) as conn:
        plan = make_plan(conn, settings)
        before = definitions(conn, "embedding")
    checks = {check.name: check for check in plan.checks}
    assert checks["partial indexes"].result == "pass"
    assert "2 indexes, as the old one has: of_none, of_one" in checks["partial indexes"].detail
    assert "the biggest of 2 (67 rows)" in checks["index memory"].detail
    assert "gate.where" in checks["old index"].hint
    assert [text[-20:] for text in plan.statements if "INDEX" in text] == [
        " WHERE (tenant = 0);", " WHERE (tenant = 1);",
    ]  # fmt: skip
    with contextlib.closing(Engine(database, settings=settings)) as engine:
        assert engine.run(threading.Event()).index.valid
        made = engine.compare()
        assert made.measures.index_recall is not None
        assert {check.name: check.result for check in made.checks}["index"] in ("pass", "warn")
        engine.cutover(override={"gate": "models without meaning"})
        engine.cleanup("documents", override={"soak": "a test", "route": "a test"})
    with connect(database) as conn:
        after = definitions(conn, "embedding")
        assert list(after) == list(before)
        assert [text.split(" WHERE ")[1] for text in after.values()] == ["(tenant = 0)", "(tenant = 1)"]
        own = "SELECT id FROM documents WHERE tenant = 1 ORDER BY embedding <=> %(vector)s::vector LIMIT 3"
        assert "Index Scan using of_one" in used(conn, own, {"vector": str(vector(3, 16))})


def test_a_side_table_that_is_folded_gets_the_shape_that_it_could_not_have(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 120)
    execute(
        database,
        "ALTER TABLE documents ADD tenant int; UPDATE documents SET tenant = id % 2;"
        "CREATE INDEX even ON documents USING hnsw (embedding vector_cosine_ops) WHERE tenant = 0;"
        "CREATE INDEX odd ON documents USING hnsw (embedding vector_cosine_ops) WHERE tenant = 1; ANALYZE documents",
    )
    settings = settings_for(database, api, tmp_path, {"placement": "table"})
    with contextlib.closing(Engine(database, settings=settings)) as engine:
        engine.run(threading.Event())
        with connect(database) as conn:
            assert list(definitions(conn, "embedding")) == ["documents_embedding_v2_embedding_idx", "even", "odd"]
        engine.compare()
        engine.cutover(override={"gate": "models without meaning"})
        engine.cleanup("documents", fold=True, override={"soak": "a test", "route": "a test"})
    with connect(database) as conn:
        after = definitions(conn, "embedding")
        assert {name: text.split(" WHERE ")[1] for name, text in after.items()} == {
            "even": "(tenant = 0)", "odd": "(tenant = 1)",
        }  # fmt: skip
