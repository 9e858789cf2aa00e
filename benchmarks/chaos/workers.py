"""The worker processes: killed, and started again."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.common import WORKERS, Background


class Workers(Background):
    """Worker processes; what ends is started again."""

    def __init__(self, folder: Path, environ: dict[str, str], arguments: Sequence[str]) -> None:
        super().__init__("workers")
        self.exits: Counter[int] = Counter()
        self._folder, self._environ, self._arguments = folder, environ, list(arguments)
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * WORKERS
        self._lock = threading.Lock()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            with self._lock:
                for number, process in enumerate(self._processes):
                    if process is not None and process.poll() is not None:
                        self.exits[process.returncode] += 1
                        self._processes[number] = process = None
                    if process is None:
                        self._processes[number] = self._spawn(number)

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        with (self._folder / f"worker-{number}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", "from embedtui.cli import main; main()", "run", "--follow", *self._arguments],
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, number: int) -> bool:
        with self._lock:
            process = self._processes[number]
            if process is None or process.poll() is not None:
                return False
            process.kill()
            return True

    def stop(self) -> None:
        """Stop them; a repeat does nothing."""
        super().stop()
        for process in self._processes:
            if process is not None:
                process.terminate()
        for process in self._processes:
            if process is not None:
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    self.exits[-999] += 1  # did not stop
                    process.kill()
                    process.wait()
                self.exits[process.returncode] += 1
        self._processes = [None] * WORKERS

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-40:])
            for path in sorted(self._folder.glob("worker-*.log"))
        )
