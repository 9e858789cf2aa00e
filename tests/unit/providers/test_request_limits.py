"""What a refusal's words say of the limits of a request, and what they do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedtui.providers.request_limits import told_limits


@pytest.mark.parametrize(
    ("message", "sent", "told"),
    [
        ("* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch", 512, (100, None)),
        ("batch size 512 > maximum allowed batch size 24", 512, (24, None)),
        ("invalid request: total number of texts must be at most 96 - received 512", 512, (96, None)),
        ("Too many inputs. The max number of inputs is 16.", 40, (16, None)),
        ("Invalid 'input': array too long. Expected a maximum length of 2,048, but got 3000.", 3000, (2048, None)),
        ("batch size is invalid, it should not be larger than 10.: input.contents", 25, (10, None)),
        ("The input list exceeds the limit of 128 items", 512, (128, None)),
        ("List should have at most 64 items after validation, not 512", 512, (64, None)),
        ("Requested 310000 tokens, max 300000 tokens per request", 512, (None, 300_000)),
        ("The max allowed tokens per submitted batch is 120000. Your batch has 261120 tokens", 512, (None, 120_000)),
        ("This model's maximum context length is 8192 tokens, however you requested 9001 tokens", 40, (None, None)),
        ("`inputs` must have less than 512 tokens. Given: 992", 40, (None, None)),
        ("Bad Request", 40, (None, None)),
        ("Too many inputs: 40", 40, (None, None)),
        ("at most 2048 inputs", 40, (None, None)),
        ("model-7 failed at 12:30", 40, (None, None)),
    ],
)
def test_limits_in_many_words(message: str, sent: int, told: tuple[int | None, int | None]) -> None:
    assert told_limits(message, sent) == told


@given(st.text(max_size=200), st.integers(2, 5000))
def test_whatever_is_said_a_limit_is_less_than_what_was_sent(message: str, sent: int) -> None:
    inputs, tokens = told_limits(message, sent)
    assert inputs is None or 1 <= inputs < sent
    assert tokens is None or tokens > sent
