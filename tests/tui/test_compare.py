"""The Compare screen: the query's words in the document, notes and sums of verdicts, and a move is one picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot

from embedtui.model import Check, Phase, RankedRow, Side, SweepPoint
from embedtui.tui.app import Dashboard
from embedtui.tui.blind import Blind
from embedtui.tui.dialogs import PromptDialog
from embedtui.tui.messages import Compared, QuerySearched, TaskStarted
from embedtui.tui.panels.comparison import as_text, headline, marked, summary_line, whereabouts
from embedtui.tui.panels.gate import gate
from embedtui.tui.panels.measures import measure_lines
from embedtui.tui.screens.compare import CompareScreen
from embedtui.tui.view import Link, View
from embedtui.tui.widgets.document import Document
from embedtui.tui.widgets.rankings import Rankings, move, score, tied
from embedtui.tui.words import WORDS
from tests.tui import states
from tests.tui.conftest import Open, front, painting, picture, present, said, until

LONG = 60.0


async def opened(app: Dashboard, pilot: Pilot[None]) -> CompareScreen:
    await pilot.press("2")
    await until(pilot, lambda: app.comparison is not None, LONG)
    assert isinstance(app.screen, CompareScreen)
    return app.screen


async def shows(app: Dashboard, pilot: Pilot[None], text: str) -> None:
    await until(pilot, lambda: text in picture(app), LONG)


def test_the_querys_words_are_marked_in_the_document() -> None:
    text = "The GATEWAY rotates keys; gateways do not. [b]Keys[/b] of a gateway_x, an über-key."
    found = marked(text, "gateway keys, [b] the Über of")
    assert found.plain == text, "untrusted text is not markup"
    assert [text[span.start : span.end] for span in found.spans] == ["GATEWAY", "keys", "Keys", "über"]
    assert {str(span.style) for span in found.spans} == {"bold underline"}
    assert not marked(text, "").spans


def test_what_became_of_a_result_is_told_by_glyph_word_and_colour() -> None:
    row = RankedRow(("1",), 4, 0.5, "x", 2)
    told = [
        move(row, Side.NEW),
        move(row, Side.OLD),
        move(replace(row, other_rank=4), Side.NEW),
        move(replace(row, other_rank=None), Side.NEW),
        move(replace(row, other_rank=None), Side.OLD),
    ]
    assert [each[:2] for each in told] == [
        ("↓", "down 2"), ("↑", "up 2"), ("=", "same"), ("+", "entered"), ("−", "left"),
    ]  # fmt: skip
    assert len({style for _, _, style in told}) == 5


@pytest.mark.parametrize(
    ("distance", "cells", "text"),
    [(0.12345, 5, "0.123"), (0.12345, 4, "0.12"), (123.456, 5, "123.5"), (1e6, 4, "1000000")],
)
def test_a_score_has_the_decimals_that_fit(distance: float, cells: int, text: str) -> None:
    assert score(distance, cells) == text


def test_a_documents_place_on_both_sides() -> None:
    query = states.QUERIES[0]
    shared = next(row for row in query.new if row.other_rank is not None)
    assert whereabouts(shared, query).plain == (
        f"Document {shared.key[0]}  ◇ {shared.other_rank} at {query.old[0].distance:.3f}"
        f"  ◆ {shared.rank} at {shared.distance:.3f}"
    )
    entered = replace(next(row for row in query.new if row.other_rank is None), missed=True)
    told = whereabouts(entered, replace(query, new=(entered,))).plain
    assert "◇ not there" in told
    assert f"◆ ! {entered.rank} at " in told, "short, and not where a title is cut"


def test_the_headline_has_verdict_and_note() -> None:
    query = replace(states.QUERIES[0], verdict="old", note="knows\x1b the manual")
    assert headline(query, Blind()).plain == f"“{query.text}”  ◇ old better: knows· the manual"
    assert headline(replace(query, verdict=""), Blind()).plain == f"“{query.text}”"
    long = replace(query, text="how do I rotate keys " * 6, verdict="same", note="")
    assert headline(long, Blind(), 150).plain == f"“{long.text}”  = same", "as much as there is room for"
    assert "…”  = same" in headline(long, Blind(), 90).plain


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
async def test_the_lists_say_how_they_were_searched_and_what_the_index_missed(
    shown: Open, size: tuple[int, int]
) -> None:
    first, *others = states.QUERIES
    lost = replace(first, text="a question that is long " * 5, new=(replace(first.new[0], missed=True), *first.new[1:]))
    async with shown(states.READY, size) as (app, pilot, engine):
        engine.comparison = replace(states.COMPARISON, queries=(lost, *others))
        await opened(app, pilot)
        await shows(app, pilot, "! missed by the index")
        text = picture(app)
        assert "◇ old, exact" in text and "◆ new, exact" in text
        rows = [each for each in text.splitlines() if " 1 ★ ! " in each]
        assert len(rows) == 1, "the hit has the mark, and keeps its title"
        assert first.new[0].text[:9] in rows[0]
        await pilot.press("down")
        await until(pilot, lambda: "missed by the index" not in picture(app), LONG)
        measures = replace(states.MEASURES, basis="served")
        app.post_message(Compared(replace(engine.comparison, measures=measures, evaluation_id=9)))
        await shows(app, pilot, "◆ new, as served")


@pytest.mark.parametrize("leave", ["m", "escape"])
async def test_figures_and_back_is_where_one_was(shown: Open, leave: str) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        screen = await opened(app, pilot)
        for part in (screen.listing, screen.query_one(Rankings), screen.query_one(Document)):
            part.focus()
            await pilot.press("m")
            await until(pilot, lambda part=part: part.region.height == 0 and screen.focused is not part, LONG)
            await pilot.press(leave)
            await until(pilot, lambda part=part: part.region.height and screen.focused is part, LONG)


def test_verdicts_that_the_gate_is_yet_to_count_are_said_with_the_key() -> None:
    def told(since: int | None, width: int) -> str:
        assert states.READY.evaluation is not None
        found = replace(states.READY, evaluation=replace(states.READY.evaluation, verdicts_since=since))
        view = View(found, Link(up=True))
        rows = (summary_line(states.COMPARISON, view, width), *gate(states.COMPARISON, view, 60))
        return "\n".join(each.plain for each in rows)

    for width in (78, 158):
        assert told(3, width).count("! 3 verdicts since: c has the gate count them") == 2
        assert "verdicts changed since" in told(0, width)
        assert "since: c" not in told(None, width)


def test_measures_say_what_the_gate_says() -> None:
    said = Check("quality", "pass", "Different, not worse: 54 % of the results differ, nDCG@10 …")
    sweep = (SweepPoint("hnsw.ef_search", 80, 0.97, 1.0, 2.0),)
    judged = replace(states.COMPARISON, checks=(said,), measures=replace(states.MEASURES, sweep=sweep))
    text = "\n".join(line.plain for line in measure_lines(judged, 46))
    for words in ("Different, not worse", "MRR", "52 % changed", "2.0 % of the exact results lost", "2.1, 4.8 ms"):
        assert words in text
    assert "hnsw.ef_search 80: 97 % found at 2.0 ms" in " ".join(text.split())
    bare = replace(states.MEASURES, judged=0, ndcg_old=None, ndcg_new=None, unknown=("How real queries fare",))
    lines = [line.plain for line in measure_lines(replace(judged, measures=bare), 46)]
    assert "different, not worse" in "\n".join(lines)
    assert lines.index("? How real queries fare") < lines.index("queries by overlap"), "cut off last"


@pytest.mark.parametrize("width", [42, 46, 77, 90, 158])
def test_no_figure_is_cut_where_it_can_go_on_below(width: int) -> None:
    sweep = tuple(SweepPoint("hnsw.ef_search", value, 0.94, 1.0, 1_234.5) for value in (40, 10_000))
    rows = measure_lines(replace(states.COMPARISON, measures=replace(states.MEASURES, sweep=sweep)), width)
    text = "\n".join(line.plain for line in rows)
    assert "…" not in text
    assert all(line.cell_length <= width for line in rows)
    assert "hnsw.ef_search 10,000: 94 %" in text and "1234.5 ms" in text and "90–100 %" in text


def test_among_equal_distances_nothing_moves() -> None:
    """What is at one distance may come in any order: only a row that surely moved has an arrow."""
    old = tuple(RankedRow((str(key),), rank, 0.337, "x") for rank, key in enumerate((1, 2, 3, 4, 5), 1))
    new = tuple(
        RankedRow((str(key),), rank, 0.9 if key == 1 else 0.2, "x") for rank, key in enumerate((5, 4, 3, 2, 1), 1)
    )
    assert all(tied(row, old, new) for row in old), "among five equals any may have been last before"
    assert [tied(row, new, old) for row in new] == [True] * 5
    surely = tuple(replace(row, distance=0.1 if row.rank == 1 else 0.337) for row in old)
    assert [tied(row, surely, new) for row in surely] == [False, True, True, True, True], "the first was the last"
    apart = tuple(replace(row, distance=row.rank / 10) for row in new)
    assert not any(tied(row, apart, apart) for row in apart)
    assert not tied(replace(old[0], key=("9",)), old, new), "it came or went"


async def test_one_escape_takes_back_one_thing(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        screen = await opened(app, pilot)
        asked = replace(states.QUERIES[1], query_id=0, text="mine")
        screen.on_query_searched(QuerySearched(asked))
        await until(pilot, lambda: "Own query" in picture(app) and "New better" not in picture(app), LONG)
        await pilot.press("slash", *"mine", "enter", "m")
        await until(pilot, lambda: "Of all queries compared, not of this one" in picture(app), LONG)
        await pilot.press("escape")
        assert not screen.has_class("-figures") and screen.words == ("mine",)
        await pilot.press("escape")
        await until(pilot, lambda: not screen.filtered)
        assert screen.asked is asked
        await pilot.press("escape")
        await until(pilot, lambda: screen.asked is None and len(screen.shown) == len(states.QUERIES))


async def test_what_is_said_of_an_empty_list_is_whole_and_follows_the_state(shown: Open) -> None:
    async with shown(replace(states.READY, evaluation=None), (160, 45)) as (app, pilot, _):
        await pilot.press("2")
        await until(pilot, lambda: "Press c" in picture(app) and "own." in picture(app), LONG)
        screen = front(app, CompareScreen)
        app._busy = ("compare",)
        app.show()
        await until(pilot, lambda: "the queries appear here" in picture(app), LONG)
        assert "Press c" not in picture(app)
        app._busy = ()
        await present(app, pilot, replace(states.DONE, evaluation=None))
        await until(pilot, lambda: "Press c" not in picture(app) and "is done" in screen.listing.empty, LONG)


async def test_the_columns_of_the_list_have_names(shown: Open) -> None:
    async with shown(states.READY, (160, 45)) as (app, pilot, _):
        await opened(app, pilot)
        await shows(app, pilot, "gain, verdict")
        row = next(line for line in picture(app).splitlines() if "shared      query" in line)
        assert row.index("query") == next(
            line.index(states.QUERIES[0].text[:10]) for line in picture(app).splitlines() if "▌" in line
        )
    assert {"gain", "tied", "verdict"} <= {word for word, _ in WORDS}


async def test_moving_to_the_next_query_is_one_picture_and_fetches_nothing(shown: Open) -> None:
    async with shown(states.READY, (160, 45)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        painted = await painting(app, pilot)
        engine.calls.clear()
        for number in range(1, 6):
            painted.clear()
            await pilot.press("down")
            query = states.QUERIES[number]
            await shows(app, pilot, f"“{query.text}”")
            await until(pilot, lambda: painted, LONG)
            assert len(painted) == 1, "list, rankings and document change together"
            assert screen.query_one(Document).text.plain == query.new[0].text
        assert not engine.calls


async def test_the_document_follows_the_cursor_and_scrolls(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        screen = await opened(app, pilot)
        document = screen.query_one(Document)
        await pilot.press("tab", "down", "left")
        row = screen.query_one(Rankings).pointed
        assert row is not None
        assert row in states.COMPARISON.queries[0].old
        await until(pilot, lambda: document.text.plain == row.text, LONG)
        assert document.virtual_size.height > document.size.height
        document.focus()
        await pilot.press("end")
        await until(pilot, lambda: document.scroll_offset.y > 0, LONG)
        screen.query_one(Rankings).focus()
        await pilot.press("up")
        await until(pilot, lambda: document.scroll_offset.y == 0, LONG)


async def test_a_verdict_takes_a_note(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        await pilot.press("down", "e")
        assert "No verdict on this query yet" in said(app)
        await pilot.press("o")
        assert screen.listing.cursor != 1 and not screen.shown[screen.listing.cursor].verdict, "on to the next without"
        await pilot.press("home", "down", "e")
        await until(pilot, lambda: isinstance(app.screen, PromptDialog), LONG)
        assert "old better: “customer paid twice”" in picture(app)
        await pilot.press(*"no refund", "enter")
        await until(pilot, lambda: "decide 2 old no refund" in engine.calls, LONG)
        await until(pilot, lambda: app.screen is screen, LONG)
        await until(pilot, lambda: "“customer paid twice”  ◇ old better: no refund" in picture(app), LONG)
        await pilot.press("o")
        await until(pilot, lambda: engine.calls.count("decide 2 old no refund") == 2, LONG)


async def test_right_after_a_verdict_note_and_taking_back_are_about_it(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        await pilot.press("down", "o", "e")
        await until(pilot, lambda: isinstance(app.screen, PromptDialog), LONG)
        assert "old better: “customer paid twice”" in picture(app)
        await pilot.press(*"no refund", "enter")
        await until(pilot, lambda: "decide 2 old no refund" in engine.calls, LONG)
        await until(pilot, lambda: app.screen is screen, LONG)
        await pilot.press("backspace")
        await until(pilot, lambda: engine.calls[-1].strip() == "decide 2", LONG)
        assert screen.listing.cursor == 1 and not screen.shown[1].verdict
        await pilot.press("o", "home")
        assert screen._judged is (screen.shown[0] if screen.shown[0].verdict else None), "only right after it"


async def test_what_is_taken_back_is_not_told_by_its_place_in_the_list(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        await pilot.press("slash", *"paid twice", "enter")
        await until(pilot, lambda: len(screen.shown) == 1, LONG)
        await pilot.press("o", "escape", "home")
        await until(pilot, lambda: len(screen.shown) > 1, LONG)
        screen.shown[0] = replace(screen.shown[0], verdict="")
        await pilot.press("backspace")
        assert "No verdict on this query yet" in said(app)
        assert "decide 2" not in engine.calls


async def test_coming_back_shows_the_rows_as_they_are_now_and_keeps_verdicts(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        first = screen.shown[0]
        await pilot.press("down", "o", "1")
        now = replace(first, new=(replace(first.new[0], edited=True), *first.new[1:]))
        queries = tuple(now if each.query_id == now.query_id else each for each in states.COMPARISON.queries)
        engine.comparison = replace(states.COMPARISON, queries=queries)
        await pilot.press("2")
        await until(pilot, lambda: screen.shown[0].new[0].edited, LONG)
        assert screen.shown[1].verdict == "old"


async def test_what_a_key_did_is_not_held_back_by_its_task(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        await opened(app, pilot)
        await until(pilot, lambda: not app._batch_count)
        app.on_task_started(TaskStarted("decide", ""))
        assert not app._batch_count


async def test_verdicts_given_upwards_overwrite_none_unsaid(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        screen.shown = [replace(query, verdict="") for query in screen.shown]
        last = [query.query_id for query in screen.shown[-3:]]
        await pilot.press("end", "n", "up", "n", "up", "o")
        given = [f"decide {last[2]} new", f"decide {last[1]} new", f"decide {last[0]} old"]
        await until(pilot, lambda: [call for call in engine.calls if call.startswith("decide")] == given, LONG)
        assert "replaces" not in said(app)
        await pilot.press("s")
        assert "replaces “old better”" in said(app)


async def test_small_screens_have_all_measures_too(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        await opened(app, pilot)
        assert "RBO" not in picture(app)
        await pilot.press("m")
        await until(pilot, lambda: "RBO" in picture(app) and "90–100 %" in picture(app), LONG)
        assert "│ ◆ new" not in picture(app)
        await pilot.press("m")
        await until(pilot, lambda: "RBO" not in picture(app) and "│ ◆ new" in picture(app), LONG)


async def test_the_bridges_ranking_has_its_place_at_any_width(shown: Open) -> None:
    """Side by side where there is room, else in turns; the cursor goes over all and keeps to its document."""
    async with shown(states.READY, (160, 45)) as (app, pilot, engine):
        app.comparison = engine.comparison = states.COMPARISON_BRIDGED
        await pilot.press("2")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))
        screen = front(app, CompareScreen)
        await until(pilot, lambda: screen.shown)
        rankings = screen.query_one(Rankings)
        await until(pilot, lambda: rankings.columns == ("old", "bridged", "new"))
        assert "◇ old" in picture(app) and "◈ bridged" in picture(app) and "◆ new" in picture(app)
        await pilot.press("tab", "left")
        first = states.COMPARISON_BRIDGED.queries[0]
        assert rankings.pointed in first.bridged and rankings.pointed.key == first.new[0].key
        await pilot.press("left")
        assert rankings.pointed in first.old and rankings.pointed.key == first.new[0].key
        await pilot.press("left", "right", "right", "right")
        assert rankings.pointed in states.COMPARISON_BRIDGED.queries[0].new

        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: rankings.columns == ("old", "new"))
        await pilot.press("d")
        assert rankings.columns == ("bridged", "new") and "◈ bridged" in picture(app)
        await pilot.press("d")
        assert rankings.columns == ("old", "new")
        # one that the old model made no vector of has no old ranking, and its new one is beside the bridge's
        await pilot.press("shift+tab", "down", "down")
        await until(pilot, lambda: rankings.columns == ("bridged", "new"))
        alone = states.COMPARISON_BRIDGED.queries[2]
        ranks = {row.key: row.rank for row in alone.bridged}
        assert [row.other_rank for row in rankings._rows("new")] == [ranks.get(row.key) for row in alone.new]
        assert as_text(alone).split("\n")[3] == "bridged"


async def test_what_the_bridge_found_is_no_verdict_on_the_old_model(shown: Open) -> None:
    """Where it stands in for the old model nobody can say that this was better; hidden or not."""
    async with shown(states.READY) as (app, pilot, engine):
        app.comparison = engine.comparison = states.COMPARISON_BRIDGED
        screen = await opened(app, pilot)
        await until(pilot, lambda: screen.shown)
        await pilot.press("down", "down", "o")
        await until(pilot, lambda: "the bridge, which is not judged" in said(app))
        await pilot.press("V")
        rankings = screen.query_one(Rankings)
        assert set(rankings.columns) == {"bridged", "new"} and "◈ bridged" not in picture(app)
        await pilot.press("less_than_sign", "V", "home", "o")
        await until(pilot, lambda: engine.calls == [f"decide {screen.shown[0].query_id} old"])


async def test_without_a_bridge_the_key_says_so(shown: Open) -> None:
    async with shown(states.READY) as (app, pilot, _):
        await pilot.press("2")
        await until(pilot, lambda: app.comparison is not None)
        await pilot.press("d")
        await until(pilot, lambda: "No query was searched through a bridge" in said(app))


async def test_copies_of_own_queries_overwrite_none(shown: Open, remembered: Path) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        screen = await opened(app, pilot)
        for text in ("mine", "another"):
            screen.on_query_searched(QuerySearched(replace(states.QUERIES[1], query_id=0, text=text)))
            await pilot.press("y")
        files = (remembered / "exports").glob("own-*.txt")
        assert sorted(file.read_text().split("\n")[0] for file in files) == ["Query: another", "Query: mine"]


@pytest.mark.parametrize("phase", [Phase.DONE, Phase.ABORTED])
async def test_what_would_be_refused_is_not_offered_and_nothing_is_typed_for_it(shown: Open, phase: Phase) -> None:
    async with shown(replace(states.DONE, phase=phase), (160, 45)) as (app, pilot, _):
        screen = await opened(app, pilot)
        assert not {"Ask", "Load"} & {key.label for key in screen.keys(app.view)}
        for key, title in (("a", "Ask"), ("L", "Load")):
            await pilot.press(key)
            assert app.screen is screen and f"{title} · The migration" in said(app)
        await present(app, pilot, states.READY)
        assert {"Ask", "Load"} <= {key.label for key in screen.keys(app.view)}
        app.link = Link()
        await pilot.press("a")
        assert app.screen is screen and "out of reach" in said(app)


async def test_who_only_watches_may_ask_but_not_load(shown: Open) -> None:
    async with shown(states.READY, (160, 45), readonly=True) as (app, pilot, _):
        screen = await opened(app, pilot)
        assert {"Ask", "Load"} & {key.label for key in screen.keys(app.view)} == {"Ask"}
        await pilot.press("L")
        assert app.screen is screen
        await pilot.press("a")
        assert isinstance(app.screen, PromptDialog)
