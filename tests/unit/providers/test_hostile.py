"""A provider that means harm, or a broken gateway before one: bounded in time, memory and numbers, and said."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedtui.demo import hostile
from embedtui.demo.api import LoopbackServer, Spoil, hash_model
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers import BadVectors, Embedder, EmbedReply, ProviderFault, make_embedder
from embedtui.providers.http_errors import MOST_TOLD, parse_limits, parse_retry_after
from embedtui.providers.replies import counted_tokens
from embedtui.providers.transport import TooLong, _Body, bounded

KEY = "sk-test-0123456789"
WIDTH = 8
TEXTS = [f"text number {n}" for n in range(20)]


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({"m": hash_model(WIDTH)}, key=KEY, log_texts=1000) as server:
        yield server


def embedder_for(api: LoopbackServer, *, timeout: float = 30, **changes: Any) -> Embedder:
    fields: dict[str, Any] = {"name": "m", "dimensions": WIDTH, "base_url": api.base_url, "key_variable": "K"} | changes
    return make_embedder(EmbeddingModel(**fields), timeout=timeout, environ={"K": KEY})


def ask(api: LoopbackServer, spoil: Spoil | None, **options: Any) -> EmbedReply | ProviderFault:
    if spoil is not None:
        api.faults.add("spoiled", spoil=spoil)
    embedder = embedder_for(api, **options)
    try:
        return embedder.embed(TEXTS, kind="document")
    except ProviderFault as fault:
        return fault
    finally:
        embedder.close()


# ------------------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("spoil", [hostile.drip(0.2), hostile.drip(0.2, head=True), hostile.drip(0.0005)])
def test_the_whole_request_has_a_deadline(api: LoopbackServer, spoil: Spoil) -> None:
    """Each byte in time is no reply in time; the 50 s that the head would take are not waited for."""
    fault = ask(api, spoil, timeout=0.5)
    assert isinstance(fault, ProviderFault)
    assert (fault.fault_class, fault.code) == (FaultClass.PROVIDER, "timeout")
    assert "0.5 s" in fault.reason


@pytest.mark.parametrize("head", [False, True])
def test_a_stop_abandons_a_reply_that_does_not_come(api: LoopbackServer, head: bool) -> None:
    api.faults.add("spoiled", spoil=hostile.drip(60.0, head=head))
    stop, ended = threading.Event(), threading.Event()
    found: list[ProviderFault] = []

    def work() -> None:
        embedder = embedder_for(api, timeout=10_000)
        try:
            embedder.embed(TEXTS, kind="document", stop=stop)
        except ProviderFault as fault:
            found.append(fault)
        ended.set()

    threading.Thread(target=work, daemon=True).start()
    while not api.requests:
        time.sleep(0.01)
    stop.set()
    assert ended.wait(60), "it waits for the reply"
    assert found[0].code == "timeout" and "stopped" in found[0].reason


def test_a_reply_that_comes_within_the_grace_is_taken(api: LoopbackServer) -> None:
    """It is paid for."""
    api.latency = 1.0
    stop = threading.Event()
    stop.set()
    embedder = embedder_for(api)
    assert len(embedder.embed(TEXTS, kind="document", stop=stop).vectors) == len(TEXTS)
    embedder.close()


# ----------------------------------------------------------------------------------------------------------- memory

_MEMORY = """
import resource, sys
from embedtui.model import EmbeddingModel
from embedtui.providers import ProviderFault, make_embedder
embedder = make_embedder(EmbeddingModel("m", 8, base_url=sys.argv[1], key_variable="K"), environ={"K": sys.argv[2]})
embedder.embed(["warm"], kind="document")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    embedder.embed(["a", "b"], kind="document")
except ProviderFault as fault:
    print(fault.code, fault.reason)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("encoding", "status"), [("gzip", 200), ("deflate", 200), ("identity", 200), ("gzip", 500), ("br", 200)]
)
def test_the_size_of_a_reply_is_bounded(api: LoopbackServer, encoding: str, status: int) -> None:
    """400 MB of blanks are 400 kB on the wire; they took 2 GB."""
    bomb = hostile.bomb(400 << 20, encoding=encoding, status=status)
    api.faults.add("spoiled", spoil=bomb, predicate=lambda text: text != "warm")
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, api.base_url, KEY], capture_output=True, text=True, check=False
    )
    said, grown = done.stdout.splitlines()
    assert said.startswith("bad_reply "), done
    assert int(grown) < 100, f"{grown} MB more"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_no_piece_of_a_packed_reply_is_unpacked_as_a_whole(encoding: str) -> None:
    """However much of it arrives at once: 256 MB of blanks are 256 kB."""
    packed = (gzip if encoding == "gzip" else zlib).compress(b" " * (256 << 20))
    tracemalloc.start()
    try:
        with bounded(60, 10_000, None), pytest.raises(TooLong, match="10,000 bytes"):
            list(_Body([packed], encoding))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_reply_that_is_packed_unasked_is_read(api: LoopbackServer) -> None:
    reply = ask(api, hostile.packed)
    assert isinstance(reply, EmbedReply)
    assert np.array_equal(reply.vectors, hash_model(WIDTH)(TEXTS, None))


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"data":' * 50_000, b'{"data": ' + b"9" * 100_000 + b"}", b"\xff\xfe\x00", b"null"]
)
def test_what_cannot_be_parsed_is_a_broken_reply(api: LoopbackServer, body: bytes) -> None:
    fault = ask(api, hostile.reply(body=body))
    assert isinstance(fault, ProviderFault)
    assert fault.code == "bad_reply"


