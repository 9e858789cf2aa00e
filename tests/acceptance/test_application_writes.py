"""What the application writes is the application's: its vectors stand for as long as their content does."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.stages import make_row_embedder
from embedtui.engine.backfill.sync import Sync
from embedtui.engine.engine import Engine
from embedtui.model import PlacementKind, Side
from embedtui.router import put
from tests.kits.support import NEW, OLD, connect, make_documents, settings_for, vector_literal

MODELS = {OLD: hash_model(8), NEW: hash_model(16)}
SIZES = {Side.OLD: 8, Side.NEW: 16}
PLACEMENTS = [{"placement": "column"}, {"placement": "table"}, {"placement": "table", "foreign_key": False}]
NAMES = ["column", "table", "table without a foreign key"]
ROWS = 4
TIMES = int(os.environ.get("EMBEDTUI_EXAMPLES", "1"))
"""As many examples of interleaved acts as ever."""
LONG = pytest.mark.timeout(300 * TIMES)
"""For tests of them."""

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS) as server:
        yield server


@dataclass
class Table:
    """A migrated table, an application on it, and sync by hand."""

    engine: Engine
    job: Job
    sync: Sync
    app: psycopg.Connection
    name: str = "documents"
    text: str = "content"
    """The text of a row of it, in SQL."""
    vectors: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def in_column(self) -> bool:
        return self.job.migration.placement is PlacementKind.COLUMN

    def own(self, side: Side) -> str:
        """A vector that no model makes."""
        return vector_literal(hash_model(SIZES[side], "the application's")([str(next(self.vectors))], None)[0])

    def execute(self, statement: str, *values: object) -> None:
        self.app.execute(statement, values)

    def drain(self) -> None:
        """Work off all that is queued."""
        for _ in range(50):
            self.sync._tend_at = 0.0
            self.sync._recent.clear()
            self.sync.locked.forget()
            if not self.sync.step() and self.app.execute("SELECT FROM embedtui.queue LIMIT 1").fetchone() is None:
                return
        raise AssertionError("the queue does not drain")

    def cut_over(self) -> None:
        self.engine.cutover(override={"gate": "test"})

    def vector(self, key: int, side: Side) -> np.ndarray | None:
        if side is Side.OLD or self.in_column:
            column = "embedding" if side is Side.OLD else "embedding_v2"
            query = f"SELECT {column}::real[] FROM {self.name} WHERE id = %s"
        else:
            query = f"SELECT embedding::real[] FROM {self.name}_embedding_v2 WHERE id = %s"
        row = self.app.execute(query, [key]).fetchone()
        return None if row is None or row[0] is None else np.array(row[0], np.float32)

    def is_(self, key: int, side: Side, vector: str) -> bool:
        found = self.vector(key, side)
        return found is not None and bool(np.allclose(found, [float(x) for x in vector[1:-1].split(",")], atol=1e-6))

    def is_models(self, key: int, side: Side) -> bool:
        query = f"SELECT {self.text} FROM {self.name} WHERE id = %s"
        [content] = self.app.execute(query, [key]).fetchone() or [None]
        assert content is not None
        return self.is_(key, side, vector_literal(MODELS[OLD if side is Side.OLD else NEW]([content], None)[0]))

    def noted(self) -> set[int]:
        """Keys of rows whose old vector is noted as behind."""
        return {int(key) for (key,) in self.app.execute("SELECT key[1] FROM embedtui.stale").fetchall()}

    def stale(self) -> int:
        return self.engine.snapshot().rollback.stale


@contextmanager
def table(database: str, api: LoopbackServer, folder: Path, **flags: object) -> Iterator[Table]:
    make_documents(database, ROWS)
    with migrated_table(database, api, folder, **flags) as found:
        yield found


@contextmanager
def migrated_table(
    database: str, api: LoopbackServer, folder: Path, *, text: str = "content", **flags: object
) -> Iterator[Table]:
    """A table that is there, migrated by these settings; ``text``: its rows' text in SQL."""
    engine = Engine(database, settings=settings_for(database, api, folder, {"index.method": "none", **flags}))
    engine.run(threading.Event())
    migration = engine.migration()
    assert migration is not None
    job = Job(database, migration, None)
    environ = {"OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}
    new = make_row_embedder(migration.new_model, environ, None, job)
    old = None if migration.old_model.retired else make_row_embedder(migration.old_model, environ, None, job)
    sync = Sync(job, new, old, characters_per_token=lambda: 4.0)
    with closing(engine), psycopg.connect(database, autocommit=True) as app:
        try:
            yield Table(engine, job, sync, app, migration.table.name, text)
        finally:
            sync.close()
            new.close()
            if old is not None:
                old.close()


@pytest.fixture(params=PLACEMENTS, ids=NAMES)
def migrated(database: str, api: LoopbackServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Table]:
    with table(database, api, tmp_path, **request.param) as found:
        yield found


@pytest.fixture
def in_column(database: str, api: LoopbackServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Table]:
    with table(database, api, tmp_path, placement="column", **getattr(request, "param", {})) as found:
        yield found


EDIT = "UPDATE documents SET content = %s WHERE id = %s"
WRITE = "UPDATE documents SET embedding = %s WHERE id = %s"


class TestTheOldVector:
    def test_written_with_its_content_stands(self, migrated: Table) -> None:
        migrated.cut_over()
        own = migrated.own(Side.OLD)
        migrated.execute("UPDATE documents SET content = 'both', embedding = %s WHERE id = 1", own)
        assert migrated.stale() == 0, "nothing of it waits for us"
        migrated.drain()
        assert migrated.is_(1, Side.OLD, own) and migrated.is_models(1, Side.NEW)

    @pytest.mark.parametrize("between", [False, True], ids=["both queued", "one after the other"])
    def test_written_after_its_content_stands(self, migrated: Table, between: bool) -> None:
        migrated.cut_over()
        own = migrated.own(Side.OLD)
        migrated.execute(EDIT, "edited", 1)
        assert migrated.stale() == 1
        if between:
            migrated.drain()
            assert migrated.is_models(1, Side.OLD)
        migrated.execute(WRITE, own, 1)
        migrated.drain()
        assert migrated.is_(1, Side.OLD, own) and migrated.is_models(1, Side.NEW)

    def test_is_ours_again_once_the_content_changes_without_it(self, migrated: Table) -> None:
        migrated.cut_over()
        migrated.execute("UPDATE documents SET content = 'both', embedding = %s WHERE id = 1", migrated.own(Side.OLD))
        migrated.execute(EDIT, "edited later", 1)
        assert migrated.stale() == 1
        migrated.drain()
        assert migrated.is_models(1, Side.OLD) and migrated.is_models(1, Side.NEW)

    def test_taken_away_is_filled_in(self, migrated: Table) -> None:
        migrated.cut_over()
        migrated.execute("UPDATE documents SET content = 'later', embedding = NULL WHERE id = 1")
        migrated.execute("UPDATE documents SET embedding = NULL WHERE id = 2")
        migrated.drain()
        assert migrated.is_models(1, Side.OLD) and migrated.is_models(2, Side.OLD)

    def test_of_an_insert_stands_and_a_missing_one_is_made(self, migrated: Table) -> None:
        migrated.cut_over()
        own = migrated.own(Side.OLD)
        migrated.execute("INSERT INTO documents (id, content, embedding) VALUES (50, 'with', %s)", own)
        migrated.execute("INSERT INTO documents (id, content) VALUES (51, 'without')")
        migrated.drain()
        assert migrated.is_(50, Side.OLD, own) and migrated.is_models(51, Side.OLD)

    def test_of_a_row_made_again_stands(self, migrated: Table) -> None:
        migrated.cut_over()
        own = migrated.own(Side.OLD)
        migrated.execute(EDIT, "edited", 1)
        migrated.execute("DELETE FROM documents WHERE id = 1")
        migrated.execute("INSERT INTO documents (id, content, embedding) VALUES (1, 'again', %s)", own)
        migrated.drain()
        assert migrated.is_(1, Side.OLD, own) and migrated.is_models(1, Side.NEW)

    @pytest.mark.parametrize("edited", [False, True])
    def test_goes_with_its_row_to_another_key(self, migrated: Table, edited: bool) -> None:
        migrated.cut_over()
        own = migrated.own(Side.OLD)
        migrated.execute(WRITE, own, 1)
        migrated.drain()
        if edited:
            migrated.execute(EDIT, "edited", 1)
        migrated.execute("UPDATE documents SET id = 70 WHERE id = 1")
        migrated.execute("INSERT INTO documents (id, content, embedding) VALUES (1, 'another row', %s)", own)
        migrated.drain()
        assert migrated.is_models(70, Side.OLD) if edited else migrated.is_(70, Side.OLD, own)
        assert migrated.is_(1, Side.OLD, own)

    def test_written_between_read_and_replace_stands(self, migrated: Table, monkeypatch: pytest.MonkeyPatch) -> None:
        migrated.cut_over()
        own = migrated.own(Side.OLD)
        replace = migrated.job.placement.replace
        waiting = [own]

        def late(*args):  # type: ignore[no-untyped-def]
            if args[3] is Side.OLD and waiting:
                migrated.execute(WRITE, waiting.pop(), 1)
            return replace(*args)

        monkeypatch.setattr(migrated.job.placement, "replace", late)
        migrated.execute(EDIT, "edited", 1)
        migrated.drain()
        assert migrated.is_(1, Side.OLD, own) and not waiting

    def test_clears_what_was_stale(self, migrated: Table) -> None:
        migrated.cut_over()
        migrated.sync._old_side._retry_at = float("inf")
        migrated.execute(EDIT, "edited", 1)
        migrated.drain()
        assert migrated.stale() == 1
        migrated.execute(WRITE, migrated.own(Side.OLD), 1)
        migrated.drain()
        assert migrated.stale() == 0

    def test_of_earlier_content_is_stale_under_its_rows_new_key(self, migrated: Table) -> None:
        migrated.cut_over()
        migrated.sync._old_side._retry_at = float("inf")
        migrated.execute(EDIT, "edited", 1)
        migrated.drain()
        migrated.execute("UPDATE documents SET id = 70 WHERE id = 1")
        migrated.drain()
        assert migrated.app.execute("SELECT key FROM embedtui.stale").fetchall() == [(["70"],)]
        migrated.sync._old_side._retry_at = 0.0
        migrated.drain()
        assert migrated.is_models(70, Side.OLD) and migrated.stale() == 0

    def test_of_a_row_that_comes_to_the_key_of_one_that_was_behind_is_its_own(self, migrated: Table) -> None:
        migrated.execute("INSERT INTO documents (id, content) VALUES (70, 'without an old vector')")
        migrated.drain()
        assert migrated.noted() == {70}
        migrated.execute("DELETE FROM documents WHERE id = 70")
        migrated.execute("UPDATE documents SET id = 70 WHERE id = 1")
        migrated.drain()
        assert migrated.noted() == set()


class TestTheNewVector:
    @pytest.mark.parametrize("statement", [
        "UPDATE documents SET embedding_v2 = %s WHERE id = 1",
        "UPDATE documents SET content = 'both', embedding_v2 = %s WHERE id = 1",
    ])  # fmt: skip
    def test_without_our_stamp_is_adopted(self, in_column: Table, statement: str) -> None:
        own = in_column.own(Side.NEW)
        in_column.execute(statement, own)
        in_column.drain()
        in_column.engine.run(threading.Event())
        assert in_column.is_(1, Side.NEW, own)
        report = in_column.engine.verify(sample=ROWS)
        assert (report.unverified, report.embedded, report.stale, report.mismatched) == (1, ROWS - 1, 0, 1)

    def test_of_an_insert_is_adopted(self, in_column: Table) -> None:
        own = in_column.own(Side.NEW)
        in_column.execute("INSERT INTO documents (id, content, embedding_v2) VALUES (50, 'with', %s)", own)
        in_column.drain()
        assert in_column.is_(50, Side.NEW, own) and in_column.engine.verify().unverified == 1

    def test_of_earlier_content_is_replaced(self, in_column: Table) -> None:
        in_column.execute("UPDATE documents SET embedding_v2 = %s WHERE id = 1", in_column.own(Side.NEW))
        in_column.drain()
        in_column.execute(EDIT, "edited", 1)
        in_column.drain()
        assert in_column.is_models(1, Side.NEW) and in_column.engine.verify().unverified == 0

    def test_with_a_stamp_is_verified(self, migrated: Table) -> None:
        migrated.execute(EDIT, "by put", 1)
        put(migrated.app, "documents", 1, NEW, MODELS[NEW](["by put"], None)[0].tolist())
        migrated.drain()
        report = migrated.engine.verify()
        assert (report.embedded, report.unverified) == (ROWS, 0)

    def test_put_into_the_side_table_without_a_stamp_is_adopted(
        self, database: str, api: LoopbackServer, tmp_path: Path
    ) -> None:
        with table(database, api, tmp_path, placement="table") as found:
            own = found.own(Side.NEW)
            found.execute(
                "UPDATE documents_embedding_v2 SET embedding = %s, model = NULL, source = NULL WHERE id = 1", own
            )
            found.drain()
            found.engine.run(threading.Event())
            assert found.is_(1, Side.NEW, own) and found.engine.verify().unverified == 1

    def test_that_an_operator_doubts_meanwhile_is_not_adopted(self, in_column: Table) -> None:
        in_column.execute("UPDATE documents SET embedding_v2 = %s WHERE id = 1", in_column.own(Side.NEW))
        placement = in_column.job.placement
        with connect(in_column.app.info.dsn) as conn:
            [read] = placement.read_keys(conn, [("1",)])
            placement.forget_source(conn, [("1",)])
            assert placement.adopt(conn, [read.row]) == set()
            conn.commit()
        in_column.drain()
        assert in_column.is_models(1, Side.NEW)

    def test_is_replaced_where_the_operator_says_so(self, in_column: Table) -> None:
        in_column.execute("UPDATE documents SET embedding_v2 = %s WHERE id = 1", in_column.own(Side.NEW))
        in_column.engine.verify(sample=ROWS, repair=True)
        in_column.drain()
        assert in_column.is_models(1, Side.NEW)


@pytest.mark.parametrize("in_column", [{"trust_application": False}], indirect=True)
def test_an_application_that_is_not_to_be_believed_is_overwritten(in_column: Table) -> None:
    in_column.cut_over()
    in_column.execute(
        "UPDATE documents SET content = 'x', embedding = %s, embedding_v2 = %s WHERE id = 1",
        in_column.own(Side.OLD), in_column.own(Side.NEW),
    )  # fmt: skip
    in_column.execute(WRITE, in_column.own(Side.OLD), 2)
    in_column.execute("UPDATE documents SET embedding_v2 = %s WHERE id = 3", in_column.own(Side.NEW))
    in_column.drain()
    for key in (1, 2, 3):
        assert in_column.is_models(key, Side.OLD) and in_column.is_models(key, Side.NEW)


def test_a_row_whose_sql_gives_null_has_nothing_to_embed(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    with table(database, api, tmp_path, placement="column", content_sql="metadata ->> 'text'") as found:
        found.execute("INSERT INTO documents (id, metadata) VALUES (50, '{}'), (51, '{\"text\": \"one\"}')")
        found.drain()
        report = found.engine.verify()
        assert (report.rows, report.empty, report.embedded, report.missing) == (ROWS + 2, ROWS + 1, 1, 0)


KEYS = range(1, 6)
STEPS = some.one_of(
    some.tuples(some.sampled_from(["edit", "write old", "write new", "both", "insert", "insert bare", "clear", "put"]),
                some.sampled_from(KEYS)),
    some.tuples(some.just("delete"), some.sampled_from(KEYS)),
    some.tuples(some.just("move"), some.sampled_from(KEYS)),
    some.tuples(some.sampled_from(["sync", "sync", "cut over", "roll back"]), some.just(0)),
)  # fmt: skip


@dataclass
class Row:
    """What must become of a row: by side, the application's vector of its present content, or None."""

    own: dict[Side, str] = field(default_factory=dict)
    ours: bool = False
    """Its content changed without an old vector once the old side was ours to maintain."""
    kept: dict[Side, str] = field(default_factory=dict)
    """The application's vectors of before a change that left the content the same: they may stay."""


class Application:
    """Writes as it likes, and knows which of its vectors are of their rows' present content."""

    def __init__(self, table: Table) -> None:
        self.table, self.maintained = table, False
        self.texts = itertools.count(1)
        self.rows: dict[int, Row] = {}
        table.execute("DELETE FROM documents")
        table.drain()
        table.execute("UPDATE embedtui.route SET active = 'old', changed_by = ''")
        for key in KEYS[:3]:
            self.do("insert", key)

    def do(self, act: str, key: int) -> None:
        execute, text, row = self.table.execute, f"text {next(self.texts)}", self.rows.get(key)
        if act in ("cut over", "roll back"):
            execute("UPDATE embedtui.route SET active = %s, changed_by = 'x'", "new" if act == "cut over" else "old")
            self.maintained = True
        elif act.startswith("insert") and row is None:
            old = self.table.own(Side.OLD) if act == "insert" else None
            execute("INSERT INTO documents (id, content, embedding) VALUES (%s, %s, %s)", key, text, old)
            self.rows[key] = Row({Side.OLD: old} if old else {}, self.maintained)
        elif row is None:
            return
        elif act == "edit":
            execute(EDIT, text, key)
            self.rows[key] = Row({}, self.maintained)
        elif act == "write old":
            row.own[Side.OLD] = self.table.own(Side.OLD)
            execute(WRITE, row.own[Side.OLD], key)
        elif act == "clear":
            execute("UPDATE documents SET content = %s, embedding = NULL WHERE id = %s", text, key)
            self.rows[key] = Row({}, self.maintained)
        elif act == "put":
            execute(EDIT, text, key)
            put(self.table.app, "documents", key, NEW, MODELS[NEW]([text], None)[0].tolist())
            self.rows[key] = Row({}, self.maintained)
        elif act == "delete":
            execute("DELETE FROM documents WHERE id = %s", key)
            del self.rows[key]
        elif act == "move":
            free = next(number for number in (*KEYS, 99) if number not in self.rows)
            execute("UPDATE documents SET id = %s WHERE id = %s", free, key)
            self.rows[free] = self.rows.pop(key)
        elif act == "both":
            own = {Side.OLD: self.table.own(Side.OLD)}
            execute("UPDATE documents SET content = %s, embedding = %s WHERE id = %s", text, own[Side.OLD], key)
            self.rows[key] = Row(own, self.maintained)
        elif act == "write new" and self.table.in_column:
            row.own[Side.NEW] = self.table.own(Side.NEW)
            execute("UPDATE documents SET embedding_v2 = %s WHERE id = %s", row.own[Side.NEW], key)

    def check(self) -> None:
        for key, row in self.rows.items():
            for side, vector in row.own.items():
                assert self.table.is_(key, side, vector), f"the application's {side} vector of {key} was replaced"


@LONG
@pytest.mark.parametrize("flags", PLACEMENTS, ids=NAMES)
def test_whatever_the_application_writes_and_whenever(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, object]
) -> None:
    """None of its vectors is replaced while its content is what it was written for, and none is stale at the end."""
    with table(database, api, tmp_path, **flags) as found:

        def settled(application: Application) -> None:
            for key, row in application.rows.items():
                if Side.NEW not in row.own:
                    assert found.is_models(key, Side.NEW)
                if Side.OLD not in row.own and row.ours:
                    assert found.is_models(key, Side.OLD)
            with psycopg.connect(database, autocommit=True) as conn:
                counts = found.job.placement.count(conn)
                assert conn.execute("SELECT count(*) FROM embedtui.queue").fetchone() == (0,)
            # an edit before the cutover is the application's to embed: a rollback would find the row so
            assert found.noted() <= {
                key for key, row in application.rows.items() if Side.OLD not in row.own and not row.ours
            }
            adopted = sum(Side.NEW in row.own for row in application.rows.values())
            assert (counts.rows, counts.unverified, counts.embedded, counts.stale, counts.missing) == (
                len(application.rows), adopted, len(application.rows) - adopted, 0, 0
            )  # fmt: skip

        interleave(found, monkeypatch, STEPS, Application, settled)


class Acting(Protocol):
    """An application that knows what must become of its rows."""

    def do(self, act: str, key: int) -> None:
        """Do something."""

    def check(self) -> None:
        """What holds at any time."""


A = TypeVar("A", bound=Acting)


def interleave(
    found: Table,
    monkeypatch: pytest.MonkeyPatch,
    steps: some.SearchStrategy[tuple[str, int]],
    begin: Callable[[Table], A],
    settled: Callable[[A], None],
    examples: int = 40,
) -> None:
    """Random acts of an application, before a sync or between what that reads and what it writes.

    Args:
        found: the table.
        monkeypatch: to be in between.
        steps: acts, ``sync`` among them.
        begin: an application with its first rows.
        settled: what holds once all is worked off.
        examples: how often.
    """
    late: list[tuple[str, int]] = []
    application: A | None = None
    replace = found.job.placement.replace

    def meanwhile(*args):  # type: ignore[no-untyped-def]
        while late and application is not None:
            application.do(*late.pop(0))
        return replace(*args)

    monkeypatch.setattr(found.job.placement, "replace", meanwhile)

    @settings(max_examples=examples * TIMES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(some.lists(some.tuples(steps, some.booleans()), min_size=4, max_size=25))
    def run(drawn: list[tuple[tuple[str, int], bool]]) -> None:
        nonlocal application
        application = begin(found)
        for (act, key), between in drawn:
            if act == "sync":
                found.sync._recent.clear()
                found.sync.step()
                application.check()
            elif between:  # between what the next sync reads and what it writes
                late.append((act, key))
            else:
                application.do(act, key)
        while late:
            application.do(*late.pop(0))
        found.drain()
        application.check()
        settled(application)

    run()
