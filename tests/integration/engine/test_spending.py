"""What a migration takes of its models: every token that the API counts is in one part of one total."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from embedtui.cli.work import _status_lines
from embedtui.demo.api import LoopbackServer
from embedtui.engine import Engine
from embedtui.model import QueryInput
from embedtui.postgres.state import schema
from embedtui.providers.start import TEXTS
from tests.integration.engine.test_proof import MODELS, articles, settings_of
from tests.kits.cli_kit import execute
from tests.kits.downgrade import back_to
from tests.kits.support import connect

ROWS = 60


@pytest.fixture
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS, log_texts=10_000) as running:
        yield running


@pytest.mark.parametrize("price", [10.0, None])
def test_every_token_is_in_one_part(database: str, api: LoopbackServer, price: float | None) -> None:
    articles(database, ROWS)
    prices = {"new_model__price_per_million": 20.0}
    if price is not None:
        prices["old_model__price_per_million"] = price
    with closing(Engine(database, settings=settings_of(api, **prices))) as engine:
        engine.run(threading.Event())
        parts = {part.what: part for part in engine.snapshot().backfill.parts}
        assert set(parts) == {"new model", "proof"}, "the old model was asked before the first run"
        engine.compare([QueryInput("what is said of the first"), QueryInput("and of the last")])
        engine.search_both("typed just now")
        engine.verify(sample=10)
        engine.cutover(override={"gate": "test"})
        execute(database, "UPDATE articles SET body = 'another one' WHERE no = 1")
        engine.run(threading.Event())
        found = engine.snapshot()
    status = found.backfill
    parts = {part.what: part for part in status.parts}
    assert list(parts) == ["new model", "old side", "questions and checks", "proof"]
    of_checks = sum(api.count_tokens(text) for text in api.texts if text in TEXTS)
    assert sum(part.tokens for part in status.parts) == api.tokens - of_checks
    old = parts["old side"].tokens + parts["proof"].tokens
    assert (parts["proof"].money is None) == (price is None)
    assert parts["questions and checks"].money, "the new model's have a price"
    assert status.spent is not None and status.spent_in_all is not None and status.spent_in_all > status.spent
    if price is None:
        assert status.unpriced == old + parts["questions and checks"].unpriced > old
    else:
        assert status.unpriced == 0
        assert sum(part.money or 0 for part in status.parts) == pytest.approx(status.spent_in_all)
    said = "\n".join(_status_lines(found))
    assert "in all, a cap counts the new model alone: new model $0.0" in said
    assert (f"proof price unknown, {parts['proof'].tokens:,} tokens" in said) == (price is None)


def test_a_role_that_counted_before_an_upgrade_counts_what_came_with_it(database: str) -> None:
    with connect(database) as conn:
        schema.install(conn)
        back_to(conn, 8)
        conn.execute("CREATE ROLE spending_worker")
        try:
            conn.execute("GRANT UPDATE (old_tokens) ON embedtui.migration TO spending_worker")
            schema.install(conn)
            granted = conn.execute(
                "SELECT has_column_privilege('spending_worker', 'embedtui.migration', name, 'UPDATE')"
                " FROM unnest(ARRAY['asked_new', 'asked_old', 'proof_tokens']) AS name"
            ).fetchall()
            assert granted == [(True,)] * 3
        finally:
            conn.execute("DROP OWNED BY spending_worker")
            conn.execute("DROP ROLE spending_worker")
