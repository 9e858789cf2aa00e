"""The table's columns as text and in comparisons, so that nothing planted takes part: no cast, function or operator.

A cast to text that a type's owner wrote would run with the rights of whoever reads the column: the worker, or in change
capture the owner of our functions. Text is therefore made by PostgreSQL's own casts where the type is one of its own,
and by the type's output function, which a superuser made, where it is not. Functions, types and operators carry their
schema, for the Router and ``embedtui.put`` run on a service's session with whatever search path that has.
"""

from __future__ import annotations

import re

from psycopg import sql

from embedtui.model import Migration

# Their casts to text say something else than their output functions.
_OWN_TEXT = re.compile(r'boolean|bpchar|character(\(\d+\))?|inet|cidr|"char"')


# Types that the grammar itself knows: no search path is asked, and with a schema they would be something else.
_GRAMMAR = (
    *("bigint", "integer", "smallint", "boolean", "real", "double", "numeric"),
    *("character", "bit", "time", "timestamp", "interval"),
)


def is_builtin(kind: str) -> bool:
    """Whether a type, as format_type prints it in our sessions, is in pg_catalog: others are printed with a schema."""
    return "." not in kind


def type_sql(kind: str) -> sql.SQL:
    """A type with its schema."""
    known = re.split(r"[ (\[]", kind)[0] in _GRAMMAR
    return sql.SQL(kind if known or not is_builtin(kind) else f"pg_catalog.{kind}")


def text_sql(column: sql.Composable, kind: str) -> sql.Composed:
    """A column's text; NULL stays NULL. ``kind`` is its type, a domain's base type."""
    if is_builtin(kind):
        return sql.SQL("{}::pg_catalog.text").format(column)
    return output_sql(column, kind)


def output_sql(column: sql.Composable, kind: str) -> sql.Composed:
    """As :func:`text_sql`, by output functions alone.

    Whatever type the column has been given since, none of its casts runs.
    """
    text = sql.SQL("pg_catalog.concat({})").format(column)
    if _OWN_TEXT.fullmatch(kind):
        text = sql.SQL("{}::{}::pg_catalog.text").format(text, sql.SQL(kind))
    # not IS NULL, which a row of NULLs is as well
    return sql.SQL("CASE WHEN pg_catalog.num_nulls({}) OPERATOR(pg_catalog.=) 0 THEN {} END").format(column, text)


def key_types(migration: Migration) -> dict[str, str]:
    """Type of each key column."""
    return dict(zip(migration.key_columns, migration.key_types, strict=True))


def content_types(migration: Migration) -> dict[str, str]:
    """Type of each content column; text where it is not known."""
    return dict.fromkeys(migration.content_columns, "text") | dict(
        zip(migration.content_columns, migration.content_types, strict=False)
    )


def value_sql(migration: Migration, name: str, text: sql.Composable, *, bound: bool = False) -> sql.Composed:
    """The value of the key column ``name`` that ``text`` is the text of; ``bound``: the statement has parameters.

    Of a type that is not built in by its input function: from JSON no cast is looked for.
    """

    def escaped(text: str) -> str:
        return text.replace("%", "%%") if bound else text

    kind = migration.key_types[migration.key_columns.index(name)]
    if is_builtin(kind):
        return sql.SQL("({})::{}").format(text, type_sql(kind))
    table = migration.table
    return sql.SQL(
        "(pg_catalog.jsonb_populate_record(NULL::{table}, pg_catalog.jsonb_build_object({key}, {text}))).{column}"
        "::{kind}"
    ).format(
        table=sql.Identifier(escaped(table.schema), escaped(table.name)),
        key=sql.Literal(escaped(name)),
        text=text,
        column=sql.Identifier(escaped(name)),
        kind=sql.SQL(kind),
    )


def equal_sql(
    migration: Migration, name: str, left: sql.Composable, right: sql.Composable, operator: str = "="
) -> sql.Composed:
    """Condition that two values of the key column ``name`` are equal, by the operator of the key's own index.

    ``operator``: another one of that index: ``>``.
    """
    place = migration.key_columns.index(name)
    schema = migration.key_equality[place] if migration.key_equality else "pg_catalog"
    kind = migration.key_types[place]
    # a domain over an enum has no operator of its own; the index serves the base type's
    cast = sql.SQL("" if is_builtin(kind) else f"::{kind}")
    by = sql.SQL("OPERATOR({}.{})").format(sql.Identifier(schema), sql.SQL(operator))
    return sql.SQL("{}{} {} {}{}").format(left, cast, by, right, cast)


def same_key_sql(migration: Migration, left: str, right: str) -> sql.Composed:
    """Condition that the rows called ``left`` and ``right`` have the same key, in columns of the same names."""
    return sql.SQL(" AND ").join(
        equal_sql(migration, name, sql.Identifier(left, name), sql.Identifier(right, name))
        for name in migration.key_columns
    )
