"""The gate: four verdicts on the demo's corpus, and each check's reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from embedtui.config import GateSettings
from embedtui.demo.corpus import documents
from embedtui.demo.models import NEW_MODEL, OLD_MODEL, load_models
from embedtui.demo.questions import QUESTIONS
from embedtui.engine.validate import gate, queries
from embedtui.engine.validate.catching_up import Caught
from embedtui.engine.validate.compare import compare
from embedtui.engine.validate.evaluation import current_evaluation
from embedtui.engine.validate.gate import Quality, decide_gate, judge, quality, verdict_of
from embedtui.model import Check, Comparison, Interval, Measures, Migration, QueryInput, SweepPoint
from embedtui.model.evaluation import EXACT
from embedtui.postgres.state.queries import store_vectors
from tests.kits.comparing import Vectors, connector, execute, make_table, rows_compared, small, unit
from tests.kits.support import connect


@dataclass(frozen=True)
class Corpus:
    """The demo's documents and questions, embedded by both of its models."""

    keys: list[str]
    texts: list[str]
    old: Vectors
    new: Vectors
    questions: tuple[QueryInput, ...]
    asked_old: Vectors
    asked_new: Vectors


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    found = documents(1000)
    texts = [document.text for document in found]
    keys = [document.name for document in found]
    models = load_models(texts)
    asked = [question.text for question in QUESTIONS]
    return Corpus(
        keys,
        texts,
        models[OLD_MODEL](texts, None),
        models[NEW_MODEL](texts, None),
        tuple(
            QueryInput(question.text, tuple(((name,), 1.0) for name in question.answers if name in keys))
            for question in QUESTIONS
        ),
        models[OLD_MODEL](asked, None),
        models[NEW_MODEL](asked, None),
    )


def judged_comparison(
    dsn: str,
    corpus: Corpus,
    old: Vectors,
    new: Vectors,
    asked_old: Vectors,
    asked_new: Vectors,
    *,
    index: str = "hnsw",
    judged: bool = True,
) -> tuple[Migration, Comparison]:
    """The corpus with these vectors on its sides, compared over the demo's questions with kept vectors."""
    migration = make_table(dsn, corpus.texts, old, new, keys=corpus.keys, index=index)
    asked = corpus.questions if judged else tuple(QueryInput(query.text) for query in corpus.questions)
    with connect(dsn, name="test") as conn:
        ids = queries.store(conn, migration, asked, "demo")
        store_vectors(conn, migration.old_model.id, dict(zip(ids, asked_old, strict=True)))
        store_vectors(conn, migration.new_model.id, dict(zip(ids, asked_new, strict=True)))
    made = compare(connector(dsn), migration, asked)
    return migration, decide_gate(connector(dsn), migration, made)


def check(comparison: Comparison, name: str) -> Check:
    return next(check for check in comparison.checks if check.name == name)


def results(comparison: Comparison) -> dict[str, str]:
    return {check.name: check.result for check in comparison.checks}


def test_a_better_model_passes(database: str, corpus: Corpus) -> None:
    _, made = judged_comparison(database, corpus, corpus.old, corpus.new, corpus.asked_old, corpus.asked_new)
    assert check(made, "quality").detail.startswith("The new model is better: nDCG@10 0.")
    assert made.verdict == "PASS", made.checks
    figures = made.measures
    assert figures.judged == len(QUESTIONS)
    assert figures.ndcg_difference is not None
    assert figures.ndcg_difference.low > 0.1
    assert figures.p_value is not None
    assert figures.p_value < 0.001


def test_an_equally_good_model_is_different_not_worse(database: str, corpus: Corpus) -> None:
    """Both sides rank the answers alike, each among other documents that stand in for the same neighbours."""
    answers = {corpus.keys.index(key[0]) for query in corpus.questions for key, _ in query.relevant}
    others = [row for row in np.random.default_rng(4).permutation(len(corpus.keys)).tolist() if row not in answers]
    half = len(others) // 2
    here, there = others[:half], others[half : 2 * half]
    old, new = corpus.new.copy(), corpus.new.copy()
    new[there] = corpus.new[here]
    old[there] = new[here] = -corpus.new[here]
    _, made = judged_comparison(database, corpus, old, new, corpus.asked_new, corpus.asked_new)
    assert made.measures.overlap.mean < 0.5
    assert made.measures.ndcg_old == made.measures.ndcg_new
    found = check(made, "quality")
    assert found.result == "pass"
    assert found.detail.startswith("Different, not worse")
    assert made.verdict == "PASS", made.checks


