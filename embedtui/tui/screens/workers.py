"""Workers screen."""

from __future__ import annotations

from embedtui.tui.screens.base import DashboardScreen


class WorkersScreen(DashboardScreen):
    """Workers."""

    NAME = "workers"
