"""Change capture: triggers that append what the application changed to an append-only queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from embedtui.model import Migration, PlacementKind, TableName
from embedtui.postgres.connect import CANONICAL, Connection
from embedtui.postgres.names import relation
from embedtui.postgres.sides.capture_bodies import bodies
from embedtui.postgres.sides.layout import follows_by_foreign_key

FAULTS_READ = 100_000
"""Faults that one scan settles at most; there is one a transaction."""

# Of the functions: names are the catalog's, and the text of a key is the one that our own sessions read.
_SETTINGS = {"search_path": "pg_catalog, pg_temp"} | CANONICAL
_CONFIGURATION = [f"{name}={value}" for name, value in _SETTINGS.items()]
"""The same as pg_proc has it."""


def _name(migration: Migration, what: str) -> str:
    return f"embedtui_{migration.id}_{what}"


def _function(migration: Migration, what: str) -> sql.Identifier:
    return sql.Identifier("embedtui", f"capture_{migration.id}_{what}")


def functions_sql(
    migration: Migration, attaching: Sequence[str] = (), made: Mapping[str, str] | None = None
) -> tuple[sql.Composed, ...]:
    """DDL of the trigger functions alone: takes no lock on the table, and has every session compile them anew.

    ``attaching``: see :func:`attaching_roles`. ``made``: sources of others by their names, as a fold's.

    They are SECURITY DEFINER, so that an application role needs no right on our schema; hence nobody may execute them
    (a trigger fires without), they serve no table but the migration's and its partitions, and they make text by output
    functions alone (see ``values``): on a table of somebody else's, a key with a cast of its own would run as us.
    """
    statements: list[sql.Composed] = []
    for what, body in (bodies(migration) if made is None else made).items():
        statements += _function_sql(_function(migration, what), body)
        statements += [
            sql.SQL("GRANT EXECUTE ON FUNCTION {}() TO {}").format(_function(migration, what), sql.Identifier(role))
            for role in attaching
        ]
    return tuple(statements)


def _function_sql(name: sql.Identifier, body: str) -> tuple[sql.Composed, sql.Composed]:
    """DDL of one trigger function, which only triggers call."""
    session = sql.SQL(" ").join(
        sql.SQL("SET {} = {}").format(sql.SQL(setting), sql.SQL(", ").join(map(sql.Literal, value.split(", "))))
        for setting, value in _SETTINGS.items()
    )
    return (
        sql.SQL(
            "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {session} AS {body}"
        ).format(name=name, session=session, body=sql.Literal(body)),
        sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(name),
    )


def attaching_roles(conn: Connection, migration: Migration) -> list[str]:
    """Roles that may attach partitions: to copy our triggers to one, PostgreSQL asks for EXECUTE on their functions.

    It gives the table's owner nothing: on any other table the functions do nothing. Empty where not partitioned.
    """
    rows = conn.execute(
        "SELECT DISTINCT pg_catalog.pg_get_userbyid(c.relowner) FROM pg_catalog.pg_class c WHERE c.relkind = 'p' AND"
        " (c.oid = %(table)s OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(%(table)s::oid::regclass)))"
        " AND c.relowner <> (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user) ORDER BY 1",
        {"table": migration.table_oid},
    )
    return [role for (role,) in rows]


def renamed_sql(conn: Connection, migration: Migration) -> tuple[sql.Composed, ...]:
    """The functions by the migration's names, for the transaction that gives the columns these names.

    Empty where there are none, or this role may not change them: they fail then, and a scan finds what changed.
    """
    row = conn.execute(
        "SELECT bool_and(pg_catalog.pg_has_role(p.proowner, 'USAGE')) FROM pg_catalog.pg_proc p"
        " JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace"
        " WHERE n.nspname = 'embedtui' AND p.proname = ANY (%s)",
        [[f"capture_{migration.id}_{what}" for what in bodies(migration)]],
    ).fetchone()
    return functions_sql(migration, attaching_roles(conn, migration)) if row == (True,) else ()


def close_functions(conn: Connection, migration: Migration, made: Mapping[str, str] | None = None) -> bool:
    """Bring the functions of an installed change capture to what :func:`functions_sql` makes; whether they were not.

    Their triggers stay as they are; ``made`` as there. A role that does not own them leaves it to the one that does.
    """
    sources = bodies(migration) if made is None else made
    wanted = {f"capture_{migration.id}_{what}": body for what, body in sources.items()}
    may_attach = set(attaching_roles(conn, migration)) if made is None else set[str]()
    found = conn.execute(
        """
        SELECT p.proname, p.prosrc, p.proconfig, pg_catalog.pg_get_userbyid(p.proowner)::text,
               pg_catalog.pg_has_role(p.proowner, 'USAGE'),
               ARRAY(SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END
                     FROM pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
                     WHERE a.grantee <> p.proowner ORDER BY 1)
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'embedtui' AND p.proname = ANY (%s) AND p.prosecdef
        """,
        [list(wanted)],
    ).fetchall()
    closed = all(
        body == wanted[name] and config == _CONFIGURATION and set(granted) == may_attach - {owner}
        for name, body, config, owner, _, granted in found
    )
    if closed or not all(mine for *_, mine, _ in found):
        return False
    with conn.transaction():
        if any(config != _CONFIGURATION for _, _, config, *_ in found):
            # it may have queued keys in a text that no row is found by: only a scan finds those
            add_fault(conn, migration, "keys were written under the settings of the application's sessions")
        for name, *_, granted in found:
            for role in set(granted) - may_attach - {"PUBLIC"}:  # of default privileges, or by hand
                conn.execute(
                    sql.SQL("REVOKE ALL ON FUNCTION {}() FROM {}").format(
                        sql.Identifier("embedtui", name), sql.Identifier(role)
                    )
                )
        for statement in functions_sql(migration, sorted(may_attach), sources):
            conn.execute(statement)
    return True


def install_sql(migration: Migration, attaching: Sequence[str] = ()) -> tuple[sql.Composed, ...]:
    """DDL that installs change capture: functions and triggers.

    A row trigger without a column list also sees edits made by BEFORE triggers. ENABLE ALWAYS also captures what a
    logical replication apply worker writes.
    """
    statements = list(functions_sql(migration, attaching))
    for each in _triggers(migration):
        identifier, table = sql.Identifier(_name(migration, each.name)), relation(each.table)
        level = sql.SQL("STATEMENT" if each.event == "TRUNCATE" else "ROW")
        statements += [
            sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(identifier, table),
            sql.SQL("CREATE TRIGGER {} AFTER {} ON {} FOR EACH {} EXECUTE FUNCTION {}({})").format(
                identifier,
                sql.SQL(each.event),
                table,
                level,
                _function(migration, each.function),
                sql.Literal(each.kind),
            ),
            sql.SQL("ALTER TABLE {} ENABLE {} TRIGGER {}").format(
                table, sql.SQL("REPLICA" if each.enabled == "R" else "ALWAYS"), identifier
            ),
        ]
    return tuple(statements)


def tables(migration: Migration) -> list[TableName]:
    """The tables that have, or would have, triggers of change capture."""
    other = migration.text_table
    return [migration.table] if other is None else [migration.table, other.table]


@dataclass(frozen=True, slots=True)
class _Trigger:
    """A trigger of change capture."""

    name: str
    event: str
    function: str
    kind: str
    """Of its queue entries."""
    table: TableName
    oid: int
    """Of its table."""
    enabled: str = "A"
    """As pg_trigger has it."""


def _triggers(migration: Migration) -> list[_Trigger]:
    """All triggers, in the order in which they are made.

    Of the table with the texts: a row that is inserted there is referred to by none yet, unless nobody checks foreign
    keys (as where a subscription applies changes); one that is deleted may come again under the same key before they
    are checked. TRUNCATE empties the table that refers to it as well, or fails.
    """
    here = [("insert", "INSERT", "row", "i"), ("update", "UPDATE", "row", "u")]
    if migration.placement is PlacementKind.TABLE and not follows_by_foreign_key(migration):
        here += [
            ("delete", "DELETE", "old_row", "d"),
            ("rekey", "UPDATE", "old_row", "d"),
            ("truncate", "TRUNCATE", "all", "t"),
        ]
    found = [_Trigger(*each, migration.table, migration.table_oid) for each in here]
    other = migration.text_table
    if other is not None:
        found += [
            _Trigger("text_insert", "INSERT", "text", "x", other.table, other.oid, "R"),
            _Trigger("text_update", "UPDATE", "text", "x", other.table, other.oid),
            _Trigger("text_delete", "DELETE", "old_text", "x", other.table, other.oid),
        ]
    return found


@dataclass(frozen=True, slots=True)
class CaptureState:
    """How change capture fares, of one moment."""

    phase: str
    installed: bool
    """All triggers are there and enabled, and their functions are those that this migration needs now."""
    faults: tuple[int, ...]
    """Transactions that it could not capture, by their ids in capture_fault: only a scan finds what they wrote."""
    reason: str
    """Why, of the newest of them."""


def state(conn: Connection, migration: Migration) -> CaptureState:
    """How change capture fares; a function of an older program, or of columns' former names, counts as missing."""
    wanted = _triggers(migration)
    row = conn.execute(
        "SELECT phase, (SELECT count(*) FROM pg_catalog.pg_trigger t"
        " JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid AND p.prosrc = ANY (%(b)s) AND p.proconfig = %(c)s"
        " WHERE (t.tgrelid::int8, t.tgname, t.tgenabled) IN (SELECT * FROM ROWS FROM (unnest(%(o)s::int8[]),"
        ' unnest(%(n)s::name[]), unnest(%(e)s::"char"[])) u) AND t.tgqual IS NULL)'
        " FROM embedtui.migration m WHERE id = %(m)s",
        {
            "b": list(bodies(migration).values()),
            "c": _CONFIGURATION,
            "o": [each.oid for each in wanted],
            "n": [_name(migration, each.name) for each in wanted],
            "e": [each.enabled for each in wanted],
            "m": migration.id,
        },
    ).fetchone()
    if row is None:
        return CaptureState("", False, (), "")
    found = faults(conn, migration.id)
    why = (
        conn.execute("SELECT reason FROM embedtui.capture_fault WHERE id = %s", [found[0]]).fetchone()
        if found
        else None
    )
    return CaptureState(row[0], row[1] == len(wanted), found, why[0] if why else "")


