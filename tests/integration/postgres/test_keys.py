"""A row's key is one text, whatever the sessions' settings: no edit is missed, whatever type the key has."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.backfill.stages import Stages
from embedtui.engine.backfill.upkeep import Upkeep
from embedtui.engine.engine import Engine
from embedtui.postgres.sides import capture
from embedtui.router.route_snapshot import _key as key_texts
from tests.conftest import FAST, POSTGRES
from tests.kits.support import NEW, OLD, settings_for

NEW_MODEL = hash_model(16)
ROWS = 4

# a key's columns, and their values in row i
KEYS = {
    "timestamptz": ("k timestamptz PRIMARY KEY", "timestamptz '2026-03-29 00:30:00.25+00' + i * interval '17 min'"),
    "timestamp": ("k timestamp PRIMARY KEY", "timestamp '2026-02-03 04:05' + i * interval '33 days'"),
    "date": ("k date PRIMARY KEY", "date '2026-01-02' + i"),
    "timetz": ("k timetz PRIMARY KEY", "timetz '10:00+05' + i * interval '1 min'"),
    "interval": ("k interval PRIMARY KEY", "i * interval '1 mon -2 days 03:04:05.6'"),
    "float8": ("k float8 PRIMARY KEY", "i / 7.0"),
    "float4": ("k float4 PRIMARY KEY", "i / 3.0"),
    "bytea": ("k bytea PRIMARY KEY", r"pg_catalog.decode('00275cff', 'hex') || pg_catalog.decode('0' || i, 'hex')"),
    "money": ("k money PRIMARY KEY", "(i * 1234.5)::money"),
    "tstzrange": ("k tstzrange PRIMARY KEY", "tstzrange(timestamptz '2026-01-01 00:00+00' + i * interval '1 h', NULL)"),
    "tstzmultirange": (
        "k tstzmultirange PRIMARY KEY",
        "tstzmultirange(tstzrange(timestamptz '2026-01-01 00:00+00' + i * interval '1 h', NULL))",
    ),
    "float8[]": ("k float8[] PRIMARY KEY", "ARRAY[i / 7.0, NULL, 1e-300]::float8[]"),
    "composite": (
        "k app.pair PRIMARY KEY",
        "ROW(timestamptz '2026-01-02 00:00+00' + i * interval '1 d', i / 7.0)::app.pair",
    ),
    "domain": ("k app.moment PRIMARY KEY", "timestamptz '2026-07-02 00:00+00' + i * interval '1 d'"),
    "domain of bytea": ("k app.digest PRIMARY KEY", r"pg_catalog.decode('5c0' || i, 'hex')"),
    "composite of others": (
        "k app.odd PRIMARY KEY",
        "ROW(i * interval '3 h', pg_catalog.decode('5c0' || i, 'hex'), (i * 2.5)::money,"
        " tstzrange(timestamptz '2026-01-01 00:00+00' + i * interval '1 h', NULL))::app.odd",
    ),
    "domain of composite": (
        "k app.odd_pair PRIMARY KEY",
        "ROW(timestamptz '2026-01-02 00:00+00' + i * interval '1 d', i / 7.0)::app.pair",
    ),
    "composite[]": (
        "k app.pair[] PRIMARY KEY",
        "ARRAY[ROW(timestamptz '2026-01-02 00:00+00' + i * interval '1 d', i / 7.0)::app.pair]",
    ),
    "citext": ("k app.citext PRIMARY KEY", "('Key ' || i)::app.citext"),
    "numeric": ("k numeric PRIMARY KEY", "i + 0.10"),
    "numrange": ("k numrange PRIMARY KEY", "numrange(i + 0.10, NULL)"),
    "jsonb": ("k jsonb PRIMARY KEY", "jsonb_build_object('n', i + 0.10)"),
    "enum": ("k app.stage PRIMARY KEY", "(ARRAY['one', 'Two', 'a, b', '\"three\"'])[i]::app.stage"),
    "regclass": (
        "k regclass PRIMARY KEY",
        "('information_schema.' || (ARRAY['tables', 'columns', 'views', 'domains'])[i])::regclass",
    ),
    "two columns": (
        "n bigint, k timestamptz, PRIMARY KEY (n, k)",
        "i, timestamptz '2026-10-25 00:30+00' + i * interval '30 min'",
    ),
}

# an expression for the same value in another text
REWRITTEN = {
    "citext": "upper(k::text)::app.citext",
    "numeric": "(k::text || '00')::numeric",
    "numrange": "numrange((lower(k)::text || '00')::numeric, NULL)",
    "jsonb": "jsonb_build_object('n', ((k->>'n') || '00')::numeric)",
    "interval": "make_interval(days => 30 * extract(month FROM k)::int) + (k - date_trunc('month', k))",
}

# all of them at once: an example that leaves out the one that matters to a type would prove nothing
SETTINGS = st.fixed_dictionaries(
    {
        "TimeZone": st.sampled_from(["Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "UTC", "<+03>-03"]),
        "DateStyle": st.sampled_from(["German", "SQL, DMY", "Postgres, YMD", "ISO, DMY"]),
        "IntervalStyle": st.sampled_from(["sql_standard", "iso_8601", "postgres_verbose"]),
        "bytea_output": st.sampled_from(["escape", "hex"]),
        "extra_float_digits": st.sampled_from(["-15", "0", "3"]),
        "lc_monetary": st.sampled_from(["C", "POSIX"]),
        "quote_all_identifiers": st.sampled_from(["on", "off"]),
        "standard_conforming_strings": st.sampled_from(["on", "off"]),
    }
)

TYPES = """
CREATE SCHEMA app;
CREATE TYPE app.pair AS (at timestamptz, x float8);
CREATE DOMAIN app.moment AS timestamptz;
CREATE DOMAIN app.digest AS bytea;
CREATE TYPE app.odd AS (i interval, b bytea, m money, r tstzrange);
CREATE DOMAIN app.odd_pair AS app.pair;
CREATE TYPE app.stage AS ENUM ('one', 'Two', 'a, b', '"three"');
"""

# what the extension is made of; the server of the tests has none but pgvector
CITEXT = """
CREATE TYPE app.citext;
CREATE FUNCTION app.citextin(cstring) RETURNS app.citext LANGUAGE internal STRICT IMMUTABLE AS 'textin';
CREATE FUNCTION app.citextout(app.citext) RETURNS cstring LANGUAGE internal STRICT IMMUTABLE AS 'textout';
CREATE TYPE app.citext (
    INPUT = app.citextin, OUTPUT = app.citextout, LIKE = pg_catalog.text, CATEGORY = 'S', COLLATABLE = true
);
CREATE CAST (app.citext AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (text AS app.citext) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE FUNCTION app.citext_cmp(app.citext, app.citext) RETURNS int LANGUAGE sql STRICT IMMUTABLE
    RETURN CASE WHEN lower($1::text) < lower($2::text) THEN -1 ELSE (lower($1::text) > lower($2::text))::int END;
CREATE FUNCTION app.citext_hash(app.citext) RETURNS int LANGUAGE sql STRICT IMMUTABLE
    RETURN hashtext(lower($1::text));
"""
COMPARISONS = {"eq": "=", "ne": "<>", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def citext() -> str:
    """Its statements, with its operators and their classes."""
    made = [CITEXT]
    for name, sign in COMPARISONS.items():
        made.append(
            f"CREATE FUNCTION app.citext_{name}(app.citext, app.citext) RETURNS bool LANGUAGE sql STRICT IMMUTABLE"
            f" RETURN app.citext_cmp($1, $2) {sign} 0;"
            f"CREATE OPERATOR app.{sign} (LEFTARG = app.citext, RIGHTARG = app.citext, FUNCTION = app.citext_{name}"
            f"{', HASHES, MERGES' if name == 'eq' else ''});"
        )
    order = ", ".join(f"OPERATOR {n} app.{s}" for n, s in enumerate(("<", "<=", "=", ">=", ">"), 1))
    made.append(
        f"CREATE OPERATOR CLASS app.citext_ops DEFAULT FOR TYPE app.citext USING btree AS {order},"
        " FUNCTION 1 app.citext_cmp(app.citext, app.citext);"
        "CREATE OPERATOR CLASS app.citext_hash_ops DEFAULT FOR TYPE app.citext USING hash AS OPERATOR 1 app.=,"
        " FUNCTION 1 app.citext_hash(app.citext);"
    )
    return "".join(made)


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({OLD: hash_model(8), NEW: NEW_MODEL}) as server:
        yield server


def make_table(dsn: str, kind: str) -> None:
    columns, values = KEYS[kind]
    names = ", ".join(part.split()[0] for part in columns.split(", PRIMARY")[0].split(", "))
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(TYPES)
        if kind == "citext":
            conn.execute(citext())
        conn.execute(f"CREATE TABLE documents ({columns}, number int UNIQUE, content text, embedding vector(8))")
        conn.execute(
            f"INSERT INTO documents ({names}, number, content, embedding) SELECT {values}, i, 'document ' || i,"
            f" '[1,2,3,4,5,6,7,8]' FROM generate_series(1, {ROWS}) i"
        )


def set_for_all(dsn: str, values: dict[str, str]) -> None:
    """The database's own settings, of every session that begins from now on."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        name = conn.info.dbname
        conn.execute(f'ALTER DATABASE "{name}" RESET ALL')
        for setting, value in values.items():
            conn.execute(psycopg.sql.SQL(f'ALTER DATABASE "{name}" SET {setting} = {{}}').format(value))


def require_fresh(dsn: str, rows: int, placement: str = "column") -> None:
    query = "SELECT content, embedding_v2::real[] FROM documents"
    if placement == "table":
        query = "SELECT d.content, v.embedding::real[] FROM documents d LEFT JOIN documents_embedding_v2 v USING (k)"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SET search_path = public, app; SET extra_float_digits = 1")  # vectors are read as text
        found = conn.execute(query).fetchall()
        assert len(found) == rows
        for content, vector in found:
            assert np.allclose(vector, NEW_MODEL([content], None)[0], atol=1e-6), content
        for left in ("queue", "fault", "capture_fault"):
            assert conn.execute(f"SELECT count(*) FROM embedtui.{left}").fetchone() == (0,), left


@pytest.mark.parametrize("kind", KEYS)
def test_no_edit_is_missed(kind: str, database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_table(database, kind)
    configured = settings_for(
        database, api, tmp_path, {"placement": "column", "content": "content", "accept": ["proof"]}
    )
    with closing(Engine(database, settings=configured)) as engine:
        engine.run(threading.Event())
        edits = iter(range(10**6))

        @settings(
            max_examples=2, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
        )
        @given(of_database=SETTINGS, of_application=SETTINGS, inserted=st.booleans())
        def missed(of_database: dict[str, str], of_application: dict[str, str], inserted: bool) -> None:
            set_for_all(database, of_database)
            with psycopg.connect(database, autocommit=True) as application:
                for name, value in of_application.items():
                    application.execute(psycopg.sql.SQL(f"SET {name} = {{}}").format(value))
                application.execute("UPDATE documents SET content = %s || number", [f"edit {next(edits)} of "])
                if inserted:
                    application.execute("DELETE FROM documents WHERE number = 1")
                    application.execute("UPDATE documents SET number = 1, content = 'again' WHERE number = 2")
            engine.run(threading.Event())
            with psycopg.connect(database, autocommit=True) as conn:
                rows = conn.execute("SELECT count(*) FROM documents").fetchone()
            assert rows is not None
            require_fresh(database, rows[0])

        missed()


@pytest.fixture
def german(server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database whose server knows German amounts: 1.234,50 €."""
    program, name = shutil.which("localedef"), "de_DE.UTF-8"
    if program is None or not Path("/usr/share/i18n/locales/de_DE").exists():
        pytest.skip("no locale can be made here")
    subprocess.run([program, "-i", "de_DE", "-f", "UTF-8", server_folder / name], check=True)
    monkeypatch.setenv("LOCPATH", str(server_folder))
    server_folder.chmod(0o755)
    with EmbeddedServer(server_folder / "pg", version=POSTGRES, settings=FAST) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE app")
        with psycopg.connect(server.dsn("app"), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION vector")
        yield server.dsn("app")


@pytest.mark.parametrize("kind", ["money", "composite of others"])
@pytest.mark.variants(1)
def test_no_edit_of_an_amount_in_another_currencys_text_is_missed(
    kind: str, german: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_table(german, kind)
    configured = settings_for(german, api, tmp_path, {"placement": "column", "content": "content", "accept": ["proof"]})
    with closing(Engine(german, settings=configured)) as engine:
        engine.run(threading.Event())
        for of_database, of_application in (("de_DE.UTF-8", "C"), ("C", "de_DE.UTF-8"), ("de_DE.UTF-8",) * 2):
            set_for_all(german, {"lc_monetary": of_database})
            with psycopg.connect(german, autocommit=True) as application:
                application.execute(psycopg.sql.SQL("SET lc_monetary = {}").format(of_application))
                if of_application != "C":
                    assert application.execute("SELECT 1234.5::numeric::money::text").fetchone() == ("1.234,50 €",)
                application.execute("UPDATE documents SET content = content || %s", [of_application + of_database])
            with psycopg.connect(german, autocommit=True) as conn:  # a scan would find them, too, whatever was queued
                conn.execute("SET lc_monetary = 'C'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'")
                queued = conn.execute("SELECT DISTINCT key[1] FROM embedtui.queue ORDER BY 1").fetchall()
                assert queued == conn.execute("SELECT DISTINCT k::text FROM documents ORDER BY 1").fetchall()
            engine.run(threading.Event())
            require_fresh(german, ROWS)


@pytest.mark.parametrize("placement", ["column", "table"])
@pytest.mark.parametrize("kind", REWRITTEN)
@pytest.mark.variants(5)
def test_a_key_rewritten_as_the_same_value_in_another_text_is_followed(
    kind: str, placement: str, database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_table(database, kind)
    configured = settings_for(
        database, api, tmp_path, {"placement": placement, "content": "content", "accept": ["proof"]}
    )
    with closing(Engine(database, settings=configured)) as engine:
        engine.run(threading.Event())
        with psycopg.connect(database, autocommit=True) as conn:
            before = conn.execute("SELECT k::text FROM documents ORDER BY number").fetchall()
            conn.execute(f"UPDATE documents SET k = {REWRITTEN[kind]}, content = 'rewritten ' || number")
            assert conn.execute("SELECT k::text FROM documents ORDER BY number").fetchall() != before
        engine.run(threading.Event())
        require_fresh(database, ROWS, placement)
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("UPDATE documents SET content = 'edited ' || number")
            conn.execute("DELETE FROM documents WHERE number = 1")
        engine.run(threading.Event())
        require_fresh(database, ROWS - 1, placement)
        assert engine.verify().clean


def test_what_an_older_capture_queued_in_the_sessions_own_text_is_found(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    """Digits that a session leaves out name no row at all; once the function is another, a scan finds them."""
    make_table(database, "float8")
    configured = settings_for(
        database, api, tmp_path, {"placement": "column", "content": "content", "accept": ["proof"]}
    )
    with closing(Engine(database, settings=configured)) as engine:
        engine.run(threading.Event())
        with psycopg.connect(database, autocommit=True) as conn:
            found = conn.execute("SELECT proname FROM pg_proc WHERE proname LIKE 'capture_%_row'").fetchall()
            for (name,) in found:
                for setting in set(capture.CANONICAL):
                    conn.execute(f"ALTER FUNCTION embedtui.{name}() RESET {setting}")
            conn.execute("SET extra_float_digits = -10")
            conn.execute("UPDATE documents SET content = 'edited ' || number")
            assert conn.execute("SELECT count(*) FROM embedtui.queue").fetchone() == (ROWS,)
        engine.run(threading.Event())
    require_fresh(database, ROWS)


@pytest.mark.parametrize("scanned_meanwhile", [False, True])
def test_a_key_in_another_text_is_found_by_value_and_one_that_is_none_stops_no_other(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scanned_meanwhile: bool
) -> None:
    make_table(database, "tstzrange")
    configured = settings_for(
        database, api, tmp_path, {"placement": "column", "content": "content", "accept": ["proof"]}
    )
    with closing(Engine(database, settings=configured)) as engine:
        engine.run(threading.Event())
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("ALTER TABLE documents DISABLE TRIGGER USER")
            conn.execute("UPDATE documents SET content = 'edited ' || number")
            conn.execute("ALTER TABLE documents ENABLE TRIGGER USER")
            triggers = conn.execute("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'embedtui_%'").fetchall()
            for (name,) in triggers:
                conn.execute(f"ALTER TABLE documents ENABLE ALWAYS TRIGGER {name}")
            conn.execute("SET TimeZone = 'Asia/Kathmandu'")
            conn.execute(
                "INSERT INTO embedtui.queue (migration, key, kind) SELECT m.id, ARRAY[k::text], 'u'"
                " FROM documents, embedtui.migration m WHERE number <= 2"
            )
            conn.execute(
                "INSERT INTO embedtui.queue (migration, key, kind) SELECT id, ARRAY['no range'], 'u'"
                " FROM embedtui.migration"
            )
        if scanned_meanwhile:  # before the run looks whether there is anything to scan for
            drain, scan = Stages._drain, Upkeep.scan

            def and_looks_later(stages: Stages, kinds: str) -> None:
                drain(stages, kinds)
                time.sleep(0.5)

            def and_works_later(upkeep: Upkeep) -> int:
                found = scan(upkeep)
                time.sleep(1.0 if found else 0)
                return found

            monkeypatch.setattr(Stages, "_drain", and_looks_later)
            monkeypatch.setattr(Upkeep, "scan", and_works_later)
        engine.run(threading.Event())
    require_fresh(database, ROWS)


@pytest.mark.parametrize(
    "part, kind",
    [
        (b"\x00'\\\xff", "bytea"),
        (memoryview(b"abc"), "bytea"),
        (timedelta(days=-1, seconds=3, microseconds=7), "interval"),
        (timedelta(days=40, hours=-5), "interval"),
        (datetime(2026, 3, 29, 0, 30, tzinfo=UTC), "timestamptz"),
        (1 / 7, "float8"),
    ],
)
@pytest.mark.parametrize("style", ["sql_standard", "iso_8601"])
def test_the_key_a_service_gives_is_read_as_its_value(database: str, part: object, kind: str, style: str) -> None:
    [text] = key_texts(part)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"SET IntervalStyle = {style}; SET DateStyle = German; SET bytea_output = escape")
        same = conn.execute(f"SELECT %s::text::{kind} = %s::{kind}", [text, part]).fetchone()
    assert same == (True,)


@pytest.mark.parametrize("kind", ["app.odd_stage", "app.odd_pair", "app.labels"])
def test_a_key_that_no_foreign_key_can_refer_to_is_followed_by_triggers(
    database: str, api: LoopbackServer, tmp_path: Path, kind: str
) -> None:
    """A domain equals nothing but itself where its base type has its operators from a pseudo-type, as enums do."""
    values = {
        "app.odd_stage": "(enum_range(NULL::app.stage))[{}]",
        "app.odd_pair": "ROW('2026-01-31 12:00+00', {})::app.pair",
        "app.labels": "ARRAY['a, \"b\"', ({})::text]",
    }
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TYPES)
        conn.execute("CREATE DOMAIN app.odd_stage AS app.stage; CREATE DOMAIN app.labels AS text[]")
        conn.execute(f"CREATE TABLE documents (k {kind} PRIMARY KEY, content text, embedding vector(8))")
        for number in (1, 2):
            conn.execute(f"INSERT INTO documents VALUES ({values[kind].format(number)}, 'text {number}')")
    flags = {"placement": "table", "content": "content"}
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        engine.run(threading.Event())
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(
                f"UPDATE documents SET k = {values[kind].format(3)}, content = 'moved' WHERE content = 'text 1'"
            )
            conn.execute("DELETE FROM documents WHERE content = 'text 2'")
        engine.run(threading.Event())
        report = engine.verify(sample=5)
        assert report.clean and (report.embedded, report.orphaned) == (1, 0)
    said = settings_for(database, api, tmp_path, {**flags, "foreign_key": True, "name": "other", "new_table": "more"})
    with closing(Engine(database, settings=said)) as engine:
        (check,) = [each for each in engine.plan().checks if each.name == "foreign key"]
    assert check.result == "fail" and "documents_pkey" in check.detail
