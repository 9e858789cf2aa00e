"""Strategy `search_path`: an application's role finds the new side in the sessions that it opens after the cutover."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.engine.cutover.strategies import HookFailed
from embedtui.engine.overrides import Overrides
from embedtui.errors import EmbedtuiError, Interrupted, Refused
from embedtui.model import Side
from embedtui.postgres.catalog.role_paths import split_path
from tests.kits.support import connect, make_documents, settings_for, vector_literal, wait_for

ROLES = ("product", "Odd Role")
OVERRIDE: Overrides = {"gate": "test"}


def role_settings(dsn: str) -> list[tuple[object, ...]]:
    with connect(dsn) as conn:
        return conn.execute("SELECT setdatabase, setrole, setconfig FROM pg_db_role_setting ORDER BY 1, 2").fetchall()


class Site:
    """A table under migration with its view, two roles that use it, and an operator who may alter them."""

    def __init__(self, dsn: str, api: LoopbackServer, folder: Path) -> None:
        self.dsn, self.api, self.folder = dsn, api, folder
        make_documents(dsn, 20)
        with connect(dsn) as conn:
            for role in ROLES:
                conn.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
                conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
                conn.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE ON documents TO {}").format(sql.Identifier(role)))
        with closing(self.engine()) as engine:
            engine.run(threading.Event())

    def engine(self, *roles: str, dsn: str = "", **flags: object) -> Engine:
        said = {
            "view": True,
            "cutover.strategy": "search_path",
            "cutover.roles": list(roles or ROLES),
            **{name.replace("__", "."): value for name, value in flags.items()},
        }
        return Engine(dsn or self.dsn, None, settings_for(dsn or self.dsn, self.api, self.folder, said))

    def side(self, role: str) -> Side | None:
        """What a new session of the role searches; None where the question's size fits neither."""
        text = "document number 7"
        with psycopg.connect(make_conninfo(self.dsn, user=role)) as conn:
            for side, size in ((Side.OLD, 8), (Side.NEW, 16)):
                vector = vector_literal(hash_model(size)([text], None)[0])
                try:
                    with conn.transaction():
                        row = conn.execute(
                            "SELECT id FROM documents ORDER BY embedding <=> %s LIMIT 1", [vector]
                        ).fetchone()
                except psycopg.errors.DataException:
                    continue
                assert row == (7,)
                return side
        return None

    def sql(self, text: str) -> None:
        with connect(self.dsn) as conn:
            conn.execute(text)  # type: ignore[arg-type]

    def blockers(self, *roles: str, dsn: str = "", **flags: object) -> dict[str, str]:
        with closing(self.engine(*roles, dsn=dsn, **flags)) as engine:
            return {each.name: f"{each.message} {each.advice}" for each in engine.blockers("cutover")}


@pytest.fixture
def site(database: str, api: LoopbackServer, tmp_path: Path) -> Iterator[Site]:
    site = Site(database, api, tmp_path)
    yield site
    with connect(database) as conn:
        conn.execute('DROP OWNED BY product, "Odd Role"; DROP ROLE product; DROP ROLE "Odd Role"')


