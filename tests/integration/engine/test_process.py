"""The work in a process of its own: its events and errors arrive, and it lives and dies as its terminal does not."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.engine.process import SubprocessEngine, WorkResult
from embedtui.errors import DatabaseError, EmbedtuiError, ExitCode, Interrupted, ProviderError
from embedtui.model import Condition, Event, FaultClass, Phase, PhaseChanged
from embedtui.providers import BadVectors, ProviderFault
from tests.kits.support import NEW, make_documents, settings_for, wait_for

ROWS = 600
PATIENCE = 90.0

OPERATOR = """
import sys, threading
from pathlib import Path
from embedtui.config import load_settings
from embedtui.engine.process import SubprocessEngine
settings = load_settings({"table": "documents", "old_model.name": "old-model", "new_model.max_inputs": 10})
engine = SubprocessEngine(settings.dsn, settings=settings, outlives=sys.argv[1] == "outlives")
if sys.argv[2] == "leave":
    threading.Thread(target=lambda: sys.stdin.readline() and engine.close()).start()
engine.run(threading.Event(), follow=True)
"""
"""What stands for a dashboard, the work in another process; told so by a line it leaves as the dashboard does."""


def one(dsn: str, query: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(query).fetchone()  # type: ignore[arg-type]
    return row and row[0]


def paid(api: LoopbackServer) -> int:
    """Rows' texts that were paid for; what else is asked are single words that test the model."""
    return sum(text.startswith("document ") for text in api.texts)


def stored(dsn: str) -> object:
    return one(dsn, "SELECT count(*) FROM documents WHERE embedding_v2 IS NOT NULL")


def at_work(dsn: str) -> list[int]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return [pid for (pid,) in conn.execute("SELECT pid FROM embedtui.worker WHERE stopped_at IS NULL")]


