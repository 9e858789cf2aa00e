"""``run --until``: what is sent is paid for, so the share limits what is sent and not what is found done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.model import Phase
from tests.kits.support import NEW, OLD, make_documents, settings_for

CHECKS = 10
"""Texts that the checks at the start may send."""


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}) as server:
        server.latency = 0.2
        yield server


def stored(dsn: str, column: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(f"SELECT count(*) FROM {column}").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("placement", ["column", "table"])
def test_a_trial_pays_for_its_share_alone(placement: str, database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 1500, text="text number {n} " + "word " * 60)
    with closing(
        Engine(
            database,
            settings=settings_for(database, api, tmp_path, {"placement": placement, "old_model.retired": True}),
        )
    ) as engine:
        for share in (2, 10, 35):
            snapshot = engine.run(threading.Event(), until=share)
            assert snapshot.phase is Phase.BACKFILL
            rows = 1500 * share // 100
            side = snapshot.migration.new_table.name if snapshot.migration else ""
            where = f"{side} WHERE {snapshot.migration.new_column} IS NOT NULL" if snapshot.migration else ""
            assert stored(database, where) == rows
            assert rows <= api.inputs <= rows + 3 * CHECKS
        assert engine.run(threading.Event()).phase is Phase.VALIDATE
    assert stored(database, where) == 1500


def test_rows_that_are_rejected_leave_room_for_others(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 400)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = repeat('x', 200000) WHERE id <= 30")
    with closing(
        Engine(
            database, settings=settings_for(database, api, tmp_path, {"placement": "column", "old_model.retired": True})
        )
    ) as engine:
        engine.run(threading.Event(), until=20)
    assert stored(database, "documents WHERE embedding_v2 IS NOT NULL") == 80


def test_workers_share_what_is_left(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 3000)
    engines = [
        Engine(
            database, settings=settings_for(database, api, tmp_path, {"placement": "column", "old_model.retired": True})
        )
        for _ in range(2)
    ]
    engines[0].prepare()
    threads = [
        threading.Thread(target=engine.run, args=(threading.Event(),), kwargs={"until": 20}) for engine in engines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    for engine in engines:
        engine.close()
    assert 600 <= api.inputs <= 600 + 2 * 512 + 2 * CHECKS
    assert stored(database, "documents WHERE embedding_v2 IS NOT NULL") <= api.inputs
