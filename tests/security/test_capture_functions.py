"""Change capture runs with its owner's rights: nobody else's code may, whatever table, key or cast it is of."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from embedtui.demo.api import LoopbackServer
from embedtui.engine.engine import Engine
from embedtui.model.migration import RowExpression, TextTable
from embedtui.postgres.connect import connect
from embedtui.postgres.sides import capture, fold
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.objects import ROUTINES, VIEWS, routine
from tests.kits.downgrade import back_to
from tests.kits.hostile import Hostile
from tests.kits.support import make_documents, settings_for


def prepare(hostile: Hostile, api: LoopbackServer, folder: Path, **flags: object) -> int:
    """As superuser; the migration's id."""
    engine = Engine(hostile.admin, settings=settings_for(hostile.admin, api, folder, flags))
    try:
        return engine.prepare(threading.Event()).id
    finally:
        engine.close()


def queue(hostile: Hostile) -> list[tuple[list[str], str]]:
    with connect(hostile.admin, name="test") as conn:
        return conn.execute("SELECT key, kind::text FROM embedtui.queue ORDER BY id").fetchall()


def faults(hostile: Hostile) -> list[str]:
    with connect(hostile.admin, name="test") as conn:
        return [reason for (reason,) in conn.execute("SELECT reason FROM embedtui.capture_fault")]


def capture_functions(hostile: Hostile) -> list[str]:
    with connect(hostile.admin, name="test") as conn:
        rows = conn.execute(
            "SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'embedtui'::regnamespace AND p.prosecdef ORDER BY 1"
        )
        return [name for (name,) in rows]


def open_as_before(hostile: Hostile, migration: int) -> None:
    """The functions as the former version made them: anybody's to execute, on any table, with the type's own cast."""
    hostile.as_admin("GRANT USAGE ON SCHEMA embedtui TO PUBLIC")
    for name in capture_functions(hostile):
        key = "ARRAY[OLD.id::text]" if name.endswith("_old_row") else "ARRAY[NEW.id::text]"
        key = "'{}'::text[]" if name.endswith("_all") else key
        hostile.as_admin(
            f"CREATE OR REPLACE FUNCTION embedtui.{name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " SET search_path = pg_catalog, pg_temp AS $$ BEGIN INSERT INTO embedtui.queue (migration, key, kind)"
            f' VALUES ({migration}, {key}, TG_ARGV[0]::pg_catalog."char"); RETURN NULL; END $$',
            f"GRANT EXECUTE ON FUNCTION embedtui.{name}() TO PUBLIC",
        )


def temporary_table(hostile: Hostile, function: str, event: str = "INSERT") -> list[str]:
    """The attack as reported: a key type with a cast to text of its own, and a trigger that executes our function."""
    return [
        "CREATE TYPE public.evil AS (x int)",
        f"CREATE FUNCTION public.evil_text(public.evil) RETURNS text LANGUAGE plpgsql AS"
        f" {hostile.tell('cast', 'RETURN 1;')}",
        "CREATE CAST (public.evil AS text) WITH FUNCTION public.evil_text(public.evil) AS IMPLICIT",
        "CREATE TEMP TABLE trap (id public.evil)",
        f"CREATE TRIGGER t AFTER {event} ON trap FOR EACH ROW EXECUTE FUNCTION embedtui.{function}('i')",
        "INSERT INTO trap VALUES (ROW(1))",
        "UPDATE trap SET id = ROW(2)",
        "DELETE FROM trap",
    ]


