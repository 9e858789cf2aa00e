"""How real queries fare through a bridge: beside the old model's own vectors where the log had them, by judgments."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import psycopg

from embedtui.engine.validate import measures
from embedtui.engine.validate.query_vectors import made_vectors
from embedtui.engine.validate.run import JUDGED_DEPTH, CompareOptions, Run
from embedtui.errors import ProviderError
from embedtui.model import Key, Migration, Phase, Side
from embedtui.model.bridge import BridgeQueries, LinearMap
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import vector_text
from embedtui.postgres.state.queries import StoredQuery, Vector, load_queries, load_vectors
from embedtui.providers import Embedder

MOST = 300
"""Queries that are searched …"""
SECONDS = 20.0
"""… within these: search is down meanwhile."""
SEARCH_MS = 10_000
"""A search that takes longer would not be waited for by anybody."""

Found = dict[int, list[Key]]
"""Keys of the rows found, nearest first, by the query's id."""


def query_figures(
    conn: Connection,
    migration: Migration,
    found: LinearMap,
    embedder: Embedder | None,
    stop: threading.Event,
    note: Callable[[str], None],
) -> BridgeQueries | None:
    """How the kept queries fare through a map; None where none is kept, or none can be embedded.

    Their new vectors are embedded where they are not kept, and kept; without an embedder those that are kept count, as
    the map before this one was measured by. The old model is never asked. ``conn`` ends what takes SEARCH_MS.

    Raises:
        Interrupted: ``stop`` was set.
    """
    run = Run(migration, CompareOptions(), lambda _what, _done, _total: None, stop)
    kept = [query for query in load_queries(conn, migration) if query.query.row is None]
    # judged ones first: they tell most
    asked = sorted(kept, key=lambda query: not _gains(query))[:MOST]
    new = load_vectors(conn, migration.new_model.id, [query.id for query in asked])
    if embedder is not None:
        try:
            new, _ = made_vectors(conn, run, Side.NEW, embedder, asked)
        except ProviderError as error:  # what a figure lacks is no reason for searches to find nothing
            note(f"How real queries fare is not known: {error.message}")
            return None
    old = load_vectors(conn, migration.old_model.id, [query.id for query in asked])
    return _searched(conn, run.prepared(conn), [query for query in asked if query.id in new], found, old, new)


def _searched(
    conn: Connection,
    run: Run,
    asked: Sequence[StoredQuery],
    found: LinearMap,
    old: Mapping[int, Vector],
    new: Mapping[int, Vector],
) -> BridgeQueries | None:
    bridged: Found = {}
    native: Found = {}
    straight: Found = {}
    whole = run.migration.phase in (Phase.VALIDATE, Phase.CUTOVER)
    until = time.monotonic() + SECONDS
    try:
        for done, query in enumerate(asked):
            run.step("searching", done, len(asked))
            if time.monotonic() > until:
                break
            if query.id in old:
                native[query.id] = _search(conn, run, Side.OLD, old[query.id])
            if whole and _gains(query):
                straight[query.id] = _search(conn, run, Side.NEW, new[query.id])
            bridged[query.id] = _search(conn, run, Side.OLD, found(new[query.id]))
    except psycopg.errors.QueryCanceled:
        pass  # without an index each search reads the table: those made so far will do
    return _figures([query for query in asked if query.id in bridged], bridged, native, straight)


def _search(conn: Connection, run: Run, side: Side, vector: Vector) -> list[Key]:
    """What a query finds on a side, as its index serves it."""
    rows = conn.execute(run.statement(side), {"vector": vector_text(vector), "k": run.depth})
    return [tuple(key) for key, distance in rows if distance == distance]


def _gains(query: StoredQuery) -> dict[Key, float]:
    return {key: gain for key, gain in query.query.relevant if gain > 0}


def _figures(asked: Sequence[StoredQuery], bridged: Found, native: Found, straight: Found) -> BridgeQueries | None:
    if not asked:
        return None

    def ndcg(found: Found, of: Sequence[StoredQuery]) -> list[float]:
        return [measures.ndcg(found[query.id], _gains(query), JUDGED_DEPTH) for query in of]

    judged = [query for query in asked if _gains(query)]
    logged = [query.id for query in asked if query.id in native]
    beside = [query for query in judged if query.id in native]
    shared = [measures.overlap(native[number], bridged[number], JUDGED_DEPTH) for number in logged]
    return BridgeQueries(
        queries=len(asked),
        logged=len(logged),
        overlap=measures.bootstrap(shared),
        judged=len(judged),
        ndcg=measures.bootstrap(ndcg(bridged, judged)),
        judged_old=len(beside),
        ndcg_old=measures.bootstrap(ndcg(native, beside)),
        ndcg_beside=measures.bootstrap(ndcg(bridged, beside)),
        ndcg_new=measures.bootstrap(ndcg(straight, judged)) if straight else None,
    )
