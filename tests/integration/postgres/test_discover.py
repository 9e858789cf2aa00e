"""What the catalog says, and the choices made from it, against a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.config import Settings, load_settings
from embedtui.demo.database import EmbeddedServer
from embedtui.errors import DatabaseError, ExitCode, SettingsError, TableError
from embedtui.model import Distance, PlacementKind, TableName
from embedtui.postgres.catalog import discover
from embedtui.postgres.catalog.discover import Draft
from embedtui.postgres.connect import Connection
from embedtui.postgres.state import schema
from tests.kits.support import connect

Resolve = Callable[..., Draft]

DOCUMENTS = """
CREATE TABLE documents (id bigint PRIMARY KEY, content text NOT NULL, embedding vector(3));
CREATE INDEX documents_embedding ON documents USING hnsw (embedding vector_l2_ops);
"""

MY_DOCS = """
CREATE SCHEMA app;
CREATE TABLE app."My Docs" (
    "Id" uuid DEFAULT gen_random_uuid(), "Part" int, "The Text" varchar(20), v halfvec, PRIMARY KEY ("Id", "Part"));
"""


@pytest.fixture(scope="module")
def known(server: EmbeddedServer) -> Iterator[Connection]:
    """A database whose tables no test changes."""
    with connect(server.dsn(), name="test") as admin:
        admin.execute("CREATE DATABASE discover")
        with connect(server.dsn("discover"), name="test") as connection:
            connection.execute(
                "CREATE EXTENSION vector;" + DOCUMENTS + MY_DOCS + "ALTER TABLE documents ADD title text;"
                'CREATE TABLE "a.b" (id int); CREATE VIEW recent AS SELECT * FROM documents;'
                "CREATE TABLE nokey (id int, content text, v vector(3));"
                "CREATE TABLE novector (id int PRIMARY KEY, content text);"
                "CREATE TABLE notext (id int PRIMARY KEY, v vector(3));"
                "CREATE TABLE two (id int PRIMARY KEY, content text, v vector(3), w vector(3))"
            )
            yield connection
        admin.execute("DROP DATABASE discover WITH (FORCE)")


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with connect(database, name="test") as connection:
        yield connection


@pytest.fixture
def resolve(conn: Connection, tmp_path: Path) -> Resolve:
    """Resolves flags against the database, with a new model of 8 dimensions unless said otherwise."""

    def run(**flags: Any) -> Draft:
        return discover.resolve(conn, settings_of(tmp_path, flags))

    return run


def settings_of(folder: Path, flags: Mapping[str, Any]) -> Settings:
    """Settings with a new model of 8 dimensions unless said otherwise."""
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings({"new_model.name": "m", "new_model.dimensions": 8, **named}, environ={}, cwd=folder / "none")


# ------------------------------------------------------------------------------------------------------ server


def test_server_facts(conn: Connection) -> None:
    facts = discover.server_facts(conn)
    assert facts.version >= discover.MINIMUM_SERVER
    assert facts.vector_version and facts.vector_schema == "public" and facts.vector_available
    assert not facts.standby and not facts.read_only and not facts.pooled and not facts.state_schema
    assert facts.maintenance_work_mem >= 2**20
    assert discover.require_server(facts) == "public"


def test_a_read_only_database_and_our_schema_are_seen(database: str) -> None:
    with connect(database, name="test") as conn:
        schema.install(conn)
        conn.execute(f"ALTER DATABASE {conn.info.dbname} SET default_transaction_read_only = on")
    with connect(database, name="test") as conn:
        facts = discover.server_facts(conn)
    assert facts.read_only and facts.state_schema


def test_without_pgvector_the_mend_is_named(empty_database: str) -> None:
    with connect(empty_database, name="test") as conn, pytest.raises(DatabaseError) as caught:
        discover.require_server(discover.server_facts(conn))
    assert "pgvector is not in database" in str(caught.value) and "CREATE EXTENSION vector" in str(caught.value)


def test_an_old_server_is_refused(conn: Connection) -> None:
    from dataclasses import replace

    facts = replace(discover.server_facts(conn), version=130011, version_text="13.11")
    with pytest.raises(DatabaseError, match=r"PostgreSQL 13\.11 is too old.*14 or newer"):
        discover.require_server(facts)


def test_pgvector_in_another_schema(empty_database: str) -> None:
    with connect(empty_database, name="test") as conn:
        conn.execute("CREATE SCHEMA ext; CREATE EXTENSION vector SCHEMA ext")
        conn.execute(
            "CREATE TABLE t (id int PRIMARY KEY, content text, e ext.vector); INSERT INTO t VALUES (1,'a','[1,2]')"
        )
        assert discover.server_facts(conn).vector_schema == "ext"
        facts = discover.inspect_table(conn, "t")
        assert [column.name for column in facts.vector_columns] == ["e"]
        assert discover.stored_dimensions(conn, facts, "e", "ext") == 2
        assert [each.column for each in discover.find_candidates(conn)] == ["e"]


# ------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("documents", (("documents", False),)),
        ("app.docs", (("app", False), ("docs", False))),
        ('"My Docs"', (("My Docs", True),)),
        ('app."My ""Docs"""', (("app", False), ('My "Docs"', True))),
        ('"a.b".c', (("a.b", True), ("c", False))),
        ("a b", (("a b", False),)),
        ('"open', ()),
        ("", ()),
    ],
)
def test_parse_name(name: str, parts: tuple[tuple[str, bool], ...]) -> None:
    assert discover.parse_name(name) == parts


