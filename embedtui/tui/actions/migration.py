"""Actions of the journey up to the cutover: run, pause, index, compare, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedtui.model import Comparison, Condition, IndexMethod, Phase, Remedy, Snapshot, VerifyReport
from embedtui.tui import figures
from embedtui.tui.actions.base import Action, before, not_live
from embedtui.tui.bridge import Task
from embedtui.tui.dialogs import VerifyAnswer, VerifyDialog
from embedtui.tui.messages import Compared, RowsVerified
from embedtui.tui.view import View

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard


class Run(Action):
    """Do the work that is due here: prepare, backfill, index, keep in sync."""

    name, key, label = "run", "r", "Run"
    remedies = (Remedy.RUN, Remedy.FOLLOW)

    def label_now(self, view: View) -> str:
        """After the backfill it keeps the sides in sync beside other work."""
        return "Work here" if view.phase in (Phase.VALIDATE, Phase.CUTOVER, Phase.SOAK) else self.label

    def _unmet(self, view: View, snapshot: Snapshot) -> str:
        if view.running:
            return "This terminal is at work already."
        return f"This migration is {snapshot.phase}: nothing is left to do." if snapshot.phase.ended else ""

    def _do(self, app: Dashboard) -> None:
        ended = "The work of this terminal ended."
        app.bridge.run(Task("run", lambda engine, call: engine.run(call.stop, follow=True), ended))


class Pause(Action):
    """Pause all workers; again to resume. Nothing paid for is lost."""

    name, key, label = "pause", "p", "Pause"

    def label_now(self, view: View) -> str:
        """A toggle."""
        return "Resume" if view.paused else self.label

    def _unmet(self, view: View, snapshot: Snapshot) -> str:
        failed = snapshot.condition is Condition.FAILED and not view.paused
        nothing = "It has failed, there is nothing to pause: mend what it names, then run."
        return not_live(snapshot) or (nothing if failed else "")

    def _do(self, app: Dashboard) -> None:
        if app.view.paused:
            app.bridge.do(Task("resume", lambda engine, _: engine.resume(), "Resumed."))
        else:
            done = "Paused: workers finish the requests in flight."
            app.bridge.do(Task("pause", lambda engine, _: engine.pause("paused from the dashboard"), done))


class Compare(Action):
    """Search every query on both sides and record an evaluation."""

    name, key, label = "compare", "c", "Compare"
    remedies = (Remedy.COMPARE,)

    def _unmet(self, _view: View, snapshot: Snapshot) -> str:
        early = before(snapshot, Phase.BACKFILL)
        return not_live(snapshot) or ("Nothing to compare yet: no row has a new vector." if early else "")

    def _do(self, app: Dashboard) -> None:
        def done(comparison: Comparison) -> str:
            why = "" if comparison.verdict == "PASS" else " Screen 3 says why."
            count = figures.number(len(comparison.queries))
            return f"Compared {count} queries: {comparison.verdict or 'no verdict'}.{why}"

        app.goto("compare")
        app.bridge.do(
            Task(
                "compare",
                lambda engine, call: engine.compare(None, progress=call.progress, stop=call.stop),
                done,
                result=Compared,
            )
        )


class BuildIndex(Action):
    """Build the new side's index now, without blocking reads or writes."""

    name, key, label = "index", "i", "Build index"

    def _unmet(self, _view: View, snapshot: Snapshot) -> str:
        if reason := not_live(snapshot):
            return reason
        if snapshot.migration and snapshot.migration.index_method is IndexMethod.NONE:
            return "This migration is set to have no index: searches stay exact."
        if before(snapshot, Phase.INDEX):
            return (
                "The index is built once every row is embedded; before that it would slow the backfill many times over."
            )
        return "The index is there and valid." if snapshot.index.valid else ""

    def _do(self, app: Dashboard) -> None:
        app.bridge.do(Task("index", lambda engine, call: engine.build_index(call.stop), "The index is built."))


class HoldIndex(Action):
    """Keep the workers from building the index, or cancel the build; again lets them."""

    name, key, label = "hold", "I", "Hold index"

    def label_now(self, view: View) -> str:
        """A toggle."""
        return "Release index" if view.index_held else self.label

    def _unmet(self, _view: View, snapshot: Snapshot) -> str:
        if reason := not_live(snapshot):
            return reason
        if snapshot.migration and snapshot.migration.index_method is IndexMethod.NONE:
            return "This migration is set to have no index."
        return "" if before(snapshot, Phase.VALIDATE) else "The workers build no index any more."

    def _do(self, app: Dashboard) -> None:
        held = not app.view.index_held
        done = "The index is held back: workers wait before it." if held else "The workers may build the index."
        app.bridge.do(Task("hold", lambda engine, _: engine.hold_index(held), done))


class Verify(Action):
    """Scan every row: missing, stale, wrong model, faulty."""

    name, key, label = "verify", "v", "Verify"
    remedies = (Remedy.VERIFY, Remedy.SAMPLE, Remedy.REPAIR)

    def _do(self, app: Dashboard) -> None:
        def task(answer: VerifyAnswer) -> Task[VerifyReport]:
            return Task(
                "verify",
                lambda engine, call: engine.verify(sample=answer.sample, repair=answer.repair, stop=call.stop),
                started="Reading every row; the report opens when it is done.",
                result=RowsVerified,
            )

        app.ask(VerifyDialog(app.view), task)
