"""The old model is dead, everything fails and the bridge is flipped at random: does any search use the wrong map?

python -m benchmarks.bridged_chaos [--seconds 60] [--seed N] [--placement column|table] [--rows 1500]

A server of its own, a loopback API without the old model, two workers that are killed, a database that is crashed,
restarted and cut off, a provider that fails; and an operator who turns the bridge on (another map each time) and off,
cuts over, wholly or in part, and rolls back, all from a printed seed. Meanwhile Routers and `embedtui.search()` ask for
rows whose vectors of both models are known: every distance has to be the one that the route's own model, column and map
give, to the fourth place. Both models have the same dimensions, so that a wrong side or map would be silent. Two
writers edit and insert without old vectors; when it is quiet again, each row's old vector has to be the old model's, or
what the map that is noted makes of its content. Leaves with 1 otherwise.
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
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from embedtui.config import load_settings
from embedtui.demo.api import FaultKind, LoopbackServer
from embedtui.demo.database import EmbeddedServer
from embedtui.engine import Engine
from embedtui.engine.bridge.stand_in import stand_in
from embedtui.errors import EmbedtuiError
from embedtui.model import Phase, Side
from embedtui.model.bridge import LinearMap
from embedtui.postgres.connect import lost
from embedtui.postgres.state.bridges import load_map, load_status
from embedtui.router import Router
from tests.kits.bridging import Vectors, make_table, model_function, text_of
from tests.kits.support import NEW, OLD

SIZE = 24
MODELS = {OLD: model_function(2, SIZE), NEW: model_function(1, SIZE)}
WORKERS, SEARCHERS, WRITERS = 2, 3, 2
NEAR = 1e-4
EXITS = {0, 3, 4, 130, -signal.SIGKILL, -signal.SIGTERM}
SERVER = {"fsync": "off", "full_page_writes": "off", "max_connections": "80", "checkpoint_timeout": "30s"}
REASONS = dict.fromkeys(("gate", "sync", "faults", "coverage", "index", "not_null", "bound"), "chaos")
PASSING = (FaultKind.SERVER_ERROR, FaultKind.RATE_LIMITED, FaultKind.RESET, FaultKind.NAN, FaultKind.HALF_REPLY)


class Chaos:
    """What all threads of a run share."""

    def __init__(self, dsn: str, rows: int, seed: str) -> None:
        self.dsn, self.rows, self.seed = dsn, rows, seed
        texts = [text_of(number) for number in range(1, rows + 1)]
        self.queries = {model: embed(texts, None) for model, embed in MODELS.items()}
        self.known = {model: unit(vectors) for model, vectors in self.queries.items()}
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []
        self.stop = threading.Event()
        self.outages = 0
        """Counts the beginnings and the ends of the database's outages: only a session that saw one may be cut."""
        self.maps: dict[int, LinearMap] = {}
        self._lock = threading.Lock()

    def count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self.counts[what] += by

    def failed(self, what: str) -> None:
        with self._lock:
            self.problems.append(what)

    def learn_maps(self, conn: psycopg.Connection[Any]) -> None:
        """Every map that is kept, before a later one drops it."""
        for (version,) in conn.execute("SELECT id FROM embedtui.bridge ORDER BY id").fetchall():
            if version not in self.maps and (found := load_map(conn, version, "public")) is not None:
                self.maps[version] = found

    def distances(self, kind: str, number: int, version: int | None = None) -> Vectors:
        """From the question about a row to every known row, as that kind of search has to find them."""
        if kind == "bridged":
            assert version is not None
            query, against = self.maps[version](self.queries[NEW][number - 1]), self.known[OLD]
        else:
            query, against = self.queries[kind][number - 1], self.known[kind]
        return 1 - against @ (query / np.linalg.norm(query))

    def agrees(self, hits: Mapping[int, float], expected: Vectors) -> bool:
        return all(abs(expected[key - 1] - distance) < NEAR for key, distance in hits.items())


