"""A bridge: a linear map from the new model's vectors to the old one's, and how good it was found to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from embedtui.arrays import np
from embedtui.formatting import counted, percent
from embedtui.model.evaluation import SERVED, Interval

if TYPE_CHECKING:
    from embedtui.arrays import npt

DOING = "bridge: "
"""What a worker says that it does begins with this, while it is for a bridge."""


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
class BridgeQueries:
    """How real queries fare through it, as the old side's index serves them; None where unknown."""

    queries: int
    """Queries searched through the bridge."""
    logged: int = 0
    """Of these, those whose old vector is known: logged, or made while the old model answered."""
    overlap: Interval | None = None
    """Share of the old model's own ten results that the bridge finds, of the logged ones."""
    judged: int = 0
    """Queries with judgments."""
    ndcg: Interval | None = None
    """nDCG@10 of the judged ones."""
    judged_old: int = 0
    """Judged queries whose old vector is known, of which are the old model's nDCG@10 and the bridge's beside it."""
    ndcg_old: Interval | None = None
    ndcg_beside: Interval | None = None
    ndcg_new: Interval | None = None
    """Of the judged ones on the new side; None until every row has its new vector."""


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
    queries: BridgeQueries | None = None
    """None where no query is kept."""


@dataclass(frozen=True, slots=True)
class BridgeFit:
    """A map as it was fitted: served, only measured, or refused."""

    version: int
    at: datetime
    status: BridgeStatus


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
    """How good it is, in one line: by real queries where the old model's vectors of any are known, else by rows."""
    asked = status.queries
    if asked is not None and asked.overlap is not None:
        share, queries = percent(asked.overlap.mean), counted(asked.logged, "query", "queries")
        return f"finds {share} of what the old model found, {queries} {SERVED}"
    figures = status.figures
    return f"finds {percent(figures.overlap_10.mean)} of {figures.rows:,} held-out rows' old neighbours"


def in_full(status: BridgeStatus) -> str:
    """The same with what else was found."""
    figures, asked = status.figures, status.queries
    more = [f"{percent(figures.recall_10.mean)} of {figures.rows:,} held-out rows find themselves in ten"]
    if asked is not None and asked.ndcg_beside is not None and asked.ndcg_old is not None:
        more.append(f"nDCG {asked.ndcg_beside.mean:.2f}, was {asked.ndcg_old.mean:.2f}, {asked.judged_old:,} judged")
    elif asked is not None and asked.ndcg is not None:
        more.append(f"nDCG {asked.ndcg.mean:.2f}, {asked.judged:,} judged")
    return "; ".join([in_words(status), *more])


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
        _queries_from(data.get("queries")),
    )


def _queries_from(data: Mapping[str, Any] | None) -> BridgeQueries | None:
    """As JSON keeps them; a bridge of an earlier program has none."""
    if data is None:
        return None
    fields: dict[str, Any] = {
        name: Interval(**value) if isinstance(value, Mapping) else value for name, value in data.items()
    }
    return BridgeQueries(**fields)


def figures_from(data: Mapping[str, Any]) -> BridgeFigures:
    """Figures alone, as JSON keeps them."""
    first, ten, overlap = (Interval(**data[name]) for name in ("recall_1", "recall_10", "overlap_10"))
    return BridgeFigures(first, ten, overlap, data["rows"], data["pool"])
