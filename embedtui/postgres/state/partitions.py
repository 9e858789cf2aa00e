"""Partitions whose rows have been looked through: table ``partition``."""

from __future__ import annotations

from collections.abc import Sequence

from embedtui.model import Migration
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.capture import insert_trigger

Attached = tuple[int, int]
"""A partition, and its own copy of the trigger that captures inserts: attached anew, it has another."""


def unseen_partitions(conn: Connection, migration: Migration) -> list[Attached]:
    """Partitions attached since the whole table was last looked through."""
    return conn.execute(
        "SELECT t.tgrelid::int8, t.oid::int8 FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c"
        " ON c.oid = t.tgrelid WHERE t.tgname = %(trigger)s AND c.relkind = 'r' AND c.oid <> %(table)s"
        " AND NOT EXISTS (SELECT FROM embedtui.partition p"
        " WHERE p.migration = %(m)s AND p.leaf = t.tgrelid AND p.trigger = t.oid)",
        {"trigger": insert_trigger(migration), "table": migration.table_oid, "m": migration.id},
    ).fetchall()


def remember_partitions(conn: Connection, migration: Migration, attached: Sequence[Attached]) -> None:
    """These have been looked through: from now on their triggers tell of every change."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO embedtui.partition AS p (migration, leaf, trigger) VALUES (%s, %s, %s)"
            " ON CONFLICT (migration, leaf) DO UPDATE SET trigger = excluded.trigger",
            [(migration.id, leaf, trigger) for leaf, trigger in attached],
        )
