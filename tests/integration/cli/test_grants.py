"""`embedtui grants`: the SQL it shows is the SQL it applies, for odd names, partitions and both placements."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.engine import Engine
from embedtui.errors import EmbedtuiError
from embedtui.model import Phase
from tests.kits.cli_kit import InProcess, rows
from tests.kits.support import NEW, OLD, settings_for

WORKER = 'odd "worker"; DROP ROLE postgres; --'
TABLE = 'app."Odd %s Docs"'
SCRIPT = f"""
CREATE SCHEMA app;
CREATE TABLE {TABLE} (id bigint, "part %" integer, "Body" text, secret text, embedding vector(8),
    PRIMARY KEY (id, "part %"))
    PARTITION BY LIST ("part %");
CREATE TABLE app.one PARTITION OF {TABLE} FOR VALUES IN (1);
CREATE TABLE app.two PARTITION OF {TABLE} FOR VALUES IN (2);
INSERT INTO {TABLE} SELECT n, 1 + n % 2, 'text ' || n, 's', NULL FROM generate_series(1, 40) n;
"""


@pytest.fixture
def worker(database: str) -> Iterator[str]:
    """Name of the worker's role, gone afterwards."""
    name = sql.Identifier(WORKER)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
        yield WORKER
        conn.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))


@pytest.mark.parametrize("placement", ["column", "table"])
def test_what_is_shown_is_enough_and_no_more(
    server: EmbeddedServer,
    database: str,
    worker: str,
    tmp_path: Path,
    placement: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with (
        psycopg.connect(database, autocommit=True) as conn,
        LoopbackServer({NEW: hash_model(16), OLD: hash_model(8)}) as api,
    ):
        conn.execute(SCRIPT)
        flags = {
            "table": TABLE,
            "content": ("Body",),
            "old_model.name": OLD,
            "placement": placement,
            "index.method": "none",
        }
        settings = settings_for(database, api, tmp_path, flags)
        with closing(Engine(database, settings=settings)) as operator:
            operator.prepare()
            run = InProcess(tmp_path, settings.environ, monkeypatch, capsys)
            shown = run("grants", "--worker", worker)
            assert shown.code == 0 and rows(database, "SELECT count(*) FROM embedtui.audit WHERE act = 'grants'") == [
                (0,)
            ]
            conn.execute(shown.out)  # type: ignore[call-overload]
            applied = run("grants", "--worker", worker, "--apply", "--json")
            lines = [line.removesuffix(";") for line in shown.out.splitlines() if line not in ("BEGIN;", "COMMIT;")]
            # what a role has by now is not granted again
            had = [line for line in lines if line.startswith('GRANT USAGE ON SCHEMA "app"')]
            assert applied.json["applied"] and [*applied.json["statements"], *had] == [
                *(line for line in lines if line not in had),
                *had,
            ]
            assert operator.audit()[0].detail == f"worker {worker}"
            assert conn.info.dbname is not None
            dsn = server.dsn(conn.info.dbname, worker)
            with closing(Engine(dsn, settings=settings_for(dsn, api, tmp_path, flags))) as engine:
                assert engine.run(threading.Event()).phase is Phase.VALIDATE
                assert engine.verify(sample=5).clean
            with psycopg.connect(dsn, autocommit=True) as intruder:
                for leaf in (TABLE, "app.one", "app.two"):
                    for statement in ("SELECT secret FROM {}", """UPDATE {} SET "Body" = 'x'""", "DELETE FROM {}"):
                        with pytest.raises(psycopg.errors.InsufficientPrivilege):
                            intruder.execute(statement.format(leaf))


def test_what_cannot_be_granted_is_said(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = InProcess(tmp_path, {"DATABASE_URL": database}, monkeypatch, capsys)
    run("grants").refused(6, "No role is named", "--worker")
    run("grants", "--worker", "nobody_of_this_name").refused(6, "no role nobody_of_this_name", "CREATE ROLE")
    run("grants", "--worker", "postgres").refused(6, "Nothing has been prepared", "--until 0")


def test_a_moment_of_missing_rights_is_said_with_the_table(
    server: EmbeddedServer, database: str, worker: str, tmp_path: Path
) -> None:
    """A worker without its grants ends with one line, and nothing is pending."""
    with LoopbackServer({NEW: hash_model(16), OLD: hash_model(8)}) as api, psycopg.connect(database) as conn:
        conn.execute(SCRIPT)
        conn.commit()
        assert conn.info.dbname is not None
        flags = {"table": TABLE, "content": ("Body",), "index.method": "none"}
        with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as operator:
            operator.prepare()
        dsn = server.dsn(conn.info.dbname, worker)
        engine = Engine(dsn, settings=settings_for(dsn, api, tmp_path, flags))
        with closing(engine), pytest.raises(EmbedtuiError, match="permi"):
            engine.run(threading.Event())
