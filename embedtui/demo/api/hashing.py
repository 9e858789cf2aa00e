"""Models without meaning, for whatever needs vectors but no quality."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

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
