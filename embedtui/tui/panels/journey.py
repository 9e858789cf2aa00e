"""Where the migration stands, and what to do next."""

from __future__ import annotations

from textual.content import Content

from embedtui.model import Condition, Phase, Side
from embedtui.tui import draw, figures, safe, theme
from embedtui.tui.actions import ACTIONS, SCREENS, next_action
from embedtui.tui.panels.parts import HOLD_WORDS
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
        return draw.lines([draw.cut(head, width), draw.line((draw.fit(hint, width), "$muted"))], height)
    if name in SCREENS and name not in ACTIONS:
        key, title = SCREENS[name]
        head = draw.line(
            ("Next ", "$muted"),
            draw.link(f" {key} ", "bold $background on $primary", f"app.goto('{name}')"),
            (f" {title}", "bold"),
        )
    elif name:
        action = ACTIONS[name]
        refused = action.refusal(view)
        style = "bold $background on $primary" if not refused else "bold $muted on $panel"
        head = draw.line(
            ("Next ", "$muted"),
            draw.link(f" {action.key_text} ", style, f"app.perform('{name}')"),
            (f" {action.label_now(view)}", "bold"),
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
    if snapshot.bridge_work or "bridge" in view.busy:
        return "●", "Bridging", "$warning", f"{safe.line(snapshot.bridge_work) or 'under way'}. B shows it."
    if snapshot.route.active is Side.NEW:
        for_ = f"for {figures.duration(snapshot.soak_seconds)}" if snapshot.soak_seconds is not None else ""
        return "●", "Soaking", "$success", f"{for_}: F9 rolls back at once, K cleans up when you are sure.".lstrip(": ")
    if view.condition is Condition.THROTTLED:
        names = ", ".join(HOLD_WORDS.get(hold.name, safe.line(hold.name)) for hold in snapshot.reasons)
        pace = next((f" {safe.line(hold.detail)}" for hold in snapshot.reasons if hold.name == "rate"), "")
        return glyph, "Held back", style, f"by {names}: goes on by itself.{pace}"
    if view.condition is Condition.RUNNING:
        status = snapshot.backfill
        if snapshot.phase is Phase.BACKFILL and status.total is not None:
            left = f"{figures.number(max(0, status.total - status.rows))} rows to go"
            time = f", about {figures.duration(status.eta_seconds)}" if status.eta_seconds is not None else ""
            return glyph, "Working", style, f"{left}{time}. p pauses, + - change the pace."
        return glyph, "Working", style, why
    return "◌", "Starting", "$primary", "the work begins in a moment."
