"""Nothing of ours is cut: at every width, in every state, an ellipsis stands for somebody else's words only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from rich.cells import cell_len
from textual.content import Content

from embedtui.known import KNOWN_MODELS
from embedtui.model import Hold, Noted, RankedRow, Snapshot, WorkerStatus
from embedtui.tui import draw, figures, panels
from embedtui.tui.actions import SCREENS
from embedtui.tui.panels import setup
from embedtui.tui.panels.alerts import alert
from embedtui.tui.panels.comparison import summary_line
from embedtui.tui.panels.settings import setting_detail, setting_line
from embedtui.tui.searches import SearchMeter
from embedtui.tui.view import Link, Trouble, View
from embedtui.tui.widgets import chrome
from embedtui.tui.widgets.listing import Listing
from embedtui.tui.widgets.rankings import said_of
from tests.tui import states
from tests.tui.conftest import Open
from tests.tui.engine_words import doings
from tests.tui.setup_states import PROPOSAL, SETTINGS

UP = Link(up=True)
PANELS: dict[str, tuple[Callable[[View, int, int], Content], tuple[int, ...]]] = {
    "header": (chrome.header, (80, 100, 160, 240)),
    "journey": (panels.journey, (78, 98, 158)),
    "advice": (panels.advice, (78, 98, 158)),
    # a box of half a small screen, of half a large one, of a third, of a quarter, of all
    **{
        name: (panel, (38, 44, 48, 50, 77, 156))
        for name, panel in {
            "backfill": panels.backfill, "route": panels.route, "index": panels.index, "holds": panels.holds,
            "sync": panels.sync, "faults": panels.faults, "workers": panels.workers,
        }.items()
    },
}  # fmt: skip
HEIGHTS = (1, 2, 4, 7, 11, 20)
SHOWN = 8
"""Characters before an ellipsis that have to be somebody else's."""


