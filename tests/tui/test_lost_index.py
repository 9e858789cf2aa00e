"""A side that has lost its index is said by harm: one that serves before all work, a rollback's aim after it."""

from __future__ import annotations

from dataclasses import replace

from embedtui.cli.work import _status_lines
from embedtui.model import Condition, Hold, IndexMethod, IndexStatus
from embedtui.tui import panels
from embedtui.tui.view import Link, View
from tests.tui import states

UP = Link(up=True)
GONE = "index documents_embedding_idx is gone"


def test_the_loss_of_either_sides_index_is_shown_everywhere() -> None:
    failed = {"condition": Condition.FAILED, "reasons": (Hold("failure", "broken"),)}
    serving = replace(states.READY, old_index_lost=GONE, **failed)  # type: ignore[arg-type]
    said = panels.advice(View(serving, UP), 160, 1).plain
    assert said.startswith(f"✗ Old index lost: {GONE}, and its searches read the whole table")
    assert GONE in panels.index(View(serving, UP), 60, 4).plain
    back = replace(states.CUT_OVER, old_index_lost=GONE)
    assert panels.advice(View(back, UP), 160, 1).plain.startswith(f"! Old index lost: {GONE}: after a rollback")
    assert GONE in panels.index(View(back, UP), 60, 4).plain
    new = replace(states.CUT_OVER, index=IndexStatus(method=IndexMethod.HNSW))
    assert panels.advice(View(new, UP), 160, 1).plain.startswith("✗ New index lost: its index is gone, and searches")
    printed = "\n".join(line for each in (serving, back, new) for line in _status_lines(each))
    assert f"Old index  LOST: {GONE}; searches read the whole table" in printed
    assert f"LOST: {GONE}; after a rollback searches would" in printed and "New index  LOST: its index is" in printed
    assert not replace(new, index=replace(new.index, phase="building index")).new_index_lost
