"""The route's third state: the new model's vectors search the old column, by Router and by SQL, and none is mixed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from embedtui.errors import Refused
from embedtui.model import EmbeddingModel, Migration, Phase, PlacementKind, Side
from embedtui.model.bridge import BridgeFigures, BridgeStatus, LinearMap, from_data
from embedtui.model.evaluation import Interval
from embedtui.postgres.names import vector_text
from embedtui.postgres.state.bridges import load_map, move_bridge, store_bridge
from embedtui.postgres.state.pointer import hold_route, read_route
from embedtui.postgres.state.privileges import Role, state_sql
from embedtui.router import AsyncRouter, Router
from tests.kits.cutover_kit import DIMENSIONS, flip, make, vector
from tests.kits.support import connect, wait_for

NEW_DIMENSIONS = 12
MODELS = {"new_model": EmbeddingModel("new-model", NEW_DIMENSIONS, query_prefix="n: ")}
PLACEMENTS = pytest.mark.parametrize("placement", list(PlacementKind))


def status(share: float = 0.9) -> BridgeStatus:
    one = Interval(share, share - 0.05, share + 0.05)
    figures = BridgeFigures(one, one, one, 100, 1000)
    return BridgeStatus("ridge", 0.3, 500, figures, (), {"shuffled": figures})


def shift_map(by: int) -> LinearMap:
    """A map under which the new vector ``new_vector(n)`` becomes the old ``vector(n)``, rolled ``by`` places."""
    matrix = np.zeros((DIMENSIONS, NEW_DIMENSIONS), np.float32)
    matrix[np.arange(DIMENSIONS), (np.arange(DIMENSIONS) + by) % DIMENSIONS] = 0.5
    return LinearMap(matrix, np.full(DIMENSIONS, 0.25, np.float32))


def new_vector(position: int, by: int = 0) -> list[float]:
    """What ``shift_map(by)`` makes the old ``vector(position)`` of."""
    old = (np.asarray(vector(position)) - 0.25) * 2
    return [*np.roll(old, by).tolist(), *[9.0] * (NEW_DIMENSIONS - DIMENSIONS)]


def serve(dsn: str, migration: Migration, by: int = 0, *, on: bool = True) -> tuple[int, int]:
    """Put a bridge up: its version and the pointer's epoch."""
    with connect(dsn) as conn, conn.transaction():
        version = store_bridge(conn, migration, shift_map(by), status()) if on else 0
        before = read_route(conn, migration.name).epoch
        moved = move_bridge(conn, migration, expect_epoch=before, bridge=version if on else None, who="op", host="desk")
    return version, moved


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def searched(conn: psycopg.Connection, model: str, query: list[float]) -> str:
    row = conn.execute(
        "SELECT key FROM embedtui.search('documents', %s, %s::vector, 1)", [model, str(query)]
    ).fetchone()
    assert row is not None
    return str(row[0])


@PLACEMENTS
def test_a_bridged_route_embeds_with_the_new_model_and_searches_the_old_column(
    database: str, placement: PlacementKind, conn: psycopg.Connection
) -> None:
    migration = make(database, placement, rows=30, phase=Phase.BACKFILL, **MODELS)
    with Router(database) as router:
        before = router.route("documents")
        assert (before.bridged, before.bridge, before.figures) == (False, None, None)
        version, epoch = serve(database, migration)
        wait_for(lambda: router.route("documents").epoch == epoch, "the bridge is heard of")
        route = router.route("documents")
        assert (route.bridged, route.bridge, route.figures) == (True, version, status().figures)
        assert (route.side, route.model, route.dimensions, route.query_prefix, route.column) == (
            Side.OLD,
            "new-model",
            NEW_DIMENSIONS,
            "n: ",
            "embedding",
        )
        for given in (new_vector(7), np.array(new_vector(7), np.float32), str(new_vector(7))):
            found = route.search(conn, given, k=1, columns=["content"])
            assert (found[0].key, found[0].values) == (("7",), {"content": "text 7"})
            assert found[0].distance == pytest.approx(0, abs=1e-5)
        with pytest.raises(Refused, match="makes 12 dimensions, the vector has 8"):
            route.search(conn, vector(7))
        # embedded with the old model before the flip, or with a known one: straight
        assert before.search(conn, vector(7), k=1)[0].key == ("7",)
        assert router.route("documents", model="old-model").search(conn, vector(7), k=1)[0].key == ("7",)
        assert router.route("documents", model="new-model") is route
        assert route.search_sql(style="dollar")
        # what is written with the new model is the new side's
        assert router.write(conn, "documents", 3, new_vector(3), model="new-model")
        # off: a request under way still goes through its map
        _, epoch = serve(database, migration, on=False)
        wait_for(lambda: router.route("documents").epoch == epoch, "it is off")
        assert router.route("documents").model == "old-model"
        assert route.search(conn, new_vector(7), k=1)[0].key == ("7",)


