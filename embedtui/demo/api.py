"""A loopback embedding API: speaks POST /v1/embeddings as OpenAI does, with plugged-in models and faults on demand."""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import math
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, cast

import numpy as np

MAX_INPUTS = 2048
"""Inputs per request (OpenAI's limit)."""
MAX_TOKENS = 300_000
"""Tokens per request, all inputs together (OpenAI's limit)."""
MAX_INPUT_TOKENS = 8192
"""Tokens of one input (OpenAI's limit)."""
DEFAULT_KEY = "sk-loopback"
"""The key a server wants unless it is given another."""

Spoil = Callable[[bytes], Iterable["bytes | float"]]
"""Body of a good reply -> what goes over the wire instead, head included; a number is a pause in seconds."""

ModelFunction = Callable[[Sequence[str], int | None], np.ndarray]
"""(n texts, requested dimensions or None) -> float array (n, d); raises ValueError where d cannot be had."""


def hash_model(dimensions: int, salt: str = "") -> ModelFunction:
    """A model without meaning: unit vectors drawn from SHAKE-128 of the text, the same in every process.

    A smaller ``dimensions`` in the request cuts and renormalises, as OpenAI's models do. Models of different ``salt``
    give unrelated vectors.
    """
    prefix = salt.encode() + b"\0"

    def embed(texts: Sequence[str], requested: int | None) -> np.ndarray:
        width = dimensions if requested is None else requested
        if not 1 <= width <= dimensions:
            raise ValueError(f"This model has {dimensions} dimensions; {width} were requested.")
        digest = b"".join(
            hashlib.shake_128(prefix + text.encode("utf-8", "replace")).digest(dimensions) for text in texts
        )
        vectors = np.frombuffer(digest, np.uint8).reshape(len(texts), dimensions)[:, :width].astype(np.float32) - 127.5
        return cast(np.ndarray, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    return embed


class FaultKind(StrEnum):
    """What the server can be told to do wrong (or oddly, but within the protocol)."""

    UNAUTHORIZED = "unauthorized"
    """401."""
    FORBIDDEN = "forbidden"
    """403."""
    MODEL_NOT_FOUND = "model_not_found"
    """404."""
    RETIRED = "retired"
    """404 (or 410 through ``status``): the model was shut down."""
    RATE_LIMITED = "rate_limited"
    """429, with Retry-After when ``retry_after`` is given."""
    INSUFFICIENT_QUOTA = "insufficient_quota"
    """429 whose code says that the account is empty."""
    SERVER_ERROR = "server_error"
    """500."""
    UNAVAILABLE = "unavailable"
    """503."""
    HANG = "hang"
    """No answer for ``seconds`` (or until the server stops), then the connection closes."""
    RESET = "reset"
    """The connection is reset (RST) instead of an answer."""
    HALF_REPLY = "half_reply"
    """Half of the announced body, then the connection closes."""
    NOT_JSON = "not_json"
    """200 with a page of HTML."""
    NO_DATA = "no_data"
    """200 with an empty ``data``."""
    FEWER = "fewer"
    """One vector less than texts."""
    SHUFFLED = "shuffled"
    """Items in another order, each with its right ``index``: legitimate."""
    DUPLICATE_INDEX = "duplicate_index"
    """Two items claim the same ``index`` (needs two texts; a single text gets two items)."""
    WRONG_DIMENSIONS = "wrong_dimensions"
    """Vectors one component short."""
    NAN = "nan"
    """The first vector holds a NaN, or those of the texts that the fault is about."""
    ZERO = "zero"
    """The first vector is zero, or those of the texts that the fault is about."""
    FLOATS = "floats"
    """Floats although base64 was asked: legitimate for compatible servers."""
    NO_BASE64 = "no_base64"
    """400 while the request names ``encoding_format``."""
    NO_DIMENSIONS = "no_dimensions"
    """400 while the request names ``dimensions``."""
    NO_USAGE = "no_usage"
    """A reply without ``usage``: compatible servers may leave it out."""
    BAD_REQUEST = "bad_request"
    """400 that does not say what it is about."""
    REJECTED = "rejected"
    """400 for the whole request; give ``containing`` so that it is about particular texts."""
    SPOILED = "spoiled"
    """What ``spoil`` makes of a good reply, see :mod:`embedtui.demo.hostile`."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A standing order to misbehave."""

    kind: FaultKind
    times: int | None = None
    """For how many matching requests; None: until cleared."""
    containing: str | None = None
    """Only requests with a text that contains this."""
    predicate: Callable[[str], bool] | None = None
    """Only requests with a text for which this holds."""
    model: str | None = None
    """Only requests for this model."""
    retry_after: str | None = None
    """Value of the Retry-After header: seconds or an HTTP date."""
    seconds: float | None = None
    """How long a hang lasts."""
    status: int | None = None
    """Another HTTP status than the kind's own."""
    spoil: Spoil | None = None
    """What is sent instead of a good reply."""

    def matches(self, model: str, texts: Sequence[str]) -> bool:
        """Whether a request for ``texts`` meets this fault."""
        return self.model in (None, model) and (len(texts) == 0 or bool(self.met(texts)))

    def met(self, texts: Sequence[str]) -> list[int]:
        """Positions of the texts that it is about."""
        return [
            position
            for position, text in enumerate(texts)
            if (self.containing is None or self.containing in text) and (self.predicate is None or self.predicate(text))
        ]


class Faults:
    """The faults in force; thread-safe, changeable while the server runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: list[tuple[Fault, int | None]] = []

    def add(
        self,
        kind: FaultKind | str,
        *,
        times: int | None = None,
        containing: str | None = None,
        predicate: Callable[[str], bool] | None = None,
        model: str | None = None,
        retry_after: float | str | None = None,
        seconds: float | None = None,
        status: int | None = None,
        spoil: Spoil | None = None,
    ) -> Fault:
        """Put a fault in force (fields of :class:`Fault`); raises ValueError for an unknown kind."""
        header = (
            None if retry_after is None else f"{retry_after:g}" if not isinstance(retry_after, str) else retry_after
        )
        fault = Fault(FaultKind(kind), times, containing, predicate, model, header, seconds, status, spoil)
        with self._lock:
            self._active.append((fault, times))
        return fault

    def clear(self) -> None:
        """End all faults."""
        with self._lock:
            self._active.clear()

    def remove(self, fault: Fault) -> None:
        """End one fault; nothing happens if it is over already."""
        with self._lock:
            self._active = [entry for entry in self._active if entry[0] is not fault]

    @property
    def active(self) -> tuple[Fault, ...]:
        """The faults in force."""
        with self._lock:
            return tuple(fault for fault, _ in self._active)

    def take(self, model: str, texts: Sequence[str], applies: Callable[[Fault], bool]) -> Fault | None:
        """The first fault that this request meets, counted down."""
        with self._lock:
            for position, (fault, left) in enumerate(self._active):
                if fault.matches(model, texts) and applies(fault):
                    if left == 1:
                        del self._active[position]
                    elif left is not None:
                        self._active[position] = (fault, left - 1)
                    return fault
        return None


class _Bucket:
    """One rate limit: a bucket that holds a minute's worth and refills steadily. Callers hold the server's lock."""

    def __init__(self, per_minute: float, burst_seconds: float) -> None:
        self.per_minute = per_minute
        self.capacity = per_minute * burst_seconds / 60
        self.level = self.capacity
        self._at = time.monotonic()

    def refill(self) -> None:
        now = time.monotonic()
        self.level = min(self.capacity, self.level + (now - self._at) * self.per_minute / 60)
        self._at = now

    def wait(self, amount: float) -> float:
        """Seconds until ``amount`` fits; 0 where it fits now. More than the bucket holds fits when it is full."""
        return max(0.0, (min(amount, self.capacity) - self.level) * 60 / self.per_minute)

    @property
    def reset(self) -> float:
        return (self.capacity - self.level) * 60 / self.per_minute


def format_reset(seconds: float) -> str:
    """A duration as OpenAI's reset headers write it: ``12ms``, ``1s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


class _Refusal(Exception):
    """An error reply in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        error = {"message": message, "type": kind, "param": param, "code": code}
        self.body = json.dumps({"error": error}).encode()


class LoopbackServer:
    """The server, on 127.0.0.1; a context manager, or ``start()`` and ``stop()``; started again, it keeps its port.

    May be set while it runs: ``latency`` (seconds per request), ``rate_headers`` (whether replies carry x-ratelimit-*
    and Retry-After), ``characters_per_token``, ``models``, ``key``; budgets by :meth:`set_limits` (None: unlimited).
    """

    def __init__(
        self,
        models: Mapping[str, ModelFunction],
        *,
        key: str = DEFAULT_KEY,
        port: int = 0,
        latency: float = 0.0,
        tokens_per_minute: float | None = None,
        requests_per_minute: float | None = None,
        burst_seconds: float = 60.0,
        rate_headers: bool = True,
        characters_per_token: float = 4.0,
        log_texts: int = 0,
    ) -> None:
        self.models = dict(models)
        self.key = key
        self.latency = latency
        self.rate_headers = rate_headers
        self.characters_per_token = characters_per_token
        self.faults = Faults()
        self._port = port
        self._burst_seconds = burst_seconds
        self._lock = threading.Lock()
        self._texts: deque[str] = deque(maxlen=log_texts)
        self._token_bucket: _Bucket | None = None
        self._request_bucket: _Bucket | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self.set_limits(tokens_per_minute=tokens_per_minute, requests_per_minute=requests_per_minute)
        self.reset_counters()

    # ------------------------------------------------------------------------------------------------- control

    def start(self) -> Self:
        """Listen and serve in a background thread; raises OSError where the port is taken."""
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="loopback-api", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening and cut every connection; hanging requests end too."""
        if self._server is None or self._thread is None:
            return
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_connections()
        self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """What an OpenAI client wants as ``base_url``; valid once started."""
        return f"http://127.0.0.1:{self._port}/v1"

    def set_limits(self, *, tokens_per_minute: float | None, requests_per_minute: float | None) -> None:
        """Enforce other budgets from now on (None: none), with full buckets."""
        with self._lock:
            self._token_bucket = _Bucket(tokens_per_minute, self._burst_seconds) if tokens_per_minute else None
            self._request_bucket = _Bucket(requests_per_minute, self._burst_seconds) if requests_per_minute else None

    def reset_counters(self) -> None:
        """Set all counters to zero and forget the logged texts."""
        with self._lock:
            self.requests = 0
            """Requests for embeddings received, whatever became of them."""
            self.served = 0
            """Requests answered with 200."""
            self.inputs = 0
            """Texts in requests answered with 200: what a provider would charge for."""
            self.tokens = 0
            """Tokens of those texts."""
            self.rejected = 0
            """Requests answered with 429."""
            self.in_flight = 0
            """Requests being worked on now."""
            self.peak_in_flight = 0
            """Most requests worked on at once."""
            self._texts.clear()

    @property
    def texts(self) -> tuple[str, ...]:
        """The last ``log_texts`` texts that were charged for, oldest first."""
        with self._lock:
            return tuple(self._texts)

    def counters(self) -> dict[str, int]:
        """All counters in one consistent reading, by attribute name."""
        names = ("requests", "served", "inputs", "tokens", "rejected", "in_flight", "peak_in_flight")
        with self._lock:
            return {name: getattr(self, name) for name in names}

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as this server counts them: its characters / ``characters_per_token``, rounded up."""
        return max(1, math.ceil(len(text) / self.characters_per_token))

    # ------------------------------------------------------------------------------------------------ requests

    def authorize(self, header: str) -> None:
        """Check an Authorization header; raises _Refusal (401)."""
        scheme, _, given = header.partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise _Refusal(401, "You didn't provide an API key.", code="invalid_api_key")
        if given.strip() != self.key:
            raise _bad_key(given.strip())

    def embeddings(self, authorization: str, body: bytes) -> _Reply:
        """Answer one request; raises _Refusal for an error reply."""
        began = time.monotonic()
        with self._lock:
            self.requests += 1
            self.in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            self.authorize(authorization)
            return self._embeddings(body, began)
        except _Refusal as refusal:
            if refusal.status == 429:
                with self._lock:
                    self.rejected += 1
            raise
        finally:
            with self._lock:
                self.in_flight -= 1

    def _embeddings(self, body: bytes, began: float) -> _Reply:
        request = _parse(body)
        model, texts = request.model, request.texts

        def applies(fault: Fault) -> bool:
            if fault.kind is FaultKind.NO_BASE64:
                return request.names_encoding
            return fault.kind is not FaultKind.NO_DIMENSIONS or request.dimensions is not None

        fault = self.faults.take(model, texts, applies)
        if fault is not None:
            self._refuse(fault, model)
        function = self.models.get(model)
        if function is None:
            raise _no_model(model)
        counts = [self.count_tokens(text) for text in texts]
        self._check_limits(counts)
        tokens = sum(counts)
        headers = self._take_budget(model, tokens)
        if fault is not None and fault.kind is FaultKind.HANG:
            self._stopping.wait(fault.seconds)
            return _Reply(b"", {}, cut="close")
        try:
            vectors = np.ascontiguousarray(function(texts, request.dimensions), dtype="<f4")
        except ValueError as error:
            raise _Refusal(400, str(error), param="dimensions") from error
        reply = _render(vectors, request, tokens, fault)
        left = self.latency - (time.monotonic() - began)
        if left > 0:
            self._stopping.wait(left)
        if fault is not None and fault.kind is FaultKind.RESET:
            return _Reply(b"", {}, cut="reset")
        with self._lock:
            self.served += 1
            self.inputs += len(texts)
            self.tokens += tokens
            self._texts.extend(texts)
        if fault is not None and fault.spoil is not None:
            return _Reply(b"", {}, raw=fault.spoil(reply))
        return _Reply(reply, headers, cut="half" if fault is not None and fault.kind is FaultKind.HALF_REPLY else "")

    def _check_limits(self, counts: Sequence[int]) -> None:
        for position, count in enumerate(counts):
            if count > MAX_INPUT_TOKENS:
                raise _Refusal(400, f"Invalid 'input[{position}]': maximum input length is {MAX_INPUT_TOKENS} tokens.")
        if sum(counts) > MAX_TOKENS:
            raise _Refusal(
                400,
                f"Requested {sum(counts)} tokens, max {MAX_TOKENS} tokens per request",
                kind="max_tokens_per_request",
                code="max_tokens_per_request",
            )

    def _take_budget(self, model: str, tokens: int) -> dict[str, str]:
        """Charge the buckets and return the rate headers; raises a 429 refusal where one is too low."""
        headers: dict[str, str] = {}
        with self._lock:
            wants = [
                ("requests", "RPM", self._request_bucket, 1.0),
                ("tokens", "TPM", self._token_bucket, float(tokens)),
            ]
            short: tuple[str, str, _Bucket, float, float] | None = None
            for name, unit, bucket, amount in wants:
                if bucket is None:
                    continue
                bucket.refill()
                wait = bucket.wait(amount)
                if wait > 0 and (short is None or wait > short[4]):
                    short = (name, unit, bucket, amount, wait)
            for name, _, bucket, amount in wants:
                if bucket is None:
                    continue
                if short is None:
                    bucket.level -= amount
                headers[f"x-ratelimit-limit-{name}"] = f"{bucket.per_minute:.0f}"
                headers[f"x-ratelimit-remaining-{name}"] = f"{max(0.0, bucket.level):.0f}"
                headers[f"x-ratelimit-reset-{name}"] = format_reset(bucket.reset)
        if not self.rate_headers:
            headers = {}
        if short is None:
            return headers
        name, unit, bucket, amount, wait = short
        if self.rate_headers:
            headers["retry-after"] = str(math.ceil(wait))
            headers["retry-after-ms"] = str(math.ceil(wait * 1000))
        raise _Refusal(
            429,
            f"Rate limit reached for {model} in organization org-loopback on {name} per min ({unit}): "
            f"Limit {bucket.per_minute:.0f}, Used {bucket.capacity - bucket.level:.0f}, Requested {amount:.0f}. "
            f"Please try again in {format_reset(wait)}.",
            kind=name,
            code="rate_limit_exceeded",
            headers=headers,
        )

    def _refuse(self, fault: Fault, model: str) -> None:
        """Raise the refusal that a fault stands for; returns for the faults that come later."""
        headers = {} if fault.retry_after is None else {"retry-after": fault.retry_after}
        match fault.kind:
            case FaultKind.UNAUTHORIZED:
                raise _bad_key(self.key)
            case FaultKind.FORBIDDEN:
                raise _Refusal(fault.status or 403, f"Project does not have access to model {model}", code="forbidden")
            case FaultKind.MODEL_NOT_FOUND:
                raise _no_model(model)
            case FaultKind.RETIRED:
                raise _Refusal(
                    fault.status or 404,
                    f"The model `{model}` has been shut down and is no longer available.",
                    code="model_not_found",
                )
            case FaultKind.RATE_LIMITED:
                raise _Refusal(429, "Rate limit reached.", kind="requests", code="rate_limit_exceeded", headers=headers)
            case FaultKind.INSUFFICIENT_QUOTA:
                raise _Refusal(
                    429,
                    "You exceeded your current quota, please check your plan and billing details.",
                    kind="insufficient_quota",
                    code="insufficient_quota",
                    headers=headers,
                )
            case FaultKind.SERVER_ERROR:
                raise _Refusal(
                    fault.status or 500,
                    "The server had an error while processing your request. Sorry about that!",
                    kind="server_error",
                    headers=headers,
                )
            case FaultKind.UNAVAILABLE:
                raise _Refusal(
                    fault.status or 503,
                    "The engine is currently overloaded, please try again later.",
                    kind="server_error",
                    headers=headers,
                )
            case FaultKind.NO_BASE64:
                raise _Refusal(400, "Unknown name 'encoding_format': Cannot find field.", param="encoding_format")
            case FaultKind.NO_DIMENSIONS:
                raise _Refusal(400, "This model does not support specifying dimensions.", param="dimensions")
            case FaultKind.BAD_REQUEST:
                raise _Refusal(fault.status or 400, "Bad Request")
            case FaultKind.REJECTED:
                raise _Refusal(fault.status or 400, "The input was rejected by the content policy.", param="input")
            case _:
                pass

    def control(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out what POST /control says and return what GET /control shows.

        Keys, all optional: ``latency``, ``rate_headers``, ``characters_per_token``, ``tokens_per_minute`` with
        ``requests_per_minute``, ``reset_counters``, ``clear`` (faults), ``faults`` (a list of the arguments of
        :meth:`Faults.add`). Raises ValueError, TypeError or KeyError for what cannot be understood.
        """
        if order.get("clear"):
            self.faults.clear()
        if order.get("reset_counters"):
            self.reset_counters()
        for name in ("latency", "rate_headers", "characters_per_token"):
            if name in order:
                setattr(self, name, type(getattr(self, name))(order[name]))
        if "tokens_per_minute" in order or "requests_per_minute" in order:
            self.set_limits(
                tokens_per_minute=order.get("tokens_per_minute"), requests_per_minute=order.get("requests_per_minute")
            )
        for fault in order.get("faults", ()):
            self.faults.add(fault.pop("kind"), **fault)
        return {
            **self.counters(),
            "latency": self.latency,
            "models": sorted(self.models),
            "faults": [fault.kind.value for fault in self.faults.active],
        }


@dataclass(frozen=True, slots=True)
class _Request:
    model: str
    texts: tuple[str, ...]
    dimensions: int | None
    base64: bool
    names_encoding: bool


@dataclass(frozen=True, slots=True)
class _Reply:
    body: bytes
    headers: Mapping[str, str]
    cut: str = ""
    """"" (whole), ``half`` (half of the body), ``close`` (nothing) or ``reset`` (nothing, RST)."""
    raw: Iterable[bytes | float] | None = None
    """Sent as it is, instead of all else."""


def _parse(body: bytes) -> _Request:
    try:
        payload = json.loads(body)
    except ValueError as error:
        raise _Refusal(400, "We could not parse the JSON body of your request.") from error
    if not isinstance(payload, dict):
        raise _Refusal(400, "The JSON body must be an object.")
    model, texts, dimensions = payload.get("model"), payload.get("input"), payload.get("dimensions")
    encoding = payload.get("encoding_format", "float")
    if not isinstance(model, str) or not model:
        raise _Refusal(400, "you must provide a model parameter")
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise _Refusal(400, "'$.input' is invalid. Please check the API reference.", param="input")
    if len(texts) > MAX_INPUTS:
        raise _Refusal(
            400,
            f"Invalid 'input': array too long. Expected an array with maximum length {MAX_INPUTS}, "
            f"but got an array with length {len(texts)} instead.",
            param="input",
            code="array_above_max_length",
        )
    if "" in texts:
        raise _Refusal(400, f"Invalid 'input[{texts.index('')}]': input cannot be an empty string.", param="input")
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 1):
        raise _Refusal(400, "Invalid 'dimensions': expected a positive integer.", param="dimensions")
    if encoding not in ("float", "base64"):
        raise _Refusal(400, f"Invalid value: '{encoding}'.", param="encoding_format")
    return _Request(model, tuple(texts), dimensions, encoding == "base64", "encoding_format" in payload)


