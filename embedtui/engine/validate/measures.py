"""Measures of a comparison as pure functions, each with its definition and where it comes from."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from embedtui.arrays import np, npt
from embedtui.model import Interval

RBO_P = 0.9
"""Persistence of :func:`rbo`: a reader goes on to the next rank with this probability; the first ten weigh 86 %."""

SEED = 20100901
"""Resampling is seeded, so that the same rankings always give the same figures."""


def overlap(old: Sequence[Hashable], new: Sequence[Hashable], k: int) -> float:
    """Share of the top k that both rankings hold, in any order: ``|old ∩ new| / k``, 0..1.

    Where a filter leaves fewer than k rows, the longer ranking's length stands for k, so that equal results are 1.
    Two empty rankings agree: 1.
    """
    size = min(k, max(len(old), len(new)))
    if size == 0:
        return 1.0
    return len(set(old[:k]) & set(new[:k])) / size


def rbo(old: Sequence[Hashable], new: Sequence[Hashable], p: float = RBO_P) -> float:
    """Rank-biased overlap, extrapolated (RBO_EXT), 0..1; agreement at the top weighs most.

    Webber, Moffat and Zobel, "A similarity measure for indefinite rankings", ACM TOIS 28(4), 2010, equation 32 (lists
    of uneven length s <= l; with s = l it is equation 30). X_d is the overlap of the first d of both::

        (1-p)/p · [ Σ_{d=1..l} X_d/d · p^d + Σ_{d=s+1..l} X_s(d-s)/(s·d) · p^d ] + [ (X_l - X_s)/l + X_s/s ] · p^l

    Two empty rankings agree (1), an empty and a filled one share nothing (0). Ranks are distinct keys.
    """
    short, long = sorted((old, new), key=len)
    s, length = len(short), len(long)
    if s == 0:
        return 1.0 if length == 0 else 0.0
    shared = [0]
    seen_short: set[Hashable] = set()
    seen_long: set[Hashable] = set()
    for depth in range(1, length + 1):
        seen_long.add(long[depth - 1])
        if depth <= s:
            seen_short.add(short[depth - 1])
        shared.append(len(seen_short & seen_long))
    total = sum(shared[d] / d * p**d for d in range(1, length + 1))
    total += sum(shared[s] * (d - s) / (s * d) * p**d for d in range(s + 1, length + 1))
    tail = (shared[length] - shared[s]) / length + shared[s] / s
    return (1 - p) / p * total + tail * p**length


def top1_kept(old: Sequence[Hashable], new: Sequence[Hashable]) -> bool:
    """Whether both rankings begin with the same row (two empty ones do)."""
    return list(old[:1]) == list(new[:1])


def ndcg(ranking: Sequence[Hashable], gains: Mapping[Any, float], k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first k, 0..1, as trec_eval's ``ndcg_cut_k``.

    Järvelin and Kekäläinen, ACM TOIS 20(4), 2002, in trec_eval's convention: the gain is the judged value itself (not
    2^value - 1), the discount of rank r is 1/log2(r + 1), rows without a judgment gain 0, and the ideal ranking is
    made of all judged rows. 0 where nothing is judged relevant.
    """
    ideal = sum(g / math.log2(r + 1) for r, g in enumerate(sorted(_positive(gains).values(), reverse=True)[:k], 1))
    if ideal == 0:
        return 0.0
    return sum(max(gains.get(key, 0.0), 0.0) / math.log2(r + 1) for r, key in enumerate(ranking[:k], 1)) / ideal


def recall(ranking: Sequence[Hashable], gains: Mapping[Any, float], k: int = 10) -> float:
    """Relevant rows among the first k / all relevant rows, as trec_eval's ``recall_k``; relevant is a gain above 0."""
    relevant = _positive(gains)
    if not relevant:
        return 0.0
    return sum(key in relevant for key in ranking[:k]) / len(relevant)