@pytest.mark.parametrize(
    "given",
    [
        "",
        "ALTER ROLE product IN DATABASE {} SET search_path = public;"
        ' ALTER ROLE "Odd Role" SET search_path = "x, Y", public',
        "ALTER ROLE product SET search_path = '$user', public, \"From\";"
        " ALTER DATABASE {} SET search_path = pg_catalog, public",
        "ALTER DATABASE {} SET search_path = nowhere, public",
    ],
    ids=["nothing set", "for the database, for the role", "both levels", "the database's"],
)
def test_cutover_and_rollback_move_new_sessions_and_leave_nothing(site: Site, given: str) -> None:
    with connect(site.dsn) as conn:
        site.sql(given.format(sql.Identifier(conn.info.dbname).as_string(None)))
    before = role_settings(site.dsn)
    assert [site.side(role) for role in ROLES] == [Side.OLD, Side.OLD]
    with closing(site.engine()) as engine:
        for _ in range(2):
            with psycopg.connect(make_conninfo(site.dsn, user="product")):
                flip = engine.cutover(override=OVERRIDE)
            assert [site.side(role) for role in ROLES] == [Side.NEW, Side.NEW]
            assert '1 session of product, "Odd Role" follow' in flip.left
            assert not engine.cutover(override=OVERRIDE).changed
            assert engine.rollback().left == ""
            assert [site.side(role) for role in ROLES] == [Side.OLD, Side.OLD]
            assert role_settings(site.dsn) == before
        entries = {entry.act: entry.detail for entry in engine.audit()}
    assert "ALTER ROLE product IN DATABASE" in entries["cutover"].replace('"', "")
    assert "search_path" in entries["rollback"]


def test_a_hook_that_fails_takes_the_paths_back(site: Site) -> None:
    """It gets the model that the role's application has to ask from now on."""
    before = role_settings(site.dsn)
    hook = site.folder / "hook.sh"
    hook.write_text(f'#!/bin/sh\necho "$EMBED_MODEL $EMBED_DIMENSIONS" >> {site.folder}/told\nexit 3\n')
    hook.chmod(0o755)
    with closing(site.engine(cutover__hook=str(hook))) as engine:
        with pytest.raises(HookFailed):
            engine.cutover(override=OVERRIDE)
        assert engine.snapshot().route.active is Side.OLD
        assert role_settings(site.dsn) == before
        hook.write_text(hook.read_text().replace("exit 3", "exit 0"))
        engine.cutover(override=OVERRIDE)
        assert site.side("product") is Side.NEW
        engine.rollback()
    assert role_settings(site.dsn) == before
    assert (site.folder / "told").read_text().split("\n")[:3] == ["new-model 16", "new-model 16", "old-model 8"]


def test_a_postponed_cutover_moves_them_too(site: Site) -> None:
    with closing(site.engine()) as engine:
        engine.postpone(override=OVERRIDE)
        stop = threading.Event()
        worker = threading.Thread(target=_follow, args=(engine, stop))
        worker.start()
        wait_for(lambda: engine.snapshot().route.active is Side.NEW, "it was due")
        stop.set()
        worker.join()
        assert site.side("product") is Side.NEW
        engine.rollback()


def _follow(engine: Engine, stop: threading.Event) -> None:
    with contextlib.suppress(Interrupted):
        engine.run(stop, follow=True)


def test_a_path_that_somebody_else_planted_is_names_and_no_sql(site: Site) -> None:
    planted = "public,pg_catalog;ALTER/**/ROLE/**/product/**/SUPERUSER"
    with psycopg.connect(make_conninfo(site.dsn, user="product"), autocommit=True) as conn:
        conn.execute("SELECT set_config('search_path', %s, false)", [planted])
        conn.execute("ALTER ROLE product SET search_path FROM CURRENT")
    with closing(site.engine("product")) as engine:
        engine.cutover(override=OVERRIDE)
        assert site.side("product") is Side.NEW
        engine.rollback()
    with connect(site.dsn) as conn:
        assert conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'product'").fetchone() == (False,)


def test_what_was_set_by_hand_meanwhile_stands_and_is_said(site: Site) -> None:
    with closing(site.engine("product")) as engine:
        engine.cutover(override=OVERRIDE)
        site.sql('ALTER ROLE "Odd Role" SET search_path = documents_v2, public')
        site.sql(
            "ALTER ROLE product RESET ALL; DO $$ BEGIN EXECUTE format('ALTER ROLE product IN DATABASE %I SET"
            " search_path = public, documents_v2_too', current_database()); END $$"
        )
        before = role_settings(site.dsn)
        left = engine.rollback().left
        assert role_settings(site.dsn) == before
    assert 'Role "Odd Role" still has documents_v2 in its search path' in left
    assert "product" not in left


