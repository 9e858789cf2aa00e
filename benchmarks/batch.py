"""Batch jobs under kills: rows embedded, rows paid for twice, money, and the memory of a worker.

    python -m benchmarks.batch [--rows 100000] [--kills 20] [--job 5000] [--seconds 5] [--placement column]

The worker is a process of its own that is killed (-9) at random moments; each job ends as chance has it: completed,
expired, cancelled, or with an odd output. It fails where a row is left, where more than one job's worth is paid for
twice, where the money is not right to the token, or where the work was done before all kills.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psycopg

from benchmarks.common import NEW, NEW_DIMENSIONS, OLD, database, fill, fresh, machine, one, pool_model, settings_for
from embedtui.demo.api import LoopbackServer
from embedtui.demo.api.batches import Order
from embedtui.engine import Engine
from embedtui.errors import EmbedtuiError

PRICE = 0.13


def engine_for(dsn: str, base_url: str, placement: str, job: int) -> Engine:
    """An engine whose backfill goes by batch jobs."""
    flags = {
        "placement": placement,
        "index.method": "none",
        "old_model.retired": True,
        "new_model.batch": True,
        "new_model.batch_inputs": job,
        "new_model.price_per_million": PRICE,
    }
    return Engine(dsn, settings=settings_for(dsn, base_url, **flags))


def worker(dsn: str, base_url: str, placement: str, job: str) -> None:
    """A worker process."""
    import threading

    engine = engine_for(dsn, base_url, placement, int(job))
    engine.run(threading.Event())
    engine.close()


def peak(pid: int) -> float:
    """Peak memory of a process in MB; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM")), 0.0)


def spoil(dice: random.Random, lines: list[bytes]) -> list[bytes]:
    """In another order, some doubled, one of them broken."""
    dice.shuffle(lines)
    return [*(line[: len(line) // 2] for line in lines[:1]), *lines, *lines[:2]]


def order(dice: random.Random) -> Order:
    """What becomes of a job."""
    if dice.random() < 0.2:
        return Order(spoil=lambda lines: spoil(dice, lines))
    end = dice.choice(["completed", "completed", "expired", "cancelled"])
    return Order(end, share=1.0 if end == "completed" else dice.random())


def main() -> None:
    """Run and print."""
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--job", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--placement", default="column")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    models = {OLD: pool_model(NEW_DIMENSIONS, 1), NEW: pool_model(NEW_DIMENSIONS, 2)}
    print(f"{machine()}; {NEW_DIMENSIONS} dimensions, placement {options.placement}, jobs of {options.job:,} rows")
    with (
        database() as server,
        LoopbackServer(models, log_texts=10 * options.rows) as api,
        tempfile.TemporaryFile() as log,
    ):
        dsn = fresh(server, "run")
        fill(dsn, options.rows, index=False)
        api.batches.seconds = options.seconds
        api.batches.orders += [order(dice) for _ in range(6 * options.rows // options.job)]
        command = [sys.executable, "-m", "benchmarks.batch", "--worker", dsn, api.base_url, options.placement]
        began, kills, memory = time.perf_counter(), 0, 0.0
        while True:
            process = subprocess.Popen([*command, str(options.job)], stdout=log, stderr=log)
            moment = api.batches.requests + dice.randrange(1, 10) if kills < options.kills else sys.maxsize
            while process.poll() is None and api.batches.requests < moment:
                memory = max(memory, peak(process.pid))
                time.sleep(0.02)
            time.sleep(dice.random() / 2 * (moment < sys.maxsize))  # filling, sending, and storing answers, too
            if process.poll() is not None and process.returncode == 0:
                break
            if process.poll() is not None:
                log.seek(0)
                raise SystemExit(f"the worker ended with {process.returncode}: {log.read()[-2000:].decode()}")
            process.kill()
            process.wait()
            kills += 1
        took = time.perf_counter() - began
        engine = engine_for(dsn, api.base_url, options.placement, options.job)
        report, snapshot = engine.verify(), engine.snapshot()
        engine.close()
        live = [text for text in api.texts if len(text) > 20]
        again = sum(count - 1 for count in Counter([*live, *api.batches.texts]).values())
        leaked = one(dsn, "SELECT count(*) FROM embedtui.batch_line")
        billed = api.batches.tokens * PRICE / 2 / 1e6
    print(f"  {options.rows:,} rows, {kills} kills, {took:.0f} s, {snapshot.batch.count} jobs, peak {memory:.0f} MB")
    print(f"  paid again: {again:,} rows; live: {len(live):,}; clean: {report.clean}; lines left: {leaked}")
    print(f"  batch money: counted {snapshot.batch.spent:.6f}, billed {billed:.6f}")
    if not report.clean or leaked or abs(billed - (snapshot.batch.spent or 0)) > 1e-9:
        raise SystemExit("rows or lines are left, or the money is not right")
    if again > options.job or kills < options.kills:
        raise SystemExit(f"more than a job was paid for twice, or {kills} kills were all that there was time for")


if __name__ == "__main__":
    try:
        main()
    except (EmbedtuiError, psycopg.Error) as error:
        raise SystemExit(str(error)) from None
