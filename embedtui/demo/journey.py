"""The demo: documents in a database, models behind an API, an application at work, and a whole migration of it."""

from __future__ import annotations

import functools
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType, TracebackType

import numpy as np
import platformdirs
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from embedtui import __version__
from embedtui.config import GateSettings, ModelSettings, PacingSettings, Settings
from embedtui.demo.api import LoopbackServer
from embedtui.demo.corpus import Document, documents
from embedtui.demo.database import EmbeddedServer
from embedtui.demo.models import NEW_DIMENSIONS, NEW_MODEL, OLD_DIMENSIONS, OLD_MODEL, LatentSemantics, bag_of_words
from embedtui.demo.questions import QUESTIONS
from embedtui.demo.traffic import Traffic
from embedtui.engine import Engine, EngineApart
from embedtui.engine.validate import queries as kept_queries
from embedtui.errors import ExitCode, Interrupted, NotClean
from embedtui.formatting import called
from embedtui.model import (
    Comparison,
    EmbeddingModel,
    Event,
    EventSink,
    Flip,
    Interval,
    Phase,
    PhaseChanged,
    PlacementKind,
    Progressed,
    QueryInput,
    Snapshot,
    VerifyReport,
)
from embedtui.postgres.state.migrations import load_migration, register_model

CORPUS_SIZE = 5000
"""Documents of the demo, where the library has so many."""
DATABASE = "demo"
TABLE = "documents"
INDEX = "idx_documents_embedding"
KEY_VARIABLE = "EMBEDTUI_DEMO_KEY"
API_SECONDS = 0.1
"""Latency of a request to the loopback API, somewhat less than a provider's."""
INPUTS_PER_REQUEST = 100
"""As Gemini's endpoint allows; with OpenAI's 2,048 the whole demo would be three requests."""
WATCHABLE_TOKENS_PER_MINUTE = 600_000.0
"""A pace at which the backfill of the demo's documents takes about half a minute on the screen."""
LEAVING_SECONDS = 0.5
"""What leaving waits for the application; a model that is being fitted could hold it for seconds."""
SAY_SECONDS = 1.0
"""Least time between two lines of progress."""
SEARCHES_SEEN = 5
"""Searches by the application after each flip, before the next."""
BEFORE_VALIDATE = (Phase.PLAN, Phase.PREPARE, Phase.BACKFILL, Phase.INDEX)
PATIENCE_SECONDS = 150.0
"""For each step of the headless journey; a step that takes longer is stuck."""

OpenEngine = Callable[[EventSink | None], Engine]
"""Opens the demo's migration; may block."""


