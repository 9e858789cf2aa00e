"""The routed view: the table with the new vector under the old one's name, for applications that know a search path.

It lives in a schema of its own, is called like the table, and runs with the rights of who uses it. The catalog is the
truth about it: a comment names the migration, so that it is found after renames and restores alike. With a scope it
shows that one's rows alone, since no others have a new vector, and its check option refuses a write of any other.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from embedtui.errors import Refused
from embedtui.model import Migration, PlacementKind, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement
from embedtui.postgres.names import IDENTIFIER_BYTES, relation, shown, shown_column, suffixed
from embedtui.postgres.sides import rights
from embedtui.postgres.sides.layout import new_side, scope_sql
from embedtui.postgres.state.migrations import columns_of_other_scopes

SINCE = 150_000
"""server_version_num that knows security_invoker: without it a view reads with its owner's rights."""

_SCHEMA_MARK = "embedtui: routed views"
VIEW_MARK = "embedtui: routed view of migration "

_WRITABLE = ("SELECT", "INSERT", "UPDATE", "DELETE")

# Only one whose owner has the rights of the table's: anybody can write a comment.
_FIND = """
SELECT n.nspname::text, v.relname::text, v.oid::int8, v.oid::regclass::text,
       pg_has_role(v.relowner, 'USAGE'),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = v.oid AND a.attnum > 0 ORDER BY a.attnum)
  FROM pg_class t JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
   AND d.classid = 'pg_rewrite'::regclass
  JOIN pg_rewrite w ON w.oid = d.objid JOIN pg_class v ON v.oid = w.ev_class
  JOIN pg_namespace n ON n.oid = v.relnamespace
 WHERE t.oid IN (%(oid)s, to_regclass(%(name)s)) AND v.relkind = 'v' AND obj_description(v.oid, 'pg_class') = %(mark)s
   AND pg_has_role(v.relowner, t.relowner, 'MEMBER')
 LIMIT 1
"""

_SCHEMA = """
SELECT n.oid::int8,
       coalesce(obj_description(n.oid, 'pg_namespace') = %(mark)s
                AND pg_has_role(n.nspowner, (SELECT relowner FROM pg_class WHERE oid = %(table)s), 'MEMBER')
                AND has_schema_privilege(n.oid, 'CREATE')
                AND NOT EXISTS (SELECT FROM aclexplode(n.nspacl) a
                                 WHERE a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner), false),
       to_regclass(%(view)s) IS NOT NULL
  FROM pg_namespace n WHERE n.nspname = %(schema)s
"""

_COLUMNS = (
    "SELECT attname::text FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
)

_OPENED_BY_DEFAULT = """
SELECT DISTINCT d.defaclobjtype::text, coalesce(pg_get_userbyid(nullif(a.grantee, 0))::text, '')
  FROM pg_default_acl d, aclexplode(d.defaclacl) a
 WHERE d.defaclnamespace = 0 AND d.defaclobjtype IN ('r', 'n') AND a.grantee <> d.defaclrole
   AND d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)
"""

_DEPENDENTS = """
SELECT DISTINCT coalesce((SELECT pg_describe_object('pg_class'::regclass, w.ev_class, 0) FROM pg_rewrite w
                           WHERE d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid),
                         pg_describe_object(d.classid, d.objid, 0))
  FROM pg_depend d
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = %(oid)s AND d.deptype IN ('n', 'a')
   AND NOT (d.classid = 'pg_rewrite'::regclass
            AND d.objid IN (SELECT oid FROM pg_rewrite WHERE ev_class = %(oid)s)) ORDER BY 1
"""

_OTHERS_IN_SCHEMA = """
SELECT EXISTS (SELECT FROM pg_depend d JOIN pg_namespace n ON d.refclassid = 'pg_namespace'::regclass
                AND n.oid = d.refobjid WHERE n.nspname = %(schema)s
                AND NOT (d.classid = 'pg_class'::regclass AND d.objid = %(oid)s))
       OR obj_description((SELECT oid FROM pg_namespace WHERE nspname = %(schema)s), 'pg_namespace')
          IS DISTINCT FROM %(mark)s
       OR NOT pg_has_role((SELECT nspowner FROM pg_namespace WHERE nspname = %(schema)s), 'USAGE')
"""

Grant = tuple[str, str, str, bool]
"""Column (of the view, or empty: all), role (empty: PUBLIC), privilege, with grant option."""


@dataclass(frozen=True, slots=True)
class RoutedView:
    """One that is there."""

    name: TableName
    oid: int
    regclass: str
    """As PostgreSQL writes it."""
    ours: bool
    """This role may change and drop it."""
    columns: tuple[str, ...]

    def __str__(self) -> str:
        return shown(self.name)


def find(conn: Connection, migration: Migration) -> RoutedView | None:
    """The migration's view; None where there is none."""
    names = {"oid": migration.table_oid, "name": relation(migration.table).as_string(conn), "mark": _mark(migration)}
    row = conn.execute(_FIND, names).fetchone()
    return RoutedView(TableName(row[0], row[1]), row[2], row[3], row[4], tuple(row[5])) if row else None


