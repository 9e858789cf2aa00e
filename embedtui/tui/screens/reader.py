"""The reader: a query in full, and what each side has at one rank, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from embedtui.model import QueryComparison, Side
from embedtui.tui import draw, safe
from embedtui.tui.panels import reading
from embedtui.tui.widgets.document import Document

if TYPE_CHECKING:
    from embedtui.tui.screens.compare import CompareScreen


class ReaderScreen(ModalScreen[None]):
    """Over the Compare screen, whose list it follows and whose verdicts it gives."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "rank(1)", "Next rank", show=False),
        Binding("up,k", "rank(-1)", "Previous rank", show=False),
        Binding("right", "query(1)", "Next query", show=False),
        Binding("left,h", "query(-1)", "Previous query", show=False),
        Binding("pagedown,space", "scroll(1)", "Scroll", show=False),
        Binding("pageup", "scroll(-1)", "Scroll back", show=False),
        *(Binding(key, f"verdict('{word}')", word, show=False) for key, word in reading.VERDICT_KEYS.items()),
        Binding("e", "note", "Note", show=False),
        Binding("backspace", "take_back", "Take back", show=False),
        Binding("f,escape,q,enter", "close", "Close", show=False),
    ]
    KEYS = "↑ ↓ rank  ← → query  n o s b ⌫ verdict  e note  Space scrolls  Esc closes"
    ROOMY_KEYS = KEYS.replace("b ⌫ verdict", "b verdict  Backspace takes it back")
    BLIND_KEYS = "↑ ↓ rank  ← → query  < > s b verdict  Space scrolls  Esc closes"

    def __init__(self, behind: CompareScreen, rank: int) -> None:
        """Read the chosen query of the screen ``behind``, from ``rank`` on (from 1)."""
        super().__init__()
        self._behind = behind
        self._rank = rank

    def compose(self) -> ComposeResult:
        """Lay out the query over the two documents."""
        with Vertical(classes="dialog reader") as box:
            box.border_title = "Query"
            with VerticalScroll(id="reader-query", can_focus=False):
                yield Static(id="reader-text")
            with Horizontal():
                for number in ("left", "right"):
                    yield Document(id=f"reader-{number}", classes="box")
            yield Static(id="reader-judged")

    def on_mount(self) -> None:
        """Show what is chosen."""
        self.show()

    def on_resize(self) -> None:
        """The judged rows' line is cut to the width."""
        self.show()

    def show(self) -> None:
        """Show the chosen query at the present rank."""
        query, blind = self._behind.chosen_query, self._behind.blind
        box = self.query_one(".reader", Vertical)
        keys = self.ROOMY_KEYS if self.size.width >= 100 else self.KEYS
        box.border_subtitle = self.BLIND_KEYS if blind.on else keys
        if query is None:
            self.dismiss(None)
            return
        box.border_title = Content(f"Query {self._behind.listing.cursor + 1} of {len(self._behind.shown)}")
        self._rank = max(1, min(self._rank, max(1, *(len(reading.rows_of(query, side)) for side in Side))))
        self.query_one("#reader-text", Static).update(reading.question(query, blind))
        sides = blind.sides(query)
        texts = [reading.text_at(query, side, self._rank) for side in sides]
        for number, side, text, other in zip(("left", "right"), sides, texts, reversed(texts), strict=True):
            self.query_one(f"#reader-{number}", Document).show(
                reading.document(query, text, other), self._title(query, side, number)
            )
        left_out = Content("") if blind.on else reading.found_by_neither(query, max(20, self.size.width - 4))
        self.query_one("#reader-judged", Static).update(left_out)
        self.query_one("#reader-judged", Static).display = bool(left_out.plain)

    def _title(self, query: QueryComparison, side: Side, number: str) -> Content:
        if self._behind.blind.on:
            row = reading.row_at(query, side, self._rank)
            return draw.line(
                (f"{number} {self._rank}", "bold"), "" if row is None else f"  {safe.line(', '.join(row.key), 40)}"
            )
        return reading.place(query, side, self._rank)

    # -------------------------------------------------------------------------------------------------- actions

    def action_rank(self, step: int) -> None:
        """Show another rank."""
        self._rank += step
        self.show()

    def action_query(self, step: int) -> None:
        """Show another query, from its first rank."""
        self._behind.listing.cursor += step
        self._rank = 1
        self.show()

    def action_scroll(self, step: int) -> None:
        """Scroll both documents."""
        for document in self.query(Document):
            document.scroll_relative(y=step * max(1, document.size.height - 1), animate=False)

    def action_verdict(self, verdict: str) -> None:
        """Give a verdict, and go on to the next query."""
        before = self._behind.listing.cursor
        self._behind.action_verdict(verdict)
        if self._behind.listing.cursor != before:
            self._rank = 1
        self.show()

    def action_note(self) -> None:
        """Ask for a note to the verdict on this query."""
        self._behind.action_note()

    def action_take_back(self) -> None:
        """Take a verdict back, and go to its query."""
        before = self._behind.listing.cursor
        self._behind.action_take_back()
        if self._behind.listing.cursor != before:
            self._rank = 1
        self.show()

    def on_screen_resume(self) -> None:
        """A note may have been given meanwhile."""
        self.show()

    def action_close(self) -> None:
        """Back to the list."""
        self.dismiss(None)
