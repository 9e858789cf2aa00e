"""SQL over a row: what is taken, what is refused and why, and that it means the same wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from embedtui.errors import SettingsError
from embedtui.model import RowExpression, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.expressions import disjoint, parse, reparse, row_sql
from tests.kits.support import connect

TABLE = TableName("Lib", "Vol % ume")
LONG = "ü" * 31  # 62 bytes
DDL = f"""
CREATE SCHEMA "Lib";
CREATE TYPE "Lib"."Sta te" AS ENUM ('live', 'gone');
CREATE DOMAIN "Lib".code AS text CHECK (value <> '');
CREATE TABLE "Lib"."Vol % ume" (
    id int PRIMARY KEY, "Ti tle" text, lang varchar(5), state "Lib"."Sta te", payload jsonb, tags text[], raw bytea,
    n int, at timestamptz, "100%" text, "{LONG}" text, code "Lib".code, vec vector(3));
INSERT INTO "Lib"."Vol % ume" VALUES
    (1, 'One', 'de', 'live', '{{"data": "a ''quoted'' text", "n": 3}}', '{{x,y}}', 'bytes', 5, '2026-01-31 12:00+00',
     '50%s', 'long', 'c', '[1,2,3]'),
    (2, NULL, 'en', 'gone', '{{}}', NULL, NULL, NULL, NULL, 'b', NULL, NULL, NULL);
