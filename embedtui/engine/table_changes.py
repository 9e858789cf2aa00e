"""What the application's DDL did to a table under its migration: told with the way out, followed where it is safe."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import sql

from embedtui.errors import SettingsError, TableChanged
from embedtui.model import Migration, Phase, PlacementKind, RowExpression, TableName
from embedtui.model.settings import OLD_INDEXES
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import run_ddl
from embedtui.postgres.expressions import reparse
from embedtui.postgres.indexes import known_old_indexes
from embedtui.postgres.joined import changed, rejoin
from embedtui.postgres.names import relation, shown, shown_column
from embedtui.postgres.sides import capture
from embedtui.postgres.sides.layout import new_side
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.capture_faults import request_scan_sql
from embedtui.postgres.state.migrations import may_store_settings, rename_sql, store_setting
from embedtui.postgres.state.pointer import touch_in_ddl

_KNOWN = "columns"
"""Setting of a migration: its source as it was, {"numbers": […], "types": […], "storage": "…", "not_null": …}; columns
in the order of _names, the storage of all leaves (content rewritten by DDL, TYPE … USING, fires no trigger), and
whether the old vectors' column was NOT NULL."""


@dataclass(frozen=True, slots=True)
class TableChange:
    """How the table differs from what the migration knows of it."""

    what: tuple[str, ...]
    """Each difference, as an operator reads it."""
    hint: str
    safe: bool
    """Names are as they were: nothing to ask an operator about."""
    in_place: bool
    """Key types, too: work under way goes on as it is, once :func:`follow` was called."""
    followed: Migration | None
    """The migration with the present names and types; None where it cannot go on."""

    def error(self) -> TableChanged:
        """As an error that says what an operator can do."""
        return TableChanged(f"{'; '.join(self.what)}.", hint=self.hint)


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    number: int
    type: str
    not_null: bool


def _names(migration: Migration) -> tuple[str, ...]:
    scope = () if migration.scope is None else migration.scope.names
    return (*migration.key_columns, *migration.content_columns, *scope, migration.old_column)


def _columns(conn: Connection, oid: int) -> dict[str, _Column]:
    rows = conn.execute(
        "SELECT attname::text, attnum::int, pg_catalog.format_type(atttypid, atttypmod), attnotnull"
        " FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped",
        [oid],
    )
    return {column[0]: _Column(*column) for column in rows}


def remember(conn: Connection, migration: Migration) -> None:
    """Store what the source's columns and indexes are, so that a change is known again; once."""
    if (_KNOWN in migration.settings and OLD_INDEXES in migration.settings) or not may_store_settings(conn):
        return
    for name, value in (known_columns(conn, migration) or {}).items():
        if name not in migration.settings:
            store_setting(conn, migration.id, name, value)


def known_columns(conn: Connection, migration: Migration) -> dict[str, object] | None:
    """The settings that :func:`remember` stores, as the table is now; None where a column is missing."""
    columns = _columns(conn, migration.table_oid)
    found = [columns[name] for name in _names(migration) if name in columns]
    if len(found) < len(_names(migration)):
        return None
    known = _known(found, _storage(conn, migration), found[-1].not_null)
    return {_KNOWN: known, OLD_INDEXES: known_old_indexes(conn, migration)}


def was_not_null(migration: Migration) -> bool:
    """Whether the old vectors' column was NOT NULL when the migration began; False where that is not known."""
    return _before(migration).get("not_null") is True


def _known(found: Sequence[_Column], storage: str, not_null: bool) -> dict[str, object]:
    return {
        "numbers": [column.number for column in found],
        "types": [column.type for column in found],
        "storage": storage,
        "not_null": not_null,
    }


def _storage(conn: Connection, migration: Migration) -> str:
    """Of all leaves, and of the table with the texts, where that is another one."""
    other = migration.text_table
    row = conn.execute(
        "SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.pg_relation_filenode(relid)::text, ' ' ORDER BY relid))"
        " FROM (SELECT %(t)s::oid::regclass AS relid UNION"  # of a table that is not partitioned there is no tree
        "  SELECT relid FROM pg_catalog.pg_partition_tree(%(t)s::oid::regclass)"
        "  UNION SELECT oid::regclass FROM pg_catalog.pg_class WHERE oid = %(x)s) tree",
        {"t": migration.table_oid, "x": None if other is None else other.oid},
    ).fetchone()
    return row[0] or "" if row else ""