# -------------------------------------------------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_text_and_no_key_goes_to_another_host(api: LoopbackServer, status: int) -> None:
    with LoopbackServer({"m": hash_model(WIDTH)}, key=KEY, log_texts=100) as other:
        there = f"{other.base_url}/embeddings?token=abc"
        fault = ask(api, hostile.reply(status, {"Location": there}))
        assert isinstance(fault, ProviderFault)
        assert (fault.fault_class, fault.code) == (FaultClass.CONFIGURATION, str(status))
        assert other.base_url in fault.reason and "token" not in str(fault)
        assert "base URL" in fault.hint
        assert other.requests == 0


def test_a_redirect_to_nowhere(api: LoopbackServer) -> None:
    fault = ask(api, hostile.reply(302))
    assert isinstance(fault, ProviderFault)
    assert fault.fault_class is FaultClass.CONFIGURATION


# ---------------------------------------------------------------------------------------------------------- numbers

NOW = datetime(2026, 1, 2, tzinfo=UTC)
_ODD = [
    "inf", "infinity", "nan", "-nan", "-5", "1e400", "1e300", "9" * 400, "9" * 400 + "s", "9" * 30 + "d", "0x7", "",
    "Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 99999999999999999999 23:59:59 GMT", "Fri, 31 Dec 0001 00:00:00 +9999",
    "Mon, 01 Jan 2026 99:99:99 GMT", "1, 2", "٣", "\u00b2",
]  # fmt: skip


def _sane(wait: float | None) -> bool:
    return wait is None or (math.isfinite(wait) and 0 <= wait <= 3600)  # an hour, whatever the constant says


@pytest.mark.parametrize("value", _ODD)
@pytest.mark.parametrize(
    "place", ["retry-after", "retry-after-ms", "message", "x-ratelimit-reset-tokens", "x-ratelimit-reset-requests"]
)
def test_a_wait_is_bounded(place: str, value: str) -> None:
    message = f"Please try again in {value}." if place == "message" else ""
    assert _sane(parse_retry_after({} if message else {place: value}, message, NOW))


@given(st.text(alphabet="0123456789.-+einfatymshd ,:GMTJanFri", max_size=30))
def test_a_wait_is_bounded_whatever_is_sent(value: str) -> None:
    for place in ("retry-after", "retry-after-ms", "x-ratelimit-reset-tokens"):
        assert _sane(parse_retry_after({place: value}, f"try again in {value}", NOW))


@given(st.one_of(st.sampled_from(_ODD), st.floats().map(str), st.integers().map(str), st.text(max_size=20)))
def test_limits_are_bounded_whatever_is_sent(value: str) -> None:
    kinds = [(what, unit) for what in ("limit", "remaining", "reset") for unit in ("tokens", "requests")]
    limits = parse_limits({f"x-ratelimit-{what}-{unit}": value for what, unit in kinds})
    if limits is None:
        return
    for told in (limits.limit_tokens, limits.limit_requests):
        assert told is None or 1 <= told <= MOST_TOLD
    for told in (limits.remaining_tokens, limits.remaining_requests):
        assert told is None or 0 <= told <= MOST_TOLD
    assert _sane(limits.reset_tokens) and _sane(limits.reset_requests)


