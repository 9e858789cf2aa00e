"""Preparing does what it needs and no more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.engine import prepare as preparing
from embedtui.engine.plan import start
from embedtui.errors import Refused
from tests.kits.support import NEW, OLD, connect, make_documents, settings_for

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


@pytest.mark.parametrize(
    ("module", "act"),
    [
        (start, start.require_startable),
        (preparing, lambda conn, settings: preparing.begin(conn, str(settings.dsn), settings)),
    ],
    ids=["asked", "begun"],
)
def test_what_another_process_has_begun_meanwhile_is_joined_or_named(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, act: Callable[..., object]
) -> None:
    """Not the view that it made, with the command that drops it: two workers may be started at once."""
    make_documents(database, 4)
    resolve: Callable[..., Any] = module.resolve
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}) as api, connect(database) as conn:
        settings = settings_for(database, api, tmp_path, {"placement": "column", "view": True})

        def late(*given: object) -> Any:
            monkeypatch.setattr(module, "resolve", resolve)
            with closing(Engine(database, settings=settings)) as other:
                other.prepare()
            return resolve(*given)

        monkeypatch.setattr(module, "resolve", late)
        act(conn, settings)
        with closing(Engine(database, settings=settings)) as engine:
            engine.abort("documents")
        monkeypatch.setattr(module, "resolve", late)
        with pytest.raises(Refused, match="is under way with no scope"):
            act(conn, settings_for(database, api, tmp_path, {"placement": "column", "view": True, "scope": "id > 2"}))
