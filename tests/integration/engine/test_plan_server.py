"""What the plan promises of the server, tried: shared memory of the build, rights in the schema, routines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.engine import Engine
from embedtui.engine.plan.plan import make_plan
from embedtui.errors import DatabaseError, EmbedtuiError
from embedtui.model import Check, Phase
from embedtui.postgres.catalog.server import _mounted_size, forbidden_routines
from embedtui.postgres.connect import Connection
from tests.kits.support import connect, make_documents, settings_for

MakePlan = Callable[..., dict[str, Check]]


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    make_documents(database, 30)
    with connect(database, name="test") as conn:
        yield conn


@pytest.fixture
def plan(conn: Connection, database: str, api: LoopbackServer, tmp_path: Path) -> MakePlan:
    def checks(dsn: str = database, **flags: object) -> dict[str, Check]:
        with connect(dsn, name="plan", read_only=True) as reading:
            made = make_plan(reading, settings_for(dsn, api, tmp_path, {"placement": "column", **flags}))
        return {check.name: check for check in made.checks}

    return checks


@pytest.fixture
def role(conn: Connection, database: str) -> Iterator[str]:
    """DSN of the table's owner, who has no more than that."""
    name = f"owner_{conn.info.dbname}"
    conn.execute(
        f"CREATE ROLE {name} LOGIN; ALTER TABLE documents OWNER TO {name};"
        f" GRANT CREATE, TEMPORARY ON DATABASE {conn.info.dbname} TO {name}"
    )
    yield psycopg.conninfo.make_conninfo(database, user=name)
    conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [name])
    conn.execute(f"REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}")


def run(dsn: str, api: LoopbackServer, folder: Path, **flags: object) -> EmbedtuiError | None:
    with closing(Engine(dsn, settings=settings_for(dsn, api, folder, {"placement": "column", **flags}))) as engine:
        try:
            assert engine.run(threading.Event()).phase is Phase.VALIDATE
        except EmbedtuiError as error:
            return error
    return None


# --------------------------------------------------------------------------------------------------- rights, routines


def test_an_owner_who_may_not_create_in_the_schema_is_told_before(
    conn: Connection, plan: MakePlan, role: str, api: LoopbackServer, tmp_path: Path
) -> None:
    """The index is made there; on PostgreSQL 15 and later nobody may create in public by default."""
    conn.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    check = plan(role)["rights"]
    assert check.result == "fail" and "create in schema public" in check.detail
    assert plan(role, **{"index.method": "none"})["rights"].result == "pass"
    error = run(role, api, tmp_path)
    assert isinstance(error, DatabaseError) and "create in schema public" in error.message
    conn.execute(check.hint.encode())
    assert plan(role)["rights"].result == "pass"
    assert run(role, api, tmp_path) is None


def test_routines_that_may_not_be_executed_are_named(
    conn: Connection, plan: MakePlan, role: str, api: LoopbackServer, tmp_path: Path
) -> None:
    owner = psycopg.conninfo.conninfo_to_dict(role)["user"]
    conn.execute(f"GRANT CREATE ON SCHEMA public TO {owner}")
    before = plan(role)
    assert "routines" not in before and "measures" not in before
    conn.execute("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_current_wal_lsn() FROM PUBLIC")
    try:
        check = plan(role)["measures"]
        assert check.result == "unknown" and "max_replica_lag_seconds" in check.detail
        assert "pg_current_wal_lsn()" in check.detail and "pg_blocking_pids" not in check.detail
        assert "measures" not in plan(role, **{"throttle.max_replica_lag_seconds": False})
        assert run(role, api, tmp_path) is None, "a measure is no condition"
        conn.execute("REVOKE EXECUTE ON FUNCTION pg_catalog.hash_record_extended(record, bigint) FROM PUBLIC")
        check = plan(role)["routines"]
        assert check.result == "fail" and "hash_record_extended" in check.detail
        conn.execute(check.hint.encode())
        assert "routines" not in plan(role)
    finally:
        for routine in ("pg_current_wal_lsn()", "hash_record_extended(record, bigint)"):
            conn.execute(f"GRANT EXECUTE ON FUNCTION pg_catalog.{routine} TO PUBLIC".encode())
    assert forbidden_routines(conn, ["now()", "no_such(int)"]) == ["no_such(int)"]