@contextlib.contextmanager
def operator(database: str, api: LoopbackServer, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The program at work, some rows embedded, seconds before it is done; what it started is ended afterwards."""
    api.latency = 1.0
    (folder / "embedtui.toml").write_text('accept = ["proof"]\n')  # which would pay for rows before any worker is there
    root = str(Path(__file__).parents[3])
    environ = {
        "DATABASE_URL": database,
        "OPENAI_API_KEY": api.key,
        "OPENAI_BASE_URL": api.base_url,
        "EMBED_MODEL": NEW,
        "EMBED_DIMENSIONS": "16",
        "PYTHONPATH": root,
    }
    program = [sys.executable, "-c", OPERATOR, *arguments]
    process = subprocess.Popen(
        program, cwd=folder, env={**os.environ, **environ}, stdin=subprocess.PIPE, text=True, start_new_session=True
    )
    pids: list[int] = []
    try:
        wait_for(lambda: process.poll() is not None or paid(api) > 50)
        assert process.poll() is None
        pids += at_work(database)
        assert pids and process.pid not in pids
        yield process
    finally:
        process.kill()
        process.communicate()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_it_is_a_run_like_any_other(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, ROWS)
    events: list[Event] = []
    engine = SubprocessEngine(database, settings=settings_for(database, api, tmp_path), on_event=events.append)
    snapshot = engine.run(threading.Event())
    assert snapshot.phase is Phase.VALIDATE
    assert stored(database) == ROWS
    phases = [event.phase for event in events if isinstance(event, PhaseChanged)]
    assert phases[0] is Phase.PREPARE and phases[-1] is Phase.VALIDATE
    assert one(database, "SELECT pid FROM embedtui.worker") != os.getpid()
    engine.close()


def test_stopped_it_stores_what_is_paid_for(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, ROWS)
    api.latency = 1.0
    engine = SubprocessEngine(
        database, settings=settings_for(database, api, tmp_path, {"new_model.max_inputs": 10}), on_event=None
    )
    stop, outcome = threading.Event(), []

    def work() -> None:
        with pytest.raises(Interrupted) as ended:
            engine.run(stop)
        outcome.append(ended.value)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: paid(api) > 100)
    assert [worker.own for worker in engine.snapshot().workers] == [True]
    (pid,) = at_work(database)
    assert api.key not in Path(f"/proc/{pid}/cmdline").read_text(), "secrets are not in the process list"
    stop.set()
    thread.join(PATIENCE)
    assert outcome
    assert stored(database) == paid(api) < ROWS
    assert not at_work(database)
    assert one(database, "SELECT count(*) FROM embedtui.shard WHERE state = 'leased'") == 0
    engine.close()


def test_its_own_death_is_told_and_mended_by_the_next_run(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, ROWS)
    api.latency = 1.0
    engine = SubprocessEngine(database, settings=settings_for(database, api, tmp_path, {"new_model.max_inputs": 10}))
    told: list[EmbedtuiError] = []

    def work() -> None:
        with pytest.raises(EmbedtuiError) as ended:
            engine.run(threading.Event())
        told.append(ended.value)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: paid(api) > 50)
    os.kill(at_work(database)[0], signal.SIGKILL)
    thread.join(PATIENCE)
    assert "SIGKILL" in told[0].message and "only the requests in flight are paid for again" in told[0].hint
    api.latency = 0.0
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    assert stored(database) == ROWS
    engine.close()


def test_errors_arrive_with_hint_and_exit_code(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 10)
    settings = settings_for(database, api, tmp_path, OPENAI_API_KEY="sk-wrong")
    engine = SubprocessEngine(database, settings=settings)
    with pytest.raises(EmbedtuiError) as refused:
        engine.run(threading.Event())
    with pytest.raises(EmbedtuiError) as inside:
        Engine(database, settings=settings).run(threading.Event())
    assert type(refused.value) is type(inside.value)
    for name in ("title", "message", "hint", "exit_code"):
        assert getattr(refused.value, name) == getattr(inside.value, name)
    assert refused.value.exit_code is ExitCode.PROVIDER
    engine.close()


def test_it_outlives_its_terminal_and_can_be_stopped_from_elsewhere(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, ROWS)
    with operator(database, api, tmp_path, "outlives", "stay") as process:
        process.kill()
        process.wait()
        api.latency = 0.02
        engine = Engine(database)
        wait_for(lambda: engine.snapshot().phase is Phase.VALIDATE)
        assert stored(database) == paid(api) == ROWS
        # it goes on keeping the sides current
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("UPDATE documents SET content = 'document of another day' WHERE id = 1")
        wait_for(lambda: "document of another day" in api.texts)
        (pid,) = at_work(database)
        assert engine.stop_workers() == 1
        wait_for(lambda: not at_work(database))
        wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())
        assert engine.stop_workers() == 0
        engine.close()


def test_a_suspended_terminal_does_not_hold_it_up(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, ROWS)
    with operator(database, api, tmp_path, "outlives", "stay") as process:
        process.send_signal(signal.SIGSTOP)
        api.latency = 0.02
        wait_for(lambda: stored(database) == ROWS)


@pytest.mark.parametrize("how", ["killed", "left"])
@pytest.mark.variants(1)
def test_otherwise_it_ends_with_it_and_loses_nothing(
    database: str, api: LoopbackServer, tmp_path: Path, how: str
) -> None:
    """Left as the dashboard is by ``q``, also where it could outlive it; or killed, where it could not."""
    make_documents(database, ROWS)
    with operator(database, api, tmp_path, "outlives" if how == "left" else "dies", "leave") as process:
        if how == "killed":
            process.kill()
        else:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        wait_for(lambda: not at_work(database))
        assert stored(database) == paid(api) < ROWS
        assert one(database, "SELECT count(*) FROM embedtui.shard WHERE state = 'leased'") == 0


def test_waiting_for_a_mended_setting_it_is_seen_and_can_be_stopped(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, ROWS)
    settings = settings_for(database, api, tmp_path, {"new_model.max_inputs": 10})
    with contextlib.closing(Engine(database, settings=settings)) as engine:
        engine.run(threading.Event(), until=5)
        api.faults.add("unauthorized")
        ended: list[bool] = []

        def work() -> None:
            with pytest.raises(Interrupted):
                engine.run(threading.Event(), follow=True)
            ended.append(True)

        thread = threading.Thread(target=work)
        thread.start()
        wait_for(lambda: "waiting to be resumed" in [worker.doing for worker in engine.snapshot().workers])
        assert engine.snapshot().condition is Condition.FAILED
        assert engine.stop_workers() == 1
        thread.join(PATIENCE)
        assert ended


def test_a_worker_whose_presence_fails_ends_with_the_reason(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """Also where it only waits: nobody could see or stop it any more."""
    make_documents(database, ROWS)
    settings = settings_for(database, api, tmp_path, {"new_model.max_inputs": 10})
    with contextlib.closing(Engine(database, settings=settings)) as engine:
        engine.run(threading.Event(), until=5)
        engine.pause()
        api.faults.add("unauthorized")
        engine.resume()
        ended: list[EmbedtuiError] = []

        def work() -> None:
            with pytest.raises(DatabaseError) as error:
                engine.run(threading.Event(), follow=True)
            ended.append(error.value)

        thread = threading.Thread(target=work)
        thread.start()
        wait_for(lambda: "waiting to be resumed" in [worker.doing for worker in engine.snapshot().workers])
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("ALTER TABLE embedtui.worker RENAME COLUMN stop_wanted TO stop_wanted_no_more")
        thread.join(PATIENCE)
        assert "stop_wanted" in ended[0].message


def test_while_it_waits_to_prepare_it_is_seen_and_can_be_stopped(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    """A long transaction keeps it waiting before anything is changed."""
    make_documents(database, ROWS)
    engine = SubprocessEngine(database, settings=settings_for(database, api, tmp_path), outlives=True)
    with psycopg.connect(database) as conn:
        conn.execute("SELECT 1 FROM documents")
        ended: list[Interrupted] = []

        def work() -> None:
            with pytest.raises(Interrupted) as error:
                engine.run(threading.Event())
            ended.append(error.value)

        thread = threading.Thread(target=work)
        thread.start()
        wait_for(lambda: "preparing" in [worker.doing for worker in engine.snapshot().workers])
        assert engine.stop_workers() == 1
        thread.join(PATIENCE)
        assert ended
    engine.close()


def test_one_of_two_is_stopped_alone(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """Though both got the same stop signal from their caller, which stays unset."""
    make_documents(database, ROWS)
    api.latency = 0.1
    settings = settings_for(database, api, tmp_path, {"new_model.max_inputs": 10})
    stop = threading.Event()
    engines = [Engine(database, settings=settings) for _ in range(2)]
    engines[0].prepare()
    interrupted: list[int] = []

    def work(number: int) -> None:
        try:
            engines[number].run(stop, follow=True)
        except Interrupted:
            interrupted.append(number)

    threads = [threading.Thread(target=work, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    alive = lambda: [worker.id for worker in engines[0].snapshot().workers if worker.alive]  # noqa: E731
    wait_for(lambda: len(alive()) == 2)
    first, second = sorted(alive())
    assert engines[0].stop_workers([second]) == 1
    wait_for(lambda: alive() == [first])
    assert len(interrupted) == 1 and not stop.is_set()
    wait_for(lambda: stored(database) == ROWS)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(interrupted) == [0, 1]
    for engine in engines:
        engine.close()


def test_stopped_or_closed_before_it_starts_no_work_begins(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 10)
    stop = threading.Event()
    stop.set()
    engine = SubprocessEngine(database, settings=settings_for(database, api, tmp_path), outlives=True)
    with pytest.raises(Interrupted):
        engine.run(stop)
    engine.close(detach=True)
    with pytest.raises(Interrupted):
        engine.run(threading.Event())
    assert one(database, "SELECT to_regnamespace('embedtui')") is None


@pytest.mark.parametrize("key", ["", "sk-wrong"], ids=["no key", "wrong key"])
def test_who_joins_without_the_right_key_disturbs_nobody(
    database: str, api: LoopbackServer, tmp_path: Path, key: str
) -> None:
    make_documents(database, ROWS)
    api.latency = 0.1
    good = settings_for(database, api, tmp_path, {"new_model.max_inputs": 10})
    stop = threading.Event()
    working = Engine(database, settings=good)

    def work() -> None:
        with pytest.raises(Interrupted):
            working.run(stop, follow=True)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: paid(api) > 50)
    with contextlib.closing(
        Engine(database, environ={"OPENAI_API_KEY": key, "OPENAI_BASE_URL": api.base_url})
    ) as joining:
        with pytest.raises(ProviderError):
            joining.run(threading.Event(), follow=True)
        snapshot = joining.snapshot()
        assert snapshot.migration is not None and snapshot.migration.desired == "run"
        wait_for(lambda: stored(database) == ROWS)
    stop.set()
    thread.join(PATIENCE)
    working.close()


def every_error(kind: type[EmbedtuiError] = EmbedtuiError) -> list[type[EmbedtuiError]]:
    # the one of a spoilt reply stays with its sender
    subclasses = [each for each in kind.__subclasses__() if each is not BadVectors]
    return [kind, *(each for sub in subclasses for each in every_error(sub))]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_can_travel(kind: type[EmbedtuiError]) -> None:
    if kind is ProviderFault:
        error: EmbedtuiError = ProviderFault(FaultClass.CONFIGURATION, "401", "what", hint="mend")
    else:
        error = kind("what", hint="mend")
    arrived = pickle.loads(pickle.dumps(WorkResult.of(error))).error
    assert (arrived.message, arrived.hint, arrived.title) == ("what", "mend", error.title)
    assert arrived.exit_code == error.exit_code
