"""A provider that takes a connection and never answers is named while it lasts, and nobody has to wait for it."""

from __future__ import annotations

import signal
import threading
from contextlib import closing
from pathlib import Path

import pytest

from embedtui.demo.api import FaultKind, LoopbackServer
from embedtui.engine import Engine
from embedtui.errors import EmbedtuiError, Interrupted, ProviderError
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


@pytest.mark.parametrize("how", ["refuses connections", "hangs"])
@pytest.mark.variants(1)
def test_a_sample_names_who_does_not_answer_and_is_given_up(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    api.faults.clear()
    make_documents(database, 5)
    monkeypatch.setattr(patience, "GIVE_UP_SECONDS", 4.0)
    said: list[str] = []
    settings = settings_for(database, api, tmp_path, {"old_model.retired": True})
    with closing(Engine(database, settings=settings, on_event=lambda event: said.append(event.text))) as engine:
        engine.run(threading.Event())
        if how == "hangs":
            api.faults.add(FaultKind.HANG, times=100, seconds=60)
        else:
            api.stop()
        said.clear()
        with pytest.raises(
            ProviderError, match=rf"Gave up after 4 s: {NEW} at http.* does not answer since"
        ) as gave_up:
            engine.verify(sample=5, repair=True)
        if how == "refuses connections":
            assert "No connection" in str(gave_up.value)
            api.start()
            assert engine.verify(sample=5).sampled == 5, "the next one is well"
        assert engine.verify().clean, "nothing was queued"
    assert any(each.startswith(f"{NEW} at http") and each.endswith("given up after 4 s.") for each in said)
