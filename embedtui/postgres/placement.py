"""Where new vectors live and how they are read and written: one pipeline, two placements."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from psycopg import sql

from embedtui.model import Key, Migration, PlacementKind, Side, TableName
from embedtui.postgres.connect import Connection

Vectors = npt.NDArray[np.float32]

# No tokenizer in use makes a token of more than 16 characters on average over a whole text; a longer text is over
# the model's limit whatever it says, and is not read into memory.
CHARACTERS_PER_TOKEN_AT_MOST = 16

_COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TAIL = b"\xff\xff"
_TEXT_OID = 25


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row to embed, as read."""

    key: Key
    block: int
    """Heap page it was read from; 0 where read by key."""
    source: int
    """Fingerprint of the content that ``text`` was made of."""
    text: str
    """Cut where it is longer than any text the model could take: then ``characters`` exceeds ``len(text)``."""
    characters: int


@dataclass(frozen=True, slots=True)
class QueuedRow:
    """A row that change capture named, with what each side still needs."""

    row: SourceRow
    blank: bool
    """Nothing to embed."""
    new_fresh: bool
    """Its new vector is that of its content and of the right model."""
    new_present: bool
    old_present: bool


@dataclass(frozen=True, slots=True)
class Written:
    """What one write transaction did."""

    rows: int
    updates: int = 0
    hot_updates: int = 0


@dataclass(frozen=True, slots=True)
class NewSide:
    """Where the new side's vectors are found."""

    table: TableName
    embedding: str
    model: str
    source: str


@dataclass(frozen=True, slots=True)
class SideCounts:
    """Rows of a table by the state of their new vector."""

    rows: int
    empty: int
    embedded: int
    missing: int
    stale: int
    wrong_model: int
    unverified: int
    faulty: int
    skipped: int
    orphaned: int


def new_side(migration: Migration) -> NewSide:
    """Names of the new side's table and columns."""
    if migration.placement is PlacementKind.COLUMN:
        column = migration.new_column
        return NewSide(migration.table, column, f"{column}_model", f"{column}_source")
    return NewSide(migration.new_table, migration.new_column, "model", "source")


def relation(name: TableName) -> sql.Identifier:
    """A quoted, qualified relation."""
    return sql.Identifier(name.schema, name.name)


def vector_sql_type(migration: Migration) -> sql.Composed:
    """Type of the new side with its dimensions, qualified by pgvector's schema."""
    return sql.SQL("{}({})").format(
        sql.Identifier(migration.vector_schema, migration.vector_type), sql.Literal(migration.new_model.dimensions)
    )


def fingerprint_sql(migration: Migration, alias: str) -> sql.Composed:
    """Fingerprint (bigint) of the content of the row called ``alias``: method 1, over the columns' text forms."""
    columns = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(alias, name)) for name in migration.content_columns
    )
    return sql.SQL("pg_catalog.hash_record_extended(ROW({}), 0)").format(columns)


def content_sql(migration: Migration, alias: str) -> sql.Composed:
    """The text to embed: content columns one under the other, NULLs left out."""
    columns = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(alias, name)) for name in migration.content_columns
    )
    return sql.SQL("pg_catalog.concat_ws(E'\\n', {})").format(columns)


def has_content_sql(migration: Migration, alias: str) -> sql.Composed:
    """True where there is something to embed: any character that is not white space."""
    return sql.SQL("({} ~ '\\S')").format(content_sql(migration, alias))


def key_sql(migration: Migration, alias: str) -> sql.Composed:
    """The row's key as text[]."""
    parts = sql.SQL(", ").join(
        sql.SQL("{}::text").format(sql.Identifier(alias, name)) for name in migration.key_columns
    )
    return sql.SQL("ARRAY[{}]").format(parts)


