"""An operator's SQL over a row, as PostgreSQL writes it: columns belong to the row, every name has its schema.

What is written in the settings is read by PostgreSQL, as the definition of a temporary view that is rolled back; what
is kept is the view's own text. Read anew, it means the same in every session, for a row of any name: of a query,
``NEW`` or ``OLD`` of change capture, the table in a service's search.

It may use what no other role could replace by something of its own: PostgreSQL's functions and operators, those of
extensions, and the role's own. For change capture runs it with the rights of the role that made it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Connection, sql

from embedtui.errors import SettingsError
from embedtui.model import RowExpression, TableName
from embedtui.postgres.connect import SEARCH_PATH, home_schemas
from embedtui.postgres.names import relation
from embedtui.postgres.values import type_sql

ROW = "embedtui_row"
"""What the row is called in the kept text."""

_COLUMN = re.compile(rf'\b{ROW}\.("(?:[^"]|"")+"|[^\W\d][\w$]*)')

_VIEW = "CREATE TEMPORARY VIEW pg_temp.embedtui_value AS SELECT (\n{}\n) AS value FROM {} AS " + ROW
_VIEW += " CROSS JOIN (SELECT) AS embedtui_none"  # a second relation has all columns written with their row

_READ = """
SELECT pg_catalog.pg_get_viewdef(v.oid), w.ev_action::text, a.atttypid::int8, pg_catalog.format_type(a.atttypid, NULL),
       ARRAY(SELECT DISTINCT ARRAY[d.refobjid::int8, d.refobjsubid]
             FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
             AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> v.oid) AS relations
FROM pg_catalog.pg_class v JOIN pg_catalog.pg_rewrite w ON w.ev_class = v.oid
JOIN pg_catalog.pg_attribute a ON a.attrelid = v.oid AND a.attnum = 1
WHERE v.oid = 'pg_temp.embedtui_value'::regclass
"""

# What only this role or a superuser could put another in the place of: PostgreSQL's own (whose oids are below the
# first of a user's), what both own together with its schema, and a superuser's in an extension that is theirs, too, or
# that goes only together with a type that it takes.
_FUNCTIONS = """
WITH own AS (SELECT oid FROM pg_catalog.pg_roles WHERE rolsuper OR rolname = current_user), ours AS (
    SELECT oid FROM own
    UNION ALL  -- its only member is the owner of the database
    SELECT r.oid FROM pg_catalog.pg_roles r, pg_catalog.pg_database d WHERE r.rolname = 'pg_database_owner'
    AND d.datname = pg_catalog.current_database() AND d.datdba IN (SELECT oid FROM own))
SELECT p.oid::regprocedure::text, p.proname::text, p.provolatile::text, p.oid < 16384,
       p.oid < 16384 OR p.proowner IN (SELECT oid FROM ours) AND (
           (SELECT n.nspowner FROM pg_catalog.pg_namespace n WHERE n.oid = p.pronamespace) IN (SELECT oid FROM ours)
           OR EXISTS (
               SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
               WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
                 AND (e.extowner IN (SELECT oid FROM ours) OR EXISTS (
                     SELECT FROM pg_catalog.pg_depend t WHERE t.classid = 'pg_type'::regclass AND t.deptype = 'e'
                     AND t.objid = ANY (p.proargtypes::oid[]) AND t.refobjid = e.oid))))
FROM pg_catalog.pg_proc p
WHERE p.oid = ANY (%(functions)s::int8[]::oid[]) OR p.oid IN (
    SELECT oprcode FROM pg_catalog.pg_operator WHERE oid = ANY (%(operators)s::int8[]::oid[]))
ORDER BY 1
"""

_STABLE = frozenset({
    "concat", "concat_ws", "format", "to_char", "array_to_string", "textanycat", "anytextcat", "convert_from",
    "to_json", "to_jsonb", "row_to_json", "array_to_json", "json_build_object", "json_build_array",
    "jsonb_build_object", "jsonb_build_array", "date_part", "extract", "date_trunc", "timezone", "date", "time",
    "timestamp", "timestamptz", "quote_literal", "quote_nullable",
})  # fmt: skip
"""Functions that a text may be made by though they depend on settings: all our sessions have the same ones. What
depends on time or session (``now``) would make every row's text another one all the time."""

