"""What the plan says of a framework's table, and how the text is had where it is no column."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from psycopg import Connection, sql

from embedtui.engine.plan.presets.preset import Preset
from embedtui.errors import TableError
from embedtui.formatting import counted
from embedtui.model import Check, TableName
from embedtui.postgres.catalog.facts import TableFacts
from embedtui.postgres.catalog.read import read_all
from embedtui.postgres.names import relation, shown, shown_column

LOOKED_AT = 5000
"""First rows that are looked at for collections, and for texts that cannot be made."""


def content_of(facts: TableFacts, preset: Preset) -> tuple[str, ...]:
    """The columns that the framework embeds.

    Raises TableError: the text is no column, or in another table; with the way to it.
    """
    if preset.content:
        return preset.content
    table = shown(facts.table)
    what = f"{table} looks like {preset.name}: it embeds {preset.embeds}."
    if preset.refused:
        raise TableError(what, hint=f"{preset.refused} ({preset.source})")
    expression = text_sql(facts, preset)
    steps = [preset.function.replace("{schema}", shown_column(facts.table.schema))] if preset.function else []
    setting = f"--content-sql {shlex.quote(expression)}"
    hint = "; ".join([*steps, f"then {setting}" if steps else setting])
    raise TableError(what, hint=f"{hint} {preset.caution}".strip())


def proposed_text(conn: Connection[Any], facts: TableFacts, preset: Preset) -> str | None:
    """The expression that makes the text, where it needs nothing else and some of the first rows have such a text."""
    if not preset.content_sql or preset.function:
        return None
    expression = text_sql(facts, preset)
    return expression if _count(conn, facts, rf"({expression}) ~ '\S'") else None


def text_sql(facts: TableFacts, preset: Preset) -> str:
    """The expression over a row that makes the text."""
    return preset.content_sql.replace("{schema}", shown_column(facts.table.schema))


def framework_checks(
    conn: Connection[Any], facts: TableFacts, preset: Preset | None, content: tuple[str, ...], *, scoped: bool
) -> Iterator[Check]:
    """What the framework embeds, and whether that is what is asked for; reads some rows."""
    if preset is None:
        return
    detail = f"{shown(facts.table)} looks like {preset.name}: it embeds {preset.embeds} ({preset.source})."
    other = bool(preset.content) and content != preset.content
    if other:
        detail += f" The settings say {', '.join(map(shown_column, content))}."
    unlike = _count(conn, facts, preset.unlike)
    if unlike:
        rows = counted(unlike, "row", "rows")
        detail += f" Of {rows} among the first {LOOKED_AT:,} the text cannot be made in SQL ({preset.unlike})."
    result = "warn" if other or unlike or preset.caution else "pass"
    yield Check("framework", result, detail, preset.caution)
    collections = _values(conn, facts, preset.scope) if preset.scope and not scoped else []
    if len(collections) > 1:
        names = _names(conn, facts, preset)
        shares = ", ".join(f"{names[each]}: {each}" if each in names else each for each in collections[:3])
        yield Check(
            "collections",
            "warn",
            f"{shown_column(preset.scope)} has {len(collections):,} or more values among the first {LOOKED_AT:,} rows"
            f" ({shares}, …): all of them are moved, and have to be of the one old model.",
            f'To move one alone: scope = "{shown_column(preset.scope)} = {sql.Literal(collections[0]).as_string(conn)}"'
            " (--where).",
        )


def _count(conn: Connection[Any], facts: TableFacts, condition: str) -> int:
    if not condition:
        return 0
    query = sql.SQL("SELECT count(*)::int AS n FROM (SELECT * FROM {} LIMIT {}) t WHERE {}").format(
        relation(facts.table), sql.Literal(LOOKED_AT), sql.SQL(condition)
    )
    return int(read_all(conn, query)[0]["n"])


def _names(conn: Connection[Any], facts: TableFacts, preset: Preset) -> dict[str, str]:
    """What people call the collections, where the framework's table of them is there and may be read."""
    if preset.scope_names is None:
        return {}
    name, *columns = preset.scope_names
    table = relation(TableName(facts.table.schema, name))
    key, called = map(sql.Literal, columns)
    readable = sql.SQL(
        "SELECT coalesce(pg_catalog.has_table_privilege(pg_catalog.to_regclass({}), 'SELECT'), false) AS yes"
    )
    if not read_all(conn, readable.format(sql.Literal(table.as_string(conn))))[0]["yes"]:
        return {}
    # a table of another make may have the name, without the columns
    query = sql.SQL("SELECT to_jsonb(t) ->> {} AS key, to_jsonb(t) ->> {} AS name FROM {} t LIMIT {}")
    found = read_all(conn, query.format(key, called, table, sql.Literal(LOOKED_AT)))
    return {row["key"]: row["name"] for row in found if row["key"] and row["name"]}


def _values(conn: Connection[Any], facts: TableFacts, column: str) -> list[str]:
    query = sql.SQL(
        "SELECT v::text AS value, count(*) AS n FROM (SELECT {} AS v FROM {} LIMIT {}) t WHERE v IS NOT NULL"
        " GROUP BY 1 ORDER BY 2 DESC, 1"
    ).format(sql.Identifier(column), relation(facts.table), sql.Literal(LOOKED_AT))
    return [row["value"] for row in read_all(conn, query)]
