"""Requests are full, deterministic, and never hold more rows of a page than they may."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from embedtui.engine.backfill.packing import Limits, estimate_tokens, pack


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
    batches = list(pack(rows, Limits(30, 1_000_000, 8192), 4.0, per_page=None))
    assert [len(batch) for batch in batches] == [30, 30, 30, 10]
    assert [row for batch in batches for row in batch] == rows


def test_a_page_may_give_several_rows_to_a_batch() -> None:
    batches = list(pack(rows_of([7, 3, 1]), WIDE, 4.0, per_page=3))
    assert [[row.block for row in batch] for batch in batches] == [[0, 0, 0, 1, 1, 1, 2], [0, 0, 0], [0]]
    assert sorted(row.number for batch in batches for row in batch) == list(range(11))


def test_tokens_fill_a_request_up_to_the_margin() -> None:
    batches = list(pack(rows_of([1] * 100, characters=400), Limits(1000, 1000, 8192), 4.0))
    assert [len(batch) for batch in batches] == [9] * 11 + [1]


def test_rows_that_seem_too_long_go_alone_and_last() -> None:
    rows = [Row(0, 100_000, 0), *rows_of([0, 1, 1]), Row(9, 40_000, 9)]
    batches = list(pack(rows, WIDE, 4.0))
    assert [[row.characters for row in batch] for batch in batches] == [[40, 40], [100_000], [40_000]]


def test_nothing_packs_into_nothing() -> None:
    assert list(pack([], WIDE, 4.0)) == []
