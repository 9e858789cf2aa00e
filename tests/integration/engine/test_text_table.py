"""Texts in another table: what the plan finds by foreign keys, what it refuses and why."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.engine.engine import Engine
from embedtui.engine.plan.draft import resolve
from embedtui.engine.plan.existing import settings_of_live_migration
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.start import require_startable
from embedtui.errors import DatabaseError, EmbedtuiError, Refused, SettingsError, TableError
from embedtui.model import Check, Plan
from embedtui.postgres.catalog.references import references
from tests.acceptance.test_text_tables import ELSEWHERE, make_chunks
from tests.kits.support import connect, settings_for
from tests.kits.tables import settings_of

TABLES = """
CREATE TABLE documents (id int PRIMARY KEY, body text, title varchar(80), meta jsonb);
CREATE TABLE chunks (id int PRIMARY KEY, document_id bigint, embedding vector(8));
INSERT INTO documents VALUES (1, 'the body of one', 'One', '{"said": "x"}'), (2, NULL, NULL, NULL),
    (3, 'unread', '', NULL);
INSERT INTO chunks (id, document_id) VALUES (1, 1), (2, 1), (3, 2), (4, NULL);
"""
KEY = "ALTER TABLE chunks ADD CONSTRAINT of FOREIGN KEY (document_id) REFERENCES documents"
INDEX = "CREATE INDEX ON chunks (document_id)"
PLAIN = {"table": "chunks", "content_from": "documents", "content": ("body",), "new_model__key_variable": ""}


def run(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)  # type: ignore[arg-type]


def plan(database: str, **flags: Any) -> Plan:
    with connect(database, name="plan", read_only=True) as reading:
        return make_plan(reading, settings_of(Path(), PLAIN | flags))


def refusal(database: str, kind: type[EmbedtuiError] = TableError, **flags: Any) -> EmbedtuiError:
    with connect(database, name="plan", read_only=True) as reading, pytest.raises(kind) as refused:
        resolve(reading, settings_of(Path(), {k: v for k, v in (PLAIN | flags).items() if v is not None}))
    return refused.value


def check(made: Plan, name: str) -> Check:
    return next(each for each in made.checks if each.name == name)


def test_the_plan_shows_the_other_tables_texts_and_counts_them(database: str) -> None:
    run(database, TABLES, KEY, INDEX)
    made = plan(database)
    assert (made.rows, made.empty_rows) == (4, 2)
    assert made.estimated_tokens == 2 * len("the body of one") // 4 + 1
    assert check(made, "texts").detail == (
        'body of documents by document_id, as sent: "the body of one" · "the body of one"'
    )
    assert check(made, "text table").detail == "texts are those of documents, by the foreign key of (document_id)"
    assert not [each for each in made.checks if each.name in ("text index", "framework")]
    assert any('ON "public"."documents"' in each and "CREATE TRIGGER" in each for each in made.statements)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"content": ("title", "body")}, "One\nthe body of one"),
        ({"content": (), "content_sql": "'# ' || title || E'\\n' || body"}, "# One\nthe body of one"),
        ({"content": ("meta",)}, '{"said": "x"}'),
        ({"content_from": "public.documents"}, "the body of one"),
        ({"content_from": '"documents"', "content_via": ("document_id",)}, "the body of one"),
        ({"scope": "id > 1"}, "the body of one"),
    ],
)
def test_columns_or_sql_of_the_other_table_make_the_text(database: str, flags: dict[str, Any], text: str) -> None:
    run(database, TABLES, KEY)
    shown = check(plan(database, **flags), "texts").detail
    assert f'as sent: "{text.replace(chr(10), " ")}"' in shown


def test_what_looks_like_no_text_over_there_is_said(database: str) -> None:
    run(database, TABLES, KEY, "UPDATE documents SET body = gen_random_uuid()")
    warned = check(plan(database), "texts")
    assert warned.result == "warn" and "look like UUIDs" in warned.detail
    warned = check(plan(database, content=("meta",)), "texts")
    assert warned.result == "warn" and "--content-sql" in warned.hint and "meta ->> 'said'" in warned.hint


def test_two_foreign_keys_that_say_the_same_are_one(database: str) -> None:
    again = "ALTER TABLE chunks ADD CONSTRAINT twice FOREIGN KEY (document_id) REFERENCES documents"
    run(database, TABLES, f"{KEY} NOT VALID", again)
    assert "foreign key twice" in check(plan(database), "text table").detail


def test_the_proof_embeds_the_joined_text(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_chunks(database)
    settings = settings_for(database, api, tmp_path, {**ELSEWHERE, "accept": []})
    with connect(database, name="plan", read_only=True) as reading:
        assert "8 of 8 rows" in check(make_plan(reading, settings, check_provider=True), "proof").detail
        run(database, "UPDATE documents SET body = body || ' and more'")
        assert check(make_plan(reading, settings, check_provider=True), "proof").result == "fail"


def test_its_only_text_column_needs_no_name(database: str) -> None:
    run(database, TABLES, KEY, "ALTER TABLE documents DROP COLUMN title")
    assert check(plan(database, content=()), "texts").detail.startswith("body of documents by document_id")
    run(database, "ALTER TABLE documents ADD title text")
    assert "has 2 text columns: body, title" in refusal(database, content=()).message


def test_a_key_of_several_columns(database: str) -> None:
    run(
        database,
        "CREATE TABLE texts (tenant int, name text, body text, PRIMARY KEY (tenant, name))",
        "CREATE TABLE chunks (id int PRIMARY KEY, n text, t smallint, embedding vector(8),"
        " FOREIGN KEY (t, n) REFERENCES texts)",
        "INSERT INTO texts VALUES (1, 'a', 'first'), (2, 'a', 'second')",
        "INSERT INTO chunks VALUES (1, 'a', 2), (2, NULL, 2)",
    )
    made = plan(database, content_from="texts")
    assert (made.rows, made.empty_rows) == (2, 1)
    assert check(made, "texts").detail == 'body of texts by t, n, as sent: "second"'


class TestRefused:
    def test_without_a_foreign_key(self, database: str) -> None:
        run(database, TABLES)
        error = refusal(database)
        assert error.message == 'chunks has no foreign key to "documents".' and "foreign keys: none" in error.hint
        run(database, KEY)
        assert "document_id to documents" in refusal(database, content_from="nowhere").hint
        assert "by id" in refusal(database, content_via=("id",)).message

    def test_by_several_foreign_keys_until_one_is_named(self, database: str) -> None:
        run(
            database, TABLES, KEY, "ALTER TABLE chunks ADD parent int REFERENCES documents, ADD UNIQUE (id, parent)",
            "CREATE SCHEMA other", "CREATE TABLE other.documents (id int PRIMARY KEY, body text)",
            "ALTER TABLE chunks ADD foreign_id int REFERENCES other.documents",
        )  # fmt: skip
        error = refusal(database)
        assert error.message.startswith('3 foreign keys of chunks refer to "documents"')
        assert "parent (documents)" in error.message and "foreign_id (other.documents)" in error.message
        assert "content_via" in error.hint
        assert check(plan(database, content_via=("parent",)), "text table").detail.endswith("(parent)")
        assert check(plan(database, content_from="other.documents"), "text table").detail.endswith("(foreign_id)")

    @pytest.mark.parametrize(
        ("statements", "why"),
        [
            ([f"{KEY} NOT VALID"], "VALIDATE CONSTRAINT"),
            (["ALTER TABLE chunks ADD above int REFERENCES chunks"], "the table itself"),
            (
                ["CREATE TABLE parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id)",
                 "ALTER TABLE chunks ADD part int REFERENCES parts"],
                "partitioned",
            ),
            (
                ["CREATE TYPE mood AS ENUM ('a')", "CREATE TABLE moods (m mood PRIMARY KEY, body text)",
                 "ALTER TABLE chunks ADD m mood REFERENCES moods"],
                "not PostgreSQL's own",
            ),
            (
                ['CREATE TABLE names (name text COLLATE "C" PRIMARY KEY, body text)',
                 'ALTER TABLE chunks ADD name text COLLATE "POSIX" REFERENCES names'],
                "two collations",
            ),
        ],
        ids=["not valid", "itself", "partitioned", "enum", "collations"],
    )  # fmt: skip
    def test_by_one_that_cannot_serve(self, database: str, statements: list[str], why: str) -> None:
        run(database, TABLES, *statements)
        with connect(database) as conn:
            oid = conn.execute("SELECT 'chunks'::regclass::oid::int8").fetchone()
            assert oid is not None
            [reference] = references(conn, oid[0])
        error = refusal(database, content_from=reference.table.name)
        assert why in error.message and reference.columns[0] in error.message

    def test_where_columns_are_missing_or_no_texts(self, database: str) -> None:
        run(database, TABLES, KEY, "ALTER TABLE documents ADD raw bytea")
        assert "no column boddy in documents" in refusal(database, content=("boddy",)).message
        assert "nothing to embed as it is" in refusal(database, content=("raw",)).message
        wrong = refusal(database, SettingsError, content=(), content_sql="embedding::text")
        assert 'column "embedding" does not exist' in wrong.message, "SQL is over the other table's row"
        assert "Both content" in refusal(database, SettingsError, content_sql="body").message
        assert "content_from is not" in refusal(database, SettingsError, content_from=None, content_via=("id",)).message

    def test_where_rows_are_hidden_or_unreadable(self, database: str) -> None:
        role = f"reader_{psycopg.conninfo.conninfo_to_dict(database)['dbname']}"
        run(
            database, TABLES, KEY, f"CREATE ROLE {role} LOGIN", f"GRANT ALL ON chunks TO {role}",
            f"ALTER TABLE chunks OWNER TO {role}",
        )  # fmt: skip
        dsn = psycopg.conninfo.make_conninfo(database, user=role)
        try:
            assert f"GRANT SELECT ON documents TO {role}" in refusal(dsn, DatabaseError).hint
            run(database, f"GRANT SELECT ON documents TO {role}", "ALTER TABLE documents ENABLE ROW LEVEL SECURITY")
            assert "Row security would hide rows of documents" in refusal(dsn, DatabaseError).message
            run(database, "ALTER TABLE documents DISABLE ROW LEVEL SECURITY")
            rights = [each for each in plan(dsn).checks if each.name == "rights" and each.result == "fail"]
            assert "documents, which has the texts" in rights[-1].detail and "change_capture" in rights[-1].hint
            scanned = [each for each in plan(dsn, change_capture="scan").checks if each.name == "rights"]
            assert not [each for each in scanned if "texts" in each.detail]
        finally:
            run(database, f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")


def test_without_an_index_each_edit_reads_all_of_the_table(database: str) -> None:
    run(database, TABLES, KEY, "CREATE INDEX ON chunks (id, document_id)")
    warned = check(plan(database), "text index")
    assert warned.result == "warn" and "(document_id)" in warned.hint
    run(database, warned.hint.rstrip(";"))
    assert not [each for each in plan(database).checks if each.name == "text index"]


@pytest.mark.parametrize("column", ["", "ALTER TABLE chunks ADD ref text; UPDATE chunks SET ref = gen_random_uuid()"])
def test_a_table_without_texts_of_its_own_is_told_where_they_may_be(database: str, column: str) -> None:
    run(database, TABLES, KEY, *([column] if column else []))
    error = refusal(database, content_from=None, content=())
    assert "documents has body, title: --content-from documents --content body." in error.hint


def test_settings_of_a_migration_under_way_mean_the_same_text(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    run(database, TABLES, KEY, INDEX, "ALTER TABLE chunks ADD note text, ADD parent int REFERENCES documents")
    given = {"table": "chunks", "content_from": "documents", "content_via": ("document_id",), "content": ("body",)}
    engine = Engine(database, settings=settings_for(database, api, tmp_path, given | {"index.method": "none"}))
    engine.run(threading.Event())
    with connect(database) as conn:
        for same in (given, {"table": "chunks"}, {"table": "chunks", "content": ("body",)}):
            require_startable(conn, settings_for(database, api, tmp_path, same))
        for other in (
            {**given, "content": ("title",)},
            {**given, "content_via": ("parent",)},
            {"table": "chunks", "content": ("title",)},
            {"table": "chunks", "content_sql": "body || title"},
        ):
            with pytest.raises(Refused, match="under way with content body of documents by document_id"):
                require_startable(conn, settings_for(database, api, tmp_path, other))
        found = settings_of_live_migration(conn, settings_for(database, api, tmp_path, {"table": "chunks"}))
    assert (found.content, found.content_sql) == (("body",), None)
    assert (found.content_from, found.content_via) == ("public.documents", ("document_id",))
    engine.close()


CHAIN = """
CREATE TABLE papers (id int PRIMARY KEY, body text);
CREATE TABLE parts (id int PRIMARY KEY, paper_id int REFERENCES papers, place int);
CREATE TABLE vectors (id int PRIMARY KEY, part_id int REFERENCES parts, embedding vector(8));
INSERT INTO papers VALUES (1, 'one'), (2, 'two');
INSERT INTO parts VALUES (10, 1, 1), (20, 2, 1);
INSERT INTO vectors (id, part_id) VALUES (1, 10), (2, 20), (3, 20);
CREATE FUNCTION public.paper_of(part int) RETURNS text STABLE LANGUAGE sql AS
    'SELECT p.body FROM public.parts t JOIN public.papers p ON p.id = t.paper_id WHERE t.id = part';
