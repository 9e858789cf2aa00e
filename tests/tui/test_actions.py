"""Every action has its key, its words and its reason."""

from __future__ import annotations

from dataclasses import replace

import click

from embedtui.cli.main import cli
from embedtui.engine.snapshot import with_advice
from embedtui.model import IndexMethod, Remedy
from embedtui.tui import panels
from embedtui.tui.actions import ACTIONS, SCREENS, footer
from embedtui.tui.app import Dashboard
from embedtui.tui.remedies import worded
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.screens.help import HelpScreen, key_text
from embedtui.tui.view import Link, View
from tests.tui import states
from tests.tui.conftest import Open

UP = Link(up=True)


def test_impossible_actions_say_why() -> None:
    running, fresh, done = View(states.RUNNING, UP), View(states.FRESH, UP), View(states.DONE, UP)
    assert "needs validate" in ACTIONS["cutover"].refusal(running)
    assert "Start it" in ACTIONS["pause"].refusal(fresh)
    assert "done" in ACTIONS["run"].refusal(done)
    assert "Roll back first" in ACTIONS["abort"].refusal(View(states.CUT_OVER, UP)).replace("roll", "Roll")
    assert "already" in ACTIONS["cutover"].refusal(View(states.CUT_OVER, UP))
    assert "does not serve yet" in ACTIONS["cleanup"].refusal(running)
    assert ACTIONS["run"].refusal(View())
    assert not ACTIONS["quit"].refusal(View())
    no_index = replace(states.RUNNING, migration=replace(states.MIGRATION, index_method=IndexMethod.NONE))
    assert "exact" in ACTIONS["index"].refusal(View(no_index, UP))


def test_readonly_refuses_every_action_that_changes_anything() -> None:
    view = View(states.CUT_OVER, UP, readonly=True)
    for action in ACTIONS.values():
        assert bool(action.refusal(view)) == action.changes


def test_rollback_is_possible_even_while_the_screen_has_lost_the_database() -> None:
    lost = View(states.CUT_OVER, Link(False, states.NOW, 5.0, "gone"))
    assert not ACTIONS["rollback"].refusal(lost)
    assert ACTIONS["pause"].refusal(lost)


def test_toggles_follow_the_state() -> None:
    assert ACTIONS["pause"].label_now(View(states.RUNNING, UP)) == "Pause"
    assert ACTIONS["pause"].label_now(View(states.PAUSED, UP)) == "Resume"


def test_no_key_has_two_meanings() -> None:
    keys = [act.key for act in ACTIONS.values()] + [key for key, _ in SCREENS.values()]
    assert len(keys) == len(set(keys))
    for factory in Dashboard.MODES.values():
        screen = factory()
        own = set(screen._bindings.key_to_bindings) - {"ctrl+c", "super+c", "tab", "shift+tab", "escape"}
        assert not own & set(keys), f"{screen} takes a key of the app"


async def test_every_binding_is_in_the_help(shown: Open) -> None:
    async with shown(states.READY) as (app, pilot, _):
        for name in SCREENS:
            app.goto(name)
            await pilot.pause()
            screen = app.screen
            assert isinstance(screen, DashboardScreen)
            text = HelpScreen(screen).text(100).plain
            for source in (app, screen):
                for bindings in source._bindings.key_to_bindings.values():
                    for binding in bindings:
                        if binding.system or binding.action in ("screen.copy_text", "command_palette", "help_quit"):
                            continue
                        if binding.action.startswith("app.focus"):
                            continue
                        assert key_text(binding.key_display or binding.key) in text, binding
                        if binding.description != "Leave":
                            assert binding.description.split()[0] in text, binding


def test_every_remedy_has_a_key_here_and_a_command_there() -> None:
    """The engine names what mends something as data; this face says it by its keys."""
    for remedy in Remedy:
        assert worded("", [remedy]).endswith(")."), remedy
        assert cli.get_command(click.Context(cli), remedy.split()[0]), remedy
    assert worded("Build it", [Remedy.RUN]) == "Build it: r (Run)."
    assert worded("Queue them.", [Remedy.REPAIR, Remedy.RUN]) == "Queue them: v (Verify), then r (Run)."
    assert worded("Ask it for one vector.", [Remedy.ASK]) == "Ask it for one vector: a (Ask models)."
    assert worded("Lift that", [Remedy.RESUME]) == "Lift that: p (Resume)."
    assert worded("Wait \x1b[2J", ()) == "Wait ·[2J"


def test_every_action_has_one_key_one_label_and_one_sentence_of_help() -> None:
    for name, action in ACTIONS.items():
        assert action.name == name
        assert action.key
        assert action.label
        assert action.help.endswith(".")
        assert "\n" not in action.help


def test_a_failure_without_a_worker_offers_to_try_again() -> None:
    """A resume lifts the pause and nobody works; a run does both, by the settings as they are now."""
    failed = replace(states.FAULTED, workers=tuple(replace(each, alive=False) for each in states.WORKERS))
    gone, alive = (View(with_advice(each), UP) for each in (failed, states.FAULTED))
    assert footer(gone)[:2] == ("run", "pause") and footer(alive)[0] == "pause" and "run" not in footer(alive)
    assert panels.advice(gone, 78, 3).plain.split()[:4] == ["✗", "Failed", "r", "Run"]
    assert panels.advice(alive, 78, 3).plain.split()[:4] == ["✗", "Failed", "p", "Resume"]
