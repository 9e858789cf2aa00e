"""After the cutover both sides are kept current, and the rollback says the truth about the old one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg
import pytest

from embedtui.demo.api import FaultKind, LoopbackServer, hash_model
from embedtui.engine.backfill import old_side, sync
from embedtui.engine.backfill.recent import EMBEDS_PER_KEY
from embedtui.engine.backfill.stages import Stages
from embedtui.engine.engine import Engine
from embedtui.errors import Interrupted
from embedtui.model import Condition, Hold, Side
from embedtui.postgres.state.queue import EVERY_KIND, queue_keys
from embedtui.providers.start import TEXTS
from embedtui.router import put
from tests.kits.support import NEW, OLD, connect, make_documents, settings_for, two_beats, vector_literal, wait_for

ROWS = 60
MODELS = {OLD: hash_model(8), NEW: hash_model(16)}


def paid(api: LoopbackServer) -> int:
    """Texts of rows that were paid for: what each start asks of a model is not counted."""
    return sum(text not in TEXTS for text in api.texts)


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS, log_texts=10_000) as server:
        yield server


class Following:
    """An engine that has migrated the table and goes on keeping both sides current."""

    def __init__(self, database: str, api: LoopbackServer, folder: Path, **flags: object) -> None:
        make_documents(database, ROWS)
        self.engine = Engine(database, settings=settings_for(database, api, folder, {"placement": "column", **flags}))
        self.engine.run(threading.Event())
        self.conn = psycopg.connect(database, autocommit=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        try:
            self.engine.run(self._stop, follow=True)
        except Interrupted:
            pass

    def close(self) -> None:
        self._stop.set()
        self._thread.join(60)
        self.conn.close()
        self.engine.close()

    def does(self, what: str) -> bool:
        """Whether the worker says that it does this."""
        workers = self.engine.snapshot().workers
        return any(thread.doing == what for worker in workers for thread in worker.threads)

    def edit(self, *numbers: int) -> None:
        self.conn.execute(
            "UPDATE documents SET content = 'edited ' || id || ' ' || clock_timestamp() WHERE id = ANY (%s)",
            [list(numbers)],
        )

    def vector_is(self, number: int, side: Side) -> bool:
        column = "embedding" if side is Side.OLD else "embedding_v2"
        row = self.conn.execute(f"SELECT content, {column}::real[] FROM documents WHERE id = %s", [number]).fetchone()
        assert row is not None
        model = MODELS[OLD if side is Side.OLD else NEW]
        return row[1] is not None and bool(np.allclose(row[1], model([row[0]], None)[0], atol=1e-6))


@pytest.fixture
def following(
    database: str, api: LoopbackServer, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Following]:
    monkeypatch.setattr(sync, "TEND_SECONDS", 0.2)
    monkeypatch.setattr(old_side, "RETRY_SECONDS", (0.2, 0.5))
    found = Following(database, api, tmp_path, **getattr(request, "param", {}))
    yield found
    found.close()


def test_before_the_cutover_only_the_new_side_is_ours(following: Following) -> None:
    following.edit(1)
    wait_for(lambda: following.vector_is(1, Side.NEW))
    assert not following.vector_is(1, Side.OLD), "the application's own"
    rollback = following.engine.snapshot().rollback
    assert rollback.stale == 1 and rollback.why.startswith("edited since 20"), "its model was not asked"
    assert "what was edited before is not known" in rollback.why
    wait_for(lambda: following.does("keeping the new side in sync"))


def test_before_the_cutover_changes_that_wait_are_said_too(following: Following) -> None:
    """The sync notes what became stale: of what waits for it nobody knows yet."""
    following.engine.pause("a test")
    wait_for(lambda: following.engine.snapshot().condition is Condition.PAUSED)
    for number in (1, 2, 3):
        following.edit(number)
    wait_for(lambda: "wait to be synced" in following.engine.snapshot().rollback.why)
    following.engine.resume()
    wait_for(lambda: following.engine.snapshot().rollback.stale == 3)
    wait_for(lambda: "synced" not in following.engine.snapshot().rollback.why)


@pytest.mark.parametrize("percent", [10, 100])
def test_after_it_both_are_and_a_rollback_finds_nothing_stale(following: Following, percent: int) -> None:
    following.engine.cutover(percent, override={"gate": "test"})
    following.edit(1, 2, 3)
    following.conn.execute("INSERT INTO documents (id, content) VALUES (1000, 'inserted')")
    for number in (1, 2, 3, 1000):
        wait_for(lambda number=number: following.vector_is(number, Side.OLD) and following.vector_is(number, Side.NEW))
    wait_for(lambda: following.engine.snapshot().rollback.fresh is True)
    wait_for(lambda: following.does("keeping both sides in sync"))
    spent = following.engine.snapshot().backfill
    assert spent.old_tokens > 0, "what the old model takes is counted apart"
    synced = following.conn.execute("SELECT synced_tokens FROM embedtui.migration").fetchone()
    assert synced == (spent.old_tokens,), "of the same texts, by the same measure"
    following.engine.rollback()
    assert following.engine.snapshot().rollback.stale == 0


def test_a_run_ends_once_old_vectors_noted_as_stale_are_embedded(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not queued any more, and the sync looks after them only now and then."""
    monkeypatch.setattr(sync, "TEND_SECONDS", 3600.0)
    make_documents(database, ROWS)
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, {"placement": "column"}))) as engine:
        engine.run(threading.Event())
        engine.cutover(override={"gate": "test"})
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("INSERT INTO embedtui.stale (migration, key) SELECT 1, ARRAY[id::text] FROM documents")
        engine.run(threading.Event())
        assert engine.snapshot().rollback.fresh is True


