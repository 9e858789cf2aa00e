"""Faults: reasons grouped, the rows behind each, and what to do about them: one or all."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from embedtui.model import FaultClass, FaultGroup, FaultRow, FaultState
from embedtui.tui import acts, draw, safe, theme
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.view import View
from embedtui.tui.widgets.listing import Listing

PAGE = 200
"""Rows read at a time; only pages that are looked at are read."""

_STATE = {
    FaultState.OPEN: ("✗", "open", "$warning"),
    FaultState.RETRY: ("●", "retry", "$primary"),
    FaultState.TRUNCATE: ("●", "shorten", "$primary"),
    FaultState.SKIPPED: ("·", "skipped", "$muted"),
}
_WORDS = {"retry": "try again", "skip": "leave out", "truncate": "embed shortened"}
_NONE = "A row that the provider rejects would be here, with its reason; it never stops the others."
_WHOSE = {
    FaultClass.ROW: "the row's own",
    FaultClass.PROVIDER: "the provider's",
    FaultClass.CONFIGURATION: "the settings'",
}


class FaultsScreen(DashboardScreen):
    """Faulty rows never stop the others; here they are decided."""

    NAME = "faults"
    AUTO_FOCUS = "#groups"
    KEYS = ("decide('retry')", "decide('skip')", "decide('truncate')")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "decide('retry')", "Retry", tooltip="Embed this row again; on a group, all its open rows."),
        Binding("s", "decide('skip')", "Skip", tooltip="Leave it without a new vector, on purpose."),
        Binding("h", "decide('truncate')", "Shorten", tooltip="Embed it again, its text cut to what the model takes."),
        Binding("slash", "filter", "Filter", key_display="/", show=False, tooltip="Only reasons with these words."),
        Binding("w", "order", "Order", show=False, tooltip="Reasons by number of rows, or by their words."),
        Binding("y", "copy", "Copy", show=False, tooltip="Copy the rows read so far, and save them as a file."),
        Binding("escape", "leave_filter", "Leave", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._groups: tuple[FaultGroup, ...] = ()
        self._pages: dict[int, tuple[FaultRow, ...]] = {}
        self._asked: set[int] = set()
        self._group: FaultGroup | None = None
        self._by_words = False
        self._filter = ""

    def body(self) -> ComposeResult:
        with Container(id="faults"):
            with Vertical(id="groups-side", classes="box") as side:
                side.border_title = "Reasons"
                yield Input(placeholder="filter", id="faults-filter", classes="filter", compact=True)
                yield Listing(self._paint_group, empty="✓ No faulty rows.", id="groups")
            rows = Listing(self._paint_row, empty="No rows.", title="Rows", id="fault-rows", classes="box")
            yield rows
            with VerticalScroll(id="fault-detail", classes="box") as detail:
                detail.border_title = "Row"
                detail.can_focus = False
                yield Static(id="fault-text", markup=False)

    def show(self, view: View) -> None:
        super().show(view)
        order = _by_words if self._by_words else _by_count
        words = self._filter.casefold().split()
        known = view.snapshot.faults if view.snapshot else ()
        fitting = (group for group in known if all(word in group.reason.casefold() for word in words))
        groups = tuple(sorted(fitting, key=order))
        listing = self.query_one("#groups", Listing)
        listing.empty = "No reason matches; Esc clears the filter." if words and known else "✓ No faulty rows."
        if groups == self._groups:
            return
        before, self._groups = self._groups, groups
        listing.update_rows(before, groups)
        self._choose(listing.cursor, again=True)

    def opened(self) -> None:
        self._choose(self.query_one("#groups", Listing).cursor, again=True)

    def receive(self, topic: str, payload: object) -> None:
        if topic.startswith("faults ") and isinstance(payload, tuple):
            _, name, page = topic.rsplit(" ", 2)
            if name == self._identity:
                self._pages[int(page)] = payload
                listing = self.query_one("#fault-rows", Listing)
                for index in range(int(page) * PAGE, int(page) * PAGE + PAGE):
                    listing.repaint(index)
                self._detail()
        elif topic in _WORDS:
            self._choose(self.query_one("#groups", Listing).cursor, again=True)

    def refusal(self, action: str) -> str:
        if not action.startswith("decide"):
            return ""
        refused = acts.refusal("limits", self.dashboard.view)
        return refused if refused or self._groups else "There are no faulty rows."

    # -------------------------------------------------------------------------------------------------- data

    @property
    def _identity(self) -> str:
        return str(abs(hash((self._group.reason, self._group.state)))) if self._group else "none"

    def _choose(self, index: int, *, again: bool = False) -> None:
        group = self._groups[index] if index < len(self._groups) else None
        same = (
            group is not None
            and self._group is not None
            and (group.reason, group.state) == (self._group.reason, self._group.state)
        )
        if same and not again:
            return
        self._group = group
        self._asked.clear()
        if not same:
            self._pages.clear()
        listing = self.query_one("#fault-rows", Listing)
        listing.reset(group.count if group else 0, None if same else 0)
        self._detail()

    def _row(self, index: int) -> FaultRow | None:
        """The row, and a request for its page where it is not read yet."""
        number, place = divmod(index, PAGE)
        if number not in self._asked and self._group is not None:
            self._asked.add(number)
            group, topic = self._group, f"faults {self._identity} {number}"
            self.dashboard.bridge.fetch(
                topic, lambda engine: engine.faults(PAGE, number * PAGE, reason=group.reason, state=group.state)
            )
        page = self._pages.get(number, ())
        return page[place] if place < len(page) else None

    @on(Listing.Moved, "#groups")
    def group_moved(self, message: Listing.Moved) -> None:
        """Another reason."""
        self._choose(message.index)

    @on(Listing.Chosen, "#groups")
    def group_chosen(self) -> None:
        """Enter goes to its rows."""
        self.query_one("#fault-rows").focus()

    @on(Listing.Moved, "#fault-rows")
    def row_moved(self) -> None:
        """Another row."""
        self._detail()

    def _detail(self) -> None:
        row = self._row(self.query_one("#fault-rows", Listing).cursor) if self._group else None
        text = self.query_one("#fault-text", Static)
        if row is None:
            known = "Reasons on one side, rows on the other: Tab changes." if self._groups else _NONE
            text.update(Content.styled(known, "$muted"))
            return
        glyph, word, style = _STATE[row.state]
        text.update(
            draw.lines(
                [
                    draw.field("key", (safe.line(", ".join(row.key)), "bold"), (f"  {row.side} side", "$muted")),
                    draw.field("reason", safe.line(row.reason)),
                    draw.field("whose", _WHOSE[row.fault_class]),
                    draw.field(
                        "state",
                        (f"{glyph} {word}", style),
                        (f"  {row.attempts} attempt{'s' if row.attempts != 1 else ''}", "$muted"),
                    ),
                    draw.field("seen", draw.clock(row.last_seen)),
                ]
            )
        )

    # -------------------------------------------------------------------------------------------------- acts

    def action_decide(self, what: str) -> None:
        """Decides the row under the cursor, or all open rows of the reason where the reasons have the focus."""
        reason = self.refusal("decide")
        if reason or self._group is None:
            self.dashboard.say(reason or "Choose a reason first.", severity="warning")
            return
        group = self._group
        rows = self.query_one("#fault-rows", Listing)
        if rows.has_focus:
            row = self._row(rows.cursor)
            if row is None:
                return
            ids = [row.id]
            self.dashboard.bridge.act(what, lambda engine, _: _decide(engine, what, ids))
        else:
            self.dashboard.bridge.act(what, lambda engine, _: _decide_group(engine, what, group))

    def action_order(self) -> None:
        """Orders the reasons by number of rows, or by their words."""
        self._by_words = not self._by_words
        self.query_one("#groups-side").border_title = "Reasons, by their words" if self._by_words else "Reasons"
        self.show(self.dashboard.view)

    def action_filter(self) -> None:
        """Opens the filter of the reasons."""
        field = self.query_one("#faults-filter", Input)
        field.add_class("-open")
        field.focus()

    def action_leave_filter(self) -> None:
        """Closes and clears the filter."""
        field = self.query_one("#faults-filter", Input)
        field.value = ""
        field.remove_class("-open")
        self.query_one("#groups").focus()

    @on(Input.Changed, "#faults-filter")
    def filtered(self, event: Input.Changed) -> None:
        """The reasons follow what is typed."""
        self._filter = event.value
        self.show(self.dashboard.view)

    @on(Input.Submitted, "#faults-filter")
    def filter_done(self) -> None:
        """Enter goes to the reasons."""
        self.query_one("#groups").focus()

    def action_copy(self) -> None:
        """The rows of this reason that were read."""
        rows = [row for number in sorted(self._pages) for row in self._pages[number]]
        if rows:
            text = "\n".join(
                "\t".join((", ".join(row.key), row.side, row.fault_class, row.state, safe.line(row.reason)))
                for row in rows
            )
            self.dashboard.hand_out(text, "faults.tsv")

    # ------------------------------------------------------------------------------------------------ pictures

    def _paint_group(self, index: int, width: int) -> Content | None:
        group = self._groups[index]
        glyph, word, style = _STATE[group.state]
        count = draw.line((f" {draw.number(group.count)}", f"bold {style}"))
        return draw.row(draw.line((f"{glyph} {draw.fit(word, 8)}", style), safe.line(group.reason)), count, width)

    def _paint_row(self, index: int, width: int) -> Content | None:
        row = self._row(index)
        if row is None:
            return None
        glyph, word, style = _STATE[row.state]
        side = draw.line((theme.SIDE_GLYPH[row.side], theme.SIDE_STYLE[row.side]), " ")
        left = draw.line((f"{glyph} {draw.fit(word, 8)}", style), side, (safe.line(", ".join(row.key)), "bold"))
        right = draw.line((f"{row.attempts}×  {draw.clock(row.last_seen)}", "$muted"))
        return draw.row(left, right, width)


def _by_count(group: FaultGroup) -> tuple[bool, int, str]:
    return group.state is not FaultState.OPEN, -group.count, group.reason


def _by_words(group: FaultGroup) -> tuple[bool, int, str]:
    return group.state is not FaultState.OPEN, 0, group.reason


def _decide(engine: object, what: str, ids: list[int]) -> object:
    return getattr(engine, f"{what}_faults")(ids)


def _decide_group(engine: object, what: str, group: FaultGroup) -> object:
    """All rows of the group; their ids are read first, because other reasons are not meant."""
    rows = engine.faults(max(1, group.count * 2), 0, reason=group.reason, state=group.state)  # type: ignore[attr-defined]
    return _decide(engine, what, [row.id for row in rows])
