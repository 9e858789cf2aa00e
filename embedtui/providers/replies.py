"""Turns the body of an embeddings reply into checked vectors, without Python floats where it is base64."""

from __future__ import annotations

import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embedtui.arrays import np
from embedtui.known import Provider, provider
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers.base import ProviderFault
from embedtui.providers.http_errors import clean

SLACK_BYTES = 1 << 20
"""What a reply may have beside its numbers; also what a first request of one or two texts needs to show that it was
answered with more dimensions than were wanted."""
NUMBER_BYTES = 32
"""Of a number written out: a sign, 17 digits, a point, an exponent, and the comma with blanks. Base64 takes 5.4."""
TEXT_BYTES = 1024
"""Around the numbers of one text."""
TOKENS_OF_A_TEXT = 64
"""Tokens that a provider may add to each text of its own."""


def most_bytes(texts: int, dimensions: int) -> int:
    """Bytes of a reply for so many texts at most; a longer one is none."""
    return SLACK_BYTES + texts * (TEXT_BYTES + dimensions * NUMBER_BYTES)


def bad_reply(reason: str) -> ProviderFault:
    """A fault of the provider: what it sent is no reply to the request."""
    hint = "Wait: the request is tried again by itself."
    return ProviderFault(FaultClass.PROVIDER, "bad_reply", f"Broken reply: {reason}", hint=hint)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What the body of a reply says."""

    vectors: np.ndarray
    """float32 (count, d), in the order of the texts and as they are stored; rows of ``bad`` hold whatever came."""
    bad: tuple[int, ...]
    """Positions of vectors that cannot be used."""
    usage: Any
    """What stands where the tokens should be counted; None: nothing."""
    model: str
    """Name of the model as the reply has it; "" where it has none."""


def counted_tokens(usage: object, texts: Sequence[str]) -> int | None:
    """Tokens as the provider counted them; None where that is no count, or cannot be one of these texts."""
    return plausible_tokens(usage, len(texts), sum(len(text.encode("utf-8", "replace")) for text in texts))


def plausible_tokens(usage: object, texts: int, size: int) -> int | None:
    """As :func:`counted_tokens`, of so many texts with so many bytes.

    No tokenizer makes more tokens than bytes, or no token of a text.
    """
    if not isinstance(usage, int) or isinstance(usage, bool):
        return None
    return usage if texts <= usage <= size + TOKENS_OF_A_TEXT * texts else None


def usable(vectors: np.ndarray) -> np.ndarray:
    """Bool (n): rows of float32 (n, d) whose length is a number and not zero, so that distances to them are numbers."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
        found: np.ndarray = np.isfinite(squares) & (squares > 0)
    return found


def parse_reply(body: bytes, count: int, model: EmbeddingModel, secret: str = "") -> Parsed:
    """The body of a reply to ``count`` texts, as the model's provider writes it.

    Raises ProviderFault: PROVIDER ``bad_reply`` for what is no embeddings reply for ``count`` texts, CONFIGURATION
    ``dimensions`` for another width than the model's.
    """
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        excerpt = clean(body[:200].decode("utf-8", "replace"), secret)
        raise bad_reply(f"not JSON: {excerpt}" if excerpt else "an empty body") from None
    items = _items(payload, provider(model.provider))
    if not isinstance(items, list) or not items:
        raise bad_reply(f"no data: {clean(body[:200].decode('utf-8', 'replace'), secret)}")
    return parse_payload(payload, count, model)


def parse_payload(payload: Any, count: int, model: EmbeddingModel) -> Parsed:
    """As :func:`parse_reply`, of a body that was read already."""
    items = _items(payload, provider(model.provider))
    if not isinstance(items, list) or not items:
        raise bad_reply("no data.")
    if len(items) != count:
        raise bad_reply(f"{len(items)} vectors for {count} texts.")
    rows = _by_index(items, count)
    vectors = _decode(rows, model)
    bad = tuple(int(position) for position in np.flatnonzero(~usable(vectors)))
    name = _at(payload, ("model",))
    return Parsed(model.shape(vectors), bad, usage_of(payload, model), name if isinstance(name, str) else "")


def usage_of(payload: Any, model: EmbeddingModel) -> Any:
    """What stands where the tokens should be counted; None: nothing."""
    manners = provider(model.provider)
    tokens = _at(payload, manners.tokens_at) if manners.tokens_at else None
    return tokens or _at(payload, ("usage", "total_tokens")) or _at(payload, ("usage", "prompt_tokens"))


def _items(payload: Any, manners: Provider) -> Any:
    found = _at(payload, manners.vectors_at or ("data",))
    # a plain list of vectors is in the order of the texts
    return [{"embedding": each} for each in found] if manners.vectors_at and isinstance(found, list) else found


def _at(payload: Any, names: Sequence[str]) -> Any:
    """What stands under ``names``, one within the other; None: nothing."""
    for name in names:
        payload = payload.get(name) if isinstance(payload, dict) else None
    return payload


def _by_index(items: list[Any], count: int) -> list[Any]:
    """The ``embedding`` of each item, ordered by its ``index``: the order of the list means nothing."""
    rows: list[Any] = [None] * count  # an empty one for null: that text's alone
    for position, item in enumerate(items):
        if not isinstance(item, dict) or "embedding" not in item:
            raise bad_reply("an item without an embedding.")
        # a gateway that leaves the index out (or sends null) has only the order to go by
        index = position if item.get("index") is None else item["index"]
        if not isinstance(index, int) or not 0 <= index < count or rows[index] is not None:
            raise bad_reply(f"item {position} has the index {clean(str(index))}, taken or out of range.")
        rows[index] = item["embedding"] or []
    return rows


def _decode(rows: list[Any], model: EmbeddingModel) -> np.ndarray:
    widths: set[int] = set()
    given = model.shape.given
    missing = np.zeros(given, "<f4")
    decoded: list[np.ndarray] = []
    try:
        for row in rows:
            # base64 is little-endian float32 by OpenAI's definition, whatever machine this is
            vector = np.frombuffer(binascii.a2b_base64(row), "<f4") if isinstance(row, str) else np.array(row, "<f4")
            if vector.ndim != 1:
                raise bad_reply("an embedding is not a list of numbers.")
            if vector.size:
                widths.add(vector.size)
            decoded.append(vector if vector.size else missing)
    except (binascii.Error, ValueError, TypeError, OverflowError):
        raise bad_reply("an embedding is neither base64 nor numbers.") from None
    if len(widths) > 1:
        raise bad_reply("embeddings of different dimensions.")
    width = widths.pop() if widths else given
    if width != given:
        raise ProviderFault(
            FaultClass.CONFIGURATION,
            "dimensions",
            f"{clean(model.name)} answered with {width} dimensions, not {given}.",
            hint=f"Set the model's dimensions to what it gives ({width}), or choose a model that can give {given}.",
        )
    return np.ascontiguousarray(np.stack(decoded), dtype=np.float32)