def reciprocal_rank(ranking: Sequence[Hashable], gains: Mapping[Any, float], k: int = 10) -> float:
    """1 / rank of the first relevant row among the first k, else 0; its mean over queries is the MRR.

    Voorhees, "The TREC-8 Question Answering Track Report", 1999; trec_eval's ``recip_rank`` on a run cut at k.
    """
    relevant = _positive(gains)
    return next((1 / rank for rank, key in enumerate(ranking[:k], 1) if key in relevant), 0.0)


def index_recall(exact: Sequence[float], served: Sequence[float], k: int) -> float:
    """Share of the true k nearest that an index returned, told by distance: 0..1.

    A served row counts where it is no farther than the k-th exact one (as ann-benchmarks has it; Aumüller, Bernhardsson
    and Faithfull, Information Systems 87, 2020): told by keys, duplicates that tie at the cut would be laid at the
    index's door. The tolerance is what single precision leaves of a distance. 1 where there is nothing to find.
    """
    wanted = exact[:k]
    if not wanted:
        return 1.0
    bound = max(wanted) + 1e-5 * max(1.0, abs(max(wanted)))
    return min(1.0, sum(distance <= bound for distance in served[:k]) / len(wanted))


def mean(values: Iterable[float]) -> float | None:
    """Arithmetic mean; None without values."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def histogram(values: Sequence[float], bins: int = 10) -> tuple[int, ...]:
    """Counts of values from 0 to 1 in equal bins; 1 belongs to the last."""
    counts = [0] * bins
    for value in values:
        # 0.3 is 0.299… as a float quotient: without the nudge it would fall into the bin below
        counts[min(bins - 1, int(value * bins + 1e-9))] += 1
    return tuple(counts)


def percentile(values: Sequence[float], percent: float) -> float:
    """Percentile by linear interpolation; values must not be empty."""
    return float(np.percentile(np.asarray(values, dtype=float), percent))


def bootstrap(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 4000, seed: int = SEED
) -> Interval | None:
    """Mean with its bootstrap percentile interval over queries; None where there are no values.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13. Given per-query differences it is the
    paired interval. Memory is bounded: resamples are drawn in blocks of about a million indices.
    """
    if not values:
        return None
    data = np.asarray(values, dtype=float)
    generator = np.random.default_rng(seed)
    block = max(1, 1_000_000 // len(data))
    means: list[npt.NDArray[np.float64]] = []
    for start in range(0, resamples, block):
        size = (min(block, resamples - start), len(data))
        means.append(data[generator.integers(0, len(data), size)].mean(axis=1))
    tail = 50 * (1 - confidence)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Interval(float(data.mean()), float(low), float(high))


def randomisation_test(differences: Sequence[float], *, resamples: int = 10_000, seed: int = SEED) -> float | None:
    """Two-sided p of a paired randomisation test on the mean difference; None without values.

    Under the null hypothesis the two systems' labels may be swapped per query, which flips a difference's sign
    (Smucker, Allan and Carterette, CIKM 2007). The observed labelling counts as one of the draws, so p is never 0
    (Phipson and Smyth, 2010).
    """
    if not differences:
        return None
    data = np.asarray(differences, dtype=float)
    # queries without a difference add nothing to any sum
    data = data[data != 0]
    if not len(data):
        return 1.0
    generator = np.random.default_rng(seed)
    observed = abs(float(data.sum()))
    block = max(1, 1_000_000 // len(data))
    extreme = 0
    for start in range(0, resamples, block):
        signs = generator.integers(0, 2, (min(block, resamples - start), len(data)), dtype=np.int8) * 2 - 1
        extreme += int(np.count_nonzero(np.abs(signs @ data) >= observed - 1e-12))
    return (extreme + 1) / (resamples + 1)


def _positive(gains: Mapping[Any, float]) -> dict[Any, float]:
    return {key: gain for key, gain in gains.items() if gain > 0}
