"""Rows that could not be embedded, with the reason: table ``fault``."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from psycopg.types.json import Jsonb

from embedtui.model import FaultClass, FaultGroup, FaultState, Key, Side
from embedtui.model.faults import NUMBERS
from embedtui.postgres.connect import Connection
from embedtui.redaction import redact

_REASON_LENGTH = 500
UNWRITABLE = "the database refuses its old vector: "
"""Begins the reason of a row for which no model is to blame."""
UNWRITTEN = "the database refuses its new vector: "
UNDONE = "a trigger of the table (BEFORE UPDATE) takes the write of its vector back"


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


WITHOUT_NUMBERS = f"regexp_replace({{}}, '{NUMBERS}', '\\1', 'g')"
"""SQL of a reason as it is grouped."""


def group_faults(conn: Connection, migration_id: int) -> tuple[FaultGroup, ...]:
    """Faults by class, reason but for its numbers, and state, the most frequent first; a hundred groups at most.

    Who may not read keys is not told which rows are there for either side.
    """
    may = conn.execute("SELECT pg_catalog.has_column_privilege('embedtui.fault', 'key', 'SELECT')").fetchone()
    both = "count(*) - count(DISTINCT key)" if may == (True,) else "0"
    rows = conn.execute(
        f"SELECT class, min(reason), count(*), state, count(*) FILTER (WHERE side = 'old'), {both}"
        " FROM embedtui.fault WHERE migration = %s"
        f" GROUP BY class, {WITHOUT_NUMBERS.format('reason')}, state ORDER BY count(*) DESC LIMIT 100",
        [migration_id],
    )
    return tuple(
        FaultGroup(FaultClass(kind), reason, count, FaultState(state), old, both)
        for kind, reason, count, state, old, both in rows
    )


def count_open(conn: Connection, migration_id: int) -> int:
    """Rows with an open fault, each once, whatever its sides' reasons; who may not read keys is told of each side."""
    may = conn.execute("SELECT pg_catalog.has_column_privilege('embedtui.fault', 'key', 'SELECT')").fetchone()
    row = conn.execute(
        f"SELECT count({'DISTINCT key' if may == (True,) else '*'}) FROM embedtui.fault"
        " WHERE migration = %s AND state = 'open'",
        [migration_id],
    ).fetchone()
    assert row is not None
    return int(row[0])


UNSKIPPED = tuple(state for state in FaultState if state is not FaultState.SKIPPED)
"""What is still to get its vector."""


def count_faulty(
    conn: Connection, migration_id: int, states: Collection[FaultState] = UNSKIPPED, side: Side = Side.NEW
) -> int:
    """Rows that have no vector on this side for a fault of their own, in one of these states."""
    row = conn.execute(
        "SELECT count(*) FROM embedtui.fault WHERE migration = %s AND side = %s AND state = ANY (%s)",
        [migration_id, side.value, [state.value for state in states]],
    ).fetchone()
    assert row is not None
    return int(row[0])


def count_unwritable(conn: Connection, migration_id: int) -> int:
    """Rows whose old vector the database refuses for their own sake."""
    row = conn.execute(
        "SELECT count(*) FROM embedtui.fault WHERE migration = %s AND side = 'old' AND starts_with(reason, %s)",
        [migration_id, UNWRITABLE],
    ).fetchone()
    assert row is not None
    return int(row[0])


def forget_faults(conn: Connection, migration_id: int, keys: Iterable[Key], side: Side) -> None:
    """These rows have no fault, or none any more, on this side."""
    conn.execute(
        "DELETE FROM embedtui.fault f USING (SELECT DISTINCT ARRAY(SELECT jsonb_array_elements_text(e.value))"
        " AS key FROM jsonb_array_elements(%s::jsonb) e) w"
        " WHERE f.migration = %s AND f.side = %s AND f.key = w.key",
        [Jsonb([list(key) for key in keys]), migration_id, side.value],
    )


def truncated_rows(conn: Connection, migration_id: int) -> dict[tuple[Side, Key], int]:
    """Rows whose text is to be cut for a side's model, at an operator's word, with the attempts so far."""
    rows = conn.execute(
        "SELECT side, key, attempts FROM embedtui.fault WHERE migration = %s AND state = 'truncate'",
        [migration_id],
    )
    return {(Side(side), tuple(key)): attempts for side, key, attempts in rows}
