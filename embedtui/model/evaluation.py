"""Comparisons of the two sides, and the figures made of them."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from embedtui.errors import SettingsError
from embedtui.model.migration import Key
from embedtui.model.plan import Check
from embedtui.model.words import Side

EXACT, SERVED = "exact", "as served"
"""How figures and rankings were searched, in words: users are served by an index, which loses some of the results."""


@dataclass(frozen=True, slots=True)
class RankedRow:
    """One result of a search."""

    key: Key
    rank: int
    """From 1."""
    distance: float
    text: str
    """Content of the row, untrusted: show as plain text."""
    other_rank: int | None = None
    """Rank on the other side's top-k; None where it entered (new side) or left (old side)."""
    missed: bool = False
    """An exact result that the side's index did not return."""
    deleted: bool = False
    """The row is gone since the search; its text is empty."""
    title: str = ""
    """What the table calls the row, where a column does; untrusted, too."""
    fingerprint: int | None = None
    """Of the content that was compared; None where that is not known."""
    edited: bool = False
    """Its content is another one since the comparison: the text is the present one, the place that of the earlier."""


@dataclass(frozen=True, slots=True)
class QueryComparison:
    """Old and new top-k of one query."""

    query_id: int
    text: str
    old: tuple[RankedRow, ...]
    new: tuple[RankedRow, ...]
    overlap: float
    """Shared keys / k, 0..1."""
    rbo: float
    top1_kept: bool
    relevant: tuple[Key, ...] = ()
    """Keys judged relevant, where judgments exist."""
    ndcg_old: float | None = None
    ndcg_new: float | None = None
    verdict: str = ""
    """``new``, ``old``, ``same``, ``bad`` or empty: the operator's."""
    note: str = ""
    """The operator's note to the verdict."""
    verdict_by: str = ""
    """Who gave it, where that is another operator."""
    row: Key | None = None
    """Set where a row of the table is the query."""
    index_recall: float | None = None
    """Share of the exact new top-k that the new side's index returned; None where not measured."""
    old_unknown: str = ""
    """Why the old side could not be searched; empty where it was. With a ``bridged`` ranking the figures, and the
    ranks on the new side, are beside that one."""
    bridged: tuple[RankedRow, ...] = ()
    """What the new model's query finds in the old column, through the bridge; never the old model's own results."""
    ndcg_bridged: float | None = None

    @property
    def only_bridged(self) -> bool:
        """Whether the old column was searched through the bridge alone: the old model made no vector."""
        return bool(self.bridged and self.old_unknown)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an operator decided about a query."""

    verdict: str
    """``new``, ``old``, ``same`` or ``bad``."""
    note: str | None
    """To store, None leaves the note as it is."""
    who: str


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One setting of the new side's index: what it finds and what it takes."""

    setting: str
    """``hnsw.ef_search`` or ``ivfflat.probes``."""
    value: int
    recall: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class SeenState:
    """What a comparison saw of the table: enough to tell later, without a scan, whether it has moved."""

    rows: int
    """Rows, those with nothing to embed included."""
    both: int
    """Rows with an old and a new vector: those that were compared."""
    one_sided: int
    """Rows with one vector only: left out."""
    digest: int
    """Changes with any write to any row."""
    heaps: str
    """Changes when the table is truncated or rewritten."""
    old_model: int
    new_model: int
    index: str
    """Name of the new side's approximate index, empty without one."""
    index_identity: str
    """Changes when that index is dropped, built again or becomes invalid."""
    inserted: int
    """The server's counters of the table."""
    updated: int
    deleted: int
    captured: bool
    """Change capture was installed: the queue then tells updates better than the counters."""
    queue_position: int
    synced: int
    backfilled: int
    """Rows written by the backfill."""
    request: str
    """Digest of what was asked: queries, judgments, k, filter."""
    bridge: int = 0
    """Version of the bridge that served; 0: none."""


