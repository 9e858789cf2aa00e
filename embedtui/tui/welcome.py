"""The welcome screen where nothing is configured yet: choose a table found in the database, or the demo."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

from embedtui.tui import draw, figures, preferences, safe
from embedtui.tui.base_app import BaseApp
from embedtui.tui.dialogs.base import Dialog, field
from embedtui.tui.remedies import worded
from embedtui.tui.view import Trouble
from embedtui.tui.widgets.listing import Listing

DEFAULT_MODEL = "text-embedding-3-large"
DEFAULT_DIMENSIONS = 768


@dataclass(frozen=True, slots=True)
class TableChoice:
    """A table that could migrate."""

    name: str
    column: str
    type: str
    rows: int | None = None
    """None: unknown."""
    made_by: str = ""
    """The framework whose table it looks like."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the operator wants: the demo, or a table and its new model."""

    demo: bool = False
    dead: bool = False
    """Of the demo, the story in which the old model is shut down."""
    table: str = ""
    column: str = ""
    """Its column with the old vectors."""
    model: str = ""
    dimensions: int = 0
    old_model: str = ""
    """The model of the old vectors; empty where nobody knows it."""


_DEMOS = (
    ("Demo", "5,000 documents, a database and two models; nothing to set up"),
    ("Shutdown", "the demo's worst day: its old model dies while it searches"),
)
_FIELDS = ("model", "dimensions", "old-model")

FindTables = Callable[[], Sequence[TableChoice]]
"""Looks for tables with a vector column; may block and may raise EmbedtuiError; called on its own thread."""


def run_welcome(find_tables: FindTables | None, *, problem: str = "", hint: str = "") -> Choice | None:
    """Ask what to migrate; None where the operator left. Without ``find_tables`` only the demo can be chosen.

    ``problem`` and ``hint`` say what keeps the dashboard from opening, e.g. that no database is configured.
    """
    return Welcome(find_tables, problem=problem, hint=hint).run()


@dataclass
class TablesFound(Message):
    """The search for tables ended, well or not."""

    tables: tuple[TableChoice, ...]
    trouble: Trouble | None = None


class ModelDialog(Dialog[tuple[str, int, str]]):
    """Asks for the new model, its dimensions and the old model."""

    AUTO_FOCUS = "#model"

    def __init__(self, table: str) -> None:
        """Ask about ``table``."""
        super().__init__(f"Move {table} to", go="Go on")

    def body(self) -> ComposeResult:
        """What it will do, and the fields."""
        text = "Writes embedtui.toml here. The database is not changed before you say run."
        yield Static(Content.styled(text, "$muted"))
        yield from field("New model", Input(DEFAULT_MODEL, id="model", compact=True))
        dimensions = Input(str(DEFAULT_DIMENSIONS), id="dimensions", compact=True, type="integer", max_length=5)
        yield from field("Its dimensions", dimensions)
        old = Input(id="old-model", compact=True, placeholder="kept current after the cutover")
        yield from field("Old model, if known", old)

    def answer(self) -> tuple[str, int, str] | None:
        """New model and dimensions are needed."""
        model, dimensions, old = (self.query_one(f"#{each}", Input).value.strip() for each in _FIELDS)
        return (model, int(dimensions), old) if model and dimensions.isdigit() and int(dimensions) > 0 else None


class Welcome(BaseApp[Choice]):
    """A short list; leaving it leaves everything as it is."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "demo", "Demo", show=False),
        Binding("s", "shutdown", "Shutdown", show=False),
        Binding("q,escape", "quit", "Quit", show=False),
    ]

    def __init__(self, find_tables: FindTables | None, *, problem: str = "", hint: str = "") -> None:
        """Offer what ``find_tables`` finds; ``problem`` and ``hint`` say why there is something to choose."""
        super().__init__()
        self._find = find_tables
        self._problem, self._hint = problem, hint
        self.tables: tuple[TableChoice, ...] = ()
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
        self._list()
        if self._find is not None:
            threading.Thread(target=self._search, name="embedtui-welcome", daemon=True).start()

    def _search(self) -> None:
        assert self._find is not None
        try:
            found = TablesFound(tuple(self._find()))
        except Exception as error:  # noqa: BLE001 (the screen shows it)
            found = TablesFound((), Trouble.of(error))
        with contextlib.suppress(RuntimeError):
            self.post_message(found)

    def on_tables_found(self, message: TablesFound) -> None:
        """Show what was found."""
        self.tables = message.tables
        if message.trouble is not None:
            trouble = message.trouble
            self._problem, self._hint = trouble.message, worded(trouble.hint, trouble.remedies)
        elif not message.tables:
            self._problem, self._hint = (
                "No table with a vector column was found.",
                "Look at DATABASE_URL, or try the demo.",
            )
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
        if self._problem:
            rows += [
                Content(""),
                draw.line(("! ", "bold $warning"), safe.line(self._problem)),
                draw.line(("  " + safe.line(self._hint), "$muted")),
            ]
        return draw.lines(rows)

    def _paint(self, index: int, width: int) -> Content | None:
        if index >= len(self.tables):
            name, what = _DEMOS[index - len(self.tables)]
            return draw.cut(draw.line((draw.fit(name, 11), "bold"), (what, "$muted")), width)
        table = self.tables[index]
        rows = f"{figures.number(table.rows)} rows" if table.rows is not None else "rows unknown"
        left = draw.line(
            (safe.line(table.name), "bold"),
            ("  ", ""),
            (safe.line(table.column), "$old"),
            (f" {safe.line(table.type)}", "$muted"),
        )
        if table.made_by:
            rows = f"{safe.line(table.made_by)}, {rows}"
        return draw.row(left, draw.line((rows, "$muted")), width)

    @on(Listing.Chosen)
    def chosen(self, message: Listing.Chosen) -> None:
        """A table asks for its model; the demo starts."""
        if message.index >= len(self.tables):
            self.exit(Choice(demo=True, dead=message.index > len(self.tables)))
            return
        table = self.tables[message.index]

        def answered(answer: tuple[str, int, str] | None) -> None:
            if answer is not None:
                model, dimensions, old = answer
                self.exit(Choice(False, False, table.name, table.column, model, dimensions, old))

        self.push_screen(ModelDialog(table.name), answered)

    def action_demo(self) -> None:
        """Leave for the demo."""
        self.exit(Choice(demo=True))

    def action_shutdown(self) -> None:
        """Leave for the demo in which the old model is shut down."""
        self.exit(Choice(demo=True, dead=True))
