"""What a connection string tells: whether it names the database of a demo, at work or not."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg import conninfo

from embedtui.cli.show import show
from embedtui.config import Settings
from embedtui.demo.database import EmbeddedServer
from embedtui.demo.environment import DATABASE
from embedtui.engine import Engine
from embedtui.errors import DatabaseError
from embedtui.postgres.connect import connect
from embedtui.postgres.dsn import demo
from tests.kits.cli_kit import InProcess


def test_a_demo_is_told_by_its_folder_whoever_made_it(tmp_path: Path) -> None:
    """By the usual names also where nothing is left of it; else by the settings file that a demo writes there."""
    for folder in (Path("/home/ann/.local/share/embedtui/demo"), tmp_path / ("a" * 99) / "embedtui" / "demo"):
        dsn = EmbeddedServer(folder).dsn(DATABASE)
        assert demo(dsn) in (str(folder), str(Path(tempfile.gettempdir()) / demo(dsn).rpartition("/")[2])), dsn
        assert demo(dsn)
    moved = EmbeddedServer(tmp_path / "kept").dsn(DATABASE)
    assert not demo(moved)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "demo.toml").touch()
    assert demo(moved) == str(tmp_path / "kept")


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://localhost/demo",
        "postgresql://postgres@/shop?host=/var/run/postgresql",
        "host=demo dbname=demo",
        "postgresql://",
        "no connection string",
    ],
)
def test_another_database_is_no_demo(dsn: str) -> None:
    assert demo(dsn) == ""


def test_a_demo_that_does_not_run_is_refused_as_one() -> None:
    folder = "/nonexistent/embedtui/demo"
    with pytest.raises(DatabaseError) as refused:
        connect(EmbeddedServer(folder).dsn(DATABASE), name="test")
    assert refused.value.message.startswith(f"The demo in {folder} does not run") and "demo" in refused.value.hint


def test_what_is_connected_to_is_called_a_demo(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the snapshot, which the dashboard's first line shows, in `status`, and as the dashboard opens."""
    folder = tmp_path / "embedtui" / "demo"
    folder.parent.mkdir()
    found = conninfo.conninfo_to_dict(database)
    folder.symlink_to(str(found["host"]))
    named = conninfo.make_conninfo(**{**found, "host": str(folder)})
    run = InProcess(tmp_path, {"DATABASE_URL": named}, monkeypatch, capsys)
    assert f"Database   that of a demo at {folder}, not your own" in run("status").out
    assert "a demo" not in run("status", DATABASE_URL=database).out
    with contextlib.closing(Engine(named, None)) as engine:
        assert engine.snapshot().server == f"a demo at {folder}"
    said: list[str] = []
    monkeypatch.setattr("embedtui.tui.run_dashboard", lambda *_, warning, **__: said.append(warning) or 0)
    for dsn in (named, database):
        settings = replace(Settings(table="documents"), environ={"DATABASE_URL": dsn})
        monkeypatch.setattr("embedtui.cli.show.misspelt", lambda _: None)
        show(settings, readonly=True, config=None)
    assert str(folder) in said[0] and not said[1]
