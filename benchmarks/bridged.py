"""From a dead old model to the first bridged hit, and what a bridged search costs beside a straight one.

python -m benchmarks.bridged [--rows 100000] [--latency 0.2]

A table with 768 dimensions and an HNSW index on them, a new model of 1,536 that is related to the old one by a linear
map and noise, 0.2 s a request. Searches by the Router, one after the other, bridged and straight in turn, for questions
that stand in no row (a stored vector itself is found in fewer steps of the index); `mapped` is the straight search of
what the bridge makes of the question, `inner` is `embedtui.bridge()` alone, in the database.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import psycopg

from benchmarks.common import NEW, OLD, database, fresh, machine, settings_for
from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.postgres.names import vector_text
from embedtui.router import Router
from tests.kits.bridging import meanings, seen_by

OLD_DIMENSIONS, NEW_DIMENSIONS = 768, 1536
POOL, TOPICS, NOISE, SEARCHES = 16_384, 64, 4.0, 300


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--latency", type=float, default=0.2)
    options = parser.parse_args()
    about = meanings(POOL, topics=TOPICS)
    old, new = seen_by(2, about, OLD_DIMENSIONS, NOISE), seen_by(1, about, NEW_DIMENSIONS, NOISE)

    def model(texts: Sequence[str], requested: int | None) -> np.ndarray:
        del requested
        return new[[zlib.crc32(text.encode()) % POOL for text in texts]]

    print(machine())
    with database() as server, LoopbackServer({NEW: model}, latency=options.latency) as api:
        dsn = fresh(server, "bridged")
        texts = fill(dsn, options.rows, old)
        flags = {"old_model.retired": True, "new_model.dimensions": NEW_DIMENSIONS}
        began = time.perf_counter()
        engine = Engine(dsn, settings=settings_for(dsn, api.base_url, **flags))
        report = engine.bridge()
        with Router(dsn) as router, psycopg.connect(dsn, autocommit=True) as conn:
            query = model([texts[7]], None)[0]
            hit = router.route("documents").search(conn, query, k=10)
            first = time.perf_counter() - began
            print(f"{options.rows:,} rows: first bridged hit after {first:.1f} s, {report.embedded:,} rows embedded")
            kind, f = report.status.kind, report.status.figures
            print(f"{kind}: recall@10 {f.recall_10.mean:.2f}, overlap@10 {f.overlap_10.mean:.2f}")
            assert hit and router.route("documents").bridged
            bridged, straight = router.route("documents"), router.route("documents", model=OLD)
            asked = meanings(SEARCHES, seed=1, topics=TOPICS)
            asked_old, asked_new = seen_by(2, asked, OLD_DIMENSIONS, NOISE), seen_by(1, asked, NEW_DIMENSIONS, NOISE)
            made = [np.array(json.loads(bridged.bind(each)), np.float32) for each in asked_new]
            inner = "SELECT embedtui.bridge('documents', %s)"
            ways: dict[str, Callable[[int], object]] = {
                "bridged": lambda at: bridged.search(conn, asked_new[at]),
                "straight": lambda at: straight.search(conn, asked_old[at]),
                "mapped": lambda at: straight.search(conn, made[at]),
                "inner": lambda at: conn.execute(inner, [vector_text(asked_new[at])]),
            }
            taken: dict[str, list[float]] = {name: [] for name in ways}
            names = list(ways)
            for at in range(SEARCHES):
                # each comes first in turn: who searches near where the one before did finds the pages at hand
                for name in names[at % len(names) :] + names[: at % len(names)]:
                    way = ways[name]
                    start = time.perf_counter()
                    way(at)
                    taken[name].append((time.perf_counter() - start) * 1000)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    print(", ".join(f"{name} p50 {value:.2f} ms" for name, value in medians.items()))
    print(f"bridged to straight: {medians['bridged'] / medians['straight']:.2f}x")


def fill(dsn: str, rows: int, old: np.ndarray) -> list[str]:
    """The table, and the texts of its rows."""
    texts = [f"{number} of many documents " + "word " * 40 for number in range(rows)]
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE documents (id bigserial PRIMARY KEY, content text NOT NULL,"
            f" embedding vector({OLD_DIMENSIONS}))"
        )
        written = [vector_text(vector) for vector in old]
        with conn.cursor().copy("COPY documents (content, embedding) FROM STDIN") as copy:
            for text in texts:
                copy.write_row((text, written[zlib.crc32(text.encode()) % POOL]))
        conn.execute("SET maintenance_work_mem = '1GB'")
        conn.execute("CREATE INDEX ON documents USING hnsw (embedding vector_cosine_ops)")
        conn.execute("VACUUM ANALYZE documents")
    return texts


if __name__ == "__main__":
    main()
