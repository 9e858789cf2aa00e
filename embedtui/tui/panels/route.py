"""The pointer: who serves, what a rollback would find, and what the newest evaluation says."""

from __future__ import annotations

from textual.content import Content

from embedtui import formatting
from embedtui.model import ListenerStatus, Phase, RollbackStatus, Side
from embedtui.model.bridge import in_words
from embedtui.model.evaluation import EXACT, SERVED
from embedtui.tui import draw, figures, safe
from embedtui.tui.panels.parts import loading
from embedtui.tui.searches import new_share
from embedtui.tui.view import View

_TORN = 8
"""Cells that breaking two lines between words may leave empty."""


def route(view: View, width: int, height: int) -> Content:
    """The pointer: who serves, who listens, and how a rollback would go."""
    snapshot = view.snapshot
    if snapshot is None:
        return loading(view)
    status = snapshot.route
    share = 100 if status.active is Side.NEW else status.canary
    tracks = max(4, width - 24)
    cells = round(tracks * share / 100)
    if 0 < share < 100:
        cells = max(1, min(tracks - 1, cells))
    rows = [
        draw.line(
            (f"◇ old {100 - share:>3} % ", "bold $old" if share < 100 else "$muted"),
            ("─" * (tracks - cells), "$old"),
            ("━" * cells, "$new"),
            (f" ◆ new {share:>3} %", "bold $new" if share else "$muted"),
        )
    ]
    if 0 < share < 100:
        rows.append(_canary(view, share, width))
    if status.changed_at is not None and status.changed_by:
        who = f" by {safe.line(status.changed_by)}"
        rows.append(
            draw.field("moved", draw.clock(status.changed_at), (who, "$muted"), (f"  epoch {status.epoch}", "$muted"))
        )
    else:
        rows.append(draw.field("moved", ("never", "$muted"), (f"  epoch {status.epoch}", "$muted")))
    for notice in snapshot.notices:
        rows += draw.wrapped(f"! {safe.line(notice)}", width, "$warning", 2)
    if status.bridged and status.bridge_found is not None:
        found = draw.whole(in_words(status.bridge_found), 2 * (width - 9) - _TORN)
        said = draw.wrapped(found, width - 9, "bold $warning", 2)
        rows += [draw.field("" if number else "bridged", each) for number, each in enumerate(said)]
    if status.pending:
        rows.append(draw.line(("◐ postponed: ", "bold $warning"), (safe.line(status.pending), "$warning")))
    known = snapshot.evaluation is not None
    rows += rollback(view, width, max(1, height - len(rows) - 2 - known))  # Routers and evidence keep a line
    if view.new_reads and snapshot.lands:
        rows.append(draw.field("F9 lands", (draw.whole(safe.line(snapshot.lands), width - 9), "$warning")))
    rows.append(draw.field("routers", *_routers(status.listeners, status.epoch)))
    if snapshot.evaluation is not None or height > len(rows):
        rows += evaluation(view, width, max(1, height - len(rows) - 1))
    if snapshot.soak_seconds is not None:
        seen = (" when last read", "$muted") if view.stale else ""
        rows.append(draw.field("soaking", figures.duration(snapshot.soak_seconds), seen))
    for listener in status.listeners[: max(0, height - len(rows) - 1)]:
        rows.append(_listener(listener, status.epoch, width))
    return draw.lines((draw.cut(each, width) for each in rows), height)


def _canary(view: View, share: int, width: int) -> Content:
    """The share of the keys, and beside it that of the searches, where Routers tell."""
    shares: tuple[str, ...] = (" of the keys: each key keeps its side", " of the keys, not searches", " of the keys")
    if view.searches:
        now = figures.percent(new_share(view.searches_now or (0.0, 0.0)))
        whole = f" of the keys, {now} of the searches now"
        shares = (f"{whole}: each key keeps its side", whole, f" of keys, {now} of searches", f" keys, {now} searches")
    canary = draw.field("canary", f"{share} %")
    return draw.fitting(width, *(draw.line(canary, (each, "$muted")) for each in shares))


