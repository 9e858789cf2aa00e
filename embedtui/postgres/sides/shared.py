"""What both placements share: reading, counting, sampling, and replacing the vectors of captured rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from embedtui.model import Key, Migration, Side, TableName, VerifyReport
from embedtui.postgres.connect import Connection
from embedtui.postgres.joined import bytes_sql, reference_sql
from embedtui.postgres.names import blocks_sql, key_join_sql, key_sql, relation
from embedtui.postgres.sides.batch import bigint_array, vector_array
from embedtui.postgres.sides.layout import (
    content_sql,
    fingerprint_sql,
    has_content_sql,
    new_side,
    scope_sql,
    vector_sql_type,
)
from embedtui.postgres.sides.protocol import QueuedRow, SourceRow, Vectors
from embedtui.postgres.values import content_types, same_key_sql

# No tokenizer in use makes a token of more than 16 characters on average over a whole text; a longer text is over
# the model's limit whatever it says, and is not read into memory.
CHARACTERS_PER_TOKEN_AT_MOST = 16

WRITER, OURS = "embedtui.writer", "embedtui"
"""A setting and its value in the transactions in which embedtui writes vectors: change capture takes no vector that is
written there for the application's. An application that sets it harms itself alone."""

_REPLACE_OLD = """
WITH locked AS MATERIALIZED (
    SELECT t.tableoid AS leaf, t.ctid AS tid, b.key, b.embedding
    FROM {batch} JOIN {table} t ON {batch_key_join}
    WHERE {in_scope} AND {fingerprint} = b.source AND {old_digest} = b.replaces AND {same_names}
    FOR NO KEY UPDATE OF t SKIP LOCKED)
UPDATE {table} t SET {old} = l.embedding FROM locked l
WHERE t.ctid = l.tid AND t.tableoid = l.leaf RETURNING l.key
"""


def digest_sql(migration: Migration, vector: sql.Composable, kind: str) -> sql.Composed:
    """Digest of a vector's binary form, empty where there is none: whether it is still the one that was read."""
    return sql.SQL("coalesce(pg_catalog.md5({}({})), '')").format(
        sql.Identifier(migration.vector_schema, f"{kind}_send"), vector
    )


