"""Linear maps from one model's space to another's, from sums over pairs that are read once: numpy, float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from embedtui.arrays import np, npt
from embedtui.model.bridge import LinearMap

Rows: TypeAlias = "npt.NDArray[np.float32]"

_CHUNK = 2048
"""Pairs of one matrix product: what is summed in 32 bits; the sum of these is kept in 64."""
_RANK = 1e-6
"""Directions whose share of the variance is less are noise of the arithmetic."""


@dataclass(slots=True, eq=False)
class Moments:
    """Sums over pairs, enough for every map; memory by dimensions, not by pairs.

    Taken about ``centre``, a pair of vectors near the mean, so that large means cancel nothing.
    """

    centre: tuple[Rows, Rows]
    count: int
    new: npt.NDArray[np.float64]
    """Sum of new vectors, about the centre."""
    old: npt.NDArray[np.float64]
    gram: npt.NDArray[np.float64]
    """new × new."""
    cross: npt.NDArray[np.float64]
    """new × old."""

    @classmethod
    def about(cls, new: Rows, old: Rows) -> Moments:
        """Empty sums about the mean of these pairs."""
        width, height = new.shape[1], old.shape[1]
        return cls(
            (
                new.mean(axis=0, dtype=np.float64).astype(np.float32),
                old.mean(axis=0, dtype=np.float64).astype(np.float32),
            ),
            0,
            np.zeros(width),
            np.zeros(height),
            np.zeros((width, width)),
            np.zeros((width, height)),
        )

    def add(self, new: Rows, old: Rows) -> None:
        """Add pairs; row n of one belongs to row n of the other."""
        for first in range(0, len(new), _CHUNK):
            x = new[first : first + _CHUNK] - self.centre[0]
            y = old[first : first + _CHUNK] - self.centre[1]
            self.count += len(x)
            self.new += x.sum(axis=0, dtype=np.float64)
            self.old += y.sum(axis=0, dtype=np.float64)
            self.gram += x.T @ x
            self.cross += x.T @ y

    def centred(self) -> tuple[Rows, Rows, Rows, Rows]:
        """Means of new and old vectors; covariance of the new ones, and of new with old, times the count."""
        mean_new, mean_old = self.new / self.count, self.old / self.count
        gram = self.gram - np.outer(mean_new, self.new)
        cross = self.cross - np.outer(mean_new, self.old)
        mean_new, mean_old = mean_new + self.centre[0], mean_old + self.centre[1]
        single = [each.astype(np.float32) for each in (mean_new, mean_old, gram, cross)]
        return single[0], single[1], single[2], single[3]


def ridge(moments: Moments, parameter: float) -> LinearMap:
    """The map of least squared error, held down by ``parameter`` times the mean variance of a dimension."""
    mean_new, mean_old, gram, cross = moments.centred()
    gram[np.diag_indices_from(gram)] += np.float32(parameter * np.trace(gram, dtype=np.float64) / len(gram))
    return _about(np.linalg.solve(gram, cross).T, mean_new, mean_old)


def orthogonal(moments: Moments) -> LinearMap:
    """Procrustes: the rotation (onto the smaller space, where one is larger) that brings the pairs closest, scaled."""
    mean_new, mean_old, gram, cross = moments.centred()
    # the polar factor, by way of the smaller side's Gram matrix: a fraction of a decomposition of the whole
    wide = cross.shape[0] < cross.shape[1]
    tall = (cross.T if wide else cross).astype(np.float64)
    values, vectors = np.linalg.eigh(tall.T @ tall)
    kept = values > values[-1] * _RANK**2
    vectors, singular = vectors[:, kept], np.sqrt(values[kept])
    rotation = (tall @ (vectors / singular)) @ vectors.T
    if not wide:
        rotation = rotation.T  # (old, new)
    scale = singular.sum() / np.trace(gram, dtype=np.float64)
    return _about(rotation * scale, mean_new, mean_old)


def identity(new_dimensions: int, old_dimensions: int) -> LinearMap | None:
    """No map at all, where the dimensions allow it: what the two models would give if they were one."""
    if new_dimensions != old_dimensions:
        return None
    return LinearMap(np.eye(old_dimensions, dtype=np.float32), np.zeros(old_dimensions, np.float32))


def scaled(found: LinearMap, factor: float) -> LinearMap:
    """The map with every result made longer by ``factor``."""
    return LinearMap(found.matrix * np.float32(factor), found.offset * np.float32(factor))


def _about(matrix: npt.NDArray[np.floating], mean_new: Rows, mean_old: Rows) -> LinearMap:
    contiguous = np.ascontiguousarray(matrix, dtype=np.float32)
    return LinearMap(contiguous, mean_old - contiguous @ mean_new)
