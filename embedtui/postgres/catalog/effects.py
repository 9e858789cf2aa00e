"""What the application's UPDATE triggers do that no rollback takes back; read-only."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

_EFFECTS = r"""
SELECT g.tgname::text
  FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_language l ON l.oid = p.prolang
  JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE (g.tgrelid = %(oid)s OR g.tgrelid IN (SELECT relid FROM pg_partition_tree(%(oid)s)))
   AND NOT g.tgisinternal AND g.tgtype & 16 <> 0 AND g.tgname = ANY (%(names)s)
   AND n.nspname <> 'embedtui'
   AND (l.lanname NOT IN ('plpgsql', 'sql', 'internal') OR p.prosrc ~* 'dblink|http|program|foreign')
 ORDER BY 1 LIMIT 1
"""


def upkeep_effects(conn: Connection[Any], oid: int, names: list[str]) -> str | None:
    """One of these triggers of the application's that may reach out of this database; None where none is known to.

    Foreign tables and other servers are told by the words of the function, or not at all: what cannot be read, as of
    another language, counts as reaching out.
    """
    row = conn.execute(_EFFECTS, {"oid": oid, "names": names}).fetchone()
    return None if row is None else str(row[0])
