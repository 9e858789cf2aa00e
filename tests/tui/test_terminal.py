"""The program in a pseudo terminal: it leaves at once, by key and by signal, and gives the terminal back."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from textual._compositor import LayoutUpdate

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.model import Phase
from embedtui.tui.actions import ACTIONS
from embedtui.tui.messages import SnapshotTaken
from tests.kits.support import NEW, make_documents
from tests.tui import states
from tests.tui.conftest import Open, painting, until

PROGRAM = """
import sys
from embedtui.tui import run_dashboard
from tests.tui import states
from tests.tui.standin import StandIn
engine = StandIn(states.RUNNING)
code = run_dashboard(lambda sink: engine, autostart=True)
sys.stderr.write("closed\\n" if "close" in engine.calls else "left open\\n")
sys.exit(code)
"""
AT_WORK = """
import sys
from embedtui.config import load_settings
from embedtui.engine import SubprocessEngine
from embedtui.tui import run_dashboard
from embedtui.tui.actions import ACTIONS
ACTIONS["theme"].perform = lambda app: 1 / 0
settings = load_settings({"table": "documents", "old_model.name": "old-model", "new_model.max_inputs": 10})
sys.exit(run_dashboard(
    lambda sink: SubprocessEngine(settings.dsn, settings=settings, on_event=sink, outlives=True), autostart=True
))
"""
ROWS = 1500
PATIENCE = 60.0
LEAVES_ALTERNATE_SCREEN = b"\x1b[?1049l"


class Terminal:
    """The program, and what it wrote."""

    def __init__(self, folder: Path, controlling: bool = True, program: str = PROGRAM, **environ: str) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        self.before = termios.tcgetattr(slave)
        root = str(Path(__file__).parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            cwd=root,
            preexec_fn=_controls_its_terminal if controlling else None,
            env={
                "PATH": os.environ["PATH"], "HOME": str(folder), "XDG_STATE_HOME": str(folder), "PYTHONPATH": root,
                "TERM": "xterm-256color", "LANG": "C.UTF-8", **environ,
            },
        )  # fmt: skip
        self.slave = slave
        self.output = b""

    def wait_for(self, text: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in self.output:
            assert time.monotonic() < deadline, self.output[-2000:]
            self._read(0.1)

    def _read(self, seconds: float) -> None:
        if select.select([self.master], [], [], seconds)[0]:
            try:
                self.output += os.read(self.master, 65536)
            except OSError:
                time.sleep(seconds)

    def ended(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it hangs"
            if self.master >= 0:
                self._read(0.05)
            else:
                time.sleep(0.05)
        if self.master >= 0:
            self._read(0.2)
        return self.process.returncode

    def hang_up(self) -> None:
        os.close(self.slave)
        os.close(self.master)
        self.master = self.slave = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for descriptor in (self.slave, self.master):
            if descriptor >= 0:
                os.close(descriptor)


def _controls_its_terminal() -> None:
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    running = Terminal(tmp_path)
    yield running
    running.close()


@pytest.mark.parametrize("how", ["q", "ctrl+q", "SIGTERM"])
def test_it_leaves_and_gives_the_terminal_back(terminal: Terminal, how: str) -> None:
    terminal.wait_for(b"documents")
    if how == "SIGTERM":
        terminal.process.send_signal(signal.SIGTERM)
    else:
        os.write(terminal.master, b"q" if how == "q" else b"\x11")
    assert terminal.ended() == 0
    assert LEAVES_ALTERNATE_SCREEN in terminal.output
    assert termios.tcgetattr(terminal.slave) == terminal.before
    after = terminal.output.split(LEAVES_ALTERNATE_SCREEN)[-1]
    assert b"327,520 of 520,000 rows done" in after, "it says what became of the work"
    assert b"closed" in after
    assert b"Traceback" not in terminal.output


@pytest.mark.parametrize("controlling", [True, False])
def test_a_closed_terminal_ends_it(tmp_path: Path, controlling: bool) -> None:
    """Where it is not the controlling one, as in a container, nobody sends SIGHUP."""
    log = tmp_path / "embedtui.log"
    terminal = Terminal(tmp_path, controlling, f"from embedtui import logs\nlogs.start({str(log)!r})\n{PROGRAM}")
    try:
        terminal.wait_for(b"documents")
        terminal.hang_up()
        assert terminal.ended() == 0
    finally:
        terminal.close()
    (line,) = log.read_text().splitlines()
    assert line.endswith("the terminal is gone: left it")


@pytest.mark.parametrize(
    ("how", "goes_on"),
    [
        ("D", True),
        ("the terminal closes", True),
        ("it crashes", True),
        ("it is killed", True),
        ("q", False),
        ("SIGTERM", False),
    ],
)
@pytest.mark.variants(3)
def test_what_becomes_of_the_work(database: str, tmp_path: Path, how: str, goes_on: bool) -> None:
    """It ends only where that was wanted; and then everything that is paid for is stored."""
    make_documents(database, ROWS)
    with LoopbackServer(
        {NEW: hash_model(16)}, latency=0.5, log_texts=10_000
    ) as api:  # no proof: the old one is retired
        terminal = Terminal(
            tmp_path, program=AT_WORK, DATABASE_URL=database, OPENAI_API_KEY=api.key, OPENAI_BASE_URL=api.base_url,
            EMBED_MODEL=NEW, EMBED_DIMENSIONS="16", NO_PROXY="127.0.0.1",
        )  # fmt: skip
        engine = Engine(database)
        try:
            wait_until(lambda: api.inputs > 100 and bool(engine.snapshot().workers))
            (worker,) = engine.snapshot().workers
            assert worker.alive
            assert worker.pid != terminal.process.pid
            if how in ("D", "q"):
                os.write(terminal.master, how.encode())
            elif how == "the terminal closes":
                terminal.hang_up()
            elif how == "it crashes":
                os.write(terminal.master, b"t")
            elif how in ("SIGTERM", "it is killed"):
                terminal.process.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
            terminal.ended()
            api.latency = 0.01
            if goes_on:
                wait_until(lambda: engine.snapshot().phase is Phase.VALIDATE)
                assert [each.id for each in engine.snapshot().workers] == [worker.id]
                assert engine.stop_workers() == 1
            wait_until(lambda: not engine.snapshot().workers)
            with psycopg.connect(database) as conn:
                row = conn.execute("SELECT count(*) FROM documents WHERE embedding_v2 IS NOT NULL").fetchone()
            assert row is not None
            assert row[0] == sum(text.startswith("document ") for text in api.texts)
            assert (row[0] == ROWS) is goes_on
            if how == "D":
                assert b"The work goes on as process %d" % worker.pid in terminal.output
        finally:
            terminal.close()
            engine.close()


@pytest.mark.parametrize("first", ["q", "D"])
async def test_the_first_way_of_leaving_counts(shown: Open, first: str) -> None:
    """A window is often closed right after q; that must not leave the work running after all."""
    async with shown(states.RUNNING) as (app, pilot, engine):
        engine.outlives = True
        ACTIONS["run"].perform(app)
        await until(pilot, lambda: app.view.detachable)
        await pilot.press(first)
        app.detach()  # as the closed terminal does
        app.exit()
        assert app.detached is (first == "D")


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.02)


def test_a_closed_terminal_ends_it_also_where_the_writing_thread_died(tmp_path: Path) -> None:
    """Textual waits for it without end; seen once in a dozen closed windows."""
    dead = "import textual.drivers._writer_thread as w\nw.WriterThread.stop = lambda self: w.Queue().get()\n"
    terminal = Terminal(tmp_path, program=dead + PROGRAM)
    try:
        terminal.wait_for(b"documents")
        terminal.hang_up()
        terminal.ended()
    finally:
        terminal.close()


def test_copying_asks_the_terminal(terminal: Terminal) -> None:
    """By OSC 52, which also works through SSH; it is saved as a file in any case."""
    terminal.wait_for(b"documents")
    os.write(terminal.master, b"7")
    terminal.wait_for(b"ADD COLUMN")
    os.write(terminal.master, b"y")
    terminal.wait_for(b"\x1b]52;c;")
    terminal.wait_for(b"plan.sql")


def colours(output: bytes) -> set[bytes]:
    """Codes of the colours that were asked for; the terminal's own ones (39, 49) are none."""
    codes = {code for found in re.findall(rb"\x1b\[([0-9;]*)m", output) for code in found.split(b";") if code}
    return {code for code in codes if re.fullmatch(rb"3[0-8]|4[0-8]|9[0-7]|10[0-7]", code)}


