"""The database cut, crashed, locked, read-only or changed under a run: it waits or says why, and loses nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import embedtui
from embedtui.demo.api import LoopbackServer
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.engine import Engine
from embedtui.engine.resilience import with_database
from embedtui.errors import DatabaseError, EmbedtuiError, ExitCode
from embedtui.model import Condition, Phase
from embedtui.postgres.connect import Link, connect, require_session
from embedtui.postgres.state import shards
from tests.conftest import FAST
from tests.kits.cli_kit import Shell, traces
from tests.kits.pooling import needs_pgbouncer, pooled
from tests.kits.support import make_documents, settings_for, wait_for

ROWS = 600


def engine_for(dsn: str, api: LoopbackServer, folder: Path, **flags: object) -> Engine:
    flags = {"placement": "table", "pacing.max_concurrency": 2, "new_model.max_inputs": 20, **flags}
    return Engine(dsn, settings=settings_for(dsn, api, folder, flags))


class Running:
    """A run in a thread of its own, at work on the backfill: slowly, so that it is met there, until it is to end."""

    def __init__(self, engine: Engine, api: LoopbackServer, latency: float = 0.5) -> None:
        self.error: EmbedtuiError | None = None
        self._engine, self._api, self._latency = engine, api, latency
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._engine.run(self._stop)
        except EmbedtuiError as error:
            self.error = error

    def __enter__(self) -> Running:
        self._api.latency = self._latency
        self._thread.start()
        wait_for(lambda: self._api.inputs > 60 or not self._thread.is_alive())
        return self

    def ends(self) -> None:
        self._api.latency = 0.02
        self._thread.join(60)
        assert not self._thread.is_alive(), "the run hangs"

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.ends()


def clean(engine: Engine) -> bool:
    report = engine.verify()
    return report.clean and report.embedded == ROWS


OURS = "FROM pg_stat_activity WHERE application_name LIKE 'embedtui/%' AND datname = current_database()"


@pytest.mark.parametrize("placement", ["column", "table"])
@pytest.mark.parametrize("function", ["pg_terminate_backend", "pg_cancel_backend"])
def test_cut_connections_and_cancelled_statements_are_ridden_out(
    database: str, api: LoopbackServer, tmp_path: Path, function: str, placement: str
) -> None:
    make_documents(database, ROWS)
    engine = engine_for(database, api, tmp_path, placement=placement)
    with Running(engine, api, latency=0.05) as running, psycopg.connect(database, autocommit=True) as admin:
        for _ in range(5):
            admin.execute(f"SELECT {function}(pid) {OURS}")
            time.sleep(0.15)
        running.ends()
        assert running.error is None
    assert clean(engine)
    assert api.inputs <= ROWS + 1 + 5 * 2 * 20, "only what was in flight is paid for again"
    engine.close()


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    folder = Path(tempfile.mkdtemp(prefix="embedtui-fault-"))
    with EmbeddedServer(folder / "pg", settings={**FAST, "synchronous_commit": "on"}) as running:
        with psycopg.connect(running.dsn(), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def test_a_crash_and_a_restart_in_the_middle_lose_nothing(
    own_server: EmbeddedServer, api: LoopbackServer, tmp_path: Path
) -> None:
    dsn = own_server.dsn()
    make_documents(dsn, ROWS)
    engine = engine_for(dsn, api, tmp_path)
    with Running(engine, api) as running:
        own_server.crash()
        time.sleep(1.0)
        with pytest.raises(DatabaseError) as caught:
            engine.snapshot()
        assert caught.value.hint
        own_server.start()
        paid = api.inputs
        wait_for(lambda: api.inputs > paid, "it does not go on by itself")
        own_server.restart()
        running.ends()
        assert running.error is None
    assert engine.snapshot().phase is Phase.VALIDATE
    assert clean(engine)
    assert api.inputs <= ROWS + 1 + 2 * 2 * 20, "only what was in flight is paid for again"
    engine.close()


def test_after_a_crash_live_workers_keep_their_shards(
    own_server: EmbeddedServer, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The locks that tell a live worker are gone until it is back: the other must not take that for its death."""
    monkeypatch.setattr(shards, "GRACE_SECONDS", 60)  # however slow the machine is
    dsn = own_server.dsn()
    make_documents(dsn, ROWS)
    engines = [engine_for(dsn, api, tmp_path) for _ in range(2)]

    def both_are_alive() -> bool:
        return sum(worker.alive for worker in engines[0].snapshot().workers) == 2

    with Running(engines[0], api) as one, Running(engines[1], api) as other:
        with psycopg.connect(dsn) as conn:
            assert conn.execute("SELECT count(*) FROM embedtui.shard").fetchone() == (1,), "one has all, one waits"
        wait_for(both_are_alive)
        own_server.crash()
        own_server.start()
        with psycopg.connect(dsn, autocommit=True) as admin:
            for _ in range(30):  # the locks stay away until the other has looked for them
                admin.execute(f"SELECT pg_terminate_backend(pid) {OURS} AND application_name = 'embedtui/worker'")
                time.sleep(0.05)
        engines[0].pause()  # so that they do not end meanwhile
        wait_for(both_are_alive, "a worker's lock does not come back")
        engines[0].resume()
        one.ends()
        other.ends()
        assert one.error is None and other.error is None
    assert clean(engines[0])
    assert api.inputs <= ROWS + 2 * 2 + 2 * 20, "only what was in flight is paid for again"
    for engine in engines:
        engine.close()


