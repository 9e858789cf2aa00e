"""The plan: checks, placement, estimates and exact SQL, found without changing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.config import Settings, load_settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.plan import estimates, load
from embedtui.engine.plan.draft import resolve
from embedtui.engine.plan.placement import choose_placement
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.start import require_ready, require_startable
from embedtui.errors import DatabaseError, EmbedtuiError, ExitCode, ProviderError, Refused
from embedtui.known import PRICES_CHECKED
from embedtui.model import Check, Phase, PlacementKind, Plan, Remedy
from embedtui.postgres.connect import Connection
from embedtui.postgres.state import migrations as state
from embedtui.postgres.state import schema
from embedtui.postgres.state.pointer import create_route
from tests.kits.support import connect

DOCUMENTS = """
CREATE TABLE documents (id bigint PRIMARY KEY, content text, embedding vector(3));
CREATE INDEX idx_documents_embedding ON documents USING hnsw (embedding vector_cosine_ops);
"""
TRIGGER = """
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER touched BEFORE UPDATE ON documents FOR EACH ROW EXECUTE FUNCTION touch();
"""

MakePlan = Callable[..., Plan]


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with connect(database, name="test") as connection:
        connection.execute(DOCUMENTS)
        yield connection


def settings_of(folder: Path, env: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    named = {name.replace("__", "."): value for name, value in flags.items()}
    given = {"table": "documents", "new_model.name": "m", "new_model.dimensions": 8, **named}
    return load_settings(given, environ={"OPENAI_API_KEY": "sk-test", **(env or {})}, cwd=folder / "none")


@pytest.fixture
def plan(database: str, conn: Connection, tmp_path: Path) -> MakePlan:
    """Plans on a read-only connection, so that any write would fail."""
    del conn  # it made the table

    def run(*, check_provider: bool = False, env: dict[str, str] | None = None, **flags: Any) -> Plan:
        with connect(database, name="plan", read_only=True) as reading:
            return make_plan(reading, settings_of(tmp_path, env, **flags), check_provider=check_provider)

    return run


def found(plan: Plan, name: str) -> Check | None:
    return next((check for check in plan.checks if check.name == name), None)


def failed(plan: Plan) -> list[str]:
    return [check.name for check in plan.checks if check.result == "fail"]


def test_where_texts_go_is_said_of_both_models(plan: MakePlan) -> None:
    said = {"new_model__base_url": "https://gateway.example/v1", "old_model__base_url": "http://old:9/v1"}
    check = found(plan(**said, old_model__name="o"), "endpoints")
    assert check is not None
    assert "Texts go to https://gateway.example/v1." in check.detail and "asked at http://old:9/v1:" in check.detail
    check = found(plan(**said, old_model__name="o", old_model__retired=True), "endpoints")
    assert check is not None and "old" not in check.detail


# ---------------------------------------------------------------------------------------------------- estimates


def test_rows_empty_rows_tokens_and_cost(conn: Connection, plan: MakePlan) -> None:
    conn.execute(
        r"""INSERT INTO documents SELECT i, CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN E' \n\t' ELSE repeat('abcd', 10) END
        FROM generate_series(1, 400) i"""
    )
    made = plan(new_model__price_per_million=2.0)
    assert (made.rows, made.empty_rows) == (400, 200)
    assert made.estimated_tokens == 200 * 10
    assert made.estimated_cost == pytest.approx(0.004)
    assert made.estimated_seconds is None, "no quota is known"
    assert plan(new_model__document_prefix="12345678").estimated_tokens == 200 * 12


def test_unknown_price_is_unknown_cost(plan: MakePlan) -> None:
    made = plan()
    assert made.estimated_cost is None
    assert (check := found(made, "price"))
    assert check.result == "unknown"


def test_a_price_says_how_old_it_is_and_whose(plan: MakePlan) -> None:
    known = found(plan(new_model__name="voyage-4", new_model__dimensions=512), "price")
    assert known is not None and known.result == "pass"
    assert "$0.06" in known.detail and PRICES_CHECKED in known.detail and "may have changed" in known.detail
    own = found(plan(new_model__price_per_million=2.0), "price")
    assert own is not None and "$2.00" in own.detail and PRICES_CHECKED not in own.detail


def test_a_models_shutdown_is_said_with_its_day_and_source(plan: MakePlan) -> None:
    old = found(plan(old_model__name="text-embedding-004"), "old model")
    assert old is not None and old.result == "warn"
    assert old.detail.startswith("text-embedding-004 was shut down on 2026-01-14 (ai.google.dev/")
    new = found(plan(new_model__name="text-embedding-004"), "new model")
    assert new is not None and new.result == "fail" and "2026-01-14" in new.detail
    azure = {"new_model__provider": "azure", "new_model__base_url": "http://h/v1"}
    soon = found(plan(new_model__name="text-embedding-3-large", new_model__dimensions=768, **azure), "new model")
    assert (soon is not None) == (date.today() >= date(2026, 4, 15)), "a year ahead"
    if soon is not None:
        assert soon.result == "warn" and "2027-04-15" in soon.detail


def test_time_is_what_the_set_quota_imposes(conn: Connection, plan: MakePlan) -> None:
    conn.execute("INSERT INTO documents SELECT i, repeat('abcd', 100) FROM generate_series(1, 100) i")
    assert plan(pacing__tokens_per_minute=5000.0).estimated_seconds == pytest.approx(120)
    by_requests = plan(pacing__requests_per_minute=2.0, new_model__max_inputs=10)
    assert by_requests.estimated_seconds == pytest.approx(300)


def test_a_big_table_is_sampled(conn: Connection, plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "FULL_SCAN_BYTES", 0)
    monkeypatch.setattr(estimates, "SAMPLE_ROWS", 3000)
    conn.execute(
        "INSERT INTO documents SELECT i, CASE WHEN i % 2 = 0 THEN repeat('abcd', 50) END"
        " FROM generate_series(1, 20000) i;"
        "ANALYZE documents"
    )
    made = plan()
    assert made.rows == 20_000
    assert made.empty_rows == pytest.approx(10_000, rel=0.05)
    assert made.estimated_tokens == pytest.approx(500_000, rel=0.05)


def test_an_empty_table_is_fine_with_a_notice(plan: MakePlan) -> None:
    made = plan()
    assert (made.rows, made.estimated_tokens, failed(made)) == (0, 0, [])
    assert (check := found(made, "notice"))
    assert "documents is empty" in check.detail


def test_long_texts_are_announced(conn: Connection, plan: MakePlan) -> None:
    conn.execute("INSERT INTO documents VALUES (1, repeat('x', 500)), (2, 'short')")
    check = found(plan(new_model__max_input_tokens=100), "long texts")
    assert check
    assert check.detail.startswith("About 1 text is likely over m's 100 tokens")


# ---------------------------------------------------------------------------------------------------- placement


def test_beside_the_old_column_is_the_default(plan: MakePlan) -> None:
    made = plan()
    assert made.placement is PlacementKind.COLUMN
    assert "no row trigger" in made.placement_why
    assert found(made, "new column")


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (TRIGGER, "fires touched"),
        ("CREATE PUBLICATION p FOR TABLE documents", "publication p would carry"),
    ],
)
def test_a_side_table_where_a_column_would_hurt(conn: Connection, plan: MakePlan, prepare: str, why: str) -> None:
    conn.execute(prepare)
    made = plan()
    assert made.placement is PlacementKind.TABLE
    assert why in made.placement_why
    assert failed(made) == []
    forced = plan(placement="column")
    assert forced.placement is PlacementKind.COLUMN
    assert forced.placement_why.startswith("as set (--placement), though")
    assert why in forced.placement_why
    assert {"triggers", "publications"} & {check.name for check in forced.checks}


@pytest.mark.parametrize(
    "where",
    ["DATABASE {database}", "ROLE {role}", "ROLE {role} IN DATABASE {database}"],
    ids=["database", "role", "both"],
)
def test_transactions_that_a_backfilled_row_would_fail_speak_for_a_side_table(
    conn: Connection, plan: MakePlan, where: str
) -> None:
    role = f"snapshots_{conn.info.dbname}"
    conn.execute(f"CREATE ROLE {role}; GRANT UPDATE (content) ON documents TO {role}")
    on = where.format(database=conn.info.dbname, role=role)
    try:
        conn.execute(f"ALTER {on} SET default_transaction_isolation = 'repeatable read'")
        assert plan().placement is PlacementKind.TABLE
        if "ROLE" in where:
            conn.execute(f"REVOKE UPDATE (content) ON documents FROM {role}")
        else:
            conn.execute(f"ALTER {on} RESET default_transaction_isolation")
        assert plan().placement is PlacementKind.COLUMN
    finally:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize(
    "harmless",
    [
        "CREATE PUBLICATION p FOR TABLE documents (id, content)",
        TRIGGER + "ALTER TABLE documents DISABLE TRIGGER touched",
        TRIGGER.replace("BEFORE UPDATE ON", "BEFORE INSERT OR UPDATE OF content ON"),
    ],
)
def test_what_a_new_column_does_not_touch_is_no_reason(conn: Connection, plan: MakePlan, harmless: str) -> None:
    conn.execute(harmless)
    assert plan().placement is PlacementKind.COLUMN


@pytest.mark.parametrize("superuser", [True, False])
def test_a_trigger_is_told_with_whether_this_role_may_pass_it(
    conn: Connection, tmp_path: Path, superuser: bool
) -> None:
    conn.execute(TRIGGER)
    settings = settings_of(tmp_path)
    draft = resolve(conn, settings)
    why = choose_placement(replace(draft, server=replace(draft.server, superuser=superuser)), settings)[1]
    assert "fires touched" in why and (f"({draft.server.role}, a superuser, may)" in why) == superuser


def test_a_big_old_index_speaks_for_a_side_table(conn: Connection, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    draft = resolve(conn, settings)
    small = replace(draft, server=replace(draft.server, shared_buffers=1))
    assert choose_placement(draft, settings)[0] is PlacementKind.COLUMN
    placement, why = choose_placement(small, settings)
    assert placement is PlacementKind.TABLE
    assert "bigger than shared_buffers" in why


# -------------------------------------------------------------------------------------------------------- SQL


@pytest.mark.parametrize("placement", ["column", "table"])
def test_the_sql_of_the_plan_runs_as_it_stands(conn: Connection, plan: MakePlan, database: str, placement: str) -> None:
    made = plan(placement=placement)
    schema.install(conn)
    with psycopg.connect(database, autocommit=True) as running:
        for statement in made.statements:
            running.execute(statement)
    joined = "\n".join(made.statements)
    assert "CREATE TRIGGER" in joined
    assert ("ADD COLUMN" in joined) is (placement == "column")
    assert "CREATE INDEX CONCURRENTLY" in joined


def test_the_plan_changes_nothing(conn: Connection, plan: MakePlan) -> None:
    def catalog() -> list[Any]:
        return conn.execute("SELECT oid, relname FROM pg_class WHERE oid > 16384 ORDER BY oid").fetchall()

    before = catalog()
    plan()
    plan(placement="table")
    assert catalog() == before


def test_no_triggers_where_capture_is_a_scan(plan: MakePlan) -> None:
    assert "CREATE TRIGGER" not in "\n".join(plan(change_capture="scan").statements)


def test_no_index_where_none_is_wanted(plan: MakePlan) -> None:
    assert "CREATE INDEX" not in "\n".join(plan(index__method="none").statements)


# ------------------------------------------------------------------------------------------------------ checks


def test_a_healthy_table_has_no_failed_check(conn: Connection, plan: MakePlan, tmp_path: Path) -> None:
    conn.execute("INSERT INTO documents VALUES (1, 'a', '[1,2,3]')")
    made = plan()
    assert failed(made) == []
    settings = settings_of(tmp_path)
    assert require_ready(conn, resolve(conn, settings), settings)[0] is PlacementKind.COLUMN


@pytest.mark.parametrize(
    ("prepare", "flags", "name", "said", "error"),
    [
        ("CREATE PUBLICATION p FOR ALL TABLES", {}, "publications", "Publication p carries new tables too", Refused),
        ("CREATE PUBLICATION p FOR TABLES IN SCHEMA public", {}, "publications", "subscribers stop", Refused),
        ("ALTER TABLE documents ADD embedding_v2 vector(8)", {"old_column": "embedding"}, "new side",
         "documents has a column embedding_v2 already.", Refused),
        ("ALTER TABLE documents ADD embedding_v2_source int", {}, "new side", "embedding_v2_source already", Refused),
        ("CREATE TABLE documents_embedding_v2 ()", {"placement": "table"}, "new side", "exists already", Refused),
        ("CREATE TABLE child () INHERITS (documents)", {}, "inheritance", "old-style inheritance", Refused),
        ("ALTER TABLE documents RENAME id TO source", {"placement": "table"}, "key", "side table's own", Refused),
        ("", {"pacing__spend_cap": 5.0}, "price", "A spend cap is set (--spend-cap), but the price of m", Refused),
        ("", {"new_model__retired": True}, "new model", "m is retired", Refused),
        ("", {"new_model__key_variable": "NO_SUCH_KEY"}, "provider", "NO_SUCH_KEY is not set", ProviderError),
    ],
)  # fmt: skip
def test_what_cannot_work_fails_and_is_refused(
    conn: Connection,
    plan: MakePlan,
    tmp_path: Path,
    prepare: str,
    flags: dict[str, Any],
    name: str,
    said: str,
    error: type[EmbedtuiError],
) -> None:
    if prepare:
        conn.execute(prepare)
    made = plan(**flags)
    check = next(check for check in made.checks if check.name == name and check.result == "fail")
    assert said in check.detail
    assert check.hint
    settings = settings_of(tmp_path, **flags)
    with pytest.raises(error) as caught:
        require_ready(conn, resolve(conn, settings), settings)
    assert said in str(caught.value)
    assert caught.value.hint


def test_a_dealt_with_publication_only_warns(conn: Connection, plan: MakePlan) -> None:
    conn.execute("CREATE PUBLICATION p FOR ALL TABLES")
    made = plan(accept="publications")
    assert failed(made) == []
    assert (check := found(made, "publications"))
    assert check.result == "warn"


@pytest.mark.parametrize(
    ("prepare", "name", "said"),
    [
        ("ALTER TABLE documents ALTER embedding SET NOT NULL", "old column", "embedding is NOT NULL"),
        ("CREATE VIEW v AS SELECT embedding FROM documents", "dependents", "view v"),
        ("ALTER TABLE documents SET UNLOGGED", "unlogged", "unlogged"),
        (
            "CREATE RULE r AS ON DELETE TO documents DO ALSO NOTHING",
            "rules",
            "Rules rewrite statements on the table: r",
        ),
    ],
)
def test_what_is_risky_warns(conn: Connection, plan: MakePlan, prepare: str, name: str, said: str) -> None:
    conn.execute(prepare)
    made = plan()
    assert failed(made) == []
    assert (check := found(made, name))
    assert check.result == "warn"
    assert said in check.detail


@pytest.mark.parametrize(
    ("prepare", "said"),
    [("", "TRUNCATE"), ("ALTER TABLE documents SET UNLOGGED", "unlogged: no logged side table")],
)
def test_what_a_foreign_key_would_forbid_the_application_is_said(
    conn: Connection, plan: MakePlan, prepare: str, said: str
) -> None:
    if prepare:
        conn.execute(prepare)
    [check] = [check for check in plan(placement="table").checks if check.name == "foreign key"]
    assert said in check.detail and check.hint.startswith("foreign_key = false")
    assert check.result == ("fail" if prepare else "warn")
    for without in ({"placement": "table", "foreign_key": False}, {"placement": "column"}):
        assert not any(check.name == "foreign key" for check in plan(**without).checks)


def test_index_memory_is_forecast(conn: Connection, plan: MakePlan) -> None:
    conn.execute("INSERT INTO documents SELECT i, 'x' FROM generate_series(1, 3000) i")
    assert (check := found(plan(), "index memory"))
    assert check.result == "pass"
    conn.execute(f"ALTER DATABASE {conn.info.dbname} SET maintenance_work_mem = '1MB'")
    check = found(plan(), "index memory")
    assert check
    assert check.result == "warn"
    assert "maintenance_work_mem is 1.0 MB" in check.detail
    assert "index.maintenance_work_mem" in check.hint


def test_old_transactions_are_said(plan: MakePlan, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "LONG_TRANSACTION_SECONDS", 0)
    assert found(plan(), "long transactions") is None
    with psycopg.connect(database) as other:
        other.execute("SELECT 1")
        assert (check := found(plan(), "long transactions"))
        assert check.result == "warn"


def test_a_role_without_rights_gets_the_grants_it_needs(conn: Connection, database: str, tmp_path: Path) -> None:
    role = f"worker_{conn.info.dbname}"
    conn.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT, UPDATE ON documents TO {role}")
    try:
        with psycopg.connect(database, user=role, autocommit=True) as other:
            for placement in ("column", "table"):
                settings = settings_of(tmp_path, placement=placement, change_capture="scan")
                made = make_plan(other, settings)
                assert {"rights", "state schema"} <= set(failed(made))
                with pytest.raises(DatabaseError) as caught:
                    require_ready(other, resolve(other, settings), settings)
                assert caught.value.exit_code is ExitCode.DATABASE
            grants = (check := found(made, "rights")) and check.hint
            assert grants
            assert f"GRANT REFERENCES ON documents TO {role}" in grants
            # without ownership a side table is the one that can be had
            conn.execute(grants + f"GRANT CREATE ON DATABASE {conn.info.dbname} TO {role};")
            settings = settings_of(tmp_path, change_capture="scan")
            assert require_ready(other, resolve(other, settings), settings)[0] is PlacementKind.TABLE
            settings = settings_of(tmp_path)  # whose triggers always fire, as the owner alone can have them
            with pytest.raises(DatabaseError, match="always fire"):
                require_ready(other, resolve(other, settings), settings)
    finally:
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_read_only_database_fails_the_plan(conn: Connection, plan: MakePlan) -> None:
    assert found(plan(), "writable") is None
    conn.execute(f"ALTER DATABASE {conn.info.dbname} SET default_transaction_read_only = on")
    assert (check := found(plan(), "writable"))
    assert check.result == "fail"


def test_a_migration_under_way_is_said_and_its_new_side_is_no_collision(
    conn: Connection, plan: MakePlan, tmp_path: Path
) -> None:
    schema.install(conn)
    draft = resolve(conn, settings_of(tmp_path))
    stored = state.create_migration(conn, replace(draft.migration(PlacementKind.COLUMN), phase=Phase.BACKFILL))
    conn.execute("ALTER TABLE documents ADD embedding_v2 vector(8)")
    made = plan()
    assert (check := found(made, "migration"))
    assert "under way (phase backfill)" in check.detail
    assert failed(made) == []
    assert f"embedtui_{stored.id}_insert" in "\n".join(made.statements)
    assert "an abort takes it back" in check.detail and check.remedies == (Remedy.RUN,)
    with conn.transaction():
        create_route(conn, stored)
        conn.execute("UPDATE embedtui.route SET active = 'new'; UPDATE embedtui.migration SET phase = 'soak'")
    assert (check := found(plan(), "migration"))
    assert "no abort takes it back now. Production reads the new side." in check.detail
    assert check.hint == "Roll back first." and check.remedies == (Remedy.ROLLBACK,)
    conn.execute('CREATE TABLE "other" (id int PRIMARY KEY, content text, embedding vector(3))')
    assert "name" in failed(plan(table="other", name="documents"))


def test_the_settings_of_a_finished_migration_do_not_begin_it_again(
    conn: Connection, plan: MakePlan, tmp_path: Path
) -> None:
    """What is in the column now would be searched with vectors of the model that was there before."""
    schema.install(conn)
    names: dict[str, Any] = {"old_model__name": "before", "new_model__name": "m"}
    draft = resolve(conn, settings_of(tmp_path, **names))
    done = state.create_migration(conn, draft.migration(PlacementKind.COLUMN))
    conn.execute("UPDATE embedtui.migration SET phase = 'done', new_column = old_column WHERE id = %s", [done.id])
    assert plan(**names).another, "and it is said to be of another one"
    check = found(plan(**names), "old model")
    assert check
    assert check.result == "fail"
    assert "left vectors of m in embedding" in check.detail
    with pytest.raises(Refused, match="the settings say before"):
        require_startable(conn, settings_of(tmp_path, **names))
    assert "old model" in failed(plan())
    assert (check := found(plan(new_model__name="next"), "old model"))
    assert check.result == "warn"
    assert found(plan(old_model__name="m", new_model__name="next"), "old model") is None
    conn.execute("UPDATE embedtui.migration SET phase = 'aborted' WHERE id = %s", [done.id])
    assert found(plan(**names), "old model") is None
    assert not plan(**names).another


# ---------------------------------------------------------------------------------------------------- provider


def test_the_provider_is_asked_only_on_request(conn: Connection, plan: MakePlan) -> None:
    conn.execute("INSERT INTO documents SELECT i, repeat('abcd', 100) FROM generate_series(1, 100) i")
    with LoopbackServer({"m": hash_model(8)}, key="sk-test", tokens_per_minute=20_000) as api:
        env = {"OPENAI_BASE_URL": api.base_url}
        assert (check := found(plan(env=env), "provider"))
        assert check.result == "unknown"
        assert api.requests == 0
        made = plan(env=env, check_provider=True)
        assert (check := found(made, "provider"))
        assert check.result == "pass"
        assert "8 dimensions" in check.detail
        assert api.requests == 1
        assert made.estimated_seconds == pytest.approx(30), "by the limit that the provider told"


@pytest.mark.parametrize(
    ("env", "flags", "said"),
    [
        ({"OPENAI_API_KEY": "sk-wrong"}, {}, "key"),
        ({}, {"new_model__name": "no-such-model"}, "model"),
        ({}, {"new_model__dimensions": 9}, "dimensions"),
    ],
)
def test_a_wrong_key_model_or_size_is_found_by_the_check(
    plan: MakePlan, env: dict[str, str], flags: dict[str, Any], said: str
) -> None:
    with LoopbackServer({"m": hash_model(8)}, key="sk-test") as api:
        made = plan(env={"OPENAI_BASE_URL": api.base_url, **env}, check_provider=True, **flags)
    check = found(made, "provider")
    assert check
    assert check.result == "fail"
    assert said in f"{check.detail} {check.hint}".lower()
    assert "sk-wrong" not in check.detail
