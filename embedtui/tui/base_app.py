"""What the dashboard and the welcome screen share: the look, and how they speak to the operator."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input, TextArea

from embedtui.tui import preferences, safe, terminal, theme
from embedtui.tui.crash import CrashLogged
from embedtui.tui.driver import TerminalDriver
from embedtui.tui.remedies import worded
from embedtui.tui.typed import TypedInOrder
from embedtui.tui.view import Trouble

R = TypeVar("R")

SAID = 700
"""Characters of a message in the corner at most: anybody's act is told there, and the screen is not to be covered."""


class BaseApp(TypedInOrder[R], CrashLogged[R]):
    """An app in our themes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", "Copy", show=False, priority=True, system=True)
    ]
    CSS_PATH = Path(__file__).with_name("app.tcss")
    # Textual annotates these two so that a ClassVar is refused.
    HORIZONTAL_BREAKPOINTS = [(0, "-w0"), (80, "-w80"), (100, "-w100"), (160, "-w160"), (240, "-w240")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-h0"), (24, "-h24"), (30, "-h30"), (45, "-h45"), (60, "-h60")]  # noqa: RUF012

    def __init__(self) -> None:
        """Take the terminal's own colours where it wants none."""
        driver = None if "TEXTUAL_DRIVER" in os.environ else TerminalDriver  # None: Textual's, of that name
        super().__init__(driver_class=driver, ansi_color=theme.native_colors())
        self._shown: dict[str, float] = {}
        """Messages in the corner, and until when."""

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Our variables, for Textual's own themes."""
        return super().get_theme_variable_defaults() | theme.DEFAULTS

    def delay_update(self, delay: float = 0.05) -> None:
        """Hold the picture back for less than Textual does at a change of screen: ours are whole after one round."""
        super().delay_update(min(delay, 0.01))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:  # noqa: ARG002 (Textual's)
        """Textual's commands that are of use here."""
        yield SystemCommand("Picture", "Save this screen as an SVG file", lambda: self.deliver_screenshot())

    def wear(self, remembered: str) -> None:
        """Take the remembered theme, where the terminal can show it."""
        for each in theme.THEMES:
            self.register_theme(each)
        self.theme = theme.first(self, remembered)

    def action_interrupt(self) -> None:
        """Ctrl-C copies what is marked; else it interrupts nothing and says how to leave: in dialogs, too."""
        focused = self.focused
        if isinstance(focused, Input | TextArea) and focused.selected_text:
            focused.action_copy()
        elif self.screen.get_selected_text():
            self.screen.action_copy_text()
        else:
            self.action_help_quit()

    warning = ""
    """What is said as it opens."""

    def on_ready(self) -> None:
        """Say what is to be said at first, and each message on the screen in front alone."""
        self.screen_change_signal.subscribe(self, self._one_rack, immediate=True)
        if self.warning:
            self.say(self.warning, title="A demo's database", severity="warning")

    def _one_rack(self, front: Screen[object]) -> None:
        """A dialog shows the messages anew; behind it they would be seen beside those."""
        for screen in self.screen_stack:
            for rack in screen.query_children("ToastRack"):
                rack.set_class(screen is not front, "-behind")

    def say(
        self, text: str, *, title: str = "", severity: Literal["information", "warning", "error"] = "information"
    ) -> None:
        """Show a short message above the keys; never read as markup.

        Its title begins its line: a line of its own would cover what is listed below.
        """
        head = f"{safe.line(title, 70)} · " if title else ""
        self._show(head + safe.line(text, SAID), severity, 4)

    def _show(self, text: str, severity: Literal["information", "warning", "error"], seconds: float) -> None:
        """Of the same message one at a time is shown."""
        now = time.monotonic()
        self._shown = {said: until for said, until in self._shown.items() if until > now}
        if text not in self._shown:
            self._shown[text] = now + seconds
            self.notify(text, severity=severity, markup=False, timeout=seconds)

    def clear_notifications(self) -> None:
        """Take all messages away; the same may be said again."""
        super().clear_notifications()
        self._shown.clear()

    def trouble(self, trouble: Trouble) -> None:
        """Show an error there: what, and what to do."""
        hint = worded(trouble.hint, trouble.remedies)
        text = f"{trouble.title} · {safe.line(trouble.message, SAID)}" + (f"\n{hint}" if hint else "")
        self._show(text, "error", 8)

    def call_for(self, text: str) -> None:
        """Ring the bell, and ask the terminal for a desktop notification, for somebody who is not looking."""
        self.bell()
        sequence = terminal.notification("embedtui", safe.line(text, 200))
        if self._driver is not None and sequence and not self.is_headless:
            self._driver.write(sequence)

    def hand_out(self, text: str, name: str) -> None:
        """Copy ``text`` (OSC 52), and always save it as a file: over SSH and tmux copying can fail unseen."""
        self.copy_to_clipboard(text)
        self.save_as(text, name, before="Sent to the clipboard, if the terminal takes it")

    def save_as(self, text: str, name: str, *, before: str = "") -> None:
        """Save ``text`` as a file, and say where; ``before`` was done already."""
        path = preferences.state_path() / "exports" / name
        try:
            preferences.write_file(path, text)
        except OSError as error:
            self.say(f"{f'{before}, but not' if before else 'Not'} saved: {error.strerror}", severity="warning")
        else:
            self.say(f"{before}, and saved as {path}" if before else f"Saved as {path}")
