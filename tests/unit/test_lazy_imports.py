"""What a command does not need it does not load: half a second of CPU for every `--help` and `status`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from embedtui.cli.main import COMMANDS, cli

HEAVY = ("numpy", "openai", "textual", "rich", "httpx", "pgvector", "tomlkit", "multiprocessing")

REPORT = """
import sys
try:
    {code}
except SystemExit:
    pass
print("LOADED", *sorted({{name for name in sys.modules if name.startswith(tuple({forbidden!r}))}}))
"""

STATUS = """import psycopg
    from embedtui.cli.main import run_command
    def connect(*arguments, **options): raise SystemExit
    psycopg.connect = connect
    run_command(["status"])"""


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        (
            "from embedtui.cli import main; main(['--help'])",
            (*HEAVY, "psycopg", "embedtui.engine", "embedtui.postgres", "embedtui.config", "embedtui.model", "asyncio"),
        ),
        ("from embedtui.cli import main; main(['--version'])", (*HEAVY, "psycopg", "embedtui.engine")),
        (STATUS, (*HEAVY, "embedtui.tui", "embedtui.demo", "embedtui.engine.process")),
        ("import embedtui.model", (*HEAVY, "psycopg", "embedtui.engine")),
        ("import embedtui.config", (*HEAVY, "psycopg", "dotenv", "platformdirs")),
        ("import embedtui.engine", (*HEAVY, "embedtui.tui", "embedtui.cli")),
        ("from embedtui.providers import make_embedder", HEAVY),
    ],
    ids=["help", "version", "status", "model", "config", "engine", "providers"],
)
def test_not_loaded(code: str, forbidden: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPORT.format(code=code, forbidden=forbidden)],
        env={**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "LOADED", done


@pytest.mark.parametrize("name", COMMANDS)
def test_what_help_lists_is_what_the_command_says(name: str) -> None:
    assert cli.commands[name].get_short_help_str(limit=200) == COMMANDS[name][1]
    assert cli.commands[name].name == name
