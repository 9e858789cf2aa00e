"""The SQL that prepare and index would run, as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from psycopg import Connection, sql

from embedtui.config import IndexSettings, Settings
from embedtui.model import Migration
from embedtui.postgres import indexes
from embedtui.postgres.connect import SEARCH_PATH
from embedtui.postgres.sides import capture, rights, routed_view
from embedtui.postgres.sides.placement import make_placement


def plan_statements(conn: Connection[Any], migration: Migration, settings: Settings) -> tuple[str, ...]:
    """The SQL that prepare and index would run, in order, as text.

    The tables of schema ``embedtui`` are named, not spelled out: they are the same in every migration.
    """
    statements: list[str] = [
        f"SET search_path = {SEARCH_PATH}; -- as in all of embedtui's sessions",
        "CREATE SCHEMA IF NOT EXISTS embedtui; -- and its own tables, where they are not there yet",
    ]
    made = (*make_placement(migration).prepare_sql(), *rights.first_sql(conn, migration))
    statements += [_text(conn, statement) for statement in made]
    if settings.change_capture == "triggers":
        statements += [
            _text(conn, statement)
            for statement in capture.install_sql(migration, capture.attaching_roles(conn, migration))
        ]
    if migration.stored.view and routed_view.obstacle(conn, migration) is None:  # of a side table: by the cleanup
        statements += [_text(conn, statement) for statement in routed_view.make_sql(conn, migration)]
    statements += [
        _text(conn, statement) for statement in indexes.create_sql(conn, migration, index_options(migration))
    ]
    return tuple(statements)


def index_options(migration: Migration) -> IndexSettings:
    """The index as the migration's settings ask for it."""
    return replace(migration.stored.index, method=migration.index_method)


def _text(conn: Connection[Any], statement: sql.Composable | str) -> str:
    text = statement if isinstance(statement, str) else statement.as_string(conn)
    return text.strip().rstrip(";") + ";"
