"""What the database refuses to write on the old side never stops the new one, is said, and is taken up again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.backfill import old_side, stages, sync
from embedtui.engine.backfill.old_writes import TRIES, Halved, Unwritable, by_halves
from embedtui.engine.engine import Engine
from embedtui.errors import DatabaseError
from embedtui.model import Command, Condition, Side
from embedtui.postgres.connect import connect, translate
from embedtui.postgres.state.audit import tell_refused
from tests.integration.engine.test_sync import MODELS, Following
from tests.kits.support import make_documents, settings_for, wait_for

UNQUALIFIED = (
    'CREATE SCHEMA "HelpDesk"; CREATE TABLE "HelpDesk"."AuditTrail" (id bigint);'
    ' CREATE FUNCTION "HelpDesk".note_update() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN'
    ' INSERT INTO "AuditTrail" VALUES (NEW.id); RETURN NEW; END $$;'
    " CREATE TRIGGER note AFTER UPDATE OF embedding ON documents"
    ' FOR EACH ROW EXECUTE FUNCTION "HelpDesk".note_update()'
)
LOCKED = (
    "CREATE FUNCTION public.busy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " RAISE EXCEPTION 'somebody holds it' USING ERRCODE = '55P03'; END $$;"
    " CREATE TRIGGER busy BEFORE UPDATE OF embedding ON documents FOR EACH ROW EXECUTE FUNCTION public.busy()"
)
AWAY = LOCKED.replace("55P03", "08001").replace("somebody holds it", "could not establish connection")
DEFERRED = LOCKED.replace("CREATE TRIGGER busy BEFORE", "CREATE CONSTRAINT TRIGGER busy AFTER").replace(
    "FOR EACH", "DEFERRABLE INITIALLY DEFERRED FOR EACH"
)
RULE = "CREATE RULE busy AS ON UPDATE TO documents WHERE NEW.content = OLD.content DO INSTEAD NOTHING"


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS, log_texts=10_000) as server:
        yield server


@pytest.fixture
def following(
    database: str, api: LoopbackServer, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Following]:
    monkeypatch.setattr(sync, "TEND_SECONDS", 0.2)
    monkeypatch.setattr(old_side, "RETRY_SECONDS", (0.2, 0.5))
    found = Following(database, api, tmp_path, placement=getattr(request, "param", "column"))
    yield found
    found.close()


@pytest.mark.parametrize("following", ["table"], indirect=True)
def test_the_new_side_goes_on_and_the_old_one_is_taken_up_again(following: Following) -> None:
    engine, conn = following.engine, following.conn
    engine.cutover(override={"gate": "test"})
    for count, trouble in enumerate((UNQUALIFIED, LOCKED, AWAY, DEFERRED, RULE)):
        conn.execute(trouble)
        rows = range(10 * count + 1, 10 * count + 6)  # others: one that is edited all the time is put off
        following.edit(*rows)
        wait_for(lambda: engine.snapshot().sync.queued == 0, "the new side waits for the old one")
        wait_for(lambda: engine.snapshot().old_refused)
        now = engine.snapshot()
        assert (now.condition, now.rollback.fresh, now.rollback.stale) == (Condition.RUNNING, False, 5)
        assert now.rollback.why.startswith("the database refuses old vectors: "), now.rollback.why
        conn.execute("DROP TRIGGER IF EXISTS note ON documents; DROP TRIGGER IF EXISTS busy ON documents")
        conn.execute("DROP RULE IF EXISTS busy ON documents; DROP FUNCTION IF EXISTS public.busy()")
        wait_for(lambda: engine.snapshot().rollback.fresh is True, "it is not taken up again")
        assert all(following.vector_is(number, Side.OLD) for number in rows)
        assert not engine.snapshot().old_refused
    acts = [entry.act for entry in reversed(engine.audit(100)) if entry.act.startswith("old side")]
    assert acts == ["old side refused", "old side accepted"] * 5, "once an episode"


def test_a_reason_that_names_the_row_is_told_once(following: Following) -> None:
    number = following.engine.require().id
    told = [tell_refused(following.conn, number, f"row {each} of 7f3a-{each}c is locked") for each in range(3)]
    assert told == [True, False, False]
    assert tell_refused(following.conn, number, "the table is locked")


def test_a_row_that_is_refused_for_its_own_sake_stops_no_other(following: Following) -> None:
    following.engine.cutover(override={"gate": "test"})
    following.conn.execute(LOCKED.replace("FOR EACH ROW", "FOR EACH ROW WHEN (NEW.id = 3)").replace("55P03", "P0001"))
    following.edit(*range(1, 21))
    wait_for(lambda: following.engine.snapshot().rollback.stale == 1)
    wait_for(lambda: any(fault.side is Side.OLD for fault in following.engine.faults()))
    wait_for(lambda: all(following.vector_is(number, Side.OLD) for number in range(4, 21)))
    assert "the old vector of 1 row" in following.engine.snapshot().rollback.why


@pytest.mark.parametrize("following", ["table"], indirect=True)
def test_before_the_cutover_it_is_tried_and_leaves_nothing(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, conn = following.engine, following.conn
    monkeypatch.setattr(sync, "TRY_SECONDS", 0.1)

    def stands() -> bool:
        return any(blocker.name == "old_side" for blocker in engine.blockers(Command.CUTOVER))

    def vectors() -> object:
        return conn.execute("SELECT array_agg(embedding::text ORDER BY id) FROM documents").fetchone()

    before = vectors()
    for trouble in (UNQUALIFIED, DEFERRED.replace("55P03", "P0001")):
        assert not stands()
        conn.execute(trouble)
        wait_for(stands, "nobody tried it")
        conn.execute("DROP TRIGGER IF EXISTS note ON documents; DROP TRIGGER IF EXISTS busy ON documents")
        wait_for(lambda: not stands(), "the mend is not noticed")
    assert vectors() == before and not engine.snapshot().sync.queued
    conn.execute(AWAY.replace("BEGIN", "BEGIN -- dblink", 1).replace("dblink", "dblink\n").replace("busy", "far"))
    assert any(each.name == "old_side" and each.result == "unknown" for each in engine.notices())


def test_one_bad_row_is_found_and_a_side_that_refuses_all_is_given_up_soon() -> None:
    tried: list[int] = []

    def write(part: slice, bad: set[int]) -> None:
        tried.append(part.start)
        if bad & set(range(part.start, part.stop)):
            raise Unwritable(DatabaseError("no"))

    found = by_halves(256, lambda part: write(part, {0, 1, 2, 200}))
    assert found.accepted and set(found.refused) == {0, 1, 2, 200}
    tried.clear()
    assert not by_halves(256, lambda part: write(part, set(range(256)))).accepted and len(tried) == TRIES
    assert by_halves(1, lambda part: None) == Halved(True, {})


def test_a_worker_that_ends_by_an_error_says_so(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_documents(database, 20)
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, {"placement": "column"}))) as engine:
        for part, path in ((sync.Sync, "_take"), (stages.Refit, "keep_up"), (stages.IndexStage, "run")):
            with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
                caplog.clear()

                def fail(*_: object, path: str = path) -> None:
                    raise DatabaseError(f"broken {path}")

                broken.setattr(part, path, fail)
                with pytest.raises(DatabaseError, match=f"broken {path}"):
                    engine.run(threading.Event(), follow=True)
            now = engine.snapshot()
            assert now.condition is Condition.FAILED and f"broken {path}" in now.reasons[0].detail
            assert now.next_act == Command.RUN
            entry = engine.audit(1)[0]
            assert entry.act == "worker failed" and f"broken {path}" in entry.detail
            assert any(record.exc_info and f"broken {path}" in str(record.exc_info[1]) for record in caplog.records)
        engine.run(threading.Event())
        assert engine.snapshot().condition is Condition.IDLE, "a run that goes on ends that"


@pytest.mark.parametrize(
    "function, called",
    [
        ('"HelpDesk".note_update()', '"HelpDesk".note_update()'),
        ('"Help Desk"."Note"(x integer)', '"Help Desk"."Note"(integer)'),
        ("public.note()", "public.note()"),
    ],
)
def test_the_mend_of_a_search_path_can_be_pasted(database: str, function: str, called: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute('CREATE SCHEMA "HelpDesk"; CREATE SCHEMA "Help Desk"')
        conn.execute(
            f"CREATE FUNCTION {function} RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM * FROM nowhere; END $$"
        )
    with connect(database, name="test") as conn:  # as ours are: the server shows a name by the path of who compiles it
        with pytest.raises(psycopg.errors.UndefinedTable) as caught:
            conn.execute(f"SELECT {function.replace('x integer', '1')}")
        found = translate(caught.value)
        assert f"(in function {called})" in found.message
        statement = found.hint.partition("sessions have ")[2].partition(": ")[2].replace("…", "pg_catalog").rstrip(".")
        assert statement.startswith(f"ALTER FUNCTION {called} SET")
        conn.execute(statement)
