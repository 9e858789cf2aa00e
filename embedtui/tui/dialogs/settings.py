"""The dialog that changes a setting."""

from __future__ import annotations

from collections.abc import Callable

from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Button, Input, Static

from embedtui.model import SettingLine
from embedtui.tui import draw, safe
from embedtui.tui.dialogs.base import Dialog, field
from embedtui.tui.messages import SettingChanged
from embedtui.tui.panels.setup import refused_lines
from embedtui.tui.view import Trouble


class SettingDialog(Dialog[str]):
    """Takes a value; one that is refused stays to be mended, with the reason below it."""

    AUTO_FOCUS = "#value"

    def __init__(self, line: SettingLine, file: str, order: Callable[[SettingDialog, str], object]) -> None:
        """Ask for the value of ``line``; ``order`` has it written, and answers this dialog."""
        super().__init__(line.path, go="Write")
        self._line, self._file, self._order = line, file, order
        self._trouble: Trouble | None = None
        self._busy = False

    def body(self) -> ComposeResult:
        """What it is, and the field."""
        yield Static(Content(safe.line(self._line.comment)))
        own = self._line.value if self._line.origin not in ("default", "database") else ""
        shown = Input(own, id="value", compact=True, placeholder=safe.line(self._line.value) or "unset")
        yield from field("Value", shown)
        later = "It counts from the next start on." if self._line.later else "All workers read it at once."
        text = f'Empty takes it out of the file; "" is the empty text. {later} File: {safe.line(self._file)}'
        yield Static(Content.styled(text, "$muted"))
        yield Static(id="refused", markup=False)

    def on_setting_changed(self, message: SettingChanged) -> None:
        """It is written, or it cannot be."""
        self._busy = False
        if message.trouble is None:
            self.dismiss(message.text)
        else:
            self._trouble = message.trouble
            self._paint()

    def on_resize(self) -> None:
        """Break the lines anew."""
        self._paint()

    def _paint(self) -> None:
        said = self.query_one("#refused", Static)
        width = max(20, said.size.width or 58)
        rows = refused_lines(self._trouble, width) if self._trouble is not None else []
        said.update(draw.lines([draw.line(("◌ writing …", "$muted"))] if self._busy else rows))

    @on(Input.Changed)
    def corrected(self) -> None:
        """What was said of a wrong value no longer holds."""
        if not self._busy:
            self._trouble = None
            self._paint()

    @on(Input.Submitted)
    @on(Button.Pressed, "#go")
    def confirmed(self) -> None:
        """Have it written; the answer decides."""
        if not self._busy:
            self._busy = True
            self._paint()
            self._order(self, self.query_one("#value", Input).value)
