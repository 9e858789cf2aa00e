"""Who holds the lock that sessions of ours wait for."""

from __future__ import annotations

from collections.abc import Collection

from embedtui.postgres.connect import Connection, is_ours
from embedtui.postgres.ddl import Session, query_head
from embedtui.redaction import redact

# Whoever is waited for may wait as well: named is who waits for nobody, as it is that one who has to end.
_BLOCKER = f"""
WITH RECURSIVE chain (pid, name) AS (
    SELECT a.pid, (SELECT min(l.relation::regclass::text) FROM pg_catalog.pg_locks AS l
                   WHERE l.pid = a.pid AND NOT l.granted AND l.locktype = 'relation')
    FROM pg_catalog.pg_stat_activity AS a
    WHERE a.pid = ANY (%(pids)s) AND {is_ours("a")} AND a.wait_event_type = 'Lock'
      AND a.query_start < clock_timestamp() - make_interval(secs => %(least)s)
    UNION
    SELECT b.pid, chain.name FROM chain, LATERAL unnest(pg_catalog.pg_blocking_pids(chain.pid)) AS b (pid)
)
SELECT chain.name, chain.pid, coalesce(o.application_name, ''),
       to_char(o.xact_start AT TIME ZONE 'UTC', 'HH24:MI:SS'), coalesce(o.state, ''), coalesce(o.query, ''),
       coalesce(o.backend_type, 'client backend') = 'client backend'
FROM chain LEFT JOIN pg_catalog.pg_stat_activity AS o ON o.pid = chain.pid
WHERE (o.pid IS NOT NULL OR chain.pid = 0) AND NOT coalesce({is_ours("o")}, false)
  AND cardinality(pg_catalog.pg_blocking_pids(chain.pid)) = 0
ORDER BY o.xact_start LIMIT 1
"""
# Every transaction that has an id locks that as long as it lasts, each of its savepoints, too.
_ROW_LOCKER = """
SELECT coalesce(l.pid, 0), coalesce(o.application_name, ''), to_char(o.xact_start AT TIME ZONE 'UTC', 'HH24:MI:SS'),
       coalesce(o.state, ''), coalesce(o.query, ''), coalesce(o.backend_type, 'client backend') = 'client backend'
FROM pg_catalog.pg_locks AS l LEFT JOIN pg_catalog.pg_stat_activity AS o ON o.pid = l.pid
WHERE l.locktype = 'transactionid' AND l.granted AND l.transactionid::text = ANY (%s)
ORDER BY o.xact_start LIMIT 1
"""


def name_blocker(conn: Connection, pids: Collection[int], least: float) -> str:
    """What locks out those of our sessions ``pids`` whose statement waits for ``least`` seconds, and what ends that.

    Empty where none waits, or for nobody but us.
    """
    row = conn.execute(_BLOCKER, {"pids": list(pids), "least": least}).fetchone()
    if row is None:
        return ""
    table, *holder = row
    return _said(redact(table) if table else "a row", *holder)


def name_row_locker(conn: Connection, transactions: Collection[str], what: str) -> str:
    """Which of these transactions locks ``what`` for the longest, and what ends that; empty where none goes on."""
    row = conn.execute(_ROW_LOCKER, [list(transactions)]).fetchone()
    return "" if row is None else _said(what, *row)


def _said(what: str, pid: int, application: str, since: str | None, state: str, query: str, client: bool) -> str:
    if not pid:
        return f"a prepared transaction locks {what}: commit it or roll it back (pg_prepared_xacts)"
    who = Session(pid, redact(application), None, state, query_head(query))
    way = f"let it end, or SELECT pg_terminate_backend({pid})" if client else "it makes way by itself"
    # since, and not for how long: a hold's words stay the same while it lasts
    said = f"{who.who} locks {what}" + (f", since {since} UTC" if since else "") + f"; {way}"
    return said + (f"; {who.does}" if who.does else "")
