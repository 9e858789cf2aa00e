"""What pairs of vectors have to be before a map is fitted on them: each refusal says what was seen."""

from __future__ import annotations

from embedtui.arrays import np, npt
from embedtui.engine.bridge.maps import Moments, Rows, ridge
from embedtui.errors import Refused
from embedtui.formatting import percent
from embedtui.model.bridge import LinearMap

LEAST_ROWS = 100
"""Fewer leave a held-out part too small to say anything."""
LEAST_DIFFERENT = 0.5
"""Share of vectors that have to be different from all others: fewer, and most rows cannot be told apart."""

_PARTS = 64
"""Directions of largest variance that two models in one column are looked for in: most of what a map can tell."""
_ROWS = 4_000
"""Rows at most that they are looked for in."""
_ROUNDS = 6
_GAIN = 0.05
"""Share of the old vectors' variance that two maps have to explain beyond one, on dimensions that did not decide which
row belongs to which. One model's rows gain nothing there but chance (below 0.04 in the tests); two real models in one
column, a tenth or more of the rows the other one's, gave 0.06 to 0.20."""
_SHARE = 0.05
"""A model of fewer rows than this is not told from noise."""


def require_pairs(new: Rows, old: Rows) -> None:
    """Refuse what no map can be fitted on.

    Raises:
        Refused: too few rows, numbers that are none, vectors that are all the same, or an old column of two models.
    """
    if new.ndim != 2 or old.ndim != 2 or len(new) != len(old):
        raise Refused(
            f"{len(new):,} new vectors and {len(old):,} old ones are no pairs, or their dimensions differ by row.",
        )
    if len(new) < LEAST_ROWS:
        raise Refused(
            f"{len(new):,} rows have both an old and a new vector: a bridge needs {LEAST_ROWS:,} at the least.",
            hint="Embed the table with the new model: so few rows take seconds.",
        )
    for name, vectors in (("new", new), ("old", old)):
        broken = int((~np.isfinite(vectors)).any(axis=1).sum())
        if broken:
            raise Refused(
                f"{broken:,} of {len(vectors):,} {name} vectors hold numbers that are none (NaN or infinite)."
            )
        different = len({hash(vector.tobytes()) for vector in vectors})
        if different < LEAST_DIFFERENT * len(vectors):
            raise Refused(
                f"{len(vectors):,} rows have {different:,} different {name} vectors: too few to tell the rows apart.",
                hint=f"Are the {name} vectors those of the rows' own texts?",
            )
    gain, share = two_models(new, old)
    if gain > _GAIN:
        raise Refused(
            f"The old column seems to hold vectors of two models: about {percent(share)} of the rows follow a map of"
            f" their own (two maps explain {percent(gain)} more of what differs than one).",
            hint="Migrate them apart, or embed the table anew: no single map serves both.",
        )


def two_models(new: Rows, old: Rows, seed: int = 0) -> tuple[float, float]:
    """What two maps explain beyond one, as a share of the variance, and the share of rows of the smaller group.

    Rows are told apart by one half of the dimensions, and what that explains is measured on the other half: rows of one
    model gain nothing by it, whatever noise they are split by.
    """
    chosen = np.random.default_rng(seed).permutation(len(new))[:_ROWS]
    x, y = _principal(new[chosen], len(chosen) // 8), _principal(old[chosen], len(chosen) // 8)
    decide, tell = y[:, ::2], y[:, 1::2]
    if tell.shape[1] == 0:
        return 0.0, 0.0
    total = float((tell**2).sum())
    one = _left(x, tell, np.ones(len(x), bool))
    best = (0.0, 0.0)
    # begun with what one map fits worst, and with halves along the largest differences
    worst = ((decide - _fit(x, decide)(x)) ** 2).sum(axis=1)
    begins = [worst > np.quantile(worst, 0.8)]
    begins += [column > np.median(column) for column in decide.T[:3]]
    for group in begins:
        for _ in range(_ROUNDS):
            maps = [_fit(x[part], decide[part]) for part in (group, ~group)]
            errors = [((decide - each(x)) ** 2).sum(axis=1) for each in maps]
            group = errors[0] < errors[1]
            if min(group.mean(), 1 - group.mean()) < _SHARE:
                break
        share = float(min(group.mean(), 1 - group.mean()))
        if share < _SHARE:
            continue
        two = _left(x, tell, group) + _left(x, tell, ~group)
        best = max(best, ((one - two) / total, share))
    return best


def _principal(vectors: Rows, most: int) -> Rows:
    """The vectors, centred, in their directions of largest variance."""
    centred = vectors - vectors.mean(axis=0)
    count = max(2, min(_PARTS, most, centred.shape[1]))
    # by random directions, turned towards the large ones a few times: a decomposition of the whole takes minutes
    guess = np.random.default_rng(0).standard_normal((min(count + 16, centred.shape[1]), centred.shape[1]))
    for _ in range(4):
        guess = np.linalg.qr((centred.T @ (centred @ guess.T.astype(np.float32))).astype(np.float64))[0].T
    part = centred @ guess.T.astype(np.float32)
    _, directions = np.linalg.eigh((part.T @ part).astype(np.float64))
    found: Rows = (part @ directions[:, ::-1][:, :count]).astype(np.float32)
    return found


def _fit(x: Rows, y: Rows) -> LinearMap:
    moments = Moments.about(x, y)
    moments.add(x, y)
    return ridge(moments, 0.1)


def _left(x: Rows, y: Rows, group: npt.NDArray[np.bool_]) -> float:
    """Squared error that is left over, of rows that the map has not seen: fitted on one half, measured on the other."""
    rows = np.flatnonzero(group)
    halves = (rows[::2], rows[1::2])
    return sum(
        float(((y[seen] - _fit(x[other], y[other])(x[seen])) ** 2).sum()) for seen, other in (halves, halves[::-1])
    )
