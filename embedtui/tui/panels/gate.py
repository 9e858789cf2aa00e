"""The gate: checks, what is in the way of a cutover or cleanup, and what a cutover does."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from embedtui.formatting import counted
from embedtui.model import Blocker, Check, Comparison, Migration, Phase, PlacementKind, Side, Snapshot
from embedtui.model.lifecycle import changes_waiting, mended
from embedtui.model.plan import worst_first
from embedtui.tui import draw, safe, theme
from embedtui.tui.panels.comparison import age, made_at, nearly_void, uncounted
from embedtui.tui.remedies import worded
from embedtui.tui.view import View


def gate(comparison: Comparison, view: View, width: int) -> list[Content]:
    """The checks of a comparison, those to look at first; that it is void or older comes before them."""
    checks = worst_first(comparison.checks)
    left = sum(check.result != "pass" for check in checks)
    if left:
        head = draw.line((f"! {left} of {len(checks)} checks to look at", "bold $warning"))
    else:
        head = draw.line((f"✓ all {len(checks)} checks passed", "bold $success"))
    rows = [head]
    if made := made_at(comparison, view):
        beside = head.cell_length + len(made) + 2 <= width
        rows = [draw.row(head, draw.line((made, "$muted")), width)] if beside else [head, draw.line((made, "$muted"))]
    if older := age(comparison, view):
        rows = draw.wrapped(f"! {safe.line(older)}", width, "bold $warning") + rows
    if near := nearly_void(comparison, view):
        rows += draw.wrapped(f"! {safe.line(near)}", width, "$warning")
    if since := uncounted(comparison, view):
        rows += draw.wrapped(f"! {since}", width, "bold $warning")
    for check in checks:
        if view.snapshot is not None:
            check = mended(check, view.snapshot)
        rows += check_lines(check, width, 8)  # narrow as the box may be, what mends it is read whole
        if (now := _now(check, view)) and now not in check.detail:
            rows += draw.wrapped(f"  now: {now}", width, "$warning")
    return rows


def _now(check: Check, view: View) -> str:
    """What the table's state is now that a check tells of, in its words; empty where none does, or nobody knows."""
    snapshot = view.snapshot
    if snapshot is None or view.stale:
        return ""
    if snapshot.phase.ended:
        return f"nothing waits: the migration is {snapshot.phase}" if check.name == "freshness" else ""
    total, rows = snapshot.backfill.total, snapshot.backfill.rows
    planned = snapshot.phase in (Phase.PLAN, Phase.PREPARE, Phase.BACKFILL)  # counted before the check, and others
    if check.name == "coverage" and total is not None and not planned:
        return f"{rows:,} of {snapshot.about}{counted(total, 'row', 'rows')} with content"
    if check.name == "faults" and (snapshot.faulty or check.result != "pass"):
        return f"{counted(snapshot.faulty, 'row has', 'rows have')} an undecided fault"
    return changes_waiting(snapshot.sync.queued) if check.name == "freshness" else ""


def check_lines(check: Check, width: int, limit: int = 3) -> list[Content]:
    """A check: glyph, word, name, and what it found, on at most ``limit`` lines each."""
    glyph, word, style = theme.RESULT.get(check.result, theme.RESULT["unknown"])
    head = draw.line((f"{glyph} {draw.fit(word, 8)}", f"bold {style}"), (safe.line(check.name), "bold"))
    rows = [draw.cut(head, width)]
    rows += [draw.line("  ", each) for each in draw.wrapped(safe.line(check.detail), width - 2, "$muted", limit)]
    hint = worded(check.hint, check.remedies) if check.result != "pass" else ""
    return rows + (_marked("  ", "→ ", style, draw.wrapped(hint, width - 4, "", limit)) if hint else [])


def blocker_lines(blocker: Blocker, width: int) -> list[Content]:
    """A blocker, and what would help."""
    mark, style = ("! ", "$warning") if blocker.overridable else ("✗ ", "$error")
    rows = _marked("", mark, style, draw.wrapped(safe.line(blocker.message), width - 2, "bold", 3))
    hint = worded(blocker.hint, blocker.remedies)
    if hint:
        rows += _marked("  ", "→ ", "$muted", draw.wrapped(hint, width - 4, "$muted", 3))
    if blocker.overridable and "override" not in hint:
        rows.append(draw.line(("  → or override it with a reason", "$muted")))
    return rows


def _marked(indent: str, mark: str, style: str, rows: Sequence[Content]) -> list[Content]:
    """``rows`` behind ``mark``, which stands before the first one only."""
    return [draw.line(indent, (mark if not i else " " * len(mark), style), each) for i, each in enumerate(rows)]


_ENDS = "ends the migration, when you are sure; the old column stays for what is outside the scope"


def _ended(view: View, m: Migration) -> list[tuple[str, str]]:
    """What is so once a migration has ended."""
    if view.phase is Phase.ABORTED:
        return [("", f"aborted: searches use {m.old_column} as before; nothing is left to move")]
    if m.run_state.gone is Side.OLD:
        return [("", f"done: searches use {m.new_column}; the old side is gone, and with it the way back")]
    kept = f"{m.old_column} is kept as it was at the cleanup: there is no way back"
    return [("", f"done: searches use {m.new_column}; {kept}")]


def _kept(snapshot: Snapshot) -> str:
    """Who keeps the sides current now."""
    if not any(worker.alive for worker in snapshot.workers):
        return "no worker keeps the sides current now: r works here"
    migration = snapshot.migration
    if migration is not None and migration.old_model.unasked:
        old = migration.old_model
        return f"the new side is kept current; {old.called} {old.unasked}, so the old one ages"
    return "both sides are kept current while the new model answers, the old one while both do"


def happens(view: View, notices: Sequence[Check], width: int) -> Content:
    """What a cutover does; or, after it, what can be done now."""
    snapshot = view.snapshot
    if snapshot is None or snapshot.migration is None:
        return draw.line(("Nothing to cut over yet.", "$muted"))
    m = snapshot.migration
    where = f"{m.new_table}.{m.new_column}" if m.placement is PlacementKind.TABLE else m.new_column
    if snapshot.phase.ended:
        steps = _ended(view, m)
    elif snapshot.route.active is Side.NEW:
        lands = f"{snapshot.lands}," if snapshot.lands else f"({m.old_model.name})"
        steps = [
            ("F9", f"moves all reads back to {m.old_column} {lands} at once"),
            ("", _kept(snapshot)),
            ("K", f"drops {m.old_column} for good, when you are sure" if m.scope is None else _ENDS),
        ]
    else:
        heard = "services with a Router hear of it; none has been heard from"
        if snapshot.route.listeners:
            routers = counted(len(snapshot.route.listeners), "Router hears", "Routers hear")
            heard = f"{routers} of it, mostly within milliseconds"
        kept = f"{m.old_column} stays and is kept current"
        if m.old_model.unasked:
            kept = f"{m.old_column} stays but ages: {m.old_model.called} {m.old_model.unasked}"
        steps = [
            ("1", f"one row is changed: searches use {where} with {m.new_model.name}"),
            ("2", heard),
            ("3", kept),
            ("F9", f"takes it all back, at once{snapshot.lands and ', '}{snapshot.lands}"),
        ]
    rows = []
    for key, text in steps:
        for i, each in enumerate(draw.wrapped(safe.line(text), width - 4, "", 3)):
            rows.append(draw.line((draw.fit(key if not i else "", 4), "bold $primary"), each))
    for notice in notices:
        rows += check_lines(notice, width)
    return draw.lines(rows)
