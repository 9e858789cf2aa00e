"""Untrusted text is harmless, figures are honest, and every act has its key, its words and its reason."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from textual.content import Content

import embedtui.tui
from embedtui.model import IndexMethod, Phase, Side
from embedtui.tui import acts, draw, panels, safe
from embedtui.tui.app import Dashboard
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.screens.help import HelpScreen, key_text
from embedtui.tui.view import Link, View
from embedtui.tui.widgets import chrome
from tests.tui import states
from tests.tui.conftest import Open

UP = Link(up=True)


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\x1b]52;c;ZXZpbA==\x07paste", "·]52;c;ZXZpbA==·paste"),
        ("\x1b[2Jgone", "·[2Jgone"),
        ("user\u202egpj.exe", "usergpj.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("\x9b31mC1", "·31mC1"),
        ("e\u0301\u0301\u0301\u0301\u0301\u0301", "e\u0301\u0301\u0301"),
        ("\ud800 lone", "· lone"),
        ("héllo 你好", "héllo 你好"),
        ("[bold]not markup[/]", "[bold]not markup[/]"),
    ],
)
def test_untrusted_text_is_neutralised(text: str, harmless: str) -> None:
    assert safe.line(text) == harmless


def test_long_text_is_cut_before_it_is_looked_at() -> None:
    assert len(safe.line("x" * 10_000_000, 100)) == 100
    assert safe.line("ü" * 10_000, 100).endswith("…")


def test_line_breaks_stay_in_a_block() -> None:
    assert safe.block("a\r\nb\rc\td\x00") == "a\nb\nc    d·"


def test_markup_in_a_document_is_shown_and_not_obeyed() -> None:
    assert draw.line(("[/] [red]x[/red]", "$old")).plain == "[/] [red]x[/red]"


@pytest.mark.parametrize(
    ("share", "shown"),
    [(None, "—"), (0.0, "0 %"), (0.9999, "99 %"), (1.0, "100 %"), (0.57, "57 %"), (0.29, "29 %")],
)
def test_a_percentage_says_100_only_when_all_is_done(share: float | None, shown: str) -> None:
    assert draw.percent(share) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "—"), (0, "0 s"), (59.6, "1 m 00 s"), (125, "2 m 05 s"), (12_000, "3 h 20 m"), (180_000, "2 d 2 h")],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert draw.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "—"), (0, "$0.00"), (0.0453, "$0.0453"), (1234.56, "$1,235"), (12.5, "$12.50")]
)
def test_money(value: float | None, shown: str) -> None:
    assert draw.money(value) == shown


@pytest.mark.parametrize("share", [None, 0.0, 0.001, 0.5, 0.9999, 1.0, 1.64])
def test_a_bar_keeps_its_width_and_is_full_only_at_the_end(share: float | None) -> None:
    bar = draw.bar(share, 20, "$new").plain
    assert cell_len(bar) == 20
    assert (bar == "━" * 20) == (share is not None and share >= 1)


def test_a_chart_has_its_size_whatever_the_values() -> None:
    for values in ([], [0.0], [1.0, 5.0, 2.0], [3.0] * 500):
        rows = draw.chart(values, 30, 4, "$new")
        assert [cell_len(row.plain) for row in rows] == [30] * 4


PAINTERS = [
    panels.journey, panels.advice, panels.backfill, panels.index, panels.sync, panels.route, panels.holds,
    panels.faults, panels.workers, panels.feed, chrome.header,
]  # fmt: skip


@pytest.mark.parametrize("paint", PAINTERS, ids=lambda paint: paint.__name__)
def test_panels_are_pure_and_never_leave_their_box(paint: panels.Paint) -> None:
    """Every state, known and unknown, at any size: no line is wider than the panel, and no call changes the next."""
    hostile = replace(states.MIGRATION, table=replace(states.MIGRATION.table, name="[red]\x1b[2J\u202e" * 9))
    views = [View(), View(link=Link(False, states.NOW, 3.0, "gone", "hint"))]
    views += [View(snapshot, UP, (1.0, 2.0, 3.0)) for snapshot in states.STATES.values()]
    views += [View(replace(states.RUNNING, migration=hostile), UP), View(states.RUNNING, Link(False, states.NOW, 9.0))]
    for view in views:
        for width, height in ((1, 1), (12, 2), (38, 7), (80, 5), (238, 30)):
            content = paint(view, width, height)
            assert content.is_same(paint(view, width, height))
            if paint is not panels.feed and width > 12:
                assert all(cell_len(line) <= width for line in content.plain.split("\n")), content.plain
            assert "\x1b" not in content.plain


def test_there_is_always_a_next_act_or_a_reason() -> None:
    for snapshot in states.STATES.values():
        view = View(snapshot, UP)
        text = panels.advice(view, 80, 3).plain
        name, why = acts.next_act(view)
        assert name or why or view.phase.ended
        if name in acts.ACTS:
            assert acts.ACTS[name].key_text in text


def test_the_footer_has_at_most_seven_keys_and_always_rollback_help_and_quit() -> None:
    screen = DashboardScreen()
    for snapshot in (None, *states.STATES.values()):
        view = View(snapshot, UP)
        keys = screen.keys(view)
        assert len(keys) <= 6
        for width in (80, 100, 160):
            line = chrome.footer(view, keys, width).plain
            assert "F9 " in line and "Roll back" in line and "? Help" in line and "q Quit" in line
            assert cell_len(line) <= width


def test_impossible_acts_say_why() -> None:
    running, fresh, done = View(states.RUNNING, UP), View(states.FRESH, UP), View(states.DONE, UP)
    assert "backfill comes first" in acts.refusal("cutover", running)
    assert "run it first" in acts.refusal("pause", fresh)
    assert "done" in acts.refusal("run", done)
    assert "Roll back first" in acts.refusal("abort", View(states.CUT_OVER, UP)).replace("roll", "Roll")
    assert "already" in acts.refusal("cutover", View(states.CUT_OVER, UP))
    assert "after the cutover" in acts.refusal("cleanup", running)
    assert acts.refusal("run", View()) and not acts.refusal("quit", View())
    no_index = replace(states.RUNNING, migration=replace(states.MIGRATION, index_method=IndexMethod.NONE))
    assert "exact" in acts.refusal("index", View(no_index, UP))


def test_readonly_refuses_every_act_that_changes_anything() -> None:
    view = View(states.CUT_OVER, UP, readonly=True)
    for name, act in acts.ACTS.items():
        assert bool(acts.refusal(name, view)) == act.changes


def test_rollback_is_possible_even_while_the_screen_has_lost_the_database() -> None:
    lost = View(states.CUT_OVER, Link(False, states.NOW, 5.0, "gone"))
    assert not acts.refusal("rollback", lost)
    assert acts.refusal("pause", lost)


def test_toggles_follow_the_state() -> None:
    assert acts.label("pause", View(states.RUNNING, UP)) == "Pause"
    assert acts.label("pause", View(states.PAUSED, UP)) == "Resume"


def test_no_key_has_two_meanings() -> None:
    keys = [act.key for act in acts.ACTS.values()] + [key for key, _ in acts.SCREENS.values()]
    assert len(keys) == len(set(keys))
    for factory in Dashboard.MODES.values():
        screen = factory()
        own = set(screen._bindings.key_to_bindings) - {"ctrl+c", "super+c", "tab", "shift+tab", "escape"}
        assert not own & set(keys), f"{screen} takes a key of the app"


async def test_every_binding_is_in_the_help(shown: Open) -> None:
    async with shown(states.READY) as (app, pilot, _):
        for name in acts.SCREENS:
            app.action_goto(name)
            await pilot.pause()
            screen = app.screen
            assert isinstance(screen, DashboardScreen)
            text = HelpScreen(screen).text(100).plain
            assert len(screen.keys(app.view)) <= 6, "and rollback is the seventh"
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


def test_widgets_read_no_database_and_know_no_engine() -> None:
    """Only the bridge is handed an engine; nothing under tui/ imports psycopg or what is below the engine."""
    folder = Path(embedtui.tui.__file__).parent
    for path in folder.rglob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
        forbidden = ("psycopg", "embedtui.engine", "embedtui.postgres", "embedtui.providers", "openai")
        assert not [name for name in imported if name.startswith(forbidden)], path


def test_the_sides_are_told_by_glyph_and_word_too() -> None:
    assert "◇ old serves" in chrome.serving(View(states.READY, UP)).plain
    assert "◆ new serves" in chrome.serving(View(states.CUT_OVER, UP)).plain
    assert chrome.serving(View(states.CANARY, UP)).plain == "◇ old 90 % · ◆ new 10 %"


def test_rollback_freshness_is_in_words() -> None:
    def words(snapshot: object) -> str:
        return " ".join(line.plain for line in panels.rollback(View(snapshot, UP), 78))  # type: ignore[arg-type]

    assert "✓ fresh" in words(states.CUT_OVER)
    assert "1,204 rows stale" in words(states.STALE) and "no longer answers" in words(states.STALE)
    assert "nothing to roll back" in words(states.RUNNING)
    done = replace(states.DONE, rollback=replace(states.DONE.rollback, why="the old side is gone"))
    assert "the old side is gone" in words(done) and "F9" not in words(done)


def test_phases_before_are_done_and_after_are_open() -> None:
    rail = panels.journey(View(states.RUNNING, UP), 160).plain
    assert "✓ prepare" in rail and "● backfill" in rail and "○ index" in rail
    assert "aborted" in panels.journey(View(replace(states.RUNNING, phase=Phase.ABORTED), UP), 80).plain
    assert isinstance(panels.journey(View(), 80), Content)
    assert Side.OLD.other is Side.NEW
