"""Files of batch jobs: lines cut whatever the pieces, and no line that can hurt."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedtui.model import EmbeddingModel
from embedtui.providers.batches import batch_line, cut_lines, parse_line

MODEL = EmbeddingModel("m", 4, document_prefix="passage: ")
LINES = st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=8)


@given(LINES, st.lists(st.integers(1, 7), min_size=1, max_size=9))
def test_lines_are_the_same_whatever_the_pieces(lines: list[bytes], sizes: list[int]) -> None:
    text = b"".join(line + b"\n" for line in lines)
    pieces = []
    at = number = 0
    while at < len(text):
        size = sizes[number % len(sizes)]
        pieces.append(text[at : at + size])
        at, number = at + size, number + 1
    assert list(cut_lines(pieces, 1000)) == lines


@given(st.integers(0, 200), st.integers(1, 50))
def test_a_line_that_is_too_long_takes_no_memory_and_no_other_line_with_it(long: int, most: int) -> None:
    pieces = [b"a\n", b"x" * long, b"y" * long, b"\nb\n"]
    first, middle, last = cut_lines(pieces, most)
    assert (first, last) == (b"a", b"b")
    assert middle == (b"x" * long + b"y" * long if 2 * long <= most else b"")


def test_a_line_asks_as_the_live_endpoint_is_asked() -> None:
    line = json.loads(batch_line("t", 7, MODEL, ['a "quoted"\n text', "\u4e2d"]))
    assert (line["custom_id"], line["method"], line["url"]) == ("t-7", "POST", "/v1/embeddings")
    assert line["body"]["input"] == ['passage: a "quoted"\n text', "passage: \u4e2d"]
    assert line["body"] == {**line["body"], "model": "m", "dimensions": 4, "encoding_format": "base64"}
    body = json.loads(batch_line("t", 0, replace(MODEL, provider="voyage"), ["a"]))["body"]
    assert (body["input_type"], body["output_dimension"]) == ("document", 4), "and with its provider's manners"


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "custom_id": JSON | st.just("t-3"),
            "response": JSON | st.fixed_dictionaries({}, optional={"status_code": JSON, "body": JSON}),
            "error": JSON | st.fixed_dictionaries({}, optional={"code": JSON}),
        },
    )
    | JSON
)
def test_whatever_a_line_holds_it_is_understood_or_left_out(found: Any) -> None:
    line = parse_line(json.dumps(found).encode(), "t")
    if line is not None:
        assert isinstance(found, dict)
        assert line.number == 3
        assert line.payload is None or isinstance(line.payload, dict)


@given(st.binary(max_size=60))
def test_a_line_of_any_bytes_is_left_out(line: bytes) -> None:
    assert parse_line(line, "t") is None


@pytest.mark.parametrize(
    ("response", "error", "answered"),
    [
        ({"status_code": 400, "body": {}}, None, True),
        ({"status_code": 500, "body": {}}, None, False),
        ({"status_code": 429, "body": {}}, None, False),
        (None, {"code": "batch_expired"}, False),
        (None, {"code": "batch_cancelled"}, False),
        (None, {"code": "content_filter"}, True),
        (None, None, False),
    ],
)
def test_a_line_without_an_answer_is_asked_again_and_a_refused_one_is_not(
    response: Any, error: Any, answered: bool
) -> None:
    line = parse_line(json.dumps({"custom_id": "t-0", "response": response, "error": error}).encode(), "t")
    assert line is not None
    assert (line.payload, line.answered) == (None, answered)
