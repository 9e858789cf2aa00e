"""Between a fold and the drop: the migration is one of a column, both sides are there, and applications move over."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from embedtui.engine.cleanup import fold
from embedtui.engine.cleanup.blockers import cleanup_blockers
from embedtui.engine.cleanup.choice import CleanupChoice
from embedtui.engine.cleanup.notices import decided
from embedtui.engine.table_changes import same_names, table_change
from embedtui.model import Phase, PlacementKind, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides import capture
from embedtui.postgres.state import listeners, pointer
from embedtui.postgres.state import migrations as state
from tests.integration.engine.test_cleanup import ROWS, columns, count, require_clean_end, soaked, vector
from tests.integration.engine.test_fold import FOLD, clean, conn, taken_back

__all__ = ["conn"]

PASSED = {"soak": "a test", "listeners": "a test"}


@pytest.mark.parametrize("at", ["settle", "contract"])
def test_taken_back_after_the_exchange_it_is_a_migration_of_a_column(conn: Connection, at: str) -> None:
    """Both sides are there and are captured; it is cut over again, and cleaned up without anything being copied."""
    migration = soaked(conn, PlacementKind.TABLE)
    taken_back(conn, migration, at)
    pointer.follow_pointer(conn, migration.id)
    found = state.load_migration(conn)
    assert found is not None
    assert (found.placement, found.new_column, found.phase) == (PlacementKind.COLUMN, "embedding_v2", Phase.VALIDATE)
    assert capture.state(conn, found).installed and not capture.state(conn, migration).installed
    assert table_change(conn, found) is None and not same_names(migration, found)
    conn.execute("UPDATE documents SET content = 'edited' WHERE id = 2")
    assert conn.execute("SELECT key FROM embedtui.queue").fetchall() == [(["2"],)]
    conn.execute("DELETE FROM embedtui.queue; DELETE FROM embedtui.capture_fault")
    conn.execute("UPDATE documents SET content = 'text 2' WHERE id = 2; DELETE FROM embedtui.queue")
    pointer.move_route(conn, "documents", expect_epoch=None, active=Side.NEW, canary=100, who="t", host="h")
    found = state.load_migration(conn)
    assert found is not None
    ran: list[str] = []
    clean(conn, found, CleanupChoice(), on_step=lambda step: ran.append(step.name))
    assert ran == ["begin", "settle", "contract", "finish"]
    require_clean_end(conn)


def test_with_a_view_asked_for_applications_follow_at_the_exchange(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default then, though Routers were heard: the old column goes once they know, and what they began is over."""
    monkeypatch.setattr(fold, "REQUEST", 1.0)
    migration = soaked(conn, PlacementKind.TABLE)
    report = listeners.ListenerReport(uuid4(), "documents", "h", 1, "search", 1, 0.0, 0, 0, by_view=True)
    listeners.report_listener(conn, report)
    assert decided(conn, migration, CleanupChoice()).fold is False
    (blocker,) = [each for each in cleanup_blockers(conn, migration, FOLD) if each.name == "routed_view"]
    assert "search finds the new side by the routed view" in blocker.message and blocker.overridable
    state.store_setting(conn, migration.id, "view", True)
    migration = replace(migration, settings={**migration.settings, "view": True})
    assert decided(conn, migration, CleanupChoice()).fold is True
    said: list[str] = []
    at: dict[str, float] = {}
    routers_behind = fold.routers_behind

    def looked(*arguments: Any) -> int:
        behind = routers_behind(*arguments)
        if behind:
            at["behind"] = time.monotonic()
        return behind

    monkeypatch.setattr(fold, "routers_behind", looked)

    def say(line: str) -> None:
        said.append(line)
        if "not heard of the fold" in line:
            assert count(conn, "SELECT count(*) FROM documents_v2.documents WHERE embedding IS NOT NULL") == ROWS
            assert count(conn, "SELECT count(embedding_v2) FROM documents") == ROWS
            listeners.report_listener(conn, replace(report, epoch=pointer.read_route(conn, "documents").epoch))

    begins = lambda step: at.update({step.name: time.monotonic()})  # noqa: E731
    clean(conn, migration, CleanupChoice(), override=PASSED, on_wait=say, on_step=begins)
    assert at["contract"] - at["behind"] >= fold.REQUEST, "what began before is waited for"
    assert "1 Router has not heard of the fold yet" in said
    require_clean_end(conn)
    assert list(columns(conn)) == ["id", "content", "metadata", "embedding"]
    same = f"SELECT count(*) FROM documents_v2.documents WHERE embedding <-> {vector('id * 2')} < 1e-4"
    assert count(conn, same) == ROWS


def test_a_view_that_cannot_be_made_stands_against_the_fold(conn: Connection) -> None:
    migration = soaked(conn, PlacementKind.TABLE, view=True)
    conn.execute("CREATE SCHEMA documents_v2")
    (blocker,) = cleanup_blockers(conn, migration, FOLD)
    assert blocker.name == "fold" and "Schema documents_v2 is there already" in blocker.message
