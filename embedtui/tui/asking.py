"""How an action asks: a dialog whose answer means a task, after a look at the database where it needs one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from textual import events

from embedtui.tui.base_app import BaseApp
from embedtui.tui.bridge import Bridge, Task
from embedtui.tui.dialogs import Dialog, WaitingDialog
from embedtui.tui.engine import Engine
from embedtui.tui.messages import DialogPrepared, ReadFailed

A = TypeVar("A")
F = TypeVar("F")


class AskingApp(BaseApp[None]):
    """An app over a bridge that can ask."""

    bridge: Bridge

    def ask(
        self, dialog: Dialog[A], task: Callable[[A], Task[Any]], do: Callable[[Task[Any]], None] | None = None
    ) -> None:
        """Open ``dialog``, and ``do`` (by default as :meth:`Bridge.do`) the task that its answer means."""

        def answered(answer: A | None) -> None:
            if answer:
                (do or self.bridge.do)(task(answer))

        self.push_screen(dialog, answered)

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
        self.bridge.read(look, functools.partial(DialogPrepared, waiting), self.post_message, key=waiting)

    def on_dialog_prepared(self, message: DialogPrepared) -> None:
        """Open the dialog only where its place is still kept; what was typed ahead is for it."""
        if self.screen is not message.dialog:
            return
        self.pop_screen()
        message.dialog.prepared(message.found)

        def type_ahead() -> None:
            for character in message.dialog.typed:
                self.post_message(events.Key("space" if character == " " else character, character))

        self.screen.call_after_refresh(type_ahead)

    def on_read_failed(self, message: ReadFailed) -> None:
        """A dialog that cannot say anything is not opened."""
        if isinstance(message.key, WaitingDialog):
            if self.screen is message.key:
                self.pop_screen()
            self.trouble(message.trouble)
