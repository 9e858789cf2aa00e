"""A provider that takes a connection and never answers is named while it lasts, and nobody has to wait for it."""

from __future__ import annotations

import signal
import threading
from contextlib import closing
from pathlib import Path

import pytest

from embedtui.demo.api import FaultKind, LoopbackServer
from embedtui.engine import Engine
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.model import Event
from embedtui.providers import patience
from tests.kits.cli_kit import Shell
from tests.kits.support import NEW, OLD, make_documents, settings_for, wait_for

ENDS = 15.0
"""Seconds within which a call that was stopped has to be over: sooner than its time-out."""


@pytest.fixture(autouse=True)
def silent(api: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SLOW_SECONDS", 0.3)
    monkeypatch.setattr(patience, "TIMEOUT_SECONDS", 60.0)
    api.faults.add(FaultKind.HANG, times=100, seconds=60)


@pytest.mark.parametrize("what", ["plan", "run"])
@pytest.mark.parametrize("retired", [True, False])
def test_it_is_named_and_left(database: str, api: LoopbackServer, tmp_path: Path, what: str, retired: bool) -> None:
    make_documents(database, 5)
    said: list[str] = []
    stop, ended = threading.Event(), list[EmbedtuiError]()

    def heard(event: Event) -> None:
        said.append(event.text)

    settings = settings_for(database, api, tmp_path, {"old_model.retired": retired})
    with closing(Engine(database, settings=settings, on_event=heard)) as engine:

        def act() -> None:
            try:
                if what == "plan":
                    engine.plan(check_provider=True, say=said.append, stop=stop)
                else:
                    engine.run(stop)
            except EmbedtuiError as error:
                ended.append(error)

        thread = threading.Thread(target=act)
        thread.start()
        wait_for(lambda: any("does not answer since" in each for each in said), "nobody is named")
        stop.set()
        thread.join(ENDS)
        assert not thread.is_alive(), "it waits for the time-out"
    [named] = [each for each in said if "does not answer since" in each]
    assert named.startswith(f"{NEW} at http://127.0.0.1:") and named.endswith("UTC; given up after 60 s.")
    assert [type(each) for each in ended] == [Interrupted]


def test_ctrl_c_leaves_the_command_line(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 5)
    (tmp_path / "embedtui.toml").write_text(f'table = "documents"\n[old_model]\nname = "{OLD}"\nretired = true\n')
    environ = {"DATABASE_URL": database, "OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}
    process = Shell(tmp_path, {**environ, "EMBED_MODEL": NEW, "EMBED_DIMENSIONS": "16"}).start(
        "plan", "--check-provider"
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert f"{NEW} at http" in said and "does not answer since" in said and "given up after 20 s" in said
        process.send_signal(signal.SIGINT)
        assert process.wait(ENDS) == 130
    finally:
        process.kill()
        process.communicate()
