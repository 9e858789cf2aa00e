"""What comes into Compare and goes out of it: queries of one's own, of a file or a log; rankings as text, CSV, HTML."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import ClassVar

from textual.binding import Binding, BindingType

from embedtui.model import Comparison, QueryComparison
from embedtui.tui.actions import ACTIONS
from embedtui.tui.actions.migration import Compare
from embedtui.tui.dialogs import PromptDialog, QueriesAnswer, QueriesDialog
from embedtui.tui.engine_threads import Task
from embedtui.tui.messages import Exported, QuerySearched
from embedtui.tui.panels import comparison as lines
from embedtui.tui.screens.base import FilteredScreen


class ExchangeScreen(FilteredScreen):
    """A screen over a comparison, which has one query chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "ask", "Ask", show=False, tooltip="Compare a query of your own."),
        Binding("L", "load", "Load", show=False, tooltip="Compare queries of a file, a query log or a list."),
        Binding("y", "copy", "Copy", show=False, tooltip="Copy both rankings, and save them as a file."),
        Binding("E", "export", "Export", show=False, tooltip="Save what is listed as CSV and as a page."),
    ]
    KINDS = ("csv", "html")

    def __init__(self) -> None:
        """Nothing is compared yet."""
        super().__init__()
        self.comparison: Comparison | None = None
        self.asked: QueryComparison | None = None
        """A query of the operator's own, shown alone."""
        self.shown: list[QueryComparison] = []
        """The queries listed."""
        self._draft = ""
        """Queries that were typed, and are not compared."""

    @property
    def chosen_query(self) -> QueryComparison | None:
        """The query under the cursor."""
        cursor = self.listing.cursor
        return self.shown[cursor] if cursor < len(self.shown) else None

    def refusal(self, action: str) -> str:
        """Asking and loading search both sides, which the state has to allow."""
        if action not in ("ask", "load"):
            return ""
        view = self.dashboard.view
        # a comparison under way ends: what is typed meanwhile is for the dialog, which waits for that
        view = replace(view, busy=tuple(each for each in view.busy if each != "compare"))
        # a query of one's own is not kept: who only watches may ask it, too
        return ACTIONS["compare"].refusal(replace(view, readonly=view.readonly and action == "load"))

    def action_ask(self) -> None:
        """Ask for a query and compare it alone."""
        if self.refuse("ask", "Ask"):
            return

        def answered(text: str | None) -> None:
            if text is not None:
                self.dashboard.preferences = self.dashboard.preferences.with_query(text)
                self.dashboard.bridge.do(
                    Task("ask", lambda engine, _: engine.search_both(text), result=QuerySearched, to=self.post_message)
                )

        before = self.dashboard.preferences.queries
        self.dashboard.push_screen(
            PromptDialog("Ask", "Query to compare on both sides:", before[0] if before else ""), answered
        )

    def action_load(self) -> None:
        """Ask where queries are, and compare them."""
        compare = ACTIONS["compare"]
        assert isinstance(compare, Compare)
        if self.refuse("load", "Load"):
            return
        compared = self.dashboard.comparison.queries if self.dashboard.comparison else ()

        def answered(answer: QueriesAnswer | None) -> None:
            self._draft = dialog.draft if answer is None else answer.given  # until it is compared: it may be wrong
            if answer is not None:
                compare.start(self.dashboard, answer.given, compared if answer.together else ())

        dialog = QueriesDialog(lambda: compare.refusal(self.dashboard.view), self._draft, compared)
        self.dashboard.push_screen(dialog, answered)

    def action_copy(self) -> None:
        """Hand out both rankings as text."""
        chosen = self.chosen_query
        if chosen is not None:
            # own ones have no number: by the text, or the next would overwrite this one
            name = f"query-{chosen.query_id}" if self.asked is None else f"own-{zlib.crc32(chosen.text.encode()):08x}"
            self.dashboard.hand_out(lines.as_text(chosen), f"{name}.txt")
        else:
            self.dashboard.say("No query is listed.", title="Copy", severity="warning")

    def action_export(self) -> None:
        """Have the comparison written down in each form: the queries that are listed, in their order."""
        comparison = self.comparison
        if comparison is None:
            self.dashboard.say("Nothing is compared yet: press c.", title="Export", severity="warning")
            return
        if self.refuse("export", "Export"):
            return
        if self.asked is None:
            comparison = replace(comparison, queries=tuple(self.shown))
        for kind in self.KINDS:
            self.ask_engine(
                lambda engine, kind=kind: engine.written_down(comparison, kind),  # type: ignore[misc]
                lambda text, kind=kind: Exported(text, kind, len(comparison.queries)),  # type: ignore[misc]
                ("export", kind),
            )

    def on_exported(self, message: Exported) -> None:
        """Save it; that it is not all of it is in its name."""
        number = self.comparison.evaluation_id if self.comparison else None
        every = len(self.comparison.queries) if self.comparison else message.queries
        part = "" if message.queries == every else f"-{message.queries}-of-{every}"
        self.dashboard.save_as(message.text, f"comparison-{number or 'unrecorded'}{part}.{message.kind}")
