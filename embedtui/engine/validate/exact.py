"""Exact nearest rows of many queries at once, by reading both sides' vectors a single time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from psycopg import sql

from embedtui.arrays import np, npt
from embedtui.model import Distance, Key, Migration, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.protocol import Vectors
from embedtui.postgres.sides.stream import copy_sql, keys_of, places_of, read_records, row_record

Ranking = list[tuple[Key, float]]
"""Key and distance, nearest first."""

# Equal vectors have equal distances up to this many decimals; ties are then broken by key.
_DECIMALS = 9

# Candidates kept beyond the depth for ties at the cut; among more equal rows than these the choice is arbitrary.
_TIES = 200


class Nearest:
    """The nearest rows of many queries among vectors that come in blocks; memory is bounded by queries x candidates.

    A matrix product in single precision finds candidates, double precision orders them.
    """

    def __init__(self, distance: Distance, queries: Vectors, depth: int) -> None:
        """Begin with no candidates.

        Args:
            distance: how rows are ordered.
            queries: query vectors (n, d).
            depth: rows to find for each.
        """
        self._distance, self._depth = distance, depth
        self._queries = queries.astype(np.float64)
        self._norms = np.linalg.norm(self._queries, axis=1)
        if distance is Distance.COSINE:
            self._queries /= np.where(self._norms > 0, self._norms, np.nan)[:, None]
        self._single = self._queries.astype(np.float32)
        self._bounds = np.full(len(queries), np.inf)
        self.distances = [np.empty(0) for _ in queries]
        """Per query, nearest first; what ties with the last one is kept too."""
        self.places = [np.empty(0, np.uint64) for _ in queries]

    def add(self, vectors: Vectors, places: npt.NDArray[np.uint64]) -> None:
        """Take in a block: vectors (n, d) and a number to know each by."""
        norms = np.linalg.norm(vectors, axis=1)
        longest = float(norms.max(initial=0.0))
        scores = -(self._single @ vectors.T)
        scale = self._norms * longest
        if self._distance is Distance.COSINE:
            # as in pgvector, the distance to a zero vector is NaN, which is nobody's neighbour
            scores /= np.where(norms > 0, norms, np.nan)
            scale = np.ones(len(self._norms))
        elif self._distance is Distance.L2:
            scores = 2 * scores + norms**2
            scale = 2 * scale + longest**2
        limits = self._bounds
        if len(vectors) > self._depth:
            limits = np.fmin(limits, np.partition(scores, self._depth - 1, axis=1)[:, self._depth - 1])
        # single precision errs by some 1e-7 of the terms' size; a hundred times that is sure to keep the true ones
        near = scores <= (limits + 1e-5 * scale)[:, None]
        for query in np.flatnonzero(near.any(axis=1)):
            self._merge(int(query), vectors[near[query]], places[near[query]])

    def _merge(self, query: int, vectors: Vectors, places: npt.NDArray[np.uint64]) -> None:
        rows, wanted = vectors.astype(np.float64), self._queries[query]
        match self._distance:
            case Distance.COSINE:
                exact = 1 - (rows * wanted).sum(axis=1) / np.linalg.norm(rows, axis=1)
            case Distance.L2:
                exact = np.linalg.norm(rows - wanted, axis=1)
            case Distance.INNER_PRODUCT:
                exact = -(rows * wanted).sum(axis=1)
        distances = np.concatenate([self.distances[query], np.round(exact, _DECIMALS)])
        order = np.argsort(distances, kind="stable")[: self._depth + _TIES]
        distances = distances[order]
        if len(order) >= self._depth:
            last = float(distances[self._depth - 1])
            order, distances = order[distances <= last], distances[distances <= last]
            self._bounds[query] = {
                Distance.COSINE: last - 1,
                Distance.L2: last**2 - self._norms[query] ** 2,
                Distance.INNER_PRODUCT: last,
            }[self._distance]
        self.distances[query] = distances
        self.places[query] = np.concatenate([self.places[query], places])[order]


def read_nearest(
    conn: Connection,
    migration: Migration,
    vectors: Mapping[Side, Vectors],
    *,
    depth: int,
    leave_out: Sequence[Key | None],
    where: sql.Composable | None,
    casts: Mapping[Side, str] | None = None,
    timeout: float,
    step: Callable[[int], None],
) -> list[dict[Side, Ranking]]:
    """Exact rankings of both sides for every query, among rows that have both vectors.

    Both vectors of every row cross the wire once, in binary, a block at a time in memory; then hundreds of queries
    cost little more than one (300 queries, 5,000 rows, 768 dimensions, two busy cores: 1 s, beside 58 s for 600 exact
    searches in SQL). One transaction is open meanwhile, no longer than ``timeout``.

    Args:
        conn: connection in autocommit.
        migration: the migration as stored.
        vectors: query vectors of each side (n, d).
        depth: results per query.
        leave_out: per query the key of the row that is the query itself, or None.
        where: filter on the user's table, unescaped.
        casts: the type that a side's index casts its vectors to: nearest is what a search of it takes for it.
        timeout: seconds.
        step: told the rows read so far; may raise to give up.

    Raises:
        psycopg.errors.QueryCanceled: it took longer than ``timeout``.
    """
    # a row that is a query comes out as its own nearest
    deeper = depth + any(key is not None for key in leave_out)
    casts = casts or {}
    nearest = {side: Nearest(migration.distance, _rounded(vectors[side], casts, side), deeper) for side in Side}
    record = row_record(migration, casts)
    leaves: dict[int, int] = {}
    read = 0
    with conn.transaction():
        # rows are known by their place, which means the same row only within one snapshot
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        conn.execute("SELECT set_config('statement_timeout', %s, true)", [f"{max(1, int(timeout * 1000))}ms"])
        with conn.cursor().copy(copy_sql(conn, migration, where, casts)) as copy:
            for block in read_records(copy, record):
                read += len(block)
                step(read)
                for side in Side:
                    nearest[side].add(block[side.value].astype(np.float32), places_of(block, leaves))
        wanted = {place for side in Side for found in nearest[side].places for place in found.tolist()}
        keys = keys_of(conn, migration, leaves, wanted)
    return [
        {
            side: _ranking(nearest[side].distances[number], nearest[side].places[number], keys, left_out)[:depth]
            for side in Side
        }
        for number, left_out in enumerate(leave_out)
    ]


def _rounded(vectors: Vectors, casts: Mapping[Side, str], side: Side) -> Vectors:
    """Query vectors as a search casts them."""
    return vectors.astype(np.float16).astype(np.float32) if casts.get(side) == "halfvec" else vectors


def _ranking(
    distances: npt.NDArray[np.float64], places: npt.NDArray[np.uint64], keys: Mapping[int, Key], leave_out: Key | None
) -> Ranking:
    ranked = sorted(zip(distances.tolist(), (keys[place] for place in places.tolist()), strict=True))
    return [(key, distance) for distance, key in ranked if key != leave_out]
