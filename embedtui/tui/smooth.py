"""Keeps the interpreter itself from making the screen stutter: long turns of threads, full garbage collections."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from collections.abc import Iterator

TURN_SECONDS = 0.0005
"""How long a thread of the engine may keep the event loop waiting for the interpreter (Python's default is 5 ms). A key
takes several turns beside busy threads, and waits this long for each."""
LOADED_SECONDS = 10.0
"""By then the engine, too, has loaded the modules it needs."""

YOUNG_PASSES = 100
"""Passes over what is young before a full one that nobody asks for: only where keys never rest (Python's: 10)."""
REST_PASSES = 30
"""As many, and a full one is worth its 0.1 s while nobody types."""

_on = threading.Event()


@contextlib.contextmanager
def responsive() -> Iterator[None]:
    """Set the interpreter up for a screen beside busy threads.

    Turns are short, and the garbage collector no longer looks at what is loaded: its full passes, which the replies'
    many objects bring about, stop every thread for 0.1 s otherwise. It never looks at it again, so leaving is quick.
    Full passes over the rest wait until nobody types, see :func:`at_rest`.
    """
    before, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(TURN_SECONDS)
    gc.set_threshold(*thresholds[:2], YOUNG_PASSES)
    gc.freeze()
    again = threading.Timer(LOADED_SECONDS, gc.freeze)
    again.daemon = True
    again.start()
    _on.set()
    try:
        yield
    finally:
        _on.clear()
        again.cancel()
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(before)


def at_rest() -> None:
    """Nobody types: a full pass of the collector keeps no key waiting now."""
    if _on.is_set() and gc.get_count()[2] >= REST_PASSES:
        gc.collect()


def loaded() -> None:
    """Something large came that stays, and that holds no cycles: the collector need not walk it at every pass.

    A comparison of 120 queries made one key in twenty wait five times as long as the others. What is garbage by then is
    collected first, for what is frozen never is.
    """
    if _on.is_set():
        gc.collect()
        gc.freeze()
