"""The terminal dashboard: a view of the engine's snapshots, and keys for its acts."""

from embedtui.tui.run import run_dashboard

__all__ = ["run_dashboard"]
