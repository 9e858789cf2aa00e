"""A small application at work on the demo's table: it searches by the active route, inserts, edits and deletes."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from embedtui.demo import writing
from embedtui.demo.questions import ANSWERS, QUESTIONS
from embedtui.errors import EmbedtuiError, Refused
from embedtui.model import EmbeddingModel, Side
from embedtui.postgres.connect import SEARCH_PATH, connect, lost, translate
from embedtui.providers import Embedder, Kind, make_embedder
from embedtui.redaction import redact
from embedtui.router import Route, Router

ERRORS_KEPT = 5
"""Different errors whose text is kept."""
NOTES = 20
"""Rows of its own that a writer keeps, give or take some: the table stays as big as it is."""


@dataclass(frozen=True, slots=True)
class TrafficCounts:
    """What the application did so far; an operation that failed counts as failed only."""

    reads: int
    writes: int
    failed: int
    reads_old: int
    """Searches that the route sent to the old side."""
    reads_new: int
    reads_bridged: int
    """Searches of the old side by the new model's vectors, through a bridge."""
    failed_reads: int
    """Of the failed operations, the searches."""
    errors: tuple[str, ...]
    """The first few different errors, a line each."""


class Traffic:
    """The application's threads; a context manager, or ``start()`` and ``stop()``.

    It has what a service has: connections, a Router, embedding clients for both models (the route names the one to
    use), and the habit of storing the serving side's vector along with the content. Answers to the demo's questions
    are never edited or deleted, and what is written answers none, so that an evaluation keeps its meaning.

    ``old`` and ``new`` are the models, ``environ`` holds their keys, ``table`` is also the route's name.
    """

    def __init__(
        self,
        dsn: str,
        old: EmbeddingModel,
        new: EmbeddingModel,
        *,
        environ: Mapping[str, str],
        table: str = "documents",
        reads_per_second: float = 10,
        writes_per_second: float = 1,
        readers: int = 1,
        writers: int = 1,
        seed: int = 1,
    ) -> None:
        self.dsn = dsn
        self.old_model = old
        self.models = {model.name: model for model in (old, new)}
        self.environ = environ
        self.table = table
        self._router: Router | None = None
        self._pace = {"read": reads_per_second / readers, "write": writes_per_second / writers}
        self._readers = readers
        self._writers = writers
        self._seed = seed
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._tally: Counter[str] = Counter()
        self._errors: list[str] = []
        self._ledger: dict[int, str | None] = {}
        self.bridged_at: float | None = None
        """When (``time.monotonic()``) a bridged search first found something."""

    def __enter__(self) -> Traffic:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def counts(self) -> TrafficCounts:
        """A consistent reading of the counters."""
        with self._lock:
            tally = self._tally
            return TrafficCounts(
                reads=tally["old"] + tally["new"] + tally["bridged"],
                writes=tally["write"],
                failed=tally["failed"],
                reads_old=tally["old"],
                reads_new=tally["new"],
                reads_bridged=tally["bridged"],
                failed_reads=tally["failed read"],
                errors=tuple(self._errors),
            )

    def ledger(self) -> dict[int, str | None]:
        """Rows by id as their last acknowledged write left them: content, or None where deleted.

        A row whose last write broke off without an answer is left out: nobody knows.
        """
        with self._lock:
            return dict(self._ledger)

    def start(self) -> None:
        """Begin; raises DatabaseError where the table cannot be read."""
        try:
            with connect(self.dsn, name="demo") as conn:
                rows = conn.execute(
                    sql.SQL("SELECT id, name LIKE 'note.%%' FROM {} WHERE name <> ALL (%s) ORDER BY id").format(
                        _relation(self.table)
                    ),
                    [list(ANSWERS)],
                ).fetchall()
        except psycopg.Error as error:
            raise translate(error, dsn=self.dsn) from error
        self._router = Router(self.dsn, application_name="demo")
        self._stop.clear()
        for number in range(self._readers):
            client = _Client(self, random.Random(f"read {self._seed} {number}"))
            self._spawn(f"demo-reader-{number}", client, client.search, self._pace["read"])
        for number in range(self._writers):
            # each row has one writer, so that the order of its writes is known
            client = _Client(self, random.Random(f"write {self._seed} {number}"), rows[number :: self._writers])
            self._spawn(f"demo-writer-{number}", client, client.write, self._pace["write"])

    def stop(self, patience: float = 30) -> None:
        """Let every thread finish what it is doing, for ``patience`` seconds at most, then close its connection.

        A thread that is still waiting for an answer then is left to itself, and ends with that answer.
        """
        self._stop.set()
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()
        if self._router is not None:
            self._router.close()
            self._router = None

    # ------------------------------------------------------------------------------------------- for the clients

    @property
    def router(self) -> Router:
        """The application's Router, one for all its threads; raises Refused once it has stopped."""
        if self._router is None:
            raise Refused("The application has stopped.")
        return self._router

    def count(self, what: str) -> None:
        """Count an operation: ``old`` or ``new`` (a search of that side), ``bridged``, ``write``."""
        with self._lock:
            self._tally[what] += 1
            if what == "bridged" and self.bridged_at is None:
                self.bridged_at = time.monotonic()

    def acknowledged(self, key: int, content: str | None) -> None:
        """A write of a row was acknowledged."""
        with self._lock:
            self._ledger[key] = content
            self._tally["write"] += 1

    def unknown(self, key: int) -> None:
        """The connection broke during a write of a row."""
        with self._lock:
            self._ledger.pop(key, None)

    def _failed(self, error: Exception, *, read: bool) -> None:
        line = (redact(str(error)).strip().splitlines() or [type(error).__name__])[0]
        with self._lock:
            self._tally["failed"] += 1
            self._tally["failed read"] += read
            if line not in self._errors and len(self._errors) < ERRORS_KEPT:
                self._errors.append(line)

    def _spawn(self, name: str, client: _Client, act: Callable[[], None], per_second: float) -> None:
        def work() -> None:
            due = time.monotonic()
            with client:
                while not self._stop.wait(max(0.0, due - time.monotonic())):
                    due = max(due + 1 / per_second, time.monotonic())  # what was missed is not caught up with
                    try:
                        act()
                    except (psycopg.Error, EmbedtuiError) as error:
                        self._failed(error, read=act == client.search)

        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()


