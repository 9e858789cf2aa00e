"""The backfill by batch jobs: half the price, and whatever becomes of a job, each row embedded and counted once."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.api.batches import Order
from embedtui.engine import Engine
from embedtui.engine.backfill.batch import filling, jobs, making
from embedtui.engine.plan.plan import make_plan
from embedtui.errors import EmbedtuiError, Interrupted, ProviderError
from embedtui.model import Event, Snapshot
from embedtui.postgres.state import schema
from embedtui.postgres.state.batches import read_batches
from tests.kits.support import connect, make_documents, settings_for, two_beats, wait_for

ROWS = 2000
PRICE = 0.13
"""Per million tokens at the live endpoint."""


@pytest.fixture
def engine(database: str, api: LoopbackServer, tmp_path: Path) -> Iterator[Engine]:
    make_documents(database, ROWS, text="row {n} " + "x" * 60)
    made = engine_for(database, api, tmp_path)
    yield made
    made.close()


def engine_for(
    database: str, api: LoopbackServer, folder: Path, on_event: Callable[[Event], None] | None = None, **flags: object
) -> Engine:
    settings = settings_for(
        database,
        api,
        folder,
        {
            "new_model.batch": True,
            "new_model.price_per_million": PRICE,
            "new_model.batch_inputs": 500,
            "old_model.retired": True,
            "index.method": "none",
            **{name.replace("__", "."): value for name, value in flags.items()},
        },
    )
    return Engine(database, settings=settings, on_event=on_event)


def run(engine: Engine) -> Snapshot:
    return engine.run(threading.Event())


def every_vector_is_right(database: str) -> bool:
    model = hash_model(16)
    with psycopg.connect(database) as conn:
        table = conn.execute("SELECT new_table, new_column FROM embedtui.migration").fetchone()
        assert table is not None
        source = "documents" if table[0] == "documents" else f"documents JOIN {table[0]} v USING (id)"
        column = table[1] if table[0] == "documents" else f"v.{table[1]}"
        rows = conn.execute(f"SELECT content, {column}::real[] FROM {source}").fetchall()
    want = model([content for content, _ in rows], None)
    return len(rows) == ROWS and np.allclose(np.array([vector for _, vector in rows]), want, atol=1e-5)


def live(api: LoopbackServer) -> list[str]:
    """Rows' texts that the live endpoint was asked for."""
    return [text for text in api.texts if text.startswith("row ")]


def money_is_right(snapshot: Snapshot, api: LoopbackServer) -> bool:
    """To the token: the API's own counts, by their prices, but for the words that test the model at the start."""
    alive = sum(api.count_tokens(text) for text in live(api))
    want = (alive * PRICE + api.batches.tokens * PRICE / 2) / 1e6
    return snapshot.backfill.spent == pytest.approx(want, abs=1e-12)


def settled(database: str) -> bool:
    """No job is under way, no line is left, and what the jobs reserved is what they cost."""
    with psycopg.connect(database) as conn:
        row = conn.execute(
            "SELECT (SELECT count(*) FROM embedtui.batch_line),"
            " (SELECT count(*) FROM embedtui.batch_job WHERE ended_at IS NULL OR reserved <> 0),"
            " (SELECT count(*) FROM embedtui.shard WHERE state <> 'done')"
        ).fetchone()
    return row == (0, 0, 0)


@pytest.mark.parametrize("placement", ["column", "table"])
def test_jobs_embed_all_at_half_the_price(database: str, api: LoopbackServer, tmp_path: Path, placement: str) -> None:
    make_documents(database, ROWS, text="row {n} " + "x" * 60)
    engine = engine_for(database, api, tmp_path, placement=placement)
    snapshot = run(engine)
    assert every_vector_is_right(database)
    assert len(live(api)) < making.TAIL_INPUTS, "the tail is not worth a job"
    assert api.batches.inputs == ROWS - len(live(api))
    assert snapshot.batch.count == ROWS // 500
    assert (snapshot.batch.rows, snapshot.batch.jobs) == (api.batches.inputs, ())
    assert snapshot.batch.spent == pytest.approx(api.batches.tokens * PRICE / 2 / 1e6)
    assert money_is_right(snapshot, api)
    assert settled(database)
    assert not api.batches.files, "texts and vectors are taken away from the provider"
    engine.close()


