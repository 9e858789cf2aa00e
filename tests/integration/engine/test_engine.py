"""The engine from prepare to validate against a real database and a real HTTP API: complete, resumable, honest."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import psycopg
import pytest

from embedtui.config import load_settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.errors import DatabaseError, ProviderError, Refused
from embedtui.model import Condition, Event, Phase, PhaseChanged
from embedtui.postgres.state import schema, shards
from tests.kits.support import connect, following, make_documents, settings_for, two_beats, wait_for


def engine_for(database: str, api: LoopbackServer, folder: Path, **flags: object) -> Engine:
    return Engine(database, settings=settings_for(database, api, folder, flags))


def stored(database: str, column: str = "embedding_v2") -> dict[int, list[float]]:
    with psycopg.connect(database) as conn:
        return dict(conn.execute(f"SELECT id, {column}::real[] FROM documents WHERE {column} IS NOT NULL"))


@pytest.mark.parametrize(
    "own",
    [
        {"new_model.extra_body": {"input_type": "passage"}},
        {"new_model.extra_body": {"query": {"task": "search"}, "document": {"zeta": 1, "task": "index", "alpha": 2}}},
        {"new_model.headers": {"X-Team": "search"}, "new_model.extra_body": {"document": {"late_chunking": False}}},
    ],
    ids=["of both", "of each", "beside headers"],
)
@pytest.mark.parametrize("named", [True, False], ids=["table named", "only followed"])
def test_what_is_sent_beside_a_text_begins_a_migration_and_goes_on_with_it(
    database: str, api: LoopbackServer, tmp_path: Path, own: dict[str, object], named: bool
) -> None:
    make_documents(database, 30)
    events: list[Event] = []
    with contextlib.closing(engine_for(database, api, tmp_path, **own)) as first:
        assert first.run(threading.Event()).phase is Phase.VALIDATE
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = 'edited' WHERE id = 7")
    flags = own if named else {"table": None, "old_model.name": None, **own}
    second = Engine(database, settings=settings_for(database, api, tmp_path, flags), on_event=events.append)
    with contextlib.closing(second):
        second.run(threading.Event())
        assert second.verify(sample=5).clean
    assert stored(database)[7] == pytest.approx(hash_model(16)(["edited"], None)[0].tolist(), abs=1e-6)
    assert not [event for event in events if "extra_body" in event.text], (
        "the order of a table's names is no difference"
    )
    third = engine_for(database, api, tmp_path, **{"new_model.extra_body": {"other": 1}})
    with contextlib.closing(third), pytest.raises(ProviderError, match="the vectors of new-model were made with"):
        third.run(threading.Event())


PLACEMENTS = pytest.mark.parametrize("placement", ["column", "table"])


@PLACEMENTS
def test_every_row_gets_the_vector_of_its_text(
    database: str, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    make_documents(database, 1500, index=True)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("INSERT INTO documents (id, content) VALUES (9001, NULL), (9002, ''), (9003, E' \\n\\t')")
    events: list[Event] = []
    settings = settings_for(database, api, tmp_path, {"placement": placement})
    engine = Engine(database, settings=settings, on_event=events.append)
    snapshot = engine.run(threading.Event())
    assert snapshot.phase is Phase.VALIDATE
    assert snapshot.index.valid
    assert snapshot.backfill.rows == snapshot.backfill.total
    assert snapshot.backfill.total in (1500, 1501), "of the three rows without a text, the blanks may count"
    report = engine.verify(sample=50)
    assert report.clean
    assert (report.rows, report.empty, report.embedded, report.sampled) == (1503, 3, 1500, 50)
    assert api.inputs - 50 - 2 * 2 == 1500, "two words at each of two starts; nothing is paid for twice"
    phases = [event.phase for event in events if isinstance(event, PhaseChanged)]
    assert phases == [Phase.PREPARE, Phase.BACKFILL, Phase.INDEX, Phase.VALIDATE]
    if placement == "column":
        vectors = stored(database)
        want = hash_model(16)(["document number 77"], None)[0]
        assert vectors[77] == pytest.approx(want.tolist(), abs=1e-6)
    engine.close()


def test_a_second_run_pays_nothing(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 200)
    engine = engine_for(database, api, tmp_path)
    engine.run(threading.Event())
    inputs = api.inputs
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    assert api.inputs == inputs + 2, "the words of the start"
    engine.close()


def test_until_stops_early_and_the_rest_follows(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 3000, text="row {n} " + "x" * 600)
    api.latency = 0.5  # what is in flight when the share is reached is stored as well
    engine = engine_for(database, api, tmp_path, **{"pacing.max_concurrency": 1})
    snapshot = engine.run(threading.Event(), until=10)
    api.latency = 0.0
    assert snapshot.phase is Phase.BACKFILL
    assert snapshot.backfill.rows >= 300
    engine.run(threading.Event())
    assert engine.verify().clean
    engine.close()


def test_edits_and_inserts_during_the_backfill_are_followed(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 2000)
    api.latency = 0.05
    engine = engine_for(database, api, tmp_path)
    engine.prepare()
    done = threading.Event()

    def write() -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            number = 10_000
            while not done.is_set():
                number += 1
                conn.execute("UPDATE documents SET content = %s WHERE id = %s", [f"edit {number}", number % 2000 + 1])
                conn.execute("INSERT INTO documents (id, content) VALUES (%s, %s)", [number, f"insert {number}"])
                conn.execute("DELETE FROM documents WHERE id = %s", [number - 50])
                time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        engine.run(threading.Event())
    finally:
        done.set()
        writer.join()
    engine.run(threading.Event())
    report = engine.verify(sample=100)
    assert report.clean, report
    assert report.sampled == 100
    engine.close()


def test_both_sides_are_compared_under_the_applications_filter(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 60)
    with contextlib.closing(engine_for(database, api, tmp_path, **{"gate.where": "id % 2 = 0"})) as engine:
        engine.run(threading.Event())
    access = {"OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}
    with contextlib.closing(Engine(database, environ=access)) as screen:  # knows no settings, and runs nobody's SQL
        with pytest.raises(Refused, match=r"gate\.where"):
            screen.compare()
        made = screen.compare(where="id % 2 = 0")
        assert made.where == "id % 2 = 0"
        found = [int(row.key[0]) for query in made.queries for row in (*query.old, *query.new)]
        assert found and all(key % 2 == 0 for key in found)
        assert screen.compare(where="").where == ""


def test_an_older_schema_is_said_and_the_next_run_upgrades_it(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_documents(database, 40)
    with connect(database, name="test") as conn, monkeypatch.context() as older:
        older.setattr(schema, "VERSION", 1)
        schema.install(conn)
        assert conn.execute("SELECT to_regclass('embedtui.hold')::text").fetchone() == ("embedtui.hold",)
        # a worker of the migration that will be the first, killed
        conn.execute(
            "SET session_replication_role = replica; INSERT INTO embedtui.worker (migration, host, pid, threads)"
            """ VALUES (1, 'elsewhere', 1, '[["embed-1", "embedding 5 rows"]]')"""
        )
    with contextlib.closing(engine_for(database, api, tmp_path)) as engine:
        with pytest.raises(DatabaseError, match=rf"is version 1, this program knows {schema.VERSION}") as refused:
            engine.snapshot()
        assert "embedtui run" in refused.value.hint
        assert engine.run(threading.Event()).phase is Phase.VALIDATE
        with connect(database, name="test") as conn:
            assert schema.installed_version(conn) == schema.VERSION
            conn.execute("INSERT INTO embedtui.schema_version (version) VALUES (99)")
        with pytest.raises(DatabaseError, match="is version 99"):
            engine.run(threading.Event())


def test_pausing_holds_and_resuming_goes_on(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 3000, text="row {n} " + "x" * 600)
    api.latency = 0.3  # the pause meets it at work
    engine = engine_for(database, api, tmp_path, **{"pacing.max_concurrency": 1})
    other = Engine(database)
    with following(engine):
        wait_for(lambda: other.snapshot().backfill.rows > 0)
        other.pause("lunch")
        wait_for(lambda: not api_grows(api))
        snapshot = other.snapshot()
        assert snapshot.condition is Condition.PAUSED
        assert snapshot.reasons[0].detail == "lunch"
        assert snapshot.backfill.rows < 3000
        other.resume()
        api.latency = 0.0
        other.set_pace(max_concurrency=8)
        other.set_pace(tokens_per_minute=0.0, requests_per_minute=60_000.0)
        told = {entry.detail for entry in other.audit() if entry.act == "pace"}
        assert told == {"requests in flight: at most 8", "60,000 requests a minute, no limit of tokens a minute"}
        wait_for(lambda: other.snapshot().phase is Phase.VALIDATE)
        (before,) = other.snapshot().workers
        other.reload()
        wait_for(lambda: [each.id for each in other.snapshot().workers] not in ([], [before.id]))
        (after,) = other.snapshot().workers
        assert (after.pid, after.rows) == (before.pid, 3000), "it goes on counting where it begins anew"
    assert other.verify().clean
    engine.close()
    other.close()


def test_threads_that_wait_for_the_limit_say_so_and_not_that_they_embed(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 600)
    engine = engine_for(database, api, tmp_path, **{"new_model.max_inputs": 2, "pacing.tokens_per_minute": 60.0})
    with following(engine), contextlib.closing(Engine(database)) as screen:

        def told() -> bool:
            doing = {thread.doing for worker in screen.snapshot().workers for thread in worker.threads}
            return "waiting for the limit of 60 tokens a minute" in doing and "embedding 2 rows" not in doing

        wait_for(told)
    engine.close()


def test_two_operators_who_each_lower_the_limit_lower_it_twice_and_never_below_one(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 5)
    with contextlib.closing(engine_for(database, api, tmp_path, **{"pacing.max_concurrency": 4})) as engine:
        engine.run(threading.Event())
        with contextlib.closing(Engine(database)) as other:
            seen = [each.snapshot().backfill.max_concurrency for each in (engine, other)]
            steps = [each.change_concurrency(-1) for each in (engine, other, other, engine)]
            assert (seen, steps) == ([4, 4], [(4, 3), (3, 2), (2, 1), (1, 1)])
            told = [entry.detail for entry in other.audit() if entry.act == "pace"]
            assert sorted(told) == [f"requests in flight: at most {now}" for now in (1, 2, 3)]
            assert other.change_concurrency(1000) == (1, 256), "as the settings have it"


def test_what_is_not_on_the_wire_when_it_is_paused_is_not_sent(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 600)
    flags = {"new_model.max_inputs": 2, "pacing.requests_per_minute": 600.0, "pacing.max_concurrency": 16}
    engine = engine_for(database, api, tmp_path, **flags)
    other = Engine(database)
    with following(engine):
        wait_for(lambda: api.requests >= 10)  # sixteen wait for their turn in the pace now
        other.pause("lunch")
        two_beats(database)
        sent = api.requests
        two_beats(database)
        two_beats(database)
        assert api.requests == sent
        snapshot = other.snapshot()
        assert (snapshot.condition, snapshot.backfill.in_flight) == (Condition.PAUSED, 0)
        other.resume()
        wait_for(lambda: api.requests > sent)
    engine.close()
    other.close()


def api_grows(api: LoopbackServer) -> bool:
    before = api.requests
    time.sleep(1.5)
    return api.requests > before


def test_a_run_that_follows_reads_its_settings_again_when_it_is_resumed(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 60)
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-of-last-year-123\n")
    (tmp_path / "embedtui.toml").write_text("[new_model]\nmax_inputs = 50\n")
    flags = {"table": "documents", "old_model.name": "old-model", "old_model.retired": True}
    named = {"new_model.name": "new-model", "new_model.dimensions": 16, "new_model.base_url": api.base_url}
    settings = load_settings({**flags, **named}, environ={"DATABASE_URL": database}, cwd=tmp_path)
    engine, other = Engine(database, settings=settings), Engine(database)
    engine.prepare()
    with following(engine):
        wait_for(lambda: other.snapshot().condition is Condition.FAILED)
        (tmp_path / ".env").write_text(f"OPENAI_API_KEY={api.key}\n")
        (tmp_path / "embedtui.toml").write_text("[new_model]\nmax_inputs = 7\n")
        other.resume()
        wait_for(lambda: other.snapshot().phase is Phase.VALIDATE)
    assert any("max_inputs is 7 here" in entry.detail for entry in other.audit() if entry.act == "settings")
    engine.close()
    other.close()


def test_a_wrong_key_stops_at_once_and_poisons_no_row(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 1000)
    settings = settings_for(database, api, tmp_path, OPENAI_API_KEY="sk-wrong-key-123456")
    engine = Engine(database, settings=settings)
    engine.prepare()
    with pytest.raises(ProviderError) as caught:
        engine.run(threading.Event())
    assert "sk-wrong" not in str(caught.value)
    snapshot = engine.snapshot()
    assert snapshot.condition is Condition.FAILED
    assert snapshot.faulty == 0
    assert api.requests <= 16
    engine.close()
    mended = engine_for(database, api, tmp_path)
    mended.run(threading.Event())
    assert mended.verify().clean
    mended.close()


def test_what_cannot_work_is_refused_before_anything_is_changed(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    """By whatever face the run is started."""
    make_documents(database, 10)
    engine = Engine(database, settings=settings_for(database, api, tmp_path, OPENAI_API_KEY="sk-wrong-key-123456"))
    with pytest.raises(ProviderError):
        engine.run(threading.Event(), follow=True)
    assert engine.migration() is None
    engine.close()
    first = engine_for(database, api, tmp_path)
    first.prepare()
    first.close()
    other = engine_for(database, api, tmp_path, **{"new_model.dimensions": 12})
    with pytest.raises(Refused, match="under way with dimensions 16"):
        other.run(threading.Event())
    other.close()


def test_a_rejected_text_is_isolated_and_can_be_decided(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 300)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = repeat('word ', 20000) WHERE id IN (5, 150)")
        conn.execute("UPDATE documents SET content = repeat('w', 300000) WHERE id = 6")
    engine = engine_for(database, api, tmp_path)
    snapshot = engine.run(threading.Event())
    assert snapshot.phase is Phase.VALIDATE
    assert snapshot.faulty == 3
    report = engine.verify()
    assert not report.clean and (report.faulty, report.missing, report.embedded) == (3, 0, 297)
    faults = {fault.key: fault for fault in engine.faults()}
    assert set(faults) == {("5",), ("6",), ("150",)}
    engine.truncate_faults([faults["5",].id, faults["6",].id])
    engine.skip_faults([faults["150",].id])
    engine.run(threading.Event())
    report = engine.verify()
    assert report.clean, report
    assert (report.embedded, report.skipped) == (299, 1)
    engine.close()


def test_two_engines_share_the_work(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BLOCKS", (64, 2048))  # as many shards as a large table has
    make_documents(database, 6000, text="row {n} " + "x" * 900)
    api.latency = 0.5  # until both are there
    engines = [engine_for(database, api, tmp_path, **{"pacing.max_concurrency": 4}) for _ in range(2)]
    engines[0].prepare()
    threads = [threading.Thread(target=lambda e=e: e.run(threading.Event())) for e in engines]
    for thread in threads:
        thread.start()
    seen = 0
    while any(thread.is_alive() for thread in threads):
        seen = max(seen, sum(worker.alive and worker.rows > 0 for worker in engines[0].snapshot().workers))
        if seen == 2:
            api.latency = 0.0
        time.sleep(0.05)
    assert seen == 2
    assert api.inputs - 6000 in (2, 4), "each that starts asks for two words first"
    assert engines[0].verify().clean
    for engine in engines:
        engine.close()


def test_acts_without_a_migration_are_refused(database: str) -> None:
    engine = Engine(database)
    assert engine.snapshot().migration is None
    with pytest.raises(Refused):
        engine.pause()
    engine.close()


def test_the_index_is_held_back_and_let_go(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """Held before it begins, and while it is being built; sync goes on meanwhile, and what was begun is taken away."""
    make_documents(database, 300, index=True)
    engine, operator = engine_for(database, api, tmp_path), engine_for(database, api, tmp_path)
    engine.prepare()
    operator.hold_index()
    with following(engine):
        wait_for(lambda: [hold.name for hold in operator.snapshot().reasons] == ["index"])
        assert operator.snapshot().phase is Phase.INDEX
        assert operator.snapshot().migration.index_held
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("UPDATE documents SET content = 'edited while held' WHERE id = 1")
            wait_for(lambda: operator.snapshot().sync.queued == 0)
            # an open writer keeps the build waiting, so that it can be held in the midst of it
            with psycopg.connect(database) as writer:
                writer.execute("UPDATE documents SET content = 'open' WHERE id = 2")
                operator.hold_index(False)
                wait_for(lambda: operator.snapshot().index.phase)
                operator.hold_index()
                wait_for(lambda: [hold.name for hold in operator.snapshot().reasons] == ["index"])
                wait_for(lambda: not operator.snapshot().index.phase)
            operator.hold_index(False)
        wait_for(lambda: operator.snapshot().phase is Phase.VALIDATE)
        assert operator.snapshot().index.valid
        with pytest.raises(Refused, match="no index any more"):
            operator.hold_index()
        acts = [entry.act for entry in operator.audit()]
        assert acts.count("hold index") == acts.count("release index") == 2
    engine.close()
    operator.close()
