"""The old vectors kept in a table or a file, counted before anything is dropped."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path
from typing import IO, cast

from psycopg import sql

from embedtui.engine.cleanup.choice import CleanupChoice
from embedtui.engine.cleanup.statements import archive_file_sql, archive_table_sql, old_vectors_sql
from embedtui.engine.cleanup.steps import unbounded
from embedtui.errors import DatabaseError
from embedtui.model import Migration, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import cancelled_by
from embedtui.postgres.names import relation
from embedtui.postgres.sides import rights
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.ending import remember


def store_archive(conn: Connection, migration: Migration, choice: CleanupChoice, stop: threading.Event) -> None:
    """Stores the old vectors and counts them against the table, all in one snapshot, before anything is dropped."""
    with cancelled_by(conn, stop), unbounded(conn):
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        expected = _count(conn, sql.SQL("({}) v").format(old_vectors_sql(migration)))
        if isinstance(choice.archive, TableName):
            conn.execute(archive_table_sql(migration, choice.archive))
            for statement in rights.own_sql(conn, choice.archive):
                conn.execute(statement)
            stored = _count(conn, relation(choice.archive))
        else:
            assert choice.archive is not None
            stored = _archive_file(conn, migration, choice.archive)
        if stored != expected:
            raise DatabaseError(
                f"The archive {choice.archive} holds {stored} vectors, the table {expected}; nothing was dropped.",
                hint="Check the disk, then run the cleanup again.",
            )
        remember(conn, migration, {"archived": stored})
        add_audit(conn, migration.id, "archive", f"{stored} old vectors to {choice.archive}")


def _archive_file(conn: Connection, migration: Migration, path: Path) -> int:
    """Rows that the finished file really holds: COPY's text form has one line for each."""
    part = path.with_name(f"{path.name}.part")
    part.touch(mode=0o600)
    part.chmod(0o600)  # as closed as the table: nobody but who archives; also one that an interrupted attempt left
    with _opened(part, "wb") as file, conn.cursor().copy(archive_file_sql(migration)) as copy:
        for block in copy:
            file.write(block)
    with _opened(part, "rb") as file:
        lines = sum(1 for _ in file)
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.replace(path)
    return lines


def _opened(path: Path, mode: str) -> IO[bytes]:
    if path.name.removesuffix(".part").endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, mode))
    return cast(IO[bytes], path.open(mode))


def _count(conn: Connection, rows: sql.Composable) -> int:
    found = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(rows)).fetchone()
    assert found is not None
    return int(found[0])