class Demo:
    """Everything the demo brings along, as a context manager: inside, the application is at work.

    ``folder`` holds the database (default: embedtui's data folder) and is used again next time, unless ``reset`` or
    what it holds was made by another Python or version, or its migration has ended. ``limit`` is the number of
    documents (None: the usual), ``tokens_per_minute`` the pace of the migration (None: as it can), ``out`` receives
    lines of progress.

    SIGTERM and a closed terminal end the program through its context managers, so that nothing is left running.

    Raises EmbedtuiError: the embedded PostgreSQL is not installed, or is in use, or does not start.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        reset: bool = False,
        limit: int | None = None,
        tokens_per_minute: float | None = None,
        out: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._server = EmbeddedServer(folder or platformdirs.user_data_path("embedtui") / "demo")
        self._reset = reset
        self._limit = limit or CORPUS_SIZE
        self._tokens_per_minute = tokens_per_minute
        self._out = out
        self._exit = ExitStack()
        self.api = LoopbackServer(
            {OLD_MODEL: bag_of_words, NEW_MODEL: LatentSemantics(lambda: [each.text for each in self._corpus])},
            latency=API_SECONDS,
        )

    def __enter__(self) -> Demo:
        with ExitStack() as stack:
            stack.enter_context(_ended_by_signals())
            stack.enter_context(_without_proxy())
            if self._reset:
                self._server.reset()
            self._out("Starting PostgreSQL")
            stack.enter_context(self._server)
            stack.enter_context(self.api)
            if not self._reusable():
                self._fill()
            self.traffic = Traffic(self.dsn, *self._embedding_models(), environ=self.environ, table=TABLE)
            self.traffic.start()
            stack.callback(self.traffic.stop, LEAVING_SECONDS)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.__exit__(kind, error, trace)

    @property
    def dsn(self) -> str:
        """Connection string of the demo's database."""
        return self._server.dsn(DATABASE)

    @property
    def environ(self) -> dict[str, str]:
        """The environment that an engine of this demo sees."""
        return {"DATABASE_URL": self.dsn, KEY_VARIABLE: self.api.key}

    @property
    def settings(self) -> Settings:
        """What an operator would have configured."""
        old, new = (
            ModelSettings(
                name=name,
                dimensions=dimensions,
                base_url=self.api.base_url,
                key_variable=KEY_VARIABLE,
                price_per_million=price,
                max_inputs=INPUTS_PER_REQUEST,
            )
            for name, dimensions, price in ((OLD_MODEL, OLD_DIMENSIONS, 0.02), (NEW_MODEL, NEW_DIMENSIONS, 0.13))
        )
        return Settings(
            table=TABLE,
            key=("id",),
            content=("content",),
            old_column="embedding",
            placement=PlacementKind.COLUMN,
            old_model=old,
            new_model=new,
            # The application of the demo edits 6 % of this small table in 75 s: nobody looks around so fast.
            gate=GateSettings(max_drift=0.5),
            pacing=PacingSettings(tokens_per_minute=self._tokens_per_minute, max_concurrency=4),
            environ=self.environ,
        )

    def open_engine(self, on_event: EventSink | None = None, *, apart: bool = False) -> Engine:
        """An engine whose migration is prepared and holds the demo's questions, to compare with.

        ``apart``: it works in a process of its own, as beside a dashboard.
        """
        kind = EngineApart if apart else Engine
        engine = kind(self.dsn, settings=self.settings, on_event=on_event, environ=self.environ)
        try:
            engine.prepare()
            with psycopg.connect(self.dsn, autocommit=True) as conn:
                kept_queries.store(conn, engine.require(), self.queries(), source="demo")
        except BaseException:
            engine.close()
            raise
        return engine

    def queries(self) -> tuple[QueryInput, ...]:
        """The demo's questions, with the rows that are right answers."""
        with psycopg.connect(self.dsn) as conn:
            rows = conn.execute(sql.SQL("SELECT name, id::text FROM {}").format(sql.Identifier(TABLE))).fetchall()
        keys: dict[str, str] = dict(rows)
        return tuple(
            QueryInput(question.text, tuple(((keys[answer],), 1.0) for answer in question.answers if answer in keys))
            for question in QUESTIONS
        )

    def lost_writes(self) -> int:
        """Rows that are not as their last acknowledged write left them; stop the traffic first."""
        with psycopg.connect(self.dsn) as conn:
            stored: dict[int, str] = dict(
                conn.execute(sql.SQL("SELECT id, content FROM {}").format(sql.Identifier(TABLE))).fetchall()
            )
        return sum(stored.get(key) != content for key, content in self.traffic.ledger().items())

    # ------------------------------------------------------------------------------------------------ inner parts

    @cached_property
    def _corpus(self) -> list[Document]:
        return documents(self._limit)

    def _embedding_models(self) -> tuple[EmbeddingModel, EmbeddingModel]:
        settings = self.settings
        return settings.old_model.complete("old"), settings.new_model.complete("new")

    @property
    def _origin(self) -> str:
        """What the stored vectors depend on."""
        return (
            f"embedtui demo {__version__}: {self._limit} documents, "
            f"Python {platform.python_version()}, numpy {np.__version__}"
        )

    def _reusable(self) -> bool:
        """Whether the database holds these documents and a migration that has not ended; its models are set anew."""
        with psycopg.connect(self._server.dsn(), autocommit=True) as conn:
            if conn.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                return False
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            row = conn.execute("SELECT obj_description(to_regclass(%s), 'pg_class')", [TABLE]).fetchone()
            if row is None or row[0] != self._origin:
                return False
            if conn.execute("SELECT to_regclass('embedtui.migration')").fetchone() == (None,):
                return True
            migration = load_migration(conn)
            if migration is not None and migration.phase.ended:
                return False
            for model in self._embedding_models():  # the API has another port every time
                register_model(conn, model)
        return True

    def _fill(self) -> None:
        """Make the database anew: all of it, or nothing that `_reusable` would take."""
        self._out("Reading the documentation of this Python's standard library")
        corpus = self._corpus
        with psycopg.connect(self._server.dsn(), autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(DATABASE)))
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        self._out(f"Filling a table with {len(corpus):,} documents and the vectors of {OLD_MODEL}")
        vectors = bag_of_words([document.text for document in corpus])
        table = sql.Identifier(TABLE)
        with psycopg.connect(self.dsn) as conn:
            conn.execute("CREATE EXTENSION vector")
            register_vector(conn)
            conn.execute(
                sql.SQL(
                    "CREATE TABLE {} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                    " name text NOT NULL, content text NOT NULL, embedding vector({}))"
                ).format(table, sql.Literal(OLD_DIMENSIONS))
            )
            columns = sql.SQL("COPY {} (name, content, embedding) FROM STDIN (FORMAT binary)").format(table)
            with conn.cursor() as cursor, cursor.copy(columns) as copy:
                copy.set_types(["text", "text", "vector"])
                for document, vector in zip(corpus, vectors, strict=True):
                    copy.write_row((document.name, document.text, vector))
            conn.execute(
                sql.SQL("CREATE INDEX {} ON {} USING hnsw (embedding vector_cosine_ops)").format(
                    sql.Identifier(INDEX), table
                )
            )
            conn.execute(sql.SQL("ANALYZE {}").format(table))
            conn.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(table, sql.Literal(self._origin)))


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP leave through the context managers; only the main thread can arrange that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _without_proxy() -> Iterator[None]:
    """The loopback API is reached directly, also where HTTP_PROXY is set."""
    before = os.environ.get("NO_PROXY")
    os.environ["NO_PROXY"] = ",".join(filter(None, ("127.0.0.1", before or os.environ.get("no_proxy"))))
    try:
        yield
    finally:
        if before is None:
            del os.environ["NO_PROXY"]
        else:
            os.environ["NO_PROXY"] = before


