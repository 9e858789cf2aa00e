"""One query's two rankings side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from embedtui.engine.validate import measures
from embedtui.model import Key, QueryComparison, RankedRow, Side
from embedtui.postgres.sides.hits import Hit
from embedtui.postgres.state.queries import StoredQuery


@dataclass(frozen=True, slots=True)
class SearchedQuery:
    """What both searches of a query found, and what was measured of it."""

    query: StoredQuery
    rankings: Mapping[Side, Sequence[tuple[Key, float]]]
    """Key and distance, nearest first."""
    missed: Mapping[Side, set[Key]] = field(default_factory=dict)
    """Exact results that the side's index did not return."""
    ndcg: Mapping[Side, float | None] = field(default_factory=dict)
    index_recall: float | None = None


def ranked(
    key: Key,
    rank: int,
    distance: float,
    hits: Mapping[Key, Hit],
    compared: Mapping[Key, int],
    *,
    other_rank: int | None,
    missed: bool = False,
) -> RankedRow:
    """A result as its row is now; ``compared`` are the fingerprints of contents as they were, where that is known."""
    hit = hits.get(key)
    if hit is None:
        return RankedRow(key, rank, distance, "", other_rank, missed, deleted=True, fingerprint=compared.get(key))
    then = compared.get(key, hit.fingerprint)
    return RankedRow(
        key,
        rank,
        distance,
        hit.text,
        other_rank,
        missed,
        title=hit.title,
        fingerprint=then,
        edited=then != hit.fingerprint,
    )


def rank(
    found: SearchedQuery, hits: Mapping[Key, Hit], k: int, compared: Mapping[Key, int] | None = None
) -> QueryComparison:
    """The first ``k`` of both rankings with each row's text and its rank on the other side; see :func:`ranked`."""
    query = found.query.query
    keys = {side: [key for key, _ in found.rankings[side][:k]] for side in Side}
    ranks = {side: {key: rank for rank, key in enumerate(of_side, 1)} for side, of_side in keys.items()}

    def rows(side: Side) -> tuple[RankedRow, ...]:
        missed = found.missed.get(side, set())
        return tuple(
            ranked(
                *(key, rank, distance, hits, compared or {}),
                other_rank=ranks[side.other].get(key),
                missed=key in missed,
            )
            for rank, (key, distance) in enumerate(found.rankings[side][:k], 1)
        )

    return QueryComparison(
        query_id=found.query.id,
        text=query.text,
        old=rows(Side.OLD),
        new=rows(Side.NEW),
        overlap=measures.overlap(keys[Side.OLD], keys[Side.NEW], k),
        rbo=measures.rbo(keys[Side.OLD], keys[Side.NEW]),
        top1_kept=measures.top1_kept(keys[Side.OLD], keys[Side.NEW]),
        relevant=tuple(key for key, gain in dict(query.relevant).items() if gain > 0),
        ndcg_old=found.ndcg.get(Side.OLD),
        ndcg_new=found.ndcg.get(Side.NEW),
        row=query.row,
        index_recall=found.index_recall,
    )
