"""What is done to a whole side: the sweep, counts, samples, and what is forgotten of rows that are gone."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from embedtui.model import Key, Migration, VerifyReport
from embedtui.postgres.connect import Connection
from embedtui.postgres.joined import reference_sql
from embedtui.postgres.names import key_join_sql, key_sql, relation
from embedtui.postgres.sides.layout import (
    content_sql,
    fingerprint_sql,
    has_content_sql,
    new_side,
    scope_sql,
    vector_sql_type,
)
from embedtui.postgres.sides.own_writes import own_write
from embedtui.postgres.sides.protocol import SourceRow
from embedtui.postgres.values import same_key_sql

# No tokenizer in use makes a token of more than 16 characters on average over a whole text; a longer text is over
# the model's limit whatever it says, and is not read into memory.
CHARACTERS_PER_TOKEN_AT_MOST = 16


def digest_sql(migration: Migration, vector: sql.Composable, kind: str) -> sql.Composed:
    """Digest of a vector's binary form, empty where there is none: whether it is still the one that was read."""
    return sql.SQL("coalesce(pg_catalog.md5({}({})), '')").format(
        sql.Identifier(migration.vector_schema, f"{kind}_send"), vector
    )


class WholeSide:
    """The names that all statements of a migration use, and what reads or mends the whole of its new side."""

    def __init__(self, migration: Migration) -> None:
        """Compose the names that all statements of this migration use."""
        self.migration = migration
        self._type_oids: dict[str, int] = {}
        side = new_side(migration)
        self.same_table = side.table == migration.table
        """New vectors are in the user's table."""
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

    def _side_columns(self) -> dict[str, sql.Composable]:
        raise NotImplementedError

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

    def count_present(self, conn: Connection) -> VerifyReport:
        """The same of rows whose stamps are gone: only whether there is a vector (full scan)."""
        query = self._format(
            """
            SELECT count(*), count(*) FILTER (WHERE NOT filled), count(*) FILTER (WHERE filled AND present),
                   count(*) FILTER (WHERE filled AND NOT present AND NOT skipped), 0, 0, 0, 0,
                   count(*) FILTER (WHERE filled AND NOT present AND skipped), 0
            FROM (SELECT {has_content} AS filled, {new_embedding} IS NOT NULL AS present,
                         EXISTS (SELECT FROM embedtui.fault f WHERE f.migration = {migration} AND f.side = 'new'
                                 AND f.state = 'skipped' AND f.key = {key}) AS skipped
                  FROM {side_from} WHERE {in_scope}) x
            """,
            **self._side_columns(),
        )
        row = conn.execute(query).fetchone()
        assert row is not None
        return VerifyReport(*row)

    def forget_source(self, conn: Connection, keys: Sequence[Key]) -> None:
        """Mark new vectors as of unknown content."""
        for key in keys:
            forget = self._format(
                "UPDATE {side} s SET {source_column} = 0, {model_column} = {model} WHERE {key_join} AND {of_scope}",
                of_scope=self._side_in_scope(),
                key_join=key_join_sql(self.migration, "s", sql.SQL("{}::text[]").format(sql.Literal(list(key)))),
            )
            with own_write(conn, self.migration, beside=not self.same_table):
                conn.execute(forget)

    def _side_in_scope(self) -> sql.Composable:
        """Condition that the row of the new side called ``s`` is one that is migrated."""
        return scope_sql(self.migration, "s")

    def forget_gone(self, conn: Connection) -> None:
        """Remove faults and stale marks of rows that were deleted, or have left the scope, and faults of texts gone by.

        A worker's verdict on a text may come when the row has another one, and its vector.
        """
        try:
            with conn.transaction():
                self._forget_gone(conn)
        except psycopg.DataError:  # other roles may write marks as well: of keys that are none, too
            for marks in ("fault", "stale"):
                found = conn.execute(
                    self._format("SELECT DISTINCT key FROM {marks} WHERE migration = {migration}", marks=_marks(marks))
                ).fetchall()
                self._forget_unreadable(conn, marks, [key for (key,) in found])
            self._forget_gone(conn)

    def _forget_unreadable(self, conn: Connection, marks: str, keys: Sequence[list[str]]) -> None:
        """Remove those of these marks whose key is none of its columns' types."""
        if not keys:
            return
        among = [sql.Literal(key) for key in keys]
        try:
            with conn.transaction():
                conn.execute(
                    self._format(
                        "SELECT count(*) FROM {marks} m WHERE m.migration = {migration} AND m.key IN ({keys})"
                        " AND EXISTS (SELECT FROM {table} t WHERE {key_join})",
                        marks=_marks(marks),
                        keys=sql.SQL(", ").join(sql.SQL("{}::text[]").format(key) for key in among),
                        key_join=key_join_sql(self.migration, "t", sql.SQL("m.key")),
                    )
                )
        except psycopg.DataError:
            if len(keys) == 1:
                conn.execute(
                    self._format(
                        "DELETE FROM {marks} WHERE migration = {migration} AND key = {unreadable}::text[]",
                        marks=_marks(marks),
                        unreadable=among[0],
                    )
                )
                return
            half = len(keys) // 2
            self._forget_unreadable(conn, marks, keys[:half])
            self._forget_unreadable(conn, marks, keys[half:])

    def _forget_gone(self, conn: Connection) -> None:
        for marks in ("fault", "stale"):
            conn.execute(
                self._format(
                    "DELETE FROM {marks} m WHERE m.migration = {migration}"
                    " AND NOT EXISTS (SELECT FROM {table} t WHERE {key_join} AND {in_scope})"
                    # of a row under another key now, sync takes them along
                    " AND NOT EXISTS (SELECT FROM embedtui.queue q WHERE q.migration = {migration} AND q.was = m.key)",
                    marks=_marks(marks),
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


def _marks(table: str) -> sql.Identifier:
    return sql.Identifier("embedtui", table)
