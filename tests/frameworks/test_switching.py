"""The lines that `embedtui cutover --how` gives to copy: for every framework, and right as they stand."""

from __future__ import annotations

import textwrap
import threading
import tomllib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from embedtui.config import load_settings
from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.engine.cutover.how import COMMAND, HowTo
from embedtui.engine.plan.presets.frameworks import FRAMEWORKS
from embedtui.engine.plan.presets.switching import WAYS
from embedtui.model import PlacementKind, RowExpression
from embedtui.router import Router
from tests.frameworks.test_presets import NAMES, load
from tests.kits.cli_kit import InProcess
from tests.kits.support import connect, make_documents, settings_for, vector_literal, wait_for
from tests.kits.tables import settings_of


@pytest.fixture(params=["column", "table"])
def engine(request: pytest.FixtureRequest, database: str, api: LoopbackServer, tmp_path: Path) -> Iterator[Engine]:
    make_documents(database, 5)
    with closing(Engine(database, None, settings_for(database, api, tmp_path, {"placement": request.param}))) as made:
        yield made


def code(found: HowTo, place: str) -> str:
    return next(text for way in found.ways for where, text in way.lines if where.startswith(place))


def test_every_framework_that_can_be_moved_has_a_way() -> None:
    assert set(WAYS) == {preset.name for preset in FRAMEWORKS if not preset.refused}


@pytest.mark.parametrize("scope", [None, RowExpression("tenant = 'é'\n  AND x > 1", "…", ("tenant", "x"))])
@pytest.mark.parametrize("framework", ["", *WAYS])
def test_lines_are_right_as_they_stand(framework: str, scope: RowExpression | None, tmp_path: Path) -> None:
    from embedtui.engine.cutover.how import Connected, _described
    from embedtui.engine.plan.presets.switching import ways_of
    from embedtui.model import TableName
    from tests.kits.samples import sample_migration

    migration = replace(sample_migration(TableName("My App", "Odd 'Docs'"), settings={"view": True}), scope=scope)
    for way in ways_of(framework or None):
        assert way.strategy != "pointer" or not way.view or any("embedtui" in text for _, text in way.lines)
        described = _described(way, migration, (Connected("product", "x", 1),), True)
        assert bool(described.possible) == (scope is not None and way.strategy == "rename")
        assert (scope is not None and way.view) == ("the rows where tenant = 'é' AND x > 1 are" in described.caution)
        for place, text in described.lines:
            assert text.endswith("\n")
            assert "{" not in text or place.startswith(("SQL", "JavaScript", "Python, Memory"))
            if place == "embedtui.toml":
                (tmp_path / "embedtui.toml").write_text(text.replace("…", "/bin/true"))
                tomllib.loads(text)
                said = load_settings({}, environ={}, cwd=tmp_path)
                assert said.value("cutover.strategy") == way.strategy
                assert way.view == bool(said.value("view"))
            elif place in ("Python", "Python, at start-up", "Python, in a request", "Python, AppConfig.ready()"):
                compile(text.replace("…", "..."), place, "exec")


