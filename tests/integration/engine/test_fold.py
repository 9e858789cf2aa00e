"""A side table folded into its table: names, attributes and vectors as a library that never heard of us needs them."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from embedtui.engine.cleanup import notices
from embedtui.engine.cleanup.abort import abort
from embedtui.engine.cleanup.blockers import cleanup_blockers
from embedtui.engine.cleanup.choice import CleanupChoice, CleanupStep
from embedtui.engine.cleanup.cleanup import cleanup
from embedtui.engine.cleanup.fold import Folding
from embedtui.engine.cleanup.notices import cleanup_notices, decided
from embedtui.engine.table_changes import remember
from embedtui.errors import Refused
from embedtui.model import Migration, PlacementKind, Side
from embedtui.postgres import indexes as index_module
from embedtui.postgres.catalog import usage
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import relation
from embedtui.postgres.sides import capture, fold
from embedtui.postgres.state import migrations as state
from embedtui.postgres.state import pointer
from embedtui.postgres.state.listeners import read_listeners
from embedtui.router import Router
from tests.integration.engine.test_cleanup import (
    ROWS,
    Killed,
    begun,
    columns,
    count,
    indexes,
    leftovers,
    require_clean_end,
    soaked,
    vector,
)
from tests.kits.cutover_kit import flip, make
from tests.kits.cutover_kit import vector as direction
from tests.kits.support import connect, wait_for

FOLD = CleanupChoice(fold=True)


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with connect(database, name="cleanup") as conn:
        yield conn


def clean(
    conn: Connection,
    migration: Migration,
    choice: CleanupChoice = FOLD,
    on_step: Callable[[CleanupStep], None] | None = None,
    override: dict[str, str] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> None:
    cleanup(
        conn,
        migration,
        choice,
        typed_name=migration.table.name,
        stop=threading.Event(),
        override=override or {"soak": "a test"},
        on_step=on_step,
        on_wait=on_wait,
        connect=lambda: connect(conn.info.dsn, name="index", statement_timeout_ms=0, lock_timeout_ms=0),
    )


def test_it_ends_as_the_table_began(conn: Connection) -> None:
    """The default where nobody was heard from: old names, NOT NULL, default, storage, target, options and comments."""
    migration = begun(conn, PlacementKind.TABLE, old="NOT NULL")
    remember(conn, migration)
    zeros = "DEFAULT array_fill(0, ARRAY[768])::vector"
    conn.execute(
        f"ALTER TABLE documents ALTER embedding DROP NOT NULL, ALTER embedding SET {zeros}".encode()
        + b", ALTER embedding SET STORAGE MAIN, ALTER embedding SET STATISTICS 7, ALTER embedding SET (n_distinct = 9);"
        b" COMMENT ON COLUMN documents.embedding IS 'of it''s text'; COMMENT ON INDEX idx_documents_embedding IS 'ann'"
    )
    state_before = conn.execute(ATTRIBUTES).fetchone()
    assert state_before is not None and state_before[0] == "m" and "array_fill" in state_before[4]
    pointer.move_route(conn, "documents", expect_epoch=None, active=Side.NEW, canary=100, who="t", host="h")
    found = state.load_migration(conn)
    assert found is not None
    ran: list[str] = []
    clean(conn, found, CleanupChoice(), on_step=lambda step: ran.append(step.name))
    assert ran == ["begin", "fold", "index", "exchange", "settle", "contract", "not null", "finish"]
    require_clean_end(conn, not_null=True)
    assert conn.execute(ATTRIBUTES).fetchone() == state_before
    assert columns(conn, "documents_embedding_v2") == {}
    ended = state.load_migration(conn)
    assert ended is not None and (ended.placement, ended.new_table) == (PlacementKind.COLUMN, ended.table)
    assert count(conn, "SELECT count(*) FROM embedtui.queue") == 0
    # a library that knows the table only finds it by its index
    conn.execute("SET enable_seqscan = off; SET enable_sort = off; SET search_path = public")
    plan = conn.execute(f"EXPLAIN SELECT id FROM documents ORDER BY embedding <=> {vector('8')} LIMIT 1".encode())
    assert "idx_documents_embedding" in str(plan.fetchall())


ATTRIBUTES = """
SELECT a.attstorage, a.attcompression, a.attstattarget, a.attoptions, pg_get_expr(d.adbin, d.adrelid),
       col_description(a.attrelid, a.attnum), obj_description('idx_documents_embedding'::regclass, 'pg_class')
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON (adrelid, adnum) = (attrelid, attnum)
 WHERE attrelid = 'documents'::regclass AND attname = 'embedding'
