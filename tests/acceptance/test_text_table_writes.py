"""Any statements on the table and on the one with its texts, in any order with sync: nothing stale or replaced."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import strategies as some

from embedtui.demo.api import LoopbackServer
from embedtui.model import Side
from tests.acceptance.test_application_writes import LONG, MODELS, Row, Table, interleave, migrated_table
from tests.acceptance.test_text_tables import ELSEWHERE, TEXT, make_chunks

ACTIONS = {
    "cascade": "ON DELETE CASCADE ON UPDATE CASCADE",
    "set null": "ON DELETE SET NULL ON UPDATE SET NULL",
    "deferred": "DEFERRABLE INITIALLY DEFERRED",
}
CASES = [
    ({"placement": "column"}, "cascade"),
    ({"placement": "column"}, "deferred"),
    ({"placement": "table"}, "set null"),
    ({"placement": "table", "foreign_key": False}, "cascade"),
]
DOCUMENTS, CHUNKS = range(1, 4), range(1, 6)
OF_TEXTS = ["edit", "edit", "blank", "edit and write", "write and edit", "rekey", "swap", "again", "give up", "drop"]
OF_ROWS = ["write old", "write new", "insert", "insert bare", "delete", "move", "refer", "refer and write", "let go"]
STEPS = some.one_of(
    some.tuples(some.sampled_from(OF_TEXTS), some.sampled_from(DOCUMENTS)),
    some.tuples(some.sampled_from(OF_ROWS), some.sampled_from(CHUNKS)),
    some.tuples(some.sampled_from(["sync", "sync", "cut over", "roll back"]), some.just(0)),
)


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS) as server:
        yield server


class Application:
    """Writes to both tables as it likes, and knows which vectors of its own are of their rows' present texts."""

    def __init__(self, table: Table, actions: str) -> None:
        self.table, self.actions, self.maintained = table, actions, False
        self.texts = itertools.count(1)
        self.rows: dict[int, Row] = {}
        self.refers: dict[int, int | None] = {}
        self.documents: dict[int, str] = {}
        table.execute("DELETE FROM chunks")
        table.execute("DELETE FROM documents")
        table.drain()
        table.execute("UPDATE embedtui.route SET active = 'old', changed_by = ''")
        for key in DOCUMENTS:
            self.add(key)
        for key in CHUNKS[:3]:
            self.do("insert", key)

    def add(self, key: int) -> None:
        self.documents[key] = f"text {next(self.texts)}"
        self.table.execute("INSERT INTO documents VALUES (%s, %s)", key, self.documents[key])

    def of(self, document: int) -> list[int]:
        return [key for key, referred in self.refers.items() if referred == document]

    def edited(self, *keys: int) -> None:
        """Their texts are others now."""
        for key in keys:
            self.rows[key] = Row({}, self.maintained)

    def do(self, act: str, key: int) -> None:
        if act in ("cut over", "roll back"):
            active = "new" if act == "cut over" else "old"
            self.table.execute("UPDATE embedtui.route SET active = %s, changed_by = 'x'", active)
            self.maintained = True
        elif act in OF_TEXTS:
            if key in self.documents:
                self.to_text(act, key)
            elif act == "again":
                self.add(key)
        else:
            self.to_row(act, key)

    def to_text(self, act: str, key: int) -> None:
        execute, text, rows = self.table.execute, f"text {next(self.texts)}", self.of(key)
        free = next(n for n in itertools.count(1) if n not in self.documents)
        if act in ("edit", "blank"):
            self.documents[key] = text if act == "edit" else " "
            execute("UPDATE documents SET body = %s WHERE id = %s", self.documents[key], key)
            self.edited(*rows)
        elif act in ("edit and write", "write and edit"):
            first = [("UPDATE documents SET body = %s WHERE id = %s", text, key)]
            own = {row: self.table.own(Side.OLD) for row in rows[:1]}
            then = [("UPDATE chunks SET embedding = %s WHERE id = %s", own[row], row) for row in rows[:1]]
            with self.table.app.transaction():
                for statement, *values in first + then if act == "edit and write" else then + first:
                    execute(statement, *values)
            self.documents[key] = text
            self.edited(*rows)
            if act == "edit and write":
                self.rows |= {row: Row({Side.OLD: own[row]}, self.maintained) for row in rows[:1]}
        elif act == "rekey":
            with self.table.app.transaction():
                execute("UPDATE documents SET id = %s WHERE id = %s", free, key)
                if self.actions == "deferred":
                    execute("UPDATE chunks SET document_id = %s WHERE document_id = %s", free, key)
            self.documents[free] = self.documents.pop(key)
            self.refers |= dict.fromkeys(rows, None if self.actions == "set null" else free)
            before = {row: self.rows[row] for row in rows}
            self.edited(*rows)
            if self.actions != "set null":  # their texts are the same
                for row in rows:
                    self.rows[row].kept = {**before[row].kept, **before[row].own}
        elif act == "swap" and self.actions == "deferred":  # with another text's key, and no row of the table touched
            other = next((n for n in self.documents if n != key), None)
            if other is None:
                return
            with self.table.app.transaction():
                for source, target in ((key, 1000), (other, key), (1000, other)):
                    execute("UPDATE documents SET id = %s WHERE id = %s", target, source)
            self.documents[key], self.documents[other] = self.documents[other], self.documents[key]
            self.edited(*rows, *self.of(other))
        elif act == "again" and self.actions == "deferred":  # deleted and made again before anybody looks
            with self.table.app.transaction():
                execute("DELETE FROM documents WHERE id = %s", key)
                self.add(key)
            self.edited(*rows)
        elif act == "give up" and self.actions == "deferred":  # its key, to another text
            with self.table.app.transaction():
                execute("UPDATE documents SET id = %s WHERE id = %s", free, key)
                self.documents[free] = self.documents.pop(key)
                self.add(key)
            self.edited(*rows)
        elif act == "drop" and (self.actions != "deferred" or not rows):
            execute("DELETE FROM documents WHERE id = %s", key)
            del self.documents[key]
            for row in rows:
                self.refers[row] = None
                self.edited(row)
                if self.actions == "cascade":
                    del self.rows[row], self.refers[row]

    def to_row(self, act: str, key: int) -> None:
        execute, row = self.table.execute, self.rows.get(key)
        text = next((n for n in self.documents if n != self.refers.get(key)), None)
        if act.startswith("insert"):
            if row is None:
                old = self.table.own(Side.OLD) if act == "insert" else None
                execute("INSERT INTO chunks (id, document_id, embedding) VALUES (%s, %s, %s)", key, text, old)
                self.rows[key], self.refers[key] = Row({Side.OLD: old} if old else {}, self.maintained), text
        elif row is None:
            return
        elif act == "write old":
            row.own[Side.OLD] = self.table.own(Side.OLD)
            execute("UPDATE chunks SET embedding = %s WHERE id = %s", row.own[Side.OLD], key)
        elif act == "write new" and self.table.in_column:
            row.own[Side.NEW] = self.table.own(Side.NEW)
            execute("UPDATE chunks SET embedding_v2 = %s WHERE id = %s", row.own[Side.NEW], key)
        elif act == "delete":
            execute("DELETE FROM chunks WHERE id = %s", key)
            del self.rows[key], self.refers[key]
        elif act == "move":
            free = next(number for number in itertools.chain(CHUNKS, itertools.count(99)) if number not in self.rows)
            execute("UPDATE chunks SET id = %s WHERE id = %s", free, key)
            self.rows[free], self.refers[free] = self.rows.pop(key), self.refers.pop(key)
        elif act in ("refer", "let go", "refer and write"):
            to = None if act == "let go" else text
            if to == self.refers[key]:
                return
            own = {Side.OLD: self.table.own(Side.OLD)} if act == "refer and write" else {}
            execute("UPDATE chunks SET document_id = %s WHERE id = %s", to, key) if not own else execute(
                "UPDATE chunks SET document_id = %s, embedding = %s WHERE id = %s", to, own[Side.OLD], key
            )
            self.rows[key], self.refers[key] = Row(own, self.maintained), to

    def check(self) -> None:
        for key, row in self.rows.items():
            for side, vector in row.own.items():
                assert self.table.is_(key, side, vector), f"the application's {side} vector of {key} was replaced"


