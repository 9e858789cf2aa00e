"""How work begins: what passes is ridden out as later on, and nobody overrules or joins another operator unasked."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import access, running
from embedtui.engine import prepare as preparing
from embedtui.engine.engine import Engine
from embedtui.errors import DatabaseError, EmbedtuiError, ExitCode, Interrupted, ProviderError, Refused
from embedtui.model import Condition, Phase
from embedtui.postgres.connect import Connection
from embedtui.providers.start import TEXTS
from tests.acceptance.test_database_faults import OURS
from tests.kits.cli_kit import Shell
from tests.kits.support import NEW, OLD, make_documents, settings_for, wait_for

OTHER = "another-model"


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    models = {OLD: hash_model(8), NEW: hash_model(16), OTHER: hash_model(16, salt="other")}
    with LoopbackServer(models, log_texts=1000) as server:
        yield server


def engine_for(dsn: str, api: LoopbackServer, folder: Path, **flags: object) -> Engine:
    return Engine(dsn, settings=settings_for(dsn, api, folder, {"placement": "column", **flags}))


class Started:
    """A run in a thread of its own."""

    def __init__(self, engine: Engine, **arguments: bool) -> None:
        self.error: Exception | None = None
        self.stop = threading.Event()
        self._engine, self._arguments = engine, arguments
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._engine.run(self.stop, **self._arguments)  # type: ignore[arg-type]
        except Exception as error:  # whatever it ends with is a finding
            self.error = error

    def ends(self) -> None:
        self.thread.join(90)
        assert not self.thread.is_alive(), "the run hangs"


@pytest.mark.parametrize("begun", [False, True], ids=["first run", "later run"])
@pytest.mark.variants(1)
def test_sessions_cut_at_the_start_are_ridden_out(
    database: str, api: LoopbackServer, tmp_path: Path, begun: bool
) -> None:
    make_documents(database, 50)
    api.latency = 1.0  # so that it is still at its start when it is cut
    engine = engine_for(database, api, tmp_path)
    if begun:
        engine.prepare()
    with psycopg.connect(database, autocommit=True) as conn:
        run = Started(engine)
        # the first connection stands: that there is no database at all is said at once
        connected = f"SELECT count(*) {OURS} AND query NOT LIKE '%statement_timeout%'"
        wait_for(lambda: (conn.execute(connected).fetchone() or (0,))[0] > 0 or not run.thread.is_alive())
        cut = 0
        while cut < 12 and run.thread.is_alive():
            cut += len(conn.execute(f"SELECT pg_terminate_backend(pid) {OURS}").fetchall())
            time.sleep(0.05)
    run.ends()
    assert run.error is None, run.error
    assert cut >= 5, "it ended before it was cut"
    assert engine.verify().clean
    engine.close()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.variants(2)
def test_sessions_cut_until_the_end_are_ridden_out(
    database: str, api: LoopbackServer, tmp_path: Path, seed: int
) -> None:
    """At no place in particular: whatever reads or writes then has to begin again."""
    chance = random.Random(seed)
    make_documents(database, 50)
    api.latency = chance.choice([0, 0.02, 0.1])
    pause = chance.choice([0.001, 0.02, 0.05])
    engine = engine_for(database, api, tmp_path)
    engine.prepare()
    with psycopg.connect(database, autocommit=True) as conn:
        run = Started(engine)
        end = time.monotonic() + 3  # later on the run waits for seconds between two tries
        while time.monotonic() < end and run.thread.is_alive():
            # a session that is only being set up may be the first one, of which that is said at once
            conn.execute(f"SELECT pg_terminate_backend(pid) {OURS} AND query <> ''")
            time.sleep(pause)
    run.ends()
    assert run.error is None, run.error
    assert engine.verify().clean
    engine.close()


@pytest.mark.parametrize("begun", [False, True], ids=["first run", "later run"])
@pytest.mark.parametrize("locked", ["documents", "embedtui.migration", "embedtui.route"])
@pytest.mark.variants(3)
def test_a_lock_at_the_start_is_ridden_out(
    database: str, api: LoopbackServer, tmp_path: Path, begun: bool, locked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than any of our sessions waits for a lock."""
    plain = running.Link

    class Impatient(plain):  # type: ignore[misc, valid-type]
        def __init__(self, dsn: str, name: str, **options: object) -> None:
            super().__init__(dsn, name, **{"lock_timeout_ms": 100, **options})

    connect = running.connect
    for module in (access, running):
        monkeypatch.setattr(module, "Link", Impatient)
        monkeypatch.setattr(
            module, "connect", lambda dsn, **options: connect(dsn, **{"lock_timeout_ms": 100, **options})
        )
    make_documents(database, 50)
    engine = engine_for(database, api, tmp_path)
    if begun or locked != "documents":
        engine.prepare()
    with psycopg.connect(database) as conn:
        conn.execute(f"LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE")
        run = Started(engine)
        end = time.monotonic() + 1.5
        while time.monotonic() < end and run.thread.is_alive():
            time.sleep(0.05)
        assert run.thread.is_alive(), run.error
    run.ends()
    assert run.error is None, run.error
    assert engine.verify().clean
    engine.close()


