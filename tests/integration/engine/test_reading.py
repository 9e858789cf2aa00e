"""What is read ahead of the requests is bounded by bytes and by time, however the table's texts are stored."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.backfill import reading
from embedtui.engine.engine import Engine
from embedtui.model import Phase
from embedtui.postgres.sides.shared import SharedPlacement
from tests.kits.support import settings_for

ROWS = 1500


def make_wide(dsn: str, storage: str, text: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE documents (id bigint PRIMARY KEY, content text, embedding vector(8))")
        conn.execute(f"ALTER TABLE documents ALTER content SET STORAGE {storage}")
        conn.execute(f"INSERT INTO documents SELECT i, {text}, '[1,2,3,4,5,6,7,8]' FROM generate_series(1, {ROWS}) i")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(blocks, bytes) of each read of a shard."""
    found: list[tuple[int, int]] = []
    read_shard = SharedPlacement.read_shard

    def watched(self: SharedPlacement, conn: Any, leaf: Any, first: int, last: int, filenode: Any = None) -> Any:
        rows = read_shard(self, conn, leaf, first, last, filenode)
        found.append((last - first + 1, sum(len(row.text) for row in rows)))
        return rows

    monkeypatch.setattr(SharedPlacement, "read_shard", watched)
    return found


@pytest.mark.parametrize("placement", ["column", "table"])
@pytest.mark.parametrize(
    "storage, text",
    [
        ("EXTERNAL", "i || repeat(' out of line', 900)"),
        ("EXTENDED", "i || repeat(' compressed', 900)"),
        ("MAIN", "i || repeat(' within the row', 100)"),
    ],
)
def test_every_read_is_bounded_by_bytes(
    placement: str,
    storage: str,
    text: str,
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    reads: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_wide(database, storage, text)
    monkeypatch.setattr(reading, "READ_BYTES", 1 << 20)
    monkeypatch.setattr(reading, "FIRST_READ_SHARE", 1)
    with closing(
        Engine(database, settings=settings_for(database, api, tmp_path, {"placement": placement, "accept": ["proof"]}))
    ) as engine:
        assert engine.run(threading.Event()).phase is Phase.VALIDATE
    assert len(reads) > 1
    assert all(size <= 1 << 20 or blocks == 1 for blocks, size in reads)


def test_a_read_that_the_time_out_cuts_is_made_smaller_and_stays_so(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wide(database, "MAIN", "i || repeat(' within the row', 400)")
    tried: list[int] = []
    read_shard = SharedPlacement.read_shard

    def slow(self: SharedPlacement, conn: Any, leaf: Any, first: int, last: int, filenode: Any = None) -> Any:
        tried.append(last - first + 1)
        if last - first >= 20:  # as the server does to what takes too long
            conn.execute("SET statement_timeout = '20ms'")
            try:
                conn.execute("SELECT pg_sleep(10)")
            finally:
                conn.execute("SET statement_timeout = '60s'")
        return read_shard(self, conn, leaf, first, last, filenode)

    monkeypatch.setattr(SharedPlacement, "read_shard", slow)
    with closing(
        Engine(database, settings=settings_for(database, api, tmp_path, {"placement": "column", "accept": ["proof"]}))
    ) as engine:
        assert engine.run(threading.Event()).phase is Phase.VALIDATE
    cut = [number for number, blocks in enumerate(tried) if blocks > 20]
    assert cut and max(cut) - min(cut) == len(cut) - 1, "once it is small enough, it is not tried larger"
