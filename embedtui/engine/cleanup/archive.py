"""The old vectors kept in a table or a file, in pages by key, counted before anything is dropped.

Each page is a short transaction of its own: one snapshot over a big table would hold back clean-up everywhere, and fail
beside workers who write the migration's row.
"""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from psycopg import sql

from embedtui.engine.cleanup.choice import CleanupChoice
from embedtui.engine.cleanup.statements import archive_sql, archive_table_sql, old_vectors_sql
from embedtui.engine.cleanup.steps import Told, require_held, unbounded
from embedtui.errors import DatabaseError, Interrupted, Refused
from embedtui.model import Key, Migration, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import cancelled_by
from embedtui.postgres.names import key_after_sql, key_sql, relation
from embedtui.postgres.sides import rights
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.ending import read_ending, remember
from embedtui.postgres.state.migrations import total_rows

PAGE = 2_000
"""Rows of a page: of 768 dimensions about 6 MB."""


def store_archive(
    conn: Connection, migration: Migration, choice: CleanupChoice, stop: threading.Event, say: Callable[[str], None]
) -> None:
    """Store the old vectors and count them; what an interruption left of a table is gone on with, a file is begun anew.

    Raises:
        DatabaseError: the archive does not hold what was written to it.
        Refused: taken back by a rollback, or a table that is not ours has the name.
        Interrupted: ``stop`` was set.
    """
    assert choice.archive is not None
    if isinstance(choice.archive, TableName):
        written, stored = _into_table(conn, migration, choice.archive, stop, say)
    else:
        written, stored = _into_file(conn, migration, choice.archive, stop, say)
    if stored != written:
        raise DatabaseError(
            f"The archive {choice.archive} holds {stored} vectors, and {written} were written; nothing was dropped.",
            hint="Check the disk, then run the cleanup again.",
        )
    with conn.transaction():
        remember(conn, migration, {"archived": stored})
        add_audit(conn, migration.id, "archive", f"{stored} old vectors to {choice.archive}")


def _into_table(
    conn: Connection, migration: Migration, archive: TableName, stop: threading.Event, say: Callable[[str], None]
) -> tuple[int, int]:
    """(rows written, rows that are there)."""
    begun = read_ending(conn, migration).record.get("archive_oid")
    row = conn.execute("SELECT to_regclass(%s)::oid::int8", (relation(archive).as_string(conn),)).fetchone()
    there = row[0] if row else None
    if there is not None and there != begun:
        raise Refused(f"{archive} is there, and is none of this cleanup.", hint="Rename it, and clean up again.")
    if there is None:
        with conn.transaction():
            for statement in archive_table_sql(migration, archive):
                conn.execute(statement)
            for statement in rights.own_sql(conn, archive):
                conn.execute(statement)
            made = conn.execute("SELECT to_regclass(%s)::oid::int8", (relation(archive).as_string(conn),)).fetchone()
            assert made is not None
            remember(conn, migration, {"archive_oid": made[0]})
    written = _count(conn, archive)
    last = conn.execute(
        sql.SQL("SELECT {} FROM {} AS t ORDER BY {} LIMIT 1").format(
            key_sql(migration, "t"), relation(archive), _ordered(migration, "DESC")
        )
    ).fetchone()
    for page in _pages(conn, migration, tuple(last[0]) if last else None, written, stop, say):
        with cancelled_by(conn, stop):
            written += page.add(conn.execute(archive_sql(migration, archive, page.within)).rowcount)
    return written, _count(conn, archive)


def _into_file(
    conn: Connection, migration: Migration, path: Path, stop: threading.Event, say: Callable[[str], None]
) -> tuple[int, int]:
    """(rows written, rows that the finished file really holds: COPY's text form has one line for each)."""
    part = path.with_name(f"{path.name}.part")
    part.touch(mode=0o600)
    part.chmod(0o600)  # as closed as the table: nobody but who archives; also one that an interrupted attempt left
    written = 0
    with _opened(part, "wb") as file:
        for page in _pages(conn, migration, None, 0, stop, say):
            with cancelled_by(conn, stop), conn.cursor() as cursor:
                with cursor.copy(archive_sql(migration, path, page.within)) as copy:
                    for block in copy:
                        file.write(block)
                written += page.add(cursor.rowcount)
    with _opened(part, "rb") as file:
        lines = sum(1 for _ in file)
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.replace(path)
    return written, lines


class _Page:
    """Rows between two keys."""

    def __init__(self, within: sql.Composable) -> None:
        self.within = within
        self.rows = 0

    def add(self, rows: int) -> int:
        self.rows += rows
        return rows


def _pages(
    conn: Connection,
    migration: Migration,
    after: Key | None,
    done: int,
    stop: threading.Event,
    say: Callable[[str], None],
) -> Iterator[_Page]:
    """Conditions on the rows of each page, behind ``after``; the last one has no end."""
    told = Told(say, "old vectors kept", total_rows(conn, migration.id), done)
    while True:
        require_held(conn, migration, "cleanup")
        if stop.is_set():
            raise Interrupted("Stopped while the old vectors are kept.", hint="Run it again to complete it.")
        begin = sql.SQL("true") if after is None else key_after_sql(migration, "t", after)
        with cancelled_by(conn, stop), unbounded(conn):
            row = conn.execute(
                sql.SQL("SELECT {} FROM ({}) AS t ORDER BY {} OFFSET {} LIMIT 1").format(
                    key_sql(migration, "t"),
                    old_vectors_sql(migration, begin),
                    _ordered(migration),
                    sql.Literal(PAGE - 1),
                )
            ).fetchone()
        end = tuple(row[0]) if row else None
        behind = sql.SQL("true") if end is None else sql.SQL("NOT {}").format(key_after_sql(migration, "t", end))
        page = _Page(sql.SQL("{} AND {}").format(begin, behind))
        yield page
        done += page.rows
        told.now(done)
        if end is None:
            return
        after = end


def _ordered(migration: Migration, how: str = "") -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier("t", name), sql.SQL(how)) for name in migration.key_columns
    )


def _opened(path: Path, mode: str) -> IO[bytes]:
    if path.name.removesuffix(".part").endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, mode))
    return cast(IO[bytes], path.open(mode))


def _count(conn: Connection, archive: TableName) -> int:
    with unbounded(conn):
        found = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(relation(archive))).fetchone()
    assert found is not None
    return int(found[0])
