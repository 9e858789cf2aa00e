"""A worker that is told to leave while its database is gone leaves: a real process, and a server that is stopped."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.demo.database import EmbeddedServer
from tests.kits.cli_kit import Shell
from tests.kits.support import NEW, OLD, make_documents, wait_for

PATIENCE = 20
"""Seconds, on a machine however busy; it never left before."""


@pytest.mark.parametrize(("rows", "phase"), [(20, "validate"), (20_000, "backfill")])
def test_told_to_leave_without_its_database_it_leaves(
    server_folder: Path, api: LoopbackServer, tmp_path: Path, rows: int, phase: str
) -> None:
    with EmbeddedServer(server_folder) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
        make_documents(server.dsn(), rows)
        api.latency = 0.1
        (tmp_path / "embedtui.toml").write_text(f'table = "documents"\n[old_model]\nname = "{OLD}"\nretired = true\n')
        environ = {"DATABASE_URL": server.dsn(), "OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}
        process = Shell(tmp_path, {**environ, "EMBED_MODEL": NEW, "EMBED_DIMENSIONS": "16"}).start("run", "--follow")
        said: list[str] = []
        assert process.stderr is not None
        reader = threading.Thread(target=said.extend, args=[iter(process.stderr.readline, "")])
        reader.start()
        try:
            wait_for(lambda: any(f"Phase: {phase}" in line for line in said), "it does not begin")
            server.crash()
            wait_for(
                lambda: any("Held: database" in line or "for the database" in line for line in said),
                f"it does not miss its database: {said}",
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 130
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stdout.close()  # type: ignore[union-attr]
            process.stderr.close()