def twice(lines: list[bytes]) -> list[bytes]:
    return [*lines, *lines, lines[0]]


def broken(lines: list[bytes]) -> list[bytes]:
    return [lines[0][: len(lines[0]) // 2], b"<html>", b"", b"[]", b"null", b'{"custom_id": 7}', *lines[1:]]


def narrow(lines: list[bytes]) -> list[bytes]:
    """The first line's vectors are one number short."""
    head, mark, rest = lines[0].partition(b'"embedding": "')
    return [head + mark + rest[4:], *lines[1:]]


@pytest.mark.parametrize("spoil", [twice, broken, narrow], ids=lambda each: each.__name__)
def test_an_odd_output_file_costs_no_more_than_its_own_lines(
    database: str, api: LoopbackServer, engine: Engine, spoil: Callable[[list[bytes]], list[bytes]]
) -> None:
    api.batches.orders.append(Order(spoil=spoil))
    snapshot = run(engine)
    assert every_vector_is_right(database)
    paid = [*live(api), *api.batches.texts]
    assert len(paid) <= ROWS + filling.LINE_INPUTS, "paid again is what a line held"
    assert settled(database)
    assert snapshot.faulty == 0
    if spoil is not broken:  # whose broken line was paid, and does not say so
        assert money_is_right(snapshot, api)


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_what_an_unfinished_job_has_is_stored_and_the_rest_goes_into_the_next(
    database: str, api: LoopbackServer, engine: Engine, end: str
) -> None:
    api.batches.orders += [Order(end, share=0.5), Order(end, share=0.0)]
    snapshot = run(engine)
    assert every_vector_is_right(database)
    assert len(live(api)) < making.TAIL_INPUTS
    assert len(live(api)) + api.batches.inputs == ROWS, "nothing is paid for twice"
    assert money_is_right(snapshot, api)
    assert settled(database)


def test_a_job_that_fails_its_checks_is_made_again(database: str, api: LoopbackServer, engine: Engine) -> None:
    api.batches.orders += [Order("failed"), Order("failed")]
    snapshot = run(engine)
    assert every_vector_is_right(database)
    assert len(live(api)) + api.batches.inputs == ROWS
    assert money_is_right(snapshot, api)


def test_jobs_that_bring_nothing_pause_the_run_and_it_goes_on_at_the_live_endpoint(
    database: str, api: LoopbackServer, engine: Engine, tmp_path: Path
) -> None:
    api.batches.orders += [Order("failed")] * 50
    with pytest.raises(EmbedtuiError, match=r"brought nothing.*internal_error") as refused:
        run(engine)
    assert "--no-batch" in str(refused.value.hint)
    assert not live(api)
    other = engine_for(database, api, tmp_path, new_model__batch=False)
    snapshot = run(other)
    other.close()
    assert every_vector_is_right(database)
    assert not api.batches.inputs
    assert money_is_right(snapshot, api)


def test_an_endpoint_without_batch_jobs_is_refused_with_what_to_set(api: LoopbackServer, engine: Engine) -> None:
    api.batches.failures.append(("POST /v1/files", 404))
    with pytest.raises(EmbedtuiError, match="takes no batch job") as refused:
        run(engine)
    assert "new_model.batch = false" in str(refused.value.hint)


def test_a_file_that_is_gone_costs_one_job(
    database: str, api: LoopbackServer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "FILE_GONE_SECONDS", 0.5)
    api.batches.orders.append(Order(vanish=True))
    run(engine)
    assert every_vector_is_right(database)
    assert len(live(api)) + api.batches.inputs <= ROWS + 500
    assert settled(database)


def test_a_job_that_the_provider_forgets_costs_one_job(
    database: str, api: LoopbackServer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "JOB_GONE_SECONDS", 0.5)
    api.batches.orders.append(Order(forget=True))
    run(engine)
    assert every_vector_is_right(database)
    assert len(live(api)) + api.batches.inputs <= ROWS + 500
    assert settled(database)


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_the_cap_on_enqueued_tokens_is_kept(
    database: str, api: LoopbackServer, engine: Engine, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    tokens = sum(api.count_tokens(f"row {n} " + "x" * 60) for n in range(1, ROWS + 1))
    api.batches.enqueued_limit = tokens // 3
    api.batches.seconds = 0.3
    if not told:
        monkeypatch.setattr("embedtui.providers.openai_batches._LIMIT", re.compile("(never)"))
    snapshot = run(engine)
    assert every_vector_is_right(database)
    assert len(live(api)) + api.batches.inputs == ROWS
    assert money_is_right(snapshot, api)
    assert api.batches.refused <= 4


def test_a_text_that_is_refused_takes_no_other_with_it(database: str, api: LoopbackServer, engine: Engine) -> None:
    with psycopg.connect(database) as conn:
        conn.execute("UPDATE documents SET content = 'row 77 POISON' WHERE id = 77")
    api.faults.add("rejected", containing="POISON")
    snapshot = run(engine)
    assert snapshot.faulty == 1
    assert len(live(api)) + api.batches.inputs == ROWS - 1
    assert money_is_right(snapshot, api)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [("POST /v1/files", 500), ("POST /v1/files", 0), ("POST /v1/batches", 429), ("POST /v1/batches", 0)],
)
@pytest.mark.variants(2)
def test_trouble_with_a_request_makes_no_job_twice(
    database: str, api: LoopbackServer, engine: Engine, request_line: str, status: int
) -> None:
    api.batches.failures += [(request_line, status), (request_line, status)]
    snapshot = run(engine)
    assert every_vector_is_right(database)
    assert len(live(api)) + api.batches.inputs == ROWS, "paid once"
    assert money_is_right(snapshot, api)
    assert len(api.batches.jobs) == snapshot.batch.count


def test_the_spend_cap_holds_with_what_jobs_may_cost(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, ROWS, text="row {n} " + "x" * 60)
    cap = ROWS * 17 * PRICE / 2 / 1e6 / 2
    engine = engine_for(database, api, tmp_path, pacing__spend_cap=cap)
    stop = threading.Event()
    ended = threading.Thread(target=lambda: stopped(engine, stop), daemon=True)
    ended.start()
    wait_for(lambda: any(hold.name == "spend_cap" for hold in engine.snapshot().reasons), "no hold")
    spent = engine.snapshot().backfill.spent
    assert spent is not None
    assert 0 < spent <= cap
    engine.set_pace(spend_cap=100.0)
    ended.join(60)
    assert not ended.is_alive()
    assert every_vector_is_right(database)
    engine.close()


def stopped(engine: Engine, stop: threading.Event) -> None:
    try:
        engine.run(stop)
    except Interrupted:
        pass


def test_jobs_outlive_their_run_and_are_taken_by_the_next_from_anywhere(
    database: str, api: LoopbackServer, engine: Engine, tmp_path: Path
) -> None:
    api.batches.seconds = 2.0
    stop = threading.Event()
    first = threading.Thread(target=lambda: stopped(engine, stop), daemon=True)
    first.start()
    wait_for(lambda: len(api.batches.jobs) == ROWS // 500, "no jobs")
    stop.set()
    first.join(60)
    waiting = engine.snapshot().batch
    assert waiting.waiting == sum(job.inputs for job in waiting.jobs) > 0
    with psycopg.connect(database) as conn:
        leased = conn.execute("SELECT count(*) FROM embedtui.shard WHERE state = 'leased'").fetchone()
    assert leased == (0,)
    other = engine_for(database, api, tmp_path, new_model__batch=False)
    snapshot = run(other)
    other.close()
    assert every_vector_is_right(database)
    assert len(live(api)) + api.batches.inputs == ROWS
    assert money_is_right(snapshot, api)


def test_two_workers_share_the_jobs(database: str, api: LoopbackServer, engine: Engine, tmp_path: Path) -> None:
    api.batches.seconds = 0.5
    engine.prepare()
    engines = [engine, engine_for(database, api, tmp_path)]
    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()
    assert every_vector_is_right(database)
    assert len(live(api)) + api.batches.inputs == ROWS
    assert money_is_right(engine.snapshot(), api)
    assert settled(database)
    engines[1].close()


def test_edits_meanwhile_go_to_the_live_endpoint_at_once_and_stay(
    database: str, api: LoopbackServer, engine: Engine
) -> None:
    api.batches.seconds = 4.0
    worker = threading.Thread(target=run, args=(engine,), daemon=True)
    worker.start()
    wait_for(lambda: len(api.batches.jobs) == ROWS // 500, "no jobs")
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = 'row 5 edited' WHERE id = 5")
        fresh = "SELECT embedding_v2 IS NOT NULL FROM documents WHERE id = 5"
        wait_for(lambda: conn.execute(fresh).fetchone() == (True,), "not synced")
        assert engine.snapshot().batch.jobs, "they are still under way"
    worker.join(60)
    assert every_vector_is_right(database), "the job's stale vector did not land"


def test_a_pause_sends_no_job_and_takes_none(database: str, api: LoopbackServer, engine: Engine) -> None:
    api.batches.seconds = 1.0
    stop = threading.Event()
    worker = threading.Thread(target=lambda: stopped(engine, stop), daemon=True)
    worker.start()
    wait_for(lambda: api.batches.jobs, "no job")
    engine.pause("lunch")
    two_beats(database)
    made = len(api.batches.jobs)
    wait_for(lambda: all(api.batches._job(name).status == "completed" for name in list(api.batches.jobs)), "not done")
    snapshot = engine.snapshot()
    assert len(api.batches.jobs) <= made + 1, "at most one was on the wire"
    assert snapshot.batch.rows == 0
    assert snapshot.batch.jobs
    engine.resume()
    worker.join(60)
    assert every_vector_is_right(database)
    assert len(live(api)) + api.batches.inputs == ROWS


def test_an_abort_ends_the_jobs_at_the_provider_and_no_other(
    database: str, api: LoopbackServer, engine: Engine
) -> None:
    api.batches.seconds = 3600.0
    stop = threading.Event()
    worker = threading.Thread(target=lambda: stopped(engine, stop), daemon=True)
    worker.start()
    wait_for(lambda: len(engine.snapshot().batch.jobs) == ROWS // 500, "no jobs")
    wait_for(lambda: all(job.batch for job in engine.snapshot().batch.jobs), "not sent")
    stop.set()
    worker.join(60)
    stranger = api.batches._create({**ORDER, "input_file_id": api.batches._keep(b""), "metadata": {"theirs": "yes"}})
    with psycopg.connect(database) as conn:  # a worker's role could write another team's job there
        conn.execute(
            "UPDATE embedtui.batch_job SET batch = %s WHERE id = (SELECT min(id) FROM embedtui.batch_job)",
            [stranger.id],
        )
    said = engine.abort("documents")
    assert f"{ROWS // 500 - 1} batch jobs ended" in said
    states = {name: job.status for name, job in api.batches.jobs.items()}
    assert states.pop(stranger.id) == "in_progress"
    assert sorted(states.values()) == ["cancelled"] * (ROWS // 500 - 1) + ["in_progress"]
    with psycopg.connect(database) as conn:
        assert conn.execute("SELECT count(*) FROM embedtui.batch_line").fetchone() == (0,)
        assert conn.execute("SELECT sum(reserved) FROM embedtui.batch_job").fetchone() == (0,)
        spent = conn.execute("SELECT spent_tokens FROM embedtui.pace").fetchone()
    assert spent is not None
    assert spent[0] <= sum(map(api.count_tokens, api.texts)), "nothing stays reserved"


ORDER = {"endpoint": "/v1/embeddings", "completion_window": "24h"}


def test_a_line_of_another_table_is_not_written(database: str, api: LoopbackServer, engine: Engine) -> None:
    """A worker's role may write lines and shards: a shard that names another table is left alone."""
    api.batches.seconds = 1.5
    make_documents(database, 500, table="salaries", text="row {n} " + "x" * 60)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            "ALTER TABLE salaries ADD embedding_v2 vector(16), ADD embedding_v2_model int,"
            " ADD embedding_v2_source bigint"
        )

        def work() -> None:
            with contextlib.suppress(ProviderError):  # jobs whose lines are left alone bring nothing
                stopped(engine, threading.Event())

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        wait_for(lambda: api.batches.jobs and engine.snapshot().batch.jobs, "no job")
        conn.execute("UPDATE embedtui.shard SET leaf = 'salaries'::regclass WHERE state = 'batch'")
        worker.join(90)
        assert not worker.is_alive()
        written = conn.execute("SELECT count(embedding_v2) FROM salaries").fetchone()
    assert written == (0,)


def test_the_state_of_an_older_version_is_upgraded_with_its_shards(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = schema.VERSION
    with connect(database) as conn:
        monkeypatch.setattr(schema, "VERSION", 8)
        schema.install(conn)
        conn.execute(
            "INSERT INTO embedtui.model (provider, name, dimensions, max_inputs, max_tokens, max_input_tokens,"
            " fingerprint) VALUES ('openai', 'm', 4, 1, 1, 1, 'f')"
        )
        conn.execute(
            "INSERT INTO embedtui.migration (name, table_schema, table_name, table_oid, key_columns, key_types,"
            " content_columns, placement, old_column, old_model, new_schema, new_table, new_column, new_model,"
            " vector_schema, vector_type, old_vector_type, distance, index_method, phase)"
            " VALUES ('d', 'public', 'd', 1, '{id}', '{bigint}', '{content}', 'column', 'e', 1, 'public', 'd',"
            " 'e2', 1, 'public', 'vector', 'vector', 'cosine', 'hnsw', 'backfill')"
        )
        conn.execute(
            "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block, tokens)"
            " VALUES (1, 1, 1, 0, 9, 7)"
        )
        monkeypatch.setattr(schema, "VERSION", newest)
        schema.install(conn)
        found = conn.execute("SELECT state, live, job, tokens FROM embedtui.shard").fetchone()
        assert found == ("open", False, None, 7)
        conn.execute("UPDATE embedtui.shard SET state = 'batch'")
        assert conn.execute("SELECT batch, batch_price FROM embedtui.model").fetchone() == (False, None)
        assert read_batches(conn, 1).count == 0


def test_no_more_rows_are_sent_than_a_share_takes(database: str, api: LoopbackServer, engine: Engine) -> None:
    api.batches.seconds = 0.5
    engine.run(threading.Event(), until=50)
    assert ROWS / 2 <= len(live(api)) + api.batches.inputs < ROWS * 0.8
    run(engine)
    assert every_vector_is_right(database)
    assert len(live(api)) + api.batches.inputs == ROWS


def test_what_a_dead_worker_was_filling_is_taken_up(database: str, api: LoopbackServer, engine: Engine) -> None:
    engine.prepare()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE embedtui.shard SET state = 'leased', worker = 999, lease_until = now() + interval '1 h'")
    run(engine)
    assert every_vector_is_right(database)
    assert len(live(api)) < making.TAIL_INPUTS


def test_the_plan_has_both_prices_and_asks_whether_there_are_jobs(
    database: str, api: LoopbackServer, engine: Engine
) -> None:
    plan = engine.plan()
    assert plan.batch is not None
    assert plan.estimated_cost is not None
    assert plan.batch.cost == pytest.approx(plan.estimated_cost / 2)
    assert (plan.batch.seconds, plan.batch.jobs, plan.batch.chosen) == (24 * 3600, ROWS // 500, True)
    assert engine.settings is not None
    with connect(database) as conn:
        asked = make_plan(conn, engine.settings, check_provider=True)
        api.batches.failures.append(("GET /v1/batches", 404))
        refused = make_plan(conn, engine.settings, check_provider=True)
    assert [check.result for check in asked.checks if check.name == "batch jobs"] == ["pass"]
    assert [check.result for check in refused.checks if check.name == "batch jobs"] == ["fail"]
    assert not api.batches.jobs
