"""What becomes of an error that no handler of the screen caught: one line for the operator, the rest in the log."""

from __future__ import annotations

from rich.text import Text
from textual.app import App, ReturnType

from embedtui.errors import EmbedtuiError
from embedtui.logs import unexpected


class CrashLogged(App[ReturnType]):
    """An app whose crash is logged: Textual's own report shows variables, and those hold secrets and documents."""

    _crash: EmbedtuiError | None = None

    def _handle_exception(self, error: Exception) -> None:
        self._crash = unexpected(error)
        super()._handle_exception(error)

    def _fatal_error(self) -> None:
        if self._crash is None:
            super()._fatal_error()
        else:
            self.panic(Text(f"embedtui: {self._crash.title}: {self._crash.message}. {self._crash.hint}"))
