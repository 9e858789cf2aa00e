"""Compare: queries of lowest overlap first, the two rankings side by side, and the operator's verdicts."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content

from embedtui.model import Comparison, QueryComparison
from embedtui.tui import draw, safe
from embedtui.tui.actions import READONLY
from embedtui.tui.bridge import Task
from embedtui.tui.dialogs import PromptDialog
from embedtui.tui.messages import Compared, ComparisonRead, QuerySearched, TaskAdvanced, VerdictKept, VerdictsCounted
from embedtui.tui.panels import comparison as lines
from embedtui.tui.panels.measures import measure_lines
from embedtui.tui.screens.base import FilteredScreen
from embedtui.tui.view import View
from embedtui.tui.widgets.evidence import Evidence
from embedtui.tui.widgets.listing import Listing
from embedtui.tui.widgets.panel import Panel
from embedtui.tui.widgets.rankings import Rankings


class CompareScreen(FilteredScreen):
    """Evidence: what the new model changes, query by query."""

    NAME = "compare"
    LIST = "#queries"
    AUTO_FOCUS = "#queries"
    KEYS = ("verdict('new')", "verdict('old')", "verdict('same')", "filter", "ask")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "verdict('new')", "New better", tooltip="This query is served better by the new side."),
        Binding("o", "verdict('old')", "Old better", tooltip="This query is served better by the old side."),
        Binding("s", "verdict('same')", "Same", tooltip="Neither is better."),
        Binding("b", "verdict('bad')", "Both bad", show=False, tooltip="Neither side finds what was asked for."),
        Binding("e", "note", "Note", show=False, tooltip="A note to the verdict just given, or on this query."),
        Binding(
            "slash", "filter", "Filter", show=False, key_display="/", tooltip="Only queries that contain the words."
        ),
        Binding("a", "ask", "Ask", show=False, tooltip="Compare a query of your own."),
        Binding("u", "undecided", "Undecided", show=False, tooltip="Only queries without a verdict, or all."),
        Binding("w", "order", "Order", show=False, tooltip="By overlap, by what got worse, or by text."),
        Binding("m", "figures", "Measures", show=False, tooltip="All measures, or the rankings again."),
        Binding("y", "copy", "Copy", show=False, tooltip="Copy both rankings, and save them as a file."),
        Binding("escape", "leave_filter", "Leave", show=False),
    ]

    def __init__(self) -> None:
        """Nothing is compared yet."""
        super().__init__()
        self._comparison: Comparison | None = None
        self.shown: list[QueryComparison] = []
        """The queries listed."""
        self.asked: QueryComparison | None = None
        """A query of the operator's own, shown alone."""
        self._selection = lines.Selection()
        self._just_decided: int | None = None
        """The query whose verdict was given last; the cursor has gone on."""

    def body(self) -> ComposeResult:
        """The list on one side; rankings, document and measures on the other."""
        yield Panel(self._summary, id="measures-line")
        with Container(id="compare"):
            with Vertical(id="queries-side", classes="box") as side:
                side.border_title = self._selection.title
                yield self.filter_field()
                empty = "Press c to compare both sides, a to ask a query of your own."
                yield Listing(self._query_line, empty=empty, id="queries")
            yield Evidence(self._measures, id="rankings-side")

    def on_mount(self) -> None:
        """Show what is known."""
        super().on_mount()
        # A watcher is called at once where a message would take several rounds: a move is one picture.
        self.watch(self.listing, "cursor", self._moved, init=False)
        if self.dashboard.comparison is not None:
            self._take(self.dashboard.comparison)

    def opened(self) -> None:
        """Show the newest comparison, or read it."""
        comparison = self.dashboard.comparison
        if comparison is None:
            self.dashboard.read_comparison()
        elif comparison is not self._comparison:
            self._take(comparison)
        if self.focused is None:
            self.listing.focus()

    def refusal(self, action: str) -> str:
        """Verdicts and notes are for the kept queries that are shown."""
        if action not in ("verdict", "note"):
            return ""
        if self.dashboard.readonly:
            return READONLY
        if self.has_class("-figures"):
            return "The queries are hidden: m or Esc shows them again."
        if self.asked is not None:
            return "An own query is not kept; verdicts are for the kept ones."
        if not self.shown:
            return "No query is compared yet: press c."
        if action == "note" and self._to_note is None:
            return "Give a verdict first, then its note: n, o, s or b."
        return ""

    # -------------------------------------------------------------------------------------------------- messages

    def on_compared(self, message: Compared) -> None:
        """A new comparison replaces what is shown, an own query, too."""
        self.asked = None
        self._take(message.comparison)

    def on_comparison_read(self, message: ComparisonRead) -> None:
        """The recorded one, unless a newer one came first."""
        if message.comparison is not None and self._comparison is None:
            self._take(message.comparison)

    def on_query_searched(self, message: QuerySearched) -> None:
        """The operator's own query, alone."""
        self.asked = message.query
        self._select(keep=False)
        self._repaint()

    def on_verdict_kept(self, _message: VerdictKept) -> None:
        """Other operators' verdicts count as well: have the sums made anew."""
        comparison = self._comparison
        if comparison is not None:
            self.ask_engine(lambda engine: engine.with_verdicts(comparison), VerdictsCounted)

    def on_verdicts_counted(self, message: VerdictsCounted) -> None:
        """Take the sums only: what is decided here meanwhile stays as it is on the screen."""
        if self._comparison is not None and self._comparison.evaluation_id == message.comparison.evaluation_id:
            self._comparison = replace(self._comparison, measures=message.comparison.measures)
            self.dashboard.comparison = self._comparison
            self._repaint()

    def on_task_advanced(self, _message: TaskAdvanced) -> None:
        """The summary shows how far a comparison is."""
        self.query_one("#measures-line", Panel).show(self.dashboard.view)

    # -------------------------------------------------------------------------------------------------- data

    def _take(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._select(keep=False)
        self._repaint()

    def _repaint(self) -> None:
        for panel in self.query(Panel):
            panel.show(self.dashboard.view)

    def _select(self, *, keep: bool) -> None:
        """Lists what the selection means; with ``keep`` the chosen query stays chosen."""
        chosen, every = self._chosen, self._comparison.queries if self._comparison else ()
        if self.asked is not None:
            every = (self.asked,)
        self.shown = self._selection.of(every)
        cursor = 0
        if keep and chosen is not None:
            cursor = next((i for i, query in enumerate(self.shown) if query.query_id == chosen.query_id), 0)
        self.query_one("#queries-side").border_title = self._selection.title
        if every:
            self.listing.empty = "No query matches; Esc clears the filter."
        self.listing.reset(len(self.shown), cursor)
        self._point()

    @property
    def _chosen(self) -> QueryComparison | None:
        cursor = self.listing.cursor
        return self.shown[cursor] if cursor < len(self.shown) else None

    def _moved(self) -> None:
        self._just_decided = None
        self._point()

    def _point(self) -> None:
        """Shows what speaks for the chosen query."""
        migration = self.dashboard.snapshot.migration if self.dashboard.snapshot else None
        models = (migration.old_model.name, migration.new_model.name) if migration else ("", "")
        self.query_one(Evidence).show_query(self._chosen, models)

    @on(Listing.Chosen, "#queries")
    def chosen(self) -> None:
        """Enter goes on to the rankings."""
        self.query_one(Rankings).focus()

    # -------------------------------------------------------------------------------------------------- actions

    def action_verdict(self, verdict: str) -> None:
        """Record the operator's verdict; the same again takes nothing back, another one replaces it."""
        chosen = self._chosen
        if self.refuse("verdict") or chosen is None:
            return
        self._decide(chosen, verdict, chosen.note if verdict == chosen.verdict else "")
        self.listing.cursor += 1
        self._just_decided = chosen.query_id

    def action_note(self) -> None:
        """Ask for a note to a verdict: the one just given, whose query the cursor has left, or the chosen query's."""
        query = self._to_note
        if self.refuse("note") or query is None:
            return
        glyph, word, _ = lines.VERDICTS[query.verdict]

        def answered(note: str | None) -> None:
            if note is not None:
                self._decide(query, query.verdict, note)

        about = f"{glyph} {word}: “{safe.line(query.text, 40)}”"
        self.dashboard.push_screen(PromptDialog("Note", about, safe.line(query.note)), answered)

    @property
    def _to_note(self) -> QueryComparison | None:
        queries = self._comparison.queries if self._comparison else ()
        just = next((query for query in queries if query.query_id == self._just_decided), self._chosen)
        return just if just is not None and just.verdict else None

    def _decide(self, query: QueryComparison, verdict: str, note: str) -> None:
        """Stores the verdict, and shows it at once."""
        query_id = query.query_id
        self.dashboard.bridge.do(
            Task(
                "decide",
                lambda engine, _: engine.decide(query_id, verdict, note),
                result=lambda _: VerdictKept(),
                to=self.post_message,
            )
        )
        if self._comparison is None:
            return
        decided = replace(query, verdict=verdict, note=note)
        queries = tuple(decided if each.query_id == query_id else each for each in self._comparison.queries)
        self._comparison = self.dashboard.comparison = replace(self._comparison, queries=queries)
        index = next((i for i, each in enumerate(self.shown) if each.query_id == query_id), None)
        if index is not None:
            self.shown[index] = decided
            self.listing.repaint(index)
            self._point()

    def action_figures(self) -> None:
        """Show all measures instead of the rankings, for screens too small for both; or the rankings again."""
        self.toggle_class("-figures")

    def action_filter(self) -> None:
        """Open the filter over the list."""
        self.remove_class("-figures")
        super().action_filter()

    def action_leave_filter(self) -> None:
        """Show the whole comparison again, after an own query as well."""
        self.remove_class("-figures")
        if self.asked is not None and self.dashboard.comparison is not None:
            self.asked = None
            self._take(self.dashboard.comparison)
        super().action_leave_filter()

    def filter_changed(self) -> None:
        """List what matches."""
        self._choose_queries(words=self.words)

    def action_undecided(self) -> None:
        """Show only queries without a verdict, or all again."""
        self._choose_queries(undecided=not self._selection.undecided)

    def action_order(self) -> None:
        """Take the next order of the list."""
        self._choose_queries(order=(self._selection.order + 1) % len(lines.ORDERS))

    def _choose_queries(self, **changes: object) -> None:
        self._selection = replace(self._selection, **changes)  # type: ignore[arg-type]
        self._select(keep=True)

    def action_ask(self) -> None:
        """Ask for a query and compare it alone."""

        def answered(text: str | None) -> None:
            if text is not None:
                self.dashboard.preferences = self.dashboard.preferences.with_query(text)
                self.dashboard.bridge.do(
                    Task(
                        "ask",
                        lambda engine, _: engine.search_both(text),
                        result=QuerySearched,
                        to=self.post_message,
                    )
                )

        before = self.dashboard.preferences.queries
        self.dashboard.push_screen(
            PromptDialog("Ask", "Query to compare on both sides:", before[0] if before else ""), answered
        )

    def action_copy(self) -> None:
        """Hand out both rankings as text."""
        chosen = self._chosen
        if chosen is not None:
            self.dashboard.hand_out(lines.as_text(chosen), f"query-{chosen.query_id}.txt")

    # ------------------------------------------------------------------------------------------------ pictures

    def _query_line(self, index: int, width: int) -> Content:
        return lines.query_line(self.shown[index], self._comparison.k if self._comparison else 10, width)

    def _summary(self, view: View, width: int, _height: int) -> Content:
        if "compare" in view.busy or "ask" in view.busy:
            return lines.progress_line(self.dashboard.advances.get("compare"), width)
        if self.asked is not None:
            return lines.asked_line(self.asked)
        if self._comparison is None:
            return lines.recorded_line(view)
        return lines.summary_line(self._comparison, width)

    def _measures(self, _view: View, width: int, height: int) -> Content:
        if self._comparison is None:
            return draw.line(("Figures over all queries appear here.", "$muted"))
        return draw.lines((draw.cut(each, width) for each in measure_lines(self._comparison, width)), height)
