"""What installing the schema makes is nobody's but its owner's, whatever default privileges say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import sql

from embedtui.postgres.connect import Connection

# PUBLIC may execute functions anyway, and uses none without a right on the schema: what only triggers call is closed
# where it is made.
_OBJECTS = """
WITH opened AS (
    SELECT d.defaclobjtype AS kind, a.grantee FROM pg_catalog.pg_default_acl d,
           pg_catalog.aclexplode(d.defaclacl) a
     WHERE d.defaclrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)
       AND d.defaclnamespace IN (0, pg_catalog.to_regnamespace('embedtui')) AND a.grantee <> d.defaclrole
), objects AS (
    SELECT 'pg_class' AS catalog, c.oid, c.relacl AS acl,
           CASE WHEN c.relkind = 'S' THEN 'S' ELSE 'r' END AS kind,
           CASE WHEN c.relkind = 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::regclass AS name
      FROM pg_catalog.pg_class c
     WHERE c.relnamespace = pg_catalog.to_regnamespace('embedtui') AND c.relkind IN ('r', 'v', 'S')
    UNION ALL
    SELECT 'pg_proc', p.oid, p.proacl, 'f', 'FUNCTION ' || p.oid::regprocedure FROM pg_catalog.pg_proc p
     WHERE p.pronamespace = pg_catalog.to_regnamespace('embedtui')
    UNION ALL
    SELECT 'pg_namespace', n.oid, n.nspacl, 'n', 'SCHEMA ' || n.oid::regnamespace FROM pg_catalog.pg_namespace n
     WHERE n.nspname = 'embedtui'
)
SELECT catalog || o.oid, o.name,
       ARRAY(SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
               FROM pg_catalog.aclexplode(o.acl) a JOIN opened USING (grantee)
              WHERE opened.kind::text = o.kind AND NOT (o.kind = 'f' AND a.grantee = 0))
  FROM objects o
"""


@contextmanager
def closed(conn: Connection) -> Iterator[None]:
    """Inside of a transaction: what is made in here is open to nobody by default privileges."""
    before = {oid for oid, _, _ in conn.execute(_OBJECTS)}
    yield
    for oid, name, roles in conn.execute(_OBJECTS).fetchall():
        for role in roles if oid not in before else ():
            conn.execute(sql.SQL("REVOKE ALL ON {} FROM {}").format(sql.SQL(name), sql.SQL(role)))
