"""Cleanup and abort on the article's own schema: exact SQL, refusals, and reruns that complete what was interrupted."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from embedtui.config import IndexSettings
from embedtui.engine.cleanup import archive as archives
from embedtui.engine.cleanup import settle as settling
from embedtui.engine.cleanup import steps
from embedtui.engine.cleanup.abort import abort
from embedtui.engine.cleanup.blockers import abort_blockers, cleanup_blockers
from embedtui.engine.cleanup.choice import CleanupChoice, CleanupStep, archive_target
from embedtui.engine.cleanup.cleanup import cleanup
from embedtui.engine.cleanup.statements import abort_statements, cleanup_statements
from embedtui.engine.cutover.strategies import rename_sql
from embedtui.errors import DatabaseError, Interrupted, LockTimeout, NotClean, Refused
from embedtui.model import EmbeddingModel, Migration, Phase, PlacementKind, Side, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.indexes import build
from embedtui.postgres.locks import WORKER_CLASS
from embedtui.postgres.sides import capture
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.state import migrations as state
from embedtui.postgres.state import pointer, schema
from embedtui.postgres.state.faults import count_open, record_faults
from tests.kits.samples import DOCUMENTS, sample_migration
from tests.kits.support import connect

DIMENSIONS = 768
ROWS = 12
REASON = "the soak was done elsewhere"
FOR_SOAK, FOR_ROUTE, FOR_DEPENDENTS = {"soak": REASON}, {"route": REASON}, {"dependents": REASON}
FOR_COVERAGE = {"coverage:3": REASON, "not_null:3": REASON}


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with connect(database, name="cleanup") as conn:
        yield conn


def begun(
    conn: Connection, placement: PlacementKind = PlacementKind.COLUMN, *, old: str = "", **settings: object
) -> Migration:
    """The article's table with a migration as ``prepare`` and the backfill leave it, production on the old side."""
    conn.execute(
        f"CREATE TABLE documents (id bigserial PRIMARY KEY, content text, metadata jsonb, embedding vector(768) {old})"
    )
    fill(conn, "embedding")
    conn.execute("CREATE INDEX idx_documents_embedding ON documents USING hnsw (embedding vector_cosine_ops)")
    schema.install(conn)
    pointer.install_functions(conn)
    row = conn.execute("SELECT 'documents'::regclass::oid").fetchone()
    assert row is not None
    column = placement is PlacementKind.COLUMN
    migration = state.create_migration(
        conn,
        sample_migration(
            table_oid=row[0],
            placement=placement,
            old_model=EmbeddingModel("text-embedding-004", DIMENSIONS),
            new_model=EmbeddingModel("text-embedding-3-large", DIMENSIONS),
            new_table=DOCUMENTS if column else TableName("public", "documents_embedding_v2"),
            new_column="embedding_v2" if column else "embedding",
            phase=Phase.VALIDATE,
            settings=settings,
        ),
    )
    for statement in (*make_placement(migration).prepare_sql(), *capture.install_sql(migration)):
        conn.execute(statement)
    if column:
        conn.execute(
            f"UPDATE documents SET embedding_v2 = {vector('id * 2')}, embedding_v2_model = {migration.new_model.id},"
            " embedding_v2_source = hash_record_extended(ROW(content), 0)"
        )
    else:
        conn.execute(
            f"INSERT INTO documents_embedding_v2 SELECT id, {vector('id * 2')}, {migration.new_model.id},"
            " hash_record_extended(ROW(content), 0) FROM documents"
        )
    conn.execute(
        "CREATE INDEX idx_documents_embedding_v2 ON"
        + (" documents USING hnsw (embedding_v2" if column else " documents_embedding_v2 USING hnsw (embedding")
        + " vector_cosine_ops)"
    )
    conn.execute("DELETE FROM embedtui.queue")
    conn.execute(
        "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block) VALUES (%s, 1, 1, 0, 1)",
        (migration.id,),
    )
    pointer.create_route(conn, migration)
    return migration


def soaked(conn: Connection, placement: PlacementKind = PlacementKind.COLUMN, **more: object) -> Migration:
    """… with production on the new side for longer than the soak time."""
    migration = begun(conn, placement, **more)  # type: ignore[arg-type]
    pointer.move_route(conn, "documents", expect_epoch=None, active=Side.NEW, canary=100, who="t", host="h")
    conn.execute("UPDATE embedtui.route SET changed_at = now() - interval '8 days'")
    state.set_phase(conn, migration.id, Phase.SOAK)
    found = state.load_migration(conn)
    assert found is not None
    return found


def vector(number: str) -> str:
    return f"(SELECT array_agg(sin(i * ({number})))::vector FROM generate_series(1, {DIMENSIONS}) i)"


def fill(conn: Connection, column: str, rows: int = ROWS) -> None:
    conn.execute(
        f"INSERT INTO documents (content, {column})"
        f" SELECT 'text ' || id, {vector('id')} FROM generate_series(1, {rows}) id"
    )


