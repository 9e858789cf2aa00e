"""Tables, migrations and settings that several tests need."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from embedtui.config import Settings, load_settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer

OLD, NEW = "old-model", "new-model"


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


def settings_for(
    dsn: str, api: LoopbackServer, folder: Path, flags: Mapping[str, Any] | None = None, **variables: str
) -> Settings:
    """Settings by flags and environment alone, as the command line makes them."""
    return load_settings(
        {"table": "documents", "old_model.name": OLD, **(flags or {})},
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


needs_pgbouncer = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="pgbouncer is not installed")


@contextmanager
def pooled(server: EmbeddedServer, database: str, mode: str) -> Iterator[str]:
    """DSN of a database of this server through PgBouncer, with ``mode`` ``transaction`` or ``session``."""
    folder = Path(tempfile.mkdtemp(prefix="embedtui-bouncer-"))
    folder.chmod(0o777)
    (folder / "users.txt").write_text('"postgres" ""\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={server.path} user=postgres\n[pgbouncer]\n"
        f"listen_addr =\nunix_socket_dir = {folder}\n"
        f"listen_port = 6432\nauth_type = any\npool_mode = {mode}\nauth_file = {folder}/users.txt\n"
        "ignore_startup_parameters = extra_float_digits,options\n"
    )
    owner = server.path.stat()
    account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    bouncer = subprocess.Popen(
        ["pgbouncer", str(folder / "ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account
    )
    try:
        end = time.monotonic() + 60
        while not (folder / ".s.PGSQL.6432").exists():
            assert time.monotonic() < end, "pgbouncer does not start"
            time.sleep(0.05)
        yield f"postgresql://postgres@/{database}?host={folder}&port=6432"
    finally:
        bouncer.terminate()
        bouncer.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
