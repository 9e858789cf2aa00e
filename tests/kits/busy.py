"""A table that an application writes to all the time, taken through its migration; every vector is checked."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.cleanup.settle import ENDED
from embedtui.engine.engine import Engine
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.model import Event
from tests.kits.support import NEW, OLD, make_documents, settings_for

WRITERS = 2
MODEL = hash_model(16)
FOR = {"gate": "a test", "soak": "a test"}


@dataclass
class Busy:
    """An application that inserts and edits texts, knows nothing of vectors, and keeps a ledger of what it wrote."""

    dsn: str
    rate: float
    contents: dict[int, list[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    writes: int = 0
    slowest: float = 0.0
    """Seconds of the longest statement."""
    hot: tuple[int, ...] = ()
    """Rows that a thread of their own edits without pause."""

    def begin(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("ALTER TABLE documents ADD written timestamptz DEFAULT now()")
            self.contents = {key: [text] for key, text in conn.execute("SELECT id, content FROM documents")}
        self._next = max(self.contents, default=0) + 1
        work = [(number, WRITERS / self.rate, ()) for number in range(WRITERS)]
        work += [(WRITERS, 0.002, self.hot)] if self.hot else []
        self._threads = [threading.Thread(target=self._run, args=each, daemon=True) for each in work]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, pause: float, keys: tuple[int, ...]) -> None:
        dice = random.Random(number)
        with psycopg.connect(self.dsn, autocommit=True, prepare_threshold=None) as conn:
            conn.execute("SET statement_timeout = '20s'")
            while not self._stop.wait(pause):
                try:
                    self._write(conn, dice, keys)
                except psycopg.Error as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                    conn.rollback()

    def _write(self, conn: psycopg.Connection[Any], dice: random.Random, keys: tuple[int, ...]) -> None:
        text = f"written {dice.random()}"
        with self._lock:
            insert = not keys and dice.random() < 0.4
            key = self._next if insert else dice.choice(keys or list(self.contents))
            self._next += insert
            self.contents.setdefault(key, []).append(text)  # before: a row is edited by one thread at a time
            if insert:
                query = "INSERT INTO documents (content, written, id) VALUES (%s, clock_timestamp(), %s)"
            else:
                query = "UPDATE documents SET content = %s, written = clock_timestamp() WHERE id = %s"
            began = time.monotonic()
            conn.execute(query, (text, key))
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.writes += 1

    def check(self, table: str = "documents", join: str = "") -> dict[str, int]:
        """What is wrong with the vectors: what was written before capture ended has to have its own.

        What the application wrote later has the vector of something that it said before, or none where it is new.
        """
        found = dict.fromkeys(("rows", "wrong", "stale", "missing"), 0)
        with psycopg.connect(self.dsn) as conn:
            ended = conn.execute(
                "SELECT max(at) FROM embedtui.audit WHERE act = 'capture' AND detail = %s", [ENDED]
            ).fetchone()
            rows = conn.execute(
                f"SELECT d.id, d.content, d.written, v.embedding::real[] FROM documents d JOIN {table} v USING (id)"
                if join
                else f"SELECT id, content, written, embedding::real[] FROM {table}"
            ).fetchall()
            total = conn.execute("SELECT count(*) FROM documents").fetchone()
        assert ended and ended[0] and total
        for key, content, written, vector in rows:
            found["rows"] += 1
            texts = [content] if written <= ended[0] else self.contents[key]
            if vector is None:
                new = written > ended[0] and key > self.first_own
                found["stale" if new else "missing"] += 1
            elif not any(np.allclose(vector, each, atol=1e-5) for each in MODEL(texts, None)):
                found["wrong"] += 1
            elif written > ended[0]:
                found["stale"] += 1
        return found

    first_own: int = 0
    """Keys above this one were inserted by it."""


@dataclass
class Journey:
    """A migrated table in soak, with a worker at work and the application writing."""

    dsn: str
    engine: Engine
    busy: Busy
    lines: list[str]
    """What the acts said."""


@contextmanager
def soaking(
    dsn: str,
    *,
    placement: str,
    rows: int = 500,
    rate: float = 50.0,
    index: bool = True,
    hot: tuple[int, ...] = (),
    latency: float = 0.03,
    **flags: object,
) -> Iterator[Journey]:
    """Take a new table ``documents`` of the database through its migration up to the soak."""
    lines: list[str] = []

    def hear(event: Event) -> None:
        lines.append(event.text)

    folder = tempfile.TemporaryDirectory()
    models = {OLD: hash_model(8), NEW: MODEL}
    with folder as name, LoopbackServer(models, latency=latency) as api:
        make_documents(dsn, rows, index=index)
        settings = settings_for(dsn, api, Path(name), {"placement": placement, **flags})
        engine = Engine(dsn, settings=settings, on_event=hear)
        engine.run(threading.Event())
        busy = Busy(dsn, rate, hot=hot, first_own=rows)
        busy.begin()
        stop = threading.Event()
        worker = threading.Thread(target=_follow, args=(dsn, settings, stop, lines), daemon=True)
        worker.start()
        try:
            engine.cutover(override=FOR)
            while not any(each.alive for each in engine.snapshot().workers):
                time.sleep(0.05)
            yield Journey(dsn, engine, busy, lines)
        finally:
            busy.end()
            stop.set()
            worker.join()
            engine.close()


def _follow(dsn: str, settings: Any, stop: threading.Event, lines: list[str]) -> None:
    engine = Engine(dsn, settings=settings)
    try:
        engine.run(stop, follow=True)
    except Interrupted:
        pass
    except EmbedtuiError as error:
        lines.append(f"worker: {error}")
    finally:
        engine.close()
