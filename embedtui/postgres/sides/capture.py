"""Change capture: triggers that append what the application changed to an append-only queue."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from embedtui.model import Migration, PlacementKind
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import follows_by_foreign_key, new_side
from embedtui.postgres.values import content_types, key_types, output_sql, text_sql

# Types whose text form does not depend on the application's session settings.
_STABLE_TEXT = ("smallint", "integer", "bigint", "uuid", "text", "character", "numeric", "boolean", "oid")


def _name(migration: Migration, what: str) -> str:
    return f"embedtui_{migration.id}_{what}"


def _function(migration: Migration, what: str) -> sql.Identifier:
    return sql.Identifier("embedtui", f"capture_{migration.id}_{what}")


def functions_sql(migration: Migration, attaching: Sequence[str] = ()) -> tuple[sql.Composed, ...]:
    """DDL that makes the functions of change capture, or closes those of an older program; no lock on the table.

    ``attaching``: see :func:`attaching_roles`.

    They are SECURITY DEFINER, so that an application role needs no right on our schema; hence nobody may execute them
    (a trigger fires without), they serve no table but the migration's and its partitions, and they make text by output
    functions alone (see ``columns``): on a table of somebody else's, a key with a cast of its own would run as us.
    """
    session = sql.SQL("")
    if not all(kind.startswith(_STABLE_TEXT) for kind in migration.key_types):
        session = sql.SQL(" SET DateStyle = 'ISO, MDY' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC'")
    statements: list[sql.Composed] = []
    for what, body in _bodies(migration).items():
        statements.append(
            sql.SQL(
                "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
                " SET search_path = pg_catalog, pg_temp{session} AS {body}"
            ).format(name=_function(migration, what), session=session, body=sql.Literal(body))
        )
        statements.append(sql.SQL("REVOKE ALL ON FUNCTION {}() FROM PUBLIC").format(_function(migration, what)))
        statements += [
            sql.SQL("GRANT EXECUTE ON FUNCTION {}() TO {}").format(_function(migration, what), sql.Identifier(role))
            for role in attaching
        ]
    return tuple(statements)


def _bodies(migration: Migration) -> dict[str, str]:
    """The functions by what they are called."""
    keys: dict[str, sql.Composable] = {"row": _row_key(migration, "NEW")}
    if migration.placement is PlacementKind.TABLE and not follows_by_foreign_key(migration):
        keys |= {"old_row": _row_key(migration, "OLD"), "all": sql.SQL("'{}'::pg_catalog.text[]")}
    # a partition's trigger tells of the partition
    text = sql.SQL(
        "BEGIN IF TG_RELID OPERATOR(pg_catalog.=) {table} OR EXISTS (SELECT FROM"
        " pg_catalog.pg_partition_ancestors(TG_RELID) a WHERE a.relid OPERATOR(pg_catalog.=) {table})"
        " THEN INSERT INTO embedtui.queue (migration, key, kind)"
        ' VALUES ({id}, {key}, TG_ARGV[0]::pg_catalog."char"); END IF; RETURN NULL; END'
    )
    table = sql.SQL("{}::pg_catalog.oid").format(sql.Literal(migration.table_oid))
    return {
        what: text.format(table=table, id=sql.Literal(migration.id), key=key).as_string(None)
        for what, key in keys.items()
    }


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


def close_functions(conn: Connection, migration: Migration) -> bool:
    """Bring the functions of an installed change capture to what :func:`functions_sql` makes; whether they were not.

    Their triggers stay as they are. A role that does not own them leaves it to the one that does.
    """
    wanted = {f"capture_{migration.id}_{what}": body for what, body in _bodies(migration).items()}
    may_attach = set(attaching_roles(conn, migration))
    found = conn.execute(
        """
        SELECT p.proname, p.prosrc, pg_catalog.pg_get_userbyid(p.proowner)::text,
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
        body == wanted[name] and set(granted) == may_attach - {owner} for name, body, owner, _, granted in found
    )
    if closed or not all(mine for *_, mine, _ in found):
        return False
    with conn.transaction():
        for name, _, _, _, granted in found:
            for role in set(granted) - may_attach - {"PUBLIC"}:  # of default privileges, or by hand
                conn.execute(
                    sql.SQL("REVOKE ALL ON FUNCTION {}() FROM {}").format(
                        sql.Identifier("embedtui", name), sql.Identifier(role)
                    )
                )
        for statement in functions_sql(migration, sorted(may_attach)):
            conn.execute(statement)
    return True


