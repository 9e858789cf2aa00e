"""Recorded evaluations: read back whole, and void once the table, the index or the models have moved on."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from embedtui.config import load_settings
from embedtui.engine import Engine
from embedtui.engine.validate import queries
from embedtui.engine.validate.compare import compare
from embedtui.engine.validate.evaluation import current_evaluation, remembered
from embedtui.engine.validate.gate import decide_gate
from embedtui.model import EvaluationStatus, Phase, PlacementKind, Remedy, TableName
from embedtui.postgres.sides.both import count_gone
from embedtui.postgres.sides.capture import install_sql
from embedtui.postgres.sides.hits import read_hits
from embedtui.postgres.sides.texts import row_texts
from embedtui.postgres.state.queue import forget_entries
from tests.kits.comparing import build_index, connector, execute, rows_compared, small
from tests.kits.support import connect


@pytest.mark.parametrize("placement", list(PlacementKind))
def test_a_recorded_evaluation_is_read_back_whole(database: str, placement: PlacementKind) -> None:
    migration = small(database, placement=placement)
    made = rows_compared(database, migration)
    with connect(database, name="test") as conn:
        assert remembered(conn, migration) == made
        status = current_evaluation(conn, migration)
        audited = conn.execute("SELECT detail FROM embedtui.audit WHERE act = 'evaluation'").fetchall()
    assert status is not None
    assert (status.id, status.verdict, status.valid, status.queries) == (made.evaluation_id, made.verdict, True, 40)
    assert status.mean_overlap == made.measures.overlap.mean
    assert len(audited) == 1
    assert audited[0][0].startswith(made.verdict)


def test_its_state_tells_what_failed_and_which_verdicts_are_yet_to_count(database: str) -> None:
    migration = small(database)
    made = rows_compared(database, migration)
    execute(database, "DROP INDEX docs_new")
    made = rows_compared(database, migration)
    with connect(database, name="test") as conn:

        def state() -> EvaluationStatus:
            found = current_evaluation(conn, migration)
            assert found is not None
            return found

        failed = [check for check in made.checks if check.result == "fail"]
        told = state().checks
        assert told[: len(failed)] == tuple(failed) and {check.name for check in failed} >= {"index"}
        assert not any(check.result == "pass" for check in told)
        assert state().verdicts_since is None
        first, second, *_ = (query.query_id for query in made.queries)
        queries.decide(conn, first, "same")
        queries.decide(conn, second, "new")
        assert state().verdicts_since == 2
        again = rows_compared(database, migration)
        assert again.evaluation_id != made.evaluation_id, "though all checks came out as before"
        assert (again.measures.wins_new, state().id, state().verdicts_since) == (1, again.evaluation_id, None)
        assert rows_compared(database, migration).evaluation_id == again.evaluation_id
        queries.decide(conn, second, "")
        assert state().verdicts_since == 0, "one was taken back"
        execute(database, "UPDATE embedtui.evaluation SET state = jsonb_set(state, '{summary,judged}', '40')")
        assert state().verdicts_since is None, "judgments decide"


def test_a_hit_that_was_deleted_since_says_so(database: str) -> None:
    migration = small(database)
    made = rows_compared(database, migration)
    gone, kept = made.queries[0].new[0], made.queries[0].new[1]
    execute(database, f"DELETE FROM docs WHERE id = '{gone.key[0]}'")
    with connect(database, name="test") as conn:
        found = remembered(conn, migration)
    assert found is not None
    hits = {row.key: row.deleted for query in found.queries for row in (*query.old, *query.new)}
    assert hits[gone.key] and not hits[kept.key]
    assert sum(hits.values()) == 1


@pytest.mark.parametrize(
    "column",
    [
        "title text",
        "name varchar(80)",
        "metadata jsonb",  # of a framework
    ],
)
def test_a_hit_tells_its_title_and_that_it_was_edited_since(database: str, column: str) -> None:
    migration = small(database)
    name = column.split()[0]
    value = "jsonb_build_object('source', 'Title of ' || id)" if "json" in column else "'Title of ' || id"
    execute(database, f"ALTER TABLE docs ADD COLUMN {column}; UPDATE docs SET {name} = {value}")
    made = rows_compared(database, migration)
    rows = [row for query in made.queries for row in (*query.old, *query.new)]
    assert {row.title for row in rows} == {f"Title of {row.key[0]}" for row in rows} and not any(
        row.edited for row in rows
    )
    changed, kept = made.queries[0].new[:2]
    # beyond what a screen reads of a text, too
    execute(database, f"UPDATE docs SET content = content || repeat(' and more', 400) WHERE id = '{changed.key[0]}'")
    execute(database, f"UPDATE docs SET category = 7 WHERE id = '{kept.key[0]}'")
    with connect(database, name="test") as conn:
        found = remembered(conn, migration)
        assert found is not None
        assert {r.key for q in found.queries for r in (*q.old, *q.new) if r.edited} == {changed.key}
        # an evaluation of an earlier version kept no fingerprints
        execute(database, "UPDATE embedtui.evaluation SET measures = measures - 'contents'")
        found = remembered(conn, migration)
        assert found is not None and not any(r.edited for q in found.queries for r in (*q.old, *q.new))


def test_json_that_postgresql_cannot_read_gives_no_title(database: str) -> None:
    """The type json keeps escapes that no text can hold, as texts of PDF files have them; only reading them fails."""
    migration = small(database)
    execute(database, "ALTER TABLE docs ADD COLUMN metadata_ json")
    told = {"1": r"nul \u0000", "2": r"half \ud83d", "3": r"half \uDE00", "4": r"\ud83d\ude00 both", "5": "plain"}
    for key, title in told.items():
        execute(database, f"""UPDATE docs SET metadata_ = '{{"page": 1, "title": "{title}"}}' WHERE id = '{key}'""")
    with connect(database, name="test") as conn:
        found = read_hits(conn, migration, [(key,) for key in told])
    assert [found[(key,)].title for key in told] == ["", "", "", "😀 both", "plain"]


def test_a_table_may_have_any_short_name(database: str) -> None:
    """It is in these statements by its own name, beside what they call the keys that they look for."""
    migration = replace(small(database), table=TableName("public", "k"))
    execute(database, "ALTER TABLE docs RENAME TO k")
    assert rows_compared(database, migration).queries
    with connect(database, name="test") as conn:
        assert count_gone(conn, migration, [("1",), ("gone",)]) == 1
        assert read_hits(conn, migration, [("1",)])[("1",)].text == row_texts(conn, migration, [("1",)])[("1",)]


def test_a_title_that_the_role_may_not_read_is_left_out(database: str) -> None:
    migration = small(database)
    execute(
        database,
        "ALTER TABLE docs ADD COLUMN title text DEFAULT 'secret'; CREATE ROLE reads LOGIN;"
        "GRANT USAGE ON SCHEMA public TO reads; GRANT SELECT (id, content) ON docs TO reads",
    )
    with connect(database, name="test") as conn:
        conn.execute("SET ROLE reads")
        found = read_hits(conn, migration, [("1",)])
        assert found[("1",)].title == "" and found[("1",)].text
        conn.execute("RESET ROLE")
        assert read_hits(conn, migration, [("1",)])[("1",)].title == "secret"
        conn.execute("DROP OWNED BY reads; DROP ROLE reads")


def test_there_is_no_evaluation_before_the_first(database: str) -> None:
    migration = small(database)
    with connect(database, name="test") as conn:
        assert current_evaluation(conn, migration) is None
        assert remembered(conn, migration) is None


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        (
            "UPDATE docs SET content = 'x' || id WHERE id::int < 11",
            "11 changes to 200 rows since (5.5 %, more than 5 %)",
        ),
        ("UPDATE docs SET content = 'x' || id WHERE id::int < 10", ""),
        (
            "INSERT INTO docs (id, category, content) SELECT 'n' || n, 0, 'x' FROM generate_series(1, 11) n",
            "11 changes to 200",
        ),
        ("DELETE FROM docs WHERE id::int < 11", "11 changes to 200"),
        ("TRUNCATE docs", "truncated or rewritten"),
        ("DROP INDEX docs_new", "the index docs_new it saw is gone"),
        ("REINDEX INDEX docs_new", "the new index was built since"),
        ("UPDATE embedtui.migration SET synced = synced + 11", "11 changes to 200"),
        (
            "INSERT INTO embedtui.queue (migration, key, kind) SELECT 1, '{1}', 'u' FROM generate_series(1, 30)",
            "at least 11 changes to 200",
        ),
        ("INSERT INTO embedtui.queue (migration, key, kind) SELECT 7, '{1}', 'u' FROM generate_series(1, 30) n", ""),
        (
            "INSERT INTO embedtui.shard (migration, leaf, filenode, first_block, last_block, rows)"
            " VALUES (1, 1, 1, 0, 1, 11)",
            "11 of 200 rows backfilled since (5.5 %, more than 5 %)",
        ),
    ],
)
def test_an_evaluation_goes_void_when_the_table_moves_on(database: str, statement: str, why: str) -> None:
    migration = small(database)
    made = rows_compared(database, migration)
    execute(database, statement)
    with connect(database, name="test") as conn:
        status = current_evaluation(conn, migration)
    assert status is not None
    assert status.id == made.evaluation_id
    assert status.valid == (why == "")
    assert why in status.why_void


def test_with_change_capture_only_changed_content_counts(database: str) -> None:
    migration = small(database)
    with connect(database, name="test") as conn:
        for statement in install_sql(migration):
            conn.execute(statement)
    rows_compared(database, migration)
    execute(database, "UPDATE docs SET category = category + 1")
    with connect(database, name="test") as conn:
        status = current_evaluation(conn, migration)
    assert status is not None
    assert status.valid, status.why_void
    assert not status.near_void
    near = ("", "8 changes to 200 rows since (4 % of the 5 % that it bears): it will soon be void")
    void = ("at least 11 changes to 200 rows since (5.5 %, more than 5 %)", "")
    for first, last, said in ((0, 6, ("", "")), (7, 7, near), (8, 10, void)):
        execute(database, f"UPDATE docs SET content = content || '!' WHERE id::int BETWEEN {first} AND {last}")
        with connect(database, name="test") as conn:
            status = current_evaluation(conn, migration)
        assert status is not None and (status.why_void, status.near_void) == said


def test_an_evaluation_is_judged_by_the_settings_in_force(database: str) -> None:
    """Not by those of its time: the drift counts at once, and for the rest it has to be judged anew."""
    migration = small(database)
    made = rows_compared(database, migration)
    execute(database, "UPDATE docs SET content = 'x' || id WHERE id::int < 5")
    stored = dict(migration.settings)
    drift = replace(migration, settings={**stored, "gate": {"max_drift": 0.01}})
    strict = replace(migration, settings={**stored, "gate": {"min_overlap": 0.99, "min_queries": 35}})
    with connect(database, name="test") as conn:
        found = [current_evaluation(conn, each) for each in (migration, drift, strict)]
        assert [each.why_void if each else None for each in found] == [
            "",
            "5 changes to 200 rows since (2.5 %, more than 1 %)",
            "it was judged by other settings of the gate (min_queries 30, now 35, min_overlap 0.5, now 0.99)",
        ]
        judged = decide_gate(connector(database), strict, made, strict.stored.gate)
        anew = current_evaluation(conn, strict)
        assert anew is not None and anew.valid and anew.id == judged.evaluation_id != made.evaluation_id
        again = decide_gate(connector(database), strict, judged, strict.stored.gate)
        assert again.evaluation_id == judged.evaluation_id, "nothing new is to be said"
    # the settings of this machine count, as they do for a cutover from here; the database has others until a reload
    for overlap, valid in ((0.99, True), (0.6, False)):
        flags = {"gate.min_overlap": overlap, "gate.min_queries": 35}
        here = Engine(database, settings=load_settings(flags, environ={}, cwd=Path("/nowhere")))
        with closing(here):
            status = here.snapshot().evaluation
            assert status is not None and status.valid == valid, status.why_void


def test_a_row_that_gets_its_vector_after_it_was_inserted_is_one_change(database: str) -> None:
    """As the Router's writer does: the row first, and then its vectors."""
    migration = small(database)
    with connect(database, name="test") as conn:
        for statement in install_sql(migration):
            conn.execute(statement)
        rows_compared(database, migration)
        conn.execute(
            "INSERT INTO docs (id, content, category) SELECT 'n' || n, 'new ' || n, 0 FROM generate_series(1, 6) n"
        )
        conn.execute("UPDATE docs SET embedding = (SELECT embedding FROM docs LIMIT 1) WHERE id LIKE 'n%'")
        assert conn.execute("SELECT count(*) FROM embedtui.queue").fetchone() == (12,)
        ids = [number for (number,) in conn.execute("SELECT id FROM embedtui.queue WHERE key <= '{n3}'").fetchall()]
        enough, tight = (
            replace(migration, settings={**migration.settings, "gate": {"max_drift": share}}) for share in (0.03, 0.025)
        )
        for at_work in (None, ids):  # waiting, and then worked off in part
            if at_work is not None:
                forget_entries(conn, migration.id, at_work)
                assert conn.execute("SELECT synced FROM embedtui.migration").fetchone() == (3,)
            found = [current_evaluation(conn, each) for each in (enough, tight)]
            assert [each is not None and each.valid for each in found] == [True, False]
            assert found[1] is not None and "6 changes to 200 rows" in found[1].why_void


