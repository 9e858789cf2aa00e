"""A worker with batch jobs killed at any moment: every row embedded, at most one job paid for twice, money to the cent.

The long form, with 20 kills over 100,000 rows, is ``python -m benchmarks.batch``.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.api.batches import Order
from tests.acceptance.test_kill import KILLS, SEED, every_vector_is_right, started
from tests.kits.cli_kit import Shell
from tests.kits.support import NEW, OLD, make_documents

ROWS = 1600
JOB = 500
PRICE = 0.13


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}, log_texts=100_000) as server:
        server.batches.seconds = 1.0
        yield server


@pytest.fixture
def shell(database: str, api: LoopbackServer, tmp_path: Path) -> Shell:
    make_documents(database, ROWS, text="row {n} " + "x" * 600)
    (tmp_path / "embedtui.toml").write_text(
        f'table = "documents"\n[old_model]\nname = "{OLD}"\nretired = true\n'
        f"[new_model]\nbatch = true\nbatch_inputs = {JOB}\nprice_per_million = {PRICE}\n[index]\nmethod = 'none'\n"
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


@pytest.mark.parametrize("placement", ["column", "table"])
@pytest.mark.variants(1)
def test_killed_at_random_moments_it_goes_on_with_its_jobs(
    database: str, api: LoopbackServer, shell: Shell, placement: str
) -> None:
    dice = random.Random(f"{SEED} batch {placement}")
    for _ in range(KILLS):
        api.batches.orders.append(Order(dice.choice(["expired", "cancelled"]), share=dice.random()))
        moment = api.batches.requests + dice.randrange(1, 20)  # filling, sending, waiting, taking answers
        with started(shell, "run", "--placement", placement) as process:
            while process.poll() is None and api.batches.requests < moment:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.communicate()
    result = shell.spawn("run", "--placement", placement, "--json")
    assert result.code == 0, result
    assert every_vector_is_right(database, placement)
    live = [text for text in api.texts if text.startswith("row ")]
    again = sum(count - 1 for count in Counter([*live, *api.batches.texts]).values())
    assert again <= JOB
    batch = result.json["batch"]
    assert batch["spent"] == pytest.approx(api.batches.tokens * PRICE / 2 / 1e6, abs=1e-12)
    assert batch["jobs"] == []
