"""Rows that the table's own constraints keep from being written: faults of theirs, and no end of the run."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.errors import DatabaseError
from embedtui.model import Command, Phase, PlacementKind
from tests.kits.support import make_documents, settings_for

BROKEN = "ALTER TABLE documents ADD price int NOT NULL DEFAULT 1; UPDATE documents SET price = -1 WHERE {};"
UNCHECKED = "ALTER TABLE documents ADD CONSTRAINT dear CHECK (price > 0) NOT VALID"


def begun(database: str, api: LoopbackServer, folder: Path, where: str) -> Engine:
    """A migration that was prepared before the constraint came."""
    make_documents(database, 60)
    engine = Engine(database, settings=settings_for(database, api, folder, {"placement": "column"}))
    engine.prepare()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(BROKEN.format(where).encode())
        conn.execute(UNCHECKED)
    return engine


def test_a_row_that_breaks_a_constraint_is_a_fault_and_the_others_are_written(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    with closing(begun(database, api, tmp_path, "id IN (7, 41, 42)")) as engine:
        for _ in range(2):
            snapshot = engine.run(threading.Event())
            assert snapshot.phase is Phase.VALIDATE
            faults = engine.faults()
            assert {fault.key for fault in faults} == {("7",), ("41",), ("42",)}
            assert all("refuses its new vector" in fault.reason and '"dear"' in fault.reason for fault in faults)
            engine.retry_faults([fault.id for fault in faults])
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("UPDATE documents SET price = 2 WHERE id = 7; DELETE FROM documents WHERE id > 40")
        engine.run(threading.Event())
        report = engine.verify(sample=60)
        assert report.clean and report.embedded == 40


def test_where_every_row_breaks_it_the_run_ends_before_all_of_it_is_paid(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    with closing(begun(database, api, tmp_path, "true")) as engine, pytest.raises(DatabaseError, match="dear"):
        engine.run(threading.Event())


@pytest.mark.parametrize("valid", [False, True])
def test_a_constraint_that_rows_may_break_speaks_for_a_side_table(
    database: str, api: LoopbackServer, tmp_path: Path, valid: bool
) -> None:
    make_documents(database, 60)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(BROKEN.format("id = 7").encode())
        conn.execute(UNCHECKED)
        if valid:
            conn.execute("UPDATE documents SET price = 1; ALTER TABLE documents VALIDATE CONSTRAINT dear")
    with closing(Engine(database, settings=settings_for(database, api, tmp_path))) as engine:
        assert (engine.plan().placement is PlacementKind.COLUMN) is valid
        if valid:
            return
        engine.run(threading.Event())
        engine.cutover(override={"gate": "test"})
        assert "fold" in {each.name for each in engine.blockers(Command.CLEANUP) if "NOT VALID" in each.message}