def unit(vectors: Vectors) -> Vectors:
    """At length one."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def known_hits(found: Iterable[tuple[str, float]], rows: int) -> dict[int, float]:
    """Those of rows that nobody edits."""
    return {int(key): distance for key, distance in found if int(key) <= rows}


def connected(chaos: Chaos, work: Callable[[psycopg.Connection[Any]], None], pause: float) -> None:
    """Repeat work on a connection of the application's until the end; only a database that is down may cut it."""
    conn: psycopg.Connection[Any] | None = None
    opened = chaos.outages
    while not chaos.stop.wait(pause):
        try:
            if conn is None or conn.closed:
                opened = chaos.outages
                conn = psycopg.connect(chaos.dsn, autocommit=True, connect_timeout=5, application_name="chaos app")
            work(conn)
        except psycopg.Error as error:
            if (opened % 2 or opened != chaos.outages) and (lost(error) or conn is None or conn.closed):
                chaos.count("cut while the database was down")
            else:
                chaos.failed(f"{type(error).__name__}: {str(error).splitlines()[0]}")
            if conn is not None:
                conn.close()
            conn = None
        except EmbedtuiError as error:
            chaos.failed(f"{type(error).__name__}: {error}")
    if conn is not None:
        conn.close()


def search_by_router(chaos: Chaos, router: Router, which: int) -> None:
    """Ask the Router for a route each time, sometimes by a key that a canary may send to the new side."""
    dice = random.Random(f"{chaos.seed} searcher {which}")

    def once(conn: psycopg.Connection[Any]) -> None:
        number = dice.randrange(1, chaos.rows + 1)
        route = router.route("documents", key=str(dice.random()) if dice.random() < 0.5 else None)
        if dice.random() < 0.2:
            time.sleep(dice.uniform(0, 0.3))  # the pointer may move between the embedding and the search
        found = route.search(conn, MODELS[route.model]([text_of(number)], None)[0], k=5)
        hits = known_hits(((hit.key[0], hit.distance) for hit in found), chaos.rows)
        kind = "bridged" if route.bridged else route.model
        if route.bridge not in chaos.maps:
            chaos.learn_maps(conn)
        chaos.count(f"searches {kind}")
        right = {OLD: Side.OLD, NEW: Side.NEW, "bridged": Side.OLD}[kind]
        if route.side is not right or not found:
            chaos.failed(f"{kind} search on the {route.side} side, {len(found)} found")
        elif not chaos.agrees(hits, chaos.distances(kind, number, route.bridge)):
            chaos.failed(f"a search ({kind}, map {route.bridge}) found distances that are not its own")

    connected(chaos, once, 0.01)


def search_by_sql(chaos: Chaos) -> None:
    """The same by the function, which looks everything up itself: all of a search has to be by one map, or none."""
    dice = random.Random(f"{chaos.seed} sql")

    def once(conn: psycopg.Connection[Any]) -> None:
        number, model = dice.randrange(1, chaos.rows + 1), dice.choice((OLD, NEW, NEW))
        query = str(MODELS[model]([text_of(number)], None)[0].tolist())
        found = conn.execute(
            "SELECT key, distance FROM embedtui.search('documents', %s, %s::vector, 5)", [model, query]
        )
        hits = known_hits(found.fetchall(), chaos.rows)
        chaos.learn_maps(conn)
        chaos.count(f"searches by SQL, {model}")
        ways = [chaos.distances(model, number)]
        if model == NEW:
            ways += [chaos.distances("bridged", number, version) for version in list(chaos.maps)]
        if not any(chaos.agrees(hits, way) for way in ways):
            chaos.failed(f"embedtui.search() by {model} mixed two ways of searching")

    connected(chaos, once, 0.03)


def write(chaos: Chaos, which: int) -> None:
    """What the service does while its old model is dead: texts, and no old vectors."""
    dice = random.Random(f"{chaos.seed} writer {which}")

    def once(conn: psycopg.Connection[Any]) -> None:
        number = 100_000 + which * 1_000 + dice.randrange(150)
        conn.execute(
            "INSERT INTO documents (id, content) VALUES (%s, %s)"
            " ON CONFLICT (id) DO UPDATE SET content = excluded.content",
            [number, f"written {number} {dice.getrandbits(40)}"],
        )
        chaos.count("writes")

    connected(chaos, once, 0.1)