def foreign(value: object) -> Iterator[str]:
    """Every text in a snapshot that is not written by the screen: reasons, names, what a provider or server said."""
    if isinstance(value, Hold):  # the rest of what it says is the engine's own
        yield from foreign((value.name, value.cause))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from foreign(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from foreign(each)
    elif isinstance(value, str):
        yield " ".join(value.split())


def cut_words(text: str, theirs: str) -> list[str]:
    """Lines in which an ellipsis follows words that are the screen's own."""
    found = []
    for line in text.splitlines():
        tails = [line[:at].rstrip()[-SHOWN:].strip(" │─●") for at, character in enumerate(line) if character == "…"]
        if "more line" not in line and any(tail not in theirs for tail in tails):
            found.append(line)
    return found


@pytest.mark.parametrize("state", states.WORDY)
@pytest.mark.parametrize("name", PANELS)
def test_no_word_of_the_screens_own_is_cut(name: str, state: str) -> None:
    snapshot: Snapshot = states.WORDY[state]
    paint, widths = PANELS[name]
    found = alert(snapshot)
    theirs = " ".join([*foreign(snapshot), *([found.why] if found and snapshot.reasons else [])])
    view = View(snapshot, UP, rates=(900.0, 1_284.0), searches=((3.0, 27.5), (2.0, 31.0)), running=state == "running")
    wrong = {
        (width, height): cut
        for width in widths
        for height in HEIGHTS
        if (cut := cut_words(paint(view, width, height).plain, theirs))
    }
    assert not wrong, wrong


@pytest.mark.parametrize("width", [78, 98, 158])
def test_the_summary_of_a_comparison_fits(width: int) -> None:
    view = View(states.READY, UP)
    assert "…" not in summary_line(states.COMPARISON, view, width).plain
    older = replace(states.READY, evaluation=replace(states.EVALUATION, valid=False, why_void="compared other models"))
    assert "void of" in summary_line(states.COMPARISON, View(older, UP), width).plain


@pytest.mark.parametrize("width", [34, 52, 68, 70, 90, 150])
def test_no_word_of_set_ups_own_is_cut(width: int) -> None:
    """What the fields mean, what is refused, and every setting with its comment, in the widths of their dialogs."""
    trouble = Trouble("Table", "documents has 3 text columns: title, body, author.", "Say which: --content-sql. " * 12)
    painted = {
        "source": setup.source_lines(PROPOSAL, width),
        "target": setup.model_lines(PROPOSAL, "text-embedding-3-large", width),
        "unknown": setup.model_lines(PROPOSAL, "house-model", width),
        "refused": setup.refused_lines(trouble, width),
        **{f"way {each}": setup.way_lines(PROPOSAL, each, width) for each in setup.STRATEGIES},
        **{f"setting {line.path}": setting_detail(line, width) for line in SETTINGS.lines},
        **{f"fixed {line.path}": setting_detail(replace(line, fixed=_LONGEST), width) for line in SETTINGS.lines},
    }
    theirs = " ".join([*foreign(PROPOSAL), *foreign(SETTINGS)])
    wrong = {name: cut for name, rows in painted.items() if (cut := cut_words(draw.lines(rows).plain, theirs))}
    assert not wrong, wrong


_LONGEST = "it is part of what is migrated: fixed since that began, until it ends or is aborted."


@pytest.mark.parametrize("width", [72, 108, 150])
def test_no_name_of_a_setting_or_a_model_is_cut_in_its_list(width: int) -> None:
    for line in SETTINGS.lines:
        assert f"{line.path} " in setting_line(line, width).plain
    for name, known in KNOWN_MODELS.items():
        assert setup.model_line(name, known, 54).plain.startswith(f"{name} "), name


HOSTS = ("vm", "ip-10-0-12-17.eu-central-1.compute.internal")


@pytest.mark.parametrize("width", [38, 48, 77, 156])
@pytest.mark.parametrize("host", HOSTS)
def test_what_a_worker_does_is_never_half_said(host: str, width: int) -> None:
    """The engine's own words are ours: a snapshot brings them, and its samples are short."""
    found = doings()
    assert len(found) > 25 and "waiting: other threads finish" in found
    for own in (True, False):
        for doing in found:
            at_work = WorkerStatus(1, host, 41_207, doing, states.NOW, 0.8, True, rows=5_218_400, own=own)
            view = View(replace(states.RUNNING, workers=(at_work,)), UP)
            told = panels.workers(view, width, 3).plain
            assert not cut_words(told, host), told
            assert doing.split()[0].rstrip(":") in told, told


@pytest.mark.parametrize("length", range(1, 30))
@pytest.mark.parametrize("edited", [False, True])
def test_a_result_fills_its_column(length: int, edited: bool) -> None:
    """Whatever its title leaves of it: the rule between the sides stays straight."""
    row = RankedRow(("1",), 1, 0.5, "t" * length + " and what it says", None, title="t" * length, edited=edited)
    for roomy in (False, True):
        assert sum(cell_len(text) for text, _ in said_of(row, 20, "", roomy=roomy)) == 20


@pytest.mark.parametrize("width", [20, 38, 77])
def test_a_line_is_cut_between_words(width: int) -> None:
    """Also of texts of somebody else's, and in the last of several lines."""
    text = "reading the blocks of the articles and of everything else that is in there " * 4
    for told in (
        draw.cut(Content(text), width).plain,
        draw.row(Content(text), Content("1,024 rows"), width + 11).plain.removesuffix("1,024 rows").rstrip(),
        draw.whole(text, width),
        draw.wrapped(text, width, "", 2)[-1].plain,
    ):
        assert len(told) <= width and told.endswith("…")
        assert told.removesuffix("…").split()[-1] in text.split(), told
    assert draw.cut(Content("a" * 30), 20).plain == "a" * 19 + "…"


@pytest.mark.parametrize("width", [38, 48, 77])
@pytest.mark.parametrize("height", [1, 2, 4, 7])
def test_an_event_is_told_whole_where_there_is_room(width: int, height: int) -> None:
    told = "Provider: 429 from text-embedding-3-large, tokens of this minute used up; goes on in 21 s"
    view = View(replace(states.RUNNING, log=()), UP, events=(Noted(states.NOW, told),))
    lines = [each[11:].rstrip() for each in panels.feed(view, width, height).plain.splitlines()]
    assert len(lines) <= height
    said = " ".join(lines)
    assert said == told if height > 3 else told.startswith(said.removesuffix("…").rstrip())
    assert said.removesuffix("…").split()[-1] in told.split()


VOID = tuple(
    replace(states.READY, evaluation=replace(states.EVALUATION, valid=False, why_void=why))
    for why in (
        "more than 10 % of the rows have changed since",
        "the new side's index was built anew, with other options than those that were compared",
    )
)


@pytest.mark.parametrize("width", PANELS["route"][1])
def test_why_an_evaluation_is_void_is_said_in_full(width: int) -> None:
    """The engine's own sentences are ours as well, though a snapshot brings them."""
    for snapshot in VOID:
        assert snapshot.evaluation is not None
        told = " ".join(panels.route(View(snapshot, UP), width, 20).plain.split())
        assert snapshot.evaluation.why_void in told


@pytest.mark.parametrize("size", [(80, 24), (100, 30), (160, 45), (240, 60)], ids=str)
async def test_what_lists_say_of_nothing_is_said_in_full(shown: Open, size: tuple[int, int]) -> None:
    async with shown(replace(states.FRESH), size) as (app, pilot, _):
        for name in SCREENS:
            app.goto(name)
            await pilot.pause()
            for listing in app.screen.query(Listing):
                if listing.empty and listing.size and not listing.count:
                    told = "".join(listing.render_line(y).text for y in range(listing.size.height))
                    assert " ".join(listing.empty.split()) == " ".join(told.split()), name


def test_an_ellipsis_after_own_words_is_found() -> None:
    """The search itself finds what it is made for."""
    assert cut_words("rollback ✓ fresh of 520,000 rows  F9…", "documents anna") == [
        "rollback ✓ fresh of 520,000 rows  F9…"
    ]
    assert not cut_words("waits for “nightly-rep…", "pid 2213 “nightly-report”")


@pytest.mark.parametrize(
    ("text", "width", "kept"),
    [
        ("Nothing is changed yet. 7 shows the plan: checks, SQL.", 30, "Nothing is changed yet."),
        ("10 % of reads use it: watch them.", 24, "10 % of reads use it"),
        ("short", 24, "short"),
        ("nowhereapersonwouldpause", 10, "nowherea…"),
    ],
)
def test_a_line_ends_where_a_person_would_pause(text: str, width: int, kept: str) -> None:
    assert draw.whole(text, width).rstrip() == (kept if "…" not in kept else text[: width - 1] + "…")


def test_searches_are_counted_by_router() -> None:
    """One that comes, or goes, is no burst of searches."""
    meter, found = SearchMeter(), None
    first, second, third = states.LISTENERS
    for step in range(16):
        seen = tuple(
            replace(each, searches_old=each.searches_old + 4 * step, searches_new=10 * step)
            for each in ((first, second) if step < 6 else (first, third))
        )
        found = meter.add(
            replace(
                states.RUNNING,
                as_of=states.ago(seconds=60 - step),
                route=replace(states.RUNNING.route, listeners=seen),
            )
        )
    assert found == (8.0, 20.0)


def test_after_a_flip_searches_are_counted_anew() -> None:
    """Also those of a Router that hears of it later."""
    meter, (first, *_) = SearchMeter(), states.LISTENERS
    rates = []
    for second in range(30):
        moved = second > 10
        told = max(0, second - 12)  # it follows two seconds later
        seen = replace(first, epoch=4 if told else 3, searches_old=5 * (second - told), searches_new=7 * told)
        route = replace(states.RUNNING.route, epoch=4 if moved else 3, listeners=(seen,))
        rates.append(meter.add(replace(states.RUNNING, as_of=states.ago(seconds=60 - second), route=route)))
    assert rates[10] == (5.0, 0.0) and rates[11] is None
    assert set(rates[13:]) == {None, (0.0, 7.0)} and rates[17] == (0.0, 7.0)
    view = View(states.CANARY, UP, searches=((5.0, 0.0),), counting=True)
    assert f"{figures.UNKNOWN} of the searches now" in panels.route(view, 100, 12).plain
    assert "◇ —  ◆ —  not counted yet" in panels.backfill(view, 100, 12).plain
