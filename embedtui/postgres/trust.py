"""Whose schema ``embedtui`` it is: what somebody else put there would run with the rights of whoever works in it."""

from __future__ import annotations

from typing import Any

import psycopg

from embedtui.errors import DatabaseError

_WITH_VECTORS = """pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
    WHERE c.relkind IN ('r', 'p') AND t.typname IN ('vector', 'halfvec') AND NOT a.attisdropped"""

# Trusted: the session's own role; superusers, who can do everything as it is; and for an ordinary role
#  - the roles it is a member of, and the roles that are members of it: they have its rights already;
#  - a role with the rights of the owner of a table with vectors that it may read, if only some columns (a worker, an
#    application: it runs that owner's triggers anyway), or that let it at the schema by name (a watcher reads no table)
# The last is not for a role that could begin a migration itself, having CREATE on the database and the owner's rights
# on a table with vectors: whoever made the schema before it would get these rights for a table and a grant.
# A superuser is a member of every role without ever having been told, and has more to lose: nobody else is trusted.
# The owner of the database is not, for that is often the application itself.
_TRUSTED = f"""
    o.rolname = current_user OR o.rolsuper
    OR NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AND (
        pg_has_role(o.oid, 'MEMBER') OR pg_has_role(o.rolname, current_user, 'MEMBER')
        OR NOT (has_database_privilege(current_database(), 'CREATE')
                AND EXISTS (SELECT FROM {_WITH_VECTORS} AND pg_has_role(c.relowner, 'MEMBER')))
           AND EXISTS (SELECT FROM {_WITH_VECTORS} AND pg_has_role(o.oid, c.relowner, 'MEMBER')
                       AND (has_any_column_privilege(c.oid, 'SELECT')
                            OR EXISTS (SELECT FROM pg_namespace s, aclexplode(s.nspacl) g
                                       WHERE s.nspname = 'embedtui' AND g.grantee NOT IN (0, s.nspowner)
                                         AND pg_has_role(g.grantee, 'MEMBER')))))
"""

OURS = """
(SELECT pg_catalog.count(*) OPERATOR(pg_catalog.=) 0 FROM pg_catalog.pg_namespace
 WHERE nspname OPERATOR(pg_catalog.=) 'embedtui'
   AND pg_catalog.pg_get_userbyid(nspowner) OPERATOR(pg_catalog.<>) current_user)"""
"""SQL: there is no such schema, or the session's own role owns it; whatever the search path. The whole question costs a
new session as much as all else that sets it up."""

_SCHEMA = f"""
SELECT o.rolname FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner
WHERE n.nspname = 'embedtui' AND NOT ({_TRUSTED})
"""

_OBJECTS = f"""
SELECT o.rolname, pg_describe_object(x.class, x.oid, 0)
FROM (SELECT 'pg_class'::regclass AS class, oid, relnamespace AS schema, relowner AS owner FROM pg_class
      UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace, proowner FROM pg_proc
      UNION ALL SELECT 'pg_operator'::regclass, oid, oprnamespace, oprowner FROM pg_operator
      UNION ALL SELECT 'pg_type'::regclass, oid, typnamespace, typowner FROM pg_type) x
JOIN pg_namespace n ON n.oid = x.schema JOIN pg_roles o ON o.oid = x.owner
WHERE n.nspname = 'embedtui' AND NOT ({_TRUSTED})
ORDER BY 2 LIMIT 1
"""


def require_trusted_schema(conn: psycopg.Connection[Any]) -> None:
    """Nothing where there is no schema ``embedtui``, or a role that this one trusts owns it. Reads the catalog alone.

    Raises:
        DatabaseError: somebody else made it.
    """
    row = conn.execute(_SCHEMA).fetchone()
    if row is not None:
        raise DatabaseError(
            f"Schema embedtui belongs to role {row[0]}, which this role has no reason to trust.",
            hint=f"Connect as {row[0]}, if that is the role that migrates here; else somebody else made it: drop it.",
        )


def require_trusted_objects(conn: psycopg.Connection[Any]) -> None:
    """As :func:`require_trusted_schema`, for every object in it.

    Raises:
        DatabaseError: an object is somebody else's.
    """
    require_trusted_schema(conn)
    row = conn.execute(_OBJECTS).fetchone()
    if row is not None:
        raise DatabaseError(
            f"In schema embedtui, {row[1]} belongs to role {row[0]}, which this role has no reason to trust.",
            hint="Drop it, and take CREATE on schema embedtui from all roles but its owner.",
        )
