"""The action of an operator: one object with its key, its words, when it is refused, and what it does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from embedtui.model import Command, Remedy, RouteStatus, Snapshot
from embedtui.model.lifecycle import unneeded
from embedtui.tui import safe
from embedtui.tui.engine_threads import Task
from embedtui.tui.remedies import worded
from embedtui.tui.view import View

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard

READONLY = "Read-only: this terminal only watches."


class Action:
    """Something the operator can do, from the key, the palette, the footer or the mouse.

    The docstring of a subclass is its help text, as that of a command is for the command line.
    """

    name: ClassVar[str]
    key: ClassVar[str]
    """Textual's name of the key."""
    written: ClassVar[str] = ""
    """How the key is written, where its name is not that."""
    label: ClassVar[str]
    """One or two words for the footer."""
    group: ClassVar[str] = "Migration"
    """Its part of the help."""
    changes: ClassVar[bool] = True
    """Whether it changes anything; actions that do are off in read-only mode."""
    offline: ClassVar[bool] = False
    """Whether it is possible, too, while the database is out of reach."""

    watches: ClassVar[bool] = False
    """Whether it shows how far it is, where it is under way already."""

    command: ClassVar[Command | None] = None
    """What it asks of the migration: :mod:`embedtui.model.lifecycle` says what the state allows of that."""
    remedies: ClassVar[tuple[Remedy, ...]] = ()
    """What it mends, in the engine's words."""
    mends_as: ClassVar[str] = ""
    """What it is called then, where that is not its label."""

    @property
    def key_text(self) -> str:
        """The key as a person reads it."""
        return self.written or self.key

    @property
    def help(self) -> str:
        """One or two sentences for help and palette."""
        return inspect.cleandoc(self.__doc__ or "")

    def label_now(self, _view: View) -> str:
        """The label, which for a toggle follows the state."""
        return self.label

    def refusal(self, view: View) -> str:
        """Why it is impossible now, with what would release it; empty where it is possible.

        The snapshot decides, so this is quick and may be a second old: the engine checks again.
        """
        if not self.changes:
            return ""
        if view.readonly:
            return READONLY
        if view.snapshot is None:
            return f"{view.link.problem} {view.link.hint}" if view.link.ours else "Not connected to the database yet."
        if not view.link.up and not self.offline:
            return "The database is out of reach; the action would fail."
        if self.name in view.busy and not self.watches:
            return f"{self.label} is under way already."
        return self._unmet(view, view.snapshot)

    def perform(self, app: Dashboard) -> None:
        """Do it, or open the dialog that it needs; or say why it is impossible now."""
        reason = self.refusal(app.view)
        if reason:
            app.say(reason, title=self.label, severity="warning")
        else:
            self._do(app)

    def unless_moved(self, app: Dashboard, seen: RouteStatus) -> tuple[Callable[[Task[Any]], None], Callable[[], str]]:
        """Does a task; where the pointer has moved since ``seen``, the state of its dialog, says so and asks anew.

        Beside it what says that.
        """

        def moved() -> str:
            now = app.view.route
            if now.epoch == seen.epoch:
                return ""
            where = f"the {now.active} side serves" + (f", {now.canary} % canary" if now.canary not in (0, 100) else "")
            return f"{safe.line(now.changed_by) or 'Somebody'} moved the pointer meanwhile: {where}."

        def do(task: Task[Any]) -> None:
            if said := moved():
                app.say(f"{said} Nothing was done.", title=self.label, severity="warning")
                self.perform(app)
            else:
                app.bridge.do(task)

        return do, moved

    def _unmet(self, _view: View, snapshot: Snapshot) -> str:
        """What the migration's state lacks for it; empty where nothing is."""
        blocker = unneeded(self.command, snapshot) if self.command else None
        return f"{blocker.message} {worded(blocker.hint, blocker.remedies)}".rstrip() if blocker else ""

    def _do(self, app: Dashboard) -> None:
        raise NotImplementedError
