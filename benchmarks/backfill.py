"""Backfill end to end against an API of 0.2 s a request: the article's script, embedtui in both placements, a ceiling.

    python -m benchmarks.backfill [--rows 20000] [--rounds 3] [--seconds 20]

The article's script and its variant are cut off after ``--seconds``; their rate is that of the time they had.
"""

from __future__ import annotations

import argparse
import base64
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import openai
import psycopg

from benchmarks.common import NEW, NEW_DIMENSIONS, api, database, fill, fresh, machine, one, settings_for, spread
from embedtui.demo.api import DEFAULT_KEY
from embedtui.engine import Engine


def article(dsn: str, base_url: str, seconds: float, sleep: float) -> float:
    """What the article does: 50 documents a request, one request after the other, an UPDATE a row."""
    client = openai.OpenAI(base_url=base_url, api_key=DEFAULT_KEY)
    with psycopg.connect(dsn) as conn:
        conn.execute(f"ALTER TABLE documents ADD COLUMN embedding_v2 vector({NEW_DIMENSIONS})")
        conn.commit()
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            rows = conn.execute("SELECT id, content FROM documents WHERE embedding_v2 IS NULL LIMIT 50").fetchall()
            if not rows:
                break
            reply = client.embeddings.create(model=NEW, input=[text for _, text in rows], dimensions=NEW_DIMENSIONS)
            for (number, _), item in zip(rows, reply.data, strict=True):
                conn.execute("UPDATE documents SET embedding_v2 = %s WHERE id = %s", [str(item.embedding), number])
            conn.commit()
            done += len(rows)
            time.sleep(sleep)
        return done / (time.perf_counter() - began)


def ceiling(dsn: str, base_url: str, threads: int = 16, batch: int = 256) -> float:
    """No guard, no provenance, no resume: embed and COPY into a bare table, as fast as this machine can."""
    with psycopg.connect(dsn) as conn:
        texts = list(conn.execute("SELECT id, content FROM documents ORDER BY id"))
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"CREATE TABLE bare (id bigint, embedding vector({NEW_DIMENSIONS}))")
    head = [("n", ">i2"), ("l1", ">i4"), ("id", ">i8"), ("l2", ">i4"), ("d", ">i2"), ("u", ">i2")]
    record = np.dtype([*head, ("v", ">f4", (NEW_DIMENSIONS,))])
    client = httpx2.Client(
        base_url=base_url,
        headers={"Authorization": f"Bearer {DEFAULT_KEY}"},
        limits=httpx2.Limits(max_connections=threads),
        timeout=60,
    )
    writers = [psycopg.connect(dsn, autocommit=True) for _ in range(3)]
    free = threading.Semaphore(3)
    lock = threading.Lock()

    def work(first: int) -> None:
        part = texts[first : first + batch]
        body = {"model": NEW, "input": [t for _, t in part], "dimensions": NEW_DIMENSIONS, "encoding_format": "base64"}
        data = client.post("embeddings", json=body).json()["data"]
        rows = np.zeros(len(part), record)
        rows["n"], rows["l1"], rows["l2"], rows["d"] = 2, 8, 4 + 4 * NEW_DIMENSIONS, NEW_DIMENSIONS
        rows["id"] = [number for number, _ in part]
        for k, item in enumerate(data):
            rows["v"][k] = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
        with free:
            with lock:
                writer = writers.pop()
            with writer.cursor().copy("COPY bare FROM STDIN (FORMAT BINARY)") as copy:
                copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows.tobytes() + b"\xff\xff")
            with lock:
                writers.append(writer)

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(0, len(texts), batch)))
    rate = len(texts) / (time.perf_counter() - began)
    for writer in writers:
        writer.close()
    client.close()
    return rate


def embedtui(dsn: str, base_url: str, placement: str) -> float:
    """The backfill phase of ``embedtui run``, up to the point where the index would be built."""
    settings = settings_for(dsn, base_url, **{"placement": placement, "index.method": "none"})
    engine = Engine(dsn, settings=settings)
    engine.prepare()
    rows = one(dsn, "SELECT count(*) FROM documents")
    began = time.perf_counter()
    engine.run(threading.Event())
    took = time.perf_counter() - began
    assert engine.verify().clean
    share = engine.snapshot().backfill.hot_share
    engine.close()
    if share is not None:
        hot.append(share * 100)
    return rows / took


hot: list[float] = []


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print(machine())
    with database() as server, api(options.latency) as base_url:
        source = fresh(server, "source")
        fill(source, options.rows)
        sides: dict[str, Callable[[str], float]] = {
            "the article's script": lambda dsn: article(dsn, base_url, options.seconds, 0.5),
            "without its sleep": lambda dsn: article(dsn, base_url, options.seconds, 0.0),
            "embedtui column": lambda dsn: embedtui(dsn, base_url, "column"),
            "embedtui table": lambda dsn: embedtui(dsn, base_url, "table"),
            "ceiling (bare COPY)": lambda dsn: ceiling(dsn, base_url),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides if options.only in name}
        growth: list[float] = []
        for number in range(options.rounds):
            for name in rates:
                with psycopg.connect(server.dsn(), autocommit=True) as conn:
                    conn.execute("DROP DATABASE IF EXISTS run WITH (FORCE)")
                    conn.execute("CREATE DATABASE run TEMPLATE source STRATEGY file_copy")
                    conn.execute("CHECKPOINT")
                dsn = server.dsn("run")
                size = "SELECT pg_relation_size('idx_documents_embedding')"
                before = one(dsn, size)
                rates[name].append(sides[name](dsn))
                if name == "embedtui column":
                    growth.append((one(dsn, size) / before - 1) * 100)
                print(f"round {number + 1}: {name}: {rates[name][-1]:,.0f} rows/s", flush=True)
    print(f"\n{options.rows:,} rows of about 540 characters, {options.latency} s a request; median (min–max), rows/s")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        notes = []
        if "without its sleep" in medians and name.startswith("embedtui"):
            notes.append(f"{medians[name] / medians['without its sleep']:.1f}x the script without its sleep")
        if "ceiling (bare COPY)" in medians and name.startswith("embedtui"):
            notes.append(f"{medians[name] / medians['ceiling (bare COPY)']:.2f} of the ceiling")
        print(f"  {name:22} {spread(values):>22}  {', '.join(notes)}")
    if hot:
        print(f"  HOT share {spread(hot)} %; old index grew by {spread(growth)} %")


if __name__ == "__main__":
    main()