"""


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(DDL)  # type: ignore[arg-type]
    with connect(database, read_only=True) as found:
        yield found


def over_rows(database: str, expression: RowExpression, path: str = "pg_catalog, pg_temp") -> list[object]:
    """Its values of both rows on a session of the application's, by an alias and by the table's own name."""
    with psycopg.connect(database, autocommit=True) as app:
        app.execute(f"SET search_path = {path}".encode())
        app.execute("SET standard_conforming_strings = off")
        values = []
        for row, called in ((sql.Identifier("a%b"), "AS {}"), (sql.Identifier("Lib", "Vol % ume"), "")):
            query = sql.SQL("SELECT {} FROM {} " + called + " ORDER BY id").format(
                row_sql(expression, row), sql.Identifier("Lib", "Vol % ume"), *([row] if called else [])
            )
            values.append([value for (value,) in app.execute(query.as_string(app).encode())])
    assert values[0] == values[1]
    return values[0]


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("lang = 'de'", [True, False]),
        ("lang LIKE 'd%' AND \"100%\" = '50%s'", [True, False]),
        ("n IN (5, -6) OR n BETWEEN 1 AND 2", [True, None]),
        ("at >= '2026-01-31'", [True, None]),
        ("state = 'live'", [True, False]),
        ("payload @> '{\"n\": 3}' AND payload ? 'data'", [True, False]),
        ("tags[1] = 'x' AND NOT tags @> ARRAY['z']", [True, None]),
        ("CASE lang WHEN 'de' THEN -n ELSE 0 END = -5", [True, False]),
        ("CASE WHEN n > 3 THEN true ELSE lang = 'en' END", [True, True]),
        (f"\"{LONG}\" IS DISTINCT FROM E'it''s\\n\\\\'", [True, True]),
        ("(vec <=> '[1,2,3]') < 0.5", [True, None]),
        ("lang ~* '^D' COLLATE \"C\" -- a comment", [True, False]),
        ("coalesce(nullif(trim(both ' ' from \"Ti tle\"), ''), 'x') = 'x'", [False, True]),
    ],
)
def test_a_condition_means_the_same_for_a_row_of_any_name(
    database: str, conn: Connection, given: str, values: list[object]
) -> None:
    found = parse(conn, TABLE, given, setting="scope", condition=True)
    assert found.given == given
    assert over_rows(database, found) == values


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("payload->>'data'", ["a 'quoted' text", None]),
        ("'# ' || \"Ti tle\" || E'\\n\\\\' || lang", ["# One\n\\de", None]),
        ("concat_ws(' ', \"Ti tle\", n, at AT TIME ZONE 'UTC')", ["One 5 2026-01-31 12:00:00", ""]),
        ("convert_from(raw, 'UTF8')", ["bytes", None]),
        ("array_to_string(tags, ', ')", ["x, y", None]),
        ("format('%s: %s', lang, \"100%\")", ["de: 50%s", "en: b"]),
        ("regexp_replace(lang, '(d)', '\\1\\1')", ["dde", "en"]),
        ("code || 'x'", ["cx", None]),
        ("CASE WHEN n > 3 THEN lang ELSE 'other' END", ["de", "other"]),
    ],
)
def test_a_text_means_the_same_for_a_row_of_any_name(
    database: str, conn: Connection, given: str, values: list[object]
) -> None:
    assert over_rows(database, parse(conn, TABLE, given, setting="content_sql")) == values


PLANTED = """
CREATE SCHEMA planted;
CREATE FUNCTION planted.lower(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'hijacked'$$;
CREATE FUNCTION planted.fn(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE OPERATOR planted.= (LEFTARG = text, RIGHTARG = text, FUNCTION = planted.fn);
"""


def test_nothing_planted_in_a_services_path_takes_part(database: str, conn: Connection) -> None:
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(PLANTED)  # type: ignore[arg-type]
    found = parse(conn, TABLE, "lower(lang) = 'fr'", setting="scope", condition=True)
    assert over_rows(database, found, "planted, pg_catalog") == [False, False]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("at > now()", "depends on time"),
        ("at::date = '2026-01-01'", "depends on time"),
        ("at > CURRENT_DATE", "depends on time or session"),
        ("random() < 0.5", "gives other values at other times"),
        ("n", "is integer, not a condition"),
        ("true", "names no column"),
        ("(SELECT true)", "holds a query, which may read other rows"),
        ('EXISTS (SELECT FROM "Lib"."Vol % ume" x WHERE x.id = n)', "may read other rows"),
        ("count(*) > 1", "is an aggregate"),
        ("rank() OVER () = 1", "is a window function"),
        ("unnest(tags) = 'x'", "gives several values"),
        ("embedtui_row.n = 1", "may not occur"),
        ("lang = E'\\x65mbedtui_row.n'", "may not occur"),
        ("lang::\"Lib\".code = 'x'", "casts to a domain"),
        ("nothing = 1", 'column "nothing" does not exist'),
        ('"Vol % ume".n = 1', "missing FROM-clause entry"),
        ("n = 1; DROP TABLE x", "syntax error"),
        ("n = 1) AS value, (n = 2", "specified more than once"),
        ('n = 1) AS value FROM "Lib"."Vol % ume" AS embedtui_none --', "syntax error"),
        ("n = ", "syntax error"),
    ],
)
def test_what_is_no_condition_of_the_row_alone_is_refused(conn: Connection, given: str, why: str) -> None:
    with pytest.raises(SettingsError, match=r"scope = ") as refused:
        parse(conn, TABLE, given, setting="scope", condition=True)
    assert why in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("given", "why", "hint"),
    [
        ("payload", "is jsonb, not a text", "(payload)::text"),
        ("lang || now()", "gives other values", ""),
        ("'a text'", "names no column", ""),
        ("string_agg(lang, '')", "is an aggregate", ""),
    ],
)
def test_what_is_no_text_of_the_row_is_refused(conn: Connection, given: str, why: str, hint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(conn, TABLE, given, setting="content_sql")
    assert why in refused.value.message
    assert hint in refused.value.hint


def test_a_function_that_another_role_could_replace_is_refused(database: str, conn: Connection) -> None:
    """Change capture would run it with our rights; one that we own in a schema of ours is as safe as ourselves."""
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS scope_app; CREATE ROLE scope_app")
        try:
            admin.execute("CREATE FUNCTION \"Lib\".f(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1'")
            given = '"Lib".f(lang)'
            assert over_rows(database, parse(conn, TABLE, given, setting="content_sql")) == ["de", "en"]
            for statement in ('ALTER FUNCTION "Lib".f OWNER TO scope_app', 'ALTER SCHEMA "Lib" OWNER TO scope_app'):
                admin.execute(statement.encode())
                with pytest.raises(SettingsError, match="could be replaced by its owner or its schema's"):
                    parse(conn, TABLE, given, setting="content_sql")
                admin.execute('ALTER FUNCTION "Lib".f OWNER TO CURRENT_USER')
            # of an extension whose owner it is, it goes only with the type that it takes
            admin.execute("ALTER SCHEMA public OWNER TO scope_app")
            assert parse(conn, TABLE, "vector_dims(vec)::text", setting="content_sql")
        finally:
            admin.execute("REASSIGN OWNED BY scope_app TO CURRENT_USER; DROP ROLE scope_app")


def test_scopes_that_exclude_one_another_are_proven_to(conn: Connection) -> None:
    def of(given: str) -> RowExpression:
        return parse(conn, TABLE, given, setting="scope", condition=True)

    for one, other in (
        ("lang = 'de'", "lang = 'en'"),
        ("n IN (1, 2)", "n IN (3, 4)"),
        ("n < 10", "n >= 10"),
        ("state = 'live'", "state = 'gone'"),
        ("n = 1 AND lang = 'de'", "lang = 'en'"),
        ("payload->>'t' = 'a'", "payload->>'t' = 'b'"),
        ("n IS NULL", "n = 5"),
    ):
        assert disjoint(conn, TABLE, of(one), of(other)), (one, other)
    for one, other in (("lang = 'de'", "n = 1"), ("n < 10", "n > 5"), ("lang = 'de'", "lang = 'de'")):
        assert not disjoint(conn, TABLE, of(one), of(other)), (one, other)


def test_a_renamed_and_a_retyped_column_is_followed(database: str, conn: Connection) -> None:
    found = parse(conn, TABLE, "lang = 'de' AND \"100%\" <> 'lang'", setting="scope", condition=True)
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(b"""ALTER TABLE "Lib"."Vol % ume" RENAME lang TO "100% lang" """)
        admin.execute(b"""ALTER TABLE "Lib"."Vol % ume" ALTER "100% lang" TYPE text""")
    names = {"lang": "100% lang"}
    now = reparse(conn, TABLE, found, names, setting="scope", condition=True)
    assert over_rows(database, now) == [True, False]
    assert ("100% lang", 25) in now.columns
    plain = parse(conn, TABLE, "\"100% lang\" = 'de'", setting="scope", condition=True)
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("""ALTER TABLE "Lib"."Vol % ume" ALTER "100% lang" TYPE int USING 1""")
    with pytest.raises(SettingsError, match="invalid input syntax for type integer"):
        reparse(conn, TABLE, plain, {}, setting="scope", condition=True)


def test_a_plan_by_it_leaves_nothing_behind(database: str, conn: Connection) -> None:
    parse(conn, TABLE, "lang = 'de'", setting="scope", condition=True)
    query = "SELECT count(*) FROM pg_class WHERE relpersistence = 't' OR relname LIKE 'embedtui%'"
    assert conn.execute(query).fetchone() == (0,)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        conn.execute("CREATE TABLE left_behind ()")
