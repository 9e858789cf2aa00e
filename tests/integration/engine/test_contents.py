"""Which column is the text: refused rather than guessed, and shown as it will be sent."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.config import Settings
from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.engine.plan.draft import resolve
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.start import require_startable
from embedtui.errors import SettingsError, TableError
from embedtui.model import PlacementKind
from embedtui.postgres.sides.texts import first_texts
from tests.kits.support import connect, settings_for
from tests.kits.tables import settings_of

TABLE = "CREATE TABLE memo (no serial PRIMARY KEY, vec vector(3), {column});"


def refusal(dsn: str, **flags: object) -> TableError:
    with connect(dsn, read_only=True) as conn, pytest.raises(TableError) as caught:
        resolve(conn, settings_of(Path(), {"table": "memo", **flags}))
    return caught.value


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("vector_id text", "gen_random_uuid()::text", "UUIDs"),
        ("checksum varchar(64)", "encode(sha256(i::text::bytea), 'hex')", "digests"),
        ("source text", "'https://example.org/page/' || i", "addresses"),
        ("file text", "'/data/scan ' || i || '.pdf'", "paths"),
        ("collection text", "CASE i % 2 WHEN 0 THEN 'faq' ELSE 'blog' END", "labels that repeat"),
        ("slug text", "'a-page-about-' || i", "identifiers"),
    ],
)
def test_the_only_text_column_is_refused_where_it_holds_no_texts(
    database: str, column: str, value: str, kind: str
) -> None:
    name = column.split()[0]
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TABLE.format(column=column))  # type: ignore[arg-type]
        conn.execute(f"INSERT INTO memo ({name}) SELECT {value} FROM generate_series(1, 60) i")  # type: ignore[arg-type]
    error = refusal(database)
    assert f"{name}, the only text column of memo, holds {kind}" in str(error)
    assert f"--content {name}" in error.hint
    with connect(database, read_only=True) as reading:
        flags = {"table": "memo", "content": (name,), "new_model__key_variable": ""}
        made = make_plan(reading, settings_of(Path(), flags))
    assert next(check for check in made.checks if check.name == "texts").result == "warn", "said, and still doubtful"


@pytest.mark.parametrize(
    ("column", "value", "embedded"),
    [
        ("payload jsonb", """jsonb_build_object('id', 'x', 'a ''b''', 'the text of ' || i, 'n', i)""", "the text of 7"),
        ("payload json", """json_build_object('id', 'x', 'page', 'the text of ' || i)""", "the text of 7"),
        ("payload jsonb", """jsonb_build_object('$HOME "x"', 'the text of ' || i)""", "the text of 7"),
        ("payload bytea", "convert_to('the text of ' || i, 'UTF8')", "the text of 7"),
        ("payload text[]", "ARRAY['the text', 'of ' || i]", "the text of 7"),
    ],
)
def test_what_is_no_text_is_refused_with_the_setting_that_makes_one_of_it(
    database: str, column: str, value: str, embedded: str
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TABLE.format(column=column))  # type: ignore[arg-type]
        conn.execute(f"INSERT INTO memo (payload) SELECT {value} FROM generate_series(1, 9) i")  # type: ignore[arg-type]
    assert "memo has no text column" in str(refusal(database))
    said = re.search(r"--content-sql .+(?=\.$)", refusal(database).hint)
    assert said is not None
    if "bytea" in column:
        assert "nothing to embed as it is" in str(refusal(database, content=("payload",)))
        assert said[0] in refusal(database, content=("payload",)).hint
    else:
        flags = {"table": "memo", "content": ("payload",), "new_model__key_variable": ""}
        with connect(database, read_only=True) as reading:
            made = make_plan(reading, settings_of(Path(), flags))
        check = next(check for check in made.checks if check.name == "texts")
        assert "sent as PostgreSQL writes it" in check.detail
        assert said[0] in check.hint
    option, expression = shlex.split(said[0])
    assert option == "--content-sql"
    with connect(database, read_only=True) as reading:
        flags = {"table": "memo", "content_sql": expression, "new_model__key_variable": ""}
        draft = resolve(reading, settings_of(Path(), flags))
        assert draft.content == ("payload",)
        assert embedded in first_texts(reading, draft.migration(PlacementKind.COLUMN), 9)
        made = make_plan(reading, settings_of(Path(), flags))
    check = next(check for check in made.checks if check.name == "texts")
    assert check.result == "pass" and check.detail.startswith(expression)


@pytest.mark.parametrize("kind", ["text[]", "varchar(40)[]", "character varying", "character(40)"])
def test_texts_of_any_such_type_are_read(database: str, api: LoopbackServer, tmp_path: Path, kind: str) -> None:
    value = "ARRAY['the text', 'of ' || i]" if "[" in kind else "'the text of ' || i"
    expression = "array_to_string(payload, ' ')" if "[" in kind else "rtrim(payload)"
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TABLE.format(column=f"payload {kind}"))  # type: ignore[arg-type]
        conn.execute(f"INSERT INTO memo (payload) SELECT {value} FROM generate_series(1, 9) i")  # type: ignore[arg-type]
    flags = {"table": "memo", "content_sql": expression}
    with closing(Engine(database, settings=settings_for(database, api, tmp_path, flags))) as engine:
        engine.run(threading.Event())
        assert engine.verify().embedded == 9


@pytest.mark.parametrize("act", [make_plan, require_startable])
@pytest.mark.parametrize("setting", ["content_sql", "scope"])
def test_sql_that_fails_on_a_row_is_refused_before_anything_is_changed(
    database: str, act: Callable[[psycopg.Connection[Any], Settings], object], setting: str
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TABLE.format(column="body text"))  # type: ignore[arg-type]
        conn.execute("INSERT INTO memo (body) SELECT 'a text of row ' || i FROM generate_series(1, 300) i")
    given = {"content_sql": "body || (1 / (no - 290))::text", "scope": "no < 5 OR 1 / (no - 290) < 9"}[setting]
    flags = {"table": "memo", setting: given, "new_model__key_variable": ""}
    with connect(database, read_only=True) as conn, pytest.raises(SettingsError) as refused:
        act(conn, settings_of(Path(), flags))
    assert given in refused.value.message and "division by zero" in refused.value.message


def test_a_json_column_is_proposed_where_the_only_text_is_an_identifier(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TABLE.format(column="ref text, meta jsonb"))  # type: ignore[arg-type]
        conn.execute("""INSERT INTO memo (ref, meta) SELECT gen_random_uuid(), '{"said": "a longer text", "by": "me"}'
                     FROM generate_series(1, 9) i""")
    assert "meta ->> 'said'" in refusal(database).hint


def test_the_plan_shows_the_texts_as_they_will_be_sent(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TABLE.format(column="title text, body text"))  # type: ignore[arg-type]
        long = "word " * 100
        conn.execute("INSERT INTO memo (title, body) VALUES (%s, %s), (NULL, ' ')", ["A \x1b[31mtitle\x07\u202e", long])
    flags = {
        "table": "memo",
        "content": ("title", "body"),
        "new_model__document_prefix": "passage: ",
        "new_model__key_variable": "",
    }
    with connect(database, read_only=True) as conn:
        made = make_plan(conn, settings_of(Path(), flags))
    check = next(check for check in made.checks if check.name == "texts")
    assert check.result == "pass"
    assert check.detail.startswith('title, body, as sent: "passage: A [31mtitle word word')
    assert check.detail.endswith('…"')
    assert check.detail.isprintable()
    assert len(check.detail) < 130


def test_columns_of_different_collations_are_one_text(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TABLE.format(column='title text COLLATE "C", body text COLLATE "POSIX"'))  # type: ignore[arg-type]
        conn.execute("INSERT INTO memo (title, body) VALUES ('a title', 'a body'), (' ', NULL)")
    flags = {"table": "memo", "content": ("title", "body"), "new_model__key_variable": ""}
    with connect(database, read_only=True) as conn:
        made = make_plan(conn, settings_of(Path(), flags))
    assert (made.rows, made.empty_rows) == (2, 1)
