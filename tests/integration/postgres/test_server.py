"""What the server, its settings and our role allow."""

from __future__ import annotations

import pytest

from embedtui.errors import DatabaseError
from embedtui.postgres.catalog.inspect import inspect_table, stored_dimensions
from embedtui.postgres.catalog.server import MINIMUM_SERVER, require_server, server_facts
from embedtui.postgres.catalog.tables import find_candidates
from embedtui.postgres.connect import Connection
from embedtui.postgres.state import schema
from tests.kits.support import connect


def test_server_facts(conn: Connection) -> None:
    facts = server_facts(conn)
    assert facts.version >= MINIMUM_SERVER
    assert facts.vector_version
    assert facts.vector_schema == "public"
    assert facts.vector_available
    assert not facts.standby
    assert not facts.read_only
    assert not facts.pooled
    assert not facts.state_schema
    assert require_server(facts) == "public"


def test_a_read_only_database_and_our_schema_are_seen(database: str) -> None:
    with connect(database, name="test") as conn:
        schema.install(conn)
        conn.execute(f"ALTER DATABASE {conn.info.dbname} SET default_transaction_read_only = on")
    with connect(database, name="test") as conn:
        facts = server_facts(conn)
    assert facts.read_only
    assert facts.state_schema


def test_without_pgvector_the_hint_says_how_to_get_it(empty_database: str) -> None:
    with connect(empty_database, name="test") as conn, pytest.raises(DatabaseError) as caught:
        require_server(server_facts(conn))
    assert "pgvector is not in database" in str(caught.value)
    assert "CREATE EXTENSION vector" in str(caught.value)


def test_an_old_server_is_refused(conn: Connection) -> None:
    from dataclasses import replace

    facts = replace(server_facts(conn), version=130011, version_text="13.11")
    with pytest.raises(DatabaseError, match=r"PostgreSQL 13\.11 is too old.*14 or newer"):
        require_server(facts)


def test_pgvector_in_another_schema(empty_database: str) -> None:
    with connect(empty_database, name="test") as conn:
        conn.execute("CREATE SCHEMA ext; CREATE EXTENSION vector SCHEMA ext")
        conn.execute(
            "CREATE TABLE t (id int PRIMARY KEY, content text, e ext.vector); INSERT INTO t VALUES (1,'a','[1,2]')"
        )
        assert server_facts(conn).vector_schema == "ext"
        facts = inspect_table(conn, "t")
        assert [column.name for column in facts.vector_columns] == ["e"]
        assert stored_dimensions(conn, facts, "e", "ext") == 2
        assert [each.column for each in find_candidates(conn)] == ["e"]
