"""What happened at night stands in the log the next morning, in few lines: outages, lost workers, a lost database."""

from __future__ import annotations

import os
import threading
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import FaultKind, LoopbackServer
from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.worker import Worker
from embedtui.engine.engine import Engine
from embedtui.errors import Interrupted
from embedtui.model import Phase
from embedtui.postgres.connect import host_name
from embedtui.postgres.state import audit
from tests.kits.log_kit import log_file
from tests.kits.support import NEW, OLD, connect, make_documents, settings_for, wait_for

__all__ = ["log_file"]


def test_outages_and_lost_workers_are_lines_of_the_log(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 400)
    engine = Engine(database, settings=settings_for(database, api, tmp_path, {}))
    engine.prepare()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO embedtui.worker (migration, host, pid, operator, heartbeat, rows)"
            " SELECT id, 'ops-7', 4242, 'anna', now() - interval '1 minute', 17 FROM embedtui.migration"
        )
    api.faults.add(FaultKind.RATE_LIMITED, times=2, containing="document number", retry_after=0.1)
    engine.run(threading.Event())
    engine.run(threading.Event())
    lines = [(each.act, each.detail) for each in engine.audit() if each.act in audit.EPISODES]
    told = [detail for act, detail in lines if act == "over"]
    assert len(told) == 1 and told[0].startswith("rate limit: ") and "× 429" in told[0], lines
    lost = [detail for act, detail in lines if act == "worker lost"]
    assert len(lost) == 1 and "(ops-7:4242) ended without a word" in lost[0] and "17 rows" in lost[0]
    engine.close()


def test_the_log_does_not_grow_without_end(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 3)
    engine = Engine(database, settings=settings_for(database, api, tmp_path, {}))
    number = engine.prepare().id
    with connect(database) as conn:
        audit.add_episode(conn, number, "held", "provider", "3 s")
        conn.execute("SELECT set_config('embedtui.pid', '4242', false)")
        audit.add_episode(conn, number, "held", "provider", "4 s, as another worker met it")
        audit.add_episode(conn, number, "held", "database", "3 s")
        assert len([each for each in engine.audit() if each.act == "held"]) == 2
        for act in ("over", "held", "over"):  # soon afterwards another outage
            audit.add_episode(conn, number, act, "database", "3 s")
        assert len([each for each in engine.audit() if each.detail.startswith("database")]) == 4
        conn.execute("DELETE FROM embedtui.audit WHERE act = 'over' OR detail LIKE 'database%'")
        audit.add_episode(conn, number, "held", "database", "3 s")
        conn.execute(
            "INSERT INTO embedtui.audit (migration, who, host, act, detail)"
            " SELECT %s, '', '', 'over', n::text FROM generate_series(1, %s) AS n",
            [number, audit.MOST_EPISODES],
        )
        audit.add_episode(conn, number, "held", "wal_rate", "3 s")
        assert len([each for each in engine.audit(5000) if each.act == "held"]) == 2
        audit.add_audit(conn, number, "pause", "what somebody does is always told")
        assert engine.audit(1)[0].act == "pause"
    engine.close()


def test_each_worker_is_a_line_of_the_log_file_when_it_begins_and_when_it_ends(
    database: str, api: LoopbackServer, tmp_path: Path, log_file: Path
) -> None:
    make_documents(database, 40)
    here = f"pid {os.getpid()} on {host_name()}"
    with closing(
        Engine(database, settings=settings_for(database, api, tmp_path, {"pacing.max_concurrency": 3}))
    ) as engine:
        engine.prepare()
        engine.run(threading.Event(), until=50)
        stop, ended = threading.Event(), threading.Event()

        def follow() -> None:
            with suppress(Interrupted):
                engine.run(stop, follow=True)
            ended.set()

        threading.Thread(target=follow).start()
        wait_for(lambda: engine.snapshot().phase is Phase.VALIDATE)
        stop.set()
        assert ended.wait(60)
        migration = engine.migration()
        assert migration is not None
        with pytest.raises(RuntimeError), Worker(Job(database, migration, None), threading.Event(), "bridge"):
            raise RuntimeError("nobody foresaw it")
    lines = [line.partition("worker ")[2] for line in log_file.read_text().splitlines() if ": worker " in line]
    begun, over = ([line for line in lines if word in line] for word in (" begins: ", " ends ("))
    assert [line.split()[0] for line in begun] == [line.split()[0] for line in over], "each has its end"
    roles = ("preparing", "run until 50 %", "run, and follow", "bridge")
    for line, role in zip(begun, roles, strict=True):
        assert f": {role}; documents: {OLD} to {NEW}, placement " in line
    assert all(here in line and " as role postgres: " in line and line.endswith("; 3 threads") for line in begun)
    assert [line.partition("(")[2].partition(")")[0] for line in over] == ["done", "done", "stopped", "by an error"]
    assert all(f"{here}, after " in line for line in over) and over[1].endswith(" 20 rows written by this run")
