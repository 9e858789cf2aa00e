"""Strategy `rename` while workers run: they learn the names anew, and no vector lands on the other side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pytest

from embedtui.config import Settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.upkeep import Upkeep
from embedtui.engine.validate import compare as comparing
from embedtui.errors import Refused, TableChanged
from embedtui.model import Phase, Side
from embedtui.postgres.sides import capture
from embedtui.postgres.sides.batch import prepare_batch
from embedtui.postgres.sides.placement import make_placement
from tests.kits.support import NEW, OLD, connect, following, make_documents, settings_for, wait_for

SIZE = 8
"""Of both models: a vector on the wrong side raises no error."""
MODELS = {OLD: hash_model(SIZE), NEW: hash_model(SIZE, "another")}
OVERRIDE = dict.fromkeys(("gate", "rename_equal_dimensions", "sync", "coverage"), "test")


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS) as running:
        yield running


def settings_of(dsn: str, api: LoopbackServer, folder: Path) -> Settings:
    return settings_for(dsn, api, folder, {"cutover.strategy": "rename"}, EMBED_DIMENSIONS=str(SIZE))


@contextmanager
def backfilled(dsn: str, api: LoopbackServer, folder: Path, rows: int = 5, index: bool = False) -> Iterator[Engine]:
    """All rows have new vectors, and the names are to be exchanged."""
    make_documents(dsn, rows, index=index)
    with closing(Engine(dsn, settings=settings_of(dsn, api, folder))) as engine:
        assert engine.run(threading.Event()).phase is Phase.VALIDATE
        yield engine


def _write(dsn: str, stop: threading.Event, failed: list[str]) -> None:
    """The application: texts without vectors, so that both sides are ours to fill, and what it edits."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        turn = 1000
        while not stop.wait(0.05):
            turn += 1
            try:
                conn.execute("INSERT INTO documents (id, content) VALUES (%s, %s)", [turn, f"inserted as {turn}"])
                # each row once: a key that is edited more than a few times a minute is put off
                edited = [f"edited at {turn}", turn - 3, turn - 1000]
                conn.execute("UPDATE documents SET content = %s WHERE id IN (%s, %s)", edited)
            except psycopg.Error as error:
                failed.append(str(error))


def test_cutover_and_rollback_beside_workers_and_writes(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    with backfilled(database, api, tmp_path, 40, index=True) as engine, ExitStack() as stack:
        with connect(database) as conn:
            numbers = dict(
                conn.execute(
                    "SELECT attname::text, attnum::int FROM pg_attribute WHERE attrelid = 'documents'::regclass"
                ).fetchall()
            )
        for _ in range(2):
            worker = stack.enter_context(closing(Engine(database, settings=settings_of(database, api, tmp_path))))
            stack.enter_context(following(worker))
        wait_for(lambda: sum(worker.alive for worker in engine.snapshot().workers) == 2, "two workers")
        stop, failed = threading.Event(), list[str]()
        application = threading.Thread(target=_write, args=(database, stop, failed))
        engine.cutover(override=OVERRIDE)
        application.start()

        def written() -> int:
            with connect(database) as conn:
                row = conn.execute("SELECT count(*) FROM documents").fetchone()
                assert row is not None
                return int(row[0])

        for turn in range(7):
            before = written()
            wait_for(lambda before=before: written() > before + 3)
            engine.rollback() if turn % 2 == 0 else engine.cutover(override=OVERRIDE)
            assert engine.snapshot().route.active is (Side.OLD if turn % 2 == 0 else Side.NEW)
        stop.set()
        application.join()
        wait_for(lambda: engine.snapshot().sync.queued == 0, "the queue is worked off")
        wait_for(lambda: not _scan_asked(database), "no scan is asked for")
    assert not failed
    with connect(database) as conn:
        now = dict(
            conn.execute(
                "SELECT attnum::int, attname::text FROM pg_attribute WHERE attrelid = 'documents'::regclass"
            ).fetchall()
        )
        old, new = now[numbers["embedding"]], now[numbers["embedding_v2"]]
        assert (old, new) == ("embedding", "embedding_v2")  # rolled back at last
        rows = conn.execute(f"SELECT content, {old}::real[], {new}::real[] FROM documents").fetchall()
        capture = conn.execute("SELECT count(*) FROM embedtui.capture_fault").fetchone()
    assert capture == (0,)
    assert len(rows) > 60
    for content, old_vector, new_vector in rows:
        for model, vector in ((OLD, old_vector), (NEW, new_vector)):
            np.testing.assert_allclose(vector, MODELS[model]([content], None)[0], atol=1e-5)


def _scan_asked(dsn: str) -> bool:
    with connect(dsn) as conn:
        return conn.execute("SELECT count(*) FROM embedtui.capture_fault").fetchone() != (0,)


def test_an_old_vector_that_comes_late_is_not_written_under_the_exchanged_name(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    """Read before the exchange, written after it: of a row that has no vector, no digest tells the columns apart."""
    with backfilled(database, api, tmp_path) as engine, connect(database) as conn:
        prepare_batch(conn)
        conn.execute("INSERT INTO documents (id, content) VALUES (100, 'without a vector')")
        placement = make_placement(engine.require())
        [item] = placement.read_keys(conn, [("100",)])
        engine.cutover(override=OVERRIDE)
        vector = MODELS[OLD]([item.row.text], None)
        with pytest.raises(psycopg.errors.UndefinedColumn), conn.transaction():
            placement.replace(conn, [item.row], vector, Side.OLD)
        assert conn.execute("SELECT embedding FROM documents WHERE id = 100").fetchone() == (None,)


def test_change_capture_goes_by_the_new_names_at_once(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    with backfilled(database, api, tmp_path) as engine, connect(database) as conn:
        for act in (lambda: engine.cutover(override=OVERRIDE), engine.rollback):
            act()
            side = "wrote_new" if engine.snapshot().route.active is Side.NEW else "wrote_old"
            other = "wrote_old" if side == "wrote_new" else "wrote_new"
            conn.execute("UPDATE documents SET embedding = %s WHERE id = 1", [str([1.0] * SIZE)])
            assert conn.execute("SELECT count(*) FROM embedtui.capture_fault").fetchone() == (0,)
            newest = conn.execute(f"SELECT {side}, {other} FROM embedtui.queue ORDER BY id DESC LIMIT 1").fetchone()
            assert newest == (True, False)


def test_a_worker_that_is_behind_does_not_install_capture_by_former_names(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    with backfilled(database, api, tmp_path) as engine, connect(database) as conn:
        behind = engine.require()
        engine.cutover(override=OVERRIDE)
        upkeep = Upkeep(Job(database, behind, None), lambda work: work(conn))
        with pytest.raises(TableChanged):
            upkeep._mend_capture(capture.state(conn, behind))
        assert capture.state(conn, engine.require()).installed
        conn.execute("INSERT INTO documents (id, content) VALUES (100, 'more')")
        assert conn.execute("SELECT count(*) FROM embedtui.capture_fault").fetchone() == (0,)


def test_a_comparison_over_an_exchange_is_not_recorded(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with backfilled(database, api, tmp_path, 30) as engine, connect(database) as conn:
        search = comparing.search_all

        def exchanged_meanwhile(*arguments: object, **options: object) -> object:
            engine.cutover(override=OVERRIDE)
            return search(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(comparing, "search_all", exchanged_meanwhile)
        with pytest.raises(Refused, match="exchanged the columns' names"):
            engine.compare()
        assert conn.execute("SELECT count(*) FROM embedtui.evaluation").fetchone() == (0,)
