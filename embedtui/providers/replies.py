"""Turns the body of an embeddings reply into checked vectors, without Python floats where it is base64."""

from __future__ import annotations

import binascii
import json
from typing import Any

from embedtui.arrays import np
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers.base import BAD_VECTOR, ProviderFault
from embedtui.providers.faults import clean


def _bad_reply(reason: str, code: str = "bad_reply") -> ProviderFault:
    hint = "Wait: the request is tried again by itself."
    return ProviderFault(FaultClass.PROVIDER, code, f"Broken reply: {reason}", hint=hint)


def parse_reply(body: bytes, count: int, model: EmbeddingModel, secret: str = "") -> tuple[np.ndarray, int | None]:
    """(float32 (count, d) vectors in the order of the texts, tokens or None where usage is missing).

    Raises ProviderFault: PROVIDER ``bad_reply`` for what is no embeddings reply for ``count`` texts, PROVIDER
    ``bad_vector`` for vectors that are not finite or zero, CONFIGURATION ``dimensions`` for another width than the
    model's.
    """
    try:
        payload = json.loads(body)
    except ValueError:
        excerpt = clean(body[:200].decode("utf-8", "replace"), secret)
        raise _bad_reply(f"not JSON: {excerpt}" if excerpt else "an empty body") from None
    items = payload.get("data") if isinstance(payload, dict) else None
    if not isinstance(items, list) or not items:
        raise _bad_reply(f"no data: {clean(body[:200].decode('utf-8', 'replace'), secret)}")
    if len(items) != count:
        raise _bad_reply(f"{len(items)} vectors for {count} texts.")
    rows = _by_index(items, count)
    vectors = _decode(rows, model)
    bad = count - int(np.count_nonzero(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)))
    if bad:
        raise _bad_reply(f"{bad} of {count} vectors are zero or not finite.", BAD_VECTOR)
    usage = payload.get("usage")
    tokens = (usage.get("total_tokens") or usage.get("prompt_tokens")) if isinstance(usage, dict) else None
    return vectors, tokens if isinstance(tokens, int) and tokens > 0 else None


def _by_index(items: list[Any], count: int) -> list[Any]:
    """The ``embedding`` of each item, ordered by its ``index``: the order of the list means nothing."""
    rows: list[Any] = [None] * count
    for position, item in enumerate(items):
        if not isinstance(item, dict) or item.get("embedding") is None:
            raise _bad_reply("an item without an embedding.")
        # a gateway that leaves the index out (or sends null) has only the order to go by
        index = position if item.get("index") is None else item["index"]
        if not isinstance(index, int) or not 0 <= index < count or rows[index] is not None:
            raise _bad_reply(f"item {position} has the index {clean(str(index))}, taken or out of range.")
        rows[index] = item["embedding"]
    return rows


def _decode(rows: list[Any], model: EmbeddingModel) -> np.ndarray:
    widths = set()
    decoded: list[np.ndarray] = []
    try:
        for row in rows:
            # base64 is little-endian float32 by OpenAI's definition, whatever machine this is
            vector = np.frombuffer(binascii.a2b_base64(row), "<f4") if isinstance(row, str) else np.array(row, "<f4")
            if vector.ndim != 1:
                raise _bad_reply("an embedding is not a list of numbers.")
            widths.add(vector.size)
            decoded.append(vector)
    except (binascii.Error, ValueError, TypeError, OverflowError):
        raise _bad_reply("an embedding is neither base64 nor numbers.") from None
    if len(widths) > 1:
        raise _bad_reply("embeddings of different dimensions.")
    (width,) = widths
    if width != model.dimensions:
        raise ProviderFault(
            FaultClass.CONFIGURATION,
            "dimensions",
            f"{clean(model.name)} answered with {width} dimensions, not {model.dimensions}.",
            hint=f"Set the model's dimensions to what it gives ({width}), or choose a model that can give "
            f"{model.dimensions}.",
        )
    return np.ascontiguousarray(np.stack(decoded), dtype=np.float32)
