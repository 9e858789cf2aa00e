"""What lies around a table: triggers, views, event triggers, other vector columns; read-only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from embedtui.postgres.catalog.read import read_all

# One that does something besides an UPDATE makes two statements of it, which ours, with its guard, cannot become.
_BETWEEN = """
SELECT w.rulename::text AS name FROM pg_rewrite w
 WHERE w.ev_class = %(oid)s AND w.ev_type IN ('2', '3', '4')
   AND CASE WHEN w.is_instead THEN w.ev_enabled <> 'D' ELSE w.ev_type = '2' AND w.ev_enabled IN ('O', 'A') END
 ORDER BY 1
"""

_USED = """
SELECT max(c.relnatts)::int AS used FROM pg_class c
 WHERE c.oid = %(oid)s OR c.oid IN (SELECT t.relid FROM pg_partition_tree(%(oid)s::oid::regclass) t)
"""

# An update through a view reaches the table, and its triggers, as well; what is not in the view's list stays as it is.
_VIEWS = """
SELECT DISTINCT v.oid::regclass::text AS name
  FROM pg_depend d JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
  JOIN pg_class v ON v.oid = w.ev_class
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s AND v.oid <> %(oid)s AND v.relkind = 'v'
   AND pg_relation_is_updatable(v.oid, true) & 8 <> 0
   AND coalesce(obj_description(v.oid, 'pg_class'), '') NOT LIKE 'embedtui: routed view %%'
 ORDER BY 1
"""

_EVENT_TRIGGERS = """
SELECT e.evtname::text AS name, e.evtevent::text AS event, coalesce(e.evttags, '{}') AS tags,
       coalesce(p.prosrc, '') ~* '\\mraise\\s+(exception|''|[a-z_]+\\s*;|sqlstate)' AND l.lanname = 'plpgsql' AS raises,
       p.prosrc ~* 'row\\s+level\\s+security' AND l.lanname = 'plpgsql' AS row_security
  FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid JOIN pg_language l ON l.oid = p.prolang
 WHERE e.evtenabled IN ('O', 'A') ORDER BY 1
"""

_COLLATIONS = """
SELECT a.attname::text AS name FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation
 WHERE a.attrelid = %(oid)s AND NOT a.attisdropped AND NOT c.collisdeterministic ORDER BY a.attnum
"""

_OTHER_VECTORS = """
SELECT n.nspname::text AS schema, c.relname::text AS name, a.attname::text AS column, a.atttypmod AS size
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.refclassid = 'pg_extension'::regclass
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'vector'
 WHERE t.typname IN ('vector', 'halfvec') AND c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition
   AND a.attnum > 0 AND NOT a.attisdropped AND n.nspname <> 'embedtui'
   AND (a.atttypmod = ANY (%(sizes)s::int[]) OR a.atttypmod < 0)
   AND NOT (c.oid = %(oid)s AND a.attname = %(column)s)
 ORDER BY a.atttypmod < 0, 1, 2, a.attnum
"""

_SPREAD = """
SELECT (SELECT bool_or(n.nspname LIKE '\\_timescaledb%%') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.inhparent = %(oid)s) IS TRUE AS hypertable
"""


@dataclass(frozen=True, slots=True)
class EventTrigger:
    """An event trigger that fires here."""

    name: str
    event: str
    tags: tuple[str, ...]
    """Commands that fire it; empty: all."""
    raises: bool
    """Its function, of PL/pgSQL, can raise an error."""
    row_security: bool
    """Its function speaks of row level security."""

    def fires_on(self, *commands: str) -> bool:
        """Whether one of these commands fires it."""
        ends = self.event in ("ddl_command_start", "ddl_command_end")
        return ends and (not self.tags or any(command in self.tags for command in commands))


@dataclass(frozen=True, slots=True)
class OtherColumn:
    """Another vector column of this database."""

    schema: str
    name: str
    column: str
    size: int
    """Dimensions of its type; below 0 where it has none."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All of it, of one table."""

    rules_between: tuple[str, ...]
    """Rules that put something else in the place of INSERT or DELETE, or anything in that of an UPDATE."""
    columns_used: int
    """Columns that the table, or a partition, has ever had: dropped ones count."""
    views: tuple[str, ...]
    """Views through which the table can be written."""
    event_triggers: tuple[EventTrigger, ...]
    loose_collations: tuple[str, ...]
    """Columns of a nondeterministic collation."""
    other_columns: tuple[OtherColumn, ...]
    hypertable: bool
    """Of TimescaleDB: its chunks are children by old-style inheritance."""
    citus: bool
    """Distributed by Citus, which refuses triggers."""


def surroundings(conn: Connection[Any], oid: int, column: str, sizes: tuple[int, ...]) -> Surroundings:
    """What lies around a table; ``sizes`` are the dimensions of either model."""
    by = {"oid": oid}
    return Surroundings(
        rules_between=tuple(row["name"] for row in read_all(conn, _BETWEEN, by)),
        columns_used=read_all(conn, _USED, by)[0]["used"],
        views=tuple(row["name"] for row in read_all(conn, _VIEWS, by)),
        event_triggers=tuple(
            EventTrigger(**{**row, "tags": tuple(row["tags"])}) for row in read_all(conn, _EVENT_TRIGGERS)
        ),
        loose_collations=tuple(row["name"] for row in read_all(conn, _COLLATIONS, by)),
        other_columns=tuple(
            OtherColumn(**row) for row in read_all(conn, _OTHER_VECTORS, {**by, "column": column, "sizes": list(sizes)})
        ),
        hypertable=read_all(conn, _SPREAD, by)[0]["hypertable"],
        citus=_distributed(conn, oid),
    )


def _distributed(conn: Connection[Any], oid: int) -> bool:
    known = conn.execute("SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL").fetchone()
    if known is None or not known[0]:
        return False
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition WHERE logicalrelid = %s::oid)", [oid]
    ).fetchone()
    return row is not None and bool(row[0])
