"""What change capture appended and nobody has worked off yet: table ``queue``."""

from __future__ import annotations

from collections.abc import Iterable

from embedtui.model import Key
from embedtui.postgres.connect import Connection

EVERY_KIND = "iudtr"
"""Kinds of entries: insert, update, delete, truncate, repair."""


def queue_keys(conn: Connection, migration_id: int, keys: Iterable[Key], kind: str = "r") -> None:
    """Queue rows: for repair of the new side, or (kind ``u``) as edited."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO embedtui.queue (migration, key, kind) VALUES (%s, %s, %s)",
            [(migration_id, list(key), kind) for key in keys],
        )


def last_entry(conn: Connection, migration_id: int) -> int | None:
    """Id of the newest entry; None where nothing waits."""
    row = conn.execute("SELECT max(id) FROM embedtui.queue WHERE migration = %s", [migration_id]).fetchone()
    return row[0] if row else None


def waits(conn: Connection, migration_id: int, *, up_to: int, kinds: str = EVERY_KIND) -> bool:
    """Whether any entry of these kinds, no newer than ``up_to``, is still to be worked off."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM embedtui.queue WHERE migration = %s AND id <= %s AND kind = ANY (%s))",
        [migration_id, up_to, list(kinds)],
    ).fetchone()
    return row == (True,)


def read_backlog(conn: Connection, migration_id: int, at_most: int) -> tuple[int, float | None]:
    """Entries, counted up to a bound, and the age of the oldest in seconds (None without any)."""
    row = conn.execute(
        "SELECT count(*), extract(epoch FROM now() - min(at))::float8"
        " FROM (SELECT at FROM embedtui.queue WHERE migration = %s ORDER BY id LIMIT %s) q",
        [migration_id, at_most],
    ).fetchone()
    assert row is not None
    queued, oldest = row
    return queued, max(0.0, oldest) if oldest is not None else None


def count_entries(conn: Connection, migration_id: int) -> int:
    """Entries of a migration; a row that changed twice has two."""
    row = conn.execute("SELECT count(*) FROM embedtui.queue WHERE migration = %s", [migration_id]).fetchone()
    assert row is not None
    return int(row[0])


def count_rows_waiting(conn: Connection, migration_id: int) -> int:
    """Rows whose change waits to be embedded: distinct keys, deleted rows left out."""
    row = conn.execute(
        "SELECT count(DISTINCT key) FROM embedtui.queue WHERE migration = %s AND kind <> 'd'", [migration_id]
    ).fetchone()
    assert row is not None
    return int(row[0])
