"""What all dialogs share: each names its target, says what will happen, and has the harmless answer focused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.reactive import reactive
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Checkbox, Input, Label, Static
from textual.widgets.button import ButtonVariant

from embedtui.model import Blocker
from embedtui.tui import draw, safe
from embedtui.tui.remedies import worded
from embedtui.tui.view import View

T = TypeVar("T")

ENTER = "⏎ "
"""Before the word of the button that Enter presses."""


class Answer(Button):
    """A button that shows whether Enter presses it, in words that need no colours."""

    entered: reactive[bool] = reactive(False)

    def __init__(self, label: str, variant: ButtonVariant = "default", *, id: str) -> None:
        super().__init__(label, variant, id=id, compact=True)

    def render(self) -> Content:
        """Its word, marked."""
        word = Content.from_text(self.label)
        return Content.assemble(ENTER, word) if self.entered and not self.disabled else word

    def get_content_width(self, container: Size, viewport: Size) -> int:
        """With room for the mark."""
        return super().get_content_width(container, viewport) + len(ENTER)


class Dialog(ModalScreen[T]):
    """A box in the middle with a way on and Cancel; Escape always means no."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "Cancel", show=False)]
    AUTO_FOCUS = "#cancel"
    TYPED: ClassVar[str] = "Input"
    """The field that gets what is typed while a button has the focus."""
    CANCEL: ClassVar[str] = "Cancel"
    SUBMIT: ClassVar[str] = "#go"
    """The button that Enter presses in a field of one line …"""
    SUBMITS: ClassVar[tuple[type[Widget], ...]] = (Input,)
    """… and in whatever else is of one of these."""

    def __init__(self, title: str, go: str = "", variant: ButtonVariant = "primary") -> None:
        """Ask under ``title``; ``go`` is the word on the button that goes on, if there is one."""
        super().__init__()
        self.heading, self._go, self._variant = title, go, variant
        self.moved: Callable[[], str] | None = None
        """Of one that is about the pointer: what became of that since; empty where nothing did."""
        self._ahead: str | None = ""
        """What was typed before there were fields; None once there are."""

    def compose(self) -> ComposeResult:
        """Lay out the title, the body and the buttons."""
        with Vertical(classes="dialog -danger" if self._variant == "error" else "dialog") as box:
            box.border_title = Content(safe.line(self.heading))
            yield from self.body()
            with Horizontal(classes="buttons"):
                yield Answer(self.CANCEL, id="cancel")
                yield from self.buttons()

    def body(self) -> ComposeResult:
        """Its text and fields."""
        yield from ()

    def buttons(self) -> ComposeResult:
        """The buttons beside Cancel; ``#go`` goes on."""
        if self._go:
            yield Answer(self._go, self._variant, id="go")

    def answer(self) -> T | None:
        """What the operator wants; None while the answer is not whole."""
        return None

    def go_to_gap(self) -> None:
        """Bring the cursor to what keeps the answer from being whole."""

    def say_moved(self) -> None:
        """Where the pointer that it is about has moved meanwhile, say so before all else."""
        if self.moved is not None and (said := self.moved()) and not self.query("#moved"):
            line = draw.line(("! ", "bold $warning"), (said, "$warning"))
            self.query_one(".dialog").mount(Static(line, id="moved"), before=0)

    def seen(self, _view: View) -> None:
        """The state was read anew while this is open."""
        self.say_moved()

    def action_cancel(self) -> None:
        """Leave without an answer."""
        self.dismiss(None)

    def on_mount(self) -> None:
        """Take what was typed ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead:
            self.type_in(ahead)

    def watch_focused(self, focused: Widget | None) -> None:
        """Show which button Enter presses from here."""
        submits = isinstance(focused, self.SUBMITS)
        for each in self.query(Answer):
            each.entered = each is focused or (submits and f"#{each.id}" == self.SUBMIT)

    def on_key(self, event: events.Key) -> None:
        """Give what is typed to the first field.

        Cancel is focused so that Enter is harmless, and for a moment after it opened a dialog has given the focus to
        nothing. Of a whole burst (a slow line) the rest comes here, too, before the focus has moved: its spaces belong
        to it.
        """
        if event.character and event.is_printable and self.type_in(event.character):
            event.stop()

    def on_paste(self, event: events.Paste) -> None:
        """As what is typed."""
        if self.type_in(event.text):
            event.stop()

    def type_in(self, text: str) -> bool:
        """Put ``text`` into the first field, unless another part has the focus; whether it is for it."""
        if self._ahead is not None:
            self._ahead += text
            return True
        field = next(iter(self.query(self.TYPED).results(Input)), None)
        if field is None or (not text.strip() and not field.value):
            return False
        if self.focused is not field and not isinstance(self.focused, Button | None):
            return False
        field.focus()
        # Such a field must not select its text on focus, or the next character would replace this one.
        field.insert_text_at_cursor(safe.line(text))
        return True

    @on(Input.Changed)
    def corrected(self) -> None:
        """What was said of a wrong answer no longer holds."""
        self.query_one(".dialog").border_subtitle = ""

    @on(Button.Pressed, "#cancel")
    def cancelled(self) -> None:
        """Cancel was chosen."""
        self.action_cancel()

    @on(Input.Submitted)
    @on(Button.Pressed, "#go")
    def confirmed(self) -> None:
        """Go on with a whole answer only; else to what is missing."""
        answer = self.answer()
        if answer is not None:
            self.dismiss(answer)
        else:
            self.go_to_gap()


class NamedDialog(Dialog[T]):
    """Asks for the table's name, and for a reason where something stands against it that may be overridden."""

    TYPED = "#typed"
    SUBMITS = (Input, VerticalScroll)

    def __init__(
        self,
        go: str,
        variant: ButtonVariant,
        table: str,
        blockers: tuple[Blocker, ...],
        given: Mapping[str, str] | None = None,
    ) -> None:
        """Ask whether to ``go`` on with ``table``; ``blockers`` that may not be overridden keep the way closed.

        ``given``: the name was typed already, and these reasons, by what they pass.
        """
        super().__init__(f"{go} {table}", go, variant)
        self._table, self._blockers, self._given = table, blockers, given
        self._reason = next(iter((given or {}).values()), "")
        self._shared = {each.name for each in blockers if not self._reason or (given or {}).get(each.token)}
        """Checks that the one reason is for: one that came up after it was typed has a field of its own."""

    def on_mount(self) -> None:
        """Nothing is answered yet."""
        self.release_buttons()

    def on_key(self, event: events.Key) -> None:
        """Enter in what scrolls is that in a field: on with a whole answer, else to what is missing."""
        if event.key == "enter" and isinstance(self.focused, VerticalScroll):
            event.stop()
            self.confirmed()

    @on(Input.Changed)
    def typed(self) -> None:
        """The answer may be whole now, or no longer."""
        self.release_buttons()

    def release_buttons(self) -> None:
        """Only a whole answer releases the button."""
        self.query_one("#go", Button).disabled = self.answer() is None

    def obstacles(self) -> ComposeResult:
        """What stands against it, with what would release it."""
        with Vertical(id="obstacles"):
            yield from self._obstacles()

    def _obstacles(self) -> ComposeResult:
        for blocker in self._blockers:
            mark, style = ("! ", "$warning") if blocker.overridable else ("✗ ", "$error")
            message = safe.line(blocker.message)
            message += "" if message.endswith((".", "!", "?")) else "."
            hint = worded(blocker.hint, blocker.remedies)
            hint = f" {hint}" if hint else ""
            yield Static(draw.line((mark, f"bold {style}"), (message, style), (hint, "$muted")), classes="obstacle")

    def name_field(self) -> ComposeResult:
        """The field for the table's name."""
        label = Content.assemble("Type ", (safe.line(self._table), "bold"))
        typed = "" if self._given is None else self._table
        name = Input(typed, "the table's name", id="typed", compact=True, select_on_focus=False)
        yield from field(label, name)

    def reason_field(self) -> ComposeResult:
        """The field for a reason, where one can help; what loses rows their only vector is typed with their number."""
        with Vertical(id="reasons"):
            yield from self._reasons()

    async def stand_against(self, blockers: tuple[Blocker, ...], *, chosen: bool = True) -> None:
        """Something else stands against it now, by a choice that was made, or by what happened meanwhile.

        Fields that are asked for no longer are hidden, and none is made anew: what is typed meanwhile, or was, stays.
        """
        if blockers == self._blockers:
            return
        self._blockers = blockers
        if chosen or not any(each.value.strip() for each in self.query("#override").results(Input)):
            self._shared |= {each.name for each in blockers}
        wanted, there = self._fields(), {each.id: each for each in self.query(".override").results(Input)}
        obstacles, reasons = self.query_one("#obstacles"), self.query_one("#reasons")
        async with self.batch():
            await obstacles.remove_children()
            await obstacles.mount_compose(self._obstacles())
            for name, each in there.items():
                if isinstance(each.parent, Widget):
                    each.parent.display = name in wanted
            for name, (label, each) in wanted.items():
                if name not in there:
                    await reasons.mount_compose(field(label, each))
        self.release_buttons()

    def _reasons(self) -> ComposeResult:
        for label, each in self._fields().values():
            yield from field(label, each)

    def _fields(self) -> dict[str | None, tuple[str | Content, Input]]:
        """Fields for the reason and for the rows at stake, with their labels, by their ids."""
        if not self._blockers or self._barred:
            return {}
        found: dict[str | None, tuple[str | Content, Input]] = {}
        for blocker in self._blockers:
            if (name := self._reason_of(blocker)) not in found:
                label = "Reason to override" if name == "override" else f"Reason to override {blocker.name} too"
                known = self._reason if name == "override" else ""
                found[name] = (label, Input(known, "kept in the log", id=name, classes="override", compact=True))
            if blocker.rows is not None:
                rows = Input(
                    id=f"rows-{blocker.name}-{blocker.rows}", classes="override", name=str(blocker.rows),
                    placeholder="rows at stake", compact=True, select_on_focus=False,
                )  # fmt: skip
                counted = Content.assemble("Type ", (str(blocker.rows), "bold"), f" for {blocker.name}")
                found[rows.id] = (counted, rows)
        return found

    def _reason_of(self, blocker: Blocker) -> str:
        """Id of the field with the reason that is for it."""
        return "override" if blocker.name in self._shared else f"override-{blocker.name}"

    @property
    def _asked(self) -> list[Input]:
        """Those of these fields that are asked for now."""
        made = self.query(".override").results(Input)
        return [each for each in made if isinstance(each.parent, Widget) and each.parent.display]

    @property
    def _barred(self) -> bool:
        return any(not blocker.overridable for blocker in self._blockers)

    def overrides(self, but: str = "") -> Mapping[str, str] | None:
        """What is overridden and why, by the engine's names; None while something of it is missing.

        ``but`` names a check that needs no override now.
        """
        needed = [blocker for blocker in self._blockers if blocker.name != but]
        if not needed:
            return {}
        reasons = {each.id: each.value.strip() for each in self._asked if not each.name}
        counts = [each for each in self._asked if each.name]
        found = {blocker.token: reasons.get(self._reason_of(blocker), "") for blocker in needed}
        if not all(found.values()) or any(each.value.strip() != each.name for each in counts):
            return None
        return found

    @property
    def named(self) -> bool:
        """Whether the name is the table's, and nothing keeps the way closed."""
        return self.query_one("#typed", Input).value.strip() == self._table and not self._barred

    def go_to_gap(self) -> None:
        """To the name, or the reason; a wrong name is said to be one."""
        typed = self.query_one("#typed", Input)
        if typed.value.strip() != self._table:
            typed.focus()
            if typed.value.strip():
                self.query_one(".dialog").border_subtitle = "That is not the table's name"
        else:
            for gap in self._asked:
                if gap.value.strip() != gap.name and (gap.name or not gap.value.strip()):
                    gap.focus()
                    said = (
                        f"Type the {gap.name} rows at stake"
                        if gap.name
                        else "A reason is needed: it is kept in the log"
                    )
                    self.query_one(".dialog").border_subtitle = said
                    return


