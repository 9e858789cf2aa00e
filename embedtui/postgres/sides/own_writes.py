"""How embedtui writes vectors into the application's table: known to change capture, and without the table's triggers.

The application's triggers are passed by ``session_replication_role = replica``, for one statement each; those of change
capture are ENABLE ALWAYS, and fire. PostgreSQL's own triggers, which that role silences too, check foreign keys and
deferred unique keys: of these no column is written. What an application's trigger or rule that is ENABLE ALWAYS writes
elsewhere would meet none of that either: beside one, all are fired.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import sql

from embedtui.model import Migration, PlacementKind
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement

WRITER, OURS = "embedtui.writer", "embedtui"
"""A setting and its value in the transactions in which embedtui writes vectors: change capture takes no vector that is
written there for the application's. An application that sets it harms itself alone."""

PARAMETER = "session_replication_role"
_BEFORE = "embedtui.role_before"
"""What the parameter was, while it is another; else empty."""
GRANTABLE_SINCE = 150_000
"""server_version_num of the first to have GRANT SET ON PARAMETER; before it a superuser alone may."""

# What an update of a vector fires, in the table and its partitions. A function of C can be looking at anything; what
# reaches other servers is told by the words of the function, and one of another language counts as reaching out. Rules
# that fire in a usual session alone are of no account here: they are passed with the triggers, or fire with them.
_FIRED = """
SELECT DISTINCT g.tgname::text AS name, g.tgenabled AS enabled,
       CASE WHEN l.lanname NOT IN ('c', 'internal')
                 AND NOT EXISTS (SELECT FROM pg_catalog.unnest(p.proconfig) s WHERE s LIKE 'search_path=%')
            THEN pg_catalog.format('%I.%I()', n.nspname, p.proname) ELSE '' END AS relies,
       l.lanname = 'c' OR {named} OR pg_catalog.concat(
           p.prosrc, pg_catalog.substring(pg_catalog.pg_get_triggerdef(g.oid), ' WHEN \\(.*')) ~* {word} AS looks,
       l.lanname NOT IN ('plpgsql', 'sql', 'internal') OR p.prosrc ~* 'dblink|http|program|foreign' AS reaches_out
  FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
  JOIN pg_catalog.pg_language l ON l.oid = p.prolang JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE g.tgrelid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree({table}::oid::regclass) t
                     UNION ALL SELECT {table}::oid)
   AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 16 <> 0 AND n.nspname <> 'embedtui'
   AND (pg_catalog.cardinality(g.tgattr::int2[]) = 0 OR {named})
 UNION ALL
SELECT w.rulename::text, w.ev_enabled, '', false, true FROM pg_catalog.pg_rewrite w
 WHERE w.ev_class = {table}::oid AND w.ev_type = '2' AND w.ev_enabled IN ('A', 'R')
"""

_NAMED = """
EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = g.tgrelid AND a.attnum = ANY (g.tgattr::int2[])
        AND a.attname = ANY ({columns}))
"""

# One that fires in a replica alone must not begin to, and none is to write what no foreign key checks. The value before
# is given back after the statement.
_BEGIN = """
SELECT pg_catalog.set_config({writer}, {ours}, true), pg_catalog.set_config({before}, x.was, true),
       CASE WHEN x.was <> '' THEN pg_catalog.set_config({parameter}, 'replica', true) END
  FROM (SELECT CASE WHEN {may} AND bool_or(f.enabled = 'O')
                         AND NOT bool_or(f.enabled IN ('A', 'R') OR f.looks)
                    THEN pg_catalog.current_setting({parameter}) ELSE '' END AS was FROM ({fired}) f OFFSET 0) x
"""

_END = """
SELECT pg_catalog.set_config({parameter}, x.was, true)
  FROM (SELECT pg_catalog.current_setting({before}, true) AS was OFFSET 0) x WHERE x.was <> ''
"""

_MAY_SINCE = "pg_catalog.has_parameter_privilege('session_replication_role', 'SET')"
_MAY_BEFORE = "pg_catalog.current_setting('is_superuser') = 'on'"


@dataclass(frozen=True, slots=True)
class FiredTrigger:
    """A trigger, or rule, of the application's that an update of a vector would fire in a usual session."""

    name: str
    enabled: str
    """As pg_trigger has it: ``O`` usually, ``R`` in a replica alone, ``A`` always."""
    relies: str
    """Its function as ALTER FUNCTION takes it, where that resolves names by the session's search path; else empty."""
    looks: bool
    """It is about the vector: its columns, condition or function name it, or nobody can tell what the function does."""
    reaches_out: bool
    """It may do what no rollback takes back."""