def faults(conn: Connection, migration_id: int) -> tuple[int, ...]:
    """Ids of the changes that could not be captured, the newest first."""
    rows = conn.execute(
        "SELECT id FROM embedtui.capture_fault WHERE migration = %s ORDER BY id DESC LIMIT %s",
        [migration_id, FAULTS_READ],
    )
    return tuple(number for (number,) in rows)


def add_fault(conn: Connection, migration: Migration, reason: str) -> None:
    """Have the table scanned for changes that the queue does not tell of."""
    conn.execute("INSERT INTO embedtui.capture_fault (migration, reason) VALUES (%s, %s)", [migration.id, reason[:500]])


def forget_faults(conn: Connection, ids: Iterable[int]) -> None:
    """Take faults off whose changes a scan, begun after they were read, has found."""
    conn.execute("DELETE FROM embedtui.capture_fault WHERE id = ANY (%s)", [list(ids)])


def faulty(conn: Connection, migration_id: int) -> bool:
    """Whether there are changes that were not captured, and no scan has found yet."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM embedtui.capture_fault WHERE migration = %s)", [migration_id]
    ).fetchone()
    return bool(row and row[0])


def remove_sql(migration: Migration) -> tuple[sql.Composed, ...]:
    """DDL that takes change capture away; a no-op where it is gone already."""
    named = [(name, migration.table) for name in ("insert", "update", "rekey", "delete", "truncate")]
    if migration.text_table is not None:
        named += [(each.name, each.table) for each in _triggers(migration) if each.table != migration.table]
    statements = [
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(_name(migration, name)), relation(table))
        for name, table in named
    ]
    return (*statements, *remove_functions_sql(migration, *_OF_CAPTURE))


_OF_CAPTURE = ("row", "old_row", "all", "text", "old_text")


def remove_functions_sql(migration: Migration, *functions: str) -> tuple[sql.Composed, ...]:
    """DDL that drops these trigger functions, once their triggers are gone; by default all, a fold's too."""
    return tuple(
        sql.SQL("DROP FUNCTION IF EXISTS {}()").format(_function(migration, what))
        for what in functions or (*_OF_CAPTURE, "side")
    )


def insert_trigger(migration: Migration) -> str:
    """Name of the trigger that captures inserts, of the table and of each partition."""
    return _name(migration, "insert")
