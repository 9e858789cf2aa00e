"""What a worker's role may write, but nobody of ours would: no run and no comparison fails of it."""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import CheckViolation

from embedtui.demo.api import LoopbackServer
from embedtui.engine.engine import Engine
from embedtui.model import Phase, QueryInput
from embedtui.postgres.connect import connect
from embedtui.postgres.locks import WORKER_CLASS
from embedtui.postgres.state.pace import PaceNews, exchange
from embedtui.postgres.state.privileges import RIGHTS, Role
from embedtui.postgres.state.schema import install
from tests.kits.support import make_documents, settings_for

DEEP = "[" * 5000 + "]" * 5000
QUEUED = ("'{}', 'i'", "'{{a,b},{c,d}}', 'u'", "'{NULL}', 'r'", "'{1,2,3}', 'u'", "'{{x}}', 'd'")
JUDGED = (
    "'{a,b}', '[1, 2]'", "'{{1},{2}}', '{}'", '\'{}\', \'[["1", 2], [[], 1], [[1], 1], [["1"], "x"]]\'',
    '\'{}\', \'[[["1"], 1e400], [["2"], -1e5000], [["3"], 1e308]]\'', f"'{{}}', '{DEEP}'",
)  # fmt: skip


@pytest.mark.parametrize("placement", ["column", "table"])
def test_entries_that_name_no_row_are_scanned_for(
    database: str, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    make_documents(database, 20)
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, {"placement": placement}))) as engine:
        engine.run(threading.Event(), until=0)
        with psycopg.connect(database, autocommit=True) as conn:
            for entry in QUEUED:
                conn.execute(f"INSERT INTO embedtui.queue (migration, key, kind) VALUES (1, {entry})".encode())
            conn.execute("UPDATE documents SET content = 'edited' WHERE id = 7")
        assert engine.run(threading.Event()).phase is Phase.VALIDATE
        assert engine.verify().clean
        with psycopg.connect(database, autocommit=True) as conn:
            assert conn.execute("SELECT count(*) FROM embedtui.queue").fetchone() == (0,)


@pytest.mark.parametrize("entry", ["'{}', 'x', '{1}'", "'{1}', 'u', '{NULL}'", "'{{1}}', 'd', '{{1},{2}}'"])
@pytest.mark.variants(1)
def test_entries_of_texts_in_no_other_table_are_scanned_for(
    database: str, api: LoopbackServer, tmp_path: Path, entry: str
) -> None:
    make_documents(database, 20)
    with closing(Engine(database, settings=settings_for(database, api, tmp_path))) as engine:
        engine.run(threading.Event(), until=0)
        with psycopg.connect(database, autocommit=True) as conn:
            planted = f"INSERT INTO embedtui.queue (migration, key, kind, text_key) VALUES (1, {entry})"
            for _ in range(300):
                conn.execute(planted.encode())
        assert engine.run(threading.Event()).phase is Phase.VALIDATE
        assert engine.snapshot().sync.queued == 0
        assert engine.verify().clean


@pytest.mark.parametrize("placement", ["column", "table"])
def test_marks_of_keys_that_are_none_go_and_those_of_rows_stay(
    database: str, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    make_documents(database, 20)
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, {"placement": placement}))) as engine:
        engine.run(threading.Event(), until=0)
        with psycopg.connect(database, autocommit=True) as conn:
            for key in ("{x}", "{9999999999999999999999}", "{NULL}", "{}", "{{1},{2}}", "{1,2,3}", "{7}", "{-4}"):
                conn.execute("INSERT INTO embedtui.stale (migration, key) VALUES (1, %s::text[])", [key])
                conn.execute(
                    "INSERT INTO embedtui.fault (migration, key, side, class, reason, state)"
                    " VALUES (1, %s::text[], 'old', 'row', 'x', 'retry')",
                    [key],
                )
        assert engine.run(threading.Event()).phase is Phase.VALIDATE
        assert engine.verify().clean
        with psycopg.connect(database, autocommit=True) as conn:
            for marks in ("stale", "fault"):
                left = conn.execute(f"SELECT key FROM embedtui.{marks} ORDER BY 1".encode()).fetchall()
                assert (["7"],) in left
                assert all(key[0] in ("1", "7") for (key,) in left), marks


