"""The journey itself, and what has to hold at its end."""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psycopg

from benchmarks.chaos.application import Application
from benchmarks.chaos.common import MODELS, NEW, OLD, guilty, poison, write_settings
from benchmarks.chaos.mischief import Mischief
from benchmarks.chaos.watch import LONGEST, Watch
from benchmarks.chaos.workers import Workers
from embedtui.config import load_settings
from embedtui.demo.api import LoopbackServer
from embedtui.demo.api.batches import Order
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.engine import Engine
from embedtui.errors import EmbedtuiError, Refused
from embedtui.model import Phase, Side

CALM_SECONDS = 150.0
"""Patience for the queue to be worked off once it is quiet; a key edited too often is put off for up to a minute."""
SERVER = {"fsync": "off", "full_page_writes": "off", "max_connections": "80", "checkpoint_timeout": "30s"}
JOB_SECONDS = 3.0
"""Of a batch job."""

# Exit codes of workers that are not killed: the database was away as it started, or the provider refused.
EXPECTED_EXITS = {0, 3, 4, 130, -9, -15}

OVERRIDE = {"gate": "chaos", "faults": "chaos"}
"""There are always texts that the provider refuses."""

T = TypeVar("T")


def patiently(work: Callable[[], T], seconds: float = CALM_SECONDS) -> T:
    """Repeat an operator's act while the database is away, or changes wait."""
    end = time.monotonic() + seconds
    while True:
        try:
            return work()
        except EmbedtuiError as error:
            # a cutover waits until the sync has caught up
            refused = isinstance(error, Refused) and "wait for the new side" not in error.message
            if refused or time.monotonic() > end:
                raise
            time.sleep(0.3)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(EmbedtuiError):
            if condition():
                return True
        time.sleep(0.25)
    return False


class Problems(list[str]):
    """What went wrong."""

    def need(self, holds: bool, what: str) -> None:
        if not holds:
            self.append(what)


def check_rows(
    conn: psycopg.Connection[Any], application: Application, query: str, columns: Sequence[str], problems: Problems
) -> int:
    """Every row is what the application was told, and each vector (after the content) is its model's; the rows seen."""
    rows = conn.execute(query).fetchall()
    want = {key: content for key, content in application.ledger.items() if content is not None}
    stored = {row[0]: row[1] for row in rows}
    problems.need(stored == want, f"{len(stored.items() ^ want.items())} rows differ from what was acknowledged")
    for position, model in enumerate(columns, 2):
        wrong = wrong_vectors(rows, position, model)
        problems.need(not wrong, f"{len(wrong)} rows have a wrong vector of {model}: {wrong[:5]}")
    return len(rows)


def wrong_vectors(rows: Sequence[tuple[Any, ...]], position: int, model: str) -> list[int]:
    """Keys of rows (key, content, vectors …) without the vector that ``model`` gives."""
    right = MODELS[model]([row[1] for row in rows], None)
    return [
        row[0]
        for row, vector in zip(rows, right, strict=True)
        if row[position] is None or not np.allclose(row[position], vector, atol=1e-5)
    ]


def check_blame(
    conn: psycopg.Connection[Any], engine: Engine, application: Application, query: str, problems: Problems
) -> int:
    """Blamed is whose text is refused, and nobody else; who is not blamed has a right vector. How many are."""
    blamed = {(int(row.key[0]), row.side) for row in engine.faults(100_000)}
    rows = conn.execute(query).fetchall()
    for position, (side, model) in enumerate(((Side.OLD, OLD), (Side.NEW, NEW)), 2):
        accused = {key for key, of in blamed if of is side}
        innocent = sorted(key for key in accused if not guilty(model, application.ledger.get(key)))
        problems.need(not innocent, f"{len(innocent)} rows are blamed for nothing on the {side} side: {innocent[:5]}")
        wrong = sorted(set(wrong_vectors(rows, position, model)) - accused)
        problems.need(not wrong, f"{len(wrong)} rows of the {side} side are neither right nor blamed: {wrong[:5]}")
    return len(blamed)


