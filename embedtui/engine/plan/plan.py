"""The plan: what a migration would do, find and cost, found out without changing anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from psycopg import Connection

from embedtui.config import Settings
from embedtui.engine.cutover.how import how_check
from embedtui.engine.local_settings import as_set_here
from embedtui.engine.plan.batch import batch_check, batch_offer
from embedtui.engine.plan.checks import endpoint_check, provider_check, standing_checks, text_checks
from embedtui.engine.plan.draft import resolve
from embedtui.engine.plan.estimates import estimate_cost, estimate_seconds, estimate_texts, estimate_tokens
from embedtui.engine.plan.existing import settings_of_live_migration
from embedtui.engine.plan.load import load_checks
from embedtui.engine.plan.placement import choose_placement
from embedtui.engine.plan.proof import proof_check
from embedtui.engine.plan.statements import plan_statements
from embedtui.model import EmbeddingModel, Migration, Phase, Plan
from embedtui.postgres.state import migrations as state
from embedtui.providers import shown_endpoint
from embedtui.providers.patience import Asking


def make_plan(
    conn: Connection[Any], settings: Settings, *, check_provider: bool = False, asking: Asking | None = None
) -> Plan:
    """What a migration by these settings would do. Reads only; no request unless ``check_provider``.

    Settings that name no table mean the migration under way, where there is one.

    Args:
        conn: connection of a role that may read the table.
        settings: what is asked for.
        check_provider: ask the new model for one vector, and the old one, where it answers, for those of some rows.

        asking: who waits meanwhile.

    Raises:
        Interrupted: who waits was told to stop.
        TableError, SettingsError, DatabaseError: see :func:`resolve`; no plan without a table, a key and two models.
    """
    if settings.table is None:
        settings = settings_of_live_migration(conn, settings)
    draft = resolve(conn, settings)
    placement, why = choose_placement(draft, settings)
    migration = draft.migration(placement)
    live = state.load_migration(conn, migration.name)
    migration = _numbered(live, migration, settings)
    estimate = estimate_texts(conn, migration, draft)
    tokens = estimate_tokens(migration, estimate)
    answer = provider_check(settings, migration, check_provider, asking)
    checks = [
        *standing_checks(conn, draft, migration, settings),
        how_check(conn, migration, planned=True),
        *load_checks(conn, draft, migration, estimate),
        *text_checks(conn, draft, migration, estimate),
        endpoint_check(settings, migration),
        *answer.checks(draft, settings),
    ]
    wrong = any(check.result == "fail" for check in checks)
    if check_provider and migration.new_model.batch:
        checks.append(batch_check(migration, settings))
    proof = proof_check(conn, migration, settings, check_provider and not wrong, asking)
    checks.append(proof.check)
    return Plan(
        table=migration.table,
        rows=estimate.rows,
        empty_rows=estimate.empty,
        estimated_tokens=tokens,
        estimated_cost=estimate_cost(migration, tokens),
        estimated_seconds=estimate_seconds(settings, answer.limits, migration, estimate, tokens),
        placement=placement,
        placement_why=why,
        checks=tuple(checks),
        statements=plan_statements(conn, migration, settings),
        proof_tokens=proof.tokens,
        proof_cost=migration.old_model.cost(proof.tokens),
        batch=batch_offer(migration, estimate.rows - estimate.empty, tokens),
        old_model=_called(migration.old_model),
        new_model=_called(migration.new_model),
        endpoint=shown_endpoint(migration.new_model, settings.environ),
        another=live is not None and live.phase is Phase.DONE,
    )


def _called(model: EmbeddingModel) -> str:
    return f"{model.called} ({model.dimensions:,} dimensions)"


def _numbered(live: Migration | None, migration: Migration, settings: Settings) -> Migration:
    """The migration with the id it has, or would get next, since the names of triggers carry it."""
    if live is not None and not live.phase.ended and live.table_oid == migration.table_oid:
        unusable = as_set_here(live, settings, settings.environ).new_model.unusable
        return replace(migration, id=live.id, new_model=replace(migration.new_model, unusable=unusable))
    return replace(migration, id=(live.id if live else 0) + 1)
