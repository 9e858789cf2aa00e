"""What is a text: values that look like identifiers are none, and what is no text column needs one made of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from psycopg import Connection, sql

from embedtui.errors import TableError
from embedtui.model import Check, Migration
from embedtui.postgres.catalog.facts import Column, TableFacts
from embedtui.postgres.catalog.read import read_all
from embedtui.postgres.names import relation, shown, shown_column
from embedtui.postgres.sides.texts import first_texts

LOOKED_AT = 200
"""Values that are looked at: first rows that have one."""

SHARE = 0.95
"""Share of the values that makes a column one of their kind: a few odd ones are in every table."""

FEW = 30
"""Below so many values it is no wonder that they repeat."""

SHOWN = 3
"""Texts that the plan shows …"""

SHOWN_CHARACTERS = 80
"""… and of each so much, to see title, prefix or markup."""

_KINDS = (
    ("UUIDs", re.compile(r"\{?[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}\}?", re.IGNORECASE)),
    ("numbers", re.compile(r"[-+]?\d[\d.,:/ -]*")),
    ("digests", re.compile(r"(?:\w+:)?(?=[^\s]*\d)(?:[0-9a-f]{16,}|[A-Za-z0-9+/_-]{22,}={0,2})")),
    ("addresses", re.compile(r"[a-z][a-z0-9+.-]*://\S+|\S+@\S+\.\w+|(?:www\.)\S+", re.IGNORECASE)),
    (
        "paths",
        re.compile(
            r"([a-z]:|~|\.{1,2})?([\\/][^\\/\n]+)+[\\/]?"  # from a root on
            r"|[^\s\\/]+([\\/][^\s\\/]+)+[\\/]?"  # no root, no blanks
            r"|[^\\/\n]+([\\/][^\\/\n]+)*\.[a-z][a-z0-9]{1,4}",  # a file
            re.IGNORECASE,
        ),
    ),
    ("identifiers", re.compile(r"(?=.*[-_.:#0-9])[A-Za-z0-9][\x21-\x7e]{0,199}")),
)
"""Kinds of values that stand for a text elsewhere; the first that fits names it. All are ASCII without blanks (paths
from a root and files aside): a text in a script without blanks fits none."""

_TEXTUAL = re.compile(
    r"content|text|body|document|doc|chunk|passage|page|description|summary|abstract|message|question|answer|note|title|"
    r"paragraph|sentence|comment|review|article|bio|input|prompt|transcript|caption|snippet",
    re.IGNORECASE,
)
"""Names of columns whose values may well repeat, or be of one word, and still be texts …"""

_REFERS = re.compile(
    r"(id|ids|uuid|guid|hash|digest|sha\d*|md5|etag|url|uri|link|path|slug|ref|key|type|code|lang)$", re.IGNORECASE
)
"""… but for these: ``document_id`` is none."""


def looks_like(name: str, values: Sequence[str]) -> str | None:
    """What the values of a column are rather than texts, in one word; None where they may be texts."""
    given = [value.strip() for value in values if value.strip()]
    if not given:
        return None
    textual = _TEXTUAL.search(name) and not _REFERS.search(name)
    for kind, pattern in _KINDS:
        if kind == "identifiers" and textual:
            continue
        fitting = [value for value in given if pattern.fullmatch(value)]
        if len(fitting) >= SHARE * len(given) and not (kind in ("digests", "identifiers") and len(set(given)) == 1):
            return kind
    short = sum(len(value) <= 64 and len(value.split()) <= 4 for value in given)
    if len(given) >= FEW and short >= SHARE * len(given) and len(set(given)) <= len(given) / 10 and not textual:
        return "labels that repeat"
    return None


def require_texts(conn: Connection[Any], facts: TableFacts, column: Column, nearby: str = "") -> None:
    """Refuse the only text column there is where its values are no texts; reads some rows.

    ``nearby``: which other tables have texts, in a sentence.

    Raises TableError: with what the values look like, and what could be embedded instead.
    """
    values = [row["value"] for row in _values(conn, facts, column.name)]
    kind = looks_like(column.name, values)
    if kind is None:
        return
    table, name = shown(facts.table), shown_column(column.name)
    raise TableError(
        f"{name}, the only text column of {table}, holds {kind} (e.g. {_short(values[0], 40)}), no texts.",
        hint=f"{_otherwise(conn, facts, nearby)} If it is what the application embeds, say so: --content {name}.",
    )


def no_text_column(conn: Connection[Any], facts: TableFacts, nearby: str) -> TableError:
    """The error of a table without a text column, with the way to one; ``nearby``: other tables that have texts."""
    return TableError(f"{shown(facts.table)} has no text column.", hint=_otherwise(conn, facts, nearby))


def require_text_type(conn: Connection[Any], facts: TableFacts, column: Column, origin: str) -> None:
    """Refuse a content column whose text form nobody embeds: a vector, bytes.

    JSON or an array that is asked for by name is served as PostgreSQL writes it, and :func:`text_check` says so.

    Raises TableError: with the statement that makes a text of it.
    """
    if not (column.is_vector or column.base_type == "bytea"):
        return
    hint = f"Text columns: {', '.join(shown_column(each.name) for each in facts.text_columns) or 'none'}."
    if not column.is_vector:
        hint += f" Say what of it is: {_made(conn, facts, column)}."
    raise TableError(
        f"{shown_column(column.name)} of {shown(facts.table)} is {column.type}, nothing to embed as it is (content,"
        f" {origin}).",
        hint=hint,
    )


def text_check(conn: Connection[Any], facts: TableFacts, migration: Migration) -> Check | None:
    """The first rows' texts as they will be sent; None where there are none. ``facts``: of the table with the texts."""
    texts = first_texts(conn, migration, LOOKED_AT)
    if not texts:
        return None
    prefix = migration.new_model.document_prefix
    names = migration.content_columns if migration.text_table is None else migration.text_table.columns
    columns = migration.content.given if migration.content is not None else ", ".join(map(shown_column, names))
    examples = " · ".join(f'"{_short(prefix + text, SHOWN_CHARACTERS)}"' for text in texts[:SHOWN])
    detail = f"{columns}, as sent: {examples}"
    if not names or (migration.content is not None and migration.text_table is None):
        return Check("texts", "pass", detail)
    shaped = [found for name in names if (found := facts.column(name)) and _structured(found)]
    if shaped:
        detail += f". {shown_column(shaped[0].name)} is {shaped[0].type}: sent as PostgreSQL writes it."
        return Check("texts", "warn", detail, f"If a part is meant: {_made(conn, facts, shaped[0])}.")
    kind = looks_like(names[0], texts)
    if kind is not None:
        return Check(
            "texts", "warn", f"{detail}: these look like {kind}.", "Set content to what the application embeds."
        )
    return Check("texts", "pass", detail)


