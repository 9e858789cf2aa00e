"""Requests that took their route before a cleanup or an exchange of names: none fails, and none is wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import random
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from embedtui.engine.cleanup.choice import CleanupChoice
from embedtui.engine.cleanup.cleanup import cleanup
from embedtui.engine.cutover.cutover import cutover, rollback
from embedtui.errors import Refused
from embedtui.model import EmbeddingModel, IndexMethod, Migration, Phase, PlacementKind
from embedtui.postgres.connect import Connection
from embedtui.postgres.state import migrations as state
from embedtui.postgres.state import pointer
from embedtui.router import AsyncRouter, Hit, Router, put
from tests.integration.engine.test_cutover import PASS
from tests.kits.cutover_kit import make, vector
from tests.kits.support import connect, wait_for

ROUNDS = 4
ROW = 5


def model(number: int) -> EmbeddingModel:
    """Row n has the vector ``vector(n + number)`` by it."""
    return EmbeddingModel(f"model-{number}", 8)


def query(name: str, row: int = ROW) -> list[float]:
    """What the model called ``name`` makes of the text of ``row``."""
    return vector(row + int(name.removeprefix("model-")))


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with connect(database, name="test") as connection:
        yield connection


def begun(
    database: str, conn: Connection, placement: PlacementKind = PlacementKind.COLUMN, **settings: object
) -> Migration:
    made = make(
        database, placement, rows=12, index=False, old_model=model(0), new_model=model(1),
        settings={"cutover": {"soak_days": 0, **settings}},
    )  # fmt: skip
    conn.execute("UPDATE embedtui.migration SET index_method = 'none'")
    return dataclasses.replace(made, index_method=IndexMethod.NONE)


def again(conn: Connection, before: Migration, number: int) -> Migration:
    """The next migration of the table, from what the last one left to ``model(number)``, both sides filled."""
    conn.execute(
        "ALTER TABLE documents ADD embedding_v2 vector(8), ADD embedding_v2_model int, ADD embedding_v2_source bigint"
    )
    draft = dataclasses.replace(before, old_model=before.new_model, new_model=model(number), phase=Phase.VALIDATE)
    draft = dataclasses.replace(draft, settings={"cutover": before.settings["cutover"]})
    made = state.create_migration(conn, dataclasses.replace(draft, old_column="embedding", new_column="embedding_v2"))
    for row in range(1, 13):
        conn.execute(
            "UPDATE documents SET embedding_v2 = %s, embedding_v2_model = %s,"
            " embedding_v2_source = hash_record_extended(ROW(content), 0) WHERE id = %s",
            [str(vector(row + number)), made.new_model.id, row],
        )
    pointer.create_route(conn, made)
    return made


class Service:
    """Threads that use the Router all the time, each in its way."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.router = Router(database)
        self.failures: list[str] = []
        self.counts: dict[str, int] = {}
        self.stop = threading.Event()
        self.conn = threading.local()
        self.opened: list[psycopg.Connection] = []
        self.followers: list[Router | AsyncRouter] = [self.router]
        ways: list[Callable[[str, random.Random], None]] = [
            self.autocommit, self.transaction, self.in_transaction, self.sql, self.write, self.put,
        ]  # fmt: skip
        self.threads = [threading.Thread(target=self._use, args=(way,), daemon=True) for way in ways]
        self.threads.append(threading.Thread(target=lambda: asyncio.run(self._async()), daemon=True))

    def __enter__(self) -> Service:
        self.router.open()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
        for conn in self.opened:
            conn.close()
        self.router.close()

    def _use(self, way: Callable[[str, random.Random], None]) -> None:
        generator = random.Random(way.__name__)
        while not self.stop.is_set():
            try:
                way(self.database, generator)
            except Exception as error:
                self.failures.append(f"{way.__name__}: {type(error).__name__}: {error}")
            self.counts[way.__name__] = self.counts.get(way.__name__, 0) + 1

    def _kept(self, autocommit: bool) -> psycopg.Connection:
        if not hasattr(self.conn, "kept"):
            self.conn.kept = psycopg.connect(self.database, autocommit=autocommit)
            self.opened.append(self.conn.kept)
        return self.conn.kept  # type: ignore[no-any-return]

    def _check(self, found: list[Hit]) -> None:
        assert [hit.key for hit in found] == [(str(ROW),)], found

    def autocommit(self, _: str, generator: random.Random) -> None:
        route = self.router.route("documents")
        time.sleep(generator.random() / 50)  # its query is being embedded
        self._check(route.search(self._kept(True), query(route.model), k=1))

    def transaction(self, _: str, generator: random.Random) -> None:
        route = self.router.route("documents")
        time.sleep(generator.random() / 50)
        conn = self._kept(False)
        self._check(route.search(conn, query(route.model), k=1, where="lang IS NOT NULL"))
        conn.rollback()

    def in_transaction(self, _: str, generator: random.Random) -> None:
        route = self.router.route("documents")
        with self._kept(True).transaction():
            self._kept(True).execute("SELECT 'what the service does first'")
            time.sleep(generator.random() / 50)
            self._check(route.search(self._kept(True), query(route.model), k=1))

    def sql(self, _: str, generator: random.Random) -> None:
        route = self.router.route("documents")
        time.sleep(generator.random() / 50)
        text = "SELECT key FROM embedtui.search('documents', %s, %s::vector, 1)"
        found = self._kept(True).execute(text, [route.model, str(query(route.model))]).fetchall()
        assert found == [(str(ROW),)], found

    def write(self, _: str, generator: random.Random) -> None:
        route = self.router.route("documents")
        time.sleep(generator.random() / 50)
        assert self.router.write(self._kept(True), "documents", 9, query(route.model, 9), model=route.model)

    def put(self, _: str, generator: random.Random) -> None:
        route = self.router.route("documents")
        time.sleep(generator.random() / 50)
        assert put(self._kept(True), "documents", 10, route.model, query(route.model, 10))

    async def _async(self) -> None:
        conn = await psycopg.AsyncConnection.connect(self.database, autocommit=True)
        async with AsyncRouter(self.database) as router, conn:
            self.followers.append(router)
            while not self.stop.is_set():
                try:
                    route = router.route("documents")
                    await asyncio.sleep(0.01)
                    self._check(await route.search(conn, query(route.model), k=1))
                    assert await router.write(conn, "documents", 11, query(route.model, 11), model=route.model)
                except Exception as error:
                    self.failures.append(f"async: {type(error).__name__}: {error}")
                self.counts["async"] = self.counts.get("async", 0) + 1

    def follow(self, epoch: int) -> bool:
        return all(each.status.epochs.get("documents", 0) >= epoch for each in self.followers)

    def come_round(self) -> None:
        """Wait until everyone has begun a request after now, and ended it."""
        before = dict(self.counts)
        wait_for(
            lambda: len(self.counts) == 7 and all(self.counts[way] >= before.get(way, 0) + 2 for way in self.counts),
            f"requests go on: {self.counts}",
        )


