"""The demo as a whole: every phase under traffic, used again, and gone without a trace."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg
import pytest

from embedtui.config import load_settings
from embedtui.demo import environment, journey, shutdown
from embedtui.demo.environment import Demo
from embedtui.demo.journey import OpenEngine, run_demo
from embedtui.demo.models import BASE_MODEL, EARLIER_MODEL, NEW_MODEL
from embedtui.demo.shutdown import FAILED_SEEN
from embedtui.engine import Engine
from embedtui.errors import DatabaseError, ExitCode
from embedtui.model import Phase, Side
from embedtui.postgres.connect import connect
from tests.kits.support import following, wait_for

DOCUMENTS = 700
"""Enough for the gate to judge; the whole corpus is for the demo itself."""


def postgres_under(path: Path) -> list[int]:
    """Pids of servers that work on data under ``path``."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(str(path) in word for word in process.info["cmdline"] or []) and "postgres" in process.info["cmdline"][0]
    ]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A data folder outside pytest's own, which every new session closes to the account that PostgreSQL runs as."""
    made = Path(tempfile.mkdtemp(prefix="embedtui-test-"))
    made.chmod(0o711)  # closed to that account, the demo would go elsewhere
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    """Where the demo puts its database; the tests of this file use one after the other what is there."""
    return home / "embedtui" / "demo"


@pytest.fixture(autouse=True)
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    monkeypatch.setattr(environment, "CORPUS_SIZE", DOCUMENTS)


def test_dashboard_gets_a_prepared_migration_with_questions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened: list[str] = []
    said: list[str] = []

    def dashboard(open_engine: OpenEngine, elsewhere: str, about: str) -> int:
        said.append(about)
        engine = open_engine(None)
        opened.append(engine.dsn)
        snapshot = engine.snapshot()
        assert snapshot.migration is not None
        assert snapshot.migration.old_model.name == BASE_MODEL and snapshot.migration.new_model.name == NEW_MODEL
        assert snapshot.phase is Phase.BACKFILL
        with psycopg.connect(engine.dsn) as conn:
            assert conn.execute("SELECT count(*) FROM embedtui.query WHERE relevant <> '[]'").fetchone() == (60,)
        engine.close()
        return 7

    assert run_demo(headless=False, as_json=False, reset=False, dashboard=dashboard) == 7
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if "second terminal" in line]
    assert f'DATABASE_URL="{opened[0]}" embedtui --config ' in line and line.endswith("demo.toml")
    (about,) = said
    assert about.startswith(f"{DOCUMENTS:,} documents") and str(folder) in about
    after = printed.err.partition(line)[2]
    assert about in after and "Go on: embedtui demo. Anew: embedtui demo --reset" in after, "the screen has covered it"


def no_dashboard(open_engine: OpenEngine, elsewhere: str, about: str) -> int:
    raise AssertionError("headless")


def test_headless_journey_ends_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_demo(headless=True, as_json=True, reset=False, dashboard=no_dashboard)
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert out.count("\n") == 1 and "Cutover" in err and "Rollback" in err
    assert code == ExitCode.OK, report
    assert report["rows"] >= DOCUMENTS - 10 and report["embedded"] == report["rows"]
    assert (report["missing"], report["stale"], report["faulty"]) == (0, 0, 0)
    assert report["tokens"] > 0
    assert (report["index"]["method"], report["index"]["valid"]) == ("hnsw", True)
    comparison = report["comparison"]
    assert (comparison["queries"], comparison["k"], comparison["verdict"]) == (60, 10, "PASS")
    assert comparison["judged"]["new"] > comparison["judged"]["old"] > 0
    assert 0.3 < comparison["mean_overlap"] < 0.9 and comparison["low_overlap"] < 20
    assert report["flip_ms"] > 0 and report["rollback_ms"] > 0 and report["rollback_fresh"] is True
    traffic = report["traffic"]
    assert traffic["reads"] > 0 and traffic["writes"] > 0 and (traffic["failed"], traffic["lost"]) == (0, 0)
    assert (report["active"], report["phase"]) == ("new", "soak")
    assert postgres_under(folder) == []


