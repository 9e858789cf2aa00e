"""What both placements share: reading, counting, sampling, and replacing the vectors of captured rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from embedtui.model import Key, Side, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.joined import bytes_sql
from embedtui.postgres.names import blocks_sql, relation
from embedtui.postgres.sides.batch import bigint_array, vector_array
from embedtui.postgres.sides.own_writes import own_write
from embedtui.postgres.sides.protocol import QueuedRow, SourceRow, Vectors
from embedtui.postgres.sides.whole import WholeSide, digest_sql
from embedtui.postgres.values import content_types

_REPLACE_OLD = """
WITH locked AS MATERIALIZED (
    SELECT t.tableoid AS leaf, t.ctid AS tid, b.key, b.embedding, b.replaces
    FROM {batch} JOIN {table} t ON {batch_key_join}
    WHERE {in_scope} AND {fingerprint} = b.source AND {old_digest} = b.replaces AND {same_names}
    FOR NO KEY UPDATE OF t SKIP LOCKED),
done AS (
    UPDATE {table} t SET {old} = l.embedding FROM locked l
    WHERE t.ctid = l.tid AND t.tableoid = l.leaf
    RETURNING l.key, {old_digest} <> l.replaces OR {old_digest} = {given_digest} AS kept)
"""
KEPT = """
SELECT u.key, bool_or(u.kept) FROM (SELECT key, kept FROM done UNION ALL SELECT key, false FROM locked) u GROUP BY u.key
"""
"""Of the rows that could be written, whether the table has what was: a trigger of its owner's may take it back."""


