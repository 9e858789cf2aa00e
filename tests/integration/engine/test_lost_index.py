"""An index of the old side that is dropped or breaks under a migration is missed."""

from __future__ import annotations

import pytest

from embedtui.engine.table_changes import remember
from embedtui.model import Migration, PlacementKind, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.indexes import lost_old_index
from embedtui.postgres.state.migrations import load_migration, store_setting
from tests.integration.engine.test_snapshot import look
from tests.kits.comparing import small
from tests.kits.support import connect

BREAK = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{}'::regclass"


def known(conn: Connection) -> Migration:
    """The migration with what it remembers of the table."""
    for _ in range(2):
        found = load_migration(conn, None)
        assert found is not None
        remember(conn, found)
    return found


@pytest.mark.parametrize("placement", list(PlacementKind))
def test_an_old_index_that_is_gone_or_broken_is_missed_until_one_serves_again(
    database: str, placement: PlacementKind
) -> None:
    small(database, placement=placement)
    with connect(database, name="test") as conn:
        migration = known(conn)
        assert not look(conn).old_index_lost
        conn.execute(BREAK.format("docs_old"))
        assert look(conn).old_index_lost == "index docs_old is invalid"
        conn.execute("DROP INDEX docs_old")
        assert look(conn).old_index_lost == "index docs_old is gone"
        conn.execute("CREATE INDEX other ON docs USING hnsw (embedding vector_l2_ops)")
        assert look(conn).old_index_lost, "of another distance"
        conn.execute("CREATE INDEX again ON docs USING hnsw (embedding vector_cosine_ops)")
        assert not look(conn).old_index_lost
        conn.execute("DROP INDEX again")
        conn.execute("UPDATE embedtui.migration SET phase = 'cleanup'")
        assert not look(conn).old_index_lost, "the side goes"
        conn.execute("UPDATE embedtui.migration SET phase = 'soak'")
        assert look(conn).old_index_lost
        store_setting(conn, migration.id, "gone", Side.OLD.value)
        assert not look(conn).old_index_lost, "the cleanup has dropped the side"


def test_a_side_that_had_no_index_lost_none(database: str) -> None:
    small(database)
    with connect(database, name="test") as conn:
        conn.execute("DROP INDEX docs_old")
        known(conn)
        assert not look(conn).old_index_lost


def test_partial_indexes_are_missed_where_their_rows_still_are(database: str) -> None:
    small(database)
    with connect(database, name="test") as conn:
        conn.execute("DROP INDEX docs_old")
        for tenant in range(2):
            conn.execute(
                f"CREATE INDEX docs_{tenant} ON docs USING hnsw (embedding vector_cosine_ops) WHERE category = {tenant}"
            )
        migration = known(conn)
        conn.execute("DROP INDEX docs_1")
        assert lost_old_index(conn, migration) == "index docs_1 is gone"
        conn.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops) WHERE category = 1")
        assert not lost_old_index(conn, migration), "under another name"
        conn.execute("DROP INDEX docs_0")
        conn.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
        assert not lost_old_index(conn, migration), "a whole one serves all"
        conn.execute("DROP TABLE docs CASCADE")
        assert not lost_old_index(conn, migration), "with its table"
