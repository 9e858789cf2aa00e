"""What a migration left on its table, wherever that is now: renamed, dropped, made again, restored or swapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from embedtui.formatting import counted
from embedtui.model import Migration, PlacementKind, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement
from embedtui.postgres.names import relation, shown
from embedtui.postgres.sides.fold import folded
from embedtui.postgres.sides.layout import new_side
from embedtui.postgres.state.migrations import stored_fold


@dataclass(frozen=True, slots=True)
class Traces:
    """Of one migration on one table."""

    oid: int
    table: TableName
    columns: tuple[str, ...] = ()
    """The new side's: vector, model and fingerprint, by their names and types."""
    triggers: tuple[str, ...] = ()
    side_table: bool = False
    """The table is the side table itself."""

    def __str__(self) -> str:
        if self.side_table:
            return f"side table {shown(self.table)}"
        found = [counted(len(self.columns), "column", "columns")] if self.columns else []
        found += [counted(len(self.triggers), "trigger", "triggers")] if self.triggers else []
        return f"{' and '.join(found)} of {shown(self.table)}"


# The table as the migration knows it, those it began with, the one that has its name now, and any other that carries
# its triggers.
_TABLES = """
SELECT c.oid::int8, n.nspname::text, c.relname::text,
       ARRAY(SELECT tgname::text FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
             AND t.tgparentid = 0 AND t.tgname LIKE %(trigger)s ORDER BY 1) AS triggers,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped
             AND a.attnum > 0 AND (a.attname::text, pg_catalog.format_type(a.atttypid, NULL)) IN
                 (SELECT * FROM ROWS FROM (pg_catalog.unnest(%(columns)s::text[]),
                                           pg_catalog.unnest(%(types)s::text[])) u)
             ORDER BY a.attnum) AS columns,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped
             AND a.attname = %(embedding)s) AS vector
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p')
   AND (c.oid IN (%(oid)s, to_regclass(%(name)s)) OR c.oid = ANY (%(former)s) OR c.oid IN
        (SELECT tgrelid FROM pg_catalog.pg_trigger WHERE tgname LIKE %(trigger)s AND tgparentid = 0))
 ORDER BY c.oid = %(oid)s DESC, 2, 3
"""

_SIDE = """
SELECT c.oid::int8 FROM pg_catalog.pg_class c WHERE c.oid = to_regclass(%(name)s) AND c.relkind = 'r'
   AND (SELECT count(*) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped
        AND a.attname = ANY (%(columns)s)) = 3
"""


def find(conn: Connection, migration: Migration) -> tuple[Traces, ...]:
    """What is there of the migration. A vector column without its model and fingerprint beside it is not ours."""
    side = new_side(migration)
    in_column = migration.placement is PlacementKind.COLUMN
    fold = stored_fold(conn, migration.id)
    of_table = side if in_column else new_side(folded(migration, fold)) if fold is not None else None
    rows = conn.execute(
        _TABLES,
        {
            "oid": migration.table_oid,
            "former": list(migration.run_state.former),
            "name": relation(migration.table).as_string(conn),
            "trigger": f"embedtui\\_{migration.id}\\_%",
            "embedding": of_table.embedding if of_table is not None else side.embedding,
            "columns": [of_table.model, of_table.source] if of_table is not None else [],
            "types": ["integer", "bigint"] if of_table is not None else [],
        },
    ).fetchall()
    found = [
        Traces(oid, TableName(schema, name), (*vector, *columns) if columns else (), tuple(triggers))
        for oid, schema, name, triggers, columns, vector in rows
    ]
    if not in_column:
        name = relation(side.table).as_string(conn)
        wanted = [side.embedding, side.model, side.source]
        row = conn.execute(_SIDE, {"name": name, "columns": wanted}).fetchone()
        # a fold's trigger on it goes along
        found = [each for each in found if row is None or each.oid != row[0]]
        found += [Traces(row[0], side.table, side_table=True)] if row else []
    return tuple(each for each in found if each.columns or each.triggers or each.side_table)


def removal_sql(traces: Sequence[Traces]) -> list[Statement]:
    """DDL that takes them away; a column takes its indexes along, a table its foreign key."""
    statements: list[Statement] = []
    for each in traces:
        table = relation(each.table)
        if each.side_table:
            statements.append(sql.SQL("DROP TABLE {}").format(table))
            continue
        statements.append(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))
        statements += [
            sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(name), table) for name in each.triggers
        ]
        if each.columns:
            columns = [sql.SQL("DROP COLUMN IF EXISTS {}").format(sql.Identifier(name)) for name in each.columns]
            statements.append(sql.SQL("ALTER TABLE {} {}").format(table, sql.SQL(", ").join(columns)))
    return statements


def outcome(conn: Connection, migration: Migration, removed: Sequence[Traces]) -> str:
    """What an abort did to the table, in one sentence or two; looked up and not assumed."""
    said = [f"Took away {', '.join(map(str, removed))}." if removed else "There was nothing left to take away."]
    now = conn.execute(
        "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
        [migration.table_oid],
    ).fetchone()
    left = find(conn, migration)
    name = relation(migration.table).as_string(conn)
    there = conn.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()
    if left:
        said.append(f"Still there: {', '.join(map(str, left))}.")
    elif now is None or TableName(*now) != migration.table:
        again = "was made again, or restored, since the migration began" if there and there[0] else "is gone"
        again = f"is called {shown(TableName(*now))} now" if now is not None and not (there and there[0]) else again
        said.append(f"{shown(migration.table)} {again}; nothing of the migration is left.")
    else:
        said.append(f"Nothing of the migration is left on {shown(migration.table)}.")
    return " ".join(said)
