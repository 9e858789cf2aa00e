"""The first request to an endpoint: what is a limit, what is a setting, and what is no embeddings API."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from embedtui.demo.api import MANNERS, FaultKind, LoopbackServer, hash_model
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers import ProviderFault, make_embedder
from embedtui.providers.base import EmbedReply
from embedtui.providers.start import first_answer


def ask(api: LoopbackServer) -> EmbedReply:
    model = EmbeddingModel("new-model", 16, base_url=api.base_url)
    with closing(make_embedder(model, environ={"OPENAI_API_KEY": api.key})) as embedder:
        return first_answer(embedder, model)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_an_endpoint_that_takes_one_text_a_request_has_a_limit_which_the_work_finds(status: int) -> None:
    one = replace(MANNERS["openai"], most=1, status=status, too_many="no more than {most}, please")
    with LoopbackServer({"new-model": hash_model(16)}, manners=one) as api:
        assert len(ask(api).vectors) == 1


@pytest.mark.parametrize("status", [400, 422])
def test_an_endpoint_that_refuses_a_plain_text_is_a_setting_and_no_texts_fault(status: int) -> None:
    with LoopbackServer({"new-model": hash_model(16)}) as api:
        api.faults.add(FaultKind.REJECTED, times=None, status=status)
        with pytest.raises(ProviderFault) as caught:
            ask(api)
    assert caught.value.fault_class is FaultClass.CONFIGURATION
    assert "refuses a plain text" in caught.value.reason
    assert "extra_body" in caught.value.hint
