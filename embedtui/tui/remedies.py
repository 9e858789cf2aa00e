"""What mends something, in the words of this face: keys instead of commands."""

from __future__ import annotations

import re
from collections.abc import Sequence

from embedtui.formatting import with_remedies
from embedtui.model import Remedy
from embedtui.tui import safe

FOLD, RENAME = "Fold the side table into the table", "The new column takes the old one's name"
"""What is chosen at a cleanup."""
_FLAGS = {
    "--fold": f"“{FOLD}” ticked",
    "--no-fold": f"“{FOLD}” unticked",
    "--rename": f"“{RENAME}” ticked",
    "--keep-name": f"“{RENAME}” unticked",
    "--keep-old": "the old column (`embedtui cleanup --keep-old`) and",
    "--archive": "“Keep old vectors in”",
    "--old-retired": "old_model.retired",
}
"""What the command line's flags are called here; those within a command stay."""
_FLAG = re.compile(rf"(?<![-\w])({'|'.join(_FLAGS)})(?![-\w])")


def worded(text: str, remedies: Sequence[Remedy]) -> str:
    """``text``, made harmless, with the keys of ``remedies``, as in "Build it again: r (Run)."."""
    from embedtui.tui.actions import ACTIONS  # here, because actions open dialogs, and dialogs name actions

    keys = {
        remedy: f"{action.key_text} ({action.mends_as or action.label})"
        for action in ACTIONS.values()
        for remedy in action.remedies
    }
    keys[Remedy.ASK] = "a (Ask models)"  # on the screen whose checks it is among
    named = [keys[each] for each in remedies]
    return with_remedies(_FLAG.sub(lambda found: _FLAGS[found[1]], safe.line(text)), named)
