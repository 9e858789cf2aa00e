"""Blind verdicts: which side is which is hidden until all are given, and left and right are drawn by chance."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from embedtui.model import QueryComparison, Side
from embedtui.model.evaluation import sign_test
from embedtui.tui import figures


@dataclass(slots=True)
class Blind:
    """Blind mode of one screen; off at first."""

    on: bool = False
    given: dict[int, str] = field(default_factory=dict)
    """Verdicts given blind, by query."""
    _seed: int = 0

    _WORDS: ClassVar = {"left": 0, "right": 1}

    def begin(self) -> None:
        """Hide the sides, in an order that nobody knows."""
        self.on, self.given, self._seed = True, {}, random.SystemRandom().randrange(2**32)

    def end(self) -> str:
        """Show the sides again; what was given meanwhile, in a sentence."""
        self.on = False
        sums = Counter(self.given.values())
        if not sums:
            return "No verdict was given blind."
        said = (
            f"{len(self.given)} given blind: {sums['new']} for new, {sums['old']} for old,"
            f" {sums['same']} same, {sums['bad']} both bad."
        )
        p = sign_test(sums["new"], sums["old"])
        return said if p is None else f"{said} A coin would be as uneven {figures.percent(p)} of the time (sign test)."

    def sides(self, query: QueryComparison) -> tuple[Side, Side]:
        """The sides from left to right: old and new, or as drawn for this query."""
        if self.on and random.Random(f"{self._seed} {query.query_id}").random() < 0.5:
            return Side.NEW, Side.OLD
        return Side.OLD, Side.NEW

    def place(self, query: QueryComparison) -> float:
        """Where the query is listed: any order by figures would give away how much its sides differ."""
        return random.Random(f"{self._seed} place {query.query_id}").random()

    def refusal(self, verdict: str) -> str:
        """Why ``verdict`` cannot be given now; empty where it can."""
        if self.on and verdict in ("old", "new"):
            return "Sides are hidden: < is for the left one, > for the right one."
        return "< and > are for blind verdicts: V hides the sides." if not self.on and verdict in self._WORDS else ""

    def take(self, query: QueryComparison, verdict: str) -> str:
        """The verdict that ``left``, ``right`` or another one means; kept where it is given blind."""
        meant = self.sides(query)[self._WORDS[verdict]].value if verdict in self._WORDS else verdict
        if self.on:
            self.given[query.query_id] = meant
        return meant
