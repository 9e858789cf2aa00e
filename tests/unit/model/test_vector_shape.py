"""What becomes of a vector between its model and its column."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from embedtui.config.settings import ModelSettings
from embedtui.errors import SettingsError
from embedtui.known import provider
from embedtui.model import EmbeddingModel
from embedtui.model.vector_shape import VectorShape
from embedtui.postgres.state.models import model_fingerprint
from embedtui.providers import ProviderFault
from embedtui.providers.asking import request_body
from embedtui.providers.replies import parse_reply


def test_a_vector_is_padded_and_divided_by_its_length() -> None:
    given = np.array([[3, 4], [0, 0], [1e-30, 0], [3e38, 3e38]], np.float32)
    shape = VectorShape(4, 2, normalise=True)
    made = shape(given)
    assert made.dtype == np.float32
    assert made.tolist()[:3] == [[pytest.approx(0.6), pytest.approx(0.8), 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert np.linalg.norm(made[3]) == pytest.approx(1)
    assert np.array_equal(shape(made), made), "what has the shape keeps it"
    plain = VectorShape(2, 2)
    assert not plain.changes
    assert np.array_equal(plain(given), given)


def test_what_cannot_be_used_stays_so() -> None:
    given = np.array([[np.nan, 1], [np.inf, 1]], np.float32)
    made = VectorShape(3, 2, normalise=True)(given)
    assert not np.isfinite(made).all(axis=1).any()


@pytest.mark.parametrize("encoded", [True, False])
def test_a_reply_has_the_models_numbers_and_the_vectors_the_columns(encoded: bool) -> None:
    model = EmbeddingModel("m", 5, given=2, normalise=True)
    raw = np.array([2, 0], "<f4")
    value = base64.b64encode(raw.tobytes()).decode() if encoded else raw.tolist()
    body = json.dumps({"data": [{"index": 0, "embedding": value}], "usage": {"total_tokens": 1}}).encode()
    assert parse_reply(body, 1, model).vectors.tolist() == [[1, 0, 0, 0, 0]]
    with pytest.raises(ProviderFault, match="2 dimensions, not 5"):
        parse_reply(body, 1, EmbeddingModel("m", 5))
    asked = request_body(model, provider("openai"), ["t"], "document", base64=False)
    assert asked["dimensions"] == 2


def test_both_are_part_of_a_models_identity() -> None:
    models = [
        EmbeddingModel("m", 4),
        EmbeddingModel("m", 4, given=2),
        EmbeddingModel("m", 4, given=3),
        EmbeddingModel("m", 4, normalise=True),
    ]
    assert len({model_fingerprint(model) for model in models}) == 4
    # a given size that pads nothing is none: what is stored of before keeps its identity
    assert model_fingerprint(EmbeddingModel("m", 4, given=4)) == model_fingerprint(models[0])


def test_settings_say_what_the_model_gives_and_what_the_column_holds() -> None:
    model = ModelSettings(name="m", dimensions=384, pad_to=1536, normalise=True).complete("new")
    assert (model.dimensions, model.given, model.normalise) == (1536, 384, True)
    assert ModelSettings(name="m", dimensions=384, pad_to=384).complete("new").given is None
    found = ModelSettings(name="text-embedding-ada-002", pad_to=2000).complete("old", dimensions=2000)
    assert (found.dimensions, found.given) == (2000, 1536)
    with pytest.raises(SettingsError, match="none is cut off"):
        ModelSettings(name="m", dimensions=384, pad_to=256).complete("new")
    with pytest.raises(SettingsError, match="not known"):
        ModelSettings(name="m", pad_to=256).complete("old", dimensions=256)
