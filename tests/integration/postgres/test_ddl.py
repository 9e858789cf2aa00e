"""DDL waits for long transactions, names them, and never holds production up for longer than it promises."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embedtui.errors import Interrupted, LockTimeout
from embedtui.model import TableName
from embedtui.postgres import ddl, locks
from embedtui.postgres.connect import Connection
from tests.kits.support import connect

ADD = sql.SQL("ALTER TABLE {} ADD COLUMN extra integer").format(sql.Identifier("public", "documents"))


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with connect(database, name="ddl") as conn:
        conn.execute("CREATE TABLE documents (id int PRIMARY KEY, content text)")
        conn.execute("INSERT INTO documents VALUES (1, 'one')")
        yield conn


@pytest.fixture
def blocker(database: str) -> Iterator[Connection]:
    """A session of the application."""
    with psycopg.connect(database, application_name="shop") as blocker:
        yield blocker


def has_column(conn: Connection, column: str = "extra") -> bool:
    row = conn.execute(
        "SELECT count(*) FROM pg_attribute"
        " WHERE attrelid = 'documents'::regclass AND attname = %s AND NOT attisdropped",
        (column,),
    ).fetchone()
    return row == (1,)


def test_runs_all_statements_in_one_transaction(conn: Connection) -> None:
    second = sql.SQL("ALTER TABLE documents ADD COLUMN other integer")
    ddl.run_ddl(conn, [ADD, second], migration=None, stop=threading.Event())
    assert has_column(conn)
    assert has_column(conn, "other")


def test_nothing_is_done_when_one_statement_is_wrong(conn: Connection) -> None:
    with pytest.raises(psycopg.errors.DuplicateColumn):
        ddl.run_ddl(conn, [ADD, ADD], migration=None, stop=threading.Event())
    assert not has_column(conn)


def test_refuses_a_connection_that_would_keep_a_transaction_open(conn: Connection) -> None:
    with pytest.raises(ValueError, match="autocommit"), conn.transaction():
        ddl.run_ddl(conn, [ADD], migration=None, stop=threading.Event())


def test_waits_for_a_long_transaction_without_queueing_for_its_lock(
    conn: Connection, blocker: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the blocker lives, no lock is requested at all, so a SELECT never queues behind ours."""
    blocker.execute("SELECT content FROM documents WHERE content = 'secret'")
    waiting: list[str] = []
    tried_beside: list[bool] = []
    attempt = ddl._attempt

    def watched(*args: Any) -> None:
        tried_beside.append(blocker.info.transaction_status != psycopg.pq.TransactionStatus.IDLE)
        attempt(*args)

    def on_wait(text: str) -> None:
        waiting.append(text)
        blocker.rollback()

    monkeypatch.setattr(ddl, "_attempt", watched)
    ddl.run_ddl(conn, [ADD], migration=None, stop=threading.Event(), on_wait=on_wait)
    assert has_column(conn)
    assert tried_beside == [False]
    assert f"pid {blocker.info.backend_pid} (shop)" in waiting[0]
    assert "idle in transaction" in waiting[0]
    assert "SELECT content FROM documents WHERE content = ?" in waiting[0]
    assert "secret" not in waiting[0]


def test_gives_up_naming_the_holder(conn: Connection, blocker: Connection) -> None:
    blocker.execute("SELECT 1 FROM documents")
    with pytest.raises(LockTimeout, match=rf"pid {blocker.info.backend_pid} \(shop\)"):
        ddl.run_ddl(conn, [ADD], migration=None, stop=threading.Event(), patience=0.5)
    assert not has_column(conn)
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_is_interrupted_while_it_waits(conn: Connection, blocker: Connection) -> None:
    blocker.execute("SELECT 1 FROM documents")
    stop = threading.Event()
    with pytest.raises(Interrupted):
        ddl.run_ddl(conn, [ADD], migration=None, stop=stop, on_wait=lambda _text: stop.set())
    assert not has_column(conn)


