"""Takes the pictures that people look at from the demo: ``python snapshots/take.py`` writes ``snapshots/*.svg``.

Nothing in them is drawn by hand: a real migration of the demo's documents runs meanwhile, in a folder that is thrown
away. It takes about two minutes. What tests compare are the cells in ``snapshots/*.txt``.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from embedtui.demo.environment import Demo
from embedtui.engine.process import SubprocessEngine
from embedtui.model import Phase, QueryComparison
from embedtui.tui.app import Dashboard
from embedtui.tui.engine_threads import Task

FOLDER = Path(__file__).parent
SIZE, SMALL = (160, 45), (80, 24)
TOKENS_PER_MINUTE = 250_000.0
"""Slow enough for the chart of the rate to fill."""
DONE_SHARE = 0.62
"""The Overview is taken at this share of the backfill."""
PATIENCE_SECONDS = 300.0
VERDICTS = 5
"""Queries that were decided on before the picture of Compare."""


async def take(demo: Demo) -> None:
    """Runs the journey as far as the comparison, and takes the pictures on the way."""
    app = Dashboard(functools.partial(demo.open_engine, kind=SubprocessEngine), autostart=True, remember=False)
    async with app.run_test(size=SIZE, notifications=False) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        app.theme = "embedtui-dark"
        await until(pilot, lambda: done_share(app) >= DONE_SHARE)
        await pilot.pause(1)
        save(app, "readme-overview")
        await pilot.resize_terminal(*SMALL)
        await pilot.pause(1)
        save(app, "overview-80x24")
        await pilot.resize_terminal(*SIZE)
        for name in ("workers", "plan"):
            await show(app, pilot, name)
            save(app, name)
        app.bridge.do(Task("pace", lambda engine, _: engine.set_pace(tokens_per_minute=0)))
        await until(pilot, lambda: app.snapshot is not None and app.snapshot.phase is Phase.VALIDATE)
        await pilot.press("c")
        await until(pilot, lambda: app.comparison is not None)
        await judge(app, pilot)
        await pilot.pause(1)
        save(app, "readme-compare")
        await show(app, pilot, "cutover")
        save(app, "cutover")


async def show(app: Dashboard, pilot: Pilot[None], name: str) -> None:
    """Brings a screen to the front and waits for what it asks for."""
    app.goto(name)
    await until(pilot, lambda: not app.bridge.reading)
    await pilot.pause(1)


async def judge(app: Dashboard, pilot: Pilot[None]) -> None:
    """Decides on the first queries as their judgments do, then shows one that the new side serves better,
    and the text of its answer."""
    assert app.comparison is not None
    queries = app.comparison.queries
    for query in queries[:VERDICTS]:
        await pilot.press({1: "n", -1: "o"}.get(_better(query), "s"))
        await until(pilot, lambda: "decide" not in app.view.busy)
    telling = max(range(len(queries)), key=lambda place: (_worth(queries[place]), -place))
    rows = queries[telling].new
    at = next((place for place, row in enumerate(rows) if row.key in queries[telling].relevant), 0)
    await pilot.press("home", *["down"] * telling, "tab", "right", *["down"] * at)


def _better(query: QueryComparison) -> int:
    old, new = query.ndcg_old or 0.0, query.ndcg_new or 0.0
    return (new > old) - (new < old)


def _worth(query: QueryComparison) -> float:
    """How much a query tells: gained, and with something shared to see moving."""
    gain = (query.ndcg_new or 0.0) - (query.ndcg_old or 0.0)
    return gain if 0.2 <= query.overlap <= 0.7 else gain - 1


def done_share(app: Dashboard) -> float:
    """Share of the rows that have their new vector."""
    status = app.snapshot.backfill if app.snapshot else None
    return status.rows / status.total if status and status.total else 0.0


def save(app: Dashboard, name: str) -> None:
    """Writes the picture of what is shown."""
    path = FOLDER / f"{name}.svg"
    path.write_text(app.export_screenshot(title="embedtui"), "utf-8")
    say(str(path))


async def until(pilot: Pilot[None], reached: Callable[[], bool]) -> None:
    """Waits for the journey to get somewhere; fails if it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError("The demo did not get on.")
        await pilot.pause(0.1)


def say(line: str) -> None:
    """A line of progress."""
    sys.stderr.write(f"{line}\n")


def main() -> None:
    """Starts the demo in a folder of its own, and takes the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_DATA_HOME"] = folder
        with Demo(tokens_per_minute=TOKENS_PER_MINUTE, out=say) as demo:
            asyncio.run(take(demo))


if __name__ == "__main__":
    main()
