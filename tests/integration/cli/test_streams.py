"""Closed streams, readers that went away, full disks, a locale of ASCII: clear words, the right code, no traceback."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len

from embedtui.cli.output import broken
from embedtui.demo.api import LoopbackServer, hash_model
from tests.kits.cli_kit import DOCUMENTS, execute, rows

CODE = "from embedtui.cli import main; main()"
ROOT = str(Path(__file__).parents[3])


class Place:
    """A database and settings, and the shell's own ways to start a command."""

    def __init__(self, dsn: str, api: LoopbackServer, folder: Path) -> None:
        self.dsn, self.folder = dsn, folder
        self.environ = {
            **{name: value for name, value in os.environ.items() if name not in ("LC_ALL", "PYTHONIOENCODING")},
            "DATABASE_URL": dsn, "OPENAI_BASE_URL": api.base_url, "OPENAI_API_KEY": api.key, "EMBED_MODEL": "m",
            "EMBED_DIMENSIONS": "8", "PYTHONPATH": ROOT, "XDG_CONFIG_HOME": str(folder), "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        (folder / "embedtui").write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{CODE}" "$@"\n')
        (folder / "embedtui").chmod(0o755)

    def __call__(self, line: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
        """``line`` in a shell; its code is that of the command, whatever reads from it."""
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            cwd=self.folder,
            env={**self.environ, **environ, "PATH": f"{self.folder}:{os.environ['PATH']}"},
            capture_output=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def place(database: str, tmp_path: Path) -> Place:
    execute(database, DOCUMENTS)
    with LoopbackServer({"m": hash_model(8)}) as api:
        yield Place(database, api, tmp_path)  # type: ignore[misc]


def quiet(done: subprocess.CompletedProcess[bytes]) -> bool:
    said = done.stdout + done.stderr
    return not any(each in said for each in (b"Traceback", b"Error:", b"Exception ignored", b"BrokenPipe"))


WAYS = [
    ">&-",
    "2>&-",
    ">&- 2>&-",
    "<&-",
    "<&- >&- 2>&-",
    "| true",
    "2>&1 | true",
    "2>&1 >/dev/null | true",
    "| head -1",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("command", ["plan --table documents", "version --json"])
@pytest.mark.variants(9)
def test_a_result_that_nobody_wants_is_no_failure(place: Place, command: str, way: str) -> None:
    done = place(f"embedtui {command} {way}")
    assert quiet(done), done
    assert done.returncode == 0, done


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.variants(5)
def test_a_failure_keeps_its_code(place: Place, way: str) -> None:
    done = place(f"embedtui plan --table nosuch {way}")
    assert quiet(done), done
    assert done.returncode == 2, done


@pytest.mark.parametrize("way", [">&-", "2>&-", "<&- >&- 2>&-", "2>&1 | true", "| true"])
@pytest.mark.variants(3)
def test_work_is_done_whoever_listens(place: Place, way: str) -> None:
    """A closed stream's number must not become a connection's, and a progress line nobody reads must not end it."""
    done = place(f"embedtui run --table documents {way}")
    assert quiet(done), done
    assert done.returncode == 0, done
    assert rows(place.dsn, "SELECT count(embedding_v2) FROM documents") == [(60,)]


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
@pytest.mark.variants(2)
def test_a_status_that_is_watched_stays_within_its_terminal(place: Place, columns: int) -> None:
    """Each picture takes the place of the one before: from the first line on, none wider or higher than the window."""
    assert place("embedtui run --table documents && embedtui compare").returncode in (0, 5)
    plain = place("embedtui status").stdout.decode()
    assert max(map(len, plain.splitlines())) > 100
    environ = {**place.environ, "TERM": "xterm"}
    for name in ("COLUMNS", "LINES"):  # another test's screen may have set them
        environ.pop(name, None)
    for high in (40, 12):
        master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (high, columns))
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, "status", "--watch", "--every", "0.2"],
            cwd=place.folder, env=environ, stdin=slave, stdout=slave, stderr=slave,
        )  # fmt: skip
        written = b""
        try:
            while written.count(b"\x1b[J") < 3:
                written += os.read(master, 65536)
        finally:
            process.send_signal(signal.SIGINT)
            while process.poll() is None:
                select.select([master], [], [], 0.1)[0] and os.read(master, 65536)
            os.close(slave)
            os.close(master)
        assert process.returncode == 0
        _, second, third, *_ = written.decode().split("\x1b[H")
        assert written.startswith(b"\x1b[2J\x1b[H") and written.count(b"\x1b[2J") == 1
        for picture in (second, third.partition("\x1b[J")[0]):
            lines = [each.removesuffix("\x1b[K") for each in picture.replace("\x1b[J", "").splitlines()]
            assert len(lines) < high and max(map(len, lines)) < columns
            if high == 40:
                assert " ".join(lines).split() == plain.split()
            else:
                assert re.fullmatch(r"… \d+ more lines", lines[-1])


