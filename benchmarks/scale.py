"""Rate and peak memory at 20,000 and 200,000 rows, and one worker process against two with a slow provider.

    python -m benchmarks.scale [--small 20000] [--large 200000] [--placement table] [--rounds 1]

Every worker is a process of its own, whose VmHWM is read at its end. No index on the old column: it is not the matter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg

from benchmarks.common import NEW_DIMENSIONS, OLD_DIMENSIONS, api, database, fresh, machine, settings_for
from embedtui.demo.database import EmbeddedServer
from embedtui.engine import Engine


def worker(dsn: str, base_url: str, placement: str, concurrency: str) -> None:
    """A worker process: prints its seconds and its peak memory in MB."""
    flags = {"placement": placement, "index.method": "none", "pacing.max_concurrency": int(concurrency)}
    engine = Engine(dsn, settings=settings_for(dsn, base_url, **flags))
    began = time.perf_counter()
    engine.run(threading.Event())
    took = time.perf_counter() - began
    engine.close()
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(json.dumps({"seconds": took, "peak": peak / 1024}))


def fill(dsn: str, rows: int) -> None:
    """Rows of about 540 characters; no old vectors."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE documents (id bigserial PRIMARY KEY, content text NOT NULL, metadata jsonb,"
            f" embedding vector({OLD_DIMENSIONS}))"
        )
        conn.execute(
            "INSERT INTO documents (content) SELECT n || repeat(' alpha bravo', 44) FROM generate_series(1, %s) n",
            [rows],
        )
        conn.execute("VACUUM ANALYZE documents")
        conn.execute("CHECKPOINT")


def measure(
    server: EmbeddedServer, rows: int, latency: float, placement: str, processes: int = 1, concurrency: int = 16
) -> tuple[float, float]:
    """(rows a second, peak memory of the largest worker in MB)."""
    dsn = fresh(server, "run")
    fill(dsn, rows)
    with api(latency) as base_url:
        flags = {"placement": placement, "index.method": "none", "pacing.max_concurrency": concurrency}
        engine = Engine(dsn, settings=settings_for(dsn, base_url, **flags))
        engine.prepare()
        command = [sys.executable, "-m", "benchmarks.scale", "--worker", dsn, base_url, placement, str(concurrency)]
        workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
        told = [json.loads(process.communicate()[0]) for process in workers]
        assert engine.verify().clean
        engine.close()
    return rows / max(one["seconds"] for one in told), max(one["peak"] for one in told)


def main() -> None:
    """Run and print."""
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--large", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--placement", default="table")
    parser.add_argument("--slow-rows", type=int, default=80_000)
    parser.add_argument("--skip-size", action="store_true")
    options = parser.parse_args()
    print(f"{machine()}; {NEW_DIMENSIONS} dimensions, placement {options.placement}")
    with database() as server:
        found: dict[int, list[tuple[float, float]]] = {options.small: [], options.large: []}
        for _ in range(0 if options.skip_size else options.rounds):
            for rows, results in found.items():
                results.append(measure(server, rows, 0.2, options.placement))
                print(
                    f"  {rows:9,} rows: {results[-1][0]:7,.0f} rows/s, peak memory {results[-1][1]:.0f} MB", flush=True
                )
        if not options.skip_size:
            small, large = (statistics.median(peak for _, peak in results) for results in found.values())
            print(f"  peak memory at {options.large:,} rows is {large / small:.2f}x that at {options.small:,}")
        shared: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(options.rounds):
            for processes, rates in shared.items():
                rates.append(measure(server, options.slow_rows, 2.0, options.placement, processes, 2)[0])
                print(f"  {processes} process(es), 2 s a request, 2 at a time: {rates[-1]:,.0f} rows/s", flush=True)
        print(f"  two processes: {statistics.median(shared[2]) / statistics.median(shared[1]):.2f}x one")


if __name__ == "__main__":
    main()
