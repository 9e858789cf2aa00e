"""Standard streams that are closed, whose reader has gone, or that know fewer letters than our texts."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

import click

_PLAIN = {
    "·": "-", "…": "...", "→": "->", "←": "<-", "×": "x", "≥": ">=", "≤": "<=", "–": "-", "—": "-", "•": "*", "✓": "+",
    "✗": "x", "“": '"', "”": '"', "‘": "'", "’": "'", "─": "-", "│": "|", "±": "+-",
}  # fmt: skip


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """Our own signs as a typewriter would have them; other letters as Python escapes them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wanted = error.object[error.start : error.end]
    text = "".join(_PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in wanted)
    return text, error.end


def prepare() -> None:
    """Make the streams such that writing to them is no matter of luck."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # else a connection would get this number, and whatever is printed would go to it
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error("embedtui.plainer", _plainer)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="embedtui.plainer")


def finish(code: int) -> int:
    """Write out what is buffered; the exit code, which is another where the result could not be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            if not reader_gone(error) and stream is sys.stdout and code == 0:
                code = 1
                with suppress(OSError, ValueError):
                    sys.stderr.write(f"embedtui: Output: {getattr(error, 'strerror', None) or error}.\n")
                    sys.stderr.flush()
            _to_nowhere(stream)
    return code


def reader_gone(error: BaseException) -> bool:
    """Whether nobody reads any more, as in `embedtui plan | head`: no failure."""
    return isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno == errno.EPIPE)


def _to_nowhere(stream: object) -> None:
    """What is still buffered must not trouble the interpreter as it ends."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[attr-defined]
        os.close(nowhere)


def write_example(formatter: click.HelpFormatter, line: str) -> None:
    """Write a command as it is typed: one that is wider than the help goes on after a backslash, before an option."""
    width, rest = formatter.width - 4, line
    lead = "  "
    while len(rest) > width and (place := rest.rfind(" --", 1, width)) > 0:
        formatter.write(f"{lead}{rest[:place]} \\\n")
        lead, rest = "    ", rest[place + 1 :]
    formatter.write(f"{lead}{rest}\n")
