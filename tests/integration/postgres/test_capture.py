"""Change capture and guarded writes: every way an application can change a row, and none it should feel."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg import sql

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.model import Key, Migration, Side, TableName
from embedtui.postgres.sides.batch import prepare_batch
from embedtui.postgres.sides.column import ColumnPlacement
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.sides.side_table import TablePlacement
from tests.kits.support import NEW, OLD, connect, make_documents, settings_for


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}) as server:
        yield server


@dataclass
class Prepared:
    dsn: str
    migration: Migration
    conn: psycopg.Connection

    def queue(self) -> list[tuple[Key, str]]:
        rows = self.conn.execute("SELECT key, kind::text FROM embedtui.queue ORDER BY id").fetchall()
        self.conn.execute("DELETE FROM embedtui.queue")
        return [(tuple(key), kind) for key, kind in rows]


@pytest.fixture
def prepared(database: str, api: LoopbackServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Prepared]:
    options = dict(getattr(request, "param", {}))
    setup = options.pop("setup", None)
    if setup:
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(setup)
    else:
        make_documents(database, 20)
    engine = Engine(database, settings=settings_for(database, api, tmp_path, options))
    migration = engine.prepare(threading.Event())
    engine.close()
    with connect(database, name="test") as conn:
        yield Prepared(database, migration, conn)


COLUMN, TABLE = {"placement": "column"}, {"placement": "table"}
PARTITIONED = """
CREATE TABLE documents (id bigint, region text, content text, embedding vector(8), PRIMARY KEY (id, region))
    PARTITION BY LIST (region);
