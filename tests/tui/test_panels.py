"""Panels are pure functions of the view, and say in words what a colour says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.cells import cell_len
from textual.content import Content

from embedtui.cli.work import _rollback, _status_lines
from embedtui.engine.snapshot import with_advice
from embedtui.model import (
    AuditEntry,
    BatchJobStatus,
    BatchStatus,
    Check,
    Condition,
    Hold,
    IndexStatus,
    Interval,
    Phase,
    Remedy,
    RollbackStatus,
    Side,
    Snapshot,
    Spent,
    SyncStatus,
    lifecycle,
)
from embedtui.model.bridge import BridgeFigures, BridgeStatus
from embedtui.model.lifecycle import unneeded
from embedtui.providers.http_errors import _other_key
from embedtui.tui import draw, figures, panels
from embedtui.tui.actions import ACTIONS, footer, next_action
from embedtui.tui.panels.alerts import alert
from embedtui.tui.panels.comparison import summary_line
from embedtui.tui.panels.gate import gate
from embedtui.tui.panels.happened import Entry
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.view import Link, View
from embedtui.tui.widgets import chrome
from embedtui.tui.widgets.panel import Paint
from tests.tui import states

UP = Link(up=True)


PAINTERS = [
    panels.journey, panels.advice, panels.backfill, panels.index, panels.sync, panels.route, panels.holds,
    panels.faults, panels.workers, panels.feed, chrome.header,
]  # fmt: skip


@pytest.mark.parametrize("paint", PAINTERS, ids=lambda paint: paint.__name__)
def test_panels_are_pure_and_never_leave_their_box(paint: Paint) -> None:
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


def test_batch_jobs_are_shown_with_age_eta_and_what_they_save() -> None:
    jobs = (
        BatchJobStatus(1, "batch_a", "in_progress", 50_000, 400, 100, 7200.0),
        BatchJobStatus(2, "batch_b", "validating", 12_000, 100, 50, 3600.0),
    )
    batch = BatchStatus(jobs, 3, 40_000, 4_000_000, 0.26, 0.52)
    text = panels.backfill(View(replace(states.RUNNING, batch=batch), UP), 80, 9).plain
    assert "jobs     2, 62.0k rows, 2 h 00 m old" in text
    assert "ETA" in text
    assert "6 h 00 m" in text, "three times as long again as the older one took for its quarter"
    assert "saved $0.2600" in text
    untold = replace(batch, jobs=(*jobs, BatchJobStatus(3, "", "packed", 5, 1, 0, 1.0)))
    assert untold.eta_seconds is None


def test_the_rate_of_the_eta_is_said_where_it_is_not_the_one_shown() -> None:
    def eta(seconds: float) -> str:
        status = replace(states.BACKFILL, rows=18_551, total=20_000, rate=20.0, eta_seconds=seconds)
        text = panels.backfill(View(replace(states.RUNNING, backfill=status), UP, rates=(1.0, 20.0)), 80, 20).plain
        assert "most seen here: 20 rows/s" in text and "over 20 s" not in text, "dashboards are looked at sooner"
        return next(line for line in text.splitlines() if line.startswith("ETA"))

    assert eta(1449 / 19).endswith(" at the recent rate")
    assert eta(1449 / 8).endswith(" at 8.0 rows/s, holds and limits included")


def test_workers_that_rest_are_not_said_to_be_at_work() -> None:
    worker = replace(states.RUNNING.workers[0], alive=True, in_flight=0, doing="paused")
    for workers, said in (((worker,), "1 paused"), ((worker, replace(worker, id=9, doing="reading")), "2 at work")):
        assert said in panels.workers(View(replace(states.RUNNING, workers=workers), UP), 80, 4).plain


def test_a_provider_that_hangs_is_the_headline_before_the_queue_that_grows_by_it() -> None:
    hold = Hold("provider", "16 requests unanswered; no reply for 45 s (time-out 60 s).")
    grows = replace(states.RUNNING.sync, growing=True)
    hangs = replace(states.RUNNING, condition=Condition.THROTTLED, reasons=(hold,), sync=grows)
    found = alert(hangs)
    assert found is not None and found.word == "Held back" and "no reply for 45 s" in found.why


def test_there_is_always_a_next_action_or_a_reason() -> None:
    for snapshot in states.STATES.values():
        view = View(snapshot, UP)
        text = panels.advice(view, 80, 3).plain
        name, why = next_action(view)
        assert name or why or view.phase.ended
        if name in ACTIONS:
            assert ACTIONS[name].key_text in text


def test_the_footer_has_at_most_seven_keys_and_always_rollback_help_and_quit() -> None:
    screen = DashboardScreen()
    for snapshot in (None, *states.STATES.values()):
        view = View(snapshot, UP)
        keys = screen.keys(view)
        assert len(keys) <= 6
        for width in (80, 100, 160):
            line = chrome.footer(view, keys, width).plain
            over = snapshot is None or snapshot.migration is None or snapshot.phase.ended
            assert ("F9 " in line) != over
            assert ("Roll back" in line) != over
            assert "? Help" in line
            assert "q Quit" in line
            assert cell_len(line) <= width


def test_the_footer_offers_only_what_the_state_has_a_use_for() -> None:
    for name, snapshot in states.STATES.items():
        for key in footer(View(snapshot, UP)):
            command = ACTIONS[key].command
            assert command is None or unneeded(command, snapshot) is None, (name, key)
    assert "cleanup" not in footer(View(states.CANARY, UP)), "only once the new side serves"
    assert "cleanup" in footer(View(states.CUT_OVER, UP))


def test_where_all_is_done_nothing_is_left_to_press() -> None:
    view = View(states.DONE, UP)
    assert footer(view) == ("help", "quit")
    assert next_action(view)[0] == ""
    said = ACTIONS["rollback"].refusal(view)
    assert "dropped by the cleanup" in said and "Complete" not in said and "K" not in said
    begun = replace(states.DONE, phase=Phase.CLEANUP)
    assert "Complete the cleanup: K (Clean up)." in ACTIONS["rollback"].refusal(View(begun, UP))
    kept = replace(states.DONE, migration=replace(states.MIGRATION, phase=Phase.DONE))
    assert "nothing has kept its old vectors current" in ACTIONS["rollback"].refusal(View(kept, UP))
    assert "F9" not in chrome.footer(View(kept, UP), (), 80).plain


def test_the_sides_are_told_by_glyph_and_word_too() -> None:
    assert "◇ old serves" in chrome.serving(View(states.READY, UP)).plain
    assert "◆ new serves" in chrome.serving(View(states.CUT_OVER, UP)).plain
    assert chrome.serving(View(states.CANARY, UP)).plain == "◇ old 90 % · ◆ new 10 %"


def test_a_picture_whose_successor_is_late_says_its_age() -> None:
    late = View(states.RUNNING, Link(up=True, seconds=12.0))
    assert late.stale and "! 12 s old, of " in chrome.header(late, 100).plain
    assert "old, of" not in chrome.header(View(states.RUNNING, UP), 100).plain


def test_rollback_freshness_is_in_words() -> None:
    def words(snapshot: Snapshot) -> str:
        return " ".join(line.plain for line in panels.rollback(View(snapshot, UP), 78))

    assert "✓ fresh" in words(states.CUT_OVER)
    assert "1,204 stale, 73 missing of 520,000 rows" in words(states.STALE)
    assert "no longer answers" in words(states.STALE)
    assert "nothing to roll back" in words(states.RUNNING)
    done = replace(states.DONE, rollback=replace(states.DONE.rollback, why="the old side is gone"))
    assert "the old side is gone" in words(done)
    assert "F9" not in words(done)


def test_rows_that_the_bridge_stands_in_for_are_not_the_old_models() -> None:
    bridged = replace(states.CUT_OVER, rollback=RollbackStatus(False, 0, "it does not answer", 40, rows=520_000))
    line = " ".join(each.plain for each in panels.rollback(View(bridged, UP), 78))
    assert "! 40 bridged" in line and "fresh" not in line
    lost = AuditEntry(states.NOW, "anna", "ops-1", "old model lost", "404")
    assert not Entry.of_audit(lost, bridged).over and Entry.of_audit(lost, states.CUT_OVER).over


def test_a_share_that_is_not_whole_is_never_all() -> None:
    backfill = replace(states.BACKFILL, rows=5053, total=5054)
    live = replace(states.CUT_OVER, backfill=backfill, sync=replace(states.CUT_OVER.sync, queued=1))
    shown = panels.backfill(View(live, UP), 80, 9).plain
    assert "5,053 of 5,054 rows" in shown and "99.9 %" in shown and "100" not in shown


def test_what_is_done_has_no_count_that_nobody_keeps_and_no_limit() -> None:
    done = replace(states.DONE, backfill=replace(states.BACKFILL, rows=5012, total=5012))
    shown = panels.backfill(View(done, UP), 80, 9).plain
    assert "5,012" not in shown and "limit" not in shown and "100" in shown


def test_rows_on_the_way_are_said_alike_wherever_they_are_said() -> None:
    rollback = RollbackStatus(False, 1, "1 change waits to be synced", rows=520_000)
    coming = replace(states.CUT_OVER, rollback=rollback, sync=replace(states.CUT_OVER.sync, queued=1))
    assert "fresh but for 1 on the way" in panels.rollback(View(coming, UP), 78)[0].plain
    assert _rollback(coming) == "fresh but for 1 on the way"
    assert _rollback(replace(coming, sync=replace(coming.sync, queued=0))).startswith("1 row stale")


def test_phases_before_are_done_and_after_are_open() -> None:
    rail = panels.journey(View(states.RUNNING, UP), 160).plain
    assert "✓ prepare" in rail
    assert "● backfill" in rail
    assert "○ index" in rail
    assert "aborted" in panels.journey(View(replace(states.RUNNING, phase=Phase.ABORTED), UP), 80).plain
    assert isinstance(panels.journey(View(), 80), Content)
    assert Side.OLD.other is Side.NEW


def test_in_flight_is_what_is_on_the_wire_and_not_what_is_allowed() -> None:
    backfill = replace(states.BACKFILL, concurrency=16, in_flight=3, requests_per_minute=None, tokens_per_minute=None)
    view = View(replace(states.RUNNING, backfill=backfill), UP)
    shown = panels.backfill(view, 80, 9).plain + panels.workers(view, 80, 9).plain
    assert shown.count("3 in flight") == 2 and "16" not in shown


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_key_that_helps_stands_after_the_sentence_and_is_never_cut_off(width: int) -> None:
    growing = replace(states.RUNNING, sync=SyncStatus(602, 90.0, 1, growing=True))
    said = panels.advice(View(growing, UP), width, 1).plain
    assert said.startswith("! Queue grows: 602 changes wait") and len(said) <= width
    assert "  l " in said[len("! Queue grows: 602 changes wait") :]


def test_the_headline_names_the_cause_and_the_key_with_its_word() -> None:
    hold = Hold("provider", "No connection.", states.NOW)
    growing = replace(states.RUNNING, sync=SyncStatus(108, 90.0, 1, growing=True))
    held = replace(growing, condition=Condition.THROTTLED, reasons=(hold,))
    assert panels.advice(View(held, UP), 80, 1).plain.startswith("! Held back by provider"), "not what comes of it"
    moved = replace(states.RUNNING.route, active=Side.NEW)
    aged = replace(growing, route=moved, old_refused='relation "AuditTrail" does not exist (in function "A".note()).')
    said = panels.advice(View(aged, UP), 80, 1).plain
    assert said.startswith("✗ Old side ages") and len(said) <= 80 and said.rstrip().endswith("Log")
    failed = replace(states.RUNNING, condition=Condition.FAILED, reasons=(Hold("failure", "broken"),))
    assert panels.advice(View(failed, UP), 80, 1).plain.rstrip().endswith("r  Run"), "nobody paused"
    begun = View(failed, UP, busy=("run",))
    assert panels.advice(begun, 80, 1).plain.startswith("◌ Starting")


def test_searches_that_fail_come_before_all_else() -> None:
    """What harms production most is told first, whatever else is wrong; paused or not."""
    growing = replace(states.DEAD, sync=SyncStatus(602, 90.0, 1, growing=True))
    failed = replace(states.FAULTED, old_gone=states.DEAD.old_gone)
    for each in (growing, failed, replace(states.PAUSED, old_gone=states.DEAD.old_gone)):
        said = panels.advice(View(each, UP), 100, 1).plain
        assert said.startswith("✗ Searches fail: text-embedding-004 no longer answers (404).")
        assert said.rstrip().endswith("B  Bridge") and "✗ searches fail" in chrome.header(View(each, UP), 100).plain
    bridging = panels.advice(View(replace(states.BRIDGING, sync=growing.sync), UP), 160, 1).plain
    assert "Searches fail" in bridging and "embedding the sample, 640 of 2,304 rows" in bridging
    bridged = replace(growing, route=replace(growing.route, bridging=True))
    assert panels.advice(View(bridged, UP), 100, 1).plain.startswith("! Queue grows")
    gate = replace(states.READY, old_gone=states.DEAD.old_gone)
    assert panels.advice(View(gate, UP), 100, 1).plain.rstrip().endswith("x  Cut over")


@pytest.mark.parametrize(
    ("names", "until", "key"),
    [
        (("index",), "by index: until it is released.", "I  Release index"),
        (("spend_cap",), "by spend cap: until it is raised.", "l  Limits"),
        (("probe_latency", "spend_cap"), "by slow searches, spend cap: until it is raised.", "l  Limits"),
        (("probe_latency",), "by slow searches: goes on by itself.", "-  Slower"),
    ],
)
def test_what_holds_the_work_back_says_whether_somebody_has_to_lift_it(
    names: tuple[str, ...], until: str, key: str
) -> None:
    holds = tuple(Hold(name, "an operator holds it back", states.NOW) for name in names)
    held = replace(states.RUNNING, condition=Condition.THROTTLED, reasons=holds)
    held = replace(held, migration=replace(states.MIGRATION, index_held="index" in names))
    said = panels.advice(View(held, UP), 100, 1).plain
    assert said.startswith(f"! Held back {until}") and said.rstrip().endswith(key)


def test_both_faces_say_the_same_of_what_comes_next() -> None:
    cap = (Hold("spend_cap", "$2.00 of $2.00", states.NOW),)
    capped = replace(states.READY, condition=Condition.THROTTLED, reasons=cap)
    assert lifecycle.next_action(capped) == ("wait", "Held back by spend cap: until it is raised.")
    for snapshot in (states.READY, states.CANARY):
        name, why = lifecycle.next_action(snapshot)
        assert name == "cutover"
        assert next_action(View(replace(snapshot, next_act=name, next_why=why), UP)) == (name, why)
        assert ("watch them, then move the rest" in why) == bool(snapshot.route.canary)
    before = replace(states.RUNNING, rollback=RollbackStatus(True, rows=9))
    assert _rollback(before) == "nothing to roll back" == panels.rollback(View(before, UP), 80)[0].plain[9:]


def test_one_that_was_aborted_counts_no_rows_and_waits_for_no_index() -> None:
    view = View(replace(states.RUNNING, phase=Phase.ABORTED, index=IndexStatus()), UP)
    assert (
        "planned" not in (said := panels.backfill(view, 80, 9).plain) and "aborted; no more rows are embedded" in said
    )
    assert "not built yet" not in (said := panels.index(view, 80, 9).plain) and "aborted" in said


def test_after_a_rollback_the_side_that_serves_says_what_it_lacks() -> None:
    back = replace(
        states.STALE, route=replace(states.STALE.route, active=Side.OLD), soak_seconds=None, phase=Phase.VALIDATE
    )
    view = View(back, UP)
    said = " ".join(line.plain for line in panels.rollback(view, 100))
    assert said.startswith("old side ! serves 1,204 stale, 73 missing of 520,000 rows, ") and "no longer" in said
    assert "nothing to roll back" not in panels.route(view, 100, 12).plain
    for each in (back, replace(back, condition=Condition.PAUSED)):
        head = panels.advice(View(each, UP), 120, 1).plain
        assert head.startswith("! Old side behind: it serves 1,204 rows stale, 73 rows without an old vector")
    assert _rollback(back).startswith("1,204 rows stale, 73 rows without an old vector")
    mend = replace(back, faults=states.FAULTED.faults, condition=Condition.RUNNING)
    assert panels.advice(View(mend, UP), 120, 1).plain.rstrip().endswith("4  Faults")
    never = replace(back, route=replace(back.route, changed_by=""))
    coming = replace(back, rollback=RollbackStatus(False, 2, "2 changes wait", rows=9), sync=SyncStatus(2, 1.0, 0))
    for each in (never, coming, replace(back, phase=Phase.ABORTED)):
        assert "Old side behind" not in panels.advice(View(each, UP), 120, 1).plain
        assert "nothing to roll back" in panels.rollback(View(each, UP), 100)[0].plain


def test_what_the_old_model_takes_is_shown_apart() -> None:
    whole = states.CUT_OVER.backfill
    new, old = Spent("new model", whole.tokens, whole.spent), Spent("old side", 12_000, 0.0012)
    taken = replace(whole, parts=(new, old, Spent("proof", 4_200, None, 4_200)))
    view = View(replace(states.CUT_OVER, backfill=taken), UP)
    assert "by the new model; 12.0k by the old one" in panels.backfill(view, 80, 12).plain
    said = panels.backfill(view, 100, 12).plain
    assert (
        f"spent    {figures.money((whole.spent or 0) + 0.0012)} and unpriced tokens: new {figures.money(whole.spent)}"
        in said
    )
    assert "old side $0.0012, proof 4,200 tokens" in said
    several = replace(whole, spent=0.0467, estimate=None, cap=None, parts=(
        Spent("new model", 9, 0.0467), Spent("old side", 1, 0.00009), Spent("questions and checks", 2, 0.003),
    ))  # fmt: skip
    for width, told in (
        (100, "new $0.0467, old side under $0.0001, questions and checks $0.0030"),
        (60, "new $0.0467, the rest $0.0031"),
    ):
        one_line = panels.backfill(View(replace(states.CUT_OVER, backfill=several), UP), width, 12)
        assert told in one_line.plain, "what is left out is said as one"
    assert "12.0k old" in (small := panels.backfill(view, 38, 12).plain)
    assert f"spent    {figures.money((whole.spent or 0) + 0.0012)} and unpriced tokens" in small
    early = replace(taken, spent=0.0, parts=(Spent("proof", 4_200, None, 4_200),))
    said = panels.backfill(View(replace(states.CUT_OVER, backfill=early), UP), 100, 12).plain
    assert "and unpriced tokens" in said and "proof 4,200 tokens" in said and "new $0.00" not in said


def test_a_canary_is_told_as_a_share_of_keys_with_that_of_the_searches_beside_it() -> None:
    view = View(states.CANARY, UP, searches=((5.0, 5.0), (30.0, 10.0)))
    assert "canary   10 % of the keys, 25 % of the searches now: each key keeps" in panels.route(view, 100, 12).plain
    assert "10 % of the keys, 25 % of the searches now" in panels.route(view, 60, 12).plain
    assert "10 % of the keys: each key keeps its side" in panels.route(View(states.CANARY, UP), 100, 12).plain
    for width in (38, 42):
        said = " ".join(panels.route(view, width, 12).plain.split())
        assert "25 % of searches" in said or "keys, 25 % searches" in said, "both, however narrow"
    none = replace(view, searches=((0.0, 0.0),))
    assert f"10 % of the keys, {figures.UNKNOWN} of the searches now" in panels.route(none, 100, 12).plain
    assert "of the keys" not in panels.route(View(states.CUT_OVER, UP), 100, 12).plain


@pytest.mark.parametrize("width", [60, 78, 100])
def test_what_to_do_about_a_failure_is_read_whole(width: int) -> None:
    mend = _other_key("OPENAI_API_KEY", "")
    cause = "401: Incorrect API key provided: ***. You can find your API key in your account settings. "
    for reason in (cause + mend, cause * 3 + mend):
        failed = replace(states.RUNNING, condition=Condition.FAILED, reasons=(Hold("failure", reason),))
        said = panels.advice(View(failed, UP), width, 3).plain.splitlines()
        assert len(said) <= 3 and max(map(len, said)) <= width and said[0].startswith("✗ Failed")
        assert mend in " ".join(each.strip() for each in said)


def test_a_start_does_not_hide_what_it_is_for() -> None:
    dead = replace(states.RUNNING, workers=tuple(replace(each, alive=False) for each in states.WORKERS))
    for height in (1, 3):
        said = panels.advice(View(dead, UP, busy=("run",)), 78, height).plain
        assert said.startswith("◌ Starting") and "✗ Worker died: batch-4:902" in said
    fresh = View(replace(states.RUNNING, condition=Condition.IDLE, workers=(), next_act="run"), UP, busy=("run",))
    assert panels.advice(fresh, 78, 1).plain.startswith("◌ Starting"), "and no key that is refused"


def test_what_a_rollback_found_is_a_sentence() -> None:
    assert RollbackStatus(missing=48).sentence == "The old side has 48 rows without an old vector."
    assert RollbackStatus(bridged=5, rows=8).sentence == "The old side has 5 of 8 rows by the bridge."
    assert RollbackStatus().sentence == ""


def test_a_stall_by_429_says_the_pace_and_never_working() -> None:
    hold = Hold("rate", "Now 0 requests and 0 tokens a minute; found: 600 requests.", states.NOW)
    view = View(replace(states.RUNNING, condition=Condition.THROTTLED, reasons=(hold,)), UP)
    said = " ".join(panels.advice(view, 100, 4).plain.split())
    assert "Held back" in said and "Now 0 requests" in said and "found: 600 requests" in said and "Working" not in said


def test_what_serves_through_a_bridge_is_said_with_how_good_it_is() -> None:
    share = Interval(0.87, 0.83, 0.9)
    found = BridgeStatus("ridge", 0.3, 3000, BridgeFigures(share, share, share, 212, 1000))
    bridged = replace(states.RUNNING.route, bridging=True, bridge=1, bridge_found=found)
    text = panels.route(View(replace(states.RUNNING, route=bridged), UP), 120, 9).plain
    assert "finds 87 % of 212 held-out rows' old neighbours" in text
    cut_over = replace(bridged, active=Side.NEW)
    text = panels.route(View(replace(states.RUNNING, route=cut_over), UP), 120, 9).plain
    assert "F9 lands onto the bridge, which finds 87 %" in text and text.count("held-out") == 1


def test_what_is_not_live_is_not_shown_as_if_it_were() -> None:
    """While the database is lost nobody knows who works, how fast, or what holds it."""
    lost = View(states.RUNNING, Link(up=False, problem="The database is lost."))
    shown = "\n".join(each(lost, 80, 10).plain for each in (panels.backfill, panels.workers, panels.holds))
    assert "nothing holds it" not in shown and "in flight" not in shown and "rows/s" not in shown.split("peak")[0]
    assert "at work when last read" in shown and "while the database is lost" in shown
    dead = replace(states.RUNNING, workers=(), backfill=replace(states.BACKFILL, rate=None, eta_seconds=None))
    assert "without a worker" in panels.backfill(View(dead, UP), 80, 10).plain


@pytest.mark.parametrize("width", [34, 60, 100])
def test_the_gates_figures_say_of_which_time_they_are(width: int) -> None:
    made = replace(states.COMPARISON, at=states.ago(seconds=725))
    rows = [each.plain for each in gate(made, View(states.READY, UP), width)]
    assert f"figures of {draw.clock(made.at)}, 12 m 05 s ago" in " ".join(rows[:3])
    assert all(len(each) <= width for each in rows)
    assert "12 m 05 s ago" in summary_line(made, View(states.READY, UP), 150).plain


LOSS = Check(
    "index loss",
    "fail",
    "As served, searches find 61.0 % of the exact top 10: this loss is the index's, not the model's.",
    "hnsw.ef_search = 80 finds 99.0 %: set it for the roles that search, and compare again.",
)
WAITS = Check(
    "freshness", "fail", "0 vectors are of earlier content, 9 changes wait.", "Let sync catch up.", (Remedy.RUN,)
)


def test_a_gate_that_fails_says_why_and_what_mends_it() -> None:
    def failing(*checks: Check) -> Snapshot:
        found = replace(states.EVALUATION, verdict="FAIL", checks=checks)
        return with_advice(replace(states.READY, evaluation=found))

    lost = failing(LOSS, Check("latency", "warn", "p95 5.2 ms."))
    said = " ".join(panels.advice(View(lost, UP), 78, 3).plain.split())
    assert "The gate says FAIL (index loss)" in said and LOSS.hint in said
    route = panels.route(View(lost, UP), 70, 12).plain
    assert "✗ FAIL: index loss" in route and "latency" not in route
    waits = " ".join(panels.advice(View(failing(WAITS), UP), 158, 2).plain.split())
    assert "r (Work" in waits or "r (Run)" in waits
    printed = "\n".join(_status_lines(lost))
    assert f"fail index loss: {LOSS.detail} {LOSS.hint}" in printed and "warn latency" in printed
    assert states.PAUSED.migration is not None and any(worker.alive for worker in states.PAUSED.workers)
    paused = replace(failing(WAITS), condition=Condition.PAUSED, migration=states.PAUSED.migration)
    printed = "\n".join(_status_lines(with_advice(paused)))
    assert "Let sync catch up: `embedtui resume`" in printed and "embedtui run" not in printed
    judged = replace(states.COMPARISON, verdict="FAIL", checks=(Check("index", "warn", "Small."), LOSS))
    assert "✗ FAIL: index loss" in summary_line(judged, View(lost, UP), 100).plain
    rows = [each.plain for each in gate(judged, View(lost, UP), 60)]
    assert [each.split()[1] for each in rows if each[:1] in "✗!" and " to look at" not in each] == ["fail", "warn"]


def test_the_gates_view_of_the_table_has_the_present_one_beside_it() -> None:
    checks = (
        Check("coverage", "pass", "520,000 of 520,000 rows with content have a new vector (100.0 %)."),
        WAITS,
        Check("faults", "pass", "No row has an undecided fault."),
    )
    made = replace(states.COMPARISON, at=states.ago(seconds=725), checks=checks)

    def now(snapshot: Snapshot) -> list[str]:
        return [each.plain.strip() for each in gate(made, View(snapshot, UP), 70) if "now:" in each.plain]

    same = replace(states.READY, sync=SyncStatus(9, 3.0, 1))
    assert now(same) == []
    backfill = replace(same.backfill, rows=519_000)
    other = replace(same, sync=SyncStatus(1, 3.0, 1), faults=states.FAULTS, backfill=backfill)
    assert now(other) == [
        "now: 1 change waits", "now: 519,000 of 520,000 rows with content", "now: 226 rows have an undecided fault",
    ]  # fmt: skip
    for phase in (Phase.DONE, Phase.ABORTED):
        assert now(replace(other, phase=phase)) == [f"now: nothing waits: the migration is {phase}"]
    planned = now(replace(other, phase=Phase.BACKFILL))
    assert not any("content" in each for each in planned), "planned rows are others, and counted before"


def test_what_a_void_evaluation_asked_for_and_is_done_is_not_asked_for() -> None:
    checks = (
        Check("coverage", "fail", "2,032 of 5,013 rows.", "Let the backfill run to its end.", (Remedy.RUN,)),
        Check("index", "fail", "The new side has no approximate index.", "Build it.", (Remedy.RUN,)),
        WAITS,
    )
    full = replace(states.READY.backfill, rows=5_000, total=5_000)
    done = replace(states.READY, backfill=full, index=replace(states.READY.index, valid=True), sync=SyncStatus(0, None))
    void = replace(done, evaluation=replace(states.EVALUATION, valid=False, why_void="x", checks=checks))

    def said(snapshot: Snapshot) -> str:
        lines = gate(replace(states.COMPARISON, checks=checks), View(snapshot, UP), 100)
        return " ".join(each.plain for each in lines)

    assert said(void).count("Done since. Compare again: c (Compare)") == 3 and "(Run)" not in said(void)
    assert "\n".join(_status_lines(void)).count("`embedtui compare`") == 3
    lacks = replace(void, backfill=replace(full, rows=4_000))
    assert "Let the backfill run to its end" in said(lacks) and said(lacks).count("Done since") == 1


def test_latency_is_the_routers_own_where_they_tell() -> None:
    """The slowest one's; a side that nobody searches is unknown; without any, the newest comparison's."""

    def told(*pairs: tuple[tuple[float, float] | None, tuple[float, float] | None], width: int = 90) -> str:
        one = states.CUT_OVER.route.listeners[0]
        heard = tuple(replace(one, pid=i, latency_old_ms=old, latency_new_ms=new) for i, (old, new) in enumerate(pairs))
        shown = replace(states.CUT_OVER, route=replace(states.CUT_OVER.route, listeners=heard))
        lines = panels.backfill(View(shown, UP), width, 12).plain.splitlines()
        return " ".join(next(each for each in lines if each.startswith("latency")).split())

    assert (
        told(((1.0, 9.0), (2.0, 3.0))) == "latency ◇ 1.0, 9.0 ms ◆ 2.0, 3.0 ms p50, p95 of the Router's last searches"
    )
    slowest = told(((1.0, 9.0), None), ((4.0, 5.0), None), (None, None))
    assert slowest == "latency ◇ 4.0, 9.0 ms ◆ — p50, p95 of the slowest Router's last searches"
    assert "comparison of" in told((None, None)) and "comparison of" in told()
    assert told(((2.4, 6.2), (2.0, 12.4)), width=36) == "latency ◇ 2.4, 6.2 ◆ 2.0, 12.4 ms", "whole, however narrow"
    assert told(((2.4, 6.2), None), width=36) == "latency ◇ 2.4, 6.2 ms ◆ — last"


def test_which_side_is_behind_is_read_whole() -> None:
    behind = replace(
        states.CUT_OVER, sync=SyncStatus(0, None, 9), rollback=RollbackStatus(False, 3, "acme-v1 does not answer")
    )
    for width, said in ((60, "! old side 3 rows behind; new side in sync"), (36, "! old 3 rows behind; new in sync")):
        assert panels.sync(View(behind, UP), width, 4).plain.splitlines()[0] == said


def test_a_soak_promises_no_rollback_that_is_not_there() -> None:
    fresh = panels.advice(View(states.CUT_OVER, UP), 100, 2).plain
    assert "F9 rolls back at once" in fresh
    behind = replace(
        states.CUT_OVER, rollback=RollbackStatus(False, 24, "acme-v1 does not answer", missing=21, rows=500)
    )
    told = panels.advice(View(behind, UP), 100, 2).plain
    assert "at once" not in told and "F9 rolls back to a side that is behind by 45 rows" in told


def test_what_is_under_way_is_not_offered_anew() -> None:
    cleaning = replace(states.STALE, phase=Phase.CLEANUP, next_act="cleanup", next_why="Go on with it.")
    told = panels.advice(View(cleaning, UP, busy=("cleanup",)), 100, 2).plain
    assert told.startswith("● Clean up is under way") and "Next" not in told


@pytest.mark.parametrize("width", [80, 160])
def test_who_locks_the_work_out_is_in_the_headline_at_any_width(width: int) -> None:
    way = "let it end, or SELECT pg_terminate_backend(4711)"
    detail = f"pid 4711 (nightly) locks public.documents, since 12:00:00 UTC; {way}"
    locked = replace(states.THROTTLED, reasons=(Hold("lock", detail, states.NOW),))
    said = panels.advice(View(locked, UP), width, 1).plain
    assert said.startswith("! Locked out: pid 4711 (nightly) locks public.documents")
    assert width == 80 or "pg_terminate_backend(4711)" in said


@pytest.mark.parametrize("share", [0.0, 0.31, 0.46, 0.5, 0.86, 1.0])
@pytest.mark.parametrize("holder", ["", "pid 2213 “nightly-report”"])
def test_the_share_of_writes_says_what_it_is_a_share_of(share: float, holder: str) -> None:
    """It is of those that stay on their page, also where they are few."""
    found = replace(states.RUNNING, backfill=replace(states.BACKFILL, hot_share=share, hot_holder=holder))
    for width in (38, 60, 90):
        told = next(line for line in panels.backfill(View(found, UP), width, 20).plain.split("\n") if "writes" in line)
        assert f"{figures.percent(share)} stay" in told and "leave" not in told
        assert ("!" in told) == (share < 0.5)
        assert (holder[:8] in told) == (share < 0.5 or not holder)


@pytest.mark.parametrize(("stale", "missing"), [(15, 0), (0, 1), (3, 4)])
def test_the_sides_are_not_in_sync_while_the_old_one_is_behind(stale: int, missing: int) -> None:
    """Where the old model does not answer, what is noted for its side waits in no queue of the new one."""
    rollback = RollbackStatus(False, stale, "acme-v1 does not answer", missing=missing, rows=500)
    behind = replace(states.CUT_OVER, rollback=rollback, sync=SyncStatus(queued=0, synced=9))
    told, line = (
        panels.sync(View(behind, UP), 50, 4).plain,
        next(line for line in _status_lines(behind) if line.startswith("Sync")),
    )
    rows = "1 row behind" if stale + missing == 1 else f"{stale + missing} rows behind"
    assert f"old side {rows}; new side in sync" in told and "✓" not in told and line.endswith(f"old side {rows}")
    fresh = replace(behind, rollback=states.CUT_OVER.rollback)
    assert "✓ in sync" in panels.sync(View(fresh, UP), 50, 4).plain


@pytest.mark.parametrize("state", [states.CUT_OVER, states.STALE], ids=["fresh", "stale"])
@pytest.mark.parametrize("width", [80, 160])
def test_where_the_database_is_lost_no_state_is_told_as_the_present_one(state: Snapshot, width: int) -> None:
    up, lost = (View(state, link) for link in (UP, Link(up=False, since=states.NOW, seconds=9.0, problem="gone")))
    head, word = chrome.header(lost, width).plain, f"{state.condition} {state.phase}"
    assert f"● {word}" in chrome.header(up, width).plain and f"● {word}" not in head
    assert (f"when last read: {word}" in head) == (width > 100)
    told = panels.route(lost, width, 20).plain
    assert "when last read" in next(line for line in told.split("\n") if line.startswith("soaking"))
    back = next(line for line in told.split("\n") if line.startswith("rollback"))
    assert "✓" not in back and "F9 at any time" not in told
    assert ("fresh when last read" in back) == (state is states.CUT_OVER)


def test_what_verify_took_is_not_told_as_questions() -> None:
    """Rows that are embedded again and compared are counted beside the queries."""
    parts = (Spent("new model", 10, 1.0), Spent("questions and checks", 5, 0.5))
    spent = replace(states.RUNNING, backfill=replace(states.BACKFILL, parts=parts, spent=1.0))
    told = [*_status_lines(spent), panels.backfill(View(spent, UP), 120, 20).plain]
    assert sum("questions and checks $0.50" in each for each in told) == 2


def test_a_row_with_a_fault_on_either_side_is_one_row() -> None:
    group = replace(states.FAULTS[0], count=2, old=1, both=1)
    one = replace(states.FAULTED, faults=(group,))
    assert one.faulty == 1 and panels.faults(View(one, UP), 60, 4).plain.split()[-1] == "1"
    assert next(line for line in _status_lines(one) if line.startswith("Faults")).split()[1] == "1"


def test_status_says_that_the_last_worker_died() -> None:
    gone = replace(states.WORKERS[2], doing="embedding", heartbeat_seconds=24.0)
    dead = replace(states.RUNNING, workers=(gone,), condition=Condition.IDLE)
    told = next(line for line in _status_lines(dead) if line.startswith("Worker"))
    assert told.split(maxsplit=1)[1] == "batch-4:902 DIED, last heard of 24 s ago: was embedding"
    assert "DIED" not in "\n".join(_status_lines(states.RUNNING))


@pytest.mark.parametrize(("width", "height"), [(38, 7), (76, 11)])
def test_judged_rows_that_moved_are_said_beside_ndcg(width: int, height: int) -> None:
    moved = "12 judged rows edited, 3 deleted since"
    found = replace(states.EVALUATION, judged_moved=moved)
    said = " ".join(panels.route(View(replace(states.READY, evaluation=found), UP), width, height).plain.split())
    assert "nDCG" in said and (moved if width > 40 else "12 edited, 3 deleted since") in said