@pytest.mark.parametrize("width", range(60, 201, 7))
def test_what_is_broken_keeps_its_words(width: int) -> None:
    text = "Evaluation 日本語の検索 refused: " + "the new side finds 0.412 of it,  " * 9 + "x" * 300 + " end"
    rows = broken(text, width)
    assert all(cell_len(row) <= width for row in rows)
    assert "".join("".join(rows).split()) == "".join(text.split())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_result_that_cannot_be_written_is_a_failure(place: Place) -> None:
    for command in ("version --json", "plan --table documents"):
        done = place(f"embedtui {command} >/dev/full")
        assert quiet(done), done
        assert done.returncode == 1 and b"No space left" in done.stderr, done


ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    "environ", [ASCII, ASCII | {"PYTHONIOENCODING": "ascii:strict"}, ASCII | {"PYTHONIOENCODING": "latin-1"}], ids=str
)
@pytest.mark.variants(1)
def test_an_ascii_locale_gets_plainer_words(place: Place, environ: dict[str, str]) -> None:
    execute(place.dsn, 'CREATE TABLE "Café · Ω" AS TABLE documents; ALTER TABLE "Café · Ω" ADD PRIMARY KEY (id)')
    (place.folder / "embedtui.toml").write_text('table = "Café · Ω"\n', encoding="utf-8")
    for command in ("plan", "run", "status", "log", "verify"):
        done = place(f"embedtui {command}", **environ)
        assert quiet(done), done
        assert done.returncode == 0, done
        if environ["PYTHONIOENCODING"] == "latin-1":  # under ASCII click writes UTF-8 by itself
            assert b"\xc2\xb7" not in done.stdout + done.stderr


@pytest.mark.parametrize("argument", ["caf\\xe9", "\\xff", "a\\xc3"])
def test_an_argument_that_is_no_text_is_said(place: Place, argument: str) -> None:
    done = place(f"embedtui plan --table $'{argument}'")
    assert quiet(done), done
    assert done.returncode == 2 and b"not valid UTF-8" in done.stderr


def test_a_variable_that_is_no_text_is_said(place: Place) -> None:
    done = place("DATABASE_URL=$'postgresql://u:p\\xe9w@h/db' embedtui plan --table documents")
    assert quiet(done), done
    assert done.returncode == 3 and b"not a connection string" in done.stderr
    done = place("OPENAI_API_KEY=$'sk-caf\\xe9' embedtui run --table documents")
    assert quiet(done), done
    assert done.returncode == 4 and b"OPENAI_API_KEY" in done.stderr


@pytest.mark.parametrize("way", ["", ">&-", "2>&-", "<&-", "2>/dev/null", "| cat"])
def test_the_dashboard_without_a_terminal_says_so(place: Place, way: str) -> None:
    done = place(f"embedtui {way}")
    assert quiet(done), done
    assert done.returncode == 2, done
    assert b"needs a terminal" in done.stderr or "2>" in way
