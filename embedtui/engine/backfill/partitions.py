"""Partitions that come later: what is attached brings rows that no trigger told of, also after the backfill."""

from __future__ import annotations

from collections.abc import Sequence

from embedtui.engine.backfill.job import queue_keys
from embedtui.engine.prepare import count_total
from embedtui.model import Migration
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.capture import insert_trigger
from embedtui.postgres.sides.protocol import Placement

LIMIT = 5_000
"""Rows that are queued at a time."""

Attached = tuple[int, int]
"""A partition, and its own copy of the trigger that captures inserts: attached anew, it has another."""


def unseen(conn: Connection, migration: Migration) -> list[Attached]:
    """Partitions attached since the whole table was last looked through."""
    return conn.execute(
        "SELECT t.tgrelid::int8, t.oid::int8 FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c"
        " ON c.oid = t.tgrelid WHERE t.tgname = %(trigger)s AND c.relkind = 'r' AND c.oid <> %(table)s"
        " AND NOT EXISTS (SELECT FROM embedtui.partition p"
        " WHERE p.migration = %(m)s AND p.leaf = t.tgrelid AND p.trigger = t.oid)",
        {"trigger": insert_trigger(migration), "table": migration.table_oid, "m": migration.id},
    ).fetchall()


def remember(conn: Connection, migration: Migration, attached: Sequence[Attached]) -> None:
    """These have been looked through: from now on their triggers tell of every change."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO embedtui.partition AS p (migration, leaf, trigger) VALUES (%s, %s, %s)"
            " ON CONFLICT (migration, leaf) DO UPDATE SET trigger = excluded.trigger",
            [(migration.id, leaf, trigger) for leaf, trigger in attached],
        )


def queue_unseen(conn: Connection, placement: Placement) -> int:
    """Queue rows of new partitions that lack a current new vector, up to ``LIMIT``; how many.

    Once none is left the partitions are remembered. Costs nothing where there is no new one, else a scan of the table.
    """
    migration = placement.migration
    attached = unseen(conn, migration)
    if not attached:
        return 0
    keys = placement.sweep(conn, LIMIT)
    queue_keys(conn, migration.id, keys)
    if len(keys) < LIMIT:
        remember(conn, migration, attached)
        count_total(conn, migration)
    return len(keys)
