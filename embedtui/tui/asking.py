"""How an action asks: a dialog whose answer means a task, after a look at the database where it needs one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from embedtui.tui.base_app import BaseApp
from embedtui.tui.dialogs import Dialog, WaitingDialog
from embedtui.tui.engine import Engine
from embedtui.tui.engine_threads import Bridge, Task
from embedtui.tui.messages import DialogPrepared, ReadFailed

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
    ) -> Dialog[A]:
        """Open ``dialog`` and return it; ``do`` (by default as :meth:`Bridge.do`) the task that its answer means."""

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
    ) -> None:
        """As :meth:`ask`, with a dialog about what ``look`` finds; its place is kept meanwhile."""
        waiting = WaitingDialog(lambda found: self.ask(dialog(found), task, do))
        self.push_screen(waiting)
        # By way of the place-keeper: so what was found comes here after the keys that it was given before.
        self.bridge.read(look, functools.partial(DialogPrepared, waiting), waiting.post_message, key=waiting)

    def on_dialog_prepared(self, message: DialogPrepared) -> None:
        """Open the dialog only where its place is still kept; what was typed ahead is for it."""
        if self.screen is message.dialog:
            self.pop_screen()
            message.dialog.open_next(message.found)

    def on_read_failed(self, message: ReadFailed) -> None:
        """A dialog that cannot say anything is not opened."""
        if isinstance(message.key, WaitingDialog):
            if self.screen is message.key:
                self.pop_screen()
            self.trouble(message.trouble)