"""


class TestTwoForeignKeysAway:
    def test_is_refused_with_a_way_that_works(self, database: str) -> None:
        run(database, CHAIN)
        named = refusal(database, table="vectors", content_from="papers")
        assert "vectors: part_id to parts, then paper_id to papers. One is followed" in named.message
        found = refusal(database, table="vectors", content_from=None, content=())
        assert "By a second foreign key, papers has body." in found.hint
        for error in (named, found):
            assert 'change_capture = "scan"' in error.hint and "give vectors a foreign key to papers" in error.hint
        by_function = {"table": "vectors", "content_from": None, "content": (), "content_sql": "paper_of(part_id)"}
        stable = refusal(database, SettingsError, **by_function)
        assert "paper_of(integer) gives other values" in stable.message and 'change_capture = "scan"' in stable.hint

    def test_is_found_by_a_function_and_edits_by_the_scan(
        self, database: str, api: LoopbackServer, tmp_path: Path
    ) -> None:
        run(database, CHAIN)
        given = {"table": "vectors", "content_sql": "paper_of(part_id)"}
        scanned = given | {"change_capture": "scan", "index.method": "none"}
        engine = Engine(database, settings=settings_for(database, api, tmp_path, scanned))
        engine.run(threading.Event())
        assert engine.verify(sample=3).clean
        run(database, "UPDATE papers SET body = 'edited' WHERE id = 1", "UPDATE parts SET paper_id = 1 WHERE id = 20")
        engine.run(threading.Event())
        report = engine.verify(sample=3)
        assert (report.clean, report.rows, api.texts.count("edited") > 0) == (True, 3, True), report
        with connect(database) as conn, pytest.raises(SettingsError, match="gives other values"):
            require_startable(conn, settings_for(database, api, tmp_path, {**given, "change_capture": "triggers"}))
        engine.close()
        run(database, "ALTER TABLE vectors RENAME part_id TO of_part")
        with closing(Engine(database, settings=settings_for(database, api, tmp_path, {"table": "vectors"}))) as now:
            now.run(threading.Event())
            assert now.verify(sample=3).clean
        with connect(database) as conn:
            live = settings_of_live_migration(conn, settings_for(database, api, tmp_path, {"table": "vectors"}))
            assert resolve(conn, live).content == ("of_part",)
