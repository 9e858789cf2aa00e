"""Dialogs of one question: a line of text, whether to stop a process."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Input, Label, Static

from embedtui.tui import draw, safe
from embedtui.tui.dialogs.base import Dialog


class PromptDialog(Dialog[str]):
    """Asks for one line of text."""

    AUTO_FOCUS = "#text"

    def __init__(self, title: str, label: str, value: str = "") -> None:
        """Ask for ``label``, with ``value`` filled in."""
        super().__init__(title, go="OK")
        self._label, self._value = label, value

    def body(self) -> ComposeResult:
        """The question and its field."""
        yield Label(Content(self._label))
        yield Input(self._value, id="text", compact=True)

    def answer(self) -> str | None:
        """Anything but an empty line."""
        return self.query_one("#text", Input).value.strip() or None


class StopDialog(Dialog[bool]):
    """Asks whether a process at work is to stop; names it."""

    def __init__(self, name: str, doing: str) -> None:
        """Ask about process ``name``, which is ``doing`` something."""
        super().__init__("Stop a process", "Stop", "warning")
        self._process, self._doing = name, doing

    def body(self) -> ComposeResult:
        """Which process, and what becomes of its work."""
        yield Static(draw.line((safe.line(self._process), "bold"), "  ", (safe.line(self._doing), "$muted")))
        yield Static(Content("It finishes its requests in flight, stores them and ends. Others go on."))

    def answer(self) -> bool:
        """Yes."""
        return True
