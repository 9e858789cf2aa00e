"""A comparison while a bridge serves: three sides where they exist, and the bridge is never called the old model."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.engine.validate import report
from embedtui.model import Comparison, QueryInput
from embedtui.router import Router
from tests.integration.engine.test_bridge import (
    NEW_MODEL,
    asked,
    make_table,
    settings,
    text_of,
)
from tests.kits.support import NEW, connect


@pytest.fixture
def engine(database: str, api: LoopbackServer, tmp_path: Path) -> Iterator[Engine]:
    """Over a table whose old model is dead, bridged, and whose every row is embedded."""
    api.models = {NEW: NEW_MODEL}
    make_table(database)
    with contextlib.closing(Engine(database, settings=settings(database, api, tmp_path))) as opened:
        opened.bridge()
        opened.run(threading.Event())
        yield opened


def found_by_routes(dsn: str, number: int) -> dict[str, list[str]]:
    """What a service finds for a text: through the bridge, and on the new side."""
    with Router(dsn) as router, connect(dsn) as conn:
        route = router.route("documents")
        assert route.bridged
        query = NEW_MODEL([text_of(number)], None)[0]
        bridged = [hit.key[0] for hit in route.search(conn, query, 10)]
        conn.execute("SET enable_indexscan = off")
        rows = conn.execute(
            "SELECT id::text FROM documents ORDER BY embedding_v2 <=> %s::vector, id LIMIT 10", [str(query.tolist())]
        )
        return {"bridged": bridged, "new": [key for (key,) in rows]}


def rows_of(comparison: Comparison, text: str) -> dict[str, list[str]]:
    query = next(each for each in comparison.queries if each.text == text)
    return {side: [row.key[0] for row in getattr(query, side)] for side in ("old", "bridged", "new")}


def test_a_logged_query_has_three_sides(database: str, engine: Engine) -> None:
    comparison = engine.compare(asked(logged=True, judged=True))
    bridged = comparison.measures.bridged
    assert bridged is not None and (bridged.queries, bridged.only, bridged.judged) == (40, 0, 40)
    assert bridged.version == engine.snapshot().route.bridge
    found, by_service = rows_of(comparison, text_of(30)), found_by_routes(database, 30)
    assert found["new"] == by_service["new"]
    assert len(set(found["bridged"]) & set(by_service["bridged"])) >= 9, "the service's own index may miss one"
    assert found["old"] and found["old"] != found["bridged"]
    query = next(each for each in comparison.queries if each.text == text_of(30))
    assert query.ndcg_old is not None and query.ndcg_bridged is not None and query.old_unknown == ""
    ranks = {row.key: row.rank for row in query.new}
    assert all(row.other_rank == ranks.get(row.key) for row in query.bridged)
    # the old model's figures are the log's alone, as without a bridge
    assert comparison.measures.ndcg_old is not None and comparison.measures.ndcg_old.mean > 0.99
    assert bridged.overlap_old is not None and 0.5 < bridged.overlap_old.mean < 1
    engine.bridge_off()
    plain = engine.compare(asked(logged=True, judged=True))
    assert plain.measures.bridged is None
    assert replace(plain.measures, latency_old_ms=None, latency_new_ms=None) == replace(
        comparison.measures, bridged=None, latency_old_ms=None, latency_new_ms=None
    )


def test_a_query_that_was_never_logged_is_searched_by_the_bridge_and_counts_for_the_old_model_nowhere(
    database: str, engine: Engine
) -> None:
    logged = asked(logged=True, judged=True)[:5]
    others = [QueryInput(text_of(number), (((str(number),), 1.0),)) for number in range(100, 140)]
    comparison = engine.compare([*logged, *others])
    measures = comparison.measures
    assert (measures.queries, measures.judged, sum(measures.histogram)) == (5, 5, 5)
    bridged = measures.bridged
    assert bridged is not None and (bridged.queries, bridged.only, bridged.judged) == (45, 40, 45)
    assert any("only the bridge searches for them" in each for each in measures.unknown)
    lone = next(each for each in comparison.queries if each.text == text_of(120))
    assert lone.old == () and "made no vector" in lone.old_unknown and lone.ndcg_old is None
    assert [row.key[0] for row in lone.new] == found_by_routes(database, 120)["new"]
    shared = {row.key for row in lone.bridged} & {row.key for row in lone.new}
    assert lone.overlap == len(shared) / 10
    # too few of the old model's to judge by: what serves is what the gate can hold the new side against, and says so
    (check,) = [each for each in comparison.checks if each.name == "quality"]
    assert check.result == "warn" and f"bridge (version {bridged.version})" in check.detail
    assert "the old model cannot be asked" in check.detail and comparison.verdict == "PASS"
    # recorded with the version, and read back the same
    kept = engine.last_comparison()
    assert kept is not None and kept.measures == measures and kept.queries == comparison.queries
    assert kept.seen is not None and kept.seen.bridge == bridged.version
    again = engine.compare([*logged, *others])
    assert again.evaluation_id == comparison.evaluation_id, "nothing has changed"
    engine.bridge()
    other = engine.compare([*logged, *others])
    assert other.evaluation_id != comparison.evaluation_id
    assert other.measures.bridged is not None and other.measures.bridged.version == bridged.version + 1


def test_rows_are_compared_as_before_and_never_by_the_bridge(engine: Engine) -> None:
    """The map was fitted on them: it would find them too well."""
    comparison = engine.compare()
    assert comparison.measures.bridged is None and all(query.row is not None for query in comparison.queries)
    assert not any(query.bridged for query in comparison.queries)


def test_a_typed_query_is_answered_by_the_bridge_and_labelled(database: str, engine: Engine) -> None:
    typed = engine.search_both(text_of(77))
    assert typed.old == () and typed.old_unknown and [row.key[0] for row in typed.bridged][:1] == ["77"]
    assert {row.key[0] for row in typed.bridged} == set(found_by_routes(database, 77)["bridged"])
    assert any(row.other_rank is not None for row in typed.new), "its ranks are beside the bridge's"


def test_every_report_calls_it_by_its_name(engine: Engine) -> None:
    comparison = engine.compare(asked(logged=True, judged=True)[:6])
    migration = engine.require()
    document = json.loads(report.to_json(comparison, migration))
    assert document["measures"]["bridged"]["version"] and document["queries"][0]["bridged"]
    lines = report.to_csv(comparison).splitlines()
    assert sum(",bridged," in line for line in lines) == 60
    page = report.to_html(comparison, migration)
    assert page.count("Through the bridge") == 6 and "nDCG@10, bridge → new" in page


def test_without_a_bridge_there_are_two_sides(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    api.models = {NEW: NEW_MODEL}
    make_table(database)
    with contextlib.closing(Engine(database, settings=settings(database, api, tmp_path))) as opened:
        opened.run(threading.Event())
        comparison = opened.compare(asked(logged=True, judged=True)[:3])
    assert comparison.measures.bridged is None and not comparison.queries[0].bridged
