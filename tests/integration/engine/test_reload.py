"""Settings read again by workers that are at work: at an operator's request, and only what is not identity."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from embedtui.config import Settings, load_settings
from embedtui.demo.api import MANNERS, FaultKind, LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.engine.process import SubprocessEngine
from embedtui.errors import EmbedtuiError, SettingsError
from embedtui.model import Condition, Phase
from embedtui.model.snapshot import TO_BE_RESUMED
from embedtui.postgres import indexes
from tests.kits.support import following, make_documents, wait_for

ROWS = 60


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({"old-model": hash_model(8), "new-model": hash_model(16)}) as server:
        yield server


def write_settings(folder: Path, base_url: str, more: str = "", name: str = "new-model") -> None:
    (folder / "embedtui.toml").write_text(
        f'table = "documents"\n[old_model]\nname = "old-model"\nretired = true\n[new_model]\nname = "{name}"\n'
        f'dimensions = 16\nbase_url = "{base_url}"\n{more}\n'
    )


def load(dsn: str, folder: Path) -> Settings:
    return load_settings({}, environ={"DATABASE_URL": dsn}, cwd=folder)


@contextmanager
def at_work(dsn: str, folder: Path) -> Iterator[Engine]:
    """A worker that follows by the settings in ``folder``; yields an operator's engine, which knows none."""
    with closing(Engine(dsn, settings=load(dsn, folder))) as engine:
        engine.prepare()
        with following(engine), closing(Engine(dsn)) as operator:
            wait_for(lambda: any(each.alive for each in operator.snapshot().workers))
            yield operator


