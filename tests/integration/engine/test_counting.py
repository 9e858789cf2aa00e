"""The count of both sides' rows while the table cannot be counted."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from embedtui.cli.work import _status_lines
from embedtui.demo.api import LoopbackServer
from embedtui.engine import counting
from embedtui.engine.engine import Engine
from embedtui.tui import panels
from embedtui.tui.view import Link, View
from tests.kits.support import make_documents, settings_for, wait_for


def test_a_lock_on_the_table_takes_no_count_back(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """Rows that came since the plan are counted still, and soon after the lock as they are then."""
    make_documents(database, 40)
    with closing(Engine(database, settings=settings_for(database, api, tmp_path))) as engine:
        engine.run(threading.Event())
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("INSERT INTO documents (id, content) SELECT n, 'new ' || n FROM generate_series(501, 510) n")
        wait_for(lambda: engine.snapshot().backfill.total == 50)
        with psycopg.connect(database) as other:
            other.execute("INSERT INTO documents (id, content) VALUES (601, 'newer')")
            other.execute("LOCK TABLE documents IN ACCESS EXCLUSIVE MODE")
            seen, end = set(), time.monotonic() + 9
            while time.monotonic() < end:
                status = engine.snapshot().backfill
                seen.add((status.total, status.planned))
                time.sleep(0.1)
            assert seen == {(50, False)} and status.counted_age > 5
            other.commit()
        began = time.monotonic()
        wait_for(lambda: engine.snapshot().backfill.total == 51)
        assert time.monotonic() - began < 10


def test_what_was_never_counted_is_shown_as_about(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan's count is no count of what is there; an old one tells its age."""
    make_documents(database, 40)
    settings = settings_for(database, api, tmp_path)
    with closing(Engine(database, settings=settings)) as engine:
        engine.run(threading.Event())
    monkeypatch.setattr(counting, "COUNT_MS", 100)
    with psycopg.connect(database) as other, closing(Engine(database, settings=settings)) as engine:
        other.execute("LOCK TABLE documents IN ACCESS EXCLUSIVE MODE")
        snapshot = engine.snapshot()
    assert snapshot.backfill.planned and "40 of ~40 planned rows" in "\n".join(_status_lines(snapshot))
    said = panels.backfill(View(snapshot, Link(up=True)), 60, 10).plain
    assert "of ~40 planned rows" in said
    old = replace(snapshot, backfill=replace(snapshot.backfill, planned=False, counted_age=130.0))
    assert "40 of 40 rows, counted 2 m 10 s ago" in "\n".join(_status_lines(old))
