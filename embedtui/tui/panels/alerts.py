"""What cannot wait until somebody looks closely: one line of it, with the key that helps."""

from __future__ import annotations

from dataclasses import dataclass

from embedtui.formatting import counted
from embedtui.model import Condition, Hold, Phase, Side, Snapshot, hold_word
from embedtui.model.lifecycle import HELD_UNTIL, held_until
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
    """What harms most of what is wrong now, searches before the work; None while nothing is."""
    if snapshot is None or snapshot.migration is None or snapshot.phase.ended:
        return None
    paused = snapshot.condition is Condition.PAUSED  # somebody wants it so: what comes of that is no news
    looks = _SEARCHES if paused else _BY_HARM
    return next((found for look in looks if (found := look(snapshot)) is not None), None)


def _unanswered(snapshot: Snapshot) -> Alert | None:
    if not snapshot.unanswered:
        return None
    why = safe.line(snapshot.old_gone).rstrip(".")
    why += f"; bridging, {safe.line(snapshot.bridge_work)}" if snapshot.bridge_work else ""
    act = "cutover" if snapshot.next_act == "cutover" else "bridge"
    return Alert("Searches fail", f"{why}.", act, "$error", urgent=not snapshot.bridge_work)


def _unindexed(snapshot: Snapshot) -> Alert | None:
    """A side that serves has lost its index: searches of it read the whole table."""
    if snapshot.old_index_lost and snapshot.old_serves:
        why = f"{safe.line(snapshot.old_index_lost)}, and its searches read the whole table: make it again."
        return Alert("Old index lost", why, "plan", "$error", urgent=True)
    if snapshot.new_index_lost:
        why = f"{safe.line(snapshot.new_index_lost)}, and searches read the whole table."
        return Alert("New index lost", why, "index", "$error", urgent=True)
    return None


def _unindexed_behind(snapshot: Snapshot) -> Alert | None:
    """As :func:`_unindexed`, of the side that a rollback goes to."""
    if not snapshot.old_index_lost or snapshot.old_serves:
        return None
    why = f"{safe.line(snapshot.old_index_lost)}: after a rollback searches would read the whole table. Make it again."
    return Alert("Old index lost", why, "plan", urgent=True)


def _failed(snapshot: Snapshot) -> Alert | None:
    if snapshot.condition is not Condition.FAILED or snapshot.migration is None:
        return None
    reason = safe.line(snapshot.reasons[0].detail) if snapshot.reasons else ""
    waits = snapshot.migration.desired == "pause" and any(worker.alive for worker in snapshot.workers)
    act = "pause" if waits else "run"  # with nobody to be resumed a run tries again
    return Alert("Failed", f"{reason.rstrip('.')}.", act, "$error", urgent=True)


def _died(snapshot: Snapshot) -> Alert | None:
    if (dead := snapshot.died) is None:
        return None
    ago = figures.duration(dead.heartbeat_seconds)
    name = f"{safe.line(dead.host)}:{dead.pid}"
    return Alert("Worker died", f"{name}, {ago} ago, {_loss(snapshot)}.", "run", "$error", urgent=True)


def _refused(snapshot: Snapshot) -> Alert | None:
    route, stale = snapshot.route, snapshot.rollback.stale
    if not snapshot.old_refused or not (route.active is Side.NEW or route.canary or route.changed_by):
        return None
    aged = f"{counted(stale, 'row', 'rows')} so far" if stale else "none yet"
    return Alert("Old side ages", f"{aged}: {safe.line(snapshot.old_refused)}", "log", "$error", urgent=True)


def _behind(snapshot: Snapshot) -> Alert | None:
    """The old side serves again, and not all of it is of the rows as they are."""
    if not snapshot.served_behind:
        return None
    why = f"it serves {snapshot.rollback.counts}: {safe.line(snapshot.rollback.why)}".rstrip(": .")
    idle = snapshot.condition is Condition.IDLE
    act = "run" if idle else "faults" if snapshot.faulty else "log"
    return Alert("Old side behind", f"{why}.", act, urgent=idle)


def _held_back(snapshot: Snapshot) -> Alert | None:
    stops = tuple(hold for hold in snapshot.reasons if hold.stops)
    # the cause, before what comes of it
    return _held(stops) if snapshot.condition is Condition.THROTTLED and stops else None


def _growing(snapshot: Snapshot) -> Alert | None:
    if not snapshot.sync.growing:
        return None
    waits = f"{counted(snapshot.sync.queued, 'change waits', 'changes wait')}"
    oldest = f", the oldest for {figures.duration(snapshot.sync.oldest_seconds)}"
    if snapshot.condition is Condition.IDLE:
        return Alert("Queue grows", f"{waits}{oldest}, and no worker is at work.", "run", urgent=True)
    return Alert("Queue grows", f"{waits}{oldest}: it comes faster than it is embedded.", "limits")


_SEARCHES = (_unanswered, _unindexed, _behind)
"""What production's searches suffer by."""
_BY_HARM = (_unanswered, _unindexed, _failed, _died, _refused, _behind, _unindexed_behind, _held_back, _growing)
"""What fails in production first, then what stands still, what ages, and what is late."""


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
    # of its outlook the time alone: the pace changes by the second, and has a box of its own
    said = (f"{hold.cause} {hold.outlook.partition('. ')[0]}" for hold in reasons if hold.name in _TOLD)
    told = safe.line(next(said, "").strip())
    lasting = held_until(reasons)
    helped = (lasting, *(hold.name for hold in reasons))
    act = next((_HELPS[name] for name in helped if name in _HELPS), "workers")
    goes_on = HELD_UNTIL.get(lasting, "goes on by itself")
    why = f"by {names}: {told.rstrip('.')}; {goes_on}." if told else f"by {names}: {goes_on}."
    return Alert("Held back", why, act, urgent=bool(lasting))
