"""Packs rows into requests: as full as the provider allows, with at most one row (or few) of each page."""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from embedtui.model import EmbeddingModel

UNCALIBRATED = 3.0
"""Characters per token until ``usage`` has told; cautious, for English has about four."""

TOKEN_MARGIN = 0.9
"""Share of a request's token limit that estimates may fill, since a text's own ratio differs from the average."""

REPLY_BYTES = 2 << 20
"""A reply, base64 of 4 bytes a number, is so long at most; bounds memory whatever the model."""


class Packable(Protocol):
    """What packing needs to know of a row."""

    @property
    def block(self) -> int:
        """Heap page the row lies on."""
        ...

    @property
    def characters(self) -> int:
        """Characters of its text."""
        ...


Row = TypeVar("Row", bound=Packable)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold."""

    inputs: int
    tokens: int
    """All inputs together."""
    input_tokens: int
    """One input."""

    @classmethod
    def of(cls, model: EmbeddingModel, inputs: int) -> Limits:
        """What the model's provider takes, of ``inputs`` texts at most whose reply does not take REPLY_BYTES."""
        most = min(model.max_inputs, inputs, REPLY_BYTES // (model.dimensions * 4 * 4 // 3))
        return cls(max(1, most), model.max_tokens, model.max_input_tokens)


def estimate_tokens(characters: int, characters_per_token: float) -> int:
    """Tokens of a text of so many characters, rounded up, at least 1."""
    return max(1, math.ceil(characters / characters_per_token))


def pack(
    rows: Iterable[Row], limits: Limits, characters_per_token: float, *, per_page: int | None = 1
) -> Iterator[tuple[Row, ...]]:
    """Yield each row once, in batches for one request each, a batch's rows in the order of their pages.

    No more than ``per_page`` rows of a batch share a page (None: any number): an UPDATE of one row a page and
    transaction leaves room on the page for the next (HOT); with k rows a page, the first k of each page find none. The
    pages with most rows left are served first, which takes the fewest batches and goes over all pages in waves, so that
    a page comes up again as late as can be. Rows that seem too long for one input are sent all the same, alone and
    last: the provider decides, and a rejection then costs one request.
    """
    # a page that gives several rows to a batch is served as so many pages
    pages: dict[tuple[int, int], deque[tuple[int, Row]]] = {}
    found: Counter[int] = Counter()
    suspects: list[Row] = []
    for number, row in enumerate(rows):
        tokens = estimate_tokens(row.characters, characters_per_token)
        if tokens > limits.input_tokens:
            suspects.append(row)
        else:
            page = (0, number) if per_page is None else (row.block, found[row.block] % per_page)
            pages.setdefault(page, deque()).append((tokens, row))
            found[row.block] += 1
    most = max(1, int(limits.tokens * TOKEN_MARGIN))
    # (rows left, negated; page): every page at most once in the heap, and once in a batch
    heap = [(-len(waiting), page) for page, waiting in pages.items()]
    heapq.heapify(heap)
    while heap:
        batch: list[tuple[tuple[int, int], Row]] = []
        used, rest = 0, []
        while heap and len(batch) < limits.inputs:
            left, page = heap[0]
            tokens, row = pages[page][0]
            if batch and used + tokens > most:
                break
            heapq.heappop(heap)
            pages[page].popleft()
            used += tokens
            batch.append((page, row))
            if left < -1:
                rest.append((left + 1, page))
        for entry in rest:
            heapq.heappush(heap, entry)
        batch.sort(key=lambda item: item[0])
        yield tuple(row for _, row in batch)
    for row in suspects:
        yield (row,)