"""


def test_a_new_column_takes_over_the_same(conn: Connection) -> None:
    """Placement column, too."""
    migration = begun(conn, old="NOT NULL")
    remember(conn, migration)
    conn.execute(
        "ALTER TABLE documents ALTER embedding DROP NOT NULL, ALTER embedding SET STORAGE PLAIN,"
        " ALTER embedding SET STATISTICS 0; COMMENT ON COLUMN documents.embedding IS 'x'"
    )
    before = conn.execute(ATTRIBUTES).fetchone()
    pointer.move_route(conn, "documents", expect_epoch=None, active=Side.NEW, canary=100, who="t", host="h")
    found = state.load_migration(conn)
    assert found is not None
    clean(conn, found, CleanupChoice())
    require_clean_end(conn, not_null=True)
    assert conn.execute(ATTRIBUTES).fetchone() == before


def test_a_default_of_other_dimensions_is_said(conn: Connection) -> None:
    migration = soaked(conn)
    conn.execute("ALTER TABLE documents ALTER embedding SET DEFAULT array_fill(0, ARRAY[768])::vector")
    other = replace(migration, new_model=replace(migration.new_model, dimensions=16))
    assert [each.name for each in cleanup_blockers(conn, other, CleanupChoice())] == ["default"]
    assert cleanup_blockers(conn, migration, CleanupChoice()) == ()


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("Mixed Case", (("The Id", "uuid"),)),
        ("t" * 46, (("tenant", "text"), ("id", "bigint"))),
        ("percent%s", (("id", "bigint"),)),
    ],
)
def test_names_and_keys_of_every_kind(database: str, table: str, key: tuple[tuple[str, str], ...]) -> None:
    migration = make(database, PlacementKind.TABLE, table=table, key=key, rows=30)
    flip(database, migration.name, "new")
    with connect(database) as conn:
        clean(conn, migration)
        names = sql.SQL("SELECT count(*), count(embedding) FROM {} WHERE embedding::text = ANY (%s)").format(
            relation(migration.table)
        )
        wanted = [str(direction(n + 1)).replace(" ", "") for n in range(1, 31)]
        assert conn.execute(names.as_string(conn).replace("percent%s", "percent%%s").encode(), [wanted]).fetchone() == (
            30,
            30,
        )
        assert conn.execute("SELECT to_regclass(%s)", [relation(migration.new_table).as_string(conn)]).fetchone() == (
            None,
        )


def test_leaf_by_leaf(conn: Connection, database: str) -> None:
    """A partitioned table: its rows are copied and indexed in each of its leaves."""
    migration = soaked(conn, PlacementKind.TABLE)
    conn.execute(
        """
        ALTER TABLE documents_embedding_v2 DROP CONSTRAINT documents_embedding_v2_id_fkey;
        ALTER TABLE documents RENAME TO plain;
        ALTER INDEX idx_documents_embedding RENAME TO plain_ann;
        CREATE TABLE documents (id bigint PRIMARY KEY, content text, metadata jsonb, embedding vector(768))
            PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF documents FOR VALUES FROM (0) TO (7);
        CREATE TABLE high PARTITION OF documents FOR VALUES FROM (7) TO (1000);
        INSERT INTO documents SELECT * FROM plain;
        DROP TABLE plain;
        CREATE INDEX idx_documents_embedding ON documents USING hnsw (embedding vector_cosine_ops);
        """
    )
    oid = count(conn, "SELECT 'documents'::regclass::oid")
    conn.execute(
        "UPDATE embedtui.migration SET table_oid = %s, settings = settings || '{\"foreign_key\": false}'", [oid]
    )
    found = state.load_migration(conn)
    assert found is not None
    for statement in capture.install_sql(found):
        conn.execute(statement)
    clean(conn, found)
    assert count(conn, f"SELECT count(*) FROM documents WHERE embedding <-> {vector('id * 2')} < 1e-4") == ROWS
    for leaf in ("low", "high", "documents"):
        assert list(columns(conn, leaf))[-1] == "embedding" and len(indexes(conn, leaf)) == 2
        assert all(indexes(conn, leaf).values())
    assert "idx_documents_embedding" in indexes(conn)
    assert leftovers(conn) == 0 and migration.id == found.id


def test_what_the_application_writes_to_the_side_table_meanwhile_is_kept(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the trigger could not tell, where a row is taken away, and as the drop begins."""
    catch_up, dropping = Folding.catch_up, threading.Event()

    def write_after(folding: Folding) -> None:
        catch_up(folding)
        if dropping.is_set():
            conn.execute(f"UPDATE documents_embedding_v2 SET embedding = {vector('80')} WHERE id = 9".encode())

    monkeypatch.setattr(Folding, "catch_up", write_after)
    migration = soaked(conn, PlacementKind.TABLE)

    def write(step: CleanupStep) -> None:
        if step.name == "index":
            conn.execute(f"UPDATE documents_embedding_v2 SET embedding = {vector('77')} WHERE id = 3".encode())
            conn.execute("ALTER TABLE embedtui.queue ADD CHECK (key <> '{4}')")
            conn.execute(f"UPDATE documents_embedding_v2 SET embedding = {vector('78')} WHERE id = 4".encode())
            assert count(conn, "SELECT count(*) FROM embedtui.capture_fault") == 1
            conn.execute("ALTER TABLE embedtui.queue DROP CONSTRAINT queue_key_check")
        if step.name == "exchange":
            conn.execute(f"UPDATE documents_embedding_v2 SET embedding = {vector('79')} WHERE id = 5".encode())
            conn.execute("DELETE FROM documents_embedding_v2 WHERE id = 6; DELETE FROM documents WHERE id = 7")
            conn.execute("UPDATE documents SET id = 1000 WHERE id = 8")
            conn.execute("DELETE FROM embedtui.queue WHERE migration > 0")  # no worker is here
            dropping.set()

    clean(conn, migration, on_step=write)
    for row, number in ((3, "77"), (4, "78"), (5, "79"), (9, "80"), (1000, "16")):
        assert count(conn, f"SELECT count(*) FROM documents WHERE id = {row} AND embedding <-> {vector(number)} < 1e-4")
    assert conn.execute("SELECT id FROM documents WHERE embedding IS NULL").fetchall() == [(6,)]
    assert count(conn, "SELECT count(*) FROM documents") == ROWS - 1


