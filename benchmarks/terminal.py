"""A pseudo terminal with a program in it, for what is measured from key to screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of ``values`` does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Terminal:
    """A pseudo terminal of some size with the program in it."""

    def __init__(self, arguments: list[str], size: tuple[int, int]) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.process = subprocess.Popen(
            arguments, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        )  # fmt: skip
        os.close(slave)
        self.seen = b""

    def read(self, seconds: float) -> bytes:
        """What was written within ``seconds``, as soon as there is anything."""
        if not select.select([self.master], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self.master, 1 << 20)
        except OSError:
            return b""
        self.seen = (self.seen + data)[-200_000:]
        return data

    def wait(self, text: bytes, seconds: float = 120.0) -> None:
        """Reads until ``text`` was written."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{text!r} did not appear: {self.seen[-500:]!r}")
            self.read(0.05)

    def drain(self, seconds: float) -> None:
        """Reads on for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.read(left)

    def key(self, key: str, *shows: bytes) -> float:
        """Milliseconds from the key to the output that shows all it asks for."""
        self.drain(0.15)
        self.seen = b""
        began = time.perf_counter()
        os.write(self.master, key.encode())
        for text in shows:
            self.wait(text)
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        """Ends the program, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
