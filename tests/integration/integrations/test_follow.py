"""SQLAlchemy's engines follow the route of their context: each statement finds the side its vector belongs to."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from sqlalchemy import Engine, create_engine, text

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer
from embedtui.engine import Engine as Migrating
from embedtui.engine.access import Access
from embedtui.engine.view import drop_view, make_view
from embedtui.errors import Refused
from embedtui.integrations import Routing
from embedtui.integrations.sqlalchemy import follow
from embedtui.model import Side
from embedtui.model.bridge import LinearMap
from embedtui.router import Router
from tests.kits.pooling import needs_pgbouncer, pooled
from tests.kits.support import NEW, OLD, make_documents, settings_for, vector_literal, wait_for

SIZE = 8
MODELS = {OLD: hash_model(SIZE, "old"), NEW: hash_model(SIZE, "new")}
OVERRIDE = dict.fromkeys(("gate", "soak", "listeners"), "test")
QUERY = text(
    "SELECT content, embedding, embedding <=> cast(cast(:v AS text) AS vector) AS d FROM documents ORDER BY d LIMIT 1"
)


def embed(model: str, content: str) -> str:
    return vector_literal(MODELS[model]([content], None)[0])


class Site:
    def __init__(self, dsn: str, api: LoopbackServer, folder: Path) -> None:
        make_documents(dsn, 0)
        self.dsn, self.texts = dsn, [f"document number {n}" for n in range(1, 21)]
        with psycopg.connect(dsn) as conn:
            # as LangChain has it: the two sides' columns then are of two types to a prepared statement
            conn.execute("ALTER TABLE documents ALTER embedding TYPE vector")
            for number, content in enumerate(self.texts):
                conn.execute(
                    "INSERT INTO documents (id, content, embedding) VALUES (%s, %s, %s)",
                    [number, content, embed(OLD, content)],
                )
        self.settings = settings_for(dsn, api, folder, {"view": True}, EMBED_DIMENSIONS=str(SIZE))
        self.migrating = Migrating(dsn, None, self.settings)
        self.migrating.run(threading.Event())
        self.router = Router(dsn)
        self.routing = Routing(self.router, "documents")

    def flip(self, percent: int = 100) -> None:
        flip = self.migrating.cutover(percent, override=OVERRIDE)
        wait_for(lambda: self.router.route("documents").epoch >= flip.epoch)

    def back(self) -> None:
        flip = self.migrating.rollback()
        wait_for(lambda: self.router.route("documents").epoch >= flip.epoch)

    def close(self) -> None:
        self.router.close()
        self.migrating.close()


@pytest.fixture
def site(database: str, tmp_path: Path) -> Iterator[Site]:
    with LoopbackServer(MODELS) as api:
        site = Site(database, api, tmp_path)
        yield site
        site.close()


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(site: Site, request: pytest.FixtureRequest) -> Iterator[Engine]:
    driver = pytest.importorskip(request.param)
    made = create_engine(
        f"postgresql+{request.param}://", creator=lambda: driver.connect(site.dsn), pool_size=1, max_overflow=0
    )
    follow(made, site.routing)
    yield made
    made.dispose()


def nearest(conn: Any, vector: str) -> tuple[str, bool]:
    row = conn.execute(QUERY, {"v": vector}).one()
    return row.content, row.d < 1e-5


def test_a_session_that_had_its_connection_before_it_embedded(site: Site, engine: Engine) -> None:
    with engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM documents")).scalar() == 20
        site.flip()
        with site.routing.use() as route:
            assert nearest(conn, embed(route.model, site.texts[3])) == (site.texts[3], True)


def test_prepared_statements_and_rolled_back_paths(site: Site, engine: Engine) -> None:
    """The one connection goes to and fro: what it has prepared for one side is none of the other's."""
    for turn in range(24):
        if turn % 8 == 0:
            (site.flip, site.back)[turn // 8 % 2]()
        with engine.connect() as conn, site.routing.use() as route:
            assert nearest(conn, embed(route.model, site.texts[turn % 20])) == (site.texts[turn % 20], True)
            with pytest.raises(Exception, match="division"):
                conn.execute(text("SELECT 1 / 0"))
            conn.rollback()
            assert nearest(conn, embed(route.model, site.texts[turn % 20])) == (site.texts[turn % 20], True)
            (conn.commit, conn.rollback)[turn % 2]()
            savepoint = conn.begin_nested()
            if turn % 2:
                with pytest.raises(Exception, match="division"):
                    conn.execute(text("SELECT 1 / 0"))
            savepoint.rollback()
            assert nearest(conn, embed(route.model, site.texts[turn % 20])) == (site.texts[turn % 20], True)


def test_a_side_that_is_not_there_is_refused_and_not_passed_over(site: Site, engine: Engine) -> None:
    at = Access(site.dsn, "documents", site.settings, None, None)
    drop_view(at)
    at.close()
    site.flip()
    with engine.connect() as conn, pytest.raises(Refused, match="holds no routed view"):
        conn.execute(text("SELECT count(*) FROM documents"))
    site.back()
    with engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM documents")).scalar() == 20


def test_a_view_that_goes_meanwhile_is_missed_at_the_next_check_out(site: Site, engine: Engine) -> None:
    """The connection has found it before."""
    site.flip()
    with engine.connect() as conn, site.routing.use() as route:
        assert nearest(conn, embed(route.model, site.texts[2])) == (site.texts[2], True)
    with psycopg.connect(site.dsn, autocommit=True) as hand:
        hand.execute("DROP VIEW documents_v2.documents")
    with engine.connect() as conn, pytest.raises(Refused, match=r'no routed view of "public"."documents"'):
        conn.execute(QUERY, {"v": embed(NEW, site.texts[2])})
    site.back()


def test_a_role_that_may_not_use_the_views_schema_is_refused(site: Site) -> None:
    """PostgreSQL passes such a schema over, and would find the old vectors by the new model's question."""
    with psycopg.connect(site.dsn, autocommit=True) as hand:
        hand.execute("CREATE ROLE clerk LOGIN; GRANT SELECT ON documents TO clerk")
    with closing(Access(site.dsn, "documents", site.settings, None, None)) as at:
        make_view(at)
    made = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(site.dsn, user="clerk"))
    follow(made, site.routing)
    try:
        with made.connect() as conn:
            assert nearest(conn, embed(OLD, site.texts[2])) == (site.texts[2], True)
        site.flip()
        with made.connect() as conn:
            assert nearest(conn, embed(NEW, site.texts[2])) == (site.texts[2], True)
        with psycopg.connect(site.dsn, autocommit=True) as hand:
            hand.execute("REVOKE USAGE ON SCHEMA documents_v2 FROM clerk")
        with made.connect() as conn, pytest.raises(Refused, match="may not use schema documents_v2"):
            conn.execute(QUERY, {"v": embed(NEW, site.texts[2])})
    finally:
        made.dispose()
        with psycopg.connect(site.dsn, autocommit=True) as hand:
            hand.execute("DROP OWNED BY clerk; DROP ROLE clerk")


