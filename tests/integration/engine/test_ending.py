"""Cleanup and abort against every other mover of the pointer: what serves is never dropped, and nobody is stuck."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from embedtui.cli.main import cli
from embedtui.engine.cleanup.abort import abort
from embedtui.engine.cleanup.choice import CleanupChoice
from embedtui.engine.cleanup.cleanup import cleanup
from embedtui.engine.cutover import cutover as cutover_module
from embedtui.engine.cutover.cutover import cutover, flip_if_due, postpone, rollback
from embedtui.engine.engine import Engine
from embedtui.errors import Refused, SettingsError
from embedtui.model import Migration, Phase, PlacementKind, Remedy, Side
from embedtui.model.snapshot import CHANGE
from embedtui.postgres import ddl
from embedtui.postgres.connect import Connection
from embedtui.postgres.locks import WORKER_CLASS
from embedtui.postgres.state import migrations as state
from embedtui.postgres.state import pointer
from embedtui.postgres.state.audit import read_audit
from embedtui.router import Router
from tests.integration.engine.test_cutover import PASS, with_strategy
from tests.kits.cutover_kit import make, vector
from tests.kits.support import connect, wait_for

BOTH = pytest.mark.parametrize("placement", list(PlacementKind))


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with connect(database, name="test") as connection:
        yield connection


def soaking(database: str, placement: PlacementKind = PlacementKind.COLUMN, **settings: object) -> Migration:
    """A migration whose new side serves, with no soak time asked for."""
    migration = make(database, placement, rows=8, index=False, settings={"cutover": {"soak_days": 0, **settings}})
    with connect(database, name="test") as conn:
        conn.execute("UPDATE embedtui.migration SET index_method = 'none'")
    cutover(database, migration, gate=PASS)
    with connect(database, name="test") as conn:
        return present(conn)


def present(conn: Connection) -> Migration:
    found = state.load_migration(conn)
    assert found is not None
    return found


def columns(conn: Connection) -> set[str]:
    rows = conn.execute(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'documents'::regclass AND attnum > 0"
        " AND NOT attisdropped"
    )
    return {name for (name,) in rows}


class Acting:
    """An act in a thread of its own, on a connection of its own."""

    def __init__(self, database: str, act: Callable[[Connection], object]) -> None:
        self.error: Exception | None = None
        self._database, self._act = database, act
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with connect(self._database, name="act") as conn:
                self._act(conn)
        except Exception as error:
            self.error = error

    def end(self) -> Exception | None:
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.error


@contextmanager
def waiting_cleanup(database: str, migration: Migration, choice: CleanupChoice | None = None) -> Iterator[Acting]:
    """A cleanup that has begun and waits for a reader; inside, the reader is still there."""
    waits: list[str] = []
    with psycopg.connect(database, application_name="report") as reader:
        reader.execute("SELECT count(*) FROM documents")

        def act(conn: Connection) -> None:
            stop = threading.Event()
            cleanup(conn, migration, choice or CleanupChoice(), typed_name="documents", stop=stop, on_wait=waits.append)

        acting = Acting(database, act)
        wait_for(lambda: any("report" in text for text in waits) or acting.error, "it waits for the reader")
        assert acting.error is None
        yield acting
        reader.rollback()
    acting.end()


@pytest.mark.parametrize(
    "choice",
    [CleanupChoice(), CleanupChoice(rename=False), CleanupChoice(keep_old=True)],
    ids=["rename", "new", "keep"],
)
@BOTH
@pytest.mark.variants(3)
def test_a_rollback_cancels_a_cleanup_that_has_dropped_nothing(
    database: str, conn: Connection, placement: PlacementKind, choice: CleanupChoice
) -> None:
    """It waited for a lock: rollback said 0 and served the old side, then the old side was dropped."""
    migration = soaking(database, placement)
    before = columns(conn)
    with waiting_cleanup(database, migration, choice) as acting, Router(database) as router:
        flip = rollback(database, migration)
        assert flip.changed and flip.active is Side.OLD
        error = acting.end()  # at once, with the reader still there: it has nothing to wait for any more
        assert isinstance(error, Refused) and "rolled back" in str(error).lower()
        wait_for(lambda: router.route("documents").side is Side.OLD, "the Router follows")
    assert columns(conn) == before
    assert pointer.read_route(conn, "documents").active is Side.OLD
    assert present(conn).phase is Phase.VALIDATE
    # and the operator goes on, in either direction
    assert cutover(database, migration, gate=PASS).active is Side.NEW
    cleanup(conn, present(conn), choice, typed_name="documents", stop=threading.Event())
    assert present(conn).phase is Phase.DONE


class Killed(BaseException):
    """The operator's process is gone."""


