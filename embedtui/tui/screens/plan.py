"""Plan screen."""

from __future__ import annotations

from embedtui.tui.screens.base import DashboardScreen


class PlanScreen(DashboardScreen):
    """Plan."""

    NAME = "plan"