@pytest.fixture
def documents(hostile: Hostile) -> Hostile:
    make_documents(hostile.admin, 20)
    hostile.as_admin(f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.documents TO {hostile.application}")
    return hostile


def test_the_attack_ran_as_the_owner_before_the_functions_were_closed(
    documents: Hostile, api: LoopbackServer, tmp_path: Path
) -> None:
    migration = prepare(documents, api, tmp_path)
    open_as_before(documents, migration)
    documents.run(*temporary_table(documents, f"capture_{migration}_row"))
    assert documents.ran() == ["cast as postgres"], "else the tests below prove nothing"


@pytest.mark.parametrize("event", ["INSERT", "UPDATE", "DELETE"])
def test_nobody_may_hang_our_functions_on_a_table_of_his_own(
    documents: Hostile, api: LoopbackServer, tmp_path: Path, event: str
) -> None:
    prepare(documents, api, tmp_path, placement="table", foreign_key=False)
    documents.as_admin("GRANT USAGE ON SCHEMA embedtui TO PUBLIC")
    functions = capture_functions(documents)
    assert len(functions) == 3
    for function in functions:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            documents.run(
                "DROP TABLE IF EXISTS pg_temp.trap; DROP TYPE IF EXISTS public.evil CASCADE",
                *temporary_table(documents, function, event),
            )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            documents.run(f"SELECT embedtui.{function}()")
    assert documents.ran() == [] and queue(documents) == []


@pytest.mark.parametrize("kind", ["temporary", "permanent", "partition of his own", "view"])
def test_a_trigger_that_is_there_already_captures_nothing_of_another_table(
    documents: Hostile, api: LoopbackServer, tmp_path: Path, kind: str
) -> None:
    migration = prepare(documents, api, tmp_path)
    function = f"capture_{migration}_row"
    documents.as_admin(
        f"GRANT USAGE ON SCHEMA embedtui TO PUBLIC; GRANT EXECUTE ON FUNCTION embedtui.{function}() TO PUBLIC"
    )
    attack = "\n".join(f"{line};" for line in temporary_table(documents, function))
    match kind:
        case "permanent":
            attack = attack.replace("CREATE TEMP TABLE", "CREATE TABLE")
        case "partition of his own":
            attack = attack.replace(
                "CREATE TEMP TABLE trap (id public.evil);",
                "CREATE TABLE trap (id public.evil, n int DEFAULT 1) PARTITION BY LIST (n);"
                "CREATE TABLE trap_1 PARTITION OF trap FOR VALUES IN (1);",
            )
        case "view":
            attack = attack.replace("CREATE TEMP TABLE trap (", "CREATE TABLE under (").replace(
                "CREATE TRIGGER t AFTER", "CREATE VIEW trap AS SELECT * FROM under; CREATE TRIGGER t INSTEAD OF"
            )
    documents.run(*attack.splitlines())
    assert documents.ran() == [] and queue(documents) == [] and faults(documents) == []


@pytest.mark.parametrize("kind", ["TABLE", "TEMP TABLE", "partitioned"])
@pytest.mark.parametrize("placement", ["column", "table"])
def test_a_table_that_looks_like_ours_is_another_all_the_same(
    documents: Hostile, api: LoopbackServer, tmp_path: Path, placement: str, kind: str
) -> None:
    prepare(documents, api, tmp_path, placement=placement, foreign_key=False)
    functions = capture_functions(documents)
    assert len(functions) == (3 if placement == "table" else 1)
    documents.as_admin(
        "GRANT USAGE ON SCHEMA embedtui TO PUBLIC",
        *(f"GRANT EXECUTE ON FUNCTION embedtui.{function}() TO PUBLIC" for function in functions),
    )
    with connect(documents.admin, name="test") as conn:
        columns = conn.execute(
            "SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)"
            " FROM pg_attribute WHERE attrelid = 'public.documents'::regclass AND attnum > 0 AND NOT attisdropped"
        ).fetchone()
    assert columns is not None
    names = columns[0].replace(" vector(", " public.vector(").replace(" halfvec(", " public.halfvec(")
    events = {"_row": "INSERT OR UPDATE", "_old_row": "UPDATE OR DELETE", "_all": "TRUNCATE"}
    if kind == "partitioned":
        made = [
            f"CREATE TABLE alike ({names}) PARTITION BY RANGE (id)",
            "CREATE TABLE alike_1 PARTITION OF alike DEFAULT",
        ]
    else:
        made = [f"CREATE {kind} alike ({names})"]
    for number, function in enumerate(functions):
        event = events[re.sub(r"capture_\d+", "", function)]
        level = "STATEMENT" if event == "TRUNCATE" else "ROW"
        made.append(
            f"CREATE TRIGGER t{number} AFTER {event} ON alike FOR EACH {level}"
            f" EXECUTE FUNCTION embedtui.{function}('u')"
        )
    documents.run(
        *made,
        "INSERT INTO alike (id, content, embedding) VALUES (1, 'one', array_fill(1, ARRAY[8])::public.vector)",
        "UPDATE alike SET id = 2, content = 'two'",
        "DELETE FROM alike",
        "TRUNCATE alike",
    )
    assert queue(documents) == [] and faults(documents) == []


@pytest.mark.parametrize("placement", ["column", "table"])
def test_an_application_without_any_right_of_ours_is_captured_all_the_same(
    documents: Hostile, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    prepare(documents, api, tmp_path, placement=placement, foreign_key=False)
    with psycopg.connect(documents.application_dsn, autocommit=True) as conn:
        for schema in ("public", "pg_temp"):  # whatever its search path
            conn.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(schema)))
            conn.execute("UPDATE public.documents SET content = content || '!' WHERE id = 1")
        conn.execute("INSERT INTO public.documents (id, content) VALUES (100, 'new')")
        conn.execute("DELETE FROM public.documents WHERE id = 2")
    assert queue(documents)[:3] == [(["1"], "u"), (["1"], "u"), (["100"], "i")]
    assert queue(documents)[3:] == ([(["2"], "d")] if placement == "table" else [])