def killed_before(step: str) -> Callable[[object], None]:
    def on_step(found: object) -> None:
        if getattr(found, "name", "") == step:
            raise Killed

    return on_step


@BOTH
def test_a_killed_cleanup_then_a_rollback_is_no_dead_end(
    database: str, conn: Connection, placement: PlacementKind
) -> None:
    migration = soaking(database, placement)
    with pytest.raises(Killed):
        cleanup(
            conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(),
            on_step=killed_before("contract"),
        )  # fmt: skip
    assert present(conn).phase is Phase.CLEANUP
    assert rollback(database, migration).changed
    before = columns(conn)
    with pytest.raises(Refused, match="does not serve"):  # a rerun dropped the serving side
        cleanup(conn, present(conn), CleanupChoice(), typed_name="documents", stop=threading.Event())
    assert columns(conn) == before and "embedding" in before
    assert cutover(database, present(conn), gate=PASS).changed
    rollback(database, present(conn))
    abort(conn, present(conn), typed_name="documents", stop=threading.Event())
    assert present(conn).phase is Phase.ABORTED and "embedding_v2" not in columns(conn)


def test_a_rollback_after_the_drop_says_what_is_gone(database: str, conn: Connection) -> None:
    migration = soaking(database)
    with pytest.raises(Killed):
        cleanup(
            conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(),
            on_step=killed_before("finish"),
        )  # fmt: skip
    with pytest.raises(Refused, match=r"old side of documents has been dropped") as caught:
        rollback(database, migration)
    assert "cleanup" in caught.value.hint
    assert pointer.read_route(conn, "documents").active is Side.NEW


def test_what_was_interrupted_after_the_drop_is_completed_by_the_engine(database: str, conn: Connection) -> None:
    """The phase is done by then, and the facade took that for the end: queue and shards stayed for ever."""
    migration = soaking(database)
    conn.execute(
        "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block) VALUES (%s, 1, 1, 0, 1)",
        [migration.id],
    )
    with pytest.raises(Killed):
        cleanup(
            conn, migration, CleanupChoice(), typed_name="documents", stop=threading.Event(),
            on_step=killed_before("finish"),
        )  # fmt: skip
    engine = Engine(database, "documents")
    engine.cleanup("documents")
    engine.close()
    assert conn.execute("SELECT count(*) FROM embedtui.shard").fetchone() == (0,)


def test_nothing_moves_to_a_side_that_an_abort_takes_away(database: str, conn: Connection) -> None:
    migration = make(database, rows=8)
    with pytest.raises(Killed):
        abort(conn, migration, typed_name="documents", stop=threading.Event(), on_step=killed_before("remove"))
    for percent in (10, 100):
        with pytest.raises(Refused, match="aborted"):
            cutover(database, migration, percent, gate=PASS)
    with pytest.raises(Refused, match="aborted"):
        postpone(database, migration, 100, gate=PASS)
    assert rollback(database, migration).changed is False
    abort(conn, present(conn), typed_name="documents", stop=threading.Event())
    with pytest.raises(Refused):
        cutover(database, migration, gate=PASS)
    assert "embedding_v2" not in columns(conn)


@pytest.mark.parametrize("percent", [20, 100])
def test_an_abort_waiting_for_a_lock_excludes_a_postponed_cutover(
    database: str, conn: Connection, percent: int
) -> None:
    migration = make(database, rows=8)
    postpone(database, migration, percent, gate=PASS)
    waits: list[str] = []
    with psycopg.connect(database, application_name="report") as reader:
        reader.execute("SELECT count(*) FROM documents")

        def act(conn: Connection) -> None:
            abort(conn, migration, typed_name="documents", stop=threading.Event(), on_wait=waits.append)

        acting = Acting(database, act)
        wait_for(lambda: waits or acting.error, "it waits")
        assert flip_if_due(database, migration, PASS) is None
    assert acting.end() is None
    served = pointer.read_route(conn, "documents")
    assert (served.active, served.canary) == (Side.OLD, 0) and present(conn).phase is Phase.ABORTED


