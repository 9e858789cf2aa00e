"""The Overview's panels: pure functions from a view and a size to styled text."""

from __future__ import annotations

from textual.content import Content

from embedtui.model import Condition, FaultState, IndexMethod, ListenerStatus, Phase, Side, Snapshot
from embedtui.tui import acts, draw, safe, theme
from embedtui.tui.view import View

JOURNEY = (
    Phase.PLAN,
    Phase.PREPARE,
    Phase.BACKFILL,
    Phase.INDEX,
    Phase.VALIDATE,
    Phase.CUTOVER,
    Phase.SOAK,
    Phase.CLEANUP,
    Phase.DONE,
)

LATE_SECONDS = 60.0
"""A change that waits longer is worth a warning: the sync normally takes seconds."""

_HOLD_WORDS = {
    "replica_lag": "replica lag",
    "probe_latency": "slow searches",
    "lock_waits": "lock waits",
    "long_transactions": "long transactions",
    "autovacuum": "autovacuum",
    "wal_rate": "WAL rate",
    "provider": "provider",
    "operator": "operator",
    "index": "index",
    "spend_cap": "spend cap",
}

_INDEX_PHASES = (
    "initializing",
    "waiting for writers before build",
    "building index",
    "waiting for writers before validation",
    "index validation",
    "waiting for old snapshots",
)


