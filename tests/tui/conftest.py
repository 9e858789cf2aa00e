"""The dashboard in a headless terminal, with nothing remembered from earlier sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen

from embedtui.model import Snapshot
from embedtui.tui.app import Dashboard
from embedtui.tui.messages import SnapshotTaken
from tests.tui.standin import StandIn

S = TypeVar("S", bound=Screen[Any])
Open = Callable[..., AbstractAsyncContextManager[tuple[Dashboard, Pilot[None], StandIn]]]


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Folder that stands for the user's state."""
    monkeypatch.setattr("embedtui.tui.preferences.state_path", lambda: tmp_path)
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
        app = Dashboard(lambda _: engine, remember=False, interval=3600, **options)
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


def front(app: App[Any], kind: type[S]) -> S:
    """The screen in front, which has to be of this kind."""
    assert isinstance(app.screen, kind), app.screen
    return app.screen


async def present(app: Dashboard, pilot: Pilot[Any], snapshot: Snapshot) -> None:
    """Has the dashboard show a state."""
    app.post_message(SnapshotTaken(snapshot))
    await until(pilot, lambda: app.snapshot is snapshot)


def said(app: App[Any]) -> str:
    """All that was said in the corner."""
    return " ".join(notification.message for notification in app._notifications)


def picture(app: App[Any]) -> str:
    """The characters on the screen."""
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


async def until(pilot: Pilot[Any], condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Waits for threads and messages until ``condition`` holds; fails if it never does."""
    for _ in range(int(seconds / 0.01)):
        if condition():
            await pilot.pause()
            return
        await pilot.pause(0.01)
    raise AssertionError(f"it never came true; said: {said(pilot.app)}; on {pilot.app.screen}")
