"""Takes the full journey while everything fails: is any row lost, stale or wrong, and does the application ever notice?

python benchmarks/chaos.py [--seconds 120] [--seed N] [--placement column|table] [--writes 120] [--rows 4000]

A server of its own, a loopback API, and an application that inserts, edits and deletes from six threads, a quarter
of it in transactions of several rows. Two workers (`embedtui run --follow`) are killed by SIGKILL and started again,
the database is crashed and restarted, connections are cut and statements cancelled, rows are kept locked, and the
provider fails in every way it can, all from a printed seed. Meanwhile: backfill, index, canary, cutover, rollback.
When it is quiet again `verify` has to be clean, a check of its own recomputes what every vector must be on both sides,
everything the application was told is stored has to be there, and cleanup ends the journey. Leaves with 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psycopg

from embedtui.demo.api import FaultKind, LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.engine import Engine
from embedtui.errors import EmbedtuiError, Refused
from embedtui.model import Phase, Side
from embedtui.postgres.connect import lost
from embedtui.router import Router

OLD, NEW = "old-model", "new-model"
MODELS = {OLD: hash_model(24), NEW: hash_model(32, salt="new")}
WRITERS = 6
WORKERS = 2
INPUTS = 32
"""Texts a request."""
CALM_SECONDS = 150.0
"""Patience for the queue to be worked off once it is quiet; a key edited too often is put off for up to a minute."""
SERVER = {"fsync": "off", "full_page_writes": "off", "max_connections": "80", "checkpoint_timeout": "30s"}

# Exit codes of workers that are not killed: the database was away as it started, or the provider refused.
EXPECTED_EXITS = {0, 3, 4, 130, -signal.SIGKILL, -signal.SIGTERM}

PASSING = (
    FaultKind.SERVER_ERROR, FaultKind.UNAVAILABLE, FaultKind.RATE_LIMITED, FaultKind.RESET, FaultKind.HALF_REPLY,
    FaultKind.NOT_JSON, FaultKind.NO_DATA, FaultKind.FEWER, FaultKind.SHUFFLED, FaultKind.DUPLICATE_INDEX,
    FaultKind.NAN, FaultKind.ZERO, FaultKind.FLOATS, FaultKind.HANG,
)  # fmt: skip
"""Faults that go on by themselves."""
STOPPING = (
    FaultKind.UNAUTHORIZED, FaultKind.FORBIDDEN, FaultKind.MODEL_NOT_FOUND, FaultKind.INSUFFICIENT_QUOTA,
    FaultKind.RETIRED, FaultKind.WRONG_DIMENSIONS,
)  # fmt: skip
"""Faults that pause the run until somebody resumes it."""

T = TypeVar("T")


def vector_text(model: str, content: str) -> str:
    """The vector that ``model`` has to give, in pgvector's text form."""
    return "[" + ",".join(repr(float(x)) for x in MODELS[model]([content], None)[0]) + "]"


