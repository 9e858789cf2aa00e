"""Measures searches of a side table under the policies that ask its source, and of a copy of it without them.

python -m benchmarks.row_security [--rows 20000] [--searches 400] [--rounds 6]

The source has row security in both cases. Both are searched in turn, in one run, by a role that sees all rows and by
one that sees a quarter: joined with the table as the Router does it, and the side table alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg

from benchmarks.common import database, machine
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.model import Side
from embedtui.postgres.sides.search import search_sql
from tests.kits.support import NEW, OLD, make_documents, settings_for, vector_literal

DIMENSIONS = 128
SIDE = "documents_embedding_v2"
SETUP = """
ALTER TABLE documents ADD tenant int; UPDATE documents SET tenant = id % 4;
ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON documents USING (tenant < current_setting('app.tenants')::int);
CREATE ROLE reader; GRANT SELECT ON documents TO reader;
"""
COPY = f"""
CREATE TABLE without (LIKE {SIDE} INCLUDING INDEXES); INSERT INTO without SELECT * FROM {SIDE};
GRANT SELECT ON without TO reader; ANALYZE documents, {SIDE}, without;
"""


def main() -> None:
    """Print the medians of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 20_000), ("searches", 400), ("rounds", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    wanted = parser.parse_args()
    models = {OLD: hash_model(8), NEW: hash_model(DIMENSIONS)}
    with database() as server, LoopbackServer(models) as api, tempfile.TemporaryDirectory() as folder:
        dsn = server.dsn()
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
            make_documents(dsn, wanted.rows)
            conn.execute(SETUP)
        flags = {"placement": "table", "content": ("content",), "new_model.dimensions": DIMENSIONS}
        with closing(Engine(dsn, settings=settings_for(dsn, api, Path(folder), flags))) as engine:
            engine.run(threading.Event())
            joined = search_sql(engine.require(), Side.NEW).as_string(None)
        print(machine())
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(COPY)
            conn.execute("SET ROLE reader; SET hnsw.iterative_scan = strict_order")
            alone = f"SELECT id FROM {SIDE} ORDER BY embedding <=> %(vector)s LIMIT %(k)s"
            vectors = np.random.default_rng(1).standard_normal((wanted.searches, DIMENSIONS))
            for tenants in (4, 1):
                conn.execute(f"SET app.tenants = {tenants}")
                for name, text in (("joined", joined), ("alone", alone)):
                    _compare(conn, f"{name}, {tenants} of 4 rows visible", text, vectors, wanted.rounds)


def _compare(
    conn: psycopg.Connection[tuple[object, ...]], name: str, text: str, vectors: np.ndarray, rounds: int
) -> None:
    taken: dict[str, list[float]] = {SIDE: [], "without": []}
    for _ in range(rounds):
        for vector in vectors:
            for table, times in taken.items():
                began = time.perf_counter()
                conn.execute(text.replace(SIDE, table), {"vector": vector_literal(vector), "k": 10}).fetchall()  # type: ignore[call-overload]
                times.append(time.perf_counter() - began)
    with_policies, without = (statistics.median(times) * 1000 for times in taken.values())
    print(f"{name}: {with_policies:.2f} ms with policies, {without:.2f} without: {with_policies / without:.2f}x")


if __name__ == "__main__":
    main()
