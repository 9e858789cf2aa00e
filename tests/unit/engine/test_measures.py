"""Measures agree with a standard tool (ir_measures, that is trec_eval) and with their definitions."""

from __future__ import annotations

import itertools
import math
import random

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, nDCG

from embedtui.engine.validate import measures
from embedtui.engine.validate.ranking import SearchedQuery, rank
from embedtui.model import QueryInput, Side
from embedtui.model.evaluation import sign_test
from embedtui.postgres.state.queries import StoredQuery


def made_up_run(seed: int) -> tuple[dict[str, dict[str, int]], dict[str, list[str]]]:
    """Judgments (graded, some with relevant rows that no run can find) and rankings of 60 queries."""
    draw = random.Random(seed)
    judged: dict[str, dict[str, int]] = {}
    rankings: dict[str, list[str]] = {}
    for number in range(60):
        documents = [f"d{i}" for i in range(40)]
        judged[f"q{number}"] = {d: draw.randint(0, 3) for d in draw.sample(documents, draw.randint(1, 15))}
        judged[f"q{number}"][f"lost{number}"] = draw.randint(0, 1)
        rankings[f"q{number}"] = draw.sample(documents, draw.choice([3, 10, 25]))
    return judged, rankings


@pytest.mark.parametrize("seed", range(3))
def test_judged_measures_equal_trec_eval(seed: int) -> None:
    judged, rankings = made_up_run(seed)
    run = {q: {d: 1.0 - rank / 100 for rank, d in enumerate(ds)} for q, ds in rankings.items()}
    theirs = {(m.query_id, m.measure): m.value for m in ir_measures.iter_calc([nDCG @ 10, R @ 10], judged, run)}
    top10 = {q: {d: run[q][d] for d in ds[:10]} for q, ds in rankings.items()}
    theirs |= {(m.query_id, m.measure): m.value for m in ir_measures.iter_calc([RR], judged, top10)}
    assert len(theirs) == 180
    for query, gains in judged.items():
        assert measures.ndcg(rankings[query], gains, 10) == pytest.approx(theirs[query, nDCG @ 10], abs=1e-9)
        assert measures.recall(rankings[query], gains, 10) == pytest.approx(theirs[query, R @ 10], abs=1e-9)
        assert measures.reciprocal_rank(rankings[query], gains, 10) == pytest.approx(theirs[query, RR], abs=1e-9)


def test_judged_measures_without_a_relevant_row() -> None:
    assert measures.ndcg(["a"], {}) == measures.recall(["a"], {"a": 0.0}) == measures.reciprocal_rank(["a"], {}) == 0


def test_overlap() -> None:
    assert measures.overlap("abcd", "dcxy", 4) == 0.5
    assert measures.overlap("abcd", "xycd", 2) == 0.0
    assert measures.overlap("ab", "ba", 10) == 1.0, "a filter that leaves two rows leaves them to both"
    assert measures.overlap("", "", 10) == 1.0
    assert measures.overlap("a", "", 10) == 0.0


def rbo_by_extrapolation(old: str, new: str, p: float) -> float:
    """The definition itself: agreement per depth, going on as it stood at the last common depth, summed far out."""
    agreement = [len(set(old[:d]) & set(new[:d])) / d for d in range(1, len(old) + 1)]
    agreement += [agreement[-1]] * 3000
    return (1 - p) * math.fsum(a * p**d for d, a in enumerate(agreement))


@pytest.mark.parametrize("p", [0.8, 0.9, 0.98])
def test_rbo_is_the_extrapolated_infinite_sum(p: float) -> None:
    for new in itertools.islice(itertools.permutations("abcdexyz", 5), 0, None, 97):
        assert measures.rbo("abcde", new, p) == pytest.approx(rbo_by_extrapolation("abcde", "".join(new), p), abs=1e-9)


