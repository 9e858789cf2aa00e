"""Names of batch jobs come from the database, where a worker's role writes them: they lead to no other address."""

from __future__ import annotations

import threading

import pytest

from embedtui.model import EmbeddingModel
from embedtui.providers import ProviderFault, make_batches


@pytest.mark.parametrize("method", ["retrieve", "cancel"])
@pytest.mark.parametrize(
    "name", ["", "..", "../files/f", "a/../../models", "a//b", "x?y=1", "a\nb", "%2e%2e/b", "/b", "b" * 300]
)
def test_names_that_are_none_are_asked_of_nobody(method: str, name: str) -> None:
    model = EmbeddingModel("new-model", 16, base_url="http://127.0.0.1:9/v1")  # nobody listens
    batches = make_batches(model, environ={"OPENAI_API_KEY": "sk"})
    try:
        with pytest.raises(ProviderFault) as caught:
            getattr(batches, method)(name, threading.Event())
    finally:
        batches.close()
    assert caught.value.code == "404"
