"""The panels of Overview and Cutover: pure functions from a view and a size to styled text."""

from __future__ import annotations

from embedtui.tui.panels.journey import advice, journey
from embedtui.tui.panels.lists import crowded, faults, feed, holds, workers
from embedtui.tui.panels.progress import backfill, index, serving, sync
from embedtui.tui.panels.route import evaluation, rollback, route

__all__ = [
    "advice",
    "backfill",
    "crowded",
    "evaluation",
    "faults",
    "feed",
    "holds",
    "index",
    "journey",
    "rollback",
    "route",
    "serving",
    "sync",
    "workers",
]