def columns(conn: Connection, table: str = "documents") -> dict[str, str]:
    return dict(
        conn.execute(
            "SELECT attname::text,"
            " format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' not null' ELSE '' END"
            " FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (table,),
        ).fetchall()
    )


def indexes(conn: Connection, table: str = "documents") -> dict[str, bool]:
    return dict(
        conn.execute(
            "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = to_regclass(%s)", (table,)
        ).fetchall()
    )


def count(conn: Connection, query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def leftovers(conn: Connection) -> int:
    """embedtui's own objects on the table, its functions for it, and its working rows."""
    return count(
        conn,
        "SELECT (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'embedtui%')"
        " + (SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture%')"
        " + (SELECT count(*) FROM pg_constraint WHERE conname LIKE 'embedtui%')"
        + "".join(f" + (SELECT count(*) FROM embedtui.{table})" for table in ("queue", "shard", "stale")),
    )


ARTICLE = {"id": "bigint not null", "content": "text", "metadata": "jsonb", "embedding": "vector(768)"}


def require_clean_end(conn: Connection, not_null: bool = False) -> None:
    assert columns(conn) == {**ARTICLE, "embedding": "vector(768) not null" if not_null else "vector(768)"}
    assert indexes(conn) == {"documents_pkey": True, "idx_documents_embedding": True}
    assert leftovers(conn) == 0
    # it is the new vectors that are left, and every one of them
    assert count(conn, f"SELECT count(*) FROM documents WHERE embedding <-> {vector('id * 2')} < 1e-4") == ROWS
    assert count(conn, "SELECT count(*) FROM embedtui.audit WHERE act = 'cleanup'") >= 2
    migration = state.load_migration(conn)
    assert migration is not None and migration.phase is Phase.DONE and migration.new_column == "embedding"
    row = conn.execute("SELECT model, column_name, relation FROM embedtui.route('documents', NULL)").fetchone()
    assert row == ("text-embedding-3-large", "embedding", "public.documents")
    probe = "SELECT key FROM embedtui.search('documents', 'text-embedding-3-large', " + vector("8") + ", 1)"
    assert conn.execute(probe.encode()).fetchone() == ("4",)


def test_the_articles_own_schema(conn: Connection) -> None:
    migration = soaked(conn)
    before = pointer.read_route(conn, "documents").epoch
    assert cleanup_blockers(conn, migration, CleanupChoice(), thorough=True) == ()
    shown = cleanup_statements(conn, migration, CleanupChoice())
    assert [step.name for step in shown] == ["begin", "settle", "contract", "finish"]
    contract = shown[2].statements
    for text in (
        'ALTER TABLE "public"."documents" DROP COLUMN "embedding"',
        'ALTER TABLE "public"."documents" DROP COLUMN "embedding_v2_model", DROP COLUMN "embedding_v2_source"',
        'ALTER TABLE "public"."documents" RENAME COLUMN "embedding_v2" TO "embedding"',
        'ALTER INDEX "public"."idx_documents_embedding_v2" RENAME TO "idx_documents_embedding"',
    ):
        assert text in contract
    ran: list[CleanupStep] = []
    cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), on_step=ran.append)
    assert [step.name for step in ran] == ["begin", "settle", "contract", "finish"]
    assert ran[2].statements == contract
    require_clean_end(conn)
    assert pointer.read_route(conn, "documents").epoch == before + 1
    again: list[CleanupStep] = []
    cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), on_step=again.append)
    assert again == []


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 5])
def test_killed_between_any_two_steps_a_rerun_ends_the_same(conn: Connection, after: int, tmp_path: Path) -> None:
    """Every step; the rerun asks for something else and is not heard. What is settled settles anew."""
    migration = soaked(conn, old="NOT NULL")
    choice = CleanupChoice(archive=tmp_path / "old.copy")
    steps: list[str] = []

    def kill(step: CleanupStep) -> None:
        if len(steps) == after:
            raise Killed
        steps.append(step.name)

    with pytest.raises(Killed):
        cleanup(conn, migration, choice, typed_name="documents", stop=threading.Event(), on_step=kill)
    rest: list[str] = []
    now = state.load_migration(conn)
    assert now is not None
    cleanup(
        conn,
        now,
        choice if after == 0 else CleanupChoice(keep_old=True, archive=choice.archive if after == 1 else None),
        typed_name="documents",
        stop=threading.Event(),
        on_step=lambda step: rest.append(step.name),
    )
    assert list(dict.fromkeys(steps + rest)) == ["begin", "archive", "settle", "contract", "not null", "finish"]
    require_clean_end(conn, not_null=True)
    assert len((tmp_path / "old.copy").read_text().splitlines()) == ROWS


def test_a_failure_inside_a_step_leaves_nothing_half_done(conn: Connection) -> None:
    """The contract is one transaction: with a reader in the way nothing of it happens, and a rerun completes it."""
    migration = soaked(conn)
    stop = threading.Event()
    with psycopg.connect(conn.info.dsn, application_name="report") as report:
        report.execute("SELECT count(*) FROM documents")
        with pytest.raises(Interrupted):
            cleanup(
                conn,
                migration,
                CleanupChoice(),
                typed_name="documents",
                stop=stop,
                on_wait=lambda text: stop.set() if "(report)" in text else None,
            )
        assert "embedding_v2" in columns(conn) and "embedding" in columns(conn)
        found = state.load_migration(conn)
        assert found is not None and found.phase is Phase.CLEANUP
    cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event())
    require_clean_end(conn)


