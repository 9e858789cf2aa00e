"""The new side as closed, and as open, as the old column: its grants and row security mirrored from the table's.

Row security of a side table asks the row it belongs to, as the role that reads: whatever policies that has, now and
later. What a role may do is compared by effective rights, so that a grant by way of a group is none too many.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from psycopg import sql

from embedtui.model import Migration, PlacementKind, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import new_side
from embedtui.postgres.values import equal_sql

POLICIES = ("embedtui_read", "embedtui_add", "embedtui_change")
"""Policies of a side table under row security. There is none for DELETE: a row goes with its source."""

_SOURCE = "embedtui_source"

# what a grant on the table, or on one of its columns, says of a new side
_MIRRORED = ("SELECT", "INSERT", "UPDATE", "TRUNCATE")
_OF_COLUMNS = ("SELECT", "INSERT", "UPDATE", "REFERENCES")

_GRANTS = """
SELECT a.grantee::int8, a.privilege_type, NULL AS column, a.is_grantable
  FROM pg_catalog.pg_class c, pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) a
 WHERE c.oid = %(oid)s
UNION ALL
SELECT a.grantee::int8, a.privilege_type, t.attname::text, a.is_grantable
  FROM pg_catalog.pg_attribute t, pg_catalog.aclexplode(t.attacl) a
 WHERE t.attrelid = %(oid)s AND t.attnum > 0 AND NOT t.attisdropped
"""

# Whom default privileges would let at a new table of this role's in that schema, and everybody.
_DEFAULTS = """
SELECT DISTINCT a.grantee::int8 FROM pg_catalog.pg_default_acl d, pg_catalog.aclexplode(d.defaclacl) a
 WHERE d.defaclobjtype = 'r' AND d.defaclrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)
   AND d.defaclnamespace IN (0, (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %s))
   AND a.grantee <> d.defaclrole
"""

_TREE = """
SELECT c.oid::int8, n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = %(oid)s OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(%(oid)s::oid::regclass))
 ORDER BY c.oid = %(oid)s DESC, 1
"""


@dataclass(frozen=True, slots=True)
class _Grants:
    """What each grantee (a role's oid; 0 is PUBLIC) was granted on one table."""

    table: dict[int, set[str]]
    columns: dict[int, dict[str, set[str]]]

    def grantees(self) -> list[int]:
        return sorted({*self.table, *self.columns})

    def on(self, grantee: int, column: str) -> set[str]:
        return self.table.get(grantee, set()) | self.columns.get(grantee, {}).get(column, set())


@dataclass(frozen=True, slots=True)
class _Change:
    """One GRANT or REVOKE."""

    privilege: str
    table: TableName
    columns: tuple[str, ...]
    role: int

    def sql(self, grant: bool, names: dict[int, str]) -> sql.Composed:
        role: sql.Composable = sql.SQL("PUBLIC") if self.role == 0 else sql.Identifier(names[self.role])
        listed = sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, self.columns)))
        return sql.SQL("GRANT {}{} ON {} TO {}" if grant else "REVOKE {}{} ON {} FROM {}").format(
            sql.SQL(self.privilege), listed if self.columns else sql.SQL(""), relation(self.table), role
        )


def first_sql(conn: Connection, migration: Migration) -> list[sql.Composed]:
    """DDL that follows the one that makes the new side, in its transaction; default privileges open nothing."""
    side = new_side(migration).table
    if migration.placement is PlacementKind.COLUMN:
        return [change.sql(True, _names(conn, [change])) for change in _missing_of_columns(conn, migration)]
    opened = [_Change("ALL", side, (), role) for (role,) in conn.execute(_DEFAULTS, [side.schema])]
    grants = list(_mirrored(conn, migration, _Grants({}, {})))
    names = _names(conn, [*opened, *grants])
    closed = _Change("ALL", side, (), 0)
    statements = [change.sql(False, names) for change in (closed, *(each for each in opened if each.role))]
    statements += [change.sql(True, names) for change in grants]
    if _row_security(conn, migration.table_oid):
        statements += _policies_sql(migration)
    return statements


