"""Part of a table is moved: what is outside the scope keeps every byte, and costs nothing."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.types.json import Jsonb

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.errors import Refused, TableChanged
from embedtui.model import Side
from embedtui.router import Router
from tests.kits.support import NEW, OLD, settings_for, vector_literal

A, B = "11111111-1111-1111-1111-11111111111a", "11111111-1111-1111-1111-11111111111b"

# As langchain-postgres makes it: one table for all collections, its column without dimensions.
LANGCHAIN = """
CREATE TABLE langchain_pg_collection (uuid uuid PRIMARY KEY, name varchar NOT NULL UNIQUE, cmetadata json);
CREATE TABLE langchain_pg_embedding (
    id varchar PRIMARY KEY,
    collection_id uuid REFERENCES langchain_pg_collection (uuid) ON DELETE CASCADE,
    embedding vector,
    document varchar,
    cmetadata jsonb);
CREATE INDEX ix_cmetadata_gin ON langchain_pg_embedding USING gin (cmetadata jsonb_path_ops);
"""
SIZES = {A: 384, B: 768}
MODELS = {OLD: hash_model(384), NEW: hash_model(16), "other-model": hash_model(768)}


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS, log_texts=100_000) as server:
        yield server


def fill(dsn: str, rows: int = 40) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(LANGCHAIN)
        for number, (uuid, size) in enumerate(SIZES.items()):
            conn.execute("INSERT INTO langchain_pg_collection VALUES (%s, %s)", [uuid, f"collection {number}"])
            texts = [f"{uuid[-1]}: text {n}" for n in range(rows)]
            for n, vector in enumerate(hash_model(size)(texts, None)):
                conn.execute(
                    "INSERT INTO langchain_pg_embedding VALUES (%s, %s, %s, %s, '{}')",
                    [f"{uuid[-1]}{n}", uuid, vector_literal(vector), texts[n]],
                )


def outside(dsn: str, condition: str, table: str = "langchain_pg_embedding") -> str:
    """A digest of every byte of the rows outside; the columns that a migration adds have to be empty in them."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        query = (
            f"SELECT md5(string_agg(jsonb_strip_nulls(to_jsonb(t))::text || xmin::text, E'\\n' ORDER BY t.ctid))"
            f" FROM {table} t WHERE NOT ({condition})"
        )
        [found] = conn.execute(query.encode()).fetchone() or [""]
    return str(found)


