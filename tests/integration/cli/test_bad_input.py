"""What people get wrong, through the real commands: one clear line, the right exit code, nothing half-done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.demo.database import EmbeddedServer
from tests.kits.cli_kit import DOCUMENTS, InProcess, execute, rows, traces

KEY = "sk-loopback-test"


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    """The provider."""
    with LoopbackServer({"m": hash_model(8)}, key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def unchanged(server: EmbeddedServer) -> Iterator[str]:
    """A database that every test leaves as it found it."""
    execute(server.dsn(), "CREATE DATABASE bad_input")
    dsn = server.dsn("bad_input")
    execute(dsn, "CREATE EXTENSION vector;" + DOCUMENTS)
    execute(dsn, "CREATE TABLE nokey (id int, content text, embedding vector(4))")
    yield dsn
    execute(server.dsn(), "DROP DATABASE bad_input WITH (FORCE)")


@pytest.fixture
def still(
    unchanged: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[InProcess]:
    """Commands that are refused; whatever they are, nothing is left behind."""
    yield InProcess(tmp_path, _environ(unchanged, api), monkeypatch, capsys)
    assert traces(unchanged) == []


def _environ(dsn: str, api: LoopbackServer) -> dict[str, str]:
    return {
        "DATABASE_URL": dsn,
        "OPENAI_BASE_URL": api.base_url,
        "OPENAI_API_KEY": KEY,
        "EMBED_MODEL": "m",
        "EMBED_DIMENSIONS": "8",
    }


@pytest.fixture
def run(
    database: str,
    api: LoopbackServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> InProcess:
    """Commands with all settings right: what a test gives is what is wrong."""
    api.faults.clear()
    return InProcess(tmp_path, _environ(database, api), monkeypatch, capsys)


RUN = ("run", "--table", "documents")
BOTH = pytest.mark.parametrize("command", ["plan", "run"])


# ---------------------------------------------------------------------------------------------------- database


@BOTH
def test_no_connection_string(still: InProcess, command: str) -> None:
    still(command, "--table", "documents", DATABASE_URL="").refused(2, "DATABASE_URL is not set", ".env")


@BOTH
def test_no_database_there(still: InProcess, command: str) -> None:
    result = still(command, "--table", "documents", DATABASE_URL="postgresql://me:hunter2@127.0.0.1:1/x")
    result.refused(3, "127.0.0.1:1", "Is the server running")
    assert "hunter2" not in result.err


def test_no_such_database(still: InProcess) -> None:
    dsn = still.environ["DATABASE_URL"].replace("bad_input", "nosuch")
    still("plan", "--table", "documents", DATABASE_URL=dsn).refused(3, "does not exist", "DATABASE_URL")


def test_not_a_connection_string(still: InProcess) -> None:
    still("plan", "--table", "documents", DATABASE_URL="nonsense").refused(
        3, "not a connection string", "postgresql://"
    )


@pytest.fixture(scope="module")
def password_server() -> Iterator[EmbeddedServer]:
    """A server that asks for passwords."""
    folder = Path(tempfile.mkdtemp(prefix="embedtui-test-"))
    with EmbeddedServer(folder / "pg", tcp=True, settings={"fsync": "off"}) as running:
        execute(running.dsn(), "CREATE ROLE guest LOGIN PASSWORD 'right'")
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def test_wrong_password(still: InProcess, password_server: EmbeddedServer) -> None:
    dsn = password_server.tcp_dsn("postgres", "guest", "hunter2")
    result = still("plan", "--table", "documents", DATABASE_URL=dsn)
    result.refused(3, "refused the user or password", "DATABASE_URL")
    assert "hunter2" not in result.err
    debug = still("plan", "--table", "documents", DATABASE_URL=dsn, EMBEDTUI_DEBUG="1")
    assert "Traceback" in debug.err and "hunter2" not in debug.err


@BOTH
def test_no_pgvector(still: InProcess, empty_database: str, command: str) -> None:
    execute(empty_database, "DROP EXTENSION IF EXISTS vector CASCADE; CREATE TABLE documents (id int, content text)")
    result = still(command, "--table", "documents", DATABASE_URL=empty_database)
    result.refused(3, "pgvector is not in database", "CREATE EXTENSION vector")
    assert traces(empty_database) == []


# ------------------------------------------------------------------------------------------------------- table


@BOTH
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--table", "documnets"), 'no table "documnets"; did you mean documents?'),
        (("--table", "documents", "--schema", "app"), 'no table "app.documents"; did you mean documents?'),
        (("--table", "documents", "--content", "contents"), 'no column "contents" in documents; did you mean content?'),
        (("--table", "documents", "--column", "embeding"), 'no column "embeding" in documents; did you mean embedding'),
        (("--table", "documents", "--column", "content"), "content of documents is text, not a vector"),
        (("--table", "documents", "--key", "content"), "content is not a unique key over NOT NULL columns"),
        (("--table", "nokey"), "nokey has no unique key over NOT NULL columns. Add one"),
        (("--table", "documents", "--placement", "colum"), 'placement = "colum" (--placement)'),
        ((), "No table is set"),
    ],
)
def test_a_wrong_table_column_or_key(still: InProcess, command: str, flags: tuple[str, ...], said: str) -> None:
    still(command, *flags).refused(2, said)


def test_an_ambiguous_table_without_a_terminal(run: InProcess) -> None:
    execute(run.environ["DATABASE_URL"], DOCUMENTS + "CREATE TABLE other (LIKE documents INCLUDING ALL)")
    run("init").refused(2, "2 tables have vector columns", "documents", "other", "--table")
    assert not (run.folder / "embedtui.toml").exists()


def test_a_table_dropped_under_the_settings(run: InProcess) -> None:
    dsn = run.environ["DATABASE_URL"]
    execute(dsn, DOCUMENTS)
    assert run("init", "--table", "documents").code == 0
    execute(dsn, "DROP TABLE documents")
    run("run").refused(2, 'no table "public.documents"')


# ------------------------------------------------------------------------------------------------------ rights


def test_no_permission(run: InProcess) -> None:
    dsn = run.environ["DATABASE_URL"]
    name = dsn.partition("?")[0].rpartition("/")[2]
    execute(dsn, DOCUMENTS + f"CREATE ROLE worker_{name} LOGIN")
    try:
        theirs = dsn.replace("postgres@", f"worker_{name}@")
        run(*RUN, DATABASE_URL=theirs).refused(3, f"Role worker_{name} may not read documents", "GRANT SELECT")
        execute(dsn, f"GRANT SELECT ON documents TO worker_{name}")
        run(*RUN, DATABASE_URL=theirs).refused(3, f"Role worker_{name} may not", "GRANT")
        planned = run("plan", "--table", "documents", "--json", DATABASE_URL=theirs)
        assert planned.code == 5 and planned.json["ready"] is False
        assert "rights" in [check["name"] for check in planned.json["checks"] if check["result"] == "fail"]
        assert traces(dsn) == []
    finally:
        execute(dsn, f"DROP OWNED BY worker_{name}; DROP ROLE worker_{name}")
    assert run(*RUN).code == 0


# ---------------------------------------------------------------------------------------------------- provider


def test_no_key(still: InProcess) -> None:
    still(*RUN, OPENAI_API_KEY="").refused(4, "OPENAI_API_KEY is not set", ".env")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"OPENAI_API_KEY": "sk-not-the-right-one"}, "key"),
        ({"EMBED_MODEL": "no-such-model"}, "no-such-model"),
        ({"EMBED_DIMENSIONS": "9"}, "dimensions"),
    ],
)
def test_a_wrong_key_model_or_size_is_mended_by_a_rerun(run: InProcess, wrong: dict[str, str], said: str) -> None:
    dsn = run.environ["DATABASE_URL"]
    execute(dsn, DOCUMENTS)
    result = run(*RUN, **wrong)
    result.refused(4, said)
    assert "sk-not-the-right-one" not in result.err
    assert traces(dsn) == []
    again = run(*RUN, "--json")
    assert again.code == 0, again
    assert again.json["backfill"]["rows"] == 60
    assert rows(dsn, "SELECT count(embedding_v2), min(vector_dims(embedding_v2)) FROM documents") == [(60, 8)]


def test_no_model(still: InProcess) -> None:
    still(*RUN, EMBED_MODEL="").refused(2, "The new model is not set", "EMBED_MODEL")
    still(*RUN, EMBED_DIMENSIONS="").refused(2, "dimensions of m are not known", "EMBED_DIMENSIONS")
    still(*RUN, EMBED_DIMENSIONS="many").refused(2, 'new_model.dimensions = "many" (EMBED_DIMENSIONS)')


def test_wrong_old_dimensions(still: InProcess) -> None:
    still(*RUN, "--old-dimensions", "5").refused(2, "old_model.dimensions = 5 (--old-dimensions)", "vectors of 4")


# -------------------------------------------------------------------------------------------------------- rows


def test_an_empty_table(run: InProcess) -> None:
    execute(run.environ["DATABASE_URL"], DOCUMENTS + "TRUNCATE documents")
    assert "documents is empty" in run("plan", "--table", "documents").out
    assert run(*RUN).code == 0
    verified = run("verify", "--json")
    assert (verified.code, verified.json["rows"], verified.json["clean"]) == (0, 0, True)


def test_null_and_blank_texts_are_counted_and_left_alone(run: InProcess) -> None:
    dsn = run.environ["DATABASE_URL"]
    blank = r"CASE id % 3 WHEN 0 THEN NULL WHEN 1 THEN E' \n\t ' ELSE '' END"
    execute(dsn, DOCUMENTS + f"UPDATE documents SET content = {blank} WHERE id <= 9")
    assert run("plan", "--table", "documents", "--json").json["empty_rows"] == 9
    assert run(*RUN).code == 0
    verified = run("verify", "--json")
    assert verified.code == 0, verified
    assert (verified.json["rows"], verified.json["empty"], verified.json["embedded"]) == (60, 9, 51)
    assert rows(dsn, "SELECT count(*) FROM documents WHERE embedding_v2 IS NULL") == [(9,)]


def test_a_quoted_mixed_case_name_with_a_space(run: InProcess) -> None:
    dsn = run.environ["DATABASE_URL"]
    execute(
        dsn,
        """
        CREATE SCHEMA "The App";
        CREATE TABLE "The App"."My Docs" ("Doc Id" uuid PRIMARY KEY DEFAULT gen_random_uuid(), "The Text" text,
            "Old Vector" vector(4));
        INSERT INTO "The App"."My Docs" ("The Text", "Old Vector")
            SELECT 'Document ' || i, '[1,2,3,4]' FROM generate_series(1, 30) i;
        """,
    )
    run("plan", "--table", "My Docs").refused(2, 'did you mean "The App"."My Docs"?')
    made = run("init", "--table", '"The App"."My Docs"', "--json")
    assert made.code == 0, made
    assert made.json["content"] == ["The Text"]
    finished = run("run", "--json")
    assert finished.code == 0, finished
    assert (finished.json["backfill"]["rows"], finished.json["index"]["valid"]) == (30, True)
    assert run("verify").code == 0
    flipped = run("cutover", "--yes", "--override", "gate=test", "--json")
    assert (flipped.code, flipped.json["active"]) == (0, "new"), flipped
    back = run("rollback", "--json")
    assert (back.code, back.json["active"]) == (0, "old")
    run("cutover", "--yes", "--override", "gate=test")
    assert run("cleanup", "--table", "My Docs", "--override", "soak=test").code == 0
    assert rows(dsn, 'SELECT count(*), min(vector_dims("Old Vector")) FROM "The App"."My Docs"') == [(30, 8)]
    assert traces(dsn) == ["schema embedtui"]


# ------------------------------------------------------------------------------------------------- odd commands


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("runn",), "No such command 'runn'"),
        (("run", "--untill", "5"), "--untill"),
        (("run", "--until", "101"), "--until"),
        (("run", "--until", "half"), "half"),
        (("cutover", "--percent", "500"), "--percent"),
        (("faults", "retry"), "Which faults to retry is not said"),
        (("faults", "mend"), "mend"),
        (("compare", "--queries", "none.txt"), "none.txt"),
        (("compare", "--html", "nowhere/report.html"), "no folder nowhere"),
        (("--config", "x.toml", "status"), "Write the options after status"),
        (("status", "--config", "none.toml"), "No settings file none.toml"),
    ],
)
def test_a_wrong_command_line(still: InProcess, arguments: tuple[str, ...], said: str) -> None:
    still(*arguments).refused(2, said)


def test_a_name_that_nothing_has(still: InProcess) -> None:
    still("status", "--name", "nobody").refused(6, "No migration called nobody")


def test_the_dashboard_without_a_terminal(still: InProcess) -> None:
    still().refused(2, "needs a terminal", "embedtui status")


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare",), ("verify",), ("cutover", "--yes"), ("rollback",), ("pause",), ("resume",), ("pace",), ("faults",),
        ("cleanup", "--table", "documents"), ("abort", "--table", "documents"), ("faults", "retry", "--all"),
        ("decide", "1", "new"), ("queries", "--forget", "1"), ("pace", "--spend-cap", "1"),
    ],
)  # fmt: skip
def test_nothing_to_act_on(still: InProcess, arguments: tuple[str, ...]) -> None:
    still(*arguments).refused(6, "embedtui run")


def test_control_characters_from_the_database_never_reach_the_terminal(run: InProcess) -> None:
    dsn = run.environ["DATABASE_URL"]
    execute(
        dsn,
        'CREATE TABLE "e\x1b[31mvil\u202e" (id int PRIMARY KEY, content text, "v\x1b]0;x\x07" vector(4));'
        "INSERT INTO \"e\x1b[31mvil\u202e\" VALUES (1, E'\\x1b[2J[/] text', '[1,2,3,4]')",
    )
    for command in ("init --content content", "plan", "run", "status", "verify", "compare", "log"):
        result = run(*command.split())
        assert result.code in (0, 5), result
        for text in (result.out, result.err):
            assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text, (command, text)
