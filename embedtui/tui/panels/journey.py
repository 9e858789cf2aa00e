"""Where the migration stands, and what to do next."""

from __future__ import annotations

from textual.content import Content

from embedtui.formatting import counted
from embedtui.model import Condition, Phase, Side
from embedtui.model.snapshot import CHANGE, PACE
from embedtui.tui import draw, figures, safe, theme
from embedtui.tui.actions import ACTIONS, SCREENS, next_action
from embedtui.tui.panels.alerts import Alert, alert
from embedtui.tui.view import View

_JOURNEY = tuple(phase for phase in Phase if phase is not Phase.ABORTED)


def journey(view: View, width: int, _height: int = 1) -> Content:
    """The phases as a rail: done, here, to come."""
    here = view.phase
    if here is Phase.ABORTED:
        return draw.line(
            ("■ aborted", "bold $warning"), ("  the old side serves as before; log and registry stay", "$muted")
        )
    position = _JOURNEY.index(here)
    failed = view.condition is Condition.FAILED
    glyph_here, _, style_here = theme.CONDITION[view.condition]
    if view.condition is Condition.IDLE:
        glyph_here, style_here = "●", "$primary"
    if here is Phase.DONE:
        glyph_here, style_here = "✓", "$success"
    names = sum(len(phase) for phase in _JOURNEY)
    # Two cells of glyph a phase where there is room, one where there is not; joints take what is left.
    gap = " " if width >= names + 3 * len(_JOURNEY) + 8 else ""
    joints = len(_JOURNEY) - 1
    joint = max(1, min(9, (width - names - (1 + len(gap)) * len(_JOURNEY)) // joints - 2 * len(gap)))
    parts: list[draw.Part] = []
    for index, phase in enumerate(_JOURNEY):
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
    """The next sensible action with its key, and why; always says something."""
    name, why = next_action(view)
    why = safe.line(why)
    if view.link.problem and not view.link.up:
        head = draw.line(("✗ ", "bold $error"), (safe.line(view.link.problem), "$error"))
        hint = safe.line(view.link.hint) or "Trying again by itself."
        if height == 1:
            return draw.cut(draw.line(head, "  ", (hint, "$muted")), width)
        said = draw.told(safe.line(view.link.problem), width - 2, "$error", max(1, height - 2))
        rows = [draw.line(("  " if at else "✗ ", "bold $error"), each) for at, each in enumerate(said)]
        return draw.lines([*rows, *draw.told(hint, width, "$muted", height - len(rows))], height)
    found = alert(view.snapshot)
    if "run" in view.busy and (name == "run" or (found is not None and found.act == "run")):
        return _starting(view, found, width, height)
    if found is not None:
        return _alarmed(view, found, width, height)
    elif name in SCREENS and name not in ACTIONS:
        head = draw.line(("Next ", "$muted"), *_chip(view, name, "$primary"))
    elif name in ACTIONS and name in view.busy and not ACTIONS[name].watches:
        head = draw.line(("● ", "bold $success"), (f"{ACTIONS[name].label} is under way", "bold"))
        why = "Its steps are among the events; 6 shows the log."
    elif name:
        refused = ACTIONS[name].refusal(view)
        head = draw.line(("Next ", "$muted"), *_chip(view, name, "$primary"))
        if refused and not view.readonly:
            why = refused
    else:
        glyph, word, style, why = _waiting(view, why)
        head = draw.line((f"{glyph} ", f"bold {style}"), (word, "bold"))
    rows = [head]
    if height > 1:
        rows += draw.told(why, width, "$muted", height - 1)
    elif why:
        why = draw.whole(why, width - head.cell_length - 2)
        rows = [draw.cut(draw.line(head, "  ", (why, "$muted")), width)]
    return draw.lines(rows, height)


def _starting(view: View, found: Alert | None, width: int, height: int) -> Content:
    """A worker is on its way; what it is begun for is not forgotten meanwhile, nor for whom it waits."""
    head = draw.line(("◌ Starting", "bold $primary"), ("  a worker begins in a moment", "$muted"))
    if found is None and (waits := _awaited(view)):
        head = draw.line(("◌ Starting ", "bold $primary"))
        rows = draw.told(safe.line(waits), width if height > 1 else width - 11, "$muted", max(1, height - 1))
        return draw.lines([head, *rows]) if height > 1 else draw.line(head, rows[0])
    if found is None:
        return draw.cut(head, width)
    word = (f"✗ {found.word}: " if found.style == "$error" else f"! {found.word}: ", found.style)
    if height > 1:
        rest = draw.told(safe.line(found.why), width - len(word[0]), "$muted", height - 1)
        return draw.lines([head, *(draw.line(word if not at else "  ", each) for at, each in enumerate(rest))], height)
    return draw.cut(draw.line(("◌ Starting", "bold $primary"), "  ", word, (safe.line(found.why), "$muted")), width)


def _awaited(view: View) -> str:
    """Whom a change of the table waits for; empty where nobody."""
    held = view.snapshot.reasons if view.snapshot is not None else ()
    return next((hold.detail for hold in held if hold.name == CHANGE), "")


def _alarmed(view: View, found: Alert, width: int, height: int) -> Content:
    """What is wrong as one sentence, and after it the key that helps, which is never cut off."""
    glyph, why = "✗" if found.style == "$error" else "!", safe.line(found.why)
    colon = "" if why.startswith("by ") or height > 1 else ":"
    head = draw.line((f"{glyph} {found.word}{colon} ", f"bold {found.style}"))
    key, label = _chip(view, found.act, found.style)
    chip = draw.line("  ", key, label)
    if height > 1:
        rest = draw.told(why, width, "$muted", height - 1)
        return draw.lines([draw.cut(draw.line(head, chip), width), *rest], height)
    room = width - head.cell_length - chip.cell_length
    # of what failed every word may be the one that tells
    why = why if found.urgent and found.style == "$error" else draw.whole(why, room)
    said = draw.cut(draw.line((why, "$muted")), room)
    return draw.cut(draw.line(head, said, chip), width)


def _chip(view: View, name: str, colour: str) -> tuple[Content, draw.Part]:
    """A key and its word, to be pressed or clicked."""
    if name not in ACTIONS:
        key, title = SCREENS[name]
        return draw.link(f" {key} ", f"bold $background on {colour}", f"app.goto('{name}')"), (f" {title}", "bold")
    action = ACTIONS[name]
    style = f"bold $background on {colour}" if not action.refusal(view) else "bold $muted on $panel"
    link = draw.link(f" {action.key_text} ", style, f"app.perform('{name}')")
    return link, (f" {action.label_now(view)}", "bold")


def _waiting(view: View, why: str) -> tuple[str, str, str, str]:
    """Glyph, word, colour and words of a state in which there is nothing to do but watch."""
    glyph, _, style = theme.CONDITION[view.condition]
    snapshot = view.snapshot
    if snapshot is None:
        return "◌", "Connecting", "$muted", "to the database …"
    if snapshot.phase.ended:
        done = snapshot.phase is Phase.DONE
        return ("✓", "Done", "$success", why) if done else ("■", "Aborted", "$warning", why)
    if view.bridge_work:
        return "●", "Bridging", "$warning", f"{safe.line(view.bridge_work)}. B shows it."
    if snapshot.route.active is Side.NEW:
        for_ = f"for {figures.duration(snapshot.soak_seconds)}" if snapshot.soak_seconds is not None else ""
        if behind := snapshot.rollback_behind:
            lands = f" {snapshot.lands};" if snapshot.lands else ""
            back = f"F9 rolls back{lands} to a side that is behind by {counted(behind, 'row', 'rows')}"
            return "!", "Soaking", "$warning", f"{for_}: {back} (Route and rollback says why).".lstrip(": ")
        style = "$warning" if snapshot.lands else "$success"
        back = f"at once, {snapshot.lands}; " if snapshot.lands else "at once, "
        return "●", "Soaking", style, f"{for_}: F9 rolls back {back}K cleans up when you are sure.".lstrip(": ")
    if view.condition is Condition.RUNNING:
        status = snapshot.backfill
        if snapshot.phase is Phase.BACKFILL and status.total is not None:
            left = f"{figures.number(max(0, status.total - status.rows))} rows to go"
            time = f", about {figures.duration(status.eta_seconds)}" if status.eta_seconds is not None else ""
            pace = next((f" {safe.line(hold.detail)}" for hold in snapshot.reasons if hold.name == PACE), "")
            return glyph, "Working", style, f"{left}{time}.{pace} p pauses, + - change the pace."
        return glyph, "Working", style, (_awaited(view) if snapshot.phase is Phase.PREPARE else "") or why
    if snapshot.next_act == "wait" and view.condition is Condition.IDLE and not view.running:
        return "◌", "Waiting", "$muted", why  # not for us
    return "◌", "Starting", "$primary", "the work begins in a moment."
