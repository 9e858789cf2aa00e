"""Router: model and column from one look-up, followed through flips, lost connections and missing rights."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg import sql

import embedtui
from embedtui.demo.database import EmbeddedServer, _account, _binaries
from embedtui.errors import DatabaseError, DatabaseLost, Refused
from embedtui.model import EmbeddingModel, Phase, PlacementKind, Side
from embedtui.postgres.state import listeners, pointer
from embedtui.postgres.state import migrations as state
from embedtui.postgres.state.listeners import read_listeners
from embedtui.router import AsyncRouter, Router, put
from tests.kits.cutover_kit import flip, key_values, make, vector
from tests.kits.pooling import needs_pgbouncer, pooled
from tests.kits.support import connect, wait_for

BOTH = pytest.mark.parametrize("placement", list(PlacementKind))


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def test_import_is_light() -> None:
    code = (
        "import sys, embedtui.router; print([m for m in ('textual', 'rich', 'openai', 'numpy', 'click')"
        " if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert embedtui.Router is Router
    assert embedtui.AsyncRouter is AsyncRouter
    assert embedtui.put is put


@BOTH
def test_a_route_is_model_and_column_of_one_state(database: str, placement: PlacementKind) -> None:
    migration = make(database, placement, rows=1)
    with Router(database) as router:
        old = router.route("documents")
        assert (old.side, old.model, old.model_id) == (Side.OLD, "old-model", migration.old_model.id)
        assert (old.column, old.relation, old.query_prefix, old.document_prefix) == (
            "embedding",
            '"public"."documents"',
            "q: ",
            "d: ",
        )
        assert router.route("documents") is old, "from memory"
        epoch = flip(database, "documents", "new")
        wait_for(lambda: router.route("documents").epoch == epoch, "the flip is heard")
        new = router.route("documents")
        assert (new.side, new.model, new.dimensions, new.query_prefix) == (Side.NEW, "new-model", 8, "")
        assert new.relation == (
            '"public"."documents"' if placement is PlacementKind.COLUMN else '"public"."documents_embedding_v2"'
        )
        assert router.route("documents", model="old-model").side is Side.OLD
        assert router.route("documents", model=new.model_id) is new
        with pytest.raises(Refused, match="of no side"):
            router.route("documents", model="other")
        with pytest.raises(Refused, match="no route 'nowhere'"):
            router.route("nowhere")
        with pytest.raises(AttributeError):
            new.column = "x"  # type: ignore[misc]


@BOTH
def test_search_follows_the_flip_but_a_route_keeps_its_side(
    database: str, placement: PlacementKind, conn: psycopg.Connection
) -> None:
    make(database, placement, rows=20)
    with Router(database) as router:
        taken_before = router.route("documents")
        epoch = flip(database, "documents", "new")
        wait_for(lambda: router.route("documents").epoch == epoch, "the flip is heard")
        hits = router.route("documents").search(conn, vector(4), k=3, columns=["content", "lang"])
        assert hits[0].key == ("3",)
        assert hits[0].values == {"content": "text 3", "lang": "en"}
        assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
        # embedded with the old model before the flip: the old side it is
        assert taken_before.search(conn, vector(4), k=1)[0].key == ("4",)


def test_vectors_may_be_lists_arrays_or_text_of_the_right_length(database: str, conn: psycopg.Connection) -> None:
    make(database, rows=6)
    with Router(database) as router:
        route = router.route("documents")
        plain = vector(5)
        for given in (plain, tuple(plain), np.array(plain), np.array(plain, np.float32), str(plain), iter(plain)):
            assert route.search(conn, given, k=1)[0].key == ("5",)
        for wrong in (plain[:-1], str(plain[:-1]), np.zeros(9)):
            with pytest.raises(Refused, match="makes 8 dimensions"):
                route.search(conn, wrong)


@BOTH
def test_filters_are_inside_and_bound(database: str, placement: PlacementKind, conn: psycopg.Connection) -> None:
    make(database, placement, rows=400)
    conn.execute("SET enable_seqscan = off; SET enable_sort = off")
    with Router(database) as router:
        for side in ("old", "new"):
            route = router.route("documents", model=f"{side}-model")
            filtered = {"where": "id > %(least)s AND content LIKE 'text%%'", "params": {"least": 395}}
            assert {int(hit.key[0]) for hit in route.search(conn, vector(1), 50, **filtered)} == set(range(396, 401))
            off = route.search(conn, vector(1), 50, iterative_scan="off", **filtered)
            assert len(off) < 5, "without the iterative scan an index stops early"
            composed = sql.SQL("{} = {}").format(sql.Identifier("lang"), sql.Literal("de"))
            assert all(int(hit.key[0]) % 2 == 0 for hit in route.search(conn, vector(1), 5, where=composed))


def test_plain_sql_text_for_other_drivers(database: str, conn: psycopg.Connection) -> None:
    make(database, rows=6)
    with Router(database) as router:
        route = router.route("documents")
        named = route.search_sql(columns=["content"], where="content LIKE 't%' AND lang <> :lang")
        assert "CAST(:vector AS " in named
        assert "LIMIT CAST(:k AS pg_catalog.int8)" in named
        assert "content LIKE 't%' AND lang <> :lang" in named
        assert "%(" not in named
        dollar = route.search_sql(style="dollar")
        conn.execute(f"PREPARE q AS {dollar}")
        assert conn.execute(f"EXECUTE q ('{route.bind(vector(5))}', 1)").fetchone()[0] == ["5"]
        pyformat = route.search_sql(style="pyformat", where="content LIKE 't%%'")
        assert conn.execute(pyformat, {"vector": route.bind(vector(5)), "k": 1}).fetchone()[0] == ["5"]


def test_a_flip_told_in_full_is_followed_and_forged_news_is_put_right(database: str, conn: psycopg.Connection) -> None:
    migration = make(database, rows=1)
    with Router(database, poll_seconds=60) as router:
        seen = []
        look_up = router._look_up

        def recorded(connection: psycopg.Connection) -> bool:
            seen.append((router.route("documents").epoch, router.route("documents").side))
            return look_up(connection)

        router._look_up = recorded  # type: ignore[method-assign]
        epoch = flip(database, "documents", "new")
        wait_for(lambda: seen, "the notification arrives")
        assert seen == [(epoch, Side.NEW)], "in memory before any query"
        true = {"name": "documents", "migration": migration.id, "epoch": epoch + 1, "active": "old", "canary": 0}
        for forged in (
            "documents",
            "{",
            "[" * 7_900,
            '{"name":' * 900,
            "[]",
            "null",
            json.dumps({"name": "documents"}),
            json.dumps(true | {"canary": "x"}),
            json.dumps(true | {"active": "sideways"}),
            json.dumps(true | {"epoch": epoch + 7}),
            json.dumps(true | {"migration": 12345}),
        ):
            seen.clear()
            conn.execute("SELECT pg_notify('embedtui_route', %s)", [forged])
            wait_for(lambda: seen, "the notification arrives")
            assert seen[0] == (epoch, Side.NEW)
        conn.execute("SELECT pg_notify('embedtui_route', %s)", [json.dumps(true)])
        wait_for(lambda: seen[-1][0] == epoch + 1, "believed for a moment")
        wait_for(lambda: router.route("documents").epoch == epoch, "and put right by the look-up")


@pytest.mark.parametrize("encoding", ["latin1", "sql_ascii"])
def test_a_services_encoding_is_not_the_routers(database: str, conn: psycopg.Connection, encoding: str) -> None:
    make(database, rows=1)
    with Router(f"{database}&client_encoding={encoding}", poll_seconds=60) as router:
        router.route("documents")
        wait_for(lambda: router.status.listening, "it listens")
        conn.execute("SELECT pg_notify('embedtui_route', 'é€')")
        epoch = flip(database, "documents", "new")
        wait_for(lambda: router.route("documents").epoch == epoch, "the flip is heard")


def test_canary_goes_by_key_and_is_the_same_as_in_sql(database: str, conn: psycopg.Connection) -> None:
    make(database, rows=1)
    keys = [f"user-{n}" for n in range(10_000)]
    with Router(database) as router:
        for percent in (10, 37):
            epoch = flip(database, "documents", "old", canary=percent)
            wait_for(lambda epoch=epoch: router.route("documents").epoch == epoch, "the canary is heard")
            sides = {key: router.route("documents", key).side for key in keys}
            assert abs(sum(side is Side.NEW for side in sides.values()) / 100 - percent) <= 2
            assert sides == {key: router.route("documents", key).side for key in keys}
            in_sql = conn.execute("SELECT k, embedtui.side_for('documents', k) FROM unnest(%s::text[]) k", [keys])
            assert dict(in_sql.fetchall()) == {key: side.value for key, side in sides.items()}
            assert router.route("documents").side is Side.OLD, "no key, no canary"


def test_searches_and_epoch_are_reported(database: str, conn: psycopg.Connection) -> None:
    make(database, rows=5)
    with Router(database, application_name="search-api") as router:
        for _ in range(3):
            router.route("documents").search(conn, vector(1), k=1)
        router._wake()
        wait_for(lambda: read_listeners(conn, "documents"), "the Router reports")
        epoch = flip(database, "documents", "new")
        wait_for(lambda: read_listeners(conn, "documents")[0].epoch == epoch, "epoch reported")
        router.route("documents").search(conn, vector(1), k=1)
        router.route("documents").search_sql()
        wait_for(lambda: read_listeners(conn, "documents")[0].searches_new == 2, "searches reported")
        [listener] = read_listeners(conn, "documents")
        assert (listener.application, listener.pid, listener.searches_old) == ("search-api", os.getpid(), 3)
        assert listener.flip_ms is not None
        assert 0 <= listener.flip_ms < 20_000
        # both sides' searches are timed where the Router makes them; SQL that a service runs itself is not
        for told in (listener.latency_old_ms, listener.latency_new_ms):
            assert told is not None and 0 < told[0] <= told[1] < 20_000
    assert read_listeners(conn, "documents") == (), "a closed Router signs off"
    with connect(database, name="test") as own:
        own.execute(
            "INSERT INTO embedtui.listener (id, name, host, pid, heartbeat) VALUES"
            " (gen_random_uuid(), 'documents', 'h', 1, now() - interval '1 minute'),"
            " (gen_random_uuid(), 'documents', 'h', 2, now() - interval '2 hours')"
        )
        assert read_listeners(own, "documents") == (), "silent ones are not counted"
        listeners.forget_listeners(own)
        left = own.execute("SELECT pid FROM embedtui.listener WHERE host = 'h'").fetchall()
        assert left == [(1,)]
        own.execute("UPDATE embedtui.listener SET heartbeat = now() - interval '3 hours'")
        listeners.forget_listeners(own)
        assert own.execute("SELECT count(*) FROM embedtui.listener").fetchone() == (1,), "that any was heard is kept"


def test_each_migration_of_a_route_is_told_its_own_searches(database: str, conn: psycopg.Connection) -> None:
    first = make(database, rows=5)
    with Router(database) as router:
        router.route("documents").search(conn, vector(1), k=1)
        router._wake()
        wait_for(lambda: sum(each.searches_old for each in read_listeners(conn, "documents")), "the Router reports")
        with connect(database, name="test") as own, own.transaction():
            state.set_phase(own, first.id, Phase.ABORTED)
            second = state.create_migration(own, first)
            own.execute("UPDATE embedtui.route SET migration = %s, epoch = epoch + 1", [second.id])
        wait_for(lambda: read_listeners(conn, "documents")[0].searches_old == 0, "a new migration, a new count")
        router.route("documents").search(conn, vector(1), k=1)
        wait_for(lambda: read_listeners(conn, "documents")[0].searches_old == 1, "which goes on")


def test_poll_alone_brings_the_flip(database: str) -> None:
    make(database, rows=1)
    with Router(database, listen=False, poll_seconds=0.1) as router:
        router.route("documents")
        assert not router.status.listening
        assert router.status.bound_seconds == 0.1
        epoch = flip(database, "documents", "new")
        wait_for(lambda: router.route("documents").epoch == epoch, "the poll finds it")


@needs_pgbouncer
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_behind_a_pooler_it_is_known_whether_notifications_come(
    database: str, conn: psycopg.Connection, server: EmbeddedServer, mode: str
) -> None:
    make(database, rows=4)
    poll = 0.2 if mode == "transaction" else 600.0
    with pooled(server, conn.info.dbname, mode) as dsn, Router(dsn, poll_seconds=poll) as router:
        assert router.route("documents").search(conn, vector(3), 1)[0].key == ("3",)
        assert not router.status.listening
        assert router.status.bound_seconds == poll
        epoch = flip(database, "documents", "new")
        wait_for(lambda: router.route("documents").epoch == epoch, "the flip is noticed")
        assert router.status.listening is (mode == "session")


def test_a_route_made_later_is_found(database: str) -> None:
    with pytest.raises(Refused, match="not been prepared"), Router(database):
        pass
    router = Router(database, poll_seconds=0.1)
    try:
        with pytest.raises(Refused, match="not been prepared"):
            router.route("documents")
        make(database, rows=1)

        def found() -> bool:
            try:
                return router.route("documents").side is Side.OLD
            except Refused:
                return False

        wait_for(found, "the new route is found")
        assert router.status.detail == ""
    finally:
        router.close()


def test_unreachable_database_is_said_and_its_secret_is_not() -> None:
    router = Router("postgresql://me:s3cret@127.0.0.1:1/none")
    try:
        with pytest.raises(DatabaseLost) as caught:
            router.route("documents")
        assert not router.status.connected
        assert router.status.lost_since is not None
        assert "s3cret" not in str(caught.value) + router.status.detail
    finally:
        router.close()


def test_lost_connection_keeps_the_last_route_and_says_so(server_folder: Path) -> None:
    with EmbeddedServer(server_folder / "pg", version=18) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE lost")
        dsn = server.dsn("lost")
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("CREATE EXTENSION vector")
        make(dsn, rows=1)
        with Router(dsn) as router:
            before = router.route("documents")
            server.crash()
            wait_for(lambda: not router.status.connected, "the loss is noticed")
            status = router.status
            assert router.route("documents") is before
            assert status.lost_since is not None
            assert status.bound_seconds is None
            assert status.detail
            server.start()
            epoch = flip(dsn, "documents", "new")
            wait_for(lambda: router.route("documents").epoch == epoch, "it catches up")
            wait_for(lambda: router.status.connected and router.status.listening, "it listens again")
            assert router.status.lost_since is None
            assert router.status.detail == ""


def test_on_a_standby_the_poll_follows_and_its_bound_is_said() -> None:
    binaries = _binaries(18)
    account = _account()
    folder = Path(tempfile.mkdtemp(prefix="embedtui-standby-"))
    folder.chmod(0o755)
    try:
        with EmbeddedServer(folder / "primary", version=18) as primary:
            with psycopg.connect(primary.dsn(), autocommit=True) as admin:
                admin.execute("CREATE DATABASE shop")
            with psycopg.connect(primary.dsn("shop"), autocommit=True) as admin:
                admin.execute("CREATE EXTENSION vector")
            make(primary.dsn("shop"), rows=4)
            replica = folder / "replica"
            replica.mkdir()
            if account:
                shutil.chown(replica, account["user"], account["group"])
            command = [str(binaries / "pg_basebackup"), "--dbname", primary.dsn(), "--checkpoint", "fast", "--no-sync"]
            command += ["--write-recovery-conf", "--pgdata", str(replica / "postgresql-18")]
            subprocess.run(command, check=True, capture_output=True, cwd="/", **account)
            with (
                EmbeddedServer(replica, version=18) as standby,
                Router(standby.dsn("shop"), poll_seconds=0.1) as router,
                psycopg.connect(standby.dsn("shop"), autocommit=True) as conn,
            ):
                assert router.route("documents").search(conn, vector(3), 1)[0].key == ("3",)
                status = router.status
                assert status.connected
                assert not status.listening
                assert status.bound_seconds == 0.1
                epoch = flip(primary.dsn("shop"), "documents", "new")
                wait_for(lambda: router.route("documents").epoch == epoch, "the poll finds the flip")
                assert router.route("documents").search(conn, vector(3), 1)[0].key == ("2",)
                wait_for(lambda: not router.status.reporting, "it says that it cannot report")
                assert "read-only" in router.status.detail
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_terminated_backend_misses_no_flip(database: str, conn: psycopg.Connection) -> None:
    make(database, rows=1)
    with Router(database, poll_seconds=60) as router:
        for side in ("new", "old", "new"):
            router.route("documents")
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'embedtui/router%' AND datname = current_database()"
            )
            epoch = flip(database, "documents", side)
            wait_for(lambda epoch=epoch: router.route("documents").epoch == epoch, "no gap between LISTEN and look-up")


def test_a_role_that_may_not_report_still_routes(database: str, conn: psycopg.Connection) -> None:
    migration = make(database, rows=1)
    role = f"reader_{migration.table_oid}"
    conn.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA embedtui TO {role}")
    try:
        dsn = f"{database}&options=-c%20role%3D{role}"
        with pytest.raises(DatabaseError, match="Not permitted"), Router(dsn) as router:
            pass
        conn.execute(f"GRANT SELECT ON embedtui.route_side TO {role}")
        with Router(dsn) as router:
            assert router.route("documents").side is Side.OLD
            router._wake()
            epoch = flip(database, "documents", "new")
            wait_for(lambda: router.route("documents").epoch == epoch, "the flip is heard")
            wait_for(lambda: not router.status.reporting, "it says that it does not report")
            assert "permission denied" in router.status.detail
            assert router.status.connected
    finally:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_closing_is_prompt_and_a_router_can_be_used_again(database: str) -> None:
    make(database, rows=1)
    router, others = Router(database, poll_seconds=3600), set(threading.enumerate())
    router.open()
    assert [thread.name for thread in set(threading.enumerate()) - others] == ["embedtui-router"]
    router.close()
    assert set(threading.enumerate()) <= others
    assert router.route("documents").side is Side.OLD
    router.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_follow_on_their_own(database: str) -> None:
    make(database, rows=1)
    # In a process of its own: forking this one, with its threads, is what Python warns of.
    code = """
