"""A side table's vectors copied into a column of their table, beside whatever goes on writing them.

The copy is compared with the side table row by row, so that it can be begun again at any time. What is written to the
side table meanwhile a trigger queues, under a number of its own: the migration's, negative.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from embedtui.model import Key, Migration, PlacementKind, TableName
from embedtui.postgres.catalog import column_attributes
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import Statement
from embedtui.postgres.names import blocks_sql, key_join_sql, key_sql, keys_sql, relation, suffixed
from embedtui.postgres.sides import capture, own_writes, rights
from embedtui.postgres.sides.capture_bodies import of_side
from embedtui.postgres.sides.carry import BLOCKS
from embedtui.postgres.sides.column import ColumnPlacement
from embedtui.postgres.sides.layout import NewSide, new_side, scope_sql
from embedtui.postgres.sides.own_writes import own_write
from embedtui.postgres.state.migrations import stored_fold
from embedtui.postgres.state.shards import page_ranges
from embedtui.postgres.values import same_key_sql

MOST_LATE = 500
"""Changed rows that the transaction of the drop takes along: milliseconds under its lock."""

_DIFFER = """
SELECT (t.ctid::text::point)[0]::bigint, {key} FROM {leaf} t LEFT JOIN {side} s ON {same_key}
 WHERE {in_blocks} AND {in_scope} AND pg_catalog.record_image_ne(ROW({t_columns}), ROW({s_columns}))
"""

# What is locked, or was written after the statement's snapshot (its newest version is locked, and not seen by the
# update), is found again by the next comparison. A key whose row is gone needs nothing.
_COPY = """
WITH found AS MATERIALIZED (
    SELECT t.tableoid AS leaf, t.ctid AS tid, embedtui_k.key AS key, {s_columns}
      FROM {keys} JOIN {table} t ON {key_join} LEFT JOIN {side} s ON {same_key}
     WHERE {in_scope} FOR NO KEY UPDATE OF t{skip_locked}),
written AS (
    UPDATE {table} t SET ({columns}) = ROW({l_columns}) FROM found l WHERE t.ctid = l.tid AND t.tableoid = l.leaf
    RETURNING l.key)
SELECT key FROM written
"""

_FREE = """
SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped
                   AND attname = ANY (%(names)s))
