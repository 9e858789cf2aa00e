"""The welcome screen where nothing is configured yet: choose a table found in the database, or the demo."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from embedtui.errors import EmbedtuiError
from embedtui.model import FoundTable, Proposal
from embedtui.tui import draw, preferences, safe
from embedtui.tui.base_app import BaseApp
from embedtui.tui.dialogs import WaitingDialog
from embedtui.tui.dialogs.setup import SetupDialog, SourceDialog, TargetDialog, WayDialog
from embedtui.tui.panels.setup import table_line
from embedtui.tui.remedies import worded
from embedtui.tui.setup import Setup, TablesFound, Written
from embedtui.tui.view import Trouble
from embedtui.tui.widgets.listing import Listing

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Choice:
    """What the operator wants: the demo, or the table that the settings file names now."""

    demo: bool = False
    dead: bool = False
    """Of the demo, the story in which the old model is shut down."""


_DEMOS = (
    ("Demo", "5,000 documents, a database and two models; nothing to set up"),
    ("Shutdown", "the demo's worst day: its old model dies while it searches"),
)


def run_welcome(setup: Setup | None, *, problem: EmbedtuiError | None = None) -> Choice | None:
    """Ask what to migrate, and have it written; None where the operator left.

    ``setup`` looks at what is chosen and writes the settings file; without it only the demo can be chosen. ``problem``
    says what keeps the dashboard from opening, e.g. that no database is configured.
    """
    return Welcome(setup, problem=problem).run()


@dataclass
class Prepared(Message):
    """What a table's first dialog has to say is known."""

    waiting: WaitingDialog
    proposal: Proposal | None
    trouble: Trouble | None