def _render(vectors: np.ndarray, request: _Request, tokens: int, fault: Fault | None) -> bytes:
    """The body of a 200 for vectors (n, d) little-endian float32, spoiled as ``fault`` says."""
    kind = None if fault is None else fault.kind
    if kind is FaultKind.NOT_JSON:
        return b"<html><body><h1>Welcome to the gateway</h1></body></html>"
    if kind in (FaultKind.NAN, FaultKind.ZERO):
        vectors = vectors.copy()  # the array may be the model's own
        aimed = fault is not None and (fault.predicate is not None or fault.containing is not None)
        places = fault.met(request.texts) if fault is not None and aimed else [0]
        vectors[places, : 1 if kind is FaultKind.NAN else None] = np.nan if kind is FaultKind.NAN else 0
    elif kind is FaultKind.WRONG_DIMENSIONS:
        vectors = np.ascontiguousarray(vectors[:, :-1])
    if request.base64 and kind is not FaultKind.FLOATS:
        encoded = ['"' + base64.b64encode(row).decode() + '"' for row in vectors]
    else:
        encoded = [json.dumps(row) for row in vectors.tolist()]
    items = list(enumerate(encoded))
    if kind is FaultKind.NO_DATA:
        items = []
    elif kind is FaultKind.FEWER:
        items = items[:-1]
    elif kind is FaultKind.SHUFFLED:
        random.Random(len(items)).shuffle(items)
    elif kind is FaultKind.DUPLICATE_INDEX:
        items[-1:] = [(0, items[-1][1])] if len(items) > 1 else [items[0], items[0]]
    data = ",".join(f'{{"object":"embedding","index":{index},"embedding":{value}}}' for index, value in items)
    usage = "" if kind is FaultKind.NO_USAGE else f',"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}'
    return f'{{"object":"list","data":[{data}],"model":{json.dumps(request.model)}{usage}}}'.encode()


