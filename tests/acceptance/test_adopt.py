"""A table that was dropped and made again, swapped, or restored from a dump: one choice, adopt or abort.

What is right is kept and not paid for twice; whether it is right is computed here, and not asked of embedtui.
"""

from __future__ import annotations

import itertools
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer, _binaries
from embedtui.engine.engine import Engine
from embedtui.errors import Refused, TableChanged
from embedtui.model import Phase
from tests.conftest import POSTGRES
from tests.kits.support import make_documents, settings_for

PLACEMENTS: dict[str, dict[str, object]] = {
    "column": {"placement": "column"},
    "foreign key": {"placement": "table"},
    "triggers": {"placement": "table", "foreign_key": False},
}
SIDE_TABLES = {name: flags for name, flags in PLACEMENTS.items() if flags["placement"] == "table"}
ROWS = 40
_numbers = itertools.count(1)


class Site:
    """A table whose migration has come to validate."""

    def __init__(self, dsn: str, api: LoopbackServer, folder: Path, flags: dict[str, object]) -> None:
        self.dsn, self.api, self.folder, self.flags = dsn, api, folder, flags

    def sql(self, text: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            cursor = conn.execute(text)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def engine(self) -> Engine:
        return Engine(self.dsn, settings=settings_for(self.dsn, self.api, self.folder, self.flags))

    def run(self) -> set[str]:
        """Texts that were paid for."""
        before = len(self.api.texts)
        with closing(self.engine()) as engine:
            assert engine.run(threading.Event()).phase in (Phase.VALIDATE, Phase.SOAK)
        return {text for text in self.api.texts[before:] if text.startswith(("document", "edited", "added"))}

    def adopt(self) -> str:
        with closing(self.engine()) as engine:
            return engine.adopt()

    def wrong(self, table: str = "documents") -> list[int]:
        """Keys of rows whose new vector is not that of their text, and of vectors without a row."""
        column = self.flags["placement"] == "column"
        source = f"{table} t" if column else f"{table} t FULL JOIN documents_embedding_v2 s ON s.id = t.id"
        key, vector = ("t.id", "t.embedding_v2") if column else ("coalesce(t.id, s.id)", "s.embedding")
        rows = self.sql(f"SELECT {key}, t.content, {vector}::real[] FROM {source} ORDER BY 1")
        model = hash_model(16)
        return [
            number  # type: ignore[misc]
            for number, text, found in rows
            if text is None or found is None or not np.allclose(found, model([str(text)], None)[0], atol=1e-6)
        ]

    def capture_holds(self) -> None:
        """Edits, inserts and deletes are followed as before."""
        self.sql(
            "UPDATE documents SET content = 'edited ' || id WHERE id IN (3, 4); DELETE FROM documents WHERE id = 5;"
            " INSERT INTO documents (id, content) VALUES (1000, 'added')"
        )
        assert self.run() == {"edited 3", "edited 4", "added"}
        assert self.wrong() == []


@pytest.fixture
def site(database: str, api: LoopbackServer, tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    made = Site(database, api, tmp_path, request.param)
    make_documents(database, ROWS, index=True)
    made.run()
    assert made.wrong() == []
    return made


ALL = pytest.mark.parametrize("site", PLACEMENTS.values(), ids=PLACEMENTS.keys(), indirect=True)
BESIDE = pytest.mark.parametrize("site", SIDE_TABLES.values(), ids=SIDE_TABLES.keys(), indirect=True)
IN_COLUMN = pytest.mark.parametrize("site", [PLACEMENTS["column"]], ids=["column"], indirect=True)

MADE_AGAIN = """
CREATE TABLE kept AS SELECT id, content, metadata, embedding FROM documents;
DROP TABLE documents CASCADE;
CREATE TABLE documents (id bigint PRIMARY KEY, content text, metadata jsonb, embedding vector(8));
INSERT INTO documents SELECT * FROM kept WHERE id <> 7;
UPDATE documents SET content = 'edited meanwhile' WHERE id = 9;
INSERT INTO documents (id, content) VALUES (500, 'added meanwhile');
"""
SWAPPED = """
CREATE TABLE fresh (id int PRIMARY KEY, embedding vector(8), content text);
INSERT INTO fresh SELECT id, embedding, content FROM documents WHERE id <> 7;
UPDATE fresh SET content = 'edited meanwhile' WHERE id = 9;
INSERT INTO fresh (id, content) VALUES (500, 'added meanwhile');
ALTER TABLE documents RENAME TO documents_before; ALTER TABLE fresh RENAME TO documents;
"""
CHANGED = {"edited meanwhile", "added meanwhile"}


def refused_until_decided(site: Site) -> None:
    with closing(site.engine()) as engine, pytest.raises(TableChanged) as caught:
        engine.run(threading.Event())
    assert "`embedtui adopt`" in caught.value.hint and "`embedtui abort --table documents`" in caught.value.hint


@BESIDE
@pytest.mark.variants(1)
def test_side_vectors_of_a_table_made_again_are_kept(site: Site) -> None:
    site.sql(MADE_AGAIN)
    refused_until_decided(site)
    assert "38 of 40 rows keep their vectors" in site.adopt()
    assert site.run() == CHANGED
    assert site.wrong() == []
    site.capture_holds()


@IN_COLUMN
def test_a_table_made_again_without_its_vectors_is_gone_on_with(site: Site) -> None:
    site.sql(MADE_AGAIN)
    refused_until_decided(site)
    assert "0 of 40 rows keep their vectors" in site.adopt()
    assert len(site.run()) == ROWS
    assert site.wrong() == []
    assert site.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'documents_embedding_v2_idx'::regclass")
    site.capture_holds()


@ALL
@pytest.mark.variants(1)
def test_vectors_of_a_table_that_was_pushed_aside_are_carried_over(site: Site) -> None:
    site.sql(SWAPPED)
    if site.flags["placement"] == "table":
        site.sql("ALTER TABLE documents ALTER id TYPE bigint")
    refused_until_decided(site)
    assert "38 of 40 rows keep their vectors" in site.adopt()
    assert site.run() == CHANGED
    assert site.wrong() == []
    assert site.sql("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'documents_before'::regclass"
                    " AND tgname LIKE 'embedtui%'") == [(0,)]  # fmt: skip
    site.capture_holds()


@ALL
def test_an_abort_after_an_adoption_leaves_nothing_on_either_table(site: Site) -> None:
    site.sql(SWAPPED)
    if site.flags["placement"] == "table":
        site.sql("ALTER TABLE documents ALTER id TYPE bigint")
    site.adopt()
    with closing(site.engine()) as engine:
        said = engine.abort("documents")
    assert "Nothing of the migration is left" in said
    left = site.sql(
        "SELECT attrelid::regclass::text, attname FROM pg_attribute WHERE attname LIKE '%embedding_v2%'"
        " AND NOT attisdropped AND attrelid IN ('documents'::regclass, 'documents_before'::regclass)"
        " UNION ALL SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE tgname LIKE 'embedtui%'"
        " UNION ALL SELECT '', relname FROM pg_class WHERE relname = 'documents_embedding_v2'"
    )
    assert left == []
    if site.flags["placement"] == "column":
        assert "documents_before" in said


@ALL
@pytest.mark.variants(1)
def test_an_interrupted_adoption_is_begun_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from embedtui.engine import adopt as adopting

    site.sql(SWAPPED)
    if site.flags["placement"] == "table":
        site.sql("ALTER TABLE documents ALTER id TYPE bigint")
    runs = itertools.count()
    real = adopting.run_ddl

    def dies(*arguments: object, **options: object) -> None:
        if next(runs) == 1:  # what is missing is made and filled; the table is not taken up
            raise psycopg.OperationalError("the server closed the connection unexpectedly")
        real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(adopting, "run_ddl", dies)
    with pytest.raises(Exception, match="closed the connection"):
        site.adopt()
    refused_until_decided(site)
    assert "38 of 40 rows keep their vectors" in site.adopt()
    assert site.run() == CHANGED
    assert site.wrong() == []


@ALL
def test_a_swap_after_the_cutover_keeps_what_serves(site: Site) -> None:
    with closing(site.engine()) as engine:
        engine.cutover(override={"gate": "a test"})
    site.sql(SWAPPED)
    if site.flags["placement"] == "table":
        site.sql("ALTER TABLE documents ALTER id TYPE bigint")
    refused_until_decided(site)
    assert "The new side serves" in site.adopt()
    assert site.run() >= CHANGED
    assert site.wrong() == []
    with closing(site.engine()) as engine:
        assert engine.snapshot().phase is Phase.SOAK
        engine.build_index()
        assert engine.snapshot().index.valid


@pytest.mark.parametrize("site", [PLACEMENTS["column"], PLACEMENTS["foreign key"]], indirect=True)
@pytest.mark.parametrize(
    ("ddl", "said"),
    [
        ("CREATE TABLE documents (id bigint, content text, embedding vector(8))", "no unique key on id"),
        ("CREATE TABLE documents (id bigint PRIMARY KEY, body text, embedding vector(8))", "no column content"),
        ("CREATE TABLE documents (id bigint PRIMARY KEY, content text, embedding vector(9))", "has 9 dimensions"),
        ("CREATE TABLE documents (id bigint PRIMARY KEY, content text)", "no vector column embedding"),
        ("CREATE VIEW documents AS SELECT 1 AS id", "There is no table documents"),
        ("SELECT 1", "There is no table documents"),
    ],
)
def test_another_table_of_that_name_is_not_adopted(site: Site, ddl: str, said: str) -> None:
    site.sql(f"DROP TABLE documents CASCADE; {ddl}")
    before = site.sql("SELECT * FROM embedtui.migration")
    with pytest.raises(Refused, match=said) as caught:
        site.adopt()
    assert "embedtui abort --table documents" in caught.value.hint
    assert site.sql("SELECT * FROM embedtui.migration") == before
    with closing(site.engine()) as engine:
        assert "is left" in engine.abort("documents")


@IN_COLUMN
def test_there_is_nothing_to_adopt_where_nothing_happened(site: Site) -> None:
    for ddl in ("SELECT 1", "ALTER TABLE documents RENAME COLUMN content TO body"):
        site.sql(ddl)
        with pytest.raises(Refused, match="nothing to adopt"):
            site.adopt()


# ------------------------------------------------------------------------------------------------- restored from a dump


def restore(source: str, target: str, folder: Path) -> None:
    """By pg_dump and pg_restore: the same objects and rows, and other oids."""
    tools, file = _binaries(POSTGRES), folder / "database.dump"
    with psycopg.connect(target, autocommit=True) as conn:
        conn.execute("CREATE TABLE before (x int)")
    subprocess.run([tools / "pg_dump", "--format=custom", f"--file={file}", source], check=True)
    subprocess.run([tools / "pg_restore", "--exit-on-error", f"--dbname={target}", file], check=True)


@pytest.fixture
def other_database(server: EmbeddedServer) -> Iterator[str]:
    name = f"restored_{next(_numbers)}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    yield server.dsn(name)
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@ALL
@pytest.mark.parametrize("served", ["old", "new"])
@pytest.mark.variants(3)
def test_a_restored_database_goes_on_and_pays_for_nothing_twice(site: Site, other_database: str, served: str) -> None:
    if served == "new":
        with closing(site.engine()) as engine:
            engine.cutover(override={"gate": "a test"})
    restore(site.dsn, other_database, site.folder)
    here = Site(other_database, site.api, site.folder, site.flags)
    refused_until_decided(here)
    assert f"{ROWS} of {ROWS} rows keep their vectors" in here.adopt()
    assert here.run() == set()
    assert here.wrong() == []
    here.sql("UPDATE documents SET content = 'edited' WHERE id = 8")
    assert "edited" in here.run()
    assert here.wrong() == []
    with closing(here.engine()) as engine:
        if served == "new":
            engine.rollback()
        said = engine.abort("documents")
    assert "Nothing of the migration is left" in said
    assert here.sql("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'embedtui%'") == []


@IN_COLUMN
def test_an_abort_of_a_restored_table_takes_the_columns_away(site: Site, other_database: str) -> None:
    restore(site.dsn, other_database, site.folder)
    here = Site(other_database, site.api, site.folder, site.flags)
    with closing(here.engine()) as engine:
        said = engine.abort("documents")
    assert "3 columns" in said
    columns = here.sql("SELECT attname FROM pg_attribute WHERE attrelid = 'documents'::regclass AND attnum > 0"
                       " AND NOT attisdropped ORDER BY attnum")  # fmt: skip
    assert [name for (name,) in columns] == ["id", "content", "metadata", "embedding"]