class Welcome(BaseApp[Choice]):
    """A short list, and the dialogs of set-up; leaving leaves everything as it is."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "demo", "Demo", show=False),
        Binding("s", "shutdown", "Shutdown", show=False),
        Binding("q,escape", "quit", "Quit", show=False),
    ]

    def __init__(self, setup: Setup | None, *, problem: EmbedtuiError | None = None) -> None:
        """Offer what ``setup`` finds; ``problem`` says why there is something to choose."""
        super().__init__()
        self._setup = setup
        self._trouble = Trouble.of(problem) if problem is not None else None
        self.tables: tuple[FoundTable, ...] = ()
        """What was found."""

    def compose(self) -> ComposeResult:
        """Lay out the title, the list and the keys."""
        yield Static(self._head(), id="welcome-head", markup=False)
        yield Listing(self._paint, empty="◌ looking for tables …", title="What to migrate", id="choices", classes="box")
        yield Static(
            draw.line(
                (" Enter", "bold $primary"),
                " Choose   ",
                ("d", "bold $primary"),
                " Demo   ",
                ("s", "bold $primary"),
                " Shutdown   ",
                ("q", "bold $primary"),
                " Quit",
            ),
            id="footer",
            markup=False,
        )

    def on_mount(self) -> None:
        """Begin to look for tables."""
        self.wear(preferences.load().theme)
        if self._setup is None:
            self._list()
        else:  # what Enter chooses does not change under the finger
            setup = self._setup
            self._apart(
                lambda: tuple(setup.tables()),
                lambda found, trouble: self.post_message(TablesFound(found or (), trouble)),
            )

    def _apart(self, work: Callable[[], T], tell: Callable[[T | None, Trouble | None], object]) -> None:
        """Do ``work``, which may block, on a thread of its own, and ``tell`` what came of it there."""

        def body() -> None:
            try:
                found, trouble = work(), None
            except Exception as error:  # noqa: BLE001 (the screen shows it)
                found, trouble = None, Trouble.of(error)
            with contextlib.suppress(RuntimeError):  # the loop may have closed: nobody is left to tell
                tell(found, trouble)

        threading.Thread(target=body, name="embedtui-welcome", daemon=True).start()

    def on_tables_found(self, message: TablesFound) -> None:
        """Show what was found."""
        self.tables = message.tables
        if message.trouble is not None:
            self._trouble = message.trouble
        elif not message.tables and self._trouble is None:
            none = "No table with a vector column was found."
            self._trouble = Trouble("Table", none, "Look at DATABASE_URL, or try the demo.")
        self.query_one("#welcome-head", Static).update(self._head())
        self._list()

    def _list(self) -> None:
        listing = self.query_one("#choices", Listing)
        listing.reset(len(self.tables) + len(_DEMOS))
        listing.focus()

    def _head(self) -> Content:
        rows = [
            draw.line(
                (" embedtui ", "bold $background on $primary"), "  moves a pgvector table to a new embedding model"
            ),
            Content(""),
            draw.line(("◇ old", "bold $old"), (" ━━━━━━━━━━━━━━━━━━━━━━▸ ", "$faint"), ("◆ new", "bold $new")),
            draw.line(("no downtime, no lost data, rollback in one keystroke", "$muted")),
        ]
        if self._trouble is not None:
            width = max(20, self.size.width - 6)
            first, *more = draw.wrapped(safe.line(self._trouble.message), width, "", 6) or [Content("")]
            rows += [Content(""), draw.line(("! ", "bold $warning"), first), *(draw.line("  ", each) for each in more)]
            hint = worded(self._trouble.hint, self._trouble.remedies)
            rows += [draw.line("  ", each) for each in draw.wrapped(hint, width, "$muted", 6)]
        return draw.lines(rows)

    def on_resize(self) -> None:
        """Break the lines anew."""
        if self._trouble is not None and self.screen_stack:
            self.screen_stack[0].query_one("#welcome-head", Static).update(self._head())

    def _paint(self, index: int, width: int) -> Content | None:
        if index >= len(self.tables):
            name, what = _DEMOS[index - len(self.tables)]
            return draw.cut(draw.line((draw.fit(name, 11), "bold"), (what, "$muted")), width)
        return table_line(self.tables[index], width)

    @on(Listing.Chosen, "#choices")
    def chosen(self, message: Listing.Chosen) -> None:
        """A table is set up; the demo starts."""
        if message.index >= len(self.tables):
            self.exit(Choice(demo=True, dead=message.index > len(self.tables)))
        else:
            self._set_up(self.tables[message.index])

    # ----------------------------------------------------------------------------------------------------- set-up

    def look(
        self, values: Mapping[str, str], whole: bool, tell: Callable[[Proposal | None, Trouble | None], object]
    ) -> None:
        """Have a choice looked at; ``tell`` gets what it means."""
        assert self._setup is not None
        setup = self._setup
        self._apart(lambda: setup.look(values, whole=whole), tell)

    def _set_up(self, table: FoundTable) -> None:
        """Ask for all that a migration of ``table`` needs, once it is known what can be proposed."""
        values = {"table": table.name, "schema": "", "old_column": table.column}
        waiting = WaitingDialog(lambda proposal: self._first(table, values, proposal))
        self.push_screen(waiting)
        self.look(values, False, lambda found, trouble: self.post_message(Prepared(waiting, found, trouble)))

    def on_prepared(self, message: Prepared) -> None:
        """Open the first dialog only where its place is still kept."""
        if self.screen is not message.waiting:
            return
        self.pop_screen()
        if message.trouble is not None:
            self.trouble(message.trouble)
        else:
            message.waiting.prepared(message.proposal)

    def _first(self, table: FoundTable, values: Mapping[str, str], proposal: Proposal) -> None:
        self._step(
            SourceDialog(table.name, "Go on", proposal, values, self.look),
            lambda chosen, found: self._step(
                TargetDialog(table.name, "Go on", found, chosen, self.look),
                lambda chosen, found: self._step(WayDialog(table.name, "Write", found, chosen, self.look), self._write),
            ),
        )

    def _step(self, dialog: SetupDialog, then: Callable[[Mapping[str, str], Proposal], object]) -> None:
        dialog.go_on = then
        self.push_screen(dialog)

    def _write(self, values: Mapping[str, str], _proposal: Proposal) -> None:
        assert self._setup is not None
        setup, dialog = self._setup, self.screen

        def told(_path: object, trouble: Trouble | None) -> None:
            if trouble is not None:
                dialog.post_message(Written(trouble))
            else:
                self.call_from_thread(self.exit, Choice())

        self._apart(lambda: setup.write(values), told)

    def action_help_quit(self) -> None:
        """Ctrl-C: nothing is under way that could be interrupted."""
        self.say("Nothing is written before the last step. Esc goes back, q on the first screen leaves, ^q anywhere.")

    def action_demo(self) -> None:
        """Leave for the demo."""
        self.exit(Choice(demo=True))

    def action_shutdown(self) -> None:
        """Leave for the demo in which the old model is shut down."""
        self.exit(Choice(demo=True, dead=True))
