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


class WaitingDialog(Dialog[None]):
    """Keeps what is typed ahead for the dialog to come; Escape leaves."""

    AUTO_FOCUS = ""

    def __init__(self, prepared: Callable[[Any], None]) -> None:
        """``prepared`` opens the dialog with what was found."""
        super().__init__("")
        self.prepared = prepared
        self.typed: list[str] = []

    def compose(self) -> ComposeResult:
        """Say what is waited for."""
        with Vertical(classes="dialog"):
            yield Static(draw.line(("◌ asking the database …", "$muted")))

    def on_key(self, event: events.Key) -> None:
        """Keep characters; Enter and the like are for what can be seen."""
        if event.character and event.is_printable:
            self.typed.append(event.character)
            event.stop()
