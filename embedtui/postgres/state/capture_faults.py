"""Changes that no trigger told of, for a scan to find: table ``capture_fault``."""

from __future__ import annotations

from psycopg import sql


def request_scan_sql(migration_id: int, reason: str) -> sql.Composed:
    """SQL that asks for a scan of the whole table, in the transaction that makes one necessary."""
    return sql.SQL("INSERT INTO embedtui.capture_fault (migration, reason) VALUES ({}, {})").format(
        sql.Literal(migration_id), sql.Literal(reason)
    )
