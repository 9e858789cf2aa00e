"""Two models of which one is nearly a linear function of the other, as vectors and as an API's functions."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import psycopg
from numpy.typing import NDArray

from embedtui.demo.api import ModelFunction
from tests.kits.support import vector_literal

Vectors = NDArray[np.float32]

TOPICS = 12
"""Dimensions of what both models see of a text; few, so that few rows tell the map."""


def meanings(count: int, seed: int = 0, topics: int = TOPICS) -> Vectors:
    """What ``count`` texts are about; a row each."""
    return np.random.default_rng(seed).standard_normal((count, topics)).astype(np.float32)


def seen_by(model: int, about: Vectors, dimensions: int, noise: float = 0.0) -> Vectors:
    """Vectors that model number ``model`` gives texts about this: a linear function, an offset and its own noise."""
    generator = np.random.default_rng(model)
    matrix = generator.standard_normal((about.shape[1], dimensions))
    offset = generator.standard_normal(dimensions)
    own = np.random.default_rng(model + 1000).standard_normal((len(about), dimensions)) * noise
    vectors = about @ matrix + offset + own
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def model_function(model: int, dimensions: int, noise: float = 0.05) -> ModelFunction:
    """The model for the loopback API: a text's meaning is drawn by its checksum, and so is the model's noise."""

    def embed(texts: Sequence[str], requested: int | None) -> Vectors:
        del requested
        about = np.concatenate([meanings(1, zlib.crc32(text.encode())) for text in texts])
        exact = seen_by(model, about, dimensions)
        own = np.concatenate([meanings(1, zlib.crc32(text.encode()) ^ model, dimensions) for text in texts])
        noisy = exact + own * noise / np.sqrt(dimensions)
        return np.asarray(noisy / np.linalg.norm(noisy, axis=1, keepdims=True), np.float32)

    return embed


ROWS, OLD_SIZE, NEW_SIZE = 600, 24, 16
OLD_MODEL, NEW_MODEL = model_function(2, OLD_SIZE), model_function(1, NEW_SIZE)


def text_of(number: int) -> str:
    """Content of a row of :func:`make_table`."""
    return f"document number {number}"


def make_table(dsn: str, rows: int = ROWS, old: Callable[[list[str]], Vectors] | None = None) -> None:
    """Table ``documents`` with old vectors by OLD_MODEL, or by ``old``, and an index on them."""
    texts = [text_of(number) for number in range(1, rows + 1)]
    vectors = old(texts) if old is not None else OLD_MODEL(texts, None)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"CREATE TABLE documents (id bigint PRIMARY KEY, content text, embedding vector({OLD_SIZE}))")
        with conn.cursor().copy("COPY documents FROM STDIN") as copy:
            for number, (text, vector) in enumerate(zip(texts, vectors, strict=True), 1):
                copy.write_row((number, text, vector_literal(vector)))
        conn.execute("CREATE INDEX ON documents USING hnsw (embedding vector_cosine_ops)")
