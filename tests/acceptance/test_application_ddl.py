"""The application changes its own table under a migration: told, gone on with once an operator agrees, nothing lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.backfill import sync
from embedtui.engine.engine import Engine
from embedtui.errors import EmbedtuiError, Interrupted, TableChanged
from embedtui.model import Condition
from tests.kits.support import NEW, OLD, settings_for, wait_for

ROWS = 40
NEW_MODEL = hash_model(16)
PLACEMENTS: dict[str, dict[str, object]] = {
    "column": {"placement": "column"},
    "foreign key": {"placement": "table"},
    "triggers": {"placement": "table", "foreign_key": False},
}
TABLE = """
CREATE TABLE documents (id int PRIMARY KEY, content text, hits int DEFAULT 0, embedding vector(8));
INSERT INTO documents (id, content) SELECT i, 'text ' || i FROM generate_series(1, 40) i;
"""


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({OLD: hash_model(8), NEW: NEW_MODEL}) as server:
        yield server


class Site:
    """A table whose migration has come to validate, and the application beside it."""

    def __init__(self, dsn: str, api: LoopbackServer, folder: Path, flags: dict[str, object]) -> None:
        self.dsn, self.api, self.folder, self.flags = dsn, api, folder, flags
        self.app = psycopg.connect(dsn, autocommit=True)
        self.app.execute(TABLE)
        self.run()

    def engine(self, **changed: object) -> Engine:
        return Engine(self.dsn, settings=settings_for(self.dsn, self.api, self.folder, {**self.flags, **changed}))

    def run(self, **changed: object) -> None:
        engine = self.engine(**changed)
        try:
            engine.run(threading.Event())
        finally:
            engine.close()

    def stale(self, key: str = "id", content: str = "content", table: str = "documents") -> list[int]:
        """Keys of rows whose new vector is not that of their text, computed here and not asked of embedtui."""
        column = self.flags["placement"] == "column"
        source = f"{table} t" if column else f"{table} t LEFT JOIN documents_embedding_v2 s (k) ON s.k = t.{key}"
        vector = "t.embedding_v2" if column else "s.embedding"
        rows = self.app.execute(f"SELECT t.{key}, t.{content}::text, {vector}::real[] FROM {source} ORDER BY 1")
        return [
            number
            for number, text, found in rows.fetchall()
            if found is None or not np.allclose(found, NEW_MODEL([text], None)[0], atol=1e-6)
        ]


@pytest.fixture(params=PLACEMENTS.values(), ids=PLACEMENTS.keys())
def site(database: str, api: LoopbackServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(database, api, tmp_path, request.param)
    assert site.stale() == []
    yield site
    site.app.close()


def test_a_renamed_key_is_told_and_a_run_goes_on_with_it(site: Site) -> None:
    site.app.execute("ALTER TABLE documents RENAME COLUMN id TO doc_id")
    site.app.execute("INSERT INTO documents (doc_id, content) VALUES (100, 'written meanwhile')")
    site.app.execute("UPDATE documents SET content = 'edited meanwhile' WHERE doc_id = 7")
    site.app.execute("DELETE FROM documents WHERE doc_id = 8")
    site.run()
    assert site.stale("doc_id") == []
    site.app.execute("UPDATE documents SET content = 'captured again' WHERE doc_id = 9")
    site.run()
    assert site.stale("doc_id") == []
    assert site.app.execute("SELECT count(*) FROM embedtui.capture_fault").fetchone() == (0,)


@pytest.mark.parametrize(
    ("ddl", "settings", "names"),
    [
        ("ALTER TABLE documents RENAME COLUMN content TO body", {"content": ("body",)}, {"content": "body"}),
        ("ALTER TABLE documents RENAME TO papers", {"table": "papers"}, {"table": "papers"}),
        ("ALTER TABLE documents RENAME COLUMN embedding TO old_vector", {}, {}),
        ("ALTER TABLE documents ALTER COLUMN content TYPE varchar(300)", {}, {}),
        ("ALTER TABLE documents ALTER COLUMN content TYPE text USING upper(content)", {}, {}),
        (
            "ALTER TABLE documents ADD COLUMN fresh text; UPDATE documents SET fresh = 'other ' || id;"
            " ALTER TABLE documents RENAME COLUMN content TO former;"
            " ALTER TABLE documents RENAME COLUMN fresh TO content",
            {},
            {},
        ),
    ],
)
@pytest.mark.variants(9)
def test_other_changes_are_followed_too(
    site: Site, ddl: str, settings: dict[str, object], names: dict[str, str]
) -> None:
    """Renamed by the catalog's number of a column; exchanged ones by the name that the application uses."""
    site.app.execute(ddl)
    table, content = names.get("table", "documents"), names.get("content", "content")
    site.app.execute(f"UPDATE {table} SET {content} = 'edited' WHERE id = 3")
    site.run(**settings)
    assert site.stale(content=content, table=table) == []
    site.app.execute(f"UPDATE {table} SET {content} = 'edited again' WHERE id IN (3, 4)")
    site.run(**settings)
    assert site.stale(content=content, table=table) == []


