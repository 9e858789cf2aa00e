"""Statements on embedtui's own tables stand in postgres/state, a module per table; the engine calls them by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import embedtui.engine

ENGINE = Path(embedtui.engine.__file__).parent
STATEMENT = re.compile(r"\b(?:FROM|INTO|UPDATE|JOIN)\s+embedtui\.\w++(?!\()")
"""A function is what an application calls, as in the lines that are shown to copy."""
LOCK = re.compile(r"\bpg_(?:try_)?advisory_\w*lock|locktype = 'advisory'")
NOT_THERE_YET = ("engine.py", "cutover/", "cleanup/", "validate/gate.py")
ROOMS = [
    name
    for name in sorted(str(path.relative_to(ENGINE)) for path in ENGINE.rglob("*.py"))
    if not name.startswith(NOT_THERE_YET)
]


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_of_the_engine_holds_no_statement_on_our_tables_and_no_lock(name: str) -> None:
    text = (ENGINE / name).read_text()
    assert STATEMENT.findall(text) == []
    assert LOCK.findall(text) == []


def test_an_upgrade_reads_no_table_for_a_constraint() -> None:
    """It would hold up every statement of the application that change capture is on; 4 and 7 are applied already."""
    scripts = sorted((ENGINE.parent / "postgres/state").glob("0*.sql"))
    for script in scripts[7:]:
        for constraint in re.findall(r"ADD (?:CONSTRAINT|CHECK)[^;]*;", script.read_text()):
            assert "NOT VALID" in constraint, f"{script.name}: {constraint}"
