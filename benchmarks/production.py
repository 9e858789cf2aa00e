"""Production beside a backfill: searches and writes with none, with one at full speed, and with a throttled one.

    python -m benchmarks.production [--rows 20000] [--rounds 3] [--seconds 15] [--pace 300]

Searches go through the HNSW index of the old column, writes are edits of single rows; both at a steady rate from a
process of their own. Throttled is: ``--pace`` rows a second by the token budget, and a probe query that holds the
backfill above 1.25x its usual latency. Placement ``column``, the one that burdens production more.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import threading
import time

import numpy as np
import psycopg

from benchmarks.common import OLD_DIMENSIONS, api, database, fill, fresh, machine, one, settings_for
from embedtui.engine import Engine
from embedtui.errors import Interrupted

MODES = ("alone", "full speed", "throttled")
SEARCHES_A_SECOND, WRITES_A_SECOND = 20.0, 10.0
CHARACTERS_PER_TOKEN = 4.0


def vector_text(rng: np.random.Generator) -> str:
    """A random query."""
    return "[" + ",".join(f"{x:.5f}" for x in rng.standard_normal(OLD_DIMENSIONS)) + "]"


def steady(rate: float, end: float, act: object) -> list[float]:
    """Seconds that each act took, begun at a steady rate until ``end``; waiting for a late one counts."""
    seconds, due = [], time.monotonic()
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        act()  # type: ignore[operator]
        seconds.append(time.monotonic() - due)
        due += 1 / rate
    return seconds


def traffic(dsn: str, seconds: str) -> None:
    """Production's process: prints the latencies in seconds."""
    rng = np.random.default_rng(3)
    queries = [vector_text(rng) for _ in range(100)]
    search, write = (psycopg.connect(dsn, autocommit=True, application_name="production") for _ in range(2))
    top = write.execute("SELECT max(id) FROM documents").fetchone()
    assert top is not None

    def searching() -> None:
        query = "SELECT id FROM documents ORDER BY embedding <=> %s::vector LIMIT 10"
        search.execute(query, [random.choice(queries)]).fetchall()

    def writing() -> None:
        number = random.randint(1, top[0])
        write.execute("UPDATE documents SET content = content || ' edited' WHERE id = %s", [number])

    for _ in range(20):
        searching()
    end = time.monotonic() + float(seconds)
    found: dict[str, list[float]] = {}
    writer = threading.Thread(target=lambda: found.update(write=steady(WRITES_A_SECOND, end, writing)))
    writer.start()
    found["search"] = steady(SEARCHES_A_SECOND, end, searching)
    writer.join()
    print(json.dumps(found))


def backfill(dsn: str, base_url: str, pace: str) -> None:
    """The worker's process, until it is told to end by the closing of its standard input."""
    flags: dict[str, object] = {"placement": "column", "index.method": "none"}
    if float(pace):
        probe = f"SELECT id FROM documents ORDER BY embedding <=> '{vector_text(np.random.default_rng(4))}' LIMIT 10"
        flags |= {
            "pacing.tokens_per_minute": float(pace) * 60 * 540 / CHARACTERS_PER_TOKEN,
            "throttle.probe_query": probe,
            "throttle.probe_latency_factor": 1.25,
        }
    engine = Engine(dsn, settings=settings_for(dsn, base_url, **flags))
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    try:
        engine.run(stop)
    except Interrupted:
        pass
    engine.close()


def p(values: list[float], share: float) -> float:
    """A percentile in milliseconds."""
    return sorted(values)[min(len(values) - 1, math.ceil(len(values) * share) - 1)] * 1000


def measure(dsn: str, base_url: str, mode: str, seconds: float, pace: float) -> tuple[dict[str, list[float]], float]:
    """(latencies, rows a second that the backfill made meanwhile)."""
    module = [sys.executable, "-m", "benchmarks.production"]
    worker = None
    rows = "SELECT coalesce(sum(rows), 0)::int FROM embedtui.shard"
    done = began = 0.0
    if mode != "alone":
        command = [*module, "--backfill", dsn, base_url, str(pace if mode == "throttled" else 0)]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        while one(dsn, "SELECT to_regclass('embedtui.shard') IS NOT NULL") is False or one(dsn, rows) == 0:
            time.sleep(0.05)
        done, began = one(dsn, rows), time.monotonic()
    told = subprocess.run([*module, "--traffic", dsn, str(seconds)], stdout=subprocess.PIPE, text=True, check=True)
    rate = 0.0
    if worker is not None:
        rate = (one(dsn, rows) - done) / (time.monotonic() - began)
        worker.communicate("")
    return json.loads(told.stdout), rate


def main() -> None:
    """Run and print."""
    if sys.argv[1:2] == ["--traffic"]:
        traffic(*sys.argv[2:])
        return
    if sys.argv[1:2] == ["--backfill"]:
        backfill(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--pace", type=float, default=300.0)
    options = parser.parse_args()
    print(machine())
    with database() as server, api(0.2) as base_url:
        fill(fresh(server, "source"), options.rows)
        found: dict[str, list[tuple[float, float, float, float]]] = {mode: [] for mode in MODES}
        for number in range(options.rounds):
            for mode in MODES:
                with psycopg.connect(server.dsn(), autocommit=True) as conn:
                    conn.execute("DROP DATABASE IF EXISTS run WITH (FORCE)")
                    conn.execute("CREATE DATABASE run TEMPLATE source STRATEGY file_copy")
                    conn.execute("CHECKPOINT")
                times, rate = measure(server.dsn("run"), base_url, mode, options.seconds, options.pace)
                search, write = times["search"], times["write"]
                found[mode].append((p(search, 0.5), p(search, 0.95), p(write, 0.95), rate))
                print(
                    f"round {number + 1}: {mode}: search p95 {found[mode][-1][1]:.1f} ms, {rate:,.0f} rows/s",
                    flush=True,
                )
        print(f"\n{options.rows:,} rows; medians of {options.rounds} rounds of {options.seconds:g} s")
        alone = statistics.median(row[1] for row in found["alone"])
        for mode, rounds in found.items():
            p50, p95, write95, rate = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(
                f"  {mode:11} search p50 {p50:6.1f} ms  p95 {p95:6.1f} ms ({p95 / alone:.2f}x)"
                f"  write p95 {write95:6.1f} ms  backfill {rate:,.0f} rows/s"
            )


if __name__ == "__main__":
    main()
