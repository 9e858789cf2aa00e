"""Values that are no texts, and those that are."""

from __future__ import annotations

import hashlib
import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedtui.engine.plan.contents import looks_like


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([str(uuid.UUID(int=n * 7919)) for n in range(9)], "UUIDs"),
        ([uuid.UUID(int=n * 7919 << 60).hex.upper() for n in range(9)], "UUIDs"),
        (["{" + str(uuid.UUID(int=n)) + "}" for n in range(9)], "UUIDs"),
        ([hashlib.sha256(b"%d" % n).hexdigest() for n in range(9)], "digests"),
        (["sha1:" + hashlib.sha1(b"%d" % n).hexdigest() for n in range(9)], "digests"),
        ([str(n * 31) for n in range(9)], "numbers"),
        ([f"2024-01-0{n} 10:00" for n in range(9)], "numbers"),
        ([f"https://example.org/a/{n}?x=1" for n in range(9)], "addresses"),
        ([f"s3://bucket/{n}.pdf" for n in range(9)], "addresses"),
        ([f"someone{n}@example.org" for n in range(9)], "addresses"),
        ([f"/srv/files/report {n}.pdf" for n in range(9)], "paths"),
        ([f"docs\\part\\{n}.md" for n in range(9)], "paths"),
        ([f"annual report {n}.docx" for n in range(9)], "paths"),
        ([f"Archive 2024/final version {n}.pdf" for n in range(9)], "paths"),
        ([f"C:\\My Files\\{n}" for n in range(9)], "paths"),
        ([f"team/wiki/{n}" for n in range(9)], "paths"),
        ([f"how-to-tie-knot-{n}" for n in range(9)], "identifiers"),
        ([f"DOC:{n:05}" for n in range(9)], "identifiers"),
        (["support faq", "blog", "wiki pages"] * 30, "labels that repeat"),
        (["en"] * 60, "labels that repeat"),
    ],
)
def test_what_stands_for_a_text_elsewhere(values: list[str], kind: str) -> None:
    assert looks_like("source", values) == kind
    assert looks_like("source", [*values * 20, "one odd text among them"]) == kind


@pytest.mark.parametrize("name", ["source", "content"])
@pytest.mark.parametrize(
    "values",
    [
        ["How do I reset my password?", "See https://example.org for more."],
        ["東京都は日本の首都です。", "これは本です"],
        ["naïveté", "Straße"],
        ["apple", "pear", "a plum"],
        ["", "  "],
        ["either/or is a choice", "This one is a sentence."],
        ["and/or is a word", "24/7 support is included", "Input/output error", "he/she said so"],
        ["[red]1[/] boo [@click=app.quit]x[/]", "<b>bold</b> text", "1/2 cup of flour"],
    ],
)
def test_texts_are_texts(name: str, values: list[str]) -> None:
    assert looks_like(name, values) is None


def test_a_column_named_as_a_text_may_repeat_but_no_reference() -> None:
    assert looks_like("chunk_text", ["hello there"] * 100) is None
    assert looks_like("content", ["doc-1", "doc-2"]) is None
    assert looks_like("document_id", ["doc-1", "doc-2"]) == "identifiers"
    assert looks_like("content", [str(uuid.UUID(int=n * 7919)) for n in range(9)]) == "UUIDs"


@given(st.lists(st.lists(st.text(string.ascii_lowercase, min_size=2), min_size=5, max_size=9), min_size=1, max_size=40))
def test_no_sentence_is_an_identifier(sentences: list[list[str]]) -> None:
    assert looks_like("body", [" ".join(words) for words in sentences]) is None