def test_once_a_migration_is_done_its_evidence_stands(database: str) -> None:
    """The cleanup's own fold is no reason to doubt it, and nothing is decided by it any more."""
    migration = small(database)
    rows_compared(database, migration)
    execute(database, "TRUNCATE docs CASCADE")
    with connect(database, name="test") as conn:
        before = current_evaluation(conn, migration)
        after = current_evaluation(conn, replace(migration, phase=Phase.DONE))
    assert before is not None and "truncated or rewritten" in before.why_void
    assert after is not None and after.valid and not after.why_void


def test_an_evaluation_of_other_models_is_void(database: str) -> None:
    migration = small(database)
    rows_compared(database, migration)
    other = replace(migration, new_model=replace(migration.new_model, id=99))
    with connect(database, name="test") as conn:
        status = current_evaluation(conn, other)
    assert status is not None
    assert status.why_void == "it compared other models"


def test_an_index_built_after_the_evaluation_makes_it_void(database: str) -> None:
    migration = small(database, index="")
    rows_compared(database, migration)
    with connect(database, name="test") as conn:
        build_index(conn, migration, "hnsw")
        status = current_evaluation(conn, migration)
    assert status is not None
    assert "the new index was built since" in status.why_void


def test_an_index_that_became_valid_during_the_comparison_is_the_one_it_saw(database: str) -> None:
    """Compared in the second in which a build ends: what was searched counts, not what there was at the start."""
    migration = small(database)
    with connect(database, name="test") as conn:
        asked = queries.from_rows(conn, migration, 40)
        conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'docs_new'::regclass")

        def build_ends(what: str, _done: int, _total: int) -> None:
            if what == "reading vectors":
                conn.execute("UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'docs_new'::regclass")

        made = compare(connector(database), migration, asked, progress=build_ends)
        decide_gate(connector(database), migration, made)
        status = current_evaluation(conn, migration)
    assert made.measures.index_recall == 1
    assert status is not None
    assert status.valid, status.why_void