@pytest.fixture
def small_disk(server_folder: Path) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    folder = server_folder / "disk"
    folder.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    try:
        command = [*sudo, "mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", folder]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run([*sudo, "umount", "--lazy", folder], check=True)


def test_a_full_disk_holds_the_run_until_there_is_room(small_disk: Path, api: LoopbackServer, tmp_path: Path) -> None:
    filler = small_disk / "filler"

    def fill() -> None:
        with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    with EmbeddedServer(small_disk / "pg", settings=FAST) as own:
        with psycopg.connect(own.dsn(), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
        make_documents(own.dsn(), ROWS, text="row {n} " + "x" * 600)
        engine = engine_for(own.dsn(), api, tmp_path, placement="column")
        shell = Shell(tmp_path, {"DATABASE_URL": own.dsn()})

        def held() -> bool:
            fill()  # a checkpoint may have freed some
            return any("disk is full" in hold.detail for hold in engine.snapshot().reasons)

        with Running(engine, api) as running:
            wait_for(held, "no hold is shown")
            assert engine.snapshot().condition is Condition.THROTTLED
            assert "The server's disk is full" in shell.spawn("status").out
            filler.unlink()
            running.ends()
            assert running.error is None
        assert clean(engine)
        assert sum(text.startswith("row ") for text in api.texts) == ROWS, "nothing is paid for twice"
        engine.close()


@pytest.mark.parametrize(
    "condition", ["serialization_failure", "deadlock_detected", "lock_not_available", "query_canceled", "disk_full"]
)
def test_what_passes_is_repeated_and_said_from_the_third_time_on(database: str, condition: str) -> None:
    link = Link(database, "worker")
    tried: list[int] = []
    told: list[str] = []
    back: list[int] = []

    def work(conn: psycopg.Connection[Any]) -> str:
        tried.append(len(tried))
        if len(tried) <= 3:
            conn.execute(f"DO $$ BEGIN RAISE 'as staged' USING ERRCODE = '{condition}'; END $$")
        return "done"

    stop = threading.Event()
    result = with_database(link, work, stop=stop, on_lost=told.append, on_back=lambda: back.append(len(tried)))
    assert (result, len(tried), back) == ("done", 4, [4])
    assert told and "as staged" in told[-1] and len(told) == (3 if condition == "disk_full" else 1)
    link.drop()


def test_what_does_not_pass_is_not_repeated(database: str) -> None:
    link = Link(database, "worker")
    with pytest.raises(DatabaseError, match="permission denied"):
        with_database(
            link,
            lambda conn: conn.execute("DO $$ BEGIN RAISE 'permission denied' USING ERRCODE = '42501'; END $$"),
            stop=threading.Event(),
            on_lost=str,
        )
    link.drop()


def test_every_connection_has_a_name_time_outs_and_keepalives(server_folder: Path) -> None:
    wanted = {
        "application_name": "embedtui/test",
        "statement_timeout": "60000",
        "lock_timeout": "5000",
        "idle_in_transaction_session_timeout": "60000",
        "row_security": "off",
        # the server's side, over TCP only
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "4",
        "tcp_user_timeout": "30000",
    }
    with EmbeddedServer(server_folder / "pg", settings=FAST, tcp=True) as own:
        with psycopg.connect(own.dsn(), autocommit=True) as admin:
            admin.execute("CREATE ROLE remote LOGIN PASSWORD 'secret'")
        with connect(own.tcp_dsn("postgres", "remote", "secret"), name="test") as conn:
            found = conn.execute("SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", [list(wanted)])
            assert dict(found.fetchall()) == wanted
            parameters = conn.info.get_parameters()
    # a peer that is gone is noticed within 30 s, also where what was sent last is not acknowledged
    assert int(parameters["keepalives_idle"]) + 4 * int(parameters["keepalives_interval"]) <= 30
    assert int(parameters["tcp_user_timeout"]) <= 30_000
    package = Path(embedtui.__file__).parent
    elsewhere = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "psycopg.connect(" in path.read_text() and "demo" not in path.parts
    }
    allowed = {"postgres/connect.py", "router/follower.py"}
    assert elsewhere == allowed, "everything else goes through the one that sets them"


