"""The dashboard in a headless terminal, with nothing remembered from earlier sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.screen import Screen

from embedtui.model import Snapshot
from embedtui.tui.app import Dashboard
from tests.tui.standin import StandIn

Open = Callable[..., AbstractAsyncContextManager[tuple[Dashboard, Pilot[None], StandIn]]]


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Folder that stands for the user's state."""
    monkeypatch.setattr("embedtui.tui.comforts.state_path", lambda: tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return tmp_path


@pytest.fixture
def shown() -> Open:
    """Opens the dashboard over a frozen state: ``async with shown(snapshot, size) as (app, pilot, engine)``."""

    @asynccontextmanager
    async def open_frozen(
        snapshot: Snapshot, size: tuple[int, int] = (80, 24), theme: str = "embedtui-dark", **options: bool
    ) -> AsyncIterator[tuple[Dashboard, Pilot[None], StandIn]]:
        engine = StandIn(snapshot)
        app = Dashboard(lambda sink: engine, remember=False, interval=3600, **options)
        async with app.run_test(size=size) as pilot:
            app.theme = theme
            await until(pilot, lambda: app.snapshot is not None)
            yield app, pilot, engine

    return open_frozen


async def painting(app: Dashboard, pilot: Pilot[None]) -> list[object]:
    """A list that every update of the screen is added to from now on, when all that was under way is painted."""
    painted: list[object] = []
    display = app._display

    def count(screen: Screen[object], update: object) -> None:
        if update:
            painted.append(update)
        display(screen, update)  # type: ignore[arg-type]

    app._display = count  # type: ignore[method-assign, assignment]
    for _ in range(200):
        painted.clear()
        await pilot.pause(0.2)
        if not painted:
            return painted
    raise AssertionError("it never comes to rest")


async def until(pilot: Pilot[None], condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Waits for threads and messages until ``condition`` holds; fails if it never does."""
    for _ in range(int(seconds / 0.01)):
        if condition():
            await pilot.pause()
            return
        await pilot.pause(0.01)
    said = [notification.message for notification in pilot.app._notifications]
    raise AssertionError(f"it never came true; said: {said}; on {pilot.app.screen}")
