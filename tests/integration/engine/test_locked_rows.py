"""Rows and tables that the application keeps locked: nothing else waits, it is said who has them, and soon taken up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.backfill import sync
from embedtui.model import Condition, Hold, Side
from tests.integration.engine.test_sync import MODELS, Following, paid
from tests.kits.support import two_beats, wait_for


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS, log_texts=10_000) as server:
        yield server


@pytest.fixture
def following(
    database: str, api: LoopbackServer, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Following]:
    monkeypatch.setattr(sync, "TEND_SECONDS", 0.2)
    found = Following(database, api, tmp_path, placement=getattr(request, "param", "column"))
    yield found
    found.close()


def _holds(following: Following, name: str) -> list[Hold]:
    return [hold for hold in following.engine.snapshot().reasons if hold.name == name]


def _pause(following: Following, database: str) -> None:
    following.engine.pause()
    two_beats(database)


def _told(following: Following, act: str) -> bool:
    return any(each.act == act and "locked rows" in f"{each}" for each in following.engine.audit(50))


@pytest.mark.parametrize("following", ["column", "table"], indirect=True)
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
    freed = time.monotonic()
    wait_for(lambda: not engine.snapshot().sync.queued)
    assert time.monotonic() - freed < 6, "they are taken up late"
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


@pytest.mark.parametrize("following", ["column", "table"], indirect=True)
def test_a_locked_table_is_waited_for_and_refuses_no_old_vector(following: Following, database: str) -> None:
    engine = following.engine
    engine.cutover(override={"gate": "test"})
    _pause(following, database)
    following.edit(*range(1, 21))
    with psycopg.connect(database, application_name="nightly") as app:
        app.execute("LOCK TABLE documents IN SHARE ROW EXCLUSIVE MODE")
        engine.resume()
        wait_for(lambda: _holds(following, "lock"), "nobody says it")
        (hold,), pid = _holds(following, "lock"), app.info.backend_pid
        assert hold.detail.startswith(f"pid {pid} (nightly) locks public.documents, since "), hold.detail
        time.sleep(10)  # more than it takes to try each row on its own
        assert _holds(following, "lock") and not engine.snapshot().old_refused
    wait_for(lambda: not engine.snapshot().sync.queued and not engine.snapshot().reasons)
    assert (engine.snapshot().rollback.fresh, engine.snapshot().rollback.stale) == (True, 0)
    assert not any(entry.act == "old side refused" for entry in engine.audit(100))
