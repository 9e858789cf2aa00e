"""Old against new: both top-k of every query, and the loss split into what the model and what the index changed."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from embedtui.engine.validate import measures
from embedtui.engine.validate.evaluation import (
    ApproximateIndex,
    approximate_index,
    observe,
    ranked_query,
    remembered,
    texts,
    with_verdicts,
)
from embedtui.engine.validate.exact import Ranking, Vectors, read_nearest
from embedtui.engine.validate.queries import (
    StoredQuery,
    Vector,
    from_rows,
    keys_sql,
    load,
    load_vectors,
    row_vectors,
    store,
    store_vectors,
)
from embedtui.errors import Interrupted, NotClean
from embedtui.formatting import counted
from embedtui.model import (
    Comparison,
    EmbeddingModel,
    IndexMethod,
    Interval,
    Key,
    Measures,
    Migration,
    QueryComparison,
    QueryInput,
    SeenState,
    Side,
    SweepPoint,
)
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.placement import key_join_sql, new_side, relation
from embedtui.postgres.sides.search import search_sql
from embedtui.providers.base import Embedder, ProviderFault

Connect = Callable[[], Connection]
"""Opens a connection in autocommit; who opens it closes it."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many of how many; must return at once."""

LOW_OVERLAP = 0.3
"""Below this overlap@k a query counts as low: fewer than three of ten results kept."""

JUDGED_DEPTH = 10
"""Depth of the judged measures, whatever k is shown."""

EXACT_BYTES = 2 << 30
"""Tables up to this size (TOAST included) are read once for exact search; beyond, a sample of queries is searched."""

EXACT_SAMPLE = 50
"""Queries of that sample."""

ROWS = 100
"""Rows taken as queries where none are given."""

SWEEP_BELOW = 0.95
"""Index recall below which the index's setting is swept."""

SWEEP_QUERIES = 50

SERVED_ENOUGH = 100
"""Queries whose served results tell an index's recall well enough where exact ones are known: a thousand places."""

SERVED_SECONDS = 4.0
"""After these no more than that are searched as served."""

BATCH = 256
"""Query texts per request."""