def test_next_demo_goes_on_with_what_is_there() -> None:
    with Demo() as demo:
        engine = demo.open_engine()
        snapshot = engine.snapshot()
        assert (snapshot.phase, snapshot.route.active) == (Phase.SOAK, Side.NEW)
        assert snapshot.migration is not None
        # the API listens elsewhere now, and the stored models know it
        assert snapshot.migration.new_model.base_url == demo.api.base_url == snapshot.migration.old_model.base_url
        assert engine.verify(sample=20).mismatched == 0
        engine.close()


def test_the_old_model_dies_and_a_bridge_brings_search_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second story headless: failed searches, a bridge, the rest embedded, cutover, and back over the bridge."""
    code = run_demo(headless=True, as_json=True, reset=False, dead=True, dashboard=no_dashboard)
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert code == ExitCode.OK, report
    dead = report["shutdown"]
    assert dead["model"] == EARLIER_MODEL and "is shut down" in err and "through the bridge" in err
    assert dead["failed_searches"] >= FAILED_SEEN and dead["failed_later"] == 0
    assert dead["bridged_searches"] > 0 and dead["seconds_to_bridged"] > 0
    # well above the bound of 75 %, and the old model's questions are answered much as before
    assert dead["recall_10"] > 0.9 and dead["neighbours"] > 0.5 and dead["overlap"] > 0.4
    assert dead["judged"]["new"] > 0.6 * dead["judged"]["old"] > 0
    assert dead["bridged_after_rollback"] is True
    assert (report["missing"], report["stale"], report["faulty"]) == (0, 0, 0)
    assert report["embedded"] == report["rows"] >= DOCUMENTS - 10
    assert (report["comparison"]["queries"], report["comparison"]["verdict"]) == (60, "PASS")
    assert report["comparison"]["judged"]["old"] > 0, "by the vectors that its log kept"
    assert report["rollback_fresh"] is False and report["traffic"]["lost"] == 0
    assert (report["active"], report["phase"]) == ("new", "soak")
    assert any(EARLIER_MODEL in error for error in report["traffic"]["errors"])
    assert postgres_under(folder) == []


def test_beside_a_dashboard_it_dies_after_a_while_and_the_screen_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "DEATH_SECONDS", 0.5)
    monkeypatch.setattr(journey, "SHUTDOWN_TOKENS_PER_MINUTE", None)
    events: list[str] = []

    def dashboard(open_engine: OpenEngine, elsewhere: str, about: str) -> int:
        engine = open_engine(lambda event: events.append(event.text))
        assert engine.snapshot().notices == () and engine.snapshot().backfill.rows == 0
        wait_for(lambda: engine.snapshot().sync.queued)
        assert engine.snapshot().next_act == "wait", "nothing urges to run before it has begun"

        def counted() -> bool:
            return any("searches failed since" in each for each in engine.snapshot().notices)

        wait_for(counted)
        assert engine.ask_old_model() and engine.snapshot().next_act == "bridge"
        report = engine.bridge()
        assert report.served and report.status.queries is not None
        wait_for(lambda: any("it finds again" in each for each in engine.snapshot().notices))
        wait_for(lambda: any("it finds again" in each for each in events))
        assert any("searches fail" in each for each in events)
        engine.close()
        return 7

    assert run_demo(headless=False, as_json=False, reset=True, dead=True, dashboard=dashboard) == 7

    def again(open_engine: OpenEngine, elsewhere: str, about: str) -> int:
        engine = open_engine(None)
        assert engine.snapshot().route.bridged and engine.ask_old_model(), "what died before is dead"
        engine.close()
        return 8

    assert run_demo(headless=False, as_json=False, reset=False, dead=True, dashboard=again) == 8


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_leave_nothing_running(folder: Path, number: signal.Signals, code: int) -> None:
    script = f"""
        import sys, time
        from embedtui.demo.environment import Demo
        try:
            with Demo(limit={DOCUMENTS}):
                print("up", flush=True)
                time.sleep(600)
        except KeyboardInterrupt:
            sys.exit(130)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    assert postgres_under(folder)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert postgres_under(folder) == []


