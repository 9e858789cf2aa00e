"""Dialogs of one question: a line of text, whether to stop a process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Input, Label, Static, TextArea

from embedtui.errors import SettingsError
from embedtui.formatting import counted
from embedtui.model import QueryComparison, query_file
from embedtui.tui import draw, safe
from embedtui.tui.dialogs.base import Dialog, Tick


class PromptDialog(Dialog[str]):
    """Asks for one line of text."""

    AUTO_FOCUS = "#text"

    def __init__(self, title: str, label: str, value: str = "", *, optional: bool = False) -> None:
        """Ask for ``label``, with ``value`` filled in; an empty line is an answer where it is ``optional``."""
        super().__init__(title, go="OK")
        self._label, self._value, self._optional = label, value, optional

    def body(self) -> ComposeResult:
        """The question and its field."""
        yield Label(Content(self._label))
        yield Input(self._value, id="text", compact=True)

    def answer(self) -> str | None:
        """A line; an empty one only where that is an answer."""
        text = self.query_one("#text", Input).value.strip()
        return text if text or self._optional else None


@dataclass(frozen=True, slots=True)
class QueriesAnswer:
    """Which queries to compare."""

    given: str
    """Where they are, or themselves."""
    together: bool = False
    """With those of the newest comparison."""


class QueriesDialog(Dialog[QueriesAnswer]):
    """Asks for queries: where they are, or themselves; and what becomes of the evidence that is there."""

    AUTO_FOCUS = "#queries"

    def __init__(
        self, refusal: Callable[[], str] = str, draft: str = "", compared: Sequence[QueryComparison] = ()
    ) -> None:
        """Ask.

        Args:
            refusal: says why nothing can be compared now, if so.
            draft: what was typed before it was left.
            compared: queries of the newest comparison.
        """
        super().__init__("Compare queries of yours", go="Compare")
        self._refusal, self.draft, self._compared = refusal, draft, compared

    def body(self) -> ComposeResult:
        """What may be given, and the field."""
        yield Static(
            Content(
                "A file (lines, JSONL, CSV), a SELECT over your query log (column text, perhaps relevant and vector),"
                " or queries, one a line. Enter adds a line; Tab goes on to the buttons, Cancel first."
            )
        )
        if self._compared:
            yield from self._evidence()
        yield TextArea(self.draft, id="queries", compact=True, tab_behavior="focus")

    def on_mount(self) -> None:
        """Have what is typed now take the place of what was typed then."""
        self.query_one("#queries", TextArea).select_all()

    def _evidence(self) -> ComposeResult:
        """What the newest comparison has, and whether it is to be left behind."""
        verdicts = sum(bool(query.verdict) for query in self._compared)
        has = f"{counted(len(self._compared), 'query', 'queries')} with {counted(verdicts, 'verdict', 'verdicts')}"
        said = f"The gate goes by the newest comparison alone; now that has {has}. All are kept: c compares them again."
        yield Static(Content.styled(said, "$warning"))
        # rows only stand in where there are no real queries
        real = bool(verdicts) or any(query.row is None for query in self._compared)
        yield Tick(f"Compare the {len(self._compared):,} of now as well", real, id="together", compact=True)

    def answer(self) -> QueriesAnswer | None:
        """Anything but blanks and the name of a file that is none, once it can be compared."""
        given = self.query_one("#queries", TextArea).text.strip()
        if not given or self._refused(given):
            return None
        return QueriesAnswer(given, any(each.value for each in self.query("#together").results(Tick)))

    def go_to_gap(self) -> None:
        """To the field; what is wrong with it is said."""
        field = self.query_one("#queries", TextArea)
        field.focus()
        self.query_one(".dialog").border_subtitle = Content(safe.line(self._refused(field.text), 60))

    def _refused(self, given: str) -> str:
        try:
            query_file(given)
        except SettingsError as error:
            return error.message
        return self._refusal()

    @on(TextArea.Changed)
    def retyped(self) -> None:
        """What was said of a file no longer holds; what is typed is kept, should it be left by mistake."""
        self.draft = self.query_one("#queries", TextArea).text
        self.query_one(".dialog").border_subtitle = ""


class StopDialog(Dialog[bool]):
    """Asks whether a process at work is to stop; names it."""

    def __init__(self, name: str, doing: str, others: int) -> None:
        """Ask about process ``name``, which is ``doing`` something beside so many others."""
        super().__init__("Stop a process", "Stop", "warning")
        self._process, self._doing, self._others = name, doing, others

    def body(self) -> ComposeResult:
        """Which process, and what becomes of its work."""
        yield Static(draw.line((safe.line(self._process), "bold"), "  ", (safe.line(self._doing), "$muted")))
        rest = "Others go on." if self._others else "Nobody works then: nothing is embedded until a run begins."
        yield Static(Content(f"It finishes its requests in flight, stores them and ends. {rest}"))

    def answer(self) -> bool:
        """Yes."""
        return True


class ForgetDialog(Dialog[bool]):
    """Asks whether a query is to be kept no longer."""

    def __init__(self, text: str) -> None:
        """Ask about the query ``text``."""
        super().__init__("Forget a query", "Forget", "warning")
        self._text = text

    def body(self) -> ComposeResult:
        """Which query, and what goes with it."""
        yield Static(draw.line((f"“{safe.line(self._text, 200)}”", "bold")))
        yield Static(
            Content(
                "It goes with its vectors and all operators' verdicts on it. The figures of this comparison still count"
                " it; the next one leaves it out. From a file or log it can be loaded again."
            )
        )

    def answer(self) -> bool:
        """Yes."""
        return True