def install_sql(migration: Migration, attaching: Sequence[str] = ()) -> tuple[sql.Composed, ...]:
    """DDL that installs change capture; every comparison sits in a trigger's WHEN clause, bound by OID here.

    A row trigger without a column list also sees edits made by BEFORE triggers. ENABLE ALWAYS also captures what a
    logical replication apply worker writes.
    """
    statements = list(functions_sql(migration, attaching))

    def trigger(
        event: str, what: str, kind: str, when: sql.Composable | None, level: str = "ROW", name: str = ""
    ) -> None:
        identifier = sql.Identifier(_name(migration, name or event.lower()))
        table = relation(migration.table)
        statements.append(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(identifier, table))
        statements.append(
            sql.SQL("CREATE TRIGGER {} AFTER {} ON {} FOR EACH {}{} EXECUTE FUNCTION {}({})").format(
                identifier,
                sql.SQL(event),
                table,
                sql.SQL(level),
                sql.SQL(" WHEN ({})").format(when) if when is not None else sql.SQL(""),
                _function(migration, what),
                sql.Literal(kind),
            )
        )
        statements.append(sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(table, identifier))

    def distinct(types: dict[str, str]) -> sql.Composed:
        # of texts and not of values: the operator of a type of the application's need not be in our search path
        return sql.SQL(" OR ").join(
            sql.SQL("{} IS DISTINCT FROM {}").format(
                *(text_sql(sql.SQL("{}.{}").format(sql.SQL(row), sql.Identifier(name)), kind) for row in ("OLD", "NEW"))
            )
            for name, kind in types.items()
        )

    insert_when: sql.Composable | None = None
    if migration.placement is PlacementKind.COLUMN:
        side = new_side(migration)
        # A row moved between partitions brings its vector along: right only if the fingerprint says so.
        insert_when = sql.SQL("NEW.{} IS NULL OR NEW.{} IS DISTINCT FROM {} OR NEW.{} IS NULL").format(
            sql.Identifier(side.embedding),
            sql.Identifier(side.source),
            _row_fingerprint(migration, "NEW"),
            sql.Identifier(migration.old_column),
        )
    trigger("INSERT", "row", "i", insert_when)
    trigger(
        "UPDATE",
        "row",
        "u",
        sql.SQL("{} OR {}").format(distinct(content_types(migration)), distinct(key_types(migration))),
    )
    if migration.placement is PlacementKind.TABLE and not follows_by_foreign_key(migration):
        trigger("DELETE", "old_row", "d", None)
        trigger("UPDATE", "old_row", "d", distinct(key_types(migration)), name="rekey")
        trigger("TRUNCATE", "all", "t", None, level="STATEMENT")
    return tuple(statements)


def _row_key(migration: Migration, row: str) -> sql.Composed:
    parts = sql.SQL(", ").join(
        output_sql(sql.SQL("{}.{}").format(sql.SQL(row), sql.Identifier(name)), kind)
        for name, kind in key_types(migration).items()
    )
    return sql.SQL("ARRAY[{}]").format(parts)


def _row_fingerprint(migration: Migration, row: str) -> sql.Composed:
    parts = sql.SQL(", ").join(
        text_sql(sql.SQL("{}.{}").format(sql.SQL(row), sql.Identifier(name)), kind)
        for name, kind in content_types(migration).items()
    )
    return sql.SQL("pg_catalog.hash_record_extended(ROW({}), 0)").format(parts)


def _events(migration: Migration) -> tuple[str, ...]:
    if migration.placement is PlacementKind.TABLE and not follows_by_foreign_key(migration):
        return ("insert", "update", "delete", "truncate")
    return ("insert", "update")


def state(conn: Connection, migration: Migration) -> tuple[str, bool]:
    """(phase, whether all triggers are there and enabled), of one moment."""
    names = [_name(migration, event) for event in _events(migration)]
    row = conn.execute(
        "SELECT phase, (SELECT count(*) FROM pg_catalog.pg_trigger t WHERE t.tgrelid = m.table_oid"
        " AND t.tgname = ANY (%s) AND t.tgenabled = 'A') FROM embedtui.migration m WHERE id = %s",
        [names, migration.id],
    ).fetchone()
    return (row[0], row[1] == len(names)) if row else ("", False)


def remove_sql(migration: Migration) -> tuple[sql.Composed, ...]:
    """DDL that takes change capture away; a no-op where it is gone already."""
    table = relation(migration.table)
    statements = [
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(_name(migration, event)), table)
        for event in ("insert", "update", "rekey", "delete", "truncate")
    ]
    statements += [
        sql.SQL("DROP FUNCTION IF EXISTS {}()").format(_function(migration, what)) for what in ("row", "old_row", "all")
    ]
    return tuple(statements)
