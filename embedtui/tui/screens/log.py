"""Log: the audit of all operators and the events of this process in one line of time; filter, follow, export."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from embedtui.formatting import counted
from embedtui.model import AuditEntry
from embedtui.tui import draw
from embedtui.tui.messages import AuditRead, EngineReported
from embedtui.tui.panels.happened import Entry, gathered
from embedtui.tui.screens.base import FilteredScreen
from embedtui.tui.view import View
from embedtui.tui.widgets.listing import Listing

_AUDIT_LINES = 2000
_SNAPSHOTS = 6
"""Snapshots between two readings of the audit log while it is looked at."""


class LogScreen(FilteredScreen):
    """What happened, who did it."""

    NAME = "log"
    LIST = "#log"
    AUTO_FOCUS = "#log"
    KEYS = ("filter", "follow", "export")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", tooltip="Only lines that contain the words."),
        Binding("f", "follow", "Follow", tooltip="Stay at the newest line, or stop doing so."),
        Binding("e", "export", "Export", tooltip="Save the lines shown as a file, and copy them."),
        Binding("escape", "leave_filter", "Leave", show=False),
    ]

    def __init__(self) -> None:
        """Nothing is read yet."""
        super().__init__()
        self._audit: tuple[AuditEntry, ...] | None = None
        self.entries: list[Entry] = []
        """The lines listed."""
        self.following = True
        """Whether it stays at the newest line."""
        self._shown = 0
        self._newest = 0
        """Id of the newest line when the log was last asked for."""

    def body(self) -> ComposeResult:
        """One list."""
        with Vertical(id="log-side", classes="box") as side:
            side.border_title = "Log"
            yield self.filter_field()
            yield Listing(self._paint, empty="◌ Reading the log …", id="log")
            yield Static(id="log-line", markup=False)

    def opened(self) -> None:
        """Read the audit log, and gather what happened meanwhile."""
        self._fetch()
        self._gather()

    def show(self, view: View) -> None:
        """Read the audit log anew every few snapshots."""
        super().show(view)
        self._shown += 1
        newest = view.snapshot.log[-1].id if view.snapshot and view.snapshot.log else 0
        if view.link.up and (newest != self._newest or self._shown % _SNAPSHOTS == 0):
            self._newest = newest
            self._fetch()

    def on_audit_read(self, message: AuditRead) -> None:
        """Take it in where it differs."""
        if message.entries != self._audit:
            self._audit = message.entries
        self._gather()

    def on_engine_reported(self, _message: EngineReported) -> None:
        """Take the event in."""
        self._gather()

    def _fetch(self) -> None:
        if self.dashboard.snapshot is not None:
            self.ask_engine(lambda engine: engine.audit(_AUDIT_LINES), AuditRead)

    def _gather(self) -> None:
        """Lists what matches the filter, in the order of time."""
        view, before = self.dashboard.view, self.entries
        entries = gathered(self._audit or (), view.events, view.snapshot)
        self.entries = [each for each in entries if self.matches(f"{each.who} {each.text}")]
        if self._audit is not None:
            self.listing.empty = (
                "No line matches; Esc clears the filter." if self.words else "Nothing has happened yet."
            )
        if before == self.entries and before:
            return
        if self.following:
            self.listing.reset(len(self.entries), len(self.entries) - 1)
        else:
            self.listing.update_rows(before, self.entries, lambda entry: entry)
        self._title()
        self._whole()

    def _title(self) -> None:
        state = "following" if self.following else "f follows"
        title = f"Log  {counted(len(self.entries), 'line', 'lines')}, {state}"
        self.query_one("#log-side").border_title = title

    @on(Listing.Moved, "#log")
    def moved(self, message: Listing.Moved) -> None:
        """Going up stops following; reaching the newest line starts it again."""
        follow = message.index >= len(self.entries) - 1
        if follow != self.following:
            self.following = follow
            self._title()
        self._whole()

    def on_resize(self) -> None:
        """Break the line anew."""
        self._whole()

    def _whole(self) -> None:
        """The line under the cursor, as much of it as there is room for."""
        place = self.query_one("#log-line", Static)
        at, width = self.listing.cursor, max(20, place.content_size.width)
        entry = self.entries[at] if at < len(self.entries) else None
        text = "" if entry is None else f"{entry.who}  {entry.text}".strip()
        place.update(draw.lines(draw.told(text, width, "", max(2, place.content_size.height))), layout=False)

    def action_follow(self) -> None:
        """Jump to the newest line and stay there, or stop."""
        self.following = not self.following
        if self.following:
            self.listing.action_last()
        self._title()

    def filter_changed(self) -> None:
        """List what matches."""
        self._gather()

    def action_export(self) -> None:
        """Hand out the lines shown, as text."""
        text = "\n".join(f"{each.at.isoformat()}\t{each.who}\t{each.text}" for each in self.entries)
        if text:
            self.dashboard.hand_out(text + "\n", "log.tsv")
        else:
            self.dashboard.say("No line is listed.", title="Export", severity="warning")

    @on(Listing.Chosen, "#log")
    def chosen(self, message: Listing.Chosen) -> None:
        """Enter says the line in full."""
        entry = self.entries[message.index]
        self.dashboard.say(entry.text, title=f"{draw.when(entry.at, None)} {entry.who}".rstrip())

    def _paint(self, index: int, width: int) -> Content | None:
        entry = self.entries[index]
        day = f"{entry.at:%d.%m. }" if width >= 100 else ""
        glyph, style = entry.look
        lead = draw.line((f"{day}{draw.clock(entry.at)} ", "$muted"), (f"{glyph} ", style))
        room = 26 if width >= 120 else 16 if width >= 70 else 0
        who = draw.line((draw.fit(entry.who, room) + " " if room else "", "$muted"))
        return draw.cut(draw.line(lead, who, (entry.text, style if entry.glyph not in "·✎" else "")), width)