def test_a_run_ends_once_what_a_scan_found_meanwhile_is_embedded(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync may have scanned, and queued what it found, just after the run has looked for the last time."""
    make_documents(database, ROWS)
    settled: list[str] = []

    def drain(stages: Stages, kinds: str) -> None:
        whole_drain(stages, kinds)
        settled.append(kinds)
        if settled == [EVERY_KIND]:
            with connect(database) as conn:
                queue_keys(conn, 1, [("1",)], "s")

    with closing(Engine(database, settings=settings_for(database, api, tmp_path, {"placement": "column"}))) as engine:
        engine.run(threading.Event())
        whole_drain = Stages._drain
        monkeypatch.setattr(Stages, "_drain", drain)
        engine.run(threading.Event())
        assert settled and engine.snapshot().sync.queued == 0


def test_what_waits_when_it_is_rolled_back_still_reaches_the_old_side(following: Following) -> None:
    following.engine.cutover(override={"gate": "test"})
    following.engine.pause()
    two_beats(following.engine.dsn)
    following.edit(1)
    assert following.engine.snapshot().rollback.stale == 1
    following.engine.rollback()
    following.engine.resume()
    wait_for(lambda: following.vector_is(1, Side.OLD) and following.vector_is(1, Side.NEW))


@pytest.mark.parametrize("following", [{"old_model.retired": True}], indirect=True)
def test_with_a_retired_old_model_the_rows_a_rollback_would_lose_are_counted(following: Following) -> None:
    assert "retired" in following.engine.snapshot().rollback.why
    assert any(notice.name == "old_model" for notice in following.engine.notices()), "said before the cutover"
    following.engine.cutover(override={"gate": "test"})
    following.edit(1, 2, 3)
    following.edit(3)
    wait_for(lambda: following.vector_is(3, Side.NEW) and following.engine.snapshot().sync.queued == 0)
    rollback = following.engine.snapshot().rollback
    assert (rollback.fresh, rollback.stale) == (False, 3)
    assert "retired" in rollback.why
    following.conn.execute("DELETE FROM documents WHERE id = 2")
    wait_for(lambda: following.engine.snapshot().rollback.stale == 2, "a deleted row is still counted")
    following.engine.rollback()
    assert following.engine.snapshot().rollback.stale == 2, "a rollback does not make them fresh"


@pytest.mark.parametrize("kind", [FaultKind.RETIRED, FaultKind.UNAVAILABLE, FaultKind.RESET])
def test_an_old_model_that_is_away_never_holds_up_the_new_side(
    following: Following, api: LoopbackServer, kind: FaultKind
) -> None:
    following.engine.cutover(override={"gate": "test"})
    api.faults.add(kind, model=OLD)
    following.edit(1)
    wait_for(lambda: following.vector_is(1, Side.NEW), "the new side waits for the old model")
    wait_for(lambda: following.engine.snapshot().rollback.stale == 1 and not following.engine.snapshot().sync.queued)
    assert "does not answer" in following.engine.snapshot().rollback.why
    following.edit(2)
    wait_for(lambda: following.vector_is(2, Side.NEW))
    api.faults.clear()
    wait_for(lambda: following.engine.snapshot().rollback.fresh is True, "it does not come back by itself")
    assert following.vector_is(1, Side.OLD) and following.vector_is(2, Side.OLD)
    acts = [entry.act for entry in reversed(following.engine.audit(100)) if entry.act.startswith("old model")]
    assert acts == ["old model lost", "old model answers"]


def test_an_old_model_that_was_not_asked_is_not_blamed(following: Following) -> None:
    following.edit(1, 2)
    wait_for(lambda: following.engine.snapshot().rollback.stale == 2 and not following.engine.snapshot().sync.queued)
    following.engine.pause()
    two_beats(following.engine.dsn)
    following.engine.cutover(10, override={"gate": "test"})
    assert following.engine.snapshot().rollback.why == f"{OLD} is still to embed them"
    following.engine.rollback()
    assert following.engine.snapshot().rollback.why == f"{OLD} is still to embed them"
    following.engine.resume()
    wait_for(lambda: following.engine.snapshot().rollback.stale == 0)


def test_a_text_the_old_model_rejects_is_counted_as_stale(following: Following, api: LoopbackServer) -> None:
    following.engine.cutover(override={"gate": "test"})
    api.faults.add(FaultKind.REJECTED, containing="edited 7 ", model=OLD)
    following.edit(7)
    wait_for(lambda: any(fault.side is Side.OLD for fault in following.engine.faults()))
    assert following.engine.snapshot().rollback.stale == 1
    api.faults.clear()
    following.engine.retry_faults()
    wait_for(lambda: following.vector_is(7, Side.OLD) and following.engine.snapshot().rollback.fresh is True)
    assert not following.engine.faults()


def test_a_text_over_both_models_limits_is_shortened_for_either_side(following: Following) -> None:
    following.engine.cutover(override={"gate": "test"})
    following.conn.execute("INSERT INTO documents (id, content) VALUES (900, repeat('word ', 176000))")
    wait_for(lambda: len(following.engine.faults()) == 2)
    (group,) = following.engine.snapshot().faults
    assert (group.count, group.rows, group.sides) == (2, 1, (Side.NEW, Side.OLD))
    assert following.engine.truncate_faults() == 1, "one row, and not its two sides"
    wait_for(lambda: not following.engine.faults(), "a side is refused again")
    present = "SELECT embedding IS NOT NULL AND embedding_v2 IS NOT NULL FROM documents WHERE id = 900"
    assert following.conn.execute(present).fetchone() == (True,)
    wait_for(lambda: following.engine.snapshot().rollback.fresh is True)


def test_a_text_is_shortened_for_an_old_model_that_was_away_when_it_was_decided(
    following: Following, api: LoopbackServer
) -> None:
    following.engine.cutover(override={"gate": "test"})
    following.conn.execute("INSERT INTO documents (id, content) VALUES (900, repeat('word ', 176000))")
    wait_for(lambda: len(following.engine.faults()) == 2)
    api.faults.add(FaultKind.UNAVAILABLE, model=OLD)
    following.engine.truncate_faults()
    wait_for(lambda: [fault.side for fault in following.engine.faults()] == [Side.OLD])
    wait_for(lambda: following.engine.snapshot().sync.queued == 0)
    api.faults.clear()
    wait_for(lambda: not following.engine.faults(), "nobody asks it again")


def test_a_row_edited_all_the_time_is_embedded_a_few_times_a_minute(following: Following, api: LoopbackServer) -> None:
    before = paid(api)
    for _ in range(12):
        following.edit(5)
        time.sleep(0.3)
    following.edit(6)
    wait_for(lambda: following.vector_is(6, Side.NEW), "another row waits behind it")
    assert paid(api) - before <= EMBEDS_PER_KEY + 1
    assert following.engine.snapshot().sync.oldest_seconds is not None, "the lag is shown"


def test_a_vector_of_the_wrong_model_is_found_by_the_sample_and_repaired(following: Following) -> None:
    wrong = vector_literal(hash_model(16, salt="another")(["document number 4"], None)[0])
    following.conn.execute("UPDATE documents SET embedding_v2 = %s WHERE id = 4", [wrong])
    report = following.engine.verify(sample=ROWS)
    assert report.mismatched == 1 and not report.clean
    following.engine.verify(sample=ROWS, repair=True)
    wait_for(lambda: following.vector_is(4, Side.NEW))
    assert following.engine.verify(sample=ROWS).clean


def test_a_vector_written_by_put_is_stamped_and_not_paid_for_again(following: Following, api: LoopbackServer) -> None:
    following.engine.cutover(override={"gate": "test"})
    before = paid(api)
    with following.conn.transaction():
        following.conn.execute("UPDATE documents SET content = 'by put' WHERE id = 8")
        put(following.conn, "documents", 8, NEW, MODELS[NEW](["by put"], None)[0].tolist())
    wait_for(lambda: following.vector_is(8, Side.OLD))
    assert following.vector_is(8, Side.NEW)
    assert paid(api) - before == 1, "the old side's vector only"


@pytest.mark.parametrize("following", [{"change_capture": "scan"}], indirect=True)
def test_without_triggers_a_scan_finds_what_changed(following: Following) -> None:
    triggers = following.conn.execute("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'embedtui%'").fetchone()
    assert triggers == (0,)
    following.edit(1)
    following.conn.execute("INSERT INTO documents (id, content) VALUES (1000, 'inserted')")
    wait_for(lambda: following.vector_is(1, Side.NEW) and following.vector_is(1000, Side.NEW))
    following.engine.cutover(override={"gate": "test"})
    following.edit(2)
    wait_for(lambda: following.vector_is(2, Side.NEW) and following.vector_is(2, Side.OLD))
    assert following.engine.snapshot().rollback.fresh is None, "unknown: what it wrote itself is not seen"


def test_triggers_that_were_taken_away_come_back_and_nothing_is_missed(following: Following) -> None:
    following.conn.execute("ALTER TABLE documents DISABLE TRIGGER ALL")
    following.edit(1)
    wait_for(lambda: following.vector_is(1, Side.NEW))
    enabled = following.conn.execute(
        "SELECT bool_and(tgenabled = 'A') FROM pg_trigger WHERE tgname LIKE 'embedtui%'"
    ).fetchone()
    assert enabled == (True,)
    assert any(entry.act == "capture" for entry in following.engine.audit())


# ------------------------------------------------------------------------------------------------------------ locks


def _holds(following: Following, name: str) -> list[Hold]:
    return [hold for hold in following.engine.snapshot().reasons if hold.name == name]


def _pause(following: Following, database: str) -> None:
    following.engine.pause()
    two_beats(database)


def _told(following: Following, act: str) -> bool:
    return any(each.act == act and "locked rows" in f"{each}" for each in following.engine.audit(50))


@pytest.mark.parametrize("following", [{"placement": "column"}, {"placement": "table"}], indirect=True)
def test_rows_kept_locked_are_named_and_hold_up_no_other(
    following: Following, database: str, api: LoopbackServer
) -> None:
    engine, before = following.engine, paid(api)
    with psycopg.connect(database, application_name="nightly") as app:
        _pause(following, database)
        following.edit(*range(1, 21), 40)
        app.execute("SAVEPOINT one")
        app.execute("SELECT FROM documents WHERE id <= 20 FOR UPDATE")
        engine.resume()
        wait_for(lambda: engine.snapshot().sync.queued == 20, "another row waits behind them")
        wait_for(lambda: _holds(following, "locked_rows"), "nobody says it")
        (hold,), pid = _holds(following, "locked_rows"), app.info.backend_pid
        assert hold.detail.startswith(f"pid {pid} (nightly) locks 20 changed rows, since "), hold.detail
        assert f"pg_terminate_backend({pid}); idle in transaction: SELECT FROM documents" in hold.detail
        assert engine.snapshot().condition is Condition.RUNNING, "it stops nothing"
        wait_for(lambda: _told(following, "held"), "the log has nothing of it")
        assert paid(api) - before == 21, "they are embedded while they cannot be written"
        app.rollback()
    wait_for(lambda: not engine.snapshot().sync.queued)
    wait_for(lambda: not engine.snapshot().reasons, "it goes on to be said")
    report = engine.verify()
    assert (report.missing, report.stale) == (0, 0)


def test_where_more_than_one_has_them_nobody_is_blamed(following: Following, database: str) -> None:
    with psycopg.connect(database) as app, psycopg.connect(database) as other:
        _pause(following, database)
        following.edit(5)
        for each in (app, other):
            each.execute("SELECT FROM documents WHERE id = 5 FOR SHARE")
        following.engine.resume()
        wait_for(lambda: _holds(following, "locked_rows"), "nobody says it")
        (hold,) = _holds(following, "locked_rows")
        assert hold.detail.startswith("1 changed row locked, not known by whom"), hold.detail
        following.engine.pause()
        wait_for(lambda: not _holds(following, "locked_rows"), "it is said where nobody looks")
        following.engine.resume()
    wait_for(lambda: following.vector_is(5, Side.NEW))


@pytest.mark.parametrize("following", [{"placement": "column"}, {"placement": "table"}], indirect=True)
def test_a_locked_table_is_waited_for_and_refuses_no_old_vector(following: Following, database: str) -> None:
    engine = following.engine
    engine.cutover(override={"gate": "test"})
    _pause(following, database)
    following.edit(*range(1, 5))
    with psycopg.connect(database, application_name="nightly") as app:
        app.execute("LOCK TABLE documents IN SHARE ROW EXCLUSIVE MODE")
        engine.resume()
        wait_for(lambda: _holds(following, "lock"), "nobody says it")
        (hold,), pid = _holds(following, "lock"), app.info.backend_pid
        assert hold.detail.startswith(f"pid {pid} (nightly) locks public.documents, since "), hold.detail
        time.sleep(3)  # more than it takes to try each row on its own
        assert _holds(following, "lock") and not engine.snapshot().old_refused
    wait_for(lambda: not engine.snapshot().sync.queued and not engine.snapshot().reasons)
    assert (engine.snapshot().rollback.fresh, engine.snapshot().rollback.stale) == (True, 0)
    assert not any(entry.act == "old side refused" for entry in engine.audit(100))
