"""How an approximate index is built, and what it takes."""

from __future__ import annotations

import math

MAX_DIMENSIONS = {"vector": 2000, "halfvec": 4000}
"""What HNSW and ivfflat index (pgvector README, "Limitations")."""


def ivfflat_lists(rows: int) -> int:
    """Lists of an ivfflat index: rows / 1000 up to a million rows, the square root above (pgvector README)."""
    return min(32768, max(1, round(rows / 1000) if rows <= 1_000_000 else round(math.sqrt(rows))))


def forecast(rows: int, dimensions: int, m: int = 16, vector_type: str = "vector") -> int:
    """Bytes of maintenance_work_mem that an HNSW build wants, to stay in its fast in-memory phase.

    Per row, after pgvector 0.8's src/hnsw.h on a 64-bit server: HnswElementData 128; the vector itself 8 + 4 bytes a
    dimension (halfvec: 2); on the ground layer a pointer and a HnswNeighborArray of 2m candidates, 8 + 8 + 16 * 2m; on
    each higher layer, of which a row has 1 / (m - 1) on average, 8 + 8 + 16m; the allocator's chunk headers, 8 bytes
    each. Plus the 4 MiB that a parallel build keeps free (hnswbuild.c, estother and memoryMargin). Within 1 % of where
    pgvector 0.8.5 says that the graph no longer fits, with workers and without.
    """
    vector = 8 + dimensions * (2 if vector_type == "halfvec" else 4)
    ground = 16 + 16 * 2 * m
    higher = (24 + 16 * m) / (m - 1)
    return math.ceil(rows * (128 + vector + ground + higher + 3 * 8)) + 4 * 2**20


def ivfflat_forecast(rows: int, dimensions: int, lists: int, vector_type: str = "vector") -> int:
    """Bytes of maintenance_work_mem without which an ivfflat build fails.

    After pgvector's src/ivfbuild.c and ivfkmeans.c: 50 samples a list, at least 10,000; the centres twice; for each
    sample a lower bound a list, an upper bound and its centre; the lists' distances from each other. pgvector 0.8.5
    asked for up to 3 % more, which is added.
    """
    vector = 8 + dimensions * (2 if vector_type == "halfvec" else 4)
    samples = min(max(50 * lists, 10_000), max(rows, 1))
    centres = lists * (vector + 4 * dimensions) + 12 * lists + 4 * lists * lists
    return math.ceil(1.03 * (samples * (vector + 4 * lists + 8) + centres)) + 2**20
