"""What waits before a migration can go on: tables ``queue``, ``fault`` and ``worker``, as its acts ask for them."""

from __future__ import annotations

from embedtui.model import Key
from embedtui.postgres.connect import Connection
from embedtui.postgres.locks import ALIVE


def changes_waiting(conn: Connection, migration_id: int, limit: int = 10_000) -> tuple[int, float]:
    """Changes that wait for the sync (at most ``limit`` are counted), and the age of the oldest in seconds."""
    row = conn.execute(
        "SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - at)), 0)::float8 FROM"
        " (SELECT at FROM embedtui.queue WHERE migration = %s ORDER BY id LIMIT %s) q",
        [migration_id, limit],
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def waiting_keys(conn: Connection, migration_id: int) -> set[Key]:
    """Keys of all rows that wait."""
    return {
        tuple(key) for (key,) in conn.execute("SELECT key FROM embedtui.queue WHERE migration = %s", [migration_id])
    }


def count_faulty(conn: Connection, migration_id: int, *, open_only: bool = False) -> int:
    """Rows that have no new vector for a fault of their own; ``open_only``: that nobody has decided on."""
    row = conn.execute(
        "SELECT count(*) FROM embedtui.fault WHERE migration = %s AND side = 'new'"
        " AND CASE WHEN %s THEN state = 'open' ELSE state <> 'skipped' END",
        [migration_id, open_only],
    ).fetchone()
    assert row is not None
    return int(row[0])


def worker_lives(conn: Connection, migration_id: int) -> bool:
    """Whether any worker process of the migration is alive."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM embedtui.worker w WHERE migration = %s AND stopped_at IS NULL AND "
        f"{ALIVE.format('w.id')})",
        [migration_id],
    ).fetchone()
    return row == (True,)
