"""Actions of the journey up to the cutover: run, pause, reload, index, compare, verify."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from embedtui.formatting import counted
from embedtui.model import (
    Command,
    Comparison,
    Phase,
    QueryComparison,
    QueryInput,
    Remedy,
    Snapshot,
    VerifyReport,
)
from embedtui.tui.actions.base import Action
from embedtui.tui.dialogs import PrepareDialog, VerifyAnswer, VerifyDialog
from embedtui.tui.engine import Engine
from embedtui.tui.engine_threads import Call, Task
from embedtui.tui.messages import Compared, RowsVerified
from embedtui.tui.view import View

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard


class Run(Action):
    """Do the work that is due here: prepare, backfill, index, keep in sync. Asks before it alters the table."""

    name, key, label = "run", "r", "Run"
    command = Command.RUN
    remedies = (Remedy.RUN, Remedy.FOLLOW)

    def label_now(self, view: View) -> str:
        """After the backfill it keeps the sides in sync beside other work."""
        return "Work here" if view.phase in (Phase.VALIDATE, Phase.CUTOVER, Phase.SOAK) else self.label

    def _unmet(self, view: View, snapshot: Snapshot) -> str:
        if view.running:
            return "This terminal is at work already."
        return "" if view.begins else super()._unmet(view, snapshot)

    def _do(self, app: Dashboard) -> None:
        if app.view.begins:

            def go(task: Task[object]) -> None:
                app.bridge.run(task)
                app.call_later(app.goto, "overview")  # where it is seen to begin, and for whom it waits

            app.ask_after(lambda engine: engine.plan(), PrepareDialog, lambda _: self._task, go)
        else:
            self.begin(app)

    def begin(self, app: Dashboard) -> None:
        """Do it unasked."""
        app.bridge.run(self._task)

    @property
    def _task(self) -> Task[object]:
        ended = "The work of this terminal ended."
        return Task("run", lambda engine, call: engine.run(call.stop, follow=True, again=True), ended)


class Pause(Action):
    """Pause all workers; again to resume. Nothing paid for is lost."""

    name, key, label = "pause", "p", "Pause"
    command = Command.PAUSE
    remedies = (Remedy.RESUME,)
    mends_as = "Resume"

    def label_now(self, view: View) -> str:
        """A toggle."""
        return "Resume" if view.paused else self.label

    def _do(self, app: Dashboard) -> None:
        if app.view.paused:
            app.bridge.do(Task("resume", lambda engine, _: engine.resume(), "Resumed."))
        else:
            done = "Paused: workers finish the requests in flight."
            app.bridge.do(Task("pause", lambda engine, _: engine.pause("paused from the dashboard"), done))


class Reload(Action):
    """Have all workers read their settings again: endpoint, key, limits, prices, throttle, index options."""

    name, key, label = "reload", "R", "Reload"
    command = Command.RELOAD

    def _do(self, app: Dashboard) -> None:
        def done(asked: int) -> str:
            workers = counted(asked, "worker reads its", "workers read their")
            return f"{workers} settings again; the log says what differs." if asked else "No worker is at work."

        app.bridge.do(Task("reload", lambda engine, _: engine.reload(), done))


class Compare(Action):
    """Search every query on both sides and record an evaluation: the kept queries, else rows; L on 2 loads a file."""

    name, key, label = "compare", "c", "Compare"
    command = Command.COMPARE
    remedies = (Remedy.COMPARE,)

    def _do(self, app: Dashboard) -> None:
        self.start(app)

    def start(self, app: Dashboard, given: str | None = None, beside: Sequence[QueryComparison] = ()) -> None:
        """Compare over the kept queries, or those that ``given`` names: a file, a statement, or a query a line.

        ``beside``: queries that were compared before, to be compared with these.
        """
        # first: what comes with the given ones replaces what is stored
        known = [QueryInput(query.text, row=query.row) for query in beside]

        def compare(engine: Engine, call: Call) -> Comparison:
            queries = None if given is None else [*known, *engine.queries_of(given)]
            return engine.compare(queries, progress=call.progress, stop=call.stop)

        def done(comparison: Comparison) -> str:
            why = "" if comparison.verdict == "PASS" else " Screen 3 says why."
            if all(query.row is not None for query in comparison.queries):
                why += " They are rows of the table: L on screen 2 takes queries of a file."
            count = counted(len(comparison.queries), "query", "queries")
            return f"Compared {count}: {comparison.verdict or 'no verdict'}.{why}"

        app.bridge.do(Task("compare", compare, done, result=Compared))
        app.goto("compare")


class BuildIndex(Action):
    """Build the new side's index now, without blocking reads or writes."""

    name, key, label = "index", "i", "Build index"
    command = Command.INDEX

    def _do(self, app: Dashboard) -> None:
        app.bridge.do(Task("index", lambda engine, call: engine.build_index(call.stop), "The index is built."))


class HoldIndex(Action):
    """Keep the workers from building the index, or cancel the build; again lets them."""

    name, key, label = "hold", "I", "Hold index"
    command = Command.HOLD_INDEX

    def label_now(self, view: View) -> str:
        """A toggle."""
        return "Release index" if view.index_held else self.label

    def _do(self, app: Dashboard) -> None:
        held = not app.view.index_held
        done = "The index is held back: workers wait before it." if held else "The workers may build the index."
        app.bridge.do(Task("hold", lambda engine, _: engine.hold_index(held), done))


class Verify(Action):
    """Scan every row: missing, stale, wrong model, faulty."""

    name, key, label = "verify", "v", "Verify"
    command = Command.VERIFY
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
