"""A cleanup under the application's writes: it ends, in one try, and what was captured has its vector."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from embedtui.engine.cleanup import archive, settle
from embedtui.engine.cleanup.choice import CleanupChoice, CleanupStep
from embedtui.engine.cleanup.cleanup import cleanup
from embedtui.errors import LockTimeout, Refused
from embedtui.model import PlacementKind, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides import capture
from embedtui.postgres.state import migrations as state
from tests.kits.busy import FOR, soaking
from tests.kits.cutover_kit import flip, make
from tests.kits.support import connect, wait_for

ROWS = 23
KEYS = [
    (("id", "bigint"),),
    (("tenant", "text"), ("id", "uuid")),
    (("name", "bpchar(40)"), ("at", "integer"), ("id", "bigint")),
]


class Killed(Exception):
    pass


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("target", [TableName("public", "kept"), Path("kept.copy")])
def test_an_archive_is_taken_in_pages_whatever_the_key(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: tuple[tuple[str, str], ...], target: object
) -> None:
    """Interrupted in the middle, it goes on: nothing is missing, and nothing is there twice."""
    migration = make(database, rows=ROWS, key=key, index=False)
    flip(database, migration.name, "new")
    monkeypatch.setattr(archive, "PAGE", 5)
    monkeypatch.setattr("embedtui.engine.cleanup.steps.TOLD", 0.0)
    chosen = tmp_path / target if isinstance(target, Path) else target
    choice = CleanupChoice(archive=chosen)  # type: ignore[arg-type]

    def kill(text: str) -> None:
        if text.startswith("10 of"):
            raise Killed

    with connect(database) as conn:
        conn.execute("UPDATE embedtui.migration SET total_rows = %s", [ROWS])
        for on_wait in (kill, None):
            try:
                cleanup(
                    conn, migration, choice, typed_name="documents", stop=threading.Event(), override=FOR,
                    on_wait=on_wait,
                )  # fmt: skip
            except Killed:
                assert on_wait is kill
                assert conn.execute("SELECT count(*) FROM documents WHERE embedding_v2 IS NULL").fetchone() == (0,)
        if isinstance(chosen, Path):
            conn.execute("CREATE TABLE kept AS SELECT * FROM documents WITH NO DATA")
            conn.execute("ALTER TABLE kept DROP content, DROP lang")
            with conn.cursor().copy("COPY kept FROM STDIN") as copy:
                copy.write(chosen.read_bytes())
        names = ", ".join(name for name, _ in key)
        counts = conn.execute(f"SELECT count(*), count(DISTINCT ({names})) FROM kept".encode()).fetchone()
        assert counts == (ROWS, ROWS)
        # of row n the old vector is that of its neighbour's new one
        kept, there = (", ".join(f"{alias}.{name}" for name, _ in key) for alias in "kd")
        same = f"SELECT count(*) FROM kept k JOIN documents d USING (embedding) WHERE ({kept}) <> ({there})"
        assert conn.execute(same.encode()).fetchone() == (ROWS - 1,)


def test_a_table_of_the_archives_name_is_not_filled(database: str) -> None:
    """One that came to be there since the cleanup looked."""
    migration = make(database, rows=3, index=False)
    flip(database, migration.name, "new")

    def plant(step: CleanupStep) -> None:
        if step.name == "archive":
            conn.execute("CREATE TABLE kept (id bigint, embedding vector)")

    with connect(database) as conn:
        choice = CleanupChoice(archive=TableName("public", "kept"))
        with pytest.raises(Refused, match="none of this cleanup"):
            cleanup(
                conn, migration, choice, typed_name="documents", stop=threading.Event(), override=FOR, on_step=plant
            )
        assert conn.execute("SELECT count(*) FROM kept").fetchone() == (0,)


@pytest.mark.parametrize("placement", list(PlacementKind))
@pytest.mark.variants(1)
def test_rows_that_never_hold_still_keep_no_cleanup_waiting(
    database: str, monkeypatch: pytest.MonkeyPatch, placement: PlacementKind
) -> None:
    """Their edits are faster than the provider: no vector can be stored, and the application is at them itself."""
    monkeypatch.setattr(settle, "HOT", 2.0)
    with soaking(database, placement=placement.value, rows=60, hot=(7, 8), latency=0.3, index=False) as at:
        at.engine.cleanup("documents", override=FOR)
        at.busy.end()
        assert at.busy.failures == []
        assert [line for line in at.lines if "that the application keeps" in line]
        found = at.busy.check()
        assert (found["wrong"], found["missing"]) == (0, 0)


def test_capture_that_a_killed_cleanup_took_off_is_put_back_by_a_worker(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with soaking(database, placement="column", rows=60, index=False) as at, connect(database) as conn:
        migration = at.engine.require()
        monkeypatch.setattr(settle, "_put_back", lambda *_: None)

        def kill(step: CleanupStep) -> None:
            if step.name == "contract":
                assert not capture.state(conn, migration).installed
                conn.execute("UPDATE documents SET content = 'unseen', written = '2000-01-01' WHERE id = 5")
                raise Killed

        with pytest.raises(Killed):
            cleanup(
                conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), override=FOR,
                on_step=kill,
            )  # fmt: skip
        monkeypatch.undo()
        wait_for(lambda: capture.state(conn, migration).installed, "nobody put it back")
        at.busy.contents["5"].append("unseen")
        fresh = (
            "SELECT embedding_v2_source = hash_record_extended(ROW(content), 0) FROM documents WHERE content = 'unseen'"
        )
        wait_for(lambda: conn.execute(fresh).fetchone() in ((True,), None), "what no trigger told of was not found")
        at.engine.cleanup("documents", override=FOR)
        at.busy.end()
        found = at.busy.check()
        assert (found["wrong"], found["missing"], at.busy.failures) == (0, 0, [])


def test_a_rollback_between_capture_and_drop_takes_all_back(database: str) -> None:
    with soaking(database, placement="column", rate=10.0, index=False) as at, connect(database) as conn:
        migration = at.engine.require()

        def roll_back(step: CleanupStep) -> None:
            if step.name == "contract":
                at.engine.rollback()

        with pytest.raises(Refused, match="rolled back"):
            cleanup(
                conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), override=FOR,
                on_step=roll_back,
            )  # fmt: skip
        assert capture.state(conn, migration).installed
        wait_for(lambda: not capture.faulty(conn, migration.id), "what was written meanwhile was not scanned for")
        at.busy.end()
        wait_for(lambda: at.engine.snapshot().sync.queued == 0, "not worked off")
        found = at.engine.verify()
        assert found.clean and state.load_migration(conn) is not None


def test_what_was_rejected_meanwhile_is_said(database: str) -> None:
    migration = make(database, rows=3, index=False)
    flip(database, migration.name, "new")

    def reject(step: CleanupStep) -> None:
        if step.name == "settle":
            conn.execute(
                "INSERT INTO embedtui.fault (migration, key, side, class, reason)"
                " VALUES (%s, '{1}', 'new', 'row', 'x')",
                [migration.id],
            )

    with connect(database) as conn:
        for statement in capture.install_sql(migration):
            conn.execute(statement)
        with pytest.raises(Exception, match="1 row was rejected meanwhile"):
            cleanup(
                conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), override=FOR,
                on_step=reject,
            )  # fmt: skip
        assert capture.state(conn, migration).installed
    with psycopg.connect(database) as check:
        assert check.execute("SELECT count(embedding_v2) FROM documents").fetchone() == (3,)


@pytest.mark.parametrize("way", ["for the old side alone", "never holding still"])
def test_what_one_try_might_leave_is_none_of_the_next_ones(
    database: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Captured again between the two, other rows wait: so many as were left then are not so many of them."""
    monkeypatch.setattr(settle, "HOT", 0.4)
    monkeypatch.setattr(settle, "ALONE", 2.0)
    migration = make(database, rows=3, index=False)
    flip(database, migration.name, "new")

    def clean_up(conn: Connection, on_step: Callable[[CleanupStep], None] | None = None) -> None:
        cleanup(
            conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(), override=FOR,
            on_step=on_step,
        )  # fmt: skip

    with connect(database) as conn, connect(database) as application:
        for statement in capture.install_sql(migration):
            conn.execute(statement)
        queued = "INSERT INTO embedtui.queue (migration, kind, key) VALUES (%s, 'u', '{1}')"
        edit = "UPDATE documents SET content = content || '.' WHERE id = %s"

        def settled(step: CleanupStep) -> None:
            if step.name == "settle":
                conn.execute(queued, [migration.id])
            if step.name == "contract":
                raise Killed

        stop = threading.Event()

        def keep_changing() -> None:
            while not stop.wait(0.05):
                application.execute(edit, [1])

        changing = threading.Thread(target=keep_changing)
        if way == "never holding still":
            changing.start()
        try:
            with pytest.raises(Killed):
                clean_up(conn, settled)
        finally:
            stop.set()
            if changing.ident is not None:
                changing.join()
        assert capture.state(conn, migration).installed
        conn.execute("DELETE FROM embedtui.queue")  # a worker embedded it
        conn.execute(edit, [2])
        with pytest.raises(LockTimeout, match="kept waiting to be synced"):
            clean_up(conn)
        assert conn.execute("SELECT count(embedding) FROM documents").fetchone() == (3,)
