"""Texts in another table: what its triggers run is nobody's but ours, and a worker reads of it what it embeds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.engine import Engine
from embedtui.engine.grants import grants
from embedtui.postgres.state.privileges import Role
from embedtui.router import put
from tests.acceptance.test_text_tables import ELSEWHERE, make_chunks
from tests.kits.hostile import Hostile
from tests.kits.support import NEW, settings_for
from tests.security.test_capture_functions import capture_functions, faults, prepare, queue, temporary_table


@pytest.fixture
def chunks(hostile: Hostile) -> Hostile:
    make_chunks(hostile.admin)
    hostile.as_admin(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.chunks, public.documents TO {hostile.application}"
    )
    return hostile


@pytest.mark.parametrize("event", ["INSERT", "UPDATE", "DELETE"])
def test_nobody_may_hang_the_texts_functions_on_a_table_of_his_own(
    chunks: Hostile, api: LoopbackServer, tmp_path: Path, event: str
) -> None:
    migration = prepare(chunks, api, tmp_path, **ELSEWHERE)
    functions = [name for name in capture_functions(chunks) if "text" in name]
    assert functions == [f"capture_{migration}_old_text", f"capture_{migration}_text"]
    chunks.as_admin("GRANT USAGE ON SCHEMA embedtui TO PUBLIC")
    for function in functions:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            chunks.run("DROP TYPE IF EXISTS public.evil CASCADE", *temporary_table(chunks, function, event))
        chunks.as_admin(f"GRANT EXECUTE ON FUNCTION embedtui.{function}() TO PUBLIC")
        chunks.run("DROP TYPE IF EXISTS public.evil CASCADE", *temporary_table(chunks, function, event))
    assert chunks.ran() == [] and queue(chunks) == [] and faults(chunks) == []


def test_a_column_of_the_texts_that_gets_somebody_elses_type_runs_nothing_of_it(
    chunks: Hostile, api: LoopbackServer, tmp_path: Path
) -> None:
    prepare(chunks, api, tmp_path, **{**ELSEWHERE, "content": (), "content_sql": "body || ' of ' || views"})
    chunks.run(
        "CREATE TYPE public.evil AS (x int)",
        "CREATE FUNCTION public.evil_text(public.evil) RETURNS text LANGUAGE plpgsql AS "
        + chunks.tell("cast", "RETURN 1;"),
        "CREATE CAST (public.evil AS text) WITH FUNCTION public.evil_text(public.evil) AS IMPLICIT",
    )
    chunks.as_admin("ALTER TABLE public.documents ALTER body TYPE public.evil USING ROW(1)::public.evil")
    chunks.as_admin("UPDATE public.documents SET body = ROW(2)::public.evil WHERE id = 1")
    assert chunks.ran() == [] and queue(chunks) == []
    assert "column body has another type" in faults(chunks)


def test_an_application_without_any_right_of_ours_is_captured(
    chunks: Hostile, api: LoopbackServer, tmp_path: Path
) -> None:
    prepare(chunks, api, tmp_path, **ELSEWHERE)
    with psycopg.connect(chunks.application_dsn, autocommit=True) as conn:
        conn.execute("UPDATE documents SET body = 'edited' WHERE id = 1")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT FROM embedtui.queue")
    assert queue(chunks) == [([], "x")]


@pytest.fixture
def roles(server: EmbeddedServer, database: str) -> Iterator[tuple[str, str, str]]:
    """DSNs of the owner of both tables, a worker and an application."""
    make_chunks(database)
    with psycopg.connect(database, autocommit=True) as conn:
        base = conn.info.dbname
        names = [f"{role}_{base}" for role in ("owner", "worker", "application")]
        for name in names:
            conn.execute(f"CREATE ROLE {name} LOGIN".encode())
        conn.execute(f"ALTER TABLE documents OWNER TO {names[0]}; ALTER TABLE chunks OWNER TO {names[0]}".encode())
        conn.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON documents, chunks TO {names[2]}".encode())
        conn.execute(
            f"GRANT CREATE ON DATABASE {base} TO {names[0]}; GRANT CREATE ON SCHEMA public TO {names[0]}".encode()
        )
        owner, worker, application = (server.dsn(base, name) for name in names)
        yield owner, worker, application
        every = ", ".join(names)
        conn.execute(f"REASSIGN OWNED BY {every} TO postgres; DROP OWNED BY {every}; DROP ROLE {every}".encode())


@pytest.mark.parametrize("placement", ["column", "table"])
def test_a_worker_reads_the_texts_and_nothing_else_of_them(
    roles: tuple[str, str, str], api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    owner_dsn, worker_dsn, application = roles
    settings = settings_for(owner_dsn, api, tmp_path, {**ELSEWHERE, "placement": placement, "index.method": "none"})
    names = {role: psycopg.conninfo.conninfo_to_dict(dsn)["user"] for role, dsn in zip(
        (Role.WORKER, Role.APPLICATION), (worker_dsn, application), strict=True)}  # fmt: skip
    with closing(Engine(owner_dsn, settings=settings)) as owner:
        owner.prepare()
        grants(settings, names, apply=True)
        with closing(Engine(worker_dsn, environ=settings.environ)) as worker:
            worker.run(threading.Event())
            with psycopg.connect(application, autocommit=True) as conn:
                conn.execute("UPDATE documents SET body = 'edited' WHERE id = 1")
                conn.execute("UPDATE chunks SET document_id = 1 WHERE id = 2")
            worker.run(threading.Event())
            assert worker.verify(sample=8).clean
        with psycopg.connect(application, autocommit=True) as conn:
            vector = api.models[NEW](["edited"], None)[0].tolist()
            assert put(conn, "chunks", 1, NEW, vector, content="edited")
    with psycopg.connect(worker_dsn, autocommit=True) as conn:
        assert conn.execute("SELECT count(body) FROM documents").fetchone() == (4,)
        for statement in (
            "SELECT views FROM documents",
            "UPDATE documents SET body = ''",
            "DELETE FROM documents",
            "SELECT FROM documents FOR SHARE",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement)  # type: ignore[arg-type]
