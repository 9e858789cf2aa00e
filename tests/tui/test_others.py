"""What others do is on this screen within a poll, with who and where; what needs somebody is the headline."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import psycopg
import pytest
from textual.pilot import Pilot

from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.engine.backfill.episodes import Episodes
from embedtui.model import AuditEntry, Event, Failed, FaultClass, Held, Hold, Noted, Phase, hold_word
from embedtui.tui import terminal
from embedtui.tui.app import Dashboard
from embedtui.tui.panels.happened import Entry, gathered
from embedtui.tui.screens.compare import CompareScreen
from embedtui.tui.screens.help import HelpScreen
from embedtui.tui.words import WORDS
from tests.kits.support import make_documents, settings_for
from tests.tui import states
from tests.tui.conftest import Open, front, picture, present, said, until
from tests.tui.test_journey import compared, dashboard, ready, seen
from tests.tui.test_snapshots import EVENTS

ROWS = 60

OTHER = """
import sys, threading
from pathlib import Path
from embedtui.config import load_settings
from embedtui.engine import Engine
flags = {"table": "documents", "old_model.name": "old-model", "accept": ["proof"]}
engine = Engine(sys.argv[1], settings=load_settings(flags, cwd=Path(sys.argv[2])))
exec(sys.argv[3])
engine.close()
"""


class Other:
    """Another operator's process, on another host as far as it says."""

    def __init__(self, database: str, api: LoopbackServer, folder: Path) -> None:
        self._database, self._folder = database, folder
        self._environ = {
            "DATABASE_URL": database, "OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url,
            "EMBED_MODEL": "new-model", "EMBED_DIMENSIONS": "16", "EMBEDTUI_OPERATOR": "anna",
            "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "HOME": str(folder),
        }  # fmt: skip

    def does(self, act: str) -> None:
        command = [sys.executable, "-c", OTHER, self._database, str(self._folder), act]
        subprocess.run(command, env=self._environ, check=True, capture_output=True, timeout=120)


async def told(app: Dashboard, pilot: Pilot[None], what: str) -> None:
    """Said in the corner, with who it was, and among the events of Overview."""
    await until(pilot, lambda: what in said(app))
    messages = {each.message for each in app._notifications if what in each.message}
    assert all(message.startswith("anna@") for message in messages), messages
    app.goto("overview")
    await until(pilot, lambda: what in picture(app))


async def test_what_another_terminal_does_is_here_within_a_poll(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, ROWS, index=True)
    async with dashboard(database, api, tmp_path, size=(160, 45)) as (app, pilot):
        await ready(app, pilot)
        await pilot.press("c")
        await until(pilot, lambda: app.comparison is not None and "compare" not in app.view.busy, 60)
        await until(pilot, lambda: any(each.own and each.act == "evaluation" for each in seen(app).log))
        await pilot.pause()
        assert "@" not in said(app), "one's own acts are told once"
        mine = compared(app).evaluation_id
        other = Other(database, api, tmp_path)

        # chosen here, the query stays chosen under another terminal's comparison
        await pilot.press("2", "down", "down")
        chosen = front(app, CompareScreen).shown[2].query_id
        other.does("engine.compare(k=5)")
        await until(pilot, lambda: compared(app).evaluation_id != mine)
        listing = front(app, CompareScreen)
        assert listing.shown[listing.listing.cursor].query_id == chosen
        assert "older" not in picture(app)
        await told(app, pilot, "evaluation: ")

        other.does("engine.pause('lunch')")
        await told(app, pilot, "pause: lunch")
        other.does("engine.resume()")
        await told(app, pilot, "resume")
        other.does("engine.cutover(10, override={'gate': 'test'})")
        await told(app, pilot, "canary: 10 %")
        other.does("engine.rollback()")
        await told(app, pilot, "rollback: ")
        rollback = next(each for each in app._notifications if " · rollback" in each.message)
        assert rollback.severity == "warning"

        # the state moves on under a comparison: it says that it is void, and so does the gate
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("UPDATE documents SET content = content || ' more' WHERE id <= 30")
        await until(pilot, lambda: seen(app).evaluation is not None and not seen(app).evaluation.valid)  # type: ignore[union-attr]
        await pilot.press("2")
        await until(pilot, lambda: ", void" in picture(app) and "changes to" in picture(app))
        await pilot.press("3")
        await until(pilot, lambda: "! void, of " in picture(app))