def test_a_reader_does_not_hold_up_what_only_locks_out_writers(conn: Connection, blocker: Connection) -> None:
    blocker.execute("SELECT 1 FROM documents")
    create = sql.SQL("CREATE INDEX by_content ON {} (content)").format(sql.Identifier("documents"))
    ddl.run_ddl(conn, [create], migration=None, stop=threading.Event(), blocks_reads=False, patience=5)
    blocker.execute("UPDATE documents SET content = 'two'")
    with pytest.raises(LockTimeout):
        ddl.run_ddl(
            conn,
            [sql.SQL("CREATE INDEX another ON documents (content)")],
            migration=None,
            stop=threading.Event(),
            blocks_reads=False,
            patience=0.5,
            relations=[TableName("public", "documents")],
        )


def test_a_queued_select_waits_no_longer_than_the_promise(database: str, conn: Connection, blocker: Connection) -> None:
    """The hard case: the DDL is in the queue already when the application reads."""
    blocker.execute("SELECT 1 FROM documents")
    with connect(database, name="reader") as reader:
        worst, reads = 0.0, 0

        def tries() -> None:
            try:
                ddl._attempt(conn, [ADD], ddl.LONGEST)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
                pass

        attempt = threading.Thread(target=tries)
        attempt.start()
        while attempt.is_alive():
            began = time.monotonic()
            reader.execute("SELECT count(*) FROM documents")
            worst, reads = max(worst, time.monotonic() - began), reads + 1
        attempt.join()
    assert reads > 0
    assert worst < ddl.LONGEST + 1.0  # the second is the machine's noise
    assert not has_column(conn)


def test_every_try_is_bounded_as_a_whole(conn: Connection) -> None:
    """Waiting and working: a statement that takes too long while it holds the lock is cut and undone."""
    slow = sql.SQL("SELECT pg_sleep(60)")
    with pytest.raises(psycopg.errors.QueryCanceled):
        ddl._attempt(conn, [ADD, slow], ddl.FIRST_TRY)
    assert not has_column(conn)


def test_time_outs_inside_a_try(conn: Connection) -> None:
    keep = sql.SQL(
        "INSERT INTO seen"
        " SELECT current_setting('lock_timeout')::interval, current_setting('statement_timeout')::interval"
    )
    conn.execute("CREATE TABLE seen (lock interval, statement interval)")
    ddl._attempt(conn, [keep, keep], 2.0)
    rows = conn.execute(
        "SELECT extract(epoch FROM lock)::float8, extract(epoch FROM statement)::float8 FROM seen"
    ).fetchall()
    (first_lock, first_all), (second_lock, second_all) = rows
    assert 1.0 < first_lock <= first_all <= ddl.LONGEST
    assert second_lock == ddl.SECOND_LOCK
    assert second_all <= first_all


def test_partitions_and_prepared_tables_of_indexes_count(conn: Connection, blocker: Connection) -> None:
    conn.execute("CREATE TABLE parted (id int) PARTITION BY RANGE (id)")
    conn.execute("CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (9)")
    conn.execute("CREATE INDEX part_id ON part (id)")
    blocker.execute("LOCK TABLE part IN ROW EXCLUSIVE MODE")
    for name in ("parted", "part_id"):
        holders = ddl.lock_holders(conn, [sql.Identifier("public", name)])
        assert [holder.pid for holder in holders] == [blocker.info.backend_pid]


@pytest.mark.parametrize(
    ("query", "head"),
    [
        ("UPDATE t SET a = 'it''s', b = 12.5 WHERE id = 7", "UPDATE t SET a = ?, b = ? WHERE id = ?"),
        ("SELECT $1, col1 FROM t2", "SELECT $1, col1 FROM t2"),
        ("SELECT $tag$ hidden $tag$ ||\n\x1b[31m'cut off", "SELECT ? || [??"),
        ("SELECT E'a", "SELECT E?"),
        (r"SELECT E'it\'s hidden', date'2020-01-01'", "SELECT E?, date?"),
        ("/* don't */ UPDATE t SET a = 'hidden'", "UPDATE t SET a = ?"),
        ("-- it's\nUPDATE t SET a = 'hidden' -- hidden", "UPDATE t SET a = ?"),
        ("SELECT 1 /* a /* b */ it's */, 'hidden'", "SELECT ?"),
        ("UPDATE \"bob's\" SET a = 'hidden'", 'UPDATE "bob\'s" SET a = ?'),
        ("SELECT a$b$c, 'x$b$', 'hidden'", "SELECT a$b$c, ?, ?"),
        ("SELECT 0xFF, 1_000, 1e5, .5", "SELECT ?, ?, ?, ?"),
        ("<insufficient privilege>", ""),
    ],
)
def test_query_head_shows_no_literal(query: str, head: str) -> None:
    assert ddl.query_head(query) == head


