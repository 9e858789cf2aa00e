"""Change capture under DDL and damage: what the application could do before, it still can."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.postgres.state import schema
from tests.kits.downgrade import back_to
from tests.kits.support import NEW, OLD, settings_for

COLUMN: dict[str, object] = {"placement": "column"}
FOREIGN: dict[str, object] = {"placement": "table"}
TRIGGERS: dict[str, object] = {"placement": "table", "foreign_key": False}
TABLES = """
CREATE TABLE documents (id int PRIMARY KEY, title varchar(40), body text, hits int DEFAULT 0, embedding vector(8));
INSERT INTO documents (id, title, body) SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, 20) i;
"""


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}) as server:
        yield server


class App:
    """The application's own session on a table that is being migrated."""

    def __init__(self, dsn: str, migration: int) -> None:
        self.migration = migration
        self.conn = psycopg.connect(dsn, autocommit=True)

    def __call__(self, *statements: str) -> None:
        for statement in statements:
            self.conn.execute(statement)

    def captured(self) -> list[str]:
        """What the queue holds, as ``kind key``; then empty."""
        rows = self.conn.execute("WITH q AS (DELETE FROM embedtui.queue RETURNING *) SELECT kind::text, key FROM q")
        return sorted(f"{kind} {','.join(key)}" for kind, key in rows)

    def faults(self) -> list[str]:
        rows = self.conn.execute("SELECT reason FROM embedtui.capture_fault WHERE migration = %s", [self.migration])
        return [reason for (reason,) in rows]


@pytest.fixture(params=[COLUMN, FOREIGN, TRIGGERS], ids=["column", "foreign key", "triggers"])
def app(database: str, api: LoopbackServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[App]:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TABLES)
    flags = {"content": ("title", "body"), **request.param}
    engine = Engine(database, settings=settings_for(database, api, tmp_path, flags))
    migration = engine.prepare(threading.Event())
    engine.close()
    app = App(database, migration.id)
    yield app
    app.conn.close()


def test_a_renamed_key_column_fails_no_statement(app: App) -> None:
    app("UPDATE documents SET body = 'before' WHERE id = 1")
    app("ALTER TABLE documents RENAME COLUMN id TO doc_id")
    app(
        "INSERT INTO documents (doc_id, body) VALUES (100, 'new')",
        "UPDATE documents SET body = 'edited' WHERE doc_id = 1",
        "UPDATE documents SET doc_id = 200 WHERE doc_id = 2",
        "DELETE FROM documents WHERE doc_id = 3",
    )
    assert app.captured() == ["u 1"]
    assert app.faults() and all("has no field" in reason for reason in app.faults())


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE documents RENAME COLUMN body TO text",
        "ALTER TABLE documents RENAME COLUMN title TO headline",
        "ALTER TABLE documents DROP COLUMN body",
        "ALTER TABLE documents DROP COLUMN embedding",
        "ALTER TABLE documents ALTER COLUMN body TYPE varchar(500)",
        "ALTER TABLE documents ALTER COLUMN title TYPE text, ALTER COLUMN body TYPE jsonb USING to_jsonb(body)",
        "ALTER TABLE documents ALTER COLUMN id TYPE bigint",
        "ALTER TABLE documents RENAME TO papers",
        "CREATE SCHEMA elsewhere; ALTER TABLE documents SET SCHEMA elsewhere",
        "ALTER TABLE documents ADD COLUMN more text DEFAULT 'x'",
    ],
)
@pytest.mark.variants(15)
def test_what_an_application_may_do_to_its_columns_it_still_may(app: App, ddl: str) -> None:
    """In a session whose triggers have run before: PL/pgSQL keeps plans for the types it has seen."""
    app("UPDATE documents SET title = 'before' WHERE id = 1")
    app(ddl)
    table = "papers" if "papers" in ddl else "elsewhere.documents" if "elsewhere" in ddl else "documents"
    app(
        f"UPDATE {table} SET hits = hits + 1",
        f"INSERT INTO {table} (id) VALUES (100)",
        f"DELETE FROM {table} WHERE id = 3",
    )