def test_who_is_there_is_said_before_it_begins_and_after(engine: Engine, database: str) -> None:
    side_table = engine._at.settings is not None and engine._at.settings.value("placement") is PlacementKind.TABLE
    with connect(database) as conn:
        conn.execute(
            "DROP ROLE IF EXISTS ways_app; CREATE ROLE ways_app LOGIN; DROP ROLE IF EXISTS ways_other;"
            " CREATE ROLE ways_other LOGIN; GRANT SELECT ON documents TO ways_app"
        )
    try:
        app = make_conninfo(database, user="ways_app", application_name="gunicorn")
        other = make_conninfo(database, user="ways_other")
        with psycopg.connect(app), psycopg.connect(app), psycopg.connect(other):
            planned = {check.name: check for check in engine.plan().checks}["application"]
            assert "ways_app (2 sessions)" in planned.detail
            assert "ways_other" not in planned.detail  # it may not read the table
            assert COMMAND in planned.advice
            assert planned.result == "pass"
            found = engine.how()
            assert [(each.role, each.application, each.sessions) for each in found.connected] == [
                ("ways_app", "gunicorn", 2)
            ]
            assert [bool(way.possible) for way in found.ways] == (
                [False, True, True, False, True, True] if side_table else [False] * 6
            )
            engine.run(threading.Event())
            begun = engine.how()
            assert [way.title for way in begun.ways] == [way.title for way in found.ways]
            assert begun.connected == found.connected
            with Router(database, application_name="search") as router:
                router.route("documents")
                wait_for(lambda: "1 Router was heard from" in str(engine.how()), "it reports")
                [notice] = [each for each in engine.notices() if each.name == "application"]
                assert notice.result == "pass"
        [notice] = [each for each in engine.notices() if each.name == "application"]
        assert notice.advice.endswith(COMMAND)
    finally:
        with connect(database) as conn:
            conn.execute("DROP OWNED BY ways_app; DROP ROLE ways_app; DROP ROLE ways_other")


def test_the_command_prints_lines_to_copy(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(database) as conn:
        load(conn, "langchain_pgvector")
    shell = InProcess(
        tmp_path, {"DATABASE_URL": database, "EMBED_MODEL": "other", "EMBED_DIMENSIONS": "16"}, monkeypatch, capsys
    )
    assert "view     its application follows by a routed view" in shell("init", "--table", "langchain_pg_embedding").out
    assert tomllib.loads((tmp_path / "embedtui.toml").read_text())["view"] is True
    assert "before the first run" not in shell("cutover", "--how").out
    shell("init", "--no-view")
    said = shell("cutover", "--how", "--table", "langchain_pg_embedding")
    assert said.code == 0
    assert "Made by LangChain PGVector. " in said.out
    assert "embedtui.toml, before the first run:\n\n    view = true\n" in said.out
    [_, python] = said.out.split("Python, at start-up:\n")
    compile(textwrap.dedent(python.split("The whole of it")[0]), "printed", "exec")
    assert "Routing(Router(DATABASE_URL, application_name=\"search\"), 'langchain_pg_embedding')" in python
    assert '"strategy": "pointer"' in shell("cutover", "--how", "--json", "--table", "langchain_pg_embedding").out
    (tmp_path / "embedtui.toml").unlink()
    nothing = shell("cutover", "--how")
    assert nothing.code == 6
    assert "No migration has begun" in nothing.err


def test_supabase_gets_a_function_of_the_new_size(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    with connect(database) as conn:
        recorded = load(conn, "supabase")
    flags = {"table": recorded.table, "view": True, "name": "documents"}
    with closing(Engine(database, None, settings_for(database, api, tmp_path, flags))) as engine:
        engine.run(threading.Event())
        found = engine.how()
        assert found.framework == NAMES["Supabase, or LangChain's SupabaseVectorStore"].name
        with connect(database) as conn:
            conn.execute(code(found, "SQL, once"))  # type: ignore[arg-type]
            [vector] = api.models["new-model"](["Refunds are paid within five days."], None)
            row = conn.execute(
                "SELECT content, similarity FROM documents_v2.match_documents(%s, 3)", [vector_literal(vector)]
            ).fetchone()
            assert row is not None
            assert row[0] == "Refunds are paid within five days."
            assert row[1] == pytest.approx(1, abs=1e-5)


def test_what_a_vector_store_needs_is_run_as_it_stands(database: str, tmp_path: Path) -> None:
    with connect(database) as conn:
        recorded = load(conn, "langchain_pgvectorstore")
    with closing(Engine(database, None, settings_of(tmp_path, {"table": recorded.table}))) as engine:
        found = engine.how()
    with connect(database) as conn:
        conn.execute(code(found, "SQL, before"))  # type: ignore[arg-type]
        nullable = conn.execute(
            "SELECT NOT attnotnull FROM pg_attribute WHERE attrelid = 'handbook'::regclass AND attname = 'embedding'"
        ).fetchone()
        assert nullable == (True,)