def test_only_the_typed_name_will_do(conn: Connection) -> None:
    migration = soaked(conn)
    for name in ("", "document", "Documents", "yes"):
        with pytest.raises(Refused, match="typed name"):
            cleanup(conn, migration, CleanupChoice(), typed_name=name, stop=threading.Event())
        with pytest.raises(Refused, match="typed name"):
            abort(conn, migration, typed_name=name, stop=threading.Event())
    assert count(conn, "SELECT count(*) FROM embedtui.audit WHERE act = 'cleanup'") == 0


def test_the_soak_time_passes_only_by_an_audited_reason(conn: Connection) -> None:
    migration = soaked(conn)
    conn.execute("UPDATE embedtui.route SET changed_at = now() - interval '1 day'")
    (blocker,) = cleanup_blockers(conn, migration, CleanupChoice())
    assert blocker.name == "soak" and blocker.overridable and "1 d of 7 d" in blocker.message
    with pytest.raises(Refused, match="served"):
        cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event())
    short = replace(migration, settings={"cutover": {"soak_days": 0.5}})
    assert cleanup_blockers(conn, short, CleanupChoice()) == ()
    cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), override=FOR_SOAK)
    require_clean_end(conn)
    assert count(conn, f"SELECT count(*) FROM embedtui.audit WHERE detail LIKE '%overridden: soak ({REASON})'") == 1


def test_not_before_the_new_side_serves(conn: Connection) -> None:
    migration = begun(conn)
    (blocker,) = cleanup_blockers(conn, migration, CleanupChoice())
    assert blocker.name == "route" and not blocker.overridable
    with pytest.raises(Refused, match="does not serve"):
        cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), override=FOR_ROUTE)


