"""The log file: rotating, shared by processes, readable by its owner alone, and never in the way."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from embedtui import logs
from embedtui.errors import EmbedtuiError, SettingsError
from tests.kits.log_kit import CONFESSION, DOCUMENT, holds_traceback, log_file

__all__ = ["log_file"]

WRITER = """
import logging, sys
from embedtui import logs
logs.BYTES = 20_000
logs.OLDER = 50
logs.start(sys.argv[1])
for number in range(500):
    logging.getLogger("embedtui").info("%s %d", sys.argv[2], number)
"""


def test_importing_embedtui_sets_nothing_up() -> None:
    code = (
        "import logging, sys, threading; hooks = sys.excepthook, threading.excepthook\n"
        "import embedtui.engine, embedtui.cli, embedtui.router, embedtui.logs\n"
        "assert not logging.getLogger().handlers and hooks == (sys.excepthook, threading.excepthook)\n"
        "assert embedtui.logs.current_file() is None\n"
        "print(embedtui.logs.unexpected(ValueError('x')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "ValueError: x. Please report this.\n" and done.stderr == ""


def test_an_unexpected_error_names_the_file_that_holds_its_traceback(log_file: Path) -> None:
    def careless(document: str) -> None:
        raise RuntimeError(CONFESSION)

    try:
        careless(DOCUMENT)
    except RuntimeError as error:
        found = logs.unexpected(error)
    assert isinstance(found, EmbedtuiError)
    assert str(log_file) in found.hint
    assert stat.S_IMODE(log_file.stat().st_mode) == 0o600
    text = log_file.read_text()
    assert "careless" in text and "Traceback" in text and "patient" not in text


def test_what_a_thread_does_not_catch_is_logged(log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    logs.start(log_file)

    def fall() -> None:
        raise LookupError("gone")

    thread = threading.Thread(target=fall, name="faller")
    thread.start()
    thread.join()
    assert "faller" in log_file.read_text() and "in fall" in log_file.read_text()


def test_several_processes_rotate_one_file_and_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "shared.log"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(file), name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    files = [each for each in tmp_path.iterdir() if not each.name.endswith(".lock")]
    lines = [line for each in files for line in each.read_text().splitlines()]
    assert len(files) > 1 and all(each.stat().st_size <= 20_200 for each in files)
    said = sorted(line.split("embedtui: ")[1] for line in lines)
    assert said == sorted(f"{name} {number}" for name in "abc" for number in range(500))


def test_a_file_that_cannot_be_written_is_refused_only_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        logs.start(tmp_path / "file" / "embedtui.log")
    monkeypatch.setattr(logs, "default_file", lambda: tmp_path / "file" / "embedtui.log")
    logs.start()
    assert logs.current_file() is None


def test_a_disk_that_is_full_stops_nothing(
    log_file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (handler,) = [each for each in logging.getLogger().handlers if isinstance(each, logs._SharedFile)]
    monkeypatch.setattr(handler, "baseFilename", "/dev/full")
    logging.getLogger("embedtui").error("not written")
    monkeypatch.undo()
    logging.getLogger("embedtui").error("written")
    assert "written" in log_file.read_text()
    assert capfd.readouterr().err == ""


def test_the_traceback_of_a_library_is_redacted_too(log_file: Path) -> None:
    try:
        raise RuntimeError(f'got "{DOCUMENT}" from postgresql://u:hunter2-prod@h/d')
    except RuntimeError:
        logging.getLogger("asyncio").exception("task failed with sk-abcdefgh12345")
    holds_traceback(log_file.read_text(), "test_the_traceback_of_a_library")
    assert "sk-abcdefgh" not in log_file.read_text()
    assert os.fspath(log_file)
