"""The old model is dead and the new side serves: a bridge keeps the old side current for the way back."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from embedtui.demo.api import FaultKind, LoopbackServer
from embedtui.engine import Engine
from embedtui.engine.backfill import old_side, sync
from embedtui.engine.bridge.stand_in import stand_in
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.model import Side
from embedtui.postgres.state.bridges import load_map, load_status
from embedtui.router import Router
from tests.integration.engine.test_old_side_refused import DEFERRED
from tests.kits.bridging import NEW_MODEL, OLD_MODEL, OLD_SIZE, ROWS, make_table, text_of
from tests.kits.cli_kit import InProcess
from tests.kits.support import NEW, OLD, settings_for, vector_literal, wait_for

GATE = {"gate": "a test"}


class Bridged:
    """A bridged table whose every row has its new vector, and a worker that follows."""

    def __init__(self, dsn: str, api: LoopbackServer, folder: Path, **flags: Any) -> None:
        self.dsn, self.api, self.folder = dsn, api, folder
        retired = flags.setdefault("old_model.retired", True)
        api.models = {NEW: NEW_MODEL} if retired else {NEW: NEW_MODEL, OLD: OLD_MODEL}
        make_table(dsn)
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.settings = settings_for(dsn, api, folder, flags)
        self.engine = Engine(dsn, settings=self.settings)
        self._stop, self._thread = threading.Event(), None

    def ready(self) -> Bridged:
        self.engine.bridge(rows=300, override={"old_model": "a test"})
        self.engine.run(threading.Event())
        return self

    def follow(self) -> Bridged:
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._follow)
        self._thread.start()
        return self

    def _follow(self) -> None:
        with contextlib.suppress(Interrupted):
            self.engine.run(self._stop, follow=True)

    def pause(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)

    def close(self) -> None:
        self.pause()
        self.conn.close()
        self.engine.close()

    def value(self, query: str, *parameters: object) -> Any:
        row = self.conn.execute(query, parameters).fetchone()
        return row and row[0]

    def edit(self, *numbers: int, word: str = "edited") -> None:
        self.conn.execute(
            "UPDATE documents SET content = %s || id WHERE id = ANY (%s)", [f"{word} document ", list(numbers)]
        )

    def counts(self) -> tuple[int, int, int]:
        """Stale, bridged and missing rows, once nothing waits."""
        snapshot = self.engine.snapshot()
        found = snapshot.rollback
        return (-1, -1, -1) if snapshot.sync.queued else (found.stale, found.bridged, found.missing)

    def settles_at(self, stale: int = 0, bridged: int = 0, missing: int = 0) -> None:
        wait_for(lambda: self.counts() == (stale, bridged, missing), f"never {stale}, {bridged}, {missing}")

    def marks(self) -> dict[int, int | None]:
        return {int(key[0]): bridge for key, bridge in self.conn.execute("SELECT key, bridge FROM embedtui.stale")}

    def wrong(self) -> list[int]:
        """Rows that are noted as bridged, and whose old vector is not what their map makes of their content."""
        found, maps = [], {}
        rows = self.conn.execute(
            "SELECT d.id, d.content, d.embedding::real[], s.bridge FROM documents d"
            " JOIN embedtui.stale s ON s.key = ARRAY[d.id::text] WHERE s.bridge IS NOT NULL"
        ).fetchall()
        for number, content, old, bridge in rows:
            if bridge not in maps:
                found_map = load_map(self.conn, bridge, "public")
                assert found_map is not None
                maps[bridge] = stand_in(found_map, load_status(self.conn, bridge))
            expected = maps[bridge](NEW_MODEL([content], None))[0]
            if old is None or not np.allclose(old, expected, atol=1e-4):
                found.append(number)
        return found

    def finds(self, *texts: str) -> bool:
        """Whether each text, as a question through the route that serves, finds its row among the first three."""
        with Router(self.dsn) as router:
            route = router.route("documents")
            for text in texts:
                query = {NEW: NEW_MODEL, OLD: OLD_MODEL}[route.model]([text], None)[0]
                hits = route.search(self.conn, query, k=3, columns=["content"])
                if text not in [hit.values["content"] for hit in hits]:
                    return False
        return True


@pytest.fixture
def made(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Bridged]:
    monkeypatch.setattr(sync, "TEND_SECONDS", 0.2)
    monkeypatch.setattr(old_side, "RETRY_SECONDS", (0.2, 0.5))
    found = Bridged(database, api, tmp_path, **getattr(request, "param", {}))
    yield found
    found.close()


def flags(**more: Any) -> Any:
    return pytest.mark.parametrize("made", [more], indirect=True)


@pytest.mark.parametrize("made", [{"placement": "column"}, {"placement": "table"}], ids=str, indirect=True)
def test_what_is_written_after_the_cutover_is_found_after_a_rollback(
    made: Bridged, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made.ready().engine.cutover(override=GATE)
    made.follow()
    assert made.engine.snapshot().rollback.fresh is True
    made.edit(1, 2, 3)
    made.conn.execute("INSERT INTO documents (id, content) VALUES (1000, 'edited document 1000')")
    made.settles_at(bridged=4)
    rollback = made.engine.snapshot().rollback
    assert rollback.fresh is False and re.fullmatch("bridged: 4 of 60[01] rows by the bridge", rollback.found)
    version = made.engine.snapshot().route.bridge
    assert made.marks() == {1: version, 2: version, 3: version, 1000: version} and made.wrong() == []
    made.conn.execute("DELETE FROM documents WHERE id = 3")
    made.settles_at(bridged=3)
    made.engine.rollback()
    assert made.engine.snapshot().route.bridged
    assert made.finds("edited document 1", "edited document 1000", text_of(77))
    made.edit(5)
    made.settles_at(bridged=4)
    assert made.finds("edited document 5"), "while the bridge serves, too"
    shell = InProcess(made.folder, {"DATABASE_URL": made.dsn}, monkeypatch, capsys)
    said = f"Rollback   nothing to roll back, bridged: 4 of {ROWS} rows by the bridge, {OLD} is retired"
    assert said in shell("status").out
    data = shell("status", "--json").json["rollback"]
    assert (data["fresh"], data["stale"], data["bridged"], data["missing"], data["rows"]) == (False, 0, 4, 0, ROWS)


def test_old_vectors_that_are_due_are_no_changes_that_wait(made: Bridged) -> None:
    made.engine.bridge(rows=300, override={"old_model": "a test"})
    assert made.engine.snapshot().rollback.rows is None, "the planned rows are none of now"
    made.engine.run(threading.Event())
    made.engine.cutover(override=GATE)
    made.engine.rollback()
    made.edit(1, 2, 3)
    snapshot = made.engine.snapshot()
    assert snapshot.sync.queued == snapshot.rollback.stale == 3 and snapshot.rollback.rows == ROWS
    assert snapshot.rollback.why == "3 old vectors are due"


def test_rows_written_before_the_cutover_are_found_by_the_bridge_that_serves(made: Bridged) -> None:
    made.ready().follow()
    made.edit(1)
    made.conn.execute("INSERT INTO documents (id, content) VALUES (1000, 'edited document 1000')")
    made.settles_at(bridged=2)
    assert made.finds("edited document 1", "edited document 1000") and made.wrong() == []


def test_without_a_bridge_stale_and_missing_rows_are_told_apart(made: Bridged) -> None:
    made.conn.execute("UPDATE documents SET embedding = NULL WHERE id = 9")
    made.conn.execute("UPDATE documents SET embedding = NULL, content = ' ' WHERE id = 10")
    made.engine.run(threading.Event())
    made.engine.cutover(override=GATE)
    made.follow()
    made.settles_at(missing=1)
    made.edit(1, 2)
    made.conn.execute("INSERT INTO documents (id, content) VALUES (1000, 'edited document 1000')")
    made.settles_at(stale=2, missing=2)
    assert made.engine.snapshot().rollback.found == "2 rows stale, 2 rows without an old vector"
    made.conn.execute("UPDATE documents SET embedding = %s WHERE id = 9", [vector_literal(OLD_MODEL(["x"], None)[0])])
    made.settles_at(stale=2, missing=1)


def test_a_bridge_fitted_after_the_cutover_brings_them_all_up_and_off_makes_later_ones_stale(made: Bridged) -> None:
    made.conn.execute("UPDATE documents SET embedding = NULL WHERE id IN (9, 10)")
    made.engine.run(threading.Event())
    made.engine.cutover(override=GATE)
    made.follow()
    made.edit(1, 2)
    made.settles_at(stale=2, missing=2)
    report = made.engine.bridge()
    # a row that moves to another page while pages are drawn may be left out
    assert report.embedded == 0 and ROWS - 30 <= report.status.rows <= ROWS - 4, "no stale vector makes a pair"
    assert made.engine.snapshot().route.active is Side.NEW and not made.engine.snapshot().route.bridged
    made.settles_at(bridged=4)
    assert made.wrong() == []
    made.engine.bridge_off()
    made.edit(3)
    made.edit(1, word="again")
    made.settles_at(stale=2, bridged=3)
    assert made.wrong() == [], "what the bridge made and nobody edited stays what it is"
    made.engine.rollback()
    assert not made.engine.snapshot().route.bridged, "it is off"


def test_a_map_that_is_replaced_makes_every_row_anew(made: Bridged) -> None:
    made.ready().engine.cutover(override=GATE)
    made.follow()
    made.edit(*range(1, 31))
    made.settles_at(bridged=30)
    version = made.engine.bridge().version
    wait_for(lambda: set(made.marks().values()) == {version})
    assert made.wrong() == [] and len(made.marks()) == 30
    assert made.engine.bridge().status.rows == ROWS - 30, "no map is fitted on what a map made"


def test_what_the_application_writes_is_never_replaced(made: Bridged) -> None:
    made.ready().engine.cutover(override=GATE)
    made.follow()
    made.edit(1, 2, 3)
    made.settles_at(bridged=3)
    own = vector_literal(np.linspace(0.1, 1, OLD_SIZE, dtype=np.float32))
    made.conn.execute("UPDATE documents SET embedding = %s WHERE id = 1", [own])
    made.settles_at(bridged=2)
    # nobody tells of this one
    made.conn.execute("ALTER TABLE documents DISABLE TRIGGER USER")
    made.conn.execute("UPDATE documents SET embedding = %s WHERE id = 2", [own])
    for (name,) in made.conn.execute("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'embedtui%'").fetchall():
        made.conn.execute(f"ALTER TABLE documents ENABLE ALWAYS TRIGGER {name}")
    made.conn.execute("INSERT INTO documents (id, content, embedding) VALUES (1000, 'x', %s), (1001, 'y', NULL)", [own])
    made.engine.bridge()  # all that are marked are looked at again
    wait_for(lambda: set(made.marks()) == {3, 1001})
    kept = made.value("SELECT count(*) FROM documents WHERE embedding = %s::vector", own)
    assert kept == 3 and made.wrong() == []


def test_a_row_under_another_key_keeps_its_note(made: Bridged) -> None:
    made.ready().engine.cutover(override=GATE)
    made.follow()
    made.edit(1)
    made.settles_at(bridged=1)
    made.conn.execute("UPDATE documents SET id = 2001 WHERE id = 1")
    wait_for(lambda: set(made.marks()) == {2001})
    assert made.wrong() == []


@flags(**{"old_model.retired": False})
def test_an_old_model_that_answers_again_is_preferred(made: Bridged) -> None:
    made.ready().engine.cutover(override=GATE)
    made.follow()
    made.edit(1)
    wait_for(lambda: made.engine.snapshot().rollback.fresh is True)
    assert made.marks() == {}, "while it answers, nothing is made by the bridge"
    made.api.faults.add(FaultKind.RETIRED, model=OLD)
    made.edit(1, 2, word="again")
    made.settles_at(bridged=2)
    writes = made.value("SELECT xmin::text FROM documents WHERE id = 2")
    time.sleep(1.5)  # asked again and again meanwhile
    assert made.value("SELECT xmin::text FROM documents WHERE id = 2") == writes, "nothing is written over and over"
    made.api.faults.clear()
    wait_for(lambda: made.engine.snapshot().rollback.fresh is True)
    old = made.value("SELECT embedding::real[] FROM documents WHERE id = 2")
    assert np.allclose(old, OLD_MODEL(["again document 2"], None)[0], atol=1e-5) and made.marks() == {}


@flags(**{"old_model.retired": False})
def test_what_the_database_refuses_of_the_bridge_stops_nothing_and_says_nothing_of_the_model(made: Bridged) -> None:
    made.ready().engine.cutover(override=GATE)
    made.api.faults.add(FaultKind.RETIRED, model=OLD)
    made.follow()
    made.edit(1)
    made.settles_at(bridged=1)
    made.conn.execute(DEFERRED)
    made.edit(2)
    wait_for(lambda: made.engine.snapshot().old_refused)
    made.settles_at(stale=1, bridged=1)
    made.pause()
    made.conn.execute("DROP TRIGGER busy ON documents")
    made.follow()  # that an earlier process met a refusal is known by the log alone
    made.settles_at(bridged=2)
    assert not made.engine.snapshot().old_refused and made.wrong() == []
    assert "old model answers" not in [entry.act for entry in made.engine.audit(100)]


@flags(scope="id % 2 = 0")
def test_rows_outside_the_scope_are_left_alone(made: Bridged) -> None:
    made.conn.execute("UPDATE documents SET embedding = NULL WHERE id IN (9, 10)")
    made.ready().engine.cutover(override=GATE)
    made.follow()
    made.edit(1, 2)
    made.settles_at(bridged=2)
    assert set(made.marks()) == {2, 10}
    assert made.value("SELECT embedding FROM documents WHERE id = 9") is None


@flags(trust_application=True, placement="column")
def test_a_new_vector_without_a_stamp_serves_while_it_is_of_the_present_content(made: Bridged) -> None:
    made.ready().engine.cutover(override=GATE)
    made.follow()
    content = "edited document 1"
    made.conn.execute(
        "UPDATE documents SET content = %s, embedding_v2 = %s WHERE id = 1",
        [content, vector_literal(NEW_MODEL([content], None)[0])],
    )
    made.settles_at(bridged=1)
    assert made.wrong() == []
    # edited without a new vector, which the provider refuses: nothing is made of the one that is there
    made.api.faults.add(FaultKind.REJECTED, containing="again document 1", model=NEW)
    made.edit(1, word="again")
    made.settles_at(stale=1)


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from embedtui.config import load_settings
from embedtui.engine import Engine
from embedtui.engine.backfill import old_side, sync

def killed(*arguments, **more):
    os.kill(os.getpid(), signal.SIGKILL)

where = sys.argv[1]
if where == "before":
    sync.Sync._do_without = killed
elif where == "writing":
    old_side.add_bridged = killed
elif where == "settling":
    real = sync.Sync._do_without
    def some(self, *arguments):
        real(self, *arguments)
        killed()
    sync.Sync._do_without = some
settings = load_settings({"table": "documents", "old_model.name": sys.argv[3], "old_model.retired": True},
                         environ=dict(os.environ), cwd=Path(sys.argv[2]))
Engine(settings.dsn, settings=settings).run(threading.Event())
"""


