"""What change capture appended and nobody has worked off yet: table ``queue``."""

from __future__ import annotations

from embedtui.postgres.connect import Connection


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
