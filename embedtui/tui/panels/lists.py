"""Short lists: what the work waits for, faults, workers, events."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from embedtui.model import FaultState, Hold, WorkerStatus, hold_word
from embedtui.tui import draw, figures, safe
from embedtui.tui.panels.happened import entry_lines, gathered
from embedtui.tui.panels.parts import briefly, clipped, loading, shortened
from embedtui.tui.view import View

_LINES = 4
"""Of one event: a provider may say a lot."""
_DETAIL = 2
"""Of what holds the work, where there are several holds or little room."""


def holds(view: View, width: int, height: int) -> Content:
    """What the work waits for, by name and since when."""
    snapshot = view.snapshot
    if snapshot is None:
        return loading(view)
    if view.stale:
        return draw.line(("— not known while the database is lost", "$muted"))
    if not snapshot.reasons:
        return draw.line(("✓ nothing holds it", "$success"))
    rows: list[Content] = []
    for number, hold in enumerate(snapshot.reasons, 1):
        since = ""
        if hold.since is not None:
            since = figures.duration((snapshot.as_of - hold.since).total_seconds())
        glyph, style = ("◐", "$warning") if hold.stops else ("●", "$primary")
        word = safe.line(hold_word(hold.name))
        rows.append(
            draw.row(draw.line((f"{glyph} ", style), (word, f"bold {style}")), draw.line((since, "$muted")), width)
        )
        room = height - len(rows) - (len(snapshot.reasons) - number) * (1 + _DETAIL)  # all that the others leave
        rows += _detail(hold, width, max(_DETAIL, room))
    return clipped(rows, height)


def crowded(reasons: Sequence[Hold], width: int) -> bool:
    """Whether a hold says more than the usual box has room for, on lines of ``width`` cells."""
    return width > 0 and any(len(_detail(hold, width, _DETAIL + 1)) > _DETAIL for hold in reasons)


def _detail(hold: Hold, width: int, lines: int) -> list[Content]:
    """Of what is too long somebody else's words go first: when it goes on, and at what pace, is ours."""
    shown = draw.told(safe.line(hold.detail), width - 2, "$muted", lines, safe.line(hold.outlook))
    return [draw.line("  ", each) for each in shown]


def faults(view: View, width: int, height: int) -> Content:
    """Faulty rows by reason, open ones first."""
    snapshot = view.snapshot
    if snapshot is None:
        return loading(view)
    if not snapshot.faults:
        return draw.line(("✓ no faulty rows", "$success"))
    rows = [draw.line((f"✗ {snapshot.faulty_in_all}, by reason:", "$warning"))] if snapshot.faulty_in_all else []
    for group in sorted(snapshot.faults, key=lambda each: (each.state is not FaultState.OPEN, -each.rows)):
        open_ = group.state is FaultState.OPEN
        count = draw.line((figures.short(group.rows), "bold $warning" if open_ else "$muted"))
        mark = "✗ " if open_ else "· "
        state = "" if open_ else f"{group.state} "
        text = draw.line(
            (mark, "$warning" if open_ else "$muted"),
            (state, "$muted"),
            (safe.line(group.reason), "" if open_ else "$muted"),
        )
        rows.append(draw.row(text, count, width))
    return clipped(rows, height)


def at_work(alive: Sequence[WorkerStatus]) -> str:
    """What those workers are: at work, or all of them paused."""
    return "paused" if alive and all(each.rests and not each.in_flight for each in alive) else "at work"


def workers(view: View, width: int, height: int) -> Content:
    """Worker processes, the living first."""
    snapshot = view.snapshot
    if snapshot is None:
        return loading(view)
    alive = [worker for worker in snapshot.workers if worker.alive]
    silent = len(snapshot.workers) - len(alive)
    status = snapshot.backfill
    if not snapshot.workers:
        return draw.line(("○ none at work", "$muted"))
    flight = f", {status.in_flight} in flight" if status.in_flight is not None else ""
    if view.stale:
        # what they do now nobody knows; who they were helps to look for them
        known = [draw.line((f"— {len(alive)} at work when last read", "$muted"))]
        known += [draw.line((f"  {safe.line(each.host)}:{each.pid}", "$muted")) for each in alive]
        return draw.lines((draw.cut(each, width) for each in known), height)
    rows = [
        draw.line(
            (f"● {len(alive)} {at_work(alive)}", "bold $success" if alive else "$muted"),
            (flight, "$muted"),
            (f"  ! {silent} silent" if silent else "", "$warning"),
        )
    ]
    for worker in sorted(snapshot.workers, key=lambda each: (not each.alive, not each.own, each.id)):
        mark = ("● ", "$success") if worker.alive else ("✗ ", "$warning")
        doing = safe.line(worker.doing) if worker.alive else f"silent for {figures.duration(worker.heartbeat_seconds)}"
        wide = width >= 46
        host = shortened(safe.line(worker.host), width) if wide or not worker.own else ""
        named = draw.line(
            mark,
            (host, "bold" if worker.own else ""),
            (f" {worker.pid}" if wide else "", "$muted"),
            (" here" if worker.own and host else "here" if worker.own else "", "$primary"),
            "  ",
        )
        done = draw.line((figures.short(worker.rows) + (" rows" if wide else ""), "$muted"))
        room = width - named.cell_length - done.cell_length - 1
        rows.append(draw.row(draw.line(named, briefly(doing, room)), done, width))
    # The first line counts them all, so nothing has to say that some are left out.
    return draw.lines(rows, height)


def feed(view: View, width: int, height: int) -> Content:
    """The newest of what anybody did and what happened here, newest at the bottom; all of a line, or none of it."""
    snapshot = view.snapshot
    entries = gathered(snapshot.log if snapshot else (), view.events, snapshot)
    if not entries:
        return draw.line(("What anybody does appears here; 6 has the whole log.", "$muted"))
    rows: list[Content] = []
    for entry in reversed(entries[-height:] if height > 0 else []):
        told = entry_lines(entry, width, min(height, _LINES))
        if len(rows) + len(told) > height:
            break
        rows = [*told, *rows]
    return draw.lines(rows)
