"""What an operator can do: names, keys, words, and why an act is impossible in a state. Pure functions of the view."""

from __future__ import annotations

import re
from dataclasses import dataclass

from embedtui.model import Condition, IndexMethod, Phase, Side
from embedtui.tui.view import View


@dataclass(frozen=True, slots=True)
class Act:
    """Something the operator can do, from the key, the palette, the footer or the mouse."""

    name: str
    key: str
    """Textual's name of the key."""
    label: str
    """One or two words for the footer."""
    doc: str
    """One sentence for help and palette."""
    group: str = "Migration"
    shown: str = ""
    """How the key is written, where its name is not that."""
    changes: bool = True
    """Whether it changes anything; acts that do are off in read-only mode."""

    @property
    def key_text(self) -> str:
        """The key as a person reads it."""
        return self.shown or self.key


ACTS: dict[str, Act] = {
    act.name: act
    for act in (
        Act("run", "r", "Run", "Do the work that is due here: prepare, backfill, index, keep in sync."),
        Act("pause", "p", "Pause", "Pause all workers; again to resume. Nothing paid for is lost."),
        Act("compare", "c", "Compare", "Search every query on both sides and record an evaluation."),
        Act("index", "i", "Build index", "Build the new side's index now, without blocking reads or writes."),
        Act(
            "hold",
            "I",
            "Hold index",
            "Keep the workers from building the index, or take the build back; again lets them.",
        ),
        Act("cutover", "x", "Cut over", "Move reads to the new side: all, or a share of them."),
        Act("takeback", "z", "Take back", "Take a postponed cutover back before it is due."),
        Act("rollback", "f9", "Roll back", "Move all reads back to the old side, at once and unasked.", shown="F9"),
        Act("verify", "v", "Verify", "Scan every row: missing, stale, wrong model, faulty."),
        Act("cleanup", "K", "Clean up", "Drop the old side and finish. Asks for the table's name."),
        Act("abort", "A", "Abort", "Give the migration up and drop the new side. Asks for the table's name."),
        Act("faster", "plus", "Faster", "One more request in flight.", "Pace", shown="+"),
        Act("slower", "minus", "Slower", "One request in flight fewer.", "Pace", shown="-"),
        Act("limits", "l", "Limits", "Set requests and tokens per minute, concurrency and spend cap.", "Pace"),
        Act("detach", "D", "Detach", "Leave; what r started goes on without this terminal.", "Screen"),
        Act("help", "question_mark", "Help", "All keys, and what the signs mean.", "Screen", "?", changes=False),
        Act("theme", "t", "Theme", "Change between dark, light and 16 colours.", "Screen", changes=False),
        Act("palette", "ctrl+p", "Commands", "Find any act by its name.", "Screen", "^p", changes=False),
        Act(
            "quit",
            "q",
            "Quit",
            "Leave. Work of this terminal stops and can be resumed; D leaves it running.",
            "Screen",
            changes=False,
        ),
    )
}

READONLY = "Read-only: this terminal only watches."
EMBEDDED = (Phase.INDEX, Phase.VALIDATE, Phase.CUTOVER, Phase.SOAK, Phase.CLEANUP)


def refusal(name: str, view: View) -> str:
    """Why the act ``name`` is impossible now, with what would release it; empty where it is possible.

    The snapshot decides, so this is quick and may be a second old: the engine checks again when the act is done.
    """
    act = ACTS[name]
    if not act.changes:
        return ""
    if view.readonly:
        return READONLY
    if view.snapshot is None:
        return "Not connected to the database yet."
    if not view.link.up and name not in ("rollback", "detach"):
        return "The database is out of reach; the act would fail."
    if name in view.busy:
        return f"{act.label} is under way already."
    rule = _RULES.get(name)
    return rule(view) if rule else _live(view)


def label(name: str, view: View) -> str:
    """The act's label, which for a toggle follows the state."""
    if name == "pause" and view.paused:
        return "Resume"
    if name == "hold" and view.index_held:
        return "Release index"
    if name == "run" and view.phase not in (Phase.PLAN, Phase.PREPARE) and not view.phase.ended:
        return "Work here" if view.phase in (Phase.CUTOVER, Phase.SOAK, Phase.VALIDATE) else "Run"
    return ACTS[name].label


def next_act(view: View) -> tuple[str, str]:
    """Name of the next sensible act and why; the name is empty where there is only waiting."""
    snapshot = view.snapshot
    if snapshot is None:
        return "", "Connecting to the database …"
    if snapshot.migration is None:
        return "run", "Nothing is changed yet. 7 shows the plan first: checks, exact SQL, price."
    wanted = snapshot.next_act
    name = _SPOKEN.get(wanted, wanted)
    if view.index_held and view.phase is Phase.INDEX:
        return "index", "An operator holds the index back: i builds it now, I lets the workers build it."
    if name == "run" and view.running:
        return "", ""
    if name == "cutover" and snapshot.route.canary:
        return name, f"{snapshot.route.canary} % of reads use the new side: watch them, then move the rest."
    return (name if name in ACTS or name in SCREENS else ""), snapshot.next_why


