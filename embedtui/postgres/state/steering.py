"""What operators decide on faulty rows, pace and workers: tables ``fault``, ``pace`` and ``worker``."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from embedtui.model import FaultClass, FaultRow, FaultState, Key, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.locks import ALIVE
from embedtui.postgres.state.faults import WITHOUT_NUMBERS
from embedtui.postgres.state.workers import tell_workers


def read_faults(
    conn: Connection, migration_id: int, limit: int, offset: int, reason: str | None, state: FaultState | None
) -> tuple[FaultRow, ...]:
    """Faulty rows, oldest first, of one state, or one reason whatever its numbers, where given."""
    alike = " = ".join(map(WITHOUT_NUMBERS.format, ("reason", "%(r)s")))
    rows = conn.execute(
        "SELECT id, key, side, class, reason, attempts, state, last_seen FROM embedtui.fault"
        f" WHERE migration = %(m)s AND (%(r)s::text IS NULL OR {alike})"
        " AND (%(s)s::text IS NULL OR state = %(s)s) ORDER BY id LIMIT %(n)s OFFSET %(o)s",
        {"m": migration_id, "r": reason, "s": state and state.value, "n": limit, "o": offset},
    )
    return tuple(
        FaultRow(number, tuple(key), Side(side), FaultClass(kind), why, attempts, FaultState(now_is), seen)
        for number, key, side, kind, why, attempts, now_is, seen in rows
    )


def decide_faults(conn: Connection, migration_id: int, ids: Sequence[int] | None, state: FaultState) -> list[Key]:
    """Give faulty rows (None: all that are open) another state; their keys, each once."""
    rows = conn.execute(
        "UPDATE embedtui.fault SET state = %(s)s WHERE migration = %(m)s"
        " AND (%(ids)s::bigint[] IS NULL AND state = 'open' OR id = ANY (%(ids)s)) RETURNING key",
        {"s": state.value, "m": migration_id, "ids": list(ids) if ids is not None else None},
    )
    return list({tuple(key): None for (key,) in rows})


def set_pace(conn: Connection, migration_id: int, knob: str, value: object) -> None:
    """Set one column of the pace; None takes the limit away."""
    conn.execute(
        sql.SQL("UPDATE embedtui.pace SET {} = %s WHERE migration = %s").format(sql.Identifier(knob)),
        [value, migration_id],
    )


def change_concurrency(conn: Connection, migration_id: int, by: int, most: int) -> tuple[int, int]:
    """Move the limit of requests in flight by so many within 1 and ``most``, in one statement; before, and after."""
    row = conn.execute(
        "UPDATE embedtui.pace p SET max_concurrency = greatest(1, least(%(most)s, was.max_concurrency + %(by)s))"
        " FROM (SELECT max_concurrency FROM embedtui.pace WHERE migration = %(m)s FOR UPDATE) was"
        " WHERE p.migration = %(m)s RETURNING was.max_concurrency, p.max_concurrency",
        {"by": by, "most": most, "m": migration_id},
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def stop_workers(conn: Connection, migration_id: int, ids: Sequence[int] | None) -> list[tuple[str, int]]:
    """Ask living workers (None: all) to stop; host and process id of each."""
    asked = conn.execute(
        "UPDATE embedtui.worker w SET stop_wanted = true WHERE migration = %s AND stopped_at IS NULL"
        f" AND {ALIVE.format('w.id')} AND (%s::integer[] IS NULL OR id = ANY (%s)) RETURNING host, pid",
        [migration_id, *[list(ids) if ids is not None else None] * 2],
    ).fetchall()
    tell_workers(conn, migration_id)
    return asked
