"""Dialogs: each names its target, says what will happen, and has the harmless answer focused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Checkbox, Input, Label, Static

from embedtui.model import BackfillStatus, Blocker, VerifyReport
from embedtui.tui import acts, draw, safe
from embedtui.tui.view import View

T = TypeVar("T")


class Dialog(ModalScreen[T]):
    """A box in the middle; Escape always means no."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss_dialog", "Cancel", show=False)]
    AUTO_FOCUS = "#cancel"
    TYPED: ClassVar[str] = "Input"
    """The field that gets what is typed while a button has the focus."""

    def action_dismiss_dialog(self) -> None:
        """Leaves without an answer."""
        self.dismiss(None)

    def on_key(self, event: events.Key) -> None:
        # Cancel is focused so that Enter is harmless; what is typed goes to the first field all the same. Of a whole
        # burst (a slow line, a paste) the rest comes here too, before the focus has moved: its spaces belong to it.
        if isinstance(self.focused, Button) and event.character and event.is_printable:
            field = next(iter(self.query(self.TYPED).results(Input)), None)
            if field is not None and (event.character != " " or field.value):
                event.stop()
                field.focus()
                # Such a field must not select its text on focus, or the next character would replace this one.
                field.insert_text_at_cursor(event.character)

    @on(Input.Changed)
    def corrected(self) -> None:
        """What was said of a wrong answer no longer holds."""
        self.query_one(".dialog").border_subtitle = ""

    @on(Button.Pressed, "#cancel")
    def cancelled(self) -> None:
        """Cancel was chosen."""
        self.dismiss(None)


class Tick(Checkbox):
    """A checkbox that tells on from off by a glyph; Textual's own does by colour only."""

    def on_mount(self) -> None:
        self.watch_value()

    def watch_value(self) -> None:
        self.BUTTON_INNER = "✓" if self.value else " "
        super().watch_value()


@dataclass(frozen=True, slots=True)
class Typed:
    """The table's name as typed, and what is overridden and why where that was asked for."""

    name: str
    override: Mapping[str, str] = field(default_factory=dict)
    rename: bool = True
    """The new column takes the old one's name."""
    archive: str = ""
    """Table or file that keeps the old vectors; empty: they are gone."""


