"""A text in another table as an expression over a row: a subquery by the foreign key that leads to it.

So one form serves all that reads a text: the shards, the guards of the writes, the sweep, the Router. It says ONLY, as
foreign keys do, and finds one row at most, since what a foreign key refers to is unique; NULL where it refers to none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from psycopg import Connection, sql

from embedtui.errors import SettingsError, TableError
from embedtui.model import Migration, RowExpression, TableName, TextTable
from embedtui.postgres.catalog.references import Reference, references
from embedtui.postgres.catalog.tables import readings
from embedtui.postgres.expressions import ROW, TEXTS, parse, row_sql
from embedtui.postgres.names import in_quotes, key_sql, qualified, relation, shown, shown_column
from embedtui.postgres.values import text_sql, type_sql

TEXT_ROW = "embedtui_text"
"""What the row of the other table is called in the kept text."""


def find_reference(conn: Connection[Any], oid: int, table: TableName, name: str, via: Sequence[str] = ()) -> Reference:
    """The foreign key of a table by which its texts are found.

    Args:
        conn: any connection.
        oid: of the table.
        table: its name, for messages.
        name: the other table's, as an operator typed it; without a schema any schema's.
        via: the foreign key's columns, where several refer to that table.

    Raises:
        TableError: there is none, there are several, or it cannot serve; says why.
    """
    found = references(conn, oid)
    wanted = _leading_to(name, found)
    # of two that say the same, one
    alike = {(each.oid, each.columns, each.key): each for each in sorted(wanted, key=lambda each: not each.obstacle)}
    wanted = [each for each in alike.values() if not via or set(each.columns) == set(via)]
    if not (wanted or via):
        _refuse_further(conn, table, found, name)
    if not wanted:
        by = f" by {_listed(via)}" if via else ""
        others = "; ".join(map(_described, found)) or "none"
        raise TableError(
            f"{shown(table)} has no foreign key to {in_quotes(name)}{by}.",
            hint=f"Its foreign keys: {others}. By one alone it is sure that a row has one text, and which.",
        )
    if len(wanted) > 1:
        choices = " or ".join(f"{_listed(each.columns)} ({shown(each.table)})" for each in wanted)
        raise TableError(
            f"{len(wanted)} foreign keys of {shown(table)} refer to {in_quotes(name)}: by {choices}.",
            hint='Say which leads to the text: content_via = ["column"] (--content-via); its schema, where that tells.',
        )
    if wanted[0].obstacle:
        raise TableError(f"No text can be taken by {_described(wanted[0])}: {wanted[0].obstacle}.")
    return wanted[0]


def _leading_to(name: str, found: Sequence[Reference]) -> list[Reference]:
    return [
        each
        for schema, other in readings(name, None)
        for each in found
        if each.table.name == other and schema in (None, each.table.schema)
    ]


def _refuse_further(conn: Connection[Any], table: TableName, found: Sequence[Reference], name: str) -> None:
    """Refuse a text that two foreign keys lead to, one after the other: an edit would have to be captured at both."""
    for first in found:
        for second in _leading_to(name, references(conn, first.oid)):
            raise TableError(
                f"{shown(second.table)} is two foreign keys away from {shown(table)}: {_described(first)}, then"
                f" {_described(second)}. One is followed.",
                hint=further_hint(table, second.table),
            )


def further_hint(table: TableName, texts: TableName) -> str:
    """How texts are migrated that only a second foreign key leads to."""
    return (
        f'Set change_capture = "scan", and content_sql to a STABLE function of your own that finds the text in'
        f" {shown(texts)}; or give {shown(table)} a foreign key to {shown(texts)} itself."
    )


def join(
    conn: Connection[Any], reference: Reference, columns: Sequence[str], types: Sequence[str], given: str | None
) -> RowExpression:
    """The text that a foreign key leads to, of ``columns`` one under the other or made by SQL (``given``).

    Raises SettingsError: the SQL is wrong; says why.
    """
    if given is not None:
        text = parse(conn, reference.table, given, setting="content_sql")
    else:
        parts = [
            text_sql(sql.SQL(f"{ROW}.{{}}").format(sql.Identifier(name)), kind)
            for name, kind in zip(columns, types, strict=True)
        ]
        kept = sql.SQL("pg_catalog.concat_ws(E'\\n', {})").format(sql.SQL(", ").join(parts)).as_string(None)
        oids = dict(_oids(conn, reference.oid))
        text = RowExpression(_listed(columns), kept, tuple((name, oids[name]) for name in columns))
    table = TextTable(
        reference.table,
        reference.oid,
        reference.name,
        reference.columns,
        reference.key,
        reference.key_types,
        tuple(columns) if given is None else (),
        text,
    )
    return over(table, reference.column_oids)


def over(table: TextTable, oids: Sequence[int]) -> RowExpression:
    """The text as an expression over the row that refers to it; ``oids`` are those of its columns' types."""
    text = sql.SQL("({})::pg_catalog.text").format(row_sql(table.text, sql.Identifier(TEXT_ROW)))
    query = _subquery(table, text, ROW)
    via = f" of {shown(table.table)} by {_listed(table.reference)}"
    columns = tuple(zip(table.reference, oids, strict=True))
    return RowExpression(f"{table.text.given}{via}", query.as_string(None), columns, table)