def rollback(view: View, width: int, limit: int = 3) -> list[Content]:
    """Honest words about what a rollback would find, or after one the old side serves.

    On one or two lines; before reads move on at most ``limit`` below the first.
    """
    snapshot = view.snapshot
    if snapshot is None:
        return []
    status = snapshot.rollback
    why = safe.line(status.why)
    value: list[draw.Part]
    more: tuple[str, ...] = ()
    behind = snapshot.served_behind
    if not view.new_reads and not behind:
        whole = ", ".join(part for part in (status.found, why) if part)
        short = ", ".join(part for part in (_counted(status), why.partition("; ")[0]) if part)
        why, value = whole, [("nothing to roll back", "$muted")]
        if why:  # the application's own matter until reads move: no alarm
            lines = (draw.wrapped(each, width - 9, "$muted", 9) for each in (whole, short, _counted(status)))
            fits = (each for each in lines if each and len(each) <= limit)
            rest = next(fits, draw.wrapped(short, width - 9, "$muted", limit))
            return [draw.field("rollback", *value), *(draw.line(" " * 9, each) for each in rest)]
    elif why and snapshot.phase is Phase.DONE:
        value, why = [(why, "$muted")], ""
    elif status.fresh is None:
        value = [("? unknown", "bold $warning"), (_share_known(status), "$muted")]
    elif view.stale and (status.fresh or snapshot.fresh_but_for):
        value, why = [("fresh when last read", "$muted")], ""
    elif status.fresh:
        more, why = (f"{_of_rows(status)}  F9 at any time", "  F9 at any time"), ""
        value = [("✓ fresh", "bold $success")]
    elif snapshot.fresh_but_for:
        value, why = (
            [("✓ fresh", "bold $success"), (f" but for {figures.number(status.stale)} on the way", "$muted")],
            "",
        )
    else:
        said = _counted(status)
        value, more = [(f"! {'serves ' if behind else ''}{said}", "bold $warning")], (_of_rows(status),)
    plain = draw.field("old side" if behind else "rollback", *value)
    head = draw.fitting(width, *(draw.line(plain, (each, "$muted")) for each in more), plain)
    if not why:
        return [head]
    one = draw.line(head, (", ", "$muted"), (why, "$warning"))
    if one.cell_length <= width:
        return [one]
    return [head, *(draw.line(" " * 9, each) for each in draw.wrapped(why, width - 9, "$warning", 2))]


def _counted(status: RollbackStatus) -> str:
    """The rows that are not fresh, in few words."""
    apart = [(status.stale, "stale"), (status.bridged, "bridged"), (status.missing, "missing")]
    return ", ".join(f"{figures.number(count)} {word}" for count, word in apart if count)


def _of_rows(status: RollbackStatus) -> str:
    return "" if status.rows is None else f" of {formatting.counted(status.rows, 'row', 'rows')}"


def _share_known(status: RollbackStatus) -> str:
    """What is known where the whole is not."""
    apart = ((status.missing, "missing"),)
    said = ", ".join(f"{figures.number(count)} {word}" for count, word in apart if count)
    return f"  {said}{_of_rows(status)}" if said else ""