EXTREMES = {
    "integer": ("2147483647", "-2147483648"),
    "bigint": ("9223372036854775807", "-9223372036854775808"),
    "double precision": ("NaN", "Infinity", "-Infinity", "1e308", "-1e308"),
    "timestamp with time zone": ("infinity", "-infinity", "294276-12-31", "4713-01-01 BC"),
    "boolean": (), "text": (), '"char"': (), "uuid": (), "oid": (), "name": (),
}  # fmt: skip
EXTREMES |= dict.fromkeys(("numeric", "real"), EXTREMES["double precision"])
NAMES = {"migration", "worker", "job", "shard", "query", "model", "bridge", "pid", "number", "text_entry"}
"""Columns that say which: nobody counts with them."""
READ_WITH_CARE = {
    ("batch_line", "keys"), ("batch_line", "sources"), ("evaluation", "measures"), ("evaluation", "checks"),
    ("evaluation", "state"), ("fault", "key"), ("listener", "latency_ms"), ("query", "relevant"), ("query", "row_key"),
    ("query_vector", "vector"), ("queue", "key"), ("queue", "text_key"), ("stale", "key"), ("worker", "holds"),
    ("worker", "threads"),
}  # fmt: skip
"""Columns of many values: whatever is in them, who reads them goes on (see the other tests here, and ATTEMPTS)."""


def test_numbers_and_times_that_other_roles_may_write_are_bounded(database: str) -> None:
    with connect(database, name="test") as conn:
        install(conn)
        types = {
            (relation, name): kind
            for relation, name, kind in conn.execute(
                "SELECT table_name::text, column_name::text, data_type::text FROM information_schema.columns"
                " WHERE table_schema = 'embedtui'"
            )
        }
        granted = {
            (right.relation, name)
            for role in (Role.WORKER, Role.APPLICATION, Role.WATCHER)
            for right in RIGHTS[role]
            if right.privilege in ("INSERT", "UPDATE")
            for name in right.columns
        }
        unbounded = []
        for relation, name in sorted(granted - READ_WITH_CARE):
            if name in NAMES:
                continue
            conn.execute(
                f"CREATE TEMP TABLE copy (LIKE embedtui.{relation} INCLUDING CONSTRAINTS);"  # type: ignore[arg-type]
                "DO $$ DECLARE c name; BEGIN FOR c IN SELECT attname FROM pg_attribute"
                "  WHERE attrelid = 'copy'::regclass AND attnum > 0 AND attnotnull"
                "  LOOP EXECUTE format('ALTER TABLE copy ALTER %I DROP NOT NULL', c); END LOOP; END $$"
            )
            for value in EXTREMES[types[relation, name]]:
                with suppress(CheckViolation):
                    conn.execute(f"INSERT INTO copy ({name}) VALUES (%s)", [value])  # type: ignore[arg-type]
                    unbounded.append((relation, name, value))
            conn.execute("DROP TABLE copy")
    assert unbounded == []
    assert granted >= READ_WITH_CARE


FULL = (
    "migration SET synced = 1e15, synced_tokens = 1e15, synced_first = 1e15",
    "migration SET old_tokens = 1e15, asked_new = 1e15, asked_old = 1e15",
    "shard SET rows = 1e12, updates = 1e12, hot_updates = 1e12, tokens = 1e12, passes = 1e9",
    "pace SET requests = 1e15, rejected = 1e15, spent_tokens = {sign}1e15, token_level = -1e15",
    "shard SET first_block = -1e10, last_block = 1e10",
    "shard SET worker = {worker}, job = {job}, lease_until = '2999-01-01', state = '{state}'",
)


