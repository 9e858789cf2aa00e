"""One query's two rankings side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from embedtui.engine.validate import measures
from embedtui.model import Key, QueryComparison, RankedRow, Side
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


def rank(found: SearchedQuery, texts: Mapping[Key, str], k: int) -> QueryComparison:
    """The first ``k`` of both rankings with each row's text and its rank on the other side."""
    query = found.query.query
    keys = {side: [key for key, _ in found.rankings[side][:k]] for side in Side}
    ranks = {side: {key: rank for rank, key in enumerate(of_side, 1)} for side, of_side in keys.items()}

    def rows(side: Side) -> tuple[RankedRow, ...]:
        missed = found.missed.get(side, set())
        return tuple(
            RankedRow(
                key, rank, distance, texts.get(key, ""), ranks[side.other].get(key), key in missed, key not in texts
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
