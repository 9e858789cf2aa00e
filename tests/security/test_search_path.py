"""What the application plants in a schema that our roles' search path names is found by no session of ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.errors import DatabaseError, EmbedtuiError, ExitCode
from embedtui.model import Phase, Side
from embedtui.postgres.connect import SEARCH_PATH, connect, home_schemas
from embedtui.router import AsyncRouter, Router, put
from tests.kits.cli_kit import Shell
from tests.kits.hostile import OPERATORS, TYPES, VECTOR_OPERATORS, Hostile, called_functions
from tests.kits.support import NEW, OLD, make_documents, settings_for

PLACEMENTS = pytest.mark.parametrize("placement", ["column", "table"])


def engine_for(hostile: Hostile, api: LoopbackServer, folder: Path, **flags: object) -> Engine:
    return Engine(hostile.admin, settings=settings_for(hostile.admin, api, folder, flags))


def plant_everything(hostile: Hostile) -> None:
    """Overloads for every catalog function our SQL may call, operators, casts and types, all in public."""
    names = called_functions()
    with psycopg.connect(hostile.dsn, autocommit=True, options="-c search_path=pg_catalog") as conn:
        # all planted bodies tell who runs them, so planting itself need not be fast
        conn.execute("SET synchronous_commit = off")
        with conn.transaction():
            functions = hostile.plant_functions(conn, names)
            operators = hostile.plant_operators(conn, OPERATORS, TYPES)
            operators += hostile.plant_operators(
                conn, VECTOR_OPERATORS, ("public.vector", "public.halfvec", "text", "public.vector[]"), same=False
            )
            for name in ("text", "uuid", "oid", "name", "jsonb", "tid", "regclass", "timestamptz", "bool", "int8"):
                conn.execute(
                    f'CREATE FUNCTION public."check_{name}"(pg_catalog.{name}) RETURNS boolean LANGUAGE plpgsql'
                    f" AS {hostile.tell('domain ' + name, 'RETURN true;')}"
                )
                conn.execute(f'CREATE DOMAIN public."{name}" AS pg_catalog.{name} CHECK (public."check_{name}"(VALUE))')
    assert functions > 500 and operators > 5_000


def test_the_reported_attack(hostile: Hostile, api: LoopbackServer, tmp_path: Path) -> None:
    """``public.pg_try_advisory_lock(integer, smallint)`` fits our call better than the catalog's."""
    make_documents(hostile.admin, 20)
    hostile.run(
        "CREATE FUNCTION public.pg_try_advisory_lock(integer, smallint) RETURNS boolean LANGUAGE plpgsql AS"
        f" {hostile.tell('lock', 'RETURN true;')}"
    )
    with psycopg.connect(hostile.admin, autocommit=True) as conn:
        conn.execute("SELECT pg_try_advisory_lock(%s, %s)", [0x656D7072 & 0x7FFFFFFF, 1])
    assert hostile.ran() == ["lock as postgres"], "a session with the role's own path is taken in"
    engine = engine_for(hostile, api, tmp_path)
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    engine.close()
    assert hostile.ran() == ["lock as postgres"], "ours are not"


