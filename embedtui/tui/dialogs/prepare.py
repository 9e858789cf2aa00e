"""The dialog before the first change of production's table: what it is, how long it locks, what it costs."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from embedtui.formatting import counted
from embedtui.model import Plan
from embedtui.tui import draw, figures, safe
from embedtui.tui.dialogs.base import Dialog
from embedtui.tui.remedies import worded


class PrepareDialog(Dialog[bool]):
    """Asks whether the table is to be altered and the work to begin."""

    def __init__(self, plan: Plan) -> None:
        """Ask about what ``plan`` would do."""
        super().__init__(f"Run: alter {plan.table}", "Run", "warning")
        self._plan = plan

    def body(self) -> ComposeResult:
        """The statements, the locks, the price, and what is in the way."""
        plan = self._plan
        what = counted(len(plan.statements), "statement alters", "statements alter")
        yield Static(
            Content.assemble(
                f"{what} production's database. Each waits for long transactions, then tries for its lock for 0.2 to"
                " 2 s at a time; the index is built beside reads and writes. ",
                ("A", "bold"),
                " takes it all back until the cutover.",
            )
        )
        with VerticalScroll(classes="sql"):
            yield Static(Content(safe.block(";\n".join(each.rstrip().rstrip(";") for each in plan.statements) + ";")))
        rows = counted(plan.rows - plan.empty_rows, "row is", "rows are")
        cost = f"about {figures.money(plan.estimated_cost)}" if plan.estimated_cost is not None else "an unknown price"
        time = f" in about {figures.duration(plan.estimated_seconds)}" if plan.estimated_seconds is not None else ""
        yield Static(Content(f"Then {rows} embedded for {cost}{time}; p pauses that at any time."))
        for check in plan.checks:
            if check.result == "fail":
                hint = worded(check.hint, check.remedies)
                text = f"{safe.line(check.name)}: {safe.line(check.detail)}"
                yield Static(
                    draw.line(("✗ ", "bold $error"), (text, "$error"), (f" {hint}", "$muted")), classes="obstacle"
                )

    def answer(self) -> bool:
        """Yes."""
        return True
