"""Where new vectors live and how they are read and written: one pipeline, two placements."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format

from embedtui.model import Key, Migration, PlacementKind, Side, TableName
from embedtui.postgres.connect import Connection

Vectors = npt.NDArray[np.float32]

# No tokenizer in use makes a token of more than 16 characters on average over a whole text; a longer text is over
# the model's limit whatever it says, and is not read into memory.
CHARACTERS_PER_TOKEN_AT_MOST = 16

_BIGINT_OID = 20


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

    def read_shard(
        self, conn: Connection, leaf: TableName, first: int, last: int, filenode: int | None = None
    ) -> list[SourceRow]:
        """Rows of blocks first..last (inclusive) that have no new vector, something to embed, and no open fault.

        None where the leaf's storage is no longer ``filenode`` (if given): these blocks hold other rows now.
        """
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


def prepare_batch(conn: Connection) -> None:
    """Make a connection ready for ``write`` and ``replace``; call once per connection that writes."""
    conn.adapters.register_dumper(_BinaryArray, _BinaryArrayDumper)
    # The size of a batch is not known to the planner; without these a small table would be read whole for every batch.
    conn.execute("SET enable_hashjoin = off")
    conn.execute("SET enable_mergejoin = off")


@dataclass(frozen=True, slots=True)
class _BinaryArray:
    """An array in PostgreSQL's binary form."""

    data: bytes


class _BinaryArrayDumper(Dumper):
    format = Format.BINARY
    oid = 0  # the statement's cast tells the type

    def dump(self, obj: _BinaryArray) -> bytes:
        return obj.data


def _binary_array(element_oid: int, elements: npt.NDArray[np.void]) -> _BinaryArray:
    """``elements`` are records of an element's length (int32) and its bytes, big-endian."""
    # dimensions, has NULLs, element type, length, lower bound
    return _BinaryArray(struct.pack("!iiIii", 1, 0, element_oid, len(elements), 1) + elements.tobytes())


def vector_array(element_oid: int, vectors: Vectors, half: bool) -> _BinaryArray:
    """``vector[]`` (or ``halfvec[]``) of the rows of ``vectors``; no Python float is made."""
    count, dimensions = vectors.shape
    number = np.dtype(">f2" if half else ">f4")
    # pgvector's binary form: dimensions, unused, numbers
    elements = np.empty(
        count, [("length", ">i4"), ("dimensions", ">u2"), ("unused", ">u2"), ("numbers", number, (dimensions,))]
    )
    elements["length"], elements["dimensions"], elements["unused"] = 4 + number.itemsize * dimensions, dimensions, 0
    elements["numbers"] = vectors
    return _binary_array(element_oid, elements)


def _bigint_array(values: Sequence[int]) -> _BinaryArray:
    elements = np.empty(len(values), [("length", ">i4"), ("value", ">i8")])
    elements["length"], elements["value"] = 8, values
    return _binary_array(_BIGINT_OID, elements)


_REPLACE_OLD = """
WITH locked AS MATERIALIZED (
    SELECT t.tableoid AS leaf, t.ctid AS tid, b.key, b.embedding
    FROM {batch} JOIN {table} t ON {batch_key_join}
    WHERE {fingerprint} = b.source FOR NO KEY UPDATE OF t SKIP LOCKED)
UPDATE {table} t SET {old} = l.embedding FROM locked l
WHERE t.ctid = l.tid AND t.tableoid = l.leaf RETURNING l.key
"""


