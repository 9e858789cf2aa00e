"""What cannot wait until somebody looks closely: one line of it, with the key that helps."""

from __future__ import annotations

from dataclasses import dataclass

from embedtui.formatting import counted
from embedtui.model import Condition, Hold, Phase, Side, Snapshot, WorkerStatus, hold_word
from embedtui.tui import figures, safe

_HELPS = {
    "rate": "limits",
    "provider": "log",
    "database": "log",
    "lock": "log",
    "spend_cap": "limits",
    "probe_latency": "slower",
    "wal_rate": "slower",
    "operator": "pause",
    "index": "hold",
}
"""What helps against a hold, by its name: an action or a screen; against the others, to look who waits."""
_TOLD = ("rate", "provider", "database", "lock")
"""Holds whose name does not say what is wrong."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that needs an eye, or a hand."""

    word: str
    """Two words for the headline."""
    why: str
    act: str
    """Action or screen that helps."""
    style: str = "$warning"
    urgent: bool = False
    """It does not go on by itself: somebody has to do something."""


def alert(snapshot: Snapshot | None) -> Alert | None:
    """The most pressing of what is wrong now; None while nothing is."""
    if snapshot is None or snapshot.migration is None or snapshot.phase.ended:
        return None
    if snapshot.condition is Condition.FAILED:
        reason = safe.line(snapshot.reasons[0].detail) if snapshot.reasons else ""
        act = "pause" if snapshot.migration.desired == "pause" else "run"  # a worker ended by it, and nobody paused
        return Alert("Failed", f"{reason.rstrip('.')}.", act, "$error", urgent=True)
    if snapshot.condition is Condition.PAUSED:
        return None  # somebody wants it so
    if (dead := _dead(snapshot)) is not None:
        ago = figures.duration(dead.heartbeat_seconds)
        name = f"{safe.line(dead.host)}:{dead.pid}"
        return Alert("Worker died", f"{name}, {ago} ago, {_loss(snapshot)}.", "run", "$error", urgent=True)
    if snapshot.old_refused and (snapshot.route.active is Side.NEW or snapshot.route.canary):
        aged = f"{counted(snapshot.rollback.stale, 'row', 'rows')} so far" if snapshot.rollback.stale else "none yet"
        why = f"{aged}: {safe.line(snapshot.old_refused)}"
        return Alert("Old side ages", why, "log", "$error", urgent=True)
    stops = tuple(hold for hold in snapshot.reasons if hold.stops)
    if snapshot.condition is Condition.THROTTLED and stops:  # the cause, before what comes of it
        return _held(stops)
    if snapshot.sync.growing:
        waits = f"{counted(snapshot.sync.queued, 'change waits', 'changes wait')}"
        oldest = f", the oldest for {figures.duration(snapshot.sync.oldest_seconds)}"
        if snapshot.condition is Condition.IDLE:
            return Alert("Queue grows", f"{waits}{oldest}, and no worker is at work.", "run", urgent=True)
        return Alert("Queue grows", f"{waits}{oldest}: it comes faster than it is embedded.", "limits")
    return None


def _dead(snapshot: Snapshot) -> WorkerStatus | None:
    """The last worker, where it ended without a word and nobody has taken its place."""
    if not snapshot.workers or any(worker.alive for worker in snapshot.workers):
        return None
    return max(snapshot.workers, key=lambda worker: worker.id)


def _loss(snapshot: Snapshot) -> str:
    """What nobody does now."""
    if snapshot.phase in (Phase.PLAN, Phase.PREPARE, Phase.BACKFILL, Phase.INDEX):
        return "and the work stands still"
    sides = "sides" if snapshot.route.active is Side.NEW else "new side"
    return f"and nothing keeps the {sides} in sync"


def _held(reasons: tuple[Hold, ...]) -> Alert:
    if [hold.name for hold in reasons] == ["lock"]:  # who does it comes first, where little room is
        return Alert("Locked out", f"{safe.line(reasons[0].detail)}; goes on by itself.", _HELPS["lock"])
    names = ", ".join(safe.line(hold_word(hold.name)) for hold in reasons)
    told = next((safe.line(hold.detail) for hold in reasons if hold.name in _TOLD), "")
    act = next((_HELPS[hold.name] for hold in reasons if hold.name in _HELPS), "workers")
    capped = any(hold.name == "spend_cap" for hold in reasons)
    goes_on = "waits for it" if capped else "goes on by itself"
    said = f"by {names}: {told.rstrip('.')}; {goes_on}." if told else f"by {names}: {goes_on}."
    return Alert("Held back", said, act, urgent=capped)
