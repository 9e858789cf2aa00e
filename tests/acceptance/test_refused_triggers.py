"""Servers and roles that get no trigger: said before anything is made, and served by scans, without an abort."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.engine import Engine
from embedtui.engine.grants import grants
from embedtui.errors import DatabaseError, EmbedtuiError, Refused
from embedtui.model import Phase
from embedtui.postgres.state.privileges import Role
from tests.kits.cli_kit import traces
from tests.kits.support import make_documents, settings_for

NO_TRIGGERS = """
CREATE FUNCTION refuse_triggers() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'triggers are not supported here' USING ERRCODE = '0A000'; END $$;
CREATE EVENT TRIGGER refuse_triggers ON ddl_command_start WHEN TAG IN ('CREATE TRIGGER')
    EXECUTE FUNCTION refuse_triggers()
"""


def sql(dsn: str, text: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(text)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def run(dsn: str, api: LoopbackServer, folder: Path, **flags: object) -> Phase:
    with closing(Engine(dsn, settings=settings_for(dsn, api, folder, flags))) as engine:
        return engine.run(threading.Event()).phase


@pytest.mark.parametrize("placement", ["column", "table"])
def test_the_scan_is_taken_up_where_a_first_run_was_refused_its_triggers(
    database: str, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    make_documents(database, 20)
    sql(database, NO_TRIGGERS)
    with pytest.raises(Refused, match="CREATE TRIGGER") as caught:
        run(database, api, tmp_path, placement=placement)
    assert 'change_capture = "scan"' in caught.value.hint and traces(database) == []
    accepted = ["proof", "event triggers"]
    with pytest.raises(EmbedtuiError, match="not supported here"):
        run(database, api, tmp_path, placement=placement, accept=accepted)
    assert run(database, api, tmp_path, placement=placement, change_capture="scan") is Phase.VALIDATE
    sql(database, "UPDATE documents SET content = 'edited' WHERE id = 3; DELETE FROM documents WHERE id = 4")
    # stored: a machine that does not say so goes by it
    run(database, api, tmp_path, placement=placement)
    assert "edited" in api.texts
    with closing(Engine(database, settings=settings_for(database, api, tmp_path))) as engine:
        assert engine.verify().clean
        engine.abort("documents")
    assert traces(database) == ["schema embedtui"]


@pytest.mark.parametrize("placement", ["column", "table"])
def test_capture_is_changed_while_it_runs(database: str, api: LoopbackServer, tmp_path: Path, placement: str) -> None:
    make_documents(database, 20)
    run(database, api, tmp_path, placement=placement)
    for setting, triggers in (("scan", False), ("triggers", True), ("scan", False)):
        run(database, api, tmp_path, placement=placement, change_capture=setting)
        there = sql(database, "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'embedtui%' AND NOT tgisinternal")
        assert bool(there) is triggers
        sql(database, f"UPDATE documents SET content = '{setting} it is now' || random() WHERE id = 5")
        run(database, api, tmp_path, placement=placement, change_capture=setting)
        with closing(Engine(database, settings=settings_for(database, api, tmp_path))) as engine:
            assert engine.verify().clean


@pytest.fixture
def worker(database: str) -> Iterator[str]:
    name = f"worker_{database.split('/')[3].split('?')[0]}"
    sql(database, f"CREATE ROLE {name}")
    yield name
    sql(database, f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_where_no_trigger_guards_the_phase_no_worker_may_move_it(
    database: str, api: LoopbackServer, tmp_path: Path, worker: str
) -> None:
    make_documents(database, 5)
    sql(database, NO_TRIGGERS)
    run(database, api, tmp_path, change_capture="scan")
    grants(settings_for(database, api, tmp_path), {Role.WORKER: worker}, apply=True)
    for column, may in (("phase", False), ("phase_at", False), ("condition", True), ("desired", True)):
        asked = f"SELECT has_column_privilege('{worker}', 'embedtui.migration', '{column}', 'UPDATE')"
        assert sql(database, asked) == [(may,)]


def test_a_role_that_does_not_own_the_table_is_told_before_anything_is_made(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    """ENABLE ALWAYS takes the owner; TRIGGER and REFERENCES on the table are not enough."""
    base = database.split("/")[3].split("?")[0]
    make_documents(database, 10)
    owner, other = f"owner_{base}", f"other_{base}"
    sql(
        database,
        f"CREATE ROLE {owner}; CREATE ROLE {other} LOGIN; ALTER TABLE documents OWNER TO {owner};"
        f" GRANT SELECT, UPDATE, TRIGGER, REFERENCES ON documents TO {other};"
        f" GRANT CREATE ON SCHEMA public TO {other}; GRANT CREATE ON DATABASE {base} TO {other}",
    )
    try:
        dsn = psycopg.conninfo.make_conninfo(database, user=other)
        with pytest.raises(DatabaseError, match="always fire") as caught:
            run(dsn, api, tmp_path)
        assert f"GRANT {owner} TO {other}" in caught.value.hint and 'change_capture = "scan"' in caught.value.hint
        assert traces(database) == []
        assert run(dsn, api, tmp_path, change_capture="scan") is Phase.VALIDATE
    finally:
        sql(database, f"DROP OWNED BY {owner}, {other} CASCADE; DROP ROLE {owner}; DROP ROLE {other}")


PARTITIONED = """
CREATE TABLE documents (id bigint PRIMARY KEY, content text, embedding vector(8)) PARTITION BY RANGE (id);
CREATE TABLE early PARTITION OF documents FOR VALUES FROM (0) TO (10);
CREATE TABLE late PARTITION OF documents DEFAULT;
INSERT INTO documents (id, content) SELECT i, 'document number ' || i FROM generate_series(1, 30) i;
"""


def test_partitions_come_and_go_beside_a_side_table(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """A foreign key would keep them: on a partitioned table triggers follow instead, unless it is set."""
    sql(database, PARTITIONED)
    assert run(database, api, tmp_path, placement="table") is Phase.VALIDATE
    side = "SELECT array_agg(id ORDER BY id) FROM documents_embedding_v2"
    for text in ("TRUNCATE early", "ALTER TABLE documents DETACH PARTITION early", "DROP TABLE early"):
        sql(database, text)
    run(database, api, tmp_path, placement="table")
    assert sql(database, side) == [(list(range(10, 31)),)]
    sql(database, "DELETE FROM documents WHERE id = 10")
    run(database, api, tmp_path, placement="table")
    assert sql(database, side) == [(list(range(11, 31)),)]