async def test_a_worker_that_died_is_the_headline_with_the_key_that_helps(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, ROWS)
    work = subprocess.Popen(
        [sys.executable, "-c", OTHER, database, str(tmp_path), "engine.run(threading.Event(), follow=True)"],
        env={**Other(database, api, tmp_path)._environ},
    )
    try:
        app = Dashboard(
            lambda sink: Engine(database, settings=settings_for(database, api, tmp_path), on_event=sink),
            remember=False,
            interval=0.1,
        )
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: app.snapshot is not None and seen(app).phase is Phase.VALIDATE, 60)
            await until(pilot, lambda: [worker.alive for worker in seen(app).workers] == [True])
            rung: list[str] = []
            app.call_for = rung.append  # type: ignore[method-assign]
            work.kill()
            await until(pilot, lambda: "Worker died" in picture(app))
            assert f":{work.pid}" in picture(app)
            assert " r " in picture(app)
            await pilot.resize_terminal(160, 45)
            await until(pilot, lambda: "nothing keeps the new side in sync" in picture(app))
            assert "died" in said(app)
            assert len(rung) == 1 and "worker died" in rung[0]
    finally:
        work.kill()
        work.wait()


async def test_a_hold_is_the_headline_with_the_key_that_helps(shown: Open) -> None:
    async with shown(states.RATE_LIMITED) as (app, pilot, _):
        headline = next(line for line in picture(app).splitlines() if "! Held back by" in line)
        assert " l " in headline.partition("Held back by")[2], "the sentence is whole, and the key stands after it"
        await present(app, pilot, states.RUNNING)
        assert "Held back" not in picture(app)
        # at the limit it goes on: no alarm
        limit = Hold("pace", "Runs at the limit of 200,000 tokens a minute.", states.NOW)
        await present(app, pilot, replace(states.RUNNING, reasons=(limit,)))
        assert "Held back" not in picture(app) and "Runs at" in picture(app)


async def test_a_press_moves_the_limit_and_not_what_a_start_allows_as_yet(shown: Open) -> None:
    limit = Hold("pace", "Runs at the limit of 200,000 tokens a minute.", states.NOW)
    starting = replace(states.RUNNING, reasons=(limit,), backfill=replace(states.BACKFILL, concurrency=1))
    async with shown(starting) as (app, pilot, engine):
        await pilot.press("minus", "plus")
        await until(pilot, lambda: "more" in said(app).lower())
        assert [call for call in engine.calls if "concurrency" in call] == [
            "change_concurrency -1",
            "change_concurrency 1",
        ]
        useless = "More do not help while it runs at the limit of 200,000 tokens a minute."
        assert "at most 5." in said(app) and f"at most 7. {useless}" in said(app) and said(app).count("More") == 1
        await pilot.press("5")
        await until(pilot, lambda: "in flight ≤6 (1 for now)" in picture(app))
        engine.step = 0
        await pilot.press("minus")
        await until(pilot, lambda: "at most 6, at the least already" in said(app))


@pytest.mark.parametrize("notify", [True, False])
async def test_somebody_is_called_once_for_what_does_not_go_on_by_itself(shown: Open, notify: bool) -> None:
    async with shown(states.RUNNING, notify=notify) as (app, pilot, _):
        rung: list[str] = []
        app.call_for = rung.append  # type: ignore[method-assign]
        for snapshot in (states.THROTTLED, states.FAULTED, states.FAULTED, states.RUNNING, states.FAULTED):
            await present(app, pilot, snapshot)
            await present(app, pilot, states.THROTTLED if snapshot is states.RUNNING else snapshot)
        assert len(rung) == (2 if notify else 0), rung
        assert all("OPENAI_API_KEY is not accepted" in each for each in rung)


@pytest.mark.parametrize(
    ("term", "program", "sequence"),
    [
        ("xterm-256color", "iTerm.app", "\x1b]9;embedtui: documents; failed\x07"),
        ("foot", "", "\x1b]777;notify;embedtui;documents, failed\x1b\\"),
        ("xterm-ghostty", "ghostty", "\x1b]777;notify;embedtui;documents, failed\x1b\\"),
        ("linux", "", ""),
        ("", "", ""),
    ],
)
def test_a_terminal_is_asked_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, term: str, program: str, sequence: str
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("TERM_PROGRAM", program)
    assert terminal.notification("embedtui", "documents; failed") == sequence