def test_a_check_recorded_by_an_earlier_version_keeps_its_hint(database: str) -> None:
    """It was called ``mend`` then."""
    migration = small(database)
    made = rows_compared(database, migration)
    execute(
        database,
        "UPDATE embedtui.evaluation SET checks = (SELECT jsonb_agg(c - 'hint' || jsonb_build_object('mend', c->'hint'))"
        " FROM jsonb_array_elements(checks) c)",
    )
    with connect(database, name="test") as conn:
        found = remembered(conn, migration)
    assert found is not None
    assert found.checks == made.checks
    assert any(check.hint for check in found.checks)


def test_a_verdict_given_since_counts_in_what_is_read_back(database: str) -> None:
    migration = small(database)
    made = rows_compared(database, migration)
    with connect(database, name="test") as conn:
        for query in made.queries[:3]:
            queries.decide(conn, query.query_id, "new")
        queries.decide(conn, made.queries[3].query_id, "old", "lost the exact title")
        found = remembered(conn, migration)
    assert found is not None
    assert (found.measures.wins_new, found.measures.wins_old) == (3, 1)
    assert (found.queries[3].verdict, found.queries[3].note) == ("old", "lost the exact title")
    assert (made.measures.wins_new, made.queries[0].verdict) == (0, "")


def test_a_recorded_check_keeps_what_mends_it(database: str) -> None:
    migration = small(database)
    made = rows_compared(database, migration)
    execute(database, "DROP INDEX docs_new")
    judged = decide_gate(connector(database), migration, made)
    with connect(database, name="test") as conn:
        kept = remembered(conn, migration)
    assert kept is not None
    assert kept.checks == judged.checks
    (index,) = (check for check in kept.checks if check.name == "index")
    assert (index.remedies, index.advice) == ((Remedy.RUN,), "Build it: `embedtui run`.")
