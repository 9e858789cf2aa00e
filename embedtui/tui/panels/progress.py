"""How far the work is: backfill, index, sync."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from textual.content import Content

from embedtui.formatting import counted
from embedtui.model import BackfillStatus, Condition, IndexMethod, ListenerStatus, Phase, PlacementKind, Snapshot, Spent
from embedtui.tui import draw, figures, safe
from embedtui.tui.panels.parts import loading
from embedtui.tui.searches import WINDOW_SECONDS
from embedtui.tui.view import View

EMBEDDED = (Phase.INDEX, Phase.VALIDATE, Phase.CUTOVER, Phase.SOAK, Phase.CLEANUP)
"""Phases after the backfill, in which every row has its new vector."""

ETA_RATIO = 1.2
"""Where the shown rate and that of the ETA are further apart, the latter is said, too."""

HOT_LOW = 0.5
"""Where fewer writes stay on their page, dead versions pile up."""

_SERVED = (Phase.CUTOVER, Phase.SOAK, Phase.CLEANUP)
"""Phases in which the backfill is history, and searches are what is watched."""

_NO_ETA = {
    Condition.THROTTLED: " while it is held",
    Condition.PAUSED: " while it is paused",
    Condition.FAILED: " until it is resumed",
}

_INDEX_PHASES = (
    "initializing",
    "waiting for writers before build",
    "building index",
    "waiting for writers before validation",
    "index validation",
    "waiting for old snapshots",
)


def backfill(view: View, width: int, height: int) -> Content:
    """How far, how fast, how long, how much."""
    snapshot = view.snapshot
    if snapshot is None:
        return loading(view)
    if view.stale:  # neither goes on as far as anybody knows
        snapshot = replace(snapshot, backfill=replace(snapshot.backfill, rate=None, eta_seconds=None, in_flight=None))
    status, here = snapshot.backfill, snapshot.phase is Phase.BACKFILL
    right = draw.line((figures.percent(_share(snapshot), 1 if width >= 60 else 0), "bold $new"))
    rows = [draw.row(draw.bar(_share(snapshot), width - right.cell_length - 1, "$new"), right, width)]
    of = draw.line(
        (figures.number(status.rows), "bold"),
        (" of ", "$muted"),
        f"{snapshot.about}{figures.number(status.total)}",
        (f" {snapshot.counts}", "$muted"),
    )
    if snapshot.phase is Phase.DONE:  # nobody counts them any more
        of = draw.line(("done; no more rows are embedded here", "$muted"))
    elif snapshot.phase is Phase.ABORTED:
        of = draw.line(("aborted; no more rows are embedded here", "$muted"))
    shards = f"{figures.number(status.shards_done)}/{figures.number(status.shards)} shards" if status.shards else ""
    roomy = of.cell_length + len(shards) < width
    rows.append(draw.row(of, draw.line((shards, "$muted")), width) if roomy else of)
    if serving(view):
        return _serving(view, snapshot, rows, width, height)
    if snapshot.phase.ended:  # neither rate nor time is due any more
        rows += [_spent(snapshot, width), draw.field("tokens", figures.short(status.tokens))]
        return draw.lines((draw.cut(each, width) for each in rows), height)
    spare = height - 7 - bool(here and snapshot.batch.jobs)
    still = " held" if here and snapshot.condition is Condition.THROTTLED else ""
    unit = " rows/s" if status.rate is not None else still
    speed = draw.field("rate", (figures.rate(status.rate) + unit, "bold" if here else ""))
    if spare < 3 and here:
        room = width - speed.cell_length - 2
        speed = draw.row(speed, draw.sparkline(view.rates, min(room, 40), "$new"), width) if room > 5 else speed
    rows.append(speed)
    if here and snapshot.batch.jobs:
        rows.append(draw.field("ETA", (figures.duration(snapshot.batch.eta_seconds), "bold"), (" by jobs", "$muted")))
        rows.append(draw.field("jobs", *_jobs(snapshot)))
    elif here and status.eta_seconds is not None:
        left = draw.field("ETA", (figures.duration(status.eta_seconds), "bold"))
        told = (draw.line(left, (said, "$muted")) for said in _eta_rate(status))
        rows.append(draw.fitting(width, *told))
    elif here:
        rows.append(draw.field("ETA", (figures.UNKNOWN, ""), (_why_no_eta(view, snapshot), "$muted")))
    else:
        rows.append(draw.field("ETA", (figures.UNKNOWN, "$muted")))
    rows.append(_spent(snapshot, width))
    rows.append(draw.field("tokens", figures.short(status.tokens), *_pace(snapshot, width)))
    rows.append(draw.fitting(width, *(draw.field("writes", *told) for told in _hot_share(snapshot))))
    rows = [draw.cut(each, width) for each in rows]
    if spare >= 3 and len(view.rates) > 1 and snapshot.phase not in EMBEDDED:
        top = max(view.rates)
        rows.append(draw.row(Content(""), draw.line((f"most seen here: {figures.rate(top)} rows/s", "$faint")), width))
        rows += draw.chart(view.rates, width, min(spare - 1, 12), "$new")
    return draw.lines(rows, height)


def _eta_rate(status: BackfillStatus) -> tuple[str, ...]:
    """The rate that the time to the end is told by, where the one above it is another; in ever fewer words."""
    taken = ((status.total or 0) - status.rows) / status.eta_seconds if status.eta_seconds else 0.0
    if taken and not taken / ETA_RATIO <= (status.rate or 0.0) <= taken * ETA_RATIO:
        at = f" at {figures.rate(taken)} rows/s"
        return f"{at}, holds and limits included", f"{at}, holds included", at
    return (" at the recent rate",)


def _why_no_eta(view: View, snapshot: Snapshot) -> str:
    if view.stale:
        return " while the database is lost"
    if not any(worker.alive for worker in snapshot.workers):
        return " without a worker"
    return _NO_ETA.get(snapshot.condition, " until it has run a while")


def serving(view: View) -> bool:
    """Whether the switch has begun: then searches are what is watched."""
    return view.phase in _SERVED or (view.new_reads and not view.phase.ended)


def _serving(view: View, snapshot: Snapshot, rows: list[Content], width: int, height: int) -> Content:
    """Once the switch begins: what each side serves, where the backfill's rate and time stood."""
    old, new = view.searches_now or (None, None)
    rows.append(draw.field("searches", (f"◇ {figures.rate(old)}", "$old"), "  ", (f"◆ {figures.rate(new)}", "$new")))
    told: tuple[str, ...] = (f" a second over {WINDOW_SECONDS:.0f} s, by Routers", " a second")
    if view.searches_now is None:
        told = ("  not counted yet",) if snapshot.route.listeners else ("  no Router tells",)
    rows[-1] = draw.fitting(width, *(draw.line(rows[-1], (each, "$muted")) for each in told), rows[-1])
    rows.append(_latency(snapshot, width))
    rows.append(_spent(snapshot, width))
    whose = (*_by_both(snapshot), " by the new model", "")
    tokens = draw.field("tokens", figures.short(snapshot.backfill.tokens))
    rows.append(draw.fitting(width, *(draw.line(tokens, (each, "$muted")) for each in whose)))
    spare = height - len(rows) - 2
    if len(view.searches) > 1 and spare >= 4:
        top = max(max(pair) for pair in view.searches)
        rows.append(draw.row(Content(""), draw.line((f"peak {figures.rate(top)} searches/s", "$faint")), width))
        tall = min(spare // 2, 6)
        for side, style in ((0, "$old"), (1, "$new")):
            # one scale for both: what moves from one to the other is seen
            rows += draw.chart([pair[side] for pair in view.searches], width, tall, style, top=top)
    return draw.lines((draw.cut(each, width) for each in rows), height)


def _by_both(snapshot: Snapshot) -> tuple[str, ...]:
    """Whose tokens they are, and what the old model took beside them; nothing where it took none."""
    taken = figures.short(snapshot.backfill.old_tokens)
    if not snapshot.backfill.old_tokens:
        return ()
    return f" by the new model; {taken} by the old one for its side", f" new; {taken} old"


def _latency(snapshot: Snapshot, width: int) -> Content:
    """What a search of each side takes: by the Routers' own searches, else by those of the newest comparison."""
    live = tuple(_slowest(pairs) for pairs in zip(*(_taken(each) for each in snapshot.route.listeners), strict=True))
    found = snapshot.evaluation
    if any(live):
        several = sum(any(_taken(each)) for each in snapshot.route.listeners) > 1
        whose = f"  p50, p95 of the {'slowest ' if several else ''}Router's last searches"
        said: tuple[str, ...] = (whose, "  p50, p95 of last searches", "  p50, p95, last", "  last", "")
    elif found is not None and found.latency_old_ms and found.latency_new_ms:
        live, at = (found.latency_old_ms, found.latency_new_ms), draw.when(found.at, snapshot.as_of)
        said = (f"  p50, p95 of the comparison of {at}", f"  p50, p95 when compared, {at}", "  p50, p95", "")
    else:
        return draw.field("latency", ("not measured: no Router and no comparison tells", "$muted"))
    old, new = (figures.UNKNOWN if pair is None else f"{pair[0]:.1f}, {pair[1]:.1f} ms" for pair in live)
    line = draw.field("latency", (f"◇ {old}", "$old"), "  ", (f"◆ {new}", "$new"))
    once = old.removesuffix(" ms") if new.endswith(" ms") else old
    short = draw.field("latency", (f"◇ {once}", "$old"), "  ", (f"◆ {new}", "$new"))
    return draw.fitting(width, *(draw.line(line, (each, "$muted")) for each in said), short)


_Latency = tuple[float, float] | None


def _taken(listener: ListenerStatus) -> tuple[_Latency, _Latency]:
    return listener.latency_old_ms, listener.latency_new_ms


def _slowest(pairs: Sequence[_Latency]) -> _Latency:
    """The highest p50 and the highest p95 of those that are known."""
    known = [pair for pair in pairs if pair is not None]
    return (max(p50 for p50, _ in known), max(p95 for _, p95 in known)) if known else None


def _share(snapshot: Snapshot) -> float | None:
    status, embedded = snapshot.backfill, snapshot.phase in EMBEDDED
    if snapshot.phase is Phase.DONE:
        return 1.0
    if not status.total:
        return 1.0 if status.total == 0 and embedded else None
    return status.rows / status.total


def _spent(snapshot: Snapshot, width: int) -> Content:
    """What is spent, and of what: in all and by part where not only the new model took some.

    Estimate and cap are the new model's; with too little room the estimate goes first, then the small parts become one.
    """
    status = snapshot.backfill
    guess, short, cap, saved = Content(""), Content(""), Content(""), Content("")
    if status.estimate is not None:
        guess = draw.line((" of ~", "$muted"), figures.money(status.estimate), (" by the rows so far", "$muted"))
        short = draw.line((" of ~", "$muted"), figures.money(status.estimate))
    if status.cap is not None:
        near = status.spent is not None and status.cap > 0 and status.spent / status.cap >= 0.8
        cap = draw.line((", cap ", "$muted"), (figures.money(status.cap), "$warning" if near else ""))
    if snapshot.batch.count and snapshot.batch.live is not None and snapshot.batch.spent is not None:
        saved = draw.line((", saved ", "$muted"), figures.money(snapshot.batch.live - snapshot.batch.spent))
    money = draw.field("spent", (figures.money(status.spent_in_all), "bold"))
    beside = [part for part in status.parts if part.what != "new model"]
    if beside:
        money = draw.line(money, (" and unpriced tokens" if status.unpriced else "", "$muted"))
        new = draw.line((": new ", "$muted"), figures.money(status.spent, unknown="price unknown"))
        new = new if status.spent != 0 else Content("")  # nothing of it yet
        known = [part.money for part in beside if part.money is not None]
        rest = Spent("the rest", sum(part.tokens for part in beside), sum(known) if known else None)
        parts, as_one = _beside(beside), _beside([rest])
        choices: tuple[tuple[Content, ...], ...] = (
            (new, short, cap, saved, parts),
            (new, cap, parts),
            (new, cap, as_one),
            (new, as_one),
            (new, short, cap),
            (new, cap),
            (new,),
            (),
        )
    elif status.spent is None and snapshot.migration is not None:
        return draw.line(money, (" price unknown", "$muted"))
    else:
        choices = ((guess, cap, saved), (short, cap, saved), (cap, saved), (cap,), ())
    return draw.fitting(width, *(draw.line(money, *each) for each in choices))


def _beside(parts: Sequence[Spent]) -> Content:
    return draw.line(*((f", {part.what} {_worth(part)}", "$muted") for part in parts))


def _worth(part: Spent) -> str:
    """Money of a part, or its tokens where that is not known."""
    return figures.money(part.money, unknown=f"{figures.short(part.tokens)} tokens")


def _jobs(snapshot: Snapshot) -> list[draw.Part]:
    """Batch jobs under way: how many, with how many rows, and the oldest one's age."""
    jobs = snapshot.batch.jobs
    held = f", {figures.short(snapshot.batch.waiting)} rows, {figures.duration(jobs[0].age_seconds)} old"
    return [(str(len(jobs)), "bold"), (held, "$muted")]


def _hot_share(snapshot: Snapshot) -> list[list[draw.Part]]:
    """The share of writes that stay on their page (HOT), and what keeps it low; in ever fewer words."""
    status = snapshot.backfill
    if status.hot_share is None:
        side_table = snapshot.migration is not None and snapshot.migration.placement is PlacementKind.TABLE
        return [[("into a side table" if side_table else figures.UNKNOWN, "$muted")]]
    # The server counts both figures on its own time, so that their quotient can be above 1 for a moment.
    share = figures.percent(min(1.0, status.hot_share))
    if status.hot_share >= HOT_LOW:
        return [[share, (" stay on their page", "$muted")]]
    holder = safe.line(status.hot_holder)
    said = (f" stay on their page: {holder}", f" stay: {holder}") if holder else (" stay on their page",)
    return [[(f"! {share}{told}", "$warning")] for told in said]


def index(view: View, width: int, height: int) -> Content:
    """The new side's index: there, being built, waiting, or not due."""
    snapshot = view.snapshot
    if snapshot is None:
        return loading(view)
    status = snapshot.index
    rows: list[Content] = []
    if snapshot.old_index_lost:
        lost = (f"◇ old: {safe.line(snapshot.old_index_lost)}", "$error" if snapshot.old_serves else "$warning")
        rows.append(draw.line(("✗ ", "bold $error"), lost))
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
        right = draw.line((figures.percent(share), "bold $new"))
        rows.append(draw.row(draw.bar(share, width - right.cell_length - 1, "$new"), right, width))
        if status.done is not None:
            rows.append(
                draw.field("blocks", figures.number(status.done), (" of ", "$muted"), figures.number(status.total))
            )
        if step:
            rows.append(draw.field("step", str(step), (f" of {len(_INDEX_PHASES)}", "$muted")))
    elif status.exists and status.valid:
        rows.append(draw.line(("✓ valid ", "bold $success"), (f"{method}", "")))
    elif status.exists:
        rows.append(draw.line(("✗ INVALID ", "bold $error"), ("a failed build left it; i builds it again", "$muted")))
    elif snapshot.migration is None:
        rows.append(draw.line(("○ comes after the data", "$muted")))
    elif snapshot.phase is Phase.ABORTED:
        rows.append(draw.line(("○ aborted; none is built", "$muted")))
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
        return loading(view)
    if snapshot.phase in (Phase.PLAN, Phase.PREPARE):
        return draw.line(("○ change capture is not installed yet", "$muted"))
    status = snapshot.sync
    if snapshot.phase.ended:
        rows = [draw.line(("○ ended ", "$muted"), (f"with the migration, {snapshot.phase}", "$muted"))]
        rows.append(draw.field("done", figures.number(status.synced), (" changes in all", "$muted")))
        return draw.lines((draw.cut(each, width) for each in rows), height)
    behind = snapshot.late
    if status.queued == 0 and not any(worker.alive for worker in snapshot.workers):
        head = draw.line(("○ no change waits; ", ""), ("no worker looks", "$muted"))
    elif status.queued == 0 and (aged := snapshot.rollback_behind):
        head = draw.fitting(
            width,
            *(
                draw.line((f"! old{side} {counted(aged, 'row', 'rows')} behind", "bold $warning"), (new, "$muted"))
                for side, new in ((" side", "; new side in sync"), ("", "; new in sync"), (" side", ""))
            ),
        )
    elif status.queued == 0:
        head = draw.line(("✓ in sync ", "bold $success"), ("no change waits", "$muted"))
    else:
        style = "$warning" if behind else "$primary"
        waits = counted(status.queued, "change waits", "changes wait")  # a row that changed twice has two
        head = draw.line(
            (f"{'!' if behind else '●'} {waits}", f"bold {style}"),
            (", oldest ", "$muted"),
            (figures.duration(status.oldest_seconds), style if behind else ""),
        )
    unit = " change so far" if status.synced == 1 else " changes so far"
    rows = [head, draw.field("done", figures.number(status.synced), (unit, "$muted"))]
    return draw.lines((draw.cut(each, width) for each in rows), height)


def _pace(snapshot: Snapshot, width: int) -> list[draw.Part]:
    status = snapshot.backfill
    if snapshot.phase.ended:
        return []
    limits = []
    if status.requests_per_minute is not None:
        limits.append(f"{figures.short(status.requests_per_minute)} req")
    if status.tokens_per_minute is not None:
        limits.append(f"{figures.short(status.tokens_per_minute)} tok")
    parts: list[draw.Part] = []
    if limits:
        limit = "  limit " if width >= 46 else "  ≤"
        parts.append((f"{limit}{' '.join(limits).replace('.0', '')}/min", "$muted"))
    elif status.in_flight is not None:
        parts.append((f"  {status.in_flight} in flight", "$muted"))
    return parts
