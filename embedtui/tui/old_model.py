"""When the screen asks the old model a word: every now and then, while it is the one that searches need."""

from __future__ import annotations

import time

from embedtui.model import Phase, Side
from embedtui.tui.engine_threads import Task
from embedtui.tui.view import View

ASK_SECONDS = 15.0
"""Between two words: a request of a token or two."""
ASKING = Task("old model", lambda engine, _: engine.ask_old_model())
_ON_OLD = (Phase.PREPARE, Phase.BACKFILL, Phase.INDEX)


class OldModelWatch:
    """Of one terminal; one that only watches asks nothing."""

    def __init__(self) -> None:
        """The first word is due in a while."""
        self._asked_at = time.monotonic()

    def due(self, view: View) -> bool:
        """Whether it is to be asked now; then the next word is due later."""
        snapshot = view.snapshot
        if snapshot is None or view.readonly or ASKING.name in view.busy:
            return False
        route = snapshot.route
        needed = (snapshot.phase in _ON_OLD or snapshot.old_gone) and route.active is Side.OLD and not route.bridging
        due = bool(needed) and time.monotonic() - self._asked_at >= ASK_SECONDS
        if due:
            self._asked_at = time.monotonic()
        return due