def asking_sql(conn: Connection, migration: Migration) -> list[sql.Composed]:
    """DDL that has the policies of an existing side table ask the migration's table; empty where it needs none."""
    side = _oid(conn, new_side(migration).table)
    needed = _row_security(conn, migration.table_oid) or (side is not None and _row_security(conn, side))
    return _policies_sql(migration) if needed else []


def own_sql(conn: Connection, table: TableName) -> list[sql.Composed]:
    """REVOKEs that leave a table that was just made to its owner, whatever default privileges opened it to."""
    oid = _oid(conn, table)
    assert oid is not None
    owner = _owner(conn, oid)
    opened = [_Change("ALL", table, (), role) for role in _grants(conn, oid).grantees() if role != owner]
    return [change.sql(False, _names(conn, opened)) for change in opened]


def differences_sql(conn: Connection, migration: Migration) -> list[sql.Composed]:
    """DDL that brings the rights on an existing new side in line with the table's; empty where they are."""
    if migration.placement is PlacementKind.COLUMN:
        missing, surplus = _missing_of_columns(conn, migration), _surplus_of_columns(conn, migration)
        policies: list[sql.Composed] = []
    else:
        side = _oid(conn, new_side(migration).table)
        if side is None:
            return []
        surplus = list(_surplus(conn, migration, side))
        # as it is once the surplus is gone: of a privilege on the table its columns may be left
        missing = list(_mirrored(conn, migration, _without(_grants(conn, side), surplus)))
        needed = _row_security(conn, migration.table_oid) or _row_security(conn, side)
        policies = _policies_sql(migration) if needed and not _follows(conn, side) else []
    names = _names(conn, [*surplus, *missing])
    return [
        *(change.sql(False, names) for change in surplus),
        *(change.sql(True, names) for change in missing),
        *policies,
    ]


def mirrored(conn: Connection, migration: Migration) -> bool:
    """Whether a new column has, or is given as it is made, the grants that the old one has of its own."""
    held = _grants(conn, migration.table_oid).columns
    kinds = {kind for of in held.values() for kind in of.get(migration.old_column, set())}
    if not kinds <= set(_OF_COLUMNS):
        return False
    there = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attname = %s)",
        [migration.table_oid, migration.new_column],
    ).fetchone()
    return there == (False,) or not _missing_of_columns(conn, migration)


def digest(conn: Connection, migration: Migration) -> str:
    """Of all that was granted on the table and the new side: the same where nothing of it has changed."""
    row = conn.execute(
        """
        SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ', c.oid, c.relacl, c.relrowsecurity,
            (SELECT pg_catalog.string_agg(pg_catalog.concat(a.attnum, a.attacl), ' ' ORDER BY a.attnum)
               FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL)), ';' ORDER BY c.oid))
          FROM pg_catalog.pg_class c
         WHERE c.oid IN (%(oid)s, to_regclass(%(side)s))
            OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(%(oid)s::oid::regclass))
        """,
        {"oid": migration.table_oid, "side": relation(new_side(migration).table).as_string(conn)},
    ).fetchone()
    return str(row[0]) if row else ""


def may_change(conn: Connection, migration: Migration) -> bool:
    """Whether this role owns what it would grant on."""
    row = conn.execute(
        "SELECT pg_catalog.pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)",
        [relation(new_side(migration).table).as_string(conn)],
    ).fetchone()
    return bool(row and row[0])


def _policies_sql(migration: Migration) -> list[sql.Composed]:
    """Row security of a side table: a row is seen where its source is seen, and written where its source is.

    The subquery runs with the reader's rights and under the source's policies; FOR KEY SHARE brings those for UPDATE
    to bear. A scalar one, since of EXISTS the planner may hash the whole table for one search.
    """
    table = new_side(migration).table
    source = sql.SQL("(SELECT true FROM {} AS {} WHERE {}").format(
        relation(migration.table),
        sql.Identifier(_SOURCE),
        sql.SQL(" AND ").join(
            equal_sql(migration, name, sql.Identifier(_SOURCE, name), sql.Identifier(table.schema, table.name, name))
            for name in migration.key_columns
        ),
    )
    seen = sql.SQL("({})").format(source + sql.SQL(")"))
    written = sql.SQL("({})").format(source + sql.SQL(" FOR KEY SHARE)"))
    read, add, change = POLICIES
    drop = [
        sql.SQL("DROP POLICY IF EXISTS {} ON {}").format(sql.Identifier(name), relation(table)) for name in POLICIES
    ]
    return [
        sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(relation(table)),
        *drop,
        sql.SQL("CREATE POLICY {} ON {} FOR SELECT USING {}").format(sql.Identifier(read), relation(table), seen),
        sql.SQL("CREATE POLICY {} ON {} FOR INSERT WITH CHECK {}").format(
            sql.Identifier(add), relation(table), written
        ),
        sql.SQL("CREATE POLICY {} ON {} FOR UPDATE USING {} WITH CHECK {}").format(
            sql.Identifier(change), relation(table), written, written
        ),
    ]


