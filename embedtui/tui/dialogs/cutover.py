"""The dialog of a cutover."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Button, Static

from embedtui.model import Blocker
from embedtui.tui.dialogs.base import Answer, Digits, NamedDialog
from embedtui.tui.dialogs.base import field as labelled
from embedtui.tui.view import View


@dataclass(frozen=True, slots=True)
class CutoverAnswer:
    """What the operator wants of a cutover."""

    percent: int
    override: Mapping[str, str] = field(default_factory=dict)
    """Reasons by the checks they pass."""
    postponed: bool = False
    """Only once the sync queue is empty."""


class CutoverDialog(NamedDialog[CutoverAnswer]):
    """Says what a cutover will do, and takes share, table name and, where something stands against it, a reason."""

    def __init__(self, view: View, percent: int = 100, blockers: tuple[Blocker, ...] = ()) -> None:
        """Ask about the table of ``view``, with ``percent`` filled in."""
        super().__init__("Cut over", "primary", view.table, blockers)
        self._percent, self._lands = percent, view.snapshot.lands if view.snapshot is not None else ""
        if percent != 100:
            self.AUTO_FOCUS = "#percent"  # type: ignore[misc]  # what was asked for

    def body(self) -> ComposeResult:
        """Text, what stands against it, and the fields."""
        yield Static(
            Content.assemble(
                "The pointer moves; searches then use ",
                ("◆ new", "bold $new"),
                ". No DDL, no lock on the table.\nRollback: ",
                ("F9", "bold"),
                f", from anywhere, unasked{self._lands and ', '}{self._lands}.",
                "\nLess than 100 % is a share of the keys, not of the searches: a key keeps its side.",
            )
        )
        yield from self.obstacles()
        percent = Digits("whole, 1 to 100", str(self._percent), id="percent", longest=3)
        share = labelled("Share of keys in %", percent)
        # else the name is first, as in every dialog that asks for it: what is typed unlooked goes there
        for each in (self.name_field(), share) if self._percent == 100 else (share, self.name_field()):
            yield from each
        yield from self.reason_field()

    def buttons(self) -> ComposeResult:
        """With one to wait for the sync, where that is in the way."""
        if any(blocker.name == "sync" for blocker in self._blockers):
            yield Answer("When in sync", id="postpone")
        yield from super().buttons()

    def answer(self, postponed: bool = False) -> CutoverAnswer | None:
        """Needs a share, the whole name, and a reason where one is asked for."""
        # Waiting for the sync is what releases the sync blocker: alone, it needs no reason then.
        override = self.overrides(but="sync" if postponed else "")
        if not self._share or not self.named or override is None:
            return None
        return CutoverAnswer(self._share, override, postponed)

    @property
    def _share(self) -> int:
        """In percent; 0 where what is typed is none."""
        text = self.query_one("#percent", Digits).value
        return int(text) if text.isdigit() and int(text) <= 100 else 0

    def go_to_gap(self) -> None:
        """A share that is none is said to be one first."""
        if self._share:
            super().go_to_gap()
        else:
            self.query_one("#percent", Digits).refuse()

    def release_buttons(self) -> None:
        """Only a whole answer releases the buttons."""
        super().release_buttons()
        for button in self.query("#postpone").results(Button):
            button.disabled = self.answer(postponed=True) is None

    @on(Button.Pressed, "#postpone")
    def postponed(self) -> None:
        """The engine cuts over by itself once nothing waits."""
        answer = self.answer(postponed=True)
        if answer is not None:
            self.dismiss(answer)
