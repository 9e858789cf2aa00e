"""The dialog before something that cannot be taken back: cleanup and abort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Checkbox, Input, Static

from embedtui.model import Blocker
from embedtui.tui import draw, safe
from embedtui.tui.dialogs.base import NamedDialog, Tick
from embedtui.tui.dialogs.base import field as labelled


@dataclass(frozen=True, slots=True)
class NamedAnswer:
    """The table's name as typed, and the choices made."""

    name: str
    override: Mapping[str, str] = field(default_factory=dict)
    """Reasons by the checks they pass, where some were asked for."""
    option: tuple[str, bool] | None = None
    """A choice of the cleanup's by its name, ``rename`` or ``fold``, as it was ticked."""
    archive: str = ""
    """Table or file that keeps the old vectors; empty: they are gone."""


@dataclass(frozen=True, slots=True)
class Either:
    """A choice that is ticked or not, with what is run and what is said in either case."""

    name: str
    label: str
    """Empty where there is nothing to choose."""
    ticked: bool
    """At first."""
    statements: Mapping[bool, tuple[str, ...]]
    notices: Mapping[bool, tuple[str, ...]]
    blockers: Mapping[bool, tuple[Blocker, ...]]
    """What stands against either."""


class NameDialog(NamedDialog[NamedAnswer]):
    """Says what is dropped, with the exact SQL where there is some, and takes the table's name.

    With ``either`` a cleanup's choices are offered, and the SQL is its.
    """

    def __init__(
        self,
        verb: str,
        text: str,
        table: str,
        statements: tuple[str, ...] = (),
        blockers: tuple[Blocker, ...] = (),
        *,
        either: Either | None = None,
    ) -> None:
        """Ask whether to ``verb`` the table."""
        super().__init__(verb, "error", table, blockers if either is None else either.blockers[either.ticked])
        self._text, self._statements, self._either = text, statements, either

    def body(self) -> ComposeResult:
        """Text, what stands against it, the fields, and what may scroll out of sight: more to know, and the SQL."""
        yield Static(Content(self._text))
        yield from self.obstacles()
        yield from self.name_field()
        yield from self.reason_field()
        if self._either is not None:
            keep = Input(id="archive", placeholder="no; or a table or a file", compact=True)
            yield from labelled("Keep old vectors in", keep)
        if self._either is not None and self._either.label:
            yield Tick(self._either.label, value=self._either.ticked, id=self._either.name, compact=True)
        if self._either is not None:
            yield Static(self.notices, id="notices")
        if self._statements or self._either is not None:
            yield Static(id="sql-head", markup=False)
            with VerticalScroll(classes="sql"):
                yield Static(self.sql, id="sql")

    @property
    def _ticked(self) -> bool:
        if self._either is None:
            return False
        boxes = list(self.query(f"#{self._either.name}").results(Checkbox))
        return boxes[0].value if boxes else self._either.ticked

    @property
    def _archive(self) -> str:
        return "".join(each.value.strip() for each in self.query("#archive").results(Input))

    @property
    def notices(self) -> Content:
        """What is said of it as the choices stand, a line each."""
        said = () if self._either is None else self._either.notices[self._ticked]
        return draw.lines([draw.line(("· ", "$muted"), safe.line(each)) for each in said])

    @property
    def sql(self) -> Content:
        """What would be run as the choices stand."""
        either = self._either
        statements = self._statements if either is None else either.statements[self._ticked]
        first = f"-- first the old vectors are kept in {self._archive}, and counted\n" if self._archive else ""
        return Content(safe.block(first + ";\n".join(statements) + ";"))

    def answer(self) -> NamedAnswer | None:
        """Needs the whole name, and a reason where one is asked for."""
        override = self.overrides()
        if not self.named or override is None:
            return None
        option = (self._either.name, self._ticked) if self._either is not None else None
        return NamedAnswer(self._table, override, option, self._archive)

    @on(Checkbox.Changed)
    async def judge(self) -> None:
        """Another choice may have other obstacles."""
        if self._either is not None:
            await self.stand_against(self._either.blockers[self._ticked])

    def on_resize(self) -> None:
        """The SQL may fit now, or no longer."""
        self.call_after_refresh(self._say_scrolls)

    def _say_scrolls(self) -> None:
        for box in self.query(".sql"):
            text = "The SQL (it scrolls: Tab goes there, ↓ on):" if box.max_scroll_y else "The SQL:"
            self.query_one("#sql-head", Static).update(Content.styled(text, "$muted"))

    @on(Input.Changed)
    @on(Checkbox.Changed)
    def show_sql(self) -> None:
        """The SQL follows the choices."""
        for sql in self.query("#sql").results(Static):
            sql.update(self.sql)
        for said in self.query("#notices").results(Static):
            said.update(self.notices)
        self.call_after_refresh(self._say_scrolls)
