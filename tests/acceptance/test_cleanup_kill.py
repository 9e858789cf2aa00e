"""Cleanups killed at any moment, their sessions cut, under an application's writes: a rerun ends them, nothing is lost.

`EMBEDTUI_KILLS=10 pytest tests/acceptance/test_cleanup_kill.py` kills each way ten times.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from pathlib import Path

import psycopg
import pytest

from embedtui.errors import EmbedtuiError
from embedtui.model import Phase
from tests.kits.busy import FOR, Journey, soaking
from tests.kits.cli_kit import Shell

KILLS = int(os.environ.get("EMBEDTUI_KILLS", "3"))
SEED = int(os.environ.get("EMBEDTUI_SEED", "20260114"))
WAYS = {"column": ("column", ()), "fold": ("table", ("--fold",)), "keep": ("table", ("--no-fold",))}
WHOLE = 3.0
"""Seconds that a cleanup takes here."""


def check(at: Journey, way: str) -> None:
    at.busy.end()
    found = at.busy.check("documents_embedding_v2" if way == "keep" else "")
    assert (found["wrong"], found["missing"], at.busy.failures) == (0, 0, [])
    with psycopg.connect(at.dsn) as conn:
        left = conn.execute(
            "SELECT (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'embedtui%'),"
            " (SELECT count(*) FROM pg_proc WHERE proname LIKE 'capture%'), (SELECT count(*) FROM embedtui.queue),"
            " (SELECT count(*) FROM pg_index WHERE indrelid = 'documents'::regclass AND NOT indisvalid)"
        ).fetchone()
        kept = conn.execute("SELECT count(*), count(DISTINCT id) FROM old_vectors").fetchone()
    assert left == (0, 0, 0, 0)
    assert kept is not None and kept[0] == kept[1] >= 400


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.variants(2)
def test_killed_at_any_moment(database: str, tmp_path: Path, way: str) -> None:
    placement, flags = WAYS[way]
    dice = random.Random(f"{SEED} {way}")
    shell = Shell(tmp_path, {"DATABASE_URL": database})
    command = ("cleanup", "--table", "documents", "--override", "soak=a test", "--archive", "old_vectors", *flags)
    with soaking(database, placement=placement, rows=400) as at, psycopg.connect(database, autocommit=True) as conn:
        for _ in range(KILLS):
            process = shell.start(*command)
            looked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'embedtui/cleanup'"
            while process.poll() is None and conn.execute(looked).fetchone() == (0,):
                time.sleep(0.01)  # until it is at work: how long that takes is the machine's
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(0.0, WHOLE))
            process.kill()
            process.communicate()
            if at.engine.snapshot().phase is Phase.DONE:
                break
        ended = shell.spawn(*command, timeout=180)
        assert ended.code == 0, ended
        assert at.engine.snapshot().phase is Phase.DONE
        check(at, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.variants(1)
def test_sessions_cut_at_any_moment(database: str, way: str) -> None:
    """The cleanup's own, and the worker's beside it."""
    placement, flags = WAYS[way]
    dice = random.Random(f"{SEED} cut {way}")
    stop = threading.Event()

    def cut() -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            for _ in range(KILLS):
                if stop.wait(dice.uniform(0.1, 1.5)):
                    return
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name IN ('embedtui/cleanup', 'embedtui/index', 'embedtui/sync')"
                )

    with soaking(database, placement=placement, rows=400) as at:
        thread = threading.Thread(target=cut)
        thread.start()
        failures: list[str] = []
        while len(failures) <= KILLS + 1:
            try:
                at.engine.cleanup("documents", override=FOR, archive="old_vectors", fold="--fold" in flags)
                break
            except EmbedtuiError as error:
                failures.append(str(error))
        stop.set()
        thread.join()
        assert at.engine.snapshot().phase is Phase.DONE, failures
        check(at, way)
