"""Actions that end a migration: clean up and abort. Both ask for the table's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedtui.model import Check, Command, PlacementKind, Remedy
from embedtui.tui.actions.base import Action
from embedtui.tui.dialogs import Either, NamedAnswer, NameDialog
from embedtui.tui.engine import Engine
from embedtui.tui.engine_threads import Call, Task
from embedtui.tui.remedies import FOLD, RENAME, worded

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard


_SCOPED = "Ends the migration; the old column stays, for what is outside the scope is searched by it"


class Cleanup(Action):
    """Drop the old side and finish. Asks for the table's name."""

    name, key, label = "cleanup", "K", "Clean up"
    command = Command.CLEANUP
    remedies = (Remedy.CLEANUP,)

    def _do(self, app: Dashboard) -> None:
        route = app.view.route

        def dialog(either: Either) -> NameDialog:
            migration = app.view.snapshot.migration if app.view.snapshot is not None else None
            scoped = migration is not None and migration.scope is not None
            text = (
                f"{_SCOPED if scoped else 'Drops the old side for good'}: after this there is no rollback, and a row"
                " written from then on gets no vector from here. Log and registry stay."
            )
            return NameDialog(self.label, text, app.view.table, either=either)

        def task(answer: NamedAnswer) -> Task[None]:
            def clean_up(engine: Engine, call: Call) -> None:
                name, ticked = answer.option or ("", None)
                engine.cleanup(
                    answer.name,
                    rename=ticked if name == "rename" else None,
                    fold=ticked if name == "fold" else None,
                    override=answer.override,
                    archive=answer.archive or None,
                    seen=route.epoch,
                    stop=call.stop,
                )

            return Task("cleanup", clean_up, "Cleaned up: the migration is done.")

        app.ask_after(_choice, dialog, task, *self.unless_moved(app, route))


def _choice(engine: Engine) -> Either:
    """What a cleanup of this migration lets one choose, with what either way does; blocks."""
    migration = engine.snapshot().migration
    if migration is not None and migration.placement is PlacementKind.TABLE:
        name, label = "fold", FOLD
        choices: dict[bool, dict[str, bool]] = {way: {"fold": way} for way in (True, False)}
    else:
        scoped = migration is not None and migration.scope is not None  # its old column keeps its name
        name, label = "rename", "" if scoped else RENAME
        choices = {way: {"rename": way} for way in (True, False)}
    ways = {way: (engine.cleanup_sql(**kept), engine.cleanup_notices(**kept)) for way, kept in choices.items()}
    usual, ticked = engine.cleanup_notices(), engine.cleanup_sql() == ways[True][0]
    # which rows are at stake depends on the choice: only a column that takes the old one's name is NOT NULL again
    offered = choices if label else {ticked: choices[ticked]}
    blockers = {way: engine.blockers("cleanup", thorough=True, **kept) for way, kept in offered.items()}
    said = {
        way: tuple(
            f"{each.detail} {worded(each.hint, each.remedies)}".rstrip() for each in (*_kept_back(usual), *notices)
        )
        for way, (_, notices) in ways.items()
    }
    return Either(name, label, ticked, {way: ways[way][0] for way in ways}, said, blockers)


def _kept_back(usual: tuple[Check, ...]) -> tuple[Check, ...]:
    """Why names are kept, where they are unless one asks for others."""
    return tuple(each for each in usual if each.name == "names")


class Abort(Action):
    """Give the migration up and drop the new side. Asks for the table's name."""

    name, key, label = "abort", "A", "Abort"
    command = Command.ABORT
    remedies = (Remedy.ABORT,)

    def _do(self, app: Dashboard) -> None:
        text = "The new side, its vectors and the triggers are dropped. The old side serves as before."
        done, route = "Aborted: the old side serves as before.", app.view.route
        app.ask_after(
            lambda engine: engine.blockers("abort"),
            lambda blockers: NameDialog(self.label, text, app.view.table, (), blockers),
            lambda answer: Task("abort", lambda engine, _: engine.abort(answer.name, seen=route.epoch), done),
            *self.unless_moved(app, route),
        )
