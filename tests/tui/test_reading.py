"""Compare for eyes: the reader, blind verdicts, zoom, queries that come in and comparisons that go out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from textual.pilot import Pilot
from textual.widgets import Button, Static, TextArea

from embedtui.errors import DatabaseError
from embedtui.model import QueryComparison, RankedRow, Side, Verdict
from embedtui.tui.app import Dashboard
from embedtui.tui.blind import Blind
from embedtui.tui.dialogs import ForgetDialog, PromptDialog, QueriesDialog
from embedtui.tui.dialogs.base import Tick
from embedtui.tui.panels import reading
from embedtui.tui.screens.compare import CompareScreen
from embedtui.tui.screens.reader import ReaderScreen
from embedtui.tui.widgets.document import Document
from embedtui.tui.widgets.listing import Listing
from embedtui.tui.widgets.rankings import Rankings, said_of
from embedtui.tui.widgets.sheet import Sheet
from tests.tui import states
from tests.tui.conftest import Open, front, picture, present, said, until
from tests.tui.test_compare import opened

LONG = 60.0


def query(**changes: object) -> QueryComparison:
    made = QueryComparison(
        5,
        "how tides turn",
        old=(RankedRow(("1",), 1, 0.25, "The tides turn twice", 2), RankedRow(("2",), 2, 0.25, "Moons")),
        new=(RankedRow(("3",), 1, 0.125, "Tides and moons turn slowly"), RankedRow(("1",), 2, 0.5, "The tides", 1)),
        overlap=0.5,
        rbo=0.5,
        top1_kept=False,
        relevant=(("3",), ("77",), ("a", "b")),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_where_a_document_stands() -> None:
    told = [reading.place(query(), side, rank).plain for side in Side for rank in (1, 2, 3)]
    assert told == [
        "◇ 1  1 at 0.250, new 2",
        "◇ 2  2 at 0.250 tie with 1, not new",
        "◇ 3  nothing found",
        "◆ 1  ★  3 at 0.125, not old",
        "◆ 2  1 at 0.500 +0.375, old 1",
        "◆ 3  nothing found",
    ]


def test_what_neither_side_found_is_named() -> None:
    assert reading.found_by_neither(query(), 90).plain == "★ 2 judged relevant, found by neither: 77; a, b"
    assert not reading.found_by_neither(query(relevant=(("1",),)), 90).plain


def test_words_of_the_query_and_of_the_other_text_are_marked() -> None:
    shown = reading.document(query(), "Tides and moons turn slowly", "Moons turn, [b]and tides[/b]; slow ones")
    marked = {shown.plain[span.start : span.end]: str(span.style) for span in shown.spans}
    assert marked == {"Tides": "bold underline", "turn": "bold underline", "moons": "$primary"}
    assert "deleted" in reading.document(query(), None, "x").plain


def test_a_deleted_hit_says_so() -> None:
    gone = replace(query().old[0], deleted=True, text="")
    assert reading.text_at(query(old=(gone,)), Side.OLD, 1) is None
    assert reading.text_at(query(), Side.OLD, 9) is None


@pytest.mark.parametrize("width", [20, 27, 38, 46, 80])
def test_what_a_row_is_by_now_fits_its_line(width: int) -> None:
    title, plain = "The title of a document " * 4, "and its text " * 9
    row = RankedRow(("123456789",), 1, 0.2, plain, title=title, edited=True)
    for each in (
        row,
        replace(row, edited=False),
        replace(row, title=""),
        replace(row, title="T"),
        replace(row, deleted=True),
    ):
        told = "".join(text for text, _ in said_of(each, width, "", roomy=width >= 44))
        assert cell_len(told) == width, told
        assert ("edited" in told) == (each.edited and not each.deleted and width >= 44)
        assert ("(deleted)" in told) == each.deleted
        assert each.deleted or each.title[:6] in told
    again = "".join(
        text for text, _ in said_of(replace(row, title="os.walk", text="os.walk\n walks"), 60, "", roomy=True)
    )
    assert again.split() == ["(edited)", "os.walk", "walks"], "a text that begins with its title says it once"
    assert "edited since" in reading.place(query(new=(row,)), Side.NEW, 1).plain
    assert reading.text_at(query(new=(row,)), Side.NEW, 1) == f"{title}\n{plain}"


def test_sides_are_drawn_by_chance_and_stay() -> None:
    blind = Blind()
    queries = [query(query_id=number) for number in range(400)]
    assert {blind.sides(each) for each in queries} == {(Side.OLD, Side.NEW)}, "off"
    blind.begin()
    drawn = [blind.sides(each) for each in queries]
    assert drawn == [blind.sides(each) for each in queries]
    assert 140 < drawn.count((Side.OLD, Side.NEW)) < 260  # p < 1e-9 by a fair coin
    listed = sorted(queries, key=blind.place)
    assert listed != queries and listed == sorted(queries, key=blind.place), "by chance, and it stays"
    assert blind.refusal("old") and not blind.refusal("left")
    for each, sides in zip(queries, drawn, strict=True):
        assert blind.take(each, "left") == sides[0].value
        assert blind.take(each, "right") == sides[1].value
    assert len(blind.given) == 400
    assert f"{drawn.count((Side.OLD, Side.NEW))} for new" in blind.end()
    assert blind.refusal("left") and not blind.refusal("old")
    blind.given = dict.fromkeys(range(9), "new") | {9: "old", 10: "same"}
    assert "9 for new, 1 for old, 1 same" in blind.end() and "2 % of the time" in blind.end()  # 22 of 1,024
    blind.given = {1: "bad"}
    assert "sign test" not in blind.end()


async def reader(app: Dashboard, pilot: Pilot[None]) -> ReaderScreen:
    await pilot.press("f")
    await until(pilot, lambda: isinstance(app.screen, ReaderScreen), LONG)
    return front(app, ReaderScreen)


async def test_the_reader_shows_the_whole_query_and_both_documents(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        long = replace(screen.shown[0], text="word " * 40 + "last")
        screen.shown[0] = long
        await reader(app, pilot)
        await until(pilot, lambda: "last" in picture(app), LONG)
        left, right = app.screen.query(Document)
        assert left.text.plain == long.old[0].text and right.text.plain == long.new[0].text
        await pilot.press("down", "down")
        assert left.text.plain == long.old[2].text
        await pilot.press("right")
        assert screen.listing.cursor == 1 and left.text.plain == screen.shown[1].old[0].text
        await pilot.press("o")
        await until(pilot, lambda: "decide 2 old" in engine.calls, LONG)
        assert screen.listing.cursor == 4, "the next one without a verdict"
        await pilot.press("left", "left", "left", "e")
        await until(pilot, lambda: isinstance(app.screen, PromptDialog), LONG)
        await pilot.press(*"why", "enter")
        await until(pilot, lambda: "decide 2 old why" in engine.calls, LONG)
        await until(pilot, lambda: isinstance(app.screen, ReaderScreen), LONG)
        await until(pilot, lambda: "old better: why" in picture(app), LONG)
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen, LONG)


async def test_a_note_can_be_cleared(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        await pilot.press("o", "up", "e")
        await until(pilot, lambda: isinstance(app.screen, PromptDialog), LONG)
        await pilot.press("x", "enter")
        await until(pilot, lambda: app.screen is screen, LONG)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, PromptDialog), LONG)
        await pilot.press("end", "backspace", "enter")
        number = screen.shown[0].query_id
        await until(pilot, lambda: engine.calls.count(f"decide {number} old") == 2, LONG)


async def test_blind_hides_what_tells_the_sides(shown: Open) -> None:
    async with shown(states.READY, (160, 45)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        await pilot.press("V")
        await until(pilot, lambda: "● blind" in picture(app), LONG)
        for telling in ("◇", "★", "nDCG", "entered", "text-embedding", "/10 "):
            assert telling not in picture(app).split("\n", 3)[3], telling  # the route on top is no secret
        assert "Queries, by chance" in picture(app) and "lowest overlap" not in picture(app)
        foot = picture(app).splitlines()[-1]
        assert all(key in foot for key in ("< Left", "> Right", "s Same", "b Both bad", "V Show"))
        assert "better" not in foot
        await pilot.press("w")
        assert "the order is by chance" in said(app)
        await pilot.press("n")
        assert "Sides are hidden" in said(app)
        chosen = screen.chosen_query
        assert chosen is not None
        meant = screen.blind.sides(chosen)[0].value
        await pilot.press("<")
        await until(pilot, lambda: f"decide {chosen.query_id} {meant}" in engine.calls, LONG)
        await reader(app, pilot)
        for telling in ("◇", "◆"):
            assert telling not in str(app.screen.query_one("#reader-left", Document).border_title), telling
        await pilot.press("escape", "V")
        await until(pilot, lambda: "1 given blind" in said(app), LONG)
        assert "◇" in picture(app)


@pytest.mark.parametrize("screen", ["3", "7"])
async def test_texts_can_be_zoomed_too(shown: Open, screen: str) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        await pilot.press(screen, "tab", "z")
        await until(pilot, lambda: isinstance(app.screen.maximized, Sheet), LONG)
        await pilot.press("z")
        await until(pilot, lambda: app.screen.maximized is None, LONG)


async def test_zoom_gives_a_part_the_screen_and_takes_it_back(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        screen = await opened(app, pilot)
        parts = (screen.listing, screen.query_one(Rankings), screen.query_one(Document))
        for part in parts:
            part.focus()
            before = part.size
            await pilot.press("z")
            await until(pilot, lambda part=part: part.size.height > 16, LONG)
            await pilot.press("z")
            await until(pilot, lambda part=part, before=before: part.size == before, LONG)


async def test_the_filter_counts_and_an_order_begins_at_the_top(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        screen = await opened(app, pilot)
        await pilot.press("down", "down", "w")
        assert screen.query_one(Listing).cursor == 0
        word = screen.shown[0].text.split()[0]
        await pilot.press("slash", *word, "enter")
        await until(pilot, lambda: f"{len(screen.shown)} of {len(states.QUERIES)}" in picture(app), LONG)


async def test_queries_are_loaded_and_comparisons_saved(shown: Open, remembered: Path) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        await pilot.press("L")
        await until(pilot, lambda: isinstance(app.screen, QueriesDialog), LONG)
        await pilot.press(*"no.txt", "tab", "tab", "enter")
        await until(pilot, lambda: "No such file: no.txt" in picture(app), LONG)
        await pilot.press("backspace")
        await until(pilot, lambda: "No such file" not in picture(app), LONG)
        assert not any(call.startswith("queries of") for call in engine.calls)
        await pilot.press("escape", "L")
        await until(pilot, lambda: isinstance(app.screen, QueriesDialog), LONG)
        assert app.screen.query_one(TextArea).text == "no.tx", "what was left by mistake is there again"
        await pilot.press("escape")
        app._busy = ("compare",)
        app.show()
        await pilot.press("L", *"one")
        assert app.screen.query_one(TextArea).text == "one", "and not commands"
        told = " ".join(str(each.content) for each in app.screen.query(Static))
        assert "now that has 12 queries with 5 verdicts. All are kept" in told
        await pilot.press("tab", "tab", "enter")
        await until(pilot, lambda: "Compare is under way already" in picture(app), LONG)
        app._busy = ()
        app.screen.query_one(TextArea).load_text("one\ntwo")
        app.screen.query_one("#go", Button).press()
        both = f"compare {len(states.QUERIES) + 2}"
        await until(pilot, lambda: "queries of one\ntwo" in engine.calls and both in engine.calls, LONG)
        await until(pilot, lambda: isinstance(app.screen, CompareScreen) and not app.view.busy, LONG)
        await pilot.press("L", *"three", "shift+tab", "space")
        await until(pilot, lambda: not app.screen.query_one("#together", Tick).value, LONG)
        app.screen.query_one("#go", Button).press()
        await until(pilot, lambda: "compare 1" in engine.calls and isinstance(app.screen, CompareScreen), LONG)
        await pilot.press("E")
        number = states.COMPARISON.evaluation_id or "unrecorded"
        for kind in screen.KINDS:
            file = remembered / "exports" / f"comparison-{number}.{kind}"
            await until(pilot, lambda file=file: file.exists(), LONG)
            assert file.read_text() == f"{kind} of {len(states.QUERIES)}"
        # what is shown: a filtered list is written as such, and its name says so
        await pilot.press("slash", *"paid twice", "enter")
        await until(pilot, lambda: len(screen.shown) == 1, LONG)
        await pilot.press("E")
        part = remembered / "exports" / f"comparison-{number}-1-of-{len(states.QUERIES)}.csv"
        await until(pilot, lambda: part.exists() and part.read_text() == "csv of 1", LONG)
        part.unlink()
        await pilot.press("V", "E")
        await until(pilot, lambda: "Sides are hidden: V first shows them" in said(app), LONG)
        assert not part.exists()


def test_the_bridge_stands_in_where_it_alone_searched_the_old_column() -> None:
    alone = query(old=(), bridged=query().old, old_unknown="no vector")
    assert [reading.row_at(alone, Side.OLD, rank) for rank in (1, 2)] == list(query().old[:2])
    assert "bridged" not in reading.place(query(old=(), bridged=query().old), Side.NEW, 1).plain
    assert reading.row_at(query(old=(), bridged=query().old), Side.OLD, 1) is None


async def test_backspace_takes_a_verdict_back_in_the_reader(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        await pilot.press("down")
        await reader(app, pilot)
        await pilot.press("o", "backspace")
        await until(pilot, lambda: engine.given.get(2) == ("", ""), LONG)
        assert screen.listing.cursor == 1 and not screen.shown[1].verdict
        await until(pilot, lambda: "No verdict any more on “customer paid twice”" in said(app), LONG)
        assert "⌫" in picture(app)


async def test_another_operators_verdict_is_shown_and_stands_where_ones_own_is_taken_back(shown: Open) -> None:
    async with shown(states.READY, (160, 45)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        boris = replace(states.COMPARISON.queries[1], verdict="old", note="knows it", verdict_by="boris")
        queries = tuple(boris if each.query_id == 2 else each for each in states.COMPARISON.queries)
        engine.comparison = replace(states.COMPARISON, queries=queries)
        assert states.READY.evaluation is not None
        await present(app, pilot, replace(states.READY, evaluation=replace(states.READY.evaluation, verdicts="1 now")))
        await until(pilot, lambda: screen.shown[1].verdict_by == "boris", LONG)
        await pilot.press("down")
        await until(pilot, lambda: "old better, by boris: knows it" in picture(app), LONG)
        await pilot.press("n")
        await until(pilot, lambda: engine.given.get(2) == ("new", ""), LONG)
        engine.decide = lambda *_: (engine.given.pop(2), Verdict("old", "knows it", "boris"))[1]  # type: ignore[method-assign]
        await pilot.press("backspace")
        await until(pilot, lambda: "boris's verdict on “customer paid twice” stands: old better." in said(app), LONG)
        await until(pilot, lambda: screen.shown[1].verdict_by == "boris", LONG)
        assert "No verdict any more" not in said(app)


async def test_a_verdict_that_is_not_stored_is_not_shown(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        screen = await opened(app, pilot)

        def lost(*_: object) -> None:
            raise DatabaseError("The connection was lost.")

        engine.decide = lost  # type: ignore[method-assign]
        await pilot.press("down", "o")
        await until(pilot, lambda: "The connection was lost" in said(app), LONG)
        await until(pilot, lambda: not screen.shown[1].verdict, LONG)


async def test_hits_that_differ_only_at_their_ends_are_told_apart(shown: Open) -> None:
    """Long names are cut in the middle; texts that begin alike have their keys before them."""
    async with shown(states.READY, (80, 24)) as (app, pilot, _):
        screen = await opened(app, pilot)
        names = [replace(row, title=f"handbook/chapters/introduction-{row.rank}.md") for row in query().old]
        texts = [replace(row, text="This page was moved. " * 3 + str(row.rank)) for row in query().old]
        for rows in (names, texts):
            made = query(old=tuple(rows), new=tuple(rows), relevant=())
            ranked = screen.query_one(Rankings)
            ranked.show_query(made, ("a", "b"), Blind())
            lines = {"".join(text for text, _ in ranked._row("old", at, 26))[9:] for at in range(2)}
            assert len(lines) == 2, lines
            assert all(cell_len(each) <= 26 for each in lines)


async def test_a_query_that_was_kept_by_mistake_is_forgotten(shown: Open) -> None:
    async with shown(states.READY, (80, 24)) as (app, pilot, engine):
        screen = await opened(app, pilot)
        count = len(screen.shown)
        await pilot.press("down", "delete")
        await until(pilot, lambda: isinstance(app.screen, ForgetDialog), LONG)
        await pilot.press("escape", "delete")
        await until(pilot, lambda: isinstance(app.screen, ForgetDialog), LONG)
        app.screen.query_one("#go", Button).press()
        await until(pilot, lambda: "forget [2]" in engine.calls, LONG)
        await until(pilot, lambda: len(screen.shown) == count - 1, LONG)
        assert screen.listing.cursor == 1 and screen.shown[1].query_id != 2
        await until(pilot, lambda: "1 forgotten since" in picture(app), LONG)
