"""Rows that somebody has locked: their vectors wait for them, and are paid for once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.model import Side
from tests.acceptance.test_application_writes import EDIT, MODELS, NAMES, PLACEMENTS, table
from tests.kits.support import wait_for


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS) as server:
        yield server


@pytest.mark.parametrize("both", [False, True], ids=["before the cutover", "with an old side to keep"])
@pytest.mark.parametrize("flags", PLACEMENTS, ids=NAMES)
@pytest.mark.variants(3)
def test_what_was_embedded_for_a_locked_row_is_kept_for_it(
    database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object], both: bool
) -> None:
    with table(database, api, tmp_path, **flags) as found, psycopg.connect(database) as other:
        if both:
            found.cut_over()
            found.drain()
        before = api.requests
        found.execute(EDIT, "first words", 1)
        found.execute(EDIT, "second words", 2)
        other.execute("SELECT FROM documents WHERE id IN (1, 2) FOR UPDATE")
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            found.sync.step()
            time.sleep(0.05)
        assert not found.is_models(1, Side.NEW)
        asked = api.requests - before
        assert asked == 1 + both, "once for each model"
        other.execute("UPDATE documents SET content = 'second words, edited' WHERE id = 2")
        other.commit()
        wait_for(lambda: not found.sync.step() and not found.app.execute("SELECT FROM embedtui.queue").fetchall())
        sides = tuple(Side) if both else (Side.NEW,)
        assert all(found.is_models(key, side) for key in (1, 2) for side in sides)
        assert api.requests - before == 2 * (1 + both), "only the text that became another was embedded again"


@pytest.mark.parametrize("side", Side)
def test_a_vector_of_a_content_in_between_does_not_stand(
    database: str, api: LoopbackServer, tmp_path: Path, side: Side
) -> None:
    """Edited, given a vector of that text, and edited back before anybody looked: the digest is that of before."""
    with table(database, api, tmp_path, placement="column") as found:
        found.cut_over()
        found.drain()
        (before,) = found.app.execute("SELECT content FROM documents WHERE id = 1").fetchone() or [""]
        column = "embedding" if side is Side.OLD else "embedding_v2"
        found.execute(f"UPDATE documents SET content = 'in between', {column} = %s WHERE id = 1", found.own(side))
        found.execute(EDIT, before, 1)
        found.drain()
        assert all(found.is_models(1, each) for each in Side)