@pytest.mark.parametrize(
    ("name", "schema_name", "found"),
    [
        ("documents", None, TableName("public", "documents")),
        ("Documents", None, TableName("public", "documents")),
        ("PUBLIC.Documents", None, TableName("public", "documents")),
        ("My Docs", "app", TableName("app", "My Docs")),
        ('"My Docs"', "app", TableName("app", "My Docs")),
        ('app."My Docs"', None, TableName("app", "My Docs")),
        ("app.My Docs", None, TableName("app", "My Docs")),
        ("a.b", None, TableName("public", "a.b")),
    ],
)
def test_a_table_is_found_as_people_write_it(
    known: Connection, name: str, schema_name: str | None, found: TableName
) -> None:
    assert discover.find_table(known, name, schema_name)[1] == found


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("documnets", 'no table "documnets"; did you mean documents?'),
        ("My Docs", 'no table "My Docs"; did you mean app."My Docs"?'),
        ('"Documents"', 'no table "Documents"; did you mean documents?'),
        ("app.documents", 'no table "app.documents"; did you mean documents?'),
        ("zzz", 'no table "zzz". `embedtui init` lists'),
        ("", 'no table ""'),
        ("a.b.c.d", 'no table "a.b.c.d"'),
        ("'; DROP TABLE documents; --", "no table"),
        ("recent", "recent is a view, not a table"),
    ],
)
def test_a_missing_table_comes_with_near_misses(known: Connection, name: str, said: str) -> None:
    with pytest.raises(TableError) as caught:
        discover.find_table(known, name)
    assert said in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE
    assert discover.find_table(known, "documents")


def test_shown_quotes_only_what_needs_it() -> None:
    assert discover.shown(TableName("public", "documents")) == "documents"
    assert discover.shown(TableName("app", 'My "Docs')) == 'app."My ""Docs"'


# ------------------------------------------------------------------------------------------------------- table


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
    facts = discover.inspect_table(conn, "t")
    assert facts.kind == "table" and facts.rows == 10 and facts.heap_bytes > 0 and len(facts.leaves) == 1
    assert facts.is_owner and facts.may_select and facts.may_update and not facts.inherits
    # partial, expression and nullable ones are no keys
    assert [key.columns for key in facts.keys] == [("a", "b")]
    assert facts.keys[0].types == ("integer", "text") and not facts.keys[0].primary
    e, n = facts.column("e"), facts.column("n")
    assert e and (e.type, e.base_type, e.dimensions, e.is_vector, e.has_default) == (
        "vector(3)",
        "vector",
        3,
        True,
        True,
    )
    assert n and n.generated
    assert [column.name for column in facts.text_columns] == ["b", "c"]
    assert [column.name for column in facts.vector_columns] == ["e", "h"]
    (index,) = facts.indexes_on("e")
    assert (index.method, index.opclasses, index.valid) == ("ivfflat", ("vector_ip_ops",), True)
    assert "USING ivfflat" in index.definition and index.bytes > 0
    assert discover.index_distance(facts, "e") is Distance.INNER_PRODUCT
    assert discover.index_distance(facts, "h") is None
    told = {each.name: (each.timing, each.on_update, each.columns, each.enabled) for each in facts.triggers}
    assert told == {
        "any_column": ("BEFORE", True, (), True),
        "one_column": ("AFTER", True, ("c",), True),
        "is_off": ("AFTER", True, (), False),
    }


