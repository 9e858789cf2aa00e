"""Columns of kinds that few tables have: served as any other, or refused by the plan with the way out."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.engine import Engine
from embedtui.engine.plan.draft import resolve
from embedtui.engine.plan.plan import make_plan
from embedtui.errors import DatabaseError, TableError
from tests.kits.support import connect, settings_for
from tests.kits.tables import settings_of

ROWS = "FROM generate_series(1, 4) n"
PLAIN = f"""
CREATE TABLE documents (id bigint PRIMARY KEY, content text, embedding vector(4));
INSERT INTO documents SELECT n, 'text ' || n, '[1,2,3,4]' {ROWS}
"""
GENERATED = """
CREATE TABLE texts (id int PRIMARY KEY, t text, body text GENERATED ALWAYS AS ('the body: ' || t) {kind});
INSERT INTO texts (id, t) VALUES (1, 'one'), (2, 'two');
CREATE TABLE documents (id bigint PRIMARY KEY, t text, n int, text_id int REFERENCES texts, embedding vector(4),
    content text GENERATED ALWAYS AS ('the text: ' || t) {kind}, next int GENERATED ALWAYS AS (n + 1) {kind});
INSERT INTO documents (id, t, n, text_id, embedding) SELECT n, 'text ' || n, 1, 1 + n % 2, '[1,2,3,4]' FROM
    generate_series(1, 4) n
"""
EDITS = (
    "UPDATE documents SET t = 'edited' WHERE id = 1",
    "UPDATE texts SET t = 'edited' WHERE id = 1",
    "UPDATE documents SET n = 0 WHERE id = 2",
)


def run(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)  # type: ignore[arg-type]


def make_generated(database: str, kind: str) -> None:
    with psycopg.connect(database) as conn:
        if kind == "VIRTUAL" and conn.info.server_version < 180000:
            pytest.skip("this server has no virtual columns")
    run(database, *GENERATED.format(kind=kind).split(";\n"))


def failed(database: str, **flags: Any) -> dict[str, str]:
    """What the plan refuses, by the checks' names, each with its hint."""
    with connect(database, read_only=True) as conn:
        given = {"table": "documents", "new_model__key_variable": "", **flags}
        checks = make_plan(conn, settings_of(Path(), given)).checks
    return {check.name: f"{check.detail} {check.hint}" for check in checks if check.result == "fail"}


COLUMNS = [
    {"content": ("content",)},
    {"content_sql": "'# ' || content"},
    {"content": ("t",), "scope": "next = 2"},
    {"content": ("body",), "content_from": "texts"},
]


def test_a_virtual_column_is_refused(database: str) -> None:
    """A trigger finds it NULL before and after."""
    make_generated(database, "VIRTUAL")
    for flags in COLUMNS:
        found = failed(database, **flags)
        assert list(found) == ["virtual columns"] and 'change_capture = "scan"' in found["virtual columns"]


@pytest.mark.parametrize(("kind", "capture"), [("VIRTUAL", "scan"), ("STORED", "triggers")])
def test_what_can_be_told_of_a_generated_column_is_kept_current(
    database: str, api: LoopbackServer, tmp_path: Path, kind: str, capture: str
) -> None:
    make_generated(database, kind)
    flags = {"content": ("content",), "scope": "next = 2", "index.method": "none", "change_capture": capture}
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        engine.run(threading.Event())
        run(database, *EDITS)
        engine.run(threading.Event())
        report = engine.verify(sample=4)
        assert report.clean and report.rows == 3, report


def test_vectors_that_nobody_can_write_or_search_are_refused(database: str) -> None:
    run(database, PLAIN, "ALTER TABLE documents ADD half halfvec(4) GENERATED ALWAYS AS (embedding::halfvec(4)) STORED")
    assert "made of" in failed(database, old_column="half", content=("content",))["old column"]
    run(
        database,
        "ALTER TABLE documents DROP half",
        "CREATE DOMAIN vectors AS vector(4); ALTER TABLE documents ALTER embedding TYPE vectors",
    )
    for flags in ({}, {"old_column": "embedding"}):
        with connect(database, read_only=True) as conn, pytest.raises(TableError) as refused:
            resolve(conn, settings_of(Path(), {"table": "documents", **flags}))
    statement = refused.value.hint.partition("they are: ")[2]
    run(database, statement)
    assert failed(database) == {}


def test_parents_and_children_of_old_are_refused(database: str) -> None:
    run(database, PLAIN, "CREATE TABLE child () INHERITS (documents)", "ALTER TABLE child ADD PRIMARY KEY (id)")
    for table in ("documents", "child"):
        assert "NO INHERIT" in failed(database, table=table)["inheritance"]


def test_a_schema_of_any_name(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    schema = '"it\'s ""odd"", %s; {} \\ ü"'
    run(database, f"CREATE SCHEMA {schema}", *PLAIN.replace("documents", f"{schema}.documents").split(";\n"))
    flags = {"table": f"{schema}.documents", "placement": "column", "view": True}
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        engine.run(threading.Event())
        run(database, f"UPDATE {schema}.documents SET content = 'edited' WHERE id = 1")
        engine.run(threading.Event())
        assert engine.verify(sample=4).clean
        engine.cutover(override=dict.fromkeys(("gate", "not_null"), "test"))
        engine.cleanup("documents", override=dict.fromkeys(("gate", "soak", "listeners", "names", "view"), "test"))


def test_sizes_within_a_scope_are_told_apart_within_it(database: str) -> None:
    run(
        database,
        "CREATE TABLE documents (id bigint PRIMARY KEY, content text, team text, embedding vector, kind text)",
        "INSERT INTO documents SELECT n, 'text ' || n, 'ours', ('[1,2' || repeat(',3', n % 2) || ']')::vector, n % 2"
        f" {ROWS}",
        # of others the kinds are of one size
        "INSERT INTO documents SELECT n + 4, 'text', 'theirs', '[1,2]', n % 2 FROM generate_series(1, 4) n",
    )
    said = failed(database, content=("content",), scope="team = 'ours'")["stored vectors"]
    assert "Column kind tells them apart" in said and "(team = 'ours') AND kind = '" in said
    assert failed(database, content=("content",), scope="(team = 'ours') AND kind = '0'") == {}


def test_a_size_that_comes_later_is_said_for_what_it_is(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """The application's own searches fail on it."""
    run(database, PLAIN, "ALTER TABLE documents ALTER embedding TYPE vector")
    flags = {"content": ("content",), "index.method": "none"}
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        engine.run(threading.Event())
        run(database, "UPDATE documents SET embedding = '[1,2]' WHERE id = 3")
        engine.run(threading.Event())
        with pytest.raises(DatabaseError) as refused:
            engine.compare()
    assert "vectors of several sizes" in refused.value.hint
