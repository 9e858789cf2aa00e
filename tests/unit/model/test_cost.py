"""What tokens cost: known only where the price of each of them is."""

from __future__ import annotations

import pytest

from embedtui.model import EmbeddingModel


@pytest.mark.parametrize(
    ("price", "batch_price", "tokens", "batch", "cost"),
    [
        (2.0, None, 3_000_000, 0, 6.0),
        (2.0, None, 3_000_000, 1_000_000, 5.0),  # half the price where none is said
        (2.0, 0.5, 3_000_000, 2_000_000, 3.0),
        (0.0, None, 3_000_000, 1_000_000, 0.0),
        (None, None, 3_000_000, 0, None),
        (None, None, 0, 0, None),
        (None, 0.5, 3_000_000, 2_000_000, None),
        (None, 0.5, 2_000_000, 2_000_000, 1.0),
    ],
)
def test_cost(price: float | None, batch_price: float | None, tokens: int, batch: int, cost: float | None) -> None:
    model = EmbeddingModel("any", 8, price_per_million=price, batch_price=batch_price)
    assert model.cost(tokens, batch=batch) == cost
