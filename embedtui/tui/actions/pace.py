"""Actions that set the pace of all workers while they run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from embedtui.model import Command
from embedtui.tui.actions.base import Action
from embedtui.tui.dialogs import LimitsDialog
from embedtui.tui.engine_threads import Task

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard


FOLLOWED_SECONDS = 3.0
"""The next press goes on from what the last one asked for: the figure shown follows that after a second or two."""


class Faster(Action):
    """One more request in flight."""

    name, key, written, label = "faster", "plus", "+", "Faster"
    command = Command.CONCURRENCY
    group = "Pace"
    step: ClassVar[int] = 1

    def _do(self, app: Dashboard) -> None:
        shown = app.snapshot.backfill.concurrency if app.snapshot else None
        if shown is not None:
            asked, at = app.bridge.pace_asked
            wanted = max(1, (asked if time.monotonic() - at < FOLLOWED_SECONDS else shown) + self.step)
            app.bridge.pace_asked = wanted, time.monotonic()
            done = f"Requests in flight: at most {wanted}."
            app.bridge.do_in_turn(Task("pace", lambda engine, _: engine.set_pace(max_concurrency=wanted), done))


class Slower(Faster):
    """One request in flight fewer."""

    name, key, written, label = "slower", "minus", "-", "Slower"
    step = -1


class Limits(Action):
    """Set requests and tokens per minute, concurrency and spend cap."""

    name, key, label = "limits", "l", "Limits"
    command = Command.PACE
    group = "Pace"

    def _do(self, app: Dashboard) -> None:
        def task(limits: dict[str, float]) -> Task[object]:
            return Task("limits", lambda engine, _: engine.set_pace(**limits), "Limits set.")  # type: ignore[arg-type]

        app.ask(LimitsDialog(app.view), task)