class SharedPlacement(WholeSide):
    """Reads, and the writes that both placements share; see :class:`Placement` for what the methods promise."""

    _replace_new: str
    """Statement that stores or replaces new vectors; gives the keys it could, and whether the table keeps them."""

    def read_shard(
        self, conn: Connection, leaf: TableName, first: int, last: int, filenode: int | None = None
    ) -> list[SourceRow]:
        """Rows of these blocks that have no new vector yet; texts over the limit are cut."""
        name = sql.Literal(relation(leaf).as_string(conn))
        query = self._format(
            """
            SELECT x.ctid, x.key, x.source,
                   CASE WHEN x.long THEN left(x.content, {limit_characters}) ELSE x.content END,
                   CASE WHEN x.long THEN length(x.content) END
            FROM (SELECT t.ctid, {key} AS key, {fingerprint} AS source, c.content,
                         octet_length(c.content) > {limit_characters} AS long
                  FROM {leaf} t, LATERAL (SELECT {content} AS content OFFSET 0) c
                  WHERE {in_blocks} AND {in_scope} AND {missing} AND c.content ~ '\\S'
                    AND NOT EXISTS (SELECT FROM embedtui.fault f WHERE f.migration = {migration} AND f.side = 'new'
                                    AND f.key = {key} AND f.state <> 'retry')
                    {same_storage}
                  OFFSET 0) x
            """,
            # asked once, with the lock already held that keeps the storage as it is
            same_storage=sql.SQL("AND pg_catalog.pg_relation_filenode({}::regclass) = {}").format(name, filenode)
            if filenode is not None
            else sql.SQL(""),
            leaf=relation(leaf),
            in_blocks=blocks_sql("t", first, last),
        )
        rows = []
        with conn.cursor(binary=True) as cursor:
            for tid, key, source, text, characters in cursor.execute(query, prepare=False):
                block = int.from_bytes(tid[:4], "big")
                rows.append(SourceRow(tuple(key), block, source, text, len(text) if characters is None else characters))
        return rows

    def last_block_within(self, conn: Connection, leaf: TableName, first: int, last: int, most: int) -> int:
        """The last of blocks first..last whose rows' texts have ``most`` bytes together; at least ``first``.

        Of a text that is stored out of line only its length is read: a page holds dozens of such rows.
        """
        elsewhere = self.migration.text_table
        sizes: list[sql.Composable] = [
            sql.SQL("coalesce({}({}), 0)").format(
                sql.SQL("octet_length" if re.fullmatch(r"(text|character)[^\[]*", kind) else "pg_column_size"),
                sql.Identifier("t", name),
            )
            for name, kind in content_types(self.migration).items()
        ]
        if elsewhere is not None:
            sizes = [sql.SQL("coalesce({}, 0)").format(bytes_sql(elsewhere, "t"))]
        query = self._format(
            """
            SELECT min(block) FROM (
                SELECT block, sum(sum(bytes)) OVER (ORDER BY block) AS total
                FROM (SELECT (t.ctid::text::point)[0]::bigint AS block,
                             least({sizes}, 4 * {limit_characters}::bigint) AS bytes
                      FROM {leaf} t WHERE {in_blocks} AND {in_scope} AND {missing}) x
                GROUP BY block) y
            WHERE total > {most}
            """,
            sizes=sql.SQL(" + ").join(sizes),
            leaf=relation(leaf),
            in_blocks=blocks_sql("t", first, last),
            most=sql.Literal(most),
        )
        row = conn.execute(query, prepare=False).fetchone()
        return last if row is None or row[0] is None else max(first, row[0] - 1)

    def _batch(self, vector_type: str, parameters: int) -> sql.Composed:
        """The parameters of :meth:`_parameters` as a relation b (key text[], source bigint, embedding[, replaces]).

        Arrays as parameters need one round trip and no temporary table: 15 % faster than COPY into one on an idle
        machine, and where many threads share a process each round trip less is a wait for the interpreter less.
        """
        count = len(self.migration.key_columns)
        names = [sql.Identifier(f"key_{number}") for number in range(1, count + 1)]
        replaces = parameters > count + 2
        return sql.SQL(
            "(SELECT ARRAY[{key}] AS key, u.source, u.embedding{u_replaces} FROM ROWS FROM ({arrays},"
            " pg_catalog.unnest({source}::bigint[]), pg_catalog.unnest({vectors}::{type}[]){digests})"
            " AS u ({key}, source, embedding{replaces})) b"
        ).format(
            replaces=sql.SQL(", replaces" if replaces else ""),
            u_replaces=sql.SQL(", u.replaces" if replaces else ""),
            digests=sql.SQL(f", pg_catalog.unnest(${count + 3}::text[])" if replaces else ""),
            key=sql.SQL(", ").join(names),
            arrays=sql.SQL(", ").join(
                sql.SQL(f"pg_catalog.unnest(${number}::text[])") for number in range(1, count + 1)
            ),
            source=sql.SQL(f"${count + 1}"),
            vectors=sql.SQL(f"${count + 2}"),
            type=sql.Identifier(self.migration.vector_schema, vector_type),
        )

    def _parameters(
        self, conn: Connection, rows: Sequence[SourceRow], vectors: Vectors, vector_type: str
    ) -> list[object]:
        oid = self._type_oids.get(vector_type)
        if oid is None:
            name = sql.Identifier(self.migration.vector_schema, vector_type).as_string(conn)
            row = conn.execute("SELECT %s::regtype::oid::int8", [name]).fetchone()
            assert row is not None
            oid = self._type_oids[vector_type] = int(row[0])
        return [
            *(list(parts) for parts in zip(*(row.key for row in rows), strict=True)),
            bigint_array([row.source for row in rows]),
            vector_array(oid, vectors, half=vector_type == "halfvec"),
        ]

    def _with_batch(
        self,
        conn: Connection,
        text: str,
        parameters: list[object],
        vector_type: str,
        *,
        beside: bool,
        **more: sql.Composable,
    ) -> psycopg.Cursor[Any]:
        """Run a statement that reads the batch; a raw cursor, since identifiers may hold a percent sign."""
        query = self._format(text, batch=self._batch(vector_type, len(parameters)), **more)
        with own_write(conn, self.migration, beside=beside):
            return psycopg.RawCursor(conn).execute(query, parameters)

    def read_keys(self, conn: Connection, keys: Sequence[Key]) -> list[QueuedRow]:
        """The rows with these keys, and what each of their sides still needs."""
        query = self._format(
            """
            SELECT {key}, {fingerprint},
                   left({content}, {limit_characters}), length({content}),
                   NOT {has_content},
                   coalesce({new_source} = {fingerprint} AND {new_model} = {model}, false)
                       AND {new_embedding} IS NOT NULL,
                   {new_source} IS NOT NULL, coalesce({new_source} = 0, false), {old_digest}, {new_digest}, b.key,
                   {text_waits}
            FROM (SELECT DISTINCT k.key FROM pg_catalog.jsonb_array_elements({keys}::jsonb) e,
                  LATERAL (SELECT ARRAY(SELECT pg_catalog.jsonb_array_elements_text(e.value)) AS key) k) b
            JOIN {table} t ON {batch_key_join} AND {in_scope}{side_left_join}
            """,
            # a literal: with parameters, a % in an identifier would be taken for a placeholder
            keys=sql.Literal(json.dumps([list(key) for key in keys])),
            **self._side_columns(),
        )
        result = []
        for key, source, text, characters, blank, fresh, stamped, forgotten, old, new, asked, waits in conn.execute(
            query
        ):
            row = SourceRow(tuple(key), 0, source, text, characters, old, new)
            result.append(QueuedRow(row, blank, fresh, stamped, forgotten, tuple(asked), waits))
        return result

    def locked(self, conn: Connection, keys: Sequence[Key]) -> dict[Key, str]:
        """Those of these rows that cannot be locked now, each with the id of the transaction that may have it."""
        name = relation(self.migration.table).as_string(conn)
        told = conn.execute("SELECT pg_catalog.has_column_privilege(%s, 'xmax', 'SELECT')", [name]).fetchone()
        query = self._format(
            """
            WITH b AS MATERIALIZED (
                SELECT ARRAY(SELECT pg_catalog.jsonb_array_elements_text(e.value)) AS key
                FROM pg_catalog.jsonb_array_elements({keys}::jsonb) e),
            asked AS MATERIALIZED (SELECT b.key, {xid} AS xid FROM b JOIN {table} t ON {batch_key_join}),
            free AS MATERIALIZED (
                SELECT b.key FROM b JOIN {table} t ON {batch_key_join} FOR NO KEY UPDATE OF t SKIP LOCKED)
            SELECT a.key, a.xid FROM asked a WHERE NOT EXISTS (SELECT FROM free f WHERE f.key = a.key)
            """,
            keys=sql.Literal(json.dumps([list(key) for key in keys])),
            xid=sql.SQL("t.xmax::text" if told and told[0] else "''"),  # a role's grants may be an older version's
        )
        with conn.transaction(force_rollback=True):
            return {tuple(key): xid for key, xid in conn.execute(query)}

    def count_current_queued(self, conn: Connection, limit: int) -> int:
        """Those of ``limit`` entries of the queue whose row has a new vector of its present content, or needs none."""
        query = self._format(
            """
            SELECT count(*)
            FROM (SELECT q.key FROM embedtui.queue q WHERE q.migration = {migration} AND q.text_key IS NULL
                  AND q.kind NOT IN ('d', 't') ORDER BY q.id LIMIT {limit}) b
            JOIN {table} t ON {batch_key_join} AND {in_scope}{side_left_join}
            WHERE NOT {text_waits} AND (NOT {has_content}
                  OR {new_source} = {fingerprint} AND {new_model} = {model} AND {new_embedding} IS NOT NULL)
            """,
            limit=sql.Literal(limit),
            **self._side_columns(),
        )
        row = conn.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def replace(
        self,
        conn: Connection,
        rows: Sequence[SourceRow],
        vectors: Vectors,
        side: Side,
        undone: set[Key] | None = None,
    ) -> set[Key]:
        """Store vectors of one side over what is there; the keys that could be."""
        if not rows:
            return set()
        migration = self.migration
        kind = migration.vector_type if side is Side.NEW else migration.old_vector_type
        text = self._replace_new if side is Side.NEW else _REPLACE_OLD + KEPT
        parameters = self._parameters(conn, rows, vectors, kind)
        parameters.append([row.new_digest if side is Side.NEW else row.old_digest for row in rows])
        beside = side is Side.NEW and not self.same_table
        given = digest_sql(migration, sql.Identifier("l", "embedding"), migration.old_vector_type)
        cursor = self._with_batch(
            conn, text, parameters, kind, beside=beside, given_digest=given, **self._side_columns()
        )
        found = {tuple(key): kept for key, kept in cursor}
        if undone is not None:
            undone.update(key for key, kept in found.items() if not kept)
        return {key for key, kept in found.items() if kept}

    def adopt(self, conn: Connection, rows: Sequence[SourceRow]) -> set[Key]:
        """Take the stamps off vectors that the application wrote over stamped ones."""
        del conn
        return {row.key for row in rows}