def compare(
    connect: Connect,
    migration: Migration,
    queries: Sequence[QueryInput] | None = None,
    *,
    k: int = 10,
    embedders: Mapping[Side, Embedder | None] | None = None,
    where: str = "",
    source: str = "",
    iterative_scan: str = "",
    exact_timeout: float = 60.0,
    exact_bytes: int = EXACT_BYTES,
    replica: Connect | None = None,
    again: bool = False,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Comparison:
    """Compare both sides over queries; lowest overlap first.

    Query vectors that are not kept yet are embedded and kept. Where the old model does not answer, its queries without
    a kept vector are left out, and rows of the table stand in if none remain; ``Measures.unknown`` says so. Rows with
    one vector only (a backfill under way) are left out on both sides, and the comparison is then ``partial``. Asked the
    same of a table that no write has touched since it was recorded, the recorded comparison is returned.

    Args:
        connect: opens connections to the primary.
        migration: the migration as stored.
        queries: None takes the kept ones: real queries before rows; without any, rows are drawn.
        k: results per query.
        embedders: per side; None where the model is not to be asked (retired).
        where: the application's filter on its table, trusted SQL; part of both searches.
        source: where the queries come from, kept with them.
        iterative_scan: as the application searches, see :func:`embedtui.postgres.search.search_sql`.
        exact_timeout: seconds that exact search, and search by index, may each take.
        exact_bytes: largest table that is read once for exact search.
        replica: opens connections for all searching, to spare the primary.
        again: measure even if the recorded comparison is still that of this state.
        progress: told of each step.
        stop: set it to give up between two steps; what was embedded is kept.

    Raises:
        Interrupted: ``stop`` was set.
        ProviderError: the new model does not answer.
        NotClean: no row has both vectors, or no query can be compared.
    """
    run = _Run(
        migration=migration,
        k=k,
        where=sql.SQL(where) if where.strip() else None,
        iterative_scan=iterative_scan,
        timeout=exact_timeout,
        progress=progress or (lambda what, done, total: None),
        stop=stop or threading.Event(),
    )
    with connect() as conn:
        asked = _ask(conn, migration, queries, source)
        seen = observe(conn, migration, where=run.where, request=_digest(asked, k, where, iterative_scan))
        if not again and (known := remembered(conn, migration, seen)) is not None:
            return known
        if seen.both == 0:
            raise NotClean(
                f"No row of {migration.table} has both an old and a new vector.",
                hint="Let the backfill run first, or look at the filter.",
            )
        usable, vectors, unknown = _query_vectors(conn, run, asked, embedders or {})
    with (replica or connect)() as conn:
        exact = _exact(conn, run, usable, vectors, exact_bytes, unknown)
        served, taken, indexes = _served(
            conn, run, usable, vectors, both=seen.one_sided > 0, all_exact=len(exact) == len(usable), unknown=unknown
        )
        sweep = _sweep(conn, run, usable, vectors, exact, served, indexes.get(Side.NEW))
    if (searched := indexes.get(Side.NEW)) is not None:
        # a build that ended since it was observed: what was measured is this index
        seen = replace(seen, index=searched.name, index_identity=searched.identity)
    with connect() as conn:
        comparison = _put_together(conn, run, seen, usable, exact, served, taken, indexes, sweep, unknown)
        return with_verdicts(conn, replace(comparison, where=where))


def ad_hoc(
    connect: Connect,
    migration: Migration,
    text: str,
    *,
    k: int = 10,
    embedders: Mapping[Side, Embedder | None],
    where: str = "",
    iterative_scan: str = "",
) -> QueryComparison:
    """Both sides' results of a typed query, as served; nothing is kept.

    The old side stays empty, with the reason, where its model does not answer.

    Raises:
        ProviderError: the new model does not answer.
    """
    filtered = sql.SQL(where.replace("%", "%%")) if where.strip() else None
    found: dict[Side, Ranking] = {Side.OLD: [], Side.NEW: []}
    vectors: dict[Side, Vector] = {}
    old_unknown = ""
    for side, embedder in embedders.items():
        if embedder is None:
            old_unknown = f"{migration.old_model.name} cannot be asked"
            continue
        try:
            vectors[side] = embedder.embed([text], kind="query").vectors[0]
        except ProviderFault as fault:
            if side is Side.NEW:
                raise
            old_unknown = f"{migration.old_model.name} does not answer: {fault.reason}"
    with connect() as conn:
        for side, vector in vectors.items():
            statement = search_sql(migration, side, where=filtered, iterative_scan=iterative_scan)
            rows = conn.execute(statement, {"vector": _literal(vector), "k": k})
            found[side] = [(tuple(key), distance) for key, distance in rows]
        contents = texts(conn, migration, [key for ranking in found.values() for key, _ in ranking])
    ranked = ranked_query(
        0,
        text,
        found[Side.OLD],
        found[Side.NEW],
        contents,
        k,
        missed={side: set() for side in Side},
        gains={},
        row=None,
        ndcg_old=None,
        ndcg_new=None,
        index_recall=None,
    )
    return replace(ranked, old_unknown=old_unknown)


@dataclass(frozen=True, slots=True)
class _Run:
    """What every step of one comparison needs."""

    migration: Migration
    k: int
    where: sql.Composable | None
    iterative_scan: str
    timeout: float
    progress: Progress
    stop: threading.Event

    @property
    def depth(self) -> int:
        return max(self.k, JUDGED_DEPTH)

    def step(self, what: str, done: int, total: int) -> None:
        if self.stop.is_set():
            raise Interrupted("The comparison was stopped; query vectors made so far are kept.")
        self.progress(what, done, total)


# -------------------------------------------------------------------------------------------------------- queries


def _ask(
    conn: Connection, migration: Migration, queries: Sequence[QueryInput] | None, source: str
) -> tuple[StoredQuery, ...]:
    if queries:
        return load(conn, migration, store(conn, migration, queries, source))
    kept = load(conn, migration)
    real = tuple(query for query in kept if query.query.row is None)
    return real or kept or _rows_as_queries(conn, migration)


def _rows_as_queries(conn: Connection, migration: Migration) -> tuple[StoredQuery, ...]:
    return load(conn, migration, store(conn, migration, from_rows(conn, migration, ROWS), "rows"))


def _digest(asked: Sequence[StoredQuery], k: int, where: str, iterative_scan: str) -> str:
    parts = [[query.id, query.query.relevant] for query in asked]
    return hashlib.sha256(json.dumps([parts, k, where, iterative_scan]).encode()).hexdigest()[:32]


def _query_vectors(
    conn: Connection, run: _Run, asked: Sequence[StoredQuery], embedders: Mapping[Side, Embedder | None]
) -> tuple[tuple[StoredQuery, ...], dict[Side, Vectors], list[str]]:
    """Queries with a vector on both sides, those vectors in the same order, and what could not be had."""
    migration, unknown = run.migration, []
    real = [query for query in asked if query.query.row is None]
    known = {
        Side.OLD: load_vectors(conn, migration.old_model.id, [query.id for query in real]),
        Side.NEW: load_vectors(conn, migration.new_model.id, [query.id for query in real]),
    }
    for side, model in ((Side.OLD, migration.old_model), (Side.NEW, migration.new_model)):
        missing = [query for query in real if query.id not in known[side]]
        embedder = embedders.get(side)
        why = "it is retired" if model.retired else "it is not to be asked"
        if missing and embedder is not None:
            try:
                known[side] |= _embed(conn, run, side, model, embedder, missing)
                continue
            except ProviderFault as fault:
                if side is Side.NEW:
                    raise
                known[side] = load_vectors(conn, model.id, [query.id for query in real])
                missing = [query for query in real if query.id not in known[side]]
                why = fault.reason
        if missing:
            unknown.append(
                f"How {len(missing):,} of {_queries(real)} fared under {model.name}: it made no vector there ({why});"
                " left out."
            )
    usable = _with_vectors(conn, migration, asked, known)
    if not usable and real:
        usable = _with_vectors(conn, migration, _rows_as_queries(conn, migration), known)
    if not usable:
        raise NotClean("No query has a vector of both models.", hint="Take rows of the table as queries.")
    rows = sum(query.query.row is not None for query, _ in usable)
    if rows:
        unknown.append(
            f"How real queries fare: for {rows:,} of {_queries(usable)} a row of the table stands in, searched by its"
            " own stored vectors and left out of its own results."
        )
    vectors = {side: np.stack([found[side] for _, found in usable]) for side in Side}
    return tuple(query for query, _ in usable), vectors, unknown


def _with_vectors(
    conn: Connection, migration: Migration, asked: Sequence[StoredQuery], known: Mapping[Side, Mapping[int, Vector]]
) -> list[tuple[StoredQuery, Mapping[Side, Vector]]]:
    of_rows = row_vectors(conn, migration, [query.query.row for query in asked if query.query.row is not None])
    usable: list[tuple[StoredQuery, Mapping[Side, Vector]]] = []
    for query in asked:
        if query.query.row is not None:
            if query.query.row in of_rows:
                usable.append((query, of_rows[query.query.row]))
        elif all(query.id in known[side] for side in Side):
            usable.append((query, {side: known[side][query.id] for side in Side}))
    return usable


def _embed(
    conn: Connection,
    run: _Run,
    side: Side,
    model: EmbeddingModel,
    embedder: Embedder,
    queries: Sequence[StoredQuery],
) -> dict[int, Vector]:
    """Embed texts in batches; each batch is kept as soon as it is there. No transaction is open meanwhile."""
    made: dict[int, Vector] = {}
    size = min(BATCH, model.max_inputs)
    for start in range(0, len(queries), size):
        run.step(f"embedding queries ({side.value})", start, len(queries))
        batch = queries[start : start + size]
        try:
            reply = embedder.embed([query.query.text for query in batch], kind="query", stop=run.stop)
        except ProviderFault:
            run.step(f"embedding queries ({side.value})", start, len(queries))  # was it stopped meanwhile?
            raise
        found = {query.id: vector for query, vector in zip(batch, reply.vectors, strict=True)}
        store_vectors(conn, model.id, found)
        made |= found
    return made


# ---------------------------------------------------------------------------------------------------------- exact


def _exact(
    conn: Connection,
    run: _Run,
    queries: Sequence[StoredQuery],
    vectors: Mapping[Side, Vectors],
    exact_bytes: int,
    unknown: list[str],
) -> dict[int, dict[Side, Ranking]]:
    """Exact rankings by position of the query; positions without one ran out of time or were not in the sample.

    A table of moderate size is read once, and all queries of both sides are answered by matrix products: 300 queries
    cost about as much as one. Beyond that a sample of queries is searched by the server, one after the other.
    """
    try:
        if _table_bytes(conn, run.migration) <= exact_bytes:
            read = read_nearest(
                conn,
                run.migration,
                vectors,
                depth=run.depth,
                leave_out=[query.query.row for query in queries],
                where=run.where,
                timeout=run.timeout,
                step=lambda rows: run.step("reading vectors", rows, rows),
            )
            return dict(enumerate(read))
        found: dict[int, dict[Side, Ranking]] = _exact_by_searching(conn, run, queries, vectors)
    except psycopg.errors.QueryCanceled:
        found = {}
    if len(found) < len(queries):
        unknown.append(
            f"Exact results of {len(queries) - len(found):,} of {_queries(queries)}: the table is too big for more"
            f" within {run.timeout:g} s. Figures are made of what the searches serve."
        )
    return found


def _table_bytes(conn: Connection, migration: Migration) -> int:
    row = conn.execute(
        """
        SELECT coalesce(sum(pg_catalog.pg_table_size(relid)), 0)::bigint
        FROM (SELECT relid FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass)
              UNION SELECT %(table)s::oid::regclass UNION SELECT pg_catalog.to_regclass(%(side)s)) x
        """,
        {"table": migration.table_oid, "side": relation(new_side(migration).table).as_string(conn)},
    ).fetchone()
    assert row is not None
    return int(row[0])


def _exact_by_searching(
    conn: Connection, run: _Run, queries: Sequence[StoredQuery], vectors: Mapping[Side, Vectors]
) -> dict[int, dict[Side, Ranking]]:
    count = min(EXACT_SAMPLE, len(queries))
    positions = [number * len(queries) // count for number in range(count)]
    found: dict[int, dict[Side, Ranking]] = {}
    until = time.monotonic() + run.timeout
    for done, position in enumerate(positions):
        run.step("exact search", done, count)
        left = until - time.monotonic()
        if left <= 0:
            break
        try:
            with conn.transaction():
                conn.execute("SELECT set_config('statement_timeout', %s, true)", [f"{max(1, int(left * 1000))}ms"])
                found[position] = {
                    side: _search(conn, run, side, queries[position], vectors[side][position], exact=True, both=True)[0]
                    for side in Side
                }
        except psycopg.errors.QueryCanceled:
            break
    return found


# --------------------------------------------------------------------------------------------------------- served


def _search(
    conn: Connection,
    run: _Run,
    side: Side,
    query: StoredQuery,
    vector: Vector,
    *,
    exact: bool = False,
    both: bool,
) -> tuple[Ranking, float]:
    """One search as the application makes it, and its milliseconds; ``both``: only rows that have both vectors."""
    conditions: list[sql.Composable] = []
    if run.where is not None:
        # this statement has bound parameters, so a literal % of the filter has to be doubled
        conditions.append(sql.SQL("({})").format(sql.SQL(run.where.as_string(conn).replace("%", "%%"))))
    if both:
        conditions.append(_other_present(run.migration, side))
    statement = search_sql(
        run.migration,
        side,
        where=sql.SQL(" AND ").join(conditions) if conditions else None,
        exact=exact,
        without_key=query.query.row is not None,
        iterative_scan=run.iterative_scan,
    )
    values: dict[str, object] = {"vector": _literal(vector), "k": run.depth}
    if query.query.row is not None:
        values["key"] = list(query.query.row)
    began = time.perf_counter()
    rows = conn.execute(statement, values).fetchall()
    milliseconds = 1000 * (time.perf_counter() - began)
    # the cosine distance to a zero vector is NaN: sorted last, and nobody's neighbour
    return [(tuple(key), distance) for key, distance in rows if distance == distance], milliseconds


def _other_present(migration: Migration, side: Side) -> sql.Composable:
    """Condition on the user's table, inside a search of ``side``: the row has the other side's vector too."""
    found, table = new_side(migration), migration.table
    if side is Side.NEW:
        return sql.SQL("{} IS NOT NULL").format(sql.Identifier(table.schema, table.name, migration.old_column))
    if found.table == table:
        return sql.SQL("{} IS NOT NULL").format(sql.Identifier(table.schema, table.name, found.embedding))
    return sql.SQL("EXISTS (SELECT FROM {} AS embedtui_other WHERE {})").format(
        relation(found.table),
        sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(
                sql.Identifier("embedtui_other", name), sql.Identifier(table.schema, table.name, name)
            )
            for name in migration.key_columns
        ),
    )


def _literal(vector: Vector) -> str:
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def _served(
    conn: Connection,
    run: _Run,
    queries: Sequence[StoredQuery],
    vectors: Mapping[Side, Vectors],
    *,
    both: bool,
    all_exact: bool,
    unknown: list[str],
) -> tuple[dict[int, dict[Side, Ranking]], dict[Side, list[float]], dict[Side, ApproximateIndex]]:
    """Rankings as served and milliseconds of each search: both sides in turn, on one connection.

    Where exact rankings are there for all queries, a sample tells what the index loses and how long searches take: at
    least :data:`SERVED_ENOUGH` queries, and as many more as :data:`SERVED_SECONDS` allow.
    """
    indexes = {
        side: index
        for side in Side
        if (index := approximate_index(conn, run.migration, side)) is not None and index.valid
    }
    found: dict[int, dict[Side, Ranking]] = {}
    taken: dict[Side, list[float]] = {side: [] for side in Side}
    # in an order of their own, so that a sample is one of all queries
    order = np.random.default_rng(measures.SEED).permutation(len(queries)).tolist()
    began = time.monotonic()
    try:
        # the first searches of a connection plan, and read what later ones find in memory
        for position in order[:5]:
            for side in Side:
                _search(conn, run, side, queries[position], vectors[side][position], both=both)
        for done, position in enumerate(order):
            run.step("searching as served", done, len(queries))
            spent = time.monotonic() - began
            if spent > run.timeout or (all_exact and done >= SERVED_ENOUGH and spent > SERVED_SECONDS):
                break
            searched = {
                side: _search(conn, run, side, queries[position], vectors[side][position], both=both) for side in Side
            }
            found[position] = {side: ranking for side, (ranking, _) in searched.items()}
            for side, (_, milliseconds) in searched.items():
                taken[side].append(milliseconds)
    except psycopg.errors.QueryCanceled:
        pass
    if len(found) < len(queries):
        left, known = len(queries) - len(found), counted(len(found), "was", "were")
        unknown.append(f"What is served for {left:,} of {_queries(queries)}: {known} searched as served.")
    return found, taken, indexes


def _sweep(
    conn: Connection,
    run: _Run,
    queries: Sequence[StoredQuery],
    vectors: Mapping[Side, Vectors],
    exact: Mapping[int, Mapping[Side, Ranking]],
    served: Mapping[int, Mapping[Side, Ranking]],
    index: ApproximateIndex | None,
) -> tuple[SweepPoint, ...]:
    """Recall against latency of the new side's index as it looks at more; made where it loses results."""
    recall = _mean(_index_recalls(exact, served, Side.NEW, run.k).values())
    if index is None or recall is None or recall >= SWEEP_BELOW:
        return ()
    positions = sorted(exact)[:: max(1, len(exact) // SWEEP_QUERIES)][:SWEEP_QUERIES]
    if index.method == "hnsw":
        setting, values = "hnsw.ef_search", [40, 80, 160, 320, 640, 1000]  # pgvector's default and limit
    else:
        lists = index.lists or 100  # pgvector's default
        setting, values = "ivfflat.probes", [1 << n for n in range(15) if 1 << n < lists] + [lists]
    points: list[SweepPoint] = []
    try:
        for done, value in enumerate(values):
            conn.execute("SELECT set_config(%s, %s, false)", [setting, str(value)])
            found: dict[int, dict[Side, Ranking]] = {}
            taken = []
            for position in positions:
                run.step(f"trying {setting}", done, len(values))
                ranking, milliseconds = _search(
                    conn, run, Side.NEW, queries[position], vectors[Side.NEW][position], both=False
                )
                taken.append(milliseconds)
                found[position] = {Side.NEW: ranking}
            reached = _mean(_index_recalls(exact, found, Side.NEW, run.k).values()) or 0.0
            points.append(
                SweepPoint(setting, value, reached, measures.percentile(taken, 50), measures.percentile(taken, 95))
            )
            if reached >= 0.99:
                break
    finally:
        if not conn.broken:
            conn.execute(sql.SQL("RESET {}").format(sql.SQL(setting)))
    return tuple(points)


def _index_recalls(
    exact: Mapping[int, Mapping[Side, Ranking]], served: Mapping[int, Mapping[Side, Ranking]], side: Side, k: int
) -> dict[int, float]:
    """Per position of a query that has both."""
    return {
        position: measures.index_recall(
            [distance for _, distance in exact[position][side]],
            [distance for _, distance in served[position][side]],
            k,
        )
        for position in sorted(exact)
        if position in served
    }


# --------------------------------------------------------------------------------------------------- put together


def _put_together(
    conn: Connection,
    run: _Run,
    seen: SeenState,
    queries: Sequence[StoredQuery],
    exact: Mapping[int, Mapping[Side, Ranking]],
    served: Mapping[int, Mapping[Side, Ranking]],
    taken: Mapping[Side, Sequence[float]],
    indexes: Mapping[Side, ApproximateIndex],
    sweep: tuple[SweepPoint, ...],
    unknown: list[str],
) -> Comparison:
    k = run.k
    basis = "exact" if len(exact) == len(queries) else "served"
    rankings = exact if basis == "exact" else served
    if not rankings:
        raise NotClean("Not one search came back in time.", hint="Allow more time, or compare on a replica.")
    compared = {position: queries[position] for position in sorted(rankings)}
    contents = texts(
        conn,
        run.migration,
        sorted({key for found in rankings.values() for side in Side for key, _ in found[side][:k]}),
    )
    recalls = {side: _index_recalls(exact, served, side, k) for side in indexes}
    made: list[QueryComparison] = []
    judged: dict[str, list[float]] = defaultdict(list)
    for position, query in compared.items():
        gains = dict(query.query.relevant)
        keys = {side: [key for key, _ in rankings[position][side]] for side in Side}
        ndcg: dict[Side, float] = {}
        if any(gain > 0 for gain in gains.values()):
            for side in Side:
                ndcg[side] = measures.ndcg(keys[side], gains)
                judged[f"ndcg_{side}"].append(ndcg[side])
                judged[f"recall_{side}"].append(measures.recall(keys[side], gains))
                judged[f"mrr_{side}"].append(measures.reciprocal_rank(keys[side], gains))
            if position in served:
                judged["served"].append(measures.ndcg([key for key, _ in served[position][Side.NEW]], gains))
        missed: dict[Side, set[Key]] = {side: set() for side in Side}
        for side, of_side in recalls.items():
            if basis == "exact" and of_side.get(position, 1.0) < 1:
                missed[side] = set(keys[side][:k]) - {key for key, _ in served[position][side]}
        made.append(
            ranked_query(
                query.id,
                query.query.text,
                rankings[position][Side.OLD],
                rankings[position][Side.NEW],
                contents,
                k,
                missed=missed,
                gains=gains,
                row=query.query.row,
                ndcg_old=ndcg.get(Side.OLD),
                ndcg_new=ndcg.get(Side.NEW),
                index_recall=recalls.get(Side.NEW, {}).get(position),
            )
        )
    if not judged:
        unknown.append(
            "Which model is better: there are no judgments. Overlap says how much changed, not for the worse."
        )
    elif gone := _gone(conn, run.migration, compared.values()):
        rows = counted(gone, "judged row is", "judged rows are")
        unknown.append(f"{rows} not in {run.migration.table}: not found, on both sides.")
    if seen.one_sided:
        unknown.append(
            f"{seen.one_sided:,} of {counted(seen.rows, 'row', 'rows')} {'has' if seen.one_sided == 1 else 'have'} one"
            " vector only: left out, on both sides."
        )
    if Side.NEW not in indexes and run.migration.index_method is not IndexMethod.NONE:
        unknown.append("What an approximate index will lose, and its latency: the new side has none that is valid.")
    figures = _figures(run, made, judged, exact, recalls, taken, sweep, basis, tuple(unknown))
    return Comparison(
        k=k,
        queries=tuple(sorted(made, key=lambda query: (query.overlap, query.rbo, query.query_id))),
        measures=figures,
        partial=seen.one_sided > 0,
        seen=seen,
    )


def _figures(
    run: _Run,
    made: Sequence[QueryComparison],
    judged: Mapping[str, list[float]],
    exact: Mapping[int, Mapping[Side, Ranking]],
    recalls: Mapping[Side, Mapping[int, float]],
    taken: Mapping[Side, Sequence[float]],
    sweep: tuple[SweepPoint, ...],
    basis: str,
    unknown: tuple[str, ...],
) -> Measures:
    overlaps = [query.overlap for query in made]
    differences = [new - old for old, new in zip(judged.get("ndcg_old", ()), judged.get("ndcg_new", ()), strict=True)]
    served = judged.get("served", ())
    models = [
        measures.overlap([key for key, _ in found[Side.OLD]], [key for key, _ in found[Side.NEW]], run.k)
        for found in exact.values()
    ]
    return Measures(
        queries=len(made),
        k=run.k,
        overlap=_interval(overlaps),
        rbo=_interval([query.rbo for query in made]),
        top1_kept=sum(query.top1_kept for query in made) / len(made),
        low_overlap=sum(overlap < LOW_OVERLAP for overlap in overlaps),
        histogram=measures.histogram(overlaps),
        judged=len(differences),
        ndcg_old=measures.bootstrap(judged.get("ndcg_old", ())),
        ndcg_new=measures.bootstrap(judged.get("ndcg_new", ())),
        ndcg_difference=measures.bootstrap(differences),
        recall_old=measures.bootstrap(judged.get("recall_old", ())),
        recall_new=measures.bootstrap(judged.get("recall_new", ())),
        mrr_old=measures.bootstrap(judged.get("mrr_old", ())),
        mrr_new=measures.bootstrap(judged.get("mrr_new", ())),
        p_value=measures.randomisation_test(differences),
        model_overlap=_mean(models),
        index_recall=_mean(recalls.get(Side.NEW, {}).values()),
        index_recall_old=_mean(recalls.get(Side.OLD, {}).values()),
        basis=basis,
        exact_queries=len(exact),
        ndcg_served=measures.bootstrap(served) if Side.NEW in recalls and len(served) == len(differences) else None,
        sweep=sweep,
        latency_old_ms=_latency(taken[Side.OLD]),
        latency_new_ms=_latency(taken[Side.NEW]),
        unknown=unknown,
    )


def _queries(queries: Sequence[object]) -> str:
    return counted(len(queries), "query", "queries")


def _interval(values: Sequence[float]) -> Interval:
    found = measures.bootstrap(values)
    assert found is not None, "there is at least one query"
    return found


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def _latency(milliseconds: Sequence[float]) -> tuple[float, float] | None:
    if not milliseconds:
        return None
    return measures.percentile(milliseconds, 50), measures.percentile(milliseconds, 95)


def _gone(conn: Connection, migration: Migration, queries: Iterable[StoredQuery]) -> int:
    keys = {key for query in queries for key, gain in query.query.relevant if gain > 0}
    alias = migration.table.name
    row = conn.execute(
        sql.SQL("SELECT count(*) FROM {keys} WHERE NOT EXISTS (SELECT FROM {table} WHERE {match})").format(
            keys=keys_sql(),
            table=relation(migration.table),
            match=key_join_sql(migration, alias, sql.SQL("k.key")),
        ),
        {"keys": Jsonb([list(key) for key in keys])},
    ).fetchone()
    assert row is not None
    return int(row[0])
