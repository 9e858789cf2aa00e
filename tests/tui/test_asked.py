"""A cutover is asked about as things stand at that moment, and asked again where something new stands against it."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from textual.widgets import Input

import embedtui.engine
from embedtui.engine.overrides import pass_blockers
from embedtui.errors import Blocked
from embedtui.model import Blocker, Check, Condition, Flip, Hold, RollbackStatus, Snapshot, SyncStatus
from embedtui.model.lifecycle import so_now
from embedtui.tui import panels
from embedtui.tui.dialogs import CutoverDialog
from embedtui.tui.remedies import worded
from embedtui.tui.screens.settings import SettingsScreen
from embedtui.tui.view import Link, View
from tests.tui import states
from tests.tui.conftest import Open, front, picture, present, said, until
from tests.tui.test_screens import toasts

GATE = Blocker("gate", "The gate says INCONCLUSIVE.", "Give a reason.", True)
OLD = Blocker("old_side", "The database refuses to write old vectors.", "Mend that.", True)
AGED = replace(states.EVALUATION, at=states.READY.as_of - timedelta(seconds=75))
CALM = replace(states.READY, evaluation=AGED, sync=SyncStatus())
STORM = replace(
    CALM,
    condition=Condition.THROTTLED,
    reasons=(Hold("provider", "text-embedding-3-large answers 429."),),
    sync=SyncStatus(60, 5.0),
    backfill=replace(CALM.backfill, total=1014, rows=1000),
    rollback=RollbackStatus(False, 46, missing=8),
)
TOLD = (
    "Held back by provider: text-embedding-3-large answers 429.",
    "60 changes wait for new vectors, the oldest for 5 s.", "14 rows have no new vector.",
    "The old side has 46 rows stale, 8 rows without an old vector.",
    "The gate's figures are 1 m 15 s old.",
)  # fmt: skip


@pytest.mark.parametrize(("state", "told"), [(STORM, TOLD), (CALM, ("No change waits for a new vector.", TOLD[-1]))])
def test_what_is_so_now(state: Snapshot, told: tuple[str, ...]) -> None:
    assert [each for each in told if each not in so_now(state)] == []


def field(dialog: CutoverDialog, name: str) -> Input:
    return dialog.query_one(f"#{name}", Input)


def words(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


async def test_the_dialog_says_what_is_so_now_while_it_is_open(shown: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedtui.tui.dialogs.cutover.READ_SECONDS", 0.0)
    async with shown(CALM) as (app, pilot, engine):
        engine.blocked = (GATE,)
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, CutoverDialog))
        await until(pilot, lambda: "No change waits" in words(picture(app)))
        dialog = front(app, CutoverDialog)
        field(dialog, "override").value = "so ordered"
        field(dialog, "typed").value = "documents"
        engine.blocked = (GATE, OLD)
        await present(app, pilot, STORM)
        await until(pilot, lambda: all(each in words(picture(app)) for each in TOLD))
        # what came up since takes a reason of its own, and what was typed stays
        await until(pilot, lambda: bool(dialog.query("#override-old_side")))
        assert dialog.answer() is None and field(dialog, "override").value == "so ordered"
        field(dialog, "override-old_side").value = "it is gone"
        answer = dialog.answer()
        assert answer is not None and answer.override == {"gate": "so ordered", "old_side": "it is gone"}


@pytest.mark.parametrize("postponed", [False, True])
async def test_a_blocker_that_came_up_at_the_last_moment_is_asked_about(
    shown: Open, monkeypatch: pytest.MonkeyPatch, postponed: bool
) -> None:
    sync = Blocker("sync", "60 changes wait.", "", True)
    async with shown(STORM, (160, 45)) as (app, pilot, engine):

        def refuses(*_: object, override: dict[str, str], **__: object) -> Flip:
            engine.calls.append(f"asked {sorted(override)}")
            pass_blockers((GATE, OLD), override)
            return Flip(STORM.route.active, 0, 2, 1.0, True)

        monkeypatch.setattr(engine, "cutover", refuses)
        monkeypatch.setattr(engine, "postpone", refuses, raising=False)
        engine.blocked = (GATE, sync)
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, CutoverDialog))
        dialog = front(app, CutoverDialog)
        field(dialog, "override").value, field(dialog, "typed").value = "so ordered", "documents"
        engine.blocked = (GATE, OLD, sync)
        await pilot.pause()
        await pilot.click("#postpone" if postponed else "#go")
        await until(pilot, lambda: isinstance(app.screen, CutoverDialog) and app.screen is not dialog)
        again = front(app, CutoverDialog)
        await until(pilot, lambda: bool(again.query("#override-old_side")))
        assert (field(again, "override").value, field(again, "typed").value) == ("so ordered", "documents")
        assert "refuses to write old vectors" in said(app) and "--" not in said(app) + "".join(toasts(app))
        field(again, "override-old_side").value = "it is gone"
        await pilot.pause()
        await pilot.click("#postpone" if postponed else "#go")
        await until(pilot, lambda: any("old_side" in each for each in engine.calls))


def test_what_the_command_line_types_is_not_for_the_screen() -> None:
    with pytest.raises(Blocked) as caught:
        pass_blockers((GATE, OLD), {})
    assert caught.value.hint.endswith('Or: --override gate="REASON" --override old_side="REASON"')
    assert caught.value.prose == GATE.hint


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
async def test_in_a_storm_the_dialog_has_its_fields_and_buttons_in_sight(shown: Open, size: tuple[int, int]) -> None:
    async with shown(STORM, size) as (app, pilot, _):
        dialog = CutoverDialog(View(STORM, Link(up=True)), 100, (GATE, OLD))
        app.push_screen(dialog)
        await until(pilot, lambda: app.screen is dialog and bool(dialog.query("#go")))
        await pilot.pause()
        box = dialog.query_one(".dialog").region
        for name in ("typed", "percent", "override", "go"):
            assert box.contains_region(dialog.query_one(f"#{name}").region), name


def test_a_screen_never_says_a_flag() -> None:
    """What stands against an act, and what is worth knowing of it, is said in the screen's words here."""
    engine = Path(embedtui.engine.__path__[0])
    files = [*engine.glob("cleanup/*.py"), *engine.glob("cutover/*.py"), engine / "bridge" / "blockers.py"]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    flagged = [each for each in texts if re.search("(?<![-\\w])--[a-z]", each)]
    assert len(flagged) > 10
    for each in flagged:
        assert not re.search("--[a-z]", re.sub("embedtui [a-z]+ --[a-z-]+", "", worded(each, ()))), each


