"""The application's triggers are its own statements' alone: embedtui's writes of vectors fire them where they must."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from embedtui.demo.api import LoopbackServer
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.engine import Engine
from embedtui.engine.grants import grants
from embedtui.engine.plan.plan import make_plan
from embedtui.model import Check, Phase, Side
from embedtui.postgres.state.privileges import Role
from tests.acceptance.test_application_writes import EDIT, MODELS, NAMES, PLACEMENTS, Table, table
from tests.kits.support import connect, make_documents, settings_for

NOTED = """
CREATE TABLE event (by text DEFAULT current_setting('application_name'), what text);
GRANT INSERT ON event TO PUBLIC;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SET search_path = public
    AS $$ BEGIN INSERT INTO event (what) VALUES (TG_NAME); RETURN NEW; END $$;
"""
TRIGGERS = """
CREATE TRIGGER touched BEFORE UPDATE ON documents FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER outbox AFTER UPDATE ON documents FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*)
    EXECUTE FUNCTION note();
CREATE TRIGGER counted AFTER UPDATE ON documents REFERENCING NEW TABLE AS found
    FOR EACH STATEMENT EXECUTE FUNCTION note();
CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON documents DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION note();
"""
TOUCHED = "CREATE TRIGGER touched AFTER UPDATE ON documents FOR EACH ROW EXECUTE FUNCTION note();"


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS) as server:
        yield server


def fired(dsn: str) -> set[str]:
    """The triggers that sessions of embedtui's fired."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return {what for (what,) in conn.execute("SELECT DISTINCT what FROM event WHERE by LIKE 'embedtui%'")}


def written(found: Table, dsn: str) -> None:
    """Every kind of write into the table: sync of both sides, adopted and repaired vectors, either side active."""
    found.app.execute(NOTED + TRIGGERS)
    found.cut_over()
    found.execute(EDIT, "edited", 1)
    found.execute("INSERT INTO documents (id, content) VALUES (60, 'without vectors')")
    if found.in_column:
        found.execute("UPDATE documents SET embedding_v2 = %s WHERE id = 2", found.own(Side.NEW))
    found.drain()
    found.engine.verify(sample=9, repair=True)
    found.drain()
    assert all(found.is_models(key, side) for key in (1, 2, 60) for side in Side)
    found.engine.rollback()
    found.execute(EDIT, "edited again", 3)
    found.drain()
    assert all(found.is_models(3, side) for side in Side)


@pytest.mark.parametrize("flags", PLACEMENTS, ids=NAMES)
def test_sync_fires_none_of_them(database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object]) -> None:
    with table(database, api, tmp_path, **flags) as found:
        written(found, database)
        assert fired(database) == set()
        assert found.app.execute("SELECT count(*) FROM event").fetchone() != (0,), "the application's do fire"
        # foreign keys and the rest are checked as ever: the role is another one for these statements alone
        count = "SELECT count(*) FROM documents_embedding_v2"
        if not found.in_column and "foreign_key" not in flags:
            found.execute("DELETE FROM documents WHERE id = 60")
            assert found.app.execute(count).fetchone() == (4,)


