"""The backfill's own promises: HOT updates page by page, with the culprit named, and transactions of equal parts."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.engine.backfill.writing import cut
from embedtui.postgres import locks
from embedtui.postgres.state import shards
from tests.kits.support import make_documents, settings_for


def engine_for(database: str, api: LoopbackServer, folder: Path, **flags: object) -> Engine:
    return Engine(database, settings=settings_for(database, api, folder, {"placement": "column", **flags}))


@pytest.mark.parametrize(
    ("rows", "most", "writers", "sizes"),
    [
        (0, 10, 2, []),
        (1, 10, 2, [1]),
        (10, 10, 1, [10]),
        (10, 10, 2, [5, 5]),
        (11, 5, 2, [2, 3, 3, 3]),
        (3, 1, 2, [1] * 3),
    ],
)
def test_a_reply_is_cut_into_equal_parts_for_all_writers(rows: int, most: int, writers: int, sizes: list[int]) -> None:
    parts = cut(rows, most, writers)
    assert [part.stop - part.start for part in parts] == sizes
    assert [number for part in parts for number in range(rows)[part]] == list(range(rows))


def test_updates_stay_on_their_pages(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 4000, text="row {n} " + "x" * 500, index=True)
    engine = engine_for(database, api, tmp_path, **{"index.method": "none"})
    engine.prepare()
    size = "SELECT pg_relation_size('idx_documents_embedding')"
    with psycopg.connect(database, autocommit=True) as conn:
        before = conn.execute(size).fetchone()
        engine.run(threading.Event())
        after = conn.execute(size).fetchone()
        shards = conn.execute("SELECT rows, updates, hot_updates FROM embedtui.shard").fetchall()
    assert sum(rows for rows, _, _ in shards) == 4000
    assert all(updates == rows for rows, updates, _ in shards)
    assert sum(hot for _, _, hot in shards) >= 0.75 * 4000
    assert engine.snapshot().backfill.hot_share == pytest.approx(sum(hot for _, _, hot in shards) / 4000)
    assert before and after and after[0] <= 1.1 * before[0]
    engine.close()


@pytest.mark.parametrize("text", ["row {n}", "row {n} " + "x" * 500], ids=["2 pages", "10 pages"])
def test_a_small_table_takes_a_few_requests(database: str, api: LoopbackServer, tmp_path: Path, text: str) -> None:
    make_documents(database, 130, text=text, index=True)
    engine = engine_for(database, api, tmp_path)
    engine.prepare()
    engine.run(threading.Event())
    assert api.inputs == 130 + 2, "and two words at the start"
    assert api.requests <= 5, "the first is the start's"
    engine.close()


def test_an_old_snapshot_spoils_the_hot_share_and_is_named(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 4000, text="row {n} " + "x" * 500)
    engine = engine_for(database, api, tmp_path, **{"pacing.max_concurrency": 1})
    engine.prepare()
    api.latency = 0.5
    with psycopg.connect(database, application_name="nightly report") as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM documents")
        snapshot = engine.run(threading.Event(), until=25)
        seen = snapshot.backfill
        other.rollback()
    assert seen.hot_share is not None and seen.hot_share < 0.5
    assert "nightly report" in seen.hot_holder
    engine.close()


@pytest.mark.parametrize(
    ("silent", "leased", "grace", "free"),
    [
        (9, 9, 0, True),
        (-9, 9, 0, False),
        (9, 9, 60, False),
        (9, -9, 0, True),
        (-9, -9, 0, False),
        (9, -9, 60, False),
    ],
    ids=[
        "killed",
        "its connection was cut",
        "nobody was here",
        "out of reach",
        "it is back, and renews its lease soon",
        "the lease ran out as nobody was here",
    ],
)
def test_the_shard_of_a_live_worker_is_not_taken_over(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    silent: int,
    leased: int,
    grace: int,
    free: bool,
) -> None:
    """Without its advisory lock it counts since when it is silent, and since when the one who looks is here."""
    monkeypatch.setattr(shards, "GRACE_SECONDS", grace)
    make_documents(database, 5)
    engine = engine_for(database, api, tmp_path)
    migration = engine.prepare()
    with psycopg.connect(database, autocommit=True) as conn:
        worker, other = (
            conn.execute(
                "INSERT INTO embedtui.worker (migration, host, pid, heartbeat)"
                " VALUES (%s, 'elsewhere', 1, now() - make_interval(secs => %s)) RETURNING id",
                [migration.id, silent],
            ).fetchone()[0]  # type: ignore[index]
            for _ in range(2)
        )
        assert shards.claim_shard(conn, migration, worker), "open"
        assert shards.claim_shard(conn, migration, worker) is None, "its own"
        conn.execute("SELECT pg_advisory_lock(%s, %s)", [locks.WORKER_CLASS, worker])
        assert shards.claim_shard(conn, migration, other) is None, "alive"
        conn.execute("SELECT pg_advisory_unlock_all()")
        conn.execute("UPDATE embedtui.shard SET lease_until = now() + make_interval(secs => %s)", [leased])
        assert (shards.claim_shard(conn, migration, other) is not None) == free
    engine.close()
