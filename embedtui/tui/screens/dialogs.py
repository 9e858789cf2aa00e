"""Dialogs: each names its target, says what will happen, and has the harmless answer focused."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

from embedtui.model import VerifyReport
from embedtui.tui import draw, safe
from embedtui.tui.view import View

T = TypeVar("T")


class Dialog(ModalScreen[T]):
    """A box in the middle; Escape always means no."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss_dialog", "Cancel", show=False)]
    AUTO_FOCUS = "#cancel"

    def action_dismiss_dialog(self) -> None:
        """Leaves without an answer."""
        self.dismiss(None)

    def on_key(self, event: events.Key) -> None:
        # Cancel is focused so that Enter is harmless; what is typed goes to the first field all the same.
        if isinstance(self.focused, Button) and event.character and event.is_printable and event.character != " ":
            field = next(iter(self.query(Input)), None)
            if field is not None:
                event.stop()
                field.focus()
                field.insert_text_at_cursor(event.character)

    @on(Button.Pressed, "#cancel")
    def cancelled(self) -> None:
        """Cancel was chosen."""
        self.dismiss(None)


class TypedNameDialog(Dialog[str]):
    """Asks for the table's name before something that cannot be taken back."""

    def __init__(self, verb: str, text: str, table: str, statements: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._verb, self._text, self._table, self._statements = verb, text, table, statements

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -danger") as box:
            box.border_title = f"{self._verb} {safe.line(self._table)}"
            yield Static(Content(self._text))
            if self._statements:
                with VerticalScroll(classes="sql"):
                    yield Static(Content(safe.block(";\n".join(self._statements))))
            yield Label(Content.assemble("Type ", (safe.line(self._table), "bold"), " to go on:"))
            yield Input(id="typed", compact=True)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button(self._verb, id="go", variant="error", disabled=True, compact=True)

    @property
    def _matches(self) -> bool:
        return self.query_one("#typed", Input).value.strip() == self._table

    @on(Input.Changed, "#typed")
    def typed(self) -> None:
        """Only the whole name releases the button."""
        self.query_one("#go", Button).disabled = not self._matches

    @on(Input.Submitted, "#typed")
    @on(Button.Pressed, "#go")
    def confirmed(self) -> None:
        """The name was typed and confirmed."""
        if self._matches:
            self.dismiss(self.query_one("#typed", Input).value.strip())


class CutoverDialog(Dialog[tuple[int, str]]):
    """Says what a cutover will do, and takes share, table name and, where the gate is not passed, a reason."""

    def __init__(self, view: View, percent: int = 100) -> None:
        super().__init__()
        self._view, self._percent = view, percent

    def compose(self) -> ComposeResult:
        snapshot = self._view.snapshot
        table = self._view.table
        evaluation = snapshot.evaluation if snapshot else None
        passed = evaluation is not None and evaluation.valid and evaluation.verdict == "PASS"
        dead = snapshot is not None and snapshot.migration is not None and snapshot.migration.old_model.retired
        with Vertical(classes="dialog") as box:
            box.border_title = f"Cut over {safe.line(table)}"
            yield Static(
                Content.assemble(
                    "The pointer moves; searches then use ",
                    ("◆ new", "bold $new"),
                    ". No DDL, no lock on the table.\n",
                    "Rollback: ",
                    ("F9", "bold"),
                    ", from anywhere, unasked.",
                )
            )
            if dead:
                yield Static(
                    Content.styled(
                        "! The old model is dead: rows written from now on will be stale after a rollback.", "$warning"
                    )
                )
            with Horizontal(classes="field"):
                yield Label("Share of reads in %")
                yield Input(str(self._percent), id="percent", compact=True, type="integer", max_length=3)
            with Horizontal(classes="field"):
                yield Label(Content.assemble("Type ", (safe.line(table), "bold")))
                yield Input(id="typed", compact=True)
            if not passed:
                verdict = (
                    "there is no evaluation yet"
                    if evaluation is None
                    else (
                        f"the evaluation says {evaluation.verdict}"
                        if evaluation.valid
                        else "the evaluation no longer fits the state"
                    )
                )
                yield Static(
                    Content.styled(
                        f"! The gate is not passed: {verdict}. An override needs a reason; it is kept in the log.",
                        "$warning",
                    )
                )
                with Horizontal(classes="field"):
                    yield Label("Reason")
                    yield Input(id="override", compact=True)
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Cut over", id="go", variant="primary", disabled=True, compact=True)

    def on_key(self, event: events.Key) -> None:
        # What is typed on Cancel goes to the name, not to the share.
        if isinstance(self.focused, Button) and event.character and event.is_printable and event.character != " ":
            event.stop()
            field = self.query_one("#typed", Input)
            field.focus()
            field.insert_text_at_cursor(event.character)

    @property
    def _answer(self) -> tuple[int, str] | None:
        text = self.query_one("#percent", Input).value
        if not text.isdigit() or not 1 <= int(text) <= 100:
            return None
        if self.query_one("#typed", Input).value.strip() != self._view.table:
            return None
        reasons = list(self.query("#override").results(Input))
        reason = reasons[0].value.strip() if reasons else ""
        return (int(text), reason) if reason or not reasons else None

    @on(Input.Changed)
    def typed(self) -> None:
        """The button is released by a whole answer only."""
        self.query_one("#go", Button).disabled = self._answer is None

    @on(Input.Submitted)
    @on(Button.Pressed, "#go")
    def confirmed(self) -> None:
        """Enter in a field goes on only with a whole answer."""
        if self._answer is not None:
            self.dismiss(self._answer)


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
        status = self._view.snapshot.backfill if self._view.snapshot else None
        now = {
            "requests_per_minute": status and status.requests_per_minute,
            "tokens_per_minute": status and status.tokens_per_minute,
            "max_concurrency": status and status.concurrency,
            "spend_cap": status and status.cap,
        }
        with Vertical(classes="dialog") as box:
            box.border_title = f"Limits of {safe.line(self._view.table)}"
            yield Static(Content.styled("Shared by all workers, at once. An empty field stays as it is.", "$muted"))
            for name, text in self.FIELDS:
                value = now[name]
                with Horizontal(classes="field"):
                    yield Label(text)
                    yield Input(
                        id=name,
                        compact=True,
                        type="integer" if name == "max_concurrency" else "number",
                        placeholder="no limit" if value is None else f"{value:g}",
                    )
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel", compact=True)
                yield Button("Set", id="go", variant="primary", compact=True)

    @on(Input.Submitted)
    @on(Button.Pressed, "#go")
    def confirmed(self) -> None:
        """Takes the fields that hold a positive number."""
        limits: dict[str, float] = {}
        for name, _ in self.FIELDS:
            text = self.query_one(f"#{name}", Input).value.strip()
            if not text:
                continue
            try:
                value = float(text)
            except ValueError:
                value = 0
            if value <= 0:
                self.query_one(f"#{name}", Input).focus()
                self.notify("A limit is a number above zero.", severity="warning")
                return
            limits[name] = int(value) if name == "max_concurrency" else value
        self.dismiss(limits)


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
