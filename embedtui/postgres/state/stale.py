"""Rows whose old vector is not the old model's of their present content: table ``stale``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from psycopg import sql
from psycopg.types.json import Jsonb

from embedtui.model import Key, Migration, Side, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import blocks_sql, key_sql, relation
from embedtui.postgres.sides.layout import has_content_sql, scope_sql


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known of such a row's old vector."""

    bridge: int | None
    """Version of the map that made it; None: it is of earlier content, or missing."""
    digest: str = ""
    """Of what the map made: another vector is somebody else's."""


@dataclass(frozen=True, slots=True)
class Marked:
    """Rows by what a rollback would find."""

    stale: int = 0
    """With a vector of earlier content."""
    bridged: int = 0
    """With a vector that a bridge made of the new one."""
    missing: int = 0
    """With none."""


def count_marked(conn: Connection, migration_id: int, at_most: int) -> Marked:
    """What a rollback would find, counted up to a bound."""
    row = conn.execute(
        "SELECT count(*) FILTER (WHERE bridge IS NULL AND NOT missing), count(bridge), count(*) FILTER (WHERE missing)"
        " FROM (SELECT bridge, missing FROM embedtui.stale WHERE migration = %s LIMIT %s) x",
        [migration_id, at_most],
    ).fetchone()
    assert row is not None
    return Marked(*row)


def marked_to_embed(conn: Connection, migration_id: int, limit: int) -> list[Key]:
    """Rows for the old model to embed: the stale ones first, then the bridged ones, of each the oldest first.

    Without those that the old model rejected and nobody asked to retry.
    """
    rows = conn.execute(
        "SELECT key FROM embedtui.stale s WHERE migration = %(m)s AND embed"
        # until reads move, the old side is the application's
        " AND EXISTS (SELECT FROM embedtui.route r WHERE r.migration = %(m)s"
        " AND (r.active = 'new' OR r.changed_by <> ''))"
        " AND NOT EXISTS (SELECT FROM embedtui.fault f WHERE f.migration = %(m)s AND f.side = 'old'"
        " AND f.key = s.key AND f.state NOT IN ('retry', 'truncate'))"
        " ORDER BY bridge IS NOT NULL, at LIMIT %(n)s",
        {"m": migration_id, "n": limit},
    )
    return [tuple(key) for (key,) in rows]


def marked_to_map(conn: Connection, migration_id: int, bridge: int, after: Key, limit: int) -> list[Key]:
    """Rows whose old vector is not made by this map, behind the one called ``after``, in order."""
    rows = conn.execute(
        "SELECT key FROM embedtui.stale WHERE migration = %s AND side = 'old' AND key > %s::text[]"
        " AND bridge IS DISTINCT FROM %s ORDER BY key LIMIT %s",
        [migration_id, list(after), bridge, limit],
    )
    return [tuple(key) for (key,) in rows]


def marks_among(conn: Connection, migration_id: int, keys: Iterable[Key]) -> dict[Key, Mark]:
    """Those of these rows that are marked."""
    rows = conn.execute(
        "SELECT key, bridge, coalesce(digest, '') FROM embedtui.stale WHERE migration = %s AND key IN (SELECT"
        " ARRAY(SELECT jsonb_array_elements_text(e.value)) FROM jsonb_array_elements(%s) e)",
        [migration_id, Jsonb([list(key) for key in keys])],
    )
    return {tuple(key): Mark(bridge, digest) for key, bridge, digest in rows}


def add_stale(conn: Connection, migration_id: int, keys: Mapping[Key, bool]) -> None:
    """Note rows as stale, or as without an old vector (True); those that are so already stay since when they were."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO embedtui.stale (migration, key, missing) VALUES (%s, %s, %s)"
            " ON CONFLICT (migration, side, key)"
            " DO UPDATE SET bridge = NULL, digest = NULL, missing = excluded.missing",
            [(migration_id, list(key), missing) for key, missing in keys.items()],
        )


def add_bridged(conn: Connection, migration_id: int, bridge: int, digests: Mapping[Key, str]) -> None:
    """Note rows as having an old vector of this digest, which this map made."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO embedtui.stale (migration, key, bridge, digest) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (migration, side, key)"
            " DO UPDATE SET bridge = excluded.bridge, digest = excluded.digest, missing = false",
            [(migration_id, list(key), bridge, digest) for key, digest in digests.items()],
        )


def mark_missing(conn: Connection, migration: Migration, leaf: TableName, first: int, last: int) -> int:
    """Note rows of these pages that have content and no old vector, unless something else looks after them; how many.

    No old model embeds them unasked: they had no vector before anything was moved.
    """
    query = sql.SQL(
        "INSERT INTO embedtui.stale (migration, key, missing, embed) SELECT {migration}, {key}, true, false"
        " FROM {leaf} t WHERE {in_blocks} AND {in_scope} AND t.{old} IS NULL AND {has_content}"
        " AND NOT EXISTS (SELECT FROM embedtui.queue q WHERE q.migration = {migration} AND q.key = {key})"
        " ON CONFLICT DO NOTHING"
    ).format(
        migration=sql.Literal(migration.id),
        key=key_sql(migration, "t"),
        leaf=relation(leaf),
        in_blocks=blocks_sql("t", first, last),
        in_scope=scope_sql(migration, "t"),
        old=sql.Identifier(migration.old_column),
        has_content=has_content_sql(migration, "t"),
    )
    return conn.execute(query, prepare=False).rowcount


def forget_stale(conn: Connection, migration_id: int, keys: Iterable[Key], side: Side) -> None:
    """These rows are not stale, or no more, on this side."""
    conn.execute(
        "DELETE FROM embedtui.stale s USING (SELECT DISTINCT ARRAY(SELECT jsonb_array_elements_text(e.value))"
        " AS key FROM jsonb_array_elements(%s::jsonb) e) w"
        " WHERE s.migration = %s AND s.side = %s AND s.key = w.key",
        [Jsonb([list(key) for key in keys]), migration_id, side.value],
    )
