"""Comparisons written down: JSON, CSV, and a page that fetches nothing and runs its own script alone."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from embedtui.engine.validate.report import to_csv, to_html, to_json
from embedtui.model import (
    Check,
    Comparison,
    EmbeddingModel,
    Interval,
    Measures,
    Phase,
    QueryComparison,
    RankedRow,
    Side,
    SweepPoint,
    TableName,
)
from tests.kits.samples import sample_migration

EVIL = "</span><script>alert(1)</script> \x1b]0;x\x07\u202e $body \"'"

MIGRATION = sample_migration(
    TableName("public", "docs<b>"),
    old_model=EmbeddingModel("old&model", 3),
    new_model=EmbeddingModel("new-model", 3),
    phase=Phase.VALIDATE,
)

COMPARISON = Comparison(
    k=10,
    queries=(
        QueryComparison(
            7,
            EVIL,
            old=(RankedRow(("1",), 1, 0.1, EVIL, 2), RankedRow(("2",), 2, 0.2, "=1+1")),
            new=(RankedRow(("-3",), 1, 0.1, "three", missed=True), RankedRow(("1",), 2, 0.25, "one", 1)),
            overlap=0.5,
            rbo=0.4,
            top1_kept=False,
            relevant=(("-3",),),
            ndcg_old=0.0,
            ndcg_new=1.0,
            verdict="new",
            note=EVIL,
            index_recall=0.5,
        ),
        QueryComparison(8, "a row", old=(), new=(), overlap=1.0, rbo=1.0, top1_kept=True, row=("8",)),
    ),
    measures=Measures(
        queries=2,
        k=10,
        overlap=Interval(0.75, 0.5, 1.0),
        rbo=Interval(0.7, 0.4, 1.0),
        top1_kept=0.5,
        low_overlap=0,
        histogram=(0, 0, 0, 0, 0, 1, 0, 0, 0, 1),
        judged=1,
        ndcg_old=Interval(0.0, 0.0, 0.0),
        ndcg_new=Interval(1.0, 1.0, 1.0),
        ndcg_difference=Interval(1.0, 1.0, 1.0),
        recall_old=Interval(0.0, 0.0, 0.0),
        recall_new=Interval(1.0, 1.0, 1.0),
        mrr_old=Interval(0.0, 0.0, 0.0),
        mrr_new=Interval(0.75, 0.5, 1.0),
        p_value=0.25,
        model_overlap=0.75,
        index_recall=0.5,
        ndcg_served=Interval(0.5, 0.4, 0.6),
        sweep=(SweepPoint("hnsw.ef_search", 80, 0.9, 1.0, 2.0),),
        latency_old_ms=(1.0, 2.0),
        latency_new_ms=(1.5, 3.0),
        wins_new=1,
        verdict_p=1.0,
        unknown=(EVIL,),
    ),
    evaluation_id=4,
    verdict="FAIL",
    checks=(Check("quality", "pass", EVIL, EVIL), Check("index loss", "fail", "lost", "build it again")),
    at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    where="lang = '<en>'",
)


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    VOID = ("meta", "br", "input")
    # end tags that HTML lets go without
    OPTIONAL = ("td", "th")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in (*self.VOID, *self.OPTIONAL):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("comparison", [COMPARISON, replace(COMPARISON, checks=(), verdict="", at=None)])
def test_the_page_is_well_formed_and_fetches_nothing(comparison: Comparison) -> None:
    made = to_html(comparison, MIGRATION)
    page = Page(made)
    assert not page.open
    assert not {"link", "img", "iframe", "a", "b>"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "href")
        assert "http:" not in (value or "")
        assert "https:" not in (value or "")
    (script,) = re.findall(r"<script>(.*?)</script>", made, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert ("content", policy) in page.attributes
    assert page.tags.count("script") == 1


def test_the_page_shows_untrusted_text_as_text() -> None:
    made = to_html(COMPARISON, MIGRATION)
    page = Page(made)
    assert "<script>alert(1)</script>" in page.text
    assert "$body" in page.text
    assert "docs<b>: old&model → new-model" in page.text
    assert not any(character in made for character in "\x1b\x07\u202e")
    assert all(character.isprintable() or character == "\n" for character in made)


def test_the_page_tells_both_rankings() -> None:
    page = Page(to_html(COMPARISON, MIGRATION))
    for words in ("▼ 1", "− left", "+ new", "judged relevant", "missed by the index", "new better", "✗ FAIL", "row"):
        assert words in page.text
    for words in ("nDCG@10", "0.500 to 1.000", "hnsw.ef_search", "lang = '<en>'", "2026-01-02 03:04 UTC", "partial"):
        assert (words in page.text) == (words != "partial")
    assert page.tags.count("details") == 2
    assert page.tags.count("svg") == 3


def test_the_page_says_how_far_the_results_are() -> None:
    """A limit on the distance that the application has in its SQL is right for one model only."""
    assert COMPARISON.distances(Side.OLD) == (0.1, 0.2)
    page = Page(to_html(COMPARISON, MIGRATION))
    assert "distance of the first result" in page.text
    assert "of result 10: 0.200 → 0.250" in page.text
    nothing = replace(COMPARISON, queries=COMPARISON.queries[1:])
    assert nothing.distances(Side.NEW) is None
    assert "distance of the first result" not in Page(to_html(nothing, MIGRATION)).text


def test_the_page_without_judgments() -> None:
    bare = replace(
        COMPARISON.measures, judged=0, ndcg_old=None, ndcg_new=None, ndcg_difference=None, ndcg_served=None,
        latency_old_ms=None, latency_new_ms=None, index_recall=None, model_overlap=None, sweep=(), unknown=(),
    )  # fmt: skip
    page = Page(to_html(replace(COMPARISON, measures=bare, partial=True), MIGRATION))
    assert page.tags.count("svg") == 1
    assert "partial: not every row has both vectors" in page.text


def test_json_holds_everything() -> None:
    document = json.loads(to_json(COMPARISON, MIGRATION))
    assert (document["format"], document["verdict"], document["at"]) == (3, "FAIL", "2026-01-02T03:04:00+00:00")
    assert (document["old_model"], document["new_dimensions"]) == ("old&model", 3)
    assert document["queries"][0]["text"] == EVIL
    assert document["queries"][0]["new"][0] == {
        "key": ["-3"], "rank": 1, "distance": 0.1, "text": "three", "other_rank": None, "missed": True,
        "deleted": False, "title": "", "fingerprint": None, "edited": False,
    }  # fmt: skip
    assert document["measures"]["ndcg_difference"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert "key_variable" not in to_json(COMPARISON, MIGRATION)


def test_csv_has_a_line_per_result_and_no_formula() -> None:
    text = to_csv(COMPARISON)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["query_id"], row["side"], row["rank"]) for row in rows] == [
        ("7", "old", "1"), ("7", "old", "2"), ("7", "new", "1"), ("7", "new", "2"),
    ]  # fmt: skip
    assert rows[1]["text"] == "'=1+1"
    assert rows[2]["key"] == "-3", "a number is no formula"
    assert (rows[2]["relevant"], rows[2]["missed_by_index"], rows[3]["other_rank"]) == ("1", "1", "1")
    assert rows[0]["ndcg_new"] == "1.0000"
    assert "\x1b" not in text
    composite = replace(COMPARISON.queries[0], new=(RankedRow(("a", "1"), 1, 0.1, "x"),))
    last = list(csv.DictReader(io.StringIO(to_csv(replace(COMPARISON, queries=(composite,))))))[-1]
    assert json.loads(last["key"]) == ["a", "1"]
