"""A service that goes by the routed view is not left alone with a cutover while there is none."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.engine import Engine
from embedtui.engine.view import make_view
from embedtui.integrations import Routing
from embedtui.router import Router
from tests.kits.cli_kit import InProcess
from tests.kits.support import connect, make_documents, settings_for, wait_for


def test_no_cutover_leaves_it_without_what_it_goes_by(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 30)
    settings = settings_for(database, api, tmp_path, {"placement": "column"})
    with closing(Engine(database, settings=settings)) as engine:
        engine.run(threading.Event())
        names = lambda: {each.name: each for each in engine.blockers("cutover")}  # noqa: E731
        with Router(database, application_name="shop") as plain:
            plain.route("documents")
            wait_for(lambda: [str(x) for x in engine.snapshot().route.listeners])
            assert "routed_view" not in names(), "a Router needs no view"
            with Router(database, application_name="library") as router:
                routing = Routing(router, "documents")
                for _ in range(3):
                    routing.take()
                routing.take(documents=True)
                wait_for(lambda: any(each.by_view for each in engine.snapshot().route.listeners))
                found = names()["routed_view"]
                assert "library finds" in found.message and "shop" not in found.message and not found.overridable
                assert found.hint == "Make it: embedtui view"
                wait_for(lambda: sum(each.searches_old for each in engine.snapshot().route.listeners) == 3)
                make_view(engine._at, None, threading.Event())
                assert "routed_view" not in names()
                with connect(database) as conn:
                    conn.execute("CREATE ROLE clerk LOGIN")
                    try:
                        for act in (
                            "GRANT SELECT ON documents TO clerk",
                            "REVOKE USAGE ON SCHEMA documents_v2 FROM clerk",
                            "ALTER TABLE documents ADD note text",
                        ):
                            conn.execute(act)
                            assert "is behind the table's columns or grants" in names()["routed_view"].message
                            make_view(engine._at, None, threading.Event())
                            assert "routed_view" not in names()
                    finally:
                        conn.execute("DROP OWNED BY clerk; DROP ROLE clerk")


def test_that_nobody_is_heard_to_follow_is_said(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_documents(database, 30)
    settings = settings_for(database, api, tmp_path, {"placement": "column"})
    with closing(Engine(database, settings=settings)) as engine:
        engine.run(threading.Event())
    shell = InProcess(tmp_path, {"DATABASE_URL": database}, monkeypatch, capsys)
    alone = shell("cutover", "--yes", "--override", "gate=a test")
    assert alone.code == 0 and "No Router was heard from" in alone.err and "--how" in alone.err
    with Router(database, application_name="shop") as router, closing(Engine(database, settings=settings)) as engine:
        router.route("documents")
        wait_for(lambda: engine.snapshot().followed)
        assert "No Router" not in shell("cutover", "--yes", "--override", "gate=a test").err
