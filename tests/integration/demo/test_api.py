"""The loopback API keeps OpenAI's protocol, limits and counters; seen through plain HTTP."""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from embedtui.demo.api import DEFAULT_KEY, LoopbackServer, format_reset, hash_model


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({"m": hash_model(8), "other": hash_model(8, salt="other")}, log_texts=100) as server:
        yield server


def call(
    api: LoopbackServer, payload: Any = None, *, path: str = "/v1/embeddings", key: str | None = DEFAULT_KEY
) -> tuple[int, Any, http.client.HTTPMessage]:
    """One request on a fresh connection: (status, JSON, headers)."""
    port = int(api.base_url.split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        body = None if payload is None else json.dumps(payload)
        connection.request("GET" if payload is None else "POST", path, body, headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read()), reply.headers
    finally:
        connection.close()


def test_base64_and_floats_are_the_same_vectors(api: LoopbackServer) -> None:
    texts = ["one", "two"]
    status, floats, _ = call(api, {"model": "m", "input": texts})
    assert status == 200
    assert floats["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert [item["index"] for item in floats["data"]] == [0, 1]
    _, packed, _ = call(api, {"model": "m", "input": texts, "encoding_format": "base64"})
    for left, right in zip(floats["data"], packed["data"], strict=True):
        decoded = np.frombuffer(base64.b64decode(right["embedding"]), "<f4")
        assert np.array_equal(np.array(left["embedding"], np.float32), decoded)
        assert np.linalg.norm(decoded) == pytest.approx(1)
    assert api.counters()["inputs"] == 4
    assert api.texts == ("one", "two", "one", "two")


def test_dimensions_cut_and_renormalise(api: LoopbackServer) -> None:
    _, whole, _ = call(api, {"model": "m", "input": "one"})
    _, short, _ = call(api, {"model": "m", "input": "one", "dimensions": 4})
    cut = np.array(whole["data"][0]["embedding"][:4])
    assert np.allclose(short["data"][0]["embedding"], cut / np.linalg.norm(cut), atol=1e-6)
    status, error, _ = call(api, {"model": "m", "input": "one", "dimensions": 9})
    assert (status, error["error"]["param"]) == (400, "dimensions")


@pytest.mark.parametrize(
    ("payload", "status", "code", "says"),
    [
        ({"model": "gone", "input": "x"}, 404, "model_not_found", "gone"),
        ({"model": "m", "input": ""}, 400, None, "empty string"),
        ({"model": "m", "input": ["x", ""]}, 400, None, "input[1]"),
        ({"model": "m", "input": []}, 400, None, "input"),
        ({"model": "m", "input": [1, 2]}, 400, None, "input"),
        ({"input": "x"}, 400, None, "model"),
        ({"model": "m", "input": ["x"] * 2049}, 400, "array_above_max_length", "2048"),
        ({"model": "m", "input": "x" * (8192 * 4 + 1)}, 400, None, "8192"),
        ({"model": "m", "input": ["x" * 8192 * 4] * 37}, 400, "max_tokens_per_request", "300000"),
        ({"model": "m", "input": "x", "encoding_format": "hex"}, 400, None, "hex"),
    ],
)
def test_limits(api: LoopbackServer, payload: dict[str, Any], status: int, code: str | None, says: str) -> None:
    given, error, _ = call(api, payload)
    assert (given, error["error"]["code"]) == (status, code)
    assert says in error["error"]["message"]
    assert api.counters()["inputs"] == 0


@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_key_is_wanted(api: LoopbackServer, key: str | None) -> None:
    for path, payload in (("/v1/embeddings", {"model": "m", "input": "x"}), ("/v1/models", None), ("/control", {})):
        status, error, _ = call(api, payload, path=path, key=key)
        assert (status, error["error"]["code"]) == (401, "invalid_api_key")
    assert api.counters()["requests"] == 1


def test_models_are_listed(api: LoopbackServer) -> None:
    assert [item["id"] for item in call(api, path="/v1/models")[1]["data"]] == ["m", "other"]
    assert call(api, path="/v1/models/m")[0] == 200
    assert call(api, path="/v1/models/gone")[0] == 404


def test_budgets_are_enforced_and_said(api: LoopbackServer) -> None:
    api.set_limits(tokens_per_minute=100, requests_per_minute=60)
    status, _, headers = call(api, {"model": "m", "input": "x" * 320})
    assert status == 200
    assert headers["x-ratelimit-limit-tokens"] == "100"
    assert headers["x-ratelimit-remaining-tokens"] == "20"
    assert headers["x-ratelimit-remaining-requests"] == "59"
    assert headers["x-ratelimit-reset-requests"] == "1s" or headers["x-ratelimit-reset-requests"].endswith("ms")
    status, error, headers = call(api, {"model": "m", "input": "x" * 320})
    assert (status, error["error"]["code"], error["error"]["type"]) == (429, "rate_limit_exceeded", "tokens")
    assert 30 <= int(headers["retry-after"]) <= 36
    api.rate_headers = False
    status, _, headers = call(api, {"model": "m", "input": "x" * 320})
    assert status == 429
    assert headers["retry-after"] is None
    assert headers["x-ratelimit-limit-tokens"] is None
    counters = api.counters()
    assert (counters["requests"], counters["served"], counters["rejected"], counters["tokens"]) == (3, 1, 2, 80)


def test_faults_count_down_and_pick_their_requests(api: LoopbackServer) -> None:
    api.faults.add("unavailable", times=2)
    assert [call(api, {"model": "m", "input": "x"})[0] for _ in range(3)] == [503, 503, 200]
    poison = api.faults.add("rejected", containing="POISON")
    retired = api.faults.add("retired", model="other", status=410)
    assert call(api, {"model": "m", "input": ["good", "a POISON b"]})[0] == 400
    assert call(api, {"model": "m", "input": ["good"]})[0] == 200
    assert call(api, {"model": "other", "input": ["good"]})[0] == 410
    assert api.faults.active == (poison, retired)
    api.faults.remove(poison)
    assert call(api, {"model": "m", "input": ["a POISON b"]})[0] == 200
    api.faults.add("server_error", predicate=lambda text: len(text) > 3)
    assert call(api, {"model": "m", "input": ["abcd"]})[0] == 500
    assert call(api, {"model": "m", "input": ["abc"]})[0] == 200
    api.faults.clear()
    assert call(api, {"model": "other", "input": ["abcd"]})[0] == 200
    with pytest.raises(ValueError, match="no_such_fault"):
        api.faults.add("no_such_fault")


def test_shuffled_items_keep_their_index(api: LoopbackServer) -> None:
    texts = [str(n) for n in range(20)]
    _, plain, _ = call(api, {"model": "m", "input": texts})
    api.faults.add("shuffled", times=1)
    _, mixed, _ = call(api, {"model": "m", "input": texts})
    assert [item["index"] for item in mixed["data"]] != list(range(20))
    assert sorted(mixed["data"], key=lambda item: item["index"]) == plain["data"]


def test_spoiling_a_reply_leaves_the_models_own_array_alone() -> None:
    vectors = np.ones((1, 4), np.float32)
    with LoopbackServer({"m": lambda texts, dimensions: vectors}) as api:
        for kind in ("nan", "zero"):
            api.faults.add(kind, times=1)
            assert call(api, {"model": "m", "input": "x"})[0] == 200
        assert call(api, {"model": "m", "input": "x"})[1]["data"][0]["embedding"] == [1, 1, 1, 1]


def test_latencies_overlap(api: LoopbackServer) -> None:
    """Requests sleep side by side: eight of them meet, or the barrier breaks."""
    meeting = threading.Barrier(8, timeout=60)

    def model(texts: Any, dimensions: int | None) -> np.ndarray:
        meeting.wait()
        return np.ones((len(texts), 4), np.float32)

    api.models["slow"] = model
    threads = [threading.Thread(target=call, args=(api, {"model": "slow", "input": "x"})) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert api.counters()["served"] == 8
    assert api.counters()["peak_in_flight"] == 8


def test_a_stopped_server_refuses_and_starts_again_on_its_port(api: LoopbackServer) -> None:
    url = api.base_url
    api.stop()
    with pytest.raises(ConnectionRefusedError):
        call(api, {"model": "m", "input": "x"})
    api.start()
    assert api.base_url == url
    assert call(api, {"model": "m", "input": "x"})[0] == 200


def test_stop_ends_hanging_requests(api: LoopbackServer) -> None:
    api.faults.add("hang")
    ended: list[BaseException] = []

    def hang() -> None:
        try:
            call(api, {"model": "m", "input": "x"})
        except (OSError, http.client.HTTPException) as error:
            ended.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    while api.counters()["in_flight"] == 0:
        pass
    api.stop()
    thread.join(timeout=60)
    assert len(ended) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0115, "12ms"), (0.5, "500ms"), (1, "1s"), (360, "6m0s"), (61.2, "1m2s")]
)
def test_reset_format(seconds: float, text: str) -> None:
    assert format_reset(seconds) == text


