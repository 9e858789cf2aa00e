"""A worker's presence in the database: seen while it works, signed off when it ends, told what operators want."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from embedtui.demo.api import LoopbackServer
from embedtui.demo.database import EmbeddedServer
from embedtui.engine import resilience
from embedtui.engine.backfill import worker as worker_module
from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.stages import make_row_embedder
from embedtui.engine.backfill.worker import Worker, _in_a_word
from embedtui.errors import DatabaseError, Interrupted
from embedtui.model import Event, Hold, Migration, ThreadStatus
from embedtui.model.snapshot import TO_BE_RESUMED
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.protocol import SourceRow
from embedtui.postgres.state import shards, steering, workers
from embedtui.postgres.state.audit import read_audit
from embedtui.postgres.state.migrations import ask_to_reload, set_desired, set_index_held
from tests.kits.comparing import small
from tests.kits.support import OLD, connect, wait_for


def entered(database: str, migration: Migration) -> tuple[Job, Worker]:
    job = Job(database, migration, None)
    return job, Worker(job, threading.Event(), "test")


def state_of_shards(conn: Connection) -> list[tuple[str, int | None]]:
    return conn.execute("SELECT state, worker FROM embedtui.shard ORDER BY id").fetchall()


def test_it_is_seen_while_it_works_and_leaves_nothing_leased(database: str) -> None:
    migration = small(database)
    job, worker = entered(database, migration)
    with connect(database) as conn:
        assert shards.plan_shards(conn, migration.id, migration.table_oid) == 1
        with worker:
            job.doing("embedding 3 rows")
            job.hold("database", "away for a moment")
            job.add_rows(3)
            assert workers.count_live_workers(conn, migration.id) == 1
            shard = shards.claim_shard(conn, migration, job.worker_id)
            assert shard is not None
            shards.count_written(conn, shard.id, rows=3, updates=3, hot_updates=2, tokens=30)
            wait_for(lambda: workers.read_workers(conn, migration.id, ())[0].rows == 3)
            (seen,) = workers.read_workers(conn, migration.id, ())
            assert (seen.alive, seen.doing) == (True, "waiting to embed 3 rows"), "it is held"
            assert [hold.name for hold in workers.read_holds(conn, migration.id)] == ["database"]
            assert state_of_shards(conn) == [("leased", job.worker_id)]
            assert not shards.all_done(conn, migration.id)
        assert state_of_shards(conn) == [("open", None)]
        assert workers.read_workers(conn, migration.id, ()) == ()
        assert workers.count_live_workers(conn, migration.id) == 0
        assert workers.read_holds(conn, migration.id) == ()


def test_it_hears_what_operators_want(database: str) -> None:
    migration = small(database)
    job, worker = entered(database, migration)
    with connect(database) as conn, worker:
        set_desired(conn, migration.id, "pause", "noon")
        set_index_held(conn, migration.id, True)
        wait_for(lambda: job.wanted == workers.Wanted(paused=True, index_held=True, reloads=0))
        set_desired(conn, migration.id, "run")
        set_index_held(conn, migration.id, False)
        wait_for(lambda: job.wanted == workers.Wanted(reloads=0))
        conn.execute("UPDATE embedtui.worker SET stop_wanted = true WHERE id = %s", [job.worker_id])
        wait_for(job.stop.is_set)
    assert job.pending_failure is None


def test_it_is_told_and_does_not_wait_for_its_next_heartbeat(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not sent when an operator of another process paused is not sent for up to a heartbeat after."""
    monkeypatch.setattr(worker_module, "BEAT_SECONDS", 3600.0)
    migration = small(database)
    job, worker = entered(database, migration)
    with connect(database) as conn, worker:
        for _ in range(3):
            set_desired(conn, migration.id, "pause", "noon")
            wait_for(lambda: job.held)
            set_desired(conn, migration.id, "run")
            wait_for(lambda: not job.held)
        set_index_held(conn, migration.id, True)
        wait_for(lambda: job.wanted.index_held)
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'embedtui/worker'"
        )
        wait_for(lambda: workers.count_live_workers(conn, migration.id) == 1)
        ask_to_reload(conn, migration.id)
        wait_for(lambda: job.reloading)
        steering.stop_workers(conn, migration.id, None)
        wait_for(lambda: not job.reloading)