@pytest.mark.parametrize("where", ["before", "writing", "settling"])
@pytest.mark.variants(1)
def test_a_kill_in_between_leaves_nothing_unsaid(made: Bridged, where: str) -> None:
    made.ready().engine.cutover(override=GATE)
    made.edit(*range(1, 21))

    def run(killed_at: str) -> int:
        return subprocess.run(
            [sys.executable, "-c", KILLED, killed_at, str(made.folder), OLD],
            env={**made.settings.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            check=False,
            timeout=120,
        ).returncode

    assert run(where) == -signal.SIGKILL
    assert made.wrong() == []
    rollback = made.engine.snapshot().rollback
    assert rollback.stale + rollback.bridged >= 20, "each row that is not the old model's is counted"
    assert run("") == 0
    made.settles_at(bridged=20)
    assert made.wrong() == []
    paid = sum(text.startswith("edited") for text in made.api.texts)
    assert paid == 20, "the new vectors were stored, and are not paid for again"


def test_flips_while_it_works_lose_nothing(made: Bridged) -> None:
    made.ready().engine.cutover(override=GATE)
    made.follow()
    stop, failed = threading.Event(), []

    def flip() -> None:
        acts: list[Callable[[], object]] = [
            made.engine.rollback,
            lambda: made.engine.cutover(override=GATE),
            made.engine.bridge_off,
            lambda: made.engine.bridge(rows=300),
        ]
        while not stop.is_set():
            for act in acts:
                try:
                    act()
                except EmbedtuiError as error:
                    failed.append(error)

    thread = threading.Thread(target=flip)
    thread.start()
    for turn in range(12):
        made.edit(*range(1 + turn, 400, 7), word=f"turn {turn}")
        time.sleep(0.2)
    stop.set()
    thread.join(120)
    assert failed == []
    edited = {n for turn in range(12) for n in range(1 + turn, 400, 7)}
    made.settles_at(bridged=len(edited))
    assert made.wrong() == [] and set(made.marks()) == edited
