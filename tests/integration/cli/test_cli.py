"""The commands: their help, their JSON, the whole journey by flags alone, and how they stop."""

from __future__ import annotations

import io
import itertools
import json
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import psycopg
import pytest
import tomlkit

from embedtui.cli.main import cli
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.errors import DatabaseLost, ExitCode
from embedtui.model import Snapshot
from embedtui.router import Router
from tests.kits.cli_kit import DOCUMENTS, InProcess, Result, Shell, execute, rows, traces

KEY = "sk-loopback-test"
COMMANDS = sorted(cli.commands)
ASKED, ASKED_AGAIN = 4, 2
"""Texts that a new migration, and a run that goes on, send first, to find out whether key, model and size are right."""


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    """The provider."""
    with LoopbackServer({"m": hash_model(8), "old": hash_model(4, "old")}, key=KEY) as running:
        yield running


@pytest.fixture
def environ(database: str, api: LoopbackServer) -> dict[str, str]:
    """What the article's service has in its environment."""
    api.faults.clear()
    api.latency = 0.0
    api.reset_counters()
    return {
        "DATABASE_URL": database,
        "OPENAI_BASE_URL": api.base_url,
        "OPENAI_API_KEY": KEY,
        "EMBED_MODEL": "m",
        "EMBED_DIMENSIONS": "8",
    }


