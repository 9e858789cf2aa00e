"""Whose fault a bad answer is: a suspected text is asked for again beside innocent ones before it is blamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from embedtui.postgres.sides.protocol import SourceRow, Vectors
from embedtui.providers import ProviderFault

INNOCENT = (
    "The quick brown fox jumps over the lazy dog.",
    "Water boils at a lower temperature on a high mountain.",
    "She opened the window and listened to the rain.",
)
"""Any model embeds these. Three, so that a provider that spoils vectors at random, at whatever rate, spoils one of
them far more often than it spoils the suspect alone: in one round of eight at worst."""
ROUNDS = 6
"""Rounds in a row in which the suspect fails and the innocent are well: by chance in one case of 250,000 at worst."""


PAUSES = (0.05, 5.0)
"""Seconds, shortest and longest, after a round that settled nothing because innocent texts failed, too."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for some texts."""

    vectors: Vectors
    tokens: int
    bad: tuple[int, ...] = ()
    """Positions of vectors that cannot be used."""
    what: str = ""
    """What is the matter with them."""

    def cut(self, first: int, end: int) -> Answer:
        """The answer for the texts from ``first`` to before ``end``."""
        bad = tuple(place - first for place in self.bad if first <= place < end)
        return replace(self, vectors=self.vectors[first:end], bad=bad)

    def split(self, rows: Sequence[SourceRow]) -> tuple[tuple[SourceRow, ...], Vectors, tuple[SourceRow, ...]]:
        """Rows with a usable vector, these vectors, and the other rows."""
        if not self.bad:
            return tuple(rows), self.vectors, ()
        bad = set(self.bad)
        good = [place for place in range(len(rows)) if place not in bad]
        return tuple(rows[place] for place in good), self.vectors[good], tuple(rows[place] for place in self.bad)


Ask = Callable[[Sequence[str], frozenset[int]], Answer]
"""(texts, positions of the innocent ones) -> answer; patient with the provider. Raises ProviderFault for what the
texts may be to blame for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a round settled: rows with their vectors, or rows that are to blame."""

    rows: tuple[SourceRow, ...]
    vectors: Vectors
    tokens: int
    reason: str = ""
    """Why they are to blame."""


def examine(rows: Sequence[SourceRow], ask: Ask, pause: Callable[[float], None], most_inputs: int) -> Iterator[Verdict]:
    """Ask again for rows whose vectors could not be used, until each has a good one or is to blame for it.

    Goes on for as long as the innocent texts fail, too, with pauses (in seconds): that is the provider's fault.

    Raises:
        ProviderFault: one of several texts is refused now; halving tells which.
    """
    size = max(1, most_inputs - len(INNOCENT))
    for first in range(0, len(rows), size):
        yield from _examine(tuple(rows[first : first + size]), ask, pause, most_inputs)


def _examine(
    suspects: tuple[SourceRow, ...], ask: Ask, pause: Callable[[float], None], most_inputs: int
) -> Iterator[Verdict]:
    rounds = idle = 0
    while suspects:
        answer, innocent = _beside([row.text for row in suspects], ask, most_inputs)
        good, vectors, suspects = answer.split(suspects)
        if good:
            yield Verdict(good, vectors, answer.tokens)
        rounds += innocent
        idle = 0 if good or innocent else idle + 1
        if idle:
            shortest, longest = PAUSES
            pause(min(longest, shortest * 2.0 ** min(idle, 10)))
        if suspects and rounds >= ROUNDS:
            reason = f"its vector is {answer.what}, asked for {ROUNDS + 1} times, while those of other texts are well"
            yield Verdict(suspects, answer.vectors[:0], 0, reason)
            return


def _beside(texts: Sequence[str], ask: Ask, most_inputs: int) -> tuple[Answer, bool]:
    """The answer for ``texts``, and whether innocent ones, asked for at the same time, fare well."""
    if len(texts) + len(INNOCENT) <= most_inputs:
        first, *others = INNOCENT  # on both sides: it may be a place in the reply that is always bad
        end = len(texts) + 1
        places = frozenset((0, *range(end, end + len(others))))
        try:
            answer = ask([first, *texts, *others], places)
        except ProviderFault:
            pass  # perhaps these are more texts, or tokens, than it takes at once
        else:
            return answer.cut(1, end), places.isdisjoint(answer.bad)
    answer = ask(texts, frozenset())
    return answer, not any(ask([text], frozenset((0,))).bad for text in INNOCENT)