class Digits(Input):
    """A field for a number: beside it stands what it takes, and in a warning's colour once something else was typed."""

    def __init__(
        self, takes: str, value: str = "", *, id: str, placeholder: str = "", whole: bool = True, longest: int = 0
    ) -> None:
        """``takes`` says which numbers, in a few words; ``longest`` is a number of characters, 0 for no end."""
        self.takes = Label(takes, classes="takes", markup=False)
        kind: Literal["integer", "number"] = "integer" if whole else "number"
        super().__init__(value, placeholder, id=id, type=kind, max_length=longest, compact=True)

    def restricted(self) -> None:
        """Textual takes what was typed away, and rings a bell at most."""
        self.refuse()

    def refuse(self) -> None:
        """Bring the cursor here, and say that this is no such number."""
        self.focus()
        self.takes.add_class("-refused")

    def watch_value(self) -> None:
        """Another value has not been refused yet."""
        self.takes.remove_class("-refused")


class Tick(Checkbox):
    """A checkbox that tells on from off by a glyph; Textual's own does by colour only."""

    def on_mount(self) -> None:
        """Show the first state."""
        self.watch_value()

    def watch_value(self) -> None:
        """Show the state."""
        self.BUTTON_INNER = "✓" if self.value else " "
        super().watch_value()


def field(label: str | Content, widget: Widget) -> ComposeResult:
    """A line with a label and a field."""
    with Horizontal(classes="field"):
        yield Label(label)
        yield widget
        if isinstance(widget, Digits):
            yield widget.takes
