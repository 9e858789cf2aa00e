"""Actions that set the pace of all workers while they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from embedtui.model import Command
from embedtui.model.snapshot import PACE
from embedtui.tui import safe
from embedtui.tui.actions.base import Action
from embedtui.tui.dialogs import LimitsDialog
from embedtui.tui.engine_threads import Task

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard


class Faster(Action):
    """One more request in flight."""

    name, key, written, label = "faster", "plus", "+", "Faster"
    command = Command.CONCURRENCY
    group = "Pace"
    step: ClassVar[int] = 1

    def _do(self, app: Dashboard) -> None:
        holds = app.snapshot.reasons if app.snapshot else ()
        paced = next((safe.line(hold.detail) for hold in holds if hold.name == PACE), "") if self.step > 0 else ""
        useless = f" More do not help while it {paced[:1].lower()}{paced[1:]}" if paced else ""

        def done(moved: tuple[int, int]) -> str:
            before, now = moved
            if before == now:
                return f"Requests in flight: at most {now}, at the {'most' if self.step > 0 else 'least'} already."
            return f"Requests in flight: at most {now}.{useless}"

        app.bridge.do_in_turn(Task("pace", lambda engine, _: engine.change_concurrency(self.step), done))


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
