"""The dialog of the limits that all workers share."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from embedtui.model import BackfillStatus
from embedtui.tui.dialogs.base import Dialog, Digits, field
from embedtui.tui.view import View


class LimitsDialog(Dialog[dict[str, float]]):
    """Sets the shared pace; an empty field leaves a limit as it is."""

    FIELDS = (
        ("requests_per_minute", "Requests per minute"),
        ("tokens_per_minute", "Tokens per minute"),
        ("max_concurrency", "Requests in flight"),
        ("spend_cap", "New model's cap in $"),
    )
    AUTO_FOCUS = "#requests_per_minute"

    def __init__(self, view: View) -> None:
        """Show the limits of ``view``."""
        super().__init__(f"Limits of {view.table}", go="Set")
        self._view = view

    def body(self) -> ComposeResult:
        """A field for each limit, with what holds now."""
        status = self._view.snapshot.backfill if self._view.snapshot else BackfillStatus()
        now: dict[str, float | None] = {
            "requests_per_minute": status.requests_per_minute,
            "tokens_per_minute": status.tokens_per_minute,
            "max_concurrency": status.max_concurrency,
            "spend_cap": status.cap,
        }
        yield Static(Content.styled("For all workers, at once. Empty: as it is. 0: no limit.", "$muted"))
        for name, text in self.FIELDS:
            whole = name == "max_concurrency"
            value = now[name]
            shown = "no limit" if value is None else f"{value:,.10g}"
            takes = "whole, 1 or more" if whole else "a number"
            yield from field(text, Digits(takes, id=name, whole=whole, placeholder=shown))

    def answer(self) -> dict[str, float] | None:
        """The fields that hold a number; 0 takes a limit away."""
        limits: dict[str, float] = {}
        for name, _ in self.FIELDS:
            limit = self.query_one(f"#{name}", Digits)
            text = limit.value.strip()
            if not text:
                continue
            try:
                value = float(text)
            except ValueError:
                value = -1
            if value < 0 or (name == "max_concurrency" and value < 1):
                limit.refuse()
                return None
            limits[name] = int(value) if name == "max_concurrency" else value
        return limits
