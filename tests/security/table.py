"""Writes the tables of ``docs/security.md`` from the data that the tests run: ``python -m tests.security.table``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from embedtui.postgres.state.privileges import RIGHTS, Role
from tests.security.attempts import ACTIONS, ATTEMPTS, DENIED

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
_BY_CODE = {DENIED: "no right", "23514": "a constraint", "55000": "the view takes no writes"}


def rights() -> Iterator[str]:
    """What each role may do in schema embedtui."""
    yield "| role | may | on |"
    yield "|---|---|---|"
    for role in RIGHTS:
        reads = [f"`{right.relation}`" for right in RIGHTS[role] if right.privilege == "SELECT" and not right.columns]
        yield f"| {role} | SELECT | {', '.join(reads)} |"
        for right in RIGHTS[role]:
            if right.privilege != "SELECT" or right.columns:
                columns = f" ({', '.join(right.columns)})" if right.columns else ""
                yield f"| {role} | {right.privilege} | `{right.relation}`{columns} |"


def attempts() -> Iterator[str]:
    """What each role tries in vain."""
    yield "| role | kind | tries to | refused by |"
    yield "|---|---|---|---|"
    for role in Role:
        mine = sorted((each for each in ATTEMPTS if each.role is role), key=lambda each: (each.kind, each.state))
        for (kind, state), group in groupby(mine, key=lambda each: (each.kind, each.state)):
            yield f"| {role} | {kind} | {'; '.join(each.what for each in group)} | {_BY_CODE[state]} |"


def actions() -> Iterator[str]:
    """What the program refuses, whatever the database lets happen."""
    yield "| who | tries to | test |"
    yield "|---|---|---|"
    for who, what, test in ACTIONS:
        yield f"| {who} | {what} | `{test}` |"


def updated(page: str) -> str:
    """The page with its tables as they are now."""
    for name, lines in (("rights", rights()), ("attempts", attempts()), ("actions", actions())):
        text = "\n".join(lines)
        marked = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        assert re.search(marked, page, re.DOTALL), name
        page = re.sub(marked, lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL)
    return page


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
