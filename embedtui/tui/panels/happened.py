"""What happened, in one line of time: what anybody did, by the audit log, and what the engine of this process told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from textual.content import Content

from embedtui.formatting import sentences
from embedtui.model import (
    AuditEntry,
    Condition,
    Event,
    Failed,
    FaultClass,
    Held,
    PhaseChanged,
    RouteFlipped,
    Snapshot,
    hold_word,
)
from embedtui.tui import draw, safe

_LOOKS = {
    "phase": ("▸", "bold $primary"),
    "cutover": ("⇄", "bold $new"),
    "canary": ("⇄", "bold $new"),
    "rollback": ("⇄", "bold $old"),
    "index failed": ("✗", "$error"),
    "held": ("◐", "$warning"),
    "over": ("·", ""),
    "worker lost": ("✗", "$error"),
    "worker failed": ("✗", "$error"),
    "old side refused": ("✗", "$error"),
    "old side accepted": ("✓", "$success"),
    "old model lost": ("✗", "$error"),
    "old model dead": ("✗", "$error"),
    "old model answers": ("✓", "$success"),
}
"""Glyph and style of what the audit log tells; all else is somebody's pencil."""
_PENCIL = ("✎", "$primary")
EPISODES = ("held", "over")
"""Acts that tell how long a hold lasted."""
_TOLD = re.compile(r"(?P<word>[^:]+): .*?\bfrom (?P<began>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ")
"""When it began, and by which word."""
SAME = timedelta(seconds=10)
"""An event, and the line of the audit log about it: hosts' clocks differ."""
_AUDITED = (PhaseChanged, RouteFlipped)
"""Events that stand in the audit log as well, with who it was."""
QUIET = ("phase", "batch", "capture", "settings", "rights", "held", "over", "worker lost")
"""What others' processes write in passing: worth a line, and no message in the corner."""
LOUD = ("rollback", "abort", "index failed", "old model lost", "old model dead", "worker failed", "old side refused")
"""What is worth more than a glance when it was somebody else."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log."""

    at: datetime
    glyph: str
    style: str
    who: str
    text: str
    over: bool = False
    """What it told of has been put right since."""

    @classmethod
    def of_audit(cls, entry: AuditEntry, snapshot: Snapshot | None = None) -> Entry:
        """Something that somebody did."""
        glyph, style = _LOOKS.get(entry.act, _PENCIL)
        text = safe.line(f"{entry.act}: {entry.detail}" if entry.detail else entry.act)
        return cls(entry.at, glyph, style, whose(entry), text, _mended(entry, snapshot))

    @classmethod
    def of_event(cls, event: Event, snapshot: Snapshot | None = None) -> Entry:
        """Something that the engine of this process reported."""
        glyph, style = event_look(event)
        hint = f"  → {event.hint}" if isinstance(event, Failed) and event.hint else ""
        return cls(event.at, glyph, style or "$muted", "", safe.line(event.text + hint), _passed(event, snapshot))

    @property
    def look(self) -> tuple[str, str]:
        """Glyph and style as things stand now: what is over is no longer red, and still no good news."""
        return ("!", "$muted") if self.over else (self.glyph, self.style)


def whose(entry: AuditEntry) -> str:
    """Who it was and where, as in ``anna@ops-1:4242``."""
    host = f"@{safe.line(entry.host)}" if entry.host else ""
    return safe.line(entry.who) + host + (f":{entry.pid}" if host and entry.pid else "")


def gathered(log: Iterable[AuditEntry], events: Iterable[Event], snapshot: Snapshot | None) -> list[Entry]:
    """Both in the order of time; what stands in both is told once."""
    entries = [Entry.of_audit(each, snapshot) for each in log]
    said = {each.detail: each.at for each in log if each.act == "pause"}
    said |= {f"{each.act}: {each.detail}".casefold(): each.at for each in log}
    spans = _episodes(log)
    entries += [Entry.of_event(each, snapshot) for each in events if not _audited(each, said, spans)]
    return sorted(entries, key=lambda each: each.at)