class TypedNameDialog(Dialog[Typed]):
    """Asks for the table's name before something that cannot be taken back.

    Blockers that may be overridden ask for a reason; any other keeps the button closed and says what releases it.
    ``keeping`` is the SQL where the new column keeps its name: with it, a cleanup's choices are offered.
    """

    def __init__(
        self,
        verb: str,
        text: str,
        table: str,
        statements: tuple[str, ...] = (),
        blockers: tuple[Blocker, ...] = (),
        *,
        keeping: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        self._verb, self._text, self._table = verb, text, table
        self._statements, self._blockers, self._keeping = statements, blockers, keeping

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -danger") as box:
            box.border_title = Content(f"{self._verb} {safe.line(self._table)}")
            yield Static(Content(self._text))
            if self._statements:
                with VerticalScroll(classes="sql"):
                    yield Static(self._sql, id="sql")
            yield from _obstacles(self._blockers)
            with Horizontal(classes="field"):
                yield Label(Content.assemble("Type ", (safe.line(self._table), "bold")))
                yield Input(id="typed", placeholder="the table's name", compact=True, select_on_focus=False)
            if _overridable(self._blockers):
                yield from _reason(self._blockers)
            if self._keeping is not None:
                with Horizontal(classes="field"):
                    yield Label("Keep old vectors in")
                    yield Input(id="archive", placeholder="no; or a table or a file", compact=True)
                yield Tick("The new column takes the old one's name", value=True, id="rename", compact=True)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button(self._verb, id="go", variant="error", disabled=True, compact=True)

    @property
    def _sql(self) -> Content:
        rename = all(box.value for box in self.query("#rename").results(Checkbox))
        statements = self._statements if rename or self._keeping is None else self._keeping
        archive = "".join(each.value.strip() for each in self.query("#archive").results(Input))
        first = f"-- first the old vectors are kept in {archive}, and counted\n" if archive else ""
        return Content(safe.block(first + ";\n".join(statements) + ";"))

    @property
    def _answer(self) -> Typed | None:
        typed = self.query_one("#typed", Input).value.strip()
        passed = _passed(self, self._blockers)
        if typed != self._table or passed is None or _hard(self._blockers):
            return None
        rename = all(box.value for box in self.query("#rename").results(Checkbox))
        archive = "".join(each.value.strip() for each in self.query("#archive").results(Input))
        return Typed(typed, passed, rename, archive)

    @on(Input.Changed)
    @on(Checkbox.Changed)
    def typed(self) -> None:
        """Only a whole answer releases the button; the SQL follows the choices."""
        for sql in self.query("#sql").results(Static):
            sql.update(self._sql)
        self.query_one("#go", Button).disabled = self._answer is None

    @on(Input.Submitted)
    @on(Button.Pressed, "#go")
    def confirmed(self) -> None:
        """Enter in a field goes on only with a whole answer; else to what is missing."""
        if self._answer is not None:
            self.dismiss(self._answer)
        else:
            _go_to_gap(self, self._table)


@dataclass(frozen=True, slots=True)
class CutoverAnswer:
    """What the operator wants of a cutover."""

    percent: int
    override: Mapping[str, str] = field(default_factory=dict)
    postponed: bool = False
    """Only once the sync queue is empty."""


class CutoverDialog(Dialog[CutoverAnswer]):
    """Says what a cutover will do, and takes share, table name and, where something stands against it, a reason."""

    TYPED = "#typed"

    def __init__(self, view: View, percent: int = 100, blockers: tuple[Blocker, ...] = ()) -> None:
        super().__init__()
        self._view, self._percent, self._blockers = view, percent, blockers

    def compose(self) -> ComposeResult:
        table = safe.line(self._view.table)
        with Vertical(classes="dialog") as box:
            box.border_title = Content(f"Cut over {table}")
            yield Static(
                Content.assemble(
                    "The pointer moves; searches then use ",
                    ("◆ new", "bold $new"),
                    ". No DDL, no lock on the table.\nRollback: ",
                    ("F9", "bold"),
                    ", from anywhere, unasked.",
                )
            )
            yield from _obstacles(self._blockers)
            with Horizontal(classes="field"):
                yield Label("Share of reads in %")
                yield Input(str(self._percent), id="percent", compact=True, type="integer", max_length=3)
            with Horizontal(classes="field"):
                yield Label(Content.assemble("Type ", (table, "bold")))
                yield Input(id="typed", placeholder="the table's name", compact=True, select_on_focus=False)
            if _overridable(self._blockers):
                yield from _reason(self._blockers)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                if any(blocker.name == "sync" for blocker in self._blockers):
                    yield Button("When in sync", id="postpone", disabled=True, compact=True)
                yield Button("Cut over", id="go", variant="primary", disabled=True, compact=True)

    def _answer(self, postponed: bool = False) -> CutoverAnswer | None:
        text = self.query_one("#percent", Input).value
        if not text.isdigit() or not 1 <= int(text) <= 100 or _hard(self._blockers):
            return None
        if self.query_one("#typed", Input).value.strip() != self._view.table:
            return None
        # Waiting for the sync is what releases the sync blocker: alone, it needs no reason then.
        passed = _passed(self, tuple(each for each in self._blockers if not postponed or each.name != "sync"))
        return None if passed is None else CutoverAnswer(int(text), passed, postponed)

    @on(Input.Changed)
    def typed(self) -> None:
        """The buttons are released by a whole answer only."""
        self.query_one("#go", Button).disabled = self._answer() is None
        for button in self.query("#postpone").results(Button):
            button.disabled = self._answer(postponed=True) is None

    @on(Input.Submitted)
    @on(Button.Pressed, "#go")
    def confirmed(self) -> None:
        """Enter in a field goes on only with a whole answer."""
        answer = self._answer()
        if answer is not None:
            self.dismiss(answer)
        else:
            _go_to_gap(self, self._view.table)

    @on(Button.Pressed, "#postpone")
    def postponed(self) -> None:
        """The engine cuts over by itself once nothing waits."""
        answer = self._answer(postponed=True)
        if answer is not None:
            self.dismiss(answer)


def _go_to_gap(dialog: Dialog[T], table: str) -> None:
    """Brings the cursor to the first field that keeps the answer from being whole."""
    typed = dialog.query_one("#typed", Input)
    if typed.value.strip() != table:
        typed.focus()
        if typed.value.strip():
            dialog.query_one(".dialog").border_subtitle = "That is not the table's name"
        return
    for gap in dialog.query(".override").results(Input):
        if gap.value.strip() != gap.name and (gap.name or not gap.value.strip()):
            gap.focus()
            return


def _hard(blockers: tuple[Blocker, ...]) -> bool:
    return any(not blocker.overridable for blocker in blockers)


def _overridable(blockers: tuple[Blocker, ...]) -> bool:
    return bool(blockers) and not _hard(blockers)


def _obstacles(blockers: tuple[Blocker, ...]) -> ComposeResult:
    """What stands against it, with what would release it."""
    for blocker in blockers:
        mark, style = ("! ", "$warning") if blocker.overridable else ("✗ ", "$error")
        message = safe.line(blocker.message)
        message += "" if message.endswith((".", "!", "?")) else "."
        parts: list[draw.Part] = [(mark, f"bold {style}"), (message, style)]
        if blocker.release:
            parts.append((f" {acts.keyed(safe.line(blocker.release))}", "$muted"))
        yield Static(draw.line(*parts), classes="obstacle")


def _reason(blockers: tuple[Blocker, ...]) -> ComposeResult:
    """One reason for all that is shown; what loses rows their only vector is typed with their number, each."""
    with Horizontal(classes="field"):
        yield Label("Reason to override")
        yield Input(id="override", classes="override", placeholder="kept in the log", compact=True)
    for blocker in blockers:
        if blocker.rows is not None:
            with Horizontal(classes="field"):
                yield Label(Content.assemble("Type ", (str(blocker.rows), "bold"), f" for {blocker.name}"))
                yield Input(
                    id=f"rows-{blocker.name}", classes="override", name=str(blocker.rows), placeholder="rows at stake",
                    compact=True, select_on_focus=False,
                )  # fmt: skip


def _passed(dialog: Dialog[T], blockers: tuple[Blocker, ...]) -> dict[str, str] | None:
    """What the operator overrides and why, by the engine's names; None while something of it is missing."""
    if not blockers:
        return {}
    reason = "".join(each.value.strip() for each in dialog.query("#override").results(Input))
    counts = [each for each in dialog.query(".override").results(Input) if each.name]
    if not reason or any(each.value.strip() != each.name for each in counts):
        return None
    return {blocker.token: reason for blocker in blockers}


class LimitsDialog(Dialog[dict[str, float]]):
    """Sets the shared pace; an empty field leaves a limit as it is."""

    FIELDS = (
        ("requests_per_minute", "Requests per minute"),
        ("tokens_per_minute", "Tokens per minute"),
        ("max_concurrency", "Requests in flight"),
        ("spend_cap", "Spend cap in $"),
    )
    AUTO_FOCUS = "#requests_per_minute"

    def __init__(self, view: View) -> None:
        super().__init__()
        self._view = view

    def compose(self) -> ComposeResult:
        status = self._view.snapshot.backfill if self._view.snapshot else BackfillStatus()
        now: dict[str, float | None] = {
            "requests_per_minute": status.requests_per_minute,
            "tokens_per_minute": status.tokens_per_minute,
            "max_concurrency": status.concurrency,
            "spend_cap": status.cap,
        }
        with Vertical(classes="dialog") as box:
            box.border_title = f"Limits of {safe.line(self._view.table)}"
            yield Static(Content.styled("For all workers, at once. Empty: as it is. 0: no limit.", "$muted"))
            for name, text in self.FIELDS:
                value = now[name]
                with Horizontal(classes="field"):
                    yield Label(text)
                    yield Input(
                        id=name,
                        compact=True,
                        type="integer" if name == "max_concurrency" else "number",
                        placeholder=_as_it_is(name, value),
                    )
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Set", id="go", variant="primary", compact=True)

    @on(Input.Submitted)
    @on(Button.Pressed, "#go")
    def confirmed(self) -> None:
        """Takes the fields that hold a number; 0 takes a limit away."""
        limits: dict[str, float] = {}
        for name, _ in self.FIELDS:
            text = self.query_one(f"#{name}", Input).value.strip()
            if not text:
                continue
            try:
                value = float(text)
            except ValueError:
                value = -1
            if value < 0 or (name == "max_concurrency" and value < 1):
                self.query_one(f"#{name}", Input).focus()
                self.notify("A limit is a number, and at least one request has to be in flight.", severity="warning")
                return
            limits[name] = int(value) if name == "max_concurrency" else value
        self.dismiss(limits)


def _as_it_is(name: str, value: float | None) -> str:
    """What an empty field leaves; requests in flight are told only while there are any."""
    if value is not None:
        return f"{value:,.10g}"
    return "as it is" if name == "max_concurrency" else "no limit"


@dataclass(frozen=True, slots=True)
class VerifyAnswer:
    """How a scan is made."""

    sample: int = 0
    """Rows that are embedded again and compared."""
    repair: bool = False
    """What is wrong is queued to be embedded again."""


class VerifyDialog(Dialog[VerifyAnswer]):
    """Asks how thorough a scan of every row should be."""

    AUTO_FOCUS = "#sample"

    def __init__(self, view: View) -> None:
        super().__init__()
        self._table = view.table

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = Content(f"Verify {safe.line(self._table)}")
            yield Static(
                Content.styled(
                    "Reads every row: missing, stale, of the wrong model, faulty. Changes nothing.", "$muted"
                )
            )
            with Horizontal(classes="field"):
                yield Label("Rows to embed again")
                yield Input("0", id="sample", compact=True, type="integer", max_length=6)
            yield Tick("Queue what is wrong, to be embedded again", id="repair", compact=True)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Verify", id="go", variant="primary", compact=True)

    @on(Input.Submitted)
    @on(Button.Pressed, "#go")
    def confirmed(self) -> None:
        """An empty number is none."""
        text = self.query_one("#sample", Input).value.strip() or "0"
        if text.isdigit():
            self.dismiss(VerifyAnswer(int(text), self.query_one("#repair", Checkbox).value))


class AskingDialog(Dialog[None]):
    """Keeps the place of a dialog while the database is asked, and what is typed meanwhile."""

    AUTO_FOCUS = ""

    def __init__(self, about: str) -> None:
        super().__init__()
        self.about = about
        """Name of the act whose dialog is to come."""
        self.typed: list[str] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(draw.line(("◌ asking the database …", "$muted")))

    def on_key(self, event: events.Key) -> None:
        """Typed ahead; Enter and the like are for what can be seen, and Escape leaves."""
        if event.character and event.is_printable:
            self.typed.append(event.character)
            event.stop()


class StopDialog(Dialog[bool]):
    """Asks whether a process at work is to stop; names it."""

    def __init__(self, name: str, doing: str) -> None:
        super().__init__()
        self._process, self._doing = name, doing

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = Content("Stop a process")
            yield Static(draw.line((safe.line(self._process), "bold"), "  ", (safe.line(self._doing), "$muted")))
            yield Static(Content("It finishes its requests in flight, stores them and ends. Others go on."))
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Stop", id="go", variant="warning", compact=True)

    @on(Button.Pressed, "#go")
    def confirmed(self) -> None:
        """Yes."""
        self.dismiss(True)


class PromptDialog(Dialog[str]):
    """Asks for one line of text."""

    AUTO_FOCUS = "#text"

    def __init__(self, title: str, label: str, value: str = "") -> None:
        super().__init__()
        self._title, self._label, self._value = title, label, value

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = self._title
            yield Label(Content(self._label))
            yield Input(self._value, id="text", compact=True)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("OK", id="go", variant="primary", compact=True)

    @on(Input.Submitted)
    @on(Button.Pressed, "#go")
    def confirmed(self) -> None:
        """Anything but an empty line is an answer."""
        text = self.query_one("#text", Input).value.strip()
        if text:
            self.dismiss(text)


class ReportDialog(Dialog[None]):
    """What a full scan found."""

    def __init__(self, report: VerifyReport) -> None:
        super().__init__()
        self._report = report

    def compose(self) -> ComposeResult:
        report = self._report
        with Vertical(classes="dialog") as box:
            box.border_title = "Verify"
            head = ("✓ clean", "bold $success") if report.clean else ("✗ not clean", "bold $error")
            rows = [draw.line(head, (f"  {draw.number(report.rows)} rows read", "$muted"))]
            for name, count, bad in (
                ("embedded", report.embedded, False),
                ("empty", report.empty, False),
                ("skipped", report.skipped, False),
                ("unverified", report.unverified, False),
                ("missing", report.missing, True),
                ("stale", report.stale, True),
                ("wrong model", report.wrong_model, True),
                ("faulty", report.faulty, True),
                ("orphaned", report.orphaned, True),
                ("mismatched", report.mismatched, True),
            ):
                mark = ("✗ ", "$error") if bad and count else ("✓ ", "$success") if bad else ("· ", "$muted")
                rows.append(
                    draw.line(
                        mark,
                        (draw.fit(name, 14), "$muted"),
                        (draw.number(count), "bold $error" if bad and count else ""),
                    )
                )
            if report.sampled:
                rows.append(draw.line(("· sampled       ", "$muted"), draw.number(report.sampled)))
            yield Static(draw.lines(rows))
            with Horizontal(classes="buttons"):
                yield Button("Close", id="cancel", compact=True)
