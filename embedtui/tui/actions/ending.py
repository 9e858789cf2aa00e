"""Actions that end a migration: clean up and abort. Both ask for the table's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedtui.model import Blocker, Command, Remedy
from embedtui.tui.actions.base import Action
from embedtui.tui.bridge import Task
from embedtui.tui.dialogs import NamedAnswer, NameDialog
from embedtui.tui.engine import Engine

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard


class Cleanup(Action):
    """Drop the old side and finish. Asks for the table's name."""

    name, key, label = "cleanup", "K", "Clean up"
    command = Command.CLEANUP
    remedies = (Remedy.CLEANUP,)

    def _do(self, app: Dashboard) -> None:
        def look(engine: Engine) -> tuple[tuple[str, ...], tuple[Blocker, ...], tuple[str, ...]]:
            return engine.cleanup_sql(), engine.blockers("cleanup", thorough=True), engine.cleanup_sql(rename=False)

        def dialog(found: tuple[tuple[str, ...], tuple[Blocker, ...], tuple[str, ...]]) -> NameDialog:
            statements, blockers, keeping = found
            text = "Drops the old side for good: after this there is no rollback. Log and registry stay."
            return NameDialog(self.label, text, app.view.table, statements, blockers, keeping=keeping)

        def task(answer: NamedAnswer) -> Task[None]:
            return Task(
                "cleanup",
                lambda engine, call: engine.cleanup(
                    answer.name,
                    rename=answer.rename,
                    override=answer.override,
                    archive=answer.archive or None,
                    stop=call.stop,
                ),
                "Cleaned up: the old side is gone.",
            )

        app.ask_after(look, dialog, task)


class Abort(Action):
    """Give the migration up and drop the new side. Asks for the table's name."""

    name, key, label = "abort", "A", "Abort"
    command = Command.ABORT
    remedies = (Remedy.ABORT,)

    def _do(self, app: Dashboard) -> None:
        text = "The new side, its vectors and the triggers are dropped. The old side serves as before."
        done = "Aborted: the old side serves as before."
        app.ask_after(
            lambda engine: engine.blockers("abort"),
            lambda blockers: NameDialog(self.label, text, app.view.table, (), blockers),
            lambda answer: Task("abort", lambda engine, _: engine.abort(answer.name), done),
        )
