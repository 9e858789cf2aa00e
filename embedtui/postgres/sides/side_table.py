"""Placement ``table``: new vectors in a side table that follows the user's table: made, written, counted."""

from __future__ import annotations

import json
from collections.abc import Sequence

from psycopg import sql

from embedtui.model import Key, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import key_join_sql, relation
from embedtui.postgres.sides.layout import follows_by_foreign_key, new_side
from embedtui.postgres.sides.protocol import SourceRow, Vectors, Written
from embedtui.postgres.sides.shared import SharedPlacement
from embedtui.postgres.sides.whole import digest_sql
from embedtui.postgres.values import same_key_sql


class TablePlacement(SharedPlacement):
    """New vectors in a side table that follows the user's table by a foreign key."""

    def _missing(self) -> sql.Composable:
        return sql.SQL("NOT EXISTS (SELECT FROM {} s WHERE {})").format(
            relation(self.migration.new_table),
            same_key_sql(self.migration, "s", "t"),
        )

    def _side_from(self) -> sql.Composable:
        return sql.SQL("{} t LEFT JOIN {} s ON {}").format(
            relation(self.migration.table),
            relation(self.migration.new_table),
            same_key_sql(self.migration, "s", "t"),
        )

    def _side_columns(self) -> dict[str, sql.Composable]:
        side = new_side(self.migration)
        return {
            "new_embedding": sql.Identifier("s", side.embedding),
            "new_model": sql.Identifier("s", side.model),
            "new_source": sql.Identifier("s", side.source),
            "new_digest": digest_sql(self.migration, sql.Identifier("s", side.embedding), self.migration.vector_type),
            "side_left_join": self._format(" LEFT JOIN {side} s ON {side_join}"),
            "same_names": sql.SQL("true"),
        }

    def prepare_sql(self) -> tuple[sql.Composed, ...]:
        """DDL of the side table; where the migration says so, it follows the table by a foreign key."""
        columns = sql.SQL(", ").join(
            sql.SQL("{} {} NOT NULL").format(sql.Identifier(name), sql.SQL(kind))
            for name, kind in zip(self.migration.key_columns, self.migration.key_types, strict=True)
        )
        foreign = (
            self._format(
                ", FOREIGN KEY ({key_columns}) REFERENCES {table} ({key_columns}) ON DELETE CASCADE ON UPDATE CASCADE"
            )
            if follows_by_foreign_key(self.migration)
            else sql.SQL("")
        )
        return (
            self._format(
                "CREATE TABLE IF NOT EXISTS {side} ({columns}, {embedding} {vector_type} NOT NULL,"
                " {model_column} integer, {source_column} bigint,"
                " PRIMARY KEY ({key_columns}){foreign})",
                columns=columns,
                foreign=foreign,
            ),
        )

    def write(self, conn: Connection, leaf: TableName, rows: Sequence[SourceRow], vectors: Vectors) -> Written:
        """Insert vectors of rows whose content is still what was embedded; one that is there already stays."""
        vector_type = self.migration.vector_type
        parameters = self._parameters(conn, rows, vectors, vector_type)
        with conn.pipeline():
            cursor = self._with_batch(
                conn,
                """
                WITH locked AS MATERIALIZED (
                    SELECT {t_keys}, b.embedding, b.source
                    FROM {batch} JOIN {leaf} t ON {batch_key_join}
                    WHERE {in_scope} AND {fingerprint} = b.source FOR KEY SHARE OF t SKIP LOCKED)
                INSERT INTO {side} ({key_columns}, {embedding}, {model_column}, {source_column})
                SELECT {key_columns}, embedding, {model}, source FROM locked ON CONFLICT DO NOTHING
                """,
                parameters,
                vector_type,
                beside=True,
                leaf=relation(leaf),
            )
        return Written(cursor.rowcount)

    # NO KEY UPDATE, not KEY SHARE: the content must not change between the guard and the commit.
    _replace_new = """
        WITH locked AS MATERIALIZED (
            SELECT {t_keys}, b.key AS text_key, b.embedding AS made, b.source AS made_of, b.replaces
            FROM {batch} JOIN {table} t ON {batch_key_join}
            WHERE {in_scope} AND {fingerprint} = b.source FOR NO KEY UPDATE OF t SKIP LOCKED),
        replaced AS (
            UPDATE {side} s SET {embedding} = t.made, {model_column} = {model}, {source_column} = t.made_of
            FROM locked t WHERE {side_join} AND {new_digest} = t.replaces RETURNING t.text_key),
        added AS (
            INSERT INTO {side} AS s ({key_columns}, {embedding}, {model_column}, {source_column})
            SELECT {key_columns}, made, {model}, made_of FROM locked WHERE replaces = ''
            ON CONFLICT DO NOTHING RETURNING {s_key} AS text_key)
        SELECT text_key, true FROM replaced UNION ALL SELECT text_key, true FROM added
        """

    def _side_in_scope(self) -> sql.Composable:
        """The side table has rows of this migration alone."""
        return sql.SQL("TRUE")

    def remove_orphans(self, conn: Connection, keys: Sequence[Key] | None = None) -> int:
        """Delete side rows without a source row, all or of these keys (only where no foreign key does it)."""
        return conn.execute(
            self._format(
                "DELETE FROM {side} s{given} WHERE NOT EXISTS (SELECT FROM {table} t WHERE {side_join}){of_given}",
                given=sql.SQL("")
                if keys is None
                else sql.SQL(
                    " USING (SELECT DISTINCT ARRAY(SELECT pg_catalog.jsonb_array_elements_text(e.value)) AS key"
                    " FROM pg_catalog.jsonb_array_elements({}::jsonb) e) b"
                ).format(sql.Literal(json.dumps([list(key) for key in keys]))),
                of_given=sql.SQL("")
                if keys is None
                else sql.SQL(" AND {}").format(key_join_sql(self.migration, "s", sql.SQL("b.key"))),
            )
        ).rowcount

    def _count_orphans(self, conn: Connection) -> int:
        row = conn.execute(
            self._format("SELECT count(*) FROM {side} s WHERE NOT EXISTS (SELECT FROM {table} t WHERE {side_join})")
        ).fetchone()
        return int(row[0]) if row else 0
