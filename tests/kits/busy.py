"""A table that an application writes to all the time, taken through its migration; every vector is checked."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from embedtui.demo.api import LoopbackServer, ModelFunction, hash_model
from embedtui.engine.cleanup.settle import ENDED
from embedtui.engine.engine import Engine
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.model import Event
from tests.kits.support import NEW, OLD, make_documents, settings_for

WRITERS = 2
MODEL, _OLD_MODEL = hash_model(16), hash_model(8)
FOR = {"gate": "a test", "soak": "a test"}


@dataclass(frozen=True)
class Layout:
    """A table that the application writes to, and by which names."""

    make: Callable[[str, int, bool], None]
    """Makes it in a database, with so many rows, and an index of the vectors or none."""
    table: str = "documents"
    key: str = "id"
    content: str = "content"
    vector: str = "embedding"
    others: dict[str, str] = field(default_factory=dict)
    """What an INSERT gives beside key, content and time: SQL by column."""
    new_key: Callable[[int], str] = str
    old: ModelFunction = _OLD_MODEL
    flags: dict[str, object] = field(default_factory=dict)
    """Of the migration."""

    @property
    def insert(self) -> str:
        columns = ", ".join((self.key, self.content, "written", *self.others))
        values = ", ".join(("%(key)s", "%(text)s", "clock_timestamp()", *self.others.values()))
        return f"INSERT INTO {self.table} ({columns}) VALUES ({values})"

    @property
    def edit(self) -> str:
        text = f"{self.content} = %(text)s, written = clock_timestamp()"
        return f"UPDATE {self.table} SET {text} WHERE {self.key} = %(key)s"


DOCUMENTS = Layout(lambda dsn, rows, index: make_documents(dsn, rows, index=index))
FIRST_OWN = 10**6
"""Above the keys that the table came with."""


@dataclass
class Busy:
    """An application that inserts and edits texts, knows nothing of vectors, and keeps a ledger of what it wrote."""

    dsn: str
    rate: float
    layout: Layout = DOCUMENTS
    contents: dict[str, list[str]] = field(default_factory=dict)
    """What each row said, by key."""
    added: set[str] = field(default_factory=set)
    """Keys of rows of its own."""
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
            at = self.layout
            conn.execute(f"ALTER TABLE {at.table} ADD IF NOT EXISTS written timestamptz DEFAULT now()")
            rows = conn.execute(f"SELECT {at.key}::text, {at.content} FROM {at.table}")
            self.contents = {key: [text] for key, text in rows}
        self._next = FIRST_OWN
        work: list[tuple[int, float, tuple[int, ...]]] = [(n, WRITERS / self.rate, ()) for n in range(WRITERS)]
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
            if insert:
                key = self.layout.new_key(self._next)
                self._next += 1
                self.added.add(key)
            else:
                key = str(dice.choice(keys or list(self.contents)))
            self.contents.setdefault(key, []).append(text)  # before: a row is edited by one thread at a time
            query = self.layout.insert if insert else self.layout.edit
            began = time.monotonic()
            conn.execute(query, {"text": text, "key": key})
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.writes += 1

    def check(self, beside: str = "") -> dict[str, int]:
        """What is wrong with the vectors: what was written before capture ended has to have its own.

        What the application wrote later has the vector of something that it said before, or none where it is new.
        ``beside``: the side table that has them.
        """
        at = self.layout
        found = dict.fromkeys(("rows", "wrong", "stale", "missing"), 0)
        with psycopg.connect(self.dsn) as conn:
            ended = conn.execute(
                "SELECT max(at) FROM embedtui.audit WHERE act = 'capture' AND detail = %s", [ENDED]
            ).fetchone()
            held = f"v.embedding::real[] FROM {at.table} d JOIN {beside} v USING ({at.key})"
            held = held if beside else f"d.{at.vector}::real[] FROM {at.table} d"
            rows = conn.execute(f"SELECT d.{at.key}::text, d.{at.content}, d.written, {held}").fetchall()
        assert ended and ended[0]
        for key, content, written, vector in rows:
            found["rows"] += 1
            texts = [content] if written <= ended[0] else self.contents[key]
            if vector is None:
                new = written > ended[0] and key in self.added
                found["stale" if new else "missing"] += 1
            elif not any(np.allclose(vector, each, atol=1e-5) for each in MODEL(texts, None)):
                found["wrong"] += 1
            elif written > ended[0]:
                found["stale"] += 1
        return found


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
    layout: Layout = DOCUMENTS,
    **flags: object,
) -> Iterator[Journey]:
    """Take a new table of the database, by default ``documents``, through its migration up to the soak."""
    lines: list[str] = []

    def hear(event: Event) -> None:
        lines.append(event.text)

    folder = tempfile.TemporaryDirectory()
    models = {OLD: layout.old, NEW: MODEL}
    with folder as name, LoopbackServer(models, latency=latency) as api:
        layout.make(dsn, rows, index)
        settings = settings_for(dsn, api, Path(name), {"placement": placement, **layout.flags, **flags})
        engine = Engine(dsn, settings=settings, on_event=hear)
        engine.run(threading.Event())
        busy = Busy(dsn, rate, layout, hot=hot)
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
