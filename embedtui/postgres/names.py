"""SQL text made of names: quoting, keys and their joins, vector literals."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from psycopg import sql

from embedtui.arrays import np, npt
from embedtui.model import Migration, TableName
from embedtui.postgres.values import equal_sql, is_builtin, key_types, text_sql, value_sql

IDENTIFIER_BYTES = 63

_LONGEST_SUFFIX = len("_source")

_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^".]+?))\s*(?:\.|$)')


def parse_name(name: str) -> tuple[tuple[str, bool], ...]:
    """Split a possibly qualified, possibly quoted name into (text, was quoted) parts.

    ``app."My Docs"`` gives (("app", False), ("My Docs", True)). An impossible name gives ().
    """
    parts: list[tuple[str, bool]] = []
    position = 0
    while position < len(name):
        match = _PART.match(name, position)
        if match is None or match.end() == position:
            return ()
        quoted_part, plain = match.groups()
        parts.append((quoted_part.replace('""', '"'), True) if quoted_part is not None else (plain, False))
        position = match.end()
    return tuple(parts)


def in_quotes(name: str) -> str:
    """A name in double quotes for a message."""
    return name if name.startswith('"') else f'"{name}"'


def shown(table: TableName) -> str:
    """A table's name as SQL would need it written, schema left out where it is public."""
    name = shown_column(table.name)
    return name if table.schema == "public" else f"{shown_column(table.schema)}.{name}"


def qualified(table: TableName) -> str:
    """As :func:`shown`, with its schema always: for a setting that every search path reads alike."""
    return f"{shown_column(table.schema)}.{shown_column(table.name)}"


def shown_column(name: str) -> str:
    """An identifier as SQL would need it written (quoted only where it must be)."""
    if re.fullmatch(r"[a-z_][a-z0-9_$]*", name):
        return name
    return '"' + name.replace('"', '""') + '"'


def either(names: Iterable[str]) -> str:
    """``a, b or c``, each once."""
    found = list(dict.fromkeys(names))
    return found[0] if len(found) == 1 else ", ".join(found[:-1]) + " or " + found[-1]


def suffixed(name: str, suffix: str) -> str:
    """``name`` with a suffix, within PostgreSQL's 63 bytes for it and what else is made from it."""
    room = IDENTIFIER_BYTES - len(suffix) - _LONGEST_SUFFIX
    return name.encode()[:room].decode(errors="ignore") + suffix


def fitted(name: str) -> str:
    """``name`` within PostgreSQL's 63 bytes: cut in the middle, keeping the telling end."""
    if len(name.encode()) <= IDENTIFIER_BYTES:
        return name
    end = name[-20:].encode()[-IDENTIFIER_BYTES:].decode(errors="ignore")  # twenty may have four bytes each
    return name.encode()[: IDENTIFIER_BYTES - len(end.encode())].decode(errors="ignore") + end


def relation(name: TableName) -> sql.Identifier:
    """A quoted, qualified relation."""
    return sql.Identifier(name.schema, name.name)


def escaped(part: sql.Composable) -> sql.SQL:
    """SQL for a statement with bound parameters, where psycopg reads ``%`` as a placeholder."""
    return sql.SQL(part.as_string(None).replace("%", "%%"))


def quoted(*names: str) -> sql.Identifier:
    """A quoted, qualified name for a statement with bound parameters, see :func:`escaped`."""
    return sql.Identifier(*(name.replace("%", "%%") for name in names))


def blocks_sql(row: str, first: int, last: int) -> sql.Composed:
    """Condition that the row called ``row`` stands in blocks ``first`` to ``last`` of its table; reads no others."""
    bounds = [sql.SQL("'({},0)'::tid").format(sql.SQL(str(block))) for block in (first, last + 1)]
    return sql.SQL("{row}.ctid >= {} AND {row}.ctid < {}").format(*bounds, row=sql.Identifier(row))


def key_sql(migration: Migration, *row: str) -> sql.Composed:
    """The key as text[] of the row called ``row``: an alias, or schema and table."""
    parts = sql.SQL(", ").join(
        text_sql(sql.Identifier(*row, name), kind) for name, kind in key_types(migration).items()
    )
    return sql.SQL("ARRAY[{}]").format(parts)


def key_join_sql(migration: Migration, alias: str, key: sql.Composable) -> sql.Composed:
    """Condition that the row called ``alias`` has the key ``key`` (a text[] expression); can use the key's index."""
    return sql.SQL(" AND ").join(
        equal_sql(
            migration,
            name,
            sql.Identifier(alias, name),
            value_sql(migration, name, sql.SQL("({})[{}]").format(key, sql.Literal(position))),
        )
        for position, name in enumerate(migration.key_columns, 1)
    )


def key_after_sql(migration: Migration, alias: str, key: Sequence[str]) -> sql.Composed:
    """Condition that the row called ``alias`` comes behind the key ``key`` in the order of the key's index."""
    sides = [
        (name, sql.Identifier(alias, name), value_sql(migration, name, sql.Literal(text)))
        for name, text in zip(migration.key_columns, key, strict=True)
    ]
    schemas = set(migration.key_equality)
    if len(sides) > 1 and len(schemas) <= 1 and all(is_builtin(kind) for kind in migration.key_types):
        # as a row: only so does the index begin there
        rows = [sql.SQL(", ").join(side[place] for side in sides) for place in (1, 2)]
        schema = sql.Identifier(schemas.pop() if schemas else "pg_catalog")
        return sql.SQL("ROW({}) OPERATOR({}.>) ROW({})").format(rows[0], schema, rows[1])
    after = [
        sql.SQL(" AND ").join(
            equal_sql(migration, *side, operator=">" if number == place else "=")
            for number, side in enumerate(sides[: place + 1])
        )
        for place in range(len(sides))
    ]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(after))


def key_equals_sql(migration: Migration) -> sql.Composed:
    """Condition that a row of the user's table has the key bound as ``key``, a ``text[]``.

    For a statement with bound parameters: names are escaped.
    """
    return sql.SQL(" AND ").join(
        equal_sql(
            migration,
            name,
            quoted(migration.table.schema, migration.table.name, name),
            value_sql(
                migration,
                name,
                sql.SQL("({}::pg_catalog.text[])[{}]").format(sql.Placeholder("key"), sql.Literal(number)),
                bound=True,
            ),
        )
        for number, name in enumerate(migration.key_columns, 1)
    )


def keys_sql(keys: Iterable[Sequence[str]]) -> sql.Composed:
    """FROM item ``embedtui_k(key text[])`` of these keys (from jsonb: arrays of arrays are not ragged in SQL).

    No table is called so, and the table may be in the statement by its own name. A literal, so that the statement
    needs no bound parameters, with which a ``%`` in a name would be a placeholder.
    """
    return sql.SQL(
        "(SELECT ARRAY(SELECT pg_catalog.jsonb_array_elements_text(e.value)) AS key"
        " FROM pg_catalog.jsonb_array_elements({}::pg_catalog.jsonb) e) embedtui_k"
    ).format(sql.Literal(json.dumps([list(key) for key in keys])))


def vector_text(vector: npt.NDArray[np.float32]) -> str:
    """Write a vector in pgvector's text form: ``[1.0,2.0]``."""
    return f"[{','.join(map(repr, vector.tolist()))}]"
