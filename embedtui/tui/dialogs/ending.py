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
from embedtui.tui import safe
from embedtui.tui.dialogs.base import NamedDialog, Tick
from embedtui.tui.dialogs.base import field as labelled


@dataclass(frozen=True, slots=True)
class NamedAnswer:
    """The table's name as typed, and the choices made."""

    name: str
    override: Mapping[str, str] = field(default_factory=dict)
    """Reasons by the checks they pass, where some were asked for."""
    rename: bool = True
    """The new column takes the old one's name."""
    archive: str = ""
    """Table or file that keeps the old vectors; empty: they are gone."""


class NameDialog(NamedDialog[NamedAnswer]):
    """Says what is dropped, with the exact SQL where there is some, and takes the table's name.

    ``keeping`` is the SQL where the new column keeps its name: with it, a cleanup's choices are offered.
    """

    def __init__(
        self,
        verb: str,
        text: str,
        table: str,
        statements: tuple[str, ...] = (),
        blockers: tuple[Blocker, ...] = (),
        *,
        keeping: tuple[str, ...] | None = None,
    ) -> None:
        """Ask whether to ``verb`` the table."""
        super().__init__(verb, "error", table, blockers)
        self._text, self._statements, self._keeping = text, statements, keeping

    def body(self) -> ComposeResult:
        """Text, SQL, what stands against it, and the fields."""
        yield Static(Content(self._text))
        if self._statements:
            with VerticalScroll(classes="sql"):
                yield Static(self.sql, id="sql")
        yield from self.obstacles()
        yield from self.name_field()
        yield from self.reason_field()
        if self._keeping is not None:
            keep = Input(id="archive", placeholder="no; or a table or a file", compact=True)
            yield from labelled("Keep old vectors in", keep)
            yield Tick("The new column takes the old one's name", value=True, id="rename", compact=True)

    @property
    def _rename(self) -> bool:
        return all(box.value for box in self.query("#rename").results(Checkbox))

    @property
    def _archive(self) -> str:
        return "".join(each.value.strip() for each in self.query("#archive").results(Input))

    @property
    def sql(self) -> Content:
        """What would be run as the choices stand."""
        statements = self._statements if self._rename or self._keeping is None else self._keeping
        first = f"-- first the old vectors are kept in {self._archive}, and counted\n" if self._archive else ""
        return Content(safe.block(first + ";\n".join(statements) + ";"))

    def answer(self) -> NamedAnswer | None:
        """Needs the whole name, and a reason where one is asked for."""
        override = self.overrides()
        if not self.named or override is None:
            return None
        return NamedAnswer(self._table, override, self._rename, self._archive)

    @on(Input.Changed)
    @on(Checkbox.Changed)
    def show_sql(self) -> None:
        """The SQL follows the choices."""
        for sql in self.query("#sql").results(Static):
            sql.update(self.sql)