def test_want_of_room_does_not_cost_a_session_its_locks(database: str) -> None:
    link = Link(database, "worker")
    sessions: list[int] = []

    def work(conn: psycopg.Connection[Any]) -> None:
        sessions.append(conn.info.backend_pid)
        if len(sessions) == 1:
            conn.execute("DO $$ BEGIN RAISE 'no room' USING ERRCODE = 'disk_full'; END $$")

    told: list[str] = []
    with_database(link, work, stop=threading.Event(), on_lost=told.append)
    assert len(sessions) == 2 and len(set(sessions)) == 1
    assert told == ["The server's disk is full: no room."]
    link.drop()


def test_a_server_that_became_a_standby_is_refused_with_the_mend(
    own_server: EmbeddedServer, api: LoopbackServer, tmp_path: Path
) -> None:
    """In the middle of a run, as after a failover, and at its start; nothing is lost once there is a primary again."""
    make_documents(own_server.dsn(), ROWS)
    engine = engine_for(own_server.dsn(), api, tmp_path)
    data = next(own_server.path.glob("postgresql-*"))
    signal_file = data / "standby.signal"

    def refused(error: EmbedtuiError | None) -> bool:
        assert error is not None and error.exit_code == ExitCode.DATABASE
        return "standby" in str(error) and "primary" in str(error)

    with Running(engine, api) as running:
        own_server.stop()
        signal_file.touch()
        shutil.chown(signal_file, data.owner(), data.group())
        own_server.start()
        running.ends()
        assert refused(running.error), running.error
    with pytest.raises(EmbedtuiError) as caught:
        engine.run(threading.Event())
    assert refused(caught.value), caught.value
    own_server.stop()
    signal_file.unlink()
    own_server.start()
    engine.run(threading.Event())
    assert clean(engine)
    # two on the wire, and a reply that a thread could not write any more
    assert api.inputs <= ROWS + 2 * 2 + 3 * 20, "only what was in flight is paid for again"
    engine.close()


