"""The dialogs around a scan of every row: how thorough, and what it found."""

from __future__ import annotations

from dataclasses import dataclass

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Checkbox, Static

from embedtui.model import VerifyReport
from embedtui.tui import draw, figures
from embedtui.tui.dialogs.base import Dialog, Digits, Tick, field
from embedtui.tui.view import View


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
        """Ask about the table of ``view``."""
        super().__init__(f"Verify {view.table}", go="Verify")

    def body(self) -> ComposeResult:
        """Text and choices."""
        text = "Reads every row: missing, stale, of the wrong model, faulty. Changes nothing."
        yield Static(Content.styled(text, "$muted"))
        yield from field("Rows to embed again", Digits("0 to 999,999", "0", id="sample", longest=6))
        yield Tick("Queue what is wrong, to be embedded again", id="repair", compact=True)

    def answer(self) -> VerifyAnswer | None:
        """An empty number is none."""
        text = self.query_one("#sample", Digits).value.strip() or "0"
        return VerifyAnswer(int(text), self.query_one("#repair", Checkbox).value) if text.isdigit() else None

    def go_to_gap(self) -> None:
        """The number is none."""
        self.query_one("#sample", Digits).refuse()


class ReportDialog(Dialog[None]):
    """What a full scan found."""

    CANCEL = "Close"

    def __init__(self, report: VerifyReport) -> None:
        """Show ``report``."""
        super().__init__("Verify")
        self.report = report

    def body(self) -> ComposeResult:
        """A line for each count; of the second half, any row is one too many."""
        report = self.report
        head = ("✓ clean", "bold $success") if report.clean else ("✗ not clean", "bold $error")
        rows = [draw.line(head, (f"  {figures.number(report.rows)} rows read", "$muted"))]
        plain = ("embedded", "empty", "skipped", "unverified")
        rows += [_count("· ", "$muted", name, getattr(report, name)) for name in plain]
        for name in ("missing", "stale", "wrong_model", "faulty", "orphaned", "mismatched"):
            count = getattr(report, name)
            mark, style = ("✗ ", "$error") if count else ("✓ ", "$success")
            rows.append(_count(mark, style, name.replace("_", " "), count, "bold $error" if count else ""))
        if report.sampled:
            rows.append(_count("· ", "$muted", "sampled", report.sampled))
        yield Static(draw.lines(rows))


def _count(mark: str, style: str, name: str, count: int, shown: str = "") -> Content:
    return draw.line((mark, style), (draw.fit(name, 14), "$muted"), (figures.number(count), shown))
