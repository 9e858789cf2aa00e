"""Old vectors for rows that the old model never saw: what the map makes of them, brought among true ones.

A mapped vector is nearer to every mapped question than a true one is: it lacks what no map can tell of the old model's
vector. Stored as it comes, a tenth of the rows took 16 to 97 % of the first ten of real questions, and up to 72 % of
what they found was lost (public judged queries, three real models, every ordered pair; `benchmarks/bridge.py`). So it
is turned away from them, towards a direction in which the map gives next to nothing, until rows held out are found as
often by it as by their own vectors: then it was 5 to 20 %, and nothing was lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from embedtui.arrays import np, npt
from embedtui.engine.bridge.maps import Rows
from embedtui.engine.bridge.measuring import DEEP, scores, unit
from embedtui.model import Distance
from embedtui.model.bridge import BridgeStatus, LinearMap

_LEAST = 0.2
"""Of an alignment: with less, a row is found by nothing."""
_ROUNDS = 16
_FLOOR = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class StandIn:
    """Makes old vectors of new ones, to be stored among true ones."""

    map: LinearMap
    aside: npt.NDArray[np.float32]
    """The direction, of length one, that vectors are turned to."""
    alignment: float
    """Cosine of what is stored with what the map gives."""
    length: float
    """Of every vector; 0 keeps its own."""

    def __call__(self, new: Rows) -> Rows:
        """A row each."""
        mapped = self.map(new)
        lengths = np.linalg.norm(mapped, axis=1, keepdims=True)
        straight = unit(mapped)
        turned = unit(self.aside - (straight @ self.aside)[:, None] * straight)
        made = self.alignment * straight + np.float32(np.sqrt(max(0.0, 1 - self.alignment**2))) * turned
        return np.asarray(made * (self.length or lengths), np.float32)


def stand_in(found: LinearMap, status: BridgeStatus) -> StandIn:
    """Of a map and what was measured of it."""
    return StandIn(found, least_direction(found), status.alignment, status.length)


def least_direction(found: LinearMap) -> npt.NDArray[np.float32]:
    """A direction in which the map gives next to nothing, always the same one: by inverse iteration."""
    matrix, offset = found.matrix.astype(np.float64), found.offset.astype(np.float64)
    energy = matrix @ matrix.T + np.outer(offset, offset)
    energy[np.diag_indices_from(energy)] += _FLOOR * np.trace(energy) + np.finfo(np.float32).tiny
    guess = np.random.default_rng(0).standard_normal(len(energy))
    for _ in range(3):
        nearer = np.linalg.solve(energy, guess)
        guess = np.asarray(nearer / np.linalg.norm(nearer), np.float64)
    return np.asarray(guess, np.float32)


def alignment(found: LinearMap, new: Rows, old: Rows, questions: int, rest: Rows, distance: Distance) -> float:
    """How near to the map's vectors stored ones may be.

    So near that rows whose vectors are made are among the first ten of others as often as with their own.

    Args:
        found: a map that has seen none of these rows.
        new: new vectors of rows, of which the first are questions, and the others get made vectors.
        old: their old vectors.
        questions: how many are questions.
        rest: old vectors of other rows.
        distance: how the old side is searched.
    """
    asked, pool = found(new[:questions]), np.concatenate([old, rest])
    length = float(np.linalg.norm(old, axis=1).mean(dtype=np.float64))
    made, aside = new[questions:], least_direction(found)
    table = scores(asked, pool, distance)
    table[np.arange(questions), np.arange(questions)] = -np.inf  # the question itself
    places = slice(questions, len(old))

    def share() -> float:
        most = min(DEEP, table.shape[1] - 1)
        first = np.argpartition(table, -most, axis=1)[:, -most:]
        return float(((first >= questions) & (first < len(old))).mean())

    wanted = share()
    low, high = _LEAST, 1.0
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        table[:, places] = scores(asked, StandIn(found, aside, middle, length)(made), distance)
        low, high = (middle, high) if share() < wanted else (low, middle)
    return low