def journey(engine: Engine, mischief: Mischief, seconds: float, began: float, problems: Problems) -> None:
    """Canary, cutover, rollback and cutover again, at their times; waits for the backfill first.

    A machine so slow that the backfill does not get on between two acts of mischief has them rarer after a while.
    """

    def at(share: float) -> None:
        time.sleep(max(0.0, began + seconds * share - time.monotonic()))

    def ready() -> bool:
        return engine.snapshot().phase is Phase.VALIDATE

    done = wait_until(ready, seconds * 3)
    while not done and mischief.rarity < 20:
        mischief.rarity *= 4
        done = wait_until(ready, seconds + 90)
    problems.need(done, "the backfill did not end")
    if not done:
        return
    at(0.4)
    patiently(lambda: engine.cutover(30, override=OVERRIDE))
    at(0.5)
    patiently(lambda: engine.cutover(override=OVERRIDE))
    at(0.7)
    patiently(engine.rollback)
    at(0.8)
    patiently(lambda: engine.cutover(override=OVERRIDE))
    at(1.0)


def operator(dsn: str, environ: Mapping[str, str], folder: Path) -> Engine:
    """The engine of somebody who has the workers' settings."""
    return Engine(dsn, settings=load_settings({}, environ=environ, cwd=folder))


def order(dice: random.Random) -> Order:
    """What becomes of a batch job."""
    roll = dice.random()
    if roll < 0.1:
        return Order("failed")
    if roll < 0.2:
        return Order(vanish=True)
    if roll < 0.3:
        return Order(
            spoil=lambda lines: [*(line[: len(line) // 2] for line in lines[:1]), *reversed(lines), *lines[:2]]
        )
    end = dice.choice(("completed", "expired", "cancelled"))
    return Order(end, share=1.0 if end == "completed" else dice.random())


def run(options: argparse.Namespace, folder: Path) -> tuple[dict[str, object], Problems, str]:
    """One journey; its figures, what went wrong, and the workers' logs."""
    seed = f"{options.seed}"
    dice = random.Random(seed)
    placement = options.placement or dice.choice(("column", "table"))
    batch = dice.random() < 0.5 if options.batch is None else options.batch
    problems = Problems()
    with (
        EmbeddedServer(folder / "pg", settings=SERVER) as server,
        LoopbackServer(MODELS, latency=0.03) as api,
        ExitStack() as stack,
    ):
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE app")
        dsn = server.dsn("app")
        api.batches.seconds = JOB_SECONDS
        api.batches.orders += [order(dice) for _ in range(1000)]
        poison(api)
        application = Application(dsn, options.rows, options.writes, seed)
        application.create()
        application.start()
        write_settings(folder, api, placement, batch)
        root = str(Path(__file__).parents[2])
        environ = {**os.environ, "PYTHONPATH": root, "DATABASE_URL": dsn, "OPENAI_API_KEY": api.key}
        environ.pop("OPENAI_BASE_URL", None)
        workers = Workers(folder, environ, ())
        engine = operator(dsn, environ, folder)
        mischief = Mischief(
            server,
            api,
            workers,
            application,
            operator=engine,
            set_endpoint=lambda: write_settings(folder, api, placement, batch),
            seed=seed,
        )
        began = time.monotonic()
        stack.enter_context(workers)
        try:
            begun = wait_until(lambda: engine.snapshot().phase not in (Phase.PLAN, Phase.PREPARE), 120)
            problems.need(begun, "the run did not begin")
            watch = stack.enter_context(Watch(dsn, api, mischief.refusing.is_set))
            application.follow()
            mischief.start()
            journey(engine, mischief, options.seconds, began, problems)
        except EmbedtuiError as error:
            problems.append(f"the journey ended: {error}")
        finally:
            with suppress(RuntimeError):
                mischief.stop()
            application.stop()
        engine.close()
        engine = operator(dsn, environ, folder)  # by the settings of now
        chaos_seconds = time.monotonic() - began
        new = "d.embedding_v2" if placement == "column" else "v.embedding"
        side = "" if placement == "column" else " LEFT JOIN documents_embedding_v2 v USING (id)"
        query = f"SELECT d.id, d.content, d.embedding::real[], {new}::real[] FROM documents d{side}"
        refused = [key for key, content in application.ledger.items() if guilty(NEW, content)]
        old_refused = sum(guilty(OLD, content) for content in application.ledger.values())
        calm = wait_until(lambda: _calm(engine, stale=old_refused), CALM_SECONDS)
        problems.need(calm, f"it did not calm down: {engine.snapshot().sync}, {engine.snapshot().rollback}")
        calm_seconds = time.monotonic() - began - chaos_seconds
        with psycopg.connect(dsn, autocommit=True) as conn:
            blamed = check_blame(conn, engine, application, query, problems)
        application.mend(refused)
        calm = wait_until(lambda: _calm(engine), CALM_SECONDS)
        watch.stop()
        if not calm:
            problems.append(f"mended rows were not embedded: {engine.snapshot().sync}, {engine.snapshot().rollback}")
        problems.need(
            watch.longest <= LONGEST, f"no progress for {watch.longest:.0f} s although rows waited: {watch.then}"
        )
        snapshot = engine.snapshot()
        problems.need(snapshot.rollback.fresh is True, f"the old side is not fresh: {snapshot.rollback}")
        problems.need(snapshot.faulty == 0, f"{snapshot.faulty} rows were blamed: {snapshot.faults}")
        report = engine.verify(sample=200)
        problems.need(report.clean, f"verify is not clean: {report}")
        problems.need(not report.unverified, f"{report.unverified} rows are unverified")
        paid = api.inputs + api.batches.inputs
        with psycopg.connect(dsn, autocommit=True) as conn:
            rows = check_rows(conn, application, query, (OLD, NEW), problems)
        workers.stop()
        cleaned = _clean_up(engine, dsn, application, placement, problems)
        engine.close()
        unexpected = {code: count for code, count in workers.exits.items() if code not in EXPECTED_EXITS}
        problems.need(not unexpected, f"workers left with {unexpected}")
        problems.need(not application.failures, f"{len(application.failures)} application statements failed")
        problems += sorted(set(application.failures))[:5]
        times = sorted(application.seconds)
        summary: dict[str, object] = {
            "seed": options.seed,
            "placement": placement,
            "batch jobs": f"{snapshot.batch.count}" if batch else "none",
            "seconds of chaos": f"{chaos_seconds:.0f}",
            "seconds until calm": f"{calm_seconds:.0f}",
            "longest time without progress": f"{watch.longest:.1f} s: {watch.then}",
            "breaks between faults": f"{mischief.rarity:g}x",
            "rows at the end": rows,
            "texts refused at the end": len(refused),
            "of them blamed": blamed,
            "acknowledged transactions": application.counts["transactions"],
            "acknowledged row writes": application.counts["writes"],
            "row writes a second": f"{application.counts['writes'] / chaos_seconds:.0f}",
            "transactions cut by a crash": application.counts["cut"],
            "transactions failed otherwise": len(application.failures),
            "of them deadlocks": application.counts["deadlocks"],
            "transaction time p50 / p99 / max": " / ".join(
                f"{times[min(len(times) - 1, int(len(times) * share))] * 1000:.0f} ms" for share in (0.5, 0.99, 1.0)
            ),
            "texts paid for": paid,
            "requests refused / sent": f"{api.refused} / {api.requests}",
            "cleanup": "done" if cleaned else "not done",
            "worker exits": ", ".join(f"{code}: {count}" for code, count in sorted(workers.exits.items())),
            **dict(sorted(mischief.counts.items())),
        }
        return summary, problems, workers.logs()


def _clean_up(engine: Engine, dsn: str, application: Application, placement: str, problems: Problems) -> bool:
    try:
        engine.cleanup("documents", override={"soak": "chaos"})
    except EmbedtuiError as error:
        problems.append(f"cleanup: {error}")
        return False
    with psycopg.connect(dsn, autocommit=True) as conn:
        side = "" if placement == "column" else " LEFT JOIN documents_embedding_v2 v USING (id)"
        query = f"SELECT d.id, d.content, {'d' if placement == 'column' else 'v'}.embedding::real[]"
        check_rows(conn, application, f"{query} FROM documents d{side}", (NEW,), problems)
    return True


def _calm(engine: Engine, stale: int = 0) -> bool:
    """Nothing waits; but for so many rows, whose texts the old model refuses, the old side is fresh."""
    snapshot = engine.snapshot()
    if snapshot.migration is not None and snapshot.migration.desired == "pause":
        engine.resume()
    return snapshot.sync.queued == 0 and (snapshot.rollback.fresh is True or 0 < snapshot.rollback.stale <= stale)
