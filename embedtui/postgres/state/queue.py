"""What change capture appended and nobody has worked off yet: table ``queue``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import sql
from psycopg.types.json import Jsonb

from embedtui.model import Key
from embedtui.postgres.connect import Connection
from embedtui.postgres.state.counters import added

EVERY_KIND = "iudtrsex"
"""Kinds of entries: insert, update, delete, truncate, repair, scanned, entered the scope, text in another table."""

OF_ROWS = "q.text_key IS NULL"
"""Condition on an entry: it names a row of the table, and not a text that rows refer to."""


def queue_keys(conn: Connection, migration_id: int, keys: Iterable[Key], kind: str = "r") -> None:
    """Queue rows: for repair of the new side, or (kind ``u``) as edited."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO embedtui.queue (migration, key, kind) VALUES (%s, %s, %s)",
            [(migration_id, list(key), kind) for key in keys],
        )


def last_entry(conn: Connection, migration_id: int) -> int | None:
    """Id of the newest entry; None where nothing waits."""
    row = conn.execute("SELECT max(id) FROM embedtui.queue WHERE migration = %s", [migration_id]).fetchone()
    return row[0] if row else None


def waits(conn: Connection, migration_id: int, *, up_to: int | None = None, kinds: str = EVERY_KIND) -> bool:
    """Whether any entry of these kinds, no newer than ``up_to`` (None: of any age), is still to be worked off.

    What stands for a text's entry is as old as that one.
    """
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM embedtui.queue WHERE migration = %s"
        " AND coalesce(coalesce(text_entry, id) <= %s::bigint, true) AND kind = ANY (%s))",
        [migration_id, up_to, list(kinds)],
    ).fetchone()
    return row == (True,)


def read_backlog(conn: Connection, migration_id: int, at_most: int) -> tuple[int, float | None]:
    """Entries, counted up to a bound, and the age of the oldest in seconds (None without any)."""
    row = conn.execute(
        "SELECT count(*), extract(epoch FROM now() - min(at))::float8"
        " FROM (SELECT at FROM embedtui.queue WHERE migration = %s ORDER BY id LIMIT %s) q",
        [migration_id, at_most],
    ).fetchone()
    assert row is not None
    queued, oldest = row
    return queued, max(0.0, oldest) if oldest is not None else None


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the queue."""

    id: int
    key: Key
    kind: str
    """i insert, u update, d delete, t truncate, r repair, s found by a scan, e entered the scope by an update."""
    edited: bool
    """The content changed."""
    was: Key | None
    """Key of the row before the statement, where that changed it."""
    wrote_old: bool
    """The statement itself wrote the old vector."""
    wrote_new: bool
    """The same of the new one, without saying what content it is of."""
    text_entry: int | None = None
    """The entry of a text in another table that it stands for; its row has this key since."""

    @property
    def place(self) -> int:
        """Its place in order: what came after a text's change came after that of all its rows."""
        return self.id if self.text_entry is None else self.text_entry

    def names_a_row(self, parts: int) -> bool:
        """Whether its keys have so many parts, as those of our triggers do: other roles may write here as well."""
        keys = (self.key,) if self.was is None else (self.key, self.was)
        return all(len(key) == parts and all(isinstance(part, str) for part in key) for key in keys)


_ENTRY = "q.id, q.key, q.kind::text, q.edited, q.was, q.wrote_old, q.wrote_new, q.text_entry"


def _entry(row: tuple[int, list[str], str, bool, list[str] | None, bool, bool, int | None]) -> Entry:
    number, key, kind, edited, was, wrote_old, wrote_new, text = row
    return Entry(number, tuple(key), kind, edited, None if was is None else tuple(was), wrote_old, wrote_new, text)


def next_entries(conn: Connection, migration_id: int, after: int, limit: int) -> list[Entry]:
    """Entries of rows behind the one called ``after``, in order."""
    rows = conn.execute(
        f"SELECT {_ENTRY} FROM embedtui.queue q WHERE q.migration = %s AND q.id > %s AND {OF_ROWS}"
        " ORDER BY q.id LIMIT %s",
        [migration_id, after, limit],
    )
    return [_entry(row) for row in rows]


