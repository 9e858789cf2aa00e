"""The terminal dashboard: a view of the engine's snapshots, and keys for its acts."""

from embedtui.tui.run import run_dashboard
from embedtui.tui.welcome import Choice, TableChoice, run_welcome

__all__ = ["Choice", "TableChoice", "run_dashboard", "run_welcome"]
