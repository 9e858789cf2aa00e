"""Tables, migrations and settings that several tests need."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from embedtui.config import Settings, load_settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.errors import Interrupted
from embedtui.postgres import connect as ours
from embedtui.postgres.connect import Connection

OLD, NEW = "old-model", "new-model"


def connect(dsn: str, *, name: str = "test", **options: Any) -> Connection:
    """A session of embedtui's with the role's own search path, for tests that play the application on it as well."""
    conn = ours.connect(dsn, name=name, **options)
    conn.execute("RESET search_path")
    if not conn.autocommit:
        conn.commit()
    return conn


def vector_literal(vector: np.ndarray) -> str:
    """pgvector's text form."""
    return "[" + ",".join(repr(float(x)) for x in vector) + "]"


def make_documents(
    dsn: str,
    rows: int,
    *,
    table: str = "documents",
    key: str = "id bigint PRIMARY KEY",
    text: str = "document number {n}",
    dimensions: int = 8,
    index: bool = False,
) -> None:
    """A table as the article has it, with the old model's vectors."""
    model = hash_model(dimensions)
    texts = [text.format(n=n) for n in range(1, rows + 1)]
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            f"CREATE TABLE {table} ({key}, content text, metadata jsonb DEFAULT '{{}}', embedding vector({dimensions}))"
        )
        column = key.split()[0]
        with conn.cursor().copy(f"COPY {table} ({column}, content, embedding) FROM STDIN") as copy:
            vectors = model(texts, None) if rows else []
            for number, (content, vector) in enumerate(zip(texts, vectors, strict=True), 1):
                copy.write_row((number, content, vector_literal(vector)))
        if index:
            conn.execute(f"CREATE INDEX idx_{table}_embedding ON {table} USING hnsw (embedding vector_cosine_ops)")


def wait_for(condition: Callable[[], object], what: str = "did not happen") -> None:
    """Wait for what other threads or processes bring about; ``what`` is said where they do not."""
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@contextlib.contextmanager
def following(engine: Engine, *, again: bool | None = None) -> Iterator[None]:
    """``engine`` works as ``embedtui run --follow`` does; it has to end when it is stopped, and by nothing else."""
    stop, ended = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            engine.run(stop, follow=True, again=again)
        except Interrupted:
            pass
        except BaseException as error:
            ended.append(error)

    worker = threading.Thread(target=run)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join(60)
    assert not worker.is_alive(), "the worker hangs"
    assert not ended, ended


def two_beats(dsn: str) -> None:
    """Wait until every worker has seen what operators want now, and acts on it."""
    end = time.monotonic() + 60
    with psycopg.connect(dsn, autocommit=True) as conn:
        for _ in range(2):
            since = conn.execute("SELECT clock_timestamp()").fetchone()
            beat = "SELECT bool_and(heartbeat > %s) FROM embedtui.worker WHERE stopped_at IS NULL"
            while conn.execute(beat, since).fetchone() != (True,):
                assert time.monotonic() < end, "no heartbeat"
                time.sleep(0.05)


def settings_for(
    dsn: str, api: LoopbackServer, folder: Path, flags: Mapping[str, Any] | None = None, **variables: str
) -> Settings:
    """Settings by flags and environment alone, as the command line makes them."""
    return load_settings(
        {"table": "documents", "old_model.name": OLD, "accept": ["proof"], **(flags or {})},
        environ={
            "DATABASE_URL": dsn,
            "OPENAI_API_KEY": api.key,
            "OPENAI_BASE_URL": api.base_url,
            "EMBED_MODEL": NEW,
            "EMBED_DIMENSIONS": "16",
            **variables,
        },
        cwd=folder,
    )