@pytest.mark.parametrize(
    ("ddl", "kind"),
    [
        ("CREATE VIEW found AS SELECT id, embedding FROM documents", "view"),
        ("CREATE MATERIALIZED VIEW found AS SELECT id, embedding FROM documents", "materialized view"),
        (
            "CREATE FUNCTION found(n bigint) RETURNS vector LANGUAGE sql BEGIN ATOMIC"
            " SELECT embedding FROM documents WHERE id = n; END",
            "function",
        ),
        ("CREATE POLICY found ON documents USING (embedding IS NOT NULL)", "policy"),
        (
            "ALTER TABLE documents ADD found real GENERATED ALWAYS AS (vector_norm(embedding)) STORED",
            "generated column",
        ),
        ("CREATE PUBLICATION found FOR TABLE documents (id, embedding)", "publication"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_dependents_are_listed_and_refused_before_anything(conn: Connection, ddl: str, kind: str) -> None:
    migration = soaked(conn)
    conn.execute(ddl.encode())
    blockers = [found for found in cleanup_blockers(conn, migration, CleanupChoice()) if found.name == "dependents"]
    assert len(blockers) == 1 and not blockers[0].overridable
    assert blockers[0].message.startswith(f"{kind} found") and "column embedding." in blockers[0].message
    with pytest.raises(Refused, match="found"):
        cleanup(
            conn,
            migration,
            CleanupChoice(),
            typed_name="documents",
            stop=threading.Event(),
            override=FOR_DEPENDENTS,
        )
    found = state.load_migration(conn)
    assert found is not None and found.phase is Phase.SOAK and "embedding_v2" in columns(conn)
    assert not [b for b in cleanup_blockers(conn, migration, CleanupChoice(keep_old=True)) if b.name == "dependents"]


def test_what_a_rename_would_do_to_subscribers_and_grants_is_said(conn: Connection) -> None:
    migration = soaked(conn)
    conn.execute("CREATE PUBLICATION everything FOR TABLE documents; CREATE ROLE searcher_of_cleanup")
    try:
        conn.execute("GRANT SELECT (embedding) ON documents TO searcher_of_cleanup")
        names = [blocker.name for blocker in cleanup_blockers(conn, migration, CleanupChoice())]
        assert names == ["publications", "privileges"]
        assert cleanup_blockers(conn, migration, CleanupChoice(rename=False)) == ()
    finally:
        conn.execute("DROP OWNED BY searcher_of_cleanup; DROP ROLE searcher_of_cleanup")


def test_keeping_the_new_names(conn: Connection) -> None:
    migration = soaked(conn)
    choice = CleanupChoice(rename=False, keep_provenance=True)
    cleanup(conn, migration, choice, typed_name="documents", stop=threading.Event())
    assert list(columns(conn)) == [
        "id",
        "content",
        "metadata",
        "embedding_v2",
        "embedding_v2_model",
        "embedding_v2_source",
    ]
    assert indexes(conn) == {"documents_pkey": True, "idx_documents_embedding_v2": True}
    assert leftovers(conn) == 0
    assert conn.execute("SELECT column_name FROM embedtui.route('documents')").fetchone() == ("embedding_v2",)


def test_renaming_the_provenance_columns_along(conn: Connection) -> None:
    migration = soaked(conn)
    cleanup(conn, migration, CleanupChoice(keep_provenance=True), typed_name="documents", stop=threading.Event())
    assert list(columns(conn)) == ["id", "content", "metadata", "embedding", "embedding_model", "embedding_source"]


def test_keeping_both_sides(conn: Connection) -> None:
    migration = soaked(conn)
    cleanup(conn, migration, CleanupChoice(keep_old=True), typed_name="documents", stop=threading.Event())
    assert list(columns(conn)) == ["id", "content", "metadata", "embedding", "embedding_v2"]
    assert len(indexes(conn)) == 3 and leftovers(conn) == 0
    sides = conn.execute("SELECT side, present, active FROM embedtui.route_side ORDER BY side").fetchall()
    assert sides == [("new", True, True), ("old", True, False)]


def test_after_a_cutover_by_exchanged_names_nothing_is_renamed_again(conn: Connection) -> None:
    migration = begun(conn, old="NOT NULL", cutover={"strategy": "rename"})
    for statement in rename_sql(conn, migration, Side.NEW, epoch=1, changed_by="t@h"):
        conn.execute(statement)
    conn.execute("UPDATE embedtui.route SET changed_at = now() - interval '8 days'")
    state.set_phase(conn, migration.id, Phase.SOAK)
    found = state.load_migration(conn)
    assert found is not None and (found.old_column, found.new_column) == ("embedding_v2", "embedding")
    contract = cleanup_statements(conn, found, CleanupChoice())[2].statements
    assert not [text for text in contract if "RENAME" in text]
    cleanup(conn, found, CleanupChoice(), typed_name="documents", stop=threading.Event())
    require_clean_end(conn, not_null=True)


def test_the_indexes_of_partitions_take_the_old_names_too(conn: Connection) -> None:
    conn.execute(
        """
        CREATE TABLE parted (id bigint PRIMARY KEY, content text, embedding vector(8) NOT NULL) PARTITION BY RANGE (id);
        CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
        CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
        INSERT INTO parted SELECT i, 'x', ARRAY[i, 1, 1, 1, 1, 1, 1, 1]::vector FROM generate_series(1, 19) i;
        CREATE INDEX ann ON parted USING hnsw (embedding vector_cosine_ops);
        """
    )
    schema.install(conn)
    pointer.install_functions(conn)
    oid = count(conn, "SELECT 'parted'::regclass::oid")
    parted = sample_migration(TableName("public", "parted"), table_oid=oid, phase=Phase.SOAK)
    migration = state.create_migration(conn, parted)
    for statement in (*make_placement(migration).prepare_sql(), *capture.install_sql(migration)):
        conn.execute(statement)
    conn.execute("UPDATE parted SET embedding_v2 = embedding; DELETE FROM embedtui.queue")
    new_index = IndexSettings(m=4, ef_construction=8)
    build(lambda: connect(conn.info.dsn, name="index"), migration, new_index, threading.Event())
    before = {**indexes(conn, "parted"), **indexes(conn, "parted_1"), **indexes(conn, "parted_2")}
    assert "ann_v2" in before and len(before) == 9 and all(before.values())
    pointer.create_route(conn, migration)
    pointer.move_route(conn, "parted", expect_epoch=None, active=Side.NEW, canary=100, who="t", host="h")
    cleanup(conn, migration, CleanupChoice(), typed_name="parted", stop=threading.Event(), override=FOR_SOAK)
    after = {**indexes(conn, "parted"), **indexes(conn, "parted_1"), **indexes(conn, "parted_2")}
    assert set(after) == {
        *("parted_pkey", "parted_1_pkey", "parted_2_pkey"),
        *("ann", "parted_1_embedding_idx", "parted_2_embedding_idx"),
    }
    assert columns(conn, "parted_2") == {"id": "bigint not null", "content": "text", "embedding": "vector(8) not null"}
    assert leftovers(conn) == 0


def test_a_side_table_is_kept_and_the_old_column_goes(conn: Connection) -> None:
    migration = soaked(conn, PlacementKind.TABLE)
    assert cleanup_blockers(conn, migration, CleanupChoice(fold=False), thorough=True) == ()
    cleanup(conn, migration, CleanupChoice(fold=False), typed_name="documents", stop=threading.Event())
    assert list(columns(conn)) == ["id", "content", "metadata"]
    assert list(columns(conn, "documents_embedding_v2")) == ["id", "embedding", "model", "source"]
    assert indexes(conn, "documents_embedding_v2")["idx_documents_embedding_v2"]
    assert leftovers(conn) == 0
    row = conn.execute("SELECT relation, column_name FROM embedtui.route('documents')").fetchone()
    assert row == ("public.documents_embedding_v2", "embedding")
    conn.execute("DELETE FROM documents WHERE id = 1")
    assert count(conn, "SELECT count(*) FROM documents_embedding_v2") == ROWS - 1


def test_a_side_table_that_followed_by_triggers_is_pointed_out(conn: Connection) -> None:
    migration = soaked(conn, PlacementKind.TABLE, foreign_key=False)
    (blocker,) = cleanup_blockers(conn, migration, CleanupChoice(fold=False))
    assert blocker.name == "no_foreign_key" and blocker.overridable
    assert cleanup_blockers(conn, migration, CleanupChoice()) == (), "folded, a row takes its vector along"


@pytest.mark.parametrize("name", ["old.copy", "old.copy.gz"])
def test_an_archive_file_can_be_loaded_again(conn: Connection, tmp_path: Path, name: str) -> None:
    migration = soaked(conn)
    conn.execute("UPDATE documents SET embedding = NULL WHERE id = 1; DELETE FROM embedtui.queue")
    path = tmp_path / name
    cleanup(conn, migration, CleanupChoice(archive=path), typed_name="documents", stop=threading.Event())
    require_clean_end(conn)
    assert [found.name for found in tmp_path.iterdir()] == [name]
    data = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    conn.execute("CREATE TABLE again (id bigint, embedding vector(768))")
    with conn.cursor().copy("COPY again FROM STDIN") as copy:
        copy.write(data)
    assert count(conn, f"SELECT count(*) FROM again WHERE embedding <-> {vector('id')} < 1e-4") == ROWS - 1


def test_no_file_is_written_by_the_databases_word(conn: Connection, tmp_path: Path) -> None:
    migration = soaked(conn)
    planted = {
        **dict.fromkeys(("keep_old", "keep_provenance", "not_null"), False),
        "rename": True,
        "overridden": [],
        "archive": {"file": str(tmp_path / ".bashrc")},
    }
    conn.execute(
        "UPDATE embedtui.migration SET settings = settings || jsonb_build_object('cleanup', %s)", [Jsonb(planted)]
    )
    conn.execute("UPDATE embedtui.route SET ending = 'cleanup'")
    with pytest.raises(Refused, match="says the database") as caught:
        cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event())
    assert f"--archive {tmp_path / '.bashrc'}" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    mine = CleanupChoice(archive=tmp_path / "mine.copy")
    cleanup(conn, migration, mine, typed_name="documents", stop=threading.Event())
    assert [found.name for found in tmp_path.iterdir()] == ["mine.copy"]


def test_an_archive_that_cannot_be_made_is_replaced_by_another(conn: Connection) -> None:
    """The schema went between the look and the step; a rerun names a better one, and only until rows are there."""
    migration = soaked(conn)
    conn.execute('CREATE SCHEMA "Kept"')
    lost = CleanupChoice(archive=TableName("Kept", "Old"))

    def drop(step: CleanupStep) -> None:
        if step.name == "archive":
            conn.execute('DROP SCHEMA "Kept"')

    with pytest.raises(psycopg.errors.InvalidSchemaName):
        cleanup(conn, migration, lost, typed_name="documents", stop=threading.Event(), on_step=drop)
    with pytest.raises(Refused, match="no schema kept"):
        better = CleanupChoice(archive=TableName("kept", "Old"))
        cleanup(conn, migration, better, typed_name="documents", stop=threading.Event())
    stop = threading.Event()
    better = CleanupChoice(archive=TableName("public", "Old"))

    def pause(step: CleanupStep) -> None:
        if step.name == "settle":
            stop.set()

    with pytest.raises(Interrupted):
        cleanup(conn, migration, better, typed_name="documents", stop=stop, on_step=pause)
    assert count(conn, 'SELECT count(*) FROM "Old"') == ROWS
    other = CleanupChoice(archive=TableName("public", "other"))
    with pytest.raises(Refused, match="archives otherwise") as refused:
        cleanup(conn, migration, other, typed_name="documents", stop=threading.Event())
    assert "rollback" in str(refused.value.hint)
    cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event())
    require_clean_end(conn)
    with pytest.raises(Refused, match="archives otherwise") as refused:
        cleanup(conn, migration, other, typed_name="documents", stop=threading.Event())
    assert "rollback" not in str(refused.value.hint), "past the drop nothing takes it back"


def test_an_archive_table(conn: Connection) -> None:
    migration = soaked(conn)
    choice = CleanupChoice(archive=TableName("public", "old vectors"))
    assert [step.name for step in cleanup_statements(conn, migration, choice)] == [
        "begin",
        "archive",
        "settle",
        "contract",
        "finish",
    ]
    cleanup(conn, migration, choice, typed_name="documents", stop=threading.Event())
    require_clean_end(conn)
    assert count(conn, f"""SELECT count(*) FROM "old vectors" WHERE embedding <-> {vector("id")} < 1e-4""") == ROWS
    assert (
        count(conn, "SELECT count(*) FROM pg_index WHERE indrelid = '\"old vectors\"'::regclass AND indisprimary") == 1
    )
    row = conn.execute("SELECT obj_description('\"old vectors\"'::regclass)").fetchone()
    assert (
        row is not None and f"vectors of {migration.old_model.called}, " in row[0] and "archived by embedtui" in row[0]
    )


def test_the_schema_goes_once_all_is_done_and_the_table_stays(conn: Connection) -> None:
    """By the statements that docs/applications.md has."""
    page = Path(__file__).parents[3] / "docs" / "applications.md"
    _, _, documented = page.read_text("utf-8").partition("## Removing the schema")
    statements = documented.partition("```sql\n")[2].partition("```")[0]
    migration = soaked(conn)
    cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event())
    vectors = count(conn, "SELECT count(*) FROM documents WHERE embedding IS NOT NULL")
    conn.execute(statements.encode())
    assert count(conn, "SELECT count(*) FROM pg_namespace WHERE nspname = 'embedtui'") == 0
    assert vectors == count(conn, "SELECT count(*) FROM documents WHERE embedding IS NOT NULL") == ROWS
    conn.execute("UPDATE documents SET content = content || '.' WHERE id = 1")


