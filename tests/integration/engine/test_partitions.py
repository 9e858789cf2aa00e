"""Partitions that come after the plan: attached with rows, made new, several levels deep, detached and back again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.backfill import recent, sync
from embedtui.engine.engine import Engine
from embedtui.errors import Interrupted, Refused
from tests.kits.support import settings_for, wait_for

PLACEMENTS = pytest.mark.parametrize("placement", ["column", "table"])
ROWS = 200
ATTACH = "ALTER TABLE documents ATTACH PARTITION documents_c FOR VALUES FROM (900) TO (1900)"


class Parted:
    """A partitioned table whose backfill is over, and an engine."""

    def __init__(self, database: str, api: LoopbackServer, folder: Path, placement: str) -> None:
        self.conn = psycopg.connect(database, autocommit=True)
        self.conn.execute(
            "CREATE TABLE documents (id bigint PRIMARY KEY, content text, embedding vector(8)) PARTITION BY RANGE (id);"
            "CREATE TABLE documents_a PARTITION OF documents FOR VALUES FROM (0) TO (300)"
        )
        self.insert("documents", 0, 60)
        flags = {"placement": placement, "content": "content", "index.m": 4, "index.ef_construction": 8}
        self.engine = Engine(database, settings=settings_for(database, api, folder, flags))
        self.engine.run(threading.Event())

    def insert(self, table: str, first: int, rows: int) -> None:
        self.conn.execute(
            f"INSERT INTO {table} (id, content, embedding) SELECT n, 'text ' || n, '[1,2,3,4,5,6,7,8]'"
            f" FROM generate_series({first}, {first + rows - 1}) n".encode()
        )

    def attach(self, rows: int = ROWS) -> None:
        self.conn.execute("CREATE TABLE documents_c (LIKE documents INCLUDING ALL)")
        self.insert("documents_c", 900, rows)
        self.conn.execute(ATTACH)

    def missing(self) -> int:
        report = self.engine.verify()
        return report.missing + report.stale


@pytest.fixture
def parted(database: str, api: LoopbackServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Parted]:
    made = Parted(database, api, tmp_path, getattr(request, "param", "column"))
    yield made
    made.engine.close()
    made.conn.close()


BOTH = pytest.mark.parametrize("parted", ["column", "table"], indirect=True)


@BOTH
def test_attached_after_the_backfill_a_run_embeds_it(parted: Parted) -> None:
    """They were missing, with nothing queued and exit code 0."""
    parted.attach()
    assert parted.missing() == ROWS
    parted.engine.run(threading.Event())
    assert parted.missing() == 0


def test_the_refusal_counts_the_rows(parted: Parted) -> None:
    """It said "1 row"."""
    parted.attach()
    (blocker,) = [each for each in parted.engine.blockers("cutover") if each.name == "coverage"]
    assert blocker.message.startswith(f"{ROWS} rows have no current new vector")
    with pytest.raises(Refused, match=f"{ROWS} rows"):
        parted.engine.cutover(override={"gate": "none yet"})


def test_more_rows_than_are_counted_are_said_as_such(parted: Parted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedtui.engine.cutover.blockers.ROWS_COUNTED", 50)
    parted.attach()
    (blocker,) = [each for each in parted.engine.blockers("cutover") if each.name == "coverage"]
    assert blocker.message.startswith("50 rows or more have")


@BOTH
@pytest.mark.variants(1)
def test_whoever_follows_finds_what_comes(parted: Parted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attached, made new, two levels deep, and detached, edited and attached again; under steady writes."""
    monkeypatch.setattr(sync, "TEND_SECONDS", 0.2)
    monkeypatch.setattr(recent, "WINDOW_SECONDS", 5.0)
    stop, quiet = threading.Event(), threading.Event()

    def follow() -> None:
        try:
            parted.engine.run(stop, follow=True)
        except Interrupted:
            pass

    def write() -> None:
        with psycopg.connect(parted.engine.dsn, autocommit=True) as conn:
            while not quiet.wait(0.02):
                conn.execute("UPDATE documents SET content = 'edited ' || clock_timestamp() WHERE id = 7")

    threads = [threading.Thread(target=follow), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    try:
        parted.attach()
        wait_for(lambda: parted.missing() <= 1, "attached")
        parted.conn.execute("CREATE TABLE documents_d PARTITION OF documents FOR VALUES FROM (2000) TO (2100)")
        parted.insert("documents", 2000, 20)
        wait_for(lambda: parted.missing() <= 1, "made new")
        parted.conn.execute(
            "CREATE TABLE documents_e (LIKE documents INCLUDING ALL) PARTITION BY RANGE (id);"
            "CREATE TABLE documents_e1 PARTITION OF documents_e FOR VALUES FROM (3000) TO (3050);"
            "CREATE TABLE documents_e2 PARTITION OF documents_e DEFAULT"
        )
        parted.insert("documents_e", 3000, 80)
        parted.conn.execute("ALTER TABLE documents ATTACH PARTITION documents_e FOR VALUES FROM (3000) TO (4000)")
        wait_for(lambda: parted.missing() <= 1, "two levels")
        parted.insert("documents", 3080, 5)
        wait_for(lambda: parted.missing() <= 1, "and captured from then on")
        if parted.engine.require().placement == "column":  # a foreign key to the rows does not let them go
            parted.conn.execute("ALTER TABLE documents DETACH PARTITION documents_c")
            parted.conn.execute("UPDATE documents_c SET content = 'edited while it was away' WHERE id < 950")
            parted.conn.execute(ATTACH)
            wait_for(lambda: parted.missing() <= 1, "attached again")
    finally:
        quiet.set()
        threads[1].join()
        try:
            wait_for(lambda: parted.missing() == 0, "all is embedded")
        finally:
            stop.set()
            threads[0].join(60)
    counted = parted.conn.execute("SELECT count(*) FROM documents").fetchone()
    assert counted is not None and parted.engine.verify().embedded == counted[0]