def entries_of(conn: Connection, migration_id: int, keys: Iterable[Key]) -> list[Entry]:
    """All entries of these rows in order, under the keys they had before and have had since, too.

    What stands for a text's entry has that one's place: a vector that was written since is of that text.
    """
    rows = conn.execute(
        f"""
        WITH RECURSIVE linked (key) AS (
            SELECT DISTINCT ARRAY(SELECT jsonb_array_elements_text(e.value)) FROM jsonb_array_elements(%(keys)s) e
            UNION
            SELECT CASE WHEN q.key = l.key THEN q.was ELSE q.key END
            FROM embedtui.queue q, linked l
            WHERE q.migration = %(m)s AND {OF_ROWS} AND q.was IS NOT NULL AND (q.key = l.key OR q.was = l.key)
        )
        SELECT {_ENTRY} FROM embedtui.queue q
        WHERE q.migration = %(m)s AND {OF_ROWS} AND q.key IN (SELECT key FROM linked)
        ORDER BY coalesce(q.text_entry, q.id), q.id
        """,
        {"m": migration_id, "keys": Jsonb([list(key) for key in keys])},
    )
    return [_entry(row) for row in rows]


def waiting_keys(conn: Connection, migration_id: int) -> set[Key]:
    """Keys of all rows that wait."""
    return {
        tuple(key)
        for (key,) in conn.execute(
            f"SELECT key FROM embedtui.queue q WHERE migration = %s AND {OF_ROWS}", [migration_id]
        )
    }


def queued_among(conn: Connection, migration_id: int, keys: Iterable[Key]) -> set[Key]:
    """Those of these rows that wait."""
    rows = conn.execute(
        "SELECT DISTINCT key FROM embedtui.queue WHERE migration = %s AND key IN (SELECT"
        " ARRAY(SELECT jsonb_array_elements_text(e.value)) FROM jsonb_array_elements(%s) e)",
        [migration_id, Jsonb([list(key) for key in keys])],
    )
    return {tuple(key) for (key,) in rows}


def count_entries(conn: Connection, migration_id: int) -> int:
    """Entries of a migration; a row that changed twice has two."""
    row = conn.execute("SELECT count(*) FROM embedtui.queue WHERE migration = %s", [migration_id]).fetchone()
    assert row is not None
    return int(row[0])


def count_rows_waiting(conn: Connection, migration_id: int) -> int:
    """Rows whose change waits to be embedded: distinct keys, deleted rows left out; a text elsewhere counts as one."""
    row = conn.execute(
        "SELECT count(DISTINCT CASE WHEN text_key IS NULL THEN key END) + count(DISTINCT text_key)"
        " FROM embedtui.queue WHERE migration = %s AND kind <> 'd'",
        [migration_id],
    ).fetchone()
    assert row is not None
    return int(row[0])


def count_old_waiting(conn: Connection, migration_id: int, limit: int) -> int:
    """Rows new or edited since the application last wrote their old vector; of ``limit`` entries at most."""
    row = conn.execute(
        "SELECT count(*) FROM (SELECT FROM (SELECT coalesce(text_entry, id) AS id, key, kind, edited, wrote_old"
        " FROM embedtui.queue WHERE migration = %s AND kind <> 'd' AND text_key IS NULL ORDER BY id LIMIT %s) q"
        " GROUP BY key"
        " HAVING coalesce(max(id) FILTER (WHERE edited AND NOT wrote_old), 0)"
        " > coalesce(max(id) FILTER (WHERE wrote_old), 0)) x",
        [migration_id, limit],
    ).fetchone()
    assert row is not None
    return int(row[0])


def forget_entries(conn: Connection, migration_id: int, ids: Iterable[int]) -> None:
    """Take entries that are worked off from the queue, and count their rows: written, then given a vector is one."""
    counted = "(SELECT count(*) FROM (SELECT DISTINCT key, text_key FROM gone) g)"
    conn.execute(
        "WITH gone AS (DELETE FROM embedtui.queue WHERE id = ANY (%s) RETURNING key, text_key)"
        f" UPDATE embedtui.migration SET synced = {added('synced', counted)} WHERE id = %s",
        [list(ids), migration_id],
    )