def key_join_sql(migration: Migration, alias: str, key: sql.Composable) -> sql.Composed:
    """Condition that the row called ``alias`` has the key ``key`` (a text[] expression); can use the key's index."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} = ({})[{}]::{}").format(
            sql.Identifier(alias, name),
            key,
            sql.Literal(position),
            sql.SQL(kind),
        )
        for position, (name, kind) in enumerate(zip(migration.key_columns, migration.key_types, strict=True), 1)
    )


class Placement(Protocol):
    """What the engine asks of a placement; all SQL of it lives here."""

    migration: Migration

    def prepare_sql(self) -> tuple[sql.Composed, ...]:
        """DDL that makes the new side."""
        ...

    def undo_sql(self) -> tuple[sql.Composed, ...]:
        """DDL that takes the new side back."""
        ...

    def read_shard(self, conn: Connection, leaf: TableName, first: int, last: int) -> list[SourceRow]:
        """Rows of blocks first..last (inclusive) that have no new vector, something to embed, and no open fault."""
        ...

    def write(self, conn: Connection, leaf: TableName, rows: Sequence[SourceRow], vectors: Vectors) -> Written:
        """Store vectors of rows read by ``read_shard``, guarded; runs inside the caller's transaction."""
        ...

    def read_keys(self, conn: Connection, keys: Sequence[Key]) -> list[QueuedRow]:
        """The rows with these keys, as far as they exist."""
        ...

    def replace(self, conn: Connection, rows: Sequence[SourceRow], vectors: Vectors, side: Side) -> set[Key]:
        """Store or replace vectors of rows read by ``read_keys``; keys whose row was locked or changed are left out."""
        ...

    def sweep(self, conn: Connection, limit: int) -> list[Key]:
        """Keys of rows whose new vector is missing, stale or of another model, and that nothing else takes care of yet.

        Faulty rows and queued ones are left out: an application that edits all the time cannot keep it from ending.
        """
        ...

    def count(self, conn: Connection) -> SideCounts:
        """Full scan."""
        ...

    def forget_source(self, conn: Connection, keys: Sequence[Key]) -> None:
        """Take the provenance off these rows' new vectors, so that sync replaces them; the vectors stay searchable."""
        ...

    def forget_gone(self, conn: Connection) -> None:
        """Remove faults and stale marks of rows that are no longer there; no trigger tells of every delete."""
        ...

    def sample(self, conn: Connection, size: int) -> list[tuple[SourceRow, list[float]]]:
        """Random rows that have content and a new vector, with that vector (full scan)."""
        ...


def make_placement(migration: Migration) -> Placement:
    """The placement of a migration."""
    return ColumnPlacement(migration) if migration.placement is PlacementKind.COLUMN else TablePlacement(migration)


def prepare_batch(conn: Connection, migration: Migration) -> None:
    """Make this connection's temporary tables; call once per connection that writes."""
    with conn.transaction():
        for name, vector_type in (("batch", migration.vector_type), ("batch_old", migration.old_vector_type)):
            conn.execute(
                sql.SQL(
                    "CREATE TEMP TABLE IF NOT EXISTS {} (key text[], source bigint, embedding {}) ON COMMIT DELETE ROWS"
                ).format(sql.Identifier(f"embedtui_{name}"), sql.Identifier(migration.vector_schema, vector_type))
            )
        # The batch has no statistics; without these a small table would be read whole for every batch.
        conn.execute("SET enable_hashjoin = off")
        conn.execute("SET enable_mergejoin = off")


def copy_data(rows: Sequence[SourceRow], vectors: Vectors, half: bool) -> bytes:
    """Binary COPY data of (key text[], source bigint, embedding) for all rows; no Python float is made."""
    dimensions = vectors.shape[1]
    number = np.dtype(">f2" if half else ">f4")
    width = number.itemsize * dimensions
    numbers = memoryview(vectors.astype(number).tobytes())
    head = struct.pack("!iHH", 4 + width, dimensions, 0)
    parts: list[bytes | memoryview] = [_COPY_HEAD]
    for position, row in enumerate(rows):
        values = b"".join(struct.pack("!i", len(value)) + value for value in (part.encode() for part in row.key))
        # an array: dimensions, has NULLs, element type (text), length, lower bound
        array = struct.pack("!iiIii", 1, 0, _TEXT_OID, len(row.key), 1) + values
        parts.append(struct.pack("!hi", 3, len(array)) + array + struct.pack("!iq", 8, row.source) + head)
        parts.append(numbers[position * width : (position + 1) * width])
    parts.append(_COPY_TAIL)
    return b"".join(parts)


