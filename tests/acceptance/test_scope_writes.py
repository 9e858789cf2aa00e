"""Rows that enter and leave a scope while the application writes as it likes, inside and outside."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import strategies as some

from embedtui.demo.api import LoopbackServer
from embedtui.model import Side
from tests.acceptance.test_application_writes import LONG, MODELS, NAMES, PLACEMENTS, Table, interleave, table

SCOPE = "metadata->>'tenant' = '100% mine'"
TENANT = {True: '{"tenant": "100% mine"}', False: '{"tenant": "theirs"}'}


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS, log_texts=1_000_000) as server:
        yield server


@pytest.fixture(params=PLACEMENTS, ids=NAMES)
def scoped(database: str, api: LoopbackServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Table]:
    with table(database, api, tmp_path, scope=SCOPE, **request.param) as found:
        yield found


INSERT = "INSERT INTO documents (id, content, metadata, embedding) VALUES (%s, %s, %s, %s)"
TO = "UPDATE documents SET metadata = %s WHERE id = %s"


class TestARow:
    def test_that_enters_is_taken_up(self, scoped: Table) -> None:
        assert scoped.vector(1, Side.NEW) is None
        scoped.execute(TO, TENANT[True], 1)
        scoped.drain()
        assert scoped.is_models(1, Side.NEW)
        assert scoped.vector(2, Side.NEW) is None

    def test_that_leaves_keeps_its_vectors_and_is_no_longer_synced(self, scoped: Table) -> None:
        scoped.execute(TO, TENANT[True], 1)
        scoped.drain()
        before = scoped.vector(1, Side.NEW)
        scoped.execute(TO, TENANT[False], 1)
        scoped.execute("UPDATE documents SET content = 'edited outside' WHERE id = 1")
        assert scoped.app.execute("SELECT count(*) FROM embedtui.queue").fetchone() == (0,)
        scoped.drain()
        after = scoped.vector(1, Side.NEW)
        assert before is not None and after is not None and (before == after).all()
        scoped.execute("UPDATE documents SET metadata = %s, id = 77 WHERE id = 1", TENANT[True])
        scoped.drain()
        assert scoped.is_models(77, Side.NEW), "back under another key, by its present content"

    def test_that_leaves_before_it_is_embedded_is_left_alone(self, scoped: Table) -> None:
        scoped.execute(TO, TENANT[True], 1)
        scoped.execute(TO, TENANT[False], 1)
        scoped.drain()
        assert scoped.vector(1, Side.NEW) is None
        assert scoped.app.execute("SELECT count(*) FROM embedtui.fault").fetchone() == (0,)

    @pytest.mark.parametrize("side", Side)
    def test_that_leaves_while_it_is_embedded_is_not_written(
        self, scoped: Table, monkeypatch: pytest.MonkeyPatch, side: Side
    ) -> None:
        if side is Side.OLD:
            scoped.execute(TO, TENANT[True], 1)
            scoped.drain()
            scoped.cut_over()
        version = leave_before(scoped, monkeypatch, "replace", lambda *args: side in args[3:])
        before = scoped.vector(1, side)
        scoped.execute("UPDATE documents SET content = 'edited', metadata = %s WHERE id = 1", TENANT[True])
        scoped.drain()
        assert version == [outside(scoped)["1"]], "not a byte of it is ours any more"
        after = scoped.vector(1, side)
        assert after is None if before is None else (after == before).all()

    @pytest.mark.parametrize("scoped", PLACEMENTS[:1], ids=NAMES[:1], indirect=True)
    def test_that_leaves_while_its_own_vector_is_adopted_keeps_its_stamps(
        self, scoped: Table, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scoped.execute(TO, TENANT[True], 1)
        scoped.drain()
        version = leave_before(scoped, monkeypatch, "adopt", lambda *_: True)
        scoped.execute("UPDATE documents SET embedding_v2 = %s WHERE id = 1", scoped.own(Side.NEW))
        scoped.drain()
        assert version == [outside(scoped)["1"]]

    def test_that_comes_back_with_a_vector_written_outside_keeps_it(self, scoped: Table) -> None:
        scoped.execute(TO, TENANT[True], 1)
        scoped.drain()
        scoped.cut_over()
        own = scoped.own(Side.OLD)
        scoped.execute("UPDATE documents SET content = 'edited inside' WHERE id = 1")
        scoped.execute(TO, TENANT[False], 1)
        scoped.execute("UPDATE documents SET content = 'outside', embedding = %s WHERE id = 1", own)
        scoped.execute(TO, TENANT[True], 1)
        scoped.drain()
        assert scoped.is_(1, Side.OLD, own) and scoped.is_models(1, Side.NEW)

    def test_that_was_stale_and_left_waits_for_nothing(self, scoped: Table) -> None:
        scoped.execute(TO, TENANT[True], 1)
        scoped.drain()
        scoped.cut_over()
        scoped.sync._old_side._retry_at = float("inf")
        scoped.execute("UPDATE documents SET content = 'edited' WHERE id = 1")
        scoped.drain()
        assert scoped.stale() == 1
        scoped.execute(TO, TENANT[False], 1)
        scoped.drain()
        assert scoped.stale() == 0


def leave_before(scoped: Table, monkeypatch: pytest.MonkeyPatch, name: str, when: Callable[..., bool]) -> list[str]:
    """Row 1 leaves between what sync read and the first such write of the placement; its version as it left."""
    write, version = getattr(scoped.job.placement, name), list[str]()

    def late(*args: Any) -> Any:
        if when(*args) and not version:
            scoped.execute(TO, TENANT[False], 1)
            version.append(outside(scoped)["1"])
        return write(*args)

    monkeypatch.setattr(scoped.job.placement, name, late)
    return version


KEYS = range(1, 6)
ACTS = ["edit", "write old", "both", "insert", "insert outside", "delete", "move", "enter", "leave", "enter edited",
        "enter with both", "leave with both", "enter elsewhere"]  # fmt: skip
STEPS = some.one_of(
    some.tuples(some.sampled_from(ACTS), some.sampled_from(KEYS)),
    some.tuples(some.sampled_from(["sync", "sync", "cut over", "roll back"]), some.just(0)),
)


@dataclass
class Row:
    """What must become of a row."""

    text: str
    inside: bool
    own: str | None = None
    """The application's old vector; None where that of its present content is ours to make, empty where it is not."""


