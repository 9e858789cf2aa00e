"""A worker killed, stopped or doubled at any moment: every row embedded, nothing paid twice but requests in flight."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.model import Phase
from tests.kits.cli_kit import Result, Shell
from tests.kits.support import NEW, OLD, make_documents

ROWS = 1600
REQUESTS, INPUTS = 4, 20
"""Requests in flight at most, and texts a request."""
KILLS = int(os.environ.get("EMBEDTUI_KILLS", "2"))
"""How often each placement's run is killed."""
SEED = int(os.environ.get("EMBEDTUI_SEED", "20260114"))


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}, latency=0.05, log_texts=100_000) as server:
        yield server


@pytest.fixture
def shell(database: str, api: LoopbackServer, tmp_path: Path) -> Shell:
    make_documents(database, ROWS, text="row {n} " + "x" * 600)
    (tmp_path / "embedtui.toml").write_text(
        f'table = "documents"\n[old_model]\nname = "{OLD}"\nretired = true\n[new_model]\nmax_inputs = {INPUTS}\n'
        f"[pacing]\nmax_concurrency = {REQUESTS}\n"
    )
    return Shell(
        tmp_path,
        {
            "DATABASE_URL": database,
            "OPENAI_API_KEY": api.key,
            "OPENAI_BASE_URL": api.base_url,
            "EMBED_MODEL": NEW,
            "EMBED_DIMENSIONS": "16",
        },
    )


@contextlib.contextmanager
def started(shell: Shell, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = shell.start(*arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def paid(api: LoopbackServer) -> int:
    """Rows' texts that were paid for; what else is asked are single words that test the model."""
    return sum(text.startswith("row ") for text in api.texts)


def wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 90
    while not condition():  # type: ignore[operator]
        if process.poll() is not None:
            pytest.fail(f"ended early with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.005)


def interrupted(shell: Shell, api: LoopbackServer, after: int, signal_number: int, *arguments: str) -> Result:
    """Run, and send the signal once ``after`` more texts were paid for."""
    target = api.inputs + after
    with started(shell, "run", *arguments) as process:
        wait_for(lambda: api.inputs >= target, process)
        process.send_signal(signal_number)
        out, err = process.communicate(timeout=60)
    return Result(process.returncode, out, err)


def every_vector_is_right(database: str, placement: str) -> bool:
    model = hash_model(16)
    source = "documents" if placement == "column" else "documents JOIN documents_embedding_v2 v USING (id)"
    column = "embedding_v2" if placement == "column" else "v.embedding"
    with psycopg.connect(database) as conn:
        rows = conn.execute(f"SELECT content, {column}::real[] FROM {source}").fetchall()
    want = model([content for content, _ in rows], None)
    return len(rows) == ROWS and np.allclose(np.array([vector for _, vector in rows]), want, atol=1e-5)


@pytest.mark.parametrize("placement", ["column", "table"])
@pytest.mark.variants(1)
def test_killed_at_random_points_it_goes_on(database: str, api: LoopbackServer, shell: Shell, placement: str) -> None:
    dice = random.Random(f"{SEED} {placement}")
    share = ROWS // (KILLS + 1)
    for _ in range(KILLS):
        result = interrupted(shell, api, dice.randrange(1, share), signal.SIGKILL, "--placement", placement)
        assert result.code == -signal.SIGKILL
    result = shell.spawn("run", "--placement", placement)
    assert result.code == 0, result
    assert every_vector_is_right(database, placement)
    paid_twice = paid(api) - ROWS
    assert 0 <= paid_twice <= KILLS * REQUESTS * INPUTS, f"seed {SEED}"
    # what the killed processes left behind is gone, or says what it is
    engine = Engine(database)
    snapshot = engine.snapshot()
    assert snapshot.phase is Phase.VALIDATE
    assert not any(worker.alive for worker in snapshot.workers)
    assert engine.verify().clean
    engine.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.variants(1)
def test_a_stop_leaves_nothing_half_done(
    database: str, api: LoopbackServer, shell: Shell, number: signal.Signals
) -> None:
    result = interrupted(shell, api, 200, number)
    assert result.code == 130, result
    assert "embedtui run" in result.err and "Traceback" not in result.err
    with psycopg.connect(database, autocommit=True) as conn:

        def one(query: str) -> object:
            row = conn.execute(query).fetchone()  # type: ignore[arg-type]
            return row and row[0]

        stored = one("SELECT count(*) FROM documents WHERE embedding_v2 IS NOT NULL")
        assert stored == paid(api), "everything paid for is stored"
        assert one("SELECT count(*) FROM embedtui.shard WHERE state = 'leased'") == 0
        assert one("SELECT count(*) FROM embedtui.worker WHERE stopped_at IS NULL") == 0
        assert one("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'embedtui/%'") == 0
    assert shell.spawn("run").code == 0
    assert paid(api) == ROWS


def test_a_second_run_beside_it_takes_over_from_a_killed_one(database: str, api: LoopbackServer, shell: Shell) -> None:
    engine = Engine(database)
    with started(shell, "run") as first:
        wait_for(lambda: paid(api) > 0, first)
        api.latency = 1.0
        with started(shell, "run") as second:
            wait_for(lambda: sum(worker.alive for worker in engine.snapshot().workers) == 2, second)
            assert first.poll() is None
            first.kill()
            api.latency = 0.02
            out, err = second.communicate(timeout=90)
            assert second.returncode == 0, (out, err)
    engine.close()
    assert every_vector_is_right(database, "column")
    assert 0 <= paid(api) - ROWS <= REQUESTS * INPUTS