"""


def queued_as(migration: Migration) -> int:
    """The number under which the queue tells of changes of the side table."""
    return -migration.id


def folded(migration: Migration, column: str) -> Migration:
    """The migration with its new side in a column of the table."""
    return replace(migration, placement=PlacementKind.COLUMN, new_table=migration.table, new_column=column)


def column_for(conn: Connection, migration: Migration) -> str:
    """The column that a fold has begun, or a name for one that neither it nor its provenance shares."""
    begun = stored_fold(conn, migration.id)
    if begun is not None:
        return begun
    for number in itertools.count(2):
        name = suffixed(migration.old_column, f"_v{number}")
        side = new_side(folded(migration, name))
        names = [side.embedding, side.model, side.source]
        if conn.execute(_FREE, {"oid": migration.table_oid, "names": names}).fetchone() == (True,):
            return name
    raise AssertionError("unreachable")


def prepare_sql(conn: Connection, migration: Migration, column: str) -> list[Statement]:
    """DDL of the column, and of the trigger that tells what the side table's writers do from here on.

    The trigger is made anew by each beginning: its lock waits for those who wrote before.
    """
    into, side = folded(migration, column), new_side(migration)
    function = sql.Identifier("embedtui", f"capture_{migration.id}_side")
    trigger = sql.Identifier(f"embedtui_{migration.id}_side")
    return [
        *ColumnPlacement(into).prepare_sql(),
        *column_attributes.storage_sql(conn, into),
        *rights.first_sql(conn, into),
        *capture.functions_sql(migration, made=functions_of(conn, migration)),
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(trigger, relation(side.table)),
        sql.SQL(
            "CREATE TRIGGER {} AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW EXECUTE FUNCTION {}('u')"
        ).format(trigger, relation(side.table), function),
        sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(relation(side.table), trigger),
    ]


def functions_of(conn: Connection, migration: Migration) -> dict[str, str]:
    """Source of the trigger function on the side table, by its name."""
    row = conn.execute(
        "SELECT to_regclass(%s)::oid::int8", [relation(new_side(migration).table).as_string(conn)]
    ).fetchone()
    return {"side": of_side(migration, row[0] if row and row[0] else 0, queued_as(migration))}


def leftover_sql(conn: Connection, migration: Migration) -> list[Statement]:
    """DDL that takes away what a fold that was taken back has left; empty where there was none."""
    column = stored_fold(conn, migration.id)
    if column is None:
        return []
    side = new_side(folded(migration, column))
    trigger, beside = sql.Identifier(f"embedtui_{migration.id}_side"), relation(migration.new_table)
    columns = [sql.SQL("DROP COLUMN IF EXISTS {}").format(sql.Identifier(name)) for name in _columns(side)]
    return [
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(trigger, beside),
        *capture.remove_functions_sql(migration, "side"),
        sql.SQL("ALTER TABLE {} {}").format(relation(side.table), sql.SQL(", ").join(columns)),
    ]


@dataclass(frozen=True, slots=True)
class Fold:
    """Copies from the side table of ``migration`` into ``column``."""

    migration: Migration
    column: str

    @property
    def into(self) -> Migration:
        """The migration as it is after the fold."""
        return folded(self.migration, self.column)

    def _names(self) -> dict[str, sql.Composable]:
        into, side = new_side(self.into), new_side(self.migration)
        return {
            "table": relation(self.migration.table),
            "side": relation(side.table),
            "same_key": same_key_sql(self.migration, "s", "t"),
            "in_scope": scope_sql(self.migration, "t"),
            "key": key_sql(self.migration, "t"),
            "key_join": key_join_sql(self.migration, "t", sql.SQL("embedtui_k.key")),
            "columns": _listed(sql.Identifier(name) for name in _columns(into)),
            "t_columns": _listed(sql.Identifier("t", name) for name in _columns(into)),
            "l_columns": _listed(sql.Identifier("l", name) for name in _columns(side)),
            "s_columns": _listed(sql.Identifier("s", name) for name in _columns(side)),
        }

    def ranges(self, conn: Connection) -> Iterator[tuple[TableName, int, int]]:
        """(leaf, first block, last block) of the whole table."""
        return page_ranges(conn, self.migration.table_oid, BLOCKS)

    def differing(self, conn: Connection, leaf: TableName, first: int, last: int) -> list[list[Key]]:
        """Rows of these blocks whose column is not what the side table has, as rounds with one row of each page."""
        query = sql.SQL(_DIFFER).format(**self._names(), leaf=relation(leaf), in_blocks=blocks_sql("t", first, last))
        pages: dict[int, list[Key]] = defaultdict(list)
        for block, key in conn.execute(query, prepare=False):
            pages[block].append(tuple(key))
        rounds = itertools.zip_longest(*pages.values())
        return [[key for key in each if key is not None] for each in rounds]

    def copy(self, conn: Connection, keys: Collection[Key], table: TableName | None = None) -> set[Key]:
        """Copy these rows' vectors, in one short transaction; those that were not locked, or are there."""
        statement = self._copy_sql(keys_sql(keys), " SKIP LOCKED", relation(table or self.migration.table))
        with conn.transaction(), own_write(conn, self.into):
            return {tuple(key) for (key,) in conn.execute(statement, prepare=False)}

    def page_sql(self) -> sql.Composed:
        """The statement that copies rows, of none: as it is shown."""
        return self._copy_sql(keys_sql([]), " SKIP LOCKED", relation(self.migration.table))

    def existing(self, conn: Connection, keys: Collection[Key]) -> set[Key]:
        """Those of these rows that are there."""
        query = sql.SQL("SELECT embedtui_k.key FROM {} WHERE EXISTS (SELECT FROM {} t WHERE {})").format(
            keys_sql(keys), relation(self.migration.table), self._names()["key_join"]
        )
        return {tuple(key) for (key,) in conn.execute(query, prepare=False)}

    def _copy_sql(self, keys: sql.Composable, skip: str, table: sql.Composable) -> sql.Composed:
        names = {**self._names(), "table": table}
        return sql.SQL(_COPY).format(**names, keys=keys, skip_locked=sql.SQL(skip))

    def last_sql(self, conn: Connection) -> list[Statement]:
        """What was written to the side table last, for the transaction that holds both tables' locks; refused if much.

        Deferred triggers of the application's fire before the DDL that follows, which they would hinder.
        """
        number = sql.Literal(queued_as(self.migration))
        queued = sql.SQL("(SELECT DISTINCT key FROM embedtui.queue WHERE migration = {}) embedtui_k").format(number)
        body = sql.SQL(
            "BEGIN IF (SELECT count(*) FROM embedtui.queue WHERE migration = {number}) > {most}"
            " OR EXISTS (SELECT FROM embedtui.capture_fault WHERE migration = {number}) THEN"
            " RAISE EXCEPTION 'the side table has changed' USING ERRCODE = '55006'; END IF; END"
        ).format(number=number, most=sql.Literal(MOST_LATE))
        return [
            sql.SQL("DO {}").format(sql.Literal(body.as_string(None))),
            sql.SQL("SET CONSTRAINTS ALL IMMEDIATE").format(),
            *own_writes.around_sql(conn, self.into, self._copy_sql(queued, "", relation(self.migration.table))),
        ]


def _columns(side: NewSide) -> Sequence[str]:
    return side.embedding, side.model, side.source


def _listed(parts: Iterator[sql.Identifier]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