class Application:
    """What a service does, from several threads; keeps a ledger of what it was told is stored."""

    def __init__(self, dsn: str, rows: int, writes_per_second: float, seed: str) -> None:
        self.dsn = dsn
        self.ledger: dict[int, str | None] = {}
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.seconds: list[float] = []
        """How long each acknowledged transaction took."""
        self.down = threading.Event()
        """Set while the database is being crashed or restarted: only then may a statement be cut."""
        self._rows = rows
        self._pause = WRITERS / writes_per_second
        self._seed = seed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._router: Router | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"writer-{number}") for number in range(WRITERS)
        ]

    def create(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
            conn.execute(
                "CREATE TABLE documents (id bigint PRIMARY KEY, content text, hits integer NOT NULL DEFAULT 0,"
                " embedding vector(24))"
            )
            with conn.cursor().copy("COPY documents (id, content, embedding) FROM STDIN") as copy:
                for number in range(self._rows):
                    content = f"document {number} " + "lorem ipsum " * (5 + number % 40)
                    self.ledger[number] = content
                    copy.write_row((number, content, vector_text(OLD, content)))
            conn.execute("CREATE INDEX documents_embedding ON documents USING hnsw (embedding vector_cosine_ops)")

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def follow(self) -> None:
        """From now on write what the route says (there is one once the migration has begun)."""
        self._router = Router(self.dsn, application_name="chaos")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._router is not None:
            self._router.close()

    def _run(self, number: int) -> None:
        dice = random.Random(f"{self._seed} writer {number}")
        own = [key for key in self.ledger if key % WRITERS == number]
        fresh = iter(range(1_000_000 + number, 10_000_000, WRITERS))
        doubtful: dict[int, set[str | None]] = {}
        conn: psycopg.Connection[Any] | None = None
        due = time.monotonic()
        while not self._stop.is_set() or doubtful:
            due = max(due + self._pause * dice.uniform(0.5, 1.5), time.monotonic() - 1.0)
            self._stop.wait(max(0.0, due - time.monotonic()))
            changes: dict[int, str | None] = {}
            began = time.monotonic()
            try:
                if conn is None or conn.closed:
                    conn = psycopg.connect(self.dsn, autocommit=True, connect_timeout=5, application_name="chaos app")
                    self._settle(conn, doubtful)
                if self._stop.is_set():
                    break
                changes = self._transaction(conn, dice, own, fresh)
                self._acknowledge(changes, time.monotonic() - began)
            except psycopg.Error as error:
                for key, content in changes.items():
                    doubtful.setdefault(key, {self.ledger.get(key)}).add(content)
                if lost(error) or (conn is not None and conn.closed):
                    self._cut(error)
                    if conn is not None:
                        # only what was being changed as it broke is in doubt
                        for key, content in self._attempted(conn).items():
                            doubtful.setdefault(key, {self.ledger.get(key)}).add(content)
                        conn.close()
                    conn = None
                    time.sleep(0.1)
                else:
                    self._failed(error)
        if conn is not None:
            conn.close()

    def _attempted(self, conn: psycopg.Connection[Any]) -> dict[int, str | None]:
        return getattr(threading.current_thread(), "attempted", {})

    def _transaction(
        self, conn: psycopg.Connection[Any], dice: random.Random, own: list[int], fresh: Any
    ) -> dict[int, str | None]:
        """One transaction; returns what it changed, once it is acknowledged."""
        changes: dict[int, str | None] = {}
        threading.current_thread().attempted = changes  # type: ignore[attr-defined]
        steps = dice.choice((2, 3, 5)) if dice.random() < 0.25 else 1
        with conn.transaction():
            for _ in range(steps):
                roll = dice.random()
                if roll < 0.15 or len(own) < 50:
                    self._insert(conn, dice, next(fresh), changes)
                elif roll < 0.25:
                    self._delete(conn, dice.choice(own), changes)
                elif roll < 0.35:  # something that is not content
                    conn.execute("UPDATE documents SET hits = hits + 1 WHERE id = %s", [dice.choice(own)])
                else:
                    self._edit(conn, dice, dice.choice(own), changes)
        for key, content in changes.items():
            if content is None and key in own:
                own.remove(key)
            elif content is not None and key not in own:
                own.append(key)
        return changes

    def _text(self, dice: random.Random, key: int) -> str:
        return f"document {key} revised {dice.getrandbits(48)} " + "dolor sit amet " * dice.randrange(3, 40)

    def _serves_new(self) -> bool:
        if self._router is None:
            return False
        try:
            return self._router.route("documents").side is Side.NEW
        except EmbedtuiError:
            return False

    def _insert(self, conn: psycopg.Connection[Any], dice: random.Random, key: int, changes: dict[int, Any]) -> None:
        content = changes[key] = self._text(dice, key)
        new = self._serves_new()
        conn.execute(
            "INSERT INTO documents (id, content, embedding) VALUES (%s, %s, %s)",
            [key, content, None if new else vector_text(OLD, content)],
        )
        if new and dice.random() < 0.5:
            self._write_new(conn, key, content)

    def _edit(self, conn: psycopg.Connection[Any], dice: random.Random, key: int, changes: dict[int, Any]) -> None:
        if key in changes and changes[key] is None:
            return
        content = changes[key] = self._text(dice, key)
        if self._serves_new():
            # the old vector stays as it is: keeping it current is not the application's work any more
            conn.execute("UPDATE documents SET content = %s WHERE id = %s", [content, key])
            if dice.random() < 0.5:
                self._write_new(conn, key, content)
        else:
            conn.execute(
                "UPDATE documents SET content = %s, embedding = %s WHERE id = %s",
                [content, vector_text(OLD, content), key],
            )

    def _write_new(self, conn: psycopg.Connection[Any], key: int, content: str) -> None:
        assert self._router is not None
        vector = [float(x) for x in MODELS[NEW]([content], None)[0]]
        self._router.write(conn, "documents", key, vector, model=NEW, content=content)

    def _delete(self, conn: psycopg.Connection[Any], key: int, changes: dict[int, Any]) -> None:
        changes[key] = None
        conn.execute("DELETE FROM documents WHERE id = %s", [key])

    def _acknowledge(self, changes: dict[int, str | None], seconds: float) -> None:
        with self._lock:
            self.ledger.update(changes)
            self.counts["transactions"] += 1
            self.counts["writes"] += len(changes)
            self.seconds.append(seconds)

    def _settle(self, conn: psycopg.Connection[Any], doubtful: dict[int, set[str | None]]) -> None:
        """Look up what became of the transaction whose commit was cut off."""
        rows = conn.execute("SELECT id, content FROM documents WHERE id = ANY (%s)", [list(doubtful)]).fetchall()
        found: dict[int, str | None] = dict(rows)
        for key, candidates in doubtful.items():
            if found.get(key) not in candidates:
                self.failures.append(f"row {key} is neither as before nor as written")
            with self._lock:
                self.ledger[key] = found.get(key)
        doubtful.clear()

    def _cut(self, error: psycopg.Error) -> None:
        if self.down.is_set():
            with self._lock:
                self.counts["cut"] += 1
        else:
            self._failed(error)

    def _failed(self, error: psycopg.Error) -> None:
        with self._lock:
            self.counts["deadlocks"] += isinstance(error, psycopg.errors.DeadlockDetected)
            self.failures.append(f"{type(error).__name__}: {str(error).splitlines()[0]}")


class Workers:
    """Worker processes; what ends is started again."""

    def __init__(self, folder: Path, environ: dict[str, str], arguments: Sequence[str]) -> None:
        self.exits: Counter[int] = Counter()
        self._folder, self._environ, self._arguments = folder, environ, list(arguments)
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * WORKERS
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="workers")

    def start(self) -> None:
        self._thread.start()

    def _keep(self) -> None:
        while not self._stop.wait(0.1):
            with self._lock:
                for number, process in enumerate(self._processes):
                    if process is not None and process.poll() is not None:
                        self.exits[process.returncode] += 1
                        self._processes[number] = process = None
                    if process is None:
                        self._processes[number] = self._spawn(number)

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        with (self._folder / f"worker-{number}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", "from embedtui.cli import main; main()", "run", "--follow", *self._arguments],
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, number: int) -> bool:
        with self._lock:
            process = self._processes[number]
            if process is None or process.poll() is not None:
                return False
            process.kill()
            return True

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        for process in self._processes:
            if process is not None:
                process.terminate()
        for process in self._processes:
            if process is not None:
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    self.exits[-999] += 1  # did not stop
                    process.kill()
                    process.wait()
                self.exits[process.returncode] += 1

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-40:])
            for path in sorted(self._folder.glob("worker-*.log"))
        )