def _no_model(model: str) -> _Refusal:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return _Refusal(404, message, code="model_not_found")


def _bad_key(given: str) -> _Refusal:
    # OpenAI repeats the key with its middle starred out; a compatible gateway may well repeat it whole
    message = f"Incorrect API key provided: {given}. You can find your API key in your account settings."
    return _Refusal(401, message, code="invalid_api_key")


class _Server(ThreadingHTTPServer):
    """Knows its LoopbackServer, and its connections so that a stop can cut them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], api: LoopbackServer) -> None:
        self.api = api
        self._connections: set[socket.socket] = set()
        self._ended = threading.Condition()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._ended:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._ended:
            self._connections.discard(request)
            self._ended.notify_all()

    def close_connections(self) -> None:
        """Cut all connections and wait until their threads have closed them."""
        with self._ended:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._ended.wait_for(lambda: not self._connections, timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here; anything else is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive around LoopbackServer."""

    protocol_version = "HTTP/1.1"
    server_version = "embedtui-loopback"
    disable_nagle_algorithm = True
    wbufsize = 65536
    """Buffered, so that head and small bodies leave in one packet."""

    def setup(self) -> None:
        super().setup()
        self.api = cast(_Server, self.server).api

    def do_GET(self) -> None:
        try:
            self.api.authorize(self.headers.get("Authorization", ""))
            if self.path == "/control":
                self._send(200, json.dumps(self.api.control({})).encode())
            elif self.path == "/v1/models":
                items = [{"id": name, "object": "model", "owned_by": "loopback"} for name in sorted(self.api.models)]
                self._send(200, json.dumps({"object": "list", "data": items}).encode())
            elif self.path.removeprefix("/v1/models/") in self.api.models:
                name = self.path.removeprefix("/v1/models/")
                self._send(200, json.dumps({"id": name, "object": "model", "owned_by": "loopback"}).encode())
            elif self.path.startswith("/v1/models/"):
                raise _no_model(self.path.removeprefix("/v1/models/"))
            else:
                raise _Refusal(404, f"Invalid URL (GET {self.path})")
        except _Refusal as refusal:
            self._send(refusal.status, refusal.body, refusal.headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        authorization = self.headers.get("Authorization", "")
        try:
            if self.path == "/v1/embeddings":
                self._reply(self.api.embeddings(authorization, body))
            elif self.path == "/control":
                self.api.authorize(authorization)
                try:
                    state = self.api.control(json.loads(body))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise _Refusal(400, f"{type(error).__name__}: {error}") from error
                self._send(200, json.dumps(state).encode())
            else:
                raise _Refusal(404, f"Invalid URL (POST {self.path})")
        except _Refusal as refusal:
            self._send(refusal.status, refusal.body, refusal.headers)

    def _reply(self, reply: _Reply) -> None:
        if reply.cut == "reset":
            # linger 0 makes close() send RST; detached, so that no orderly shutdown comes before it
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            socket.close(self.connection.detach())
        elif reply.cut == "close":
            self.close_connection = True
        elif reply.raw is not None:
            self.close_connection = True
            for piece in reply.raw:
                if isinstance(piece, bytes):
                    self.wfile.write(piece)
                    self.wfile.flush()
                elif self.api._stopping.wait(piece):
                    return
        else:
            self._send(200, reply.body, reply.headers, half=reply.cut == "half")

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None, half: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if half else body)
        self.wfile.flush()
        if half:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: stderr belongs to the dashboard."""


def _model_argument(value: str) -> tuple[str, ModelFunction]:
    """``NAME=hash:DIMENSIONS`` or ``hash:DIMENSIONS`` (which is its own name)."""
    name, _, kind = value.rpartition("=")
    method, _, dimensions = kind.partition(":")
    if method != "hash" or not dimensions.isdigit() or int(dimensions) < 1:
        raise argparse.ArgumentTypeError(f"{value}: want [NAME=]hash:DIMENSIONS")
    return name or kind, hash_model(int(dimensions), salt=name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; the first line on stdout is the base URL."""
    parser = argparse.ArgumentParser(prog="python -m embedtui.demo.api", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default=DEFAULT_KEY)
    parser.add_argument("--model", type=_model_argument, action="append", help="[NAME=]hash:DIMENSIONS, repeatable")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds per request")
    parser.add_argument("--tokens-per-minute", type=float)
    parser.add_argument("--requests-per-minute", type=float)
    parser.add_argument("--burst-seconds", type=float, default=60.0, help="how much of its budget a bucket holds")
    parser.add_argument("--no-rate-headers", action="store_true")
    options = parser.parse_args(arguments)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with LoopbackServer(
        dict(options.model or [_model_argument("hash:768")]),
        key=options.key,
        port=options.port,
        latency=options.latency,
        tokens_per_minute=options.tokens_per_minute,
        requests_per_minute=options.requests_per_minute,
        burst_seconds=options.burst_seconds,
        rate_headers=not options.no_rate_headers,
    ) as server:
        sys.stdout.write(server.base_url + "\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
