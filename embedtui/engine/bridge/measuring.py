"""How well mapped vectors find their way among old ones: each row's own place, and its neighbours'."""

from __future__ import annotations

import math

from embedtui.arrays import np, npt
from embedtui.engine.bridge.maps import Rows
from embedtui.model import Distance
from embedtui.model.bridge import BridgeFigures
from embedtui.model.evaluation import Interval

POOL = 1_000
"""Rows that a held-out row is searched among, always as many, so that figures of samples of any size compare."""
DEEP = 10
_Z = 1.96  # standard errors of a 95 % interval
_SAME = 1e-6
"""Scores that differ by less are of one vector; a text that stands in two rows is found with either."""


def scores(queries: Rows, pool: Rows, distance: Distance) -> Rows:
    """Higher is nearer; one row a query."""
    if distance is Distance.COSINE:
        found: Rows = unit(queries) @ unit(pool).T
        return found
    products: Rows = queries @ pool.T
    if distance is Distance.L2:
        return np.asarray(2 * products - np.square(pool).sum(axis=1), np.float32)
    return products


def unit(vectors: Rows) -> Rows:
    """The vectors at length one; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, np.float32(1), lengths), np.float32)


class Field:
    """Held-out rows among the pool: the first rows of ``pool`` are the held-out ones' own old vectors."""

    def __init__(self, held_out: int, pool: Rows, distance: Distance) -> None:
        """Searches the pool once for what each held-out row's own old vector is nearest to."""
        self._pool, self._distance, self.rows = pool, distance, held_out
        found = scores(pool[:held_out], pool, distance)
        self._neighbours = self._nearest(found)

    def measure(self, mapped: Rows) -> BridgeFigures:
        """The figures of the held-out rows' mapped vectors."""
        found = scores(mapped, self._pool, self._distance)
        own = found[np.arange(self.rows), np.arange(self.rows)][:, None]
        slack = _SAME * np.maximum(1, np.abs(own))
        nearer = (found > own + slack).sum(axis=1)
        # of a tie the middle place: where every vector is the same, none is found
        place = nearer + ((np.abs(found - own) <= slack).sum(axis=1) - 1) // 2
        agree = [
            len(np.intersect1d(mine, theirs, assume_unique=True)) / max(1, len(theirs))
            for mine, theirs in zip(self._nearest(found), self._neighbours, strict=True)
        ]
        return BridgeFigures(
            share(int((place < 1).sum()), self.rows),
            share(int((place < DEEP).sum()), self.rows),
            average(np.asarray(agree)),
            self.rows,
            len(self._pool),
        )

    def _nearest(self, found: Rows) -> npt.NDArray[np.intp]:
        """The DEEP nearest of each but the row itself."""
        found = found.copy()
        found[np.arange(self.rows), np.arange(self.rows)] = -np.inf
        most = min(DEEP, found.shape[1] - 1)
        return np.argpartition(found, -most, axis=1)[:, -most:]


def share(hits: int, of: int) -> Interval:
    """A share with Wilson's interval, which stays within 0 and 1 for few rows, too."""
    if of == 0:
        return Interval(0.0, 0.0, 1.0)
    p = hits / of
    middle = (p + _Z**2 / (2 * of)) / (1 + _Z**2 / of)
    half = _Z * math.sqrt(p * (1 - p) / of + _Z**2 / (4 * of**2)) / (1 + _Z**2 / of)
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half))


def average(values: npt.NDArray[np.float64]) -> Interval:
    """A mean with its interval by the standard error."""
    mean = float(values.mean())
    half = _Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 1.0
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))
