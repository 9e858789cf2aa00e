"""Each provider as it wants to be asked: settings alone make the requests that its server takes, from the first on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from embedtui.config import ModelSettings
from embedtui.demo.api import MANNERS, LoopbackServer, hash_model
from embedtui.known import PROVIDERS
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers import Kind, ProviderFault, make_embedder
from embedtui.providers.asking import without_credentials
from embedtui.redaction import redact

WIDTH = 16
KEY = "sk-loopback"
NO_BASE64 = ("gemini", "cohere")
OTHER_QUERIES = ("voyage", "cohere", "jina")
TELLS_SIZE = {"voyage": "output_dimension", "cohere": "output_dimension", "mistral": "output_dimension"}
NOT_TOLD = ("ollama", "vllm", "tei", "bedrock")


def model_of(provider: str, api: LoopbackServer, **settings: object) -> EmbeddingModel:
    """What the settings make of a model that nothing is known of, at this server."""
    given = {"name": "new-model", "dimensions": WIDTH, "base_url": api.base_url, "key_variable": "K", **settings}
    return ModelSettings(provider=provider, **given).complete("new")  # type: ignore[arg-type]


def embed(model: EmbeddingModel, texts: list[str], kind: Kind, **variables: str) -> np.ndarray:
    embedder = make_embedder(model, environ={"K": KEY, **variables})
    try:
        return embedder.embed(texts, kind=kind).vectors
    finally:
        embedder.close()


def test_every_provider_of_the_settings_has_a_server_here() -> None:
    assert set(MANNERS) == set(PROVIDERS)
    for name, each in PROVIDERS.items():
        assert each.source and each.checked.startswith("20"), name


@pytest.mark.parametrize("provider", MANNERS)
def test_documents_and_queries_are_asked_for_as_the_provider_wants(provider: str) -> None:
    plain = hash_model(WIDTH)
    with LoopbackServer({"new-model": plain}, key=KEY, manners=provider) as api:
        model = model_of(provider, api)
        documents = embed(model, ["one", "two"], "document")
        queries = embed(model, ["one"], "query")
        assert np.allclose(documents, plain(["one", "two"], WIDTH), atol=1e-6), "as documents, and in their order"
        expected = "query: one" if provider in OTHER_QUERIES else "one"
        assert np.allclose(queries, plain([expected], WIDTH), atol=1e-6), "as queries"
        # only what depends on the provider behind a gateway may have to be found out
        assert api.refused <= (provider == "litellm")
        asked, headers = api.asked[-1]
    base64 = any(value == "base64" for value in asked.values())
    assert base64 == (provider not in (*NO_BASE64, "litellm"))
    told = {name: value for name, value in asked.items() if value == WIDTH}
    assert told == ({} if provider in NOT_TOLD else {TELLS_SIZE.get(provider, "dimensions"): WIDTH})
    carried = {name for name, value in headers.items() if KEY in value}
    assert carried == ({"api-key"} if provider == "azure" else {"authorization"})


@pytest.mark.parametrize("provider", MANNERS)
def test_a_request_as_large_as_the_limits_say_is_taken(provider: str) -> None:
    with LoopbackServer({"new-model": hash_model(WIDTH)}, key=KEY, manners=provider) as api:
        model = model_of(provider, api)
        assert model.max_inputs <= MANNERS[provider].most
        embed(model, [f"text {number}" for number in range(min(model.max_inputs, 300))], "document")
        assert api.refused <= (provider == "litellm")
        with pytest.raises(ProviderFault) as refused:
            embed(model, [str(number) for number in range(MANNERS[provider].most + 1)], "document")
    assert refused.value.refused, "and what is more is refused, not waited out"


def test_own_fields_come_before_the_providers_and_go_where_they_belong() -> None:
    body = {"truncation": False, "document": {"input_type": ""}, "query": {"input_type": "document", "top": {"a": [1]}}}
    with LoopbackServer({"new-model": hash_model(WIDTH)}, key=KEY, manners="voyage") as api:
        model = model_of("voyage", api, extra_body=body)
        embed(model, ["a"], "document")
        embed(model, ["a"], "query")
        (document, _), (query, _) = api.asked
    assert document["truncation"] is False and "input_type" not in document and "query" not in document
    assert (query["truncation"], query["input_type"], query["top"]) == (False, "document", {"a": [1]})


def test_own_headers_are_filled_from_the_environment_and_shown_nowhere() -> None:
    headers = {"X-Gateway": "Token ${GATE_PASS}", "query": {"X-Purpose": "search"}}
    secret = "open-sesame-4711"
    with LoopbackServer({"new-model": hash_model(WIDTH)}, key=KEY, manners="litellm") as api:
        model = model_of("litellm", api, headers=headers)
        embed(model, ["a"], "document", GATE_PASS=secret)
        embed(model, ["a"], "query", GATE_PASS=secret)
        sent = [told for _, told in api.asked]
    assert all(told["x-gateway"] == f"Token {secret}" for told in sent)
    assert [told.get("x-purpose") for told in sent[-2:]] == [None, "search"]
    assert "Token" not in repr(model) and secret not in redact(f"it said {secret}!")


@pytest.mark.parametrize("value", [None, " ", "two\nlines", "caf\u00e9"])
def test_a_header_whose_variable_holds_nothing_to_send_is_said_before_anything_is_asked(value: str | None) -> None:
    with LoopbackServer({"new-model": hash_model(WIDTH)}, key=KEY) as api:
        model = model_of("openai", api, headers={"X-Gateway": "$GATE_PASS"})
        with pytest.raises(ProviderFault, match=r"X-Gateway.*GATE_PASS") as caught:
            embed(model, ["a"], "document", **({} if value is None else {"GATE_PASS": value}))
        assert api.requests == 0
    assert caught.value.fault_class is FaultClass.CONFIGURATION


@pytest.mark.parametrize(
    ("query", "answered"), [("?api-version=2024-10-21", True), ("", False), ("?api-version=2020-01-01", False)]
)
def test_the_query_of_a_base_url_stays_a_query(query: str, answered: bool) -> None:
    with LoopbackServer({"new-model": hash_model(WIDTH)}, key=KEY, manners="azure") as api:
        model = replace(model_of("azure", api), base_url=api.base_url.partition("?")[0] + query)
        if answered:
            assert embed(model, ["a"], "document").shape == (1, WIDTH)
        else:
            with pytest.raises(ProviderFault) as caught:
                embed(model, ["a"], "document")
            assert caught.value.code == "404"


def test_what_an_endpoint_refused_once_is_not_asked_for_again() -> None:
    with LoopbackServer({"new-model": hash_model(WIDTH)}, key=KEY, manners="litellm") as api:
        for _ in range(3):
            embed(model_of("litellm", api), ["a"], "document")
        assert (api.requests, api.refused) == (4, 1)


COHERE_REPLIES: Mapping[str, tuple[bytes, str]] = {
    "fewer": (b'{"embeddings": {"float": [[1, 2]]}}', "1 vectors for 2 texts"),
    "another kind": (b'{"embeddings": {"int8": [[1, 2], [3, 4]]}}', "no data"),
    "no object": (b'{"embeddings": [[1, 2], [3, 4]]}', "no data"),
    "a word": (b'{"embeddings": {"float": "none"}}', "no data"),
}


@pytest.mark.parametrize(("body", "said"), COHERE_REPLIES.values(), ids=COHERE_REPLIES)
def test_a_reply_of_another_shape_is_broken_not_a_crash(body: bytes, said: str) -> None:
    from embedtui.providers.replies import parse_reply

    with pytest.raises(ProviderFault, match=said) as caught:
        parse_reply(body, 2, EmbeddingModel("m", 2, provider="cohere"))
    assert caught.value.code == "bad_reply"


def test_what_is_shown_of_an_endpoint_has_no_secret() -> None:
    assert without_credentials("https://anna:pw@host:8/v1/?key=pw#pw") == "https://host:8/v1"
    assert without_credentials("") == ""
