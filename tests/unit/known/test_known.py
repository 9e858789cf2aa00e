"""What is public about providers and models: each figure has a source and a date, and a date is told as what it is."""

from __future__ import annotations

from datetime import date

import pytest

from embedtui.config import ModelSettings
from embedtui.known import KNOWN_MODELS, PRICES_CHECKED, PROVIDERS, RETIREMENTS, SIZES_CHECKED, retirement


def test_every_figure_says_where_it_is_from_and_when_that_was_read() -> None:
    for name, known in KNOWN_MODELS.items():
        assert known.provider in PROVIDERS, name
        assert known.price_per_million is None or "." in known.price_from, name
        assert known.dimensions_from == "unchecked" or "." in known.dimensions_from, name
    assert date.fromisoformat(PRICES_CHECKED) and date.fromisoformat(SIZES_CHECKED)
    for name, manners in PROVIDERS.items():
        assert manners.source == "unchecked" or ("." in manners.source and date.fromisoformat(manners.checked)), name
    for end in RETIREMENTS:
        assert end.provider in PROVIDERS and "." in end.source and end.checked.year >= 2026, end.model
    assert len({(end.provider, end.model) for end in RETIREMENTS}) == len(RETIREMENTS)


@pytest.mark.parametrize(
    ("provider", "model", "today", "said", "past", "near"),
    [
        ("gemini", "text-embedding-004", date(2026, 1, 13), "will be shut down on 2026-01-14", False, True),
        ("gemini", "text-embedding-004", date(2026, 1, 14), "was shut down on 2026-01-14", True, True),
        ("gemini", "models/text-embedding-004", date(2027, 1, 1), "was shut down on 2026-01-14", True, True),
        ("azure", "text-embedding-3-large", date(2026, 1, 1), "may be shut down from 2027-04-15 on", False, False),
        ("azure", "text-embedding-3-large", date(2026, 6, 1), "may be shut down from 2027-04-15 on", False, True),
        ("gemini", "gemini-embedding-001", date(2029, 1, 1), "may be shut down from 2028-05-14 on", False, True),
    ],
)
def test_a_shutdown_is_told_by_its_day(
    provider: str, model: str, today: date, said: str, past: bool, near: bool
) -> None:
    end = retirement(provider, model)
    assert end is not None
    assert end.said(today).endswith(said)
    assert (end.past(today), end.near(today)) == (past, near)


def test_a_model_of_that_name_elsewhere_is_not_shut_down() -> None:
    assert retirement("openai", "text-embedding-004") is None
    given = ModelSettings("text-embedding-004", provider="litellm", base_url="http://h/v1")
    assert not given.complete("new").retired
    assert ModelSettings("text-embedding-004").complete("old").retired


def test_elsewhere_a_models_price_and_limits_are_not_its_own_providers() -> None:
    own = ModelSettings("text-embedding-3-large").complete("new")
    there = ModelSettings("text-embedding-3-large", provider="bedrock", base_url="http://h").complete("new")
    assert (own.price_per_million, own.max_inputs, own.send_dimensions) == (0.13, 2048, True)
    assert (there.price_per_million, there.max_inputs, there.key_variable) == (None, 96, "BEDROCK_API_KEY")
    assert there.send_dimensions is False
    shorter = ModelSettings("text-embedding-3-large", 768, "bedrock", "http://h").complete("new")
    assert shorter.send_dimensions, "or it would answer with 3,072"
    titan = ModelSettings("amazon.titan-embed-text-v2:0", provider="bedrock", base_url="http://h").complete("new")
    assert titan.max_inputs == 1, "the gateway refuses a list of two"


def test_prices_agree_with_a_kept_list_where_that_is_installed() -> None:
    prices = pytest.importorskip("genai_prices")
    lacking = set()
    for name, known in KNOWN_MODELS.items():
        if known.price_per_million is None:
            continue
        try:
            there = {"gemini": "google", "voyage": "voyageai", "bedrock": "aws"}.get(known.provider, known.provider)
            found = prices.calc_price(prices.Usage(input_tokens=1_000_000), model_ref=name, provider_id=there)
        except LookupError:
            lacking.add(name)
        else:
            assert float(found.total_price) == pytest.approx(known.price_per_million), name
    assert all(name.startswith(("embed-", "cohere.embed-")) and "v3" in name for name in lacking)