# ----------------------------------------------------------------------------------------------- a whole migration


@dataclass(frozen=True, slots=True)
class IndexReport:
    name: str
    method: str
    valid: bool


@dataclass(frozen=True, slots=True)
class JudgedReport:
    old: float | None
    """nDCG@10 on the demo's questions."""
    new: float | None


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    queries: int
    k: int
    mean_overlap: float
    low_overlap: int
    judged: JudgedReport
    verdict: str


@dataclass(frozen=True, slots=True)
class TrafficReport:
    reads: int
    writes: int
    failed: int
    errors: tuple[str, ...]
    lost: int
    """Acknowledged writes that are not in the table."""


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the headless journey came to."""

    rows: int
    embedded: int
    missing: int
    stale: int
    faulty: int
    tokens: int
    rows_per_second: float | None
    """Of the backfill, from the first rows seen to the last; None where it was over at once."""
    index: IndexReport
    comparison: ComparisonReport
    flip_ms: float
    rollback_ms: float
    rollback_fresh: bool | None
    """Whether the old side was current at the end."""
    traffic: TrafficReport
    active: str
    phase: str
    seconds: float
    """The whole journey, without the start of the demo."""

    @property
    def well(self) -> bool:
        """Whether nothing was lost, nothing failed and the new side serves."""
        problems = self.missing or self.stale or self.faulty or self.traffic.failed or self.traffic.lost
        return not problems and self.index.valid and self.active == "new"

    def text(self) -> str:
        """For people."""
        judged = self.comparison.judged
        lines = (
            ("Documents", f"{self.rows:,}, {self.embedded:,} with a vector of {NEW_MODEL}"),
            ("Wrong", f"{self.missing} missing, {self.stale} stale, {self.faulty} faulty"),
            ("Backfill", f"{_figure(self.rows_per_second, ',.0f')} rows/s, {self.tokens:,} tokens"),
            ("Index", f"{self.index.name} ({self.index.method}), {'valid' if self.index.valid else 'INVALID'}"),
            ("Top 10", f"{self.comparison.mean_overlap:.0%} shared over {self.comparison.queries} questions"),
            ("nDCG@10", f"{_figure(judged.old)} old, {_figure(judged.new)} new: {self.comparison.verdict}"),
            ("Cutover", f"{self.flip_ms:.1f} ms, rollback {self.rollback_ms:.1f} ms"),
            (
                "Application",
                f"{self.traffic.reads} searches, {self.traffic.writes} writes, {self.traffic.failed} failed",
            ),
            ("Now", f"phase {self.phase}, the {self.active} side serves"),
        )
        return "\n".join(f"{title:<12}{line}" for title, line in lines)


def _figure(value: float | None, form: str = ".3f") -> str:
    return "unknown" if value is None else format(value, form)


def run_demo(*, headless: bool, as_json: bool, reset: bool, dashboard: Callable[[OpenEngine], int]) -> int:
    """What `embedtui demo` does; returns the exit code.

    ``dashboard`` shows a migration until the operator leaves, given how to open its engine. Headless, the documents
    are always made anew; progress goes to stderr, the report to stdout.
    """

    def out(line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    if not headless:
        with Demo(reset=reset, tokens_per_minute=WATCHABLE_TOKENS_PER_MINUTE, out=out) as demo:
            out(f'From a second terminal: DATABASE_URL="{demo.dsn}" {called()} status --watch')
            return dashboard(functools.partial(demo.open_engine, apart=True))
    with Demo(reset=True, out=out) as demo:
        report = run_journey(demo, out=out)
    sys.stdout.write(f"{json.dumps(asdict(report)) if as_json else report.text()}\n")
    return ExitCode.OK if report.well else ExitCode.NOT_CLEAN


def run_journey(demo: Demo, *, out: Callable[[str], None]) -> DemoReport:
    """Take the demo's migration through every phase to soak, with a rollback and a second cutover on the way.

    Raises EmbedtuiError: a step failed, or one took unreasonably long.
    """
    journey = _Journey(demo, out)
    try:
        return journey.travel()
    finally:
        journey.close()


class _Journey:
    """One headless run: a worker in a thread, the operator's acts in this one."""

    def __init__(self, demo: Demo, out: Callable[[str], None]) -> None:
        self._demo = demo
        self._out = out
        self._said = 0.0
        self._first_rows: tuple[float, int] | None = None
        self._backfilled: float | None = None
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._engine = demo.open_engine(self._on_event)
        self._worker = threading.Thread(target=self._work, name="demo-worker", daemon=True)

    def travel(self) -> DemoReport:
        engine, traffic = self._engine, self._demo.traffic
        began = time.monotonic()
        self._worker.start()
        self._wait("the index", self._indexed)

        comparison = self._compare()
        cutover = self._cut_over()
        self._out(f"Cutover: {cutover.milliseconds:.1f} ms")
        self._await_searches("new")
        rollback = engine.rollback()
        self._out(f"Rollback: {rollback.milliseconds:.1f} ms")
        self._await_searches("old")
        self._cut_over()
        self._out("Cutover again")
        self._await_searches("new")

        traffic.stop()
        self._wait("the sync", lambda: engine.snapshot().sync.queued == 0)
        verified = engine.verify()
        snapshot = engine.snapshot()
        return self._report(comparison, verified, snapshot, cutover.milliseconds, rollback.milliseconds, began)

    def _compare(self) -> Comparison:
        """Compare until the gate passes. Only what the application has just written may be in the way, and passes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self._out("Comparing both sides with the demo's questions")
            comparison = self._engine.compare(self._demo.queries())
            self._out(f"Gate: {comparison.verdict}")
            if comparison.verdict == "PASS":
                return comparison
            failed = [check for check in comparison.checks if check.result not in ("pass", "warn")]
            if time.monotonic() > deadline or any(check.name not in ("coverage", "freshness") for check in failed):
                raise NotClean("; ".join(check.detail for check in failed))
            self._stop.wait(1.0)

    def _cut_over(self) -> Flip:
        def clear() -> bool:
            blockers = self._engine.blockers("cutover")
            if any(blocker.name == "gate" for blocker in blockers):
                self._compare()  # the application has changed too much since
            return not blockers

        self._wait("the cutover's blockers", clear)
        return self._engine.cutover()

    def close(self) -> None:
        """Stop the worker."""
        self._stop.set()
        if self._worker.is_alive():
            self._worker.join()
        self._engine.close()

    def _report(
        self,
        comparison: Comparison,
        verified: VerifyReport,
        snapshot: Snapshot,
        flip_ms: float,
        rollback_ms: float,
        began: float,
    ) -> DemoReport:
        measures, counts = comparison.measures, self._demo.traffic.counts
        return DemoReport(
            rows=verified.rows,
            embedded=verified.embedded,
            missing=verified.missing,
            stale=verified.stale,
            faulty=verified.faulty,
            tokens=snapshot.backfill.tokens,
            rows_per_second=self._rate(snapshot.backfill.rows),
            index=IndexReport(snapshot.index.name, snapshot.index.method.value, snapshot.index.valid),
            comparison=ComparisonReport(
                queries=measures.queries,
                k=measures.k,
                mean_overlap=round(measures.overlap.mean, 4),
                low_overlap=measures.low_overlap,
                judged=JudgedReport(*(_mean(side) for side in (measures.ndcg_old, measures.ndcg_new))),
                verdict=comparison.verdict,
            ),
            flip_ms=round(flip_ms, 2),
            rollback_ms=round(rollback_ms, 2),
            rollback_fresh=snapshot.rollback.fresh,
            traffic=TrafficReport(
                counts.reads, counts.writes, counts.failed, counts.errors, lost=self._demo.lost_writes()
            ),
            active=snapshot.route.active.value,
            phase=snapshot.phase.value,
            seconds=round(time.monotonic() - began, 1),
        )

    def _rate(self, rows: int) -> float | None:
        if self._first_rows is None or self._backfilled is None or self._backfilled <= self._first_rows[0]:
            return None
        seen_at, seen = self._first_rows
        return round((rows - seen) / (self._backfilled - seen_at), 1)

    # ------------------------------------------------------------------------------------------------ inner parts

    def _work(self) -> None:
        try:
            self._engine.run(self._stop, follow=True)
        except Interrupted:
            pass
        except BaseException as error:
            self._failure = error

    def _on_event(self, event: Event) -> None:
        if isinstance(event, PhaseChanged) and event.phase is Phase.INDEX:
            self._backfilled = time.monotonic()
        if not isinstance(event, Progressed):
            self._out(event.text)

    def _indexed(self) -> bool:
        """Whether backfill and index are done; says how far they are every now and then."""
        snapshot = self._engine.snapshot()
        if snapshot.phase not in BEFORE_VALIDATE:
            return True
        now = time.monotonic()
        backfill, index = snapshot.backfill, snapshot.index
        if self._first_rows is None and backfill.rows:
            self._first_rows = now, backfill.rows
        if now - self._said >= SAY_SECONDS:
            self._said = now
            if snapshot.phase is Phase.INDEX and index.phase:
                share = f", {index.done / index.total:.0%}" if index.done is not None and index.total else ""
                self._out(f"Index: {index.phase}{share}")
            elif backfill.rows and backfill.total is not None:
                self._out(f"Backfill: {backfill.rows:,} of {backfill.total:,} rows, {backfill.tokens:,} tokens")
        return False

    def _await_searches(self, side: str) -> None:
        """Until the application has searched that side a few times."""
        traffic = self._demo.traffic

        def searched() -> int:
            return traffic.counts.reads_new if side == "new" else traffic.counts.reads_old

        before = searched()
        self._wait(f"searches of the {side} side", lambda: searched() >= before + SEARCHES_SEEN)

    def _wait(self, what: str, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > deadline:
                raise NotClean(f"The demo waited {PATIENCE_SECONDS:.0f} s for {what}.")
            time.sleep(0.05)


def _mean(figure: Interval | None) -> float | None:
    return None if figure is None else round(figure.mean, 4)
