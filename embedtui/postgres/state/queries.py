"""Queries of comparisons as kept, and their vectors under each model: tables ``query`` and ``query_vector``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from psycopg.types.json import Jsonb

from embedtui.arrays import np, npt
from embedtui.model import Key, Migration, QueryInput
from embedtui.postgres.connect import Connection

Vector: TypeAlias = "npt.NDArray[np.float32]"
"""One vector (d)."""


@dataclass(frozen=True, slots=True)
class StoredQuery:
    """A query as kept in embedtui.query."""

    id: int
    query: QueryInput
    source: str
    """Where it came from: a file's name, ``sql``, ``rows``."""


def load_queries(conn: Connection, migration: Migration, ids: Iterable[int] | None = None) -> tuple[StoredQuery, ...]:
    """Stored queries, oldest first: those with these ids, or all of this migration."""
    rows = conn.execute(
        "SELECT id, text, row_key, relevant, source FROM embedtui.query"
        " WHERE migration = %(m)s AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s)) ORDER BY id",
        {"m": migration.id, "ids": None if ids is None else list(ids)},
    )
    return tuple(
        StoredQuery(
            number,
            QueryInput(
                text,
                _judgments(relevant),
                _key(row_key),
            ),
            source,
        )
        for number, text, row_key, relevant, source in rows
    )


def _judgments(stored: object) -> tuple[tuple[Key, float], ...]:
    """Stored judgments, without what is none: other roles may write there as well."""
    found = []
    for pair in stored if isinstance(stored, list) else ():
        match pair:
            # sums of gains are no infinity
            case [parts, int() | float() as gain] if abs(gain) <= 1e100 and (key := _key(parts)) is not None:
                found.append((key, float(gain)))
    return tuple(found)


def _key(parts: object) -> Key | None:
    if isinstance(parts, list) and parts and all(isinstance(part, str) for part in parts):
        return tuple(parts)
    return None


def store_queries(
    conn: Connection, migration_id: int, entries: Sequence[Mapping[str, object]], source: str
) -> tuple[int, ...]:
    """Keep queries; their ids in the same order.

    A query stored before keeps its id, and what comes empty keeps the stored judgments and source.

    Args:
        conn: connection in autocommit.
        migration_id: the migration they belong to.
        entries: ``text``, ``row`` (key parts, or None) and ``relevant`` (``[[key parts, gain], …]``) of each.
        source: where they come from.
    """
    rows = conn.execute(
        """
        WITH given AS (
            SELECT number, entry->>'text' AS text, entry->'relevant' AS relevant,
                   CASE WHEN pg_catalog.jsonb_typeof(entry->'row') = 'array'
                        THEN ARRAY(SELECT pg_catalog.jsonb_array_elements_text(entry->'row')) END AS row_key
            FROM pg_catalog.jsonb_array_elements(%(entries)s::jsonb) WITH ORDINALITY AS e(entry, number)),
        stored AS (
            INSERT INTO embedtui.query AS q (migration, text, row_key, relevant, source)
            SELECT DISTINCT ON (md5(text), coalesce(row_key, '{}')) %(migration)s, text, row_key, relevant, %(source)s
            FROM given ORDER BY md5(text), coalesce(row_key, '{}'), number DESC
            ON CONFLICT (migration, md5(text), coalesce(row_key, '{}')) DO UPDATE SET
                relevant = CASE WHEN excluded.relevant = '[]' THEN q.relevant ELSE excluded.relevant END,
                source = CASE WHEN excluded.source = '' THEN q.source ELSE excluded.source END
            RETURNING id, text, row_key)
        SELECT stored.id FROM given JOIN stored ON md5(given.text) = md5(stored.text)
           AND coalesce(given.row_key, '{}') = coalesce(stored.row_key, '{}') ORDER BY given.number
        """,
        {"entries": Jsonb(entries), "migration": migration_id, "source": source},
    ).fetchall()
    return tuple(row[0] for row in rows)


def remove_queries(conn: Connection, migration_id: int, ids: Sequence[int]) -> int:
    """Keep these queries no longer, with their vectors and all verdicts on them; how many there were."""
    query = "DELETE FROM embedtui.query WHERE migration = %s AND id = ANY (%s)"
    return conn.execute(query, [migration_id, list(ids)]).rowcount


def load_vectors(conn: Connection, model: int | None, ids: Sequence[int]) -> dict[int, Vector]:
    """Kept vectors of these queries under this model (id in embedtui.model); absent is what is none of that model's."""
    rows = conn.execute(
        "SELECT query, pg_catalog.array_send(vector) FROM embedtui.query_vector v JOIN embedtui.model m ON m.id = model"
        " WHERE model = %s AND query = ANY (%s) AND pg_catalog.array_ndims(vector) = 1"
        " AND pg_catalog.octet_length(pg_catalog.array_send(vector)) = 20 + 8 * m.dimensions",  # a null is shorter
        [model, list(ids)],
        binary=True,
    )
    # array_send: 20 bytes of head for one dimension, then length and value of each number
    element = np.dtype([("length", ">i4"), ("value", ">f4")])
    found = {query: np.frombuffer(data, element, offset=20)["value"].astype(np.float32) for query, data in rows}
    return {query: vector for query, vector in found.items() if np.isfinite(vector).all()}


def store_vectors(conn: Connection, model: int | None, vectors: Mapping[int, Vector]) -> None:
    """Keep vectors of queries under a model, so that they are paid for once."""
    if not vectors:
        return
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO embedtui.query_vector (query, model, vector) VALUES (%s, %s, %s::text::real[])"
            " ON CONFLICT (query, model) DO UPDATE SET vector = excluded.vector",
            [(query, model, "{" + ",".join(map(repr, vector.tolist())) + "}") for query, vector in vectors.items()],
        )