@PLACEMENTS
def test_sql_does_the_same(database: str, placement: PlacementKind, conn: psycopg.Connection) -> None:
    migration = make(database, placement, rows=30, phase=Phase.VALIDATE, **MODELS)
    with pytest.raises(psycopg.errors.UndefinedObject, match="has no bridge"):
        conn.execute("SELECT embedtui.bridge('documents', %s::vector)", [str(new_vector(1))])
    assert searched(conn, "new-model", [*vector(5, NEW_DIMENSIONS)]) == "4", "straight: the new side"
    serve(database, migration)
    mapped = conn.execute("SELECT embedtui.bridge('documents', %s::vector)::real[]", [str(new_vector(6))]).fetchone()
    assert mapped is not None
    assert np.allclose(mapped[0], vector(6), atol=1e-5)
    for model in ("new-model", str(migration.new_model.id)):
        assert searched(conn, model, new_vector(6)) == "6"
    assert searched(conn, "old-model", vector(6)) == "6"
    told = conn.execute(
        "SELECT side, model, dimensions, column_name, query_prefix FROM embedtui.route('documents')"
    ).fetchone()
    assert told == ("old", "new-model", NEW_DIMENSIONS, "embedding", "n: ")
    with pytest.raises(psycopg.errors.DataException, match="12 dimensions"):
        conn.execute("SELECT embedtui.bridge('documents', '[1,2,3]')")
    with pytest.raises(psycopg.errors.DataException, match="makes 12 dimensions, the vector has 3"):
        searched(conn, "new-model", [1.0, 2.0, 3.0])
    rows = conn.execute(
        "SELECT key FROM embedtui.search('documents', 'new-model', %s::vector, 3, 'id > 10')", [str(new_vector(6))]
    ).fetchall()
    assert len(rows) == 3 and all(int(key) > 10 for (key,) in rows)
    # cut over: the new side, straight; rolled back: through the bridge again
    flip(database, "documents", "new")
    assert searched(conn, "new-model", [*vector(5, NEW_DIMENSIONS)]) == "4"
    flip(database, "documents", "old")
    assert searched(conn, "new-model", new_vector(6)) == "6"
    serve(database, migration, on=False)
    assert searched(conn, "new-model", [*vector(5, NEW_DIMENSIONS)]) == "4"


def test_while_the_new_side_is_not_whole_its_vectors_search_through_the_last_map(
    database: str, conn: psycopg.Connection
) -> None:
    migration = make(database, rows=20, phase=Phase.BACKFILL, **MODELS)
    serve(database, migration)
    serve(database, migration, on=False)
    assert searched(conn, "new-model", new_vector(6)) == "6"


def test_no_router_and_no_search_mixes_two_maps(database: str, conn: psycopg.Connection) -> None:
    migration = make(database, rows=30, **MODELS)
    serve(database, migration, 0)
    with Router(database) as router:
        wait_for(lambda: router.route("documents").bridged)
        first = router.route("documents")
        version, epoch = serve(database, migration, 3)
        wait_for(lambda: router.route("documents").epoch == epoch)
        second = router.route("documents")
        assert second.bridge == version != first.bridge
        for position in (2, 9, 17):
            assert first.search(conn, new_vector(position, 0), k=1)[0].key == (str(position),)
            assert second.search(conn, new_vector(position, 3), k=1)[0].key == (str(position),)
            assert searched(conn, "new-model", new_vector(position, 3)) == str(position)


def test_flips_leave_the_bridge_and_a_canary_goes_beside_it(database: str, conn: psycopg.Connection) -> None:
    migration = make(database, rows=30, **MODELS)
    serve(database, migration)
    with Router(database) as router:
        wait_for(lambda: router.route("documents").bridged)
        epoch = flip(database, "documents", "old", 50)
        wait_for(lambda: router.route("documents").epoch == epoch)
        sides = {router.route("documents", key=str(key)).side for key in range(50)}
        assert sides == {Side.OLD, Side.NEW}
        assert all(
            route.bridged is (route.side is Side.OLD) and route.model == "new-model"
            for route in (router.route("documents", key=str(key)) for key in range(50))
        )
        epoch = flip(database, "documents", "new")
        wait_for(lambda: router.route("documents").epoch == epoch)
        route = router.route("documents")
        assert (route.bridged, route.side, router.route("documents", model="new-model").side) == (
            False,
            Side.NEW,
            Side.NEW,
        )
        assert route.search(conn, vector(5, NEW_DIMENSIONS), k=1)[0].key == ("4",)
        epoch = flip(database, "documents", "old")
        wait_for(lambda: router.route("documents").epoch == epoch)
        assert router.route("documents").bridged
        assert router.route("documents").search(conn, new_vector(5), k=1)[0].key == ("5",)


def test_for_asyncio_as_well(database: str) -> None:
    migration = make(database, rows=12, **MODELS)
    serve(database, migration)

    async def run() -> tuple[bool, tuple[str, ...]]:
        async with AsyncRouter(database) as router, await psycopg.AsyncConnection.connect(database) as conn:
            route = router.route("documents")
            return route.bridged, (await route.search(conn, new_vector(7), k=1))[0].key

    assert asyncio.run(run()) == (True, ("7",))