@pytest.mark.parametrize("judged", [True, False])
def test_a_broken_model_fails(database: str, corpus: Corpus, judged: bool) -> None:
    """Vectors permuted: every row has some other row's."""
    permuted = corpus.new[np.random.default_rng(2).permutation(len(corpus.new))]
    _, made = judged_comparison(
        database, corpus, corpus.old, permuted, corpus.asked_old, corpus.asked_new, judged=judged
    )
    assert made.verdict == "FAIL"
    assert {name for name, result in results(made).items() if result == "fail"} == {"quality"}
    says = "The new model is worse" if judged else "almost nothing in common"
    assert says in check(made, "quality").detail


def test_a_bad_index_is_blamed_instead_of_the_model(database: str, corpus: Corpus) -> None:
    migration, made = judged_comparison(
        database, corpus, corpus.old, corpus.new, corpus.asked_old, corpus.asked_new, index="ivfflat WITH (lists = 300)"
    )
    assert made.verdict == "FAIL"
    assert {name for name, result in results(made).items() if result == "fail"} == {"index loss"}
    assert check(made, "quality").detail.startswith("The new model is better")
    lost = check(made, "index loss")
    assert "this loss is the index's, not the model's" in lost.detail
    assert lost.hint.startswith("ivfflat.probes = ")
    assert " exact (" in check(made, "quality").detail
    with connect(database, name="test") as conn:
        found = current_evaluation(conn, migration)
    assert found is not None and made.measures.ndcg_served is not None and found.searched == EXACT
    assert found.judged_served == made.measures.ndcg_served.mean
    assert found.judged_new is not None and found.judged_served < found.judged_new
    assert made.measures.ndcg_served_old is not None and made.measures.ndcg_old is not None
    assert made.measures.ndcg_served_old.mean <= made.measures.ndcg_old.mean + 0.01


def test_without_judgments_nothing_is_called_worse(database: str, corpus: Corpus) -> None:
    _, made = judged_comparison(
        database, corpus, corpus.old, corpus.new, corpus.asked_old, corpus.asked_new, judged=False
    )
    found = check(made, "quality")
    assert (found.result, made.verdict) == ("inconclusive", "INCONCLUSIVE")
    assert "different; without judgments nothing here knows" in found.detail


EVEN = Interval(0.5, 0.4, 0.6)


def figures(**given: object) -> Measures:
    base = Measures(
        queries=100, k=10, overlap=Interval(0.6, 0.5, 0.7), rbo=EVEN, top1_kept=0.5, low_overlap=0, histogram=(0,) * 10
    )
    return replace(base, **given)  # type: ignore[arg-type]


def judged_figures(low: float, mean: float, high: float, **given: object) -> Measures:
    return figures(
        judged=100, ndcg_old=EVEN, ndcg_new=EVEN, ndcg_difference=Interval(mean, low, high), p_value=0.5, **given
    )


@pytest.mark.parametrize(
    ("low", "mean", "high", "says"),
    [
        (0.01, 0.05, 0.09, Quality.BETTER),
        (-0.019, 0.01, 0.03, Quality.NOT_WORSE),
        (-0.019, -0.01, -0.001, Quality.NOT_WORSE),
        (-0.05, 0.0, 0.05, Quality.UNCERTAIN),
        (-0.05, -0.015, -0.001, Quality.UNCERTAIN),
        (-0.09, -0.05, -0.01, Quality.WORSE),
    ],
)
def test_quality_by_the_paired_interval(low: float, mean: float, high: float, says: Quality) -> None:
    assert quality(judged_figures(low, mean, high), 0.02) is says
    assert quality(figures()) is Quality.UNJUDGED


@pytest.mark.parametrize(
    ("given", "result"),
    [
        (judged_figures(-0.05, 0.0, 0.05), "inconclusive"),
        (judged_figures(0.01, 0.05, 0.09, index_recall=0.99), "pass"),
        (replace(judged_figures(0.01, 0.05, 0.09), judged=12), "warn"),
        (replace(judged_figures(-0.3, -0.2, -0.1), judged=12), "fail"),
        (figures(), "warn"),
        (figures(overlap=Interval(0.49, 0.4, 0.5)), "inconclusive"),
        (figures(overlap=Interval(0.01, 0.0, 0.02)), "fail"),
        (figures(wins_new=12, wins_old=1, verdict_p=0.003, overlap=Interval(0.2, 0.1, 0.3)), "pass"),
        (figures(wins_new=8, wins_old=6, verdict_p=0.79, overlap=Interval(0.2, 0.1, 0.3)), "warn"),
        (figures(wins_new=6, wins_old=8, verdict_p=0.79), "inconclusive"),
        (figures(wins_new=1, wins_old=12, verdict_p=0.003), "fail"),
        (figures(wins_new=0, wins_old=5, verdict_p=0.06), "warn"),
    ],
)
def test_quality_check(given: Measures, result: str) -> None:
    assert gate._quality(given, GateSettings()).result == result