def table_change(conn: Connection, migration: Migration) -> TableChange | None:
    """How the table differs from what ``migration`` knows of it; None where it does not. A few catalog look-ups."""
    if migration.phase.ended or migration.phase in (Phase.PLAN, Phase.PREPARE, Phase.CLEANUP):
        return None
    row = conn.execute(
        "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
        [migration.table_oid],
    ).fetchone()
    table = TableName(*row) if row is not None else None
    # one with the name that the application uses is what it means, and not the one that was pushed aside (or, in a
    # restored database, what came to have the oid)
    if table is None or (table != migration.table and _named(conn, migration)):
        return _gone(conn, migration)
    columns = _columns(conn, migration.table_oid)
    renamed, retyped, present = _compare(migration, columns)
    what = [f"table {shown(migration.table)} is called {shown(table)} now"] if table != migration.table else []
    what += [f"column {shown_column(old)} of {shown(table)} is called {shown_column(new)} now" for old, new in renamed]
    lost = [name for name, column in zip(_names(migration), present, strict=True) if column is None]
    lost += _lost_of_new_side(conn, migration, columns)
    abort = f"`embedtui abort --table {shown_column(migration.table.name)}` gives the migration up"
    if lost:
        gone = f"the migration's {'column' if len(lost) == 1 else 'columns'} {', '.join(map(shown_column, lost))} of"
        what.append(f"{gone} {shown(table)} {'is' if len(lost) == 1 else 'are'} gone")
        return TableChange(tuple(what), f"Bring back what is missing and run again; {abort}.", False, False, None)
    storage = _storage(conn, migration)
    if migration.phase is not Phase.BACKFILL and storage != _before(migration).get("storage", storage):
        retyped.append(f"table {shown(table)} was rewritten, or has other partitions")
    found = [column for column in present if column is not None]
    named = dict(zip(_names(migration), (column.name for column in found), strict=True))
    of_texts = changed(conn, migration, [named[name] for name in migration.content_columns])
    if not what and not retyped and not of_texts:
        return None
    if of_texts:
        what.append(of_texts)
    try:
        scope, content = _expressions(conn, migration, table, found)
    except SettingsError as error:
        return TableChange((*what, *retyped, error.message.rstrip(".")), f"{error.hint} {abort}.", False, False, None)
    keys, contents = len(migration.key_columns), len(migration.content_columns)
    followed = replace(
        migration,
        table=table,
        key_columns=tuple(column.name for column in found[:keys]),
        key_types=tuple(column.type for column in found[:keys]),
        content_columns=tuple(column.name for column in found[keys : keys + contents]),
        old_column=found[-1].name,
        scope=scope,
        content=content,
        new_table=table if migration.placement is PlacementKind.COLUMN else migration.new_table,
        settings={**migration.settings, _KNOWN: _known(found, storage, was_not_null(migration))},
    )
    narrow = _narrow_side(conn, migration, followed)
    if narrow:
        return TableChange(*narrow, False, False, None)
    if what:
        hint = "`embedtui run` (or `resume`) goes on with that; settings that hold the old name need the new one."
        return TableChange(tuple(what), f"{hint} Or take it back; {abort}.", False, False, followed)
    in_place = same_names(followed, migration)
    return TableChange(tuple(retyped), "`embedtui run` goes on.", True, in_place, followed)


def same_names(one: Migration, other: Migration) -> bool:
    """Whether what works by the one's names works for the other."""
    first, second = (
        (each.table, each.key_types, _names(each), each.scope, each.content, new_side(each)) for each in (one, other)
    )
    return first == second


def _expressions(
    conn: Connection, migration: Migration, table: TableName, found: Sequence[_Column]
) -> tuple[RowExpression | None, RowExpression | None]:
    """Scope and text over the table as it is now.

    Raises SettingsError: one means nothing any more.
    """
    names = dict(zip(_names(migration), (column.name for column in found), strict=True))
    scope, content = migration.scope, migration.content
    if scope is not None:
        scope = reparse(conn, table, scope, names, setting="scope", condition=True)
    if content is not None:
        elsewhere = content.elsewhere is not None
        content = (
            rejoin(conn, migration, migration.table_oid, table)
            if elsewhere
            else reparse(conn, table, content, names, setting="content_sql", scanned=not migration.stored.by_triggers)
        )
    return scope, content


def _before(migration: Migration) -> dict[str, Any]:
    known = migration.settings.get(_KNOWN)
    return known if isinstance(known, dict) else {}