@pytest.mark.parametrize("told", [10**30, 2**63, 10**400, 10_000, 1, 19, -5], ids=lambda told: str(told)[:24])
def test_a_count_of_tokens_that_cannot_be_is_estimated_instead(api: LoopbackServer, told: int) -> None:
    """20 texts have 20 tokens at least, and no more than some for each byte at most."""
    reply = ask(api, hostile.usage(told))
    assert isinstance(reply, EmbedReply)
    assert not reply.measured
    assert 20 <= reply.tokens < 200
    assert any("tokens" in remark for remark in reply.remarks)


@given(st.lists(st.text(min_size=1, max_size=50), min_size=1, max_size=8), st.integers())
def test_tokens_are_plausible(texts: list[str], told: int) -> None:
    tokens = counted_tokens(told, texts)
    assert tokens is None or len(texts) <= tokens <= 64 * len(texts) + sum(len(text.encode()) for text in texts)


def test_usual_counts_are_taken(api: LoopbackServer) -> None:
    for told in (20, 60, 300):
        api.faults.clear()
        reply = ask(api, hostile.usage(told))
        assert isinstance(reply, EmbedReply)
        assert (reply.tokens, reply.measured, reply.remarks) == (told, True, ())


# --------------------------------------------------------------------------------------------------- names, vectors


@pytest.mark.parametrize(
    ("name", "said"), [("m", False), ("M", False), ("models/m", False), ("acme/m", False), ("other", True), ("", False)]
)
def test_another_model_in_the_reply_is_said_and_no_more(api: LoopbackServer, name: str, said: bool) -> None:
    """A deployment or an alias answers with its model's name: no reason to stop."""
    reply = ask(api, hostile.called(name))
    assert isinstance(reply, EmbedReply)
    assert any(name in remark and "m" in remark for remark in reply.remarks) == said


@pytest.mark.parametrize("name", [7, None, ["x"], {"a": 1}, "\x1b[31m" + "x" * 10_000])
def test_a_name_that_is_none_does_no_harm(api: LoopbackServer, name: Any) -> None:
    reply = ask(api, hostile.changed(lambda payload: payload.update(model=name)))
    assert isinstance(reply, EmbedReply)
    assert all("\x1b" not in remark and len(remark) < 400 for remark in reply.remarks)


_UNUSABLE: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda v: v * 0, lambda v: v * np.nan, lambda v: v * np.inf, lambda v: v * 1e25, lambda v: v * 1e-30,
]  # fmt: skip


@pytest.mark.parametrize("change", _UNUSABLE, ids=["zero", "nan", "infinite", "overflows", "underflows"])
def test_good_vectors_of_a_reply_survive_the_unusable_ones(
    api: LoopbackServer, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """They are paid for. A vector whose length is no number cannot be searched by any distance."""
    calls = iter(range(len(TEXTS)))
    fault = ask(api, hostile.vectors(lambda numbers: change(numbers) if next(calls) in (3, 7) else numbers))
    assert isinstance(fault, BadVectors)
    assert fault.bad == (3, 7)
    assert fault.reply.tokens > 0
    good = [n for n in range(len(TEXTS)) if n not in fault.bad]
    assert np.array_equal(fault.reply.vectors[good], hash_model(WIDTH)(TEXTS, None)[good])


def test_a_text_that_is_sent_once_is_bad_wherever_it_stands(api: LoopbackServer) -> None:
    api.faults.add("spoiled", spoil=hostile.changed(lambda payload: payload["data"][0].update(embedding=[0.0] * WIDTH)))
    embedder = embedder_for(api)
    with pytest.raises(BadVectors) as caught:
        embedder.embed(["a", "b", "a", "c"], kind="document")
    assert caught.value.bad == (0, 2)
    embedder.close()


def test_the_loopback_server_speaks_json_again_afterwards(api: LoopbackServer) -> None:
    api.faults.add("spoiled", spoil=hostile.reply(body=json.dumps({"data": []}).encode()), times=1)
    assert isinstance(ask(api, None), ProviderFault)
    assert isinstance(ask(api, None), EmbedReply)
