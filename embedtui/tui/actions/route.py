"""Actions that move the pointer: cut over, cancel a postponed cutover, roll back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedtui.model import Command, Flip, Remedy, Side
from embedtui.tui.actions.base import Action
from embedtui.tui.dialogs import CutoverAnswer, CutoverDialog
from embedtui.tui.engine_threads import Task
from embedtui.tui.messages import Blocked, PointerMoved

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard


class Cutover(Action):
    """Move reads to the new side: all, or a share of them."""

    name, key, label = "cutover", "x", "Cut over"
    command = Command.CUTOVER

    def __init__(self, percent: int = 100, given: CutoverAnswer | None = None) -> None:
        """Propose to move the reads of ``percent`` of the keys; ``given`` was answered already, and was not enough."""
        self._percent, self._given = percent, given

    def _do(self, app: Dashboard) -> None:
        percent, route = self._percent, app.view.route

        def task(answer: CutoverAnswer) -> Task[Any]:
            share, override = answer.percent, answer.override
            blocked = Blocked(Cutover(share, answer).perform)
            if answer.postponed:
                done = "Postponed: it cuts over by itself once nothing waits for the sync."
                return Task(
                    "postpone",
                    lambda engine, _: engine.postpone(share, override=override, seen=route.epoch),
                    done,
                    blocked=blocked,
                )
            return Task(
                "cutover",
                lambda engine, _: engine.cutover(share, override=override, seen=route.epoch),
                _moved,
                result=PointerMoved,
                blocked=blocked,
            )

        app.goto("cutover")
        app.ask_after(
            lambda engine: engine.blockers("cutover", percent),
            lambda blockers: CutoverDialog(app.view, percent, blockers, self._given),
            task,
            *self.unless_moved(app, route),
        )


def _moved(flip: Flip) -> str:
    if not flip.changed:
        return "The pointer is there already: nothing changed."
    share = "all reads" if flip.active is Side.NEW else f"the reads of {flip.canary} % of the keys"
    return f"The new side serves {share} ({_took(flip)})."


def _took(flip: Flip) -> str:
    return f"in {flip.milliseconds:,.0f} ms, epoch {flip.epoch}"


class CancelCutover(Action):
    """Cancel a postponed cutover before it is due."""

    name, key, label = "cancel", "Z", "Call off"
    command = Command.CANCEL_CUTOVER

    def _do(self, app: Dashboard) -> None:
        def done(cancelled: bool) -> str:
            return "The postponed cutover is cancelled." if cancelled else "No cutover was postponed."

        app.bridge.do(Task("cancel", lambda engine, _: engine.cancel_postponed(), done))


class Rollback(Action):
    """Move all reads back to the old side, at once and unasked."""

    name, key, written, label = "rollback", "f9", "F9", "Roll back"
    command = Command.ROLLBACK
    remedies = (Remedy.ROLLBACK,)
    offline = True

    def _do(self, app: Dashboard) -> None:
        def done(flip: Flip) -> str:
            if not flip.changed:
                return "The old side serves already: nothing to roll back."
            snapshot = app.view.snapshot
            found = snapshot.rollback.sentence if snapshot is not None else ""
            lands = snapshot.lands.partition(", ")[0] if snapshot is not None else ""  # how good was said before
            over = f" {lands}. The" if lands else ": the"
            return f"Rolled back{over} old side serves all reads ({_took(flip)}). {found}".rstrip()

        app.bridge.do_urgently(Task("rollback", lambda engine, _: engine.rollback(), done, result=PointerMoved))
