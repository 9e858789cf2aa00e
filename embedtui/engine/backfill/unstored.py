"""Vectors whose rows could not be written, mostly as somebody has them locked: paid for, and kept for a next try."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from embedtui.arrays import np
from embedtui.engine.backfill.embedding import Outcome
from embedtui.model import Key, Side
from embedtui.postgres.sides.protocol import SourceRow, Vectors

MOST = 4_096
"""Rows that are kept: about 50 MB of 3,072 numbers each."""


class Unstored:
    """By side and key; of one thread, and in memory only."""

    def __init__(self) -> None:
        """None so far."""
        self._kept: OrderedDict[tuple[Side, Key], tuple[str, Vectors]] = OrderedDict()
        """Text and vector."""

    def tried(self, side: Side, rows: Sequence[SourceRow], vectors: Vectors, done: set[Key]) -> None:
        """Keep ``vectors`` (one a row) of the rows that could not be written just now, which are not in ``done``."""
        for row, vector in zip(rows, vectors, strict=True):
            self._kept.pop((side, row.key), None)
            if row.key not in done:
                self._kept[side, row.key] = (row.text, vector.copy())
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)

    def of(self, side: Side, rows: Iterable[SourceRow]) -> Outcome | None:
        """What is kept of these rows' present texts, which need not be embedded again; None where nothing is."""
        found = [(row, kept[1]) for row in rows if (kept := self._kept.get((side, row.key))) and kept[0] == row.text]
        if not found:
            return None
        return Outcome(tuple(row for row, _ in found), np.stack([vector for _, vector in found]))