def test_primary_key_comes_first_and_keys_with_included_columns_count(conn: Connection) -> None:
    conn.execute("CREATE TABLE t (z int UNIQUE NOT NULL, a int, b int, note text, PRIMARY KEY (b, a) INCLUDE (note))")
    facts = discover.inspect_table(conn, "t")
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
    facts = discover.inspect_table(conn, "p")
    assert facts.kind == "partitioned"
    assert [leaf.name for leaf in facts.leaves] == ["p1", "p21"]
    assert facts.rows is None, "never analysed is unknown, not zero"
    conn.execute("ANALYZE p")
    assert discover.inspect_table(conn, "p").rows == 15
    assert discover.inspect_table(conn, "p1").is_partition
    assert [each.table.name for each in discover.find_candidates(conn)] == ["p"]


def test_old_style_inheritance_is_seen_on_both_ends(conn: Connection) -> None:
    conn.execute("CREATE TABLE a (id int); CREATE TABLE b () INHERITS (a)")
    assert discover.inspect_table(conn, "a").inherits and discover.inspect_table(conn, "b").inherits


def test_publications(conn: Connection) -> None:
    conn.execute(
        DOCUMENTS + "CREATE TABLE other (id int PRIMARY KEY);"
        "CREATE PUBLICATION everything FOR ALL TABLES; CREATE PUBLICATION wide FOR TABLES IN SCHEMA public;"
        "CREATE PUBLICATION named FOR TABLE documents; CREATE PUBLICATION listed FOR TABLE documents (id, content);"
        "CREATE PUBLICATION not_ours FOR TABLE other"
    )
    facts = discover.inspect_table(conn, "documents")
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
    facts = discover.inspect_table(conn, "documents")
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
            facts = discover.inspect_table(other, "documents")
            server = discover.server_facts(other)
        assert facts.may_select and facts.may_trigger
        assert not (facts.is_owner or facts.may_update or facts.may_insert or facts.may_reference)
        assert not (server.superuser or server.may_create_schema or server.reads_all_stats)
    finally:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_dropped_table_is_said(conn: Connection) -> None:
    with pytest.raises(TableError, match="dropped"):
        discover.inspect_oid(conn, 1)


def test_candidates_are_sorted_by_size_and_leave_out_other_types(conn: Connection) -> None:
    conn.execute(
        DOCUMENTS + MY_DOCS + "CREATE TABLE plain (id int, b bit(3), s sparsevec(3));"
        "INSERT INTO documents SELECT i, repeat('x', 1000), '[1,2,3]' FROM generate_series(1, 500) i; ANALYZE"
    )
    found = discover.find_candidates(conn)
    assert [(str(each.table), each.column) for each in found] == [("documents", "embedding"), ("app.My Docs", "v")]
    assert (found[0].dimensions, found[0].rows, found[0].indexed) == (3, 500, "hnsw")
    assert found[1].dimensions is None


# ----------------------------------------------------------------------------------------------------- choices


def test_all_is_chosen_where_only_one_is_possible(conn: Connection, resolve: Resolve) -> None:
    conn.execute(DOCUMENTS)
    draft = resolve(table="documents")
    migration = draft.migration(PlacementKind.COLUMN)
    assert (migration.name, migration.key_columns, migration.key_types) == ("documents", ("id",), ("bigint",))
    assert (migration.content_columns, migration.old_column, migration.new_column) == (
        ("content",),
        "embedding",
        "embedding_v2",
    )
    assert (migration.distance, migration.vector_type) == (Distance.L2, "vector")
    assert (migration.old_model.dimensions, migration.old_model.retired) == (3, True)
    assert migration.new_table == migration.table
    aside = draft.migration(PlacementKind.TABLE)
    assert (str(aside.new_table), aside.new_column) == ("documents_embedding_v2", "embedding")
    assert draft.notices == ("documents is empty: there is nothing to embed until rows arrive.",)


