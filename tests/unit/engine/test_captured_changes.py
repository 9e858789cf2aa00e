"""What several statements together ask for a row."""

from __future__ import annotations

import pytest

from embedtui.engine.backfill.captured_changes import combine
from embedtui.model import Side
from embedtui.postgres.sides.protocol import QueuedRow, SourceRow
from embedtui.postgres.state.queue import Entry

ROW = QueuedRow(SourceRow(("1",), 0, 7, "text", 4, "old", "new"), False, True, True, False, ("1",), False)
"""Its digest says that its new vector is of its content."""
LETTERS = {"w": ("u", False, True), "e": ("u", True, False), "b": ("u", True, True), "s": ("s", False, False)}
"""The application writes the new vector, edits the content, both at once; a scan finds the row."""


STANDS = ("w", "b", "ew", "ws", "e", "s", "es", "wew", "wesb")
REPLACED = ("we", "be", "wes", "bes", "wees")


@pytest.mark.parametrize("statements", [*STANDS, *REPLACED])
def test_a_vector_of_a_content_that_is_gone_is_replaced_whatever_the_digest_says(statements: str) -> None:
    entries = [
        Entry(number, ("1",), kind, edited, None, False, wrote)
        for number, (kind, edited, wrote) in enumerate(LETTERS[each] for each in statements)
    ]
    change = combine(entries, {}, trust=True)["1",]
    assert change.new_wanted(ROW, trust=True) is (statements in REPLACED)
    if statements[-1] in "wb":
        assert change.said[Side.NEW].value == "written"


def test_a_scan_does_not_make_an_untrusted_vector_stand() -> None:
    entries = [Entry(0, ("1",), "u", False, None, False, True), Entry(1, ("1",), "s", False, None, False, False)]
    assert combine(entries, {}, trust=False)["1",].new_wanted(ROW, trust=False)
