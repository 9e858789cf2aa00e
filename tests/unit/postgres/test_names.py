"""Names as people write them and as SQL needs them."""

from __future__ import annotations

import pytest

from embedtui.model import TableName
from embedtui.postgres.names import parse_name, shown


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("documents", (("documents", False),)),
        ("app.docs", (("app", False), ("docs", False))),
        ('"My Docs"', (("My Docs", True),)),
        ('app."My ""Docs"""', (("app", False), ('My "Docs"', True))),
        ('"a.b".c', (("a.b", True), ("c", False))),
        ("a b", (("a b", False),)),
        ('"open', ()),
        ("", ()),
    ],
)
def test_parse_name(name: str, parts: tuple[tuple[str, bool], ...]) -> None:
    assert parse_name(name) == parts


def test_shown_quotes_only_what_needs_it() -> None:
    assert shown(TableName("public", "documents")) == "documents"
    assert shown(TableName("app", 'My "Docs')) == 'app."My ""Docs"'
