"""What ``content`` means where it names no column: a column of another table, or SQL over a row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from psycopg import Connection

from embedtui.config import Settings
from embedtui.errors import SettingsError, TableError
from embedtui.model import TableName
from embedtui.postgres.catalog.facts import TableFacts
from embedtui.postgres.catalog.tables import readings
from embedtui.postgres.expressions import parse
from embedtui.postgres.joined import find_reference
from embedtui.postgres.names import in_quotes, parse_name, shown, shown_column

_NAME = r'(?:\w+|"(?:[^"]|"")+")'


def content_as_meant(conn: Connection[Any], facts: TableFacts, settings: Settings) -> Settings:
    """The settings with ``content`` said by columns, ``content_from`` or ``content_sql``; reads only.

    As they are where it names columns, or where only the operator can say what it names.

    Raises TableError: it is neither a column that a foreign key leads to, nor SQL over a row; says why not.
    """
    odd = [name for name in settings.content if facts.column(name) is None]
    if not odd or settings.content_sql is not None or any(re.fullmatch(r"\w+", name) for name in odd):
        return settings
    found = _dotted(settings)
    if found is not None:
        return _of_table(conn, facts, settings, *found)
    return settings if settings.content_from is not None else _by_sql(conn, facts, settings)


def texts_of(facts: TableFacts, settings: Settings) -> str | None:
    """The other table that has the texts, by ``content_from`` or as ``content`` names it; not looked for."""
    found = _dotted(settings)
    if settings.content_from is not None or found is None or facts.column(settings.content[0]) is not None:
        return settings.content_from
    return None if _is(facts.table, found[0]) else found[0]


def _dotted(settings: Settings) -> tuple[str, tuple[str, ...]] | None:
    """The table and its columns where all of ``content`` is written as ``table.column``, of one table."""
    split = [re.fullmatch(rf"({_NAME}(?:\.{_NAME})?)\.({_NAME})", name) for name in settings.content]
    tables = {each[1] for each in split if each is not None}
    if len(tables) != 1 or None in split:
        return None
    return tables.pop(), tuple(parse_name(each[2])[0][0] for each in split if each is not None)


def _of_table(
    conn: Connection[Any], facts: TableFacts, settings: Settings, table: str, columns: Sequence[str]
) -> Settings:
    if settings.content_from is not None:
        alike = any(_is(TableName(schema or "", name), table) for schema, name in readings(settings.content_from, None))
        return _without_content(settings, {"content": columns}) if alike else settings
    if _is(facts.table, table) and all(facts.column(name) for name in columns):
        return _without_content(settings, {"content": columns})
    try:
        find_reference(conn, facts.oid, facts.table, table, settings.content_via)
    except TableError as error:
        what = in_quotes(settings.content[0])
        raise TableError(f"no column {what} in {shown(facts.table)}. {error.message}", hint=error.hint) from None
    return _without_content(settings, {"content": columns, "content_from": table})


def _is(table: TableName, name: str) -> bool:
    """Whether a name as it is typed may mean this table; one of no schema is of any."""
    return any(
        other == table.name and (not schema or not table.schema or schema == table.schema)
        for schema, other in readings(name, None)
    )


def _by_sql(conn: Connection[Any], facts: TableFacts, settings: Settings) -> Settings:
    parts = [shown_column(name) if facts.column(name) else name for name in settings.content]
    given = parts[0] if len(parts) == 1 else f"concat_ws(E'\\n', {', '.join(parts)})"  # as columns are, too
    try:
        parse(conn, facts.table, given, setting="content", scanned=settings.change_capture == "scan")
    except SettingsError as error:
        missing = next(name for name in settings.content if facts.column(name) is None)
        raise TableError(
            f"no column {in_quotes(missing)} in {shown(facts.table)}, and no SQL that makes a text of its rows:"
            f" {error.message}",
            hint=f"{error.hint} Setting: content ({settings.origin('content')}).".strip(),
        ) from None
    return _without_content(settings, {"content_sql": given})


def _without_content(settings: Settings, values: dict[str, object]) -> Settings:
    """With these in the place of ``content``, and its origin."""
    origins = {path: origin for path, origin in settings.origins.items() if path != "content"}
    return replace(settings, content=(), origins=origins).with_values(values, settings.origin("content"))