def rejoin(conn: Connection[Any], migration: Migration, oid: int, table: TableName) -> RowExpression:
    """The same text over the tables as they are now: ``oid`` is the migrated one, called ``table``.

    The other table is the one that it was, whatever that is called now; where it is gone, the one of its name.

    Raises:
        SettingsError: it means nothing any more; says why.
    """
    was = migration.text_table
    assert was is not None
    name = qualified(_name(conn, was.oid) or was.table)
    try:
        several = len([each for each in references(conn, oid) if qualified(each.table) == name]) > 1
        found = find_reference(conn, oid, table, name, was.reference if several else ())
    except TableError as error:
        raise SettingsError(error.message, hint=error.hint) from None
    types = dict(_types(conn, found.oid, was.columns))
    missing = [column for column in was.columns if column not in types]
    if missing:
        raise SettingsError(
            f"{shown(found.table)} has no column {_listed(missing)} any more.",
            hint="The texts were in it: bring it back under that name.",
        )
    return join(
        conn, found, was.columns, [types[column] for column in was.columns], None if was.columns else was.text.given
    )


def as_called_now(conn: Connection[Any], migration: Migration) -> Migration:
    """The migration with the other table's present name; as one without, where that is gone with its triggers."""
    if migration.content is None or migration.content.elsewhere is None:
        return migration
    name = _name(conn, migration.content.elsewhere.oid)
    elsewhere = None if name is None else replace(migration.content.elsewhere, table=name)
    return replace(migration, content=replace(migration.content, elsewhere=elsewhere))


def _name(conn: Connection[Any], oid: int) -> TableName | None:
    row = conn.execute(
        "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
        [oid],
    ).fetchone()
    return None if row is None else TableName(*row)


def changed(conn: Connection[Any], migration: Migration, columns: Sequence[str]) -> str:
    """What became of the other table that has the texts, or of the foreign key to it; empty where nothing did.

    ``columns``: what the foreign key's are called now.
    """
    was = migration.text_table
    if was is None:
        return ""
    found = [
        each for each in references(conn, migration.table_oid) if each.oid == was.oid and each.columns == tuple(columns)
    ]
    table = _name(conn, was.oid)
    if table is None:
        return f"table {shown(was.table)}, which has the texts, is gone"
    if table != was.table:
        return f"table {shown(was.table)}, which has the texts, is called {shown(table)} now"
    if not found or found[0].obstacle:
        return (
            f"the foreign key {shown_column(was.constraint)} to {shown(table)}, which has the texts, is gone or invalid"
        )
    if (found[0].key, found[0].key_types) != (was.key, was.key_types):
        return f"the key of {shown(table)}, which has the texts, is another one, or of another type"
    there = dict(_oids(conn, was.oid))
    lost = [name for name, kind in was.text.columns if there.get(name) != kind]
    if lost:
        return f"of {shown(table)}, which has the texts, {_listed(lost)} is gone, or of another type"
    return ""


