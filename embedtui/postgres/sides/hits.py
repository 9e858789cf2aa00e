"""What a screen or a report shows of a search's results: each row's text, its title, and which text that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from embedtui.model import Key, Migration
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import key_join_sql, keys_sql, relation
from embedtui.postgres.sides.layout import content_sql, fingerprint_sql
from embedtui.postgres.sides.texts import TEXT

TITLE = 200
"""Characters of a title that are read."""

TITLES = ("title", "heading", "headline", "subject", "name", "file_name", "filename", "document_name", "path", "url")
"""Columns that tell a person which document it is, best first …"""

METADATA = ("metadata", "metadata_", "cmetadata", "langchain_metadata", "meta", "payload")
"""… and columns of JSON in which frameworks keep that, under these names or ``source``."""

_UNREADABLE = r"\\u(0000|d[89ab]..(?!\\ud[c-f]))|(?<!\\ud[89ab]..)\\ud[c-f]"
"""Escapes of no character, which the type json keeps, and by which every look into it fails."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A row as it is now."""

    text: str
    """The first characters of its content."""
    title: str
    """Empty where the table has none, or the content begins with it."""
    fingerprint: int
    """Of all of its content."""


def read_hits(conn: Connection, migration: Migration, keys: Sequence[Key]) -> dict[Key, Hit]:
    """These rows as they are now, in one statement; rows that are gone are absent."""
    alias = migration.table.name
    rows = conn.execute(
        sql.SQL(
            "SELECT embedtui_k.key, pg_catalog.left({content}, {length}), {title}, {fingerprint}"
            " FROM {keys} JOIN {table} ON {match}"
        ).format(
            content=content_sql(migration, alias),
            length=sql.Literal(TEXT),
            title=_title_sql(conn, migration, alias),
            fingerprint=fingerprint_sql(migration, alias),
            keys=keys_sql(keys),
            table=relation(migration.table),
            match=key_join_sql(migration, alias, sql.SQL("embedtui_k.key")),
        )
    )
    return {tuple(key): Hit(text or "", title, fingerprint) for key, text, title, fingerprint in rows}


def _title_sql(conn: Connection, migration: Migration, alias: str) -> sql.Composable:
    """The title of the row called ``alias``; of what the role may not read nothing is asked."""
    begins = migration.content_columns[:1] if migration.content is None else migration.content.names
    found = conn.execute(
        "SELECT attname::pg_catalog.text, CASE WHEN atttypid IN ('pg_catalog.json'::pg_catalog.regtype,"
        " 'pg_catalog.jsonb'::pg_catalog.regtype) THEN atttypid::pg_catalog.regtype::pg_catalog.text END"
        " FROM pg_catalog.pg_attribute"
        " WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped AND attname <> ALL (%(shown)s)"
        " AND pg_catalog.has_column_privilege(attrelid, attnum, 'SELECT')"
        " AND (atttypid IN ('pg_catalog.text'::pg_catalog.regtype, 'pg_catalog.varchar'::pg_catalog.regtype)"
        " AND attname = ANY (%(titles)s)"
        " OR atttypid IN ('pg_catalog.json'::pg_catalog.regtype, 'pg_catalog.jsonb'::pg_catalog.regtype)"
        " AND attname = ANY (%(metadata)s))",
        {
            "oid": migration.table_oid,
            "shown": [*begins, *migration.key_columns],
            "titles": list(TITLES),
            "metadata": list(METADATA),
        },
    ).fetchall()
    parts: list[sql.Composable] = []
    for name, json in sorted(found, key=lambda each: [*TITLES, *METADATA].index(each[0])):
        column: sql.Composable = sql.Identifier(alias, name)
        fields = (*TITLES, "source") if json else (None,)
        if json == "json":
            column = sql.SQL("CASE WHEN {0}::pg_catalog.text OPERATOR(pg_catalog.!~*) {1} THEN {0} END").format(
                column, sql.Literal(_UNREADABLE)
            )
        parts += [
            column if each is None else sql.SQL("({} OPERATOR(pg_catalog.->>) {})").format(column, sql.Literal(each))
            for each in fields
        ]
    told = sql.SQL(", ").join(sql.SQL("nullif(pg_catalog.btrim({}), '')").format(each) for each in parts)
    return sql.SQL("pg_catalog.left(coalesce({}), {})").format(
        sql.SQL(", ").join([*([told] if parts else []), sql.SQL("''")]), sql.Literal(TITLE)
    )