def test_an_archive_is_never_written_over(conn: Connection, tmp_path: Path) -> None:
    migration = soaked(conn)
    (tmp_path / "precious").write_text("keep me")
    for archive in (DOCUMENTS, tmp_path / "precious", tmp_path / "nowhere" / "file"):
        (blocker,) = cleanup_blockers(conn, migration, CleanupChoice(archive=archive))
        assert blocker.name == "archive" and not blocker.overridable
    assert (tmp_path / "precious").read_text() == "keep me"
    (blocker,) = cleanup_blockers(conn, migration, CleanupChoice(archive=TableName("nowhere", "old")))
    assert "no schema nowhere" in blocker.message and not blocker.overridable


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("old_vectors", TableName("public", "old_vectors")),
        ("Archive.Old", TableName("archive", "old")),
        ('archive."Old"', TableName("archive", "Old")),
        ("old.copy.gz", Path("old.copy.gz")),
        ("/backup/old", Path("/backup/old")),
        ("./old", Path("./old")),
    ],
)
def test_what_an_archive_is_called_tells_what_it_is(text: str, target: TableName | Path) -> None:
    assert archive_target(text) == target


def test_a_short_archive_stops_before_anything_is_dropped(
    conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = soaked(conn)
    monkeypatch.setattr(archives, "_into_file", lambda *_: (ROWS, ROWS - 1))
    choice = CleanupChoice(archive=tmp_path / "old.copy")
    with pytest.raises(DatabaseError, match=f"holds {ROWS - 1} vectors, and {ROWS} were written"):
        cleanup(conn, migration, choice, typed_name="documents", stop=threading.Event())
    assert "embedding_v2" in columns(conn)
    monkeypatch.undo()
    cleanup(conn, migration, choice, typed_name="documents", stop=threading.Event())
    require_clean_end(conn)


def test_rows_that_would_lose_their_only_vector(conn: Connection) -> None:
    migration = soaked(conn, old="NOT NULL")
    conn.execute("UPDATE documents SET embedding_v2 = NULL WHERE id < 4; DELETE FROM embedtui.queue")
    names = [blocker.name for blocker in cleanup_blockers(conn, migration, CleanupChoice(), thorough=True)]
    assert names == ["coverage", "not_null"]
    with pytest.raises(Refused, match="3 rows have an old vector and no new one"):
        cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event())
    cleanup(
        conn,
        migration,
        CleanupChoice(),
        typed_name="documents",
        stop=threading.Event(),
        override=FOR_COVERAGE,
    )
    assert columns(conn) == ARTICLE  # left nullable, as was said


