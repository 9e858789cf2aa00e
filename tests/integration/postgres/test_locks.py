"""Advisory locks: no key twice, one builder at a time, and who counts as alive."""

from __future__ import annotations

from psycopg import sql

from embedtui.demo.database import EmbeddedServer
from embedtui.postgres import locks
from embedtui.postgres.connect import Connection
from tests.kits.support import connect


def alive(conn: Connection, worker: int) -> bool:
    row = conn.execute(sql.SQL(f"SELECT {locks.ALIVE.format(worker)}")).fetchone()
    assert row is not None
    return bool(row[0])


def test_no_key_stands_for_two_things() -> None:
    databases = {locks.INSTALL, locks.FUNCTIONS}
    classes = [value for name, value in vars(locks).items() if name.endswith("_CLASS")]
    assert len(databases) == 2
    assert len(classes) == len(set(classes)) > 1


def test_a_worker_is_alive_as_long_as_its_session_holds_the_lock(database: str) -> None:
    with connect(database, name="look") as look:
        with connect(database, name="worker") as worker:
            worker.execute("SELECT pg_advisory_lock(%s, %s)", [locks.WORKER_CLASS, 7])
            assert alive(look, 7)
            assert not alive(look, 8)
            worker.execute("SELECT pg_advisory_lock(%s, %s)", [locks.SYNC_CLASS, 8])
            assert not alive(look, 8), "another class says nothing of a worker"
        # a session that ends waits for nobody, and its backend lets go in its own time
        look.execute("SELECT pg_advisory_lock(%s, %s)", [locks.WORKER_CLASS, 7])
        look.execute("SELECT pg_advisory_unlock(%s, %s)", [locks.WORKER_CLASS, 7])
        assert not alive(look, 7)


def test_a_worker_of_another_database_is_not_ours(server: EmbeddedServer, database: str) -> None:
    with connect(server.dsn(), name="worker") as worker, connect(database, name="look") as look:
        worker.execute("SELECT pg_advisory_lock(%s, %s)", [locks.WORKER_CLASS, 9])
        assert alive(worker, 9)
        assert not alive(look, 9)


def test_one_session_builds_an_index_and_passes_it_on(database: str) -> None:
    with connect(database, name="one") as one, connect(database, name="two") as two:
        assert locks.try_index_build(one, 1)
        assert not locks.try_index_build(two, 1)
        assert locks.try_index_build(two, 2), "another migration's"
        locks.release_index_build(one, 1)
        assert locks.try_index_build(two, 1)
