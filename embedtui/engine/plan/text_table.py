"""Texts in another table: which foreign key leads to them, and whether that table can be read and watched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from embedtui.config import Settings
from embedtui.engine.plan.contents import require_text_type, require_texts
from embedtui.errors import DatabaseError, SettingsError, TableError
from embedtui.model import Check, Migration, RowExpression, TableName
from embedtui.postgres.catalog.facts import ServerFacts, TableFacts
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.catalog.references import Reference, references
from embedtui.postgres.joined import find_reference, further_hint, join
from embedtui.postgres.names import relation, shown, shown_column


@dataclass(frozen=True, slots=True)
class TextsElsewhere:
    """What the settings and the catalog make of ``content_from``."""

    expression: RowExpression
    reference: Reference
    facts: TableFacts
    """Of the table with the texts."""


def texts_elsewhere(
    conn: Connection[Any], server: ServerFacts, facts: TableFacts, settings: Settings
) -> TextsElsewhere | None:
    """The texts of the other table that the settings name; None where they name none.

    Raises:
        SettingsError, TableError: they cannot be found by a foreign key; the way out is named.
        DatabaseError: this role may not read them.
    """
    if settings.content_from is None:
        if settings.content_via:
            raise SettingsError(
                f"content_via ({settings.origin('content_via')}) is set, and content_from is not.",
                hint="content_from names the table that has the texts.",
            )
        return None
    reference = find_reference(conn, facts.oid, facts.table, settings.content_from, settings.content_via)
    found = inspect_oid(conn, reference.oid)
    _require_readable(conn, server, found)
    columns = () if settings.content_sql is not None else _columns(conn, found, settings)
    kinds = [column.plain_type for name in columns if (column := found.column(name)) is not None]
    return TextsElsewhere(join(conn, reference, columns, kinds, settings.content_sql), reference, found)


def _require_readable(conn: Connection[Any], server: ServerFacts, facts: TableFacts) -> None:
    table, role = shown(facts.table), shown_column(server.role)
    usage = conn.execute("SELECT pg_catalog.has_schema_privilege(%s, 'USAGE')", [facts.table.schema]).fetchone()
    if not facts.may_select or usage != (True,):
        grant = (
            f"GRANT USAGE ON SCHEMA {shown_column(facts.table.schema)} TO {role}; GRANT SELECT ON {table} TO {role};"
        )
        raise DatabaseError(f"Role {server.role} may not read {table}, which has the texts.", hint=grant)
    if facts.row_security_applies:
        raise DatabaseError(
            f"Row security would hide rows of {table}, which has the texts, from role {server.role}.",
            hint="Use the table's owner, or a role with BYPASSRLS.",
        )
    if facts.persistence == "t":
        raise TableError(f"{table} is a temporary table.", hint="Name one that other sessions can see.")


def _columns(conn: Connection[Any], facts: TableFacts, settings: Settings) -> tuple[str, ...]:
    """The columns that are set; the only text column without."""
    table = shown(facts.table)
    for name in settings.content:
        found = facts.column(name)
        if found is None:
            names = ", ".join(shown_column(each.name) for each in facts.text_columns) or "none"
            raise TableError(
                f"no column {shown_column(name)} in {table}, where content_from looks for it.",
                hint=f"Its text columns: {names}. Setting: content ({settings.origin('content')}).",
            )
        require_text_type(conn, facts, found, settings.origin("content"))
    if settings.content:
        return settings.content
    choices = facts.text_choices
    if len(choices) != 1:
        names = ", ".join(shown_column(each.name) for each in choices)
        raise TableError(
            f"{table} has {len(choices)} text columns{': ' if choices else ''}{names}.",
            hint="Say which are embedded, in their order: --content, or content in embedtui.toml; or content_sql.",
        )
    require_texts(conn, facts, choices[0])
    return (choices[0].name,)


def text_table_checks(found: TextsElsewhere | None, migration: Migration, role: str) -> Iterator[Check]:
    """Whether edits over there can be captured, and their rows found."""
    if found is None:
        return
    facts, reference = found.facts, found.reference
    table, source = shown(facts.table), shown(migration.table)
    columns = ", ".join(map(shown_column, reference.columns))
    yield Check("text table", "pass", f"texts are those of {table}, by the foreign key {reference.name} ({columns})")
    if migration.stored.by_triggers and not facts.is_owner:
        yield Check(
            "rights",
            "fail",
            f"Role {role} may not put triggers on {table}, which has the texts, that always fire.",
            f'GRANT {shown_column(facts.owner)} TO {shown_column(role)}; Or set change_capture = "scan": no trigger is'
            " made then.",
        )
    if not reference.indexed:
        yield Check(
            "text index",
            "warn",
            f"No index of {source} begins with {columns}: each edit of a text reads all of {source} to find its rows.",
            f"CREATE INDEX CONCURRENTLY ON {relation(migration.table).as_string(None)} ({columns});",
        )
    if facts.subscribed:
        yield Check(
            "text subscription",
            "warn",
            f"{table} is filled by a subscription, which checks no foreign keys; its rows are captured too.",
        )


def texts_nearby(conn: Connection[Any], facts: TableFacts) -> str:
    """A hint at the tables that a foreign key of this one leads to and that have a text; empty where none does.

    Where none has one, at those that a second foreign key leads to.
    """
    nearest = references(conn, facts.oid)
    found = list(_with_texts(conn, nearest))
    if found:
        table, names = found[0]
        tables = "; ".join(f"{shown(each)} has {', '.join(columns)}" for each, columns in found)
        return f"By a foreign key, {tables}: --content-from {shown(table)} --content {names[0]}."
    for table, names in _with_texts(
        conn, (each for near in nearest for each in references(conn, near.oid) if each.oid != facts.oid)
    ):
        return f"By a second foreign key, {shown(table)} has {', '.join(names)}. {further_hint(facts.table, table)}"
    return ""


def _with_texts(conn: Connection[Any], leading: Iterable[Reference]) -> Iterator[tuple[TableName, list[str]]]:
    for reference in leading:
        other = inspect_oid(conn, reference.oid)
        names = [shown_column(column.name) for column in other.text_columns if column.name not in reference.key]
        if names and not reference.obstacle:
            yield other.table, names