_texts = itertools.count(1)


class Application:
    """Writes as it likes, and knows what it wrote last of each row."""

    def __init__(self, scoped: Table, seen: set[str], acts: list[str]) -> None:
        self.table, self.maintained, self.seen, self.acts = scoped, False, seen, acts
        self.texts, self.rows = _texts, dict[int, Row]()
        scoped.execute("DELETE FROM documents")
        scoped.drain()
        scoped.execute("UPDATE embedtui.route SET active = 'old', changed_by = ''")
        for key in KEYS[:3]:
            self.do("insert" if key % 2 else "insert outside", key)

    def do(self, act: str, key: int) -> None:
        self.acts.append(act)
        execute, row = self.table.execute, self.rows.get(key)
        if act in ("cut over", "roll back"):
            execute("UPDATE embedtui.route SET active = %s, changed_by = 'x'", "new" if act == "cut over" else "old")
            self.maintained = True
        elif act.startswith("insert") and row is None:
            inside, own = act == "insert", self.table.own(Side.OLD)
            new = Row(f"text {next(self.texts)}", inside, own)
            execute(INSERT, key, new.text, TENANT[inside], own)
            self.put(key, new)
        elif row is not None and act == "delete":
            execute("DELETE FROM documents WHERE id = %s", key)
            del self.rows[key]
        elif row is not None:
            self.update(act, key, row)

    def update(self, act: str, key: int, row: Row) -> None:
        inside = True if act.startswith("enter") else False if act.startswith("leave") else row.inside
        to = next(n for n in (*KEYS, 99) if n not in self.rows) if act in ("move", "enter elsewhere") else key
        text, own = row.text, row.own
        edited = act in ("edit", "both", "enter edited", "enter with both", "leave with both")
        if edited:
            text = f"text {next(self.texts)}"
        writes = act == "write old" or act.endswith("both")
        if writes:
            own = self.table.own(Side.OLD)
        elif edited and inside:
            own = None if self.maintained else ""
        self.table.execute(
            "UPDATE documents SET id = %s, content = %s, metadata = %s"
            + (", embedding = %s" if writes else "")
            + " WHERE id = %s",
            *(to, text, TENANT[inside], *([own] if writes else []), key),
        )
        if not inside and row.inside and row.own is None:
            own = ""  # whatever it is when it leaves, it stays
        self.rows.pop(key)
        self.put(to, Row(text, inside, own))

    def put(self, key: int, row: Row) -> None:
        self.rows[key] = row
        if row.inside:
            self.seen.add(row.text)

    def check(self, settled: bool = False) -> None:
        for key, row in self.rows.items():
            if row.own:
                assert self.table.is_(key, Side.OLD, row.own), f"the application's vector of {key} was replaced"
            if settled and row.inside:
                assert self.table.is_models(key, Side.NEW), f"{key} is stale"
                if row.own is None:
                    assert self.table.is_models(key, Side.OLD), f"{key} is stale on the old side"


def outside(scoped: Table) -> dict[str, str]:
    """Versions of the rows outside: each changes with any write to its row, whoever makes it."""
    query = f"SELECT id::text, xmin::text || ctid::text FROM documents WHERE NOT coalesce({SCOPE}, false)"
    return dict(scoped.app.execute(query.encode()).fetchall())


@LONG
@pytest.mark.parametrize("flags", PLACEMENTS, ids=NAMES)
def test_whatever_enters_or_leaves_and_whenever(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, object]
) -> None:
    """No row outside changes by us, no vector inside is stale at the end, and none of the application's is replaced."""
    with table(database, api, tmp_path, scope=SCOPE, **flags) as found:
        inside: set[str] = set()
        asked = len(api.texts)
        acts: list[str] = []

        def untouched(work: Callable[..., Any]) -> Callable[..., Any]:
            """``work``, after which no row outside is another, but by the application."""

            def watched(*arguments: object) -> object:
                before, done = outside(found), len(acts)
                result = work(*arguments)
                assert len(acts) > done or outside(found) == before
                return result

            return watched

        def settled(application: Application) -> None:
            application.check(settled=True)
            with psycopg.connect(database, autocommit=True) as conn:
                counts = found.job.placement.count(conn)
            there = sum(row.inside for row in application.rows.values())
            assert (counts.rows, counts.missing, counts.stale) == (there, 0, 0)

        monkeypatch.setattr(found.job.placement, "replace", untouched(found.job.placement.replace))
        monkeypatch.setattr(found.sync, "step", untouched(found.sync.step))
        interleave(found, monkeypatch, STEPS, lambda scoped: Application(scoped, inside, acts), settled)
        assert set(list(api.texts)[asked:]) <= inside, "embedded and paid for, and never inside"


def test_a_scope_by_cases_is_captured(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    with table(database, api, tmp_path, scope=f"CASE WHEN id < 50 THEN {SCOPE} END", placement="column") as found:
        for key in (20, 60):
            found.execute(INSERT, key, f"text {key}", TENANT[True], None)
        found.drain()
        assert found.is_models(20, Side.NEW)
        assert found.vector(60, Side.NEW) is None
