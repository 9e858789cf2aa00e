"""Exact nearest rows: what a full sort and exact SQL find, on tables of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from psycopg import sql

from embedtui.engine.validate import searching
from embedtui.engine.validate.compare import compare
from embedtui.engine.validate.exact import Nearest, read_nearest
from embedtui.engine.validate.run import CompareOptions
from embedtui.model import Distance, PlacementKind, Side
from embedtui.postgres.sides.search import search_sql
from embedtui.postgres.state.migrations import load_migration
from tests.kits.comparing import NEW, OLD, connector, literal, make_table, random_sides, random_table, row_queries, unit
from tests.kits.support import connect


@pytest.mark.parametrize("distance", list(Distance))
@pytest.mark.parametrize("blocks", [1, 7])
def test_nearest_finds_what_a_full_sort_finds(distance: Distance, blocks: int) -> None:
    draw = np.random.default_rng(5)
    rows = draw.normal(size=(900, 8)).astype(np.float32) * draw.uniform(0.1, 10, size=(900, 1)).astype(np.float32)
    rows[500:520] = rows[10]
    rows[7] = 0
    wanted = np.concatenate([draw.normal(size=(20, 8)).astype(np.float32), rows[10:12]])
    nearest = Nearest(distance, wanted, 10)
    for part in np.array_split(np.arange(900), blocks):
        nearest.add(rows[part], part.astype(np.uint64))
    for number, query in enumerate(wanted.astype(np.float64)):
        with np.errstate(invalid="ignore"):
            full = {
                Distance.COSINE: 1 - rows @ query / np.linalg.norm(rows.astype(float), axis=1) / np.linalg.norm(query),
                Distance.L2: np.linalg.norm(rows - query, axis=1),
                Distance.INNER_PRODUCT: -(rows.astype(float) @ query),
            }[distance]
        order = [row for row in np.argsort(full, kind="stable") if not np.isnan(full[row])]
        assert np.allclose(nearest.distances[number][:10], full[order[:10]], atol=1e-6)
        ties = {row for row in order if full[row] <= full[order[9]] - 1e-6}
        assert ties <= set(nearest.places[number].tolist())
        assert len(nearest.places[number]) >= 10


@pytest.mark.parametrize("placement", list(PlacementKind))
@pytest.mark.parametrize("distance", list(Distance))
def test_read_nearest_equals_exact_sql(database: str, placement: PlacementKind, distance: Distance) -> None:
    migration = random_table(database, placement=placement, distance=distance, halfvec=True, filled=350, index="")
    draw = np.random.default_rng(9)
    wanted = {Side.OLD: unit(draw.normal(size=(5, OLD))), Side.NEW: unit(draw.normal(size=(5, NEW)))}
    with connect(database, name="test") as conn:
        found = read_nearest(
            conn,
            migration,
            wanted,
            depth=10,
            leave_out=[None, None, None, None, ("5",)],
            where=sql.SQL("category = 1 AND docs.content LIKE 'text%'"),
            timeout=30,
            step=lambda _rows: None,
        )
        for side in Side:
            statement = search_sql(migration, side, where=sql.SQL("category = 1 AND id::int < 350"), exact=True)
            for number in range(5):
                rows = conn.execute(statement, {"vector": literal(wanted[side][number]), "k": 11}).fetchall()
                expected = [(tuple(key), distance) for key, distance in rows if number < 4 or key != ["5"]][:10]
                assert [key for key, _ in found[number][side]] == [key for key, _ in expected]
                assert [d for _, d in found[number][side]] == pytest.approx([d for _, d in expected], abs=2e-3)


def test_partitioned_tables_are_read_leaf_by_leaf(database: str) -> None:
    old, new = random_sides(rows=60)
    migration = make_table(database, [f"t{n}" for n in range(60)], old, new, index="")
    with connect(database, name="test") as conn:
        conn.execute("ALTER TABLE docs RENAME TO flat")
        conn.execute("CREATE TABLE docs (LIKE flat) PARTITION BY LIST (category)")
        conn.execute("CREATE TABLE docs_a PARTITION OF docs FOR VALUES IN (0, 1)")
        conn.execute('CREATE TABLE "docs B" PARTITION OF docs DEFAULT')
        conn.execute("INSERT INTO docs SELECT * FROM flat")
        oid = conn.execute("SELECT 'docs'::regclass::oid").fetchone()
        assert oid is not None
        conn.execute("UPDATE embedtui.migration SET table_oid = %s", [oid[0]])
    with connect(database, name="test") as conn:
        migration = load_migration(conn) or migration
    made = compare(connector(database), migration, row_queries(database, migration, 10))
    assert made.measures.basis == "exact"
    assert {int(row.key[0]) % 3 for query in made.queries for row in query.new} == {0, 1, 2}
    nearest = np.argsort(1 - new @ new[int(made.queries[0].row[0])])  # type: ignore[index]
    assert [int(row.key[0]) for row in made.queries[0].new] == nearest[1:11].tolist()


def test_a_big_table_is_searched_for_a_sample_of_queries(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = random_table(database)
    asked = row_queries(database, migration)
    whole = compare(connector(database), migration, asked)
    monkeypatch.setattr(searching, "EXACT_SAMPLE", 8)
    sampled = compare(connector(database), migration, asked, CompareOptions(exact_bytes=0))
    assert (whole.measures.basis, whole.measures.exact_queries) == ("exact", 40)
    assert (sampled.measures.basis, sampled.measures.exact_queries, sampled.measures.queries) == ("served", 8, 40)
    assert sampled.measures.index_recall is not None
    assert any("Exact results of 32 of 40" in line for line in sampled.measures.unknown)
