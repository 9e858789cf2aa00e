"""Several operators and workers on one migration: one truth, one winner, and a log of who did what."""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.engine import Engine
from embedtui.errors import EmbedtuiError, ExitCode, Interrupted, Refused
from embedtui.model import Condition, Flip, Phase, RouteStatus, Side, Snapshot, SyncStatus
from embedtui.model.lifecycle import next_action
from embedtui.postgres.connect import host_name
from tests.kits.cli_kit import InProcess
from tests.kits.support import make_documents, settings_for, two_beats, wait_for
from tests.tui.states import MIGRATION


@pytest.fixture
def ready(database: str, api: LoopbackServer, tmp_path: Path) -> str:
    """A migration that waits for its cutover."""
    make_documents(database, 30)
    engine = Engine(database, settings=settings_for(database, api, tmp_path))
    engine.run(threading.Event())
    engine.close()
    return database


def test_two_cutovers_at_once_one_wins_and_the_other_is_told(ready: str) -> None:
    flips: list[Flip] = []
    refused: list[EmbedtuiError] = []
    start = threading.Barrier(2)

    def act(percent: int) -> None:
        engine = Engine(ready)
        start.wait()
        try:
            flips.append(engine.cutover(percent, override={"gate": "at once"}))
        except EmbedtuiError as error:
            refused.append(error)
        engine.close()

    for first, second in ((20, 30), (40, 50), (60, 70)):
        threads = [threading.Thread(target=act, args=(percent,)) for percent in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(flips) + len(refused) == 6 and len(flips) >= 3
    assert all(isinstance(error, Refused) and error.exit_code == ExitCode.REFUSED for error in refused)
    epochs = [flip.epoch for flip in flips]
    assert len(set(epochs)) == len(epochs), "each move has an epoch of its own"


def test_a_decision_made_on_an_old_state_is_refused(ready: str) -> None:
    from embedtui.postgres.connect import connect
    from embedtui.postgres.state.pointer import move_route, read_route

    with connect(ready, name="test") as conn:
        seen = read_route(conn, "documents").epoch
        with closing(Engine(ready)) as engine:
            engine.cutover(10, override={"gate": "first"})
        with pytest.raises(Refused, match="meanwhile"):
            move_route(
                conn, "documents", expect_epoch=seen, active=Side.NEW, canary=100, who="second", host="elsewhere"
            )


def test_a_run_elsewhere_is_paused_retuned_and_rolled_back(ready: str, api: LoopbackServer, tmp_path: Path) -> None:
    worker = Engine(ready, settings=settings_for(ready, api, tmp_path))
    elsewhere = Engine(ready)
    stop = threading.Event()
    ended: list[EmbedtuiError] = []

    def follow() -> None:
        try:
            worker.run(stop, follow=True)
        except Interrupted as error:
            ended.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        wait_for(lambda: elsewhere.snapshot().condition is Condition.RUNNING)
        elsewhere.cutover(override={"gate": "test"})
        assert worker.snapshot().route.active is Side.NEW
        elsewhere.pause("noon")
        wait_for(lambda: worker.snapshot().condition is Condition.PAUSED)
        assert worker.snapshot().reasons[0].detail == "noon"
        two_beats(ready)
        with psycopg.connect(ready, autocommit=True) as conn:
            conn.execute("UPDATE documents SET content = 'edited' WHERE id = 1")
        time.sleep(1.0)
        assert elsewhere.snapshot().sync.queued == 1, "nothing is worked off while it is paused"
        elsewhere.set_pace(max_concurrency=3)
        elsewhere.rollback()
        assert worker.snapshot().route.active is Side.OLD
        elsewhere.resume()
        wait_for(lambda: elsewhere.snapshot().sync.queued == 0)
    finally:
        stop.set()
        thread.join(60)
    assert ended, "the worker hangs"
    entries = {entry.act: entry for entry in elsewhere.audit()}
    assert {"begin", "phase", "pause", "resume", "pace"} <= set(entries)
    assert any("cutover" in act for act in entries) and any("rollback" in act for act in entries)
    assert entries["pause"].detail == "noon"
    assert all(entry.who and entry.host == host_name() and entry.at for entry in entries.values())
    worker.close()
    elsewhere.close()


def test_a_worker_that_writes_nothing_for_long_keeps_its_shards(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 400, text="row {n} " + "x" * 900)
    api.latency = 0.5  # the pause meets it at work
    flags = {"pacing.max_concurrency": 2, "new_model.max_inputs": 10}
    engine = Engine(database, settings=settings_for(database, api, tmp_path, flags))
    engine.prepare()
    stop = threading.Event()

    def run() -> None:
        with suppress(Interrupted):
            engine.run(stop)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_for(lambda: api.inputs > 20)
        engine.pause()
        two_beats(database)  # and nothing is under way
        with psycopg.connect(database, autocommit=True) as conn:
            lease = "SELECT coalesce(bool_or(lease_until > now()), false) FROM embedtui.shard WHERE state = 'leased'"
            expired = "UPDATE embedtui.shard SET lease_until = now() - interval '1 hour' WHERE state = 'leased'"
            assert conn.execute(expired).rowcount
            wait_for(lambda: conn.execute(lease).fetchone() == (True,), "the lease runs out")
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    engine.close()


def test_an_abort_while_the_index_is_held_ends_the_worker(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 30)
    worker, operator = (Engine(database, settings=settings_for(database, api, tmp_path)) for _ in range(2))
    worker.prepare()
    operator.hold_index()
    stop = threading.Event()
    thread = threading.Thread(target=lambda: worker.run(stop, follow=True))
    thread.start()
    try:
        wait_for(lambda: [hold.name for hold in operator.snapshot().reasons] == ["index"])
        operator.abort("documents")
        thread.join(60)
        assert not thread.is_alive(), "it waits for an index that is not wanted any more"
    finally:
        stop.set()
        thread.join(60)
    worker.close()
    operator.close()


def test_an_abort_beside_edits_ends_a_following_worker_well(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """The side table goes from under a statement of the sync: no error, since that is what was wanted."""
    make_documents(database, 30)
    worker, operator = (
        Engine(database, settings=settings_for(database, api, tmp_path, {"placement": "table"})) for _ in range(2)
    )
    stop, phases = threading.Event(), []
    thread = threading.Thread(target=lambda: phases.append(worker.run(stop, follow=True).phase))

    def edit() -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            while not stop.wait(0.005):
                conn.execute("INSERT INTO documents SELECT max(id) + 1, 'edit' FROM documents")

    writer = threading.Thread(target=edit)
    thread.start()
    writer.start()
    try:
        wait_for(lambda: operator.snapshot().phase is Phase.VALIDATE)
        operator.abort("documents")
        thread.join(60)
    finally:
        stop.set()
        thread.join(60)
        writer.join(60)
    assert phases == [Phase.ABORTED]
    with pytest.raises(Refused, match="is aborted"):
        operator.verify()
    worker.close()
    operator.close()


def test_changes_that_nobody_embeds_are_the_next_thing_said() -> None:
    """After `run` has ended nothing keeps the sides in sync, and a rollback would go stale in silence."""
    for side, phase, otherwise in ((Side.OLD, Phase.VALIDATE, "compare"), (Side.NEW, Phase.SOAK, "watch")):
        state = Snapshot(datetime.now(UTC), MIGRATION, phase=phase, route=RouteStatus(side), sync=SyncStatus(13, 61.0))
        assert next_action(state)[0] == "run" and "13 changes wait" in next_action(state)[1]
        assert next_action(replace(state, condition=Condition.RUNNING))[0] == otherwise
        assert next_action(replace(state, sync=SyncStatus(13, 1.0)))[0] == otherwise


def test_closing_one_worker_leaves_the_others_at_work(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 400, text="row {n} " + "x" * 900)
    api.latency = 1.0  # the first is not done before the second is there
    flags = {"pacing.max_concurrency": 2, "new_model.max_inputs": 10}
    first, second = (Engine(database, settings=settings_for(database, api, tmp_path, flags)) for _ in range(2))
    first.prepare()
    stop = threading.Event()
    interrupted: list[Interrupted] = []

    def run_first() -> None:
        try:
            first.run(stop)
        except Interrupted as error:
            interrupted.append(error)

    threads = [
        threading.Thread(target=run_first),
        threading.Thread(target=lambda: second.run(threading.Event())),
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: sum(worker.alive for worker in second.snapshot().workers) == 2 and api.inputs > 20)
    stop.set()
    api.latency = 0.0
    threads[0].join(60)
    assert interrupted and "run" in interrupted[0].hint.lower()
    threads[1].join(60)
    assert not threads[1].is_alive()
    assert second.snapshot().phase is Phase.VALIDATE
    assert second.verify().clean
    first.close()
    second.close()


def test_two_first_runs_at_once_share_one_migration(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 30)
    engines = [Engine(database, settings=settings_for(database, api, tmp_path)) for _ in range(3)]
    errors: list[BaseException] = []
    start = threading.Barrier(3)

    def run(engine: Engine) -> None:
        start.wait()
        try:
            engine.run(threading.Event())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    with psycopg.connect(database) as conn:
        assert conn.execute("SELECT count(*) FROM embedtui.migration").fetchone() == (1,)
    assert engines[0].verify().clean
    for engine in engines:
        engine.close()


def test_the_other_operator_is_told_by_the_exit_code(
    ready: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = InProcess(tmp_path, {"DATABASE_URL": ready}, monkeypatch, capsys)
    with closing(Engine(ready)) as engine:
        engine.cutover(override={"gate": "first"})
    assert shell("cleanup", "--table", "another").code == ExitCode.REFUSED
    assert shell("abort", "--table", "documents").code == ExitCode.REFUSED, "production reads the new side"
    assert shell("rollback").code == ExitCode.OK
    assert shell("rollback").code == ExitCode.OK, "a repeat is a no-op"