def test_a_key_of_a_wider_type(site: Site) -> None:
    site.app.execute("ALTER TABLE documents ALTER COLUMN id TYPE bigint")
    site.app.execute("INSERT INTO documents (id, content) VALUES (5000000000, 'beyond an integer')")
    if site.flags["placement"] == "table":  # rewriting a large side table is the operator's to time
        with pytest.raises(TableChanged) as caught:
            site.run()
        mend = caught.value.hint[caught.value.hint.index("ALTER") :].partition(";")[0]
        site.app.execute(mend)  # type: ignore[call-overload]
    site.run()
    assert site.stale() == []


def test_settings_with_the_former_name_are_told_so(site: Site) -> None:
    site.app.execute("ALTER TABLE documents RENAME TO papers")
    with pytest.raises(TableChanged, match="documents is called papers now"):
        site.run()
    site.app.execute("ALTER TABLE papers RENAME TO documents")
    site.run()
    assert site.stale() == []


@pytest.mark.parametrize("site", [PLACEMENTS["column"]], indirect=True)
@pytest.mark.parametrize(
    ("ddl", "said"),
    [
        ("ALTER TABLE documents DROP COLUMN content", "column content of documents is gone"),
        ("ALTER TABLE documents DROP COLUMN embedding", "column embedding of documents is gone"),
        ("ALTER TABLE documents DROP COLUMN embedding_v2_source", "column embedding_v2_source of documents is gone"),
        ("DROP TABLE documents", "table documents is gone"),
        (f"DROP TABLE documents; {TABLE}", "was dropped and made again, or restored"),
    ],
)
def test_what_cannot_be_gone_on_with_is_said_with_the_ways_out(site: Site, ddl: str, said: str) -> None:
    site.app.execute(ddl)
    with pytest.raises(TableChanged, match=said) as caught:
        site.run()
    assert "embedtui abort --table documents" in caught.value.hint


def test_a_following_worker_waits_for_the_operator_and_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename can be half of an exchange: a worker does not follow it before an operator has agreed."""
    monkeypatch.setattr(sync, "TEND_SECONDS", 0.2)
    engine, stop = site.engine(), threading.Event()
    ended: list[EmbedtuiError] = []

    def follow() -> None:
        try:
            engine.run(stop, follow=True)
        except EmbedtuiError as error:
            ended.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        wait_for(lambda: engine.snapshot().condition is Condition.RUNNING)
        site.app.execute("ALTER TABLE documents RENAME COLUMN id TO number")
        wait_for(lambda: engine.snapshot().condition is Condition.FAILED or bool(ended))
        assert "is called number now" in engine.snapshot().reasons[0].detail
        site.app.execute("INSERT INTO documents (number, content) VALUES (300, 'meanwhile')")
        engine.resume()
        wait_for(lambda: site.stale("number") == [] or bool(ended))
    finally:
        stop.set()
        thread.join(60)
    assert [type(error) for error in ended] == [Interrupted], ended
    engine.close()


def test_a_session_with_plans_for_a_former_type_loses_no_edit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "TEND_SECONDS", 0.2)
    site.app.execute("UPDATE documents SET content = 'planned' WHERE id = 1")
    with psycopg.connect(site.dsn, autocommit=True) as other:
        other.execute("ALTER TABLE documents ALTER COLUMN content TYPE varchar(300)")
    for number in range(1, 6):
        site.app.execute("UPDATE documents SET content = 'edited ' || id WHERE id = %s", [number])
    site.run()
    assert site.stale() == []