@pytest.mark.parametrize("mode", ["EXCLUSIVE", "ACCESS EXCLUSIVE"])
@pytest.mark.variants(1)
def test_a_table_kept_locked_is_waited_for_and_said(
    database: str, api: LoopbackServer, tmp_path: Path, mode: str
) -> None:
    """Where writes wait, and where reads do, whose time-out comes later; who waits behind the lock is not to blame."""
    make_documents(database, ROWS)
    engine = engine_for(database, api, tmp_path, placement="column")
    shell = Shell(tmp_path, {"DATABASE_URL": database})
    with (
        Running(engine, api) as running,
        psycopg.connect(database, autocommit=True) as other,
        psycopg.connect(database, application_name="nightly") as app,
    ):
        app.execute(f"LOCK TABLE documents IN {mode} MODE")
        pid = app.info.backend_pid
        waits = threading.Thread(target=other.execute, args=("ALTER TABLE documents ADD COLUMN more text",))
        waits.start()
        wait_for(lambda: bool(engine.snapshot().reasons), "no hold is shown")
        (hold,) = engine.snapshot().reasons
        assert (hold.name, engine.snapshot().condition) == ("lock", Condition.THROTTLED)
        assert hold.detail.startswith(f"pid {pid} (nightly) locks public.documents, since ")
        assert (
            f" UTC; let it end, or SELECT pg_terminate_backend({pid}); idle in transaction: LOCK TABLE" in hold.detail
        )
        assert f"pg_terminate_backend({pid})" in shell.spawn("status").out
        app.rollback()
        waits.join(60)
        running.ends()
        assert running.error is None
    assert not engine.snapshot().reasons
    assert clean(engine)
    engine.close()


