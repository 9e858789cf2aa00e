"""The journey of a table whose texts are in another one: live traffic, kills, DDL over there, several migrations."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.errors import Interrupted, TableChanged
from embedtui.model import Phase
from embedtui.router import Router
from tests.acceptance.test_kill import started, wait_for
from tests.acceptance.test_text_tables import ELSEWHERE, make_chunks
from tests.kits.cli_kit import Shell
from tests.kits.support import NEW, OLD, settings_for
from tests.kits.support import wait_for as until

NEW_MODEL = hash_model(16)
ROWS = 600
PLACEMENTS: dict[str, dict[str, object]] = {
    "column": {"placement": "column"},
    "foreign key": {"placement": "table"},
    "triggers": {"placement": "table", "foreign_key": False},
}


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({OLD: hash_model(8), NEW: NEW_MODEL}, latency=0.01, log_texts=100_000) as server:
        yield server


@pytest.fixture(params=PLACEMENTS.values(), ids=PLACEMENTS)
def flags(request: pytest.FixtureRequest) -> dict[str, object]:
    return {**ELSEWHERE, "index.method": "none", **request.param}


def make_many(database: str) -> None:
    """Documents 1 to 100, each with six chunks."""
    make_chunks(database)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("INSERT INTO documents SELECT n, 'document ' || n FROM generate_series(5, 100) n")
        conn.execute("DELETE FROM chunks")
        conn.execute(
            f"INSERT INTO chunks (id, document_id, embedding) SELECT n, (n - 1) % 100 + 1, '[1,2,3,4,5,6,7,8]'"
            f" FROM generate_series(1, {ROWS}) n"
        )


def stale(dsn: str, column: bool, table: str = "chunks") -> list[int]:
    """Rows whose new vector is not that of their text, computed here and not asked of embedtui."""
    vector = "c.embedding_v2" if column else "v.embedding"
    joined = "" if column else f" LEFT JOIN {table}_embedding_v2 v ON v.id = c.id"
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(
            f"SELECT c.id, d.body, {vector}::real[] FROM {table} c JOIN documents d ON d.id = c.document_id{joined}"
            " WHERE d.body ~ '\\S'"
        ).fetchall()
    want = NEW_MODEL([body for _, body, _ in rows], None) if rows else []
    return [
        key
        for (key, _, found), right in zip(rows, want, strict=True)
        if found is None or not np.allclose(found, right, atol=1e-5)
    ]


def traces(dsn: str) -> list[str]:
    """Triggers and functions of change capture that are there."""
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(
            "SELECT tgname::text FROM pg_trigger WHERE tgname LIKE 'embedtui%' UNION ALL"
            " SELECT proname::text FROM pg_proc WHERE proname LIKE 'capture\\_%' ORDER BY 1"
        ).fetchall()
    return [name for (name,) in rows]


class Traffic(threading.Thread):
    """An application at work on both tables, in either order within a transaction."""

    def __init__(self, dsn: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.dsn, self.dice, self.done = dsn, random.Random(seed), threading.Event()
        self.errors: list[str] = []
        self.transactions = 0

    def run(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            while not self.done.is_set():
                document = self.dice.randrange(1, 101)
                statements: list[tuple[str, list[Any]]] = [
                    ("UPDATE documents SET body = %s WHERE id = %s", [f"edited {self.dice.random()}", document]),
                    ("UPDATE chunks SET kind = 'touched' WHERE document_id = %s", [document]),
                    ("UPDATE chunks SET document_id = %s WHERE id = %s", [document, self.dice.randrange(1, ROWS)]),
                ]
                self.dice.shuffle(statements)
                try:
                    with conn.transaction():
                        # one document's rows at a time: what would deadlock without embedtui is not tried
                        conn.execute("SELECT pg_advisory_xact_lock(1)")
                        for statement, values in statements[: self.dice.randrange(1, 4)]:
                            conn.execute(statement.encode(), values)
                    self.transactions += 1
                except psycopg.Error as error:
                    self.errors.append(str(error))
                time.sleep(self.dice.random() * 0.01)


@pytest.mark.variants(1)
def test_under_traffic_from_backfill_to_cleanup(
    database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object]
) -> None:
    """No statement of the application fails, and each row has the vector of its text at each stop."""
    make_many(database)
    column = flags["placement"] == "column"
    engine = Engine(database, settings=settings_for(database, api, tmp_path, {**flags, "cutover.soak_days": 0}))
    application = [Traffic(database, seed) for seed in range(2)]
    for each in application:
        each.start()
    stop = threading.Event()
    with closing(engine):
        engine.run(threading.Event())

        def follow() -> None:
            with contextlib.suppress(Interrupted):
                engine.run(stop, follow=True)

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        comparison = engine.compare()
        assert any(row.text.startswith(("edited", "document")) for each in comparison.queries for row in each.new)
        engine.cutover(override={"gate": "test", "sync": "test"})
        for each in application:
            each.done.set()
            each.join(30)
        until(lambda: engine.verify().clean and not engine.verify().queued, "the queue does not drain")
        assert stale(database, column) == []
        engine.rollback()
        engine.cutover(override={"gate": "test"})
        stop.set()
        follower.join(60)
    assert [error for each in application for error in each.errors] == []
    assert sum(each.transactions for each in application) > 20
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as ending:
        ending.cleanup("chunks", override={"soak": "test", "no_foreign_key": "test", "queue": "test"})
        assert ending.snapshot().phase is Phase.DONE
    assert traces(database) == []


def test_killed_in_the_middle_it_goes_on(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_many(database)
    (tmp_path / "embedtui.toml").write_text(
        'table = "chunks"\ncontent_from = "documents"\ncontent = ["body"]\naccept = ["proof"]\n'
        f'[old_model]\nname = "{OLD}"\n'
        '[new_model]\nmax_inputs = 10\n[pacing]\nmax_concurrency = 2\n[index]\nmethod = "none"\n'
    )
    variables = {"DATABASE_URL": database, "OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}
    shell = Shell(tmp_path, {**variables, "EMBED_MODEL": NEW, "EMBED_DIMENSIONS": "16"})
    with psycopg.connect(database, autocommit=True) as conn:
        for number in range(3):
            target = api.inputs + 40
            with started(shell, "run") as process:
                wait_for(lambda target=target: api.inputs >= target, process)
                conn.execute(
                    "UPDATE documents SET body = %s WHERE id BETWEEN %s AND 100", [f"edit {number}", 10 * number]
                )
                process.send_signal(signal.SIGKILL)
    result = shell.spawn("run")
    assert result.code == 0, result
    assert stale(database, column=True) == []


@pytest.mark.variants(1)
def test_changes_are_scanned_for_where_no_trigger_is_wanted(
    database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object]
) -> None:
    make_chunks(database)
    settings = settings_for(database, api, tmp_path, {**flags, "change_capture": "scan"})
    with closing(Engine(database, settings=settings)) as engine, psycopg.connect(database, autocommit=True) as app:
        engine.run(threading.Event())
        assert traces(database) == []
        app.execute("UPDATE documents SET body = 'edited' WHERE id = 1")
        app.execute("UPDATE documents SET id = 40, body = 'moved' WHERE id = 2")
        engine.run(threading.Event())
    assert stale(database, flags["placement"] == "column") == []


class TestTwoMigrations:
    def test_of_two_tables_share_the_one_with_the_texts(
        self, database: str, api: LoopbackServer, tmp_path: Path
    ) -> None:
        make_chunks(database)
        with psycopg.connect(database, autocommit=True) as app:
            app.execute("CREATE TABLE others (LIKE chunks INCLUDING ALL)")
            app.execute("ALTER TABLE others ADD FOREIGN KEY (document_id) REFERENCES documents")
            app.execute("INSERT INTO others SELECT * FROM chunks")
            engines = {
                table: Engine(database, settings=settings_for(database, api, tmp_path, {
                    **ELSEWHERE, "table": table, "index.method": "none", "placement": placement}))
                for table, placement in (("chunks", "column"), ("others", "table"))
            }  # fmt: skip
            for engine in engines.values():
                engine.run(threading.Event())
            app.execute("UPDATE documents SET body = 'of both' WHERE id = 1")
            assert app.execute("SELECT count(DISTINCT migration), count(*) FROM embedtui.queue").fetchone() == (2, 2)
            for engine in engines.values():
                engine.run(threading.Event())
            assert stale(database, column=True) == [] and stale(database, column=False, table="others") == []
            done = engines["chunks"].abort("chunks")
            assert "triggers of documents" in done
            app.execute("UPDATE documents SET body = 'of the other' WHERE id = 1")
            engines["others"].run(threading.Event())
            assert stale(database, column=False, table="others") == []
            engines["others"].abort("others")
            for engine in engines.values():
                engine.close()
        assert traces(database) == []

    def test_of_two_scopes_of_one_table(self, database: str, api: LoopbackServer, tmp_path: Path) -> None:
        make_chunks(database)
        with psycopg.connect(database, autocommit=True) as app:
            app.execute("UPDATE chunks SET kind = 'theirs' WHERE id > 4")
            for number, kind in enumerate(("mine", "theirs"), 2):
                given = {**ELSEWHERE, "name": kind, "scope": f"kind = '{kind}'", "index.method": "none",
                         "placement": "column", "new_column": f"embedding_v{number}"}  # fmt: skip
                with closing(Engine(database, settings=settings_for(database, api, tmp_path, given))) as engine:
                    engine.run(threading.Event())
                    app.execute("UPDATE documents SET body = 'edited for ' || %s WHERE id = 1", [kind])
                    engine.run(threading.Event())
            counts = "count(embedding_v2) FILTER (WHERE id > 4), count(embedding_v3) FILTER (WHERE id < 5)"
            assert app.execute(f"SELECT {counts} FROM chunks".encode()).fetchone() == (0, 0), (
                "none outside its scope is written"
            )


@pytest.mark.parametrize("ddl", ["ALTER TABLE documents RENAME TO papers", "DROP TABLE documents CASCADE"])
def test_a_cleanup_finds_the_texts_wherever_they_are_by_then(
    database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object], ddl: str
) -> None:
    make_chunks(database)
    settings = settings_for(database, api, tmp_path, {**flags, "cutover.soak_days": 0})
    with closing(Engine(database, settings=settings)) as engine, psycopg.connect(database, autocommit=True) as app:
        engine.run(threading.Event())
        engine.cutover(override={"gate": "test"})
        app.execute(ddl.encode())
        engine.cleanup("chunks", override={"no_foreign_key": "test"} if flags.get("foreign_key") is False else {})
    assert traces(database) == []


class TestDdl:
    @pytest.fixture
    def app(self, database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object]) -> Iterator[Any]:
        make_chunks(database)
        self.settings = settings_for(database, api, tmp_path, flags)
        self.again = lambda **changed: self.run(
            Engine(database, settings=settings_for(database, api, tmp_path, {**flags, **changed}))
        )
        self.again()
        with psycopg.connect(database, autocommit=True) as conn:
            yield conn

    def run(self, engine: Engine) -> None:
        with closing(engine):
            engine.run(threading.Event())

    def column(self, flags: dict[str, object]) -> bool:
        return flags["placement"] == "column"

    def test_that_rewrites_the_texts_is_scanned_for(self, app: Any, database: str, flags: dict[str, object]) -> None:
        app.execute("ALTER TABLE documents ALTER body TYPE text USING body || ', rewritten', ALTER views TYPE bigint")
        self.again()
        assert stale(database, self.column(flags)) == []

    def test_that_renames_the_table_is_gone_on_with(self, app: Any, database: str, flags: dict[str, object]) -> None:
        app.execute("ALTER TABLE documents RENAME TO papers")
        app.execute("UPDATE papers SET body = 'edited under its new name' WHERE id = 1")
        self.again(content_from="papers")
        app.execute("UPDATE papers SET body = 'and again' WHERE id = 2")
        self.again(content_from="papers")
        app.execute("ALTER TABLE papers RENAME TO documents")
        assert stale(database, self.column(flags)) == []

    @pytest.mark.variants(1)
    def test_that_makes_the_texts_again_is_gone_on_with_and_captured(
        self, app: Any, database: str, flags: dict[str, object]
    ) -> None:
        app.execute("CREATE TABLE again (LIKE documents INCLUDING ALL); INSERT INTO again SELECT * FROM documents")
        app.execute("ALTER TABLE chunks DROP CONSTRAINT chunks_document_id_fkey; DROP TABLE documents")
        app.execute("ALTER TABLE again RENAME TO documents; UPDATE documents SET body = 'meanwhile' WHERE id = 1")
        app.execute("ALTER TABLE chunks ADD FOREIGN KEY (document_id) REFERENCES documents")
        self.again()
        assert stale(database, self.column(flags)) == []
        app.execute("UPDATE documents SET body = 'afterwards' WHERE id = 2")
        assert app.execute("SELECT kind::text, text_key FROM embedtui.queue").fetchall() == [("x", ["2"])]
        self.again()
        assert stale(database, self.column(flags)) == []

    @pytest.mark.variants(1)
    def test_that_makes_the_table_again_is_adopted(
        self, app: Any, database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object]
    ) -> None:
        app.execute("CREATE TABLE again (LIKE chunks INCLUDING ALL); INSERT INTO again SELECT * FROM chunks")
        app.execute("DROP TABLE chunks CASCADE; ALTER TABLE again RENAME TO chunks")
        app.execute("ALTER TABLE chunks ADD FOREIGN KEY (document_id) REFERENCES documents ON DELETE CASCADE")
        with pytest.raises(TableChanged, match="made again"):
            self.again()
        asked = api.inputs
        with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
            assert "8 of 8 rows keep their vectors" in engine.adopt()
        self.again()
        assert not [text for text in list(api.texts)[asked:] if text.startswith("document number")], "nothing twice"
        app.execute("UPDATE documents SET body = 'afterwards' WHERE id = 2")
        self.again()
        assert stale(database, self.column(flags)) == []

    @pytest.mark.parametrize(
        ("statement", "why"),
        [
            ("ALTER TABLE chunks DROP CONSTRAINT chunks_document_id_fkey", "chunks_document_id_fkey to documents"),
            ("ALTER TABLE documents RENAME body TO words", "body is gone"),
            ("ALTER TABLE documents DROP body", "body is gone"),
        ],
    )
    def test_that_leaves_no_way_to_the_text_stops_the_work(self, app: Any, statement: str, why: str) -> None:
        app.execute(statement)
        app.execute("UPDATE documents SET views = 1")
        with pytest.raises(TableChanged, match=why) as stopped:
            self.again()
        assert "abort" in stopped.value.hint

    def test_that_makes_the_reference_wider_is_followed(
        self, app: Any, database: str, flags: dict[str, object]
    ) -> None:
        app.execute("ALTER TABLE chunks ALTER document_id TYPE bigint")
        app.execute("UPDATE documents SET body = 'after it' WHERE id = 1")
        self.again()
        assert stale(database, self.column(flags)) == []


def test_a_router_writes_and_finds_with_the_other_tables_text(
    database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object]
) -> None:
    make_chunks(database)
    engine = Engine(database, settings=settings_for(database, api, tmp_path, flags))
    with closing(engine), psycopg.connect(database, autocommit=True) as app:
        engine.run(threading.Event())
        app.execute("UPDATE documents SET body = 'by the application' WHERE id = 1")
        vector = NEW_MODEL(["by the application"], None)[0].tolist()
        with Router(database) as router:
            assert router.write(app, "chunks", 1, vector, model=NEW, content="by the application")
            assert not router.write(app, "chunks", 5, vector, model=NEW, content="another text")
            engine.run(threading.Event())
            report = engine.verify(sample=8)
            assert (report.embedded, report.unverified, report.mismatched) == (8, 0, 0)
            hits = router.route("chunks").search(app, [0.0] * 8, k=2, columns=["document_id"])
            assert [hit.values["document_id"] for hit in hits]


STRANGE = """
CREATE SCHEMA "The Texts";
CREATE TABLE "The Texts"."100%% of" ("ten'ant" uuid, "na""me" varchar(20), "bo%dy" text, title text,
    PRIMARY KEY ("na""me", "ten'ant"));
