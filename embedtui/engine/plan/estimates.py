"""Rows, tokens, price and time of a migration, estimated before it begins."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Connection

from embedtui.config import CHARACTERS_PER_TOKEN, Settings
from embedtui.engine.plan.draft import Draft
from embedtui.errors import SettingsError
from embedtui.model import Migration
from embedtui.postgres.sides.texts import count_texts
from embedtui.providers import RateLimits

FULL_SCAN_BYTES = 64 * 2**20
"""A table up to this size is read as a whole for the estimate (a fraction of a second); of a bigger one, a sample."""

SAMPLE_ROWS = 20_000
"""Rows of that sample: the mean length of so many texts is known to about a percent."""


@dataclass(frozen=True, slots=True)
class TextEstimate:
    """Rows and their texts; from a sample where ``exact`` is false."""

    rows: int
    empty: int
    """Rows with nothing to embed."""
    bytes: int
    """UTF-8 bytes of the texts to embed."""
    long: int
    """Rows that are likely over the model's tokens per input."""
    exact: bool


def estimate_texts(conn: Connection[Any], migration: Migration, draft: Draft) -> TextEstimate:
    """Count rows and texts: all of a small table, a sample of the blocks of a bigger one.

    Raises:
        SettingsError: scope or content fails on a row.
    """
    facts = draft.facts
    tables = [facts] if draft.elsewhere is None else [facts, draft.elsewhere.facts]
    size = sum(each.total_bytes - sum(index.bytes for index in each.indexes) for each in tables)
    exact = size <= FULL_SCAN_BYTES or not facts.rows
    percent = None if exact else min(100.0, max(0.001, 100 * SAMPLE_ROWS / (facts.rows or 1)))
    long = int(migration.new_model.max_input_tokens * CHARACTERS_PER_TOKEN)
    try:
        read = count_texts(conn, migration, long, percent)
    except psycopg.DataError as error:
        given = [each.given for each in (migration.scope, migration.content) if each is not None]
        if not given:
            raise
        raise SettingsError(
            f"{' or '.join(given)} fails on a row of the table: {error.diag.message_primary}.",
            hint="It has to have a value for every row, also for those that are written later: CASE, nullif().",
        ) from None
    if migration.scope is not None and percent is not None:
        rows = round(read.rows * 100 / percent)
    else:
        rows = facts.rows or read.rows
    if exact or not read.rows:
        return TextEstimate(read.rows, read.empty, read.bytes, read.long, exact)
    factor = rows / read.rows
    return TextEstimate(rows, round(read.empty * factor), round(read.bytes * factor), round(read.long * factor), False)


def estimate_tokens(migration: Migration, estimate: TextEstimate) -> int:
    """Tokens of the texts with their prefixes, at four bytes each.

    Bytes and not characters: where a character takes three bytes (Chinese, Japanese), it is near to a token of its own.
    """
    prefix = len(migration.new_model.document_prefix.encode()) * (estimate.rows - estimate.empty)
    return math.ceil((estimate.bytes + prefix) / CHARACTERS_PER_TOKEN)


def estimate_cost(migration: Migration, tokens: int, *, batch: bool = False) -> float | None:
    """Money for so many tokens of the new model, live or in batch jobs; None where no price is known."""
    return migration.new_model.cost(tokens, batch=tokens if batch else 0)


def estimate_seconds(
    settings: Settings, limits: RateLimits | None, migration: Migration, estimate: TextEstimate, tokens: int
) -> float | None:
    """The time that the provider's quota imposes, in seconds; None where no quota is known.

    The quota is the smaller of the set and the told one. Requests are counted as full as the provider allows.
    """
    model, pacing = migration.new_model, settings.pacing
    told = limits or RateLimits()
    per_minute = [value for value in (pacing.tokens_per_minute, told.limit_tokens) if value]
    requests_per_minute = [value for value in (pacing.requests_per_minute, told.limit_requests) if value]
    rows = estimate.rows - estimate.empty
    requests = max(math.ceil(tokens / model.max_tokens), math.ceil(rows / model.max_inputs))
    minutes = [tokens / min(per_minute)] if per_minute else []
    minutes += [requests / min(requests_per_minute)] if requests_per_minute else []
    return max(minutes) * 60 if minutes else None
