"""Measures how much of a provider's quota the pacing uses, and how many requests it gets rejected.

python benchmarks/quota.py [--seconds 30]

A server in its own process enforces tokens and requests per minute; workers pace themselves through a real
PostgreSQL. Counted are the seconds after a warm-up ("once learnt"). Target: >= 95 % used, <= 1 % rejected.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from embedtui.demo.api import DEFAULT_KEY
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.backfill.pacing import Pacer
from embedtui.errors import Interrupted
from embedtui.model import EmbeddingModel, Migration
from embedtui.postgres.connect import connect
from embedtui.postgres.state.migrations import create_migration, load_migration
from embedtui.postgres.state.schema import install
from embedtui.providers import ProviderFault, make_embedder
from tests.kits.samples import sample_migration

CHARACTERS = 540
THREADS = 16


@dataclass(frozen=True)
class Case:
    """One enforced quota, and who works under it."""

    name: str
    tokens: int
    requests: int
    inputs: int
    processes: int = 1
    headers: bool = True
    burst: float = 60.0
    """Seconds of its budget that the server's buckets hold."""
    warm_up: float = 10.0
    """Seconds until it is taken for learnt."""


CASES = [
    Case("tokens bind", 6_000_000, 6_000, 100),
    Case("requests bind", 60_000_000, 600, 50),
    Case("two processes", 6_000_000, 6_000, 100, processes=2),
    Case("server saves up 2 s only", 6_000_000, 6_000, 100, burst=2),
    Case("no rate headers", 6_000_000, 6_000, 100, headers=False, burst=10, warm_up=45),
]


def migration_of(base_url: str) -> Migration:
    """A migration that only has models; nothing else matters here."""
    model = EmbeddingModel("hash:64", 64, base_url=base_url, key_variable="KEY")
    return sample_migration(name="quota", old_model=model, new_model=model)


def work(dsn: str, inputs: int, ended: Event) -> None:
    """One worker process: threads that embed without end."""
    with connect(dsn, name="quota") as conn:
        migration = load_migration(conn, "quota")
    assert migration is not None
    pacer = Pacer(dsn, migration)
    embedder = make_embedder(migration.new_model, environ={"KEY": DEFAULT_KEY})
    stop = threading.Event()

    def loop(thread: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            texts = [f"{thread} {number} {i} ".ljust(CHARACTERS, "x") for i in range(inputs)]
            try:
                with pacer.slot(sum(map(len, texts)), len(texts), stop) as slot:
                    try:
                        reply = embedder.embed(texts, kind="document")
                    except ProviderFault as fault:
                        slot.failed(fault)
                    else:
                        slot.done(reply.tokens, reply.limits, reply.seconds)
            except Interrupted:
                return

    threads = [threading.Thread(target=loop, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    ended.wait()
    stop.set()
    for thread in threads:
        thread.join()
    pacer.close()
    embedder.close()


def control(base_url: str, **order: object) -> dict[str, float]:
    """Counters of the server."""
    request = urllib.request.Request(
        base_url.removesuffix("/v1") + "/control",
        json.dumps(order).encode(),
        {"Authorization": f"Bearer {DEFAULT_KEY}"},
    )
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def measure(server: EmbeddedServer, case: Case, seconds: float) -> None:
    """Run one case and print its line."""
    with connect(server.dsn("postgres"), name="quota") as admin:
        admin.execute("DROP DATABASE IF EXISTS quota WITH (FORCE)")
        admin.execute("CREATE DATABASE quota")
    command = [sys.executable, "-m", "embedtui.demo.api", "--model", "hash:64", "--latency", "0.2"]
    command += ["--tokens-per-minute", str(case.tokens), "--requests-per-minute", str(case.requests)]
    command += ["--burst-seconds", str(case.burst), *([] if case.headers else ["--no-rate-headers"])]
    api = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    workers = []
    try:
        assert api.stdout is not None
        base_url = api.stdout.readline().strip()
        dsn = server.dsn("quota")
        with connect(dsn, name="quota") as conn:
            install(conn)
            create_migration(conn, migration_of(base_url))
            conn.execute("UPDATE embedtui.pace SET max_concurrency = %s", [THREADS])
        workers = [context.Process(target=work, args=(dsn, case.inputs, ended)) for _ in range(case.processes)]
        for worker in workers:
            worker.start()
        time.sleep(case.warm_up)
        with connect(dsn, name="quota") as conn:
            count = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'pace'"
            conn.execute("SELECT pg_stat_clear_snapshot()")
            statements = conn.execute(count).fetchone()[0]
            before, began = control(base_url), time.monotonic()
            time.sleep(seconds)
            after, took = control(base_url), time.monotonic() - began
            statements = conn.execute(count).fetchone()[0] - statements
    finally:
        ended.set()
        for worker in workers:
            worker.join()
        api.terminate()
        api.wait()
        if api.stdout is not None:
            api.stdout.close()
    used = {name: after[name] - before[name] for name in ("tokens", "served", "requests", "rejected")}
    share = max(used["tokens"] / (case.tokens * took / 60), used["served"] / (case.requests * took / 60))
    rejected = used["rejected"] / max(1, used["requests"])
    print(
        f"{case.name:26} quota used {share:6.1%}   429s {rejected:6.2%} of {used['requests']:5.0f} requests"
        f"   {statements / took / case.processes:4.1f} statements/s a process",
        flush=True,
    )


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--case", type=int, help="only this one, counted from 0")
    options = parser.parse_args()
    cases = CASES if options.case is None else [CASES[options.case]]
    with (
        tempfile.TemporaryDirectory(prefix="embedtui-quota-") as folder,
        EmbeddedServer(Path(folder) / "pg") as server,
    ):
        for case in cases:
            measure(server, case, options.seconds)


if __name__ == "__main__":
    main()
