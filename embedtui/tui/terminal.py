"""The terminal itself: leaving by signal, one that goes away, calling for who is not looking."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

HANGUP_SECONDS = 2.0
"""Between looks whether the terminal is still there."""
LEAVE_SECONDS = 5.0
"""What leaving may take once the terminal is gone."""
_SIGNALS = ("SIGTERM", "SIGHUP")
_log = logging.getLogger(__name__)
_once = threading.Lock()


def on_signals(asked: Callable[[], None], hung_up: Callable[[], None]) -> None:
    """Have the running event loop call ``asked`` on SIGTERM, and ``hung_up`` on SIGHUP: the terminal was closed."""
    loop = asyncio.get_running_loop()
    for name, leave in zip(_SIGNALS, (asked, hung_up), strict=True):
        number = getattr(signal, name, None)
        if number is not None:
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, leave)


def closed() -> Callable[[], bool] | None:
    """Tells whether the terminal is gone; None where that cannot be seen.

    Where nobody sends SIGHUP (a container, a session of its own), only the input tells.
    """
    if sys.__stdin__ is None or not hasattr(select, "poll"):
        return None
    terminal = select.poll()
    terminal.register(sys.__stdin__.fileno(), 0)
    return lambda: bool(terminal.poll(0))


def let_go() -> None:
    """Have what is still written to a terminal that is gone go nowhere: every write would fail, to the last word."""
    if not hasattr(select, "poll"):
        return
    gone = select.poll()
    for file in (1, 2):
        gone.register(file, 0)
    with _once:  # the thread that writes finds it, too
        lost = gone.poll(0)
        if not lost:
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for file, _ in lost:
            os.dup2(nowhere, file)
        os.close(nowhere)
    _log.info("the terminal is gone: left it")


def leave_soon() -> None:
    """Write to the terminal no more, for it is gone, and end the process soon, whatever leaving waits for."""
    let_go()
    signal.signal(signal.SIGALRM, _end)
    signal.setitimer(signal.ITIMER_REAL, LEAVE_SECONDS)


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGHUP)


@contextlib.contextmanager
def signals_restored() -> Iterator[None]:
    """The event loop leaves the signals it took at their defaults; the caller gets its own handlers back."""
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    kept = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # see leave_soon
        for number, handler in kept.items():
            if handler is not None:
                signal.signal(number, handler)


_BY_777 = ("rxvt", "foot", "ghostty", "contour")
"""Terminals whose notifications are urxvt's (OSC 777); the others that know any take iTerm2's (OSC 9)."""


def notification(title: str, text: str) -> str:
    """What has this terminal show a desktop notification; empty where it would print it.

    A terminal that knows none drops the sequence. Two sequences would be two notifications where both are known.
    """
    term = os.environ.get("TERM", "")
    if term in ("", "dumb", "linux"):
        return ""
    told = (term + os.environ.get("TERM_PROGRAM", "")).lower()
    if any(name in told for name in _BY_777):
        return f"\x1b]777;notify;{title.replace(';', ',')};{text.replace(';', ',')}\x1b\\"
    return f"\x1b]9;{title}: {text}\x07"