def test_a_row_without_a_vector_that_came_in_last_is_told_and_the_rest_completed_later(conn: Connection) -> None:
    migration = soaked(conn, old="NOT NULL")

    def late(step: CleanupStep) -> None:
        if step.name == "contract":
            conn.execute("UPDATE documents SET embedding_v2 = NULL WHERE id = 1; DELETE FROM embedtui.queue")

    with pytest.raises(NotClean, match="was NOT NULL"):
        cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), on_step=late)
    with pytest.raises(psycopg.errors.CheckViolation):
        conn.execute("INSERT INTO documents (content) VALUES ('without')")
    conn.execute(f"UPDATE documents SET embedding = {vector('id * 2')} WHERE id = 1".encode())
    cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event())
    require_clean_end(conn, not_null=True)


def test_changes_still_queued_are_never_dropped(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = soaked(conn)
    conn.execute("UPDATE documents SET content = 'changed' WHERE id = 1")
    (blocker,) = cleanup_blockers(conn, migration, CleanupChoice())
    assert blocker.name == "queue" and "1 change still" in blocker.message
    conn.execute("UPDATE documents SET content = 'changed' WHERE id = 2")
    conn.execute("UPDATE documents SET embedding_v2_source = hash_record_extended(ROW(content), 0) WHERE id = 2")
    (blocker,) = cleanup_blockers(conn, migration, CleanupChoice())
    told = "2 changes still wait to be synced: 1 still waits for its new vector, 1 for old ones only."
    assert (blocker.message, blocker.rows) == (told, 1), "what would be lost"
    conn.execute("DELETE FROM embedtui.queue WHERE key = '{1}'")
    assert cleanup_blockers(conn, migration, CleanupChoice()) == (), "it goes with the old side"
    for kept in (CleanupChoice(keep_old=True), CleanupChoice(archive=TableName("public", "kept"))):
        (blocker,) = cleanup_blockers(conn, migration, kept)
        told = "1 change still waits to be synced, for old vectors only: the new ones are current."
        assert (blocker.message, blocker.rows) == (told, None)
    conn.execute("DELETE FROM embedtui.queue")
    monkeypatch.setattr(settling, "ALONE", 0.0)

    def late(step: CleanupStep) -> None:
        if step.name == "settle":
            conn.execute("UPDATE documents SET content = 'changed again' WHERE id = 1")

    with pytest.raises(LockTimeout, match="Changes kept waiting"):
        cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), on_step=late)
    assert "embedding_v2" in columns(conn)
    assert capture.state(conn, migration).installed, "changes are captured as before"
    waited: list[str] = []

    def drained(text: str) -> None:
        waited.append(text)
        conn.execute("DELETE FROM embedtui.queue")

    monkeypatch.undo()
    cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), on_wait=drained)
    assert waited == ["1 change waits for its vector"]
    require_clean_end(conn)


