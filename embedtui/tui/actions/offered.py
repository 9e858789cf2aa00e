"""What is offered now: the next action with its reason, and the footer's keys. Phases' rules: ``model.lifecycle``."""

from __future__ import annotations

from embedtui.model import Phase
from embedtui.model.lifecycle import gate_says, unneeded
from embedtui.tui.actions.registry import ACTIONS, SCREENS
from embedtui.tui.remedies import worded
from embedtui.tui.view import View

_BY_ENGINE = {"resume": "pause", "validate": "compare", "prepare": "run", "backfill": "run", "build_index": "index"}
"""Actions here for what the engine says comes next, where the names differ."""


def next_action(view: View) -> tuple[str, str]:
    """Name of the next sensible action or screen and why; the name is empty where there is only waiting."""
    snapshot = view.snapshot
    if snapshot is None:
        return "", "Connecting to the database …"
    if snapshot.migration is None:
        return "run", "Nothing is changed yet. 7 shows the plan first: checks, exact SQL, price."
    name = _BY_ENGINE.get(snapshot.next_act, snapshot.next_act)
    if view.index_held and view.phase is Phase.INDEX:
        return "index", "The index is held back: i builds it now, I lets the workers build it."
    if name == "run" and view.running:
        return "", ""
    if name == "bridge" and view.bridge_work:
        return "", ""
    found = snapshot.evaluation
    if name == "compare" and found is not None and found.valid:
        return name, gate_says(found, lambda check: worded(check.hint, check.remedies))
    return (name if name in ACTIONS or name in SCREENS else ""), snapshot.next_why


def footer(view: View) -> tuple[str, ...]:
    """Actions worth a key in the footer now, the most important first; rollback has its own place there.

    What the state has no use for has none: a key that only says why it does nothing teaches to overlook it.
    """
    after = view.phase in (Phase.CUTOVER, Phase.SOAK, Phase.CLEANUP)
    first, _ = next_action(view)
    wanted = [first] if first in ACTIONS else []
    if view.snapshot is not None and view.snapshot.route.pending:
        wanted = ["cancel"]
    wanted += ["compare", "cleanup"] if after else ["pause", "compare", "cutover"]
    if view.begins or view.phase is Phase.PREPARE:
        wanted = ["run"]
    wanted += ["faster", "slower"] if view.phase is Phase.BACKFILL else []
    wanted = [name for name in dict.fromkeys(wanted) if name != "rollback" and _of_use(name, view)]
    return (*([] if view.readonly else wanted[:4]), "help", "quit")


def _of_use(name: str, view: View) -> bool:
    """Whether the state has a use for an action."""
    if name == "run" and view.begins:
        return True
    command = ACTIONS[name].command
    return view.snapshot is None or command is None or unneeded(command, view.snapshot) is None