class _Common:
    """Reads, and the writes that both placements share."""

    _replace_new: str
    """Statement that stores or replaces new vectors; gives the keys it could."""

    def __init__(self, migration: Migration) -> None:
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

    def read_shard(
        self, conn: Connection, leaf: TableName, first: int, last: int, filenode: int | None = None
    ) -> list[SourceRow]:
        name = sql.Literal(relation(leaf).as_string(conn))
        query = self._format(
            """
            SELECT x.ctid, x.key, x.source,
                   CASE WHEN x.long THEN left(x.content, {limit_characters}) ELSE x.content END,
                   CASE WHEN x.long THEN length(x.content) END
            FROM (SELECT t.ctid, {key} AS key, {fingerprint} AS source, c.content,
                         octet_length(c.content) > {limit_characters} AS long
                  FROM {leaf} t, LATERAL (SELECT {content} AS content OFFSET 0) c
                  WHERE t.ctid >= {first} AND t.ctid < {last} AND {missing} AND c.content ~ '\\S'
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
            first=sql.SQL("'({},0)'::tid").format(sql.SQL(str(first))),
            last=sql.SQL("'({},0)'::tid").format(sql.SQL(str(last + 1))),
        )
        rows = []
        with conn.cursor(binary=True) as cursor:
            for tid, key, source, text, characters in cursor.execute(query, prepare=False):
                block = int.from_bytes(tid[:4], "big")
                rows.append(SourceRow(tuple(key), block, source, text, len(text) if characters is None else characters))
        return rows

    def _batch(self, vector_type: str) -> sql.Composed:
        """The parameters of :meth:`_parameters` as a relation b (key text[], source bigint, embedding).

        Arrays as parameters need one round trip and no temporary table: 15 % faster than COPY into one on an idle
        machine, and where many threads share a process each round trip less is a wait for the interpreter less.
        """
        count = len(self.migration.key_columns)
        names = [sql.Identifier(f"key_{number}") for number in range(1, count + 1)]
        return sql.SQL(
            "(SELECT ARRAY[{key}] AS key, u.source, u.embedding FROM ROWS FROM ({arrays},"
            " pg_catalog.unnest({source}::bigint[]), pg_catalog.unnest({vectors}::{type}[]))"
            " AS u ({key}, source, embedding)) b"
        ).format(
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
            _bigint_array([row.source for row in rows]),
            vector_array(oid, vectors, half=vector_type == "halfvec"),
        ]

    def _with_batch(
        self, conn: Connection, text: str, parameters: list[object], vector_type: str, **more: sql.Composable
    ) -> psycopg.Cursor[Any]:
        """Run a statement that reads the batch; a raw cursor, since identifiers may hold a percent sign."""
        query = self._format(text, batch=self._batch(vector_type), **more)
        return psycopg.RawCursor(conn).execute(query, parameters)

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

    def replace(self, conn: Connection, rows: Sequence[SourceRow], vectors: Vectors, side: Side) -> set[Key]:
        if not rows:
            return set()
        migration = self.migration
        kind = migration.vector_type if side is Side.NEW else migration.old_vector_type
        text = self._replace_new if side is Side.NEW else _REPLACE_OLD
        cursor = self._with_batch(conn, text, self._parameters(conn, rows, vectors, kind), kind)
        return {tuple(key) for (key,) in cursor}

    def sweep(self, conn: Connection, limit: int) -> list[Key]:
        query = self._format(
            """
            SELECT {key} FROM {side_from}
            WHERE ({new_embedding} IS NULL OR {new_source} IS DISTINCT FROM {fingerprint}
                   OR {new_model} IS DISTINCT FROM {model})
              AND {has_content}
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
                    WHERE t.{embedding} IS NULL AND {fingerprint} = b.source
                    FOR NO KEY UPDATE OF t SKIP LOCKED)
                UPDATE {leaf} t SET {embedding} = l.embedding, {model_column} = {model}, {source_column} = l.source
                FROM locked l WHERE t.ctid = l.tid
                """,
                parameters,
                vector_type,
                leaf=relation(leaf),
            )
            after = self._hot_updates(conn, leaf)
        return Written(cursor.rowcount, cursor.rowcount, _number(after) - _number(before))

    def _hot_updates(self, conn: Connection, leaf: TableName) -> psycopg.Cursor[Any]:
        """A counter that holds this backend's earlier transactions too until it is reported: only differences count."""
        return conn.execute(
            "SELECT pg_stat_get_xact_tuples_hot_updated(%s::regclass)", [relation(leaf).as_string(conn)]
        )

    _replace_new = """
        WITH locked AS MATERIALIZED (
            SELECT t.tableoid AS leaf, t.ctid AS tid, b.key, b.embedding, b.source
            FROM {batch} JOIN {table} t ON {batch_key_join}
            WHERE {fingerprint} = b.source FOR NO KEY UPDATE OF t SKIP LOCKED)
        UPDATE {table} t SET {embedding} = l.embedding, {model_column} = {model}, {source_column} = l.source
        FROM locked l WHERE t.ctid = l.tid AND t.tableoid = l.leaf RETURNING l.key
        """


def _number(cursor: psycopg.Cursor[Any]) -> int:
    row = cursor.fetchone()
    return int(row[0]) if row else 0


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
        vector_type = self.migration.vector_type
        parameters = self._parameters(conn, rows, vectors, vector_type)
        with conn.pipeline():
            cursor = self._with_batch(
                conn,
                """
                WITH locked AS MATERIALIZED (
                    SELECT {t_keys}, b.embedding, b.source
                    FROM {batch} JOIN {leaf} t ON {batch_key_join}
                    WHERE {fingerprint} = b.source FOR KEY SHARE OF t SKIP LOCKED)
                INSERT INTO {side} ({key_columns}, {embedding}, {model_column}, {source_column})
                SELECT {key_columns}, embedding, {model}, source FROM locked ON CONFLICT DO NOTHING
                """,
                parameters,
                vector_type,
                leaf=relation(leaf),
            )
        return Written(cursor.rowcount)

    # NO KEY UPDATE, not KEY SHARE: the content must not change between the guard and the commit.
    _replace_new = """
        WITH locked AS MATERIALIZED (
            SELECT {t_keys}, b.key AS text_key, b.embedding, b.source
            FROM {batch} JOIN {table} t ON {batch_key_join}
            WHERE {fingerprint} = b.source FOR NO KEY UPDATE OF t SKIP LOCKED),
        stored AS (
            INSERT INTO {side} ({key_columns}, {embedding}, {model_column}, {source_column})
            SELECT {key_columns}, embedding, {model}, source FROM locked
            ON CONFLICT ({key_columns}) DO UPDATE SET {embedding} = excluded.{embedding},
                {model_column} = excluded.{model_column}, {source_column} = excluded.{source_column})
        SELECT text_key FROM locked
        """

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

    def _orphans(self, conn: Connection) -> int:
        row = conn.execute(
            self._format("SELECT count(*) FROM {side} s WHERE NOT EXISTS (SELECT FROM {table} t WHERE {side_join})")
        ).fetchone()
        return int(row[0]) if row else 0


def follows_by_foreign_key(migration: Migration) -> bool:
    """Whether deletes and key changes reach the side table by a foreign key (else by triggers)."""
    return migration.placement is PlacementKind.TABLE and migration.settings.get("foreign_key", True) is True