_KINDS = (
    (
        ":hasSubLinks true",
        "holds a query, which may read other rows: put one of the row's own values into an IMMUTABLE function",
    ),
    (":hasAggs true", "is an aggregate: it has to be a value of one row"),
    (":hasWindowFuncs true", "is a window function: it has to be a value of one row"),
    (":hasTargetSRFs true", "gives several values for a row"),
    ("{SQLVALUEFUNCTION", "depends on time or session (CURRENT_DATE, CURRENT_USER)"),
    ("{COERCETODOMAIN", "casts to a domain: cast to its base type"),
)

_TOKEN = re.compile(
    r"""(?P<text>E'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*')
      | (?P<cast>::)(?P<type>(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)(?P<schema>\.(?:"(?:[^"]|"")+"|[^\W\d][\w$]*))?
          (?:\ (?:varying|precision))?(?:\(\d+(?:,\d+)?\))?(?:\ with(?:out)?\ time\ zone)?(?:\[\])*)
      | (?P<name>"(?:[^"]|"")+"|[^\W\d][\w$]*)
      | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)
      | (?P<operator>[-+*/<>=~!@\#%^&|`?]+)
      | (?P<other>[()\[\],.:;]|\s+)""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Read:
    """What PostgreSQL made of an expression."""

    text: str
    tree: str
    type: int
    type_name: str
    relations: tuple[tuple[int, int], ...]
    """(relation, number of a column) that it reads."""


def parse(
    conn: Connection[Any],
    table: TableName,
    given: str,
    *,
    setting: str,
    condition: bool = False,
    scanned: bool = False,
) -> RowExpression:
    """An expression over a row of ``table``, checked, in its kept form. Changes nothing; needs to write, though.

    Args:
        conn: connection in autocommit, with no transaction open.
        table: the table.
        given: as the operator wrote it, read by the role's own search path.
        setting: what it is, for messages.
        condition: it has to be true or false, and to depend on nothing but the row; else it has to be a text.
        scanned: all rows are read for what changed, so a text may be made by functions that read other tables.

    Raises:
        SettingsError: it is not that; says why.
    """
    try:
        if ROW in given or "\0" in given:
            raise _wrong(setting, given, f"{ROW} may not occur in it")
        with conn.transaction(force_rollback=True):
            conn.execute("SET TRANSACTION READ WRITE")  # a plan's sessions are read-only; this is rolled back
            path = sql.SQL(", ").join(map(sql.Identifier, ["pg_catalog", *home_schemas(conn), "pg_temp"]))
            conn.execute(sql.SQL("SET LOCAL search_path = {}").format(path))
            read = _read(conn, table, given)
            _require_sound(conn, read, setting, given, condition, scanned)
            kept = _qualified(read.text)
            if ROW in _COLUMN.sub("", kept) or _read(conn, table, kept).text != read.text:
                raise _wrong(setting, given, "it cannot be written so that every session reads it alike")
            columns = _columns(conn, table, read)
            if not columns:
                raise _wrong(setting, given, "it names no column")
            if condition:
                _require_immutable(conn, table, kept, setting, given)
            return RowExpression(given.strip(), kept, columns)
    except psycopg.Error as error:
        line = (error.diag.message_primary or str(error)).splitlines()[0]
        hint = "It is an SQL expression over a row of the table: columns by their bare names."
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            hint = "PostgreSQL reads it as a temporary view: the role needs TEMPORARY on the database, and SELECT."
        raise SettingsError(f"{setting} = {_short(given)}: {line}.", hint=hint) from None


def _read(conn: Connection[Any], table: TableName, given: str) -> _Read:
    """Have PostgreSQL read it, and write it under our own search path."""
    found = []
    for each in ("true", given):
        with conn.transaction(force_rollback=True):
            statement = sql.SQL(_VIEW).format(sql.SQL(each), relation(table))
            # one statement at a time, whatever it holds; bytes, since it may hold a percent sign
            conn.execute(statement.as_string(conn).encode(), prepare=True)
            conn.execute(f"SET LOCAL search_path = {SEARCH_PATH}")
            row = conn.execute(_READ).fetchone()
            assert row is not None
            found.append(row)
    (frame, *_), (text, tree, kind, kind_name, relations) = found
    head, _, tail = frame.partition("true")
    head = head.rstrip()  # a CASE is written on lines of its own
    if not (text.startswith(head) and text.endswith(tail)):
        raise psycopg.errors.SyntaxError("it is more than one expression")
    pairs = tuple((int(oid), int(number)) for oid, number in relations)
    return _Read(text[len(head) : len(text) - len(tail)].strip(), tree, int(kind), kind_name, pairs)


def _require_sound(
    conn: Connection[Any], read: _Read, setting: str, given: str, condition: bool, scanned: bool
) -> None:
    for mark, why in _KINDS:
        if mark in read.tree:
            raise _wrong(setting, given, f"it {why}")
    own = read.tree[read.tree.rfind(":targetList (") :]
    if len({oid for oid, _ in read.relations}) > 1:
        raise _wrong(setting, given, "it reads another table")
    if re.search(r":varattno (0|-\d+) ", own):
        raise _wrong(setting, given, "it takes the whole row, or a system column: name the columns")
    if condition and read.type != _BOOLEAN:
        raise _wrong(setting, given, f"it is {read.type_name}, not a condition")
    if not condition and read.type not in TEXTS:
        raise _wrong(
            setting, given, f"it is {read.type_name}, not a text", f"Make a text of it: ({given.strip()})::text"
        )
    ids = {
        "functions": [int(n) for n in re.findall(r":(?:funcid|opfuncid) (\d+)", own)],
        "operators": [int(n) for part in re.findall(r":opnos? \(?o? ?([\d ]+)", own) for n in part.split()],
    }
    for name, plain, volatility, builtin, safe in conn.execute(_FUNCTIONS, ids).fetchall():
        if not safe:
            raise _wrong(
                setting,
                given,
                f"{name} could be replaced by its owner or its schema's, and would run with the rights of embedtui's"
                " role",
                "Taken are functions of PostgreSQL, of extensions, and those that this role owns together with their"
                " schema. Or have the application keep the value in a generated column, and name that.",
            )
        taken = plain in _STABLE if builtin else scanned
        if volatility == "v" or (volatility == "s" and not condition and not taken):
            raise _wrong(
                setting,
                given,
                f"{name} gives other values at other times, or in other sessions, by what it is declared",
                "" if builtin or condition else 'A STABLE one that reads other tables takes change_capture = "scan".',
            )


_BOOLEAN = 16
TEXTS = (25, 1042, 1043)
"""Oids of text, character, character varying."""


def _require_immutable(conn: Connection[Any], table: TableName, kept: str, setting: str, given: str) -> None:
    """A row enters and leaves a scope by statements on it alone; what an index's predicate may be is just that."""
    conn.execute(sql.SQL("CREATE TEMPORARY TABLE pg_temp.{} (LIKE {})").format(sql.Identifier(ROW), relation(table)))
    try:
        with conn.transaction():
            index = sql.SQL("CREATE INDEX ON pg_temp.{} ((1)) WHERE {}").format(sql.Identifier(ROW), sql.SQL(kept))
            conn.execute(index.as_string(conn).encode())
    except psycopg.errors.InvalidObjectDefinition:
        raise _wrong(
            setting,
            given,
            "it depends on time or on a session's settings, not on the row alone",
            "Compare with constants: timestamps as timestamptz '2026-01-31 00:00+00'.",
        ) from None


def _columns(conn: Connection[Any], table: TableName, read: _Read) -> tuple[tuple[str, int], ...]:
    rows = conn.execute(
        "SELECT attname::text, atttypid::int8 FROM pg_catalog.pg_attribute WHERE attrelid = %s::regclass"
        " AND attnum = ANY (%s) ORDER BY attnum",
        [relation(table).as_string(conn), [number for _, number in read.relations if number > 0]],
    ).fetchall()
    return tuple((name, kind) for name, kind in rows)


def _qualified(text: str) -> str:
    """The view's text with the schema of what PostgreSQL writes without: names of pg_catalog."""
    parts: list[str] = []
    before = ""
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise psycopg.errors.SyntaxError(f"it cannot be read: {text[position : position + 20]}")
        position = match.end()
        token = match[0]
        if match["text"] is not None and ROW in token:
            raise psycopg.errors.SyntaxError(f"{ROW} may not occur in it")
        if match["text"] is not None and not token.startswith("E") and "\\" in token:
            token = "E" + token.replace("\\", "\\\\")  # whatever standard_conforming_strings is
        elif match["type"] is not None and match["schema"] is None:
            kind = match["type"]
            token = f"::{kind}" if kind.startswith('"') else f"::{type_sql(kind).as_string(None)}"
            token = f"::pg_catalog.{kind}" if kind.startswith('"') else token
        elif match["name"] is not None and before != "." and text[position : position + 1] != ".":
            called = text[position : position + 1] == "(" and (token.startswith('"') or token.islower())
            if called or before == "COLLATE":
                token = f"pg_catalog.{token}"
        elif match["operator"] is not None and before != ".":
            token = f"OPERATOR(pg_catalog.{token})"
        parts.append(token)
        before = match[0] if not match[0].isspace() else before
    return "".join(parts)


def row_sql(expression: RowExpression, row: sql.Composable) -> sql.SQL:
    """The expression over the row called ``row``."""
    name = row.as_string(None)
    return sql.SQL(_COLUMN.sub(lambda match: f"{name}.{match[1]}", expression.sql))


def reparse(
    conn: Connection[Any],
    table: TableName,
    expression: RowExpression,
    names: Mapping[str, str],
    *,
    setting: str,
    condition: bool = False,
    scanned: bool = False,
) -> RowExpression:
    """The expression over the table as it is now, columns called by ``names`` (former to present).

    Raises:
        SettingsError: it means nothing any more.
    """
    if all(names.get(name, name) == name for name in expression.names):
        return parse(conn, table, expression.given, setting=setting, condition=condition, scanned=scanned)
    new = {sql.Identifier(old).as_string(None): sql.Identifier(name).as_string(None) for old, name in names.items()}

    def column(match: re.Match[str]) -> str:
        """A bare name: the row has none that an operator could write."""
        return new.get(match[1] if match[1].startswith('"') else f'"{match[1]}"', match[1])

    text = _COLUMN.sub(column, expression.sql)
    return parse(conn, table, text, setting=setting, condition=condition, scanned=scanned)


def disjoint(conn: Connection[Any], table: TableName, one: RowExpression, other: RowExpression) -> bool:
    """Whether PostgreSQL proves that no row can be in both scopes; False where it does not."""
    row = sql.Identifier(ROW)
    return excluded(conn, sql.SQL("{} AS {}").format(relation(table), row), row_sql(one, row), row_sql(other, row))


def excluded(conn: Connection[Any], table: sql.Composable, one: sql.Composable, other: sql.Composable) -> bool:
    """Whether PostgreSQL proves that no row of ``table`` (a FROM item) fulfils both conditions."""
    with conn.transaction(force_rollback=True):
        conn.execute("SET LOCAL constraint_exclusion = on")
        query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} WHERE ({}) AND ({})").format(table, one, other)
        found = conn.execute(query.as_string(conn).encode()).fetchone()
    plan = found[0][0]["Plan"] if found else {}
    # PostgreSQL 16 keeps what is below the filter in the plan: it is never run
    return plan.get("Node Type") == "Result" and plan.get("One-Time Filter") == "false"


def _short(given: str) -> str:
    line = " ".join(given.split())
    return line if len(line) <= 80 else line[:79] + "…"


def _wrong(setting: str, given: str, why: str, hint: str = "") -> SettingsError:
    return SettingsError(f"{setting} = {_short(given)}: {why}.", hint=hint)
