"""A look at the rows waits for what a worker is embedding, and counts only what stays."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.engine import Engine
from embedtui.engine.validate import catching_up
from embedtui.engine.validate.catching_up import Caught, catch_up
from embedtui.errors import Interrupted
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.state.queue import count_entries
from tests.kits.support import connect, following, make_documents, settings_for, wait_for


def edit(database: str, ids: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"UPDATE documents SET content = content || '!' WHERE id {ids}")


def test_verify_beside_a_worker_waits_for_what_is_queued(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 60)
    engine = Engine(database, settings=settings_for(database, api, tmp_path, {}))
    engine.run(threading.Event())
    edit(database, "<= 40")
    alone = engine.verify()
    assert not alone.clean and alone.stale == 40 and alone.in_hand and not alone.worker
    api.latency = 0.5
    with following(engine):
        wait_for(lambda: any(each.alive for each in engine.snapshot().workers))
        edit(database, "> 20")
        found = engine.verify()
        assert found.clean and found.worker
    engine.close()


def test_what_came_since_is_awaited_and_what_nobody_queued_is_wrong(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 60)
    engine = Engine(database, settings=settings_for(database, api, tmp_path, {}))
    engine.run(threading.Event())
    edit(database, "<= 5")
    with connect(database) as conn:
        placement = make_placement(engine.require())
        counted = placement.count(conn)
        assert count_entries(conn, engine.require().id) == 5
        stays = Caught("ops-1:7", True).what_stays(conn, placement, counted)
        assert (stays.stale, stays.awaited, stays.clean) == (0, 5, True)
        assert Caught("ops-1:7", False).what_stays(conn, placement, counted) == counted
        conn.execute("DELETE FROM embedtui.queue WHERE key = ARRAY['3']")
        assert Caught("ops-1:7", True).what_stays(conn, placement, counted) == counted, "a worker will never see it"
    engine.close()


def test_the_wait_ends_and_can_be_stopped(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_documents(database, 5)
    engine = Engine(database, settings=settings_for(database, api, tmp_path, {}))
    engine.run(threading.Event())
    edit(database, "<= 2")
    migration, said = engine.require(), list[str]()
    with connect(database) as conn:
        assert catch_up(conn, migration, None, said.append) == Caught() and said == []
        monkeypatch.setattr(catching_up, "live_workers", lambda *_: [("ops-1", 7)])
        monkeypatch.setattr(catching_up, "CATCH_UP_SECONDS", 0.3)
        assert catch_up(conn, replace(migration), None, said.append) == Caught("ops-1:7", False)
        assert said == ["Waiting up to 0 s: ops-1:7 embeds 2 changes."]
        stop = threading.Event()
        stop.set()
        with pytest.raises(Interrupted):
            catch_up(conn, migration, stop, said.append)
    engine.close()
