"""The garbage collector's full passes wait until nobody types."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import pytest

from embedtui.tui import smooth
from tests.tui import states
from tests.tui.conftest import Open


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A list that every full pass is added to, beside an interpreter set up for a screen."""
    passes: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            passes.append(2)

    before = gc.get_threshold()
    monkeypatch.setattr(gc, "freeze", lambda: None)  # what other tests left is not to stay for ever
    gc.callbacks.append(note)
    try:
        with smooth.responsive():
            yield passes
    finally:
        gc.callbacks.remove(note)
    assert gc.get_threshold() == before


def litter(young_passes: int) -> list[list[object]]:
    """Leaves so much behind that the collector looks that often at what is young."""
    kept: list[list[object]] = []
    before = gc.get_count()[2]
    while gc.get_count()[2] < before + young_passes:
        kept.append([kept])
    return kept


def test_a_full_pass_comes_only_when_it_is_asked_for(full: list[int]) -> None:
    gc.collect()
    full.clear()
    kept = litter(smooth.REST_PASSES - 1)
    smooth.at_rest()
    assert not full, f"{len(kept)} objects are not worth one"
    kept += litter(1)
    assert not full
    smooth.at_rest()
    assert full == [2]


async def test_it_comes_while_nobody_types(shown: Open, full: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smooth, "REST_PASSES", 0)
    async with shown(states.READY) as (app, pilot, _):
        await pilot.press("6", "1")
        app.typed_at = time.monotonic() + 3600
        full.clear()
        app.look_at_age()
        assert not full
        app.typed_at -= 2 * 3600
        app.look_at_age()
        assert full == [2]


async def test_a_key_is_somebody_who_types(shown: Open) -> None:
    async with shown(states.READY) as (app, pilot, _):
        app.typed_at, began = 0.0, time.monotonic()
        await pilot.press("6")
        assert app.typed_at >= began
