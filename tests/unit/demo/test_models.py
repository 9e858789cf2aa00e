"""The two local models: sound vectors, and the new one finds clearly more of the right answers."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from embedtui.demo.api import ModelFunction
from embedtui.demo.corpus import documents
from embedtui.demo.models import (
    EARLIER_DIMENSIONS,
    NEW_DIMENSIONS,
    NEW_MODEL,
    OLD_DIMENSIONS,
    OLD_MODEL,
    earlier_generation,
    load_models,
)
from embedtui.demo.questions import QUESTIONS
from embedtui.engine.bridge.fit import BOUND, fit
from embedtui.model import Distance

ODD_TEXTS = ["!", "   x", "zzqqxx", "日本語", "a the of", "\ud800", "word " * 5000, "…\n\n…", "é", "7"]


@pytest.fixture(scope="module")
def corpus() -> list[tuple[str, str]]:
    return [(document.name, document.text) for document in documents()]


@pytest.fixture(scope="module")
def models(corpus: list[tuple[str, str]]) -> dict[str, ModelFunction]:
    return load_models([text for _, text in corpus])


@pytest.mark.parametrize(("name", "own"), [(OLD_MODEL, OLD_DIMENSIONS), (NEW_MODEL, NEW_DIMENSIONS)])
def test_vectors_are_unit_whatever_the_text(models: dict[str, ModelFunction], name: str, own: int) -> None:
    for wanted in (None, own, 64, 1):
        vectors = models[name](ODD_TEXTS, wanted)
        assert vectors.dtype == np.float32 and vectors.shape == (len(ODD_TEXTS), wanted or own)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    for wanted in (0, own + 1):
        with pytest.raises(ValueError, match=f"has {own} dimensions"):
            models[name](ODD_TEXTS, wanted)
    assert models[name]([], None).shape == (0, own)


@pytest.mark.parametrize("name", [OLD_MODEL, NEW_MODEL])
def test_a_vector_depends_on_its_text_alone(models: dict[str, ModelFunction], name: str) -> None:
    texts = [question.text for question in QUESTIONS]
    together = models[name](texts, None)
    np.testing.assert_allclose(models[name](texts[::-1], None)[::-1], together, atol=1e-6)
    np.testing.assert_allclose(models[name](texts[5:6], None)[0], together[5], atol=1e-6)


def test_fitting_again_gives_the_same_model(corpus: list[tuple[str, str]]) -> None:
    some = [text for _, text in corpus[::10]]
    first, second = (load_models(some)[NEW_MODEL](some[:50], None) for _ in range(2))
    assert (first * second).sum(axis=1).min() > 0.9999


def test_first_requests_at_once_fit_once(corpus: list[tuple[str, str]]) -> None:
    model = load_models([text for _, text in corpus[::10]])[NEW_MODEL]
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(model(["split a path"], None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for vectors in found:
        np.testing.assert_array_equal(vectors, found[0])


def ndcg_at_10(model: ModelFunction, corpus: list[tuple[str, str]]) -> float:
    """Mean nDCG@10 of the demo's questions, by exact cosine."""
    places = {name: place for place, (name, _) in enumerate(corpus)}
    scores = model([question.text for question in QUESTIONS], None) @ model([text for _, text in corpus], None).T
    gains = 1 / np.log2(np.arange(2, 12))
    found = []
    for question, row in zip(QUESTIONS, scores, strict=True):
        right = [places[answer] for answer in question.answers if answer in places]
        top = np.argsort(-row, kind="stable")[:10]
        found.append(gains[np.isin(top, right)].sum() / gains[: len(right)].sum())
    return float(np.mean(found))


def test_the_earlier_model_can_be_bridged_and_is_worth_it(
    models: dict[str, ModelFunction], corpus: list[tuple[str, str]]
) -> None:
    """A map fitted on rows of the table finds most of what it found, well above the bound; a shuffled one nothing."""
    texts = [text for _, text in corpus]
    model = earlier_generation(lambda: texts, EARLIER_DIMENSIONS)
    old, new = model(texts, None), models[NEW_MODEL](texts, None)
    drawn = np.random.default_rng(0).permutation(len(texts))
    found = fit(new[drawn[:1500]], old[drawn[:1500]], Distance.COSINE, others=old[drawn[1500:2500]])
    figures = found.status.figures
    assert found.status.refused == "" and figures.recall_10.low > 0.9 > BOUND
    assert figures.overlap_10.mean > 0.7
    questions = [question.text for question in QUESTIONS]
    native = np.argsort(-(model(questions, None) @ old.T))[:, :10]
    bridged = np.argsort(-(found.map(models[NEW_MODEL](questions, None)) @ old.T))[:, :10]
    shared = [len(set(one) & set(other)) / 10 for one, other in zip(native.tolist(), bridged.tolist(), strict=True)]
    assert np.mean(shared) > 0.5
    earlier, plain = ndcg_at_10(model, corpus), ndcg_at_10(models[OLD_MODEL], corpus)
    assert plain < earlier < ndcg_at_10(models[NEW_MODEL], corpus)


def test_new_model_is_clearly_better(models: dict[str, ModelFunction], corpus: list[tuple[str, str]]) -> None:
    old, new = ndcg_at_10(models[OLD_MODEL], corpus), ndcg_at_10(models[NEW_MODEL], corpus)
    assert old > 0.02, f"old {old:.3f}: not even a poor model"
    assert new > 2 * old + 0.1, f"old {old:.3f}, new {new:.3f}"