def reference_sql(table: TextTable, alias: str) -> sql.Composed:
    """The key of the text's row as text[], by the row called ``alias`` that refers to it.

    Of the key's types, whose text the other table's triggers write.
    """
    parts = [
        text_sql(sql.SQL("{}::{}").format(sql.Identifier(alias, name), type_sql(kind)), kind)
        for name, kind in zip(table.reference, table.key_types, strict=True)
    ]
    return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(parts))


def refers_sql(table: TextTable, alias: str, key: sql.Composable) -> sql.Composed:
    """Condition that the row called ``alias`` refers to the text's row of this key (text[]); can use an index."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} OPERATOR(pg_catalog.=) ({})[{}]::{}").format(
            sql.Identifier(alias, name), key, sql.Literal(place), type_sql(kind)
        )
        for place, (name, kind) in enumerate(zip(table.reference, table.key_types, strict=True), 1)
    )


def bytes_sql(table: TextTable, alias: str) -> sql.Composed:
    """Bytes of the text's columns, of the text that the row called ``alias`` refers to; NULL where to none.

    Of a text that is stored out of line only its length is read.
    """
    sizes = [
        sql.SQL("coalesce({}({}), 0)").format(
            sql.SQL("octet_length" if kind in TEXTS else "pg_column_size"), sql.Identifier(TEXT_ROW, name)
        )
        for name, kind in table.text.columns
    ]
    return _subquery(table, sql.SQL(" + ").join(sizes), alias)


def rows_sql(migration: Migration, table: TextTable) -> sql.Composed:
    """Keys ``key`` of rows that refer to the text ``b.text_key``, behind ``b.after``, in order; for the queue."""
    key = sql.SQL('{} COLLATE pg_catalog."C"').format(key_sql(migration, "t"))
    return sql.SQL(
        "SELECT {key} AS key FROM {source} t WHERE {refers} AND {in_scope}"
        " AND (b.after = '{{}}' OR {key} > b.after COLLATE pg_catalog.\"C\") ORDER BY {key}"
    ).format(
        key=key,
        source=relation(migration.table),
        refers=refers_sql(table, "t", sql.SQL("b.text_key")),
        in_scope=sql.SQL("true") if migration.scope is None else row_sql(migration.scope, sql.Identifier("t")),
    )


def _subquery(table: TextTable, value: sql.Composable, alias: str) -> sql.Composed:
    """The value of the text's row, by the row called ``alias``; ROW is as it is kept."""
    row = sql.SQL(ROW) if alias == ROW else sql.Identifier(alias)
    pairs = [
        sql.SQL("{}.{} OPERATOR(pg_catalog.=) {}.{}").format(
            sql.Identifier(TEXT_ROW), sql.Identifier(key), row, sql.Identifier(column)
        )
        for key, column in zip(table.key, table.reference, strict=True)
    ]
    return sql.SQL("(SELECT {} FROM ONLY {} AS {} WHERE {})").format(
        value, relation(table.table), sql.Identifier(TEXT_ROW), sql.SQL(" AND ").join(pairs)
    )


def _types(conn: Connection[Any], oid: int, columns: Sequence[str]) -> list[tuple[str, str]]:
    return conn.execute(
        "SELECT a.attname::text, pg_catalog.format_type(coalesce(nullif(t.typbasetype, 0), t.oid), a.atttypmod)"
        " FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid"
        " WHERE a.attrelid = %s AND a.attname = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped",
        [oid, list(columns)],
    ).fetchall()


def _oids(conn: Connection[Any], oid: int) -> list[tuple[str, int]]:
    """Columns with the oids of their types."""
    return conn.execute(
        "SELECT attname::text, atttypid::int8 FROM pg_catalog.pg_attribute WHERE attrelid = %s"
        " AND attnum > 0 AND NOT attisdropped",
        [oid],
    ).fetchall()


def _described(reference: Reference) -> str:
    return f"{_listed(reference.columns)} to {shown(reference.table)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(shown_column, names))
