"""The new side's index: built beside production, watched, stopped, rebuilt, leaf by leaf, and known to the planner."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest

from embedtui.config import IndexSettings
from embedtui.errors import Interrupted, Refused
from embedtui.model import (
    Distance,
    EmbeddingModel,
    IndexMethod,
    IndexStatus,
    Phase,
    PlacementKind,
    Side,
    TableName,
)
from embedtui.postgres import indexes
from embedtui.postgres.connect import Connection
from tests.kits.samples import sample_migration
from tests.kits.support import connect

DIMENSIONS = 8
QUICK = IndexSettings(m=4, ef_construction=8)
SCHEMA = f"""
CREATE TABLE documents (id bigserial PRIMARY KEY, content text, embedding vector({DIMENSIONS}),
                        embedding_v2 vector({DIMENSIONS}), embedding_v2_model int, embedding_v2_source bigint);
INSERT INTO documents (content, embedding, embedding_v2)
SELECT 'text ' || i, v, v
FROM (SELECT i, ARRAY(SELECT random() + 0 * i FROM generate_series(1, {DIMENSIONS}))::vector AS v
      FROM generate_series(1, 2000) i) s;
CREATE INDEX idx_documents_embedding ON documents
    USING hnsw (embedding vector_cosine_ops) WITH (m = 4, ef_construction = 8);