def test_a_server_that_does_not_say_who_locks_is_waited_for_as_well(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    """As a managed one may: it grants the call, and refuses it."""
    make_documents(database, ROWS)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("SET allow_system_table_mods = on")
        conn.execute("ALTER FUNCTION pg_catalog.pg_blocking_pids(integer) RENAME TO kept_apart")
        conn.execute(
            "CREATE FUNCTION pg_catalog.pg_blocking_pids(integer) RETURNS integer[] LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'not on this server' USING ERRCODE = '55000'; END $$"
        )
    engine = engine_for(database, api, tmp_path, placement="column")
    with Running(engine, api) as running, psycopg.connect(database) as app:
        app.execute("LOCK TABLE documents IN ACCESS EXCLUSIVE MODE")
        wait_for(lambda: bool(engine.snapshot().reasons), "no hold is shown")
        (hold,) = engine.snapshot().reasons
        assert hold.name == "database" and "lock" in hold.detail
        app.rollback()
        running.ends()
        assert running.error is None
    assert clean(engine)
    engine.close()


CHANGES = {
    "table dropped": (
        "ALTER TABLE documents RENAME TO gone",
        "ALTER TABLE gone RENAME TO documents",
    ),
    "column renamed": (
        "ALTER TABLE documents RENAME COLUMN content TO body",
        "ALTER TABLE documents RENAME COLUMN body TO content",
    ),
    "new side dropped": (
        "ALTER TABLE documents_embedding_v2 RENAME COLUMN source TO origin",
        "ALTER TABLE documents_embedding_v2 RENAME COLUMN origin TO source",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_table_changed_under_it_ends_the_run_with_the_reason(
    database: str, api: LoopbackServer, tmp_path: Path, change: str
) -> None:
    make_documents(database, ROWS)
    worse, better = CHANGES[change]
    engine = engine_for(database, api, tmp_path)
    with Running(engine, api) as running, psycopg.connect(database, autocommit=True) as conn:
        conn.execute(worse)
        running.ends()
        assert running.error is not None
        assert running.error.exit_code == ExitCode.DATABASE, running.error
        assert running.error.hint
        conn.execute(better)
    engine.run(threading.Event())
    assert clean(engine)
    engine.close()


@pytest.mark.parametrize("placement", ["column", "table"])
def test_a_table_that_is_gone_for_good_is_said_and_the_migration_can_be_ended(
    database: str, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    make_documents(database, ROWS)
    engine = engine_for(database, api, tmp_path, placement=placement)
    with Running(engine, api) as running, psycopg.connect(database, autocommit=True) as conn:
        conn.execute("DROP TABLE documents CASCADE")
        running.ends()
        assert running.error is not None and running.error.exit_code == ExitCode.DATABASE
        assert "abort" in running.error.hint, running.error
        engine.abort("documents")
        assert traces(database) == ["schema embedtui"], "the log stays"
    engine.close()


def test_a_revoked_right_ends_the_run_with_the_reason(
    server: EmbeddedServer, database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, ROWS)
    role = f"worker_{database.rpartition('/t')[2].partition('?')[0]}"
    with psycopg.connect(database, autocommit=True) as conn:
        name = conn.info.dbname
        conn.execute(
            f"CREATE ROLE {role} LOGIN; GRANT ALL ON DATABASE {name} TO {role}; ALTER TABLE documents OWNER TO {role}"
        )
        conn.execute(f"GRANT ALL ON SCHEMA public TO {role}")
        engine = engine_for(server.dsn(name, role), api, tmp_path)
        with Running(engine, api) as running:
            conn.execute(f"ALTER TABLE documents OWNER TO postgres; REVOKE ALL ON documents FROM {role}")
            running.ends()
            assert running.error is not None and running.error.exit_code == ExitCode.DATABASE
            assert "permi" in running.error.message and running.error.hint
        conn.execute(f"GRANT ALL ON documents TO {role}; ALTER TABLE documents OWNER TO {role}")
        engine.run(threading.Event())
        assert clean(engine)
        engine.close()
        conn.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}")


def test_serializable_by_default_changes_nothing(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, ROWS)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"ALTER DATABASE {conn.info.dbname} SET default_transaction_isolation = 'serializable'")
    with connect(database, name="test") as conn:
        assert conn.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
    engines = [engine_for(database, api, tmp_path) for _ in range(2)]
    engines[0].prepare()
    with Running(engines[0], api) as one, Running(engines[1], api) as other:
        with psycopg.connect(database, autocommit=True) as conn:
            for number in range(1, ROWS, 7):
                conn.execute("UPDATE documents SET content = content || '.' WHERE id = %s", [number])
        one.ends()
        other.ends()
        assert one.error is None and other.error is None
    assert clean(engines[0])
    for engine in engines:
        engine.close()


def test_ddl_behind_a_long_transaction_never_holds_others_up(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 20)
    engine = engine_for(database, api, tmp_path, placement="column")
    prepared = threading.Thread(target=engine.prepare)
    with psycopg.connect(database) as blocker, psycopg.connect(database, autocommit=True) as app:
        blocker.execute("SELECT count(*) FROM documents")
        app.execute("SET lock_timeout = '2500ms'")  # by the server's clock, and only while it waits for a lock
        prepared.start()
        end = time.monotonic() + 4
        while time.monotonic() < end:
            app.execute("UPDATE documents SET metadata = '{}' WHERE id = 1")
            time.sleep(0.02)
        assert prepared.is_alive(), "it waits for the long transaction"
        blocker.rollback()
        prepared.join(60)
    assert not prepared.is_alive()
    assert engine.snapshot().phase is Phase.BACKFILL
    engine.close()


@needs_pgbouncer
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_transaction_pooling_is_refused(server: EmbeddedServer, mode: str) -> None:
    with pooled(server, "postgres", mode) as dsn, connect(dsn, name="check") as first:
        if mode == "session":
            require_session(dsn, first)
        else:
            with pytest.raises(DatabaseError, match="transaction pooler"):
                require_session(dsn, first)