class _Common:
    """Reads, and the writes that both placements share."""

    def __init__(self, migration: Migration) -> None:
        self.migration = migration
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
            "fingerprint": fingerprint_sql(migration, "t"),
            "key": key_sql(migration, "t"),
            "batch_key_join": key_join_sql(migration, "t", sql.SQL("b.key")),
            "key_columns": sql.SQL(", ").join(sql.Identifier(name) for name in migration.key_columns),
            "t_keys": sql.SQL(", ").join(sql.Identifier("t", name) for name in migration.key_columns),
            "side_join": sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier("s", name), sql.Identifier("t", name))
                for name in migration.key_columns
            ),
            "vector_type": vector_sql_type(migration),
            "migration": sql.Literal(migration.id),
            "model": sql.Literal(migration.new_model.id),
            "limit_characters": sql.Literal(migration.new_model.max_input_tokens * CHARACTERS_PER_TOKEN_AT_MOST),
            "missing": self._missing(),
            "side_from": self._side_from(),
        }

    def _missing(self) -> sql.Composable:
        raise NotImplementedError

    def _side_from(self) -> sql.Composable:
        raise NotImplementedError

    def _format(self, text: str, **more: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**self.names, **more)

    def read_shard(self, conn: Connection, leaf: TableName, first: int, last: int) -> list[SourceRow]:
        query = self._format(
            """
            SELECT t.ctid, {key}, {fingerprint},
                   left({content}, {limit_characters}), length({content})
            FROM {leaf} t
            WHERE t.ctid >= {first} AND t.ctid < {last} AND {missing} AND {has_content}
              AND NOT EXISTS (SELECT FROM embedtui.fault f WHERE f.migration = {migration} AND f.side = 'new'
                              AND f.key = {key} AND f.state <> 'retry')
            """,
            leaf=relation(leaf),
            first=sql.SQL("'({},0)'::tid").format(sql.SQL(str(first))),
            last=sql.SQL("'({},0)'::tid").format(sql.SQL(str(last + 1))),
        )
        rows = []
        with conn.cursor(binary=True) as cursor:
            for tid, key, source, text, characters in cursor.execute(query, prepare=False):
                rows.append(SourceRow(tuple(key), int.from_bytes(tid[:4], "big"), source, text, characters))
        return rows

    def _copy(self, conn: Connection, rows: Sequence[SourceRow], vectors: Vectors, side: Side = Side.NEW) -> None:
        new = side is Side.NEW
        kind = self.migration.vector_type if new else self.migration.old_vector_type
        with conn.cursor().copy(
            sql.SQL("COPY {} (key, source, embedding) FROM STDIN (FORMAT BINARY)").format(
                sql.Identifier("pg_temp", "embedtui_batch" if new else "embedtui_batch_old")
            )
        ) as copy:
            copy.write(copy_data(rows, vectors, half=kind == "halfvec"))

    def read_keys(self, conn: Connection, keys: Sequence[Key]) -> list[QueuedRow]:
        query = self._format(
            """
            SELECT {key}, {fingerprint},
                   left({content}, {limit_characters}), length({content}),
                   NOT {has_content},
                   coalesce({new_source} = {fingerprint} AND {new_model} = {model}, false)
                       AND {new_embedding} IS NOT NULL,
                   {new_embedding} IS NOT NULL, t.{old} IS NOT NULL
            FROM (SELECT DISTINCT k.key FROM pg_catalog.jsonb_array_elements({keys}::jsonb) e,
                  LATERAL (SELECT ARRAY(SELECT pg_catalog.jsonb_array_elements_text(e.value)) AS key) k) b
            JOIN {table} t ON {batch_key_join}{side_left_join}
            """,
            # a literal: with parameters, a % in an identifier would be taken for a placeholder
            keys=sql.Literal(json.dumps([list(key) for key in keys])),
            **self._side_columns(),
        )
        result = []
        for key, source, text, characters, blank, fresh, new, old in conn.execute(query):
            row = SourceRow(tuple(key), 0, source, text, characters)
            result.append(QueuedRow(row, blank, fresh, new, old))
        return result

    def _side_columns(self) -> dict[str, sql.Composable]:
        raise NotImplementedError

    def _replace_new(self, conn: Connection) -> Any:
        raise NotImplementedError

    def replace(self, conn: Connection, rows: Sequence[SourceRow], vectors: Vectors, side: Side) -> set[Key]:
        if not rows:
            return set()
        self._copy(conn, rows, vectors, side)
        if side is Side.NEW:
            cursor = self._replace_new(conn)
        else:
            cursor = conn.execute(
                self._format(
                    """
                    WITH locked AS MATERIALIZED (
                        SELECT t.tableoid AS leaf, t.ctid AS tid, b.key, b.embedding
                        FROM pg_temp.embedtui_batch_old b JOIN {table} t ON {batch_key_join}
                        WHERE {fingerprint} = b.source FOR NO KEY UPDATE OF t SKIP LOCKED)
                    UPDATE {table} t SET {old} = l.embedding FROM locked l
                    WHERE t.ctid = l.tid AND t.tableoid = l.leaf RETURNING l.key
                    """
                )
            )
        return {tuple(key) for (key,) in cursor}

    def sweep(self, conn: Connection, limit: int) -> list[Key]:
        query = self._format(
            """
            SELECT {key} FROM {side_from}
            WHERE {has_content}
              AND ({new_embedding} IS NULL OR {new_source} IS DISTINCT FROM {fingerprint}
                   OR {new_model} IS DISTINCT FROM {model})
              AND NOT EXISTS (SELECT FROM embedtui.fault f WHERE f.migration = {migration} AND f.side = 'new'
                              AND f.key = {key})
              AND NOT EXISTS (SELECT FROM embedtui.queue q WHERE q.migration = {migration} AND q.key = {key})
            LIMIT {limit}
            """,
            limit=sql.Literal(limit),
            **self._side_columns(),
        )
        return [tuple(key) for (key,) in conn.execute(query)]

    def count(self, conn: Connection) -> SideCounts:
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
                         {new_source} IS NOT NULL AND {new_model} IS NOT NULL AS stamped,
                         coalesce({new_model} = {model}, false) AS model_right,
                         coalesce({new_source} = {fingerprint} AND {new_model} = {model}
                                  AND {new_embedding} IS NOT NULL, false) AS fresh,
                         f.state AS fault
                  FROM {side_from}
                  LEFT JOIN embedtui.fault f ON f.migration = {migration} AND f.side = 'new' AND f.key = {key}) x
            """,
            **self._side_columns(),
        )
        row = conn.execute(query).fetchone()
        assert row is not None
        return SideCounts(*(*row, self._orphans(conn)))

    def forget_source(self, conn: Connection, keys: Sequence[Key]) -> None:
        for key in keys:
            conn.execute(
                self._format(
                    "UPDATE {side} s SET {source_column} = 0 WHERE {key_join}",
                    key_join=key_join_sql(self.migration, "s", sql.SQL("{}::text[]").format(sql.Literal(list(key)))),
                ),
            )

    def forget_gone(self, conn: Connection) -> None:
        for marks in ("fault", "stale"):
            conn.execute(
                self._format(
                    "DELETE FROM {marks} m WHERE m.migration = {migration}"
                    " AND NOT EXISTS (SELECT FROM {table} t WHERE {key_join})",
                    marks=sql.Identifier("embedtui", marks),
                    key_join=key_join_sql(self.migration, "t", sql.SQL("m.key")),
                )
            )

    def sample(self, conn: Connection, size: int) -> list[tuple[SourceRow, list[float]]]:
        query = self._format(
            """
            SELECT {key}, {fingerprint}, left({content}, {limit_characters}), length({content}), {new_embedding}::real[]
            FROM {side_from} WHERE {has_content} AND {new_embedding} IS NOT NULL
              AND length({content}) <= {limit_characters} ORDER BY random() LIMIT {limit}
            """,
            limit=sql.Literal(size),
            **self._side_columns(),
        )
        return [
            (SourceRow(tuple(key), 0, source, text, characters), vector)
            for key, source, text, characters, vector in conn.execute(query)
        ]

    def _orphans(self, conn: Connection) -> int:
        return 0


class ColumnPlacement(_Common):
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
            "side_left_join": sql.SQL(""),
        }

    def prepare_sql(self) -> tuple[sql.Composed, ...]:
        return (
            self._format(
                "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {embedding} {vector_type},"
                " ADD COLUMN IF NOT EXISTS {model_column} integer, ADD COLUMN IF NOT EXISTS {source_column} bigint"
            ),
        )

    def undo_sql(self) -> tuple[sql.Composed, ...]:
        return (
            self._format(
                "ALTER TABLE {table} DROP COLUMN IF EXISTS {embedding}, DROP COLUMN IF EXISTS {model_column},"
                " DROP COLUMN IF EXISTS {source_column}"
            ),
        )

    def write(self, conn: Connection, leaf: TableName, rows: Sequence[SourceRow], vectors: Vectors) -> Written:
        self._copy(conn, rows, vectors)
        before = self._hot_updates(conn, leaf)
        cursor = conn.execute(
            self._format(
                """
                -- Found by key: an index scan prunes the page it comes to, a TID scan does not, and an unpruned page
                -- has no room for a HOT update.
                WITH locked AS MATERIALIZED (
                    SELECT t.ctid AS tid, b.embedding, b.source
                    FROM pg_temp.embedtui_batch b JOIN {leaf} t ON {batch_key_join}
                    WHERE t.{embedding} IS NULL AND {fingerprint} = b.source
                    FOR NO KEY UPDATE OF t SKIP LOCKED)
                UPDATE {leaf} t SET {embedding} = l.embedding, {model_column} = {model}, {source_column} = l.source
                FROM locked l WHERE t.ctid = l.tid
                """,
                leaf=relation(leaf),
            )
        )
        return Written(cursor.rowcount, cursor.rowcount, self._hot_updates(conn, leaf) - before)

    def _hot_updates(self, conn: Connection, leaf: TableName) -> int:
        """A counter that also holds earlier transactions until they are reported: only differences count."""
        row = conn.execute(
            "SELECT pg_stat_get_xact_tuples_hot_updated(%s::regclass)", [relation(leaf).as_string(conn)]
        ).fetchone()
        return int(row[0]) if row else 0

    def _replace_new(self, conn: Connection) -> Any:
        return conn.execute(
            self._format(
                """
                WITH locked AS MATERIALIZED (
                    SELECT t.tableoid AS leaf, t.ctid AS tid, b.key, b.embedding, b.source
                    FROM pg_temp.embedtui_batch b JOIN {table} t ON {batch_key_join}
                    WHERE {fingerprint} = b.source FOR NO KEY UPDATE OF t SKIP LOCKED)
                UPDATE {table} t SET {embedding} = l.embedding, {model_column} = {model}, {source_column} = l.source
                FROM locked l WHERE t.ctid = l.tid AND t.tableoid = l.leaf RETURNING l.key
                """
            )
        )


class TablePlacement(_Common):
    """New vectors in a side table that follows the user's table by a foreign key."""

    def _missing(self) -> sql.Composable:
        return sql.SQL("NOT EXISTS (SELECT FROM {} s WHERE {})").format(
            relation(self.migration.new_table),
            sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier("s", name), sql.Identifier("t", name))
                for name in self.migration.key_columns
            ),
        )

    def _side_from(self) -> sql.Composable:
        return sql.SQL("{} t LEFT JOIN {} s ON {}").format(
            relation(self.migration.table),
            relation(self.migration.new_table),
            sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier("s", name), sql.Identifier("t", name))
                for name in self.migration.key_columns
            ),
        )

    def _side_columns(self) -> dict[str, sql.Composable]:
        side = new_side(self.migration)
        return {
            "new_embedding": sql.Identifier("s", side.embedding),
            "new_model": sql.Identifier("s", side.model),
            "new_source": sql.Identifier("s", side.source),
            "side_left_join": self._format(" LEFT JOIN {side} s ON {side_join}"),
        }

    def prepare_sql(self) -> tuple[sql.Composed, ...]:
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
                " {model_column} integer NOT NULL, {source_column} bigint NOT NULL,"
                " PRIMARY KEY ({key_columns}){foreign})",
                columns=columns,
                foreign=foreign,
            ),
        )

    def undo_sql(self) -> tuple[sql.Composed, ...]:
        return (self._format("DROP TABLE IF EXISTS {side}"),)

    def write(self, conn: Connection, leaf: TableName, rows: Sequence[SourceRow], vectors: Vectors) -> Written:
        self._copy(conn, rows, vectors)
        cursor = conn.execute(
            self._format(
                """
                WITH locked AS MATERIALIZED (
                    SELECT {t_keys}, b.embedding, b.source
                    FROM pg_temp.embedtui_batch b JOIN {leaf} t ON {batch_key_join}
                    WHERE {fingerprint} = b.source FOR KEY SHARE OF t SKIP LOCKED)
                INSERT INTO {side} ({key_columns}, {embedding}, {model_column}, {source_column})
                SELECT {key_columns}, embedding, {model}, source FROM locked ON CONFLICT DO NOTHING
                """,
                leaf=relation(leaf),
            )
        )
        return Written(cursor.rowcount)

    def _replace_new(self, conn: Connection) -> Any:
        # NO KEY UPDATE, not KEY SHARE: the content must not change between the guard and the commit.
        return conn.execute(
            self._format(
                """
                WITH locked AS MATERIALIZED (
                    SELECT {t_keys}, b.key AS text_key, b.embedding, b.source
                    FROM pg_temp.embedtui_batch b JOIN {table} t ON {batch_key_join}
                    WHERE {fingerprint} = b.source FOR NO KEY UPDATE OF t SKIP LOCKED),
                stored AS (
                    INSERT INTO {side} ({key_columns}, {embedding}, {model_column}, {source_column})
                    SELECT {key_columns}, embedding, {model}, source FROM locked
                    ON CONFLICT ({key_columns}) DO UPDATE SET {embedding} = excluded.{embedding},
                        {model_column} = excluded.{model_column}, {source_column} = excluded.{source_column})
                SELECT text_key FROM locked
                """
            )
        )

    def remove_orphans(self, conn: Connection) -> int:
        """Delete side rows without a source row (only where no foreign key does it)."""
        return conn.execute(
            self._format("DELETE FROM {side} s WHERE NOT EXISTS (SELECT FROM {table} t WHERE {side_join})")
        ).rowcount

    def _orphans(self, conn: Connection) -> int:
        row = conn.execute(
            self._format("SELECT count(*) FROM {side} s WHERE NOT EXISTS (SELECT FROM {table} t WHERE {side_join})")
        ).fetchone()
        return int(row[0]) if row else 0


def follows_by_foreign_key(migration: Migration) -> bool:
    """Whether deletes and key changes reach the side table by a foreign key (else by triggers)."""
    return migration.placement is PlacementKind.TABLE and migration.settings.get("foreign_key", True) is True
