"""How much goes into one request: what the endpoint is found to take, in how many texts, tokens and seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from embedtui.engine.backfill.packing import TOKEN_MARGIN
from embedtui.errors import Interrupted
from embedtui.model import EmbeddingModel

FIRST = 32
"""Texts of the first request to an endpoint whose speed is not known: 16 s on a processor that takes 0.5 s a text."""
GROWTH = 4
"""A request may hold so many times more than the largest that was answered, …"""
GROWTH_IF_QUICK = 16
"""… or up to so many where they would take, at its pace, half of what a reply may take: from FIRST to most providers'
fullest request in one step."""
SHARE_OF_TIMEOUT = 0.25
"""Of the time-out a reply may take: several requests wait behind each other at a server that works on one at a time."""
NO_LESS = 0.75
"""Half of the texts that take more than this share of the time were not what took it."""
POLL = 0.05
PATIENCE_SECONDS = 0.5
"""For so long others wait for the answer to a larger request …"""
ENOUGH = 0.8
"""… where less than this share of what they have is known to be taken: a small rest costs a request, and a commit."""
SEARCHED = 3
"""Refusals after which a limit is not sought more exactly."""


class Sized(Protocol):
    """What sizing needs to know of a row."""

    @property
    def characters(self) -> int:
        """Characters of its text."""
        ...


class RequestSize:
    """What one request to a model may hold; shared by threads and embedders.

    A request larger than any that was answered is tried by one thread at a time, so that a limit costs one refusal and
    not one of each thread; the others send what is known to be taken meanwhile.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        learnt: tuple[int | None, int | None] = (None, None),
        *,
        keep: Callable[[int | None, int | None], None] = lambda _inputs, _tokens: None,
    ) -> None:
        """``learnt``: inputs and tokens a request, as found before; ``keep`` is told of what is found now."""
        self._model, self._keep = model, keep
        self._inputs, self._tokens = self._told = learnt
        self._target = model.timeout_seconds * SHARE_OF_TIMEOUT
        self._by_time = FIRST
        self._slow: tuple[int, float] | None = None
        """The largest request that took longer than it should, and its seconds."""
        self._slow_anyway = 0
        """So many texts take no longer than half of them: not for theirs is the provider slow."""
        self._answered = self._answered_characters = 0
        self._refused_at: int | None = None
        """Fewest texts that were refused for their number, as it seems."""
        self._refusals = 0
        self._lock = threading.Lock()
        self._turns = threading.Condition(self._lock)
        """Somebody may go who had to wait."""
        self._exploring: float | None = None
        """Since when a thread tries out more than is known."""
        self._wanted: dict[threading.Thread, int] = {}
        """How many rows each waiting thread has: the one with most tries them out, which leaves the others least."""

    @property
    def inputs(self) -> int:
        """Texts that a request may hold."""
        with self._lock:
            return self._most()

    def _most(self) -> int:
        most = min(self._model.max_inputs, self._inputs or self._model.max_inputs, self._by_time)
        if self._refused_at is not None:
            found = max(1, self._answered)
            searched = self._refusals >= SEARCHED and self._answered > 0
            narrow = searched or self._refused_at - found <= found // 4
            most = min(most, found if narrow else max(1, (found + self._refused_at) // 2))
        return max(1, most)

    @contextmanager
    def turn(self, rows: Sequence[Sized], characters_per_token: float, stop: threading.Event) -> Iterator[int]:
        """How many of the first of ``rows`` may go now, in one request.

        Raises:
            Interrupted: ``stop`` was set while another thread tried out the first request.
        """
        me = threading.current_thread()
        with self._turns:
            try:
                self._wanted[me] = len(rows)
                while True:
                    most = self._fit(rows, self._most(), self._characters(characters_per_token))
                    known = self._fit(rows, self._answered, self._answered_characters) if self._answered else 0
                    exploring = most > known and self._exploring is None and len(rows) == max(self._wanted.values())
                    if exploring or (known and (known >= ENOUGH * most or not self._worth_waiting)):
                        break
                    if stop.is_set():
                        raise Interrupted("Stopped.", hint="Run again to go on.")
                    self._turns.wait(POLL)
            finally:
                del self._wanted[me]
            if exploring:
                self._exploring = time.monotonic()
        try:
            yield most if exploring else min(most, known)
        finally:
            with self._turns:
                if exploring:
                    self._exploring = None
                self._turns.notify_all()

    def waiting(self) -> dict[str, str]:
        """By thread, that it waits while another tries out what a request may hold."""
        with self._turns:
            return dict.fromkeys((thread.name for thread in self._wanted), "waiting for its turn")

    @property
    def _worth_waiting(self) -> bool:
        """A thread tries out more, or is about to."""
        return self._exploring is None or time.monotonic() < self._exploring + PATIENCE_SECONDS

    def _characters(self, characters_per_token: float) -> int:
        return int(min(self._model.max_tokens, self._tokens or self._model.max_tokens) * characters_per_token)

    @staticmethod
    def _fit(rows: Sequence[Sized], inputs: int, characters: int) -> int:
        used = 0
        for number, row in enumerate(rows[:inputs]):
            used += row.characters
            if used > characters:
                return max(1, number)
        return min(len(rows), inputs)

    # ------------------------------------------------------------------------------------------------- what is learnt

    def answered(self, inputs: int, characters: int, seconds: float) -> None:
        """A request of so much was answered."""
        with self._lock:
            self._answered = max(self._answered, inputs)
            self._answered_characters = max(self._answered_characters, characters)
            in_time = int(self._target * inputs / max(seconds, 0.001))
            self._judge_slowness(inputs, seconds)
            if seconds > self._target and inputs > self._slow_anyway:
                if self._slow is None or inputs > self._slow[0]:
                    self._slow = inputs, seconds
                self._by_time = max(1, min(self._by_time, in_time))
                self._answered = min(self._answered, self._by_time)
            else:
                quick = min(in_time // 2, inputs * GROWTH_IF_QUICK)
                self._by_time = max(self._by_time, min(in_time, max(inputs * GROWTH, quick)))

    def _judge_slowness(self, inputs: int, seconds: float) -> None:
        """Whether it was for its texts that a request took long: half as many then take much less."""
        if self._slow is None or inputs > self._slow[0] // 2:
            return
        most, took = self._slow
        if seconds > took * NO_LESS and took <= self._target / SHARE_OF_TIMEOUT / 2:
            self._slow_anyway = most
            self._by_time = max(self._by_time, most)
        self._slow = None

    def timed_out(self, inputs: int) -> None:
        """A request of so many texts was not answered in time."""
        with self._lock:
            self._slow, self._slow_anyway = None, 0
            self._by_time = max(1, min(self._by_time, inputs // GROWTH))
            self._answered = min(self._answered, self._by_time)

    def told(self, inputs: int | None, tokens: int | None, sent: int) -> None:
        """A refusal of ``sent`` texts said how many, or how many tokens, a request may hold."""
        if inputs is None and tokens is None:
            return
        with self._lock:
            if inputs is not None:
                self._inputs = min(self._inputs or inputs, inputs, max(1, sent - 1))
            if tokens is not None:
                # refused again although it was kept to: tokens are counted otherwise here
                again = self._tokens is not None and self._tokens <= tokens
                self._tokens = int(self._tokens * 0.8) if again and self._tokens else int(tokens * TOKEN_MARGIN)
            learnt = self._inputs, self._tokens
        self._tell(learnt)

    def _tell(self, learnt: tuple[int | None, int | None]) -> None:
        with self._lock:
            news, self._told = learnt != self._told, learnt
        if news:
            self._keep(*learnt)

    def refused(self, inputs: int) -> None:
        """So many texts were refused without a word of a limit; whether it is one shows when their parts are sent."""
        with self._lock:
            self._refused_at = min(self._refused_at or inputs, inputs)
            self._refusals += 1

    def settled(self, inputs: int, characters: int, *, guilty: bool, characters_per_token: float) -> None:
        """The parts of such a request are answered; ``guilty``: a text was the reason."""
        with self._lock:
            if guilty or self._answered >= inputs:
                self._refused_at = None  # as many were answered, before or since
                self._refusals -= 1
            if guilty:
                return
            if self._answered >= inputs:
                self._tokens = max(1, int(characters / characters_per_token / GROWTH))
            else:
                self._inputs = max(1, self._answered) if self._refusals >= SEARCHED else self._inputs
            learnt = self._inputs or (self._answered if self._refused_at is not None else None), self._tokens
        self._tell(learnt)
