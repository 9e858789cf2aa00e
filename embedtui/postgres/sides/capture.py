"""Change capture: triggers that append what the application changed to an append-only queue."""

from __future__ import annotations

from psycopg import sql

from embedtui.model import Migration, PlacementKind
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.placement import follows_by_foreign_key, new_side, relation

# Types whose text form does not depend on the application's session settings.
_STABLE_TEXT = ("smallint", "integer", "bigint", "uuid", "text", "character", "numeric", "boolean", "oid")


def _name(migration: Migration, what: str) -> str:
    return f"embedtui_{migration.id}_{what}"


def _function(migration: Migration, what: str) -> sql.Identifier:
    return sql.Identifier("embedtui", f"capture_{migration.id}_{what}")


def install_sql(migration: Migration) -> tuple[sql.Composed, ...]:
    """DDL that installs change capture; every comparison sits in a trigger's WHEN clause, bound by OID here.

    The functions are SECURITY DEFINER with a fixed search path, so that an application role needs no right on our
    schema. A row trigger without a column list also sees edits made by BEFORE triggers. ENABLE ALWAYS also captures
    what a logical replication apply worker writes.
    """
    session = sql.SQL("")
    if not all(kind.startswith(_STABLE_TEXT) for kind in migration.key_types):
        session = sql.SQL(" SET DateStyle = 'ISO, MDY' SET IntervalStyle = 'postgres' SET TimeZone = 'UTC'")
    statements: list[sql.Composed] = []

    def function(what: str, key: sql.Composable) -> None:
        statements.append(
            sql.SQL(
                "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
                " SET search_path = pg_catalog, pg_temp{session} AS {body}"
            ).format(
                name=_function(migration, what),
                session=session,
                body=sql.Literal(
                    sql.SQL(
                        "BEGIN INSERT INTO embedtui.queue (migration, key, kind)"
                        ' VALUES ({}, {}, TG_ARGV[0]::pg_catalog."char"); RETURN NULL; END'
                    )
                    .format(sql.Literal(migration.id), key)
                    .as_string(None)
                ),
            )
        )

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

    def distinct(columns: tuple[str, ...], cast: str) -> sql.Composed:
        return sql.SQL(" OR ").join(
            sql.SQL("OLD.{0}{1} IS DISTINCT FROM NEW.{0}{1}").format(sql.Identifier(name), sql.SQL(cast))
            for name in columns
        )

    function("row", _row_key(migration, "NEW"))
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
        sql.SQL("{} OR {}").format(distinct(migration.content_columns, "::text"), distinct(migration.key_columns, "")),
    )
    if migration.placement is PlacementKind.TABLE and not follows_by_foreign_key(migration):
        function("old_row", _row_key(migration, "OLD"))
        trigger("DELETE", "old_row", "d", None)
        trigger("UPDATE", "old_row", "d", distinct(migration.key_columns, ""), name="rekey")
        function("all", sql.SQL("'{}'::text[]"))
        trigger("TRUNCATE", "all", "t", None, level="STATEMENT")
    return tuple(statements)


def _row_key(migration: Migration, row: str) -> sql.Composed:
    parts = sql.SQL(", ").join(
        sql.SQL("{}.{}::text").format(sql.SQL(row), sql.Identifier(name)) for name in migration.key_columns
    )
    return sql.SQL("ARRAY[{}]").format(parts)


def _row_fingerprint(migration: Migration, row: str) -> sql.Composed:
    parts = sql.SQL(", ").join(
        sql.SQL("{}.{}::text").format(sql.SQL(row), sql.Identifier(name)) for name in migration.content_columns
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


def insert_trigger(migration: Migration) -> str:
    """Name of the trigger that captures inserts, of the table and of each partition."""
    return _name(migration, "insert")
