"""How much goes into a request: limits cost few refusals, a slow server gets little, poison changes nothing."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedtui.engine.backfill.embedding import PIECES
from embedtui.engine.backfill.sizing import FIRST, RequestSize
from embedtui.errors import Interrupted
from embedtui.model import EmbeddingModel

RUNS = threading.Event()


@dataclass(frozen=True)
class Row:
    characters: int = 4


@dataclass(frozen=True)
class Asking:
    """Tells when it is looked at."""

    there: threading.Event

    @property
    def characters(self) -> int:
        self.there.set()
        return 4


def next_size(size: RequestSize, rows: int = 10_000, characters: int = 4) -> int:
    with size.turn([Row(characters)] * rows, 4.0, RUNS) as most:
        return most


def search(size: RequestSize, limit: int, requests: int = 200) -> tuple[int, int]:
    """(refused, size at the end) of a server that takes ``limit`` texts and does not say so."""
    refused = 0
    for _ in range(requests):
        sent = next_size(size)
        if sent <= limit:
            size.answered(sent, sent * 4, 0.01)
            continue
        refused += 1
        size.refused(sent)
        piece = sent
        while piece > limit:
            piece = -(-piece // PIECES)
            refused += piece > limit
            if piece > limit:
                size.refused(piece)
        size.answered(piece, piece * 4, 0.01)
        size.settled(sent, sent * 4, guilty=False, characters_per_token=4.0)
    return refused, next_size(size)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000))
def test_an_untold_limit_costs_few_refusals(limit: int) -> None:
    size = RequestSize(EmbeddingModel("m", 8))
    refused, end = search(size, limit)
    assert refused < 5 + (limit < 2)
    assert limit >= end >= min(limit, 2048) / 2.5


def test_what_was_learnt_is_kept_and_used_at_once() -> None:
    kept: list[tuple[int | None, int | None]] = []
    size = RequestSize(EmbeddingModel("m", 8), keep=lambda *found: kept.append(found))
    size.told(96, None, 512)
    assert kept == [(96, None)]
    again = RequestSize(EmbeddingModel("m", 8), kept[-1])
    for _ in range(10):
        sent = next_size(again)
        assert sent <= 96
        again.answered(sent, sent * 4, 0.01)
    assert next_size(again) == 96


def test_a_poisoned_text_leaves_the_size_as_it_was() -> None:
    size = RequestSize(EmbeddingModel("m", 8))
    search(size, 3000, 10)
    before = next_size(size)
    for _ in range(20):
        size.refused(before)
        size.settled(before, before * 4, guilty=True, characters_per_token=4.0)
    assert next_size(size) == before


def test_tokens_are_kept_to_and_less_where_they_are_counted_otherwise() -> None:
    size = RequestSize(EmbeddingModel("m", 8))
    search(size, 3000, 10)
    size.told(None, 1000, 512)
    first = next_size(size, characters=40)
    assert first == 90  # of 1,000 tokens at 10 each, with a margin
    size.told(None, 1000, first)
    assert next_size(size, characters=40) < first


@pytest.mark.parametrize("per_text", [0.05, 0.5, 5.0, 40.0])
def test_a_serial_server_is_given_what_it_does_in_time(per_text: float) -> None:
    size = RequestSize(EmbeddingModel("m", 8))
    vain = done = 0
    while done < 3000:
        sent = next_size(size)
        if sent * per_text > 60:
            vain += sent
            size.timed_out(sent)
        else:
            done += sent
            size.answered(sent, sent * 4, sent * per_text)
    assert vain < 0.1 * done
    assert next_size(size) * per_text <= 60


@pytest.mark.parametrize("each", [0.0, 0.002])
@pytest.mark.parametrize("share", [0.26, 0.3, 0.45])
def test_a_provider_that_is_slow_whatever_is_asked_is_asked_for_no_less(share: float, each: float) -> None:
    model = EmbeddingModel("m", 8, timeout_seconds=5.0)
    size, dice = RequestSize(model), random.Random(1)
    sent = []
    for _ in range(300):
        sent.append(next_size(size))
        size.answered(sent[-1], sent[-1] * 4, 5.0 * share * dice.uniform(0.9, 1.1) + each * sent[-1])
    assert sum(sent[100:]) / 200 >= FIRST * 0.8


def test_a_time_out_makes_less_of_it_all_the_same() -> None:
    size = RequestSize(EmbeddingModel("m", 8, timeout_seconds=5.0))
    for _ in range(100):
        sent = next_size(size)
        size.answered(sent, sent * 4, 1.5)
    size.timed_out(next_size(size))
    assert next_size(size) <= FIRST // 2


@pytest.mark.parametrize(
    ("seconds", "timeout", "most"), [(0.2, 60, 512), (0.9, 60, 266), (4.0, 60, 120), (0.2, 5, 128)]
)
def test_a_quick_first_reply_opens_a_full_request_where_there_is_time_to_spare(
    seconds: float, timeout: float, most: int
) -> None:
    size = RequestSize(EmbeddingModel("m", 8, timeout_seconds=timeout))
    size.answered(next_size(size), FIRST * 4, seconds)
    assert next_size(size) == most
    assert most * seconds / FIRST <= timeout / 4


def test_the_thread_with_most_tries_it_out_and_the_others_wait_rather_than_send_little() -> None:
    size = RequestSize(EmbeddingModel("m", 8))
    size.answered(next_size(size), FIRST * 4, 0.01)
    sent: list[int] = []
    done = threading.Event()

    def send(rows: int, there: threading.Event) -> None:
        with size.turn([Asking(there)] * rows, 4.0, RUNS) as most:
            sent.append(most)
            if rows == 500:
                done.wait(10)
                size.answered(most, most * 4, 0.01)

    with size.turn([Row()] * (FIRST + 1), 4.0, RUNS):  # so that all the others are there by its end
        asked = [threading.Event() for _ in range(3)]
        threads = [
            threading.Thread(target=send, args=(rows, there))
            for rows, there in zip((300, 500, 400), asked, strict=True)
        ]
        for thread in threads:
            thread.start()
        assert all(there.wait(10) for there in asked)
    while not sent:
        RUNS.wait(0.001)
    assert sent == [500]
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(sent) == [300, 400, 500]


def test_what_is_tried_out_is_not_waited_for_for_long() -> None:
    size = RequestSize(EmbeddingModel("m", 8))
    size.answered(next_size(size), FIRST * 4, 0.01)
    with size.turn([Row()] * 500, 4.0, RUNS) as more, size.turn([Row()] * 500, 4.0, RUNS) as beside:
        assert (more, beside) == (500, FIRST)


def test_only_one_thread_tries_more_than_is_known() -> None:
    size = RequestSize(EmbeddingModel("m", 8))
    stop = threading.Event()
    stop.set()
    with size.turn([Row()] * 500, 4.0, RUNS) as first:
        assert first == FIRST
        with pytest.raises(Interrupted), size.turn([Row()] * 500, 4.0, stop):
            pass
        size.answered(first, first * 4, 0.01)
    with size.turn([Row()] * 500, 4.0, RUNS) as more:
        assert more > first
        with size.turn([Row()] * 500, 4.0, RUNS) as beside:
            assert beside == first


@pytest.mark.parametrize("limit", [1, 3, 6, 7, 12])
def test_a_limit_below_the_first_request_is_sought_until_something_is_answered(limit: int) -> None:
    """All parts of what was refused wait, and those that come first are refused as well."""
    size = RequestSize(EmbeddingModel("m", 8))
    while (sent := next_size(size)) > limit:
        size.refused(sent)
    size.answered(sent, sent * 4, 0.01)
    assert next_size(size) >= max(1, limit // 2)
