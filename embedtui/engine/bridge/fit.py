"""Fits several maps on pairs of a row's new and old vector, chooses one by held-out rows, and says how good it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from embedtui.arrays import np, npt
from embedtui.engine.bridge.checks import require_pairs
from embedtui.engine.bridge.maps import Moments, Rows, identity, orthogonal, ridge, scaled
from embedtui.engine.bridge.measuring import POOL, Field
from embedtui.engine.bridge.stand_in import alignment
from embedtui.formatting import percent
from embedtui.model import Distance
from embedtui.model.bridge import BridgeFigures, BridgePoint, BridgeStatus, LinearMap

PARAMETERS = (0.03, 0.3, 1.0, 3.0)
"""Of the ridge, tried with all rows; fewer take a larger one, of which two are tried."""
HELD_OUT = (20, 500)
"""Rows that the figures are measured on, least and most: a fifth in between; half as many choose the map."""
SHUFFLED_ROWS = 4_000
"""Rows at most of the control."""
BOUND = 0.75
"""Held-out rows that have to find themselves among the first ten of POOL, as a share. On public judged queries (three
real models, every ordered pair, 200 to 1,000 rows; `benchmarks/bridge.py`) maps below it kept 30 to 50 % of the old
model's nDCG@10, those above 0.9 kept 44 to 99 %: below it, most of what was found is lost."""


Places: TypeAlias = "npt.NDArray[np.intp]"
"""Of rows among the pairs."""
Maps: TypeAlias = dict[str, tuple[float | None, LinearMap]]
"""By name, each with the ridge's parameter; None where it is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A map fitted on every pair, with the figures of one that did not see the rows held out."""

    map: LinearMap
    status: BridgeStatus


def fit(
    new: Rows,
    old: Rows,
    distance: Distance,
    *,
    others: Rows | None = None,
    first: int | None = None,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> Fitted:
    """The best map from ``new`` to ``old``, and how good it is.

    Args:
        new: the new model's vectors, a row each.
        old: the old model's vectors of the same rows, in the same order.
        distance: how the old side is searched.
        others: old vectors of other rows, to search among as well: a small sample alone would flatter the map.
        first: so many pairs, the first, a map is fitted on that serves already: rows are held out of these alone, and
            the curve begins with a map of the rest of these.
        seed: of what is held out.
        note: told what is done.

    Raises:
        Refused: the vectors cannot be what they are said to be; a map that is merely bad says so in its status.
    """
    new, old = np.asarray(new, np.float32), np.asarray(old, np.float32)
    require_pairs(new, old)
    test, tune, steps = _split(len(new), first, seed)
    train, held_out = np.concatenate(steps), np.concatenate([test, tune])
    beside = old[:0] if others is None else np.asarray(others, np.float32)
    judge = _field(old, test, np.concatenate([train, tune]), beside, distance)
    chooser = _field(old, tune, train, beside, distance)

    def best_of(maps: Maps) -> str:
        return max(maps, key=lambda name: _merit(chooser.measure(maps[name][1](new[tune]))))

    curve, moments = [], Moments.about(new[train[:POOL]], old[train[:POOL]])
    for rows in steps:
        note(f"fitting on {moments.count + len(rows):,} rows")
        moments.add(new[rows], old[rows])
        last = moments.count == len(train)
        every = last or first is not None
        ridges: Maps = {str(each): (each, ridge(moments, each)) for each in (PARAMETERS if every else PARAMETERS[1:3])}
        kinds: Maps = {"ridge": ridges[best_of(ridges)]}
        if every:
            kinds["orthogonal"] = (None, orthogonal(moments))
        chosen = best_of(kinds)
        curve.append(BridgePoint(moments.count, judge.measure(kinds[chosen][1](new[test]))))
    if (same := identity(new.shape[1], old.shape[1])) is not None:
        kinds["identity"] = (None, same)
    controls = {kind: judge.measure(found(new[test])) for kind, (_, found) in kinds.items() if kind != chosen}
    controls["shuffled"] = judge.measure(_shuffled(new, old, train, seed)(new[test]))
    figures, parameter = curve[-1].figures, kinds[chosen][0]
    refused = why_refused(figures, controls["shuffled"])
    near = alignment(kinds[chosen][1], new[held_out], old[held_out], len(test), old[train[:POOL]], distance)
    status = BridgeStatus(chosen, parameter, len(new), figures, tuple(curve), controls, refused, near, _length(old))
    moments.add(new[held_out], old[held_out])
    whole = orthogonal(moments) if parameter is None else ridge(moments, parameter)
    return Fitted(scaled(whole, _length(old) / max(_length(whole(new[held_out])), 1e-12)), status)


def is_better(found: BridgeStatus) -> bool:
    """Whether a map fitted again, with ``first`` pairs known before, is better than one of these by the same rows."""
    return _merit(found.figures) > _merit(found.curve[0].figures)


def why_refused(figures: BridgeFigures, shuffled: BridgeFigures) -> str:
    """Why such a map had better not serve; empty where nothing is against it."""
    if shuffled.recall_10.high >= max(0.5 * figures.recall_10.mean, 0.1):
        return (
            f"Pairs shuffled at random fit nearly as well ({percent(shuffled.recall_10.mean)} find themselves among the"
            " first ten): the old vectors hardly differ, and the figures say nothing."
        )
    if figures.recall_10.mean >= BOUND:
        return ""
    return (
        f"Of {figures.rows:,} rows held out {percent(figures.recall_10.mean)} find themselves among the first ten of"
        f" {figures.pool:,}; below {percent(BOUND)} a bridged search is not worth serving. The text behind the old"
        " vectors may be another one, or more rows may help."
    )


def _field(old: Rows, held: Places, rest: Places, others: Rows, distance: Distance) -> Field:
    return Field(len(held), np.concatenate([old[held], others, old[rest]])[: max(POOL, len(held) + 1)], distance)


def _split(count: int, first: int | None, seed: int) -> tuple[Places, Places, list[Places]]:
    """Rows to measure on, rows to choose by, and the rest, in steps: to a quarter, a half, all; or the first, all."""
    generator, known = np.random.default_rng(seed), first or count
    held = max(HELD_OUT[0], min(HELD_OUT[1], known // 5))
    test, tune, train = np.split(generator.permutation(known), [held, held + held // 2])
    if first is not None:
        return test, tune, [train, known + generator.permutation(count - known)]
    quarter, half = len(train) // 4, len(train) // 2
    return test, tune, [train[:quarter], train[quarter:half], train[half:]]


def _merit(figures: BridgeFigures) -> float:
    return figures.recall_1.mean + figures.recall_10.mean + figures.overlap_10.mean


def _shuffled(new: Rows, old: Rows, train: Places, seed: int) -> LinearMap:
    rows = train[:SHUFFLED_ROWS]
    others = np.random.default_rng(seed + 1).permutation(rows)
    moments = Moments.about(new[rows], old[others])
    moments.add(new[rows], old[others])
    return ridge(moments, PARAMETERS[-1])


def _length(vectors: Rows) -> float:
    return float(np.linalg.norm(vectors, axis=1).mean(dtype=np.float64))