def _mark(migration: Migration) -> str:
    return f"{VIEW_MARK}{migration.id}"


def name_of(migration: Migration) -> TableName:
    """Where it is made: as set, else in ``<name>_v2``."""
    return TableName(migration.stored.view_schema or suffixed(migration.name, "_v2"), migration.table.name)


def obstacle(conn: Connection, migration: Migration) -> tuple[str, str] | None:
    """(why it cannot be made, what helps); None where it can, or is there."""
    if migration.placement is not PlacementKind.COLUMN:
        return (
            "A routed view shows a column beside the old one; over a side table it would be a join, through which no"
            " application could write.",
            'Set placement = "column".',
        )
    if find(conn, migration) is not None:
        return None
    if conn.info.server_version < SINCE:
        why = "A routed view needs PostgreSQL 15 (security_invoker)."
        return why, "What asks the route itself needs none: a Router, embedtui.search()."
    name = name_of(migration)
    other = 'Choose another: view_schema = "…" (--schema).'
    if len(name.schema.encode()) > IDENTIFIER_BYTES or name.schema.startswith("pg_"):
        return f"PostgreSQL takes no schema called {shown_column(name.schema)}.", other
    row = conn.execute(
        _SCHEMA,
        {
            "mark": _SCHEMA_MARK,
            "table": migration.table_oid,
            "schema": name.schema,
            "view": relation(name).as_string(conn),
        },
    ).fetchone()
    if row is None:
        allowed = conn.execute("SELECT has_database_privilege(current_database(), 'CREATE')").fetchone()
        if allowed == (True,):
            return None
        database = shown_column(conn.info.dbname)
        return (
            f"This role may not create schema {shown_column(name.schema)} for the routed view.",
            f"GRANT CREATE ON DATABASE {database} TO {shown_column(conn.info.user)};",
        )
    if not row[1]:
        return f"Schema {shown_column(name.schema)} is there already, and is none of embedtui's.", other
    if row[2] and find(conn, migration) is None:  # else another process has just made it
        return f"{shown(name)} is there already, of another migration.", f"{other} Or: embedtui view --drop"
    return None


def make_sql(conn: Connection, migration: Migration) -> list[Statement]:
    """DDL of the view as the table is now, made or brought up to date; locks on the table like a SELECT.

    Raises:
        Refused: it cannot be made.
    """
    wrong = obstacle(conn, migration)
    if wrong is not None:
        raise Refused(wrong[0], hint=wrong[1])
    there = find(conn, migration)
    name = there.name if there is not None else name_of(migration)
    schema, view = sql.Identifier(name.schema), relation(name)
    opened = conn.execute(_OPENED_BY_DEFAULT).fetchall()
    statements: list[Statement] = []
    if conn.execute("SELECT to_regnamespace(%s)", [schema.as_string(conn)]).fetchone() == (None,):
        statements.append(sql.SQL("CREATE SCHEMA {}").format(schema))
        statements += [
            sql.SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(schema, _role(role))
            for kind, role in opened
            if kind == "n"
        ]
        statements.append(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(schema, sql.Literal(_SCHEMA_MARK)))
    pairs = _pairs(conn, migration)
    if there is not None and there.columns != tuple(shown_as for _, shown_as in pairs)[: len(there.columns)]:
        statements.append(sql.SQL("DROP VIEW {}").format(view))  # columns can only be added to one that is there
    statements.append(
        sql.SQL("CREATE OR REPLACE VIEW {} WITH (security_invoker = true) AS SELECT {} FROM {} t{}").format(
            view,
            sql.SQL(", ").join(
                sql.Identifier("t", column)
                if column == shown_as
                else sql.SQL("{} AS {}").format(sql.Identifier("t", column), sql.Identifier(shown_as))
                for column, shown_as in pairs
            ),
            relation(migration.table),
            sql.SQL("") if migration.scope is None else _of_scope(migration),
        )
    )
    statements.append(sql.SQL("COMMENT ON VIEW {} IS {}").format(view, sql.Literal(_mark(migration))))
    stale = {role for _, role, *_ in (_grants(conn, there.oid) if there is not None else ())}
    for role in sorted(stale | {role for kind, role in opened if kind == "r"}):
        statements.append(sql.SQL("REVOKE ALL ON {} FROM {}").format(view, _role(role)))
    return statements + _grant_sql(conn, migration, name, dict(pairs))


def drop_sql(conn: Connection, there: RoutedView) -> list[Statement]:
    """DDL that takes it away, and its schema where nothing else is in it."""
    statements: list[Statement] = [sql.SQL("DROP VIEW {}").format(relation(there.name))]
    names = {"schema": there.name.schema, "oid": there.oid, "mark": _SCHEMA_MARK}
    if conn.execute(_OTHERS_IN_SCHEMA, names).fetchone() == (False,):
        statements.append(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(there.name.schema)))
    return statements


def dependents(conn: Connection, there: RoutedView) -> list[str]:
    """What depends on the view, as PostgreSQL describes it."""
    return [what for (what,) in conn.execute(_DEPENDENTS, {"oid": there.oid})]


