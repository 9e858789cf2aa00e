"""A table rewritten in the middle of the backfill (VACUUM FULL, CLUSTER, ALTER TABLE): no text is paid for twice."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.engine import Engine
from embedtui.errors import EmbedtuiError
from embedtui.postgres.state import shards
from tests.kits.support import make_documents, settings_for, wait_for

ROWS = 3000
REWRITES = {
    "vacuum": "VACUUM FULL documents",
    "cluster": "CLUSTER documents USING documents_pkey",
    "type": "ALTER TABLE documents ALTER COLUMN metadata TYPE json",
    "unlogged": "ALTER TABLE documents SET UNLOGGED",
}


@pytest.mark.parametrize("engines", [1, 2], ids=["one worker", "two workers"])
@pytest.mark.parametrize(
    ("placement", "rewrite"),
    [("column", "vacuum"), ("column", "type"), ("column", "unlogged"), ("table", "vacuum"), ("table", "cluster")],
)
@pytest.mark.variants(5)
def test_nothing_is_paid_for_twice(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    placement: str,
    rewrite: str,
    engines: int,
) -> None:
    monkeypatch.setattr(shards, "SHARD_BLOCKS", (16, 2048))  # as many shards as a large table has
    make_documents(database, ROWS, text="row {n} " + "x" * 600)
    flags = {"placement": placement, "pacing.max_concurrency": 4, "new_model.max_inputs": 40}
    working = [Engine(database, settings=settings_for(database, api, tmp_path, flags)) for _ in range(engines)]
    working[0].prepare()
    api.latency = 0.3  # the rewrite meets requests under way
    errors: list[EmbedtuiError] = []

    def run(engine: Engine) -> None:
        try:
            engine.run(threading.Event())
        except EmbedtuiError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(engine,)) for engine in working]
    for thread in threads:
        thread.start()
    with psycopg.connect(database, autocommit=True) as conn:
        # dead rows before the live ones, so that a rewrite moves every row to another page
        for share in (10, 40):
            wait_for(lambda share=share: api.inputs > ROWS * share / 100 or bool(errors))
            conn.execute(REWRITES[rewrite])
    api.latency = 0.02
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "the run hangs"
    assert not errors, errors
    assert working[0].verify().clean
    asked = 2 * engines  # a start asks for the vectors of two texts first
    assert api.inputs - ROWS <= asked, f"{api.inputs - ROWS - asked} texts were paid for twice"
    for engine in working:
        engine.close()
