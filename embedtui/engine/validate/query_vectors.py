"""The queries of a comparison with their vectors under both models; what is missing is embedded and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from embedtui.arrays import np
from embedtui.engine.backfill.embedding import ConfigurationFault, NoAnswer, RowEmbedder
from embedtui.engine.backfill.sizing import RequestSize
from embedtui.engine.validate.queries import from_rows, store
from embedtui.engine.validate.run import Queries, Run, count_queries
from embedtui.errors import NotClean
from embedtui.model import EmbeddingModel, Migration, QueryInput, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.both import row_vectors
from embedtui.postgres.sides.protocol import SourceRow
from embedtui.postgres.state.models import load_learnt, store_learnt
from embedtui.postgres.state.queries import StoredQuery, Vector, load_queries, load_vectors, store_vectors
from embedtui.postgres.state.spending import ASKED, add_tokens
from embedtui.providers.base import Embedder

ROWS = 100
"""Rows taken as queries where none are given."""

BATCH = 256
"""Query texts taken at a time."""
SHOWN = 60
"""Characters of a query by which it is named."""


def asked_queries(
    conn: Connection, migration: Migration, queries: Sequence[QueryInput] | None, source: str
) -> tuple[StoredQuery, ...]:
    """The given queries, once kept; without any those kept before, real ones before rows; without these, rows."""
    if queries:
        return load_queries(conn, migration, store(conn, migration, queries, source))
    kept = load_queries(conn, migration)
    real = tuple(query for query in kept if query.query.row is None)
    return real or kept or _rows_as_queries(conn, migration)


def made_vectors(
    conn: Connection, run: Run, side: Side, embedder: Embedder, real: Sequence[StoredQuery]
) -> tuple[dict[int, Vector], list[str]]:
    """A side's vectors of queries: those kept, and the others embedded now and kept; and what a model refuses.

    Raises:
        ProviderError: the model does not answer.
        Interrupted: the run was stopped.
    """
    model = run.migration.old_model if side is Side.OLD else run.migration.new_model
    known = load_vectors(conn, model.id, [query.id for query in real])
    missing = [query for query in real if query.id not in known]
    found, refused = _embed(conn, run, side, model, embedder, missing) if missing else ({}, [])
    return known | found, refused


def _rows_as_queries(conn: Connection, migration: Migration) -> tuple[StoredQuery, ...]:
    return load_queries(conn, migration, store(conn, migration, from_rows(conn, migration, ROWS), "rows"))


def with_vectors(
    conn: Connection,
    run: Run,
    asked: Sequence[StoredQuery],
    embedders: Mapping[Side, Embedder | None],
    *,
    bridged: bool = False,
) -> tuple[Queries, list[str]]:
    """Queries with their vectors on both sides, and what could not be had; ``bridged``: what else searches the old one.

    Raises:
        ProviderError: the new model does not answer.
        NotClean: no query has both vectors.
        Interrupted: the run was stopped.
    """
    migration, unknown = run.migration, []
    real = [query for query in asked if query.query.row is None]
    known = {
        Side.OLD: load_vectors(conn, migration.old_model.id, [query.id for query in real]),
        Side.NEW: load_vectors(conn, migration.new_model.id, [query.id for query in real]),
    }
    for side, model in ((Side.OLD, migration.old_model), (Side.NEW, migration.new_model)):
        missing = [query for query in real if query.id not in known[side]]
        embedder = embedders.get(side)
        why = f"it {model.unasked or 'is not to be asked'}"
        if missing and embedder is not None:
            try:
                found, refused = _embed(conn, run, side, model, embedder, missing)
                known[side] |= found
                unknown += refused
                continue
            except (ConfigurationFault, NoAnswer) as fault:
                if side is Side.NEW:
                    raise
                known[side] = load_vectors(conn, model.id, [query.id for query in real])
                missing = [query for query in real if query.id not in known[side]]
                why = fault.message
        if missing:
            unknown.append(
                f"How {len(missing):,} of {count_queries(real)} fared under {model.name}: it made no vector there"
                f" ({why}); {'only the bridge searches for them' if bridged and side is Side.OLD else 'left out'}."
            )
    usable = _pairs(conn, migration, asked, known)
    if not usable and real:
        usable = _pairs(conn, migration, _rows_as_queries(conn, migration), known)
    if not usable:
        raise NotClean("No query has a vector of both models.", hint="Take rows of the table as queries.")
    rows = sum(query.query.row is not None for query, _ in usable)
    if rows:
        unknown.append(
            f"How real queries fare: for {rows:,} of {count_queries(usable)} a row of the table stands in, searched by"
            " its own stored vectors and left out of its own results."
        )
    vectors = {side: np.stack([found[side] for _, found in usable]) for side in Side}
    return Queries(tuple(query for query, _ in usable), vectors), unknown


def _pairs(
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
    run: Run,
    side: Side,
    model: EmbeddingModel,
    embedder: Embedder,
    queries: Sequence[StoredQuery],
) -> tuple[dict[int, Vector], list[str]]:
    """Embed texts in batches; each is kept as soon as it is there. No transaction is open meanwhile.

    Also what is to be said of queries that the model refuses, by name.
    """
    made: dict[int, Vector] = {}
    refused: list[str] = []
    doing = f"embedding queries ({side.value})"
    learnt = partial(store_learnt, conn, model.id)
    size = RequestSize(model, load_learnt(conn, model.id), keep=learnt)
    sender = RowEmbedder(model, embedder, None, gate=lambda _: None, on_fault=lambda _: None, kind="query", size=size)
    for start in range(0, len(queries), BATCH):
        run.step(doing, start, len(queries))
        batch = {str(query.id): query for query in queries[start : start + BATCH]}
        rows = [SourceRow((key,), 0, 0, query.query.text, len(query.query.text)) for key, query in batch.items()]
        try:
            for outcome in sender.embed(rows, run.stop):
                asked = [batch[row.key[0]] for row in outcome.rows]
                if outcome.fault:
                    why = f"{model.name} refuses it ({outcome.fault}); left out"
                    refused += [f"How {_named(query)} fares: {why}." for query in asked]
                    continue
                found = {query.id: vector for query, vector in zip(asked, outcome.vectors, strict=True)}
                store_vectors(conn, model.id, found)
                add_tokens(conn, run.migration.id, ASKED[side], outcome.tokens)
                made |= found
        except (ConfigurationFault, NoAnswer):
            run.step(doing, start, len(queries))  # was it stopped meanwhile?
            raise
    return made, refused


def _named(query: StoredQuery) -> str:
    text = " ".join(query.query.text.split())
    return f"“{text if len(text) <= SHOWN else text[:SHOWN] + '…'}”"