@dataclass(frozen=True, slots=True)
class _Span:
    """What the audit log tells of a hold, by its word: that it began, or that it is over as well."""

    word: str
    over: bool
    began: datetime
    until: datetime

    def covers(self, event: Held, word: str) -> bool:
        return self.word == word and self.began - timedelta(seconds=1) <= event.at <= self.until


def _episodes(log: Iterable[AuditEntry]) -> list[_Span]:
    spans: list[_Span] = []
    until: dict[str, datetime] = {}
    for entry in sorted(log, key=lambda each: each.at, reverse=True):
        if entry.act not in EPISODES or (told := _TOLD.match(entry.detail)) is None:
            continue
        word, over = told["word"], entry.act == "over"
        until[word] = entry.at if over else until.get(word, datetime.max.replace(tzinfo=UTC))
        began = datetime.fromisoformat(told["began"]).replace(tzinfo=UTC)
        spans.append(_Span(word, over, began, until[word]))
    return spans


def _audited(event: Event, said: Mapping[str, datetime], spans: Iterable[_Span]) -> bool:
    """Whether the audit log has it as well: a failure by its pause, a hold by its episode, others in the same words.

    That a hold is over is told at once by the event, until the audit log says so once it has stayed so.
    """
    if isinstance(event, Held) and event.names:
        begins = any(hold.name in event.names for hold in event.holds)
        told = [span for span in spans if span.over or begins]
        return all(any(span.covers(event, hold_word(name)) for span in told) for name in event.names)
    if isinstance(event, _AUDITED):
        return True
    words = sentences(event.text, event.hint) if isinstance(event, Failed) else event.text.casefold()
    at = said.get(words)
    return at is not None and abs(at - event.at) < SAME


def entry_lines(entry: Entry, width: int, height: int) -> list[Content]:
    """When, what, and on the right who and where, as far as there is room; of a long text ``height`` lines at most."""
    glyph, style = entry.look
    bold = style if entry.glyph not in "·✎" else ""
    lead = draw.line((draw.clock(entry.at) + " ", "$muted"), (f"{glyph} ", style))
    who = draw.line((f"  {entry.who}" if entry.who and width >= len(entry.who) + 40 else "", "$muted"))
    room = width - lead.cell_length - who.cell_length
    first, *more = draw.wrapped(entry.text, room, bold, height) or [Content("")]
    return [draw.row(draw.line(lead, first), who, width), *(draw.line(" " * lead.cell_length, each) for each in more)]


def event_look(event: Event) -> tuple[str, str]:
    """Glyph and style of an event."""
    if isinstance(event, Failed):
        return "✗", "$error"
    if isinstance(event, Held) and any(hold.stops for hold in event.holds):
        return "◐", "$warning"
    return "·", ""


def _passed(event: Event, snapshot: Snapshot | None) -> bool:
    """Whether a failure, or a hold, is over by a snapshot that was taken after it."""
    if snapshot is None or event.at >= snapshot.as_of:
        return False
    if isinstance(event, Held):
        names = {hold.name for hold in snapshot.reasons}
        return bool(event.holds) and not any(hold.name in names for hold in event.holds)
    if not isinstance(event, Failed):
        return False
    if event.fault_class is FaultClass.ROW:
        return snapshot.faulty == 0
    if event.fault_class is FaultClass.PROVIDER and any(hold.name in ("provider", "rate") for hold in snapshot.reasons):
        return False
    # of others no snapshot tells whether they are over
    return event.fault_class is not None and snapshot.condition is not Condition.FAILED


def _mended(entry: AuditEntry, snapshot: Snapshot | None) -> bool:
    if snapshot is None:
        return False
    if entry.act == "index failed":
        return snapshot.index.valid
    if entry.act == "worker failed":
        return snapshot.condition is not Condition.FAILED
    if entry.act == "old side refused":
        return not snapshot.old_refused
    if entry.act == "old model dead":
        return not snapshot.old_gone
    aged = snapshot.rollback.stale or snapshot.rollback.bridged
    return entry.act == "old model lost" and (snapshot.phase.ended or not aged)
