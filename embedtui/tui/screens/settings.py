"""The sheet of all settings in force: where each came from, and changing those that may be changed now."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from embedtui.model import SettingLine, SettingsInForce
from embedtui.tui import draw, safe
from embedtui.tui.actions.base import READONLY
from embedtui.tui.dialogs.settings import SettingDialog
from embedtui.tui.engine import Engine
from embedtui.tui.engine_threads import Call, Task
from embedtui.tui.messages import ReadFailed, SettingChanged, SettingsRead
from embedtui.tui.panels.settings import setting_detail, setting_line
from embedtui.tui.view import Trouble
from embedtui.tui.widgets.listing import Listing

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard


_KEYS = "/ filters  s set ones only  R reads again  Esc closes"
_FILTERED = "s set ones only  R reads again  Esc clears the filter"
_CHANGES = "Enter changes  "
"""Said where it does."""


class SettingsScreen(ModalScreen[None]):
    """Over any screen; Esc leaves."""

    AUTO_FOCUS = "#settings"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,S", "close", "Close", show=False),
        Binding("slash", "filter", "Filter", show=False),
        Binding("s", "said", "Only set ones", show=False),
        Binding("R", "reload", "Reload", show=False),
    ]

    def __init__(self) -> None:
        """Nothing is read yet."""
        super().__init__()
        self._read: SettingsInForce | None = None
        self._problem = ""
        self._told = ""
        """What became of the last change, until another setting is looked at."""
        self._only_said = False
        self.lines: tuple[SettingLine, ...] = ()
        """Those that are listed."""

    @property
    def dashboard(self) -> Dashboard:
        """The app, by its type."""
        return cast("Dashboard", self.app)

    def compose(self) -> ComposeResult:
        """Lay out the filter, the list, and what is chosen in it."""
        with Vertical(classes="dialog sheet") as box:
            box.border_title = "Settings"
            yield Input(placeholder="filter", id="filter", compact=True)
            yield Listing(self._paint, empty="◌ reading …", id="settings")
            yield Static(id="setting-detail", markup=False)

    def on_mount(self) -> None:
        """Read them."""
        self._ask()

    def _ask(self) -> None:
        self.dashboard.bridge.read(lambda engine: engine.settings_in_force(), SettingsRead, self.post_message)

    def on_settings_read(self, message: SettingsRead) -> None:
        """Show them."""
        self._read, self._problem = message.found, message.found.problem
        box = self.query_one(".sheet")
        box.border_title = Content(f"Settings  {safe.line(message.found.file)}".rstrip())
        self._gather()

    def on_read_failed(self, message: ReadFailed) -> None:
        """Say why there is nothing."""
        self._problem = message.trouble.message
        self._detail()

    def _gather(self) -> None:
        words = self.query_one("#filter", Input).value.casefold().split()
        found = self._read.lines if self._read is not None else ()
        listed = [each for each in found if not (self._only_said and each.origin == "default" and each.written is None)]
        named = [each for each in listed if all(word in each.path for word in words)]
        # what is typed is mostly a name; values and origins are looked through where it is none
        before, self.lines = (
            self.lines,
            tuple(
                named
                or (each for each in listed if all(word in f"{each.value} {each.origin}".casefold() for word in words))
            ),
        )
        listing = self.query_one("#settings", Listing)
        listing.empty = "No setting matches; Esc clears the filter."
        listing.update_rows(before, self.lines, lambda line: line.path)
        self._detail()

    def _paint(self, index: int, width: int) -> Content | None:
        return setting_line(self.lines[index], width) if index < len(self.lines) else None

    @on(Listing.Moved, "#settings")
    def moved(self) -> None:
        """What is it?"""
        self._told = ""
        self._detail()

    def on_resize(self) -> None:
        """Break the lines anew."""
        self._detail()

    def _detail(self) -> None:
        place = self.query_one("#setting-detail", Static)
        width = max(20, place.size.width or 70)
        rows = []
        if self._problem:
            rows += [draw.line(("! ", "bold $warning"), each) for each in draw.wrapped(self._problem, width - 2, "", 2)]
        if self._told:
            rows += [draw.line(("✓ ", "bold $success"), each) for each in draw.wrapped(self._told, width - 2, "", 2)]
        chosen = self.query_one("#settings", Listing).cursor
        changes = False
        if chosen < len(self.lines):
            line, changes = self.lines[chosen], not (self.lines[chosen].fixed or self.dashboard.readonly)
            rows += setting_detail(line, width, readonly=self.dashboard.readonly)
        place.update(draw.lines(rows))
        keys = _FILTERED if self.query_one("#filter").has_class("-open") else _KEYS
        self.query_one(".sheet").border_subtitle = (_CHANGES if changes else "") + keys

    # -------------------------------------------------------------------------------------------------- actions

    @on(Listing.Chosen, "#settings")
    def change(self, message: Listing.Chosen) -> None:
        """Ask for another value, where there may be one."""
        line = self.lines[message.index]
        refusal = READONLY if self.dashboard.readonly else line.fixed and f"{line.path}: {line.fixed}"
        if refusal:
            self.dashboard.say(refusal, title="Settings", severity="warning")
            return
        assert self._read is not None
        seen = self._read.seen

        def order(dialog: SettingDialog, given: str) -> None:
            def work(engine: Engine, _call: Call) -> SettingChanged:
                try:
                    return SettingChanged(engine.change_setting(line.path, given, seen))
                except Exception as error:  # noqa: BLE001 (the dialog shows it)
                    return SettingChanged("", Trouble.of(error))

            self.dashboard.bridge.do(Task("setting", work, result=lambda told: told, to=dialog.post_message))

        def answered(text: str | None) -> None:
            if text:
                self._told = text
                self.dashboard.settings_changed()
            self._ask()

        self.dashboard.push_screen(SettingDialog(line, self._read.file, order), answered)

    def action_filter(self) -> None:
        """Open the filter."""
        field = self.query_one("#filter", Input)
        field.add_class("-open")
        self._detail()
        field.focus()

    def action_said(self) -> None:
        """List only what somebody has set, or all again."""
        self._only_said = not self._only_said
        self._gather()

    def action_reload(self) -> None:
        """Have all read the settings again, and show them."""
        self.dashboard.action_perform("reload")
        self._ask()

    @on(Input.Changed, "#filter")
    def typed(self) -> None:
        """List what matches."""
        self._gather()

    @on(Input.Submitted, "#filter")
    def to_the_list(self) -> None:
        """The filter stays."""
        self.query_one("#settings", Listing).focus()

    def action_close(self) -> None:
        """Leave the filter, then the sheet."""
        field = self.query_one("#filter", Input)
        if field.has_class("-open"):
            field.value = ""
            field.remove_class("-open")
            self._detail()
            self.query_one("#settings", Listing).focus()
        else:
            self.dismiss(None)
