"""What the plan finds around a table, and what of it stops plan and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.demo.database import EmbeddedServer
from embedtui.engine.plan.draft import resolve
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.start import require_ready
from embedtui.errors import Refused
from embedtui.model import Check
from tests.kits.support import connect
from tests.kits.tables import settings_of

PAGES = """CREATE TABLE pages (nr int PRIMARY KEY, body text, vec vector(5));
INSERT INTO pages VALUES (1, 'a page of text', '[1,0,0,0,0]');"""


def run(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statements)  # type: ignore[arg-type]


def checks(dsn: str, **flags: Any) -> list[Check]:
    given = {"table": "pages", "new_model__key_variable": "", "new_model__base_url": "http://127.0.0.1:9", **flags}
    settings = settings_of(Path(), given)
    with connect(dsn, read_only=True) as conn:
        made = make_plan(conn, settings)
        failed = [check for check in made.checks if check.result == "fail"]
        if failed:  # what the plan finds in the way, the run does as well, and before it has made anything
            with pytest.raises(Refused) as caught:
                require_ready(conn, resolve(conn, settings), settings)
            assert str(failed[0].detail) in str(caught.value)
        else:
            require_ready(conn, resolve(conn, settings), settings)
    return list(made.checks)


def named(found: list[Check], name: str) -> Check | None:
    return next((check for check in found if check.name == name), None)


def only(found: list[Check], name: str) -> Check:
    (check,) = [check for check in found if check.name == name]
    return check


def event_trigger(name: str, event: str, tags: str, body: str) -> str:
    when = f"WHEN TAG IN ({tags})" if tags else ""
    return f"""CREATE FUNCTION {name}() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
        CREATE EVENT TRIGGER {name} ON {event} {when} EXECUTE FUNCTION {name}();"""


@pytest.mark.parametrize("error", ["RAISE EXCEPTION 'not here'", "raise 'no'", "RAISE SQLSTATE '0A000'"])
def test_an_event_trigger_that_refuses_triggers_proposes_the_scan(database: str, error: str) -> None:
    run(database, PAGES + event_trigger("no_triggers", "ddl_command_start", "'CREATE TRIGGER'", f"{error};"))
    check = only(checks(database), "event triggers")
    assert check.result == "fail"
    assert "no_triggers can refuse CREATE TRIGGER" in check.detail
    assert 'change_capture = "scan"' in check.hint
    assert named(checks(database, change_capture="scan"), "event triggers") is None
    assert only(checks(database, accept="event triggers"), "event triggers").result == "warn"


def test_an_event_trigger_on_other_commands_counts_where_they_are_made(database: str) -> None:
    run(database, PAGES + event_trigger("frozen", "ddl_command_end", "'ALTER TABLE'", "RAISE EXCEPTION 'frozen';"))
    assert only(checks(database, placement="column"), "event triggers").result == "fail"
    assert named(checks(database, placement="table"), "event triggers") is None
    run(database, "ALTER EVENT TRIGGER frozen DISABLE")
    assert named(checks(database, placement="column"), "event triggers") is None


def test_an_event_trigger_that_only_looks_on_warns(database: str) -> None:
    run(database, PAGES + event_trigger("watch", "ddl_command_end", "", "NOTIFY watched;"))
    assert only(checks(database), "event triggers").result == "warn"
    run(database, "DROP EVENT TRIGGER watch;" + event_trigger("drops", "sql_drop", "", "RAISE EXCEPTION 'no';"))
    assert named(checks(database), "event triggers") is None


def test_a_hypertable_is_not_told_to_give_up_its_inheritance(database: str) -> None:
    run(
        database,
        PAGES + "CREATE SCHEMA _timescaledb_internal; CREATE TABLE _timescaledb_internal.c () INHERITS (pages)",
    )
    check = only(checks(database), "inheritance")
    assert check.result == "fail"
    assert "hypertable" in check.detail
    assert "NO INHERIT" not in check.hint


def test_row_security_of_a_side_table_is_said(database: str) -> None:
    run(database, PAGES + "ALTER TABLE pages ENABLE ROW LEVEL SECURITY")
    check = only(checks(database, placement="table"), "row security of the new side")
    assert check.result == "warn" and "policies that ask pages" in check.detail and "DROP TABLE" not in check.detail
    loose = only(checks(database, placement="table", foreign_key=False), "row security of the new side")
    assert "DROP TABLE pages without CASCADE" in loose.detail
    assert named(checks(database, placement="column"), "row security of the new side") is None


def test_an_event_trigger_that_closes_new_tables_is_said(database: str) -> None:
    body = "EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', 'x');"
    run(database, PAGES + event_trigger("rls", "ddl_command_end", "'CREATE TABLE', 'CREATE TABLE AS'", body))
    assert "rls" in only(checks(database, placement="table"), "row security of the new side").detail
    assert named(checks(database, placement="column"), "row security of the new side") is None


def test_the_plan_shows_what_keeps_a_side_table_as_closed(database: str) -> None:
    role = f'"visitor of {database.split("/")[3].split("?")[0]}"'
    grants = f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO {role}; GRANT SELECT ON pages TO {role}"
    run(database, f"{PAGES} CREATE ROLE {role}; {grants}; ALTER TABLE pages ENABLE ROW LEVEL SECURITY")
    try:
        with connect(database, read_only=True) as conn:
            shown = make_plan(conn, settings_of(Path(), {"table": "pages", "placement": "table"})).statements
        closed = f'REVOKE ALL ON "public"."pages_embedding_v2" FROM {role};'
        opened = f'GRANT SELECT ON "public"."pages_embedding_v2" TO {role};'
        assert shown.index(closed) < shown.index(opened)
        assert any(text.startswith('CREATE POLICY "embedtui_read"') for text in shown)
    finally:
        run(database, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_other_vectors_of_either_size_are_named(database: str) -> None:
    run(
        database,
        PAGES
        + """CREATE TABLE cache (q text PRIMARY KEY, e vector(8)); CREATE TABLE seen (e halfvec(5));
        CREATE TABLE far (e vector(9)); CREATE TABLE loose (e vector);
        CREATE SCHEMA "Other"; CREATE MATERIALIZED VIEW "Other"."M" AS SELECT nr, vec FROM public.pages;
        ALTER TABLE pages ADD summary_vec vector(5)""",
    )
    check = only(checks(database, old_column="vec"), "other vectors")
    assert check.result == "warn"
    for name in ("cache.e (8)", "seen.e (5)", '"Other"."M".vec (5)', "pages.summary_vec (5)", "loose.e (any size)"):
        assert name in check.detail
    assert "far" not in check.detail
    assert "pages.vec" not in check.detail.replace("pages.vec_", "")


def test_a_trigger_that_a_side_table_spares_is_fired_after_the_cutover(database: str) -> None:
    """The old column is kept current for a rollback: by an update of the very table that was to be spared."""
    made = """CREATE FUNCTION changed() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS
        $$ BEGIN RETURN NEW; END $$;
        CREATE TRIGGER noted BEFORE UPDATE ON pages FOR EACH ROW EXECUTE FUNCTION changed();
        CREATE TRIGGER titled BEFORE UPDATE OF nr ON pages FOR EACH ROW EXECUTE FUNCTION changed();"""
    run(database, PAGES + made)
    flags: dict[str, Any] = {"placement": "table", "old_model__name": "o", "old_model__key_variable": ""}
    flags["old_model__base_url"] = "http://127.0.0.1:9"
    assert only(checks(database, **flags), "triggers").result == "pass"
    flags["fire_triggers"] = True
    check = only(checks(database, **flags), "triggers")
    assert (check.result, "titled" in check.detail) == ("warn", False)
    assert "After the cutover each edited row gets its old vector anew" in check.detail
    assert "fires noted" in check.detail
    assert named(checks(database, **flags, old_model__retired=True), "triggers") is None


def test_a_table_on_its_own_has_nothing_to_say(database: str) -> None:
    run(database, PAGES)
    names = {check.name for check in checks(database, placement="table")} | {check.name for check in checks(database)}
    assert not names & {
        "other vectors",
        "default privileges",
        "event triggers",
        "row security of the new side",
        "triggers",
        "views",
        "collation",
        "inheritance",
        "rules",
    }


def test_what_takes_part_in_writes_is_said(database: str) -> None:
    run(
        database,
        PAGES
        + """CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER counted AFTER UPDATE ON pages FOR EACH STATEMENT EXECUTE FUNCTION count_it();
        CREATE VIEW readable AS SELECT nr, body FROM pages; CREATE VIEW sums AS SELECT count(*) FROM pages;""",
    )
    found = checks(database, placement="column")
    assert "counted" in only(found, "triggers").detail
    assert only(found, "views").detail.startswith("The table is written through readable as well")
    run(database, "CREATE RULE kept AS ON UPDATE TO pages WHERE old.nr = 0 DO INSTEAD NOTHING")
    found = [check for check in checks(database, placement="column") if check.name == "rules"]
    assert "fail" in {check.result for check in found}
    assert 'placement = "table"' in next(check.hint for check in found if check.result == "fail")
    assert "fail" not in {check.result for check in checks(database, placement="table") if check.name == "rules"}


@pytest.mark.parametrize(
    ("rule", "result"),
    [
        ("ON UPDATE TO pages DO ALSO NOTIFY changed", "fail"),
        ("ON UPDATE TO pages WHERE new.nr > 5 DO INSTEAD NOTHING", "fail"),
        ("ON INSERT TO pages DO ALSO NOTIFY changed", "warn"),
    ],
)
def test_rules_that_come_between_a_write_and_the_table_stop_it(database: str, rule: str, result: str) -> None:
    run(database, f"{PAGES} CREATE RULE between_us AS {rule}")
    found = [check for check in checks(database, placement="column") if check.name == "rules"]
    assert (max(check.result == "fail" for check in found), "between_us" in found[-1].detail) == (
        result == "fail",
        True,
    )
    assert {check.result for check in checks(database, placement="table") if check.name == "rules"} == {"warn"}


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_all_characters_is_refused(server: EmbeddedServer, encoding: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE narrow TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'".encode()
        )
    try:
        run(server.dsn("narrow"), f"CREATE EXTENSION vector; {PAGES}")
        check = only(checks(server.dsn("narrow")), "encoding")
        assert check.result == "fail" and encoding in check.detail
    finally:
        run(server.dsn(), "DROP DATABASE narrow WITH (FORCE)")


@pytest.mark.parametrize(("more", "result"), [(1594, None), (1595, "fail")])
def test_a_table_that_has_no_columns_left_says_so(database: str, more: int, result: str | None) -> None:
    columns = ", ".join(f"ADD c{number} bool" for number in range(more))
    run(database, f"{PAGES} ALTER TABLE pages {columns}; ALTER TABLE pages DROP c0, DROP c1")
    check = named(checks(database, placement="column"), "columns")
    assert (check.result if check is not None else None) == result
    check = named(checks(database, placement="table"), "columns")
    assert (check.result if check is not None else None) == ("warn" if result else None)