@pytest.mark.parametrize("placement", list(PlacementKind))
def test_changes_that_wait_for_old_vectors_alone_go_with_the_old_side(
    conn: Connection, placement: PlacementKind
) -> None:
    """Nobody works on them, and no number is asked for; one that waits for its new vector is not dropped."""
    migration = soaked(conn, placement)
    conn.execute("UPDATE documents SET content = 'changed' WHERE id <= 2")
    side, source = ("documents", "embedding_v2_source")
    if placement is PlacementKind.TABLE:
        side, source = ("documents_embedding_v2", "source")
    now = "SELECT hash_record_extended(ROW(t.content), 0) FROM documents t WHERE t.id = s.id"
    conn.execute(f"UPDATE {side} s SET {source} = ({now}) WHERE id <= 2".encode())
    choice = CleanupChoice(fold=False)
    override = dict.fromkeys({each.token for each in cleanup_blockers(conn, migration, choice)}, "known")
    assert "queue" not in override and "queue:2" not in override
    cleanup(conn, migration, choice, typed_name="documents", stop=threading.Event(), override=override)
    assert count(conn, "SELECT count(*) FROM embedtui.migration WHERE phase = 'done'") == 1


def test_changes_that_wait_for_old_vectors_alone_are_told_apart_in_a_side_table(conn: Connection) -> None:
    migration = soaked(conn, PlacementKind.TABLE)
    conn.execute("UPDATE documents SET content = 'changed' WHERE id <= 3")
    conn.execute(
        "UPDATE documents_embedding_v2 s SET source = hash_record_extended(ROW(t.content), 0)"
        " FROM documents t WHERE t.id = s.id AND t.id < 3"
    )
    told = [each.message for each in cleanup_blockers(conn, migration, CleanupChoice()) if each.name == "queue"]
    assert told == ["3 changes still wait to be synced: 1 still waits for its new vector, 2 for old ones only."]


def test_what_a_worker_is_about_to_embed_is_waited_for_and_not_overridden(database: str, conn: Connection) -> None:
    """A busy table always has a few changes queued: a reason given for the soak must not lose their vectors."""
    migration = soaked(conn)
    conn.execute("UPDATE embedtui.route SET changed_at = now()")
    conn.execute(f"INSERT INTO documents (content, embedding) SELECT 'fresh', {vector('77')}")
    names = {each.name for each in cleanup_blockers(conn, migration, CleanupChoice(), thorough=True)}
    assert names == {"soak", "queue", "coverage"}
    with connect(database, name="worker") as worker:
        row = worker.execute(
            "INSERT INTO embedtui.worker (migration, host, pid) VALUES (%s, 'h', 1) RETURNING id", (migration.id,)
        ).fetchone()
        assert row is not None
        worker.execute("SELECT pg_advisory_lock(%s, %s)", (WORKER_CLASS, row[0]))
        paused = replace(migration, desired="pause")
        assert "queue" in {each.name for each in cleanup_blockers(conn, paused, CleanupChoice())}
        assert [each.name for each in cleanup_blockers(conn, migration, CleanupChoice(), thorough=True)] == ["soak"]

        def embedded(text: str) -> None:
            worker.execute("UPDATE documents SET embedding_v2 = embedding WHERE embedding_v2 IS NULL")
            worker.execute("DELETE FROM embedtui.queue")

        stop = threading.Event()
        cleanup(
            conn,
            migration,
            CleanupChoice(),
            typed_name="documents",
            stop=stop,
            override=FOR_SOAK,
            on_wait=embedded,
        )
    assert conn.execute("SELECT count(*) FROM documents WHERE embedding IS NULL").fetchone() == (0,)


def test_one_process_at_a_time(database: str, conn: Connection) -> None:
    migration = soaked(conn)
    with connect(database, name="other") as other, steps.alone(other, migration):
        with pytest.raises(Refused, match="Another process"):
            cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event())
        with pytest.raises(Refused, match="Another process"):
            abort(conn, migration, typed_name="documents", stop=threading.Event())


