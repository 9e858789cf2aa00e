"""Operators' verdicts on queries: table ``verdict``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from embedtui.model import Verdict
from embedtui.postgres.connect import Connection


def load_verdicts(conn: Connection, ids: Sequence[int]) -> dict[int, Verdict]:
    """The verdict on each of these queries; where several operators gave one, the newest."""
    rows = conn.execute(
        "SELECT DISTINCT ON (query) query, verdict, note, who FROM embedtui.verdict WHERE query = ANY (%s)"
        " ORDER BY query, at DESC, who",
        [list(ids)],
    )
    return {query: Verdict(verdict, note, who) for query, verdict, note, who in rows}


def store_verdict(conn: Connection, query: int, given: Verdict) -> bool:
    """Store an operator's verdict over the operator's own earlier one; False where there is no such query.

    Given again without a note, it keeps the one it had.
    """
    stored = conn.execute(
        "INSERT INTO embedtui.verdict AS v (query, who, verdict, note)"
        " SELECT id, %(who)s, %(verdict)s, coalesce(%(note)s, '') FROM embedtui.query WHERE id = %(query)s"
        " ON CONFLICT (query, who) DO UPDATE SET verdict = excluded.verdict, at = now(), note ="
        " CASE WHEN %(note)s::text IS NULL AND excluded.verdict = v.verdict THEN v.note ELSE excluded.note END",
        {"who": given.who, "verdict": given.verdict, "note": given.note, "query": query},
    )
    return stored.rowcount > 0


def remove_verdict(conn: Connection, query: int, who: str) -> None:
    """Take back an operator's verdict."""
    conn.execute("DELETE FROM embedtui.verdict WHERE query = %s AND who = %s", [query, who])


def count_verdicts_since(conn: Connection, migration_id: int, moment: datetime) -> int:
    """Verdicts on a migration's queries that were given after that."""
    row = conn.execute(
        "SELECT count(*) FROM embedtui.verdict v JOIN embedtui.query q ON q.id = v.query"
        " WHERE q.migration = %s AND v.at > %s",
        [migration_id, moment],
    ).fetchone()
    assert row is not None
    return int(row[0])


def movement_of_verdicts(conn: Connection, migration_id: int) -> str:
    """What changes with every verdict on a migration's queries; empty where this role may not read them."""
    may = conn.execute("SELECT pg_catalog.has_table_privilege('embedtui.verdict', 'SELECT')").fetchone()
    if may != (True,):
        return ""
    row = conn.execute(
        "SELECT pg_catalog.concat(count(*), ' ', max(v.at)) FROM embedtui.verdict v"
        " JOIN embedtui.query q ON q.id = v.query WHERE q.migration = %s",
        [migration_id],
    ).fetchone()
    assert row is not None
    return str(row[0])
