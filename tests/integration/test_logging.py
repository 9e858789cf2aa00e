"""An exception raised on purpose in every kind of process is in the log, with its traceback and without secrets."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui import redaction
from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.engine.backfill.embedding import RowEmbedder
from embedtui.engine.backfill.sync import Sync
from embedtui.engine.process import SubprocessEngine
from embedtui.errors import EmbedtuiError, ExitCode
from embedtui.tui.app import Dashboard
from embedtui.tui.messages import AuditRead
from tests.kits.cli_kit import Shell
from tests.kits.log_kit import DOCUMENT, KEY, PASSWORD, assert_no_secret, holds_traceback, log_file
from tests.kits.support import NEW, make_documents, settings_for

__all__ = ["log_file"]

CLI = """
import sys
from embedtui.cli.main import main
from embedtui.postgres.state import migrations

def careless(conn, *arguments, **named):
    (text,) = conn.execute("SELECT content FROM public.documents LIMIT 1").fetchone()
    import os
    raise RuntimeError(f"cannot read {text} with {os.environ['WEIRD']} as {os.environ['OTHER_URL']}")

from embedtui.engine import access, snapshot
for module in (migrations, access, snapshot):
    module.load_migration = careless
main(sys.argv[1:])
"""

OPENAI = """
import os
def load():
    document = "{document}"
    raise RuntimeError(f"no client for {{document}} with {{os.environ['WEIRD_KEY']}} at {{os.environ['DATABASE_URL']}}")
load()
"""


@pytest.fixture
def documents(database: str) -> str:
    make_documents(database, 30, text=DOCUMENT + " {n}")
    return database


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIRD_KEY", KEY)
    monkeypatch.setattr(redaction, "_known", {KEY})


def run_cli(folder: Path, dsn: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    shell = Shell(folder, {"DATABASE_URL": dsn, "XDG_STATE_HOME": str(folder / "state"), **environ})
    (folder / "embedtui.toml").write_text('table = "documents"\n[new_model]\nkey_variable = "WEIRD"\n')
    environ = {"WEIRD": KEY, "OTHER_URL": f"postgresql://me:{PASSWORD}@h/d", "EMBED_MODEL": NEW}
    return subprocess.run(
        [sys.executable, "-c", CLI, *arguments],
        cwd=shell.folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environ, **shell.environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("where", ["option", "before", "variable", "dotenv", "default"])
def test_a_command(documents: str, tmp_path: Path, where: str) -> None:
    file = tmp_path / "my.log"
    if where == "option":
        done = run_cli(tmp_path, documents, "status", "--log-file", str(file))
    elif where == "before":
        done = run_cli(tmp_path, documents, "--log-file", str(file), "status")
    elif where == "variable":
        done = run_cli(tmp_path, documents, "status", EMBEDTUI_LOG=str(file))
    elif where == "dotenv":
        (tmp_path / ".env").write_text(f"EMBEDTUI_LOG={file}\n")
        done = run_cli(tmp_path, documents, "status")
    else:
        file = tmp_path / "state" / "embedtui" / "log" / "embedtui.log"
        done = run_cli(tmp_path, documents, "status")
    assert done.returncode == ExitCode.UNEXPECTED
    assert str(file) in done.stderr and done.stderr.count("\n") == 1
    assert_no_secret(done.stderr)
    holds_traceback(file.read_text(), "in careless", "RuntimeError", "exit 1")


def test_debug_shows_the_same_traceback(documents: str, tmp_path: Path) -> None:
    done = run_cli(tmp_path, documents, "status", EMBEDTUI_DEBUG="1")
    holds_traceback(done.stderr, "in careless")


def test_help_and_version_need_no_log(tmp_path: Path) -> None:
    for arguments in (["--help"], ["--version"], ["status", "--help"]):
        assert run_cli(tmp_path, "", *arguments).returncode == 0
    assert not (tmp_path / "state").exists()


def test_the_work_process(
    documents: str, api: LoopbackServer, tmp_path: Path, log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "openai.py").write_text(OPENAI.format(document=DOCUMENT))
    monkeypatch.syspath_prepend(tmp_path / "broken")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{PASSWORD}@h/d")
    settings = settings_for(documents, api, tmp_path, WEIRD_KEY=KEY)
    engine = SubprocessEngine(documents, settings=settings)
    with pytest.raises(EmbedtuiError) as caught:
        engine.run(threading.Event())
    engine.close()
    assert str(log_file) in caught.value.hint
    assert_no_secret(str(caught.value))
    holds_traceback(log_file.read_text(), "openai.py", "in load", "in serve")


@pytest.mark.parametrize("kind", ["embedding", "sync"])
def test_a_worker_thread(
    documents: str,
    api: LoopbackServer,
    tmp_path: Path,
    log_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    def careless(self: object, rows: Any = (), *arguments: object) -> object:
        (text,) = conn.execute("SELECT content FROM public.documents LIMIT 1").fetchone() or ("",)
        raise RuntimeError(f"cannot embed {text[:20]} with {KEY} at postgresql://me:{PASSWORD}@h/d")

    conn = psycopg.connect(documents, autocommit=True)
    monkeypatch.setattr(*((RowEmbedder, "embed") if kind == "embedding" else (Sync, "step")), careless)
    engine = Engine(documents, settings=settings_for(documents, api, tmp_path))
    with conn, pytest.raises(EmbedtuiError) as caught:
        engine.run(threading.Event(), follow=True)
    engine.close()
    assert caught.value.exit_code is ExitCode.UNEXPECTED and str(log_file) in caught.value.hint
    holds_traceback(log_file.read_text(), "in careless", "embed-0" if kind == "embedding" else " sync ")


async def test_a_thread_and_a_handler_of_the_dashboard(log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.tui import states
    from tests.tui.conftest import until
    from tests.tui.standin import StandIn

    class Careless(StandIn):
        def audit(self, limit: int = 200) -> Any:
            document = DOCUMENT
            raise RuntimeError(f"cannot show {document} with {KEY}")

    def handler() -> None:
        document = DOCUMENT
        raise LookupError(f"cannot draw {document} with {KEY}")

    app = Dashboard(lambda sink: Careless(states.RUNNING), remember=False)
    with pytest.raises(LookupError):
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.snapshot is not None)
            app.bridge.read(lambda engine: engine.audit(), AuditRead, app.post_message)
            await until(pilot, lambda: "RuntimeError" in log_file.read_text() if log_file.exists() else False)
            app.call_later(handler)
            await until(pilot, lambda: "in handler" in log_file.read_text())
    holds_traceback(log_file.read_text(), "in audit", "embedtui-read", "in handler", "LookupError")
    shown = capsys.readouterr().err
    assert str(log_file) in shown.replace("\n", "") and "Traceback" not in shown
    assert_no_secret(shown)
