"""Vectors that are padded with zeros to their column's size: seen, and taken over where a framework does that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection, sql

from embedtui.config import Settings
from embedtui.engine.plan.presets.preset import Preset
from embedtui.known import KNOWN_MODELS
from embedtui.model import Check, Migration
from embedtui.postgres.catalog.facts import TableFacts
from embedtui.postgres.catalog.vectors import filled_size
from embedtui.postgres.names import shown_column


def padded(
    conn: Connection[Any],
    facts: TableFacts,
    settings: Settings,
    preset: Preset | None,
    column: str,
    size: int | None,
    scope: sql.Composable | None,
) -> Settings:
    """The settings with both models' ``pad_to``, where the framework pads and they give fewer than ``size`` numbers."""
    if preset is None or not preset.pads or size is None:
        return settings
    values: dict[str, object] = {}
    for side in ("old_model", "new_model"):
        model = getattr(settings, side)
        known = KNOWN_MODELS.get(model.name or "")
        given = model.dimensions or (known.dimensions if known is not None else None)
        if side == "old_model" and given is None and model.name is not None:
            given = filled_size(conn, facts, column, scope)
        if model.name is not None and given is not None and given < size and not settings.says(f"{side}.pad_to"):
            values |= {f"{side}.pad_to": size, f"{side}.dimensions": given}
    return settings.with_values(values, preset.name)


def padding_checks(
    conn: Connection[Any], facts: TableFacts, migration: Migration, size: int, scope: sql.Composable | None
) -> Iterator[Check]:
    """Whether the old vectors end in zeros, and what the new ones do; ``size``: of the old ones."""
    old, new = migration.old_model.shape, migration.new_model.shape
    column = shown_column(migration.old_column)
    filled = filled_size(conn, facts, migration.old_column, scope)
    if filled is not None and filled < size and old.given == size:
        yield Check(
            "padding",
            "warn",
            f"Vectors of {column} are zero after the first {filled:,} of {size:,} numbers: somebody pads what their"
            " model gives.",
            f"If so: old_model.dimensions = {filled}, old_model.pad_to = {size}; and new_model.pad_to = {size}, where"
            " the application goes on padding.",
        )
    if new.given < new.size:
        yield Check(
            "padding",
            "pass",
            f"{migration.new_model.name} gives {new.given:,} numbers; zeros make {new.size:,} of them in the column and"
            " in each query, which changes no distance.",
        )