@dataclass(frozen=True, slots=True)
class BridgedMeasures:
    """Figures of real queries through the bridge, beside the old model where its vectors are known, and the new one."""

    version: int
    """Of the map."""
    queries: int
    only: int
    """Of these, those of which the old model made no vector: they are in no other figure."""
    overlap_old: Interval | None = None
    """Of the old model's own results, those found; where its vectors are known."""
    overlap_new: Interval | None = None
    judged: int = 0
    ndcg: Interval | None = None
    ndcg_new: Interval | None = None
    """Of the same queries on the new side."""
    ndcg_difference: Interval | None = None
    p_value: float | None = None
    searched: str = EXACT
    """How, in words; the figures that the bridge has of its own are as served."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Figures over all queries of a comparison; None where unknown."""

    queries: int
    k: int
    overlap: Interval
    rbo: Interval
    top1_kept: float
    low_overlap: int
    histogram: tuple[int, ...]
    """Counts of overlap@k in ten bins from 0 to 1."""
    judged: int = 0
    """Queries with judgments."""
    judged_moved: str = ""
    """How many judged rows have been edited or deleted since their judgments were first counted; empty where none."""
    ndcg_old: Interval | None = None
    ndcg_new: Interval | None = None
    ndcg_difference: Interval | None = None
    recall_old: Interval | None = None
    recall_new: Interval | None = None
    mrr_old: Interval | None = None
    mrr_new: Interval | None = None
    p_value: float | None = None
    """Paired randomisation test on nDCG."""
    model_overlap: float | None = None
    """Exact old against exact new: what the model changed."""
    index_recall: float | None = None
    """Exact new against index new: what the index lost."""
    index_recall_old: float | None = None
    """Exact old against index old."""
    basis: str = "exact"
    """What rankings and figures were made of: ``exact`` search, or ``served`` where that could not be had."""
    exact_queries: int = 0
    """Queries for which exact search was made."""
    ndcg_served: Interval | None = None
    """nDCG@10 of the new side as its index serves it; what it is below ``ndcg_new`` is the index's loss. None where
    not all judged queries were searched as served."""
    ndcg_served_old: Interval | None = None
    """The same of the old side."""
    sweep: tuple[SweepPoint, ...] = ()
    """Recall against latency of the new side's index, made when the index is the culprit."""
    latency_old_ms: tuple[float, float] | None = None
    """(p50, p95)"""
    latency_new_ms: tuple[float, float] | None = None
    wins_new: int = 0
    """Operators' verdicts."""
    wins_old: int = 0
    verdict_p: float | None = None
    """Two-sided sign test on the verdicts."""
    unknown: tuple[str, ...] = ()
    """What could not be known, and why."""
    bridged: BridgedMeasures | None = None
    """While a bridge serves."""

    @property
    def searched(self) -> str:
        """How both sides were searched for the figures, in words."""
        return EXACT if self.basis == "exact" else SERVED


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison as made: every query's two rankings, and the figures. Lowest overlap first."""

    k: int
    queries: tuple[QueryComparison, ...]
    measures: Measures
    partial: bool = False
    """Made before every row had both vectors."""
    evaluation_id: int | None = None
    verdict: str = ""
    checks: tuple[Check, ...] = ()
    at: datetime | None = None
    seen: SeenState | None = None
    where: str = ""
    """The application's filter, as given."""
    forgotten: int = 0
    """Queries that the figures count and that are kept no longer."""
    judged_rows: tuple[tuple[Key, int, int], ...] = ()
    """Judged rows with the fingerprint of their content when their judgments were first counted, and that of these."""

    def distances(self, side: Side) -> tuple[float, float] | None:
        """Median distances of the first and of the last result; None where nothing was found."""
        rankings = [query.old if side is Side.OLD else query.new for query in self.queries]
        found = [ranking for ranking in rankings if ranking]
        if not found:
            return None
        return median(ranking[0].distance for ranking in found), median(ranking[-1].distance for ranking in found)


@dataclass(frozen=True, slots=True)
class QueryInput:
    """A query to compare with."""

    text: str
    relevant: tuple[tuple[Key, float], ...] = ()
    """(key, gain)"""
    row: Key | None = None
    """Set where a row of the table is the query: its own vectors serve, itself left out."""
    vector: tuple[float, ...] = ()
    """The old model's vector where the query log kept it."""


MIN_JUDGED = 30
"""Judged queries from which judgments decide; with fewer, overlap and verdicts do."""
_QUERY_FILES = (".txt", ".csv", ".tsv", ".jsonl", ".ndjson")


def query_file(given: str) -> Path | None:
    """The file of queries that ``given`` names; None where it names none.

    Raises:
        SettingsError: it looks like a path (one word with a slash or a known suffix) and is no file: a path mistyped
            must not become a query.
    """
    lines = given.strip().splitlines()
    if len(lines) != 1:
        return None
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # too long for a name, nobody's home, a NUL
        path = Path(lines[0]).expanduser()
        if path.is_file():
            return path
    if len(lines[0].split()) == 1 and ("/" in lines[0] or lines[0].lower().endswith(_QUERY_FILES)):
        raise SettingsError(f"No such file: {lines[0]}.", hint="A query that looks like a path needs a second word.")
    return None


def sign_test(wins: int, losses: int) -> float | None:
    """Two-sided exact sign test (ties left out): probability of a split at least as uneven by tossing a coin.

    Conover, "Practical Nonparametric Statistics", 1999, section 3.4. None without any win or loss.
    """
    n = wins + losses
    if n == 0:
        return None
    tail = sum(math.comb(n, i) for i in range(min(wins, losses) + 1))
    return min(1.0, float(2 * tail / 2**n))
