"""Who names a table or a column: statements of sessions and of pg_stat_statements, functions.

What a server does not show is told as such and never guessed (invariant 14).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from embedtui.postgres.connect import Connection, is_ours
from embedtui.postgres.ddl import query_head
from embedtui.redaction import redact

_SESSIONS = f"""
SELECT coalesce(application_name, ''), coalesce(usename::text, ''), coalesce(query, '')
  FROM pg_catalog.pg_stat_activity
 WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()
   AND NOT {is_ours()}
"""

_HIDDEN = "<insufficient privilege>"

_STATEMENTS_SCHEMA = """
SELECT n.nspname::text FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'pg_stat_statements'
"""

_OURS = r"embedtui|pg_catalog\.|operator\(|materialized"
"""In embedtui's own statements, a Router's among them, which write the schema of all that they call."""

_STATEMENTS = """
SELECT query, calls::int8 FROM {view}
 WHERE dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND query ~* '^\\s*(select|insert|update|delete|with|merge)\\M'
   AND query !~* {ours} AND {named}
 ORDER BY calls DESC LIMIT 100
"""

_FUNCTIONS = """
SELECT p.oid::regprocedure::text FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'embedtui') AND l.lanname NOT IN ('c', 'internal')
   AND {named} ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Naming:
    """Who names something, as one-line descriptions; what could not be looked at."""

    statements: tuple[str, ...]
    functions: tuple[str, ...]
    unseen: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether anybody does."""
        return bool(self.statements or self.functions)

    def __str__(self) -> str:
        """The first few."""
        found = [*(f"function {name}" for name in self.functions), *self.statements]
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        return "; ".join(found[:3]) + more


def naming(conn: Connection, *words: str) -> Naming:
    """Who names all of these words, names of tables or columns, in one statement or function."""
    patterns = [rf"(?<!\w){re.escape(word)}(?!\w)" for word in words]  # as Python and PostgreSQL read it
    found, unseen = [], []
    hidden = 0
    for application, role, query in conn.execute(_SESSIONS).fetchall():
        hidden += query == _HIDDEN
        if re.search(_OURS, query, re.IGNORECASE):
            continue
        if all(re.search(pattern, query) for pattern in patterns):
            found.append(f"session {redact(application or role)}: {query_head(query)}")
    if hidden:
        unseen.append(f"what {hidden} sessions run (pg_read_all_stats)")
    statements, why = _remembered(conn, patterns)
    found += statements
    unseen += [*why, "statements that other sessions have prepared"]
    return Naming(tuple(dict.fromkeys(found)), _functions(conn, patterns), tuple(unseen))


def _remembered(conn: Connection, patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    schema = conn.execute(_STATEMENTS_SCHEMA).fetchone()
    if schema is None:
        return [], ["pg_stat_statements (not installed)"]
    view = sql.Identifier(schema[0], "pg_stat_statements")
    try:
        with conn.transaction():
            statement = sql.SQL(_STATEMENTS).format(view=view, ours=sql.Literal(_OURS), named=_named("query", patterns))
            rows = conn.execute(statement).fetchall()
    except psycopg.Error as error:
        return [], [f"pg_stat_statements ({redact(error.diag.message_primary or 'not readable')})"]
    return [f"{calls:,} calls of: {query_head(query)}" for query, calls in rows], []


def _functions(conn: Connection, patterns: Sequence[str]) -> tuple[str, ...]:
    rows = conn.execute(sql.SQL(_FUNCTIONS).format(named=_named("p.prosrc", patterns))).fetchall()
    return tuple(name for (name,) in rows)


def _named(text: str, patterns: Sequence[str]) -> sql.Composed:
    return sql.SQL(" AND ").join(sql.SQL("{} ~ {}").format(sql.SQL(text), sql.Literal(each)) for each in patterns)
