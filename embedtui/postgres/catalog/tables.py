"""Tables by the name an operator typed, and those that a migration could start from; read-only."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from psycopg import Connection, sql

from embedtui.errors import TableError
from embedtui.model import TableName
from embedtui.postgres.catalog.facts import Candidate
from embedtui.postgres.catalog.read import read_all, read_first
from embedtui.postgres.connect import home_schemas
from embedtui.postgres.names import either, in_quotes, parse_name, relation, shown
from embedtui.postgres.state.migrations import columns_being_filled

_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "c": "a composite type",
    "t": "a TOAST table",
    "i": "an index",
    "I": "an index",
}

_FIND = """
SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relname = %(name)s
   AND CASE WHEN %(schema)s::text IS NULL THEN n.nspname = ANY (%(home)s)
            ELSE n.nspname = %(schema)s END
   AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
 ORDER BY array_position(%(home)s::text[], n.nspname::text)
 LIMIT 1
"""

_ALL_TABLES = """
SELECT n.nspname::text AS schema, c.relname::text AS name, n.nspname = ANY (%(home)s) AS in_path
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'embedtui') AND n.nspname NOT LIKE 'pg\\_%%'
 ORDER BY 3 DESC, 2
"""

_CANDIDATES = """
SELECT n.nspname::text AS schema, c.relname::text AS name, a.attname::text AS column,
       format_type(a.atttypid, a.atttypmod) AS type, a.atttypmod AS modifier,
       (SELECT CASE WHEN bool_and(l.reltuples >= 0) THEN sum(l.reltuples)::bigint END
          FROM (SELECT c.oid AS relid UNION SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf) f
          JOIN pg_class l ON l.oid = f.relid WHERE l.relkind = 'r') AS rows,
       (SELECT coalesce(sum(pg_total_relation_size(f.relid)), 0)::bigint
          FROM (SELECT c.oid AS relid UNION SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf) f) AS bytes,
       coalesce((SELECT string_agg(DISTINCT m.amname::text, ', ')
          FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam
         WHERE x.indrelid = c.oid AND a.attnum = ANY (x.indkey::int2[])), '') AS indexed
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.refclassid = 'pg_extension'::regclass
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'vector'
 WHERE t.typname IN ('vector', 'halfvec') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND a.attnum > 0 AND NOT a.attisdropped AND n.nspname <> 'embedtui'
   AND has_table_privilege(c.oid, 'SELECT')
 ORDER BY bytes DESC, 1, 2, a.attnum
"""


def find_table(conn: Connection[Any], name: str, schema: str | None = None) -> tuple[int, TableName]:
    """Find a table by the name an operator typed; return its oid and its real name.

    Tried in order: exactly as typed; read as an SQL name (``app."My Docs"``, ``app.docs``); unquoted parts folded to
    lower case as PostgreSQL does. Without a schema the search path of role, database or DSN decides.

    Raises:
        TableError: no such table (with near misses), or not a table.
    """
    home = home_schemas(conn)
    for wanted_schema, wanted in readings(name, schema):
        row = read_first(conn, _FIND, {"schema": wanted_schema, "name": wanted, "home": home})
        if row is None:
            continue
        if row["kind"] not in ("r", "p"):
            raise TableError(
                f"{shown(TableName(row['schema'], row['name']))} is {_KINDS[row['kind']]}, not a table.",
                hint="Name the table that holds the vectors.",
            )
        return int(row["oid"]), TableName(row["schema"], row["name"])
    asked = name if schema is None or "." in name else f"{schema}.{name}"
    raise TableError(f"no table {in_quotes(asked)}{_near_tables(conn, name, home)}")


def readings(name: str, schema: str | None) -> Iterable[tuple[str | None, str]]:
    """The (schema, table) pairs a typed name may mean, likeliest first."""
    yield schema, name
    parts = parse_name(name)
    if len(parts) == 1:
        text, was_quoted = parts[0]
        yield schema, text
        if not was_quoted:
            yield schema, text.lower()
    elif len(parts) == 2:
        (first, first_quoted), (second, second_quoted) = parts
        yield first, second
        yield first if first_quoted else first.lower(), second if second_quoted else second.lower()


def _near_tables(conn: Connection[Any], name: str, home: list[str]) -> str:
    rows = read_all(conn, _ALL_TABLES, {"home": home})
    parts = parse_name(name)
    plain = parts[-1][0] if parts else name
    elsewhere = [TableName(row["schema"], row["name"]) for row in rows if row["name"].lower() == plain.lower()]
    if elsewhere:
        return f"; did you mean {either(shown(table) for table in elsewhere[:3])}?"
    names = {row["name"].lower(): TableName(row["schema"], row["name"]) for row in reversed(rows)}
    close = get_close_matches(plain.lower(), names, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {either(shown(names[match]) for match in close)}?"
    if not rows:
        return "; this database has no tables."
    return ". `embedtui init` lists the tables with vector columns."


def find_candidates(conn: Connection[Any]) -> tuple[Candidate, ...]:
    """Vector columns of this database that a migration could start from, biggest table first.

    What a live migration of ours fills is left out.
    """
    rows = read_all(conn, _CANDIDATES)
    own = columns_being_filled(conn)
    return tuple(
        Candidate(
            TableName(row["schema"], row["name"]),
            row["column"],
            row["type"],
            row["modifier"] if row["modifier"] > 0 else None,
            row["rows"],
            row["bytes"],
            row["indexed"],
        )
        for row in rows
        if (row["schema"], row["name"], row["column"]) not in own
    )


def column_types(conn: Connection[Any], tables: Iterable[TableName]) -> dict[TableName, dict[str, str]]:
    """Each table's columns, by name, with the names of their types (``pg_type.typname``)."""
    found: dict[TableName, dict[str, str]] = {table: {} for table in tables}
    rows = conn.execute(
        "SELECT n.nspname::text, c.relname::text, a.attname::text, t.typname::text"
        " FROM unnest(%s::text[], %s::text[]) AS given (schema, name)"
        " JOIN pg_catalog.pg_namespace n ON n.nspname = given.schema"
        " JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = given.name"
        " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " JOIN pg_catalog.pg_type t ON t.oid = a.atttypid",
        [[table.schema for table in found], [table.name for table in found]],
    ).fetchall()
    for schema, name, column, kind in rows:
        found[TableName(schema, name)][column] = kind
    return found


def exists(conn: Connection[Any], table: TableName) -> bool:
    """Whether a relation of that name is there."""
    row = conn.execute("SELECT to_regclass(%s) IS NOT NULL", [relation(table).as_string(conn)]).fetchone()
    return row is not None and bool(row[0])


def has_rows(conn: Connection[Any], table: TableName) -> bool:
    """Whether the table has any row."""
    return conn.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(relation(table))).fetchone() is not None