ANALYZE documents;
"""


make_migration = functools.partial(sample_migration, phase=Phase.INDEX)


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with connect(database, name="test") as conn:
        conn.execute(SCHEMA)
        yield conn


@pytest.fixture
def opener(database: str) -> Callable[[], Connection]:
    return lambda: connect(database, name="index")


def valid(conn: Connection, name: str) -> bool | None:
    row = conn.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (name,)).fetchone()
    return row and row[0]


def test_builds_reports_and_keeps(conn: Connection, opener: Callable[[], Connection]) -> None:
    migration = make_migration()
    seen: list[IndexStatus] = []
    assert not indexes.index_status(conn, migration).exists
    done = indexes.build(opener, migration, QUICK, threading.Event(), seen.append)
    assert done.name == "idx_documents_embedding_v2"
    assert done.built
    assert done.size_bytes > 0
    assert seen[-1] == indexes.index_status(conn, migration)
    assert (seen[-1].exists, seen[-1].valid, seen[-1].phase) == (True, True, "")
    row = conn.execute("SELECT pg_get_indexdef('idx_documents_embedding_v2'::regclass)").fetchone()
    assert row is not None
    assert "hnsw (embedding_v2 vector_cosine_ops) WITH (m='4', ef_construction='8')" in row[0]

    oid = conn.execute("SELECT 'idx_documents_embedding_v2'::regclass::oid").fetchone()
    again = indexes.build(opener, migration, QUICK, threading.Event())
    assert not again.built
    assert conn.execute("SELECT 'idx_documents_embedding_v2'::regclass::oid").fetchone() == oid


def test_the_statement_shown_is_the_one_run(conn: Connection) -> None:
    (statement,) = indexes.create_sql(conn, make_migration(), IndexSettings())
    assert statement.as_string(conn) == (
        'CREATE INDEX CONCURRENTLY "idx_documents_embedding_v2" ON "public"."documents" USING hnsw'
        ' ("embedding_v2" "public"."vector_cosine_ops")'
    )
    (ivfflat,) = indexes.create_sql(conn, make_migration(), IndexSettings(IndexMethod.IVFFLAT))
    assert ivfflat.as_string(conn).endswith(
        'USING ivfflat ("embedding_v2" "public"."vector_cosine_ops") WITH ("lists" = 2)'
    )
    assert indexes.create_sql(conn, make_migration(), IndexSettings(IndexMethod.NONE)) == ()


def test_the_statement_for_a_side_table_that_is_still_to_come(conn: Connection) -> None:
    coming = make_migration(
        placement=PlacementKind.TABLE, new_table=TableName("public", "documents_embedding_v2"), new_column="embedding"
    )
    (statement,) = indexes.create_sql(conn, coming, IndexSettings(IndexMethod.IVFFLAT))
    assert statement.as_string(conn).startswith(
        'CREATE INDEX CONCURRENTLY "idx_documents_embedding_v2" ON "public"."documents_embedding_v2" USING ivfflat'
    )
    assert statement.as_string(conn).endswith('WITH ("lists" = 2)')


def test_no_time_out_applies_and_memory_is_set_for_the_build_alone(
    conn: Connection, opener: Callable[[], Connection]
) -> None:
    """An event trigger writes down the settings that the CREATE INDEX itself ran under."""
    names = ("lock_timeout", "statement_timeout", "maintenance_work_mem", "max_parallel_maintenance_workers")
    conn.execute("CREATE TABLE seen (settings text[])")
    conn.execute(
        "CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (ARRAY["
        + ", ".join(f"current_setting('{name}')" for name in names)
        + "]); END $$"
    )
    conn.execute("CREATE EVENT TRIGGER look ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION look()")
    options = replace(QUICK, maintenance_work_mem="37MB", parallel_workers=0)
    indexes.build(opener, make_migration(), options, threading.Event())
    assert conn.execute("SELECT settings FROM seen").fetchall() == [(["0", "0", "37MB", "0"],)]
    assert conn.execute("SHOW maintenance_work_mem").fetchone() != ("37MB",)


def test_another_index_of_that_name_is_refused(conn: Connection, opener: Callable[[], Connection]) -> None:
    conn.execute("CREATE INDEX idx_documents_embedding_v2 ON documents USING ivfflat (embedding_v2 vector_cosine_ops)")
    with pytest.raises(Refused, match="method ivfflat, not hnsw"):
        indexes.build(opener, make_migration(), QUICK, threading.Event())
    conn.execute("DROP INDEX idx_documents_embedding_v2")
    conn.execute("CREATE INDEX idx_documents_embedding_v2 ON documents (content)")
    with pytest.raises(Refused, match="not an index of the new vectors"):
        indexes.build(opener, make_migration(), QUICK, threading.Event())


def test_an_invalid_leftover_is_rebuilt(conn: Connection, opener: Callable[[], Connection]) -> None:
    conn.execute(
        "CREATE INDEX idx_documents_embedding_v2 ON documents USING hnsw (embedding_v2 vector_cosine_ops)"
        " WITH (m = 4, ef_construction = 8)"
    )
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_documents_embedding_v2'::regclass")
    status = indexes.index_status(conn, make_migration())
    assert (status.exists, status.valid) == (True, False)
    assert indexes.build(opener, make_migration(), QUICK, threading.Event()).built
    assert valid(conn, "idx_documents_embedding_v2")


@pytest.mark.usefixtures("conn")
def test_names_the_old_transaction_it_waits_for(database: str, opener: Callable[[], Connection]) -> None:
    with psycopg.connect(database, application_name="shop") as shop:
        shop.execute("UPDATE documents SET content = 'secret' WHERE id = 1")
        named: list[IndexStatus] = []

        def on_progress(status: IndexStatus) -> None:
            if status.waiting_for and not named:
                named.append(status)
                shop.rollback()

        assert indexes.build(opener, make_migration(), QUICK, threading.Event(), on_progress).built
    assert "(shop)" in named[0].waiting_for
    assert "UPDATE documents SET content = ? WHERE id = ?" in named[0].waiting_for
    assert named[0].phase == "waiting for writers before build"


def test_a_stop_cancels_and_leaves_nothing_behind(
    database: str, conn: Connection, opener: Callable[[], Connection]
) -> None:
    stop = threading.Event()
    with psycopg.connect(database, application_name="shop") as shop:
        # a reader: holds a snapshot that the build waits for at its end, and no lock that the drop would wait for
        shop.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        shop.execute("SELECT 1")

        def on_progress(status: IndexStatus) -> None:
            if status.waiting_for:
                stop.set()

        with pytest.raises(Interrupted):
            indexes.build(opener, make_migration(), QUICK, stop, on_progress)
    assert valid(conn, "idx_documents_embedding_v2") is None
    with pytest.raises(Interrupted):
        indexes.build(opener, make_migration(), QUICK, stop)
    assert indexes.build(opener, make_migration(), QUICK, threading.Event()).built


def test_a_killed_build_is_taken_over_and_its_leftover_rebuilt(
    database: str, conn: Connection, opener: Callable[[], Connection]
) -> None:
    """Two processes: the second watches the first, which then loses its backend, and finishes the work."""
    watching = threading.Event()
    outcome: list[BaseException | indexes.IndexBuild] = []

    def first() -> None:
        try:
            outcome.append(indexes.build(opener, make_migration(), QUICK, threading.Event()))
        except psycopg.OperationalError as error:
            outcome.append(error)

    with psycopg.connect(database, application_name="shop") as shop:
        shop.execute("UPDATE documents SET content = 'x' WHERE id = 1")
        builder = threading.Thread(target=first)
        builder.start()
        killed: list[str] = []

        def on_progress(status: IndexStatus) -> None:
            if status.waiting_for and not killed:
                watching.set()
                killed.append(status.waiting_for)
                conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index")
                shop.rollback()

        # the first is at work once the server reports it
        while conn.execute("SELECT 1 FROM pg_stat_progress_create_index").fetchone() is None:
            pass
        done = indexes.build(opener, make_migration(), QUICK, threading.Event(), on_progress)
        builder.join()
    assert killed
    assert isinstance(outcome[0], psycopg.OperationalError)
    assert done.built
    assert valid(conn, "idx_documents_embedding_v2")


def test_a_build_by_hand_is_watched_and_kept(database: str, conn: Connection, opener: Callable[[], Connection]) -> None:
    def by_hand() -> None:
        with psycopg.connect(database, autocommit=True) as hand:
            hand.execute(
                "CREATE INDEX CONCURRENTLY idx_documents_embedding_v2 ON documents"
                " USING hnsw (embedding_v2 vector_cosine_ops) WITH (m = 4, ef_construction = 8)"
            )

    with psycopg.connect(database, application_name="shop") as shop:
        shop.execute("UPDATE documents SET content = 'x' WHERE id = 1")
        work = threading.Thread(target=by_hand)
        work.start()
        while conn.execute("SELECT 1 FROM pg_stat_progress_create_index").fetchone() is None:
            pass
        seen: list[int | None] = []

        def on_progress(_status: IndexStatus) -> None:
            row = conn.execute("SELECT to_regclass('idx_documents_embedding_v2')::oid").fetchone()
            seen.append(row and row[0])
            shop.rollback()

        done = indexes.build(opener, make_migration(), QUICK, threading.Event(), on_progress)
        work.join()
    assert not done.built
    assert seen[0] == seen[-1] is not None


@pytest.mark.usefixtures("conn")
def test_only_one_process_builds(database: str, opener: Callable[[], Connection]) -> None:
    with connect(database, name="other") as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('embedtui.index.1', 0))")
        exists: list[bool] = []

        def on_progress(status: IndexStatus) -> None:
            exists.append(status.exists)
            if len(exists) == 2:
                other.execute("SELECT pg_advisory_unlock_all()")

        done = indexes.build(opener, make_migration(), QUICK, threading.Event(), on_progress)
    assert exists[:2] == [False, False]
    assert done.built


def test_partitions_one_by_one(conn: Connection, opener: Callable[[], Connection]) -> None:
    conn.execute(
        f"""
        CREATE TABLE parted (id bigint, region text, content text, embedding vector({DIMENSIONS}),
                             embedding_v2 vector({DIMENSIONS}), PRIMARY KEY (id, region)) PARTITION BY LIST (region);
        CREATE TABLE parted_eu PARTITION OF parted FOR VALUES IN ('eu') PARTITION BY RANGE (id);
        CREATE TABLE parted_eu_1 PARTITION OF parted_eu FOR VALUES FROM (0) TO (100);
        CREATE TABLE parted_eu_2 PARTITION OF parted_eu FOR VALUES FROM (100) TO (1000);
        CREATE TABLE parted_us PARTITION OF parted FOR VALUES IN ('us');
        INSERT INTO parted SELECT i, CASE i % 2 WHEN 0 THEN 'eu' ELSE 'us' END, 'x', NULL, d.embedding
        FROM generate_series(1, 400) i JOIN documents d ON d.id = i;
        """
    )
    table = TableName("public", "parted")
    migration = make_migration(table=table, new_table=table, key_columns=("id", "region"), key_types=("bigint", "text"))
    shown = [statement.as_string(conn) for statement in indexes.create_sql(conn, migration, QUICK)]
    assert sum("CONCURRENTLY" in text for text in shown) == 3
    assert sum("ATTACH" in text for text in shown) == 4
    # one leaf was done by an earlier, interrupted run
    conn.execute(next(text for text in shown if "CONCURRENTLY" in text).encode())
    done = indexes.build(opener, migration, QUICK, threading.Event())
    assert done.name == "parted_embedding_v2_idx"
    assert done.built
    rows = conn.execute(
        "SELECT count(*), bool_and(indisvalid) FROM pg_index"
        " WHERE indexrelid IN (SELECT relid FROM pg_partition_tree('parted_embedding_v2_idx'))"
    ).fetchone()
    assert rows == (5, True)
    assert indexes.index_status(conn, migration).valid
    assert not indexes.build(opener, migration, QUICK, threading.Event()).built


def test_side_table_and_halfvec(conn: Connection, opener: Callable[[], Connection]) -> None:
    conn.execute(
        f"""
        CREATE TABLE documents_embedding_v2 (id bigint PRIMARY KEY, embedding halfvec({DIMENSIONS}), model int,
                                             source bigint);
        INSERT INTO documents_embedding_v2 SELECT id, embedding::halfvec FROM documents;
        ANALYZE documents_embedding_v2
        """
    )
    migration = make_migration(
        placement=PlacementKind.TABLE,
        new_table=TableName("public", "documents_embedding_v2"),
        new_column="embedding",
        vector_type="halfvec",
        distance=Distance.L2,
    )
    done = indexes.build(opener, migration, QUICK, threading.Event())
    assert done.name == "idx_documents_embedding_v2"
    row = conn.execute("SELECT tablename, indexdef FROM pg_indexes WHERE indexname = %s", (done.name,)).fetchone()
    assert row is not None
    assert row[0] == "documents_embedding_v2"
    assert "halfvec_l2_ops" in row[1]
    assert indexes.used_by_search(conn, migration, Side.NEW).index == done.name


def test_use_by_the_planner_and_prewarming(conn: Connection, opener: Callable[[], Connection]) -> None:
    migration = make_migration()
    without = indexes.used_by_search(conn, migration, Side.NEW)
    assert (without.used, without.usable, without.index) == (False, False, "")
    indexes.build(opener, migration, QUICK, threading.Event())
    assert indexes.used_by_search(conn, migration, Side.NEW) == indexes.SearchUse(
        True, True, "idx_documents_embedding_v2"
    )
    assert indexes.used_by_search(conn, migration, Side.OLD).index == "idx_documents_embedding"
    # an index of another distance serves no search
    assert not indexes.used_by_search(conn, replace(migration, distance=Distance.L2), Side.NEW).usable
    conn.execute("DELETE FROM documents WHERE id > 3")
    conn.execute("VACUUM ANALYZE documents")
    small = indexes.used_by_search(conn, migration, Side.NEW)
    assert (small.used, small.usable) == (False, True)
    assert conn.execute("SHOW enable_seqscan").fetchone() == ("on",)


def test_a_cold_index_is_warmed_within_its_time(conn: Connection, opener: Callable[[], Connection]) -> None:
    migration = make_migration()
    assert not indexes.is_cold(conn, migration), "there is none"
    indexes.build(opener, migration, QUICK, threading.Event())
    assert indexes.is_cold(conn, migration)
    assert indexes.prewarm(conn, migration) == indexes.WARM_SEARCHES
    conn.execute("SELECT pg_stat_force_next_flush()")
    assert not indexes.is_cold(conn, migration)
    assert indexes.prewarm(conn, migration, seconds=0) == 0
    with psycopg.connect(conn.info.dsn) as other:
        other.execute("LOCK TABLE documents")
        conn.execute("SET lock_timeout = '50ms'")
        assert indexes.prewarm(conn, migration) == 0, "it is a favour, no condition"


def test_dimensions_beyond_the_type_are_refused(conn: Connection) -> None:
    large = EmbeddingModel("text-embedding-3-large", 3072)
    for kind in ("vector", "halfvec"):  # a vector of so many is indexed as halfvec
        assert indexes.create_sql(conn, make_migration(new_model=large, vector_type=kind), IndexSettings())
        with pytest.raises(Refused, match="4,000"):
            indexes.create_sql(
                conn, make_migration(new_model=replace(large, dimensions=4096), vector_type=kind), IndexSettings()
            )


def test_names(conn: Connection) -> None:
    migration = make_migration()
    conn.execute("ALTER INDEX idx_documents_embedding RENAME TO idx_v2")
    assert indexes.targets_of(conn, migration)[0].name == "idx_v3"
    conn.execute(f"ALTER INDEX idx_v2 RENAME TO {'x' * 63}")
    name = indexes.targets_of(conn, migration)[0].name
    assert len(name) == 63
    assert name.endswith("_v2")
    conn.execute(f"DROP INDEX {'x' * 63}")
    assert indexes.targets_of(conn, migration)[0].name == "documents_embedding_v2_idx"


@pytest.mark.parametrize(("rows", "lists"), [(0, 1), (2_400, 2), (1_000_000, 1000), (4_000_000, 2000), (10**10, 32768)])
def test_lists(rows: int, lists: int) -> None:
    assert indexes.ivfflat_lists(rows) == lists


@pytest.mark.parametrize("vector_type", ["vector", "halfvec"])
def test_the_forecast_is_where_the_server_runs_out_of_memory(
    conn: Connection, opener: Callable[[], Connection], vector_type: str
) -> None:
    wide = 1500
    conn.execute(
        f"""
        ALTER TABLE documents DROP embedding_v2, ADD embedding_v2 {vector_type}({wide});
        UPDATE documents SET embedding_v2 = ARRAY(SELECT id * random() FROM generate_series(1, {wide}))::{vector_type}
        """
    )
    migration = make_migration(new_model=EmbeddingModel("new", wide), vector_type=vector_type)
    options = replace(QUICK, maintenance_work_mem="4MB", parallel_workers=0)
    done = indexes.build(opener, migration, options, threading.Event())
    text = next(notice for notice in done.notices if "no longer fits" in notice)
    fitted = int(re.findall(r"\d+", text)[0])
    needed = indexes.forecast(fitted, wide, QUICK.m, vector_type) - 4 * 2**20
    assert needed == pytest.approx(4 * 2**20, rel=0.05)