def _mirrored(conn: Connection, migration: Migration, there: _Grants) -> Iterator[_Change]:
    """What the grants on the source say of the side table, less what is ``there``."""
    side, source = new_side(migration), _grants(conn, migration.table_oid)
    vectors, keys, old = (side.embedding, side.model, side.source), migration.key_columns, migration.old_column
    owner = _owner(conn, _oid(conn, side.table))
    for role in source.grantees():
        if role == owner:
            continue
        whole = source.table.get(role, set())
        wanted: list[tuple[str, tuple[str, ...]]] = []
        read = [name for name in keys if "SELECT" in source.on(role, name)]
        read += vectors if "SELECT" in source.on(role, old) else ()
        if "SELECT" in whole:
            wanted.append(("SELECT", ()))
        elif read:
            wanted.append(("SELECT", tuple(read)))
        if "UPDATE" in source.on(role, old):
            wanted += [("INSERT", ()), ("UPDATE", vectors)]
        if "TRUNCATE" in whole:
            wanted.append(("TRUNCATE", ()))
        for privilege, columns in wanted:
            if privilege in there.table.get(role, set()):
                continue
            lacking = tuple(name for name in columns if privilege not in there.on(role, name))
            if lacking or not columns:
                yield _Change(privilege, side.table, lacking, role)


def _surplus(conn: Connection, migration: Migration, side: int) -> Iterator[_Change]:
    """Grants on the side table to who has not that on the source.

    DELETE is not mirrored, and left to who granted it: a worker has it where no foreign key takes vectors along.
    """
    table, grants, owner = new_side(migration).table, _grants(conn, side), _owner(conn, side)
    keys, old = migration.key_columns, migration.old_column
    for role in grants.grantees():
        if role == owner:
            continue
        of_columns = grants.columns.get(role, {})
        for privilege in _MIRRORED:
            if privilege == "TRUNCATE":
                asked: Sequence[str] = ()
            else:
                asked = (*keys, old) if privilege == "SELECT" else (old,)
            may = {name: _may(conn, role, migration.table_oid, name, _of_source(privilege)) for name in asked}
            on_table = privilege in grants.table.get(role, set())
            if on_table and not (all(may.values()) if asked else _may_truncate(conn, role, migration.table_oid)):
                yield _Change(privilege, table, (), role)
                continue  # takes those of columns along
            over = [
                name
                for name, held in of_columns.items()
                if privilege in held and not may.get(name if name in may and privilege == "SELECT" else old, False)
            ]
            if over:
                yield _Change(privilege, table, tuple(over), role)


def _of_source(privilege: str) -> str:
    """To add a vector to a row is to change the row."""
    return "UPDATE" if privilege == "INSERT" else privilege


def _without(grants: _Grants, surplus: Iterable[_Change]) -> _Grants:
    table = {role: set(held) for role, held in grants.table.items()}
    columns = {role: {name: set(held) for name, held in of.items()} for role, of in grants.columns.items()}
    for change in surplus:
        if not change.columns:
            table.get(change.role, set()).discard(change.privilege)
        for name, held in columns.get(change.role, {}).items():
            if not change.columns or name in change.columns:
                held.discard(change.privilege)
    return _Grants(table, columns)


