"""Comparisons over a real pgvector: exact results, the loss split in two, and what is said to be unknown."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from psycopg import sql

from embedtui.demo.api import LoopbackServer, ModelFunction
from embedtui.engine.validate import compare as comparing_module
from embedtui.engine.validate import gate, queries
from embedtui.engine.validate.compare import ad_hoc, compare
from embedtui.engine.validate.exact import Nearest, read_nearest
from embedtui.errors import Interrupted, NotClean, ProviderError
from embedtui.model import Comparison, Distance, EmbeddingModel, Interval, Migration, PlacementKind, QueryInput, Side
from embedtui.postgres.sides.search import search_sql
from embedtui.postgres.state.migrations import load_migration
from embedtui.providers import make_embedder
from embedtui.providers.base import Embedder
from tests.kits.comparing import Vectors, connector, execute, literal, make_table, unit
from tests.kits.support import connect

ROWS, OLD, NEW = 400, 12, 16


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


# ---------------------------------------------------------------------------------------------------------- exact


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
            step=lambda rows: None,
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
    monkeypatch.setattr(comparing_module, "EXACT_SAMPLE", 8)
    sampled = compare(connector(database), migration, asked, exact_bytes=0)
    assert (whole.measures.basis, whole.measures.exact_queries) == ("exact", 40)
    assert (sampled.measures.basis, sampled.measures.exact_queries, sampled.measures.queries) == ("served", 8, 40)
    assert sampled.measures.index_recall is not None
    assert any("Exact results of 32 of 40" in line for line in sampled.measures.unknown)


# -------------------------------------------------------------------------------------------------- from the rows


def test_rows_as_queries_need_no_model(database: str) -> None:
    migration = random_table(database)
    made = compare(connector(database), migration, row_queries(database, migration))
    _, new = random_sides()
    assert made.measures.queries == 40
    assert [query.overlap for query in made.queries] == sorted(query.overlap for query in made.queries)
    for query in made.queries[:5]:
        assert query.row is not None
        own = int(query.row[0])
        expected = [int(n) for n in np.argsort(-(new @ new[own])) if n != own][:10]
        assert [int(row.key[0]) for row in query.new] == expected
        assert {row.key for row in query.old} & {row.key for row in query.new} == {
            row.key for row in query.new if row.other_rank is not None
        }
        assert query.new[0].text == f"text {query.new[0].key[0]}"
    assert not made.partial
    assert any("How real queries fare" in line for line in made.measures.unknown)
    assert any("no judgments" in line for line in made.measures.unknown)
    assert made.measures.latency_old_ms is not None


def test_a_replica_is_only_read(database: str) -> None:
    migration = random_table(database)
    made = compare(
        connector(database),
        migration,
        row_queries(database, migration),
        replica=lambda: connect(database, name="replica", read_only=True),
        iterative_scan="strict_order",
    )
    assert made.measures.queries == made.measures.exact_queries == 40


def test_what_is_served_is_sampled_where_searches_are_slow(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = random_table(database)
    monkeypatch.setattr(comparing_module, "SERVED_ENOUGH", 10)
    monkeypatch.setattr(comparing_module, "SERVED_SECONDS", 0.0)
    made = compare(connector(database), migration, row_queries(database, migration))
    assert (made.measures.basis, made.measures.queries) == ("exact", 40)
    assert sum(query.index_recall is not None for query in made.queries) == 10
    assert any("10 were searched as served" in line for line in made.measures.unknown)


def test_the_filter_is_part_of_both_searches(database: str) -> None:
    migration = random_table(database)
    asked = row_queries(database, migration)
    made = compare(connector(database), migration, asked, where="category = 1 AND content LIKE 'text %'")
    keys = {int(row.key[0]) for query in made.queries for row in (*query.old, *query.new)}
    assert {key % 3 for key in keys} == {1}
    assert made.where.startswith("category")


@pytest.mark.parametrize("placement", list(PlacementKind))
def test_during_the_backfill_only_rows_with_both_vectors_count(database: str, placement: PlacementKind) -> None:
    migration = random_table(database, placement=placement, filled=150, index="")
    made = compare(connector(database), migration, row_queries(database, migration))
    keys = {int(row.key[0]) for query in made.queries for row in (*query.old, *query.new)}
    assert made.partial
    assert max(keys) < 150
    assert any("250 of 400 rows have one vector only" in line for line in made.measures.unknown)
    served = compare(connector(database), migration, row_queries(database, migration), exact_bytes=0)
    assert max(int(row.key[0]) for query in served.queries for row in (*query.old, *query.new)) < 150


def test_before_the_first_new_vector_there_is_nothing_to_compare(database: str) -> None:
    migration = random_table(database, filled=0)
    with pytest.raises(NotClean):
        compare(connector(database), migration, [QueryInput("a")])


def test_stop_gives_up(database: str) -> None:
    migration = random_table(database)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        compare(connector(database), migration, row_queries(database, migration), stop=stop)


# ---------------------------------------------------------------------------------------------------- with models


def model_of(vectors: Vectors) -> ModelFunction:
    """A model that gives text number n the vector n, turned by nothing: 'query 3' means row 3."""

    def embed(texts: Sequence[str], dimensions: int | None) -> Vectors:
        return np.stack([vectors[int(text.rsplit(" ", 1)[1])] for text in texts])

    return embed


def served_table(dsn: str, api: LoopbackServer) -> Migration:
    old, new = random_sides()
    return make_table(
        dsn,
        [f"text {number}" for number in range(ROWS)],
        old,
        new,
        old_model=EmbeddingModel("old-model", OLD, base_url=api.base_url, query_prefix="search: "),
        new_model=EmbeddingModel("new-model", NEW, base_url=api.base_url, max_inputs=7),
    )


def both_models() -> dict[str, ModelFunction]:
    old, new = random_sides()
    return {"old-model": model_of(old), "new-model": model_of(new)}


def embedders(migration: Migration, api: LoopbackServer) -> dict[Side, Embedder | None]:
    environ = {"OPENAI_API_KEY": api.key}
    return {
        Side.OLD: make_embedder(migration.old_model, environ=environ),
        Side.NEW: make_embedder(migration.new_model, environ=environ),
    }


ASKED = tuple(QueryInput(f"query {number}", ((((str(number),), 1.0)),)) for number in range(20))


def test_query_vectors_are_paid_for_once(database: str) -> None:
    with LoopbackServer(both_models(), log_texts=100) as api:
        migration = served_table(database, api)
        made = compare(connector(database), migration, ASKED, embedders=embedders(migration, api))
        assert made.measures.judged == 20
        assert made.measures.ndcg_old is not None
        assert {made.measures.ndcg_old, made.measures.mrr_new, made.measures.recall_new} == {Interval(1, 1, 1)}
        assert made.measures.index_recall == 1
        assert api.requests == 1 + 3, "all at once for the old model, seven at a time for the new one"
        assert "search: query 3" in api.texts
        again = compare(connector(database), migration, ASKED, embedders=embedders(migration, api))
        assert api.requests == 4
        assert again.queries == made.queries
        kept = compare(connector(database), migration, embedders=embedders(migration, api))
        assert kept.queries == made.queries, "without queries, the kept ones are taken"


def test_a_dead_old_model_leaves_rows_and_says_so(database: str) -> None:
    with LoopbackServer({"new-model": both_models()["new-model"]}) as api:
        migration = served_table(database, api)
        made = compare(connector(database), migration, ASKED, embedders=embedders(migration, api))
    assert all(query.row is not None for query in made.queries)
    assert made.measures.queries == comparing_module.ROWS
    unknown = " ".join(made.measures.unknown)
    assert "How 20 of 20 queries fared under old-model" in unknown
    assert "How real queries fare" in unknown


def test_a_retired_model_is_not_asked_and_logged_vectors_serve(database: str) -> None:
    old, _ = random_sides()
    logged = [
        QueryInput(query.text, query.relevant, vector=tuple(old[number].tolist()))
        for number, query in enumerate(ASKED[:5])
    ]
    with LoopbackServer(both_models(), log_texts=100) as api:
        migration = served_table(database, api)
        asked = {Side.OLD: None, Side.NEW: embedders(migration, api)[Side.NEW]}
        made = compare(connector(database), migration, [*logged, *ASKED[5:]], embedders=asked)
        assert {query.text for query in made.queries} == {f"query {number}" for number in range(5)}
        assert not any(text.startswith("search: ") for text in api.texts)
    assert any("How 15 of 20 queries fared" in line for line in made.measures.unknown)


def test_a_dead_new_model_is_an_error(database: str) -> None:
    with LoopbackServer({"old-model": both_models()["old-model"]}) as api:
        migration = served_table(database, api)
        with pytest.raises(ProviderError):
            compare(connector(database), migration, ASKED, embedders=embedders(migration, api))


def test_ad_hoc_shows_both_sides(database: str) -> None:
    with LoopbackServer(both_models(), log_texts=100) as api:
        migration = served_table(database, api)
        found = ad_hoc(connector(database), migration, "query 17", embedders=embedders(migration, api), k=5)
        assert (found.old[0].key, found.new[0].key, found.top1_kept) == (("17",), ("17",), True)
        assert len(found.old) == len(found.new) == 5
        assert found.new[0].text == "text 17"
        alone = ad_hoc(
            connector(database), migration, "query 17", where="category = 0",
            embedders={Side.OLD: None, Side.NEW: embedders(migration, api)[Side.NEW]},
        )  # fmt: skip
        assert alone.old == ()
        assert {int(row.key[0]) % 3 for row in alone.new} == {0}


def test_ad_hoc_with_a_dead_old_model_shows_the_new_side(database: str) -> None:
    with LoopbackServer({"new-model": both_models()["new-model"]}) as api:
        migration = served_table(database, api)
        found = ad_hoc(connector(database), migration, "query 17", embedders=embedders(migration, api))
        alone = ad_hoc(
            connector(database), migration, "query 17", embedders={**embedders(migration, api), Side.OLD: None}
        )
    assert (found.old, found.new[0].key) == ((), ("17",))
    assert found.old_unknown.startswith("old-model does not answer: ")
    assert alone.old_unknown == "old-model cannot be asked"


def test_judged_rows_that_are_gone_are_told(database: str) -> None:
    with LoopbackServer(both_models(), log_texts=100) as api:
        migration = served_table(database, api)
        asked = [*ASKED, QueryInput("query 21", ((("deleted",), 1.0), (("21",), 1.0)))]
        made = compare(connector(database), migration, asked, embedders=embedders(migration, api))
    assert any("1 judged row" in line for line in made.measures.unknown)
    lost = next(query for query in made.queries if query.text == "query 21")
    assert lost.ndcg_new == pytest.approx(1 / (1 + 1 / np.log2(3)))


# ------------------------------------------------------------------------------------------------------ the index


def test_the_loss_is_laid_at_the_index(database: str) -> None:
    old, new = random_sides(rows=3000)
    migration = make_table(database, [f"t{n}" for n in range(3000)], old, new, index="ivfflat WITH (lists = 400)")
    made = compare(connector(database), migration, row_queries(database, migration, 60))
    figures = made.measures
    assert figures.index_recall is not None
    assert figures.index_recall < 0.8
    assert figures.model_overlap == pytest.approx(figures.overlap.mean)
    assert figures.index_recall_old is not None
    assert figures.index_recall_old > 0.95
    recalls = [point.recall for point in figures.sweep]
    assert recalls == sorted(recalls)
    assert recalls[-1] >= 0.99
    assert figures.sweep[0].setting == "ivfflat.probes"
    missed = [row for query in made.queries for row in query.new if row.missed]
    assert missed
    assert not any(row.missed for query in made.queries if query.index_recall == 1 for row in query.new)


# ----------------------------------------------------------------------------------------------------- remembered


def test_an_unchanged_state_is_not_measured_twice(database: str) -> None:
    migration = random_table(database)
    asked = row_queries(database, migration)
    steps: list[str] = []

    def measure(**options: Any) -> Comparison:
        steps.clear()
        made = compare(
            connector(database), migration, asked, progress=lambda what, done, total: steps.append(what), **options
        )  # fmt: skip
        return gate.decide_gate(connector(database), migration, made)

    first = measure()
    assert steps
    second = measure()
    assert not steps
    assert second.evaluation_id == first.evaluation_id
    assert second.queries == first.queries
    assert second.measures == first.measures
    assert measure(k=5).evaluation_id != first.evaluation_id
    assert steps
    assert measure(where="category < 2").evaluation_id != first.evaluation_id
    measure(again=True)
    assert steps
    with connect(database, name="test") as conn:
        queries.decide(conn, first.queries[3].query_id, "old", "no")
    decided = measure()
    assert not steps
    assert (decided.queries[3].verdict, decided.queries[3].note, decided.measures.wins_old) == ("old", "no", 1)
    execute(database, "UPDATE docs SET content = 'other' WHERE id = '7'")
    measure()
    assert steps
