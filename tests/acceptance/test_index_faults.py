"""The server cannot build the index as asked: it is asked for less, no more than a few times, and sync goes on."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.backfill.index_stage import TRIES
from embedtui.engine.engine import Engine
from embedtui.engine.resilience import with_database
from embedtui.errors import DatabaseError, EmbedtuiError, ExitCode
from embedtui.model import Event, Failed, Phase, Snapshot
from embedtui.postgres.connect import Link
from tests.conftest import FAST
from tests.kits.support import following, make_documents, settings_for, wait_for

ROWS = 300


class Scene:
    """A server of its own with a prepared migration; an operator beside the run."""

    def __init__(self, server: EmbeddedServer, api: LoopbackServer, folder: Path) -> None:
        self.server, self.dsn, self._api, self._folder = server, server.dsn(), api, folder
        self.events: list[Event] = []
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
        make_documents(self.dsn, ROWS)
        self.operator = self.engine()
        self.operator.prepare()

    def engine(self, **flags: object) -> Engine:
        settings = settings_for(self.dsn, self._api, self._folder, {"placement": "column", **flags})
        return Engine(self.dsn, settings=settings, on_event=self.events.append)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        with contextlib.closing(self.engine()) as engine, following(engine):
            yield

    def run(self, **flags: object) -> EmbedtuiError | None:
        with contextlib.closing(self.engine(**flags)) as engine:
            try:
                engine.run(threading.Event())
            except EmbedtuiError as error:
                return error
        return None

    def said(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Failed)]

    def seen(self, what: Callable[[Snapshot], bool]) -> bool:
        with contextlib.suppress(EmbedtuiError):  # it restarts
            return what(self.operator.snapshot())
        return False

    def held(self) -> bool:
        return self.seen(lambda snapshot: any(hold.name == "index" for hold in snapshot.reasons))

    def log(self, text: str) -> int:
        return (self.server.path / "log").read_text(errors="replace").count(text)

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(statement.encode())


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="embedtui-index-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def scene(folder: Path, api: LoopbackServer, tmp_path: Path) -> Iterator[Scene]:
    settings = {**FAST, "synchronous_commit": "on"}  # it crashes, and what was committed stays
    with EmbeddedServer(folder / "pg", settings=settings) as server:
        made = Scene(server, api, tmp_path)
        yield made
        made.operator.close()


# ------------------------------------------------------------------------------------------------------------ memory


@pytest.fixture
def little_shared_memory(folder: Path) -> Iterator[EmbeddedServer]:
    """A server whose segments of shared memory are files of a disk of 8 MB, as /dev/shm is one of 64 in containers."""
    parallel = {"max_parallel_maintenance_workers": "2", "min_parallel_table_scan_size": "0"}
    settings = {**FAST, **parallel, "dynamic_shared_memory_type": "mmap", "maintenance_work_mem": "64MB"}
    server = EmbeddedServer(folder / "pg", settings=settings)
    server.start()
    server.stop()
    small = next(server.path.glob("postgresql-*")) / "pg_dynshmem"
    owner = small.stat()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size=8m,mode=700,uid={owner.st_uid},gid={owner.st_gid}"
    try:
        subprocess.run([*sudo, "mount", "-t", "tmpfs", "-o", options, "tmpfs", small], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs root")
    try:
        with server:
            yield server
    finally:
        subprocess.run([*sudo, "umount", "--lazy", small], check=True)


def test_shared_memory_that_is_small_costs_the_workers_and_not_the_run(
    little_shared_memory: EmbeddedServer, api: LoopbackServer, tmp_path: Path
) -> None:
    scene = Scene(little_shared_memory, api, tmp_path)
    assert scene.run() is None
    assert scene.operator.snapshot().phase is Phase.VALIDATE and scene.operator.snapshot().index.valid
    assert scene.log("could not resize shared memory segment") == 1
    (said,) = scene.said()
    assert "too little memory" in said and "0 parallel workers" in said and "disk" not in said
    scene.operator.close()


def test_a_query_for_which_shared_memory_is_too_small_goes_without_workers(
    little_shared_memory: EmbeddedServer,
) -> None:
    """The workers of a join share its hash table."""
    dsn = little_shared_memory.dsn()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE wide AS SELECT i, repeat(md5(i::text), 4) AS t FROM generate_series(1, 150000) i")
        conn.execute("ANALYZE wide")
    link, tried = Link(dsn, "test"), 0

    def work(conn: psycopg.Connection) -> tuple[int]:
        nonlocal tried
        tried += 1
        with conn.transaction():
            for name, value in (("parallel_setup_cost", "0"), ("parallel_tuple_cost", "0"), ("work_mem", "64MB")):
                conn.execute(f"SET LOCAL {name} = '{value}'".encode())
            row = conn.execute("SELECT max(a.t || b.t) FROM public.wide a JOIN public.wide b USING (i)").fetchone()
        assert row is not None
        return row

    assert with_database(link, work, stop=threading.Event(), on_lost=str)
    assert tried == 2
    link.drop()


def refuse_builds(scene: Scene, condition: str) -> None:
    """Every CREATE INDEX fails as the server says it there."""
    scene.execute(
        "CREATE TABLE public.tries (workers text, memory text);"
        "CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE '% and %', current_setting('max_parallel_maintenance_workers'), current_setting('maintenance_work_mem')"
        f" USING ERRCODE = '{condition}'; END $$;"
        "CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('CREATE INDEX')"
        " EXECUTE FUNCTION public.refuse()"
    )


def test_memory_is_asked_for_in_ever_smaller_parts_and_then_given_up(scene: Scene) -> None:
    refuse_builds(scene, "out_of_memory")
    error = scene.run(**{"index.maintenance_work_mem": "1GB", "index.parallel_workers": 2})
    assert isinstance(error, DatabaseError) and error.exit_code == ExitCode.DATABASE
    assert "too little memory" in error.message and "index.maintenance_work_mem" in error.hint
    tried = re.findall(r"(\d+) and (\w+)", "\n".join([*scene.said(), error.message]))
    assert tried == [("2", "1GB"), ("0", "1GB"), ("0", "256MB"), ("0", "64MB"), ("0", "16MB")]
    assert scene.operator.snapshot().phase is Phase.INDEX
    scene.execute("DROP EVENT TRIGGER refuse")
    assert scene.run() is None, "asked for again, it is built"
    assert scene.operator.snapshot().index.valid


@pytest.mark.parametrize("condition", ["query_canceled", "deadlock_detected"])
def test_a_build_that_is_broken_off_is_not_repeated_without_end(scene: Scene, condition: str) -> None:
    refuse_builds(scene, condition)
    error = scene.run()
    assert isinstance(error, DatabaseError) and f"broken off {TRIES} times" in error.message
    assert scene.log("CREATE INDEX CONCURRENTLY") == TRIES
    scene.execute("DROP EVENT TRIGGER refuse")
    assert scene.run() is None


# --------------------------------------------------------------------------------------------- a process that is killed


@pytest.fixture
def slow(scene: Scene) -> Scene:
    """Each build takes three seconds more, in which its process can be killed."""
    scene.execute(
        "CREATE FUNCTION public.wait() RETURNS event_trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_catalog.pg_sleep(3); END'"
    )
    scene.execute(
        "CREATE EVENT TRIGGER wait ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION public.wait()"
    )
    return scene


def kill_builds(scene: Scene, stop: Callable[[], bool], first: int = 10**9) -> int:
    """Kill the process of each build, as the kernel does for want of memory; how many were."""
    killed = 0
    while not stop() and killed < first:
        time.sleep(0.02)
        with contextlib.suppress(psycopg.Error), psycopg.connect(scene.dsn, autocommit=True) as conn:
            builds = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'CREATE INDEX CONC%'"
            found = [pid for (pid,) in conn.execute(builds)]
            for pid in found:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            while found:  # until it restarts
                conn.execute("SELECT 1")
    return killed


def test_a_killed_build_is_repeated_a_few_times_and_no_more(slow: Scene) -> None:
    errors: list[EmbedtuiError | None] = []
    thread = threading.Thread(target=lambda: errors.append(slow.run()), daemon=True)
    thread.start()
    assert kill_builds(slow, lambda: not thread.is_alive()) == TRIES
    thread.join()
    (error,) = errors
    assert isinstance(error, DatabaseError) and f"broken off {TRIES} times" in error.message
    assert "index.maintenance_work_mem" in error.hint
    assert "0 parallel workers" in slow.said()[-1]
    wait_for(lambda: slow.seen(lambda snapshot: snapshot.phase is Phase.INDEX), "it does not restart")
    assert slow.run() is None
    assert slow.operator.snapshot().index.valid


def test_a_build_that_is_killed_once_goes_on_by_itself(slow: Scene) -> None:
    with slow.following():
        assert kill_builds(slow, slow.held, first=1) == 1
        wait_for(lambda: slow.seen(lambda snapshot: snapshot.phase is Phase.VALIDATE))
    assert slow.operator.snapshot().index.valid


def test_who_follows_goes_on_with_sync_and_builds_when_asked(slow: Scene) -> None:
    with slow.following():
        assert kill_builds(slow, slow.held) == TRIES
        slow.execute("UPDATE documents SET content = 'edited meanwhile' WHERE id < 10")
        wait_for(lambda: slow.operator.snapshot().sync.queued == 0)
        assert slow.operator.snapshot().phase is Phase.INDEX
        (hold,) = slow.operator.snapshot().reasons
        assert f"broken off {TRIES} times" in hold.detail
        assert any("held back" in said for said in slow.said())
        slow.operator.hold_index(False)
        wait_for(lambda: slow.operator.snapshot().phase is Phase.VALIDATE)
    assert slow.operator.verify().clean
    acts = [entry.act for entry in slow.operator.audit()]
    assert "index failed" in acts and "index" in acts
