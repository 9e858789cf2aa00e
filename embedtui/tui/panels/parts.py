"""What several panels share."""

from __future__ import annotations

from textual.content import Content

from embedtui.tui import draw
from embedtui.tui.view import View

HOLD_WORDS = {
    "replica_lag": "replica lag",
    "probe_latency": "slow searches",
    "lock_waits": "lock waits",
    "long_transactions": "long transactions",
    "autovacuum": "autovacuum",
    "wal_rate": "WAL rate",
    "provider": "provider",
    "rate": "provider's rate limit",
    "pace": "limit",
    "operator": "operator",
    "index": "index",
    "spend_cap": "spend cap",
}


def clipped(rows: list[Content], height: int) -> Content:
    """``rows`` on ``height`` lines; the last one says how many more there are."""
    if len(rows) > height > 0:
        rows = [*rows[: height - 1], draw.line((f"… {len(rows) - height + 1} more lines", "$muted"))]
    return draw.lines(rows)


def loading(view: View) -> Content:
    """What is shown before the first reading."""
    reached = not view.link.problem or view.link.ours
    return draw.line(("◌ not read yet" if reached else "◌ no database", "$muted"))
