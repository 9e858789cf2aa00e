"""The route as applications read it: view ``route_side``."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import dict_row

from embedtui.model import Migration, Side
from embedtui.postgres.connect import Connection

_ALL = "SELECT * FROM embedtui.route_side"

# The service's session has whatever search path it has: names and operators carry their schema.
_OF_TABLE = """
SELECT * FROM embedtui.route_side
WHERE name OPERATOR(pg_catalog.=) coalesce(
    (SELECT name FROM embedtui.route_side WHERE name OPERATOR(pg_catalog.=) %(table)s LIMIT 1),
    (SELECT name FROM embedtui.route_side
     WHERE table_oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%(table)s)::pg_catalog.oid LIMIT 1))
"""

_CALLED = "SELECT * FROM embedtui.route_side WHERE name OPERATOR(pg_catalog.=) %s"


def read_sides(conn: Connection) -> list[dict[str, Any]]:
    """All routes, a row a side, by column name."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_ALL).fetchall()


def read_sides_of(conn: Connection, table: str) -> list[dict[str, Any]]:
    """The sides of one route, by its name or else by its table's name as SQL would write it; empty without one."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_OF_TABLE, {"table": table}).fetchall()


def read_sides_called(conn: Connection, name: str) -> list[dict[str, Any]]:
    """The sides of the route called ``name``."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_CALLED, [name]).fetchall()


def side_present(conn: Connection, migration: Migration, side: Side) -> bool | None:
    """Whether a side of the migration is still there; None where it has no route yet."""
    row = conn.execute(
        "SELECT present FROM embedtui.route_side WHERE name = %s AND side = %s AND migration = %s",
        [migration.name, side.value, migration.id],
    ).fetchone()
    return None if row is None else bool(row[0])


async def read_sides_called_async(conn: psycopg.AsyncConnection[Any], name: str) -> list[dict[str, Any]]:
    """As :func:`read_sides_called`."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_CALLED, [name])
        return await cursor.fetchall()
