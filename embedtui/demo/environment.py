"""What the demo brings along: documents in a database, models behind an API, an application at work."""

from __future__ import annotations

import os
import platform
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import FrameType, TracebackType

import numpy as np
import platformdirs
import psycopg
from pgvector.psycopg.vector import register_vector_info
from psycopg import sql
from psycopg.types import TypeInfo

from embedtui import __version__
from embedtui.config import SPECS, GateSettings, ModelSettings, PacingSettings, Settings, load_settings
from embedtui.config.writing import write_toml
from embedtui.demo.api import LoopbackServer, ModelFunction
from embedtui.demo.corpus import Document, documents
from embedtui.demo.database import EmbeddedServer, demo_folder
from embedtui.demo.models import (
    BASE_DIMENSIONS,
    BASE_MODEL,
    EARLIER_DIMENSIONS,
    EARLIER_MODEL,
    NEW_DIMENSIONS,
    NEW_MODEL,
    LatentSemantics,
    earlier_generation,
)
from embedtui.demo.questions import QUESTIONS
from embedtui.demo.traffic import Traffic
from embedtui.engine import Engine
from embedtui.engine.validate import queries as kept_queries
from embedtui.errors import DatabaseError, EmbedtuiError
from embedtui.formatting import called
from embedtui.model import EmbeddingModel, EventSink, PlacementKind, QueryInput
from embedtui.postgres.connect import Connection, connect
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.models import register_model

CORPUS_SIZE = 5000
"""Documents of the demo, where the library has so many."""
DATABASE, SHUTDOWN_DATABASE = "demo", "demo_shutdown"
"""Of each story one: a start of the other goes on where that was."""
TABLE = "documents"
INDEX = "idx_documents_embedding"
KEY_VARIABLE = "EMBEDTUI_DEMO_KEY"
API_SECONDS = 0.1
"""Latency of a request to the loopback API, somewhat less than a provider's."""
INPUTS_PER_REQUEST = 100
"""As Gemini's endpoint allows; with OpenAI's 2,048 the whole demo would be three requests."""
LEAVING_SECONDS = 0.5
"""What leaving waits for the application; a model that is being fitted could hold it for seconds."""