@pytest.mark.parametrize("command", ["run", "status"])
@pytest.mark.parametrize("cuts", [1, 3])
def test_a_command_whose_first_look_is_cut_looks_again(
    database: str, api: LoopbackServer, tmp_path: Path, command: str, cuts: int
) -> None:
    """A command first finds out which migration is meant; it waits for a lock there, and is cut."""
    make_documents(database, 50)
    settings = settings_for(database, api, tmp_path, {"placement": "column"})
    engine = Engine(database, settings=settings)
    engine.prepare()
    engine.close()
    shell = Shell(tmp_path, settings.environ)
    options = ("--table", "documents", "--old-model", OLD, "--placement", "column") if command == "run" else ()
    looks = (
        f"SELECT pg_terminate_backend(pid) {OURS} AND application_name = 'embedtui/check' AND wait_event_type = 'Lock'"
    )
    with psycopg.connect(database) as locker, psycopg.connect(database, autocommit=True) as conn:
        locker.execute("LOCK TABLE embedtui.migration IN ACCESS EXCLUSIVE MODE")
        process = shell.start(command, *options)
        cut = 0

        def looking() -> bool:
            nonlocal cut
            cut += len(conn.execute(looks).fetchall())
            return cut >= cuts or process.poll() is not None

        wait_for(looking)
        locker.rollback()
        out, err = process.communicate(timeout=90)
    assert cut == cuts and process.returncode == 0, (cut, out, err)


def test_nothing_is_paid_before_the_first_answer_though_all_else_goes_on(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 50)
    engine, embed, answer = engine_for(database, api, tmp_path), api.models[NEW], threading.Event()
    engine.prepare()
    api.reset_counters()
    api.models[NEW] = lambda texts, size: embed(texts, size) if answer.wait(60) else embed([], size)
    with psycopg.connect(database, autocommit=True) as conn:
        leased = "SELECT count(*) FROM embedtui.shard WHERE state = 'leased'"
        run = Started(engine)
        wait_for(lambda: (conn.execute(leased).fetchone() or (0,))[0] > 0)
        time.sleep(0.3)
        assert api.requests == 1
        answer.set()
    run.ends()
    assert run.error is None, run.error
    assert api.texts[:2] == TEXTS
    assert engine.verify().clean
    engine.close()


def test_an_endpoint_that_is_none_costs_its_own_process_the_work_and_nobody_else_anything(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 50)
    engine, embed = engine_for(database, api, tmp_path), api.models[NEW]
    engine.prepare()
    api.reset_counters()
    api.models[NEW] = lambda texts, size: embed([texts[0]] * len(texts), size)
    with pytest.raises(ProviderError, match="same vector"):
        engine.run(threading.Event())
    assert set(api.texts) == set(TEXTS)
    migration = engine.require()
    assert (migration.desired, migration.condition) == ("run", Condition.IDLE)
    assert not [entry for entry in engine.audit() if entry.act == "worker failed"]
    api.models[NEW] = embed
    engine.run(threading.Event())
    assert engine.verify().clean
    engine.close()


