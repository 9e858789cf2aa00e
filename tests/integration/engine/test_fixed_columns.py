"""Tables whose columns are another's to add and drop: those of a composite type, and partitions."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.errors import Refused, TableError
from embedtui.model import Distance, PlacementKind
from tests.kits.support import settings_for

TYPED = """CREATE TYPE kind AS (id int, content text, embedding vector(8));
CREATE TABLE part OF kind (PRIMARY KEY (id));
CREATE INDEX ON part USING hnsw (embedding vector_l2_ops)"""
PARTITION = """CREATE TABLE whole (id int PRIMARY KEY, content text, embedding vector(8)) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF whole FOR VALUES FROM (0) TO (100);
CREATE INDEX ON whole USING hnsw (embedding vector_l2_ops)"""


@pytest.mark.parametrize("ddl", [TYPED, PARTITION], ids=["typed", "partition"])
def test_no_column_is_added_or_dropped_where_none_can_be(
    database: str, api: LoopbackServer, tmp_path: Path, ddl: str
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(ddl)
        conn.execute("INSERT INTO part SELECT i, 'text ' || i, '[1,2,3,4,5,6,7,8]' FROM generate_series(1, 9) i")
    beside = settings_for(database, api, tmp_path, {"table": "part", "placement": "column"})
    with closing(Engine(database, settings=beside)) as engine:
        (check,) = [each for each in engine.plan().checks if each.name == "columns"]
        assert check.result == "fail"
        with pytest.raises(Refused, match="no column can be added"):
            engine.run(threading.Event())
    flags = {"table": "part", "cutover.soak_days": 0}
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        plan = engine.plan()
        assert plan.placement is PlacementKind.TABLE and not [c for c in plan.checks if c.result == "fail"]
        engine.run(threading.Event())
        assert engine.migration().distance is Distance.L2
        assert engine.verify(sample=9).clean
        engine.cutover(override={"gate": "test"})
        with pytest.raises(Refused, match="no column can be added"):
            engine.cleanup("part", override={"soak": "test", "no_foreign_key": "test"}, fold=True)
        engine.cleanup("part", override={"no_foreign_key": "test"}, keep_old=True, fold=False)
    with psycopg.connect(database) as conn:
        assert conn.execute("SELECT count(*) FROM part JOIN part_embedding_v2 USING (id)").fetchone() == (9,)


def test_a_foreign_partition_is_named_before_anything_is_read(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(PARTITION)
        conn.execute("CREATE FOREIGN DATA WRAPPER elsewhere; CREATE SERVER there FOREIGN DATA WRAPPER elsewhere")
        conn.execute("ALTER TABLE whole DROP CONSTRAINT whole_pkey")
        conn.execute("CREATE FOREIGN TABLE far PARTITION OF whole FOR VALUES FROM (100) TO (200) SERVER there")
    with (
        closing(Engine(database, settings=settings_for(database, api, tmp_path, {"table": "whole"}))) as engine,
        pytest.raises(TableError, match="far, a partition of whole, is a foreign table"),
    ):
        engine.plan()
