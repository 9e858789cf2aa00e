"""What mends something, in the words of this face: keys instead of commands."""

from __future__ import annotations

from collections.abc import Sequence

from embedtui.formatting import with_remedies
from embedtui.model import Remedy
from embedtui.tui import safe


def worded(text: str, remedies: Sequence[Remedy]) -> str:
    """``text``, made harmless, with the keys of ``remedies``, as in "Build it again: r (Run)."."""
    from embedtui.tui.actions import ACTIONS  # here, because actions open dialogs, and dialogs name actions

    by_remedy = {remedy: action for action in ACTIONS.values() for remedy in action.remedies}
    named = [f"{by_remedy[each].key_text} ({by_remedy[each].mends_as or by_remedy[each].label})" for each in remedies]
    return with_remedies(safe.line(text), named)
