"""A bridge: a linear map from the new model's vectors to the old one's, and how good it was found to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embedtui.arrays import np
from embedtui.formatting import percent
from embedtui.model.evaluation import Interval

if TYPE_CHECKING:
    from embedtui.arrays import npt


@dataclass(frozen=True, slots=True)
class BridgeFigures:
    """How well rows that the map was not fitted on find their way among old vectors."""

    recall_1: Interval
    """Share of mapped rows that find themselves first."""
    recall_10: Interval
    """Share that find themselves among the first ten."""
    overlap_10: Interval
    """Share of the ten nearest rows of the row's own old vector that the mapped one finds."""
    rows: int
    """Rows held out and measured."""
    pool: int
    """Rows that each was searched among."""


@dataclass(frozen=True, slots=True)
class BridgePoint:
    """The same figures of a map fitted on fewer rows: whether more rows would help."""

    rows: int
    figures: BridgeFigures


@dataclass(frozen=True, slots=True)
class BridgeStatus:
    """A fitted map as it is stored, without its matrix."""

    kind: str
    """``ridge``, ``orthogonal`` or ``identity``."""
    parameter: float | None
    """Of the ridge, relative to the mean variance of a dimension."""
    rows: int
    """Rows it was fitted on."""
    figures: BridgeFigures
    """Held out; of a map fitted without the rows held out."""
    curve: tuple[BridgePoint, ...] = ()
    others: Mapping[str, BridgeFigures] = field(default_factory=dict)
    """Of the maps not chosen, and of the controls: ``identity``, and ``shuffled``, fitted on pairs that are none."""
    refused: str = ""
    """Why it is below the bound; empty where it is not."""
    alignment: float = 1.0
    """Cosine, with what the map gives, of old vectors that are made by it to be stored among true ones."""
    length: float = 0.0
    """Of these; 0 keeps the map's own."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearMap:
    """``old = matrix @ new + offset``, in float32."""

    matrix: npt.NDArray[np.float32]
    """Shape (old dimensions, new dimensions)."""
    offset: npt.NDArray[np.float32]
    """Shape (old dimensions,)."""

    def __call__(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """One vector (new dimensions,), or rows of them, mapped."""
        given = np.asarray(vectors, np.float32)
        if given.ndim == 1:
            # not by BLAS: its threads wait for one another, on a busy machine for many times what a search takes
            return np.asarray(np.einsum("ij,j->i", self.matrix, given) + self.offset, np.float32)
        return given @ self.matrix.T + self.offset


def in_words(status: BridgeStatus) -> str:
    """How good it is, in one line."""
    figures = status.figures
    return (
        f"finds {percent(figures.overlap_10.mean)} of what the old model found,"
        f" and {percent(figures.recall_10.mean)} of {figures.rows:,} held-out rows by their text"
    )


@dataclass(frozen=True, slots=True)
class BridgeReport:
    """What came of fitting a bridge."""

    status: BridgeStatus
    served: bool
    """Whether searches go through it now."""
    version: int | None
    """As stored; None where it is not."""
    epoch: int | None
    """Of the pointer that serves it."""
    embedded: int
    """Rows embedded for it: the backfill's first."""
    seconds: float


def from_data(data: Mapping[str, Any]) -> BridgeStatus:
    """From its fields, as JSON keeps them."""
    return BridgeStatus(
        data["kind"],
        data["parameter"],
        data["rows"],
        figures_from(data["figures"]),
        tuple(BridgePoint(point["rows"], figures_from(point["figures"])) for point in data["curve"]),
        {name: figures_from(each) for name, each in data["others"].items()},
        data["refused"],
        data.get("alignment", 1.0),
        data.get("length", 0.0),
    )


def figures_from(data: Mapping[str, Any]) -> BridgeFigures:
    """Figures alone, as JSON keeps them."""
    first, ten, overlap = (Interval(**data[name]) for name in ("recall_1", "recall_10", "overlap_10"))
    return BridgeFigures(first, ten, overlap, data["rows"], data["pool"])
