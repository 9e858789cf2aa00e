"""`bridge` on a real table and API: sample, fit, store, serve; gone on with after a kill; refused for what is seen."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from embedtui.cli.work import _status_lines
from embedtui.config import Settings
from embedtui.demo.api import FaultKind, LoopbackServer
from embedtui.engine import Engine
from embedtui.engine.bridge import act
from embedtui.errors import EmbedtuiError, Interrupted, Refused
from embedtui.formatting import percent
from embedtui.model import Phase, QueryInput, Side
from embedtui.model.bridge import BridgeQueries, in_full, in_words
from embedtui.router import Router
from tests.kits.bridging import NEW_MODEL, OLD_MODEL, OLD_SIZE, ROWS, make_table, model_function, text_of
from tests.kits.support import NEW, OLD, settings_for, wait_for

Opener = Callable[..., Engine]


@pytest.fixture
def dead(api: LoopbackServer) -> LoopbackServer:
    """An API that has the new model alone."""
    api.models = {NEW: NEW_MODEL}
    return api


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Engines that the end of the test closes."""
    with contextlib.ExitStack() as stack:

        def open_engine(dsn: str, **more: Any) -> Engine:
            return stack.enter_context(contextlib.closing(Engine(dsn, **more)))

        yield open_engine


def settings(dsn: str, api: LoopbackServer, folder: Path, flags: Mapping[str, Any] | None = None) -> Settings:
    return settings_for(dsn, api, folder, {"old_model.retired": True, **(flags or {})})


