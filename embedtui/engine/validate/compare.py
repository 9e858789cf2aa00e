"""Old against new: both top-k of every query, and the loss split into what the model and what the index changed."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from embedtui.engine.validate.bridged import add_bridged, bridged_queries, served_bridge
from embedtui.engine.validate.evaluation import observe, remembered, with_verdicts
from embedtui.engine.validate.exact import Ranking
from embedtui.engine.validate.figures import put_together
from embedtui.engine.validate.query_vectors import asked_queries, with_vectors
from embedtui.engine.validate.ranking import SearchedQuery, rank
from embedtui.engine.validate.run import CompareOptions, Connect, Progress, Run
from embedtui.engine.validate.searching import search_all, search_bridged
from embedtui.errors import NotClean, Refused
from embedtui.model import Comparison, Key, Migration, QueryComparison, QueryInput, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import vector_text
from embedtui.postgres.sides.hits import read_hits
from embedtui.postgres.state.bridges import load_map
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.queries import StoredQuery, Vector
from embedtui.postgres.state.spending import ASKED, add_tokens
from embedtui.providers.base import Embedder, ProviderFault

_DEFAULTS = CompareOptions()


def compare(
    connect: Connect,
    migration: Migration,
    queries: Sequence[QueryInput] | None = None,
    options: CompareOptions = _DEFAULTS,
    *,
    embedders: Mapping[Side, Embedder | None] | None = None,
    replica: Connect | None = None,
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
        options: how to search, and whether to measure again.
        embedders: per side; None where the model is not to be asked (retired).
        replica: opens connections for all searching, to spare the primary.
        progress: told of each step.
        stop: set it to give up between two steps; what was embedded is kept.

    Raises:
        Interrupted: ``stop`` was set.
        ProviderError: the new model does not answer.
        NotClean: no row has both vectors, or no query can be compared.
        Refused: names were exchanged meanwhile.
    """
    run = Run(migration, options, progress or _ignore, stop or threading.Event())
    with connect() as conn:
        asked = asked_queries(conn, migration, queries, options.source)
        bridge = served_bridge(conn, migration)
        seen = observe(conn, migration, where=run.where, request=_digest(asked, options), bridge=bridge or 0)
        if not options.again and (known := remembered(conn, migration, seen)) is not None:
            return known
        if seen.both == 0:
            raise NotClean(
                f"No row of {migration.table} has both an old and a new vector.",
                hint="Let the backfill run first, or look at the filter.",
            )
        usable, unknown = with_vectors(conn, run, asked, embedders or {}, bridged=bridge is not None)
        third = bridged_queries(conn, run, asked, usable, bridge) if bridge is not None else None
    with (replica or connect)() as conn:
        searched = search_all(conn, run, usable, both=seen.one_sided > 0)
        through = search_bridged(conn, run, third.asked, both=seen.one_sided > 0) if third is not None else ({}, "")
    if (index := searched.indexes.get(Side.NEW)) is not None:
        # a build that ended since it was observed: what was measured is this index
        seen = replace(seen, index=index.name, index_identity=index.identity)
    with connect() as conn:
        _require_names(conn, migration)
        comparison = put_together(conn, run, seen, usable, searched, unknown)
        if third is not None:
            comparison = add_bridged(conn, run, comparison, third, *through)
        return with_verdicts(conn, replace(comparison, where=options.where))


def _require_names(conn: Connection, migration: Migration) -> None:
    """Refuse to record what was searched by names that have come to mean the other side meanwhile."""
    now = load_migration(conn, migration.name)
    if now is None or (now.old_column, now.new_column) != (migration.old_column, migration.new_column):
        raise Refused("A cutover or rollback exchanged the columns' names meanwhile.", hint="Compare again.")


def ad_hoc(
    connect: Connect,
    migration: Migration,
    text: str,
    *,
    k: int = 10,
    embedders: Mapping[Side, Embedder | None],
    where: str = "",
    iterative_scan: str | None = None,
) -> QueryComparison:
    """Both sides' results of a typed query, as served; nothing is kept.

    The old side stays empty, with the reason, where its model does not answer; while a bridge serves it is searched
    through that as well, and labelled.

    Raises:
        ProviderError: the new model does not answer.
    """
    found: dict[Side, Ranking] = {Side.OLD: [], Side.NEW: []}
    vectors: dict[Side, Vector] = {}
    tokens: dict[Side, int] = {}
    old_unknown = ""
    for side, embedder in embedders.items():
        if embedder is None:
            old_unknown = f"{migration.old_model.name} cannot be asked"
            continue
        try:
            reply = embedder.embed([text], kind="query")
            vectors[side], tokens[side] = reply.vectors[0], reply.tokens
        except ProviderFault as fault:
            if side is Side.NEW:
                raise
            old_unknown = f"{migration.old_model.name} does not answer: {fault.reason}"
    with connect() as conn:
        run = Run(migration, CompareOptions(where=where, iterative_scan=iterative_scan), _ignore, threading.Event())
        run = run.prepared(conn)
        for side, took in tokens.items():
            add_tokens(conn, migration.id, ASKED[side], took)
        for side, vector in vectors.items():
            found[side] = _search(conn, run, side, vector, k)
        version, through = served_bridge(conn, migration), list[tuple[Key, float]]()
        if version is not None and (mapping := load_map(conn, version, migration.vector_schema)) is not None:
            through = _search(conn, run, Side.OLD, mapping(vectors[Side.NEW]), k)
        shown = [key for ranking in (*found.values(), through) for key, _ in ranking]
        hits = read_hits(conn, migration, shown)
    typed = StoredQuery(0, QueryInput(text), "")
    asked = rank(SearchedQuery(typed, found), hits, k)
    beside = rank(SearchedQuery(typed, {Side.OLD: through, Side.NEW: found[Side.NEW]}), hits, k)
    if old_unknown and through:
        asked = replace(beside, old=())
    return replace(asked, old_unknown=old_unknown, bridged=beside.old if through else ())


def _search(conn: Connection, run: Run, side: Side, vector: Vector, k: int) -> Ranking:
    rows = conn.execute(run.statement(side), {"vector": vector_text(vector), "k": k})
    return [(tuple(key), distance) for key, distance in rows]


def _ignore(_what: str, _done: int, _total: int) -> None:
    pass


def _digest(asked: Sequence[StoredQuery], options: CompareOptions) -> str:
    parts = [[query.id, query.query.relevant] for query in asked]
    request = [parts, options.k, options.where, options.iterative_scan]
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()[:32]
