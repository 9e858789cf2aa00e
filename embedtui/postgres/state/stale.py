"""Rows whose old vector is no longer that of their content: table ``stale``."""

from __future__ import annotations

from embedtui.postgres.connect import Connection


def count_stale(conn: Connection, migration_id: int, at_most: int) -> int:
    """What a rollback would find stale, counted up to a bound."""
    row = conn.execute(
        "SELECT count(*) FROM (SELECT FROM embedtui.stale WHERE migration = %s LIMIT %s) x", [migration_id, at_most]
    ).fetchone()
    assert row is not None
    return int(row[0])
