"""The operator's machine takes no orders from the database: what a role that may write there plants is not followed.

The role here has the rights that were once documented for a worker: all of schema embedtui.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest

from embedtui.config import Settings, load_settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer
from embedtui.engine.cutover.strategies import hook_environment, run_hook
from embedtui.engine.engine import Engine
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.process import SubprocessEngine
from embedtui.errors import EmbedtuiError, ProviderError, Refused
from embedtui.model import Phase, Side
from embedtui.postgres.connect import connect
from embedtui.postgres.state.migrations import load_migration
from tests.kits.support import NEW, OLD, make_documents, settings_for

SECRET = "AKIA-another-secret"
GATE = {"gate": "a test"}


@dataclass
class Trap:
    """A foreign server that takes whatever is sent to it."""

    url: str
    heard: list[tuple[str, bytes]] = field(default_factory=list)
    """(Authorization, body) of each request."""


@pytest.fixture
def trap() -> Iterator[Trap]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            made.heard.append((self.headers.get("Authorization", ""), body))
            self.send_error(500)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Trap(f"http://127.0.0.1:{server.server_port}/v1")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@dataclass
class Scene:
    """A migration in phase validate, its operator, and a role that may write all of schema embedtui."""

    dsn: str
    planter: str
    api: LoopbackServer
    folder: Path

    def settings(self, **flags: object) -> Settings:
        return settings_for(self.dsn, self.api, self.folder, flags, AWS_SECRET=SECRET, GEMINI_API_KEY=SECRET)

    def operator(self, **flags: object) -> Engine:
        return Engine(self.dsn, settings=self.settings(**flags))

    def joiner(self) -> Engine:
        """An operator on another machine, who has keys and no settings."""
        return Engine(self.dsn, environ={"OPENAI_API_KEY": SECRET, "AWS_SECRET": SECRET, "GEMINI_API_KEY": SECRET})

    def plant(self, statement: str, *parameters: object) -> None:
        with psycopg.connect(self.planter, autocommit=True) as conn:
            assert conn.execute(statement, parameters).rowcount  # type: ignore[call-overload]

    def plant_settings(self, head: str, **section: object) -> None:
        self.plant(
            "UPDATE embedtui.migration SET settings = settings || jsonb_build_object(%s::text,"
            " coalesce(settings -> %s::text, '{}') || %s::jsonb)",
            head,
            head,
            json.dumps(section),
        )


@pytest.fixture
def scene(server: EmbeddedServer, database: str, tmp_path: Path) -> Iterator[Scene]:
    make_documents(database, 60)
    with (
        psycopg.connect(database, autocommit=True) as conn,
        LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}) as api,
    ):
        role = f"planter_{conn.info.dbname}"
        conn.execute(f"CREATE ROLE {role} LOGIN")
        made = Scene(database, server.dsn(conn.info.dbname, role), api, tmp_path)
        with closing(made.operator()) as operator:
            assert operator.run(threading.Event()).phase is Phase.VALIDATE
        conn.execute(
            f"GRANT USAGE ON SCHEMA embedtui TO {role};"
            f" GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA embedtui TO {role}"
        )
        yield made
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def settings_log(engine: Engine) -> list[str]:
    return [entry.detail for entry in engine.audit() if entry.act == "settings"]


# ------------------------------------------------------------------------------------------- commands and files


@pytest.mark.parametrize("strategy", ["hook", "env_file", "rename"])
def test_a_planted_hook_is_never_run(scene: Scene, strategy: str) -> None:
    owned, env_file = scene.folder / "owned", scene.folder / "profile"
    scene.plant_settings("cutover", strategy=strategy, hook=f"touch {owned}", env_file=str(env_file))
    for engine in (scene.operator(), scene.joiner()):
        with closing(engine):
            for act in (lambda: engine.cutover(override=GATE), engine.rollback, lambda: engine.postpone(override=GATE)):  # noqa: B023
                with pytest.raises(Refused, match="Only the database says") as caught:
                    act()
                assert f'hook = "touch {owned}"' in caught.value.hint and "embedtui.toml" in caught.value.hint
            assert "local settings" in {blocker.name for blocker in engine.blockers("cutover")}
            assert [blocker.name for blocker in engine.blockers("rollback")] == ["local settings"]
            assert engine.snapshot().route.active is Side.OLD
    with closing(scene.operator(**{"cutover.strategy": "pointer"})) as operator:
        assert operator.cutover(override=GATE).active is Side.NEW
        assert operator.rollback().active is Side.OLD
        [said] = settings_log(operator)
        assert f'cutover.strategy is "pointer" here (stored: "{strategy}")' in said
    assert not owned.exists() and not env_file.exists()


def test_only_the_operators_own_hook_is_run(scene: Scene) -> None:
    owned, mine = scene.folder / "owned", scene.folder / "mine"
    flags = {"cutover.strategy": "hook", "cutover.hook": f"touch {mine}"}
    scene.plant_settings("cutover", strategy="hook", hook=f"touch {owned}", hook_timeout_seconds=0.001)
    with closing(scene.operator(**flags, **{"cutover.hook_timeout_seconds": 60})) as operator:
        assert operator.cutover(override=GATE).active is Side.NEW
    assert mine.exists() and not owned.exists()
    unsaid = r'cutover\.strategy = "hook"'  # a command, and no word to use it
    with closing(scene.operator(**{"cutover.hook": "true"})) as operator, pytest.raises(Refused, match=unsaid):
        operator.rollback()


def test_a_planted_strategy_touches_no_file_and_runs_nothing(scene: Scene) -> None:
    """The operator's own file and hook, set up for another day, are not used by somebody else's word either."""
    file, mine = scene.folder / "service.env", scene.folder / "mine"
    file.write_text("USE_V2_EMBEDDINGS=false\n")
    flags = {"cutover.env_file": str(file), "cutover.hook": f"touch {mine}"}
    for strategy in ("hook", "env_file", "nonsense"):
        scene.plant_settings("cutover", strategy=strategy, env_file=str(scene.folder / "other"))
        with closing(scene.operator(**flags)) as operator, pytest.raises(Refused, match=r"cutover\.strategy"):
            operator.cutover(override=GATE)
    with closing(scene.operator(**flags, **{"cutover.strategy": "pointer"})) as operator:
        assert operator.cutover(override=GATE).active is Side.NEW
    assert file.read_text() == "USE_V2_EMBEDDINGS=false\n"
    assert not mine.exists() and not (scene.folder / "other").exists()


def test_a_hook_gets_no_secrets(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "OPENAI_API_KEY", "AWS_SECRET", "PGPASSWORD", "KUBECONFIG"):
        monkeypatch.setenv(name, SECRET)
    heard = run_hook("env", {"EMBED_MODEL": "m"}, 30)
    assert SECRET not in heard and "PATH=" in heard and "EMBED_MODEL=m" in heard
    assert set(hook_environment(["KUBECONFIG"])) - set(hook_environment()) == {"KUBECONFIG"}
    flags = {"cutover.strategy": "hook", "cutover.hook": f"sh -c 'env > {scene.folder}/heard'"}
    with closing(scene.operator(**flags, **{"cutover.hook_variables": ["KUBECONFIG"]})) as operator:
        operator.cutover(override=GATE)
    lines = (scene.folder / "heard").read_text().splitlines()
    assert [line for line in lines if SECRET in line] == [f"KUBECONFIG={SECRET}"]
    # asked for by the database, it gets nothing more
    scene.plant_settings("cutover", hook_variables=["AWS_SECRET"])
    with closing(scene.operator(**flags)) as operator:
        operator.rollback()
    assert SECRET not in (scene.folder / "heard").read_text()


# --------------------------------------------------------------------------------------------- endpoints and keys

PLANTED = {
    "endpoint": "base_url = %(url)s",
    "key": "key_variable = 'AWS_SECRET'",
    "endpoint and key": "base_url = %(url)s, key_variable = 'AWS_SECRET'",
    "provider": "provider = 'gemini', base_url = %(url)s, key_variable = 'GEMINI_API_KEY'",
    "no key": "base_url = %(url)s, key_variable = ''",
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_endpoint_gets_neither_texts_nor_keys(scene: Scene, trap: Trap, what: str) -> None:
    with psycopg.connect(scene.planter, autocommit=True) as conn:
        conn.execute(f"UPDATE embedtui.model SET {PLANTED[what]}", {"url": trap.url})  # type: ignore[call-overload]
    with psycopg.connect(scene.dsn, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = 'edited ' || id WHERE id < 10")

    def everything(engine: Engine) -> Iterator[EmbedtuiError | None]:
        for act in (
            lambda: engine.run(threading.Event()),
            engine.compare,
            lambda: engine.search_both("question"),
            lambda: engine.verify(sample=5),
        ):
            try:
                act()
                yield None
            except EmbedtuiError as error:
                yield error

    with closing(scene.joiner()) as joiner:
        for error in everything(joiner):
            assert isinstance(error, Refused), error
            assert "Only the database says new_model." in error.message
            assert "[new_model] base_url = " in error.hint
            assert ("[new_model] key_variable = " in error.hint) is ("key" in what and what != "no key")
    flags = {"new_model.provider": "openai"} if what == "provider" else {}
    served = scene.api.inputs
    with closing(scene.operator(**flags)) as operator:
        with connect(scene.dsn, name="plan", read_only=True) as conn:
            make_plan(conn, scene.settings(**flags), check_provider=True)
        errors = list(everything(operator))
        if what == "provider":  # part of a model's identity: refused until it is what it was
            assert all(isinstance(error, Refused) for error in errors)
        else:
            assert errors == [None] * 4
            assert scene.api.inputs > served
            assert any("new_model." in said for said in settings_log(operator))
    apart = SubprocessEngine(scene.dsn, settings=scene.settings(**flags))
    with closing(apart):
        try:
            apart.run(threading.Event())
        except EmbedtuiError as error:
            assert what == "provider", error
    assert trap.heard == []


def test_openais_endpoint_gets_no_other_providers_key(scene: Scene, trap: Trap) -> None:
    """OPENAI_BASE_URL is for OpenAI's models, also where the settings do not name the model at all."""
    scene.plant("UPDATE embedtui.model SET provider = 'gemini', base_url = NULL, key_variable = 'GEMINI_API_KEY'")
    nothing = scene.folder / "nothing"
    nothing.mkdir()
    environ = {"OPENAI_API_KEY": SECRET, "GEMINI_API_KEY": SECRET, "OPENAI_BASE_URL": trap.url}
    settings = load_settings({}, environ=environ, cwd=nothing)
    assert settings.new_model.base_url == trap.url
    with closing(Engine(scene.dsn, settings=settings)) as engine:
        model = engine.require().new_model
    assert (model.provider, model.base_url) == ("gemini", None)


