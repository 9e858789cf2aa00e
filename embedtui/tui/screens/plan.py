"""Plan: what a migration would do, found read-only: checks, price, time and the exact SQL."""

from __future__ import annotations

import threading
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content

from embedtui.formatting import counted
from embedtui.model import Phase, Plan
from embedtui.tui import draw, figures, safe
from embedtui.tui.actions import READONLY
from embedtui.tui.messages import ModelSilent, PlanRead, ReadFailed
from embedtui.tui.panels.gate import check_lines
from embedtui.tui.remedies import worded
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.view import Trouble, View
from embedtui.tui.widgets.panel import Panel
from embedtui.tui.widgets.sheet import Sheet


class PlanScreen(DashboardScreen):
    """Nothing here changes anything."""

    NAME = "plan"
    AUTO_FOCUS = "#plan-checks"
    KEYS = ("again", "ask", "copy")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "again", "Plan again", tooltip="Read the table, the server and the rights anew."),
        Binding(
            "a",
            "ask",
            "Ask models",
            tooltip="Ask the providers, too: key, name, dimensions, limits, and whether some rows embedded again give"
            " the stored vectors. It costs a fraction of a cent.",
        ),
        Binding("escape", "leave_asking", "Leave", show=False),
        Binding("y", "copy", "Copy SQL", tooltip="Copy the SQL, and save it as a file."),
    ]

    def __init__(self) -> None:
        """Nothing is read yet."""
        super().__init__()
        self.plan: Plan | None = None
        self._trouble: Trouble | None = None
        self._reading = self._asking = False
        self._silent = ""
        """Who does not answer."""
        self._stop = threading.Event()
        self._read_at: tuple[object, ...] | None = None
        """Where the migration stood when it was last read."""

    def body(self) -> ComposeResult:
        """The figures, the checks and the SQL."""
        yield Panel(self._figures, id="plan-line")
        with Container(id="plan"):
            yield Sheet(self._checks, title="Checks", id="plan-checks", classes="box")
            yield Sheet(self._statements, title="SQL of prepare and index", id="plan-sql", classes="box")

    def opened(self) -> None:
        """Read the plan, and anew where the migration has moved on since."""
        if self._reading or self.dashboard.snapshot is None or self._read_at == self._stand:
            return
        if self._over:  # what its settings would do to the table now is another one's plan, and nobody asked
            self.plan, self._trouble, self._read_at = None, None, self._stand
            self.dashboard.another = False
            self._fill()
        else:
            self.action_again()

    def settings_changed(self) -> None:
        """Plan by them."""
        if not self._over:
            self.action_again()

    @property
    def _over(self) -> bool:
        return self.dashboard.view.phase is Phase.DONE

    @property
    def _stand(self) -> tuple[object, ...]:
        """Where the migration stands, as far as a plan tells of it."""
        found = self.dashboard.snapshot
        return () if found is None else (found.phase, found.route.active, found.route.canary)

    def refusal(self, action: str) -> str:
        """Asking costs a little, so who only watches does not."""
        return READONLY if action == "ask" and self.dashboard.readonly else ""

    def action_again(self) -> None:
        """Read the plan anew."""
        self._read(asking=False)

    def action_ask(self) -> None:
        """Read it anew, and ask the models."""
        if not self.refuse("ask"):
            self._read(asking=True)

    def _read(self, *, asking: bool) -> None:
        self._reading, self._asking, self._trouble = True, asking, None
        self._read_at = self._stand
        self._stop.set()  # one that still asks is of no use any more
        self._silent, self._stop = "", (stop := threading.Event())

        def say(text: str) -> None:
            if not stop.is_set():
                self.post_message(ModelSilent(text))

        self.ask_engine(lambda engine: engine.plan(check_provider=asking, say=say, stop=stop), PlanRead, key=PlanRead)
        self._fill()

    def on_model_silent(self, message: ModelSilent) -> None:
        """Name it while that lasts."""
        self._silent = message.text
        self._fill()

    def action_leave_asking(self) -> None:
        """Wait for no model any more."""
        if self._reading and self._asking:
            self._stop.set()

    def on_plan_read(self, message: PlanRead) -> None:
        """Show it."""
        self.plan, self._reading = message.plan, False
        self.dashboard.another = message.plan.another
        self.query_one("#footer", Panel).show(self.dashboard.view)
        self._fill()

    def on_read_failed(self, message: ReadFailed) -> None:
        """Say why there is none."""
        self._trouble, self._reading = message.trouble, False
        self._fill()

    def action_copy(self) -> None:
        """Hand out the SQL as text."""
        if self.plan is not None:
            self.dashboard.hand_out(sql_text(self.plan), "plan.sql")
        else:
            self.dashboard.say("The plan is not read yet.", title="Copy", severity="warning")

    def _fill(self) -> None:
        self.query_one("#plan-line", Panel).show(self.dashboard.view)
        for sheet in self.query(Sheet):
            sheet.repaint()

    @property
    def _under_way(self) -> str:
        """What is done about the plan now; over the plan before it stands where it cannot scroll out of sight."""
        if self._asking and self._silent:
            return f"◌ {safe.line(self._silent)} Esc stops."
        if self._asking:
            return "◌ asking the models, which can take half a minute …"
        return "◌ reading the table, the server and the rights …"

    def _checks(self, width: int) -> Content:
        if self._trouble is not None:
            rows = draw.wrapped(f"✗ {safe.line(self._trouble.message)}", width, "$error", 4)
            return draw.lines(
                [*rows, *draw.wrapped(worded(self._trouble.hint, self._trouble.remedies), width, "$muted", 4)]
            )
        if self.plan is None and self._over and not self._reading:
            text = (
                "✓ This migration is done: nothing is left to plan. n plans another one of this table by the settings;"
                " r then begins it, once you have seen it."
            )
            return draw.lines(draw.wrapped(text, width, "$success"))
        if self.plan is None:
            return draw.line((self._under_way, "$muted"))
        rows = []
        for check in self.plan.worst_first:
            rows += check_lines(check, width, 6)
        return draw.lines(rows)

    def _statements(self, _width: int) -> Content:
        if self.plan is None:
            return Content.styled("The exact statements appear here.", "$muted")
        return Content(safe.block(sql_text(self.plan)))

    def _figures(self, view: View, width: int, height: int) -> Content:
        plan = self.plan
        if plan is None:
            return Content("")
        if self._reading and self._silent:
            return draw.lines(draw.wrapped(self._under_way, width, "bold $warning", 2), height)
        failing = [safe.line(check.name) for check in plan.checks if check.result == "fail"]
        warned = sum(check.result == "warn" for check in plan.checks)
        of = " of another one" if view.phase is Phase.DONE else ""
        if failing:
            verdict = draw.line((f"✗ {counted(len(failing), 'check', 'checks')} in the way{of}", "bold $error"))
        elif warned:
            verdict = draw.line((f"! {counted(warned, 'check', 'checks')} to look at{of}", "bold $warning"))
        else:
            verdict = draw.line((f"✓ ready{of and ' for another one'}", "bold $success"))
        price: draw.Part = (f"~{figures.money(plan.estimated_cost)}", "bold")
        if plan.estimated_cost is None:
            price = ("price unknown", "$muted")
        time: draw.Part = (f"~{figures.duration(plan.estimated_seconds)}", "bold")
        if plan.estimated_seconds is None:
            time = ("time unknown", "$muted")
        first = draw.line(
            (self._under_way, "bold $primary") if self._reading else verdict,
            "   ",
            (figures.number(plan.rows - plan.empty_rows), "bold"),
            (" rows  ", "$muted"),
            (f"~{figures.short(plan.estimated_tokens)}", "bold"),
            (" tokens  ", "$muted"),
            price,
            "  ",
            time,
        )
        if failing and not self._reading:
            named = draw.line(verdict, (f": {', '.join(failing)}", "bold $error"), first[verdict.cell_length :])
            first = draw.fitting(width, named, first)
        if plan.proof_tokens:
            cost = figures.money(plan.proof_cost, unknown=f"{figures.short(plan.proof_tokens)} tokens")
            first = draw.line(first, ("  proof ", "$muted"), cost, (" by the old model", "$muted"))
        second = draw.line((f"{plan.placement}", "bold $new"), *_batch_parts(plan), "  ")
        why = draw.whole(safe.line(plan.placement_why), width - second.cell_length)
        second = draw.line(second, (why, "$muted"))
        return draw.lines([draw.cut(first, width), draw.cut(second, width)], height)


def _batch_parts(plan: Plan) -> list[draw.Part]:
    if plan.batch is None:
        return []
    mark = "by batch jobs " if plan.batch.chosen else "or by batch jobs "
    price: draw.Part = (f"~{figures.money(plan.batch.cost)}", "bold")
    if plan.batch.cost is None:
        price = ("price unknown", "$muted")
    return [(f"  {mark}", "$muted"), price, (", each in 24 h", "$muted")]


def sql_text(plan: Plan) -> str:
    """The statements as a file would hold them."""
    return "\n\n".join(f"{statement.rstrip().rstrip(';')};" for statement in plan.statements) + "\n"
