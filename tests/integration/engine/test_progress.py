"""Progress during the backfill: planned rows that have their vector, whoever made it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.stages import make_row_embedder
from embedtui.engine.backfill.sync import Sync
from embedtui.model import Phase, PlacementKind
from tests.kits.support import NEW, OLD, make_documents, settings_for

ROWS = 60


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}) as server:
        yield server


@pytest.mark.parametrize("placement", PlacementKind)
def test_rows_that_sync_embeds_before_the_backfill_comes_to_them_are_done(
    database: str, api: LoopbackServer, tmp_path: Path, placement: PlacementKind
) -> None:
    make_documents(database, ROWS)
    settings = settings_for(database, api, tmp_path, {"placement": placement.value, "index.method": "none"})
    side = "documents" if placement is PlacementKind.COLUMN else "documents_embedding_v2"
    has = f"{'embedding_v2' if placement is PlacementKind.COLUMN else 'embedding'} IS NOT NULL"
    with closing(Engine(database, settings=settings)) as engine, psycopg.connect(database, autocommit=True) as app:
        migration = engine.prepare()
        job = Job(database, migration, None)
        environ = {"OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}
        with closing(make_row_embedder(migration.new_model, environ, None, job)) as new:
            sync = Sync(job, new, None, characters_per_token=lambda: 4.0)

            def progress(*statements: str) -> tuple[int, int | None]:
                """Rows done and in all, once what these statements changed is synced; all planned ones are counted."""
                for statement in statements:
                    app.execute(statement)  # type: ignore[call-overload]
                while sync.step():
                    pass
                found, planned = engine.snapshot(), app.execute(f"SELECT FROM {side} WHERE {has} AND id <= {ROWS}")
                assert (found.phase, found.counts) == (Phase.BACKFILL, "planned rows")
                assert found.backfill.rows == planned.rowcount
                return found.backfill.rows, found.backfill.total

            with closing(sync):
                assert progress() == (0, ROWS)
                assert progress("UPDATE documents SET content = 'edited ' || id WHERE id <= 10") == (10, ROWS)
                again = "UPDATE documents SET content = 'again ' || id WHERE id BETWEEN 6 AND 15"
                assert progress(again) == (15, ROWS), "each row once"
                came = "INSERT INTO documents (id, content) SELECT n, 'came ' || n FROM generate_series(101, 105) n"
                assert progress(came) == (15, ROWS), "those that came since are not planned"
                edited = "UPDATE documents SET content = 'came, edited ' || id WHERE id IN (106, 107)"
                assert progress(came.replace("101, 105", "106, 107"), edited) == (15, ROWS)
                moved = "UPDATE documents SET id = 50, content = 'moved' WHERE id = 50"
                assert progress(moved, "UPDATE documents SET content = 'and edited' WHERE id = 50") == (16, ROWS)
                status = engine.snapshot().backfill
                assert status.estimate is None, "what a row of the backfill costs is not known before it has begun"
        assert engine.run(threading.Event(), until=50).backfill.rows >= ROWS / 2
        found = engine.snapshot()
        assert found.backfill.rows == app.execute(f"SELECT FROM {side} WHERE {has} AND id <= {ROWS}").rowcount
        done = engine.run(threading.Event()).backfill
        assert (done.rows, done.total) == (ROWS + 7, ROWS + 7)
