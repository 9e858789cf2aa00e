"""Actions: keys, palette, footer, help and mouse all derive from their registry."""

from embedtui.tui.actions.base import READONLY, Action
from embedtui.tui.actions.offered import footer, next_action
from embedtui.tui.actions.registry import ACTIONS, SCREENS

__all__ = ["ACTIONS", "READONLY", "SCREENS", "Action", "footer", "next_action"]
