"""Rows that could not be embedded, with the reason: table ``fault``."""

from __future__ import annotations

from collections.abc import Iterable

from embedtui.model import FaultClass, FaultGroup, FaultState, Key, Side
from embedtui.postgres.connect import Connection
from embedtui.redaction import redact

_REASON_LENGTH = 500


def record_faults(
    conn: Connection, migration_id: int, faults: Iterable[tuple[Key, str]], side: Side = Side.NEW
) -> None:
    """Store rows' faults with their reasons; seen again they count up and are open again."""
    with conn.cursor() as cursor, conn.transaction():
        cursor.executemany(
            "INSERT INTO embedtui.fault AS f (migration, key, side, class, reason) VALUES (%s, %s, %s, 'row', %s)"
            " ON CONFLICT (migration, side, key) DO UPDATE SET reason = excluded.reason, attempts = f.attempts + 1,"
            " state = 'open', last_seen = now()",
            [(migration_id, list(key), side.value, redact(reason)[:_REASON_LENGTH]) for key, reason in faults],
        )


def group_faults(conn: Connection, migration_id: int) -> tuple[FaultGroup, ...]:
    """Faults by class, reason and state, the most frequent first; a hundred groups at most."""
    rows = conn.execute(
        "SELECT class, reason, count(*), state FROM embedtui.fault WHERE migration = %s"
        " GROUP BY class, reason, state ORDER BY count(*) DESC LIMIT 100",
        [migration_id],
    )
    return tuple(FaultGroup(FaultClass(kind), reason, count, FaultState(state)) for kind, reason, count, state in rows)
