"""Every kind of table in both placements: each backfill ends complete, and nothing is paid for twice unexplained."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer
from embedtui.engine import Engine
from embedtui.model import Phase
from embedtui.providers.start import TEXTS
from tests.conftest import FAST
from tests.kits.support import NEW, OLD, make_documents, settings_for, vector_literal

PLACEMENTS = pytest.mark.parametrize("placement", ["column", "table"])
LARGE = "large-model"

QUOTED_KEY = """ALTER TABLE documents DROP CONSTRAINT documents_pkey, ADD "the key" text;
UPDATE documents SET "the key" = E'it''s "' || id || E'", {NULL} \\\\ % \\n';
ALTER TABLE documents ADD PRIMARY KEY ("the key")"""
COMPOSITE_KEY = """ALTER TABLE documents DROP CONSTRAINT documents_pkey, ADD tenant text DEFAULT 'a, "b"',
ADD day date DEFAULT '2026-01-31'; ALTER TABLE documents ADD PRIMARY KEY (tenant, day, id)"""
UUID_KEY = """ALTER TABLE documents DROP CONSTRAINT documents_pkey, ADD key uuid DEFAULT gen_random_uuid();
ALTER TABLE documents ADD PRIMARY KEY (key)"""


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16), LARGE: hash_model(3072)}, log_texts=10_000) as server:
        yield server


def engine_for(database: str, api: LoopbackServer, folder: Path, placement: str, **flags: object) -> Engine:
    chosen = {"placement": placement, "content": "content", "index.m": 4, "index.ef_construction": 8, **flags}
    return Engine(database, settings=settings_for(database, api, folder, chosen))


def prove(engine: Engine, api: LoopbackServer, rows: int, *, paid: int | None = None) -> None:
    """Run to the end; every row has the vector of its text, and ``paid`` texts (``rows``) were embedded for it."""
    engine.prepare()
    snapshot = engine.run(threading.Event())
    assert snapshot.phase is Phase.VALIDATE
    assert snapshot.index.valid
    asked = sum(text in TEXTS for text in api.texts)  # what each start asks for
    assert api.inputs - asked <= (rows if paid is None else paid), "paid for twice"
    report = engine.verify(sample=rows)
    assert report.clean, report
    assert (report.rows, report.embedded, report.sampled) == (rows, rows, rows)
    engine.close()


def execute(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)


@PLACEMENTS
@pytest.mark.parametrize(
    ("text", "after"),
    [
        pytest.param("number {n} " + "wide " * 700, "", id="wide rows"),
        pytest.param("{n}", "", id="tiny rows"),
        pytest.param("text {n}", UUID_KEY, id="uuid key"),
        pytest.param("text {n}", COMPOSITE_KEY, id="composite key"),
        pytest.param("text {n}", QUOTED_KEY, id="key with quotes"),
    ],
)
def test_rows_and_keys_of_every_kind(
    database: str, api: LoopbackServer, tmp_path: Path, placement: str, text: str, after: str
) -> None:
    make_documents(database, 600, text=text, index=True)
    execute(database, *filter(None, after.split(";")))
    prove(engine_for(database, api, tmp_path, placement), api, 600)


@PLACEMENTS
def test_texts_of_100_kb(database: str, api: LoopbackServer, tmp_path: Path, placement: str) -> None:
    api.characters_per_token = 16
    make_documents(database, 60, index=True)
    execute(
        database,
        "ALTER TABLE documents ALTER content SET STORAGE EXTERNAL",
        "UPDATE documents SET content = repeat('text ' || id || ' ', 12_000)",
    )
    with psycopg.connect(database) as conn:
        (toasted,) = conn.execute(  # type: ignore[misc]
            "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'documents'::regclass"
        ).fetchone()
    assert toasted > 60 * 90_000
    prove(engine_for(database, api, tmp_path, placement), api, 60)


@PLACEMENTS
def test_half_precision_beyond_2000_dimensions(
    database: str, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    make_documents(database, 200)
    flags = {"new_model.name": LARGE, "new_model.dimensions": 3072, "placement": placement, "index.m": 4}
    engine = Engine(database, settings=settings_for(database, api, tmp_path, flags))
    migration = engine.prepare()
    assert (migration.vector_type, migration.new_model.dimensions) == ("halfvec", 3072)
    prove(engine, api, 200)


@PLACEMENTS
def test_a_table_rewritten_in_the_middle(database: str, api: LoopbackServer, tmp_path: Path, placement: str) -> None:
    make_documents(database, 3000, text="row {n} " + "x" * 500, index=True)
    flags = {"pacing.max_concurrency": 2, "new_model.max_inputs": 100}
    engine = engine_for(database, api, tmp_path, placement, **flags)
    engine.prepare()
    with psycopg.connect(database, autocommit=True) as conn:
        before = conn.execute("SELECT pg_relation_filenode('documents')").fetchone()
        api.latency = 0.4
        stop = threading.Event()
        running = threading.Thread(target=lambda: engine.run(stop))
        running.start()
        while running.is_alive() and not engine.snapshot().backfill.rows:
            time.sleep(0.02)
        conn.execute("VACUUM FULL documents")
        assert running.is_alive(), "too late to be in the middle"
        api.latency = 0
        running.join()
        assert conn.execute("SELECT pg_relation_filenode('documents')").fetchone() != before
    # Rows in flight are found by key, wherever they are now; those read just before may be embedded once more.
    prove(engine, api, 3000, paid=3000 + 4 * 512)


def make_partitioned(database: str) -> None:
    values = [vector_literal(vector) for vector in hash_model(8)([f"text {n}" for n in range(900)], None)]
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE documents (id bigint, content text, embedding vector(8), PRIMARY KEY (id))"
            " PARTITION BY RANGE (id)"
        )
        conn.execute("CREATE TABLE documents_a PARTITION OF documents FOR VALUES FROM (0) TO (300)")
        conn.execute("CREATE TABLE documents_b PARTITION OF documents FOR VALUES FROM (300) TO (900)")
        conn.cursor().executemany(
            "INSERT INTO documents VALUES (%s, %s, %s)", [(n, f"text {n}", value) for n, value in enumerate(values)]
        )


@PLACEMENTS
def test_a_partitioned_table(database: str, api: LoopbackServer, tmp_path: Path, placement: str) -> None:
    make_partitioned(database)
    prove(engine_for(database, api, tmp_path, placement), api, 900)


@PLACEMENTS
def test_a_partition_attached_in_the_middle(database: str, api: LoopbackServer, tmp_path: Path, placement: str) -> None:
    make_partitioned(database)
    api.latency = 0.5
    engine = engine_for(database, api, tmp_path, placement, **{"pacing.max_concurrency": 1})
    engine.prepare()
    assert engine.run(threading.Event(), until=1).phase is Phase.BACKFILL
    api.latency = 0
    execute(
        database,
        "CREATE TABLE documents_c (LIKE documents INCLUDING ALL)",
        "INSERT INTO documents_c (id, content) SELECT n, 'text ' || n FROM generate_series(900, 1199) n",
        "ALTER TABLE documents ATTACH PARTITION documents_c FOR VALUES FROM (900) TO (1200)",
    )
    prove(engine, api, 1200)


@PLACEMENTS
def test_postgresql_16(api: LoopbackServer, tmp_path: Path, server_folder: Path, placement: str) -> None:
    with EmbeddedServer(server_folder / "pg", version=16, settings=FAST) as server:
        execute(server.dsn(), "CREATE EXTENSION vector")
        make_documents(server.dsn(), 600, index=True)
        prove(engine_for(server.dsn(), api, tmp_path, placement), api, 600)
