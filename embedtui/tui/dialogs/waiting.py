"""Keeps the place of a dialog while the database is asked for what it has to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from embedtui.tui import draw
from embedtui.tui.dialogs.base import Dialog
from embedtui.tui.messages import ReadFailed


class WaitingDialog(Dialog[None]):
    """Keeps what is typed ahead for the dialog to come; Escape leaves."""

    AUTO_FOCUS = ""

    def __init__(self, prepared: Callable[[Any], Any]) -> None:
        """``prepared`` makes and opens the dialog with what was found."""
        super().__init__("")
        self.prepared = prepared
        self._typed = ""
        self._next: Dialog[Any] | None = None

    def compose(self) -> ComposeResult:
        """Say what is waited for."""
        with Vertical(classes="dialog"):
            yield Static(draw.line(("◌ asking the database …", "$muted")))

    def on_key(self, event: events.Key) -> None:
        """Take the last character back; other keys that are none are for what can be seen."""
        if event.key == "backspace":
            self._typed = self._typed[:-1]

    def type_in(self, text: str) -> bool:
        """Keep ``text``; what was on its way here when the dialog opened goes on to it."""
        if self._next is not None:
            return self._next.type_in(text)
        self._typed += text
        return True

    def open_next(self, found: object) -> None:
        """Open the dialog about what was ``found``, with what was typed ahead."""
        opened = self.prepared(found)
        self._next = opened if isinstance(opened, Dialog) else None
        if self._typed and self._next is not None:
            self._next.type_in(self._typed)

    def on_read_failed(self, message: ReadFailed) -> None:
        """It is the app's to say so."""
        self.app.post_message(message)
