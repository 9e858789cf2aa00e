"""The demo as a whole: every phase under traffic, used again, and gone without a trace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

import psutil
import psycopg
import pytest

from embedtui.demo import journey
from embedtui.demo.journey import Demo, run_demo, run_journey
from embedtui.demo.models import NEW_MODEL, OLD_MODEL
from embedtui.errors import ExitCode
from embedtui.model import Phase, Side

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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "data"


def test_headless_journey_ends_well(folder: Path) -> None:
    lines: list[str] = []
    with Demo(folder, limit=DOCUMENTS, out=lines.append) as demo:
        report = run_journey(demo, out=lines.append)
        side = demo.traffic.counts
    assert report.well, report
    assert report.rows >= DOCUMENTS and report.embedded == report.rows
    assert (report.missing, report.stale, report.faulty) == (0, 0, 0)
    assert report.tokens > 0
    assert (report.index.method, report.index.valid) == ("hnsw", True)
    assert (report.comparison.queries, report.comparison.k, report.comparison.verdict) == (60, 10, "PASS")
    assert report.comparison.judged.old is not None and report.comparison.judged.new is not None
    assert report.comparison.judged.new > report.comparison.judged.old
    assert report.flip_ms > 0 and report.rollback_ms > 0
    assert report.rollback_fresh is True
    assert report.traffic.reads > 0 and report.traffic.writes > 0
    assert side.reads_old > 0 and side.reads_new > 0
    assert (report.active, report.phase) == ("new", "soak")
    assert json.loads(json.dumps(asdict(report)))["comparison"]["judged"]["new"] == report.comparison.judged.new
    assert any("Rollback" in line for line in lines)
    assert postgres_under(folder) == []


def test_next_demo_goes_on_with_what_is_there(folder: Path) -> None:
    with Demo(folder, limit=DOCUMENTS) as demo:
        engine = demo.open_engine()
        snapshot = engine.snapshot()
        assert (snapshot.phase, snapshot.route.active) == (Phase.SOAK, Side.NEW)
        assert snapshot.migration is not None
        # the API listens elsewhere now, and the stored models know it
        assert snapshot.migration.new_model.base_url == demo.api.base_url == snapshot.migration.old_model.base_url
        assert engine.verify(sample=20).clean
        engine.close()


def rows_and_schema(demo: Demo) -> tuple[int, bool]:
    """Rows of the table, and whether embedtui has been there."""
    with psycopg.connect(demo.dsn) as conn:
        row = conn.execute("SELECT count(*), to_regclass('embedtui.migration') IS NOT NULL FROM documents").fetchone()
    assert row is not None
    return row[0], row[1]


def test_other_documents_or_an_ended_migration_begin_anew(folder: Path) -> None:
    with Demo(folder, limit=300) as demo:
        rows, migrated = rows_and_schema(demo)
        assert 290 <= rows <= 320 and not migrated
        engine = demo.open_engine()
        engine.abort("documents")
        assert engine.snapshot().phase is Phase.ABORTED
        engine.close()
    with Demo(folder, limit=300) as demo:
        assert not rows_and_schema(demo)[1]


def test_reset_and_proxy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment does not come between us and our own API."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.org")
    with Demo(folder, limit=200, reset=True) as demo:
        engine = demo.open_engine()
        assert engine.search_both("split a path").text == "split a path"
        engine.close()
        assert demo.traffic.counts.failed == 0, demo.traffic.counts
    assert journey.os.environ["NO_PROXY"] == "example.org"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_leave_nothing_running(tmp_path: Path, number: signal.Signals, code: int) -> None:
    script = f"""
        import sys, time
        from embedtui.demo.journey import Demo
        try:
            with Demo(__import__("pathlib").Path({str(tmp_path)!r}), limit=200) as demo:
                print("up", flush=True)
                time.sleep(600)
        except KeyboardInterrupt:
            sys.exit(130)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    assert postgres_under(tmp_path)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert postgres_under(tmp_path) == []


def test_dashboard_gets_a_prepared_migration_with_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(journey, "CORPUS_SIZE", 200)

    def dashboard(open_engine: journey.OpenEngine) -> int:
        engine = open_engine(lambda event: None)
        snapshot = engine.snapshot()
        assert snapshot.migration is not None
        assert snapshot.migration.old_model.name == OLD_MODEL and snapshot.migration.new_model.name == NEW_MODEL
        assert snapshot.phase is Phase.BACKFILL
        with psycopg.connect(engine.dsn) as conn:
            assert conn.execute("SELECT count(*) FROM embedtui.query WHERE relevant <> '[]'").fetchone() == (60,)
        engine.close()
        return 7

    assert run_demo(headless=False, as_json=False, reset=False, dashboard=dashboard) == 7
    assert capsys.readouterr().out == ""
    assert (tmp_path / "embedtui" / "demo").is_dir()


def test_report_on_stdout_progress_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(journey, "CORPUS_SIZE", DOCUMENTS)

    def no_dashboard(open_engine: journey.OpenEngine) -> int:
        raise AssertionError("headless")

    assert run_demo(headless=True, as_json=True, reset=False, dashboard=no_dashboard) == ExitCode.OK
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["traffic"]["failed"] == 0 and report["phase"] == "soak"
    assert "Cutover" in err and out.count("\n") == 1
