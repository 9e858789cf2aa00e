"""Vectors whose rows could not be written, mostly as somebody has them locked: paid for, and kept for a next try."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embedtui.engine.backfill.embedding import Outcome
from embedtui.model import Key, Side
from embedtui.postgres.sides.protocol import SourceRow, Vectors

MOST = 4_096
"""Rows that are kept: about 50 MB of 3,072 numbers each."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 4.0
"""Seconds until a row is tried again after a second try, and then twice as long each time: whoever locks it may do so
for hours. The first is tried again at once: it may only have been edited meanwhile."""


@dataclass(slots=True)
class _Kept:
    text: str
    vector: Vectors
    wait: float
    next: float


class Unstored:
    """By side and key; of one thread, and in memory only."""

    def __init__(self) -> None:
        """None so far."""
        self._kept: OrderedDict[tuple[Side, Key], _Kept] = OrderedDict()

    def tried(self, side: Side, rows: Sequence[SourceRow], vectors: Vectors, done: set[Key]) -> None:
        """Keep ``vectors`` (one a row) of the rows that could not be written just now, which are not in ``done``."""
        moment = time.monotonic()
        for row, vector in zip(rows, vectors, strict=True):
            known = self._kept.pop((side, row.key), None)
            if row.key in done:
                continue
            wait = 0.0
            if known is not None and known.text == row.text:  # else it was edited meanwhile, and not locked
                wait = min(max(FIRST_WAIT, 2 * known.wait), LONGEST_WAIT)
            self._kept[side, row.key] = _Kept(row.text, vector.copy(), wait, moment + wait)
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)

    def of(self, side: Side, rows: Iterable[SourceRow]) -> Outcome | None:
        """What is kept of these rows' present texts, which need not be embedded again; None where nothing is."""
        found = [(row, kept) for row in rows if (kept := self._kept.get((side, row.key))) and kept.text == row.text]
        if not found:
            return None
        import numpy as np

        return Outcome(tuple(row for row, _ in found), np.stack([kept.vector for _, kept in found]))

    def waits(self, key: Key) -> bool:
        """Whether the row was found unwritable so shortly before that it is not tried again yet."""
        moment = time.monotonic()
        return any((kept := self._kept.get((side, key))) is not None and moment < kept.next for side in Side)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