def test_a_path_that_names_the_view_already_is_the_routes_all_the_same(site: Site, engine: Engine) -> None:
    """As a role, or the database, is given it for applications that know no route."""
    with psycopg.connect(site.dsn, autocommit=True) as hand:
        hand.execute(f'ALTER DATABASE "{hand.info.dbname}" SET search_path = documents_v2, "$user", public')
    for act, model in ((None, OLD), (site.flip, NEW), (site.back, OLD)):
        if act:
            act()
        with engine.connect() as conn:
            assert nearest(conn, embed(model, site.texts[2])) == (site.texts[2], True)


def test_two_tables_of_one_engine(site: Site, engine: Engine, tmp_path: Path) -> None:
    """Neither takes the other's view out of the path."""
    with psycopg.connect(site.dsn, autocommit=True) as hand:
        hand.execute("CREATE TABLE notes AS TABLE documents; ALTER TABLE notes ADD PRIMARY KEY (id)")
        hand.execute("ALTER TABLE notes DROP COLUMN embedding_v2, DROP embedding_v2_model, DROP embedding_v2_source")
    with LoopbackServer(MODELS) as api:
        flags = {"view": True, "table": "notes", "name": "notes"}
        settings = settings_for(site.dsn, api, tmp_path, flags, EMBED_DIMENSIONS=str(SIZE))
        migrating = Migrating(site.dsn, "notes", settings)
        migrating.run(threading.Event())
        notes = Routing(site.router, "notes")
        follow(engine, notes)
        for turn in range(4):
            if turn in (1, 3):
                site.flip() if turn == 1 else site.back()
            if turn == 2:
                flip = migrating.cutover(override=OVERRIDE)
                wait_for(lambda at=flip.epoch: site.router.route("notes").epoch >= at)
            with engine.connect() as conn, site.routing.use() as one, notes.use() as other:
                assert nearest(conn, embed(one.model, site.texts[4])) == (site.texts[4], True)
                query = text(QUERY.text.replace("documents", "notes"))
                row = conn.execute(query, {"v": embed(other.model, site.texts[5])}).one()
                assert (row.content, row.d < 1e-5) == (site.texts[5], True)
        migrating.close()