def test_it_notes_the_workers_that_ended_without_a_word_while_it_works(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "BEATS_PER_RENEWAL", 1)
    migration = small(database)
    _, worker = entered(database, migration)
    with connect(database) as conn:
        conn.execute(
            "INSERT INTO embedtui.worker (migration, host, pid, operator, heartbeat)"
            " VALUES (%s, 'ops-7', 4242, 'anna', now() - interval '1 minute')",
            [migration.id],
        )
        with worker:
            wait_for(lambda: [each for each in read_audit(conn, migration.id) if each.act == "worker lost"])


def test_what_is_paused_is_so_before_it_does_anything(database: str) -> None:
    migration = small(database)
    job, worker = entered(database, migration)
    with connect(database) as conn:
        set_desired(conn, migration.id, "pause", "noon")
    with worker:
        assert job.held


def test_while_the_provider_is_waited_for_nothing_is_said_to_be_embedded(database: str) -> None:
    migration = small(database)
    job, worker = entered(database, migration)
    held = [Hold("rate", "429")]
    job.follow_pacer(lambda: held[0] if held else None, lambda: 0)
    job.doing("embedding 3 rows")
    with worker, connect(database) as conn:
        wait_for(lambda: said(conn, migration) == "waiting to embed 3 rows")
        held.clear()
        wait_for(lambda: said(conn, migration) == "embedding 3 rows")


def test_what_waits_in_line_is_not_said_to_be_embedding_though_others_are_on_the_wire(database: str) -> None:
    migration = small(database)
    job, worker = entered(database, migration)
    waiting = {threading.current_thread().name: "waiting for its turn"}
    job.follow_pacer(lambda: None, lambda: 1)
    job.waiting = lambda: waiting
    job.doing("embedding 3 rows")
    with worker, connect(database) as conn:
        wait_for(lambda: said(conn, migration) == "waiting for its turn")
        waiting.clear()
        wait_for(lambda: said(conn, migration) == "embedding 3 rows")


def test_what_is_paused_embeds_nothing(database: str) -> None:
    migration = small(database)
    job, worker = entered(database, migration)
    flying = [1]
    job.follow_pacer(lambda: None, lambda: flying[0])
    job.doing("embedding 3 rows")
    with worker, connect(database) as conn:
        set_desired(conn, migration.id, "pause", "noon")
        wait_for(lambda: job.held)
        assert said(conn, migration) == "embedding 3 rows", "what is on the wire is embedded"
        flying[0] = 0
        wait_for(lambda: said(conn, migration) == "paused")
        job.doing("reading blocks 512-767 of documents")
        time.sleep(1.5)
        assert said(conn, migration) == "paused", "it does not go on with what it began"
        job.doing("building the index")
        wait_for(lambda: said(conn, migration) == "building the index")


def said(conn: Connection, migration: Migration) -> str:
    """What the worker's main thread is said to do."""
    return workers.read_workers(conn, migration.id, ())[0].doing


def test_a_pause_holds_every_request_that_is_not_sent_the_old_models_too(database: str, api: LoopbackServer) -> None:
    migration = small(database)
    job = Job(database, migration, None)
    asked: list[int] = []
    job.wait_while_held = lambda stop: asked.append(api.requests)  # type: ignore[method-assign]
    model = replace(migration.old_model, name=OLD, dimensions=8, base_url=api.base_url, max_inputs=1)
    embedder = make_row_embedder(model, {"OPENAI_API_KEY": api.key}, None, job)
    rows = [SourceRow((str(n),), 0, n, f"text {n}", 6) for n in range(3)]
    with closing(embedder):
        assert len(list(embedder.embed(rows, threading.Event()))) == 3
    assert asked == [0, 1, 2]


def test_it_reads_its_settings_again_once_what_must_not_be_disturbed_has_ended(database: str) -> None:
    migration = small(database)
    job, worker = entered(database, migration)
    with connect(database) as conn, worker:
        with job.undisturbed():
            ask_to_reload(conn, migration.id)
            wait_for(lambda: job.reloading)
            assert not job.stop.is_set()
        assert job.stop.is_set()
        steering.stop_workers(conn, migration.id, None)
        wait_for(lambda: not job.reloading)  # who is to stop does not go on


def test_a_cut_connection_costs_it_neither_its_lock_nor_its_id(database: str) -> None:
    migration = small(database)
    job, worker = entered(database, migration)
    with connect(database) as conn, worker:
        number = job.worker_id
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'embedtui/worker'"
        )
        wait_for(lambda: workers.count_live_workers(conn, migration.id) == 1)
        assert job.worker_id == number


