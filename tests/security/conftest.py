"""A database with PostgreSQL 14's defaults (everybody may create in public) and a role that means ill."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.database import EmbeddedServer
from tests.conftest import FAST
from tests.kits.hostile import Hostile


@pytest.fixture(scope="session")
def server_16() -> Iterator[EmbeddedServer]:
    folder = Path(tempfile.mkdtemp(prefix="embedtui-test-"))
    with EmbeddedServer(folder / "pg", version=16, settings=FAST) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["server_16", "server"], ids=["16", "18"])
def hostile(request: pytest.FixtureRequest) -> Iterator[Hostile]:
    """On both servers; see :class:`Hostile`."""
    running: EmbeddedServer = request.getfixturevalue(request.param)
    number = Hostile.number()
    name, role, application = f"hostile_{number}", f"attacker_{number}", f"application_{number}"
    with psycopg.connect(running.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        admin.execute(f"CREATE ROLE {role} LOGIN")
        admin.execute(f"CREATE ROLE {application} LOGIN")
    with psycopg.connect(running.dsn(name), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector; GRANT CREATE ON SCHEMA public TO PUBLIC")
    yield Hostile(running, name, role, application)
    with psycopg.connect(running.dsn(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        admin.execute(f"DROP ROLE {role}")
        admin.execute(f"DROP ROLE {application}")