# ------------------------------------------------------------------------------------------------------------ abort


@dataclass(frozen=True)
class Before:
    columns: dict[str, str]
    indexes: dict[str, bool]


PREPARED = Before(ARTICLE, {"documents_pkey": True, "idx_documents_embedding": True})


@pytest.mark.parametrize("placement", list(PlacementKind))
@pytest.mark.parametrize("after", [0, 1, 2, None])
def test_abort_takes_everything_back(conn: Connection, placement: PlacementKind, after: int | None) -> None:
    migration = begun(conn, placement)
    steps: list[str] = []

    def kill(step: CleanupStep) -> None:
        if len(steps) == after:
            raise Killed
        steps.append(step.name)

    if after is not None:
        with pytest.raises(Killed):
            abort(conn, migration, typed_name="documents", stop=threading.Event(), on_step=kill)
    shown = [step.name for step in abort_statements(conn, migration)]
    abort(conn, migration, typed_name="documents", stop=threading.Event())
    assert steps[: after or 0] + shown == ["begin", "remove", "finish"]
    assert Before(columns(conn), indexes(conn)) == PREPARED
    assert columns(conn, "documents_embedding_v2") == {}
    assert leftovers(conn) == 0
    found = state.load_migration(conn)
    assert found is not None and found.phase is Phase.ABORTED
    assert conn.execute("SELECT model, column_name FROM embedtui.route('documents')").fetchone() == (
        "text-embedding-004",
        "embedding",
    )
    abort(conn, migration, typed_name="documents", stop=threading.Event())
    with pytest.raises(Refused):
        cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event())


def test_the_faults_of_a_side_go_with_it(conn: Connection) -> None:
    def faulty() -> list[tuple[str, ...]]:
        return conn.execute("SELECT DISTINCT side FROM embedtui.fault").fetchall()

    migration = soaked(conn)
    record_faults(conn, migration.id, [(("1",), "400: maximum context length")], Side.OLD)
    record_faults(conn, migration.id, [(("2",), "400: maximum context length")])
    conn.execute("UPDATE embedtui.fault SET state = 'skipped' WHERE side = 'new'")
    cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event())
    assert faulty() == [("new",)]


def test_the_faults_of_a_side_that_stays_stay(conn: Connection) -> None:
    migration = soaked(conn)
    record_faults(conn, migration.id, [(("1",), "400: maximum context length")], Side.OLD)
    cleanup(conn, migration, CleanupChoice(keep_old=True), typed_name="documents", stop=threading.Event())
    assert count_open(conn, migration.id) == 1


def test_an_aborted_migration_has_no_faulty_rows_of_the_side_it_dropped(conn: Connection) -> None:
    migration = begun(conn)
    record_faults(conn, migration.id, [(("1",), "400: maximum context length")])
    abort(conn, migration, typed_name="documents", stop=threading.Event())
    assert count_open(conn, migration.id) == 0


def test_abort_is_refused_while_production_reads_the_new_side(conn: Connection) -> None:
    migration = begun(conn)
    pointer.move_route(conn, "documents", expect_epoch=None, active=Side.OLD, canary=5, who="t", host="h")
    assert [blocker.name for blocker in abort_blockers(conn, migration)] == ["route"]
    with pytest.raises(Refused, match="reads the new side"):
        abort(conn, migration, typed_name="documents", stop=threading.Event())
    pointer.move_route(conn, "documents", expect_epoch=None, active=Side.NEW, canary=100, who="t", host="h")
    with pytest.raises(Refused, match="reads the new side"):
        abort(conn, migration, typed_name="documents", stop=threading.Event())
    assert "embedding_v2" in columns(conn)


def test_abort_lists_what_was_built_on_the_new_side(conn: Connection) -> None:
    migration = begun(conn)
    conn.execute("CREATE VIEW mine AS SELECT embedding_v2 FROM documents")
    (blocker,) = abort_blockers(conn, migration)
    assert re.match("view mine depends on column embedding_v2", blocker.message)


def test_abort_ends_an_index_build_of_ours(database: str, conn: Connection) -> None:
    migration = begun(conn)
    conn.execute("DROP INDEX idx_documents_embedding_v2")
    failed: list[BaseException] = []

    def build(builder: Connection) -> None:
        try:
            builder.execute("CREATE INDEX CONCURRENTLY late ON documents USING hnsw (embedding_v2 vector_l2_ops)")
        except psycopg.Error as error:
            failed.append(error)

    with psycopg.connect(database) as shop, connect(database, name="index", statement_timeout_ms=0) as builder:
        builder.execute("SET lock_timeout = 0")
        shop.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        shop.execute("SELECT 1")
        work = threading.Thread(target=build, args=(builder,))
        work.start()
        waiting = "SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"
        while not count(conn, waiting):
            pass
        abort(conn, migration, typed_name="documents", stop=threading.Event())
        work.join()
    assert isinstance(failed[0], psycopg.errors.QueryCanceled)
    assert Before(columns(conn), indexes(conn)) == PREPARED
