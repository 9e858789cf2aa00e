"""The gate: four verdicts on the demo's corpus, each check's reasons, and when a recorded verdict is void."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest

from embedtui.config import GateSettings
from embedtui.demo.corpus import documents
from embedtui.demo.models import NEW_MODEL, OLD_MODEL, load_models
from embedtui.demo.questions import QUESTIONS
from embedtui.engine.validate import gate, queries
from embedtui.engine.validate.compare import compare
from embedtui.engine.validate.evaluation import current_evaluation, remembered
from embedtui.engine.validate.gate import GateThresholds, Quality, decide_gate, judge, quality, verdict_of
from embedtui.model import (
    Check,
    Comparison,
    Interval,
    Measures,
    Migration,
    PlacementKind,
    QueryInput,
    Remedy,
    SweepPoint,
)
from embedtui.postgres.connect import connect
from embedtui.postgres.sides.capture import install_sql
from tests.kits.comparing import Vectors, build_index, connector, execute, make_table, unit


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
        queries.store_vectors(conn, migration.old_model.id, dict(zip(ids, asked_old, strict=True)))
        queries.store_vectors(conn, migration.new_model.id, dict(zip(ids, asked_new, strict=True)))
    made = compare(connector(dsn), migration, asked)
    return migration, decide_gate(connector(dsn), migration, made)


def check(comparison: Comparison, name: str) -> Check:
    return next(check for check in comparison.checks if check.name == name)


def results(comparison: Comparison) -> dict[str, str]:
    return {check.name: check.result for check in comparison.checks}


# --------------------------------------------------------------------------------------------------- four verdicts


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
    _, made = judged_comparison(
        database, corpus, corpus.old, corpus.new, corpus.asked_old, corpus.asked_new, index="ivfflat WITH (lists = 300)"
    )
    assert made.verdict == "FAIL"
    assert {name for name, result in results(made).items() if result == "fail"} == {"index loss"}
    assert check(made, "quality").detail.startswith("The new model is better")
    lost = check(made, "index loss")
    assert "this loss is the index's, not the model's" in lost.detail
    assert lost.mend.startswith("ivfflat.probes = ")


def test_without_judgments_nothing_is_called_worse(database: str, corpus: Corpus) -> None:
    _, made = judged_comparison(
        database, corpus, corpus.old, corpus.new, corpus.asked_old, corpus.asked_new, judged=False
    )
    found = check(made, "quality")
    assert (found.result, made.verdict) == ("inconclusive", "INCONCLUSIVE")
    assert "different; without judgments nothing here knows" in found.detail


# ---------------------------------------------------------------------------------------------------- the quality

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
    assert gate._quality(given, GateThresholds()).result == result


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
    found = gate._index_loss(migration, figures(sweep=(point,), **given), GateThresholds())
    assert found.result == result
    assert ("hnsw.ef_search = 80 finds 97 % at a p95 of 2.0 ms" in found.mend) == (result == "fail")


@pytest.mark.parametrize(
    ("old", "new", "result"), [(30.0, 59.0, "pass"), (30.0, 61.0, "fail"), (1.0, 19.0, "pass"), (1.0, 21.0, "fail")]
)
def test_latency_check(old: float, new: float, result: str) -> None:
    given = figures(latency_old_ms=(old, old), latency_new_ms=(new, new))
    assert gate._latency(given, GateThresholds()).result == result
    assert gate._latency(figures(), GateThresholds()).result == "unknown"


def test_too_few_queries_are_not_a_pass() -> None:
    assert gate._enough(figures(queries=29), GateThresholds()).result == "inconclusive"
    passed = Check("a", "pass", "")
    assert verdict_of((passed, replace(passed, result="warn"))) == "PASS"
    assert verdict_of((passed, replace(passed, result="unknown"))) == "INCONCLUSIVE"
    assert verdict_of((replace(passed, result="inconclusive"), replace(passed, result="fail"))) == "FAIL"


def test_every_setting_is_a_threshold_with_the_same_default() -> None:
    settings = asdict(GateSettings())
    del settings["where"]  # a filter of the comparison's searches, no threshold
    assert GateThresholds(**settings) == GateThresholds()


def test_a_share_is_never_rounded_up_to_all() -> None:
    assert gate._percent(0.99999) == "99.9 %"
    assert gate._percent(1.0) == "100 %"


# ------------------------------------------------------------------------------------------------- the table's state


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
            "199 of 200 rows with content have a new vector (99.5 %). 1 just written waits for one.",
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


def test_an_index_that_no_search_can_use(database: str) -> None:
    migration = small(database)
    execute(database, "DROP INDEX docs_new")
    execute(database, "CREATE INDEX docs_new ON docs USING hnsw (embedding_v2 vector_l2_ops)")
    with connect(database, name="test") as conn:
        found = gate._index(conn, migration)
    assert found.result == "fail"


# --------------------------------------------------------------------------------------------------------- recorded


@pytest.mark.parametrize("placement", list(PlacementKind))
def test_a_recorded_evaluation_is_read_back_whole(database: str, placement: PlacementKind) -> None:
    migration = small(database, placement=placement)
    made = rows_compared(database, migration)
    with connect(database, name="test") as conn:
        assert remembered(conn, migration) == made
        status = current_evaluation(conn, migration)
        audited = conn.execute("SELECT detail FROM embedtui.audit WHERE act = 'evaluation'").fetchall()
    assert status is not None
    assert (status.id, status.verdict, status.valid, status.queries) == (made.evaluation_id, made.verdict, True, 40)
    assert status.mean_overlap == made.measures.overlap.mean
    assert len(audited) == 1
    assert audited[0][0].startswith(made.verdict)


def test_a_recorded_check_keeps_what_mends_it(database: str) -> None:
    migration = small(database)
    made = rows_compared(database, migration)
    execute(database, "DROP INDEX docs_new")
    judged = decide_gate(connector(database), migration, made)
    with connect(database, name="test") as conn:
        kept = remembered(conn, migration)
    assert kept is not None
    assert kept.checks == judged.checks
    (index,) = (check for check in kept.checks if check.name == "index")
    assert (index.remedies, index.advice) == ((Remedy.RUN,), "Build it: `embedtui run`.")


def test_there_is_no_evaluation_before_the_first(database: str) -> None:
    migration = small(database)
    with connect(database, name="test") as conn:
        assert current_evaluation(conn, migration) is None
        assert remembered(conn, migration) is None


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE docs SET content = 'x' || id WHERE id::int < 11", "11 of 200 rows changed since (6 %, more than 5 %)"),
        ("UPDATE docs SET content = 'x' || id WHERE id::int < 10", ""),
        ("INSERT INTO docs (id, category, content) SELECT 'n' || n, 0, 'x' FROM generate_series(1, 11) n", "11 of 200"),
        ("DELETE FROM docs WHERE id::int < 11", "11 of 200"),
        ("TRUNCATE docs", "truncated or rewritten"),
        ("DROP INDEX docs_new", "the index docs_new it saw is gone"),
        ("REINDEX INDEX docs_new", "the index docs_new was built since"),
        ("UPDATE embedtui.migration SET synced = synced + 11", "11 of 200"),
        (
            "INSERT INTO embedtui.queue (migration, key, kind) SELECT 1, '{1}', 'u' FROM generate_series(1, 30)",
            "11 of 200",
        ),
        ("INSERT INTO embedtui.queue (migration, key, kind) SELECT 7, '{1}', 'u' FROM generate_series(1, 30) n", ""),
        (
            "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block, rows)"
            " VALUES (1, 1, 1, 0, 1, 11)",
            "11 of 200",
        ),
    ],
)
def test_an_evaluation_goes_void_when_the_table_moves_on(database: str, statement: str, why: str) -> None:
    migration = small(database)
    made = rows_compared(database, migration)
    execute(database, statement)
    with connect(database, name="test") as conn:
        status = current_evaluation(conn, migration)
    assert status is not None
    assert status.id == made.evaluation_id
    assert status.valid == (why == "")
    assert why in status.why_void


def test_with_change_capture_only_changed_content_counts(database: str) -> None:
    migration = small(database)
    with connect(database, name="test") as conn:
        for statement in install_sql(migration):
            conn.execute(statement)
    rows_compared(database, migration)
    execute(database, "UPDATE docs SET category = category + 1")
    with connect(database, name="test") as conn:
        status = current_evaluation(conn, migration)
    assert status is not None
    assert status.valid, status.why_void
    execute(database, "UPDATE docs SET content = content || '!' WHERE id::int < 11")
    with connect(database, name="test") as conn:
        status = current_evaluation(conn, migration)
    assert status is not None
    assert "11 of 200" in status.why_void


def test_the_drift_that_voids_is_a_setting(database: str) -> None:
    migration = small(database)
    made = rows_compared(database, migration)
    strict = GateThresholds(max_drift=0.01)
    decide_gate(connector(database), migration, replace(made, evaluation_id=None), strict)
    execute(database, "UPDATE docs SET content = 'x' || id WHERE id::int < 5")
    with connect(database, name="test") as conn:
        status = current_evaluation(conn, migration)
    assert status is not None
    assert status.why_void == "5 of 200 rows changed since (2 %, more than 1 %)"


def test_an_evaluation_of_other_models_is_void(database: str) -> None:
    migration = small(database)
    rows_compared(database, migration)
    other = replace(migration, new_model=replace(migration.new_model, id=99))
    with connect(database, name="test") as conn:
        status = current_evaluation(conn, other)
    assert status is not None
    assert status.why_void == "it compared other models"


def test_an_index_built_after_the_evaluation_makes_it_void(database: str) -> None:
    migration = small(database, index="")
    rows_compared(database, migration)
    with connect(database, name="test") as conn:
        build_index(conn, migration, "hnsw")
        status = current_evaluation(conn, migration)
    assert status is not None
    assert "docs_new was built since" in status.why_void


def test_an_index_that_became_valid_during_the_comparison_is_the_one_it_saw(database: str) -> None:
    """Compared in the second in which a build ends: what was searched counts, not what there was at the start."""
    migration = small(database)
    with connect(database, name="test") as conn:
        asked = queries.from_rows(conn, migration, 40)
        conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'docs_new'::regclass")

        def build_ends(what: str, done: int, total: int) -> None:
            if what == "reading vectors":
                conn.execute("UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'docs_new'::regclass")

        made = compare(connector(database), migration, asked, progress=build_ends)
        decide_gate(connector(database), migration, made)
        status = current_evaluation(conn, migration)
    assert made.measures.index_recall == 1
    assert status is not None
    assert status.valid, status.why_void