class Demo:
    """Everything the demo brings along, as a context manager: inside, the application is at work.

    The database, in embedtui's data folder, is used again next time, unless ``reset`` (of this story alone) or what it
    holds was made by another Python or version; a migration that has ended is shown as it is. ``dead`` is the story in
    which the old model is shut down (:meth:`shut_down`), ``limit`` the number of documents (None: the usual),
    ``tokens_per_minute`` the pace of the migration (None: as it can), ``out`` receives lines of progress.

    SIGTERM and a closed terminal end the program through its context managers, so that nothing is left running.

    Raises EmbedtuiError: the embedded PostgreSQL is not installed, or is in use, or does not start.
    """

    def __init__(
        self,
        *,
        reset: bool = False,
        dead: bool = False,
        limit: int | None = None,
        tokens_per_minute: float | None = None,
        out: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._server = EmbeddedServer(demo_folder(platformdirs.user_data_path("embedtui") / "demo"))
        self._reset = reset
        self._limit = limit or CORPUS_SIZE
        self._tokens_per_minute = tokens_per_minute
        self._out = out
        self._exit = ExitStack()
        self.dead = dead
        self.died_at: float | None = None
        """When (``time.monotonic()``) the old model was shut down."""
        self.went_on = False
        """Whether a migration was found that had begun before."""
        self.ended = False
        """Whether it had ended, when last looked at."""
        self._database = SHUTDOWN_DATABASE if dead else DATABASE
        self._old: tuple[str, int, ModelFunction] = (
            (EARLIER_MODEL, EARLIER_DIMENSIONS, earlier_generation(self._texts, EARLIER_DIMENSIONS))
            if dead
            else (BASE_MODEL, BASE_DIMENSIONS, earlier_generation(self._texts, BASE_DIMENSIONS))
        )
        self.api = LoopbackServer(
            {self._old[0]: self._old[2], NEW_MODEL: LatentSemantics(self._texts)}, latency=API_SECONDS
        )

    def __enter__(self) -> Demo:
        with ExitStack() as stack:
            stack.enter_context(_ended_by_signals())
            stack.enter_context(_without_proxy())
            self._out("Starting PostgreSQL")
            self._start()
            stack.callback(self._server.stop)
            stack.enter_context(self.api)
            self._write_settings()
            if self._reset or not self._reusable():
                self._fill()
            elif self.dead and self.went_on:
                self.shut_down()  # it died before
            if self.ended:
                self._out(f"This demo's migration has ended; {called()} demo --reset begins anew.")
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
        return self._server.dsn(self._database)

    @property
    def old_name(self) -> str:
        """Name of the old model."""
        return self._old[0]

    @property
    def environ(self) -> dict[str, str]:
        """The environment that an engine of this demo sees."""
        return {"DATABASE_URL": self.dsn, KEY_VARIABLE: self.api.key}

    @property
    def settings(self) -> Settings:
        """What an operator has configured: the file as it is now."""
        return load_settings(environ=self.environ, cwd=self.settings_file.parent, config=self.settings_file)

    @property
    def settings_file(self) -> Path:
        """Written anew at each start; beside the database, so that what is tried on it may be changed."""
        return self._server.path / f"{self._database}.toml"

    @property
    def elsewhere(self) -> str:
        """The command that opens the dashboard of this demo in another terminal; what it starts works here, too."""
        return f'DATABASE_URL="{self.dsn}" {called()} --config {shlex.quote(str(self.settings_file))}'

    @property
    def about(self) -> str:
        """What was made, and where it is."""
        return (
            f"{self._limit:,} documents with the vectors of {self.old_name}, in the table {TABLE} of its own"
            f" PostgreSQL; all of it is kept in {self._server.path}."
        )

    @property
    def again(self) -> str:
        """How to go on with it, or look at it again where it has ended by now, or begin anew."""
        command = f"{called()} demo{' --dead' if self.dead else ''}"
        with suppress(EmbedtuiError, psycopg.Error), connect(self.dsn, name="demo") as conn:
            self._look(conn)
        what = "The migration has ended. Look at it again" if self.ended else "Go on"
        return f"{what}: {command}. Anew: {command} --reset"

    def _start(self) -> None:
        """Start the server; where it cannot, and all is to begin anew, with fresh data."""
        try:
            self._server.start()
        except DatabaseError as error:
            if not self._reset:
                raise
            self._out(f"{error.message} All its data are made anew, the other demo's, too.")
            self._server.reset()
            self._server.start()

    def _write_settings(self) -> None:
        write_toml(self.settings_file, self._configured(), after="")
        key = self.settings_file.with_name(".env")
        key.touch(mode=0o600)
        key.write_text(f"{KEY_VARIABLE}={self.api.key}\n")

    def _configured(self) -> Settings:
        old, new = (
            ModelSettings(
                name=name,
                dimensions=dimensions,
                base_url=self.api.base_url,
                key_variable=KEY_VARIABLE,
                price_per_million=price,
                max_inputs=INPUTS_PER_REQUEST,
            )
            for name, dimensions, price in ((*self._old[:2], 0.02), (NEW_MODEL, NEW_DIMENSIONS, 0.13))
        )
        settings = Settings(
            table=TABLE,
            key=("id",),
            content=("content",),
            old_column="embedding",
            placement=PlacementKind.COLUMN,
            old_model=old,
            new_model=new,
            # The demo's application makes one change a second: 5 % of this small table in 4 minutes, half in 40.
            gate=GateSettings(max_drift=0.5),
            pacing=PacingSettings(tokens_per_minute=self._tokens_per_minute, max_concurrency=4),
            environ=self.environ,
        )
        said = {spec.path: "" for spec in SPECS if settings.value(spec.path) != Settings().value(spec.path)}
        return replace(settings, origins=said)

    def open_engine(self, on_event: EventSink | None = None, *, kind: type[Engine] = Engine) -> Engine:
        """An engine of this kind, whose migration is prepared and holds the demo's questions, to compare with.

        One that has ended is left as it is.
        """
        engine = kind(self.dsn, settings=self.settings, on_event=on_event, environ=self.environ)
        if self.ended:
            return engine
        try:
            engine.prepare()
            with connect(self.dsn, name="demo") as conn:
                kept_queries.store(conn, engine.require(), self.queries(), source="demo")
        except BaseException:
            engine.close()
            raise
        return engine

    def queries(self) -> tuple[QueryInput, ...]:
        """The demo's questions with the rows that are right answers, and of a dead model the vectors as logged."""
        with connect(self.dsn, name="demo") as conn:
            rows = conn.execute(
                sql.SQL("SELECT name, id::text FROM {}").format(sql.Identifier("public", TABLE))
            ).fetchall()
        keys: dict[str, str] = dict(rows)
        logged: list[tuple[float, ...]] = [()] * len(QUESTIONS)
        if self.dead:
            logged = [tuple(vector) for vector in self._old[2]([each.text for each in QUESTIONS], None).tolist()]
        return tuple(
            QueryInput(
                question.text,
                tuple(((keys[answer],), 1.0) for answer in question.answers if answer in keys),
                vector=vector,
            )
            for question, vector in zip(QUESTIONS, logged, strict=True)
        )

    def shut_down(self) -> None:
        """The old model's provider ends it: every request for it is answered with 404 from now on."""
        self.died_at = time.monotonic()
        self.api.faults.add("retired", model=self._old[0])

    def lost_writes(self) -> int:
        """Rows that are not as their last acknowledged write left them; stop the traffic first."""
        with connect(self.dsn, name="demo") as conn:
            stored: dict[int, str] = dict(
                conn.execute(sql.SQL("SELECT id, content FROM {}").format(sql.Identifier("public", TABLE))).fetchall()
            )
        return sum(stored.get(key) != content for key, content in self.traffic.ledger().items())

    # ------------------------------------------------------------------------------------------------ inner parts

    @cached_property
    def _corpus(self) -> list[Document]:
        return documents(self._limit)

    def _texts(self) -> list[str]:
        return [each.text for each in self._corpus]

    def _embedding_models(self) -> tuple[EmbeddingModel, EmbeddingModel]:
        settings = self.settings
        return settings.old_model.complete("old"), settings.new_model.complete("new")

    @property
    def _origin(self) -> str:
        """What the stored vectors depend on."""
        return (
            f"embedtui demo {__version__}: {self._limit} documents by {self.old_name}, "
            f"Python {platform.python_version()}, numpy {np.__version__}"
        )

    def _reusable(self) -> bool:
        """Whether the database holds these documents; the models of a migration under way are set anew."""
        with connect(self._server.dsn(), name="demo") as conn:
            if conn.execute("SELECT FROM pg_database WHERE datname = %s", [self._database]).fetchone() is None:
                return False
        with connect(self.dsn, name="demo") as conn:
            row = conn.execute("SELECT obj_description(to_regclass(%s), 'pg_class')", [f"public.{TABLE}"]).fetchone()
            if row is None or row[0] != self._origin:
                return False
            self.went_on = self._look(conn)
            for model in self._embedding_models() if self.went_on else ():  # the API has another port every time
                register_model(conn, model)
        return True

    def _look(self, conn: Connection) -> bool:
        """Whether a migration has begun; and notes whether it has ended."""
        if conn.execute("SELECT to_regclass('embedtui.migration')").fetchone() == (None,):
            return False
        migration = load_migration(conn)
        self.ended = migration is not None and migration.phase.ended
        return migration is not None

    def _fill(self) -> None:
        """Make the database anew: all of it, or nothing that `_reusable` would take."""
        self._out("Reading the documentation of this Python's standard library")
        corpus = self._corpus
        with connect(self._server.dsn(), name="demo") as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self._database)))
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._database)))
        name, dimensions, function = self._old
        self._out(f"Filling a table with {len(corpus):,} documents and the vectors of {name}")
        vectors = function(self._texts(), None)
        table = sql.Identifier("public", TABLE)
        with connect(self.dsn, name="demo", autocommit=False, statement_timeout_ms=0) as conn:
            conn.execute("CREATE EXTENSION vector SCHEMA public")
            register_vector_info(conn, TypeInfo.fetch(conn, "public.vector"))
            conn.execute(
                sql.SQL(
                    "CREATE TABLE {} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                    " name text NOT NULL, content text NOT NULL, embedding public.vector({}))"
                ).format(table, sql.Literal(dimensions))
            )
            columns = sql.SQL("COPY {} (name, content, embedding) FROM STDIN (FORMAT binary)").format(table)
            with conn.cursor() as cursor, cursor.copy(columns) as copy:
                copy.set_types(["text", "text", "vector"])
                for document, vector in zip(corpus, vectors, strict=True):
                    copy.write_row((document.name, document.text, vector))
            conn.execute(
                sql.SQL("CREATE INDEX {} ON {} USING hnsw (embedding public.vector_cosine_ops)").format(
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
