"""Statements that the server cut or refused: repeated without end, a few times, or made smaller."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine import resilience
from embedtui.engine.engine import Engine
from embedtui.engine.resilience import MEMORY_TRIES, with_database
from embedtui.errors import DatabaseError
from embedtui.model import Phase
from embedtui.postgres import connect as connecting
from embedtui.postgres.connect import Link
from embedtui.postgres.sides.shared import SharedPlacement
from tests.kits.support import make_documents, settings_for


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resilience, "FIRST_WAIT", 0.01)


def raised(condition: str) -> str:
    return f"DO $$ BEGIN RAISE 'as staged' USING ERRCODE = '{condition}'; END $$"


def test_memory_that_is_never_there_is_asked_for_a_few_times(database: str) -> None:
    link, tried = Link(database, "test"), []

    def work(conn: psycopg.Connection[Any]) -> None:
        tried.append(conn.execute("SHOW max_parallel_workers_per_gather").fetchone())
        conn.execute(raised("out_of_memory").encode())

    with pytest.raises(DatabaseError, match="too little memory: as staged") as caught:
        with_database(link, work, stop=threading.Event(), on_lost=str)
    assert len(tried) == MEMORY_TRIES + 1 and set(tried[1:]) == {("0",)}
    assert "index.maintenance_work_mem" in caught.value.hint
    link.drop()


@pytest.mark.parametrize(("cuts", "told"), [(1, 0), (2, 1), (3, 2)])
def test_a_cut_session_that_is_there_again_at_once_is_no_outage(database: str, cuts: int, told: int) -> None:
    link, tried = Link(database, "test"), []
    away: list[str] = []
    back: list[int] = []

    def work(conn: psycopg.Connection[Any]) -> int:
        tried.append(1)
        if len(tried) <= cuts:
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return len(tried)

    result = with_database(
        link, work, stop=threading.Event(), on_lost=away.append, on_back=lambda: back.append(len(tried))
    )
    assert (result, len(away), len(back)) == (cuts + 1, told, min(told, 1))
    link.drop()


@pytest.mark.parametrize("condition", ["disk_full", "too_many_connections", "crash_shutdown"])
def test_what_passes_has_no_end_of_patience(database: str, condition: str) -> None:
    link, tried = Link(database, "test"), []

    def work(conn: psycopg.Connection[Any]) -> int:
        tried.append(1)
        if len(tried) <= 3 * MEMORY_TRIES:
            conn.execute(raised(condition).encode())
        return len(tried)

    assert with_database(link, work, stop=threading.Event(), on_lost=str, longest_wait=0.01) == 3 * MEMORY_TRIES + 1
    link.drop()


def test_a_statement_that_takes_longer_is_given_longer_and_keeps_it(database: str) -> None:
    link, tried = Link(database, "test", statement_timeout_ms=100), []

    def work(conn: psycopg.Connection[Any]) -> str:
        tried.append(conn.execute("SHOW statement_timeout").fetchone())
        conn.execute("SELECT pg_sleep(0.5)")
        return "done"

    assert with_database(link, work, stop=threading.Event(), on_lost=str) == "done"
    assert tried[0] == ("100ms",) and tried[-1] in {("800ms",), ("1600ms",), ("3200ms",)}
    link.drop()
    assert link.get().execute("SHOW statement_timeout").fetchone() == tried[-1], "in the next session as well"
    link.drop()


def test_a_statement_that_never_ends_is_given_up(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "LONGEST_STATEMENT_MS", 200)
    link, tried = Link(database, "test", statement_timeout_ms=100), []

    def work(conn: psycopg.Connection[Any]) -> None:
        tried.append(1)
        conn.execute("SELECT pg_sleep(100)")

    with pytest.raises(DatabaseError, match=r"not get a statement done in 0\.2 s"):
        with_database(link, work, stop=threading.Event(), on_lost=str)
    assert len(tried) == 2
    link.drop()


def test_a_cancel_by_somebody_is_no_time_out(database: str) -> None:
    link, tried = Link(database, "test"), []

    def work(conn: psycopg.Connection[Any]) -> object:
        tried.append(conn.execute("SHOW statement_timeout").fetchone())
        if len(tried) < 8:
            conn.execute(raised("query_canceled").encode())
        return conn.execute("SHOW statement_timeout").fetchone()

    assert with_database(link, work, stop=threading.Event(), on_lost=str, longest_wait=0.01) == ("1min",)
    assert len(tried) == 8
    link.drop()


def test_a_read_of_the_sync_that_the_time_out_cuts_is_made_smaller_and_stays_so(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_documents(database, 300)
    engine = Engine(database, settings=settings_for(database, api, tmp_path, {"placement": "column"}))
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    asked: list[int] = []
    read_keys = SharedPlacement.read_keys

    def slow(self: SharedPlacement, conn: Any, keys: Any, *more: Any) -> Any:
        asked.append(len(keys))
        if len(keys) > 40:  # as the server does to what takes too long
            conn.execute("SET LOCAL statement_timeout = '20ms'")
            conn.execute("SELECT pg_sleep(10)")
        return read_keys(self, conn, keys, *more)

    monkeypatch.setattr(SharedPlacement, "read_keys", slow)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = 'edited ' || id")
    engine.run(threading.Event())
    assert engine.verify().clean
    cut = [size for size in asked if size > 40]
    assert cut == [256, 128, 64], "once it is small enough, it is not tried larger"
    engine.close()
