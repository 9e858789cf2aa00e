"""Who is blamed for an unusable vector: the text that always gets one, and no other, however the provider ails."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedtui.engine.backfill.suspect_vectors import INNOCENT, ROUNDS, Answer, examine
from embedtui.model import FaultClass
from embedtui.postgres.sides.protocol import SourceRow
from embedtui.providers import ProviderFault

Bad = Callable[[str, int], bool]
"""(text, its place in the request) -> whether its vector is unusable."""


def rows(*texts: str) -> list[SourceRow]:
    return [SourceRow((text,), 0, 0, text, len(text)) for text in texts]


class Provider:
    """Answers with one number a text; patient as the real one, which waits while innocent texts fail."""

    def __init__(self, bad: Bad, most: int = 2048) -> None:
        self.bad, self.most, self.requests = bad, most, 0
        self.pauses: list[float] = []

    def ask(self, texts: Sequence[str], innocent: frozenset[int]) -> Answer:
        self.requests += 1
        assert self.requests < 100_000, "without end"
        if len(texts) > self.most:
            raise ProviderFault(FaultClass.ROW, "400", "too many")
        assert all((text in INNOCENT) == (place in innocent) for place, text in enumerate(texts))
        bad = tuple(place for place, text in enumerate(texts) if self.bad(text, place))
        return Answer(np.ones((len(texts), 1), np.float32), len(texts), bad, "zero" if bad else "")

    def examine(self, suspects: list[SourceRow], told: int = 2048) -> tuple[set[str], set[str]]:
        """Texts that got a vector, and texts that are to blame."""
        well, blamed = set(), set()
        for verdict in examine(suspects, self.ask, self.pauses.append, told):
            for row in verdict.rows:
                (blamed if verdict.reason else well).add(row.text)
            assert verdict.reason or len(verdict.vectors) == len(verdict.rows)
        return well, blamed


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.75])
def test_a_provider_that_spoils_at_random_blames_nobody(share: float) -> None:
    """At 50 % zero vectors 5 of 800 innocent rows were blamed."""
    chance = random.Random(1)
    provider = Provider(lambda text, place: chance.random() < share)
    suspects = rows(*(str(number) for number in range(800)))
    for one in suspects:
        assert provider.examine([one]) == ({one.text}, set())


@settings(max_examples=50, deadline=None)
@given(
    st.sets(st.integers(0, 29), max_size=5),
    st.floats(0, 0.6),
    st.integers(0, 1000),
    st.sampled_from([1, 2, 3, 4, 5, 7, 33, 2048]),
    st.sampled_from([1, 3, 5, 2048]),
)
def test_the_poisoned_are_found_and_nobody_else(
    poisoned: set[int], share: float, seed: int, told: int, taken: int
) -> None:
    """Beside a provider that spoils at random, and takes fewer texts at once than it says."""
    chance = random.Random(seed)
    poison = {str(number) for number in poisoned}
    provider = Provider(lambda text, place: text in poison or chance.random() < share, most=taken)
    everyone = [str(number) for number in range(30)]
    well, blamed = set(), set()
    for text in everyone if taken < told else [None]:
        found = provider.examine(rows(*([text] if text else everyone)), told)
        well, blamed = well | found[0], blamed | found[1]
    assert (well, blamed) == (set(everyone) - poison, poison)


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_place_that_is_always_bad_is_no_texts_fault(place: int) -> None:
    sizes: list[int] = []

    def bad(text: str, at: int) -> bool:
        return at == (place if place >= 0 else sizes[-1] - 1)

    class Sized(Provider):
        def ask(self, texts: Sequence[str], innocent: frozenset[int]) -> Answer:
            sizes.append(len(texts))
            return super().ask(texts, innocent)

    suspects = rows("a") if place != 1 else rows("a", "b")
    provider = Sized(bad)
    well, blamed = provider.examine(suspects)
    assert blamed == (set() if place != 1 else {"a"}), "what looks like a text's fault in every way is one"
    assert well | blamed == {row.text for row in suspects}


def test_it_costs_a_few_requests_for_all_suspects_together() -> None:
    provider = Provider(lambda text, place: text.startswith("x"))
    provider.examine(rows(*(f"x{number}" for number in range(100))))
    assert provider.requests == ROUNDS


def test_a_sick_provider_is_asked_until_it_is_well() -> None:
    sick = [True] * 20

    def bad(text: str, place: int) -> bool:
        return bool(sick) and (place > 0 or sick.pop() is not None)

    provider = Provider(bad)
    assert provider.examine(rows("a")) == ({"a"}, set())
    assert provider.requests >= 20
    assert provider.pauses[:3] == [0.1, 0.2, 0.4] and max(provider.pauses) == 5.0