def operate(chaos: Chaos, engine: Engine) -> None:
    """Flips at random; what the state refuses, or the database cannot take now, is no failure."""
    dice = random.Random(f"{chaos.seed} operator")
    acts: list[tuple[str, int, Callable[[], object]]] = [
        ("bridge on", 4, lambda: engine.bridge(rows=dice.randrange(200, 700), override=REASONS)),
        ("bridge off", 1, engine.bridge_off),
        ("canary", 2, lambda: engine.cutover(dice.randrange(20, 80), override=REASONS)),
        ("cutover", 3, lambda: engine.cutover(override=REASONS)),
        ("rollback", 3, engine.rollback),
    ]
    while not chaos.stop.wait(dice.uniform(0.1, 1.0)):
        [(name, _, act)] = dice.choices(acts, [weight for _, weight, _ in acts])
        try:
            act()
            chaos.count(name)
        except EmbedtuiError as error:
            chaos.count(f"{name}: {type(error).__name__}")


class Mischief:
    """Kills workers, takes the database away, and has the provider fail."""

    def __init__(self, chaos: Chaos, server: EmbeddedServer, api: LoopbackServer, folder: Path, environ: Any) -> None:
        self._chaos, self._server, self._api, self._folder, self._environ = chaos, server, api, folder, environ
        self._dice = random.Random(f"{chaos.seed} mischief")
        self.exits: Counter[int] = Counter()
        self._workers: list[subprocess.Popen[bytes]] = []

    def start_workers(self) -> None:
        """As many as there should be, in the place of those that ended."""
        for each in [each for each in self._workers if each.poll() is not None]:
            self.exits[each.returncode] += 1
            self._workers.remove(each)
        while len(self._workers) < WORKERS:
            with (self._folder / "workers.log").open("ab") as log:
                command = [sys.executable, "-c", "from embedtui.cli import main; main()", "run", "--follow"]
                self._workers.append(
                    subprocess.Popen(command, cwd=self._folder, env=self._environ, stdout=log, stderr=log)
                )

    def stop_workers(self) -> None:
        for each in self._workers:
            each.terminate()
        for each in self._workers:
            self.exits[each.wait(60)] += 1

    def once(self) -> None:
        [act] = self._dice.choices((self._kill, self._down, self._provider, self._cut), (5, 2, 4, 4))
        act()
        self.start_workers()

    def _kill(self) -> None:
        self._dice.choice(self._workers).kill()
        self._chaos.count("workers killed")

    def _down(self) -> None:
        self._chaos.outages += 1
        act = self._dice.choice(("crash", "restart"))
        getattr(self._server, act)()
        time.sleep(self._dice.uniform(0, 1))
        self._server.start()
        for _ in range(300):  # a busy machine is slow to recover
            with suppress(psycopg.Error), psycopg.connect(self._chaos.dsn, connect_timeout=5):
                break
            time.sleep(0.2)
        self._chaos.outages += 1
        self._chaos.count(f"database: {act}")

    def _provider(self) -> None:
        self._api.faults.add(self._dice.choice(PASSING), times=self._dice.choice((1, 2, 4)))
        self._chaos.count("provider faults")

    def _cut(self) -> None:
        with psycopg.connect(self._chaos.dsn, autocommit=True) as conn:
            ours = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'embedtui/%' ORDER BY pid"
            pids = [pid for (pid,) in conn.execute(ours)]
            for pid in self._dice.sample(pids, min(len(pids), 4)):
                conn.execute("SELECT pg_terminate_backend(%s)", [pid])
                self._chaos.count("connections cut")


def check_rows(chaos: Chaos, conn: psycopg.Connection[Any], new: str) -> None:
    """Every row: its new vector, and an old one that is the old model's or the noted map's."""
    chaos.learn_maps(conn)
    rows = conn.execute(
        f"SELECT d.id, d.content, d.embedding::real[], ({new})::real[], s.bridge FROM documents d"
        " LEFT JOIN embedtui.stale s ON s.key = ARRAY[d.id::text]"
    ).fetchall()
    contents = [row[1] for row in rows]
    status = {version: load_status(conn, version) for version in chaos.maps}
    makers = {version: stand_in(found, status[version]) for version, found in chaos.maps.items()}
    made = {model: embed(contents, None) for model, embed in MODELS.items()}
    for place, (number, _, old, found, version) in enumerate(rows):
        if found is None or not np.allclose(found, made[NEW][place], atol=1e-4):
            chaos.failed(f"row {number} has a wrong new vector")
        expected = made[OLD][place] if version is None else makers[version](made[NEW][place : place + 1])[0]
        if old is None or not np.allclose(old, expected, atol=1e-4):
            chaos.failed(f"row {number} has a wrong old vector, noted as of map {version}")
        chaos.count("rows bridged at the end", version is not None)
    chaos.count("rows at the end", len(rows))


