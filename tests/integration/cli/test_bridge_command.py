"""`embedtui bridge`: from settings alone to searches that find again, in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import LoopbackServer
from tests.kits.bridging import NEW_MODEL, OLD_MODEL, make_table, text_of
from tests.kits.cli_kit import InProcess
from tests.kits.support import NEW, OLD, vector_literal


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer({NEW: NEW_MODEL}, log_texts=10_000) as server:
        yield server


@pytest.fixture
def shell(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> InProcess:
    environ = {
        "DATABASE_URL": database,
        "OPENAI_API_KEY": api.key,
        "OPENAI_BASE_URL": api.base_url,
        "EMBED_MODEL": NEW,
        "EMBED_DIMENSIONS": "16",
    }
    return InProcess(tmp_path, environ, monkeypatch, capsys)


def test_the_worst_day_in_three_commands(database: str, shell: InProcess) -> None:
    make_table(database)
    dead = ("--table", "documents", "--old-model", OLD, "--old-retired")
    measured = shell("bridge", *dead, "--rows", "200", "--measure")
    assert measured.code == 0, measured
    assert "Held out" in measured.out and "shuffled" in measured.out and "Measured only" in measured.out
    assert "200 of 200 rows of the sample" in measured.err
    on = shell("bridge", *dead, "--rows", "200", "--json")
    assert on.code == 0, on
    report = on.json
    assert (report["served"], report["embedded"]) == (True, 0)
    assert report["status"]["figures"]["recall_10"]["mean"] > 0.9
    said = shell("status").out
    assert f"Bridged    version {report['version']}: finds " in said
    route = shell("status", "--json").json["route"]
    assert (route["bridging"], route["bridge_found"]["rows"]) == (True, 200)
    with psycopg.connect(database) as conn:
        query = vector_literal(NEW_MODEL([text_of(77)], None)[0])
        found = conn.execute("SELECT key FROM embedtui.search('documents', %s, %s, 3)", [NEW, query]).fetchall()
    assert ("77",) in found
    assert "bridge" in shell("log").out
    off = shell("bridge", "--off", "--json")
    assert off.json["bridged"] is False
    assert "Bridged" not in shell("status").out


def test_what_stands_against_it_is_one_line(database: str, api: LoopbackServer, shell: InProcess) -> None:
    make_table(database, 150)
    api.models[OLD] = OLD_MODEL
    alive = shell("bridge", "--table", "documents", "--old-model", OLD, "--rows", "100")
    alive.refused(6, "not said to be retired", "--old-retired", "--override old_model=")
