"""The routed view of a scope: the rows that are moved, and no other, for reading and for writing."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from embedtui.config import CutoverSettings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.engine.access import Access
from embedtui.engine.cutover.search_path import search_path_blockers
from embedtui.engine.view import drop_view, make_view
from embedtui.errors import Refused
from embedtui.integrations import Routing
from embedtui.integrations.routing import move
from embedtui.model import Phase, Side
from embedtui.router import Router
from tests.kits.support import connect, make_documents, settings_for, vector_literal

OVERRIDE = {"gate": "test", "soak": "test", "listeners": "test"}
ROWS = "SELECT id, group_of, content, embedding::text FROM documents WHERE group_of = %s ORDER BY id"


def new(text: str) -> str:
    return vector_literal(hash_model(16)([text], None)[0])


def make_groups(dsn: str, rows: int = 12) -> None:
    make_documents(dsn, rows, index=True)
    with psycopg.connect(dsn) as conn:
        conn.execute("ALTER TABLE documents ADD group_of text; UPDATE documents SET group_of = chr(97 + id::int % 3)")


def engine_of(dsn: str, api: LoopbackServer, folder: Path, group: str, **flags: object) -> Engine:
    scope = {"scope": f"group_of = '{group}'", "name": f"group_{group}", "placement": "column", "content": ["content"]}
    scope["new_column"] = f"embedding_{group}"
    return Engine(dsn, None, settings_for(dsn, api, folder, {"view": True, **scope, **flags}))


def at(engine: Engine, dsn: str) -> Access:
    return Access(dsn, engine.require().name, None, None, None)


def test_what_is_outside_is_neither_found_nor_written(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_groups(database, 600)
    engine = engine_of(database, api, tmp_path, "a")
    said = {check.name: check for check in engine.plan().checks}["routed view"]
    assert said.result == "warn" and "alone" in said.detail
    engine.run(threading.Event())
    insert = "INSERT INTO documents (id, content, group_of, embedding) VALUES (%s, %s, %s, %s)"
    upsert = f"{insert} ON CONFLICT (id) DO UPDATE SET content = excluded.content, embedding = excluded.embedding"
    outside = psycopg.errors.WithCheckOptionViolation
    with (
        psycopg.connect(database, autocommit=True, options="-c search_path=group_a_v2,public") as app,
        psycopg.connect(database, autocommit=True) as table,
    ):
        others = [table.execute(ROWS, [group]).fetchall() for group in "bc"]
        assert app.execute("SELECT DISTINCT group_of FROM documents").fetchall() == [("a",)]
        search = "SELECT id FROM documents WHERE group_of = 'a' ORDER BY embedding <=> '{}' LIMIT 5"
        app.execute("SET enable_seqscan = off; ANALYZE public.documents")
        plan = app.execute(f"EXPLAIN {search.format(new('document number 9'))}").fetchall()
        assert any("Index Scan using idx_documents_embedding_v2" in line for (line,) in plan), plan
        assert app.execute(search.format(new("document number 9"))).fetchone() == (9,)

        assert app.execute(f"{insert} RETURNING id", [1001, "mine", "a", new("mine")]).fetchone() == (1001,)
        app.execute(upsert, [1001, "mine too", "a", new("mine too")])
        with app.cursor().copy("COPY (SELECT content FROM documents WHERE id = 1001) TO STDOUT") as copy:
            assert list(copy.rows()) == [("mine too",)]
        for statement, values in (
            (insert, [1002, "other", "b", new("other")]),
            (insert, [1002, "none", None, new("none")]),
            (upsert, [1, "document number 1", "b", new("document number 1")]),
            (upsert, [1, "document number 1", "a", new("document number 1")]),  # a row of b has this key
            ("UPDATE documents SET group_of = %s WHERE id = 1001", ["b"]),
        ):
            with pytest.raises(outside):
                app.execute(statement, values)
        assert app.execute("UPDATE documents SET content = '' WHERE group_of = 'b'").rowcount == 0
        assert app.execute("DELETE FROM documents WHERE id = 1").rowcount == 0
        assert [table.execute(ROWS, [group]).fetchall() for group in "bc"] == others
        left = table.execute("SELECT count(embedding_a) FROM documents WHERE group_of <> 'a'").fetchone()
        assert left == (0,)
    with connect(database) as conn:  # a role that it moves finds no other row any more, and has to be confirmed
        found = search_path_blockers(conn, engine.require(), CutoverSettings("search_path", roles=("postgres",)))
        scope = {each.name: each for each in found}["search_path_scope"]
        assert scope.overridable and "group_of = 'a' alone" in scope.message
    engine.close()


def test_two_scopes_of_a_table_each_have_one(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """Neither shows what the other adds to the table, so neither stands in the way of the other's end."""
    make_groups(database)
    first, second = (engine_of(database, api, tmp_path, group) for group in "ab")
    with closing(first), closing(second):
        first.run(threading.Event())
        second.run(threading.Event())
        with psycopg.connect(database, autocommit=True) as conn:
            for group in "ab":
                found = conn.execute(f"SELECT * FROM group_{group}_v2.documents")  # type: ignore[arg-type]
                assert [each.name for each in found.description or ()] == [
                    "id", "content", "metadata", "embedding", "group_of",
                ]  # fmt: skip
                assert {row[4] for row in found} == {group}
            conn.execute("ALTER TABLE documents RENAME group_of TO team")
            for group in "ab":  # each follows its scope's column
                with closing(engine_of(database, api, tmp_path, group, scope=None)) as engine:
                    engine.run(threading.Event())
            names = conn.execute("SELECT * FROM group_b_v2.documents").description or ()
            assert [each.name for each in names][-1] == "team"
            with pytest.raises(psycopg.errors.WithCheckOptionViolation):
                conn.execute("INSERT INTO group_b_v2.documents (id, team) VALUES (99, 'a')")
        first.abort("documents")
        second.cutover(override=OVERRIDE)
        second.cleanup("documents", keep_old=True, override=OVERRIDE)
        assert (first.require().phase, second.require().phase) == (Phase.ABORTED, Phase.DONE)
        with psycopg.connect(database) as conn:
            assert conn.execute("SELECT count(embedding), to_regnamespace('group_a_v2') FROM group_b_v2.documents"
                                ).fetchone() == (4, None)  # fmt: skip