def test_it_is_refused_where_it_would_pass_the_view_over(site: Site) -> None:
    assert set(site.blockers()) == {"gate"}
    assert "There is no role nobody_here" in site.blockers("nobody_here")["search_path_role"]
    site.sql("ALTER ROLE product NOLOGIN")
    assert "opens no session itself" in site.blockers("product")["search_path_role"]
    site.sql("ALTER ROLE product LOGIN; REVOKE SELECT ON documents_v2.documents FROM product")
    assert "would pass it over" in site.blockers("product")["search_path_rights"]
    site.sql("GRANT SELECT ON documents_v2.documents TO product; ALTER ROLE product SET search_path = elsewhere")
    assert "does not find documents by its search path (elsewhere)" in site.blockers("product")["search_path_own"]
    site.sql(
        "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.documents (); ALTER ROLE product SET search_path ="
        " elsewhere, public"
    )
    assert "it finds one in elsewhere" in site.blockers("product")["search_path_own"]
    assert "has no roles" in site.blockers(cutover__roles=[])["strategy"]
    with closing(site.engine('"Odd Role".')) as engine, pytest.raises(Refused, match="knows no canary"):
        engine.cutover(50, override=OVERRIDE)
    with closing(site.engine("product")) as engine, pytest.raises(Refused):
        engine.cutover(override=OVERRIDE)
    assert site.side("Odd Role") is Side.OLD
    site.sql("DROP SCHEMA documents_v2 CASCADE")
    assert "embedtui view" in site.blockers("Odd Role")["search_path_view"]


def test_a_role_that_may_not_be_altered_is_refused(site: Site) -> None:
    site.sql(
        "DROP ROLE IF EXISTS operator_of_paths; CREATE ROLE operator_of_paths LOGIN;"
        " GRANT USAGE ON SCHEMA embedtui TO operator_of_paths; GRANT ALL ON ALL TABLES IN SCHEMA embedtui TO"
        " operator_of_paths; GRANT SELECT ON documents TO operator_of_paths;"
        " GRANT pg_read_all_data TO operator_of_paths"
    )
    try:
        by = make_conninfo(site.dsn, user="operator_of_paths")
        assert "may not alter role product" in site.blockers("product", dsn=by)["search_path_role"]
        site.sql("ALTER ROLE operator_of_paths CREATEROLE; GRANT product TO operator_of_paths WITH ADMIN OPTION")
        assert "search_path_role" not in site.blockers("product", dsn=by)
        site.sql("ALTER ROLE product SUPERUSER")
        assert "may not alter role product" in site.blockers("product", dsn=by)["search_path_role"]
    finally:
        site.sql("DROP OWNED BY operator_of_paths; DROP ROLE operator_of_paths")


def test_the_database_does_not_say_whose_path_is_set(site: Site) -> None:
    site.sql(
        "UPDATE embedtui.migration SET settings = settings ||"
        ' \'{"cutover": {"strategy": "search_path", "roles": ["product"]}}\''
    )
    settings = settings_for(site.dsn, site.api, site.folder, {"view": True})
    said = pytest.raises(EmbedtuiError, match=r"Only the database says cutover\.roles")
    with closing(Engine(site.dsn, None, settings)) as engine, said:
        engine.cutover(override=OVERRIDE)
    assert site.side("product") is Side.OLD


@pytest.mark.parametrize(
    ("text", "schemas"),
    [
        ('"$user", public', ("$user", "public")),
        ("Public,APP", ("public", "app")),
        ('"A ""b"", c", d', ('A "b", c', "d")),
        ("", ()),
        ('""', ()),
        ("a b", ()),
        ("a,", ()),
        ('"open', ()),
    ],
)
def test_a_path_is_read_as_postgresql_reads_it(text: str, schemas: tuple[str, ...]) -> None:
    assert split_path(text) == schemas