import os, sys, time
from embedtui.router import Router
router = Router(sys.argv[1])
first = router.route("documents").epoch
child = os.fork()
deadline = time.monotonic() + 60
if child:
    print("ready", flush=True)
while router.route("documents").epoch == first and time.monotonic() < deadline:
    time.sleep(0.01)
ok = router.route("documents").epoch > first
if child == 0:
    os._exit(0 if ok else 1)
print(ok and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0)
router.close()
"""
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, database], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        flip(database, "documents", "new")
        assert process.stdout.read().strip() == b"True"


@BOTH
@pytest.mark.parametrize("side", list(Side))
def test_written_vectors_land_on_their_models_side_stamped(
    database: str, placement: PlacementKind, side: Side, conn: psycopg.Connection
) -> None:
    migration = make(database, placement, rows=4)
    model = migration.old_model if side is Side.OLD else migration.new_model
    conn.execute("INSERT INTO documents (id, content) VALUES (77, 'fresh')")
    column = placement is PlacementKind.COLUMN
    look = (
        "SELECT d.embedding::text, d.embedding_v2::text, d.embedding_v2_model, d.embedding_v2_source"
        " FROM documents d WHERE d.id = 77"
        if column
        else "SELECT d.embedding::text, s.embedding::text, s.model, s.source"
        " FROM documents d LEFT JOIN documents_embedding_v2 s USING (id) WHERE d.id = 77"
    )
    fingerprint = conn.execute("SELECT hash_record_extended(ROW(content::text), 0) FROM documents WHERE id = 77")
    [source] = fingerprint.fetchone() or []
    with Router(database) as router:
        for position, write in enumerate(
            (
                lambda vec: router.write(conn, "documents", 77, vec, model=model.name),
                lambda vec: put(conn, "documents", "77", model.name, vec),
                lambda vec: put(conn, "public.documents", (77,), model.id, np.array(vec), content="fresh"),
            )
        ):
            vec = [float(position + 1)] * 8
            assert write(vec) is True
            text = "[" + ",".join([str(position + 1)] * 8) + "]"
            expected = (text, None, None, None) if side is Side.OLD else (None, text, migration.new_model.id, source)
            assert conn.execute(look).fetchone() == expected
        assert put(conn, "documents", 77, model.name, vector(1), content="older text") is False
        assert put(conn, "documents", 12345, model.name, vector(1)) is False
        with pytest.raises(Refused, match="of no side"):
            put(conn, "documents", 77, "other", vector(1))
        with pytest.raises(Refused, match="makes 8 dimensions"):
            router.write(conn, "documents", 77, [1.0], model=model.name)
        with pytest.raises(Refused, match="no route"):
            put(conn, "nowhere", 77, model.name, vector(1))
        assert conn.execute(look).fetchone() == expected, "refusals write nothing"


@BOTH
def test_writing_with_quoted_names_and_composite_keys(empty_database: str, placement: PlacementKind) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute('CREATE SCHEMA vec; CREATE EXTENSION vector SCHEMA vec; CREATE SCHEMA "S t"')
        migration = make(
            empty_database,
            placement,
            rows=3,
            key=(("Tenant %", "uuid"), ("no", "integer")),
            table='Do"cs %s',
            schema_name="S t",
            vector_schema="vec",
        )
        for model in ("old-model", "new-model"):
            assert put(conn, migration.name, key_values(migration, 2), model, vector(50), content="text 2")
        with Router(empty_database) as router:
            for side in ("old", "new"):
                [hit] = router.route(migration.name, model=f"{side}-model").search(conn, vector(50), 1)
                assert hit.key == key_values(migration, 2)


def test_two_models_of_one_name_are_told_by_their_dimensions(database: str, conn: psycopg.Connection) -> None:
    make(database, rows=3, old_model=EmbeddingModel("m", 4), new_model=EmbeddingModel("m", 8))
    with Router(database) as router:
        assert put(conn, "documents", 1, "m", vector(9, 4))
        assert put(conn, "documents", 2, "m", vector(9, 8))
        assert router.route("documents").search(conn, vector(9, 4), 1)[0].key == ("1",)
        with pytest.raises(Refused, match="are called m"):
            router.route("documents", model="m")


def test_a_model_that_refuses_to_be_told_its_dimensions_is_told_none(database: str) -> None:
    """As text-embedding-ada-002, the most common old model of all."""
    make(database, rows=1, old_model=EmbeddingModel("m", 4, send_dimensions=False))
    with Router(database) as router:
        old, new = router.route("documents"), router.route("documents", model="new-model")
        assert (old.dimensions, old.requested_dimensions) == (4, None)
        assert (new.dimensions, new.requested_dimensions) == (8, 8)


def test_without_provenance_columns_the_vector_alone_is_written(database: str, conn: psycopg.Connection) -> None:
    make(database, rows=3)
    conn.execute("ALTER TABLE documents DROP embedding_v2_model, DROP embedding_v2_source")
    make(database, PlacementKind.TABLE, rows=3, table="other")
    conn.execute("ALTER TABLE other_embedding_v2 DROP model, DROP source")
    with Router(database) as router:
        for name in ("documents", "other"):
            assert put(conn, name, 2, "new-model", vector(70))
            assert router.route(name, model="new-model").search(conn, vector(70), 1)[0].key == ("2",)


def test_after_the_cleanup_the_route_goes_on_under_the_new_name(database: str, conn: psycopg.Connection) -> None:
    migration = make(database, rows=8)
    with Router(database, poll_seconds=60) as router:
        flip(database, "documents", "new")
        with conn.transaction():
            conn.execute("ALTER TABLE documents DROP COLUMN embedding")
            conn.execute("ALTER TABLE documents RENAME COLUMN embedding_v2 TO embedding")
            conn.execute("ALTER TABLE documents DROP COLUMN embedding_v2_model, DROP COLUMN embedding_v2_source")
            conn.execute("UPDATE embedtui.migration SET new_column = 'embedding' WHERE id = %s", [migration.id])
            state.set_phase(conn, migration.id, Phase.DONE)
            for told in pointer.touch_in_ddl(migration):
                conn.execute(told)
        wait_for(lambda: router.route("documents").column == "embedding", "the rename is heard")
        route = router.route("documents", "any key")
        assert (route.side, route.model) == (Side.NEW, "new-model")
        assert route.search(conn, vector(4), 1)[0].key == ("3",)
        assert router.write(conn, "documents", 5, vector(60), model="new-model")
        with pytest.raises(Refused, match="of no side"):
            router.route("documents", model="old-model")


async def test_async_router(database: str) -> None:
    make(database, rows=8)
    async with (
        AsyncRouter(database, application_name="aio") as router,
        await psycopg.AsyncConnection.connect(database, autocommit=True) as conn,
    ):
        old = router.route("documents")
        assert (await old.search(conn, vector(4), 1, columns=["content"]))[0].values == {"content": "text 4"}
        epoch = await asyncio.to_thread(flip, database, "documents", "new")
        while router.route("documents").epoch < epoch:
            await asyncio.sleep(0.01)
        assert (await router.route("documents").search(conn, vector(4), 1))[0].key == ("3",)
        assert await router.write(conn, "documents", 5, vector(99), model="new-model", content="text 5")
        assert (await router.route("documents").search(conn, vector(99), 1))[0].key == ("5",)
        assert router.status.connected


def test_no_search_meets_the_wrong_side_through_ten_flips(database: str) -> None:
    """Short form of benchmarks/flip.py: threads and tasks search while the pointer moves."""
    make(database, rows=60)
    stop = threading.Event()
    wrong: list[object] = []
    searches = {Side.OLD: 0, Side.NEW: 0}

    def check(route: object, position: int, keys: list[tuple[str, ...]]) -> None:
        side = route.side  # type: ignore[attr-defined]
        searches[side] += 1
        # the caller embeds with the route's model; old and new vectors of one query point at different rows
        expected = position if side is Side.OLD else position - 1
        if keys[:1] != [(str(expected),)]:
            wrong.append((side, position, keys))

    with Router(database) as router:

        def search() -> None:
            try:
                with psycopg.connect(database, autocommit=True) as conn:
                    position = 1
                    while not stop.is_set():
                        position = position % 50 + 2
                        route = router.route("documents")
                        check(route, position, [hit.key for hit in route.search(conn, vector(position), 1)])
            except Exception as error:
                wrong.append(error)

        async def search_async() -> None:
            async with AsyncRouter(database) as router:

                async def task() -> None:
                    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
                        position = 1
                        while not stop.is_set():
                            position = position % 50 + 2
                            route = router.route("documents")
                            hits = await route.search(conn, vector(position), 1)
                            check(route, position, [hit.key for hit in hits])

                try:
                    await asyncio.gather(task(), task())
                except Exception as error:
                    wrong.append(error)

        threads = [threading.Thread(target=search) for _ in range(2)]
        threads.append(threading.Thread(target=lambda: asyncio.run(search_async())))
        for thread in threads:
            thread.start()
        for number in range(10):
            before = sum(searches.values())
            epoch = flip(database, "documents", "new" if number % 2 == 0 else "old")
            wait_for(lambda epoch=epoch: router.route("documents").epoch >= epoch, "the flip is heard")
            wait_for(lambda before=before: sum(searches.values()) > before + 20 or wrong, "searches go on")
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]
    assert min(searches.values()) > 20, searches