@pytest.mark.parametrize("width", [36, 38, 48])
def test_the_pointer_s_box_says_every_line_whole_where_it_is_low(width: int) -> None:
    why = "60 changes wait to be synced; edited since 2026-11-28 21:00 UTC, and the old vector left as it was"
    gate = replace(
        states.EVALUATION,
        verdict="INCONCLUSIVE",
        checks=(Check("quality", "unknown", "Few verdicts."), Check("coverage", "fail", "Some lack.")),
        near_void="9 changes to 200 rows since (4.5 % of the 5 % that it bears): it will soon be void",
    )
    state = replace(CALM, evaluation=gate, rollback=RollbackStatus(False, 36, why, missing=14))
    for height in (6, 7, 12):
        said = panels.route(View(state, Link(up=True)), width, height).plain
        assert "…" not in said and "routers" in said and "INCONCLUSIVE" in said and "36" in said, said
        assert (
            "that it bears): it will soon be void" in words(said) or "void" not in said or "! will soon be void" in said
        )


async def test_the_keys_of_the_settings_are_whole_while_they_are_filtered(shown: Open) -> None:
    async with shown(CALM, (80, 24)) as (app, pilot, _):
        await pilot.press("S")
        await until(pilot, lambda: isinstance(app.screen, SettingsScreen) and bool(app.screen.lines))
        await pilot.press("slash")
        await until(pilot, lambda: "Esc clears the filter" in picture(app))
