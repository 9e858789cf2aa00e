"""Commands that README and docs name within a sentence: there are such. Blocks are run by the gate."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from embedtui.cli.main import cli
from embedtui.demo.environment import DATABASE, SHUTDOWN_DATABASE

ROOT = Path(__file__).parents[2]
CODE, COMMAND = re.compile(r"`([^`\n]+)`"), re.compile(r"(?:.*[ /])?embedtui (.+)")


def commands(text: str) -> list[str]:
    """What follows ``embedtui`` in code within sentences."""
    return [found[1] for code in CODE.findall(text) if (found := COMMAND.fullmatch(code))]


def wrong(said: str) -> str:
    """What is wrong with ``embedtui`` and these words; empty where nothing is."""
    words = [word for word in said.split() if re.match(r"-{0,2}[a-z]", word)]
    command: click.Command = cli
    if words and not words[0].startswith("-"):
        found = cli.commands.get(words.pop(0))
        if found is None:
            return "no such command"
        command = found
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help", "--version"}
    if command is cli and any(word in cli.commands for word in words):
        return "the command's options come after it"
    return next((f"no option {word}" for word in words if word[:1] == "-" and word.partition("=")[0] not in known), "")


def test_the_second_terminal_of_the_dead_demo_finds_its_database_and_settings() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in (DATABASE, SHUTDOWN_DATABASE):
        assert f"{name}.toml" in readme
    assert f"the database is `{SHUTDOWN_DATABASE}`" in readme


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.stem
)
def test_every_command_named_is_one(path: Path) -> None:
    said = commands(path.read_text("utf-8"))
    assert [each for each in ((text, wrong(text)) for text in said) if each[1]] == []


def test_what_is_none_is_found() -> None:
    (said,) = commands('as `X="a b" .venv/bin/embedtui --config "$HOME/x" status` does, `a` b embedtui has `c`')
    assert said == '--config "$HOME/x" status'
    assert all(map(wrong, (said, "stauts", "run --til 5"))) and not wrong("run --until 5")
