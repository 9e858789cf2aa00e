"""The routed view: what an application can do through it, who may, and how it lives through the migration."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.cli.main import run_command
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.engine.access import Access
from embedtui.engine.cleanup import fold
from embedtui.engine.cutover import cutover
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.view import drop_view, make_view
from embedtui.errors import EmbedtuiError, Refused
from embedtui.integrations import Routing
from embedtui.model import Migration, Phase, Side
from embedtui.postgres.sides import routed_view
from embedtui.router import Router
from tests.kits.support import NEW, connect, make_documents, settings_for, vector_literal

old_vector, new_vector = hash_model(8), hash_model(16)
OVERRIDE = {"gate": "test", "soak": "test", "listeners": "test"}


def new(text: str) -> str:
    return vector_literal(new_vector([text], None)[0])


class Site:
    """A table of 40 rows under migration, with its view, and a session of an application whose path has it first."""

    def __init__(self, dsn: str, api: LoopbackServer, folder: Path, **flags: object) -> None:
        named = {name.replace("__", "."): value for name, value in flags.items()}
        self.settings = settings_for(dsn, api, folder, {"view": True, **named})
        self.engine = Engine(dsn, None, self.settings)
        self.engine.run(threading.Event())
        self.at = Access(dsn, "documents", self.settings, None, None)
        self.app = psycopg.connect(dsn, autocommit=True, options="-c search_path=documents_v2,public")
        self.table = psycopg.connect(dsn, autocommit=True)
        self.dsn, self.api, self.folder = dsn, api, folder

    @property
    def migration(self) -> Migration:
        return self.engine.require()

    def view(self) -> routed_view.RoutedView | None:
        with connect(self.dsn) as conn:
            return routed_view.find(conn, self.migration)

    def run(self) -> None:
        self.engine.run(threading.Event())

    def nearest(self, text: str) -> int | None:
        row = self.app.execute("SELECT id FROM documents ORDER BY embedding <=> %s LIMIT 1", [new(text)]).fetchone()
        return row[0] if row else None

    def close(self) -> None:
        self.app.close()
        self.table.close()
        self.at.close()
        self.engine.close()


@pytest.fixture
def site(database: str, api: LoopbackServer, tmp_path: Path) -> Iterator[Site]:
    make_documents(database, 40, index=True)
    site = Site(database, api, tmp_path)
    yield site
    site.close()


def test_an_application_reads_and_writes_the_new_side_through_it(site: Site) -> None:
    app = site.app
    assert [column.name for column in app.execute("SELECT * FROM documents").description or ()] == [
        "id", "content", "metadata", "embedding",
    ]  # fmt: skip
    assert site.nearest("document number 7") == 7

    insert = "INSERT INTO documents (id, content, embedding) VALUES (%s, %s, %s)"
    got = app.execute(f"{insert} RETURNING id, metadata, embedding IS NOT NULL", [101, "mine", new("mine")]).fetchone()
    assert got == (101, {}, True)  # the table's own default
    upsert = f"{insert} ON CONFLICT (id) DO UPDATE SET content = excluded.content, embedding = excluded.embedding"
    app.execute(upsert, [101, "mine too", new("mine too")])
    app.execute("UPDATE documents SET embedding = %s WHERE id = 1", [new("of the application")])
    assert app.execute("DELETE FROM documents WHERE id = 2 RETURNING id").fetchone() == (2,)
    assert (site.nearest("mine too"), site.nearest("of the application")) == (101, 1)

    site.run()  # works the queue off: what the application decided is left, and counts as unverified
    rows = "SELECT embedding_v2_model, embedding_v2_source, embedding_v2 = %s FROM documents WHERE id = %s"
    assert site.table.execute(rows, [new("of the application"), 1]).fetchone() == (None, None, True)
    assert site.table.execute(rows, [new("mine too"), 101]).fetchone() == (None, None, True)
    assert site.engine.verify().unverified == 2


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("COPY documents (id, content) FROM STDIN", psycopg.errors.WrongObjectType),
        ("COPY documents TO STDOUT", psycopg.errors.WrongObjectType),
        ("TRUNCATE documents", psycopg.errors.WrongObjectType),
        (
            "INSERT INTO documents (id) VALUES (1) ON CONFLICT ON CONSTRAINT documents_pkey DO NOTHING",
            psycopg.errors.UndefinedObject,
        ),
    ],
)
def test_what_postgresql_refuses_through_a_view_is_what_the_plan_says(
    site: Site, statement: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        if statement.startswith("COPY"):
            with site.app.cursor().copy(statement):
                pass
        else:
            site.app.execute(statement)
    with connect(site.dsn, read_only=True) as conn:
        [check] = [check for check in make_plan(conn, site.settings).checks if check.name == "routed view"]
    assert "COPY, TRUNCATE and ON CONFLICT ON CONSTRAINT" in check.detail


def test_a_search_through_it_uses_the_new_index(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 2_000, index=True)
    site = Site(database, api, tmp_path)
    site.table.execute("ANALYZE documents")
    query = "EXPLAIN SELECT id FROM documents ORDER BY embedding <=> %s LIMIT 3"
    plan = "\n".join(line for (line,) in site.app.execute(query, [new("document number 1")]))
    site.close()
    assert "Index Scan using idx_documents_embedding_v2" in plan, "by the planner's own choice"


def test_it_survives_cleanup_and_goes_on_request(site: Site) -> None:
    site.engine.cutover(override=OVERRIDE)
    with pytest.raises(Refused, match="would find the old vectors"):
        drop_view(site.at)
    site.engine.cleanup("documents", override=OVERRIDE)
    assert site.migration.phase is Phase.DONE
    assert site.nearest("document number 7") == 7
    site.app.execute("UPDATE documents SET embedding = %s WHERE id = 1", [new("later")])

    site.table.execute("CREATE VIEW theirs AS SELECT id FROM documents_v2.documents")
    with pytest.raises(Refused, match=r"view public\.theirs depends"):
        drop_view(site.at)
    site.table.execute("DROP VIEW theirs")
    assert drop_view(site.at) == "documents_v2.documents"
    assert site.nearest("later") == 1  # the path falls through to the table, whose column has the name now
    assert site.table.execute("SELECT to_regnamespace('documents_v2')").fetchone() == (None,)


def test_a_new_name_that_is_kept_needs_it(site: Site) -> None:
    site.engine.cutover(override=OVERRIDE)
    site.engine.cleanup("documents", override=OVERRIDE, rename=False)
    assert site.nearest("document number 7") == 7
    with pytest.raises(Refused, match="embedding_v2"):
        drop_view(site.at)


def test_an_abort_takes_it_along_unless_something_depends_on_it(site: Site) -> None:
    site.table.execute("CREATE VIEW theirs AS SELECT id FROM documents_v2.documents")
    with pytest.raises(Refused, match=r"view public\.theirs depends on the routed view"):
        site.engine.abort("documents")
    site.table.execute("DROP VIEW theirs; CREATE TABLE documents_v2.other (id int)")
    site.engine.abort("documents")
    assert site.view() is None
    assert site.table.execute("SELECT to_regclass('documents_v2.other') IS NOT NULL").fetchone() == (True,)
    left = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'documents'::regclass AND attname LIKE 'embedding_v2%'"
    assert site.table.execute(left).fetchone() == (0,)


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE documents ADD COLUMN fresh text DEFAULT 'new'",
        "ALTER TABLE documents RENAME COLUMN metadata TO fresh",
    ],
)
def test_the_applications_ddl_is_followed_by_the_next_run(site: Site, ddl: str) -> None:
    site.table.execute(ddl)
    site.run()
    site.app.execute("UPDATE documents SET fresh = '{}' WHERE id = 3")
    assert site.table.execute("SELECT fresh::text FROM documents WHERE id = 3").fetchone() == ("{}",)
    assert site.nearest("document number 7") == 7


def test_what_depends_on_a_view_that_is_behind_is_said_and_left(site: Site) -> None:
    site.table.execute("CREATE VIEW theirs AS SELECT metadata FROM documents_v2.documents")
    site.table.execute("ALTER TABLE documents RENAME COLUMN metadata TO fresh")
    said: list[str] = []
    engine = Engine(site.dsn, None, site.settings, lambda event: said.append(getattr(event, "text", "")))
    engine.run(threading.Event())
    engine.close()
    assert any("view public.theirs depends on it" in text for text in said)


def test_it_is_made_again_unless_it_was_dropped_on_request(site: Site) -> None:
    site.table.execute("DROP VIEW documents_v2.documents")
    site.run()
    assert site.nearest("document number 7") == 7
    drop_view(site.at)
    site.run()
    assert site.view() is None
    assert make_view(site.at, "other").name == "other.documents"


def test_operators_and_a_run_that_make_it_at_once(site: Site) -> None:
    """CREATE SCHEMA twice at once fails with an error that tells an operator nothing."""
    for _ in range(3):
        drop_view(site.at)
        said: list[str] = []

        def make(said: list[str] = said) -> None:
            at = Access(site.dsn, "documents", site.settings, None, None)
            try:
                said.append(make_view(at).name)
            except EmbedtuiError as error:
                said.append(error.message)
            finally:
                at.close()

        threads = [threading.Thread(target=make) for _ in range(3)]
        for thread in threads:
            thread.start()
        site.run()
        for thread in threads:
            thread.join()
        assert "documents_v2.documents" in said
        assert set(said) <= {"documents_v2.documents", "Another process is at the routed view."}
        assert site.view() is not None


def test_a_cutover_while_its_drop_waits_for_the_lock_keeps_it(site: Site) -> None:
    """One operator drops it, and waits for a reader; the other one cuts over meanwhile, and finds it there."""
    reader = psycopg.connect(site.dsn)
    reader.execute("SELECT count(*) FROM documents_v2.documents")
    said: list[str] = []
    waiting = threading.Event()
    at = Access(site.dsn, "documents", site.settings, lambda _: waiting.set(), None)

    def drop() -> None:
        with pytest.raises(Refused) as refused:
            drop_view(at)
        said.append(refused.value.message)

    dropping = threading.Thread(target=drop)
    dropping.start()
    assert waiting.wait(60)
    site.engine.cutover(override=OVERRIDE)
    reader.close()
    dropping.join()
    at.close()
    assert said and "would find the old vectors" in said[0]
    assert site.view() is not None and site.engine.snapshot().route.active is Side.NEW


@pytest.mark.parametrize("percent", [30, 100])
def test_a_cutover_does_not_move_reads_to_one_that_went_as_it_was_decided(
    site: Site, monkeypatch: pytest.MonkeyPatch, percent: int
) -> None:
    is_cold = cutover.is_cold

    def dropped_first(*arguments: Any) -> bool:
        drop_view(site.at)
        return is_cold(*arguments)

    monkeypatch.setattr(cutover, "is_cold", dropped_first)
    with pytest.raises(Refused, match="dropped meanwhile"):
        site.engine.cutover(percent, override=OVERRIDE)
    route = site.engine.snapshot().route
    assert (route.active, route.canary) == (Side.OLD, 0)


def test_names_are_exchanged_beside_it(site: Site) -> None:
    """The strategy `rename` leaves the view what it was: the new vectors."""
    settings = settings_for(site.dsn, site.api, site.folder, {"view": True, "cutover.strategy": "rename"})
    engine = Engine(site.dsn, None, settings)
    engine.cutover(override={**OVERRIDE, "rename_equal_dimensions": "test"})
    engine.run(threading.Event())
    engine.close()
    assert site.nearest("document number 7") == 7


def test_partitions_mixed_case_and_long_names(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    name = "My Docs " + "é" * 27 + "x"  # 63 bytes
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f'CREATE SCHEMA "App"; CREATE TABLE "App"."{name}" (id bigint, "Text" text, "Vec%" vector(8),'
                     ' PRIMARY KEY (id)) PARTITION BY RANGE (id)')  # fmt: skip
        for part, low, high in (("p1", 0, 10), ("p2", 10, 100)):
            conn.execute(f'CREATE TABLE "App".{part} PARTITION OF "App"."{name}" FOR VALUES FROM ({low}) TO ({high})')
        for n in range(1, 20):
            vector = vector_literal(old_vector([f"text {n}"], None)[0])
            conn.execute(f'INSERT INTO "App"."{name}" VALUES (%s, %s, %s)', [n, f"text {n}", vector])
    flags = {"table": f'"App"."{name}"', "content": ["Text"], "view": True, "placement": "column", "new_column": "Neu"}
    engine = Engine(database, None, settings_for(database, api, tmp_path, flags))
    engine.run(threading.Event())
    with connect(database) as conn:
        there = routed_view.find(conn, engine.require())
    assert there is not None
    assert there.name.name == name
    with psycopg.connect(database, autocommit=True) as app:
        app.execute("SELECT set_config('search_path', quote_ident(%s) || ',public', false)", [there.name.schema])
        query = f'SELECT id FROM "{name}" ORDER BY "Vec%%" <=> %s LIMIT 1'
        assert app.execute(query, [new("text 15")]).fetchone() == (15,)
        app.execute(f'UPDATE "{name}" SET "Vec%%" = %s WHERE id = 3', [new("text 100")])
        assert app.execute(query, [new("text 100")]).fetchone() == (3,)
    engine.abort(name)
    engine.close()


def test_a_schema_of_somebody_elses_is_refused_before_anything_is_changed(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 3)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA documents_v2; COMMENT ON SCHEMA documents_v2 IS 'embedtui: routed views'")
        conn.execute("GRANT CREATE ON SCHEMA documents_v2 TO PUBLIC")  # anybody could put another table there
    settings = settings_for(database, api, tmp_path, {"view": True})
    engine = Engine(database, None, settings)
    with pytest.raises(EmbedtuiError, match="documents_v2 is there already"):
        engine.run(threading.Event())
    with psycopg.connect(database) as conn:
        assert conn.execute("SELECT to_regnamespace('embedtui')").fetchone() == (None,)
    engine.close()
    other = Engine(database, None, settings_for(database, api, tmp_path, {"view": True, "view_schema": "other"}))
    other.run(threading.Event())
    other.close()
    with psycopg.connect(database) as conn:
        assert conn.execute("SELECT count(*) FROM other.documents").fetchone() == (3,)


def test_a_side_table_has_none_until_it_is_folded(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """What asks for it, first or later, is kept for the fold; what would forbid it then is said now."""
    make_documents(database, 3)
    with psycopg.connect(database) as conn:
        conn.execute("CREATE SCHEMA documents_v2")
    flags = {"placement": "table"}
    engine = Engine(database, None, settings_for(database, api, tmp_path, {**flags, "view": True}))
    with pytest.raises(Refused, match="Schema documents_v2 is there already"):
        engine.run(threading.Event())
    engine.close()
    engine = Engine(database, None, settings_for(database, api, tmp_path, flags))
    engine.run(threading.Event())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database)
    assert run_command(["view"]) == 6
    assert run_command(["view", "--schema", "elsewhere"]) == 0
    assert "A cleanup makes it, in elsewhere" in capsys.readouterr().out
    engine.cutover(override={"gate": "a test"})
    with Router(database) as router:
        routing = Routing(router, "documents", schema="elsewhere")
        with routing.use() as route:
            assert route.side is Side.OLD and routing.search_path("public") == "public" and not routing.viewed
        with routing.use(model=NEW) as route:
            assert route.side is Side.NEW, "what is embedded already decides"
    monkeypatch.setattr(fold, "REQUEST", 0.0)
    engine.cleanup("documents", override={"soak": "a test"})
    with psycopg.connect(database) as conn:
        assert conn.execute("SELECT count(embedding) FROM elsewhere.documents").fetchone() == (3,)
    engine.close()


def test_it_can_be_made_and_dropped_by_command(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    make_documents(database, 3)
    settings = settings_for(database, api, tmp_path)
    engine = Engine(database, None, settings)
    engine.run(threading.Event())
    engine.close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database)
    assert run_command(["view", "--sql"]) == 0
    assert "security_invoker" in capsys.readouterr().out
    for schema in ("public", "pg_mine", "x" * 64):
        assert run_command(["view", "--schema", schema]) == 6
    assert run_command(["view"]) == 0  # what was refused is forgotten
    assert "SET search_path = documents_v2, …" in capsys.readouterr().out
    assert run_command(["view", "--schema", "elsewhere"]) == 6
    assert "is documents_v2.documents already" in capsys.readouterr().err
    assert run_command(["view", "--drop"]) == 0
    assert run_command(["view", "--drop"]) == 6


def test_grants_and_row_security_are_the_tables(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    """Who may use the table may use the view, to the column and the row; nobody else may even look into the schema."""
    make_documents(database, 6)
    everything, reader, nobody, opened = roles = [f"view_{name}" for name in ("all", "reader", "nobody", "opened")]
    with psycopg.connect(database, autocommit=True) as conn:
        for role in roles:
            conn.execute(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role}")
        conn.execute(
            f"ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO {opened};"
            f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {opened};"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON documents TO {everything} WITH GRANT OPTION;"
            f"GRANT SELECT, UPDATE (embedding) ON documents TO {reader};"
            f"GRANT SELECT (id, embedding) ON documents TO {nobody};"
            "ALTER TABLE documents ENABLE ROW LEVEL SECURITY;"
            "CREATE POLICY small ON documents USING (id <= 3) WITH CHECK (true)"
        )
        engine = Engine(database, None, settings_for(database, api, tmp_path, {"view": True}))
        engine.run(threading.Event())
        try:
            for role, usage, select in ((everything, True, True), (reader, True, True), (nobody, True, False)):
                may = conn.execute(
                    "SELECT has_schema_privilege(%(r)s, 'documents_v2', 'USAGE'),"
                    " has_table_privilege(%(r)s, 'documents_v2.documents', 'SELECT'),"
                    " has_schema_privilege(%(r)s, 'documents_v2', 'CREATE')",
                    {"r": role},
                ).fetchone()
                assert may == (usage, select, False)
            for what in ("has_schema_privilege(%s, 'documents_v2', 'USAGE, CREATE')",
                         "has_table_privilege(%s, 'documents_v2.documents', 'SELECT, INSERT')"):  # fmt: skip
                assert conn.execute(f"SELECT {what}", [opened]).fetchone() == (False,)
            conn.execute(f"SET search_path = documents_v2; SET ROLE {everything}")
            assert conn.execute("SELECT count(*), max(id) FROM documents").fetchone() == (3, 3)
            assert conn.execute("UPDATE documents SET content = 'x' WHERE id = 5").rowcount == 0
            conn.execute(f"RESET ROLE; SET ROLE {reader}")
            update = "UPDATE documents SET embedding = embedding WHERE id = %s"
            assert [conn.execute(update, [number]).rowcount for number in (2, 5)] == [1, 0]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute("UPDATE documents SET content = 'x' WHERE id = 2")
            conn.execute(f"RESET ROLE; SET ROLE {nobody}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):  # PostgreSQL asks for all that a view names
                conn.execute("SELECT id FROM documents")
            conn.execute("RESET ROLE; RESET search_path")

            conn.execute(f"REVOKE ALL ON documents FROM {everything}; GRANT SELECT ON documents TO {nobody}")
            engine.run(threading.Event())
            conn.execute(f"SET search_path = documents_v2; SET ROLE {nobody}")
            assert conn.execute("SELECT count(*) FROM documents").fetchone() == (3,)
            conn.execute("RESET ROLE; RESET search_path")
            may = "SELECT has_table_privilege(%s, 'documents_v2.documents', 'SELECT')"
            assert conn.execute(may, [everything]).fetchone() == (False,)
        finally:
            conn.execute("RESET ROLE")
            engine.close()
            for role in roles:
                conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
