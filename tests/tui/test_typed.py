"""A burst of keys, as a slow line brings it, does what the same keys do one by one; a paste stays text."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import ModalScreen
from textual.widgets import Input, Label

from embedtui.tui.base_app import BaseApp
from embedtui.tui.driver import XTermParser


class Ask(ModalScreen[str]):
    """A dialog with one field."""

    def compose(self) -> ComposeResult:
        yield Input(id="asked")

    def on_input_submitted(self, message: Input.Submitted) -> None:
        message.stop()
        self.dismiss(message.value)


class Form(BaseApp[None]):
    """Three fields, and a key that opens a dialog."""

    CSS_PATH = None
    BINDINGS = [Binding("ctrl+o", "open", "Open", priority=True)]

    def compose(self) -> ComposeResult:
        for name in "abc":
            yield Input(id=name)
        yield Label("", id="answer")

    def action_open(self) -> None:
        self.push_screen(Ask(), lambda answer: self.query_one("#answer", Label).update(answer or ""))

    @property
    def said(self) -> list[str]:
        return [self.screen_stack[0].query_one(f"#{name}", Input).value for name in "abc"]


def burst(app: Form, text: str) -> Iterable[events.Event]:
    """As the driver reads it, in one piece."""
    for event in XTermParser().feed(text):
        event.set_sender(app)
        assert app.post_message(event)
        yield event


async def settled(app: Form, pilot: object) -> None:
    for _ in range(200):
        await pilot.pause()  # type: ignore[attr-defined]
        if not app._typed and app._under_way is None:
            return
    raise AssertionError("it hangs")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("one\ttwo\tthree", ["one", "two", "three"]),
        ("helpdesk.kb\ttrial\t1", ["helpdesk.kb", "trial", "1"]),
        ("one\t\tthree\x1b[Zx", ["one", "x", "three"]),
        ("ab\x7f\tc\x1b[Dd", ["a", "dc", ""]),
        ("\x1b[200~one\ttwo\x1b[201~\tthree", ["one\ttwo", "three", ""]),
        ("a" * 300 + "\tb", ["a" * 300, "b", ""]),
    ],
)
async def test_a_burst_is_typed(text: str, fields: list[str]) -> None:
    app = Form()
    async with app.run_test() as pilot:
        await pilot.pause()
        assert list(burst(app, text))
        await settled(app, pilot)
        assert [value.replace("\n", "\t") for value in app.said] == fields


async def test_what_a_key_opens_gets_the_keys_after_it() -> None:
    app = Form()
    async with app.run_test() as pilot:
        await pilot.pause()
        assert list(burst(app, "x\x0fyes\r\tz"))
        await settled(app, pilot)
        assert app.said == ["x", "z", ""]
        assert str(app.query_one("#answer", Label).render()) == "yes"
