"""What a service does beside the migration, with a ledger of what it was told is stored."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import psycopg

from benchmarks.chaos.common import MODELS, NEW, OLD, POISON, WRITERS, vector_text
from embedtui.errors import EmbedtuiError
from embedtui.model import Side
from embedtui.postgres.connect import lost
from embedtui.router import Router

POISON_SHARE = 0.003
"""Of the texts that it writes."""
KEPT_POISON = 199
"""One in so many rows holds such a text from the beginning."""


class Application:
    """What a service does, from several threads; keeps a ledger of what it was told is stored."""

    def __init__(self, dsn: str, rows: int, writes_per_second: float, seed: str) -> None:
        self.dsn = dsn
        self.ledger: dict[int, str | None] = {}
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.seconds: list[float] = []
        """How long each acknowledged transaction took."""
        self.outages = 0
        """Counts the beginnings and the ends of the database's outages: only a session that saw one may be cut."""
        self._rows = rows
        self._pause = WRITERS / writes_per_second
        self._seed = seed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._router: Router | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"writer-{number}", daemon=True)
            for number in range(WRITERS)
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
                    if number % KEPT_POISON == 5:
                        content += list(POISON)[number // KEPT_POISON % len(POISON)]
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
        opened = self.outages
        due = time.monotonic()
        while not self._stop.is_set() or doubtful:
            due = max(due + self._pause * dice.uniform(0.5, 1.5), time.monotonic() - 1.0)
            self._stop.wait(max(0.0, due - time.monotonic()))
            changes: dict[int, str | None] = {}
            began = time.monotonic()
            try:
                if conn is None or conn.closed:
                    opened = self.outages
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
                    self._cut(error, opened)
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
        text = f"document {key} revised {dice.getrandbits(48)} " + "dolor sit amet " * dice.randrange(3, 40)
        return text + dice.choice(list(POISON)) if dice.random() < POISON_SHARE else text

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

    def mend(self, keys: list[int]) -> None:
        """Edit the texts that the provider refuses, as their owner would."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            for key in keys:
                content = self.ledger[key] = f"document {key} mended"
                conn.execute("UPDATE documents SET content = %s WHERE id = %s", [content, key])

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

    def _cut(self, error: psycopg.Error, opened: int) -> None:
        """``opened``: the count of outages as the session was opened; an idle one is cut long before it notices."""
        if opened % 2 or opened != self.outages:
            with self._lock:
                self.counts["cut"] += 1
        else:
            self._failed(error)

    def _failed(self, error: psycopg.Error) -> None:
        with self._lock:
            self.counts["deadlocks"] += isinstance(error, psycopg.errors.DeadlockDetected)
            self.failures.append(f"{type(error).__name__}: {str(error).splitlines()[0]}")