def test_rows_that_the_application_has_locked_are_copied_when_it_lets_go(database: str, conn: Connection) -> None:
    migration = soaked(conn, PlacementKind.TABLE)
    for statement in fold.prepare_sql(conn, migration, "embedding_v2"):
        conn.execute(statement)
    with psycopg.connect(database) as shop:
        shop.execute("SELECT FROM documents WHERE id IN (2, 9) FOR UPDATE")
        folding = fold.Fold(migration, "embedding_v2")
        done = [
            folding.copy(conn, keys, leaf)
            for leaf, first, last in folding.ranges(conn)
            for keys in folding.differing(conn, leaf, first, last)
        ]
        assert len(set().union(*done)) == ROWS - 2
        assert folding.existing(conn, [("2",), ("9",), ("99",)]) == {("2",), ("9",)}
        shop.rollback()
        assert folding.copy(conn, [("2",), ("9",)]) == {("2",), ("9",)}
    assert count(conn, "SELECT count(*) FROM documents WHERE embedding_v2 IS NULL") == 0


def test_a_row_that_changes_as_it_is_copied_is_not_said_to_be(
    database: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its newest version is locked by a statement that does not see it."""
    migration = soaked(conn, PlacementKind.TABLE)
    for statement in fold.prepare_sql(conn, migration, "embedding_v2"):
        conn.execute(statement)
    folding = fold.Fold(migration, "embedding_v2")
    slow = sql.SQL("pg_catalog.pg_sleep(0.5) IS NOT NULL").format()
    with psycopg.connect(database, autocommit=True) as shop, monkeypatch.context() as patch:
        patch.setattr(fold, "scope_sql", lambda *_: slow)
        edit = threading.Timer(0.25, lambda: shop.execute("UPDATE documents SET content = 'x' WHERE id = 5"))
        edit.start()
        done = folding.copy(conn, [("5",)])
        edit.join()
    copied = count(conn, "SELECT count(*) FROM documents WHERE id = 5 AND embedding_v2 IS NOT NULL")
    assert done == ({("5",)} if copied else set())
    assert folding.copy(conn, [("5",)]) == {("5",)}
    assert count(conn, "SELECT count(*) FROM documents WHERE id = 5 AND embedding_v2 IS NOT NULL")


def taken_back(conn: Connection, migration: Migration, at: str) -> None:
    """A cleanup that folds and ends, as it begins the step ``at``, by a rollback."""

    def roll_back(step: CleanupStep) -> None:
        if step.name == at:
            pointer.move_route(conn, "documents", expect_epoch=None, active=Side.OLD, canary=0, who="t", host="h")

    with pytest.raises(Refused, match="rolled back"):
        clean(conn, migration, on_step=roll_back)


@pytest.mark.parametrize("at", ["fold", "index", "exchange"])
def test_a_rollback_takes_it_back_and_what_it_left_goes_with_the_migration(conn: Connection, at: str) -> None:
    migration = soaked(conn, PlacementKind.TABLE)
    taken_back(conn, migration, at)
    assert capture.state(conn, migration).installed
    # nothing is told of a fold that is over
    conn.execute("DELETE FROM embedtui.queue; UPDATE documents_embedding_v2 SET source = 1")
    assert count(conn, "SELECT count(*) FROM embedtui.queue") == 0
    found = state.load_migration(conn)
    assert found is not None
    abort(conn, found, typed_name="documents", stop=threading.Event())
    assert list(columns(conn)) == ["id", "content", "metadata", "embedding"]
    assert set(indexes(conn)) == {"documents_pkey", "idx_documents_embedding"}
    assert leftovers(conn) == 0 and columns(conn, "documents_embedding_v2") == {}


def test_after_a_fold_that_was_taken_back_the_side_table_can_still_be_kept(conn: Connection) -> None:
    migration = soaked(conn, PlacementKind.TABLE)
    taken_back(conn, migration, "exchange")
    pointer.move_route(conn, "documents", expect_epoch=None, active=Side.NEW, canary=100, who="t", host="h")
    clean(conn, migration, CleanupChoice(fold=False))
    assert list(columns(conn)) == ["id", "content", "metadata"]
    assert count(conn, "SELECT count(*) FROM documents_embedding_v2") == ROWS
    assert leftovers(conn) == 0


def test_a_name_that_is_taken_is_not_touched(conn: Connection) -> None:
    migration = soaked(conn, PlacementKind.TABLE)
    conn.execute("ALTER TABLE documents ADD embedding_v2_source text DEFAULT 'mine'")
    clean(conn, migration)
    assert list(columns(conn)) == ["id", "content", "metadata", "embedding_v2_source", "embedding"]
    assert count(conn, "SELECT count(*) FROM documents WHERE embedding_v2_source = 'mine'") == ROWS


@pytest.mark.parametrize("always", [False, True])
def test_deferred_triggers_of_the_application_hinder_nothing(conn: Connection, always: bool) -> None:
    migration = soaked(conn, PlacementKind.TABLE)
    conn.execute(
        """
        CREATE TABLE seen (id bigint);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS
            $$ BEGIN INSERT INTO seen VALUES (NEW.id); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON documents DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION see();
        """
    )
    if always:
        conn.execute("ALTER TABLE documents ENABLE ALWAYS TRIGGER late")
        (blocker,) = cleanup_blockers(conn, migration, FOLD)
        assert (blocker.name, blocker.overridable) == ("fold", True) and "fires late" in blocker.message
    else:
        assert not list(cleanup_blockers(conn, migration, FOLD))

    def write(step: CleanupStep) -> None:
        if step.name == "exchange":
            conn.execute(f"UPDATE documents_embedding_v2 SET embedding = {vector('79')} WHERE id = 5".encode())

    clean(conn, migration, on_step=write, override={"fold": "it is harmless"} if always else None)
    assert (count(conn, "SELECT count(*) FROM seen") > 0) == always
    assert count(conn, f"SELECT count(*) FROM documents WHERE id = 5 AND embedding <-> {vector('79')} < 1e-4")


def test_a_view_of_the_side_table_is_said_before_anything(conn: Connection) -> None:
    migration = soaked(conn, PlacementKind.TABLE)
    conn.execute("CREATE VIEW mine AS SELECT id, embedding FROM documents_embedding_v2")
    (blocker,) = cleanup_blockers(conn, migration, FOLD)
    assert blocker.name == "dependents" and blocker.message.startswith("view mine")


# ------------------------------------------------------------------------------------------------- who was heard from


def test_where_a_router_was_ever_heard_the_side_table_stays(database: str) -> None:
    migration = make(database, PlacementKind.TABLE, rows=5)
    with connect(database) as conn:
        assert decided(conn, migration, CleanupChoice()).fold is True
        with Router(database, application_name="search-api") as router:
            router.route("documents")
            router._wake()
            wait_for(lambda: read_listeners(conn, "documents"), "the Router reports")
            said = {each.name: each for each in cleanup_notices(conn, migration, CleanupChoice())}
            assert "Router search-api" in said["heard"].detail
        assert read_listeners(conn, "documents") == ()
        assert decided(conn, migration, CleanupChoice()).fold is False, "it was heard, and is gone"
        said = {each.name: each for each in cleanup_notices(conn, migration, CleanupChoice())}
        assert "a Router was heard from" in said["side table"].detail and "--fold" in said["side table"].hint
        assert said["heard"].result == "pass"
        for searches in (961, 12):  # those of an application that began anew are counted with what went before
            conn.execute(
                "INSERT INTO embedtui.listener (id, name, host, pid, application, epoch, epoch_seen_at, searches_old,"
                " searches_new) VALUES (gen_random_uuid(), 'documents', 'web', 1, 'search-api', 1, now(), 0, %s)",
                [searches],
            )
        heard = next(each for each in cleanup_notices(conn, migration, CleanupChoice()) if each.name == "heard")
        assert "Router search-api (973 searches of the new side since 20" in heard.detail
        assert decided(conn, migration, FOLD).fold is True


def test_names_that_somebody_goes_by_are_kept_until_told_otherwise(database: str) -> None:
    migration = make(database, rows=5)
    with connect(database) as conn, psycopg.connect(database, application_name="shop") as shop:
        assert decided(conn, migration, CleanupChoice()).rename is True
        shop.execute("SELECT id FROM documents ORDER BY embedding_v2 <=> '[1,1,1,1,1,1,1,1]' LIMIT 1")
        assert decided(conn, migration, CleanupChoice()).rename is False
        assert "session shop" in notices.followed(conn, migration)
        assert decided(conn, migration, CleanupChoice(rename=True)).rename is True
        shop.execute("SELECT 1")
        assert decided(conn, migration, CleanupChoice()).rename is True
        conn.execute(
            "CREATE FUNCTION public.nearest() RETURNS bigint LANGUAGE sql AS"
            " 'SELECT id FROM public.documents WHERE embedding_v2 IS NOT NULL LIMIT 1'"
        )
        assert "nearest()" in notices.followed(conn, migration)
        told = replace(migration, settings={"cutover": {"strategy": "env_file"}})
        assert decided(conn, told, CleanupChoice()).rename is False


def test_nobody_heard_is_said_with_what_breaks(conn: Connection) -> None:
    migration = soaked(conn, PlacementKind.TABLE)
    conn.execute("UPDATE embedtui.migration SET total_rows = 1")  # as planned: rows came since
    conn.execute("ANALYZE documents_embedding_v2")
    (vectors,) = conn.execute("SELECT count(*) FROM documents_embedding_v2").fetchone() or (0,)
    said = {each.name: each for each in cleanup_notices(conn, migration, CleanupChoice())}
    assert said["heard"].result == "warn" and "no error says so" in said["heard"].detail
    assert vectors > 1
    assert re.match(f"About {vectors} vectors of .*documents_embedding_v2 are copied", said["fold"].detail)
    assert "--no-fold" in said["fold"].hint
    assert "gets no vector" in said["after it"].detail and "run --follow" in said["after it"].hint
    other = replace(migration, new_model=replace(migration.new_model, dimensions=16))
    assert "fails by its dimensions" in next(
        each.detail for each in cleanup_notices(conn, other, CleanupChoice()) if each.name == "heard"
    )


@pytest.mark.parametrize(
    "flags", [FOLD, CleanupChoice(fold=True, rename=False), CleanupChoice(fold=True, keep_old=True)]
)
def test_a_router_under_way_goes_on_over_the_fold(database: str, flags: CleanupChoice) -> None:
    """It searches and writes all the while; its route follows to wherever the vectors are."""
    migration = make(database, PlacementKind.TABLE, rows=40)
    flip(database, migration.name, "new")
    stop, wrong = threading.Event(), list[str]()

    def search() -> None:
        with Router(database, application_name="search") as router, psycopg.connect(database) as service:
            service.autocommit = True
            while not stop.wait(0.002):
                try:
                    side = router.route("documents")
                    found = side.search(service, direction(8), k=1)
                    if [hit.key for hit in found] != [("7",)]:
                        wrong.append(str(found))
                    assert router.write(service, "documents", 9, model="new-model", vector=direction(10))
                except Exception as error:
                    wrong.append(repr(error))

    threads = [threading.Thread(target=search) for _ in range(2)]
    with connect(database) as conn:
        for thread in threads:
            thread.start()
        wait_for(lambda: len(read_listeners(conn, "documents")) == 2, "no Router")
        try:
            clean(conn, migration, flags)
            wait_for(
                lambda: (
                    {each.epoch for each in read_listeners(conn, "documents")}
                    == {pointer.read_route(conn, "documents").epoch}
                ),
                "they do not follow",
            )
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        column = "embedding" if flags is FOLD else "embedding_v2"
        row = conn.execute("SELECT relation, column_name FROM embedtui.route('documents')").fetchone()
        assert row == ("public.documents", column)
        assert len(index_module.new_indexes(conn, state.load_migration(conn) or migration)) == 1


@pytest.mark.parametrize("after", range(7))
def test_killed_before_any_step_a_rerun_ends_the_same(conn: Connection, after: int) -> None:
    migration = soaked(conn, PlacementKind.TABLE)
    steps: list[str] = []

    def kill(step: CleanupStep) -> None:
        if len(steps) == after:
            raise Killed
        steps.append(step.name)

    with pytest.raises(Killed):
        clean(conn, migration, on_step=kill)
    now = state.load_migration(conn)
    assert now is not None
    clean(conn, now, FOLD if after == 0 else CleanupChoice(fold=False, keep_old=True), on_step=kill_nothing(steps))
    assert list(dict.fromkeys(steps)) == ["begin", "fold", "index", "exchange", "settle", "contract", "finish"]
    require_clean_end(conn)


def kill_nothing(steps: list[str]) -> Callable[[CleanupStep], None]:
    return lambda step: steps.append(step.name)


def test_statements_of_the_past_are_told_where_the_server_has_kept_them(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of the shape of pg_stat_statements, which the server of the tests does not bring along."""
    migration = make(database, rows=1)
    with connect(database) as conn:
        conn.execute(
            "CREATE TABLE public.pg_stat_statements (dbid oid, query text, calls bigint);"
            " INSERT INTO public.pg_stat_statements SELECT d.oid, query, calls FROM pg_database d, (VALUES"
            " ('SELECT id FROM documents ORDER BY embedding_v2 <=> $1', 70),"
            " ('ALTER TABLE documents ADD embedding_v2 x', 3),"
            ' (\'SELECT "documents"."embedding_v2" OPERATOR("public".<=>) $1\', 900), (\'SELECT embedding_v22\', 1),'
            " ('UPDATE documents SET embedding = $1', 5)) v (query, calls) WHERE datname = current_database()"
        )
        monkeypatch.setattr(usage, "_STATEMENTS_SCHEMA", "SELECT 'public'")
        assert usage.naming(conn, "embedding_v2").statements == (
            "70 calls of: SELECT id FROM documents ORDER BY embedding_v2 <=> $1",
        )
        assert decided(conn, migration, CleanupChoice()).rename is False
        said = {each.name: each for each in cleanup_notices(conn, migration, CleanupChoice(rename=True))}
        assert "5 calls of: UPDATE documents" in said["old column"].detail
        monkeypatch.setattr(usage, "_STATEMENTS_SCHEMA", "SELECT 'pg_catalog'")  # not to be read by this role
        unseen = usage.naming(conn, "embedding_v2").unseen
        assert len(unseen) == 2 and unseen[0].startswith("pg_stat_statements (")


def test_partial_indexes_are_made_and_named_as_they_were(conn: Connection) -> None:
    """One for each tenant, as where they were before the migration."""
    migration = soaked(conn, PlacementKind.TABLE)
    conn.execute(
        "DROP INDEX idx_documents_embedding;"
        " CREATE INDEX few ON documents USING hnsw (embedding vector_cosine_ops) WHERE id < 5;"
        " CREATE INDEX rest ON documents USING hnsw (embedding vector_cosine_ops) WHERE id >= 5"
    )
    clean(conn, migration)
    assert indexes(conn) == {"documents_pkey": True, "few": True, "rest": True}
    conditions = "SELECT count(*) FROM pg_index WHERE indrelid = 'documents'::regclass AND indpred IS NOT NULL"
    assert count(conn, conditions) == 2
