"""How an action asks: a dialog whose answer means a task, after a look at the database where it needs one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from embedtui.tui.base_app import BaseApp
from embedtui.tui.dialogs import Dialog, WaitingDialog
from embedtui.tui.engine import Engine
from embedtui.tui.engine_threads import Bridge, Task
from embedtui.tui.messages import Blocked, DialogPrepared, ReadFailed

A = TypeVar("A")
F = TypeVar("F")


class AskingApp(BaseApp[None]):
    """An app over a bridge that can ask."""

    bridge: Bridge

    def ask(
        self,
        dialog: Dialog[A],
        task: Callable[[A], Task[Any]],
        do: Callable[[Task[Any]], None] | None = None,
        moved: Callable[[], str] | None = None,
    ) -> Dialog[A]:
        """Open ``dialog`` and return it; ``do`` (by default as :meth:`Bridge.do`) the task that its answer means.

        ``moved``, of one that is about the pointer, says what became of that since.
        """
        dialog.moved = moved

        def answered(answer: A | None) -> None:
            if answer:
                (do or self.bridge.do)(task(answer))

        self.push_screen(dialog, answered)
        return dialog

    def ask_after(
        self,
        look: Callable[[Engine], F],
        dialog: Callable[[F], Dialog[A]],
        task: Callable[[A], Task[Any]],
        do: Callable[[Task[Any]], None] | None = None,
        moved: Callable[[], str] | None = None,
    ) -> None:
        """As :meth:`ask`, with a dialog about what ``look`` finds; its place is kept meanwhile."""
        waiting = WaitingDialog(lambda found: self.ask(dialog(found), task, do, moved))
        waiting.moved = moved
        self.push_screen(waiting)
        # By way of the place-keeper: so what was found comes here after the keys that it was given before.
        self.bridge.read(look, functools.partial(DialogPrepared, waiting), waiting.post_message, key=waiting)

    def leave_moved(self) -> None:
        """Leave the dialog in front, where it is about the pointer: that was moved from here, and it says what was."""
        dialog = self.screen
        if isinstance(dialog, Dialog) and dialog.moved is not None:
            dialog.dismiss(None)
            self.say("Closed, and nothing was done: the pointer moved meanwhile.", title=dialog.heading or "Dialog")

    def on_dialog_prepared(self, message: DialogPrepared) -> None:
        """Open the dialog only where its place is still kept; what was typed ahead is for it."""
        if self.screen is message.dialog:
            self.pop_screen()
            message.dialog.open_next(message.found)

    def on_blocked(self, message: Blocked) -> None:
        """Ask again, with what stands against it now."""
        message.again(self)

    def on_read_failed(self, message: ReadFailed) -> None:
        """A dialog that cannot say anything is not opened."""
        if isinstance(message.key, WaitingDialog):
            if self.screen is message.key:
                self.pop_screen()
            self.trouble(message.trouble)
