"""Every fault a provider can have meets the right class, code and wait; through the real openai client over HTTP."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedtui.config.loading import environment
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers import BadVectors, Embedder, ProviderFault, make_embedder
from embedtui.providers.http_errors import (
    REASON_LENGTH,
    classify,
    clean,
    parse_duration,
    parse_limits,
    parse_retry_after,
    repeats,
)

KEY = "sk-test-0123456789"
WIDTH = 8

CONFIGURATION, PROVIDER, ROW = FaultClass.CONFIGURATION, FaultClass.PROVIDER, FaultClass.ROW


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({"m": hash_model(WIDTH)}, key=KEY, log_texts=1000) as server:
        yield server


def embedder_for(api: LoopbackServer, *, timeout: float = 30, key: str = KEY, **changes: Any) -> Embedder:
    fields: dict[str, Any] = {"name": "m", "dimensions": WIDTH, "base_url": api.base_url, "key_variable": "K"} | changes
    return make_embedder(EmbeddingModel(**fields), timeout=timeout, environ={"K": key})


@pytest.fixture
def embedder(api: LoopbackServer) -> Iterator[Embedder]:
    made = embedder_for(api)
    yield made
    made.close()


def expected(texts: list[str]) -> np.ndarray:
    return hash_model(WIDTH)(texts, None)


def fault_of(embedder: Embedder, texts: list[str]) -> ProviderFault:
    with pytest.raises(ProviderFault) as caught:
        embedder.embed(texts, kind="document")
    return caught.value


# ----------------------------------------------------------------------------------------------------- well replies


def test_vectors_come_back_in_order(api: LoopbackServer, embedder: Embedder) -> None:
    texts = [f"text {n}" for n in range(100)]
    api.faults.add("shuffled", times=1)
    reply = embedder.embed(texts, kind="document")
    assert np.array_equal(reply.vectors, expected(texts))
    assert reply.vectors.dtype == np.float32
    assert reply.vectors.flags.c_contiguous
    assert reply.tokens == sum(api.count_tokens(text) for text in texts)
    assert reply.measured
    assert reply.seconds > 0
    assert reply.limits is None


def test_identical_texts_are_sent_once(api: LoopbackServer, embedder: Embedder) -> None:
    reply = embedder.embed(["a", "b", "a", "a", "c"], kind="document")
    assert np.array_equal(reply.vectors, expected(["a", "b", "a", "a", "c"]))
    assert reply.vectors.flags.c_contiguous
    assert api.texts == ("a", "b", "c")


def test_nothing_to_embed_costs_nothing(api: LoopbackServer, embedder: Embedder) -> None:
    assert embedder.embed([], kind="document").vectors.shape == (0, WIDTH)
    assert api.counters()["requests"] == 0


def test_prefixes_follow_the_kind(api: LoopbackServer) -> None:
    embedder = embedder_for(api, document_prefix="passage: ", query_prefix="query: ")
    document = embedder.embed(["x"], kind="document").vectors
    query = embedder.embed(["x"], kind="query").vectors
    assert api.texts == ("passage: x", "query: x")
    assert not np.allclose(document, query)
    embedder.close()


def test_floats_serve_as_well(api: LoopbackServer, embedder: Embedder) -> None:
    api.faults.add("floats")
    assert np.array_equal(embedder.embed(["a", "b"], kind="document").vectors, expected(["a", "b"]))


def test_a_server_without_encoding_format_is_asked_once(api: LoopbackServer, embedder: Embedder) -> None:
    api.faults.add("no_base64")
    for _ in range(3):
        assert np.array_equal(embedder.embed(["a", "b"], kind="document").vectors, expected(["a", "b"]))
    assert api.counters()["requests"] == 4


def test_dimensions_are_asked_for_unless_the_model_cannot(api: LoopbackServer) -> None:
    shorter = embedder_for(api, dimensions=4)
    assert np.array_equal(shorter.embed(["a"], kind="document").vectors, hash_model(WIDTH)(["a"], 4))
    api.faults.add("no_dimensions")
    fault = fault_of(shorter, ["a", "b"])
    assert (fault.fault_class, fault.code) == (CONFIGURATION, "dimensions")
    assert "send_dimensions" in fault.hint
    plain = embedder_for(api, send_dimensions=False)
    assert np.array_equal(plain.embed(["a"], kind="document").vectors, expected(["a"]))
    shorter.close()
    plain.close()


def test_rate_headers_are_read(api: LoopbackServer, embedder: Embedder) -> None:
    api.set_limits(tokens_per_minute=6000, requests_per_minute=None)
    limits = embedder.embed(["x" * 400], kind="document").limits
    assert limits is not None
    assert (limits.limit_tokens, limits.remaining_tokens, limits.limit_requests) == (6000, 5900, None)
    assert limits.reset_tokens == pytest.approx(1)


def test_one_embedder_serves_many_threads(api: LoopbackServer, embedder: Embedder) -> None:
    """All 32 requests are in flight at once, or the barrier breaks and they fail."""
    meeting = threading.Barrier(32, timeout=60)
    model = hash_model(WIDTH)

    def waiting(texts: Any, dimensions: int | None) -> np.ndarray:
        meeting.wait()
        return model(texts, dimensions)

    api.models["m"] = waiting
    good: list[bool] = []

    def work(number: int) -> None:
        vectors = embedder.embed([str(number)], kind="document").vectors
        good.append(np.array_equal(vectors, expected([str(number)])))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 32


# --------------------------------------------------------------------------------------------------- the fault table

FAULTS = [
    # kind, options, class, code, retry_after
    ("unauthorized", {}, CONFIGURATION, "401", None),
    ("forbidden", {}, CONFIGURATION, "403", None),
    ("model_not_found", {}, CONFIGURATION, "404", None),
    ("retired", {}, CONFIGURATION, "404", None),
    ("retired", {"status": 410}, CONFIGURATION, "410", None),
    ("insufficient_quota", {}, CONFIGURATION, "insufficient_quota", None),
    ("insufficient_quota", {"retry_after": 5}, CONFIGURATION, "insufficient_quota", None),
    ("wrong_dimensions", {}, CONFIGURATION, "dimensions", None),
    ("no_dimensions", {}, CONFIGURATION, "dimensions", None),
    ("rate_limited", {}, PROVIDER, "429", None),
    ("rate_limited", {"retry_after": 7}, PROVIDER, "429", 7),
    ("rate_limited", {"retry_after": 600}, PROVIDER, "429", 600),
    ("server_error", {}, PROVIDER, "500", None),
    ("unavailable", {}, PROVIDER, "503", None),
    ("unavailable", {"retry_after": 30}, PROVIDER, "503", 30),
    ("unavailable", {"status": 529}, PROVIDER, "529", None),
    ("hang", {}, PROVIDER, "timeout", None),
    ("reset", {}, PROVIDER, "connection", None),
    ("half_reply", {}, PROVIDER, "connection", None),
    ("not_json", {}, PROVIDER, "bad_reply", None),
    ("no_data", {}, PROVIDER, "bad_reply", None),
    ("fewer", {}, PROVIDER, "bad_reply", None),
    ("duplicate_index", {}, PROVIDER, "bad_reply", None),
    ("nan", {}, PROVIDER, "bad_vector", None),
    ("zero", {}, PROVIDER, "bad_vector", None),
    ("rejected", {}, ROW, "400", None),
    ("rejected", {"status": 422}, ROW, "422", None),
]


@pytest.mark.parametrize("texts", [["one"], ["one", "two", "three"]], ids=["single", "several"])
@pytest.mark.parametrize(
    ("kind", "options", "fault_class", "code", "retry_after"), FAULTS, ids=[f"{f[0]}-{f[1]}" for f in FAULTS]
)
def test_fault(
    api: LoopbackServer,
    kind: str,
    options: dict[str, Any],
    fault_class: FaultClass,
    code: str,
    retry_after: float | None,
    texts: list[str],
) -> None:
    embedder = embedder_for(api, timeout=0.3 if kind == "hang" else 30)
    api.faults.add(kind, **options)
    fault = fault_of(embedder, texts)
    assert (fault.fault_class, fault.code, fault.retry_after) == (fault_class, code, retry_after)
    assert fault.hint
    assert KEY not in str(fault)
    assert "\n" not in fault.reason
    # no hidden retries: one request, and at most one more to tell a text's fault from the provider's
    assert api.counters()["requests"] <= (2 if len(texts) == 1 and code == "bad_vector" else 1)
    api.faults.clear()
    assert np.array_equal(embedder.embed(texts, kind="document").vectors, expected(texts))
    embedder.close()


def test_connection_refused(api: LoopbackServer, embedder: Embedder) -> None:
    api.stop()
    fault = fault_of(embedder, ["x"])
    assert (fault.fault_class, fault.code) == (PROVIDER, "connection")
    assert api.base_url in fault.reason
    api.start()
    assert len(embedder.embed(["x"], kind="document").vectors) == 1


def test_a_wrong_key_is_not_repeated(api: LoopbackServer) -> None:
    embedder = embedder_for(api, key="my-own-secret")
    fault = fault_of(embedder, ["x"])
    assert (fault.fault_class, fault.code) == (CONFIGURATION, "401")
    assert "my-own-secret" not in str(fault)
    assert "***" in fault.reason
    assert "K is of the environment" in fault.hint
    embedder.close()


@pytest.mark.parametrize("by_environment", [True, False])
@pytest.mark.parametrize("fault", ["unauthorized", "forbidden"])
def test_a_refused_key_is_told_with_where_it_is_from(
    api: LoopbackServer, tmp_path: Path, fault: str, by_environment: bool
) -> None:
    (tmp_path / ".env").write_text(f"MY_KEY={KEY}\n")
    own = {"MY_KEY": KEY} if by_environment else {}
    environ = pickle.loads(pickle.dumps(environment(own, tmp_path)))  # as it gets to the work's process
    api.faults.add(fault)
    model = EmbeddingModel("m", WIDTH, base_url=api.base_url, key_variable="MY_KEY")
    embedder = make_embedder(model, environ=environ)
    hint = fault_of(embedder, ["x"]).hint or ""
    embedder.close()
    assert ("the environment" in hint) == by_environment
    assert ("from .env" in hint) == (not by_environment)
    assert ("resume" in hint) == (not by_environment and fault == "unauthorized")


def test_a_limit_that_is_met_says_how_long_it_lasts(api: LoopbackServer, embedder: Embedder) -> None:
    api.set_limits(tokens_per_minute=60, requests_per_minute=None)
    embedder.embed(["x" * 240], kind="document")
    fault = fault_of(embedder, ["x" * 40])
    assert (fault.fault_class, fault.code) == (PROVIDER, "429")
    assert fault.retry_after == pytest.approx(10, abs=2)
    assert fault.limits is not None
    assert fault.limits.limit_tokens == 60


@pytest.mark.parametrize("kind", ["nan", "zero"])
def test_an_unusable_vector_is_told_by_its_place_and_blames_no_text(
    api: LoopbackServer, embedder: Embedder, kind: str
) -> None:
    """Whose fault it is, the caller finds out by asking again beside other texts."""
    api.faults.add(kind, containing="POISON")
    for texts in (["POISON"], ["POISON", "other"]):
        fault = fault_of(embedder, texts)
        assert isinstance(fault, BadVectors)
        assert (fault.fault_class, fault.code, fault.bad, fault.suspicious) == (PROVIDER, "bad_vector", (0,), True)


@pytest.mark.parametrize(
    ("kind", "suspicious"),
    [
        ("bad_request", True),
        ("forbidden", True),
        ("server_error", True),
        ("not_json", True),
        ("model_not_found", True),
        ("unauthorized", False),
        ("insufficient_quota", False),
        ("rate_limited", False),
    ],
)
def test_what_a_text_may_have_caused_is_suspicious(
    api: LoopbackServer, embedder: Embedder, kind: str, suspicious: bool
) -> None:
    api.faults.add(kind)
    assert fault_of(embedder, ["one"]).suspicious is suspicious


@pytest.mark.parametrize(
    ("said", "text", "repeated"),
    [
        (
            "String is too long: 'Jane Doe, 4 Mill Lane, pin 4711'",
            "Letter to Jane Doe, 4 Mill Lane, pin 4711. Dear",
            True,
        ),
        (r"input: \u201cr\u00e9sum\u00e9 of Ren\u00e9 Fran\u00e7ois\u201d", "the résumé of René François", True),
        ("&lt;b&gt;Bold&#39;s estate&lt;/b&gt; refused", "<b>Bold's estate</b>", True),
        (r"bad: first line\nsecond line", "first line\nsecond line", True),
        ("the value 'pin 4711' was refused", "pin 4711", True),
        ("maximum context length is 8192 tokens", "A poem about the sea, and no more than that.", False),
        ("too many inputs", "a", False),
        ("", "", False),
    ],
)
def test_a_message_that_repeats_a_text_is_known(said: str, text: str, repeated: bool) -> None:
    assert repeats(said, [text, "another"]) is repeated


def test_no_words_of_a_text_are_passed_on() -> None:
    text = "Jane Doe owes 300 pounds; the dimensions of the model are too long"
    for message in (text, json.dumps({"detail": [{"input": text}]}), f"no: {text[20:60]}"):
        fault = classify(
            422, message, texts=[text], model=EmbeddingModel("m", WIDTH), secret="", headers={}, param=None,
            error_code=text, error_type="ValueError",
        )  # fmt: skip
        assert fault.reason == "422: ValueError (its words repeat a text)"


def test_tokens_are_estimated_where_usage_is_missing(api: LoopbackServer, embedder: Embedder) -> None:
    api.faults.add("no_usage")
    reply = embedder.embed(["x" * 39, "y" * 39], kind="document")
    assert (reply.tokens, reply.measured) == (20, False)


# ------------------------------------------------------------------------------------------------------- settings


def test_a_missing_key_names_its_variable() -> None:
    model = EmbeddingModel("m", WIDTH, key_variable="MY_KEY")
    for environ in ({}, {"MY_KEY": "  "}):
        with pytest.raises(ProviderFault) as caught:
            make_embedder(model, environ=environ)
        assert (caught.value.fault_class, caught.value.code) == (CONFIGURATION, "missing_key")
        assert "MY_KEY" in str(caught.value)
        assert "old_model.key_variable" in caught.value.hint


def test_an_unknown_provider_wants_a_base_url() -> None:
    with pytest.raises(ProviderFault, match="base URL") as caught:
        make_embedder(EmbeddingModel("m", WIDTH, provider="acme"), environ={"OPENAI_API_KEY": "x"})
    assert caught.value.fault_class is CONFIGURATION


def test_the_environment_may_say_where_openai_is(api: LoopbackServer) -> None:
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": api.base_url}
    embedder = make_embedder(EmbeddingModel("m", WIDTH), environ=environ)
    assert len(embedder.embed(["x"], kind="query").vectors) == 1
    embedder.close()


def test_a_local_server_may_want_no_key(api: LoopbackServer) -> None:
    api.key = "none"
    embedder = embedder_for(api, key_variable="")
    assert len(embedder.embed(["x"], kind="query").vectors) == 1
    embedder.close()


def test_importing_the_providers_does_not_import_openai() -> None:
    code = "import embedtui.providers, sys; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -------------------------------------------------------------------------------------------------- small functions


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("12ms", 0.012),
        ("1h2m3s", 3723),
        ("1.5s", 1.5),
        ("7", 7),
        ("0.25", 0.25),
        ("", None),
        ("soon", None),
        ("6m0", None),
        ("-1", None),
        ("inf", None),
        ("nan", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "message", "seconds"),
    [
        ({}, "", None),
        ({"retry-after": "20"}, "", 20),
        ({"retry-after": "500"}, "", 500),
        ({"retry-after": "20", "retry-after-ms": "1500"}, "", 1.5),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}, "", 90),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=90), usegmt=True)}, "", 0),
        ({"retry-after": "whenever"}, "", None),
        ({}, "Rate limit reached. Please try again in 1m12.5s. Visit us.", 72.5),
        ({}, "Please retry in 34.07s.", 34.07),
        ({"x-ratelimit-reset-tokens": "6m0s"}, "", 360),
        ({"x-ratelimit-reset-tokens": "12ms", "x-ratelimit-reset-requests": "1s"}, "", 1),
        (
            {
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "12ms",
                "x-ratelimit-remaining-requests": "9",
                "x-ratelimit-reset-requests": "1s",
            },
            "",
            0.012,
        ),
    ],
)
def test_when_to_come_back(headers: dict[str, str], message: str, seconds: float | None) -> None:
    found = parse_retry_after(headers, message, NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_odd_rate_headers_are_unknown() -> None:
    assert parse_limits({}) is None
    limits = parse_limits({"x-ratelimit-limit-tokens": "lots", "x-ratelimit-remaining-requests": "3"})
    assert limits is not None
    assert (limits.limit_tokens, limits.remaining_requests) == (None, 3)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("two\nlines\tand\r\nmore", "two lines and more"),
        ("\x1b[31mred\x1b[0m \u202eevil\u200b", "[31mred [0m evil"),
        ("key sk-proj-abcDEF_123456 and sk-abc***xyz", "key *** and ***"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("?key=AIzaSyA1234567890abc", "?key=***"),
        ("the secret hunter2 again hunter2", "the secret *** again ***"),
    ],
)
def test_reasons_are_clean(text: str, cleaned: str) -> None:
    assert clean(text, "hunter2") == cleaned


def test_reasons_are_short() -> None:
    assert len(clean("x" * 10_000)) == REASON_LENGTH


@pytest.mark.parametrize(
    ("status", "message", "fields", "texts", "fault_class", "code"),
    [
        (400, "Invalid 'input[3]': maximum input length is 8192 tokens.", {}, 1, ROW, "400"),
        (400, "This model's maximum context length is 8192 tokens", {}, 1, ROW, "400"),
        (400, "Invalid 'input': input cannot be an empty string.", {}, 1, ROW, "400"),
        (400, "whatever", {"param": "input"}, 1, ROW, "400"),
        (400, "Bad Request", {}, 2, ROW, "400"),
        (400, "Bad Request", {}, 1, CONFIGURATION, "400"),
        (400, "Invalid token", {}, 1, CONFIGURATION, "400"),
        (400, "API key not valid. Please pass a valid API key.", {}, 50, CONFIGURATION, "401"),
        (400, "you must provide a model parameter", {"param": "model"}, 50, CONFIGURATION, "400"),
        (400, "dimensions must be at most 1536", {}, 50, CONFIGURATION, "dimensions"),
        (402, "Payment required", {}, 1, CONFIGURATION, "insufficient_quota"),
        (429, "no", {"error_code": "billing_not_active"}, 1, CONFIGURATION, "insufficient_quota"),
        (429, "no", {"error_type": "insufficient_quota"}, 1, CONFIGURATION, "insufficient_quota"),
        (405, "", {}, 9, CONFIGURATION, "405"),
        (408, "", {}, 9, PROVIDER, "408"),
        (502, "<html>", {}, 9, PROVIDER, "502"),
    ],
)
def test_classification(
    status: int, message: str, fields: dict[str, str], texts: int, fault_class: FaultClass, code: str
) -> None:
    given: dict[str, Any] = {"error_code": None, "error_type": None, "param": None, "headers": {}} | fields
    fault = classify(status, message, texts=["a text"] * texts, model=EmbeddingModel("m", WIDTH), secret="", **given)
    assert (fault.fault_class, fault.code) == (fault_class, code)
    assert fault.reason.startswith(str(status)) or "status" in fault.reason