class SharedPlacement:
    """Reads, and the writes that both placements share; see :class:`Placement` for what the methods promise."""

    _replace_new: str
    """Statement that stores or replaces new vectors; gives the keys it could."""

    def __init__(self, migration: Migration) -> None:
        """Compose the names that all statements of this migration use."""
        self.migration = migration
        self._type_oids: dict[str, int] = {}
        side = new_side(migration)
        self.names: dict[str, sql.Composable] = {
            "table": relation(migration.table),
            "side": relation(side.table),
            "embedding": sql.Identifier(side.embedding),
            "model_column": sql.Identifier(side.model),
            "source_column": sql.Identifier(side.source),
            "old": sql.Identifier(migration.old_column),
            "content": content_sql(migration, "t"),
            "has_content": has_content_sql(migration, "t"),
            "in_scope": scope_sql(migration, "t"),
            "fingerprint": fingerprint_sql(migration, "t"),
            "key": key_sql(migration, "t"),
            "s_key": key_sql(migration, "s"),
            "batch_key_join": key_join_sql(migration, "t", sql.SQL("b.key")),
            "key_columns": sql.SQL(", ").join(sql.Identifier(name) for name in migration.key_columns),
            "t_keys": sql.SQL(", ").join(sql.Identifier("t", name) for name in migration.key_columns),
            "side_join": same_key_sql(migration, "s", "t"),
            "vector_type": vector_sql_type(migration),
            "migration": sql.Literal(migration.id),
            "model": sql.Literal(migration.new_model.id),
            "limit_characters": sql.Literal(migration.new_model.max_input_tokens * CHARACTERS_PER_TOKEN_AT_MOST),
            "old_digest": digest_sql(migration, sql.Identifier("t", migration.old_column), migration.old_vector_type),
            "text_waits": self._text_waits(),
            "missing": self._missing(),
            "side_from": self._side_from(),
        }

    def _text_waits(self) -> sql.Composable:
        """Whether the row's text, in another table, is queued as changed and its rows are not yet."""
        elsewhere = self.migration.text_table
        if elsewhere is None:
            return sql.SQL("false")
        return sql.SQL(
            "{} IN (SELECT text_key FROM embedtui.queue WHERE migration = {} AND text_key IS NOT NULL)"
        ).format(reference_sql(elsewhere, "t"), sql.Literal(self.migration.id))

    def _missing(self) -> sql.Composable:
        raise NotImplementedError

    def _side_from(self) -> sql.Composable:
        raise NotImplementedError

    def _format(self, text: str, **more: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**self.names, **more)

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
                sql.SQL("octet_length" if re.match(r"text|character", kind) else "pg_column_size"),
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
        self, conn: Connection, text: str, parameters: list[object], vector_type: str, **more: sql.Composable
    ) -> psycopg.Cursor[Any]:
        """Run a statement that reads the batch; a raw cursor, since identifiers may hold a percent sign."""
        conn.execute("SELECT pg_catalog.set_config(%s, %s, true)", [WRITER, OURS])
        query = self._format(text, batch=self._batch(vector_type, len(parameters)), **more)
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

    def _side_columns(self) -> dict[str, sql.Composable]:
        raise NotImplementedError

    def replace(self, conn: Connection, rows: Sequence[SourceRow], vectors: Vectors, side: Side) -> set[Key]:
        """Store vectors of one side over what is there; the keys that could be."""
        if not rows:
            return set()
        migration = self.migration
        kind = migration.vector_type if side is Side.NEW else migration.old_vector_type
        text = self._replace_new if side is Side.NEW else _REPLACE_OLD
        parameters = self._parameters(conn, rows, vectors, kind)
        parameters.append([row.new_digest if side is Side.NEW else row.old_digest for row in rows])
        cursor = self._with_batch(conn, text, parameters, kind, **self._side_columns())
        return {tuple(key) for (key,) in cursor}

    def adopt(self, conn: Connection, rows: Sequence[SourceRow]) -> set[Key]:
        """Take the stamps off vectors that the application wrote over stamped ones."""
        del conn
        return {row.key for row in rows}

    def sweep(self, conn: Connection, limit: int) -> list[Key]:
        """Keys of rows whose new vector is not that of their content."""
        query = self._format(
            """
            SELECT {key} FROM {side_from}
            WHERE {in_scope} AND ({new_embedding} IS NULL OR {new_source} <> {fingerprint}
                   OR {new_source} IS NOT NULL AND {new_model} IS DISTINCT FROM {model}
                   OR {new_source} IS NULL AND NOT {trusted})
              AND {has_content}
              AND NOT EXISTS (SELECT FROM embedtui.fault f WHERE f.migration = {migration} AND f.side = 'new'
                              AND f.key = {key})
              AND NOT EXISTS (SELECT FROM embedtui.queue q WHERE q.migration = {migration} AND q.text_key IS NULL
                              AND q.key = {key})
              AND NOT {text_waits}
            LIMIT {limit}
            """,
            limit=sql.Literal(limit),
            trusted=sql.Literal(self.migration.stored.trust_application),
            **self._side_columns(),
        )
        return [tuple(key) for (key,) in conn.execute(query)]

    def count(self, conn: Connection) -> VerifyReport:
        """Count every row by the state of its new vector (full scan)."""
        query = self._format(
            """
            SELECT count(*),
                   count(*) FILTER (WHERE NOT filled),
                   count(*) FILTER (WHERE filled AND fresh),
                   count(*) FILTER (WHERE filled AND NOT present AND fault IS NULL),
                   count(*) FILTER (WHERE filled AND present AND stamped AND model_right AND NOT fresh
                                    AND fault IS NULL),
                   count(*) FILTER (WHERE filled AND present AND stamped AND NOT model_right),
                   count(*) FILTER (WHERE filled AND present AND NOT stamped),
                   count(*) FILTER (WHERE filled AND NOT fresh AND fault IN ('open', 'retry', 'truncate')),
                   count(*) FILTER (WHERE filled AND NOT fresh AND fault = 'skipped')
            FROM (SELECT {has_content} AS filled, {new_embedding} IS NOT NULL AS present,
                         {new_source} IS NOT NULL AS stamped,
                         coalesce({new_model} = {model}, false) AS model_right,
                         coalesce({new_source} = {fingerprint} AND {new_model} = {model}
                                  AND {new_embedding} IS NOT NULL, false) AS fresh,
                         f.state AS fault
                  FROM {side_from}
                  LEFT JOIN embedtui.fault f ON f.migration = {migration} AND f.side = 'new' AND f.key = {key}
                  WHERE {in_scope}) x
            """,
            **self._side_columns(),
        )
        row = conn.execute(query).fetchone()
        assert row is not None
        return VerifyReport(*(*row, self._count_orphans(conn)))

    def forget_source(self, conn: Connection, keys: Sequence[Key]) -> None:
        """Mark new vectors as of unknown content."""
        for key in keys:
            conn.execute(
                self._format(
                    "UPDATE {side} s SET {source_column} = 0, {model_column} = {model} WHERE {key_join} AND {of_scope}",
                    of_scope=self._side_in_scope(),
                    key_join=key_join_sql(self.migration, "s", sql.SQL("{}::text[]").format(sql.Literal(list(key)))),
                ),
            )

    def _side_in_scope(self) -> sql.Composable:
        """Condition that the row of the new side called ``s`` is one that is migrated."""
        return scope_sql(self.migration, "s")

    def forget_gone(self, conn: Connection) -> None:
        """Remove faults and stale marks of rows that were deleted, or have left the scope, and faults of texts gone by.

        A worker's verdict on a text may come when the row has another one, and its vector.
        """
        for marks in ("fault", "stale"):
            conn.execute(
                self._format(
                    "DELETE FROM {marks} m WHERE m.migration = {migration}"
                    " AND NOT EXISTS (SELECT FROM {table} t WHERE {key_join} AND {in_scope})"
                    # of a row under another key now, sync takes them along
                    " AND NOT EXISTS (SELECT FROM embedtui.queue q WHERE q.migration = {migration} AND q.was = m.key)",
                    marks=sql.Identifier("embedtui", marks),
                    key_join=key_join_sql(self.migration, "t", sql.SQL("m.key")),
                )
            )
        conn.execute(
            self._format(
                # a subquery for each fault, never a join: that may read the whole table
                "DELETE FROM embedtui.fault m WHERE m.migration = {migration} AND m.side = 'new' AND ("
                "SELECT NOT {has_content} OR {new_embedding} IS NOT NULL AND {new_source} = {fingerprint}"
                " AND {new_model} = {model} FROM {table} t{side_left_join} WHERE {key_join} AND {in_scope} LIMIT 1)",
                key_join=key_join_sql(self.migration, "t", sql.SQL("m.key")),
                **self._side_columns(),
            )
        )

    def sample(self, conn: Connection, size: int) -> list[tuple[SourceRow, list[float]]]:
        """Random rows with their new vectors."""
        query = self._format(
            """
            SELECT {key}, {fingerprint}, left({content}, {limit_characters}), length({content}), {new_embedding}::real[]
            FROM {side_from} WHERE {in_scope} AND {has_content} AND {new_embedding} IS NOT NULL
              AND length({content}) <= {limit_characters} ORDER BY random() LIMIT {limit}
            """,
            limit=sql.Literal(size),
            **self._side_columns(),
        )
        return [
            (SourceRow(tuple(key), 0, source, text, characters), vector)
            for key, source, text, characters, vector in conn.execute(query)
        ]

    def _count_orphans(self, conn: Connection) -> int:
        """Rows of the new side without a source row; a column has none."""
        del conn
        return 0