def test_proxy_in_the_environment_does_not_come_between(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.org")
    with Demo() as demo:
        engine = demo.open_engine()
        assert engine.search_both("split a path").text == "split a path"
        engine.close()
    assert demo.traffic.counts.failed == 0, demo.traffic.counts
    assert os.environ["NO_PROXY"] == "example.org"


def rows_and_schema(demo: Demo) -> tuple[int, bool]:
    """Rows of the table, and whether embedtui has been there."""
    with psycopg.connect(demo.dsn) as conn:
        row = conn.execute("SELECT count(*), to_regclass('embedtui.migration') IS NOT NULL FROM documents").fetchone()
    assert row is not None
    return row[0], row[1]


def test_an_ended_migration_stays_until_a_reset() -> None:
    with Demo(limit=300) as demo:
        rows, migrated = rows_and_schema(demo)
        assert 290 <= rows <= 320 and not migrated
        engine = demo.open_engine()
        assert demo.again == "Go on: embedtui demo. Anew: embedtui demo --reset"
        engine.abort("documents")
        assert engine.snapshot().phase is Phase.ABORTED
        assert demo.again == ("The migration has ended. Look at it again: embedtui demo. Anew: embedtui demo --reset")
        engine.close()
    told: list[str] = []
    with Demo(limit=300, out=told.append) as demo:
        engine = demo.open_engine()
        found = engine.snapshot()
        assert found.phase is Phase.ABORTED and found.log, "as it was left"
        engine.close()
    assert "demo --reset begins anew" in told[-1] and not any("Filling" in each for each in told)
    with Demo(limit=300, reset=True) as demo:
        assert not rows_and_schema(demo)[1]


def test_a_reset_is_of_one_story_alone_unless_the_server_no_longer_starts(folder: Path) -> None:
    for dead in (False, True):
        with Demo(limit=300, dead=dead, reset=True) as demo:
            demo.open_engine().close()
            here = demo.dsn
    with Demo(limit=300) as demo:
        assert demo.went_on, "the other story was begun anew"
        with connect(demo._server.dsn(), name="test") as conn:
            conn.execute("DROP DATABASE demo_shutdown")
        with pytest.raises(DatabaseError, match="demo was reset") as gone:
            connect(here, name="test")
        assert "DATABASE_URL" not in gone.value.hint and "embedtui demo" in gone.value.hint
    (control,) = folder.glob("postgresql-*/global/pg_control")
    control.write_bytes(b"")
    with pytest.raises(DatabaseError, match="did not start"):
        Demo(limit=300).__enter__()
    with Demo(limit=300, reset=True) as demo:
        assert not demo.went_on


def test_its_settings_may_be_tried_out_and_another_terminal_may_join() -> None:
    with Demo(limit=300, reset=True) as demo, closing(demo.open_engine()) as engine:
        shell = shlex.split(demo.elsewhere)
        url = shell[0].removeprefix("DATABASE_URL=")
        other = load_settings(environ={"DATABASE_URL": url}, cwd=Path("/"), config=Path(shell[-1]))
        with closing(Engine(url, settings=other)) as joined, following(joined):
            wait_for(lambda: any(worker.alive for worker in engine.snapshot().workers), "it does not join")
            wait_for(lambda: engine.snapshot().backfill.rows > 0)
        told = engine.settings_in_force()
        assert not next(each for each in told.lines if each.path == "pacing.max_concurrency").fixed
        engine.change_setting("pacing.max_concurrency", "7", told.seen)
        assert demo.settings.pacing.max_concurrency == 7
    with Demo(limit=300) as demo:
        assert demo.settings.pacing.max_concurrency == 4, "each start begins with the same"
