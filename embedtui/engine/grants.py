"""Rights by role: the SQL that gives a worker, an application and a watcher what they need, shown or applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

from embedtui.config import Settings
from embedtui.engine.plan.content_names import texts_of
from embedtui.engine.plan.existing import migration_name
from embedtui.errors import Refused
from embedtui.model import Migration
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.catalog.tables import find_table
from embedtui.postgres.connect import Connection, connect, translate
from embedtui.postgres.joined import find_reference
from embedtui.postgres.names import shown, shown_column
from embedtui.postgres.sides.own_writes import OwnWrites, look, look_at, pass_sql
from embedtui.postgres.state import privileges
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.privileges import Role


@dataclass(frozen=True, slots=True)
class Grants:
    """What would be granted, or was."""

    statements: tuple[str, ...]
    """In order; one transaction."""
    notices: tuple[str, ...] = ()
    """Rights beyond these that a role has, and what is missing still."""
    applied: bool = False


def grants(settings: Settings, roles: Mapping[Role, str], *, apply: bool = False) -> Grants:
    """The grants for these database roles; with ``apply`` also made, in one transaction, and audited.

    Raises:
        Refused: a role does not exist or could not be limited, or nothing has been prepared yet.
        DatabaseError: we may not grant that.
    """
    if not roles:
        raise Refused("No role is named.", hint="For instance: embedtui grants --worker embedtui_worker")
    try:
        with connect(settings.dsn, name="grants", read_only=not apply) as conn, conn.transaction():
            statements, notices, migration_id = _statements(conn, settings, roles)
            if apply:
                for statement in statements:
                    conn.execute(statement)
                if migration_id is not None:
                    add_audit(conn, migration_id, "grants", ", ".join(f"{role} {name}" for role, name in roles.items()))
            texts = tuple(statement.as_string(conn) for statement in statements)
    except psycopg.Error as error:
        raise translate(error, dsn=settings.dsn) from error
    return Grants(texts, notices, apply)


def _statements(
    conn: Connection, settings: Settings, roles: Mapping[Role, str]
) -> tuple[list[sql.Composed], tuple[str, ...], int | None]:
    migration = load_migration(conn, migration_name(conn, settings))
    statements: list[sql.Composed] = []
    notices: list[str] = []

    def pass_triggers(name: str, found: OwnWrites) -> None:
        statement = pass_sql(conn, name, found)
        if statement is not None:  # wider than what anybody asks for who asks for a worker's rights
            notices.append(
                f"What embedtui writes as {name} fires the table's triggers, unless a superuser says:"
                f" {statement.as_string(conn)}; It lets {name} write what it may write past triggers and foreign keys."
            )

    for role, name in roles.items():
        facts = privileges.role_facts(conn, name)
        if facts is None:
            raise Refused(f"There is no role {name}.", hint=f"CREATE ROLE {shown_column(name)} LOGIN;")
        if role is Role.OPERATOR:
            tables = _tables(conn, settings, migration)
            statements += privileges.operator_sql(conn, name, tables)
            if tables.source is not None:
                column = [] if settings.old_column is None else [settings.old_column]
                pass_triggers(name, look_at(conn, tables.source, column, fire=settings.fire_triggers))
            continue
        if migration is None:
            raise Refused(
                "Nothing has been prepared in this database yet.", hint="As the operator: embedtui run --until 0"
            )
        if facts.superuser or facts.owns_schema:
            what = "is a superuser" if facts.superuser else "has the rights of the owner of schema embedtui"
            raise Refused(f"Role {name} {what}: no grant limits it.", hint=f"Name another role as {role}.")
        statements += privileges.state_sql(conn, role, name)
        if migration.phase.ended:
            continue
        statements += privileges.table_sql(conn, migration, role, name)
        pass_triggers(name, look(conn, migration))
        wide = privileges.wide_rights(conn, migration, name) if role is Role.WORKER else ()
        if wide:
            table_name, rights = shown(migration.table), ", ".join(wide)
            notices.append(
                f"{name} has {rights} on all of {table_name}, and a worker needs none of it. Unless something else"
                f" does: REVOKE {rights} ON {table_name} FROM {shown_column(name)};"
            )
    names = list(roles.values())
    for name in {name for name in names if names.count(name) > 1}:
        raise Refused(f"Role {name} is named twice.", hint="One database role for each of them.")
    return statements, tuple(notices), None if migration is None else migration.id


def _tables(conn: Connection, settings: Settings, migration: Migration | None) -> privileges.Tables:
    """Those of the migration, or of the one that the settings are for.

    Raises:
        TableError: they name a table that is not there, or texts that no foreign key leads to.
    """
    if migration is not None and (settings.table is None or not migration.phase.ended):
        texts = migration.text_table
        return privileges.Tables(
            migration.table_oid, None if texts is None else texts.oid, migration.stored.by_triggers
        )
    if settings.table is None:
        return privileges.Tables()
    oid, table = find_table(conn, settings.table, settings.schema)
    name = texts_of(inspect_oid(conn, oid), settings)
    texts_oid = None if name is None else find_reference(conn, oid, table, name, settings.content_via).oid
    return privileges.Tables(oid, texts_oid, settings.change_capture == "triggers")
