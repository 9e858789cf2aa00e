"""The demo's application: what it was told is stored is stored, and what fails is counted."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from embedtui.demo import writing
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer
from embedtui.demo.models import LatentSemantics
from embedtui.demo.questions import ANSWERS, QUESTIONS
from embedtui.demo.traffic import NOTES, Traffic
from embedtui.errors import EmbedtuiError
from embedtui.model import EmbeddingModel
from tests.kits.support import wait_for

OLD = EmbeddingModel("old", 8)
NEW = EmbeddingModel("new", 8)
RATES = {"reads_per_second": 60, "writes_per_second": 60}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder outside pytest's own, which every new session closes to the account that PostgreSQL runs as."""
    made = Path(tempfile.mkdtemp(prefix="embedtui-test-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({"old": hash_model(8, "old"), "new": hash_model(8, "new")}) as server:
        yield server


def make_table(dsn: str) -> None:
    rows = [(name, f"about {name}") for name in ("os.path.split", *(f"other.{i}" for i in range(30)))]
    vectors = hash_model(8, "old")([content for _, content in rows], None)
    with psycopg.connect(dsn) as conn, conn.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE documents (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL,"
            " content text NOT NULL, embedding vector(8))"
        )
        cursor.executemany(
            "INSERT INTO documents (name, content, embedding) VALUES (%s, %s, %s::vector)",
            [(*row, str(vector.tolist())) for row, vector in zip(rows, vectors, strict=True)],
        )


def application(dsn: str, api: LoopbackServer, **options: int) -> Traffic:
    models = (
        EmbeddingModel(model.name, model.dimensions, base_url=api.base_url, key_variable="DEMO_KEY")
        for model in (OLD, NEW)
    )
    return Traffic(dsn, *models, environ={"DEMO_KEY": api.key}, **{**RATES, **options})  # type: ignore[arg-type]


def check_ledger(dsn: str, traffic: Traffic) -> None:
    """Every acknowledged write is in the table, with the right vector."""
    ledger = traffic.ledger()
    assert ledger
    with psycopg.connect(dsn) as conn:
        stored = {
            key: (content, np.array(vector, np.float32))
            for key, content, vector in conn.execute("SELECT id, content, embedding::real[] FROM documents")
        }
    for key, content in ledger.items():
        if content is None:
            assert key not in stored
        else:
            assert stored[key][0] == content
            np.testing.assert_allclose(stored[key][1], hash_model(8, "old")([content], None)[0], atol=1e-5)


def test_acknowledged_writes_are_there_with_the_old_models_vectors(database: str, api: LoopbackServer) -> None:
    make_table(database)
    with application(database, api, writers=2) as traffic:
        wait_for(lambda: traffic.counts.writes >= 60 and None in traffic.ledger().values())
    counts = traffic.counts
    assert counts.failed == 0, counts.errors
    assert counts.reads > 0 and counts.reads == counts.reads_old and counts.reads_new == 0
    check_ledger(database, traffic)
    with psycopg.connect(database) as conn:
        answers = conn.execute("SELECT content FROM documents WHERE name = ANY (%s)", [list(ANSWERS)]).fetchall()
        sessions = conn.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name LIKE '%demo%' AND datname = current_database()"
        ).fetchone()
    assert answers == [("about os.path.split",)]
    assert sessions == (0,)
    assert traffic.counts == counts, "something went on after stop()"


def test_it_deletes_as_many_notes_as_it_inserts_whoever_inserted_them(database: str, api: LoopbackServer) -> None:
    make_table(database)
    dice = random.Random(0)
    with psycopg.connect(database) as conn:
        for number in range(2 * NOTES + 5):
            conn.execute("INSERT INTO documents (name, content) VALUES (%s, %s)", writing.note(number, dice))
    with application(database, api) as traffic:
        wait_for(lambda: list(traffic.ledger().values()).count(None) >= 6)
    with psycopg.connect(database) as conn:
        notes = conn.execute("SELECT count(*) FROM documents WHERE name LIKE 'note.%'").fetchone()
    assert notes is not None and notes[0] < 2 * NOTES + 5


def test_what_it_writes_answers_no_question() -> None:
    """No word of a question is in it, except where a document had it before."""
    asked = {word for question in QUESTIONS for word in re.findall(r"\w+", question.text.casefold())}
    dice = random.Random(1)
    texts = [writing.note(number, dice)[1] for number in range(200)]
    edits = [writing.edited("before", dice) for _ in range(200)]
    written = {word for text in (*texts, *edits) for word in re.findall(r"\w+", text.casefold())}
    assert not written & asked
    assert len(set(texts)) > 190, "notes are near copies of one another"
    assert writing.edited(edits[0], dice).count(writing.FOOTER) == 1


def test_an_edit_has_another_vector() -> None:
    """Else the old vector that is stored with it would look like one that was left as it was."""
    model = LatentSemantics(lambda: [f"{word} {word[::-1]}" for word in (*writing.HABITS, "split", "path")] * 2)
    dice = random.Random(2)
    texts = ["split path"]
    for _ in range(20):
        texts.append(writing.edited(texts[-1], dice))
    vectors = model(texts)
    assert all((first != second).any() for first, second in itertools.pairwise(vectors))


def test_failures_are_counted_and_told_without_the_key(database: str, api: LoopbackServer) -> None:
    make_table(database)
    with application(database, api) as traffic:
        wait_for(lambda: traffic.counts.reads > 0)
        api.faults.add("unauthorized")
        wait_for(lambda: traffic.counts.failed > 3)
        api.faults.clear()
        reads, writes = traffic.counts.reads, traffic.counts.writes
        wait_for(lambda: traffic.counts.reads > reads and traffic.counts.writes > writes)
    assert 1 <= len(traffic.counts.errors) <= 5
    assert api.key not in repr(traffic.counts)
    check_ledger(database, traffic)


def test_a_crashed_database_costs_failures_and_no_acknowledged_write(place: Path, api: LoopbackServer) -> None:
    with EmbeddedServer(place / "db") as server:
        with psycopg.connect(server.dsn()) as conn:
            conn.execute("CREATE EXTENSION vector")
        make_table(server.dsn())
        with application(server.dsn(), api) as traffic:
            wait_for(lambda: traffic.counts.writes >= 10)
            server.crash()
            wait_for(lambda: traffic.counts.failed > 0)
            server.start()
            writes = traffic.counts.writes
            wait_for(lambda: traffic.counts.writes >= writes + 10)
        check_ledger(server.dsn(), traffic)


def test_missing_table_is_one_clear_error(database: str, api: LoopbackServer) -> None:
    with pytest.raises(EmbedtuiError, match="documents"):
        application(database, api).start()