def test_a_setting_has_them_fired(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    with table(database, api, tmp_path, placement="table", fire_triggers=True) as found:
        written(found, database)
    assert fired(database) == {"touched", "outbox", "counted", "late"}


def planned(dsn: str, api: LoopbackServer, folder: Path, **flags: object) -> list[Check]:
    settings = settings_for(dsn, api, folder, {"index.method": "none", **flags})
    with connect(dsn, read_only=True) as conn:
        return [check for check in make_plan(conn, settings).checks if check.name == "triggers"]


COPY = """
CREATE FUNCTION copy_it() RETURNS trigger LANGUAGE plpgsql SET search_path = public
    AS $$ BEGIN INSERT INTO event (what) VALUES (TG_NAME || NEW."embedding"::text); RETURN NULL; END $$;
"""


@pytest.mark.parametrize(
    ("made", "result", "said", "theirs"),
    [
        (TOUCHED, "pass", "as postgres, do not fire touched", set()),
        (
            TOUCHED + COPY + "CREATE TRIGGER kept AFTER UPDATE ON documents FOR EACH ROW EXECUTE FUNCTION copy_it();",
            "warn", "since kept may be about the vector", {"touched", "kept"},
        ),
        (
            TOUCHED + "CREATE TRIGGER kept AFTER UPDATE OF embedding ON documents"
            " FOR EACH STATEMENT EXECUTE FUNCTION note();",
            "warn", "since kept may be about the vector", {"touched", "kept"},
        ),
        (
            TOUCHED + "CREATE TRIGGER there BEFORE UPDATE ON documents FOR EACH ROW EXECUTE FUNCTION note();"
            "ALTER TABLE documents ENABLE REPLICA TRIGGER there",
            "warn", "there fire (ENABLE REPLICA)", {"touched"},
        ),
        (
            TOUCHED + "ALTER TABLE documents ENABLE ALWAYS TRIGGER touched",
            "warn", "fires touched (ENABLE ALWAYS)", {"touched"},
        ),
        (
            TOUCHED + "CREATE TRIGGER there BEFORE UPDATE ON documents FOR EACH ROW EXECUTE FUNCTION note();"
            "ALTER TABLE documents ENABLE ALWAYS TRIGGER there",
            "warn", "what there does (ENABLE ALWAYS) would meet no foreign keys", {"touched", "there"},
        ),
        (
            TOUCHED + "CREATE RULE there AS ON UPDATE TO documents DO ALSO INSERT INTO event (what) VALUES ('rule');"
            "ALTER TABLE documents ENABLE REPLICA RULE there",
            "warn", "there fire (ENABLE REPLICA)", {"touched"},
        ),
        (TOUCHED.replace("UPDATE ON", "UPDATE OF content ON"), None, "", set()),
    ],
    ids=["usual", "function names it", "columns name it",
        "replica", "always", "always beside", "replica rule", "another column"],
)  # fmt: skip
def test_what_is_fired_is_what_the_plan_says(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    made: str,
    result: str | None,
    said: str,
    theirs: set[str],
) -> None:
    make_documents(database, 4)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute((NOTED + made).encode())
        checks = planned(database, api, tmp_path, placement="column")
        assert [check.result for check in checks] == ([result] if result else [])
        assert not checks or said in checks[0].detail
        settings = settings_for(database, api, tmp_path, {"index.method": "none", "placement": "column"})
        with closing(Engine(database, settings=settings)) as engine:
            engine.run(threading.Event())
            engine.cutover(override={"gate": "test"})
            conn.execute("UPDATE documents SET content = 'edited' WHERE id = 1")
            engine.run(threading.Event())
    assert {what.split("[")[0] for what in fired(database)} == theirs


@pytest.fixture
def worker(server: EmbeddedServer, database: str) -> Iterator[str]:
    """DSN of a role of its own."""
    with psycopg.connect(database, autocommit=True) as conn:
        name = f"worker_{conn.info.dbname}"
        conn.execute(f"CREATE ROLE {name} LOGIN")
        yield server.dsn(conn.info.dbname, name)
        conn.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


def test_a_role_that_may_not_pass_them_is_told_how(
    database: str, api: LoopbackServer, tmp_path: Path, worker: str
) -> None:
    """And with that grant it still moves no migration past the phase that is a worker's."""
    flags = {"index.method": "none", "placement": "table"}
    name = str(conninfo_to_dict(worker)["user"])
    with table(database, api, tmp_path, **flags) as found:
        found.app.execute(NOTED + TOUCHED)
        found.cut_over()
        grant = f'GRANT SET ON PARAMETER session_replication_role TO "{name}"'
        settings = settings_for(database, api, tmp_path, flags)
        given = grants(settings, {Role.WORKER: name}, apply=True)
        assert grant not in given.statements and any(f"{grant};" in notice for notice in given.notices)
        found.app.execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {name}".encode())
        with closing(Engine(worker, settings=settings_for(worker, api, tmp_path, flags))) as engine:
            found.execute(EDIT, "edited", 1)
            engine.run(threading.Event())
            assert fired(database) == {"touched"} and found.is_models(1, Side.OLD)
            found.execute("TRUNCATE event")
            found.app.execute(grant.encode())
            assert not any(grant in notice for notice in grants(settings, {Role.WORKER: name}).notices)
            found.execute(EDIT, "edited again", 1)
            engine.run(threading.Event())
        assert fired(database) == set() and found.is_models(1, Side.OLD)
        with psycopg.connect(worker, autocommit=True) as conn:
            conn.execute("SET session_replication_role = replica")
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not move"):
                conn.execute("UPDATE embedtui.migration SET phase = 'done'")
        migration = found.engine.migration()
        assert migration is not None and migration.phase is Phase.SOAK


def test_plan_names_the_grant_that_its_role_lacks(
    server: EmbeddedServer, database: str, api: LoopbackServer, tmp_path: Path, worker: str
) -> None:
    name = str(conninfo_to_dict(worker)["user"])
    make_documents(database, 4)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute((NOTED + TOUCHED).encode())
        conn.execute(f"ALTER TABLE documents OWNER TO {name}; GRANT CREATE ON SCHEMA public TO {name}".encode())
        [check] = planned(worker, api, tmp_path)
        assert check.result == "warn" and "an update that fires touched" in check.detail
        assert f"GRANT SET ON PARAMETER session_replication_role TO {name};" in check.hint
        assert "old_model.retired = true" in check.hint
        assert f"role {name} may not pass" in check.detail
        conn.execute(f"ALTER TABLE documents OWNER TO CURRENT_USER; DROP OWNED BY {name}".encode())


@pytest.mark.parametrize("given", ["NULL", "OLD"])
def test_a_write_that_a_trigger_takes_back_is_the_rows_fault_and_paid_for_once(
    database: str, tmp_path: Path, given: str
) -> None:
    """Of either side: a frozen row keeps what it has, others go on, and the run ends."""
    with LoopbackServer(MODELS, log_texts=99) as api, table(database, api, tmp_path, placement="column") as found:
        found.cut_over()
        found.execute("UPDATE documents SET content = content || ' edited' WHERE id IN (1, 2)")
        found.execute(
            "CREATE FUNCTION frozen() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN IF OLD.id = 1 THEN RETURN {given}; END IF; RETURN NEW; END $$;"
            " CREATE TRIGGER frozen BEFORE UPDATE ON documents FOR EACH ROW EXECUTE FUNCTION frozen();"
            " ALTER TABLE documents ENABLE ALWAYS TRIGGER frozen"
        )
        asked = len(api.texts)
        found.drain()
        assert len(api.texts) - asked == 4  # two rows, two sides
        faults = found.app.execute("SELECT key, side, reason FROM embedtui.fault ORDER BY side").fetchall()
        assert [(key, side) for key, side, _ in faults] == [(["1"], "new"), (["1"], "old")]
        assert all("a trigger of the table (BEFORE UPDATE) takes the write" in reason for *_, reason in faults)
        assert found.noted() == {1}, "a rollback would find it stale"
        assert all(found.is_models(2, side) for side in Side)
