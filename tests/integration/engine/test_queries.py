"""Queries from files, SQL and rows; what is kept of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedtui.engine.validate import queries
from embedtui.errors import Refused, SettingsError
from embedtui.model import Migration, PlacementKind, QueryInput, Side, Verdict
from embedtui.postgres.sides.both import row_vectors
from embedtui.postgres.state.models import load_learnt, register_model, store_learnt
from embedtui.postgres.state.queries import StoredQuery, load_queries, load_vectors, store_vectors
from embedtui.postgres.state.verdicts import load_verdicts, movement_of_verdicts
from tests.kits.comparing import execute, make_table, unit
from tests.kits.support import connect


def small_table(dsn: str, placement: PlacementKind = PlacementKind.COLUMN, *, halfvec: bool = False) -> Migration:
    draw = np.random.default_rng(3)
    return make_table(
        dsn,
        [f"text {number}\x1b[31m" for number in range(20)],
        unit(draw.normal(size=(20, 4))),
        unit(draw.normal(size=(20, 6))),
        placement=placement,
        halfvec=halfvec,
        index="",
        filled=15,
    )


def test_plain_lines(tmp_path: Path) -> None:
    file = tmp_path / "queries.txt"
    file.write_text("\ufeffone\n\n  two  \r\nthree, four\n", "utf-8")
    assert [query.text for query in queries.from_file(file)] == ["one", "two", "three, four"]


def test_what_is_typed_is_a_file_a_statement_or_queries(database: str, tmp_path: Path) -> None:
    file = tmp_path / "select.jsonl"
    file.write_text('{"text": "of a file", "relevant": ["1"]}\n', "utf-8")
    with connect(database, name="test") as conn:
        typed = {
            str(file): [QueryInput("of a file", ((("1",), 1.0),))],
            " select 'of a log' AS text": [QueryInput("of a log")],
            "VALUES ('first'), ('second')": [QueryInput("first"), QueryInput("second")],
            "one\n\n two \none": [QueryInput("one"), QueryInput("two")],
            "selection of a jury": [QueryInput("selection of a jury")],
            f"{file}\nand this": [QueryInput(str(file)), QueryInput("and this")],
        }
        for text, expected in typed.items():
            assert list(queries.given(conn, text)) == expected, text
        long = "how " * 2_000
        assert [query.text for query in queries.given(conn, long)] == [long.strip()], "no name of a file"
        for text in (str(tmp_path / "mistyped"), "mistyped.CSV", "~/mistyped.txt"):
            with pytest.raises(SettingsError, match="No such file"):
                queries.given(conn, text)
        for text in ("", " \n ", "SELECT", "WITH x AS (DELETE FROM pg_class RETURNING relname) SELECT relname FROM x"):
            with pytest.raises(SettingsError):
                queries.given(conn, text)


def test_json_lines_with_judgments(tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text(
        '{"text": "a", "relevant": ["1", 2]}\n'
        '{"query": "b", "relevant": {"7": 2, "[\\"x\\", 8]": 0.5}}\n'
        '{"text": "c", "relevant": [["x", 9]]}\n\n"d"\n',
        "utf-8",
    )
    assert queries.from_file(file) == (
        QueryInput("a", ((("1",), 1.0), (("2",), 1.0))),
        QueryInput("b", ((("7",), 2.0), (("x", "8"), 0.5))),
        QueryInput("c", ((("x", "9"), 1.0),)),
        QueryInput("d"),
    )


def test_csv_with_judgments(tmp_path: Path) -> None:
    file = tmp_path / "queries.csv"
    file.write_text('text,relevant\n"a, b",1 2:0.5 urn:x\nplain,\nj,"{""3"": 2}"\n', "utf-8")
    assert queries.from_file(file) == (
        QueryInput("a, b", ((("1",), 1.0), (("2",), 0.5), (("urn:x",), 1.0))),
        QueryInput("plain"),
        QueryInput("j", ((("3",), 2.0),)),
    )


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("q.jsonl", '{"text": "a"}\n{broken\n', "line 2: not JSON"),
        ("q.jsonl", '{"words": "a"}\n', "line 1: no `text`"),
        ("q.jsonl", '{"text": "a", "relevant": {"1": "much"}}\n', "gain"),
        ("q.jsonl", '{"text": "a", "relevant": [{}]}\n', "not a key"),
        ("q.csv", "words\na\n", "no column `text`"),
        ("q.txt", "\n \n", "no query"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, name: str, text: str, says: str) -> None:
    file = tmp_path / name
    file.write_text(text, "utf-8")
    with pytest.raises(SettingsError) as caught:
        queries.from_file(file)
    assert says in caught.value.message
    assert str(file) in caught.value.message


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        queries.from_file(tmp_path / "none.txt")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="UTF-8"):
        queries.from_file(tmp_path / "x.txt")


def test_from_sql_with_logged_vectors(database: str) -> None:
    migration = small_table(database)
    with connect(database, name="test") as conn:
        found = queries.from_sql(
            conn,
            "SELECT 7 AS n, text, vector, ARRAY['3'] AS relevant FROM (VALUES ('what?', '[1,2,3,4]'::vector),"
            " ('what?', NULL), ('like 100%', NULL), ('', NULL)) v(text, vector)",
        )
        assert found == (
            QueryInput("what?", ((("3",), 1.0),), vector=(1.0, 2.0, 3.0, 4.0)),
            QueryInput("like 100%", ((("3",), 1.0),)),
        )
        ids = queries.store(conn, migration, found, "sql")
        kept = load_vectors(conn, migration.old_model.id, ids)
        assert {number: vector.tolist() for number, vector in kept.items()} == {ids[0]: [1, 2, 3, 4]}
        assert load_vectors(conn, migration.new_model.id, ids) == {}
        assert queries.from_sql(conn, "SELECT 'a' AS whatever")[0].text == "a"


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM docs RETURNING content", "read-only"),
        ("SELECT nothing FROM docs", "nothing"),
        ("SELECT 'x' WHERE false", "no text"),
        ("SELECT 1; SELECT 2", "syntax|multiple|several|fails|no text"),
    ],
)
def test_from_sql_refuses(database: str, statement: str, says: str) -> None:
    small_table(database)
    with connect(database, name="test") as conn:
        with pytest.raises(SettingsError, match=says):
            queries.from_sql(conn, statement)
        row = conn.execute("SELECT count(*) FROM docs").fetchone()
        assert row == (20,)


def test_a_logged_vector_of_other_dimensions_is_refused(database: str) -> None:
    migration = small_table(database)
    with connect(database, name="test") as conn, pytest.raises(SettingsError, match="3 dimensions"):
        queries.store(conn, migration, [QueryInput("a", vector=(1.0, 2.0, 3.0))])


@pytest.mark.parametrize("placement", list(PlacementKind))
def test_rows_as_queries_have_both_vectors(database: str, placement: PlacementKind) -> None:
    migration = small_table(database, placement, halfvec=True)
    with connect(database, name="test") as conn:
        drawn = queries.from_rows(conn, migration, 10)
        assert len(drawn) == 10
        assert all(query.row is not None and int(query.row[0]) < 15 for query in drawn)
        assert drawn == queries.from_rows(conn, migration, 10), "drawn again, they are the same"
        assert len(queries.from_rows(conn, migration, 100)) == 15
        keys = [query.row for query in drawn if query.row is not None]
        vectors = row_vectors(conn, migration, [*keys, ("17",), ("gone",)])
        assert set(vectors) == set(keys)
        row = conn.execute("SELECT embedding::text FROM docs WHERE id = %s", [keys[0][0]]).fetchone()
        assert row is not None
        assert (
            "[" + ",".join(f"{number:.6g}" for number in vectors[keys[0]][Side.OLD]) + "]"
            == "[" + ",".join(f"{float(number):.6g}" for number in row[0].strip("[]").split(",")) + "]"
        )
        assert len(vectors[keys[0]][Side.NEW]) == 6
        assert np.linalg.norm(vectors[keys[0]][Side.NEW]) == pytest.approx(1, abs=1e-3)


def test_rows_as_queries_before_the_backfill(database: str) -> None:
    migration = small_table(database)
    execute(database, "UPDATE docs SET embedding_v2 = NULL")
    with connect(database, name="test") as conn, pytest.raises(Refused, match="No row of docs"):
        queries.from_rows(conn, migration, 10)


def test_a_query_stored_again_keeps_its_id(database: str) -> None:
    migration = small_table(database)
    with connect(database, name="test") as conn:
        first = queries.store(conn, migration, [QueryInput("a"), QueryInput("b"), QueryInput("a")], "one")
        assert first[0] == first[2] != first[1]
        judged = QueryInput("a", ((("3",), 2.0),))
        assert queries.store(conn, migration, [judged], "two") == first[:1]
        assert queries.store(conn, migration, [QueryInput("a")]) == first[:1]
        row_query = QueryInput("a", row=("5",))
        other = queries.store(conn, migration, [row_query], "rows")
        assert other[0] not in first
        kept = {query.id: query for query in load_queries(conn, migration)}
        assert kept[first[0]] == StoredQuery(first[0], judged, "two")
        assert kept[other[0]].query == row_query
        assert len(kept) == 3


def test_a_judged_key_must_fit_the_table(database: str) -> None:
    migration = small_table(database)
    with connect(database, name="test") as conn, pytest.raises(SettingsError, match="1 column"):
        queries.store(conn, migration, [QueryInput("a", ((("x", "1"), 1.0),))])


def test_a_judged_key_is_kept_as_the_table_writes_it(database: str) -> None:
    """A key of another type would stop every later comparison; one written otherwise would judge nothing."""
    migration = small_table(database)
    with connect(database, name="test") as conn:
        key = "6F9619FF-8B86-D011-B42D-00C04FC964FF"
        uuids = replace(migration, key_types=("uuid",))
        with pytest.raises(SettingsError, match="invalid input syntax for type uuid"):
            queries.store(conn, uuids, [QueryInput("a", ((("17",), 1.0),))])
        assert load_queries(conn, migration) == ()
        queries.store(conn, uuids, [QueryInput("a", (((key,), 1.0),))])
        (kept,) = load_queries(conn, migration)
        assert kept.query.relevant == (((key.lower(),), 1.0),)


def test_vectors_are_kept_exactly(database: str) -> None:
    migration = small_table(database)
    vector = np.array([0.1, -1e-30, 3.4e38, 1 / 3, 0, 5], np.float32)
    with connect(database, name="test") as conn:
        ids = queries.store(conn, migration, [QueryInput("a")])
        store_vectors(conn, migration.new_model.id, {ids[0]: vector})
        assert load_vectors(conn, migration.new_model.id, ids)[ids[0]].tobytes() == vector.tobytes()


def test_another_query_prefix_forgets_the_vectors_kept(database: str) -> None:
    """The rows' vectors are the same model's, but queries are embedded otherwise."""
    migration = small_table(database)
    with connect(database, name="test") as conn:
        ids = queries.store(conn, migration, [QueryInput("a")])
        for model in (migration.old_model, migration.new_model):
            store_vectors(conn, model.id, {ids[0]: np.ones(model.dimensions, "<f4")})
        assert register_model(conn, migration.new_model).id == migration.new_model.id
        assert load_vectors(conn, migration.new_model.id, ids)
        again = register_model(conn, replace(migration.new_model, query_prefix="query: "))
        assert again.id == migration.new_model.id
        assert not load_vectors(conn, migration.new_model.id, ids)
        assert load_vectors(conn, migration.old_model.id, ids)


def test_another_endpoint_or_limit_forgets_what_was_found_of_requests(database: str) -> None:
    migration = small_table(database)
    with connect(database, name="test") as conn:
        for name, value in (("base_url", "https://other.example"), ("max_inputs", 50), ("max_tokens", 9_000)):
            model = register_model(conn, migration.new_model)
            store_learnt(conn, model.id, 4, None)
            register_model(conn, replace(migration.new_model, price_per_million=1.0))
            assert load_learnt(conn, model.id) == (4, None)
            register_model(conn, replace(migration.new_model, **{name: value}))
            assert load_learnt(conn, model.id) == (None, None), name
        store_learnt(conn, model.id, 4, None)
        for hours, found in ((23, 4), (25, None)):
            conn.execute("UPDATE embedtui.model SET learnt_at = now() - make_interval(hours => %s)", [hours])
            assert load_learnt(conn, model.id) == (found, None), "it is taken for true for a day"


def test_verdicts(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    migration = small_table(database)
    with connect(database, name="test") as conn:
        one, two = queries.store(conn, migration, [QueryInput("a"), QueryInput("b")])
        monkeypatch.setenv("EMBEDTUI_OPERATOR", "ann")
        queries.decide(conn, one, "old", "at first")
        queries.decide(conn, one, "new", "on second thought")
        assert load_verdicts(conn, [one, two]) == {one: Verdict("new", "on second thought", "ann")}
        queries.decide(conn, one, "new")
        assert load_verdicts(conn, [one])[one].note == "on second thought", "pressed again, it keeps its note"
        queries.decide(conn, one, "new", "")
        assert load_verdicts(conn, [one])[one].note == "", "taken away"
        queries.decide(conn, two, "old", "at first")
        queries.decide(conn, two, "new")
        assert load_verdicts(conn, [two])[two].note == "", "another verdict does not"
        monkeypatch.setenv("EMBEDTUI_OPERATOR", "bob")
        before = movement_of_verdicts(conn, migration.id)
        assert queries.decide(conn, one, "bad") == Verdict("bad", "", "bob")
        assert load_verdicts(conn, [one])[one].who == "bob", "the newest counts"
        assert movement_of_verdicts(conn, migration.id) != before, "others see it"
        assert queries.decide(conn, one, "") == Verdict("new", "", "ann"), "that one stands"
        assert load_verdicts(conn, [one])[one].who == "ann"
        with pytest.raises(SettingsError, match="No verdict"):
            queries.decide(conn, one, "better")
        with pytest.raises(Refused):
            queries.decide(conn, 999_999, "new")


def test_queries_compared_before_keep_what_they_have_beside_new_ones(database: str) -> None:
    """As the dashboard names them: by text and row, ahead of those that are given."""
    migration = small_table(database)
    with connect(database, name="test") as conn:
        judged = QueryInput("a", ((("1",), 1.0),))
        before = queries.store(conn, migration, [judged, QueryInput("text 3", row=("3",))], "log")
        named = [QueryInput("a"), QueryInput("text 3", row=("3",))]
        after = queries.store(conn, migration, [*named, QueryInput("b"), QueryInput("a", ((("2",), 1.0),))])
        assert (after[:2], after[3]) == (before, before[0])
        kept = {each.id: (each.query.relevant, each.source) for each in load_queries(conn, migration)}
        assert kept[before[0]] == (((("2",), 1.0),), "log") and kept[before[1]][1] == "log" and len(kept) == 3


def test_queries_that_were_kept_by_mistake_are_forgotten(database: str) -> None:
    migration = small_table(database)
    with connect(database, name="test") as conn:
        one, two, three = queries.store(conn, migration, [QueryInput(each) for each in ("a", "b", "password 123")])
        queries.decide(conn, three, "old")
        queries.forget(conn, migration, [three, two])
        assert [each.id for each in load_queries(conn, migration)] == [one]
        assert load_verdicts(conn, [three]) == {}
        told = conn.execute("SELECT detail FROM embedtui.audit WHERE act = 'queries forgotten'").fetchall()
        assert told == [("2 queries",)], "and not their texts, which may be rows of the table"
        with pytest.raises(Refused, match="Not all of these"):
            queries.forget(conn, migration, [one, three])
        assert [each.id for each in load_queries(conn, migration)] == [one], "all or none"
