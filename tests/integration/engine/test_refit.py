"""The bridge is fitted again as the backfill brings more pairs, and serves where it is better by the same rows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.engine.backfill.job import Job
from embedtui.engine.bridge import refit
from embedtui.engine.bridge.refit import Refit
from embedtui.errors import Interrupted
from embedtui.model import Noted, Phase, QueryInput
from embedtui.model.bridge import in_words
from embedtui.postgres.state.pointer import bridge_in_force
from embedtui.router import Router
from tests.kits.bridging import NEW_SIZE, OLD_SIZE, make_table, model_function, text_of
from tests.kits.support import NEW, settings_for, wait_for

ROWS, FIRST = 1_600, 120
# so noisy that more pairs tell much more
OLD_MODEL, NEW_MODEL = model_function(2, OLD_SIZE, noise=0.5), model_function(1, NEW_SIZE, noise=0.5)


@pytest.fixture
def engine(database: str, api: LoopbackServer, tmp_path: Path) -> Iterator[Engine]:
    api.models = {NEW: NEW_MODEL}
    make_table(database, ROWS, old=lambda texts: OLD_MODEL(texts, None))
    flags = {"old_model.retired": True, "pacing.max_concurrency": 2, "new_model.max_inputs": 50}
    made = Engine(database, settings=settings_for(database, api, tmp_path, flags))
    texts = [text_of(number) for number in range(1, 31)]
    logged = [
        QueryInput(text, vector=tuple(map(float, vector)))
        for text, vector in zip(texts, OLD_MODEL(texts, None), strict=True)
    ]
    made.bridge(rows=FIRST, override={"bound": "a test"}, queries=logged)
    yield made
    made.close()


def look(engine: Engine) -> list[str]:
    """What one look says."""
    said: list[str] = []
    job = Job(engine.dsn, engine.require(), lambda event: said.append(event.text) if isinstance(event, Noted) else None)
    Refit(job).look()
    return said


def test_at_the_end_of_the_backfill_a_better_map_serves(engine: Engine) -> None:
    before = engine.snapshot().route
    with Router(engine.dsn) as router, psycopg.connect(engine.dsn) as conn:
        held = router.route("documents")
        engine.run(threading.Event())
        after = engine.snapshot().route
        assert after.bridged and after.bridge != before.bridge and after.bridge_found is not None
        assert after.bridge_found.rows > 2 * FIRST and after.changed_by
        found = after.bridge_found.curve
        # of few held-out rows, other ones each time
        assert found[1].figures.overlap_10.mean > found[0].figures.overlap_10.mean - 0.05
        # by the queries that the first one was measured by, too
        queries, was = after.bridge_found.queries, before.bridge_found and before.bridge_found.queries
        assert queries is not None and was is not None and queries.logged == was.logged == 30
        assert queries.overlap is not None and queries.overlap.mean > 0
        [said] = [entry.detail for entry in engine.audit() if entry.detail.startswith("fitted again")]
        assert in_words(after.bridge_found) in said and f"Before: {in_words(before.bridge_found)}" in said
        # who holds a route holds its map
        wait_for(lambda: router.route("documents").bridge == after.bridge)
        query = NEW_MODEL(["document number 5"], None)[0]
        now = router.route("documents")
        assert held.bridge == before.bridge and held.search(conn, query) and now.search(conn, query)
        first, second = (float(each.search(conn, query, k=1)[0].distance) for each in (held, now))
        assert first != second
    assert look(engine) == [], "nothing more has come"


def test_while_the_backfill_goes_on_it_waits_for_twice_as_many_pairs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, api: LoopbackServer
) -> None:
    version = engine.snapshot().route.bridge
    engine.run(threading.Event(), until=10)
    assert look(engine) == [] and engine.snapshot().route.bridge == version
    monkeypatch.setattr(refit, "CHECK_SECONDS", 0.1)
    api.latency = 0.4
    stop = threading.Event()

    def run() -> None:
        with contextlib.suppress(Interrupted):
            engine.run(stop)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: engine.snapshot().route.bridge != version)
    assert engine.snapshot().phase is Phase.BACKFILL
    stop.set()
    thread.join(60)


@pytest.mark.parametrize("turn", ["off", "cutover", "another"])
def test_what_an_operator_did_meanwhile_stands(engine: Engine, monkeypatch: pytest.MonkeyPatch, turn: str) -> None:
    monkeypatch.setattr(refit, "MORE", 1e9)
    engine.run(threading.Event())
    monkeypatch.setattr(refit, "MORE", 2.0)
    real, served = refit.fit, engine.snapshot().route.bridge

    def meanwhile(*arguments: object, **more: object) -> object:
        if turn == "off":
            engine.bridge_off()
        elif turn == "cutover":
            engine.cutover(override={"gate": "a test"})
        else:
            engine.bridge(rows=ROWS)
        return real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(refit, "fit", meanwhile)
    look(engine)
    with psycopg.connect(engine.dsn) as conn:
        in_force = bridge_in_force(conn, engine.require().id)  # type: ignore[arg-type]
    route = engine.snapshot().route
    if turn == "off":
        assert not route.bridging
    elif turn == "cutover":
        assert not route.bridged and in_force != served, "the way back goes by the better one"
    else:
        newest = next(entry for entry in engine.audit() if entry.act == "bridge")
        assert newest.detail.startswith(f"on, version {in_force}")


def test_a_map_that_is_no_better_is_not_served(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit, "is_better", lambda found: False)
    version = engine.snapshot().route.bridge
    engine.run(threading.Event())
    assert engine.snapshot().route.bridge == version
    assert "no better" in look(engine)[0]