@pytest.mark.parametrize("placement", ["column", "table"])
def test_the_next_run_closes_what_the_former_version_left_open(
    documents: Hostile, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    migration = prepare(documents, api, tmp_path, placement=placement, foreign_key=False)
    open_as_before(documents, migration)
    # a trap laid while it was open, and one function that somebody was let at by name
    documents.run(*temporary_table(documents, f"capture_{migration}_row")[:5], "CREATE TABLE lasting (id public.evil)")
    documents.run(
        f"CREATE TRIGGER t AFTER INSERT ON lasting FOR EACH ROW EXECUTE FUNCTION embedtui.capture_{migration}_row('i')"
    )
    documents.as_admin(f"GRANT EXECUTE ON FUNCTION embedtui.capture_{migration}_row() TO {documents.role}")
    prepare(documents, api, tmp_path, placement=placement, foreign_key=False)
    documents.run("INSERT INTO lasting VALUES (ROW(1))")
    assert documents.ran() == [] and queue(documents) == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        documents.run(
            "CREATE TABLE later (id public.evil)",
            f"CREATE TRIGGER t AFTER INSERT ON later FOR EACH ROW"
            f" EXECUTE FUNCTION embedtui.capture_{migration}_row('i')",
        )
    with psycopg.connect(documents.application_dsn, autocommit=True) as conn:
        conn.execute("UPDATE public.documents SET content = 'edited' WHERE id = 1")
    assert queue(documents) == [(["1"], "u")], "the triggers stayed"


def test_an_upgrade_gives_types_their_schema_and_closes_the_functions(
    hostile: Hostile, api: LoopbackServer, tmp_path: Path
) -> None:
    """From version 3: types as they were printed with public in the search path, a domain by its own name."""
    hostile.as_admin(
        "CREATE TYPE public.tenant AS ENUM ('a', 'b')",
        "CREATE DOMAIN public.number AS bigint",
        "CREATE TABLE public.documents (tenant public.tenant, n public.number, content text,"
        " embedding public.vector(8), PRIMARY KEY (tenant, n))",
        "INSERT INTO public.documents SELECT 'a', n, 'text ' || n FROM generate_series(1, 20) n",
    )
    migration = prepare(hostile, api, tmp_path)
    with psycopg.connect(hostile.admin) as conn:
        back_to(conn, 3)
    hostile.as_admin(
        "UPDATE embedtui.migration SET key_types = '{tenant,number}'",
        f"GRANT EXECUTE ON FUNCTION embedtui.capture_{migration}_row() TO PUBLIC",
    )
    engine = Engine(hostile.admin, settings=settings_for(hostile.admin, api, tmp_path))
    engine.run(threading.Event())
    found = engine.require()
    assert (found.key_types, found.content_types) == (("public.tenant", "bigint"), ("text",))
    assert found.key_equality == ("pg_catalog", "pg_catalog")
    hostile.as_admin("UPDATE public.documents SET content = 'edited' WHERE n = 1")
    engine.run(threading.Event())
    assert engine.verify(sample=20).clean
    engine.close()
    with connect(hostile.admin, name="test") as conn:
        assert conn.execute(
            "SELECT has_function_privilege('public', %s, 'EXECUTE')", [f"embedtui.capture_{migration}_row()"]
        ).fetchone() == (False,)


KEYS = {
    "enum": ("CREATE TYPE app.key AS ENUM ('1', '2', '3')", "app.key", "'1'", "1"),
    "composite": ("CREATE TYPE app.key AS (a int, b text)", "app.key", "'(1,x y)'", '(1,"x y")'),
    "domain over text": ("CREATE DOMAIN app.key AS text", "app.key", "'1'", "1"),
    "domain over an enum": (
        "CREATE TYPE app.base AS ENUM ('1', '2'); CREATE DOMAIN app.key AS app.base",
        "app.key",
        "'1'",
        "1",
    ),
    "array of an enum": ("CREATE TYPE app.key AS ENUM ('1', '2')", "app.key[]", "'{1,2}'", "{1,2}"),
    "range": ("CREATE TYPE app.key AS RANGE (subtype = int)", "app.key", "'[1,2)'", "[1,2)"),
    "boolean": ("", "boolean", "true", "true"),
    "character": ("", "character(5)", "'ab'", "ab"),
    "inet": ("", "inet", "'10.0.0.1'", "10.0.0.1/32"),
    "timestamptz": ("", "timestamptz", "'2026-01-31 12:00+02'", "2026-01-31 10:00:00+00"),
    "numeric": ("", "numeric(10,2)", "1.5", "1.50"),
}


@pytest.mark.parametrize("placement", ["column", "table"])
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.variants(22)
def test_a_key_of_any_type_is_queued_as_it_is_read_and_no_cast_of_its_owner_runs(
    hostile: Hostile, api: LoopbackServer, tmp_path: Path, kind: str, placement: str
) -> None:
    """The type's owner plants casts, operators and functions on it after the migration began."""
    create, declared, value, text = KEYS[kind]
    hostile.as_admin(f"CREATE SCHEMA app AUTHORIZATION {hostile.role}; GRANT USAGE ON SCHEMA app TO PUBLIC")
    if create:
        hostile.run(create)
    hostile.as_admin(
        f"CREATE TABLE public.documents (k {declared} PRIMARY KEY, content text, embedding public.vector(8))",
        f"GRANT INSERT, UPDATE ON public.documents TO {hostile.application}",
        f"GRANT USAGE ON SCHEMA app TO {hostile.application}",
    )
    prepare(hostile, api, tmp_path, placement=placement, foreign_key=False)
    if create and "domain" not in kind:
        hostile.run(
            f"CREATE FUNCTION app.as_text({declared}) RETURNS text LANGUAGE plpgsql AS"
            f" {hostile.tell('cast', 'RETURN 1;')}",
            f"CREATE FUNCTION app.same({declared}, {declared}) RETURNS boolean LANGUAGE plpgsql AS"
            f" {hostile.tell('operator', 'RETURN true;')}",
            f"CREATE OPERATOR app.= (FUNCTION = app.same, LEFTARG = {declared}, RIGHTARG = {declared})",
        )
        if "array" not in kind:
            hostile.run(
                f"CREATE CAST ({declared} AS text) WITH FUNCTION app.as_text({declared}) AS ASSIGNMENT",
                f"CREATE FUNCTION app.from_text(text) RETURNS {declared} LANGUAGE plpgsql AS"
                f" {hostile.tell('input cast', 'RETURN NULL;')}",
                f"CREATE CAST (text AS {declared}) WITH FUNCTION app.from_text(text) AS ASSIGNMENT",
            )
    with psycopg.connect(hostile.application_dsn, autocommit=True) as conn:
        conn.execute("SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'")
        conn.execute(f"INSERT INTO public.documents VALUES ({value}, 'one')")
    assert queue(hostile) == [([text], "i")]
    engine = Engine(hostile.admin, settings=settings_for(hostile.admin, api, tmp_path))
    engine.run(threading.Event())
    report = engine.verify(sample=10)
    assert (report.embedded, report.missing) == (1, 0), "the worker reads the key back"
    engine.close()
    assert [ran for ran in hostile.ran() if hostile.application not in ran] == []


def test_changing_the_type_of_the_key_gives_its_owner_nothing(
    documents: Hostile, api: LoopbackServer, tmp_path: Path
) -> None:
    """The table's owner is not the migration's: he may change the table, but not act as us."""
    documents.as_admin(f"ALTER TABLE public.documents OWNER TO {documents.role}")
    prepare(documents, api, tmp_path, placement="table", foreign_key=False)
    documents.run(
        *temporary_table(documents, "", "INSERT")[:3],
        "CREATE FUNCTION public.to_evil(bigint) RETURNS public.evil LANGUAGE sql IMMUTABLE AS 'SELECT ROW($1)::evil'",
    )
    with psycopg.connect(documents.dsn, autocommit=True) as conn:
        names = [
            name
            for (name,) in conn.execute(
                "SELECT tgname FROM pg_trigger WHERE tgrelid = 'public.documents'::regclass AND tgname ~ 'update|rekey'"
            )
        ]
        for name in names:  # their WHEN clauses hold the column's type
            conn.execute(f"DROP TRIGGER {name} ON public.documents")
        conn.execute("ALTER TABLE public.documents ALTER id TYPE public.evil USING public.to_evil(id)")
        conn.execute("INSERT INTO public.documents (id, content) VALUES (ROW(1000), 'x')")
    assert documents.ran() == []


PARTITIONED = """
CREATE TABLE public.documents (id bigint, region text, content text, embedding public.vector(8),
    PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE public.documents_eu PARTITION OF public.documents FOR VALUES IN ('eu');
CREATE TABLE public.documents_us PARTITION OF public.documents FOR VALUES IN ('us') PARTITION BY RANGE (id);
CREATE TABLE public.documents_us_1 PARTITION OF public.documents_us FOR VALUES FROM (0) TO (1000);
"""


@pytest.mark.parametrize("placement", ["column", "table"])
def test_the_tables_owner_goes_on_adding_partitions_and_they_are_captured(
    hostile: Hostile, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    hostile.as_admin(PARTITIONED, "SELECT 1")
    tables = ("documents", "documents_eu", "documents_us", "documents_us_1")
    hostile.as_admin(*(f"ALTER TABLE public.{table} OWNER TO {hostile.application}" for table in tables))
    prepare(hostile, api, tmp_path, placement=placement, foreign_key=False)
    with psycopg.connect(hostile.application_dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE documents_br PARTITION OF documents FOR VALUES IN ('br')")
        conn.execute("CREATE TABLE documents_cn (LIKE documents INCLUDING ALL)")
        conn.execute("ALTER TABLE documents ATTACH PARTITION documents_cn FOR VALUES IN ('cn')")
        conn.execute("CREATE TABLE documents_us_2 PARTITION OF documents_us FOR VALUES FROM (1000) TO (2000)")
        for number, region in ((1, "eu"), (2, "br"), (3, "cn"), (4, "us"), (1500, "us")):
            conn.execute("INSERT INTO documents (id, region, content) VALUES (%s, %s, 'x')", [number, region])
        conn.execute("ALTER TABLE documents DETACH PARTITION documents_cn")
        conn.execute("INSERT INTO documents_cn (id, region, content) VALUES (9, 'cn', 'no longer ours')")
    assert [key for key, _ in queue(hostile)] == [["1", "eu"], ["2", "br"], ["3", "cn"], ["4", "us"], ["1500", "us"]]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        hostile.as_admin("GRANT USAGE ON SCHEMA embedtui TO PUBLIC")
        hostile.run("CREATE TABLE mine (id bigint, region text)")
        hostile.run(
            f"CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION"
            f" embedtui.{capture_functions(hostile)[0]}('i')"
        )


@pytest.mark.parametrize("partitioned", [False, True])
def test_everything_with_our_rights_is_in_the_registry(
    hostile: Hostile, api: LoopbackServer, tmp_path: Path, partitioned: bool
) -> None:
    """Default privileges of the role that migrates open nothing either."""
    hostile.as_admin(f"ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {hostile.role}")
    if partitioned:
        hostile.as_admin(PARTITIONED, f"ALTER TABLE public.documents OWNER TO {hostile.application}")
    else:
        make_documents(hostile.admin, 20)
    prepare(hostile, api, tmp_path, placement="table", foreign_key=False)
    prepare(hostile, api, tmp_path, placement="table", foreign_key=False)  # a rerun changes nothing
    with connect(hostile.admin, name="cleanup") as conn:
        migration = load_migration(conn)
        assert migration is not None
        text = RowExpression("content", 'embedtui_row."content"', (("content", 25),))
        there = TextTable(migration.table, migration.table_oid, "", ("id",), ("id",), ("bigint",), (), text)
        texts = replace(migration, id=99, content=replace(text, elsewhere=there))  # as where they are in another table
        for statement in capture.functions_sql(texts, capture.attaching_roles(conn, texts)):
            conn.execute(statement)
        capture.close_functions(conn, texts)
        for statement in fold.prepare_sql(conn, migration, "embedding_v2"):
            conn.execute(statement)
        capture.close_functions(conn, migration, fold.functions_of(conn, migration))
    with connect(hostile.admin, name="test") as conn:
        found = conn.execute(
            """
            SELECT p.proname, p.prosecdef, pg_get_userbyid(p.proowner), p.proconfig,
                   ARRAY(SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END
                         FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                         WHERE a.grantee <> p.proowner)
            FROM pg_proc p WHERE p.pronamespace = 'embedtui'::regnamespace
            """
        ).fetchall()
        views = conn.execute(
            "SELECT c.relname, NOT coalesce(c.reloptions::text LIKE '%security_invoker=true%', false)"
            " FROM pg_class c WHERE c.relnamespace = 'embedtui'::regnamespace AND c.relkind IN ('v', 'm') ORDER BY 1"
        ).fetchall()
    for name, definer, owner, config, granted in found:
        entry = routine(name)
        assert entry is not None, f"{name} is not in the registry"
        path = next((line.partition("=")[2] for line in config or () if line.startswith("search_path=")), "")
        assert (definer, path) == (entry.definer, entry.search_path), name
        assert owner == "postgres", name
        if entry.public:
            assert "PUBLIC" in granted, name
        else:
            attaches = partitioned and name.startswith("capture_") and not name.endswith("_side")
            assert granted == ([hostile.application] if attaches else []), name
        if definer:
            assert path == "pg_catalog, pg_temp" and not entry.public, name
    for entry in ROUTINES:
        assert any(re.fullmatch(entry.name, name) for name, *_ in found), f"{entry.name} is nowhere"
    assert views == [(view.name, view.definer) for view in VIEWS]
    with connect(hostile.admin, name="test") as conn:
        outside = conn.execute(
            "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
            " WHERE p.prosecdef AND n.nspname NOT IN ('embedtui', 'pg_catalog', 'information_schema')"
        ).fetchall()
    assert outside == [], "nothing of ours elsewhere"