def test_it_is_needed_after_the_end_and_made_at_any_time(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_groups(database)
    engine = engine_of(database, api, tmp_path, "a", view=False)
    with closing(engine), closing(at(engine_ready(engine), database)) as access, Router(database) as router:
        routing = Routing(router, "group_a")
        routing.take()
        assert make_view(access).name == "group_a_v2.documents"
        engine.cutover(override=OVERRIDE)
        engine.cleanup("documents", keep_old=True, override=OVERRIDE)
        with pytest.raises(Refused, match="fails"):
            drop_view(access)
        with routing.use() as route, psycopg.connect(database, autocommit=True) as app:
            assert route.side is Side.NEW and routing.search_path("public") == '"group_a_v2", public'
            app.execute("SELECT set_config('search_path', %s, false)", [routing.search_path("public")])
            found = app.execute("SELECT id FROM documents ORDER BY embedding <=> %s", [new("document number 6")])
            assert next(row[0] for row in found) == 6
            ask = lambda query: app.execute(query.encode()).fetchone()  # noqa: E731
            assert move([routing], "public", ask) == '"group_a_v2", public'
            app.execute("DROP VIEW documents")  # by hand: the old vectors would be found by this name
            with pytest.raises(Refused, match="holds no routed view"):
                move([routing], "public", ask)


def engine_ready(engine: Engine) -> Engine:
    engine.run(threading.Event())
    return engine


def test_a_side_table_of_a_scope_has_one_from_its_fold_on(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedtui.engine.cleanup.fold.REQUEST", 0.0)
    make_groups(database)
    with closing(engine_of(database, api, tmp_path, "a", placement="table")) as engine:
        engine.run(threading.Event())
        engine.cutover(override=OVERRIDE)
        engine.cleanup("documents", fold=True, keep_old=True, override=OVERRIDE)
        with psycopg.connect(database) as conn:
            assert conn.execute("SELECT count(embedding), min(group_of) FROM group_a_v2.documents").fetchone() == (
                4,
                "a",
            )
            assert conn.execute("SELECT count(embedding) FROM documents").fetchone() == (12,)
