"""What a worker's role may write, but nobody of ours would: no run and no comparison fails of it."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.engine import Engine
from embedtui.model import Phase, QueryInput
from embedtui.postgres.connect import connect
from embedtui.postgres.locks import WORKER_CLASS
from embedtui.postgres.state.pace import PaceNews, exchange
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
        conn.execute("UPDATE embedtui.pace SET characters_per_token = %s", [value])
        if value.endswith("Infinity"):  # as an older version let it be
            conn.execute("ALTER TABLE embedtui.pace DROP CONSTRAINT pace_blocked_until")
            conn.execute("UPDATE embedtui.pace SET blocked_until = %s", [value])
        news = PaceNews(
            None, None, 60.0, 1, None, 0, 1, 1, 0, 16, 4.0, None, "", probed=False, clear=False, claim=False, probe=5.0
        )
        pace = exchange(conn, 1, news)
        assert pace is not None and pace.characters_per_token == 4.0
        assert abs(pace.blocked or 0) <= 7200