def quiet(engine: Engine, seconds: float, queued: int = 0) -> bool:
    """Whether all rows are embedded and no more than so many wait, in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(EmbedtuiError):
            now = engine.snapshot()
            waits = now.sync.queued + now.rollback.stale + now.rollback.missing > queued
            if not waits and now.phase not in (Phase.PLAN, Phase.PREPARE, Phase.BACKFILL, Phase.INDEX):
                return True
        time.sleep(0.3)
    return False


def run(options: argparse.Namespace, folder: Path) -> Chaos:
    """One run."""
    with (
        EmbeddedServer(folder / "pg", settings=SERVER) as server,
        LoopbackServer({NEW: MODELS[NEW]}, latency=0.03) as api,
    ):
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE app")
        dsn = server.dsn("app")
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
        make_table(dsn, options.rows, old=lambda texts: MODELS[OLD](texts, None))
        (folder / "embedtui.toml").write_text(
            f'table = "documents"\nplacement = "{options.placement}"\n[old_model]\nname = "{OLD}"\nretired = true\n'
            f'[new_model]\nname = "{NEW}"\ndimensions = {SIZE}\nmax_inputs = 32\n[pacing]\nmax_concurrency = 2\n'
        )
        environ = {
            **os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "DATABASE_URL": dsn, "OPENAI_API_KEY": api.key,
            "OPENAI_BASE_URL": api.base_url, "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        chaos = Chaos(dsn, options.rows, f"{options.seed}")
        engine = Engine(dsn, settings=load_settings({}, environ=environ, cwd=folder))
        engine.bridge(rows=200, override=REASONS)
        mischief = Mischief(chaos, server, api, folder, environ)
        mischief.start_workers()
        with Router(dsn, application_name="chaos") as router:
            router.route("documents")
            threads = [
                *(threading.Thread(target=search_by_router, args=(chaos, router, n)) for n in range(SEARCHERS)),
                threading.Thread(target=search_by_sql, args=(chaos,)),
                *(threading.Thread(target=write, args=(chaos, n)) for n in range(WRITERS)),
                threading.Thread(target=operate, args=(chaos, engine)),
            ]
            for thread in threads:
                thread.start()
            dice = random.Random(f"{options.seed} pause")
            if dice.random() < 0.7 and not quiet(engine, 120, 1_000):  # else the backfill is in the midst of it
                chaos.failed("the backfill did not end")
            end = time.monotonic() + options.seconds
            while time.monotonic() < end:
                mischief.once()
                time.sleep(dice.uniform(0.5, 2.0))
            chaos.stop.set()
            for thread in threads:
                thread.join(120)
        api.faults.clear()
        engine.bridge(override=REASONS)
        if not quiet(engine, 150):
            now = engine.snapshot()
            chaos.failed(f"it did not become quiet: {now.phase}, {now.sync}, {now.rollback}")
        mischief.stop_workers()
        with psycopg.connect(dsn, autocommit=True) as conn:
            side = "SELECT v.embedding FROM documents_embedding_v2 v WHERE v.id = d.id"
            check_rows(chaos, conn, "d.embedding_v2" if options.placement == "column" else side)
        engine.close()
        if unexpected := set(mischief.exits) - EXITS:
            chaos.failed(f"workers left with {unexpected}: {(folder / 'workers.log').read_text()[-3000:]}")
        chaos.count("maps", len(chaos.maps))
        return chaos


def main() -> int:
    """Run, print, and say whether all was well."""
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        # a fork (of the server that is restarted) waits for BLAS's threads while a map is fitted in this process
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.bridged_chaos", *sys.argv[1:]])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--placement", choices=("column", "table"), default="column")
    parser.add_argument("--rows", type=int, default=1_500)
    options = parser.parse_args()
    print(f"seed {options.seed}, placement {options.placement}", flush=True)
    with tempfile.TemporaryDirectory(prefix="embedtui-chaos-") as folder:
        chaos = run(options, Path(folder))
    for what, count in sorted(chaos.counts.items()):
        print(f"{what:<40} {count:,}")
    for problem in sorted(set(chaos.problems))[:20]:
        print(f"PROBLEM: {problem}")
    if not chaos.problems:
        print("No search failed, none was on the wrong side or through the wrong map, and no row is wrong.")
    return 1 if chaos.problems else 0


if __name__ == "__main__":
    sys.exit(main())