SCREENS = {
    "overview": ("1", "Overview"),
    "compare": ("2", "Compare"),
    "cutover": ("3", "Cutover"),
    "faults": ("4", "Faults"),
    "workers": ("5", "Workers"),
    "log": ("6", "Log"),
    "plan": ("7", "Plan"),
}
"""Screens in the order of their keys: name, key, title."""

_SPOKEN = {"resume": "pause", "validate": "compare", "prepare": "run", "backfill": "run", "build_index": "index"}


def keyed(text: str) -> str:
    """The engine's words, which name commands, with the keys of this screen instead where there are any."""

    def key(found: re.Match[str]) -> str:
        act = ACTS.get(_SPOKEN.get(found[1], found[1]))
        return f"{act.key_text} ({act.label})" if act else found[0]

    return re.sub(r"`embedtui (\w+)[^`]*`", key, text)


def _live(view: View) -> str:
    snapshot = view.snapshot
    if snapshot is None or snapshot.migration is None:
        return "No migration exists yet: run it first."
    if snapshot.phase.ended:
        return f"This migration is {snapshot.phase}."
    return ""


def _run(view: View) -> str:
    if view.running:
        return "This terminal is at work already."
    if view.phase.ended:
        return f"This migration is {view.phase}: nothing is left to do."
    return ""


def _index(view: View) -> str:
    if ended := _live(view):
        return ended
    assert view.snapshot is not None and view.snapshot.migration is not None
    if view.snapshot.migration.index_method is IndexMethod.NONE:
        return "This migration is set to have no index: searches stay exact."
    if view.phase not in EMBEDDED:
        return "The index is built once every row is embedded; before that it would slow the backfill many times over."
    if view.snapshot.index.valid:
        return "The index is there and valid."
    return ""


def _hold(view: View) -> str:
    if ended := _live(view):
        return ended
    assert view.snapshot is not None and view.snapshot.migration is not None
    if view.snapshot.migration.index_method is IndexMethod.NONE:
        return "This migration is set to have no index."
    if view.phase not in (Phase.PREPARE, Phase.BACKFILL, Phase.INDEX):
        return "The workers build no index any more."
    return ""


def _compare(view: View) -> str:
    if ended := _live(view):
        return ended
    if view.phase in (Phase.PLAN, Phase.PREPARE):
        return "Nothing to compare yet: no row has a new vector."
    return ""


def _cutover(view: View) -> str:
    if ended := _live(view):
        return ended
    assert view.snapshot is not None
    if view.snapshot.route.active is Side.NEW:
        return "The new side serves all reads already."
    if view.phase in (Phase.PLAN, Phase.PREPARE, Phase.BACKFILL):
        return "Not every row has its new vector yet: the backfill comes first."
    return ""


def _takeback(view: View) -> str:
    if ended := _live(view):
        return ended
    assert view.snapshot is not None
    return "" if view.snapshot.route.pending else "No cutover is postponed."


def _cleanup(view: View) -> str:
    if ended := _live(view):
        return ended
    assert view.snapshot is not None
    if view.snapshot.route.active is Side.OLD:
        return "The old side serves: clean up after the cutover."
    return ""


def _abort(view: View) -> str:
    if ended := _live(view):
        return ended
    if view.new_reads:
        return "The new side serves reads: roll back first (F9)."
    return ""


def _rollback(view: View) -> str:
    return _live(view) if view.snapshot is None or view.snapshot.migration is None else ""


def _pace(view: View) -> str:
    if ended := _live(view):
        return ended
    if view.snapshot is None or view.snapshot.backfill.concurrency is None:
        return "Only a backfill that is under way can be made faster or slower; l sets limits at any time."
    return ""


def _detach(view: View) -> str:
    if not view.running:
        return "No work is under way in this terminal: leave with q."
    return "" if view.detachable else "This work ends with its terminal, as all of the demo does."


def _pause(view: View) -> str:
    if ended := _live(view):
        return ended
    if view.condition is Condition.FAILED and not view.paused:
        return "It has failed, there is nothing to pause: mend what it names, then run."
    return ""


_RULES = {
    "run": _run,
    "pause": _pause,
    "detach": _detach,
    "index": _index,
    "hold": _hold,
    "compare": _compare,
    "cutover": _cutover,
    "takeback": _takeback,
    "cleanup": _cleanup,
    "abort": _abort,
    "rollback": _rollback,
    "faster": _pace,
    "slower": _pace,
}


def footer(view: View) -> tuple[str, ...]:
    """Acts worth a key in the footer now, the most important first; rollback has its own place there."""
    after = view.phase in (Phase.CUTOVER, Phase.SOAK, Phase.CLEANUP)
    first, _ = next_act(view)
    wanted = [first] if first in ACTS else []
    if view.snapshot is not None and view.snapshot.route.pending:
        wanted = ["takeback"]
    wanted += ["compare", "cleanup"] if after else ["pause", "compare", "cutover"]
    if view.phase in (Phase.PLAN, Phase.PREPARE):
        wanted = ["run"]
    wanted += ["faster", "slower"] if view.phase is Phase.BACKFILL else []
    if view.readonly:
        wanted = []
    kept = [name for index, name in enumerate(wanted) if name not in wanted[:index] and name != "rollback"]
    return (*kept[:4], "help", "quit")
