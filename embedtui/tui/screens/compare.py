"""Compare: queries of lowest overlap first, the two rankings side by side, and the operator's verdicts."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content
from textual.widget import Widget

from embedtui.model import Comparison, Side
from embedtui.model.evaluation import SERVED
from embedtui.tui import draw
from embedtui.tui.actions import ACTIONS
from embedtui.tui.messages import Compared, ComparisonRead, QuerySearched, TaskAdvanced
from embedtui.tui.panels import comparison as lines
from embedtui.tui.panels.measures import measure_lines
from embedtui.tui.screens.reader import ReaderScreen
from embedtui.tui.screens.verdicts import VerdictScreen
from embedtui.tui.view import View
from embedtui.tui.widgets.evidence import Evidence
from embedtui.tui.widgets.listing import Listing
from embedtui.tui.widgets.panel import Panel
from embedtui.tui.widgets.rankings import Rankings

_NOTHING = "Press c to compare both sides, L with queries of a file or log, a to ask one of your own."


class CompareScreen(VerdictScreen):
    """Evidence: what the new model changes, query by query."""

    NAME = "compare"
    LIST = "#queries"
    AUTO_FOCUS = "#queries"
    KEYS = ("verdict('new')", "verdict('old')", "verdict('same')", "ask", "load", "read", "figures", "filter")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "slash", "filter", "Filter", show=False, key_display="/", tooltip="Only queries that contain the words."
        ),
        Binding("u", "undecided", "Undecided", show=False, tooltip="Only queries without a verdict, or all."),
        Binding("w", "order", "Order", show=False, tooltip="By overlap, by what got worse, or by text."),
        Binding("m", "figures", "Measures", show=False, tooltip="All measures, or the rankings again."),
        Binding("f", "read", "Read", show=False, tooltip="The whole query, and both sides' documents side by side."),
        Binding("d", "bridged", "Bridged", show=False, tooltip="What the bridge finds, in old's place, or old again."),
        Binding("escape", "leave_filter", "Leave", show=False),
    ]

    def __init__(self) -> None:
        """Nothing is compared yet."""
        super().__init__()
        self._selection = lines.Selection()
        self._focused_before: Widget | None = None
        """The part that had the focus before the figures took the place of all."""

    def body(self) -> ComposeResult:
        """The list on one side; rankings, document and measures on the other."""
        yield Panel(self._summary, id="measures-line")
        with Container(id="compare"):
            with Vertical(id="queries-side", classes="box") as side:
                side.border_title = self._selection.title(self.blind)
                yield self.filter_field()
                yield Panel(self._heading, id="queries-heading")
                yield Listing(self._query_line, empty=_NOTHING, id="queries")
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
        if comparison is not None and comparison is not self.comparison:
            self._take(comparison)
        self.dashboard.read_comparison()
        if self.focused is None:
            self.listing.focus()

    # -------------------------------------------------------------------------------------------------- messages

    def on_compared(self, message: Compared) -> None:
        """A new comparison replaces what is shown, an own query, too."""
        self.asked, self._draft = None, ""
        self._take(message.comparison)

    def on_comparison_read(self, message: ComparisonRead) -> None:
        """The recorded one, or a newer one of another terminal; the chosen query stays chosen."""
        if message.comparison is not None:
            self._take(message.comparison, keep=self.comparison is not None)

    def on_query_searched(self, message: QuerySearched) -> None:
        """The operator's own query, alone."""
        self.asked = message.query
        self.list_again(keep=False)
        self.repaint()

    def on_task_advanced(self, _message: TaskAdvanced) -> None:
        """The summary shows how far a comparison is."""
        self.query_one("#measures-line", Panel).show(self.dashboard.view)

    # -------------------------------------------------------------------------------------------------- data

    def _take(self, comparison: Comparison, *, keep: bool = False) -> None:
        self.comparison = comparison
        self.list_again(keep=keep)
        self.repaint()

    def show(self, view: View) -> None:
        """What is said where nothing is listed follows the state."""
        super().show(view)
        self.listing.empty = self._nothing(view)

    def _nothing(self, view: View) -> str:
        """Why nothing is listed, with what changes that."""
        if self.comparison is not None or self.asked is not None:
            return "No query matches; Esc clears the filter."
        if "compare" in view.busy:
            return "◌ Both sides are searched; the queries appear here."
        refused = ACTIONS["compare"].refusal(view)
        return f"Nothing is compared. {refused}" if refused else _NOTHING

    def repaint(self) -> None:
        """Paint all panels anew."""
        self.listing.empty = self._nothing(self.dashboard.view)
        for panel in self.query(Panel):
            panel.show(self.dashboard.view)
        if isinstance(self.app.screen, ReaderScreen):
            self.app.screen.show()

    def list_again(self, *, keep: bool) -> None:
        """Lists what the selection means; with ``keep`` the chosen query stays chosen."""
        chosen, every = self.chosen_query, self.comparison.queries if self.comparison else ()
        if self.asked is not None:
            every = (self.asked,)
        self.shown = self._selection.of(every, self.blind)
        cursor = 0
        if keep and chosen is not None:
            cursor = next((i for i, query in enumerate(self.shown) if query.query_id == chosen.query_id), 0)
        counted = f": {len(self.shown):,} of {len(every):,}" if len(self.shown) < len(every) else ""
        title = "Own query" if self.asked is not None else self._selection.title(self.blind)
        self.query_one("#queries-side").border_title = title + counted
        self.listing.reset(len(self.shown), cursor)
        self.point()

    def _moved(self) -> None:
        self.point()

    def point(self) -> None:
        """Shows what speaks for the chosen query."""
        migration = self.dashboard.snapshot.migration if self.dashboard.snapshot else None
        models = (migration.old_model.name, migration.new_model.name) if migration else ("", "")
        how = self.comparison.measures.searched if self.comparison is not None and self.asked is None else SERVED
        self.query_one(Evidence).show_query(self.chosen_query, models, self.blind, how)

    @on(Listing.Chosen, "#queries")
    def chosen(self) -> None:
        """Enter goes on to the rankings."""
        self.query_one(Rankings).focus()

    # -------------------------------------------------------------------------------------------------- actions

    def action_read(self) -> None:
        """Read the chosen query at the rank under the cursor."""
        if self.chosen_query is not None:
            self.dashboard.push_screen(ReaderScreen(self, self.query_one(Rankings).rank))
        else:
            self.dashboard.say("No query is listed.", title="Read", severity="warning")

    def action_open(self) -> None:
        """Enter on the rankings or the document reads them."""
        self.action_read()

    def action_figures(self) -> None:
        """Show all measures instead of the rankings, for screens too small for both; or the rankings again."""
        if self.has_class("-figures"):
            self.leave_figures()
            return
        self.minimize()
        self._focused_before = self.focused
        self.add_class("-figures")

    def leave_figures(self) -> None:
        """Show the rankings again, and have the focus where it was: what is hidden loses it."""
        if self.has_class("-figures"):
            self.remove_class("-figures")
            self.call_after_refresh(self.set_focus, self._focused_before or self.listing)

    def action_bridged(self) -> None:
        """Show the bridge's ranking in the place of the old one, or the old one again."""
        if not any(query.bridged for query in self.shown):
            self.dashboard.say("No query was searched through a bridge.", title="Bridged", severity="warning")
        elif len(self.query_one(Rankings).columns) > len(Side):
            self.dashboard.say("Old, bridged and new are shown side by side.", title="Bridged")
        else:
            self.leave_figures()
            self.query_one(Rankings).turn()

    def action_filter(self) -> None:
        """Open the filter over the list."""
        self.remove_class("-figures")
        super().action_filter()

    def action_leave_filter(self) -> None:
        """Take back one thing: the figures in the rankings' place, else the filter, else an own query."""
        if self.has_class("-figures"):
            self.leave_figures()
        elif self.filtered or self.asked is None or self.dashboard.comparison is None:
            super().action_leave_filter()
        else:
            self.asked = None
            self._take(self.dashboard.comparison)

    def filter_changed(self) -> None:
        """List what matches."""
        self._choose_queries(words=self.words)

    def action_undecided(self) -> None:
        """Show only queries without a verdict, or all again."""
        self._choose_queries(undecided=not self._selection.undecided)

    def action_order(self) -> None:
        """Take the next order of the list."""
        if self.blind.on:
            self.dashboard.say("Sides are hidden, and the order is by chance: V shows all again.", severity="warning")
            return
        self._choose_queries(keep=False, order=(self._selection.order + 1) % len(lines.ORDERS))

    def _choose_queries(self, *, keep: bool = True, **changes: object) -> None:
        self._selection = replace(self._selection, **changes)  # type: ignore[arg-type]
        self.list_again(keep=keep)

    # ------------------------------------------------------------------------------------------------ pictures

    def _heading(self, _view: View, width: int, _height: int) -> Content:
        known = self.comparison is not None and bool(self.shown)
        # the list's own two cells for the cursor, and one beside its scrollbar
        return draw.line("  ", lines.heading(width - 3, self.blind)) if known else Content("")

    def _query_line(self, index: int, width: int) -> Content:
        return lines.query_line(self.shown[index], self.comparison.k if self.comparison else 10, width, self.blind)

    def _summary(self, view: View, width: int, _height: int) -> Content:
        if "compare" in view.busy or "ask" in view.busy:
            return lines.progress_line(self.dashboard.advances.get("compare"), width)
        if self.blind.on:
            return lines.blind_line(self.blind, len(self.comparison.queries) if self.comparison else 0, width)
        if self.asked is not None:
            return lines.asked_line(self.asked)
        if self.comparison is None:
            return lines.recorded_line(view)
        return lines.summary_line(self.comparison, view, width)

    def _measures(self, _view: View, width: int, height: int) -> Content:
        if self.blind.on:
            return draw.line(("Figures are hidden, too: V shows all again.", "$muted"))
        if self.comparison is None:
            return draw.line(("Figures over all queries appear here.", "$muted"))
        rows = measure_lines(self.comparison, width)
        if self.asked is not None:
            rows = [draw.line(("Of all queries compared, not of this one:", "$warning")), *rows]
        return draw.lines((draw.cut(each, width) for each in rows), height)