@pytest.mark.parametrize("app", [COLUMN, TRIGGERS], indirect=True, ids=["column", "triggers"])
def test_truncate_and_unlogged_are_allowed_as_before(app: App) -> None:
    app("ALTER TABLE documents SET UNLOGGED", "TRUNCATE documents", "ALTER TABLE documents SET LOGGED")
    assert not app.faults()


def test_ddl_and_writes_in_one_transaction(app: App) -> None:
    with app.conn.transaction():
        app("UPDATE documents SET body = 'one' WHERE id = 1", "ALTER TABLE documents RENAME COLUMN id TO key")
        app("INSERT INTO documents (key, body) SELECT i, 'bulk' FROM generate_series(100, 400) i")
        app("ALTER TABLE documents RENAME COLUMN key TO id", "UPDATE documents SET body = 'two' WHERE id = 2")
    assert "u 1" in app.captured()
    assert len(app.faults()) == 1, "one line a transaction, whatever its size"


def test_a_savepoint_that_is_taken_back_takes_the_fault_along(app: App) -> None:
    with app.conn.transaction():
        with app.conn.transaction(force_rollback=True):
            app("ALTER TABLE documents RENAME COLUMN id TO key", "UPDATE documents SET body = 'x' WHERE key = 5")
        app("UPDATE documents SET body = 'kept' WHERE id = 6")
    assert app.captured() == ["u 6"] and not app.faults()