@pytest.mark.parametrize(
    "environ",
    [{"NO_COLOR": "1"}, {"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "xterm"}, {"TERM": "linux"}],
    ids=str,
)
def test_poor_terminals_are_served(tmp_path: Path, environ: dict[str, str]) -> None:
    terminal = Terminal(tmp_path, True, PROGRAM, **environ)
    try:
        terminal.wait_for(b"documents")
        terminal.wait_for(b"old")
        os.write(terminal.master, b"q")
        assert terminal.ended() == 0
        if "NO_COLOR" in environ:
            assert not colours(terminal.output), "a grey of ours may be black on black there"
        else:
            assert colours(terminal.output)
            assert b"38;2;" not in terminal.output, "no true colour where there are 16"
    finally:
        terminal.close()


async def test_a_snapshot_that_changes_nothing_repaints_nothing(shown: Open) -> None:
    async with shown(states.READY, (160, 45)) as (app, pilot, _):
        painted = await painting(app, pilot)
        for _ in range(10):
            app.post_message(SnapshotTaken(states.READY))
            await pilot.pause(0.02)
        assert not painted
        app.post_message(SnapshotTaken(replace(states.READY, as_of=states.NOW + timedelta(seconds=1))))
        await until(pilot, lambda: painted)
        assert not any(isinstance(update, LayoutUpdate) for update in painted), "only the clock changed"