def test_a_bridge_moves_by_compare_and_set_and_only_where_it_may(database: str) -> None:
    migration = make(database, rows=3, **MODELS)
    with connect(database) as conn:
        version = store_bridge(conn, migration, shift_map(0), status())
        epoch = read_route(conn, "documents").epoch
        with pytest.raises(Refused, match="moved meanwhile"):
            move_bridge(conn, migration, expect_epoch=epoch - 1, bridge=version, who="a", host="b")
        flip(database, "documents", "new")
        with pytest.raises(Refused, match="moved meanwhile"):
            move_bridge(conn, migration, expect_epoch=epoch, bridge=version, who="a", host="b")
        epoch = read_route(conn, "documents").epoch
        hold_route(conn, migration, "cleanup", expect_epoch=epoch)
        with pytest.raises(Refused, match="taken away"):
            move_bridge(conn, migration, expect_epoch=epoch, bridge=version, who="a", host="b")


@pytest.mark.parametrize("dimensions", [(5, 40), (7, 1_951), (3, 4_000)])
def test_a_map_is_stored_whole_whatever_its_size(
    database: str, dimensions: tuple[int, int], conn: psycopg.Connection
) -> None:
    old, new = dimensions
    migration = make(
        database,
        rows=2,
        index=False,
        old_model=EmbeddingModel("old-model", old),
        new_model=EmbeddingModel("new-model", new),
        phase=Phase.BACKFILL,
    )
    generator = np.random.default_rng(old)
    found = LinearMap(
        generator.standard_normal((old, new)).astype(np.float32), generator.standard_normal(old).astype(np.float32)
    )
    with connect(database) as ours:
        version = store_bridge(ours, migration, found, status(0.5))
        loaded = load_map(ours, version, "public")
        assert loaded is not None
        assert np.array_equal(loaded.matrix, found.matrix) and np.array_equal(loaded.offset, found.offset)
        row = ours.execute("SELECT figures FROM embedtui.bridge WHERE id = %s", [version]).fetchone()
        assert row is not None and from_data(row[0]) == status(0.5)
    query = generator.standard_normal(new).astype(np.float32)
    row = conn.execute(
        "SELECT embedtui.bridge_vector(%s, %s::vector)::real[]", [version, vector_text(query)]
    ).fetchone()
    assert row is not None
    assert np.allclose(row[0], found(query), rtol=1e-3, atol=1e-3)


def test_old_versions_go_and_one_that_is_gone_serves_nobody(database: str) -> None:
    migration = make(database, rows=3, **MODELS)
    with connect(database) as conn:
        versions = [store_bridge(conn, migration, shift_map(by), status()) for by in range(5)]
        kept = [version for version in versions if load_map(conn, version, "public") is not None]
        assert kept == versions[-len(kept) :] and len(kept) < len(versions)
        conn.execute("UPDATE embedtui.route SET bridge = %s, bridging = true", [versions[0]])
    with Router(database) as router:
        assert not router.route("documents").bridged


def test_a_bridged_route_taken_before_the_cleanup_goes_on_straight(database: str, conn: psycopg.Connection) -> None:
    migration = make(database, rows=20, **MODELS)
    serve(database, migration)
    with Router(database) as router:
        wait_for(lambda: router.route("documents").bridged)
        taken = router.route("documents")
    conn.execute("UPDATE embedtui.route SET active = 'new', canary = 100, epoch = epoch + 1")
    conn.execute("ALTER TABLE documents DROP COLUMN embedding")
    conn.execute('UPDATE embedtui.migration SET settings = settings || \'{"gone": "old"}\'')
    # row n has the new vector of position n + 1
    for given in (vector(5, NEW_DIMENSIONS), iter(vector(5, NEW_DIMENSIONS))):
        assert taken.search(conn, given, k=1)[0].key == ("4",)


def test_an_application_with_its_grants_and_no_more_is_bridged_or_says_why_not(database: str) -> None:
    migration = make(database, rows=12, **MODELS)
    serve(database, migration)
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("CREATE ROLE bridged_app LOGIN")
        try:
            owner.execute("GRANT SELECT ON documents TO bridged_app")
            with connect(database) as ours:
                for statement in state_sql(ours, Role.APPLICATION, "bridged_app"):
                    owner.execute(statement)
            application = make_conninfo(database, user="bridged_app")
            with psycopg.connect(application, autocommit=True) as conn, Router(application) as router:
                assert router.route("documents").search(conn, new_vector(7), k=1)[0].key == ("7",)
                assert router.route("documents").bridged
                assert searched(conn, "new-model", new_vector(7)) == "7"
            owner.execute("REVOKE SELECT ON embedtui.bridge_row FROM bridged_app")
            with Router(application) as router:
                assert not router.route("documents").bridged
                assert "Not bridged: permission denied for table bridge_row" in router.status.detail
        finally:
            owner.execute("DROP OWNED BY bridged_app; DROP ROLE bridged_app")
