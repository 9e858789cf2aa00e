"""Maps that are known are found again, what is no pair is refused, and the figures tell one from the other."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedtui.engine.bridge.checks import LEAST_ROWS, two_models
from embedtui.engine.bridge.fit import BOUND, fit, is_better, why_refused
from embedtui.engine.bridge.maps import Moments, identity, orthogonal, ridge
from embedtui.engine.bridge.measuring import Field, average, scores, share
from embedtui.engine.bridge.stand_in import least_direction, stand_in
from embedtui.errors import Refused
from embedtui.model import Distance
from embedtui.model.bridge import BridgeFigures
from tests.kits.bridging import meanings, seen_by

DIMENSIONS = st.sampled_from([(8, 8), (8, 24), (24, 8), (16, 13)])


def moments_of(new: np.ndarray, old: np.ndarray, parts: int = 1) -> Moments:
    moments = Moments.about(new[:50], old[:50])
    for x, y in zip(np.array_split(new, parts), np.array_split(old, parts), strict=True):
        moments.add(x, y)
    return moments


@given(DIMENSIONS, st.integers(0, 10_000), st.integers(1, 5), st.floats(0, 100))
@settings(max_examples=25, deadline=None)
def test_a_linear_map_is_found_again(sizes: tuple[int, int], seed: int, parts: int, far: float) -> None:
    generator = np.random.default_rng(seed)
    new = (generator.standard_normal((400, sizes[0])) + far).astype(np.float32)
    matrix = generator.standard_normal((sizes[1], sizes[0])).astype(np.float32)
    offset = (generator.standard_normal(sizes[1]) * 3).astype(np.float32)
    old = new @ matrix.T + offset
    found = ridge(moments_of(new, old, parts), 1e-6)
    assert np.abs(found.matrix - matrix).max() < 0.01
    assert np.abs(found(new) - old).max() < 0.02 * np.abs(old).max()
    assert found(new[0]).shape == (sizes[1],)


@given(DIMENSIONS, st.integers(0, 10_000), st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_a_rotation_is_found_again_and_is_one(sizes: tuple[int, int], seed: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    least = min(sizes)
    new = generator.standard_normal((300, sizes[0])).astype(np.float32)
    turn = np.linalg.qr(generator.standard_normal((max(sizes), max(sizes))))[0][: sizes[1], : sizes[0]]
    found = orthogonal(moments_of(new, (new @ turn.T * scale + 1).astype(np.float32)))
    singular = np.linalg.svd(found.matrix, compute_uv=False)[:least]
    assert singular.max() / singular.min() == pytest.approx(1, abs=1e-3), "turned and scaled, never bent"
    if sizes[0] <= sizes[1] and np.allclose(turn.T @ turn, np.eye(sizes[0]), atol=1e-6):
        assert np.abs(found.matrix - turn * scale).max() < 0.01 * scale


def test_pairs_of_a_rank_that_is_not_full_leave_no_nonsense() -> None:
    about = meanings(60)
    new, old = seen_by(1, about, 96), seen_by(2, about, 80)
    for found in (ridge(moments_of(new, old), 0.1), orthogonal(moments_of(new, old))):
        assert np.isfinite(found.matrix).all() and np.isfinite(found.offset).all()
    assert identity(3, 4) is None


@pytest.mark.parametrize("sizes", [(32, 32), (48, 24), (24, 48)], ids=["equal", "shrink", "grow"])
@pytest.mark.parametrize("distance", list(Distance))
def test_linearly_related_models_are_bridged(sizes: tuple[int, int], distance: Distance) -> None:
    about = meanings(800)
    new, old = seen_by(1, about, sizes[0], 0.1), seen_by(2, about, sizes[1], 0.1)
    found = fit(new[:600], old[:600], distance, others=old[600:])
    status = found.status
    assert status.refused == ""
    assert status.rows == 600 and status.figures.pool == 800 and status.figures.rows == 120
    assert status.figures.recall_10.mean > 0.95
    assert status.figures.recall_10.low <= status.figures.recall_10.mean <= status.figures.recall_10.high
    assert [point.rows for point in status.curve] == sorted(point.rows for point in status.curve)
    assert status.curve[-1].figures == status.figures
    assert status.others["shuffled"].recall_10.mean < 0.2
    assert ("identity" in status.others) is (sizes[0] == sizes[1])
    mapped = found.map(new[600:])
    assert float(np.linalg.norm(mapped, axis=1).mean()) == pytest.approx(1, abs=0.05), "as long as the old vectors"
    place = (mapped @ old.T).argmax(axis=1)
    assert (place == np.arange(600, 800)).mean() > 0.7


def test_pairs_that_are_none_are_refused() -> None:
    about = meanings(600)
    new, old = seen_by(1, about, 32), seen_by(2, about, 32)
    shuffled = fit(new, old[np.random.default_rng(3).permutation(600)], Distance.COSINE).status
    assert shuffled.figures.recall_10.mean < BOUND
    assert "find themselves" in shuffled.refused
    other = fit(new, seen_by(2, meanings(600, seed=9), 32), Distance.COSINE).status
    assert other.refused, "another table's vectors"


def test_models_that_have_little_in_common_are_refused_with_figures() -> None:
    about = meanings(600)
    new, old = seen_by(1, about[:, :2], 32, 0.3), seen_by(2, about, 32, 0.3)
    status = fit(new, old, Distance.COSINE).status
    assert status.refused.startswith("Of 120 rows held out")
    assert 0 < status.figures.recall_10.mean < BOUND


@pytest.mark.parametrize(
    ("found", "shuffled", "said"),
    [
        (95, 5, ""),
        (76, 5, ""),
        (74, 5, "find themselves among the first ten of 1,000"),
        (95, 45, "Pairs shuffled at random fit nearly as well"),
        (95, 30, ""),
    ],
)
def test_figures_say_nothing_where_shuffled_pairs_reach_half_of_them(found: int, shuffled: int, said: str) -> None:
    real, control = (
        BridgeFigures(share(0, 100), share(hits, 100), share(0, 100), 100, 1000) for hits in (found, shuffled)
    )
    refused = why_refused(real, control)
    assert said in refused and bool(said) == bool(refused)


def test_input_that_cannot_be_fitted_is_refused_with_what_was_seen() -> None:
    about = meanings(400)
    new, old = seen_by(1, about, 16), seen_by(2, about, 16)
    broken = old.copy()
    broken[3, 4] = np.nan
    constant = np.ones_like(old)
    few_values = np.repeat(old[:40], 10, axis=0)
    for pair, said in (
        ((new[:50], old[:50]), f"50 rows .* needs {LEAST_ROWS}"),
        ((new[:399], old), "are no pairs"),
        ((new, broken), "1 of 400 old vectors hold numbers that are none"),
        ((np.where(new > 9, new, np.inf).astype(np.float32), old), "400 of 400 new vectors"),
        ((new, constant), "1 different old vectors"),
        ((constant, old), "1 different new vectors"),
        ((new, few_values), "40 different old vectors"),
    ):
        with pytest.raises(Refused, match=said):
            fit(*pair, Distance.COSINE)


@pytest.mark.parametrize("part", [0.08, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_an_old_column_of_two_models_is_refused(part: float, noise: float) -> None:
    about = meanings(800)
    new, old, other = seen_by(1, about, 48, noise), seen_by(2, about, 48, noise), seen_by(3, about, 48, noise)
    mixed = old.copy()
    chosen = np.random.default_rng(5).random(800) < part
    mixed[chosen] = other[chosen]
    with pytest.raises(Refused, match="two models"):
        fit(new, mixed, Distance.COSINE)


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.1, 1.0, 4.0]), st.sampled_from([120, 400, 900]))
@settings(max_examples=20, deadline=None)
def test_one_model_is_not_taken_for_two(seed: int, noise: float, rows: int) -> None:
    about = meanings(rows, seed)
    about[rows // 2 :, 0] += 6  # two kinds of text are not two models
    assert two_models(seen_by(1, about, 40, noise), seen_by(2, about, 40, noise))[0] < 0.04


def test_figures_count_places_and_ties() -> None:
    pool = np.eye(6, dtype=np.float32)
    field = Field(3, pool, Distance.COSINE)
    exact = field.measure(pool[:3])
    assert (exact.recall_1.mean, exact.recall_10.mean, exact.overlap_10.mean) == (1, 1, 1)
    assert field.measure(pool[[1, 2, 0]]).recall_1.mean == 0
    same = Field(40, np.ones((40, 4), np.float32), Distance.COSINE)
    assert same.measure(np.ones((40, 4), np.float32)).recall_10.mean == 0, "what is the same everywhere finds nothing"
    twice = Field(4, np.concatenate([pool[:4], pool[:4]]), Distance.L2)
    assert twice.measure(pool[:4]).recall_1.mean == 1, "a text that stands in two rows is found"


def test_intervals_hold_what_they_are_of() -> None:
    for hits, of in ((0, 20), (20, 20), (7, 20), (0, 0)):
        found = share(hits, of)
        assert 0 <= found.low <= found.mean <= found.high <= 1
    assert share(450, 500).high - share(450, 500).low < share(18, 20).high - share(18, 20).low
    assert average(np.array([0.5])).low == 0
    assert average(np.array([0.4, 0.6] * 50)).mean == pytest.approx(0.5)


def test_memory_goes_by_dimensions_and_not_by_rows() -> None:
    generator = np.random.default_rng(0)
    new = generator.standard_normal((20_000, 64)).astype(np.float32)
    old = new @ generator.standard_normal((64, 48)).astype(np.float32)
    moments = Moments.about(new[:100], old[:100])
    tracemalloc.start()
    moments.add(new, old)
    ridge(moments, 0.1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < new.nbytes, "no copy of all rows is made"


def test_a_map_is_compared_with_one_of_the_first_pairs_by_the_same_rows() -> None:
    about = meanings(2_000, topics=40)
    new, old = seen_by(1, about, 64, 0.6), seen_by(2, about, 48, 0.6)
    again = fit(new, old, Distance.COSINE, first=300, seed=5).status
    before, now = again.curve
    # a fifth of the first pairs and half as many again are held out, of those alone
    assert (before.rows, now.rows, again.rows) == (300 - 60 - 30, 2_000 - 60 - 30, 2_000)
    assert before.figures.rows == now.figures.rows == 60
    assert is_better(again) and now.figures.overlap_10.mean > before.figures.overlap_10.mean
    # more pairs that are none do not help
    worse = np.concatenate([old[:300], old[np.random.default_rng(1).permutation(np.arange(300, 2_000))]])
    assert not is_better(fit(new, worse, Distance.COSINE, first=300, seed=5).status)


@pytest.mark.parametrize("distance", list(Distance))
@pytest.mark.parametrize("sizes", [(32, 24), (16, 24), (64, 64)], ids=str)
def test_vectors_made_to_be_stored_are_found_as_often_as_true_ones(sizes: tuple[int, int], distance: Distance) -> None:
    rows, asked = 1_500, 200
    about = meanings(rows + asked)
    new, old = seen_by(1, about, sizes[0], 1.5), seen_by(2, about, sizes[1], 1.5)
    new, old, questions = new[:rows], old[:rows], new[rows:]
    part = np.arange(rows) % 10 == 0
    found = fit(new[~part], old[~part], distance)
    made = stand_in(found.map, found.status)(new[part])
    assert np.allclose(np.linalg.norm(made, axis=1), found.status.length, atol=1e-3)

    def share(stored: np.ndarray) -> float:
        store = old.copy()
        store[part] = stored
        first = np.argsort(-scores(found.map(questions), store, distance), axis=1)[:, :10]
        return float(part[first].mean())

    true = share(old[part])
    assert 0.7 * true < share(made) < 1.4 * true
    if distance is not Distance.INNER_PRODUCT:
        assert share(found.map(new[part])) > 1.5 * true, "as the map gives them, they push others out"


def test_what_is_made_is_the_same_wherever_it_is_made() -> None:
    about = meanings(300)
    found = fit(seen_by(1, about, 16), seen_by(2, about, 24), Distance.COSINE)
    aside = least_direction(found.map)
    assert np.abs(aside @ found.map.matrix).max() < 1e-3 and np.linalg.norm(aside) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(aside, least_direction(found.map))