def test_quoted_names_and_a_composite_key(conn: Connection, resolve: Resolve) -> None:
    conn.execute(MY_DOCS + """INSERT INTO app."My Docs" ("Part", "The Text", v) VALUES (1, 'a', '[1,2]')""")
    draft = resolve(table='app."My Docs"', key=("Part", "Id"))
    assert draft.key.columns == ("Part", "Id") and draft.key.types == ("integer", "uuid")
    assert (draft.old_model.dimensions, draft.new_type) == (2, "halfvec")
    assert draft.notices == ()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, "No table is set. Set --table, or table in embedtui.toml; tables with vectors: "),
        ({"table": "documents"}, "documents has 2 text columns: content, title. Say which are embedded"),
        ({"table": "documents", "content": ("contents",)}, 'no column "contents" in documents; did you mean content? '
         "Setting: content (--content)."),
        ({"table": "documents", "content": ("embedding",)}, "embedding of documents is vector(3), nothing to embed"),
        ({"table": "documents", "content": ("title",), "old_column": "title"}, "title of documents is text, not a "
         "vector (old_column, --column). Vector columns: embedding."),
        ({"table": "documents", "content": ("title",), "old_column": "embeding"}, "did you mean embedding?"),
        ({"table": "documents", "content": ("title",), "key": ("ID",)}, "did you mean id?"),
        ({"table": "documents", "content": ("title",), "key": ("title",)}, "title is not a unique key over NOT NULL "
         "columns of documents (key, --key). Unique keys: id."),
        ({"table": "nokey"}, "nokey has no unique key over NOT NULL columns. Add one, e.g. ALTER TABLE nokey ADD "
         "PRIMARY KEY (id);"),
        ({"table": "novector"}, "novector has no vector column"),
        ({"table": "notext"}, "notext has no text column"),
        ({"table": "two"}, "two has 2 vector columns: v, w. Say which one holds the old vectors: --column"),
        ({"table": "documents", "content": ("title",), "old_model__dimensions": 4}, "old_model.dimensions = 4 "
         "(--old-dimensions): embedding holds vectors of 3."),
        ({"table": "documents", "content": ("title",), "new_model__dimensions": 2500, "halfvec": False},
         "hnsw indexes vector only to 2000"),
        ({"table": "documents", "content": ("title",), "new_model__dimensions": 5000}, "hnsw indexes halfvec only to "
         "4000"),
        ({"table": "documents", "content": ("title",), "old_model__name": "m", "new_model__dimensions": 3},
         "The old and the new model are the same"),
        ({"table": "documents", "content": ("title",), "new_column": "embedding"}, "is the old column"),
    ],
)  # fmt: skip
def test_a_wrong_or_open_choice_names_setting_and_candidates(
    known: Connection, tmp_path: Path, flags: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        discover.resolve(known, settings_of(tmp_path, flags))
    assert said in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_second_migration_starts_from_the_first_ones_column(conn: Connection, resolve: Resolve) -> None:
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, content text, embedding_v2 vector(3))")
    migration = resolve(table="t").migration(PlacementKind.COLUMN)
    assert (migration.old_column, migration.new_column) == ("embedding_v2", "embedding_v3")


def test_what_an_aborted_attempt_left_is_not_taken_for_the_old_column(conn: Connection, resolve: Resolve) -> None:
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, content text, e vector(3), embedding_v2 vector(8))")
    assert resolve(table="t").old_column == "e"


def test_above_two_thousand_dimensions_is_halfvec(conn: Connection, resolve: Resolve) -> None:
    conn.execute(DOCUMENTS)
    assert resolve(table="documents", new_model__dimensions=2000).new_type == "vector"
    assert resolve(table="documents", new_model__dimensions=2001).new_type == "halfvec"
    assert resolve(table="documents", new_model__dimensions=5000, index__method="none").new_type == "halfvec"


def test_a_temporary_table_is_refused(conn: Connection, resolve: Resolve) -> None:
    conn.execute("CREATE TEMP TABLE gone (id int PRIMARY KEY, content text, e vector(3))")
    with pytest.raises(TableError, match="temporary"):
        resolve(table="gone", schema=_temp_schema(conn))


def _temp_schema(conn: Connection) -> str:
    row = conn.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()").fetchone()
    assert row is not None
    return str(row[0])


def test_row_security_and_missing_rights_are_refused(database: str, conn: Connection, tmp_path: Path) -> None:
    conn.execute(DOCUMENTS + "CREATE TABLE hidden (LIKE documents INCLUDING ALL); "
                 "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY")  # fmt: skip
    role = f"other_{conn.info.dbname}"
    conn.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON hidden TO {role}")
    try:
        with psycopg.connect(database, user=role, autocommit=True) as other:
            for table, said in (("documents", f"may not read documents. GRANT SELECT ON documents TO {role};"),
                                ("hidden", "Row security would hide rows of hidden")):  # fmt: skip
                settings = load_settings(
                    {"table": table, "new_model.name": "m", "new_model.dimensions": 8}, environ={}, cwd=tmp_path
                )
                with pytest.raises(DatabaseError) as caught:
                    discover.resolve(other, settings)
                assert said in str(caught.value)
                assert caught.value.exit_code is ExitCode.DATABASE
    finally:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_long_name_leaves_room_for_what_is_made_from_it(conn: Connection, resolve: Resolve) -> None:
    name = "é" * 31
    conn.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, content text, e vector(3))")
    made = resolve(table=name).new_table
    assert made.endswith("_embedding_v2") and len(made.encode()) <= 63