@dataclass(frozen=True, slots=True)
class OwnWrites:
    """Which triggers embedtui's own writes of vectors meet, by the role that asked."""

    fired: tuple[FiredTrigger, ...]
    passed: tuple[FiredTrigger, ...]
    """Those that they do not fire."""
    obstacle: str
    """Why all are fired that could be passed: ``set``, ``looks``, ``replica``, ``always``, ``privilege``; or empty."""

    because: tuple[str, ...] = ()
    """The triggers that are this obstacle."""

    @property
    def names(self) -> str:
        """Of the fired ones."""
        return ", ".join(dict.fromkeys(each.name for each in self.fired))

    @property
    def reaching_out(self) -> str:
        """One of the fired ones that may reach out of this database; empty where none is known to."""
        return next((each.name for each in self.fired if each.reaches_out), "")


@contextmanager
def own_write(conn: Connection, migration: Migration, *, beside: bool = False) -> Iterator[None]:
    """Around one statement that writes vectors, in the caller's transaction; ``beside``: into the side table alone."""
    past = not beside and not migration.stored.fire_triggers
    conn.execute(begin_sql(conn, migration) if past else _mark_sql())
    yield
    if past:
        conn.execute(end_sql())


def begin_sql(conn: Connection, migration: Migration) -> sql.Composed:
    """Opens a write into the table; closed by :func:`end_sql` in the same transaction."""
    if migration.stored.fire_triggers:
        return _mark_sql()
    return sql.SQL(_BEGIN).format(
        **_names(), may=sql.SQL(_may(conn)), fired=_fired_sql(migration.table_oid, _columns(migration))
    )


def end_sql() -> sql.Composed:
    """After the statement: what follows is checked and fires as usual."""
    return sql.SQL(_END).format(**_names())


def around_sql(conn: Connection, migration: Migration, statement: Statement) -> list[Statement]:
    """The statement between both, for a transaction that is made as a list."""
    return [begin_sql(conn, migration), statement, end_sql()]


def look(conn: Connection, migration: Migration) -> OwnWrites:
    """What our own writes of vectors fire, as this role and these settings have it."""
    return look_at(conn, migration.table_oid, _columns(migration), fire=migration.stored.fire_triggers)


def look_at(conn: Connection, table: int, columns: Sequence[str], *, fire: bool) -> OwnWrites:
    """The same of the table with this oid and its vectors' columns, with the setting ``fire_triggers``."""
    rows = conn.execute(
        sql.SQL("SELECT f.*, {may} AS may FROM ({fired}) f ORDER BY f.name").format(
            may=sql.SQL(_may(conn)), fired=_fired_sql(table, columns)
        )
    ).fetchall()
    found = [FiredTrigger(*row[:5]) for row in rows]
    usual = tuple(each for each in found if each.enabled == "O")
    always = tuple(each for each in found if each.enabled == "A")
    if not usual:
        return OwnWrites(always, (), "")
    looking = tuple(each.name for each in usual if each.looks)
    replica = tuple(each.name for each in found if each.enabled == "R")
    if fire:
        obstacle = "set"
    elif looking:
        obstacle = "looks"
    elif replica:
        obstacle = "replica"
    elif always:
        obstacle = "always"
    else:
        obstacle = "" if all(row[-1] for row in rows) else "privilege"
    if not obstacle:
        return OwnWrites(always, usual, "")
    because = looking or replica or tuple(each.name for each in always)
    return OwnWrites((*usual, *always), (), obstacle, because)


def pass_sql(conn: Connection, role: str, found: OwnWrites) -> sql.Composed | None:
    """The GRANT with which a role's writes pass the triggers; None where it may, or it would be of no use."""
    of_use = found.passed or found.obstacle == "privilege"
    if not of_use or conn.info.server_version < GRANTABLE_SINCE:
        return None
    row = conn.execute("SELECT pg_catalog.has_parameter_privilege(%s, %s, 'SET')", [role, PARAMETER]).fetchone()
    if row and row[0]:
        return None
    return sql.SQL("GRANT SET ON PARAMETER {} TO {}").format(sql.SQL(PARAMETER), sql.Identifier(role))


def _may(conn: Connection) -> str:
    return _MAY_SINCE if conn.info.server_version >= GRANTABLE_SINCE else _MAY_BEFORE


def _columns(migration: Migration) -> list[str]:
    beside = migration.placement is PlacementKind.COLUMN
    return [migration.old_column, *([migration.new_column] if beside else [])]


def _fired_sql(table: int, columns: Sequence[str]) -> sql.Composed:
    words = "|".join(re.sub(r"(\W)", r"\\\1", name) for name in columns)
    return sql.SQL(_FIRED).format(
        table=sql.Literal(table),
        named=sql.SQL(_NAMED).format(columns=sql.Literal(list(columns))),
        word=sql.Literal(rf"(?<![\w$])({words})(?![\w$])" if words else "$."),  # that finds nothing
    )


def _mark_sql() -> sql.Composed:
    return sql.SQL("SELECT pg_catalog.set_config({writer}, {ours}, true)").format(**_names())


def _names() -> dict[str, sql.Composable]:
    values = {"writer": WRITER, "ours": OURS, "before": _BEFORE, "parameter": PARAMETER}
    return {name: sql.Literal(value) for name, value in values.items()}
