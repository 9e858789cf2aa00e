"""How fast all workers together may go: table ``pace``."""

from __future__ import annotations

from embedtui.config import PacingSettings
from embedtui.postgres.connect import Connection


def begin_pace(conn: Connection, migration_id: int, pacing: PacingSettings) -> None:
    """Store what a new migration begins with; operators change it while it runs."""
    conn.execute(
        "UPDATE embedtui.pace SET tokens_per_minute = %s, requests_per_minute = %s, max_concurrency = %s,"
        " spend_cap = %s WHERE migration = %s",
        [
            pacing.tokens_per_minute,
            pacing.requests_per_minute,
            pacing.max_concurrency,
            pacing.spend_cap,
            migration_id,
        ],
    )
