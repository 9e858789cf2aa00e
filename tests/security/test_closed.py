"""What we make is as closed as what was there: each role sees and changes just what it could before, in all placements.

Asked of the database as each role, before and after, and never of embedtui.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.backfill import sync
from embedtui.engine.engine import Engine
from embedtui.engine.grants import grants
from embedtui.errors import Interrupted
from embedtui.postgres.state.privileges import Role
from tests.kits.support import NEW, make_documents, settings_for, vector_literal, wait_for

_numbers = itertools.count(1)
PLACEMENTS: dict[str, dict[str, object]] = {
    "column": {"placement": "column"},
    "foreign key": {"placement": "table"},
    "triggers": {"placement": "table", "foreign_key": False},
}
ROWS = 60
ROLES = ("anon", "reader", "tenant", "bypass", "titles", "vectors", "writer", "member", "crew")

# Visible, changed and deleted are three different sets to the tenant; nobody but it and who bypasses sees all.
POLICIES = """
ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON documents FOR SELECT USING (id % 2 = 0 OR owner = current_user);
CREATE POLICY changed ON documents FOR UPDATE USING (id % 3 = 0);
CREATE POLICY removed ON documents FOR DELETE USING (id % 5 = 0);
CREATE POLICY added ON documents FOR INSERT WITH CHECK (owner = current_user);
"""
GRANTS = """
GRANT SELECT ON documents TO {reader};
GRANT SELECT, INSERT, UPDATE, DELETE ON documents TO {tenant}, {bypass};
GRANT SELECT (id, content, owner) ON documents TO {titles};
GRANT SELECT (id, embedding), UPDATE (embedding) ON documents TO {vectors};
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON documents TO {writer};
GRANT SELECT, DELETE ON documents TO {crew};
GRANT {crew} TO {member};
"""


@dataclass
class Place:
    """A database with a table, its roles and its operator's engine."""

    dsn: str
    api: LoopbackServer
    folder: Path
    flags: dict[str, object]
    names: dict[str, str]
    server: EmbeddedServer

    def admin(self, text: str, **more: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            cursor = conn.execute(text.format(**self.names, **more))  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def engine(self) -> Engine:
        flags = {"content": ("content",), **self.flags}
        return Engine(self.dsn, settings=settings_for(self.dsn, self.api, self.folder, flags))

    def run(self) -> None:
        with closing(self.engine()) as engine:
            engine.run(threading.Event())

    def rows(self, role: str, text: str) -> set[Any] | str:
        """First column of what the role gets, taken back again; or why it gets nothing."""
        with psycopg.connect(self.dsn, autocommit=False) as conn:
            conn.execute(f"SET ROLE {self.names[role]}")
            try:
                return {row[0] for row in conn.execute(text)}  # type: ignore[arg-type]
            except psycopg.Error as error:
                return str(error.sqlstate)
            finally:
                conn.rollback()

    def may(self, role: str, text: str) -> bool:
        """Whether the role can do it; taken back again."""
        with psycopg.connect(self.dsn, autocommit=False) as conn:
            conn.execute(f"SET ROLE {self.names[role]}")
            try:
                conn.execute(text)  # type: ignore[arg-type]
            except psycopg.errors.InsufficientPrivilege:
                return False
            finally:
                conn.rollback()
        return True

    @property
    def side(self) -> tuple[str, str]:
        """The new vectors' table and column."""
        if self.flags["placement"] == "column":
            return "documents", "embedding_v2"
        return "documents_embedding_v2", "embedding"

    def rights(self, table: str, column: str) -> dict[str, tuple[set[Any] | str, set[Any] | str]]:
        """Of each role, the keys whose vector it can read, and those whose vector it can write."""
        read = f"SELECT id, {column} FROM {table} WHERE {column} IS NOT NULL"
        write = f"UPDATE {table} SET {column} = {column} WHERE {column} IS NOT NULL RETURNING id"
        return {role: (self.rows(role, read), self.rows(role, write)) for role in ROLES}


Make = Callable[..., Place]


BOTH = pytest.mark.parametrize("make", ["server_16", "server"], ids=["16", "18"], indirect=True)


@pytest.fixture
def make(request: pytest.FixtureRequest, api: LoopbackServer, tmp_path: Path) -> Iterator[Make]:
    running: EmbeddedServer = request.getfixturevalue(getattr(request, "param", "server"))
    number = next(_numbers)
    base, names = f"closed_{number}", {role: f"{role}_{number}" for role in ROLES}
    every = ", ".join(names.values())

    def made(flags: dict[str, object], *, default_privileges: str = "", policies: bool = True) -> Place:
        place = Place(running.dsn(base), api, tmp_path, flags, names, running)
        make_documents(place.dsn, ROWS)
        place.admin(default_privileges)
        place.admin("ALTER TABLE documents ADD owner text; UPDATE documents SET owner = '{tenant}' WHERE id > 50")
        place.admin(GRANTS + (POLICIES if policies else ""))
        return place

    with psycopg.connect(running.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {base}")
        for role, name in names.items():
            admin.execute(f"CREATE ROLE {name} {'BYPASSRLS' if role == 'bypass' else ''}")
    with psycopg.connect(running.dsn(base), autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector")
    yield made
    with psycopg.connect(running.dsn(base), autocommit=True) as conn:
        conn.execute(f"DROP OWNED BY {every}")
    with psycopg.connect(running.dsn(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {base} WITH (FORCE)")
        admin.execute(f"DROP ROLE {every}")


OPEN_TO_ALL = """
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO {anon}, PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {anon}, {titles};
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {anon};
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {anon};
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO {anon};
"""


GRANTED = """
SELECT o.name, a.privilege_type, a.grantee::regrole FROM (
    SELECT 'embedtui' AS name, nspacl AS acl, nspowner AS owner FROM pg_namespace WHERE nspname = 'embedtui'
    UNION ALL SELECT relname, relacl, relowner FROM pg_class WHERE relnamespace = 'embedtui'::regnamespace
    UNION ALL SELECT attname, attacl, relowner FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
               WHERE relnamespace = 'embedtui'::regnamespace
    UNION ALL SELECT proname, coalesce(proacl, acldefault('f', proowner)), proowner FROM pg_proc
               WHERE pronamespace = 'embedtui'::regnamespace AND prosecdef
    UNION ALL SELECT typname, typacl, typowner FROM pg_type WHERE typnamespace = 'embedtui'::regnamespace
) o, aclexplode(o.acl) a WHERE a.grantee <> o.owner AND NOT (a.grantee = 0 AND a.privilege_type = 'USAGE')
"""
"""What anybody but the owner may do in our schema; functions with the caller's rights give nobody any."""


def as_before(place: Place, before: dict[str, tuple[set[Any] | str, set[Any] | str]]) -> None:
    """Of the new side each role reads and writes what it could of the old one; only what it could do at all."""
    after = place.rights(*place.side)
    for role in ROLES:
        assert after[role] == before[role], role
    if place.flags["placement"] != "column":
        for role in ROLES:
            # goes with its row, and not by itself
            assert place.rows(role, f"DELETE FROM {place.side[0]} RETURNING id") == "42501", role


@BOTH
@pytest.mark.parametrize("policies", [True, False], ids=["policies", "grants"])
@pytest.mark.parametrize("flags", PLACEMENTS.values(), ids=PLACEMENTS.keys())
@pytest.mark.variants(6)
def test_each_role_reads_and_writes_what_it_could(make: Make, flags: dict[str, object], policies: bool) -> None:
    place = make(flags, default_privileges=OPEN_TO_ALL, policies=policies)
    before = place.rights("documents", "embedding")
    deleted = {role: place.rows(role, "DELETE FROM documents RETURNING id") for role in ROLES}
    everything = set(range(1, ROWS + 1))
    assert before["anon"] == ("42501", "42501") and before["bypass"] == (everything, everything)
    if policies:
        evens = {n for n in everything if n % 2 == 0}
        assert before["tenant"] == (evens | set(range(51, 61)), {n for n in before["tenant"][0] if int(n) % 3 == 0})
        assert before["reader"] == (evens, "42501") and deleted["tenant"] != before["tenant"][1]
    place.run()
    as_before(place, before)
    assert {role: place.rows(role, "DELETE FROM documents RETURNING id") for role in ROLES} == deleted
    place.run()
    as_before(place, before)
    # nor does anything else of ours open
    for table in place.admin("SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'embedtui'::regnamespace"
                             " AND relkind IN ('r', 'v', 'S')"):  # fmt: skip
        for role in ROLES:
            assert place.rows(role, f"SELECT * FROM {table[0]}") == "42501", (role, table)
    assert place.admin(GRANTED) == []


@pytest.mark.parametrize("policies", [True, False], ids=["policies", "grants"])
@pytest.mark.parametrize("flags", list(PLACEMENTS.values())[1:], ids=list(PLACEMENTS)[1:])
def test_vectors_are_added_where_their_row_may_be_updated_and_emptied_with_its_table(
    make: Make, flags: dict[str, object], policies: bool
) -> None:
    place = make(flags, policies=policies)
    before = place.rights("documents", "embedding")
    place.run()
    some, vector = range(1, 13), vector_literal(hash_model(16)(["its own"], None)[0])
    place.admin("DELETE FROM documents_embedding_v2 WHERE id <= 12")
    insert = "INSERT INTO documents_embedding_v2 (id, embedding) VALUES ({}, '{}')"
    for role in ROLES:
        added = {number for number in some if place.may(role, insert.format(number, vector))}
        assert added == {number for number in some if number in set(before[role][1])}, role
        assert place.may(role, "TRUNCATE documents_embedding_v2") == (role == "writer"), role
    assert any(place.may(role, insert.format(6, vector)) for role in ROLES)


@pytest.mark.parametrize("flags", list(PLACEMENTS.values())[1:], ids=list(PLACEMENTS)[1:])
def test_vectors_go_with_their_rows_whoever_deletes_them(make: Make, flags: dict[str, object]) -> None:
    place = make(flags)
    place.run()
    with psycopg.connect(place.dsn, autocommit=True) as conn:
        conn.execute(f"SET ROLE {place.names['tenant']}")
        gone = {row[0] for row in conn.execute("DELETE FROM documents WHERE id <= 30 RETURNING id")}
    assert gone == {10, 20, 30}
    place.run()
    left = {row[0] for row in place.admin("SELECT id FROM documents_embedding_v2")}
    assert left == set(range(1, ROWS + 1)) - gone


@BOTH
@pytest.mark.parametrize("flags", PLACEMENTS.values(), ids=PLACEMENTS.keys())
@pytest.mark.variants(3)
def test_what_is_granted_revoked_and_hidden_later_is_followed_by_the_next_run(
    make: Make, flags: dict[str, object]
) -> None:
    place = make(flags, policies=False)
    place.run()
    place.admin(
        "REVOKE ALL ON documents FROM {reader}; GRANT SELECT ON documents TO {anon};"
        " REVOKE UPDATE ON documents FROM {tenant};"
        " REVOKE ALL ON documents FROM {vectors}; REVOKE ALL (id, embedding) ON documents FROM {vectors};"
        " GRANT SELECT (embedding) ON documents TO {titles}"
    )
    place.admin(POLICIES)
    before = place.rights("documents", "embedding")
    assert before["reader"] == ("42501", "42501") and before["titles"][0] == before["anon"][0] != "42501"
    place.run()
    as_before(place, before)
    # a policy alone is followed at once
    place.admin("ALTER POLICY seen ON documents USING (id % 7 = 0)")
    as_before(place, place.rights("documents", "embedding"))


@pytest.mark.parametrize("flags", list(PLACEMENTS.values())[:2], ids=list(PLACEMENTS)[:2])
def test_a_following_worker_follows_rights_too(
    make: Make, flags: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "TEND_SECONDS", 0.2)
    place, stop = make(flags, policies=False), threading.Event()
    place.run()
    engine = place.engine()

    def follow() -> None:
        with contextlib.suppress(Interrupted):
            engine.run(stop, follow=True)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        table, column = place.side
        read = f"SELECT id, {column} FROM {table}"
        place.admin("REVOKE ALL ON documents FROM {reader}; GRANT SELECT (id, embedding) ON documents TO {anon}")
        wait_for(lambda: place.rows("reader", read) == "42501" and len(place.rows("anon", read)) == ROWS)
        place.admin(POLICIES)
        wait_for(lambda: place.rows("anon", read) == set(range(2, ROWS + 1, 2)))
    finally:
        stop.set()
        thread.join(60)
        engine.close()


@pytest.mark.parametrize("flags", PLACEMENTS.values(), ids=PLACEMENTS.keys())
def test_searches_show_no_row_that_the_caller_cannot_see(make: Make, flags: dict[str, object]) -> None:
    place = make(flags)
    place.run()
    applications = {Role.APPLICATION: place.names["tenant"]}
    grants(settings_for(place.dsn, place.api, place.folder, flags), applications, apply=True)
    grants(
        settings_for(place.dsn, place.api, place.folder, flags), {Role.APPLICATION: place.names["reader"]}, apply=True
    )
    query = vector_literal(hash_model(16)(["document number 7"], None)[0])
    call = f"SELECT key::int, distance FROM embedtui.search('documents', '{NEW}', '{query}', 100)"
    for role in ("tenant", "reader"):
        assert place.rows(role, call) == place.rows(role, "SELECT id FROM documents")
    assert place.rows("anon", call) == "42501"


@pytest.mark.parametrize("flags", list(PLACEMENTS.values())[1:], ids=list(PLACEMENTS)[1:])
def test_an_event_trigger_that_closes_new_tables_hides_no_vector(make: Make, flags: dict[str, object]) -> None:
    """As Supabase proposes: row security on each new table, here on one whose source has none."""
    place = make(flags, policies=False)
    place.admin(
        "CREATE FUNCTION shut() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE made record; BEGIN"
        " FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table'"
        " AND schema_name = 'public' LOOP"
        " EXECUTE pg_catalog.concat('ALTER TABLE ', made.object_identity, ' ENABLE ROW LEVEL SECURITY');"
        " END LOOP; END $$; CREATE EVENT TRIGGER shut ON ddl_command_end WHEN TAG IN ('CREATE TABLE')"
        " EXECUTE FUNCTION shut()"
    )
    before = place.rights("documents", "embedding")
    place.run()
    assert place.admin("SELECT relrowsecurity FROM pg_class WHERE relname = 'documents_embedding_v2'") == [(True,)]
    as_before(place, before)


@pytest.mark.parametrize("flags", list(PLACEMENTS.values())[:2], ids=list(PLACEMENTS)[:2])
def test_an_archive_is_its_owners_alone(make: Make, flags: dict[str, object]) -> None:
    place = make(flags, default_privileges=OPEN_TO_ALL)
    place.run()
    with closing(place.engine()) as engine:
        engine.cutover(override={"gate": "a test"})
        everything = {blocker.name: "a test" for blocker in engine.blockers("cleanup", archive="public.old_vectors")}
        engine.cleanup("documents", archive="public.old_vectors", override=everything)
    assert place.admin("SELECT count(*) FROM old_vectors") == [(ROWS,)]
    for role in ROLES:
        for text in ("SELECT id FROM old_vectors", "DELETE FROM old_vectors RETURNING id"):
            assert place.rows(role, text) == "42501", role


def test_an_archived_file_is_its_owners_alone(make: Make) -> None:
    place = make({"placement": "column"})
    place.run()
    path = place.folder / "old.copy.gz"
    with closing(place.engine()) as engine:
        engine.cutover(override={"gate": "a test"})
        everything = {blocker.name: "a test" for blocker in engine.blockers("cleanup", archive=str(path))}
        engine.cleanup("documents", archive=str(path), override=everything)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("placement", ["column", "table"])
def test_a_routed_view_and_what_a_fold_leaves_are_as_closed(make: Make, placement: str) -> None:
    """The view in its own schema, the column that a side table became, and the table once all of ours is gone."""
    place = make({"placement": placement, "view": True}, default_privileges=OPEN_TO_ALL)
    before = place.rights("documents", "embedding")
    deleted = {role: place.rows(role, "DELETE FROM documents RETURNING id") for role in ROLES}
    seen: list[str] = []

    def closed(table: str) -> None:
        seen.append(table)
        after = place.rights(table, "embedding")
        for role in ROLES:
            # of who reads single columns PostgreSQL asks for all that a view names
            single = role == "vectors" and table != "documents"
            assert after[role] == (("42501", "42501") if single else before[role]), (table, role)
            assert place.rows(role, f"DELETE FROM {table} RETURNING id") == deleted[role], (table, role)

    place.run()
    with closing(place.engine()) as engine:
        if placement == "column":
            closed("documents_v2.documents")
        engine.cutover(override={"gate": "a test"})
        everything = {blocker.name: "a test" for blocker in engine.blockers("cleanup")}
        engine.cleanup("documents", override=everything)
    closed("documents")
    assert place.admin("SELECT count(*) FROM pg_class WHERE relname ~ 'embedding_v2' AND relkind = 'r'") == [(0,)]
    for schema, name in place.admin(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'documents_v2'"
    ):
        closed(f"{schema}.{name}")
    assert len(seen) > 1 or placement == "table"


def test_a_view_of_a_scope_is_as_closed(make: Make) -> None:
    """Each role finds and changes of the scope what it could, and by the view no other row at all."""
    place = make({"placement": "column", "view": True, "scope": "id % 4 <> 2"}, default_privileges=OPEN_TO_ALL)
    inside = {number for number in range(1, ROWS + 1) if number % 4 != 2}

    def of_scope(found: set[Any] | str) -> set[Any] | str:
        return found if isinstance(found, str) else found & inside

    remove = "DELETE FROM {} RETURNING id"
    before = place.rights("documents", "embedding")
    deleted = {role: place.rows(role, remove.format("documents")) for role in ROLES}
    place.run()
    after = place.rights("documents_v2.documents", "embedding")
    for role in ROLES:
        # of who reads single columns PostgreSQL asks for all that a view names
        expected = ("42501", "42501") if role == "vectors" else tuple(map(of_scope, before[role]))
        assert after[role] == expected, role
        assert place.rows(role, remove.format("documents_v2.documents")) == of_scope(deleted[role]), role
    assert place.rights("documents", "embedding") == before