def test_what_waiting_does_not_cure_ends_the_job_with_the_reason(database: str) -> None:
    migration = small(database)
    job, worker = entered(database, migration)
    with psycopg.connect(database, autocommit=True) as conn, worker:
        conn.execute("ALTER TABLE embedtui.worker RENAME COLUMN heartbeat TO pulse")
        wait_for(job.stop.is_set)
        conn.execute("ALTER TABLE embedtui.worker RENAME COLUMN pulse TO heartbeat")
    assert job.pending_failure is not None
    assert "heartbeat" in job.pending_failure.message


def test_what_the_pacer_waits_for_and_has_on_the_wire_is_told(database: str) -> None:
    migration = small(database)
    job, worker = entered(database, migration)

    def in_flight() -> object:
        with psycopg.connect(database) as conn:
            return conn.execute("SELECT in_flight FROM embedtui.worker").fetchone()

    job.follow_pacer(lambda: Hold("provider", "overloaded"), lambda: 3)
    with worker:
        wait_for(lambda: [hold.name for hold in job.holds] == ["provider"] and in_flight() == (3,))
        job.follow_pacer(lambda: None, lambda: 1)
        wait_for(lambda: job.holds == () and in_flight() == (1,))
    assert in_flight() == (0,), "one that has ended has none"


@pytest.mark.parametrize("way", ["an error", "told to stop alone", "the answer"])
def test_a_hold_for_the_database_ends_with_what_it_held_up(
    database: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resilience, "FIRST_WAIT", 0.01)
    job = Job(database, small(database), None)
    link, stop, tries = job.link("test"), job.child_stop(), []

    def work(conn: Connection) -> str:
        tries.append(job.holds)
        if len(tries) <= resilience.LOST_TOLD_AFTER or way == "told to stop alone":
            if job.holds:
                stop.set()
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        if way == "an error":
            raise DatabaseError("given up")
        return "done"

    expected = {"an error": DatabaseError, "told to stop alone": Interrupted}.get(way)
    with pytest.raises(expected) if expected else nullcontext():
        job.with_database(link, work, stop)
    link.drop()
    assert [hold.name for hold in tries[-1]] == ["database"], "it was held"
    assert job.holds == () and not job.held and not job.stop.is_set()


def test_a_worker_that_cannot_register_says_that_it_waits(server: EmbeddedServer, database: str) -> None:
    migration = small(database)
    name = conninfo_to_dict(database)["dbname"]
    job, worker = entered(database, migration)
    with psycopg.connect(server.dsn(), autocommit=True) as admin, ThreadPoolExecutor(1) as beside:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'.encode())
        try:
            entering = beside.submit(worker.__enter__)
            wait_for(lambda: [hold.name for hold in job.holds] == ["database"], "nobody says what it waits for")
        finally:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
        entering.result(60)
        try:
            assert job.holds == () and job.worker_id is not None
        finally:
            worker.__exit__(None, None, None)


def test_a_process_is_told_by_what_most_of_its_threads_do() -> None:
    def told(**doing: str) -> str:
        return _in_a_word([ThreadStatus(name, each, datetime.now(UTC)) for name, each in doing.items()])

    rest = "waiting: other threads finish"
    assert told(MainThread=rest, a="reading blocks 1-9", b="embedding 32 rows", c="embedding 7 rows") == (
        "embedding 32 rows"
    )
    assert told(MainThread=rest, a="waiting for replies", b="writing 3 rows") == "writing 3 rows"
    assert told(MainThread=rest, a="waiting to embed", b="waiting to embed") == "waiting to embed"
    assert told(MainThread=TO_BE_RESUMED, a="embedding 3 rows") == TO_BE_RESUMED
    assert told(MainThread="final sweep", a="embedding 3 rows") == "final sweep"
    assert told(MainThread=rest) == rest and told() == "idle"


@pytest.mark.parametrize("name", ["provider", "rate"])
def test_what_a_provider_answered_is_not_told_as_if_it_did_so_still(database: str, name: str) -> None:
    told: list[Event] = []
    job = Job(database, small(database), told.append)
    job.hold(name, "500: The server had an error.")
    job.release(name)
    assert re.fullmatch(r"Provider back after .+; before that: 500: The server had an error\.", told[-1].text)