def current(conn: Connection, migration: Migration, there: RoutedView) -> bool:
    """Whether its columns and grants are those of the table as it is now, and its schema may be used by the same."""
    pairs = _pairs(conn, migration)
    wanted = {grant for grant in _wanted(conn, migration, dict(pairs)) if grant[1] != _owner(conn, there.oid)}
    if there.columns != tuple(name for _, name in pairs) or wanted != set(_grants(conn, there.oid)):
        return False
    users = _users_of_schema(conn, migration.table.schema, {role for _, role, *_ in wanted})
    shut_out = conn.execute(
        "SELECT EXISTS (SELECT FROM unnest(%s::text[]) r WHERE NOT has_schema_privilege(r, %s, 'USAGE'))",
        [[role or "public" for role in users], there.name.schema],
    ).fetchone()
    return shut_out == (False,)


def _of_scope(migration: Migration) -> sql.Composed:
    """What is neither shown nor written: a write of it would land in a column that nobody searches for it."""
    return sql.SQL(" WHERE {} WITH CASCADED CHECK OPTION").format(scope_sql(migration, "t"))


def _pairs(conn: Connection, migration: Migration) -> list[tuple[str, str]]:
    """(column of the table, its name in the view): the table as it was, with the new vector for the old one."""
    side = new_side(migration)
    left_out = {side.embedding, side.model, side.source, *columns_of_other_scopes(conn, migration)}
    return [
        (side.embedding if name == migration.old_column else name, name)
        for (name,) in conn.execute(_COLUMNS, [migration.table_oid]).fetchall()
        if name not in left_out or name == migration.old_column
    ]


def _grants(conn: Connection, oid: int) -> list[Grant]:
    owner = _owner(conn, oid)
    found = rights.read_grants(conn, oid)
    names = {0: "", **rights.role_names(conn, {role for role, *_ in found})}
    return [
        (column or "", names[role], privilege, grantable)
        for role, privilege, column, grantable in found
        if privilege in _WRITABLE and names[role] != owner
    ]


def _owner(conn: Connection, oid: int) -> str:
    row = conn.execute("SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = %s", [oid]).fetchone()
    return row[0] if row else ""


def _wanted(conn: Connection, migration: Migration, names: dict[str, str]) -> set[Grant]:
    """The table's grants, by the view's names; those on the old vector alone are on the new one."""
    by_old = {**names, migration.old_column: migration.old_column, "": ""}
    by_old.pop(new_side(migration).embedding, None)
    owner = _owner(conn, migration.table_oid)
    grants = {(by_old[grant[0]], *grant[1:]) for grant in _grants(conn, migration.table_oid) if grant[0] in by_old}
    return grants | {("", owner, privilege, False) for privilege in _WRITABLE}


def _grant_sql(conn: Connection, migration: Migration, name: TableName, names: dict[str, str]) -> list[Statement]:
    """The table's grants on the view; USAGE for who may use the table by its name; new vector as the old one."""
    made = sql.SQL("GRANT {} ON {} TO {}{}")
    statements: list[Statement] = []
    me = conn.execute("SELECT current_user::text").fetchone()
    wanted = sorted(grant for grant in _wanted(conn, migration, names) if grant[1] != (me[0] if me else ""))
    for column, role, privilege, grantable in wanted:
        option = sql.SQL(" WITH GRANT OPTION" if grantable else "")
        if column == migration.old_column:  # the invoker needs it on the table, too
            new = _of_column(privilege, new_side(migration).embedding)
            statements.append(made.format(new, relation(migration.table), _role(role), option))
        right = _of_column(privilege, column) if column else sql.SQL(privilege)
        statements.append(made.format(right, relation(name), _role(role), option))
    usage = sql.SQL("GRANT USAGE ON SCHEMA {} TO {}")
    users = {role for _, role, *_ in wanted}
    return statements + [
        usage.format(sql.Identifier(name.schema), _role(role))
        for role in sorted(_users_of_schema(conn, migration.table.schema, users))
    ]


def _of_column(privilege: str, column: str) -> sql.Composed:
    return sql.SQL("{} ({})").format(sql.SQL(privilege), sql.Identifier(column))


def _users_of_schema(conn: Connection, schema: str, users: set[str]) -> set[str]:
    """Those of ``users`` who may use the table's schema; where all may use the table, who may use its schema."""
    rows = conn.execute(
        "SELECT coalesce(pg_get_userbyid(nullif(a.grantee, 0))::text, '') FROM pg_namespace n,"
        " aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a"
        " WHERE n.nspname = %s AND a.privilege_type = 'USAGE'",
        [schema],
    ).fetchall()
    may = {role for (role,) in rows}
    if "" in users and "" not in may:
        users = users | may
    found = conn.execute(
        "SELECT r FROM unnest(%s::text[]) r WHERE r <> '' AND has_schema_privilege(r, %s, 'USAGE')",
        [list(users - {""}), schema],
    ).fetchall()
    return {role for (role,) in found} | ({""} & users & may)


def _role(name: str) -> sql.Composable:
    return sql.Identifier(name) if name else sql.SQL("PUBLIC")
