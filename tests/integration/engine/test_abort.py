"""Abort looks before it speaks: a table renamed, dropped, made again, restored or swapped under its migration."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.errors import Refused
from embedtui.model import Phase
from tests.kits.support import NEW, OLD, make_documents, settings_for

PLACEMENTS = {
    "column": {"placement": "column"},
    "side table": {"placement": "table"},
    "triggers": {"placement": "table", "foreign_key": False},
}
# a dump brings the columns and triggers back, the functions in our schema being there still
DUMPED = {
    "column": """CREATE TABLE documents (id bigint PRIMARY KEY, content text, metadata jsonb, embedding vector(8),
        embedding_v2 vector(16), embedding_v2_model integer, embedding_v2_source bigint);""",
    "side table": "CREATE TABLE documents (id bigint PRIMARY KEY, content text, metadata jsonb, embedding vector(8));",
}
TRIGGERS = """
    CREATE TRIGGER embedtui_1_insert AFTER INSERT ON documents
        FOR EACH ROW EXECUTE FUNCTION embedtui.capture_1_row('i');
    CREATE TRIGGER embedtui_1_update AFTER UPDATE ON documents
        FOR EACH ROW EXECUTE FUNCTION embedtui.capture_1_row('u');
    ALTER TABLE documents ENABLE ALWAYS TRIGGER embedtui_1_insert;
"""
PLAIN = "CREATE TABLE documents (id bigint PRIMARY KEY, content text, metadata jsonb, embedding vector(8));"
ORIGINAL = ["content", "embedding", "id", "metadata"]


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}) as server:
        yield server


class Begun:
    """A migration that is done but for the cutover."""

    def __init__(self, dsn: str, api: LoopbackServer, folder: Path, placement: str) -> None:
        make_documents(dsn, 20)
        self.engine = Engine(dsn, settings=settings_for(dsn, api, folder, PLACEMENTS[placement]))
        self.engine.run(threading.Event())
        self.conn = psycopg.connect(dsn, autocommit=True)

    def columns(self, table: str) -> list[str]:
        rows = self.conn.execute(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            [table],
        )
        return sorted(name for (name,) in rows)

    def abort(self) -> str:
        said = self.engine.abort("documents")
        assert self.engine.snapshot().phase is Phase.ABORTED
        left = self.conn.execute(
            "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'embedtui%' UNION ALL"
            " SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture%' UNION ALL"
            " SELECT count(*) FROM pg_class WHERE relname = 'documents_embedding_v2'"
        ).fetchall()
        assert left == [(0,), (0,), (0,)], "of ours"
        assert any(entry.detail == said for entry in self.engine.audit()), "the log has it too"
        return said


@pytest.fixture(params=list(PLACEMENTS))
def placement(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def begun(database: str, api: LoopbackServer, tmp_path: Path, placement: str) -> Iterator[Begun]:
    begun = Begun(database, api, tmp_path, placement)
    yield begun
    begun.conn.close()
    begun.engine.close()


def test_of_a_table_as_it_was(begun: Begun) -> None:
    said = begun.abort()
    assert said.startswith("Took away ") and said.endswith("Nothing of the migration is left on documents.")
    assert begun.columns("documents") == ORIGINAL


def test_its_figures_are_those_of_what_is_left(begun: Begun) -> None:
    spent = begun.engine.snapshot().backfill.tokens
    begun.abort()
    backfill = begun.engine.snapshot().backfill
    assert (backfill.rows, backfill.total) == (0, 20), "there are no new vectors any more"
    assert backfill.tokens == spent > 0, "paid for all the same"


def test_what_was_spent_is_told_after_the_cleanup_too(begun: Begun) -> None:
    spent = begun.engine.snapshot().backfill.tokens
    begun.engine.cutover(override={"gate": "a test", "no_foreign_key": "a test"})
    begun.engine.cleanup("documents", override={"soak": "a test", "no_foreign_key": "a test"})
    backfill = begun.engine.snapshot().backfill
    assert (backfill.rows, backfill.tokens) == (20, spent) and spent > 0


@pytest.mark.parametrize(
    "ddl", ["ALTER TABLE documents RENAME TO papers", "CREATE SCHEMA app; ALTER TABLE documents SET SCHEMA app"]
)
def test_of_a_renamed_table(begun: Begun, ddl: str) -> None:
    begun.conn.execute(ddl)
    now = "papers" if "papers" in ddl else "app.documents"
    said = begun.abort()
    assert f"documents is called {now} now" in said and f" of {now}" in said
    assert begun.columns(now) == ORIGINAL


def test_of_a_table_with_a_renamed_key(begun: Begun) -> None:
    begun.conn.execute("ALTER TABLE documents RENAME COLUMN id TO number")
    begun.abort()
    assert begun.columns("documents") == ["content", "embedding", "metadata", "number"]


def test_of_a_dropped_table(begun: Begun) -> None:
    begun.conn.execute("DROP TABLE documents CASCADE")
    assert "documents is gone" in begun.abort()


@pytest.mark.parametrize("dumped", [False, True], ids=["made again", "restored"])
def test_of_a_table_made_again(begun: Begun, placement: str, dumped: bool) -> None:
    begun.conn.execute("DROP TABLE documents CASCADE")
    begun.conn.execute(DUMPED.get(placement, PLAIN) + TRIGGERS if dumped else PLAIN)
    said = begun.abort()
    assert "documents was made again, or restored" in said
    assert ("3 columns and 2 triggers of documents" in said) == (dumped and placement == "column")
    assert begun.columns("documents") == ORIGINAL


def test_of_a_table_that_was_swapped_with_another(begun: Begun) -> None:
    """Both carry something: the one pushed aside, and its successor, made with its triggers."""
    begun.conn.execute(f"ALTER TABLE documents RENAME TO documents_old; {PLAIN} {TRIGGERS}")
    begun.abort()
    assert begun.columns("documents") == begun.columns("documents_old") == ORIGINAL


@pytest.mark.parametrize("placement", ["column"], indirect=True)
def test_a_vector_column_that_is_not_ours_is_left_alone(begun: Begun) -> None:
    begun.conn.execute("DROP TABLE documents; " + PLAIN.replace(");", ", embedding_v2 vector(16));"))
    said = begun.abort()
    assert said.startswith("There was nothing left to take away.")
    assert begun.columns("documents") == sorted([*ORIGINAL, "embedding_v2"])


@pytest.mark.parametrize("placement", ["column"], indirect=True)
def test_what_depends_on_a_column_is_found_under_the_tables_new_name(begun: Begun) -> None:
    begun.conn.execute("ALTER TABLE documents RENAME TO papers; CREATE VIEW mine AS SELECT embedding_v2 FROM papers")
    with pytest.raises(Refused, match=r"view public\.mine depends on column embedding_v2"):
        begun.engine.abort("documents")
    begun.conn.execute("DROP VIEW mine")
    begun.abort()


def test_after_it_a_new_migration_begins(begun: Begun, api: LoopbackServer, tmp_path: Path, placement: str) -> None:
    begun.conn.execute(f"DROP TABLE documents CASCADE; {PLAIN} INSERT INTO documents (id, content) VALUES (1, 'again')")
    begun.abort()
    begun.engine.run(threading.Event())
    assert begun.engine.verify().clean