@pytest.mark.parametrize(("mean", "said"), [(1.0, "both sides find the same rows"), (0.99, "different; without")])
def test_what_is_the_same_is_not_called_different(mean: float, said: str) -> None:
    assert said in gate._quality(figures(overlap=Interval(mean, mean, mean)), GateSettings()).detail


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ({"index_recall": 0.96}, "pass"),
        ({"index_recall": 0.94}, "fail"),
        ({"index_recall": 0.94, "index_recall_old": 0.93}, "warn"),
        ({"index_recall": None}, "inconclusive"),
    ],
)
def test_index_loss_check(given: dict[str, float | None], result: str, database: str) -> None:
    migration = make_table(database, ["a"], unit(np.ones((1, 2))), unit(np.ones((1, 2))))
    point = SweepPoint("hnsw.ef_search", 80, 0.97, 1.0, 2.04)
    found = gate._index_loss(migration, figures(sweep=(point,), **given), GateSettings())
    assert found.result == result
    assert ("hnsw.ef_search = 80 finds 97 % at a p95 of 2.0 ms" in found.hint) == (result == "fail")


def test_a_setting_is_only_advised_where_it_would_pass() -> None:
    def advice(*points: tuple[int, float, float]) -> str:
        sweep = tuple(SweepPoint("hnsw.ef_search", value, recall, 1.0, p95) for value, recall, p95 in points)
        return gate._setting_hint(figures(sweep=sweep, latency_old_ms=(10.0, 25.0)), GateSettings())

    at_the_bound, safe, slow = (80, 0.951, 30.0), (160, 0.99, 45.0), (320, 1.0, 61.2)
    assert "hnsw.ef_search = 160" in advice((40, 0.9, 20.0), at_the_bound, safe, slow)
    assert "ALTER ROLE … SET hnsw.ef_search = 80" in advice(at_the_bound, slow)
    said = advice((40, 0.9, 20.0), slow)
    assert "above the limit of 50.0 ms" in said and "ALTER ROLE" not in said


def test_a_latency_of_reading_the_whole_table_is_not_mended_at_the_index() -> None:
    given = figures(latency_old_ms=(30.0, 30.0), latency_new_ms=(90.0, 90.0))
    assert "Warm the index up" in gate._latency(given, GateSettings()).hint
    whole = gate._latency(given, GateSettings(), whole=True).hint
    assert "index is not used" in whole and "Warm" not in whole


def test_verdicts_that_do_not_count_are_not_counted() -> None:
    hint = gate._quality(figures(wins_new=4, wins_old=1, verdict_p=0.4), GateSettings()).hint
    assert "5 on these queries; same and both bad do not count" in hint


@pytest.mark.parametrize(
    ("old", "new", "result"), [(30.0, 59.0, "pass"), (30.0, 61.0, "fail"), (1.0, 19.0, "pass"), (1.0, 21.0, "fail")]
)
def test_latency_check(old: float, new: float, result: str) -> None:
    given = figures(latency_old_ms=(old, old), latency_new_ms=(new, new))
    assert gate._latency(given, GateSettings()).result == result
    assert gate._latency(figures(), GateSettings()).result == "unknown"


@pytest.mark.parametrize(("new", "result"), [(19.0, "pass"), (21.0, "warn"), (400.0, "warn")])
def test_a_latency_without_an_old_one_to_hold_it_against_is_no_gain(new: float, result: str) -> None:
    check = gate._latency(figures(latency_new_ms=(new, new)), GateSettings())
    assert check.result == result
    assert "the old side's is not known" in check.detail


def test_too_few_queries_are_not_a_pass() -> None:
    assert gate._enough(figures(queries=29), GateSettings()).result == "inconclusive"
    passed = Check("a", "pass", "")
    assert verdict_of((passed, replace(passed, result="warn"))) == "PASS"
    assert verdict_of((passed, replace(passed, result="unknown"))) == "INCONCLUSIVE"
    assert verdict_of((replace(passed, result="inconclusive"), replace(passed, result="fail"))) == "FAIL"