def test_rbo_of_uneven_and_empty_lists() -> None:
    # equation 32 by hand, s = 1, l = 2, p = 0.5: X = 1, 1; 0.5 + 0.125 + 1·1/(1·2)·0.25 + (0 + 1)·0.25
    assert measures.rbo("a", "ab", 0.5) == pytest.approx(0.5 + 0.125 + 0.125 + 0.25)
    assert measures.rbo("ab", "a", 0.5) == measures.rbo("a", "ab", 0.5)
    assert measures.rbo("", "") == 1.0
    assert measures.rbo("", "ab") == 0.0
    assert measures.rbo("abc", "abc") == pytest.approx(1.0)
    assert measures.rbo("abc", "xyz") == 0.0


def test_rbo_weighs_the_top_most() -> None:
    assert measures.rbo("abcdef", "xbcdef") < measures.rbo("abcdef", "abcdex")


def test_position_changes() -> None:
    """Per result its rank on the other side: moved, entered (new side) or left (old side)."""
    rankings = {side: [((key,), 0.1) for key in keys] for side, keys in ((Side.OLD, "abc"), (Side.NEW, "bxa"))}
    found = rank(SearchedQuery(StoredQuery(1, QueryInput("q"), ""), rankings), {}, 3)
    assert [(*row.key, row.rank, row.other_rank) for row in found.old] == [("a", 1, 3), ("b", 2, 1), ("c", 3, None)]
    assert [(*row.key, row.rank, row.other_rank) for row in found.new] == [("b", 1, 2), ("x", 2, None), ("a", 3, 1)]


def test_top1_kept() -> None:
    assert measures.top1_kept("ab", "ax")
    assert not measures.top1_kept("ab", "ba")
    assert not measures.top1_kept("", "a")


def test_index_recall_counts_ties_as_found() -> None:
    assert measures.index_recall([0.1, 0.2, 0.2], [0.1, 0.2, 0.2], 3) == 1.0
    assert measures.index_recall([0.1, 0.2, 0.3], [0.1, 0.3, 0.4], 3) == pytest.approx(2 / 3)
    assert measures.index_recall([0.1, 0.2], [], 2) == 0.0
    assert measures.index_recall([], [], 2) == 1.0
    assert measures.index_recall([-5.0, -4.0], [-5.0, -3.0], 2) == 0.5, "negative inner products"


def test_histogram_puts_tenths_where_they_belong() -> None:
    assert measures.histogram([i / 10 for i in range(11)]) == (1, 1, 1, 1, 1, 1, 1, 1, 1, 2)
    assert measures.histogram([3 * 0.1, 1 - 0.7]) == (0, 0, 0, 2, 0, 0, 0, 0, 0, 0)


def test_bootstrap_covers_the_mean_and_narrows() -> None:
    few = measures.bootstrap([0.0, 1.0] * 5)
    many = measures.bootstrap([0.0, 1.0] * 500)
    assert few is not None
    assert many is not None
    assert few.mean == many.mean == 0.5
    assert few.low < many.low < 0.5 < many.high < few.high
    # the normal approximation of a share of 1,000: 0.5 ± 1.96 · 0.5 / √1000
    assert many.high == pytest.approx(0.5 + 1.96 * 0.5 / math.sqrt(1000), abs=0.003)
    assert measures.bootstrap([0.0, 1.0] * 5) == few
    assert measures.bootstrap([]) is None


def test_randomisation_test_agrees_with_enumeration() -> None:
    differences = [0.3, -0.1, 0.25, 0.4, 0.05, -0.02, 0.15, 0.0]
    observed = abs(np.mean(differences))
    signs = itertools.product((-1, 1), repeat=len(differences))
    exact = np.mean([abs(np.mean(np.array(s) * differences)) >= observed - 1e-12 for s in signs])
    assert measures.randomisation_test(differences) == pytest.approx(exact, abs=0.015)
    assert measures.randomisation_test([0.0, 0.0]) == 1.0
    assert measures.randomisation_test([]) is None
    assert measures.randomisation_test([0.2] * 40) == pytest.approx(1 / 10_001)


def test_sign_test_is_the_exact_binomial() -> None:
    assert sign_test(5, 5) == 1.0
    assert sign_test(9, 1) == sign_test(1, 9) == pytest.approx(22 / 1024)
    assert sign_test(10, 0) == pytest.approx(2 / 1024)
    assert sign_test(0, 0) is None
