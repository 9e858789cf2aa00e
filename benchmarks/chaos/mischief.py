"""Breaks things at random, and leaves everything whole."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import psycopg

from benchmarks.chaos.application import Application
from benchmarks.chaos.common import NEW, OLD, TIMEOUT, WORKERS, poison
from benchmarks.chaos.workers import Workers
from embedtui.demo.api import MANNERS, Fault, FaultKind, LoopbackServer
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.engine import Engine
from embedtui.errors import EmbedtuiError

PASSING = (
    FaultKind.SERVER_ERROR, FaultKind.UNAVAILABLE, FaultKind.RATE_LIMITED, FaultKind.RESET, FaultKind.HALF_REPLY,
    FaultKind.NOT_JSON, FaultKind.NO_DATA, FaultKind.FEWER, FaultKind.SHUFFLED, FaultKind.DUPLICATE_INDEX,
    FaultKind.NAN, FaultKind.ZERO, FaultKind.FLOATS, FaultKind.HANG,
)  # fmt: skip
"""Faults that go on by themselves."""
STOPPING = (
    FaultKind.UNAUTHORIZED, FaultKind.FORBIDDEN, FaultKind.MODEL_NOT_FOUND, FaultKind.INSUFFICIENT_QUOTA,
    FaultKind.RETIRED, FaultKind.WRONG_DIMENSIONS, FaultKind.FIREWALL,
)  # fmt: skip
"""Faults that pause the run until somebody resumes it."""
TOO_MANY = (
    (400, "Invalid 'input': array too long. Expected an array with maximum length {most}"),
    (400, "at most {most} requests can be in one batch"),
    (413, "batch size {got} > maximum allowed batch size {most}"),
    (422, "Input validation error: too many inputs"),
)
"""How a request of too many texts is refused."""
SPELL = (3.0, 10.0)
"""Seconds that a limit, or slowness, lasts."""

LONGEST_START = 60.0
"""Seconds that a worker is given to begin."""
_AT_WORK = (
    "SELECT count(*) > 0 FROM embedtui.worker WHERE stopped_at IS NULL"
    " AND heartbeat > now() - interval '2 s' AND heartbeat > started_at + interval '2 s'"
)


class Mischief:
    """One act after the other, until stopped."""

    def __init__(
        self,
        server: EmbeddedServer,
        api: LoopbackServer,
        workers: Workers,
        application: Application,
        *,
        operator: Engine,
        set_endpoint: Callable[[], None],
        seed: str,
    ) -> None:
        """``set_endpoint`` writes into the workers' settings where the API is now."""
        self.counts: Counter[str] = Counter()
        self.rarity = 1.0
        """How many times longer the breaks between two acts are."""
        self.refusing = threading.Event()
        """Set while nothing can be embedded, whoever asks."""
        self._server, self._api, self._workers, self._application = server, api, workers, application
        self._operator, self._set_endpoint = operator, set_endpoint
        self._dice = random.Random(f"{seed} mischief")
        self._spells: list[tuple[float, Callable[[], None]]] = []
        """When what lasts a while ends, and how."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mischief", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        for _, end in self._spells:
            end()
        poison(self._api)
        self.refusing.clear()
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
            (1, self._too_many_texts),
            (1, self._too_many_requests),
            (1, self._slow),
            (2, self._time_out),
            (2, self._move),
        ]
        weights = [weight for weight, _ in acts]
        while not self._stop.wait(self._dice.uniform(0.5, 2.5) * self.rarity):
            over = [spell for spell in self._spells if spell[0] <= time.monotonic()]
            for spell in over:
                spell[1]()
                self._spells.remove(spell)
            [(_, act)] = self._dice.choices(acts, weights)
            act()
            self._resume()
            self._await_work()

    def _await_work(self) -> None:
        """On a busy machine a process takes its time to start, and one that is killed at once proves nothing."""
        end = time.monotonic() + LONGEST_START
        while time.monotonic() < end and not self._stop.wait(0.2):
            with (
                suppress(psycopg.Error),
                psycopg.connect(self._server.dsn("app"), autocommit=True, connect_timeout=5) as conn,
            ):
                if conn.execute(_AT_WORK).fetchone() == (True,):
                    return

    def _for_a_while(self, end: Callable[[], None]) -> None:
        self._spells.append((time.monotonic() + self._dice.uniform(*SPELL), end))

    # ------------------------------------------------------------------------------------------------- processes

    def _kill(self) -> None:
        self.counts["worker killed"] += self._workers.kill(self._dice.randrange(WORKERS))

    def _crash(self) -> None:
        self.counts["database crashed"] += 1
        self._down(self._server.crash, self._dice.uniform(0.0, 2.0))

    def _restart(self) -> None:
        self.counts["database restarted"] += 1
        self._down(self._server.restart, 0.0)

    def _down(self, act: Callable[[], None], pause: float) -> None:
        self._application.outages += 1
        act()
        time.sleep(pause)
        self._server.start()
        self._application.outages += 1

    # ------------------------------------------------------------------------------------------------- the provider

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
        # a firewall that is upset stops all, as long as it is
        fault: Fault = self._api.faults.add(
            kind, times=None if kind is FaultKind.FIREWALL else 2, model=self._either_model()
        )
        self.refusing.set()
        self._stop.wait(2.0)
        self._api.faults.remove(fault)
        self.refusing.clear()

    def _too_many_texts(self) -> None:
        self.counts["limits of texts"] += 1
        status, words = self._dice.choice(TOO_MANY)
        most = self._dice.choice((8, 10, 16))
        self._api.manners = replace(MANNERS["openai"], most=most, status=status, too_many=words)

        def lift() -> None:
            self._api.manners = MANNERS["openai"]

        self._for_a_while(lift)

    def _too_many_requests(self) -> None:
        self.counts["limits of requests"] += 1
        self._api.rate_headers = self._dice.random() < 0.5
        self._api.set_limits(requests_per_minute=self._dice.choice((300, 900, 3000)), tokens_per_minute=None)
        self._for_a_while(lambda: self._api.set_limits(requests_per_minute=None, tokens_per_minute=None))

    def _slow(self) -> None:
        self.counts["slow spells"] += 1
        self._api.text_seconds = self._dice.choice((0.02, 0.05, 0.2))

        def lift() -> None:
            self._api.text_seconds = 0.0

        self._for_a_while(lift)

    def _time_out(self) -> None:
        times = self._dice.choice((1, 2))
        self.counts["time-outs"] += times
        self._api.faults.add(FaultKind.HANG, times=times, seconds=2 * TIMEOUT, model=self._either_model())

    def _move(self) -> None:
        """The endpoint is another one: the settings say so, and the workers are told, or killed to read them anew."""
        self.refusing.set()
        self._api.move()
        self._stop.wait(self._dice.uniform(0.0, 2.0))
        self._set_endpoint()
        if self._dice.random() < 0.3:
            self.counts["endpoint moved, workers killed"] += 1
            for number in range(WORKERS):
                self._workers.kill(number)
        else:
            self.counts["endpoint moved, settings read again"] += 1
            self._told()
        self.refusing.clear()

    def _told(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with suppress(EmbedtuiError):
                self._operator.reload()
                return
            time.sleep(0.2)

    def _resume(self) -> None:
        """What an operator does once the key is mended."""
        engine = Engine(self._server.dsn("app"))
        with suppress(EmbedtuiError):
            if engine.require().desired == "pause":
                engine.resume()
                self.counts["resumed"] += 1
        engine.close()

    # ------------------------------------------------------------------------------------------------- the database

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