def test_every_word_to_the_listeners_is_json(database: str, conn: Connection) -> None:
    """The cleanup's and the abort's was a bare name, which no listener understands."""
    with psycopg.connect(database, autocommit=True) as listener:
        listener.execute(f"LISTEN {pointer.CHANNEL}")
        migration = soaking(database)
        rollback(database, migration)
        cutover(database, migration, gate=PASS)
        cleanup(conn, present(conn), CleanupChoice(), typed_name="documents", stop=threading.Event())
        told = [json.loads(notify.payload) for notify in listener.notifies(timeout=2, stop_after=5)]
    assert len(told) >= 4 and all(word["name"] == "documents" for word in told)


def test_a_rename_exchange_yields_to_no_cleanup(database: str, conn: Connection) -> None:
    """Strategy rename moves the pointer within DDL: the same rules, by the same writer."""
    migration = make(database, rows=8, index=False, settings={"cutover": {"soak_days": 0, "strategy": "rename"}})
    conn.execute("UPDATE embedtui.migration SET index_method = 'none'")
    cutover(database, migration, gate=PASS, override={"rename_equal_dimensions": "services are stopped"})
    with waiting_cleanup(database, present(conn)) as acting:
        back = Acting(database, lambda _: rollback(database, present(conn)))
        error = acting.end()  # cancelled before the names can be exchanged
        assert isinstance(error, Refused)
    assert back.end() is None
    found = present(conn)
    assert (found.old_column, found.new_column) == ("embedding", "embedding_v2")
    probe = conn.execute("SELECT key FROM embedtui.search('documents', 'old-model', %s, 1)", [str(vector(4))])
    assert probe.fetchone() == ("4",)
    written = [entry.act for entry in read_audit(conn, migration.id)]
    assert written.count("rollback") == 1


def test_a_rollback_is_not_held_up_by_a_cleanup_in_its_transaction(database: str, conn: Connection) -> None:
    """The cleanup holds the table's lock and all its DDL is done: the pointer is free until its last statement."""
    migration = soaking(database)
    with connect(database, name="locked") as held, held.transaction():
        held.execute("LOCK documents IN ACCESS EXCLUSIVE MODE")
        assert rollback(database, migration).changed
        assert pointer.read_route(conn, "documents").active is Side.OLD


# ------------------------------------------------------------------------------ a flip killed right after its commit