@pytest.mark.parametrize(("sign", "state"), [("", "leased"), ("-", "batch")])
@pytest.mark.parametrize("placement", ["column", "table"])
def test_what_is_at_its_bound_ends_no_work(
    database: str, api: LoopbackServer, tmp_path: Path, placement: str, sign: str, state: str
) -> None:
    make_documents(database, 40)
    flags = {"placement": placement, "new_model.price_per_million": 1.0}
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        engine.run(threading.Event(), until=0)
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(
                "INSERT INTO embedtui.worker (migration, host, pid, heartbeat) VALUES (1, 'h', 1, '2999-01-01')"
            )
            conn.execute(
                "INSERT INTO embedtui.batch_job"
                " (migration, token, worker, state, inputs, lines, estimate, reserved, tokens, rows)"
                " SELECT 1, gen_random_uuid(), max(id), 'packed', 1, 1, 1, 1, 1e12, 1e12 FROM embedtui.worker"
            )
            names = {
                "sign": sign,
                "state": state,
                "worker": "(SELECT max(id) FROM embedtui.worker)",
                "job": "(SELECT max(id) FROM embedtui.batch_job)",
            }
            for planted in FULL:
                conn.execute(f"UPDATE embedtui.{planted.format(**names)}".encode())
            conn.execute("UPDATE documents SET content = 'edited' WHERE id = 7")
        stop = threading.Event()
        too_late = threading.Timer(60, stop.set)
        too_late.start()
        assert engine.run(stop).phase is Phase.VALIDATE
        too_late.cancel()
        assert engine.verify().clean
        assert [worker.host for worker in engine.snapshot().workers if worker.host == "h"] == []
        engine.compare([QueryInput("document number 8")])
        engine.abort("documents")
        assert engine.snapshot().phase is Phase.ABORTED


def test_judgments_that_are_none_are_left_out(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 40)
    with closing(Engine(database, settings=settings_for(database, api, tmp_path))) as engine:
        engine.run(threading.Event())
        with psycopg.connect(database, autocommit=True) as conn:
            for number, judged in enumerate(JUDGED):
                conn.execute(
                    "INSERT INTO embedtui.query (migration, text, source, row_key, relevant)"
                    f" VALUES (1, 'q{number}', 's', {judged})".encode()
                )
        assert engine.compare().measures.judged == 0
        assert engine.last_comparison() is not None


@pytest.mark.parametrize("vector", ["{}", "{1,2}", "{%s,NULL}", "{%s,NaN}", "{%s,-Infinity}", "{{%s,1}}"])
def test_vectors_of_queries_that_are_none_are_made_again(
    database: str, api: LoopbackServer, tmp_path: Path, vector: str
) -> None:
    make_documents(database, 20)
    planted = vector.replace("%s", ",".join("1" * 15))
    with closing(Engine(database, settings=settings_for(database, api, tmp_path))) as engine:
        engine.run(threading.Event())
        queries = [QueryInput("document number 7"), QueryInput("document number 8")]
        before = engine.compare(queries)
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("UPDATE embedtui.query_vector SET vector = %s::real[]", [planted])
        assert engine.compare(queries, again=True).measures.overlap == before.measures.overlap


@pytest.mark.parametrize("column", ["threads", "holds"])
@pytest.mark.parametrize("value", ["[1e5000]", '[["a", "b", 1e5000]]', DEEP], ids=["number", "age", "nesting"])
def test_json_that_python_reads_not(
    database: str, api: LoopbackServer, tmp_path: Path, column: str, value: str
) -> None:
    make_documents(database, 20)
    with closing(Engine(database, settings=settings_for(database, api, tmp_path))) as engine:
        engine.prepare()
        with psycopg.connect(database, autocommit=True) as conn:
            planted = (
                f"INSERT INTO embedtui.worker (migration, host, pid, {column}) VALUES (1, 'h', 1, %s) RETURNING id"
            )
            conn.execute(
                "SELECT pg_advisory_lock(%s, %s)",
                [WORKER_CLASS, *conn.execute(planted.encode(), [value]).fetchall()[0]],
            )
            assert [worker.host for worker in engine.snapshot().workers] == ["h"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "0"])
def test_a_pace_that_is_none(database: str, api: LoopbackServer, tmp_path: Path, value: str) -> None:
    make_documents(database, 20)
    with closing(Engine(database, settings=settings_for(database, api, tmp_path))) as engine:
        engine.run(threading.Event(), until=0)
    with connect(database, name="test") as conn:
        # as older versions let it be
        conn.execute(
            "ALTER TABLE embedtui.pace DROP CONSTRAINT pace_characters_per_token, DROP CONSTRAINT pace_blocked_until"
        )
        conn.execute("UPDATE embedtui.pace SET characters_per_token = %s", [value])
        if value.endswith("Infinity"):
            conn.execute("UPDATE embedtui.pace SET blocked_until = %s", [value])
        news = PaceNews(
            None, None, 60.0, 1, None, 0, 1, 1, 0, 16, 4.0, None, "", probed=False, clear=False, claim=False, probe=5.0
        )
        pace = exchange(conn, 1, news)
        assert pace is not None and pace.characters_per_token == 4.0
        assert abs(pace.blocked or 0) <= 7200