def _missing_of_columns(conn: Connection, migration: Migration) -> list[_Change]:
    """Grants on the old column alone that the new columns of the same table, or of its partitions, lack."""
    side, old = new_side(migration), migration.old_column
    new, found = (side.embedding, side.model, side.source), []
    for oid, schema, name in conn.execute(_TREE, {"oid": migration.table_oid}).fetchall():
        grants, owner = _grants(conn, oid), _owner(conn, oid)
        for role, columns in grants.columns.items():
            for privilege in _OF_COLUMNS:
                lacking = tuple(each for each in new if privilege not in grants.on(role, each))
                if role != owner and privilege in columns.get(old, set()) and lacking:
                    found.append(_Change(privilege, TableName(schema, name), lacking, role))
    return found


def _surplus_of_columns(conn: Connection, migration: Migration) -> list[_Change]:
    side, old = new_side(migration), migration.old_column
    new, found = (side.embedding, side.model, side.source), []
    for oid, schema, name in conn.execute(_TREE, {"oid": migration.table_oid}).fetchall():
        grants, owner = _grants(conn, oid), _owner(conn, oid)
        for role, columns in grants.columns.items():
            for privilege in _OF_COLUMNS:
                over = tuple(each for each in new if privilege in columns.get(each, set()))
                if role != owner and over and not _may(conn, role, oid, old, privilege):
                    found.append(_Change(privilege, TableName(schema, name), over, role))
    return found


def read_grants(conn: Connection, oid: int) -> list[tuple[int, str, str | None, bool]]:
    """All grants on a relation: (grantee's oid, 0 for PUBLIC; privilege; column, None: all; with grant option)."""
    return conn.execute(_GRANTS, {"oid": oid}).fetchall()


def _grants(conn: Connection, oid: int) -> _Grants:
    table: dict[int, set[str]] = defaultdict(set)
    columns: dict[int, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for role, privilege, column, _ in read_grants(conn, oid):
        (table[role] if column is None else columns[role][column]).add(privilege)
    return _Grants(dict(table), {role: dict(of) for role, of in columns.items()})


def _may(conn: Connection, role: int, oid: int, column: str, privilege: str) -> bool:
    """By whatever way it has it: a grant on the table, a group, PUBLIC."""
    row = conn.execute(
        "SELECT pg_catalog.has_column_privilege(%s::oid, %s::oid, %s, %s)", [role, oid, column, privilege]
    ).fetchone()
    return bool(row and row[0])


def _may_truncate(conn: Connection, role: int, oid: int) -> bool:
    row = conn.execute("SELECT pg_catalog.has_table_privilege(%s::oid, %s::oid, 'TRUNCATE')", [role, oid]).fetchone()
    return bool(row and row[0])


def _names(conn: Connection, changes: Iterable[_Change]) -> dict[int, str]:
    return role_names(conn, {change.role for change in changes})


def role_names(conn: Connection, roles: Iterable[int]) -> dict[int, str]:
    """Names of roles by their oids."""
    found = conn.execute("SELECT oid::int8, rolname::text FROM pg_catalog.pg_roles WHERE oid = ANY (%s)", [list(roles)])
    return dict(found.fetchall())


def _oid(conn: Connection, table: TableName) -> int | None:
    row = conn.execute("SELECT to_regclass(%s)::oid::int8", [relation(table).as_string(conn)]).fetchone()
    return row[0] if row else None


def _owner(conn: Connection, oid: int | None) -> int:
    """Of a table; of one that is not there yet, who makes it."""
    row = conn.execute(
        "SELECT coalesce((SELECT relowner FROM pg_catalog.pg_class WHERE oid = %s),"
        " (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user))::int8",
        [oid],
    ).fetchone()
    assert row is not None
    return int(row[0])


def _row_security(conn: Connection, oid: int) -> bool:
    row = conn.execute("SELECT relrowsecurity FROM pg_catalog.pg_class WHERE oid = %s", [oid]).fetchone()
    return bool(row and row[0])


def _follows(conn: Connection, side: int) -> bool:
    """Whether the side table has row security that asks its source."""
    row = conn.execute(
        "SELECT relrowsecurity AND (SELECT count(*) FROM pg_catalog.pg_policy WHERE polrelid = c.oid"
        " AND polname = ANY (%s)) = %s FROM pg_catalog.pg_class c WHERE c.oid = %s",
        [list(POLICIES), len(POLICIES), side],
    ).fetchone()
    return bool(row and row[0])
