"""The dialog of a cutover."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Button, Static

from embedtui.model import Blocker
from embedtui.model.lifecycle import so_now
from embedtui.tui import draw, safe
from embedtui.tui.dialogs.base import Answer, Digits, NamedDialog
from embedtui.tui.dialogs.base import field as labelled
from embedtui.tui.messages import BlockersRead
from embedtui.tui.view import View

READ_SECONDS = 2.0
"""Between two looks at what stands against it: each asks the database several questions."""


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

    def __init__(
        self,
        view: View,
        percent: int = 100,
        blockers: tuple[Blocker, ...] = (),
        given: CutoverAnswer | None = None,
    ) -> None:
        """Ask about the table of ``view``, with ``percent`` filled in, and what was ``given`` before."""
        super().__init__("Cut over", "primary", view.table, blockers, None if given is None else given.override)
        self._percent, self._lands = percent, view.snapshot.lands if view.snapshot is not None else ""
        self._view, self._read_at = view, time.monotonic()
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
        yield Static(self._now, id="now")
        yield from self.obstacles()
        percent = Digits("whole, 1 to 100", str(self._percent), id="percent", longest=3)
        share = labelled("Share of keys in %", percent)
        # else the name is first, as in every dialog that asks for it: what is typed unlooked goes there
        for each in (self.name_field(), share) if self._percent == 100 else (share, self.name_field()):
            yield from each
        yield from self.reason_field()

    def buttons(self) -> ComposeResult:
        """With one to wait for the sync, where that is in the way."""
        yield Answer("When in sync", id="postpone")
        yield from super().buttons()

    @property
    def _now(self) -> Content:
        """What is so at this moment."""
        snapshot = self._view.snapshot
        said = [] if snapshot is None else [safe.line(each) for each in so_now(snapshot)]
        held = sum(each.stops for each in snapshot.reasons) if snapshot is not None else 0
        return draw.line(
            ("Now: ", "bold"), (" ".join(said[:held]), "$warning"), " " * bool(held), " ".join(said[held:])
        )

    def seen(self, view: View) -> None:
        """Say what is so by now, and ask every now and then what stands against it."""
        super().seen(view)
        self._view = view
        for each in self.query("#now").results(Static):
            each.update(self._now)
        if view.link.up and time.monotonic() - self._read_at >= READ_SECONDS:
            self._read_at = time.monotonic()
            percent = self._share or self._percent
            self.app.bridge.read(  # type: ignore[attr-defined]
                lambda engine: engine.blockers("cutover", percent), BlockersRead, self.post_message, key=self
            )

    async def on_blockers_read(self, message: BlockersRead) -> None:
        """Show what stands against it now."""
        message.stop()
        await self.stand_against(message.blockers, chosen=False)

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
            button.display = any(blocker.name == "sync" for blocker in self._blockers)
            button.disabled = self.answer(postponed=True) is None

    @on(Button.Pressed, "#postpone")
    def postponed(self) -> None:
        """The engine cuts over by itself once nothing waits."""
        answer = self.answer(postponed=True)
        if answer is not None:
            self.dismiss(answer)
