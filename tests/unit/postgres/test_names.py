"""Names as people write them and as SQL needs them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import sql

from embedtui.model import Migration, TableName
from embedtui.postgres.names import (
    escaped,
    fitted,
    key_equals_sql,
    key_join_sql,
    key_sql,
    parse_name,
    quoted,
    shown,
    suffixed,
    vector_text,
)
from embedtui.postgres.values import same_key_sql
from tests.kits.samples import sample_migration


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("documents", (("documents", False),)),
        ("app.docs", (("app", False), ("docs", False))),
        ('"My Docs"', (("My Docs", True),)),
        ('app."My ""Docs"""', (("app", False), ('My "Docs"', True))),
        ('"a.b".c', (("a.b", True), ("c", False))),
        ("a b", (("a b", False),)),
        ('"open', ()),
        ("", ()),
    ],
)
def test_parse_name(name: str, parts: tuple[tuple[str, bool], ...]) -> None:
    assert parse_name(name) == parts


def test_shown_quotes_only_what_needs_it() -> None:
    assert shown(TableName("public", "documents")) == "documents"
    assert shown(TableName("app", 'My "Docs')) == 'app."My ""Docs"'


def migration_of(*keys: tuple[str, str]) -> Migration:
    """A migration of table app."Docs%" with these key columns and types."""
    names, kinds = zip(*keys, strict=True)
    return sample_migration(TableName("app", "Docs%"), key_columns=names, key_types=kinds)


def test_keys_are_joined_column_by_column() -> None:
    migration = migration_of(("id", "bigint"), ('the "part"', "character varying(3)"))
    text = "pg_catalog.text"
    assert key_sql(migration, "t").as_string(None) == f'ARRAY["t"."id"::{text}, "t"."the ""part"""::{text}]'
    assert key_join_sql(migration, "t", sql.SQL("b.key")).as_string(None) == (
        '"t"."id" OPERATOR("pg_catalog".=) ((b.key)[1])::bigint AND "t"."the ""part""" OPERATOR("pg_catalog".=)'
        " ((b.key)[2])::character varying(3)"
    )
    assert same_key_sql(migration, "s", "t").as_string(None) == (
        '"s"."id" OPERATOR("pg_catalog".=) "t"."id" AND "s"."the ""part""" OPERATOR("pg_catalog".=) "t"."the ""part"""'
    )


def test_a_percent_sign_in_a_name_is_no_placeholder() -> None:
    migration = migration_of(("id%s", "int"))
    assert key_equals_sql(migration).as_string(None) == (
        '"app"."Docs%%"."id%%s" OPERATOR("pg_catalog".=) ((%(key)s::pg_catalog.text[])[1])::pg_catalog.int'
    )
    assert (
        escaped(key_sql(migration, "app", "Docs%")).as_string(None) == 'ARRAY["app"."Docs%%"."id%%s"::pg_catalog.text]'
    )
    assert quoted("a%", 'b"').as_string(None) == '"a%%"."b"""'


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=80))
@example("\U0001f600" * 16)
@example("a" * 50 + "\U0001f600" * 19)
def test_names_made_fit_and_stay_as_they_are_where_they_do(name: str) -> None:
    for made in (fitted(name), suffixed(name, "_v2") + "_source"):
        assert len(made.encode()) <= 63
    if len(name.encode()) <= 63:
        assert fitted(name) == name
    assert suffixed(name, "_v2").endswith("_v2")


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_a_vector_is_written_without_loss(values: list[float]) -> None:
    vector = np.array(values, np.float32)
    text = vector_text(vector)
    assert text[0] + text[-1] == "[]"
    assert np.array([float(part) for part in text[1:-1].split(",")], np.float32).tobytes() == vector.tobytes()
