"""The terminal dashboard: a view of the engine's snapshots, and keys for the actions on it."""

from embedtui.tui.run import run_dashboard
from embedtui.tui.welcome import Choice, run_welcome

__all__ = ["Choice", "run_dashboard", "run_welcome"]
