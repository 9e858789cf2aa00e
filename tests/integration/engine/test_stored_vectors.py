"""What the plan finds in the old column: sizes, gaps and lengths, and the distance its indexes tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.plan.draft import resolve
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.start import require_ready
from embedtui.errors import Refused
from embedtui.model import Check, Distance
from embedtui.postgres.catalog import vectors
from tests.kits.support import connect
from tests.kits.tables import settings_of


def run(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statements)  # type: ignore[arg-type]


def checks(dsn: str, table: str, *, check_provider: bool = False, **flags: Any) -> dict[str, Check]:
    flags = {"table": table, "new_model__key_variable": "", "new_model__base_url": "http://127.0.0.1:9", **flags}
    with connect(dsn, read_only=True) as conn:
        made = make_plan(conn, settings_of(Path(), flags), check_provider=check_provider)
    return {check.name: check for check in made.checks}


SHELF = """
CREATE TABLE shelf (pk bigserial PRIMARY KEY, lot {kind}, body text, vec vector);
INSERT INTO shelf (lot, body, vec) SELECT ({lot})::{kind}, 'a text of some words ' || i,
    array_fill(1, ARRAY[CASE WHEN i % 5 = 0 THEN 6 ELSE 4 END])::vector FROM generate_series(1, 50) i;
