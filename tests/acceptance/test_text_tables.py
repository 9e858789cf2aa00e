"""A text in another table that a foreign key leads to: read, captured and kept current as one in the table itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
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