def evaluation(view: View, width: int, limit: int = 9) -> list[Content]:
    """The newest evaluation in two lines, or more where it is void for a long reason; at best on ``limit``."""
    status = view.snapshot.evaluation if view.snapshot else None
    if status is None:
        return [draw.field("evidence", ("○ not compared yet", "$muted"))]
    glyph, style = {"PASS": ("✓", "$success"), "FAIL": ("✗", "$error")}.get(status.verdict, ("?", "$warning"))
    head: list[draw.Part] = [(f"{glyph} {status.verdict}", f"bold {style}")]
    more: list[Content] = []
    after: list[Content] = []
    if not status.valid:
        head = [(f"! {status.verdict}, void", "bold $warning")]
        why = (f": {safe.line(status.why_void)}", "$warning")
        if draw.field("evidence", *head, why).cell_length <= width:
            head.append(why)
        else:
            said = draw.wrapped(safe.line(status.why_void), width - 9, "$warning", 4)
            more = [draw.line(" " * 9, each) for each in said]
    else:
        verdict = draw.field("evidence", *head)
        if names := ", ".join(safe.line(check.name) for check in status.checks if check.result != "warn"):
            head.append((f": {names}", style))
        few, many = figures.number(status.low_overlap), figures.number(status.queries)
        counts = (f"  {many} queries, {few} of them differ much", f"  {few} of {many} differ much")
        known = draw.field("evidence", *head)
        choices = (*(draw.line(known, (each, "$muted")) for each in counts), known, verdict)
        head = [draw.fitting(width, *choices).divide([9])[1]]
        if status.near_void:
            said = draw.wrapped(f"! {safe.line(status.near_void)}", width - 9, "$warning", 9)
            said = said if len(said) < limit else draw.wrapped("! will soon be void", width - 9, "$warning")
            more = [draw.line(" " * 9, each) for each in said]
    second = draw.field("overlap", figures.percent(status.mean_overlap), (" shared in the top 10", "$muted"))
    second = draw.fitting(width, draw.line(second, (f", {status.searched}", "$muted")), second)
    if status.judged_old is not None and status.judged_new is not None:
        judged = draw.field(
            "nDCG", (f"◇ {status.judged_old:.2f}", "$old"), (" → ", "$muted"), (f"◆ {status.judged_new:.2f}", "$new")
        )
        judged, shared = draw.line(judged, (f" {status.searched}", "$muted")), figures.percent(status.mean_overlap)
        rest = [f"  {word} {shared}" for word in ("overlap", "shared")]
        if status.judged_served is not None and status.searched == EXACT:
            served = f"{status.judged_served:.2f} {SERVED}"
            rest = [*(f", {served}{each}" for each in rest), f", {served}"]
            if all(judged.cell_length + len(each) > width for each in rest):
                after = [draw.line(" " * 9, (f"◆ {served}", "$new"))]
        second = draw.fitting(width, *(draw.line(judged, (each, "$muted")) for each in rest), judged)
    if status.judged_moved:
        full = f"! {safe.line(status.judged_moved)}"
        short = full.replace(" judged rows", "").replace(" judged row", "")
        moved = draw.fitting(width - 9, *(draw.line((each, "$warning")) for each in (full, short)))
        after.append(draw.line(" " * 9, moved))
    return [draw.field("evidence", *head), *more, second, *after]


def _routers(listeners: tuple[ListenerStatus, ...], epoch: int) -> list[draw.Part]:
    if not listeners:
        return [("none heard from", "$muted")]
    behind = sum(1 for each in listeners if each.epoch < epoch)
    flips = [each.flip_ms for each in listeners if each.flip_ms is not None]
    parts: list[draw.Part] = [(str(len(listeners)), "bold")]
    if behind:
        parts.append((f"  ! {behind} on an older epoch", "$warning"))
    else:
        parts.append((" ✓ all current", "$success"))
        if flips:
            parts.append((f" in {max(flips):,.0f} ms", "$muted"))
    return parts


def _listener(listener: ListenerStatus, epoch: int, width: int) -> Content:
    behind = listener.epoch < epoch
    known = draw.line(
        ("  ! " if behind else "  · ", "$warning" if behind else "$muted"),
        safe.line(listener.application or listener.host),
        (f" {listener.pid} ", "$muted"),
        (f" ◇ {figures.short(listener.searches_old)}", "$old"),
        (f" ◆ {figures.short(listener.searches_new)}", "$new"),
    )
    seen = figures.duration(listener.seen_seconds)
    return draw.fitting(width, *(draw.line(known, (each, "$muted")) for each in (f"  {seen} ago", f"  {seen}")), known)
