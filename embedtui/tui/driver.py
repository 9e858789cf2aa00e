"""Reads the terminal's input whatever bytes it sends: one that no text has must not end the dashboard."""

from __future__ import annotations

import codecs
import io
import os
import selectors
import time
from typing import IO, Any

from textual._xterm_parser import BRACKETED_PASTE_END, BRACKETED_PASTE_START, XTermParser
from textual.drivers.linux_driver import LinuxDriver

from embedtui.tui import terminal

LOOK_SECONDS = 0.1
"""Between looks whether to end; also how long an escape key is held for the rest of its sequence, as in Textual."""
PASTE_SECONDS = 3.0
"""A paste that was begun and is silent for so long has lost its end; the keys that follow are keys again."""
READ_BYTES = 4096


class TerminalDriver(LinuxDriver):
    """Textual's driver, for terminals that send what they should not.

    Its own decodes strictly, takes an odd sequence for the program's end and a lost one for a paste without end.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # frames and signs as every terminal of today reads them, also where the locale over SSH is C
        if isinstance(self._file, io.TextIOWrapper):
            self._file.reconfigure(encoding="utf-8", errors="replace")
            self._file = _Lasting(self._file)  # type: ignore[assignment]

    def run_input_thread(self) -> None:
        """Read and dispatch until the driver is stopped."""
        parser = XTermParser(self._debug)
        # a Latin-1 paste, or a lone byte of a broken line
        decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        tail, heard = "", time.monotonic()
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                text = ""
                if selector.select(LOOK_SECONDS):
                    typed = _read(self.fileno)
                    text, heard = decode(typed), time.monotonic()
                    if not typed:  # nobody there any more: the dashboard notices, and leaving waits for this thread
                        return
                elif _pasting(tail) and time.monotonic() - heard > PASTE_SECONDS:
                    text = BRACKETED_PASTE_END
                tail = _remember(tail + text)
                try:
                    if text:
                        for event in parser.feed(text):
                            self.process_message(event)
                    for event in parser.tick():
                        self.process_message(event)
                except Exception:  # noqa: BLE001 - a sequence that the parser takes for something it is not: dropped
                    parser = XTermParser(self._debug)


def _read(file: int) -> bytes:
    try:
        return os.read(file, READ_BYTES)
    except OSError:  # it was closed
        return b""


class _Lasting:
    """The terminal's file, which can be written to after the terminal went away, too: Textual's thread dies of it."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Write ``text``, or nothing."""
        try:
            self._file.write(text)
        except OSError:
            terminal.let_go()

    def flush(self) -> None:
        """Have it written."""
        try:
            self._file.flush()
        except OSError:
            terminal.let_go()

    def fileno(self) -> int:
        """The file's number."""
        return self._file.fileno()


def _pasting(text: str) -> bool:
    return text.rfind(BRACKETED_PASTE_START) > text.rfind(BRACKETED_PASTE_END)


def _remember(text: str) -> str:
    """As much of what was read as tells whether a paste is open."""
    start = text.rfind(BRACKETED_PASTE_START)
    if start > text.rfind(BRACKETED_PASTE_END):
        # its end may come in two pieces
        return BRACKETED_PASTE_START + text[start + len(BRACKETED_PASTE_START) :][-len(BRACKETED_PASTE_END) :]
    return text[-len(BRACKETED_PASTE_START) :]