class Mischief:
    """Breaks things at random until stopped, and leaves everything whole."""

    def __init__(
        self, server: EmbeddedServer, api: LoopbackServer, workers: Workers, application: Application, seed: str
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.rarity = 1.0
        """How many times longer the breaks between two acts are."""
        self._server, self._api, self._workers, self._application = server, api, workers, application
        self._dice = random.Random(f"{seed} mischief")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mischief")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._api.faults.clear()
        self._resume()

    def _run(self) -> None:
        acts: list[tuple[int, Callable[[], None]]] = [
            (5, self._kill),
            (2, self._crash),
            (1, self._restart),
            (5, self._provider_fails),
            (1, self._provider_refuses),
            (4, self._cut_connections),
            (3, self._cancel),
            (4, self._lock_rows),
        ]
        weights = [weight for weight, _ in acts]
        while not self._stop.wait(self._dice.uniform(0.5, 2.5) * self.rarity):
            [(_, act)] = self._dice.choices(acts, weights)
            act()
            self._resume()

    def _kill(self) -> None:
        self.counts["worker killed"] += self._workers.kill(self._dice.randrange(WORKERS))

    def _crash(self) -> None:
        self.counts["database crashed"] += 1
        self._down(self._server.crash, self._dice.uniform(0.0, 2.0))

    def _restart(self) -> None:
        self.counts["database restarted"] += 1
        self._down(self._server.restart, 0.0)

    def _down(self, act: Callable[[], None], pause: float) -> None:
        self._application.down.set()
        act()
        time.sleep(pause)
        self._server.start()
        time.sleep(1.0)  # the application's threads notice by their next statement
        self._application.down.clear()

    def _provider_fails(self) -> None:
        kind = self._dice.choice(PASSING)
        self.counts[f"provider {kind}"] += 1
        retry_after = self._dice.choice((None, 1)) if kind is FaultKind.RATE_LIMITED else None
        self._api.faults.add(
            kind,
            times=self._dice.choice((1, 1, 2, 4)),
            retry_after=retry_after,
            seconds=1.0,
            model=self._either_model(),
        )

    def _either_model(self) -> str | None:
        return self._dice.choice((None, None, OLD, NEW))

    def _provider_refuses(self) -> None:
        kind = self._dice.choice(STOPPING)
        self.counts[f"provider {kind}"] += 1
        fault = self._api.faults.add(kind, times=2, model=self._either_model())
        self._stop.wait(2.0)
        self._api.faults.remove(fault)

    def _resume(self) -> None:
        """What an operator does once the key is mended."""
        engine = Engine(self._server.dsn("app"))
        with suppress(EmbedtuiError):
            if engine.require().desired == "pause":
                engine.resume()
                self.counts["resumed"] += 1
        engine.close()

    def _cut_connections(self) -> None:
        self._signal("pg_terminate_backend", "connections cut")

    def _cancel(self) -> None:
        self._signal("pg_cancel_backend", "statements cancelled")

    def _signal(self, function: str, name: str) -> None:
        with suppress(psycopg.Error), psycopg.connect(self._server.dsn("app"), autocommit=True) as conn:
            pids = [
                row[0]
                for row in conn.execute(
                    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'embedtui/%' ORDER BY pid"
                )
            ]
            for pid in self._dice.sample(pids, min(len(pids), 4)):
                conn.execute(f"SELECT {function}(%s)", [pid])
                self.counts[name] += 1

    def _lock_rows(self) -> None:
        """A transaction that keeps rows locked for a while; the application waits for it, nobody else should."""
        self.counts["rows kept locked"] += 1
        keys = self._dice.sample(sorted(self._application.ledger.copy()), 20)
        with suppress(psycopg.Error), psycopg.connect(self._server.dsn("app")) as conn:
            conn.execute("SELECT FROM documents WHERE id = ANY (%s) ORDER BY id FOR UPDATE", [keys])
            self._stop.wait(self._dice.uniform(0.2, 1.5))


def patiently(work: Callable[[], T], seconds: float = 60.0) -> T:
    """Repeat an operator's act while the database is away."""
    end = time.monotonic() + seconds
    while True:
        try:
            return work()
        except EmbedtuiError as error:
            if isinstance(error, Refused) or time.monotonic() > end:
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
        right = MODELS[model]([row[1] for row in rows], None)
        wrong = [
            row[0]
            for row, vector in zip(rows, right, strict=True)
            if row[position] is None or not np.allclose(row[position], vector, atol=1e-5)
        ]
        problems.need(not wrong, f"{len(wrong)} rows have a wrong vector of {model}: {wrong[:5]}")
    return len(rows)


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
    patiently(lambda: engine.cutover(30, override={"gate": "chaos"}))
    at(0.5)
    patiently(lambda: engine.cutover(override={"gate": "chaos"}))
    at(0.7)
    patiently(engine.rollback)
    at(0.8)
    patiently(lambda: engine.cutover(override={"gate": "chaos"}))
    at(1.0)


def run(options: argparse.Namespace, folder: Path) -> tuple[dict[str, object], Problems, str]:
    seed = f"{options.seed}"
    placement = options.placement or random.Random(seed).choice(("column", "table"))
    problems = Problems()
    with (
        EmbeddedServer(folder / "pg", settings=SERVER) as server,
        LoopbackServer(MODELS, latency=0.03) as api,
    ):
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE app")
        dsn = server.dsn("app")
        application = Application(dsn, options.rows, options.writes, seed)
        application.create()
        application.start()
        (folder / "embedtui.toml").write_text(
            f'table = "documents"\nplacement = "{placement}"\n[old_model]\nname = "{OLD}"\nmax_inputs = {INPUTS}\n'
            f'[new_model]\nname = "{NEW}"\ndimensions = 32\nmax_inputs = {INPUTS}\n[pacing]\nmax_concurrency = 4\n'
        )
        root = str(Path(__file__).parent.parent)
        environ = {
            **os.environ, "PYTHONPATH": root, "DATABASE_URL": dsn, "OPENAI_API_KEY": api.key,
            "OPENAI_BASE_URL": api.base_url,
        }  # fmt: skip
        workers = Workers(folder, environ, ())
        mischief = Mischief(server, api, workers, application, seed)
        engine = Engine(dsn, environ=environ)
        workers.start()
        began = time.monotonic()
        try:
            begun = wait_until(lambda: engine.snapshot().phase not in (Phase.PLAN, Phase.PREPARE), 120)
            problems.need(begun, "the run did not begin")
            application.follow()
            mischief.start()
            journey(engine, mischief, options.seconds, began, problems)
        finally:
            with suppress(RuntimeError):
                mischief.stop()
            application.stop()
        chaos_seconds = time.monotonic() - began
        calm = wait_until(lambda: _calm(engine), CALM_SECONDS)
        problems.need(calm, f"it did not calm down: {engine.snapshot().sync}, {engine.snapshot().rollback}")
        calm_seconds = time.monotonic() - began - chaos_seconds
        snapshot = engine.snapshot()
        problems.need(snapshot.rollback.fresh is True, f"the old side is not fresh: {snapshot.rollback}")
        problems.need(snapshot.faulty == 0, f"{snapshot.faulty} rows were blamed: {snapshot.faults}")
        report = engine.verify(sample=200)
        problems.need(report.clean, f"verify is not clean: {report}")
        problems.need(not report.unverified, f"{report.unverified} rows are unverified")
        paid = api.inputs
        with psycopg.connect(dsn, autocommit=True) as conn:
            new = "d.embedding_v2" if placement == "column" else "v.embedding"
            side = "" if placement == "column" else " LEFT JOIN documents_embedding_v2 v USING (id)"
            query = f"SELECT d.id, d.content, d.embedding::real[], {new}::real[] FROM documents d{side}"
            rows = check_rows(conn, application, query, (OLD, NEW), problems)
        with suppress(RuntimeError):
            workers.stop()
        try:
            engine.cleanup("documents", override={"soak": "chaos"})
        except EmbedtuiError as error:
            problems.append(f"cleanup: {error}")
        else:
            with psycopg.connect(dsn, autocommit=True) as conn:
                side = "" if placement == "column" else " LEFT JOIN documents_embedding_v2 v USING (id)"
                query = f"SELECT d.id, d.content, {'d' if placement == 'column' else 'v'}.embedding::real[]"
                check_rows(conn, application, f"{query} FROM documents d{side}", (NEW,), problems)
        engine.close()
        unexpected = {code: count for code, count in workers.exits.items() if code not in EXPECTED_EXITS}
        problems.need(not unexpected, f"workers left with {unexpected}")
        problems.need(not application.failures, f"{len(application.failures)} application statements failed")
        problems += sorted(set(application.failures))[:5]
        times = sorted(application.seconds)
        summary: dict[str, object] = {
            "seed": options.seed,
            "placement": placement,
            "seconds of chaos": f"{chaos_seconds:.0f}",
            "seconds until calm": f"{calm_seconds:.0f}",
            "breaks between faults": f"{mischief.rarity:g}x",
            "rows at the end": rows,
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
            "worker exits": ", ".join(f"{code}: {count}" for code, count in sorted(workers.exits.items())),
            **dict(sorted(mischief.counts.items())),
        }
        return summary, problems, workers.logs()


def _calm(engine: Engine) -> bool:
    snapshot = engine.snapshot()
    if snapshot.migration is not None and snapshot.migration.desired == "pause":
        engine.resume()
    return snapshot.sync.queued == 0 and snapshot.rollback.fresh is True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="of chaos")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--placement", choices=("column", "table"), help="default: by the seed")
    parser.add_argument("--writes", type=float, default=120.0, help="of the application, transactions a second")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--folder", type=Path, help="for data and the workers' output, kept; default: a temporary one")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="embedtui-chaos-", ignore_cleanup_errors=True) as folder:
        summary, problems, logs = run(options, options.folder or Path(folder))
    width = max(len(name) for name in summary)
    for name, value in summary.items():
        print(f"{name:<{width}}  {value}")
    print()
    if problems:
        print(logs, file=sys.stderr)
        for problem in problems:
            print(f"PROBLEM: {problem}")
        sys.exit(1)
    print("Clean: verify and the independent check agree, nothing acknowledged was lost.")


if __name__ == "__main__":
    main()