async def test_a_picture_whose_successor_is_late_is_grey_and_says_its_age(shown: Open) -> None:
    async with shown(states.READY) as (app, pilot, _):
        app.bridge.interval, app.taken_at = 0.1, time.monotonic() - 30
        await until(pilot, lambda: " s old, of " in picture(app) and app.screen.has_class("-stale"))
        await present(app, pilot, states.READY)
        await until(pilot, lambda: " s old, of " not in picture(app) and not app.screen.has_class("-stale"))


def test_what_is_over_is_not_red_any_more() -> None:
    failed = next(each for each in EVENTS if "rejected" in each.text)
    assert Entry.of_event(failed, states.FAULTED).look == ("✗", "$error")
    assert Entry.of_event(failed, states.READY).look == ("!", "$muted"), "and no tick: it was no good news"
    # whether searches fail still, no snapshot tells
    searches = Failed(states.ago(seconds=50), "The application's searches fail: old was shut down")
    assert Entry.of_event(searches, states.READY).look == ("✗", "$error")
    limited = Failed(states.ago(seconds=50), "Provider: 429: slow down", FaultClass.PROVIDER)
    assert Entry.of_event(limited, states.RATE_LIMITED).look == ("✗", "$error"), "that hold is in force"


def test_a_failure_that_paused_the_work_is_told_once() -> None:
    paused = AuditEntry(states.ago(seconds=9), "anna", "ops-1", "pause", "401: wrong key. Mend it.")
    failed = Failed(states.ago(seconds=10), "401: wrong key.", FaultClass.CONFIGURATION, "Mend it.")
    assert [each.text for each in gathered([paused], [failed], None)] == [f"pause: {paused.detail}"]
    again = replace(failed, at=states.ago(seconds=1000))
    assert len(gathered([paused], [again], None)) == 2


def test_what_the_audit_log_says_in_the_same_words_is_told_once() -> None:
    changed = AuditEntry(states.ago(seconds=9), "anna", "ops-1", "settings", "gate.max_drift 0.05 → 0.1")
    event = Noted(states.ago(seconds=10), f"Settings: {changed.detail}")
    assert [each.text for each in gathered([changed], [event], None)] == [f"settings: {changed.detail}"]
    others = [replace(event, text="Settings: gate.max_drift 0.1 → 0.2"), replace(event, at=states.ago(seconds=1000))]
    assert len(gathered([changed], others, None)) == 3


def test_a_hold_is_told_once_by_the_event_until_the_audit_log_has_it() -> None:
    began, ended = states.ago(seconds=60), states.ago(seconds=40)
    hold = Hold("replica_lag", "standby is 40 s behind", began)
    held = Held(began, "Held: replica lag: standby is 40 s behind", (hold,), ("replica_lag",))
    again = replace(held, at=states.ago(seconds=50))
    free = Held(ended, "No longer held after 20 s: replica lag", (), ("replica_lag",))
    since = f"from {began.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    told_of = Episodes()
    told_of.begin(hold.name, hold.detail, began)
    [(act, name, detail)] = told_of.due()
    assert since in detail
    first = AuditEntry(states.ago(seconds=57), "anna", "ops-1", act, f"{hold_word(name)}: {detail}")
    last = AuditEntry(states.ago(seconds=10), "anna", "ops-1", "over", f"replica lag: 20 s, {since} to 01:00:00 UTC")

    def told(log: list[AuditEntry], *events: Event) -> list[str]:
        return [each.text.partition(":")[0] for each in gathered(log, events, None)]

    assert told([], held) == ["Held"], "while the audit log has nothing of it"
    assert told([first], held, again, free) == ["held", "No longer held after 20 s"]
    assert told([last, first], held, again, free) == ["held", "over"]
    later = replace(held, at=states.ago(seconds=5))
    assert told([last, first], later) == ["held", "over", "Held"], "another one"
    other = replace(held, names=("lock_waits",), holds=(replace(hold, name="lock_waits"),))
    assert told([last, first], other) == ["Held", "held", "over"]


async def test_the_words_are_explained(shown: Open) -> None:
    async with shown(states.READY) as (app, pilot, _):
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.press("w")
        await until(pilot, lambda: "canary" in picture(app))
        for word in ("HOT", "RBO", "epoch", "canary", "overlap", "nDCG", "differ much"):
            assert word in dict(WORDS)
        await pilot.press("w")
        await until(pilot, lambda: "canary " not in picture(app))