def test_hash_model_is_the_same_everywhere_and_salt_matters() -> None:
    one = hash_model(16)(["a", "b"], None)
    assert np.array_equal(one, hash_model(16)(["a", "b"], None))
    assert not np.allclose(one[0], one[1])
    assert not np.allclose(one, hash_model(16, salt="s")(["a", "b"], None))
    assert np.allclose(np.linalg.norm(one, axis=1), 1)


def test_own_process_with_control() -> None:
    command = [sys.executable, "-m", "embedtui.demo.api", "--model", "hash:16", "--model", "new=hash:8", "--key", "k"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        remote = LoopbackServer({}, port=int(url.split(":")[2].split("/")[0]))  # only its address is used
        assert call(remote, {"model": "hash:16", "input": "x"}, key="k")[0] == 200
        order = {"faults": [{"kind": "unavailable", "times": 1}], "latency": 0.01, "tokens_per_minute": 500}
        state = call(remote, order, path="/control", key="k")[1]
        assert (state["inputs"], state["latency"], state["faults"]) == (1, 0.01, ["unavailable"])
        assert call(remote, {"model": "new", "input": "x"}, key="k")[0] == 503
        assert call(remote, {"model": "new", "input": "x"}, key="k")[2]["x-ratelimit-limit-tokens"] == "500"
        assert call(remote, {"clear": True, "reset_counters": True}, path="/control", key="k")[1]["requests"] == 0
        assert call(remote, {"faults": [{"kind": "nonsense"}]}, path="/control", key="k")[0] == 400
        assert call(remote, path="/control", key="k")[1]["models"] == ["hash:16", "new"]
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0
        if process.stdout is not None:
            process.stdout.close()