CREATE TABLE documents_eu PARTITION OF documents FOR VALUES IN ('eu');
CREATE TABLE documents_us PARTITION OF documents FOR VALUES IN ('us');
INSERT INTO documents (id, region, content) VALUES (1, 'eu', 'one'), (2, 'us', 'two');
"""


@pytest.mark.parametrize("prepared", [COLUMN, TABLE], indirect=True, ids=["column", "table"])
class TestBothPlacements:
    def test_an_insert_an_edit_and_a_key_change_are_queued(self, prepared: Prepared) -> None:
        prepared.conn.execute("INSERT INTO documents (id, content) VALUES (100, 'new')")
        prepared.conn.execute("UPDATE documents SET content = 'edited' WHERE id = 1")
        prepared.conn.execute("UPDATE documents SET id = 200 WHERE id = 2")
        assert prepared.queue() == [(("100",), "i"), (("1",), "u"), (("200",), "u")]

    def test_an_edit_of_something_else_is_not_queued(self, prepared: Prepared) -> None:
        prepared.conn.execute("""UPDATE documents SET metadata = '{"a": 1}'""")
        prepared.conn.execute("UPDATE documents SET content = content")
        assert prepared.queue() == []

    def test_copy_on_conflict_and_merge_are_queued(self, prepared: Prepared) -> None:
        with prepared.conn.cursor().copy("COPY documents (id, content) FROM STDIN") as copy:
            copy.write_row((101, "copied"))
        prepared.conn.execute(
            "INSERT INTO documents (id, content) VALUES (1, 'upserted')"
            " ON CONFLICT (id) DO UPDATE SET content = excluded.content"
        )
        prepared.conn.execute(
            "MERGE INTO documents d USING (VALUES (2, 'merged')) v (id, content) ON d.id = v.id"
            " WHEN MATCHED THEN UPDATE SET content = v.content"
        )
        assert [key for key, _ in prepared.queue()] == [("101",), ("1",), ("2",)]

    def test_an_edit_made_by_a_before_trigger_is_queued(self, prepared: Prepared) -> None:
        prepared.conn.execute(
            "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.content := upper(NEW.content); RETURN NEW; END $$;"
            " CREATE TRIGGER shout BEFORE UPDATE ON documents FOR EACH ROW EXECUTE FUNCTION shout()"
        )
        prepared.conn.execute("UPDATE documents SET metadata = '[]' WHERE id = 3")
        assert prepared.queue() == [(("3",), "u")]

    def test_an_application_role_without_rights_on_our_schema_writes_on(self, prepared: Prepared) -> None:
        name = f"app_{prepared.migration.table_oid}"
        prepared.conn.execute(f"CREATE ROLE {name}; GRANT SELECT, INSERT, UPDATE, DELETE ON documents TO {name}")
        with psycopg.connect(prepared.dsn, autocommit=True) as app:
            app.execute(f"SET ROLE {name}")
            app.execute("SET search_path = ''")
            app.execute("UPDATE public.documents SET content = 'by the app' WHERE id = 4")
            app.execute("DELETE FROM public.documents WHERE id = 5")
        assert prepared.queue() == [(("4",), "u")]
        # what runs with the owner's rights must not look names up where the application can put some
        functions = prepared.conn.execute(
            "SELECT prosecdef, proconfig[1] FROM pg_proc WHERE pronamespace = 'embedtui'::regnamespace"
            " AND proname LIKE 'capture%'"
        ).fetchall()
        assert functions
        assert set(functions) == {(True, "search_path=pg_catalog, pg_temp")}
        prepared.conn.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")

    def test_a_write_is_refused_where_the_content_changed_or_the_row_is_locked(self, prepared: Prepared) -> None:
        placement = make_placement(prepared.migration)
        leaf = TableName("public", "documents")
        rows = placement.read_shard(prepared.conn, leaf, 0, 100)
        assert len(rows) == 20
        vectors = hash_model(16)([row.text for row in rows], None).astype(np.float32)
        prepare_batch(prepared.conn)
        with psycopg.connect(prepared.dsn) as app:
            app.execute("UPDATE documents SET content = 'changed' WHERE id = 7")
            app.commit()
            app.execute("SELECT FROM documents WHERE id = 8 FOR UPDATE")
            with prepared.conn.transaction():
                assert placement.write(prepared.conn, leaf, rows, vectors).rows == 18
            app.rollback()
        left = placement.read_shard(prepared.conn, leaf, 0, 100)
        assert {row.key for row in left} == {("7",), ("8",)}
        # never overwritten by the backfill: what is there stays
        with prepared.conn.transaction():
            assert placement.write(prepared.conn, leaf, rows, vectors).rows == 1
        assert placement.count(prepared.conn).embedded == 19
        prepared.queue()
        prepared.conn.execute("UPDATE documents SET metadata = '{}'")
        assert prepared.queue() == []

    def test_sync_replaces_only_what_is_still_the_same(self, prepared: Prepared) -> None:
        placement = make_placement(prepared.migration)
        prepare_batch(prepared.conn)
        found = placement.read_keys(prepared.conn, [("1",), ("2",), ("999",)])
        assert [item.row.key for item in found] == [("1",), ("2",)]
        prepared.conn.execute("UPDATE documents SET content = 'changed' WHERE id = 2")
        rows = [item.row for item in found]
        vectors = hash_model(16)([row.text for row in rows], None).astype(np.float32)
        with prepared.conn.transaction():
            assert placement.replace(prepared.conn, rows, vectors, Side.NEW) == {("1",)}
        with prepared.conn.transaction():
            assert placement.replace(prepared.conn, rows, vectors[:, :8].copy(), Side.OLD) == {("1",)}
        [again] = placement.read_keys(prepared.conn, [("1",)])
        assert again.new_fresh
        assert again.new_present
        assert again.old_present
        assert ("1",) not in placement.sweep(prepared.conn, 100)


@pytest.mark.parametrize("prepared", [COLUMN, TABLE], indirect=True, ids=["column", "table"])
def test_what_is_wrong_with_a_vector_is_counted_by_its_kind_and_found_by_the_sweep(prepared: Prepared) -> None:
    migration = prepared.migration
    placement = make_placement(migration)
    leaf = TableName("public", "documents")
    prepare_batch(prepared.conn)
    rows = placement.read_shard(prepared.conn, leaf, 0, 100)
    vectors = hash_model(16)([row.text for row in rows], None).astype(np.float32)
    with prepared.conn.transaction():
        placement.write(prepared.conn, leaf, rows, vectors)
    in_column = isinstance(placement, ColumnPlacement)
    side, prefix = ("documents", "embedding_v2_") if in_column else ("documents_embedding_v2", "")
    prepared.conn.execute("UPDATE documents SET content = '  ' WHERE id = 1")
    prepared.conn.execute("UPDATE documents SET content = 'edited' WHERE id IN (2, 3)")
    prepared.conn.execute(f"UPDATE {side} SET {prefix}model = {migration.old_model.id} WHERE id IN (4, 5, 6)")
    prepared.conn.execute(
        "UPDATE documents SET embedding_v2 = NULL WHERE id = 7" if in_column else f"DELETE FROM {side} WHERE id = 7"
    )
    if in_column:
        prepared.conn.execute("UPDATE documents SET embedding_v2_source = NULL WHERE id = 8")
    prepared.queue()
    counts = placement.count(prepared.conn)
    assert (counts.rows, counts.empty, counts.stale, counts.wrong_model, counts.missing) == (20, 1, 2, 3, 1)
    assert (counts.unverified, counts.embedded) == ((1, 12) if in_column else (0, 13))
    # an unverified vector is the application's: it is counted, and stays
    assert sorted(placement.sweep(prepared.conn, 100)) == [(str(number),) for number in range(2, 8)]


@pytest.mark.parametrize("prepared", [TABLE], indirect=True)
def test_a_truncate_takes_the_side_table_along(prepared: Prepared) -> None:
    """The foreign key asks for CASCADE, as the plan says; then nothing is left behind."""
    placement = make_placement(prepared.migration)
    prepare_batch(prepared.conn)
    rows = placement.read_shard(prepared.conn, TableName("public", "documents"), 0, 100)
    vectors = hash_model(16)([row.text for row in rows], None).astype(np.float32)
    with prepared.conn.transaction():
        placement.write(prepared.conn, TableName("public", "documents"), rows, vectors)
    prepared.conn.execute("TRUNCATE documents CASCADE")
    prepared.conn.execute("INSERT INTO documents (id, content) VALUES (1, 'again')")
    assert prepared.queue() == [(("1",), "i")]
    counts = placement.count(prepared.conn)
    assert (counts.rows, counts.missing, counts.orphaned) == (1, 1, 0)


@pytest.mark.parametrize("prepared", [TABLE], indirect=True)
def test_a_deleted_row_takes_its_side_row_along(prepared: Prepared) -> None:
    placement = make_placement(prepared.migration)
    prepare_batch(prepared.conn)
    rows = placement.read_shard(prepared.conn, TableName("public", "documents"), 0, 100)
    vectors = hash_model(16)([row.text for row in rows], None).astype(np.float32)
    prepared.conn.execute("DELETE FROM documents WHERE id = 1")
    with prepared.conn.transaction():
        assert placement.write(prepared.conn, TableName("public", "documents"), rows, vectors).rows == 19
    prepared.conn.execute("DELETE FROM documents WHERE id = 2")
    prepared.conn.execute("UPDATE documents SET id = 300 WHERE id = 3")
    side = sql.Identifier(prepared.migration.new_table.schema, prepared.migration.new_table.name)
    ids = {row[0] for row in prepared.conn.execute(sql.SQL("SELECT id FROM {}").format(side))}
    assert ids == set(range(4, 21)) | {300}


@pytest.mark.parametrize(
    "prepared",
    [{**COLUMN, "setup": PARTITIONED}, {**TABLE, "setup": PARTITIONED}],
    indirect=True,
    ids=["column", "table"],
)
def test_a_row_moved_between_partitions_is_followed(prepared: Prepared) -> None:
    placement = make_placement(prepared.migration)
    prepare_batch(prepared.conn)
    found = placement.read_keys(prepared.conn, [("1", "eu"), ("2", "us")])
    rows = [item.row for item in found]
    vectors = hash_model(16)([row.text for row in rows], None).astype(np.float32)
    with prepared.conn.transaction():
        assert len(placement.replace(prepared.conn, rows, vectors, Side.NEW)) == 2
    prepared.queue()
    prepared.conn.execute("UPDATE documents SET region = 'us', content = 'moved and edited' WHERE id = 1")
    assert ("1", "us") in [key for key, _ in prepared.queue()]
    assert placement.sweep(prepared.conn, 10) == [("1", "us")]


NO_FOREIGN_KEY = {**TABLE, "foreign_key": False}


@pytest.mark.parametrize("prepared", [NO_FOREIGN_KEY], indirect=True)
def test_without_a_foreign_key_deletes_key_changes_and_truncate_are_queued(prepared: Prepared) -> None:
    prepared.conn.execute("DELETE FROM documents WHERE id = 1")
    prepared.conn.execute("UPDATE documents SET id = 200 WHERE id = 2")
    prepared.conn.execute("TRUNCATE documents")
    assert prepared.queue() == [(("1",), "d"), (("2",), "d"), (("200",), "u"), ((), "t")]


@pytest.mark.parametrize("prepared", [NO_FOREIGN_KEY], indirect=True)
def test_without_a_foreign_key_orphans_are_removed(prepared: Prepared) -> None:
    placement = make_placement(prepared.migration)
    assert isinstance(placement, TablePlacement)
    prepare_batch(prepared.conn)
    rows = placement.read_shard(prepared.conn, TableName("public", "documents"), 0, 100)
    vectors = hash_model(16)([row.text for row in rows], None).astype(np.float32)
    with prepared.conn.transaction():
        placement.write(prepared.conn, TableName("public", "documents"), rows, vectors)
    prepared.conn.execute("DELETE FROM documents WHERE id IN (1, 2)")
    assert placement.count(prepared.conn).orphaned == 2
    assert placement.remove_orphans(prepared.conn, [("1",), ("5",)]) == 1
    assert placement.remove_orphans(prepared.conn) == 1
    assert placement.count(prepared.conn).embedded == 18


WEIRD = '''
CREATE SCHEMA "My App";
CREATE TABLE "My App"."My Docs" ("The %s Key" text PRIMARY KEY, "Body ""x""" text, body2 json, "Old Vec" vector(8));
INSERT INTO "My App"."My Docs" VALUES ('a''b', 'text', '{"k": 1}', NULL), ('[/]', NULL, NULL, NULL);
'''


@pytest.mark.parametrize(
    "prepared",
    [
        {
            **placement,
            "setup": WEIRD,
            "table": '"My App"."My Docs"',
            "content": ('Body "x"', "body2"),
        }
        for placement in (COLUMN, TABLE)
    ],
    indirect=True,
    ids=["column", "table"],
)
def test_quoted_names_and_a_text_key(prepared: Prepared) -> None:
    prepared.conn.execute("""UPDATE "My App"."My Docs" SET body2 = '{"k": 2}' WHERE "The %s Key" = 'a''b'""")
    assert prepared.queue() == [(("a'b",), "u")]
    placement = make_placement(prepared.migration)
    [row] = placement.read_shard(prepared.conn, prepared.migration.table, 0, 10)
    assert row.text == 'text\n{"k": 2}'
    assert [item.row.key for item in placement.read_keys(prepared.conn, [("a'b",)])] == [("a'b",)]
    assert placement.count(prepared.conn).empty == 1