def value(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(query).fetchone()
    return row and row[0]


def found_by_router(dsn: str, numbers: list[int]) -> float:
    """Share of documents whose own text, as a query, finds them; through whatever route serves."""
    with Router(dsn) as router, psycopg.connect(dsn) as conn:
        route = router.route("documents")
        model = {NEW: NEW_MODEL, OLD: OLD_MODEL}[route.model]
        queries = model([text_of(number) for number in numbers], None)
        hits = [route.search(conn, query, k=3) for query in queries]
    return float(np.mean([any(hit.key == (str(n),) for hit in each) for n, each in zip(numbers, hits, strict=True)]))


@pytest.mark.parametrize("placement", ["column", "table"])
def test_from_nothing_to_bridged_searches_and_nothing_is_paid_twice(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path, placement: str
) -> None:
    make_table(database)
    engine = opened(database, settings=settings(database, dead, tmp_path, {"placement": placement}))
    report = engine.bridge(rows=300)
    assert report.served and report.status.refused == "" and report.embedded == 300
    assert report.status.figures.recall_10.mean > 0.9
    assert report.status.figures.pool == ROWS
    numbers = list(range(5, ROWS, 7))
    assert found_by_router(database, numbers) > 0.9
    snapshot = engine.snapshot()
    assert snapshot.phase is Phase.BACKFILL
    assert (snapshot.route.active, snapshot.route.bridged, snapshot.route.bridge) == (Side.OLD, True, report.version)
    assert snapshot.route.bridge_found == report.status
    assert snapshot.backfill.rows == 300
    # drawn over the whole table
    drawn = value(database, f"SELECT array_agg(id) FROM documents WHERE {has_new(placement)}")
    assert min(np.histogram(drawn, 6, (1, ROWS))[0]) > 0
    acts = [(entry.act, entry.detail) for entry in engine.audit() if entry.act == "bridge"]
    assert acts[0][1].startswith(f"on, version {report.version}") and "fitted on 300 rows" in acts[1][1]
    # the backfill goes on with the rest, and the bridge with what is there
    engine.run(threading.Event())
    texts = [text for text in dead.texts if text.startswith("document")]
    assert Counter(texts).most_common(1)[0][1] == 1 and len(texts) == ROWS
    again = engine.bridge()
    assert again.embedded == 0 and again.status.rows == ROWS and again.version != report.version
    assert found_by_router(database, numbers) > 0.9
    engine.bridge_off()
    assert not engine.snapshot().route.bridged
    epoch = engine.snapshot().route.epoch
    assert engine.bridge_off() == epoch, "a repeat is none"


def has_new(placement: str) -> str:
    if placement == "column":
        return "embedding_v2 IS NOT NULL"
    return "EXISTS (SELECT FROM documents_embedding_v2 s WHERE s.id = documents.id)"


def test_it_is_measured_without_being_served(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path
) -> None:
    make_table(database)
    engine = opened(database, settings=settings(database, dead, tmp_path))
    report = engine.bridge(rows=200, serve=False)
    assert (report.served, report.version, report.epoch, report.embedded) == (False, None, None, 200)
    snapshot = engine.snapshot()
    assert not snapshot.route.bridged and value(database, "SELECT count(*) FROM embedtui.bridge_row") == 0
    assert snapshot.bridge is not None and snapshot.bridge.status == report.status, "for every screen"


def test_a_model_that_answers_and_services_that_do_not_follow_are_no_reason_for_a_bridge(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path
) -> None:
    make_table(database)
    dead.models = {NEW: NEW_MODEL, OLD: OLD_MODEL}
    engine = opened(database, settings=settings_for(database, dead, tmp_path))
    with pytest.raises(Refused, match="not said to be retired, and it answers") as refused:
        engine.bridge(rows=200)
    assert "--override old_model=" in refused.value.hint
    asked = [text for text in dead.texts if text.startswith("document")]
    assert value(database, "SELECT count(embedding_v2) FROM documents") == 0, f"nothing is paid: {asked}"
    assert engine.bridge(rows=200, override={"old_model": "to try it"}).served
    assert any("to try it" in entry.detail for entry in engine.audit())


def test_an_old_model_that_nobody_named_is_not_known_to_be_dead(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path
) -> None:
    """Searches by it may well go on: only who says that it is retired is told to bridge."""
    make_table(database)
    unnamed = {"old_model.name": None}
    engine = opened(database, settings=settings_for(database, dead, tmp_path, unnamed))
    engine.prepare()
    assert engine.ask_old_model() == ""
    snapshot = engine.snapshot()
    assert (snapshot.old_gone, snapshot.unanswered, snapshot.next_act) == ("", False, "run")
    assert snapshot.migration is not None and not snapshot.migration.old_model.retired
    [told] = [each.detail for each in engine.notices() if each.name == "old_model"]
    assert told.startswith("the unnamed old model cannot be asked by embedtui: rows edited after the cutover age")
    with pytest.raises(Refused, match="cannot be told \\(nobody has named it\\)"):
        engine.bridge(rows=200)
    said = opened(database, settings=settings(database, dead, tmp_path, unnamed)).snapshot()
    assert (said.old_gone, said.next_act) == ("the unnamed old model is retired", "bridge")


def test_a_model_that_is_not_there_any_more_needs_nobody_to_say_so(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path
) -> None:
    make_table(database)
    dead.models[OLD] = OLD_MODEL
    engine = opened(database, settings=settings_for(database, dead, tmp_path))
    engine.prepare()
    assert engine.ask_old_model() == "" and engine.snapshot().next_act == "run"
    del dead.models[OLD]
    assert engine.snapshot().old_gone == "", "nobody has asked"
    assert OLD in engine.ask_old_model()
    snapshot = engine.snapshot()
    assert "404" in snapshot.old_gone and snapshot.next_act == "bridge" and "404" in snapshot.next_why
    other = opened(database)  # asked nothing, as a status on another host
    assert (other.snapshot().old_gone, other.snapshot().next_act) == (snapshot.old_gone, "bridge")
    said = "\n".join(_status_lines(other.snapshot()))
    assert f"SEARCHES FAIL: {snapshot.old_gone}" in said and "Next       bridge" in said
    assert engine.blockers("bridge") == ()
    engine.bridge(rows=200)
    assert engine.snapshot().next_act == "run", "what is bridged can wait for the rest"
    engine.ask_old_model()
    assert [entry.act for entry in engine.audit()].count("old model dead") == 1, "known"
    dead.models[OLD] = OLD_MODEL
    engine.ask_old_model()
    assert engine.snapshot().old_gone == "" and other.snapshot().old_gone == ""


@pytest.mark.parametrize("fault", ["server_error", "unauthorized"])
def test_a_model_that_cannot_be_asked_is_not_known_to_be_dead(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path, fault: str
) -> None:
    make_table(database)
    engine = opened(database, settings=settings_for(database, dead, tmp_path))
    engine.prepare()
    assert engine.ask_old_model() != ""
    dead.faults.add(fault, model=OLD)
    assert engine.ask_old_model() == ""
    assert engine.snapshot().old_gone != "", "and nothing that was known is taken back"
    (blocker,) = engine.blockers("bridge")
    assert blocker.name == "old_model" and "cannot be told" in blocker.message and blocker.overridable


def other_vectors(texts: list[str]) -> np.ndarray:
    """Vectors of other texts than these."""
    return OLD_MODEL([f"# {text} of another file" for text in texts], None)


def test_what_is_below_the_bound_takes_a_reason(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path
) -> None:
    make_table(database, old=other_vectors)
    engine = opened(database, settings=settings(database, dead, tmp_path))
    with pytest.raises(Refused, match="text behind the old vectors") as refused:
        engine.bridge(rows=200)
    assert "--override bound=" in refused.value.hint
    snapshot = engine.snapshot()
    assert not snapshot.route.bridged
    assert snapshot.bridge is not None and snapshot.bridge.status.refused in refused.value.message
    report = engine.bridge(rows=200, override={"bound": "better than nothing"})
    assert report.served and report.embedded == 0 and report.status.refused
    assert any("bound (better than nothing)" in entry.detail for entry in engine.audit())


def two_models(texts: list[str]) -> np.ndarray:
    return np.concatenate([OLD_MODEL(texts[:300], None), model_function(3, OLD_SIZE)(texts[300:], None)])


def constant(texts: list[str]) -> np.ndarray:
    return np.ones((len(texts), OLD_SIZE), np.float32)


@pytest.mark.parametrize(
    ("rows", "old", "said"),
    [
        (ROWS, two_models, "vectors of two models"),
        (ROWS, constant, "different old vectors"),
        (40, None, "40 rows have both an old and a new vector"),
    ],
    ids=["two models", "constant", "few rows"],
)
def test_old_vectors_that_cannot_be_bridged_are_refused(
    database: str,
    dead: LoopbackServer,
    opened: Opener,
    tmp_path: Path,
    rows: int,
    old: Callable[..., np.ndarray] | None,
    said: str,
) -> None:
    make_table(database, rows, old)
    with pytest.raises(Refused, match=said):
        opened(database, settings=settings(database, dead, tmp_path)).bridge()
    assert value(database, "SELECT count(*) FROM embedtui.bridge") == 0


def test_rows_without_an_old_vector_or_without_text_are_left_out(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path
) -> None:
    make_table(database)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE documents SET embedding = NULL WHERE id % 3 = 0")
        conn.execute("UPDATE documents SET content = '  ' WHERE id % 5 = 0")
    report = opened(database, settings=settings(database, dead, tmp_path)).bridge()
    assert report.status.rows == report.embedded == sum(n % 3 != 0 and n % 5 != 0 for n in range(1, ROWS + 1))


def test_abort_waits_for_the_bridge_and_the_cutover_and_the_way_back_do_not(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path
) -> None:
    make_table(database)
    engine = opened(database, settings=settings(database, dead, tmp_path))
    engine.bridge()
    with pytest.raises(Refused, match="through the bridge"):
        engine.abort("documents")
    engine.run(threading.Event())
    engine.cutover(override={"gate": "a test"})
    assert not engine.snapshot().route.bridged
    assert found_by_router(database, [3, 30, 300]) == 1
    engine.rollback()
    assert engine.snapshot().route.bridged, "the old model is dead: the way back goes by the bridge"
    assert found_by_router(database, list(range(5, ROWS, 7))) > 0.9
    engine.bridge_off()
    engine.abort("documents")
    assert value(database, "SELECT count(*) FROM embedtui.bridge_row") == 0
    assert value(database, "SELECT count(*) FROM embedtui.bridge_sample") == 0


def test_a_pointer_that_moved_meanwhile_is_seen(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_table(database)
    engine = opened(database, settings=settings(database, dead, tmp_path))
    real = act.fit

    def slow(*arguments: Any, **more: Any) -> Any:
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("UPDATE embedtui.route SET epoch = epoch + 1")
        return real(*arguments, **more)

    monkeypatch.setattr(act, "fit", slow)
    with pytest.raises(Refused, match="moved meanwhile"):
        engine.bridge()
    assert not engine.snapshot().route.bridged
    monkeypatch.undo()
    assert engine.bridge().embedded == 0


def asked(logged: bool, judged: bool) -> list[QueryInput]:
    """Rows' own texts as queries: with the old model's vectors as a log has them, with the row as the right answer."""
    texts = [text_of(number) for number in range(10, 50)]
    vectors = OLD_MODEL(texts, None)
    return [
        QueryInput(
            text,
            (((text.split()[-1],), 1.0),) if judged else (),
            vector=tuple(map(float, vector)) if logged else (),
        )
        for text, vector in zip(texts, vectors, strict=True)
    ]


def test_queries_tell_how_real_ones_fare_beside_the_old_model(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path
) -> None:
    make_table(database)
    engine = opened(database, settings=settings(database, dead, tmp_path))
    found = engine.bridge(rows=300, serve=False, queries=asked(logged=True, judged=True)).status.queries
    assert found is not None and (found.queries, found.logged, found.judged, found.judged_old) == (40, 40, 40, 40)
    assert found.overlap is not None and 0.5 < found.overlap.mean <= 1
    assert found.ndcg_old is not None and found.ndcg_old.mean > 0.99, "each finds itself first"
    assert found.ndcg is not None and found.ndcg == found.ndcg_beside and found.ndcg.mean > 0.8
    assert found.ndcg_new is None, "half of the rows have no new vector yet"
    # the other way of looking at the same: the index's own results
    share = engine.bridge(rows=300)
    assert share.status.queries == found, "the queries are kept, and nothing is embedded again"
    snapshot = engine.snapshot()
    assert snapshot.route.bridge_found == share.status
    said = f"finds {percent(found.overlap.mean)} of what the old model found, 40 queries as served"
    assert in_words(share.status) == said
    fitted = next(entry.detail for entry in engine.audit() if "fitted on" in entry.detail)
    assert said in fitted and f"nDCG {found.ndcg.mean:.2f}, was {found.ndcg_old.mean:.2f}, 40 judged" in fitted
    engine.run(threading.Event())
    again = engine.bridge().status.queries
    assert again is not None and again.ndcg_new is not None and again.ndcg_new.mean > 0.9


def test_without_a_log_judgments_tell_and_without_either_nothing_is_claimed(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path
) -> None:
    make_table(database)
    engine = opened(database, settings=settings(database, dead, tmp_path))
    assert engine.bridge(rows=300, serve=False).status.queries is None
    plain = engine.bridge(rows=300, serve=False, queries=asked(logged=False, judged=False)).status
    assert plain.queries == BridgeQueries(40)
    judged = engine.bridge(rows=300, serve=False, queries=asked(logged=False, judged=True)).status
    assert judged.queries is not None and judged.queries.overlap is None and judged.queries.ndcg_old is None
    assert judged.queries.ndcg is not None and f"nDCG {judged.queries.ndcg.mean:.2f}, 40 judged" in in_full(judged)


def test_a_figure_that_cannot_be_had_keeps_nobody_from_searching(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path
) -> None:
    make_table(database)
    engine = opened(database, settings=settings(database, dead, tmp_path))
    dead.faults.add("unauthorized", containing="a question")
    report = engine.bridge(rows=300, queries=[QueryInput("a question that is refused")])
    assert report.served and report.status.queries is None


# ------------------------------------------------------------------------------------------------------------- kills

BRIDGE = """
import os, signal, sys
from pathlib import Path
from embedtui.engine import Engine
from embedtui.engine.bridge import act, sampling
from embedtui.config import load_settings

def killed(*arguments, **more):
    os.kill(os.getpid(), signal.SIGKILL)

where = sys.argv[1]
if where == "sampling":
    real = sampling.ReplyWriter.store
    def some(self, shard, outcome):
        done = real(self, shard, outcome)
        some.rows += done
        if some.rows >= 100:
            killed()
        return done
    some.rows = 0
    sampling.ReplyWriter.store = some
elif where == "fitting":
    act.fit = killed
elif where == "serving":
    act.move_bridge = killed
settings = load_settings(
    {"table": "documents", "old_model.name": sys.argv[3], "old_model.retired": True, "pacing.max_concurrency": 2,
     "new_model.max_inputs": 25}, environ=dict(os.environ), cwd=Path(sys.argv[2]))
print(Engine(settings.dsn, settings=settings).bridge(rows=300).embedded)
"""


@pytest.mark.parametrize("where", ["sampling", "fitting", "serving"])
@pytest.mark.variants(1)
def test_a_kill_costs_what_was_in_flight_and_the_next_one_goes_on(
    database: str, dead: LoopbackServer, tmp_path: Path, where: str
) -> None:
    make_table(database)

    def bridge(killed_at: str) -> subprocess.CompletedProcess[str]:
        here = settings(database, dead, tmp_path)
        return subprocess.run(
            [sys.executable, "-c", BRIDGE, killed_at, str(tmp_path), OLD],
            env={**here.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    assert bridge(where).returncode == -signal.SIGKILL
    assert not value(database, "SELECT bridging FROM embedtui.route")
    stored = value(database, "SELECT count(embedding_v2) FROM documents")
    assert stored >= 100 if where == "sampling" else stored == 300
    assert value(database, "SELECT count(*) FROM embedtui.bridge") == (where == "serving")
    done = bridge("")
    assert done.returncode == 0, done.stderr
    paid = Counter(text for text in dead.texts if text.startswith("document"))
    # at most what was in flight: two requests of 25
    assert sum(paid.values()) - len(paid) <= (50 if where == "sampling" else 0)
    assert found_by_router(database, list(range(5, ROWS, 7))) > 0.9
    assert value(database, "SELECT bridging FROM embedtui.route")


def test_stopped_it_goes_on(database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path) -> None:
    make_table(database)
    dead.latency = 0.3
    flags = {"pacing.max_concurrency": 1, "new_model.max_inputs": 20}
    engine = opened(database, settings=settings(database, dead, tmp_path, flags))
    stop, failed = threading.Event(), []

    def work() -> None:
        try:
            engine.bridge(stop=stop)
        except EmbedtuiError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: value(database, "SELECT to_regclass('embedtui.shard')") and engine.snapshot().backfill.rows > 30)
    stop.set()
    thread.join(60)
    assert isinstance(failed[0], Interrupted)
    dead.latency = 0
    report = engine.bridge()
    assert 0 < report.embedded < ROWS and report.status.rows == ROWS
    assert max(Counter(text for text in dead.texts if text.startswith("document")).values()) == 1


# --------------------------------------------------------------------------------------------------------- bad input


def test_another_tables_vectors_are_refused(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path
) -> None:
    make_table(
        database, old=lambda texts: OLD_MODEL([f"article number {len(texts) - n}" for n in range(len(texts))], None)
    )
    with pytest.raises(Refused, match="find themselves among the first ten"):
        opened(database, settings=settings(database, dead, tmp_path)).bridge()
    assert value(database, "SELECT count(*) FROM embedtui.bridge_row") == 0


@pytest.mark.parametrize("size", [8, 40], ids=["grow", "shrink"])
def test_models_of_fewer_and_of_more_dimensions_are_bridged(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path, size: int
) -> None:
    dead.models = {NEW: model_function(1, size)}
    make_table(database)
    engine = opened(database, settings=settings(database, dead, tmp_path, {"new_model.dimensions": size}))
    report = engine.bridge(override={"bound": "a test"})
    assert report.status.rows == ROWS
    with Router(database) as router, psycopg.connect(database) as conn:
        route = router.route("documents")
        assert (route.bridged, route.dimensions) == (True, size)
        assert len(route.search(conn, model_function(1, size)([text_of(3)], None)[0], k=3)) == 3
        with pytest.raises(Refused, match=f"makes {size} dimensions, the vector has {OLD_SIZE}"):
            route.search(conn, OLD_MODEL([text_of(3)], None)[0])


def test_old_vectors_of_several_sizes_are_refused_before_anything_is_made(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path
) -> None:
    make_table(database)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("DROP INDEX documents_embedding_idx")
        conn.execute("ALTER TABLE documents ALTER COLUMN embedding TYPE vector")
        conn.execute("UPDATE documents SET embedding = subvector(embedding, 1, 12) WHERE id % 2 = 0")
    engine = opened(database, settings=settings(database, dead, tmp_path, {"old_model.dimensions": OLD_SIZE}))
    with pytest.raises(EmbedtuiError, match=r"of several models: 12 \(300 rows\), 24 \(300 rows\)"):
        engine.bridge()
    assert not dead.texts or value(database, "SELECT count(*) FROM embedtui.bridge_row") == 0


@pytest.mark.parametrize("kind", [FaultKind.NAN, FaultKind.ZERO])
def test_what_the_provider_breaks_never_reaches_a_map(
    database: str, dead: LoopbackServer, opened: Opener, tmp_path: Path, kind: FaultKind
) -> None:
    make_table(database)
    engine = opened(database, settings=settings(database, dead, tmp_path))
    engine.prepare()
    dead.faults.add(kind, times=3, containing="document number")
    report = engine.bridge(rows=300)
    assert report.status.refused == "" and report.status.figures.recall_10.mean > 0.9