@pytest.mark.parametrize(
    ("statements", "name", "result", "says"),
    [
        ((), "coverage", "pass", "200 of 200"),
        (("UPDATE docs SET embedding_v2 = NULL WHERE id = '1'",), "coverage", "fail", "199 of 200"),
        (
            (
                "UPDATE docs SET embedding_v2 = NULL, embedding_v2_source = NULL WHERE id = '1'",
                "INSERT INTO embedtui.queue (migration, key, kind) VALUES (1, '{1}', 'i'), (1, '{1}', 'u')",
            ),
            "coverage",
            "pass",
            "199 of 200 rows with content have a new vector (99.5 %). 1 change waits to be embedded.",
        ),
        (
            (
                "UPDATE docs SET embedding_v2 = NULL WHERE id IN ('1', '2')",
                "INSERT INTO embedtui.queue (migration, key, kind) VALUES (1, '{1}', 'i')",
            ),
            "coverage",
            "fail",
            "198 of 200",
        ),
        (
            (
                "UPDATE docs SET embedding_v2 = NULL WHERE id = '1'",
                "INSERT INTO embedtui.fault (migration, key, class, reason, state)"
                " VALUES (1, '{1}', 'row', 'x', 'skipped')",
            ),
            "coverage",
            "warn",
            "1 was skipped on purpose",
        ),
        (
            (
                "UPDATE docs SET embedding_v2 = NULL WHERE id = '1'",
                "INSERT INTO embedtui.fault (migration, key, class, reason) VALUES (1, '{1}', 'row', 'x')",
            ),
            "faults",
            "fail",
            "1 row has an undecided fault",
        ),
        (
            ("UPDATE docs SET content = 'n' || id WHERE id::int < 3",),
            "freshness",
            "fail",
            "3 vectors are of earlier",
        ),
        (
            ("UPDATE docs SET content = 'new' WHERE id = '3'",),
            "freshness",
            "pass",
            "1 vector is of earlier content, 0 changes wait",
        ),
        (
            ("UPDATE docs SET embedding_v2_model = 1 WHERE id = '3'",),
            "freshness",
            "fail",
            "1 new vector was made by another model. 0 vectors are",
        ),
        (
            ("UPDATE docs SET embedding_v2_model = NULL, embedding_v2_source = NULL WHERE id = '3'",),
            "freshness",
            "warn",
            "1 came from the application without a stamp",
        ),
        (("DROP INDEX docs_new",), "index", "fail", "no approximate index"),
        (
            ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'docs_new'::regclass",),
            "index",
            "fail",
            "docs_new is invalid",
        ),
    ],
)
def test_checks_of_the_table(database: str, statements: Sequence[str], name: str, result: str, says: str) -> None:
    migration = small(database)
    made = rows_compared(database, migration)
    for statement in statements:
        execute(database, statement)
    with connect(database, name="test") as conn:
        found = next(check for check in judge(conn, migration, made) if check.name == name)
    assert found.result == result, found
    assert says in found.detail


def test_changes_that_a_worker_has_in_hand_are_no_lack_of_freshness(database: str) -> None:
    migration = small(database)
    made = rows_compared(database, migration)
    execute(database, "UPDATE docs SET content = 'n' || id WHERE id::int < 3")
    execute(
        database,
        "INSERT INTO embedtui.queue (migration, key, kind) SELECT 1, ARRAY[id], 'u' FROM docs WHERE id::int < 3",
    )
    with connect(database, name="test") as conn:
        for caught, result in (
            (Caught("ops-1:7", True), "pass"),
            (Caught("ops-1:7", False), "fail"),
            (Caught(), "fail"),
        ):
            found = next(each for each in judge(conn, migration, made, caught=caught) if each.name == "freshness")
            assert found.result == result, found
            assert (caught.worker in found.detail + found.hint) and "3 changes wait" in found.detail


def test_an_index_that_no_search_can_use(database: str) -> None:
    migration = small(database)
    execute(database, "DROP INDEX docs_new")
    execute(database, "CREATE INDEX docs_new ON docs USING hnsw (embedding_v2 vector_l2_ops)")
    with connect(database, name="test") as conn:
        found = gate._index(conn, migration)
    assert found.result == "fail"
