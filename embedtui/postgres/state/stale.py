"""Rows whose old vector is no longer that of their content: table ``stale``."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg.types.json import Jsonb

from embedtui.model import Key, Side
from embedtui.postgres.connect import Connection


def count_stale(conn: Connection, migration_id: int, at_most: int) -> int:
    """What a rollback would find stale, counted up to a bound."""
    row = conn.execute(
        "SELECT count(*) FROM (SELECT FROM embedtui.stale WHERE migration = %s LIMIT %s) x", [migration_id, at_most]
    ).fetchone()
    assert row is not None
    return int(row[0])


def stale_to_retry(conn: Connection, migration_id: int, limit: int) -> list[Key]:
    """Stale rows, the oldest first, without those that the old model rejected and nobody asked to retry.

    None before reads ever moved: until then the old side is the application's.
    """
    rows = conn.execute(
        "SELECT key FROM embedtui.stale s WHERE migration = %(m)s AND EXISTS (SELECT FROM embedtui.route r"
        " WHERE r.migration = %(m)s AND (r.active = 'new' OR r.changed_by <> ''))"
        " AND NOT EXISTS (SELECT FROM embedtui.fault f WHERE f.migration = %(m)s AND f.side = 'old'"
        " AND f.key = s.key AND f.state <> 'retry')"
        " ORDER BY at LIMIT %(n)s",
        {"m": migration_id, "n": limit},
    )
    return [tuple(key) for (key,) in rows]


def stale_among(conn: Connection, migration_id: int, keys: Iterable[Key]) -> list[Key]:
    """Those of these rows that are stale."""
    rows = conn.execute(
        "SELECT key FROM embedtui.stale WHERE migration = %s AND key IN (SELECT ARRAY(SELECT"
        " jsonb_array_elements_text(e.value)) FROM jsonb_array_elements(%s) e)",
        [migration_id, Jsonb([list(key) for key in keys])],
    )
    return [tuple(key) for (key,) in rows]


def add_stale(conn: Connection, migration_id: int, keys: Iterable[Key]) -> None:
    """Note rows as stale; those that are so already stay since when they were."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO embedtui.stale (migration, key) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [(migration_id, list(key)) for key in keys],
        )


def forget_stale(conn: Connection, migration_id: int, keys: Iterable[Key], side: Side) -> None:
    """These rows are not stale, or no more, on this side."""
    conn.execute(
        "DELETE FROM embedtui.stale s USING (SELECT DISTINCT ARRAY(SELECT jsonb_array_elements_text(e.value))"
        " AS key FROM jsonb_array_elements(%s::jsonb) e) w"
        " WHERE s.migration = %s AND s.side = %s AND s.key = w.key",
        [Jsonb([list(key) for key in keys]), migration_id, side.value],
    )