def test_session_reads_as_a_sentence() -> None:
    assert str(ddl.Session(7, "shop", 90.0, "active", "SELECT ?")) == "pid 7 (shop), open for 1 m 30 s: SELECT ?"
    prepared = ddl.Session(0, gid="two-phase", age_seconds=7300.0)
    assert str(prepared) == "prepared transaction two-phase, open for 2 h 01 m"


def oid_of(conn: Connection) -> int:
    row = conn.execute("SELECT 'documents'::regclass::oid::bigint").fetchone()
    assert row is not None
    return int(row[0])


def test_every_process_sees_whom_a_change_waits_for_until_it_does_no_more(
    database: str, conn: Connection, blocker: Connection
) -> None:
    """Of its own migration; it is over when the wait is, also where the process that waits is killed."""
    blocker.execute("SELECT content FROM documents WHERE content = 'secret'")
    who = f"ddl waits for pid {blocker.info.backend_pid} (shop), open for "
    with connect(database, name="screen") as screen:
        oid = oid_of(screen)
        seen: list[tuple[str, ...]] = []

        def look(_text: str) -> None:
            seen.append(tuple(hold.detail for hold in ddl.read_waits(screen, 7, oid)))
            assert not ddl.read_waits(screen, 8, oid)

        with pytest.raises(LockTimeout):
            ddl.run_ddl(conn, [ADD], stop=threading.Event(), on_wait=look, patience=1, migration=7)
        assert seen and all(detail.startswith(who) and "content = ?" in detail for (detail,) in seen)
        assert not ddl.read_waits(screen, 7, oid)

        def stops(text: str) -> None:
            look(text)
            screen.execute("SELECT pg_terminate_backend(%s)", [conn.info.backend_pid])

        with pytest.raises(psycopg.OperationalError):
            ddl.run_ddl(conn, [ADD], stop=threading.Event(), on_wait=stops, migration=7)
        assert not ddl.read_waits(screen, 7, oid)


def test_nobody_else_is_believed_to_wait_and_nobody_holds_up_who_does(
    database: str, conn: Connection, blocker: Connection
) -> None:
    """Advisory locks are anybody's: one that stands for no process, one that is had by somebody for himself."""
    conn.execute("CREATE ROLE stranger LOGIN")
    try:
        with psycopg.connect(database, user="stranger", application_name="embedtui/abort", autocommit=True) as stranger:
            stranger.execute("SELECT pg_advisory_lock_shared(%s, 7)", [locks.AWAITING_CLASS])
            for pid in (-1, blocker.info.backend_pid):
                stranger.execute("SELECT pg_advisory_lock(%s, %s)", [locks.AWAITED_CLASS, pid])
            with connect(database, name="screen") as screen:
                assert ddl.read_waits(screen, 7, oid_of(screen)) == ()
                conn.execute("SELECT pg_advisory_lock_shared(%s, 7)", [locks.AWAITING_CLASS])
                conn.execute("SELECT pg_advisory_lock_shared(%s, -2)", [locks.AWAITED_CLASS])
                assert ddl.read_waits(screen, 7, oid_of(screen)) == ()
            blocker.execute("SELECT FROM documents")
            with pytest.raises(LockTimeout, match=f"pid {blocker.info.backend_pid}"):
                ddl.run_ddl(conn, [ADD], stop=threading.Event(), patience=1, migration=7)
    finally:
        conn.execute("DROP ROLE stranger")
