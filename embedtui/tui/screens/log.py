"""Log screen."""

from __future__ import annotations

from embedtui.tui.screens.base import DashboardScreen


class LogScreen(DashboardScreen):
    """Log."""

    NAME = "log"
