"""Log: the audit of all operators and the events of this process in one line of time; filter, follow, export."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input

from embedtui.model import AuditEntry, Event, Failed, Held, PhaseChanged, RouteFlipped, Side
from embedtui.tui import draw, safe
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.view import View
from embedtui.tui.widgets.listing import Listing

_AUDIT_LINES = 2000
_BEATS = 6
"""Snapshots between two readings of the audit log while it is looked at."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log."""

    at: datetime
    glyph: str
    style: str
    who: str
    text: str

    @classmethod
    def of_audit(cls, entry: AuditEntry) -> Entry:
        """An act of an operator."""
        who = safe.line(entry.who) + (f"@{safe.line(entry.host)}" if entry.host else "")
        return cls(entry.at, "✎", "$primary", who, safe.line(f"{entry.act}  {entry.detail}"))

    @classmethod
    def of_event(cls, event: Event) -> Entry:
        """Something that the engine of this process told."""
        glyph, style = "·", "$muted"
        if isinstance(event, Failed):
            glyph, style = "✗", "$error"
        elif isinstance(event, PhaseChanged):
            glyph, style = "▸", "bold $primary"
        elif isinstance(event, RouteFlipped):
            glyph, style = "⇄", "bold $new" if event.active is Side.NEW else "bold $old"
        elif isinstance(event, Held) and event.holds:
            glyph, style = "◐", "$warning"
        hint = f"  → {event.hint}" if isinstance(event, Failed) and event.hint else ""
        return cls(event.at, glyph, style, "", safe.line(event.text + hint))


class LogScreen(DashboardScreen):
    """What happened, who did it."""

    NAME = "log"
    AUTO_FOCUS = "#log"
    KEYS = ("filter", "follow", "export")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", tooltip="Only lines that contain the words."),
        Binding("f", "follow", "Follow", tooltip="Stay at the newest line, or stop doing so."),
        Binding("e", "export", "Export", tooltip="Save the lines shown as a file, and copy them."),
        Binding("escape", "leave_filter", "Leave", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._audit: tuple[Entry, ...] | None = None
        self._entries: list[Entry] = []
        self._filter = ""
        self._follow = True
        self._beat = 0

    def body(self) -> ComposeResult:
        with Vertical(id="log-side", classes="box") as side:
            side.border_title = "Log"
            yield Input(placeholder="filter", id="log-filter", classes="filter", compact=True)
            yield Listing(self._paint, empty="◌ Reading the log …", id="log")

    def opened(self) -> None:
        self._fetch()
        self._gather()

    def show(self, view: View) -> None:
        super().show(view)
        self._beat += 1
        if self._beat % _BEATS == 0 and view.link.up:
            self._fetch()

    def receive(self, topic: str, payload: object) -> None:
        if topic == "audit" and isinstance(payload, tuple):
            fresh = tuple(Entry.of_audit(each) for each in payload)
            if fresh != self._audit:
                self._audit = fresh
                self._gather()
        elif topic == "event":
            self._gather()

    def _fetch(self) -> None:
        if self.dashboard.snapshot is not None:
            self.dashboard.bridge.fetch("audit", lambda engine: engine.audit(_AUDIT_LINES))

    def _gather(self) -> None:
        words = self._filter.casefold().split()
        entries = [*(self._audit or ()), *(Entry.of_event(each) for each in self.dashboard.view.events)]
        entries.sort(key=lambda each: each.at)
        before = self._entries
        self._entries = [
            each for each in entries if all(word in f"{each.who} {each.text}".casefold() for word in words)
        ]
        listing = self.query_one("#log", Listing)
        if self._audit is not None:
            listing.empty = "No line matches; Esc clears the filter." if words else "Nothing has happened yet."
        if before == self._entries and before:
            return
        listing.reset(len(self._entries), len(self._entries) - 1 if self._follow else None)
        self._title()

    def _title(self) -> None:
        state = "following" if self._follow else "f follows"
        self.query_one(
            "#log-side"
        ).border_title = f"Log  {draw.number(len(self._entries))} line{'s' if len(self._entries) != 1 else ''}, {state}"

    @on(Listing.Moved, "#log")
    def moved(self, message: Listing.Moved) -> None:
        """Going up stops following; reaching the newest line starts it again."""
        follow = message.index >= len(self._entries) - 1
        if follow != self._follow:
            self._follow = follow
            self._title()

    def action_follow(self) -> None:
        """Jumps to the newest line and stays there, or stops."""
        self._follow = not self._follow
        if self._follow:
            self.query_one("#log", Listing).action_last()
        self._title()

    def action_filter(self) -> None:
        """Opens the filter."""
        field = self.query_one("#log-filter", Input)
        field.add_class("-open")
        field.focus()

    def action_leave_filter(self) -> None:
        """Closes and clears the filter."""
        field = self.query_one("#log-filter", Input)
        field.value = ""
        field.remove_class("-open")
        self.query_one("#log").focus()

    @on(Input.Changed, "#log-filter")
    def filtered(self, event: Input.Changed) -> None:
        """The list follows what is typed."""
        self._filter = event.value
        self._gather()

    @on(Input.Submitted, "#log-filter")
    def filter_done(self) -> None:
        """Enter goes to the lines."""
        self.query_one("#log").focus()

    def action_export(self) -> None:
        """The lines shown, as text."""
        text = "\n".join(f"{each.at.isoformat()}\t{each.who}\t{each.text}" for each in self._entries)
        if text:
            self.dashboard.hand_out(text + "\n", "log.tsv")

    def _paint(self, index: int, width: int) -> Content | None:
        entry = self._entries[index]
        day = f"{entry.at:%d.%m. }" if width >= 100 else ""
        lead = draw.line((f"{day}{draw.clock(entry.at)} ", "$muted"), (f"{entry.glyph} ", entry.style))
        who = draw.line((draw.fit(entry.who, 16) + " " if width >= 70 else "", "$muted"))
        return draw.cut(draw.line(lead, who, (entry.text, entry.style if entry.glyph not in "·✎" else "")), width)