@LONG
@pytest.mark.parametrize(("flags", "actions"), CASES, ids=lambda each: each if isinstance(each, str) else "")
@pytest.mark.variants(2)
def test_whatever_happens_to_rows_and_texts_and_whenever(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: dict[str, object],
    actions: str,
) -> None:
    make_chunks(database, ACTIONS[actions])
    with migrated_table(database, api, tmp_path, text=TEXT, **ELSEWHERE, **flags) as found:

        def settled(application: Application) -> None:
            for key, row in application.rows.items():
                text = application.documents.get(application.refers[key] or 0, "")
                if not text.strip():
                    continue
                for side in Side:
                    if side in row.own or (side is Side.OLD and not row.ours):
                        continue
                    may_stay = side in row.kept and found.is_(key, side, row.kept[side])
                    assert may_stay or found.is_models(key, side), f"{key} is stale on the {side} side"
            with psycopg.connect(database, autocommit=True) as conn:
                counts = found.job.placement.count(conn)
                assert conn.execute("SELECT count(*) FROM embedtui.queue").fetchone() == (0,)
                assert conn.execute("SELECT reason FROM embedtui.capture_fault").fetchall() == []
            # an edit before the cutover is the application's to embed: a rollback would find the row so
            assert found.noted() <= {
                key for key, row in application.rows.items() if Side.OLD not in row.own and not row.ours
            }
            assert (counts.rows, counts.stale, counts.missing) == (len(application.rows), 0, 0)

        interleave(found, monkeypatch, STEPS, lambda table: Application(table, actions), settled)
