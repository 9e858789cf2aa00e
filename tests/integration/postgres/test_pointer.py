"""The pointer: compare-and-set, repeats, two operators, canary; and the route as any language reads it in SQL."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from embedtui.errors import DatabaseError, Refused
from embedtui.model import EmbeddingModel, Flip, Phase, PlacementKind, Side
from embedtui.postgres.state import migrations as state
from embedtui.postgres.state import pointer
from embedtui.postgres.state.privileges import Role, state_sql
from tests.kits.cutover_kit import flip, key_values, make, vector
from tests.kits.support import connect

BOTH = pytest.mark.parametrize("placement", list(PlacementKind))


def test_a_move_raises_the_epoch_once_and_tells_listeners(database: str) -> None:
    make(database, rows=1)
    with connect(database, name="test") as conn, connect(database, name="listener") as listener:
        listener.execute(f"LISTEN {pointer.CHANNEL}")
        start = pointer.read_route(conn, "documents")
        assert (start.active, start.canary) == (Side.OLD, 0)
        for changed in (True, False):  # the repeat is a no-op, whatever epoch it expects
            moved = pointer.move_route(
                conn, "documents", expect_epoch=start.epoch, active=Side.NEW, canary=100, who="ann", host="pit"
            )
            assert (moved.active, moved.epoch, moved.changed) == (Side.NEW, start.epoch + 1, changed)
        [told] = [json.loads(notify.payload) for notify in listener.notifies(timeout=60, stop_after=1)]
        assert told == {
            "name": "documents",
            "migration": start.migration,
            "epoch": start.epoch + 1,
            "active": "new",
            "canary": 100,
        }
        assert list(listener.notifies(timeout=0.1)) == []
        now = pointer.read_route(conn, "documents")
        assert now.changed_by == "ann@pit"
        assert now.first_cutover_at is not None
        pointer.move_route(conn, "documents", expect_epoch=None, active=Side.OLD, canary=0, who="ann", host="pit")
        assert pointer.read_route(conn, "documents").first_cutover_at == now.first_cutover_at


def test_of_two_operators_one_wins_and_the_other_is_told(database: str) -> None:
    make(database, rows=1)
    for round_number in range(5):
        epoch = flip(database, "documents", "old", canary=1 + round_number)
        barrier = threading.Barrier(2)

        def act(
            active: Side, canary: int, who: str, epoch: int = epoch, barrier: threading.Barrier = barrier
        ) -> Flip | Refused:
            with connect(database, name="test") as conn:
                barrier.wait()
                try:
                    return pointer.move_route(
                        conn, "documents", expect_epoch=epoch, active=active, canary=canary, who=who, host="h"
                    )
                except Refused as refused:
                    return refused

        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(act, [Side.NEW, Side.OLD], [100, 50], ["ann", "bob"]))
        winner = next(result for result in results if isinstance(result, Flip))
        loser = next(result for result in results if isinstance(result, Refused))
        assert winner.changed
        assert winner.epoch == epoch + 1
        assert ("ann" if winner.active is Side.NEW else "bob") in loser.message
        assert loser.exit_code == 6


def test_a_flip_that_cannot_get_the_row_gives_up(database: str) -> None:
    make(database, rows=1)
    with connect(database, name="blocker") as blocker, connect(database, name="test") as conn:
        with blocker.transaction():
            blocker.execute("SELECT FROM embedtui.route FOR UPDATE")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                flip(database, "documents", "new")
        assert pointer.read_route(conn, "documents").active is Side.OLD


def test_no_route_is_refused(database: str) -> None:
    make(database, rows=1)
    with connect(database, name="test") as conn:
        with pytest.raises(Refused, match="nowhere"):
            pointer.read_route(conn, "nowhere")
        with pytest.raises(Refused):
            pointer.move_route(conn, "nowhere", expect_epoch=None, active=Side.NEW, canary=100, who="w", host="h")


def test_functions_need_pgvector_and_install_twice(database: str) -> None:
    with connect(database, name="test") as conn:
        conn.execute("DROP EXTENSION vector")
        with pytest.raises(DatabaseError, match="pgvector"):
            pointer.install_functions(conn)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector")
    make(database, rows=1)
    with connect(database, name="test") as conn:
        pointer.install_functions(conn)


def test_canary_share_is_right_stable_growing_and_the_same_in_sql(database: str) -> None:
    make(database, rows=1)
    keys = [f"user-{n}" for n in range(9_990)] + ["", "ключ", "🙂", "a'b", "%", "user 42", "1", "2", "3", "x" * 500]
    chosen: set[str] = set()
    with connect(database, name="test") as conn:
        for percent in (0, 10, 50):
            flip(database, "documents", "old", canary=percent)
            rows = conn.execute(
                "SELECT key, embedtui.side_for('documents', key) FROM unnest(%s::text[]) AS u (key)", [keys]
            ).fetchall()
            new = {key for key, side in rows if side == "new"}
            assert new == {key for key in keys if pointer.bucket(key) < percent}
            assert abs(len(new) / len(keys) * 100 - percent) <= 2
            assert chosen <= new, "a growing canary keeps its keys"
            chosen = new
        # without a key there is no canary
        flip(database, "documents", "old", canary=100)
        assert conn.execute("SELECT embedtui.side_for('documents', NULL)").fetchone() == ("old",)


@BOTH
def test_sql_route_tells_what_to_embed_with_and_where_to_search(database: str, placement: PlacementKind) -> None:
    migration = make(database, placement, rows=1)
    with connect(database, name="test") as conn:
        query = "SELECT side, model, model_id, dimensions, column_name, relation, query_prefix FROM embedtui.route(%s)"
        old = conn.execute(query, ["documents"]).fetchone()
        flip(database, "documents", "new")
        new = conn.execute(query, ["documents"]).fetchone()
        assert conn.execute(query, ["nowhere"]).fetchone() is None
    assert old == ("old", "old-model", migration.old_model.id, 8, "embedding", "public.documents", "q: ")
    column, relation = (
        ("embedding_v2", "public.documents")
        if placement is PlacementKind.COLUMN
        else ("embedding", "public.documents_embedding_v2")
    )
    assert new == ("new", "new-model", migration.new_model.id, 8, column, relation, "")


@BOTH
def test_sql_search_goes_by_the_model_of_the_query_vector(database: str, placement: PlacementKind) -> None:
    make(database, placement, rows=8)
    call = "SELECT key, distance FROM embedtui.search('documents', %s, %s::vector, %s)"
    with connect(database, name="test") as conn:
        for side in ("old", "new", "old"):  # whatever the pointer says
            flip(database, "documents", side)
            old = conn.execute(call, ["old-model", str(vector(4)), 3]).fetchall()
            new = conn.execute(call, ["new-model", str(vector(4)), 3]).fetchall()
            assert len(old) == len(new) == 3
            assert old[0][0] == "4"
            assert new[0][0] == "3"
        with pytest.raises(psycopg.errors.InvalidParameterValue, match='"other" is of no side') as caught:
            conn.execute(call, ["other", str(vector(4)), 3])
        assert "old-model (id " in str(caught.value.diag.message_hint)
        with pytest.raises(psycopg.errors.UndefinedObject, match="no route"):
            conn.execute("SELECT embedtui.search('nowhere', 'old-model', '[1]', 3)")
        with pytest.raises(psycopg.errors.DataException, match="makes 8 dimensions, the vector has 2"):
            conn.execute("SELECT embedtui.search('documents', 'old-model', '[1,2]', 3)")


@BOTH
def test_sql_search_uses_the_index_and_filters_inside(database: str, placement: PlacementKind) -> None:
    make(database, placement, rows=500)
    with connect(database, name="test") as conn:
        conn.execute("SET enable_seqscan = off; SET enable_sort = off")  # else so small a table is read whole
        conn.execute("ALTER TABLE documents ALTER lang SET STATISTICS 0")  # hides from the planner how rare "xx" is
        conn.execute("UPDATE documents SET lang = 'xx' WHERE id > 490")
        conn.execute("ANALYZE documents")
        call = "SELECT key FROM embedtui.search('documents', %s, %s, 5, 'lang <> $$en$$ AND lang <> $$de$$')"
        for _ in range(7):  # beyond where plans become generic
            for model in ("old-model", "new-model"):
                keys = [int(key) for (key,) in conn.execute(call, [model, str(vector(1))])]
                assert len(keys) == 5
                assert min(keys) > 490
        assert conn.execute("SHOW hnsw.iterative_scan").fetchone() == ("off",)
        conn.execute("SELECT pg_stat_force_next_flush()")
        scans = dict(
            conn.execute("SELECT indexrelname, idx_scan FROM pg_stat_user_indexes WHERE indexrelname LIKE 'idx_%'")
        )
        assert set(scans.values()) == {7}, scans


def test_sql_search_on_a_composite_key_gives_json(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute('CREATE SCHEMA vec; CREATE EXTENSION vector SCHEMA vec; CREATE SCHEMA "S t"')
    migration = make(
        empty_database,
        PlacementKind.TABLE,
        rows=4,
        key=(("Tenant", "uuid"), ("no", "integer")),
        table='Do"cs %',
        schema_name="S t",
        vector_schema="vec",
    )
    with connect(empty_database, name="test") as conn:
        for model, number in (("old-model", 3), ("new-model", 2)):
            row = conn.execute(
                "SELECT key::jsonb FROM embedtui.search(name => %s, model => %s, vector => %s, k => 1)",
                [migration.name, model, str(vector(3))],
            ).fetchone()
            assert row is not None
            assert tuple(row[0]) == key_values(migration, number)


def test_two_models_of_one_name_are_told_apart_or_refused(database: str) -> None:
    small, large = EmbeddingModel("m", 4), EmbeddingModel("m", 8)
    make(database, rows=8, old_model=small, new_model=large, table="a")
    twin = make(database, rows=8, old_model=large, new_model=EmbeddingModel("m", 8, provider="other"), table="b")
    with connect(database, name="test") as conn:
        for size, found in ((4, "3"), (8, "2")):
            assert conn.execute(
                "SELECT key FROM embedtui.search('a', 'm', %s, 1)", [str(vector(3, size))]
            ).fetchone() == (found,)
        with pytest.raises(psycopg.errors.AmbiguousParameter, match="are called"):
            conn.execute("SELECT key FROM embedtui.search('b', 'm', %s, 1)", [str(vector(3))])
        for model, found in ((twin.old_model, "3"), (twin.new_model, "2")):
            assert conn.execute(
                "SELECT key FROM embedtui.search('b', %s, %s, 1)", [str(model.id), str(vector(3))]
            ).fetchone() == (found,)


@BOTH
def test_an_application_role_needs_what_the_command_grants_and_sees_its_own_rows_only(
    database: str, placement: PlacementKind
) -> None:
    migration = make(database, placement, rows=8)
    role = f"app_{migration.table_oid}_{placement.value}"
    with connect(database, name="test") as conn, psycopg.connect(database, autocommit=True) as app:
        conn.execute(f"CREATE ROLE {role}")
        try:
            app.execute(f"SET ROLE {role}")
            call = "SELECT key FROM embedtui.search('documents', 'new-model', %s, 1)"
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(call, [str(vector(3))])
            for statement in state_sql(conn, Role.APPLICATION, role):
                conn.execute(statement)
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="documents"):  # SECURITY INVOKER
                app.execute(call, [str(vector(3))])
            conn.execute(f"GRANT SELECT ON documents TO {role}")
            if placement is PlacementKind.TABLE:
                conn.execute(f"GRANT SELECT ON documents_embedding_v2 TO {role}")
            assert app.execute(call, [str(vector(3))]).fetchone() == ("2",)
            conn.execute("ALTER TABLE documents ENABLE ROW LEVEL SECURITY")
            conn.execute("CREATE POLICY german ON documents USING (lang = 'de' AND id <> 2)")
            assert app.execute(call, [str(vector(3))]).fetchone() in [("4",), ("6",), ("8",)]
        finally:
            app.close()
            conn.execute(f"DROP OWNED BY {role}")
            conn.execute(f"DROP ROLE {role}")


def test_an_ended_migration_leaves_one_side_and_the_next_one_takes_the_route_over(database: str) -> None:
    migration = make(database, rows=8)
    with connect(database, name="test") as conn:
        flip(database, "documents", "new")
        state.set_phase(conn, migration.id, Phase.DONE)
        # the cleanup drops the old column, gives the new one its name, and tells listeners, all in one transaction
        with conn.transaction():
            conn.execute("ALTER TABLE documents DROP COLUMN embedding")
            conn.execute("ALTER TABLE documents RENAME COLUMN embedding_v2 TO embedding")
            conn.execute("UPDATE embedtui.migration SET new_column = 'embedding' WHERE id = %s", [migration.id])
            for told in pointer.touch_in_ddl(migration):
                conn.execute(told)
        call = "SELECT key FROM embedtui.search('documents', %s, %s, 1)"
        assert conn.execute(call, ["new-model", str(vector(3))]).fetchone() == ("2",)
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="of no side"):
            conn.execute(call, ["old-model", str(vector(3))])
        assert conn.execute("SELECT model, column_name FROM embedtui.route('documents')").fetchone() == (
            "new-model",
            "embedding",
        )
        before = pointer.read_route(conn, "documents")
        following = state.create_migration(
            conn,
            type(migration)(
                **{
                    **{name: getattr(migration, name) for name in migration.__slots__},
                    "old_model": migration.new_model,
                    "new_model": EmbeddingModel("newest", 8),
                }
            ),
        )
        after = pointer.create_route(conn, following)
        assert (after.migration, after.active, after.epoch) == (following.id, Side.OLD, before.epoch + 1)
        assert pointer.create_route(conn, following) == after, "made once"


def test_an_aborted_migration_serves_its_old_side(database: str) -> None:
    migration = make(database, rows=4)
    with connect(database, name="test") as conn:
        state.set_phase(conn, migration.id, Phase.ABORTED)
        sides = Counter(
            side
            for (side,) in conn.execute("SELECT embedtui.side_for('documents', g::text) FROM generate_series(1,9) g")
        )
    assert sides == {"old": 9}


def test_postponed_cutover_is_kept_and_ends_with_any_move(database: str) -> None:
    make(database, rows=1)
    with connect(database, name="test") as conn:
        pointer.set_pending(conn, "documents", {"percent": 100, "when": "queue empty"})
        assert pointer.read_route(conn, "documents").pending == {"percent": 100, "when": "queue empty"}
        flip(database, "documents", "old", canary=5)
        assert pointer.read_route(conn, "documents").pending is None
