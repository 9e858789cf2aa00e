"""What a snapshot says of a migration, read from the state alone."""

from __future__ import annotations

import os
from contextlib import closing
from itertools import pairwise

import pytest
from psycopg.types.json import Jsonb

from embedtui.cli.output import progress_text
from embedtui.cli.work import _status_data, _status_lines
from embedtui.engine import snapshot as snapshots
from embedtui.engine.engine import Engine
from embedtui.engine.process import SubprocessEngine
from embedtui.engine.snapshot import RATE_SECONDS, RATE_WITHHELD_SECONDS, RateMeter, Trend, WorkRate, read_snapshot
from embedtui.model import Condition, Migration, Phase, Side, Snapshot
from embedtui.postgres import locks
from embedtui.postgres.connect import Connection, host_name
from embedtui.postgres.state.faults import record_faults
from embedtui.postgres.state.migrations import set_desired
from embedtui.postgres.state.steering import read_faults
from embedtui.tui import panels
from embedtui.tui.view import Link, View
from tests.kits.comparing import small
from tests.kits.support import connect


def look(conn: Connection) -> Snapshot:
    return read_snapshot(conn, None, RateMeter(), lambda _conn, _migration: None, {os.getpid()})


def add_worker(conn: Connection, migration: Migration, host: str = "elsewhere") -> int:
    row = conn.execute(
        "INSERT INTO embedtui.worker (migration, host, pid, operator, doing) VALUES (%s, %s, %s, 'ann', 'embedding')"
        " RETURNING id",
        [migration.id, host, os.getpid()],
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_without_a_migration_the_plan_comes_next(database: str) -> None:
    with connect(database, name="test") as conn:
        found = look(conn)
    assert (found.migration, found.phase, found.next_act) == (None, Phase.PLAN, "run")


def test_a_worker_lives_by_its_lock_not_by_its_heartbeat(database: str) -> None:
    migration = small(database)
    with connect(database, name="look") as conn, connect(database, name="worker") as session:
        number = add_worker(conn, migration)
        dead = look(conn)
        session.execute("SELECT pg_advisory_lock(%s, %s)", [locks.WORKER_CLASS, number])
        conn.execute("UPDATE embedtui.worker SET heartbeat = now() - interval '5 minutes'")
        alive = look(conn)
    assert [worker.alive for worker in dead.workers] == [False], "heard from just now, but its session is gone"
    assert dead.condition is Condition.IDLE
    assert [worker.alive for worker in alive.workers] == [True], "silent for minutes, but its session holds the lock"
    assert alive.condition is Condition.RUNNING


def test_a_worker_is_our_own_by_host_and_process(database: str) -> None:
    migration = small(database)
    with connect(database, name="look") as conn:
        add_worker(conn, migration)
        add_worker(conn, migration, host_name())
        found = look(conn)
    assert {worker.host: worker.own for worker in found.workers} == {"elsewhere": False, host_name(): True}


def test_a_pause_is_shown_with_its_reason(database: str) -> None:
    migration = small(database)
    with connect(database, name="look") as conn:
        set_desired(conn, migration.id, "pause", "lunch")
        found = look(conn)
    assert (found.condition, found.reasons[0].name, found.reasons[0].detail) == (Condition.PAUSED, "operator", "lunch")
    assert found.backfill.rate is None and found.backfill.eta_seconds is None


def test_a_rate_is_withheld_then_that_of_the_last_seconds() -> None:
    now = 0.0
    meter = RateMeter(lambda: now)
    assert meter.add(0) is None
    now = RATE_WITHHELD_SECONDS - 0.1
    assert meter.add(1000) is None
    now = 10.0
    assert meter.add(2000) == pytest.approx(200)
    for second in range(11, 60):
        now = float(second)
        rate = meter.add(2000 + 50 * (second - 10))
    assert rate == pytest.approx(50), "what was faster is longer ago than the window"
    now += RATE_SECONDS + 1
    assert meter.add(2000 + 50 * 49) is None, "at rest"


def test_a_counter_that_begins_again_begins_a_new_rate() -> None:
    now = 0.0
    meter = RateMeter(lambda: now)
    meter.add(5000)
    now = 5.0
    assert meter.add(100) is None
    now = 10.0
    assert meter.add(600) == pytest.approx(100)


def test_a_queue_grows_once_it_has_for_some_time() -> None:
    now = 0.0
    trend = Trend(lambda: now)
    found = []
    for second in range(13):
        now = float(second)
        found.append(trend.grows(5 * second, float(second)))
    assert found == [False] * 10 + [True] * 3
    now = 13.0
    assert not trend.grows(40, 13.0), "it shrinks"


def test_a_models_shutdown_is_a_notice_until_the_migration_has_ended(database: str) -> None:
    migration = small(database)
    with connect(database, name="test") as conn:
        named = "UPDATE embedtui.model SET provider = 'gemini', name = 'text-embedding-004' WHERE id = %s"
        conn.execute(named, [migration.old_model.id])
    with closing(Engine(database)) as engine:
        (notice,) = engine.snapshot().notices
        assert notice.startswith("text-embedding-004 was shut down on 2026-01-14 (ai.google.dev/")
        with connect(database, name="test") as conn:
            conn.execute("UPDATE embedtui.migration SET phase = 'done' WHERE id = %s", [migration.id])
        assert engine.snapshot().notices == ()


def test_requests_on_the_wire_are_counted_of_the_living(database: str) -> None:
    migration = small(database)
    with connect(database, name="look") as conn, connect(database, name="worker") as session:
        number, dead = add_worker(conn, migration), add_worker(conn, migration)
        session.execute("SELECT pg_advisory_lock(%s, %s)", [locks.WORKER_CLASS, number])
        conn.execute("UPDATE embedtui.worker SET in_flight = CASE id WHEN %s THEN 3 ELSE 9 END", [number])
        conn.execute("UPDATE embedtui.pace SET concurrency = 16")
        conn.execute("UPDATE embedtui.migration SET phase = 'backfill'")
        found = look(conn)
    assert dead != number and {worker.in_flight for worker in found.workers} == {3, 9}
    assert (found.backfill.in_flight, found.backfill.concurrency) == (3, 16)


def test_the_time_in_which_the_work_was_held_is_no_measure_of_what_follows() -> None:
    now = 0.0
    meter = RateMeter(lambda: now)
    for _ in range(10):
        now += 1
        meter.add(7, held=True)
    assert meter.add(7) is None
    rate = None
    for done in range(1, 6):
        now += 1
        rate = meter.add(7 + 100 * done)
    assert rate == pytest.approx(100)


def test_while_it_is_held_a_rate_is_withheld_once_nothing_comes_any_more() -> None:
    now, rows = 0.0, 0
    meter = RateMeter(lambda: now)

    def read(seconds: float, pace: int, *, held: bool) -> float | None:
        nonlocal now, rows
        found = None
        for _ in range(int(2 * seconds)):
            now, rows = now + 0.5, rows + pace
            found = meter.add(rows, held=held)
        return found

    assert read(20, 50, held=False) == pytest.approx(100)
    assert read(2, 50, held=True) == pytest.approx(100), "what was in flight still arrives"
    assert read(RATE_WITHHELD_SECONDS + 1, 0, held=True) is None
    assert read(6, 10, held=True), "a limit lets some go"
    assert read(4, 50, held=False) == pytest.approx(100), "nor is what came before a measure of what follows"


def test_the_time_to_the_end_is_told_by_the_time_worked_and_moves_slowly() -> None:
    now, done = 0.0, 0
    meter = WorkRate(lambda: now)

    def work(seconds: int, rows: int, *, working: bool = True) -> list[float | None]:
        nonlocal now, done
        found = []
        for _ in range(seconds):
            now, done = now + 1, done + rows
            found.append(meter.add(done, working=working))
        return found

    assert set(work(10, 50)) == {None}
    assert work(50, 50)[-1] == pytest.approx(50)
    assert all(each == pytest.approx(50) for each in work(300, 0, working=False)), "a pause, or nobody at work"
    assert work(10, 50)[-1] == pytest.approx(50)
    slower = [each for each in work(60, 25) if each is not None]
    assert slower == sorted(slower, reverse=True) and 35 < slower[-1] < 40, "one of two has gone"
    assert all(before - after < 1 for before, after in pairwise(slower)), "no jump"
    bursts = [each for n in range(120) for each in work(1, 250 if n % 10 == 0 else 0) if each is not None]
    assert max(bursts[-60:]) - min(bursts[-60:]) < 5, "a provider that lets through a burst at a time"


@pytest.mark.parametrize(("hold", "known"), [("rate", True), ("provider", True), ("wal_rate", False)])
def test_a_limit_of_the_provider_leaves_the_time_to_the_end_and_bounds_it(
    database: str, monkeypatch: pytest.MonkeyPatch, hold: str, known: bool
) -> None:
    monkeypatch.setattr(snapshots, "ETA_WITHHELD_SECONDS", 1e-6)
    monkeypatch.setattr(snapshots, "SETTLING_SECONDS", 0.0)
    migration = small(database)
    meter = RateMeter()
    with connect(database, name="look") as conn, connect(database, name="worker") as session:
        number = add_worker(conn, migration)
        session.execute("SELECT pg_advisory_lock(%s, %s)", [locks.WORKER_CLASS, number])
        conn.execute("UPDATE embedtui.migration SET phase = 'backfill', total_rows = 100000")
        conn.execute("UPDATE embedtui.pace SET tokens_per_minute = 600")  # of 10 tokens each: a row a second
        conn.execute("UPDATE embedtui.worker SET holds = %s", [Jsonb([{"name": hold, "detail": "", "since": None}])])
        for rows in (1000, 5000):
            conn.execute("DELETE FROM embedtui.shard")
            conn.execute(
                "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block, rows, tokens)"
                " SELECT id, 1, 1, 0, 1, %s, %s FROM embedtui.migration",
                [rows, 10 * rows],
            )
            found = read_snapshot(conn, None, meter, lambda _conn, _migration: None, {os.getpid()})
    eta = found.backfill.eta_seconds
    assert eta == (pytest.approx(95_000) if known else None)


@pytest.mark.parametrize(
    ("paces", "limit"),
    [
        ([("run", 100, 60), ("run", 8, 90)], None),  # its pace was lowered: (what, rows a second, seconds) …
        ([("run", 100, 60), ("wal_rate", 0, 30), ("run", 5, 60)], None),
        ([("run", 60, 60), ("nobody", 0, 30), ("run", 140, 4), ("run", 20, 60)], None),
        ([("run", 140, 10), ("run", 8, 90)], 60),  # … with eight rows in each request
        ([("run", 60, 60), ("pause", 0, 20), ("run", 200, 3), ("run", 8, 60)], 60),
    ],
)
def test_rate_and_time_to_the_end_never_contradict_each_other(
    database: str, paces: list[tuple[str, int, int]], limit: int | None
) -> None:
    migration, now, rows, total, seen = small(database), 0.0, 0, 20_000, 0
    meter = RateMeter(lambda: now)
    with connect(database, name="look") as conn, connect(database, name="worker") as session:
        number = add_worker(conn, migration)
        conn.execute("UPDATE embedtui.migration SET phase = 'backfill', total_rows = %s", [total])
        conn.execute("DELETE FROM embedtui.shard")
        conn.execute(
            "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block, rows, tokens)"
            " SELECT id, 1, 1, 0, 1, 0, 0 FROM embedtui.migration"
        )
        for what, pace, seconds in paces:
            session.execute("SELECT pg_advisory_unlock_all()")
            if what != "nobody":
                session.execute("SELECT pg_advisory_lock(%s, %s)", [locks.WORKER_CLASS, number])
            set_desired(conn, migration.id, "pause" if what == "pause" else "run", "")
            holds = [{"name": what, "detail": "", "since": None}] if what == "wal_rate" else []
            conn.execute("UPDATE embedtui.worker SET holds = %s", [Jsonb(holds)])
            for second in range(seconds):
                now, rows = now + 1, rows + pace
                conn.execute("UPDATE embedtui.shard SET rows = %s", [rows])
                conn.execute("UPDATE embedtui.pace SET requests_per_minute = %s, requests = %s", [limit, rows // 8])
                found = read_snapshot(conn, None, meter, lambda _conn, _migration: None, {os.getpid()}).backfill
                if what in ("pause", "nobody"):
                    assert (found.rate, found.eta_seconds) == (None, None), "nothing decays: it stands"
                if found.eta_seconds is None:
                    continue
                seen += 1
                taken = (total - rows) / found.eta_seconds
                assert found.rate is None or taken <= found.rate * 1.001, "never more hopeful than the rate"
                if limit is not None:
                    assert taken <= limit / 60 * 8 * 1.1, "what was saved up is soon used"
                if found.rate is not None and second >= RATE_SECONDS:
                    assert taken == pytest.approx(pace if limit is None else min(pace, limit / 60 * 8), rel=0.5)
    assert seen > 40


def test_what_edits_cost_is_not_projected_over_the_rows_to_come(database: str) -> None:
    """Under a rate limit edits go before the backfill, and their tokens made the forecast swing."""
    migration = small(database)
    with connect(database) as conn:
        conn.execute("UPDATE embedtui.migration SET phase = 'backfill', total_rows = 40, synced_tokens = 1000")
        conn.execute("UPDATE embedtui.model SET price_per_million = 1e6 WHERE id = %s", [migration.new_model.id])
        conn.execute("DELETE FROM embedtui.shard")
        conn.execute(
            "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block, rows, tokens)"
            " VALUES (%s, 1, 1, 0, 1, 10, 50)",
            [migration.id],
        )
        status = look(conn).backfill
        assert status.spent == pytest.approx(1050)
        assert status.estimate == pytest.approx(50 / 10 * 40 + 1000)
        assert status.eta_seconds is None and status.rate is None, "nobody is at work"


def test_who_looks_notes_the_workers_that_ended_without_a_word_each_once(database: str) -> None:
    migration = small(database)
    with (
        connect(database, name="look") as conn,
        closing(SubprocessEngine(database)) as one,
        closing(SubprocessEngine(database)) as other,
    ):
        number = add_worker(conn, migration)
        one.snapshot()
        assert one.snapshot().log == (), "its server may be about to be reached again"
        conn.execute(
            "UPDATE embedtui.worker SET heartbeat = now() - interval '1 minute', started_at = now() - interval '1 h'"
        )
        with closing(Engine(database)) as status, closing(SubprocessEngine(database, notes_lost=False)) as watching:
            for engine in (status, watching, status, watching):
                assert engine.snapshot().log == (), "who only looks writes nothing"
        for engine in (one, other, one):
            engine.snapshot()
        (line,) = [each for each in other.snapshot().log if each.act == "worker lost"]
        assert line.detail.startswith(f"worker {number} (elsewhere:")


def test_a_row_whose_sides_fail_for_different_reasons_is_one_faulty_row(database: str) -> None:
    migration = small(database)
    with connect(database) as conn:
        record_faults(conn, migration.id, [(("7",), "too long"), (("8",), "too long"), (("9",), "refused")])
        record_faults(conn, migration.id, [(("7",), "the filter"), (("8",), "too long"), (("10",), "odd")], Side.OLD)
        found = look(conn)
        assert sorted((group.reason, group.rows) for group in found.faults) == [
            ("odd", 1), ("refused", 1), ("the filter", 1), ("too long", 2),
        ]  # fmt: skip
        assert (found.faulty, _status_data(found)["faulty"]) == (4, 4)
        assert "4 faulty" in progress_text(found)
        told = [line for line in _status_lines(found) if line.startswith("Faults")]
        assert "4 rows in all" in told[0] and len(told) == 5, "every reason is still told"
        assert "4 rows in all" in panels.faults(View(found, Link(up=True)), 60, 6).plain
        conn.execute("DELETE FROM embedtui.fault WHERE reason IN ('the filter', 'odd')")
        assert look(conn).faulty == 3 and not look(conn).faulty_in_all


def test_rows_with_more_reasons_than_are_listed_are_all_faulty(database: str) -> None:
    """Whatever a provider makes of each."""
    migration = small(database)
    with connect(database) as conn:
        record_faults(conn, migration.id, [((str(each),), f"no {chr(0x4E00 + each)}") for each in range(150)])
        record_faults(conn, migration.id, [((str(each),), "refused") for each in range(40)], Side.OLD)
        assert len(look(conn).faults) == 100
        assert look(conn).faulty == 150


def test_a_reason_is_one_whatever_the_numbers_in_it(database: str) -> None:
    """The provider's words hold each text's own length: a thousand long texts are one reason, and decided as one."""
    migration = small(database)
    with connect(database, name="look") as conn:
        said = [((str(n),), f"400: at most 8192 tokens, yours has {9000 + n * n}") for n in range(3)]
        record_faults(conn, migration.id, [*said, (("9",), "400: content policy")])
        groups = look(conn).faults
        assert [(group.count, group.reason) for group in groups] == [
            (3, "400: at most 8192 tokens, yours has 9000"),
            (1, "400: content policy"),
        ]
        for group in groups:
            assert len(read_faults(conn, migration.id, 9, 0, group.reason, group.state)) == group.count
        record_faults(conn, migration.id, [(("7",), "413: at most 8192 tokens, yours has 20")])
        record_faults(conn, migration.id, [(("8",), "400: at most 8192 tokens, yours has 10")])
        assert [group.count for group in look(conn).faults] == [4, 1, 1], "another status is another reason"
        assert look(conn).faults[0].identity == groups[0].identity
