"""The loopback API itself: counts, charges, misbehaves as ordered and answers."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from embedtui.demo.api.batches import Batches
from embedtui.demo.api.faults import Fault, FaultKind, Faults
from embedtui.demo.api.handler import ApiServer
from embedtui.demo.api.hashing import ModelFunction
from embedtui.demo.api.limits import Budgets
from embedtui.demo.api.manners import MANNERS, Manners
from embedtui.demo.api.protocol import (
    DEFAULT_KEY,
    Refusal,
    Reply,
    bad_key,
    check_limits,
    no_model,
    parse,
    refuse,
    render,
)

ASKED = 100
"""Requests of which is kept what they said."""


class LoopbackServer:
    """The server, on 127.0.0.1; a context manager, or ``start()`` and ``stop()``; started again, it keeps its port.

    May be set while it runs: ``latency`` (seconds per request), ``text_seconds`` (for each text), ``rate_headers``
    (whether replies carry x-ratelimit-* and Retry-After), ``characters_per_token``, ``models``, ``key``, ``manners``;
    budgets by :meth:`set_limits` (None: unlimited).
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
        manners: str | Manners = "openai",
    ) -> None:
        self.models = dict(models)
        self.key = key
        self.manners = MANNERS[manners] if isinstance(manners, str) else manners
        self.asked: list[tuple[dict[str, Any], dict[str, str]]] = []
        """What the first requests said beside their texts, and their headers (in lower case)."""
        self.latency = latency
        self.text_seconds = 0.0
        self.rate_headers = rate_headers
        self.characters_per_token = characters_per_token
        self.faults = Faults()
        self.batches = Batches(self)
        self._port = port
        self._lock = threading.Lock()
        self._texts: deque[str] = deque(maxlen=log_texts)
        self._budgets = Budgets(burst_seconds)
        self._server: ApiServer | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self.set_limits(tokens_per_minute=tokens_per_minute, requests_per_minute=requests_per_minute)
        self.reset_counters()

    # ------------------------------------------------------------------------------------------------- control

    def start(self) -> Self:
        """Listen and serve in a background thread; raises OSError where the port is taken."""
        self._stopping = threading.Event()
        self._server = ApiServer(("127.0.0.1", self._port), self)
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

    def move(self) -> None:
        """Go on at another port; nothing is forgotten, and nobody answers at the old one."""
        self.stop()
        self._port = 0
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """What an OpenAI client wants as ``base_url``; valid once started."""
        return f"http://127.0.0.1:{self._port}{self.manners.base}"

    def set_limits(self, *, tokens_per_minute: float | None, requests_per_minute: float | None) -> None:
        """Enforce other budgets from now on (None: none), with full buckets."""
        self._budgets.set(tokens_per_minute=tokens_per_minute, requests_per_minute=requests_per_minute)

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
            self.refused = 0
            """Requests answered with 400, 413 or 422."""
            self.in_flight = 0
            """Requests being worked on now."""
            self.peak_in_flight = 0
            """Most requests worked on at once."""
            self._texts.clear()
            self.asked.clear()

    @property
    def texts(self) -> tuple[str, ...]:
        """The last ``log_texts`` texts that were charged for, oldest first."""
        with self._lock:
            return tuple(self._texts)

    def counters(self) -> dict[str, int]:
        """All counters in one consistent reading, by attribute name."""
        names = ("requests", "served", "inputs", "tokens", "rejected", "refused", "in_flight", "peak_in_flight")
        with self._lock:
            return {name: getattr(self, name) for name in names}

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as this server counts them: its characters / ``characters_per_token``, rounded up."""
        return max(1, math.ceil(len(text) / self.characters_per_token))

    # ------------------------------------------------------------------------------------------------ requests

    def authorize(self, header: str) -> None:
        """Check an Authorization header; raises Refusal (401)."""
        scheme, _, given = header.partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Refusal(401, "You didn't provide an API key.", code="invalid_api_key")
        if given.strip() != self.key:
            raise bad_key(given.strip())

    def embeddings(self, authorization: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """Answer one request; raises Refusal for an error reply."""
        began = time.monotonic()
        with self._lock:
            self.requests += 1
            self.in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            self.authorize(authorization)
            if len(self.asked) < ASKED:
                self.asked.append((self.manners.about(body), dict(headers or {})))
            return self._embeddings(body, began)
        except Refusal as refusal:
            with self._lock:
                self.rejected += refusal.status == 429
                self.refused += refusal.status in (400, 413, 422)
            raise
        finally:
            with self._lock:
                self.in_flight -= 1

    def _embeddings(self, body: bytes, began: float) -> Reply:
        body, use = self.manners.read(body)
        request = parse(body)
        model, texts = request.model, request.texts

        def applies(fault: Fault) -> bool:
            if fault.kind is FaultKind.NO_BASE64:
                return request.names_encoding
            return fault.kind is not FaultKind.NO_DIMENSIONS or request.dimensions is not None

        fault = self.faults.take(model, texts, applies)
        if fault is not None:
            refuse(fault, model, self.key)
        function = self.models.get(model)
        if function is None:
            raise no_model(model)
        counts = [self.count_tokens(text) for text in texts]
        check_limits(counts)
        tokens = sum(counts)
        headers = self._budgets.take(model, tokens, with_headers=self.rate_headers)
        if fault is not None and fault.kind is FaultKind.HANG:
            self._stopping.wait(fault.seconds)
            return Reply(b"", {}, cut="close")
        try:
            vectors = np.ascontiguousarray(function(self.manners.meant(texts, use), request.dimensions), dtype="<f4")
        except ValueError as error:
            raise Refusal(400, str(error), param="dimensions") from error
        reply = self.manners.write(render(vectors, request, tokens, fault))
        left = self.latency + self.text_seconds * len(texts) - (time.monotonic() - began)
        if left > 0:
            self._stopping.wait(left)
        if fault is not None and fault.kind is FaultKind.RESET:
            return Reply(b"", {}, cut="reset")
        with self._lock:
            self.served += 1
            self.inputs += len(texts)
            self.tokens += tokens
            self._texts.extend(texts)
        if fault is not None and fault.spoil is not None:
            return Reply(b"", {}, raw=fault.spoil(reply))
        return Reply(reply, headers, cut="half" if fault is not None and fault.kind is FaultKind.HALF_REPLY else "")

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
