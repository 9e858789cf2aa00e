"""The least-privilege set-up of docs/privileges.md in both placements: owner, worker and application."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from embedtui.config import Settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.engine import Engine
from embedtui.engine.grants import grants
from embedtui.errors import DatabaseError, EmbedtuiError, ExitCode, Interrupted
from embedtui.model import Phase, QueryInput
from embedtui.postgres.state.privileges import Role
from embedtui.postgres.state.schema import VERSION
from embedtui.router import Router
from tests.kits.downgrade import back_to
from tests.kits.support import NEW, make_documents, settings_for, two_beats, wait_for


@dataclass
class Roles:
    """DSNs of three roles on one database."""

    admin: str
    owner: str
    worker: str
    application: str

    def grant(self, by: Settings, role: Role, dsn: str) -> None:
        """What the command gives; by the administrator for the owner, and by the owner for the others."""
        name = conninfo_to_dict(dsn)["user"]
        assert isinstance(name, str)
        grants(by, {role: name}, apply=True)


@pytest.fixture
def roles(server: EmbeddedServer, database: str) -> Iterator[Roles]:
    with psycopg.connect(database, autocommit=True) as conn:
        base = conn.info.dbname
        names = {role: f"{role}_{base}" for role in ("migration_owner", "embedtui_worker", "application")}
        for name in names.values():
            conn.execute(f"CREATE ROLE {name} LOGIN")
        make_documents(database, 100)
        conn.execute(f"ALTER TABLE documents OWNER TO {names['migration_owner']}")
        conn.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON documents TO {names['application']}")
        dsns = [server.dsn(base, name) for name in names.values()]
        yield Roles(database, *dsns)
        every = ", ".join(names.values())
        conn.execute(f"REASSIGN OWNED BY {every} TO postgres")
        conn.execute(f"DROP OWNED BY {every}")
        conn.execute(f"DROP ROLE {every}")


@pytest.mark.parametrize("placement", ["column", "table"])
def test_owner_prepares_worker_embeds_application_needs_nothing_new(
    roles: Roles, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    settings = settings_for(roles.owner, api, tmp_path, {"placement": placement})
    roles.grant(settings_for(roles.admin, api, tmp_path), Role.OPERATOR, roles.owner)
    owner = Engine(roles.owner, settings=settings)
    owner.prepare()
    roles.grant(settings, Role.WORKER, roles.worker)
    worker = Engine(roles.worker, environ=settings.environ)
    # the index is the owner's: the worker says so and leaves the rest done
    with pytest.raises(EmbedtuiError) as caught:
        worker.run(threading.Event())
    assert caught.value.exit_code == ExitCode.DATABASE and "owner" in str(caught.value)
    assert owner.snapshot().phase is Phase.INDEX
    with psycopg.connect(roles.application, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = 'edited' WHERE id = 1")
        conn.execute("INSERT INTO documents (id, content) VALUES (1000, 'inserted')")
        conn.execute("DELETE FROM documents WHERE id = 2")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT FROM embedtui.queue")
    owner.run(threading.Event())
    worker.run(threading.Event())
    assert worker.verify(sample=20).clean
    owner.cutover(override={"gate": "test"})
    with psycopg.connect(roles.application, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = 'edited again' WHERE id = 1")
    roles.grant(settings, Role.APPLICATION, roles.application)
    query = hash_model(16)(["document number 7"], None)[0]
    with Router(roles.application) as router, psycopg.connect(roles.application, autocommit=True) as conn:
        assert router.route("documents").search(conn, query, 1)[0].key == ("7",)
        assert router.write(conn, "documents", 7, query, model=NEW, content="document number 7")
        call = "SELECT key FROM embedtui.search('documents', %s, %s, 1)"
        assert conn.execute(call, [NEW, router.route("documents").bind(query)]).fetchone() == ("7",)
        wait_for(lambda: owner.snapshot().route.listeners, "the operator sees who follows")
    worker.run(threading.Event())
    assert worker.snapshot().rollback.fresh is True
    owner.close()
    worker.close()


@pytest.mark.parametrize("placement", ["column", "table"])
def test_a_worker_that_follows_leaves_the_index_to_the_operator_and_names_who_locks_rows(
    roles: Roles, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    settings = settings_for(roles.owner, api, tmp_path, {"placement": placement})
    roles.grant(settings_for(roles.admin, api, tmp_path), Role.OPERATOR, roles.owner)
    stop = threading.Event()
    with (
        closing(Engine(roles.owner, settings=settings)) as owner,
        closing(Engine(roles.worker, environ=settings.environ)) as worker,
        psycopg.connect(roles.application) as app,
        ThreadPoolExecutor(1) as beside,
    ):
        owner.prepare()
        roles.grant(settings, Role.WORKER, roles.worker)
        follows = beside.submit(lambda: worker.run(stop, follow=True))
        try:

            def held(name: str, said: str) -> bool:
                assert not follows.done(), follows.exception()
                return any(hold.name == name and said in hold.detail for hold in owner.snapshot().reasons)

            wait_for(lambda: held("index", "must be owner"), "nobody says who has to build it")
            for granted in (True, False):
                if not granted:  # by a version that did not read it
                    with psycopg.connect(roles.admin, autocommit=True) as conn:
                        name = conninfo_to_dict(roles.worker)["user"]
                        conn.execute(f"REVOKE SELECT (xmax) ON documents FROM {name}".encode())
                app.execute("UPDATE documents SET content = 'edited ' || clock_timestamp() WHERE id IN (1, 2)")
                owner.pause()
                two_beats(roles.admin)
                app.commit()
                app.execute("SELECT FROM documents WHERE id = 1 FOR UPDATE")
                owner.resume()
                pid = app.info.backend_pid
                said = f"pid {pid} locks" if granted else "embedtui grants lets this role see"
                wait_for(partial(held, "locked_rows", said), "nobody says who has it")
                app.rollback()
                wait_for(lambda: not owner.snapshot().sync.queued, "it is not taken up")
            owner.build_index()
            wait_for(lambda: owner.snapshot().phase is Phase.VALIDATE, "the worker does not go on")
            wait_for(lambda: not owner.snapshot().reasons, "it goes on to be said")
        finally:
            stop.set()
        assert isinstance(follows.exception(60), Interrupted)
        assert owner.verify().clean


def test_what_a_workers_role_says_of_judged_rows_reaches_nobody_else(
    roles: Roles, api: LoopbackServer, tmp_path: Path
) -> None:
    settings = settings_for(roles.owner, api, tmp_path)
    roles.grant(settings_for(roles.admin, api, tmp_path), Role.OPERATOR, roles.owner)
    with (
        closing(Engine(roles.owner, settings=settings)) as owner,
        psycopg.connect(roles.worker, autocommit=True) as worker,
    ):
        owner.run(threading.Event())
        roles.grant(settings, Role.WORKER, roles.worker)
        judged = [QueryInput("document number 7", ((("7",), 1.0),))]
        assert owner.compare(judged).measures.judged == 1
        for said in ("5", '[["x"]]', '[[["1"], 1, 1]]', "{}"):
            worker.execute(
                "INSERT INTO embedtui.evaluation (migration, who, k, queries, measures, checks, verdict, state)"
                " VALUES (1, 'w', 10, 1, '{}', '[]', 'PASS', jsonb_build_object('judged_rows', %s::jsonb))",
                [said],
            )
            assert owner.compare(judged, again=True).measures.judged == 1


def test_a_worker_of_an_older_schema_is_told_who_upgrades_it(roles: Roles, api: LoopbackServer, tmp_path: Path) -> None:
    settings = settings_for(roles.owner, api, tmp_path)
    roles.grant(settings_for(roles.admin, api, tmp_path), Role.OPERATOR, roles.owner)
    with closing(Engine(roles.owner, settings=settings)) as owner:
        owner.prepare()
    roles.grant(settings, Role.WORKER, roles.worker)
    with psycopg.connect(roles.admin) as conn:
        back_to(conn, VERSION - 1)
    with closing(Engine(roles.worker, settings=settings_for(roles.worker, api, tmp_path))) as worker:
        with pytest.raises(DatabaseError, match=f"is version {VERSION - 1}") as refused:
            worker.run(threading.Event())
        assert "as the owner of the schema" in refused.value.hint


@pytest.mark.parametrize("capture", ["triggers", "scan"])
def test_an_operator_of_texts_in_a_table_of_another_owner(
    roles: Roles, api: LoopbackServer, tmp_path: Path, capture: str
) -> None:
    names = [conninfo_to_dict(dsn)["user"] for dsn in (roles.owner, roles.application)]
    with psycopg.connect(roles.admin, autocommit=True) as conn:
        conn.execute(
            f"CREATE SCHEMA library AUTHORIZATION {names[1]}; CREATE TABLE library.books (id bigint PRIMARY KEY,"
            f" body text); ALTER TABLE library.books OWNER TO {names[1]};"
            " INSERT INTO library.books SELECT n, 'book ' || n FROM generate_series(1, 5) n;"
            " ALTER TABLE documents ADD book_id bigint REFERENCES library.books;"
            " UPDATE documents SET book_id = 1 + id % 5"
        )
    flags = {"content_from": "library.books", "content": ("body",), "change_capture": capture, "index.method": "none"}
    roles.grant(settings_for(roles.admin, api, tmp_path, flags), Role.OPERATOR, roles.owner)
    engine = Engine(roles.owner, settings=settings_for(roles.owner, api, tmp_path, flags))
    engine.run(threading.Event())
    with psycopg.connect(roles.application, autocommit=True) as conn:
        conn.execute("UPDATE library.books SET body = 'edited' WHERE id = 1")
    engine.run(threading.Event())
    assert engine.verify(sample=100).clean and "edited" in api.texts
    engine.close()
    with psycopg.connect(roles.admin) as conn:
        member = conn.execute("SELECT pg_has_role(%s, %s, 'MEMBER')", names).fetchone()
        assert member == (capture == "triggers",), "no more than it needs"
    again = grants(settings_for(roles.owner, api, tmp_path, flags), {Role.OPERATOR: str(names[0])})
    assert any("library" in statement for statement in again.statements), "of a migration under way as well"


def test_row_security_is_an_error_and_never_fewer_rows(roles: Roles, api: LoopbackServer, tmp_path: Path) -> None:
    roles.grant(settings_for(roles.admin, api, tmp_path), Role.OPERATOR, roles.owner)
    with psycopg.connect(roles.admin, autocommit=True) as conn:
        conn.execute("ALTER TABLE documents ENABLE ROW LEVEL SECURITY; ALTER TABLE documents FORCE ROW LEVEL SECURITY")
        conn.execute("CREATE POLICY even_rows ON documents USING (id % 2 = 0)")
    engine = Engine(roles.owner, settings=settings_for(roles.owner, api, tmp_path))
    with pytest.raises(EmbedtuiError, match=r"(?i)row.(level )?security"):
        engine.run(threading.Event())
    engine.close()


def test_without_the_documented_rights_it_says_which_is_missing(
    roles: Roles, api: LoopbackServer, tmp_path: Path
) -> None:
    engine = Engine(roles.worker, settings=settings_for(roles.worker, api, tmp_path))
    with pytest.raises(EmbedtuiError) as caught:
        engine.run(threading.Event())
    assert isinstance(caught.value, DatabaseError) or caught.value.hint
    with psycopg.connect(roles.admin) as conn:
        assert conn.execute("SELECT to_regnamespace('embedtui')").fetchone() == (None,), "nothing was made"
    engine.close()
