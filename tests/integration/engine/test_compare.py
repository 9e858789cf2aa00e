"""Comparisons over a real pgvector: the loss split in two, and what is said to be unknown."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedtui.config import GateSettings
from embedtui.demo.api import LoopbackServer, ModelFunction, hash_model
from embedtui.engine import Engine
from embedtui.engine.validate import gate, queries, query_vectors, searching
from embedtui.engine.validate.compare import ad_hoc, compare
from embedtui.engine.validate.evaluation import current_evaluation, record
from embedtui.engine.validate.report import to_html, to_json
from embedtui.engine.validate.run import CompareOptions
from embedtui.errors import Interrupted, NotClean, ProviderError
from embedtui.model import Comparison, Distance, EmbeddingModel, Interval, Migration, PlacementKind, QueryInput, Side
from embedtui.providers import make_embedder
from embedtui.providers.base import Embedder
from tests.kits.comparing import (
    NEW,
    OLD,
    ROWS,
    Vectors,
    connector,
    execute,
    make_table,
    random_sides,
    random_table,
    row_queries,
)
from tests.kits.support import connect, make_documents, settings_for


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
    assert any("no query names any" in line for line in made.measures.unknown)
    assert made.measures.latency_old_ms is not None


def test_the_same_neighbours_further_away_are_said(database: str) -> None:
    """Nothing changes in the rankings, and a limit in the application's SQL would keep no hit at all."""
    old, _ = random_sides(rows=90)
    texts = [f"text {number}" for number in range(90)]
    migration = make_table(database, texts, old, 3 * old, distance=Distance.L2)
    made = compare(connector(database), migration, row_queries(database, migration))
    assert made.measures.overlap.mean == 1
    before, after = made.distances(Side.OLD), made.distances(Side.NEW)
    assert before is not None
    assert after == pytest.approx([3 * each for each in before])


def test_a_replica_is_only_read(database: str) -> None:
    migration = random_table(database)
    made = compare(
        connector(database),
        migration,
        row_queries(database, migration),
        CompareOptions(iterative_scan="strict_order"),
        replica=lambda: connect(database, name="replica", read_only=True),
    )
    assert made.measures.queries == made.measures.exact_queries == 40


def test_what_is_served_is_sampled_where_searches_are_slow(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = random_table(database)
    monkeypatch.setattr(searching, "SERVED_ENOUGH", 10)
    monkeypatch.setattr(searching, "SERVED_SECONDS", 0.0)
    made = compare(connector(database), migration, row_queries(database, migration))
    assert (made.measures.basis, made.measures.queries) == ("exact", 40)
    assert sum(query.index_recall is not None for query in made.queries) == 10
    assert any("10 were searched as served" in line for line in made.measures.unknown)


def test_the_filter_is_part_of_both_searches(database: str) -> None:
    migration = random_table(database)
    asked = row_queries(database, migration)
    made = compare(
        connector(database), migration, asked, CompareOptions(where="category = 1 AND content LIKE 'text %'")
    )
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
    served = compare(connector(database), migration, row_queries(database, migration), CompareOptions(exact_bytes=0))
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


def model_of(vectors: Vectors) -> ModelFunction:
    """A model that gives text number n the vector n, turned by nothing: 'query 3' means row 3."""

    def embed(texts: Sequence[str], _dimensions: int | None) -> Vectors:
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


_opened: list[Embedder] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def embedders(migration: Migration, api: LoopbackServer) -> dict[Side, Embedder | None]:
    environ = {"OPENAI_API_KEY": api.key}
    found: dict[Side, Embedder | None] = {}
    for side, model in ((Side.OLD, migration.old_model), (Side.NEW, migration.new_model)):
        found[side] = embedder = make_embedder(model, environ=environ)
        _opened.append(embedder)
    return found


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
    assert made.measures.queries == query_vectors.ROWS
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


def test_judged_rows_that_were_edited_or_deleted_since_are_counted_wherever_the_figure_stands(database: str) -> None:
    """Since their judgments were first counted, over any number of comparisons; judged anew they count anew."""
    with LoopbackServer(both_models(), log_texts=100) as api:
        migration = served_table(database, api)

        def judged(gain: float, *keys: str) -> Comparison:
            asked = [*ASKED, QueryInput("query 21", tuple(((key,), gain) for key in keys))]
            made = compare(connector(database), migration, asked, embedders=embedders(migration, api))
            with connect(database, name="test") as conn:
                return record(conn, migration, replace(made, verdict="FAIL"), GateSettings(), "")

        assert judged(1.0, "21", "22", "23").measures.judged_moved == ""
        with connect(database, name="test") as conn:
            conn.execute(f"UPDATE {migration.table} SET content = content || '!' WHERE id = '21'")
            conn.execute(f"DELETE FROM {migration.table} WHERE id = '23'")
        for _ in range(2):
            made = judged(1.0, "21", "22", "23")
            said = "1 judged row edited, 1 deleted since"
            assert made.measures.judged_moved == said
            assert made.measures.unknown[0].startswith(said) and said in to_html(made, migration)
            assert "judged_rows" not in json.loads(to_json(made, migration))
            assert said in gate._quality(made.measures, GateSettings()).detail
        with connect(database, name="test") as conn:
            found = current_evaluation(conn, migration)
            assert found is not None and found.judged_moved == said
        assert judged(2.0, "21", "22").measures.judged_moved == ""


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


def test_an_unchanged_state_is_not_measured_twice(database: str) -> None:
    migration = random_table(database)
    asked = row_queries(database, migration)
    steps: list[str] = []

    def measure(**options: Any) -> Comparison:
        steps.clear()
        made = compare(
            connector(database), migration, asked, CompareOptions(**options),
            progress=lambda what, _done, _total: steps.append(what),
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


def test_queries_are_asked_for_as_queries_and_rows_as_documents(database: str, tmp_path: Path) -> None:
    make_documents(database, 40)
    models = {"old-model": hash_model(8), "new-model": hash_model(16)}
    with LoopbackServer(models, manners="voyage") as api:
        flags = {f"{side}.{name}": value for side in ("old_model", "new_model") for name, value in
                 (("provider", "voyage"), ("base_url", api.base_url), ("key_variable", "OPENAI_API_KEY"))}  # fmt: skip
        settings = settings_for(database, api, tmp_path, {**flags, "index.method": "none"})
        with closing(Engine(database, settings=settings)) as engine:
            engine.run(threading.Event())
            assert {told["input_type"] for told, _ in api.asked} == {"document", "query"}, "the check asks for both"
            api.reset_counters()
            made = engine.compare([QueryInput("document number 7")])
            assert made.measures.queries == 1
            asked = {(told["model"], told["input_type"]) for told, _ in api.asked}
            assert asked == {("old-model", "query"), ("new-model", "query")}
            api.reset_counters()
            assert engine.verify(sample=5).mismatched == 0
            assert {told["input_type"] for told, _ in api.asked} == {"document"}
