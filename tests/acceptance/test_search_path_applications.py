"""Applications that know only their table: three threads write and search through a whole migration, whatever made it.

No operation fails, and none finds by a vector of the other model: both models have the same size, so that a mix would
raise no error, and a text's nearest row is its own at distance 0 only where model and side belong together.

Libraries that are not installed are skipped; the dev lock has SQLAlchemy and Django. The long form, for the release:
``EMBEDTUI_TEST_FLIPS=25 pytest tests/acceptance/test_search_path_applications.py`` with the others installed, as
``tests/frameworks/test_libraries.py`` says.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import openai
import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.engine.cleanup import fold
from embedtui.engine.plan.presets.frameworks import LLAMA_INDEX_TEXT
from embedtui.errors import Interrupted, LockTimeout
from embedtui.integrations import Routing
from embedtui.model import Phase, Side
from embedtui.router import Router
from tests.kits.applications import SIZE, TEXTS, Application, Plain, installed
from tests.kits.library_applications import APPLICATIONS, LlamaIndex, SqlAlchemy
from tests.kits.support import NEW, OLD, settings_for, wait_for
from tests.kits.traffic import Traffic, unfound

LONG = "EMBEDTUI_TEST_FLIPS" in os.environ
FLIPS = int(os.environ.get("EMBEDTUI_TEST_FLIPS", "4"))
"""Cutovers, every third of them to a canary, with a rollback after each but the last."""
FOLDED = [kind for kind in APPLICATIONS if not kind.prepared] if LONG else [Plain, SqlAlchemy]
"""What is tried with a side table: not what needs SQL of the operator's beside the view, which the fold alone makes."""
MODELS = {OLD: hash_model(SIZE, "old"), NEW: hash_model(SIZE, "new")}
OVERRIDE = dict.fromkeys(("gate", "sync", "soak", "listeners", "queue", "coverage"), "test")


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS) as running:
        yield running


def requests(application: Application, routing: Routing) -> Traffic:
    """Three threads: one request after the other, each with a key of its own, or none."""

    def without_key(turn: int) -> str:
        return unfound(application, TEXTS[turn % len(TEXTS)])  # no block: each embedding takes the route anew

    def with_key(number: int, turn: int) -> str:
        with routing.use(key=f"user {number} {turn}"):
            wrong = unfound(application, TEXTS[turn % len(TEXTS)])
            if not wrong and turn % 8 == 0:
                application.add(f"added by {number}, {turn}")
                wrong = unfound(application, f"added by {number}, {turn}")
            return wrong

    return Traffic(without_key, partial(with_key, 1), partial(with_key, 2), leave=application.leave)


@pytest.mark.filterwarnings("ignore")  # what a library leaves open is its own affair
@pytest.mark.parametrize(
    ("kind", "placement"), [*((kind, "column") for kind in APPLICATIONS), *((kind, "table") for kind in FOLDED)],
    ids=lambda each: getattr(each, "__name__", each),
)  # fmt: skip
@pytest.mark.variants(7)
def test_a_whole_migration_under_an_application(
    kind: type[Application], placement: str, database: str, api: LoopbackServer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In a column of its own it ends with a rename; from a side table with a fold, by which the application follows."""
    if not LONG:
        monkeypatch.setattr(fold, "REQUEST", 1.0)
    if missing := installed(kind):
        pytest.skip(f"{missing} is not installed")
    client = openai.OpenAI(base_url=api.base_url, api_key=api.key)

    def with_old(texts: list[str]) -> list[list[float]]:
        return [each.embedding for each in client.embeddings.create(model=OLD, input=texts).data]

    kind.seed(database, with_old)
    flags: dict[str, object] = {"table": kind.table, "content": [kind.content], "name": "documents", "view": True}
    flags["placement"] = placement
    if kind.texts_in:
        flags |= {"content": (), "content_sql": kind.content, "content_from": kind.texts_in}
    if kind is LlamaIndex:
        with psycopg.connect(database) as conn:
            conn.execute(LLAMA_INDEX_TEXT.replace("{schema}", "public"))  # type: ignore[arg-type]
        del flags["content"]
        flags["content_sql"] = "public.llama_index_text(text, metadata_::json)"
    settings = settings_for(database, api, tmp_path, flags, EMBED_DIMENSIONS=str(SIZE))
    engine, stop = Engine(database, None, settings), threading.Event()
    engine.prepare()
    if kind.prepared and placement == "column":
        lines = next(text for way in engine.how().ways for place, text in way.lines if place.startswith("SQL, once"))
        with psycopg.connect(database) as conn:
            conn.execute(lines)  # type: ignore[arg-type]
    ended: list[Exception] = []
    following = threading.Thread(target=_follow, args=(engine, stop, ended))
    with Router(database) as router:
        routing = Routing(router, "documents")
        application = kind(database, routing, client)
        application.prepares_all = placement == "column"  # made before the first request; a fold makes its own later
        with requests(application, routing) as traffic:
            traffic.some_more()
            following.start()
            wait_for(lambda: engine.require().phase is Phase.VALIDATE, "no index")
            for flip in range(FLIPS):
                engine.cutover(30 if flip % 3 == 1 else 100, override=OVERRIDE)
                traffic.some_more()
                if flip < FLIPS - 1:
                    engine.rollback()
                    traffic.some_more()
            if engine.snapshot().route.canary < 100:
                engine.cutover(override=OVERRIDE)
            assert routing.route.side is (Side.NEW if placement == "column" else Side.OLD)
            _clean_up(engine, kind.table)
            assert routing.route.side is Side.NEW
            for _ in range(3):
                traffic.some_more()
        application.close()
    stop.set()
    following.join()
    engine.close()
    client.close()
    assert not traffic.failed
    assert not ended
    _all_of_the_new_model(database, kind)


def _all_of_the_new_model(dsn: str, kind: type[Application]) -> None:
    with psycopg.connect(dsn) as conn:
        source = f"{kind.table} JOIN {kind.texts_in} USING ({kind.key})" if kind.texts_in else kind.table
        rows = conn.execute(f"SELECT {kind.content}, {kind.vector}::real[] FROM {source}").fetchall()  # type: ignore[arg-type]
    assert len(rows) > len(TEXTS)
    for text, vector in rows:
        np.testing.assert_allclose(vector, MODELS[NEW]([text], None)[0], atol=1e-5)


def _follow(engine: Engine, stop: threading.Event, ended: list[Exception]) -> None:
    try:
        engine.run(stop, follow=True)
    except Interrupted:
        pass
    except Exception as error:
        ended.append(error)


def _clean_up(engine: Engine, table: str) -> None:
    """As an operator would where somebody always holds a lock: again. Nothing is refused."""
    end = time.monotonic() + 120
    while engine.require().phase is not Phase.DONE:
        assert time.monotonic() < end
        with contextlib.suppress(LockTimeout):
            engine.cleanup(table, override=OVERRIDE)
