"""Runs commands as a shell would, in the test's own process or in one of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.cli.main import run_command

DOCUMENTS = """
CREATE TABLE documents (id bigint PRIMARY KEY, content text, embedding vector(4));
INSERT INTO documents SELECT i, 'Document number ' || i, ARRAY[i % 7, 1, i % 3, 2]::real[]::vector
  FROM generate_series(1, 60) i;
CREATE INDEX idx_documents_embedding ON documents USING hnsw (embedding vector_cosine_ops);
"""

_OURS = ("DATABASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "EMBED_MODEL", "EMBED_DIMENSIONS", "EMBEDTUI_DEBUG")


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        return json.loads(self.out)

    def refused(self, code: int, *said: str) -> None:
        """It left with ``code`` and one line on stderr that says all of ``said``; nothing on stdout, no traceback."""
        assert self.code == code, self
        assert self.out == "", self
        lines = [line for line in self.err.splitlines() if line.startswith("embedtui: ")]
        assert len(lines) == 1, self
        assert "Traceback" not in self.err and "\x1b" not in self.err, self
        for each in said:
            assert each in lines[0], self


class Shell:
    """A folder and an environment in which commands run."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.environ = dict(environ)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command as a process of its own."""
        environ = {name: value for name, value in os.environ.items() if name not in _OURS}
        root = str(Path(__file__).parents[2])
        return subprocess.Popen(
            [sys.executable, "-m", "embedtui", *arguments],
            cwd=self.folder,
            env={**environ, "PYTHONPATH": root, **self.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def spawn(self, *arguments: str, timeout: float = 120) -> Result:
        """Run the command as a process of its own, to its end."""
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
            process.wait()
        return Result(process.returncode, out, err)


class InProcess(Shell):
    """Commands in this process: the same code from the arguments to the exit code, only no new Python."""

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        super().__init__(folder, environ)
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str, **environ: str) -> Result:
        """Run a command; keywords are further environment variables, empty ones are unset."""
        with self._monkeypatch.context() as patch:
            patch.chdir(self.folder)
            for name in _OURS:
                patch.delenv(name, raising=False)
            for name, value in {**self.environ, **environ}.items():
                if value:
                    patch.setenv(name, value)
            patch.setenv("XDG_CONFIG_HOME", str(self.folder / "config"))
            self._capsys.readouterr()
            code = run_command(list(arguments))
            captured = self._capsys.readouterr()
        return Result(int(code), captured.out, captured.err)


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(query).fetchall()  # type: ignore[arg-type]


def execute(dsn: str, script: str) -> None:
    """Run statements."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(script)  # type: ignore[arg-type]


def traces(dsn: str) -> list[str]:
    """What of embedtui's is in the database: its schema, its triggers, its columns and tables."""
    found = rows(
        dsn,
        """
        SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'embedtui'
        UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname LIKE 'embedtui%'
        UNION ALL SELECT 'column ' || attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                   WHERE attname LIKE '%embedding_v2%' AND c.relkind = 'r' AND NOT attisdropped
        UNION ALL SELECT 'table ' || relname FROM pg_class WHERE relname LIKE '%embedding_v2%' AND relkind = 'r'
        """,
    )
    return [name for (name,) in found]
