"""What the catalog says of a table, against a real PostgreSQL."""

from __future__ import annotations

import psycopg
import pytest

from embedtui.errors import TableError
from embedtui.postgres.catalog.inspect import inspect_oid, inspect_table
from embedtui.postgres.catalog.server import server_facts
from embedtui.postgres.catalog.tables import find_candidates
from embedtui.postgres.connect import Connection
from tests.kits.tables import DOCUMENTS


def test_inspect_table(conn: Connection) -> None:
    conn.execute(
        """
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE t (
            a int NOT NULL, b text NOT NULL, c text, e vector(3) DEFAULT '[1,2,3]', h halfvec(4),
            parent int REFERENCES parent,
            n int GENERATED ALWAYS AS (length(c)) STORED, UNIQUE (a, b), UNIQUE (c));
        CREATE UNIQUE INDEX t_partial ON t (a) WHERE c IS NULL;
        CREATE UNIQUE INDEX t_expression ON t (lower(b));
        CREATE INDEX t_e ON t USING ivfflat (e vector_ip_ops) WITH (lists = 1);
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
        CREATE TRIGGER any_column BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE TRIGGER one_column AFTER INSERT OR UPDATE OF c ON t FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE TRIGGER is_off AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch();
        CREATE TRIGGER once AFTER UPDATE ON t EXECUTE FUNCTION touch();
        ALTER TABLE t DISABLE TRIGGER is_off;
        INSERT INTO t (a, b) SELECT i, 'b' || i FROM generate_series(1, 10) i;
        ANALYZE t;
        """
    )
    facts = inspect_table(conn, "t")
    assert facts.kind == "table"
    assert facts.rows == 10
    assert facts.heap_bytes > 0
    assert len(facts.leaves) == 1
    assert facts.is_owner
    assert facts.may_select
    assert facts.may_update
    assert not facts.inherits
    # partial, expression and nullable ones are no keys
    assert [key.columns for key in facts.keys] == [("a", "b")]
    assert facts.keys[0].types == ("integer", "text")
    assert not facts.keys[0].primary
    e = facts.column("e")
    assert e
    assert (e.type, e.base_type, e.dimensions, e.is_vector, e.has_default) == (
        "vector(3)",
        "vector",
        3,
        True,
        True,
    )
    assert [column.name for column in facts.text_columns] == ["b", "c"]
    assert [column.name for column in facts.vector_columns] == ["e", "h"]
    (index,) = facts.indexes_on("e")
    assert (index.method, index.valid) == ("ivfflat", True)
    assert index.bytes > 0
    told = {each.name: (each.on_update, each.columns, each.enabled) for each in facts.triggers}
    assert told == {
        "any_column": (True, (), True),
        "one_column": (True, ("c",), True),
        "is_off": (True, (), False),
    }


def test_primary_key_comes_first_and_keys_with_included_columns_count(conn: Connection) -> None:
    conn.execute("CREATE TABLE t (z int UNIQUE NOT NULL, a int, b int, note text, PRIMARY KEY (b, a) INCLUDE (note))")
    facts = inspect_table(conn, "t")
    assert [(key.columns, key.primary) for key in facts.keys] == [(("b", "a"), True), (("z",), False)]


def test_partitions_are_leaves(conn: Connection) -> None:
    conn.execute(
        """
        CREATE TABLE p (id int, body text, e vector(3), PRIMARY KEY (id)) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
        CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
        CREATE TABLE p21 PARTITION OF p2 FOR VALUES FROM (10) TO (20);
        INSERT INTO p SELECT i, 'x' FROM generate_series(1, 15) i;
        """
    )
    facts = inspect_table(conn, "p")
    assert facts.kind == "partitioned"
    assert [leaf.name for leaf in facts.leaves] == ["p1", "p21"]
    assert facts.rows is None, "never analysed is unknown, not zero"
    conn.execute("ANALYZE p")
    assert inspect_table(conn, "p").rows == 15
    assert [each.table.name for each in find_candidates(conn)] == ["p"]


def test_old_style_inheritance_is_seen_on_both_ends(conn: Connection) -> None:
    conn.execute("CREATE TABLE a (id int); CREATE TABLE b () INHERITS (a)")
    assert inspect_table(conn, "a").inherits
    assert inspect_table(conn, "b").inherits


def test_publications(conn: Connection) -> None:
    conn.execute(
        DOCUMENTS + "CREATE TABLE other (id int PRIMARY KEY);"
        "CREATE PUBLICATION everything FOR ALL TABLES; CREATE PUBLICATION wide FOR TABLES IN SCHEMA public;"
        "CREATE PUBLICATION named FOR TABLE documents; CREATE PUBLICATION listed FOR TABLE documents (id, content);"
        "CREATE PUBLICATION not_ours FOR TABLE other"
    )
    facts = inspect_table(conn, "documents")
    assert {each.name: (each.scope, each.columns) for each in facts.publications} == {
        "everything": ("all", ()),
        "wide": ("schema", ()),
        "named": ("table", ()),
        "listed": ("table", ("id", "content")),
    }


def test_what_depends_on_a_column(conn: Connection) -> None:
    conn.execute(
        DOCUMENTS
        + """
        ALTER TABLE documents ADD size int GENERATED ALWAYS AS (vector_dims(embedding)) STORED,
            ADD CONSTRAINT three CHECK (vector_dims(embedding) = 3);
        CREATE VIEW v AS SELECT id, embedding FROM documents;
        CREATE MATERIALIZED VIEW m AS SELECT embedding FROM documents;
        CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT count(embedding) FROM documents; END;
        CREATE POLICY p ON documents USING (embedding IS NOT NULL);
        CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
        CREATE TRIGGER g AFTER UPDATE OF embedding ON documents FOR EACH ROW EXECUTE FUNCTION t();
        """
    )
    facts = inspect_table(conn, "documents")
    assert {(each.kind, each.name) for each in facts.dependents_on("embedding")} == {
        ("view", "v"),
        ("materialized view", "m"),
        ("function", "f()"),
        ("policy", "p"),
        ("trigger", "g"),
        ("generated column", "size"),
        ("constraint", "three"),
    }
    assert {each.name for each in facts.dependents_on("id")} == {"v"}


def test_rights_of_another_role(database: str, conn: Connection) -> None:
    conn.execute(DOCUMENTS)
    role = f"reader_{conn.info.dbname}"
    conn.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT, TRIGGER ON documents TO {role}")
    try:
        with psycopg.connect(database, user=role, autocommit=True) as other:
            facts = inspect_table(other, "documents")
            server = server_facts(other)
        assert facts.may_select
        assert not (facts.is_owner)
        assert not (facts.may_update)
        assert not (facts.may_reference)
        assert not (server.superuser)
        assert not (server.may_create_schema)
        assert not (server.reads_all_stats)
    finally:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_dropped_table_is_said(conn: Connection) -> None:
    with pytest.raises(TableError, match="dropped"):
        inspect_oid(conn, 1)
