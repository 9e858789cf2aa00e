"""What screens do with what they are shown: lists keep their place, fields say how they are left."""

from __future__ import annotations

from embedtui.model import Noted
from embedtui.tui.bridge import EngineSpoke
from embedtui.tui.screens.dialogs import LimitsDialog
from embedtui.tui.widgets.listing import Listing
from tests.tui import states
from tests.tui.conftest import Open, until


async def test_the_log_follows_also_behind_a_dialog(shown: Open) -> None:
    """What happens while a dialog is open is on the screen when it closes."""
    async with shown(states.RUNNING) as (app, pilot, _):
        await pilot.press("6")
        listing = app.screen.query_one("#log", Listing)
        await until(pilot, lambda: listing.count == len(states.AUDIT))
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, LimitsDialog))
        for number in range(40):
            app.post_message(EngineSpoke(Noted(states.NOW, f"Note {number}")))
        await pilot.pause()
        await pilot.press("escape")
        await until(pilot, lambda: listing.count == len(states.AUDIT) + 40)
        await until(pilot, lambda: listing.scroll_offset.y + listing.size.height >= listing.count)
        assert "Note 39" in app.export_screenshot().replace("&#160;", " ")
