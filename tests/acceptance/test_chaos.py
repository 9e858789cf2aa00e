"""The short form of benchmarks.chaos: the whole journey while workers, database and provider fail at random."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = os.environ.get("EMBEDTUI_CHAOS_SECONDS", "12")
SEED = os.environ.get("EMBEDTUI_SEED", "7")


@pytest.mark.parametrize(("placement", "jobs"), [("column", "--batch"), ("table", "--live")])
@pytest.mark.variants(1)
def test_the_journey_survives_chaos(placement: str, jobs: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.chaos", "--seconds", SECONDS, "--seed", SEED),
            *("--placement", placement, jobs, "--rows", "1500"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-6000:]}"
    assert "nothing acknowledged was lost" in done.stdout