def edit(dsn: str, key: int, text: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = %s WHERE id = %s", [text, key])


def said(operator: Engine, act: str) -> list[str]:
    return [entry.detail for entry in operator.audit() if entry.act == act]


def test_an_endpoint_that_moved_is_followed_by_workers_at_work(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, ROWS)
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={api.key}\n")
    write_settings(tmp_path, api.base_url)
    with (
        LoopbackServer({"new-model": hash_model(16)}, key="sk-of-the-other-house") as other,
        at_work(database, tmp_path) as operator,
    ):
        wait_for(lambda: operator.snapshot().phase is Phase.VALIDATE)
        api.stop()
        edit(database, 1, "edited while nobody answers")
        wait_for(lambda: operator.snapshot().sync.queued)
        wait_for(lambda: said(operator, "held"), "the outage is not told")
        (tmp_path / ".env").write_text(f"OPENAI_API_KEY={other.key}\n")
        write_settings(tmp_path, other.base_url, "price_per_million = 0.25")
        assert operator.reload() == 1
        wait_for(lambda: other.inputs and not operator.snapshot().sync.queued)
        assert operator.snapshot().condition is not Condition.FAILED
        (found,) = said(operator, "settings")
        assert other.base_url in found and "price_per_million is 0.25" in found
        assert len(said(operator, "reload")) == 1
        assert other.key not in str(operator.audit())
        wait_for(lambda: said(operator, "over"), "its end is not told")
        assert not [each for each in said(operator, "over") if "not over" in each], "the work went on"


def test_limits_and_throttle_count_from_then_on(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    make_documents(database, 600)
    api.faults.add(FaultKind.UNAVAILABLE, predicate=lambda _: api.served >= 3, retry_after=2)
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={api.key}\n")
    write_settings(tmp_path, api.base_url, "max_inputs = 40\n[pacing]\nmax_concurrency = 1")
    with at_work(database, tmp_path) as operator:
        wait_for(lambda: any(hold.name == "provider" for hold in operator.snapshot().reasons))
        write_settings(tmp_path, api.base_url, "max_inputs = 2\n[throttle]\nlong_transaction_seconds = 5.0")
        operator.reload()
        wait_for(lambda: any("max_inputs is 2 here" in detail for detail in said(operator, "settings")))
        asked = api.requests
        api.faults.clear()
        wait_for(lambda: operator.snapshot().phase is Phase.VALIDATE)
        migration = operator.require()
        assert migration.stored.throttle.long_transaction_seconds == 5.0
        assert api.requests - asked >= (600 - 3 * 40) // 2


def test_settings_of_another_model_are_refused_and_the_work_goes_on(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, ROWS)
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={api.key}\n")
    write_settings(tmp_path, api.base_url)
    with at_work(database, tmp_path) as operator:
        for name, more, why in (
            ("another-model", "", "the settings say another-model"),
            ("new-model", "max_inputs = 0", "max_inputs"),
            ("new-model", "[index]\nno_such = 1", "no such setting"),
        ):
            write_settings(tmp_path, "http://127.0.0.1:1/v1", more, name)
            operator.reload()
            wait_for(lambda why=why: any(why in detail for detail in said(operator, "settings")), why)
        wait_for(lambda: operator.snapshot().phase is Phase.VALIDATE)
        edit(database, 1, "edited afterwards")
        wait_for(lambda: not operator.snapshot().sync.queued and api.inputs > ROWS)
        assert operator.require().new_model.name == "new-model"


def test_an_operator_whose_own_settings_are_broken_asks_nobody(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, ROWS)
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={api.key}\n")
    write_settings(tmp_path, api.base_url)
    with closing(Engine(database, settings=load(database, tmp_path))) as engine:
        engine.run(threading.Event())
        assert engine.reload() == 0
        (tmp_path / "embedtui.toml").write_text("table = \n")
        with pytest.raises(SettingsError):
            engine.reload()
        assert said(engine, "reload") == ["no worker"]


def test_a_worker_that_waits_to_be_resumed_reads_them_and_waits_on(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, ROWS)
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-of-last-year-123\n")
    write_settings(tmp_path, api.base_url)
    with at_work(database, tmp_path) as operator:
        wait_for(lambda: operator.snapshot().condition is Condition.FAILED)
        (tmp_path / ".env").write_text(f"OPENAI_API_KEY={api.key}\n")
        write_settings(tmp_path, api.base_url, "max_inputs = 9")
        wait_for(lambda: operator.reload())
        wait_for(lambda: any("max_inputs is 9" in detail for detail in said(operator, "settings")))
        assert operator.require().desired == "pause" and api.inputs == 0
        operator.resume()
        wait_for(lambda: operator.snapshot().phase is Phase.VALIDATE)


@pytest.mark.parametrize("apart", [False, True])
def test_a_dashboard_s_run_tries_again_what_had_failed_by_the_settings_of_now(
    database: str, api: LoopbackServer, tmp_path: Path, apart: bool
) -> None:
    make_documents(database, ROWS)
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-of-last-year-123\n")
    write_settings(tmp_path, api.base_url)
    kind = SubprocessEngine if apart else Engine
    with closing(kind(database, settings=load(database, tmp_path))) as dashboard:
        dashboard.prepare()
        with pytest.raises(EmbedtuiError):
            dashboard.run(threading.Event())
        assert dashboard.snapshot().condition is Condition.FAILED and dashboard.require().desired == "pause"
        (tmp_path / ".env").write_text(f"OPENAI_API_KEY={api.key}\n")
        with following(dashboard, again=True):
            wait_for(lambda: dashboard.snapshot().phase is Phase.VALIDATE)
        assert dashboard.require().desired == "run"


@pytest.mark.parametrize("again", [False, True])
def test_a_worker_that_joins_a_paused_migration_says_what_it_waits_for(
    database: str, api: LoopbackServer, tmp_path: Path, again: bool
) -> None:
    """An operator's pause is his to lift, whoever runs."""
    make_documents(database, ROWS)
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={api.key}\n")
    write_settings(tmp_path, api.base_url)
    with closing(Engine(database, settings=load(database, tmp_path))) as engine:
        engine.prepare()
        engine.pause()
        with following(engine, again=again):
            wait_for(lambda: {each.doing for each in engine.snapshot().workers if each.alive} == {TO_BE_RESUMED})
            assert engine.require().desired == "pause" and api.inputs == 0
            engine.resume()
            wait_for(lambda: engine.snapshot().phase is Phase.VALIDATE)


def test_an_index_under_way_is_built_first(
    database: str, api: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_documents(database, ROWS)
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={api.key}\n")
    write_settings(tmp_path, api.base_url)
    built = 0
    building, go = threading.Event(), threading.Event()
    real = indexes.build

    def build(*arguments: object) -> indexes.IndexBuild:
        nonlocal built
        built += 1
        building.set()
        go.wait(60)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(indexes, "build", build)
    with at_work(database, tmp_path) as operator:
        assert building.wait(60)
        write_settings(tmp_path, api.base_url, "max_inputs = 9")
        operator.reload()
        edit(database, 1, "edited beside the build")
        wait_for(lambda: not operator.snapshot().sync.queued)
        assert not said(operator, "settings")
        go.set()
        wait_for(lambda: said(operator, "settings"))
        wait_for(lambda: operator.snapshot().phase is Phase.VALIDATE)
        assert operator.snapshot().index.valid
    assert built == 1


@pytest.mark.parametrize("how", ["nothing", "reload", "max_inputs", "base_url"])
def test_a_limit_of_requests_that_was_raised_is_kept_to_until_somebody_says_so(
    database: str, api: LoopbackServer, tmp_path: Path, how: str
) -> None:
    def run() -> int:
        """Requests for 60 rows that came since."""
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("UPDATE documents SET content = content || ' again'")
        before = api.requests
        with closing(Engine(database, settings=load(database, tmp_path))) as engine:
            assert engine.run(threading.Event()).sync.queued == 0
        return api.requests - before

    make_documents(database, ROWS)
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={api.key}\n")
    write_settings(tmp_path, api.base_url)
    api.manners = replace(MANNERS["openai"], most=4, too_many="at most {most} in one batch")
    assert run() > ROWS // 4
    api.manners = MANNERS["openai"]
    if how == "max_inputs":
        write_settings(tmp_path, api.base_url, "max_inputs = 50")
    elif how == "base_url":
        api.move()
        write_settings(tmp_path, api.base_url)
    elif how == "reload":
        with closing(Engine(database, settings=load(database, tmp_path))) as operator:
            operator.reload()
    assert (run() < ROWS // 4) == (how != "nothing")
    assert (run() < ROWS // 4) == (how != "nothing"), "and that stays so"


def test_a_plan_goes_by_what_the_file_says_by_now_until_a_migration_is_under_way(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, ROWS)
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={api.key}\n")
    write_settings(tmp_path, api.base_url)
    with closing(Engine(database, settings=load(database, tmp_path))) as engine:
        assert engine.plan().estimated_cost is None
        write_settings(tmp_path, api.base_url, "price_per_million = 2.0")
        assert engine.plan().estimated_cost is not None
        write_settings(tmp_path, api.base_url, "price_per_billion = 2.0")
        with pytest.raises(SettingsError, match="price_per_billion"):
            engine.plan()
        write_settings(tmp_path, api.base_url, "price_per_million = 3.0")
        engine.prepare()
        write_settings(tmp_path, api.base_url, "price_per_billion = 2.0")
        assert engine.plan().estimated_cost is not None, "R has it read, and the workers with it"
