"""The worst day by keys, against the real engine: the old model dies, one key brings search back, another ends it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from textual.pilot import Pilot
from textual.widgets import Button

from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine, SubprocessEngine
from embedtui.tui import old_model
from embedtui.tui.actions import ACTIONS
from embedtui.tui.app import Dashboard
from embedtui.tui.dialogs.bridging import BridgeDialog
from tests.integration.engine.test_bridge import (
    NEW_MODEL,
    OLD_MODEL,
    ROWS,
    found_by_router,
    make_table,
    other_vectors,
    value,
)
from tests.kits.support import NEW, OLD, settings_for
from tests.tui.conftest import front, picture, said, until
from tests.tui.test_journey import seen, type_text


@asynccontextmanager
async def dashboard(
    database: str,
    api: LoopbackServer,
    folder: Path,
    old: Callable[[list[str]], np.ndarray] | None = None,
    kind: type[Engine] = Engine,
) -> AsyncIterator[tuple[Dashboard, Pilot[None]]]:
    """Over a table that is prepared, and whose backfill nobody has begun."""
    make_table(database, old=old)
    api.models = {NEW: NEW_MODEL, OLD: OLD_MODEL}
    settings = settings_for(database, api, folder)
    preparing = Engine(database, settings=settings)
    preparing.prepare()
    preparing.close()
    app = Dashboard(lambda sink: kind(database, settings=settings, on_event=sink), remember=False, interval=0.1)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        yield app, pilot


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_model, "ASK_SECONDS", 0.2)


@pytest.mark.parametrize("kind", [Engine, SubprocessEngine])
@pytest.mark.variants(1)
async def test_one_key_brings_search_back_and_another_ends_it(
    database: str, api: LoopbackServer, tmp_path: Path, kind: type[Engine]
) -> None:
    async with dashboard(database, api, tmp_path, kind=kind) as (app, pilot):
        await until(pilot, lambda: "old-model" in {body["model"] for body, _ in api.asked})
        assert seen(app).next_act == "run", "it answers"
        del api.models[OLD]
        await until(pilot, lambda: seen(app).next_act == "bridge", 30)
        assert "no longer answers (404)" in picture(app) and " B  Bridge" in picture(app)
        assert any("no longer answers" in event.text for event in app.events)

        await pilot.press("B")
        await until(pilot, lambda: seen(app).route.bridged, 90)
        # the sheet and what is behind it are brought up to date one after the other
        said_of = ("through the bridge, version 1", "itself first", "shuffled")
        await until(pilot, lambda: all(each in picture(app) for each in said_of))
        await until(pilot, lambda: "bridge" not in app.view.busy)
        assert "Bridged: finds" in said(app)
        assert found_by_router(database, list(range(5, ROWS, 7))) > 0.9
        # Enter is harmless; the way back is a button
        await pilot.press("enter")
        await until(pilot, lambda: "old, bridged" in picture(app))
        assert "bridged  finds" in picture(app)
        await pilot.press("B")
        await until(pilot, lambda: isinstance(app.screen, BridgeDialog))
        assert "bridge" not in app.view.busy, "what serves is not fitted again by looking at it"
        sheet = front(app, BridgeDialog)
        off = sheet.query_one("#off", Button)
        assert off.display and app.focused is sheet.query_one("#cancel", Button)
        await pilot.click("#off")
        await until(pilot, lambda: not seen(app).route.bridged)
        await pilot.press("escape")
        assert seen(app).next_act == "bridge"


async def test_what_is_below_the_bound_is_shown_and_takes_a_reason(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    async with dashboard(database, api, tmp_path, old=other_vectors) as (app, pilot):
        del api.models[OLD]
        await until(pilot, lambda: seen(app).next_act == "bridge", 30)
        await pilot.press("B")
        await until(pilot, lambda: seen(app).bridge is not None and "bridge" not in app.view.busy, 90)
        assert "B shows what was found" in said(app) and "--override" not in said(app)
        sheet = front(app, BridgeDialog)
        await until(pilot, lambda: "text behind" in " ".join(picture(app).split()))
        on = sheet.query_one("#on", Button)
        await until(pilot, lambda: on.display and on.disabled)

        # the key alone does not try again what was refused
        await pilot.press("escape", "B")
        await until(pilot, lambda: isinstance(app.screen, BridgeDialog))
        assert "bridge" not in app.view.busy
        await type_text(pilot, "better than nothing")
        on = front(app, BridgeDialog).query_one("#on", Button)
        await until(pilot, lambda: not on.disabled)
        await pilot.press("enter")
        await until(pilot, lambda: seen(app).route.bridged, 90)
        reasons = value(database, "SELECT string_agg(detail, ' ') FROM embedtui.audit WHERE act = 'bridge'")
        assert "bound (better than nothing)" in reasons


async def test_a_model_that_answers_is_bridged_for_a_reason_only_and_can_be_measured(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    async with dashboard(database, api, tmp_path) as (app, pilot):
        await pilot.press("B")
        await until(pilot, lambda: "it answers" in picture(app))
        sheet = front(app, BridgeDialog)
        assert sheet.query_one("#on", Button).disabled
        await pilot.click("#measure")
        await until(pilot, lambda: seen(app).bridge is not None and "bridge" not in app.view.busy, 90)
        assert not seen(app).route.bridged and "Measured, nothing is changed" in said(app)
        assert value(database, "SELECT count(embedding_v2) FROM documents") == ROWS, "the backfill's first rows"
        del api.models[OLD]  # and it dies while the sheet is open
        await until(pilot, lambda: "no longer answers" in picture(app) and "it answers" not in picture(app), 30)
        assert not sheet.query_one("#on", Button).disabled


async def test_it_is_offered_to_nobody_who_only_watches(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_table(database)
    api.models = {NEW: NEW_MODEL}
    settings = settings_for(database, api, tmp_path)
    engine = Engine(database, settings=settings)
    engine.prepare()
    before = len(api.asked)
    app = Dashboard(lambda _: engine, readonly=True, remember=False, interval=0.1)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        taken = threading.Event()
        pilot.app.set_timer(1.0, taken.set)
        await until(pilot, taken.is_set)
        assert len(api.asked) == before, "a terminal that watches pays for nothing"
        await pilot.press("B")
        assert "only watches" in said(app)
        assert ACTIONS["bridge"].refusal(app.view)
