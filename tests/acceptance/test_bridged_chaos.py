"""The short form of benchmarks/bridged_chaos.py: flips of the bridge while all fails, and no search goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = os.environ.get("EMBEDTUI_CHAOS_SECONDS", "12")
SEED = os.environ.get("EMBEDTUI_SEED", "7")


@pytest.mark.parametrize("placement", ["column", "table"])
@pytest.mark.variants(1)
def test_no_search_is_on_the_wrong_side_or_through_the_wrong_map(placement: str) -> None:
    arguments = ["--seconds", SECONDS, "--seed", SEED, "--placement", placement, "--rows", "600"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bridged_chaos", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-6000:]}"
    assert "No search failed" in done.stdout