def test_a_database_that_is_not_there_is_said_at_once(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    with pytest.raises(DatabaseError):
        engine_for(nowhere, api, tmp_path).run(threading.Event())


class TestAnothersPause:
    def test_is_not_lifted_by_a_run(self, database: str, api: LoopbackServer, tmp_path: Path) -> None:
        make_documents(database, 50)
        engine, operator = engine_for(database, api, tmp_path), Engine(database)
        engine.prepare()
        operator.pause("sale at noon")
        with pytest.raises(Refused, match="sale at noon") as caught:
            engine.run(threading.Event())
        assert caught.value.exit_code == ExitCode.REFUSED and "embedtui resume" in caught.value.hint
        assert "was paused by" in caught.value.message
        assert engine.snapshot().condition is Condition.PAUSED and api.inputs <= 1
        operator.resume()
        engine.run(threading.Event())
        assert engine.verify().clean
        engine.close()
        operator.close()

    def test_is_not_lifted_though_a_setting_had_failed_before(
        self, database: str, api: LoopbackServer, tmp_path: Path
    ) -> None:
        make_documents(database, 50)
        engine = engine_for(database, api, tmp_path)
        engine.prepare()
        api.faults.add("unauthorized")
        with pytest.raises(ProviderError):
            engine.run(threading.Event())
        api.faults.clear()
        engine.pause("not before the key is audited")
        with pytest.raises(Refused, match="audited"):
            engine.run(threading.Event())
        engine.close()

    def test_is_waited_out_by_a_worker_that_follows(self, database: str, api: LoopbackServer, tmp_path: Path) -> None:
        make_documents(database, 50)
        engine = engine_for(database, api, tmp_path)
        engine.prepare()
        engine.pause("lunch")
        run = Started(engine, follow=True)
        wait_for(lambda: any(worker.alive for worker in engine.snapshot().workers))
        assert engine.snapshot().condition is Condition.PAUSED
        engine.resume()
        wait_for(lambda: engine.snapshot().phase is Phase.VALIDATE)
        run.stop.set()
        run.ends()
        assert isinstance(run.error, Interrupted)
        engine.close()

    def test_our_own_for_a_wrong_setting_is_lifted_by_the_next_run(
        self, database: str, api: LoopbackServer, tmp_path: Path
    ) -> None:
        make_documents(database, 50)
        engine = engine_for(database, api, tmp_path)
        engine.prepare()
        api.faults.add("unauthorized")
        with pytest.raises(ProviderError):
            engine.run(threading.Event())
        api.faults.clear()
        engine.run(threading.Event())
        assert engine.verify().clean
        engine.close()


@pytest.mark.parametrize(
    "second",
    [{"new_model.name": OTHER}, {"new_model.dimensions": 12}, {"content": ("metadata",)}, {}],
    ids=["model", "dimensions", "content", "the same"],
)
@pytest.mark.parametrize("moment", ["install", "create"])
def test_of_two_first_runs_with_different_wishes_one_is_refused(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    second: dict[str, object],
    moment: str,
) -> None:
    """Both have looked before either has begun; each is let go on only once the other has come as far."""
    make_documents(database, 30)
    both = threading.Barrier(2, timeout=30)
    install = preparing._install

    def meet(conn: Connection) -> None:
        if moment == "install":
            both.wait()
        install(conn)
        if moment == "create":
            both.wait()

    monkeypatch.setattr(preparing, "_install", meet)
    first = engine_for(database, api, tmp_path, content=("content",))
    other = engine_for(database, api, tmp_path, **{"content": ("content",), **second})
    errors: list[EmbedtuiError] = []

    def begin(engine: Engine) -> None:
        try:
            engine.prepare()
        except EmbedtuiError as error:
            errors.append(error)

    threads = [threading.Thread(target=begin, args=(engine,)) for engine in (first, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert [type(error) for error in errors] == ([Refused] if second else []), errors
    if errors:
        assert "is under way with" in errors[0].message
    first.close()
    other.close()
