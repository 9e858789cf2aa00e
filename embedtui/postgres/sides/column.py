"""Placement ``column``: new vectors in a column of the user's table, side by side with the old ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from embedtui.model import Key, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import relation
from embedtui.postgres.sides.layout import new_side
from embedtui.postgres.sides.own_writes import own_write
from embedtui.postgres.sides.protocol import SourceRow, Vectors, Written
from embedtui.postgres.sides.shared import KEPT, SharedPlacement
from embedtui.postgres.sides.whole import digest_sql


class ColumnPlacement(SharedPlacement):
    """New vectors in a column of the user's table, side by side with the old ones."""

    def _missing(self) -> sql.Composable:
        return sql.SQL("t.{} IS NULL").format(sql.Identifier(self.migration.new_column))

    def _side_from(self) -> sql.Composable:
        return sql.SQL("{} t").format(relation(self.migration.table))

    def _side_columns(self) -> dict[str, sql.Composable]:
        side = new_side(self.migration)
        return {
            "new_embedding": sql.Identifier("t", side.embedding),
            "new_model": sql.Identifier("t", side.model),
            "new_source": sql.Identifier("t", side.source),
            "new_digest": digest_sql(self.migration, sql.Identifier("t", side.embedding), self.migration.vector_type),
            "side_left_join": sql.SQL(""),
            # fails where old and new column have exchanged their names: the old one's then means new vectors
            "same_names": sql.SQL("(t.{} IS NULL OR true)").format(sql.Identifier(side.source)),
        }

    def prepare_sql(self) -> tuple[sql.Composed, ...]:
        """DDL that adds the vector and its provenance to the table, in one statement."""
        return (
            self._format(
                "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {embedding} {vector_type},"
                " ADD COLUMN IF NOT EXISTS {model_column} integer, ADD COLUMN IF NOT EXISTS {source_column} bigint"
            ),
        )

    def write(self, conn: Connection, leaf: TableName, rows: Sequence[SourceRow], vectors: Vectors) -> Written:
        """Fill the column where it is NULL and the content is still what was embedded; locked rows are skipped."""
        vector_type = self.migration.vector_type
        parameters = self._parameters(conn, rows, vectors, vector_type)
        with conn.pipeline():
            before = self._hot_updates(conn, leaf)
            cursor = self._with_batch(
                conn,
                """
                -- Found by key: an index scan prunes the page it comes to, a TID scan does not, and an unpruned page
                -- has no room for a HOT update.
                WITH locked AS MATERIALIZED (
                    SELECT t.ctid AS tid, b.embedding, b.source
                    FROM {batch} JOIN {leaf} t ON {batch_key_join}
                    WHERE {in_scope} AND t.{embedding} IS NULL AND {fingerprint} = b.source
                    FOR NO KEY UPDATE OF t SKIP LOCKED)
                UPDATE {leaf} t SET {embedding} = l.embedding, {model_column} = {model}, {source_column} = l.source
                FROM locked l WHERE t.ctid = l.tid
                """,
                parameters,
                vector_type,
                beside=False,
                leaf=relation(leaf),
            )
            after = self._hot_updates(conn, leaf)
        return Written(cursor.rowcount, cursor.rowcount, _number(after) - _number(before))

    def _hot_updates(self, conn: Connection, leaf: TableName) -> psycopg.Cursor[Any]:
        """A counter that holds this backend's earlier transactions too until it is reported: only differences count."""
        return conn.execute(
            "SELECT pg_stat_get_xact_tuples_hot_updated(%s::regclass)", [relation(leaf).as_string(conn)]
        )

    _replace_new = (
        """
        WITH locked AS MATERIALIZED (
            SELECT t.tableoid AS leaf, t.ctid AS tid, b.key, b.embedding, b.source
            FROM {batch} JOIN {table} t ON {batch_key_join}
            WHERE {in_scope} AND {fingerprint} = b.source AND {new_digest} = b.replaces
            FOR NO KEY UPDATE OF t SKIP LOCKED),
        done AS (
            UPDATE {table} t SET {embedding} = l.embedding, {model_column} = {model}, {source_column} = l.source
            FROM locked l WHERE t.ctid = l.tid AND t.tableoid = l.leaf
            RETURNING l.key, t.{embedding} IS NOT NULL AND t.{source_column} IS NOT DISTINCT FROM l.source AS kept)
        """
        + KEPT
    )

    def adopt(self, conn: Connection, rows: Sequence[SourceRow]) -> set[Key]:
        """Take the stamps off vectors that the application wrote over stamped ones; the keys that could be.

        Not off those that an operator has had marked as to be replaced since the row was read.
        """
        query = self._format(
            """
            WITH locked AS MATERIALIZED (
                SELECT t.tableoid AS leaf, t.ctid AS tid, b.key
                FROM (SELECT ARRAY(SELECT pg_catalog.jsonb_array_elements_text(e.value -> 0)) AS key,
                             e.value ->> 1 AS digest FROM pg_catalog.jsonb_array_elements({rows}::jsonb) e) b
                JOIN {table} t ON {batch_key_join}
                WHERE {in_scope} AND {new_digest} = b.digest AND t.{source_column} IS DISTINCT FROM 0
                FOR NO KEY UPDATE OF t SKIP LOCKED)
            UPDATE {table} t SET {model_column} = NULL, {source_column} = NULL
            FROM locked l WHERE t.ctid = l.tid AND t.tableoid = l.leaf RETURNING l.key
            """,
            rows=sql.Literal(json.dumps([[list(row.key), row.new_digest] for row in rows])),
            **self._side_columns(),
        )
        with own_write(conn, self.migration):
            return {tuple(key) for (key,) in conn.execute(query)}


def _number(cursor: psycopg.Cursor[Any]) -> int:
    row = cursor.fetchone()
    return int(row[0]) if row else 0
