"""Every reason that holds the backfill, staged for real: locks, old snapshots, a standby, vacuum, WAL, a slow probe."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from embedtui.config import ThrottleSettings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer, _account, _binaries
from embedtui.engine import Engine
from embedtui.engine.backfill import database_throttle
from embedtui.engine.backfill.database_throttle import RELEASE_CHECKS, Throttle, xmin_holder
from embedtui.model import Condition, Hold, Phase
from embedtui.postgres.connect import Connection
from tests.kits.samples import sample_migration
from tests.kits.support import NEW, OLD, connect, make_documents, settings_for, wait_for

OFF = ThrottleSettings(max_replica_lag_seconds=None, max_lock_waits=None, long_transaction_seconds=None)
SETTINGS = {
    "fsync": "off",
    "max_prepared_transactions": "5",
    "wal_receiver_status_interval": "1",
    "wal_level": "logical",
}
MIGRATION = sample_migration(phase=Phase.INDEX)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def primary() -> Iterator[EmbeddedServer]:
    """A server of its own: the shared one has no prepared transactions, and other tests' WAL and snapshots."""
    folder = Path(tempfile.mkdtemp(prefix="embedtui-throttle-"))
    with EmbeddedServer(folder / "pg", settings=SETTINGS) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def dsn(primary: EmbeddedServer) -> Iterator[str]:
    with psycopg.connect(primary.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE shop")
    with psycopg.connect(primary.dsn("shop"), autocommit=True) as admin:
        admin.execute("CREATE TABLE documents (id int PRIMARY KEY, content text)")
        admin.execute("INSERT INTO documents SELECT i, 'x' FROM generate_series(1, 1000) i")
    yield primary.dsn("shop")
    with psycopg.connect(primary.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE shop WITH (FORCE)")


@pytest.fixture
def conn(dsn: str) -> Iterator[Connection]:
    with connect(dsn, name="monitor") as conn:
        yield conn


def names(holds: tuple[Hold, ...]) -> list[str]:
    return [hold.name for hold in holds]


def test_a_quiet_database_holds_nothing(conn: Connection) -> None:
    everything = ThrottleSettings(
        probe_query="SELECT 1", probe_latency_factor=1000.0, hold_for_autovacuum=True, max_wal_mb_per_second=1000.0
    )
    watcher = Throttle(everything, MIGRATION)
    assert watcher.check(conn) == watcher.check(conn) == ()
    assert xmin_holder(conn) == ""


def test_stored_settings_are_the_ones_used(conn: Connection) -> None:
    stored = {"max_wal_mb_per_second": 7.0, "long_transaction_seconds": None}
    assert Throttle.of(replace(MIGRATION, settings={"throttle": stored}))._settings == ThrottleSettings(
        max_wal_mb_per_second=7.0, long_transaction_seconds=None
    )
    assert Throttle.of(MIGRATION).check(conn) == ()


def test_statements_that_wait_for_our_locks(dsn: str, conn: Connection) -> None:
    watcher = Throttle(replace(OFF, max_lock_waits=0), MIGRATION)
    with connect(dsn, name="writer", autocommit=False) as ours, psycopg.connect(dsn, application_name="shop") as shop:
        ours.execute("UPDATE documents SET content = 'y' WHERE id = 1")
        waiting = threading.Thread(target=shop.execute, args=("UPDATE documents SET content = 'secret' WHERE id = 1",))
        waiting.start()
        while not (holds := watcher.check(conn)):
            pass
        assert names(holds) == ["lock_waits"]
        assert f"pid {shop.info.backend_pid} (shop)" in holds[0].detail and "secret" not in holds[0].detail
        ours.rollback()
        waiting.join()
        after = [names(watcher.check(conn)) for _ in range(RELEASE_CHECKS)]
    assert after == [["lock_waits"]] * (RELEASE_CHECKS - 1) + [[]]


def test_one_of_theirs_waiting_for_another_of_theirs_is_not_our_affair(dsn: str, conn: Connection) -> None:
    watcher = Throttle(replace(OFF, max_lock_waits=0), MIGRATION)
    with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
        first.execute("UPDATE documents SET content = 'y' WHERE id = 1")
        waiting = threading.Thread(target=second.execute, args=("UPDATE documents SET content = 'z' WHERE id = 1",))
        waiting.start()
        while conn.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone() is None:
            pass
        assert watcher.check(conn) == ()
        first.rollback()
        waiting.join()


def test_an_old_snapshot_is_named(dsn: str, conn: Connection) -> None:
    watcher = Throttle(replace(OFF, long_transaction_seconds=0.0), MIGRATION)
    with psycopg.connect(dsn, application_name="report") as report, connect(dsn, name="x", autocommit=False) as ours:
        ours.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        ours.execute("SELECT 1")
        assert watcher.check(conn) == ()  # our own are short by design and are not waited for
        report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT count(*) FROM documents")
        holds = watcher.check(conn)
        assert names(holds) == ["long_transactions"]
        assert f"pid {report.info.backend_pid} (report)" in holds[0].detail
        assert "(report)" in xmin_holder(conn, at_least=0)
        assert xmin_holder(conn, at_least=3600) == ""
        assert Throttle(replace(OFF, long_transaction_seconds=3600.0), MIGRATION).check(conn) == ()


def test_a_prepared_transaction_is_named(dsn: str, conn: Connection) -> None:
    with psycopg.connect(dsn) as shop:
        shop.execute("UPDATE documents SET content = 'y' WHERE id = 2")
        shop.execute("PREPARE TRANSACTION 'two-phase'")
        shop.rollback()
    try:
        holds = Throttle(replace(OFF, long_transaction_seconds=0.0), MIGRATION).check(conn)
        assert names(holds) == ["long_transactions"] and "prepared transaction two-phase" in holds[0].detail
        assert "prepared transaction two-phase" in xmin_holder(conn, at_least=0)
    finally:
        conn.execute("ROLLBACK PREPARED 'two-phase'")


def test_a_slow_probe_is_measured_against_its_own_usual(conn: Connection) -> None:
    conn.execute("CREATE TABLE slowness (seconds float)")
    conn.execute("INSERT INTO slowness VALUES (0.01)")
    settings = replace(OFF, probe_query="SELECT pg_sleep(seconds) FROM slowness", probe_latency_factor=4.0)
    watcher = Throttle(settings, MIGRATION)
    assert watcher.check(conn) == ()
    conn.execute("UPDATE slowness SET seconds = 0.2")
    assert watcher.check(conn) == ()  # one slow probe is no reason yet
    (hold,) = watcher.check(conn)
    # ten milliseconds, and what the machine adds: far below the slow ones
    told = re.search(r"usually (\d+) ms, limit \d+ ms", hold.detail)
    assert hold.name == "probe_latency" and told and 10 <= int(told[1]) < 100
    since = hold.since
    conn.execute("UPDATE slowness SET seconds = 0.01")
    later = [watcher.check(conn) for _ in range(RELEASE_CHECKS + 2)]
    assert [hold.since for holds in later[:2] for hold in holds] == [since, since]
    assert later[-1] == ()


def test_a_probe_that_never_ends_is_cut_and_counts_as_slow(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_throttle, "PROBE_TIMEOUT", 0.1)
    conn.execute("CREATE TABLE slowness (seconds float)")
    conn.execute("INSERT INTO slowness VALUES (0)")
    watcher = Throttle(replace(OFF, probe_query="SELECT pg_sleep(seconds) FROM slowness"), MIGRATION)
    watcher.check(conn)
    conn.execute("UPDATE slowness SET seconds = 60")
    watcher.check(conn)
    assert names(watcher.check(conn)) == ["probe_latency"]


@pytest.mark.parametrize("query", ["SELECT nonsense", "DELETE FROM documents RETURNING id"])
def test_a_wrong_or_writing_probe_is_said_and_ends_nothing(conn: Connection, query: str) -> None:
    watcher = Throttle(replace(OFF, probe_query=query), MIGRATION)
    assert watcher.check(conn) == ()
    assert "probe_query" in " ".join(watcher.news())
    assert conn.execute("SELECT count(*) FROM documents").fetchone() == (1000,)


def test_wal_rate(conn: Connection) -> None:
    clock = Clock()
    watcher = Throttle(replace(OFF, max_wal_mb_per_second=1.0), MIGRATION, clock=clock)
    assert watcher.check(conn) == ()
    conn.execute("CREATE TABLE bulk AS SELECT repeat('x', 500) FROM generate_series(1, 10000)")
    clock.now += 1.0
    (hold,) = watcher.check(conn)
    assert hold.name == "wal_rate" and "limit 1 MB/s" in hold.detail
    for _ in range(RELEASE_CHECKS):
        clock.now += database_throttle.WAL_WINDOW + 1
        holds = watcher.check(conn)
    assert holds == ()


def test_vacuum_at_work_on_the_table(dsn: str, conn: Connection) -> None:
    watcher = Throttle(replace(OFF, hold_for_autovacuum=True), MIGRATION)
    conn.execute("DELETE FROM documents WHERE id % 2 = 0")
    with psycopg.connect(dsn, autocommit=True) as vacuum, psycopg.connect(dsn) as reader:
        # a pinned page: a freezing vacuum waits for it, and so stays at work for as long as we look
        cursor = reader.cursor(name="pinned")
        cursor.execute("SELECT * FROM documents")
        cursor.fetchone()
        work = threading.Thread(target=vacuum.execute, args=("VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) documents",))
        work.start()
        while not (holds := watcher.check(conn)):
            assert work.is_alive()
        assert names(holds) == ["autovacuum"] and "documents" in holds[0].detail
        cursor.close()
        reader.rollback()
        work.join()


@pytest.fixture
def standby(primary: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """A streaming standby with a slot and hot_standby_feedback, by pg_basebackup."""
    binaries = _binaries(18)
    account = _account()
    folder = Path(tempfile.mkdtemp(prefix="embedtui-standby-"))
    running = EmbeddedServer(folder / "pg", settings={**SETTINGS, "hot_standby_feedback": "on"})
    (folder / "pg").mkdir()
    folder.chmod(0o755)
    if account:
        shutil.chown(folder / "pg", account["user"], account["group"])
    subprocess.run(
        [
            *(str(binaries / "pg_basebackup"), "--dbname", primary.dsn(), "--checkpoint", "fast", "--no-sync"),
            *("--write-recovery-conf", "--create-slot", "--slot", "replica"),
            *("--pgdata", str(folder / "pg" / "postgresql-18")),
        ],
        check=True,
        capture_output=True,
        cwd="/",
        **account,
    )
    with running:
        yield running
    with psycopg.connect(primary.dsn(), autocommit=True) as admin:
        while admin.execute("SELECT 1 FROM pg_replication_slots WHERE active").fetchone() is not None:
            pass
        admin.execute("SELECT pg_drop_replication_slot('replica')")
    shutil.rmtree(folder, ignore_errors=True)


def test_a_standby_that_lags_and_one_that_holds_the_horizon(
    dsn: str, conn: Connection, standby: EmbeddedServer
) -> None:
    clock = Clock()
    watcher = Throttle(replace(OFF, max_replica_lag_seconds=10.0), MIGRATION, clock=clock)

    def caught_up() -> bool:
        row = conn.execute("SELECT bool_and(replay_lsn = pg_current_wal_lsn()) FROM pg_stat_replication").fetchone()
        return row == (True,)

    deadline = time.monotonic() + 60
    while not caught_up():
        assert time.monotonic() < deadline
    with psycopg.connect(standby.dsn("shop"), autocommit=True) as replica:
        replica.execute("SELECT pg_wal_replay_pause()")
        assert watcher.check(conn) == ()
        conn.execute("UPDATE documents SET content = 'z'")
        clock.now += 1.0
        assert watcher.check(conn) == ()
        clock.now += 30.0
        (hold,) = watcher.check(conn)
        assert hold.name == "replica_lag" and "limit 10 s" in hold.detail and "MB) behind" in hold.detail
        replica.execute("SELECT pg_wal_replay_resume()")
        while not caught_up():
            assert time.monotonic() < deadline
        for _ in range(RELEASE_CHECKS):
            clock.now += 1.0
            holds = watcher.check(conn)
        assert holds == ()

        with replica.transaction():
            replica.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            replica.execute("SELECT count(*) FROM documents")
            patient = Throttle(replace(OFF, long_transaction_seconds=600.0), MIGRATION, clock=clock)
            while not xmin_holder(conn):
                conn.execute("UPDATE documents SET content = 'y' WHERE id = 1")
                assert time.monotonic() < deadline
            assert "replication slot replica" in xmin_holder(conn)
            assert patient.check(conn) == ()
            clock.now += 601
            (hold,) = patient.check(conn)
            assert hold.name == "long_transactions" and "replication slot replica" in hold.detail


def test_a_consumer_of_changes_that_acknowledges_nothing_is_no_replica(
    dsn: str, conn: Connection, primary: EmbeddedServer
) -> None:
    """It waits for another table's changes: there is nothing that it could acknowledge."""
    conn.execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE orders")
    conn.execute("SELECT pg_create_logical_replication_slot('changes', 'pgoutput')")
    with psycopg.connect(primary.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE consumer")
    behind = "SELECT replay_lsn < pg_current_wal_lsn() FROM pg_stat_replication WHERE replay_lsn IS NOT NULL"
    with psycopg.connect(primary.dsn("consumer"), autocommit=True) as consumer:
        consumer.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        consumer.execute(
            sql.SQL("CREATE SUBSCRIPTION s CONNECTION {} PUBLICATION p WITH ({})").format(
                dsn, sql.SQL("create_slot = false, slot_name = changes, copy_data = false")
            )
        )
        wait_for(lambda: conn.execute(behind).fetchone() is not None, "it acknowledges nothing at all")
        (pid,) = consumer.execute("SELECT pid FROM pg_stat_subscription").fetchone() or (0,)
        os.kill(pid, signal.SIGSTOP)
        try:
            clock = Clock()
            watcher = Throttle(replace(OFF, max_replica_lag_seconds=10.0), MIGRATION, clock=clock)
            for _ in range(3):
                conn.execute("UPDATE documents SET content = content || 'z'")
                assert watcher.check(conn) == ()
                clock.now += 30.0
            assert conn.execute(behind).fetchone() == (True,)
        finally:
            os.kill(pid, signal.SIGCONT)
        consumer.execute("ALTER SUBSCRIPTION s DISABLE")
        wait_for(lambda: conn.execute("SELECT FROM pg_stat_replication").fetchone() is None, "it stays")
        consumer.execute("ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s")
    conn.execute("SELECT pg_drop_replication_slot('changes')")
    with psycopg.connect(primary.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE consumer WITH (FORCE)")


def test_a_reason_holds_the_backfill_is_shown_and_lets_it_go_on(database: str, tmp_path: Path) -> None:
    make_documents(database, 3000, text="row {n} " + "x" * 500)
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}, latency=0.3) as api:
        flags = {"throttle.long_transaction_seconds": 0, "pacing.max_concurrency": 1}
        engine = Engine(database, settings=settings_for(database, api, tmp_path, flags))
        engine.prepare()
        running = threading.Thread(target=lambda: engine.run(threading.Event()))
        with psycopg.connect(database, application_name="nightly report") as report:
            report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            report.execute("SELECT count(*) FROM documents")
            running.start()
            wait_for(lambda: engine.snapshot().condition is Condition.THROTTLED, "it does not hold")
            (reason,) = engine.snapshot().reasons
            assert reason.name == "long_transactions" and "(nightly report)" in reason.detail
            wait_for(lambda: not grows(api), "requests go on")
            assert engine.snapshot().backfill.rows < 3000 and running.is_alive()
        api.latency = 0
        running.join(120)
        assert not running.is_alive() and engine.verify().clean
        engine.close()


def grows(api: LoopbackServer) -> bool:
    before = api.requests
    time.sleep(1.5)
    return api.requests > before