CREATE TABLE "Vec%tors" ("I D" uuid PRIMARY KEY DEFAULT gen_random_uuid(), "of %s" text, tenant uuid, v vector(8),
    FOREIGN KEY (tenant, "of %s") REFERENCES "The Texts"."100%% of" ("ten'ant", "na""me") ON UPDATE CASCADE);
CREATE INDEX ON "Vec%tors" (tenant, "of %s");
INSERT INTO "The Texts"."100%% of" SELECT md5(n::text)::uuid, 'na''me ' || n, 'body ' || n, CASE n WHEN 2 THEN 'T' END
    FROM generate_series(1, 5) n;
INSERT INTO "Vec%tors" ("of %s", tenant, v) SELECT "na""me", "ten'ant", '[1,2,3,4,5,6,7,8]' FROM "The Texts"."100%% of";
"""


def test_names_keys_and_types_as_they_come(
    database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object]
) -> None:
    """Several key columns in another order, quotes and per cent signs, and a service with a search path of its own."""
    given = {**flags, "table": "Vec%tors", "content_from": '"The Texts"."100%% of"', "content": ("title", "bo%dy")}
    with psycopg.connect(database, autocommit=True) as app:
        for statement in STRANGE.split(";")[:-1]:
            app.execute(statement.encode())
        with closing(Engine(database, settings=settings_for(database, api, tmp_path, given))) as engine:
            engine.run(threading.Event())
            edit = (
                """UPDATE "The Texts"."100%% of" SET "bo%dy" = 'edited', "na""me" = 'moved' WHERE "bo%dy" = 'body 2'"""
            )
            app.execute(edit.encode())
            engine.run(threading.Event())
            assert engine.verify(sample=5).clean
            row = app.execute(b"""SELECT "I D"::text FROM "Vec%tors" WHERE "of %s" = 'moved'""").fetchone()
            assert row is not None
            vector = NEW_MODEL(["T\nedited"], None)[0].tolist()
            app.execute("SET search_path = nowhere")
            with Router(database) as router:
                assert router.write(app, "Vec%tors", row[0], vector, model=NEW, content="T\nedited")
                assert not router.write(app, "Vec%tors", row[0], vector, model=NEW, content="edited")
            assert engine.verify(sample=5).clean
            engine.abort("Vec%tors")
    assert traces(database) == []
