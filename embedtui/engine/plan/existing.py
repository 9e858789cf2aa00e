"""The migration that the settings mean, where there is one already."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from psycopg import Connection, Error

from embedtui.config import SPECS, ModelSettings, Settings
from embedtui.engine.local_settings import as_set_here
from embedtui.errors import DatabaseUnreachable, EmbedtuiError, SettingsError, TableError
from embedtui.model import Migration, PlacementKind, RowExpression
from embedtui.postgres.catalog.tables import find_table, readings
from embedtui.postgres.connect import connect, lost, retryable, translate
from embedtui.postgres.names import qualified
from embedtui.postgres.state import migrations as state

PATIENCE = 30.0
"""Seconds for which a command looks again for the migration that is meant."""
PAUSE_SECONDS = 0.3


def migration_name(conn: Connection[Any], settings: Settings) -> str | None:
    """The name of the migration that the settings mean; None where nothing is said and at most one is live.

    Raises:
        SettingsError: nothing is said and several are live.
        TableError: no such table.
    """
    if settings.name is not None:
        return settings.name
    if settings.table is not None:
        former = state.migration_of_former_name(conn, readings(settings.table, settings.schema))
        try:
            oid, table = find_table(conn, settings.table, settings.schema)
        except TableError as error:
            if former is not None:
                return former
            hint = error.hint or f"Setting: table ({settings.origin('table')})."
            raise TableError(error.message, hint=hint) from None
        return _of_table(state.migrations_of_table(conn, oid), settings) or former or table.name
    names = state.live_migrations(conn)
    if len(names) > 1:
        raise SettingsError(f"Several migrations are under way: {', '.join(names)}.", hint="Say which: --name NAME.")
    return None


def _of_table(known: Mapping[str, str | None], settings: Settings) -> str | None:
    """Which of a table's migrations is meant: the only one, or that of the scope that is set.

    Raises SettingsError: none of several.
    """
    if len(known) < 2:
        return next(iter(known), None)
    scoped = [name for name, scope in known.items() if scope is not None and scope == (settings.scope or "").strip()]
    if len(scoped) == 1:
        return scoped[0]
    raise SettingsError(
        f"Several migrations of this table are under way: {', '.join(known)}.", hint="Say which one: --name NAME."
    )


def meant_migration(settings: Settings) -> str | None:
    """As :func:`migration_name`, on a connection of its own: the first look of every command.

    A session that is cut, or a lock, is ridden out for a while, as the start of the work itself does; a command that
    only shows something does not wait for ever.

    Raises the settings' and the database's errors.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with connect(settings.dsn, name="check", read_only=True) as conn:
                return migration_name(conn, settings)
        except (Error, EmbedtuiError) as error:
            passing = (lost(error) and not isinstance(error, DatabaseUnreachable)) or retryable(error)
            if not passing or time.monotonic() > deadline:
                raise translate(error, dsn=settings.dsn) from error
        time.sleep(PAUSE_SECONDS)


def content_settings(content: RowExpression | None, columns: tuple[str, ...]) -> dict[str, object]:
    """The settings that say where a text comes from."""
    if content is None:
        return {"content": columns}
    other = content.elsewhere
    if other is None:
        return {"content_sql": content.given}
    text: dict[str, object] = {"content": other.columns} if other.columns else {"content_sql": other.text.given}
    return {**text, "content_from": qualified(other.table), "content_via": other.reference}


def settings_of_live_migration(conn: Connection[Any], settings: Settings) -> Settings:
    """The settings with all that the migration under way has stored; as they are where there is none."""
    stored = state.load_migration(conn, migration_name(conn, settings))
    if stored is None or stored.phase.ended:
        return settings
    live = as_set_here(stored, settings, settings.environ)
    settings = replace(settings, content=(), content_sql=None, content_from=None, content_via=())
    known = {spec.path for spec in SPECS}
    return settings.with_values(
        {path: value for path, value in stored_values(live).items() if path in known and value is not None},
        "the migration under way",
    )


def stored_values(live: Migration) -> dict[str, object]:
    """What a migration says of the settings, by their names in the file."""
    values: dict[str, object] = {
        "name": live.name,
        "table": live.table.name,
        "schema": live.table.schema,
        "key": live.key_columns,
        **content_settings(live.content, live.content_columns),
        "old_column": live.old_column,
        "placement": live.placement.value,
        "distance": live.distance.value,
        "halfvec": live.vector_type == "halfvec",
    }
    values |= {} if live.scope is None else {"scope": live.scope.given}
    if live.placement is PlacementKind.TABLE:
        values["new_table"] = live.new_table.name
    if live.new_column != live.old_column:  # a side table's may well have the same name
        values["new_column"] = live.new_column
    for side, model in (("old_model", live.old_model), ("new_model", live.new_model)):
        values |= {f"{side}.{each.name}": getattr(model, each.name, None) for each in fields(ModelSettings)}
        padded = model.given not in (None, model.dimensions)
        values |= {f"{side}.dimensions": model.shape.given, f"{side}.pad_to": model.dimensions if padded else None}
    for head, section in live.settings.items():
        values |= {f"{head}.{k}": v for k, v in section.items()} if isinstance(section, dict) else {head: section}
    return values