@pytest.fixture
def run(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> InProcess:
    """Runs commands in an empty folder."""
    return InProcess(tmp_path, environ, monkeypatch, capsys)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> InProcess:
    """Runs commands that need nothing."""
    return InProcess(tmp_path, {}, monkeypatch, capsys)


# -------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(offline: InProcess, name: str) -> None:
    result = offline(name, "--help")
    assert result.code == 0 and result.err == ""
    head, _, examples = result.out.partition("\nExample:\n")
    assert head.split("\n\n")[1].strip().endswith("."), "a sentence says what it does"
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert lines and lines[0].startswith(f"embedtui {name}")
    for before, line in itertools.pairwise(lines):
        assert line.startswith("--" if before.endswith(" \\") else f"embedtui {name}"), "it goes on at an option"
    assert all(len(line) <= 80 for line in result.out.splitlines()), "no terminal breaks a word"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_names_options_that_exist(name: str) -> None:
    command = cli.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for line in command.example.splitlines():  # type: ignore[attr-defined]
        for each in line.split(" && "):
            words = shlex.split(each.partition(" > ")[0])
            used = cli.commands[words[1]]
            options = {word for word in words if word.startswith("--")}
            assert options <= (known if used is command else {o for p in used.params for o in p.opts}), line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_help_lists_the_journey_and_the_exit_codes(offline: InProcess) -> None:
    out = offline("--help").out
    order = [out.index(f"\n  {name} ") for name in ("demo", "init", "plan", "run", "compare", "cutover", "cleanup")]
    assert order == sorted(order)
    assert "130 interrupted" in " ".join(out.split())
    for code in ExitCode:
        assert str(code.value) in out


def test_version(offline: InProcess) -> None:
    assert offline("--version").out.startswith("embedtui ")
    assert set(offline("version", "--json").json) >= {"embedtui", "python", "psycopg"}


# -------------------------------------------------------------------------------------------------------- init


def test_init_finds_everything_and_can_be_repeated(run: InProcess) -> None:
    execute(run.environ["DATABASE_URL"], DOCUMENTS)
    result = run("init")
    assert result.code == 0, result
    assert "embedtui plan" in result.out
    path = run.folder / "embedtui.toml"
    written = tomlkit.parse(path.read_text("utf-8")).unwrap()
    assert written["table"] == "documents" and written["schema"] == "public"
    assert written["key"] == ["id"] and written["content"] == ["content"] and written["old_column"] == "embedding"
    assert written["new_model"] == {"name": "m", "dimensions": 8} and written["old_model"] == {"dimensions": 4}
    assert KEY not in path.read_text("utf-8")
    path.write_text("# mine\n" + path.read_text("utf-8"), "utf-8")
    again = run("init", "--placement", "table", "--json")
    assert again.code == 0 and again.json["table"] == "public.documents"
    text = path.read_text("utf-8")
    assert text.startswith("# mine\n") and tomlkit.parse(text).unwrap()["placement"] == "table"
    assert run("plan", "--json").json["placement"] == "table"


def test_init_names_the_keys_that_are_missing(run: InProcess) -> None:
    execute(run.environ["DATABASE_URL"], DOCUMENTS)
    assert "is not set" not in run("init").err
    run.environ["OTHER_KEY"] = ""
    (run.folder / "embedtui.toml").write_text(
        '[old_model]\nname = "old"\nbase_url = "http://127.0.0.1:9/v1"\nkey_variable = "OTHER_KEY"\n', "utf-8"
    )
    made = run("init")
    assert made.code == 0 and "OTHER_KEY is not set" in made.err and "OPENAI_API_KEY is not set" not in made.err


def test_init_writes_where_it_is_told(run: InProcess) -> None:
    execute(run.environ["DATABASE_URL"], DOCUMENTS)
    target = run.folder / "deep" / "my.toml"
    target.parent.mkdir()
    (target.parent / ".env").write_text("EMBED_DIMENSIONS=6\nEMBEDTUI_LOG=deep/our.log\n", "utf-8")
    del run.environ["EMBED_DIMENSIONS"]
    made = run("init", "--config", str(target))
    assert made.code == 0 and f"Read {target.parent / '.env'} beside" in made.err
    assert tomlkit.parse(target.read_text("utf-8")).unwrap()["new_model"]["dimensions"] == 6
    assert "embedtui" in (target.parent / "our.log").read_text("utf-8")
    assert not (run.folder / "embedtui.toml").exists()
    assert run("plan", "--config", str(target)).code == 0


# -------------------------------------------------------------------------------------------------------- plan


def test_plan_shows_checks_price_and_sql_and_changes_nothing(run: InProcess) -> None:
    dsn = run.environ["DATABASE_URL"]
    execute(dsn, DOCUMENTS)
    text = run("plan", "--table", "documents")
    assert text.code == 0, text
    assert "60 rows" in text.out and "Placement  column" in text.out and "ADD COLUMN" in text.out
    assert (
        "-> m (8 dimensions)" in text.out and f"Texts go   to {run.environ['OPENAI_BASE_URL'].rstrip('/')}" in text.out
    )
    assert "FUNCTION" in text.out and "--sql" in text.out
    _, _, statements = text.out.partition("SQL of prepare")
    assert all(len(line) <= 120 for line in statements.splitlines())
    data = run("plan", "--table", "documents", "--json").json
    assert data["rows"] == 60 and data["ready"] is True and data["estimated_tokens"] > 60
    shown = run("plan", "--table", "documents", "--sql").out.splitlines()
    assert shown == "\n".join(data["statements"]).splitlines()
    assert traces(dsn) == []


def test_plan_asks_the_provider_when_told_to(run: InProcess, api: LoopbackServer) -> None:
    execute(run.environ["DATABASE_URL"], DOCUMENTS)
    assert run("plan", "--table", "documents").code == 0
    assert api.requests == 0
    assert run("plan", "--table", "documents", "--check-provider").code == 0
    assert api.requests == 1
    assert run("plan", "--table", "documents", "--check-provider", OPENAI_API_KEY="sk-wrong").code == 5
    away = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1?api-version=2"}
    asked = run("plan", "--table", "documents", "--check-provider", **away)
    assert asked.code == 4 and "to http://127.0.0.1:9/v1\n" in asked.out
    assert "may tell" not in asked.out
    assert run("plan", "--table", "documents", **away).code == 0, "it was not asked"


# ----------------------------------------------------------------------------------------------------- journey

KEYS = {
    "bigint": ("id bigint", "i"),
    "uuid": ("id uuid", "md5(i::text)::uuid"),
    "text": ("id text", "'key ' || i"),
}

OVERRIDES = ("--override", "gate=a test", "--override", "not_null=the application writes both")


@pytest.mark.parametrize(("kind", "placement"), [("bigint", "column"), ("uuid", "table"), ("text", "column")])
@pytest.mark.variants(1)
def test_the_journey_by_flags_alone(run: InProcess, kind: str, placement: str) -> None:
    dsn = run.environ["DATABASE_URL"]
    column, value = KEYS[kind]
    execute(
        dsn,
        f"""
        CREATE TABLE docs ({column} PRIMARY KEY, title text, body text, emb vector(4) NOT NULL);
        INSERT INTO docs
          SELECT {value}, 'Title ' || i, repeat('body ', i % 9), ARRAY[i % 7, 1, i % 3, 2]::real[]::vector
          FROM generate_series(1, 300) i;
        CREATE INDEX docs_emb ON docs USING hnsw (emb vector_cosine_ops);
        """,
    )
    flags = ("--table", "docs", "--content", "title,body", "--old-model", "old", "--placement", placement)
    (run.folder / "embedtui.toml").write_text('accept = ["proof"]\n', "utf-8")  # these vectors are nobody's
    assert run("plan", *flags).code == 0

    part = run("run", *flags, "--until", "10", "--json")
    assert part.code == 0, part
    assert 30 <= part.json["backfill"]["rows"] <= 300

    finished = run("run", *flags, "--json")
    assert finished.code == 0, finished
    data = finished.json
    assert data["backfill"]["rows"] == 300 and data["index"]["valid"] is True and data["faulty"] == 0
    assert data["migration"]["table"] == "public.docs" and data["phase"] == "validate"

    assert run("status", "--json").json["phase"] == "validate"
    status = run("status")
    assert status.code == 0 and "300 of 300 rows" in status.out and "Next" in status.out

    verified = run("verify", "--sample", "20", "--json")
    assert verified.code == 0, verified
    assert (verified.json["embedded"], verified.json["sampled"], verified.json["mismatched"]) == (300, 20, 0)

    (run.folder / "questions.txt").write_text("Title 7\nbody body\n", "utf-8")
    files = ("--csv", "out.csv", "--html", "out.html")
    compared = run("compare", "--queries", "questions.txt", *files, "--json")
    assert compared.code in (0, 5), compared
    assert compared.json["measures"]["queries"] == 2
    assert (run.folder / "out.csv").read_text("utf-8").count("\n") > 2
    assert "<html" in (run.folder / "out.html").read_text("utf-8")
    again = run("compare", "--show", "1", "--csv", "again.csv")
    assert "Distance     first old 0." in again.out
    assert "Written      again.csv" in again.out
    assert again.code in (0, 5) and "Gate" in again.out
    kept = run("queries", "--json").json
    assert [each["text"] for each in kept] == ["Title 7", "body body"]
    number = str(kept[1]["id"])
    assert run("decide", number, "old").out == f"Query {number}: old.\n"
    assert run("decide", number, "none").out == f"Query {number}: no verdict any more.\n"
    assert "body" not in run("queries", "--forget", number).out
    run("queries", "--forget", number).refused(6, "Not all of these")

    run("cutover").refused(6, "not confirmed", "--yes")
    run("cutover", "--table-name", "dogs").refused(6, "is not the table's name")
    if compared.json["verdict"] != "PASS":
        run("cutover", "--yes").refused(6)
    canary = run("cutover", "--yes", "--percent", "10", *OVERRIDES, "--json")
    assert (canary.code, canary.json["active"], canary.json["canary"]) == (0, "old", 10), canary
    flipped = run("cutover", "--table-name", "docs", *OVERRIDES, "--json")
    assert (flipped.code, flipped.json["active"], flipped.json["changed"]) == (0, "new", True), flipped
    repeated = run("cutover", "--yes", *OVERRIDES, "--json")
    assert (repeated.code, repeated.json["changed"]) == (0, False)
    back = run("rollback", "--json")
    assert (back.code, back.json["active"]) == (0, "old")
    assert run("rollback", "--json").json["changed"] is False
    assert run("cutover", "--yes", *OVERRIDES).code == 0

    statements = run("cleanup", "--sql")
    assert statements.code == 0 and "DROP COLUMN" in statements.out
    assert "DROP COLUMN" not in run("cleanup", "--sql", "--keep-old", "--keep-provenance").out
    run("cleanup").refused(6, "for good", "--table docs")
    run("cleanup", "--table", "dogs").refused(6, "is not the table's name")
    run("cleanup", "--table", "docs").refused(6, '--override soak="REASON"')
    run("cleanup", "--table", "docs", "--override", "gate=another check").refused(6, '--override soak="REASON"')
    run("cleanup", "--table", "docs", "--override", "a reason alone").refused(2, "names what it passes")
    done = run("cleanup", "--table", "docs", "--override", "soak=a test", "--json")
    assert (done.code, done.json["phase"]) == (0, "done"), done
    assert "Rollback   the old side is gone" in run("status").out
    again = run("run")  # the settings of what is finished begin nothing, and pay for nothing
    assert again.code in (2, 6) and "index" not in again.out, again
    verified = run("verify", "--sample", "20")
    assert verified.code == 0 and "Embedded     300" in verified.out and "Sampled      20, 0 disagree" in verified.out
    assert "Unknown      whether a vector is of its row's present text" in verified.out
    run("verify", "--repair").refused(6, "is done: no worker")
    execute(dsn, "ALTER TABLE docs ALTER emb DROP NOT NULL; UPDATE docs SET emb = NULL WHERE title LIKE '%7'")
    holes = run("verify")
    assert holes.code == 5 and "Missing      30" in holes.out and "the application embeds" in holes.out
    execute(dsn, "UPDATE docs SET emb = ARRAY[1,2,3,4,5,6,7,8]::vector WHERE emb IS NULL")
    assert run("verify").code == 0 and run("verify", "--sample", "300").code == 5, "another model's vectors"
    acts = [entry["act"] for entry in run("log", "--json").json["entries"]]
    assert acts.index("cutover") < acts.index("cleanup"), "the newest is the last"
    assert {"begin", "cutover", "rollback"} <= set(acts)
    assert "cutover" in run("log").out
    # a side table is folded, where no Router was heard from: either placement ends as the table began
    assert rows(dsn, "SELECT count(*), min(vector_dims(emb)) FROM docs") == [(300, 8)]
    assert traces(dsn) == ["schema embedtui"]


def test_a_person_sees_what_will_happen_before_typing_the_name(run: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(run.environ["DATABASE_URL"], DOCUMENTS)
    assert run("run", "--table", "documents").code == 0
    for module in ("common", "switch", "ending"):
        monkeypatch.setattr(f"embedtui.cli.{module}.interactive", lambda: True)

    def answered(*arguments: str, name: str) -> Result:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{name}\n"))
        return run(*arguments)

    asked = answered("cutover", "--percent", "10", name="dogs")
    assert asked.code == 6 and "blocked by gate" in asked.err
    assert "The reads of 10 % of the keys of documents move from" in asked.err.replace("public.", "")
    assert "No change waits for a new vector." in asked.err
    assert answered("cutover", "--override", "gate=a test", name="documents").code == 0
    asked = answered("cleanup", name="dogs")
    assert asked.code == 6 and "blocked by soak" in asked.err and "DROP COLUMN" in asked.err
    assert "DROP COLUMN" not in answered("cleanup", "--keep-old", "--keep-provenance", name="dogs").err


def test_abort_takes_everything_back(run: InProcess) -> None:
    dsn = run.environ["DATABASE_URL"]
    execute(dsn, DOCUMENTS)
    assert run("run", "--table", "documents", "--until", "20").code == 0
    run("abort").refused(6, "--table documents")
    run("abort", "--table", "document").refused(6, "is not the table's name")
    aborted = run("abort", "--table", "documents", "--json")
    assert (aborted.code, aborted.json["phase"]) == (0, "aborted"), aborted
    assert traces(dsn) == ["schema embedtui"]
    assert rows(dsn, "SELECT count(*) FROM documents WHERE embedding IS NOT NULL") == [(60,)]


def test_what_is_for_good_takes_a_typed_name_and_no_flag_that_stands_for_it(run: InProcess) -> None:
    asking = [each for each in COMMANDS if "--table-name" in run(each, "--help").out]
    assert sorted(asking) == ["abort", "adopt", "cleanup", "cutover"]
    assert [each for each in asking if "--yes" in run(each, "--help").out] == ["cutover"]


# ---------------------------------------------------------------------------------------------------- steering


def test_stop_ends_a_worker_wherever_it_runs(run: InProcess, environ: dict[str, str], tmp_path: Path) -> None:
    """With the status that Ctrl-C has there; what is not at work is said."""
    execute(environ["DATABASE_URL"], DOCUMENTS)
    assert run("run", "--table", "documents", "--until", "0").code == 0
    assert run("stop").out == "No worker is at work.\n"
    with Shell(tmp_path, environ).start("run", "--follow") as worker:
        try:
            name = ""
            end = time.monotonic() + 60
            while not name:
                assert worker.poll() is None and time.monotonic() < end
                workers = run("status", "--json").json["workers"]
                alive = [each for each in workers if each["alive"]]
                name = f"{alive[0]['host']}:{alive[0]['pid']}" if alive else ""
            run("stop", "--worker", "elsewhere:1").refused(6, "No worker elsewhere:1", name)
            assert run("stop", "--worker", name, "--json").json == {"stopping": 1}
            _, err = worker.communicate(timeout=60)
        finally:
            worker.kill()
    assert worker.returncode == 130, err
    assert "Traceback" not in err


def test_reload_reaches_a_worker_in_another_process(run: InProcess, environ: dict[str, str], tmp_path: Path) -> None:
    execute(environ["DATABASE_URL"], DOCUMENTS)
    assert run("run", "--table", "documents", "--until", "0").code == 0
    assert run("reload").out == "No worker is at work; every run reads them.\n"
    with Shell(tmp_path, environ).start("run", "--follow") as worker:
        try:

            def at_work() -> bool:
                return any(each["alive"] for each in run("status", "--json").json["workers"])

            wait_until(at_work, worker)
            (tmp_path / "embedtui.toml").write_text("[new_model]\nmax_inputs = 3\n")
            assert run("reload", "--json").json == {"reloading": 1}
            wait_until(lambda: "max_inputs is 3 here" in run("log").out, worker)
            wait_until(at_work, worker)  # it read them between two turns of work
            assert run("stop").out.startswith("Stopping")
            _, err = worker.communicate(timeout=60)
        finally:
            worker.kill()
    assert worker.returncode == 130, err
    assert "Traceback" not in err


def test_pause_resume_and_pace(run: InProcess) -> None:
    execute(run.environ["DATABASE_URL"], DOCUMENTS)
    assert run("run", "--table", "documents", "--until", "20").code == 0
    assert run("pause", "--reason", "sale at noon").code == 0
    status = run("status", "--json").json
    assert status["condition"] == "paused" and "sale at noon" in json.dumps(status["reasons"])
    assert run("resume").code == 0
    assert run("status", "--json").json["condition"] != "paused"
    # however few requests the rows took
    execute(run.environ["DATABASE_URL"], "UPDATE embedtui.migration SET phase = 'backfill'")
    assert "held back" in run("index", "--hold").out
    assert run("status", "--json").json["migration"]["index_held"] is True
    assert run("index", "--release", "--json").json == {"index_held": False}
    assert run("status", "--json").json["migration"]["index_held"] is False
    changed = run("pace", "--tokens-per-minute", "5000", "--spend-cap", "2.5", "--max-concurrency", "3", "--json")
    assert changed.code == 0, changed
    assert (changed.json["tokens_per_minute"], changed.json["cap"]) == (5000, 2.5)
    assert "5,000" in run("pace").out
    lifted = run("pace", "--tokens-per-minute", "0", "--max-concurrency", "8")
    assert lifted.out.splitlines()[:3] == [
        "Requests per minute  none",
        "Tokens per minute    none",
        "Requests in flight   8 at most",
    ]
    assert run("pace", "--json").json["max_concurrency"] == 8


def test_faults_are_listed_and_decided(run: InProcess, api: LoopbackServer) -> None:
    dsn = run.environ["DATABASE_URL"]
    execute(dsn, DOCUMENTS)
    execute(dsn, "UPDATE documents SET content = repeat('long ', 20000) WHERE id IN (7, 8)")
    finished = run("run", "--table", "documents", "--json")
    assert finished.code == 5, finished
    assert finished.json["faulty"] == 2
    for verify in (("verify",), ("verify", "--repair")):  # which cannot mend them
        told = run(*verify)
        assert told.code == 5 and "Mend: embedtui faults" in told.out
    listed = run("faults", "--json").json["faults"]
    assert sorted(fault["key"] for fault in listed) == [["7"], ["8"]]
    assert "row" in run("faults").out
    assert run("faults", "skip", str(listed[0]["id"]), "--json").json["rows"] == 1
    assert run("faults", "shorten", "--all", "--json").json["rows"] == 1
    assert "shorten" in run("faults").out and "truncate" not in run("faults").out
    assert run("faults", "truncate", "--all", "--json").json["act"] == "shorten", "as scripts have it"
    assert run("run", "--table", "documents").code == 0
    verified = run("verify", "--json")
    assert (verified.code, verified.json["embedded"], verified.json["skipped"]) == (0, 59, 1), verified


def test_verify_finds_and_repairs(run: InProcess) -> None:
    dsn = run.environ["DATABASE_URL"]
    execute(dsn, DOCUMENTS)
    assert run("run", "--table", "documents").code == 0
    execute(dsn, "UPDATE documents SET embedding_v2 = NULL, embedding_v2_source = NULL WHERE id <= 3")
    execute(dsn, "UPDATE documents SET content = 'new' WHERE id = 9")
    execute(dsn, "DELETE FROM embedtui.queue")  # as if it had come about behind change capture
    assert "Mend: embedtui verify --repair" in run("verify").out
    found = run("verify", "--json")
    assert found.code == 5 and (found.json["missing"], found.json["stale"]) == (3, 1)
    assert "Not clean" in run("verify", "--repair").out
    assert run("run", "--table", "documents").code == 0
    assert run("verify").code == 0
    execute(dsn, "UPDATE documents SET content = 'newer' WHERE id = 9")
    assert "Mend: embedtui run" in run("verify").out


def test_a_vector_that_was_removed_behind_our_back_is_repaired(run: InProcess) -> None:
    dsn = run.environ["DATABASE_URL"]
    execute(dsn, DOCUMENTS)
    assert run("run", "--table", "documents").code == 0
    execute(dsn, "UPDATE documents SET embedding_v2 = NULL WHERE id <= 3")
    assert run("verify", "--repair").code == 5
    assert run("run", "--table", "documents").code == 0
    assert run("verify").code == 0


def test_several_migrations_need_a_name(run: InProcess) -> None:
    dsn = run.environ["DATABASE_URL"]
    execute(dsn, DOCUMENTS + "CREATE TABLE other AS TABLE documents; ALTER TABLE other ADD PRIMARY KEY (id)")
    for table in ("documents", "other"):
        assert run("run", "--table", table, "--until", "10").code == 0
    run("status").refused(2, "documents, other", "--name")
    assert run("status", "--name", "other", "--json").json["migration"]["table"] == "public.other"
    assert run("status", "--table", "documents", "--json").json["migration"]["name"] == "documents"


def test_status_before_anything_began(run: InProcess) -> None:
    result = run("status", "--json")
    assert result.code == 0 and result.json["migration"] is None
    assert "embedtui plan" in run("status").out


def test_status_says_who_follows_and_how_fast(run: InProcess) -> None:
    dsn = run.environ["DATABASE_URL"]
    execute(dsn, DOCUMENTS)
    assert run("run", "--table", "documents").code == 0
    assert ", no Router heard from: searches are not counted\n" in run("status").out
    with Router(dsn) as router, psycopg.connect(dsn, autocommit=True) as conn:
        router.route("documents").search(conn, [1, 1, 1, 2], 1)
        assert run("cutover", "--yes", "--override", "gate=a test").code == 0
        current = r"1 Router \(the last flip reached all in [\d,]+ ms\), searches 1 old, 0 new"
        end = time.monotonic() + 60
        while not re.search(current, said := run("status").out):
            assert time.monotonic() < end, said
        execute(
            dsn,
            "INSERT INTO embedtui.listener (id, name, host, pid, application, epoch, epoch_seen_at, searches_old,"
            " searches_new) SELECT gen_random_uuid(), name, host, 1, 'behind', epoch - 1, epoch_seen_at, 5, 0"
            " FROM embedtui.listener",
        )
        assert "2 Routers (1 still on an older epoch), searches 6 old, 0 new" in run("status").out


def test_a_run_by_other_settings_is_refused(run: InProcess) -> None:
    execute(run.environ["DATABASE_URL"], DOCUMENTS + "ALTER TABLE documents ADD title text")
    flags = ("run", "--table", "documents", "--content", "content")
    assert run(*flags, "--until", "10").code == 0
    run(*flags, EMBED_MODEL="old").refused(6, "under way with model m, and the settings say old", "embedtui abort")
    run(*flags, EMBED_DIMENSIONS="7").refused(6, "under way with dimensions 8, and the settings say 7")
    run(*flags[:-1], "title").refused(6, "under way with content content, and the settings say title")
    assert run("run").code == 0, "without settings it goes on as it began"


@pytest.mark.parametrize("placement", ["column", "table"])
def test_without_settings_the_migration_under_way_is_planned(run: InProcess, placement: str) -> None:
    execute(run.environ["DATABASE_URL"], DOCUMENTS + "ALTER TABLE documents ADD title text")
    bare = {"EMBED_MODEL": "", "EMBED_DIMENSIONS": "", "OPENAI_BASE_URL": ""}
    run("plan", **bare).refused(2, "No table is set", "documents")
    run("run", **bare).refused(2, "No table is set", "documents")
    flags = ("--table", "documents", "--content", "content", "--placement", placement, "--strategy", "rename")
    assert run("run", *flags, "--until", "10").code == 0
    assert run("run", *flags, "--until", "10", EMBED_DIMENSIONS="7").code == 6
    said = run("plan", *flags, "--json").json
    unknown = run("plan", "--json", **bare)  # where texts would go, only the database says
    assert unknown.code == 5 and f'new_model.base_url = \\"{run.environ["OPENAI_BASE_URL"]}' in unknown.out
    found = run("plan", "--json", EMBED_MODEL="", EMBED_DIMENSIONS="")
    assert found.code == 0, found
    assert "under way" in str(found.json["checks"])
    assert {name: found.json[name] for name in ("table", "rows", "placement", "statements")} == {
        name: said[name] for name in ("table", "rows", "placement", "statements")
    }


def test_index_and_search(run: InProcess) -> None:
    execute(run.environ["DATABASE_URL"], DOCUMENTS)
    run("index").refused(6, "embedtui run")
    assert run("run", "--table", "documents", "--until", "10").code == 0
    built = run("index", "--json")
    assert built.code == 0 and built.json["valid"] is True, built
    assert run("run", "--table", "documents").code == 0
    found = run("search", "Document number 7", "--k", "3", "--json")
    assert found.code == 0, found
    assert found.json["new"][0]["key"] == ["7"] and len(found.json["new"]) == 3
    assert "Document number 7" in run("search", "Document number 7").out


def test_a_cutover_can_be_postponed_and_taken_back(run: InProcess) -> None:
    execute(run.environ["DATABASE_URL"], DOCUMENTS)
    assert run("run", "--table", "documents").code == 0
    postponed = run("cutover", "--yes", "--postpone", "--override", "gate=a test", "--json")
    assert (postponed.code, postponed.json) == (0, {"postponed": 100}), postponed
    assert run("status", "--json").json["route"]["pending"]
    assert run("cutover", "--cancel", "--json").json == {"cancelled": True}
    assert run("cutover", "--cancel", "--json").json == {"cancelled": False}
    assert run("status", "--json").json["route"]["active"] == "old"


# ---------------------------------------------------------------------------------------------------- stopping


@pytest.fixture
def shell(environ: dict[str, str], tmp_path: Path) -> Shell:
    """Runs commands as processes of their own."""
    return Shell(tmp_path, environ)


def slowly(dsn: str, api: LoopbackServer, count: int = 100) -> None:
    """A backfill that takes some seconds: long texts, few of which fit into a request."""
    execute(
        dsn,
        f"""
        CREATE TABLE documents (id bigint PRIMARY KEY, content text, embedding vector(4));
        INSERT INTO documents SELECT i, i || repeat(' word', 400), '[1,2,3,4]' FROM generate_series(1, {count}) i;
        """,
    )
    api.latency = 0.3


SLOW = ("run", "--table", "documents", "--config", "slow.toml")


def slow_settings(shell: Shell) -> None:
    """Two requests at a time, four rows each."""
    (shell.folder / "slow.toml").write_text("[pacing]\nmax_concurrency = 2\n[new_model]\nmax_inputs = 4\n", "utf-8")


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for it, as long as the process lives."""
    deadline = time.monotonic() + 60
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.variants(1)
def test_a_signal_stops_the_run_cleanly_and_the_next_goes_on(
    shell: Shell, run: InProcess, api: LoopbackServer, number: signal.Signals
) -> None:
    dsn = shell.environ["DATABASE_URL"]
    slowly(dsn, api)
    slow_settings(shell)
    process = shell.start(*SLOW)
    try:
        wait_until(lambda: api.inputs >= 12, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert out == "" and "Traceback" not in err
    assert "embedtui: Interrupted: Stopped. What is paid for is stored. Go on with `embedtui run`." in err
    (stored,) = rows(dsn, "SELECT count(embedding_v2) FROM documents")
    assert stored == (api.inputs - ASKED,), "every reply that was paid for is stored"
    api.latency = 0.0
    finished = run("run", "--table", "documents", "--json")
    assert finished.code == 0, finished
    assert finished.json["backfill"]["rows"] == 100
    assert api.inputs == 100 + ASKED + ASKED_AGAIN


def test_killed_outright_the_next_run_pays_again_only_for_what_was_in_flight(
    shell: Shell, run: InProcess, api: LoopbackServer
) -> None:
    dsn = shell.environ["DATABASE_URL"]
    slowly(dsn, api)
    slow_settings(shell)
    process = shell.start(*SLOW)
    try:
        wait_until(lambda: api.inputs >= 12, process)
    finally:
        process.kill()
        process.communicate()
    api.latency = 0.0
    finished = run("run", "--table", "documents", "--json")
    assert finished.code == 0, finished
    assert finished.json["backfill"]["rows"] == 100
    assert 100 <= api.inputs - ASKED - ASKED_AGAIN <= 100 + 2 * 4
    assert run("verify").code == 0


def test_progress_goes_to_stderr_and_json_alone_to_stdout(shell: Shell, api: LoopbackServer) -> None:
    execute(shell.environ["DATABASE_URL"], DOCUMENTS)
    finished = shell.spawn("run", "--table", "documents", "--json")
    assert finished.code == 0, finished
    assert len(finished.out.splitlines()) == 1 and finished.json["phase"] == "validate"
    assert finished.err and "\x1b" not in finished.err and "\r" not in finished.err


def test_status_watch_ends_on_a_signal(shell: Shell) -> None:
    process = shell.start("status", "--watch", "--json", "--every", "0.2")
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert all(json.loads(line)["migration"] is None for line in lines)
    assert process.returncode == 0 and "Traceback" not in err


def test_a_closed_pipe_is_no_error(shell: Shell) -> None:
    execute(shell.environ["DATABASE_URL"], DOCUMENTS)
    process = shell.start("plan", "--table", "documents")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert err == ""


def test_init_takes_a_scope_and_a_text_by_sql(run: InProcess, database: str) -> None:
    execute(database, DOCUMENTS)
    where, text = "id <= 30 AND content LIKE '%1%'", "'# ' || content"
    made = run("init", "--table", "documents", "--where", where, "--content-sql", text, "--json")
    assert made.code == 0, made
    file = tomlkit.parse((run.folder / "embedtui.toml").read_text()).unwrap()
    assert (file["scope"], file["content_sql"]) == (where, text)
    assert "content" not in file
    plan = run("plan", "--json").json
    assert plan["rows"] == 12
    texts = next(check for check in plan["checks"] if check["name"] == "texts")
    assert "# Document number 1" in texts["detail"]
    run("init", "--table", "documents", "--where", "id <= now()", "--content", "content").refused(
        2, "scope = id <= now()"
    )
    run("plan", "--content", "content").refused(2, "Both content (--content) and content_sql (embedtui.toml)")


def test_init_takes_a_text_from_another_table(run: InProcess, database: str) -> None:
    execute(
        database,
        "CREATE TABLE papers (id int PRIMARY KEY, title text, body text);"
        " CREATE TABLE chunks (id int PRIMARY KEY, paper_id int REFERENCES papers, embedding vector(8));"
        " INSERT INTO papers VALUES (1, 'One', 'the first body');"
        " INSERT INTO chunks VALUES (1, 1, '[1,1,1,1,1,1,1,1]')",
    )
    run("init", "--table", "chunks").refused(2, "papers has title, body: --content-from papers --content title")
    flags = ("--table", "chunks", "--content-from", "papers", "--content", "title,body", "--content-via", "paper_id")
    made = run("init", *flags, "--json")
    assert made.json["content_from"] == "public.papers", made
    file = tomlkit.parse((run.folder / "embedtui.toml").read_text()).unwrap()
    assert (file["content_from"], file["content_via"]) == ("public.papers", ["paper_id"])
    assert file["content"] == ["title", "body"] and "content_sql" not in file
    texts = next(check for check in run("plan", "--json").json["checks"] if check["name"] == "texts")
    assert texts["detail"] == 'title, body of papers by paper_id, as sent: "One the first body"'
    assert 'ON "public"."papers"' in run("plan", "--sql").out


def test_a_watched_status_says_once_that_the_database_is_lost_and_once_that_it_is_back(
    run: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, outages = Engine.snapshot, iter([False, True, True, True, False, False, True, True, False])

    def snapshot(engine: Engine) -> Snapshot:
        lost = next(outages, None)
        if lost is None:
            signal.raise_signal(signal.SIGINT)
        if lost:
            raise DatabaseLost("No database at x: refused.")
        return read(engine)

    monkeypatch.setattr(Engine, "snapshot", snapshot)
    told = run("status", "--watch", "--every", "0.2")
    said = [line.split(": ")[1] for line in told.err.splitlines() if line.startswith("embedtui: ")]
    assert said == ["Database lost", "The database is back."] * 2
