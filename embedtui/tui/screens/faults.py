"""Faults: reasons grouped, the rows behind each, and what to do about them: one or all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from embedtui.formatting import counted
from embedtui.model import FaultClass, FaultGroup, FaultRow, FaultState, Key, Side
from embedtui.model.faults import CUT_SHARE
from embedtui.tui import draw, figures, safe, theme
from embedtui.tui.actions import ACTIONS
from embedtui.tui.dialogs.faults import DecideDialog
from embedtui.tui.engine import Engine
from embedtui.tui.engine_threads import Task
from embedtui.tui.messages import FaultsDecided, FaultsRead, ReadFailed, RowTextRead
from embedtui.tui.screens.base import FilteredScreen
from embedtui.tui.view import View
from embedtui.tui.widgets.listing import Listing

PAGE = 200
"""Rows read at a time; only pages that are looked at are read."""
CHARACTERS_PER_TOKEN = 4
"""Of English text, to give an idea."""

_STATE = {
    FaultState.OPEN: ("✗", "open", "$warning"),
    FaultState.RETRY: ("●", "retry", "$primary"),
    FaultState.TRUNCATE: ("●", "shorten", "$primary"),
    FaultState.SKIPPED: ("·", "skipped", "$muted"),
}
_NONE = "A row that the provider rejects would be here, with its reason; it never stops the others."
_WHOSE = {
    FaultClass.ROW: "the row's own",
    FaultClass.PROVIDER: "the provider's",
    FaultClass.CONFIGURATION: "the settings'",
}

_DECISIONS: dict[str, tuple[Callable[[Engine, list[int]], int], str]] = {
    "retry": (lambda engine, ids: engine.retry_faults(ids), "to be tried again"),
    "skip": (lambda engine, ids: engine.skip_faults(ids), "skipped, by your decision"),
    "truncate": (lambda engine, ids: engine.truncate_faults(ids), "to be embedded shortened"),
}
"""What can be decided: how the engine does it, and what becomes of so many rows."""


class FaultsScreen(FilteredScreen):
    """Faulty rows never stop the others; here they are decided."""

    NAME = "faults"
    LIST = "#groups"
    AUTO_FOCUS = "#groups"
    NOTHING = "There are no faulty rows."
    KEYS = ("decide('retry')", "decide('skip')", "decide('truncate')", "filter", "order", "copy")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "decide('retry')", "Retry", tooltip="Embed this row again; on a group, all its open rows."),
        Binding("s", "decide('skip')", "Skip", tooltip="Leave it without a vector of its text, on purpose."),
        Binding("h", "decide('truncate')", "Shorten", tooltip="Embed it again, its text cut to what the model takes."),
        Binding("slash", "filter", "Filter", key_display="/", show=False, tooltip="Only reasons with these words."),
        Binding("w", "order", "Order", show=False, tooltip="Reasons by number of rows, or by their words."),
        Binding("y", "copy", "Copy", show=False, tooltip="Copy the rows read so far, and save them as a file."),
        Binding("escape", "leave_filter", "Leave", show=False),
    ]

    def __init__(self) -> None:
        """Nothing is read yet."""
        super().__init__()
        self.groups: tuple[FaultGroup, ...] = ()
        """The reasons listed."""
        self._pages: dict[int, tuple[FaultRow, ...]] = {}
        self._requested: set[int] = set()
        self._group: FaultGroup | None = None
        self._by_words = False
        self._text: tuple[Key, str, int | None] | None = None
        """The beginning of a row's text, once it is read, and its length."""
        self._detailed: Content | None = None
        """What is told of the row under the cursor."""

    def body(self) -> ComposeResult:
        """Reasons on one side, rows on the other, the row under the cursor below."""
        with Container(id="faults"):
            with Vertical(id="groups-side", classes="box") as side:
                side.border_title = "Reasons"
                yield self.filter_field()
                yield Listing(self._paint_group, empty="✓ No faulty rows.", id="groups")
            yield Listing(self._paint_row, empty="No rows.", title="Rows", id="fault-rows", classes="box")
            with VerticalScroll(id="fault-detail", classes="box") as detail:
                detail.border_title = "Row"
                yield Static(id="fault-text", markup=False)

    @property
    def _rows(self) -> Listing:
        return self.query_one("#fault-rows", Listing)

    def show(self, view: View) -> None:
        """Show the reasons that match, the open ones first."""
        super().show(view)
        order = _by_words if self._by_words else _by_count
        known = view.snapshot.faults if view.snapshot else ()
        groups = tuple(sorted((group for group in known if self.matches(group.reason)), key=order))
        filtered = self.words and known
        self.listing.empty = "No reason matches; Esc clears the filter." if filtered else "✓ No faulty rows."
        if groups == self.groups:
            return
        before, self.groups = self.groups, groups
        # What is pressed is of the reason that was read.
        self.listing.update_rows(before, groups, lambda group: group.identity)
        self._choose(self.listing.cursor, again=True)

    def opened(self) -> None:
        """Read the rows anew."""
        self._choose(self.listing.cursor, again=True)

    def on_faults_read(self, message: FaultsRead) -> None:
        """Show a page, unless another reason was chosen meanwhile."""
        if self._group is None or message.group.identity != self._group.identity:
            return
        page, place = divmod(self._rows.cursor, PAGE)
        before, self._pages[message.page] = self._pages.get(message.page, ()), message.rows
        for index in range(message.page * PAGE, (message.page + 1) * PAGE):
            self._rows.repaint(index)
        if page == message.page and place < len(before):  # rows before it may be gone
            ids = [row.id for row in message.rows]
            if before[place].id in ids:
                self._rows.cursor = page * PAGE + ids.index(before[place].id)
        self._detail()

    def on_row_text_read(self, message: RowTextRead) -> None:
        """Show it, where its row is still the one under the cursor."""
        self._text = (message.key, message.text, message.length)
        self._detail()

    def on_read_failed(self, message: ReadFailed) -> None:
        """Say why the text cannot be had: who only watches may not read it."""
        row = self.row(self._rows.cursor) if self._group else None
        if message.key is RowTextRead and row is not None:
            self._text = (row.key, f"Not to be read: {message.trouble.message}", None)
            self._detail()

    def on_faults_decided(self, _message: FaultsDecided) -> None:
        """Read the rows anew."""
        self._choose(self.listing.cursor, again=True)

    def refusal(self, action: str) -> str:
        """Deciding is possible whenever the limits can be set, and there is something to decide."""
        if action != "decide":
            return "" if action not in self.KEYS or self.groups or self.filtered else self.NOTHING
        return ACTIONS["limits"].refusal(self.dashboard.view) if self.groups else self.NOTHING

    # -------------------------------------------------------------------------------------------------- data

    def _choose(self, index: int, *, again: bool = False) -> None:
        """Shows the rows of a reason; with ``again`` they are read anew, and the old ones stay meanwhile."""
        group = self.groups[index] if index < len(self.groups) else None
        same = group is not None and self._group is not None and group.identity == self._group.identity
        if same and not again:
            return
        self._group = group
        self._requested.clear()
        if not same:
            self._pages.clear()
        self._rows.reset(group.count if group else 0, None if same else 0)
        self._detail()

    def row(self, index: int) -> FaultRow | None:
        """A row of the chosen reason; its page is read where it is not known yet."""
        page, place = divmod(index, PAGE)
        if page not in self._requested and self._group is not None:
            self._requested.add(page)
            group = self._group
            self.ask_engine(
                lambda engine: engine.faults(PAGE, page * PAGE, reason=group.reason, state=group.state),
                functools.partial(FaultsRead, group, page),
                key=(FaultsRead, group.identity, page),
            )
        rows = self._pages.get(page, ())
        return rows[place] if place < len(rows) else None

    @on(Listing.Moved, "#groups")
    def group_moved(self, message: Listing.Moved) -> None:
        """Another reason."""
        self._choose(message.index)

    @on(Listing.Chosen, "#groups")
    def group_chosen(self) -> None:
        """Enter goes to its rows."""
        self._rows.focus()

    @on(Listing.Chosen, "#fault-rows")
    def row_chosen(self) -> None:
        """Enter goes to its text."""
        self.query_one("#fault-detail").focus()

    @on(Listing.Moved, "#fault-rows")
    def row_moved(self) -> None:
        """Another row."""
        self._detail()

    def _detail(self) -> None:
        row = self.row(self._rows.cursor) if self._group else None
        if row is None:
            known = "Reasons on one side, rows on the other: Tab changes." if self.groups else _NONE
            detail = Content.styled(known, "$muted")
        else:
            glyph, word, style = _STATE[row.state]
            lines = [
                draw.field("key", (safe.line(", ".join(row.key)), "bold"), (f"  {row.side} side", "$muted")),
                draw.field("reason", safe.line(row.reason)),
                draw.field("whose", _WHOSE[row.fault_class]),
                draw.field(
                    "state",
                    (f"{glyph} {word}", style),
                    (f"  {row.attempts} attempt{'s' if row.attempts != 1 else ''}", "$muted"),
                ),
                draw.field("seen", draw.clock(row.last_seen)),
                *self._text_lines(row),
            ]
            detail = draw.lines(lines)
        if self._detailed is None or not detail.is_same(self._detailed):  # a layout would come before its first picture
            self._detailed = detail
            self.query_one("#fault-text", Static).update(detail)

    def _text_lines(self, row: FaultRow) -> list[Content]:
        """The row's text, which is read when it is looked at."""
        if self._text is None or self._text[0] != row.key:
            self.ask_engine(
                lambda engine: (engine.row_text(row.key), engine.row_length(row.key)),
                lambda read: RowTextRead(row.key, "The row is gone." if read[0] is None else read[0], read[1]),
                key=RowTextRead,
            )
            return [draw.field("text", ("◌ reading …", "$muted"))]
        length = self._text[2]
        said = ("", "") if length is None else (counted(length, "character", "characters"), "$muted")
        return [draw.field("text", said), Content(safe.block(self._text[1]))]

    # -------------------------------------------------------------------------------------------------- actions

    def action_decide(self, what: str) -> None:
        """Decide the row under the cursor, or all open rows of the reason where the reasons have the focus."""
        if self.refuse("decide"):
            return
        group, decide, done = self._group, *_DECISIONS[what]
        if group is None:
            self.dashboard.say("Choose a reason first.", severity="warning")
            return
        row = self.row(self._rows.cursor) if self._rows.has_focus else None
        if self._rows.has_focus and row is None:
            self.dashboard.say("That row is being read.", severity="warning")
            return

        if what == "retry":
            self._decide(what, decide, done, group, row)
            return
        rows = f"row {', '.join(row.key)}" if row else f"{counted(group.rows, 'row', 'rows')}: each"
        sides = (row.side,) if row else group.sides
        reason = (row or group).reason
        asked = DecideDialog(what, safe.line(rows), sides, self._cut_to(sides, row), safe.line(reason))
        self.dashboard.push_screen(asked, lambda yes: self._decide(what, decide, done, group, row) if yes else None)

    def _cut_to(self, sides: Sequence[Side], row: FaultRow | None) -> str:
        """To how much a text is cut for each side's model, and what it has now where that is known."""
        migration = self.dashboard.view.snapshot and self.dashboard.view.snapshot.migration
        if not migration:
            return ""
        told = []
        for side in sides:
            model = migration.old_model if side is Side.OLD else migration.new_model
            most = figures.number(model.max_input_tokens)
            characters = figures.number(int(model.max_input_tokens * CHARACTERS_PER_TOKEN * CUT_SHARE))
            told.append(f"{safe.line(model.called)} takes {most} tokens: it is cut to about {characters} characters.")
        length = self._text[2] if row is not None and self._text is not None and self._text[0] == row.key else None
        if length is not None:
            told.append(f"It has {counted(length, 'character', 'characters')} now.")
        return " ".join(told)

    def _decide(
        self,
        what: str,
        decide: Callable[[Engine, list[int]], int],
        done: str,
        group: FaultGroup,
        row: FaultRow | None,
    ) -> None:
        def work(engine: Engine, _call: object) -> int:
            # Of a group the ids are read first, because other reasons are not meant.
            rows = (row,) if row else engine.faults(max(1, group.count * 2), 0, reason=group.reason, state=group.state)
            return decide(engine, [each.id for each in rows])

        def said(rows: int) -> str:
            return f"{counted(rows, 'row', 'rows')} {done}."

        self.dashboard.bridge.do(Task(what, work, said, result=lambda _: FaultsDecided(), to=self.post_message))

    def action_order(self) -> None:
        """Order the reasons by number of rows, or by their words."""
        self._by_words = not self._by_words
        self.query_one("#groups-side").border_title = "Reasons, by their words" if self._by_words else "Reasons"
        self.show(self.dashboard.view)

    def filter_changed(self) -> None:
        """List the reasons that match."""
        self.show(self.dashboard.view)

    def action_copy(self) -> None:
        """Hand out the rows of this reason that were read."""
        rows = [row for number in sorted(self._pages) for row in self._pages[number]]
        if rows:
            text = "\n".join(
                "\t".join((", ".join(row.key), row.side, row.fault_class, row.state, safe.line(row.reason)))
                for row in rows
            )
            self.dashboard.hand_out(text, "faults.tsv")
        else:
            self.dashboard.say("No row is listed.", title="Copy", severity="warning")

    # ------------------------------------------------------------------------------------------------ pictures

    def _paint_group(self, index: int, width: int) -> Content | None:
        group = self.groups[index]
        glyph, word, style = _STATE[group.state]
        count = draw.line((f" {figures.number(group.rows)}", f"bold {style}"))
        return draw.row(draw.line((f"{glyph} {draw.fit(word, 8)}", style), safe.line(group.reason)), count, width)

    def _paint_row(self, index: int, width: int) -> Content | None:
        row = self.row(index)
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
