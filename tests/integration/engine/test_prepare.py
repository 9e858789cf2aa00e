"""Preparing does what it needs and no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.kits.support import NEW, OLD, make_documents

PREPARE = """
import sys
from embedtui.config import load_settings
from embedtui.engine import Engine
settings = load_settings({"table": "documents", "old_model.name": sys.argv[1]})
engine = Engine(settings.dsn, settings=settings)
print(engine.prepare().phase)
print("LOADED", *sorted({"openai", "httpx", "numpy", "textual"} & set(sys.modules)))
"""


def test_preparing_does_not_wait_for_the_providers_client(database: str, tmp_path: Path) -> None:
    make_documents(database, 20)
    environ = {
        "DATABASE_URL": database,
        "OPENAI_API_KEY": "sk-never-used",
        "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
        "EMBED_MODEL": NEW,
        "EMBED_DIMENSIONS": "16",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, OLD],
        cwd=tmp_path,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "backfill\nLOADED\n", done
