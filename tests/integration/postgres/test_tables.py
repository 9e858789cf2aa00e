"""Tables found by name, and candidates for a migration."""

from __future__ import annotations

import pytest

from embedtui.errors import ExitCode, TableError
from embedtui.model import TableName
from embedtui.postgres.catalog.tables import find_candidates, find_table
from embedtui.postgres.connect import Connection
from tests.kits.tables import DOCUMENTS, MY_DOCS


@pytest.mark.parametrize(
    ("name", "schema_name", "found"),
    [
        ("documents", None, TableName("public", "documents")),
        ("Documents", None, TableName("public", "documents")),
        ("PUBLIC.Documents", None, TableName("public", "documents")),
        ("My Docs", "app", TableName("app", "My Docs")),
        ('"My Docs"', "app", TableName("app", "My Docs")),
        ('app."My Docs"', None, TableName("app", "My Docs")),
        ("app.My Docs", None, TableName("app", "My Docs")),
        ("a.b", None, TableName("public", "a.b")),
    ],
)
def test_a_table_is_found_as_people_write_it(
    known: Connection, name: str, schema_name: str | None, found: TableName
) -> None:
    assert find_table(known, name, schema_name)[1] == found


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("documnets", 'no table "documnets"; did you mean documents?'),
        ("My Docs", 'no table "My Docs"; did you mean app."My Docs"?'),
        ('"Documents"', 'no table "Documents"; did you mean documents?'),
        ("app.documents", 'no table "app.documents"; did you mean documents?'),
        ("zzz", 'no table "zzz". `embedtui init` lists'),
        ("", 'no table ""'),
        ("a.b.c.d", 'no table "a.b.c.d"'),
        ("'; DROP TABLE documents; --", "no table"),
        ("recent", "recent is a view, not a table"),
    ],
)
def test_a_missing_table_comes_with_near_misses(known: Connection, name: str, said: str) -> None:
    with pytest.raises(TableError) as caught:
        find_table(known, name)
    assert said in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE
    assert find_table(known, "documents")


def test_candidates_are_sorted_by_size_and_leave_out_other_types(conn: Connection) -> None:
    conn.execute(
        DOCUMENTS + MY_DOCS + "CREATE TABLE plain (id int, b bit(3), s sparsevec(3));"
        "INSERT INTO documents SELECT i, repeat('x', 1000), '[1,2,3]' FROM generate_series(1, 500) i; ANALYZE"
    )
    found = find_candidates(conn)
    assert [(str(each.table), each.column) for each in found] == [("documents", "embedding"), ("app.My Docs", "v")]
    assert (found[0].dimensions, found[0].rows, found[0].indexed) == (3, 500, "hnsw")
    assert found[1].dimensions is None
