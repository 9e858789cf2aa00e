"""The registry of actions: keys, palette, footer, help and mouse all derive from it."""

from __future__ import annotations

from embedtui.tui.actions.base import Action
from embedtui.tui.actions.bridging import Bridging
from embedtui.tui.actions.ending import Abort, Cleanup
from embedtui.tui.actions.general import Detach, Help, Palette, Quit, Settings, Theme
from embedtui.tui.actions.migration import BuildIndex, Compare, HoldIndex, Pause, Reload, Run, Verify
from embedtui.tui.actions.pace import Faster, Limits, Slower
from embedtui.tui.actions.route import CancelCutover, Cutover, Rollback

ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Run(),
        Pause(),
        Reload(),
        Settings(),
        Compare(),
        BuildIndex(),
        HoldIndex(),
        Cutover(),
        CancelCutover(),
        Rollback(),
        Bridging(),
        Verify(),
        Cleanup(),
        Abort(),
        Faster(),
        Slower(),
        Limits(),
        Detach(),
        Help(),
        Theme(),
        Palette(),
        Quit(),
    )
}
"""By name, in the order of the help."""

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