@needs_pgbouncer
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_behind_transaction_pooling_no_path_is_lost_or_left_behind(
    site: Site, server: EmbeddedServer, driver: str
) -> None:
    """Two server sessions for whoever comes: one's path must not be there for the other."""
    library = pytest.importorskip(driver)
    database = psycopg.conninfo.conninfo_to_dict(site.dsn)["dbname"]
    with pooled(server, str(database), "transaction") as dsn:
        options = {"prepare_threshold": None} if driver == "psycopg" else {}
        made = create_engine(f"postgresql+{driver}://", creator=lambda: library.connect(dsn, **options), pool_size=2)
        follow(made, site.routing)
        plain = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
        try:
            for turn in range(12):
                if turn % 4 == 0:
                    (site.flip, site.back)[turn // 4 % 2]()
                with site.routing.use() as route, made.connect() as conn, made.connect() as beside:
                    for each in (conn, beside, conn):
                        assert nearest(each, embed(route.model, site.texts[turn])) == (site.texts[turn], True)
                    (conn.commit, conn.rollback)[turn % 2]()
                    assert nearest(conn, embed(route.model, site.texts[turn])) == (site.texts[turn], True)
                assert plain.execute("SHOW search_path").fetchone() == ('"$user", public',)
            site.flip()
            alone = made.execution_options(isolation_level="AUTOCOMMIT")
            with alone.connect() as conn, pytest.raises(Refused, match="holds for one transaction"):
                conn.execute(QUERY, {"v": embed(NEW, site.texts[2])})
        finally:
            plain.close()
            made.dispose()


def test_a_vector_of_another_model_stays_on_its_side(site: Site, engine: Engine) -> None:
    """What was embedded before a flip is searched where it belongs, after it as well."""
    with engine.connect() as conn:
        route = site.routing.take()
        vector = embed(route.model, site.texts[1])
        site.flip()
        assert nearest(conn, vector) == (site.texts[1], True)
        assert site.routing.take().side is Side.NEW


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_requests_that_interleave_under_a_canary(site: Site, driver: str) -> None:
    for library in ("greenlet", driver):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    from sqlalchemy.ext.asyncio import create_async_engine

    site.flip(50)
    info = psycopg.conninfo.conninfo_to_dict(site.dsn)
    url = f"postgresql+{driver}://{info.get('user', 'postgres')}@/{info['dbname']}?host={info['host']}"
    url += f"&port={info['port']}" if "port" in info else ""
    engine = create_async_engine(url, pool_size=3, max_overflow=0)
    follow(engine, site.routing)
    seen: set[Side] = set()

    async def request(number: int) -> tuple[str, bool]:
        content = site.texts[number % 20]
        with site.routing.use(key=f"user {number}") as route:
            seen.add(route.side)
            await asyncio.sleep(0)
            vector = embed(route.model, content)
            await asyncio.sleep(0.001 * (number % 3))
            async with engine.connect() as conn:
                row = (await conn.execute(QUERY, {"v": vector})).one()
                await asyncio.sleep(0)
                again = (await conn.execute(QUERY, {"v": vector})).one()
            return content, (row.content, again.content) == (content, content) and max(row.d, again.d) < 1e-5

    try:
        found = await asyncio.gather(*(request(number) for number in range(120)))
    finally:
        await engine.dispose()
    assert seen == {Side.OLD, Side.NEW}
    assert [content for content, right in found if not right] == []


def test_over_a_bridge_questions_are_mapped_and_documents_go_to_the_new_side(site: Site) -> None:
    assert site.router.route("documents").side is Side.OLD
    pointer = site.router._known["documents"]
    turned = LinearMap(np.eye(SIZE, dtype=np.float32)[::-1], np.zeros(SIZE, np.float32))
    old, new = pointer.sides[Side.OLD], pointer.sides[Side.NEW]
    bridged = replace(old, model=new.model, model_id=new.model_id, bridge=1, _map=turned)
    site.router._known["documents"] = replace(pointer, bridged=bridged)
    vector = [float(number) for number in range(SIZE)]
    with site.routing.use() as route:
        assert route.bridged and site.routing.search_path("public") == "public"
        assert site.routing.fit(route, vector) == vector[::-1]
        stored = site.routing.take(documents=True)
        assert (stored.side, site.routing.fit(stored, vector)) == (Side.NEW, vector)
        assert site.routing.search_path("public") == '"documents_v2", public'
        assert site.routing.take().bridged and site.routing.search_path("public") == "public"
    with pytest.raises(Refused, match="dimensions"):
        site.routing.fit(bridged, vector[1:])
