"""What speaks for a query: both rankings, the document under their cursor, and the figures over all queries."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content

from embedtui.model import QueryComparison, RankedRow
from embedtui.tui import safe
from embedtui.tui.blind import Blind
from embedtui.tui.panels.comparison import changed, headline, marked, text_of, whereabouts
from embedtui.tui.widgets.document import Document
from embedtui.tui.widgets.panel import Paint, Panel
from embedtui.tui.widgets.rankings import Rankings

_FRAME = 4
"""Cells of a box's border and padding."""


class Evidence(Vertical):
    """Follows the chosen query; the document follows the cursor of the rankings."""

    def __init__(self, measures: Paint, *, id: str | None = None) -> None:
        """Show no query yet; ``measures`` paints the figures."""
        super().__init__(id=id)
        self._measures = measures
        self._query: QueryComparison | None = None
        self._blind = Blind()

    def compose(self) -> ComposeResult:
        """Lay out the rankings over document and figures."""
        rankings = Rankings(id="rankings", classes="box")
        rankings.border_title = "Top 10"
        yield rankings
        with Horizontal(id="evidence"):
            yield Document(title="Document", id="document", classes="box")
            yield Panel(self._measures, title="Measures", id="measures", classes="box")

    def show_query(
        self, query: QueryComparison | None, models: tuple[str, str], blind: Blind, how: str = "exact"
    ) -> None:
        """Show the rankings of ``query``; ``models`` are the names of old and new model, ``how`` it was searched."""
        self._query, self._blind = query, blind
        rankings = self.query_one(Rankings)
        rankings.show_query(query, models, blind, how)
        self.on_resize()
        self._show_document(rankings.pointed)

    def on_resize(self) -> None:
        """The title has as much of the query as there is room for."""
        room = max(0, self.size.width - _FRAME)
        title = headline(self._query, self._blind, room) if self._query is not None else "Top 10"
        self.query_one(Rankings).border_title = title

    @on(Rankings.Pointed)
    def pointed(self, message: Rankings.Pointed) -> None:
        """The cursor is on another document."""
        self._show_document(message.row)

    def _show_document(self, row: RankedRow | None) -> None:
        document = self.query_one(Document)
        if row is None or self._query is None:
            hint = Content.styled("The text of the chosen document appears here.", "$muted")
            document.show(hint, Content("Document"))
        else:
            where = Content(f"Document {safe.line(', '.join(row.key), 40)}  {changed(row)}".rstrip())
            document.show(
                marked(text_of(row), self._query.text),
                where if self._blind.on else whereabouts(row, self._query),
            )
