"""What a hostile provider, or a broken gateway before a good one, may send: for ``Faults.add("spoiled", spoil=…)``."""

from __future__ import annotations

import base64
import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from embedtui.demo.api import Spoil


def _head(body_length: int, status: int, headers: Mapping[str, str]) -> bytes:
    fields = {"Content-Type": "application/json", "Content-Length": str(body_length), **headers}
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def reply(status: int = 200, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Spoil:
    """Another status, more headers, or another body."""

    def spoil(good: bytes) -> Iterator[bytes]:
        sent = good if body is None else body
        yield _head(len(sent), status, headers or {}) + sent

    return spoil


def changed(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """The good reply's JSON after ``change`` has been at it."""

    def spoil(good: bytes) -> Iterator[bytes]:
        payload = json.loads(good)
        change(payload)
        body = json.dumps(payload).encode()
        yield _head(len(body), 200, {}) + body

    return spoil


def vectors(change: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Each vector (float32, little-endian; the request asked for base64) after ``change``."""

    def each(payload: dict[str, Any]) -> None:
        for item in payload["data"]:
            numbers = np.frombuffer(base64.b64decode(item["embedding"]), "<f4").copy()
            item["embedding"] = base64.b64encode(change(numbers).astype("<f4").tobytes()).decode()

    return changed(each)


def some(share: float, value: float = 0.0) -> Spoil:
    """At random, in ``share`` of the vectors all numbers are ``value``."""
    chance = random.Random(0)
    return vectors(lambda numbers: np.full_like(numbers, value) if chance.random() < share else numbers)


def usage(tokens: int) -> Spoil:
    """A count of tokens that is none."""
    return changed(lambda payload: payload.update(usage={"prompt_tokens": tokens, "total_tokens": tokens}))


def called(name: str) -> Spoil:
    """Another model's name in the reply."""
    return changed(lambda payload: payload.update(model=name))


def drip(pause: float, *, head: bool = False) -> Spoil:
    """A byte every ``pause`` seconds: the body's, or already the head's."""

    def spoil(good: bytes) -> Iterator[bytes | float]:
        start = _head(len(good), 200, {})
        if not head:
            yield start
        for byte in start + good if head else good:
            yield bytes([byte])
            yield pause

    return spoil


def bomb(size: int, *, encoding: str = "gzip", status: int = 200) -> Spoil:
    """``size`` bytes of blanks, packed (or with ``encoding`` "identity" not); the length is not announced."""

    def spoil(_good: bytes) -> Iterator[bytes]:
        kinds = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
        packer = zlib.compressobj(wbits=kinds[encoding]) if encoding in kinds else None
        yield f"HTTP/1.1 {status} Whatever\r\nContent-Encoding: {encoding}\r\nConnection: close\r\n\r\n".encode()
        block = b" " * (1 << 20)
        for _ in range(size // len(block)):
            packed = block if packer is None else packer.compress(block)
            if packed:
                yield packed
        if packer is not None:
            yield packer.flush()

    return spoil


def packed(good: bytes) -> Iterator[bytes]:
    """A good reply, compressed although nobody asked for it."""
    body = gzip.compress(good)
    yield _head(len(body), 200, {"Content-Encoding": "gzip"}) + body