def test_what_is_loaded_carries_no_orders(scene: Scene, trap: Trap) -> None:
    """Whoever adds a reader of migrations cannot forget to ask the local settings: there is nothing else to use."""
    from embedtui.providers import ProviderFault, make_embedder

    with psycopg.connect(scene.planter, autocommit=True) as conn:
        conn.execute("UPDATE embedtui.model SET base_url = %s, key_variable = 'AWS_SECRET'", [trap.url])
    scene.plant_settings("cutover", strategy="hook", hook="touch x", env_file="y")
    with connect(scene.dsn, name="test") as conn:
        loaded = load_migration(conn)
    assert loaded is not None
    assert trap.url not in repr(loaded.new_model) + repr(loaded.old_model) + repr(loaded.settings)
    assert "touch x" not in repr(loaded.settings)
    for model in (loaded.new_model, loaded.old_model):
        with pytest.raises(ProviderFault):
            make_embedder(model, environ={"AWS_SECRET": SECRET, "OPENAI_API_KEY": SECRET})


# ------------------------------------------------------------------------------------------------------------ SQL


def test_planted_sql_is_never_run(scene: Scene) -> None:
    with psycopg.connect(scene.dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE ran (who name)")
        conn.execute(
            "CREATE FUNCTION evil() RETURNS boolean LANGUAGE sql AS 'INSERT INTO public.ran VALUES (current_user);"
            " SELECT true'"
        )
    scene.plant_settings("gate", where="public.evil()")
    scene.plant_settings("throttle", probe_query="SELECT public.evil()")
    with closing(scene.operator()) as operator:
        operator.run(threading.Event())
        with pytest.raises(Refused, match=r'gate\.where = "public\.evil\(\)"'):
            operator.compare()
        with pytest.raises(Refused):
            operator.search_both("question")
        assert operator.compare(where="").queries
    with closing(scene.operator(**{"gate.where": "id > 0", "throttle.probe_query": "SELECT 1"})) as operator:
        operator.run(threading.Event())
        assert operator.compare().where == "id > 0"
    with psycopg.connect(scene.dsn, autocommit=True) as conn:
        assert conn.execute("SELECT * FROM ran").fetchall() == []


# ----------------------------------------------------------------------------------------------- settings are live


def test_settings_are_read_again_said_audited_and_stored(scene: Scene) -> None:
    said: list[str] = []
    flags = {"new_model.price_per_million": 0.5, "new_model.max_inputs": 7, "index.m": 24, "gate.min_overlap": 0.9}
    settings = scene.settings(**flags)
    with closing(Engine(scene.dsn, settings=settings, on_event=lambda event: said.append(event.text))) as operator:
        operator.run(threading.Event())
        operator.run(threading.Event())
        log = settings_log(operator)
        assert len(log) == 1, "an audit line for a change, not for every run"
        for line in (
            "new_model.max_inputs is 7 here",
            "index.m is 24 here",
            "gate.min_overlap is 0.9 here (stored: 0.5)",
        ):
            assert line in log[0] and any(line in text for text in said)
    with closing(Engine(scene.dsn)) as watcher:  # and shown to who has no settings
        migration = watcher.require()
        assert (migration.new_model.max_inputs, migration.new_model.price_per_million) == (7, 0.5)
    with (
        closing(scene.operator(**{"new_model.dimensions": 8})) as other,
        pytest.raises(Refused, match="under way with"),
    ):
        other.run(threading.Event())


def test_a_moved_endpoint_takes_a_line_of_settings_and_no_abort(scene: Scene) -> None:
    with LoopbackServer({OLD: hash_model(8), NEW: hash_model(16)}) as elsewhere:
        with psycopg.connect(scene.dsn, autocommit=True) as conn:
            conn.execute("UPDATE documents SET content = 'edited ' || id WHERE id < 10")
        with closing(scene.operator(**{"new_model.base_url": elsewhere.base_url})) as operator:
            operator.run(threading.Event())
            assert operator.verify(sample=5).clean
            assert elsewhere.base_url in settings_log(operator)[0]
        assert elsewhere.inputs >= 9


def test_the_pace_in_the_settings_counts_when_it_is_new_there(scene: Scene) -> None:
    def pace() -> tuple[object, ...]:
        with psycopg.connect(scene.dsn) as conn:
            row = conn.execute("SELECT requests_per_minute, max_concurrency, spend_cap FROM embedtui.pace").fetchone()
        assert row is not None
        return row

    def run(**flags: object) -> list[str]:
        with closing(scene.operator(**flags)) as operator:
            operator.run(threading.Event())
            return settings_log(operator)

    wanted = {"pacing.requests_per_minute": 900.0, "pacing.spend_cap": 5.0}
    (line,) = run(**wanted)
    assert "pacing.requests_per_minute is 900.0 here (stored: unset)" in line and pace()[::2] == (900, 5)
    with closing(scene.operator()) as operator:
        operator.set_pace(requests_per_minute=50, max_concurrency=2)
    assert len(run(**wanted)) == 1 and pace() == (50, 2, 5), "what an operator set since stays"
    wanted["pacing.requests_per_minute"] = 700.0
    assert len(run(**wanted)) == 2 and pace() == (700, 2, 5)


def test_a_timeout_is_stored_and_its_change_said_once(scene: Scene) -> None:
    for _ in range(2):
        with closing(scene.operator(**{"new_model.timeout_seconds": 33.0})) as operator:
            operator.run(threading.Event())
            log = settings_log(operator)
    assert len(log) == 1 and "new_model.timeout_seconds is 33.0 here (stored: 60.0)" in log[0]


def test_fields_for_documents_are_identity_and_others_are_this_machines_own(scene: Scene) -> None:
    with closing(scene.operator(**{"new_model.extra_body": {"user": "a", "query": {"user": "b"}}})) as operator:
        with pytest.raises(ProviderError, match=r"with documents here.*made with nothing"):
            operator.run(threading.Event())
        assert not settings_log(operator), "and nothing is stored of it"
    own = {"new_model.extra_body": {"query": {"user": "b"}}, "new_model.headers": {"X-Team": "search"}}
    with closing(scene.operator(**own)) as operator:
        operator.run(threading.Event())
        (line,) = settings_log(operator)
        assert 'new_model.extra_body is { query = { user = "b" } } here (stored: unset)' in line
    with psycopg.connect(scene.dsn) as conn:
        rows = [str(row) for row in conn.execute("SELECT m FROM embedtui.model m")]
        settings = str(conn.execute("SELECT settings FROM embedtui.migration").fetchall())
    assert len(rows) == 2 and "X-Team" not in "".join(rows) + settings, "headers may hold a secret: never stored"
    with closing(scene.operator()) as operator:  # where only the database has them they are not followed
        with pytest.raises(Refused, match=r"Only the database says new_model.extra_body") as refused:
            operator.run(threading.Event())
        assert '[new_model] extra_body = { query = { user = "b" } }' in refused.value.hint
