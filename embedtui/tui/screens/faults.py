"""Faults screen."""

from __future__ import annotations

from embedtui.tui.screens.base import DashboardScreen


class FaultsScreen(DashboardScreen):
    """Faults."""

    NAME = "faults"
