"""What every screen has: the status line on top, the names of the screens, and the keys at the bottom."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from textual.content import Content

from embedtui.model import Condition, Side
from embedtui.tui import draw, figures, safe, theme
from embedtui.tui.actions import SCREENS
from embedtui.tui.panels.alerts import alert
from embedtui.tui.view import View

_GAP = "   "
_NAME = 8
"""Cells of the table's name that are always shown."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the footer."""

    written: str
    label: str
    action: str
    """What a click on it does, as Textual writes it."""
    possible: bool = True


def header(view: View, width: int, _height: int = 1) -> Content:
    """One line: what migrates, how it stands, who serves, whether the screen is current."""
    snapshot = view.snapshot
    name = draw.line((" embedtui ", "bold $background on $primary"), "  ")
    if snapshot is None:
        if view.link.problem:
            since = "" if view.link.ours else f"for {figures.duration(view.link.seconds)}"
            word = "wrong settings" if view.link.ours else "no database"
            state = draw.line((f"✗ {word} ", "bold $error"), (since, "$error"))
        else:
            state = draw.line(("◌ connecting …", "$muted"))
        return draw.row(draw.line(name, state), _watch(view), width)
    parts: list[draw.Part] = [name, (safe.line(view.table) or "no migration yet", "bold"), _GAP]
    glyph, word, style = theme.CONDITION[snapshot.condition]
    if snapshot.phase.ended:
        parts.append((f"✓ {snapshot.phase}" if snapshot.phase == "done" else "■ aborted", "bold $success"))
    elif snapshot.migration is not None:
        found = alert(snapshot)
        if found is not None and (snapshot.condition is Condition.IDLE or snapshot.unanswered):
            glyph, word, style = "✗" if found.style == "$error" else "!", found.word.lower(), found.style
        if view.stale and not view.late:
            parts.append((f"when last read: {word} {snapshot.phase}", "$muted"))
        else:
            parts += [(f"{glyph} {word} ", f"bold {style}"), (str(snapshot.phase), style)]
    if snapshot.migration is not None and width >= 60:
        parts += [_GAP, serving(view)]
    if view.stale and not view.late:
        right = draw.line(
            (" ✗ wrong settings " if view.link.ours else " ✗ database lost ", "bold $background on $error"),
            (f" {figures.duration(view.link.seconds)}, seen {draw.clock(snapshot.as_of)} ", "$error"),
        )
        if width < 100:
            parts = [name, (safe.line(view.table), "bold")]
    elif view.late:
        old = f"! {figures.duration(view.link.seconds)} old, of {draw.clock(snapshot.as_of)} "
        right = draw.line(_watch(view), (old, "bold $warning"))
    else:
        right = draw.line(_watch(view), (draw.clock(snapshot.as_of) + " ", "$muted"))
    left = draw.line(*parts)
    if left.cell_length + right.cell_length >= width:
        parts = [" " if each == _GAP else each for each in parts]
        left = draw.line(*parts)
    if (over := left.cell_length + 1 + right.cell_length - width) > 0:  # of a long name the end goes first
        table = safe.line(view.table)
        parts[1] = (draw.fit(table, max(_NAME, cell_len(table) - over)), "bold")
        left = draw.line(*parts)
    for where in (snapshot.server, snapshot.server.split(" at ")[0]):
        named = draw.line(left, (f"   {safe.line(where)}", "$muted"))
        if where and named.cell_length + right.cell_length < width:
            left = named
            break
    return draw.row(left, right, width)


def serving(view: View) -> Content:
    """Which side serves, in a few words."""
    assert view.snapshot is not None
    route = view.snapshot.route
    if route.active is Side.OLD and 0 < route.canary < 100:
        return draw.line(
            (f"◇ old {100 - route.canary} %", "$old"), (" · ", "$muted"), (f"◆ new {route.canary} %", "$new")
        )
    if route.bridged:
        return draw.line((f"{theme.SIDE_GLYPH[Side.OLD]} old, bridged", f"bold {theme.SIDE_STYLE[Side.OLD]}"))
    side = Side.NEW if route.active is Side.NEW or route.canary >= 100 else Side.OLD
    return draw.line((f"{theme.SIDE_GLYPH[side]} {side} serves", f"bold {theme.SIDE_STYLE[side]}"))


_BUSY = {
    "rollback": "rolling back",
    "cutover": "cutting over",
    "compare": "comparing",
    "cleanup": "cleaning up",
    "abort": "aborting",
    "pause": "pausing",
    "resume": "resuming",
    "verify": "verifying",
    "index": "building the index",
}
"""What is under way from this terminal, where a person waits for it; the most pressing first."""


def _watch(view: View) -> Content:
    """What this terminal is busy with, from the key on; and whether it only watches."""
    doing = next((words for name, words in _BUSY.items() if name in view.busy), "")
    return draw.line(
        (f"◌ {doing} …  " if doing else "", "bold $primary"), ("read-only  " if view.readonly else "", "$warning")
    )


def rail(active: str, faults: int, width: int) -> Content:
    """The screens' keys and names; the active one is marked; faults are counted."""
    parts: list[draw.Part] = [" "]
    for name, (key, title) in SCREENS.items():
        shown = f"{title} {figures.short(faults)}" if name == "faults" and faults else title
        text = f" {key} {shown} "
        if name == active:
            parts.append((f"▸{text[1:]}", "bold $foreground on $panel"))
        else:
            style = "$warning" if name == "faults" and faults else "$muted"
            parts.append(draw.link(text, style, f"app.goto('{name}')"))
        parts.append(" " if width >= 90 else "")
    return draw.cut(draw.line(*parts), width)


def footer(view: View, keys: tuple[Key, ...], width: int) -> Content:
    """Keys with words, as many as fit; rollback keeps its place on the right on every screen while it can be."""
    live = view.way_back
    roll = draw.line(
        draw.link(
            " F9 ", "bold $background on $warning" if live else "bold $muted on $panel", "app.perform('rollback')"
        ),
        draw.link(" Roll back ", "bold $warning" if live else "$muted", "app.perform('rollback')"),
    )
    if not live and (view.phase.ended or view.snapshot is None or view.snapshot.migration is None):
        roll = Content("")
    gap = "  " if width < 100 else "   "
    items = [
        draw.line(
            draw.link(key.written, "bold $primary" if key.possible else "$faint", key.action),
            draw.link(f" {key.label}", "$foreground" if key.possible else "$faint", key.action),
            gap,
        )
        for key in keys
    ]
    # Help and quit are the way out: they keep their room, and what does not fit beside them is in the help.
    room = width - 1 - roll.cell_length - sum(item.cell_length for item in items[-2:])
    kept = []
    for item in items[:-2]:
        if item.cell_length > room:
            break
        room -= item.cell_length
        kept.append(item)
    return draw.row(draw.line(" ", *kept, *items[-2:]).rstrip(), roll, width)
