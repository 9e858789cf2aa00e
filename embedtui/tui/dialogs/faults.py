"""The question before a faulty row is left without a vector, or with one of a part of its text."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from embedtui.model import Side
from embedtui.tui import draw
from embedtui.tui.dialogs.base import Dialog

_SKIPPED = {
    Side.NEW: " Without a new vector, no search on the new side will find it.",
    Side.OLD: " Without an old vector of its text, no search will find it by that after a rollback.",
}


class DecideDialog(Dialog[bool]):
    """Asks whether faulty rows are to be skipped or shortened, and says what becomes of them."""

    def __init__(self, what: str, rows: str, sides: Sequence[Side], cut_to: str, reason: str) -> None:
        """``what``: ``skip`` or ``truncate``; ``sides``: whose vector they lack; ``cut_to``: how much a model takes.

        ``reason``: why they have none.
        """
        skip = what == "skip"
        super().__init__("Skip" if skip else "Shorten", "Skip" if skip else "Shorten", "warning")
        self._rows, self._reason = rows, reason
        self._says = (
            "is left as it is, until its text is edited." + "".join(_SKIPPED[side] for side in sides)
            if skip
            else f"is embedded again by the beginning of its text. {cut_to} Each further try cuts a fifth more."
        )

    def body(self) -> ComposeResult:
        """Which rows, and what becomes of them."""
        yield Static(draw.lines(draw.wrapped(self._reason, 56, "bold")), id="reason")
        yield Static(Content(f"{self._rows[:1].upper()}{self._rows[1:]} {self._says}"))

    def answer(self) -> bool:
        """Yes."""
        return True