def test_no_request_fails_over_cleanups_that_rename(database: str, conn: Connection) -> None:
    migration = begun(database, conn)
    with Service(database) as service:
        service.come_round()
        for number in range(1, ROUNDS + 1):
            epoch = cutover(database, migration, gate=PASS).epoch
            wait_for(functools.partial(service.follow, epoch), "the Routers follow, as a cleanup asks of them")
            service.come_round()
            cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event())
            service.come_round()
            assert not service.failures, service.failures[:3]
            if number < ROUNDS:
                found = state.load_migration(conn)
                assert found is not None
                migration = again(conn, found, number + 1)
                service.come_round()
    assert not service.failures, service.failures[:3]
    for row in (9, 10, 11):  # what was written went where it belongs, every time
        stored = conn.execute("SELECT embedding::real[] FROM documents WHERE id = %s", [row]).fetchone()
        assert stored is not None and stored[0] == pytest.approx(vector(row + ROUNDS), abs=1e-5)


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_route_of_before_finds_the_new_name(database: str, conn: Connection, autocommit: bool) -> None:
    migration = begun(database, conn)
    cutover(database, migration, gate=PASS)
    with Router(database, listen=False, poll_seconds=60) as router:
        route = router.route("documents")
        cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event())
        with psycopg.connect(database, autocommit=autocommit) as service:
            for _ in range(7):  # by then the statement is prepared
                assert route.search(service, query(route.model), k=1, columns=["lang"])[0].key == (str(ROW),)
            assert router.write(service, "documents", ROW, query(route.model), model="model-1")
        with psycopg.connect(database) as service, pytest.raises(psycopg.errors.UndefinedColumn, match="nonsense"):
            route.search(service, query(route.model), where="nonsense > 1")


def test_the_dropped_sides_model_never_meets_the_new_vectors(database: str, conn: Connection) -> None:
    """The new column has the old name and the old dimensions: a Router cut off for long must not mix them."""
    migration = begun(database, conn)
    with Router(database, listen=False, poll_seconds=60) as router, psycopg.connect(database, autocommit=True) as app:
        route = router.route("documents")
        assert route.search(app, query(route.model), k=1)
        cutover(database, migration, gate=PASS)
        late = {"listeners": "cut off"}
        cleanup(conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), override=late)
        with pytest.raises(Refused, match="model-0 no longer serves"):
            route.search(app, query(route.model), k=1)
        before = conn.execute("SELECT embedding::text FROM documents WHERE id = 5").fetchone()
        with pytest.raises(Refused, match="model-0 no longer serves"):
            router.write(app, "documents", ROW, query("model-0"), model="model-0")
        assert conn.execute("SELECT embedding::text FROM documents WHERE id = 5").fetchone() == before


def test_an_exchange_of_names_mixes_nothing(database: str, conn: Connection) -> None:
    """Strategy rename: each model's route goes on finding its own vectors, there and back."""
    migration = begun(database, conn, strategy="rename")
    told = {"rename_equal_dimensions": "told"}
    with Router(database, listen=False, poll_seconds=60) as router, psycopg.connect(database, autocommit=True) as app:
        routes = [router.route("documents", model=f"model-{number}") for number in (0, 1)]
        for act in (
            lambda: cutover(database, migration, gate=PASS, override=told),
            lambda: rollback(database, migration),
        ):
            act()
            for route in routes:
                assert route.search(app, query(route.model), k=1)[0].key == (str(ROW),)
                assert router.write(app, "documents", 9, query(route.model, 9), model=route.model)
    row = conn.execute("SELECT embedding::real[], embedding_v2::real[] FROM documents WHERE id = 9").fetchone()
    assert row is not None
    assert row[0] == pytest.approx(vector(9), abs=1e-5) and row[1] == pytest.approx(vector(10), abs=1e-5)
