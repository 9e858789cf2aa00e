"""Search paths that roles are given for this database: what each finds a table by, and the SQL that moves it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from embedtui.postgres.connect import Connection, is_ours

# A server older than 16 asks for CREATEROLE alone; a superuser's settings are for superusers.
_READ = """
WITH given AS (
    SELECT s.setrole, s.setdatabase, substr(c, length('search_path=') + 1) AS path
      FROM pg_db_role_setting s, unnest(s.setconfig) c
     WHERE c LIKE 'search\\_path=%%'
       AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))),
me AS (SELECT oid, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = current_user)
SELECT r.rolname::text, r.rolcanlogin,
       me.rolsuper OR NOT r.rolsuper AND (r.oid = me.oid OR me.rolcreaterole
           AND (current_setting('server_version_num')::int < 160000
                OR pg_has_role(r.oid, 'USAGE WITH ADMIN OPTION'))),
       (SELECT path FROM given WHERE setrole = r.oid AND setdatabase <> 0),
       coalesce((SELECT path FROM given WHERE setrole = r.oid AND setdatabase = 0),
                (SELECT path FROM given WHERE setrole = 0 AND setdatabase <> 0),
                (SELECT path FROM given WHERE setrole = 0 AND setdatabase = 0),
                (SELECT CASE WHEN EXISTS (SELECT FROM given WHERE setrole IN (0, (SELECT oid FROM me)))
                             THEN boot_val ELSE reset_val END
                   FROM pg_settings WHERE name = 'search_path'))
  FROM pg_roles r, me WHERE r.rolname = ANY (%s) ORDER BY 1
"""

_SET = f"""
SELECT coalesce(r.rolname::text, ''), substr(c, length('search_path=') + 1), (SELECT count(*) FROM pg_stat_activity a
        WHERE a.datname = current_database() AND NOT {is_ours("a")}
          AND (r.oid IS NULL OR a.usesysid = r.oid))
  FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c
 WHERE c LIKE 'search\\_path=%'
   AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) ORDER BY 1
"""

_SESSIONS = f"""
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND usename = ANY (%s) AND pid <> pg_backend_pid()
   AND NOT {is_ours()}
"""

_PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",\s][^,\s]*))\s*(,|$)')


@dataclass(frozen=True, slots=True)
class RolePath:
    """A role, and what its sessions in this database begin with."""

    role: str
    logs_in: bool
    """Else nothing that is set for it counts: settings are those of the role that opens a session."""
    alterable: bool
    """By this role."""
    own: tuple[str, ...] | None
    """What is set for the role in this database; None where nothing is."""
    below: tuple[str, ...]
    """What it has without that: of the role in all databases, of the database, of the server."""

    @property
    def path(self) -> tuple[str, ...]:
        """Of a session that is opened now, where its client asks for no other."""
        return self.below if self.own is None else self.own

    def with_schema(self, schema: str) -> tuple[str, ...]:
        """The path with ``schema`` at its head."""
        return (schema, *self.without(schema))

    def without(self, schema: str) -> tuple[str, ...]:
        """The path without ``schema``."""
        return tuple(each for each in self.path if each != schema)


def split_path(text: str) -> tuple[str, ...]:
    """A search path's schemas as PostgreSQL reads them; none where it is no list of names."""
    found: list[str] = []
    position = 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            return ()
        quoted, plain, separator = match.groups()
        found.append(plain.lower() if quoted is None else quoted.replace('""', '"'))
        position = match.end()
        if separator == "," and position >= len(text):
            return ()
    return tuple(name for name in found if name)


def read_paths(conn: Connection, roles: Sequence[str]) -> list[RolePath]:
    """Those of ``roles`` that exist."""
    return [
        RolePath(role, logs_in, alterable, None if own is None else split_path(own), split_path(below or ""))
        for role, logs_in, alterable, own, below in conn.execute(_READ, [list(roles)])
    ]


def roles_on_path(conn: Connection, schema: str) -> dict[str, int]:
    """Roles (empty: everybody) that are given a search path with the schema here, each with its sessions now."""
    return {role: sessions for role, path, sessions in conn.execute(_SET) if schema in split_path(path)}


def count_sessions(conn: Connection, roles: Sequence[str]) -> int:
    """Sessions that these roles have open in this database."""
    row = conn.execute(_SESSIONS, [list(roles)]).fetchone()
    return int(row[0]) if row else 0


def set_path_sql(conn: Connection, found: RolePath, path: Sequence[str]) -> sql.Composed:
    """Has new sessions of the role begin with ``path``; what they have without it is reset to."""
    place = {"role": sql.Identifier(found.role), "database": sql.Identifier(conn.info.dbname)}
    if tuple(path) == found.below:
        return sql.SQL("ALTER ROLE {role} IN DATABASE {database} RESET search_path").format(**place)
    # names and never the text as it is stored: anybody may set one of his own, and it would be run with our rights
    return sql.SQL("ALTER ROLE {role} IN DATABASE {database} SET search_path = {path}").format(
        path=sql.SQL(", ").join(sql.Identifier(name) for name in path) if path else sql.SQL("''"), **place
    )
