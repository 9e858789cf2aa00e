"""Operator, worker, application and watcher on PostgreSQL 16 and 18: what each can do, and all that it cannot."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from embedtui.config import Settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.cutover.cutover import flip_if_due
from embedtui.engine.engine import Engine
from embedtui.engine.grants import grants
from embedtui.errors import DatabaseError, EmbedtuiError, ExitCode, Refused
from embedtui.model import Phase, Side
from embedtui.postgres.connect import connect
from embedtui.postgres.locks import WORKER_CLASS
from embedtui.postgres.state.privileges import Role
from embedtui.router import Router
from tests.conftest import FAST
from tests.kits.support import NEW, OLD, make_documents, settings_for, vector_literal
from tests.security import table
from tests.security.attempts import ACTIONS, ATTEMPTS, Attempt

SETUP = """
CREATE ROLE operator LOGIN; CREATE ROLE worker LOGIN; CREATE ROLE application LOGIN; CREATE ROLE watcher LOGIN;
CREATE TABLE payroll (id bigint PRIMARY KEY, content text, salary integer);
INSERT INTO payroll VALUES (1, 'confidential', 100);
ALTER TABLE documents ADD COLUMN secret text DEFAULT 'classified';
ALTER TABLE documents OWNER TO operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON documents TO application;
-- somebody always has a schema to make things in
CREATE SCHEMA lab;
GRANT USAGE, CREATE ON SCHEMA lab TO PUBLIC;
CREATE FUNCTION lab.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE lab.own (id bigint);
GRANT ALL ON lab.own TO PUBLIC;
"""


@dataclass
class House:
    """A database in which the operator has prepared, indexed and compared, and the command has granted the rest."""

    server: EmbeddedServer
    api: LoopbackServer
    folder: Path

    def dsn(self, role: str = "postgres") -> str:
        return self.server.dsn("app", role)

    def settings(self, role: Role, **flags: object) -> Settings:
        return settings_for(self.dsn(role), self.api, self.folder, {"content": ("content",), **flags})

    def engine(self, role: Role, **flags: object) -> Engine:
        return Engine(self.dsn(role), settings=self.settings(role, **flags))


@pytest.fixture(scope="module", params=[16, 18])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="embedtui-test-"))
    with (
        EmbeddedServer(folder / "pg", version=request.param, settings=FAST) as server,
        LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}) as api,
    ):
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE app")
        made = House(server, api, folder)
        with psycopg.connect(made.dsn(), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
            make_documents(made.dsn(), 200)
            conn.execute(SETUP)
        grants(settings_for(made.dsn(), api, folder), {Role.OPERATOR: "operator"}, apply=True)
        with closing(made.engine(Role.OPERATOR)) as operator:
            operator.prepare()
            roles = {role: role.value for role in (Role.WORKER, Role.APPLICATION, Role.WATCHER)}
            grants(made.settings(Role.OPERATOR), roles, apply=True)
            # the index is the operator's
            by_jobs = made.engine(Role.WORKER, **{"new_model.batch": True})
            with closing(by_jobs) as worker, pytest.raises(DatabaseError, match="owner"):
                worker.run(threading.Event())
            assert operator.snapshot().phase is Phase.INDEX
            assert operator.snapshot().batch.rows == api.batches.inputs == 200
            operator.run(threading.Event())
            operator.compare()
        yield made
    shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda each: f"{each.role}-{each.kind}-{each.what}".replace(" ", "_"))
def test_refused(house: House, attempt: Attempt) -> None:
    with psycopg.connect(house.dsn(attempt.role)) as conn:
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(attempt.sql)  # type: ignore[call-overload]
        assert caught.value.sqlstate == attempt.state, caught.value
        conn.rollback()


def test_the_documented_table_is_the_one_that_is_run() -> None:
    assert table.PAGE.read_text() == table.updated(table.PAGE.read_text()), "run: python -m tests.security.table"
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert [name for _, _, name in ACTIONS if f"def {name}(" not in tests] == []
    assert len({(each.role, each.what) for each in ATTEMPTS}) == len(ATTEMPTS)


def test_every_table_of_the_schema_is_attempted(house: House) -> None:
    from tests.security.attempts import STATE_TABLES

    with psycopg.connect(house.dsn()) as conn:
        found = conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'embedtui'::regnamespace AND relkind = 'r'"
        ).fetchall()
    assert {name for (name,) in found} == set(STATE_TABLES)


# ------------------------------------------------------------------------------------------------------ what each can


def test_a_worker_backfills_syncs_compares_and_verifies(house: House) -> None:
    with psycopg.connect(house.dsn("application"), autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = 'edited by the application' WHERE id = 5")
        conn.execute("INSERT INTO documents (id, content) VALUES (1000, 'new')")
        conn.execute("DELETE FROM documents WHERE id = 6")
    with closing(house.engine(Role.WORKER)) as worker:
        snapshot = worker.run(threading.Event())
        assert (snapshot.phase, snapshot.sync.queued, snapshot.faulty) == (Phase.VALIDATE, 0, 0)
        report = worker.verify(sample=20, repair=True)
        assert report.clean and report.sampled == 20
        assert worker.compare().queries
        worker.pause("by the worker")
        worker.resume()
        assert worker.faults() == () and worker.audit()[0].role == "worker"


def test_an_application_routes_searches_writes_and_reports(house: House) -> None:
    query = hash_model(16)(["document number 7"], None)[0]
    with Router(house.dsn("application"), poll_seconds=0.1) as router:
        with psycopg.connect(house.dsn("application"), autocommit=True) as conn:
            route = router.route("documents")
            assert route.side is Side.OLD
            assert route.search(conn, hash_model(8)(["document number 7"], None)[0], 1)[0].key == ("7",)
            assert router.write(conn, "documents", 7, query, model=NEW, content="document number 7")
            call = "SELECT key FROM embedtui.search('documents', %s, %s, 1)"
            assert conn.execute(call, [NEW, vector_literal(query)]).fetchone() == ("7",)
            assert conn.execute("SELECT side FROM embedtui.route('documents')").fetchone() == ("old",)
        assert "Not reporting" not in str(router.status)


def test_a_watcher_sees_the_screen_and_the_log(house: House) -> None:
    with closing(house.engine(Role.WATCHER)) as watcher:
        snapshot = watcher.snapshot()
        assert snapshot.phase is Phase.VALIDATE and snapshot.evaluation is not None and snapshot.backfill.rows > 0
        assert watcher.audit()
        for act in (watcher.pause, watcher.rollback, lambda: watcher.cutover(override={"gate": "a test"})):
            with pytest.raises(EmbedtuiError) as caught:
                act()
            assert caught.value.exit_code == ExitCode.DATABASE, caught.value


def test_an_operator_cuts_over_and_back(house: House) -> None:
    with closing(house.engine(Role.OPERATOR)) as operator, closing(house.engine(Role.WATCHER)) as watcher:
        assert operator.cutover(override={"gate": "a test"}).active is Side.NEW
        # who sees neither keys nor rows is told what is noted, and that the rest is not known: never that it is fresh
        with psycopg.connect(house.dsn("operator")) as conn:
            noted = "SELECT (SELECT count(*) FROM embedtui.stale) + (SELECT count(*) FROM embedtui.queue)"
            behind = conn.execute(noted).fetchall()[0][0]
        found = watcher.snapshot().rollback
        assert (found.fresh, found.stale + found.missing) == (False if behind else None, behind)
        assert operator.rollback().active is Side.OLD
        assert operator.audit()[0].role == "operator"


# -------------------------------------------------------------------------------------------- what the program refuses


def test_a_workers_verdict_opens_no_gate(house: House) -> None:
    with closing(house.engine(Role.OPERATOR)) as operator:
        before = operator.snapshot().evaluation
        assert before is not None and before.verdict != "PASS"
        with psycopg.connect(house.dsn("worker"), autocommit=True) as conn:
            planted = conn.execute(
                "INSERT INTO embedtui.evaluation (migration, who, k, queries, measures, checks, verdict, state)"
                " SELECT migration, who, k, queries, measures, checks, 'PASS', state FROM embedtui.evaluation"
                " ORDER BY id DESC LIMIT 1 RETURNING id, role"
            ).fetchone()
        assert planted is not None and planted[1] == "worker"
        assert operator.snapshot().evaluation == before
        last = operator.last_comparison()
        assert last is not None and last.evaluation_id == before.id
        assert "gate" in {blocker.name for blocker in operator.blockers("cutover")}
        assert operator.compare().verdict != "PASS", "nor is it taken for an answer that is known already"


def test_a_planted_shard_is_closed_unread(house: House) -> None:
    """A table of the worker's own, with a trigger that would run as whoever writes its vectors."""
    with psycopg.connect(house.dsn("worker"), autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE lab.bait (id bigint, content text, embedding vector(8), embedding_v2 vector(16),"
            " embedding_v2_model integer, embedding_v2_source bigint);"
            " INSERT INTO lab.bait (id, content) VALUES (1, 'x');"
            " CREATE TABLE lab.ran (as_role name); GRANT ALL ON lab.bait, lab.ran TO PUBLIC;"
            " CREATE FUNCTION lab.payload() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN INSERT INTO lab.ran VALUES (current_user); RETURN NEW; END';"
            " CREATE TRIGGER payload BEFORE UPDATE ON lab.bait FOR EACH ROW EXECUTE FUNCTION lab.payload()"
        )
        for bait in ("lab.bait", "payroll"):
            conn.execute(
                "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block)"
                " SELECT 1, oid, pg_relation_filenode(oid), 0, 0 FROM pg_class WHERE oid = %s::regclass",
                [bait],
            )
    with psycopg.connect(house.dsn(), autocommit=True) as conn:
        conn.execute("UPDATE embedtui.migration SET phase = 'backfill'")
    with closing(house.engine(Role.OPERATOR)) as operator:
        operator.run(threading.Event())
    with psycopg.connect(house.dsn(), autocommit=True) as conn:
        assert conn.execute("SELECT * FROM lab.ran").fetchall() == []
        assert conn.execute("SELECT embedding_v2 FROM lab.bait").fetchall() == [(None,)]
        open_shards = conn.execute("SELECT count(*) FROM embedtui.shard WHERE state <> 'done'").fetchone()
        assert open_shards == (0,)


@pytest.mark.parametrize("batch", [False, True])
def test_a_shard_that_nobody_works_on_holds_no_run(house: House, batch: bool) -> None:
    """Said to be in a job that is over or never was; leased to nobody, to a worker that is gone, to whoever asks."""
    plants = (
        "state = 'batch'",
        "state = 'batch', job = 4711, lease_until = '2900-01-01'",
        "state = 'batch', job = (SELECT max(id) FROM embedtui.batch_job)",
        "state = 'leased'",
        "state = 'leased', worker = 1, lease_until = '2900-01-01'",
        "state = 'leased', worker = (SELECT max(id) + 1 FROM embedtui.worker), lease_until = '2900-01-01'",
    )
    with psycopg.connect(house.dsn("worker"), autocommit=True) as conn:
        for plant in plants:
            conn.execute(
                "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block)"
                " SELECT migration, leaf, filenode, 0, 0 FROM embedtui.shard WHERE leaf = 'documents'::regclass LIMIT 1"
            )
            conn.execute(
                f"UPDATE embedtui.shard SET {plant} WHERE id = (SELECT max(id) FROM embedtui.shard)"  # type: ignore[arg-type]
            )
        assert conn.execute("SELECT count(*) FROM embedtui.shard WHERE state <> 'done'").fetchone() == (len(plants),)
    with psycopg.connect(house.dsn(), autocommit=True) as conn:
        conn.execute("UPDATE embedtui.migration SET phase = 'backfill'")
    stop = threading.Event()
    too_late = threading.Timer(60, stop.set)
    too_late.start()
    with closing(house.engine(Role.OPERATOR, **{"new_model.batch": batch})) as operator:
        assert operator.run(stop).phase is Phase.VALIDATE
    too_late.cancel()


def test_garbage_of_a_worker_ends_no_screen(house: House) -> None:
    garbage = ["1", "null", '"x"', "[1]", "[[1, 2]]", '[["a", "b", "c"]]', '[["a", "b", 1e300]]', '{"a": 1}', "[{}]"]
    garbage += ['[{"name": "n", "detail": "d", "since": "never"}]', '[{"name": null, "detail": 3, "since": 5}]']
    with psycopg.connect(house.dsn("worker"), autocommit=True) as conn:
        row = conn.execute(
            "INSERT INTO embedtui.worker (migration, host, pid) VALUES (1, E'evil\\x1b[2J', 1) RETURNING id"
        ).fetchone()
        assert row is not None
        conn.execute("SELECT pg_advisory_lock(%s, %s)", [WORKER_CLASS, row[0]])
        with closing(house.engine(Role.OPERATOR)) as operator:
            for text in garbage:
                conn.execute("UPDATE embedtui.worker SET threads = %s, holds = %s WHERE id = %s", [text, text, row[0]])
                assert any(worker.id == row[0] for worker in operator.snapshot().workers)
        conn.execute("UPDATE embedtui.worker SET stopped_at = now() WHERE id = %s", row)


def test_a_postponed_cutover_waits_for_an_operators_worker(house: House) -> None:
    with closing(house.engine(Role.OPERATOR)) as operator:
        operator.postpone(override={"gate": "a test"})
        migration = operator.require()
        assert flip_if_due(house.dsn("worker"), migration, None) is None
        assert operator.snapshot().route.active is Side.OLD
        flip = flip_if_due(house.dsn("operator"), migration, None)
        assert flip is not None and flip.active is Side.NEW
        operator.rollback()


# ------------------------------------------------------------------------------------------------ the command's edges


def test_a_role_that_no_grant_limits_is_refused(house: House) -> None:
    settings = house.settings(Role.OPERATOR)
    for name, said in (("postgres", "superuser"), ("operator", "owner"), ("nobody", "no role")):
        with pytest.raises(Refused, match=said):
            grants(settings, {Role.WORKER: name})
    with pytest.raises(Refused, match="named twice"):
        grants(settings, {Role.WORKER: "worker", Role.WATCHER: "worker"})
    with pytest.raises(Refused, match="No role"):
        grants(settings, {})
    with pytest.raises(DatabaseError):
        grants(house.settings(Role.WORKER), {Role.WATCHER: "watcher"}, apply=True)


def test_a_second_run_of_the_command_changes_nothing_and_takes_old_rights_away(house: House) -> None:
    def rights() -> set[tuple[object, ...]]:
        with psycopg.connect(house.dsn()) as conn:
            found = conn.execute(
                "SELECT r.relname, r.attname, acl.grantee::regrole, acl.privilege_type FROM"
                " (SELECT relname::text, NULL AS attname, relacl FROM pg_class"
                "  WHERE relnamespace = 'embedtui'::regnamespace"
                "  UNION ALL SELECT relname, attname, attacl FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
                "  WHERE relnamespace = 'embedtui'::regnamespace) r, aclexplode(r.relacl) acl"
            ).fetchall()
        return set(found)

    before = rights()
    with psycopg.connect(house.dsn(), autocommit=True) as conn:  # as documented up to now
        conn.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA embedtui TO worker")
        conn.execute("GRANT UPDATE ON documents TO worker")
    assert rights() != before
    made = grants(house.settings(Role.OPERATOR), {Role.WORKER: "worker"}, apply=True)
    assert any("REVOKE UPDATE ON documents FROM worker" in notice for notice in made.notices)
    with psycopg.connect(house.dsn(), autocommit=True) as conn:
        conn.execute("REVOKE UPDATE ON documents FROM worker")
        grants(house.settings(Role.OPERATOR), {Role.WORKER: "worker"}, apply=True)
    assert rights() == before


def test_connections_of_the_kit_are_those_roles(house: House) -> None:
    for role in Role:
        with connect(house.dsn(role), name="test") as conn:
            assert conn.execute(
                "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user"
            ).fetchone() == (
                role.value,
                False,
            )
