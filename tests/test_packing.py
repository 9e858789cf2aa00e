"""Requests are full, deterministic, and never hold two rows of a page; bisection finds exactly the rejected texts."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from embedtui.engine.packing import Limits, bisect, estimate_tokens, pack
from embedtui.model import FaultClass
from embedtui.providers import EmbedReply, ProviderFault


@dataclass(frozen=True)
class Row:
    block: int
    characters: int
    number: int


WIDE = Limits(inputs=1000, tokens=1_000_000, input_tokens=8192)


def rows_of(pages: Sequence[int], characters: int = 40) -> list[Row]:
    """``pages[b]`` rows on block b."""
    blocks = [block for block, count in enumerate(pages) for _ in range(count)]
    return [Row(block, characters, number) for number, block in enumerate(blocks)]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_once_one_a_page_within_the_limits(seed: int) -> None:
    chance = random.Random(seed)
    rows = [Row(chance.randrange(30), chance.randrange(1, 4000), n) for n in range(400)]
    limits = Limits(inputs=chance.randrange(1, 40), tokens=chance.randrange(1000, 20_000), input_tokens=900)
    batches = list(pack(rows, limits, 4.0))
    assert sorted(row.number for batch in batches for row in batch) == list(range(400))
    for batch in batches:
        blocks = [row.block for row in batch]
        assert blocks == sorted(set(blocks))
        assert len(batch) <= limits.inputs
        tokens = [estimate_tokens(row.characters, 4.0) for row in batch]
        assert len(batch) == 1 or (sum(tokens) <= limits.tokens and max(tokens) <= limits.input_tokens)
    assert batches == list(pack(rows, limits, 4.0))


@pytest.mark.parametrize("pages", [[12] * 100, [1, 30, 2, 2, 9, 9, 9, 1], [5], [7] * 41, list(range(60))])
def test_the_fewest_batches_that_one_row_a_page_allows(pages: list[int]) -> None:
    """No packing can do with fewer than the tallest page has rows, nor than the count limit asks for."""
    batches = list(pack(rows_of(pages), Limits(40, 1_000_000, 8192), 4.0))
    assert len(batches) == max(max(pages), math.ceil(sum(pages) / 40))


def test_pages_come_up_in_waves() -> None:
    batches = list(pack(rows_of([3] * 20), Limits(10, 1_000_000, 8192), 4.0))
    assert [[row.block for row in batch] for batch in batches] == [list(range(10)), list(range(10, 20))] * 3


def test_without_pages_rows_keep_their_order() -> None:
    rows = rows_of([50, 50])
    batches = list(pack(rows, Limits(30, 1_000_000, 8192), 4.0, one_per_page=False))
    assert [len(batch) for batch in batches] == [30, 30, 30, 10]
    assert [row for batch in batches for row in batch] == rows


def test_tokens_fill_a_request_up_to_the_margin() -> None:
    batches = list(pack(rows_of([1] * 100, characters=400), Limits(1000, 1000, 8192), 4.0))
    assert [len(batch) for batch in batches] == [9] * 11 + [1]


def test_rows_that_seem_too_long_go_alone_and_last() -> None:
    rows = [Row(0, 100_000, 0), *rows_of([0, 1, 1]), Row(9, 40_000, 9)]
    batches = list(pack(rows, WIDE, 4.0))
    assert [[row.characters for row in batch] for batch in batches] == [[40, 40], [100_000], [40_000]]


def test_nothing_packs_into_nothing() -> None:
    assert list(pack([], WIDE, 4.0)) == []


# --------------------------------------------------------------------------------------------------------- bisection


class Provider:
    """Rejects requests that hold one of ``bad``; counts."""

    def __init__(self, bad: set[str], code: str = "400") -> None:
        self.bad, self.code, self.requests = bad, code, 0

    def embed(self, texts: Sequence[str]) -> EmbedReply:
        self.requests += 1
        if self.bad & set(texts):
            single = len(texts) == 1
            fault_class = FaultClass.ROW if single or self.code != "bad_vector" else FaultClass.PROVIDER
            raise ProviderFault(fault_class, self.code, "rejected")
        return EmbedReply(np.array([[float(text)] for text in texts], np.float32), len(texts), None, 0.0)


@pytest.mark.parametrize("code", ["400", "bad_vector"])
@pytest.mark.parametrize("bad", [set(), {0}, {99}, {3, 4}, {1, 50, 98}, set(range(100))])
def test_exactly_the_rejected_texts_are_blamed(bad: set[int], code: str) -> None:
    texts = [str(n) for n in range(100)]
    provider = Provider({str(n) for n in bad}, code)
    results = dict(bisect(texts, provider.embed))
    assert list(results) == list(range(100))
    for index, result in results.items():
        if index in bad:
            assert isinstance(result, ProviderFault)
            assert result.fault_class is FaultClass.ROW
        else:
            assert isinstance(result, np.ndarray)
            assert result == [index]
    assert provider.requests <= 1 + 2 * math.ceil(math.log2(100)) * len(bad)


def test_a_request_known_to_fail_is_not_repeated() -> None:
    provider = Provider({"1"})
    results = dict(bisect(["0", "1"], provider.embed, failed=True))
    assert provider.requests == 2
    assert isinstance(results[1], ProviderFault)


def test_an_outage_ends_the_search_and_keeps_what_is_paid_for() -> None:
    provider = Provider({"5"})
    yielded = []

    def embed(texts: Sequence[str]) -> EmbedReply:
        if provider.requests == 3:
            raise ProviderFault(FaultClass.PROVIDER, "503", "overloaded")
        return provider.embed(texts)

    with pytest.raises(ProviderFault, match="overloaded"):
        for index, _ in bisect([str(n) for n in range(8)], embed):
            yielded.append(index)
    assert yielded == [0, 1, 2, 3]


def test_a_broken_provider_is_not_a_texts_fault() -> None:
    def embed(texts: Sequence[str]) -> EmbedReply:
        raise ProviderFault(FaultClass.PROVIDER, "bad_vector", "zero")

    with pytest.raises(ProviderFault, match="zero"):
        list(bisect(["a", "b", "c"], embed))
