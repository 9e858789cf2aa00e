"""Writing alone, without a provider: each placement against one UPDATE per row.

    python -m benchmarks.writing [--rows 10000] [--rounds 3] [--characters 200,540,1500]

One connection each; the vectors are there already. HNSW on the old column.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import psycopg

from benchmarks.common import NEW_DIMENSIONS, database, fill, fresh, machine, pool_model, settings_for, spread
from embedtui.engine import Engine
from embedtui.engine.backfill.packing import Limits, pack
from embedtui.postgres.connect import connect
from embedtui.postgres.sides.batch import prepare_batch
from embedtui.postgres.sides.placement import make_placement

SIDES = ("one UPDATE per row", "column", "table")
BATCH = 512


@dataclass(frozen=True)
class Result:
    """Of one side and round."""

    rate: float
    wal: float
    """Bytes a row."""
    hot: float | None
    heap: float
    """MB of the user's table after it, TOAST left out."""
    index: float
    """Growth of the old index, percent."""


def facts(conn: psycopg.Connection) -> tuple[int, int, int, int, int]:
    """(WAL position, heap, old index, updates, HOT updates)."""
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("SELECT pg_stat_clear_snapshot()")
    row = conn.execute(
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::int8, pg_relation_size('public.documents'),"
        " pg_relation_size('idx_documents_embedding'), pg_stat_get_tuples_updated('documents'::regclass),"
        " pg_stat_get_tuples_hot_updated('documents'::regclass)"
    ).fetchone()
    assert row is not None
    return row


def one_by_one(dsn: str) -> int:
    """The article's way: an UPDATE for each row, a commit for each 50."""
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("SELECT id, content FROM documents ORDER BY id").fetchall()
        vectors = pool_model(NEW_DIMENSIONS, 2)([text for _, text in rows], None)
        literals = ["[" + ",".join(map(repr, vector.tolist())) + "]" for vector in vectors]
        for done, ((number, _), literal) in enumerate(zip(rows, literals, strict=True), 1):
            conn.execute("UPDATE documents SET embedding_v2 = %s WHERE id = %s", [literal, number])
            if done % 50 == 0:
                conn.commit()
    return len(rows)


def ours(dsn: str) -> int:
    """One row per page and transaction (column), or batches as they come (side table)."""
    engine = Engine(dsn)
    migration = engine.require()
    engine.close()
    placement = make_placement(migration)
    model = pool_model(NEW_DIMENSIONS, 2)
    done = 0
    with connect(dsn, name="write") as conn:
        prepare_batch(conn)
        blocks = conn.execute("SELECT pg_relation_size('public.documents') / 8192").fetchone()
        assert blocks is not None
        for first in range(0, blocks[0], 1024):
            rows = placement.read_shard(conn, migration.table, first, first + 1023)
            limits = Limits(BATCH, 10**9, 10**9)
            for batch in pack(rows, limits, 4.0, per_page=1 if migration.placement.value == "column" else None):
                vectors = model([row.text for row in batch], None)
                with conn.pipeline(), conn.transaction():
                    done += placement.write(conn, migration.table, batch, vectors).rows
    return done


def measure(dsn: str, side: str) -> Result:
    """Prepare, write all rows, and look."""
    if side == "one UPDATE per row":
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"ALTER TABLE documents ADD COLUMN embedding_v2 vector({NEW_DIMENSIONS})")
    else:
        engine = Engine(dsn, settings=settings_for(dsn, "http://127.0.0.1:1/v1", placement=side))
        engine.prepare()
        engine.close()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CHECKPOINT")
        before = facts(conn)
        began = time.perf_counter()
        rows = one_by_one(dsn) if side == SIDES[0] else ours(dsn)
        took = time.perf_counter() - began
        after = facts(conn)
    wal, _, index, updates, hot = (b - a for a, b in zip(before, after, strict=True))
    return Result(
        rows / took,
        wal / rows,
        hot / updates * 100 if updates else None,
        after[1] / 2**20,
        index / before[2] * 100,
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--characters", default="200,540,1500")
    options = parser.parse_args()
    print(machine())
    print(f"{options.rows:,} rows, {options.rounds} rounds; median (min–max)")
    with database() as server:
        for characters in map(int, options.characters.split(",")):
            fill(fresh(server, "source"), options.rows, characters)
            results: dict[str, list[Result]] = {side: [] for side in SIDES}
            for _ in range(options.rounds):
                for side in SIDES:
                    with psycopg.connect(server.dsn(), autocommit=True) as conn:
                        conn.execute("DROP DATABASE IF EXISTS run WITH (FORCE)")
                        conn.execute("CREATE DATABASE run TEMPLATE source STRATEGY file_copy")
                    results[side].append(measure(server.dsn("run"), side))
            for side, found in results.items():
                hot = [result.hot for result in found if result.hot is not None]
                middle = {name: statistics.median(getattr(r, name) for r in found) for name in ("wal", "heap", "index")}
                print(
                    f"{characters:5} characters  {side:18} {spread([r.rate for r in found]):>24} rows/s"
                    f"  WAL {middle['wal'] / 1024:5.1f} kB/row  heap {middle['heap']:5.1f} MB"
                    f"  old index +{middle['index']:.0f} %" + (f"  HOT {statistics.median(hot):.0f} %" if hot else ""),
                    flush=True,
                )


if __name__ == "__main__":
    main()