def journey(view: View, width: int, _height: int = 1) -> Content:
    """The phases as a rail: done, here, to come."""
    here = view.phase
    if here is Phase.ABORTED:
        return draw.line(
            ("■ aborted", "bold $warning"), ("  the old side serves as before; log and registry stay", "$muted")
        )
    position = JOURNEY.index(here)
    failed = view.condition is Condition.FAILED
    glyph_here, _, style_here = theme.CONDITION[view.condition]
    if view.condition is Condition.IDLE:
        glyph_here, style_here = "●", "$primary"
    if here is Phase.DONE:
        glyph_here, style_here = "✓", "$success"
    names = sum(len(phase) for phase in JOURNEY)
    # Two cells of glyph a phase where there is room, one where there is not; joints take what is left.
    gap = " " if width >= names + 3 * len(JOURNEY) + 8 else ""
    joints = len(JOURNEY) - 1
    joint = max(1, min(9, (width - names - (1 + len(gap)) * len(JOURNEY)) // joints - 2 * len(gap)))
    parts: list[draw.Part] = []
    for index, phase in enumerate(JOURNEY):
        if index:
            done = index <= position
            parts.append((gap + ("━" if done else "─") * joint + gap, "$success" if done else "$faint"))
        if index < position:
            parts.append((f"✓{gap}{phase}", "$success"))
        elif index == position:
            parts.append(
                (f"{glyph_here}{gap}{phase}", f"bold underline {style_here}" if not failed else f"bold {style_here}")
            )
        else:
            parts.append((f"○{gap}{phase}", "$muted"))
    return draw.cut(draw.line(*parts), width)


def advice(view: View, width: int, height: int = 1) -> Content:
    """The next sensible act with its key, and why; always says something."""
    name, why = acts.next_act(view)
    why = safe.line(why)
    if view.link.problem and not view.link.up:
        head = draw.line(("✗ ", "bold $error"), (safe.line(view.link.problem), "$error"))
        hint = safe.line(view.link.hint) or "Trying again by itself."
        if height == 1:
            return draw.cut(draw.line(head, "  ", (hint, "$muted")), width)
        return draw.lines([draw.cut(head, width), draw.line((draw.fit(hint, width), "$muted"))], height)
    if name in acts.SCREENS and name not in acts.ACTS:
        key, title = acts.SCREENS[name]
        head = draw.line(
            ("Next ", "$muted"),
            draw.link(f" {key} ", "bold $background on $primary", f"app.goto('{name}')"),
            (f" {title}", "bold"),
        )
    elif name:
        act = acts.ACTS[name]
        refused = acts.refusal(name, view)
        style = "bold $background on $primary" if not refused else "bold $muted on $panel"
        head = draw.line(
            ("Next ", "$muted"),
            draw.link(f" {act.key_text} ", style, f"app.act('{name}')"),
            (f" {acts.label(name, view)}", "bold"),
        )
        if refused and not view.readonly:
            why = refused
    else:
        glyph, word, style, why = _waiting(view, why)
        head = draw.line((f"{glyph} ", f"bold {style}"), (word, "bold"))
    rows = [head]
    if height > 1:
        rows += draw.wrapped(why, width, "$muted", limit=height - 1)
    elif why:
        rows = [draw.cut(draw.line(head, "  ", (why, "$muted")), width)]
    return draw.lines(rows, height)


def _waiting(view: View, why: str) -> tuple[str, str, str, str]:
    """Glyph, word, colour and words of a state in which there is nothing to do but watch."""
    glyph, _, style = theme.CONDITION[view.condition]
    snapshot = view.snapshot
    if snapshot is None:
        return "◌", "Connecting", "$muted", "to the database …"
    if snapshot.phase.ended:
        done = snapshot.phase is Phase.DONE
        return ("✓", "Done", "$success", why) if done else ("■", "Aborted", "$warning", why)
    if snapshot.route.active is Side.NEW:
        for_ = f"for {draw.duration(snapshot.soak_seconds)}" if snapshot.soak_seconds is not None else ""
        return "●", "Soaking", "$success", f"{for_}: F9 rolls back at once, K cleans up when you are sure.".lstrip(": ")
    if view.condition is Condition.THROTTLED:
        names = ", ".join(_HOLD_WORDS.get(hold.name, safe.line(hold.name)) for hold in snapshot.reasons)
        return glyph, "Held back", style, f"by {names}: goes on by itself."
    if view.condition is Condition.RUNNING:
        status = snapshot.backfill
        if snapshot.phase is Phase.BACKFILL and status.total is not None:
            left = f"{draw.number(max(0, status.total - status.rows))} rows to go"
            time = f", about {draw.duration(status.eta_seconds)}" if status.eta_seconds is not None else ""
            return glyph, "Working", style, f"{left}{time}. p pauses, + - change the pace."
        return glyph, "Working", style, why
    return "◌", "Starting", "$primary", "the work begins in a moment."


def backfill(view: View, width: int, height: int) -> Content:
    """How far, how fast, how long, how much."""
    snapshot = view.snapshot
    if snapshot is None:
        return _loading(view)
    status = snapshot.backfill
    share = (
        status.rows / status.total
        if status.total
        else (1.0 if status.total == 0 and snapshot.phase in acts.EMBEDDED else None)
    )
    here = snapshot.phase is Phase.BACKFILL
    # Once the backfill is done, what is missing is what the application wrote just now: the Sync panel counts it.
    coming = snapshot.sync.queued if snapshot.phase in acts.EMBEDDED else 0
    if status.total and coming and status.rows + coming >= status.total:
        share = 1.0
    right = draw.line((draw.percent(share, 1 if width >= 60 else 0), "bold $new"))
    rows = [draw.row(draw.bar(share, width - right.cell_length - 1, "$new"), right, width)]
    of = draw.line(
        (draw.number(status.rows), "bold"), (" of ", "$muted"), draw.number(status.total), (" rows", "$muted")
    )
    shards = (
        draw.line((f"{draw.number(status.shards_done)}/{draw.number(status.shards)} shards", "$muted"))
        if status.shards
        else Content("")
    )
    rows.append(draw.row(of, shards, width) if of.cell_length + shards.cell_length < width else of)
    spare = height - 7
    speed = draw.field(
        "rate", (draw.rate(status.rate) + (" rows/s" if status.rate is not None else ""), "bold" if here else "")
    )
    if spare < 3 and here:
        room = width - speed.cell_length - 2
        speed = draw.row(speed, draw.sparkline(view.rates, min(room, 40), "$new"), width) if room > 5 else speed
    rows.append(speed)
    if here and status.eta_seconds is not None:
        rows.append(draw.field("ETA", (draw.duration(status.eta_seconds), "bold"), (" at the recent rate", "$muted")))
    elif here:
        rows.append(draw.field("ETA", (draw.UNKNOWN, ""), (" until there is a rate", "$muted")))
    else:
        rows.append(draw.field("ETA", (draw.UNKNOWN, "$muted")))
    cost: list[draw.Part] = [(draw.money(status.spent), "bold")]
    if status.estimate is not None:
        cost += [(" of ~", "$muted"), draw.money(status.estimate)]
    if status.cap is not None:
        near = status.spent is not None and status.cap > 0 and status.spent / status.cap >= 0.8
        cost += [(" cap ", "$muted"), (draw.money(status.cap), "$warning" if near else "")]
    if status.spent is None and snapshot.migration is not None:
        cost += [(" price unknown", "$muted")]
    rows.append(draw.field("spent", *cost))
    rows.append(draw.field("tokens", draw.short(status.tokens), *_pace(snapshot, width)))
    if status.hot_share is not None:
        low = status.hot_share < 0.5
        # The server counts both figures on its own time, so that their quotient can be above 1 for a moment.
        hot: list[draw.Part] = [(draw.percent(min(1.0, status.hot_share)), "$warning" if low else "")]
        if low:
            hot.append((f" ! {safe.line(status.hot_holder) or 'updates leave their page'}", "$warning"))
        else:
            hot.append((" stay on their page", "$muted"))
        rows.append(draw.field("HOT", *hot))
    else:
        rows.append(
            draw.field("HOT", (draw.UNKNOWN, "$muted"), (" side table" if _side_table(snapshot) else "", "$muted"))
        )
    rows = [draw.cut(each, width) for each in rows]
    if spare >= 3 and len(view.rates) > 1:
        tall = min(spare - 1, 12)
        top = max(view.rates)
        rows.append(draw.row(Content(""), draw.line((f"peak {draw.rate(top)} rows/s", "$faint")), width))
        rows += draw.chart(view.rates, width, tall, "$new")
    return draw.lines(rows, height)


def index(view: View, width: int, height: int) -> Content:
    """The new side's index: there, being built, waiting, or not due."""
    snapshot = view.snapshot
    if snapshot is None:
        return _loading(view)
    status = snapshot.index
    rows: list[Content] = []
    method = (
        status.method
        if status.method is not IndexMethod.NONE or snapshot.migration is None
        else snapshot.migration.index_method
    )
    if status.phase:
        share = status.done / status.total if status.done is not None and status.total else None
        step = next((i for i, name in enumerate(_INDEX_PHASES, 1) if status.phase.startswith(name)), None)
        text = safe.line(status.phase)
        rows.append(draw.line(("● ", "bold $primary"), (text, "bold")))
        right = draw.line((draw.percent(share), "bold $new"))
        rows.append(draw.row(draw.bar(share, width - right.cell_length - 1, "$new"), right, width))
        if status.done is not None:
            rows.append(draw.field("blocks", draw.number(status.done), (" of ", "$muted"), draw.number(status.total)))
        if step:
            rows.append(draw.field("step", str(step), (f" of {len(_INDEX_PHASES)}", "$muted")))
    elif status.exists and status.valid:
        rows.append(draw.line(("✓ valid ", "bold $success"), (f"{method}", "")))
    elif status.exists:
        rows.append(draw.line(("✗ INVALID ", "bold $error"), ("a failed build left it; i builds it again", "$muted")))
    elif snapshot.migration is None:
        rows.append(draw.line(("○ comes after the data", "$muted")))
    elif method is IndexMethod.NONE:
        rows.append(draw.line(("○ none wanted ", "$muted"), ("searches are exact", "$muted")))
    elif snapshot.phase in (Phase.PLAN, Phase.PREPARE, Phase.BACKFILL):
        rows.append(draw.line((f"○ {method}", ""), (" comes after the data", "$muted")))
    else:
        rows.append(draw.line((f"○ {method}", ""), (" not built yet", "$muted")))
    if view.index_held and not status.valid:
        rows.append(draw.line(("‖ held back", "bold $warning"), ("  I releases it", "$muted")))
    if status.waiting_for:
        rows.append(draw.line(("◐ waits for ", "$warning"), (safe.line(status.waiting_for), "$warning")))
    if status.name:
        rows.append(draw.field("name", safe.line(status.name)))
    return draw.lines((draw.cut(each, width) for each in rows), height)


def sync(view: View, width: int, height: int) -> Content:
    """Change capture: what waits to be embedded again."""
    snapshot = view.snapshot
    if snapshot is None:
        return _loading(view)
    if snapshot.phase in (Phase.PLAN, Phase.PREPARE):
        return draw.line(("○ change capture is not installed yet", "$muted"))
    status = snapshot.sync
    late = (status.oldest_seconds or 0) >= LATE_SECONDS
    if status.queued == 0:
        head = draw.line(("✓ in sync ", "bold $success"), ("no change waits", "$muted"))
    else:
        style = "$warning" if late else "$primary"
        head = draw.line(
            (f"{'!' if late else '●'} {draw.number(status.queued)} wait", f"bold {style}"),
            (", oldest ", "$muted"),
            (draw.duration(status.oldest_seconds), style if late else ""),
        )
    rows = [head, draw.field("done", draw.number(status.synced), (" changes so far", "$muted"))]
    return draw.lines((draw.cut(each, width) for each in rows), height)


def route(view: View, width: int, height: int) -> Content:
    """The pointer: who serves, who listens, and how a rollback would go."""
    snapshot = view.snapshot
    if snapshot is None:
        return _loading(view)
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
    if status.changed_at is not None and status.changed_by:
        who = f" by {safe.line(status.changed_by)}"
        rows.append(
            draw.field("moved", draw.clock(status.changed_at), (who, "$muted"), (f"  epoch {status.epoch}", "$muted"))
        )
    else:
        rows.append(draw.field("moved", ("never", "$muted"), (f"  epoch {status.epoch}", "$muted")))
    rows.append(draw.field("routers", *_routers(status.listeners, status.epoch)))
    if status.pending:
        rows.append(draw.line(("◐ postponed: ", "bold $warning"), (safe.line(status.pending), "$warning")))
    rows += rollback(view, width)
    if snapshot.evaluation is not None or height > len(rows):
        rows += evaluation(view)
    if snapshot.soak_seconds is not None:
        rows.append(draw.field("soaking", draw.duration(snapshot.soak_seconds)))
    for listener in status.listeners[: max(0, height - len(rows) - 1)]:
        rows.append(_listener(listener, status.epoch))
    return draw.lines((draw.cut(each, width) for each in rows), height)


def rollback(view: View, width: int) -> list[Content]:
    """Honest words about what a rollback would find, on one or two lines."""
    snapshot = view.snapshot
    if snapshot is None:
        return []
    status = snapshot.rollback
    why = safe.line(status.why)
    value: list[draw.Part]
    if not view.new_reads:
        value = [(f"! {why}", "$warning")] if why else [("nothing to roll back", "$muted")]
        why = ""
    elif why and snapshot.phase is Phase.DONE:
        value, why = [(why, "$muted")], ""
    elif status.fresh is None:
        value = [("? unknown", "bold $warning")]
    elif status.fresh:
        value, why = [("✓ fresh", "bold $success"), ("  F9 at any time", "$muted")], ""
    elif status.stale <= snapshot.sync.queued and (snapshot.sync.oldest_seconds or 0) < LATE_SECONDS:
        # A live table always has a change or two on the way: no reason for an alarm.
        value, why = [("✓ fresh", "bold $success"), (f" but for {draw.number(status.stale)} on the way", "$muted")], ""
    else:
        rows = "row" if status.stale == 1 else "rows"
        value = [(f"! {draw.number(status.stale)} {rows} stale", "bold $warning")]
    head = draw.field("rollback", *value)
    if not why:
        return [head]
    one = draw.line(head, (", ", "$muted"), (why, "$warning"))
    if one.cell_length <= width:
        return [one]
    return [head, *(draw.line(" " * 9, each) for each in draw.wrapped(why, width - 9, "$warning", 2))]


def evaluation(view: View) -> list[Content]:
    """The newest evaluation in two lines."""
    status = view.snapshot.evaluation if view.snapshot else None
    if status is None:
        return [draw.field("evidence", ("○ not compared yet", "$muted"))]
    glyph, style = {"PASS": ("✓", "$success"), "FAIL": ("✗", "$error")}.get(status.verdict, ("?", "$warning"))
    head: list[draw.Part] = [(f"{glyph} {status.verdict}", f"bold {style}")]
    if not status.valid:
        head = [(f"! {status.verdict}, void", "bold $warning"), (f": {safe.line(status.why_void)}", "$warning")]
    else:
        head.append((f"  {draw.number(status.queries)} queries, {status.low_overlap} low", "$muted"))
    second = draw.field("overlap", draw.percent(status.mean_overlap), (" shared in the top 10", "$muted"))
    if status.judged_old is not None and status.judged_new is not None:
        second = draw.field(
            "nDCG",
            (f"◇ {status.judged_old:.2f}", "$old"),
            (" → ", "$muted"),
            (f"◆ {status.judged_new:.2f}", "$new"),
            (f"  overlap {draw.percent(status.mean_overlap)}", "$muted"),
        )
    return [draw.field("evidence", *head), second]


def holds(view: View, width: int, height: int) -> Content:
    """What the work waits for, by name and since when."""
    snapshot = view.snapshot
    if snapshot is None:
        return _loading(view)
    if not snapshot.reasons:
        return draw.line(("✓ nothing holds it", "$success"))
    rows: list[Content] = []
    for hold in snapshot.reasons:
        since = ""
        if hold.since is not None:
            since = draw.duration((snapshot.as_of - hold.since).total_seconds())
        word = _HOLD_WORDS.get(hold.name, safe.line(hold.name))
        rows.append(
            draw.row(draw.line(("◐ ", "$warning"), (word, "bold $warning")), draw.line((since, "$muted")), width)
        )
        rows += [draw.line("  ", each) for each in draw.wrapped(safe.line(hold.detail), width - 2, "$muted", limit=2)]
    return _clipped(rows, height)


def faults(view: View, width: int, height: int) -> Content:
    """Faulty rows by reason, open ones first."""
    snapshot = view.snapshot
    if snapshot is None:
        return _loading(view)
    if not snapshot.faults:
        return draw.line(("✓ no faulty rows", "$success"))
    rows = []
    for group in sorted(snapshot.faults, key=lambda each: (each.state is not FaultState.OPEN, -each.count)):
        open_ = group.state is FaultState.OPEN
        count = draw.line((draw.short(group.count), "bold $warning" if open_ else "$muted"))
        mark = "✗ " if open_ else "· "
        state = "" if open_ else f"{group.state} "
        text = draw.line(
            (mark, "$warning" if open_ else "$muted"),
            (state, "$muted"),
            (safe.line(group.reason), "" if open_ else "$muted"),
        )
        rows.append(draw.row(text, count, width))
    return _clipped(rows, height)


def workers(view: View, width: int, height: int) -> Content:
    """Worker processes, the living first."""
    snapshot = view.snapshot
    if snapshot is None:
        return _loading(view)
    alive = [worker for worker in snapshot.workers if worker.alive]
    silent = len(snapshot.workers) - len(alive)
    status = snapshot.backfill
    if not snapshot.workers:
        return draw.line(("○ none at work", "$muted"))
    flight = f", {status.concurrency} in flight" if status.concurrency is not None else ""
    rows = [
        draw.line(
            (f"● {len(alive)} at work", "bold $success" if alive else "$muted"),
            (flight, "$muted"),
            (f"  ! {silent} silent" if silent else "", "$warning"),
        )
    ]
    for worker in sorted(snapshot.workers, key=lambda each: (not each.alive, not each.own, each.id)):
        where = "here" if worker.own else safe.line(worker.host)
        mark = ("● ", "$success") if worker.alive else ("✗ ", "$warning")
        doing = safe.line(worker.doing) if worker.alive else f"silent for {draw.duration(worker.heartbeat_seconds)}"
        wide = width >= 46
        left = draw.line(
            mark, (where, "bold" if worker.own else ""), (f" {worker.pid}  " if wide else "  ", "$muted"), doing
        )
        rows.append(draw.row(left, draw.line((draw.short(worker.rows) + (" rows" if wide else ""), "$muted")), width))
    # The first line counts them all, so nothing has to say that some are left out.
    return draw.lines(rows, height)


def feed(view: View, width: int, height: int) -> Content:
    """The newest events of this process, newest at the bottom."""
    if not view.events:
        return draw.line(("Events of this terminal appear here; 6 has the whole log.", "$muted"))
    rows = [event_line(event, width) for event in view.events[-height:]] if height > 0 else []
    return draw.lines(rows, height)


def event_line(event: object, width: int) -> Content:
    """One event: when, what."""
    from embedtui.model import Event, Failed, Held, PhaseChanged, RouteFlipped

    assert isinstance(event, Event)
    glyph, style = "·", ""
    if isinstance(event, Failed):
        glyph, style = "✗", "$error"
    elif isinstance(event, PhaseChanged):
        glyph, style = "▸", "bold $primary"
    elif isinstance(event, RouteFlipped):
        glyph, style = "⇄", "bold $new" if event.active is Side.NEW else "bold $old"
    elif isinstance(event, Held) and event.holds:
        glyph, style = "◐", "$warning"
    return draw.cut(
        draw.line((draw.clock(event.at) + " ", "$muted"), (f"{glyph} ", style), (safe.line(event.text), style)), width
    )


def _pace(snapshot: Snapshot, width: int) -> list[draw.Part]:
    status = snapshot.backfill
    limits = []
    if status.requests_per_minute is not None:
        limits.append(f"{draw.short(status.requests_per_minute)} req")
    if status.tokens_per_minute is not None:
        limits.append(f"{draw.short(status.tokens_per_minute)} tok")
    parts: list[draw.Part] = []
    if limits:
        limit = "  limit " if width >= 46 else "  ≤"
        parts.append((f"{limit}{' '.join(limits).replace('.0', '')}/min", "$muted"))
    elif status.concurrency is not None:
        parts.append((f"  {status.concurrency} in flight", "$muted"))
    return parts


def _side_table(snapshot: Snapshot) -> bool:
    return snapshot.migration is not None and snapshot.migration.placement == "table"


def _routers(listeners: tuple[ListenerStatus, ...], epoch: int) -> list[draw.Part]:
    if not listeners:
        return [("none heard from", "$muted")]
    behind = sum(1 for each in listeners if each.epoch < epoch)
    flips = [each.flip_ms for each in listeners if each.flip_ms is not None]
    parts: list[draw.Part] = [(str(len(listeners)), "bold")]
    if behind:
        parts.append((f"  ! {behind} still on an older epoch", "$warning"))
    else:
        parts.append((" ✓ all current", "$success"))
        if flips:
            parts.append((f" in {max(flips):,.0f} ms", "$muted"))
    return parts


def _listener(listener: ListenerStatus, epoch: int) -> Content:
    behind = listener.epoch < epoch
    return draw.line(
        ("  ! " if behind else "  · ", "$warning" if behind else "$muted"),
        safe.line(listener.application or listener.host),
        (f" {listener.pid} ", "$muted"),
        (f" ◇ {draw.short(listener.searches_old)}", "$old"),
        (f" ◆ {draw.short(listener.searches_new)}", "$new"),
        (f"  {draw.duration(listener.seen_seconds)} ago", "$muted"),
    )


def _clipped(rows: list[Content], height: int) -> Content:
    if len(rows) > height > 0:
        rows = [*rows[: height - 1], draw.line((f"… {len(rows) - height + 1} more lines", "$muted"))]
    return draw.lines(rows)


def _loading(view: View) -> Content:
    return draw.line(("◌ not read yet" if not view.link.problem else "◌ no database", "$muted"))
