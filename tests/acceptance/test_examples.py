"""The examples run, embed with the right model, search the right side, and follow a flip without a restart."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import openai
import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.model import EmbeddingModel
from embedtui.router import Router
from tests.kits.cutover_kit import flip, make
from tests.kits.support import connect, settings_for, wait_for

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = [f"document number {n}" for n in range(1, 31)]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    models = {"old-model": hash_model(8, "old"), "new-model": hash_model(16, "new")}
    with LoopbackServer(models, log_texts=50) as running:
        yield running


@pytest.fixture
def service(database: str, api: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A migrated table whose vectors come from the two models; the environment of a service."""
    make(
        database,
        rows=0,
        index=False,
        old_model=EmbeddingModel("old-model", 8),
        new_model=EmbeddingModel("new-model", 16),
    )
    old, new = (api.models[name](TEXTS, None).tolist() for name in ("old-model", "new-model"))
    with connect(database, name="test") as conn, conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO documents (id, content, lang, embedding, embedding_v2) VALUES (%s, %s, %s, %s, %s)",
            [
                (n, content, "en" if n % 2 else "de", str(old[n - 1]), str(new[n - 1]))
                for n, content in enumerate(TEXTS, 1)
            ],
        )
        conn.execute("CREATE SEQUENCE ids START 1000")
        conn.execute("ALTER TABLE documents ALTER id SET DEFAULT nextval('ids')")
    for name, value in {
        "DATABASE_URL": database,
        "OPENAI_API_KEY": api.key,
        "OPENAI_BASE_URL": api.base_url,
    }.items():
        monkeypatch.setenv(name, value)
    return database


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "plain_psycopg", "sqlalchemy_app", "fastapi_app", "langchain_app",
    }  # fmt: skip


def test_plain_psycopg(service: str) -> None:
    example = load("plain_psycopg")
    with (
        Router(service) as router,
        psycopg.connect(service, autocommit=True) as conn,
        openai.OpenAI() as client,
    ):
        for number, side in enumerate(("old", "new", "old")):
            if number:
                epoch = flip(service, "documents", side)
                wait_for(lambda epoch=epoch: router.route("documents").epoch == epoch)
            best = example.search(router, conn, client, "document number 7", user="u1")[0]
            assert best.key == ("7",) and best.distance == pytest.approx(0, abs=1e-6)
            added = example.add(router, conn, client, f"added on the {side} side {number}")
            assert example.search(router, conn, client, f"added on the {side} side {number}")[0].key == (str(added),)
            stamped = conn.execute(
                "SELECT embedding IS NOT NULL, embedding_v2 IS NOT NULL, embedding_v2_source ="
                " hash_record_extended(ROW(content::text), 0) FROM documents WHERE id = %s",
                [added],
            ).fetchone()
            assert stamped == ((True, False, None) if side == "old" else (False, True, True))


def test_sqlalchemy(service: str) -> None:
    from sqlalchemy.orm import Session

    example = load("sqlalchemy_app")
    engine = example.make_engine(service)
    try:
        with Router(service) as router, Session(engine) as session, openai.OpenAI() as client:
            for side in ("old", "new"):
                epoch = flip(service, "documents", side)
                wait_for(lambda epoch=epoch: router.route("documents").epoch >= epoch)
                rows = example.search(router, session, client, "document number 8", "de")
                assert len(rows) == 5 and rows[0].key == ["8"] and rows[0].content == "document number 8"
                assert all(int(row.key[0]) % 2 == 0 for row in rows)
    finally:
        engine.dispose()


def test_fastapi(service: str, api: LoopbackServer) -> None:
    from fastapi.testclient import TestClient

    with TestClient(load("fastapi_app").app) as client:
        for side in ("old", "new"):
            epoch = flip(service, "documents", side)
            wait_for(lambda epoch=epoch: client.get("/health").json()["epochs"]["documents"] >= epoch)
            reply = client.get("/search", params={"q": "document number 9", "user": "u1"}).json()
            assert reply["model"] == f"{side}-model"
            assert reply["hits"][0] == {"key": ["9"], "content": "document number 9"}
        assert client.get("/health").json()["route_fresh"] is True
    assert "document number 9" in api.texts


@pytest.mark.parametrize(
    "command", [["plain_psycopg.py", "document number 3"], ["sqlalchemy_app.py", "document number 3", "en"]]
)
def test_scripts_answer_on_the_command_line(service: str, command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "0.000  3  document number 3" or done.stdout.startswith("-0.000  3")


def test_langchain(database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langchain_postgres")
    from embedtui.integrations import Routing
    from tests.kits.library_applications import LangChain

    monkeypatch.setenv("OPENAI_API_KEY", api.key)
    monkeypatch.setenv("OPENAI_BASE_URL", api.base_url)
    example = load("langchain_app")
    with openai.OpenAI() as client:

        def with_old(texts: list[str]) -> list[list[float]]:
            return [each.embedding for each in client.embeddings.create(model="old-model", input=texts).data]

        LangChain.seed(database, with_old)
        flags = {"table": LangChain.table, "content": [LangChain.content], "name": "documents", "view": True}
        engine = Engine(database, None, settings_for(database, api, tmp_path, flags))
        engine.run(threading.Event())
        with Router(database) as router:
            routing = Routing(router, "documents")
            store = example.make_store(routing, client, database)
            for act in ("nothing", "cutover", "rollback"):
                if act != "nothing":
                    epoch = getattr(engine, act)(**({"override": {"gate": "test"}} if act == "cutover" else {})).epoch
                    wait_for(lambda epoch=epoch: router.route("documents").epoch >= epoch)
                assert (
                    example.search(store, routing, "document number 7", "user")[0].page_content == "document number 7"
                )
            store._engine.dispose()
        engine.close()
