"""What the benchmarks share: a database like production's, an API in a process of its own, tables, medians."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from embedtui.config import Settings, load_settings
from embedtui.demo.api import DEFAULT_KEY, LoopbackServer
from embedtui.demo.database import EmbeddedServer

OLD, NEW = "old-model", "new-model"
OLD_DIMENSIONS = NEW_DIMENSIONS = 768
POOL = 4096


def pool_model(dimensions: int, seed: int) -> Any:
    """Vectors drawn once and chosen by the text's checksum: the server's work a row is a look-up."""
    vectors = np.random.default_rng(seed).standard_normal((POOL, dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def embed(texts: Sequence[str], requested: int | None) -> np.ndarray:
        chosen = vectors[[zlib.crc32(text.encode()) % POOL for text in texts]]
        return chosen if requested in (None, dimensions) else chosen[:, :requested]

    return embed


def machine() -> str:
    """The machine in a line, for the figures' sake."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"


@contextlib.contextmanager
def database(version: int = 18, **settings: str) -> Iterator[EmbeddedServer]:
    """A fresh server with the settings of a small production server; fsync stays on."""
    tuned = {"shared_buffers": "512MB", "max_wal_size": "4GB", "maintenance_work_mem": "512MB", **settings}
    with (
        tempfile.TemporaryDirectory(prefix="embedtui-bench-") as folder,
        EmbeddedServer(Path(folder) / "pg", version=version, settings=tuned) as server,
    ):
        yield server


@contextlib.contextmanager
def api(latency: float, **limits: float) -> Iterator[str]:
    """Base URL of an API server in a process of its own."""
    arguments = [sys.executable, "-m", "benchmarks.common", str(latency), *(f"{k}={v}" for k, v in limits.items())]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def fresh(server: EmbeddedServer, name: str) -> str:
    """DSN of a new database called ``name`` with pgvector."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        conn.execute(f"CREATE DATABASE {name}")
    dsn = server.dsn(name)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector")
    return dsn


def fill(dsn: str, rows: int, characters: int = 540, *, index: bool = True) -> None:
    """The article's table with old vectors and, where asked, an HNSW index on them."""
    words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett"]
    rng = np.random.default_rng(1)
    model = pool_model(OLD_DIMENSIONS, 1)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE documents (id bigserial PRIMARY KEY, content text NOT NULL, metadata jsonb,"
            f" embedding vector({OLD_DIMENSIONS}))"
        )
        with conn.cursor().copy("COPY documents (content, embedding) FROM STDIN") as copy:
            for first in range(0, rows, 1000):
                texts = []
                for number in range(first, min(first + 1000, rows)):
                    text = f"{number} " + " ".join(words[k] for k in rng.integers(0, 10, characters // 6 + 1))
                    texts.append(text[:characters])
                for text, vector in zip(texts, model(texts, None), strict=True):
                    copy.write_row((text, "[" + ",".join(f"{x:.6g}" for x in vector) + "]"))
        if index:
            conn.execute("SET maintenance_work_mem = '1GB'")
            conn.execute("CREATE INDEX idx_documents_embedding ON documents USING hnsw (embedding vector_cosine_ops)")
        conn.execute("VACUUM ANALYZE documents")
        conn.execute("CHECKPOINT")


def settings_for(dsn: str, base_url: str, **flags: object) -> Settings:
    """Settings by flags and environment, as on the command line."""
    with tempfile.TemporaryDirectory() as folder:
        return load_settings(
            {"table": "documents", "old_model.name": OLD, **flags},
            environ={
                "DATABASE_URL": dsn,
                "OPENAI_API_KEY": DEFAULT_KEY,
                "OPENAI_BASE_URL": base_url,
                "EMBED_MODEL": NEW,
                "EMBED_DIMENSIONS": str(NEW_DIMENSIONS),
            },
            cwd=Path(folder),
        )


def one(dsn: str, query: str) -> Any:
    """The first column of a query's first row."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(query).fetchone()
        assert row is not None
        return row[0]


def spread(values: Sequence[float]) -> str:
    """Median with minimum and maximum."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"


def _serve() -> None:
    latency, *rest = sys.argv[1:]
    limits: dict[str, Any] = {name: float(value) for name, value in (part.split("=") for part in rest)}
    models = {OLD: pool_model(OLD_DIMENSIONS, 1), NEW: pool_model(NEW_DIMENSIONS, 2)}
    with LoopbackServer(models, latency=float(latency), **limits) as server:
        print(server.base_url, flush=True)
        import signal

        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    _serve()
