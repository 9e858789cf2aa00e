"""Which framework made a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from psycopg import Connection

from embedtui.engine.plan.presets.frameworks import FRAMEWORKS
from embedtui.engine.plan.presets.preset import Preset
from embedtui.model import TableName
from embedtui.postgres.catalog.facts import TableFacts
from embedtui.postgres.catalog.tables import column_types


def recognise(facts: TableFacts) -> Preset | None:
    """The framework that made a table; None where it is none that is known, or has no such key."""
    found = _best(facts.table.name, {column.name: column.base_type for column in facts.columns})
    if found is not None and any(set(key.columns) == set(found.key) for key in facts.keys):
        return found
    return None


def frameworks_of(conn: Connection[Any], tables: Iterable[TableName]) -> dict[TableName, str]:
    """The names of the frameworks that made these tables, of those that are known."""
    known = column_types(conn, tables)
    return {table: found.name for table, columns in known.items() if (found := _best(table.name, columns)) is not None}


def _best(table: str, columns: Mapping[str, str]) -> Preset | None:
    fitting = [preset for preset in FRAMEWORKS if preset.fits(table, columns)]
    return max(fitting, key=lambda preset: (len(preset.columns), bool(preset.table)), default=None)
