"""Figures say how they were searched for: exactly, or as users are served."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embedtui.cli.evidence import _print_comparison
from embedtui.cli.work import _status_lines
from embedtui.engine.validate.report import to_html
from embedtui.model import Interval
from embedtui.tui import panels
from embedtui.tui.blind import Blind
from embedtui.tui.panels.comparison import query_line, summary_line
from embedtui.tui.panels.measures import measure_lines
from embedtui.tui.view import Link, View
from embedtui.tui.widgets.rankings import Rankings
from tests.tui import states
from tests.tui.conftest import Open, until
from tests.tui.test_compare import LONG, opened

UP = Link(up=True)
LOSES = replace(states.READY, evaluation=replace(states.EVALUATION, judged_served=0.31))
SERVED = replace(states.MEASURES, ndcg_served=Interval(0.31, 0.28, 0.34), ndcg_served_old=Interval(0.203, 0.19, 0.21))
COMPARED = replace(states.COMPARISON, measures=SERVED)


@pytest.mark.parametrize("width", [38, 46, 76])
def test_the_overview_says_that_ndcg_is_by_exact_search_and_what_is_served(width: int) -> None:
    text = panels.route(View(LOSES, UP), width, 12).plain
    line = next(each for each in text.splitlines() if "nDCG" in each)
    assert "◇ 0.41 → ◆ 0.59 exact" in line and "0.31 as served" in text
    assert ("as served" in line) == (width > 38)
    served = replace(LOSES, evaluation=replace(states.EVALUATION, searched="as served", judged_served=0.59))
    said = panels.route(View(served, UP), width, 12).plain
    assert "◆ 0.59 as served" in said and "exact" not in said


def test_a_query_that_nobody_judged_is_told_from_one_without_a_gain() -> None:
    query = states.QUERIES[0]

    def shown(old: float | None, new: float | None) -> str:
        return query_line(replace(query, ndcg_old=old, ndcg_new=new, verdict=""), 10, 70, Blind()).plain.split()[-2]

    assert (shown(None, None), shown(0.5, 0.5), shown(0.5, 0.502), shown(0.5, 0.498)) == ("—", "0.00", "0.00", "0.00")
    assert (shown(0.5, 0.75), shown(0.75, 0.5)) == ("+0.25", "-0.25")


def test_every_place_says_how_its_figures_were_searched(capsys: pytest.CaptureFixture[str]) -> None:
    assert "◆ 0.59 exact" in summary_line(COMPARED, View(LOSES, UP), 150).plain
    lines = [each.plain for each in measure_lines(COMPARED, 46)]
    assert sum("exact" in each for each in lines if each.startswith(("nDCG", "recall", "MRR"))) == 3
    assert any("◇ 0.203  ◆ 0.310  as served" in each for each in lines)
    _print_comparison(COMPARED, 0)
    said = capsys.readouterr().out
    assert said.count(", exact\n") == 3 and "old 0.203 (0.190 to 0.210), new 0.310 (0.280 to 0.340), as served" in said
    said = "\n".join(_status_lines(LOSES))
    assert "nDCG 0.41 old, 0.59 new exact, 0.31 as served" in said and "mean overlap 0.47 exact" in said
    assert LOSES.migration is not None
    page = to_html(COMPARED, LOSES.migration)
    assert "nDCG@10, exact" in page and "0.2030 → 0.3100 as served" in page


async def test_every_ranking_says_how_it_was_searched(shown: Open) -> None:
    async with shown(states.READY, (160, 45)) as (app, pilot, engine):
        engine.comparison = states.COMPARISON_BRIDGED
        screen = await opened(app, pilot)
        rankings = screen.query_one(Rankings)
        await until(pilot, lambda: rankings.columns == ("old", "bridged", "new"), LONG)
        assert rankings.render().plain.splitlines()[0].count(", exact") == 3