def rows(dsn: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(query.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("placement", ["column", "table"])
def test_one_collection_of_langchains_table_is_moved_and_the_other_keeps_every_byte(
    database: str, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    fill(database)
    condition = f"collection_id = '{A}'"
    before = outside(database, condition)
    asked = len(api.texts)
    flags = {
        "table": "langchain_pg_embedding",
        "content": ("document",),
        "scope": condition,
        "placement": placement,
        "cutover.soak_days": 0,
        "accept": [],
    }
    settings = settings_for(database, api, tmp_path, flags)
    with closing(Engine(database, settings=settings)) as engine:
        plan = engine.plan()
        assert not [check for check in plan.checks if check.result == "fail"]
        assert plan.rows == 40
        engine.run(threading.Event())
        comparison = engine.compare()
        assert comparison.seen is not None and (comparison.seen.rows, comparison.seen.both) == (40, 40)
        assert all(row.key[0].startswith("a") for query in comparison.queries for row in (*query.old, *query.new))
        report = engine.verify(sample=40)
        assert (report.rows, report.embedded, report.mismatched) == (40, 40, 0)
        engine.cutover(override={"gate": "test"})
        # the application goes on, in both collections
        rows(database, "UPDATE langchain_pg_embedding SET document = 'b: edited' WHERE id = 'b5'")
        rows(database, "UPDATE langchain_pg_embedding SET document = 'a: edited' WHERE id = 'a5'")
        edited = outside(database, condition)
        assert edited != before, "the digest sees an edit"
        engine.run(threading.Event())
        assert outside(database, condition) == edited
        [model] = MODELS[OLD](["a: edited"], None)
        [stored] = rows(database, "SELECT embedding::real[] FROM langchain_pg_embedding WHERE id = 'a5'")
        assert np.allclose(stored[0], model, atol=1e-6), "the old side is kept current inside"
        for side, name in ((Side.OLD, OLD), (Side.NEW, NEW)):
            found = rows(
                database,
                "SELECT key FROM embedtui.search('langchain_pg_embedding', %s, %s::vector, 5)",
                name,
                vector_literal(MODELS[name](["a: edited"], None)[0]),
            )
            assert found[0] == ("a5",) and len(found) == 5, side
        engine.rollback()
        engine.cutover(override={"gate": "test"})
        assert not any("DROP COLUMN" in each and '"embedding"' in each for each in engine.cleanup_sql())
        assert (
            "embedding stays: rows outside the scope" in {n.name: n.detail for n in engine.cleanup_notices()}["scope"]
        )
        assert engine.blockers("cleanup", thorough=True) == ()
        engine.cleanup(typed_name="langchain_pg_embedding", stop=threading.Event())
        with pytest.raises(Refused, match="nothing has kept its old vectors current"):
            engine.rollback()
        assert engine.snapshot().route.active is Side.NEW
    assert outside(database, condition) == edited
    sent = list(api.texts)[asked:]
    assert "a: edited" in sent
    assert not [text for text in sent if text.startswith("b")]


def test_the_plan_of_a_mixed_column_names_the_scope_that_makes_it_pass(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    fill(database, 12)
    flags: dict[str, object] = {"table": "langchain_pg_embedding", "content": ("document",)}
    for _ in range(2):
        with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
            failed = [check for check in engine.plan().checks if check.result == "fail"]
        if "scope" not in flags:
            assert [check.name for check in failed] == ["stored vectors"]
            said = re.search(r'scope = "(.+?)", or --where', failed[0].hint)
            assert said is not None
            flags["scope"] = said[1]
            flags["old_model.name"] = "other-model" if B in said[1] else OLD
            failed = []
        assert not failed


@pytest.mark.parametrize("placement", ["column", "table"])
def test_two_collections_are_moved_side_by_side(
    database: str, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    fill(database, 12)
    common = {"table": "langchain_pg_embedding", "content": ("document",), "placement": placement, "accept": []}
    first = {**common, "scope": f"collection_id = '{A}'", "index.method": "none"}
    second = {**common, "scope": f"collection_id = '{B}'", "old_model.name": "other-model", "index.method": "none"}

    def engine(flags: dict[str, object]) -> Engine:
        return Engine(database, settings=settings_for(database, api, tmp_path, flags))

    with closing(engine(first)) as one:
        one.run(threading.Event())
        # without a name, or a place, of its own it is refused with the way out
        with closing(engine(second)) as two, pytest.raises(Refused, match="is under way with scope") as refused:
            two.run(threading.Event())
        assert "--name" in refused.value.hint
        with closing(engine({**second, "name": "b"})) as two, pytest.raises(Refused, match="already") as refused:
            two.run(threading.Event())
        assert "--new-column" in refused.value.hint or "new_table" in refused.value.hint
        second |= {"name": "b", "new_column": "embedding_b"}
        if placement == "table":
            second |= {"new_table": "embedding_b"}
        for scope, why in (
            (None, "would move the same rows"),
            (f"collection_id IN ('{A}', '{B}')", "could be in the scope"),
            ("document LIKE 'b%'", "could be in the scope"),
        ):
            with closing(engine({**second, "scope": scope, "accept": ["proof"]})) as two:
                checks = {check.name: check for check in two.plan().checks}
                assert why in checks["other migrations"].detail
        with closing(engine(second)) as two:
            two.run(threading.Event())
            for each in (one, two):
                each.cutover(override={"gate": "test"})
            before = outside(database, "false")
            rows(database, "UPDATE langchain_pg_embedding SET document = 'moved' WHERE id IN ('a1', 'b1')")
            rows(database, f"UPDATE langchain_pg_embedding SET collection_id = '{B}' WHERE id = 'a2'")
            for each in (one, two):
                each.run(threading.Event())
            assert outside(database, "false") != before
            reports = [each.verify(sample=20) for each in (one, two)]
            assert [(r.rows, r.embedded, r.missing, r.stale, r.mismatched) for r in reports] == [
                (11, 11, 0, 0, 0),
                (13, 13, 0, 0, 0),
            ]
            sizes = rows(
                database,
                "SELECT collection_id::text, vector_dims(embedding), count(*) FROM langchain_pg_embedding"
                " WHERE id <> 'a2' GROUP BY 1, 2 ORDER BY 1, 2",
            )
            assert sizes == [(A, 384, 11), (B, 768, 12)]
            one.rollback()
            one.abort(typed_name="langchain_pg_embedding")
            assert two.verify().embedded == 13
            two.rollback()
            two.abort(typed_name="langchain_pg_embedding")
        assert not rows(database, "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'embedtui%'")
        assert not rows(
            database, "SELECT attname FROM pg_attribute WHERE attname LIKE 'embedding_%' AND NOT attisdropped"
        )


LONG = "x" * 60 + "_%s"
TENANTS = f"""
CREATE SCHEMA "Saa S";
CREATE TYPE "Saa S".plan AS ENUM ('free', 'paid');
CREATE DOMAIN "Saa S".slug AS varchar(40);
CREATE TABLE "Saa S"."Do cs" (
    "Id" uuid DEFAULT gen_random_uuid() PRIMARY KEY, "{LONG}" "Saa S".slug NOT NULL, plan "Saa S".plan NOT NULL,
    "Ti'tle" text, body jsonb, embedding vector(8));
"""


@pytest.mark.parametrize("flags", [{"placement": "column"}, {"placement": "table", "foreign_key": False}])
def test_a_tenant_with_types_and_names_of_its_own_and_a_text_made_of_its_row(
    database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object]
) -> None:
    old = hash_model(8)
    with LoopbackServer({OLD: old, NEW: hash_model(16)}, log_texts=10_000) as own:
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(TENANTS)  # type: ignore[arg-type]
            for n in range(24):
                title, text = f"100% {n}", f"it's {{n}} {n}"
                conn.execute(
                    'INSERT INTO "Saa S"."Do cs" VALUES (DEFAULT, %s, %s, %s, %s, %s)',
                    [
                        "o'neil %" if n % 2 else "other",
                        "paid" if n % 3 else "free",
                        title,
                        Jsonb({"te'xt": text}),
                        vector_literal(old([f"# {title}\n{text}"], None)[0]),
                    ],
                )
        settings = settings_for(
            database,
            own,
            tmp_path,
            {
                "table": '"Saa S"."Do cs"',
                "scope": f"\"{LONG}\" = 'o''neil %' AND plan = 'paid'",
                "content_sql": "'# ' || \"Ti'tle\" || E'\\n' || (body->>'te''xt')",
                "accept": [],
                **flags,
            },
        )
        condition = f"\"{LONG}\" = 'o''neil %' AND plan = 'paid'"
        table = '"Saa S"."Do cs"'
        before = outside(database, condition, table)
        with closing(Engine(database, settings=settings)) as engine:
            plan = engine.plan()
            assert not [check for check in plan.checks if check.result == "fail"]
            engine.run(threading.Event())
            assert engine.compare().seen is not None
            engine.cutover(override={"gate": "test"})
            rows(database, f"UPDATE {table} SET plan = 'paid' WHERE \"{LONG}\" = 'o''neil %' AND plan = 'free'")
            entered = outside(database, condition, table)
            rows(database, f"UPDATE {table} SET \"Ti'tle\" = 'edited' WHERE {condition}")
            engine.run(threading.Event())
            report = engine.verify(sample=50)
            assert (report.rows, report.embedded, report.mismatched) == (12, 12, 0)
            for text, vector in rows(
                database,
                f"SELECT '# edited' || E'\\n' || (body->>'te''xt'), embedding::real[] FROM {table} WHERE {condition}",
            ):
                assert np.allclose(vector, old([text], None)[0], atol=1e-6), "the old side, by the same text"
            with closing(Router(database)) as router, psycopg.connect(database, autocommit=True) as conn:
                route = router.route("Do cs")
                [text] = conn.execute(
                    f"SELECT '# edited' || E'\\n' || (body->>'te''xt') FROM {table} WHERE {condition} LIMIT 1".encode()
                ).fetchone() or [""]
                found = route.search(conn, hash_model(16)([text], None)[0].tolist(), k=50)
                assert len(found) == 12 and found[0].distance < 1e-6
        assert before != entered == outside(database, condition, table)
        assert all("it's" in text for text in list(own.texts) if text.startswith("#"))


BREAKING = (
    ("dropped", "ALTER TABLE langchain_pg_embedding DROP COLUMN collection_id", False),
    ("retyped", "ALTER TABLE langchain_pg_embedding ALTER collection_id TYPE text", True),
    ("renamed", "ALTER TABLE langchain_pg_embedding RENAME collection_id TO cid", True),
)


@pytest.mark.parametrize(("how", "ddl", "goes_on"), BREAKING, ids=[how for how, *_ in BREAKING])
def test_ddl_on_a_column_of_the_scope_never_fails_the_application(
    database: str, api: LoopbackServer, tmp_path: Path, how: str, ddl: str, goes_on: bool
) -> None:
    fill(database, 12)
    rows(database, "ALTER TABLE langchain_pg_embedding DROP CONSTRAINT langchain_pg_embedding_collection_id_fkey")
    flags = {
        "table": "langchain_pg_embedding",
        "content": ("document",),
        "scope": f"collection_id = '{A}'",
        "index.method": "none",
        "accept": [],
    }
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        engine.run(threading.Event())
        with psycopg.connect(database, autocommit=True) as app:  # a session that knows the trigger's former plans
            app.execute("UPDATE langchain_pg_embedding SET document = 'a: before' WHERE id = 'a1'")
            app.execute(ddl.encode())
            app.execute("UPDATE langchain_pg_embedding SET document = 'a: after' WHERE id = 'a1'")
            app.execute("UPDATE langchain_pg_embedding SET document = 'b: after' WHERE id = 'b1'")
            app.execute("INSERT INTO langchain_pg_embedding (id, document) VALUES ('c1', 'c: new')")
        if not goes_on:
            with pytest.raises(TableChanged, match="collection_id"):
                engine.run(threading.Event())
            return
        if how == "renamed":
            flags["scope"] = f"cid = '{A}'"
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        asked = len(api.texts)
        for _ in range(3):
            engine.run(threading.Event())
        report = engine.verify(sample=20)
        assert (report.rows, report.embedded, report.stale, report.mismatched) == (12, 12, 0, 0)
        assert "a: after" in list(api.texts)[asked:]
        assert not [text for text in list(api.texts)[asked:] if text[0] in "bc"]


def test_a_route_that_serves_another_scope_is_not_taken_over(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    """Who follows it would be moved to other vectors at once: a migration of other rows needs a name of its own."""
    fill(database)
    flags: dict[str, Any] = {
        "table": "langchain_pg_embedding",
        "content": ("document",),
        "scope": f"collection_id = '{A}'",
        "placement": "column",
        "cutover.soak_days": 0,
    }
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        engine.run(threading.Event())
        engine.cutover(override={"gate": "test"})
        engine.cleanup(typed_name="langchain_pg_embedding", stop=threading.Event())
    before = rows(database, "SELECT migration, active, epoch FROM embedtui.route")
    flags |= {"scope": f"collection_id = '{B}'", "new_column": "embedding_v3", "old_model.name": "other-model"}
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        assert {"name"} == {check.name for check in engine.plan().checks if check.result == "fail"}
        with pytest.raises(Refused, match="--name"):
            engine.prepare()
    assert rows(database, "SELECT migration, active, epoch FROM embedtui.route") == before
    flags["name"] = "others"
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        engine.prepare()
    assert ("langchain_pg_embedding", "new") in rows(database, "SELECT name, active FROM embedtui.route")


def test_a_route_of_an_aborted_migration_serves_its_old_side(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    """It may go on to that; another table's would move who follows it, if there ever was a route."""
    fill(database)
    with psycopg.connect(database) as conn:
        conn.execute("CREATE TABLE other AS TABLE langchain_pg_embedding; ALTER TABLE other ADD PRIMARY KEY (id)")
    flags: dict[str, Any] = {
        "table": "langchain_pg_embedding",
        "name": "one",
        "content": ("document",),
        "scope": f"collection_id = '{A}'",
        "placement": "column",
    }

    def failed(**more: Any) -> set[str]:
        with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags | more))) as engine:
            return {check.name for check in engine.plan().checks if check.result == "fail"}

    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        engine.prepare()
        engine.abort(typed_name="langchain_pg_embedding")
    assert failed() == set()
    assert failed(table="other") == {"name"}
    rows(database, "DELETE FROM embedtui.route RETURNING name")
    assert failed(table="other") == set()
