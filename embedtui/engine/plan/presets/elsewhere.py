"""The texts of a framework whose vectors and texts are in two tables: which part of which row is embedded."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from psycopg import Connection, sql

from embedtui.config import Settings
from embedtui.engine.plan.presets.checks import LOOKED_AT
from embedtui.engine.plan.presets.preset import Preset
from embedtui.errors import TableError
from embedtui.model import TableName
from embedtui.postgres.catalog.facts import TableFacts
from embedtui.postgres.catalog.read import read_all
from embedtui.postgres.expressions import parse, row_sql
from embedtui.postgres.names import qualified, relation, shown, shown_column

WHOLE = "$"
"""The path of the whole item."""

_PLAIN, _DEEP = {"string", "number"}, {"object", "array"}
"""Kinds of JSON that are embedded as they stand, and as JSON is written; true and false are written otherwise."""


def with_texts_elsewhere(
    conn: Connection[Any], facts: TableFacts, preset: Preset | None, settings: Settings
) -> Settings:
    """The settings with where the framework has its texts, where that is another table and nothing else is said.

    Reads some rows.

    Raises TableError: what is embedded cannot be made by one expression; with what can be done.
    """
    said = settings.content or settings.content_sql is not None or settings.content_from is not None
    if preset is None or preset.texts_in is None or said:
        return settings
    table, column = preset.texts_in
    other = TableName(facts.table.schema, table)
    what = f"{shown(facts.table)} looks like {preset.name}: it embeds {preset.embeds}."
    fields = _fields(conn, facts, preset, settings)
    own = settings.scope is None and len(fields) > 1
    odd = next((each for each in fields if any(mark in each for mark in "*[{") or each == ""), None)
    if not fields or own or odd is not None:
        raise TableError(what, hint=_hint(other, preset, fields, odd))
    path = [] if fields[0] == WHOLE else fields[0].split(".")
    place = sql.Literal(json.dumps(path).replace("[", "{").replace("]", "}")).as_string(None)
    name = shown_column(column)
    value = f"{name} #> {place}" if path else name
    kinds = _kinds(conn, facts, other, value, preset, fields[0])
    if path and kinds & _PLAIN and kinds.isdisjoint(_DEEP | {"boolean"}):
        text = f"{name} #>> {place}"
    elif kinds & _DEEP and kinds.isdisjoint(_PLAIN | {"boolean"}):
        text = _by_function(conn, facts, preset, value, what, other)
    else:
        found = ", ".join(sorted(kinds)) or "nothing"
        raise TableError(f"{what} At {fields[0]} the first items have: {found}.", hint=_anew(preset))
    return settings.with_values({"content_from": qualified(other), "content_sql": text}, preset.name)


def _by_function(
    conn: Connection[Any], facts: TableFacts, preset: Preset, value: str, what: str, other: TableName
) -> str:
    """The text by the preset's function; refused with its statement where that is not there."""
    schema = shown_column(facts.table.schema)
    called = re.search(r"FUNCTION \{schema\}\.(\w+)", preset.function)
    assert called is not None
    name = f"{schema}.{called[1]}"
    expression = f"{name}({value})"
    there = sql.SQL("SELECT pg_catalog.to_regprocedure({}) IS NOT NULL AS yes").format(sql.Literal(f"{name}(jsonb)"))
    if not read_all(conn, there)[0]["yes"]:
        setting = f"--content-from {shlex.quote(qualified(other))} --content-sql {shlex.quote(expression)}"
        raise TableError(what, hint=f"{preset.function.replace('{schema}', schema)}; then {setting}")
    return expression


def _hint(other: TableName, preset: Preset, fields: list[str], odd: str | None) -> str:
    if not fields:
        return f"It has no row yet that tells: --content-from {shlex.quote(qualified(other))} --content-sql '…'"
    if odd is not None:
        return f"{preset.field} {odd} may be several texts of one item. {_anew(preset)}"
    where = f"--where {shlex.quote(f'{preset.field} = {sql.Literal(fields[0]).as_string(None)}')}"
    return (
        f"It has several fields ({', '.join(fields[:5])}), and a search goes over all of them. {_anew(preset)}"
        f" Where only one is searched, that one: {where}"
    )


def _anew(preset: Preset) -> str:
    return f"Have {preset.name.split()[0]} write them anew: a store with the new model, and put() of every item."


def _fields(conn: Connection[Any], facts: TableFacts, preset: Preset, settings: Settings) -> list[str]:
    """What is embedded, by the first rows; of the scope where one is set."""
    scope: sql.Composable = sql.SQL("true")
    if settings.scope is not None:
        parsed = parse(conn, facts.table, settings.scope, setting="scope", condition=True)
        scope = row_sql(parsed, sql.Identifier("s"))
    query = sql.SQL(
        "SELECT DISTINCT {}::text AS field FROM (SELECT s.* FROM {} s WHERE {} LIMIT {}) t ORDER BY 1"
    ).format(sql.Identifier(preset.field), relation(facts.table), scope, sql.Literal(LOOKED_AT))
    return [row["field"] for row in read_all(conn, query)]


def _kinds(
    conn: Connection[Any], facts: TableFacts, other: TableName, value: str, preset: Preset, field: str
) -> set[str]:
    """What kinds of JSON are found there."""
    assert preset.texts_in is not None
    names = [name for name in preset.key if name != preset.field]
    query = sql.SQL(
        "SELECT DISTINCT coalesce(jsonb_typeof({}), 'nothing') AS kind FROM (SELECT s.* FROM {} v JOIN {} s USING ({})"
        " WHERE v.{} = {} LIMIT {}) t"
    ).format(
        sql.SQL(value),
        relation(facts.table),
        relation(other),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.Identifier(preset.field),
        sql.Literal(field),
        sql.Literal(LOOKED_AT),
    )
    return {row["kind"] for row in read_all(conn, query)}