class _Client:
    """One thread of the application: its connection, its embedding clients, its rows."""

    def __init__(self, traffic: Traffic, dice: random.Random, rows: Sequence[tuple[int, bool]] = ()) -> None:
        self._traffic = traffic
        self._dice = dice
        self._rows = [key for key, _ in rows]
        self._own = [key for key, is_note in rows if is_note]
        """Rows that the application inserted, now or before: the only ones it deletes."""
        self._table = _relation(traffic.table)
        self._conn: psycopg.Connection[Any] | None = None
        self._embedders: dict[str, Embedder] = {}

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as closing:
            for embedder in self._embedders.values():
                closing.callback(embedder.close)
            if self._conn is not None:
                closing.callback(self._conn.close)

    def search(self) -> None:
        """Answer a question as a service does: take the route, embed with its model, search its side."""
        question = self._dice.choice(QUESTIONS).text
        route = self._route(question)
        if route is None:
            vector = self._embed(self._traffic.old_model.name, question, "query")
            statement = sql.SQL(
                "SELECT id FROM {} ORDER BY embedding OPERATOR(public.<=>) %s::public.vector LIMIT 10"
            ).format(self._table)
            self._connection().execute(statement, [vector]).fetchall()
            self._traffic.count("old")
        else:
            vector = self._embed(route.model, question, "query")
            hits = route.search(self._connection(), vector, 10, columns=["name"])
            if hits or not route.bridged:
                self._traffic.count("bridged" if route.bridged else route.side.value)

    def write(self) -> None:
        """Edit a row mostly; else insert one, or delete one of the inserted: as many of each."""
        if self._rows and self._dice.random() < 0.6:
            self._edit()
        elif self._dice.random() * 2 * NOTES < len(self._own):
            self._delete()
        else:
            self._insert()

    # ------------------------------------------------------------------------------------------------ inner parts

    def _insert(self) -> None:
        name, content = writing.note(self._dice.randrange(10**9), self._dice)
        statement = sql.SQL("INSERT INTO {} (name, content, embedding) VALUES (%s, %s, %s::public.vector) RETURNING id")
        key = self._store(content, None, statement.format(self._table), [name, content])
        self._rows.append(key)
        self._own.append(key)

    def _edit(self) -> None:
        key = self._dice.choice(self._rows)
        row = (
            self._connection()
            .execute(sql.SQL("SELECT content FROM {} WHERE id = %s").format(self._table), [key])
            .fetchone()
        )
        if row is None:
            self._rows.remove(key)  # somebody else deleted it
            return
        content = writing.edited(row[0], self._dice)
        # while the new side serves, the old vector stays as it is: keeping it current is not the application's job
        statement = sql.SQL(
            "UPDATE {} SET content = %s, embedding = coalesce(%s::public.vector, embedding) WHERE id = %s RETURNING id"
        )
        self._store(content, key, statement.format(self._table), [content], [key])

    def _delete(self) -> None:
        key = self._own.pop(self._dice.randrange(len(self._own)))
        self._rows.remove(key)
        with self._unknown_when_lost(key):
            self._connection().execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(self._table), [key])
        self._traffic.acknowledged(key, None)

    def _store(
        self, content: str, key: int | None, statement: sql.Composed, before: list[Any], after: Sequence[Any] = ()
    ) -> int:
        """Write a row with the serving side's vector; the statement takes the old side's between other values."""
        route = self._route(None)
        # a bridge maps questions alone: texts to store go to the new side
        serves_new = route is not None and (route.side is Side.NEW or route.bridged)
        model = route.model if route is not None else self._traffic.old_model.name
        vector = self._embed(model, content, "document")
        conn = self._connection()
        with self._unknown_when_lost(key), conn.transaction():
            row = conn.execute(statement, [*before, None if serves_new else vector, *after]).fetchone()
            if row is None:
                raise Refused(f"Row {key} is gone.")
            if serves_new:
                self._traffic.router.write(conn, self._traffic.table, row[0], vector, model=model, content=content)
        self._traffic.acknowledged(row[0], content)
        return int(row[0])

    def _route(self, key: str | None) -> Route | None:
        """The route as the Router knows it; None while there is none, before the migration."""
        try:
            return self._traffic.router.route(self._traffic.table, key)
        except Refused:
            return None

    def _embed(self, model: str, text: str, kind: Kind) -> str:
        if model not in self._embedders:
            self._embedders[model] = make_embedder(self._traffic.models[model], environ=self._traffic.environ)
        return str(self._embedders[model].embed([text], kind=kind).vectors[0].tolist())

    def _connection(self) -> psycopg.Connection[Any]:
        if self._conn is None or self._conn.closed:
            self._conn = psycopg.connect(
                self._traffic.dsn, autocommit=True, connect_timeout=10, application_name="demo application"
            )
            self._conn.execute(f"SET search_path = {SEARCH_PATH}")
        return self._conn

    @contextmanager
    def _unknown_when_lost(self, key: int | None) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            if key is not None and lost(error):
                self._traffic.unknown(key)
            raise


def _relation(table: str) -> sql.Identifier:
    return sql.Identifier("public", table)