def _compare(
    migration: Migration, columns: dict[str, _Column]
) -> tuple[list[tuple[str, str]], list[str], list[_Column | None]]:
    """Tell (renamed, retyped or replaced, what each column is now).

    A name that is there means what the application means by it, even where another column has it now; only one that is
    gone is looked for under another name.
    """
    numbers: list[int] = _before(migration).get("numbers", [])
    types: list[str] = _before(migration).get("types", [])
    by_number = {column.number: column for column in columns.values()}
    renamed, retyped, present = [], [], []
    for place, name in enumerate(_names(migration)):
        column = columns.get(name)
        if column is None and numbers:
            column = by_number.get(numbers[place])
            if column is not None:
                renamed.append((name, column.name))
        if column is not None and numbers and (column.number, column.type) != (numbers[place], types[place]):
            retyped.append(f"column {shown_column(column.name)} is another one, or of another type: {column.type}")
        present.append(column)
    return renamed, retyped, present


def _named(conn: Connection, migration: Migration) -> bool:
    row = conn.execute("SELECT to_regclass(%s) IS NOT NULL", [relation(migration.table).as_string(conn)]).fetchone()
    return bool(row and row[0])


def _gone(conn: Connection, migration: Migration) -> TableChange:
    name = shown_column(migration.table.name)
    if _named(conn, migration):
        what = f"table {shown(migration.table)} was dropped and made again, or restored, since the migration began"
        hint = (
            "`embedtui adopt` goes on with it and keeps every vector that is still right (`--sql` shows what it does);"
            f" `embedtui abort --table {name}` gives it up."
        )
    else:
        what = f"table {shown(migration.table)} is gone"
        hint = f"`embedtui abort --table {name}` ends this."
    return TableChange((what,), hint, False, False, None)


def _lost_of_new_side(conn: Connection, migration: Migration, columns: dict[str, _Column]) -> list[str]:
    side = new_side(migration)
    wanted = (side.embedding, side.model, side.source)
    if migration.placement is PlacementKind.COLUMN:
        return [name for name in wanted if name not in columns]
    there = _side_columns(conn, migration)
    return [f"{side.table.name}.{name}" for name in (*migration.key_columns, *wanted) if name not in there]


def _side_columns(conn: Connection, migration: Migration) -> dict[str, _Column]:
    name = relation(new_side(migration).table).as_string(conn)
    row = conn.execute("SELECT to_regclass(%s)::oid", [name]).fetchone()
    return _columns(conn, row[0]) if row and row[0] is not None else {}


def _narrow_side(conn: Connection, migration: Migration, followed: Migration) -> tuple[tuple[str, ...], str] | None:
    """(what, hint) where a side table's key has another type than the table's: changing it rewrites the side table."""
    if migration.placement is PlacementKind.COLUMN:
        return None
    there = _side_columns(conn, migration)
    for old, new, kind in zip(migration.key_columns, followed.key_columns, followed.key_types, strict=True):
        if there[old].type != kind:
            side = shown(new_side(migration).table)
            what = f"key column {shown_column(new)} is {kind} now, and {there[old].type} in {side}"
            command = f"ALTER TABLE {side} ALTER COLUMN {shown_column(old)} TYPE {kind};"
            return (what,), f"In a quiet hour, since it rewrites the side table: {command} then run again."
    return None


def follow(
    conn: Connection,
    migration: Migration,
    change: TableChange,
    stop: threading.Event,
    on_wait: Callable[[str], None] | None = None,
) -> None:
    """Go on with the table as it is now, in one transaction: names, side table, change capture, the word to Routers.

    What changed meanwhile, or by the DDL itself, no trigger told of: a scan is asked for.

    Raises:
        TableChanged: it cannot go on so.
        LockTimeout, Interrupted: as :func:`~embedtui.postgres.ddl.run_ddl`.
    """
    now = change.followed
    if now is None:
        raise change.error()
    renamed: list[sql.Composed] = []
    if migration.placement is PlacementKind.TABLE:
        renamed = [
            sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(
                relation(migration.new_table), sql.Identifier(old), sql.Identifier(new)
            )
            for old, new in zip(migration.key_columns, now.key_columns, strict=True)
            if old != new
        ]
    statements = [*renamed]
    if migration.stored.by_triggers:
        statements += capture.functions_sql(now, capture.attaching_roles(conn, now))  # the triggers went along
    scan = request_scan_sql(now.id, "; ".join(change.what))
    statements += [rename_sql(now, _KNOWN, now.settings[_KNOWN]), *touch_in_ddl(now), scan]
    run_ddl(
        conn, statements, migration=now.id, stop=stop, on_wait=on_wait, relations=[now.new_table] if renamed else []
    )
    add_audit(conn, migration.id, "table", f"{'; '.join(change.what)}: gone on with that")