DAMAGE = [
    "DROP TABLE embedtui.queue",
    "ALTER TABLE embedtui.queue RENAME COLUMN key TO keys",
    "ALTER TABLE embedtui.queue ADD CONSTRAINT none CHECK (id < 0) NOT VALID",
    "ALTER TABLE embedtui.queue ALTER COLUMN id RESTART",
    "DROP TABLE embedtui.queue, embedtui.capture_fault",
    "DROP SCHEMA embedtui CASCADE",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_our_own_tables_fails_no_statement(app: App, damage: str) -> None:
    app("UPDATE documents SET body = 'before' WHERE id = 1")
    app(damage)
    app(
        "INSERT INTO documents (id, body) VALUES (100, 'new'), (101, 'new')",
        "UPDATE documents SET body = 'edited', id = id + 1000 WHERE id < 10",
        "DELETE FROM documents WHERE id > 100",
    )


def test_a_right_taken_from_the_functions_owner_fails_no_statement(app: App) -> None:
    owner = f"owner_{app.migration}_{app.conn.info.dbname}"
    app(f"CREATE ROLE {owner}; GRANT USAGE ON SCHEMA embedtui TO {owner}")
    functions = app.conn.execute(
        "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'embedtui'::regnamespace AND prosecdef"
    ).fetchall()
    for (name,) in functions:
        app(f"ALTER FUNCTION {name} OWNER TO {owner}")
    app("UPDATE documents SET body = 'edited' WHERE id = 1", "INSERT INTO documents (id, body) VALUES (100, 'new')")
    app(f"GRANT INSERT ON embedtui.capture_fault TO {owner}", "UPDATE documents SET body = 'edited' WHERE id = 2")
    assert any("permission denied" in reason for reason in app.faults())
    app(f"REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}; DROP ROLE {owner}")


def test_a_locked_queue_fails_no_statement_of_an_application_that_waits_for_no_lock(app: App) -> None:
    with psycopg.connect(app.conn.info.dsn) as holder:
        holder.execute("LOCK TABLE embedtui.queue IN ACCESS EXCLUSIVE MODE")
        app("SET lock_timeout = '50ms'", "UPDATE documents SET body = 'edited' WHERE id = 1")
    assert any("lock" in reason for reason in app.faults()), "said, and scanned for"


def test_a_key_that_is_null_or_long_is_captured(app: App) -> None:
    app("ALTER TABLE documents ADD COLUMN spare text")
    app("INSERT INTO documents (id, body, spare) VALUES (300, repeat('x', 100000), NULL)")
    assert app.captured() == ["i 300"]


def test_no_row_costs_a_subtransaction_of_its_own(app: App) -> None:
    """More than 64 of them with an id of their own overflow what the server keeps in memory, for all sessions."""
    with app.conn.transaction():
        before = app.conn.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        app("UPDATE documents SET body = body || '!', hits = 1")
    after = app.conn.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    assert before and after and after[0] - before[0] <= 3
    assert len(app.captured()) == 20


STATEMENTS = [
    "INSERT INTO documents VALUES (DEFAULT, 'n')",
    "UPDATE documents SET a = a || '.'",
    "DELETE FROM documents WHERE ctid = (SELECT max(ctid) FROM documents)",
    "ALTER TABLE documents RENAME COLUMN id TO x1",
    "ALTER TABLE documents RENAME COLUMN x1 TO id",
    "ALTER TABLE documents RENAME COLUMN a TO x2",
    "ALTER TABLE documents RENAME COLUMN x2 TO a",
    "ALTER TABLE documents ALTER COLUMN id TYPE bigint",
    "ALTER TABLE documents ALTER COLUMN id TYPE int",
    "ALTER TABLE documents ALTER COLUMN a TYPE varchar(900)",
    "ALTER TABLE documents ALTER COLUMN a TYPE text",
    "ALTER TABLE documents DROP COLUMN IF EXISTS b",
    "ALTER TABLE documents ADD COLUMN IF NOT EXISTS b text",
    "TRUNCATE documents",
    "VACUUM FULL documents",
]


@pytest.mark.parametrize("flags", [COLUMN, TRIGGERS], ids=["column", "triggers"])
@pytest.mark.variants(1)
def test_any_mixture_of_ddl_and_writes_ends_as_it_would_without_us(
    database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object]
) -> None:
    """The same statements on a table of its own beside it: each fails there as here, or in neither place."""
    table = "CREATE TABLE {} (id serial PRIMARY KEY, a text, b text, embedding vector(8))"
    with psycopg.connect(database, autocommit=True) as conn:

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.sampled_from(STATEMENTS), min_size=2, max_size=9))
        def same(statements: list[str]) -> None:
            conn.execute("DROP TABLE IF EXISTS documents, plain, documents_embedding_v2")
            conn.execute("DROP SCHEMA IF EXISTS embedtui CASCADE")
            for name in ("documents", "plain"):
                conn.execute(table.format(name))
            conn.execute("INSERT INTO documents (a, b) VALUES ('x', 'y'), ('z', 'w')")
            conn.execute("INSERT INTO plain (a, b) VALUES ('x', 'y'), ('z', 'w')")
            engine = Engine(database, settings=settings_for(database, api, tmp_path, {"content": ("a", "b"), **flags}))
            engine.prepare(threading.Event())
            engine.close()
            for statement in statements:
                outcomes = []
                for name in ("documents", "plain"):
                    try:
                        conn.execute(statement.replace("documents", name))
                        outcomes.append("done")
                    except psycopg.Error as error:
                        outcomes.append(str(error.sqlstate))
                assert outcomes[0] == outcomes[1], statement

        same()


def test_an_upgrade_gives_a_worker_the_rights_it_has_on_the_queue(app: App) -> None:
    worker = f"worker_{app.conn.info.dbname}"
    app(f"CREATE ROLE {worker}; GRANT SELECT, DELETE ON embedtui.queue TO {worker}")
    back_to(app.conn, 3)
    schema.install(app.conn)
    rights = app.conn.execute(
        "SELECT has_table_privilege(%(w)s, 'embedtui.capture_fault', 'SELECT'),"
        " has_table_privilege(%(w)s, 'embedtui.capture_fault', 'DELETE'),"
        " has_table_privilege(%(w)s, 'embedtui.capture_fault', 'INSERT')",
        {"w": worker},
    ).fetchone()
    app(f"DROP OWNED BY {worker}; DROP ROLE {worker}")
    assert rights == (True, True, False)
