"""The choices that settings and catalog leave no doubt about, and those that they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.config import load_settings
from embedtui.engine.plan import draft
from embedtui.engine.plan.draft import Draft
from embedtui.errors import DatabaseError, ExitCode, SettingsError, TableError
from embedtui.model import Distance, PlacementKind
from embedtui.postgres.connect import Connection
from tests.kits.tables import DOCUMENTS, MY_DOCS, Resolve, settings_of


@pytest.fixture
def resolve(conn: Connection, tmp_path: Path) -> Resolve:
    """Resolves flags against the database, with a new model of 8 dimensions unless said otherwise."""

    def run(**flags: Any) -> Draft:
        return draft.resolve(conn, settings_of(tmp_path, flags))

    return run


def test_all_is_chosen_where_only_one_is_possible(conn: Connection, resolve: Resolve) -> None:
    conn.execute(DOCUMENTS)
    draft = resolve(table="documents")
    migration = draft.migration(PlacementKind.COLUMN)
    assert (migration.name, migration.key_columns, migration.key_types) == ("documents", ("id",), ("bigint",))
    assert (migration.content_columns, migration.old_column, migration.new_column) == (
        ("content",),
        "embedding",
        "embedding_v2",
    )
    assert (migration.distance, migration.vector_type) == (Distance.L2, "vector")
    assert (migration.old_model.dimensions, migration.old_model.retired) == (3, False)
    assert migration.old_model.unasked == "cannot be asked by embedtui"
    assert migration.new_table == migration.table
    aside = draft.migration(PlacementKind.TABLE)
    assert (str(aside.new_table), aside.new_column) == ("documents_embedding_v2", "embedding")
    assert draft.notices == ("documents is empty: there is nothing to embed until rows arrive.",)


@pytest.mark.parametrize(
    ("index", "flags", "kind"),
    [
        ("(v vector_l2_ops)", {}, "halfvec"),
        ("(v vector_l2_ops)", {"halfvec": False}, "vector"),
        ("((v::halfvec(3)) halfvec_l2_ops)", {}, "vector"),
        ("((v::halfvec(3)) halfvec_l2_ops)", {"halfvec": True}, "halfvec"),
        ("((v::halfvec(3)) halfvec_l2_ops) WHERE id < 9", {}, "vector"),
    ],
)
def test_a_column_keeps_its_precision_where_the_index_casts(
    conn: Connection, resolve: Resolve, index: str, flags: dict[str, Any], kind: str
) -> None:
    conn.execute(
        f"CREATE TABLE docs (id int PRIMARY KEY, body text, v vector(3)); CREATE INDEX ON docs USING hnsw {index}"
    )
    assert resolve(table="docs", new_model__dimensions=3072, **flags).new_type == kind


def test_quoted_names_and_a_composite_key(conn: Connection, resolve: Resolve) -> None:
    conn.execute(MY_DOCS + """INSERT INTO app."My Docs" ("Part", "The Text", v) VALUES (1, 'a', '[1,2]')""")
    draft = resolve(table='app."My Docs"', key=("Part", "Id"))
    assert draft.key.columns == ("Part", "Id")
    assert draft.key.types == ("integer", "uuid")
    assert (draft.old_model.dimensions, draft.new_type) == (2, "halfvec")
    assert draft.notices == ()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, "No table is set. Set --table, or table in embedtui.toml; tables with vectors: "),
        ({"table": "documents"}, "documents has 2 text columns: content, title. Say which are embedded"),
        ({"table": "documents", "content": ("lower(titel)",)}, 'no column "lower(titel)" in documents, and no SQL that '
         'makes a text of its rows: content = lower(titel): column "titel" does not exist.'),
        ({"table": "documents", "content": ("my title",)}, 'no column "my title" in documents, and no SQL'),
        ({"table": "documents", "content": ("app.papers.body",)}, 'no column "app.papers.body" in documents. documents '
         'has no foreign key to "app.papers". Its foreign keys: none.'),
        ({"table": "documents", "content": ("contents",)}, 'no column "contents" in documents; did you mean content? '
         "Setting: content (--content)."),
        ({"table": "documents", "content": ("embedding",)}, "embedding of documents is vector(3), nothing to embed"),
        ({"table": "documents", "content": ("title",), "old_column": "title"}, "title of documents is text, not a "
         "vector (old_column, --column). Vector columns: embedding."),
        ({"table": "documents", "content": ("title",), "old_column": "embeding"}, "did you mean embedding?"),
        ({"table": "documents", "content": ("title",), "key": ("ID",)}, "did you mean id?"),
        ({"table": "documents", "content": ("title",), "key": ("title",)}, "title is not a unique key over NOT NULL "
         "columns of documents (key, --key). Unique keys: id."),
        ({"table": "nokey"}, "nokey has no unique key over NOT NULL columns. Add one, e.g. ALTER TABLE nokey ADD "
         "PRIMARY KEY (id);"),
        ({"table": "novector"}, "novector has no vector column"),
        ({"table": "notext"}, "notext has no text column"),
        ({"table": "two"}, "two has 2 vector columns: v, w. Say which one holds the old vectors: --column"),
        ({"table": "documents", "content": ("title",), "old_model__dimensions": 4}, "old_model.dimensions = 4 "
         "(--old-dimensions): embedding holds vectors of 3."),
        ({"table": "documents", "content": ("title",), "new_model__dimensions": 4001, "halfvec": False},
         "hnsw indexes halfvec only to 4000"),
        ({"table": "documents", "content": ("title",), "new_model__dimensions": 5000}, "hnsw indexes halfvec only to "
         "4000"),
        ({"table": "documents", "content": ("title",), "old_model__name": "m", "new_model__dimensions": 3},
         "The old and the new model are the same"),
        ({"table": "documents", "content": ("title",), "new_column": "embedding"}, "is the old column"),
    ],
)  # fmt: skip
def test_a_wrong_or_open_choice_names_setting_and_candidates(
    known: Connection, tmp_path: Path, flags: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        draft.resolve(known, settings_of(tmp_path, flags))
    assert said in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_second_migration_starts_from_the_first_ones_column(conn: Connection, resolve: Resolve) -> None:
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, content text, embedding_v2 vector(3))")
    migration = resolve(table="t").migration(PlacementKind.COLUMN)
    assert (migration.old_column, migration.new_column) == ("embedding_v2", "embedding_v3")


def test_what_an_aborted_attempt_left_is_not_taken_for_the_old_column(conn: Connection, resolve: Resolve) -> None:
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, content text, e vector(3), embedding_v2 vector(8))")
    assert resolve(table="t").old_column == "e"


def test_above_two_thousand_dimensions_is_halfvec(conn: Connection, resolve: Resolve) -> None:
    conn.execute(DOCUMENTS)
    assert resolve(table="documents", new_model__dimensions=2000).new_type == "vector"
    assert resolve(table="documents", new_model__dimensions=2001).new_type == "halfvec"
    assert resolve(table="documents", new_model__dimensions=5000, index__method="none").new_type == "halfvec"


def test_a_temporary_table_is_refused(conn: Connection, resolve: Resolve) -> None:
    conn.execute("CREATE TEMP TABLE gone (id int PRIMARY KEY, content text, e vector(3))")
    with pytest.raises(TableError, match="temporary"):
        resolve(table="gone", schema=_temp_schema(conn))


def _temp_schema(conn: Connection) -> str:
    row = conn.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()").fetchone()
    assert row is not None
    return str(row[0])


def test_row_security_and_missing_rights_are_refused(database: str, conn: Connection, tmp_path: Path) -> None:
    conn.execute(DOCUMENTS + "CREATE TABLE hidden (LIKE documents INCLUDING ALL); "
                 "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY")  # fmt: skip
    role = f"other_{conn.info.dbname}"
    conn.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON hidden TO {role}")
    try:
        with psycopg.connect(database, user=role, autocommit=True) as other:
            for table, said in (("documents", f"may not read documents. GRANT SELECT ON documents TO {role};"),
                                ("hidden", "Row security would hide rows of hidden")):  # fmt: skip
                settings = load_settings(
                    {"table": table, "new_model.name": "m", "new_model.dimensions": 8}, environ={}, cwd=tmp_path
                )
                with pytest.raises(DatabaseError) as caught:
                    draft.resolve(other, settings)
                assert said in str(caught.value)
                assert caught.value.exit_code is ExitCode.DATABASE
    finally:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_long_name_leaves_room_for_what_is_made_from_it(conn: Connection, resolve: Resolve) -> None:
    name = "é" * 31
    conn.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, content text, e vector(3))")
    made = resolve(table=name).new_table
    assert made.endswith("_embedding_v2")
    assert len(made.encode()) <= 63