def count_synced(conn: Connection, migration_id: int, *, tokens: int, first: int) -> None:
    """Count what embedding changed rows for the new side took; ``first``: planned rows that had none before."""
    conn.execute(
        f"UPDATE embedtui.migration SET synced_tokens = {added('synced_tokens')},"
        f" synced_first = {added('synced_first')} WHERE id = %s",
        [tokens, first, migration_id],
    )


@dataclass(frozen=True, slots=True)
class TextEntry:
    """A text in another table that is another one now."""

    id: int
    text_key: Key
    """Of its row there."""
    after: Key
    """The last row that was queued for it; empty at first."""


def next_texts(conn: Connection, migration_id: int, limit: int) -> list[TextEntry]:
    """Texts whose rows are to be queued, in order."""
    rows = conn.execute(
        "SELECT id, text_key, key FROM embedtui.queue WHERE migration = %s AND text_key IS NOT NULL"
        " ORDER BY id LIMIT %s",
        [migration_id, limit],
    )
    return [TextEntry(number, tuple(text), tuple(after)) for number, text, after in rows]


def forget_texts(conn: Connection, migration_id: int) -> int:
    """Take all entries of texts in another table from the queue; how many."""
    return conn.execute(
        "DELETE FROM embedtui.queue WHERE migration = %s AND text_key IS NOT NULL", [migration_id]
    ).rowcount


def count_rows_of_texts(conn: Connection, migration_id: int, rows: sql.Composable, limit: int) -> int:
    """Rows whose text in another table changed and that are not queued yet, up to ``limit``; ``rows`` as below."""
    query = sql.SQL(
        "SELECT count(*) FROM (SELECT FROM (SELECT DISTINCT text_key, '{{}}'::text[] AS after FROM embedtui.queue"
        " WHERE migration = {} AND text_key IS NOT NULL) b CROSS JOIN LATERAL ({}) r LIMIT {}) x"
    ).format(sql.Literal(migration_id), rows, sql.Literal(limit))
    row = conn.execute(query).fetchone()
    assert row is not None
    return int(row[0])


_QUEUE_ROWS = """
WITH texts AS MATERIALIZED (
    SELECT q.id, coalesce(q.text_entry, q.id) AS place, q.at, q.text_key, q.key AS after
    FROM embedtui.queue q WHERE q.id = ANY ({ids})),
rows AS MATERIALIZED (
    SELECT b.id, b.place, b.at, r.key FROM texts b CROSS JOIN LATERAL ({rows} LIMIT {limit}) r),
found AS MATERIALIZED (
    SELECT b.*, c.count, c.last FROM texts b LEFT JOIN (
        SELECT id, count(*), max(key COLLATE "C") AS last FROM rows GROUP BY id) c ON c.id = b.id),
added AS (
    INSERT INTO embedtui.queue (migration, key, kind, at, text_key, text_entry)
    SELECT {migration}, key, 'u'::"char", at, NULL, place FROM rows
    UNION ALL
    -- its rows are not all queued yet
    SELECT {migration}, last, 'x', at, text_key, place FROM found WHERE count = {limit})
DELETE FROM embedtui.queue WHERE id IN (SELECT id FROM found)
"""


def queue_rows_of_texts(
    conn: Connection, migration_id: int, texts: Sequence[TextEntry], rows: sql.Composable, limit: int
) -> None:
    """Put rows in the place of the texts that they refer to, up to ``limit`` of each; what is left goes on later.

    Args:
        conn: any connection.
        migration_id: the migration.
        texts: their entries.
        rows: query of the keys ``key`` of the rows that refer to ``b.text_key``, behind ``b.after``, in order.
        limit: rows.

    Raises:
        psycopg.DataError: a key is none of its type.
    """
    conn.execute(
        sql.SQL(_QUEUE_ROWS).format(
            ids=sql.Literal([text.id for text in texts]),
            rows=rows,
            limit=sql.Literal(limit),
            migration=sql.Literal(migration_id),
        )
    )