@pytest.mark.parametrize(
    ("routine", "returns", "setting"),
    [
        ("pg_current_wal_lsn()", "pg_lsn", "max_replica_lag_seconds"),
        ("pg_blocking_pids(integer)", "integer[]", "max_lock_waits"),
    ],
)
def test_a_measure_that_a_managed_server_refuses_by_a_word_of_its_own_is_named(
    conn: Connection,
    plan: MakePlan,
    role: str,
    api: LoopbackServer,
    tmp_path: Path,
    routine: str,
    returns: str,
    setting: str,
) -> None:
    owner = psycopg.conninfo.conninfo_to_dict(role)["user"]
    conn.execute(f"GRANT CREATE ON SCHEMA public TO {owner}")
    name = routine.partition("(")[0]
    conn.execute("SET allow_system_table_mods = on")
    conn.execute(f"ALTER FUNCTION pg_catalog.{routine} RENAME TO kept_apart".encode())
    try:
        conn.execute(
            f"CREATE FUNCTION pg_catalog.{routine} RETURNS {returns} LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'not on this server' USING ERRCODE = '55000'; END $$".encode()
        )
        check = plan(role)["measures"]
        assert check.result == "unknown" and setting in check.detail
        assert f"{name}(" in check.detail and "not on this server" in check.detail
        assert run(role, api, tmp_path) is None, "a measure is no condition"
    finally:
        conn.execute(f"DROP FUNCTION IF EXISTS pg_catalog.{routine}".encode())
        conn.execute(f"ALTER FUNCTION pg_catalog.kept_apart{routine.removeprefix(name)} RENAME TO {name}".encode())


# -------------------------------------------------------------------------------------------------------------- memory


def test_ivfflats_want_of_memory_is_told_with_its_mend(
    conn: Connection, database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    flags: dict[str, Any] = {"index.method": "ivfflat", "index.lists": 2000, "index.maintenance_work_mem": "2MB"}
    error = run(database, api, tmp_path, **flags)
    assert error is not None and "memory required" in error.message and "index.maintenance_work_mem" in error.hint
    assert run(database, api, tmp_path, **{**flags, "index.maintenance_work_mem": "64MB"}) is None


def test_shared_memory_is_set_against_what_a_parallel_build_takes(conn: Connection, plan: MakePlan, role: str) -> None:
    if conn.execute("SHOW dynamic_shared_memory_type").fetchone() != ("posix",):
        assert "shared memory" not in plan()
        return
    parallel = {"index.parallel_workers": 2}
    assert plan(**parallel, **{"index.maintenance_work_mem": "64MB"})["shared memory"].result == "pass"
    check = plan(**parallel, **{"index.maintenance_work_mem": "2000GB"})["shared memory"]
    assert check.result == "warn" and "without parallel workers" in check.detail and "--shm-size" in check.hint
    assert plan(role, **parallel)["shared memory"].result == "unknown", "who may not read the server's files"
    for none in ({"index.parallel_workers": 0}, {"index.method": "ivfflat"}, {"index.method": "none"}):
        assert "shared memory" not in plan(**none)


@pytest.mark.parametrize(
    ("mounts", "size"),
    [
        ("shm /dev/shm tmpfs rw,nosuid,size=65536k,inode64 0 0\n", 64 << 20),
        ("tmpfs /dev/shm tmpfs rw,size=10k 0 0\nshm /dev/shm tmpfs rw,size=20k 0 0", 20 << 10),
        ("tmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0\n", None),
        ("tmpfs /dev/shmem tmpfs rw,size=1k 0 0\n\nodd", None),
    ],
)
def test_the_size_of_a_mount(mounts: str, size: int | None) -> None:
    assert _mounted_size(mounts, "/dev/shm") == size