@pytest.mark.parametrize("then", ["nothing", "rollback"])
def test_an_exchange_killed_after_its_commit_leaves_phase_and_log_right(
    database: str, conn: Connection, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migration = with_strategy(database, strategy="rename")
    override = {"rename_equal_dimensions": "services are stopped"}
    if then == "rollback":
        cutover(database, migration, gate=PASS, override=override)
    exchange = ddl.run_ddl

    def killed_after(*arguments: Any, **options: Any) -> None:
        exchange(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(cutover_module, "run_ddl", killed_after)
        with pytest.raises(Killed):
            if then == "rollback":
                rollback(database, migration)
            else:
                cutover(database, migration, gate=PASS, override=override)
    expected, act = (Phase.VALIDATE, "rollback") if then == "rollback" else (Phase.SOAK, "cutover")
    assert present(conn).phase is expected
    written = [(entry.act, entry.detail) for entry in read_audit(conn, migration.id, 2)]
    assert ("phase", expected.value) in written and act in {said for said, _ in written}


def test_a_phase_that_a_killed_flip_left_behind_is_set_and_audited_by_the_next_worker(
    database: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pointer waits for nobody: not for the phase of a row that a worker holds."""
    migration = make(database)
    with connect(database, name="other") as other, monkeypatch.context() as patch:
        follow = cutover_module.follow_pointer

        def held(conn: Connection, migration_id: int) -> bool:
            try:
                return follow(conn, migration_id)
            except psycopg.errors.LockNotAvailable:
                patch.setattr(cutover_module, "follow_pointer", lambda *_: (_ for _ in ()).throw(Killed()))
                raise

        patch.setattr(cutover_module, "follow_pointer", held)
        with other.transaction(), pytest.raises(Killed):
            other.execute("SELECT FROM embedtui.migration WHERE id = %s FOR UPDATE", [migration.id])
            cutover(database, migration, gate=PASS)
    assert pointer.read_route(conn, "documents").active is Side.NEW
    assert present(conn).phase is Phase.VALIDATE, "the kill met the gap"
    flip_if_due(database, present(conn), None)
    assert present(conn).phase is Phase.SOAK
    assert [(e.act, e.detail) for e in read_audit(conn, migration.id, 1)] == [("phase", "soak")]


def test_a_worker_that_lives_has_only_to_be_resumed(database: str, conn: Connection) -> None:
    soaking(database)
    conn.execute("INSERT INTO embedtui.queue (migration, key, kind) SELECT id, '{1}', 'u' FROM embedtui.migration")
    conn.execute("UPDATE embedtui.migration SET desired = 'pause'")
    with contextlib.closing(Engine(database, "documents")) as engine:
        (queue,) = (each for each in engine.blockers("cleanup", keep_old=True) if each.name == "queue")
        assert queue.remedies == (Remedy.RESUME, Remedy.FOLLOW)
        with connect(database, name="worker") as worker:
            row = worker.execute(
                "INSERT INTO embedtui.worker (migration, host, pid) SELECT id, 'h', 1 FROM embedtui.migration"
                " RETURNING id"
            ).fetchone()
            assert row is not None
            worker.execute("SELECT pg_advisory_lock(%s, %s)", (WORKER_CLASS, row[0]))
            (queue,) = (each for each in engine.blockers("cleanup", keep_old=True) if each.name == "queue")
        assert queue.remedies == (Remedy.RESUME,)


def test_what_stands_against_a_cleanup_is_said_of_the_choice_that_is_made(database: str, conn: Connection) -> None:
    soaking(database)
    conn.execute("CREATE VIEW v AS SELECT embedding FROM documents")
    engine = Engine(database, "documents")
    assert {each.name for each in engine.blockers("cleanup")} == {"dependents"}
    assert engine.blockers("cleanup", keep_old=True) == ()
    archive = engine.blockers("cleanup", keep_old=True, archive="documents")
    assert [each.name for each in archive] == ["archive"]
    with pytest.raises(SettingsError):
        engine.blockers("cleanup", archive="a.b.c")
    engine.close()


def test_what_stands_against_a_run_and_an_index_is_said(database: str, conn: Connection) -> None:
    engine = Engine(database, "documents")
    soaking(database)
    assert engine.blockers("run") == ()
    engine.pause("a release is on")
    (paused,) = engine.blockers("run")
    assert "a release is on" in paused.message and "resume" in paused.hint
    (none,) = engine.blockers("index")
    assert "no index" in none.message
    conn.execute("UPDATE embedtui.migration SET phase = 'prepare', index_method = 'hnsw'")
    (early,) = engine.blockers("index")
    assert early.name == "phase" and not early.overridable
    conn.execute("UPDATE embedtui.migration SET phase = 'aborted'")
    assert [each.name for each in engine.blockers("run")] == ["ended"]
    engine.close()


@pytest.mark.parametrize("act", ["cleanup", "abort"])
def test_whom_an_act_waits_for_is_a_hold_while_it_lasts(database: str, act: str) -> None:
    """In the snapshot of every process, and in ``status``; the events alone are seen where the act was begun."""
    soaking(database)
    with (
        contextlib.closing(Engine(database, "documents")) as actor,
        contextlib.closing(Engine(database, "documents")) as watcher,
    ):
        if act == "abort":
            actor.rollback()
        does = {"cleanup": actor.cleanup, "abort": actor.abort}[act]
        with psycopg.connect(database, application_name="shop") as shop:
            shop.execute("SELECT count(*) FROM documents")
            named = f"{act} waits for pid {shop.info.backend_pid} (shop)"
            thread = threading.Thread(target=lambda: does("documents"))
            thread.start()
            try:
                wait_for(lambda: any(each.name == CHANGE for each in watcher.snapshot().reasons))
                said = CliRunner().invoke(cli, ["status"], env={"DATABASE_URL": database}).stdout
                waited = watcher.snapshot().reasons
            finally:
                shop.rollback()
                thread.join()
        assert [each.detail.startswith(named) for each in waited if each.name == CHANGE] == [True]
        assert f"change of the tables: {named}" in " ".join(said.split())
        assert not [each for each in watcher.snapshot().reasons if each.name == CHANGE]