@PLACEMENTS
@pytest.mark.variants(2)
def test_a_whole_journey_meets_nothing_planted(
    hostile: Hostile, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    make_documents(hostile.admin, 60, index=True)
    plant_everything(hostile)
    engine = engine_for(hostile, api, tmp_path, placement=placement, **{"gate.where": "id > 0"})
    assert engine.plan().statements
    engine.prepare()
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    hostile.as_admin(
        "UPDATE public.documents SET content = 'edited' WHERE id = 1",
        "DELETE FROM public.documents WHERE id = 2",
        "INSERT INTO public.documents (id, content) VALUES (1000, 'inserted')",
    )
    engine.run(threading.Event())
    assert engine.verify(sample=60, repair=True).clean
    comparison = engine.compare()
    assert comparison.queries
    engine.last_comparison()
    engine.search_both("document number 7", where="id < 1000")
    engine.decide(comparison.queries[0].query_id, "same")
    engine.pause()
    engine.resume()
    engine.retry_faults()
    engine.skip_faults()
    engine.set_pace(max_concurrency=4)
    engine.cutover(10, override={"gate": "a test"})
    engine.cutover(override={"gate": "a test"})
    hostile.as_admin("UPDATE public.documents SET content = 'edited again' WHERE id = 3")
    engine.run(threading.Event())
    engine.rollback()
    engine.cutover(override={"gate": "a test"})
    engine.snapshot(), engine.audit(), engine.faults(), engine.blockers("cleanup"), engine.notices()
    archive = "public.old_vectors"
    engine.cleanup_sql(archive=archive)
    known = {blocker.token: "a test" for blocker in engine.blockers("cleanup")}
    engine.cleanup("documents", override=known, archive=archive)
    assert engine.snapshot().phase is Phase.DONE
    engine.close()
    assert hostile.ran() == []


@PLACEMENTS
@pytest.mark.variants(2)
def test_an_abort_and_the_command_line_meet_nothing_planted(
    hostile: Hostile, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    make_documents(hostile.admin, 20)
    plant_everything(hostile)
    shell = Shell(tmp_path, settings_for(hostile.admin, api, tmp_path).environ)
    for command in (
        f"init --table documents --old-model {OLD} --placement {placement}",
        *("plan", "run", "status", "compare", "pause", "resume", "faults", "log", "abort --table documents"),
    ):
        result = shell.spawn(*command.split())
        assert "Traceback" not in result.err and result.code in (0, ExitCode.NOT_CLEAN), (command, result)
    engine = Engine(hostile.admin, settings=settings_for(hostile.admin, api, tmp_path, {"placement": placement}))
    engine.prepare()
    engine.abort("documents")
    assert engine.snapshot().phase is Phase.ABORTED
    engine.close()
    assert hostile.ran() == []


def waited(condition: Callable[[], object]) -> bool:
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@PLACEMENTS
@pytest.mark.parametrize("path", ['"$user", public', "public, pg_catalog"])
@pytest.mark.variants(4)
async def test_a_service_with_its_own_search_path_meets_nothing_planted(
    hostile: Hostile, api: LoopbackServer, tmp_path: Path, placement: str, path: str
) -> None:
    """The Router's, ``put``'s and the SQL functions' statements, on the service's session as it is."""
    make_documents(hostile.admin, 30, key="id text PRIMARY KEY")
    engine = engine_for(hostile, api, tmp_path, placement=placement, content="content")
    engine.run(threading.Event())
    service = hostile.application
    hostile.as_admin(
        f"GRANT USAGE ON SCHEMA embedtui TO {service}; GRANT SELECT ON embedtui.route_side TO {service};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON embedtui.listener TO {service};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {service};"
        f"ALTER ROLE {service} IN DATABASE {hostile.database} SET search_path = {path}"
    )
    plant_everything(hostile)
    vectors = {OLD: hash_model(8)(["document number 7"], None)[0], NEW: hash_model(16)(["document number 7"], None)[0]}
    with (
        Router(hostile.application_dsn, poll_seconds=0.05) as router,
        psycopg.connect(hostile.application_dsn, autocommit=True) as conn,
    ):
        for side, model in ((Side.OLD, OLD), (Side.NEW, NEW)):
            assert waited(lambda wanted=side: router.route("documents").side is wanted)
            route = router.route("documents")
            assert route.search(conn, vectors[model], 3)[0].key == ("7",)
            assert route.search(conn, vectors[model], 3, where="content IS NOT NULL", columns=["content"])
            assert router.write(conn, "documents", 7, vectors[model], model=model, content="document number 7")
            assert router.write(conn, "documents", 7, vectors[model], model=model)
            assert put(conn, "documents", 7, model, vectors[model])
            call = "SELECT key FROM embedtui.search('documents', %s, %s, 1, %s)"
            for given in (None, "content IS NOT NULL"):
                assert conn.execute(call, [model, route.bind(vectors[model]), given]).fetchone() == ("7",)
            call = "SELECT side, model, model_id, relation, canary, epoch FROM embedtui.route('documents', 'user-1')"
            assert conn.execute(call).fetchone()
            conn.execute("SELECT embedtui.side_for('documents', 'user-1')")
            with pytest.raises(psycopg.Error):
                conn.execute("SELECT embedtui.search('documents', 'nobody', %s)", [route.bind(vectors[model])])
            if side is Side.OLD:
                engine.cutover(override={"gate": "a test"})
    own = await psycopg.AsyncConnection.connect(hostile.application_dsn, autocommit=True)
    async with AsyncRouter(hostile.application_dsn) as asynchronous, own:
        found = await asynchronous.route("documents").search(own, vectors[NEW], 1)
        assert found[0].key == ("7",)
        assert await asynchronous.write(own, "documents", 7, vectors[NEW], model=NEW)
    engine.close()
    assert hostile.ran() == []


def test_every_session_has_our_search_path_whatever_role_database_or_string_say(hostile: Hostile) -> None:
    assert SEARCH_PATH == "pg_catalog, pg_temp", "nobody else's schema, and temporary objects last"
    hostile.as_admin("CREATE SCHEMA app", f"ALTER DATABASE {hostile.database} SET search_path = app, public")
    string = psycopg.conninfo.make_conninfo(hostile.admin, options="-c search_path=public,app")
    for dsn, home in ((hostile.admin, ["app", "public"]), (string, ["public", "app"])):
        for options in ({}, {"read_only": True}, {"autocommit": False}):
            with connect(dsn, name="test", **options) as conn:
                assert conn.execute("SHOW search_path").fetchone() == (SEARCH_PATH,)
                assert home_schemas(conn) == home, "where a bare table name is looked up"
                assert conn.execute("SHOW search_path").fetchone() == (SEARCH_PATH,)


def test_temporary_objects_shadow_nothing(hostile: Hostile, api: LoopbackServer, tmp_path: Path) -> None:
    """A table of ours or of the catalog's is never looked up among the session's temporary ones."""
    with connect(hostile.admin, name="test") as conn:
        for name in ("pg_class", "pg_namespace", "pg_trigger", "pg_proc", "pg_index"):
            conn.execute(f"CREATE TEMP TABLE {name} (oid oid)")
            found = conn.execute(f"SELECT to_regclass('{name}')::oid = 'pg_catalog.{name}'::regclass").fetchone()
            assert found == (True,)


def test_the_table_is_found_by_the_roles_own_search_path(hostile: Hostile, api: LoopbackServer, tmp_path: Path) -> None:
    hostile.as_admin("CREATE SCHEMA app")
    for schema in ("app", "public"):
        make_documents(hostile.admin, 5, table=f"{schema}.documents")
    hostile.as_admin(f"ALTER DATABASE {hostile.database} SET search_path = app, public")
    engine = engine_for(hostile, api, tmp_path)
    assert engine.plan().table.schema == "app"
    engine.close()


@PLACEMENTS
def test_types_of_other_schemas_serve_as_key_and_content(
    hostile: Hostile, api: LoopbackServer, tmp_path: Path, placement: str
) -> None:
    hostile.as_admin(
        "CREATE SCHEMA app",
        "CREATE TYPE app.tenant AS ENUM ('a', 'b')",
        "CREATE DOMAIN app.number AS bigint CHECK (VALUE > 0)",
        "CREATE TYPE app.body AS (title text, text text)",
        "CREATE TABLE app.documents (tenant app.tenant, n app.number, content app.body, embedding public.vector(8),"
        " PRIMARY KEY (tenant, n))",
        "INSERT INTO app.documents SELECT CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END::app.tenant, n,"
        " ROW('title', 'text ' || n)::app.body FROM generate_series(1, 40) n",
    )
    engine = engine_for(
        hostile, api, tmp_path, placement=placement, schema="app", content="content", key="tenant,n", name="documents"
    )
    engine.run(threading.Event())
    hostile.as_admin(
        "UPDATE app.documents SET content.text = 'edited' WHERE n = 1", "DELETE FROM app.documents WHERE n=2"
    )
    engine.run(threading.Event())
    report = engine.verify(sample=40)
    assert report.clean and report.embedded == 39, report
    engine.close()


def test_a_filter_that_needs_a_schema_says_so(hostile: Hostile, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(hostile.admin, 20)
    hostile.as_admin("CREATE FUNCTION public.good(bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 > 5'")
    engine = engine_for(hostile, api, tmp_path)
    engine.run(threading.Event())
    with pytest.raises(EmbedtuiError) as caught:
        engine.search_both("document number 7", where="good(id)")
    assert "good(bigint)" in str(caught.value) and "schema" in caught.value.hint
    found = engine.search_both("document number 7", where="public.good(id)")
    assert found.new
    engine.close()


def test_a_trigger_function_that_needs_a_search_path_is_named(
    hostile: Hostile, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(hostile.admin, 20)
    hostile.as_admin(
        "CREATE TABLE public.log (id bigint)",
        "CREATE FUNCTION public.logged() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO log VALUES (NEW.id); RETURN NEW; END $$",
        "CREATE TRIGGER logged BEFORE UPDATE ON public.documents FOR EACH ROW EXECUTE FUNCTION public.logged()",
    )
    engine = engine_for(hostile, api, tmp_path, placement="column", fire_triggers=True)
    checks = [check for check in engine.plan().checks if "logged" in check.detail and "search_path" in check.hint]
    assert checks, "plan says it before anything is paid"
    engine.close()
    engine = engine_for(hostile, api, tmp_path, placement="column")
    [check] = [check for check in engine.plan().checks if "logged" in check.detail]
    assert check.result == "pass", "a superuser's writes do not fire it"
    engine.close()
    hostile.as_admin("ALTER FUNCTION public.logged() SET search_path = public, pg_temp")
    engine = engine_for(hostile, api, tmp_path, placement="column", fire_triggers=True)
    assert not [check for check in engine.plan().checks if "search_path" in check.hint]
    engine.run(threading.Event())
    assert engine.verify().clean
    engine.close()


# ------------------------------------------------------------------------------------------------ whose schema it is


def test_a_schema_that_somebody_else_made_is_refused(hostile: Hostile, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(hostile.admin, 20)
    hostile.as_admin(f"GRANT CREATE ON DATABASE {hostile.database} TO {hostile.role}")
    hostile.run(
        "CREATE SCHEMA embedtui",
        "CREATE TABLE embedtui.schema_version (version integer)",
        f"CREATE FUNCTION embedtui.planted() RETURNS trigger LANGUAGE plpgsql AS {hostile.tell('trigger')}",
        "CREATE TRIGGER t BEFORE INSERT ON embedtui.schema_version FOR EACH ROW EXECUTE FUNCTION embedtui.planted()",
        f"CREATE FUNCTION embedtui.rows() RETURNS integer LANGUAGE plpgsql AS {hostile.tell('view', 'RETURN 4;')}",
        "CREATE VIEW embedtui.migration AS SELECT embedtui.rows() AS id, 'x'::text AS name, 'run'::text AS phase,"
        " 0::oid AS table_oid",
        "GRANT ALL ON SCHEMA embedtui TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA embedtui TO PUBLIC",
    )
    engine = engine_for(hostile, api, tmp_path)
    for act in (engine.plan, engine.prepare, lambda: engine.run(threading.Event()), engine.snapshot):
        with pytest.raises(DatabaseError, match=rf"embedtui belongs to role {hostile.role}"):
            act()
    engine.close()
    with pytest.raises(DatabaseError, match="belongs to role"):
        connect(hostile.application_dsn, name="test")
    with connect(hostile.dsn, name="test"):
        pass  # his own
    assert hostile.ran() == []


@pytest.mark.parametrize("database_owner", [False, True])
def test_a_complete_copy_of_our_schema_is_refused_as_well(
    hostile: Hostile, api: LoopbackServer, tmp_path: Path, database_owner: bool
) -> None:
    """Also one of the database's owner: that is often the application, and a superuser has more to lose."""
    make_documents(hostile.admin, 20)
    hostile.as_admin(f"GRANT CREATE ON DATABASE {hostile.database} TO {hostile.role}")
    make_documents(hostile.dsn, 20, table="mine")
    own = Engine(hostile.dsn, settings=settings_for(hostile.dsn, api, tmp_path, {"table": "mine"}))
    own.prepare()
    own.close()
    hostile.run(
        "CREATE FUNCTION public.planted() RETURNS trigger LANGUAGE plpgsql AS"
        f" {hostile.tell('trigger', 'RETURN NEW;')}",
        "CREATE TRIGGER t BEFORE INSERT ON embedtui.audit FOR EACH ROW EXECUTE FUNCTION public.planted()",
    )
    if database_owner:
        hostile.as_admin(f"ALTER DATABASE {hostile.database} OWNER TO {hostile.role}")
    engine = engine_for(hostile, api, tmp_path)
    with pytest.raises(DatabaseError, match="belongs to role"):
        engine.run(threading.Event())
    engine.close()
    hostile.as_admin(f"ALTER DATABASE {hostile.database} OWNER TO postgres")
    assert hostile.ran() == []


def test_an_object_of_somebody_elses_in_our_schema_is_refused(
    hostile: Hostile, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(hostile.admin, 20)
    engine = engine_for(hostile, api, tmp_path)
    engine.prepare()
    hostile.as_admin(f"GRANT ALL ON SCHEMA embedtui TO {hostile.role}")
    hostile.run("CREATE FUNCTION embedtui.search(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT 1'")
    with pytest.raises(DatabaseError, match=rf"search.* belongs to role {hostile.role}"):
        engine.run(threading.Event())
    engine.close()