"""


@pytest.mark.parametrize(
    ("kind", "lot", "said"),
    [
        ("int", "i % 5", "6 where it is 0"),
        ("text", "CASE i % 5 WHEN 0 THEN 'paid' ELSE 'free' END", "6 where it is paid"),
        ("uuid", "lpad((i % 5)::text, 32, '0')", "6 where it is 00000000-0000-0000-0000-000000000000"),
        ("boolean", "i % 5 = 0", "6 where it is true"),
    ],
)
def test_two_sizes_are_refused_with_what_tells_them_apart(database: str, kind: str, lot: str, said: str) -> None:
    run(database, SHELF.format(kind=kind, lot=lot))
    check = checks(database, "shelf", content=("body",))["stored vectors"]
    assert check.result == "fail"
    assert "4 (40 rows), 6 (10 rows)" in check.detail
    assert "Column lot tells them apart" in check.detail
    assert said in check.detail
    settings = settings_of(Path(), {"table": "shelf", "content": ("body",), "new_model__key_variable": ""})
    with connect(database) as conn, pytest.raises(Refused, match="several sizes"):
        require_ready(conn, resolve(conn, settings), settings)


def test_sizes_that_no_column_tells_apart_are_refused_all_the_same(database: str) -> None:
    run(database, SHELF.format(kind="int", lot="i % 2"))
    check = checks(database, "shelf")["stored vectors"]
    assert check.result == "fail"
    assert "tells them apart" not in check.detail


def test_an_index_tells_of_a_size_that_no_row_seen_has(database: str) -> None:
    run(
        database,
        """CREATE TABLE shelf (pk int PRIMARY KEY, lot int, body text, vec vector);
        INSERT INTO shelf SELECT i, 1, 'some text ' || i, '[1,2,3]' FROM generate_series(1, 9) i;
        CREATE INDEX three ON shelf USING hnsw ((vec::vector(3)) vector_l2_ops) WHERE lot = 1;
        CREATE INDEX seven ON shelf USING hnsw ((vec::vector(7)) vector_l2_ops) WHERE lot = 2""",
    )
    check = checks(database, "shelf")["stored vectors"]
    assert check.result == "fail"
    assert "7 (index seven)" in check.detail


def test_an_index_of_a_part_of_the_vector_tells_of_no_other_model(database: str) -> None:
    run(
        database,
        "CREATE TABLE docs (pk int PRIMARY KEY, body text, v vector(3)); INSERT INTO docs VALUES (1, 'a b', '[1,2,3]');"
        "CREATE INDEX i ON docs USING hnsw ((subvector(v, 1, 2)::vector(2)) vector_cosine_ops)",
    )
    assert checks(database, "docs")["stored vectors"].result != "fail"


def test_a_big_table_is_looked_at_by_a_sample(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "WHOLE_BYTES", 0)
    monkeypatch.setattr(vectors, "ROWS", 30)
    run(database, SHELF.format(kind="int", lot="i % 5") + "ANALYZE shelf")
    check = checks(database, "shelf")["stored vectors"]
    assert check.result == "fail"
    assert "30 rows drawn at random seen" in check.detail


@pytest.mark.parametrize("kind", ["vector(3)", "halfvec(3)", "vector"])
def test_lengths_nulls_and_zeros_are_told(database: str, kind: str) -> None:
    run(database, f"CREATE TABLE t (id int PRIMARY KEY, content text, v {kind})")
    run(database, "INSERT INTO t SELECT i, 'x', '[0,0.6,0.8]' FROM generate_series(1, 4) i")
    check = checks(database, "t")["stored vectors"]
    assert (check.result, check.detail) == ("pass", "3 dimensions, of length 1; 4 rows seen")
    run(database, "INSERT INTO t VALUES (8, 'x', NULL), (9, 'x', '[0,3,4]')")
    check = checks(database, "t")["stored vectors"]
    assert (check.result, check.detail) == (
        "pass",
        "3 dimensions, of length 1 to 5; 6 rows seen: 1 has no vector",
    )
    run(database, "INSERT INTO t VALUES (10, 'x', '[0,0,0]')")
    check = checks(database, "t")["stored vectors"]
    assert check.result == "warn"
    assert "1 is a zero vector" in check.detail


DOCS = "CREATE TABLE docs (id int PRIMARY KEY, tenant int, content text, v {kind});"
PARTS = """CREATE TABLE docs (id int PRIMARY KEY, content text, v vector(3)) PARTITION BY RANGE (id);
    CREATE TABLE low PARTITION OF docs FOR VALUES FROM (0) TO (9);
    CREATE TABLE high (v vector(3), content text, id int NOT NULL);
    ALTER TABLE docs ATTACH PARTITION high FOR VALUES FROM (9) TO (99);"""


@pytest.mark.parametrize(
    ("ddl", "distance", "said"),
    [
        (DOCS.format(kind="vector(3)") + "CREATE INDEX i ON docs USING hnsw ((v::halfvec(3)) halfvec_ip_ops)",
         Distance.INNER_PRODUCT, "ip, by index i (halfvec_ip_ops)"),
        (DOCS.format(kind="vector") + "CREATE INDEX i ON docs USING ivfflat ((v::vector(3)) vector_l2_ops)",
         Distance.L2, "l2, by index i (vector_l2_ops)"),
        (DOCS.format(kind="vector(3)") + "CREATE INDEX i ON docs USING hnsw (v vector_ip_ops) WHERE tenant = 7",
         Distance.INNER_PRODUCT, "ip, by index i (vector_ip_ops)"),
        (PARTS + "CREATE INDEX a ON low USING hnsw (v vector_l2_ops); CREATE INDEX b ON high USING hnsw (v "
         "vector_l2_ops)", Distance.L2, "l2, by index a (vector_l2_ops)"),
        (PARTS + "CREATE INDEX a ON docs USING hnsw (v vector_ip_ops)", Distance.INNER_PRODUCT, "ip, by index a"),
        (DOCS.format(kind="vector(3)") + "CREATE ACCESS METHOD diskann TYPE INDEX HANDLER hnswhandler;"
         "CREATE OPERATOR CLASS vector_l2_ops FOR TYPE vector USING diskann AS OPERATOR 1 <-> (vector, vector) FOR "
         "ORDER BY float_ops, FUNCTION 1 vector_l2_squared_distance(vector, vector);"
         "CREATE INDEX i ON docs USING diskann (v vector_l2_ops)", Distance.L2, "l2, by index i"),
    ],
    ids=["expression", "untyped", "partial", "leaves", "partitioned", "another method"],
)  # fmt: skip
def test_the_distance_is_read_from_any_index(database: str, ddl: str, distance: Distance, said: str) -> None:
    run(database, ddl)
    check = checks(database, "docs")["distance"]
    assert check.result == "pass"
    assert said in check.detail
    with connect(database) as conn:
        assert resolve(conn, settings_of(Path(), {"table": "docs"})).distance is distance


def test_a_distance_that_nothing_tells_or_that_is_told_twice_is_said(database: str) -> None:
    run(database, DOCS.format(kind="vector(3)"))
    check = checks(database, "docs")["distance"]
    assert (check.result, "cosine is taken" in check.detail) == ("unknown", True)
    run(database, "CREATE INDEX b ON docs USING hnsw ((binary_quantize(v)::bit(3)) bit_hamming_ops)")
    assert "index b does not" in checks(database, "docs")["distance"].detail
    run(database, "CREATE INDEX c ON docs USING hnsw (v vector_l2_ops)")
    assert checks(database, "docs")["distance"].result == "pass"
    run(database, "CREATE INDEX d ON docs USING hnsw (v vector_ip_ops)")
    check = checks(database, "docs")["distance"]
    assert check.result == "fail"
    assert "l2 by c (vector_l2_ops), ip by d (vector_ip_ops)" in check.detail
    assert checks(database, "docs", distance="l2")["distance"].result == "warn"


@pytest.mark.parametrize(
    ("index", "result", "said"),
    [
        ("((v::halfvec(3)) halfvec_l2_ops)", "pass", "i is on ((v)::halfvec(3)): the old side is searched by that"),
        ("((subvector(v, 1, 2)::vector(2)) vector_l2_ops)", "warn", "i is on (("),
        (
            "(v vector_l2_ops) WHERE tenant = 7",
            "warn",
            "Index i is of the rows where (tenant = 7) only: without a filter that implies it, embedtui's own",
        ),
    ],
)
def test_which_index_our_searches_go_by_is_said(database: str, index: str, result: str, said: str) -> None:
    run(database, DOCS.format(kind="vector(3)") + f"CREATE INDEX i ON docs USING hnsw {index}")
    check = checks(database, "docs")["old index"]
    assert check.result == result
    assert said in check.detail
    assert ("read the whole table" in check.detail) == (result == "warn")
    run(database, "CREATE INDEX whole ON docs USING hnsw (v vector_l2_ops)")
    assert "old index" not in checks(database, "docs")


def test_a_partial_index_serves_the_scope_that_it_is_of(database: str) -> None:
    run(
        database,
        DOCS.format(kind="vector(3)") + "INSERT INTO docs VALUES (1, 7, 'x', '[1,2,3]'), (2, 8, 'y', '[1,2,3]')",
    )
    run(database, "CREATE INDEX i ON docs USING hnsw (v vector_l2_ops) WHERE tenant = 7")
    assert "old index" not in checks(database, "docs", scope="tenant = 7")
    assert checks(database, "docs", scope="tenant = 8")["old index"].result == "warn"
    assert checks(database, "docs")["old index"].result == "warn"


def test_an_inner_product_over_vectors_of_many_lengths_is_refused_unless_meant(database: str) -> None:
    run(database, DOCS.format(kind="vector(3)") + "CREATE INDEX i ON docs USING hnsw (v vector_ip_ops)")
    unit = hash_model(8)
    with LoopbackServer({"m": lambda texts, d: 0.7 * unit(texts, d), "n": unit}, key="none") as api:
        flags = {"new_model__base_url": api.base_url, "new_model__key_variable": "", "check_provider": True}
        check = checks(database, "docs", **flags)["lengths"]
        assert check.result == "fail"
        assert "0.7" in check.detail
        assert 'distance = "cosine"' in check.hint
        assert "lengths" not in checks(database, "docs", distance="cosine", **flags)
        assert checks(database, "docs", distance="ip", **flags)["lengths"].result == "warn"
        assert "lengths" not in checks(database, "docs", new_model__name="n", **flags)
        asked = {key: value for key, value in flags.items() if key != "check_provider"}
        settings = settings_of(Path(), {"table": "docs", **asked})
        with connect(database) as conn, pytest.raises(Refused, match="other lengths than 1"):
            require_ready(conn, resolve(conn, settings), settings, ask=True)
