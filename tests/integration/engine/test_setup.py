"""Set-up proposes what `init` writes, and refuses what `init` refuses, in the same words."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from embedtui.cli.setup import configure
from embedtui.config import SPECS, Settings, load_settings
from embedtui.engine.setup import Setup
from embedtui.errors import EmbedtuiError
from tests.kits.cli_kit import InProcess

RECORDED = Path(__file__).parents[2] / "frameworks" / "tables"
TABLES = {
    "one text": "id int PRIMARY KEY, body text, v vector(3)",
    "two texts": "id int PRIMARY KEY, title text, body text, v vector(3)",
    "no text": "id int PRIMARY KEY, payload jsonb, v vector(3)",
    "no key": "body text, v vector(3)",
    "two vectors": "id int PRIMARY KEY, body text, v vector(3), w vector(3)",
    "identifiers": "id int PRIMARY KEY, document_id text, v vector(3)",
}


def both(database: str, folder: Path, **values: str) -> tuple[Settings | EmbedtuiError, Settings | EmbedtuiError]:
    """What `init` and the dialogs make of the same words: the file as it reads back, or the refusal."""
    found: list[Settings | EmbedtuiError] = []
    for name in ("init", "screen"):
        here = folder / name
        here.mkdir()
        flags = values if name == "init" else {}
        try:
            settings = load_settings(flags, environ={"DATABASE_URL": database}, cwd=here)
            if name == "init":
                configure(settings, here / "embedtui.toml", ask=False)
            else:
                setup = Setup(settings, here / "embedtui.toml")
                proposal = setup.look(values, whole=True)
                if proposal.refused is not None:
                    with pytest.raises(EmbedtuiError):
                        setup.write(values)
                    raise proposal.refused
                setup.write(values)
        except EmbedtuiError as error:
            assert not (here / "embedtui.toml").exists()
            found.append(error)
        else:
            found.append(load_settings(environ={}, cwd=here))
    return found[0], found[1]


def same(one: Settings | EmbedtuiError, other: Settings | EmbedtuiError) -> None:
    if isinstance(one, Settings) and isinstance(other, Settings):
        for spec in SPECS:
            assert one.value(spec.path) == other.value(spec.path), spec.path
    else:
        assert isinstance(one, EmbedtuiError), one
        assert isinstance(other, EmbedtuiError), other
        assert without_origin(one) == without_origin(other)


def without_origin(error: EmbedtuiError) -> str:
    """What it says, but for where the setting stands and that its value is repeated."""
    text = re.sub(r"( = \S+)? ?\((\w+, )?(embedtui\.toml|--[\w-]+)\)", "", f"{error.message} {error.hint}")
    return re.sub(r", (embedtui\.toml|--[\w-]+)\)", ")", text).strip()


@pytest.mark.parametrize("columns", TABLES.values(), ids=TABLES)
def test_a_table_is_proposed_or_refused_as_by_init(database: str, tmp_path: Path, columns: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"CREATE TABLE t ({columns})")  # type: ignore[arg-type]
        if "document_id" in columns:
            conn.execute("INSERT INTO t SELECT i, 'doc-' || i, '[1,2,3]' FROM generate_series(1, 50) i")
    model = {"new_model.name": "m", "new_model.dimensions": "16"}
    same(*both(database, tmp_path, table="t", **model))


@pytest.mark.parametrize(
    "values",
    [
        {"content": "title, body", "scope": "id > 0"},
        {"content_sql": "title || body"},
        {"content": "nothing"},
        {"content": "body", "scope": "no_column = 1"},
        {"content": "body", "old_column": "body"},
        {"content": "body", "new_model.dimensions": "20000"},
        {"content": "body", "placement": "beside"},
    ],
    ids=lambda values: ", ".join(f"{name} {value}" for name, value in values.items()),
)
def test_what_is_said_is_taken_or_refused_as_by_init(database: str, tmp_path: Path, values: dict[str, str]) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"CREATE TABLE t ({TABLES['two texts']})")  # type: ignore[arg-type]
    wanted = {"table": "t", "new_model.name": "m", "new_model.dimensions": "16", **values}
    same(*both(database, tmp_path, **wanted))


@pytest.mark.parametrize("name", ["langchain_pgvector", "spring_ai"])
def test_a_frameworks_table_is_proposed_with_what_it_embeds(database: str, tmp_path: Path, name: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute((RECORDED / f"{name}.sql").read_text())  # type: ignore[arg-type]
    settings = load_settings(environ={"DATABASE_URL": database}, cwd=tmp_path)
    setup = Setup(settings, tmp_path / "embedtui.toml")
    (table,) = setup.tables()
    assert table.made_by
    found = setup.look({"table": table.name, "old_column": table.column}, whole=False)
    assert found.refused is None
    assert found.texts
    assert any(check.name == "framework" for check in found.checks)
    assert found.values["content"] or found.values["content_sql"]


def test_what_was_chosen_before_is_kept_and_what_is_emptied_goes(database: str, tmp_path: Path) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"CREATE TABLE t ({TABLES['two texts']})")  # type: ignore[arg-type]
    path = tmp_path / "embedtui.toml"
    path.write_text('# kept\ncontent = ["title"]\n[new_model]\nname = "m"\ndimensions = 16\n[pacing]\nspend_cap = 5\n')
    setup = Setup(load_settings(environ={"DATABASE_URL": database}, cwd=tmp_path), path)
    first = setup.look({"table": "t", "old_column": "v"}, whole=True)
    assert (first.values["content"], first.values["new_model.name"]) == ("title", "m")
    setup.write({"table": "t", "old_column": "v", "content": "", "content_sql": "title || body"})
    written = load_settings(environ={}, cwd=tmp_path)
    assert (written.content, written.content_sql, written.pacing.spend_cap) == ((), "title || body", 5)
    assert path.read_text().startswith("# kept\n")


@pytest.mark.parametrize(("variable", "said"), [("OPENAI_BASE_URL", True), ("", False)])
def test_an_endpoint_that_is_not_written_is_said(
    database: str,
    tmp_path: Path,
    variable: str,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the dialogs and by `init`, in the same words; where another provider's model is chosen there is nothing."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"CREATE TABLE docs ({TABLES['one text']})")  # type: ignore[arg-type]
    words = "endpoint from OPENAI_BASE_URL; not written to the file: every process of this migration needs it in its"
    environ = {"DATABASE_URL": database, **({variable: "http://127.0.0.1:9/v1"} if variable else {})}
    chosen = {"table": "docs", "new_model.name": "text-embedding-3-small", "new_model.dimensions": "3"}
    setup = Setup(load_settings(environ=environ, cwd=tmp_path), tmp_path / "embedtui.toml")
    assert (words in setup.look(chosen, whole=True).left_out) is said
    assert not setup.look({**chosen, "new_model.name": "gemini-embedding-001"}, whole=True).left_out
    shell = InProcess(tmp_path, environ, monkeypatch, capsys)
    made = shell("init", "--table", "docs", "--new-model", "text-embedding-3-small", "--dimensions", "3")
    assert made.code == 0 and (words in made.out) is said, made
    assert "127.0.0.1:9" not in "".join(
        line for line in (tmp_path / "embedtui.toml").read_text().splitlines() if not line.startswith("#")
    )


def test_the_columns_to_choose_from_are_those_that_the_refusal_counts(database: str, tmp_path: Path) -> None:
    """A key's are none of them, unless there are no others."""
    for name, columns, choices in (
        ("keyed", "tenant text, id int, title text, body text, v vector(3), PRIMARY KEY (tenant, id)", "title, body"),
        ("all_key", "a text, b text, v vector(3), PRIMARY KEY (a, b)", "a, b"),
    ):
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(f"CREATE TABLE {name} ({columns})")  # type: ignore[arg-type]
        settings = load_settings({}, environ={"DATABASE_URL": database}, cwd=tmp_path)
        found = Setup(settings, tmp_path / "embedtui.toml").look({"table": name, "new_model.name": "m"}, whole=True)
        assert found.refused is not None and f"2 text columns: {choices}." in found.refused.message
        assert ", ".join(found.text_columns) == choices
