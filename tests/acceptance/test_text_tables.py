"""A text in another table that a foreign key leads to: read, captured and kept current as one in the table itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.backfill import upkeep
from embedtui.model import Side
from tests.acceptance.test_application_writes import MODELS, NAMES, PLACEMENTS, Table, migrated_table
from tests.kits.support import OLD, vector_literal

TEXT = "(SELECT d.body FROM documents d WHERE d.id = document_id)"
BODIES = [f"document number {n}" for n in range(1, 5)]


def make_chunks(database: str, actions: str = "ON DELETE CASCADE ON UPDATE CASCADE") -> None:
    """Documents 1 to 4 with two chunks each, of keys 1 to 8; the old model embedded the document."""
    vectors = [vector_literal(each) for each in MODELS[OLD](BODIES, None)]
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("CREATE TABLE documents (id bigint PRIMARY KEY, body text, views int DEFAULT 0)")
        conn.execute(
            "CREATE TABLE chunks (id bigint PRIMARY KEY, embedding vector(8), kind text DEFAULT 'mine',"
            f" document_id int REFERENCES documents {actions})"
        )
        conn.execute("CREATE INDEX ON chunks (document_id)")
        for n, (body, vector) in enumerate(zip(BODIES, vectors, strict=True), 1):
            conn.execute("INSERT INTO documents VALUES (%s, %s)", [n, body])
            for chunk in (n, n + 4):
                conn.execute("INSERT INTO chunks (id, embedding, document_id) VALUES (%s, %s, %s)", [chunk, vector, n])


ELSEWHERE = {"table": "chunks", "content_from": "documents", "content": ("body",)}


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS, log_texts=1_000_000) as server:
        yield server


@pytest.fixture(params=PLACEMENTS, ids=NAMES)
def chunks(database: str, api: LoopbackServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Table]:
    make_chunks(database)
    with migrated_table(database, api, tmp_path, text=TEXT, **ELSEWHERE, **request.param) as found:
        yield found


def test_the_backfill_embeds_the_other_tables_text(chunks: Table) -> None:
    assert all(chunks.is_models(key, Side.NEW) for key in range(1, 9))


class TestAnEdit:
    def test_of_a_text_reaches_every_row_that_refers_to_it(self, chunks: Table) -> None:
        chunks.execute("UPDATE documents SET body = 'edited' WHERE id = 1")
        assert chunks.app.execute("SELECT count(*) FROM embedtui.queue").fetchone() == (1,), "one entry a text"
        chunks.drain()
        assert chunks.is_models(1, Side.NEW) and chunks.is_models(5, Side.NEW)

    def test_to_nothing_keeps_the_vectors_and_back_renews_them(self, chunks: Table) -> None:
        before = chunks.vector(1, Side.NEW)
        chunks.execute("UPDATE documents SET body = ' ' WHERE id = 1")
        chunks.drain()
        after = chunks.vector(1, Side.NEW)
        assert before is not None and after is not None and (before == after).all()
        chunks.execute("UPDATE documents SET body = 'back' WHERE id = 1")
        chunks.drain()
        assert chunks.is_models(1, Side.NEW)

    def test_of_another_column_asks_for_nothing(self, chunks: Table) -> None:
        chunks.execute("UPDATE documents SET views = views + 1")
        assert chunks.app.execute("SELECT count(*) FROM embedtui.queue").fetchone() == (0,)

    def test_that_a_rows_own_vector_came_with_leaves_it(self, chunks: Table) -> None:
        """Whatever the order within a transaction, and however late sync queues the rows."""
        chunks.cut_over()
        own = [chunks.own(Side.OLD) for _ in range(2)]
        with chunks.app.transaction():
            chunks.execute("UPDATE documents SET body = 'both' WHERE id = 1")
            chunks.execute("UPDATE chunks SET embedding = %s WHERE id = 1", own[0])
        assert chunks.stale() == 2, "as it looks until sync has been there: all rows of the text"
        chunks.execute("UPDATE chunks SET embedding = %s WHERE id = 6", own[1])
        chunks.execute("UPDATE documents SET body = 'after it' WHERE id = 2")
        chunks.drain()
        assert chunks.is_(1, Side.OLD, own[0]) and chunks.is_models(5, Side.OLD)
        assert chunks.is_models(6, Side.OLD) and all(chunks.is_models(key, Side.NEW) for key in range(1, 9))

    def test_that_came_with_a_vector_as_sync_had_begun_waits_for_its_rows(
        self, chunks: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What sync reads then has the vector, and the text whose rows are not queued yet."""
        chunks.cut_over()
        read, own = chunks.sync._read, [chunks.own(Side.OLD)]

        def late(*args):  # type: ignore[no-untyped-def]
            if len(own) == 1:
                with chunks.app.transaction():
                    chunks.execute("UPDATE documents SET body = 'both' WHERE id = 1")
                    chunks.execute("UPDATE chunks SET embedding = %s WHERE id = 1", own[0])
                own.append("")
            return read(*args)

        monkeypatch.setattr(chunks.sync, "_read", late)
        chunks.execute("UPDATE chunks SET embedding = NULL WHERE id = 1")
        chunks.drain()
        assert chunks.is_(1, Side.OLD, own[0]) and chunks.is_models(1, Side.NEW) and chunks.is_models(5, Side.OLD)

    def test_before_its_row_moved_to_another_key_is_not_forgotten(self, chunks: Table) -> None:
        chunks.cut_over()
        chunks.execute("UPDATE documents SET body = 'edited' WHERE id = 1")
        chunks.execute("UPDATE chunks SET id = 70 WHERE id = 1")
        chunks.execute("UPDATE chunks SET id = 71 WHERE id = 70")
        chunks.drain()
        for side in Side:
            assert chunks.is_models(71, side) and chunks.is_models(5, side)

    @pytest.mark.parametrize("chunks", PLACEMENTS[:1], ids=NAMES[:1], indirect=True)
    def test_of_a_text_with_many_rows_is_one_entry_and_queued_part_by_part(
        self, chunks: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(upkeep, "ROWS_OF_A_TEXT", 10)
        monkeypatch.setattr(upkeep, "ROWS_AT_ONCE", 40)
        chunks.execute("INSERT INTO chunks (id, document_id) SELECT n, 3 FROM generate_series(100, 199) n")
        chunks.drain()
        chunks.execute("UPDATE documents SET body = 'all of these' WHERE id = 3")
        assert chunks.app.execute("SELECT kind::text, text_key FROM embedtui.queue").fetchall() == [("x", ["3"])]
        own = chunks.own(Side.NEW)
        chunks.execute("UPDATE chunks SET embedding_v2 = %s WHERE id = 199", own)
        chunks.sync.step()  # ten of them are known, and the rest goes on from there
        kinds = "SELECT kind::text, count(*) FROM embedtui.queue GROUP BY 1 ORDER BY 1"
        assert dict(chunks.app.execute(kinds).fetchall())["x"] == 1
        chunks.drain()
        assert chunks.is_(199, Side.NEW, own), "written after the text, of which it was queued long after"
        assert all(chunks.is_models(key, Side.NEW) for key in (3, 7, *range(100, 199)))


class TestARow:
    def test_that_refers_to_another_text_is_embedded_anew(self, chunks: Table) -> None:
        chunks.execute("UPDATE chunks SET document_id = 2 WHERE id = 1")
        chunks.drain()
        assert chunks.is_models(1, Side.NEW)

    def test_that_comes_with_its_text_in_one_transaction_is_embedded(self, chunks: Table) -> None:
        with chunks.app.transaction():
            chunks.execute("INSERT INTO documents VALUES (9, 'a new one')")
            chunks.execute("INSERT INTO chunks (id, document_id) VALUES (90, 9)")
        chunks.drain()
        assert chunks.is_models(90, Side.NEW)

    def test_of_no_text_waits_for_one(self, chunks: Table) -> None:
        chunks.execute("INSERT INTO chunks (id) VALUES (90)")
        chunks.drain()
        assert chunks.vector(90, Side.NEW) is None
        counts = chunks.engine.verify()
        assert (counts.rows, counts.empty, counts.missing) == (9, 1, 0)
        chunks.execute("UPDATE chunks SET document_id = 4 WHERE id = 90")
        chunks.drain()
        assert chunks.is_models(90, Side.NEW)


class TestAText:
    def test_that_comes_after_its_rows_where_nobody_checks_is_captured(self, chunks: Table) -> None:
        """As on a subscriber, whose worker applies changes without looking at foreign keys."""
        for statement in (
            "INSERT INTO chunks (id, document_id) VALUES (90, 77)",
            "INSERT INTO documents VALUES (77, 'late')",
        ):
            assert chunks.vector(90, Side.NEW) is None
            with chunks.app.transaction():
                chunks.execute("SET LOCAL session_replication_role = replica")
                chunks.execute(statement)
            chunks.drain()
        assert chunks.is_models(90, Side.NEW)
        chunks.execute("INSERT INTO documents VALUES (78, 'referred to by none')")
        assert chunks.app.execute("SELECT FROM embedtui.queue").fetchone() is None, "and elsewhere asks for nothing"

    def test_that_is_deleted_takes_its_rows_along(self, chunks: Table) -> None:
        chunks.execute("DELETE FROM documents WHERE id = 1")
        chunks.drain()
        counts = chunks.engine.verify()
        assert (counts.rows, counts.embedded, counts.orphaned) == (6, 6, 0)

    def test_that_gets_another_key_is_still_its_rows(self, chunks: Table) -> None:
        chunks.execute("UPDATE documents SET id = 50, body = 'moved and edited' WHERE id = 1")
        chunks.drain()
        assert chunks.is_models(1, Side.NEW) and chunks.is_models(5, Side.NEW)

    def test_edited_between_what_sync_reads_and_writes_is_read_again(
        self, chunks: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replace, edits = chunks.job.placement.replace, ["second"]

        def late(*args):  # type: ignore[no-untyped-def]
            if edits:
                chunks.execute("UPDATE documents SET body = %s WHERE id = 1", edits.pop())
                assert not replace(*args), "the guard is in the statement that writes"
                return set()
            return replace(*args)

        monkeypatch.setattr(chunks.job.placement, "replace", late)
        chunks.execute("UPDATE documents SET body = 'first' WHERE id = 1")
        chunks.drain()
        assert chunks.is_models(1, Side.NEW) and chunks.is_models(5, Side.NEW)

    def test_under_an_open_edit_is_written_as_it_is_and_again_after_it(self, chunks: Table, database: str) -> None:
        """The application's transaction neither waits for sync, nor sync for it."""
        with psycopg.connect(database) as other:
            other.execute("UPDATE documents SET body = 'not yet' WHERE id = 1")
            chunks.execute("UPDATE chunks SET document_id = 1 WHERE id = 2")
            chunks.drain()
            assert chunks.is_models(2, Side.NEW)
        chunks.drain()
        assert all(chunks.is_models(key, Side.NEW) for key in (1, 2, 5))

    def test_deleted_while_it_is_embedded_leaves_nothing_behind(
        self, chunks: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replace, deletes = chunks.job.placement.replace, [1]

        def late(*args):  # type: ignore[no-untyped-def]
            while deletes:
                chunks.execute("DELETE FROM documents WHERE id = %s", deletes.pop())
            return replace(*args)

        monkeypatch.setattr(chunks.job.placement, "replace", late)
        chunks.execute("UPDATE documents SET body = 'short-lived' WHERE id = 1")
        chunks.drain()
        counts = chunks.engine.verify()
        assert (counts.rows, counts.embedded, counts.orphaned, counts.queued) == (6, 6, 0, 0)