def _short(text: str, limit: int) -> str:
    """The beginning of a text as one line that a terminal takes."""
    line = "".join(char if char.isprintable() else " " for char in text[: 4 * limit])
    line = re.sub(r"\s+", " ", line).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _values(conn: Connection[Any], facts: TableFacts, name: str) -> list[dict[str, Any]]:
    return read_all(
        conn,
        sql.SQL("SELECT left({column}::text, 300) AS value FROM {table} WHERE {column} IS NOT NULL LIMIT {n}").format(
            column=sql.Identifier(name), table=relation(facts.table), n=sql.Literal(LOOKED_AT)
        ),
    )


def _structured(column: Column) -> bool:
    plain = column.plain_type or column.type
    return plain in ("json", "jsonb", "bytea", "xml", "hstore") or plain.endswith((".hstore", "[]"))


def _otherwise(conn: Connection[Any], facts: TableFacts, nearby: str) -> str:
    """How this table's texts could be had."""
    if nearby:
        return nearby
    for column in sorted(facts.columns, key=lambda each: ("json" not in each.type, "text[]" not in each.type)):
        if _structured(column) and not column.type.startswith(("integer", "bigint", "real", "double", "numeric")):
            text = f"{shown_column(column.name)} ({column.type}) may hold them"
            return f"{text}; SQL over a row makes the text: {_made(conn, facts, column)}."
    return "Texts in another table need a foreign key to it (content_from); those in a file a text column of this one."


def _made(conn: Connection[Any], facts: TableFacts, column: Column) -> str:
    """The setting that makes a text of a column that is none; to be pasted."""
    name = shown_column(column.name)
    kind = column.plain_type or column.type
    if kind in ("json", "jsonb"):
        expression = f"{name} ->> {sql.Literal(_longest_field(conn, facts, column.name)).as_string(None)}"
    elif kind == "bytea":
        expression = f"convert_from({name}, 'UTF8')"
    elif kind.endswith("[]"):
        expression = f"array_to_string({name}, ' ')"
    else:
        expression = f"{name}::text"
    typed = f'"{expression}"' if not re.search(r'["$`\\!]', expression) else shlex.quote(expression)
    return f"--content-sql {typed}"


def _longest_field(conn: Connection[Any], facts: TableFacts, name: str) -> str:
    """The top-level field of the first rows' JSON with the longest texts."""
    rows = read_all(
        conn,
        sql.SQL(
            "SELECT e.key FROM (SELECT {column}::jsonb AS value FROM {table} WHERE {column} IS NOT NULL LIMIT {n}) s,"
            " jsonb_each(CASE WHEN jsonb_typeof(s.value) = 'object' THEN s.value ELSE '{{}}' END) e"
            " WHERE jsonb_typeof(e.value) = 'string' GROUP BY e.key ORDER BY avg(length(e.value #>> '{{}}')) DESC,"
            " e.key LIMIT 1"
        ).format(column=sql.Identifier(name), table=relation(facts.table), n=sql.Literal(LOOKED_AT)),
    )
    return str(rows[0]["key"]) if rows else "text"
