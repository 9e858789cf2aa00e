"""Schema ``embedtui`` as an older version left it, made from the one that is there: what an upgrade starts from."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import psycopg
from psycopg import sql

_OLD = "embedtui_old"

# What a version made, by kind: name, and the statement that takes it away again.
_KINDS = (
    """SELECT p.proname, format('DROP FUNCTION %s CASCADE', p.oid::regprocedure) FROM pg_proc p
       WHERE p.pronamespace = %s::regnamespace AND p.proname !~ '^capture_[0-9]'""",
    """SELECT c.relname, format('DROP %s %s CASCADE', CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
                                c.oid::regclass)
       FROM pg_class c WHERE c.relnamespace = %s::regnamespace AND c.relkind IN ('r', 'v')
                         AND c.relname <> 'schema_version'""",
    """SELECT concat_ws('.', c.relname, x.conname), format('ALTER TABLE %s DROP CONSTRAINT %I CASCADE', c.oid::regclass,
                                                           x.conname)
       FROM pg_constraint x JOIN pg_class c ON c.oid = x.conrelid
       WHERE c.relnamespace = %s::regnamespace AND x.contype <> 'n' AND c.relname <> 'schema_version'""",
    """SELECT c.relname, format('DROP INDEX %s', c.oid::regclass) FROM pg_class c
       WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'i' AND c.relname <> 'schema_version_pkey'""",
    """SELECT concat_ws('.', c.relname, a.attname), format('ALTER TABLE %s DROP COLUMN %I CASCADE', c.oid::regclass,
                                                           a.attname)
       FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
       WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
         AND c.relname <> 'schema_version'""",
)


def back_to(conn: psycopg.Connection[Any], version: int) -> None:
    """Take away all that versions after ``version`` brought, and the views and functions that each install makes anew.

    Its own files say what it had, so that what a later file gets added is taken away, too.
    """
    with conn.transaction():
        conn.execute(f"CREATE SCHEMA {_OLD}")
        for number in range(1, version + 1):
            text = resources.files("embedtui.postgres.state").joinpath(f"{number:04d}.sql").read_text("utf-8")
            conn.execute(sql.SQL(re.sub(r"\bembedtui\b", _OLD, text)))
        for kind in _KINDS:
            old = {name for name, _ in _found(conn, kind, _OLD)}
            for name, statement in _found(conn, kind, "embedtui"):
                if name not in old:
                    conn.execute(sql.SQL(statement))
        conn.execute(f"DROP SCHEMA {_OLD} CASCADE")
        conn.execute("DELETE FROM embedtui.schema_version WHERE version > %s", [version])


def _found(conn: psycopg.Connection[Any], kind: str, schema: str) -> list[tuple[str, str]]:
    return conn.execute(sql.SQL(kind.replace("%s::", "'" + schema + "'::"))).fetchall()
