"""A cleanup beside 50 writes a second ends in one try, and every vector is right; the long form is a benchmark."""

from __future__ import annotations

import pytest

from embedtui.errors import EmbedtuiError
from embedtui.model import Phase
from tests.kits.busy import FOR, soaking


@pytest.mark.parametrize("archive", [None, "old_vectors"])
@pytest.mark.parametrize("way", ["column", "folded", "kept"])
@pytest.mark.variants(3)
def test_it_ends_in_one_try(database: str, way: str, archive: str | None) -> None:
    placement = "column" if way == "column" else "table"
    with soaking(database, placement=placement, rows=400) as at:
        fold = None if way == "column" else way == "folded"
        at.engine.cleanup("documents", override=FOR, archive=archive, fold=fold)
        at.busy.end()
        assert at.engine.snapshot().phase is Phase.DONE
        found = at.busy.check("documents_embedding_v2" if way == "kept" else "")
        assert (found["wrong"], found["missing"], at.busy.failures) == (0, 0, [])
        assert not [line for line in at.lines if "could not serialize" in line or line.startswith("worker:")]
        waited = [line for line in at.lines if "for their vectors" in line or "for its vector" in line]
        assert len(waited) == len(set(waited)), "a line is said when its number is another"


def test_without_a_worker_nothing_is_dropped(database: str) -> None:
    """The application goes on writing, and nobody embeds: it is refused before anything is changed."""
    with soaking(database, placement="column", rows=100, index=False) as at:
        at.engine.stop_workers()
        while any(each.alive for each in at.engine.snapshot().workers):
            pass
        with pytest.raises(EmbedtuiError, match=r"still waits? for (its|their) new vectors?"):
            at.engine.cleanup("documents", override=FOR)
        assert at.engine.snapshot().phase is Phase.SOAK
