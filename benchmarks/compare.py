"""Times a comparison: 300 queries over 5,000 rows, both sides, exact and by index; cold, repeated, and shown.

python -m benchmarks.compare [--rows 5000] [--queries 300] [--dimensions 768]

Cold: query texts are embedded through the real client and a loopback API (0.2 s a request), nothing is cached.
Repeated: asked the same of an unchanged table, by a new process' worth of connections. Next query: the dashboard in a
pseudo terminal, the Compare screen in front, reading the comparison from the database; from the key to the output that
shows the next query's title, and its first document's text. Targets: cold < 20 s, repeated < 2 s, next query < 100 ms.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg

from benchmarks import common
from benchmarks.terminal import Terminal, percentile
from embedtui.demo.api import LoopbackServer, ModelFunction, hash_model
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.validate.compare import ad_hoc, compare
from embedtui.engine.validate.evaluation import current_evaluation, remembered
from embedtui.engine.validate.gate import decide_gate
from embedtui.engine.validate.report import to_html
from embedtui.engine.validate.run import CompareOptions
from embedtui.model import Comparison, EmbeddingModel, Migration, QueryInput, Side
from embedtui.postgres.connect import connect
from embedtui.providers import make_embedder
from embedtui.providers.base import Embedder
from tests.kits.comparing import Vectors, connector, make_table, unit


def near_rows(rows: Vectors, seed: int) -> ModelFunction:
    """A model under which text "… n" lies near row n."""
    noise = hash_model(rows.shape[1], str(seed))

    def embed(texts: Sequence[str], dimensions: int | None) -> Vectors:
        return unit(rows[[int(text.rsplit(" ", 1)[1]) for text in texts]] + 0.5 * noise(texts, dimensions))

    return embed


SIZES = ((160, 45), (80, 24))
MOVES = 100
DOWN = "\x1b[B"


def child(dsn: str, base_url: str) -> None:
    """The dashboard as an operator opens it."""
    from embedtui.engine import Engine
    from embedtui.tui.app import Dashboard
    from embedtui.tui.smooth import responsive

    settings = common.settings_for(dsn, base_url, table="docs")
    app = Dashboard(lambda sink: Engine(dsn, settings=settings, on_event=sink), remember=False)
    with responsive():
        app.run()


def moved(
    dsn: str, base_url: str, made: Comparison, size: tuple[int, int], keys: Sequence[str] = (DOWN,)
) -> list[float]:
    """Milliseconds of each move to the next query, until its title and its first document are on the screen.

    The moves are made by ``keys``, one after the other.
    """
    terminal = Terminal([sys.executable, "-m", "benchmarks.compare", "--child", dsn, base_url], size)
    try:
        terminal.wait(b"Overview")
        terminal.wait(b"docs")
        terminal.key("2", f"“{made.queries[0].text}”".encode())
        taken = []
        steps = zip(made.queries, made.queries[1 : MOVES + 1], itertools.cycle(keys), strict=False)
        for before, query, key in steps:
            shows = [f"“{query.text}”"]
            if query.new[0].key != before.new[0].key:
                shows.append(f"Document {query.new[0].key[0]}")
            taken.append(terminal.key(key, *(text.encode() for text in shows)))
        return taken
    finally:
        terminal.close()


@contextmanager
def prepared(
    rows: int, queries: int, dimensions: int
) -> Iterator[tuple[EmbeddedServer, LoopbackServer, Migration, dict[Side, Embedder | None], list[QueryInput]]]:
    """A table with both sides on a server of its own, the API of both models, and judged queries."""
    draw = np.random.default_rng(1)
    meaning = draw.normal(size=(rows, 48))
    old, new = (
        unit(meaning @ draw.normal(size=(48, dimensions)) + 2 * draw.normal(size=(rows, dimensions))) for _ in range(2)
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder) / "pg", version=18) as server,
        LoopbackServer({"old-model": near_rows(old, 1), "new-model": near_rows(new, 2)}, latency=0.2) as api,
    ):
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
        models = [EmbeddingModel(name, dimensions, base_url=api.base_url) for name in ("old-model", "new-model")]
        migration = make_table(
            server.dsn(),
            [f"document {number} " + "with some words to read " * 20 for number in range(rows)],
            old,
            new,
            old_model=models[0],
            new_model=models[1],
        )
        embedders = {
            side: make_embedder(model, environ={"OPENAI_API_KEY": api.key})
            for side, model in ((Side.OLD, migration.old_model), (Side.NEW, migration.new_model))
        }
        step = rows / queries
        asked = [QueryInput(f"query {int(n * step)}", (((str(int(n * step)),), 1.0),)) for n in range(queries)]
        yield server, api, migration, embedders, asked


def main() -> int:
    """Exit status 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return 0
    missed = 0

    def report(what: str, seconds: float, target: float) -> None:
        nonlocal missed
        missed += seconds > target
        print(f"{'ok  ' if seconds <= target else 'SLOW'}  {what:<44} {seconds:8.3f} s   target {target:g} s")

    with prepared(given.rows, given.queries, given.dimensions) as (server, api, migration, embedders, asked):
        open_connection = connector(server.dsn())
        began = time.perf_counter()
        made = compare(open_connection, migration, asked, embedders=embedders)
        made = decide_gate(open_connection, migration, made)
        report(f"cold: {given.queries} queries, {given.rows} rows", time.perf_counter() - began, 20)

        began = time.perf_counter()
        again = decide_gate(open_connection, migration, compare(open_connection, migration, asked, embedders=embedders))
        report("repeated", time.perf_counter() - began, 2)
        assert replace(again, checks=()) == replace(made, checks=())

        began = time.perf_counter()
        with open_connection() as conn:
            assert remembered(conn, migration) is not None
        report("the last comparison, when a screen opens", time.perf_counter() - began, 2)

        for size in SIZES:
            taken = moved(server.dsn(), api.base_url, made, size)
            print(f"      next query at {size[0]}x{size[1]}: p50 {percentile(taken, 0.5):.0f} ms, load"
                  f" {os.getloadavg()[0]:.1f}")  # fmt: skip
            report(f"next query on the screen, p95 of {len(taken)}", percentile(taken, 0.95) / 1000, 0.1)

        began = time.perf_counter()
        measured = compare(open_connection, migration, asked, CompareOptions(again=True), embedders=embedders)
        report("measured again, query vectors kept", time.perf_counter() - began, 20)
        assert measured.measures.overlap == made.measures.overlap

        with connect(server.dsn(), name="benchmark") as conn:
            current_evaluation(conn, migration)
            began = time.perf_counter()
            for _ in range(20):
                assert current_evaluation(conn, migration) is not None
            report("is it still valid? (every snapshot)", (time.perf_counter() - began) / 20, 0.02)

        began = time.perf_counter()
        ad_hoc(open_connection, migration, "query 17", embedders=embedders)
        report("a typed query, two requests of 0.2 s", time.perf_counter() - began, 2)

        began = time.perf_counter()
        page = to_html(made, migration)
        report(f"the page ({len(page) / 1e6:.1f} MB)", time.perf_counter() - began, 2)
        figures = made.measures
        print(f"      overlap {figures.overlap.mean:.3f}, index recall {figures.index_recall}, {made.verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
